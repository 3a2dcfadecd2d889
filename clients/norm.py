"""`norm = "local"` (FedBN): a site's BatchNorms stay in its own folder, one file a round.

A round reads what the round before it left, so a request that comes twice is answered the same.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from clients.request import Request
from common.models.branches import batch_norm_names


def _file(request: Request, key: str, round_: int) -> Path:
    return request.site.folder / "norm" / key / f"{round_}.safetensors"


def take_norm(request: Request, network: nn.Module, *, after: bool = False) -> bool:
    """Put the site's own BatchNorms into a network, where it keeps them.

    Args:
        request: Says which round of which training this is.
        network: Of that training.
        after: Those that the round left (to judge it), not those that it began with.

    Returns:
        Whether there were any.
    """
    if request.study.federation.norm == "average":
        return False
    path = _file(request, request.target, request.round if after else request.round - 1)
    if not path.exists():
        return False
    network.load_state_dict({**network.state_dict(), **load_file(path)})
    return True


def keep_norm(request: Request, network: nn.Module) -> None:
    """Write the site's own BatchNorms of this round, where it keeps them."""
    if request.study.federation.norm == "average":
        return
    names = batch_norm_names(network)
    path = _file(request, request.target, request.round)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().clone()
        for name, tensor in network.state_dict().items()
        if name in names
    }
    partial = path.with_suffix(".partial")
    save_file(state, partial)
    partial.replace(path)


def last_norm(request: Request, key: str) -> dict[str, torch.Tensor] | None:
    """The site's own BatchNorms after a training's last round, if it took part in it."""
    folder = request.site.folder / "norm" / key
    rounds = sorted(int(path.stem) for path in folder.glob("*.safetensors"))
    return load_file(folder / f"{rounds[-1]}.safetensors") if rounds else None
