"""When a log goes on in a new segment, which of the old ones go, and how many lines are kept."""

from __future__ import annotations

from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from agentsup._rules.log_rotation import Rotation, of_service, to_remove
from agentsup._rules.rate_limit import RateRule
from agentsup._values.retention import Retention


@frozen
class File:
    service: str
    number: int
    size: int
    written_at: float


FILES = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 100), st.integers(0, 100)), max_size=20
).map(lambda found: [File(name, n, size, float(at)) for n, (name, size, at) in enumerate(found)])


def by_service(files: list[File]) -> dict[str, list[File]]:
    found: dict[str, list[File]] = {}
    for file in reversed(files):
        found.setdefault(file.service, []).append(file)
    return found


@given(FILES, st.sets(st.integers(0, 20)), st.integers(0, 300), st.integers(0, 300))
def test_bounds_hold_except_for_what_is_written(
    files: list[File], numbers: set[int], max_size: int, total: int
) -> None:
    found = by_service(files)
    written = {file for file in files if file.number in numbers}
    bounds = dict.fromkeys(found, of_service(max_size, 10, 50.0))
    gone = to_remove(found, bounds, Retention(max_bytes=total), 100.0, written)
    assert not written.intersection(gone)
    assert len(set(gone)) == len(gone)
    left = [file for file in files if file not in gone]
    others = [file for file in left if file not in written]
    assert all(100.0 - file.written_at <= 50.0 for file in others)
    assert not others or sum(file.size for file in left) <= total
    for service in found:
        own = [file for file in left if file.service == service]
        assert set(own) <= written or sum(file.size for file in own) <= max(0, max_size - 10)


def test_the_oldest_of_all_goes_first_whosever_it_is() -> None:
    old, middle, new = File("a", 1, 40, 1.0), File("b", 1, 40, 2.0), File("a", 2, 40, 3.0)
    none = Retention()
    found, bounds = {"a": [new, old], "b": [middle]}, {"a": none, "b": none}
    assert to_remove(found, bounds, Retention(max_bytes=100), 9.0, ()) == [old]
    assert to_remove(found, bounds, Retention(max_bytes=100), 9.0, {old}) == [middle]
    assert to_remove(found, bounds, Retention(max_bytes=150), 9.0, ()) == []
    assert to_remove(found, bounds, none, 9.0, ()) == []


@given(
    st.lists(st.binary(max_size=30).map(lambda one: one.replace(b"\n", b"") + b"\n"), min_size=1),
    st.integers(1, 60),
    st.integers(0, 70),
)
def test_a_segment_ends_between_records(lines: list[bytes], size: int, used: int) -> None:
    records, rotation = b"".join(lines), Rotation(size, None)
    end = rotation.fitting(records, 0, used)
    part = records[:end]
    assert part == b"" or part.endswith(b"\n")
    if used:
        assert not part or used + len(part) <= size
    else:
        assert part
        assert len(part) <= size or part.count(b"\n") == 1
    if end < len(records):  # as much as there is room for
        assert used + end + records.index(b"\n", end) + 1 - end > size


def test_a_segment_ends_by_size_and_by_age() -> None:
    rotation = Rotation(100, 60.0)
    assert not rotation.is_due(99, 0.0, 59.9)
    assert rotation.is_due(100, 0.0, 0.0)
    assert rotation.is_due(1, 0.0, 60.0)
    assert not rotation.is_due(0, 0.0, 60.0)  # there is nothing in it
    assert not Rotation(100, None).is_due(1, 0.0, 1e9)


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 12)), max_size=30))
def test_no_interval_has_more_than_its_burst(events: list[tuple[float, int]]) -> None:
    rule, now, begun, taken = RateRule(10, 2.0), 0.0, -9.0, 0
    for pause, lines in events:
        now += pause
        if now - begun >= 2.0 and lines:
            begun, taken = now, 0
        expected = min(lines, 10 - taken)
        if lines:
            assert rule.room(now) == 10 - taken if now - begun < 2.0 else 10
        assert rule.take(now, lines) == expected
        taken += expected
