"""`sonofed gate approve`: look at a bundle of code, and sign that it may run at this site."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from difflib import unified_diff
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from clients.gate.approvals import (
    Change,
    changes,
    files_in,
    latest,
    listing,
    notes,
    read_bundle,
    what_is_missing,
)
from clients.gate.approvals import approve as sign
from common.errors import InputError
from scripts.foreign import tell, visible
from scripts.live import say

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
    diff: Annotated[
        bool, typer.Option(help="Show every line that is new, changed or gone.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without being asked.")] = False,
    note: Annotated[str, typer.Option(help="Whatever is to be remembered.")] = "",
) -> None:
    """Show what is in a bundle, against the one approved last, and sign that it may run here.

    The bundle is read, never run. Its SHA-256 is what a gate goes by: one byte changed is another
    bundle, and not approved.
    """
    for line in notes(folder):
        tell(f"note: {line}")
    bundle = read_bundle(bundle_file)
    sha256 = hashlib.sha256(bundle).hexdigest()
    inside = files_in(bundle, str(bundle_file))
    before = latest(folder)
    found = changes(files_in(before, "the bundle before") if before else {}, inside)
    tell(f"{bundle_file}: SHA-256 {sha256}, {len(inside)} files")
    show(found, against=before is not None, diff=diff)
    if source is not None:
        rebuild(source, bundle)
        tell(f"{source}: builds the same bundle, byte for byte")
    pinned = constraints or (source / "constraints.txt" if source else None)
    if constraints is None and pinned is not None and not pinned.exists():
        pinned = None
    held = read_bundle(pinned) if pinned else None
    standing = {found.sha256 for found in listing(folder) if not found.revoked}
    # Where the head file is missing, signing anew is what mends it.
    if sha256 in standing and not what_is_missing(folder):
        say("it is approved already")
        return
    if not yes:
        typer.confirm("May this code run at this site?", abort=True)
    sign(folder, bundle, rebuilt=source is not None, constraints=held, note=note)
    tell(f"approved, signed in {folder / 'approvals.jsonl'}")


def show(found: list[Change], *, against: bool, diff: bool) -> None:
    """Say what a bundle holds, or how it differs from the one before.

    Args:
        found: Its files.
        against: Whether there is one before.
        diff: Show every line that is new, changed or gone; nothing is left out.
    """
    for change in found:
        size = len(change.after) or len(change.before)
        if against and change.what != "same":
            tell(f"  {change.what:8}{change.name} ({size:,} bytes)")
        elif not against:
            tell(f"  {change.name} ({size:,} bytes)")
        if diff:
            for line in lines_of(change):
                tell(f"    {line}")
    if against:
        same = sum(change.what == "same" for change in found)
        say(f"  {same} files are those of the bundle approved last")


def lines_of(change: Change) -> Iterator[str]:
    """The lines of a file that differ from the one before, as in a patch.

    All of a new file is added, all of one that is gone is removed. Lines end at a line feed alone,
    so that no other character hides that something was changed.
    """
    if change.what == "same":
        return
    old, new = (_lines(text) for text in texts_of(change))
    for line in islice(unified_diff(old, new, lineterm="", n=2), 2, None):
        yield line.removesuffix("\n")
        if not line.startswith("@") and not line.endswith("\n"):
            yield "\\ no line feed at its end"


def _lines(text: str) -> list[str]:
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])


def texts_of(change: Change) -> tuple[str, str]:
    """What a file held and holds, as text in which every difference of bytes is one.

    UTF-8, and where it is none a letter for each byte.
    """
    for coding in ("utf-8", "latin-1"):
        with suppress(UnicodeDecodeError):
            return change.before.decode(coding), change.after.decode(coding)
    raise AssertionError("latin-1 reads any bytes")


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
    where = "only its packing is"
    if differing:
        where = f"{visible(differing[0].name)} is {differing[0].what}"
    raise InputError(f"{source}: builds another bundle: {where} ({len(differing)} files differ)")
