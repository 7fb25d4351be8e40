"""select.kqueue as macOS and FreeBSD have it, on Linux: enough of it for agentsup/_bsd.

Written from kqueue(2) of both systems. ``install`` makes this process look like one of them.
"""

from __future__ import annotations

import _socket
import errno
import os
import resource
import select
import signal
import sys
import time
from types import SimpleNamespace

from agentsup._linux.child import living_in
from agentsup._linux.keeper import is_zombie
from agentsup._linux.timer import Timer

FILTER_READ, FILTER_TIMER, FILTER_PROC = -1, -7, -5
EV_ADD, EV_DELETE, EV_ONESHOT = 1, 2, 0x10
NOTE_EXIT = 0x80000000

LINUX_ONLY = {
    os: ("pidfd_open", "memfd_create", "eventfd", "eventfd_write", "O_PATH", "waitid"),
    select: ("epoll", "EPOLLIN"),
    signal: ("pidfd_send_signal",),
    resource: ("prlimit", "RLIMIT_RTTIME"),
    _socket: ("MSG_CMSG_CLOEXEC", "SOCK_CLOEXEC"),
}


_epoll, _pidfd_open, _kill = select.epoll, os.pidfd_open, os.kill
_waitid, _P_PID, _PEEK = os.waitid, os.P_PID, os.WEXITED | os.WNOHANG | os.WNOWAIT


class Kqueue:
    """Each event is a descriptor in an epoll."""

    zombies_are_found = True  # by EVFILT_PROC

    def __init__(self):
        self._epoll = _epoll()
        self._events = {}  # (ident, filter) -> (what is watched, flags)

    def fileno(self):
        return self._epoll.fileno()

    def close(self):
        for key in list(self._events):
            self._forget(key)
        self._epoll.close()

    def __del__(self):
        self.close()

    def control(self, changes, max_events, timeout=None):
        for change in changes or ():
            key = change.ident, change.filter
            if change.flags & EV_DELETE:
                if key not in self._events:
                    raise FileNotFoundError(errno.ENOENT, "no such event")
                self._forget(key)
            else:
                assert change.flags & EV_ADD
                if key in self._events:
                    self._forget(key)
                self._events[key] = self._watch(change), change.flags
        if not max_events:
            return []
        ready = {fd for fd, _ in self._epoll.poll(timeout, max_events)}
        found = [key for key, (fd, _) in self._events.items() if fd in ready]
        for key in found:
            if self._events[key][1] & EV_ONESHOT:
                self._forget(key)
        return [SimpleNamespace(ident=ident, filter=filter) for ident, filter in found]

    def _watch(self, change):
        fd = change.ident
        if change.filter == FILTER_TIMER:
            timer = Timer()
            timer.set(time.monotonic() + change.data / 1000)
            fd = timer.fd
        elif change.filter == FILTER_PROC:
            assert change.fflags == NOTE_EXIT
            if is_zombie(change.ident) and not self.zombies_are_found:
                raise ProcessLookupError(errno.ESRCH, "no such process")
            fd = _pidfd_open(change.ident)
        self._epoll.register(fd, 1)
        return fd

    def _forget(self, key):
        fd, _ = self._events.pop(key)
        try:
            self._epoll.unregister(fd)
        except OSError:
            assert key[1] == FILTER_READ  # closed: it has left by itself
        if key[1] != FILTER_READ:
            os.close(fd)


def is_own_zombie(pid):
    try:
        return _waitid(_P_PID, pid, _PEEK) is not None
    except ChildProcessError:
        return False


def kill(pid, number):
    """kill(2): a group of zombies only does not exist for macOS; FreeBSD counts them.

    Orphans are left out anyhow: there, init reaps them at once.
    """
    if pid < 0 and not living_in(-pid):
        if not Kqueue.zombies_are_found:
            raise PermissionError(errno.EPERM, "not permitted")
        if not is_own_zombie(-pid):
            raise ProcessLookupError(errno.ESRCH, "no such process")
    _kill(pid, number)


def install(system):
    Kqueue.zombies_are_found = system != "darwin"
    select.kqueue = Kqueue
    select.kevent = lambda ident, filter, flags, fflags=0, data=0: SimpleNamespace(
        ident=ident, filter=filter, flags=flags, fflags=fflags, data=data
    )
    for name, value in [
        *(("FILTER_READ", FILTER_READ), ("FILTER_TIMER", FILTER_TIMER)),
        *(("FILTER_PROC", FILTER_PROC), ("NOTE_EXIT", NOTE_EXIT)),
        *(("EV_ADD", EV_ADD), ("EV_DELETE", EV_DELETE), ("EV_ONESHOT", EV_ONESHOT)),
    ]:
        setattr(select, f"KQ_{name}", value)
    os.kill = kill
    for name in ("selectors", "trio._core._io_epoll"):  # these go on as they are
        if name in sys.modules:
            sys.modules[name].select = SimpleNamespace(**vars(select))
    for module, names in LINUX_ONLY.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name in [name for name in sys.modules if name.startswith("agentsup")]:
        del sys.modules[name]
    sys.platform = system
