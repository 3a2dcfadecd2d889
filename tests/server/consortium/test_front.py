"""What nginx is told."""

from base64 import b64decode
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from common.errors import InputError
from server.consortium import front, membership
from server.consortium import register as registers
from server.consortium.authority import new_key
from server.consortium.place import Place
from server.consortium.register import Certificate, Register, Site, now


def site(serial: str, *, ended: bool = False, revoked: bool = False) -> Site:
    key = new_key().public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    expires = now() + timedelta(days=-1 if ended else 1)
    moment = now() if revoked else None
    certificate = Certificate(serial=serial, expires=expires, revoked=moment)
    return Site(node_key=key.decode(), admitted=now(), certificates=[certificate], revoked=moment)


def register(**sites: Site) -> Register:
    return Register(
        name="test",
        address="127.0.0.1:9443",
        listen="127.0.0.1:9443",
        superlink=9000,
        health=9001,
        sites=sites,
    )


def test_each_certificate_that_holds_has_its_node_key() -> None:
    known = register(ada=site("AA01"), bo=site("BB02", ended=True), cy=site("CC03", revoked=True))
    keys = front.keys_of(known, now())
    assert set(keys) == {"AA01"}
    assert b64decode(keys["AA01"]).decode() == known.sites["ada"].node_key


def test_a_recorder_may_stand_between(tmp_path: Path) -> None:
    text = front.configuration(Place(tmp_path), register(), now())
    assert "server 127.0.0.1:9000;" in text
    assert "proxy_pass https://superlink;" in text
    text = front.configuration(Place(tmp_path), register(), now(), upstream="http://127.0.0.1:5")
    assert "server 127.0.0.1:5;" in text
    assert "proxy_pass http://superlink;" in text


def test_nginx_takes_it(tmp_path: Path) -> None:
    place = Place(tmp_path / "center")
    membership.found(place, "test", "127.0.0.1:9443", "127.0.0.1:9443", 9000, 9001)
    known = register(**{f"site{number}": site(f"{number:040X}") for number in range(40)})
    assert front.write(place, known, now()).exists()


def test_what_nginx_refuses_is_told(tmp_path: Path) -> None:
    place = Place(tmp_path / "center")
    membership.found(place, "test", "127.0.0.1:9443", "127.0.0.1:9443", 9000, 9001)
    bad = registers.read(place).model_copy(update={"listen": "nowhere at all:1"})
    good = front.write(place, registers.read(place), now())
    before = good.read_text()
    with pytest.raises(InputError, match="nginx refuses it"):
        front.write(place, bad, now())
    # The one that a front reads when it starts stays sound.
    assert good.read_text() == before


@pytest.mark.parametrize("name", ["a b", 'a"b', "a;b", "a{b"])
def test_folders_that_nginx_cannot_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="nginx takes no path"):
        front.configuration(Place(tmp_path / name), register(), now())
