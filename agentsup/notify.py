"""For the program that is run as a service: tell the supervisor how it is going.

The protocol is that of sd_notify(3), so it works below agentsup, systemd and whatever else sets
``NOTIFY_SOCKET``.  Where that is not set nobody listens: every function does nothing and returns
False.  Where nothing can be sent although it is set, there is an :exc:`OSError`.

Needs the standard library only, and is quickly imported.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractAsyncContextManager

    from _typeshed import FileDescriptorLike
    from anyio.abc import TaskGroup

__all__ = [
    "barrier",
    "extend_timeout",
    "fdstore",
    "fdstore_remove",
    "heartbeat",
    "listen_fds",
    "main_pid",
    "notify",
    "ready",
    "reloading",
    "status",
    "stopping",
    "watchdog",
    "watchdog_interval",
]

_PATIENCE = 5.0  # seconds for a supervisor that is behind with its reading
_FDS_MAX = 253  # the kernel's own bound for a datagram
_FIRST_FD = 3
_POLL_MAX = 2**31 - 1  # milliseconds


# --- telling ------------------------------------------------------------------------------------


def notify(*lines: str, fds: Iterable[FileDescriptorLike] = ()) -> bool:
    """Send ``NAME=value`` lines as one message; whether there is anybody to send them to.

    It may wait for a few seconds while the supervisor is behind with its reading.

    :param lines: what sd_notify(3) lists, and names of your own with ``X_`` before them.
    :param fds: descriptors to go with it, 253 at most. They stay open here.
    """
    return _send(lines, fds, _PATIENCE)


def ready(status: str | None = None) -> bool:
    """The service has started, or is done with reloading."""
    return notify("READY=1", *([] if status is None else [f"STATUS={status}"]))


def status(text: str) -> bool:
    """What the service is doing, in a line for people."""
    return notify(f"STATUS={text}")


def reloading() -> bool:
    """The service has begun to reload its configuration; :func:`ready` says when it is done."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> bool:
    """The service is on its way out."""
    return notify("STOPPING=1")


def extend_timeout(seconds: float) -> bool:
    """Starting, reloading or stopping will take that many seconds more, counted from now.

    To be said again before they are over, if need be.
    """
    from ._values.number import seconds as to_seconds

    bound = to_seconds("seconds", seconds, zero=False)
    if bound is None:
        raise ValueError("seconds must be finite: say it again while it takes longer")
    return notify(f"EXTEND_TIMEOUT_USEC={_microseconds(bound)}")


def main_pid(pid: int) -> bool:
    """Another process is the service's main one from now on."""
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise TypeError(f"pid must be a process ID, not {pid!r}")
    if pid < 1:
        raise ValueError(f"pid must be the ID of one process, not {pid}")
    return notify(f"MAINPID={pid}")


def watchdog() -> bool:
    """The service makes progress. :func:`heartbeat` says it for an event loop."""
    return notify("WATCHDOG=1")


def fdstore(fds: Iterable[FileDescriptorLike], name: str = "stored") -> bool:
    """Have descriptors kept over restarts; the next run finds them with :func:`listen_fds`."""
    return notify("FDSTORE=1", f"FDNAME={_fdname(name)}", fds=fds)


def fdstore_remove(name: str) -> bool:
    """The descriptors kept as ``name`` are no longer needed."""
    return notify("FDSTOREREMOVE=1", f"FDNAME={_fdname(name)}")


def barrier(timeout: float | None = 5.0) -> bool:
    """Wait until the supervisor has read everything sent so far.

    A program that ends right after a message should do so: a supervisor cannot tell who a process
    was that is gone.

    :param timeout: seconds; None is no bound.
    :raises TimeoutError: it has not been read by then.
    """
    import math
    import select

    from ._values.number import seconds as to_seconds

    bound = to_seconds("timeout", timeout)
    ours, theirs = os.pipe()
    try:
        try:
            sent = notify("BARRIER=1", fds=[theirs])
        finally:
            os.close(theirs)
        if not sent:
            return False
        poll = select.poll()
        poll.register(ours, 0)  # the end of the last copy of the other end is always told
        if not poll.poll(None if bound is None else min(math.ceil(bound * 1000), _POLL_MAX)):
            raise TimeoutError(f"the supervisor has not read everything within {timeout} seconds")
        return True
    finally:
        os.close(ours)


# --- being told ---------------------------------------------------------------------------------


