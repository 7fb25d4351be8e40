"""Make the calls of a transcript again: those of one turn at the same time, as the agent did."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import anyio
from attrs import frozen
from ending import ending
from transcript import ToolCall, Turn

import agentsup

GRACE = 1.0
SHELL = shutil.which("bash") or "/bin/sh"


@frozen
class Place:
    """Where and how the calls are made."""

    cwd: Path
    env: Mapping[str, str]
    #: Seconds for a call that brings no timeout of its own.
    timeout: float


@frozen
class Replayed:
    number: int
    call: ToolCall
    #: What came of it, or the reason why nothing could.
    result: agentsup.Result | agentsup.AgentsupError

    @property
    def outcome(self) -> str:
        """How it ended, in a word or two."""
        if isinstance(self.result, agentsup.Result):
            return self.result.outcome.value
        return "not started" if isinstance(self.result, agentsup.SpawnError) else "keeper lost"

    @property
    def killed(self) -> tuple[int, tuple[agentsup.Leftover, ...]]:
        """How many processes it left behind that were killed, and the first of them."""
        if not isinstance(self.result, agentsup.Result) or self.call.background:
            return 0, ()  # what a call in the background has left was adopted
        return self.result.leftover_count, self.result.leftovers

    @property
    def for_model(self) -> str:
        if isinstance(self.result, agentsup.Result):
            return self.result.for_model()
        return f"[{self.outcome}: {self.result}]"

    @property
    def ending(self) -> str | None:
        return ending(self.for_model)

    @property
    def differs(self) -> bool:
        """Whether it ended otherwise than it is recorded to have ended."""
        return self.call.ending is not None and self.ending != self.call.ending


class Watcher(Protocol):
    """Is told of everything as it happens."""

    def said(self, text: str) -> None: ...
    def skipped(self, tool: str) -> None: ...
    def started(self, number: int, call: ToolCall, timeout: float) -> None: ...
    def ended(self, replayed: Replayed) -> None: ...


async def replay(
    sup: agentsup.Supervisor, turns: list[Turn], place: Place, watcher: Watcher
) -> list[Replayed]:
    """Every call of ``turns``, in the order of the transcript."""
    done: dict[int, Replayed] = {}

    async def make(number: int, call: ToolCall) -> None:
        watcher.started(number, call, call.timeout or place.timeout)
        try:
            result = await _run(sup, call, place)
        except agentsup.AgentsupError as error:
            done[number] = Replayed(number, call, error)
        else:
            done[number] = Replayed(number, call, result)
        watcher.ended(done[number])

    number = 0
    for turn in turns:
        if turn.text:
            watcher.said(turn.text)
        for tool in turn.skipped:
            watcher.skipped(tool)
        async with anyio.create_task_group() as tasks:
            for call in turn.calls:
                number += 1
                tasks.start_soon(make, number, call)
    return [done[number] for number in sorted(done)]


async def _run(sup: agentsup.Supervisor, call: ToolCall, place: Place) -> agentsup.Result:
    words = (SHELL, "-c", call.command) if isinstance(call.command, str) else call.command
    if call.background:
        # The call itself ends at once, and the supervisor keeps what it has started.
        words = ("/bin/sh", "-c", '"$@" &', "sh", *words)
    return await sup.run(
        words,
        timeout=call.timeout or place.timeout,
        idle_timeout=call.idle_timeout,
        grace=GRACE,
        cwd=place.cwd,
        env=place.env,
        leftovers="adopt" if call.background else "kill",
    )
