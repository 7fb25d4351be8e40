"""What services print is on the disk as soon as it is read, within bounds, whatever happens."""

from __future__ import annotations

import gzip
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import anyio
import pytest

from agentsup import ListenSocket, OutputMatches, OutputPolicy, Service, Supervisor, shell
from agentsup._calls.call import Call
from agentsup._calls.spec import make_spec
from agentsup.config.values import LogsConfig
from agentsup.daemon.logs import writer
from agentsup.daemon.logs.record import Record, directory_of, parse, segment_name, segment_number
from agentsup.daemon.logs.store import LogStore
from agentsup.daemon.logs.writer import Stream

pytestmark = pytest.mark.anyio

Eventually = Callable[..., Awaitable[None]]


def files(logs: Path, service: str) -> list[Path]:
    """Oldest first."""
    found = (logs / directory_of(service)).glob("*")
    return sorted(path for path in found if segment_number(path.name) is not None)


def contents(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def records(logs: Path, service: str = "web") -> list[Record]:
    lines = b"".join(map(contents, files(logs, service))).split(b"\n")
    return [record for line in lines if (record := parse(line))]


def messages(logs: Path, service: str = "web", stream: str = "stdout") -> list[str]:
    return [record.message for record in records(logs, service) if record.stream == stream]


def printed(logs: Path, service: str, stream: str = "stdout") -> bytes:
    """What the stream was, as far as it is there; its last line may not have ended."""
    found = [record for record in records(logs, service) if record.stream == stream]
    ends = [b"" if record.continues or record.partial else b"\n" for record in found]
    return b"".join(record.content + end for record, end in zip(found, ends, strict=True))


def stream_of(store: LogStore, service: str = "web", name: str = "stdout") -> Stream:
    call = SimpleNamespace(followed=(0, None), pid=7)
    return store.sink_for(service, call)(name)  # type: ignore[arg-type] -- that is all it asks of it


def feed(stream: Stream, data: bytes) -> None:
    stream.feed(memoryview(data))


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[LogStore]:
    """Without compression, and without a loop."""
    store = LogStore(LogsConfig(segment_size=4096), tmp_path / "logs")
    yield store
    store.close()


# --- from services --------------------------------------------------------------------------------


async def test_both_streams_of_every_run_are_kept(tmp_path: Path, eventually: Eventually) -> None:
    script = "echo pid $$; echo '<3>bad' >&2; printf 'no end'; exec sleep 600"

    async def printed_runs(count: int) -> None:
        await eventually(lambda: messages(tmp_path).count("no end") == count)
        await eventually(lambda: len(messages(tmp_path, stream="stderr")) == count)

    async with LogStore(LogsConfig(), tmp_path) as logs, Supervisor() as sup:
        sup._make_log = logs.sink_for
        web = await sup.start(Service("web", shell(script), pre_start=[shell("echo before")]))
        first = web.pid
        await printed_runs(1)
        await web.restart()
        second = web.pid
        await printed_runs(2)
        async with sup.child("workers") as workers:
            await workers.start(Service("a", shell("echo in a child; exec sleep 600")))
            await eventually(lambda: messages(tmp_path, "workers/a"))
    run = ["before", f"pid {first}", "no end"]
    assert messages(tmp_path) == [*run, "before", f"pid {second}", "no end"]
    assert messages(tmp_path, "workers/a") == ["in a child"]
    found = records(tmp_path)
    errors = [record for record in found if record.stream == "stderr"]
    assert [(one.message, one.priority, one.pid) for one in errors] == [
        ("bad", 3, first),
        ("bad", 3, second),
    ]
    of_run = {one.pid: {two.call_id for two in found if two.pid == one.pid} for one in errors}
    assert [len(ids) for ids in of_run.values()] == [1, 1]  # both streams have the same
    assert of_run[first] != of_run[second]
    assert not any(record.partial for record in found)


def test_nothing_is_read_before_the_pid_is_known() -> None:
    spec = make_spec(["true"], {})
    told: list[tuple[bytes, int | None]] = []
    spec.make_log = lambda call: (
        lambda stream: cast(
            "Stream",
            SimpleNamespace(feed=lambda chunk: told.append((bytes(chunk), call.pid)), close=list),
        )
    )
    call = Call(spec)
    call.prepare()
    try:
        # What it prints, before we hear that it has been started.
        with open(f"/proc/self/fd/{call.readers[0].fd}", "wb") as pipe:
            pipe.write(b"early")
        while not call.send():
            pass
        while not call.finished:
            call.step(1.0)
        assert told == [(b"early", call.pid)]
        assert call.pid
    finally:
        call.close()


async def test_a_service_can_be_waited_for_by_its_output_as_well(
    tmp_path: Path, eventually: Eventually
) -> None:
    async with LogStore(LogsConfig(), tmp_path) as logs, Supervisor() as sup:
        sup._make_log = logs.sink_for
        await sup.start(
            Service(
                "web",
                shell("echo one >&2; echo ready; echo two >&2; exec sleep 600"),
                output=OutputPolicy(merge_stderr=True),
                ready=OutputMatches("ready"),
            )
        )
        assert messages(tmp_path)[:2] == ["one", "ready"]
        await eventually(lambda: len(messages(tmp_path)) == 3)
    assert messages(tmp_path) == ["one", "ready", "two"]


async def test_the_process_of_each_connection_has_the_log_of_its_service(
    tmp_path: Path, eventually: Eventually
) -> None:
    async with LogStore(LogsConfig(), tmp_path) as logs, Supervisor() as sup:
        sup._make_log = logs.sink_for
        echo = await sup.start(
            Service(
                "web", shell("echo served $$"), sockets=[ListenSocket("127.0.0.1:0")], accept=True
            )
        )
        host, _, port = echo.addresses[0].rpartition(":")
        for number in (1, 2):
            async with await anyio.connect_tcp(host, int(port)):
                await eventually(lambda: len(messages(tmp_path)) == number)  # noqa: B023 -- at once
    found = records(tmp_path)
    assert [record.message for record in found] == [f"served {record.pid}" for record in found]
    assert len({record.call_id for record in found}) == 2


PRINT = """
import hashlib, os, sys
seed, size = int(sys.argv[1]), int(sys.argv[2])
line = b"%d %d " + b"x" * (seed * 7 % 150) + (b' "\\\\ ' if seed % 2 else "é".encode()) + b"\\n"
data = b"".join(line % (seed, number) for number in range(size // 60))
for start in range(0, len(data), 60001):
    sys.stdout.buffer.write(data[start:start + 60001])
sys.stdout.flush()
with open(sys.argv[3], "w") as file:
    file.write(hashlib.sha256(data).hexdigest())
"""


async def test_of_twenty_at_full_speed_nothing_is_lost(
    tmp_path: Path, python_file: Callable[[str], str], eventually: Eventually
) -> None:
    program, logs_dir = python_file(PRINT), tmp_path / "logs"
    config = LogsConfig(segment_size=256 * 1024, max_size=None)
    names = [f"s{number}" for number in range(20)]
    async with LogStore(config, logs_dir) as logs, Supervisor() as sup:
        sup._make_log = logs.sink_for
        for number, name in enumerate(names):
            words = [sys.executable, program, str(number), "400000", str(tmp_path / name)]
            sup.start_soon(Service(name, words, restart="temporary"))
        await eventually(lambda: all((tmp_path / name).exists() for name in names))
        await eventually(lambda: not sup.tree())
    for name in names:
        digest = hashlib.sha256(printed(logs_dir, name)).hexdigest()
        assert digest == (tmp_path / name).read_text()
        assert len(files(logs_dir, name)) > 1


# --- what is written ------------------------------------------------------------------------------


def test_a_line_is_there_before_it_has_ended(plain: LogStore, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    out, err = stream_of(plain), stream_of(plain, name="stderr")
    feed(out, b"one\ntw")
    feed(err, b"err")
    assert [(one.message, one.partial) for one in records(logs)] == [
        ("one", False),
        ("tw", True),
        ("err", True),
    ]
    feed(out, b"o\n")
    assert [(one.message, one.partial) for one in records(logs)] == [
        ("one", False),
        ("two", False),
        ("err", True),
    ]
    feed(err, b"\n")  # shorter than what it takes the place of
    [path] = files(logs, "web")
    before = path.read_bytes()
    assert before.rpartition(b"\n")[2].isspace()
    out.close()
    assert messages(logs) == ["one", "two"]
    assert messages(logs, stream="stderr") == ["err"]
    plain.close()
    assert path.read_bytes() == before.rstrip(b" ")


def test_no_record_is_cut_where_a_segment_ends(plain: LogStore, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    out, err = stream_of(plain), stream_of(plain, name="stderr")
    feed(err, b"unfinished")
    lines = b"".join(b"%d %s\n" % (number, b"x" * (number % 90)) for number in range(500))
    for start in range(0, len(lines), 777):
        feed(out, lines[start : start + 777])
    assert printed(logs, "web") == lines
    found = files(logs, "web")
    assert len(found) > 10
    assert all(path.stat().st_size <= 4096 + 500 for path in found)  # and the partial ones
    assert all(path.read_bytes().endswith(b"}\n") for path in found[:-1])
    [partial] = [record for record in records(logs) if record.stream == "stderr"]  # has moved along
    assert partial.partial
    feed(err, b" no more\n")
    assert messages(logs, stream="stderr") == ["unfinished no more"]


def test_a_segment_can_be_ended_by_hand(plain: LogStore, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    out = stream_of(plain)
    feed(out, b"one\ntw")
    plain.rotate()
    first, second = files(logs, "web")
    assert b"tw" not in first.read_bytes()
    assert b'"tw","partial":true' in second.read_bytes()
    plain.rotate()  # there is nothing yet that would be worth a segment
    feed(out, b"o\n")
    assert messages(logs) == ["one", "two"]
    assert files(logs, "web") == [first, second]


def test_what_an_earlier_host_has_left_is_put_in_order(tmp_path: Path) -> None:
    web = tmp_path / "web"
    web.mkdir()
    store = LogStore(LogsConfig(), tmp_path)
    out = stream_of(store)
    feed(out, b"one\nlast wor")
    shutil.copytree(tmp_path, copy := tmp_path.with_name("copy"))  # as it is at a kill -9
    store.close()
    web = copy / "web"
    plain, twin = web / segment_name(1), web / (segment_name(1) + ".gz")
    twin.write_bytes(gzip.compress(plain.read_bytes()))  # before the other one was removed
    (web / (segment_name(1) + ".gz.new")).write_bytes(b"")
    (web / (segment_name(2) + ".new")).write_bytes(plain.read_bytes())  # before it got its name
    store = LogStore(LogsConfig(), copy)
    assert [path.name for path in files(copy, "web")] == [segment_name(1), segment_name(2)]
    feed(stream_of(store), b"new\n")
    store.close()
    assert messages(copy) == ["one", "last wor", "one", "last wor", "new"]
    assert files(copy, "web")[-1].name == segment_name(3)


def test_a_daemon_has_its_say(plain: LogStore, tmp_path: Path) -> None:
    plain.daemon_message(4, "one\ntwo", "web")
    plain.daemon_message(6, "of itself")
    logs = tmp_path / "logs"
    assert [(one.message, one.priority, one.stream) for one in records(logs)] == [
        ("one", 4, "daemon"),
        ("two", 4, "daemon"),
    ]
    assert messages(logs, "@daemon", "daemon") == ["of itself"]


def test_too_many_lines_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(time=time.time, monotonic=lambda: now)
    monkeypatch.setattr(writer, "time", clock)
    now = 1.0
    store = LogStore(LogsConfig(rate_limit=(3, 0.2)), tmp_path)
    out = stream_of(store)
    feed(out, b"1\n2\n3\n4\n5\n")
    feed(out, b"6\n7")
    assert messages(tmp_path) == ["1", "2", "3"]
    now = 1.25
    feed(out, b"\n8\n")
    assert messages(tmp_path) == ["1", "2", "3", "7", "8"]
    [notice] = [record for record in records(tmp_path) if record.stream == "daemon"]
    assert (notice.dropped, notice.priority) == (3, 4)
    feed(out, b"9\n10\n11\n")
    store.close()
    assert [record.dropped for record in records(tmp_path)][-2:] == [0, 2]


# --- its bounds -----------------------------------------------------------------------------------


def test_the_oldest_segments_go(tmp_path: Path) -> None:
    config = LogsConfig(segment_size=4096, max_size=20_000, total_size=50_000, compress=False)
    stray = tmp_path / "stray"
    stray.write_text("no log")
    store = LogStore(config, tmp_path)
    streams = [stream_of(store, name) for name in "abcde"]
    for number in range(600):
        for stream in streams if number > 300 else streams[:2]:
            feed(stream, b"%d\n" % number)
        sizes = [sum(path.stat().st_size for path in files(tmp_path, name)) for name in "abcde"]
        assert max(sizes) <= 20_000
        assert sum(sizes) <= 50_000 + 200  # a record, after which it is looked at
    store.close()
    for name in "abcde":
        found = messages(tmp_path, name)
        assert found == [str(number) for number in range(600 - len(found), 600)]
    assert stray.exists()


def test_what_is_too_old_goes_at_the_start(tmp_path: Path) -> None:
    store = LogStore(LogsConfig(), tmp_path)
    feed(stream_of(store, "old"), b"line\n")
    feed(stream_of(store, "new"), b"line\n")
    store.close()
    [path] = files(tmp_path, "old")
    os.utime(path, (0, 0))
    LogStore(LogsConfig(), tmp_path).close()
    assert not (tmp_path / "old").exists()
    assert messages(tmp_path, "new") == ["line"]


def test_of_what_is_written_nothing_goes(tmp_path: Path) -> None:
    store = LogStore(LogsConfig(max_size=0, total_size=0, max_age=0.0), tmp_path)
    feed(stream_of(store), b"line\n")
    assert store.vacuum() == 0
    assert messages(tmp_path) == ["line"]
    store.close()
    size = files(tmp_path, "web")[0].stat().st_size
    assert store.vacuum() == size


async def test_segments_that_are_not_written_are_compressed(
    tmp_path: Path, eventually: Eventually
) -> None:
    config = LogsConfig(segment_size=20_000)
    services = {"not": LogsConfig(segment_size=20_000, compress=False)}
    lines = b"".join(b"line %d\n" % number for number in range(500))
    async with LogStore(config, tmp_path, services) as logs:
        for name in ("web", "not"):
            feed(stream_of(logs, name), lines)
        before = files(tmp_path, "not")
        times = [round(path.stat().st_mtime, 2) for path in files(tmp_path, "web")]
        await eventually(
            lambda: all(path.suffix == ".gz" for path in files(tmp_path, "web")[:-1]), 120
        )
        found = files(tmp_path, "web")
        assert found[-1].suffix == ".jsonl"
        assert len(found) == len(before) == len(times)
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in found)
        assert [round(path.stat().st_mtime, 2) for path in found] == times
        assert printed(tmp_path, "web") == lines
        assert files(tmp_path, "not") == before


async def test_a_compression_that_fails_leaves_the_segment(
    tmp_path: Path, eventually: Eventually
) -> None:
    async with LogStore(LogsConfig(segment_size=4096), tmp_path) as logs:
        (tmp_path / "web" / (segment_name(1) + ".gz.new")).mkdir(parents=True)
        feed(stream_of(logs), b"line\n" * 100)
        await eventually(lambda: (tmp_path / "%40daemon").exists(), 120)
        assert printed(tmp_path, "web") == b"line\n" * 100
    message = messages(tmp_path, "@daemon", "daemon")[0]
    assert message.startswith(f"not compressed: {tmp_path}/web/{segment_name(1)}: ")
    (tmp_path / "web" / (segment_name(1) + ".gz.new")).rmdir()


async def test_what_the_block_raises_comes_out_of_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its own"):
        async with LogStore(LogsConfig(), tmp_path):
            raise ValueError("its own")
    with anyio.CancelScope() as scope:
        async with LogStore(LogsConfig(segment_size=4096), tmp_path) as logs:
            feed(stream_of(logs), b"line\n" * 1000)  # which it begins to compress
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert printed(tmp_path, "web") == b"line\n" * 1000
    assert all(segment_number(path.name) for path in (tmp_path / "web").iterdir())


def test_what_is_configured_anew_holds_at_once(tmp_path: Path) -> None:
    store = LogStore(LogsConfig(), tmp_path)
    out = stream_of(store)
    feed(out, b"one\n")
    store.configure(LogsConfig(), {"web": LogsConfig(keep=False)})
    feed(out, b"two\n")
    assert messages(tmp_path) == ["one"]
    store.configure(LogsConfig(), {})
    feed(out, b"three\n")
    store.close()
    assert messages(tmp_path) == ["one", "three"]


# --- when there is no room ------------------------------------------------------------------------


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """As a disk that is full in the middle of a write."""
    store = LogStore(LogsConfig(), tmp_path)
    out = stream_of(store)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for number in range(20):
            feed(out, b"line %d\n" % number + b"p" * (number % 3))
            feed(out, b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = messages(tmp_path)
    assert 0 < len(kept) < 20
    feed(out, b"again\n")
    store.close()
    [notice] = [record for record in records(tmp_path) if record.stream == "daemon"]
    assert notice.dropped == 40 - len(kept)
    assert "File too large" in notice.message
    assert messages(tmp_path) == [*kept, "again"]


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    store = LogStore(LogsConfig(segment_size=4096), tmp_path)
    old, new = stream_of(store, "old"), stream_of(store, "new")
    feed(old, b"one\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        feed(new, b"lost\nlost\n")
        feed(old, b"x" * 5000 + b"\nkept\n")  # there is no new segment, but the old one
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    feed(new, b"two\n")
    feed(old, b"three\n")
    store.close()
    assert [(one.message, one.dropped) for one in records(tmp_path, "new")][1:] == [("two", 0)]
    assert records(tmp_path, "new")[0].dropped == 2
    assert messages(tmp_path, "old") == ["one", "x" * 5000, "kept", "three"]
    assert len(files(tmp_path, "old")) == 2


FULL = """
import os, sys
from types import SimpleNamespace
from agentsup.config.values import LogsConfig
from agentsup.daemon.logs.store import LogStore

logs = LogStore(LogsConfig(), "logs")
out = logs.sink_for("web", SimpleNamespace(followed=(0, None), pid=7))("stdout")
with open("ballast", "wb") as file:
    file.write(bytes(100_000))
for number in range(5000):
    out.feed(memoryview(b"line %d\\n" % number))
os.unlink("ballast")
out.feed(memoryview(b"again\\n"))
logs.close()
[name] = os.listdir("logs/web")
with open(f"logs/web/{name}", "rb") as file:
    sys.stdout.buffer.write(file.read())
"""


def test_a_full_disk(tmp_path: Path, python_file: Callable[[str], str]) -> None:
    script = 'mount -t tmpfs -o size=200k none "$1" && cd "$1" && exec "$2" "$3"'
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["sh", "-c", script, "sh", str(disk), sys.executable, python_file(FULL)]
    unshare = ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [*unshare, *words],
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert run.returncode == 0, run.stderr.decode()
    found = [record for line in run.stdout.splitlines() if (record := parse(line))]
    *kept, notice, again = found
    assert [record.message for record in kept] == [f"line {number}" for number in range(len(kept))]
    assert 0 < len(kept) < 5000
    assert notice.dropped == 5000 - len(kept)
    assert "No space left on device" in notice.message
    assert again.message == "again"


# --- kill -9 --------------------------------------------------------------------------------------

WRITER = """
import os, sys
from types import SimpleNamespace
from agentsup.config.values import LogsConfig
from agentsup.daemon.logs.store import LogStore

logs = LogStore(LogsConfig(segment_size=20_000, max_size=None), sys.argv[1])
out = logs.sink_for("web", SimpleNamespace(followed=(0, None), pid=7))("stdout")
total = 0
while chunk := os.read(0, 1000 + total % 4001):
    out.feed(memoryview(chunk))
    total += len(chunk)
    os.pwrite(1, b"%20d" % total, 0)
"""


@pytest.mark.parametrize("after", [0, 30_000, 1_000_000])
def test_what_was_read_is_there_after_kill_9(
    tmp_path: Path, python_file: Callable[[str], str], until: Callable[..., None], after: int
) -> None:
    logs, acknowledged = tmp_path / "logs", tmp_path / "acknowledged"
    data = b"".join(b"line %d %s\n" % (number, b"y" * (number % 200)) for number in range(60_000))
    (tmp_path / "data").write_bytes(data)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with open(tmp_path / "data", "rb") as source, open(acknowledged, "wb") as target:
        words = [sys.executable, python_file(WRITER), str(logs)]
        with subprocess.Popen(words, stdin=source, stdout=target, env=env) as writer:
            until(lambda: int(acknowledged.read_bytes() or b"0") > after)
            writer.kill()
    assert writer.returncode == -signal.SIGKILL
    read = int(acknowledged.read_bytes())
    LogStore(LogsConfig(segment_size=20_000, max_size=None), logs).close()
    found = printed(logs, "web")
    assert len(data) > len(found) >= read
    assert data.startswith(found)
