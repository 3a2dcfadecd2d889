"""Equal trainings are trained once: a finished one in a sibling run is linked into a new run.

Two trainings are equal if everything that their weights depend on is equal: settings, model,
participants, their pixels, masks and splits, seed, federation, wire, compute, the trainings they
start from, the code, the libraries and the processor. All of that goes into one SHA-256, the
training's identity, which stands beside its folder (`state/<arm>/<stage>.identity.json`).
The key is part of it, since every random draw is seeded by it.

Only trainings that finished, in which every site answered every round, are taken. With the
weights come the record (and so the traffic), its events, the sites' own epochs and, where they
are kept there, the sites' BatchNorms. What a run shows and what its results say is then what it
would have said had it trained.
"""

import hashlib
import importlib.util
import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clients.data.site import SiteData
from clients.settings import SiteSettings
from clients.site import open_site
from common.code import code_digest
from common.config.stages import Finetune
from common.config.study import Study
from common.models.branches import SELECTION_STAGES
from common.plan import Plan, Training
from server.checkpoint import RunFolder, write_json
from server.study import describe
from server.tracking import JsonLines

LABELLED = ("finetune_mim", "finetune_contrastive", "lower", "upper")
UNSHARED = (*SELECTION_STAGES, "finetune_selected")
"""They depend on what lies in the sites' own folders: classifiers, reconstructions, worklists."""

Identities = dict[str, str]
"""Key of a training to its identity; a training that nothing can be said about is missing."""


def write_identities(
    study: Study, plan: Plan, folder: Path, sites: Mapping[str, SiteSettings]
) -> Identities:
    """Write the identity of every training of a run beside its folder.

    A training that was begun under another identity (the code changed before a resume) keeps it
    if it had finished; else it is of no identity, and so is what starts from it.

    Args:
        study: The study.
        plan: Its plan.
        folder: The run folder.
        sites: Settings of all sites, for their data.
    """
    run = RunFolder(folder)
    common_part = _common(study)
    identities: Identities = {}
    for key, training in plan.trainings.items():
        if training.stage in UNSHARED:
            continue
        record = run.checkpoint(key).load(key)
        file = identity_file(folder, key)
        written = _read(file).get("sha256")
        begun = record.round > 0 or record.val_losses or record.finished
        identity = None
        if all(start in identities for start in training.start):
            identity = _digest(
                common_part, _own(study, training, sites), [identities[s] for s in training.start]
            )
        if begun and written != identity:
            identity = written if record.finished else None
        if identity is None:
            file.unlink(missing_ok=True)
            continue
        identities[key] = identity
        if written != identity:
            write_json(file, {"training": key, "sha256": identity})
    return identities


def identity_file(folder: Path, key: str) -> Path:
    """Where a training's identity stands."""
    return folder / "state" / f"{key}.identity.json"


def take_equal(
    study: Study, plan: Plan, folder: Path, identities: Identities, beside: Path
) -> dict[str, Path]:
    """Link finished equal trainings of sibling runs into a run that has not begun them.

    Args:
        study: The run's study.
        plan: Its plan.
        folder: The run folder.
        identities: Of its trainings.
        beside: Folder whose runs are looked at.

    Returns:
        Which training was taken from which run.
    """
    run = RunFolder(folder)
    siblings = [
        path.parent
        for path in sorted(beside.glob("*/study.json"))
        if path.parent.resolve() != folder.resolve()
    ]
    taken: dict[str, Path] = {}
    for key, training in plan.trainings.items():
        if key not in identities or run.checkpoint(key).folder.exists():
            continue
        for sibling in siblings:
            if _read(identity_file(sibling, key)).get("sha256") != identities[key]:
                continue
            events = _events(sibling, key)
            record = RunFolder(sibling).checkpoint(key).load(key)
            if not record.finished or any(e["event"] == "refused" for e in events):
                continue
            if not (folder / "metrics.jsonl").exists():  # events follow the study that they are of
                JsonLines(folder / "metrics.jsonl").emit("study", **describe(study, plan))
            try:
                _take(training, folder, sibling, events)
            except FileNotFoundError:
                continue  # the sibling was removed meanwhile
            taken[key] = sibling
            break
    return taken


def _take(training: Training, folder: Path, sibling: Path, events: list[dict[str, Any]]) -> None:
    """Bring one training over; its folder comes last, whole: then it has been taken."""
    key = training.key
    for site in training.participants:
        source, target = sibling / "sites" / site, folder / "sites" / site
        _append(target / "epochs.jsonl", _lines(source / "epochs.jsonl", key))
        norm = source / "norm" / key
        if norm.exists():
            _link_folder(norm, target / "norm" / key)
    _append(folder / "metrics.jsonl", [{**e, "taken_from": sibling.name} for e in events])
    _link_folder(
        RunFolder(sibling).checkpoint(key).folder, RunFolder(folder).checkpoint(key).folder
    )


