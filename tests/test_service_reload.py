"""A service reads its configuration again: because it was asked to, or by itself."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio
import pytest

from agentsup import Hook, NotReady, Service, ServiceState, Supervisor

pytestmark = pytest.mark.anyio

TALK = """
import os, signal, socket, sys, time
channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def say(*lines):
    channel.sendto("\\n".join(lines).encode(), os.environ["NOTIFY_SOCKET"])
def now():
    return "MONOTONIC_USEC=%d" % (time.monotonic_ns() // 1000)
"""


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def talking(program: str) -> list[str]:
    return [sys.executable, "-IS", "-c", TALK + program]


async def states(events, last: ServiceState) -> list[str]:
    found = []
    with anyio.fail_after(20):
        async for event in events:
            found.append(event.state.value)
            if event.state is last:
                return found
    raise AssertionError


async def test_by_a_signal(tmp_path: Path, eventually) -> None:
    script = "trap 'echo again' HUP; echo up; while :; do sleep 0.01; done"
    async with Supervisor() as sup:
        handle = await sup.start(Service("s", sh(script), reload="HUP"))
        await eventually(lambda: handle.output == "up\n")
        events = sup.events()
        await handle.reload()
        assert await states(events, ServiceState.ACTIVE) == ["reloading", "active"]
        await eventually(lambda: handle.output == "up\nagain\n")


async def test_a_signal_goes_to_the_daemon(tmp_path: Path, eventually) -> None:
    script = "sh -c 'trap \"touch again\" HUP; echo $$ > pid; while :; do sleep 0.01; done' &"
    async with Supervisor() as sup:
        handle = await sup.start(
            Service("s", sh(script), type="forking", pid_file="pid", reload="HUP", cwd=tmp_path)
        )
        await handle.reload()
        await eventually((tmp_path / "again").exists)
        assert handle.state is ServiceState.ACTIVE


@pytest.mark.parametrize("kind", ["command", "function"])
async def test_by_a_hook(tmp_path: Path, kind) -> None:
    seen: list[ServiceState] = []

    async def look() -> None:
        seen.append(handle.state)

    hook = sh("echo $MAINPID > again") if kind == "command" else look
    async with Supervisor() as sup:
        handle = await sup.start(Service("s", ["sleep", "99"], reload=Hook(hook), cwd=tmp_path))
        await handle.reload()
        assert handle.state is ServiceState.ACTIVE
        if kind == "command":
            assert (tmp_path / "again").read_text() == f"{handle.pid}\n"
        else:
            assert seen == [ServiceState.RELOADING]


async def test_one_that_fails(tmp_path: Path, marker) -> None:
    """The service runs on as it was."""
    async with Supervisor() as sup:
        plain = await sup.start(Service("plain", ["sleep", marker]))
        with pytest.raises(ValueError, match=r"plain: Service\.reload"):
            await plain.reload()
        for name, hook, why in (
            ("fails", Hook(sh("exit 3")), "exited with status 3"),
            ("hangs", Hook(["sleep", marker], timeout=0.1), "timed out"),
        ):
            handle = await sup.start(Service(name, ["sleep", marker], reload=hook))
            pid = handle.pid
            with pytest.raises(NotReady, match=rf"{name}: reload \(.*{why}"):
                await handle.reload()
            assert handle.state is ServiceState.ACTIVE
            assert handle.pid == pid
            await handle.stop()
            with pytest.raises(NotReady, match="while it is inactive"):
                await handle.reload()


async def test_it_says_when_it_is_done(tmp_path: Path) -> None:
    """A READY=1 that belongs to a reload of before does not count."""
    program = """
past = now()
def reload(*_):
    say("RELOADING=1", past)
    say("READY=1", "STATUS=the old one")
    time.sleep(0.05)
    say("RELOADING=1", now())
    say("STATUS=in the middle")
    time.sleep(0.05)
    say("READY=1", "STATUS=done")
signal.signal(signal.SIGHUP, reload)
say("READY=1")
while True:
    signal.pause()
"""
    async with Supervisor() as sup:
        handle = await sup.start(Service("s", talking(program), type="notify", reload="HUP"))
        events = sup.events()
        await handle.reload()
        assert handle.status_text == "done"
        assert await states(events, ServiceState.ACTIVE) == ["reloading", "active"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it takes its time
async def test_it_never_says_it() -> None:
    program = """
signal.signal(signal.SIGHUP, lambda *_: say("STATUS=heard"))
say("READY=1")
while True:
    signal.pause()
"""
    async with Supervisor() as sup:
        service = Service("s", talking(program), type="notify", reload="HUP", start_timeout=3)
        handle = await sup.start(service)
        with pytest.raises(NotReady, match=r"not reloaded within 3 s"):
            await handle.reload()
        assert handle.state is ServiceState.ACTIVE
        assert handle.status_text == "heard"


async def test_it_reloads_by_itself(tmp_path: Path, eventually) -> None:
    program = """
say("READY=1")
while not os.path.exists("go"):
    time.sleep(0.01)
say("RELOADING=1", now())
while not os.path.exists("done"):
    time.sleep(0.01)
say("READY=1")
time.sleep(99)
"""
    async with Supervisor() as sup:
        handle = await sup.start(Service("s", talking(program), type="notify", cwd=tmp_path))
        (tmp_path / "go").touch()
        await eventually(lambda: handle.state is ServiceState.RELOADING)
        uptime = handle.uptime
        assert uptime is not None
        (tmp_path / "done").touch()
        await eventually(lambda: handle.state is ServiceState.ACTIVE)
        assert handle.restarts == 0


@pytest.mark.parametrize("how", ["stop", "kill", "cancel"])
async def test_it_ends_meanwhile(tmp_path: Path, marker, eventually, how) -> None:
    """Whoever waits for the reload hears of it; if nobody waits any more, it goes on."""
    hook = sh(f"touch begun; while ! test -e go; do sleep 0.01; done; : {marker}")
    outcomes: list[object] = []

    async def reload() -> None:
        try:
            await handle.reload()
        except NotReady as error:
            outcomes.append(error.reason)

    async with Supervisor() as sup:
        handle = await sup.start(
            Service("s", ["sleep", "99"], reload=Hook(hook, timeout=600), cwd=tmp_path)
        )
        pid = handle.pid
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reload)
            await eventually((tmp_path / "begun").exists)
            if how == "stop":
                await handle.stop()
            elif how == "kill":
                os.kill(pid, signal.SIGKILL)
                await eventually(lambda: handle.pid not in (pid, None))
            else:
                tasks.cancel_scope.cancel()
        if how == "cancel":
            assert handle.state is ServiceState.RELOADING
            (tmp_path / "go").touch()
            await eventually(lambda: handle.state is ServiceState.ACTIVE)
            assert handle.pid == pid
            assert outcomes == []
        else:
            assert outcomes == ["it has ended meanwhile"]
        assert not marker.pids()
