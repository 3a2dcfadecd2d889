"""Scoring frozen features: retrieving frames of the same video, and a linear probe.

Pure functions over arrays; the caller runs the encoder and keeps the per-frame table at the site.

Retrieval asks whether frames of one sweep lie near each other in feature space, among the frames
of all the site's test patients. The nearest frames of a sweep are near duplicates, which any
encoder finds; so frames of the query's own video within the exclusion gap are not searched.

The probe asks what a linear classifier can read from the features. Its classes are the site's
`label` column (a study may map any column there, such as the probe type), which the site's data
hands to the stage evaluate alone.

Shapes: N test frames, D features, P patients (or whatever the statistics unit is).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common import statistics
from common.statistics import Estimate

Values = NDArray[np.float64]
Indices = NDArray[np.int64]

NO_VIDEO = -1
TIE = 1e-6
"""Cosines closer than this are one: rounding must not rank the frames of a collapsed encoder."""


@dataclass(frozen=True)
class Retrieval:
    """One arm's answers, each (N,); NaN for a frame that is no query.

    Attributes:
        recall_at_1: 1 if the nearest searched frame is of the query's own video, else 0.
        average_precision: Over the ranking of all searched frames, in [0, 1].
    """

    recall_at_1: Values
    average_precision: Values


@dataclass(frozen=True)
class Probe:
    """A linear classifier's answers, every patient held out once.

    Attributes:
        classes: The two labels; the second is "positive" below.
        truth: (N,) bool, whether a frame is of the second class.
        decision: (N,), the held-out decision function: > 0 says the second class.
    """

    classes: tuple[str, str]
    truth: NDArray[np.bool_]
    decision: Values


@dataclass(frozen=True)
class Representation:
    """One arm's features, scored; `probe` is None where the labels do not allow one."""

    retrieval: Retrieval
    probe: Probe | None


def retrieve(
    features_ND: Values, video: Indices, frame: Indices, *, exclusion_gap: int
) -> Retrieval:
    """Every frame as a query against all others, by cosine similarity.

    A frame of the query's video strictly nearer than `exclusion_gap` frames is left out of the
    search, as is the query. A query counts only if its video still has a frame in the search.
    Among equal cosines the frames of other videos come first: a collapsed encoder earns nothing.

    Args:
        features_ND: (N, D), any scale.
        video: (N,), -1 = none; such a frame is searched but is no query.
        frame: (N,), the place in the video.
        exclusion_gap: Frames; 0 leaves out the query alone.
    """
    count = len(features_ND)
    norm = np.linalg.norm(features_ND, axis=1, keepdims=True)
    unit_ND = features_ND / np.maximum(norm, 1e-12)
    cosine_NN = np.round(unit_ND @ unit_ND.T / TIE)
    same_NN = (video[:, None] == video[None, :]) & (video != NO_VIDEO)[:, None]
    near_NN = same_NN & (np.abs(frame[:, None] - frame[None, :]) < exclusion_gap)
    searched_NN = ~near_NN & ~np.eye(count, dtype=bool)
    recall = np.full(count, np.nan)
    precision = np.full(count, np.nan)
    for query in range(count):
        searched = searched_NN[query]
        relevant = same_NN[query, searched]
        if not relevant.any():
            continue
        order = np.lexsort((relevant, -cosine_NN[query, searched]))
        hits = relevant[order]
        recall[query] = float(hits[0])
        ranks = np.flatnonzero(hits) + 1
        precision[query] = float((np.arange(1, len(ranks) + 1) / ranks).mean())
    return Retrieval(recall, precision)


def linear_probe(features_ND: Values, labels: Sequence[str], patients: Indices) -> Probe | None:
    """Logistic regression on frozen features, leaving out one patient at a time.

    Features are standardised by the training patients; the classes weigh the same.

    Args:
        features_ND: (N, D).
        labels: (N,), one of two classes.
        patients: (N,), the statistics unit; all frames of one are held out together.

    Returns:
        None unless there are exactly two classes, each in at least two patients: without its one
        patient a class could not be learned.
    """
    names = np.array(labels)
    classes = sorted(set(labels))
    if len(classes) != 2 or "" in classes:
        return None
    if any(len(np.unique(patients[names == name])) < 2 for name in classes):
        return None
    truth = names == classes[1]
    decision = np.empty(len(names))
    for patient in np.unique(patients):
        held = patients == patient
        model = make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000)
        )
        model.fit(features_ND[~held], truth[~held])
        decision[held] = model.decision_function(features_ND[held])
    return Probe((classes[0], classes[1]), truth, decision)


