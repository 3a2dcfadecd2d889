"""Every trick spoils an honest reply so that the policy's own reader refuses it, or strips it."""

import json
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from clients.gate.facts import RefusedError
from clients.gate.manifest import Exchange, Manifest, Metric, Tensor, digest, dump
from clients.gate.objects import open_held, tree_ids
from clients.gate.payload import read_instruction, read_reply, write_reply
from clients.gate.policy import Policy, judge
from clients.gate.policy_file import load_file, load_policy
from common.errors import InputError
from scripts.audit.canary import Canaries, write_site
from scripts.audit.cheat import Cheat, tree_of
from scripts.audit.controls import Control, Controls, try_search
from scripts.audit.experiment import secrets_of
from scripts.audit.needles import needles_of
from scripts.audit.object_tricks import OBJECTS
from scripts.audit.search import Searcher
from scripts.audit.sink import Sink, sha256
from scripts.audit.subject import Subject, instruction, shortened, subject_of
from scripts.audit.tricks import (
    HIDDEN,
    METRICS,
    RECORDS,
    TENSORS,
    WIRE,
    Secret,
    Trick,
    all_tricks,
    names,
)
from tests.clients.gate.world import policy

ROOT = Path(__file__).parents[3]
DTYPES = ("float32", "float16", "uint16")
"""Of weights as they travel; the last is bfloat16's."""


def tensors_of(dtype: str) -> tuple[Tensor, ...]:
    return (
        Tensor(name="norm.running_mean", dtype=dtype, shape=(3,)),
        Tensor(name="conv.weight", dtype=dtype, shape=(8, 16, 8, 8)),
        Tensor(name="batches", dtype="int64", shape=()),
    )


NUMBERS = {
    "loss": Metric(kind="number", low=-100, high=100),
    "patients": Metric(kind="count", low=1, high=1e9),
}
NAME = "train.mim mim/mim"
INTEGERS = {"batches": {"kind": "count", "low": 0, "high": 10}}


def manifest_of(tensors: tuple[Tensor, ...]) -> Manifest:
    return Manifest(exchanges={NAME: Exchange(down=tensors, up=tensors, metrics=NUMBERS)})


def policy_of(dtype: str) -> Policy:
    return policy(manifest_of(tensors_of(dtype)), integers=INTEGERS)


MANIFEST = manifest_of(tensors_of("float32"))
POLICY = policy_of("float32")


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Canaries:
    folder = tmp_path_factory.mktemp("canary") / "west"
    return write_site(folder, "west", seen=32, patients=4, frames=1)


@pytest.fixture(scope="module")
def secret(canaries: Canaries) -> Secret:
    return secrets_of(canaries, "west")(0)


@pytest.fixture(scope="module", params=DTYPES)
def subject(request: pytest.FixtureRequest) -> Subject:
    """The message, with weights of each dtype that there is on the wire."""
    return subject_of(policy_of(request.param))


def cheating(subject: Subject) -> Cheat:
    made = Cheat("127.0.0.1:1", subject.exchange, subject.metrics)
    made.node.node_id = 5
    return made


def policy_for(subject: Subject) -> Policy:
    return policy_of(subject.exchange.up[0].dtype)


def asked_for(subject: Subject) -> Message:
    message = instruction(subject, policy_for(subject), 1)
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def left_of(subject: Subject, asked: Message, reply: Message) -> Message | None:
    """What leaves of a reply by the policy; None where it is refused."""
    try:
        facts = read_reply(reply, asked)
    except RefusedError:
        return None
    if not judge(policy_for(subject), read_instruction(asked), facts).passes:
        return None
    return write_reply(reply, facts, asked, {"key": "0" * 64, "sequence": 1, "head": "0" * 64})


def test_the_subject_is_one_that_the_policy_lets_in_and_out(subject: Subject) -> None:
    asked = asked_for(subject)
    assert subject.name == NAME
    assert judge(policy_for(subject), read_instruction(asked)).passes
    cheat = cheating(subject)
    assert left_of(subject, asked, cheat._message(asked, cheat.honest(asked))) is not None


