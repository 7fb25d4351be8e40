"""Socket activation: descriptors that a program starts with (sd_listen_fds(3)), and waiting until
there is something to start it for."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

import anyio
from attrs import evolve

from .._calls.spec import with_variables
from .._errors import UnsupportedPlatform
from .._values.result import Containment
from .._values.service import DESCRIPTORS_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from anyio.abc import TaskGroup

    from .._calls.spec import Spec
    from .sockets import OpenSockets

FIRST_FD = 3
#: Seconds until another try when there are no descriptors left: nothing tells of new ones.
ACCEPT_PAUSE = 1.0

_STARVED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_MISUSED = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}


def pass_sockets(
    spec: Spec, listening: Sequence[tuple[str, int]], stored: Sequence[tuple[str, int]] = ()
) -> Spec:
    """The same call, which gets these descriptors from 3 on, and is told of them by name.

    They have to be open until it is started, and stay the caller's. Those listened on become
    blocking again, whatever the program before has made of them.
    """
    handed = [*listening, *stored]
    if not handed:
        return spec
    if len(handed) > DESCRIPTORS_MAX:
        raise ValueError(
            f"{spec.name}: a program is passed {DESCRIPTORS_MAX} descriptors at most, sockets and "
            f"stored ones together, not {len(handed)}"
        )
    if spec.containment is Containment.PROCESS_GROUP:
        raise UnsupportedPlatform(
            f"{spec.name}: passing sockets takes a keeper, and there is none with "
            f"containment={spec.containment.name}"
        )
    for _, fd in listening:
        os.set_blocking(fd, True)
    # systemd's, in the environment of the host, if that is there: it would deny what we pass.
    env = b"\0".join(
        pair for pair in spec.env.split(b"\0") if not pair.startswith(b"LISTEN_PIDFDID=")
    )
    names = ":".join(name for name, _ in handed).encode()
    variables = {b"LISTEN_FDS": b"%d" % len(handed), b"LISTEN_FDNAMES": names}
    return evolve(
        spec,
        passed=tuple((fd, FIRST_FD + n) for n, (_, fd) in enumerate(handed)),
        env=with_variables(env, variables),
        options=b"\0".join(filter(None, [spec.options, b"own_pid=LISTEN_PID"])),
    )


async def wait_for_connection(sockets: OpenSockets) -> None:
    """Wait until there is something to be read or accepted, and leave it there."""
    await anyio.wait_readable(sockets)


async def accept_each(
    sockets: OpenSockets,
    handle: Callable[[socket.socket], Awaitable[object]],
    limit: int,
    *,
    tasks: TaskGroup,
    log: Callable[[str], object],
) -> None:
    """Accept connections until cancelled; ``handle`` each in a task of its own of ``tasks``.

    :param sockets: become non-blocking.
    :param handle: may close its connection as soon as somebody else has it; at its end, it is
        closed in any case.
    :param limit: how many at a time, over all ``sockets``. More of them wait unaccepted.
    :param log: told when there is nothing left to accept with.
    """
    slots = anyio.Semaphore(limit)

    async def serve(connection: socket.socket) -> None:
        try:
            with connection:
                await handle(connection)
        finally:
            slots.release()

    with contextlib.ExitStack() as stack:
        listeners: dict[int, socket.socket] = {}
        for fd in sockets.fds:
            listeners[fd] = socket.socket(fileno=fd)
            stack.callback(listeners[fd].detach)  # it stays open
            listeners[fd].setblocking(False)
        while True:
            await slots.acquire()
            tasks.start_soon(serve, await _accept(sockets, listeners, log))


async def _accept(
    sockets: OpenSockets, listeners: Mapping[int, socket.socket], log: Callable[[str], object]
) -> socket.socket:
    while True:
        await anyio.wait_readable(sockets)
        try:
            for fd in sockets.readable():
                return listeners[fd].accept()[0]
        except OSError as error:
            if error.errno in _MISUSED:
                raise
            if error.errno in _STARVED:
                log(f"no connection can be accepted now: {error.strerror}")
                await anyio.sleep(ACCEPT_PAUSE)
            # Else somebody was faster, or who has connected is gone again (accept(2)).
