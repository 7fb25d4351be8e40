"""A service that makes no progress, or is not healthy, though it lives."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentsup import (
    CallableHeartbeat,
    CallableProbe,
    CommandProbe,
    FileExists,
    FileHeartbeat,
    HealthCheck,
    HttpProbe,
    NotifyHeartbeat,
    NotReady,
    Outcome,
    OutputHeartbeat,
    Service,
    ServiceState,
    Supervisor,
    TcpProbe,
    UnixProbe,
)
from agentsup._linux import lifeline

pytestmark = pytest.mark.anyio

one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])

LONG = 600.0  # seconds, which no test lasts
OFTEN = 1000  # restarts that no test comes to

TALK = """
import os, signal, socket, time
def say(text):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(text, os.environ["NOTIFY_SOCKET"])
"""


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def talking(program: str) -> list[str]:
    return [sys.executable, "-IS", "-c", TALK + program]


def due(handle: Any) -> float | None:
    """When it is to have given a sign of progress."""
    return handle._run.call.rule.deadline


async def events_until(events: Any, last: ServiceState) -> list[tuple[str, str]]:
    found = []
    with anyio.fail_after(20):
        async for event in events:
            found.append((event.state.value, event.reason))
            if event.state is last:
                break
    return found


# --- progress -----------------------------------------------------------------------------------

HEARTBEATS = {
    "notify": NotifyHeartbeat(0.1),
    "file": FileHeartbeat("beat", 0.1),
    "output": OutputHeartbeat(0.1),
    "function": CallableHeartbeat(lambda: False, 0.1),
}


@pytest.mark.parametrize("kind", HEARTBEATS)
async def test_one_that_makes_no_progress_is_restarted(kind: str, tmp_path: Path, marker) -> None:
    async with Supervisor(max_restarts=OFTEN) as sup:
        events = sup.events()
        handle = await sup.start(
            Service(
                *("a", sh(f"trap '' TERM; sleep {marker}")),
                heartbeat=HEARTBEATS[kind],
                grace=0.1,
                pre_stop=sh("echo pre_stop >> log"),
                post_stop=sh("echo $SERVICE_RESULT >> log"),
                cwd=tmp_path,
            )
        )
        await events_until(events, ServiceState.ACTIVE)
        found = await events_until(events, ServiceState.ACTIVE)
        result = handle.result
        assert (tmp_path / "log").read_text().split()[0] == "watchdog"
    assert [state for state, _ in found] == ["deactivating", "backoff", "activating", "active"]
    assert re.fullmatch(r"heartbeat lost after \d+\.\d s", found[0][1])  # said at once
    assert found[1][1] == found[0][1]
    assert result.outcome is Outcome.HEARTBEAT_LOST
    assert [step.action for step in result.escalation] == ["SIGTERM", "SIGKILL"]
    assert not marker.pids()


@one_loop
async def test_one_that_is_stopped_by_a_signal_is_restarted(tmp_path: Path, eventually) -> None:
    """It lives, and could even be asked whether it listens."""
    ticking = sh("while :; do echo x > beat; echo $$ >> beats; sleep 0.02; done")
    async with Supervisor(max_restarts=OFTEN) as sup:
        heartbeat = FileHeartbeat("beat", 1.0)
        handle = await sup.start(
            Service("a", ticking, heartbeat=heartbeat, grace=0.1, cwd=tmp_path)
        )
        first = due(handle)
        await eventually(lambda: due(handle) > first + 0.1)
        stopped = handle.pid
        os.kill(stopped, signal.SIGSTOP)
        await eventually(lambda: f"{handle.pid}\n" in (tmp_path / "beats").read_text()
                         and handle.pid != stopped)  # fmt: skip
        assert handle.restarts


@pytest.mark.parametrize("kind", ["file", "output", "function"])
async def test_progress_gives_it_more_time(kind: str, tmp_path: Path, eventually) -> None:
    heartbeat = {
        "file": FileHeartbeat("beat", LONG),
        "output": OutputHeartbeat(LONG),
        "function": CallableHeartbeat(lambda: True, LONG, interval=0.01),
    }[kind]
    ticking = sh("while read x; do echo; echo > beat; done < gate")
    os.mkfifo(tmp_path / "gate")
    gate = os.open(tmp_path / "gate", os.O_RDWR)
    async with Supervisor() as sup:
        handle = await sup.start(Service("a", ticking, heartbeat=heartbeat, cwd=tmp_path))
        first = due(handle)
        # A file's time is some milliseconds behind.
        await eventually(lambda: os.write(gate, b"\n") and due(handle) > first)
    os.close(gate)


@one_loop
async def test_it_has_to_make_progress_once_it_is_ready(tmp_path: Path, marker) -> None:
    script = f"rm -f ready; sleep 0.3; echo > ready; exec sleep {marker}"
    service = Service(
        *("a", sh(script)),
        ready=FileExists(str(tmp_path / "ready")),
        heartbeat=FileHeartbeat("beat", 0.1),
        cwd=tmp_path,
    )
    async with Supervisor(max_restarts=OFTEN) as sup:
        handle = await sup.start(service)
        events = sup.events()
        await events_until(events, ServiceState.BACKOFF)
        assert handle.result.outcome is Outcome.HEARTBEAT_LOST


@one_loop
async def test_a_daemon_has_to_make_progress(tmp_path: Path, marker) -> None:
    script = f"sleep {marker} > /dev/null 2>&1 & echo $! > pid; sleep 0.3"
    service = Service(
        *("d", sh(script)),
        type="forking",
        pid_file="pid",
        heartbeat=FileHeartbeat("beat", 0.1),
        cwd=tmp_path,
    )
    async with Supervisor(max_restarts=OFTEN) as sup:
        events = sup.events()
        handle = await sup.start(service)
        first = handle.pid
        await events_until(events, ServiceState.ACTIVE)
        found = await events_until(events, ServiceState.ACTIVE)
        assert found[0][0] == "deactivating"
        assert handle.result.outcome is Outcome.HEARTBEAT_LOST
        assert [handle.pid] == marker.pids() != [first]


@one_loop
async def test_a_daemon_says_that_it_makes_progress(tmp_path: Path, marker, eventually) -> None:
    daemon = f"""
