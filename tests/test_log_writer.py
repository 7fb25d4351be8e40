"""What a stream comes to as records: the same ones, however it comes in."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentsup._values.output import whole_characters
from agentsup.daemon.logs.record import (
    Record,
    directory_of,
    dump,
    parse,
    prefix,
    segment_name,
    segment_number,
    service_of,
)
from agentsup.daemon.logs.writer import Lines

LINE_MAX = 16


def begin(priority: int) -> bytes:
    return prefix(1.5, "a/b", 7, "stdout", priority, "id")


def made(line: bytes, priority: int = 6, **options: bool) -> Record:
    """The record of a line that fits into one."""
    message = line.decode("utf-8", "replace")
    raw = None if message.encode() == line else line
    return Record(1.5, "a/b", 7, "stdout", priority, "id", message, raw=raw, **options)


def expected(data: bytes) -> list[Record]:
    """As the contract says it, line by line."""
    *lines, rest = data.split(b"\n")
    records: list[Record] = []
    for line in [*lines, rest] if rest else lines:
        line, priority = line.removesuffix(b"\r"), 6
        if found := re.match(rb"<([0-7])>", line):
            line, priority = line[3:], int(found[1])
        while len(line) > LINE_MAX:
            piece = whole_characters(line[:LINE_MAX])
            records.append(made(piece, priority, continues=True))
            line = line[len(piece) :]
        records.append(made(line, priority))
    return records


PARTS = st.one_of(
    st.binary(max_size=8),
    st.text(max_size=8).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from(
        [b"\n", b"\n", b"\r\n", b"\r", b"<3>", b"\n<6>", b"<", b'"', b"\\", b"\\n", b"\xe2\x82"]
    ),
    st.sampled_from([b"x" * LINE_MAX, b"x" * (LINE_MAX + 1), "é".encode() * LINE_MAX, b"\n" * 5]),
)


@example(b"<3>" + b"x" * LINE_MAX + b"\n", [LINE_MAX + 3])
@example(b"<3>" + b"x" * LINE_MAX + b"\r\n", [LINE_MAX + 2, LINE_MAX + 4])
@given(st.lists(PARTS, max_size=12).map(b"".join), st.lists(st.integers(0, 100), max_size=8))
def test_any_bytes_in_any_chunks_come_to_the_same_records(data: bytes, cuts: list[int]) -> None:
    lines = Lines(LINE_MAX)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    written = b""
    for start, end in itertools.pairwise(places):
        written += lines.feed(data[start:end], begin)
        # With what is not written yet as whole records, nothing of what was fed is missing.
        told = [parse(line) for line in (written + lines.partial(begin)).splitlines()]
        assert None not in told
        assert told[-1].partial is not data[:end].endswith(b"\n")  # type: ignore[union-attr] -- not None
    written += lines.close(begin)
    assert lines.partial(begin) == b""
    assert [parse(line) for line in written.splitlines()] == expected(data)
    assert written == b"".join(map(dump, expected(data)))


def records_of(data: bytes, line_max: int = 64) -> list[Record | None]:
    lines = Lines(line_max)
    written = lines.feed(data, begin) + lines.partial(begin)
    return [parse(line) for line in written.splitlines()]


def test_a_line_that_has_not_ended_is_a_partial_record() -> None:
    assert records_of(b"<4>one\n<3>tw") == [made(b"one", 4), made(b"tw", 3, partial=True)]


def test_bytes_that_are_not_text_are_kept_beside_it() -> None:
    [record] = records_of(b"a\xff<\n")
    assert record
    assert record.message == "a\ufffd<"
    assert record.raw == record.content == b"a\xff<"


def test_the_rest_of_a_line_without_an_end_is_bounded() -> None:
    lines = Lines(100)
    for _ in range(1000):
        lines.feed(b"x" * 99, begin)
        assert len(lines.partial(begin)) < 300


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"    ",
        b"5",
        b"null",
        b"[1]",
        b'"text"',
        b"{}",
        b"\xff",
        b'{"ts":1.5}',
        dump(made(b"one"))[:-3],
        dump(made(b"one"))[3:],
        dump(made(b"\xff")).replace(b"/w==", b"/w="),
    ],
)
def test_what_is_no_record_is_none(line: bytes) -> None:
    assert parse(line) is None


@given(st.text(), st.binary() | st.none(), st.booleans(), st.integers(0, 9))
def test_a_record_is_read_as_it_was_written(
    text: str, raw: bytes | None, flag: bool, number: int
) -> None:
    text = text.encode("utf-8", "replace").decode()
    record = Record(1.25, text, number, "stderr", 3, "id", text, flag, not flag, number, raw)
    assert parse(dump(record)) == record
    assert dump(record).count(b"\n") == 1


@pytest.mark.parametrize("service", ["web", "workers/a", "@daemon", "a.b-c_d", "ü/..", ".."])
def test_names_of_files(service: str) -> None:
    name = directory_of(service)
    assert "/" not in name
    assert name not in (".", "..")
    assert service_of(name) == service


def test_numbers_of_segments() -> None:
    assert segment_number(segment_name(12)) == 12
    assert segment_number(segment_name(12) + ".gz") == 12
    other: Callable[[str], int | None] = segment_number
    for name in ("12.jsonl", segment_name(1) + ".gz.new", segment_name(1) + ".new", "x" * 20):
        assert other(name) is None