def _link_folder(source: Path, target: Path) -> None:
    """Link a folder's files (they are replaced, never changed in place); copy where that fails."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in source.iterdir():
        if file.name.endswith(".partial"):
            continue
        try:
            os.link(file, partial / file.name)
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without links
            shutil.copy2(file, partial / file.name)
    partial.rename(target)


def _events(sibling: Path, key: str) -> list[dict[str, Any]]:
    """What a run's events say of a training; of a round that was repeated, the last word."""
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for event in _lines(sibling / "metrics.jsonl", key):
        name = (event["event"], event.get("round"), event.get("site"))
        latest.pop(name, None)
        latest[name] = event
    return list(latest.values())


def _lines(path: Path, key: str) -> list[dict[str, Any]]:
    """The complete JSON lines of a file that are about a training."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    found = [json.loads(line) for line in lines if line]
    return [line for line in found if line.get("training") == key]


def _append(path: Path, lines: list[dict[str, Any]]) -> None:
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _common(study: Study) -> dict[str, Any]:
    """What all trainings of a study have in common."""
    told = study.model_dump(mode="json")
    model = {**told["model"], "weights": ""}
    compute = {k: v for k, v in told["compute"].items() if k not in ("jobs", "gpu_memory_gb")}
    return {
        "seed": study.seed,
        "classes": study.classes,
        "model": model,
        "split": told["split"],
        "federation": told["federation"],
        "wire": told["wire"],
        "compute": compute,
        "parts": [_part_digest(name) for name in _own_parts(study)],
        "code": code_digest(),
        "machine": _machine(study),
    }


def _own(study: Study, training: Training, sites: Mapping[str, SiteSettings]) -> dict[str, Any]:
    """What is a training's own."""
    told: dict[str, Any] = {
        "key": training.key,
        "stage": training.stage,
        "settings": training.settings.model_dump(mode="json"),
        "participants": training.participants,
        "member": training.member,
        "roles": {name: study.sites[name].role for name in training.participants},
    }
    labelled = training.stage in LABELLED
    asked = dict.fromkeys(training.participants, labelled)
    if training.stage == "adapt":  # the ensemble that teaches, and who judges it
        told["infusion"] = study.infusion.model_dump(mode="json")
        told["judged_by"] = study.finetune_mim.model_dump(mode="json")
        asked |= dict.fromkeys(study.sources, True)
    if isinstance(training.settings, Finetune) and training.settings.from_weights:
        with Path(study.model.weights).open("rb") as file:
            told["weights"] = hashlib.file_digest(file, "sha256").hexdigest()
    told["data"] = {
        site: _data_digest(open_site(sites[site], study.for_sites()), masks, training.stage)
        for site, masks in asked.items()
    }
    return told


_KNOWN: dict[tuple[int, bool], tuple[SiteData, str]] = {}


def _data_digest(data: SiteData, masks: bool, stage: str) -> str:
    """SHA-256 of a site's pixels, splits, patients, videos and, where a stage sees them, masks."""
    known = _KNOWN.get((id(data), masks))
    if known is not None:
        return known[1]
    digest = hashlib.sha256(f"{len(data)} {data.side} {data.classes}".encode())
    rows = np.arange(len(data))
    for start in range(0, len(rows), 256):
        digest.update(data.images(rows[start : start + 256]).tobytes())
    for part in ("train", "val", "test"):
        digest.update(getattr(data.split, part).tobytes() + b"|")
    for array in (data.clusters, data.videos, data.frames, data.has_mask):
        digest.update(array.tobytes() + b"|")
    if masks:
        seen = np.sort(np.concatenate([data.split.train, data.split.val]))
        seen = seen[data.has_mask[seen]]
        for start in range(0, len(seen), 256):
            digest.update(data.masks(seen[start : start + 256], stage=stage).tobytes())
    _KNOWN[id(data), masks] = (data, digest.hexdigest())
    return digest.hexdigest()


def _own_parts(study: Study) -> list[str]:
    """Somebody's own parts that weights depend on, the sites' and the server's."""
    rule = study.federation.aggregation
    return [*study.own_parts, *([rule] if ":" in rule else [])]


def _part_digest(name: str) -> str:
    """SHA-256 over the package that somebody's own part lies in, or over its one file."""
    module = name.partition(":")[0]
    top = importlib.util.find_spec(module.partition(".")[0])
    digest = hashlib.sha256(name.encode())
    if top is None:
        return digest.hexdigest()
    if top.submodule_search_locations:
        files = sorted(p for f in top.submodule_search_locations for p in Path(f).rglob("*.py"))
    else:
        files = [Path(top.origin)] if top.origin else []
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _machine(study: Study) -> dict[str, str]:
    """Libraries and processor: the same sums in the same order on the same machine only."""
    card = ""
    if study.compute.device.startswith("cuda") and torch.cuda.is_available():
        card = torch.cuda.get_device_name(study.compute.device)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": f"{platform.machine()} {platform.processor()} "
        f"{torch.backends.cpu.get_cpu_capability()} {_cpu_model()}",
        "card": card,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
