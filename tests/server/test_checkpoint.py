import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

import server.checkpoint as module
from server.checkpoint import Checkpoint, Record, RunFolder, read_tensors, write_json, write_tensors


class Killed(BaseException):
    """Stands for a SIGKILL between two steps of writing."""


def state(value: float) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict(b=torch.full((2, 3), value), a=torch.tensor(5))


def saved(folder: Path, rounds: int = 1, best: int | None = None) -> tuple[Checkpoint, Record]:
    checkpoint = Checkpoint(folder)
    record = Record("mim/mim")
    for round_ in range(1, rounds + 1):
        record.round, record.best_round = round_, best or round_
        checkpoint.save(record, state(round_), {"first.b": torch.full((2,), float(round_))})
    return checkpoint, record


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    checkpoint, record = saved(tmp_path)
    record.count("east", 10, 20)
    record.count("east", 1, 2)
    record.finished = True
    checkpoint.finish(record)
    loaded = Checkpoint(tmp_path).load("mim/mim")
    assert loaded == record
    assert loaded.traffic == {"east": {"down": 11, "up": 22}}
    weights = checkpoint.weights(loaded, 1)
    assert list(weights) == ["b", "a"]
    assert torch.equal(weights["b"], state(1)["b"])
    assert weights["a"].dtype == torch.int64
    assert checkpoint.rule_state(loaded)["first.b"].tolist() == [1.0, 1.0]


def test_nothing_saved_is_an_empty_record(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "absent")
    assert checkpoint.load("mim/mim") == Record("mim/mim")
    assert checkpoint.rule_state(Record("mim/mim")) == {}


def test_only_the_last_and_the_best_round_are_kept(tmp_path: Path) -> None:
    checkpoint, record = saved(tmp_path, rounds=4, best=2)
    assert names(tmp_path) == {
        "training.json",
        "weights-00002.safetensors",
        "weights-00004.safetensors",
        "rule-00004.safetensors",
    }
    assert float(checkpoint.result(record)["b"][0, 0]) == 2.0


@pytest.mark.parametrize("step", range(5))
def test_a_kill_at_any_step_leaves_the_old_round_or_the_new(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round 2 is killed before its write or move number `step`; what is read is whole."""
    checkpoint, record = saved(tmp_path)
    steps = 0

    def until(real: object) -> object:
        def act(*arguments: object, **options: object) -> object:
            nonlocal steps
            if steps == step:
                raise Killed
            steps += 1
            return real(*arguments, **options)  # type: ignore[operator]

        return act

    monkeypatch.setattr(Path, "replace", until(Path.replace))
    monkeypatch.setattr(Path, "unlink", until(Path.unlink))
    record.round = record.best_round = 2
    with pytest.raises(Killed):
        checkpoint.save(record, state(2), {"first.b": torch.full((2,), 2.0)})
    monkeypatch.undo()
    again = Checkpoint(tmp_path)
    loaded = again.load("mim/mim")
    # Two moves of tensors come before the move of the record, and its removals after it.
    assert loaded.round == (1 if step < 3 else 2)
    assert float(again.result(loaded)["b"][0, 0]) == loaded.round
    assert again.rule_state(loaded)["first.b"].tolist() == [loaded.round] * 2
    # And the next save clears up.
    loaded.round = loaded.best_round = 3
    again.save(loaded, state(3), {})
    assert names(tmp_path) == {"training.json", "weights-00003.safetensors"}


def test_a_write_that_breaks_off_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tensors(tmp_path / "w.safetensors", state(1))
    write_json(tmp_path / "r.json", {"round": 1})

    def torn(tensors: object, path: Path) -> None:
        path.write_bytes(b"half of i")
        raise Killed

    monkeypatch.setattr(module, "save_file", torn)
    with pytest.raises(Killed):
        write_tensors(tmp_path / "w.safetensors", state(2))
    with pytest.raises(TypeError):
        write_json(tmp_path / "r.json", {"round": object()})
    assert float(read_tensors(tmp_path / "w.safetensors")["b"][0, 0]) == 1.0
    assert json.loads((tmp_path / "r.json").read_text()) == {"round": 1}


def test_small_states_of_a_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.read_state("enrol/east") is None
    run.write_state("enrol/east", {"unit": "patient"})
    assert run.read_state("enrol/east") == {"unit": "patient"}
    assert run.checkpoint("mim/mim").folder == tmp_path / "state" / "mim" / "mim"
