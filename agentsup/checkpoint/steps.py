"""What the writer thread does with steps, each as a part of a transaction."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from attrs import frozen

from .._errors import LedgerCorrupt, StepLost
from .._rules.ledger import Answer, Do, Sighting, StepState, as_found, may_write, what_to_do
from .._values.retention import Retention
from . import reserve
from .agents import Agents, path_of
from .database import Database
from .history import COLUMNS, checksum_of, to_step

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from .encoding import Identity
    from .history import LedgerStep

T = TypeVar("T")

_ROW = 256  # bytes that a step takes in the file besides its result, about

_DROP = f"""
DELETE FROM steps WHERE id IN (
    SELECT id FROM (
        SELECT id, ended_at, row_number() OVER newest AS number,
               sum(size + {_ROW}) OVER newest AS total
        FROM steps WHERE state = 'done'
        WINDOW newest AS (ORDER BY id DESC ROWS UNBOUNDED PRECEDING)
    ) WHERE number > 1 AND (number > ? OR total > ? OR ended_at < ?)
)
"""


@frozen
class Found:
    """What is to be done with a step; with WAIT, whom it is waited for."""

    do: Do
    step: LedgerStep
    holder: Sighting | None = None


class Steps:
    """The steps of the ledger at ``path``, and a place among its agents.

    :raises LedgerCorrupt: it is damaged.
    :raises FormatTooNew: a newer version of this package has written it.
    :raises DiskFull: there is no room to open it.
    """

    def __init__(self, path: str, *, lease: float, keep: int | None, retention: Retention) -> None:
        self._path = path
        self._keep = keep
        self._retention = retention
        self._added = self._added_bytes = 0  # since something was dropped
        self._dropped_at = time.monotonic()
        self._bounded = keep is not None or retention != Retention()
        self._ended = False
        with contextlib.ExitStack() as opened:
            self.agents = Agents(path_of(path))
            opened.callback(self.agents.close)
            with self.agents.alone():
                _refuse_emptied(path, known=self.agents.known)
                self._database = Database(path)
                opened.callback(self._database.close)
                self.agents.enter(lease)
            if self._bounded:
                self._database.drop = self._drop
                reserve.set_aside(path)
            self._database.transact(self._begin)
            opened.pop_all()

    def _begin(self) -> None:
        statement = "SELECT DISTINCT agent FROM steps WHERE state = 'running'"
        for (slot,) in self._database.execute(statement).fetchall():
            if not self.agents.live(slot):
                self._database.execute(
                    "UPDATE steps SET state = 'interrupted', agent = NULL "
                    "WHERE state = 'running' AND agent = ?",
                    slot,
                )
        if self._bounded:
            self._drop()

    def close(self) -> None:
        self._database.close()
        self.agents.close()

    def transact(self, works: Sequence[Callable[[Steps], T]]) -> list[T]:
        """Do all of ``works`` or none; they are on the disk when this returns."""
        results = self._database.transact(lambda: [work(self) for work in works])
        if self._ended:
            self._ended = False
            self.agents.tell_of_end()
        return results

    # --- parts of a transaction ---------------------------------------------------------------

    def plan(self, identity: Identity) -> None:
        if self._row("identity", identity.text) is None:
            self._insert(identity, state="planned")

    def take(
        self, identity: Identity, policy: Answer | Literal["ask"], hung: Sighting | None = None
    ) -> Found:
        """See what is to be done, and begin an attempt if it is that.

        :param hung: an agent that is taken for hung, unless it has given another sign since.
        """
        row = self._row("identity", identity.text)
        if row is None:
            return Found(Do.TAKE, self._insert(identity, **self._running(1)))
        step = to_step(row, self._path)
        state = step.state
        if state is StepState.RUNNING:
            holder = Sighting(step.attempts, *self.agents.last_sign(row[-1]))
            lives = holder != hung and self.agents.live(row[-1])
            state = as_found(state, holder_lives=lives)
            if state is StepState.RUNNING:
                return Found(Do.WAIT, step, holder)
        do = what_to_do(state, policy)
        if do is Do.TAKE:
            self._update(step.id, **self._running(step.attempts + 1))
        elif state is not step.state:
            self._update(step.id, state=state.value, agent=None)
        else:
            return Found(do, step)
        return Found(do, self._read(step.id))

    def try_again(self, step: LedgerStep, error: str) -> LedgerStep:
        """The next attempt at a running step."""
        self._check_ours(step)
        self._update(step.id, attempts=step.attempts + 1, error=error)
        return self._read(step.id)

    def end(
        self, step: LedgerStep, state: StepState, *, result: str | None, error: str | None
    ) -> None:
        """What has come of an attempt."""
        self._check_ours(step)
        size = len(result or "") + len(error or "")
        self._update(
            step.id,
            state=state.value,
            agent=None,
            result=result,
            checksum=None if result is None else checksum_of(result),
            error=error,
            size=size,
            # The clock on the wall may have been set back.
            ended_at=max(time.time(), step.started_at or 0.0),
        )
        self._ended = True
        self._drop_when_due(size)

    def release(self, step: LedgerStep) -> None:
        """Give back what was taken and has not begun."""
        self._check_ours(step)
        self._update(step.id, state="planned", agent=None)
        self._ended = True

    def reset(self, id: int, states: Collection[StepState]) -> None:
        """Plan a step anew that is in one of ``states``."""
        row = self._row("id", id)
        if row is not None and to_step(row, self._path).state in states:
            self._update(id, state="planned", result=None, error=None, size=0)

    # --- how ----------------------------------------------------------------------------------

    def _running(self, attempt: int) -> dict[str, object]:
        return {
            "state": "running",
            "attempts": attempt,
            "agent": self.agents.slot,
            "error": None,
            "started_at": time.time(),
            "ended_at": None,
        }

    def _row(self, column: str, value: object) -> Any:
        statement = f"SELECT {COLUMNS} FROM steps WHERE {column} = ?"
        return self._database.execute(statement, value).fetchone()

    def _read(self, id: int) -> LedgerStep:
        return to_step(self._row("id", id), self._path)

    def _insert(self, identity: Identity, **values: object) -> LedgerStep:
        values |= {
            "identity": identity.text,
            "name": identity.name,
            "inputs": identity.inputs,
            "key": identity.key,
            "planned_at": values.get("started_at", time.time()),
        }
        marks = ", ".join("?" * len(values))
        statement = f"INSERT INTO steps ({', '.join(values)}) VALUES ({marks}) RETURNING {COLUMNS}"
        row = self._database.execute(statement, *values.values()).fetchone()
        return to_step(row, self._path)

    def _update(self, id: int, **values: object) -> None:
        names = ", ".join([f"{name} = ?" for name in values])
        self._database.execute(f"UPDATE steps SET {names} WHERE id = ?", *values.values(), id)

    def _check_ours(self, step: LedgerStep) -> None:
        statement = "SELECT state, attempts FROM steps WHERE id = ?"
        found = self._database.execute(statement, step.id).fetchone()
        if found is None or not may_write(
            step.attempts, state=StepState(found[0]), attempts=found[1]
        ):
            raise StepLost(
                f"step {step.name!r} (number {step.id}) was taken over by another agent: this one "
                "gave no sign of life for the time of its lease; what it did is not recorded"
            )

    def _drop_when_due(self, size: int) -> None:
        """A look at all steps is for when a tenth of what is allowed has been added."""
        self._added += 1
        self._added_bytes += size + _ROW
        keep, bounds = self._keep, self._retention
        if (
            (keep is not None and self._added * 10 > keep)
            or (bounds.max_bytes is not None and self._added_bytes * 10 > bounds.max_bytes)
            or (
                bounds.max_age is not None
                and (time.monotonic() - self._dropped_at) * 10 > bounds.max_age
            )
        ):
            self._drop()

    def _drop(self) -> None:
        """Drop what may go: done steps, the oldest first, but never the newest."""
        self._added = self._added_bytes = 0
        self._dropped_at = time.monotonic()
        bounds = self._retention
        before = None if bounds.max_age is None else time.time() - bounds.max_age
        self._database.execute(_DROP, self._keep, bounds.max_bytes, before)


def _refuse_emptied(path: str, *, known: bool) -> None:
    """What was a ledger once, and is empty, must not be taken for a new one."""
    if known and os.path.exists(path) and os.path.getsize(path) <= 1:  # as SQLite sees it
        raise LedgerCorrupt(f"{path} is empty, and has been a ledger")