if pid := os.fork():
    open({str(tmp_path / "pid")!r}, "w").write(str(pid))
    os._exit(0)
for line in open({str(tmp_path / "gate")!r}):
    say(b"WATCHDOG=1")
time.sleep({marker})
"""
    os.mkfifo(tmp_path / "gate")
    gate = os.open(tmp_path / "gate", os.O_RDWR)
    service = Service(
        *("d", talking(daemon)),
        type="forking",
        pid_file=tmp_path / "pid",
        heartbeat=NotifyHeartbeat(LONG),
    )
    async with Supervisor() as sup:
        handle = await sup.start(service)
        first = due(handle)
        os.write(gate, b"\n")
        await eventually(lambda: due(handle) > first)
    os.close(gate)


@one_loop
@pytest.mark.parametrize("heartbeat", [NotifyHeartbeat(1.5), None])
async def test_it_is_told_how_often(heartbeat, tmp_path: Path, monkeypatch) -> None:
    """By us; what the host is told by its own manager is not for its services."""
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    script = "echo ${WATCHDOG_USEC-none} ${WATCHDOG_PID-none} > new; mv new told; exec sleep 600"
    service = Service(
        *("a", sh(script)),
        ready=FileExists(str(tmp_path / "told")),
        heartbeat=heartbeat,
        cwd=tmp_path,
    )
    async with Supervisor() as sup:
        await sup.start(service)
    told = "none" if heartbeat is None else "1500000"
    assert (tmp_path / "told").read_text().split() == [told, "none"]


@one_loop
async def test_one_that_is_to_stop_needs_no_progress(tmp_path: Path, marker) -> None:
    """While what comes before that is done."""
    async with Supervisor() as sup:
        heartbeat = FileHeartbeat(tmp_path / "beat", 0.5)
        service = Service(
            *("a", ["sleep", marker]), heartbeat=heartbeat, pre_stop=sh("sleep 0.8"), grace=20.0
        )
        handle = await sup.start(service)
        await handle.stop()
    assert handle.result.outcome is Outcome.STOPPED
    assert handle.result.duration > 0.8


@one_loop
async def test_one_that_knows_that_it_makes_none(tmp_path: Path, marker) -> None:
    program = "say(b'READY=1'); say(b'WATCHDOG=trigger'); time.sleep(600)"
    service = Service(
        *("a", talking(program)),
        type="notify",
        heartbeat=NotifyHeartbeat(LONG),
        restart="temporary",
    )
    async with Supervisor() as sup:
        handle = await sup.start(service)
        with anyio.fail_after(20):
            assert await handle.wait() is ServiceState.FAILED
    assert handle.result.outcome is Outcome.HEARTBEAT_LOST
    assert "WATCHDOG=trigger" in handle.status_text


@one_loop
async def test_what_it_leaves_does_not_hold_up_its_restart(marker, eventually) -> None:
    """Not even for the time that the rest of its output would be waited for."""
    async with Supervisor() as sup:
        handle = await sup.start(Service("a", sh(f"sleep {marker}; exit")))
        await eventually(lambda: len(marker.pids()) == 2)
        assert handle._run.call.rule.terms.linger == 0
        left = set(marker.pids())
        os.kill(handle.pid, signal.SIGKILL)
        await eventually(lambda: handle.restarts and handle.ready)
        assert not left.intersection(marker.pids())


# --- liveness -----------------------------------------------------------------------------------

SERVER = """
import os, select, signal, socket, sys, time
listeners = [socket.create_server(("127.0.0.1", int(sys.argv[1]))), socket.socket(socket.AF_UNIX)]
try:
    os.unlink("s")
