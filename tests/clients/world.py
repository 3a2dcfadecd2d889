"""A tiny study over phantom sites, asked through the client app as a server would ask."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Message, Metadata, RecordDict
from torch import Tensor

from clients.app import app
from clients.settings import SiteSettings
from common.config.data import DataSpec
from common.config.load import parse_study
from common.config.study import Study
from common.models.branches import State, encoder_of, fresh, join_members, load_shared, shared_state
from common.plan import Plan, Training, make_plan
from common.wire.records import METRICS, Instruction, pack, unpack_weights
from common.wire.vocabulary import member_tensors, training_tensors

SITES = {"ada": "source", "bo": "target", "cy": "target"}
PROBES = {"ada": "linear_hd", "bo": "linear_pocket", "cy": "convex"}
TINY: dict[str, Any] = {
    "name": "tiny",
    "arms": ["ensemble_adapted", "lower", "upper"],
    "sites": {name: {"role": role} for name, role in SITES.items()},
    "split": {"val": 0.2, "test": 0.2},
    "model": {
        "preset": "tiny",
        "image_size": 32,
        "options": {"hidden": 48, "mlp": 96, "blocks": 2, "head_channels": 32},
    },
    "mim": {"epochs": 1},
    "contrastive": {"epochs": 1, "learning_rate": 1e-4, "min_frame_gap": 2},
    "finetune": {"epochs": 1, "learning_rate": 1e-3},
    "adapt": {"epochs": 1, "rounds": 1},
    "evaluate": {"bootstrap": 100, "overlays": 0},
    "compute": {"batch": 4},
}


def merged(tables: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Tables with changes laid over them, table by table."""
    result = dict(tables)
    for key, value in changes.items():
        own = result.get(key)
        both = isinstance(own, Mapping) and isinstance(value, Mapping) and key != "sites"
        result[key] = merged(own, value) if both else value  # type: ignore[arg-type]
    return result


def message_of(content: RecordDict, kind: str) -> Message:
    """A message as a SuperLink would hand it to a site."""
    metadata = Metadata(
        run_id=1, message_id="1", src_node_id=1, dst_node_id=2, reply_to_message_id="",
        group_id="", created_at=0.0, ttl=3600.0, message_type=kind,
    )  # fmt: skip
    message: Message = Message(metadata=metadata, content=content)  # type: ignore[call-overload]
    return message


@dataclass(frozen=True)
class Answer:
    """A reply, read as the server reads it."""

    message: Message
    metrics: dict[str, float | int]
    weights: State


@dataclass
class World:
    """Sites and a study; everything goes through messages."""

    root: Path
    phantom: Path
    study: Study
    folders: dict[str, str] = field(default_factory=lambda: dict(PROBES))

    @property
    def plan(self) -> Plan:
        """The study's plan."""
        return make_plan(self.study)

    def training(self, key: str) -> Training:
        """A training of the plan."""
        return self.plan.trainings[key]

    def site(self, name: str) -> SiteSettings:
        """A site's own settings; the cache is shared, its folder is its own."""
        return SiteSettings(
            name=name,
            role=self.study.sites[name].role,
            data=DataSpec(folder=self.folders[name]),
            data_root=self.phantom,
            folder=self.root / "sites" / name,
            cache=self.phantom / "cache",
            own_parts=self.study.own_parts,
        )

    def start(self, key: str) -> State:
        """What the server sends out in a training's first round, its parents untrained."""
        training = self.training(key)
        if training.stage == "adapt":
            return join_members([self.start(parent) for parent in training.start])
        network = fresh(self.study, training)
        if training.start:
            load_shared(network, encoder_of(self.start(training.start[0])))
        return shared_state(network, self.study.federation.norm)

    def message(
        self,
        site: str,
        kind: str,
        key: str = "",
        weights: Mapping[str, Tensor] | None = None,
        round_: int = 1,
    ) -> Message:
        """An instruction, e.g. ("bo", "train.mim", "mim/mim")."""
        stage = kind.partition(".")[2]
        study = self.study.for_sites()
        specs = (
            ()
            if weights is None
            else member_tensors(study, self.plan, key)
            if stage == "evaluate"
            else training_tensors(study, self.training(key))
        )
        content = pack(
            instruction=Instruction(study.canonical(), stage, key, round_, study.seed),
            weights=weights,
            specs=specs,
            wire_dtype=study.wire.dtype,
        )
        return message_of(content, kind)

    def deliver(self, site: str, message: Message) -> Message:
        """Hand a message to a site's client app."""
        path = self.root / f"{site}.json"
        path.write_text(self.site(site).model_dump_json())
        context = Context(1, 2, {"settings": str(path)}, RecordDict(), {})
        return app(message, context)

    def ask(
        self,
        site: str,
        kind: str,
        key: str = "",
        weights: Mapping[str, Tensor] | None = None,
        round_: int = 1,
    ) -> Answer:
        """Send an instruction and read the answer, which must be no error."""
        reply = self.deliver(site, self.message(site, kind, key, weights, round_))
        assert not reply.has_error(), self.log(site)
        category, _, _ = kind.partition(".")
        specs = training_tensors(self.study, self.training(key)) if category == "train" else ()
        received = dict(reply.content.metric_records.get(METRICS, {}))
        metrics = {name: value for name, value in received.items() if not isinstance(value, list)}
        return Answer(reply, metrics, unpack_weights(reply.content, specs, self.study.wire.dtype))

    def train(
        self,
        site: str,
        key: str,
        weights: Mapping[str, Tensor] | None = None,
        round_: int = 1,
    ) -> Answer:
        """One round of a training at a site, from its start unless weights are given."""
        kind = f"train.{self.training(key).stage}"
        return self.ask(site, kind, key, self.start(key) if weights is None else weights, round_)

    def log(self, site: str) -> str:
        """What a site wrote of its troubles."""
        path = self.site(site).folder / "errors.log"
        return path.read_text() if path.exists() else ""

    def epochs(self, site: str) -> list[dict[str, Any]]:
        """The losses that a site wrote down."""
        lines = (self.site(site).folder / "epochs.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def world_of(root: Path, phantom: Path, **changes: Any) -> World:
    """A world with changes laid over the tiny study, e.g. `mim={"rounds": 2}`."""
    return World(root, phantom, parse_study(merged(TINY, changes), "tiny"))


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two states are the same to the last bit."""
    return list(a) == list(b) and all(
        torch.equal(a[name].contiguous().view(torch.uint8), b[name].contiguous().view(torch.uint8))
        if a[name].dim()
        else torch.equal(a[name], b[name])
        for name in a
    )
