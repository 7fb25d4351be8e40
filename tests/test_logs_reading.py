"""Logs are read from their files, from the front and from the end, whatever state those are in."""

from __future__ import annotations

import gzip
import itertools
import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup.daemon.logs import reading, segment_files
from agentsup.daemon.logs.query import (
    Query,
    matches,
    parse_grep,
    parse_priorities,
    select,
    services,
)
from agentsup.daemon.logs.record import Record, directory_of, dump, parse, segment_name
from agentsup.daemon.logs.vacuum import usage, vacuum


def line(
    number: int,
    service: str = "web",
    message: str | None = None,
    *,
    ts: float | None = None,
    priority: int = 6,
    partial: bool = False,
) -> bytes:
    return dump(
        Record(
            ts=1000.0 + number if ts is None else ts,
            service=service,
            pid=1,
            stream="stdout",
            priority=priority,
            call_id="c",
            message=f"line {number}" if message is None else message,
            partial=partial,
        )
    )


def write(logs: Path, number: int, content: bytes, service: str = "web") -> Path:
    path = logs / directory_of(service) / segment_name(number)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)
    return path


def compress(path: Path) -> Path:
    target = path.with_name(path.name + ".gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return target


def messages(logs: Path, query: Query = Query()) -> list[str]:  # noqa: B008 -- frozen
    found = [parse(entry.line) for entry in select(str(logs), query)]
    return [record.message for record in found if record]


def numbered(*numbers: int) -> list[str]:
    return [f"line {number}" for number in numbers]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("size", [20, 3000])  # of a message: within a block, and over many
def test_both_ways_are_the_same(tmp_path: Path, compressed: bool, size: int) -> None:
    letters = random.Random(7).choices('abcdefghijklmnopqrstuvwxyzäöü"\\\n', k=size)
    texts = [f"{number} {''.join(letters)}" for number in range(900)]
    for segment in range(3):
        part = range(segment * 300, segment * 300 + 300)
        path = write(tmp_path, segment + 1, b"".join(line(n, message=texts[n]) for n in part))
        if compressed and segment < 2:
            compress(path)
    assert messages(tmp_path) == texts
    for count in (0, 1, 2, 299, 300, 301, 899, 900, 5000):
        assert messages(tmp_path, Query(lines=count)) == texts[len(texts) - min(count, 900) :]


@given(st.lists(st.binary(max_size=9).filter(lambda one: b"\n" not in one), max_size=12),
       st.lists(st.integers(0, 80), max_size=6))  # fmt: skip
def test_lines_do_not_depend_on_blocks(parts: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(parts)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    blocks = [data[start:end] for start, end in itertools.pairwise(edges)]
    *whole, torn = data.split(b"\n")
    assert list(reading.lines(blocks)) == whole
    assert list(reading.lines_backwards(reversed(blocks))) == [torn, *reversed(whole)]


def test_services_are_merged_by_time(tmp_path: Path) -> None:
    for offset, service in enumerate(["a", "workers/b", "c"]):
        content = b"".join(line(n, service) for n in range(offset, 30, 3))
        write(tmp_path, 1, content, service)
    assert messages(tmp_path) == numbered(*range(30))
    assert messages(tmp_path, Query(lines=7)) == numbered(*range(23, 30))
    assert messages(tmp_path, Query(["workers", "c"], lines=4)) == numbered(25, 26, 28, 29)


def test_of_the_same_time_both_ways_have_the_same_order(tmp_path: Path) -> None:
    for service in "abc":
        content = b"".join(line(0, service, f"{service}{n}", ts=5.0) for n in range(3))
        write(tmp_path, 1, content, service)
    assert messages(tmp_path) == ["a0", "a1", "a2", "b0", "b1", "b2", "c0", "c1", "c2"]
    assert messages(tmp_path, Query(lines=5)) == ["b1", "b2", "c0", "c1", "c2"]


def test_segments_of_another_time_are_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for segment in range(1, 10):
        first = segment * 10
        path = write(tmp_path, segment, b"".join(line(n) for n in range(first, first + 10)))
        if segment < 8:
            compress(path)
    opened: list[int] = []
    real = segment_files.open_segment

    def open_segment(directory: str, number: int) -> object:
        opened.append(number)
        return real(directory, number)

    monkeypatch.setattr(reading, "open_segment", open_segment)
    assert messages(tmp_path, Query(lines=12)) == numbered(*range(88, 100))
    assert set(opened) <= {8, 9}
    opened.clear()
    assert messages(tmp_path, Query(since=1075.0)) == numbered(*range(75, 100))
    assert min(opened) == 7
    opened.clear()
    assert messages(tmp_path, Query(since=1075.0, until=1082.0, lines=3)) == numbered(80, 81, 82)
    assert min(opened) >= 7


def test_what_is_half_written(tmp_path: Path) -> None:
    """A torn end, a partial line, spaces; in the middle what a crash has left."""
    torn = line(3)[:-20]
    write(tmp_path, 1, line(1) + b"\0\0\n" + line(2) + torn + line(4) + line(5, partial=True))
    write(tmp_path, 2, line(6) + line(7, partial=True)[:-1] + b"  \n" + line(8)[:30])
    for query in (Query(), Query(lines=10)):
        assert messages(tmp_path, query) == numbered(1, 2, 4, 5, 6, 7)


def test_what_has_moved_to_the_next_segment_is_shown_once(tmp_path: Path) -> None:
    """A rotation was cut short: the partial record is in both."""
    write(tmp_path, 1, line(1) + line(2, partial=True) + b"     ")
    write(tmp_path, 2, line(2, partial=True))
    for query in (Query(), Query(lines=10)):
        assert messages(tmp_path, query) == numbered(1, 2)


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_damaged_segment(tmp_path: Path, damage: str) -> None:
    letters = random.Random(7)
    texts = [f"{n} {letters.randbytes(60).hex()}" for n in range(9000)]
    content = b"".join(line(n, message=text) for n, text in enumerate(texts))
    path = compress(write(tmp_path, 1, content))
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(
        {"cut": data[:half], "garbage": data[:half] + b"x" * half, "empty": b""}[damage]
    )
    write(tmp_path, 2, line(9999))
    for query in (Query(), Query(lines=10000)):
        *found, complaint, last = messages(tmp_path, query)
        assert found == texts[: len(found)]
        assert len(found) > 1000 or damage == "empty"
        assert f"{path} is damaged" in complaint
        assert last == "line 9999"


def test_what_both_are_there_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path, 1, line(1))
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(line(1)))
    path.with_name(path.name + ".gz.new").write_bytes(b"not yet")
    write(tmp_path, 2, line(2))
    assert messages(tmp_path) == numbered(1, 2)


