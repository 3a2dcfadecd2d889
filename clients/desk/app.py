"""The desk's HTTP: one page, its few files, and the calls that the page makes."""

from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from clients.desk.board import AbsentError
from clients.desk.desk import ConflictError, Desk
from clients.desk.door import Session
from common.errors import InputError

STATIC = Path(__file__).parent / "static"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript",
         ".svg": "image/svg+xml"}  # fmt: skip
SMALL_BYTES = 10_000
"""Of a call that brings no mask."""

Endpoint = Callable[[Request], Awaitable[Response]]


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Reader(_Said):
    name: str


class _Label(_Said):
    label: str
    image_sha256: str


class _Skip(_Said):
    skipped: bool


class _Decision(_Said):
    what: str
    word: str
    image_sha256: str


class _TooLargeError(Exception):
    pass


def make_app(desk: Desk) -> Starlette:
    """The desk as an ASGI app; it must stand behind a `Door`."""
    files = {path.name: path for path in STATIC.iterdir() if path.suffix in KINDS}

    async def page(request: Request) -> Response:
        return FileResponse(STATIC / "index.html", media_type="text/html")

    async def file(request: Request) -> Response:
        path = files.get(request.path_params["name"])
        if path is None:
            raise AbsentError
        return FileResponse(path, media_type=KINDS[path.suffix])

    async def icon(request: Request) -> Response:
        return FileResponse(files["icon.svg"], media_type=KINDS[".svg"])

    async def overview(request: Request) -> Response:
        return await _json(desk.overview, _session(request))

    async def reader(request: Request) -> Response:
        said = _Reader.model_validate_json(await _body(request, SMALL_BYTES))
        desk.enter(_session(request), said.name)
        return await _json(desk.overview, _session(request))

    async def image(request: Request) -> Response:
        return await _json(desk.image, _session(request), _n(request))

    async def pixels(request: Request) -> Response:
        def read() -> Response:
            sequence = desk.pictures.sequence(desk.wanted_id(_n(request)))
            place = request.path_params["place"]
            if not 0 <= place < len(sequence.rows):
                raise AbsentError
            picture = desk.pictures.picture(sequence.rows[place])
            height, width = picture.values_HW.shape
            return Response(
                picture.content(),
                media_type="application/octet-stream",
                headers={
                    "x-height": str(height), "x-width": str(width), "x-depth": str(picture.depth),
                    "x-white": str(picture.white),
                },
            )  # fmt: skip

        return await run_in_threadpool(read)

    async def label(request: Request) -> Response:
        said = _Label.model_validate_json(await _body(request, SMALL_BYTES))
        return await _json(
            desk.label, _session(request), _n(request), said.label, said.image_sha256
        )

    async def get_outline(request: Request) -> Response:
        who = request.query_params.get("reader", "")
        mask_HW = await run_in_threadpool(desk.mask, _session(request), _n(request), who)
        if mask_HW is None:
            return Response(status_code=204)
        return Response(mask_HW.tobytes(), media_type="application/octet-stream")

    async def put_outline(request: Request) -> Response:
        height, width = await run_in_threadpool(desk.pictures.size, desk.wanted_id(_n(request)))
        content = await _body(request, height * width)
        mask_HW = np.frombuffer(content, np.uint8)
        if len(mask_HW) != height * width or mask_HW.max() > max(len(desk.asked.classes), 1):
            raise AbsentError
        return await _json(
            desk.outline, _session(request), _n(request), mask_HW.reshape(height, width),
            request.headers.get("x-image-sha256", ""),
        )  # fmt: skip

    async def delete_outline(request: Request) -> Response:
        digest = request.headers.get("x-image-sha256", "")
        return await _json(desk.outline, _session(request), _n(request), None, digest)

    async def skip(request: Request) -> Response:
        said = _Skip.model_validate_json(await _body(request, SMALL_BYTES))
        return await _json(desk.skip, _session(request), _n(request), said.skipped)

    async def words(request: Request) -> Response:
        return await _json(desk.words, _n(request))

    async def decide(request: Request) -> Response:
        said = _Decision.model_validate_json(await _body(request, SMALL_BYTES))
        return await _json(
            desk.decide, _session(request), _n(request), said.what, said.word, said.image_sha256
        )

    async def undo(request: Request) -> Response:
        return await _json(desk.undo, _session(request))

    one = "/api/images/{n:int}"
    routes = [
        ("GET", "/", page),
        ("GET", "/favicon.ico", icon),
        ("GET", "/static/{name}", file),
        ("GET", "/api/desk", overview),
        ("POST", "/api/reader", reader),
        ("POST", "/api/undo", undo),
        ("GET", one, image),
        ("GET", one + "/pixels/{place:int}", pixels),
        ("POST", one + "/label", label),
        ("GET", one + "/outline", get_outline),
        ("PUT", one + "/outline", put_outline),
        ("DELETE", one + "/outline", delete_outline),
        ("POST", one + "/skip", skip),
        ("GET", one + "/words", words),
        ("POST", one + "/decide", decide),
    ]
    return Starlette(
        routes=[Route(path, _plain(run), methods=[method]) for method, path, run in routes]
    )


def _plain(endpoint: Endpoint) -> Endpoint:
    """What goes wrong, as a code and a sentence; the page is at the site, so it may name images."""

    @wraps(endpoint)
    async def run(request: Request) -> Response:
        try:
            return await endpoint(request)
        except AbsentError:
            return PlainTextResponse("there is no such thing", 404)
        except ConflictError:
            return PlainTextResponse(
                "The image's file has changed since it was shown; nothing was saved.", 409
            )
        except InputError as error:
            return PlainTextResponse("\n".join(error.problems), 400)
        except ValidationError:
            return PlainTextResponse("the call is not as the page makes it", 400)
        except _TooLargeError:
            return PlainTextResponse("too large", 413)
        except OSError as error:
            # A full disk, above all: the reader must see that nothing was saved.
            return PlainTextResponse(f"Not saved: {error.strerror}", 507)

    return run


async def _json(run: Callable[..., Any], *arguments: Any) -> Response:
    return JSONResponse(await run_in_threadpool(run, *arguments))


async def _body(request: Request, limit: int) -> bytes:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > limit:
            raise _TooLargeError
    return bytes(content)


def _session(request: Request) -> Session:
    session = request.scope["session"]
    assert isinstance(session, Session)
    return session


def _n(request: Request) -> int:
    return int(request.path_params["n"])
