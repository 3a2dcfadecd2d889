"""`sonofed audit prove`: the reviewer's experiment, on one machine, in minutes."""

import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from common.errors import InputError
from scripts.audit.experiment import Experiment
from scripts.audit.proof import Proof
from scripts.audit.proof_page import write_page
from scripts.live import say

REPORT, DATA = "report.html", "report.json"


def prove(
    quick: Annotated[
        bool, typer.Option("--quick", help="Two hospitals, every stage once: a few minutes.")
    ] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the report goes.")] = Path(
        "audit"
    ),
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep all that was recorded in DIR/work, to look at.")
    ] = False,
) -> None:
    """Prove on this machine that images do not leave, and that the proof could have failed.

    Makes hospitals whose images are noise and whose patients have names that nobody has; runs a
    whole study between them with everything that a consortium runs (SuperLink, nginx, gates,
    SuperNodes in empty networks), with every byte recorded behind the encryption and every
    connection of every process written down. Then searches the recording for the images and names
    in every form that it knows, and holds it against the hospitals' ledgers.

    Then come the tricks: code that cheats in all known ways. A gate must catch each, and past the
    gate the search must find what it carries.

    Exit code 1 if anything did not hold. What this machine cannot do (nginx, strace, network
    namespaces) is skipped by name.
    """
    if (out / "work").exists():
        raise InputError(f"{out / 'work'}: is there already; choose another --out, or take it away")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made: {error.strerror}") from None
    # Paths of Unix sockets and of nginx have to be short and plain; so the work is done here.
    work = Path(tempfile.mkdtemp(prefix="sonofed-audit-", dir=_short_place()))
    # A SIGTERM ends it as Ctrl-C does: nothing is left running, and nothing on the disk.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        proof = Experiment(work, Proof(quick)).run()
        proof.write(out / DATA)
        write_page(proof, out / REPORT)
    finally:
        if keep:
            shutil.move(work, out / "work")
        else:
            shutil.rmtree(work, ignore_errors=True)
    tell(proof)
    say(f"report: {out / REPORT}")
    if not proof.passed:
        raise typer.Exit(1)


def tell(proof: Proof) -> None:
    """Say each claim and whether it held."""
    for check in proof.checks:
        say(f"{check.state:>8}  {check.claim}")
        say(f"          {check.words}")
    skipped = len(proof.skipped)
    failed = sum(check.state == "FAILED" for check in proof.checks)
    held = len(proof.checks) - skipped - failed
    say(f"{held} hold, {failed} failed, {skipped} skipped")


def _short_place() -> str:
    """A folder with a short path where there is one."""
    temporary = Path(tempfile.gettempdir())
    return "/tmp" if len(str(temporary)) > 40 and Path("/tmp").is_dir() else str(temporary)
