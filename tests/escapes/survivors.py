"""Who is left of a cell?  Found in /proc alone: nothing here knows how agentsup works.

A process belongs to a cell, a folder with an unguessable name, if any of this is so:

- its executable, root or working directory lies in the folder (each program is run from a link of
  its own, so this survives whatever a process does but executing another program);
- the folder is in its arguments or its environment (so in the keeper's);
- its pid and start time are in the folder's registry, where each program and each of their
  children enters itself before it does anything else (this survives exec, su, and namespaces).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

BOUND = 2.0  # seconds until nothing may be left
PAUSE = 0.05


def living(cell: Path) -> dict[int, str]:
    """Pid and name of all that lives of the cell; zombies do not."""
    registered = set((cell / "registry").read_text().splitlines())
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if fields := _stat(pid):
            name, start = fields
            if f"{pid} {start}" in registered or _bears(pid, os.fsencode(cell)):
                found[pid] = name
    return found


def _stat(pid: int) -> tuple[str, str] | None:
    """Name and start time, unless it is dead."""
    with contextlib.suppress(OSError):
        head, _, tail = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
        fields = tail.split()
        # The state is the first thread's: others may live on.
        if fields[0] not in "ZX" or int(fields[17]) > 1:
            return head.partition("(")[2], fields[19]
    return None


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


def survivors(cell: Path, spared: Callable[[int], bool]) -> dict[int, str]:
    """What is left when nothing has been left to see for a while, or at the end of BOUND.

    A chain of forks can slip through a scan, but it cannot help being in the registry: there is
    nothing left only if that has not grown either.
    """
    deadline = time.monotonic() + BOUND
    quiet = False
    size = -1
    while True:
        found = {pid: name for pid, name in living(cell).items() if not spared(pid)}
        before, size = size, (cell / "registry").stat().st_size
        if found or size != before:
            quiet = False
        elif quiet:
            return {}
        else:
            quiet = True
        if time.monotonic() > deadline:
            if not quiet:
                return found or {0: "something that forks faster than a scan"}
            return {}
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
    deadline = time.monotonic() + 30
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
    for pattern in ("escape-", "*/escape-"):
        yield from Path("/sys/fs/cgroup").glob(pattern + cell.name)
