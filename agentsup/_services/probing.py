"""One probe: make it, and say in a few words why it did not pass.

No connection is kept from one probe to the next, and none outlives its probe.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import anyio

from .._values.probe import CallableProbe, CommandProbe, HttpProbe, TcpProbe

if TYPE_CHECKING:
    from .._values.command import Command
    from .._values.probe import Probe, UnixProbe
    from .._values.result import Result

#: Runs a command, for at most so many seconds, as tightly contained as the service.
Run: TypeAlias = "Callable[[Command, float | None], Awaitable[Result]]"

REASON_MAX = 300


def load(probes: Iterable[object]) -> None:
    """Import what these take. HTTP takes 0.2 s, in which the event loop does nothing else."""
    if any(isinstance(probe, HttpProbe) for probe in probes):
        importlib.import_module(".http", __package__)


async def check(probe: Probe, timeout: float | None, run: Run) -> str | None:
    """Return None if it passes, else why it does not.

    :param timeout: seconds for all of it.
    :param run: for the command of a :class:`CommandProbe`; keeps to the timeout by itself.
    """
    reason = None
    try:
        if isinstance(probe, CommandProbe):
            reason = _outcome(await run(probe.command, timeout))
        else:
            load([probe])  # which is not the service's fault
            with anyio.move_on_after(timeout) as bound:
                reason = await _ask(probe)
            if bound.cancelled_caught:
                reason = f"no answer within {timeout:g} s"
    except Exception as error:  # whatever it is, the service did not pass
        reason = _text(error)
    return reason and " ".join(reason.split())[:REASON_MAX]


def _outcome(result: Result) -> str | None:
    if result.ok:
        return None
    printed = (result.stderr.text or result.stdout.text).strip()
    return f"{result.reason}: {printed[-REASON_MAX // 2 :]}" if printed else result.reason


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        return error.strerror
    return f"{type(error).__name__}: {error}"


async def _ask(probe: TcpProbe | HttpProbe | UnixProbe | CallableProbe) -> str | None:
    if isinstance(probe, HttpProbe):
        return await _request(probe)
    if isinstance(probe, CallableProbe):
        return await _call(probe)
    if isinstance(probe, TcpProbe):
        sock = await _connect_tcp(probe.host, probe.port)
    else:
        sock = await _connect(socket.AF_UNIX, os.fspath(probe.path))
    sock.close()
    return None


async def _call(probe: CallableProbe) -> str | None:
    value = probe.function()
    if inspect.isawaitable(value):
        value = await value
    return None if value else f"returned {value!r}"


async def _request(probe: HttpProbe) -> str | None:
    from . import http

    if probe.unix_socket is None:
        url = urlsplit(probe.url)
        port = url.port or (443 if url.scheme == "https" else 80)
        sock = await _connect_tcp(url.hostname or "", port)
    else:
        sock = await _connect(socket.AF_UNIX, os.fspath(probe.unix_socket))
    with sock:
        return await http.ask(sock, probe)


async def _connect_tcp(host: str, port: int) -> socket.socket:
    try:  # a name takes a thread to resolve, an address none
        found: Any = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except (OSError, UnicodeError):
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, _, _, _, address in found[:-1]:
        try:
            return await _connect(family, address)
        except OSError:
            pass
    return await _connect(found[-1][0], found[-1][4])


async def _connect(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            sock.connect(address)
        except BlockingIOError as error:
            if error.errno == errno.EAGAIN:  # of a Unix socket; there is nothing to wait for
                raise OSError(error.errno, "its queue of connections is full") from None
            await anyio.wait_writable(sock)
            if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, os.strerror(number)) from None
        # Nobody listens, and the kernel gave our end the very port that we ask for.
        if sock.getsockname() == address:
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    except BaseException:
        sock.close()
        raise
    return sock
