"""A call as OpenTelemetry sees it: a span that ends whatever happens, its context in the child."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry import baggage, context, metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, process_attributes
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.trace import StatusCode

import agentsup
from agentsup import PIPE, Outcome, _telemetry
from agentsup._linux import lifeline
from agentsup._telemetry import names
from agentsup._telemetry.carrier import with_context
from agentsup._telemetry.metrics import instruments
from agentsup._telemetry.spans import tracer

Eventually = Callable[..., Awaitable[None]]

PRINTS_CONTEXT = ["sh", "-c", 'echo "$TRACEPARENT|$TRACESTATE|$BAGGAGE"']
IGNORES_TERM = ["sh", "-c", "trap '' TERM; echo ready; sleep 100 & wait"]


class Trace(SpanProcessor):
    """What was begun and what was ended, in memory."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: context.Context | None = None) -> None:
        self.begun.append(span.name)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)

    @property
    def only(self) -> ReadableSpan:
        """Of one call; and every span that was begun has ended once."""
        assert len(self.begun) == len(self.ended) == 1
        return self.ended[0]


def events(span: ReadableSpan) -> list[tuple[str, dict[str, Any]]]:
    return [(event.name, dict(event.attributes or {})) for event in span.events]


def traceparent(span: ReadableSpan) -> str:
    found = span.get_span_context()
    assert found
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


@pytest.fixture
def provide(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Set providers as a program does, once in its life; and take them away again."""

    def forget() -> None:
        tracer.cache_clear()
        instruments.cache_clear()

    def provide(tracers: TracerProvider | None, meters: MeterProvider | None = None) -> None:
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracers)
        monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", meters)
        forget()

    yield provide
    forget()


def tracing(*processors: SpanProcessor, **options: Any) -> TracerProvider:
    provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False, **options)
    for processor in processors:
        provider.add_span_processor(processor)
    return provider


@pytest.fixture
def spans(provide: Callable[..., None]) -> Trace:
    found = Trace()
    provide(tracing(found))
    return found


@pytest.fixture
def measured(provide: Callable[..., None]) -> Callable[[], dict[str, dict[Any, Any]]]:
    """Of each metric, the number or the count of each set of attributes' values."""
    reader = InMemoryMetricReader()
    provide(None, MeterProvider([reader], Resource.get_empty(), shutdown_on_exit=False))

    def read() -> dict[str, dict[Any, Any]]:
        data = reader.get_metrics_data()
        assert data
        found = [
            metric for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics
        ]
        return {
            metric.name.removeprefix("agentsup."): {
                tuple((point.attributes or {}).values()): getattr(point, "count", None)
                or getattr(point, "value", None)
                for point in metric.data.data_points
            }
            for metric in found
        }

    return read


# --- what a span says -------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_call(spans: Trace) -> None:
    with trace.get_tracer("agent").start_as_current_span("agent") as agent:
        result = await agentsup.run([*PRINTS_CONTEXT, "--token", "hunter2"])
    span, ended_last = spans.ended
    assert ended_last.name == "agent"
    assert span.name == "execute_tool sh"
    assert span.parent == agent.get_span_context()
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "sh",
        "process.command_args": (*PRINTS_CONTEXT, "--token", "[redacted]"),
        "process.executable.path": span.attributes["process.executable.path"],
        "process.pid": result.pid,
        "process.exit.code": 0,
        "agentsup.outcome": "exited",
        "agentsup.containment": result.containment.name.lower(),
        "agentsup.stdout.bytes": len(result.stdout.text),
    }
    assert not span.events
    assert result.stdout.text == f"{traceparent(span)}||\n"


@pytest.mark.anyio
async def test_what_a_model_has_asked_for(spans: Trace) -> None:
    with agentsup.tool_call("search", id="call_7"):
        await agentsup.run(["true"])
    assert spans.only.name == "execute_tool search"
    assert spans.only.attributes
    assert spans.only.attributes["gen_ai.tool.name"] == "search"
    assert spans.only.attributes["gen_ai.tool.call.id"] == "call_7"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("script", "kind", "reason"),
    [("exit 3", "3", "exited with status 3"), ("kill -9 $$", "SIGKILL", "killed by SIGKILL")],
)
async def test_failure(spans: Trace, script: str, kind: str, reason: str) -> None:
    await agentsup.run(["sh", "-c", script])
    span = spans.only
    assert span.attributes
    assert span.attributes["error.type"] == kind
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, reason)


