"""Sockets that outlive their host: handed in by whoever has started it, and left with them.

A socket goes on listening while any process has it open.  So where a manager keeps one, no
connection is refused between two hosts; what comes meanwhile waits in the backlog.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING

from .. import notify
from .sockets import TYPES, OpenSocket, open_socket, open_sockets, resolve, shown

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from typing import Self

    from .._values.listen import ListenSocket
    from .sockets import OpenSockets


class Handover:
    """``with Handover(notify.listen_fds()) as handover:``

    :param given: descriptors and their names. Those that are asked for belong to this from then
        on; the others stay the caller's.
    """

    def __init__(self, given: Iterable[tuple[int, str]]) -> None:
        self._given = _check(given)
        self._idle: list[tuple[int, str]] = []  # ours, and no service's now
        self._over = False

    def open(self, sockets: Sequence[ListenSocket]) -> OpenSockets:
        """As :func:`open_sockets`, but take what is there already."""
        return open_sockets(sockets, self._open)

    def _open(self, wanted: ListenSocket) -> OpenSocket:
        for pool in (self._idle, self._given):
            for entry in pool:
                if _is(entry, wanted):
                    pool.remove(entry)
                    return self._take(entry[0], wanted)
        opened = open_socket(wanted)
        try:
            kept = notify.fdstore([opened.fd], opened.name)
        except OSError:
            kept = False  # the manager has gone: the next one starts anew
        if kept:
            self._share(opened)
        return opened

    def _take(self, fd: int, wanted: ListenSocket) -> OpenSocket:
        os.set_inheritable(fd, False)
        address = wanted.address
        if wanted.inet:
            with _as_socket(fd) as taken:
                address = shown(taken)
        opened = OpenSocket(fd, wanted.name or "unknown", address)
        self._share(opened)
        return opened

    def _share(self, opened: OpenSocket) -> None:
        """Somebody else has it open, too: its end here is not its end, and its file stays."""
        opened.file = None
        opened.let_go = lambda fd: self._take_back(fd, opened.name)

    def _take_back(self, fd: int, name: str) -> None:
        if self._over:
            os.close(fd)
        else:
            self._idle.append((fd, name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        while self._idle:
            os.close(self._idle.pop()[0])


def _check(given: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    entries = list(given)
    for entry in entries:
        if not (isinstance(entry, tuple) and list(map(type, entry)) == [int, str]):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
            raise TypeError(
                f"sockets must be pairs as notify.listen_fds() returns them, not {entry!r}"
            )
        try:
            os.fstat(entry[0])
        except OSError:
            raise ValueError(f"sockets: descriptor {entry[0]} is not open") from None
    return entries


def _is(entry: tuple[int, str], wanted: ListenSocket) -> bool:
    """Whether it is what ``wanted`` would make, as sd_is_socket(3) asks."""
    fd, name = entry
    mode = os.fstat(fd).st_mode
    if wanted.kind == "fifo":
        return stat.S_ISFIFO(mode) and _is_at(fd, wanted.address)
    if not stat.S_ISSOCK(mode):
        return False
    with _as_socket(fd) as found:
        listens = bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        family, address = resolve(wanted)
        if (found.family, found.type) != (family, TYPES[wanted.kind]):
            return False
        if listens is not wanted.has_connections:
            return False
        bound = found.getsockname()
    if family == socket.AF_UNIX:
        there = wanted.address.startswith("@") or os.path.exists(wanted.address)
        return os.fsencode(bound) == address and there
    if address[1] == 0:  # any port: then it is known by its name
        return wanted.name == name and (bound[0], *bound[2:]) == (address[0], *address[2:])
    return bool(bound == address)


def _is_at(fd: int, path: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    return False


@contextlib.contextmanager
def _as_socket(fd: int) -> Generator[socket.socket]:
    """Look at it as a socket; it stays open."""
    found = socket.socket(fileno=fd)
    try:
        yield found
    finally:
        found.detach()
