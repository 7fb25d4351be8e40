"""The tools that a model is offered: its errors are text, and the supervisor's are exceptions."""

from __future__ import annotations

import inspect
import os
import re
import signal

import anyio
import pytest

import agentsup
from agentsup import KeeperLost, SpawnError, SupervisorClosed
from agentsup._linux import lifeline
from agentsup.ext.toolbox import Refused, Toolbox

pytestmark = pytest.mark.anyio


# --- the shell --------------------------------------------------------------------------------


async def test_bash_keeps_what_was_set(tmp_path):
    async with agentsup.Supervisor() as sup, Toolbox(sup) as tools:
        assert await tools.bash(f"cd {tmp_path}; x=1") == "[exited with status 0]"
        assert await tools.bash("echo $x; pwd; false") == f"1\n{tmp_path}\n[exited with status 1]"
        assert await tools.bash(restart=True) == "[the shell is new]"
        assert await tools.bash("echo $x") == "\n[exited with status 0]"
        assert "3; the shell has ended with it" in await tools.bash("y=2; exit 3")
        assert (await tools.bash("echo $y")).startswith("\n[exited with status 0")
    assert sup.tree() == ()


async def test_calls_at_the_same_time_have_one_shell():
    answers = []
    async with agentsup.Supervisor() as sup, Toolbox(sup) as tools:

        async def call():
            answers.append(await tools.bash("echo $$"))

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(call)
        assert len(answers) == 4
        assert len(set(answers)) == 1
        assert len(sup.tree()) == 1


async def test_a_new_shell_while_others_wait_for_the_old_one(tmp_path, eventually):
    answers = {}
    async with agentsup.Supervisor() as sup, Toolbox(sup, options={"cwd": tmp_path}) as tools:

        async def call(name, command):
            answers[name] = await tools.bash(command)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, "running", ": >running; sleep 600")
            await eventually((tmp_path / "running").exists)
            tasks.start_soon(call, "waiting", "echo ${x-new}")
            await anyio.wait_all_tasks_blocked()
            assert await tools.bash("x=set; echo here", restart=True) == "here\n" + OK
        assert "the shell has ended with it" in answers["running"]
        assert answers["waiting"] in ("new\n" + OK, "set\n" + OK)


OK = "[exited with status 0]"


# --- programs ---------------------------------------------------------------------------------


async def test_run():
    async with agentsup.Supervisor() as sup, Toolbox(sup) as tools:
        assert await tools.run(["cat", "-"], stdin="é\n") == "é\n" + OK
        assert await tools.run(["cat"]) == OK
        printed = await tools.run(["sh", "-c", "echo out; echo err >&2; exit 4"])
        assert printed == "out\n[stderr]\nerr\n[exited with status 4]"


# --- jobs -------------------------------------------------------------------------------------


async def test_jobs(tmp_path, eventually):
    async with agentsup.Supervisor() as sup, Toolbox(sup, options={"cwd": tmp_path}) as tools:
        assert await tools.jobs() == "[no jobs]"
        command = "echo one; until [ -e go ]; do sleep 0.02; done; printf two; exit 5"
        started = await tools.start(command)
        assert started == f"[job-1 runs, pid {sup.jobs['job-1'].pid}]"
        await eventually(lambda: sup.jobs["job-1"].unread)
        assert await tools.read("job-1") == "one\n[job-1: running]"
        assert await tools.read("job-1") == "[job-1: running]"
        assert await tools.read("job-1", wait=0.01) == "[job-1: running]"
        assert await tools.read("job-1", lines=1) == "one\n[job-1: running]"
        (tmp_path / "go").touch()
        assert await tools.read("job-1", wait=60) == "two\n[job-1: exited with status 5]"
        assert re.fullmatch(
            r"job-1: echo one; until .* …: exited with status 5; started \d+ s ago, "
            r"last output \d+ s ago",
            await tools.jobs(),
        )
        await tools.start("exec sleep 600")
        assert re.search(
            r"\njob-2: exec sleep 600: running; started \d+ s ago, has printed nothing$",
            await tools.jobs(),
        )
        stopped = await tools.stop("job-2")
        assert re.fullmatch(r"\[job-2: stopped after .* s, ended by SIGTERM\]", stopped)
        assert await tools.stop("job-2") == stopped
        assert not any(job.running for job in sup.jobs.values())