except FileNotFoundError:
    pass
listeners[1].bind("s")
listeners[1].listen()
status = 200
def become_503(*_):
    global status
    status = 503
    open("troubled", "w")
def become_deaf(*_):
    for listener in listeners:
        listener.close()
    open("troubled", "w")
    time.sleep(600)
signal.signal(signal.SIGUSR1, become_503)
signal.signal(signal.SIGUSR2, become_deaf)
while True:
    for listener in select.select(listeners, [], [])[0]:
        connection, _ = listener.accept()
        try:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 %d x\\r\\nContent-Length: 0\\r\\n\\r\\n" % status)
        except OSError:
            pass
        connection.close()
"""


@pytest.fixture
def port() -> Iterator[int]:
    """Nobody else gets it, but a program that may use it again can."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@one_loop
@pytest.mark.parametrize(
    ("kind", "trouble", "reason"),
    [
        ("http", signal.SIGUSR1, "HTTP status 503"),
        ("http", signal.SIGSTOP, "no answer within 0.3 s"),
        ("http over unix", signal.SIGUSR1, "HTTP status 503"),
        ("tcp", signal.SIGUSR2, "Connection refused"),
        ("unix", signal.SIGUSR2, "Connection refused"),
    ],
)
async def test_a_server_that_is_not_healthy_is_restarted(
    kind: str, trouble: signal.Signals, reason: str, port: int, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of the socket is to be short
    url = f"http://127.0.0.1:{port}/health"
    probe = {
        "http": HttpProbe(url),
        "http over unix": HttpProbe("http://a/health", unix_socket="s"),
        "tcp": TcpProbe(port),
        "unix": UnixProbe("s"),
    }[kind]
    bound = 0.3 if trouble == signal.SIGSTOP else 5.0
    wait = (
        "touch troubled"
        if trouble == signal.SIGSTOP
        else "while :; do test -e troubled && exit; done"
    )
    once = f"test -e troubled || {{ kill -{trouble.value} $MAINPID; {wait}; }}"
    service = Service(
        *("web", [sys.executable, "-IS", "-c", SERVER, str(port)]),
        ready=probe,
        post_start=sh(once),
        health=HealthCheck(probe, interval=bound, timeout=bound, failures=1, name="alive"),
        grace=0.1,
    )
    async with Supervisor(max_restarts=OFTEN) as sup:
        events = sup.events()
        handle = await sup.start(service)
        first = handle.pid
        await events_until(events, ServiceState.ACTIVE)
        found = await events_until(events, ServiceState.ACTIVE)
        assert found[0] == ("deactivating", f"unhealthy (alive): {reason}")
        assert handle.restarts == 1
        assert handle.pid != first


@pytest.mark.parametrize("kind", ["command", "function"])
async def test_one_that_is_not_healthy_is_restarted(
    kind: str, tmp_path: Path, marker, caplog
) -> None:
    """With all that its stop takes."""
    probe, reason = {
        "command": (
            CommandProbe(sh("test ! -e sick || { echo coughs; exit 1; }")),
            "exited with status 1: coughs",
        ),
        "function": (CallableProbe(lambda: not (tmp_path / "sick").exists()), "returned False"),
    }[kind]
    (tmp_path / "sick").touch()
    service = Service(
        *("a", ["sleep", marker]),
        health=HealthCheck(probe, interval=LONG, timeout=20.0, failures=1),
        pre_stop=sh("echo pre_stop $MAINPID >> log; rm -f sick"),
        post_stop=sh("echo $SERVICE_RESULT >> log"),
        cwd=tmp_path,
    )
    async with Supervisor() as sup:
        events = sup.events()
        handle = await sup.start(service)
        first = handle.pid
        await events_until(events, ServiceState.ACTIVE)
        found = await events_until(events, ServiceState.ACTIVE)
        log = (tmp_path / "log").read_text().split()
    assert [state for state, _ in found] == ["deactivating", "backoff", "activating", "active"]
    assert found[0][1] == found[1][1] == f"unhealthy (liveness check): {reason}"
    assert log[:3] == ["pre_stop", str(first), "watchdog"]
    assert f"a: liveness check failed (1 of 1): {reason}" in caplog.text


@one_loop
async def test_each_process_has_its_own_failures(marker, caplog, eventually) -> None:
    check = HealthCheck(lambda: False, interval=LONG, timeout=20.0, failures=2)
    async with Supervisor() as sup:
        handle = await sup.start(Service("a", ["sleep", marker], health=check))
        for count in 1, 2, 3:
            await eventually(lambda n=count: caplog.text.count("(1 of 2)") == n)
            if count < 3:
                os.kill(handle.pid, signal.SIGKILL)
    assert "(2 of 2)" not in caplog.text


@one_loop
async def test_one_that_says_that_it_stops_is_left_alone(
    tmp_path: Path, caplog, eventually
) -> None:
    os.mkfifo(tmp_path / "gate")
    program = f"say(b'READY=1'); say(b'STOPPING=1'); open({str(tmp_path / 'gate')!r}).read()"
    asked = 0

    def healthy() -> bool:
        nonlocal asked
        asked += 1
        return handle is None or handle.state is ServiceState.ACTIVE

    handle = None
    service = Service(
        *("a", talking(program)),
        type="notify",
        health=HealthCheck(healthy, interval=0.01, timeout=0.01, failures=1),
        restart="temporary",
    )
    async with Supervisor() as sup:
        handle = sup.start_soon(service)
        await eventually(lambda: handle.state is ServiceState.DEACTIVATING)
        before = asked
        await anyio.sleep(0.1)
        assert asked <= before + 1  # it may have been asked just now
        with open(tmp_path / "gate", "w"):
            pass
        with anyio.fail_after(20):
            assert await handle.wait() is ServiceState.INACTIVE
    assert not caplog.records


IMPORTS = """
import sys
import anyio
from agentsup import HealthCheck, HttpProbe, Service, Supervisor

async def main():
    async with Supervisor() as sup:
        sup.start_soon(Service("a", ["sleep", "600"], health=HealthCheck(print)))
        print("httpx" in sys.modules)
        check = HealthCheck(HttpProbe("http://127.0.0.1:1"))
        sup.start_soon(Service("b", ["sleep", "600"], health=check))
        print("httpx" in sys.modules)

anyio.run(main)
"""


def test_http_is_imported_before_anything_is_started() -> None:
    """If at all: that takes a while, in which the event loop does nothing else."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\nTrue\n", "")


# --- startup and readiness ----------------------------------------------------------------------


async def test_the_startup_check_comes_first(marker, eventually) -> None:
    answers = {"startup": False, "liveness": True, "readiness": True}
    asked = dict.fromkeys(answers, 0)

    def check(role: Any, **options: Any) -> HealthCheck:
        def ask() -> bool:
            asked[role] += 1
            return answers[role]

        return HealthCheck(ask, role=role, interval=0.02, timeout=0.02, **options)

    checks = check("liveness"), check("readiness"), check("startup", failures=OFTEN * OFTEN)
    async with Supervisor() as sup:
        handle = await sup.start(Service("a", ["sleep", marker], health=checks))
        await eventually(lambda: asked["startup"] > 3)
        assert not handle.ready
        assert asked["liveness"] == asked["readiness"] == 0
        answers["startup"] = True
        with anyio.fail_after(20):
            await handle.wait_ready()
        await eventually(lambda: asked["liveness"] > 1 and asked["readiness"] > 1)
        assert handle.restarts == 0


async def test_a_startup_that_comes_to_nothing(marker) -> None:
    check = HealthCheck(
        lambda: handle.restarts > 0, role="startup", interval=0.02, timeout=0.02, failures=2
    )
    async with Supervisor() as sup:
        handle = sup.start_soon(Service("a", ["sleep", marker], health=check))
        events = sup.events()
        found = await events_until(events, ServiceState.BACKOFF)
        assert found[-1][1] == "unhealthy (startup check): returned False"
        with anyio.fail_after(20):
            await handle.wait_ready()
        assert handle.restarts == 1


async def test_one_that_is_not_ready_is_not_restarted(marker, eventually) -> None:
    healthy = True
    check = HealthCheck(lambda: healthy, role="readiness", interval=0.02, timeout=0.02, failures=2)
    async with Supervisor() as sup:
        events = sup.events()
        handle = await sup.start(Service("a", ["sleep", marker], health=check))
        first = handle.pid
        with anyio.fail_after(20):
            await handle.wait_ready()
        healthy = False
        await eventually(lambda: not handle.ready)
        assert handle.status_text == (
            "not healthy: readiness check failed (2 of 2): returned False"
        )
        assert handle.state is ServiceState.ACTIVE
        healthy = True
        with anyio.fail_after(20):
            await handle.wait_ready()
        assert (handle.pid, handle.restarts) == (first, 0)
    with anyio.fail_after(20):
        found = [(event.state.value, event.reason) async for event in events]
    assert [state for state, _ in found] == [
        *("activating", *["active"] * 4, "deactivating", "inactive")
    ]
    assert [reason for _, reason in found[2:5]] == [
        *("healthy", "not healthy: readiness check failed (2 of 2): returned False", "healthy")
    ]


async def test_the_next_process_is_not_ready_because_the_last_one_was(marker, eventually) -> None:
    answers = iter([True])
    check = HealthCheck(lambda: next(answers, False), role="readiness", interval=LONG, timeout=20.0)
    async with Supervisor() as sup:
        handle = await sup.start(Service("a", ["sleep", marker], health=check))
        with anyio.fail_after(20):
            await handle.wait_ready()
        os.kill(handle.pid, signal.SIGKILL)
        await eventually(lambda: handle.restarts and handle.state is ServiceState.ACTIVE)
        assert not handle.ready
        await handle.stop()
        with pytest.raises(NotReady, match="stopped"):
            await handle.wait_ready()


async def test_failures_of_the_start_period_do_not_count(marker, caplog, eventually) -> None:
    answers = [False] * 5
    check = HealthCheck(
        lambda: answers.pop() if answers else True,
        role="readiness",
        failures=1,
        interval=LONG,
        timeout=20.0,
        start_period=LONG,
        start_interval=0.01,
    )
    async with Supervisor() as sup:
        handle = await sup.start(Service("a", ["sleep", marker], health=check))
        await eventually(lambda: handle.ready)
        assert handle.restarts == 0
    assert not answers
    assert not caplog.records  # they are no news


# --- idle ---------------------------------------------------------------------------------------


def wakeups(task: str) -> int:
    status = Path("/proc", task, "status").read_text()
    return int(status.split("voluntary_ctxt_switches:")[1].split()[0])


async def test_what_has_no_checks_costs_nothing(tmp_path: Path, marker) -> None:
    sleep = ["sleep", marker]
    services = (
        Service("plain", sleep),
        Service("notify", sleep, heartbeat=NotifyHeartbeat(LONG)),
        Service("file", sleep, heartbeat=FileHeartbeat(tmp_path / "beat", LONG)),
        Service("output", sleep, heartbeat=OutputHeartbeat(LONG)),
    )
    async with Supervisor() as sup:
        await sup.start(*services)
        await anyio.sleep(0.1)
        assert lifeline._current
        tasks = "thread-self", str(lifeline._current.pid)
        before = [wakeups(task) for task in tasks]
        await anyio.sleep(0.3)
        host, keeper = (wakeups(task) - n for task, n in zip(tasks, before, strict=True))
    assert keeper == 0
    assert host <= 2  # of this very test
