"""Seeds that say what they are for, and the switch to deterministic arithmetic."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(*parts: object) -> int:
    """A seed in [0, 2^63) from what it is for, e.g. `seed_of(study.seed, "mim/mim", "a", 3)`."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_of(*parts: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator seeded by `seed_of`."""
    return torch.Generator(device).manual_seed(seed_of(*parts))


@contextmanager
def deterministic(seed: int, threads: int) -> Iterator[None]:
    """Run a block with seeded global state, a fixed number of threads, deterministic kernels.

    The number of threads changes how sums are split, so it is part of what makes two runs equal.
    What was set before is put back afterwards.

    Args:
        seed: Of torch's global generator (dropout draws from it).
        threads: CPU threads of one operation.
    """
    before_threads = torch.get_num_threads()
    before_flag = torch.are_deterministic_algorithms_enabled()
    before_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        # Some CUDA kernels (bilinear upsampling backwards) have no deterministic form: warn there.
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
        try:
            yield
        finally:
            torch.set_num_threads(before_threads)
            torch.use_deterministic_algorithms(before_flag, warn_only=before_warn)
