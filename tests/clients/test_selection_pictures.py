import math

import numpy as np
import pytest

from clients.selection_pictures import (
    POINTS,
    ends,
    on_sphere,
    picture,
    sample,
    score_plot,
    sphere_plot,
    tsne,
    tsne_plot,
)


def groups(images: int = 60, dimensions: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, dimensions)) * 2
    cluster_N = np.arange(images) % 3
    z_ND = centres[cluster_N] + rng.normal(0, 0.3, (images, dimensions))
    return z_ND / np.linalg.norm(z_ND, axis=1, keepdims=True), cluster_N


def test_three_main_directions_are_those_of_the_covariance() -> None:
    z_ND, _ = groups()
    sphere_N3, share = on_sphere(z_ND)
    assert np.linalg.norm(sphere_N3, axis=1) == pytest.approx(1.0)
    values, vectors = np.linalg.eigh(np.cov(z_ND.T))
    assert share == pytest.approx(values[-3:].sum() / values.sum())
    slow_N3 = (z_ND - z_ND.mean(axis=0)) @ vectors[:, ::-1][:, :3]
    slow_N3 /= np.linalg.norm(slow_N3, axis=1, keepdims=True)
    # A direction's sign is free: ours is the same whichever way the vector came.
    assert np.abs((slow_N3 * sphere_N3).sum(axis=0)) == pytest.approx(
        np.square(sphere_N3).sum(axis=0)
    )
    assert on_sphere(-z_ND)[0] == pytest.approx(-sphere_N3)


def test_few_dimensions_and_equal_points_have_a_place_too() -> None:
    flat_N3, share = on_sphere(np.random.default_rng(1).normal(size=(9, 2)))
    assert share == pytest.approx(1.0)
    assert np.all(flat_N3[:, 2] == 0)
    same_N3, none = on_sphere(np.ones((5, 4)))
    assert none == 0.0
    assert np.isfinite(same_N3).all()


def test_the_same_points_give_the_same_picture() -> None:
    z_ND, cluster_N = groups()
    first, share = sphere_plot(z_ND, cluster_N)
    assert (first, share) == sphere_plot(z_ND, cluster_N)
    assert "20 in cluster 1, 20 in cluster 2, 20 in cluster 3" in first
    flat_N2 = tsne(z_ND, 5)
    assert np.array_equal(flat_N2, tsne(z_ND, 5))
    chosen = {"dual": cluster_N == 0, "random": cluster_N == 1}
    assert tsne_plot(flat_N2, chosen, "dual") == tsne_plot(flat_N2, chosen, "dual")
    assert "the 20 chosen" in score_plot(z_ND[:, 0], z_ND[:, 1], cluster_N == 2)


def test_tsne_keeps_groups_together() -> None:
    z_ND, cluster_N = groups()
    flat_N2 = tsne(z_ND, 0)
    apart = np.linalg.norm(flat_N2[:, None] - flat_N2, axis=2) + np.diag([math.inf] * 60)
    assert np.mean(cluster_N[apart.argmin(axis=1)] == cluster_N) == 1.0


def test_thinning() -> None:
    assert list(sample(5, 0)) == [0, 1, 2, 3, 4]
    drawn = sample(POINTS + 100, 3)
    assert len(set(drawn)) == POINTS
    assert list(drawn) == sorted(drawn)
    assert not np.array_equal(drawn, sample(POINTS + 100, 4))
    assert list(ends(5, 9)) == [0, 1, 2, 3, 4]
    assert list(ends(10, 5)) == [0, 1, 2, 8, 9]


def test_a_picture_says_what_it_shows() -> None:
    svg = picture(np.zeros((4, 6), np.uint8), alt='i"1: image')
    assert 'viewBox="0 0 6 4"' in svg
    assert "i&#34;1" in svg
