"""A service as OpenTelemetry sees it: a span a run, each linked to the one before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import agentsup
from agentsup import HealthCheck, OutputHeartbeat, OutputPolicy, Service, ServiceState
from agentsup._telemetry.metrics import instruments
from agentsup._telemetry.spans import tracer

pytestmark = pytest.mark.anyio

Eventually = Callable[..., Awaitable[None]]
Spans = Callable[[], tuple[ReadableSpan, ...]]
#: Prints the span that it belongs to, and ends when it is told to.
PRINTS_CONTEXT = ["sh", "-c", 'echo "$TRACEPARENT"; exec sleep 100']

ENDS_BADLY = ["sh", "-c", "trap 'exit 3' TERM; echo ready; sleep 100 & wait"]


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def spans(reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """All that have ended."""
    exporter = InMemorySpanExporter()
    tracers = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader], Resource.get_empty(), shutdown_on_exit=False)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracers)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", meters)
    for made in (tracer, instruments):
        made.cache_clear()
    yield exporter.get_finished_spans
    for made in (tracer, instruments):
        made.cache_clear()


def number(reader: InMemoryMetricReader, name: str) -> dict[Any, Any]:
    data = reader.get_metrics_data()
    if data is None:  # nothing has happened yet
        return {}
    return {
        tuple((point.attributes or {}).values()): getattr(point, "value", None)
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
        if metric.name == f"agentsup.{name}"
    }


def states(span: ReadableSpan) -> list[str]:
    return [
        str((event.attributes or {})["agentsup.service.state"])
        for event in span.events
        if event.name == "agentsup.service.state"
    ]


def named(span: ReadableSpan, name: str) -> list[dict[str, Any]]:
    return [dict(event.attributes or {}) for event in span.events if event.name == name]


async def test_restarts_are_linked(
    spans: Spans, reader: InMemoryMetricReader, eventually: Eventually
) -> None:
    async with agentsup.Supervisor(max_restarts=None) as supervisor:
        with trace.get_tracer("agent").start_as_current_span("agent") as agent:
            web = supervisor.start_soon(Service("web", ["sh", "-c", "exit 3"]))
        await eventually(lambda: len(spans()) >= 4)
        await web.stop()
    assert spans()[0].name == "agent"
    first, second, third, *_ = runs = spans()[1:]
    assert {run.name for run in runs} == {"service web"}
    assert all(run.parent == agent.get_span_context() for run in runs)
    assert not first.links
    assert [link.context for link in second.links] == [first.get_span_context()]
    assert [link.context for link in third.links] == [second.get_span_context()]
    assert states(second)[0] == "activating"
    assert states(second)[-1] == "backoff"
    assert [event["agentsup.reason"] for event in named(second, "agentsup.service.restart")]
    assert second.attributes
    assert second.attributes["agentsup.service.name"] == "web"
    assert second.attributes["process.exit.code"] == 3
    assert second.attributes["process.command_args"] == ("sh", "-c", "exit 3")
    assert second.attributes["error.type"] == "3"
    assert second.status.status_code is StatusCode.ERROR
    assert number(reader, "service.restarts") == {("web",): web.restarts}
    for run in runs:
        assert run.start_time
        assert run.end_time
        assert all(run.start_time <= event.timestamp <= run.end_time for event in run.events)


async def test_stopped_by_its_owner(spans: Spans, eventually: Eventually) -> None:
    async with agentsup.Supervisor() as supervisor:
        web = await supervisor.start(Service("web", ENDS_BADLY))
        await eventually(lambda: web.output)
        await web.restart()
        await eventually(lambda: web.output)
        assert len(spans()) == 1
    first, second = spans()
    context = first.get_span_context()
    assert context
    assert first.status.status_code is StatusCode.UNSET
    assert states(first) == ["active", "deactivating", "inactive"]
    assert [link.context for link in second.links] == [context]
    assert named(first, "agentsup.escalation")[0] == {"agentsup.escalation.action": "SIGTERM"}
    assert not named(first, "agentsup.service.restart")


async def test_the_program_and_its_hooks_join_the_trace(
    spans: Spans, tmp_path: Path, eventually: Eventually
) -> None:
    told = tmp_path / "told"
    hook = agentsup.Command(["sh", "-c", 'echo "$TRACEPARENT" > "$0"', str(told)])
    async with agentsup.Supervisor() as supervisor:
        web = await supervisor.start(Service("web", PRINTS_CONTEXT, pre_start=[hook]))
        await eventually(lambda: web.output)
        output = web.output
    (span,) = spans()
    context = span.get_span_context()
    assert context
    assert output == told.read_text() == f"00-{context.trace_id:032x}-{context.span_id:016x}-03\n"


async def test_failed_health_checks(
    spans: Spans, reader: InMemoryMetricReader, eventually: Eventually
) -> None:
    check = HealthCheck(
        lambda: False, interval=0.05, timeout=0.05, failures=2, start_period=0.1, name="it answers"
    )
    service = Service("web", ["sleep", "100"], health=[check], restart="temporary")
    async with agentsup.Supervisor() as supervisor:
        web = await supervisor.start(service)
        assert await web.wait() is ServiceState.FAILED
    (span,) = spans()
    failed = named(span, "agentsup.health.failed")
    assert [event["agentsup.health.failures"] for event in failed] == [1, 2]
    assert {event["agentsup.health.check"] for event in failed} == {"it answers"}
    assert states(span)[-1] == "failed"
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description
    assert "it answers" in span.status.description
    assert number(reader, "service.health_failures") == {("web",): 2}


async def test_of_many_failures_some_are_told(
    spans: Spans, reader: InMemoryMetricReader, eventually: Eventually
) -> None:
    check = HealthCheck(lambda: False, interval=0.02, timeout=0.02, failures=2, role="readiness")
    async with agentsup.Supervisor() as supervisor:
        supervisor.start_soon(Service("web", ["sleep", "100"], health=[check]))
        await eventually(lambda: number(reader, "service.health_failures").get(("web",), 0) >= 5)
    assert len(named(spans()[0], "agentsup.health.failed")) == 2


async def test_a_missed_heartbeat(spans: Spans) -> None:
    service = Service("web", ["sleep", "100"], heartbeat=OutputHeartbeat(0.05), restart="temporary")
    async with agentsup.Supervisor() as supervisor:
        web = await supervisor.start(service)
        await web.wait()
    (span,) = spans()
    assert span.attributes
    assert span.attributes["error.type"] == "heartbeat_lost"
    assert named(span, "agentsup.limit_reached") == [{"agentsup.limit": "heartbeat_lost"}]


async def test_it_cannot_be_started(spans: Spans, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/there/is/no/such/interpreter\n")
    program.chmod(0o755)
    async with agentsup.Supervisor() as supervisor:
        with pytest.raises(FileNotFoundError):
            await supervisor.start(Service("web", [str(program)]))
    (span,) = spans()
    assert span.attributes
    assert span.attributes["error.type"] == "agentsup._errors.SpawnError"
    assert states(span) == ["failed"]


async def test_it_ends_by_an_error(spans: Spans) -> None:
    def fail(stream: str, line: str) -> None:
        raise ZeroDivisionError

    service = Service(
        "web", ["sh", "-c", "echo; exec sleep 100"], output=OutputPolicy(on_line=fail)
    )
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with agentsup.Supervisor() as supervisor:
            supervisor.start_soon(service)
            await anyio.sleep_forever()
    assert len(spans()) == 1


async def test_what_serves_a_connection_joins_the_trace(spans: Spans) -> None:
    service = Service(
        "web",
        agentsup.shell('echo "$TRACEPARENT" >&3'),
        sockets=[agentsup.ListenSocket("127.0.0.1:0")],
        accept=True,
    )
    async with agentsup.Supervisor() as supervisor:
        web = await supervisor.start(service)
        host, _, port = web.addresses[0].rpartition(":")
        async with await anyio.connect_tcp(host, int(port)) as stream:
            answer = await stream.receive()
    (span,) = spans()
    context = span.get_span_context()
    assert context
    assert f"-{context.trace_id:032x}-{context.span_id:016x}-" in answer.decode()
    assert span.status.status_code is StatusCode.UNSET


async def test_it_is_stopped_before_it_is_ready(spans: Spans) -> None:
    service = Service("web", ["sleep", "100"], ready=agentsup.RunningFor(50), start_timeout=100)
    async with agentsup.Supervisor() as supervisor:
        with anyio.move_on_after(0.1):
            await supervisor.start(service)
    assert len(spans()) == 1


async def test_a_broken_exporter(
    spans: Spans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(SimpleSpanProcessor, "on_end", fail)
    monkeypatch.setattr(ReadableSpan, "get_span_context", fail)
    monkeypatch.setattr("agentsup._telemetry._complaints", 0)
    async with agentsup.Supervisor() as supervisor:
        web = await supervisor.start(Service("web", ["sleep", "100"]))
        await web.restart()
        assert web.state is ServiceState.ACTIVE
    assert "agentsup.telemetry" in {record.name for record in caplog.records}
