"""What a training has given stays at the site until its next round, for a request that comes again.

A reply that came after the deadline, or that the server lost, is thrown away by Flower. When the
server asks again, with the same weights in the same round, hours of work need not be done again.
"""

import hashlib
import json
import os
from collections import OrderedDict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from clients.data.manifest import MANIFEST
from clients.request import Request, Result
from common.code import code_digest
from common.wire.payload import digest_of

FOLDER = "answers"


def recall(request: Request, key: str) -> Result | None:
    """What was answered to exactly this request, if it is kept; `key` is its fingerprint."""
    path = _file(request)
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            if told.get("request") != key:
                return None
            weights = OrderedDict((n, file.get_tensor(n)) for n in json.loads(told["order"]))
    except (OSError, SafetensorError, KeyError):
        # Not there, or cut short by a full disk: the work is done again.
        return None
    return Result(json.loads(told["metrics"]), weights)


def keep(request: Request, key: str, result: Result) -> None:
    """Keep an answer, in one move, in place of the training's last one."""
    if result.weights is None:
        return
    path = _file(request)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    told = {
        "request": key,
        "order": json.dumps(list(result.weights)),
        "metrics": json.dumps(dict(result.metrics)),
    }
    tensors = {name: tensor.detach().contiguous() for name, tensor in result.weights.items()}
    save_file(tensors, partial, metadata=told)
    partial.replace(path)


def fingerprint(request: Request) -> str:
    """SHA-256 (hex) over all that an answer depends on: code, study, round, weights, data."""
    try:
        table = (request.site.data_folder / MANIFEST).read_bytes()
    except OSError:
        table = b""
    parts = (
        code_digest(),
        request.study.canonical(),
        request.stage,
        request.target,
        str(request.round),
        digest_of(request.weights),
        request.site.data.model_dump_json(),
        hashlib.sha256(table).hexdigest(),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def may_be_kept(request: Request) -> bool:
    """Whether a stage's answer depends on nothing but the request and the manifest.

    A training on selected images depends on what the experts have said since; it is short.
    """
    training = request.plan.trainings.get(request.target)
    return training is not None and training.stage == request.stage and not training.selection


def _file(request: Request) -> Path:
    name = hashlib.sha256(request.target.encode()).hexdigest()[:16]
    return request.site.folder / FOLDER / f"{name}.safetensors"
