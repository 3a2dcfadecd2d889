"""What is wrong with a message."""


class PayloadError(Exception):
    """A message is not what the vocabulary says. Its text names tensors and metrics only."""
