"""Services that name each other: who starts, stops, restarts and fails with whom, in what order."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentsup import (
    EventStream,
    NotReady,
    OutputMatches,
    RestartLimitReached,
    Service,
    ServiceHandle,
    ServiceState,
    Supervisor,
)

pytestmark = pytest.mark.anyio
#: For what does not depend on the event loop.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])

ACTIVATING, ACTIVE, BACKOFF, DEACTIVATING, FAILED, INACTIVE = (
    ServiceState.ACTIVATING,
    ServiceState.ACTIVE,
    ServiceState.BACKOFF,
    ServiceState.DEACTIVATING,
    ServiceState.FAILED,
    ServiceState.INACTIVE,
)
UP = OutputMatches("up")
TOKENS = {ACTIVE: "+", DEACTIVATING: "-", INACTIVE: ".", FAILED: "!"}


def sleeper(name: str, **options: Any) -> Service:
    return Service(name, ["sleep", "1000"], **options)


def gated(name: str, gate: Path, **options: Any) -> Service:
    """Ready once the file is there."""
    script = f"until [ -e {gate} ]; do sleep 0.02; done; echo up; exec sleep 1000"
    return Service(name, ["sh", "-c", script], ready=UP, **options)


def kill(handle: ServiceHandle) -> None:
    assert handle.pid
    os.kill(handle.pid, signal.SIGKILL)


def seen(events: EventStream) -> str:
    """What has happened, unread till now: ``+a`` ready, ``-a`` stopping, ``.a`` down, ``!a``."""
    line = [TOKENS[one.state] + one.service for one in events._queue if one.state in TOKENS]
    events._queue.clear()
    return " ".join(line)


async def until(events: EventStream, service: str, state: ServiceState) -> None:
    with anyio.fail_after(20):
        async for event in events:
            if (event.service, event.state) == (service, state):
                return


# --- starting ---------------------------------------------------------------------------------


async def test_each_starts_when_those_before_it_are_ready_and_stops_before_they_do() -> None:
    async with Supervisor() as sup:
        events = sup.events()
        await sup.start(
            sleeper("c", after=["b"]), sleeper("b", after="a"), sleeper("a"), sleeper("d")
        )
        line = seen(events).split()
        assert line.index("+a") < line.index("+b") < line.index("+c")
    line = seen(events).split()
    assert line.index(".c") < line.index("-b") < line.index(".b") < line.index("-a")


@one_loop
async def test_those_that_can_start_in_parallel(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with Supervisor() as sup:
        events = sup.events()
        one, two, last = sup.start_soon(
            gated("one", gate), gated("two", gate), sleeper("last", after=("one", "two"))
        )
        await until(events, "two", ACTIVATING)
        with anyio.fail_after(20):
            while not (one.pid and two.pid):  # both run, and neither is ready
                await anyio.sleep(0.005)
        assert (one.state, two.state, last.state) == (ACTIVATING,) * 3
        assert last.pid is None
        gate.touch()
        await last.wait_ready()
        assert (one.state, two.state) == (ACTIVE, ACTIVE)


@one_loop
async def test_after_alone_starts_nothing_and_survives_a_failure() -> None:
    async with Supervisor() as sup:
        events = sup.events()
        a = await sup.start(sleeper("a"))
        await a.stop()
        b = await sup.start(sleeper("b", after="a"))
        assert (a.state, b.state) == (INACTIVE, ACTIVE)
        failing = Service("c", ["false"], ready=UP, restart="temporary")
        d = sup.start_soon(failing, sleeper("d", after="c"))[1]
        await d.wait_ready()
        assert seen(events).split()[-2:] == ["!c", "+d"]


@one_loop
async def test_what_comes_after_one_in_a_crash_loop_does_not_wait_for_its_end() -> None:
    async with Supervisor(max_restarts=None) as sup:
        failing = Service("a", ["false"], ready=UP, backoff=lambda _: 600.0)
        a, b, c = sup.start_soon(
            failing, sleeper("b", after="a", wants="a"), sleeper("c", after="a", requires="a")
        )
        await b.wait_ready()
        assert a.state is BACKOFF
        await sup.start(sleeper("d"))  # c would have started before that
        assert (c.state, c.pid) == (ACTIVATING, None)  # that one cannot do without it


@one_loop
async def test_requires_and_wants_start_the_other() -> None:
    async with Supervisor() as sup:
        a, b = await sup.start(sleeper("a"), sleeper("b"))
        await a.stop()
        await b.stop()
        c = await sup.start(sleeper("c", requires="a", wants="b", after=("a", "b")))
        assert [one.state for one in (a, b, c)] == [ACTIVE] * 3
        await a.stop()
        assert [one.state for one in (a, b, c)] == [INACTIVE, ACTIVE, INACTIVE]
        await b.stop()
        await c.start()
        assert [one.state for one in (a, b, c)] == [ACTIVE] * 3
        await b.stop()
        assert c.state is ACTIVE


@one_loop
async def test_one_that_requires_what_is_being_stopped_starts_after_that() -> None:
    slow = "trap 'sleep 0.2; exit' TERM; echo up; while :; do sleep 0.02; done"
    async with Supervisor() as sup:
        a = await sup.start(Service("a", ["sh", "-c", slow], ready=UP))
        events = sup.events()
        a.stop_soon()
        await until(events, "a", DEACTIVATING)
        await sup.start(sleeper("b", requires="a", after="a"))
        assert seen(events) == ".a +a +b"


# --- failing ----------------------------------------------------------------------------------


async def test_a_start_that_fails_fails_those_that_require_it_and_come_after_it() -> None:
    async with Supervisor() as sup:
        failing = Service("a", ["sh", "-c", "echo why; exit 1"], ready=UP, restart="temporary")
        services = (
            sleeper("b", requires="a", after="a"),
            sleeper("c", requires="b", after="b"),
            sleeper("unordered", requires="a"),
            sleeper("wanting", wants="a", after="a"),
        )
        with pytest.raises(NotReady, match=r"^a: it ended before .* status 1\nwhy"):
            await sup.start(*services, failing)  # the cause is raised, not what follows from it
        assert sup.tree() == ()
        b, c, unordered, wanting, a = sup.start_soon(*services, failing)
        assert await c.wait() is FAILED
        assert (a.state, b.state) == (FAILED, FAILED)
        assert b.status_text == "dependency failed: a"
        assert c.status_text == "dependency failed: b"
        await unordered.wait_ready()
        await wanting.wait_ready()


@one_loop
async def test_a_failure_that_is_mended_by_a_restart_fails_nobody(tmp_path: Path) -> None:
    path = tmp_path / "second"
    flaky = f"[ -e {path} ] && echo up && exec sleep 1000; touch {path}; exit 1"
    async with Supervisor() as sup:
        events = sup.events()
        b = sup.start_soon(
            Service("a", ["sh", "-c", flaky], ready=UP), sleeper("b", requires="a", after="a")
        )[1]
        await b.wait_ready()
        assert seen(events) == "+a +b"
        await sup.start(sleeper("c", requires="a", after="a"))


@one_loop
async def test_what_ends_for_good_does_not_stop_those_that_require_it() -> None:
    async with Supervisor() as sup:
        a, b = await sup.start(
            sleeper("a", restart="temporary"), sleeper("b", requires="a", after="a")
        )
        kill(a)
        assert await a.wait() is FAILED
        assert b.state is ACTIVE
        assert [node.name for node in sup.tree()] == ["a", "b"]  # a is named, so it is kept
        await a.start()
        assert a.state is ACTIVE


# --- restarting -------------------------------------------------------------------------------


async def test_a_restart_goes_on_to_those_that_require_it_or_are_part_of_it() -> None:
    async with Supervisor() as sup:
        a, b, c, idle, wanting = await sup.start(
            sleeper("a"),
            sleeper("b", requires="a", after="a"),
            sleeper("c", part_of="b", after="b"),
            sleeper("idle", part_of="a"),
            sleeper("wanting", wants="a", after="a"),
        )
        await idle.stop()
        assert a.state is ACTIVE  # it is the part that is stopped
        pid = wanting.pid
        events = sup.events()
        await a.restart()
        await c.wait_ready()
        assert seen(events) == "-c .c -b .b -a .a +a +b +c"
        assert (idle.state, wanting.pid) == (INACTIVE, pid)
        kill(a)  # the restart that follows from its rule is one, too
        await until(events, "c", ACTIVE)
        assert [one.restarts for one in (a, b, c)] == [1, 0, 0]
        assert all(one.ready for one in (a, b, c))
        assert (idle.state, wanting.pid) == (INACTIVE, pid)
        await b.stop()
        assert [one.state for one in (a, b, c)] == [ACTIVE, INACTIVE, INACTIVE]


async def test_siblings_that_wait_for_a_restart_can_be_stopped_and_started() -> None:
    async with Supervisor(strategy="one_for_all") as sup:
        a, b, c = await sup.start(sleeper("a"), sleeper("b", backoff=lambda _: 600.0), sleeper("c"))
        events = sup.events()
        kill(b)
        await until(events, "c", BACKOFF)
        assert {a.state, b.state, c.state} == {BACKOFF}
        assert a.status_text.startswith("restarts with its siblings; next start in ")
        with anyio.fail_after(20):
            await a.stop()
            assert await a.wait() is INACTIVE
            await b.start()
            await c.start()
        assert [one.state for one in (a, b, c)] == [INACTIVE, ACTIVE, ACTIVE]


@one_loop
async def test_under_rest_for_one_the_next_waits_until_its_predecessor_is_ready_again(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    async with Supervisor(strategy="rest_for_one") as sup:
        a, b, c = await sup.start(sleeper("a"), gated("b", gate), sleeper("c"))
        events = sup.events()
        gate.unlink()
        kill(b)
        await until(events, "c", ACTIVATING)
        assert (b.ready, c.pid) == (False, None)
        gate.touch()
        await c.wait_ready()
        assert seen(events) == "+b +c"
        assert a.restarts == 0


# --- conflicts --------------------------------------------------------------------------------


@pytest.mark.parametrize("said_by", ["first", "second"])
@one_loop
async def test_of_two_that_conflict_the_later_one_runs(said_by: str) -> None:
    relation = {said_by: {"conflicts": {"first": "second", "second": "first"}[said_by]}}
    async with Supervisor() as sup:
        names = ("second", "first") if said_by == "first" else ("first", "second")
        for name in names:
            await sup.start(sleeper(name, **relation.get(name, {})))
        first, second = sup.service("first"), sup.service("second")
        await first.start()
        events = sup.events()
        await second.start()
        assert seen(events) == "-first .first +second"
        await first.start()
        assert seen(events) == "-second .second +first"


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_can_never_work_is_said_before_anything_starts() -> None:
    wrong = [
        ([sleeper("web", after="b"), sleeper("db")], "after of 'web': there is no 'b'"),
        ([sleeper("web", requires="dbb"), sleeper("db")], "requires of 'web': .* mean 'db'?"),
        ([sleeper("web", wants="web")], "wants: 'web' names itself"),
        ([sleeper("x", after="y"), sleeper("y", after="x")], "after: [xy] -> [xy] -> [xy] is a c"),
        ([sleeper("x", requires="y", conflicts="y"), sleeper("y")], "conflicts: 'x' conf"),
        ([sleeper("x", conflicts="y"), sleeper("y")], "conflicts: .* are to start together"),
    ]
    async with Supervisor() as sup:
        events = sup.events()
        for services, message in wrong:
            with pytest.raises(ValueError, match=r"^" + message):
                await sup.start(*services)
            with pytest.raises(ValueError, match=r"^" + message):
                sup.start_soon(*services)
        assert sup.tree() == ()
        assert seen(events) == ""
        a = await sup.start(sleeper("a"))
        b = await sup.start(sleeper("b", after="a"))
        await a.stop()
        with pytest.raises(ValueError, match=r"^'a' is named by another service; remove that"):
            a.remove()
        await b.stop()
        b.remove()
        a.remove()
    with pytest.raises(ValueError, match=r"^template: its children can have neither sockets nor"):
        Supervisor(strategy="simple_one_for_one", template=sleeper("a", after="b"))
    async with Supervisor(strategy="one_for_all") as sup:
        with pytest.raises(ValueError, match=r"^conflicts: with 'one_for_all', all run together"):
            await sup.start(sleeper("a"), sleeper("b", conflicts="a"))
        with pytest.raises(ValueError, match=r"^after: [ab] -> [ab] -> [ab] is a cycle"):
            await sup.start(sleeper("a", after="b"), sleeper("b"))


@one_loop
async def test_a_limit_stops_them_all_in_reverse_order() -> None:
    events = None
    with pytest.raises(ExceptionGroup) as caught:
        async with Supervisor(max_restarts=0) as sup:
            a = await sup.start(sleeper("a"))
            await sup.start(sleeper("b", after="a"), sleeper("c", after="b"))
            events = sup.events()
            kill(a)
            await anyio.sleep_forever()
    assert caught.group_contains(RestartLimitReached, match=r"^a: more than 0 restarts within 5 s")
    assert events is not None
    assert seen(events) == "!a -c .c -b .b"
