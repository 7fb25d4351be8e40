"""Servers that a session shares, and all workers of pytest-xdist."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest
import tenacity

import agentsup
from agentsup import ListenSocket, NotReady, OutputMatches, Service, ServiceState, SupervisorClosed
from agentsup.testing._holder import HEADER
from agentsup.testing.shared import SharedService, SharedSupervisor, connected

#: Says its number to whoever connects, and to a file when it starts. There must be one at a time.
SERVER = """
import fcntl, os, socket, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print(os.getpid(), file=file, flush=True)
print("serving", flush=True)
listening = socket.socket(fileno=3)
while True:
    connection, _ = listening.accept()
    connection.sendall(b"%d" % os.getpid())
    connection.close()
"""


def server(starts: Path) -> Service:
    return Service(
        "web",
        [sys.executable, "-c", SERVER, starts],
        ready=OutputMatches("serving"),
        sockets=ListenSocket("127.0.0.1:0"),
        backoff=tenacity.wait_fixed(0.01),
    )


def asked(web: SharedService) -> int:
    """The number of the process that answers."""
    host, port = web.addresses[0].split(":")
    with socket.create_connection((host, int(port))) as connection:
        return int(connection.recv(20))


def has_ended(pid: int | None) -> bool:
    """The holder is nobody's child: when its zombie goes is up to the system's init."""
    try:
        return psutil.Process(pid or 0).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def starts(tmp_path: Path) -> Path:
    return tmp_path / "starts"


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[], SharedSupervisor]]:
    """Makes what a worker has, all of the same run."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(SharedSupervisor(str(tmp_path))))
    assert connected() == []
    assert not os.path.exists(SharedSupervisor(str(tmp_path)).directory)


Worker = Callable[[], SharedSupervisor]


# --- who starts, and who stops ----------------------------------------------------------------


def test_it_runs_until_the_last_one_is_done(
    worker: Worker, starts: Path, until: Callable[..., None]
) -> None:
    one, two = worker(), worker()
    web = one.start(server(starts))
    running, holder = web.pid, one.holder
    assert two.start(server(starts)).pid == running == asked(web)
    assert connected() == [one, two] or connected() == [two, one]
    one.close()
    with pytest.raises(SupervisorClosed, match="is over"):
        one.start(server(starts))
    assert asked(two.start(server(starts))) == running
    two.close()
    assert has_ended(running)
    until(lambda: has_ended(holder))
    assert starts.read_text().split() == [str(running)]


def test_several_ask_at_the_same_time(worker: Worker, starts: Path) -> None:
    with ThreadPoolExecutor() as threads:
        workers = [worker() for _ in range(4)]
        webs = list(threads.map(lambda one: one.start(server(starts)), workers))
    assert [str(asked(web)) for web in webs] == starts.read_text().split() * 4
    assert len({one.holder for one in workers}) == 1


def test_one_comes_while_the_last_one_leaves(worker: Worker, starts: Path) -> None:
    together = threading.Barrier(3)

    def come_and_go(_: int) -> None:
        for _ in range(4):
            one = worker()
            web = one.start(server(starts))
            assert asked(web) == web.pid
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(10)
            one.close()

    with ThreadPoolExecutor() as threads:
        list(threads.map(come_and_go, range(3)))


KILLED = """
import os, sys, time
from agentsup import OutputMatches, Service
from agentsup.testing.shared import SharedSupervisor

run, marker = sys.argv[1:]
shared = SharedSupervisor(run)
shared.start(Service("running", ["sleep", marker]))
if not os.fork():  # a child that lives on has nothing to say
    time.sleep(float(marker))
print(shared.holder, flush=True)
shared.start(Service("starting", ["sleep", marker], ready=OutputMatches("never")))
"""


def test_the_only_one_is_killed(
    worker: Worker, tmp_path: Path, marker: Any, until: Callable[..., None]
) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), marker]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout
        holder = int(killed.stdout.readline())
        until(lambda: len(marker.pids()) == 4)  # it, its child, and two services
        killed.kill()
    until(lambda: has_ended(holder))
    (child,) = marker.pids()
    os.kill(child, signal.SIGKILL)


def test_another_user_is_not_let_in(worker: Worker, starts: Path) -> None:
    one = worker()
    os.mkdir(one.directory, 0o755)
    with pytest.raises(PermissionError, match="not a private directory"):
        one.start(server(starts))
    os.rmdir(one.directory)
    if os.geteuid() == 0:  # who can be another one
        one.start(server(starts))
        os.chmod(one.directory, 0o755)
        os.chmod(f"{one.directory}/socket", 0o777)
        pid = os.fork()
        if not pid:
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(ConnectionError):
                connection.connect(f"{one.directory}/socket")
                request = pickle.dumps(("join",))
                connection.sendall(HEADER.pack(len(request)) + request)
                os._exit(len(connection.recv(1)))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.chmod(one.directory, 0o700)


