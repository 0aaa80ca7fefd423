"""Serves the page and, over a WebSocket, each visitor's session. A session has a thread of its own, in which torch and
the games work outside Python's lock: the server goes on answering."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web
from vizdoom import ViZDoomUnexpectedExitException

from worldmodels.runs import INSTALLED, PACKAGE
from worldmodels.types import UserError
from worldmodels.web.choices import Choice, openable
from worldmodels.web.session import Session

PAGE = PACKAGE / "page" if INSTALLED else PACKAGE.parent / "docs" / "play"
REQUEST_BYTES = 16_384                  # of the largest request
SILENCE = 300                           # seconds without a request after which a visitor has left
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
SAFE = {"Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}

CHOICES = web.AppKey("choices", dict)
VISITORS = web.AppKey("visitors", set)
MOST = web.AppKey("most", int)


def application(choices: dict[str, Choice], most: int = 8) -> web.Application:
    """The server of these world models, for at most so many visitors at a time."""
    known, errors = openable(choices)
    if not known:
        raise UserError("; ".join(errors.values()) or "there is no run to play in")
    app = web.Application()
    app[CHOICES] = {entry["id"]: choices[entry["id"]] for entry in known}
    app[VISITORS], app[MOST] = set(), most
    runs = json.dumps({"backend": "server", "runs": known})

    async def list_runs(request: web.Request) -> web.Response:
        return web.Response(text=runs, content_type="application/json")

    app.router.add_get("/", page)
    app.router.add_get("/runs.json", list_runs)
    app.router.add_get("/play", play)
    app.router.add_get("/{name:[a-z_]+[.](html|css|js)}", page)
    app.on_response_prepare.append(add_headers)
    app.on_shutdown.append(hang_up)
    return app


async def add_headers(request: web.Request, response: web.StreamResponse):
    response.headers.update(SAFE)


async def page(request: web.Request) -> web.Response:
    """A file of the page."""
    path = PAGE / request.match_info.get("name", "index.html")
    if not path.is_file():
        raise web.HTTPNotFound
    return web.Response(body=path.read_bytes(), content_type=TYPES["." + path.name.rsplit(".", 1)[1]], charset="utf-8")


async def play(request: web.Request) -> web.WebSocketResponse:
    """A visitor's session in ?run=<id>, a view for each request; a refusal says why, and ends it."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise web.HTTPForbidden(text="the page of another server may not play here")
    app, socket = request.app, web.WebSocketResponse(max_msg_size=REQUEST_BYTES, heartbeat=30)
    await socket.prepare(request)
    choice = app[CHOICES].get(request.query.get("run"))
    if choice is None:
        return await refuse(socket, "there is no such run")
    if len(app[VISITORS]) >= app[MOST]:
        return await refuse(socket, f"{app[MOST]} visitors are playing, as many as can: try again later")
    app[VISITORS].add(socket)
    try:
        with ThreadPoolExecutor(1) as thread:
            in_thread = lambda *call: asyncio.get_running_loop().run_in_executor(thread, *call)
            session = await in_thread(Session, choice)
            try:
                async for request_text in requests(socket):
                    await socket.send_bytes(await in_thread(session.answer, request_of(request_text)))
            finally:
                await asyncio.shield(in_thread(session.close))
    except UserError as error:
        await refuse(socket, str(error))
    except ConnectionError:
        pass                                                # the visitor has left in mid-answer
    except (RuntimeError, ViZDoomUnexpectedExitException) as error:
        print(f"{choice.id}: {type(error).__name__}: {error}", file=sys.stderr)
        await refuse(socket, "the game has come to an unexpected end: try again")
    finally:
        app[VISITORS].discard(socket)
    return socket


async def requests(socket: web.WebSocketResponse) -> AsyncIterator[str]:
    """The texts that come, until the visitor leaves or falls silent."""
    while True:
        try:
            message = await socket.receive(timeout=SILENCE)
        except asyncio.TimeoutError:
            raise UserError(f"nothing was asked for {SILENCE} seconds: begin again") from None
        if message.type != WSMsgType.TEXT:
            return
        yield message.data


def request_of(text: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError("a request is JSON") from None


async def refuse(socket: web.WebSocketResponse, why: str) -> web.WebSocketResponse:
    if not socket.closed:
        await socket.send_json({"error": why})
        await socket.close(code=1008)
    return socket


async def hang_up(app: web.Application):
    """Ends all sessions, so that the server can."""
    visitors = app[VISITORS]
    for socket in list(visitors):
        await socket.close(code=1001)
