"""Whether the SuperNode is there, as far as a gate can tell."""

import time
from dataclasses import dataclass

PATIENCE_S = 90.0
"""A SuperNode that has said nothing for so long is away."""


@dataclass
class Presence:
    """Whether the SuperNode is there."""

    heard: float = 0.0
    last: float = 0.0
    """When it was there last, though it has taken its leave since."""

    @property
    def here(self) -> bool:
        """Whether it is."""
        return self.heard > 0 and time.monotonic() - self.heard < PATIENCE_S
