"""The keeper: lost, stopped, replaced, shared, and starved."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import pytest

import agentsup
from agentsup import KeeperLost, Outcome, SpawnError
from agentsup._calls.reader import Reader
from agentsup._linux import lifeline, records, sweep
from agentsup._linux.keeper import is_zombie
from agentsup._rules import call as call_rule

from_here = pytest.mark.anyio


def keeper_pid():
    return lifeline._current.pid


def kill_idle_keeper():
    os.kill(keeper_pid(), signal.SIGKILL)
    os.waitid(os.P_PID, keeper_pid(), os.WEXITED | os.WNOWAIT)


def tree_script(marker):
    """A main process with a child, an orphan, and one that has left its session and environment."""
    sleep = f"sleep {marker}"
    return f"echo started; {sleep} & (setsid {sleep} &); (env -i setsid {sleep} &); exec {sleep}"


def run_python(source, *args, **options):
    """A host of its own, for what changes the whole process."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", source, *args]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, **options
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


# --- lost -------------------------------------------------------------------------------------


@from_here
async def test_killed_while_idle(until):
    assert (await agentsup.run(["true"])).ok
    first = keeper_pid()
    kill_idle_keeper()
    assert (await agentsup.run(["true"])).ok
    assert keeper_pid() != first
    until(lambda: not Path(f"/proc/{first}").exists())


@from_here
@pytest.mark.parametrize("number", [1, 8])
async def test_killed_during_calls(number, marker, eventually):
    """Each call is told, with what it had; and the next keeper is there at once."""
    lost, said = [], []
    policy = agentsup.OutputPolicy(on_line=lambda *line: said.append(line))

    async def call():
        with pytest.raises(KeeperLost) as caught:
            await agentsup.run(["sh", "-c", tree_script(marker)], output=policy)
        lost.append(caught.value.partial)
        assert (await agentsup.run(["true"])).ok

    async with anyio.create_task_group() as tasks:
        for _ in range(number):
            tasks.start_soon(call)
        await eventually(lambda: len(said) == number and len(marker.pids()) == 4 * number)
        os.kill(keeper_pid(), signal.SIGKILL)
    await eventually(lambda: not marker.pids())
    assert [partial.stdout.text for partial in lost] == ["started\n"] * number
    assert lost[0].outcome is Outcome.STOPPED


@from_here
async def test_killed_while_a_process_is_open(marker, eventually):
    with pytest.raises(KeeperLost):
        async with agentsup.Supervisor() as sup, sup.open(["sh", "-c", tree_script(marker)]):
            await eventually(lambda: len(marker.pids()) == 4)
            os.kill(keeper_pid(), signal.SIGKILL)
            await eventually(lambda: not marker.pids())


@from_here
async def test_does_not_answer(monkeypatch, marker, eventually):
    monkeypatch.setattr(call_rule, "KILL_BOUND", 0.3)
    async with agentsup.Supervisor() as sup, anyio.create_task_group() as tasks:

        async def call():
            with pytest.raises(KeeperLost, match="does not answer"):
                await sup.run(["sh", "-c", tree_script(marker)], grace=0.2)

        tasks.start_soon(call)
        await eventually(lambda: len(marker.pids()) == 4)
        os.kill(keeper_pid(), signal.SIGSTOP)
        sup.tree()[0].stop()
    assert not marker.pids()
    assert (await agentsup.run(["true"])).ok


@from_here
async def test_does_not_start_the_call(monkeypatch):
    await agentsup.run(["true"])
    os.kill(keeper_pid(), signal.SIGSTOP)
    with monkeypatch.context() as patch, pytest.raises(KeeperLost, match="does not answer"):
        patch.setattr(call_rule, "START_BOUND", 0.3)
        await agentsup.run(["true"])
    assert (await agentsup.run(["true"])).ok


