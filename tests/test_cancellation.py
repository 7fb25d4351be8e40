"""Cancelled at any moment, in any way: nothing is left, and the cancellation goes on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys

import anyio
import pytest
import sniffio
from anyio import wait_all_tasks_blocked

import agentsup
from agentsup import Escalation, OutputPolicy, Step, last_partial

pytestmark = pytest.mark.anyio

STUBBORN = "trap '' TERM; echo on; sleep {} & sleep {}; exit 0"


@pytest.fixture
def only_asyncio(anyio_backend_name):
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own cancel()")


def stubborn(marker):
    return agentsup.shell(STUBBORN.format(marker, marker))


async def test_partial_of_a_cancelled_call(marker, eventually):
    caught = None
    async with anyio.create_task_group() as tasks:

        async def call():
            nonlocal caught
            try:
                await agentsup.run(stubborn(marker), grace=0.1)
            except anyio.get_cancelled_exc_class() as exc:
                caught = exc
                raise

        tasks.start_soon(call)
        await eventually(lambda: len(marker.pids()) >= 3)
        tasks.cancel_scope.cancel()
    assert not marker.pids()
    partial = last_partial(caught)
    assert partial.stdout.text == "on\n"
    assert partial.outcome is agentsup.Outcome.STOPPED
    assert [step.action for step in partial.escalation] == ["SIGTERM", "SIGKILL"]
    assert any("agentsup" in note for note in caught.__notes__)


async def test_before_the_first_await(marker):
    with anyio.CancelScope() as scope:
        scope.cancel()
        await agentsup.run(["sleep", marker])
    assert scope.cancelled_caught
    assert not marker.pids()


async def test_in_the_queue(tmp_path):
    """Not even the file for its output is made."""
    async with agentsup.Supervisor(max_concurrency=1) as sup, anyio.create_task_group() as tasks:
        tasks.start_soon(sup.run, ["sleep", "99"])
        await wait_all_tasks_blocked()
        with anyio.move_on_after(0.05) as scope:
            await sup.run(["true"], output=OutputPolicy(spill_dir=tmp_path))
        assert scope.cancelled_caught
        assert not list(tmp_path.iterdir())
        tasks.cancel_scope.cancel()


async def test_while_output_flows(marker, eventually):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agentsup.run, ["yes", marker])
        await eventually(marker.pids)
        tasks.cancel_scope.cancel()
    assert not marker.pids()


async def test_during_the_escalation_of_a_timeout(marker, patience):
    """The call is being ended anyway; it gets its grace."""
    script = agentsup.shell(f"trap 'echo told' TERM; while :; do sleep {marker}; done")
    for timeout in patience:
        with anyio.CancelScope() as scope:
            policy = OutputPolicy(on_line=lambda *_: scope.cancel())
            await agentsup.run(script, timeout=timeout, grace=0.3, output=policy)
        assert not marker.pids()
        if scope.cancelled_caught:
            break
    assert scope.cancelled_caught


@pytest.mark.parametrize("cancels", [1, 2, 5])
async def test_native_cancel(only_asyncio, marker, eventually, cancels):
    """asyncio's own knows of no shield; repeated, it must not cut the escalation short."""
    task = asyncio.create_task(agentsup.run(stubborn(marker), grace=0.3))
    await eventually(lambda: len(marker.pids()) >= 3)
    started = anyio.current_time()
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done() or anyio.current_time() - started >= 0.25
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert anyio.current_time() - started >= 0.25
    assert not marker.pids()
    assert task.cancelled()
    assert last_partial(caught.value).stdout.text == "on\n"


async def test_native_cancel_of_an_open_process(only_asyncio, marker, eventually):
    async def talk():
        async with agentsup.Supervisor() as sup, sup.open(stubborn(marker), grace=0.2) as process:
            await process.wait()

    task = asyncio.create_task(talk())
    await eventually(lambda: len(marker.pids()) >= 3)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.02)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not marker.pids()


