"""annotate: stub."""

from clients.request import Request, Result


def run(request: Request) -> Result:
    """Stub."""
    raise NotImplementedError
