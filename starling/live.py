"""`starling report --live`: a run's page from loopback while it goes on, made anew of its files when asked for."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from socket import socket
from typing import Any, Generic, TypeVar

from aiohttp import web

from starling import progress
from starling.addresses import is_loopback
from starling.errors import StarlingError
from starling.listening import bound, stop_asked
from starling.standing import Standing, clock, said, standing
from starling.store import Run

HOST = "127.0.0.1"
RENEW_SECONDS = 5
REST = 10  # times the processor time that drawing took no step is drawn: the processor is the run's
CLOSING_SECONDS = 1.0
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the page itself says the rest
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Gathered = TypeVar("Gathered")
Pages = tuple[Mapping[str, Any], str]
Render = Callable[[Gathered, Standing | None, Mapping[str, Any]], Pages]


class View(Generic[Gathered]):
    """A run as it stands: `gather` reads and draws what changes seldom, `render` makes numbers and page of it.

    Only reads, and holds no lock on the run. After `gather` new steps wait for `REST` times the processor time that it
    took, the end of a stage does not.
    """

    def __init__(self, root: Path, gather: Callable[[Run], Gathered], render: Render[Gathered]) -> None:
        self._root = root
        self._gather = gather
        self._render = render
        self._drawn: Gathered | None = None
        self._seen: Any = (None, None)
        self._rest_until = 0.0
        self._read_at = 0.0

    def look(self) -> Pages:
        """The numbers and the page of this moment."""
        run, now = Run.read(self._root), time.time()
        seen = ((run.manifest, run.config), _stamp(run.metrics_path))
        is_rested = time.monotonic() >= self._rest_until
        if self._drawn is None or seen[0] != self._seen[0] or (seen != self._seen and is_rested):
            begun = time.thread_time()
            self._drawn, self._seen = self._gather(run), seen
            self._rest_until = time.monotonic() + REST * (time.thread_time() - begun)
        if seen == self._seen:
            self._read_at = now
        found = standing(run, now)
        read = f"Figures as of {clock(self._read_at, now)}; looked at again every {RENEW_SECONDS} s."
        lines = [said(run, found, now), read]
        return self._render(self._drawn, found, {"lines": lines, "seconds": RENEW_SECONDS})


class Server:
    """The page at `/` and its numbers at `/report.json`, for this machine's own names alone.

    A page of the web whose name was made to point here must not read the run in its visitor's place.
    """

    def __init__(self, view: View[Any]) -> None:
        self._view = view
        self._worker = ThreadPoolExecutor(1)  # looks come one after the other

    def app(self) -> web.Application:
        """The application to run."""
        app = web.Application(middlewares=[self._guarded])
        app.add_routes([web.get("/", self._page), web.get("/report.json", self._numbers)])
        return app

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_loopback(request.url.host or ""):
            return _said("only this machine's own names are served", 403)
        try:
            response = await handler(request)
        except (StarlingError, OSError) as error:  # of the run's files; the next look may fare better
            return _said(" ".join(str(error).split()), 503)
        except web.HTTPException as error:
            return _said(f"{request.method} {request.path}: {error.reason}", error.status)
        response.headers.update(HEADERS)
        return response

    async def _look(self) -> Pages:
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._view.look)

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text=(await self._look())[1], content_type="text/html")

    async def _numbers(self, request: web.Request) -> web.Response:
        return web.json_response((await self._look())[0])


def serve(
    root: Path,
    gather: Callable[[Run], Gathered],
    render: Render[Gathered],
    port: int,
) -> dict[str, str]:
    """Serve the page of a run until Ctrl-C or SIGTERM; returns where it stood."""
    Run.read(root)
    with bound("report", HOST, port) as listening:
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        asyncio.run(_until_stopped(View(root, gather, render), listening, f"{root} live on {address}"))
    progress.say("report: closed")
    return {"address": address, "run": str(root)}


@asynccontextmanager
async def running(view: View[Any], listening: socket) -> AsyncIterator[None]:
    """The server at work on a socket."""
    server = Server(view)
    runner = web.AppRunner(server.app(), shutdown_timeout=CLOSING_SECONDS, access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        yield
    finally:
        await runner.cleanup()
        server.close()


async def _until_stopped(view: View[Any], listening: socket, what: str) -> None:
    stopped = stop_asked()
    async with running(view, listening):
        progress.say(f"report: {what}; Ctrl-C ends it")
        await stopped.wait()


def _said(text: str, status: int) -> web.Response:
    return web.Response(text=text, status=status, headers=HEADERS)


def _stamp(path: Path) -> Sequence[int]:
    """What changes with a file's content; empty where there is no such file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_mtime_ns, found.st_size
