"""Several agents on one ledger: in one process, and in processes that die, hang and fork."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import pytest

from agentsup._errors import StepInterrupted
from agentsup._rules.ledger import StepState
from agentsup.checkpoint import Ledger
from agentsup.checkpoint.history import history

pytestmark = pytest.mark.anyio

Eventually = Callable[..., Awaitable[None]]
PATIENCE = 60.0  # seconds

# It takes a step, says so, and ends it when it is told to.
AGENT = """
import os, sys, anyio, agentsup._errors
from agentsup.checkpoint import Ledger

path, lease = sys.argv[1], float(sys.argv[2])

async def main():
    async with Ledger(path, lease=lease) as ledger:
        try:
            async with ledger.step("step") as step:
                BEFORE
                print("begun", flush=True)
                line = await anyio.to_thread.run_sync(sys.stdin.readline)
                assert line == "end\\n", line
                step.set_result("theirs")
        except agentsup._errors.StepLost as error:
            print(type(error).__name__, error, flush=True)
        else:
            print("done", flush=True)
            await anyio.to_thread.run_sync(sys.stdin.read)  # to the end of the test

anyio.run(main)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


class Agent:
    """Another process, in the middle of a step."""

    def __init__(self, path: Path, lease: float, before: str) -> None:
        entries = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-c", AGENT.replace("BEFORE", before), str(path), str(lease)],
            env={**os.environ, "PYTHONPATH": entries},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def end_step(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("end\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def agent(path: Path, *, lease: float = 60.0, before: str = "pass") -> Iterator[Agent]:
    other = Agent(path, lease, before)
    with other.process:
        try:
            assert other.read() == "begun\n"
            yield other
        finally:
            other.process.kill()


async def ours() -> str:
    return "ours"


# --- who waits for another's step -------------------------------------------------------------


async def wait_for_the_step(ledger: Ledger, results: list[str]) -> None:
    with anyio.fail_after(PATIENCE):
        results.append(await ledger.run("step", ours, inputs=None))


async def test_the_other_ends_its_step(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentsup.checkpoint.ledger._FIRST_PAUSE", 1e9)  # so it has to be told
    results: list[str] = []
    with agent(path, lease=1e9) as other:
        async with Ledger(path, lease=None) as ledger, anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_the_step, ledger, results)
            await ledger.run("unrelated", ours)  # by then it has been asked for
            assert not results
            other.end_step()
        assert other.read() == "done\n"
    assert results == ["theirs"]


@pytest.mark.parametrize(
    "before",
    [
        "pass",
        # It lives until nobody can write to it. What an agent has forked is no agent.
        "os.fork() or (sys.stdin.read(), os._exit(0))",
    ],
    ids=["alone", "with a fork"],
)
async def test_the_other_is_killed(path: Path, before: str) -> None:
    results: list[str] = []
    with agent(path, lease=1e9, before=before) as other:  # so that only the kernel can tell
        async with Ledger(path) as ledger, anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_the_step, ledger, results)
            await ledger.run("unrelated", ours)
            assert not results
            other.process.kill()
    assert results == ["ours"]


async def test_the_other_hangs(path: Path) -> None:
    results: list[str] = []
    with agent(path, lease=0.3) as other:
        other.process.send_signal(signal.SIGSTOP)
        async with Ledger(path) as ledger:
            await wait_for_the_step(ledger, results)
            other.process.send_signal(signal.SIGCONT)
            other.end_step()
            assert other.read().startswith("StepLost step 'step' (number 1) was taken over")
            [step] = ledger.history()
    assert results == ["ours"]
    assert (step.state, step.result, step.attempts) == (StepState.DONE, "ours", 2)


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_an_agent_with_a_step_gives_signs_of_life(path: Path, eventually: Eventually) -> None:
    agents = Path(f"{path}-agents")
    with agent(path, lease=0.3):
        for _ in range(3):
            before = agents.read_bytes()
            await eventually(lambda before=before: agents.read_bytes() != before, PATIENCE)


async def test_two_ledgers_in_one_process(path: Path) -> None:
    results: list[str] = []
    async with Ledger(path, lease=None) as one, Ledger(path) as other:
        async with anyio.create_task_group() as tasks, one.step("step") as step:
            tasks.start_soon(wait_for_the_step, other, results)
            await other.run("unrelated", ours)
            assert not results
            step.set_result("theirs")
        assert results == ["theirs"]
        with anyio.CancelScope() as scope:
            async with one.step("another"):
                scope.cancel()
                await anyio.sleep_forever()
        assert await other.run("another", ours, inputs=None) == "ours"


# --- who comes later --------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_a_dead_agent_was_at_is_interrupted(path: Path) -> None:
    with agent(path) as other:
        assert [step.state for step in history(str(path))] == [StepState.RUNNING]
        other.process.kill()
    assert [step.state for step in history(str(path))] == [StepState.INTERRUPTED]
    for _ in range(2):
        async with Ledger(path) as ledger:
            with pytest.raises(StepInterrupted, match="interrupted in attempt 1"):
                await ledger.run("step", ours, inputs=None, policy="fail")
    async with Ledger(path) as ledger:
        assert await ledger.run("step", ours, inputs=None) == "ours"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_has_the_place_of_a_dead_agent_has_not_its_steps(path: Path) -> None:
    with agent(path) as other:
        other.process.kill()
    async with Ledger(path, lease=None), Ledger(path) as ledger:
        with anyio.fail_after(PATIENCE):
            assert await ledger.run("step", ours, inputs=None) == "ours"


# --- many at once -----------------------------------------------------------------------------

MANY = r"""
import os, random, sys, anyio
from agentsup.checkpoint import Ledger

path, log = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

async def work(number):
    os.write(log, f"{number}\n".encode())
    await anyio.sleep(0.001)
    return number

async def main():
    numbers = list(range(12))
    random.shuffle(numbers)
    async with Ledger(path) as ledger, anyio.create_task_group() as tasks:
        for number in numbers:
            tasks.start_soon(ledger.run, "step", work, number)

children = []
for _ in range(4):
    if not (pid := os.fork()):
        try:
            anyio.run(main)
            os._exit(0)
        finally:
            os._exit(1)
    children.append(pid)
sys.exit(any([os.waitpid(pid, 0)[1] for pid in children]))
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_many_agents_begin_a_ledger_at_once(path: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    entries = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    subprocess.run(
        [sys.executable, "-c", MANY, str(path), str(log)],
        env={**os.environ, "PYTHONPATH": entries},
        check=True,
        timeout=PATIENCE,
    )
    assert sorted(map(int, log.read_text().split())) == list(range(12))
    assert [step.attempts for step in history(str(path))] == [1] * 12
