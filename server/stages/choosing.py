"""Which targets choose together: fixed when the first selection begins, and only shrinking after.

Scores, clusters and cuts are of all pools together, so nobody can join in the middle. A site that
is dropped before its worklists are written is out of the choice for good, whether or not it comes
back to the study; one that is dropped afterwards and comes back goes on with them.
"""

from typing import Any

from server.context import ServerContext, StudyStopped
from server.stages import enrol, reconstruct

STATE = "choosing"


def sites(context: ServerContext) -> tuple[str, ...]:
    """The targets that choose, or have chosen, and take part now.

    Raises:
        StudyStopped: If none is left.
    """
    state = _state(context)
    here = enrol.present(context, state["sites"])
    if not here:
        raise StudyStopped(
            f"every site that chooses images was dropped ({', '.join(state['sites'])}); the others "
            "came when the choice had begun: begin the study anew"
        )
    if not state["closed"] and list(here) != state["sites"]:
        context.run.write_state(STATE, state | {"sites": list(here)})
    return here


def begin(context: ServerContext) -> None:
    """Fix who chooses, if that is not done: of the targets that are here, those with all it takes.

    One that cannot be reached just then is out of the choice, if the others are a quorum.

    Raises:
        StudyStopped: If none is left.
    """
    if context.run.read_state(STATE) is not None:
        return
    targets = sites(context)
    here = enrol.here(context, "choosing", targets, targets)
    if context.plan.reconstructing:
        here = reconstruct.redrawn(context, here)
    context.run.write_state(STATE, {"sites": list(here), "closed": False})


def close(context: ServerContext) -> None:
    """All worklists are written."""
    state = _state(context)
    if not state["closed"]:
        context.run.write_state(STATE, state | {"closed": True})


def _state(context: ServerContext) -> dict[str, Any]:
    everybody = {"sites": list(context.study.targets), "closed": False}
    found: dict[str, Any] = context.run.read_state(STATE) or everybody
    return found
