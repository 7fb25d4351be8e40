"""Log lines: one JSON object each, whatever the record, and no secret in any."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agentsup
from agentsup import Service
from agentsup._errors import KeeperLost
from agentsup._telemetry import logs
from agentsup._values.result import Found, Leftover
from agentsup.logging import json_lines, redact_also

SECRET = "Qq7Zz-hunter2"
FORMATTER = json_lines()


def line(record: logging.LogRecord) -> dict[str, Any]:
    text = FORMATTER.format(record)
    assert "\n" not in text

    def no_constants(name: str) -> None:
        raise AssertionError(name)

    found = json.loads(text.encode("utf-8"), parse_constant=no_constants)
    json.dumps(found, ensure_ascii=False).encode("utf-8")  # no lone surrogates
    return found


def record(msg: object, *args: object, **extra: Any) -> logging.LogRecord:
    logger = logging.getLogger("some.where")
    return logger.makeRecord("some.where", logging.INFO, "f.py", 1, msg, args, None, extra=extra)


# --- the formatter ------------------------------------------------------------------------------


def test_what_a_line_has() -> None:
    made = record("%s of %d", "one", 2, size=3, who={"a": [1, None, True, 0.5]}, level="x")
    made.created = 1700000000.25
    assert line(made) == {
        "ts": "2023-11-14T22:13:20.250000Z",
        "level": "INFO",
        "logger": "some.where",
        "msg": "one of 2",
        "size": 3,
        "who": {"a": [1, None, True, 0.5]},
        "level_": "x",
    }


def test_the_tool_call_of_the_block() -> None:
    with agentsup.tool_call("search", id="call_1"):
        assert line(record("x")).items() >= {"call_id": "call_1", "tool": "search"}.items()
        assert line(record("x", call_id="2"))["call_id"] == "2"
    assert "call_id" not in line(record("x"))


@pytest.mark.anyio
async def test_the_name_of_the_task(anyio_backend: object) -> None:
    found: list[str] = []

    async def log() -> None:
        found.append(line(record("x"))["task_id"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log, name="the one")
    assert found == ["the one"]


def test_the_span_if_there_is_one() -> None:
    from opentelemetry import trace

    assert "trace_id" not in line(record("x"))
    context = trace.SpanContext(0xA1, 0xB2, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(context)):
        found = line(record("x"))
    assert (found["trace_id"], found["span_id"]) == ("a1".zfill(32), "b2".zfill(16))


def test_an_exception_and_a_stack() -> None:
    try:
        raise ValueError(f"password={SECRET}")
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    made.stack_info = "Stack (most recent call last):\n  there"
    found = line(made)
    assert found["exception"].startswith("Traceback (most recent call last):\n")
    assert found["exception"].endswith("ValueError: password=[redacted]")
    assert found["stack"] == made.stack_info
    assert made.exc_text is None  # which other formatters would take
    assert line(logging.makeLogRecord({"exc_text": f"token={SECRET}"}))["exception"] == (
        "token=[redacted]"
    )


def test_no_secret_wherever_it_is() -> None:
    command = ["curl", "-u", f"bob:{SECRET} {SECRET}", "--token", f"{SECRET} x"]
    text = json.dumps(
        [
            line(record(f"token={SECRET}")),
            line(record("token=%s", SECRET)),
            line(record("%s", command)),
            line(record("%s", ["mysql", f"-px {SECRET}"])),
            line(record("%(password)s of %(user)s", {"password": SECRET, "user": "bob"})),
            line(record("%d", f"token={SECRET}")),  # cannot be formatted
            line(record("x", password=SECRET, deep={"a": [{"api_key": [SECRET]}]})),
            line(record("x", argv=command, more=(command, [tuple(command)]))),
            line(record("x", env={"GITHUB_TOKEN": SECRET, "N": 1}, raw=f"token={SECRET}".encode())),
            line(record("x", shown=SimpleNamespace(password=SECRET), pin={"password": 7777777})),
            line(record("x", **{f"token={SECRET}": 1})),
        ]
    )
    assert SECRET not in text
    assert "7777777" not in text
    assert "of bob" in text


class Odd:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def endless() -> list[Any]:
    one: list[Any] = []
    one += [one, one, one]
    return one


class Keys(dict[Any, Any]):
    def items(self) -> Any:
        raise RuntimeError("no")


ODD = [
    *(Odd(), [Odd()], {Odd(): Odd()}, endless(), Keys(a=1), float("nan"), float("-inf"), 10**5000),
    *("\udc80", b"\xff\x00", "\x00\n\u2028", {"\ud800": "\ud800"}, {1, 2}, 1 + 2j, logging.INFO),
    *(list(range(100_000)), {n: n for n in range(100_000)}, [[[[[[[[[[[[1]]]]]]]]]]]]),
]


def test_odd_values_are_shown_somehow() -> None:
    for value in ODD:
        for made in (record("x", v=value), record("%s", value), record(value), record("%d", value)):
            line(made)
        assert len(json.dumps(line(record("x", v=value)))) < 20_000
    assert line(record("x", v=[[[[[[[[[[1]]]]]]]]]]))["v"] == [[[[[[[["[[1]]"]]]]]]]]
    assert line(record("x", v=Odd()))["v"] == "<Odd>"
    assert line(record("x", v=float("nan")))["v"] == "nan"
    assert line(record("x", v="\udc80"))["v"] == "\\udc80"
    assert line(record("x", v=b"\xc3\xa9\xff"))["v"] == "é\\xff"


def test_odd_records_are_shown_somehow() -> None:
    assert line(record("no %d", "number"))["msg"] == "no %d ('number',)"
    assert line(record("%s and %s", 1))["msg"] == "%s and %s (1,)"
    assert line(record("100%"))["msg"] == "100%"
    for field in ("created", "levelname", "name", "msg", "args", "exc_info", "exc_text"):
        for value in (*ODD, None, True, (1, 2, 3)):
            line(logging.makeLogRecord({field: value}))
    line(logging.makeLogRecord({"stack_info": Odd(), "taskName": Odd()}))


@settings(max_examples=30)
@given(
    st.recursive(
        st.none() | st.floats() | st.integers() | st.text() | st.binary(),
        lambda some: st.lists(some) | st.dictionaries(st.text(), some),
    )
)
def test_any_value_is_shown(value: Any) -> None:
    assert "v" in line(record("x", v=value))


def test_more_patterns() -> None:
    from agentsup._rules import redaction

    before = list(redaction._also)
    try:
        redact_also(r"ACME-\d+")
        assert line(record("of %s", "ACME-7", who="ACME-8"))["who"] == "[redacted]"
    finally:
        redaction._also[:] = before


# --- what the library logs ----------------------------------------------------------------------


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """All that is logged, at every level."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(json_lines())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.setLevel(level)
    root.removeHandler(handler)


