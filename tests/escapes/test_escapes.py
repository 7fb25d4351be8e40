"""Nothing outlives its scope: programs that try to get away, hosts that die badly."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import stage
from expected import EXPECTED, expectation
from stage import BASELINE, ENDS, LEVELS, PROGRAMS, Cell

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which(os.environ.get("CC", "cc")),
    reason="the programs are Linux's, and need a C compiler",
)


def cases() -> list[object]:
    found: list[object] = []
    for level in LEVELS:
        if why := stage.missing(level):
            found.append(pytest.param(level, "-", marks=pytest.mark.skip(reason=why)))
        else:
            found += [pytest.param(level, program) for program in PROGRAMS]
    return found


@pytest.fixture(scope="module")
def theatre() -> Iterator[Path]:
    with stage.theatre() as folder:
        yield folder


@pytest.mark.parametrize(("level", "program"), cases())
def test_nothing_is_left(theatre, level, program):
    outcomes = dict(stage.perform_all(theatre, [Cell(level, program, end) for end in ENDS]))
    if None in outcomes.values():
        pytest.skip(f"{level} is not to be had here")
    left = {cell.end: left for cell, left in outcomes.items() if left and not expectation(cell)}
    assert not left


@pytest.mark.parametrize("program", ["bare_daemon", "fork_chain", "setuid", "stopped"])
def test_a_leak_is_seen(theatre, program):
    """A process group does not hold these, and whatever they do, they are counted."""
    assert stage.perform(theatre, Cell(BASELINE, program, "host KILL"))


def test_the_next_start_sweeps(theatre):
    """Keeper and host are killed at one stroke: whoever comes next finds what they have left."""
    stroke = Cell("SUBREAPER", "kills_keeper_and_host", "timeout")
    # Now and then the host sees the keeper's death before its own, and is quick enough.
    assert any(stage.perform(theatre, stroke) for _ in range(5))
    assert not stage.perform(theatre, stroke, Cell("SUBREAPER", "ignores_term", "exit"))


def test_expectations_name_what_there_is():
    for entry in EXPECTED:
        assert entry.program in PROGRAMS
        assert entry.level in LEVELS
        assert set(entry.ends) <= set(ENDS)
