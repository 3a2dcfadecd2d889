"""Peak memory of server and wire in rounds with so many sites, as one JSON line.

`python -m tests.streaming SITES JOBS`: played sites, replies of some 40 MB; run by
test_streaming.py in a process of its own.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from flwr.app import Message

from common.plan import make_plan
from common.wire.payload import payload_bytes
from common.wire.vocabulary import training_tensors
from server.stages import train
from tests.played import PlayedGrid, honest_content, server_of
from tests.tiny import targets

TEN_MILLION = {
    "preset": "tiny",
    "image_size": 32,
    "options": {"hidden": 384, "blocks": 5, "heads": 6, "mlp": 1536},
}


def resident_mb(name: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if name in line)
    return int(line.split()[1]) / 1024


def main(sites: int, jobs: int) -> None:
    study = targets(
        sites,
        model=TEN_MILLION,
        mim={"rounds": 2, "epochs": 1},
        compute={"batch": 2, "jobs": jobs},
    )
    training = make_plan(study).trainings["mim/mim"]

    def play(site: str, message: Message) -> Message:
        content = honest_content(study, training, len(site) / 100)
        return Message(content, reply_to=message)

    with tempfile.TemporaryDirectory() as run:
        context, events = server_of(study, Path(run), PlayedGrid(study.sites, play))
        payload_mb = payload_bytes(training_tensors(study, training), "float32") / 2**20
        torch.ones(3).sum()
        before = resident_mb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        train.run(context, training)
        peak = resident_mb("VmHWM")
    assert len(events.named("reply")) == 2 * sites
    print(json.dumps({"payload_mb": payload_mb, "before_mb": before, "peak_mb": peak}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
