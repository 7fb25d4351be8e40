"""What a level of containment cannot hold, and why. Whatever else survives is a failure."""

from __future__ import annotations

from dataclasses import dataclass

from cells import ENDS, HOST_ENDS, LEVELS, ROOT, USER, USERS, Cell


@dataclass(frozen=True)
class Survivor:
    """These cells may have survivors."""

    levels: tuple[str, ...]
    program: str
    reason: str
    ends: tuple[str, ...] = ENDS
    users: tuple[str, ...] = USERS


# The keeper is outside of both, where a tool can reach it.
WITH_A_KEEPER_IN_REACH = ("SUBREAPER", "CGROUP")

EXPECTED = [
    Survivor(
        WITH_A_KEEPER_IN_REACH,
        "kills_keeper_and_host",
        "Both die at one stroke, so nobody is left to do anything before the next start of a host "
        "of this user, which sweeps it (tested).",
    ),
    Survivor(
        WITH_A_KEEPER_IN_REACH,
        "stops_keepers",
        "The host's death makes the keeper go on, but what stops it again at once leaves it no "
        "time. The next start of a host of this user sweeps it (tested).",
        ends=tuple(HOST_ENDS),
    ),
    Survivor(
        WITH_A_KEEPER_IN_REACH,
        "traces_keeper",
        "A debugger's stop ends when the debugger says so. While the host lives, it takes the "
        "keeper for dead; after that, the next start of a host of this user sweeps it (tested).",
        ends=tuple(HOST_ENDS),
    ),
    Survivor(
        ("SUBREAPER",),
        "sheds_tag_and_kills_keepers",
        "Any process may lower its own limits, and without the keeper its tag is all to know it "
        "by. Either alone is held.",
    ),
    Survivor(
        LEVELS,
        "freezes",
        "In the freezer of cgroup v1, which takes root, a process dies of SIGKILL when thawed.",
        users=(ROOT,),
    ),
]


def expectation(cell: Cell, user: str = USER) -> Survivor | None:
    for entry in EXPECTED:
        if (
            cell.level in entry.levels
            and cell.program == entry.program
            and cell.end in entry.ends
            and user in entry.users
        ):
            return entry
    return None