@pytest.mark.parametrize(
    "trick", [*TENSORS, *METRICS, *RECORDS], ids=lambda trick: getattr(trick, "name", "")
)
def test_no_trick_passes_the_policy(trick: Trick, subject: Subject, secret: Secret) -> None:
    asked, cheat = asked_for(subject), cheating(subject)
    reply = cheat._message(asked, trick.spoil(cheat.honest(asked), secret))
    left = left_of(subject, asked, reply)
    if not trick.strips:
        assert left is None
        return
    assert left is not None
    wire = message_to_proto(left).SerializeToString()
    assert secret.name.encode() not in wire
    assert secret.path.encode() not in wire


@pytest.mark.parametrize("trick", OBJECTS, ids=lambda trick: trick.name)
def test_no_trick_with_objects_is_read(trick: Trick, subject: Subject, secret: Secret) -> None:
    asked, cheat = asked_for(subject), cheating(subject)
    draft = trick.spoil(cheat.honest(asked), secret)
    message = cheat._message(asked, draft)
    objects = {name: o.deflate() for name, o in get_all_nested_objects(message).items()}
    root = message.object_id
    if draft.objects is not None:
        root, objects = draft.objects(objects)
    ids = tree_ids(tree_of(root, objects))
    for stray in (*draft.stray, *filter(None, [draft.unannounced])):
        objects[sha256(stray)] = stray
        ids.append(sha256(stray))

    class Held:
        def get(self, name: str) -> bytes:
            return objects[name]

        def __contains__(self, name: str) -> bool:
            return name in objects

    def read() -> None:
        held = open_held(root, Held(), ids)
        for array in held.arrays["weights"].values():
            list(array.pieces(Held()))

    with pytest.raises(RefusedError):
        read()


def test_pixels_in_valid_weights_pass_the_policy_as_is_said(
    subject: Subject, secret: Secret
) -> None:
    asked, cheat = asked_for(subject), cheating(subject)
    reply = cheat._message(asked, HIDDEN.spoil(cheat.honest(asked), secret))
    assert left_of(subject, asked, reply) is not None


def test_past_the_gate_the_search_finds_what_every_trick_carries(
    subject: Subject, canaries: Canaries, tmp_path: Path
) -> None:
    """A real server in clear, real requests, all tricks."""
    controls = Controls()
    every = (*all_tricks(), HIDDEN)
    controls.tricks = [Control(trick.name, True) for trick in every]
    searcher = Searcher(needles_of(canaries))
    secrets = secrets_of(canaries, "west")
    seen: list[tuple[int, int]] = []
    try_search(
        tmp_path / "sink", policy_for(subject), subject, secrets, searcher, controls,
        lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1] == (len(every), len(every))
    found = {control.name: control.found for control in controls.tricks}
    assert found == {trick.name: True if trick.copies else None for trick in every}


def test_an_honest_reply_past_the_gate_is_not_taken_for_a_trick(
    subject: Subject, canaries: Canaries, secret: Secret, tmp_path: Path
) -> None:
    bundle = b"code"
    with Sink(tmp_path, {sha256(bundle): bundle}) as sink:
        cheat = Cheat(sink.address, subject.exchange, subject.metrics)
        cheat.activate()
        path = sink.record("honest")
        order = sink.order(instruction(subject, policy_for(subject), 1), sha256(bundle))
        asked = cheat.pull()
        assert asked is not None
        assert cheat.reply(asked, None, secret) == ""
        assert order.answered.wait(30)
        cheat.close()
    assert Searcher(needles_of(canaries)).file(path).count == 0
    assert path.stat().st_size > 8 * 16 * 8 * 8 * np.dtype(subject.exchange.up[1].dtype).itemsize


def test_the_tricks_are_those_of_the_document() -> None:
    assert len({trick.name for trick in all_tricks()}) == len(all_tricks())
    assert set(WIRE) <= set(all_tricks())
    assert len(all_tricks()) >= 40


def test_a_policy_that_lets_nothing_out_is_said() -> None:
    nothing = Policy(POLICY.file.model_copy(update={"stages": {}}), POLICY.manifests)
    with pytest.raises(InputError, match="lets no message with weights out"):
        subject_of(nothing)


