"""Checkpoints: what was saved is there again, whatever becomes of the files; one at a time."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import re
import sys
import threading
import time
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

sys.path.insert(0, str(Path(__file__).parent / "faults"))

from hosts import run_host

from agentsup._errors import (
    AgentsupError,
    CheckpointCorrupt,
    CheckpointInUse,
    DiskFull,
    FormatTooNew,
)
from agentsup.checkpoint import BytesCodec, Checkpoint, Retention, lock, store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def numbers(path: Path) -> list[int]:
    """Of the generations that there are."""
    names = (re.fullmatch(rf"{path.name}\.(\d+)", name) for name in os.listdir(path.parent))
    return sorted(int(match[1]) for match in names if match)


def generation(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number:012}")


def save(path: Path, *values: object, **options) -> None:
    with Checkpoint(path, **options) as checkpoint:
        for value in values:
            checkpoint.save_sync(value)


def load(path: Path, default: object = None, **options) -> object:
    with Checkpoint(path, **options) as checkpoint:
        return checkpoint.load_sync(default)


# --- saved and loaded -------------------------------------------------------------------------


@pytest.mark.anyio
async def test_what_was_saved_is_there_again(path) -> None:
    async with Checkpoint(path) as checkpoint:
        assert await checkpoint.load("default") == "default"
        await checkpoint.save({"done": ["fetch"], "in_progress": None})
        assert await checkpoint.load("default") == {"done": ["fetch"], "in_progress": None}
    assert load(str(path)) == {"done": ["fetch"], "in_progress": None}


@pytest.mark.anyio
async def test_without_a_block(path) -> None:
    checkpoint = Checkpoint(path)
    try:
        await checkpoint.save(1)
        assert await checkpoint.load(None) == 1
    finally:
        checkpoint.close()
    checkpoint.close()
    for use in (lambda: checkpoint.load_sync(None), lambda: checkpoint.save_sync(2)):
        with pytest.raises(ValueError, match="closed"):
            use()


@pytest.mark.anyio
async def test_a_value_may_be_changed_as_soon_as_it_is_being_saved(path) -> None:
    state = {"steps": 1}
    async with Checkpoint(path) as checkpoint, anyio.create_task_group() as tasks:
        checkpoint._mutex.acquire()  # so that the write has to wait
        tasks.start_soon(checkpoint.save, state)
        await anyio.wait_all_tasks_blocked()
        state["steps"] = 2
        checkpoint._mutex.release()
    assert load(path) == {"steps": 1}


def test_so_many_generations_are_kept(path) -> None:
    save(path, *range(5))
    assert numbers(path) == [3, 4, 5]
    save(path, 5, keep=1)
    assert numbers(path) == [6]
    assert load(path) == 5


def test_writers_that_are_killed_leave_no_more_and_more(path) -> None:
    """Each may leave one too many. The last good one stays, however many newer are damaged."""
    save(path, *range(1, 7), keep=9)
    for number in (4, 5, 6):
        generation(path, number).write_bytes(b"")
    with Checkpoint(path, keep=2):
        assert numbers(path) == [2, 3, 4, 5, 6]
    for number in (2, 3):
        generation(path, number).write_bytes(b"")
    with Checkpoint(path, keep=2):
        assert numbers(path) == [2, 3, 4, 5, 6], "none is good"


def test_bounds_for_size_and_age(path) -> None:
    save(path, *["x" * 1000] * 3)
    for number in (1, 2):
        os.utime(generation(path, number), (0, 0))
    save(path, "", retention=Retention(max_age=10**6))
    assert numbers(path) == [3, 4]
    save(path, "x" * 1000, keep=9, retention=Retention(max_bytes=2000))
    assert numbers(path) == [4, 5]
    save(path, "x" * 9000, keep=9, retention=Retention(max_bytes=2000))
    assert numbers(path) == [6], "and the newest, whatever its size"


def test_the_clock_says_nothing(path) -> None:
    """Neither one that was set back, nor one that is in the future."""
    save(path, 1, 2)
    os.utime(generation(path, 1), (2**32, 2**32))
    os.utime(generation(path, 2), (0, 0))
    assert load(path) == 2
    save(path, 3, keep=2)
    assert numbers(path) == [2, 3]
    assert load(path) == 3


def test_a_save_costs_two_fsyncs(path, monkeypatch) -> None:
    calls = []
    for name in ("fsync", "rename", "unlink", "scandir"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, real=real, name=name: (calls.append(name), real(*args))[1]
        )
    with Checkpoint(path, keep=1) as checkpoint:
        checkpoint.save_sync("x" * 10240)
        calls.clear()
        checkpoint.save_sync("y" * 10240)
    assert calls == ["fsync", "rename", "fsync", "unlink"]


def test_only_the_owner_may_read_it(path) -> None:
    save(path, "secret")
    assert generation(path, 1).stat().st_mode & 0o777 == 0o600


def test_another_directory_later_changes_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Checkpoint("state") as checkpoint:
        monkeypatch.chdir("/")
        checkpoint.save_sync(1)
    assert numbers(tmp_path / "state") == [1]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"path": ""}, ValueError, "path must name a file"),
        ({"path": "/"}, ValueError, "path must name a file"),
        ({"path": b"state"}, TypeError, "path must be a str"),
        ({"path": 7}, TypeError, "int"),
        ({"keep": 0}, ValueError, "keep must be at least 1"),
        ({"keep": None}, TypeError, "keep must be"),
        ({"keep": 1.5}, TypeError, "keep must be"),
        ({"codec": "json"}, TypeError, "codec must have"),
        ({"retention": 7}, TypeError, "retention must be"),
    ],
)
def test_wrong_arguments(tmp_path, options, kind, message) -> None:
    with pytest.raises(kind, match=message):
        Checkpoint(**{"path": tmp_path / "state", **options})
    assert not os.listdir(tmp_path)


@pytest.mark.anyio
async def test_a_value_that_would_not_come_back_is_not_written(path) -> None:
    async with Checkpoint(path) as checkpoint:
        await checkpoint.save(1)
        with pytest.raises(ValueError, match="would turn"):
            await checkpoint.save({1: 2})
        with pytest.raises(TypeError):
            checkpoint.save_sync({1, 2})
        assert await checkpoint.load(None) == 1


def test_an_intact_file_that_the_codec_cannot_read_is_not_passed_over(path) -> None:
    save(path, b"[1]", b"not json", codec=BytesCodec())
    with pytest.raises(ValueError, match="Expecting value") as caught:
        load(path)
    assert "state.000000000002 is undamaged" in caught.value.__notes__[0]


# --- damage -----------------------------------------------------------------------------------


def damages(whole: bytes):
    """Cut short at every byte, and with every bit flipped."""
    for length in range(len(whole)):
        yield whole[:length]
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            yield bytes(changed)


def test_a_damaged_newest_gives_the_one_before(path) -> None:
    save(path, "older", "newer")
    newest = generation(path, 2)
    whole = newest.read_bytes()
    count = 0
    with Checkpoint(path) as checkpoint:
        for damaged in damages(whole):
            newest.unlink()  # or else ext4 would write it through at once
            newest.write_bytes(damaged)
            with pytest.warns(RuntimeWarning) as caught:
                assert checkpoint.load_sync(None) == "older"
            [warning] = caught
            assert re.search(r"state\.0+2 .*; .*state\.0+1 is used", str(warning.message))
            assert warning.filename == __file__
            count += 1
        assert count == 9 * len(whole)
        newest.write_bytes(whole)
        assert checkpoint.load_sync(None) == "newer"


def test_after_damage_saving_goes_on(path) -> None:
    save(path, "older", "newer")
    generation(path, 2).write_bytes(b"")
    save(path, "newest")
    assert load(path) == "newest"
    generation(path, 3).write_bytes(b"")
    with pytest.warns(RuntimeWarning) as caught:
        assert load(path) == "older"
    assert len(caught) == 2, "one for each"


@pytest.mark.anyio
async def test_no_good_generation_at_all(path) -> None:
    save(path, "older", "newer")
    generation(path, 1).write_bytes(b"")
    generation(path, 2).write_bytes(b"nonsense")
    async with Checkpoint(path) as checkpoint:
        with pytest.raises(CheckpointCorrupt) as caught:
            await checkpoint.load("default")
        assert re.search(r"0002 has no header; .*0001 is empty", str(caught.value))
        await checkpoint.save("a new beginning")
        assert await checkpoint.load(None) == "a new beginning"


def test_a_file_that_took_anothers_place(path) -> None:
    save(path, "older", "newer")
    generation(path, 1).rename(generation(path, 9))
    with pytest.warns(RuntimeWarning, match="9 is another generation by its header"):
        assert load(path) == "newer"


def test_a_newer_format_is_left_alone(path) -> None:
    save(path, "older")
    start = b"agentsup-checkpoint/2 anything "
    newer = start + hashlib.sha256(start + b"data").hexdigest().encode() + b"\ndata"
    generation(path, 2).write_bytes(newer)
    for use in (lambda: load(path), lambda: save(path, "x")):
        with pytest.raises(FormatTooNew, match=r"0002 has format 2, and .* knows 1"):
            use()
    assert numbers(path) == [1, 2]
    assert generation(path, 2).read_bytes() == newer
    generation(path, 2).write_bytes(newer.replace(b"anything", b"Anything"))
    with pytest.warns(RuntimeWarning, match="checksum"):
        assert load(path) == "older"


def test_what_a_killed_writer_left(path) -> None:
    """A temporary file is neither read nor kept."""
    save(path, 1)
    path.with_name("state.tmp").write_bytes(generation(path, 1).read_bytes())
    assert load(path) == 1
    save(path, 2)
    assert sorted(os.listdir(path.parent)) == [
        "state.000000000001",
        "state.000000000002",
        "state.lock",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written(path) -> None:
    with Checkpoint(path) as checkpoint:
        checkpoint.save_sync(1)
        path.parent.chmod(0o500)
        try:
            with pytest.raises(PermissionError, match=r"state\.tmp"):
                checkpoint.save_sync(2)
            assert checkpoint.load_sync(None) == 1
        finally:
            path.parent.chmod(0o700)
        checkpoint.save_sync(3)
    path.with_name("state.lock").unlink()
    path.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match=r"state\.lock"):
            load(path)
    finally:
        path.parent.chmod(0o700)
    assert load(path) == 3


def test_a_directory_that_is_not_there(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere" / "state")


# --- a system call that fails -----------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["fsync", "rename", "open"])
def test_an_error_of_each_call(path, monkeypatch, name, number) -> None:
    """One save fails; the last is intact, nothing is left of the other, and the next is well."""
    full = number != errno.EIO
    save(path, 1, 2, 3)
    real = getattr(os, name)
    checkpoint = Checkpoint(path)
    with checkpoint:
        checkpoint.load_sync(None)
        before = len(os.listdir("/proc/self/fd"))

        def fail(*args):
            raise OSError(number, os.strerror(number), args[0])

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(DiskFull if full else OSError) as caught:
                checkpoint.save_sync(4)
        assert caught.value.errno == number
        assert isinstance(caught.value, AgentsupError) == full
        assert len(os.listdir("/proc/self/fd")) == before
        assert numbers(path) == ([3] if full else [1, 2, 3])
        assert not path.with_name("state.tmp").exists()
        assert checkpoint.load_sync(None) == 3
        checkpoint.save_sync(5)
    assert getattr(os, name) is real
    assert load(path) == 5


def test_a_number_is_not_given_twice(path, monkeypatch) -> None:
    """Though the save that had it failed: after its rename, and nobody knows whether that lasts."""
    real, calls = os.fsync, []

    def fsync(fd):
        calls.append(fd)
        if len(calls) == 2:
            raise OSError(errno.EIO, "no")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with Checkpoint(path) as checkpoint:
        with pytest.raises(OSError, match="no"):
            checkpoint.save_sync(1)
        checkpoint.save_sync(2)
    assert numbers(path) == [1, 2]
    assert load(path) == 2


def test_the_last_good_one_is_never_dropped(path, monkeypatch) -> None:
    """Though the newest are damaged, and nothing has been loaded."""
    save(path, 1, 2, 3, 4, keep=9)
    for number in (3, 4):
        generation(path, number).write_bytes(b"")
    with monkeypatch.context() as patch:

        def full(fd):
            raise OSError(errno.ENOSPC, "no")

        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFull, match="no older generation is left to drop"):
            save(path, 5, keep=9)
    assert numbers(path) == [2]
    assert load(path) == 2


def test_no_more_is_dropped_than_makes_room(path, monkeypatch) -> None:
    save(path, 1, 2, 3)
    real, calls = os.fsync, []

    def once(fd):
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "no")
        real(fd)

    monkeypatch.setattr(os, "fsync", once)
    save(path, 4, keep=9)
    assert numbers(path) == [2, 3, 4]


def test_a_sector_that_cannot_be_read(path, monkeypatch) -> None:
    save(path, 1, 2)
    real = open

    class Bad:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            self.file.close()

        def read(self, size=-1):
            if size < 0:
                raise OSError(errno.EIO, "no")
            return self.file.read(size)

    def bad(name, *args, **options):
        file = real(name, *args, **options)
        return Bad(file) if str(name).endswith("2") else file

    monkeypatch.setattr(store, "open", bad, raising=False)
    with pytest.warns(RuntimeWarning, match="cannot be read from its disk"):
        assert load(path) == 1


# --- one at a time ----------------------------------------------------------------------------


def test_not_two_in_one_process(path) -> None:
    with Checkpoint(path) as first:
        first.save_sync(1)
        for use in (lambda: load(path), lambda: save(path, 2)):
            with pytest.raises(
                CheckpointInUse, match=f"state.lock is held by process {os.getpid()}"
            ):
                use()
    assert load(path) == 1


@pytest.mark.anyio
async def test_a_block_that_was_refused_can_be_entered_later(path) -> None:
    second = Checkpoint(path)
    with Checkpoint(path), pytest.raises(CheckpointInUse):
        async with second:
            raise AssertionError
    async with second:
        await second.save(1)


def test_one_that_was_forgotten_is_free_again(path) -> None:
    forgotten = Checkpoint(path)
    forgotten.save_sync(1)
    with pytest.warns(ResourceWarning, match=r"state\.lock"):
        del forgotten
    assert load(path) == 1


def test_somebody_removes_the_lock_file(path) -> None:
    with Checkpoint(path) as first:
        first.save_sync(1)
        path.with_name("state.lock").unlink()
        with Checkpoint(path) as second:
            second.save_sync(2)
            with pytest.raises(CheckpointInUse):
                first.save_sync(3)
        assert first.load_sync(None) == 2
        first.save_sync(4)
        assert numbers(path) == [1, 2, 3]


def test_a_fork_does_not_share_it(path) -> None:
    """Its copy of the object is refused, is no hindrance when the parent ends, and then works."""
    source = """