def lines(out: io.StringIO, logger: str) -> list[dict[str, Any]]:
    found = map(json.loads, out.getvalue().splitlines())
    return [one for one in found if one["logger"] == logger]


@pytest.mark.anyio
async def test_a_call_with_a_secret(anyio_backend: object, out: io.StringIO) -> None:
    argv = ["sh", "-c", "exit 3", "sh", f"--token={SECRET}", "--password", SECRET]
    async with agentsup.Supervisor() as sup:
        with agentsup.tool_call("search", id="call_1"):
            await sup.run(argv, extend_env={"API_KEY": SECRET})
        await sup.run(["true"], name="well")
        with pytest.raises(agentsup.SpawnError):
            await sup.run([f"/nowhere?token={SECRET}"])
    assert SECRET not in out.getvalue()
    found = lines(out, "agentsup.calls")
    ends = {one["call"]: one for one in found if "outcome" in one}
    assert (
        ends["sh"].items()
        >= {
            "level": "INFO",
            "call_id": "call_1",
            "tool": "search",
            "outcome": "EXITED",
            "exit_code": 3,
        }.items()
    )
    assert ends["sh"]["msg"] == f"sh[{ends['sh']['pid']}] exited with status 3"
    assert ends["sh"]["argv"][-3:] == ["--token=[redacted]", "--password", "[redacted]"]
    assert ends["well"]["level"] == "DEBUG"
    starts = [one["msg"] for one in found if " starts: " in one["msg"]]
    assert starts[1] == "well starts: true"
    assert len({one["call_id"] for one in found}) == len(starts)


