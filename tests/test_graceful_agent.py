"""examples/graceful_agent.py, asked to end and killed in the middle of each of its tasks."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentsup.checkpoint import Checkpoint

EXAMPLE = Path(__file__).parent.parent / "examples" / "graceful_agent.py"
TASKS = ["fetch-data", "process-batch", "generate-report", "send-results", "cleanup"]


class Agent:
    def __init__(self, program: subprocess.Popen[str]) -> None:
        self._program = program

    def send_when(self, line: str, number: signal.Signals) -> None:
        assert self._program.stdout
        for heard in self._program.stdout:
            if heard.strip() == line:
                return self._program.send_signal(number)
        pytest.fail(f"it has not said {line!r}")

    def end(self) -> tuple[int, list[str]]:
        """Its exit status, and what it had still to say."""
        output, _ = self._program.communicate(timeout=60)
        return self._program.returncode, output.splitlines()


@contextlib.contextmanager
def running(state: Path, speed: float = 1000) -> Iterator[Agent]:
    command = [sys.executable, str(EXAMPLE), "--state", str(state), "--speed", str(speed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            yield Agent(program)
        finally:
            program.kill()


def saved(state: Path) -> object:
    with Checkpoint(state) as checkpoint:
        return checkpoint.load_sync(None)


def save(state: Path, completed: list[str]) -> None:
    with Checkpoint(state) as checkpoint:
        checkpoint.save_sync({"completed": completed, "in_progress": None})


def begun_and_done(*tasks: str) -> list[str]:
    return [f"{task}: {what}" for task in tasks for what in ("begun", "done")]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "agent.state"


def test_undisturbed(state: Path) -> None:
    with running(state) as agent:
        assert agent.end() == (0, [*begun_and_done(*TASKS), "all done"])
    assert saved(state) == {"completed": TASKS, "in_progress": None}
    with running(state) as agent:
        assert agent.end() == (0, [*(f"{task}: done before" for task in TASKS), "all done"])


@pytest.mark.parametrize("number", range(len(TASKS)))
def test_sigterm_lets_the_task_end_and_the_next_run_goes_on(state: Path, number: int) -> None:
    task, before = TASKS[number], TASKS[:number]
    for speed in (20, 2, 0.5):  # slower if the machine is so busy that the signal came too late
        save(state, before)
        with running(state, speed) as agent:
            agent.send_when(f"{task}: begun", signal.SIGTERM)
            end = agent.end()
        if end == (0, [f"{task}: done", "asked to end"]):
            break
    else:
        pytest.fail(f"{end}")
    assert saved(state) == {"completed": [*before, task], "in_progress": None}
    with running(state) as agent:
        status, lines = agent.end()
    assert status == 0
    assert lines == [
        *(f"{task}: done before" for task in TASKS[: number + 1]),
        *begun_and_done(*TASKS[number + 1 :]),
        "all done",
    ]


@pytest.mark.parametrize("number", range(len(TASKS)))
def test_kill_9_repeats_the_interrupted_task_and_no_other(state: Path, number: int) -> None:
    task, before = TASKS[number], TASKS[:number]
    save(state, before)
    with running(state, speed=0.01) as agent:
        agent.send_when(f"{task}: begun", signal.SIGKILL)
        assert agent.end() == (-signal.SIGKILL, [])
    assert saved(state) == {"completed": before, "in_progress": task}
    with running(state) as agent:
        status, lines = agent.end()
    assert status == 0
    assert lines == [
        *(f"{task}: done before" for task in before),
        f"{task}: was interrupted",
        *begun_and_done(*TASKS[number:]),
        "all done",
    ]