import os, select, sys
from agentsup._errors import CheckpointInUse
from agentsup.checkpoint import Checkpoint
checkpoint = Checkpoint(sys.argv[1])
checkpoint.save_sync(1)
checkpoint._mutex.acquire()  # as if another thread were writing
go, parent = os.pipe(), os.pidfd_open(os.getpid())
child = os.fork()
if not child:
    try:
        checkpoint.save_sync(2)
    except CheckpointInUse:
        os.write(go[1], b"refused")
    select.select([parent], [], [])
    checkpoint.save_sync(3)
    print(checkpoint.load_sync(None), flush=True)
    os._exit(0)
checkpoint._mutex.release()
assert os.read(go[0], 100) == b"refused"
checkpoint.save_sync(2)
os._exit(0)
"""
    assert run_host(source, path).stdout == "3\n"
    assert numbers(path) == [1, 2, 3]


HOLDER = """
import ctypes, os, sys
from agentsup.checkpoint import Checkpoint
checkpoint = Checkpoint(sys.argv[1])
checkpoint.save_sync(1)
if not ctypes.CDLL(None).fork():  # by which Python's hooks are not called
    os.close(1), os.close(2)
    os.read(0, 1)
os._exit(0)
"""


@pytest.fixture
def child_of_a_dead_holder(path):
    """Has the lock until the descriptor that this yields is closed."""
    read_end, write_end = os.pipe()
    with open(write_end, "wb") as end:
        with open(read_end, "rb") as stdin:
            run_host(HOLDER, path, stdin=stdin)
        yield end


def test_waits_for_the_child_of_a_dead_holder(path, monkeypatch, child_of_a_dead_holder) -> None:
    def pause(seconds):
        child_of_a_dead_holder.close()
        pause_for(seconds)

    pause_for = time.sleep
    monkeypatch.setattr(lock, "PATIENCE", 60.0)
    monkeypatch.setattr(time, "sleep", pause)
    assert load(path) == 1
    assert child_of_a_dead_holder.closed, "it had to wait"


def test_does_not_wait_for_ever(path, monkeypatch, child_of_a_dead_holder, until) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.05)
    with pytest.raises(CheckpointInUse):
        load(path)
    child_of_a_dead_holder.close()
    monkeypatch.setattr(lock, "PATIENCE", 60.0)
    assert load(path) == 1


# --- tasks, threads and cancellation ----------------------------------------------------------


def test_what_was_called_last_is_what_counts(path) -> None:
    """Though it overtakes an earlier call that took its time to encode."""
    encoding, go_on = threading.Event(), threading.Event()

    class Slow(BytesCodec):
        def encode(self, value):
            if value == b"earlier":
                encoding.set()
                assert go_on.wait(60)
            return value

    with Checkpoint(path, codec=Slow()) as checkpoint:
        earlier = threading.Thread(target=checkpoint.save_sync, args=(b"earlier",))
        earlier.start()
        assert encoding.wait(60)
        checkpoint.save_sync(b"later")
        go_on.set()
        earlier.join()
        assert checkpoint.load_sync(b"") == b"later"


@pytest.mark.anyio
async def test_many_tasks_at_once(path) -> None:
    called = []
    async with Checkpoint(path) as checkpoint:

        async def save(number: int) -> None:
            called.append(number)
            await checkpoint.save(number)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(save, number)
        assert await checkpoint.load(None) == called[-1]


class Gate:
    """Holds every fsync up until it is opened."""

    def __init__(self, monkeypatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        real = os.fsync

        def fsync(fd):
            self.reached.set()
            assert self.opened.wait(60)
            real(fd)

        monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.anyio
async def test_cancelled_before_it_began(path) -> None:
    async with Checkpoint(path) as checkpoint:
        await checkpoint.save(1)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await checkpoint.save(2)
        assert scope.cancelled_caught
        assert numbers(path) == [1]


@pytest.mark.anyio
async def test_cancelled_while_it_writes(path, monkeypatch, eventually) -> None:
    """The write is waited for, and is whole; the loop goes on meanwhile."""
    async with Checkpoint(path) as checkpoint:
        await checkpoint.load(None)
        gate = Gate(monkeypatch)
        ended = anyio.Event()
        scope = anyio.CancelScope()

        async def save() -> None:
            with scope:
                await checkpoint.save(1)
                await anyio.sleep_forever()
            ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(save)
            await eventually(gate.reached.is_set)
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert not ended.is_set()
            gate.opened.set()
            with anyio.fail_after(60):
                await ended.wait()
            assert numbers(path) == [1]
        assert await checkpoint.load(None) == 1


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
@pytest.mark.anyio
class TestAsynciosOwnCancel:
    """It goes through every shield."""

    async def test_while_it_writes(self, path, monkeypatch, eventually) -> None:
        async with Checkpoint(path) as checkpoint:
            await checkpoint.load(None)
            gate = Gate(monkeypatch)
            task = asyncio.create_task(checkpoint.save(1))
            await eventually(gate.reached.is_set)
            for _ in range(3):
                task.cancel()
                await anyio.wait_all_tasks_blocked()
                assert not task.done()
            gate.opened.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert numbers(path) == [1], "as soon as the caller goes on"

    async def test_while_it_waits_for_a_thread(self, path, eventually) -> None:
        async with Checkpoint(path) as checkpoint:
            await checkpoint.load(None)
            anyio.to_thread.current_default_thread_limiter().total_tokens = 1
            busy, done = threading.Event(), threading.Event()

            def occupy() -> None:
                busy.set()
                assert done.wait(60)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, occupy)
                await eventually(busy.is_set)
                task = asyncio.create_task(checkpoint.save(1))
                await anyio.wait_all_tasks_blocked()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                done.set()
            await checkpoint.save(2)
            assert numbers(path) == [1], "it never began"
            assert await checkpoint.load(None) == 2


@pytest.mark.anyio
async def test_cancelled_at_any_time(path) -> None:
    """It is whole or not there, and there if it was acknowledged."""
    chance = random.Random(7)
    async with Checkpoint(path) as checkpoint:
        before = 0
        for number in range(1, 41):
            acknowledged = False
            with anyio.move_on_after(chance.random() * 0.01):
                await checkpoint.save(number)
                acknowledged = True
            found = await checkpoint.load(0)
            assert found in ((number,) if acknowledged else (before, number))
            before = found


@pytest.mark.anyio
async def test_a_claim_is_not_left_behind_by_a_block_that_was_cancelled(path) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with Checkpoint(path):
            await anyio.sleep(0)
    assert load(path) is None
