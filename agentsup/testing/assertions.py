"""Assertions about results that say, where they fail, all that the result tells."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from .._values.escalation import to_signal
from .._values.result import Outcome, Result, signal_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._values.escalation import SignalLike

_BY_ITSELF = (Outcome.EXITED, Outcome.SIGNALED)
_OUTPUT_ROOM = 8000  # characters
_ARGV_ROOM = 300
_LEFTOVERS_SHOWN = 10


def assert_exited(result: Result, status: int = 0) -> Result:
    """It ended by itself, with this exit status. Returns the result."""
    __tracebackhide__ = True
    wanted = f"it to exit by itself with status {status}"
    return _must(
        result, wanted, lambda: result.outcome is Outcome.EXITED and result.exit_code == status
    )


def assert_signaled(result: Result, signal: SignalLike | None = None) -> Result:
    """It was killed by this signal, or by any, and not by its supervisor. Returns the result."""
    __tracebackhide__ = True
    number = None if signal is None else to_signal("signal", signal)
    return _must(
        result,
        f"it to be killed by {signal_name(number)}, not by its supervisor",
        lambda: result.outcome is Outcome.SIGNALED and number in (None, result.signal),
    )


def assert_stopped(result: Result, outcome: Outcome | None = None) -> Result:
    """It was ended by its supervisor, for this reason or any. Returns the result."""
    __tracebackhide__ = True
    if outcome in _BY_ITSELF:
        raise ValueError(
            f"outcome is why it was stopped, which {outcome} is not: use assert_exited or "
            "assert_signaled"
        )
    wanted = "stopped" if outcome is None else f"stopped ({outcome.value})"
    return _must(
        result,
        f"it to be {wanted} by its supervisor",
        lambda: result.outcome not in _BY_ITSELF and outcome in (None, result.outcome),
    )


def assert_nothing_left(result: Result) -> Result:
    """No other process of it had to be killed, and none was adopted. Returns the result."""
    __tracebackhide__ = True
    return _must(
        result,
        "it to leave no process behind",
        lambda: not result.leftover_count and not result.adopted,
    )


def _must(result: Result, wanted: str, holds: Callable[[], bool]) -> Result:
    __tracebackhide__ = True
    if not isinstance(result, Result):
        raise TypeError(f"result must be an agentsup.Result, not {result!r}")
    if not holds():
        raise AssertionError("\n".join(_describe(result, wanted)))
    return result


def _describe(result: Result, wanted: str) -> Iterator[str]:
    yield f"{result.name}: {result.reason}; expected {wanted}"
    yield f"command: {_command(result.argv)}"
    queued = f", after {result.queued:.2f} s in line" if result.queued else ""
    yield f"duration: {result.duration:.2f} s{queued}"
    if result.escalation:
        steps = ", ".join(f"{step.action} at {step.at:.2f} s" for step in result.escalation)
        yield f"escalation: {steps}"
    if result.limits_reached:
        yield f"limits reached: {', '.join(result.limits_reached)}"
    if result.leftover_count or result.adopted:
        yield f"left behind: {result.leftover_count}, and {len(result.adopted)} adopted"
        for leftover in (*result.leftovers, *result.adopted)[:_LEFTOVERS_SHOWN]:
            yield f"  {leftover.pid} {_command(leftover.argv)} ({leftover.found.value})"
    yield f"output:\n{result.for_model(_OUTPUT_ROOM)}"


def _command(argv: tuple[str, ...]) -> str:
    line = shlex.join(argv)
    return line if len(line) <= _ARGV_ROOM else f"{line[:_ARGV_ROOM]} …"
