"""classify: stub."""

from server.context import ServerContext


def run(context: ServerContext) -> dict[str, dict[str, float | int]]:
    """Ask for every cell's prediction and then its score; each site's flat metrics."""
    raise NotImplementedError
