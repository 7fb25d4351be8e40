"""Metrics of calls and of services.

What is counted is summed up here, and read when a reader asks for it; only what has a distribution
goes through an instrument each time.  Names of tools and of services are among the attributes,
never a command or a pid.
"""

from __future__ import annotations

import functools
import signal
import threading
from typing import TYPE_CHECKING

from opentelemetry import metrics
from opentelemetry.metrics import Observation

from .._tool_call import current
from .._values.escalation import CLOSE_STDIN
from .._values.state import ServiceState
from . import names
from .names import lower

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Histogram

    from .._calls.call import Call
    from .._services.accepting import Accepting
    from .._services.run import Run
    from .._values.health import HealthCheck
    from .._values.restart import Ending
    from .._values.result import Result
    from .._values.service import Service
    from .._values.state import ServiceEvent

#: Seconds, from what a short tool takes to what an agent waits for.
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600)
_STEPS = {CLOSE_STDIN.value, *(number.name for number in signal.Signals)}


class Total:
    """A sum for each set of attributes: what an observable instrument tells when it is asked."""

    def __init__(self, *attributes: str) -> None:
        self._attributes = attributes
        self._lock = threading.Lock()
        self._sums: dict[tuple[str, ...], int] = {}

    def add(self, amount: int, *values: str) -> None:
        with self._lock:
            self._sums[values] = self._sums.get(values, 0) + amount

    def __call__(self, options: CallbackOptions) -> list[Observation]:
        with self._lock:
            sums = list(self._sums.items())
        return [
            Observation(amount, dict(zip(self._attributes, values, strict=True)))
            for values, amount in sums
        ]


def listens() -> bool:
    """Whether there is a provider but those of the API, which do nothing."""
    return not type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics")


class Instruments:
    """All that there are, made once."""

    def __init__(self) -> None:
        self._meter = metrics.get_meter(*names.scope())
        tool, service = names.GEN_AI_TOOL_NAME, names.SERVICE
        self.calls = self._counter("call.count", "{call}", tool, names.OUTCOME)
        self.output = self._counter("call.output", "By", tool, names.STREAM)
        self.escalations = self._counter("escalations", "{step}", names.ACTION)
        self.leftovers = self._counter("leftovers", "{process}")
        self.restarts = self._counter("service.restarts", "{restart}", service)
        self.health_failures = self._counter("service.health_failures", "{failure}", service)
        self.active = Total()
        up_down = self._meter.create_observable_up_down_counter
        up_down("agentsup.call.active", [self.active], "{call}")
        self.duration = self._histogram("call.duration")
        self.queued = self._histogram("call.queued")
        self.round_trip = self._histogram("keeper.round_trip")

    def _counter(self, name: str, unit: str, *attributes: str) -> Total:
        total = Total(*attributes)
        self._meter.create_observable_counter(f"agentsup.{name}", [total], unit)
        return total

    def _histogram(self, name: str) -> Histogram:
        return self._meter.create_histogram(
            f"agentsup.{name}", "s", explicit_bucket_boundaries_advisory=_SECONDS
        )

    def killed(self, result: Result) -> None:
        """What it took to end it."""
        for step in result.escalation:
            if step.action in _STEPS:
                self.escalations.add(1, step.action)
            elif step.action.startswith("run "):
                self.escalations.add(1, "command")
        killed = sum(leftover.killed for leftover in result.leftovers)
        if result.leftover_count:
            not_killed = len(result.leftovers) - killed
            self.leftovers.add(result.leftover_count - not_killed)


#: Made when they are first needed.
instruments = functools.cache(Instruments)


def listen_to_call(call: Call) -> CallMetrics | None:
    return CallMetrics(call.spec.name) if listens() else None


class CallMetrics:
    def __init__(self, name: str) -> None:
        tool = current()
        self._name = tool.name if tool else name
        self._to = instruments()
        self._to.active.add(1)

    def started(self, pid: int, round_trip: float | None) -> None:
        if round_trip is not None:
            self._to.round_trip.record(round_trip)

    def ended(self, result: Result | None, error: BaseException | None) -> None:
        to, name = self._to, self._name
        to.active.add(-1)
        if result is None:
            to.calls.add(1, name, "not_started")
            return
        outcome = lower(result.outcome)
        to.calls.add(1, name, outcome)
        to.duration.record(result.duration, {names.GEN_AI_TOOL_NAME: name, names.OUTCOME: outcome})
        if result.queued:
            to.queued.record(result.queued)
        if result.stdout.total_bytes:
            to.output.add(result.stdout.total_bytes, name, "stdout")
        if result.stderr.total_bytes:
            to.output.add(result.stderr.total_bytes, name, "stderr")
        if result.escalation:
            to.killed(result)


class RunMetrics:
    def __init__(self, service: Service) -> None:
        self._name = service.name
        self._to = instruments()

    def started(self, pid: int, round_trip: float | None) -> None:
        if round_trip is not None:
            self._to.round_trip.record(round_trip)

    def event(self, event: ServiceEvent) -> None:
        if event.state is ServiceState.BACKOFF:
            self._to.restarts.add(1, self._name)

    def health_failed(self, check: HealthCheck, reason: str, failures: int) -> None:
        self._to.health_failures.add(1, self._name)

    def ended(self, run: Run | Accepting, ending: Ending, clean: bool) -> None:
        if run.result and run.result.escalation:
            self._to.killed(run.result)

    def close(self) -> None:
        pass
