"""The leak detector: what a test leaves is named, with who started it, and taken away."""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentsup._calls.call import Call
from agentsup._calls.spec import make_spec
from agentsup._linux.keeper import is_zombie, prctl
from agentsup.testing import leaks, origins
from agentsup.testing.leaks import Detector, Leak

# Lines that are to be named end with a number, as do the names of their tests.
LEAKING = """
import os, socket, subprocess, sys, tempfile, threading, pytest

kept = []
SERVER = '''
import signal, socket
with socket.create_server(("127.0.0.1", 0)):
    print(flush=True)
    signal.pause()
'''

def start_daemon(seconds):
    script = f"setsid sleep {seconds} >/dev/null 2>&1 &"
    subprocess.run(["sh", "-c", script], check=True)  # 1

def test_daemon_1():
    start_daemon("MARKER")

def test_child_and_its_child_2():
    kept.append(subprocess.Popen(["sh", "-c", "sleep MARKER & sleep MARKER"]))  # 2

def test_server_3():
    child = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE)  # 3
    with child.stdout as out:
        out.readline()
    kept.append(child)

def test_zombie_4():
    kept.append(subprocess.Popen(["true"]))  # 4
    os.waitid(os.P_PID, kept[-1].pid, os.WEXITED | os.WNOWAIT)

def test_forked_zombie_5():
    pid = os.fork() or os._exit(0)  # 5
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

def test_thread_6():
    kept.append(threading.Event())
    threading.Thread(target=kept[-1].wait, name="waits", daemon=True).start()  # 6

def test_descriptor_7():
    kept.append(open("opened", "w"))  # 7

def test_socket_8():
    kept.extend(socket.socketpair())  # 8

def test_port_9():
    kept.append(socket.create_server(("127.0.0.1", 0)))  # 9
    with open("port", "w") as file:
        print(kept[-1].getsockname()[1], file=file)

def test_file_10():
    fd, path = tempfile.mkstemp(prefix="MARKER")  # 10
    os.close(fd)

def test_directory_11():
    path = tempfile.mkdtemp(prefix="MARKER")  # 11
    open(path + "/in it", "w").close()

def test_pipe_12():
    kept.append(os.pipe())

@pytest.fixture
def bad():
    yield
    start_daemon("MARKER")
    raise RuntimeError("of the fixture")

def test_bad_teardown_1(bad):
    pass

def test_that_fails_1():
    start_daemon("MARKER")
    assert not "of the test"

def test_the_next_one_starts_clean():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                assert "MARKER" not in file.read()
        except OSError:
            pass
    with open("port") as file, socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", int(file.read())))
    assert not [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("MARKER")]
"""
NAMED = {
    "daemon_1": r"process \d+: sleep MARKER\n[E ]+started by: sh -c 'setsid sleep .*",
    "child_and_its_child_2": r"process \d+: sh -c 'sleep MARKER & sleep MARKER'",
    "server_3": r"process \d+: \S+ -c .* \(listening on 127\.0\.0\.1:\d+\)",
    "zombie_4": r"zombie \d+: true",
    "forked_zombie_5": r"zombie \d+: \S+",
    "thread_6": r"thread: waits \(daemon\)",
    "descriptor_7": r"fd \d+: \S+/opened",
    "socket_8": r"socket \d+: AF_UNIX SOCK_STREAM",
    "port_9": r"port \d+: AF_INET SOCK_STREAM 127\.0\.0\.1:\d+",
    "file_10": r"file: /\S+/MARKER\w+",
    "directory_11": r"file: /\S+/MARKER\w+",
    "pipe_12": r"fd \d+: pipe:\[\d+\]",
    "bad_teardown_1": r"process \d+: sleep MARKER\n[E ]+started by: .*",
    "that_fails_1": r"process \d+: sleep MARKER\n[E ]+started by: .*",
}


