"""Evals of one sample with Inspect's fake model and its own ``bash()``: run by the tests.

In a process of their own: ``eval`` takes the whole process, its logging and its event loop.
Arguments: a directory, and a number that nobody else sleeps for. Prints a line of JSON for each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import inspect_ai
from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageTool, ModelOutput, ModelUsage, get_model
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import bash

import agentsup.ext.inspect_ai  # noqa: F401 -- as its entry point does where it is installed

DIRECTORY, MARKER = Path(sys.argv[1]), sys.argv[2]


def pids() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"sleep\0" + MARKER.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            pass  # it has just ended
    return found


def evaluate(*commands: str, **options: Any) -> dict[str, Any]:
    """What comes of a sample whose model has these commands run."""
    outputs = [
        ModelOutput.for_tool_call("mockllm/model", "bash", {"command": command})
        for command in commands
    ]
    outputs.append(ModelOutput.from_content("mockllm/model", "done"))
    for output in outputs:
        output.usage = ModelUsage()  # to count tokens itself it would fetch a file
    task = Task(
        dataset=[Sample("go", files={"given": "from the sample\n"}, setup="echo 5 >five")],
        solver=[use_tools(bash()), generate()],
        sandbox="agentsup",
        **options,
    )
    (log,) = inspect_ai.eval(
        task,
        model=get_model("mockllm/model", custom_outputs=outputs),
        display="none",
        log_dir=str(DIRECTORY / "logs"),
    )
    messages = [message for sample in log.samples or [] for message in sample.messages]
    limit = log.samples[0].limit if log.samples else None
    return {
        "status": log.status,
        "error": log.error.traceback if log.error else None,
        "limit": limit.type if limit else None,
        "told": [message.text for message in messages if isinstance(message, ChatMessageTool)],
        "left": pids(),
    }


def out_of_time() -> dict[str, Any]:
    """With as much time as it takes to get to its command."""
    for seconds in (1, 5, 60):
        begun = DIRECTORY / f"begun{seconds}"
        command = f"touch {begun}; (sleep {MARKER}) & sleep {MARKER}"
        result = evaluate(command, time_limit=seconds)
        if begun.exists():
            break
    return result


for result in (
    evaluate(
        "cat given five; false",
        f"nohup sleep {MARKER} >/dev/null 2>&1 & echo $!",
        f"pgrep -f '^sleep {MARKER}'",
    ),
    out_of_time(),
    evaluate("kill -9 $PPID; sleep 1000"),
):
    print(json.dumps(result))
