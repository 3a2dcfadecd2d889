"""Tables from histograms against ranks by sorting; which way is up in every option."""

import math

import numpy as np
import pytest
from scipy import stats

from common.selection.lattice import CELLS, cell_values, histogram, to_lattice
from common.selection.ranks import Measured, make_tables, measure

CELLS_U = np.array([5, 5, 9, 0, 4095, 9, 5, 77], np.int16)
CELLS_R = np.array([8, 1, 1, 2, 3, 4095, 0, 8], np.int16)


def measured(u: np.ndarray = CELLS_U, r: np.ndarray = CELLS_R) -> Measured:
    empty = np.zeros(len(u))
    return Measured(empty, empty, np.zeros(len(u), np.int64), u, r, True)


def score(**options: object) -> np.ndarray:
    own = measured()
    given = {
        "clusters": 4, "omega": 1.0, "uncertainty": "margin", "combine": "rank",
        "representative": "near",
    }  # fmt: skip
    return make_tables(own.histograms, **{**given, **options}).score(own)  # type: ignore[arg-type]


def test_ranks_are_mid_ranks_over_n() -> None:
    ranks = [stats.rankdata(cells) / 8 for cells in (CELLS_U, CELLS_R)]
    np.testing.assert_allclose(score(), ranks[0] + ranks[1])
    np.testing.assert_allclose(score(omega=0.25), ranks[0] + 0.25 * ranks[1])
    np.testing.assert_allclose(score(with_distance=False), ranks[0])
    turned = [stats.rankdata(-cells.astype(int)) / 8 for cells in (CELLS_U, CELLS_R)]
    np.testing.assert_allclose(score(representative="far"), ranks[0] + turned[1])
    np.testing.assert_allclose(score(uncertainty="entropy"), turned[0] + ranks[1])


def test_equal_sums_of_ranks_are_equal_scores() -> None:
    """.1 + .2 and .3 + 0 differ in binary; ranks are added as whole numbers."""
    u, r = np.arange(10, dtype=np.int16), np.arange(10, dtype=np.int16)[::-1].copy()
    own = measured(u, r)
    tables = make_tables(
        own.histograms, clusters=4, omega=1.0, uncertainty="margin", combine="rank",
        representative="near",
    )  # fmt: skip
    assert len(set(tables.score(own).tolist())) == 1


def test_raw_adds_values_and_zscores_standardise_them() -> None:
    values = cell_values(math.pi)
    np.testing.assert_allclose(score(combine="raw"), values[CELLS_U] + values[CELLS_R])
    np.testing.assert_allclose(
        score(combine="raw", representative="far"), values[CELLS_U] + math.pi - values[CELLS_R]
    )
    z = [stats.zscore(cells.astype(float)) for cells in (CELLS_U, CELLS_R)]
    np.testing.assert_allclose(score(combine="zscore"), z[0] + z[1])
    np.testing.assert_allclose(score(combine="zscore", uncertainty="entropy"), -z[0] + z[1])


def test_what_does_not_vary_counts_for_nothing_in_zscores() -> None:
    own = measured(np.full(8, 4, np.int16))
    tables = make_tables(
        own.histograms, clusters=4, omega=1.0, uncertainty="margin", combine="zscore",
        representative="near",
    )  # fmt: skip
    np.testing.assert_allclose(tables.score(own), stats.zscore(CELLS_R.astype(float)))


@pytest.mark.parametrize("metric", ["angle", "euclidean"])
def test_measures_of_a_point_on_a_line(metric: str) -> None:
    """Three centroids at 0, 60 and 180 degrees, an image at 20."""
    degrees = np.radians([0.0, 60.0, 180.0, 20.0, 25.0])
    points = to_lattice(np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32))
    centroids, image, partner = points[:3].astype(np.int32), points[3:4], points[4:5]

    def u(kind: str) -> float:
        found = measure(image, partner, centroids, uncertainty=kind, metric=metric)  # type: ignore[arg-type]
        assert found.cluster.tolist() == [0]
        assert float(found.distance[0]) == pytest.approx(apart(20, 25), abs=1e-4)
        return float(found.uncertainty[0])

    def apart(a: float, b: float) -> float:
        angle = math.radians(abs(a - b))
        return angle if metric == "angle" else 2 * math.sin(angle / 2)

    theta = sorted(apart(20, centroid) for centroid in (0, 60, 180))
    assert u("margin") == pytest.approx(theta[1] - theta[0], abs=1e-4)
    assert u("span") == pytest.approx(theta[2] - theta[0], abs=1e-4)
    assert u("min_gap") == pytest.approx(min(theta[1] - theta[0], theta[2] - theta[1]), abs=1e-4)
    weights = [math.exp(-t / 0.1) for t in theta]
    assert u("entropy") == pytest.approx(
        stats.entropy([w / sum(weights) for w in weights]), abs=2e-3
    )


def test_without_reconstructions_there_is_no_distance() -> None:
    points = to_lattice(np.eye(4, dtype=np.float32))
    found = measure(points, None, points[:2].astype(np.int32), uncertainty="margin")
    assert np.isnan(found.distance).all()
    assert not found.has_distance
    assert found.histograms.shape == (2, CELLS)
    assert found.histograms[1].tolist() == histogram(np.zeros(4, np.int16)).tolist()
