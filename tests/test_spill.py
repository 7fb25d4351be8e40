"""Files with all of a call's output never fill the disk by themselves."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import agentsup
from agentsup import OutputPolicy
from agentsup._calls.spill import Spill
from agentsup._values.retention import Retention

OURS = "agentsup-{:016x}.stdout"


def spill(directory: Path, content: bytes = b"", **policy: Any) -> Path:
    """One that is finished."""
    file = Spill("stdout", OutputPolicy(**policy), directory)
    file.write(memoryview(content))
    file.close()
    return Path(file.path)


def old(directory: Path, number: int, size: int = 0) -> Path:
    """As a process left it that is gone; the lower the number, the older."""
    path = directory / OURS.format(number)
    path.write_bytes(b"x" * size)
    os.utime(path, (number, number))
    return path


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories that were listed, each time."""
    found: list[str] = []
    scandir = os.scandir

    def count(path: str) -> object:
        found.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", count)
    return found


# --- one file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "cut"), [(99, False), (100, False), (101, True), (70_000, True)])
def test_a_file_ends_at_its_limit_and_the_call_goes_on(
    tmp_path: Path, size: int, cut: bool
) -> None:
    policy = OutputPolicy(spill_dir=tmp_path, spill_limit=100, head=0, tail=1)
    script = f"for i in 1 2 3; do printf x; done; head -c {size - 4} /dev/zero; printf !"
    result = agentsup.run_sync(agentsup.shell(script), output=policy)
    output = result.check().stdout
    assert (output.total_bytes, output.tail) == (size, b"!")
    assert output.spill_path is not None
    content = Path(output.spill_path).read_bytes()
    assert content == (b"xxx" + bytes(size - 4) + b"!")[:100]
    expected = "cut after 100 bytes: OutputPolicy.spill_limit" if cut else None
    assert output.spill_error == expected


def test_a_file_without_a_limit(tmp_path: Path) -> None:
    assert spill(tmp_path, bytes(10**6), spill_limit=None).stat().st_size == 10**6


# --- all files --------------------------------------------------------------------------------


def test_the_oldest_go_for_a_new_one(tmp_path: Path) -> None:
    files = [old(tmp_path, number) for number in range(5)]
    new = spill(tmp_path, spill_retention=Retention(max_files=3))
    assert set(tmp_path.iterdir()) == {new, *files[3:]}


def test_those_of_earlier_calls_go_and_the_result_names_those_that_are_there(
    tmp_path: Path,
) -> None:
    policy = OutputPolicy(spill_dir=tmp_path, spill_retention=Retention(max_files=4))
    paths: list[Path] = []
    with agentsup.SyncSupervisor() as sup:
        for number in range(6):
            result = sup.run(["echo", str(number)], output=policy)
            for output in (result.stdout, result.stderr):
                paths.append(Path(str(output.spill_path)))
                os.utime(paths[-1], (number, number))  # calls are quicker than that clock's ticks
    assert set(tmp_path.iterdir()) == set(paths[-4:])
    assert paths[-2].read_bytes() == b"5\n"


def test_bounds_of_size_and_age(tmp_path: Path) -> None:
    files = [old(tmp_path, number, 100) for number in range(5)]
    assert spill(tmp_path, spill_retention=Retention(max_bytes=333)).exists()
    assert [file.exists() for file in files] == [False, False, True, True, True]
    os.utime(files[4])
    spill(tmp_path, spill_retention=Retention(max_age=3600))
    assert [file.exists() for file in files] == [False, False, False, False, True]


def test_nothing_else_is_touched(tmp_path: Path) -> None:
    names = [
        "agentsup-services.stdout",
        "agentsup-0123456789abcdef.stdout.gz",
        "agentsup-0123456789ABCDEF.stdout",
        "agentsup-0123456789abcdef0.stderr",
        "my-agentsup-0123456789abcdef.stdout",
        "agentsup-0123456789abcdef.stdin",
        "agentsup-0123456789abcdef.stdout\n",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"keep")
        os.utime(tmp_path / name, (0, 0))
    target = tmp_path / names[0]
    (tmp_path / OURS.format(1)).symlink_to(target)
    os.mkfifo(tmp_path / OURS.format(2))
    (tmp_path / OURS.format(3)).mkdir()
    before = set(tmp_path.iterdir())
    ours = old(tmp_path, 4)
    new = spill(tmp_path, spill_retention=Retention(max_files=1, max_age=0, max_bytes=0))
    assert not ours.exists()
    assert set(tmp_path.iterdir()) == before | {new}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file of somebody else")
