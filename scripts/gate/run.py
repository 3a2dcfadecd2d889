"""`sonofed gate run`: the process that stands in a hospital's door."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from clients.gate.run import start as become_gate


def run(
    site: Annotated[
        Path,
        typer.Option("--site", metavar="SITE.toml", help="The site's file; configs/site.toml."),
    ],
    listen_fd: Annotated[
        int | None,
        typer.Option(
            "--listen-fd",
            metavar="N",
            help="Number of an inherited socket that listens, instead of `listen` in the file: the "
            "SuperNode's own empty network namespace has it.",
        ),
    ] = None,
) -> None:
    """Run the gate: the only door between this site's SuperNode and the network.

    It fetches instructions from the centre (mutual TLS, one address, no redirects, no proxy but
    the one in the file), judges each by the policy and the approved bundles, and hands down what
    may come in. It takes the SuperNode's replies apart tensor by tensor, judges them, writes a
    signed line into the ledger, and only then sends what passed, written anew. All else is
    refused; the centre learns a code and the number of a ledger line.

    Start it before the SuperNode, which connects to it in plain HTTP on this machine:

        flower-supernode --insecure --superlink 127.0.0.1:9701 ...

    Either may be stopped or killed and started again, in any order. A changed policy is read at
    the next start; an approval counts at once. Stop it with SIGTERM.

    Files in the gate's folder: ledger.jsonl (see `sonofed audit show`), ledger.key, spool, and the
    bundles that came (spool/bundles), which `sonofed gate approve` takes.
    """
    if "torch" not in sys.modules:
        become_gate(site, listen_fd)
        return
    command = [sys.executable, "-P", "-m", "clients.gate.run", "--site", str(site)]
    if listen_fd is not None:
        command += ["--listen-fd", str(listen_fd)]
        # Where it is none, the gate says so.
        with contextlib.suppress(OSError):
            os.set_inheritable(listen_fd, True)
    # This process has loaded the training's code; the gate must not.
    os.execv(sys.executable, command)


def main(arguments: list[str]) -> None:
    """The command alone: `scripts/cli.py` comes here before it loads everything else."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(run)
    app(arguments, prog_name="sonofed gate run")
