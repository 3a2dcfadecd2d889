"""The keys of a study and their defaults are a promise: a change here is made on purpose.

When this fails and the change is meant, say so in CHANGELOG.md and write the list anew:

    sonofed config show --keys > tests/common/config/options.txt
"""

from pathlib import Path

import pytest

from common.config.compare import differences, flatten
from common.config.explain import Option, generic, options, resolved
from common.config.load import load_study

FROZEN = Path(__file__).with_name("options.txt")
LINES = [f"{o.key} = {o.default} [{o.allowed}]" for o in options()]


def test_keys_and_defaults_are_as_promised() -> None:
    frozen = FROZEN.read_text(encoding="utf-8").splitlines()
    gone = [f"- {line}" for line in frozen if line not in LINES]
    new = [f"+ {line}" for line in LINES if line not in frozen]
    assert frozen == LINES, "\n".join([str(__doc__), *gone, *new])


@pytest.mark.parametrize("option", options(), ids=lambda option: option.key)
def test_every_key_explains_itself(option: Option) -> None:
    assert option.text
    assert option.allowed


def test_every_value_of_a_study_has_its_key() -> None:
    known = {option.key for option in options()}
    for path in (
        path for path in Path("configs").glob("*.toml") if path.stem not in ("policy", "site")
    ):
        for key in resolved(load_study(path)):
            places = [generic(key)]
            while "." in places[-1]:
                places.append(places[-1].rpartition(".")[0])
            assert known & set(places) or key == "phantom", key


def test_differences() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "e": 4}) == {
        "a.b": (1, 3),
        "c": (2, None),
        "e": (None, 4),
    }
