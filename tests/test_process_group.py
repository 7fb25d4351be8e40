"""The level that every POSIX system has: a process group, held by the host itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

from agentsup import (
    CLOSE_STDIN,
    PIPE,
    AgentsupError,
    Containment,
    Escalation,
    Found,
    Limits,
    Outcome,
    OutputPolicy,
    SpawnError,
    Step,
    Supervisor,
    SyncSupervisor,
    UnsupportedPlatform,
    last_partial,
    shell,
)
from agentsup._levels import process_group
from agentsup._linux import lifeline

GROUP = Containment.PROCESS_GROUP
TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def no_keeper():
    yield
    assert lifeline._current is None, "nothing of this takes a keeper"
    assert not process_group._held
    process_group._reap_the_dropped()
    assert not process_group._dropped


def run(command, **options):
    with SyncSupervisor(containment=GROUP) as sup:
        return sup.run(command, **options)


class TestRun:
    def test_result(self):
        result = run(shell("echo out; echo err >&2; exit 3"))
        assert (result.outcome, result.exit_code) == (Outcome.EXITED, 3)
        assert (result.stdout.text, result.stderr.text) == ("out\n", "err\n")
        assert result.containment is GROUP
        assert result.escalation == result.leftovers == ()
        assert result.pid > 0
        assert 0 < result.usage.max_rss < 1 << 32

    def test_usage(self):
        result = run([sys.executable, "-c", "sum(range(3_000_000))"])
        assert 0.01 < result.usage.user_cpu < 60

    def test_signaled(self):
        result = run(shell("kill -USR1 $$"))
        assert (result.outcome, result.signal) == (Outcome.SIGNALED, signal.SIGUSR1)

    def test_what_is_inherited(self, tmp_path):
        result = run(
            shell("cat; pwd; echo $A; ps -o sid= -p $$ | tr -d ' '; ls /proc/self/fd | wc -l"),
            stdin=b"in\n",
            cwd=tmp_path,
            extend_env={"A": "b"},
        )
        expected = ["in", str(tmp_path), "b", str(result.pid), "4"]  # one is ls's own
        assert result.stdout.text.split() == expected

    def test_nothing_to_read_and_no_environment(self):
        result = run(["/bin/cat"], env={})
        assert result.ok
        assert run(["/usr/bin/env"], env={}).stdout.text == ""

    def test_large_input_and_output(self):
        data = os.urandom(3 << 20)
        result = run(["cat"], stdin=data, output=OutputPolicy(head=len(data)))
        assert result.stdout.head == data

    def test_a_program_in_the_directory(self, tmp_path):
        (tmp_path / "tool").write_text("#!/bin/sh\necho $0")
        (tmp_path / "tool").chmod(0o755)
        assert run(["./tool"], cwd=tmp_path).stdout.text == "./tool\n"
        assert run(["tool"], cwd=tmp_path, env={"PATH": ""}).stdout.text == "./tool\n"

    @pytest.mark.parametrize(
        ("content", "says"),
        [("#!/does/not/exist\n", "interpreter in its first line"), ("nothing", "not a program")],
    )
    def test_what_cannot_be_executed(self, tmp_path, content, says):
        (tmp_path / "tool").write_text(content)
        (tmp_path / "tool").chmod(0o755)
        with pytest.raises(SpawnError, match=f"command: .*{says}"):
            run([tmp_path / "tool"])

    def test_the_directory_has_gone(self, tmp_path, monkeypatch):
        popen = subprocess.Popen

        def start(*args, **options):
            (tmp_path / "gone").rmdir()
            return popen(*args, **options)

        (tmp_path / "gone").mkdir()
        monkeypatch.setattr(subprocess, "Popen", start)
        with pytest.raises(FileNotFoundError, match="cwd: No such file"):
            run(["true"], cwd=tmp_path / "gone")

    def test_no_descriptors(self, monkeypatch):
        def full(pid):
            raise OSError(24, "Too many open files")

        with SyncSupervisor(containment=GROUP) as sup:
            with monkeypatch.context() as patch:
                patch.setattr(os, "pidfd_open", full)
                with pytest.raises(SpawnError, match="start: Too many open files"):
                    sup.run(["sleep", "100"])
            assert sup.run(["true"]).ok

    def test_subprocess_is_left_alone(self):
        with subprocess.Popen(["sh", "-c", "exit 5"]) as other:
            assert run(["true"]).ok
            assert other.wait() == 5

    def test_from_several_threads(self):
        results = []
        with SyncSupervisor(containment=GROUP, max_concurrency=3) as sup:
            threads = [
                threading.Thread(target=lambda n=n: results.append(sup.run(["echo", str(n)])))
                for n in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(int(result.stdout.text) for result in results) == list(range(8))

    def test_run_is_asked_for_by_name(self):
        with SyncSupervisor() as sup:
            assert sup.run(["true"]).containment is Containment.SUBREAPER
        lifeline.shut_down()


class TestEnd:
    def test_timeout_kills_the_group(self, marker, patience):
        asleep = f"[ $(pgrep -fxc 'sleep {marker}') = 2 ]"
        sleepers = f"sleep {marker} & sleep {marker} & until {asleep}; do sleep 0.01; done"
        for timeout in patience:
            command = shell(f"trap '' TERM; {sleepers}; echo on; wait")
            result = run(command, timeout=timeout, grace=0.1)
            if result.stdout.text:
                break
        assert (result.outcome, result.signal) == (Outcome.TIMED_OUT, signal.SIGKILL)
        assert [step.action for step in result.escalation] == ["SIGTERM", "SIGKILL"]
        assert result.stdout.text == "on\n"
        assert [leftover.argv for leftover in result.leftovers] == [("sleep", marker)] * 2
        assert {(one.found, one.killed) for one in result.leftovers} == {(Found.DESCENDANT, True)}
        assert result.leftover_count == 2
        assert not marker.pids()

    def test_the_others_may_take_the_grace(self, marker, patience):
        script = f"(trap 'sleep 0.2; echo late; exit' TERM; echo on; sleep {marker} & wait) & wait"
        for timeout in patience:
            result = run(shell(script), timeout=timeout, grace=60)
            if result.stdout.text:
                break
        assert (result.outcome, result.signal) == (Outcome.TIMED_OUT, signal.SIGTERM)
        assert [step.action for step in result.escalation] == ["SIGTERM"]
        assert result.stdout.text == "on\nlate\n"
        assert result.leftovers == ()

    def test_leftovers_are_killed(self, marker):
        asleep = 'until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done'
        result = run(shell(f"sleep {marker} >/dev/null 2>&1 & {asleep}; echo $!"))
        assert (result.outcome, result.exit_code) == (Outcome.EXITED, 0)
        (leftover,) = result.leftovers
        assert (str(leftover.pid), leftover.argv) == (
            result.stdout.text.strip(),
            ("sleep", marker),
        )
        assert not marker.pids()

    def test_one_that_is_stopped(self, marker):
        result = run(shell(f"sleep {marker} & kill -STOP $! $$"), timeout=0.2, grace=60)
        assert (result.outcome, result.signal) == (Outcome.TIMED_OUT, signal.SIGTERM)
        assert not marker.pids()

    def test_a_fork_bomb(self, marker):
        script = f'trap "" TERM; f() {{ echo {marker}; sleep 0.02; f & f & wait; }}; f'
        limit = OutputPolicy(limit=80 * len(marker))  # nobody ends, so there are 80 by then
        result = run(shell(script), output=limit, grace=0)
        assert result.outcome is Outcome.OUTPUT_LIMIT
        assert result.leftover_count > len(result.leftovers) == 64
        assert not marker.pids()

    def test_pre_stop_command(self, patience):
        steps = Escalation(Step(shell('kill -USR1 "$MAINPID"'), 60), Step(CLOSE_STDIN, 1))
        script = "trap 'kill $!; echo got; exit 7' USR1; sleep 99 & echo on; wait"
        for timeout in patience:
            result = run(shell(script), timeout=timeout, escalation=steps)
            if result.stdout.text.startswith("on"):
                break
        assert (result.outcome, result.exit_code) == (Outcome.TIMED_OUT, 7)
        assert result.stdout.text == "on\ngot\n"

    def test_a_pre_stop_command_that_takes_too_long(self, marker, until):
        steps = Escalation(Step(["sleep", marker], 0.1), Step(signal.SIGTERM, 30))
        result = run(["sleep", marker], timeout=0.1, escalation=steps)
        assert result.signal == signal.SIGTERM
        until(lambda: not marker.pids())  # the command is let go of, not waited for

    def test_what_leaves_the_group_escapes(self, marker, until):
        """As the documentation says: it is the weakest level."""
        result = run(["setsid", "-f", "sleep", marker])
        assert result.ok
        assert result.leftovers == ()
        until(marker.pids)
        for pid in marker.pids():
            os.kill(pid, signal.SIGKILL)
        until(lambda: not marker.pids())

    def test_what_cannot_be_killed_is_reported(self, marker, monkeypatch):
        spared = []
        killpg = os.killpg

        def weak(group, number):
            if number == signal.SIGKILL:
                spared.append(group)
            else:
                killpg(group, number)

        monkeypatch.setattr(os, "killpg", weak)
        monkeypatch.setattr(process_group, "KILL_BOUND", 0.3)
        monkeypatch.setattr(process_group, "REAP_BOUND", 0.0)
        command = shell(f"sleep {marker} & echo on; wait")
        result = run(command, output=OutputPolicy(limit=1), escalation=Escalation())
        assert (result.outcome, result.signal) == (Outcome.OUTPUT_LIMIT, None)
        (leftover,) = result.leftovers
        assert leftover.killed is False
        assert process_group._dropped == {result.pid}
        killpg(spared[0], signal.SIGKILL)
        os.waitid(os.P_PID, result.pid, os.WEXITED | os.WNOWAIT)
        assert run(["true"]).ok, "the next start reaps what came too late"
        assert not process_group._dropped

    def test_another_users_process_is_not_waited_for(self, marker, monkeypatch):
        monkeypatch.setattr(process_group, "KILL_BOUND", 3600.0)
        monkeypatch.setattr(process_group, "_may_signal", lambda pid: False)
        monkeypatch.setattr(os, "killpg", lambda group, number: None)
        asleep = 'until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done'
        result = run(shell(f"sleep {marker} & {asleep}; exit 0"))
        monkeypatch.undo()
        (leftover,) = result.leftovers
        assert (leftover.argv, leftover.killed) == (("sleep", marker), False)
        os.kill(leftover.pid, signal.SIGKILL)

    def test_somebody_else_reaps_it(self):
        pids = []

        def on_line(stream, line):
            pids.append(int(line))
            os.waitpid(pids[0], 0)

        with pytest.raises(AgentsupError, match="something else in this process has waited"):
            run(["sh", "-c", "echo $$"], output=OutputPolicy(on_line=on_line))
        assert pids

    @pytest.mark.parametrize("script", ["exit 0", "sleep 0.1; sleep {} >/dev/null 2>&1 &"])
    def test_children_that_nobody_has_to_wait_for(self, marker, script, until):
        host = f"""
