"""Mistakes in a table, each in a sentence of its own."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from common.config.tables import known_keys, read_tables, sentences
from common.errors import InputError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    depth_mm: float = 30.0
    frames: int

    @field_validator("frames")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("should be even")
        return value


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    probes: dict[str, Inner]
    best: Inner | None = None


def told(tables: dict[str, object]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(tables)
    return list(sentences(caught.value, Outer))


def test_each_mistake_is_said_with_its_place() -> None:
    probes = {"a": {"frames": 3}, "b": {"deth_mm": 1, "frames": 2}, "c": {}, "d": 7}
    assert told({"probes": probes, "zzz": 1}) == [
        "probes.a.frames: should be even (given: 3)",
        "probes.b.deth_mm: unknown key; did you mean 'depth_mm'?",
        "probes.c.frames: is missing",
        "probes.d: should be a table (given: 7)",
        "zzz: unknown key; there are probes, best",
    ]
    assert told({"probes": {"a": {"frames": 2, "depth_mm": "deep"}}}) == [
        "probes.a.depth_mm: input should be a valid number, unable to parse string as a number "
        "(given: 'deep')"
    ]


def test_known_keys_pass_over_names_of_ones_own() -> None:
    assert known_keys(Outer, []) == ["probes", "best"]
    assert known_keys(Outer, ["probes", "mine"]) == ["depth_mm", "frames"]
    assert known_keys(Outer, ["best"]) == ["depth_mm", "frames"]


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such thing"):
        read_tables(tmp_path / "a.toml", "no such thing")
    (tmp_path / "b.toml").write_text("a = ")
    with pytest.raises(InputError, match="not readable as TOML"):
        read_tables(tmp_path / "b.toml", "no such thing")
