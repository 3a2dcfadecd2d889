"""Flat metrics of classifiers at a site, and the table that stays there."""

import numpy as np
import pytest

from clients.classification import summarise, table_columns, tabulate
from common.classification import bootstrap
from common.plan import Cell
from common.statistics import paired_wilcoxon

TRUE = np.arange(40) % 2
CLUSTERS = np.arange(40) // 4
RNG = np.random.default_rng(0)


def said(skill: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    p = 1 / (1 + np.exp(-(skill * (2 * TRUE - 1) + RNG.normal(size=40))))
    return np.stack([1 - p, p], axis=1)


def test_every_number_has_its_place() -> None:
    cells = {"dual/20/a": said(2.0), "random/20/a": said(0.3), "full/100/a": said(3.0)}
    flat = summarise(
        cells, TRUE, CLUSTERS, against={"random/20/a": "dual/20/a"}, samples=200, seed=1
    )
    found = bootstrap(list(cells.values()), TRUE, CLUSTERS, samples=200, seed=1)
    for key, estimates in zip(cells, found, strict=True):
        for metric, estimate in estimates.items():
            assert flat[f"{key}.{metric}.mean"] == estimate.mean
            assert flat[f"{key}.{metric}.ci_low"] == estimate.ci_low
            assert flat[f"{key}.{metric}.n_patients"] == 10
    right = {key: (p.argmax(1) == TRUE).astype(float) for key, p in cells.items()}
    paired = paired_wilcoxon(right["dual/20/a"], right["random/20/a"], CLUSTERS)
    assert flat["random/20/a.versus.p"] == paired.p
    assert flat["random/20/a.versus.difference"] == paired.difference > 0
    assert flat["random/20/a.versus.z"] > 0
    assert flat["random/20/a.versus.n"] == 10
    assert len(flat) == 3 * 3 * 6 + 4
    assert all(isinstance(v, int) for name, v in flat.items() if name.rpartition(".")[2][0] == "n")


def test_what_is_undefined_is_left_out() -> None:
    ones = np.ones(40, dtype=np.int64)
    flat = summarise({"a": said(1.0)}, ones, np.zeros(40, dtype=np.int64), against={}, samples=50)
    assert "a.accuracy.mean" in flat
    assert not [name for name in flat if "auroc" in name or "ci_low" in name or "variance" in name]


def test_the_table() -> None:
    p = said(1.0)
    cells = {"dual/20/a": Cell("dual/20/a", "dual", 0.2, "a", "dual/20/a/classify")}
    labels = ("benign", "malignant")
    rows = tabulate(cells, {"dual/20/a": p}, TRUE, CLUSTERS, [f"i{n}" for n in range(40)], labels)
    assert len(rows) == 40
    assert all(tuple(row) == table_columns(labels) for row in rows)
    assert rows[5]["image"] == "i5"
    assert rows[5]["label"] == "malignant"
    assert rows[5]["said"] == labels[int(p[5].argmax())]
    assert rows[5]["p_benign"] == pytest.approx(p[5, 0], abs=1e-6)