import signal
from agentsup import *
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with SyncSupervisor(containment=Containment.PROCESS_GROUP) as sup:
    try:
        sup.run(shell({script.format(marker)!r}))
    except AgentsupError as error:
        print(error)
"""
        done = subprocess.run(
            [sys.executable, "-c", host], check=True, timeout=120, capture_output=True, text=True
        )
        assert "SIGCHLD ignored" in done.stdout
        until(lambda: not marker.pids())

    def test_exit_of_the_host(self, marker, until):
        host = f"""
import threading, time
from agentsup import *
def call():
    with SyncSupervisor(containment=Containment.PROCESS_GROUP) as sup:
        sup.run(shell("sleep {marker} & sleep {marker}"))
threading.Thread(target=call, daemon=True).start()
from agentsup._levels import process_group
while not process_group._held:
    time.sleep(0.01)
"""
        subprocess.run([sys.executable, "-c", host], check=True, timeout=120)
        until(lambda: not marker.pids())

    def test_a_fork_of_the_host_ends_nothing(self):
        host = """
import os, sys, threading
from agentsup import *
started, forked = threading.Event(), threading.Event()
def on_line(stream, line):
    started.set()
    forked.wait()
def call():
    with SyncSupervisor(containment=Containment.PROCESS_GROUP) as sup:
        print(sup.run(shell("echo on; read x; exit 4"), stdin=reading, output=policy).exit_code)
