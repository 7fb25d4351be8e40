"""Code that starts programs by itself, as it is, in a block that holds them."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes.util
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest
import trio

import agentsup
import agentsup.ext.anyio
import agentsup.ext.asyncio
import agentsup.ext.subprocess
from agentsup._linux import lifeline
from agentsup.ext._shim import held_of

METHODS = ("_execute_child", "_internal_poll", "_wait", "send_signal")
on_asyncio = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)


@pytest.fixture
def held() -> Iterator[None]:
    before = [getattr(subprocess.Popen, name) for name in METHODS]
    with agentsup.SyncSupervisor() as sup, agentsup.ext.subprocess.install(sup):
        yield
    assert [getattr(subprocess.Popen, name) for name in METHODS] == before


def is_held(pid: int) -> bool:
    assert lifeline._current
    return psutil.Process(pid).ppid() == lifeline._current.pid


def start_daemon(marker: str) -> str:
    """Some code that leaves one behind, and holds no pipe of ours with it."""
    script = f"setsid sleep {marker} >/dev/null 2>&1 & echo done"
    return subprocess.run(script, shell=True, capture_output=True, text=True, check=True).stdout


# --- subprocess -------------------------------------------------------------------------------


@pytest.mark.usefixtures("held")
def test_results_and_errors() -> None:
    assert subprocess.check_output(["echo", "a\r\nb"], text=True) == "a\nb\n"
    assert (
        subprocess.run(["tr", "a", "b"], input="aa", text=True, capture_output=True).stdout == "bb"
    )
    assert subprocess.call("exit 3", shell=True) == 3
    assert subprocess.run(["sh", "-c", "kill -9 $$"]).returncode == -signal.SIGKILL
    with pytest.raises(subprocess.CalledProcessError) as failed:
        subprocess.check_output(
            "echo out; echo err >&2; exit 4", shell=True, stderr=subprocess.PIPE
        )
    assert (failed.value.returncode, failed.value.output, failed.value.stderr) == (
        *(4, b"out\n"),
        b"err\n",
    )
    with pytest.raises(FileNotFoundError) as missing:
        subprocess.run(["no-such-program"])
    assert missing.value.filename == "no-such-program"
    with pytest.raises(NotADirectoryError):
        subprocess.run(["true"], cwd=sys.executable)
    with pytest.raises(PermissionError):
        subprocess.run(["/etc/passwd"])


@pytest.mark.usefixtures("held")
def test_where_its_streams_go(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    both = subprocess.run(
        "echo a; echo b >&2", shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert both.stdout == b"a\nb\n"
    with open(tmp_path / "file", "w+b") as file:
        subprocess.run(["echo", "to a file"], stdout=file, check=True)
        file.seek(0)
        assert subprocess.check_output(["cat"], stdin=file) == b"to a file\n"
    assert subprocess.check_output(["cat"], stdin=subprocess.DEVNULL) == b""
    subprocess.run("echo mine; echo too >&2", shell=True, check=True)
    assert capfd.readouterr() == ("mine\n", "too\n")


@pytest.mark.usefixtures("held")
def test_what_it_is_given(tmp_path: Path) -> None:
    script = 'echo "$PWD $A $0"; umask'
    out = subprocess.check_output(
        *(["other", "-c", script, "zero"],),
        executable="/bin/sh",
        cwd=tmp_path,
        env={"A": "x"},
        umask=0o077,
        text=True,
        start_new_session=True,
        process_group=0,
    )
    assert out.split() == [str(tmp_path), "x", "zero", "0077"]
    read_end, write_end = os.pipe()
    subprocess.run(
        f"echo passed >/dev/fd/{write_end}", shell=True, pass_fds=[write_end], check=True
    )
    os.close(write_end)
    assert os.read(read_end, 100) == b"passed\n"
    os.close(read_end)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
@pytest.mark.usefixtures("held")
def test_another_user_and_nothing_else() -> None:
    out = subprocess.check_output(["sh", "-c", "id -u; id -g; id -G"], user=65534, text=True)
    alone = subprocess.check_output(
        ["sh", "-c", "id -u; id -g; id -G"], user=65534, group=65534, extra_groups=[7, 7], text=True
    )
    assert out.split()[:2] == ["65534", str(os.getegid())]
    assert alone.split() == ["65534", "65534", "65534", "7"]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("preexec_fn", print),
        ("close_fds", False),
        ("restore_signals", False),
        ("process_group", 77),
    ],
)
@pytest.mark.usefixtures("held")
def test_what_cannot_be_is_refused(argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}=.* cannot be had under a supervisor: ."):
        subprocess.Popen(["true"], stdin=subprocess.PIPE, **{argument: value})  # type: ignore[call-overload]


@pytest.mark.usefixtures("held")
def test_time_limits_leave_it_running(marker: str) -> None:
    command = ["sh", "-c", f"echo begun; read line; echo $line; exec sleep {marker}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        assert is_held(process.pid)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate("heard\n", timeout=0.01)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
        assert (process.returncode, out) in ((-2, "heard\n"), (-2, ""))
        process.kill()  # nothing happens
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["sleep", marker], timeout=0.05)


@pytest.mark.usefixtures("held")
def test_one_that_is_dropped_says_so(marker: str) -> None:
    with pytest.warns(ResourceWarning, match="is still running"):
        subprocess.Popen(["sleep", marker])


def test_nothing_outlives_its_main_process_or_the_block(
    marker: str, until: Callable[..., None]
) -> None:
    with agentsup.SyncSupervisor() as sup, agentsup.ext.subprocess.install(sup, grace=0.1):
        assert start_daemon(marker) == "done\n"
        until(lambda: not marker.pids())  # type: ignore[attr-defined]
        held_pipe = subprocess.run(
            f"sleep {marker} & echo it ends", shell=True, capture_output=True
        )
        assert held_pipe.stdout == b"it ends\n"
        script = f"trap '' TERM; echo ready; sleep {marker} & wait; wait"
        left = subprocess.Popen(script, shell=True, stdout=subprocess.PIPE)
        assert left.stdout
        assert left.stdout.readline() == b"ready\n"
        assert left.poll() is None
    left.stdout.close()
    assert left.returncode == -signal.SIGKILL
    assert left.poll() == left.wait() == left.returncode
    assert not marker.pids()  # type: ignore[attr-defined]
    # And without all of that:
    assert start_daemon(marker) == "done\n"
    until(lambda: marker.pids())  # type: ignore[attr-defined]
    for pid in marker.pids():  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGKILL)
    until(lambda: not marker.pids())  # type: ignore[attr-defined]


@pytest.mark.usefixtures("held")
def test_users_of_it_in_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    original = subprocess.Popen.__init__

    def count(self: subprocess.Popen[bytes], *args: object, **options: object) -> None:
        original(self, *args, **options)  # type: ignore[arg-type]
        started.append(self.pid)
        assert held_of(self)  # it may have ended

    monkeypatch.setattr(subprocess.Popen, "__init__", count)
    assert subprocess.getstatusoutput("echo a; exit 2") == (2, "a")
    with os.popen("cat >/dev/null; exit 3", "w") as pipe:
        pipe.write("x")
        assert os.waitstatus_to_exitcode(pipe.close() or 0) == 3
    assert ctypes.util.find_library("c") in ("libc.so.6", None)
    assert platform.architecture()[0] == "64bit"
    assert len(started) >= 3


def test_only_the_code_of_the_block_and_its_context(marker: str) -> None:
    def pid_of_another() -> tuple[int, bool]:
        with subprocess.Popen(["sleep", marker]) as process:
            found = psutil.Process(process.pid).ppid() == os.getpid()
            process.kill()
        return process.returncode, found

    with ThreadPoolExecutor(1) as pool, agentsup.SyncSupervisor() as sup:
        with agentsup.ext.subprocess.install(sup):
            with agentsup.ext.subprocess.install(sup, limits=agentsup.Limits(open_files=99)):
                assert subprocess.getoutput("ulimit -n") == "99"
            assert subprocess.getoutput("ulimit -n") != "99"
            assert pool.submit(pid_of_another).result() == (-9, True)
            inside = contextvars.copy_context()
            assert pool.submit(inside.run, pid_of_another).result() == (-9, False)
        assert inside.run(pid_of_another) == (-9, True)  # the block has been left
    with pytest.raises(agentsup.SupervisorClosed), agentsup.ext.subprocess.install(sup):
        pass
    wrong: Any = agentsup.Supervisor()
    refused = pytest.raises(TypeError, match=r"use agentsup\.ext\.asyncio")
    with refused, agentsup.ext.subprocess.install(wrong):
        pass


def test_several_threads_wait_for_one(marker: str) -> None:
    with ThreadPoolExecutor(3) as pool, agentsup.SyncSupervisor() as sup:
        with agentsup.ext.subprocess.install(sup):
            process = subprocess.Popen(["sleep", marker])
            waiting = [pool.submit(process.wait) for _ in range(3)]
            assert process.poll() is None
        assert [each.result(60) for each in waiting] == [-signal.SIGTERM] * 3


@pytest.mark.usefixtures("held")
def test_many_leave_no_descriptors_behind(until: Callable[..., None]) -> None:
    def count() -> int:
        subprocess.run(["true"])  # which lets go of those that nobody asks any more
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(20):
        subprocess.run("sleep 1000 & exit", shell=True)
    until(lambda: (lifeline.shed(lifeline._current), count() <= before)[1])  # type: ignore[arg-type]


# --- on event loops ---------------------------------------------------------------------------


@pytest.mark.anyio
async def test_anyio(tmp_path: Path, marker: str) -> None:
    async with agentsup.Supervisor() as sup, agentsup.ext.anyio.install(sup):
        done = await anyio.run_process("cat; echo $0; pwd", input=b"fed ", cwd=tmp_path)
        assert done.stdout == f"fed /bin/sh\n{tmp_path}\n".encode()
        with pytest.raises(subprocess.CalledProcessError) as failed:
            await anyio.run_process(["sh", "-c", "echo no >&2; exit 5"])
        assert (failed.value.returncode, failed.value.stderr) == (5, b"no\n")
        with pytest.raises(FileNotFoundError):
            await anyio.run_process(["no-such-program"])
        async with await anyio.open_process(["cat"]) as process:
            assert process.stdin
            assert process.stdout
            await process.stdin.send(b"echo")
            assert await process.stdout.receive() == b"echo"
            assert is_held(process.pid)
            assert [node.pid for node in sup.tree()] == [process.pid]
            await process.stdin.aclose()
            assert await process.wait() == process.returncode == 0
        async with await anyio.open_process(["sleep", marker]) as process:
            process.terminate()
            assert await process.wait() == -signal.SIGTERM
        # What blocks is held, too, in this thread and in others.
        for call in (
            subprocess.getoutput,
            lambda words: subprocess.check_output(words, shell=True),
        ):
            assert call("echo x").strip() in ("x", b"x")
        assert await anyio.to_thread.run_sync(subprocess.getoutput, "echo $PPID") == str(
            lifeline._current and lifeline._current.pid
        )
    assert sup.tree() == ()


@pytest.mark.anyio
async def test_nothing_outlives_the_block(
    marker: str, eventually: Callable[..., Awaitable[None]]
) -> None:
    async def some_code() -> anyio.abc.Process:
        await anyio.run_process(f"setsid sleep {marker} & echo x")
        await anyio.to_thread.run_sync(start_daemon, marker)
        return await anyio.open_process(["sleep", marker])

    async with agentsup.Supervisor() as sup, agentsup.ext.anyio.install(sup, grace=0.1):
        process = await some_code()
        with subprocess.Popen(["sleep", marker]) as blocking:
            await eventually(lambda: set(marker.pids()) == {process.pid, blocking.pid})  # type: ignore[attr-defined]
            blocking.kill()
    assert not marker.pids()  # type: ignore[attr-defined]
    assert await process.wait() == -signal.SIGTERM
    await process.aclose()


@pytest.mark.anyio
async def test_cancelled_at_any_await(marker: str) -> None:
    class Enough(Exception):
        pass

    async def some_code() -> None:
        async with await anyio.open_process(["sleep", marker]):
            await anyio.run_process(f"sleep {marker} & sleep {marker}")

    async def cancel_after(turns: int) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(some_code)
            for _ in range(turns):
                await anyio.sleep(0)
            tasks.cancel_scope.cancel()

    async with agentsup.Supervisor() as sup:
        for turns in (*range(8), 20, 50):
            async with agentsup.ext.anyio.install(sup, grace=0.1):
                await cancel_after(turns)
            assert not marker.pids()  # type: ignore[attr-defined]
        with pytest.raises(Enough):
            async with agentsup.ext.anyio.install(sup, grace=0.1):
                process = await anyio.open_process(["sleep", marker])
                raise Enough
        await process.aclose()
        assert not marker.pids()  # type: ignore[attr-defined]
        with anyio.move_on_after(0.05):
            async with agentsup.ext.anyio.install(sup, grace=0.1):
                await anyio.run_process(["sleep", marker])
        assert not marker.pids()  # type: ignore[attr-defined]


@pytest.mark.anyio
async def test_a_supervisor_that_stops_it_by_hand(marker: str) -> None:
    async with agentsup.Supervisor() as sup, agentsup.ext.anyio.install(sup, grace=0.1):
        script = f"trap '' TERM; echo ready; sleep {marker} & wait; wait"
        async with await anyio.open_process(script) as process:
            assert process.stdout
            assert await process.stdout.receive() == b"ready\n"
            sup.tree()[0].stop()
            assert await process.wait() == -signal.SIGKILL


@on_asyncio
@pytest.mark.anyio
async def test_asyncio(marker: str) -> None:
    PIPE = asyncio.subprocess.PIPE
    loop = asyncio.get_running_loop()
    begin, begun = asyncio.Event(), asyncio.Event()

    async def another_task() -> int:
        begun.set()
        await begin.wait()
        process = await asyncio.create_subprocess_exec("sleep", marker)
        parent = psutil.Process(process.pid).ppid()
        process.kill()
        await process.wait()
        return parent

    outside = asyncio.create_task(another_task())
    await begun.wait()
    async with agentsup.Supervisor() as sup, agentsup.ext.asyncio.install(sup):
        # As in its documentation.
        process = await asyncio.create_subprocess_shell(
            "ls /nonexistent; cat; exit 3", stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        assert is_held(process.pid)
        stdout, stderr = await process.communicate(b"x" * 300_000)
        assert (process.returncode, len(stdout), b"nonexistent" in stderr) == (3, 300_000, True)
        code = "import datetime; print(datetime.datetime.now())"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=PIPE)
        assert process.stdout
        assert (await process.stdout.readline()).startswith(b"20")
        assert await process.wait() == 0
        process = await asyncio.create_subprocess_exec("echo", "y" * 200, stdout=PIPE, limit=50)
        assert process.stdout
        with pytest.raises(ValueError, match="limit"):
            await process.stdout.readline()
        await process.communicate()
        process = await asyncio.create_subprocess_exec("sleep", marker)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == process.returncode == -signal.SIGINT
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("no-such-program")
        with pytest.raises(ValueError, match=r"^preexec_fn"):
            await asyncio.create_subprocess_exec("true", preexec_fn=print)
        with pytest.raises(ValueError, match=r"^text must be False"):
            await asyncio.create_subprocess_exec("true", text=True)
        assert await asyncio.to_thread(subprocess.getoutput, "echo thread") == "thread"
        begin.set()
        assert await outside == os.getpid()
    assert "subprocess_exec" not in vars(loop)
    with pytest.raises(TypeError, match=r"use agentsup\.ext\.subprocess"):
        async with agentsup.ext.asyncio.install(agentsup.SyncSupervisor()):  # type: ignore[arg-type]
            pass


@on_asyncio
@pytest.mark.anyio
async def test_a_protocol_of_its_own() -> None:
    class DateProtocol(asyncio.SubprocessProtocol):
        def __init__(self) -> None:
            self.output, self.events = b"", list[str]()
            self.over = asyncio.get_running_loop().create_future()

        def pipe_data_received(self, fd: int, data: bytes) -> None:
            self.output += data

        def process_exited(self) -> None:
            self.events.append("exited")

        def connection_lost(self, exc: Exception | None) -> None:
            self.events.append("lost")
            self.over.set_result(None)

    async with agentsup.Supervisor() as sup, agentsup.ext.asyncio.install(sup):
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(DateProtocol, "date", stdin=None)
        await protocol.over
        assert transport.get_returncode() == 0
        assert protocol.output
        assert protocol.events == ["exited", "lost"]
        transport.close()


@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.anyio
async def test_trio_itself(marker: str) -> None:
    async with agentsup.Supervisor() as sup, agentsup.ext.anyio.install(sup):
        done = await trio.run_process(
            "sleep 999 & cat", shell=True, stdin=b"x", capture_stdout=True
        )
        assert done.stdout == b"x"
        ended = [await trio.lowlevel.open_process(["true"]) for _ in range(20)]
        assert [await process.wait() for process in ended] == [0] * 20
        process = await trio.lowlevel.open_process(["sleep", marker])
        assert is_held(process.pid)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.anyio
async def test_a_thread_waits_while_the_loop_does_not_run(marker: str) -> None:
    async with agentsup.Supervisor() as sup, agentsup.ext.anyio.install(sup):
        inside = contextvars.copy_context()
        found: list[str] = []
        thread = threading.Thread(
            target=inside.run, args=(lambda: found.append(subprocess.getoutput("echo out")),)
        )
        thread.start()
        thread.join()  # which blocks the loop
        assert found == ["out"]
