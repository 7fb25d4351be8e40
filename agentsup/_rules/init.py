"""What does PID 1 do with a signal, with the end of a process, and when is it over?

=========  ================================  ===================================================
state      event                             what follows
=========  ================================  ===================================================
RUNNING    a signal                          to the child or its group: it, or its rewrite
RUNNING    TTIN, TTOU, or rewritten to 0     (dropped)
RUNNING    CONT                              the terminal goes to the child first
RUNNING    the child has stopped             Do.SUSPEND if a shell waits for us: it sees one job
RUNNING    the child has ended               FINISHED; or where others live on and are to be killed:
                                             TERM to them → ENDING
ENDING     HUP, INT, QUIT, TERM; grace over  KILL to them → KILLING
KILLING    one more of them was reaped       KILL to what that one had started meanwhile
KILLING    time is up                        FINISHED: they are beyond us
(both)     nobody is left                    FINISHED
=========  ================================  ===================================================

CHLD is no event: it says that there is something to reap.  The exit status is the child's, or 128
and the signal that ended it; 0 in place of one that was expected.  All times are seconds on one
monotonic clock.
"""

from __future__ import annotations

import enum
import signal
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

KILL_BOUND = 5.0
SIGNALED = 128
_ASKS = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}
# The terminal sends them to whoever touches it from the background: to us, if we say something.
_DROPPED: dict[int, int] = {signal.SIGTTIN: 0, signal.SIGTTOU: 0}


class State(enum.Enum):
    RUNNING = enum.auto()
    ENDING = enum.auto()
    KILLING = enum.auto()
    FINISHED = enum.auto()


class To(enum.Enum):
    CHILD = enum.auto()
    GROUP = enum.auto()  # the child's
    LEFTOVERS = enum.auto()  # all that live on after the child


class Send(NamedTuple):
    number: int
    to: To


class Do(enum.Enum):
    LEND_TERMINAL = enum.auto()
    SUSPEND = enum.auto()  # take the terminal back, and stop


Action: TypeAlias = "Send | Do"


class InitRule:
    """Feed it what happens, and carry out what each event returns, in order.

    :param rewrites: what is sent in place of a signal; 0 for nothing.
    :param expected: exit statuses that become 0.
    :param group: signal the child's process group.
    :param grace: seconds for what outlives the child; None to let it live.
    :param job: a shell waits for us, and goes on when we stop.
    """

    def __init__(
        self,
        rewrites: Mapping[int, int],
        expected: Container[int] = (),
        *,
        group: bool = False,
        grace: float | None = None,
        job: bool = False,
    ) -> None:
        self.state = State.RUNNING
        self.status: int | None = None
        #: When :meth:`tick` is due.
        self.deadline: float | None = None
        self._rewrites: dict[int, int] = {**_DROPPED, **rewrites}
        self._expected = expected
        self._to = To.GROUP if group else To.CHILD
        self._grace = grace
        self._job = job
        self._suspended = False

    def received(self, now: float, number: int) -> list[Action]:
        """A signal has come."""
        if self.state is State.ENDING and number in _ASKS:
            return self._kill(now)
        sent = self._rewrites.get(number, number)
        if self.state is not State.RUNNING or not sent:
            return []
        if sent != signal.SIGCONT:
            return [Send(sent, self._to)]
        # The terminal has stopped the whole group.
        to, self._suspended = To.GROUP if self._suspended else self._to, False
        return [Do.LEND_TERMINAL, Send(sent, to)]

    def stopped(self) -> list[Action]:
        """The child has."""
        self._suspended = self._job
        return [Do.SUSPEND] if self._job else []

    def ended(self, code: int) -> None:
        """The child has, with this exit code; below 0 for a signal. :meth:`reaped` follows."""
        status = SIGNALED - code if code < 0 else code
        self.status = 0 if status in self._expected else status

    def reaped(self, now: float, alone: bool) -> list[Action]:
        """All that had ended; ``alone``: no child is left."""
        if self.status is None or self.state is State.FINISHED:
            return []
        if alone or self._grace is None:
            self._enter(State.FINISHED, None)
        elif self.state is State.RUNNING:
            self._enter(State.ENDING, now + self._grace)
            return [Send(signal.SIGTERM, To.LEFTOVERS), Send(signal.SIGCONT, To.LEFTOVERS)]
        elif self.state is State.KILLING:
            return [Send(signal.SIGKILL, To.LEFTOVERS)]
        return []

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        if self.deadline is None or now < self.deadline:
            return []
        if self.state is State.ENDING:
            return self._kill(now)
        self._enter(State.FINISHED, None)
        return []

    def _kill(self, now: float) -> list[Action]:
        self._enter(State.KILLING, now + KILL_BOUND)
        return [Send(signal.SIGKILL, To.LEFTOVERS)]

    def _enter(self, state: State, deadline: float | None) -> None:
        self.state = state
        self.deadline = deadline


# --- as they are written --------------------------------------------------------------------------


def parse_signal(text: str) -> int:
    """``TERM``, ``SIGTERM``, ``15`` or ``RTMIN+3``.

    :raises ValueError: it is no signal; the message says what one looks like.
    """
    name, plus, offset = text.upper().removeprefix("SIG").partition("+")
    if text.isdecimal():
        number = int(text)
    elif plus and not (name == "RTMIN" and offset.isdecimal()):
        number = 0
    else:
        number = getattr(signal, f"SIG{name}", 0) if name.isalnum() else 0
        number += int(offset or 0) if number else 0
    if number not in signal.valid_signals():
        raise ValueError(f"{text!r} is not a signal: write TERM, SIGTERM, 15, RTMIN+3, …")
    return int(number)


def parse_rewrite(text: str) -> tuple[int, int]:
    """``TERM:QUIT``; ``TERM:0`` for a signal that is not passed on.

    :raises ValueError: it is no rewrite; the message says why.
    """
    before, colon, after = text.partition(":")
    if not colon:
        raise ValueError(f"{text!r} is not a rewrite: write TERM:QUIT, or TERM:0 to drop it")
    number = parse_signal(before)
    if number in (signal.SIGKILL, signal.SIGSTOP):
        raise ValueError(f"{text!r}: no process can catch {before}")
    if number == signal.SIGCHLD:
        raise ValueError(f"{text!r}: {before} says that a child has ended, and is never passed on")
    return number, 0 if after == "0" else parse_signal(after)
