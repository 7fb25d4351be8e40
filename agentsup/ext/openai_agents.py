"""The tools for the OpenAI Agents SDK: ``Agent(tools=tools(toolbox))``.

=====================================  ==========================================================
:func:`tools`                          function tools, for any model
``ShellTool(shell_executor(…))``       the ``shell`` tool that OpenAI's models are trained on
``LocalShellTool(local_executor(…))``  the one before that, ``local_shell``
=====================================  ==========================================================
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .._errors import AgentsupError, SpawnError
from .._values.output import OutputPolicy
from .._values.result import Outcome
from ._extra import extra

with extra("openai-agents"):
    from agents import (
        FunctionTool,
        LocalShellCommandRequest,
        ModelBehaviorError,
        RunContextWrapper,
        ShellCallOutcome,
        ShellCommandOutput,
        ShellCommandRequest,
        ShellResult,
        function_tool,
    )

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._calls.spec import Environment
    from ..shells import ShellResult as Ended
    from .toolbox import Toolbox


class ShellFailed(BaseException):
    """The supervisor has failed under a ``ShellTool``; its error is the ``__cause__``.

    Whatever :exc:`Exception` an executor raises, the SDK tells the model, so this is none.
    """


def tools(toolbox: Toolbox) -> list[FunctionTool]:
    """The tools of ``toolbox``, for as long as its block lasts: one run, or many.

    Cancelling the run ends what a tool has started. Arguments that do not fit are told to the
    model; what goes wrong with the supervisor comes out of the run.
    """
    return [
        function_tool(method, docstring_style="sphinx", failure_error_function=_explain)
        for method in toolbox.tools
    ]


def _explain(context: RunContextWrapper[Any], error: Exception) -> str:
    if not isinstance(error, ModelBehaviorError):
        raise error
    return f"error: {error}"


def shell_executor(toolbox: Toolbox) -> Callable[[ShellCommandRequest], Awaitable[ShellResult]]:
    """For a ``ShellTool``: the commands run one after another in the shell of ``toolbox``.

    What comes after a command that has run out of time is not run.

    :raises ShellFailed: out of the agent's run, with what went wrong with the supervisor.
    """

    async def execute(request: ShellCommandRequest) -> ShellResult:
        action = request.data.action
        timeout = None if action.timeout_ms is None else action.timeout_ms / 1000
        room = min(toolbox.max_chars, action.max_output_length or toolbox.max_chars)
        kept = OutputPolicy(head=room // 6, tail=room // 3)  # of each of two streams
        done: list[ShellCommandOutput] = []
        for command in action.commands:
            try:
                done.append(_output(command, await toolbox.in_shell(command, timeout, kept)))
            except (SpawnError, TypeError, ValueError) as error:
                done.append(_refusal(command, error))
            except AgentsupError as error:
                raise ShellFailed(str(error)) from error
            if done[-1].status == "timeout":
                break
        return ShellResult(done, max_output_length=action.max_output_length)

    return execute


def local_executor(toolbox: Toolbox) -> Callable[[LocalShellCommandRequest], Awaitable[str]]:
    """For a ``LocalShellTool``: each command is a program of its own.

    :param toolbox: its supervisor runs them, with its options. The model may name a directory and
        more variables; asking for another user is told to be an error.
    """

    async def execute(request: LocalShellCommandRequest) -> str:
        action = request.data.action
        timeout = None if action.timeout_ms is None else action.timeout_ms / 1000
        try:
            if action.user is not None:
                raise ValueError("user is not the model's to choose")
            options = toolbox.options.copy()
            options["timeout"] = toolbox.bound(timeout)
            options["extend_env"] = _joined(options.get("extend_env") or {}, action.env)
            if action.working_directory is not None:
                options["cwd"] = action.working_directory
            result = await toolbox.supervisor.run(action.command, **options)
        except (SpawnError, TypeError, ValueError) as error:
            return f"error: {error}"
        return result.for_model(toolbox.max_chars)

    return execute


def _joined(*environments: Environment) -> dict[bytes, bytes]:
    return {
        os.fsencode(name): os.fsencode(value)
        for environment in environments
        for name, value in environment.items()
    }


def _output(command: str, result: Ended) -> ShellCommandOutput:
    timed_out = result.outcome is Outcome.TIMED_OUT
    said = result.stderr.text
    if result.outcome is not Outcome.EXITED or result.shell_ended:
        line_end = "\n" if said and not said.endswith("\n") else ""
        said += f"{line_end}[{result.reason}]"
    return ShellCommandOutput(
        command=command,
        stdout=result.stdout.text,
        stderr=said,
        outcome=ShellCallOutcome("timeout" if timed_out else "exit", result.exit_code),
    )


def _refusal(command: str, error: Exception) -> ShellCommandOutput:
    outcome = ShellCallOutcome("exit", 126)
    return ShellCommandOutput(command=command, stderr=f"error: {error}", outcome=outcome)
