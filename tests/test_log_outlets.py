"""Records that go to our own stdout, to syslog and to journald, none of which is waited for."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentsup.config.values import LogsConfig
from agentsup.daemon.logs.outlets import Journald, Stdout, Syslog
from agentsup.daemon.logs.record import Record, dump, parse
from agentsup.daemon.logs.store import LogStore
from agentsup.daemon.logs.writer import Stream

pytestmark = pytest.mark.anyio

Eventually = Callable[..., Awaitable[None]]


def stream_of(store: LogStore, service: str = "web") -> Stream:
    call = SimpleNamespace(followed=(0, None), pid=7)
    return store.sink_for(service, call)("stdout")  # type: ignore[arg-type] -- that is all it asks


def feed(stream: Stream, data: bytes) -> None:
    stream.feed(memoryview(data))


def parsed(data: bytes) -> list[Record]:
    found = [parse(line) for line in data.splitlines()]
    assert None not in found
    return [record for record in found if record]


@pytest.fixture
def place() -> Iterator[str]:
    """A path for a socket, which has to be short."""
    with tempfile.TemporaryDirectory(prefix="log") as directory:
        yield f"{directory}/socket"


@pytest.fixture
def receiver(place: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(place)
        receiver.setblocking(False)
        yield receiver


# --- stdout ---------------------------------------------------------------------------------------


async def test_a_reader_that_does_not_read_stops_nobody(
    tmp_path: Path, eventually: Eventually
) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    config, got = LogsConfig(outlets=("stdout",)), bytearray()
    outlets = {"stdout": partial(Stdout, write_end)}
    async with LogStore(config, tmp_path, outlets=outlets) as logs:  # type: ignore[arg-type] -- some
        out = stream_of(logs)
        for number in range(200):
            feed(out, b"%d %s\n" % (number, b"x" * 20_000))
        assert os.get_blocking(write_end)  # others have it as well

        def read() -> bool:
            try:
                got.extend(os.read(read_end, 1024**2))
            except BlockingIOError:
                pass
            return b'"dropped"' in got

        await eventually(read)
        feed(out, b"again\n")
        await eventually(lambda: read() and b"again" in got)
    os.close(write_end)
    os.close(read_end)
    *kept, notice, again = parsed(got)
    assert [one.message.split()[0] for one in kept] == [str(number) for number in range(len(kept))]
    assert 50 < len(kept) < 200
    assert (notice.service, notice.dropped) == ("@daemon", 200 - len(kept))
    assert again.message == "again"
    assert len(parsed((tmp_path / "web" / f"{1:020}.jsonl").read_bytes())) == 201


async def test_what_waits_is_written_at_the_end(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    outlets = {"stdout": partial(Stdout, write_end)}
    config = LogsConfig(outlets=("stdout",), keep=False)
    async with LogStore(config, tmp_path, outlets=outlets) as logs:  # type: ignore[arg-type] -- some
        feed(stream_of(logs), b"x" * 60_000 + b"\n")
        feed(stream_of(logs), b"y" * 60_000 + b"\nunfinished")
        assert len(os.read(read_end, 65_536)) > 60_000  # now there is room
    os.close(write_end)
    rest = b""
    while chunk := os.read(read_end, 1024**2):
        rest += chunk
    os.close(read_end)
    assert rest.endswith(b'yyy"}\n')
    assert not (tmp_path / "web").exists()


def test_nobody_reads_any_more(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    outlets = {"stdout": partial(Stdout, write_end)}
    logs = LogStore(LogsConfig(outlets=("stdout",)), tmp_path, outlets=outlets)  # type: ignore[arg-type] -- some
    os.close(read_end)
    feed(stream_of(logs), b"one\n")
    feed(stream_of(logs), b"two\n")
    logs.close()
    os.close(write_end)


@pytest.mark.parametrize("kind", ["file", "socket"])
def test_stdout_may_be_something_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"before\n")
    ours, theirs = socket.socketpair()
    with ours, theirs, open(path, "ab") as file:
        fd = file.fileno() if kind == "file" else ours.fileno()
        outlet = Stdout(fd)
        outlet.send(b"one\n")
        os.write(fd, b"two\n")
        outlet.send(b"three\n")
        outlet.close()
        found = path.read_bytes() if kind == "file" else b"before\n" + theirs.recv(100)
    assert found == b"before\none\ntwo\nthree\n"


# --- syslog ---------------------------------------------------------------------------------------


def test_syslog_gets_a_datagram_for_each_line(
    tmp_path: Path, place: str, receiver: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlets = {"syslog": partial(Syslog, place)}
    logs = LogStore(LogsConfig(outlets=("syslog",)), tmp_path, outlets=outlets)  # type: ignore[arg-type] -- some
    feed(stream_of(logs), b"<3>bad \xff\n\nno end")
    logs.close()
    bad, empty = receiver.recv(9000), receiver.recv(9000)
    assert bad.startswith(b"<27>")  # daemon.err
    assert bad.endswith(b" web[7]: bad \xff")
    assert empty.startswith(b"<30>")
    assert empty.endswith(b" web[7]: ")
    with pytest.raises(BlockingIOError):
        receiver.recv(9000)  # a line that has not ended


def test_a_long_line_is_several_datagrams(place: str, receiver: socket.socket) -> None:
    outlet = Syslog(place)
    line = bytes(range(32, 127)) * 200
    record = Record(86_400.0 * 3, "web", 7, "stdout", 6, "id", line.decode())
    outlet.send(dump(record))
    outlet.close()
    parts = [receiver.recv(9000) for _ in range(3)]
    assert b"".join(part.partition(b": ")[2] for part in parts) == line
    assert all(part.startswith(b"<30>Jan  ") for part in parts)
    assert all(len(part) <= 8192 for part in parts)


def test_what_syslog_does_not_take_is_said_when_it_does(tmp_path: Path, place: str) -> None:
    outlets = {"syslog": partial(Syslog, place)}
    logs = LogStore(LogsConfig(outlets=("syslog",)), tmp_path, outlets=outlets)  # type: ignore[arg-type] -- some
    out = stream_of(logs)
    feed(out, b"nobody is there\n")
    for _ in range(2):  # it is replaced by another one
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(place)
            receiver.setblocking(False)
            feed(out, b"line\n" * 3000)
            feed(out, b"line\n")
            got: list[bytes] = []
            for _ in range(2):
                try:
                    while data := receiver.recv(9000):
                        got.append(data)
                except BlockingIOError:
                    feed(out, b"last\n")
            assert got[-1].endswith(b"last")
            said = [one.partition(b": ")[2].split()[0] for one in got if b"dropped" in one]
            assert sum(map(int, said)) + len(got) - len(said) >= 3000
            assert said
        os.unlink(place)
        feed(out, b"nobody is there\n")
    logs.close()


# --- journald -------------------------------------------------------------------------------------


def fields(data: bytes) -> dict[bytes, bytes]:
    found = dict[bytes, bytes]()
    for line in data.splitlines():
        name, _, value = line.partition(b"=")
        found[name] = value
    return found


def test_journald_gets_its_fields(tmp_path: Path, place: str, receiver: socket.socket) -> None:
    outlets = {"journald": partial(Journald, place)}
    logs = LogStore(LogsConfig(outlets=("journald",)), tmp_path, outlets=outlets)  # type: ignore[arg-type] -- some
    feed(stream_of(logs, "workers/a"), b"<4>a = b \xff\n")
    logs.daemon_message(2, "restarts too often", "workers/a")
    logs.close()
    found = fields(receiver.recv(9000))
    assert len(found.pop(b"AGENTSUP_CALL_ID")) == 12
    assert found == {
        b"MESSAGE": b"a = b \xff",
        b"PRIORITY": b"4",
        b"SYSLOG_IDENTIFIER": b"workers/a",
        b"SYSLOG_PID": b"7",
        b"AGENTSUP_SERVICE": b"workers/a",
        b"AGENTSUP_STREAM": b"stdout",
    }
    found = fields(receiver.recv(9000))
    assert (found[b"MESSAGE"], found[b"PRIORITY"]) == (b"restarts too often", b"2")
    assert found[b"SYSLOG_PID"] == str(os.getpid()).encode()


def test_what_is_too_large_for_a_datagram_is_a_file(
    tmp_path: Path, place: str, receiver: socket.socket
) -> None:
    outlets = {"journald": partial(Journald, place)}
    config = LogsConfig(outlets=("journald",), line_max=4 * 1024**2)
    logs = LogStore(config, tmp_path, outlets=outlets)  # type: ignore[arg-type] -- some
    line = b"x" * 1024**2
    feed(stream_of(logs), line + b"\n")
    logs.close()
    size = array.array("i").itemsize
    data, ancillary, _, _ = receiver.recvmsg(9000, socket.CMSG_SPACE(size))
    assert data == b""
    [(_, _, sent)] = ancillary
    [fd] = array.array("i", sent[:size])
    with open(fd, "rb"):
        assert fields(os.pread(fd, 2 * 1024**2, 0))[b"MESSAGE"] == line
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # else it is refused
    assert sealed == (
        fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    )
