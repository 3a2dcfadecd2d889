"""The federated choice is the pooled one, whatever the split: ties, duplicates, every option."""

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from common.selection import dual_score, select
from common.selection.cut import tie_words
from common.selection.lattice import exponent_of
from tests.common.selection.federation import Site, federated, split
from tests.common.selection.pooled import pooled_choice

ALPHAS = (0.1, 0.2, 0.5, 1.0)
STUDY = "5f"


def embeddings(rng: np.random.Generator, number: int, dimensions: int, distinct: int) -> np.ndarray:
    """Directions taken again and again from a few, some of them axes: many equal angles."""
    few = rng.standard_normal((distinct, dimensions))
    axes = np.concatenate([np.eye(dimensions), -np.eye(dimensions)])
    few[: distinct // 2] = axes[rng.integers(len(axes), size=distinct // 2)]
    few /= np.linalg.norm(few, axis=1, keepdims=True)
    return few[rng.integers(distinct, size=number)].astype(np.float32)


def digests_of(*parts: np.ndarray) -> list[str]:
    """Equal images have equal digests, as files do."""
    return [
        hashlib.sha256(b"".join(part[row].tobytes() for part in parts)).hexdigest()
        for row in range(len(parts[0]))
    ]


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    number = draw(st.integers(5, 24))
    return {
        "number": number,
        "dimensions": draw(st.integers(2, 6)),
        "distinct": draw(st.integers(1, number)),
        "ends": sorted(draw(st.lists(st.integers(0, number), max_size=6))),
        "rng": draw(st.integers(0, 2**32 - 1)),
        "stretch": draw(st.sampled_from([1.0, 0.37, 5.5])),
        "reconstructed": draw(st.booleans()),
        "options": {
            "clusters": draw(st.integers(2, 5)),
            "omega": draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])),
            "uncertainty": draw(st.sampled_from(["margin", "span", "entropy", "min_gap"])),
            "combine": draw(st.sampled_from(["rank", "rank", "raw", "zscore"])),
            "representative": draw(st.sampled_from(["near", "far"])),
            "metric": draw(st.sampled_from(["angle", "angle", "euclidean"])),
            "restarts": draw(st.integers(1, 3)),
            "iterations": draw(st.integers(1, 6)),
            "seed": draw(st.integers(0, 1000)),
        },
    }


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_any_split_chooses_what_pooling_would(world: dict[str, Any]) -> None:
    rng = np.random.default_rng(world["rng"])
    options = world["options"]
    images = embeddings(rng, world["number"], world["dimensions"], world["distinct"])
    partners = embeddings(rng, world["number"], world["dimensions"], world["distinct"])
    if options["metric"] == "euclidean":
        images, partners = images * world["stretch"], partners * world["stretch"]
    digests = digests_of(images, partners)
    others = partners if world["reconstructed"] else None
    exponent = 0
    if options["metric"] == "euclidean":
        exponent = max(exponent_of(images), exponent_of(partners) if others is not None else -99)
    wanted = pooled_choice(
        images, others, digests, study=STUDY, alphas=ALPHAS, exponent=exponent, **options
    )
    outcome = federated(
        split(images, others, digests, world["ends"]), study=STUDY, alphas=ALPHAS, **options
    )
    assert outcome.centroids.tolist() == wanted.centroids
    assert np.concatenate(outcome.clusters).tolist() == wanted.cluster
    scores = np.concatenate(outcome.scores)
    np.testing.assert_allclose(scores, [float(s) for s in wanted.score], rtol=1e-12, atol=1e-12)
    starts = np.cumsum([0, *(len(own) for own in outcome.scores)])
    for alpha in ALPHAS:
        rows = [r + s for own, s in zip(outcome.chosen[alpha], starts, strict=False) for r in own]
        assert rows == wanted.chosen[alpha]
    pooled = dual_score(images, others, **options)
    assert pooled.score.tobytes() == scores.tobytes()
    assert pooled.cluster.tolist() == wanted.cluster
    for alpha in ALPHAS:
        rows = select(pooled.score, alpha, ties=tie_words(STUDY, digests)).tolist()
        assert rows == wanted.chosen[alpha]