def test_stopped_while_idle(monkeypatch):
    """It is replaced without waiting for it."""
    monkeypatch.setattr(lifeline, "_CLOSING", 120.0)
    assert agentsup.run_sync(["true"]).ok
    os.kill(keeper_pid(), signal.SIGSTOP)
    before = time.monotonic()
    lifeline.shut_down()
    assert time.monotonic() - before < 60


@from_here
async def test_busy_keeper_has_no_room(eventually):
    """More requests than its sockets can hold wait until it takes them."""
    await agentsup.run(["true"])
    results = []

    async def call():
        results.append(await agentsup.run(["true"]))

    async with anyio.create_task_group() as tasks:
        os.kill(keeper_pid(), signal.SIGSTOP)
        for _ in range(400):
            tasks.start_soon(call)
        await anyio.sleep(0.3)
        os.kill(keeper_pid(), signal.SIGCONT)
    assert len(results) == 400
    assert all(result.ok for result in results)


def test_broken_interpreter(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(KeeperLost):
        agentsup.run_sync(["true"])
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with pytest.raises(FileNotFoundError, match="keeper"):
        agentsup.run_sync(["true"])


# --- replaced ---------------------------------------------------------------------------------


@from_here
async def test_replaced_when_its_numbers_are_used_up(marker, eventually):
    """What is in flight at the old one goes on there."""
    await agentsup.run(["true"])
    first = keeper_pid()
    async with agentsup.Supervisor() as sup, sup.open(["cat"], stdin=agentsup.PIPE) as process:
        lifeline._current.calls_left = 1
        for _ in range(3):
            assert (await agentsup.run(["true"])).ok
        second = keeper_pid()
        assert second != first
        await process.stdin.send(b"still there\n")
        assert await process.stdout.receive() == b"still there\n"
        await process.stdin.aclose()
        assert (await process.wait()).ok
    await eventually(lambda: not os.path.exists(f"/proc/{first}"))
    assert keeper_pid() == second


def test_replaced_when_a_limit_changes():
    source = """
import resource, agentsup
show = agentsup.shell("ulimit -n")
print(agentsup.run_sync(show).stdout.text, end="")
resource.setrlimit(resource.RLIMIT_NOFILE, (77, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
print(agentsup.run_sync(show).stdout.text, end="")
"""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert run_python(source) == f"{soft}\n77\n"


def record_files():
    return {path.name for path in records.runtime_directory().iterdir()}


def test_record_is_removed_at_an_orderly_end():
    before = record_files() if records.runtime_directory().exists() else set()
    assert agentsup.run_sync(["true"]).ok
    # Another host may run at the same time.
    (mine,) = (name for name in record_files() - before if name.startswith(f"{os.getpid()}-"))
    lifeline.shut_down()
    assert mine not in record_files()


def test_record_is_removed_after_a_violent_end():
    before = record_files() if records.runtime_directory().exists() else set()
    assert agentsup.run_sync(["true"]).ok
    kill_idle_keeper()
    assert agentsup.run_sync(["true"]).ok
    mine = [name for name in record_files() - before if name.startswith(f"{os.getpid()}-")]
    assert len(mine) == 1


DEAD_LEADER = """
import ctypes, os, threading, time
threading.Thread(target=time.sleep, args=(99,)).start()
open(__import__("sys").argv[1], "w").write(str(os.getpid()))
os.write(1, b"on\\n")
ctypes.CDLL(None).syscall(60, 0)  # exit of this thread alone
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of the system call")
def test_sweep_finds_a_process_whose_first_thread_is_gone(tmp_path, until):
    source = """
import agentsup, os, signal, sys, time
from agentsup._linux import lifeline
def strike(stream, line):
    pid = int(open(sys.argv[2]).read())
    while open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    os.kill(lifeline._current.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
command = [sys.executable, "-c", sys.argv[1], sys.argv[2]]
agentsup.run_sync(command, output=agentsup.OutputPolicy(on_line=strike))
"""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    pid_file = tmp_path / "pid"
    subprocess.run(
        [sys.executable, "-c", source, DEAD_LEADER, pid_file],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    pid = int(pid_file.read_text())
    assert not is_zombie(pid)

    def swept():
        lifeline.shut_down()
        assert agentsup.run_sync(["true"]).ok
        return is_zombie(pid)

    until(swept)  # not at once: the keeper may hold its record while it is dying


# --- shared -----------------------------------------------------------------------------------


def test_two_loops_in_two_threads(anyio_backend_name, anyio_backend_options):
    outputs, keepers = [], set()

    async def main(number):
        async with agentsup.Supervisor(max_concurrency=4) as sup:

            async def call(n):
                result = await sup.run(["sh", "-c", f"sleep 0.0{n % 5}; echo {number}-{n}"])
                assert result.stdout.text == f"{number}-{n}\n"
                outputs.append(result)
                keepers.add(keeper_pid())

            async with anyio.create_task_group() as tasks:
                for n in range(20):
                    tasks.start_soon(call, n)

    def thread(number):
        for _ in range(2):
            anyio.run(
                main, number, backend=anyio_backend_name, backend_options=anyio_backend_options
            )

    threads = [threading.Thread(target=thread, args=(number,)) for number in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(120)
    assert len(outputs) == 80
    assert len(keepers) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fork in a process with threads
@from_here
async def test_fork_of_the_host(marker):
    """The child has a keeper of its own, and its copies disturb neither."""
    async with agentsup.Supervisor() as sup, sup.open(["cat"], stdin=agentsup.PIPE) as process:
        ours = keeper_pid()
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(write_end)
                with_own = agentsup.run_sync(["echo", "child"])
                if with_own.stdout.text == "child\n" and keeper_pid() != ours:
                    code = 0
                os.read(read_end, 1)  # hold the copies until the parent is done
            finally:
                os._exit(code)
        os.close(read_end)
        try:
            await process.stdin.send(b"parent\n")
            assert await process.stdout.receive() == b"parent\n"
            await process.stdin.aclose()
            # The child's copy of the pipe keeps `cat` alive; ours is closed.
            process.stop()
            await process.wait()
            for _ in range(3):
                result = await sup.run(["sleep", marker], timeout=0.1, grace=60)
                assert result.outcome is Outcome.TIMED_OUT
                assert [step.action for step in result.escalation] == ["SIGTERM"]
            assert keeper_pid() == ours
        finally:
            os.close(write_end)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_hosts_own_children_are_left_alone():
    """Its subprocess module, its SIGCHLD handler, and a wait for any child."""
    source = """
import os, signal, subprocess, agentsup
seen = []
signal.signal(signal.SIGCHLD, lambda *_: seen.append(1))
own = subprocess.Popen(["sh", "-c", "read x; exit 7"], stdin=subprocess.PIPE)
for _ in range(5):
    assert agentsup.run_sync(agentsup.shell("sleep 0.01 & true")).ok
assert not seen, "SIGCHLD for a tool"
own.communicate(b"go")
assert own.returncode == 7 and seen
pid = os.fork() or os._exit(3)
while True:  # the keeper is a child too, but it has not ended
    done, status = os.wait()
    if done == pid:
        break
assert agentsup.run_sync(["true"]).ok
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
assert agentsup.run_sync(["false"]).exit_code == 1
"""
    run_python(source)


def test_sigpipe_with_its_default_action(until):
    """As command line tools set it: a keeper that is gone must not kill the host."""
    source = """
import os, signal, agentsup
from agentsup._linux import lifeline
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
agentsup.run_sync(["true"])
def strike(stream, line):
    os.kill(lifeline._current.pid, signal.SIGKILL)
    os.waitid(os.P_PID, lifeline._current.pid, os.WEXITED | os.WNOWAIT)
    raise KeyError
policy = agentsup.OutputPolicy(on_line=strike)
try:
    agentsup.run_sync(agentsup.shell("echo; sleep 99"), output=policy)
except KeyError:
    pass
assert agentsup.run_sync(["true"]).ok
print("alive")
"""
    assert run_python(source) == "alive\n"


@pytest.mark.parametrize("closed", ["0<&-", "0<&- 1>&- 2>&-"])
def test_host_without_standard_streams(closed, tmp_path):
    source = """
import agentsup, pathlib, sys
result = agentsup.run_sync(agentsup.shell("cat; echo out; echo err >&2"), stdin=b"in ")
pathlib.Path(sys.argv[1]).write_text(result.stdout.text + result.stderr.text)
"""
    out = tmp_path / "out"
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", source, str(out)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=True, timeout=120)
    assert out.read_text() == "in out\nerr\n"


def test_inheritable_descriptors_of_the_host_are_closed():
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    assert agentsup.run_sync(["true"]).ok
    os.close(write_end)
    assert os.read(read_end, 1) == b""  # nobody else has it
    os.close(read_end)


# --- starved ----------------------------------------------------------------------------------

STARVED = """
import errno, os, resource, sys, warnings
import agentsup
from agentsup._linux import lifeline
warnings.simplefilter("ignore", RuntimeWarning)  # "keeps no record": so it says
options = eval(sys.argv[1])
def call():
    return agentsup.run_sync(["sh", "-c", "echo out"], stdin=b"x", **options)
call()
if sys.argv[2] == "first":
    lifeline.shut_down()
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
if sys.argv[2] == "next":
    call()  # with the keeper for this limit
open_before = set(os.listdir("/proc/self/fd"))
outcomes = []
for free in range(30):
    hoard = []
    try:
        while True:
            hoard.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        for _ in range(free):
            os.close(hoard.pop())
    try:
        try:
            outcomes.append(call().stdout.text == "out\\n")
        except agentsup.SpawnError as error:
            assert error.errno == errno.EMFILE, error
            outcomes.append(None)
    finally:
        for fd in hoard:
            os.close(fd)
    if sys.argv[2] == "first":
        lifeline.shut_down()
    left = set(os.listdir("/proc/self/fd")) - open_before
    assert sys.argv[2] == "next" or not left, (free, left)
    assert call().stdout.text == "out\\n"
    if sys.argv[2] == "first":
        lifeline.shut_down()
assert outcomes[0] is None and outcomes[-1] is True, outcomes
"""


@pytest.mark.parametrize("options", ["{}", "dict(limits=agentsup.Limits(open_files=64))"])
@pytest.mark.parametrize("when", ["first", "next"])
def test_no_descriptors_in_the_host(when, options):
    """With every number of free ones: a clear error or success, and nothing leaks."""
    run_python(STARVED, options, when)


def test_no_descriptors_in_the_keeper():
    """Calls beyond what it has room for fail alone; those in flight and the next ones do not."""
    source = """
import anyio, errno, os, resource, agentsup
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
async def main():
    done, failed = [], []
    async def call(n):
        try:
            limits = agentsup.Limits(file_size=1000) if n % 3 == 0 else None
            result = await sup.run(agentsup.shell("read x; true"), stdin=read_end, limits=limits)
            done.append(result.ok)
        except agentsup.SpawnError as error:
            assert error.errno == errno.EMFILE, repr(error)
            failed.append(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
    await agentsup.run(["true"])
    # The keeper keeps the low limit of the time when it was started; only the host's rises.
    from agentsup._linux import lifeline
    lifeline._identity = lambda _, identity=lifeline._current.identity: identity
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    keeper = lifeline._current.pid
    read_end, write_end = os.pipe()
    async with agentsup.Supervisor() as sup:
        async with anyio.create_task_group() as tasks:
            for n in range(60):
                tasks.start_soon(call, n)
            with anyio.fail_after(120):
                while len(failed) < 30:
                    await anyio.sleep(0.01)
            os.close(write_end)
        assert len(done) + len(failed) == 60
        assert len(failed) >= 30 and all(done)
        assert (await sup.run(["true"])).ok
    assert lifeline._current.pid == keeper
    print("done")
anyio.run(main)
"""
    assert run_python(source) == "done\n"


@from_here
async def test_refused_before_the_request_is_sent(monkeypatch):
    """A channel that has ended is no dead keeper: what is in flight goes on."""
    connect = lifeline.connect

    def connect_and_wait(kept):
        channel = connect(kept)
        assert select.select([channel.socket], [], [], 60)[0]  # the keeper's end is closed
        return channel

    async with agentsup.Supervisor() as sup, sup.open(["cat"], stdin=agentsup.PIPE) as process:
        await process.stdin.send(b"there\n")
        assert await process.stdout.receive() == b"there\n"
        keeper = keeper_pid()
        soft, hard = resource.prlimit(keeper, resource.RLIMIT_NOFILE)
        resource.prlimit(keeper, resource.RLIMIT_NOFILE, (0, hard))
        with monkeypatch.context() as patch:
            patch.setattr(lifeline, "connect", connect_and_wait)
            for _ in range(3):
                with pytest.raises(SpawnError, match="no file descriptors") as caught:
                    await sup.run(["true"])
                assert caught.value.errno == errno.EMFILE
        resource.prlimit(keeper, resource.RLIMIT_NOFILE, (soft, hard))
        assert (await sup.run(["true"])).ok
        await process.stdin.send(b"still there\n")
        assert await process.stdout.receive() == b"still there\n"
    assert keeper_pid() == keeper


def test_a_refusal_that_is_long_in_coming():
    """A keeper that takes its time is not a dead one."""
    assert agentsup.run_sync(["true"]).ok
    kept = lifeline._current
    soft, hard = resource.prlimit(kept.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(kept.pid, resource.RLIMIT_NOFILE, (0, hard))
    os.kill(kept.pid, signal.SIGSTOP)
    later = threading.Timer(1.0, os.kill, (kept.pid, signal.SIGCONT))
    with contextlib.closing(lifeline.Channel(kept)):
        later.start()
        assert not kept.dead
    later.join()
    resource.prlimit(kept.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert agentsup.run_sync(["true"]).ok
    assert lifeline._current is kept


@pytest.mark.skipif(os.geteuid() == 0, reason="RLIMIT_NPROC does not bind root")
def test_no_processes_for_the_keeper(monkeypatch):
    """A clear error on both ways to spawn, and the keeper lives on."""
    assert agentsup.run_sync(["true"]).ok
    keeper = keeper_pid()
    soft, hard = resource.prlimit(keeper, resource.RLIMIT_NPROC)
    resource.prlimit(keeper, resource.RLIMIT_NPROC, (1, hard))
    for limits in (None, agentsup.Limits(open_files=50)):
        with pytest.raises(SpawnError) as caught:
            agentsup.run_sync(["true"], limits=limits)
        assert isinstance(caught.value, BlockingIOError)
    resource.prlimit(keeper, resource.RLIMIT_NPROC, (soft, hard))
    assert agentsup.run_sync(["true"]).ok
    assert keeper_pid() == keeper


def test_thief_of_its_own_output(monkeypatch, patience):
    """A tool can read from its own output pipe: epoll says there is something, and it is gone."""
    stolen = []
    read = Reader.read

    def read_after_the_thief(self):
        if not stolen:
            stolen.append(os.read(self.fd, 100))
        return read(self)

    monkeypatch.setattr(Reader, "read", read_after_the_thief)
    for timeout in patience:
        stolen.clear()
        result = agentsup.run_sync(agentsup.shell("echo first; sleep 99"), timeout=timeout)
        if stolen != [b""]:
            break
    assert stolen == [b"first\n"]
    assert result.outcome is Outcome.TIMED_OUT
    assert result.duration < 90


def test_sweep_has_a_bound(monkeypatch):
    assert sweep.BOUND < 10
    assert sweep.sweep(lifeline.TagRange(first=0, stride=0, capacity=0))


def test_spawn_error_of_the_socket_is_clear():
    with pytest.raises(SpawnError):
        agentsup.run_sync(["/nonexistent"])
