"""classify: stub."""

from clients.request import Request, Result


def run(request: Request) -> Result:
    """Stub."""
    raise NotImplementedError


def evaluate(request: Request) -> Result:
    """Stub."""
    raise NotImplementedError
