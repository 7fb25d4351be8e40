"""Commands in the background, read in pieces over any number of turns."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentsup
from agentsup import KeeperLost, Outcome, OutputPolicy, SpawnError, SupervisorClosed
from agentsup._calls.call import Call
from agentsup._calls.spool import Spool
from agentsup._linux import lifeline
from agentsup._tree import job as jobs
from agentsup._tree.job import KEEP_LEAST, Job

from_here = pytest.mark.anyio
UNTIL_GO = "until [ -e go ]; do sleep 0.02; done;"


def sh(script):
    return agentsup.shell(script)


# --- reading ----------------------------------------------------------------------------------


@from_here
async def test_each_byte_once_and_in_true_order():
    script = "for n in $(seq 300); do echo out $n; echo err $n >&2; done"
    read = []
    async with agentsup.Supervisor() as sup:
        job = await sup.background(sh(script))
        while job.running:
            read.append(job.read_new(7))
            await anyio.sleep(0)
        while job.unread:
            read.append(job.read_new(1000))
        assert job.read_new() == ""
        result = await job.wait()
    assert "".join(read) == "".join(f"out {n}\nerr {n}\n" for n in range(1, 301))
    assert result.ok
    assert result.stdout.text == "".join(read)


@from_here
async def test_what_is_new_at_each_turn(tmp_path, eventually):
    script = f"printf 'a\\377\\000'; {UNTIL_GO} printf '\\303'; sleep 0.1; printf '\\251'; exit 3"
    async with agentsup.Supervisor() as sup:
        job = await sup.background(sh(script), cwd=tmp_path)
        assert job.id == "job-1"
        assert job.silence is None or job.unread
        await eventually(lambda: job.unread == 3)
        assert job.read_new() == "a\ufffd\0"
        assert job.read_new() == ""
        assert 0 <= job.silence <= job.age
        assert (job.state, job.running) == ("running", True)
        (tmp_path / "go").touch()
        read = ""
        while job.running:
            read += job.read_new()
            await anyio.sleep(0.005)
        assert read + job.read_new() == "é"
        assert (job.state, job.pid) == ("exited with status 3", None)


@given(st.binary(max_size=60), st.data())
def test_text_does_not_depend_on_where_it_was_cut(printed, data):
    read = ""
    place = 0
    with a_job() as job:
        while place < len(printed):
            size = data.draw(st.integers(1, 20))
            job.take(memoryview(printed)[place : place + size])
            place += size
            read += job.read_new(data.draw(st.integers(1, 20)))
        job.over.set()
        while job.unread:
            read += job.read_new(data.draw(st.integers(1, 20)))
        read += job.read_new()
    assert read == printed.decode("utf-8", "replace")


def a_job(keep=1 << 20):
    call = SimpleNamespace(spec=SimpleNamespace(secrets=()))
    return closing(Job("job-1", call, keep))


def test_a_read_costs_what_is_new(monkeypatch):
    """Whatever was printed and read before."""
    read = []
    pread = os.pread

    def counting(fd, size, offset):
        data = pread(fd, size, offset)
        read.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counting)
    with a_job() as job:
        for before in (0, 300_000, 900_000):
            job.take(memoryview(bytes(before)))
            job.read_new(1 << 20)
            read.clear()
            job.take(memoryview(b"new"))
            assert job.read_new() == "new"
            assert read == [3]
            read.clear()
            assert job.tail(1).endswith("new")
            assert sum(read) <= 64 * 1024


@from_here
async def test_the_last_lines(tmp_path, eventually):
    async with agentsup.Supervisor() as sup:
        job = await sup.background(sh(f"seq 5; printf é; {UNTIL_GO} echo"), cwd=tmp_path)
        await eventually(lambda: job.unread == 12)
        assert job.tail(2) == "5\né"
        assert job.read_new() == "1\n2\n3\n4\n5\né"
        assert job.tail(3) == "4\n5\né"
        assert job.tail(100) == "1\n2\n3\n4\n5\né"
        assert job.tail(100, max_bytes=3) == "\né"
        assert job.tail(100, max_bytes=1) == ""
        (tmp_path / "go").touch()
        await job.wait()
        assert job.tail(1) == "é\n"
        assert job.read_new() == "\n"
        empty = await sup.background(["true"])
        await empty.wait()
        assert empty.tail() == empty.read_new() == ""
        for size in (0, -1, 1.5, "x"):
            for method in (job.tail, job.read_new):
                with pytest.raises((TypeError, ValueError), match=r"lines|max_bytes"):
                    method(size)


# --- bounds -----------------------------------------------------------------------------------


@from_here
async def test_only_the_last_of_it_is_kept_on_disk(tmp_path, eventually):
    size = 1 << 20
    script = f"head -c {size} /dev/zero | tr '\\0' x; {UNTIL_GO} head -c {size} /dev/zero"
    async with agentsup.Supervisor() as sup:
        job = await sup.background(sh(script), cwd=tmp_path, keep_output=KEEP_LEAST)
        await eventually(lambda: job.unread == size)
        on_disk = sum(os.fstat(one.file.fileno()).st_size for one in job._spool._segments)
        assert 0.7 * KEEP_LEAST < on_disk <= KEEP_LEAST
        text = job.read_new(size)
        lost = size - on_disk
        assert text == f"\n[… {lost} bytes lost …]\n" + "x" * on_disk
        (tmp_path / "go").touch()
        result = await job.wait()
        text = job.read_new(size)
        assert "bytes lost" in text
        assert text.count("\0") + int(text.split()[1]) == size
        assert result.stdout.total_bytes == 2 * size


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("needs a small file system of its own")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk(small_disk, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    whole = bytes(range(256)) * 1024
    with closing(Spool(1 << 20)) as spool:
        spool.write(memoryview(whole))
        assert spool.end == len(whole)
        assert spool.read(0, spool.end) == whole[spool.start :]  # of one segment: all or nothing
    # Segments of 12 KiB: the oldest make room for the next.
    with closing(Spool(48 * 1024)) as spool, (small_disk / "hog").open("wb") as hog:
        spool.write(memoryview(whole)[:40_000])
        assert spool.start == 0
        with pytest.raises(OSError, match="No space"):
            hog.write(bytes(64 * 1024))
            hog.flush()
        for place in range(40_000, 100_000, 1000):
            spool.write(memoryview(whole)[place : place + 1000])
            assert spool.end == place + 1000
            assert spool.end - spool.start >= 24 * 1024
        assert spool.start > 0
        assert spool.read(0, spool.end) == whole[spool.start : spool.end]


def test_no_place_for_it_at_all_and_then_one(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no" / "such"))
    with a_job() as job:
        job.take(memoryview(b"lost"))
        assert job.read_new() == "\n[… 4 bytes lost …]\n"
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        job.take(memoryview(b"kept"))
        assert job.read_new() == "kept"
        assert job.tail() == "kept"


def test_nothing_of_it_has_a_name(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with a_job() as job:
        job.take(memoryview(b"text"))
        assert list(tmp_path.iterdir()) == []


@from_here
async def test_so_many_at_a_time(tmp_path):
    async with agentsup.Supervisor(max_jobs=2) as sup:
        first = await sup.background(["sleep", "600"])
        await sup.background(["sleep", "600"])
        with pytest.raises(SpawnError, match=r"background: 2 jobs run \(max_jobs\)") as caught:
            await sup.background(["touch", tmp_path / "ran"])
        assert caught.value.errno == errno.EAGAIN
        assert list(sup.jobs) == ["job-1", "job-2"]
        await first.stop()
        third = await sup.background(["touch", tmp_path / "ran"])
        assert third.id == "job-3"
        assert (await third.wait()).ok
    async with agentsup.Supervisor(max_jobs=None) as sup:
        for _ in range(3):
            await sup.background(["sleep", "600"])
    with pytest.raises(ValueError, match="max_jobs must be at least 1"):
        agentsup.Supervisor(max_jobs=0)


@from_here
async def test_those_that_have_ended_are_kept_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(jobs, "_ENDED_MOST", 2)
    async with agentsup.Supervisor() as sup:
        old = await sup.background(["echo", "old"])
        running = await sup.background(["sleep", "600"])
        for _ in range(3):
            assert (await (await sup.background(["true"])).wait()).ok
        last = await sup.background(["echo", "last"])
        await last.wait()
        assert list(sup.jobs) == ["job-2", "job-4", "job-5", "job-6"]
        assert sup.jobs["job-2"] is running
        assert old.read_new() == "\n[… 4 bytes lost …]\n"
        assert old.tail() == ""
        assert last.tail() == "last\n"
        with pytest.raises(TypeError):
            del sup.jobs["job-2"]


# --- its end ----------------------------------------------------------------------------------


@from_here
async def test_wait_and_stop(marker):
    async with agentsup.Supervisor() as sup:
        job = await sup.background(sh(f"sleep {marker} & sleep {marker}; :"), grace=0.1)
        assert await job.wait(0) is None
        assert await job.wait(timeout=0.01) is None
        for bad in (-1, "1", float("nan")):
            with pytest.raises((TypeError, ValueError), match="timeout"):
                await job.wait(bad)
        assert job.pid in marker.pids()
        result = await job.stop()
        assert not marker.pids()
        assert result.outcome is Outcome.STOPPED
        assert "stopped" in job.state
        assert (await job.stop()).outcome is Outcome.STOPPED
        assert (await job.wait(0)).outcome is Outcome.STOPPED
        assert repr(job) == f"<Job job-1: sh: {job.state}>"


@from_here
async def test_its_own_bounds_hold(tmp_path):
    async with agentsup.Supervisor() as sup:
        late = await sup.background(["sleep", "600"], timeout=0.05)
        idle = await sup.background(["sleep", "600"], idle_timeout=0.05)
        loud = await sup.background(["yes"], output=OutputPolicy(limit=100_000))
        stuck = await sup.background(["sleep", "600"], heartbeat=agentsup.OutputHeartbeat(0.05))
        outcomes = [(await job.wait()).outcome for job in (late, idle, loud, stuck)]
    assert outcomes == [
        Outcome.TIMED_OUT,
        Outcome.IDLE,
        Outcome.OUTPUT_LIMIT,
        Outcome.HEARTBEAT_LOST,
    ]


@from_here
async def test_what_it_leaves_running_is_killed(marker):
    async with agentsup.Supervisor() as sup:
        job = await sup.background(sh(f"setsid sleep {marker} & echo on"))
        result = await job.wait()
        assert not marker.pids()
        assert (result.leftover_count, job.read_new()) == (1, "on\n")


@from_here
async def test_it_outlives_the_task_that_has_started_it():
    async with agentsup.Supervisor() as sup:
        async with anyio.create_task_group() as tasks:

            async def start():
                await sup.background(["sleep", "600"])
                tasks.cancel_scope.cancel()
                await anyio.sleep_forever()

            tasks.start_soon(start)
        assert sup.jobs["job-1"].running


@from_here
@pytest.mark.parametrize("how", ["left", "exception", "cancelled"])
async def test_it_ends_with_its_supervisor(how, marker):
    waited = []
    with anyio.CancelScope() as scope:
        try:
            async with anyio.create_task_group() as tasks, agentsup.Supervisor() as sup:
                job = await sup.background(sh(f"echo on; sleep {marker}; :"), grace=0.1)

                async def wait():
                    with anyio.CancelScope(shield=True):
                        waited.append(await job.wait())

                tasks.start_soon(wait)
                if how == "exception":
                    raise LookupError
                if how == "cancelled":
                    scope.cancel()
                    await anyio.sleep_forever()
        except* LookupError:
            pass
    assert not marker.pids()
    assert not job.running
    assert [result.outcome for result in waited] == [Outcome.STOPPED]
    assert "lost" in job.read_new() or job.read_new() == ""
    with pytest.raises(SupervisorClosed):
        await sup.background(["true"])


@from_here
async def test_of_a_supervisor_below(marker):
    async with agentsup.Supervisor() as sup:
        above = await sup.background(["sleep", "600"], name="above")
        async with sup.child("below", max_jobs=1) as below:
            job = await below.background(sh(f"sleep {marker}; :"), name="job", grace=0.1)
            with pytest.raises(SpawnError, match="1 jobs run"):
                await below.background(["true"])
            child, node = sup.tree()
            assert (node.name, node.kind, node.pid) == ("above", "job", above.pid)
            assert [(one.name, one.kind) for one in child.children] == [("job", "job")]
            assert list(sup.jobs) == list(below.jobs) == ["job-1"]
        assert not job.running
        assert not marker.pids()
        assert above.running
        node.stop()
        assert (await above.wait()).outcome is Outcome.STOPPED
        assert sup.tree() == ()


@from_here
async def test_the_keeper_is_killed(marker, eventually):
    async with agentsup.Supervisor() as sup:
        job = await sup.background(sh(f"echo on; sleep {marker} & sleep {marker}; :"))
        await eventually(lambda: job.unread and len(marker.pids()) == 3)
        os.kill(lifeline._current.pid, signal.SIGKILL)
        with pytest.raises(KeeperLost) as caught:
            await job.wait()
        await eventually(lambda: not marker.pids())
        assert caught.value.partial.stdout.text == job.read_new() == "on\n"
        assert job.state == str(caught.value)
        with pytest.raises(KeeperLost):
            await job.stop()
        assert (await (await sup.background(["echo", "again"])).wait()).ok
        assert list(sup.jobs) == ["job-1", "job-2"]


HOST = """
import os, signal, sys
import agentsup, anyio