@pytest.mark.anyio
async def test_escalation_and_leftovers(spans: Trace, patience: tuple[float, ...]) -> None:
    for seconds in patience:
        result = await agentsup.run(IGNORES_TERM, timeout=seconds, grace=0.1)
        if result.stdout.text and result.leftover_count:
            break
    span = spans.ended[-1]
    assert span.attributes
    assert span.attributes["error.type"] == span.attributes["agentsup.outcome"] == "timed_out"
    assert span.attributes["agentsup.signal"] == "SIGKILL"
    assert span.attributes["agentsup.leftovers"] == result.leftover_count
    assert span.status.description == result.reason
    (reached, *taken, left) = events(span)
    assert reached == ("agentsup.limit_reached", {"agentsup.limit": "timed_out"})
    assert taken == [
        ("agentsup.escalation", {"agentsup.escalation.action": action})
        for action in ("SIGTERM", "SIGKILL")
    ]
    assert left[0] == "agentsup.leftover"
    assert left[1]["process.pid"] == result.leftovers[0].pid
    assert left[1]["agentsup.leftover.killed"]
    times = [event.timestamp for event in span.events]
    assert span.start_time
    assert span.end_time
    assert times == sorted(times)
    assert times[0] - span.start_time >= seconds * 1e9
    assert times[2] - times[1] >= 0.1e9
    assert times[-1] <= span.end_time


@pytest.mark.anyio
async def test_it_is_stopped_by_its_owner(spans: Trace) -> None:
    async with agentsup.Supervisor() as supervisor, supervisor.open(["sleep", "100"]) as process:
        process.stop()
    assert spans.only.status.status_code is StatusCode.UNSET
    assert spans.only.attributes
    assert spans.only.attributes["agentsup.outcome"] == "stopped"


def test_names_are_those_of_the_conventions() -> None:
    known = {
        name: value
        for module in (error_attributes, gen_ai_attributes, process_attributes)
        for name, value in vars(module).items()
    }
    ours = {name: value for name, value in vars(names).items() if isinstance(value, str)}
    theirs = {
        name: value for name, value in ours.items() if name.isupper() and "agentsup." not in value
    }
    assert theirs.pop("EXECUTE_TOOL") == (
        gen_ai_attributes.GenAiOperationNameValues.EXECUTE_TOOL.value
    )
    assert len(theirs) >= 8
    assert theirs == {name: known[name] for name in theirs}
    assert all(
        value not in known.values() for value in ours.values() if value not in theirs.values()
    )


# --- it ends, whatever happens ----------------------------------------------------------------


@pytest.mark.anyio
async def test_cancelled_in_flight(spans: Trace, tmp_path: Path, eventually: Eventually) -> None:
    started = tmp_path / "started"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agentsup.run, ["sh", "-c", 'touch "$0"; exec sleep 100', str(started)])
        await eventually(started.exists)
        assert not spans.ended
        tasks.cancel_scope.cancel()
    span = spans.only
    assert span.attributes
    assert span.attributes["error.type"] == "cancelled"
    assert span.attributes["agentsup.signal"] == "SIGTERM"
    assert span.status.description
    assert span.status.description.startswith("cancelled: stopped after ")


@pytest.mark.anyio
async def test_cancelled_in_line(spans: Trace) -> None:
    supervisor = agentsup.Supervisor(max_concurrency=1)
    async with supervisor, supervisor.open(["sleep", "100"], name="first"):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await supervisor.run(["true"], name="second")
        assert [span.name for span in spans.ended] == ["execute_tool second"]
        with anyio.move_on_after(0.05):
            await supervisor.run(["true"], name="third")
    assert spans.begun == [f"execute_tool {name}" for name in ("first", "second", "third")]
    *in_line, first = spans.ended
    for span in in_line:
        assert (span.attributes or {})["error.type"] == span.status.description == "cancelled"
    assert first.name == "execute_tool first"


@pytest.mark.anyio
async def test_cancelled_anywhere(spans: Trace) -> None:
    supervisor = agentsup.Supervisor(max_concurrency=2)

    async def run(seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await supervisor.run(["sh", "-c", "exit 0"])
        with anyio.move_on_after(seconds):
            async with supervisor.open(["cat"]) as process:
                await process.wait()

    async with supervisor, anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(run, number * 0.0013)
    assert sorted(spans.begun) == sorted(span.name for span in spans.ended)
    assert len(spans.begun) == 24


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["here", "in the keeper"])
async def test_it_cannot_be_started(spans: Trace, tmp_path: Path, where: str) -> None:
    program = tmp_path / "program"
    if where == "in the keeper":
        program.write_text("#!/there/is/no/such/interpreter\n")
        program.chmod(0o755)
    with pytest.raises(FileNotFoundError):
        await agentsup.run([str(program)])
    span = spans.only
    assert span.name == "execute_tool program"
    assert span.attributes
    assert span.attributes["error.type"] == "agentsup._errors.SpawnError"
    assert span.attributes["process.command_args"] == (str(program),)
    assert not {"process.pid", "agentsup.outcome"}.intersection(span.attributes)
    ((name, attributes),) = events(span)
    assert name == "exception"
    assert str(program) in attributes["exception.message"]


