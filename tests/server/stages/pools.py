"""Targets with small pools, and an exchange that hands a question straight to a site's stage.

What crosses is held against the vocabulary both ways, as the apps do, and becomes bytes between.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clients.request import Request, Result
from clients.settings import SiteSettings
from clients.stages import score, select
from common.config.data import DataSpec
from common.config.load import parse_study
from common.config.study import Study
from common.models.branches import State, fresh, shared_state
from common.plan import make_plan
from common.wire.payload import check_metrics, check_names, decode, encode
from server.checkpoint import RunFolder
from server.context import ServerContext
from server.exchange import Question, Refusal, Reply

SIDE = 32
TABLES: dict[str, Any] = {
    "name": "pools",
    "seed": 5,
    "arms": ["dual", "dual_cohort", "dual_per_site", "dual_far", "contrast", "random", "entropy",
             "coreset", "full"],
    "sites": {
        "ada": {"role": "source"},
        **{name: {"role": "target"} for name in ("bo", "cy", "di")},
    },
    "model": {"preset": "tiny", "image_size": SIDE},
    "sphere": {"architecture": "resnet10t", "hidden": 16, "dimension": 8},
    "score": {"restarts": 3, "iterations": 12, "clusters": 3},
    "select": {"budgets": [0.2, 0.5], "ablation_budgets": [0.2]},
    "classify": {"architectures": ["resnet10t"]},
}  # fmt: skip
POOLS = {"bo": 17, "cy": 9, "di": 2}


class Killed(Exception):  # noqa: N818 - what happened, not a fault
    """The server was killed."""


class Silent:
    """A tracker that keeps events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def emit(self, event: str, **_: Any) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass


def study_of(**changes: Any) -> Study:
    """The study with whole tables replaced."""
    return parse_study({**TABLES, **changes}, "pools")


def make_site(root: Path, name: str, images: int, min_cohort: int = 0) -> SiteSettings:
    """A target; each second image of `cy` is one of `bo`'s, so hospitals share images."""
    folder = root / "data" / name
    if not folder.exists():
        folder.mkdir(parents=True)
        lines = ["id,image"]
        for place in range(images):
            shared = name == "cy" and place % 2 == 0
            draw = np.random.default_rng([place, 0 if shared else sum(name.encode())])
            if name == "bo":
                draw = np.random.default_rng([place, 0])
            coarse = draw.integers(0, 256, (4, 4), dtype=np.uint8)
            Image.fromarray(np.kron(coarse, np.ones((8, 8), np.uint8))).save(
                folder / f"{place}.png"
            )
            lines.append(f"{name}-{place:02},{place}.png")
        (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return SiteSettings(
        name=name,
        role="target",
        data=DataSpec(folder=name),
        data_root=root / "data",
        folder=root / "sites" / name,
        cache=root / "cache",
        min_cohort=min_cohort,
    )


@dataclass
class Direct:
    """The engine: every question becomes a request to a stage in this process."""

    study: Study
    sites: dict[str, SiteSettings]
    kill_at: int = -1
    asked: list[tuple[str, str, str, int]] = field(default_factory=list)
    off: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.crossing = self.study.for_sites()
        self.plan = make_plan(self.crossing)

    def enrol(
        self, question: Question, sites: Sequence[str], *, wait_s: float, least: int
    ) -> Iterator[Reply | Refusal]:
        raise NotImplementedError

    def connected(self, sites: Sequence[str]) -> tuple[str, ...]:
        return tuple(site for site in sites if site not in self.off)

    def ask(self, question: Question, sites: Sequence[str]) -> Iterator[Reply | Refusal]:
        for site in sites:
            if len(self.asked) == self.kill_at:
                raise Killed
            self.asked.append((question.stage, question.training, question.step, question.round))
            yield self._answer(question, site)

    def _answer(self, question: Question, site: str) -> Reply:
        request = Request(
            self.sites[site],
            self.crossing,
            self.plan,
            question.stage,
            question.training,
            question.round,
            self._crossed(question.weights or {}, question.down),
            question.step,
        )
        stage: Callable[[Request], Result] = {"score": score.run, "select": select.run}[
            question.stage
        ]
        result = stage(request)
        metrics = check_metrics(dict(result.metrics), question.metrics, complete=question.complete)
        return Reply(site, self._crossed(result.weights or {}, question.up), metrics, 1, 2, 0.0)

    def _crossed(self, tensors: Any, specs: Any) -> State:
        check_names(list(tensors), specs)
        dtype = self.study.wire.dtype
        return {
            spec.name: decode(encode(tensors[spec.name], spec, dtype), spec, dtype)
            for spec in specs
        }


@dataclass
class Context(ServerContext):
    """A server whose trainings have all ended with their random start."""

    def result(self, key: str) -> State:
        return shared_state(fresh(self.study, self.plan.trainings[key]))


@dataclass
class Pools:
    """A study, its targets and one run of it."""

    root: Path
    study: Study
    min_cohort: int = 0

    def __post_init__(self) -> None:
        self.sites = {
            name: make_site(self.root, name, round(pool / 0.8) + 1, self.min_cohort)
            for name, pool in POOLS.items()
        }
        self.exchange = Direct(self.study, self.sites)
        self.tracker = Silent()

    def context(self, kill_at: int = -1) -> Context:
        self.exchange.kill_at, self.exchange.asked = kill_at, []
        run = RunFolder(self.root / "run")
        return Context(self.study, make_plan(self.study), run, self.exchange, self.tracker)

    def worklists(self) -> dict[str, str]:
        """Path below the sites to text, of every worklist."""
        folder = self.root / "sites"
        return {
            str(path.relative_to(folder)): path.read_text()
            for path in sorted(folder.rglob("worklist.csv"))
        }


def redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconstructions without a diffusion model: each image, darker and turned over."""
    from clients import embeddings
    from clients.site import open_site, training_rows

    def reconstructions(site: SiteSettings, study: Study) -> np.ndarray:
        data = open_site(site, study)
        images = data.images(training_rows(data, "reconstruct"))
        return np.ascontiguousarray(images[:, ::-1] // 2)

    monkeypatch.setattr(embeddings, "reconstructions", reconstructions)
    torch.set_num_threads(1)
