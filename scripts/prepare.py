"""What has to be there before a study runs here: sound data, a run folder, room for both."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from clients.data.site import SiteData
from clients.phantom.write import generate
from clients.settings import SiteSettings
from clients.site import check_batches, training_rows
from clients.strategies.registry import check_strategy
from common.config.compare import differences, told
from common.config.data import DataSpec
from common.config.study import Phantom, Study
from common.errors import InputError
from common.estimate import payload
from common.own_parts import check_own_parts
from common.plan import Plan, make_plan
from common.selection.cut import budget_of
from scripts.live import Steps
from server.attendance import missing
from server.checkpoint import RunFolder

SPARE_BYTES = 200_000_000
"""Left free beside the run."""
PARTIAL = "study.json.partial"
PAIR = 2
"""Annotated images without which a site trains no classifier."""


class Stand(Enum):
    """What a run folder holds."""

    NEW = "nothing"
    BEGUN = "a run that has not finished"
    FINISHED = "a finished run"


def look_at(folder: Path, study: Study, resume: bool) -> Stand:
    """What the run folder holds of this study; nothing is written.

    A finished run whose figures lack a site has not finished for one who resumes it.

    Raises:
        InputError: If it holds anything else, or a run of this study and `resume` is not asked.
    """
    written = folder / "study.json"
    try:
        if not written.exists():
            if folder.exists() and (not folder.is_dir() or _others(folder)):
                raise InputError(f"{folder}: is not empty and holds no run; choose another --out")
            return Stand.NEW
        found = written.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from None
    if found != study.canonical():
        raise InputError(
            f"{folder}: holds a run of another study ({_difference(found, study)}); "
            "choose another --out"
        )
    if (folder / "results.json").exists() and not (resume and missing(RunFolder(folder))):
        return Stand.FINISHED
    if not resume:
        raise InputError(
            f"{folder}: holds a run of this study that has not finished; add --resume to go on "
            "with it, or choose another --out"
        )
    return Stand.BEGUN


def _others(folder: Path) -> list[Path]:
    """What lies in a folder, but for what `make_folder` leaves when it is killed."""
    return [path for path in folder.iterdir() if path.name != PARTIAL]


def make_folder(folder: Path, study: Study) -> None:
    """Make the run folder with its `study.json`.

    Raises:
        InputError: If that is not allowed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = folder / PARTIAL
        written.write_text(study.canonical(), encoding="utf-8")
        written.replace(folder / "study.json")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None


@contextmanager
def nothing_left_behind(beside: Path) -> Iterator[None]:
    """On an error, take away again what the block made in the runs' folder and nobody can use.

    Whole phantoms and whole image caches stay: they are right, and the next try needs them.
    """
    chain = (beside, *beside.parents)
    made = [place for place in chain if not place.exists()]
    cache = beside / "cache"
    had_cache = cache.exists()
    try:
        yield
    except BaseException:
        if not had_cache and cache.exists() and not any(cache.glob("*.npy")):
            shutil.rmtree(cache, ignore_errors=True)
        for place in made:
            if place.exists() and not any(place.iterdir()):
                place.rmdir()
        raise


def make_phantom(study: Study, beside: Path, steps: Steps) -> Path | None:
    """Make the study's synthetic sites once; equal settings share a folder."""
    if study.phantom is None:
        return None
    probes = sorted({site.probe for site in study.sites.values() if site.probe})
    if not probes:
        return None
    return phantom_folder(study.phantom, probes, beside, steps)


def phantom_folder(settings: Phantom, probes: list[str], beside: Path, steps: Steps) -> Path:
    """The folder with these probes' synthetic sites, drawn if it is not there yet."""
    key = settings.model_dump_json() + ",".join(probes)
    folder = beside / f"phantom-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    with steps.step(f"drawing the phantom, {len(probes)} probes") as progress:
        generate(
            folder,
            anatomy=settings.anatomy,
            probes=probes,
            patients=settings.patients,
            sweeps=settings.sweeps,
            frames=settings.frames,
            side=settings.side,
            seed=settings.seed,
            progress=progress,
        )
    return folder.resolve()


def site_settings(
    study: Study,
    folder: Path,
    cache: Path,
    data_root: Path,
    phantom_root: Path | None,
    data: Mapping[str, DataSpec] | None = None,
) -> list[SiteSettings]:
    """Each site's own settings.

    Args:
        study: The study.
        folder: The run folder (or where a site may write while its data are looked at).
        cache: Of decoded images.
        data_root: Folder that the sites' folders lie in.
        phantom_root: Folder of the phantom's probes.
        data: Data that stand in for a site's own (`--smoke`).
    """
    return [
        SiteSettings(
            name=name,
            role=site.role,
            data=(data or {}).get(name) or site.spec(),
            data_root=phantom_root if site.probe and phantom_root else data_root.resolve(),
            folder=(folder / "sites" / name).resolve(),
            cache=cache.resolve(),
            own_parts=study.own_parts,
            weights=_weights(study),
        )
        for name, site in study.sites.items()
    ]


def _weights(study: Study) -> dict[Literal["diffusion", "text", "lpips"], Path]:
    """Local folders with published weights; in a simulation they are the same for all sites."""
    named: dict[Literal["diffusion", "text", "lpips"], str] = {
        "diffusion": study.diffusion.weights,
        "text": study.diffusion.text_weights,
        "lpips": study.reconstruct.lpips_weights,
    }
    return {what: Path(path).resolve() for what, path in named.items() if path}


