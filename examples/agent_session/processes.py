"""Which processes are the demo's?  Asked of /proc alone, so that agentsup cannot vouch for itself.

========  ====================================================================================
sign      a process is the demo's when …
========  ====================================================================================
ancestry  the auditor is above it. The auditor is a subreaper, so no descendant can leave it
session   it is in the session of a call, whose leader is gone
variable  its environment holds the mark of this run
folder    it works in the demo's folder
========  ====================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from attrs import frozen

VARIABLE = "AGENTSUP_DEMO"


@frozen
class Signs:
    auditor: int
    mark: str
    folder: Path
    #: The process ids of the calls, each of which is the number of a session too.
    sessions: frozenset[int] = frozenset()


@frozen
class Process:
    pid: int
    state: str
    parent: int
    session: int
    argv: tuple[str, ...]

    @property
    def zombie(self) -> bool:
        return self.state == "Z"

    @property
    def keeper(self) -> bool:
        return any("/agentsup/_linux/" in word for word in self.argv)

    def __str__(self) -> str:
        return f"{self.pid} {self.state} {' '.join(self.argv)[:100] or '(no argv)'}"


def belonging(signs: Signs, but: Iterable[int] = ()) -> list[Process]:
    """Every process that bears one of ``signs``, but the auditor and those named."""
    everything = {process.pid: process for process in map(_process, _pids()) if process}
    excluded = {signs.auditor, *but}
    return [
        process
        for process in everything.values()
        if process.pid not in excluded and _belongs(process, everything, signs)
    ]


def _belongs(process: Process, everything: dict[int, Process], signs: Signs) -> bool:
    above = process
    while above.parent in everything:
        if above.parent == signs.auditor:
            return True
        above = everything[above.parent]
    if process.session in signs.sessions and process.session not in everything:
        return True
    return _marked(process.pid, signs.mark) or _works_in(process.pid, signs.folder)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _process(pid: int) -> Process | None:
    try:
        # The name in brackets may hold spaces and brackets itself.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
        argv = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return None  # it has just ended
    return Process(pid, fields[0], int(fields[1]), int(fields[3]), tuple(argv[:-1]))


def _marked(pid: int, mark: str) -> bool:
    try:
        return f"{VARIABLE}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False  # another user's, or gone


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(folder)
    except OSError:
        return False