async def main():
    async with agentsup.Supervisor() as sup:
        jobs = [await sup.background(["sh", "-c", sys.argv[1]]) for _ in range(3)]
        while not all(job.unread for job in jobs):
            await anyio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_host_is_killed(backend, marker, until, tmp_path):
    script = f"(setsid sleep {marker} &) ; echo on; sleep {marker}; :"
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    host = subprocess.run(
        [sys.executable, "-c", HOST, script, backend],
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)},
        timeout=120,
        check=False,
    )
    assert host.returncode == -signal.SIGKILL
    until(lambda: not marker.pids())
    assert list(tmp_path.iterdir()) == []


# --- its beginning ----------------------------------------------------------------------------


@from_here
async def test_it_cannot_be_started(tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    async with agentsup.Supervisor() as sup:
        with pytest.raises(FileNotFoundError, match="interpreter"):
            await sup.background([script])
        with pytest.raises(SpawnError, match="not found"):
            await sup.background(["no-such-program"])
        assert not sup.jobs
        assert sup.tree() == ()
        assert (await (await sup.background(["true"])).wait()).ok


@from_here
@pytest.mark.parametrize("steps", range(7))
async def test_cancelled_after_so_many_steps_of_its_beginning(steps, marker, eventually):
    started = []
    async with agentsup.Supervisor() as sup:
        async with anyio.create_task_group() as tasks:

            async def start():
                started.append(await sup.background(["sleep", marker]))

            tasks.start_soon(start)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert list(sup.jobs.values()) == started
        assert len(sup.tree()) == len(started)
        if not started:
            await eventually(lambda: not marker.pids())
    assert not marker.pids()


@from_here
@pytest.mark.parametrize("how", ["cancelled", "supervisor left"])
async def test_ended_while_it_is_being_started(how, marker, eventually):
    ends = []
    await agentsup.run(["true"])
    keeper = lifeline._current.pid
    async with anyio.create_task_group() as tasks, agentsup.Supervisor() as sup:

        async def start():
            try:
                await sup.background(["sleep", marker])
            finally:
                ends.append("end")

        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as starting:
                os.kill(keeper, signal.SIGSTOP)
                (tasks if how == "supervisor left" else starting).start_soon(start)
                await eventually(sup.tree)
                assert [node.kind for node in sup.tree()] == ["job"]
                tasks.start_soon(go_on_soon, keeper)
                if how == "cancelled":
                    scope.cancel()
        if how == "cancelled":
            assert not sup.jobs
            assert sup.tree() == ()
    assert ends
    assert not marker.pids()


@from_here
async def test_native_cancel_while_it_is_being_started(anyio_backend_name, marker, eventually):
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own cancel()")
    await agentsup.run(["true"])
    keeper = lifeline._current.pid
    async with agentsup.Supervisor() as sup:
        os.kill(keeper, signal.SIGSTOP)
        starting = asyncio.create_task(sup.background(["sleep", marker]))
        await eventually(sup.tree)
        for _ in range(3):
            starting.cancel()
            await asyncio.sleep(0)
        os.kill(keeper, signal.SIGCONT)
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not sup.jobs
        assert sup.tree() == ()
    assert not marker.pids()


async def go_on_soon(keeper):
    with anyio.CancelScope(shield=True):
        await anyio.sleep(0.05)
        os.kill(keeper, signal.SIGCONT)


@from_here
async def test_supervisor_left_while_one_waits_for_room_at_the_keeper(monkeypatch, marker):
    """It is waited for, and not started."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    filled = os.write(writing, bytes(1 << 20))
    monkeypatch.setattr(Call, "send", lambda self: False)
    monkeypatch.setattr(Call, "keeper_fd", lambda self: os.dup(writing))
    refused = []
    async with anyio.create_task_group() as tasks:

        async def start():
            with pytest.raises(SupervisorClosed):
                await sup.background(["sleep", marker])
            refused.append(True)

        async def make_room():
            while sup._open:
                await anyio.sleep(0.005)
            assert not refused
            os.read(reading, filled)

        async with agentsup.Supervisor() as sup:
            tasks.start_soon(start)
            while not sup.tree():
                await anyio.sleep(0.005)
            (job,) = sup.jobs.values()
            tasks.start_soon(make_room)
            tasks.start_soon(job.wait)  # which ends as well
        assert not sup.jobs
    os.close(reading)
    os.close(writing)
    assert refused == [True]


async def some_bytes():
    yield b""


@from_here
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stdin": agentsup.PIPE}, ValueError, "stdin of background"),
        ({"stdin": "iterable"}, ValueError, "stdin of background"),
        ({"output": OutputPolicy(on_line=print)}, ValueError, "output.on_line"),
        ({"leftovers": "adopt"}, ValueError, "leftovers='adopt'"),
        ({"keep_output": 1000}, ValueError, "keep_output must be at least 65536 bytes"),
        ({"keep_output": None}, TypeError, "keep_output must be a number of bytes, not None"),
        ({"keep_output": 1e6}, TypeError, "keep_output must be a whole number"),
        ({"heartbeat": "callable"}, TypeError, "CallableHeartbeat"),
        ({"timeot": 1}, TypeError, "unknown argument 'timeot'"),
    ],
)
async def test_bad_input(options, error, message):
    options = dict(options)
    if options.get("stdin") == "iterable":
        options["stdin"] = some_bytes()
    if "heartbeat" in options:
        options["heartbeat"] = agentsup.CallableHeartbeat(lambda: True, 1)
    async with agentsup.Supervisor() as sup:
        with pytest.raises(error, match=message):
            await sup.background(["true"], **options)
        assert not sup.jobs
