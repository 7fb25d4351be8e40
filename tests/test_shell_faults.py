"""A shell that is cancelled at any moment, and one whose host or keeper is in trouble."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import anyio
import anyio.lowlevel
import pytest

import agentsup
from agentsup import Outcome, Supervisor
from agentsup._linux import lifeline
from agentsup.shells import Shell, ShellResult, Terminal

pytestmark = pytest.mark.anyio

TERMINALS = pytest.mark.parametrize(
    "terminal", [None, Terminal()], ids=["without a terminal", "with one"]
)


@pytest.fixture
async def sup() -> AsyncIterator[Supervisor]:
    async with Supervisor() as supervisor:
        yield supervisor


@pytest.fixture
def only_asyncio(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own cancel()")


async def session(sup: Supervisor, terminal: Terminal | None) -> None:
    async with Shell(sup, terminal=terminal) as shell:
        await shell.run("sleep 1000 & true")
        await shell.run("sleep 1000 | cat")


@TERMINALS
async def test_cancelled_at_any_moment(sup: Supervisor, terminal: Terminal | None) -> None:
    for turns in range(0, 30, 2):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session, sup, terminal)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert not sup.tree()
    for moment in range(10):
        with anyio.move_on_after(moment / 200):
            await session(sup, terminal)
        assert not sup.tree()


async def test_cancelled_natively_and_again(sup: Supervisor, only_asyncio: None) -> None:
    for turns in range(0, 40, 3):
        task = asyncio.create_task(session(sup, None))
        for _ in range(3):  # the second and the third while it ends
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not sup.tree()


async def test_cancelled_natively_a_shell_goes_on(
    sup: Supervisor, only_asyncio: None, eventually: Callable[..., Awaitable[None]]
) -> None:
    async with Shell(sup) as shell:
        await shell.run("X=1")
        task = asyncio.create_task(shell.run("echo begun; sleep 1000"))
        waiting = asyncio.create_task(shell.run("echo $X"))
        await eventually(lambda: shell.peek())
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        partial = agentsup.last_partial(caught.value)
        assert partial
        assert (partial.outcome, partial.stdout.text) == (Outcome.STOPPED, "begun\n")
        assert (await waiting).stdout.text == "1\n"


async def test_the_keeper_dies_in_a_command(
    sup: Supervisor, eventually: Callable[..., Awaitable[None]]
) -> None:
    async with Shell(sup) as shell:
        with pytest.raises(agentsup.KeeperLost) as caught:
            await shell.run("echo begun; kill -KILL $PPID; sleep 1000")
        partial = agentsup.last_partial(caught.value)
        assert isinstance(partial, ShellResult)
        assert partial.shell_ended
        assert partial.stdout.text == "begun\n"
        new = await shell.run("echo on")
        assert (new.stdout.text, new.new_shell) == ("on\n", True)
        # and between two of them
        assert lifeline._current
        os.kill(lifeline._current.pid, signal.SIGKILL)
        await eventually(lambda: shell.pid is None)
        new = await shell.run("echo on")
        assert (new.stdout.text, new.new_shell) == ("on\n", True)


@contextlib.contextmanager
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fd = os.dup(0)
    os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fd, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_without_descriptors(sup: Supervisor) -> None:
    async with Shell(sup) as shell:
        pid = shell.pid
        await shell.run("sleep 1000 &")
        with few_descriptors():
            hung = await shell.run("sleep 1000", timeout=0.2, grace=0.1)
        assert hung.outcome is Outcome.TIMED_OUT
        assert hung.shell_ended  # what it has started cannot be looked for, but by the keeper
        assert not os.path.exists(f"/proc/{pid}")
        with few_descriptors(), pytest.raises(agentsup.SpawnError, match="descriptors"):
            await shell.run("true")
        assert (await shell.run("echo on")).stdout.text == "on\n"


@TERMINALS
async def test_what_ends_while_it_begins(sup: Supervisor, terminal: Terminal | None) -> None:
    for program in ("true", "false", "sleep"):
        with pytest.raises(agentsup.SpawnError, match="not a shell"):
            await Shell(sup, executable=program, terminal=terminal).__aenter__()
    assert not sup.tree()
