"""The host's end: one keeper a process, started when first needed, replaced when it is lost.

Nothing here waits, reads a clock or belongs to an event loop, and every function may be called
from any thread.  What a call needs afterwards comes over its own channel.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import importlib.util
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING

from .._errors import os_error
from .._rules.tags import TagRange, tag_range
from . import keeper, records
from .timer import Timer

if TYPE_CHECKING:
    from collections.abc import Sequence

_DYING = 0.5  # seconds that a keeper may take to die of SIGKILL
_SAYING = 10.0  # seconds that a keeper may take from a closed channel to a word of it, or its death
_CLOSING = 10.0  # seconds that a keeper may take to kill what it has; it gives up before that
_TRACED = 1.0  # seconds for the tracer of a dead keeper to end
_TRY_BOUND = 60.0  # seconds for the keeper's answer on a very busy machine
_ABOVE_THE_KEEPERS = 16  # descriptors that the keeper's own numbers cannot overwrite


class Keeper:
    """A running keeper, as its host sees it."""

    def __init__(self, identity: tuple[object, ...]) -> None:
        self.identity = identity
        own_limit = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
        self.tags: TagRange = tag_range(own_limit, random.getrandbits(32))
        self.calls_left = self.tags.capacity if self.tags.stride else sys.maxsize
        self.calls_in_flight = 0
        self.lost = False
        self.pid = 0
        self.pidfd = -1
        self.umask = 0o022  # the host's, when the last call was begun
        self.idle: list[Channel] = []
        records.sweep_dead()
        record_fd, self.record = records.create(self.tags)
        try:
            self._start(record_fd)
        except BaseException as error:  # KeyboardInterrupt, too
            self._remove_record()
            if not isinstance(error, OSError):
                raise
            raise os_error(error, "the keeper could not be started") from None
        finally:
            os.close(record_fd)
        _all.add(self)

    def _start(self, record: int) -> None:
        self.lifeline, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._spawn(theirs.fileno(), record)
            theirs.close()
            self.pidfd = os.pidfd_open(self.pid)
        except BaseException:
            theirs.close()
            self.lifeline.close()
            if self.pid:
                os.waitpid(self.pid, 0)
            raise
        finally:
            theirs.close()

    def _spawn(self, lifeline: int, record: int) -> None:
        import fcntl

        fds: list[int] = []
        numbers = [os.getpid(), self.tags.first, self.tags.stride]
        try:
            for fd in (lifeline, record):
                # Their numbers must not be among those that they are to become.
                fds.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_THE_KEEPERS))
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", _program(), *map(str, numbers), self.record],
                {name: value for name, value in os.environb.items() if name},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                    (os.POSIX_SPAWN_DUP2, 0, 1),
                    (os.POSIX_SPAWN_DUP2, 0, 2),
                    (os.POSIX_SPAWN_DUP2, fds[0], keeper.LIFELINE_FD),
                    (os.POSIX_SPAWN_DUP2, fds[1], keeper.RECORD_FD),
                ],
                setsid=True,
                setsigdef=keeper.ALL_SIGNALS,
            )
        finally:
            for fd in fds:
                os.close(fd)

    def spawn_packet(
        self, argv: bytes, env: bytes, options: bytes, *, eager: bool
    ) -> tuple[bytes, int]:
        """A SPAWN message, and the memfd with its body, or -1 if the body fits in."""
        size = len(argv) + len(env) + len(options)
        large = size > keeper.PACKET_MAX - keeper.SPAWN_HEADER.size
        flags = keeper.LARGE * large | keeper.EAGER * eager
        header = keeper.SPAWN_HEADER.pack(
            keeper.SPAWN, flags, self.umask, len(argv), len(env), len(options)
        )
        body = b"".join((argv, env, options))
        if not large:
            return header + body, -1
        fd = memory_file("agentsup-request", body)
        return header, fd

    def orphans(self, index: int) -> list[int]:
        """What lives on of its spawn number ``index``, whose main process has ended."""
        mine = self._tags_of(index)
        tree = [pid for pid in keeper.children_of(self.pid) if mine.covers(keeper.tag_of(pid))]
        inits = [pid for pid in tree if _is_init(pid)]
        for pid in tree:  # which grows
            tree += keeper.children_of(pid)
        return [pid for pid in tree if pid not in inits]

    def owns(self, index: int, pid: int) -> bool:
        """Whether this process carries the tag of spawn number ``index``."""
        return self._tags_of(index).covers(keeper.tag_of(pid))

    def _tags_of(self, index: int) -> TagRange:
        return TagRange(self.tags.first - index * self.tags.stride, self.tags.stride, 1)

    @property
    def dead(self) -> bool:
        if self.lost:
            return True  # and the number of its pidfd may be another's
        # A channel has ended. A living keeper is about to say that it was refused; a dying one
        # closes its descriptors, in no order to rely on, before it is dead.
        poll = select.poll()
        poll.register(self.lifeline, select.POLLIN)
        poll.register(self.pidfd, select.POLLIN)
        ended = self.pidfd in dict(poll.poll(_SAYING * 1000))
        try:
            return ended or self.lifeline.recv(1, socket.MSG_DONTWAIT) != keeper.REFUSED
        except OSError:
            return True

    def close(self) -> None:
        """Let go of the lifeline, so that the keeper kills what it has and ends; wait for that."""
        self._end_lifeline()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGCONT)  # somebody may have stopped it
        if self._ended(_CLOSING):
            self._reap()
        else:
            self.give_up()

    def _end_lifeline(self) -> None:
        with contextlib.suppress(OSError):
            self.lifeline.shutdown(socket.SHUT_RDWR)  # in every copy that a fork may have of it
        self._close_sockets()

    def _close_sockets(self) -> None:
        self.lifeline.close()
        while self.idle:
            self.idle.pop().close()

    def forget(self) -> None:
        """In the child of a fork: it is the parent's."""
        self._close_sockets()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def _ended(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _reap(self) -> None:
        """Not for ever: while a process traces the keeper, its end is for that one to see."""
        deadline = time.monotonic() + _TRACED
        with contextlib.suppress(ChildProcessError):  # somebody waits for every child
            while not os.waitpid(self.pid, os.WNOHANG)[0] and time.monotonic() < deadline:
                time.sleep(0.01)  # nothing tells of it
        os.close(self.pidfd)
        self.pidfd = -1

    def give_up(self) -> None:
        """The keeper is dead, or does not answer: kill it, and what it can no longer kill."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self._end_lifeline()
        self._ended(_DYING)
        records.clear(self.record, self.tags)
        self._reap()

    def _remove_record(self) -> None:
        if self.record:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.record)


def _is_init(pid: int) -> bool:
    """Whether it is pid 1 of a namespace below ours."""
    _, _, rest = keeper.read_proc(f"/proc/{pid}/status").partition(b"NSpid:")
    return rest.partition(b"\n")[0].endswith(b"\t1")


def _program() -> str:
    """The compiled keeper, which takes half the time to start, if it is the source's (PEP 552)."""
    compiled = importlib.util.cache_from_source(keeper.__file__)
    try:
        source = os.stat(keeper.__file__)
        with open(compiled, "rb") as file:
            header = file.read(16)
    except OSError:
        return keeper.__file__
    made_from = struct.pack("<III", 0, int(source.st_mtime) & 0xFFFFFFFF, source.st_size)
    return compiled if header == importlib.util.MAGIC_NUMBER + made_from else keeper.__file__


class Channel:
    """The host's end of a connection that carries one call at a time.

    With it come a timer for the call's deadline and an epoll that holds both.
    """

    def __init__(self, kept: Keeper) -> None:
        self.timer: Timer | None = None
        self.epoll = select.epoll()
        try:
            self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except BaseException:
            self.epoll.close()
            raise
        try:
            self.fd = self.socket.fileno()
            self.timer = Timer()
            for fd in (self.fd, self.timer.fd):
                self.epoll.register(fd, select.EPOLLIN)
            self.socket.setblocking(False)
            send(kept.lifeline, keeper.OPEN, [theirs.fileno()])
        except BaseException:
            self.close()
            raise
        finally:
            theirs.close()

    def close(self) -> None:
        self.socket.close()
        self.epoll.close()
        if self.timer:
            self.timer.close()


def send(through: socket.socket, message: bytes, fds: list[int]) -> None:
    """Send without waiting; BlockingIOError if there is no room for it just now."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    through.sendmsg([message], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


# Buffers that are free to use: one for each thread that receives at the same time.
_buffers: list[bytearray] = []


def receive(channel: Channel) -> tuple[bytes, list[int]]:
    """The next message and its descriptors; BlockingIOError if there is none."""
    try:
        buffer = _buffers.pop()
    except IndexError:
        buffer = bytearray(keeper.PACKET_MAX)
    try:
        data, fds, _ = keeper.receive(channel.socket, buffer)
        return data, fds
    finally:
        _buffers.append(buffer)


_IDLE_CHANNELS = 32
_lock = threading.Lock()
_current: Keeper | None = None
_all: weakref.WeakSet[Keeper] = weakref.WeakSet()  # also those that only finish their calls
_LIMITS = [n for n in range(16) if n != resource.RLIMIT_RTTIME]  # all that Linux has


def _identity(status: bytes) -> tuple[object, ...]:
    """What tools inherit through the keeper. When it changes, a new keeper has to be started."""
    return (
        os.getpid(),
        status[status.find(b"CapInh:") : status.find(b"Seccomp:")],  # and no_new_privs
        os.getresuid(),
        os.getresgid(),
        os.getgroups(),
        [resource.getrlimit(n) for n in _LIMITS],
    )


def acquire() -> Keeper:
    """The keeper for one more call. Each is to be given back to :func:`release`."""
    global _current
    status = _own_status()
    identity = _identity(status)
    with _lock:
        kept = _current
        if kept is None or kept.identity != identity or not kept.calls_left:
            _current = Keeper(identity)
            if kept is not None:
                _retire(kept)
            kept = _current
        kept.umask = _umask(status)
        kept.calls_left -= 1
        kept.calls_in_flight += 1
        return kept


def connect(kept: Keeper) -> Channel:
    """A channel that carries no call; BlockingIOError if the keeper has no room just now."""
    try:
        return kept.idle.pop()
    except IndexError:
        return Channel(kept)


def release(kept: Keeper, idle: Channel | None) -> None:
    """A call that was begun with :func:`acquire` is over, and its channel can carry the next."""
    with _lock:
        if idle and kept is _current and len(kept.idle) < _IDLE_CHANNELS:
            kept.idle.append(idle)
        elif idle:
            idle.close()
        kept.calls_in_flight -= 1
        if kept is not _current:
            _retire(kept)


def shed(kept: Keeper) -> None:
    """``kept`` has no descriptors left: close the connections that carry no call."""
    with _lock:
        while kept.idle:
            kept.idle.pop().close()


def lose(kept: Keeper) -> None:
    """``kept`` is dead or does not answer. The first call to notice sees to what it has left."""
    global _current
    with _lock:
        if kept.lost:
            return
        kept.lost = True
        if _current is kept:
            _current = None
        kept.give_up()


def keepers() -> set[int]:
    """The numbers of the keepers of this process."""
    return {kept.pid for kept in _all if not kept.lost}


def shut_down() -> None:
    """End the idle keeper of this process; the next call starts a new one."""
    global _current
    with _lock:
        kept, _current = _current, None
        if kept is not None:
            _retire(kept)


def _retire(kept: Keeper) -> None:
    if not kept.calls_in_flight and not kept.lost:
        kept.lost = True
        kept.close()


def _forget_after_fork() -> None:
    """The child of a fork has no keeper: it must not hold the lifeline of its parent's."""
    global _current, _lock
    _lock = threading.Lock()
    for kept in list(_all):
        kept.forget()
    _all.clear()
    _current = None


os.register_at_fork(after_in_child=_forget_after_fork)
# Waited for, so that a host which is itself somebody's tool leaves no keeper behind for a moment.
atexit.register(shut_down)


def try_out(options: Sequence[str]) -> tuple[int, str]:
    """Have a program started that does not exist: at which step it fails (``exec`` if all the
    others can be done), and with which error."""
    kept = acquire()
    channel = None
    fds: list[int] = []
    try:
        channel = connect(kept)
        fds = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in ("/", os.devnull)]
        request = "\0".join(["targets=1", *options]).encode()
        packet, _ = kept.spawn_packet(b"/proc/agentsup\0agentsup", b"", request, eager=False)
        send(channel.socket, packet, fds)
        poll = select.poll()
        poll.register(channel.socket, select.POLLIN)
        poll.poll(_TRY_BOUND * 1000)
        data, _ = receive(channel)
        _, number = keeper.FAILED_BODY.unpack_from(data)
        return number, data[keeper.FAILED_BODY.size :].decode()
    except OSError as error:
        raise os_error(error, "the keeper cannot be reached") from None
    finally:
        for fd in fds:
            os.close(fd)
        release(kept, channel)


def _own_status() -> bytes:
    """Of /proc/self/status, which an error must not pass for another one."""
    fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _umask(status: bytes) -> int:
    """The process's umask, which umask(2) cannot tell without changing it."""
    _, _, rest = status.partition(b"Umask:")
    return int(rest[:6], 8) if rest else 0o022


def memory_file(name: str, content: bytes | bytearray) -> int:
    """A file in memory that holds ``content``, at its beginning (memfd_create(2))."""
    fd = os.memfd_create(name)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(fd, left) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd
