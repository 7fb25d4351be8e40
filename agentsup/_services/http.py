"""One HTTP request over one socket. Imported when there is an HTTP probe to make, and httpx then.

The socket is the caller's. httpx's own transports leave theirs to the garbage collector when they
are cancelled in a TLS handshake; and before a Unix socket that nobody accepts from, asyncio tries
again at full speed until then. So what httpx and its engine, httpcore, do here is what is said.
"""

from __future__ import annotations

import functools
import ssl
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
import httpcore
import httpx

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from .._values.probe import HttpProbe

    A = TypeVar("A")
    T = TypeVar("T")

BODY_MAX = 1024 * 1024


async def ask(sock: socket.socket, probe: HttpProbe) -> str | None:
    """Send the request over a connected socket; say what is wrong with the answer, if anything."""
    headers = [("Accept-Encoding", "identity"), *probe.headers, ("Connection", "close")]
    request = httpx.Request(probe.method, probe.url, headers=headers)
    url = request.url
    target = httpcore.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )
    with _encrypted(sock, url.host) if url.scheme == "https" else sock as stream:
        connection = httpcore.AsyncHTTP11Connection(target.origin, _Stream(stream))
        response = await connection.handle_async_request(
            httpcore.Request(request.method, target, headers=request.headers.raw)
        )
        if response.status not in probe.status:
            return f"HTTP status {response.status}"
        if probe.body and not probe.body(await _beginning(response)):
            return "the body of the answer does not pass"
    return None


async def _beginning(response: httpcore.Response) -> bytes:
    """No more than ``BODY_MAX`` of its body."""
    body = bytearray()
    # Cancelled, not broken off: that ends every generator below this loop at once.
    with anyio.CancelScope() as enough:
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) >= BODY_MAX:
                enough.cancel()
    return bytes(body[:BODY_MAX])


def _encrypted(sock: socket.socket, host: str) -> ssl.SSLSocket:
    """It takes the descriptor over, and shakes hands when the first byte is written."""
    return _tls().wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once: it takes 50 ms to read all the certificates."""
    return httpx.create_ssl_context(trust_env=False)


class _Stream(httpcore.AsyncNetworkStream):
    """A non-blocking socket. The timeout is the whole probe's."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._patiently(self._sock.recv, max_bytes, anyio.wait_readable)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        while buffer:
            sent = await self._patiently(self._sock.send, buffer, anyio.wait_writable)
            buffer = buffer[sent:]

    async def aclose(self) -> None:
        """Whoever has made it closes it."""

    async def _patiently(
        self,
        attempt: Callable[[A], T],
        argument: A,
        ready: Callable[[socket.socket], Awaitable[None]],
    ) -> T:
        await anyio.lowlevel.checkpoint()  # a peer that is faster than we are must not hold us
        while True:
            try:
                return attempt(argument)
            except ssl.SSLWantReadError:
                await anyio.wait_readable(self._sock)
            except ssl.SSLWantWriteError:
                await anyio.wait_writable(self._sock)
            except BlockingIOError:
                await ready(self._sock)
