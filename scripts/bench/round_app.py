"""The app of the bench `gate`: weights go down and come back, nothing is trained, no torch.

Staged as a bundle of its own: ServerApp and ClientApp in one file, run by Flower's real processes.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

client = ClientApp()
server = ServerApp()
POLL_S = 0.05
STUDY = '{"name":"bench"}'


@client.train("mim")
def train(message: Message, _: Context) -> Message:
    """A site's answer: every weight moved a little."""
    came = message.content.array_records["weights"]
    moved = ArrayRecord()
    for name in list(came):
        moved[name] = Array(came.pop(name).numpy() * np.float32(1.001))
    content = RecordDict({"weights": moved, "metrics": MetricRecord({"loss": 0.5})})
    return Message(content, reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Ask two nodes in turn, so that a busy machine slows both alike; write the seconds down."""
    told = json.loads(Path(str(context.run_config["plan"])).read_text())
    while len(list(grid.get_node_ids())) < len(told["nodes"]):
        time.sleep(1)
    weights = ArrayRecord()
    noise = np.random.default_rng(told["seed"]).standard_normal(2**20, np.float32) * 0.02
    for place, (name, shape) in enumerate(told["tensors"]):
        values = np.resize(np.roll(noise, place), shape).astype(np.float32)
        weights[name] = Array(values)
    for number in range(told["rounds"]):
        for name, node in told["nodes"].items():
            since = time.monotonic()
            reply = _ask(grid, node, weights, number)
            line = {"node": name, "round": number, "seconds": time.monotonic() - since}
            line["error"] = reply.error.code if reply.has_error() else 0
            with Path(told["out"]).open("a") as file:
                file.write(json.dumps(line) + "\n")


def _ask(grid: Grid, node: int, weights: ArrayRecord, number: int) -> Message:
    record: dict[str, Any] = {
        "study": STUDY, "sha256": hashlib.sha256(STUDY.encode()).hexdigest(), "stage": "mim",
        "training": "mim/mim", "round": number + 1, "seed": 0, "step": "",
    }  # fmt: skip
    content = RecordDict({"instruction": ConfigRecord(record), "weights": weights})
    message = Message(content, dst_node_id=node, message_type="train.mim")
    (asked,) = grid.push_messages([message])
    while True:
        for reply in grid.pull_messages([asked]):
            return reply
        time.sleep(POLL_S)
