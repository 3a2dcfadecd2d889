"""Parts a site's images into train, val and test so that no patient is on two sides."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clients.data.manifest import SPLITS, Row, is_test
from common.config.data import DataSpec, Patterns, SplitConfig
from common.errors import InputError

Unit = Literal["patient", "group", "image"]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Which rows train, validate and test.

    Attributes:
        train: Ascending row indices, int64.
        val: The same.
        test: The same.
        unit: What was kept together; the weaker unit, where rows differ.
    """

    train: Indices
    val: Indices
    test: Indices
    unit: Unit

    def ids(self, rows: Sequence[Row]) -> dict[str, list[str]]:
        """The ids on each side, as written into the site's own folder of a run."""
        return {side: [rows[i].id for i in getattr(self, side)] for side in SPLITS}


def clusters(rows: Sequence[Row]) -> tuple[Indices, Unit]:
    """Numbers the statistics units: the patient, else the group, else the image itself.

    Frames of one video are a group where the manifest names none.

    Returns:
        (N,) int64 codes in order of appearance, and which unit they are: the weaker, where
        rows differ.
    """
    codes: dict[tuple[str, str], int] = {}
    keys = [_key(row) for row in rows]
    numbers = np.array([codes.setdefault(key, len(codes)) for key in keys], dtype=np.int64)
    kinds = {kind for kind, _ in keys}
    unit: Unit = "image"
    if kinds == {"patient"}:
        unit = "patient"
    elif kinds & {"group", "video"}:
        # An image without near duplicates is a group of one.
        unit = "group"
    return numbers, unit


def split_rows(
    rows: Sequence[Row],
    config: SplitConfig,
    *,
    site: str,
    test: Mapping[str, Patterns],
    columns: Mapping[str, str] | None = None,
) -> Split:
    """Splits by patient, else by group, else by image (method.md, Images).

    The manifest's own `split` column wins, then the `test` patterns, then a draw: units in the
    order of SHA-256(seed, site, unit) go to test and then to val until the asked share of the
    images is reached. So the draw does not depend on the order of the rows. A side that the
    manifest or the patterns already fill is not drawn. Where rows of one patient carry a side and
    others none, the others follow. Patients that share a group are kept together too.

    Args:
        rows: The site's rows.
        config: Seed and shares.
        site: Name of the site: it seeds the draw and stands in the messages.
        test: Patterns of `DataSpec.test`.
        columns: `DataSpec.columns`, if `test` uses mapped names.

    Returns:
        The three index arrays; together every row exactly once.

    Raises:
        InputError: If a patient, group or video would be on two sides, naming each and its rows.
    """
    spec = DataSpec(folder=".", columns=dict(columns or {}), test=dict(test))
    given = _given_sides(rows, spec)
    units = linked(rows)
    _, unit = clusters(rows)
    members: dict[int, list[int]] = {}
    for index, code in enumerate(units):
        members.setdefault(int(code), []).append(index)
    problems: list[str] = []
    sides: dict[int, str] = {}
    for code, indices in members.items():
        named = {given[i]: i for i in reversed(indices) if given[i]}
        # A test pattern that takes part of a patient puts the rest on the other side.
        rest = [i for i in indices if not given[i]]
        if spec.test and "test" in named and rest:
            named.setdefault("train", rest[0])
        if len(named) > 1:
            told = ", ".join(f"row {rows[i].number} in {side}" for side, i in named.items())
            problems.append(
                f"site '{site}': {_name(rows[indices[0]])} is on two sides of the split: {told}"
            )
        elif named:
            sides[code] = next(iter(named))
    if problems:
        raise InputError(problems)
    _draw(rows, members, sides, config, site)
    array = np.array([sides[int(code)] for code in units])
    train, val, test_rows = (np.flatnonzero(array == side).astype(np.int64) for side in SPLITS)
    return Split(train, val, test_rows, unit)


def _key(row: Row) -> tuple[str, str]:
    for kind in ("patient", "group", "video"):
        name = getattr(row, kind)
        if name:
            return kind, name
    return "image", row.id


def _name(row: Row) -> str:
    kind, name = _key(row)
    return f"{kind} '{name}'"


def _given_sides(rows: Sequence[Row], spec: DataSpec) -> list[str]:
    return [row.split or ("test" if is_test(row, spec) else "") for row in rows]


def linked(rows: Sequence[Row]) -> Indices:
    """Numbers what a split keeps together: rows linked by patient or group, however indirectly.

    Returns:
        (N,) int64, the first row of each row's company.
    """
    parent = list(range(len(rows)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, row in enumerate(rows):
        keys = {_key(row)} | ({("group", row.group)} if row.group else set())
        for key in keys:
            a, b = root(index), root(first.setdefault(key, index))
            parent[max(a, b)] = min(a, b)
    return np.array([root(index) for index in range(len(rows))], dtype=np.int64)


def _draw(
    rows: Sequence[Row],
    members: Mapping[int, list[int]],
    sides: dict[int, str],
    config: SplitConfig,
    site: str,
) -> None:
    """Gives every unit without a side one, in place."""

    def place(code: int) -> bytes:
        kind, name = min(_key(rows[i]) for i in members[code])
        return hashlib.sha256(f"{config.seed}\n{site}\n{kind}\n{name}".encode()).digest()

    free = sorted((code for code in members if code not in sides), key=place)
    taken = set(sides.values())
    shares = {"test": config.test, "val": config.val}
    wanted = [side for side in shares if side not in taken and shares[side] > 0]
    for left, side in zip(range(len(wanted) - 1, -1, -1), wanted, strict=True):
        target, count = shares[side] * len(rows), 0
        chosen: list[int] = []
        # One unit at least stays for each side still to come and one for training.
        spare = len(free) - 1 - left
        for code in free:
            size = len(members[code])
            if len(chosen) < spare and count + size / 2 <= target:
                chosen.append(code)
                count += size
        if not chosen and spare > 0:
            chosen = [min(free, key=lambda code: len(members[code]))]
        for code in chosen:
            sides[code] = side
        free = [code for code in free if code not in sides]
    for code in free:
        sides[code] = "train"
