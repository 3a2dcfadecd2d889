"""The gate's memory does not grow with the reply: two sizes through the real process."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import PushObjectRequest, PushObjectResponse
from flwr.proto.node_pb2 import Node

from clients.gate.manifest import Exchange, Manifest, Tensor, digest, dump
from clients.gate.objects import HeldArray, pack, written, written_array
from clients.gate.tensors import Told, npy_header
from tests.clients.gate import process as processes
from tests.clients.gate.center import NODE, Center, Keys
from tests.clients.gate.process import gate_process
from tests.clients.gate.supernode import Liar
from tests.clients.gate.world import instruction

TENSOR_MB = 40
MOST_MB = 300
"""What a gate may hold, at any size of a reply."""


class Forgetful(Center):
    """It keeps nothing of what comes."""

    def _push_object(self, request: PushObjectRequest) -> Any:
        self.objects[request.object_id] = b"."
        self.calls.clear()
        return PushObjectResponse(stored=True)


class Large:
    """A reply of as many tensors as are asked for, made piece by piece, no two alike."""

    def __init__(self, megabytes: int) -> None:
        self.values = TENSOR_MB * 2**18
        self.names = [f"tensor.{place}" for place in range(max(1, megabytes // TENSOR_MB))]
        self.told = Told("float32", (self.values,), "numpy.ndarray")
        self.noise = np.random.default_rng(0).standard_normal(self.values, np.float32)

    def chunks(self, place: int) -> list[bytes]:
        values = self.noise + np.float32(place)
        data = npy_header("<f4", self.told.shape) + values.tobytes()
        return [
            written("ArrayChunk", [], data[start : start + CHUNK])
            for start in range(0, len(data), CHUNK)
        ]

    def push(self, liar: Liar, asked: Message) -> None:
        held = {}
        for place, name in enumerate(self.names):
            ids = tuple(sha256(chunk).hexdigest() for chunk in self.chunks(place))
            id_ = sha256(written_array(self.told, ids)).hexdigest()
            held[name] = HeldArray(id_, self.told, ids)
        metrics = RecordDict({"metrics": MetricRecord()})
        packed = pack(Message(metrics, reply_to=asked), {"weights": held})
        request = PushMessagesRequest(
            node=Node(node_id=NODE),
            messages_list=[message_to_proto(packed.message)],
            message_object_trees=[packed.tree],
        )
        session = liar.call("push-messages", request, PushMessagesResponse).session_id

        def put(content: bytes) -> None:
            pushed = PushObjectRequest(
                node=Node(node_id=NODE), run_id=1, session_id=session,
                object_id=sha256(content).hexdigest(), object_content=content,
            )  # fmt: skip
            assert liar.call("push-object", pushed, PushObjectResponse).stored

        for place in range(len(self.names)):
            for chunk in self.chunks(place):
                put(chunk)
        for content in packed.objects.values():
            put(content)


def peak_mb(folder: Path, keys: Keys, megabytes: int, monkeypatch: pytest.MonkeyPatch) -> float:
    large = Large(megabytes)
    tensors = tuple(Tensor(name=n, dtype="float32", shape=(large.values,)) for n in large.names)
    manifest = Manifest(exchanges={"train.mim mim/mim": Exchange(up=tensors)})
    monkeypatch.setattr(processes, "MANIFEST", manifest)
    monkeypatch.setattr(
        processes, "POLICY", processes.POLICY + "[limits]\nmessage_mb = 9000\nday_mb = 9000\n"
    )
    assert digest(manifest)
    assert dump(manifest)
    with Forgetful(keys) as center, gate_process(folder, center) as process:
        message = instruction()
        del message.content["weights"]
        asked = center.ask(message)
        liar = Liar(process.address)
        large.push(liar, liar.pull())
        process.wait_for("the server has the answer", 900)
        assert asked in center.answers
        status = Path(f"/proc/{process.running[0].pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_is_flat_in_the_size_of_a_reply(
    tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        small = peak_mb(tmp_path / "small", keys, 80, patch)
    with monkeypatch.context() as patch:
        large = peak_mb(tmp_path / "large", keys, 5000, patch)
    print(f"80 MB: {small:.0f} MB, 5 GB: {large:.0f} MB")
    assert large < MOST_MB
    assert large < small + 30
