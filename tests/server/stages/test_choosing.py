"""A target that leaves while all choose together: the choice is that of pooling the others."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.selection.cut import budget_of
from server.attendance import note, read_away
from server.context import StudyStopped
from server.exchange import Question, Refusal, Reply
from server.stages import choosing, score, select
from tests.server.stages.pools import POOLS, Context, Direct, Pools, redrawn, study_of

ARMS = ["dual", "entropy", "coreset"]


class Leaving(Direct):
    """Notes a change before the n-th question to a site."""

    drop_at = -1
    site = ""
    run = Path()

    def ask(self, question: Question, sites: Sequence[str]) -> Iterator[Reply | Refusal]:
        for answer in super().ask(question, sites):
            if len(self.asked) == self.drop_at:
                note(self.run, "dropped", self.site)
            yield answer


class Without(Pools):
    """Pools from which a site is dropped at a question."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.exchange = Leaving(self.study, self.sites)
        self.exchange.run = self.root / "run"

    def choose(self, drop_at: int = -1, site: str = "cy") -> Context:
        context = self.context()
        assert isinstance(self.exchange, Leaving)
        self.exchange.drop_at, self.exchange.site = drop_at, site
        for selection in context.plan.selections.values():
            if selection.strategy == "dual":
                score.run(context, selection)
            select.run(context, selection)
        choosing.close(context)
        return context

    def of_others(self) -> dict[str, str]:
        return {path: text for path, text in self.worklists().items() if "cy" not in path}


@pytest.fixture
def pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Without:
    redrawn(monkeypatch)
    # Nothing else, so that no arm lends its embeddings.
    return Without(tmp_path / "one", study_of(arms=ARMS))


def first(pools: Without, stage: str, step: str) -> int:
    """The place of the first question of a step, from 1."""
    asked = [(asked[0], asked[2]) for asked in pools.exchange.asked]
    return 1 + asked.index((stage, step))


def test_leaving_before_it_counts_is_never_having_been_there(pools: Without) -> None:
    pools.choose()
    steps = [first(pools, "score", step) for step in ("embed", "moments", "cluster", "cells")]
    cluster = first(pools, "score", "cluster")
    assert pools.exchange.asked[cluster + 3][2] == "cluster"  # the middle of k-means
    alone = Without(pools.root.parent / "alone", pools.study)
    note(alone.root / "run", "dropped", "cy")
    alone.choose()
    assert alone.of_others() == alone.worklists()
    # Up to the last iteration of k-means, a site that leaves makes it begin anew.
    for place in [*steps[:3], cluster + 3]:
        again = Without(pools.root.parent / f"at-{place}", pools.study)
        again.choose(place)
        assert again.of_others() == alone.of_others(), place


def test_leaving_later_leaves_the_others_their_whole_budget(pools: Without) -> None:
    pools.choose()
    places = [first(pools, "score", "cells"), first(pools, "select", "rank")]
    places += [first(pools, "select", "cut"), first(pools, "select", "cut") + 4]
    for place in places:
        again = Without(pools.root.parent / f"at-{place}", pools.study)
        context = again.choose(place)
        left = [site for site in POOLS if site != "cy"]
        dual = context.plan.selections["dual"]
        found = select.outcome(context, dual)
        assert set(found["pool"]) == set(left)
        for budget, name in zip(dual.budgets, found["selected"], strict=True):
            chosen = found["selected"][name]
            assert set(chosen) == set(left)
            assert sum(chosen.values()) == budget_of(budget, sum(found["pool"].values()))
        state = json.loads((again.root / "run/state/choosing.json").read_text())
        assert state == {"sites": ["bo", "di"], "closed": True}


def test_what_was_chosen_before_stays(pools: Without) -> None:
    pools.choose()
    full = pools.worklists()
    last = len(pools.exchange.asked)
    again = Without(pools.root.parent / "again", pools.study)
    context = again.choose(last)
    assert again.worklists() == full
    # It was there to the end of the choice: back in the study, it goes on with its worklists.
    assert choosing.sites(context) == ("bo", "di")
    note(again.root / "run", "added", "cy")
    context.enrolled["cy"] = {}
    assert choosing.sites(context) == ("bo", "cy", "di")


def test_one_that_left_in_the_middle_is_out_of_the_choice_for_good(pools: Without) -> None:
    context = pools.choose(2)
    note(pools.root / "run", "added", "cy")
    context.enrolled["cy"] = {}
    assert choosing.sites(context) == ("bo", "di")
    assert not [path for path in pools.worklists() if "cy" in path]
    for site in ("bo", "di"):
        note(pools.root / "run", "dropped", site)
    with pytest.raises(StudyStopped, match="every site that chooses images was dropped"):
        choosing.sites(context)


def off(pools: Without, site: str, quorum: float) -> Without:
    """The same pools, one of which cannot be reached; so large a share of them is needed."""
    federation = pools.study.federation.model_copy(update={"quorum": quorum})
    study = pools.study.model_copy(update={"federation": federation})
    made = Without(pools.root.parent / f"off-{quorum}", study)
    made.exchange.off = {site}
    compared: dict[str, Any] = {site: {} for site in POOLS}
    made.context().run.write_state(
        "reconstruct", {"style": {}, "redraw": {}, "compare": compared, "traffic": {}}
    )
    return made


def test_one_that_is_away_when_the_choice_begins_is_left_out_by_name(pools: Without) -> None:
    """And the others choose as though it had never been there."""
    away = off(pools, "cy", 0.6)
    # The same study: of equal scores its digest decides.
    alone = Without(pools.root.parent / "alone", away.study)
    note(alone.root / "run", "dropped", "cy")
    alone.choose()
    choosing.begin(away.context())
    (noted,) = read_away(away.context().run)
    assert (noted.change, noted.site) == ("away", "cy")
    away.exchange.off = set()  # back, but the choice has begun
    away.choose()
    assert away.worklists() == alone.worklists()
    assert not [path for path in away.worklists() if "cy" in path]


def test_without_a_quorum_all_choose(pools: Without) -> None:
    made = off(pools, "cy", 1.0)
    context = made.context()
    choosing.begin(context)
    assert choosing.sites(context) == tuple(POOLS)
    assert read_away(context.run) == []
