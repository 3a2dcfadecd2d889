"""Contrastive batches larger than memory, with the gradient of the whole batch.

A contrastive loss needs all features at once but not all graphs at once. So: encode the batch in
micro-batches without a graph; take the loss and its gradient on the features alone; then encode
each micro-batch again with a graph and feed it its features' gradient. The price is a second
forward; memory is that of one micro-batch. P1 3.2.2 wants 1,024 views in one loss; its code, on 8
GPUs without gathering, sees 128.

Both forwards must be the same function. Dropout is: the random state of each first forward is kept
and set again. BatchNorm in training mode is not (it sees the micro-batch only, and twice);
TransUNet's encoder has none.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["cached_contrastive_step"]


class _RandomState:
    """The generators a forward on one device draws from, as they stand now."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def set(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


@contextmanager
def _replayed(state: _RandomState) -> Iterator[None]:
    """Run with the generators as they stood then, and put back how they stand now."""
    now = _RandomState(state.device)
    state.set()
    try:
        yield
    finally:
        now.set()


def cached_contrastive_step(
    encode: Callable[[Tensor], Tensor],
    views: Tensor | Sequence[Tensor],
    loss_of: Callable[[Tensor], Tensor],
    *,
    micro_batch: int,
) -> Tensor:
    """Loss of a whole batch and its gradient, in the memory of one micro-batch.

    Gradients are added to ``.grad`` of every parameter that ``encode`` and ``loss_of`` use, as
    ``backward`` does; equal to those of one graph over the same micro-batches to float32 rounding.

    Args:
        encode: (n, ...) views to (n, D) features, row for row; called twice a micro-batch.
        views: (K, ...) views; or several such tensors, their features then follow one another.
        loss_of: (K, D) features to a scalar; called once. It splits the views itself, e.g.
            ``lambda z: mt_nxent(*z.chunk(2), video, frame, ...)``.
        micro_batch: Most views of one forward, >= 1.

    Returns:
        The loss, detached.
    """
    tensors = [views] if isinstance(views, Tensor) else list(views)
    pieces = [piece for tensor in tensors for piece in torch.split(tensor, micro_batch)]
    if len(pieces) == 1:  # it all fits: one forward is enough
        loss = loss_of(encode(pieces[0]))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    states, cached = [], []
    with torch.no_grad():
        for piece in pieces:
            states.append(_RandomState(piece.device))
            cached.append(encode(piece))
    features_KD = torch.cat(cached).requires_grad_()
    loss = loss_of(features_KD)
    loss.backward()  # type: ignore[no-untyped-call]
    assert features_KD.grad is not None
    gradients = torch.split(features_KD.grad, [len(features) for features in cached])
    for piece, state, gradient in zip(pieces, states, gradients, strict=True):
        with _replayed(state):
            features = encode(piece)
        torch.autograd.backward(features, gradient)
    return loss.detach()
