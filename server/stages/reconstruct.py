"""reconstruct: stub."""

from server.context import ServerContext


def run(context: ServerContext) -> None:
    """Stub."""
    raise NotImplementedError
