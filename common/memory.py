"""What this machine has free."""

from pathlib import Path

CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def available_memory() -> int:
    """Bytes that can be had without swapping; a container's limit counts."""
    free = _available_here()
    for limit_file, usage_file in CGROUPS:
        try:
            limit = int(Path(limit_file).read_text())
            usage = int(Path(usage_file).read_text())
        except (OSError, ValueError):  # no such controller, or "max"
            continue
        free = min(free, max(0, limit - usage))
    return free


def _available_here() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 8 * 2**30  # no Linux: what a laptop has at least
