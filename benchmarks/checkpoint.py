"""What saving a checkpoint costs, beside the bare system calls in one run, as ratios of medians.

    python benchmarks/checkpoint.py [--check] [--quick]

The contestants take turns in short blocks.  What is measured is mostly the disk under the
current directory.  The same on a disk in memory shows what is not the disk.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from anyio import to_thread
from measure import Block, Report, medians, parse_arguments, timed

from agentsup.checkpoint import BytesCodec, Checkpoint

MEMORY = "/dev/shm"


def bare(path: Path, data: bytes) -> Callable[[], None]:
    """Write, fsync, rename, fsync of the directory, and nothing else."""
    temporary = f"{path}.tmp"

    def save() -> None:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
        os.rename(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    return save


def on_loop(save: Callable[[], Awaitable[None]], backend: str) -> Block:
    async def block(count: int) -> list[float]:
        await save()  # the loop's own first thread
        times = []
        for _ in range(count):
            start = time.perf_counter()
            await save()
            times.append(time.perf_counter() - start)
        return times

    return lambda count: anyio.run(block, count, backend=backend)


def saves(place: str, size: int, report: Report, rounds: int) -> dict[str, float]:
    """Seconds for each contestant."""
    report.title(f"A save of {size >> 10} KiB in {place}, median of {rounds * 10} (ms)")
    data = os.urandom(size)
    with (
        tempfile.TemporaryDirectory(dir=place) as folder,
        Checkpoint(Path(folder, "ours"), codec=BytesCodec()) as checkpoint,
    ):
        save = bare(Path(folder, "bare"), data)
        contestants = {
            "bare": lambda count: timed(save, count),
            "save_sync": lambda count: timed(lambda: checkpoint.save_sync(data), count),
        }
        for loop in ("asyncio", "trio"):
            contestants |= {
                f"bare in a thread, {loop}": on_loop(lambda: to_thread.run_sync(save), loop),
                f"save, {loop}": on_loop(lambda: checkpoint.save(data), loop),
            }
        found = medians(contestants, rounds, 10)
    for name, seconds in found.items():
        report.row(name, f"{seconds * 1e3:.3f}")
    return found


def main() -> int:
    arguments = parse_arguments(__doc__)
    rounds = 3 if arguments.quick else 30
    report = Report()
    found = saves(os.curdir, 10 << 10, report, rounds)
    report.ratio("save_sync / bare", found["save_sync"], found["bare"], 1.2)
    for loop in ("asyncio", "trio"):
        ours, theirs = found[f"save, {loop}"], found[f"bare in a thread, {loop}"]
        report.ratio(f"save / bare in a thread, {loop}", ours, theirs, 1.2)
        report.ratio(f"save / bare, {loop}", ours, found["bare"], 1.2)
    saves(os.curdir, 1 << 20, report, rounds)
    if os.path.isdir(MEMORY):
        saves(MEMORY, 10 << 10, report, rounds)
    return report.end(check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
