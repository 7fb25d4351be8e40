"""What a level of containment cannot hold, and why. Whatever else survives is a failure."""

from __future__ import annotations

from dataclasses import dataclass

from stage import ENDS, USER, Cell


@dataclass(frozen=True)
class Survivor:
    """These cells may have survivors."""

    level: str
    program: str
    reason: str
    ends: tuple[str, ...] = ENDS
    users: tuple[str, ...] = ("root", "an unprivileged user")


EXPECTED = [
    Survivor(
        "SUBREAPER",
        "kills_keeper_and_host",
        "Both die at one stroke, so nobody is left to do anything before the next start of a host "
        "of this user, which sweeps it (tested).",
    ),
    Survivor(
        "SUBREAPER",
        "sheds_tag_and_kills_keepers",
        "Any process may lower its own limits, and without the keeper its tag is all to know it "
        "by. Either alone is held.",
    ),
    Survivor(
        "SUBREAPER",
        "freezes",
        "In the freezer of cgroup v1, which takes root, a process dies of SIGKILL when thawed.",
        users=("root",),
    ),
]


def expectation(cell: Cell) -> Survivor | None:
    for entry in EXPECTED:
        place = (entry.level, entry.program) == (cell.level, cell.program)
        if place and cell.end in entry.ends and USER in entry.users:
            return entry
    return None
