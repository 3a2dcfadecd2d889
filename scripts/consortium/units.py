"""Files for machines that start by themselves: a systemd unit, and those of a container."""

import json
import sys
from pathlib import Path

import common
from server.consortium.place import Place

UNIT = """\
# cp {file} /etc/systemd/system/ && systemctl enable --now sonofed-consortium
[Unit]
Description=sonofed consortium: SuperLink and front
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={python} -m scripts.consortium.keep {folder}
WorkingDirectory={folder}
Restart=always
RestartSec=5
KillMode=mixed
TimeoutStopSec=60
NoNewPrivileges=true
ProtectSystem=strict
ReadWritePaths={folder}
ProtectHome=read-only
PrivateTmp=true

[Install]
WantedBy=multi-user.target
"""
COMPOSE = """\
# The center in a container: docker compose up -d --build
# Not yet tried with docker itself: look at it before you rely on it.
# Commands run in there, and files they write land beside this one:
#   docker compose exec consortium sonofed consortium status
services:
  consortium:
    build:
      context: {checkout}
      dockerfile: {dockerfile}
    # The front listens on every address in there; what reaches it is said under ports.
    command:
      - python
      - -m
      - scripts.consortium.keep
      - /consortium
      - --listen=0.0.0.0:{port}
    environment: {{SONOFED_CONSORTIUM: /consortium, HOME: /tmp}}
    user: "{user}:{group}"
    working_dir: /consortium
    init: true
    stop_grace_period: 60s
    restart: unless-stopped
    read_only: true
    tmpfs: ["/tmp"]
    volumes: [{volume}]
    # The front alone is reached from outside; SuperLink and its Control API stay inside.
    ports: ["{published}:{port}"]
"""
DOCKERFILE = """\
# Built by compose.yaml, from the checkout that founded this consortium.
# Not yet tried with docker itself: look at it before you rely on it.
FROM python:{python}-slim
RUN apt-get update \\
    && apt-get install --yes --no-install-recommends nginx-light \\
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/sonofed
COPY . .
# Editable: `sonofed study` makes the hospitals' bundle from this source.
RUN pip install --no-cache-dir --constraint constraints.txt torch torchvision \\
    && pip install --no-cache-dir --constraint constraints.txt --editable .
"""
IGNORED = """\
# Of the checkout only what git would hold goes into the image: no data, no runs, no consortium.
*
!common
!clients
!server
!scripts
!configs
!pyproject.toml
!constraints.txt
!README.md
!LICENSE
**/__pycache__
"""


def unit(place: Place) -> str:
    """The systemd unit."""
    folder = place.root.absolute()
    python = Path(sys.executable)
    return UNIT.format(file=folder / "sonofed-consortium.service", folder=folder, python=python)


def container(place: Place) -> dict[str, str]:
    """What runs the center in a container: text of files in the consortium's folder, by name."""
    from server.consortium.register import read

    folder = place.root.absolute()
    host, _, port = read(place).listen.rpartition(":")
    owner = folder.stat()
    compose = COMPOSE.format(
        checkout=json.dumps(str(Path(common.__file__).resolve().parents[1])),
        dockerfile=json.dumps(str(folder / "Dockerfile")),
        volume=json.dumps(f"{folder}:/consortium"),
        # From outside it is reached where the register says, loopback until told otherwise.
        published=port if host in ("0.0.0.0", "[::]") else f"{host}:{port}",
        port=port,
        user=owner.st_uid,
        group=owner.st_gid,
    )
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {
        "compose.yaml": compose,
        "Dockerfile": DOCKERFILE.format(python=python),
        "Dockerfile.dockerignore": IGNORED,
    }
