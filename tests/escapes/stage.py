"""Put a program on, end its host in one way, and say who has survived that."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import anyio
from survivors import exterminate, parent, survivors

import agentsup

HERE = Path(__file__).parent
PROGRAMS = {path.stem: path for path in sorted((HERE / "programs").glob("*.*"))}
SCOPE_ENDS = ("exit", "timeout", "cancel", "exception")
HOST_ENDS = {"host TERM": signal.SIGTERM, "host KILL": signal.SIGKILL}
ENDS = (*SCOPE_ENDS, *HOST_ENDS)
LEVELS = ("SUBREAPER", "CGROUP", "PID_NAMESPACE")
BASELINE = "killpg"
USER = "root" if os.geteuid() == 0 else "an unprivileged user"
START_BOUND = 40.0  # seconds; on a busy machine all of it is slow
HOST_NOT_AVAILABLE = 77


@dataclass(frozen=True)
class Cell:
    """A place in the table."""

    level: str
    program: str
    end: str

    @property
    def backend(self) -> str:
        """Alternately by row and by column."""
        odd = (list(PROGRAMS).index(self.program) + ENDS.index(self.end)) % 2
        return "trio" if odd else "asyncio"


class NotAvailable(Exception):
    """This host cannot have that level."""


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
        for path in (HERE / "hold.c", *PROGRAMS.values()):
            if path.suffix == ".c":
                compile_(path, folder / "build" / path.stem)
            else:
                shutil.copy(path, folder / "build" / path.stem)
        shutil.copy(os.path.realpath(shutil.which("sh") or "/bin/sh"), folder / "build" / "sh")
        yield folder


def compile_(source: Path, to: Path) -> None:
    options = ["-std=gnu2x", "-O1", "-pthread", f"-I{HERE}"]
    subprocess.run([os.environ.get("CC", "cc"), *options, "-o", to, source], check=True)


def perform_all(theatre: Path, cells: Iterable[Cell]) -> Iterator[tuple[Cell, list[str] | None]]:
    """Each cell with its survivors, or None where its level is not to be had; six at a time."""
    cells = list(cells)
    with ThreadPoolExecutor(6) as pool:
        yield from zip(cells, pool.map(lambda cell: perform(theatre, cell), cells), strict=True)


def perform(theatre: Path, cell: Cell, *encores: Cell) -> list[str] | None:
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
            left = host(folder, one)
        return left
    except NotAvailable:
        return None
    finally:
        exterminate(folder)
        shutil.rmtree(folder)


def host(folder: Path, cell: Cell) -> list[str]:
    for name in ("ready", "ended"):
        (folder / name).unlink(missing_ok=True)
    with start_host(folder, cell) as process:
        try:
            return watch(process, folder, cell)
        finally:
            process.kill()


def start_host(folder: Path, cell: Cell) -> subprocess.Popen[bytes]:
    program = [str(folder / cell.program), "exit" if cell.end == "exit" else "stay"]
    if cell.level == BASELINE:
        program.append("slowly")  # no harm to the machine by what will escape
    if PROGRAMS[cell.program].suffix == ".sh":
        program.insert(0, str(folder / "sh"))
    with open(folder / "errors", "wb") as errors:
        return subprocess.Popen(
            [sys.executable, str(HERE / "host.py"), cell.level, cell.end, *program],
            env={**os.environ, "ESCAPE_CELL": str(folder), "ESCAPE_BACKEND": cell.backend},
            stdin=subprocess.PIPE,
            stderr=errors,
        )


def watch(host: subprocess.Popen[bytes], folder: Path, cell: Cell) -> list[str]:
    """End the host at the right time. What is left of the scope, or later of the host?"""

    def scope_ended() -> bool:
        return (folder / "ended").exists() or host.poll() is not None

    def outside_the_scope(pid: int) -> bool:
        return host.pid in (pid, parent(pid))  # the host and its keeper

    left: dict[int, str] = {}
    if cell.end in HOST_ENDS:
        wait_until(lambda: (folder / "ready").exists() or scope_ended())
        host.send_signal(HOST_ENDS[cell.end])
    else:
        wait_until(scope_ended)
        left = survivors(folder, outside_the_scope)
        assert host.stdin
        host.stdin.close()
    try:
        host.wait(START_BOUND)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{cell}: the host does not end") from None
    check_host(host.returncode, folder, cell)
    left = left or survivors(folder, lambda pid: False)
    return [f"{pid} ({name})" for pid, name in sorted(left.items())]


def check_host(status: int, folder: Path, cell: Cell) -> None:
    """An empty stage is no proof: the host must have run the program."""
    if status == HOST_NOT_AVAILABLE:
        raise NotAvailable
    if status > 0 or not (folder / "registry").stat().st_size:
        errors = (folder / "errors").read_text()
        raise RuntimeError(f"{cell}: the host ended with {status} and said:\n{errors}")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_BOUND
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing has happened for {START_BOUND} s")
        time.sleep(0.01)