def session(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest in the directory of the test."""
    others = ("asyncio", "trio", "xprocess")
    return pytester.runpytest_subprocess(*(f"-pno:{name}" for name in others), *arguments)


def impatient(pytester: pytest.Pytester) -> None:
    """Nothing that is left there ends by itself."""
    pytester.makeconftest("from agentsup.testing import leaks; leaks.GRACE = 0.01")


def test_each_kind_is_named_with_its_origin(pytester: pytest.Pytester, marker: str) -> None:
    source = LEAKING.strip().replace("MARKER", marker)
    impatient(pytester)
    pytester.makepyfile(test_leaking=source)
    result = session(pytester, "--agentsup-leaks")
    result.assert_outcomes(passed=len(NAMED), failed=1, errors=len(NAMED))
    output = result.stdout.str()
    for name, pattern in NAMED.items():
        report = re.split(r"\n_+ ", output.split(f"ERROR at teardown of test_{name} ", 1)[1])[0]
        assert re.search(f"left behind: {pattern}".replace("MARKER", marker), report), report
        number = name.rpartition("_")[2]
        lines = [
            f"test_leaking.py:{at} in "
            for at, line in enumerate(source.splitlines(), 1)
            if line.endswith(f"# {number}")
        ]
        assert not lines or any(line in report for line in lines), report
    assert "RuntimeError: of the fixture" in output
    assert re.search(r"test_leaking.py:\d+ in test_daemon_1\n", output)  # the second frame


def test_the_summary_names_a_daemon(
    pytester: pytest.Pytester, marker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By marker, and with several workers."""
    monkeypatch.setenv("COLUMNS", "200")
    impatient(pytester)
    pytester.makepyfile(f"""
        import subprocess, pytest

        def leak():
            subprocess.run(["sh", "-c", "setsid sleep {marker} >/dev/null 2>&1 &"])

        def test_others(): pass

        @pytest.mark.agentsup_leaks
        def test_daemon(): leak()

        class TestAlso:
            pytestmark = pytest.mark.agentsup_leaks
            def test_daemon(self): leak()
            @pytest.mark.agentsup_leaks(False)
            def test_off(self): leak()
    """)
    result = session(pytester, "-n2", "-q")
    for pid in marker.pids():  # of the one that was not to be looked at
        os.kill(pid, signal.SIGKILL)
    result.assert_outcomes(passed=4, errors=2)
    for name in ("test_daemon", "TestAlso::test_daemon"):
        result.stdout.fnmatch_lines([f"ERROR *::{name} - Failed: left behind: * sleep {marker}"])


CLEAN = """
import concurrent.futures, os, socket, subprocess, tempfile, threading, time
import anyio, pytest, agentsup

kept = []
ORPHANS = "while read line; do (sleep 99 &); done"

@pytest.fixture(scope="session")
def server():
    def serve():
        while True:
            try:
                accepted.append(listener.accept()[0])
            except OSError:
                return
            accepted.append(open(os.devnull))
            with open("/dev/null") as null:
                accepted.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=null))
    accepted = []
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        subprocess.Popen(["sh", "-c", ORPHANS], stdin=-1, start_new_session=True) as child,
        tempfile.TemporaryDirectory() as directory,
        open(os.devnull) as file,
    ):
        thread = threading.Thread(target=serve)
        thread.start()
        yield child, listener
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        os.killpg(child.pid, 9)
        for one in accepted:
            if isinstance(one, subprocess.Popen):
                one.communicate()
            else:
                one.close()

@pytest.fixture(scope="module")
def pool():
    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield pool

@pytest.fixture(scope="module", autouse=True)
def supervisor_of_all():
    with agentsup.SyncSupervisor() as supervisor:
        yield supervisor

def test_what_wider_fixtures_do_is_theirs(server, pool, supervisor_of_all):
    child, listener = server
    child.stdin.write(b"\\n"); child.stdin.flush()
    with socket.create_connection(listener.getsockname()):
        pass
    assert pool.submit(int, 5).result() == 5
    assert supervisor_of_all.run(["true"]).ok

def test_clean(tmp_path):
    with tempfile.TemporaryDirectory(), tempfile.NamedTemporaryFile(), socket.socket():
        subprocess.run(["sh", "-c", "sleep 0.01 & (true &)"])
    thread = threading.Thread(target=time.sleep, args=(0.01,), daemon=True)
    thread.start()
    os.close(tempfile.mkstemp(dir=tmp_path)[0])

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [
    ("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})
])
async def test_loops(anyio_backend, server):
    await anyio.to_thread.run_sync(time.sleep, 0)
    await anyio.run_process(["true"])
    async with agentsup.Supervisor() as supervisor:
        assert (await supervisor.run(["sh", "-c", "sleep 99 & true"])).ok
        async with await anyio.connect_tcp(*server[1].getsockname()) as stream:
            await stream.send(b"x")

@pytest.fixture(scope="module", params=[("asyncio", {}), ("trio", {})])
def anyio_backend(request):
    return request.param

@pytest.fixture(scope="module")
async def long_lived(anyio_backend):
    async with agentsup.Supervisor() as supervisor:
        service = agentsup.Service("s", ["sleep", "99"], restart="permanent")
        yield supervisor, await supervisor.start(service)

@pytest.mark.anyio
async def test_of_a_wider_loop(long_lived):
    supervisor, service = long_lived
    await supervisor.start(agentsup.Service("another", ["sleep", "99"]))
    before = service.pid
    await anyio.to_thread.run_sync(os.kill, before, 9)
    with anyio.fail_after(60):
        while service.pid in (before, None):
            await anyio.sleep(0.01)

@pytest.fixture
def of_the_ignored():
    yield
    tempfile.mkdtemp(prefix="IGNORED")

def test_ignored(of_the_ignored): pass

@pytest.fixture(scope="module")
def does_not_end_it():
    kept.append(subprocess.Popen(["sleep", "99"]))

def test_a_fixture_has_ended_and_its_process_has_not(does_not_end_it): pass
"""


def test_nothing_is_said_of_what_is_not_the_tests(pytester: pytest.Pytester, marker: str) -> None:
    pytester.makeini(f"""
        [pytest]
        agentsup_leaks = true
        agentsup_leaks_ignore =
            file:*/{marker}*
            fd:/nothing
        filterwarnings = error
    """)
    pytester.makepyfile(test_clean=CLEAN.replace("IGNORED", marker))
    result = session(pytester, "-v")
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_a_fixture_has_ended_*"])
    result.stdout.fnmatch_lines(["left behind: process *: sleep 99"])
    result.assert_outcomes(passed=9, errors=1)
    for name in os.listdir(tempfile.gettempdir()):
        if name.startswith(marker):
            os.rmdir(os.path.join(tempfile.gettempdir(), name))


def test_a_pattern_names_a_kind(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nagentsup_leaks_ignore = sockets:*")
    pytester.makepyfile("def test(): pass")
    result = pytester.runpytest_inprocess("-pno:asyncio", "-pno:trio", "--agentsup-leaks")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*agentsup_leaks_ignore: 'sockets:[*]' is not KIND:PATTERN*"])


# --- one by one ---------------------------------------------------------------------------------


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Detector]:
    monkeypatch.setattr(leaks, "GRACE", 0.01)
    detector = Detector()
    detector.begin()
    try:
        yield detector
    finally:
        detector.end()


def found(left: list[Leak]) -> list[tuple[str, str]]:
    return [(leak.kind, leak.name) for leak in left]


def test_a_tool_of_agentsup_is_found_and_killed(detector: Detector, marker: Any) -> None:
    call = Call(make_spec(["sleep", marker], {}))
    call.prepare()
    assert call.send()  # here
    while not marker.pids():
        call.step(0.01)
    left = detector.end()
    assert ("process", f"sleep {marker}") in found(left)
    assert not marker.pids()
    (tool,) = [leak for leak in left if leak.kind == "process"]
    assert any(
        f"in {test_a_tool_of_agentsup_is_found_and_killed.__name__}" in line
        for line in tool.lines()
    )
    call.close()


def test_an_orphan_that_has_ended_was_no_leak(detector: Detector, until: Any) -> None:
    script = "setsid sh -c 'echo $$' &"
    pid = int(subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE).stdout)
    until(lambda: is_zombie(pid))
    assert not detector.end()
    assert not os.path.exists(f"/proc/{pid}")


