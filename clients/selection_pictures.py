"""Pictures of what a site's arms chose: the sphere, t-SNE, the score. They stay at the site.

Every point is one image of the pool, so none of these may cross; the server's report has densities
and counts in their place.

Legend: N = images shown, D = dimensions of the embedding.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from clients.pictures import png
from common import page

POINTS = 1500
"""Images drawn at most: more is slow to lay out, and no clearer."""

Points = NDArray[np.floating]
Mask = NDArray[np.bool_]

_BACKDROP = "#97a1aa"
"""Images nobody chose: drawn as pixels, so in a colour that does in light and dark."""
_ELEVATION = math.radians(22)


def sample(images: int, seed: int) -> NDArray[np.int64]:
    """Places of at most `POINTS` images, drawn at random, in order."""
    if images <= POINTS:
        return np.arange(images)
    return np.sort(np.random.default_rng(seed).choice(images, POINTS, replace=False))


def on_sphere(z_ND: Points) -> tuple[NDArray[np.float64], float]:
    """The embeddings' three main directions, each image on the unit sphere (P2 Fig. 3 c, d).

    Returns:
        (N, 3) of length 1, and the share of the variance that the three directions hold.
    """
    centred_ND = np.asarray(z_ND, np.float64) - np.mean(z_ND, axis=0, dtype=np.float64)
    _, strength, directions = np.linalg.svd(centred_ND, full_matrices=False)
    axes = np.zeros((3, centred_ND.shape[1]))
    axes[: len(directions[:3])] = directions[:3]
    # A direction may point either way: towards its largest entry.
    largest = np.abs(axes).argmax(axis=1)
    axes *= np.where(axes[np.arange(3), largest] < 0, -1.0, 1.0)[:, None]
    flat_N3 = centred_ND @ axes.T
    lengths = np.linalg.norm(flat_N3, axis=1, keepdims=True)
    total = float(np.square(strength).sum())
    share = float(np.square(strength[:3]).sum()) / total if total else 0.0
    return flat_N3 / np.maximum(lengths, 1e-12), share


def sphere_plot(z_ND: Points, cluster_N: NDArray[np.integer]) -> tuple[Markup, float]:
    """P2 Fig. 3: the pool on the sphere, before and after clustering.

    Args:
        z_ND: Embeddings.
        cluster_N: Nearest centroid of each.

    Returns:
        SVG, and the share of the variance that is seen.
    """
    sphere_N3, share = on_sphere(z_ND)
    kinds = np.unique(cluster_N)
    azimuth = _best_side(sphere_N3)
    size = float(np.clip(60 / math.sqrt(len(z_ND)), 2.4, 4.6))
    with page.drawing():
        drawn = page.figure(920, 430)
        before, after = drawn.subplots(1, 2)
        for axes, title in ((before, "before clustering"), (after, "after clustering")):
            _globe(axes, azimuth)
            axes.set_title(title)
        _scatter(before, sphere_N3, page.MUTED, azimuth, size)
        for kind in kinds:
            color = page.SERIES[int(kind) % len(page.SERIES)]
            _scatter(after, sphere_N3[cluster_N == kind], color, azimuth, size)
    counts = ", ".join(f"{int((cluster_N == kind).sum())} in cluster {kind + 1}" for kind in kinds)
    alt = f"{len(z_ND)} images as points on a sphere, before and after clustering: {counts}."
    return page.svg(drawn, name="sphere", alt=alt), share


def _best_side(sphere_N3: NDArray[np.float64]) -> float:
    """From where most points lie on the near side."""
    turns = np.radians(np.arange(5, 365, 15))
    near = [int((_seen(sphere_N3, turn)[2] >= 0).sum()) for turn in turns]
    return float(turns[int(np.argmax(near))])


def _globe(axes: Axes, azimuth: float) -> None:
    """A sphere seen from outside: its outline, meridians and parallels, the far side pale."""
    turn = np.linspace(0, 2 * np.pi, 181)
    axes.plot(np.cos(turn), np.sin(turn), color=page.RULE, linewidth=1.2)
    circles = [
        np.stack([np.cos(turn) * math.cos(lat), np.sin(turn) * math.cos(lat),
                  np.full_like(turn, math.sin(lat))], axis=1)
        for lat in np.radians([-60, -30, 0, 30, 60])
    ] + [
        np.stack([np.cos(turn) * math.cos(lon), np.cos(turn) * math.sin(lon), np.sin(turn)], axis=1)
        for lon in np.radians([0, 30, 60, 90, 120, 150])
    ]  # fmt: skip
    for circle_N3 in circles:
        x_N, y_N, depth_N = _seen(circle_N3, azimuth)
        for side, alpha in ((depth_N >= 0, 0.9), (depth_N < 0, 0.35)):
            axes.plot(
                np.where(side, x_N, np.nan), np.where(side, y_N, np.nan), color=page.RULE,
                linewidth=0.6, alpha=alpha,
            )  # fmt: skip
    axes.set_aspect("equal")
    axes.set_axis_off()


def _scatter(
    axes: Axes, sphere_N3: NDArray[np.float64], color: str, azimuth: float, size: float
) -> None:
    x_N, y_N, depth_N = _seen(sphere_N3, azimuth)
    for side, alpha, shown in ((depth_N < 0, 0.3, 0.75 * size), (depth_N >= 0, 0.85, size)):
        axes.plot(x_N[side], y_N[side], "o", color=color, alpha=alpha, markersize=shown,
                  markeredgewidth=0)  # fmt: skip


def _seen(points_N3: NDArray[np.float64], azimuth: float) -> tuple[NDArray[np.float64], ...]:
    """Right, up and towards the eye, of points in space, from that side."""
    x, y, z = points_N3.T
    right = -x * math.sin(azimuth) + y * math.cos(azimuth)
    ahead = x * math.cos(azimuth) + y * math.sin(azimuth)
    up = z * math.cos(_ELEVATION) - ahead * math.sin(_ELEVATION)
    return right, up, z * math.sin(_ELEVATION) + ahead * math.cos(_ELEVATION)


def tsne(z_ND: Points, seed: int) -> NDArray[np.float64]:
    """(N, 2) t-SNE of the embeddings; the same seed gives the same picture."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, max(1.0, (len(z_ND) - 1) / 3))
    found = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
    flat: NDArray[np.float64] = found.fit_transform(np.asarray(z_ND, np.float64)).astype(np.float64)
    return flat