# --- services ---------------------------------------------------------------------------------


def test_it_is_restarted_by_its_rule(
    worker: Worker, starts: Path, until: Callable[..., None]
) -> None:
    web = worker().start(server(starts))
    assert web.pid
    os.kill(web.pid, signal.SIGKILL)
    until(lambda: web.restarts == 1 and web.state is ServiceState.ACTIVE)
    assert web.pid == asked(web)
    assert web.output == "serving\n"


def test_it_is_stopped_and_started_by_hand(worker: Worker, starts: Path) -> None:
    one = worker()
    web = one.start(server(starts))
    before = web.addresses
    web.stop()
    assert (web.state, web.pid) == (ServiceState.INACTIVE, None)
    web.start()
    web.restart()
    web.stop()
    assert one.start(server(starts)).addresses == before
    assert asked(web) == web.pid
    assert len(starts.read_text().split()) == 4


def test_all_that_wait_for_it_hear_that_it_failed(
    worker: Worker, tmp_path: Path, starts: Path, until: Callable[..., None]
) -> None:
    go = tmp_path / "go"
    script = f"echo >>{starts}; until [ -e {go} ]; do sleep 0.01; done; echo broken; exit 3"
    failing = Service("failing", agentsup.shell(script), ready=OutputMatches("never"))
    with ThreadPoolExecutor() as threads:
        waiting = [threads.submit(worker().start, failing) for _ in range(2)]
        until(lambda: sum(map(reads_a_reply, sys._current_frames().values())) == 2)
        go.touch()
        for one in waiting:
            with pytest.raises(NotReady, match=r"(?s)failing: .*status 3.*broken"):
                one.result()
    assert starts.read_text() == "\n"
    with pytest.raises(NotReady):  # a new attempt
        worker().start(failing)
    assert starts.read_text() == "\n\n"


def test_its_restart_fails_while_somebody_asks_for_it(
    worker: Worker, tmp_path: Path, starts: Path, until: Callable[..., None]
) -> None:
    go = tmp_path / "go"
    again = f"until [ -e {go} ]; do sleep 0.01; done; exit 3"
    script = f"[ -e {starts} ] && {{ {again}; }}; echo $$ >{starts}; echo up; exec sleep 600"
    one = worker()
    fragile = Service(
        "fragile",
        agentsup.shell(script),
        ready=OutputMatches("up"),
        give_up=tenacity.stop_after_attempt(2),
    )
    first = one.start(fragile)
    os.kill(int(starts.read_text()), signal.SIGKILL)
    until(lambda: first.restarts == 1 and first.state is ServiceState.ACTIVATING)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(one.start, fragile)
        until(lambda: any(map(reads_a_reply, sys._current_frames().values())))
        go.touch()
        with pytest.raises(NotReady, match=r"fragile: .*status 3"):
            waiting.result()


def reads_a_reply(frame: FrameType | None) -> bool:
    """In a thread that has sent its request."""
    return frame is not None and frame.f_code.co_name == "readinto"


def test_each_has_its_own_restart_limit(
    worker: Worker, starts: Path, until: Callable[..., None]
) -> None:
    one = worker()
    web = one.start(server(starts))
    doomed = one.start(Service("doomed", ["sh", "-c", "echo oh; exit 1"]))
    with pytest.raises(agentsup.RestartLimitReached, match="doomed: more than 3 restarts"):
        until(lambda: doomed.state is None)
    assert asked(web) == web.pid
    assert one.sections() == [
        ("shared service 'web'", "serving\n"),
        (
            "shared service 'doomed'",
            "doomed: more than 3 restarts within 5 s; exited with status 1\noh",
        ),
    ]


