"""Making what services listen on: all of it or nothing, and what a dead host has left replaced."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
from typing import TYPE_CHECKING, Any

from attrs import define

from .._errors import SpawnError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    from .._values.listen import ListenSocket

TYPES = {
    "stream": socket.SOCK_STREAM,
    "datagram": socket.SOCK_DGRAM,
    "seqpacket": socket.SOCK_SEQPACKET,
}


def open_sockets(
    sockets: Iterable[ListenSocket],
    open_one: Callable[[ListenSocket], OpenSocket] | None = None,
) -> OpenSockets:
    """Make them all; SpawnError that names the address, and none is left, if one is not to be had.

    A Unix socket that nobody listens on is replaced, and a FIFO that nobody reads used again;
    anything else in their place is an error.  They are blocking, as systemd passes them.
    """
    opened: list[OpenSocket] = []
    try:
        for wanted in sockets:
            try:
                opened.append((open_one or open_socket)(wanted))
            except OSError as error:
                text = f"sockets: {error.strerror or error}"
                raise SpawnError(error.errno or 0, text, wanted.address) from None
        return OpenSockets(opened)
    except BaseException:
        for one in opened:
            one.close()
        raise


@define
class OpenSocket:
    """A descriptor, and the file at its path, if it has made one."""

    fd: int
    name: str
    address: str
    file: tuple[int, int] | None = None
    let_go: Callable[[int], object] = os.close

    def remove_file(self) -> None:
        # As long as it is open, nothing else can be the same file.
        with contextlib.suppress(OSError):
            if self.file == _identity(os.lstat(self.address)):
                os.unlink(self.address)

    def close(self) -> None:
        self.remove_file()
        self.let_go(self.fd)


class OpenSockets:
    """What is listened on: ``with open_sockets(…) as sockets:``."""

    def __init__(self, opened: list[OpenSocket]) -> None:
        self._opened = opened
        # Made now, so that later there is nothing that could be lacking.
        self._epoll = select.epoll() if opened else None
        for fd in self.fds:
            assert self._epoll
            self._epoll.register(fd, select.EPOLLIN)

    @property
    def fds(self) -> tuple[int, ...]:
        return tuple(one.fd for one in self._opened)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self._opened)

    @property
    def addresses(self) -> tuple[str, ...]:
        """As they were given, but with the host and the port that it has come to."""
        return tuple(one.address for one in self._opened)

    def fileno(self) -> int:
        """Readable while there is something to be read from, or accepted at, one of them."""
        assert self._epoll
        return self._epoll.fileno()

    def readable(self) -> Iterable[int]:
        """One of those that are; asked again, they take turns."""
        assert self._epoll
        return [fd for fd, _ in self._epoll.poll(0, 1)]

    def close(self) -> None:
        """Listen no more, and remove the files that were made. May be repeated."""
        if self._epoll:
            self._epoll.close()
        while self._opened:
            self._opened.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_socket(wanted: ListenSocket) -> OpenSocket:
    name = wanted.name or "unknown"  # sd_listen_fds(3)
    if wanted.kind == "fifo":
        fd = _open_fifo(wanted.address, wanted.mode)
        return OpenSocket(fd, name, wanted.address, _identity(os.fstat(fd)))
    family, address = resolve(wanted)
    with contextlib.ExitStack() as on_error:
        made = on_error.enter_context(socket.socket(family, TYPES[wanted.kind]))
        opened = OpenSocket(made.fileno(), name, wanted.address)
        if family != socket.AF_UNIX:
            _bind_inet(made, address, wanted)
            opened.address = shown(made)
        elif wanted.address.startswith("@"):
            made.bind(address)
        else:
            _bind_path(made, wanted)
            opened.file = _identity(os.lstat(wanted.address))
            on_error.callback(opened.remove_file)
            os.chmod(wanted.address, wanted.mode)
        if wanted.has_connections:
            made.listen(wanted.backlog)
        made.detach()
        on_error.pop_all()
    return opened


# --- IP addresses -----------------------------------------------------------------------------


def resolve(wanted: ListenSocket) -> tuple[int, Any]:
    """The address family, and the address as bind(2) takes it."""
    if not wanted.inet:
        path = os.fsencode(wanted.address)
        return socket.AF_UNIX, b"\0" + path[1:] if path.startswith(b"@") else path
    host, port = wanted.inet
    host = host or ("::" if socket.has_dualstack_ipv6() else "0.0.0.0")
    # As numbers: no name is looked up. It knows of scopes, as in fe80::1%eth0.
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    kind = TYPES[wanted.kind]
    [(family, _, _, _, address)] = socket.getaddrinfo(host, port, type=kind, flags=numeric)
    return family, address


def _bind_inet(made: socket.socket, address: Any, wanted: ListenSocket) -> None:
    if wanted.inet and not wanted.inet[0] and made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # for both
    if wanted.has_connections:  # with datagrams, two could have the same port
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if wanted.reuse_port:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(address)


def shown(made: socket.socket) -> str:
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    host, port = socket.getnameinfo(made.getsockname(), numeric)
    return f"[{host}]:{port}" if made.family == socket.AF_INET6 else f"{host}:{port}"


# --- paths ------------------------------------------------------------------------------------


def _bind_path(made: socket.socket, wanted: ListenSocket) -> None:
    # For the file that comes of it, which is never more open than that. The umask is taken off.
    os.fchmod(made.fileno(), wanted.mode)
    try:
        made.bind(wanted.address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        _remove_stale_socket(wanted.address, made.type)
        made.bind(wanted.address)


def _remove_stale_socket(path: str, kind: int) -> None:
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, "what is at this path is no socket")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if _identity(os.lstat(path)) == _identity(found):
                os.unlink(path)
            return
        except OSError:
            pass  # too busy, of another kind, or not for us
    raise OSError(errno.EADDRINUSE, "somebody listens there")


def _open_fifo(path: str, mode: int) -> int:
    try:
        os.mkfifo(path, mode)
    except FileExistsError:
        _check_stale_fifo(path)
    # For writing too: it never comes to an end then, whoever has written to it.
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, mode)  # whatever the umask is
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_stale_fifo(path: str) -> None:
    """It is used again as it is: writers may wait for somebody to read it."""
    found = os.lstat(path)
    if not stat.S_ISFIFO(found.st_mode) or found.st_uid != os.geteuid():
        raise FileExistsError(errno.EEXIST, "what is at this path is no FIFO of this user")
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    else:
        raise OSError(errno.EADDRINUSE, "somebody reads it")


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
