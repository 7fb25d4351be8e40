"""What is kept of a stream does not depend on how it comes in, nor its cost on how much comes."""

from __future__ import annotations

import errno
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentsup
from agentsup import Output, OutputPolicy, SpawnError
from agentsup._calls import capture as module
from agentsup._calls.capture import Capture, Lines, UntilItRaises
from agentsup._calls.spill import Spill
from agentsup._calls.spill_directory import SpillDirectory

LINE_MAX = 8  # for the tests of cutting: the rules are the same at every size


@pytest.fixture
def short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_MAX", LINE_MAX)


def chunks_of(data: bytes, cuts: list[int]) -> Iterator[memoryview]:
    """The data in pieces, each in one buffer that is overwritten afterwards, as from a reader."""
    edges = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(edges):
        buffer = bytearray(data[start:end])
        yield memoryview(buffer)
        buffer[:] = b"!" * len(buffer)


def captured(data: bytes, cuts: list[int], head: int, tail: int) -> Output:
    capture = Capture("stdout", OutputPolicy(head=head, tail=tail))
    for chunk in chunks_of(data, cuts):
        capture.feed(chunk)
    capture.close()
    return capture.output()


def lines_of(data: bytes, cuts: list[int]) -> list[str]:
    found: list[str] = []
    lines = Lines("stdout", lambda _, line: found.append(line))
    for chunk in chunks_of(data, cuts):
        lines.feed(bytes(chunk))
    lines.close()
    return found


CUTS = st.lists(st.integers(0, 200), max_size=12)
SIZES = st.integers(0, 20)


@given(st.binary(max_size=100), CUTS, SIZES, SIZES)
def test_the_first_and_the_last_are_kept(
    data: bytes, cuts: list[int], head: int, tail: int
) -> None:
    rest = data[head:]
    expected = Output(data[:head], rest[-tail:] if tail else b"", len(data))
    assert captured(data, cuts, head, tail) == expected


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=30), SIZES)
def test_memory_does_not_grow_with_the_stream(chunks: list[bytes], tail: int) -> None:
    capture = Capture("stdout", OutputPolicy(head=5, tail=tail))
    for chunk in chunks:
        capture.feed(memoryview(chunk))
        assert len(capture._head) <= 5
        assert len(capture._tail) <= 2 * tail


# Much of what matters, and little else: ends of lines, characters of two to four bytes, dirt.
STREAM = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"\r", b"a", b"bcdefgh", "é€😀".encode(), b"\xff"]),
    max_size=25,
).map(b"".join)


@pytest.mark.usefixtures("short_lines")
class TestLines:
    @given(STREAM, CUTS)
    def test_they_are_the_same_however_they_come(self, data: bytes, cuts: list[int]) -> None:
        assert lines_of(data, cuts) == lines_of(data, []) == lines_of(data, list(range(200)))

    @given(STREAM, CUTS)
    def test_pieces_are_bounded_and_nothing_is_lost(self, data: bytes, cuts: list[int]) -> None:
        lines: list[str] = []

        def keep(_: str, line: str) -> None:
            lines.append(line)

        splitter = Lines("stdout", keep)
        for chunk in chunks_of(data, cuts):
            splitter.feed(bytes(chunk))
            assert len(splitter._partial) <= LINE_MAX + 1
        splitter.close()
        sizes = [len(line.replace("\ufffd", "?").encode()) for line in lines]
        assert all(size <= LINE_MAX for size in sizes)
        ends = data.replace(b"\r\n", b"\n").removesuffix(b"\r").decode("utf-8", "replace")
        assert "".join(lines) == ends.replace("\n", "")

    @given(st.text("aé€😀", max_size=40), CUTS)
    def test_no_character_is_cut(self, text: str, cuts: list[int]) -> None:
        lines = lines_of(text.encode(), cuts)
        assert "".join(lines) == text
        assert all(len(line.encode()) > LINE_MAX - 4 for line in lines[:-1])

    @pytest.mark.parametrize(
        ("data", "lines"),
        [
            (b"", []),
            (b"\n", [""]),
            (b"one\ntwo\n", ["one", "two"]),
            (b"one\n\ntwo", ["one", "", "two"]),
            (b"one\r\ntwo\r\n", ["one", "two"]),
            (b"one\rtwo\n", ["one\rtwo"]),
            (b"12345678\n", ["12345678"]),
            (b"12345678\r\n", ["12345678"]),
            (b"123456789\n", ["12345678", "9"]),
            (b"12345678" * 2 + b"\n", ["12345678"] * 2),
            (b"12345678" * 2 + b"\r\n", ["12345678"] * 2),
            (b"1234567\r9\n", ["1234567\r", "9"]),
        ],
    )
    @pytest.mark.parametrize("cuts", [[], list(range(30))], ids=["whole", "by the byte"])
    def test_where_lines_end(self, data: bytes, lines: list[str], cuts: list[int]) -> None:
        assert lines_of(data, cuts) == lines


def test_a_line_comes_in_pieces_of_64_kib() -> None:
    assert [len(line) for line in lines_of(b"x" * 200_000 + b"\n", [100_000])] == [
        65536,
        65536,
        65536,
        200_000 - 3 * 65536,
    ]


