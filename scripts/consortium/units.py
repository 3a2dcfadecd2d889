"""Files for machines that start by themselves: a systemd unit and a compose file for the center."""

import sys
from pathlib import Path

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
# The center in a container: docker compose up -d. The image holds this project and nginx.
services:
  consortium:
    image: sonofed:latest
    command: ["python", "-m", "scripts.consortium.keep", "/consortium"]
    init: true
    restart: unless-stopped
    read_only: true
    tmpfs: ["/tmp"]
    volumes: ["{folder}:/consortium"]
    # The front alone is reached from outside; SuperLink and its Control API stay inside.
    ports: ["{port}:{port}"]
"""


def unit(place: Place) -> str:
    """The systemd unit."""
    folder = place.root.absolute()
    python = Path(sys.executable)
    return UNIT.format(file=folder / "sonofed-consortium.service", folder=folder, python=python)


def compose(place: Place) -> str:
    """The compose file."""
    from server.consortium.register import read

    port = read(place).listen.rpartition(":")[2]
    return COMPOSE.format(folder=place.root.absolute(), port=port)