@pytest.mark.anyio
async def test_the_keeper_is_killed(spans: Trace) -> None:
    with pytest.raises(agentsup.KeeperLost):
        async with (
            agentsup.Supervisor() as supervisor,
            supervisor.open(["sleep", "100"]) as process,
        ):
            assert lifeline._current
            os.kill(lifeline._current.pid, signal.SIGKILL)
            await process.wait()
    span = spans.only
    assert span.attributes
    assert span.attributes["error.type"] == "agentsup._errors.KeeperLost"
    assert span.attributes["process.pid"]
    assert events(span)[-1][0] == "exception"


@pytest.mark.anyio
async def test_it_ends_before_its_block(spans: Trace) -> None:
    async with agentsup.Supervisor() as supervisor, supervisor.open(["cat"], stdin=PIPE) as process:
        assert process.stdin
        assert not spans.ended
        await process.stdin.aclose()
        await process.wait()
        assert spans.only.status.status_code is StatusCode.UNSET


@pytest.mark.anyio
async def test_its_block_fails(spans: Trace) -> None:
    with pytest.raises(ZeroDivisionError):
        async with agentsup.Supervisor() as supervisor, supervisor.open(["sleep", "100"]):
            raise ZeroDivisionError
    assert (spans.only.attributes or {})["error.type"] == "builtins.ZeroDivisionError"


@pytest.mark.anyio
async def test_what_it_leaves_is_adopted(spans: Trace) -> None:
    async with agentsup.Supervisor() as supervisor:
        result = await supervisor.run(["sh", "-c", "sleep 100 &"], leftovers="adopt")
        assert result.adopted
        assert spans.only.status.status_code is StatusCode.UNSET
    assert spans.only


# --- without an event loop --------------------------------------------------------------------


def test_without_an_event_loop(spans: Trace) -> None:
    assert agentsup.run_sync(PRINTS_CONTEXT).stdout.text == f"{traceparent(spans.only)}||\n"
    with agentsup.SyncSupervisor(max_concurrency=1) as supervisor:
        assert supervisor.run(["false"], name="it").exit_code == 1
        with pytest.raises(FileNotFoundError):
            supervisor.run(["/there/is/no/such/program"])
    _, failed, missing = spans.ended
    assert (failed.attributes or {})["error.type"] == "1"
    assert failed.name == "execute_tool it"
    assert (missing.attributes or {})["error.type"] == "agentsup._errors.SpawnError"
    assert len(spans.begun) == 3


# --- the context ------------------------------------------------------------------------------


def test_baggage(spans: Trace) -> None:
    token = context.attach(baggage.set_baggage("user", "bob"))
    try:
        result = agentsup.run_sync(PRINTS_CONTEXT)
    finally:
        context.detach(token)
    assert result.stdout.text == f"{traceparent(spans.only)}||user=bob\n"


def test_what_was_inherited_is_replaced(spans: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", "00-old")
    monkeypatch.setenv("TRACESTATE", "old=1")
    for env in (None, dict(os.environ)):
        result = agentsup.run_sync(PRINTS_CONTEXT, env=env)
        assert result.stdout.text == f"{traceparent(spans.ended[-1])}||\n"


@pytest.mark.parametrize("option", ["env", "extend_env"])
def test_what_is_given_stays(spans: Trace, option: str) -> None:
    given = {"PATH": os.environ["PATH"], "TRACEPARENT": "00-mine"}
    result = agentsup.run_sync(PRINTS_CONTEXT, **{option: given})
    assert result.stdout.text == "00-mine||\n"


def test_the_state_goes_with_its_parent(spans: Trace) -> None:
    state = trace.TraceState([("vendor", "1")])
    remote = trace.SpanContext(0xABC, 0xDEF, True, trace.TraceFlags(1), state)
    with trace.use_span(trace.NonRecordingSpan(remote)):
        joined = agentsup.run_sync(PRINTS_CONTEXT)
        apart = agentsup.run_sync(PRINTS_CONTEXT, extend_env={"TRACEPARENT": "00-mine"})
    assert joined.stdout.text == f"{traceparent(spans.ended[0])}|vendor=1|\n"
    assert apart.stdout.text == "00-mine||\n"


def test_an_empty_environment(spans: Trace) -> None:
    result = agentsup.run_sync(["/usr/bin/env"], env={})
    assert result.stdout.text == f"TRACEPARENT={traceparent(spans.only)}\n"


def test_one_that_is_not_sampled(provide: Callable[..., None]) -> None:
    spans = Trace()
    provide(tracing(spans, sampler=ALWAYS_OFF))
    version, trace_id, span_id, flags = agentsup.run_sync(PRINTS_CONTEXT).stdout.text.split("-")
    assert (version, len(trace_id), len(span_id)) == ("00", 32, 16)
    assert int(flags[:2], 16) & 1 == 0
    assert not spans.begun


def test_a_remote_parent_without_an_sdk(provide: Callable[..., None]) -> None:
    provide(None)
    assert agentsup.run_sync(PRINTS_CONTEXT).stdout.text == "||\n"
    remote = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(remote)):
        result = agentsup.run_sync(PRINTS_CONTEXT)
    assert result.stdout.text == f"00-{0xABC:032x}-{0xDEF:016x}-01||\n"


