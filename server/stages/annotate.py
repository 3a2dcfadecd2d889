"""annotate: stub."""

from server.context import ServerContext


def run(context: ServerContext) -> None:
    """Stub."""
    raise NotImplementedError


def annotated(context: ServerContext, arm: str, budget: float) -> dict[str, int]:
    """Annotated images of a selection at a budget, by site."""
    raise NotImplementedError
