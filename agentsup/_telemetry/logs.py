"""Log lines of calls and of services, by ``logging``, which somebody else has imported.

=================================================  =====================  =======
what                                               logger                 level
=================================================  =====================  =======
a call starts; it has a pid; it has ended well     ``agentsup.calls``     DEBUG
it has ended otherwise, or others were killed      ``agentsup.calls``     INFO
not all of its processes could be killed           ``agentsup.calls``     WARNING
its keeper was lost                                ``agentsup.calls``     ERROR
a service has changed its state                    ``agentsup.services``  INFO
it has failed                                      ``agentsup.services``  WARNING
=================================================  =====================  =======

What a caller gets as an exception is no more than INFO: it is the caller who knows what it means.
"""

from __future__ import annotations

import itertools
import logging
import os
from typing import TYPE_CHECKING, Any

from .._errors import KeeperLost
from .._rules.redaction import redact, redact_argv
from .._tool_call import current as current_tool_call
from .._values.result import signal_name
from .._values.state import ServiceState

if TYPE_CHECKING:
    from .._calls.spec import Spec
    from .._values.result import Leftover, Result
    from .._values.state import ServiceEvent

_calls = logging.getLogger("agentsup.calls")
_services = logging.getLogger("agentsup.services")
_numbers = itertools.count(1)

# Of a command, so much is told.
_WORDS = 64
_LONGEST = 2000


class CallLog:
    """The lines of one call."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._tool = current_tool_call()
        self._number = next(_numbers)
        self._pid: int | None = None
        if _calls.isEnabledFor(logging.DEBUG):
            import shlex

            extra = self._extra()
            command = shlex.join(extra["argv"])
            _calls.debug("%s starts: %s", self._who(), command, extra=extra)

    def started(self, pid: int, round_trip: float | None) -> None:
        """It has a pid. A short call may have ended by then."""
        self._pid = pid
        if _calls.isEnabledFor(logging.DEBUG):
            _calls.debug("%s runs", self._who(), extra=self._extra())

    def ended(self, result: Result | None, error: BaseException | None) -> None:
        level = _level(result, error)
        if not _calls.isEnabledFor(level):
            return
        if result is None or isinstance(error, KeeperLost):
            failure = redact(str(error) or type(error).__name__)
            extra = {**self._extra(), "error": failure}
            return _calls.log(level, "%s has failed: %s", self._who(), failure, extra=extra)
        self._pid = result.pid
        extra = {**self._extra(), **_came_to(result)}
        count = result.leftover_count
        others = f"; left behind: {count}" if count else ""
        _calls.log(level, "%s %s%s", self._who(), result.reason, others, extra=extra)

    def _who(self) -> str:
        name = redact(self._spec.name)
        return name if self._pid is None else f"{name}[{self._pid}]"

    def _extra(self) -> dict[str, Any]:
        """Names that no LogRecord has yet."""
        argv = [os.fsdecode(word[:_LONGEST]) for word in self._spec.argv[:_WORDS]]
        tool = self._tool
        extra: dict[str, Any] = {
            "call": redact(self._spec.name),
            "call_id": (tool and tool.id) or f"{os.getpid()}-{self._number}",
            "argv": list(redact_argv(argv)),
            "pid": self._pid,
        }
        if tool:
            extra["tool"] = tool.name
        return extra


def _level(result: Result | None, error: BaseException | None) -> int:
    if isinstance(error, KeeperLost):
        return logging.ERROR
    if result is not None and not all(leftover.killed for leftover in result.leftovers):
        return logging.WARNING
    well = result is not None and result.ok and not result.leftover_count and error is None
    return logging.DEBUG if well else logging.INFO


def _came_to(result: Result) -> dict[str, Any]:
    return {
        "outcome": result.outcome.name,
        "exit_code": result.exit_code,
        "signal": signal_name(result.signal) if result.signal else None,
        "duration": result.duration,
        "queued": result.queued,
        "output_bytes": result.stdout.total_bytes + result.stderr.total_bytes,
        "containment": result.containment.name,
        "escalation": [
            {"action": redact(step.action), "at": step.at} for step in result.escalation
        ],
        "leftovers": [_leftover(leftover) for leftover in result.leftovers],
        "leftover_count": result.leftover_count,
    }


def _leftover(leftover: Leftover) -> dict[str, Any]:
    argv = list(redact_argv(leftover.argv))
    return {"pid": leftover.pid, "argv": argv, "killed": leftover.killed}


def service_event(event: ServiceEvent) -> None:
    """A service has entered a state."""
    level = logging.WARNING if event.state is ServiceState.FAILED else logging.INFO
    if _services.isEnabledFor(level):
        reason = redact(event.reason)
        extra = {
            "service": event.service,
            "state": event.state.value,
            "previous": event.previous.value,
            "reason": reason,
            "pid": event.pid,
        }
        _services.log(level, "%s is %s: %s", event.service, event.state.value, reason, extra=extra)
