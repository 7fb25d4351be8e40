"""Services that end by themselves: restarted or not, when, and what becomes of the supervisor."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import tenacity

from agentsup import (
    EventStream,
    NotReady,
    OutputMatches,
    RestartLimitReached,
    Service,
    ServiceHandle,
    ServiceState,
    Supervisor,
    SupervisorClosed,
)

pytestmark = pytest.mark.anyio
#: For what does not depend on the event loop.
one_loop = pytest.mark.parametrize("anyio_backend", ["trio"])

Eventually = Callable[..., Awaitable[None]]

ACTIVE, BACKOFF, DEACTIVATING, FAILED, INACTIVE = (
    ServiceState.ACTIVE,
    ServiceState.BACKOFF,
    ServiceState.DEACTIVATING,
    ServiceState.FAILED,
    ServiceState.INACTIVE,
)
UP = OutputMatches("up")


def sleeper(name: str = "a", **options: Any) -> Service:
    return Service(name, ["sleep", "1000"], **options)


def sh(script: str, name: str = "a", **options: Any) -> Service:
    return Service(name, ["sh", "-c", script], **options)


def kill(handle: ServiceHandle, number: int = signal.SIGKILL) -> None:
    assert handle.pid
    os.kill(handle.pid, number)


async def until(events: EventStream, state: ServiceState, service: str = "a") -> None:
    with anyio.fail_after(20):
        async for event in events:
            if (event.service, event.state) == (service, state):
                return


# --- the rule of one service ------------------------------------------------------------------


@one_loop
async def test_which_ends_are_followed_by_a_restart() -> None:
    """All at once; each runs once, and again if it is restarted, which it is to be once."""
    cases: list[tuple[str, str, dict[str, Any], ServiceState]] = [
        ("permanent", "exit 0", {}, BACKOFF),
        ("transient", "exit 0", {"restart": "transient"}, INACTIVE),
        ("transient-fails", "exit 1", {"restart": "transient"}, BACKOFF),
        ("transient-hup", "kill -HUP $$", {"restart": "transient"}, INACTIVE),
        ("transient-usr1", "kill -USR1 $$", {"restart": "transient"}, BACKOFF),
        (
            "clean-usr1",
            "kill -USR1 $$",
            {"restart": "transient", "clean_signals": ["USR1"]},
            INACTIVE,
        ),
        ("unclean-term", "kill $$", {"restart": "transient", "clean_signals": []}, BACKOFF),
        ("clean-3", "exit 3", {"restart": "transient", "success_exit_status": {0, 3}}, INACTIVE),
        ("temporary", "exit 0", {"restart": "temporary"}, INACTIVE),
        ("temporary-fails", "exit 1", {"restart": "temporary"}, FAILED),
        ("never-again", "exit 125", {}, FAILED),
        ("never-7", "exit 7", {"never_again": {7}}, FAILED),
        ("prevented", "exit 4", {"prevent_restart_on": [4]}, FAILED),
        ("prevented-kill", "kill -KILL $$", {"prevent_restart_on": ["KILL"]}, FAILED),
        ("prevented-clean", "exit 0", {"prevent_restart_on": [0]}, INACTIVE),
    ]
    ends: dict[str, ServiceState] = {}
    async with Supervisor(max_restarts=None) as sup:
        events = sup.events()
        sup.start_soon(
            *(
                sh(script, name, backoff=lambda _: 600.0, **options)
                for name, script, options, _ in cases
            )
        )
        with anyio.fail_after(60):
            async for event in events:
                if event.state in (BACKOFF, INACTIVE, FAILED):
                    ends[event.service] = event.state
                    if len(ends) == len(cases):
                        break
    assert ends == {name: state for name, _, _, state in cases}


@one_loop
async def test_what_ended_for_good_says_why() -> None:
    async with Supervisor() as sup:
        handle = sup.start_soon(sh("echo why; exit 125"))
        assert await handle.wait() is FAILED
        assert handle.status_text == "exited with status 125: never again"
        assert handle.output == "why\n"
        assert handle.result
        assert handle.result.exit_code == 125
        with pytest.raises(NotReady, match=r"^a: exited with status 125: never again\nwhy$"):
            await handle.wait_ready()


@one_loop
async def test_what_is_never_to_start_again_does_not_do_so_with_its_siblings() -> None:
    async with Supervisor(strategy="one_for_all") as sup:
        a, b = await sup.start(
            sh("echo up; read x < /dev/null; exec sleep 1000", "a"), sleeper("b")
        )
        events = sup.events()
        never = sup.start_soon(sh("exit 125", "c"))
        assert await never.wait() is FAILED
        kill(a)
        await until(events, ACTIVE, "b")
        assert (a.state, b.state, never.state) == (ACTIVE, ACTIVE, FAILED)
        await never.start()  # unless somebody asks for it
        assert await never.wait() is FAILED
        await until(events, ACTIVE, "c")


@one_loop
async def test_backoff_give_up_and_jitter() -> None:
    waits: list[int] = []

    def backoff(state: tenacity.RetryCallState) -> float:
        waits.append(state.attempt_number)
        return tenacity.wait_exponential(multiplier=0.01, max=0.05)(state)

    async with Supervisor(max_restarts=None) as sup:
        handle = sup.start_soon(
            sh("exit 1", backoff=backoff, give_up=tenacity.stop_after_attempt(4), jitter=0.01)
        )
        assert await handle.wait() is FAILED
        assert waits == [1, 2, 3, 4]
        assert handle.restarts == 3
        expected = (
            "exited with status 1; given up after 4 runs; crash loop: restarted 3 times in a row"
        )
        assert handle.status_text == expected
        events = sup.events()
        other = sup.start_soon(sleeper("b", backoff=tenacity.wait_fixed(600)))
        await other.wait_ready()
        kill(other)
        await until(events, BACKOFF, "b")
        assert "next start in " in other.status_text


@one_loop
async def test_a_stable_run_begins_a_new_series(eventually: Eventually) -> None:
    numbers: list[int] = []

    def backoff(state: tenacity.RetryCallState) -> float:
        numbers.append(state.attempt_number)
        return 0.0

    async with Supervisor(max_restarts=None) as sup:
        long, short = await sup.start(
            sleeper("long", backoff=backoff, stable_after=0.05),
            sleeper("short", backoff=backoff, stable_after=600),
        )
        for handle, expected in [(short, [1, 2, 3]), (long, [1, 1, 1])]:
            numbers.clear()
            for count in (1, 2, 3):
                await eventually(lambda one=handle: (one.uptime or 0) > 0.05)
                kill(handle)
                await eventually(lambda one=handle, n=count: one.restarts == n)
                await handle.wait_ready()
            assert numbers == expected


@one_loop
async def test_a_backoff_that_cannot_be_asked_is_given_up() -> None:
    def broken(_: object) -> float:
        raise KeyError("no")

    async with Supervisor() as sup:
        handle = sup.start_soon(sh("exit 1", backoff=broken))
        assert await handle.wait() is FAILED
        assert handle.status_text == "exited with status 1; backoff raised KeyError: 'no'"


# --- failing upward ---------------------------------------------------------------------------


async def test_too_many_restarts_end_the_block_with_the_child_and_its_last_output() -> None:
    cancelled = False
    with pytest.raises(ExceptionGroup) as caught:
        async with Supervisor(max_restarts=2, within=600) as sup:
            other = await sup.start(sleeper("other"))
            handle = sup.start_soon(sh("echo last words; exit 3"))
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                cancelled = True
                raise
    assert cancelled
    (error,) = caught.value.exceptions
    assert isinstance(error, RestartLimitReached)
    assert (error.service, error.output) == ("a", "last words\n")
    assert str(error) == ("a: more than 2 restarts within 600 s; exited with status 3\nlast words")
    assert (handle.restarts, handle.state) == (3, FAILED)
    assert (other.state, other.pid) == (INACTIVE, None)


async def test_what_the_block_raises_meanwhile_is_in_the_group() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with Supervisor(max_restarts=0) as sup:
            sup.start_soon(sh("exit 3"))
            try:
                await anyio.sleep_forever()
            finally:
                with pytest.raises(SupervisorClosed, match=r"^this Supervisor is being left$"):
                    sup.start_soon(sleeper("late"))
                raise KeyError("own")
    assert [type(error) for error in caught.value.exceptions] == [RestartLimitReached, KeyError]


@one_loop
async def test_what_the_block_raises_is_raised_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with Supervisor() as sup:
            handle = await sup.start(sleeper())
            raise KeyError
    assert handle.state is INACTIVE


async def test_shutting_down_leaves_the_block_without_an_error() -> None:
    with anyio.fail_after(60):
        async with Supervisor(auto_shutdown="any_significant") as sup:
            other = await sup.start(sleeper("other"))
            await sup.start(sleeper(restart="transient", significant=True))
            kill(sup.service("a"), signal.SIGTERM)
            await anyio.sleep_forever()
    assert other.state is INACTIVE
    await anyio.lowlevel.checkpoint()  # the cancellation has ended with the block


# --- nested supervisors -----------------------------------------------------------------------


async def test_a_childs_failure_comes_out_of_its_block_and_can_be_handled_there() -> None:
    async with Supervisor(max_restarts=0) as sup:
        own = await sup.start(sleeper("own"))
        with pytest.raises(ExceptionGroup) as caught:
            async with sup.child("workers", max_restarts=0) as workers:
                inner = await workers.start(sleeper("one"))
                worker = await workers.start(sleeper("two"))
                kill(worker)
                await anyio.sleep_forever()
        assert caught.group_contains(RestartLimitReached, match=r"^two: more than 0")
        assert (inner.state, own.state) == (INACTIVE, ACTIVE)
        assert [node.name for node in sup.tree()] == ["own"]
        async with sup.child("workers") as workers:  # its name can be used again
            assert (await workers.start(sleeper("one"))).state is ACTIVE


async def test_a_childs_failure_that_nobody_handles_goes_up() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with Supervisor() as sup, sup.child("workers", max_restarts=0) as workers:
            own = await sup.start(sleeper("own"))
            kill(await workers.start(sleeper("one")))
            await anyio.sleep_forever()
    assert caught.group_contains(RestartLimitReached)
    assert own.state is INACTIVE


async def test_a_parent_that_is_left_ends_the_blocks_of_its_children_first() -> None:
    ended: list[str] = []
    ready = anyio.Event()

    async def work(sup: Supervisor) -> None:
        async with sup.child("workers") as workers, workers.child("below") as below:
            await below.start(sleeper("deep"))
            await workers.start(sleeper("one"))
            ready.set()
            await anyio.sleep_forever()
        ended.append("block")
        with pytest.raises(SupervisorClosed):
            await sup.start(sleeper("late"))

    async with anyio.create_task_group() as tasks, Supervisor() as sup:
        await sup.start(sleeper("own"))
        tasks.start_soon(work, sup)
        await ready.wait()
        events = sup.events()
    stopped = [event.service async for event in events if event.state is DEACTIVATING]
    assert stopped == ["workers/below/deep", "workers/one", "own"]
    assert ended == ["block"]


@one_loop
async def test_a_node_can_stop_a_child() -> None:
    async with Supervisor() as sup:
        with anyio.fail_after(60):
            async with sup.child("workers") as workers:
                worker = await workers.start(sleeper("one"))
                sup.tree()[0].stop()
                await anyio.sleep_forever()
        assert worker.state is INACTIVE


# --- cancellation -----------------------------------------------------------------------------


async def test_a_cancelled_block_stops_its_services_in_order() -> None:
    with anyio.CancelScope() as scope:
        async with Supervisor() as sup:
            await sup.start(sleeper("a"), sleeper("b", after="a"), sh("sleep 1000", "c", after="b"))
            events = sup.events()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    line = [(event.service, event.state) async for event in events]
    assert line == [(name, state) for name in "cba" for state in (DEACTIVATING, INACTIVE)]


async def test_a_cancellation_of_both_the_block_and_what_is_around_it() -> None:
    with anyio.CancelScope() as scope:
        with pytest.raises(ExceptionGroup):
            async with Supervisor(max_restarts=0) as sup:
                handle = await sup.start(sleeper())
                kill(handle)
                try:
                    await anyio.sleep_forever()
                finally:
                    scope.cancel()
    assert handle.state is FAILED


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
@pytest.mark.parametrize("stage", ["waiting", "starting", "active", "resting", "stopping"])
async def test_services_whose_tasks_are_cancelled_one_by_one(
    stage: str, eventually: Eventually
) -> None:
    """As only asyncio's own ``Task.cancel()`` can: no scope of theirs was."""
    stubborn = "trap '' TERM; echo up; exec sleep 1000"
    async with Supervisor(max_restarts=None) as sup:
        other = await sup.start(sleeper("other"))
        services = {
            "waiting": sleeper(after="slow", requires="slow"),
            "starting": sleeper(ready=UP),
            "active": sleeper(),
            "resting": sh("exit 1", backoff=lambda _: 600.0),
            "stopping": sh(stubborn, ready=UP, grace=0.2),
        }
        before = asyncio.all_tasks()
        if stage == "waiting":
            sup.start_soon(sh("sleep 1000", "slow", ready=UP))
            before = asyncio.all_tasks()
        handle = sup.start_soon(services[stage])
        its = [one for one in asyncio.all_tasks() - before if "ServiceHandle" in repr(one)]
        assert its
        await reach(handle, stage, eventually)
        for task in its:
            task.cancel()
        with anyio.fail_after(60):
            assert await handle.wait() is INACTIVE
        assert handle.pid is None
        assert other.state is ACTIVE
        assert other.pid