def tsne_plot(flat_N2: NDArray[np.float64], chosen: Mapping[str, Mask], main: str) -> Markup:
    """P2 Fig. 4: one panel an arm, its choice marked among the pool.

    Args:
        flat_N2: As `tsne` gives it.
        chosen: Arm to (N,) whether the image is in its choice.
        main: The leading arm.
    """
    columns = min(4, max(2, len(chosen)))
    rows = math.ceil(len(chosen) / columns)
    with page.drawing():
        drawn = page.figure(920, rows * (212 if columns > 2 else 380) + 8)
        grid = drawn.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(chosen) :]:
            axes.set_visible(False)
        for axes, (arm, mask_N) in zip(grid.flat, chosen.items(), strict=False):
            axes.plot(*flat_N2[~mask_N].T, "o", color=_BACKDROP, markersize=2.6, alpha=0.55,
                      markeredgewidth=0, rasterized=True)  # fmt: skip
            axes.plot(*flat_N2[mask_N].T, "o", color=page.ACCENT if arm == main else page.INK,
                      markersize=3.6, markeredgewidth=0)  # fmt: skip
            axes.set_title(arm)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines["bottom"].set_visible(False)
            axes.spines["left"].set_visible(False)
    counts = ", ".join(f"{arm} {int(mask_N.sum())}" for arm, mask_N in chosen.items())
    alt = f"t-SNE of {len(flat_N2)} images with the chosen ones marked: {counts}."
    return page.svg(drawn, name="tsne", alt=alt)


def score_plot(
    uncertainty_N: NDArray[np.float64], distance_N: NDArray[np.float64], chosen_N: Mask
) -> Markup:
    """The dual score's two numbers of every image; the chosen ones lie where both are preferred.

    Args:
        uncertainty_N: U.
        distance_N: R, in radians or the embeddings' own unit.
        chosen_N: Whether the image was chosen.
    """
    with page.drawing():
        drawn = page.figure(920, 330)
        axes = drawn.subplots()
        axes.plot(uncertainty_N[~chosen_N], distance_N[~chosen_N], "o", color=page.MUTED,
                  markersize=3.2, alpha=0.5, markeredgewidth=0)  # fmt: skip
        axes.plot(uncertainty_N[chosen_N], distance_N[chosen_N], "o", color=page.ACCENT,
                  markersize=4.4, markeredgewidth=0)  # fmt: skip
        axes.set_xlabel("uncertainty")
        axes.set_ylabel("distance to the reconstruction")
        axes.margins(0.04)
    alt = (
        f"Uncertainty and distance of {len(chosen_N)} images; the {int(chosen_N.sum())} chosen "
        "ones are marked."
    )
    return page.svg(drawn, name="score", alt=alt)


def picture(image_HW: NDArray[np.uint8], *, alt: str) -> Markup:
    """A grey image as inline SVG."""
    height, width = image_HW.shape
    return Markup(
        f'<svg class="picture" role="img" aria-label="{Markup.escape(alt)}" '
        f'viewBox="0 0 {width} {height}"><image width="{width}" height="{height}" '
        f'href="{png(np.ascontiguousarray(image_HW))}"/></svg>'
    )


def ends(count: int, shown: int) -> Sequence[int]:
    """Places of the first and the last of a list, at most so many."""
    if count <= shown:
        return range(count)
    first = math.ceil(shown / 2)
    return [*range(first), *range(count - (shown - first), count)]
