"""What every framework has to make of a toolbox: tests for all of them.

A test module imports them all (``from agent_contract import *``), and has a fixture ``agent``: an
async function that takes a toolbox and the turns of a scripted model, each a list of calls (the
name of a tool, its arguments), has the framework's agent run them, and returns what the model was
told, in the order of the calls.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from agentsup import KeeperLost, Supervisor, SupervisorClosed
from agentsup._linux import lifeline
from agentsup.ext.toolbox import Toolbox

__all__ = [
    "test_bad_arguments_are_told",
    "test_calls_at_the_same_time_share_the_shell",
    "test_cancelled_while_tools_hang",
    "test_each_tool_answers",
    "test_jobs_over_many_turns",
    "test_the_death_of_the_keeper_comes_out",
    "test_the_end_of_the_supervisor_comes_out",
    "test_what_hangs_is_ended_in_time",
    "toolbox",
]

Call = tuple[str, dict[str, object]]
Agent = Callable[..., Awaitable[list[str]]]


@pytest.fixture
async def toolbox() -> AsyncIterator[Toolbox]:
    async with Supervisor() as supervisor, Toolbox(supervisor) as toolbox:
        yield toolbox


async def test_each_tool_answers(agent: Agent, toolbox: Toolbox, tmp_path: Path) -> None:
    told = await agent(
        toolbox,
        [("bash", {"command": f"cd {tmp_path}; X=5"})],
        [("bash", {"command": "echo $X $PWD; false"})],
        [("run", {"argv": ["sh", "-c", "cat; echo err >&2; exit 3"], "stdin": "in\n"})],
        [("bash", {"restart": True})],
        [("bash", {"command": "echo $X."})],
    )
    assert told == [
        "[exited with status 0]",
        f"5 {tmp_path}\n[exited with status 1]",
        "in\n[stderr]\nerr\n[exited with status 3]",
        "[the shell is new]",
        ".\n[exited with status 0]",
    ]


async def test_jobs_over_many_turns(agent: Agent, toolbox: Toolbox, marker) -> None:
    """They are there for the next run of an agent too."""
    await agent(toolbox, [("start", {"command": f"echo up; exec sleep {marker}"})])
    listed, ended, again, unknown = await agent(
        toolbox,
        [("jobs", {})],
        [("run", {"argv": ["sh", "-c", f"until pgrep -f '^sleep {marker}'; do sleep .1; done"]})],
        [("read", {"job_id": "job-1", "wait": 0.1})],
        [("read", {"job_id": "job-7"})],
    )
    assert listed.startswith("job-1: ")
    assert ended.endswith("[exited with status 0]")
    assert again == "up\n[job-1: running]"
    assert unknown == "error: no job 'job-7': job-1"
    (stopped,) = await agent(toolbox, [("stop", {"job_id": "job-1"})])
    assert "stopped after" in stopped
    assert not marker.pids()


async def test_bad_arguments_are_told(agent: Agent, toolbox: Toolbox) -> None:
    told = await agent(
        toolbox,
        [("run", {"argv": ["no-such-program"]})],
        [("run", {"argv": 5})],
        [("bash", {})],
        [("bash", {"command": "true", "timeout": -1})],
        [("bash", {"command": "echo on"})],
    )
    assert "no-such-program" in told[0]
    assert told[2] == "error: command is missing"
    assert told[3].startswith("error: timeout must be ")
    assert told[4] == "on\n[exited with status 0]"


async def test_what_hangs_is_ended_in_time(agent: Agent, toolbox: Toolbox, marker) -> None:
    told = await agent(
        toolbox,
        [("bash", {"command": f"sleep {marker} & sleep {marker}", "timeout": 0.3})],
        [("bash", {"command": "echo on"})],
    )
    assert "[timed out after " in told[0]
    assert told[1] == "on\n[exited with status 0]"
    assert not marker.pids()


async def test_calls_at_the_same_time_share_the_shell(agent: Agent, toolbox: Toolbox) -> None:
    told = await agent(toolbox, [("bash", {"command": "echo $$"})] * 4)
    assert len(told) == 4
    assert len(set(told)) == 1
    assert len(toolbox.supervisor.tree()) == 1


@pytest.mark.parametrize("how", ["scope", "natively"])
async def test_cancelled_while_tools_hang(
    agent: Agent, toolbox: Toolbox, marker, eventually, how: str
) -> None:
    calls = [
        ("bash", {"command": f"sleep {marker} & sleep {marker}"}),
        ("run", {"argv": ["sh", "-c", f"(sleep {marker}) & sleep {marker}"]}),
    ]
    if how == "natively":
        task = asyncio.ensure_future(agent(toolbox, calls))
        await eventually(lambda: len(marker.pids()) >= 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent, toolbox, calls)
            await eventually(lambda: len(marker.pids()) >= 4)
            tasks.cancel_scope.cancel()
    await eventually(lambda: not marker.pids())  # not all frameworks wait for what they cancel
    assert await toolbox.bash("echo on") == "on\n[exited with status 0]"


@pytest.mark.parametrize("name", ["bash", "run"])
async def test_the_end_of_the_supervisor_comes_out(agent: Agent, name: str) -> None:
    async with Supervisor() as supervisor, Toolbox(supervisor) as toolbox:
        pass
    arguments = {"argv": ["true"]} if name == "run" else {"command": "true"}
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- the framework's, with ours in it
        await agent(toolbox, [(name, arguments)])
    assert holds(caught.value, SupervisorClosed)


async def test_the_death_of_the_keeper_comes_out(
    agent: Agent, toolbox: Toolbox, marker, eventually
) -> None:
    async def kill() -> None:
        await eventually(marker.pids)
        assert lifeline._current
        os.kill(lifeline._current.pid, signal.SIGKILL)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill)
        with pytest.raises(Exception) as caught:  # noqa: PT011 -- the framework's, with ours in it
            await agent(toolbox, [("run", {"argv": ["sleep", marker]})])
    assert holds(caught.value, KeeperLost)
    await eventually(lambda: not marker.pids())


def holds(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether it is one of these, or was raised from one."""
    while error is not None and not isinstance(error, kind):
        if isinstance(error, BaseExceptionGroup):
            return any(holds(member, kind) for member in error.exceptions)
        error = error.__cause__
    return error is not None