async def test_jobs_go_on_when_the_tools_are_left(marker):
    async with agentsup.Supervisor() as sup:
        async with Toolbox(sup) as tools:
            await tools.start(f"exec sleep {marker}")
            await tools.bash("true")
            assert len(sup.tree()) == 2
        (node,) = sup.tree()
        assert (node.kind, sup.jobs["job-1"].running) == ("job", True)
    assert not marker.pids()


# --- bounds -----------------------------------------------------------------------------------


async def test_no_answer_is_longer_than_agreed():
    async with agentsup.Supervisor() as sup, Toolbox(sup, max_chars=200) as tools:
        await tools.start("seq 1000")
        await sup.jobs["job-1"].wait()
        for n in range(8):
            await tools.start(f"true {n}")
        answers = [
            await tools.bash("seq 1000"),
            await tools.run(["seq", "1000"]),
            await tools.read("job-1", lines=500),
            await tools.jobs(),
        ]
        assert [len(answer) <= 200 for answer in answers] == [True] * 4
        read = ""
        while "more to read" in (answer := await tools.read("job-1")):
            assert len(answer) <= 200
            text, _, state = answer.rpartition("\n")
            size = int(re.fullmatch(r"\[job-1: exited .*; (\d+) bytes more to read\]", state)[1])
            assert size == sup.jobs["job-1"].unread
            read += text
        read += answer.rpartition("\n")[0]
        assert read.replace("\n", "") == "".join(map(str, range(1, 1001)))


async def test_time():
    async with agentsup.Supervisor() as sup:
        async with Toolbox(sup, timeout=0.1) as tools:
            assert "timed out after" in await tools.bash("sleep 600")
            assert "timed out after" in await tools.run(["sleep", "600"])
        async with Toolbox(sup, max_timeout=0.1) as tools:
            for asked in (600, float("inf")):
                assert "timed out after" in await tools.bash("sleep 600", timeout=asked)
                assert "timed out after" in await tools.run(["sleep", "600"], timeout=asked)
            await tools.start("exec sleep 600")
            assert await tools.read("job-1", wait=600) == "[job-1: running]"
        async with Toolbox(sup, max_timeout=float("inf")) as tools:
            assert tools.bound(float("inf")) is None
            assert tools.bound(0) == 0
            assert tools.bound(None) == 120


async def test_what_all_of_them_are_given(tmp_path):
    key = "sk-0123456789"
    options = {"env": "minimal", "secrets": {"KEY": key}, "cwd": tmp_path}
    show = 'echo "$KEY in $(pwd) of ${PYTHONPATH-nothing}"'
    shown = f"{'*' * len(key)} in {tmp_path} of nothing\n"
    os.environ.setdefault("PYTHONPATH", "")
    async with agentsup.Supervisor() as sup, Toolbox(sup, options=options) as tools:
        assert await tools.bash(show) == shown + OK
        assert await tools.run(["sh", "-c", show]) == shown + OK
        await tools.start(show)
        assert await tools.read("job-1", wait=60) == f"{shown}[job-1: exited with status 0]"
        refused = await tools.start(f"echo {key}")
        assert "holds the secret 'KEY'" in refused
        assert key not in refused


# --- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("bash", {}, "command is missing"),
        ("bash", {"command": "a\0b"}, "NUL"),
        ("bash", {"command": 3}, "command must be a str"),
        ("bash", {"command": "'" + "x" * 200_000 + "'"}, "write it to a file"),
        ("bash", {"command": "true", "timeout": 0}, "timeout must be more than zero"),
        ("bash", {"command": "true", "timeout": -1}, "timeout must be zero or more"),
        ("bash", {"command": "true", "timeout": "1"}, "timeout must be a number"),
        ("run", {"argv": []}, "command is empty"),
        ("run", {"argv": "ls -l"}, "command must be a sequence of words, not str"),
        ("run", {"argv": ["no-such-program"]}, "program not found"),
        ("run", {"argv": ["/etc/passwd"]}, "not executable"),
        ("run", {"argv": ["cat"], "stdin": "\ud800"}, "surrogates"),
        ("run", {"argv": ["true"], "timeout": float("nan")}, "timeout must be"),
        ("start", {"command": 3}, "script must be a str"),
        ("start", {"command": "a\0b"}, "NUL"),
        ("read", {"job_id": "job-9"}, "no job 'job-9': job-1"),
        ("read", {"job_id": "job-1", "wait": -1}, "must be zero or more"),
        ("read", {"job_id": "job-1", "lines": 0}, "lines must be at least 1"),
        ("stop", {"job_id": "job-9"}, "no job 'job-9': job-1"),
    ],
)
async def test_what_the_model_got_wrong(tool, arguments, message):
    async with agentsup.Supervisor(max_jobs=2) as sup, Toolbox(sup) as tools:
        await tools.start("exec sleep 600")
        answer = await getattr(tools, tool)(**arguments)
        assert isinstance(answer, Refused)
        assert answer.startswith("error: ")
        assert message in answer
        assert list(sup.jobs) == ["job-1"]
        assert await tools.run(["true"]) == OK


