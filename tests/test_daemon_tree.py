"""The services of a file, running: started, updated, stopped; and supervisors in supervisors."""

from __future__ import annotations

import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import tenacity
from attrs import evolve

import agentsup
from agentsup import NotReady, RestartLimitReached, Service
from agentsup.config import Config, DaemonConfig, ServiceConfig, SupervisorConfig
from agentsup.daemon import tree as tree_module
from agentsup.daemon.tree import Tree, UnknownService

pytestmark = pytest.mark.anyio

Eventually = Callable[..., Awaitable[None]]
AT_ONCE = tenacity.wait_none()


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "RESTART_PAUSE", 0.01)


def service(name: str, command: list[str] | None = None, **options: Any) -> ServiceConfig:
    ours = {key: options.pop(key) for key in ("autostart", "groups") if key in options}
    options.setdefault("backoff", AT_ONCE)
    return ServiceConfig(name, Service(name, command or ["sleep", "1000"], **options), **ours)


def supervisor(name: str, *parts: ServiceConfig | SupervisorConfig, **options: Any) -> Any:
    return SupervisorConfig(name, **_split(parts), **options)


def _split(parts: tuple[ServiceConfig | SupervisorConfig, ...]) -> dict[str, Any]:
    return {
        "services": {one.name: one for one in parts if isinstance(one, ServiceConfig)},
        "supervisors": {one.name: one for one in parts if isinstance(one, SupervisorConfig)},
    }


def config(*parts: ServiceConfig | SupervisorConfig, **daemon: Any) -> Config:
    place = Path("/nowhere")
    ours = DaemonConfig(place / "control.sock", place, **daemon)
    return Config(place / "agentsup.toml", ours, **_split(parts))


def states(tree: Tree) -> dict[str, str]:
    return {one.path: one.state for one in tree.status()}


def pids(tree: Tree) -> dict[str, int | None]:
    return {one.path: one.pid for one in tree.status()}


async def test_starts_what_is_to_start_and_stops_it_in_reverse_order() -> None:
    described = config(
        service("db"),
        service("web", after=["db"], requires=["db"], groups=("front",)),
        service("spare", autostart=False, after=["web"]),
        supervisor("workers", service("a"), supervisor("deep", service("b"))),
    )
    async with Tree(described, None) as tree:
        events = tree.events()
        await tree.wait_tried()
        assert states(tree) == {
            "db": "active",
            "web": "active",
            "spare": "inactive",
            "workers/a": "active",
            "workers/deep/b": "active",
        }
        [db, web, spare, *_, deep] = tree.status()
        assert db.pid
        assert (web.ready, web.groups, web.argv) == (True, ("front",), ("sleep", "1000"))
        assert (spare.pid, spare.autostart, spare.supervisor) == (None, False, "")
        assert deep.supervisor == "workers/deep"
        while events._queue:
            await anext(events)
    down = [event.service async for event in events if event.state.value == "inactive"]
    assert down == ["workers/deep/b", "workers/a", "web", "db"]


async def test_cancelled_it_stops_in_the_same_order() -> None:
    slow = "trap 'sleep 0.2; exit' TERM; echo up; while :; do sleep 0.05; done"
    a = service("a", ["sh", "-c", slow], ready=agentsup.OutputMatches("up"))
    described = config(service("db"), supervisor("one", service("b")), supervisor("two", a))
    with anyio.CancelScope() as scope:
        async with Tree(described, None) as tree:
            await tree.wait_tried()
            events = tree.events()
            scope.cancel()
            await anyio.sleep_forever()
    down = [event.service async for event in events if event.state.value == "inactive"]
    assert down == ["two/a", "one/b", "db"]


async def test_what_a_pattern_means() -> None:
    described = config(
        service("web", autostart=False, groups=("front",)),
        supervisor(
            "workers",
            service("a", autostart=False, groups=("front",)),
            service("b", autostart=False),
        ),
    )
    async with Tree(described, None) as tree:
        await tree.wait_tried()
        assert tree.match() == tree.match(["*"]) == ["web", "workers/a", "workers/b"]
        assert tree.match(["workers"]) == tree.match(["workers/*"]) == ["workers/a", "workers/b"]
        assert tree.match(["*/b", "@front"]) == ["web", "workers/a", "workers/b"]
        assert tree.match(["@front"]) == ["web", "workers/a"]
        with pytest.raises(UnknownService, match="no service 'wep'; did you mean 'web'"):
            tree.match(["web", "wep"])


