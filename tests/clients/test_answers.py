"""A repeated request is answered from what the site has kept; anything else is worked on anew."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from clients import answers
from clients.settings import SiteSettings, study_folder
from tests.clients.world import Answer, World, equal, world_of


class Keeping(World):
    """Sites that keep their answers."""

    def site(self, name: str) -> SiteSettings:
        return super().site(name).model_copy(update={"consortium": True})

    def worked(self, site: str) -> int:
        """Epochs that the site has trained so far."""
        return len(self.epochs(site))

    def epochs(self, site: str) -> list[dict[str, Any]]:
        lines = (self.own(site) / "epochs.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def own(self, site: str) -> Path:
        """The study's folder at the site."""
        study = self.study.for_sites()
        return self.site(site).folder / study_folder(study.name, study.digest)


@pytest.fixture
def keeping(tmp_path: Path, phantom: Path) -> Keeping:
    made = world_of(tmp_path, phantom, mim={"rounds": 2})
    return Keeping(made.root, made.phantom, made.study)


def same(a: Answer, b: Answer) -> bool:
    return a.metrics == b.metrics and equal(a.weights, b.weights)


def test_the_same_request_gets_the_same_answer_without_work(keeping: Keeping) -> None:
    first = keeping.train("bo", "mim/mim")
    worked = keeping.worked("bo")
    again = keeping.train("bo", "mim/mim")
    assert same(first, again)
    assert keeping.worked("bo") == worked > 0


def test_other_weights_or_another_round_are_other_requests(keeping: Keeping) -> None:
    first = keeping.train("bo", "mim/mim")
    worked = keeping.worked("bo")
    second = keeping.train("bo", "mim/mim", first.weights, round_=2)
    assert keeping.worked("bo") == 2 * worked
    assert not equal(first.weights, second.weights)
    # One answer a training is kept: the first round's is gone, and comes out the same again.
    assert same(keeping.train("bo", "mim/mim"), first)
    assert keeping.worked("bo") == 3 * worked


def test_changed_data_are_worked_on_anew(keeping: Keeping) -> None:
    keeping.train("bo", "mim/mim")
    worked = keeping.worked("bo")
    table = keeping.site("bo").data_folder / "index.csv"
    honest = table.read_text()
    try:
        table.write_text(honest + "\n")
        keeping.train("bo", "mim/mim")
    finally:
        table.write_text(honest)
    assert keeping.worked("bo") == 2 * worked


def test_other_code_works_anew(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping.train("bo", "mim/mim")
    worked = keeping.worked("bo")
    monkeypatch.setattr(answers, "code_digest", lambda: "other")
    keeping.train("bo", "mim/mim")
    assert keeping.worked("bo") == 2 * worked


def test_half_an_answer_is_none(keeping: Keeping) -> None:
    first = keeping.train("bo", "mim/mim")
    worked = keeping.worked("bo")
    (kept,) = (keeping.own("bo") / answers.FOLDER).iterdir()
    kept.write_bytes(kept.read_bytes()[:-100])
    assert same(keeping.train("bo", "mim/mim"), first)
    assert keeping.worked("bo") == 2 * worked


def test_a_full_disk_does_not_keep_the_answer_from_leaving(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(answers, "save_file", full)
    keeping.train("bo", "mim/mim")
    assert not list((keeping.own("bo") / answers.FOLDER).iterdir())


def test_two_studies_do_not_share_a_folder(keeping: Keeping, tmp_path: Path) -> None:
    keeping.train("bo", "mim/mim")
    other = world_of(tmp_path, keeping.phantom, mim={"rounds": 3})
    another = Keeping(other.root, other.phantom, other.study)
    another.train("bo", "mim/mim")
    assert keeping.own("bo") != another.own("bo")
    assert len(another.epochs("bo")) == len(keeping.epochs("bo"))


def test_a_simulation_keeps_none(world: World) -> None:
    world.train("bo", "mim/mim")
    assert not (world.site("bo").folder / answers.FOLDER).exists()
