"""One plain sentence an image, the right way up in every option."""

from typing import Any

import numpy as np
import pytest

from clients.reasons import WORDS, dual_reasons, reason_of
from clients.strategies.registry import STRATEGIES
from common.config.selection import Score
from common.plan import Selection
from common.selection.ranks import Measured

# Of ten images over all sites, one has the smallest U and the largest R.
HISTOGRAMS = np.zeros((2, 4096), np.int64)
HISTOGRAMS[0, [3, 9]] = 1, 9
HISTOGRAMS[1, [2, 7]] = 8, 2


def sentence(u: int, r: int, distance: bool = True, **settings: Any) -> str:
    selection = Selection(
        "dual", "dual", Score.model_validate(settings), "dual/sphere", distance, "angle", "pooled",
        (0.2,),
    )  # fmt: skip
    values = np.zeros(1)
    measured = Measured(
        values, values, np.zeros(1, np.int64), np.array([u], np.int16), np.array([r], np.int16),
        distance,
    )  # fmt: skip
    (text,) = dual_reasons(selection, measured, HISTOGRAMS)
    return text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "Between two groups of images, more so than 90% of all sites' images; nearer to its "
             "redrawing in the source's style than 0%."),
        ({"representative": "far"}, "farther from its redrawing in the source's style than 80%."),
        ({"uncertainty": "entropy"}, "Hard to assign to one group, more so than 0% of"),
        ({"uncertainty": "span"}, "Hard to assign to one group, more so than 90% of"),
        ({"uncertainty": "min_gap"}, "Two groups of images are equally far, more so than 90%"),
        ({"omega": 0.0}, "more so than 90% of all sites' images."),
    ],
)  # fmt: skip
def test_where_an_image_stands_among_all(settings: dict[str, Any], words: str) -> None:
    assert words in sentence(3, 7, **settings)


def test_without_reconstructions_none_is_spoken_of() -> None:
    assert "redrawing" not in sentence(3, 7, distance=False)


def test_every_strategy_has_its_sentence_and_your_own_its_name() -> None:
    assert set(WORDS) == set(STRATEGIES)
    assert reason_of("mine.parts:oldest") == "Chosen by mine.parts:oldest."
