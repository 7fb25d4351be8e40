"""Who is left of a cell?  Found in /proc alone: nothing here knows how agentsup works.

A process belongs to a cell, a folder with an unguessable name, if any of this is so:

- its executable, root or working directory lies in the folder (each program is run from a link of
  its own, so this survives whatever a process does but executing another program);
- the folder is in its arguments or its environment (so in the keeper's);
- it is in the folder's registry, where each program and each of their children enters its pid,
  PID namespace and start time before it does anything else (this survives exec and su).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

PAUSE = 0.05  # seconds between two scans
SCANS = 20  # that have to disagree with each other
#: The entries (pid, PID namespace) of a registry, by start time.
Registry = dict[str, set[tuple[str, str]]]


def living(cell: Path) -> dict[int, str]:
    """Pid and name of all that lives of the cell; zombies do not."""
    registry = _read_registry(cell)
    mark = os.fsencode(cell)
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if fields := _stat(pid):
            name, start = fields
            if _is_enlisted(pid, registry.get(start, ())) or _bears(pid, mark):
                found[pid] = name
    return found


def _read_registry(cell: Path) -> Registry:
    registry: Registry = defaultdict(set)
    for line in (cell / "registry").read_text().splitlines():
        if line.endswith("]"):  # else it is being written
            start, pid, namespace = line.split()
            registry[start].add((pid, namespace))
    return registry


def _stat(pid: int) -> tuple[str, str] | None:
    """Name and start time, unless it is dead."""
    with contextlib.suppress(OSError):
        head, _, tail = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
        fields = tail.split()
        # The state is the first thread's: others may live on.
        if fields[0] not in "ZX" or int(fields[17]) > 1:
            return head.partition("(")[2], fields[19]
    return None


def _is_enlisted(pid: int, entries: Iterable[tuple[str, str]]) -> bool:
    """A pid in the registry is that of any PID namespace that the process is in."""
    if not entries:
        return False
    numbers: list[str] = []
    namespace = None
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        numbers = status.partition("NSpid:")[2].partition("\n")[0].split()
        namespace = os.readlink(f"/proc/{pid}/ns/pid")  # not to be had of another user's
    return any(number in numbers and namespace in (its, None) for number, its in entries)


def _bears(pid: int, mark: bytes) -> bool:
    for link in ("exe", "cwd", "root"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/{link}".encode()).startswith(mark):
                return True
    for file in ("cmdline", "environ"):
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/{file}").read_bytes():
                return True
    return False


def survivors(cell: Path, spared: Callable[[int], bool], bound: float) -> dict[int, str]:
    """What is left when nothing has been left to see for a while, or after ``bound`` seconds.

    A chain of forks can slip through a scan, but it cannot help being in the registry: there is
    nothing left only if that has not grown either.
    """
    deadline = time.monotonic() + bound
    quiet = False
    size = -1
    scans = 0
    while True:
        found = {pid: name for pid, name in living(cell).items() if not spared(pid)}
        before, size = size, (cell / "registry").stat().st_size
        scans += 1
        calm = not found and size == before
        if calm and quiet:
            return {}
        quiet = calm
        if time.monotonic() > deadline:
            if found and scans > 1:
                return found
            if scans > SCANS:  # which takes longer than that on a busy machine
                return {0: "something that forks faster than a scan"}
        time.sleep(PAUSE)


def parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(
            Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1]
        )
    return 0


def exterminate(cell: Path) -> None:
    """End what is left, for this suite leaves nothing behind either."""
    (cell / "stop").touch()
    for folder in _cgroups(cell):
        thaw = folder / "freezer.state"
        if thaw.exists():
            thaw.write_text("THAWED")
    deadline = time.monotonic() + 120
    while left := living(cell):
        if time.monotonic() > deadline:
            raise RuntimeError(f"these cannot be killed: {left}")
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(PAUSE)
    for folder in _cgroups(cell):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _cgroups(cell: Path) -> Iterator[Path]:
    """Its host's, those that its programs have made, and what is below; the innermost first."""
    for folder, _, _ in os.walk("/sys/fs/cgroup", topdown=False):
        if f"/escape-{cell.name}" in folder:
            yield Path(folder)
