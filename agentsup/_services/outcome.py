"""How a run has ended: for the restart rule, and for its post-stop hooks."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from .._values.restart import Ending
from .._values.result import Outcome, signal_name

if TYPE_CHECKING:
    from .._calls.call import Call
    from .._values.restart import RestartPolicy


@frozen
class Failure:
    """Why a run was ended, or has come to nothing."""

    reason: str
    #: As systemd.exec(5) has it for ``SERVICE_RESULT``.
    result: str = "exit-code"

    @property
    def ending(self) -> Ending:
        """Of a run in which nothing was started."""
        return Ending(failure=self.reason)


_BROKEN_LIMITS = {
    Outcome.HEARTBEAT_LOST: "watchdog",
    Outcome.MEMORY_LIMIT: "oom-kill",
    Outcome.OUTPUT_LIMIT: "resources",
    Outcome.CPU_LIMIT: "signal",
}


def broken_limit(call: Call) -> Failure | None:
    result = call.result()
    name = _BROKEN_LIMITS.get(result.outcome)
    return Failure(result.reason, name) if name else None


def end_of_main(call: Call) -> Ending:
    """How the main process has ended, or the one that has taken its place."""
    pid, status = call.followed
    if not pid:
        result = call.result()
        return Ending(result.exit_code, result.signal)
    if status is None:
        return Ending(failure="its main process has ended, and only its parent knows how")
    if os.WIFEXITED(status):
        return Ending(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    return Ending(signal=_SIGNALS.get(number, number))


_SIGNALS: dict[int, signal.Signals] = {number.value: number for number in signal.Signals}


def ended_early(ending: Ending, policy: RestartPolicy) -> Failure:
    """It has ended by itself, before it was ready."""
    result = "protocol" if policy.clean(ending) else _result(ending)
    return Failure(f"it ended before it was ready: {ending}", result)


def variables(
    ending: Ending, failure: Failure | None, policy: RestartPolicy
) -> dict[bytes, bytes | None]:
    """What post-stop hooks are told of it."""
    if failure is None:
        result = "success" if policy.clean(ending) else _result(ending)
    else:
        result = failure.result
    found: dict[bytes, bytes | None] = {b"SERVICE_RESULT": result.encode()}
    if ending.signal is not None:
        found[b"EXIT_CODE"] = b"killed"
        found[b"EXIT_STATUS"] = signal_name(ending.signal).removeprefix("SIG").encode()
    elif ending.exit_code is not None:
        found[b"EXIT_CODE"] = b"exited"
        found[b"EXIT_STATUS"] = b"%d" % ending.exit_code
    return found


def _result(ending: Ending) -> str:
    return "exit-code" if ending.signal is None else "signal"


def with_failure(ending: Ending, failure: Failure | None) -> Ending:
    return ending if failure is None else evolve(ending, failure=failure.reason)
