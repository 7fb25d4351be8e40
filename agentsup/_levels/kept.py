"""A tree that the keeper holds: the call's end of a channel (``_linux/keeper.py``)."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import struct
import sys
from typing import TYPE_CHECKING

from .._errors import KeeperLost, SpawnError, os_error
from .._linux import keeper as wire
from .._linux import lifeline
from .._values.result import Found, Leftover, Usage
from .hold import Hold, News, words

if TYPE_CHECKING:
    from .._calls.spec import Spec

_FOUND = {
    wire.DESCENDANT: Found.DESCENDANT,
    wire.ORPHAN: Found.ORPHAN,
    wire.UNATTRIBUTED: Found.UNATTRIBUTED,
    wire.GROUPED: Found.GROUPED,
}
_ENDED = (errno.EPIPE, errno.ECONNRESET)  # the other end of a socket is closed
_LIMITS = ((wire.MEMORY_HIT, "memory"), (wire.PROCESSES_HIT, "processes"))


class Kept(Hold):
    """Closed before its time, it is killed by the keeper."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._keeper: lifeline.Keeper | None = None
        self._channel: lifeline.Channel | None = None
        self._request = b""
        self._index = 0  # the number of the spawn
        self._pidfd = -1
        self._followed_pidfd = -1

    def prepare(self, fds: list[int], targets: bytes, *, eager: bool) -> None:
        spec = self._spec
        self._keeper = lifeline.acquire()
        fds.insert(0, os.open(spec.cwd, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        options = b"targets=" + targets + (b"\0" + spec.options if spec.options else b"")
        argv = b"\0".join([spec.program, *spec.argv])
        # Without tags there would be only the pidfd to kill by if the keeper were lost.
        eager = eager or not self._keeper.tags.stride
        self._request, body = self._keeper.spawn_packet(argv, spec.env, options, eager=eager)
        if body >= 0:
            fds.append(body)

    def connect(self) -> bool:
        assert self._keeper
        if self._channel:
            return False
        try:
            channel = self._channel = lifeline.connect(self._keeper)
        except BlockingIOError:
            raise
        except OSError as error:
            if not self._is_lost(error):
                raise os_error(error, "the keeper cannot be reached") from None
            return self.connect()
        assert channel.timer
        self.fd, self.epoll, self.timer = channel.fd, channel.epoll, channel.timer
        return True

    def start(self, fds: list[int]) -> bool:
        assert self._keeper
        assert self._channel
        sys.audit("agentsup.spawn", self._spec.argv)
        try:
            lifeline.send(self._channel.socket, self._request, fds)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in _ENDED and not self._keeper.dead:
                raise self._refused() from None
            if not self._is_lost(error):
                raise os_error(error, "the keeper cannot be reached") from None
            return False
        return True

    def _is_lost(self, error: OSError) -> bool:
        """Whether the keeper died while it had nothing to do. Then there is the next one."""
        assert self._keeper
        if not self._keeper.lost and error.errno not in _ENDED:
            return False
        lifeline.lose(self._keeper)
        self._release()
        self._keeper = lifeline.acquire()
        return True

    def room(self) -> int:
        assert self._keeper
        return os.dup(self._keeper.lifeline.fileno())

    def news(self) -> News | None:
        assert self._channel
        try:
            data, fds = lifeline.receive(self._channel)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            data, fds = b"", []
        try:
            return self._understood(data, fds)
        except (struct.error, IndexError, KeyError, ValueError):
            self.error = KeeperLost("the keeper has said something that makes no sense")
            self.give_up()
            return News.LOST
        finally:
            for fd in fds:
                os.close(fd)

    def _understood(self, data: bytes, fds: list[int]) -> News | None:
        kind = data[:1]
        self._request = b""  # it need not be sent again
        if kind == wire.EXITED:
            _, self.pid, self._index, self.status, user, system, max_rss, flags = (
                wire.EXITED_BODY.unpack(data)
            )
            self.usage = Usage(user, system, max_rss * 1024)
            if flags > wire.LIVE:
                self.limits_reached = tuple(name for flag, name in _LIMITS if flags & flag)
            self._close_pidfd()
            self.over = not flags & wire.LIVE
            return News.EXITED if self.over else News.LEFT
        if kind == wire.STARTED:
            _, self.pid, self._index = wire.STARTED_BODY.unpack(data)
            self._close_pidfd()  # it was asked for twice
            self._pidfd = fds.pop()
            return News.STARTED
        if kind == wire.FOLLOWED:
            _, pid = wire.FOLLOWED_BODY.unpack(data)
            if not pid:
                return News.STRANGER
            self.followed, self.followed_status = pid, None
            self._close_followed()
            self._followed_pidfd = fds.pop() if fds else -1  # there may be no room for it
            return News.FOLLOWED
        if kind == wire.ENDED:
            _, status = wire.ENDED_BODY.unpack(data)
            self.followed_status = status if status >= 0 else None
            self._close_followed()
            return News.ENDED
        if kind == wire.EMPTY:
            self.over = True
            return News.EMPTY
        if kind == wire.KILLED:
            self.over = True
            self.leftover_count, self.leftovers = _leftovers(data)
            return News.KILLED
        if kind == wire.FAILED:
            return self._on_failed(data)
        if kind == wire.BROKEN:
            text = data[1:].decode("utf-8", "replace")
            self.error = KeeperLost(f"the keeper has failed:\n{text}")
            self.give_up()
            return News.LOST
        if self.over:
            return None
        if data:
            raise ValueError(data)
        return self._on_silence()

    def _on_failed(self, data: bytes) -> News:
        assert self._keeper
        _, number = wire.FAILED_BODY.unpack_from(data)
        self.failure = number, data[wire.FAILED_BODY.size :].decode()
        self.over = True
        if number == errno.EMFILE:
            lifeline.shed(self._keeper)
        return News.FAILED

    def _on_silence(self) -> News:
        """The channel has ended before the last message."""
        assert self._keeper
        if self._keeper.dead:
            self.error = KeeperLost("the keeper has died; what it had started was killed")
            self.give_up()
        else:
            self.error = self._refused()
        return News.LOST

    def _refused(self) -> SpawnError:
        """The keeper's end of the channel did not arrive there."""
        assert self._keeper
        lifeline.shed(self._keeper)
        message = "the keeper has no file descriptors left (see RLIMIT_NOFILE)"
        return SpawnError(errno.EMFILE, message)

    def ask(self) -> None:
        self._tell(wire.ASK)

    def signal_main(self, number: int) -> None:
        pidfd = self._pidfd if self._followed_pidfd < 0 else self._followed_pidfd
        if pidfd < 0:
            raise ProcessLookupError(errno.ESRCH, "the process has ended")
        signal.pidfd_send_signal(pidfd, number)

    def follow(self, pid: int) -> None:
        self._tell(wire.FOLLOW_BODY.pack(wire.FOLLOW, pid))

    def signal_tree(self, number: int) -> None:
        self._tell(wire.SIGNAL + bytes([number]))

    def kill(self) -> None:
        # Said by close() too, not only implied by the end of file: a fork may hold a copy of it.
        self._tell(wire.KILL)

    def _tell(self, message: bytes) -> None:
        if self._channel and not self.over:
            with contextlib.suppress(OSError):  # it is gone: the end of file is on its way
                self._channel.socket.send(message)

    def give_up(self) -> None:
        assert self._keeper
        with contextlib.suppress(ProcessLookupError):
            self.signal_main(signal.SIGKILL)
        lifeline.lose(self._keeper)

    def members(self) -> list[int]:
        return self._keeper.orphans(self._index) if self._keeper else []

    def adopted(self) -> tuple[Leftover, ...]:
        return tuple(
            Leftover(pid, words(wire.command_line(pid)), Found.ORPHAN, killed=False)
            for pid in self.members()
        )

    def owns(self, pid: int) -> bool:
        if self._keeper is None or self.pid is None:
            return False
        return self._keeper.owns(self._index, pid)

    def close(self) -> None:
        self._close_pidfd()
        self._close_followed()
        self._release()

    def _release(self) -> None:
        """Give the channel back for another call if this one's last message has come."""
        channel, self._channel = self._channel, None
        if channel and not self.over:
            channel.close()
        kept, self._keeper = self._keeper, None
        if kept:
            lifeline.release(kept, channel if self.over else None)

    def _close_pidfd(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _close_followed(self) -> None:
        if self._followed_pidfd >= 0:
            os.close(self._followed_pidfd)
            self._followed_pidfd = -1


def _leftovers(data: bytes) -> tuple[int, tuple[Leftover, ...]]:
    _, count = wire.KILLED_BODY.unpack_from(data)
    offset = wire.KILLED_BODY.size
    found: list[Leftover] = []
    while offset < len(data):
        pid, how, gone, size = wire.ENTRY.unpack_from(data, offset)
        offset += wire.ENTRY.size
        argv = words(data[offset : offset + size])
        offset += size
        found.append(Leftover(pid, argv, _FOUND[how], bool(gone)))
    return count, tuple(found)
