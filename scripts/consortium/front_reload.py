"""Have a running front go by the register as it is now, without dropping what is under way."""

import os
import signal

from server.consortium import front
from server.consortium import register as registers
from server.consortium.place import Place
from server.consortium.register import now


def reload_front(place: Place, upstream: str | None = None) -> None:
    """Write the configuration anew and tell nginx; nothing is written if nginx refuses it."""
    front.write(place, registers.read(place), now(), upstream)
    pid = (place.front / "nginx.pid").read_text(encoding="ascii").strip()
    os.kill(int(pid), signal.SIGHUP)