def balanced_accuracy(
    probe: Probe, patients: Indices, *, samples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean of the two classes' recalls, with a cluster bootstrap over patients.

    Args:
        probe: The held-out answers.
        patients: (N,), the statistics unit.
        samples: Draws; those in which a class is missing have no value and are left out.
        seed: Of the draws.
    """
    of_patient = _one_hot(patients)
    right = (probe.decision > 0) == probe.truth
    counted = [
        (of_patient @ (right & side).astype(float), of_patient @ side.astype(float))
        for side in (probe.truth, ~probe.truth)
    ]

    def statistic(weight_SP: Values) -> Values:
        with np.errstate(invalid="ignore"):
            recalls = [(weight_SP @ hits) / (weight_SP @ all_) for hits, all_ in counted]
            mean: Values = (recalls[0] + recalls[1]) / 2
        return mean

    return _bootstrap(statistic, of_patient, samples, seed)


def auroc(probe: Probe, patients: Indices, *, samples: int = 2000, seed: int = 0) -> Estimate:
    """Area under the ROC curve (ties count half), with a cluster bootstrap over patients.

    A draw repeats whole patients, so the area of a draw is a ratio of two forms in the number of
    times each patient was drawn: exact, with no ranking done again.

    Args:
        probe: The held-out answers.
        patients: (N,), the statistics unit.
        samples: Draws; those in which a class is missing have no value and are left out.
        seed: Of the draws.
    """
    of_patient = _one_hot(patients)
    positive, negative = probe.decision[probe.truth], probe.decision[~probe.truth]
    above = (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])
    wins_PP = of_patient[:, probe.truth] @ above @ of_patient[:, ~probe.truth].T
    positives_P = of_patient[:, probe.truth].sum(axis=1)
    negatives_P = of_patient[:, ~probe.truth].sum(axis=1)

    def statistic(weight_SP: Values) -> Values:
        pairs = (weight_SP @ positives_P) * (weight_SP @ negatives_P)
        with np.errstate(invalid="ignore"):
            area: Values = ((weight_SP @ wins_PP) * weight_SP).sum(axis=1) / pairs
        return area

    return _bootstrap(statistic, of_patient, samples, seed)


PROBE_MEASURES = {"probe_balanced_accuracy": balanced_accuracy, "probe_auroc": auroc}


def summarise(
    arms: Mapping[str, Representation],
    patients: Indices,
    *,
    main: str,
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """The flat metrics of a site (docs/formats.md, "evaluate").

    Retrieval as means over queries, the main arm against each other one by patient; the probe,
    where the labels allow one, as ratios over all frames, which have no paired test.

    Args:
        arms: By name.
        patients: (N,), the statistics unit of each frame.
        main: The arm compared against each other.
        samples: Bootstrap draws.
        seed: Of the draws.
    """
    flat: dict[str, float] = {}
    queries = np.isfinite(arms[main].retrieval.recall_at_1)
    of_queries = patients[queries]
    for arm, scored in arms.items():
        ours = _by_metric(arms[main].retrieval, queries)
        for metric, values in _by_metric(scored.retrieval, queries).items():
            if not len(values):
                continue
            estimate = statistics.cluster_bootstrap(values, of_queries, samples=samples, seed=seed)
            flat |= _named(f"{arm}.{metric}", estimate)
            if arm == main:
                continue
            paired = statistics.paired_wilcoxon(ours[metric], values, of_queries)
            name = f"{main}~{arm}.{metric}"
            flat |= {
                f"{name}.difference": paired.difference,
                f"{name}.p": paired.p,
                f"{name}.z": paired.z,
                f"{name}.n": paired.n,
            }
        if scored.probe is not None:
            for metric, measure in PROBE_MEASURES.items():
                estimate = measure(scored.probe, patients, samples=samples, seed=seed)
                flat |= _named(f"{arm}.{metric}", estimate)
    return {name: float(value) for name, value in flat.items() if np.isfinite(value)}


TABLE_COLUMNS = ("image", "cluster", "arm", "recall_at_1", "average_precision", "label", "decision")


def tabulate(
    arms: Mapping[str, Representation], images: Sequence[str], patients: Indices
) -> list[dict[str, str | float]]:
    """One row a frame and arm, for a CSV in the site's own folder; "" where undefined.

    Args:
        arms: By name.
        images: (N,), the manifest's ids.
        patients: (N,), the statistics unit of each frame.
    """
    rows: list[dict[str, str | float]] = []
    for n, (image, patient) in enumerate(zip(images, patients, strict=True)):
        for arm, scored in arms.items():
            probe = scored.probe
            numbers = {
                "recall_at_1": float(scored.retrieval.recall_at_1[n]),
                "average_precision": float(scored.retrieval.average_precision[n]),
                "decision": float(probe.decision[n]) if probe else np.nan,
            }
            rows.append(
                {
                    "image": image,
                    "cluster": int(patient),
                    "arm": arm,
                    "label": probe.classes[int(probe.truth[n])] if probe else "",
                    **{k: round(v, 6) if np.isfinite(v) else "" for k, v in numbers.items()},
                }
            )
    return rows


def _one_hot(patients: Indices) -> Values:
    """(P, N), 1 where a frame is a patient's."""
    member: Values = (np.unique(patients)[:, None] == patients[None, :]).astype(np.float64)
    return member


def _bootstrap(
    statistic: Callable[[Values], Values], of_patient: Values, samples: int, seed: int
) -> Estimate:
    """A statistic of how often each patient counts: its value, and its interval over draws."""
    k, count = of_patient.shape
    value = float(statistic(np.ones((1, k)))[0])
    weights_SP = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), samples)
    drawn = statistic(weights_SP.astype(np.float64))
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < 2:
        return Estimate(value, np.nan, np.nan, np.nan, count, k)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high), float(drawn.var(ddof=1)), count, k)


def _by_metric(retrieval: Retrieval, queries: NDArray[np.bool_]) -> dict[str, Values]:
    return {
        "recall_at_1": retrieval.recall_at_1[queries],
        "map": retrieval.average_precision[queries],
    }


def _named(name: str, estimate: Estimate) -> dict[str, float]:
    return {
        f"{name}.mean": estimate.mean,
        f"{name}.ci_low": estimate.ci_low,
        f"{name}.ci_high": estimate.ci_high,
        f"{name}.variance": estimate.variance,
        f"{name}.n_images": estimate.n_images,
        f"{name}.n_patients": estimate.n_clusters,
    }
