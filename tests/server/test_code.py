"""Which code a run ran."""

from pathlib import Path

import pytest

from server import code
from server.checkpoint import RunFolder


def test_a_run_names_its_code_once_and_again_where_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    assert code.noted_code(run) == []
    monkeypatch.setattr(code, "code_digest", lambda: "a" * 64)
    code.note_code(run, "")
    code.note_code(run, "")
    assert code.noted_code(run) == [{"code": "a" * 64}]
    code.note_code(run, "f" * 64)
    assert code.noted_code(run)[1:] == [{"code": "a" * 64, "bundle": "f" * 64}]
