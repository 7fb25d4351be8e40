"""What a call costs, beside its peers in one run, as ratios of medians.

    python benchmarks/call_latency.py [--check] [--quick]

The contestants take turns in short blocks, so that a machine whose speed drifts drifts for all of
them.  ``--check`` exits with status 1 when a target is missed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from measure import Block, Report, medians, parse_arguments, timed

import agentsup
from agentsup._linux import lifeline

TRUE = shutil.which("true") or "/bin/true"
GIB = 1 << 30

C_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
extern char **environ;
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}
int main(int argc, char **argv) {
    for (int i = atoi(argv[2]); i > 0; i--) {
        double start = now();
        int out[2], err[2];
        char buffer[4096];
        pid_t pid;
        posix_spawn_file_actions_t actions;
        if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) return 1;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, out[1], 1);
        posix_spawn_file_actions_adddup2(&actions, err[1], 2);
        char *args[] = {argv[1], NULL};
        if (posix_spawn(&pid, argv[1], &actions, NULL, args, environ)) return 1;
        posix_spawn_file_actions_destroy(&actions);
        close(out[1]); close(err[1]);
        while (read(out[0], buffer, sizeof buffer) > 0);
        while (read(err[0], buffer, sizeof buffer) > 0);
        close(out[0]); close(err[0]);
        if (waitpid(pid, NULL, 0) != pid) return 1;
        printf("%.9f\n", now() - start);
    }
    return 0;
}
"""


# --- one call ---------------------------------------------------------------------------------


def on_loop(call: Callable[[], Awaitable[object]], backend: str, **options: object) -> Block:
    async def block(count: int) -> list[float]:
        await call()  # the loop's own first time
        times = []
        for _ in range(count):
            start = time.perf_counter()
            await call()
            times.append(time.perf_counter() - start)
        return times

    return lambda count: anyio.run(block, count, backend=backend, backend_options=options)


async def with_agentsup() -> None:
    await agentsup.run([TRUE], timeout=60)


async def with_anyio() -> None:
    await anyio.run_process([TRUE])


def c_loop(folder: Path) -> Block | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    (folder / "loop.c").write_text(C_SOURCE)
    program = str(folder / "loop")
    subprocess.run([compiler, "-O2", "-o", program, str(folder / "loop.c")], check=True)

    def block(count: int) -> list[float]:
        output = subprocess.run([program, TRUE, str(count)], check=True, capture_output=True)
        return [float(line) for line in output.stdout.split()]

    return block


def latency(report: Report, folder: Path, rounds: int) -> None:
    report.title(f"One captured {TRUE}, median of {rounds * 25} (ms)")
    contestants: dict[str, Block] = {
        "subprocess.run": lambda n: timed(
            lambda: subprocess.run([TRUE], capture_output=True, check=False), n
        ),
        "agentsup.run_sync": lambda n: timed(lambda: agentsup.run_sync([TRUE], timeout=60), n),
        "agentsup.run, asyncio": on_loop(with_agentsup, "asyncio"),
        "anyio.run_process, asyncio": on_loop(with_anyio, "asyncio"),
        "agentsup.run, trio": on_loop(with_agentsup, "trio"),
        "anyio.run_process, trio": on_loop(with_anyio, "trio"),
        "agentsup.run, uvloop": on_loop(with_agentsup, "asyncio", use_uvloop=True),
        "anyio.run_process, uvloop": on_loop(with_anyio, "asyncio", use_uvloop=True),
    }
    if block := c_loop(folder):
        contestants["C posix_spawn + waitpid"] = block
    found = medians(contestants, rounds, 25)
    for name, seconds in sorted(found.items(), key=lambda item: item[1]):
        report.row(name, f"{seconds * 1e3:.3f}")
    ours = found["agentsup.run, asyncio"]
    report.ratio("agentsup / subprocess.run", ours, found["subprocess.run"], 1.0)
    for loop in ("asyncio", "trio"):
        report.ratio(
            f"agentsup / anyio, {loop}",
            found[f"agentsup.run, {loop}"],
            found[f"anyio.run_process, {loop}"],
            0.75,
        )
    report.ratio(
        "run_sync / subprocess.run", found["agentsup.run_sync"], found["subprocess.run"], 1.15
    )
    if "C posix_spawn + waitpid" in found:
        report.ratio("agentsup / C", ours, found["C posix_spawn + waitpid"], 1.35)


def in_flight(report: Report, rounds: int) -> None:
    report.title("16 in flight, per call (ms)")

    def block(call: Callable[[], Awaitable[object]], backend: str) -> Block:
        async def calls(count: int) -> list[float]:
            async def several() -> None:
                for _ in range(count):
                    await call()

            start = time.perf_counter()
            async with anyio.create_task_group() as tasks:
                for _ in range(16):
                    tasks.start_soon(several)
            return [(time.perf_counter() - start) / (16 * count)]

        return lambda count: anyio.run(calls, count, backend=backend)

    for loop in ("asyncio", "trio"):
        contestants = {"agentsup": block(with_agentsup, loop), "anyio": block(with_anyio, loop)}
        found = medians(contestants, rounds, 10)
        for name, seconds in found.items():
            report.row(f"{name}, {loop}", f"{seconds * 1e3:.3f}")
        report.ratio(f"agentsup / anyio, {loop}", found["agentsup"], found["anyio"], 0.8)