def test_those_of_other_users_are_not_touched(tmp_path: Path) -> None:
    theirs = old(tmp_path, 1, 100)
    os.chown(theirs, 65534, 65534)
    spill(tmp_path, spill_retention=Retention(max_files=1, max_bytes=10))
    assert theirs.exists()


def test_no_bound(tmp_path: Path, listings: list[str]) -> None:
    files = [old(tmp_path, number) for number in range(5)]
    spill(tmp_path, b"x", spill_retention=None)
    assert all(file.exists() for file in files)
    assert not listings


def test_one_that_is_written_stays_and_a_newer_one_goes_in_its_place(tmp_path: Path) -> None:
    bounds = Retention(max_bytes=300)
    writing = Spill("stderr", OutputPolicy(spill_retention=bounds), tmp_path)
    writing.write(memoryview(b"x" * 250))
    os.utime(writing.path, (0, 0))
    ended = old(tmp_path, 1, 100)
    new = spill(tmp_path, spill_retention=bounds)
    assert set(tmp_path.iterdir()) == {Path(writing.path), new}
    assert not ended.exists()
    writing.close()
    other = spill(tmp_path, spill_retention=Retention(max_files=2))
    assert set(tmp_path.iterdir()) == {new, other}


WRITER = """
import sys, agentsup
policy = agentsup.OutputPolicy(spill_dir=sys.argv[1])
agentsup.run_sync(agentsup.shell("echo ready; exec sleep 99"), output=policy)
"""


def test_one_that_another_process_writes_goes_only_when_that_is_dead(
    tmp_path: Path, until: Callable[..., None]
) -> None:
    host = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path])
    try:
        until(lambda: [file for file in tmp_path.glob("*.stdout") if file.stat().st_size])
        theirs = set(tmp_path.iterdir())
        spill(tmp_path, spill_retention=Retention(max_files=1))
        assert theirs < set(tmp_path.iterdir())
    finally:
        host.kill()
        host.wait()
    for file in tmp_path.iterdir():
        os.utime(file, (0, 0))  # or a new one may be as old: their clock ticks 250 times a second
    new = spill(tmp_path, spill_retention=Retention(max_files=1, max_bytes=0))
    assert set(tmp_path.iterdir()) == {new}


