"""`sonofed init`: asks for the manifests and writes a commented study."""

import csv
import json
import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from clients.data.manifest import MANIFEST
from clients.phantom.probes import PROBES
from common.config.load import load_study
from common.errors import InputError
from scripts.live import say

MANY = 12
"""More devices than this are not listed."""

PRESETS = {"tiny": 64, "small": 112, "r50-vit-b16": 224}
"""Networks and the side that suits each, pixels."""


@dataclass
class SiteAnswer:
    """One site as somebody described it."""

    name: str
    role: str
    folder: str = ""
    probe: str = ""
    device: str = ""


@dataclass
class Answers:
    """All that a study needs to be told."""

    name: str
    sites: list[SiteAnswer] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    preset: str = "tiny"
    upper: bool = True


def init(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="The study file to write.")] = Path(
        "study.toml"
    ),
    site: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:ROLE:FOLDER[:DEVICE]",
            help="A site, instead of being asked: role source or target; DEVICE filters its rows, "
            "such as 'GE Logiq 5*'. Repeatable.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The study's name. Default: the file's.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names of label-mask values 1.., commas between.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help=f"Network: {', '.join(PRESETS)}.")] = None,
    phantom: Annotated[
        bool, typer.Option(help="No data yet: one source and two targets of the phantom.")
    ] = False,
    data_root: Annotated[
        Path | None,
        typer.Option(envvar="SONOFED_DATA", help="Folder that the sites' folders lie in."),
    ] = None,
) -> None:
    """Write a study: which sites there are, where their manifests lie, what is compared.

    Asks what the options do not say. The file explains itself; it is checked before it is
    written, and never written over another.
    """
    if path.suffix != ".toml":
        raise InputError(f"{path}: a study file ends in .toml")
    if path.exists():
        raise InputError(f"{path}: is there already; name another file")
    root = data_root or Path("data")
    answers = Answers(name or re.sub(r"[^A-Za-z0-9_-]", "_", path.stem))
    if phantom:
        roles = ("source", "target", "target")
        answers.sites = [
            SiteAnswer(f"site_{probe}", role, probe=probe)
            for probe, role in zip(PROBES, roles, strict=False)
        ]
    elif site:
        answers.sites = [_parse(text) for text in site]
    else:
        answers.sites = _ask_sites(root)
    answers.classes = _classes(classes, asking=not (site or phantom))
    answers.preset = preset or ("tiny" if site or phantom else _ask_preset())
    if answers.preset not in PRESETS:
        raise InputError(f"--preset {answers.preset}: there are {', '.join(PRESETS)}")
    answers.upper = _targets_have_masks(answers.sites, root)
    text = render(answers)
    _check(text, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    at = "" if phantom or data_root is None else f" --data-root {data_root}"
    say(f"{path}: written")
    say(f"next: sonofed simulate {path}{at} --dry-run, then --smoke, then without either")


def render(answers: Answers) -> str:
    """The study file."""
    sides = PRESETS[answers.preset]
    synthetic = any(site.probe for site in answers.sites)
    arms = ["ensemble", "ensemble_adapted", "mim", "contrastive", "lower"]
    if answers.upper:
        arms.append("upper")
    lines = [
        f"# {answers.name}: written by `sonofed init`. `sonofed config show` lists every key.",
        f"name = {_quoted(answers.name)}",
        "seed = 0                      # sonofed sweep --seeds 0-4 runs several",
        "# What is compared; the first leads. ensemble: both branches, fused by confidence; lower:",
        "# the source alone; upper: trained on the targets' own masks, so they need to have some.",
        f"arms = [{', '.join(_quoted(arm) for arm in arms)}]",
    ]
    if answers.classes:
        names = ", ".join(_quoted(name) for name in answers.classes)
        lines.append(f"classes = [{names}]   # label masks: value 1 is the first, and so on")
    for site in answers.sites:
        what = "has masks and teaches" if site.role == "source" else "its masks, if any, only judge"
        lines += ["", f"[sites.{site.name}]", f'role = "{site.role}"               # {what}']
        if site.probe:
            lines.append(f'probe = "{site.probe}"')
        else:
            lines.append(
                f"folder = {_quoted(site.folder)}   # holds index.csv; relative to --data-root"
            )
        if site.device:
            lines.append(f"where = {{ device = {_quoted(site.device)} }}   # shell patterns")
    if synthetic:
        lines += [
            "",
            "[phantom]                     # synthetic images: they show that all of it runs",
            'anatomy = "wrist"',
            "patients = 24",
            "frames = 6",
            "side = 128",
        ]
    lines += [
        "",
        "[split]                       # by patient, else by group of near duplicates, else image",
        "val = 0.16",
        "test = 0.2",
        "",
        "[model]",
        f'preset = "{answers.preset}"   # tiny and small for two CPU cores; r50-vit-b16 for a GPU',
        f"image_size = {sides}   # a multiple of 16",
        "",
        "[mim]                         # generative branch, at the targets, without labels",
        "rounds = 2",
        "epochs = 8",
        "",
        "[contrastive]                 # contrastive branch; without video frames it is SimCLR",
        "rounds = 2",
        "epochs = 8",
        "learning_rate = 3e-4",
        "min_frame_gap = 15            # frames of a video nearer than this are no negatives",
        "",
        "[finetune]                    # at the source, with masks: both branches, lower, upper",
        "epochs = 20",
        "learning_rate = 1e-3",
        "",
        "[adapt]                       # the ensemble teaches itself on the targets' images",
        "rounds = 2",
        "epochs = 4",
        "",
        "[compute]",
        "batch = 16",
        "jobs = 1                      # sites at work at the same time",
        "threads = 1",
        "",
    ]
    return "\n".join(lines)


def _check(text: str, path: Path) -> None:
    """Load what would be written.

    Raises:
        InputError: With what is wrong with the answers, under the file's name.
    """
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / path.name
        trial.write_text(text, encoding="utf-8")
        try:
            load_study(trial)
        except InputError as error:
            raise InputError([p.replace(str(trial), str(path)) for p in error.problems]) from None


def _parse(text: str) -> SiteAnswer:
    """NAME:ROLE:FOLDER[:DEVICE]."""
    name, role, folder, device = (*text.split(":", 3), "", "", "", "")[:4]
    if not (name and role and folder):
        raise InputError(f"--site {text}: write it as NAME:ROLE:FOLDER or NAME:ROLE:FOLDER:DEVICE")
    return SiteAnswer(name, role, folder, device=device)


def _ask_sites(root: Path) -> list[SiteAnswer]:
    """Ask for site after site until there is a source and a target and nobody wants more."""
    say(f"Folders are looked for below {root} (--data-root).")
    sites: list[SiteAnswer] = []
    while True:
        folder = str(typer.prompt(f"Folder of site {len(sites) + 1} (it holds {MANIFEST})"))
        devices = _devices(root / folder)
        if devices is None:
            say(f"{root / folder / MANIFEST}: there is no such manifest; the study names it anyway")
        elif len(devices) > 1:
            listed = ", ".join(f"{d or 'unnamed'} ({n})" for d, n in devices.most_common(MANY))
            say(f"Devices: {listed}")
        default = re.sub(r"[^A-Za-z0-9_-]", "_", Path(folder).name)
        device = ""
        if devices and len(devices) > 1:
            device = str(typer.prompt("Only the device (pattern; empty: all)", default=""))
        name = str(typer.prompt("Name of the site", default=default))
        role = str(
            typer.prompt("Role, source (has masks, teaches) or target",
                         default="target" if sites else "source")
        )  # fmt: skip
        sites.append(SiteAnswer(name, role, folder, device=device))
        roles = {site.role for site in sites}
        if {"source", "target"} <= roles and not typer.confirm("Another site?", default=False):
            return sites


def _ask_preset() -> str:
    return str(typer.prompt(f"Network ({', '.join(PRESETS)})", default="tiny"))


def _classes(given: str | None, *, asking: bool) -> list[str]:
    text = given
    if text is None and asking:
        text = str(
            typer.prompt("Classes of label masks, commas between (empty: binary masks)", default="")
        )
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _targets_have_masks(sites: list[SiteAnswer], root: Path) -> bool:
    """Whether no target is known to have no mask; says which is."""
    without = [
        site.name
        for site in sites
        if site.role == "target" and site.folder and _masks(root / site.folder) == 0
    ]
    if without:
        say(f"{', '.join(without)}: no masks, so there is no arm `upper`")
    return not without


def _masks(folder: Path) -> int | None:
    """Rows with a mask in a manifest; None without a manifest."""
    rows = _rows(folder)
    return None if rows is None else sum(bool((row.get("mask") or "").strip()) for row in rows)


def _devices(folder: Path) -> Counter[str] | None:
    """Images by device in a manifest; None without one."""
    rows = _rows(folder)
    return None if rows is None else Counter((row.get("device") or "").strip() for row in rows)


def _rows(folder: Path) -> list[dict[str, str | None]] | None:
    try:
        with (folder / MANIFEST).open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's."""
    return json.dumps(text, ensure_ascii=False)
