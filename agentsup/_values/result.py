"""What came of a call."""

from __future__ import annotations

import enum
import signal as signals
from typing import TYPE_CHECKING, Any

from attrs import frozen

from .output import Output

if TYPE_CHECKING:
    from typing import Self


class Outcome(enum.Enum):
    """Why a call ended."""

    EXITED = "exited"
    SIGNALED = "signaled"
    TIMED_OUT = "timed out"
    IDLE = "idle"
    HEARTBEAT_LOST = "heartbeat lost"
    OUTPUT_LIMIT = "output limit"
    MEMORY_LIMIT = "memory limit"
    CPU_LIMIT = "cpu limit"
    STOPPED = "stopped"


class Containment(enum.IntEnum):
    """How tightly a call's processes are held, from the weakest to the strongest."""

    PROCESS_GROUP = 1
    SUBREAPER = 2
    CGROUP = 3
    PID_NAMESPACE = 4


class Found(enum.Enum):
    """How a process that had to be killed was found to belong to its call."""

    #: below another process of the call
    DESCENDANT = "descendant"
    #: its parent was gone, and its inherited tag named the call
    ORPHAN = "orphan"
    #: it had shed its tag (which takes privileges), and no other call could own it
    UNATTRIBUTED = "unattributed"
    #: it had shed its tag, and its control group named the call
    GROUPED = "grouped"


@frozen
class Leftover:
    """A process other than the main one that had to be killed, or that was adopted."""

    pid: int
    argv: tuple[str, ...]
    found: Found
    #: False if it was adopted, or could not be killed: another user's process, or one that is
    #: stuck in the kernel.
    killed: bool = True


@frozen
class TakenStep:
    """A step of an escalation: what was done, and when, in seconds since the start."""

    action: str
    at: float


@frozen
class Usage:
    """What the main process and the descendants that it waited for used (getrusage(2)).

    ``max_rss`` is never less than what the keeper itself has mapped, some 10 MB: the kernel counts
    the moment before exec.
    """

    user_cpu: float = 0.0  #: seconds
    system_cpu: float = 0.0  #: seconds
    max_rss: int = 0  #: bytes, of the largest single process


@frozen
class Result:
    """What came of a call. Every field is there on every outcome."""

    argv: tuple[str, ...]
    name: str
    outcome: Outcome
    #: The exit status, or None if it did not exit by itself.
    exit_code: int | None
    #: The signal that ended the main process, or None. A number where Python has no name for it.
    signal: signals.Signals | int | None
    stdout: Output
    stderr: Output
    #: Seconds from the request to the end of the main process.
    duration: float
    #: Seconds spent waiting for the supervisor's ``max_concurrency`` before that.
    queued: float
    usage: Usage
    #: What was done to end it, in order.
    escalation: tuple[TakenStep, ...]
    #: Processes other than the main one that had to be killed. At most 64 are listed.
    leftovers: tuple[Leftover, ...]
    #: How many there were.
    leftover_count: int
    #: The level that was in force.
    containment: Containment
    pid: int | None
    #: What it left running with ``leftovers="adopt"``, when the result was made.
    adopted: tuple[Leftover, ...] = ()
    #: Limits of the control group that it ran into: ``"memory"``, ``"processes"``.
    limits_reached: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it exited by itself with status 0."""
        return self.outcome is Outcome.EXITED and self.exit_code == 0

    def check(self) -> Self:
        """Return the result itself, or raise :exc:`ToolFailed` with it unless it is :attr:`ok`."""
        if self.ok:
            return self
        from .._errors import ToolFailed

        raise ToolFailed(self)

    @property
    def reason(self) -> str:
        """Why and how it ended, in a few words."""
        if self.outcome is Outcome.EXITED:
            return f"exited with status {self.exit_code}"
        if self.outcome is Outcome.SIGNALED:
            return f"killed by {signal_name(self.signal)}"
        stopped_at = self.escalation[0].at if self.escalation else self.duration
        after = f"{self.outcome.value} after {stopped_at:.1f} s"
        if self.exit_code is not None:
            return f"{after}, then exited with status {self.exit_code}"
        return f"{after}, ended by {signal_name(self.signal)}" if self.signal else after

    def for_model(self, max_chars: int = 8000) -> str:
        """Text for a language model: the output, shortened in the middle, and how it ended.

        :param max_chars: the most characters to return, at least 200.
        """
        from .render import for_model

        return for_model(self, max_chars)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON types (output as text)."""
        from .render import to_dict

        return to_dict(self)


def signal_name(signal: signals.Signals | int | None) -> str:
    if signal is None:
        return "a signal"
    return signal.name if isinstance(signal, signals.Signals) else f"signal {signal}"
