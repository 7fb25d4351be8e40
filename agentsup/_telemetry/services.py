"""A span a run of a service, linked to that of the run before.

It is a child of whatever span was current where the service was started, for that is the context of
its task. What happens to it is told as it happens: a run may last for weeks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import evolve
from opentelemetry import trace
from opentelemetry.trace import Link

from .._rules.redaction import redact
from .._values.result import Outcome
from .._values.state import ServiceState
from . import names
from .carrier import with_context
from .spans import Clock, command, fail, kind_of, outcome, record_error, tell_events, tracer

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from .._calls.spec import Spec
    from .._services.accepting import Accepting
    from .._services.run import Run
    from .._values.health import HealthCheck
    from .._values.restart import Ending
    from .._values.service import Service
    from .._values.state import ServiceEvent


class RunSpan:
    """Ended with the state that follows the run."""

    def __init__(self, service: Service, spec: Spec, previous: SpanContext | None) -> None:
        self._clock = Clock()
        self._span = tracer().start_span(
            f"service {service.name}",
            attributes={names.SERVICE: service.name},
            links=[Link(previous)] if previous else None,
            start_time=self._clock.began,
        )
        try:
            if self._span.is_recording():
                self._span.set_attributes(command(spec.argv, spec.program))
            env = with_context(spec.env, trace.set_span_in_context(self._span))
        except BaseException:
            self._span.end()
            raise
        #: What it is to be run as.
        self.spec = evolve(spec, env=env)

    @property
    def context(self) -> SpanContext:
        return self._span.get_span_context()

    def started(self, pid: int, round_trip: float | None) -> None:
        self._span.set_attribute(names.PROCESS_PID, pid)

    def event(self, event: ServiceEvent) -> None:
        attributes: dict[str, Any] = {names.REASON: redact(event.reason)}
        at = int(event.time * 1e9)
        if event.state is ServiceState.BACKOFF:
            self._span.add_event(names.RESTART_EVENT, attributes, at)
        attributes[names.STATE] = event.state.value
        attributes[names.PREVIOUS] = event.previous.value
        self._span.add_event(names.STATE_EVENT, attributes, at)

    def health_failed(self, check: HealthCheck, reason: str, failures: int) -> None:
        if failures <= check.failures:  # of the others there may be any number
            attributes: dict[str, Any] = {
                names.CHECK: redact(str(check)),
                names.REASON: redact(reason),
                names.FAILURES: failures,
            }
            self._span.add_event(names.HEALTH_EVENT, attributes)

    def ended(self, run: Run | Accepting, ending: Ending, clean: bool) -> None:
        span, call, result = self._span, run.call, run.result
        if not span.is_recording():
            return
        if call and result:
            base = call.rule.started_at
            span.set_attributes(outcome(result))
            tell_events(span, result, lambda seconds: self._clock.at(base + seconds))
        if run.error:
            record_error(span, run.error)
        elif not clean:
            how = result.outcome if result else Outcome.EXITED
            fail(span, kind_of(how, ending.exit_code, ending.signal), redact(str(ending)))

    def close(self) -> None:
        self._span.end()