def test_nothing_is_there(tmp_path: Path) -> None:
    assert messages(tmp_path / "missing") == []
    (tmp_path / "web").mkdir()
    (tmp_path / "file").touch()
    assert messages(tmp_path) == []
    assert services(str(tmp_path)) == ["web"]


@pytest.mark.parametrize(
    ("patterns", "meant"),
    [
        ([], True),
        (["workers/a"], True),
        (["workers"], True),
        (["workers/*"], True),
        (["*a"], True),
        (["work"], False),
        (["a"], False),
        (["Workers/a"], False),
        (["web", "w*"], True),
    ],
)
def test_which_services_are_meant(patterns: list[str], meant: bool) -> None:
    assert matches("workers/a", patterns) is meant


@given(
    st.text(max_size=30),
    st.text(max_size=4).map(re.escape) | st.sampled_from(["^a", "z$", "^$", "é", "k", r"\\", '"']),
)
def test_grep_is_the_search_in_the_message(message: str, pattern: str) -> None:
    message = message.encode("utf-8", "replace").decode()
    grep = parse_grep(pattern)
    entry = reading.entry(line(1, message=message))
    assert entry
    assert Query(grep=grep).wants(entry) is (grep.search(message) is not None)


def test_case_matters_with_a_capital_letter(tmp_path: Path) -> None:
    texts = ["Error here", "an error", "ERROR"]
    content = b"".join(line(n, message=text) for n, text in enumerate(texts))
    write(tmp_path, 1, content)
    assert messages(tmp_path, Query(grep=parse_grep("error"))) == texts
    assert messages(tmp_path, Query(grep=parse_grep("Error"))) == texts[:1]
    assert messages(tmp_path, Query(grep=parse_grep("error"), lines=1)) == texts[2:]
    with pytest.raises(ValueError, match=r"'\(' is not a regular expression"):
        parse_grep("(")


@pytest.mark.parametrize(
    ("text", "range"),
    [("err", (0, 3)), ("3", (0, 3)), ("debug", (0, 7)), ("warning..err", (3, 4)),
     ("3..Warn", (3, 4)), ("info..info", (6, 6))],
)  # fmt: skip
def test_priorities(tmp_path: Path, text: str, range: tuple[int, int]) -> None:
    assert parse_priorities(text) == range
    write(
        tmp_path,
        1,
        b"".join(line(n, message='"priority":0', priority=n) for n in (*b"\0\1\2\3\4\5\6\7",)),
    )
    least, most = range
    found = messages(tmp_path, Query(priorities=range))
    assert len(found) == most - least + 1


@pytest.mark.parametrize("text", ["", "8", "-1", "loud", "err..", "..err", "1..2..3"])
def test_what_is_no_priority(text: str) -> None:
    with pytest.raises(ValueError, match="is not a priority"):
        parse_priorities(text)


def test_making_room(tmp_path: Path) -> None:
    now = 2_000_000_000
    for service, age in (("old", 100), ("new", 1)):
        for number in range(1, 5):
            path = write(tmp_path, number, b"x" * 1000, service)
            os.utime(path, (now, now - 86400 * age + number))
    logs = str(tmp_path)
    assert [(one.service, one.segments, one.bytes) for one in usage(logs)] == [
        ("new", 4, 4000), ("old", 4, 4000)]  # fmt: skip
    assert [one.segments for one in vacuum(logs, ["new"], max_size=3000)] == [1]
    # The oldest of all go first, but not the last one of a service.
    freed = vacuum(logs, total_size=3500)
    assert [(one.service, one.bytes) for one in freed] == [("new", 1000), ("old", 3000)]
    assert [(one.service, one.segments) for one in usage(logs)] == [("new", 2), ("old", 1)]
    assert vacuum(logs, max_size=0, total_size=0, max_age=0.0)
    assert [(one.service, one.segments) for one in usage(logs)] == [("new", 1), ("old", 1)]
    assert (tmp_path / "old" / segment_name(4)).exists()


@pytest.mark.parametrize("compressed", [False, True])
def test_up_to_a_position(tmp_path: Path, compressed: bool) -> None:
    """The segment may have been compressed since it was told."""
    texts = [f"{n} {random.Random(n).randbytes(400).hex()}" for n in range(1200)]
    whole = [line(n, message=text) for n, text in enumerate(texts)]
    path = write(tmp_path, 1, b"".join(whole))
    if compressed:
        compress(path)
    write(tmp_path, 2, line(9999))
    for count in (0, 1, 700, 1200):
        end = reading.Position(1, sum(map(len, whole[:count])))
        directory = str(tmp_path / "web")
        expected = [one.rstrip() for one in whole[:count]]
        assert [one.line for one in reading.forwards(directory, end=end)] == expected
        assert [one.line for one in reading.backwards(directory, end=end)] == expected[::-1]
