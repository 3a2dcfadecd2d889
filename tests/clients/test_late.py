"""A site slower than the deadline: what it had worked is kept, and answers when it is asked again.

The sites' own code works; the server is the study's. Only the time that a site takes is played.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Message

from common.wire.records import INSTRUCTION
from server.context import StudyStopped
from server.stages import train
from tests.clients.test_full_disk import KEY, Sites
from tests.clients.world import equal, world_of
from tests.played import Events, PlayedGrid, server_of


class Slow(Sites):
    """`bo` works on what it is asked in some rounds, but is done only after the deadline.

    Flower throws away what comes then, so nothing of it reaches the server.
    """

    late: tuple[int, ...] = ()

    def answer(self, site: str, message: Message) -> Message | None:
        reply = self.play(site, message)
        assert not reply.has_error(), self.world.log(site)
        record = message.content.config_records[INSTRUCTION]
        return None if site == "bo" and int(str(record["round"])) in self.late else reply

    def run(self, folder: Path) -> Events:
        context, events = server_of(
            self.world.study, folder, PlayedGrid(self.world.study.sites, self.answer)
        )
        train.run(context, self.world.training(KEY))
        return events


@pytest.fixture
def slow(tmp_path: Path, phantom: Path) -> Callable[..., Slow]:
    def make(name: str, late: tuple[int, ...], quorum: float) -> Slow:
        (tmp_path / name).mkdir()
        world = world_of(
            tmp_path / name, phantom, mim={"rounds": 3},
            federation={"quorum": quorum, "deadline_s": 0.5},
        )  # fmt: skip
        made = Slow(world, tmp_path / name / "caches")
        made.late = late
        return made

    return make


def test_where_it_is_needed_it_is_asked_again_and_does_not_work_again(
    slow: Callable[..., Slow], tmp_path: Path
) -> None:
    sites = slow("late", (2,), 1.0)
    with pytest.raises(StudyStopped, match=f"{KEY}, round 2: .*bo: no reply before the deadline"):
        sites.run(tmp_path / "run")
    assert sites.epochs("bo") == 2  # rounds 1 and 2: the late one was done
    sites.late = ()
    sites.run(tmp_path / "run")
    assert sites.epochs("bo") == 3  # round 3 only
    undisturbed = slow("undisturbed", (), 1.0)
    undisturbed.run(tmp_path / "undisturbed-run")
    weights = [
        server_of(made.world.study, tmp_path / run, PlayedGrid([], made.answer))[0].result(KEY)
        for made, run in ((sites, "run"), (undisturbed, "undisturbed-run"))
    ]
    assert equal(*weights)


def test_with_a_quorum_its_round_goes_on_and_it_is_there_in_the_next(
    slow: Callable[..., Slow], tmp_path: Path
) -> None:
    sites = slow("quorum", (2,), 0.5)
    events = sites.run(tmp_path / "run")
    assert [event["sites"] for event in events.named("round")] == [
        ["bo", "cy"], ["cy"], ["bo", "cy"],
    ]  # fmt: skip
    (refused,) = events.named("refused")
    assert (refused["round"], refused["site"]) == (2, "bo")
    assert refused["reason"] == "no reply before the deadline"


def test_a_run_that_stopped_in_the_late_round_finds_its_answer_there(
    slow: Callable[..., Slow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server dies when the others have answered; the round is asked for again, by all."""
    sites = slow("killed", (2,), 0.5)
    answer = sites.answer

    def dies(site: str, message: Message) -> Message | None:
        record = message.content.config_records[INSTRUCTION]
        reply = answer(site, message)
        if (site, int(str(record["round"]))) == ("cy", 2):
            raise KeyboardInterrupt
        return reply

    with monkeypatch.context() as patched:
        patched.setattr(sites, "answer", dies)
        with pytest.raises(KeyboardInterrupt):
            sites.run(tmp_path / "run")
    assert (sites.epochs("bo"), sites.epochs("cy")) == (2, 2)
    sites.late = ()
    events = sites.run(tmp_path / "run")
    assert [event["sites"] for event in events.named("round")] == [["bo", "cy"]] * 2
    assert (sites.epochs("bo"), sites.epochs("cy")) == (3, 3)
