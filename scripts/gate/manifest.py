"""`sonofed gate policy manifest`: every tensor and scalar that a study's messages may carry."""

from pathlib import Path
from typing import Annotated

import typer

from clients.exchanges import manifest_of
from clients.gate.manifest import digest, dump
from common.config.load import load_study
from common.own_parts import check_own_parts
from common.plugins import look_in
from scripts.live import say


def manifest(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: NAME.manifest.json.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the study; repeatable.")
    ] = None,
) -> None:
    """Write a study's manifest, and print the lines for the policy's [studies].

    The models are built without weights; no data are needed. Read the manifest before you let a
    policy name it: it is all that can cross.
    """
    look_in(study_file.parent)
    study = load_study(study_file, override or [])
    check_own_parts(study)
    found = manifest_of(study)
    path = out or Path(f"{study.name}.manifest.json")
    path.write_text(dump(found), encoding="utf-8")
    up = sum(len(exchange.up) for exchange in found.exchanges.values())
    scalars = {name for exchange in found.exchanges.values() for name in exchange.metrics}
    say(f"{path}: {len(found.exchanges)} messages, {up} tensors and {len(scalars)} scalars up")
    say("for the policy:")
    say(f"[studies.{study.name}]")
    say(f'manifest = "{path.name}"')
    say(f'sha256 = "{digest(found)}"')
    say(f'# digest = "{study.for_sites().digest}"   # this very study, and no other of its name')
