"""What a command in a shell session costs, beside a shell of its own, in one run.

    python benchmarks/shell.py [--check] [--quick]

The contestants take turns in short blocks, so that a machine whose speed drifts drifts for all of
them.  ``--check`` exits with status 1 when a target is missed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
from measure import Block, Report, medians, parse_arguments, timed

import agentsup
from agentsup.shells import Shell, Terminal

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
SPAWN = ["bash", "-c", "true"]

Call = Callable[[], Awaitable[object]]


@asynccontextmanager
async def in_shell(command: str = "true", jobs: int = 0, **options: Any) -> Any:
    async with agentsup.Supervisor() as sup, Shell(sup, **options) as shell:
        for _ in range(jobs):
            await shell.run("sleep 1000 &")
        yield lambda: shell.run(command)


@asynccontextmanager
async def spawned() -> Any:
    async with agentsup.Supervisor() as sup:
        yield lambda: sup.run(SPAWN)


@asynccontextmanager
async def with_anyio() -> Any:
    yield lambda: anyio.run_process(SPAWN)


def block(loop: str, make: Callable[[], AbstractAsyncContextManager[Call]]) -> Block:
    async def calls(count: int) -> list[float]:
        async with make() as call:
            await call()  # the first time of the loop, and of the shell
            times = []
            for _ in range(count):
                start = time.perf_counter()
                await call()
                times.append(time.perf_counter() - start)
            return times

    backend, options = LOOPS[loop]
    return lambda count: anyio.run(calls, count, backend=backend, backend_options=options)


def round_trips(report: Report, rounds: int) -> None:
    report.title(f"true, median of {rounds * 25} (ms)")
    contestants: dict[str, Block] = {
        "subprocess.run bash -c": lambda n: timed(
            lambda: subprocess.run(SPAWN, capture_output=True, check=False), n
        )
    }
    for loop in LOOPS:
        contestants[f"shell, {loop}"] = block(loop, in_shell)
        contestants[f"sup.run bash -c, {loop}"] = block(loop, spawned)
        contestants[f"anyio.run_process bash -c, {loop}"] = block(loop, with_anyio)
    found = medians(contestants, rounds, 25)
    for name, seconds in sorted(found.items(), key=lambda item: item[1]):
        report.row(name, f"{seconds * 1e3:.3f}")
    for loop in LOOPS:
        ours = found[f"shell, {loop}"]
        report.ratio(f"shell / 1.5 ms, {loop}", ours * 1e3, 1.5, 1.0)
        report.ratio(f"shell / subprocess.run, {loop}", ours, found["subprocess.run bash -c"], 0.5)
        theirs = found[f"anyio.run_process bash -c, {loop}"]
        report.ratio(f"shell / anyio.run_process, {loop}", ours, theirs, 0.5)


def kinds(report: Report, rounds: int) -> None:
    report.title("Of other kinds, on asyncio (ms)")
    contestants: dict[str, Block] = {
        "bash": block("asyncio", in_shell),
        "sh": block("asyncio", lambda: in_shell(executable="sh")),
        "bash, 20 jobs": block("asyncio", lambda: in_shell(jobs=20)),
        "bash, a terminal": block("asyncio", lambda: in_shell(terminal=Terminal())),
        "bash, a command of 100 KB": block("asyncio", lambda: in_shell(f": {'x' * 100_000}")),
        "bash, 1 MB of output": block("asyncio", lambda: in_shell("head -c 1000000 /dev/zero")),
    }
    for name, seconds in medians(contestants, rounds, 25).items():
        report.row(name, f"{seconds * 1e3:.3f}")


def main() -> int:
    arguments = parse_arguments(__doc__)
    rounds = 4 if arguments.quick else 40
    report = Report()
    round_trips(report, rounds)
    kinds(report, max(2, rounds // 8))
    return report.end(check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
