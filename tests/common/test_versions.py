"""Versions of the two sides: what must agree, and who is behind."""

import pytest

from common import versions as module
from common.versions import differences, is_behind


@pytest.mark.parametrize(
    ("theirs", "differing", "behind"),
    [
        ({}, [], False),
        ({"sonofed": "1.2.3", "flwr": "1.41.0"}, [], False),
        ({"flwr": "1.41.9"}, [], False),
        ({"flwr": "1.42.0"}, ["flwr is 1.41.0 here and 1.42.0 at the center"], True),
        ({"flwr": "1.9.0"}, ["flwr is 1.41.0 here and 1.9.0 at the center"], False),
        ({"sonofed": "1.2.10"}, ["sonofed is 1.2.3 here and 1.2.10 at the center"], True),
        ({"sonofed": "1.1.9"}, ["sonofed is 1.2.3 here and 1.1.9 at the center"], False),
        ({"another": "5"}, [], False),
    ],
)
def test_versions(
    monkeypatch: pytest.MonkeyPatch, theirs: dict[str, str], differing: list[str], behind: bool
) -> None:
    monkeypatch.setattr(module, "versions", lambda: {"sonofed": "1.2.3", "flwr": "1.41.0"})
    assert differences(theirs) == differing
    assert is_behind(theirs) == behind