reading, writing = os.pipe()
policy = OutputPolicy(on_line=on_line)
thread = threading.Thread(target=call)
thread.start()
started.wait()
pid = os.fork()
if pid == 0:
    sys.exit(0)
os.waitpid(pid, 0)
os.close(writing)
forked.set()
thread.join()
"""
        done = subprocess.run(
            [sys.executable, "-c", host], check=True, timeout=120, capture_output=True, text=True
        )
        assert done.stdout == "4\n"


@pytest.mark.anyio
class TestOnALoop:
    async def test_run(self, marker):
        async with Supervisor(containment=GROUP) as sup:
            result = await sup.run(shell(f"echo hi; sleep {marker} &"), timeout=120)
        assert result.ok
        assert result.containment is GROUP
        assert len(result.leftovers) == 1

    async def test_open(self):
        async with (
            Supervisor(containment=GROUP) as sup,
            sup.open(["cat"], stdin=PIPE) as process,
        ):
            os.kill(process.pid, 0)
            await process.stdin.send(b"one\ntwo\n")
            lines = process.lines()
            assert [await anext(lines), await anext(lines)] == ["one", "two"]
            await process.stdin.aclose()
            assert (await process.wait()).ok
            with pytest.raises(ProcessLookupError):
                process.send_signal("INT")

    async def test_leaving_open_stops_the_group(self, marker, eventually):
        async with (
            Supervisor(containment=GROUP) as sup,
            sup.open(shell(f"sleep {marker} & sleep {marker}; :")) as process,
        ):
            await eventually(lambda: len(marker.pids()) == 3)
            (node,) = sup.tree()
            assert (node.pid, node.adopted) == (process.pid, ())
        assert not marker.pids()
        assert (await process.wait()).outcome is Outcome.STOPPED

    async def test_signal(self):
        async with (
            Supervisor(containment=GROUP) as sup,
            sup.open(shell("trap 'exit 9' INT; echo on; while :; do sleep 0.01; done")) as process,
        ):
            assert await anext(process.lines()) == "on"
            process.send_signal(signal.SIGINT)
            assert (await process.wait()).exit_code == 9

    async def test_cancelled(self, marker, eventually):
        caught = None

        async def call(sup):
            nonlocal caught
            try:
                await sup.run(
                    shell(f"trap '' TERM; echo on; sleep {marker} & sleep {marker}; exit"),
                    grace=0.1,
                )
            except anyio.get_cancelled_exc_class() as exc:
                caught = exc
                raise

        async with Supervisor(containment=GROUP) as sup, anyio.create_task_group() as tasks:
            tasks.start_soon(call, sup)
            await eventually(lambda: len(marker.pids()) >= 3)
            tasks.cancel_scope.cancel()
        assert not marker.pids()
        partial = last_partial(caught)
        assert partial.stdout.text == "on\n"
        assert [step.action for step in partial.escalation] == ["SIGTERM", "SIGKILL"]

    async def test_what_is_not_found_at_the_start(self, tmp_path):
        (tmp_path / "tool").write_text("#!/does/not/exist\n")
        (tmp_path / "tool").chmod(0o755)
        async with Supervisor(containment=GROUP) as sup:
            with pytest.raises(FileNotFoundError, match="interpreter"):
                await sup.run([tmp_path / "tool"])
            with pytest.raises(FileNotFoundError, match="interpreter"):
                async with sup.open([tmp_path / "tool"]):
                    pass

    async def test_many_at_a_time(self):
        async with Supervisor(containment=GROUP) as sup, anyio.create_task_group() as tasks:
            results = []

            async def call(number):
                results.append(await sup.run(["echo", str(number)], timeout=120))

            for number in range(20):
                tasks.start_soon(call, number)
        assert sorted(int(result.stdout.text) for result in results) == list(range(20))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"limits": Limits(memory=1 << 30)}, "limits"),
        ({"limits": Limits(cpu_time=1)}, "limits"),
        ({"umask": 0o77}, "umask"),
        ({"no_new_privs": True}, "no_new_privs"),
    ],
)
def test_what_takes_a_keeper(options, says):
    with pytest.raises(UnsupportedPlatform, match=f"^{says} takes a keeper.*PROCESS_GROUP"):
        run(["true"], **options)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")
def test_users_take_a_keeper():
    with pytest.raises(UnsupportedPlatform, match=r"^(user|group) takes a keeper"):
        run(["true"], user="nobody")


@pytest.mark.anyio
async def test_adoption_takes_a_keeper():
    async with Supervisor(containment=GROUP) as sup:
        with pytest.raises(UnsupportedPlatform, match="leftovers='adopt' takes a keeper"):
            await sup.run(["true"], leftovers="adopt")
        assert sup.tree() == ()


# --- other systems ----------------------------------------------------------------------------

IMPORTS = """
import importlib, pkgutil, sys
import kqueue_model
# They look at the platform themselves.
import anyio, asyncio, click, httpx, sqlite3, trio
for name in "agents", "inspect_ai", "langchain_core.tools", "mcp.server", "pydantic_ai":
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        pass

kqueue_model.install({system!r})
import agentsup

for name in agentsup.__all__:
    getattr(agentsup, name)
for module in pkgutil.walk_packages(agentsup.__path__, "agentsup."):
    linux = "._linux", "._levels.kept", "._levels.cgroup", "._levels.pid_namespace"
    if not any(part in module.name for part in linux) and "__main__" not in module.name:
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert "pip install" in str(error), error
loaded = [name for name in sys.modules if name.startswith("agentsup._linux.")]
assert not loaded, loaded
"""

CALLS = """
import os, select, signal, sys, time
import anyio, asyncio, trio
import kqueue_model

kqueue_model.install({system!r})
import agentsup
from agentsup import *
assert not [name for name in sys.modules if name.startswith("agentsup._linux.")]
run = run_sync

result = run(shell("cat; exit 3"), stdin=b"in")
assert (result.exit_code, result.stdout.text) == (3, "in"), result
assert result.escalation == (), result
assert result.containment is Containment.PROCESS_GROUP

result = run(shell("sleep {marker} >/dev/null 2>&1 &"))
assert result.ok and [step.action for step in result.escalation] == ["SIGKILL"], result

patience = 0.3, 3.0, 30.0  # the next where a program could not say a word within one
for timeout in patience:
    stubborn = shell("trap '' TERM; echo on; sleep {marker} & sleep {marker}; exit")
    result = run(stubborn, timeout=timeout, grace=0.1)
    if result.stdout.text:
        break
