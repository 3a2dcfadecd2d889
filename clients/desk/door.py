"""Who may speak with the desk: one browser on this machine that came by the link.

A page of another site can make a browser send requests to 127.0.0.1, and a name that is made to
point there (DNS rebinding) even lets it read the answers. So besides the cookie every request must
name this host, come from the desk's own page, and bring a header that no foreign page can add.
"""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, Response

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ENTER = "/enter"
MARK = "x-desk"
"""A header of one's own is something that a form or an image of a foreign page cannot send."""
READS = frozenset({"GET", "HEAD"})

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), clipboard-read=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

ENTERED = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Desk</title>
<meta http-equiv="refresh" content="0;url=/"><p><a href="/">To the desk</a></p></html>"""
"""A page in between: a cookie for this site alone is not sent along a redirect from elsewhere."""


@dataclass(eq=False)
class Session:
    """One browser that came in.

    Attributes:
        reader: Who reads; empty until the page has asked.
        done: What was done, the latest last, for undo.
    """

    reader: str = ""
    done: list[tuple[str, str, str]] = field(default_factory=list)


class Door:
    """Lets in who has the token, once, and knows them by a cookie afterwards.

    Args:
        app: What stands behind.
        port: Of this desk on 127.0.0.1.
        entered: Called when a token was used and the next one is there.
    """

    def __init__(self, app: App, port: int, entered: Callable[[], None] = lambda: None) -> None:
        self.app = app
        self.port = port
        self.entered = entered
        self.sessions: dict[str, Session] = {}
        self._token = secrets.token_urlsafe(32)
        self._lock = Lock()
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    @property
    def link(self) -> str:
        """What opens the desk, once."""
        return f"http://127.0.0.1:{self.port}{ENTER}?token={self._token}"

    @property
    def cookie(self) -> str:
        """Its name; cookies do not know ports, so that of another desk would be overwritten."""
        return f"desk-{self.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on to the app."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # nothing here speaks any other protocol

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._answer(scope)
        await (answer or self.app)(scope, receive, send_guarded)

    def _answer(self, scope: Scope) -> Response | None:
        """The door's own answer; None: come in."""
        headers = Headers(scope=scope)
        if headers.get("host", "").lower() not in self._hosts:
            return PlainTextResponse("this desk has another address", 421)
        if scope["path"] == ENTER and scope["method"] == "GET":
            return self._enter(scope)
        if headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
            return PlainTextResponse("not from this desk's page", 403)
        if scope["method"] not in READS:
            origin = headers.get("origin", "").lower()
            own = {f"http://{host}" for host in self._hosts}
            if origin not in own or headers.get(MARK) != "1":
                return PlainTextResponse("not from this desk's page", 403)
        session = self._session(headers)
        if session is None:
            return PlainTextResponse(
                "Open the desk by the link that its terminal shows; each link works once.", 403
            )
        scope["session"] = session
        return None

    def _enter(self, scope: Scope) -> Response:
        token = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        with self._lock:
            if not secrets.compare_digest(token.encode(), self._token.encode()):
                return PlainTextResponse(
                    "This link has been used or is not the latest; the desk's terminal shows a "
                    "new one.",
                    403,
                )
            self._token = secrets.token_urlsafe(32)
            key = secrets.token_urlsafe(32)
            self.sessions[key] = Session()
        self.entered()
        response = HTMLResponse(ENTERED)
        response.set_cookie(self.cookie, key, httponly=True, samesite="strict", path="/")
        return response

    def _session(self, headers: Headers) -> Session | None:
        given = cookie_parser(headers.get("cookie", "")).get(self.cookie, "")
        found = None
        for key, session in self.sessions.items():
            if secrets.compare_digest(key.encode(), given.encode()):
                found = session
        return found