def test_it_runs_where_the_first_one_is(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = worker(), worker()
    assert one.port("db") == two.port("db") != one.port("cache")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHO", "one")
    once = Service("once", ["sh", "-c", "echo $WHO in $PWD"], type="oneshot")
    assert one.start(once).output == f"one in {tmp_path}\n"
    monkeypatch.setenv("WHO", "two")
    assert two.start(once).output == f"one in {tmp_path}\n"


# --- what goes wrong --------------------------------------------------------------------------


def test_bad_input(worker: Worker, starts: Path) -> None:
    one = worker()
    with pytest.raises(ValueError, match=r"Service.ready of 'web' cannot go to the process that"):
        one.start(Service("web", ["sleep", "9"], ready=lambda: True))
    with pytest.raises(TypeError, match="must be an agentsup"):
        one.start("web")  # type: ignore[arg-type]  # is what is tested
    assert not connected()
    one.start(server(starts))
    with pytest.raises(
        ValueError, match="'web' already, with another command, ready, backoff, sockets"
    ):
        worker().start(Service("web", ["sleep", "9"]))
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        one.start(Service("other", ["no-such-program"]))
    with pytest.raises(SupervisorClosed, match="no shared service 'third'"):
        SharedService("third", one._ask).restart()


def test_the_holder_is_killed(worker: Worker, starts: Path, until: Callable[..., None]) -> None:
    one, two = worker(), worker()
    web = one.start(server(starts))
    two.start(server(starts))
    assert one.holder
    running = web.pid
    os.kill(one.holder, signal.SIGKILL)
    until(lambda: has_ended(running))
    with pytest.raises(SupervisorClosed, match=rf"process {one.holder}, has died"):
        one.start(server(starts))
    web = one.start(server(starts))
    assert asked(web) == web.pid != running
    ((_, text),) = two.sections()
    assert "has died" in text
    assert not two.sections()


def test_the_holder_cannot_start(
    worker: Worker, starts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = worker()
    library = os.path.dirname(os.__file__)
    monkeypatch.setattr(sys, "path", [library, f"{library}/lib-dynload"])
    with pytest.raises(NotReady, match=r"(?s)holder of shared services: .*No module named 'agents"):
        one.start(server(starts))


# --- in sessions of pytest --------------------------------------------------------------------

SESSION = f"""
import os, sys, time
import pytest
from agentsup import ListenSocket, Service
from agentsup.testing.shared import connected

SERVER = {SERVER!r}

def is_ready():
    return os.path.exists("starts")

@pytest.fixture(scope="session")
def web(session_supervisor, pytestconfig):
    return session_supervisor.start(Service(
        "web", [sys.executable, "-c", SERVER, pytestconfig.rootpath / "starts"],
        ready=is_ready, sockets=ListenSocket("127.0.0.1:0"),
    ))

@pytest.mark.parametrize("number", range(6))
def test_it(web, number, pytestconfig):
    with open(pytestconfig.rootpath / "seen", "a") as file:
        print(web.pid, os.getpid(), connected()[0].holder, file=file)
"""


CRASHES = """
def test_crash(web, pytestconfig):
    while len({line.split()[1] for line in open(pytestconfig.rootpath / "seen")}) < 2:
        time.sleep(0.01)
    os._exit(1)
"""

WAITS = """
def test_wait(web, pytestconfig):
    (pytestconfig.rootpath / "waits").touch()
    while not (pytestconfig.rootpath / "go").exists():
        time.sleep(0.01)
"""

FAILS = """
def test_failing(web):
    assert not web.pid
"""

OPTIONS = ("-p", "agentsup.testing.plugin", "-p", "xdist.plugin")


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """With no other plugins, and a configuration of its own."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makefile(".ini", pytest="")
    return pytester


def seen(path: Path) -> tuple[int, int, int]:
    """The only server and the only holder that were there; and how many sessions used them."""
    lines = [line.split() for line in (path / "seen").read_text().splitlines()]
    server_pids, sessions, holders = (set(column) for column in zip(*lines, strict=True))
    assert [*server_pids] == (path / "starts").read_text().split()
    assert len(holders) == 1
    return int(*server_pids), int(*holders), len(sessions)


def test_without_xdist(inner: pytest.Pytester, until: Callable[..., None]) -> None:
    inner.makepyfile(SESSION + FAILS)
    result = inner.runpytest_subprocess(*OPTIONS)
    result.assert_outcomes(passed=6, failed=1)
    result.stdout.fnmatch_lines(["*shared service 'web'*", "serving"])
    server_pid, holder, sessions = seen(inner.path)
    assert sessions == 1
    assert has_ended(server_pid)
    until(lambda: has_ended(holder))


def test_with_xdist(inner: pytest.Pytester, until: Callable[..., None]) -> None:
    inner.makepyfile(SESSION + CRASHES)
    inner.runpytest_subprocess(*OPTIONS, "-n2").assert_outcomes(passed=6, failed=1)
    server_pid, holder, sessions = seen(inner.path)
    assert sessions == 2
    until(lambda: has_ended(server_pid) and has_ended(holder))


def test_the_controller_of_xdist_is_killed(
    inner: pytest.Pytester, until: Callable[..., None]
) -> None:
    inner.makepyfile(SESSION + WAITS)
    command = [sys.executable, "-m", "pytest", *OPTIONS, "-n1"]
    with subprocess.Popen(command, cwd=inner.path, stdout=subprocess.DEVNULL) as controller:
        until((inner.path / "waits").exists)
        server_pid, holder, _ = seen(inner.path)
        controller.kill()
    (inner.path / "go").touch()
    until(lambda: has_ended(server_pid) and has_ended(holder))
