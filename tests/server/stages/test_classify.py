"""classify at the server: every target judges every classifier once, whatever is killed."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from flwr.app import Message

from common.models.branches import State
from common.wire.crossing import crossing
from common.wire.records import INSTRUCTION, Instruction, pack, unpack_weights
from common.wire.vocabulary import training_tensors
from server import attendance
from server.context import ServerContext, StudyStopped
from server.stages import classify
from tests.played import PlayedGrid, server_of, weights_for
from tests.tiny import targets

STUDY = targets(
    2,
    arms=["random", "entropy", "source_only"],
    select={"budgets": [0.2, 0.5]},
    sphere={"architecture": "test_efficientnet"},
    classify={"architectures": ["test_efficientnet"]},
)
SITES = STUDY.targets


class Targets:
    """Targets that answer honestly, until one of them is told to fail."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.weights: dict[str, float] = {}
        self.dies_at: int | None = None

    def __call__(self, site: str, message: Message) -> Message | None:
        instruction = Instruction.from_record(message.content.config_records[INSTRUCTION])
        study, key = STUDY.for_sites(), instruction.training
        assert instruction.stage == "classify"
        if self.dies_at is not None and len(self.asked) >= self.dies_at:
            raise KeyboardInterrupt
        self.asked.append((site, key))
        plan = server_of(study, Path("unused"), PlayedGrid(SITES, self))[0].plan
        spec = crossing(study, plan, "evaluate", "classify", key)
        if key:
            state = unpack_weights(message.content, spec.down, study.wire.dtype)
            self.weights[key] = float(next(iter(state.values())).flatten()[0])
            return Message(pack(metrics={}), reply_to=message)
        counts = {
            s.name: torch.full(s.shape, 1 + SITES.index(site), dtype=torch.int64) for s in spec.up
        }
        metrics = {f"{cell}.accuracy.mean": 0.25 * (1 + SITES.index(site)) for cell in plan.cells}
        content = pack(weights=counts, specs=spec.up, wire_dtype=study.wire.dtype, metrics=metrics)
        return Message(content, reply_to=message)


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training has finished, each with weights of its own."""

    def result(self: ServerContext, key: str) -> State:
        training = self.plan.trainings[key]
        assert training_tensors(self.study, training)
        return weights_for(self.study, training, list(self.plan.trainings).index(key) / 8)

    monkeypatch.setattr(ServerContext, "result", result)


def test_every_target_judges_every_classifier(tmp_path: Path) -> None:
    sites = Targets()
    context, events = server_of(STUDY, tmp_path, PlayedGrid(SITES, sites))
    scored = classify.run(context)
    cells = list(context.plan.cells)
    assert len(cells) == 5
    assert Counter(sites.asked) == Counter({(s, k): 1 for s in SITES for k in (*cells, "")})
    keys = list(context.plan.trainings)
    for key, cell in context.plan.cells.items():
        assert sites.weights[key] == keys.index(cell.training) / 8
    assert {site: found[f"{cells[0]}.accuracy.mean"] for site, found in scored.items()} == {
        SITES[0]: 0.25, SITES[1]: 0.5,
    }  # fmt: skip
    found = classify.classified(context)
    assert list(found) == list(SITES)
    for place, site in enumerate(SITES):
        assert found[site].scores.shape == (5, 2, 256)
        assert found[site].confusion.shape == (5, 2, 2)
        assert (found[site].scores == 1 + place).all()
        assert found[site].metrics == scored[site]
    assert len(events.named("step")) == 2 * 6
    traffic = context.run.read_state("classify")["traffic"]
    assert traffic[SITES[0]]["up"] > 5 * 2 * 256 * 8
    assert traffic[SITES[0]]["down"] > 0


@pytest.mark.parametrize("dies_at", range(12))
def test_a_kill_asks_nothing_twice(tmp_path: Path, dies_at: int) -> None:
    sites = Targets()
    sites.dies_at = dies_at
    context, _ = server_of(STUDY, tmp_path, PlayedGrid(SITES, sites))
    with pytest.raises(KeyboardInterrupt):
        classify.run(context)
    sites.dies_at = None
    scored = classify.run(server_of(STUDY, tmp_path, PlayedGrid(SITES, sites))[0])
    # An answer that was under way when the server died is asked for again, no other.
    assert max(Counter(sites.asked).values()) <= 2
    assert len(sites.asked) <= 12 + 1
    assert set(scored) == set(SITES)
    before = len(sites.asked)
    assert classify.run(server_of(STUDY, tmp_path, PlayedGrid(SITES, sites))[0]) == scored
    assert len(sites.asked) == before


def test_a_site_that_refuses_stops_the_study(tmp_path: Path) -> None:
    def refuse(site: str, message: Message) -> Message | None:
        return None if site == SITES[1] else Targets()(site, message)

    study = STUDY.model_copy(
        update={"federation": STUDY.federation.model_copy(update={"deadline_s": 0.2})}
    )
    context, _ = server_of(study, tmp_path, PlayedGrid(SITES, refuse))
    with pytest.raises(StudyStopped, match=f"classify, random/20/test_efficientnet: {SITES[1]}"):
        classify.run(context)


def test_a_quorum_is_judged_and_a_later_run_fills_in(tmp_path: Path) -> None:
    silent = {SITES[1]}
    sites = Targets()

    def play(site: str, message: Message) -> Message | None:
        return None if site in silent else sites(site, message)

    federation = STUDY.federation.model_copy(update={"deadline_s": 0.2, "quorum": 0.5})
    study = STUDY.model_copy(update={"federation": federation})
    context, events = server_of(study, tmp_path, PlayedGrid(SITES, play))
    assert set(classify.run(context)) == {SITES[0]}
    assert set(classify.classified(context)) == {SITES[0]}
    reason = {SITES[1]: "no reply before the deadline"}
    assert attendance.missing(context.run) == {"classify": reason}
    (refused,) = events.named("refused")
    assert (refused["site"], refused["training"]) == (SITES[1], "classify")
    silent.clear()
    asked = len(sites.asked)
    context, _ = server_of(study, tmp_path, PlayedGrid(SITES, play))
    assert set(classify.run(context)) == set(SITES)
    assert {site for site, _ in sites.asked[asked:]} == {SITES[1]}
    assert attendance.missing(context.run) == {}
