"""What this machine has to offer a study."""

from pathlib import Path

import torch

from common.config.study import Study

CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def on_card(study: Study) -> bool:
    """Whether the study's trainings would run on a GPU of this machine."""
    return study.compute.device.startswith("cuda") and (
        study.compute.gpu_memory_gb is not None or torch.cuda.is_available()
    )


def memory_for(study: Study) -> int:
    """Bytes that the study's trainings may use: the card's memory, or what is free here."""
    if not on_card(study):
        return available_memory()
    if study.compute.gpu_memory_gb is not None:
        return int(study.compute.gpu_memory_gb * 1e9)
    return int(torch.cuda.get_device_properties(study.compute.device).total_memory)


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
