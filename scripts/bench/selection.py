"""Bench `selection`: the choice over four sites, against k-means and k-center on pooled data.

Ours is all that the sites and the server compute, in one process: rounding to the lattice, moments,
k-means, uncertainty and distance, ranks, the cut at 20 %. The plain way has all embeddings in one
place: scikit-learn's KMeans alone (no score, no choice), or k-center greedy (Core-Set), of which a
few picks are timed. Memory is what is needed beyond the embeddings.

The last records are of another kind: with a minimum cohort the choice is no longer exactly that of
pooling. `overlap_20` says how much of it is the same, `overlap_20_other_seed` how much of the exact
choice stays the same when k-means starts from another seed; the reference's time is without cohort.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from clients.cohort import Reported, guarded_moments, guarded_step, merge_cells
from common.selection.assignment import Assignment, Moments, Sums, moments_of
from common.selection.cut import (
    Keys,
    budget_of,
    chosen,
    count_keys,
    narrow,
    open_cut,
    score_words,
)
from common.selection.kmeans import Clustering, advance, start
from common.selection.lattice import UNIT, chunks, to_lattice
from common.selection.ranks import Measured, make_tables, measure
from scripts.bench.measure import Facts, Record, Stopwatch, Work, compare, peak_rss_mb, record

SITES = 4
CLUSTERS = 4
ITERATIONS = 20
ALPHA = 0.2
RESTARTS = 10
COHORT = 5
BLOBS = 12
PHASES = ("lattice", "moments", "cluster", "cells", "cut")

Embeddings = NDArray[np.float32]
Image = tuple[str, int]
"""Site and row."""


def run(
    *,
    images: Sequence[int] = (250_000, 500_000, 1_000_000),
    dimensions: int = 256,
    restarts: int = RESTARTS,
    picks: int = 5,
    cohort_images: Sequence[int] = (600, 6000),
    studies: int = 5,
    repeats: int = 1,
    seed: int = 0,
    fresh: bool = True,
) -> Iterator[Record]:
    """Yields a record for each number of images, then restarts, k-center and cohort.

    Args:
        images: Numbers of images, over four sites.
        dimensions: Of an embedding.
        restarts: Of the records with several, of the fewest images and of the most; a study's
            default.
        picks: Of k-center that are timed.
        cohort_images: Of the records with a minimum cohort.
        studies: Behind each of these.
        repeats: Of each way.
        seed: Of the embeddings.
        fresh: Each way in a process of its own.
    """
    for number in images:
        yield _compared(number, dimensions, 1, repeats, seed, fresh)
    for number in dict.fromkeys((images[0], images[-1])):
        yield _compared(number, dimensions, restarts, repeats, seed, fresh)
    ours, reference = compare(
        federated, k_center, repeats=repeats, fresh=fresh, images=images[0],
        dimensions=dimensions, restarts=1, picks=picks, seed=seed,
    )  # fmt: skip
    yield record(
        f"selection {images[0]} against k-center", ours, reference,
        images=images[0], dimensions=dimensions, repeats=repeats,
        reference_is=f"extrapolated from {picks} of {budget_of(ALPHA, images[0])} picks",
    )  # fmt: skip
    for number in cohort_images:
        yield _with_cohort(number, dimensions, studies, repeats, seed)


def _with_cohort(images: int, dimensions: int, studies: int, repeats: int, seed: int) -> Record:
    ours, reference = compare(
        guarded, exact, repeats=repeats, fresh=False, images=images, dimensions=dimensions,
        studies=studies, seed=seed,
    )  # fmt: skip
    wanted = reference.facts["found"]
    same = _overlaps(ours.facts["found"], wanted)
    other = _overlaps(reference.facts["other_seed"], wanted)
    return record(
        f"selection {images} with a minimum cohort of {COHORT}", ours, reference,
        images=images, dimensions=dimensions, repeats=repeats, studies=studies,
        overlap_20=sum(same) / studies, overlap_20_least=min(same),
        overlap_20_other_seed=sum(other) / studies,
    )  # fmt: skip


def _overlaps(found: Sequence[set[Image]], wanted: Sequence[set[Image]]) -> list[float]:
    return [len(a & b) / len(b) for a, b in zip(found, wanted, strict=True)]


def _compared(
    images: int, dimensions: int, restarts: int, repeats: int, seed: int, fresh: bool
) -> Record:
    ours, reference = compare(
        federated, scikit_learn, repeats=repeats, fresh=fresh, images=images,
        dimensions=dimensions, restarts=restarts, picks=0, seed=seed,
    )  # fmt: skip
    return record(
        f"selection {images}, {restarts} restart{'s' if restarts > 1 else ''}", ours, reference,
        images=images, dimensions=dimensions, repeats=repeats,
        extra_mb=ours.facts["extra_mb"], reference_extra_mb=reference.facts["extra_mb"],
        iterations=ours.facts["iterations"], reference_iterations=reference.facts["iterations"],
        inertia=ours.facts["inertia"], reference_inertia=reference.facts["inertia"],
        **{phase: ours.facts[phase] for phase in PHASES},
    )  # fmt: skip


def federated(*, images: int, dimensions: int, restarts: int, picks: int, seed: int) -> Work:
    """Ours, over four sites."""
    sites = _sites(images, dimensions, seed)

    def work() -> tuple[float, Facts]:
        before = _forget_peak()
        result = choose(sites, restarts=restarts, seed=seed)
        facts: Facts = {phase: result.watches[phase].seconds for phase in PHASES}
        facts |= {
            "extra_mb": peak_rss_mb() - before,
            "iterations": result.clustering.iteration,
            "inertia": min(result.clustering.inertia) / UNIT**2 / images,
        }
        for site in sites:  # as they were, for the next repeat; exact, and not timed
            for z in (site.images, site.reconstructions):
                z *= np.float32(1 / UNIT)
        return sum(watch.seconds for watch in result.watches.values()), facts

    return work


def scikit_learn(*, images: int, dimensions: int, restarts: int, picks: int, seed: int) -> Work:
    """scikit-learn's KMeans over the pooled embeddings."""
    from sklearn.cluster import KMeans

    z = _embeddings(images, dimensions, seed)[0]

    def work() -> tuple[float, Facts]:
        before = _forget_peak()
        with Stopwatch() as watch:
            found = KMeans(CLUSTERS, n_init=restarts, max_iter=ITERATIONS, random_state=seed).fit(z)
        extra = peak_rss_mb() - before
        # As ours: from centroids brought to length 1, of which x.c adds up to n |mean|.
        counts = np.bincount(found.labels_, minlength=CLUSTERS)
        cosine = float(counts @ np.linalg.norm(found.cluster_centers_, axis=1)) / images
        return watch.seconds, {
            "extra_mb": extra, "iterations": int(found.n_iter_), "inertia": 2 - 2 * cosine,
        }  # fmt: skip

    return work


