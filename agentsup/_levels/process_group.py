"""Each call in a session and process group of its own, held by this process: no keeper.

It is what any POSIX system has.  It is the weakest level: a process that leaves the group (setsid,
setpgid, a shell with job control) is held by nothing any more, and when this process dies without
a word, nothing ends what it had started.

The number of a process group cannot be another's for as long as its leader has not been reaped.  So
the leader, the main process, stays a zombie until all is over, and killpg(2) is safe until then.
Nothing tells of the end of the others, which are not our children: while there are any after the
leader's end, they are looked for from time to time.

On Linux they are found in ``/proc`` and listed.  Elsewhere kill(2) says whether there are any, and
``result.leftovers`` stays empty.  FreeBSD counts zombies too, so there the leader is reaped at its
end.  The number is its group's then for as long as anybody is in that (POSIX), and not if there is
a process of this number.

Signals that this process ignores or blocks, the tool does too, as with :mod:`subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import math
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from .._errors import AgentsupError, UnsupportedPlatform
from .._platform import require_posix
from .._values.result import Containment, Found, Leftover, Usage
from . import Missing
from .hold import Hold, News, words

if sys.platform == "linux":
    from select import epoll as Epoll

    from .._linux.child import Child, living_in
    from .._linux.keeper import command_line
    from .._linux.timer import Timer
elif sys.platform != "win32":
    from .._bsd.kqueue import Child, Epoll, Timer

if TYPE_CHECKING:
    from .._calls.spec import Spec

KILL_BOUND = 5.0  # seconds until a group that will not die is reported
FIRST_LOOK, LONGEST_PAUSE = 0.001, 0.1  # seconds between two looks at what is left of a group
REAP_BOUND = 0.5  # seconds to wait for the end of a call that was dropped
LISTED_MAX = 64

_ARGUMENTS = {"limit": "limits", "leaf": "limits", "uid": "user", "gid": "group", "groups": "user"}


def missing() -> Missing | None:
    try:
        require_posix()
    except UnsupportedPlatform as error:
        return Missing(str(error), "on Windows, use WSL 2")
    return None


def options() -> tuple[str, ...]:
    return ()


def refuse(spec: Spec) -> None:
    """UnsupportedPlatform that names the argument, if the call needs what only a keeper can do."""
    if spec.terms.adopt:
        _refuse("leftovers='adopt'")
    if spec.options:
        step = spec.options.partition(b"=")[0].decode()
        _refuse(_ARGUMENTS.get(step, step))


def _refuse(wish: str) -> None:
    level = f"containment={Containment.PROCESS_GROUP.name}"
    where = "" if sys.platform == "linux" else f", the only one on {sys.platform}"
    raise UnsupportedPlatform(f"{wish} takes a keeper, and there is none with {level}{where}")


class ProcessGroup(Hold):
    """A main process and what stays in its group."""

    def __init__(self, spec: Spec) -> None:
        refuse(spec)
        self._spec = spec
        self._connected = False
        self._targets = b""
        self._unheard: News | None = None
        self._main: Child | None = None  # until its end has been seen
        self._exited = False
        self._reaped = False
        self._kill_deadline: float | None = None  # of a group that is being killed
        self._pause = FIRST_LOOK
        self._found: dict[int, tuple[str, ...]] = {}  # who had to be killed: pid -> argv

    # --- starting -----------------------------------------------------------------------------

    def prepare(self, fds: list[int], targets: bytes, *, eager: bool) -> None:
        self._targets = targets

    def connect(self) -> bool:
        if self._connected:
            return False
        self.epoll = Epoll()
        self.timer = Timer()
        self.epoll.register(self.timer.fd, select.POLLIN)
        self._connected = True
        return True

    def start(self, fds: list[int]) -> bool:
        _reap_the_dropped()
        try:
            self.pid = self._spawn(dict(zip(self._targets.split(b","), fds, strict=True)))
            self._main = Child(self.pid)
            _held.add(self)
            self.fd = self._main.fd
            self.epoll.register(self.fd, select.POLLIN)
            self._unheard = News.STARTED
        except OSError as error:
            self._unheard = self._on_failure(error)
        self.due = 0.0
        return True

    def _spawn(self, streams: dict[bytes, int]) -> int:
        spec = self._spec
        process = subprocess.Popen(
            spec.argv,
            executable=spec.program if b"/" in spec.program else b"./" + spec.program,
            stdin=streams.get(b"0", subprocess.DEVNULL),
            stdout=streams[b"1"],
            stderr=streams[b"2"],
            cwd=None if spec.cwd == b"." else spec.cwd,
            env=dict(pair.split(b"=", 1) for pair in spec.env.split(b"\0") if pair),
            start_new_session=True,
        )
        process.returncode = 0  # it is not subprocess's to reap
        return process.pid

    def _on_failure(self, error: OSError) -> News:
        if self.pid is not None:
            if isinstance(error, ProcessLookupError):
                return self._on_reaped_elsewhere()
            self._exited = True  # it runs, but its end would not be seen
            self.signal_tree(signal.SIGKILL)
            self._reap()
        steps = {None: "start", self._spec.cwd: "cwd"}
        self.failure = error.errno or errno.EIO, steps.get(error.filename, "exec")
        return self._end(News.FAILED)

    # --- what happens -------------------------------------------------------------------------

    def news(self) -> News | None:
        self.due = math.inf
        if self._unheard:
            news, self._unheard = self._unheard, None
            return news
        if self.over:
            return None
        try:
            return self._look()
        except ChildProcessError:
            return self._on_reaped_elsewhere()

    def _look(self) -> News | None:
        first = not self._exited
        if self._main and self._main.has_ended():
            self._exited = True
            self._stop_watching()
        if self._kill_deadline is not None:
            if self._exited and first:
                self.due = 0.0  # for what comes of the others
                return News.LEFT
            return self._look_at_killed(self._kill_deadline)
        if not self._exited:
            return None
        if not self._others():
            self._reap()
            return self._end(News.EXITED if first else News.EMPTY)
        self._look_again()
        return News.LEFT if first else None

    def _look_at_killed(self, deadline: float) -> News | None:
        others = self._others()
        killable = [pid for pid in others if _may_signal(pid)]
        main_lives = self._main is not None and _may_signal(self._main.pid)
        if (killable or main_lives) and time.monotonic() < deadline:
            self.signal_tree(signal.SIGKILL)
            self._look_again()
            return None
        self._reap()
        self.leftover_count = len(self._found)
        self.leftovers = tuple(
            Leftover(pid, argv, Found.DESCENDANT, killed=pid not in others)
            for pid, argv in list(self._found.items())[:LISTED_MAX]
        )
        return self._end(News.KILLED)

    def _on_reaped_elsewhere(self) -> News:
        self._reaped = True  # its number may be another's, which signal_tree knows
        self.signal_tree(signal.SIGKILL)
        self.error = AgentsupError(
            "something else in this process has waited for the program, so that nobody knows how "
            "it has ended: waitpid(-1), or SIGCHLD ignored"
        )
        return self._end(News.LOST)

    def _look_again(self) -> None:
        self.due = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _end(self, news: News) -> News:
        self._let_go()
        self.over = True
        return news

    # --- the group ----------------------------------------------------------------------------

    def _others(self) -> list[int]:
        """Who lives in the group now, but for the main process.

        Where they cannot be listed, the group itself stands for them, as in kill(2).
        """
        assert self.pid is not None
        if sys.platform == "linux":
            others = [pid for pid in living_in(self.pid) if pid != self.pid]
            if self._kill_deadline is not None:
                for pid in others:
                    if pid not in self._found:
                        self._found[pid] = words(command_line(pid))
            return others
        if sys.platform != "darwin":
            self._reap()
        if self._reaped and _exists(self.pid):
            return []
        return [-self.pid] if _exists(-self.pid) else []

    def signal_main(self, number: int) -> None:
        if not self._main:
            raise ProcessLookupError(errno.ESRCH, "the process has ended")
        self._main.send_signal(number)

    def follow(self, pid: int) -> None:
        """Its end could be seen, but nothing would hold the rest after that of the leader."""
        self._unheard = News.STRANGER
        self.due = 0.0

    def owns(self, pid: int) -> bool:
        try:
            return os.getpgid(pid) == self.pid
        except ProcessLookupError:
            return False

    def signal_tree(self, number: int) -> None:
        if self.pid is None or self.over or (self._reaped and not self._others()):
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
            if number not in _STOPS:
                # One that is stopped has to run to act on it, as in systemd.kill(5).
                os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self.pid is None or self.over or self._kill_deadline is not None:
            return
        self._kill_deadline = time.monotonic() + KILL_BOUND
        self.signal_tree(signal.SIGSTOP)  # none forks or ends while they are listed
        self._others()
        self.signal_tree(signal.SIGKILL)
        self._pause = FIRST_LOOK
        self._look_again()

    # --- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        self.signal_tree(signal.SIGKILL)
        if self._main and not self.over:
            poll = select.poll()
            poll.register(self._main.fd, select.POLLIN)
            poll.poll(REAP_BOUND * 1000)
            with contextlib.suppress(ChildProcessError):
                self._exited = self._main.has_ended()
        if self.pid is not None and not self.over:
            with contextlib.suppress(ChildProcessError):
                self._reap()
            self._end(News.KILLED)
        if self._connected:
            self._connected = False
            self.timer.close()
            self.epoll.close()

    def _reap(self) -> None:
        if self.pid is None or self._reaped or not self._exited:
            return
        _, self.status, used = os.wait4(self.pid, 0)
        self._reaped = True
        self.usage = Usage(used.ru_utime, used.ru_stime, used.ru_maxrss * _RSS_UNIT)

    def _let_go(self) -> None:
        self._stop_watching()
        _held.discard(self)
        if self.pid is not None and not self._reaped:
            _dropped.add(self.pid)

    def _stop_watching(self) -> None:
        if self._main:
            self.epoll.unregister(self.fd)
            self._main.close()
            self._main, self.fd = None, -1


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return pid > 0  # for a group of zombies, macOS says that
    return True


def _may_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False
    except ProcessLookupError:
        pass
    return True


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss
_held: set[ProcessGroup] = set()
_dropped: set[int] = set()  # children that did not die in time


def children() -> set[int]:
    """Of this process: those whose status is awaited here."""
    return {group.pid for group in _held if group.pid is not None} | _dropped


def _reap_the_dropped() -> None:
    for pid in list(_dropped):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
        _dropped.discard(pid)


def _kill_all() -> None:
    for group in list(_held):
        group.close()


def _forget_after_fork() -> None:
    """What was started is the parent's."""
    _held.clear()
    _dropped.clear()


atexit.register(_kill_all)
if sys.platform != "win32":  # there, missing() is all that works
    _STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
    os.register_at_fork(after_in_child=_forget_after_fork)
