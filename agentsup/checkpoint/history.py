"""The steps of a ledger, to be looked at."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import zlib
from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

from .._errors import LedgerCorrupt
from .._rules.ledger import StepState, as_found
from .database import read, told

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

#: What :func:`to_step` takes, in its order; the agent that runs it is behind that.
COLUMNS = (
    "id, name, inputs, key, state, result, attempts, error, planned_at, started_at, ended_at, "
    "checksum, agent"
)


@frozen
class LedgerStep:
    """A step as it was found. Times are seconds since the epoch, by the clock on the wall."""

    id: int
    name: str
    #: The digest of its inputs; nothing for one with a key.
    inputs: str
    key: str | None
    state: StepState
    #: What is stored, if it is done.
    result: Any
    #: How often it was begun.
    attempts: int
    #: What went wrong in its last attempt, in a line, or None.
    error: str | None
    planned_at: float
    started_at: float | None
    ended_at: float | None

    def to_dict(self) -> dict[str, Any]:
        """The step as plain JSON types."""
        return {**asdict(self), "state": self.state.value}


def to_step(row: Sequence[Any], path: str) -> LedgerStep:
    id, name, inputs, key, state, result, *others, checksum, _agent = row
    try:
        value = None if result is None else _decode(result, checksum)
        return LedgerStep(id, name, inputs, key, StepState(state), value, *others)
    except (AttributeError, TypeError, ValueError) as error:  # also what is of another type
        raise LedgerCorrupt(f"{path} is damaged: step {id}: {error}") from None


def checksum_of(result: str) -> int:
    """SQLite has none of its own."""
    return zlib.crc32(result.encode())


def _decode(result: str, checksum: int) -> Any:
    if checksum_of(result) != checksum:
        raise ValueError("the result has another checksum")
    return json.loads(result)


def history(path: str) -> Iterator[LedgerStep]:
    """Every step, in the order in which they were planned, as of one moment.

    The iterator holds the ledger as it was then, so that its files grow meanwhile: do not keep one
    that is not being read.
    """
    with told(path), contextlib.closing(read(path)) as connection:
        connection.execute("BEGIN")
        dead = _dead_agents(connection, path)
        for row in connection.execute(f"SELECT {COLUMNS} FROM steps ORDER BY id"):
            step = to_step(row, path)
            found = as_found(step.state, holder_lives=row[-1] not in dead)
            yield step if found is step.state else _as(found, step)


def _as(state: StepState, step: LedgerStep) -> LedgerStep:
    from attrs import evolve

    return evolve(step, state=state)


def _dead_agents(connection: sqlite3.Connection, path: str) -> set[int]:
    """Those that have left something running."""
    if sys.platform != "linux":
        return set()
    from .agents import Agents, path_of

    statement = "SELECT DISTINCT agent FROM steps WHERE state = 'running'"
    slots = [slot for (slot,) in connection.execute(statement)]
    if not slots or not os.path.exists(path_of(path)):
        return set(slots)
    with contextlib.closing(Agents(path_of(path), read_only=True)) as agents:
        return {slot for slot in slots if not agents.live(slot)}