def clustered(number: int, dimensions: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((5, dimensions))
    images = means[rng.integers(5, size=number)] + 0.8 * rng.standard_normal((number, dimensions))
    partners = images + 0.4 * rng.standard_normal((number, dimensions))
    first, second = (
        (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
        for z in (images, partners)
    )
    return first, second


OPTIONS: dict[str, Any] = {
    "clusters": 4, "omega": 1.0, "uncertainty": "margin", "combine": "rank",
    "representative": "near", "metric": "angle", "restarts": 3, "iterations": 20, "seed": 1,
}  # fmt: skip


def test_at_real_size_bits_are_the_same_for_every_split_and_order() -> None:
    images, partners = clustered(3000, 64, 0)
    digests = digests_of(images, partners)
    pooled = dual_score(images, partners, **OPTIONS)
    order = np.random.default_rng(3).permutation(3000)
    for ends in ([], [1], [7, 7, 1000, 2999]):
        sites = split(images[order], partners[order], [digests[row] for row in order], ends)
        outcome = federated(sites, study=STUDY, alphas=(0.2,), **OPTIONS)
        assert np.concatenate(outcome.scores).tobytes() == pooled.score[order].tobytes()
        starts = [0, *ends]
        picked = [
            order[row + s]
            for own, s in zip(outcome.chosen[0.2], starts, strict=True)
            for row in own
        ]
        wanted = select(pooled.score, 0.2, ties=tie_words(STUDY, digests))
        assert sorted(picked) == wanted.tolist()
        assert len(picked) == 600


def test_an_image_that_two_hospitals_have_goes_to_the_first() -> None:
    images, partners = clustered(12, 8, 4)
    digests = digests_of(images, partners)
    twice = [Site(images, partners, digests), Site(images.copy(), partners.copy(), digests)]
    outcome = federated(twice, study=STUDY, alphas=(1 / 24, 3 / 24), **OPTIONS)
    assert [len(own) for own in outcome.chosen[1 / 24]] == [1, 0]
    first, second = outcome.chosen[3 / 24]
    assert len(first) == 2
    assert len(second) == 1
    assert second[0] in first


def test_the_margin_finds_what_lies_between_two_clusters_and_min_gap_does_not() -> None:
    """method.md, "Dual score": nearest-two against Eq. 4 as printed, on simulated ambiguity."""
    rng = np.random.default_rng(5)
    means = rng.standard_normal((4, 32))
    pairs = np.array([[a, b] for a in range(4) for b in range(4) if a != b])
    picked = pairs[rng.integers(len(pairs), size=2000)]
    mixed = rng.uniform(0, 0.5, 2000)
    z = means[picked[:, 0]] * (1 - mixed)[:, None] + means[picked[:, 1]] * mixed[:, None]
    z += 0.1 * rng.standard_normal(z.shape)
    z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)

    def agreement(kind: Any) -> float:
        u = dual_score(z, None, uncertainty=kind, seed=2).uncertainty
        sign = 1 if kind == "entropy" else -1
        return float(stats.spearmanr(sign * u, mixed).statistic)

    assert agreement("margin") > 0.9
    assert agreement("entropy") > 0.9
    assert agreement("span") > 0.3
    assert agreement("min_gap") < 0.2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clusters": 1}, "1 clusters of 12 images"),
        ({"clusters": 13}, "13 clusters of 12 images"),
    ],
)
def test_more_clusters_than_images_are_refused(change: dict[str, Any], words: str) -> None:
    images, partners = clustered(12, 8, 4)
    with pytest.raises(ValueError, match=words):
        dual_score(images, partners, **{**OPTIONS, **change})


def test_embeddings_that_are_none_are_refused() -> None:
    images, partners = clustered(12, 8, 4)
    with pytest.raises(ValueError, match="NaN"):
        dual_score(np.where(images > 0.5, np.nan, images), partners)
    with pytest.raises(ValueError, match=r"length 2; angles need unit"):
        dual_score(2 * images, partners)
    with pytest.raises(ValueError, match="of reconstructions"):
        dual_score(images, partners[:3])
