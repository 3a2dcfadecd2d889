import pytest
from pydantic import ValidationError

from common.config.data import DataSpec, SplitConfig, nearest


def test_a_spec_is_frozen_and_can_be_a_key() -> None:
    a = DataSpec(folder="x", where={"device": ("A*", "B")})
    b = DataSpec.model_validate({"folder": "x", "where": {"device": ["A*", "B"]}})
    assert a == b
    assert len({a, b}) == 1
    assert DataSpec.model_validate_json(a.model_dump_json()) == a
    with pytest.raises(ValidationError):
        a.folder = "y"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"folder": ""}, "at least 1"),
        ({"folder": "x", "wher": {}}, "Extra inputs"),
        ({"folder": "x", "columns": {"grup": "y"}}, "did you mean 'group'"),
        ({"folder": "x", "extract": {"patient": "set("}}, "is no regular expression"),
        ({"folder": "x", "where": {"label": []}}, "at least 1"),
        ({"folder": "x", "reader": "module.name"}, "pattern"),
    ],
)
def test_what_a_spec_refuses(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DataSpec.model_validate(given)


def test_shares_leave_something_to_train_on() -> None:
    assert SplitConfig().val == 0.16
    with pytest.raises(ValidationError, match="leave nothing to train on"):
        SplitConfig(val=0.6, test=0.4)
    with pytest.raises(ValidationError):
        SplitConfig(val=-0.1)


def test_nearest() -> None:
    assert nearest("devise", ["label", "device"]) == "; did you mean 'device'?"
    assert nearest("zzz", ["label", "device"]) == "; there are label, device"