def test_what_has_been_killed_may_take_its_time(
    detector: Detector, marker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that has much memory."""
    subprocess.run(["sh", "-c", f"setsid sleep {marker} >/dev/null 2>&1 &"])
    while not marker.pids():
        time.sleep(0.001)
    (pid,) = marker.pids()
    looks = iter(range(20))

    def is_dying(pid: int) -> bool:
        if next(looks) == 19:
            os.kill(pid, signal.SIGKILL)
        return True

    assert not leaks._is_dying(pid)
    monkeypatch.setattr(leaks, "_is_dying", is_dying)
    assert not detector.end()


def test_a_killed_process_is_dying() -> None:
    assert leaks._is_dying(2**22 + 1)  # there is none
    with subprocess.Popen(["sleep", "99"]) as child:
        child.kill()
        assert leaks._is_dying(child.pid)


def test_what_only_waits_for_the_collector_is_no_leak(detector: Detector) -> None:
    class Owner:
        def __init__(self) -> None:
            self.me = self
            self.fd = os.open(os.devnull, os.O_RDONLY)

        def __del__(self) -> None:
            os.close(self.fd)

    Owner()
    assert not detector.end()


def test_where_it_has_come_from_may_be_a_guess(detector: Detector, marker: Any) -> None:
    for script in (f"setsid sleep {marker} >/dev/null 2>&1 &", "exec 2>&1"):
        subprocess.run(["sh", "-c", script])
    (leak,) = detector.end()
    assert [line for line in leak.lines() if line.startswith("most likely started by: sh -c ")]


def test_of_several_it_is_the_one_with_the_same_arguments(detector: Detector) -> None:
    for seconds in ("98", "99"):
        os.posix_spawnp("sleep", ["sleep", seconds], os.environ)
    origins = [leak.origin for leak in detector.end() if leak.origin]
    assert {(origin.command, origin.guessed) for origin in origins} == {
        ("sleep 98", False),
        ("sleep 99", False),
    }


def test_a_temporary_file_elsewhere_is_meant(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(detector, "ignored", ())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    tempfile.mkdtemp(dir=elsewhere)
    left = tempfile.mkdtemp()
    assert found(detector.end()) == [("file", left)]


def test_an_orphan_may_be_a_child_of_a_uvloop_that_lasts(until: Any) -> None:
    with select.epoll():
        detector = Detector()
        detector.begin()
        detector._had_uvloop = True
        script = "setsid sh -c 'echo $$' &"
        pid = int(subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE).stdout)
        until(lambda: is_zombie(pid))
        assert not detector.end()
        assert os.waitpid(pid, 0) == (pid, 0)


def test_a_process_that_others_wait_for_hears_of_its_end(detector: Detector) -> None:
    child = subprocess.Popen(["sleep", "99"])
    assert found(detector.end()) == [("process", "sleep 99")]
    assert child.returncode == -signal.SIGKILL


def test_the_setting_for_orphans_is_what_it_was() -> None:
    def is_subreaper() -> bool:
        value = ctypes.c_int()
        ctypes.CDLL(None).prctl(37, ctypes.byref(value), 0, 0, 0)
        return bool(value.value)

    before = is_subreaper()
    try:
        for setting in (0, 1):
            prctl(36, setting)
            detector = Detector()
            detector.begin()
            assert is_subreaper()
            detector.end()
            assert is_subreaper() == bool(setting)
    finally:
        prctl(36, before)


def test_an_idle_thread_of_a_pool_is_its_pools(detector: Detector, until: Any) -> None:
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        until(lambda: not detector._find())
        go = threading.Event()
        pool.submit(go.wait)
        until(lambda: [leak.kind for leak in detector._find()] == ["thread"])
        go.set()


def test_a_connection_is_of_who_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        detector = Detector()
        detector.begin()
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert not detector.end()


def test_what_is_remembered_is_bounded(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(origins._KEPT + 10):
        sys.audit("open", "a file", "r", 0)
        sys.audit("tempfile.mkstemp", f"file {_}")
    assert len(detector._origins._opens) == len(detector._origins.files) == origins._KEPT


def test_a_hook_never_fails_what_it_hears_of(detector: Detector) -> None:
    sys.audit("subprocess.Popen", object())
    sys.audit("tempfile.mkdtemp", None)
    assert not detector.end()


def test_a_child_records_nothing(detector: Detector) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, b"%d" % len(origins._recording))
        os._exit(0)
    os.waitpid(pid, 0)
    with open(read) as file:
        os.close(write)
        assert file.read() == "0"


def test_addresses_are_those_of_the_kernel() -> None:
    assert leaks._address(socket.AF_INET, "0100007F") == "127.0.0.1"
    code = """
        import socket
        with (
            socket.create_server(("::1", 0), family=socket.AF_INET6) as one,
            socket.create_server(("127.0.0.1", 0)) as two, socket.socket() as bound,
        ):
            bound.bind(("127.0.0.1", 0))
            print(two.getsockname()[1], one.getsockname()[1], flush=True)
            input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout
        two, one = child.stdout.readline().split()
        assert leaks._listening(child.pid) == [f"127.0.0.1:{two}", f"[::1]:{one}"]
        child.communicate("\n")
