"""A site answers an instruction, refuses what it should, and never says more than a code."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto

from clients import app as client_app
from clients.request import Request, Result
from clients.site_list import write_sites
from common.errors import InputError
from common.wire.errors import PayloadError
from common.wire.records import (
    ERROR_FAILED,
    ERROR_INPUT,
    ERROR_MEMORY,
    ERROR_REFUSED,
    INSTRUCTION,
    WEIGHTS,
    Instruction,
)
from tests.clients.world import World, message_of, world_of

SECRET = "/data/ward-7/Jane Doe/1234567.png"


def code_of(reply: Message) -> int:
    assert reply.has_error()
    return reply.error.code


def words_on_the_wire(reply: Message) -> bytes:
    return bytes(message_to_proto(reply).SerializeToString())


def with_instruction(message: Message, **changes: Any) -> Message:
    """The message with another instruction, its SHA-256 made to fit."""
    old = Instruction.from_record(message.content.config_records[INSTRUCTION])
    content = RecordDict(dict(message.content))
    content[INSTRUCTION] = dataclasses.replace(old, **changes).to_record()
    return message_of(content, message.metadata.message_type)


def test_a_site_enrols(world: World) -> None:
    metrics = world.ask("cy", "query.enrol").metrics
    assert metrics["site"] == 2
    assert metrics["images"] == metrics["masks"] == 20
    assert metrics["patients"] == metrics["videos"] == 5
    assert (metrics["train_images"], metrics["val_images"], metrics["test_images"]) == (12, 4, 4)
    assert metrics["train_patients"] == 4
    assert metrics["unit"] == 0


def test_a_target_may_not_be_asked_what_only_a_source_may(world: World) -> None:
    """The role is the site's own word: a study that says otherwise gets nothing."""
    sites = {name: {"role": "source"} for name in ("ada", "bo")} | {"cy": {"role": "target"}}
    other = world_of(world.root, world.phantom, sites=sites, arms=["lower"])
    message = other.message("bo", "train.lower", "lower/lower", other.start("lower/lower"))
    reply = world.deliver("bo", message)
    assert code_of(reply) == ERROR_REFUSED
    assert "another role" in world.log("bo")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed"),
        ({"round": 2}, "no such round"),
        ({"round": 0}, "no such round"),
        ({"training": "mim/other"}, "no such training"),
        ({"training": "lower/lower"}, "no such training"),
        ({"training": ""}, "no such training"),
        ({"stage": "contrastive"}, "stage"),
        ({"study": "{}"}, "not sound"),
        ({"study": "no json"}, "not sound"),
    ],
)
def test_a_wrong_instruction_is_refused(world: World, changes: dict[str, Any], words: str) -> None:
    message = with_instruction(world.message("bo", "train.mim", "mim/mim"), **changes)
    assert code_of(world.deliver("bo", message)) == ERROR_REFUSED
    assert words in world.log("bo")


def test_a_study_has_one_spelling_and_no_unknown_key(world: World) -> None:
    honest = world.study.for_sites().canonical()
    spaced = honest.replace(",", ", ", 1)
    extended = honest[:-1] + ',"open_masks":true}'
    for text, words in ((spaced, "canonical"), (extended, "open_masks")):
        message = with_instruction(world.message("bo", "query.enrol"), study=text)
        assert code_of(world.deliver("bo", message)) == ERROR_REFUSED
        assert words in world.log("bo")


def test_a_study_that_starts_from_a_file_is_understood(make_world: Callable[..., World]) -> None:
    world = make_world(model={"weights": "/srv/R50+ViT-B_16.npz"}, finetune={"from_weights": True})
    assert world.ask("bo", "query.enrol").metrics["images"] == 20


def test_a_site_trains_only_what_it_takes_part_in(world: World) -> None:
    for site, key in (("ada", "mim/mim"), ("bo", "lower/lower")):
        stage = world.training(key).stage
        message = world.message(site, f"train.{stage}", key, world.start(key))
        assert code_of(world.deliver(site, message)) == ERROR_REFUSED
        assert "takes no part" in world.log(site)


def test_weights_are_checked_on_arrival(world: World) -> None:
    honest = world.start("mim/mim")
    name = next(iter(honest))

    def refused(content: RecordDict, words: str) -> None:
        message = message_of(content, "train.mim")
        assert code_of(world.deliver("bo", message)) == ERROR_REFUSED
        assert words in world.log("bo")

    message = world.message("bo", "train.mim", "mim/mim", honest)
    instruction = message.content[INSTRUCTION]
    arrays = dict(message.content.array_records[WEIGHTS])
    lacking = {key: value for key, value in arrays.items() if key != name}
    refused(RecordDict({INSTRUCTION: instruction, WEIGHTS: ArrayRecord(lacking)}), f"{name}: miss")
    refused(RecordDict({INSTRUCTION: instruction}), "no weights came")
    refused(RecordDict({WEIGHTS: ArrayRecord(arrays)}), "no instruction")
    refused(
        RecordDict({INSTRUCTION: instruction, "code": ConfigRecord({"run": "rm"})}), "unexpected"
    )
    refused(RecordDict({INSTRUCTION: MetricRecord({"a": 1})}), "record instruction")
    poisoned = world.start("mim/mim")
    poisoned[name] = torch.full_like(poisoned[name], torch.nan)
    refused(world.message("bo", "train.mim", "mim/mim", poisoned).content, f"{name}: holds NaN")


