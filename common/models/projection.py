"""The head that contrastive pretraining puts on the encoder and throws away afterwards."""

from torch import Tensor, nn

__all__ = ["ProjectionHead"]


class ProjectionHead(nn.Module):
    """Linear, ReLU, Linear (P1 3.2.2: 768-768-128).

    Args:
        hidden: Width of the encoder's feature; the first layer keeps it.
        out: Width in which similarities are taken.
    """

    def __init__(self, hidden: int, out: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, out),
        )

    def forward(self, features_BD: Tensor) -> Tensor:
        """Project (B, hidden) to (B, out); not normalised, the loss does that."""
        return self.layers(features_BD)  # type: ignore[no-any-return]
