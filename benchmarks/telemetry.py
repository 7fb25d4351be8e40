"""What telemetry costs a call, beside the same call without it in one run, as ratios of medians.

    python benchmarks/telemetry.py [--check] [--quick]

OpenTelemetry is set once in a process, so there is one for the API and one for the SDK.  In it,
calls with and without take turns one by one, for 2 % is less than what two processes differ by:
those without are shown no module of OpenTelemetry.  Beside them stands what a program could do by
hand, which is little but the SDK's own work.  The exporters throw away what they are given: what it
takes to send it is another matter.
"""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import anyio
from measure import Report, parse_arguments

import agentsup
import agentsup._telemetry

WARM_UP = 50
COMMAND = ["/bin/true", "--some", "argument", "/and/a/path"]
API = ["opentelemetry.trace", "opentelemetry.metrics"]
SDK = ["opentelemetry.sdk.trace", "opentelemetry.sdk.metrics"]


# --- a contestant -----------------------------------------------------------------------------


def set_up(modules: list[str]) -> None:
    for name in modules:
        __import__(name)
    if "opentelemetry.sdk.trace" not in sys.modules:
        return
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import (
        MetricExporter,
        MetricExportResult,
        PeriodicExportingMetricReader,
    )
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Spans(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    class Metrics(MetricExporter):
        def export(self, *_: object, **__: object) -> MetricExportResult:
            return MetricExportResult.SUCCESS

        def force_flush(self, timeout_millis: float = 0) -> bool:
            return True

        def shutdown(self, timeout_millis: float = 0, **_: object) -> None:
            pass

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Spans()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(Metrics())]))


@functools.cache
def instruments() -> tuple[Any, Any]:
    from opentelemetry import metrics, trace

    histogram = metrics.get_meter("by hand").create_histogram("duration", "s")
    return trace.get_tracer("by hand"), histogram


async def by_hand(supervisor: agentsup.Supervisor) -> None:
    """The least that the SDK can be asked for: a span, its context in the child, a duration."""
    from opentelemetry import propagate, trace

    tracer, histogram = instruments()
    start = time.perf_counter()
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "true"}
    span = tracer.start_span("execute_tool true", attributes=tool)
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span))
    context = {name.upper(): value for name, value in carrier.items()}
    result = await supervisor.run(COMMAND, extend_env=context)
    span.set_attributes({"process.command_args": COMMAND, "process.exit.code": result.exit_code})
    span.end()
    histogram.record(time.perf_counter() - start, {"gen_ai.tool.name": "true"})


async def contend(count: int, modules: list[str]) -> None:
    """Say how long a call takes: without telemetry, with it, and with what one can do by hand."""
    set_up(modules)
    hidden = SimpleNamespace(
        modules={name: module for name, module in sys.modules.items() if name not in API}
    )
    async with agentsup.Supervisor() as supervisor:
        turns = [
            (hidden, lambda: supervisor.run(COMMAND)),
            (sys, lambda: supervisor.run(COMMAND)),
            (hidden, lambda: by_hand(supervisor)),
        ]
        times: list[list[float]] = [[] for _ in turns]
        for number in range(WARM_UP + count):
            for (seen, call), found in zip(turns, times, strict=True):
                agentsup._telemetry.sys = seen
                start = time.perf_counter()
                await call()
                if number >= WARM_UP:
                    found.append(time.perf_counter() - start)
    print(json.dumps([statistics.median(found) for found in times]))


# --- all of them ------------------------------------------------------------------------------


def compare(report: Report, backend: str, count: int) -> None:
    report.title(f"A call on {backend} (ms)")
    for name, modules, target in (
        ("the API alone", API, 1.02),
        ("SDK, batch processor, reader", SDK, 1.10),
    ):
        command = [sys.executable, __file__, "--contend", backend, str(count), *modules]
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        without, with_it, by_hand = json.loads(output)
        report.row("without", f"{without * 1e3:.3f}")
        for what, seconds in ((f"with {name}", with_it), ("the same, by hand", by_hand)):
            report.row(what, f"{seconds * 1e3:.3f}", f"{(seconds - without) * 1e6:+.0f} us")
        report.ratio(f"{name} / without", with_it, without, target)


def main() -> int:
    if sys.argv[1:2] == ["--contend"]:
        backend, count, *modules = sys.argv[2:]
        anyio.run(contend, int(count), modules, backend=backend)
        return 0
    arguments = parse_arguments(__doc__)
    report = Report()
    for backend in ("asyncio", "trio"):
        compare(report, backend, 300 if arguments.quick else 3000)
    return report.end(check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
