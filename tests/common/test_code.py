"""The digest of the code."""

from pathlib import Path

import pytest

import common
from common import code


def test_the_digest_covers_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in code.FIRST_PARTY:
        (tmp_path / package / "inner").mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text("")
        (tmp_path / package / "inner" / "a.py").write_text("one = 1\n")
    monkeypatch.setattr(common, "__file__", str(tmp_path / "common" / "__init__.py"))
    first = code.code_digest()
    assert first == code.code_digest()
    seen = {first}
    for package in code.FIRST_PARTY:
        (tmp_path / package / "inner" / "a.py").write_text("one = 2\n")
        seen.add(code.code_digest())
    (tmp_path / "server" / "b.py").write_text("")
    seen.add(code.code_digest())
    assert len(seen) == 5