def test_no_context_leaves_the_environment_alone(provide: Callable[..., None]) -> None:
    provide(None)
    block = b"A=1"
    assert with_context(block) is block


# --- what is broken there breaks nothing here -------------------------------------------------


class Broken(SpanProcessor):
    def __init__(self, *methods: str) -> None:
        for method in methods:
            setattr(self, method, self._fail)

    def _fail(self, *_: object, **__: object) -> None:
        raise RuntimeError("broken")


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["on_start", "on_end"])
async def test_a_broken_tracer(
    provide: Callable[..., None],
    method: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_telemetry, "_complaints", 0)
    provide(tracing(Broken(method)))
    result = await agentsup.run(["echo", "hello"])
    assert (result.outcome, result.stdout.text) == (Outcome.EXITED, "hello\n")
    async with agentsup.Supervisor() as supervisor:
        with anyio.move_on_after(0.05):
            await supervisor.run(["sleep", "100"])
        with pytest.raises(FileNotFoundError):
            await supervisor.run(["/there/is/no/such/program"])
    assert "agentsup.telemetry" in {record.name for record in caplog.records}


# --- metrics ----------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_metrics(measured: Callable[[], dict[str, dict[Any, Any]]]) -> None:
    supervisor = agentsup.Supervisor(max_concurrency=1)
    async with supervisor, anyio.create_task_group() as tasks:
        await supervisor.run(["sh", "-c", "printf 123; printf 45 >&2"])
        async with supervisor.open(["sleep", "100"]):
            tasks.start_soon(supervisor.run, ["true"])  # it has to wait
            await anyio.sleep(0.01)
            found = measured()
            assert found["call.active"] == {(): 2}
            assert found["keeper.round_trip"] == {(): 1}
        with agentsup.tool_call("search"):
            async with supervisor.open(["true"]) as process:
                await process.wait()
        with pytest.raises(FileNotFoundError):
            await supervisor.run(["/missing"])
        await supervisor.run(["sh", "-c", "sleep 100 & exit 0"])
    found = measured()
    assert found.pop("call.active")[()] in (0, None)
    assert found.pop("call.queued")[()] >= 1
    exited = {("sh", "exited"): 2, ("true", "exited"): 1, ("search", "exited"): 1}
    ended = exited | {("sleep", "stopped"): 1}
    assert found == {
        "call.count": ended | {("missing", "not_started"): 1},
        "call.duration": ended,
        "call.output": {("sh", "stdout"): 3, ("sh", "stderr"): 2},
        "escalations": {("SIGTERM",): 1, ("SIGKILL",): 1},
        "leftovers": {(): 1},
        "keeper.round_trip": {(): 2},
    }


def test_only_an_answer_that_was_asked_for_is_timed(
    measured: Callable[[], dict[str, dict[Any, Any]]],
) -> None:
    agentsup.run_sync(["sleep", "1.2"])  # after a second, run() asks whether it has started
    assert "keeper.round_trip" not in measured()


@pytest.mark.anyio
async def test_a_job_in_the_background(spans: Trace) -> None:
    async with agentsup.Supervisor() as sup:
        job = await sup.background(["sh", "-c", "echo $TRACEPARENT; exit 3"])
        await job.wait()
        printed = job.read_new()
    span = spans.only
    assert span.name == "execute_tool sh"
    assert span.attributes
    assert span.attributes[names.PROCESS_EXIT_CODE] == 3
    assert printed == f"{traceparent(span)}\n"


@pytest.mark.anyio
async def test_a_job_that_cannot_be_started(spans: Trace, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("no program")
    program.chmod(0o755)
    async with agentsup.Supervisor() as sup:
        with pytest.raises(agentsup.SpawnError):
            await sup.background([program])
    assert spans.only.status.status_code is StatusCode.ERROR
