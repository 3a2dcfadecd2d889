"""What was away when something changed is told when it is back."""

import os
import signal
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from clients import join
from common.keeper import read_status
from scripts.consortium import keep
from server.consortium import membership
from server.consortium import register as registers
from server.consortium.control import Control
from server.consortium.place import locked
from tests.scripts.conftest import Command
from tests.scripts.consortium.running import Center, activate, admit, context, own, wait_for


@contextmanager
def without(center: Center, service: str) -> Iterator[None]:
    """One of the center's processes is gone, and its keeper does not start it while this runs."""
    told = read_status(center.place.status)
    assert told is not None
    # Not while it tells them something, or it would hold the lock on that.
    with locked(center.place.root / ".settle.lock"), locked(center.place.front / ".lock"):
        os.kill(told["pid"], signal.SIGSTOP)
    try:
        os.kill(told["services"][service]["pid"], signal.SIGKILL)
        yield
    finally:
        os.kill(told["pid"], signal.SIGCONT)


def test_the_front_is_told_when_it_is_back(center: Center, sonofed: Command) -> None:
    with without(center, "front"):
        site = admit(center.place, center.folder, "fay")
        (said,) = keep.tell(center.place)
        assert said == "the front does not run just now; it takes effect when the front is up again"
        # Its number is another's now, and it wrote no other.
        (center.place.front / "nginx.pid").write_text("")
        assert keep.tell(center.place) == [said]
    tls = context(center, site / join.CERTIFICATE, site / join.SITE_KEY)
    wait_for(lambda: reached(center, tls, "fay"), 60)


def test_the_superlink_is_told_when_it_is_back(center: Center, sonofed: Command) -> None:
    site = admit(center.place, center.folder, "gil")
    assert keep.tell(center.place) == []
    tls = context(center, site / join.CERTIFICATE, site / join.SITE_KEY)
    wait_for(lambda: activate(center, tls, "gil", "gil") == 200)
    with without(center, "superlink"):
        said = sonofed("consortium", "revoke", "gil", "--consortium", center.place.root)
        assert said.code == 0, said.err
        assert "gil: revoked" in said.out
        assert "note: the SuperLink does not answer" in said.out
        # The front has it at once.
        wait_for(lambda: activate(center, tls, "gil", "gil") == 400)
        invitation = center.folder / "hal.invitation"
        invitation.write_text(membership.invite(center.place, "hal").model_dump_json())
        request = join.ask(invitation, center.folder / "hal", data=site, role="target")
        admission = center.folder / "hal.admission"
        said = sonofed(
            "consortium", "admit", request, "--consortium", center.place.root, "--out", admission
        )
        assert said.code == 0, said.err
        assert "note: the SuperLink does not answer" in said.out
    join.take(admission, center.folder / "hal")
    wait_for(lambda: reached(center, own(center, "hal"), "hal"), 120)
    with Control(center.place, registers.read(center.place)) as control:
        (state,) = [node.status for node in control.nodes() if node.name == "gil"]
    assert state == "unregistered"


def reached(center: Center, tls: ssl.SSLContext, name: str) -> bool:
    try:
        return activate(center, tls, name, name) == 200
    except ConnectionError:
        return False
