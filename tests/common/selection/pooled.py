"""The pooled choice, written once more in plain loops: what the federated halves must equal.

Nothing of common.selection is used here, only its definition (whole numbers, ties, draws).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from common.seeds import seed_of

UNIT, CELLS = 32768, 4096
Vector = list[int]


@dataclass
class Choice:
    """Score (a fraction for ranks), order and chosen rows, all over the pooled images."""

    centroids: list[Vector]
    cluster: list[int]
    score: list[Any]
    order: list[int]
    chosen: dict[float, list[int]]


def lattice(z: np.ndarray, exponent: int = 0) -> list[Vector]:
    return [[round(float(v) * UNIT / 2**exponent) for v in row] for row in z]


def squared(a: Vector, b: Vector) -> int:
    return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))


def draw(points: list[Vector], metric: str, seed: int, restart: int, number: int) -> Vector:
    n, dimensions = len(points), len(points[0])
    normal = np.random.default_rng(seed_of(seed, "centroid", restart, number)).standard_normal(
        dimensions
    )
    value = []
    for d in range(dimensions):
        column = [point[d] for point in points]
        total, square = sum(column), sum(v * v for v in column)
        variance = (n * square - total * total) / n**2
        value.append(total / n + math.sqrt(variance) * float(normal[d]))
    if metric == "euclidean":
        return [min(max(round(v), -UNIT), UNIT) for v in value]
    return unit(value) or [UNIT if d == number % dimensions else 0 for d in range(dimensions)]


def unit(value: Sequence[float]) -> Vector | None:
    length = math.sqrt(math.fsum(float(v) * float(v) for v in value))
    return [round(v * (UNIT / length)) for v in value] if length else None


def kmeans(
    points: list[Vector], k: int, restarts: int, iterations: int, metric: str, seed: int
) -> list[Vector]:
    found = []
    for restart in range(restarts):
        centroids = [draw(points, metric, seed, restart, j) for j in range(k)]
        drawn = k
        for iteration in range(1, iterations + 1):
            labels = [int(np.argmin([squared(x, c) for c in centroids])) for x in points]
            inertia = sum(squared(x, centroids[j]) for x, j in zip(points, labels, strict=True))
            new = []
            for j in range(k):
                own = [x for x, label in zip(points, labels, strict=True) if label == j]
                total = [sum(column) for column in zip(*own, strict=True)]
                centre = None
                if own:
                    centre = (
                        [round(t / len(own)) for t in total]
                        if metric == "euclidean"
                        else unit(total)
                    )
                if centre is None:
                    centre = draw(points, metric, seed, restart, drawn)
                    drawn += 1
                new.append(centre)
            if new == centroids or iteration == iterations:
                break
            centroids = new
        found.append((inertia, restart, centroids))
    return min(found)[2]


def apart(a: Vector, b: Vector, metric: str) -> float:
    near, far = squared(a, b), squared(a, [-v for v in b])
    if metric == "euclidean":
        return min(math.sqrt(near) / UNIT, 2.0)
    if not near:
        return 0.0
    return 2 * math.atan(math.sqrt(near / far)) if far else math.pi


def uncertainty_of(theta: list[float], kind: str) -> float:
    if kind == "entropy":
        weights = [math.exp(-(t - min(theta)) / 0.1) for t in theta]
        shares = [w / sum(weights) for w in weights]
        return -sum(s * math.log(s) for s in shares if s > 0)
    ordered = sorted(theta)
    if kind == "margin":
        return ordered[1] - ordered[0]
    if kind == "span":
        return ordered[-1] - ordered[0]
    return min(abs(p - q) for i, p in enumerate(theta) for q in theta[:i])


def mid_ranks(cells: list[int], turned: bool) -> list[Fraction]:
    values = [-c for c in cells] if turned else cells
    return [
        Fraction(2 * sum(o < v for o in values) + sum(o == v for o in values) + 1, 2)
        for v in values
    ]


def worth(cells: list[int], top: float, combine: str, turned: bool) -> list[Any]:
    n = len(cells)
    if combine == "rank":
        return [rank / n for rank in mid_ranks(cells, turned)]
    if combine == "raw":
        values = [(c + 0.5) * (top / CELLS) for c in cells]
        return [top - v for v in values] if turned else values
    total, square = sum(cells), sum(c * c for c in cells)
    spread = math.sqrt((n * square - total * total) / n**2)
    z = [(c - total / n) / spread if spread else 0.0 for c in cells]
    return [-v for v in z] if turned else z


def pooled_choice(
    images: np.ndarray,
    reconstructions: np.ndarray | None,
    digests: Sequence[str],
    *,
    study: str,
    alphas: Sequence[float],
    clusters: int,
    omega: float,
    uncertainty: str,
    combine: str,
    representative: str,
    restarts: int,
    iterations: int,
    metric: str,
    exponent: int,
    seed: int,
) -> Choice:
    points = lattice(images, exponent)
    top = math.pi if metric == "angle" else 2.0
    centroids = kmeans(points, clusters, restarts, iterations, metric, seed)
    cluster = [int(np.argmin([squared(x, c) for c in centroids])) for x in points]
    u_top = math.log(clusters) if uncertainty == "entropy" else top
    u = [uncertainty_of([apart(x, c, metric) for c in centroids], uncertainty) for x in points]
    u_cells = [min(int(v * (CELLS / u_top)), CELLS - 1) for v in u]
    score = worth(u_cells, u_top, combine, uncertainty == "entropy")
    if reconstructions is not None:
        others = lattice(reconstructions, exponent)
        r = [apart(x, y, metric) for x, y in zip(points, others, strict=True)]
        r_cells = [min(int(v * (CELLS / top)), CELLS - 1) for v in r]
        extra = worth(r_cells, top, combine, representative == "far")
        weight: Any = Fraction(omega) if combine == "rank" else omega
        score = [a + weight * b for a, b in zip(score, extra, strict=True)]
    hashes = [
        hashlib.sha256(f"{study}\x1f\x1f{digest}".encode()).digest()[:8] for digest in digests
    ]
    order = sorted(range(len(points)), key=lambda i: (score[i], hashes[i], i))
    chosen = {
        alpha: sorted(order[: math.ceil(Fraction(repr(alpha)) * len(points))]) for alpha in alphas
    }
    return Choice(centroids, cluster, score, order, chosen)
