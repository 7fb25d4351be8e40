"""Which files of the past go, and when a look at them is due."""

from __future__ import annotations

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from agentsup._rules.retention import is_due, of_a_full_disk, surplus, with_room
from agentsup._values.retention import Retention
from agentsup.checkpoint.retention import Generation
from agentsup.checkpoint.retention import surplus as surplus_generations

NOW = 100.0


@frozen
class File:
    name: int
    size: int
    written_at: float


FILES = st.lists(st.tuples(st.integers(0, 9), st.floats(0, 110)), max_size=10).map(
    lambda values: [
        File(name, size, at)
        for name, (size, at) in enumerate(sorted(values, key=lambda value: -value[1]))
    ]
)
BOUNDS = st.builds(
    Retention,
    max_bytes=st.none() | st.integers(0, 60),
    max_age=st.none() | st.floats(0, 120),
    max_files=st.none() | st.integers(1, 12),
)
HELD = st.sets(st.integers(0, 9), max_size=5)


def beyond(files: list[File], bounds: Retention, file: File) -> bool:
    """Whether ``file`` would have to go from among ``files``."""
    return (
        (bounds.max_files is not None and len(files) > bounds.max_files)
        or (bounds.max_bytes is not None and sum(one.size for one in files) > bounds.max_bytes)
        or (bounds.max_age is not None and NOW - file.written_at > bounds.max_age)
    )


@given(FILES, BOUNDS, HELD)
def test_what_goes(files: list[File], bounds: Retention, names: set[int]) -> None:
    held = {file for file in files if file.name in names}
    going = surplus(files, bounds, NOW, held)
    kept = [file for file in files if file not in going]
    assert kept[:1] == files[:1], "the newest stays"
    assert not held.intersection(going)
    assert going == sorted(going, key=lambda file: -file.name), "the oldest first"
    may_go = [file for file in kept[1:] if file not in held]
    assert not any(beyond(kept, bounds, file) for file in may_go), "the bounds hold"
    for number, file in enumerate(going):
        left = [one for one in files if one not in going[:number]]
        assert beyond(left, bounds, file), "and nothing goes without need"
    assert not may_go or not going or may_go[-1].name < going[-1].name, "no newer one before it"


def test_one_that_is_held_counts_and_a_newer_one_goes_in_its_place() -> None:
    newest, newer, old, oldest = files = [File(n, 10, NOW - n) for n in range(4)]
    bounds = Retention(max_bytes=20)
    assert surplus(files, bounds, NOW) == [oldest, old]
    assert surplus(files, bounds, NOW, {oldest}) == [old, newer]
    assert surplus(files, bounds, NOW, {oldest, old, newer}) == []
    assert newest not in surplus(files, Retention(max_bytes=0, max_files=1, max_age=0), NOW)


@given(
    st.builds(Retention, max_bytes=st.integers(0, 300), max_files=st.integers(1, 50)),
    st.lists(st.integers(0, 40), max_size=200),
)
def test_bounds_hold_between_two_looks(bounds: Retention, sizes: list[int]) -> None:
    """But for the file that made the bound be exceeded, which is the newest."""
    assert bounds.max_bytes is not None
    assert bounds.max_files is not None
    files: list[File] = []
    added = size_added = 0
    for name, size in enumerate(sizes):
        files.insert(0, File(name, 0, float(name)))
        added += 1
        if is_due(bounds, added, size_added, 0.0):
            added = size_added = 0
            going = surplus(files, with_room(bounds), NOW)
            files = [file for file in files if file not in going]
        assert len(files) <= bounds.max_files
        assert sum(file.size for file in files) <= bounds.max_bytes
        files[0] = File(name, size, float(name))
        size_added += size
        assert sum(file.size for file in files[1:]) <= bounds.max_bytes


@pytest.mark.parametrize(
    ("bounds", "files", "size", "seconds", "due"),
    [
        ({}, 10**9, 10**12, 1e9, False),
        ({"max_files": 4000}, 400, 0, 0.0, False),
        ({"max_files": 4000}, 401, 0, 0.0, True),
        ({"max_files": 3}, 1, 0, 0.0, True),
        ({"max_bytes": 1000}, 9, 100, 9.0, False),
        ({"max_bytes": 1000}, 0, 101, 0.0, True),
        ({"max_age": 60}, 9, 999, 6.0, False),
        ({"max_age": 60}, 0, 0, 6.1, True),
    ],
)
def test_when_a_look_is_due(
    bounds: dict[str, int], files: int, size: int, seconds: float, due: bool
) -> None:
    assert is_due(Retention(**bounds), files, size, seconds) is due


@given(FILES)
def test_a_full_disk_takes_a_tenth_and_not_much_more(files: list[File]) -> None:
    going = surplus(files, of_a_full_disk(files), NOW)
    total, freed = sum(file.size for file in files), sum(file.size for file in going)
    assert len(files) - len(going) <= max(1, len(files) * 9 // 10)
    assert freed * 10 >= total or len(going) == len(files) - 1
    without_last = going[:-1]
    assert (
        not going
        or len(files) - len(without_last) > len(files) * 9 // 10
        or (total - sum(file.size for file in without_last)) > total * 9 // 10
    )


@pytest.mark.parametrize(("keep", "max_files", "kept"), [(3, None, 3), (3, 2, 2), (2, 3, 2)])
def test_a_checkpoint_keeps_the_lesser_number(keep: int, max_files: int | None, kept: int) -> None:
    found = [Generation(number, 1, NOW) for number in range(5, 0, -1)]
    going = surplus_generations(found, keep, Retention(max_files=max_files), NOW)
    assert [generation.number for generation in going] == list(range(1, 6 - kept))


@pytest.mark.parametrize(
    ("files", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), ("9", TypeError)]
)
def test_numbers_of_files_that_are_none(files: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"Retention\.max_files"):
        Retention(max_files=files)
