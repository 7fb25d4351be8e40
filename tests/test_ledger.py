"""The ledger, as one agent sees it."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import tenacity

import agentsup
from agentsup._errors import StepInterrupted
from agentsup._rules.ledger import StepState
from agentsup.checkpoint import Ledger, Retention
from agentsup.checkpoint.history import LedgerStep

pytestmark = pytest.mark.anyio

Eventually = Callable[..., Awaitable[None]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


class Work:
    """Something to be done, that knows how often it was."""

    def __init__(self, result: Any = "result", *, fails: int = 0) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.result = result
        self.fails = fails

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((*args, *kwargs.items()))
        await anyio.sleep(0)
        if len(self.calls) <= self.fails:
            raise ValueError(f"number {len(self.calls)}")
        return self.result


def the_step(ledger: Ledger) -> LedgerStep:
    [step] = ledger.history()
    return step


async def interrupt(ledger: Ledger, name: str = "step") -> None:
    """Begin a step, and be cancelled in it."""
    with anyio.CancelScope() as scope:
        async with ledger.step(name):
            scope.cancel()
            await anyio.sleep_forever()


# --- what is done is not done again -----------------------------------------------------------


async def test_a_done_step_is_not_run_again(path: Path) -> None:
    work = Work({"a": [1, 2.5, None, True, "ü\udc80\0"]})
    for _ in range(2):
        async with Ledger(path) as ledger:
            assert await ledger.run("fetch", work, 1, [2]) == work.result
            assert await ledger.run("fetch", work, 1, [2]) == work.result
    assert work.calls == [(1, [2])]
    step = the_step(ledger)
    assert (step.name, step.state, step.result, step.attempts, step.error) == (
        "fetch",
        StepState.DONE,
        work.result,
        1,
        None,
    )
    assert step.started_at is not None
    assert step.ended_at is not None
    assert step.planned_at <= step.started_at <= step.ended_at


async def test_the_inputs_say_which_step_it_is(path: Path) -> None:
    work = Work()
    async with Ledger(path) as ledger:
        for args in ([1], [2], [1, 1], [[1]], [{"a": 1, "b": 2}], [{"b": 2, "a": 1}], []):
            await ledger.run("step", work, *args)
        await ledger.run("other", work, 1)
        for _ in range(2):
            await ledger.run("step", functools.partial(work, 1, word=2))
        await ledger.run("step", functools.partial(work, 1))
    assert len(work.calls) == 8


async def test_a_key_or_inputs_instead(path: Path) -> None:
    work = Work()
    async with Ledger(path) as ledger:
        for name, arg in (("one", object()), ("other", object())):
            await ledger.run(name, work, arg, key="payment-7")
        assert len(work.calls) == 1
        for arg in (object(), object()):
            await ledger.run("one", work, arg, inputs="x")
        assert len(work.calls) == 2
        digest = list(ledger.history())[1].inputs
        await ledger.run("step", work, key=f"{digest} one")
        assert len(work.calls) == 3


async def test_a_plain_function_will_do(path: Path) -> None:
    async with Ledger(path) as ledger:
        assert await ledger.run("step", lambda: 7) == 7


async def test_a_step_as_a_block(path: Path) -> None:
    async with Ledger(path) as ledger:
        async with ledger.step("send", ["to"]) as step:
            assert not step.done
            step.set_result(["sent"])
        async with ledger.step("nothing"):
            pass
        async with ledger.step("send", ["to"]) as step:
            assert step.done
            assert step.result == ["sent"]
            with pytest.raises(RuntimeError, match="is done"):
                step.set_result(2)
        assert await ledger.run("nothing", Work(), inputs=None) is None


async def test_what_is_planned_is_in_the_history(path: Path) -> None:
    work = Work()
    async with Ledger(path) as ledger:
        await ledger.plan("fetch", 1)
        await ledger.plan("send", key="s")
        assert [step.state for step in ledger.history()] == [StepState.PLANNED] * 2
        await ledger.run("send", work, key="s")
        await ledger.run("fetch", work, 1)
        await ledger.plan("fetch", 1)
        assert [step.state for step in ledger.history()] == [StepState.DONE] * 2
    assert [step.name for step in ledger.history()] == ["fetch", "send"]


async def test_the_history_is_that_of_one_moment(path: Path) -> None:
    async with Ledger(path) as ledger:
        for number in range(3):
            await ledger.run("step", Work(), number)
        history = ledger.history()
        first = next(history)
        await ledger.run("step", Work(), 3)
        assert [first.id, *(step.id for step in history)] == [1, 2, 3]
        assert len(list(ledger.history())) == 4


# --- what goes wrong --------------------------------------------------------------------------


async def test_a_failed_step_is_run_again(path: Path) -> None:
    work = Work(fails=1)
    async with Ledger(path) as ledger:
        with pytest.raises(ValueError, match="number 1"):
            await ledger.run("step", work, policy="fail")
        step = the_step(ledger)
        assert (step.state, step.error) == (StepState.FAILED, "ValueError: number 1")
        assert await ledger.run("step", work, policy="fail") == "result"
        step = the_step(ledger)
        assert (step.state, step.error, step.attempts) == (StepState.DONE, None, 2)


@pytest.mark.parametrize("result", [(1,), {1: 2}, float("nan"), b"x", [{"a": {3}}]])
async def test_a_result_that_would_not_come_back(path: Path, result: Any) -> None:
    async with Ledger(path) as ledger:
        with pytest.raises((TypeError, ValueError), match="the result of a step must be JSON"):
            await ledger.run("step", Work(result))
        assert the_step(ledger).state is StepState.FAILED


async def test_a_cancelled_step_is_interrupted(path: Path) -> None:
    async with Ledger(path) as ledger:
        await interrupt(ledger)
        step = the_step(ledger)
        assert (step.state, step.attempts) == (StepState.INTERRUPTED, 1)
        async with ledger.step("step") as again:
            assert not again.done
        assert (the_step(ledger).state, the_step(ledger).attempts) == (StepState.DONE, 2)


async def test_the_policy_says_what_to_do_then(path: Path) -> None:
    work = Work()
    asked = []

    async def answer(step: LedgerStep) -> Any:
        asked.append((step.name, step.state, step.attempts))
        return "skip" if len(asked) == 1 else "retry"

    async with Ledger(path) as ledger:
        await interrupt(ledger)
        run = functools.partial(ledger.run, "step", work, inputs=None)
        assert await run(policy="skip") is None
        with pytest.raises(
            StepInterrupted, match=r"'step' .* was interrupted in attempt 1"
        ) as told:
            await run(policy="fail")
        assert told.value.step == the_step(ledger)
        assert await run(policy=answer) is None
        assert not work.calls
        assert await run(policy=answer) == "result"
        assert asked == [("step", StepState.INTERRUPTED, 1)] * 2
        assert await run(policy=answer) == "result"
        assert len(asked) == 2
        await interrupt(ledger, "other")
        with pytest.raises(ValueError, match="what the policy returns must be 'retry'"):
            await ledger.run("other", work, inputs=None, policy=lambda step: "no")


async def test_who_is_cancelled_already_begins_nothing(path: Path) -> None:
    work = Work()
    async with Ledger(path) as ledger:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ledger.run("step", work)
        assert not work.calls
        assert [step.state for step in ledger.history()] in ([], [StepState.PLANNED])
        assert await ledger.run("step", work, policy="fail") == "result"


@pytest.mark.parametrize("after", range(6))
async def test_asyncios_own_cancel_at_any_await(
    path: Path, after: int, anyio_backend: tuple[str, Any]
) -> None:
    if anyio_backend[0] != "asyncio":
        pytest.skip("trio has none")
    work = Work()
    async with Ledger(path) as ledger:
        task = asyncio.create_task(ledger.run("step", work))
        for _ in range(after):
            await asyncio.sleep(0.001)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        running = [step for step in ledger.history() if step.state is StepState.RUNNING]
        assert not running
        assert await ledger.run("step", work) == "result"


# --- retries ----------------------------------------------------------------------------------


async def test_each_retry_is_an_attempt(path: Path) -> None:
    work = Work(fails=2)
    errors = []
    async with Ledger(path) as ledger:

        async def note_and_work() -> Any:
            errors.append(the_step(ledger).error)
            return await work()

        retry = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(0.01)
        )
        assert await ledger.run("step", note_and_work, retry=retry) == "result"
        assert errors == [None, "ValueError: number 1", "ValueError: number 2"]
        assert the_step(ledger).attempts == 3
        with pytest.raises(tenacity.RetryError):
            await ledger.run("other", Work(fails=9), retry=retry)
        assert list(ledger.history())[1].state is StepState.FAILED


async def test_a_retry_for_the_result_and_its_last_word(path: Path) -> None:
    work = Work(0)
    retry = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(2),
        retry=tenacity.retry_if_result(lambda result: not result),
        retry_error_callback=lambda state: "nothing came",
    )
    async with Ledger(path) as ledger:
        assert await ledger.run("step", work, retry=retry) == "nothing came"
    assert len(work.calls) == 2


async def test_a_cancellation_is_not_retried(path: Path) -> None:
    everything = tenacity.AsyncRetrying(retry=tenacity.retry_if_exception(lambda error: True))
    calls = 0

    async def hang() -> None:
        nonlocal calls
        calls += 1
        scope.cancel()
        await anyio.sleep_forever()

    async with Ledger(path) as ledger:
        with anyio.CancelScope() as scope:
            await ledger.run("step", hang, retry=everything)
        assert (calls, the_step(ledger).state) == (1, StepState.INTERRUPTED)


# --- several tasks ----------------------------------------------------------------------------


async def test_the_same_step_in_two_tasks_is_run_once(path: Path) -> None:
    work, results = Work(), []

    async def task() -> None:
        results.append(await ledger.run("step", work))

    async with Ledger(path) as ledger, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(task)
    assert results == ["result"] * 5
    assert len(work.calls) == 1


async def test_who_waits_for_one_that_fails_runs_it(path: Path) -> None:
    work, ends = Work(fails=1), []

    async def task() -> None:
        try:
            ends.append(await ledger.run("step", work))
        except ValueError as error:
            ends.append(str(error))

    async with Ledger(path) as ledger, anyio.create_task_group() as tasks:
        tasks.start_soon(task)
        tasks.start_soon(task)
    assert ends == ["number 1", "result"]


async def test_many_tasks_and_one_that_fails_in_the_same_commit(path: Path) -> None:
    """What cannot be written is the trouble of the one who asked for it."""
    async with Ledger(path) as ledger:
        requests = [
            ledger._ask(lambda steps: steps.transact and 1),
            ledger._ask(lambda steps: 1 // 0),
            ledger._ask(lambda steps: 3),
        ]
        assert await requests[0].done() == 1
        with pytest.raises(ZeroDivisionError):
            await requests[1].done()
        assert await requests[2].done() == 3


# --- tools ------------------------------------------------------------------------------------


async def test_a_tool_call_is_a_step(path: Path, tmp_path: Path) -> None:
    script = 'echo x >>runs; echo out; printf "\\377\\0" >&2; kill -9 $$'
    command = agentsup.shell(script)
    async with agentsup.Supervisor() as sup, Ledger(path) as ledger:
        first = await ledger.run_tool(sup, command, cwd=tmp_path, timeout=60)
        secrets = {"KEY": "s3cr3t-key"}
        again = await ledger.run_tool(sup, command, cwd=tmp_path, timeout=50, secrets=secrets)
        assert again == first
        assert again.stderr.head + again.stderr.tail == b"\xff\0"
        assert (tmp_path / "runs").read_text() == "x\n"
        assert (the_step(ledger).name, the_step(ledger).result["reason"]) == (
            "sh",
            "killed by SIGKILL",
        )
        with pytest.raises(agentsup.ToolFailed, match="killed by SIGKILL"):
            await ledger.run_tool(sup, command, cwd=tmp_path, check=True)
        assert (tmp_path / "runs").read_text() == "x\n"
        more = {"extend_env": {"A": "b"}}, {"stdin": b"x"}, {"env": "minimal"}
        for options in ({"name": "named"}, *more):
            await ledger.run_tool(sup, command, cwd=tmp_path, **options)  # type: ignore[call-overload]
        assert (tmp_path / "runs").read_text() == "x\n" * 5
        with pytest.raises(TypeError, match="stdin is not bytes needs a key="):
            await ledger.run_tool(sup, ["cat"], stdin=0)


async def test_a_tool_that_fails_with_check_is_run_again(path: Path, tmp_path: Path) -> None:
    command = agentsup.shell("test -e there || { touch there; exit 3; }")
    async with agentsup.Supervisor() as sup, Ledger(path) as ledger:
        with pytest.raises(agentsup.ToolFailed):
            await ledger.run_tool(sup, command, cwd=tmp_path, check=True)
        assert the_step(ledger).state is StepState.FAILED
        assert (await ledger.run_tool(sup, command, cwd=tmp_path, check=True)).ok


async def test_a_cancelled_tool_is_gone_and_interrupted(
    path: Path, marker: Any, eventually: Eventually
) -> None:
    async with agentsup.Supervisor() as sup, Ledger(path) as ledger:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ledger.run_tool, sup, ["sleep", marker])
            await eventually(marker.pids)
            tasks.cancel_scope.cancel()
        assert not marker.pids()
        assert the_step(ledger).state is StepState.INTERRUPTED
        assert await ledger.run_tool(sup, ["sleep", marker], policy="skip") is None


# --- its block, and bad input -----------------------------------------------------------------


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "agentsup-ledger"]


async def test_its_thread_ends_with_its_block(path: Path) -> None:
    async with Ledger(path) as ledger:
        assert len(writers()) == 1
    assert not writers()
    with pytest.raises(RuntimeError, match="has been left"):
        await ledger.run("step", Work())
    with pytest.raises(RuntimeError, match="only once"):
        async with ledger:
            pass
    with pytest.raises(KeyError):
        async with Ledger(path):
            raise KeyError
    with anyio.CancelScope() as scope:
        async with Ledger(path):
            scope.cancel()
            await anyio.sleep_forever()
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with Ledger(path):
            pass
    assert not writers()


async def test_it_has_to_be_entered(path: Path) -> None:
    with pytest.raises(RuntimeError, match="use 'async with'"):
        await Ledger(path).run("step", Work())
    assert not path.exists()


def test_it_may_be_made_before_there_is_an_event_loop(path: Path) -> None:
    ledger = Ledger(path)

    async def run() -> Any:
        async with ledger:
            return await ledger.run("step", Work())

    assert anyio.run(run) == "result"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": 7}, "name must be a str, not int"),
        ({"name": ""}, "name is empty"),
        ({"name": "\ud800"}, "name cannot be encoded"),
        ({"key": b"k"}, "key must be a str, not bytes"),
        ({"inputs": {1, 2}}, "inputs of a step must be JSON .*give inputs= that are, or a key="),
        ({"inputs": float("inf")}, "inputs of a step must be JSON"),
        ({"policy": "never"}, "policy must be 'retry', 'skip' or 'fail' or a callable"),
        ({"retry": 3}, "retry must be a tenacity.AsyncRetrying, not int"),
    ],
)
async def test_bad_input_begins_nothing(path: Path, arguments: Any, told: str) -> None:
    async with Ledger(path) as ledger:
        with pytest.raises((TypeError, ValueError), match=told):
            await ledger.run(fn=Work(), **{"name": "step", **arguments})
        assert not list(ledger.history())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"path": 7}, "expected str"),
        ({"path": b"x"}, "path must be a str or a path object"),
        ({"path": ""}, "path must name a file"),
        ({"path": "/"}, "path must name a file"),
        ({"lease": 0}, "lease must be more than zero seconds"),
        ({"keep": 0}, "keep must be at least 1 steps"),
    ],
)
async def test_a_bad_ledger(arguments: Any, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        Ledger(**{"path": "x", **arguments})


# --- retention, and the clock on the wall -----------------------------------------------------


async def test_nothing_is_dropped_unless_asked(path: Path) -> None:
    async with Ledger(path) as ledger:
        for number in range(30):
            await ledger.run("step", Work(), number)
    assert len(list(ledger.history())) == 30


@pytest.mark.parametrize(
    ("bounds", "most"),
    [
        ({"keep": 5}, 5),
        ({"retention": Retention(max_bytes=5000)}, 4),
        ({"retention": Retention(max_age=0.0)}, 1),
    ],
)
async def test_done_steps_are_dropped_the_oldest_first(
    path: Path, bounds: dict[str, Any], most: int
) -> None:
    async with Ledger(path, **bounds) as ledger:
        await ledger.plan("planned")
        with pytest.raises(ValueError, match="number 1"):
            await ledger.run("failed", Work(fails=1))
        await interrupt(ledger, "interrupted")
        for number in range(12):
            await ledger.run("step", Work("x" * 1000), number)
        work = Work()
        await ledger.run("step", work, 11)
        assert not work.calls, "the newest is kept"
        await ledger.run("step", work, 0)
        assert len(work.calls) == 1
    states = [step.state for step in ledger.history()]
    assert states[:3] == [StepState.PLANNED, StepState.FAILED, StepState.INTERRUPTED]
    assert states[3:] == [StepState.DONE] * most


async def test_a_clock_that_is_set_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    retention = Retention(max_age=3600)
    async with Ledger(path, retention=retention) as ledger:
        await ledger.run("old", Work())
        async with ledger.step("during"):
            monkeypatch.setattr(time, "time", lambda: now() - 9000)
        await ledger.run("new", Work())
    async with Ledger(path, retention=retention) as ledger:
        old, during, new = ledger.history()
    assert {old.state, during.state, new.state} == {StepState.DONE}
    assert during.started_at == during.ended_at
    assert new.ended_at < old.ended_at  # type: ignore[operator]  # all are done