async def test_too_many_jobs():
    async with agentsup.Supervisor(max_jobs=1) as sup, Toolbox(sup) as tools:
        assert await tools.stop("job-1") == "error: no job 'job-1': there are none"
        await tools.start("exec sleep 600")
        assert "1 jobs run (max_jobs)" in await tools.start("true")


async def test_a_keeper_that_dies_is_the_hosts_affair(eventually):
    async with agentsup.Supervisor() as sup, Toolbox(sup) as tools:
        await tools.start("exec sleep 600")
        await tools.bash("true")
        os.kill(lifeline._current.pid, signal.SIGKILL)
        await eventually(lambda: not sup.tree())
        for tool in (tools.read("job-1", wait=60), tools.stop("job-1")):
            with pytest.raises(KeeperLost):
                await tool
        assert "[job-1: the keeper" in await tools.read("job-1")
        assert await tools.run(["true"]) == OK
        assert (await tools.bash("echo new")).startswith("new\n[exited with status 0")


async def test_used_when_it_is_not_open():
    async with agentsup.Supervisor() as sup:
        tools = Toolbox(sup)
        with pytest.raises(SupervisorClosed, match="this Toolbox is not open"):
            await tools.bash("true")
        async with tools:
            pass
        with pytest.raises(SupervisorClosed, match="this Toolbox is not open"):
            await tools.bash("true")
    async with tools:
        for tool in (tools.bash("true"), tools.run(["true"]), tools.start("true")):
            with pytest.raises(SupervisorClosed):
                await tool


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"timeout": 0}, ValueError, "timeout"),
        ({"max_timeout": "1"}, TypeError, "max_timeout"),
        ({"max_chars": 100}, ValueError, "max_chars must be at least 200"),
        ({"executable": "no-such-shell"}, SpawnError, "program not found"),
        ({"options": {"timeout": 3}}, TypeError, "timeout is not an option of a shell"),
        ({"options": {"env": "all"}}, TypeError, "env must be a mapping or 'minimal'"),
    ],
)
async def test_what_the_host_got_wrong(options, error, message):
    with pytest.raises(error, match=message):
        Toolbox(agentsup.Supervisor(), **options)


# --- cancellation -----------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["bash", "run"])
async def test_a_cancelled_tool_leaves_nothing(tool, marker, eventually):
    async with agentsup.Supervisor() as sup, Toolbox(sup) as tools:
        async with anyio.create_task_group() as tasks:
            if tool == "bash":
                tasks.start_soon(tools.bash, f"sleep {marker} & sleep {marker}; :")
            else:
                tasks.start_soon(tools.run, ["sleep", marker])
            await eventually(lambda: any(map(is_sleep, marker.pids())))
            tasks.cancel_scope.cancel()
        assert not any(map(is_sleep, marker.pids()))
        assert await tools.bash("echo on") == "on\n" + OK


def is_sleep(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().startswith(b"sleep\0")


async def test_left_by_a_cancellation(marker, eventually):
    async with agentsup.Supervisor() as sup:
        with anyio.CancelScope() as scope:
            async with Toolbox(sup) as tools, anyio.create_task_group() as tasks:
                await tools.bash(f"sleep {marker} & true")
                tasks.start_soon(tools.bash, "sleep 600")
                await eventually(marker.pids)
                scope.cancel()
        assert not marker.pids()
        assert sup.tree() == ()


async def test_each_tool_says_what_it_does():
    tools = Toolbox(agentsup.Supervisor()).tools
    assert [tool.__name__ for tool in tools] == ["bash", "run", "start", "read", "stop", "jobs"]
    for tool in tools:
        for name in inspect.signature(tool, eval_str=True).parameters:
            assert f":param {name}:" in tool.__doc__
