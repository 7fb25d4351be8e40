"""A span a call, by OpenTelemetry's conventions for the tools of agents and for processes.

While the call runs, nothing is told: what has happened is in its result, with its times.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.trace import StatusCode

from .._levels.hold import text
from .._rules.redaction import redact, redact_argv
from .._tool_call import current
from .._values.result import Outcome, signal_name
from . import names
from .carrier import with_context
from .names import lower

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence

    from opentelemetry.trace import Span, Tracer

    from .._calls.call import Call
    from .._errors import SpawnError
    from .._values.result import Result

_WORDS, _LONGEST = 64, 2000
_ENDED_BY_THE_KERNEL = (Outcome.MEMORY_LIMIT, Outcome.CPU_LIMIT)
_NO_LIMIT = (Outcome.EXITED, Outcome.SIGNALED, Outcome.STOPPED)


@functools.cache
def tracer() -> Tracer:
    return trace.get_tracer(*names.scope())


def begin(call: Call) -> CallSpan | None:
    """The span of a call; None where only the API is there, which at most has a context to pass."""
    if not type(trace.get_tracer_provider()).__module__.startswith("opentelemetry.trace"):
        return CallSpan(call)
    if get_current():
        call.spec.env = with_context(call.spec.env)
    return None


class Clock:
    """Tells the time of a trace from that of a call: nanoseconds since the epoch."""

    def __init__(self) -> None:
        self.began = time.time_ns()
        self._monotonic = time.monotonic()

    def at(self, moment: float) -> int:
        return self.began + int((moment - self._monotonic) * 1e9)


class CallSpan:
    """Begun with the request, and ended with the result."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._clock = Clock()
        self._span = _start_span(call.spec.name, self._clock.began)
        try:
            call.spec.env = with_context(call.spec.env, trace.set_span_in_context(self._span))
        except BaseException:
            self._span.end()
            raise

    def started(self, pid: int, round_trip: float | None) -> None:
        pass

    def ended(self, result: Result | None, error: BaseException | None) -> None:
        span = self._span
        try:
            if span.is_recording():
                self._tell(result)
                self._set_status(result, error)
        finally:
            span.end()

    def _tell(self, result: Result | None) -> None:
        call = self._call
        attributes = command(call.spec.argv, call.spec.program)
        if result:
            attributes |= outcome(result)
            began = call.rule.started_at
            tell_events(self._span, result, lambda seconds: self._clock.at(began + seconds))
        if call.queued:
            attributes[names.QUEUED] = call.queued
        self._span.set_attributes(attributes)

    def _set_status(self, result: Result | None, error: BaseException | None) -> None:
        """A stop that its owner has asked for is no error; a call that was cut off is one."""
        span = self._span
        if isinstance(error, Exception):
            record_error(span, error)
        elif error is not None:
            kind = type(error).__name__
            if kind in ("Cancelled", "CancelledError"):
                kind = "cancelled"
            fail(span, kind, f"{kind}: {result.reason}" if result else kind)
        elif result and not result.ok and result.outcome is not Outcome.STOPPED:
            fail(span, kind_of(result.outcome, result.exit_code, result.signal), result.reason)


def _start_span(name: str, at: int) -> Span:
    tool = current()
    name = tool.name if tool else name
    attributes = {
        names.GEN_AI_OPERATION_NAME: names.EXECUTE_TOOL,
        names.GEN_AI_TOOL_NAME: name,
    }
    if tool and tool.id:
        attributes[names.GEN_AI_TOOL_CALL_ID] = tool.id
    title = f"{names.EXECUTE_TOOL} {name}"
    return tracer().start_span(title, attributes=attributes, start_time=at)


def tell_refusal(argv: list[bytes], name: str, error: SpawnError) -> None:
    """All that there is of a call that could not be made."""
    span = _start_span(name, time.time_ns())
    try:
        if span.is_recording():
            span.set_attributes(command(argv, argv[0]))
            record_error(span, error)
    finally:
        span.end()


# --- what a call and a run of a service have in common ---------------------------------------


def command(argv: list[bytes], program: bytes) -> dict[str, Any]:
    return {
        names.PROCESS_COMMAND_ARGS: shown([text(word) for word in argv]),
        names.PROCESS_EXECUTABLE_PATH: text(program),
    }


def shown(argv: Sequence[str]) -> tuple[str, ...]:
    """As much of a command as is told, without its secrets."""
    return redact_argv([word[:_LONGEST] for word in argv[:_WORDS]])


def outcome(result: Result) -> dict[str, Any]:
    attributes = {
        names.OUTCOME: lower(result.outcome),
        names.CONTAINMENT: lower(result.containment),
        names.PROCESS_PID: result.pid,
        names.SIGNAL: signal_name(result.signal) if result.signal else None,
        names.STDOUT_BYTES: result.stdout.total_bytes,
        names.STDERR_BYTES: result.stderr.total_bytes,
        names.LEFTOVERS: result.leftover_count,
    }
    told = {name: value for name, value in attributes.items() if value}
    if result.exit_code is not None:
        told[names.PROCESS_EXIT_CODE] = result.exit_code
    return told


def tell_events(span: Span, result: Result, at: Callable[[float], int]) -> None:
    """What has happened, each at its time: ``at`` of seconds since the start."""
    steps = result.escalation
    if result.outcome not in _NO_LIMIT:
        reached = result.duration
        if steps and result.outcome not in _ENDED_BY_THE_KERNEL:
            reached = steps[0].at
        span.add_event(names.LIMIT_EVENT, {names.LIMIT: lower(result.outcome)}, at(reached))
    for limit in result.limits_reached:
        if limit != "memory" or result.outcome is not Outcome.MEMORY_LIMIT:
            span.add_event(names.LIMIT_EVENT, {names.LIMIT: limit}, at(result.duration))
    for step in steps:
        span.add_event(names.ESCALATION_EVENT, {names.ACTION: redact(step.action)}, at(step.at))
    for leftover in result.leftovers:
        attributes: dict[str, Any] = {
            names.PROCESS_PID: leftover.pid,
            names.PROCESS_COMMAND_ARGS: shown(leftover.argv),
            names.FOUND: lower(leftover.found),
            names.KILLED: leftover.killed,
        }
        killed_at = steps[-1].at if steps else result.duration
        span.add_event(names.LEFTOVER_EVENT, attributes, at(killed_at))


def kind_of(outcome: Outcome, exit_code: int | None, number: signal.Signals | int | None) -> str:
    """Of an error: one of a few."""
    if outcome not in _NO_LIMIT:
        return lower(outcome)
    return str(exit_code) if number is None else signal_name(number)


def record_error(span: Span, error: Exception) -> None:
    kind = type(error)
    fail(span, f"{kind.__module__}.{kind.__qualname__}", redact(str(error)))
    span.record_exception(error)


def fail(span: Span, kind: str, description: str) -> None:
    span.set_attribute(names.ERROR_TYPE, kind)
    span.set_status(StatusCode.ERROR, description)
