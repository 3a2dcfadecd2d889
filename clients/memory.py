"""Keeping freed memory between training steps instead of handing it back to the system."""

import ctypes
import sys
from functools import lru_cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's names of the two settings (malloc.h)."""

LARGEST_HEAP_BLOCK = 32 * 2**20
"""What glibc takes at most; larger blocks are always mapped, and unmapped when they are freed."""

KEPT_BYTES = 2**30
"""Free memory at the heap's end beyond this is given back."""


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Tell this process's allocator to keep what a training step frees for the next one.

    A step frees its whole graph. By default glibc then shrinks the heap, and the next step's
    memory comes back page by page, each zeroed by the kernel: some 20,000 page faults and a sixth
    of the CPU time of a small model's step (`sonofed bench step`). The arithmetic is not touched,
    and the peak is what it was.

    Returns:
        Whether there was something to set: only glibc has it.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    )
