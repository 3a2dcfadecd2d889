"""score: stub."""

from common.plan import Selection
from server.context import ServerContext


def run(context: ServerContext, selection: Selection) -> None:
    """Stub."""
    raise NotImplementedError