async def test_a_service_that_fails_keeps_no_other_from_starting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        described = config(
            service("missing", ["/no/such/program"], restart="temporary"),
            service("taken", sockets=[agentsup.ListenSocket(address)]),
            service("well"),
        )
        async with Tree(described, None) as tree:
            await tree.wait_tried()
            assert states(tree) == {"missing": "failed", "taken": "failed", "well": "active"}
            assert address in tree.status()[1].status_text
            with pytest.raises(agentsup.SpawnError, match="in use"):
                await tree.start("taken")
            taken.close()
            await tree.start("taken")
            assert states(tree)["taken"] == "active"


async def test_by_hand(eventually: Eventually) -> None:
    described = config(service("a"), service("once", ["true"], type="oneshot"))
    async with Tree(described, None) as tree:
        await tree.wait_tried()
        first = pids(tree)["a"]
        await tree.restart("a")
        assert pids(tree)["a"] not in (first, None)
        tree.signal("a", signal.SIGTERM)
        await eventually(lambda: tree.status()[0].restarts == 1)
        await tree.stop("a")
        with pytest.raises(NotReady, match="does not run"):
            tree.signal("a", signal.SIGTERM)
        with pytest.raises(ValueError, match="reload"):
            await tree.reload("a")
        with pytest.raises(UnknownService):
            await tree.start("b")
        await eventually(lambda: tree.services["once"].idle.is_set())  # type: ignore[union-attr]  # it is there
        await tree.start("once")  # one that is temporary is not forgotten
        assert states(tree) == {"a": "inactive", "once": "inactive"}


async def test_a_description_that_cannot_be_carried_out_starts_nothing() -> None:
    with pytest.raises(ValueError, match="no 'db'"):
        Tree(config(supervisor("one", service("web", after=["db"]))), None)
    async with Tree(config(service("a")), None) as tree:
        await tree.wait_tried()
        before = pids(tree)
        with pytest.raises(ValueError, match="no 'db'"):
            await tree.update(config(service("web", after=["db"])))
        assert pids(tree) == before


# --- supervisors in supervisors -----------------------------------------------------------------


async def test_a_supervisor_that_fails_is_started_again(eventually: Eventually) -> None:
    described = config(
        service("other"),
        supervisor("sub", service("bad"), supervisor("deep", service("x")), max_restarts=0),
    )
    async with Tree(described, None) as tree:
        await tree.wait_tried()
        before = pids(tree)
        tree.signal("sub/bad", signal.SIGKILL)

        def all_new() -> bool:
            now = pids(tree)
            return all(now[path] not in (before[path], None) for path in ("sub/bad", "sub/deep/x"))

        await eventually(all_new)
        assert pids(tree)["other"] == before["other"]
        await tree.stop("sub/bad")
        assert not tree.failed


async def test_each_of_its_failures_is_a_restart_of_the_one_above(eventually: Eventually) -> None:
    bad = supervisor("sub", service("bad", ["false"]), max_restarts=2)
    described = config(service("other"), supervisor("mid", bad, max_restarts=1), max_restarts=0)
    with pytest.raises(ExceptionGroup) as info:
        async with Tree(described, None) as tree:
            await anyio.sleep_forever()
    [error] = info.value.exceptions
    assert isinstance(error, RestartLimitReached)
    assert error.service == "mid/sub/bad"
    assert "more than 0 restarts" in error.limit
    assert tree.failed


async def test_one_that_has_shut_down_comes_up_again_by_hand(eventually: Eventually) -> None:
    end = service("end", significant=True, restart="transient", success_exit_status={0})
    described = config(supervisor("sub", end, service("b"), auto_shutdown="any_significant"))
    async with Tree(described, None) as tree:
        await tree.wait_tried()
        tree.signal("sub/end", signal.SIGTERM)
        await eventually(lambda: states(tree)["sub/b"] == "inactive")
        await eventually(lambda: tree._root.branches["sub"].over.is_set())
        other = service("b", ["sleep", "1001"])
        changed = supervisor("sub", end, other, auto_shutdown="any_significant")
        await tree.update(config(changed))
        assert tree.compare(config(changed)) == tree_module.Changes()
        await tree.stop("sub/b")
        await tree.start("sub/b")
        await tree.wait_tried()
        assert states(tree) == {"sub/end": "active", "sub/b": "active"}
        assert tree.status()[1].argv == ("sleep", "1001")


# --- updates ------------------------------------------------------------------------------------