async def reach(handle: ServiceHandle, stage: str, eventually: Eventually) -> None:
    if stage == "starting":
        await eventually(lambda: handle.pid is not None, 60)
    elif stage in ("active", "stopping"):
        await handle.wait_ready()
    elif stage == "resting":
        await eventually(lambda: handle.state is BACKOFF, 60)
    else:
        await anyio.sleep(0.01)
    if stage == "stopping":
        handle.stop_soon()
        await eventually(lambda: handle.state is DEACTIVATING)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
async def test_a_service_whose_task_is_cancelled_before_its_first_step() -> None:
    """A task group takes that for the end of all; so it is, and nothing hangs."""
    with anyio.fail_after(60):
        async with Supervisor() as sup:
            other = await sup.start(sleeper("other"))
            before = asyncio.all_tasks()
            handle = sup.start_soon(sleeper())
            for task in asyncio.all_tasks() - before:
                task.cancel()
            await anyio.sleep_forever()
    assert (handle.state, other.state) == (INACTIVE, INACTIVE)
    del task
    gc.collect()  # of what has never run


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_all_tasks_are_cancelled_at_once() -> None:
    """The end of a program that knows nothing better."""
    entered = anyio.Event()
    handles: list[ServiceHandle] = []

    async def main() -> None:
        async with Supervisor() as sup:
            handles.extend(await sup.start(sleeper("a"), sleeper("b", after="a")))
            entered.set()
            await anyio.sleep_forever()

    this = asyncio.all_tasks()
    task = asyncio.create_task(main())
    await entered.wait()
    for one in asyncio.all_tasks() - this:
        one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [handle.state for handle in handles] == [INACTIVE, INACTIVE]
