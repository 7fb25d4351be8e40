"""What a call, and a run of a service, is to be told to: traces, metrics and logs.

The only part of this that the core imports.  Nothing of OpenTelemetry is imported here before the
program itself has done so: who traces has imported it.  Where nobody listens, a call pays for a few
look-ups in ``sys.modules``.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import TYPE_CHECKING, Any

from .._errors import SpawnError
from .._values.state import ServiceState

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._calls.call import Call
    from .._calls.spec import Spec
    from .._services.accepting import Accepting
    from .._services.run import Run
    from .._values.health import HealthCheck
    from .._values.restart import Ending
    from .._values.service import Service
    from .._values.state import ServiceEvent

_UNOBSERVED = contextlib.nullcontext()
#: In one of these, a service has no process any more.
_AFTER_A_RUN = (ServiceState.BACKOFF, ServiceState.FAILED, ServiceState.INACTIVE)
_COMPLAINTS = 10


class Observer:
    """Passes on what happens to all that listen. What one of them raises changes nothing."""

    def __init__(self, *parts: Any) -> None:
        self._parts = parts
        self._started = self._over = False

    def started(self, pid: int, round_trip: float | None) -> None:
        """It runs; so many seconds after the request, if that was answered as soon as it could."""
        if not self._started:
            self._started = True
            self._tell("started", pid, round_trip)

    def ended_by_itself(self) -> None:
        """Its result is ready, and nobody has asked for that."""

    def _tell(self, what: str, *news: Any) -> None:
        for part in self._parts:
            try:
                getattr(part, what)(*news)
            except Exception:
                _complain()


class CallObserver(Observer):
    """Of one call: a context manager around all of it, from the request to the result."""

    def __init__(self, call: Call, *parts: Any) -> None:
        super().__init__(*parts)
        self._call = call

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._end(error)

    def ended_by_itself(self) -> None:
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        if self._over:
            return
        self._over = True
        call = self._call
        ran = call.result_ready and not isinstance(call.error, SpawnError)
        self._tell("ended", call.result() if ran else None, error or call.error)


class RunObserver(Observer):
    """Of one run of a service."""

    def __init__(self, spec: Spec, context: Any, *parts: Any) -> None:
        super().__init__(*parts)
        #: With what the program is to be told of the trace.
        self.spec = spec
        #: For the next run to be linked to, or None.
        self.context = context

    def event(self, event: ServiceEvent) -> None:
        """The service has entered a state, which may be one that follows the run."""
        if not self._over:
            self._tell("event", event)
            if event.state in _AFTER_A_RUN:
                self.close()

    def health_failed(self, check: HealthCheck, reason: str, failures: int) -> None:
        """A probe has failed, as the last so many that count have."""
        self._tell("health_failed", check, reason, failures)

    def ended(self, run: Run | Accepting, ending: Ending, *, clean: bool) -> None:
        """It has come to this. The state that follows is told yet."""
        self._tell("ended", run, ending, clean)

    def close(self) -> None:
        """Nothing more is told. May be repeated."""
        if not self._over:
            self._over = True
            self._tell("close")


def observed(call: Call) -> contextlib.AbstractContextManager[None]:
    """To be entered around the whole of ``call``, by the door through which it comes."""
    there = sys.modules
    parts: list[Any] = []
    for listen in _listeners(
        "opentelemetry.metrics" in there, "opentelemetry.trace" in there, "logging" in there
    ):
        try:
            if part := listen(call):
                parts.append(part)
        except Exception:
            _complain()
    if not parts:
        return _UNOBSERVED
    call.observer = observer = CallObserver(call, *parts)
    return observer


@functools.cache
def _listeners(metrics: bool, traces: bool, logs: bool) -> list[Callable[[Call], Any]]:
    """What makes the parts of a call's observer: to import them each time would take its time."""
    found: list[Callable[[Call], Any]] = []
    try:
        if metrics:
            from .metrics import listen_to_call

            found.append(listen_to_call)
        if traces:
            from .spans import begin

            found.append(begin)
        if logs:
            from .logs import CallLog

            found.append(lambda call: CallLog(call.spec))
    except Exception:
        _complain()
    return found


def refused(argv: list[bytes], name: str, error: SpawnError) -> None:
    """A call for which nothing was begun: its program or its directory is not there."""
    modules = sys.modules
    try:
        if "opentelemetry.metrics" in modules:
            from .metrics import CallMetrics, listens

            if listens():
                CallMetrics(name).ended(None, error)
        if "opentelemetry.trace" in modules:
            from .spans import tell_refusal

            tell_refusal(argv, name, error)
    except Exception:
        _complain()


def observed_run(service: Service, spec: Spec, previous: RunObserver | None) -> RunObserver | None:
    """The observer of a run that begins, or None where nobody listens."""
    modules = sys.modules
    parts: list[Any] = []
    context: Any = None
    try:
        if "opentelemetry.metrics" in modules:
            from .metrics import RunMetrics, listens

            if listens():
                parts.append(RunMetrics(service))
        if "opentelemetry.trace" in modules:
            from .services import RunSpan

            span = RunSpan(service, spec, previous.context if previous else None)
            parts.append(span)
            spec, context = span.spec, span.context
    except Exception:
        _complain()
    return RunObserver(spec, context, *parts) if parts else None


def service_event(event: ServiceEvent) -> None:
    """A service has entered a state: for the log."""
    try:
        if "logging" in sys.modules:
            from . import logs

            logs.service_event(event)
    except Exception:
        _complain()


_complaints = 0


def _complain() -> None:
    """Of a tracer or an exporter that raises, which must not break a call."""
    global _complaints
    _complaints += 1
    if _complaints <= _COMPLAINTS:
        import logging

        logging.getLogger("agentsup.telemetry").warning("telemetry has failed", exc_info=True)
