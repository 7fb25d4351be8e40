"""When a service of each type has started, and how its end is known."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import anyio
import psutil
import pytest

from agentsup import NotifyHeartbeat, NotReady, Service, ServiceState, Supervisor
from agentsup._linux import lifeline

pytestmark = pytest.mark.anyio

TALK = """
import os, signal, socket, time
def say(text):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(text, os.environ["NOTIFY_SOCKET"])
"""


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def talking(program: str) -> list[str]:
    return [sys.executable, "-IS", "-c", TALK + program]


def daemon(marker: str, then: str = "echo $! > pid") -> list[str]:
    """A daemon, and a first process that goes on to ``then``."""
    return sh(f"sleep {marker} > /dev/null 2>&1 & {then}")


async def states_until(events, last: ServiceState) -> list[tuple[ServiceState, str]]:
    found = []
    with anyio.fail_after(20):
        async for event in events:
            assert event.state is not ServiceState.ACTIVE or event.pid or "exited" in event.reason
            found.append((event.state, event.reason))
            if event.state is last:
                break
    return found


# --- simple and exec ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["simple", "exec"])
@pytest.mark.parametrize(("status", "last"), [(0, ServiceState.INACTIVE), (3, ServiceState.FAILED)])
async def test_it_has_started_however_soon_it_ends(kind, status, last) -> None:
    async with Supervisor() as sup:
        events = sup.events()
        service = Service("quick", sh(f"exit {status}"), type=kind, restart="temporary")
        await sup.start(service)
        assert [state for state, _ in await states_until(events, last)] == [
            ServiceState.ACTIVATING,
            ServiceState.ACTIVE,
            last,
        ]


async def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    """That is known before anything is started, or found out by the start, for any type."""
    (tmp_path / "odd").write_text("#!/no/such/interpreter")
    (tmp_path / "odd").chmod(0o755)
    async with Supervisor() as sup:
        for kind in ("simple", "exec", "oneshot", "forking", "notify"):
            for program in ("nothing", "odd"):
                with pytest.raises(FileNotFoundError, match=r"nothing|interpreter"):
                    await sup.start(Service("a", [tmp_path / program], type=kind))
        assert sup.tree() == ()


# --- oneshot ------------------------------------------------------------------------------------


async def test_a_oneshot_has_started_when_it_is_done(tmp_path: Path) -> None:
    async with Supervisor() as sup:
        done = tmp_path / "done"
        handle = await sup.start(Service("once", sh(f"sleep 0.05; touch {done}"), type="oneshot"))
        assert done.exists()
        assert handle.state is ServiceState.INACTIVE


async def test_a_oneshot_that_remains(tmp_path: Path) -> None:
    async with Supervisor() as sup:
        service = Service(
            *("once", sh("exit 0")),
            type="oneshot",
            remain_after_exit=True,
            post_start=sh("echo post_start >> log"),
            pre_stop=sh("echo pre_stop $MAINPID >> log"),
            post_stop=sh("echo post_stop $SERVICE_RESULT >> log"),
            cwd=tmp_path,
        )
        events = sup.events()
        handle = await sup.start(service)
        assert handle.state is ServiceState.ACTIVE
        assert handle.pid is None
        first = handle.uptime
        assert first is not None
        await handle.stop()
        assert handle.state is ServiceState.INACTIVE
        log = (tmp_path / "log").read_text().split()
        assert [word for word in log if not word.isdigit()] == [
            *("post_start", "pre_stop", "post_stop", "success")
        ]
        assert [state.value for state, _ in await states_until(events, handle.state)] == [
            *("activating", "active", "deactivating", "inactive")
        ]


async def test_a_oneshot_that_fails() -> None:
    async with Supervisor() as sup:
        with pytest.raises(NotReady, match="exited with status 3") as caught:
            await sup.start(Service("once", sh("echo why; exit 3"), type="oneshot"))
        assert caught.value.output == "why\n"


async def test_a_oneshot_that_takes_too_long(marker) -> None:
    async with Supervisor() as sup:
        service = Service("once", ["sleep", marker], type="oneshot", start_timeout=0.05)
        with pytest.raises(NotReady, match=r"not done within 0\.05 s"):
            await sup.start(service)
        assert not marker.pids()


async def test_what_comes_after_a_oneshot_may_fail(tmp_path: Path) -> None:
    async with Supervisor() as sup:
        service = Service("once", sh("exit 0"), type="oneshot", post_start=sh("exit 4"))
        with pytest.raises(NotReady, match=r"post_start .*: exited with status 4"):
            await sup.start(service)


async def test_a_transient_oneshot_is_tried_until_it_succeeds(tmp_path: Path) -> None:
    async with Supervisor() as sup:
        script = "echo x >> tries; test $(wc -l < tries) -eq 3"
        handle = sup.start_soon(
            Service("once", sh(script), type="oneshot", restart="transient", cwd=tmp_path)
        )
        with anyio.fail_after(20):
            assert await handle.wait() is ServiceState.INACTIVE
        assert handle.restarts == 2


# --- forking ------------------------------------------------------------------------------------


async def test_a_daemon_is_known_by_its_pid_file(tmp_path: Path, marker, eventually) -> None:
    async with Supervisor() as sup:
        service = Service("d", daemon(marker), type="forking", pid_file="pid", cwd=tmp_path)
        handle = await sup.start(service)
        first = handle.pid
        assert [first] == marker.pids()
        events = sup.events()
        os.kill(first, signal.SIGKILL)
        reasons = await states_until(events, ServiceState.ACTIVE)
        assert (ServiceState.BACKOFF, "killed by SIGKILL") in reasons
        assert [handle.pid] == marker.pids() != [first]
        await handle.stop()
        assert not marker.pids()


@pytest.mark.parametrize("pid_file", ["pid", None], ids=["file", "guessed"])
@pytest.mark.parametrize(("status", "last"), [(0, ServiceState.INACTIVE), (7, ServiceState.FAILED)])
async def test_how_a_daemon_has_ended_is_known(tmp_path, pid_file, status, last) -> None:
    """And counts for the restart, which is wanted here only after a failure."""
    os.mkfifo(tmp_path / "gate")
    script = f"(read x < gate; exit {status}) > /dev/null 2>&1 & echo $! > pid"
    async with Supervisor() as sup:
        handle = await sup.start(
            Service(
                *("d", sh(script)),
                type="forking",
                pid_file=pid_file,
                restart="transient",
                prevent_restart_on={7},
                cwd=tmp_path,
            )
        )
        assert handle.pid == int((tmp_path / "pid").read_text())
        gate = os.open(tmp_path / "gate", os.O_RDWR)
        os.write(gate, b"\n")
        with anyio.fail_after(20):
            assert await handle.wait() is last
        os.close(gate)
        assert f"exited with status {status}" in handle.status_text


async def test_a_pid_file_of_the_past(tmp_path: Path, marker) -> None:
    """It names no process of the service, and is waited for until it does."""
    services = []
    for n, before in enumerate([str(os.getpid()), "1", "", "0", "nonsense"]):
        pid = tmp_path / f"pid{n}"
        pid.write_text(before)
        then = f"(sleep 0.1; echo $! > new{n}; mv new{n} {pid}) > /dev/null 2>&1 &"
        service = Service(f"d{n}", daemon(marker, then), type="forking", pid_file=pid, cwd=tmp_path)
        services.append(service)
    async with Supervisor() as sup:
        handles = await sup.start(*services)
        assert {handle.pid for handle in handles} == set(marker.pids())


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ("echo why; exit 3", "its first process exited with status 3"),
        ("kill -9 $$", "its first process killed by SIGKILL"),
        ("kill $!; wait $!; exit 0", "it ended before it was ready: exited with status 0"),
    ],
    ids=["fails", "killed", "no-daemon"],
)
async def test_a_forking_service_that_does_not_start(tmp_path, marker, then, reason) -> None:
    service = Service(
        *("d", daemon(marker, then)),
        type="forking",
        pid_file="pid",
        cwd=tmp_path,
    )
    async with Supervisor() as sup:
        with pytest.raises(NotReady, match=reason) as caught:
            await sup.start(service)
        assert not marker.pids()
        assert ("why" in then) is (caught.value.output == "why\n")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_pid_file_that_never_comes_true(tmp_path: Path, marker) -> None:
    async def start(sup: Supervisor, name: str, then: str, lacking: str) -> None:
        service = Service(
            *(name, daemon(marker, then)),
            type="forking",
            pid_file=tmp_path / name,
            cwd=tmp_path,
            start_timeout=2,
        )
        with pytest.raises(NotReady, match=rf"not ready within 2 s: .*/{name} names {lacking}"):
            await sup.start(service)

    async with Supervisor() as sup, anyio.create_task_group() as tasks:
        tasks.start_soon(
            start, sup, "strange", "echo $PPID > strange", r"process \d+, which is not"
        )
        tasks.start_soon(start, sup, "empty", ": > empty", "no process")
    assert not marker.pids()


async def test_a_directory_for_the_pid_file_that_is_not_there(tmp_path: Path, marker) -> None:
    service = Service("d", daemon(marker, "exit 0"), type="forking", pid_file=tmp_path / "no/pid")
    async with Supervisor() as sup:
        with pytest.raises(NotReady, match=r"Service\.pid_file: its directory cannot be watched"):
            await sup.start(service)
        assert not marker.pids()


async def test_a_daemon_may_hand_over_to_another_one(tmp_path: Path, marker, eventually) -> None:
    """The PID file has to say so before the first one ends, as for systemd."""
    os.mkfifo(tmp_path / "gate")
    first = f"(read x < gate; sleep {marker} & echo $! > pid) > /dev/null 2>&1 & echo $! > pid"
    async with Supervisor() as sup:
        service = Service("d", sh(first), type="forking", pid_file="pid", cwd=tmp_path)
        handle = await sup.start(service)
        before = handle.pid
        gate = os.open(tmp_path / "gate", os.O_RDWR)
        os.write(gate, b"\n")
        await eventually(lambda: not psutil.pid_exists(before) and handle.pid != before)
        os.close(gate)
        await eventually(lambda: [handle.pid] == marker.pids())
        assert handle.state is ServiceState.ACTIVE
        assert handle.restarts == 0


async def test_what_a_daemon_has_started_ends_with_it(tmp_path: Path, marker, eventually) -> None:
    script = f"(sleep {marker} & echo $! > child; wait) > /dev/null 2>&1 & echo $! > pid"
    async with Supervisor() as sup:
        service = Service(
            "d", sh(script), type="forking", pid_file="pid", cwd=tmp_path, restart="temporary"
        )
        handle = await sup.start(service)
        await eventually(lambda: marker.pids())
        os.kill(handle.pid, signal.SIGKILL)
        with anyio.fail_after(20):
            assert await handle.wait() is ServiceState.FAILED
        assert not marker.pids()


async def test_stopped_before_its_daemon_is_known(tmp_path: Path, marker, eventually) -> None:
    service = Service("d", daemon(marker, ":"), type="forking", pid_file="pid", cwd=tmp_path)
    async with Supervisor() as sup:
        handle = sup.start_soon(service)
        await eventually(lambda: marker.pids())
        await handle.stop()
        assert handle.state is ServiceState.INACTIVE
        assert not marker.pids()


# --- notify -------------------------------------------------------------------------------------


async def test_a_service_that_says_that_it_is_ready(tmp_path: Path) -> None:
    program = "say(b'READY=1\\nSTATUS=well'); time.sleep(99)"
    async with Supervisor() as sup:
        handle = await sup.start(Service("n", talking(program), type="notify"))
        assert handle.state is ServiceState.ACTIVE
        assert handle.status_text == "well"


async def test_ready_in_its_last_moment() -> None:
    """What it has said before its end is heard before its end."""
    async with Supervisor() as sup:
        service = Service("n", talking("say(b'READY=1')"), type="notify", restart="transient")
        handle = await sup.start(service)
        with anyio.fail_after(20):
            assert await handle.wait() is ServiceState.INACTIVE
        assert handle.restarts == 0


async def test_another_main_process(marker, eventually) -> None:
    """The first one may go then."""
    program = """