def check_weights(study: Study) -> None:
    """Published weights that a study names must be on this machine's disk.

    Raises:
        InputError: With every key whose file or folder is not there.
    """
    files = {
        f"source_classifier.weights.{name}": path
        for name, path in study.source_classifier.weights.items()
    }
    folders = {
        "diffusion.weights": study.diffusion.weights,
        "diffusion.text_weights": study.diffusion.text_weights,
        "reconstruct.lpips_weights": study.reconstruct.lpips_weights,
    }
    problems = [f"{key}: {path}: no such file" for key, path in files.items()
                if not Path(path).is_file()]  # fmt: skip
    problems += [f"{key}: {path}: no such folder" for key, path in folders.items()
                 if path and not Path(path).is_dir()]  # fmt: skip
    if problems and study.selection_arms:
        raise InputError(problems)


def check_parts(study: Study) -> None:
    """Hold somebody's own parts, their strategies too, to what they promise.

    Raises:
        InputError: With every part that is not there, or not what docs/extending.md says.
    """
    problems: list[str] = []
    own = [partial(check_strategy, arm) for arm in study.selection_arms if ":" in arm]
    for check in (partial(check_own_parts, study), *own):
        try:
            check()
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)


def check_sites(study: Study, sites: list[SiteSettings], steps: Steps) -> None:
    """Open every site's data before anything runs: manifests, images, masks, numbers.

    Masks of a target are read here on behalf of the evaluation, which alone will see them: a mask
    that does not fit must not stop a study at its end.

    Raises:
        InputError: With the problems of all sites at once.
    """
    problems: list[str] = []
    plan = make_plan(study)
    trainings = list(plan.trainings.values())
    pools: list[int] = []
    for site in sites:
        with steps.step(f"reading {site.name}") as progress:
            try:
                data = SiteData.open(
                    site,
                    side=study.model.image_size,
                    classes=study.classes,
                    split=study.split,
                    progress=progress,
                )
                problems += _problems_of(partial(check_batches, data, site, study, trainings))
                if site.role == "target":
                    pools.append(len(training_rows(data, "select")))
                masked = np.flatnonzero(data.has_mask)[:1]
                if len(masked) and not study.representation:
                    problems += _problems_of(partial(data.masks, masked, stage="evaluate"))
                if not len(data.split.test):
                    problems.append(f"site {site.name}: no test image; raise [split] test")
            except InputError as error:
                problems += error.problems
    if not problems:
        problems = [*_too_many_clusters(plan, sum(pools)), *_too_few_chosen(plan, pools)]
    if problems:
        raise InputError(list(dict.fromkeys(problems)))


def _too_many_clusters(plan: Plan, pool: int) -> Iterator[str]:
    """Numbers of clusters that the pooled images cannot fill, each once."""
    arms: dict[int, list[str]] = {}
    for selection in plan.selections.values():
        if selection.strategy == "dual" and selection.settings.clusters > pool:
            arms.setdefault(selection.settings.clusters, []).append(selection.arm)
    for clusters, wanting in arms.items():
        yield (
            f"score.clusters: {clusters} clusters ({', '.join(wanting)}) are more than the {pool} "
            "images to select from"
        )


def _too_few_chosen(plan: Plan, pools: Sequence[int]) -> Iterator[str]:
    """Budgets at which no site can get two images, which a step of training needs; each once.

    Where a site fills a quota of its own, that is known; else the best case is that all images of
    the budget lie at one site.
    """
    arms: dict[tuple[float, int], list[str]] = {}
    for selection in plan.selections.values():
        whole = selection.budget == "pooled"
        for budget in selection.budgets:
            most = budget_of(budget, sum(pools)) if whole else max(
                (budget_of(budget, pool) for pool in pools), default=0
            )  # fmt: skip
            if most < PAIR:
                arms.setdefault((budget, most), []).append(selection.arm)
    for (budget, most), wanting in arms.items():
        yield (
            f"select: a budget of {budget:g} of {sum(pools)} images ({', '.join(wanting)}) gives "
            f"no site more than {most}, and a classifier needs {PAIR} to train on; raise it"
        )


def check_unchanged(folder: Path, looked_at: list[SiteSettings]) -> None:
    """A run that goes on must find the sites' splits as they were.

    Raises:
        InputError: Naming each site whose images or split are others now.
    """
    problems = []
    for site in looked_at:
        before = folder / "sites" / site.name / "split.json"
        now = site.folder / "split.json"
        if before.exists() and json.loads(before.read_text()) != json.loads(now.read_text()):
            problems.append(
                f"site {site.name}: its images or their split are others than when this run began"
            )
    if problems:
        raise InputError([*problems, f"{folder}: choose another --out to begin anew"])


def check_disk(study: Study, plan: Plan, beside: Path) -> None:
    """Room for two states of every training and for the ensemble.

    Raises:
        InputError: Saying how much is needed and how much is free.
    """
    sizes = [payload(study, training, "float32") for training in plan.trainings.values()]
    needed = 2 * sum(sizes) + 2 * max(sizes, default=0) + SPARE_BYTES
    place = next(p for p in (beside.absolute(), *beside.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise InputError(
            f"{beside}: too little disk: the run needs {needed / 1e9:.1f} GB for its weights, "
            f"{free / 1e9:.1f} GB are free"
        )


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what sites write while their data are looked at."""
    with tempfile.TemporaryDirectory(prefix="sonofed-") as name:
        yield Path(name)


def _problems_of(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except InputError as error:
        return error.problems
    return []


def _difference(found: str, study: Study) -> str:
    """Up to three keys in which a run's study differs from this one."""
    try:
        keys = differences(json.loads(found), json.loads(study.canonical()))
    except (ValueError, AttributeError):
        return "its study.json is not readable"
    words = [f"{key} is {told(a):.60} there and {told(b):.60} here" for key, (a, b) in keys.items()]
    more = f"; {len(words) - 3} more keys" if len(words) > 3 else ""
    return "; ".join(words[:3]) + more
