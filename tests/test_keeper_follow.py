"""One more process of a call is looked after, in place of its main one."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import pytest

from agentsup import Containment, Outcome
from agentsup._calls import on_loop
from agentsup._calls.call import Call
from agentsup._calls.spec import make_spec
from agentsup._levels import missing
from agentsup._levels.hold import News
from agentsup._linux import lifeline
from agentsup._linux.keeper import is_zombie, stat_fields
from agentsup._values.command import Command

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

Eventually = Callable[..., Awaitable[None]]

#: Ends with status 7 when it is told to, by SIGTERM.
LISTENER = "sh -c 'trap \"exit 7\" TERM; echo $$; while :; do sleep 0.01; done'"


def require(level: Containment) -> None:
    if lacking := missing(level):
        pytest.skip(lacking.reason)


class Tree:
    """A call that is driven, and what has been told of the process that is followed."""

    def __init__(self, script: str, level: Containment, eventually: Eventually) -> None:
        spec = make_spec(Command(["sh", "-c", script]), {}, level)
        self.call = Call(spec, eager=True)
        self.call.rule.adopt = True
        self.told: list[News] = []
        self.call.on_followed = self.told.append
        self._eventually = eventually

    async def drive(self) -> None:
        await on_loop.drive(self.call, to_the_end=True)

    async def words(self, count: int = 1) -> list[int]:
        """The numbers that it has printed, once there are so many."""
        await self._eventually(lambda: self.call.result().stdout.text.count("\n") >= count)
        return [int(word) for word in self.call.result().stdout.text.split()]

    async def ask(self, pid: int) -> News:
        before = len(self.told)
        self.call.follow(pid)
        await self._eventually(lambda: len(self.told) > before)
        return self.told[-1]

    async def hear(self, news: News) -> None:
        await self._eventually(lambda: self.told and self.told[-1] is news)


@pytest.fixture
def tree(eventually: Eventually) -> Any:
    @contextlib.asynccontextmanager
    async def run(script: str, level: Containment = Containment.SUBREAPER) -> AsyncGenerator[Tree]:
        tree = Tree(script, level, eventually)
        await on_loop.start(tree.call)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tree.drive)
                try:
                    yield tree
                finally:
                    tree.call.stop(Outcome.STOPPED, within=1.0)
        finally:
            tree.call.close()

    return run


async def test_how_a_daemon_ends_is_known(tree: Any, eventually: Eventually) -> None:
    async with tree(f"setsid {LISTENER} & exit 3") as run:
        (pid,) = await run.words()
        await eventually(lambda: run.call.rule.adopting)
        assert await run.ask(pid) is News.FOLLOWED
        assert run.call.followed == (pid, None)
        run.call.signal_main(signal.SIGTERM)
        await run.hear(News.ENDED)
        assert os.WEXITSTATUS(run.call.followed[1]) == 7
        assert run.call.result().exit_code == 3


async def test_so_is_how_one_ends_that_has_outlived_its_parent(
    tree: Any, eventually: Eventually
) -> None:
    async with tree(f"setsid {LISTENER} & read forever <>/dev/zero") as run:
        (pid,) = await run.words()
        assert await run.ask(pid) is News.FOLLOWED
        os.kill(run.call.pid, signal.SIGKILL)
        await eventually(lambda: run.call.rule.adopting)
        run.call.signal_main(signal.SIGKILL)
        await run.hear(News.ENDED)
        assert os.WTERMSIG(run.call.followed[1]) == signal.SIGKILL


async def test_of_somebody_elses_child_only_that_it_has_ended(tree: Any) -> None:
    async with tree(f"{LISTENER} & wait; sleep 999") as run:
        (pid,) = await run.words()
        assert await run.ask(pid) is News.FOLLOWED
        run.call.signal_main(signal.SIGTERM)
        await run.hear(News.ENDED)
        assert run.call.followed == (pid, None)
        assert run.call.rule.ended_at is None


async def test_a_stranger_changes_nothing(tree: Any) -> None:
    async with tree(f"{LISTENER} & sleep 999") as run, tree("echo $$; sleep 999") as other:
        (pid,) = await run.words()
        assert await run.ask(pid) is News.FOLLOWED
        (elsewhere,) = await other.words()
        assert await other.ask(pid) is News.STRANGER
        assert other.call.followed == (0, None)
        for stranger in (elsewhere, os.getpid(), 1, 2**31 - 1, lifeline._current.pid):
            assert await run.ask(stranger) is News.STRANGER
            assert run.call.followed == (pid, None)
        run.call.signal_main(signal.SIGTERM)  # it is still that one which is meant
        await run.hear(News.ENDED)


async def test_one_that_is_dead_already_is_none(tree: Any, eventually: Eventually) -> None:
    async with tree("sleep 0.1 & echo $!; exec sleep 999") as run:  # which does not reap it
        (pid,) = await run.words()
        await eventually(lambda: is_zombie(pid))
        assert await run.ask(pid) is News.STRANGER


async def test_the_next_one_takes_the_place_of_the_last(tree: Any) -> None:
    async with tree(f"{LISTENER} & {LISTENER} & sleep 999") as run:
        first, second = await run.words(2)
        assert await run.ask(first) is News.FOLLOWED
        assert await run.ask(second) is News.FOLLOWED
        assert await run.ask(second) is News.FOLLOWED
        os.kill(first, signal.SIGKILL)
        os.kill(second, signal.SIGKILL)
        await run.hear(News.ENDED)
        assert run.told.count(News.ENDED) == 1
        assert run.call.followed[0] == second


async def test_the_end_of_the_last_is_not_that_of_the_next(
    tree: Any, eventually: Eventually
) -> None:
    """The keeper finds both at once, and gives the one the descriptor number of the other."""
    async with tree(f"setsid {LISTENER} & setsid {LISTENER} & exit 3") as run:
        first, second = await run.words(2)
        await eventually(lambda: run.call.rule.adopting)  # so that both are the keeper's
        assert await run.ask(first) is News.FOLLOWED
        os.kill(lifeline._current.pid, signal.SIGSTOP)
        try:
            await eventually(lambda: stat_fields(lifeline._current.pid)[0] == b"T")
            run.call.follow(second)
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: is_zombie(first))
        finally:
            os.kill(lifeline._current.pid, signal.SIGCONT)
        await eventually(lambda: len(run.told) >= 3)
        await run.ask(second)
        assert run.told == [News.FOLLOWED, News.ENDED, News.FOLLOWED, News.FOLLOWED]
        assert run.call.followed == (second, None)


async def test_it_can_be_the_main_process_itself(tree: Any, eventually: Eventually) -> None:
    async with tree("trap 'exit 5' TERM; echo $$; while :; do sleep 0.01; done") as run:
        (pid,) = await run.words()
        assert await run.ask(pid) is News.FOLLOWED
        run.call.signal_main(signal.SIGTERM)
        await run.hear(News.ENDED)
        assert os.WEXITSTATUS(run.call.followed[1]) == 5
        await eventually(lambda: run.call.finished)
        assert run.call.result().exit_code == 5


async def test_the_keeper_keeps_nothing_of_it(tree: Any, eventually: Eventually) -> None:
    async with tree("echo $$; exec sleep 999") as other:  # so that there is one
        await other.words()
        folder = f"/proc/{lifeline._current.pid}/fd"
        before = len(os.listdir(folder))
        for number in (signal.SIGTERM, signal.SIGKILL):
            async with tree(f"{LISTENER} & sleep 999") as run:
                (pid,) = await run.words()
                assert await run.ask(pid) is News.FOLLOWED
                run.call.signal_main(number)
                await run.hear(News.ENDED)
            async with tree(f"{LISTENER} & sleep 999") as run:  # killed while it is followed
                (pid,) = await run.words()
                assert await run.ask(pid) is News.FOLLOWED
        # One channel more, which is kept for the next call.
        await eventually(lambda: len(os.listdir(folder)) <= before + 1)


async def test_in_a_namespace_it_is_named_as_it_names_itself(tree: Any) -> None:
    require(Containment.PID_NAMESPACE)
    script = f"{LISTENER} & read forever <>/dev/zero"
    async with tree(script, Containment.PID_NAMESPACE) as run:
        (pid,) = await run.words()
        assert pid < 100
        assert await run.ask(1) is News.STRANGER  # the init
        assert await run.ask(pid) is News.FOLLOWED
        outer = run.call.followed[0]
        assert outer != pid
        assert run.call.owns(outer)
        assert await run.ask(outer) is News.FOLLOWED
        run.call.signal_main(signal.SIGTERM)
        await run.hear(News.ENDED)


async def test_a_process_group_cannot(tree: Any) -> None:
    async with tree(f"{LISTENER} & sleep 999", Containment.PROCESS_GROUP) as run:
        (pid,) = await run.words()
        assert await run.ask(pid) is News.STRANGER
        assert run.call.followed == (0, None)
