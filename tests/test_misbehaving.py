"""Each misbehaving program does what it is there for, and agentsup ends all of it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from attrs import field, frozen
from tenacity import wait_fixed

import agentsup
from agentsup import (
    Command,
    FileExists,
    HealthCheck,
    HttpProbe,
    Limits,
    Outcome,
    OutputMatches,
    OutputPolicy,
    Service,
    ServiceState,
    Supervisor,
)
from agentsup.testing import Misbehaving

from .conftest import Marker

PATIENCE = 60.0  # seconds

STAYING: dict[str, Callable[[Misbehaving], Command]] = {
    "hangs": Misbehaving.hangs,
    "ignores_term": Misbehaving.ignores_term,
    "ignores_everything": Misbehaving.ignores_everything,
    "stops_itself": Misbehaving.stops_itself,
    "floods": Misbehaving.floods,
    "floods stderr": lambda bad: bad.floods(stream="stderr"),
    "partial_line": Misbehaving.partial_line,
    "half_closed_pipe": Misbehaving.half_closed_pipe,
    "forks_children": Misbehaving.forks_children,
    "leaks_memory": lambda bad: bad.leaks_memory(5_000_000),
    "crashes_after": lambda bad: bad.crashes_after(500),
    "slow_start": lambda bad: bad.slow_start(0.05, port=0),
    "flaky_health": lambda bad: bad.flaky_health(every=2),
}
ENDING: dict[str, Callable[[Misbehaving], Command]] = {
    "daemonizes": Misbehaving.daemonizes,
    "exits_while_child_holds_pipe": Misbehaving.exits_while_child_holds_pipe,
}


@pytest.fixture
def bad(marker: str) -> Misbehaving:
    """Its lifetime is in the command line of every process, and nobody else has the same."""
    return Misbehaving(lifetime=float(f"600.{marker}1"))


def pids(bad: Misbehaving) -> list[int]:
    return Marker(bad.lifetime).pids()


@frozen
class Started:
    """A program below subprocess, in its bad state."""

    process: subprocess.Popen[bytes]
    #: What it had said before ``ready``: ``{"pid": [123]}``
    said: dict[str, list[int]] = field(factory=dict)


@pytest.fixture
def start(bad: Misbehaving, until: Callable[..., None]) -> Iterator[Callable[..., Started]]:
    with contextlib.ExitStack() as stack:

        def kill_all() -> None:
            for pid in pids(bad):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        def start(command: Command, **options: Any) -> Started:
            process = subprocess.Popen(
                command.argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, **options
            )
            stack.enter_context(process)
            stack.callback(kill_all)
            started = Started(process)
            assert process.stdout
            for line in iter(process.stdout.readline, b"ready\n"):
                assert line, process.communicate()
                name, number = line.split()
                started.said.setdefault(name.decode(), []).append(int(number))
            return started

        yield start
    until(lambda: not pids(bad))


def is_open(stream: Any) -> bool:
    """Whether nothing has come, and may yet."""
    return not select.select([stream], [], [], 0)[0]


def has_ended(stream: Any) -> bool:
    """Whether its end comes next, and comes."""
    return bool(select.select([stream], [], [], PATIENCE)[0]) and stream.read(1) == b""


# --- with subprocess ----------------------------------------------------------------------------


def test_sigterm_ends_what_hangs(bad, start) -> None:
    process = start(bad.hangs()).process
    assert is_open(process.stdout)
    process.terminate()
    assert process.wait(PATIENCE) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("name", "tried", "deadly"),
    [
        ("ignores_term", [signal.SIGTERM], signal.SIGINT),
        (
            "ignores_everything",
            [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGRTMIN],
            signal.SIGKILL,
        ),
    ],
)
def test_signals_are_ignored(bad, start, name, tried, deadly) -> None:
    process = start(getattr(bad, name)()).process
    ignored = next(
        int(line.split()[1], 16)
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if line.startswith("SigIgn:")
    )
    assert all(ignored >> number - 1 & 1 for number in tried)
    for number in tried:
        process.send_signal(number)
    process.send_signal(deadly)
    assert process.wait(PATIENCE) == -deadly


def test_what_is_stopped_does_not_hear_sigterm(bad, start, until) -> None:
    process = start(bad.stops_itself()).process
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    process.terminate()
    assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
    process.send_signal(signal.SIGCONT)
    assert process.wait(PATIENCE) == -signal.SIGTERM
    until(lambda: not pids(bad))  # nor does its second process stay


@pytest.mark.parametrize("name", ["hangs", "ignores_everything", "stops_itself", "floods"])
def test_it_ends_by_itself(name) -> None:
    command = getattr(Misbehaving(lifetime=0.5), name)()
    done = subprocess.run(command.argv, stdout=subprocess.DEVNULL, timeout=PATIENCE)
    assert done.returncode == -signal.SIGALRM


def test_so_do_its_children(until, marker) -> None:
    bad = Misbehaving(lifetime=float(f"0.5{marker}1"))
    subprocess.run(bad.daemonizes().argv, stdout=subprocess.DEVNULL)
    until(lambda: not pids(bad))


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_flood_of_a_size(bad, stream) -> None:
    command = bad.floods(1_000_001, stream=stream)
    done = subprocess.run(command.argv, capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0
    assert done.stdout.startswith(b"ready\n")
    out, err = len(done.stdout) - len(b"ready\n"), len(done.stderr)
    assert (out, err) == ((1_000_001, 0) if stream == "stdout" else (0, 1_000_001))


def test_an_endless_flood_ends_with_its_pipe(bad, start) -> None:
    process = start(bad.floods()).process
    assert process.stdout.read(100) == b"x" * 79 + b"\n" + b"x" * 20
    process.stdout.close()
    assert process.wait(PATIENCE) == -signal.SIGPIPE


def test_a_partial_line(bad, start) -> None:
    process = start(bad.partial_line("Password: ")).process
    assert process.stdout.read(100) == b"Password: "
    assert is_open(process.stdout)
    command = bad.partial_line("half a character: ½", exits=True)
    done = subprocess.run(command.argv, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "ready\nhalf a character: ½")


def test_a_half_closed_pipe(bad, start) -> None:
    process = start(bad.half_closed_pipe(), stdin=subprocess.PIPE).process
    assert has_ended(process.stdout)
    assert has_ended(process.stderr)
    assert process.poll() is None
    os.set_blocking(process.stdin.fileno(), False)
    with contextlib.suppress(BlockingIOError):
        while process.stdin.write(b"x" * 4096):  # None when the pipe is full
            pass
    assert process.poll() is None


def test_a_daemon(bad, start, tmp_path) -> None:
    started = start(bad.daemonizes(pid_file=tmp_path / "pid"))
    [pid] = started.said["pid"]
    assert has_ended(started.process.stdout)  # the daemon does not hold it
    assert started.process.wait(PATIENCE) == 0
    assert (tmp_path / "pid").read_text() == f"{pid}\n"
    daemon = psutil.Process(pid)
    assert os.getsid(pid) not in (pid, os.getsid(0))
    assert daemon.cwd() == "/"
    assert not os.listdir(f"/proc/{pid}/fd")


def test_children_outlive_their_parent(bad, start, until) -> None:
    started = start(bad.forks_children(4))
    assert len(set(started.said["pid"])) == 4
    started.process.kill()
    started.process.wait()
    assert set(pids(bad)) == set(started.said["pid"])


def test_a_child_holds_the_pipe(bad, start) -> None:
    started = start(bad.exits_while_child_holds_pipe())
    assert started.process.wait(PATIENCE) == 0
    assert is_open(started.process.stdout)
    assert is_open(started.process.stderr)
    os.kill(*started.said["pid"], signal.SIGKILL)
    assert has_ended(started.process.stdout)


def test_leaked_memory(bad, start) -> None:
    process = start(bad.leaks_memory(30 * 1024**2)).process
    assert psutil.Process(process.pid).memory_info().rss > 30 * 1024**2


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda bad: bad.wrong_exit(), 1),
        (lambda bad: bad.wrong_exit(77), 77),
        (lambda bad: bad.dies_by(), -signal.SIGSEGV),
        (lambda bad: bad.dies_by("KILL"), -signal.SIGKILL),
        (lambda bad: bad.dies_by(signal.SIGPIPE), -signal.SIGPIPE),
        (lambda bad: bad.dies_by(signal.SIGINT), -signal.SIGINT),
    ],
)
def test_how_it_fails(bad, make, expected) -> None:
    done = subprocess.run(make(bad).argv, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (expected, b"", b"")


def test_crashes_at_its_start(bad, start, tmp_path) -> None:
    command = bad.crashes_at_start(times=2, count_in=tmp_path / "runs")
    for number in (1, 2):
        done = subprocess.run(command.argv, capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith(f"RuntimeError: crash {number} of 2\n")
    assert start(command).process.poll() is None


def test_crashes_later(bad, start) -> None:
    process = start(bad.crashes_after(0.01)).process
    assert process.wait(PATIENCE) == 1
    assert process.stderr.read().endswith(b"RuntimeError: crash after 0.01 s\n")


def test_a_slow_start(bad, start, tmp_path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind("\0agentsup-test-" + str(bad.lifetime))
        notify_socket = supervisor.getsockname().decode().replace("\0", "@")
        command = bad.slow_start(0.01, port=0, file=tmp_path / "up", notify=True)
        started = start(command, env={**os.environ, "NOTIFY_SOCKET": notify_socket})
        assert supervisor.recv(100) == b"READY=1"
    assert (tmp_path / "up").exists()
    address = ("127.0.0.1", *started.said["port"])
    for _ in range(2):
        with socket.create_connection(address, PATIENCE) as connection:
            assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [200, 200, 200]),
        ({"first": 2}, [503, 503, 200, 200]),
        ({"every": 2}, [200, 503, 200, 503]),
        ({"first": 1, "every": 3}, [503, 200, 503, 200, 200, 503]),
    ],
)
def test_flaky_health(bad, start, options, expected) -> None:
    [port] = start(bad.flaky_health(**options)).said["port"]
    assert [get_status(port) for _ in expected] == expected


def get_status(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


# --- below agentsup -----------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("name", STAYING)
async def test_agentsup_ends_all_of_what_stays(bad, name) -> None:
    async with Supervisor() as sup, sup.open(STAYING[name](bad), grace=0.1) as process:
        with anyio.fail_after(PATIENCE):
            async for line in process.lines():
                if line == "ready":
                    break
        assert pids(bad)
        process.stop()
        result = await process.wait()
        assert result.outcome is Outcome.STOPPED
        assert not pids(bad)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ENDING)
async def test_agentsup_ends_all_of_what_is_left(bad, name) -> None:
    result = await agentsup.run(ENDING[name](bad), timeout=PATIENCE)
    assert result.ok
    [left] = result.leftovers
    assert f"pid {left.pid}\nready\n" == result.stdout.text
    assert not pids(bad)


@pytest.mark.anyio
async def test_agentsup_on_a_flood(bad) -> None:
    result = await agentsup.run(bad.floods(), output=OutputPolicy(limit=100_000))
    assert result.outcome is Outcome.OUTPUT_LIMIT


@pytest.mark.anyio
async def test_agentsup_on_a_leak_of_memory(bad) -> None:
    result = await agentsup.run(bad.leaks_memory(2**34), limits=Limits(memory=200_000_000))
    assert not result.ok
    assert "MemoryError" in result.stderr.text


@pytest.mark.anyio
async def test_agentsup_restarts_what_crashes(bad, tmp_path) -> None:
    service = Service(
        "web",
        bad.crashes_at_start(times=2, count_in=tmp_path / "runs"),
        ready=OutputMatches("ready"),
        restart="permanent",
        backoff=wait_fixed(0.01),
    )
    async with Supervisor() as sup:
        with anyio.fail_after(PATIENCE):
            await sup.start_soon(service).wait_ready()
        [node] = sup.tree()
        assert (node.state, node.restarts) == (ServiceState.ACTIVE, 2)
    assert not pids(bad)


@pytest.mark.anyio
async def test_agentsup_waits_for_a_slow_start(bad, tmp_path) -> None:
    notifying = Service("a", bad.slow_start(0.05, notify=True), type="notify")
    making = Service(
        "b", bad.slow_start(0.05, file=tmp_path / "up"), ready=FileExists(tmp_path / "up")
    )
    async with Supervisor() as sup:
        with anyio.fail_after(PATIENCE):
            await sup.start(notifying, making)
    assert not pids(bad)


@pytest.mark.anyio
async def test_agentsup_on_flaky_health(bad, free_port) -> None:
    probe = HttpProbe(f"http://127.0.0.1:{free_port}/", status={200})
    check = HealthCheck(probe, interval=10, timeout=10, failures=1)
    service = Service(
        "web",
        bad.flaky_health(port=free_port, first=1),
        ready=OutputMatches("ready"),
        health=check,
        backoff=wait_fixed(0.01),
    )
    async with Supervisor() as sup:
        events = sup.events()
        await sup.start(service)
        with anyio.fail_after(PATIENCE):
            async for event in events:
                if event.state is ServiceState.BACKOFF:
                    break
        assert "status 503" in event.reason
    assert not pids(bad)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda bad: Misbehaving(lifetime=0), ValueError, "Misbehaving.lifetime must be more than"),
        (lambda bad: Misbehaving(lifetime=float("inf")), ValueError, "must be a finite number of"),
        (lambda bad: bad.floods(-1), ValueError, "size must be at least 0 bytes, not -1"),
        (lambda bad: bad.floods(stream="out"), ValueError, "stream must be one of stdout, stderr"),
        (lambda bad: bad.partial_line("a\n"), ValueError, "text holds a newline"),
        (lambda bad: bad.partial_line(b"a"), TypeError, "text must be a str, not b'a'"),
        (lambda bad: bad.partial_line(exits=1), TypeError, "exits must be a bool, not 1"),
        (lambda bad: bad.daemonizes(pid_file=3), TypeError, "pid_file must be a str or a path"),
        (lambda bad: bad.forks_children(0), ValueError, "count must be at least 1 children"),
        (lambda bad: bad.forks_children(None), TypeError, "count must be a whole number of"),
        (lambda bad: bad.leaks_memory(1.5), TypeError, "size must be a whole number of bytes"),
        (lambda bad: bad.wrong_exit(256), ValueError, "status must be at most 255"),
        (lambda bad: bad.dies_by("CHLD"), ValueError, "signal: no process dies by SIGCHLD"),
        (lambda bad: bad.dies_by("NONE"), ValueError, "signal: unknown signal 'NONE'"),
        (
            lambda bad: bad.crashes_at_start(times=0, count_in="a"),
            ValueError,
            "times must be at least 1",
        ),
        (lambda bad: bad.crashes_after(float("inf")), ValueError, "seconds must be a finite"),
        (lambda bad: bad.slow_start(-1), ValueError, "seconds must be zero or more seconds"),
        (lambda bad: bad.slow_start(1, notify=1), TypeError, "notify must be a bool, not 1"),
        (lambda bad: bad.flaky_health(port=70000), ValueError, "port must be at most 65535"),
        (lambda bad: bad.flaky_health(every=0), ValueError, "every must be at least 1 answers"),
    ],
)
def test_bad_input(bad, make, error, message) -> None:
    with pytest.raises(error, match=message):
        make(bad)


def test_every_program_has_its_options(bad, tmp_path) -> None:
    """None is made that the file of programs does not know."""
    from agentsup.testing import programs

    calls = [*STAYING.values(), *ENDING.values()]
    names = set()
    for command in (make(bad) for make in calls):
        *_, name, options = command.argv
        assert json.loads(options)["lifetime"] == bad.lifetime
        names.add(name)
        assert callable(getattr(programs, name))
    others = {"wrong_exit", "dies_by", "crashes_at_start"}
    assert names | others == {name for name in vars(Misbehaving) if name[0] != "_"} - {"lifetime"}