def large_host(report: Report, rounds: int) -> None:
    report.title("In a host of 2 GiB RSS (ms)")
    ballast = bytearray(2 * GIB)
    ballast[:: os.sysconf("SC_PAGE_SIZE")] = b"x" * len(ballast[:: os.sysconf("SC_PAGE_SIZE")])
    contestants: dict[str, Block] = {
        "agentsup.run, asyncio": on_loop(with_agentsup, "asyncio"),
        "anyio.run_process, asyncio": on_loop(with_anyio, "asyncio"),
        "subprocess.run": lambda n: timed(
            lambda: subprocess.run([TRUE], capture_output=True, check=False), n
        ),
    }
    found = medians(contestants, rounds, 25)
    for name, seconds in found.items():
        report.row(name, f"{seconds * 1e3:.3f}")
    ours = found["agentsup.run, asyncio"]
    report.ratio("agentsup / subprocess.run", ours, found["subprocess.run"], 1.0)
    report.ratio("agentsup / anyio", ours, found["anyio.run_process, asyncio"], 0.75)
    del ballast


# --- a flood ----------------------------------------------------------------------------------

FLOOD = ["head", "-c", str(GIB), "/dev/zero"]


async def read_with_agentsup() -> None:
    result = await agentsup.run(FLOOD)
    assert result.stdout.total_bytes == GIB


async def read_with_anyio() -> None:
    total = 0
    async with await anyio.open_process(FLOOD) as process:
        assert process.stdout
        async for chunk in process.stdout:
            total += len(chunk)
    assert total == GIB


def flood(report: Report, rounds: int) -> None:
    report.title("1 GiB of output (s)")
    pipeline = " ".join(FLOOD) + " | cat > /dev/null"
    contestants: dict[str, Block] = {
        "head | cat > /dev/null": lambda n: timed(
            lambda: subprocess.run(["sh", "-c", pipeline], check=True), n
        )
    }
    for loop in ("asyncio", "trio"):
        for name, read in (("agentsup", read_with_agentsup), ("anyio stream", read_with_anyio)):

            def block(count: int, read=read, loop=loop) -> list[float]:  # type: ignore[no-untyped-def] # bound now
                return timed(lambda: anyio.run(read, backend=loop), count)

            contestants[f"{name}, {loop}"] = block
    before = resident(os.getpid())
    found = medians(contestants, rounds, 1)
    for name, seconds in found.items():
        report.row(name, f"{seconds:.3f}")
    for loop in ("asyncio", "trio"):
        ours = found[f"agentsup, {loop}"]
        report.ratio(f"agentsup / cat, {loop}", ours, found["head | cat > /dev/null"], 1.1)
        report.ratio(f"agentsup / anyio, {loop}", ours, found[f"anyio stream, {loop}"], 0.8)
    report.no_growth("host memory", round(resident(os.getpid()) - before, 1), 8, "MiB")


# --- many calls -------------------------------------------------------------------------------


def resident(pid: int) -> float:
    """MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def zombies() -> int:
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        found += state == "Z" and int(parent) in (os.getpid(), keeper_pid())
    return found


def keeper_pid() -> int:
    assert lifeline._current
    return lifeline._current.pid


def many(report: Report, count: int) -> None:
    report.title(f"{count} calls: growth")
    block = on_loop(with_agentsup, "asyncio")
    block(count // 10)
    pids = {"host": os.getpid(), "keeper": keeper_pid()}
    before = {
        name: (resident(pid), len(os.listdir(f"/proc/{pid}/fd"))) for name, pid in pids.items()
    }
    block(count)
    assert keeper_pid() == pids["keeper"]
    for name, pid in pids.items():
        memory, fds = before[name]
        report.no_growth(f"{name} memory", round(resident(pid) - memory, 2), 1, "MiB")
        report.no_growth(f"{name} descriptors", len(os.listdir(f"/proc/{pid}/fd")) - fds, 0, "fds")
    report.no_growth("zombies", zombies(), 0, "processes")


def imports(report: Report, rounds: int) -> None:
    report.title("Import (ms)")

    def block(code: str) -> Block:
        code = f"import time; s = time.perf_counter(); {code}; print(time.perf_counter() - s)"

        def run(count: int) -> list[float]:
            command = [sys.executable, "-c", code]
            return [float(subprocess.check_output(command)) for _ in range(count)]

        return run

    touched = "import agentsup; agentsup.Supervisor; agentsup.Limits"
    found = medians(
        {
            "anyio, attrs": block("import anyio, attrs"),
            "agentsup": block("import agentsup"),
            "agentsup, Supervisor used": block(touched),
        },
        rounds,
        2,
    )
    for name, seconds in found.items():
        report.row(name, f"{seconds * 1e3:.1f}")
    theirs = found["anyio, attrs"]
    report.ratio("import agentsup / anyio, attrs", found["agentsup"], theirs, 1.3)


def main() -> int:
    arguments = parse_arguments(__doc__)
    rounds = 4 if arguments.quick else 40
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        latency(report, Path(folder), rounds)
    in_flight(report, max(2, rounds // 8))
    large_host(report, max(2, rounds // 4))
    flood(report, 2 if arguments.quick else 5)
    many(report, 1000 if arguments.quick else 10_000)
    imports(report, 5)
    return report.end(check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
