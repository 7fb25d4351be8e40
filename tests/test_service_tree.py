"""A service under a supervisor: its handle, its events, its line in the tree, and its start."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentsup import (
    EventStream,
    NotReady,
    OutputMatches,
    Service,
    ServiceEvent,
    ServiceHandle,
    ServiceState,
    SpawnError,
    Supervisor,
    SupervisorClosed,
)

pytestmark = pytest.mark.anyio
#: For what does not depend on the event loop.
one_loop = pytest.mark.parametrize("anyio_backend", ["trio"])

Eventually = Callable[..., Awaitable[None]]

ACTIVATING, ACTIVE, BACKOFF, DEACTIVATING, FAILED, INACTIVE = (
    ServiceState.ACTIVATING,
    ServiceState.ACTIVE,
    ServiceState.BACKOFF,
    ServiceState.DEACTIVATING,
    ServiceState.FAILED,
    ServiceState.INACTIVE,
)

#: Says "up" once it heeds SIGTERM no more.
STUBBORN = "trap '' TERM; echo up; exec sleep 1000"
#: The same, but it ends a while after SIGTERM.
SLOW = "trap 'sleep 0.2; exit' TERM; echo up; while :; do sleep 0.02; done"


def sleeper(name: str = "a", **options: Any) -> Service:
    return Service(name, ["sleep", "1000"], **options)


def sh(script: str, name: str = "a", **options: Any) -> Service:
    return Service(name, ["sh", "-c", script], **options)


UP = OutputMatches("up")


def kill(handle: ServiceHandle, number: int = signal.SIGKILL) -> None:
    assert handle.pid
    os.kill(handle.pid, number)


def is_there(pid: int | None) -> bool:
    assert pid
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until_event(events: EventStream, state: ServiceState, service: str = "a") -> ServiceEvent:
    with anyio.fail_after(20):
        async for event in events:
            if (event.service, event.state) == (service, state):
                return event
    raise AssertionError(f"the stream is over, and there was no {state} of {service}")


# --- the handle -------------------------------------------------------------------------------


async def test_a_service_from_its_start_to_the_end_of_the_block() -> None:
    async with Supervisor() as sup:
        handle = await sup.start(sleeper())
        assert (handle.name, handle.state, handle.restarts) == ("a", ACTIVE, 0)
        assert is_there(handle.pid)
        assert handle.uptime is not None
        assert 0 <= handle.uptime < 60
        assert handle.status_text == "running"
        assert repr(handle) == "<ServiceHandle 'a': active>"
        assert sup.service("a") is handle
        pid = handle.pid
    assert not is_there(pid)
    assert (handle.state, handle.pid, handle.uptime) == (INACTIVE, None, None)
    assert handle.status_text == "stopped"
    assert await handle.wait() is INACTIVE


async def test_restart_stop_and_start() -> None:
    async with Supervisor(max_restarts=0) as sup:
        handle = await sup.start(sleeper())
        first = handle.pid
        await handle.restart()
        assert handle.state is ACTIVE
        assert handle.pid not in (None, first)
        assert handle.restarts == 0  # it has not ended by itself
        await handle.stop()
        assert (handle.state, handle.pid, handle.uptime) == (INACTIVE, None, None)
        assert handle.result
        assert handle.result.signal is signal.SIGTERM
        await handle.stop()  # nothing happens
        await handle.start()
        pid = handle.pid
        await handle.start()  # nothing happens
        assert (handle.state, handle.pid) == (ACTIVE, pid)
        await handle.stop()
        await handle.restart()  # of one that is down: a start
        assert handle.state is ACTIVE


@one_loop
async def test_one_that_does_not_heed_sigterm_is_killed_and_that_is_said() -> None:
    async with Supervisor() as sup:
        handle = await sup.start(sh(STUBBORN, ready=UP, grace=0.1))
        await handle.stop()
        assert (handle.state, handle.status_text) == (INACTIVE, "stopped by SIGKILL")


async def test_a_stop_that_is_cancelled_goes_on() -> None:
    async with Supervisor() as sup:
        handle = await sup.start(sh(STUBBORN, ready=UP, grace=0.5))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await handle.stop()
        with anyio.fail_after(60):
            assert await handle.wait() is INACTIVE


@one_loop
async def test_a_start_during_the_stop_follows_it(eventually: Eventually) -> None:
    async with Supervisor() as sup:
        handle = await sup.start(sh(SLOW, ready=UP))
        pid = handle.pid
        handle.stop_soon()
        await eventually(lambda: handle.state is DEACTIVATING)
        await handle.start()
        assert handle.state is ACTIVE
        assert not is_there(pid)


@one_loop
async def test_a_stop_during_a_restart_ends_it(eventually: Eventually) -> None:
    async with Supervisor() as sup:
        handle = await sup.start(sh(SLOW, ready=UP))

        async def restart() -> None:
            with pytest.raises(NotReady, match=r"^a: stopped"):
                await handle.restart()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(restart)
            await eventually(lambda: handle.state is DEACTIVATING)
            await handle.stop()
        assert (handle.state, handle.pid) == (INACTIVE, None)


@one_loop
async def test_several_restarts_at_once() -> None:
    async with Supervisor(max_restarts=0) as sup:
        handle = await sup.start(sleeper())
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(handle.restart)
        assert handle.state is ACTIVE
        assert is_there(handle.pid)


@one_loop
async def test_a_stop_does_not_wait_for_that_of_another(eventually: Eventually) -> None:
    async with Supervisor() as sup:
        slow, quick = await sup.start(sh(STUBBORN, "slow", ready=UP, grace=600), sleeper("quick"))
        slow.stop_soon()
        await eventually(lambda: slow.state is DEACTIVATING)
        with anyio.fail_after(60):
            await quick.stop()
            other = await sup.start(sleeper("other"))
        assert (slow.state, other.state) == (DEACTIVATING, ACTIVE)
        kill(slow)


@one_loop
async def test_wait_and_wait_ready(tmp_path: Path) -> None:
    path = tmp_path / "go"
    waiting = sh(f"until [ -e {path} ]; do sleep 0.02; done; echo up; exec sleep 1000", ready=UP)
    async with Supervisor() as sup:
        handle = sup.start_soon(waiting)
        assert handle.state is ACTIVATING
        assert not handle.ready

        async def go() -> None:
            path.touch()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(go)
            await handle.wait_ready()
        assert handle.ready

        async def stop() -> None:
            await handle.stop()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop)
            assert await handle.wait() is INACTIVE
        with pytest.raises(NotReady, match=r"^a: stopped"):
            await handle.wait_ready()


async def test_waiting_ends_with_the_supervisor() -> None:
    seen: list[object] = []

    async def wait(handle: ServiceHandle) -> None:
        seen.append(await handle.wait())

    async def wait_ready(handle: ServiceHandle) -> None:
        with pytest.raises(NotReady, match=r"^a: stopped$"):
            await handle.wait_ready()
        seen.append("not ready")

    async with anyio.create_task_group() as tasks, Supervisor() as sup:
        handle = sup.start_soon(sleeper(ready=UP))
        tasks.start_soon(wait, handle)
        tasks.start_soon(wait_ready, handle)
        await anyio.sleep(0.01)
    assert set(seen) == {INACTIVE, "not ready"}


@one_loop
async def test_reload_errors() -> None:
    async with Supervisor() as sup:
        deaf, hearing = await sup.start(sleeper("deaf"), sleeper("hearing", reload="HUP"))
        with pytest.raises(ValueError, match=r"^deaf: Service.reload says no way to do that$"):
            await deaf.reload()
        await hearing.stop()
        with pytest.raises(NotReady, match=r"^hearing: it cannot reload while it is inactive$"):
            await hearing.reload()


@one_loop
async def test_output() -> None:
    async with Supervisor() as sup:
        handle = await sup.start(
            sh("echo first; echo error >&2; echo up; exec sleep 1000", ready=UP)
        )
        assert handle.output.splitlines()[:1] == ["first"]
        await handle.stop()
        assert handle.output.split() == ["first", "up", "error"]


@one_loop
async def test_a_crash_loop_is_seen_and_counted_until_it_is_stable() -> None:
    async with Supervisor(max_restarts=None) as sup:
        events = sup.events()
        handle = await sup.start(sleeper(stable_after=600))
        assert handle.status_text == "running"
        for text in ["restarted once", "restarted 2 times in a row", "3 times", "4 times"]:
            kill(handle)
            assert (await until_event(events, BACKOFF)).reason == "killed by SIGKILL"
            await until_event(events, ACTIVE)
            assert text in handle.status_text
        assert handle.status_text == "running; crash loop: restarted 4 times in a row"
        assert handle.restarts == 4
        await handle.restart()
        assert (handle.status_text, handle.restarts) == ("running", 4)


@one_loop
async def test_what_has_run_long_enough_is_in_no_crash_loop(eventually: Eventually) -> None:
    async with Supervisor() as sup:
        handle = await sup.start(sleeper(stable_after=0.1))
        kill(handle)
        await eventually(lambda: handle.restarts == 1)
        await handle.wait_ready()
        await eventually(lambda: handle.status_text == "running")


@one_loop
async def test_the_next_start_is_in_the_status_text() -> None:
    async with Supervisor() as sup:
        events = sup.events()
        handle = await sup.start(sleeper(backoff=lambda _: 600.0))
        kill(handle)
        await until_event(events, BACKOFF)
        text = "killed by SIGKILL; restarted once; next start in "
        assert handle.status_text.startswith(text)
        assert 500 < float(handle.status_text.removeprefix(text).removesuffix(" s")) <= 600
        assert (handle.uptime, handle.pid) == (None, None)
        await handle.start()  # it does not wait any longer
        assert (handle.state, handle.status_text) == (ACTIVE, "running")
        kill(handle)
        await until_event(events, BACKOFF)
        await handle.stop()
        assert (handle.state, handle.status_text) == (INACTIVE, "stopped")


# --- events -----------------------------------------------------------------------------------


async def test_events_have_states_times_and_reasons() -> None:
    began = time.time(), time.monotonic()
    async with Supervisor() as sup:
        events = sup.events()
        handle = await sup.start(sleeper())
        pid = handle.pid
        kill(handle)
        await anyio.sleep(0)
        while handle.restarts == 0:
            await until_event(events, BACKOFF)
        await handle.wait_ready()
        late = sup.events()
    seen = [(event.previous, event.state, event.reason) async for event in events]
    assert seen == [
        (BACKOFF, ACTIVATING, "starting"),
        (ACTIVATING, ACTIVE, "running"),
        (ACTIVE, DEACTIVATING, "it is to stop"),
        (DEACTIVATING, INACTIVE, "stopped"),
    ]
    late_ones = [event async for event in late]
    assert [event.state for event in late_ones] == [DEACTIVATING, INACTIVE]
    assert [event.pid in (None, pid) for event in late_ones] == [False, True]
    for event in late_ones:
        assert began[0] <= event.time <= time.time()
        assert began[1] <= event.monotonic <= time.monotonic()
    assert [event async for event in sup.events()] == []  # it has been left


@one_loop
async def test_what_is_not_read_is_dropped_and_counted() -> None:
    async with Supervisor() as sup:
        with pytest.raises(ValueError, match=r"^size must be"):
            sup.events(0)
        small, large = sup.events(2), sup.events()
        await sup.start(sleeper())
    states = [event.state async for event in large]
    assert states == [ACTIVATING, ACTIVE, DEACTIVATING, INACTIVE]
    assert [event.state async for event in small] == states[-2:]
    assert (small.dropped, large.dropped) == (2, 0)


@one_loop
async def test_two_readers_of_one_stream() -> None:
    seen: list[ServiceState] = []

    async def read(events: EventStream) -> None:
        async for event in events:
            seen.append(event.state)

    async with anyio.create_task_group() as tasks, Supervisor() as sup:
        events = sup.events()
        tasks.start_soon(read, events)
        tasks.start_soon(read, events)
        await anyio.sleep(0.01)
        await sup.start(sleeper())
    assert len(seen) == 4


# --- the tree ---------------------------------------------------------------------------------


@one_loop
async def test_the_tree() -> None:
    async with Supervisor() as sup, sup.child("workers") as workers:
        events = sup.events()
        handle = await sup.start(sleeper())
        await workers.start(sleeper("one"))
        async with sup.open(["sleep", "999"], name="tool"):
            service, child, call = sup.tree()
        assert (service.name, service.kind, service.pid) == ("a", "service", handle.pid)
        assert (service.state, service.status_text, service.restarts) == (ACTIVE, "running", 0)
        assert service.argv == ("sleep", "1000")
        assert service.uptime is not None
        assert (child.name, child.kind, child.pid) == ("workers", "supervisor", None)
        assert [node.name for node in child.children] == ["one"]
        assert (call.name, call.kind, call.state) == ("tool", "call", None)
        service.stop()
        assert await handle.wait() is INACTIVE
        assert sup.tree()[0].state is INACTIVE
        service.stop()  # nothing happens
        assert (await until_event(events, ACTIVE, "workers/one")).pid == child.children[0].pid
    service.stop()
    assert sup.tree() == ()


# --- starting ---------------------------------------------------------------------------------


@one_loop
async def test_what_does_not_start_raises_and_does_not_stay() -> None:
    async with Supervisor(max_restarts=0) as sup:
        with pytest.raises(NotReady) as caught:
            await sup.start(sh("echo why; exit 3", ready=UP))
        assert (caught.value.service, caught.value.output) == ("a", "why\n")
        assert caught.value.reason == "it ended before it was ready: exited with status 3"
        with pytest.raises(NotReady, match=r"^a: not ready within 0.05 s: no line of its output"):
            await sup.start(sleeper(ready=UP, start_timeout=0.05))
        with pytest.raises(FileNotFoundError) as missing:
            await sup.start(Service("a", ["/nonexistent"]))
        assert isinstance(missing.value, SpawnError)
        assert sup.tree() == ()
        assert (await sup.start(sleeper())).state is ACTIVE  # the name can be used again


async def test_if_one_of_a_batch_does_not_start_none_stays() -> None:
    async with Supervisor() as sup:
        events = sup.events()
        kept = await sup.start(sleeper("kept"))
        bad = sh("echo why; exit 3", "bad", ready=UP)
        with anyio.fail_after(60), pytest.raises(NotReady, match=r"^bad: .*status 3"):
            # The slow one is not waited for.
            await sup.start(sleeper("slow", ready=UP, start_timeout=600), sleeper(), bad)
        assert [node.name for node in sup.tree()] == ["kept"]
        assert is_there(kept.pid)
    last = {event.service: event.state async for event in events}
    assert last == {"kept": INACTIVE, "slow": INACTIVE, "a": INACTIVE, "bad": FAILED}


async def test_of_a_start_that_is_cancelled_at_any_moment_nothing_is_left() -> None:
    async with Supervisor() as sup:
        started = False
        steps = 0
        while not started:
            assert not sup.tree()
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_cancel_after, steps, scope)
                    await sup.start(sleeper(), sh("echo up; sleep 1000", "b", ready=UP))
                    started = True
                    tasks.cancel_scope.cancel()
            steps += 1 + steps // 4
        assert steps > 1  # else nothing was cancelled; on a busy machine a step or two is enough
        assert [node.state for node in sup.tree()] == [ACTIVE, ACTIVE]


async def _cancel_after(steps: int, scope: anyio.CancelScope) -> None:
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


@one_loop
async def test_start_soon_is_patient(tmp_path: Path) -> None:
    path = tmp_path / "second"
    flaky = sh(f"[ -e {path} ] && echo up && exec sleep 1000; touch {path}; exit 1", ready=UP)
    async with Supervisor() as sup:
        events = sup.events()
        handle = sup.start_soon(flaky)
        await handle.wait_ready()
        assert handle.restarts == 1
        path.unlink()
        with pytest.raises(NotReady, match=r"^a: it ended before it was ready: .*status 1"):
            await handle.restart()  # the first attempt
        await handle.wait_ready()
    states = [event.state async for event in events]
    once = [ACTIVATING, BACKOFF, ACTIVATING, ACTIVE, DEACTIVATING, INACTIVE]
    assert states == once * 2


async def test_a_start_that_is_stopped_has_failed() -> None:
    async with Supervisor() as sup:

        async def stop() -> None:
            await sup.service("a").stop()

        with pytest.raises(NotReady, match=r"^a: stopped$"):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stop)
                try:
                    await sup.start(sleeper(ready=UP))
                except NotReady as error:
                    failed = error
            raise failed
        assert sup.tree() == ()


@one_loop
async def test_names() -> None:
    async with Supervisor() as sup:
        handle = await sup.start(sleeper())
        for services in ([sleeper()], [sleeper("b"), sleeper("b")]):
            with pytest.raises(ValueError, match=r"^Service.name: there is a service '[ab]' alre"):
                sup.start_soon(*services)
        with pytest.raises(TypeError, match=r"^a service must be an agentsup.Service, not 'a'$"):
            await sup.start("a")  # type: ignore[call-overload]  # bad input
        with pytest.raises(ValueError, match=r"^'a' runs; stop it first$"):
            handle.remove()
        await handle.stop()
        with pytest.raises(ValueError, match=r"there is a service 'a' already"):
            sup.start_soon(sleeper())
        handle.remove()
        other = await sup.start(sleeper(restart="temporary"))
        await handle.stop()  # of one that is forgotten: nothing, not even to its successor
        for gone in (handle.start, handle.restart):
            with pytest.raises(SupervisorClosed, match=r"^'a' has ended and is forgotten$"):
                await gone()
        assert other.state is ACTIVE
        kill(other)
        assert await other.wait() is FAILED
        assert sup.tree() == ()  # what is temporary is forgotten at once
        with pytest.raises(KeyError):
            sup.service("a")
        assert (await sup.start(sleeper())).state is ACTIVE


@one_loop
async def test_a_supervisor_that_has_been_left_starts_nothing() -> None:
    sup = Supervisor(strategy="one_for_all")
    with pytest.raises(SupervisorClosed, match=r"has not been entered"):
        sup.start_soon(sleeper())
    async with sup:
        handle = await sup.start(sleeper())
    for start in (lambda: sup.start(sleeper("b")), handle.start, handle.restart):
        with pytest.raises(SupervisorClosed, match=r"this Supervisor (has been|is being) left"):
            await start()
    with pytest.raises(SupervisorClosed):
        async with sup.child("c"):
            pass
    with pytest.raises(SupervisorClosed):
        handle.remove()
    await handle.stop()
    handle.stop_soon()
    assert handle.state is INACTIVE


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_bad_options() -> None:
    wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (TypeError, "unknown argument 'stategy'", {"stategy": "one_for_all"}),
        (ValueError, "strategy must be one of 'one_for_one', ", {"strategy": "all"}),
        (ValueError, "auto_shutdown must be one of ", {"auto_shutdown": "always"}),
        (ValueError, "max_restarts must be ", {"max_restarts": -1}),
        (ValueError, "within must be ", {"within": 0}),
        (ValueError, "template and strategy='simple_one_for_one' ", {"template": sleeper()}),
        (ValueError, "template and ", {"strategy": "simple_one_for_one"}),
        (TypeError, "template must be ", {"strategy": "simple_one_for_one", "template": "a"}),
    ]
    async with Supervisor() as sup:
        for kind, message, options in wrong:
            with pytest.raises(kind, match=r"^" + message):
                Supervisor(**options)
            with pytest.raises(kind, match=r"^" + message):
                async with sup.child("c", **options):
                    pass
        for name in ("", "a/b"):
            with pytest.raises(ValueError, match=r"^name must be a name without a slash, not '"):
                async with sup.child(name):
                    pass
        async with sup.child("c"):
            with pytest.raises(ValueError, match=r"^name: there is a supervisor 'c' already$"):
                async with sup.child("c"):
                    pass
        with pytest.raises(ValueError, match=r"^start_child.. takes "):
            await sup.start_child()
        assert sup.tree() == ()


@one_loop
async def test_children_of_a_template() -> None:
    template = sh('echo up; exec sleep "$0"', "worker", ready=UP)
    async with Supervisor(strategy="simple_one_for_one", template=template) as sup:
        one, two = await sup.start_child("1001"), await sup.start_child("1002", name="two")
        assert [handle.name for handle in (one, two)] == ["worker-1", "two"]
        assert [node.argv[-1] for node in sup.tree()] == ["1001", "1002"]
        with pytest.raises(ValueError, match=r"start_child.. starts services"):
            await sup.start(sleeper())
        with pytest.raises(ValueError, match=r"there is a service 'two' already"):
            await sup.start_child(name="two")
        await one.restart()
        assert one.state is ACTIVE
        await one.stop()
        assert [node.name for node in sup.tree()] == ["two"]