@pytest.mark.anyio
async def test_a_service_with_a_secret_that_fails(anyio_backend: object, out: io.StringIO) -> None:
    argv = ["sh", "-c", f"echo token={SECRET} >&2; exit 4", "sh", f"--token={SECRET}"]
    async with agentsup.Supervisor() as sup:
        service = Service("web", argv, restart="temporary", extend_env={"API_KEY": SECRET})
        handle = await sup.start(service)
        while handle.state is not agentsup.ServiceState.FAILED:
            await anyio.sleep(0.01)
    assert SECRET not in out.getvalue()
    found = lines(out, "agentsup.services")
    assert (found[0]["state"], found[0]["level"]) == ("activating", "INFO")
    assert (
        found[-1].items()
        >= {
            "level": "WARNING",
            "msg": f"web is failed: {found[-1]['reason']}",
            "service": "web",
            "previous": "active",
        }.items()
    )


def test_complaints_are_redacted_and_have_the_service(out: io.StringIO) -> None:
    from agentsup._services.complaints import Complaints

    Complaints("web")(f"a message from process 7: TOKEN={SECRET} ignored")
    (found,) = lines(out, "agentsup.services")
    assert found["msg"] == "web: a message from process 7: TOKEN=[redacted] ignored"
    assert (found["service"], found["complaint"]) == ("web", 1)


SPEC: Any = SimpleNamespace(argv=[b"tool", f"--token={SECRET}".encode()], name="tool")


def ended(caplog: pytest.LogCaptureFixture, result: Any, error: Exception | None = None) -> Any:
    caplog.clear()
    logs.CallLog(SPEC).ended(result, error)
    return caplog.records[-1]


def test_what_is_logged_has_no_secret_whatever_the_formatter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from agentsup._services.complaints import Complaints
    from agentsup._values.state import ServiceEvent, ServiceState

    caplog.set_level(logging.DEBUG)
    result = agentsup.run_sync(["sh", "-c", "exit 3", "sh", f"--token={SECRET}"])
    left = Leftover(7, ("daemon", f"--token={SECRET}"), Found.ORPHAN)
    call = logs.CallLog(SPEC)
    call.ended(_with(result, leftovers=(left,)), None)
    call.ended(None, OSError(f"no token={SECRET}"))
    states = ServiceState.FAILED, ServiceState.ACTIVE
    logs.service_event(ServiceEvent("web", *states, f"token={SECRET}", 0.0, 0.0))
    Complaints("web")(f"token={SECRET}")
    said = "".join(str(vars(one)) for one in caplog.records)
    assert SECRET not in said
    assert said.count("[redacted]") >= len(caplog.records) == 7


def test_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    result = agentsup.run_sync(["true"])
    left = Leftover(7, ("daemon",), Found.ORPHAN)
    killed = _with(result, leftovers=(left,), leftover_count=1)
    stuck = _with(result, leftovers=(_with(left, killed=False),), leftover_count=1)
    assert ended(caplog, result).levelname == "DEBUG"
    assert ended(caplog, killed).levelname == "INFO"
    assert ended(caplog, stuck).levelname == "WARNING"
    assert ended(caplog, None, OSError("no")).levelname == "INFO"
    assert ended(caplog, None, KeeperLost("gone")).levelname == "ERROR"
    assert ended(caplog, killed).leftovers == [{"pid": 7, "argv": ["daemon"], "killed": True}]


def _with(value: Any, **changes: Any) -> Any:
    from attrs import evolve

    return evolve(value, **changes)


def test_nothing_is_heard_by_default() -> None:
    program = """
import agentsup, sys
assert "logging" not in sys.modules
agentsup.run_sync(["false"])
import logging
agentsup.run_sync(["sh", "-c", "sleep 1000 & exit 3"])
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert re.fullmatch("", done.stdout + done.stderr)
