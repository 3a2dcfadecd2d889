"""Have a running front go by the register as it is now, without dropping what is under way."""

import contextlib
import os
import signal
from collections.abc import Mapping
from typing import Any

from common.errors import InputError
from common.keeper import read_status
from server.consortium import front
from server.consortium import register as registers
from server.consortium.place import Place, locked
from server.consortium.register import now


class FrontAway(InputError):  # noqa: N818 - it may come back
    """No nginx of this consortium runs just now."""


def write_front(place: Place, told: Mapping[str, Any]) -> None:
    """Write the front's configuration from the register.

    Args:
        place: The consortium's folder.
        told: What its keeper says; "upstream" and "listen" in place of the register's.

    Raises:
        InputError: If nginx refuses it; the one before stays.
    """
    place.front.mkdir(parents=True, exist_ok=True)
    # Whoever writes last has read last: an older register must not come over a newer one.
    with locked(place.front / ".lock"):
        register = registers.read(place)
        if told.get("listen"):
            register.listen = told["listen"]
        front.write(place, register, now(), told.get("upstream") or None)


def reload_front(place: Place, told: Mapping[str, Any] | None = None) -> None:
    """Write the configuration anew and tell nginx.

    Args:
        place: The consortium's folder.
        told: What its keeper says; read where it is None.

    Raises:
        FrontAway: If it does not run; it reads all this when it starts.
        InputError: If nginx refuses the new configuration, or is another user's.
    """
    told = told if told is not None else read_status(place.status) or {}
    problem = None
    try:
        write_front(place, told)
    except InputError as error:
        problem = error
    pid = _master(place, told)
    if pid is None:
        raise problem or FrontAway("the front does not run just now")
    try:
        # Whatever became of the configuration: the list of what is revoked is read anew.
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        raise FrontAway("the front does not run just now") from None
    except PermissionError:
        raise InputError(f"the front is another user's process ({pid})") from None
    if problem is not None:
        raise problem


def _master(place: Place, told: Mapping[str, Any]) -> int | None:
    """Nginx's first process, by its keeper's word or its own; never one that merely has its number.

    A number outlives its process, and means another one outside the container that it is from.
    """
    found = [told.get("services", {}).get(front.NAME, {}).get("pid")]
    with contextlib.suppress(OSError, ValueError):
        found.append(int((place.front / "nginx.pid").read_text(encoding="ascii")))
    return next((pid for pid in found if pid and front.is_master(place, pid)), None)
