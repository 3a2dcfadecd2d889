import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from common import formats
from common.errors import InputError

REPLY = {
    "event": "reply",
    "training": "mim/mim",
    "stage": "mim",
    "round": 1,
    "rounds": 2,
    "site": "pocket",
    "loss": 0.1,
    "examples": 9,
    "bytes_down": 4,
    "bytes_up": 4,
    "seconds": 1.5,
    "metrics": {},
    "time": 0.0,
}


def test_lines_of_a_killed_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(formats.dump_line(REPLY) + "\n" + formats.dump_line(REPLY)[:40])
    (event,) = formats.read_events(path)
    assert isinstance(event, formats.ReplyEvent)
    assert event.site == "pocket"


def test_all_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    bad = {k: v for k, v in REPLY.items() if k != "site"} | {"round": 0}
    path.write_text(f'{json.dumps(REPLY)}\n{json.dumps(bad)}\n\n{{"event": "party"}}\nnonsense\n')
    with pytest.raises(InputError) as caught:
        formats.read_events(path)
    text = "\n".join(caught.value.problems)
    assert "line 2: reply.site: Field required" in text
    assert "line 2: reply.round" in text
    assert "line 4" in text
    assert "line 5" in text
    with pytest.raises(InputError, match="No such file"):
        formats.read_events(tmp_path / "none")


def test_further_fields_are_ignored_and_missing_ones_are_not() -> None:
    assert formats.parse_event(json.dumps({**REPLY, "memory_mb": 3}))
    with pytest.raises(ValidationError):
        formats.dump_line({"event": "end", "status": "tired", "seconds": 1, "time": 0})
    with pytest.raises(ValidationError):
        formats.dump_line({"training": "mim/mim"})


def test_results_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"study": "demo", "surprise": 1}')
    with pytest.raises(InputError) as caught:
        formats.read_results(path)
    text = "\n".join(caught.value.problems)
    assert "surprise" in text
    assert "arms: Field required" in text