async def test_asyncio_timeout(only_asyncio, marker, patience):
    for timeout in patience:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(timeout):
                await agentsup.run(stubborn(marker), grace=0.1)
        partial = last_partial(caught.value)
        if partial and partial.stdout.text:
            break
    assert partial.stdout.text == "on\n"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(agentsup.run(stubborn(marker), grace=0.1), 0.2)
    assert not marker.pids()
    assert asyncio.current_task().cancelling() == 0


async def test_asyncio_timeout_during_the_escalation_of_a_scope(only_asyncio, marker):
    """The scope swallows its own cancellation, not the one that came later."""
    loop = asyncio.get_running_loop()

    def strike(stream, line):
        scope.cancel()
        later.reschedule(loop.time() + 0.1)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as later:
            with anyio.CancelScope() as scope:
                policy = OutputPolicy(on_line=strike)
                await agentsup.run(stubborn(marker), grace=0.5, output=policy)
    assert not marker.pids()
    assert asyncio.current_task().cancelling() == 0


async def test_block_raises_with_calls_of_others_in_flight(marker, eventually):
    ended = []

    async def call(sup, grace):
        result = await sup.run(stubborn(marker), grace=grace)
        ended.append(result.outcome.name)

    async with anyio.create_task_group() as tasks:
        with pytest.raises(KeyError, match="the block"):
            async with agentsup.Supervisor() as sup:
                for grace in (0.1, 0.3):
                    tasks.start_soon(call, sup, grace)
                await eventually(lambda: len(marker.pids()) >= 6)
                raise KeyError("the block")
        assert not marker.pids()
    assert ended == ["STOPPED"] * 2


async def test_supervisor_cancelled_with_calls_of_others_in_flight(marker, eventually):
    results = []

    async def call(sup):
        results.append(await sup.run(stubborn(marker), grace=0.2))

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            async with agentsup.Supervisor() as sup:
                for _ in range(3):
                    tasks.start_soon(call, sup)
                await eventually(lambda: len(marker.pids()) >= 9)
                scope.cancel()
                await anyio.sleep_forever()
        assert not marker.pids()
    assert len(results) == 3


async def test_native_cancel_of_a_closing_supervisor(only_asyncio, marker, eventually):
    """It waits for every call, not for the first only, and can be nested in scopes afterwards."""
    entered = asyncio.Event()

    async def supervise(hold):
        async with agentsup.Supervisor() as sup:
            tasks.start_soon(lambda: sup.run(stubborn(marker), grace=0.1))
            tasks.start_soon(lambda: sup.run(stubborn(marker), grace=0.4))
            await sup.run(["sh", "-c", f"setsid sleep {marker} & exit"], leftovers="adopt")
            await eventually(lambda: len(marker.pids()) == 7)
            entered.set()
            if hold:
                await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        for hold in (True, False):
            entered.clear()
            task = asyncio.create_task(supervise(hold))
            await entered.wait()
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0.02)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not marker.pids()


async def test_cancelled_while_the_pre_stop_command_runs(marker, eventually):
    escalation = Escalation(Step(["sleep", marker], 0.3), Step("TERM", 0.1))
    with anyio.move_on_after(0.1):
        await agentsup.run(stubborn(marker), timeout=0.05, escalation=escalation)
    await eventually(lambda: not marker.pids())  # the command is let go of, not waited for


PROGRAMS = [
    lambda m: ["true"],
    lambda m: ["sleep", m],
    lambda m: ["sh", "-c", f"setsid sleep {m} & sleep {m}"],
    lambda m: ["sh", "-c", f"trap '' TERM; setsid sleep {m} & sleep {m}"],
    lambda m: ["sh", "-c", f"(setsid env -i sleep {m} &) ; exit 0"],
    lambda m: ["yes", m],
    lambda m: ["sh", "-c", f"yes {m} | head -c 300000; sleep {m} & kill -9 $$"],
    lambda m: ["cat"],
]


