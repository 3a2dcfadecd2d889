"""A study that selects, played out with invented numbers: what its sites would have said."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.classification import bootstrap, confusion, score_histogram
from common.config.arms import DUAL_ARMS
from common.config.load import load_study
from common.config.selection import budget_name
from common.config.study import Study
from common.formats import ReconstructionResult, dump_line
from common.plan import Plan, make_plan
from server.results import build_results, write
from server.results_selection import Chosen, Classified, build_selection, leading_selection
from server.study import describe

CONFIGS = Path(__file__).parents[1] / "configs"
IMAGES = 90
"""Test images of a target; two of a patient."""
POOLS = (340, 570, 280, 410)
SKILL = {
    "source_only": 0.1, "random": 0.55, "vaal": 0.57, "coreset": 0.62, "entropy": 0.66,
    "bald": 0.68, "lfosa": 0.6, "typiclust": 0.7, "badge": 0.71, "probcover": 0.66, "dual": 0.8,
    "full": 1.25, "frozen": 0.55, "contrast": 0.63, "sphere": 0.71, "no_reconstruction": 0.75,
}  # fmt: skip
"""How far benign and malignant lie apart in the invented scores, times two."""


def breast(**changes: Any) -> Study:
    """The study of two real targets, all arms and budgets; nothing of it is run."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    return load_study(CONFIGS / "breast_al.toml", overrides)


def classified(study: Study, plan: Plan, *, samples: int = 60) -> dict[str, Classified]:
    """What each target would say of every classifier."""
    rng = np.random.default_rng([study.seed, 7])
    found = {}
    main = leading_selection(plan)
    for site in study.targets:
        true_N = (rng.random(IMAGES) < 0.35).astype(np.int64)
        clusters_N = np.arange(IMAGES) // 2
        hardness_N = rng.normal(0, 0.5, IMAGES)
        cells = []
        for cell in plan.cells.values():
            apart = SKILL.get(cell.arm, 0.7) + 0.5 * cell.budget
            apart += 0.1 * study.classify.architectures.index(cell.architecture)
            noise_N = rng.normal(0, 0.7, IMAGES) + hardness_N
            logits_N = apart * (2 * true_N - 1) - 0.3 + 1.6 * noise_N
            positive_N = 1 / (1 + np.exp(-logits_N))
            cells.append(np.stack([1 - positive_N, positive_N], axis=1))
        estimates = bootstrap(cells, true_N, clusters_N, samples=samples)
        metrics: dict[str, float | int] = {}
        right = [p_NC.argmax(axis=1) == true_N for p_NC in cells]
        places = {key: place for place, key in enumerate(plan.cells)}
        for key, of_cell in zip(plan.cells, estimates, strict=True):
            for name, estimate in of_cell.items():
                metrics |= {
                    f"{key}.{name}.mean": estimate.mean, f"{key}.{name}.ci_low": estimate.ci_low,
                    f"{key}.{name}.ci_high": estimate.ci_high,
                    f"{key}.{name}.variance": estimate.variance,
                    f"{key}.{name}.n_images": IMAGES, f"{key}.{name}.n_patients": IMAGES // 2,
                }  # fmt: skip
            arm, _, rest = key.partition("/")
            ours = places.get(f"{main}/{rest}")
            if arm != main and ours is not None:
                apart = float(right[ours].mean() - right[places[key]].mean())
                metrics |= {
                    f"{key}.versus.difference": apart, f"{key}.versus.p": 0.5 ** (20 * abs(apart)),
                    f"{key}.versus.z": 15 * apart, f"{key}.versus.n": IMAGES // 2,
                }  # fmt: skip
        found[site] = Classified(
            metrics,
            np.stack([score_histogram(p_NC, true_N, 256) for p_NC in cells]),
            np.stack([confusion(p_NC.argmax(axis=1), true_N, 2) for p_NC in cells]),
        )
    return found


def chosen(study: Study, plan: Plan) -> dict[str, Chosen]:
    """What each arm would have chosen."""
    rng = np.random.default_rng([study.seed, 8])
    pools = dict(zip(study.targets, POOLS, strict=False))
    found = {}
    for arm, selection in plan.selections.items():
        selected = {}
        for budget in selection.budgets:
            total = int(np.ceil(budget * sum(pools.values())))
            first, *others = study.targets
            lean = rng.uniform(0.7, 1.3) if selection.strategy != "coreset" else 1.0
            counts = {site: min(pools[site], int(budget * pools[site] / lean)) for site in others}
            selected[budget_name(budget)] = {first: total - sum(counts.values()), **counts}
        embedding = (
            {site: {"mean_angle": 1.31 - 0.1 * n, "effective_rank": 14.2 + n}
             for n, site in enumerate(study.targets)}
            if arm in DUAL_ARMS else {}
        )  # fmt: skip
        overlap = {
            budget: 1.0 if arm == leading_selection(plan) else float(rng.uniform(0.2, 0.7))
            for budget in selected
        }
        found[arm] = Chosen(pools, selected, overlap, embedding)
    return found


