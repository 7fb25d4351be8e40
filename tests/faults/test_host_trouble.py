"""What a host may do beside its calls: fork, have children, be interrupted, end in the middle."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hosts import available, environment, run_host

import agentsup
from agentsup._levels.hold import News
from agentsup._levels.kept import Kept
from agentsup._linux import lifeline
from agentsup._rules import call as call_rule

# --- it forks ---------------------------------------------------------------------------------

FORKS = """
import os, sys, threading, time, agentsup
def calls(number):
    for n in range(number):
        result = agentsup.run_sync(agentsup.shell(f"sleep 0.01 & echo {os.getpid()} {n}"))
        assert result.stdout.text == f"{os.getpid()} {n}\\n", result
        assert result.leftover_count <= 1
"""


def test_parent_child_and_grandchild_go_on():
    source = """
calls(2)
children = []
for depth in range(3):
    pid = os.fork()
    if pid:
        children.append(pid)
        break
calls(5)
for pid in children:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
calls(2)
"""
    run_host(FORKS + source)


def test_fork_with_calls_in_flight_in_other_threads():
    """The child neither ends them nor keeps them from ending, and ends in order itself."""
    source = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads
calls(1)
threads = [threading.Thread(target=calls, args=(20,)) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        calls(2)
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
for thread in threads:
    thread.join()
calls(1)
"""
    run_host(FORKS + source)


RETIRED = """
import ctypes, os, resource, signal, threading, agentsup
from agentsup._linux import lifeline
lifeline._CLOSING = 600  # what a keeper that does not end is given
signal.alarm(240)
read_end, write_end = os.pipe()
done, begun = [], threading.Event()
policy = agentsup.OutputPolicy(on_line=lambda *_: begun.set())
def work():
    done.append(agentsup.run_sync(agentsup.shell("echo; cat"), stdin=read_end, output=policy))
call = threading.Thread(target=work)
call.start()
assert begun.wait(60)
assert agentsup.run_sync(["true"]).ok
if RETIRE:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    assert agentsup.run_sync(["true"]).ok  # by the next keeper
hold, let_go = os.pipe()
pid = FORK()
if pid == 0:
    os.close(let_go), os.close(write_end)
    os.read(hold, 1)  # with a copy of everything
    os._exit(0)
os.close(write_end)
call.join()
assert done[0].ok
lifeline.shut_down()
os.close(let_go)
os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.CDLL(None).fork"])
@pytest.mark.parametrize("retire", [False, True])
def test_fork_does_not_keep_the_keeper(fork, retire):
    """A copy of the lifeline, by a fork that Python knows of or not, holds nobody up."""
    source = RETIRED.replace("FORK", fork).replace("RETIRE", str(retire))
    run_host("import warnings; warnings.simplefilter('ignore')\n" + source)


# --- its own children -------------------------------------------------------------------------

OWN_CHILDREN = """
import asyncio, os, signal, subprocess, sys, agentsup
from agentsup._linux import lifeline
async def own(n):
    process = await asyncio.create_subprocess_exec("sh", "-c", f"read x; exit {n}", stdin=-1)
    await asyncio.sleep(0.05)
    await process.communicate(b"x\\n")
    assert process.returncode == n, (process.returncode, n)
async def ours(n):
    try:
        await agentsup.run(agentsup.shell("(setsid sleep 99 &) ; sleep 0.02"), grace=0)
    except agentsup.KeeperLost:
        pass
async def main():
    popen = subprocess.Popen(["sh", "-c", "read x; exit 9"], stdin=subprocess.PIPE)
    forked = os.fork() or (signal.pause(), os._exit(0))
    async with asyncio.TaskGroup() as tasks:
        for n in range(1, 15):
            tasks.create_task(own(n))
            tasks.create_task(ours(n))
            if n % 5 == 0:
                await asyncio.sleep(0.03)
                if sys.argv[1] == "keeper killed" and lifeline._current:
                    os.kill(lifeline._current.pid, signal.SIGKILL)
    assert popen.poll() is None
    popen.communicate(b"x\\n")
    assert popen.returncode == 9
    assert os.waitpid(forked, os.WNOHANG) == (0, 0)
    os.kill(forked, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == -signal.SIGTERM
asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["keeper lives", "keeper killed"])
def test_own_children_are_neither_signalled_nor_reaped(how):
    run_host(OWN_CHILDREN, how)


# --- the interpreter ends ---------------------------------------------------------------------

