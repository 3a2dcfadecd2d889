"""Which images are the top ceil(alpha N) of all sites, found by counting.

Every image has a key of 128 bits: its score's 64, ordered as the numbers are, then 64 bits of
SHA-256(study digest, image digest), which orders equal scores by nothing but the image. The server
wants the key at which the budget is full. It learns it digit by digit, 12 bits a round: the sites
count how many of their keys begin with what is known so far, by next digit, and the server goes on
inside the cell that the budget ends in. It stops as soon as it ends at a cell's edge. Only counts
cross, and at the end one key, the cut, goes out; a site takes all of its images up to it. Where the
cut falls among images that are equal to the last bit (one image in two hospitals), the server says
how many each site takes, in the order of the sites.

A score and a hash are cut into six digits each (12, 12, 12, 12, 12, 4 bits), so a cut takes twelve
rounds at most and six where no two scores are equal. Several budgets share their rounds.

Shape legend: N images of a site, B budgets.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.selection.arithmetic import Floats

Words = NDArray[np.uint64]

RADIX_BITS = 12
RADIX = 2**RADIX_BITS
_SHIFTS = (52, 40, 28, 16, 4, 0)
_WIDTHS = (12, 12, 12, 12, 12, 4)
ROUNDS = 2 * len(_SHIFTS)
_ONES = 2**64 - 1


def budget_of(alpha: float, images: int) -> int:
    """ceil(alpha N), with alpha as it is written: .1 of 30 is 3, not 4.

    Raises:
        ValueError: If alpha is outside (0, 1].
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is {alpha:g}, outside (0, 1]")
    return math.ceil(Fraction(repr(float(alpha))) * images)


def score_words(scores: Floats) -> Words:
    """(N,) 64 bits each, ordered as the scores are; -0 is 0.

    Raises:
        ValueError: If a score is NaN.
    """
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    bits = (np.ascontiguousarray(scores, np.float64) + 0.0).view(np.uint64)
    sign = np.uint64(1 << 63)
    words: Words = np.where(bits & sign, ~bits, bits | sign)
    return words


def tie_words(study_digest: str, image_digests: Sequence[str], salt: str = "") -> Words:
    """(N,) the first 64 bits of SHA-256 over study digest, salt and image digest.

    Args:
        study_digest: Of the study.
        image_digests: Of each image's content.
        salt: Tells two orders in one study apart.
    """
    start = hashlib.sha256(f"{study_digest}\x1f{salt}\x1f".encode())
    words = np.empty(len(image_digests), np.uint64)
    for row, image in enumerate(image_digests):
        digest = start.copy()
        digest.update(image.encode())
        words[row] = int.from_bytes(digest.digest()[:8], "big")
    return words


@dataclass(frozen=True)
class Keys:
    """The keys of a site's images, in the order of their ids.

    Attributes:
        scores: (N,) score_words.
        digests: N digests of the images; hashed only where scores are equal.
        study_digest: Of the study.
        salt: See tie_words.
    """

    scores: Words
    digests: Sequence[str]
    study_digest: str
    salt: str = ""

    def ties(self, rows: NDArray[np.intp]) -> Words:
        """Hash words of some rows."""
        return tie_words(self.study_digest, [self.digests[row] for row in rows], self.salt)


@dataclass(frozen=True)
class Bound:
    """What is known of one budget's cut.

    Attributes:
        score: 64 bits, of which the first digits are known; the others are 0, or 1 once found.
        tie: The same of the hash.
        left: Images still wanted from the cell that the known digits name.
        found: Whether all images up to (score, tie) are taken; `left` of them are then 0.
        equal: By site, how many of the images with just this key are taken; empty: all.
    """

    score: int
    tie: int
    left: int
    found: bool = False
    equal: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """Where the search for all budgets stands. Explicit, serialisable, changed by `narrow` alone.

    Attributes:
        round: Digits known of every budget that is not found yet.
        bounds: One a budget.
    """

    round: int
    bounds: tuple[Bound, ...]

    @property
    def finished(self) -> bool:
        """Whether every budget's cut is found."""
        return all(bound.found for bound in self.bounds)

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "round": self.round,
            "bounds": [
                {
                    "score": bound.score, "tie": bound.tie, "left": bound.left,
                    "found": bound.found, "equal": dict(bound.equal),
                }
                for bound in self.bounds
            ],
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Cut":
        """What `to_json` gave."""
        return cls(values["round"], tuple(Bound(**bound) for bound in values["bounds"]))

    def to_words(self, site: str = "") -> NDArray[np.int64]:
        """(1 + B, 4) as it crosses: the round; then score, tie, found, and equal ones to take.

        Args:
            site: Whose share of equal keys is told.
        """
        rows = [[self.round, 0, 0, 0]]
        for bound in self.bounds:
            equal = bound.equal.get(site, 0) if bound.equal else -1
            rows.append([_signed(bound.score), _signed(bound.tie), int(bound.found), equal])
        return np.array(rows, np.int64)

    @classmethod
    def from_words(cls, words: NDArray[np.int64], site: str = "") -> "Cut":
        """What a site reads in `to_words(site)`; `left` is the server's own."""
        bounds = []
        for score, tie, found, equal in words[1:].tolist():
            told = {} if equal < 0 else {site: equal}
            bounds.append(Bound(score & _ONES, tie & _ONES, 0, bool(found), told))
        return cls(int(words[0, 0]), tuple(bounds))


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def open_cut(budgets: Sequence[int]) -> Cut:
    """Nothing is known yet; a budget of no image is found at once, below every key."""
    return Cut(0, tuple(Bound(0, 0, left, found=left == 0, equal={"": 0} if left == 0 else {})
                        for left in budgets))  # fmt: skip


