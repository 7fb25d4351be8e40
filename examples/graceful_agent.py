"""An agent that ends in good order when it is asked to, and goes on where it was when it was not.

python examples/graceful_agent.py [--state FILE] [--speed FACTOR]

SIGTERM (or Ctrl-C) while a task runs: the task is finished, no other is begun, and the exit status
is 0. Run again, the agent skips what is done. After a kill -9 it repeats the task that was
interrupted, and only that one.
"""

from __future__ import annotations

import argparse
from typing import Any

import anyio

from agentsup.checkpoint import Checkpoint
from agentsup.shutdown import Shutdown, graceful

TASKS = {  # seconds
    "fetch-data": 3.0,
    "process-batch": 5.0,
    "generate-report": 4.0,
    "send-results": 2.0,
    "cleanup": 1.0,
}


async def main(path: str, speed: float) -> None:
    async with graceful() as shutdown, Checkpoint(path) as checkpoint:
        await work(shutdown, checkpoint, speed)


async def work(shutdown: Shutdown, checkpoint: Checkpoint[Any], speed: float) -> None:
    state = await checkpoint.load({"completed": [], "in_progress": None})
    for task in state["completed"]:
        say(f"{task}: done before")
    if state["in_progress"]:
        say(f"{state['in_progress']}: was interrupted")
    to_do = [task for task in TASKS if task not in state["completed"]]
    async for task in shutdown.units(to_do):
        state["in_progress"] = task
        await checkpoint.save(state)
        say(f"{task}: begun")
        await anyio.sleep(TASKS[task] / speed)
        state["completed"].append(task)
        state["in_progress"] = None
        await checkpoint.save(state)
        say(f"{task}: done")
    say("asked to end" if shutdown.requested else "all done")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Simulate an agent that has five tasks to do.")
    parser.add_argument("--state", default="graceful_agent.state", help="where it is kept")
    parser.add_argument("--speed", type=float, default=1.0, help="times faster than in reality")
    options = parser.parse_args()
    anyio.run(main, options.state, options.speed)