ENDS = {
    "daemon threads": """
for _ in range(3):
    threading.Thread(target=agentsup.run_sync, args=(tree,), daemon=True).start()
wait(9)
sys.exit(3)
""",
    "atexit runs one more": """
def late():
    assert agentsup.run_sync(["echo", "late"]).stdout.text == "late\\n"
    print("late")
atexit.register(late)
threading.Thread(target=agentsup.run_sync, args=(tree,), daemon=True).start()
wait(3)
sys.exit(3)
""",
    "sys.exit in the block": """
async def main():
    async with agentsup.Supervisor() as sup, sup.open(tree, grace=0):
        wait(3)
        sys.exit(3)
asyncio.run(main())
""",
    "sys.exit in a task": """
async def main():
    async with agentsup.Supervisor() as sup, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: sup.run(tree, grace=0))
        await anyio.to_thread.run_sync(wait, 3)
        sys.exit(3)
try:
    anyio.run(main, backend="trio")
except BaseExceptionGroup as group:
    code = group.exceptions[0].code
sys.exit(code)
""",
    "a loop that is left behind": """
async def main():
    await agentsup.run(tree)
loop = asyncio.new_event_loop()
task = loop.create_task(main())
while count() < 3:
    loop.run_until_complete(asyncio.sleep(0.01))
sys.exit(3)
""",
    "a block that is left behind": """
async def main():
    sup = await agentsup.Supervisor().__aenter__()
    kept = sup.open(tree)
    await kept.__aenter__()
    wait(3)
    os._exit(3)
asyncio.run(main())
""",
    "an adopted tree": """
async def main():
    async with agentsup.Supervisor() as sup:
        await sup.run(agentsup.shell(f"setsid sleep {marker} &"), leftovers="adopt")
        wait(1)
        os._exit(3)
anyio.run(main, backend="trio")
""",
    "a blocking supervisor in the middle": """
with agentsup.SyncSupervisor() as sup:
    threading.Thread(target=sup.run, args=(tree,), kwargs={"grace": 0}).start()
    wait(3)
    sys.exit(3)
""",
}
PRELUDE = """
import asyncio, atexit, os, sys, threading, time, warnings, anyio, agentsup
marker = sys.argv[1]
tree = ["sh", "-c", f"sleep {marker} & (env -i setsid sleep {marker} &); exec sleep {marker}"]
def count():
    return sum(line.split() == ["sleep", marker] for line in os.popen("ps -eo args="))
def wait(processes):
    deadline = time.monotonic() + 60
    while count() < processes:
        assert time.monotonic() < deadline
        time.sleep(0.01)
"""


@pytest.mark.parametrize("end", ENDS)
def test_interpreter_ends_with_calls_in_flight(end, marker, until):
    done = run_host(PRELUDE + ENDS[end], marker, status=3)
    until(lambda: not marker.pids())
    if end == "atexit runs one more":
        assert done.stdout == "late\n"
    if end != "a loop that is left behind":  # asyncio itself has something to say of that
        assert "Traceback" not in done.stderr


# --- it is interrupted ------------------------------------------------------------------------

INTERRUPTED = """
import os, sys, agentsup, anyio, anyio._backends._asyncio, anyio._backends._trio
marker, backend = sys.argv[1:]
# What an import makes of an interrupt is Python's own affair: in the middle of a class, 3.11 raises
# a RuntimeError from it.
for name in agentsup.__all__:
    getattr(agentsup, name)
try:
    print("go", flush=True)
    if backend == "sync":
        agentsup.run_sync(["sleep", marker], grace=0)
    else:
        async def main():
            async with agentsup.Supervisor() as sup:
                await sup.run(["sleep", marker], grace=0)
        anyio.run(main, backend=backend)
except KeyboardInterrupt:
    pass
assert agentsup.run_sync(["true"]).ok
if backend == "sync":
    from agentsup._linux import lifeline
    assert lifeline._current.calls_in_flight == 0
print("well")
"""


@pytest.mark.parametrize("backend", ["sync", "asyncio", "trio"])
def test_interrupted_while_the_first_call_starts(backend, marker, until):
    """By SIGINT, any time from before the keeper's start until after the tool's."""
    choice = random.Random(backend)
    for delay in [choice.random() * 0.08 for _ in range(6)]:
        host = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, marker, backend],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert host.stdout.readline() == "go\n"
        time.sleep(delay)
        host.send_signal(signal.SIGINT)
        try:
            out, err = host.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            # Python ignores, and says so, what is raised in a finalizer or the like.
            host.send_signal(signal.SIGINT)
            out, err = host.communicate(timeout=60)
            assert "Exception ignored in" in err
        assert out == "well\n", f"after {delay}: {err}"
        # Where it came into an exec() of a string, as of some imports, Python ends like this.
        assert host.returncode in (0, -signal.SIGINT)
        until(lambda: not marker.pids())


AT_EACH_LINE = """
import itertools, linecache, os, signal, sys, time, agentsup
from agentsup._linux import keeper, lifeline
from agentsup._rules import call as call_rule
signal.alarm(240)
call_rule.KILL_BOUND = 0.1  # interrupted right after the last message, it waits for another one
package = os.path.dirname(agentsup.__file__)
first = sys.argv[1] == "first"

class Interrupt:
    "Raises KeyboardInterrupt before the line of this package that has this number."
    def __init__(self, left):
        self.left = left
    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(package):
            return None
        # Between a block's body and __exit__ comes a trace function, but no signal.
        where = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and not linecache.getline(*where).strip().startswith("with "):
            self.left -= 1
            if self.left == -1:
                sys.settrace(None)
                self.where = "interrupted at {}:{}".format(*where)
                raise KeyboardInterrupt
        return self

# Without an end, for other hosts' records, say, add to what a start has to do.
lines = itertools.count(0, 19 if first else 3)
assert agentsup.run_sync(["true"]).ok
for number in lines:
    if first:
        lifeline.shut_down()
    interrupt = Interrupt(number)
    try:
        sys.settrace(interrupt)
        agentsup.run_sync(["sleep", "0"], grace=0)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    try:
        assert agentsup.run_sync(["true"]).ok
        kept = lifeline._current
        while keeper.children_of(kept.pid):
            time.sleep(0.01)  # the alarm goes off if that takes for ever
    except BaseException as exc:
        exc.add_note(getattr(interrupt, "where", "not interrupted"))
        raise
    if interrupt.left >= 0:
        break
assert number > 100
"""