def k_center(*, images: int, dimensions: int, restarts: int, picks: int, seed: int) -> Work:
    """k-center greedy: each pick is the image farthest from all picked before."""
    z = _embeddings(images, dimensions, seed)[0]

    def work() -> tuple[float, Facts]:
        nearest = np.full(images, np.inf, np.float32)
        place = 0
        with Stopwatch() as watch:
            for _ in range(picks):
                np.minimum(nearest, 2 - 2 * (z @ z[place]), out=nearest)
                place = int(nearest.argmax())
        return watch.seconds / picks * budget_of(ALPHA, images), {}

    return work


def guarded(*, images: int, dimensions: int, studies: int, seed: int) -> Work:
    """Ours with a minimum cohort, over several small studies."""
    return _studies(images, dimensions, studies, seed, COHORT)


def exact(*, images: int, dimensions: int, studies: int, seed: int) -> Work:
    """Ours without: what pooling would choose; and what it would with another seed of k-means."""
    work = _studies(images, dimensions, studies, seed, 0)
    other = _studies(images, dimensions, studies, seed, 0, shift=studies)

    def both() -> tuple[float, Facts]:
        seconds, facts = work()
        return seconds, {**facts, "other_seed": other()[1]["found"]}

    return both


def _studies(
    images: int, dimensions: int, studies: int, seed: int, cohort: int, shift: int = 0
) -> Work:
    def work() -> tuple[float, Facts]:
        seconds, found = 0.0, []
        for study in range(seed, seed + studies):
            sites = _sites(images, dimensions, study)
            result = choose(sites, restarts=RESTARTS, seed=study + shift, cohort=cohort)
            seconds += sum(watch.seconds for watch in result.watches.values())
            found.append(result.chosen)
        return seconds, {"found": found}

    return work


@dataclass(frozen=True)
class Site:
    """Embeddings of one site's images and reconstructions, unit vectors; rounded in place."""

    name: str
    images: Embeddings
    reconstructions: Embeddings


