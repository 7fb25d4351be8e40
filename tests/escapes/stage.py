"""Put a program on, end its host in one way, and say who has survived that."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import anyio
from cells import BASELINE, HERE, HOST_ENDS, PROGRAMS, Cell
from expected import expectation
from survivors import exterminate, parent, survivors

import agentsup

START_BOUND = 180.0  # seconds; on a busy machine all of it is slow
TIMEOUTS = (0.3, 3.0, 30.0)  # seconds; the next if a program was too slow to begin within one
AT_A_TIME = 6  # cells
SLOW = ("freezes", "stops_keepers", "traces_keeper")  # they wait ten seconds for an answer

# Seconds until nothing may be left. A scope says itself when it has ended; a host that died does
# not, and agentsup promises 5 s, on a machine that is not as busy as this may be.
SCOPE_BOUND = 0.5
HOST_BOUND = 60.0
DECLARED_BOUND = 2.0  # where survivors are no failure, we need not wait for long


#: Taken before the tests run, for pytest changes its own between two of them.
ENVIRONMENT = dict(os.environ)


def missing(level: str) -> str | None:
    """Why this machine cannot have that level, or None."""

    async def enter() -> None:
        async with agentsup.Supervisor(containment=agentsup.Containment[level]):
            pass

    try:
        anyio.run(enter)
    except agentsup.UnsupportedPlatform as error:
        return str(error)
    return None


@contextlib.contextmanager
def theatre() -> Iterator[Path]:
    """A folder with all programs, compiled; and with what they need."""
    with tempfile.TemporaryDirectory(prefix="escapes-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # for a program that becomes another user
        (folder / "build").mkdir()
        with ThreadPoolExecutor() as pool:
            sources = (HERE / "hold.c", HERE / "cgroup.sh", *PROGRAMS.values())
            list(pool.map(lambda source: build(source, folder / "build"), sources))
        shutil.copy(os.path.realpath(shutil.which("sh") or "/bin/sh"), folder / "build" / "sh")
        yield folder


def build(source: Path, into: Path) -> None:
    if source.suffix == ".c":
        options = ["-std=gnu2x", "-O1", "-pthread", f"-I{HERE}"]
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, *options, "-o", into / source.stem, source], check=True)
    else:
        shutil.copy(source, into)


Played = dict[Cell, "Future[list[str]]"]


@contextlib.contextmanager
def playing(theatre: Path, cells: Iterable[Cell]) -> Iterator[Played]:
    """Each cell with its survivors to come."""
    with ThreadPoolExecutor(AT_A_TIME) as pool, ThreadPoolExecutor(2 * AT_A_TIME) as slow_pool:
        try:
            yield {
                cell: (slow_pool if cell.program in SLOW else pool).submit(perform, theatre, cell)
                for cell in cells
            }
        finally:
            pool.shutdown(cancel_futures=True)
            slow_pool.shutdown(cancel_futures=True)


def perform(theatre: Path, cell: Cell, *encores: Cell) -> list[str]:
    """Who survives of ``cell``; with encores, who of all of them survives the last one."""
    folder = Path(tempfile.mkdtemp(prefix="cell-", dir=theatre))
    folder.chmod(0o755)
    for file in (theatre / "build").iterdir():
        # A link, for a file that was just written cannot be executed while a fork holds it open.
        os.link(file, folder / file.name)
    for name in ("registry", "errors"):
        (folder / name).touch()
        (folder / name).chmod(0o666)
    try:
        for one in (cell, *encores):
            for timeout in TIMEOUTS:
                left = host(folder, one, timeout)
                if (folder / "registry").stat().st_size:
                    break
            else:
                raise RuntimeError(f"{one}: its program never comes on")
        return left
    finally:
        exterminate(folder)
        shutil.rmtree(folder)


def host(folder: Path, cell: Cell, timeout: float) -> list[str]:
    for name in ("ready", "ended"):
        (folder / name).unlink(missing_ok=True)
    with start_host(folder, cell, timeout) as process:
        try:
            return watch(process, folder, cell)
        finally:
            process.kill()


def start_host(folder: Path, cell: Cell, timeout: float) -> subprocess.Popen[bytes]:
    path = PROGRAMS[cell.program]
    if path.suffix == ".sh":
        program = [str(folder / "sh"), str(folder / path.name), cell.end]
    else:
        program = [str(folder / cell.program), cell.end]
    if cell.level == BASELINE:
        program.append("slowly")  # no harm to the machine by what will escape
    environment = {
        "ESCAPE_CELL": str(folder),
        "ESCAPE_BACKEND": cell.backend,
        "ESCAPE_TIMEOUT": str(timeout),
        **outside(),
    }
    with open(folder / "errors", "wb") as errors:
        return subprocess.Popen(
            [sys.executable, str(HERE / "host.py"), cell.level, cell.end, *program],
            env=ENVIRONMENT | environment,
            stdin=subprocess.PIPE,
            stderr=errors,
        )


def outside() -> dict[str, str]:
    """Where the programs must not do their worst, for that is where the tests run."""
    kinds = ("pid", "mnt")
    here = {f"ESCAPE_{kind}_NAMESPACE": os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}
    return here | {"ESCAPE_CGROUP": own_cgroup()}


def own_cgroup() -> str:
    """Its path in cgroup v2, as /proc/PID/cgroup has it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::")
    return "/"


def watch(host: subprocess.Popen[bytes], folder: Path, cell: Cell) -> list[str]:
    """End the host at the right time. What is left of the scope, or later of the host?"""

    def scope_ended() -> bool:
        return (folder / "ended").exists() or host.poll() is not None

    def outside_the_scope(pid: int) -> bool:
        return host.pid in (pid, parent(pid))  # the host and its keeper

    declared = cell.level == BASELINE or expectation(cell)
    bound = DECLARED_BOUND if declared else None
    left: dict[int, str] = {}
    if cell.end in HOST_ENDS:
        wait_until(lambda: (folder / "ready").exists() or scope_ended())
        host.send_signal(HOST_ENDS[cell.end])
    else:
        wait_until(scope_ended)
        left = survivors(folder, outside_the_scope, bound or SCOPE_BOUND)
        assert host.stdin
        host.stdin.close()
    try:
        host.wait(START_BOUND)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{cell}: the host does not end") from None
    check_host(host.returncode, folder, cell)
    left = left or survivors(folder, lambda pid: False, bound or HOST_BOUND)
    return [f"{pid} ({name})" for pid, name in sorted(left.items())]


def check_host(status: int, folder: Path, cell: Cell) -> None:
    if status > 0:
        errors = (folder / "errors").read_text()
        raise RuntimeError(f"{cell}: the host ended with {status} and said:\n{errors}")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_BOUND
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing has happened for {START_BOUND} s")
        time.sleep(0.01)