def test_a_shortened_policy_keeps_its_rules(subject: Subject, tmp_path: Path) -> None:
    text = (ROOT / "configs" / "policy.toml").read_text(encoding="utf-8")
    entry = f'[studies.wrist]\nmanifest = "x.json"\nsha256 = "{"0" * 64}"\n'
    full = tmp_path / "full.toml"
    full.write_text(text.replace("\n[studies]\n", f"\n[studies]\n{entry}", 1), encoding="utf-8")
    whole = Policy(load_file(full), {"wrist": manifest_of(subject.exchange.up)})
    path = shortened(full, whole, subject, tmp_path / "short", tensors=2)
    made = load_policy(path)
    (exchange,) = made.manifests["wrist"].exchanges.values()
    assert [tensor.name for tensor in exchange.up] == ["norm.running_mean", "conv.weight"]
    assert made.file.stages == load_file(full).stages
    assert np.prod(exchange.up[1].shape) >= 4096


def test_messages_that_cannot_be_tried_are_not_said_to_be_none() -> None:
    for tensors, words in (
        ((Tensor(name="w", dtype="float16", shape=(64, 63)),), "no tensor has 4,096 numbers"),
        (
            (*tensors_of("float16"), Tensor(name="n", dtype="int8", shape=(4,))),
            "int8 is no dtype that the tricks know",
        ),
    ):
        with pytest.raises(InputError, match="but none that the tricks can be played on") as error:
            subject_of(policy(manifest_of(tensors), integers=INTEGERS))
        assert f"wrist, {NAME}: {words}" in str(error.value)


def test_tricks_are_played_on_weights_however_large_the_counts_are(secret: Secret) -> None:
    counts = Tensor(name="batches", dtype="int64", shape=(200, 200))
    whole = policy(manifest_of((counts, *tensors_of("float16")[:2])), integers=INTEGERS)
    subject = subject_of(whole)
    cheat = cheating(subject)
    assert cheat.honest(asked_for(subject)).largest == "conv.weight"


def test_a_trick_that_would_be_none_is_left_out_by_name(subject: Subject) -> None:
    alone = subject.exchange.model_copy(update={"up": subject.exchange.up[1:2]})
    told = {trick.name: trick.senseless(alone) for trick in all_tricks()}
    assert {name: words for name, words in told.items() if words} == {
        "another order of tensors": "the message has one tensor"
    }
    assert not any(trick.senseless(subject.exchange) for trick in all_tricks())


def test_an_array_of_one_axis_in_fortrans_order_says_so(secret: Secret) -> None:
    column = (Tensor(name="w", dtype="float32", shape=(4096, 1)),)
    subject = subject_of(policy(manifest_of(column)))
    cheat, asked = cheating(subject), asked_for(subject)
    spoilt = names(TENSORS)["Fortran order"].spoil(cheat.honest(asked), secret)
    assert b"'fortran_order': True" in spoilt.arrays["w"].data


def test_a_policy_that_names_the_studys_digest_is_tried_with_anothers(tmp_path: Path) -> None:
    text = (ROOT / "configs" / "policy.toml").read_text(encoding="utf-8")
    manifest = manifest_of(tensors_of("uint16"))
    (tmp_path / "x.json").write_text(dump(manifest))
    entry = (
        f'[studies.wrist]\nmanifest = "x.json"\nsha256 = "{digest(manifest)}"\n'
        f'digest = "{"5" * 64}"\n'
    )
    path = tmp_path / "policy.toml"
    text = text.replace("\n[studies]\n", f"\n[studies]\n{entry}", 1)
    path.write_text(text.replace("[integers]", "[integers]\nbatches = {}"), encoding="utf-8")
    whole = load_policy(path)
    asked = read_instruction(instruction(subject_of(whole), whole, 1))
    assert any("has the digest" in words for words in judge(whole, asked).why)
    few = len(tensors_of("uint16"))
    short = load_policy(shortened(path, whole, subject_of(whole), tmp_path / "short", few))
    asked = read_instruction(instruction(subject_of(short), short, 1), "0" * 64)
    assert [words for words in judge(short, asked).why if "is not approved" not in words] == []
    assert short.manifests == whole.manifests


def test_an_instruction_is_written_canonically(subject: Subject) -> None:
    record = instruction(subject, policy_for(subject), 3).content.config_records["instruction"]
    study = str(record["study"])
    assert json.dumps(json.loads(study), sort_keys=True, separators=(",", ":")) == study