class TestLineCallback:
    def test_it_is_told_the_stream_and_the_last_line_at_the_end(self) -> None:
        told: list[tuple[str, str]] = []
        capture = Capture("stderr", OutputPolicy(), lambda *what: told.append(what))
        capture.feed(memoryview(b"one\ntw"))
        assert told == [("stderr", "one")]
        capture.feed(memoryview(b"o"))
        capture.close()
        capture.close()
        assert told == [("stderr", "one"), ("stderr", "two")]

    def test_when_it_has_raised_it_is_not_called_again_for_either_stream(self) -> None:
        calls: list[str] = []

        def fail(_: str, line: str) -> None:
            calls.append(line)
            raise RuntimeError(line)

        on_line = UntilItRaises(fail)
        out, err = (Capture(name, OutputPolicy(), on_line) for name in ("stdout", "stderr"))
        with pytest.raises(RuntimeError, match="one"):
            out.feed(memoryview(b"one\ntwo\nthree"))
        out.feed(memoryview(b"\nfour\n"))
        err.feed(memoryview(b"five\n"))
        out.close()
        err.close()
        assert calls == ["one"]
        assert (out.output().total_bytes, err.output().head) == (19, b"five\n")

    @pytest.mark.parametrize("script", ["echo out; echo err >&2", "printf out; printf err >&2"])
    def test_what_it_raises_is_raised_once_when_the_call_is_over(self, script: str) -> None:
        calls: list[str] = []

        def fail(_: str, line: str) -> None:
            calls.append(line)
            raise RuntimeError(line)

        with pytest.raises(RuntimeError) as caught:
            agentsup.run_sync(agentsup.shell(script), output=OutputPolicy(on_line=fail))
        assert calls == [str(caught.value)]
        assert agentsup.last_partial(caught.value) is not None


def spilling(directory: Path) -> Capture:
    capture = Capture("stdout", OutputPolicy(head=1, tail=1, spill_dir=directory))
    capture.open()
    return capture


class TestSpill:
    @given(data=st.binary(max_size=100), cuts=CUTS)
    def test_the_file_holds_all_of_it(
        self, tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int]
    ) -> None:
        capture = spilling(tmp_path_factory.getbasetemp())
        for chunk in chunks_of(data, cuts):
            capture.feed(chunk)
        capture.close()
        path = capture.output().spill_path
        assert path is not None
        assert os.path.isabs(path)
        assert Path(path).read_bytes() == data
        assert capture.output().spill_error is None
        os.unlink(path)

    def test_a_full_disk_ends_the_file_and_not_the_call(self, tmp_path: Path) -> None:
        capture = spilling(tmp_path)
        assert capture._spill is not None
        full = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
        capture.feed(memoryview(b"one"))
        file = os.dup(capture._spill._fd)
        os.dup2(full, capture._spill._fd, inheritable=False)
        capture.feed(memoryview(b"two"))
        os.dup2(file, capture._spill._fd, inheritable=False)
        os.close(full)
        os.close(file)
        capture.feed(memoryview(b"three"))  # there would be room again, but also a gap
        capture.close()
        output = capture.output()
        assert output.total_bytes == 11
        assert output.spill_error is not None
        assert os.strerror(errno.ENOSPC) in output.spill_error
        assert output.spill_path is not None
        assert Path(output.spill_path).read_bytes() == b"one"

    def test_the_largest_file_that_we_may_write_holds_what_fits(self, tmp_path: Path) -> None:
        result = agentsup.run_sync([sys.executable, "-c", SPILL_UNDER_A_LIMIT, str(tmp_path)])
        assert result.check().stdout.text == f"10 [Errno {errno.EFBIG}] File too large\n"

    def test_nobody_else_may_read_the_file(self, tmp_path: Path) -> None:
        spill = Spill("stdout", OutputPolicy(), tmp_path)
        spill.close()
        assert os.stat(spill.path).st_mode & 0o077 == 0
        assert re.fullmatch(r"agentsup-[0-9a-f]{16}\.stdout", os.path.basename(spill.path))

    def test_a_missing_directory_is_told_by_name(self, tmp_path: Path) -> None:
        with pytest.raises(SpawnError, match=r"output\.spill_dir") as caught:
            spilling(tmp_path / "missing")
        assert isinstance(caught.value, FileNotFoundError)
        assert caught.value.filename == str(tmp_path / "missing")

    def test_a_call_that_never_begins_makes_no_file(self, tmp_path: Path) -> None:
        sup = agentsup.SyncSupervisor()
        with pytest.raises(agentsup.SupervisorClosed):
            sup.run(["true"], output=OutputPolicy(spill_dir=tmp_path))
        assert list(tmp_path.iterdir()) == []

    def test_a_directory_that_goes_away_in_between_leaves_nothing_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = iter([SpillDirectory.create])

        def create(directory: SpillDirectory, stream: str) -> tuple[int, str]:
            for real in made:
                return real(directory, stream)
            raise FileNotFoundError(errno.ENOENT, "gone")

        monkeypatch.setattr(SpillDirectory, "create", create)
        with pytest.raises(FileNotFoundError, match=r"output\.spill_dir"):
            agentsup.run_sync(["true"], output=OutputPolicy(spill_dir=tmp_path))


SPILL_UNDER_A_LIMIT = """
import os, resource, sys
from agentsup import OutputPolicy
from agentsup._calls.spill import Spill
spill = Spill("stdout", OutputPolicy(), sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
for _ in range(4):
    spill.write(memoryview(b"1234"))
spill.close()
print(os.stat(spill.path).st_size, spill.error)
"""
