"""The tree of a program that is none: a script in the place of a process.

The descriptors are real ones, so that all that reads and writes them is what it is for a process:
what is printed goes through the pipes that the call has made.  A signal is a call of a method.  The
script goes on when the call asks for news: at ``due``, or when a pipe has room or something to be
read, which the call's epoll tells.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import itertools
import math
import os
import resource
import select
import selectors
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from attrs import evolve

from .._errors import AgentsupError
from .._levels.hold import Hold, News, text
from .._rules.call import State
from .._values.result import Found, Leftover, Outcome
from .script import KILLED_WITH

if sys.platform == "linux":
    from select import epoll as Epoll

    from .._linux.timer import Timer
else:
    from .._bsd.kqueue import Epoll, Timer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._calls.call import Call
    from .._rules.call import CallRule
    from .script import Answer, Script

#: No system has such a pid, so that nobody gets a signal by mistake.
_pids = itertools.count(10_000_001)
_READ_SIZE = 64 * 1024
_NOT_READY_PAUSE = 0.001
_LAST = (News.FAILED, News.EXITED, News.EMPTY, News.KILLED, News.LOST)
#: A process lives through these. One that is stopped is not stopped here.
_HARMLESS = (
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),
    *(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
)


class ScriptedHold(Hold):
    """A main process and its leftovers, of which there are only the descriptors.

    :param choose: the script for this call; may raise.
    """

    def __init__(self, call: Call, choose: Callable[[Call], Script]) -> None:
        self._call = call
        self._choose = choose
        self._script: Script
        self._targets: list[int] = []
        self._connected = False
        self._resources = contextlib.ExitStack()
        self._fds: dict[int, int] = {}  # the number that the program has it as → ours
        self._unheard: collections.deque[News] = collections.deque()
        self._lives = False
        self._others: dict[int, tuple[str, ...]] = {}  # pid → argv
        self._pens: list[Pen] = []
        self._ear: Ear | None = None
        self._end_at: float | None = None
        self._outcome: Outcome | None = None
        self._ahead = 0.0  # seconds that have passed for the call only
        self._ignored = set[int](_HARMLESS)
        self._reactions: dict[int, Script] = {}
        self.voice = os.getpid()

    # --- starting -----------------------------------------------------------------------------

    def prepare(self, fds: list[int], targets: bytes, *, eager: bool) -> None:
        self._targets = [int(number) for number in targets.split(b",")]
        self._script = self._choose(self._call)
        self._check(self._script)

    def _check(self, script: Script) -> None:
        """Whether it can come true with this call."""
        spec, terms = self._call.spec, self._call.spec.terms
        what = f"{' '.join(map(text, spec.argv))!r} is scripted to"
        for number in itertools.chain(
            *(one.writes for one in (script, *script.on_signal.values()))
        ):
            if number not in self._targets:
                raise ValueError(f"{what} write to descriptor {number}, which it is not given")
        cpu_limit = b"limit=%d:" % resource.RLIMIT_CPU in spec.options
        needed = {
            Outcome.TIMED_OUT: (terms.timeout is not None, "timeout"),
            Outcome.IDLE: (terms.idle_timeout is not None, "idle_timeout"),
            Outcome.OUTPUT_LIMIT: (terms.output_limit is not None, "limit of its output"),
            Outcome.CPU_LIMIT: (cpu_limit, "limit of CPU seconds"),
        }
        if script.outcome in needed:
            given, name = needed[script.outcome]
            if not given:
                raise ValueError(f"{what} end by {script.outcome}, but the call has no {name}")

    def connect(self) -> bool:
        if self._connected:
            return False
        self.epoll = Epoll()
        self._resources.callback(self.epoll.close)
        self.timer = timer = Timer()
        self._resources.callback(timer.close)
        self._selector = self._resources.enter_context(selectors.DefaultSelector())
        self.fd = self._selector.fileno()
        for fd in (self.fd, timer.fd):
            self.epoll.register(fd, select.POLLIN)
        self._connected = True
        return True

    def start(self, fds: list[int]) -> bool:
        for number, fd in zip(self._targets, fds, strict=True):
            self._fds[number] = os.dup(fd)
        if isinstance(self._script.raises, int):
            self.failure = self._script.raises, "exec"
            self._tell(News.FAILED)
            return True
        self.pid = next(_pids)
        self._lives = True
        self._outcome = self._script.outcome
        self._tell(News.STARTED)
        self._begin(self._script)
        return True

    def _begin(self, script: Script) -> None:
        """Do that from now on."""
        self._drop_pipes()
        self._script, self._end_at = script, None
        self._ignored.update(script.ignores)
        self._reactions.update(script.on_signal.items())
        self._others |= {next(_pids): words for words in script.leftovers}
        now = time.monotonic()
        printed = {1: script.stdout, 2: script.stderr, **script.writes}
        self._pens = [
            Pen(self._fds[fd], parts, now, self._selector) for fd, parts in printed.items()
        ]
        if script.notify and (fd := self._connect_notices()):
            self._pens.append(Pen(fd, script.notify, now, self._selector))
        if script.answer and 0 in self._fds:
            self._ear = Ear(self._fds[0], script.answer, self._selector)
        self._wake()

    def _connect_notices(self) -> int | None:
        """As in sd_notify(3), it says nothing where nobody listens."""
        prefix = b"NOTIFY_SOCKET="
        pairs = self._call.spec.env.split(b"\0")
        path = next((pair[len(prefix) :] for pair in pairs if pair.startswith(prefix)), None)
        if path and -1 not in self._fds:
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            with connected, contextlib.suppress(OSError):
                connected.connect(path)
                self._fds[-1] = connected.detach()
        return self._fds.get(-1)

    # --- what happens -------------------------------------------------------------------------

    def news(self) -> News | None:
        self.due = math.inf
        if self._lives and not self._unheard:
            self._go_on(time.monotonic())
        news = self._unheard.popleft() if self._unheard else None
        if self._unheard or (news and self._lives):
            self.due = 0.0
        self.over = self.over or news in _LAST
        return news

    def _tell(self, news: News) -> None:
        self._unheard.append(news)
        self._wake()

    def _wake(self) -> None:
        self.due = 0.0
        self._call.extend(0.0)  # by no time; but it looks when it is due

    def _go_on(self, now: float) -> None:
        """Do what is to be done by now, and see when there is more."""
        if self._ear:
            self._pens[0].add(self._ear.hear(), now)
        for pen in self._pens:
            pen.write(now)
        self.due = min(one.due for one in (*self._pens, self._ear) if one)
        if self.due < math.inf or any(pen.blocked for pen in self._pens) or self._listens:
            return
        if self._end_at is None:  # its end comes after its output has been read
            self._end_at = now + self._script.after
        elif now >= self._end_at:
            return self._come_to_its_end(now)
        self.due = self._end_at

    @property
    def _listens(self) -> bool:
        return self._ear is not None and not self._ear.at_end

    def _come_to_its_end(self, now: float) -> None:
        script = self._script
        if script.outcome in KILLED_WITH:
            if script.outcome is Outcome.MEMORY_LIMIT:
                self.limits_reached = ("memory",)
            self._end(KILLED_WITH[script.outcome])
        elif script.outcome is not None:
            self._pass_time(script.outcome, now)
        elif isinstance(script.raises, AgentsupError):
            self.error = script.raises
            self._lives = False
            self._drop_pipes()
            self._tell(News.LOST)
        else:
            self._end(script.exit_code << 8 if script.signal is None else script.signal)

    def _pass_time(self, outcome: Outcome, now: float) -> None:
        """Go on to when the call does the next thing; a rule knows the time only by being told."""
        rule = self._call.rule
        if outcome is Outcome.HEARTBEAT_LOST and rule.deadline is None:
            self.due = now + _NOT_READY_PAUSE  # until then, a service is not expected to beat
        elif rule.state is State.RUNNING:
            rule.began(now - _bound(rule, outcome, now))
            rule.stop(now, outcome)
            self.due = 0.0
        elif rule.state is State.STOPPING and rule.deadline is not None:
            self._ahead = max(0.0, rule.deadline - now)
            rule.tick(rule.deadline)
            self.due = 0.0

    # --- its end ------------------------------------------------------------------------------

    def _end(self, status: int) -> None:
        """The main process ends, with a status as in wait(2)."""
        self.status = status
        self._lives = False
        self._call.rule.started_at -= self._ahead
        self._close_fds()
        self._tell(News.LEFT if self._others else News.EXITED)

    def _others_end(self, pids: Iterable[int], number: int) -> None:
        for pid in list(pids):
            del self._others[pid]
            if pid == self.followed:
                self.followed_status = number
                self._tell(News.ENDED)
        if not self._others and not self._lives:
            self._tell(News.EMPTY)

    def signal_main(self, number: int) -> None:
        if self.followed in self._others:
            if number not in self._ignored:
                self._others_end([self.followed], number)
        elif self._lives:
            self._get(number)
        else:
            raise ProcessLookupError(errno.ESRCH, "the process has ended")

    def signal_tree(self, number: int) -> None:
        if self._others and number not in self._ignored:
            self._others_end(self._others, number)
        if self._lives:
            self._get(number)

    def _get(self, number: int) -> None:
        """The main process gets a signal."""
        if number == signal.SIGKILL:
            self._end(number)
        elif number in self._reactions:
            reaction = self._reactions[number]
            if self._outcome and reaction.after == math.inf:  # which nobody waits for
                reaction = evolve(
                    reaction,
                    outcome=self._outcome,
                    after=0.0,
                    exit_code=0,
                    signal=None,
                    raises=None,
                )
            self._begin(reaction)
        elif number not in self._ignored:
            self._end(number)

    def kill(self) -> None:
        if self.pid is None or not (self._lives or self._others):
            return
        if self._lives:
            self.status = signal.SIGKILL
            self._call.rule.started_at -= self._ahead
        self.leftovers = tuple(
            Leftover(pid, words, Found.ORPHAN) for pid, words in self._others.items()
        )
        self.leftover_count = len(self.leftovers)
        self._lives = False
        self._others.clear()
        self._close_fds()
        self._tell(News.KILLED)

    def follow(self, pid: int) -> None:
        if pid in self._others:
            self.followed, self.followed_status = pid, None
        self._tell(News.FOLLOWED if pid in self._others else News.STRANGER)

    def adopted(self) -> tuple[Leftover, ...]:
        return tuple(
            Leftover(pid, words, Found.ORPHAN, killed=False) for pid, words in self._others.items()
        )

    def owns(self, pid: int) -> bool:
        return pid in (self.pid, self.voice) or pid in self._others

    def close(self) -> None:
        self._lives = False
        self._close_fds()
        self._resources.close()

    def _close_fds(self) -> None:
        self._drop_pipes()
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _drop_pipes(self) -> None:
        for pen in self._pens:
            pen.drop()
        if self._ear:
            self._ear.drop()
        self._pens, self._ear = [], None


class Pen:
    """Writes what is printed into one descriptor, each part in its time."""

    def __init__(
        self,
        fd: int,
        printed: Iterable[bytes | float],
        now: float,
        selector: selectors.BaseSelector,
    ) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._selector = selector
        self._parts = collections.deque(printed)
        self._at = now  # when the next part is to be written
        self.blocked = False

    @property
    def due(self) -> float:
        return self._at if self._parts and not self.blocked else math.inf

    def add(self, data: bytes, now: float) -> None:
        if data:
            self._parts.append(data)
            self._at = max(self._at, now)

    def write(self, now: float) -> None:
        """Until there is a pause, or no room."""
        self.drop()
        while self._parts and self._at <= now:
            part = self._parts.popleft()
            if not isinstance(part, bytes):
                self._at += part
                self._parts.appendleft(b"")  # a pause at the end is one, too
            elif left := part[self._written(part) :]:
                self._parts.appendleft(left)
                return self._wait()
        return None

    def _written(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data) if data else 0
        except BlockingIOError:
            return 0

    def _wait(self) -> None:
        self.blocked = True
        self._selector.register(self._fd, selectors.EVENT_WRITE)

    def drop(self) -> None:
        if self.blocked:
            self.blocked = False
            self._selector.unregister(self._fd)


class Ear:
    """Reads the lines of one descriptor, and has them answered."""

    def __init__(self, fd: int, answer: Answer, selector: selectors.BaseSelector) -> None:
        self._fd = fd
        self._answer = answer
        self._selector = selector
        self._line = b""  # what has come of one
        self.at_end = False
        self._watched = True
        try:
            selector.register(fd, selectors.EVENT_READ)
        except PermissionError:  # a file, which can be read at any time
            self._watched = False

    @property
    def due(self) -> float:
        return math.inf if self._watched or self.at_end else 0.0

    def hear(self) -> bytes:
        """What is to be printed for what has come."""
        if self.at_end or (self._watched and not self._is_readable()):
            return b""
        data = os.read(self._fd, _READ_SIZE)
        *lines, self._line = (self._line + data).split(b"\n")
        lines = [line + b"\n" for line in lines]
        if not data:
            self.drop()
            self.at_end = True
            lines += [self._line] if self._line else []
        return b"".join(map(self._answer_to, lines))

    def _answer_to(self, line: bytes) -> bytes:
        answer = self._answer(line)
        return answer.encode() if isinstance(answer, str) else answer or b""

    def _is_readable(self) -> bool:
        return any(key.fd == self._fd for key, _ in self._selector.select(0))

    def drop(self) -> None:
        if self._watched and not self.at_end:
            self._selector.unregister(self._fd)


def _bound(rule: CallRule, outcome: Outcome, now: float) -> float:
    """How long a call takes that ends so."""
    bounds = {
        Outcome.TIMED_OUT: rule.terms.timeout,
        Outcome.IDLE: rule.terms.idle_timeout,
        Outcome.HEARTBEAT_LOST: rule.terms.heartbeat or (rule.deadline or now) - now,
    }
    return bounds.get(outcome) or 0.0