def test_one_that_was_dropped_before_it_was_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else looks in between, twice: once he has just the lock, once it has gone."""
    flock, taken = fcntl.flock, iter(["locked", "gone"])

    def look(fd: int, how: int) -> None:
        for what in taken:
            if what == "locked":
                raise BlockingIOError
            (tmp_path / OURS.format(1)).unlink()
            break
        flock(fd, how)

    def urandom(size: int) -> bytes:
        return next(names).to_bytes(size)

    names = itertools.count()
    monkeypatch.setattr(os, "urandom", urandom)
    monkeypatch.setattr(fcntl, "flock", look)
    new = spill(tmp_path, b"all")
    assert new == tmp_path / OURS.format(2)
    assert new.read_bytes() == b"all"


def test_where_there_are_no_locks_nothing_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    ended = old(tmp_path, 1)
    new = spill(tmp_path, b"all", spill_retention=Retention(max_files=1))
    assert set(tmp_path.iterdir()) == {ended, new}


# --- what it costs ----------------------------------------------------------------------------


def test_a_listing_is_for_a_tenth_of_what_is_allowed(tmp_path: Path, listings: list[str]) -> None:
    most = 0
    for _ in range(1000):
        spill(tmp_path, b"x" * 100, spill_retention=Retention(max_files=200, max_bytes=10**6))
        most = max(most, len(os.listdir(tmp_path)))
    assert 180 <= most <= 200
    assert len(listings) <= 1000 // 20 + 1


def test_bytes_alone_are_reason_for_a_listing(tmp_path: Path, listings: list[str]) -> None:
    most = 0
    for _ in range(200):
        spill(tmp_path, b"x" * 100, spill_retention=Retention(max_bytes=10_000))
        most = max(most, sum(file.stat().st_size for file in tmp_path.iterdir()))
    assert 9_000 <= most <= 10_100
    assert len(listings) <= 20


def test_ordinary_calls_do_not_even_import_it() -> None:
    source = (
        "import sys, agentsup; assert agentsup.run_sync(['true']).ok; "
        "print([name for name in sys.modules if 'spill' in name])"
    )
    assert agentsup.run_sync([sys.executable, "-c", source]).check().stdout.text == "[]\n"


# --- a full disk ------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k,nr_inodes=12", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("needs a small file system of its own")
    yield place
    subprocess.run(["umount", place], check=True)


def test_on_a_full_disk_the_oldest_go(small_disk: Path) -> None:
    """Whatever was allowed: an hour's old output for this minute's."""
    files = [old(small_disk, number, 100_000) for number in range(3)]
    new = Spill("stdout", OutputPolicy(), small_disk)
    new.write(memoryview(b"y" * 150_000))
    assert [file.exists() for file in files] == [False, True, True]
    new.write(memoryview(b"z" * 150_000))
    new.close()
    assert new.error is None
    assert Path(new.path).read_bytes() == b"y" * 150_000 + b"z" * 150_000


def test_not_all_of_the_past_goes_for_one_chunk(small_disk: Path) -> None:
    files = [old(small_disk, number, 100_000) for number in range(3)]
    new = Spill("stdout", OutputPolicy(), small_disk)
    new.write(memoryview(bytes(256 * 1024)))
    new.close()
    assert "No space" in str(new.error)
    assert [file.exists() for file in files] == [False, True, True]
    assert os.stat(new.path).st_size > 150_000, "it was tried again"


@pytest.mark.parametrize("bounds", [None, Retention()])
def test_on_a_full_disk_with_nothing_to_drop(small_disk: Path, bounds: Retention | None) -> None:
    (small_disk / "theirs").write_bytes(bytes(300_000))
    kept = old(small_disk, 1, 10_000) if bounds is None else None
    policy = OutputPolicy(spill_dir=small_disk, spill_retention=bounds)
    result = agentsup.run_sync(["head", "-c", "200000", "/dev/zero"], output=policy)
    output = result.check().stdout
    assert "No space" in str(output.spill_error)
    assert output.total_bytes == 200_000
    assert (small_disk / "theirs").stat().st_size == 300_000
    assert kept is None or kept.exists()


def test_no_inode_is_met_in_the_same_way(small_disk: Path) -> None:
    files = [old(small_disk, number) for number in range(11)]
    new = spill(small_disk, b"x")
    assert new.read_bytes() == b"x"
    assert not files[0].exists()
    assert files[10].exists()


# --- in an event loop -------------------------------------------------------------------------


@pytest.mark.anyio
async def test_calls_at_the_same_time_keep_theirs(anyio_backend: object, tmp_path: Path) -> None:
    policy = OutputPolicy(
        spill_dir=tmp_path, head=0, tail=0, spill_retention=Retention(max_files=1)
    )
    errors: list[object] = []

    async def call(sup: agentsup.Supervisor, number: int) -> None:
        async with sup.open(["cat"], stdin=agentsup.PIPE, output=policy) as process:
            assert process.stdin is not None
            await process.stdin.send(b"%d" % number)
            ready.append(number)
            await together.wait()
            files = list(tmp_path.glob("*.stdout"))
            errors.extend([] if len(files) == 8 else [files])
            await process.stdin.aclose()
            await process.wait()

    ready: list[int] = []
    together = anyio.Event()
    async with agentsup.Supervisor() as sup, anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(call, sup, number)
        with anyio.fail_after(60):
            while len(ready) < 8:
                await anyio.sleep(0.005)
        together.set()
    assert not errors
    assert (await agentsup.run(["echo", "new"], output=policy)).ok
    assert len(list(tmp_path.iterdir())) == 2, "its own two streams"


@pytest.mark.parametrize("retention", [5, "1G", {"max_bytes": 1}])
def test_a_retention_that_is_none(retention: object) -> None:
    with pytest.raises(TypeError, match=r"OutputPolicy\.spill_retention must be a Retention"):
        OutputPolicy(spill_retention=retention)  # type: ignore[arg-type]  # the test


@pytest.mark.parametrize(("limit", "error"), [(-1, ValueError), (1.5, TypeError)])
def test_a_limit_that_is_none(limit: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"OutputPolicy\.spill_limit must be "):
        OutputPolicy(spill_limit=limit)
