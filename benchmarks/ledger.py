"""What a step of a ledger costs, beside its peers in one run, as ratios of medians.

    python benchmarks/ledger.py [--check] [--quick]

A step is two commits: that it was begun, and what came of it.  The rate of raw sqlite3 is that of
one table with the same pragmas and the same two transactions, without an event loop; a ratio of
times of 1.25 is 0.8 of its rate.  diskcache, if it is installed, is told to be as durable.

The target is for an agent with several tasks, which share a commit.  Of steps one after another,
each commit is handed to the thread that writes and back, which is 0.1 to 0.2 ms a step: next to
nothing where an fsync takes milliseconds, and half of it all where it takes none.
"""

from __future__ import annotations

import functools
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from measure import Block, Report, medians, parse_arguments, timed

from agentsup.checkpoint import Ledger
from agentsup.checkpoint.database import Database
from agentsup.checkpoint.history import checksum_of
from agentsup.checkpoint.reserve import WAL_PAGES

RESULT = {"text": "x" * 200, "count": 7}
TASKS = 16
STEPS = 100_000

try:
    import diskcache
except ImportError:
    diskcache = None


async def work(number: int) -> dict[str, object]:
    return RESULT


# --- steps ------------------------------------------------------------------------------------


def raw(path: Path) -> Block:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
    connection.execute("CREATE TABLE steps (key TEXT PRIMARY KEY, state TEXT, result TEXT)")

    def step() -> None:
        key = os.urandom(16).hex()
        for statement, values in (
            ("INSERT INTO steps VALUES (?, 'running', NULL)", (key,)),
            (
                "UPDATE steps SET state = 'done', result = ? WHERE key = ?",
                (json.dumps(RESULT), key),
            ),
        ):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(statement, values)
            connection.execute("COMMIT")

    return functools.partial(timed, step)


def with_diskcache(path: Path) -> Block:
    cache = diskcache.Cache(str(path), sqlite_synchronous=2)

    def step() -> None:
        key = os.urandom(16).hex()
        cache.set(key, "running")
        cache.set(key, RESULT)

    return functools.partial(timed, step)


def with_ledger(
    path: Path, backend: str, block: Callable[[Ledger, int], Awaitable[list[float]]]
) -> Block:
    async def run(count: int) -> list[float]:
        async with Ledger(path) as ledger:
            await ledger.run("first", work, 0)
            return await block(ledger, count)

    return lambda count: anyio.run(run, count, backend=backend)


async def one_by_one(ledger: Ledger, count: int) -> list[float]:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        await ledger.run("step", work, time.time_ns())
        times.append(time.perf_counter() - start)
    return times


async def at_a_time(ledger: Ledger, count: int) -> list[float]:
    """What one step costs when 16 tasks ask for theirs."""

    async def task(number: int) -> None:
        for _ in range(count):
            await ledger.run("step", work, [number, time.time_ns()])

    start = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for number in range(TASKS):
            tasks.start_soon(task, number)
    return [(time.perf_counter() - start) / count / TASKS]


def steps(report: Report, folder: Path, rounds: int) -> None:
    report.title("A step (ms)")
    contestants = {
        "raw sqlite3": raw(folder / "raw"),
        "ledger, asyncio": with_ledger(folder / "asyncio", "asyncio", one_by_one),
        "ledger, trio": with_ledger(folder / "trio", "trio", one_by_one),
        f"ledger, {TASKS} tasks": with_ledger(folder / "tasks", "asyncio", at_a_time),
    }
    if diskcache:
        contestants["diskcache"] = with_diskcache(folder / "diskcache")
    found = medians(contestants, rounds, 20)
    for name, seconds in found.items():
        report.row(name, f"{seconds * 1e3:.3f}")
    theirs = found.pop("raw sqlite3")
    for name in ("ledger, asyncio", "ledger, trio"):
        report.row(f"{name} / raw", f"{found[name] / theirs:.2f}x")
    report.ratio(f"ledger, {TASKS} tasks / raw", found[f"ledger, {TASKS} tasks"], theirs, 1.25)
    if diskcache:
        theirs = found["diskcache"]
        report.ratio("ledger, asyncio / diskcache", found["ledger, asyncio"], theirs, 1.25)


# --- opening ----------------------------------------------------------------------------------


def fill(path: Path) -> None:
    """Steps that are done, with a result each, and one that was being run."""
    database = Database(str(path))
    result = json.dumps(RESULT)
    database.execute("BEGIN")
    for number in range(STEPS):
        database.execute(
            "INSERT INTO steps (identity, name, inputs, state, result, checksum, planned_at) "
            "VALUES (?, ?, ?, 'done', ?, ?, 0)",
            f"{number:064} step",
            "step",
            f"{number:064}",
            result,
            checksum_of(result),
        )
    database.execute("UPDATE steps SET state = 'running', agent = 0 WHERE id = 7")
    database.execute("COMMIT")
    database.close()


def opening(report: Report, folder: Path, rounds: int) -> None:
    report.title(f"Opening a ledger of {STEPS:,} steps (ms)")
    path = folder / "large"
    fill(path)

    async def block(count: int) -> list[float]:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            async with Ledger(path):
                times.append(time.perf_counter() - start)
        return times

    found = medians({"opening": lambda count: anyio.run(block, count)}, rounds, 5)
    report.row("opening", f"{found['opening'] * 1e3:.1f}")
    report.ratio("opening / 50 ms", found["opening"], 0.050, 1)


def main() -> int:
    arguments = parse_arguments(__doc__)
    rounds = 4 if arguments.quick else 40
    report = Report()
    with tempfile.TemporaryDirectory(dir=".") as name:  # /tmp may be in memory
        folder = Path(name)
        steps(report, folder, rounds)
        opening(report, folder, max(2, rounds // 8))
    return report.end(check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
