"""The control API: what `agentsup ctl` and ``curl --unix-socket`` ask of a tree.

HTTP/1.1 with JSON, below ``/v1``. What is asked for is done by the tree, in tasks of its owner's: a
client that goes away, or does not want to wait any longer, ends its own waiting and nothing else.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import time
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel
from attrs import define, field, fields
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from .._errors import AgentsupError, ConfigErrors, NotReady
from .._telemetry.names import scope as package
from .._values.escalation import to_signal
from ..config import load
from . import api
from .logs.follow import follow, last
from .logs.query import Query
from .logs.query import services as logged
from .openapi import Described, Parameter, describe
from .tree import UnknownService

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Awaitable,
        Callable,
        Iterable,
        Mapping,
        Sequence,
    )

    from anyio.abc import TaskGroup
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from .._services.events import EventStream
    from ..config import Config, SupervisorConfig
    from .tree import Status, Tree

T = TypeVar("T")

#: Bytes of a request's body.
LARGEST = 256 * 1024
#: Records of a log that are asked for at once.
MOST_LINES = 10_000

_STOPPING = "agentsup up is stopping"

_log = logging.getLogger(__name__)


_NAMES = Parameter("name", str, "A path, a glob, a supervisor or '@group'; may be repeated.")
_LINES = Parameter("lines", int, f"How many of the last records: 0 to {MOST_LINES}, else 100.")
_FOLLOW = Parameter("follow", bool, "Go on with what comes.")
_ERRORS: Mapping[int, Any] = {422: api.FileErrors | api.Error}

ROUTES = (
    Described("GET", "/v1/status", "How services are.", api.StatusAnswer, query=(_NAMES,)),
    Described("GET", "/v1/tree", "Supervisors, and what is below them.", api.Node),
    Described("GET", "/v1/events", "Changes of states, as they come.", api.Event, lines=True),
    Described(
        "GET",
        "/v1/logs/{name:path}",
        "What a service has printed.",
        api.LogRecord,
        lines=True,
        query=(_LINES, _FOLLOW),
    ),
    Described("GET", "/v1/openapi.json", "This description.", dict),
    Described(
        "POST", "/v1/start", "Start services, until they are ready.", api.Results, api.Operate
    ),
    Described("POST", "/v1/stop", "Stop services.", api.Results, api.Operate),
    Described("POST", "/v1/restart", "Stop services and start them.", api.Results, api.Operate),
    Described("POST", "/v1/reload", "Let services reload.", api.Results, api.Operate),
    Described("POST", "/v1/signal", "Send a signal.", api.Results, api.SendSignal),
    Described("POST", "/v1/wait-ready", "Wait for services.", api.Results, api.WaitReady),
    Described(
        "POST", "/v1/reread", "What differs in the file.", api.Differences, api.Nothing, _ERRORS
    ),
    Described("POST", "/v1/update", "Apply that.", api.Differences, api.Nothing, _ERRORS),
    Described("POST", "/v1/shutdown", "Stop everything.", api.Nothing, api.Nothing, status=202),
)


def make_app(tree: Tree, tasks: TaskGroup, *, shut_down: Callable[[], object]) -> ASGIApp:
    """The application.

    :param tasks: what is asked for runs in it; it has to end before the tree does.
    :param shut_down: begins to end the daemon.
    """
    control = _Control(tree, tasks, shut_down)
    handlers: dict[Any, Any] = {
        HTTPException: _on_http_error,
        api.BadRequest: _on_bad_request,
        _Unknown: _on_unknown,
        ConfigErrors: _on_config_errors,
        ClientDisconnect: _on_disconnect,
        Exception: _on_bug,
    }
    routes = [_route(control, described) for described in ROUTES]
    return _no_browsers(Starlette(routes=routes, exception_handlers=handlers))


def _route(control: _Control, described: Described) -> Route:
    handle: Callable[[Request], Awaitable[Response]] = getattr(control, described.name)
    known = [parameter.name for parameter in described.query]

    async def endpoint(request: Request) -> Response:
        for name in request.query_params:
            if name not in known:
                text = ", ".join(known) or "nothing"
                raise api.BadRequest({name: f"is unknown; known is {text}"})
        if control.stopping and described.method == "POST" and described.name != "shutdown":
            raise HTTPException(503, _STOPPING)
        return await handle(request)

    route = Route(described.path, endpoint, methods=[described.method])
    route.methods = {described.method}  # and not HEAD, which would hold a stream open
    return route


def _no_browsers(app: ASGIApp) -> ASGIApp:
    """A page that somebody looks at is not to speak to the daemon, whatever name it goes by."""

    async def check(scope: Scope, receive: Receive, send: Send) -> None:
        if any(name in (b"origin", b"sec-fetch-site") for name, _ in scope["headers"]):
            refused = _json({"error": "a browser's requests are refused"}, 403)
            return await refused(scope, receive, send)
        return await app(scope, receive, send)

    return check


class _Unknown(Exception):
    """No service has one of these names."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("; ".join(reasons.values()))
        self.names = tuple(reasons)