@pytest.mark.parametrize("when", ["first", "next"])
def test_interrupted_at_each_line_of_a_call(when):
    """KeyboardInterrupt wherever the interpreter may raise it: no tool is left, no lock held."""
    run_host(AT_EACH_LINE, when)


def test_interrupted_right_after_the_spawn_of_the_keeper():
    source = """
import os, agentsup
from agentsup._linux import keeper, lifeline
spawn = lifeline.Keeper._spawn
def interrupted(self, *arguments):
    spawn(self, *arguments)
    raise KeyboardInterrupt
lifeline.Keeper._spawn = interrupted
before = os.listdir("/proc/self/fd")
try:
    agentsup.run_sync(["true"])
except KeyboardInterrupt:
    pass
lifeline.Keeper._spawn = spawn
assert not keeper.children_of(os.getpid()), "a keeper is left"
assert os.listdir("/proc/self/fd") == before
assert agentsup.run_sync(["true"]).ok
"""
    run_host(source)


def test_interrupted_right_after_the_last_message(monkeypatch):
    """Which takes the keeper from nobody else."""
    assert agentsup.run_sync(["true"]).ok
    kept = lifeline._current
    news = Kept.news

    def interrupted(self):
        if news(self) is News.EXITED:
            raise KeyboardInterrupt
        return None

    monkeypatch.setattr(call_rule, "KILL_BOUND", 0.5)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Kept, "news", interrupted)
        agentsup.run_sync(["true"])
    assert agentsup.run_sync(["true"]).ok
    assert lifeline._current is kept


# --- process ids are reused -------------------------------------------------------------------

PIDS = ("unshare", "-pf", "--mount-proc")
if os.geteuid() != 0:
    PIDS = ("unshare", "-Urpf", "--mount-proc")
FEW_PIDS = """
import os, signal, subprocess, sys, threading, agentsup
from agentsup._linux import lifeline
assert os.getpid() == 1
try:
    with open("/proc/sys/kernel/pid_max", "w") as file:
        file.write("400")  # numbers below 300 are not given again (kernel/pid.c)
except OSError:
    sys.exit(77)
stop = threading.Event()
seen, wrong = [], []
def bystanders():
    "Each ends as it likes, which is by no signal."
    while not stop.is_set():
        short = [subprocess.Popen(["sh", "-c", f"sleep 0.0{n}; exit {n}"]) for n in range(1, 6)]
        seen.extend(process.pid for process in short)
        wrong.extend(n for n, process in enumerate(short, 1) if process.wait() != n)
long = [subprocess.Popen(["sleep", "9999"]) for _ in range(10)]
thread = threading.Thread(target=bystanders)
thread.start()
def calls(number):
    for n in range(number):
        script = "(setsid sleep 9 &); (env -i setsid sleep 9 &); sh -c 'sleep 0.01 & wait'; exit 5"
        timeout = None if n % 3 else 0.01
        try:
            result = agentsup.run_sync(agentsup.shell(script), timeout=timeout, grace=0)
            assert n % 3 == 0 or result.exit_code == 5, result
            seen.append(result.pid)
        except agentsup.KeeperLost:
            pass
        if n % 20 == 10:
            os.kill(lifeline._current.pid, signal.SIGKILL)
workers = [threading.Thread(target=calls, args=(60,)) for _ in range(2)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
stop.set()
thread.join()
assert not wrong, wrong
assert [process.poll() for process in long] == [None] * 10
for process in long:
    process.kill(), process.wait()
assert len(seen) > 2 * len(set(seen)), "no number was reused"
"""


def kernel():
    return tuple(int(n) for n in os.uname().release.split(".")[:2])


@pytest.mark.skipif(kernel() < (6, 14), reason="pid_max is the whole machine's before Linux 6.14")
@pytest.mark.skipif(not available(*PIDS), reason="needs a PID namespace")
def test_process_ids_are_reused():
    """Some hundred numbers for all: nobody else's process is taken for one of a call's."""
    mine = Path("/proc/sys/kernel/pid_max").read_text()
    done = run_host(FEW_PIDS, before=PIDS, status=None)
    assert Path("/proc/sys/kernel/pid_max").read_text() == mine
    if done.returncode == 77:
        pytest.skip("pid_max cannot be set in a PID namespace by this user")
    assert done.returncode == 0, done.stderr