@pytest.mark.parametrize("seed", range(2))
async def test_random_cancellation(seed, marker, anyio_backend_name):
    """Many programs, ended after any time by any of the ways to cancel."""
    random_ = random.Random(seed)
    native = anyio_backend_name == "asyncio"
    assert sniffio.current_async_library() == anyio_backend_name

    async def one(sup, choice):
        command = choice.choice(PROGRAMS)(marker)
        options = {
            "grace": choice.choice([0, 0, 0.02]),
            "timeout": choice.choice([None, None, 0.01, 0.03]),
            "stdin": choice.choice([None, b"x" * 100_000]),
        }
        delay = choice.choice([0, 0, choice.random() * 0.005, choice.random() * 0.05])

        async def call():
            if choice.random() < 0.6:
                return await sup.run(command, **options)
            async with sup.open(command, **options) as process:
                if choice.random() < 0.5:
                    async for _ in process.stdout:
                        pass
                return await process.wait()

        if native and choice.random() < 0.5:
            task = asyncio.create_task(call())
            for _ in range(choice.randrange(1, 4)):
                await asyncio.sleep(delay)
                task.cancel()
            done = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(done[0], (asyncio.CancelledError, agentsup.Result))
        else:
            with anyio.CancelScope() as scope:
                if delay:
                    scope.deadline = anyio.current_time() + delay
                else:
                    scope.cancel()
                await call()

    with anyio.fail_after(600):
        for limit in (None, 3):
            async with agentsup.Supervisor(max_concurrency=limit) as sup:
                for _ in range(5):
                    async with anyio.create_task_group() as tasks:
                        for _ in range(10):
                            tasks.start_soon(one, sup, random.Random(random_.random()))
                assert sup.tree() == ()
                assert not marker.pids()


async def test_cancelled_error_of_a_group(marker, eventually):
    """A sibling's failure cancels the call, and comes out."""

    async def fail():
        await eventually(lambda: len(marker.pids()) >= 3)
        raise LookupError

    with pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            await agentsup.run(stubborn(marker), grace=0)
    assert caught.group_contains(LookupError)
    assert not marker.pids()


async def test_keyboard_interrupt_in_a_callback(marker):
    def interrupt(stream, line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        await agentsup.run(stubborn(marker), grace=0.1, output=OutputPolicy(on_line=interrupt))
    assert not marker.pids()
    assert last_partial(caught.value).stdout.text == "on\n"
    with contextlib.suppress(KeyboardInterrupt):
        assert sys.exc_info() == (None, None, None)


DOORS = {
    "run": lambda sup, command: agentsup.run(command, grace=0.3),
    "a supervisor's run": lambda sup, command: sup.run(command, grace=0.3),
    "open": lambda sup, command: until_the_end(sup, command),
    "a supervisor": lambda sup, command: in_a_supervisor_of_its_own(command),
    "a service": lambda sup, command: as_a_service(command),
}


async def until_the_end(sup, command):
    async with sup.open(command, grace=0.3) as process:
        await process.wait()


async def in_a_supervisor_of_its_own(command):
    async with agentsup.Supervisor() as sup:
        await sup.run(command, grace=0.3)


async def as_a_service(command):
    async with agentsup.Supervisor() as sup:
        await sup.start(agentsup.Service("stubborn", command, grace=0.3))
        await anyio.sleep_forever()


@pytest.mark.usefixtures("only_asyncio")
@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
async def test_by_way_of_a_future_in_each_cycle_of_the_loop(marker, eventually, door):
    """So anyio cancels, again and again; behind a gather it is nobody's shield that could help."""
    async with agentsup.Supervisor() as sup:

        async def call():
            await asyncio.gather(door(sup, stubborn(marker)))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await eventually(lambda: len(marker.pids()) >= 3)
                tasks.cancel_scope.cancel()
        assert not marker.pids()