async def test_an_update_touches_nothing_that_is_as_before() -> None:
    one = config(
        service("same"), service("changed"), service("gone"), supervisor("s", service("same"))
    )
    two = config(
        service("new"),
        evolve(one.services["same"], groups=("g",)),
        service("changed", ["sleep", "1001"]),
        supervisor("s", one.supervisors["s"].services["same"], service("new")),
        supervisor("t", service("x")),
    )
    async with Tree(one, None) as tree:
        await tree.wait_tried()
        before = pids(tree)
        changes = tree.compare(two)
        assert changes.added == ("new", "s/new", "t/x")
        assert changes.changed == ("changed",)
        assert changes.removed == ("gone",)
        assert await tree.update(two) == changes
        await tree.wait_tried()
        after = pids(tree)
        assert list(after) == ["new", "same", "changed", "s/same", "s/new", "t/x"]
        assert all(after.values())
        assert (after["same"], after["s/same"]) == (before["same"], before["s/same"])
        assert after["changed"] != before["changed"]
        assert tree.match(["@g"]) == ["same"]
        assert tree.compare(two) == tree_module.Changes()
        await tree.update(one)
        await tree.wait_tried()
        assert list(pids(tree)) == ["same", "changed", "gone", "s/same"]
        assert pids(tree)["same"] == before["same"]


async def test_what_requires_a_changed_one_goes_with_it() -> None:
    def described(seconds: str) -> Config:
        return config(
            service("db", ["sleep", seconds]), web, service("by hand", ["sleep", seconds]), idle
        )

    web = service("web", requires=["db"], after=["db"])
    idle = service("idle", requires=["db"])
    async with Tree(described("1000"), None) as tree:
        await tree.wait_tried()
        await tree.stop("idle")
        before = pids(tree)
        await tree.update(described("1001"))
        await tree.wait_tried()
        after = pids(tree)
        assert after["web"] not in (None, before["web"])
        assert after["db"] not in (None, before["db"])
        assert after["idle"] is None  # nobody wants it to run


async def test_with_a_strategy_for_several_a_changed_one_keeps_its_place() -> None:
    def described(seconds: str) -> Config:
        first = service("a", ["sleep", seconds])
        parts = first, service("b", after=["a"]), service("c")
        return config(supervisor("s", *parts, strategy="rest_for_one"))

    async with Tree(described("1000"), None) as tree:
        await tree.wait_tried()
        before = pids(tree)
        await tree.update(described("1001"))
        await tree.wait_tried()
        assert pids(tree)["s/a"] not in (None, before["s/a"])
        assert pids(tree)["s/b"] == before["s/b"]
        events = tree.events()
    down = [event.service async for event in events if event.state.value == "inactive"]
    assert down == ["s/c", "s/b", "s/a"]


async def test_the_removed_have_stopped_before_the_new_ones_start(tmp_path: Path) -> None:
    slow = "trap 'sleep 0.2; rm lock; exit' TERM; touch lock up; while :; do sleep 0.05; done"
    check = "test -e lock && exit 1; sleep 1000"
    up = agentsup.FileExists(tmp_path / "up")
    old = service("old", ["sh", "-c", slow], cwd=tmp_path, ready=up)
    new = service("new", ["sh", "-c", check], cwd=tmp_path, restart="temporary")
    async with Tree(config(supervisor("s", old)), None) as tree:
        await tree.wait_tried()
        await tree.update(config(new))
        await tree.wait_tried()
        assert states(tree) == {"new": "active"}
        await tree.update(config(supervisor("s", old, max_restarts=7)))
        await tree.wait_tried()
        changed = await tree.update(config(supervisor("s", old, max_restarts=8), new))
        await tree.wait_tried()
        assert (changed.added, changed.changed) == (("new",), ("s/old",))
        assert states(tree) == {"new": "active", "s/old": "active"}


async def test_an_update_that_is_cancelled_is_made_good_by_the_next() -> None:
    stubborn = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    ready = agentsup.OutputMatches("up")
    old = service("old", ["sh", "-c", stubborn], ready=ready, grace=0.5)
    one = config(old, service("db"), service("web", requires=["db"]))
    two = config(service("db", ["sleep", "1001"]), one.services["web"])
    async with Tree(one, None) as tree:
        await tree.wait_tried()
        for _ in range(3):
            with anyio.move_on_after(0.05):
                await tree.update(two)
        await tree.update(two)
        await tree.wait_tried()
        assert states(tree) == {"db": "active", "web": "active"}
        assert tree.services["db"].spec.argv == [b"sleep", b"1001"]  # type: ignore[union-attr]  # it is there


async def test_kill_ends_what_does_not_stop() -> None:
    stubborn = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    ready = agentsup.OutputMatches("up")
    a = service("a", ["sh", "-c", stubborn], ready=ready, grace=1000.0)
    b = evolve(a, name="b", service=evolve(a.service, name="b"))
    with anyio.fail_after(30):
        async with Tree(config(a, supervisor("s", a, b)), None) as tree:
            await tree.wait_tried()
            tree.kill()
