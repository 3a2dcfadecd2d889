import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common import statistics
from common.statistics import cluster_bootstrap, holm, macro_mean, paired_wilcoxon, stouffer


def test_the_estimate_is_the_mean_over_images_not_over_patients() -> None:
    values, patients = np.array([1.0, 1.0, 1.0, 0.0]), np.array([7, 7, 7, 3])
    estimate = cluster_bootstrap(values, patients)
    assert estimate.mean == 0.75
    assert (estimate.n_images, estimate.n_clusters) == (4, 2)
    # Two clusters drawn twice: both the first (0), both the second (1), or one each (.75).
    assert (estimate.ci_low, estimate.ci_high) == (0.0, 1.0)
    # 1/4 * 0 + 1/2 * .75 + 1/4 * 1 = .625; variance 1/2 * .5625 + 1/4 - .625^2
    assert estimate.variance == pytest.approx(0.140625, rel=0.1)


def test_one_image_a_cluster_is_the_textbook_bootstrap() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 400)
    estimate = cluster_bootstrap(values, np.arange(400), samples=4000)
    error = values.std() / 20
    assert estimate.variance == pytest.approx(error**2, rel=0.1)
    assert estimate.ci_low == pytest.approx(values.mean() - 1.96 * error, abs=error / 5)
    assert estimate.ci_high == pytest.approx(values.mean() + 1.96 * error, abs=error / 5)


def test_frames_of_one_patient_do_not_narrow_the_interval() -> None:
    of_patients = np.random.default_rng(1).normal(0.7, 0.1, 17)
    once = cluster_bootstrap(of_patients, np.arange(17))
    often = cluster_bootstrap(of_patients.repeat(19), np.arange(17).repeat(19))
    assert often.variance == pytest.approx(once.variance)
    assert (often.ci_low, often.ci_high) == pytest.approx((once.ci_low, once.ci_high))


def test_coverage_is_near_the_level() -> None:
    rng = np.random.default_rng(2)
    patients = np.arange(30).repeat(4)
    covered = 0
    for repeat in range(200):
        values = rng.normal(0, 1, 30).repeat(4) + rng.normal(0, 0.3, 120)
        estimate = cluster_bootstrap(values, patients, samples=400, seed=repeat)
        covered += estimate.ci_low <= 0 <= estimate.ci_high
    assert 0.88 <= covered / 200 <= 0.99


def test_one_patient_has_no_interval() -> None:
    estimate = cluster_bootstrap(np.array([0.2, 0.4]), np.array([5, 5]))
    assert estimate.mean == pytest.approx(0.3)
    assert np.isnan([estimate.ci_low, estimate.ci_high, estimate.variance]).all()


def test_draws_in_pieces_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values, patients = np.random.default_rng(3).random(50), np.arange(50) // 3
    whole = cluster_bootstrap(values, patients, seed=9)
    monkeypatch.setattr(statistics, "_CELLS_AT_ONCE", 1000)
    assert cluster_bootstrap(values, patients, seed=9) == whole
    assert cluster_bootstrap(values, patients, seed=10) != whole


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.float64, 12, elements=st.floats(0, 1)),
    hnp.arrays(np.int64, 12, elements=st.integers(-1, 5)),
)
def test_bootstrap_properties(values: np.ndarray, clusters: np.ndarray) -> None:
    estimate = cluster_bootstrap(values, clusters, samples=100)
    if estimate.n_clusters > 1:
        assert values.min() - 1e-9 <= estimate.ci_low <= estimate.ci_high <= values.max() + 1e-9
        assert estimate.variance >= 0
    relabelled = cluster_bootstrap(values, clusters * 10 + 3, samples=100)
    assert relabelled == pytest.approx(estimate) or np.isnan(estimate.variance)


def test_wilcoxon_by_hand() -> None:
    # Differences 1..5, all positive: of 2^5 sign patterns only 2 are as extreme, p = 1/16.
    b = np.zeros(5)
    paired = paired_wilcoxon(np.arange(1.0, 6.0), b, np.arange(5))
    assert paired.p == pytest.approx(0.0625)
    assert (paired.difference, paired.n) == (3.0, 5)
    assert paired.z == pytest.approx(1.8627, abs=1e-3)
    assert paired_wilcoxon(b, np.arange(1.0, 6.0), np.arange(5)).z == pytest.approx(-paired.z)


def test_wilcoxon_counts_patients_and_not_frames() -> None:
    a, patients = np.arange(1.0, 6.0).repeat(30), np.arange(5).repeat(30)
    assert paired_wilcoxon(a, np.zeros(150), patients).p == pytest.approx(0.0625)


def test_wilcoxon_without_any_difference() -> None:
    a = np.random.default_rng(0).random(9)
    assert paired_wilcoxon(a, a, np.arange(9)) == statistics.Paired(0.0, 1.0, 0.0, 9)
    # Frames differ, the patient's mean does not.
    assert paired_wilcoxon(np.array([0.1, 0.2]), np.array([0.2, 0.1]), np.array([1, 1])).p == 1


def test_wilcoxon_keeps_the_ranks_direction_where_the_mean_disagrees() -> None:
    a = np.array([*np.linspace(0.01, 0.03, 19), -9.0])
    paired = paired_wilcoxon(a, np.zeros(20), np.arange(20))
    assert paired.difference < 0 < paired.z
    assert paired.p < 0.01


def test_stouffer_by_hand() -> None:
    assert stouffer([1.0, 1.0, 1.0, 1.0]).z == pytest.approx(2.0)
    assert stouffer([1.0, 1.0, 1.0, 1.0]).p == pytest.approx(0.0455, abs=1e-4)
    assert stouffer([2.0, -2.0]).p == pytest.approx(1.0)
    assert stouffer([3.0, 0.0], weights=[3.0, 4.0]).z == pytest.approx(9 / 5)
    with pytest.raises(ValueError, match="nothing"):
        stouffer([])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_properties(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(raw <= new <= 1 for raw, new in zip(p, adjusted, strict=True))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.asarray(adjusted)[order]) >= 0).all()


def test_macro_mean_by_hand() -> None:
    macro = macro_mean([0.6, 0.8], [0.0009, 0.0016])
    assert macro.mean == pytest.approx(0.7)
    assert macro.ci_high - macro.mean == pytest.approx(1.96 * 0.05 / 2, abs=1e-4)
    assert macro.n_sites == 2
    assert np.isnan(macro_mean([0.6, 0.8], [0.1, float("nan")]).ci_low)
