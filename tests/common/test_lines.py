import json
from pathlib import Path

import pytest

from common.lines import append_line


def test_lines_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "made" / "epochs.jsonl"
    for epoch in range(3):
        append_line(path, {"epoch": epoch, "site": "Zürich"})
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2]


@pytest.mark.parametrize("torn", ['{"epo', '{"epoch": 1}', "{"])
@pytest.mark.parametrize("before", ["", '{"epoch": 0}\n', '{"epoch": 0}\n{"epoch": 0}\n'])
def test_a_line_cut_short_is_told_again(before: str, torn: str, tmp_path: Path) -> None:
    path = tmp_path / "epochs.jsonl"
    path.write_text(before + torn)
    append_line(path, {"epoch": 1})
    assert path.read_text() == before + '{"epoch": 1}\n'
