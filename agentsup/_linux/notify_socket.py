"""Where the processes of one service say how it is: a datagram socket, see sd_notify(3).

The kernel itself says who has sent each datagram (unix(7), SO_PASSCRED); who of those is listened
to is for others to decide.

Any process may be the service's, whoever's it has become, or was made by a root host.  So where
root is the host, every user may send; who is not the service's own is not listened to.

The socket has a file in the user's runtime directory, which outlives a host that dies by violence.
Its name says whose it is, ``notify-PID-START-NAMESPACE-…``, and every new socket begins with the
removal of those whose host is dead: crash-only.
"""

from __future__ import annotations

import os
import socket
import struct
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import define

from .._rules.tags import NO_TAGS
from .records import Record, own_directory, pid_namespace, start_time_of

if TYPE_CHECKING:
    from typing import Self

#: Datagrams to be received at a time; more would keep an event loop from others.
AT_ONCE = 16
_DATA_MAX = 4096  # bytes; systemd takes no longer ones either
_FDS_MAX = 253  # the kernel's own bound for a datagram
_CREDENTIALS = struct.Struct("iII")  # struct ucred
_ANCILLARY_MAX = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * _FDS_MAX)
_PREFIX = "notify"


@define
class Datagram:
    """What a process has sent. Its descriptors are closed at the end of the block, but those taken.

    ``with datagram: …``
    """

    data: bytes
    #: Of the sender; 0 if it is in a namespace that cannot be seen from here.
    pid: int
    uid: int
    #: Close-on-exec.
    fds: list[int]
    #: What of it did not come, and why.
    lost: str | None = None

    def take(self) -> list[int]:
        """The descriptors, from now on the caller's to close."""
        fds, self.fds = self.fds, []
        return fds

    def close(self) -> None:
        for fd in self.take():
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class NotifySocket:
    """The end that listens. Its ``path`` is what NOTIFY_SOCKET is to be for the service."""

    def __init__(self) -> None:
        directory = own_directory()
        mode = 0o600
        if os.geteuid() == 0:
            mode = 0o666
            directory.chmod(0o711)  # it can be entered by who knows the name
        _remove_leftovers(directory)
        self._owner: Final = os.getpid()
        owner = f"{self._owner}-{start_time_of(self._owner)}-{pid_namespace()}"
        # A number alone would begin again in a host that replaces itself by exec.
        self.path: Final = str(directory / f"{_PREFIX}-{owner}-{os.urandom(4).hex()}")
        self._socket: Final = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        _all.add(self)
        try:
            self._socket.setblocking(False)
            # Before it can be found, so that no datagram comes without.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._socket.bind(self.path)
            os.chmod(self.path, mode)
        except BaseException:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """Readable while there is something to :meth:`receive`."""
        return self._socket.fileno()

    def receive(self) -> Datagram | None:
        """The next datagram, if one has come."""
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(
                _DATA_MAX, _ANCILLARY_MAX, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        datagram = Datagram(data, 0, -1, [])
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                datagram.pid, datagram.uid, _ = _CREDENTIALS.unpack(value)
            elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                datagram.fds += struct.unpack(f"{len(value) // 4}i", value)
        if flags & socket.MSG_CTRUNC:
            datagram.close()
            datagram.lost = "its descriptors: this process can have no more of them"
        if flags & socket.MSG_TRUNC:
            datagram.close()
            datagram.data = b""
            datagram.lost = f"all of it: it is longer than {_DATA_MAX} bytes"
        return datagram

    def close(self) -> None:
        self._socket.close()
        if os.getpid() == self._owner:  # not in the child of a fork
            Path(self.path).unlink(missing_ok=True)


_all: weakref.WeakSet[NotifySocket] = weakref.WeakSet()


def _close_after_fork() -> None:
    """The child of a fork must not hold them: senders are to be told when their host is gone."""
    for listening in list(_all):
        listening.close()
    _all.clear()


os.register_at_fork(after_in_child=_close_after_fork)


def _remove_leftovers(directory: Path) -> None:
    for path in directory.glob(f"{_PREFIX}-*"):
        try:
            pid, start, namespace = map(int, path.name.split("-")[1:4])
        except ValueError:
            continue  # not one of ours
        if Record(NO_TAGS, pid, start, namespace, ()).host_is_dead:
            path.unlink(missing_ok=True)