def count_keys(keys: Keys, cut: Cut) -> NDArray[np.int64]:
    """(B, 4096) a site's keys with the known digits, by the next digit; 0 for what is found."""
    counts = np.zeros((len(cut.bounds), RADIX), np.int64)
    for place, bound in enumerate(cut.bounds):
        if not bound.found:
            counts[place] = np.bincount(_next_digits(keys, cut.round, bound), minlength=RADIX)
    return counts


def _next_digits(keys: Keys, known: int, bound: Bound) -> NDArray[np.int64]:
    half = len(_SHIFTS)
    if known < half:
        rows = _having(keys.scores, bound.score, known)
        return _digits(keys.scores[rows], known)
    ties = keys.ties(np.flatnonzero(keys.scores == np.uint64(bound.score)))
    return _digits(ties[_having(ties, bound.tie, known - half)], known - half)


def _having(words: Words, prefix: int, known: int) -> NDArray[np.bool_]:
    """Which words begin with the known digits of the prefix."""
    if known == 0:
        return np.ones(len(words), np.bool_)
    shift = np.uint64(_SHIFTS[known - 1])
    same: NDArray[np.bool_] = (words >> shift) == (np.uint64(prefix) >> shift)
    return same


def _digits(words: Words, place: int) -> NDArray[np.int64]:
    mask = np.uint64(2 ** _WIDTHS[place] - 1)
    return ((words >> np.uint64(_SHIFTS[place])) & mask).astype(np.int64)


def narrow(cut: Cut, counts: Mapping[str, NDArray[np.int64]]) -> Cut:
    """Take one round's counts.

    Args:
        cut: That they were counted for.
        counts: Site -> (B, 4096), in the order of the sites.
    """
    bounds = []
    for place, bound in enumerate(cut.bounds):
        own = {site: counted[place] for site, counted in counts.items()}
        bounds.append(bound if bound.found else _narrow(cut.round, bound, own))
    return Cut(cut.round + 1, tuple(bounds))


def _narrow(known: int, bound: Bound, counts: Mapping[str, NDArray[np.int64]]) -> Bound:
    below = np.cumsum(sum(counts.values()))
    if bound.left > below[-1]:
        # Only where sites hold small counts back: all that begins with the known digits is taken.
        return _closed(known, bound.score, bound.tie)
    digit = int(np.searchsorted(below, bound.left))
    before = int(below[digit - 1]) if digit else 0
    score, tie = bound.score, bound.tie
    half = len(_SHIFTS)
    if known < half:
        score |= digit << _SHIFTS[known]
    else:
        tie |= digit << _SHIFTS[known - half]
    if bound.left == below[digit]:
        return _closed(known + 1, score, tie)
    left = bound.left - before
    if known + 1 < ROUNDS:
        return Bound(score, tie, left)
    return Bound(
        score, tie, 0, True, _share_out(left, {s: int(c[digit]) for s, c in counts.items()})
    )


def _closed(known: int, score: int, tie: int) -> Bound:
    """The cut behind everything that begins with the known digits."""
    half = len(_SHIFTS)
    if known < half:
        open_bits = _SHIFTS[known - 1] if known else 64
        return Bound(score | (2**open_bits - 1), _ONES, 0, True)
    open_bits = _SHIFTS[known - half - 1] if known > half else 64
    return Bound(score, tie | (2**open_bits - 1), 0, True)


def _share_out(left: int, available: Mapping[str, int]) -> dict[str, int]:
    """Equal images: first site first."""
    shares = {}
    for site, count in available.items():
        shares[site] = min(left, count)
        left -= shares[site]
    return shares


def chosen(keys: Keys, bound: Bound, site: str = "") -> NDArray[np.intp]:
    """Rows of a site's images that the cut takes, in ascending order.

    Args:
        keys: Of the site.
        bound: A budget's cut, found.
        site: Whose share of equal keys counts.
    """
    score = np.uint64(bound.score)
    taken = keys.scores < score
    equal = np.flatnonzero(keys.scores == score)
    if len(equal):
        ties = keys.ties(equal)
        limit = np.uint64(bound.tie)
        taken[equal[ties < limit]] = True
        same = equal[ties == limit]
        taken[same[: bound.equal.get(site, 0)] if bound.equal else same] = True
    return np.flatnonzero(taken)


def ranking(scores: Floats, ties: Words | None = None) -> NDArray[np.intp]:
    """(N,) rows from the smallest score to the largest; equal ones by tie word, then by row.

    Raises:
        ValueError: If a score is NaN.
    """
    words = score_words(scores)
    last = np.zeros(len(words), np.uint64) if ties is None else ties
    return np.lexsort((last, words))


def select(scores: Floats, alpha: float, *, ties: Words | None = None) -> NDArray[np.intp]:
    """The ceil(alpha N) images with the smallest scores (P2 Eq. 5).

    Args:
        scores: (N,), small = worth annotating.
        alpha: In (0, 1].
        ties: (N,) words that order equal scores (`tie_words`); else, and where they are equal too,
            the row does.

    Returns:
        Their rows, ascending.

    Raises:
        ValueError: If alpha is outside (0, 1], or a score is NaN.
    """
    return np.sort(ranking(scores, ties)[: budget_of(alpha, len(scores))])
