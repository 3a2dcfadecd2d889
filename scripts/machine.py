"""What this machine has to offer a study."""

import torch

from common.config.study import Study
from common.memory import available_memory


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