async def _on_http_error(_: Request, error: HTTPException) -> Response:
    answer = _json({"error": error.detail}, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _on_bad_request(_: Request, error: api.BadRequest) -> Response:
    return _json({"error": str(error), "fields": error.fields}, 422)


async def _on_unknown(_: Request, error: _Unknown) -> Response:
    return _json({"error": str(error), "unknown": error.names}, 404)


async def _on_config_errors(_: Request, error: ConfigErrors) -> Response:
    found = [
        _as_dict(api.FileError(str(one.file), one.line, one.key, one.reason))
        for one in error.errors
    ]
    return _json({"error": str(error), "errors": found}, 422)


async def _on_disconnect(_: Request, __: ClientDisconnect) -> Response:
    return Response()  # for nobody


async def _on_bug(_: Request, error: Exception) -> Response:
    return _json({"error": f"internal error: {error!r}"}, 500)  # it is logged by the server


class _Control:
    """What each route does."""

    def __init__(self, tree: Tree, tasks: TaskGroup, shut_down: Callable[[], object]) -> None:
        self._tree = tree
        self._tasks = tasks
        self._shut_down = shut_down
        self._since = time.monotonic()

    # --- looking ------------------------------------------------------------------------------

    async def status(self, request: Request) -> Response:
        wanted = set(self._match(request.query_params.getlist("name")))
        services = [_as_dict(one) for one in self._tree.status() if one.path in wanted]
        return _json({"daemon": _as_dict(self._daemon()), "services": services})

    def _daemon(self) -> api.Daemon:
        uptime = time.monotonic() - self._since
        config = str(self._tree.config.path)
        return api.Daemon(os.getpid(), uptime, config, package()[1], self._tree.failed)

    async def tree(self, _: Request) -> Response:
        services = {one.path: one for one in self._tree.status()}
        return _json(_node("", self._tree.config, services) | {"name": str(self._tree.config.path)})

    async def events(self, request: Request) -> Response:
        return _Lines(request, partial(self._events, self._tree.events()))

    async def _events(self, stream: EventStream) -> AsyncGenerator[bytes]:
        yield _line({"hello": _as_dict(self._daemon())})
        dropped = 0
        async for event in stream:
            if stream.dropped > dropped:
                yield _line({"dropped": stream.dropped - dropped})
                dropped = stream.dropped
            said = event.service, event.state.value, event.previous.value
            yield _line(_as_dict(api.Event(*said, event.reason, event.time, event.pid)))

    async def logs(self, request: Request) -> Response:
        name: str = request.path_params["name"]
        query = Query(services=(name,), lines=_lines_wanted(request))
        directory = str(self._tree.config.daemon.state_dir / "logs")
        if not logged(directory, [name]):
            self._match([name])  # one that has not printed anything is known all the same
        chosen: Any = follow if _follow_wanted(request) else last
        return _Lines(request, partial(chosen, directory, query))

    async def openapi(self, _: Request) -> Response:
        return _json(describe(ROUTES, package()[1]))

    # --- doing --------------------------------------------------------------------------------

    async def start(self, request: Request) -> Response:
        return await self._operate(request, self._tree.start)

    async def stop(self, request: Request) -> Response:
        return await self._operate(request, self._tree.stop)

    async def restart(self, request: Request) -> Response:
        return await self._operate(request, self._tree.restart)

    async def reload(self, request: Request) -> Response:
        return await self._operate(request, self._tree.reload)

    async def _operate(self, request: Request, do: Callable[[str], Awaitable[object]]) -> Response:
        asked = await _read(request, api.Operate)
        works = [_Work(name, partial(do, name)) for name in self._named(asked.names)]
        for work in works:
            self._tasks.start_soon(work.run)
        if not asked.wait:
            return self._results(works, None)
        await _while_wanted(request, partial(_all_done, works), asked.timeout)
        return self._results(works, "is still under way, and goes on")

    @property
    def stopping(self) -> bool:
        """The daemon has begun to stop, and operations with it."""
        return self._tasks.cancel_scope.cancel_called

    async def signal(self, request: Request) -> Response:
        asked = await _read(request, api.SendSignal)
        try:
            number = int(asked.signal) if asked.signal.isdecimal() else asked.signal
            signal = to_signal("signal", number)
        except ValueError as error:
            raise api.BadRequest({"signal": str(error).removeprefix("signal: ")}) from None

        async def send(name: str) -> None:
            self._tree.signal(name, signal)

        works = [_Work(name, partial(send, name)) for name in self._named(asked.names)]
        for work in works:
            await work.run()
        return self._results(works, None)

    async def wait_ready(self, request: Request) -> Response:
        asked = await _read(request, api.WaitReady)
        names = self._match(asked.names) if asked.names else self._to_be_ready()
        works = [_Work(name, partial(self._ready, name)) for name in names]

        async def wait_for_all() -> None:
            async with anyio.create_task_group() as waits:
                for work in works:
                    waits.start_soon(work.run)

        await _while_wanted(request, wait_for_all, asked.timeout)
        return self._results(works, "is not ready yet")

    def _to_be_ready(self) -> list[str]:
        """All, but for those that are left to somebody who has not started them."""
        return [one.path for one in self._tree.status() if one.autostart or one.state != "inactive"]

    async def _ready(self, name: str) -> None:
        handle = self._tree.services[name]
        if handle is None:
            raise NotReady(name, "it was not started")
        await handle.wait_ready()

    async def reread(self, request: Request) -> Response:
        await _read(request, api.Nothing)
        return _json(_as_dict(self._tree.compare(self._load())))

    async def update(self, request: Request) -> Response:
        await _read(request, api.Nothing)
        work = _Work("update", partial(self._tree.update, self._load()))
        self._tasks.start_soon(work.run)
        await _while_wanted(request, work.done.wait)
        if not work.ended:
            raise HTTPException(503, _STOPPING)
        if work.error is not None:
            raise HTTPException(409, work.error)
        return _json(_as_dict(work.value))

    def _load(self) -> Config:
        return load(self._tree.config.path)

    async def shutdown(self, request: Request) -> Response:
        await _read(request, api.Nothing)
        self._shut_down()
        return _json({}, 202)

    # --- names and results --------------------------------------------------------------------

    def _named(self, names: Sequence[str]) -> list[str]:
        if not names:
            raise api.BadRequest({"names": "must name at least one; '*' is all"})
        return self._match(names)

    def _match(self, names: Sequence[str]) -> list[str]:
        """The services of these names; an error tells all that there are none of."""
        if not names:
            return self._tree.match([])
        found: dict[str, None] = {}
        unknown: dict[str, str] = {}
        for name in names:
            try:
                found |= dict.fromkeys(self._tree.match([name]))
            except UnknownService as error:
                unknown[name] = str(error)
        if unknown:
            raise _Unknown(unknown)
        return list(found)

    def _results(self, works: Sequence[_Work], late: str | None) -> Response:
        """:param late: what is said of one that is not done; None: that is no error."""
        states = {one.path: one.state for one in self._tree.status()}
        if self.stopping:
            late = _STOPPING
        results: list[dict[str, Any]] = []
        for work in works:
            error = work.error if work.ended else late
            state = states.get(work.name, "inactive")  # it may be gone from the file
            results.append(_as_dict(api.Result(work.name, error is None, error, state)))
        return _json({"results": results})


@define(eq=False)
class _Work:
    """Something that is done for one service, and what came of it."""

    name: str
    do: Callable[[], Awaitable[object]]
    #: It has ended by itself, or it was cancelled.
    done: anyio.Event = field(factory=anyio.Event)
    ended: bool = False
    error: str | None = None
    value: Any = None

    async def run(self) -> None:
        try:
            self.value = await self.do()
        except (AgentsupError, ValueError, OSError) as error:
            self.error = str(error).partition("\n")[0]
        except Exception as error:  # a bug, which is not to take the tree with it
            _log.exception("%s: a request has failed", self.name)
            self.error = f"internal error: {error!r}"
        finally:
            self.done.set()
        self.ended = True


async def _all_done(works: Iterable[_Work]) -> None:
    for work in works:
        await work.done.wait()


async def _while_wanted(
    request: Request, do: Callable[[], Awaitable[object]], timeout: float | None = None
) -> None:
    """Do it, but no longer than ``timeout``, the client is there, and the server goes on."""

    async def until(wait: Callable[[], Awaitable[object]]) -> None:
        await wait()
        tasks.cancel_scope.cancel()

    async def client_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    with anyio.move_on_after(timeout):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until, client_gone)
            tasks.start_soon(until, request.state.closing.wait)
            await until(do)


