"""`sonofed bench`: JSON lines with the promised fields, or the same as a table."""

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from scripts.bench import command
from scripts.bench.measure import Record
from scripts.cli import app

PROMISED = {"name", "ours", "reference", "unit", "ratio", "peak_rss_mb"}


@pytest.fixture
def two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def records(*_: object) -> Iterator[Record]:
        for ours in (0.5, 2.0):
            yield {
                "name": "x", "ours": ours, "reference": 1.0, "unit": "s CPU",
                "peak_rss_mb": 123.456789, "side": 64,
            }  # fmt: skip

    monkeypatch.setattr(command, "records_of", records)


@pytest.mark.usefixtures("two_lines")
def test_json_lines_with_ratio_machine_and_threads() -> None:
    result = CliRunner().invoke(app, ["bench", "step", "--seed", "3"])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert [line["ratio"] for line in lines] == [2.0, 0.5]
    for line in lines:
        assert set(line) == PROMISED | {"side", "machine", "threads", "seed"}
        assert (line["threads"], line["seed"], line["peak_rss_mb"]) == (1, 3, 123.5)


@pytest.mark.usefixtures("two_lines")
def test_the_table_has_a_row_for_each_line() -> None:
    result = CliRunner().invoke(app, ["bench", "wire", "--md"])
    where, _, head, rule, *rows = result.output.splitlines()
    assert where.endswith("threads: 1, seed: 0")
    assert head.count("|") == rule.count("|") == rows[0].count("|")
    assert len(rows) == 2
    assert rows[0].startswith("| x | 0.5 | 1.0 | s CPU | 2.0 |")
    assert "side 64" in rows[0]


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    result = CliRunner().invoke(app, ["bench", "speed"])
    assert result.exit_code == 2
    assert "aggregate" in result.output
