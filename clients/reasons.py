"""Why an image stands on a worklist, in one sentence for the reader who will annotate it."""

import numpy as np
from numpy.typing import NDArray

from common.plan import Selection
from common.selection.ranks import Measured

WORDS = {
    "random": "Drawn at random.",
    "vaal": "Half of the list is drawn at random; the other half is what a network, trained to "
    "tell those from the rest of the site's images, finds least like them.",
    "coreset": "Far from everything chosen before it.",
    "entropy": "The source's classifier is undecided about it.",
    "bald": "The source's classifier contradicts itself about it under dropout.",
    "lfosa": "The source's classifier takes it for a class that it knows.",
    "typiclust": "Typical of a group of images that has none annotated yet.",
    "badge": "It would change the source's classifier much, and unlike the others chosen.",
    "probcover": "Many images that none chosen before stands for are like it.",
}


def reason_of(strategy: str) -> str:
    """The sentence of a strategy, or of somebody's own."""
    return WORDS.get(strategy, f"Chosen by {strategy}.")


def dual_reasons(
    selection: Selection, measured: Measured, histograms: NDArray[np.int64]
) -> list[str]:
    """A sentence for each image: where it stands among the images of all sites.

    Args:
        selection: Says what counts as uncertain, and whether near or far is preferred.
        measured: (N,) of the site's images.
        histograms: (2, 4096) pooled.
    """
    settings = selection.settings
    u_below, u_above = _shares(histograms[0])
    r_below, r_above = _shares(histograms[1])
    large = settings.uncertainty == "entropy"
    far = settings.representative == "far"
    between = (
        "Hard to assign to one group" if large or settings.uncertainty == "span"
        else "Between two groups of images" if settings.uncertainty == "margin"
        else "Two groups of images are equally far"
    )  # fmt: skip
    sentences = []
    for u, r in zip(measured.u_cells, measured.r_cells, strict=True):
        share = (u_below if large else u_above)[u]
        text = f"{between}, more so than {share:.0%} of all sites' images"
        if measured.has_distance and settings.omega:
            share, word = (r_below[r], "farther from") if far else (r_above[r], "nearer to")
            text += f"; {word} its redrawing in the source's style than {share:.0%}"
        sentences.append(f"{text}.")
    return sentences


def _shares(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(4096,) shares of images in lower and in higher cells."""
    total = max(1, int(counts.sum()))
    below = np.cumsum(counts) - counts
    above = counts.sum() - below - counts
    return below / total, above / total