assert (result.outcome, result.signal) == (Outcome.TIMED_OUT, signal.SIGKILL), result

result = run(["sleep", "{marker}"], timeout=0.2, grace=60)
assert (result.outcome, result.signal) == (Outcome.TIMED_OUT, signal.SIGTERM), result

result = run(shell("sleep 0.05; echo a; sleep 0.05; echo b"), idle_timeout=60)
assert result.stdout.text == "a\\nb\\n", result

def refused(says, call, *args, **options):
    try:
        call(*args, **options)
    except UnsupportedPlatform as error:
        assert says in str(error), error
    else:
        raise AssertionError(call)


refused("umask takes a keeper, and there is none", run, ["true"], umask=0)
refused("on Linux only, not on {system}", SyncSupervisor, containment=Containment.SUBREAPER)
with SyncSupervisor(max_concurrency=1) as sup:
    assert sup.run(["echo", "hi"]).stdout.text == "hi\\n"
from agentsup._levels import process_group

child = process_group.Child


def late(pid):
    while not kqueue_model.is_own_zombie(pid):
        time.sleep(0.001)
    ended = child(pid)
    assert select.select([ended.fd], [], [], 60)[0]
    return ended


process_group.Child = late
result = run(["true"])
assert result.ok, result
process_group.Child = child


async def main():
    async with Supervisor() as sup:
        for timeout in patience:
            result = await sup.run(shell("echo hi; sleep {marker}"), timeout=timeout)
            if result.stdout.text:
                break
        assert (result.outcome, result.stdout.text) == (Outcome.TIMED_OUT, "hi\\n"), result
        async with sup.open(["cat"], stdin=PIPE) as process:
            await process.stdin.send(b"line\\n")
            assert await anext(process.lines()) == "line"


for backend in "asyncio", "trio":
    anyio.run(main, backend=backend)
"""


def model(code, system, marker=""):
    done = subprocess.run(
        [sys.executable, "-c", code.format(system=system, marker=marker)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@pytest.mark.parametrize("system", ["darwin", "freebsd14"])
def test_all_of_it_can_be_imported_elsewhere(system):
    model(IMPORTS, system)


@pytest.mark.parametrize("system", ["darwin", "freebsd14"])
def test_calls_elsewhere(system, marker, until):
    """On a model of kqueue: what this project's CI can do without such a system."""
    model(CALLS, system, marker)
    until(lambda: not marker.pids())


STRONGER = """
import asyncio, anyio
import kqueue_model

kqueue_model.install({system!r})
from agentsup import *

for level in Containment.CGROUP, Containment.PID_NAMESPACE:
    try:
        Supervisor(containment=level)
    except UnsupportedPlatform as error:
        assert "on Linux only, not on {system}" in str(error), error
"""


def test_stronger_levels_say_why_they_are_not_to_be_had_elsewhere():
    model(STRONGER, "darwin")
