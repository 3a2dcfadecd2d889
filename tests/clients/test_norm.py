from collections.abc import Callable

import pytest
import torch
from torch import nn

from clients.norm import keep_norm, last_norm, take_norm
from clients.request import Request
from tests.clients.world import World


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def filled(value: float) -> nn.Sequential:
    made = network()
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.fill_(value)
    return made


def values(made: nn.Sequential) -> set[float]:
    """All that its BatchNorm holds."""
    return {float(v) for tensor in made[1].state_dict().values() for v in tensor.flatten()}


@pytest.fixture
def ask(make_world: Callable[..., World]) -> Callable[..., Request]:
    def make(round_: int, norm: str = "local") -> Request:
        world = make_world(federation={"norm": norm}, mim={"rounds": 9})
        return Request(world.site("bo"), world.study, world.plan, "mim", "mim/mim", round_)

    return make


def test_a_round_takes_what_the_round_before_left(ask: Callable[..., Request]) -> None:
    assert not take_norm(ask(1), network())
    for round_ in (1, 2):
        keep_norm(ask(round_), filled(float(round_)))
    made = network()
    before = made[0].state_dict()["weight"].clone()
    assert take_norm(ask(2), made)
    assert values(made) == {1.0}
    assert torch.equal(made[0].state_dict()["weight"], before)
    assert take_norm(ask(2), made, after=True)
    assert values(made) == {2.0}


def test_a_repeated_round_finds_what_it_found_before(ask: Callable[..., Request]) -> None:
    keep_norm(ask(1), filled(1.0))
    for _ in range(2):
        made = network()
        take_norm(ask(2), made)
        assert values(made) == {1.0}
        keep_norm(ask(2), filled(2.0))


def test_the_last_of_more_than_nine_rounds(ask: Callable[..., Request]) -> None:
    request = ask(1)
    assert last_norm(request, "mim/mim") is None
    for round_ in (2, 9, 10):
        keep_norm(ask(round_), filled(float(round_)))
    own = last_norm(request, "mim/mim")
    assert own is not None
    assert sorted(own) == [
        "1.bias", "1.num_batches_tracked", "1.running_mean", "1.running_var", "1.weight"
    ]  # fmt: skip
    assert bool((own["1.weight"] == 10).all())


def test_averaged_norms_are_not_kept(ask: Callable[..., Request]) -> None:
    request = ask(1, "average")
    keep_norm(request, filled(1.0))
    assert not take_norm(ask(2, "average"), network())
    assert not (request.site.folder / "norm").exists()