def watchdog_interval() -> float | None:
    """Seconds after which the supervisor gives up a service that has not said :func:`watchdog`.

    None if it does not wait for that, or from another process. Say it twice as often.
    """
    usec = _number("WATCHDOG_USEC")
    if usec is None or _number("WATCHDOG_PID") not in (None, os.getpid()):
        return None
    if usec == 0:
        raise ValueError("WATCHDOG_USEC in the environment must be more than zero")
    return usec / 1e6


def listen_fds(*, unset_environment: bool = False) -> list[tuple[int, str]]:
    """The descriptors that the supervisor has passed, each with its name.

    They are made close-on-exec. A socket is had from one by ``socket.socket(fileno=fd)``.

    :param unset_environment: remove the variables that tell of them, so that no process started
        from here takes them for its own.
    """
    try:
        count = _number("LISTEN_FDS")
        if not count or _number("LISTEN_PID") != os.getpid():
            return []
        fds = range(_FIRST_FD, _FIRST_FD + count)
        for fd in fds:
            os.set_inheritable(fd, False)  # OSError if there is no such descriptor
        names = os.environ.get("LISTEN_FDNAMES")
        named = ["unknown"] * count if names is None else names.split(":")
        if len(named) != count:
            raise ValueError(f"LISTEN_FDNAMES in the environment must be {count} names: {names!r}")
        return list(zip(fds, named, strict=True))
    finally:
        if unset_environment:
            for variable in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
                os.environ.pop(variable, None)


# --- as long as it works ------------------------------------------------------------------------


def heartbeat(interval: float | None = None) -> AbstractAsyncContextManager[None]:
    """Say :func:`watchdog` as long as the event loop makes progress (asyncio and trio).

    It is said by a task of the loop, so a loop that is blocked falls silent. In the block,
    ``async with heartbeat(): …``, nothing else changes: a message that cannot be sent is left out.

    :param interval: seconds; None is half of :func:`watchdog_interval`, and silence if there is
        none.
    """
    from ._values.number import seconds as to_seconds

    if interval is None:
        limit = watchdog_interval()
        return _Heartbeat(None if limit is None else limit / 2)
    return _Heartbeat(to_seconds("interval", interval, zero=False))


class _Heartbeat:
    def __init__(self, interval: float | None) -> None:
        self._interval = interval
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> None:
        if self._interval is not None and os.environ.get("NOTIFY_SOCKET"):
            import anyio

            self._group = await anyio.create_task_group().__aenter__()
            self._group.start_soon(self._beat, self._interval)

    async def __aexit__(self, *_: object) -> None:
        if self._group is not None:
            self._group.cancel_scope.cancel()
            # The group is not told of an exception from the block, so it does not wrap it either.
            await self._group.__aexit__(None, None, None)

    async def _beat(self, interval: float) -> None:
        import anyio

        while True:
            try:
                _send(["WATCHDOG=1"], (), 0)
            except OSError:
                pass  # the supervisor is behind or gone, and sees to that itself
            await anyio.sleep(interval)


# --- how ----------------------------------------------------------------------------------------


def _send(lines: Iterable[str], fds: Iterable[FileDescriptorLike], patience: float) -> bool:
    data = _encode(lines)
    numbers = [fd if isinstance(fd, int) else fd.fileno() for fd in fds]
    if len(numbers) > _FDS_MAX:
        raise ValueError(f"fds must be {_FDS_MAX} at most: send them in several messages")
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    import socket

    if address[0] not in "/@":
        raise OSError(f"NOTIFY_SOCKET in the environment must be a path or @name, not {address!r}")
    name = os.fsencode(address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.settimeout(patience)
        connection.connect(b"\0" + name[1:] if address[0] == "@" else name)
        socket.send_fds(connection, [data], numbers)
    return True


def _encode(lines: Iterable[str]) -> bytes:
    checked: list[str] = []
    for line in lines:
        if not isinstance(line, str):
            raise TypeError(f"a line must be str, not {type(line).__name__}")
        if "\n" in line or "\0" in line:
            raise ValueError(f"a line must have no newline and no NUL in it: {line!r}")
        if "=" not in line:
            raise ValueError(f"a line must be NAME=value, not {line!r}")
        checked.append(line)
    if not checked:
        raise ValueError("lines: give at least one, such as 'READY=1'")
    return "\n".join(checked).encode(errors="replace")


def _fdname(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name must be str, not {type(name).__name__}")
    if not (0 < len(name) <= 255 and name.isascii() and name.isprintable() and ":" not in name):
        raise ValueError(f"name must be 1 to 255 printable ASCII characters, no colon: {name!r}")
    return name


def _microseconds(seconds: float) -> int:
    return max(1, round(seconds * 1e6))


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{variable} in the environment must be a whole number, not {text!r}")
    return int(text)
