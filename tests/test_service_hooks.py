"""What is done before and after a service starts and stops, in time and at any moment."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentsup import (
    Escalation,
    Hook,
    HttpProbe,
    NotReady,
    Service,
    ServiceState,
    Step,
    Supervisor,
    UnixProbe,
)

pytestmark = pytest.mark.anyio


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def hanging(marker: str, started: str = "started") -> list[str]:
    return sh(f"touch {started}; exec sleep {marker}")


HOOKS = ("pre_start", "post_start", "pre_stop", "post_stop")


async def test_all_of_them_in_order(tmp_path: Path) -> None:
    """Each is told the main process as long as there is one, and the last ones how it ended."""
    seen: list[str] = []

    async def later(name: str) -> None:
        await anyio.sleep(0)
        seen.append(name)

    def both(name: str) -> list[Any]:
        command = sh(
            f"echo {name} ${{MAINPID:-none}} $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS >> log"
        )
        return [lambda: seen.append(name), command, lambda: later(name)]

    async with Supervisor() as sup:
        hooks = {name: both(name) for name in HOOKS}
        handle = await sup.start(Service("s", sh("exec sleep 99"), cwd=tmp_path, **hooks))
        assert seen == ["pre_start"] * 2 + ["post_start"] * 2
        pid = handle.pid
        await handle.stop()
    assert seen == [name for name in HOOKS for _ in range(2)]
    assert (tmp_path / "log").read_text().splitlines() == [
        "pre_start none",
        f"post_start {pid}",
        f"pre_stop {pid}",
        "post_stop none success killed TERM",
    ]


async def test_how_it_has_ended(tmp_path: Path) -> None:
    """The names are those of systemd.exec(5). However it ended, its post-stop hook is run."""
    (tmp_path / "odd").write_text("#!/no/such/interpreter")
    (tmp_path / "odd").chmod(0o755)
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("exit 0", {}, "success exited 0"),
        ("exit 3", {}, "exit-code exited 3"),
        ("exit 3", {"success_exit_status": {0, 3}}, "success exited 3"),
        ("kill -9 $$", {}, "signal killed KILL"),
        ("exit 0", {"type": "notify"}, "protocol exited 0"),
        ("exit 3", {"type": "notify"}, "exit-code exited 3"),
        ("exec sleep 99", {"type": "notify", "start_timeout": 0.1}, "timeout killed TERM"),
        ("exec sleep 99", {"type": "oneshot", "start_timeout": 0.1}, "timeout killed TERM"),
        ("exit 0", {"pre_start": ["false"]}, "exit-code"),
        ("exit 0", {"command": ["./odd"]}, "resources"),
        ("exec sleep 99", {"post_start": ["false"]}, "exit-code killed TERM"),
    ]
    handles = []
    async with Supervisor() as sup:
        for n, (script, given, _) in enumerate(cases):
            options = {"command": sh(script), "restart": "temporary", "cwd": tmp_path, **given}
            post_stop = sh(f"echo $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS > told{n}")
            service = Service(name=f"s{n}", post_stop=post_stop, **options)
            handles.append(sup.start_soon(service))
        with anyio.fail_after(20):
            for handle in handles:
                await handle.wait()
    told = [(tmp_path / f"told{n}").read_text().strip() for n in range(len(cases))]
    assert told == [names for _, _, names in cases]


@pytest.mark.parametrize(
    ("name", "hook", "reason"),
    [
        ("pre_start", sh("echo because; exit 3"), "exited with status 3: because"),
        ("pre_start", Hook(["sleep", "MARKER"], timeout=0.1), "timed out after"),
        ("pre_start", ["/no/such/program"], "SpawnError: .*No such file"),
        ("post_start", sh("exit 3"), "exited with status 3"),
        ("post_start", Hook(["sleep", "MARKER"], timeout=0.1), "timed out after"),
        ("post_start", Hook(lambda: UnixProbe(), timeout=0.1), "TypeError"),
        ("post_start", Hook(lambda: anyio.sleep(99), timeout=0.1), r"no answer within 0\.1 s"),
    ],
)
async def test_one_that_fails_is_a_failed_start(tmp_path, marker, name, hook, reason) -> None:
    """Nothing after it is done but post_stop, and the program does not run on."""
    if isinstance(hook, Hook) and "MARKER" in str(hook.action):
        hook = Hook(["sleep", marker], timeout=hook.timeout)
    service = Service(
        *("s", sh(f"touch ran; exec sleep {marker}")),
        **{name: [hook, sh("touch second")]},
        pre_stop=sh("touch pre_stop"),
        post_stop=sh("touch post_stop"),
        cwd=tmp_path,
    )
    async with Supervisor() as sup:
        with pytest.raises(NotReady, match=rf"^s: {name} \(.*\): {reason}"):
            await sup.start(service)
        assert sup.tree() == ()
        assert not marker.pids()
    left = {path.name for path in tmp_path.iterdir()}
    assert (
        left == {"post_stop"}
        if name == "pre_start"
        else {"post_stop"} <= left <= {*("post_stop", "ran")}
    )


@pytest.mark.parametrize("name", ["pre_stop", "post_stop"])
async def test_one_that_fails_does_not_hold_up_a_stop(tmp_path, marker, caplog, name) -> None:
    service = Service("s", ["sleep", marker], **{name: sh("exit 3")}, cwd=tmp_path)
    async with Supervisor() as sup:
        handle = await sup.start(service)
        await handle.stop()
        assert handle.state is ServiceState.INACTIVE
        assert not marker.pids()
    assert f"s: {name} (" in caplog.text
    assert "exited with status 3" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it takes its time
async def test_one_that_takes_too_long_is_asked_to_end(tmp_path: Path) -> None:
    """By SIGTERM, before it is killed."""
    slow = sh("trap 'echo asked > asked; exit' TERM; touch started; sleep 99 & wait")
    async with Supervisor() as sup:
        service = Service("s", ["true"], pre_start=Hook(slow, timeout=0.5), cwd=tmp_path)
        with pytest.raises(NotReady, match="timed out after"):
            await sup.start(service)
    if (tmp_path / "started").exists():  # which takes longer on a machine that is busy
        assert (tmp_path / "asked").exists()


# --- stopping -----------------------------------------------------------------------------------


async def test_pre_stop_is_for_one_that_runs_and_is_to_stop(tmp_path: Path) -> None:
    async with Supervisor() as sup:
        service = Service(
            *("s", sh("exit 1")), restart="temporary", pre_stop=sh("touch no"), cwd=tmp_path
        )
        handle = await sup.start(service)
        with anyio.fail_after(20):
            await handle.wait()
    assert not (tmp_path / "no").exists()


async def test_it_runs_while_pre_stop_hooks_do(tmp_path: Path, marker) -> None:
    """A command, a request and a function, whether they succeed or not."""
    seen: list[object] = []

    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            seen.append((await stream.receive()).split()[:2])
            seen.append(marker.pids())
            await stream.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    path = os.path.relpath(tmp_path / "s")
    async with (
        await anyio.create_unix_listener(path) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, answer)
        async with Supervisor() as sup:
            service = Service(
                *("s", ["sleep", marker]),
                pre_stop=[
                    sh("kill -0 $MAINPID && touch alive"),
                    HttpProbe("http://s/drain", method="POST", unix_socket=path),
                    lambda: seen.append(marker.pids()),
                ],
                cwd=tmp_path,
            )
            handle = await sup.start(service)
            pid = handle.pid
            await handle.stop()
        tasks.cancel_scope.cancel()
    assert (tmp_path / "alive").exists()
    assert seen == [[b"POST", b"/drain"], [pid], [pid]]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it takes its time
async def test_pre_stop_leaves_time_for_the_rest(tmp_path: Path, marker, eventually) -> None:
    """A hook that does not end, not even when asked to, does not take the time to be asked."""
    main = sh("trap 'touch asked; exit 0' TERM; touch up; while :; do sleep 0.01; done")
    stubborn = sh(f"trap '' TERM; sleep {marker}")
    async with Supervisor() as sup:
        service = Service("s", main, pre_stop=Hook(stubborn, timeout=600), grace=2, cwd=tmp_path)
        handle = await sup.start(service)
        await eventually((tmp_path / "up").exists)
        await handle.stop()
        assert not marker.pids()
        assert handle.result is not None
        assert handle.result.escalation[0].action == "SIGTERM"
    assert (tmp_path / "asked").exists()


async def test_without_any_grace(tmp_path: Path, marker) -> None:
    async with Supervisor() as sup:
        service = Service(
            *("s", ["sleep", marker]), pre_stop=["sleep", marker], escalation=Escalation()
        )
        handle = await sup.start(service)
        await handle.stop()
        assert not marker.pids()
        assert handle.result is not None
        assert [step.action for step in handle.result.escalation] == ["SIGKILL"]


async def test_a_pre_stop_hook_may_end_it_and_go_on(tmp_path: Path) -> None:
    """As ``kill $MAINPID; rm lock``, which is common."""
    hook = sh("kill -9 $MAINPID; while kill -0 $MAINPID; do sleep 0.01; done; touch done")
    async with Supervisor() as sup:
        service = Service(
            *("s", ["sleep", "99"]),
            pre_stop=hook,
            post_stop=sh("test -e done && echo $EXIT_STATUS > told"),
            grace=60,
            cwd=tmp_path,
        )
        handle = await sup.start(service)
        await handle.stop()
        assert handle.state is ServiceState.INACTIVE
    assert (tmp_path / "told").read_text() == "KILL\n"


async def test_a_step_of_the_escalation_is_told_of_the_daemon(tmp_path: Path, marker) -> None:
    async with Supervisor() as sup:
        service = Service(
            *("s", sh(f"sleep {marker} > /dev/null 2>&1 & echo $! > pid")),
            type="forking",
            pid_file="pid",
            escalation=Escalation(Step(sh("echo $MAINPID > told; kill -9 $MAINPID"), 60)),
            cwd=tmp_path,
        )
        handle = await sup.start(service)
        await handle.stop()
    assert (tmp_path / "told").read_text() == (tmp_path / "pid").read_text()


@pytest.mark.parametrize("moment", ["pre_start", "startup", "post_start", "pre_stop", "post_stop"])
async def test_stopped_at_any_moment(tmp_path: Path, marker, eventually, moment) -> None:
    """Nothing is left, and what is to be done after a stop is done."""
    hooks: dict[str, Any] = {"post_stop": [sh("touch stopped")]}
    if moment != "startup":
        hook = Hook(hanging(marker), timeout=0.3 if moment == "post_stop" else 600)
        hooks[moment] = [*hooks.get(moment, ()), hook]
    service = Service(
        *("s", hanging(marker, "running")),
        type="notify" if moment == "startup" else "simple",
        grace=1,
        cwd=tmp_path,
        **hooks,
    )
    async with Supervisor() as sup:
        handle = sup.start_soon(service)
        awaited = {"startup": "running", "pre_start": "started", "post_start": "started"}
        if moment in awaited:
            await eventually((tmp_path / awaited[moment]).exists)
        else:
            await handle.wait_ready()
        with anyio.fail_after(20):
            await handle.stop()
        assert handle.state is ServiceState.INACTIVE
        assert not marker.pids()
        if moment == "pre_start":
            assert not (tmp_path / "running").exists()
    assert (tmp_path / "stopped").exists()


async def test_the_block_is_left_during_a_hook(tmp_path: Path, marker, eventually) -> None:
    """By a cancellation, which waits for what there is to be done."""
    with anyio.CancelScope() as scope:
        async with Supervisor() as sup:
            sup.start_soon(
                Service("a", ["sleep", marker], pre_start=hanging(marker, "a"), cwd=tmp_path),
                Service(
                    *("b", ["sleep", marker]),
                    pre_stop=sh("touch pre_stop"),
                    post_stop=sh("touch post_stop"),
                    cwd=tmp_path,
                ),
            )
            await sup.service("b").wait_ready()
            await eventually((tmp_path / "a").exists)
            scope.cancel()
    assert not marker.pids()
    assert (tmp_path / "pre_stop").exists()
    assert (tmp_path / "post_stop").exists()


async def test_a_restart_goes_through_all_of_them(tmp_path: Path) -> None:
    async with Supervisor() as sup:
        hooks = {name: sh(f"echo {name} >> log") for name in HOOKS}
        service = Service("s", ["sleep", "99"], cwd=tmp_path, **hooks)
        handle = await sup.start(service)
        events = sup.events()
        os.kill(handle.pid, signal.SIGKILL)
        with anyio.fail_after(20):
            async for event in events:
                if event.state is ServiceState.ACTIVE:
                    break
    log = (tmp_path / "log").read_text().split()
    assert log == [*HOOKS[:2], HOOKS[3], *HOOKS]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it takes its time
async def test_hooks_may_speak_for_it(tmp_path: Path) -> None:
    """With ``notify_access="exec"``. Before it runs, none can say that it is ready."""
    program = """
import os, socket, sys
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(
    sys.argv[1].encode(), os.environ["NOTIFY_SOCKET"])
"""
    say = [sys.executable, "-IS", "-c", program]
    async with Supervisor() as sup:
        service = Service(
            *("s", ["sleep", "99"]),
            type="notify",
            notify_access="exec",
            pre_start=[*say, "READY=1\nSTATUS=prepared"],
            start_timeout=0.3,
            restart="temporary",
        )
        handle = sup.start_soon(service)
        texts = set()
        with anyio.fail_after(20):
            async for event in sup.events():
                texts.add(handle.status_text)
                if event.state is ServiceState.FAILED:
                    break
        assert event.reason.startswith("not ready within 0.3 s: it has not said READY=1")
