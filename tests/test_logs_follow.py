"""A follow shows every line once, whatever is made of the files meanwhile."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import cast

import anyio
import pytest

from agentsup._linux.file_watch import DirectoryWatch
from agentsup.daemon.logs import follow as following
from agentsup.daemon.logs.follow import Follow, follow, last
from agentsup.daemon.logs.query import Query, parse_grep
from agentsup.daemon.logs.reading import Entry
from agentsup.daemon.logs.record import Record, directory_of, dump, parse, segment_name
from agentsup.daemon.logs.segment_files import PlainFile

# What the daemon does: lines come in pieces, segments are tiny, and old ones are compressed.
WRITER = """
import gzip, os, random, sys
from types import SimpleNamespace
from agentsup.config import LogsConfig
from agentsup.daemon.logs.reading import Entry
from agentsup.daemon.logs.record import directory_of
from agentsup.daemon.logs.segments import segments
from agentsup.daemon.logs.store import LogStore

logs, services, count, keep = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3]), sys.argv[4]
chance = random.Random(1)

def tidy(directory):
    for segment in segments(directory)[1:]:
        if not segment.compressed:
            base = segment.path.removesuffix(".jsonl")
            with open(segment.path, "rb") as source, open(base + ".jsonl.gz.new", "wb") as target:
                target.write(gzip.compress(source.read(), 1))
            os.rename(base + ".jsonl.gz.new", base + ".jsonl.gz")
            os.unlink(segment.path)

store = LogStore(LogsConfig(segment_size=4000, line_max=100), logs)
call = SimpleNamespace(followed=[7], pid=7)
streams = []
for service in services:
    sink = store.sink_for(service, call)
    for name in ("stdout", "stderr"):
        lines = (f"{name} {n} " + "x" * chance.randrange(120) for n in range(count))
        text = "".join(line + "\\n" for line in lines) + "end"
        streams.append((sink(name), memoryview(text.encode())))
while streams:
    index = chance.randrange(len(streams))
    stream, rest = streams[index]
    size = chance.randrange(1, 400)
    stream.feed(rest[:size])
    if len(rest) > size:
        streams[index] = stream, rest[size:]
    else:
        if keep != "open":
            stream.close()
        del streams[index]
    if not chance.randrange(10):
        tidy(os.path.join(logs, directory_of(chance.choice(services))))
