import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.seeds import deterministic, generator_of, seed_of


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(), st.text(max_size=5)), max_size=4))
def test_a_seed_is_a_63_bit_number_and_stays(parts: list[int | str]) -> None:
    assert 0 <= seed_of(*parts) < 2**63
    assert seed_of(*parts) == seed_of(*parts)


def test_a_seed_tells_its_parts_apart() -> None:
    seeds = [seed_of(0, "mim/mim", "a", 1), seed_of(0, "mim/mim", "a", 11), seed_of(0, "a", "b")]
    seeds += [seed_of(0, "ab"), seed_of("0a", "b"), seed_of(0, "mim/mim", "b", 1), seed_of()]
    assert len(set(seeds)) == len(seeds)


def test_a_seed_never_changes_between_releases() -> None:
    """Frozen: a checkpoint is resumed with the very draws it began with."""
    assert seed_of(0, "initial", "mim", 0) == 7268781566199764862


def test_generators_draw_alike() -> None:
    one, same, other = generator_of(1, "views"), generator_of(1, "views"), generator_of(2, "views")
    a, b, c = (torch.rand(5, generator=g) for g in (one, same, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_deterministic_seeds_and_puts_everything_back() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2, generator=torch.Generator().manual_seed(3))
    threads = torch.get_num_threads()
    drawn = []
    for _ in range(2):
        with deterministic(11, threads + 1):
            assert torch.get_num_threads() == threads + 1
            assert torch.are_deterministic_algorithms_enabled()
            drawn.append(torch.rand(3))
        assert torch.get_num_threads() == threads
        assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(*drawn)
    assert torch.equal(torch.rand(2), expected)


def test_deterministic_puts_back_after_an_error() -> None:
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), deterministic(1, threads + 1):
        int(torch.rand(1)) // 0
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_deterministic_keeps_what_was_switched_on() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with deterministic(1, torch.get_num_threads()):
            pass
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
