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
from cells import BASELINE, ENDS, HERE, LEVELS, PROGRAMS, Cell, description
from expected import EXPECTED, expectation

pytestmark = [
    pytest.mark.agentsup_leaks(False),
    pytest.mark.skipif(
        sys.platform != "linux" or not shutil.which(os.environ.get("CC", "cc")),
        reason="the programs are Linux's, and need a C compiler",
    ),
]
PAGE = HERE.parent.parent / "docs" / "containment.md"


def cases() -> list[object]:
    found: list[object] = []
    for level in LEVELS:
        if why := stage.missing(level):
            found.append(pytest.param(level, "-", marks=pytest.mark.skip(reason=why)))
        else:
            found += [pytest.param(level, program) for program in PROGRAMS]
    return found


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Instead of that of all tests: others are played meanwhile, and each is looked after."""


@pytest.fixture(scope="module")
def theatre() -> Iterator[Path]:
    with stage.theatre() as folder:
        yield folder


@pytest.fixture(scope="module")
def played(theatre, request) -> Iterator[stage.Played]:
    """The cells of all tests that are to run, for they wait more than they work."""
    rows = [
        item.callspec.params
        for item in request.session.items
        if getattr(item, "function", None) is test_nothing_is_left
    ]
    cells = [
        Cell(row["level"], row["program"], end)
        for row in rows
        if row["program"] in PROGRAMS
        for end in ENDS
    ]
    with stage.playing(theatre, cells) as played:
        yield played


@pytest.mark.parametrize(("level", "program"), cases())
def test_nothing_is_left(played, level, program):
    left = {end: played[Cell(level, program, end)].result() for end in ENDS}
    assert not {
        end: names
        for end, names in left.items()
        if names and not expectation(Cell(level, program, end))
    }


@pytest.mark.parametrize("program", ["bare_daemon", "fork_chain", "setuid", "stopped"])
def test_a_leak_is_seen(theatre, program):
    """A process group does not hold these, and whatever they do, they are counted."""
    assert stage.perform(theatre, Cell(BASELINE, program, "host KILL"))


def test_the_next_start_sweeps_what_keeper_and_host_have_left(theatre):
    stroke = Cell("SUBREAPER", "kills_keeper_and_host", "timeout")
    # Now and then the host sees the keeper's death before its own, and is quick enough.
    assert any(stage.perform(theatre, stroke) for _ in range(5))
    assert not stage.perform(theatre, stroke, Cell("SUBREAPER", "ignores_term", "exit"))


@pytest.mark.parametrize("program", ["stops_keepers", "traces_keeper"])
def test_the_next_start_sweeps_what_a_stopped_keeper_has_left(theatre, program):
    stopped = Cell("SUBREAPER", program, "host KILL")
    # A stop again and again is a race, which now and then the keeper wins.
    assert stage.perform(theatre, stopped) or program == "stops_keepers"
    assert not stage.perform(theatre, stopped, Cell("SUBREAPER", "ignores_term", "exit"))


def test_expectations_name_what_there_is():
    for entry in EXPECTED:
        assert entry.program in PROGRAMS
        assert set(entry.levels) <= set(LEVELS)
        assert set(entry.ends) <= set(ENDS)


def test_the_page_has_all_of_it():
    page = PAGE.read_text()
    for program in PROGRAMS:
        assert f"| `{program}` | {description(program)} |" in page
    for entry in EXPECTED:
        assert entry.reason in page
