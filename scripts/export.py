"""`sonofed export`: a finished run as a bundle that a hospital can run and check."""

from pathlib import Path
from typing import Annotated

import typer

from clients.reference import site_reference
from clients.site import open_site
from clients.site_list import read_sites
from common.bundle.ensemble import EnsembleConfig, Network
from common.bundle.reference import COHORT, Reference, SiteReference
from common.errors import InputError
from common.plugins import look_in
from scripts.live import say
from server.bundle import export as bundles
from server.checkpoint import RunFolder
from server.stages.reference import collected


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="New folder for the bundle.")],
    arm: Annotated[
        str,
        typer.Option(
            help="Which of the study's arms. Default: its first ensemble; where none segments, the "
            "first that selects and classifies."
        ),
    ] = "",
    budget: Annotated[
        float | None,
        typer.Option(help="Of classifiers: share of the pool annotated. Default: the largest."),
    ] = None,
    architecture: Annotated[
        list[str] | None,
        typer.Option(
            help="Of classifiers: which; repeatable, or 'all': their probabilities are averaged. "
            "Default: the study's first."
        ),
    ] = None,
    site: Annotated[
        str,
        typer.Option(help="Whose members, where sites have their own. Default: all, fused."),
    ] = "",
    license_file: Annotated[
        Path | None,
        typer.Option("--license", help="Your consortium's licence. Default: the software's."),
    ] = None,
    reference: Annotated[
        bool,
        typer.Option(
            help="Aggregate statistics of the training images, by which `predict` flags a frame "
            "unlike them: as the sites gave them (evaluate.reference), else taken here where their "
            "images lie here."
        ),
    ] = True,
    parts: Annotated[
        Path, typer.Option(help="Folder of the study's own code, where it has any.")
    ] = Path(),
) -> None:
    """Write a MONAI Bundle: configs, weights (safetensors, PyTorch, ONNX), model card, digests.

    A run that chose images for annotation gives a bundle that classifies. A smoke run is refused.
    `sonofed predict` runs it, and so does `python -m monai.bundle run`.
    """
    look_in(parts)
    opened = bundles.open_run(run)
    config, ensemble = bundles.assemble(
        opened, arm, site, budget=budget, architectures=architecture or ()
    )
    found = reference_of(opened, ensemble, config) if reference else None
    digest = bundles.export(
        opened, config, ensemble, out, reference=found, license_file=license_file,
        step=lambda words: say(f"writing {words}"),
    )  # fmt: skip
    say(f"{out}: {_what(config)}, digest {digest}")
    if config.calibration != "none":
        say(f"calibration {config.calibration}: see {out / 'docs/README.md'}")


def _what(config: EnsembleConfig) -> str:
    if config.task == "segmentation":
        return f"{config.arm} of {config.study}, {len(config.members)} members"
    names = ", ".join(member.architecture for member in config.members)
    return f"{config.arm} of {config.study} at {100 * config.budget:g} %, {names}"


def reference_of(
    run: bundles.Run, ensemble: Network, config: EnsembleConfig | None = None
) -> Reference | None:
    """The sites' aggregates: as they gave them in the study, else where their images lie here.

    Says which site gives none, and why.
    """
    members = {member.name: member.sha256 for member in config.members} if config else {}
    given = collected(RunFolder(run.folder), members)
    if given is not None:
        say(f"reference statistics as the sites gave them: {', '.join(given.sites)}")
        return given
    listed = run.folder / "sites" / "sites.json"
    if not listed.exists():
        say("no site's images are here: the bundle carries no reference statistics")
        return None
    study = run.study.for_sites()
    sites: dict[str, SiteReference] = {}
    for site in read_sites(listed):
        try:
            found = site_reference(open_site(site, study), ensemble)
        except InputError as error:
            say(f"{site.name}: no reference statistics: {error.problems[0]}")
            continue
        if found is None:
            say(f"{site.name}: no reference statistics: fewer than {COHORT} patients to train on")
            continue
        sites[site.name] = found
    return Reference(sites=sites) if sites else None
