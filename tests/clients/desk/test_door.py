"""Who may speak with the desk: nobody but one browser that came by the link."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from clients.desk.door import HEADERS, Door

PORT = 4321
OWN = f"http://127.0.0.1:{PORT}"
WRITES = {"origin": OWN, "x-desk": "1"}


async def secret(request: Request) -> Response:
    return JSONResponse({"reader": request.scope["session"].reader})


def door_of(entered: Callable[[], None] = lambda: None) -> Door:
    app = Starlette(routes=[Route("/secret", secret, methods=["GET", "POST", "PUT", "DELETE"])])
    return Door(app, PORT, entered)


def browser_of(door: Door, base: str = OWN) -> TestClient:
    return TestClient(door, base_url=base, follow_redirects=False)


@pytest.fixture
def door() -> Door:
    return door_of()


@pytest.fixture
def browser(door: Door) -> TestClient:
    """One that came in."""
    client = browser_of(door)
    assert client.get(door.link).status_code == 200
    return client


def test_a_link_works_once_and_becomes_a_cookie(door: Door) -> None:
    told: list[str] = []
    door.entered = lambda: told.append(door.link)
    first, link = browser_of(door), door.link
    assert first.get("/secret").status_code == 403
    answer = first.get(link)
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"desk-{PORT}=")
    assert {part.strip().lower() for part in cookie.split(";")[1:]} == {
        "httponly", "samesite=strict", "path=/",
    }  # fmt: skip
    assert link.rpartition("=")[2] not in cookie
    assert first.get("/secret").json() == {"reader": ""}
    again = browser_of(door)
    assert again.get(link).status_code == 403
    assert again.get("/secret").status_code == 403
    assert told == [door.link]
    assert again.get(door.link).status_code == 200
    assert len(door.sessions) == 2


@pytest.mark.parametrize("token", ["", "x", "%00", "%ff"])
def test_a_guessed_token(door: Door, token: str) -> None:
    client = browser_of(door)
    before = door.link
    assert client.get(f"/enter?token={token}").status_code == 403
    assert client.get("/enter").status_code == 403
    assert client.post(before, headers=WRITES).status_code == 403
    assert door.link == before
    assert not door.sessions


@pytest.mark.parametrize("cookie", ["", "x", "é", "a; b"])
def test_a_guessed_cookie(door: Door, browser: TestClient, cookie: str) -> None:
    stranger = browser_of(door)
    headers = [(b"cookie", f"desk-{PORT}={cookie}".encode("latin-1", "replace"))]
    assert stranger.get("/secret", headers=headers).status_code == 403
    assert browser.get("/secret").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", f"[::1]:{PORT}",
             f"127.0.0.1.evil.example:{PORT}", ""],
)  # fmt: skip
def test_a_name_that_was_made_to_point_here(browser: TestClient, door: Door, host: str) -> None:
    """DNS rebinding: the request arrives here, but under the foreign page's own name."""
    for path in ("/secret", door.link):
        answer = browser.get(path, headers={"host": host})
        assert answer.status_code == 421
        assert "set-cookie" not in answer.headers
    assert browser.get("/secret", headers={"host": f"LOCALHOST:{PORT}"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-desk": "1"},
        {"origin": OWN},
        {"origin": "null", "x-desk": "1"},
        {"origin": "http://evil.example", "x-desk": "1"},
        {"origin": f"http://127.0.0.1:{PORT + 1}", "x-desk": "1"},
        {"origin": f"https://127.0.0.1:{PORT}", "x-desk": "1"},
        {**WRITES, "sec-fetch-site": "cross-site"},
        {**WRITES, "sec-fetch-site": "same-site"},
    ],
)
def test_a_foreign_page_can_change_nothing(browser: TestClient, headers: dict[str, str]) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert browser.request(method, "/secret", headers=headers).status_code == 403
        assert browser.request(method, "/secret", headers=WRITES).status_code == 200


def test_a_foreign_page_can_read_nothing(browser: TestClient) -> None:
    for site in ("cross-site", "same-site"):  # another port of this host is the same site
        assert browser.get("/secret", headers={"sec-fetch-site": site}).status_code == 403
    answer = browser.options("/secret", headers={"origin": "http://evil.example"})
    assert answer.status_code in (403, 405)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/secret", "/none", "/enter?token=x"])
def test_nothing_is_kept_framed_or_sent_on(browser: TestClient, path: str) -> None:
    answer: Any = browser.get(path)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "default-src 'none'" in HEADERS["Content-Security-Policy"]
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert HEADERS["Cache-Control"] == "no-store"


def test_two_desks_on_one_machine_know_their_own_cookies(browser: TestClient) -> None:
    other = Door(Starlette(), PORT + 1)
    client = browser_of(other, f"http://127.0.0.1:{PORT + 1}")
    client.get(other.link)
    assert other.cookie in client.cookies
    assert other.cookie not in browser.cookies


def test_no_other_protocol() -> None:
    async def never(*_: Any) -> None:
        raise AssertionError("nothing is to be received or sent")

    import asyncio

    receive: Callable[[], Awaitable[Any]] = never
    asyncio.run(door_of()({"type": "websocket", "path": "/secret", "headers": []}, receive, never))
