"""`sonofed gate approve`: look at a bundle of code, and sign that it may run at this site."""

import difflib
import hashlib
from pathlib import Path
from typing import Annotated

import typer

from clients.gate.approvals import Change, approved, changes, files_in, latest, read_bundle
from clients.gate.approvals import approve as sign
from common.errors import InputError
from scripts.live import say

SHOWN = 400
"""Lines of a file's changes that are shown."""

Folder = Annotated[
    Path, typer.Option(metavar="DIR", help="The gate's folder: its key, ledger and approvals.")
]


def approve(
    bundle_file: Annotated[Path, typer.Argument(metavar="BUNDLE.fab", help="The code.")],
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKOUT", help="Build the bundle again from here; it must come out the same."
        ),
    ] = None,
    constraints: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File that pins the libraries. Default: the checkout's."),
    ] = None,
    folder: Folder = Path("gate"),
    diff: Annotated[bool, typer.Option(help="Show what has changed line by line.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without being asked.")] = False,
    note: Annotated[str, typer.Option(help="Whatever is to be remembered.")] = "",
) -> None:
    """Show what is in a bundle, against the one approved last, and sign that it may run here.

    The bundle is read, never run. Its SHA-256 is what a gate goes by: one byte changed is another
    bundle, and not approved.
    """
    bundle = read_bundle(bundle_file)
    sha256 = hashlib.sha256(bundle).hexdigest()
    inside = files_in(bundle, str(bundle_file))
    before = latest(folder)
    found = changes(files_in(before, "the bundle before") if before else {}, inside)
    say(f"{bundle_file}: SHA-256 {sha256}, {len(inside)} files")
    show(found, against=before is not None, diff=diff)
    if source is not None:
        rebuild(source, bundle)
        say(f"{source}: builds the same bundle, byte for byte")
    pinned = constraints or (source / "constraints.txt" if source else None)
    if constraints is None and pinned is not None and not pinned.exists():
        pinned = None
    held = read_bundle(pinned) if pinned else None
    if sha256 in approved(folder):
        say("it is approved already")
        return
    if not yes:
        typer.confirm("May this code run at this site?", abort=True)
    sign(folder, bundle, rebuilt=source is not None, constraints=held, note=note)
    say(f"approved, signed in {folder / 'approvals.jsonl'}")


def show(found: list[Change], *, against: bool, diff: bool) -> None:
    """Say what a bundle holds, or how it differs from the one before."""
    for change in found:
        size = len(change.after) or len(change.before)
        if against and change.what != "same":
            say(f"  {change.what:8}{change.name} ({size:,} bytes)")
        elif not against:
            say(f"  {change.name} ({size:,} bytes)")
        if against and diff and change.what == "changed":
            old, new = (
                part.decode("utf-8", errors="replace").splitlines()
                for part in (change.before, change.after)
            )
            for line in list(difflib.unified_diff(old, new, lineterm="", n=2))[2 : SHOWN + 2]:
                say(f"    {line}")
    if against:
        same = sum(change.what == "same" for change in found)
        say(f"  {same} files are those of the bundle approved last")


def rebuild(source: Path, bundle: bytes) -> None:
    """Build the bundle from a checkout; it must be the same.

    Raises:
        InputError: Naming the first file that differs.
    """
    from flwr.cli.build import build_fab_from_disk

    try:
        again = build_fab_from_disk(source)
    except Exception as error:
        raise InputError(f"{source}: no bundle can be built there ({error})") from None
    if again == bundle:
        return
    differing = [
        change
        for change in changes(files_in(again, str(source)), files_in(bundle, "the bundle"))
        if change.what != "same"
    ]
    where = f"{differing[0].name} is {differing[0].what}" if differing else "only its packing is"
    raise InputError(f"{source}: builds another bundle: {where} ({len(differing)} files differ)")
