"""Which sites of a consortium are connected, and when the SuperLink last heard of the others."""

from common.errors import InputError
from scripts.standing import when
from server.consortium import register as registers
from server.consortium.control import Control, Node
from server.consortium.place import Place


def seen(place: Place) -> dict[str, str]:
    """Of each member by name: "connected", or when it was. Nothing while the SuperLink is away."""
    try:
        register = registers.read(place)
        with Control(place, register) as control:
            nodes = {node.node_id: node for node in control.nodes()}
    except InputError:
        return {}
    return {
        name: _words(nodes.get(site.node_id))
        for name, site in register.sites.items()
        if site.revoked is None
    }


def _words(node: Node | None) -> str:
    if node is None or node.seen is None:
        return "never"
    return f"{when(node.seen)}{', connected' if node.status == 'online' else ''}"