@dataclass
class Choice:
    """What was chosen, and what it cost."""

    clustering: Clustering
    chosen: set[Image]
    watches: dict[str, Stopwatch] = field(default_factory=dict)


class Names(Sequence[str]):
    """Digests of a site's images, made when they are asked for."""

    def __init__(self, site: str, images: int) -> None:
        self.site, self.images = site, images

    def __len__(self) -> int:
        return self.images

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...

    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        return f"{self.site} {row}"


def choose(sites: Sequence[Site], *, restarts: int, seed: int, cohort: int = 0) -> Choice:
    """The stages' work without their messages."""
    watches = {phase: Stopwatch() for phase in PHASES}
    with watches["lattice"]:
        for site in sites:
            for z in (site.images, site.reconstructions):
                to_lattice(z, out=z)
    with watches["moments"]:
        moments = _pooled([guarded_moments(s.images, cohort) if cohort else moments_of(s.images)
                           for s in sites])  # fmt: skip
    with watches["cluster"]:
        clustering = start(
            moments, clusters=CLUSTERS, restarts=restarts, iterations=ITERATIONS, metric="angle",
            seed=seed,
        )  # fmt: skip
        assignments = [Assignment(site.images) for site in sites]
        reported = [Reported.of_whole(len(site.images)) for site in sites] if cohort else []
        while not clustering.finished:
            block = clustering.centroids
            if cohort:
                sums = [
                    guarded_step(site.images, block, cohort, said)
                    for site, said in zip(sites, reported, strict=True)
                ]
            else:
                sums = [assignment.step(block) for assignment in assignments]
            clustering = advance(clustering, _summed(sums))
        del assignments
    with watches["cells"]:
        measured = [
            measure(site.images, site.reconstructions, clustering.result, uncertainty="margin")
            for site in sites
        ]
        counts = sum((merge_cells(own.histograms, cohort) for own in measured), np.zeros(1, int))
    with watches["cut"]:
        found = _cut(sites, measured, counts, cohort)
    return Choice(clustering, found, watches)


def _cut(
    sites: Sequence[Site], measured: Sequence[Measured], counts: NDArray[np.int64], cohort: int
) -> set[Image]:
    tables = make_tables(
        counts, clusters=CLUSTERS, omega=1.0, uncertainty="margin", combine="rank",
        representative="near",
    )  # fmt: skip
    keys = {
        site.name: Keys(score_words(tables.score(own)), Names(site.name, len(site.images)), "bench")
        for site, own in zip(sites, measured, strict=True)
    }
    cut = open_cut([budget_of(ALPHA, sum(len(site.images) for site in sites))])
    while not cut.finished:
        cut = narrow(
            cut, {name: merge_cells(count_keys(own, cut), cohort) for name, own in keys.items()}
        )
    rows = {name: chosen(own, cut.bounds[0], name) for name, own in keys.items()}
    if sum(map(len, rows.values())) > 100_000:
        return set()  # a set of so many would cost more memory than the choice itself
    return {(name, int(row)) for name, own in rows.items() for row in own}


def _pooled(parts: Sequence[Moments]) -> Moments:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _summed(parts: Sequence[Sums]) -> Sums:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _sites(images: int, dimensions: int, seed: int) -> list[Site]:
    """Consecutive quarters of the pooled embeddings."""
    z, partners = _embeddings(images, dimensions, seed)
    return [
        Site(f"site {place}", z[rows], partners[rows])
        for place, rows in enumerate(chunks(images, -(-images // SITES)))
    ]


def _embeddings(images: int, dimensions: int, seed: int) -> tuple[Embeddings, Embeddings]:
    """Twelve directions with noise, and reconstructions near by; made in pieces, in place."""
    draw = np.random.default_rng(seed)
    means = draw.standard_normal((BLOBS, dimensions), np.float32)
    both = np.empty((2, images, dimensions), np.float32)
    for rows in chunks(images):
        z, partners = both[0, rows], both[1, rows]
        z[:] = means[draw.integers(BLOBS, size=len(z))]
        z += 1.5 * draw.standard_normal(z.shape, np.float32)
        partners[:] = z + draw.standard_normal(z.shape, np.float32)
        for part in (z, partners):
            part /= np.sqrt(np.vecdot(part, part))[:, None]
    return both[0], both[1]


def _forget_peak() -> float:
    """Start the high-water mark of this process anew, where Linux lets it; the MB in use now."""
    with contextlib.suppress(OSError):  # then the peak is of the whole life, extra_mb too small
        Path("/proc/self/clear_refs").write_text("5")
    return peak_rss_mb()