FAILURES: dict[str, tuple[Exception, int]] = {
    "any": (RuntimeError(f"cannot read {SECRET}"), ERROR_FAILED),
    "os": (FileNotFoundError(2, "no such file", SECRET), ERROR_FAILED),
    "key": (KeyError(SECRET), ERROR_FAILED),
    "input": (InputError([f"{SECRET}: row 7", "patient Jane Doe is on two sides"]), ERROR_INPUT),
    "payload": (PayloadError(SECRET), ERROR_REFUSED),
    "memory": (MemoryError(SECRET), ERROR_MEMORY),
    "gpu": (torch.OutOfMemoryError(SECRET), ERROR_MEMORY),
    "cpu": (RuntimeError(f"DefaultCPUAllocator: can't allocate memory {SECRET}"), ERROR_MEMORY),
}


@pytest.mark.parametrize(("error", "code"), FAILURES.values(), ids=list(FAILURES))
def test_of_an_error_only_a_code_leaves_the_site(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail(_: Request) -> Result:
        raise error

    message = world.message("bo", "query.enrol")
    monkeypatch.setattr(client_app, "settings_of", lambda context: world.site("bo"))
    reply = client_app.answer(message, Context(1, 2, {}, RecordDict(), {}), fail)
    assert code_of(reply) == code
    assert reply.error.reason == "see the site's own log"
    sent = words_on_the_wire(reply)
    for word in (b"ward-7", b"Jane", b"1234567", b"Traceback", str(world.root).encode()):
        assert word not in sent
    if code == ERROR_MEMORY:
        assert "out of memory in stage enrol; try [compute] micro_batch = 2" in world.log("bo")
    else:
        assert "Jane Doe" in world.log("bo")


def test_not_even_when_the_log_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = world.site("bo")
    site.folder.parent.mkdir(parents=True)
    site.folder.write_text("a file where the folder should be")
    monkeypatch.setattr(client_app, "settings_of", lambda context: site)

    def fail(_: Request) -> Result:
        raise RuntimeError(SECRET)

    with caplog.at_level(logging.ERROR):
        reply = client_app.answer(
            world.message("bo", "query.enrol"), Context(1, 2, {}, RecordDict(), {}), fail
        )
    assert code_of(reply) == ERROR_FAILED
    assert str(world.root).encode() not in words_on_the_wire(reply)
    assert "errors.log cannot be written" in caplog.text


RESULTS: dict[str, dict[str, Any]] = {
    "word": {"site": "Jane Doe"},
    "unknown": {"Jane Doe": 1},
    "list": {"site": [1, 2, 3]},
    "not a number": {"site": float("nan")},
    "range": {"unit": 17},
}


@pytest.mark.parametrize("wrong", RESULTS.values(), ids=list(RESULTS))
def test_a_result_outside_the_vocabulary_stays_at_the_site(
    world: World, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    honest = world.ask("bo", "query.enrol").metrics
    monkeypatch.setattr(client_app, "settings_of", lambda context: world.site("bo"))
    context = Context(1, 2, {}, RecordDict(), {})
    message = world.message("bo", "query.enrol")
    assert not client_app.answer(message, context, lambda _: Result(honest)).has_error()
    reply = client_app.answer(message, context, lambda _: Result({**honest, **wrong}))
    assert code_of(reply) == ERROR_FAILED
    assert b"Jane" not in words_on_the_wire(reply)


def test_weights_where_none_may_leave_stay_at_the_site(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = world.ask("bo", "query.enrol").metrics
    monkeypatch.setattr(client_app, "settings_of", lambda context: world.site("bo"))
    reply = client_app.answer(
        world.message("bo", "query.enrol"),
        Context(1, 2, {}, RecordDict(), {}),
        lambda _: Result(honest, {"image": torch.zeros(3, 3)}),
    )
    assert code_of(reply) == ERROR_FAILED


def test_no_word_of_the_site_is_in_an_honest_reply(world: World) -> None:
    """Serialised, the reply names tensors and metrics; no id, patient, path or probe."""
    sent = words_on_the_wire(world.train("bo", "mim/mim").message)
    settings = world.site("bo")
    manifest = (settings.data_folder / "index.csv").read_text().splitlines()
    words = {cell for line in manifest[1:] for cell in line.split(",") if len(cell) > 3}
    words |= {"linear_pocket", str(world.root), str(world.phantom), "sites"}
    assert len(words) > 50
    assert not [word for word in words if word.encode() in sent]


def test_settings_come_from_the_node_or_the_list(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = [world.site(name) for name in world.study.sites]
    path = world.root / "sites.json"
    write_sites(path, sites)
    monkeypatch.delenv(client_app.SITES_VARIABLE, raising=False)

    def find(**config: Any) -> str:
        return client_app.settings_of(Context(1, 2, config, RecordDict(), {})).name

    with pytest.raises(InputError, match="settings"):
        find(site="bo")
    monkeypatch.setenv(client_app.SITES_VARIABLE, str(path))
    assert find(site="cy") == "cy"
    assert find(**{"partition-id": 1}) == "bo"
    own = world.root / "own.json"
    own.write_text(sites[0].model_dump_json())
    assert find(settings=str(own), site="cy") == "ada"
