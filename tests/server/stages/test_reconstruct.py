"""reconstruct at the server: one path through three steps, whatever kills it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clients.request import Request
from clients.stages import reconstruct as at_site
from common.config.study import Study
from common.models.branches import State
from common.plan import make_plan
from common.reconstruction import wasserstein
from common.wire.payload import check_metrics, check_names, decode, encode
from server.attendance import read_away
from server.checkpoint import RunFolder
from server.context import ServerContext, StudyStopped
from server.exchange import Question, Refusal, Reply
from server.stages import reconstruct
from tests.clients.redrawing import ROLES, make_site, smallest, start, study_of
from tests.server.stages.pools import Killed, Silent


class Direct:
    """Questions go straight to the stage at a site; what crosses becomes bytes between."""

    def __init__(self, root: Path, study: Study, kill_at: int = -1, refuses: str = "") -> None:
        self.study, self.kill_at, self.refuses = study, kill_at, refuses
        self.sites = {name: make_site(root, name) for name in ROLES}
        self.asked: list[tuple[str, str]] = []
        self.off: set[str] = set()

    def enrol(
        self, question: Question, sites: Sequence[str], *, wait_s: float, least: int
    ) -> Iterator[Reply | Refusal]:
        raise NotImplementedError

    def connected(self, sites: Sequence[str]) -> tuple[str, ...]:
        return tuple(site for site in sites if site not in self.off)

    def ask(self, question: Question, sites: Sequence[str]) -> Iterator[Reply | Refusal]:
        crossing = self.study.for_sites()
        for site in sites:
            if len(self.asked) == self.kill_at:
                raise Killed
            self.asked.append((question.step, site))
            if site == self.refuses:
                yield Refusal(site, "no")
                continue
            request = Request(
                self.sites[site], crossing, make_plan(crossing), question.stage, "", 1,
                self._crossed(question.weights or {}, question.down), question.step,
            )  # fmt: skip
            result = at_site.run(request)
            metrics = check_metrics(dict(result.metrics), question.metrics, complete=False)
            yield Reply(site, self._crossed(result.weights or {}, question.up), metrics, 1, 2, 0.0)

    def _crossed(self, tensors: Any, specs: Any) -> State:
        check_names(list(tensors), specs)
        return {
            spec.name: decode(encode(tensors[spec.name], spec, "float32"), spec, "float32")
            for spec in specs
        }


class Context(ServerContext):
    """A server whose trainings have all ended with their random start."""

    def result(self, key: str) -> State:
        return start(self.study, key)


def context_of(root: Path, **how: Any) -> Context:
    study = study_of()
    exchange = Direct(root, study, **how)
    return Context(study, make_plan(study), RunFolder(root / "run"), exchange, Silent())


@pytest.fixture(autouse=True)
def _smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    smallest(monkeypatch)
    torch.set_num_threads(1)


def test_the_steps_and_what_is_said_of_them(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    reconstruct.run(context)
    assert isinstance(context.exchange, Direct)
    assert context.exchange.asked == [
        ("style", "ada"),
        *[("redraw", site) for site in ROLES],
        *[("compare", site) for site in ROLES],
    ]
    found = reconstruct.results(context)
    assert list(found) == list(ROLES)
    source, target = found["ada"], found["bo"]
    assert (source.role, source.images, target.images) == ("source", 6, 14)
    for when in ("before", "after"):
        assert target.metrics[f"domain_bias_{when}"] == pytest.approx(
            abs(target.metrics[f"similarity_mean_{when}"] - source.metrics["similarity_mean"])
        )
        grey = np.array(target.grey[when])
        assert grey.sum() == 14 * 24 * 32
        assert target.metrics[f"wasserstein_{when}"] == pytest.approx(
            wasserstein(grey, np.array(source.grey["before"]))
        )
        assert sum(target.similarity[when]) == 14
    assert list(source.grey) == ["before"]
    assert sum(source.similarity["before"]) == 10  # its training images
    moved = reconstruct.traffic(context)
    assert moved == {
        "ada": {"down": 3, "up": 6}, "bo": {"down": 2, "up": 4}, "cy": {"down": 2, "up": 4}
    }  # fmt: skip


def test_a_kill_at_any_message_ends_in_the_same_state(tmp_path: Path) -> None:
    whole = context_of(tmp_path / "whole")
    reconstruct.run(whole)
    expected = json.loads((whole.run.folder / "state" / "reconstruct.json").read_text())
    messages = 0
    for _ in range(12):
        context = context_of(tmp_path / "cut", kill_at=1)
        assert isinstance(context.exchange, Direct)
        try:
            reconstruct.run(context)
        except Killed:
            messages += 1
            continue
        messages += len(context.exchange.asked)
        break
    assert messages == 7  # none is asked twice
    state = json.loads((tmp_path / "cut" / "run" / "state" / "reconstruct.json").read_text())
    assert state == expected
    assert reconstruct.results(context) == reconstruct.results(whole)


def test_a_refusal_stops_the_study_and_names_the_site(tmp_path: Path) -> None:
    with pytest.raises(StudyStopped, match="reconstruct, style: ada: no"):
        reconstruct.run(context_of(tmp_path, refuses="ada"))


def test_with_a_quorum_one_that_is_away_is_left_out_and_a_later_run_asks_it(
    tmp_path: Path,
) -> None:
    context = context_of(tmp_path)
    context.study = context.study.model_copy(
        update={"federation": context.study.federation.model_copy(update={"quorum": 0.6})}
    )
    assert isinstance(context.exchange, Direct)
    context.exchange.off = {"cy"}
    reconstruct.run(context)
    assert reconstruct.redrawn(context, ("bo", "cy")) == ("bo",)
    assert [(away.change, away.site) for away in read_away(context.run)] == [("away", "cy")]
    context.exchange.off, context.exchange.asked = set(), []
    reconstruct.run(context)
    assert context.exchange.asked == [("redraw", "cy"), ("compare", "cy")]
