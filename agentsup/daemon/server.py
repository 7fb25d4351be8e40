"""The sockets of the control API: what listens, who may speak, and for how long.

uvicorn's HTTP protocol on listeners of the event loop's own. Its ``Server`` is not used: it ticks
ten times a second and takes the signals. Here nothing wakes while nobody asks.

| who                         | what comes of it                                     |
|-----------------------------|------------------------------------------------------|
| this user, or root          | is served on the Unix socket                         |
| another user                | 403 and the end, whatever the mode of the socket     |
| by TCP, with the token      | is served                                            |
| by TCP, without             | 401                                                  |
| more than CONNECTIONS       | 503 and the end; each listener has its own count     |
| no whole request in PATIENCE | the end                                             |
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import h11
from attrs import frozen
from starlette.responses import JSONResponse
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from .._services.sockets import open_socket
from .._shielded import to_the_end
from .._values.listen import ListenSocket

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

    from .._services.sockets import OpenSocket

#: Of one listener, at the same time.
CONNECTIONS = 256
#: Seconds for a request to be there, from its first byte or from the connection on.
PATIENCE = 10.0
#: Seconds for answers to be taken when the server ends.
GRACE = 1.0

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


@frozen
class TcpListener:
    """An address, and what has to be known there."""

    address: str
    token: str


def read_token(path: Path) -> str:
    """The token in this file, less white space around it.

    :raises ValueError: there is none.
    """
    token = path.read_text().strip()
    if not token.isascii() or not token.isprintable() or len(token) < 16:
        raise ValueError(f"{path}: a token takes 16 or more printable ASCII characters")
    return token


@contextlib.asynccontextmanager
async def serve(
    app: ASGIApp, path: Path, tcp: TcpListener | None = None
) -> AsyncGenerator[tuple[str, ...]]:
    """Serve ``app`` until the block is left, which takes hardly longer than GRACE.

    A request finds :class:`asyncio.Event` ``closing`` in its state: streams end when it is set.

    :returns: the addresses, with the ports that they have come to.
    :raises OSError: somebody listens there already, or it is not possible.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = [(ListenSocket(str(path), mode=0o600), app)]
    if tcp is not None:
        wanted.append((ListenSocket(tcp.address), _token_required(app, tcp.token)))
    listeners: list[_Listener] = []
    try:
        for where, served in wanted:
            listeners.append(_Listener(_open(where), served))
            await listeners[-1].start()
        yield tuple(listener.address for listener in listeners)
    finally:
        late = await to_the_end(partial(_close, listeners), lambda: not listeners)
        if late is not None:
            raise late


def _open(wanted: ListenSocket) -> OpenSocket:
    try:
        return open_socket(wanted)
    except OSError as error:
        raise OSError(error.errno, f"{wanted.address}: {error.strerror or error}") from None


async def _close(listeners: list[_Listener]) -> None:
    await asyncio.gather(*(listener.close() for listener in listeners))
    listeners.clear()


def _token_required(app: ASGIApp, token: str) -> ASGIApp:
    expected = token.encode()

    async def check(scope: Scope, receive: Receive, send: Send) -> None:
        said = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, given = said.partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), expected):
            return await app(scope, receive, send)
        refused = JSONResponse(
            {"error": "a token is required: 'Authorization: Bearer …'"},
            401,
            {"www-authenticate": "Bearer", "connection": "close"},
        )
        return await refused(scope, receive, send)

    return check


class _Listener:
    """One socket, and the connections that were made to it."""

    def __init__(self, opened: OpenSocket, app: ASGIApp) -> None:
        self.address = opened.address
        self.closing = asyncio.Event()
        self.gone = asyncio.Event()  # a connection is
        self.open: set[_Connection] = set()  # from before it is made until it is lost
        self.state = ServerState()
        self._opened = opened
        self._socket = socket.socket(fileno=opened.fd)
        self._server: asyncio.Server | None = None
        self._config = Config(
            app,
            workers=1,  # else it looks for a number in the environment
            interface="asgi3",
            http=H11Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # what strangers send is not worth a line
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
        self._config.load()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        on_unix = self._socket.family == socket.AF_UNIX
        create: Any = loop.create_unix_server if on_unix else loop.create_server
        # Not at once: cancelled while it begins to listen, it would go on with nobody to close it.
        server: asyncio.Server = await create(self._make, sock=self._socket, start_serving=False)
        self._server = server
        await server.start_serving()

    def _make(self) -> _Connection:
        connection = _Connection(self, self._config)
        self.open.add(connection)
        return connection

    async def close(self) -> None:
        """Take no more connections, and end those that there are."""
        self.closing.set()
        self._opened.remove_file()
        if self._server is not None:
            if self._server.is_serving():
                # In the next cycle asyncio makes connections of what it has accepted in this one,
                # and cannot if the server is closed then.
                asyncio.get_running_loop().remove_reader(self._socket)
                await asyncio.sleep(0)
            self._server.close()
        self._socket.close()
        for connection in list(self.open):
            connection.shutdown()
        await self._until_left()
        for connection in list(self.open):
            connection.abort()
        for task in self.state.tasks:
            task.cancel()
        await self._until_left()

    async def _until_left(self) -> None:
        with anyio.move_on_after(GRACE):
            while self.open:
                self.gone.clear()
                await self.gone.wait()
            while self.state.tasks:
                await asyncio.wait(self.state.tasks)


class _Connection(H11Protocol):
    """One that does not wait for ever, and does not speak with everybody."""

    def __init__(self, listener: _Listener, config: Config) -> None:
        super().__init__(config, listener.state, {"closing": listener.closing})
        self._listener = listener
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self.transport = transport  # for the end of one that is refused, too
        if self._listener.closing.is_set():
            return transport.abort()
        if not _is_ours(transport):
            return _refuse(transport, b"403 Forbidden", b"another user's daemon")
        if len(self.connections) >= CONNECTIONS:
            return _refuse(transport, b"503 Service Unavailable", b"too many connections")
        super().connection_made(transport)
        self._watch()
        return None

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except h11.LocalProtocolError:
            self.abort()  # there is no way to complain in the middle of an answer
        self._watch()

    def _watch(self) -> None:
        """Have the timer run unless there is a whole request that is being answered."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # at first, whatever its type says
        answering = cycle is not None and not (cycle.more_body or cycle.response_complete)
        if self._deadline is None and not answering:
            self._deadline = self.loop.call_later(PATIENCE, self.abort)
        elif self._deadline is not None and answering:
            self._deadline.cancel()
            self._deadline = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()  # for the next one

    def shutdown(self) -> None:
        if self in self.connections:  # else it is at its beginning, or at its end
            try:
                super().shutdown()
            except h11.LocalProtocolError:
                self.abort()

    def abort(self) -> None:
        if self.transport is not None:  # pyright: ignore[reportUnnecessaryComparison] -- at first
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._listener.open.discard(self)
        self._listener.gone.set()


def _is_ours(transport: asyncio.Transport) -> bool:
    """Whether it comes from this user or root; who comes by TCP has to know the token instead."""
    connection: socket.socket = transport.get_extra_info("socket")
    if connection.family != socket.AF_UNIX:
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return user in (0, os.geteuid())


def _refuse(transport: asyncio.Transport, status: bytes, why: bytes) -> None:
    body = b'{"error": "%s"}\n' % why
    transport.write(
        b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        b"connection: close\r\n\r\n%s" % (status, len(body), body)
    )
    transport.close()
