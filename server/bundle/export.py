"""A finished run becomes a bundle: a folder that segments and says where it came from.

It is written beside its place and moved in, so a kill leaves no half bundle.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

import common
from common.bundle import files
from common.bundle.ensemble import EnsembleConfig, Network, build
from common.bundle.reference import Reference
from common.config.data import nearest
from common.config.study import Study
from common.errors import InputError
from common.formats import Results, read_results
from common.models.branches import load_shared
from common.plan import Plan, make_plan, split_member
from common.plan.types import arm_name
from common.wire.payload import digest_of
from server.bundle.card import card
from server.bundle.cells import choose_classifiers
from server.bundle.ledgers import ledger_heads
from server.bundle.members import Chosen, choose
from server.bundle.metadata import SCHEMA_FILE, federation, inference, metadata
from server.bundle.onnx import export_onnx
from server.checkpoint import RunFolder
from server.code import noted_code

Step = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """A run folder that may become a bundle.

    Attributes:
        folder: Where it lies.
        study: Its study.
        plan: Of that study.
        results: What was found, if it was evaluated.
        counts: Site to what it said of itself.
    """

    folder: Path
    study: Study
    plan: Plan
    results: Results | None
    counts: Mapping[str, Mapping[str, float]]


def open_run(folder: Path) -> Run:
    """Read a run.

    Raises:
        InputError: If it is none, is a smoke run, or has nothing that segments or classifies.
    """
    path = folder / "study.json"
    try:
        study = Study.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: is no study ({reason}); is {folder} a run folder?") from None
    if study.untrained:
        raise InputError(f"{folder}: is untrained and makes no bundle: {study.untrained}")
    if study.representation:
        raise InputError(
            f"{folder}: scored encoders; there is nothing in it that segments or classifies"
        )
    results = folder / "results.json"
    state = RunFolder(folder)
    counts = {
        site: (state.read_state(f"enrol/{site}") or {}).get("counts", {}) for site in study.sites
    }
    return Run(
        folder, study, make_plan(study), read_results(results) if results.exists() else None, counts
    )


def assemble(
    run: Run,
    arm: str = "",
    site: str = "",
    *,
    budget: float | None = None,
    architectures: Sequence[str] = (),
) -> tuple[EnsembleConfig, Network]:
    """An arm's members as one network, with their weights.

    Args:
        run: The run.
        arm: What segments, or what selects and classifies; "" is the run's first ensemble, or
            where it has none (or classifiers are asked for), the first arm that selects.
        site: Whose members, where a segmenting arm has others at every site.
        budget: Of classifiers.
        architectures: Of classifiers.

    Raises:
        InputError: As `server.bundle.members.choose` and `server.bundle.cells.choose_classifiers`.
    """
    chosen = _chosen(run, arm, site, budget, architectures)
    network = build(chosen.config)
    for member, state in zip(network.members, chosen.states, strict=True):
        load_shared(member, state)
    return chosen.config, network.eval()


def _chosen(
    run: Run, arm: str, site: str, budget: float | None, architectures: Sequence[str]
) -> Chosen:
    plan = run.plan
    classifying = {cell.arm for cell in plan.cells.values()}
    asked = budget is not None or bool(architectures)
    known = [*plan.arms, *dict.fromkeys(cell.arm for cell in plan.cells.values())]
    if arm and arm not in plan.arms and arm_name(arm) not in classifying:
        raise InputError(f"{run.folder}: the study has no arm '{arm}'{nearest(arm, known)}")
    if arm in plan.arms or (not arm and plan.arms and not asked):
        if asked:
            raise InputError(f"--budget and --architecture are of classifiers; {arm} segments")
        return choose(run.folder, run.study, plan, arm, site)
    if not classifying:
        raise InputError(
            f"{run.folder}: has no classifiers; --budget and --architecture are theirs"
        )
    if site:
        raise InputError(f"--site {site}: classifiers are the same at every site")
    return choose_classifiers(run.folder, run.study, plan, arm, budget, architectures)


def export(
    run: Run,
    config: EnsembleConfig,
    ensemble: Network,
    out: Path,
    *,
    reference: Reference | None = None,
    license_file: Path | None = None,
    step: Step = lambda words: None,
) -> str:
    """Write a bundle.

    Args:
        run: Where it comes from.
        config: Of the ensemble.
        ensemble: With its weights.
        out: New or empty folder.
        reference: The sites' aggregates, or None: then nothing is flagged as far from training.
        license_file: The consortium's own licence for the weights; else the software's.
        step: Told what is being made.

    Returns:
        The bundle's digest.

    Raises:
        InputError: If the folder is not empty, cannot be written, or there is no licence.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is not an empty folder; name a new one")
    part = out.with_name(f".{out.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for folder in ("configs", "models", "docs"):
            (part / folder).mkdir(parents=True)
        license_name = _write_license(part / files.LICENSE, license_file)
        step("weights")
        state = {name: tensor.contiguous() for name, tensor in ensemble.state_dict().items()}
        save_file(state, part / files.WEIGHTS, metadata={"format": "pt"})
        torch.save(state, part / files.STATE)
        # safetensors makes its files private; a bundle is handed on.
        (part / files.WEIGHTS).chmod((part / files.STATE).stat().st_mode)
        step("ONNX")
        export_onnx(ensemble, config.model.image_size, part / files.ONNX)
        step("configs and card")
        _write_configs(part, run, config, reference, weights=digest_of(state))
        text = card(
            config, run.study, run.results, run.counts,
            license_name=license_name, sites_referenced=list(reference.sites) if reference else [],
        )  # fmt: skip
        (part / files.CARD).write_text(text, encoding="utf-8")
        shutil.copyfile(SCHEMA_FILE, part / files.SCHEMA)
        digest = files.write_digests(part)
        if out.exists():
            out.rmdir()
        part.rename(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return digest


def _write_configs(
    part: Path,
    run: Run,
    config: EnsembleConfig,
    reference: Reference | None,
    *,
    weights: str,
) -> None:
    meta = metadata(config, run.results)
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.validate(meta, schema)  # ours to get right: what fails here is a fault of the code
    files.write_json(part / files.METADATA, meta)
    files.write_json(part / files.INFERENCE, inference(config))
    files.write_json(part / files.ENSEMBLE, config.model_dump(mode="json"))
    if reference is not None:
        files.write_json(part / files.REFERENCE, reference.model_dump(mode="json"))
    origin = federation(
        run.study,
        counts=run.counts,
        rounds=_rounds(run, config),
        weights_sha256=weights,
        results=run.results,
        ledgers=ledger_heads(run.folder),
        code=noted_code(RunFolder(run.folder)),
    )
    files.write_json(part / files.FEDERATION, origin)


def _rounds(run: Run, config: EnsembleConfig) -> dict[str, int]:
    """Rounds done of every training that the members came through."""
    cells = run.plan.cells
    wanted = [
        cells[member.name].training if config.task == "classification"
        else split_member(member.name)[0]
        for member in config.members
    ]  # fmt: skip
    done: dict[str, int] = {}
    state = RunFolder(run.folder)
    while wanted:
        key = wanted.pop()
        done[key] = state.checkpoint(key).load(key).round
        wanted += [split_member(start)[0] for start in run.plan.trainings[key].start]
    return dict(sorted(done.items()))


def _write_license(target: Path, given: Path | None) -> str:
    """Copy the licence; returns its name for the card."""
    if given is not None:
        if not given.is_file():
            raise InputError(f"{given}: there is no such licence file")
        shutil.copyfile(given, target)
        return "other"
    own = Path(common.__file__).parents[1] / "LICENSE"
    if not own.is_file():
        raise InputError("the software's own LICENSE is not installed; name one with --license")
    shutil.copyfile(own, target)
    return "apache-2.0"