def redrawn(study: Study) -> dict[str, ReconstructionResult]:
    """How images and reconstructions would lie to the source."""
    rng = np.random.default_rng([study.seed, 9])

    def cells(mean: float, spread: float, images: int) -> list[int]:
        drawn = np.clip(rng.normal(mean, spread, images), -1, 1)
        return [int(n) for n in np.histogram(drawn, 64, (-1, 1))[0]]

    def greys(mean: float, images: int) -> list[int]:
        drawn = np.clip(rng.gamma(2.2, mean / 2.2, 400 * images), 0, 255)
        return [int(n) for n in np.histogram(drawn, 256, (0, 256))[0]]

    found = {}
    for n, site in enumerate((*study.sources, *study.targets)):
        source = site in study.sources
        images = 65 if source else POOLS[n - 1]
        fidelity = {
            "psnr_mean": 14.0 - n, "psnr_std": 2.4, "ms_ssim_mean": 0.47 - 0.1 * n,
            "ms_ssim_std": 0.09, "rmse_mean": 53.6 + 8 * n, "rmse_std": 17.0,
        }  # fmt: skip
        before, after = 0.94 - 0.16 * n, 0.94 - 0.05 * n
        style = {"similarity_mean_before": before, "similarity_std_before": 0.05}
        change = {
            "similarity_mean_after": after, "similarity_std_after": 0.04,
            "domain_bias_before": 0.16 * n, "domain_bias_after": 0.05 * n,
            "wasserstein_before": 11.0 * n, "wasserstein_after": 3.0 * n,
            "contrast_images": float(images // 2), "contrast_correlation": 0.81,
            "contrast_ratio": 0.74,
        }  # fmt: skip
        own = {"similarity_mean": 0.95, "similarity_std": 0.02}
        found[site] = ReconstructionResult(
            role="source" if source else "target",
            images=images,
            metrics=fidelity | style | change | (own if source else {}),
            similarity={"before": cells(before, 0.02 + 0.04 * n, images)}
            | ({} if source else {"after": cells(after, 0.04, images)}),
            grey={"before": greys(62.0 + 14 * n, images)}
            | ({} if source else {"after": greys(62.0 + 3 * n, images)}),
        )
    return found


def events_of(study: Study, plan: Plan, *, waiting: bool = True) -> list[dict[str, Any]]:
    """metrics.jsonl as such a run would leave it."""
    rng = np.random.default_rng([study.seed, 10])
    clock = iter(range(10_000_000))
    events: list[dict[str, Any]] = [{"event": "study", **describe(study, plan), "time": 0.0}]
    for n, site in enumerate(study.sites):
        counts = {"images": 480 + 90 * n, "patients": 210 + 30 * n}
        events.append({"event": "enrol", "site": site, "counts": counts, "unit": "patient"})

    def train(stages: Sequence[str]) -> None:
        for training in plan.trainings.values():
            if training.stage not in stages:
                continue
            for number in range(1, training.settings.rounds + 1):
                loss = 0.9 * 0.7**number * float(rng.normal(1, 0.1))
                shared = {
                    "training": training.key, "stage": training.stage, "round": number,
                    "rounds": training.settings.rounds, "seconds": 24.0,
                }  # fmt: skip
                events.extend(
                    {**shared, "event": "reply", "site": site, "loss": loss, "examples": 60,
                     "bytes_down": 6_000_000, "bytes_up": 6_000_000}
                    for site in training.participants
                )  # fmt: skip
                events.append(
                    {**shared, "event": "round", "loss": loss, "sites": training.participants}
                )

    def step(stage: str, key: str = "", step: str = "") -> None:
        events.extend(
            {"event": "step", "stage": stage, "key": key, "step": step, "site": site,
             "bytes_down": 40_960, "bytes_up": 82_336, "seconds": 0.4}
            for site in study.targets
        )  # fmt: skip

    train(("mim", "finetune_mim", "lower", "upper", "source_classifier", "diffusion"))
    if plan.reconstructing:
        step("reconstruct", step="redraw")
    train(("sphere",))
    for arm, selection in plan.selections.items():
        if selection.strategy == "dual":
            step("score", arm, "cluster")
        step("select", arm, "choose")
    if waiting:
        for done in (0, 31, 60):
            sites = dict.fromkeys(study.targets, f"{done} of 68 (dual, 20 %)")
            events.append({"event": "waiting", "stage": "annotate", "sites": sites})
    step("annotate")
    train(("classify", "finetune_selected"))
    step("classify")
    events.append({"event": "end", "status": "finished", "seconds": 3912.0})
    return [{**event, "time": 60.0 * next(clock)} for event in events]


def invented_run(
    folder: Path, study: Study, *, evaluations: Any = None, finished: bool = True
) -> Path:
    """A run folder of such a study."""
    folder.mkdir(parents=True)
    plan = make_plan(study)
    (folder / "study.json").write_text(study.canonical())
    events = events_of(study, plan)
    if not finished:
        events = events[: len(events) // 2]
    (folder / "metrics.jsonl").write_text("".join(dump_line(event) + "\n" for event in events))
    if not finished:
        return folder
    dual = plan.reconstructing
    found, notes = build_selection(
        plan,
        study.labels,
        classified=classified(study, plan),
        chosen=chosen(study, plan),
        reconstruction=redrawn(study) if dual else None,
        memorisation={"features": 0.043, "correlation": 0.062, "samples": 128, "threshold": 0.1}
        if dual else None,
    )  # fmt: skip
    results = build_results(
        study=study.name,
        digest=study.digest,
        seed=study.seed,
        synthetic=study.phantom is not None,
        machine={"processor": "AVX2", "torch": "2.14.1", "threads": 1},
        main=next(iter(plan.arms), ""),
        arms=list(plan.arms),
        roles={name: site.role for name, site in study.sites.items()},
        units=dict.fromkeys(study.sites, "patient"),
        evaluations=evaluations or {},
        traffic={site: {"down": 61_000_000, "up": 60_000_000} for site in study.sites},
        notes=notes,
        selection=found,
    )
    write(results, folder / "results.json")
    return folder
