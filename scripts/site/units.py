"""A systemd unit for a hospital's machine that starts by itself."""

import sys
from pathlib import Path

UNIT = """\
# cp {folder}/sonofed-site.service /etc/systemd/system/ && systemctl enable --now sonofed-site
[Unit]
Description=sonofed site: gate and SuperNode
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={python} -m scripts.cli site up --foreground --site {folder}/site.toml
WorkingDirectory={folder}
Restart=always
RestartSec=5
KillMode=mixed
TimeoutStopSec=60

[Install]
WantedBy=multi-user.target
"""


def unit(folder: Path) -> str:
    """The unit of a site that lies in `folder`."""
    return UNIT.format(folder=folder, python=sys.executable)