import subprocess
child = subprocess.Popen(["sleep", os.environ["MARKER"]], stdout=-3, stderr=-3)
say(b"MAINPID=%d\\nREADY=1" % child.pid)
"""
    async with Supervisor() as sup:
        service = Service(
            *("n", talking(program)),
            type="notify",
            restart="transient",
            extend_env={"MARKER": marker},
        )
        events = sup.events()
        handle = await sup.start(service)
        # How it ends, its parent knows first: that has to be the keeper by then.
        await eventually(lambda: [handle.pid] == marker.pids())
        child = psutil.Process(handle.pid)
        await eventually(lambda: lifeline._current and child.ppid() == lifeline._current.pid)
        child.terminate()
        with anyio.fail_after(20):
            assert await handle.wait() is ServiceState.INACTIVE
        assert "killed by SIGTERM" in handle.status_text
        assert [state.value for state, _ in await states_until(events, handle.state)] == [
            *("activating", "active", "inactive")
        ]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it takes its time
async def test_a_heartbeat_is_expected_of_another_main_process_too(marker) -> None:
    program = """
import subprocess
child = subprocess.Popen(["sleep", os.environ["MARKER"]], stdout=-3, stderr=-3)
say(b"MAINPID=%d\\nREADY=1" % child.pid)
"""
    async with Supervisor() as sup:
        service = Service(
            *("n", talking(program)),
            type="notify",
            heartbeat=NotifyHeartbeat(0.3),
            restart="temporary",
            extend_env={"MARKER": marker},
        )
        handle = await sup.start(service)
        with anyio.fail_after(20):
            assert await handle.wait() is ServiceState.FAILED
        assert "heartbeat lost" in handle.status_text
        assert not marker.pids()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it takes its time
async def test_a_service_that_says_it_stops_has_to(marker) -> None:
    async with Supervisor() as sup:
        program = f"say(b'READY=1'); say(b'STOPPING=1'); os.execvp('sleep', ['sleep', '{marker}'])"
        service = Service("n", talking(program), type="notify", grace=0.2, restart="temporary")
        handle = await sup.start(service)
        with anyio.fail_after(20):
            assert await handle.wait() is ServiceState.FAILED
        assert "has said that it stops" in handle.status_text


# --- at any moment ------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_tasks_that_are_cancelled_by_asyncio_itself(tmp_path: Path, marker) -> None:
    """Their services are stopped, and say why; nothing hangs and nothing is left."""
    others = asyncio.all_tasks()
    async with Supervisor() as sup:
        await sup.start(
            Service("a", ["sleep", marker], restart="temporary", pre_stop=sh("exit 0")),
            Service("b", daemon(marker), type="forking", cwd=tmp_path, restart="temporary"),
        )
        sup.start_soon(
            Service("c", ["sleep", marker], pre_start=["sleep", marker]),
            Service("d", ["sleep", marker], type="oneshot"),
            Service("e", ["sleep", marker], post_start=["sleep", marker]),
        )
        while len(marker.pids()) < 6:
            await anyio.sleep(0.01)
        for task in asyncio.all_tasks() - others:
            task.cancel()
    assert not marker.pids()
