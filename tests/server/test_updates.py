"""The look at a round's replies: exact lengths, sketched angles, who is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, Error, Message
from torch import Tensor

from common.plan import make_plan
from common.wire.records import ERROR_FAILED, WEIGHTS
from server.context import StudyStopped
from server.stages import train
from server.stages.start import starting_weights
from server.updates import Update, Updates, against
from tests.played import Events, PlayedGrid, honest_content, server_of
from tests.tiny import targets

SITES = [f"site{place}" for place in range(5)]


def start() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "conv": torch.randn(40, 30, 3, 3, generator=generator),
        "fc": torch.randn(17, generator=generator),
        "bn.running_var": torch.full((8,), 1e9),
        "bn.num_batches_tracked": torch.tensor(3),
    }


def moved(by: dict[str, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
    sent = start()
    return {name: tensor + scale * by.get(name, 0) for name, tensor in sent.items()} | {
        "bn.running_var": torch.zeros(8),
        "bn.num_batches_tracked": torch.tensor(10**9),
    }


def steps(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "conv": torch.randn(40, 30, 3, 3, generator=generator),
        "fc": torch.randn(17, generator=generator),
    }


def flat(tensors: dict[str, Tensor]) -> np.ndarray:
    return np.concatenate([tensors[n].double().flatten().numpy() for n in ("conv", "fc")])


def test_lengths_are_exact_and_angles_nearly() -> None:
    common = steps(7)
    own = {
        site: {n: common[n] + steps(10 + place)[n] for n in common}
        for place, site in enumerate(SITES)
    }
    updates = Updates(start(), 1e3, seed=5)
    for site, step in own.items():
        assert updates.refuse(site, moved(step)) == ""
    found = updates.found()
    units = {site: flat(step) / np.linalg.norm(flat(step)) for site, step in own.items()}
    for site, step in own.items():
        exact = np.linalg.norm(flat(step)) / np.linalg.norm(flat(start()))
        assert found[site].norm == pytest.approx(exact, rel=1e-5)
        others = sum(unit for other, unit in units.items() if other != site)
        cosine = float(units[site] @ others / np.linalg.norm(others))
        assert found[site].agreement == pytest.approx(cosine, abs=0.06)
    assert against(found) == {}


def test_the_one_that_goes_the_other_way_is_named() -> None:
    updates = Updates(start(), 1e3, seed=5)
    for place, site in enumerate(SITES):
        step = {n: steps(7)[n] + steps(10 + place)[n] for n in steps(7)}
        updates.refuse(site, moved(step, -1.0 if site == "site3" else 1.0))
    assert list(against(updates.found())) == ["site3"]


def test_two_replies_cannot_say_who_is_the_odd_one() -> None:
    assert against({"a": Update(1.0, -0.9), "b": Update(1.0, -0.9)}) == {}


def test_alone_there_is_nobody_to_agree_with() -> None:
    updates = Updates(start(), 1e3, seed=5)
    updates.refuse("a", moved(steps(1)))
    assert updates.found()["a"].agreement is None
    assert Updates(start(), 1e3, seed=5).found() == {}


def test_beyond_the_bound() -> None:
    updates = Updates(start(), 10.0, seed=5)
    words = updates.refuse("a", moved(steps(1), 1000.0))
    assert "federation.update_bound = 10" in words
    assert updates.found() == {}


def round_of_five(
    run: Path, lie: str, rule: str, quorum: float = 0.8
) -> tuple[Events, dict[str, Tensor], list[str]]:
    """Four sites that nearly agree, and site2, which lies."""
    study = targets(5, federation={"quorum": quorum, "aggregation": rule, "update_bound": 20.0})
    training = make_plan(study).trainings["mim/mim"]
    context, events = server_of(study, run, PlayedGrid(study.sites, lambda s, m: play(s, m)))
    sent = dict(starting_weights(context, training))

    def play(site: str, message: Message) -> Message:
        content = honest_content(study, training, 0.0)
        place = int(site.removeprefix("site"))
        for number, (name, tensor) in enumerate(sent.items()):
            generator = torch.Generator().manual_seed(number)
            step = torch.randn(tensor.shape, generator=generator)
            own = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(999 + place))
            new = tensor + 0.1 * step + 0.01 * own
            if site == "site2":
                new = spoil(lie, tensor, new)
            content.array_records[WEIGHTS][name] = Array(new.numpy().astype(np.float32))
        return Message(content, reply_to=message)

    train.run(context, training)
    remarks = context.run.checkpoint(training.key).load(training.key).remarks
    return events, dict(context.result(training.key)), remarks


def spoil(lie: str, sent: Tensor, honest: Tensor) -> Tensor:
    match lie:
        case "NaN":
            return torch.full_like(honest, float("nan"))
        case "shape":
            return honest[None]
        case "scaled":
            return sent + 1000 * (honest - sent)
    return sent - (honest - sent)


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed", "krum"])
@pytest.mark.parametrize("lie", ["NaN", "shape", "scaled", "flipped"])
def test_one_bad_reply_of_five(tmp_path: Path, lie: str, rule: str) -> None:
    events, weights, remarks = round_of_five(tmp_path, lie, rule)
    _, honest, _ = round_of_five(tmp_path / "honest", "none", rule)
    (done,) = events.named("round")
    if lie != "flipped":
        assert list(done["refused"]) == ["site2"]
        assert done["sites"] == ["site0", "site1", "site3", "site4"]
        assert remarks == []
    else:
        assert done["updates"]["site2"]["agreement"] < -0.5
        assert done["updates"]["site1"]["agreement"] > 0.5
        (remark,) = remarks
        assert "site2" in remark
    distance = max(float((weights[n] - honest[n]).abs().max()) for n in weights)
    # A mean of five takes two fifths of a flipped step's length; the others keep to the honest.
    step = max(float((honest[n]).abs().max()) for n in honest)
    assert distance < (step if rule == "mean" else 0.1)


def test_a_site_that_gives_no_reply_is_none_of_the_bad_ones(tmp_path: Path) -> None:
    """The one that Krum is to withstand may be among the four that came, and hides there."""
    study = targets(5, federation={"quorum": 0.8, "aggregation": "krum"})
    training = make_plan(study).trainings["mim/mim"]

    def play(site: str, message: Message) -> Message:
        if site == "site2":
            return Message(Error(ERROR_FAILED, "no"), reply_to=message)
        return Message(honest_content(study, training, 0.1), reply_to=message)

    context, _ = server_of(study, tmp_path, PlayedGrid(study.sites, play))
    with pytest.raises(StudyStopped, match="byzantine = 1 needs 5 replies, and 4 came"):
        train.run(context, training)