print("written", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def writer(
    logs: Path, services: str, count: int, keep: str = "closed"
) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-c", WRITER, str(logs), services, str(count), keep]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def record(number: int, *, partial: bool = False, service: str = "web") -> bytes:
    return dump(Record(1000.0 + number, service, 1, "stdout", 6, "c", f"{number}", partial=partial))


class Log:
    """Of one service, written by hand."""

    def __init__(self, logs: Path, service: str = "web") -> None:
        self.directory = logs / directory_of(service)
        self._service = service

    def write(self, segment: int, *numbers: int, partial: int | None = None, at: int = -1) -> None:
        """Append to a segment, or write from a place in it on."""
        self.directory.mkdir(parents=True, exist_ok=True)
        content = b"".join(record(number, service=self._service) for number in numbers)
        if partial is not None:
            content += record(partial, partial=True, service=self._service)
        fd = os.open(self.directory / segment_name(segment), os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(fd, content, os.fstat(fd).st_size if at < 0 else at)
        self.held = getattr(self, "held", [])
        self.held.append(fd)  # as the daemon has it

    def close(self) -> None:
        while self.held:
            os.close(self.held.pop())


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "logs")
    log.write(1)
    yield log
    log.close()


def new(follow: Follow) -> list[int]:
    """Numbers of what has been added, as far as the kernel has told by now."""
    found: list[int] = []
    while select.select([follow.fd], [], [], 0)[0]:
        found += (int(one.line.split(b'"message":"')[1].split(b'"')[0]) for one in follow.new())
    return found


@contextlib.contextmanager
def followed(logs: Path, query: Query = Query(), **options: bool) -> Iterator[Follow]:  # noqa: B008
    with contextlib.closing(Follow(str(logs), query, **options)) as follow:
        yield follow


def shown(entries: Iterator[Entry]) -> list[str]:
    return [record.message for entry in entries if (record := parse(entry.line))]


@pytest.mark.anyio
async def test_every_line_once(anyio_backend: object, tmp_path: Path) -> None:
    """Through rotation and compression, with services and directories that come into being."""
    logs = tmp_path / "state" / "logs"
    services, count = ["web", "workers/a"], 1260
    found: dict[tuple[str, str], list[str]] = {}
    ended = 0
    pieces: dict[tuple[str, str], str] = {}
    stream = cast("AsyncGenerator[bytes]", follow(str(logs), Query(lines=10)))
    async with contextlib.aclosing(stream):
        with writer(logs, ",".join(services), count), anyio.fail_after(60):
            async for chunk in stream:
                for raw in chunk.splitlines():
                    one = parse(raw)
                    assert one is not None
                    assert not one.partial
                    key = one.service, one.stream
                    pieces[key] = pieces.get(key, "") + one.message
                    if not one.continues:
                        line = pieces.pop(key).rstrip("x ")
                        found.setdefault(key, []).append(line)
                        ended += line == "end"
                if ended == 4:
                    break
    assert found == {
        (service, stream): [*(f"{stream} {n}" for n in range(count)), "end"]
        for service in services
        for stream in ("stdout", "stderr")
    }


def test_what_was_there_and_what_is_added_meet(tmp_path: Path) -> None:
    """Wherever in the life of a log a follow begins."""
    logs, count = tmp_path / "logs", 1000
    found: list[list[str]] = []
    with contextlib.ExitStack() as scopes:
        scopes.enter_context(writer(logs, "web", count))
        first = scopes.enter_context(followed(logs))
        follows = [first]
        found.append(shown(first.history()))
        while found[0].count("end") < 2:
            assert select.select([first.fd], [], [], 60)[0]
            found[0] += shown(first.new())
            if len(found[0]) > len(follows) * count // 10:
                follows.append(scopes.enter_context(followed(logs)))
                found.append(shown(follows[-1].history()))
        for follow, lines in zip(follows, found, strict=True):
            while lines.count("end") < 2:
                assert select.select([follow.fd], [], [], 60)[0]
                lines += shown(follow.new())
            for stream in ("stdout", "stderr"):
                numbers = [int(line.split()[1]) for line in lines if line.startswith(stream)]
                assert numbers == list(range(count))


def test_what_is_partial_waits_until_it_is_complete(log: Log) -> None:
    log.write(1, 1, partial=2)
    with followed(log.directory.parent) as follow:
        assert shown(follow.history()) == ["1"]
        end = len(record(1))
        log.write(1, partial=22, at=end)
        assert new(follow) == []
        log.write(1, 222, partial=3, at=end)
        assert new(follow) == [222]


def test_the_last_words_of_a_writer_that_has_ended(log: Log) -> None:
    log.write(1, 1, partial=2)
    with followed(log.directory.parent, running=False) as follow:
        assert shown(follow.history()) == ["1", "2"]
    with followed(log.directory.parent) as follow:
        assert shown(follow.history()) == ["1"]
        log.close()
        assert new(follow) == [2]
        log.write(2, 3)
        assert new(follow) == [3]


@pytest.mark.parametrize("killed", [False, True])
def test_last_words_of_one_that_was_killed(tmp_path: Path, killed: bool) -> None:
    with writer(tmp_path, "web", 3, "open") as process, followed(tmp_path) as follow:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()
        assert "end" not in shown(follow.new())
        if killed:
            process.send_signal(signal.SIGKILL)
        else:
            process.stdin.close()
        process.wait()
        assert shown(follow.new()) == ["end", "end"]


def test_what_is_partial_moves_to_the_next_segment(log: Log) -> None:
    log.write(1, 1, partial=2)
    with followed(log.directory.parent) as follow:
        log.write(2)
        assert new(follow) == []  # it may be about to move
        log.write(2, partial=2)
        assert new(follow) == []
        os.truncate(log.directory / segment_name(1), len(record(1)))
        log.write(2, 22, partial=3, at=0)
        assert new(follow) == [22]
        # The next writer has found it there, and leaves it.
        log.write(3, 4)
        assert new(follow) == [3, 4]


def test_what_is_read_half_written_is_read_again(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The read was ahead of the write: the beginning is old, and the end is new."""
    log.write(1, partial=1)
    with followed(log.directory.parent) as follow:
        log.write(1, 11, 2, 3, at=0)
        old = record(1, partial=True)
        half = [old + (record(11) + record(2) + record(3))[len(old) :]]
        read = PlainFile.read
        monkeypatch.setattr(PlainFile, "read", lambda *where: half.pop() if half else read(*where))
        assert new(follow) == [11, 2, 3]
        assert not half


def test_removed_before_it_was_shown(log: Log) -> None:
    log.write(1, 1)
    with followed(log.directory.parent) as follow:
        log.write(2, 2)
        log.write(3, 3)
        log.write(4, 4)
        for segment in (1, 2, 3):
            (log.directory / segment_name(segment)).unlink()
        assert shown(follow.new()) == ["2 segments were removed before they could be shown", "4"]


def test_a_log_that_is_removed_and_begins_anew(log: Log) -> None:
    log.write(5, 1)
    with followed(log.directory.parent) as follow:
        log.write(5, 2)
        shutil.rmtree(log.directory)
        assert new(follow) == [2]
        log.write(1, 3)
        assert new(follow) == [3]
        shutil.rmtree(log.directory.parent)
        assert new(follow) == []
        log.write(1, 4)
        assert new(follow) == [4]


def test_only_what_is_asked_for(log: Log, tmp_path: Path) -> None:
    other = Log(tmp_path / "logs", "other")
    query = Query(["w*"], grep=parse_grep("7"))
    with followed(log.directory.parent, query) as follow:
        other.write(1, 7)
        assert not select.select([follow.fd], [], [], 0)[0] or new(follow) == []
        other.write(1, 77)
        assert not select.select([follow.fd], [], [], 0)[0]  # it is not watched at all
        log.write(1, 6, 7, 8)
        assert new(follow) == [7]
    other.close()


def test_more_has_happened_than_the_kernel_keeps(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    with followed(log.directory.parent) as follow:
        log.write(1, 1)
        monkeypatch.setattr(DirectoryWatch, "changes", lambda self: None)
        assert shown(follow.new()) == ["1"]


def test_nothing_is_left_open(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.write(1, 1)
    log.close()
    before = sorted(os.listdir("/proc/self/fd"))
    with followed(tmp_path) as follow:
        list(follow.history())
    with pytest.raises(OSError, match="File name too long"):
        Follow("/" + "x" * 5000, Query())
    assert sorted(os.listdir("/proc/self/fd")) == before


async def test_of_very_much_the_newest_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: object
) -> None:
    path = tmp_path / directory_of("web") / segment_name(1)
    path.parent.mkdir()
    path.write_bytes(
        b"".join(dump(Record(n, "web", 1, "stdout", 6, "c", str(n))) for n in range(2000))
    )
    monkeypatch.setattr(following, "MOST_BYTES", 100_000)
    chunks = [chunk async for chunk in last(str(tmp_path), Query(lines=2000))]
    found = [parse(line) for line in b"".join(chunks).splitlines()]
    assert 500 < len(found) < 1500
    assert [one and one.message for one in found] == [*map(str, range(2000 - len(found), 2000))]
