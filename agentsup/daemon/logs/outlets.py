"""Where records go besides the disk. No outlet is waited for: what it does not take is dropped,
counted, and said as soon as it takes something again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio

from ..._services.flag import Flag
from .record import DAEMON, Record, dump, parse

if TYPE_CHECKING:
    from collections.abc import Callable

OutletName: TypeAlias = Literal["stdout", "syslog", "journald"]

_BUFFER = 1024 * 1024
_SYSLOG_MAX = 8 * 1024  # a datagram's; receivers cut what is longer
_FACILITY = 3  # daemon
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TOO_LARGE = errno.EMSGSIZE, errno.ENOBUFS
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Outlet:
    def __init__(self, name: str) -> None:
        self._name = name
        self._dropped: int = 0  # lines

    def send(self, records: bytes) -> None:
        """Pass on whole records."""
        raise NotImplementedError

    async def run(self) -> None:
        """Pass on what could not be at once, until cancelled."""

    async def finish(self) -> None:
        """The same, until there is nothing left."""

    def close(self) -> None:
        raise NotImplementedError

    def _notice(self) -> Record:
        text = f"{self._dropped} lines were dropped: {self._name} did not take them"
        dropped = self._dropped
        return Record(time.time(), DAEMON, os.getpid(), "daemon", 4, "", text, dropped=dropped)


class Stdout(Outlet):
    """JSON lines, as they are on the disk, for whoever has started the daemon."""

    def __init__(self, fd: int = 1) -> None:
        super().__init__("stdout")
        self._fd = _nonblocking(fd)
        self._waiting = bytearray()
        self._stuck = Flag()

    def send(self, records: bytes) -> None:
        if self._waiting and len(self._waiting) + len(records) > _BUFFER:
            self._dropped += records.count(b"\n")
            return
        self._waiting += records
        self._flush()

    def _flush(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: os.write(self._fd, self._waiting)]
                if self._dropped and not self._waiting:
                    self._waiting += dump(self._notice())
                    self._dropped = 0
        except BlockingIOError:
            self._stuck.set()
        except OSError:  # nobody will read it any more
            self._dropped += self._waiting.count(b"\n")
            self._waiting.clear()

    async def run(self) -> None:
        while True:
            await self._stuck.wait()
            await self.finish()
            self._stuck = Flag()

    async def finish(self) -> None:
        while self._waiting:
            await anyio.wait_writable(self._fd)
            self._flush()

    def close(self) -> None:
        os.close(self._fd)


def _nonblocking(fd: int) -> int:
    """Another descriptor for the same, that does not block, while the first one goes on to.

    Others have the first one as well: the shell that has started us, for one.
    """
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        append = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            return os.open(f"/proc/self/fd/{fd}", flags | append)
        except OSError:
            pass  # it is another user's
    copy = os.dup(fd)
    os.set_blocking(copy, False)
    return copy


class _Datagrams(Outlet):
    """One datagram for each record, to a socket of this machine."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self._path = path
        self._socket: socket.socket | None = None

    def send(self, records: bytes) -> None:
        for line in records.splitlines():
            if record := parse(line):
                self._send(record)

    def _send(self, record: Record) -> None:
        try:
            if self._dropped:
                self._transmit(self._notice())
                self._dropped = 0
            self._transmit(record)
        except OSError as error:
            self._dropped += 1
            if not isinstance(error, BlockingIOError):
                self.close()  # its other end is gone; there may be a new one

    def _transmit(self, record: Record) -> None:
        raise NotImplementedError

    def _connected(self) -> socket.socket:
        if self._socket is None:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                made.setblocking(False)
                made.connect(self._path)
            except BaseException:
                made.close()
                raise
            self._socket = made
        return self._socket

    def close(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None


class Syslog(_Datagrams):
    """As syslog(3) writes them; long ones in pieces."""

    def __init__(self, path: str = "/dev/log") -> None:
        super().__init__("syslog", path)

    def _transmit(self, record: Record) -> None:
        at = time.localtime(record.ts)
        when = f"{_MONTHS[at.tm_mon - 1]} {at.tm_mday:2} {time.strftime('%H:%M:%S', at)}"
        number = 8 * _FACILITY + record.priority
        head = f"<{number}>{when} {record.service}[{record.pid}]: ".encode()
        content = record.content
        room = _SYSLOG_MAX - len(head)
        for start in range(0, len(content) or 1, room):
            self._connected().send(head + content[start : start + room])


class Journald(_Datagrams):
    """By its native protocol, with our fields: ``journalctl AGENTSUP_SERVICE=web``."""

    def __init__(self, path: str = "/run/systemd/journal/socket") -> None:
        super().__init__("journald", path)

    def _transmit(self, record: Record) -> None:
        fields = {
            b"MESSAGE": record.content,
            b"PRIORITY": b"%d" % record.priority,
            b"SYSLOG_IDENTIFIER": record.service.encode(),
            b"SYSLOG_PID": b"%d" % record.pid,
            b"AGENTSUP_SERVICE": record.service.encode(),
            b"AGENTSUP_STREAM": record.stream.encode(),
            b"AGENTSUP_CALL_ID": record.call_id.encode(),
        }
        data = b"".join(b"%b=%b\n" % field for field in fields.items())  # a line has no newline
        try:
            self._connected().send(data)
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
            self._transmit_file(data)

    def _transmit_file(self, data: bytes) -> None:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        with open(os.memfd_create("agentsup-log", flags), "wb", buffering=0) as file:
            file.write(data)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            socket.send_fds(self._connected(), [b""], [file.fileno()])


OUTLETS: dict[OutletName, Callable[[], Outlet]] = {
    "stdout": Stdout,
    "syslog": Syslog,
    "journald": Journald,
}