# --- requests and answers -----------------------------------------------------------------------


async def _read(request: Request, to: type[T]) -> T:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "a POST takes 'Content-Type: application/json'")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise HTTPException(413, f"a request takes at most {LARGEST} bytes")
    return api.parse(bytes(body), to)


def _lines_wanted(request: Request) -> int:
    said = request.query_params.get("lines", "100")
    if not (said.isdecimal() and said.isascii() and len(said) < 9 and int(said) <= MOST_LINES):
        raise api.BadRequest({"lines": f"must be a number from 0 to {MOST_LINES}, not {said!r}"})
    return int(said)


def _follow_wanted(request: Request) -> bool:
    said = request.query_params.get("follow", "false")
    if said not in ("true", "false"):
        raise api.BadRequest({"follow": f"must be true or false, not {said!r}"})
    return said == "true"


def _json(value: object, status: int = 200) -> Response:
    # Bytes in an argv that are not UTF-8 are surrogates, which only escapes can show.
    return Response(json.dumps(value) + "\n", status, media_type="application/json")


class _Lines(Response):
    """JSON lines, until there are no more, the client goes, or the server ends."""

    media_type = "application/x-ndjson"

    def __init__(self, request: Request, chunks: Callable[[], AsyncGenerator[bytes]]) -> None:
        self._request = request
        self._chunks = chunks
        self.status_code = 200
        self.init_headers({"cache-control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        await _while_wanted(self._request, partial(self._send_all, send))
        await send({"type": "http.response.body", "body": b""})

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._chunks()) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await anyio.lowlevel.checkpoint()  # a client that keeps up is not to keep the loop


def _node(
    path: str, part: Config | SupervisorConfig, services: Mapping[str, Status]
) -> dict[str, Any]:
    above = f"{path}/" if path else ""
    children = [_leaf(services[above + name]) for name in part.services]
    children += [_node(above + name, below, services) for name, below in part.supervisors.items()]
    return {
        "name": path.rpartition("/")[2],
        "path": path,
        "kind": "supervisor",
        "state": None,
        "pid": None,
        "children": children,
    }


def _leaf(one: Status) -> dict[str, Any]:
    name = one.path.rpartition("/")[2]
    return {
        "name": name,
        "path": one.path,
        "kind": "service",
        "state": one.state,
        "pid": one.pid,
        "children": [],
    }


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _as_dict(value: Any) -> dict[str, Any]:
    """Not as :func:`attrs.asdict`, which looks into everything."""
    return {name: getattr(value, name) for name in _names_of(value.__class__)}


@functools.cache
def _names_of(kind: Any) -> tuple[str, ...]:
    return tuple(attribute.name for attribute in fields(kind))
