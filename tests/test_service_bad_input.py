"""Services that cannot be had: one error that says which and why, and nothing made or started."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import field, frozen

from agentsup import (
    Containment,
    FileExists,
    FileHeartbeat,
    ListenSocket,
    NewlineOn,
    NotReady,
    Service,
    ServiceState,
    SpawnError,
    Supervisor,
    SupervisorClosed,
)
from agentsup._linux import lifeline
from agentsup._linux.records import own_directory

pytestmark = pytest.mark.anyio

SLEEP = ["sleep", "99"]
Kind = type[Exception]


def service(name: str, **options: Any) -> Service:
    return Service(name, options.pop("command", SLEEP), **options)


@frozen
class Case:
    """Services that a supervisor cannot have, beside one called ``good``."""

    id: str
    error: Kind
    says: str
    services: tuple[Any, ...]
    supervisor: dict[str, Any] = field(factory=dict)
    uid: int | None = None  #: as this user, as far as Python can tell


def one(id: str, error: Kind, says: str, uid: int | None = None, **options: Any) -> Case:
    return Case(id, error, says, (service("bad", **options),), uid=uid)


ANY = {"auto_shutdown": "any_significant"}
CASES = [
    Case("no service", TypeError, "must be an agentsup.Service, not 'web'", ("web",)),
    Case("a list", TypeError, r"must be an agentsup.Service, not \[", ([service("bad")],)),
    Case("same name", ValueError, "Service.name: there is .* 'bad' already", (service("bad"),) * 2),
    Case("name of one that runs", ValueError, "'good' already", (service("good"),)),
    one("unknown", ValueError, "after of 'bad': there is no 'redis'; add it", after="redis"),
    one("nearly", ValueError, "requires of 'bad': .*did you mean 'good'", requires="goood"),
    one("itself", ValueError, "part_of: 'bad' names itself", part_of="bad"),
    Case(
        "cycle",
        ValueError,
        "after: (a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c) is a cycle",
        (service("a", after="b"), service("b", after="c"), service("c", after="a")),
    ),
    Case(
        "conflict within",
        ValueError,
        "conflicts: 'a' conflicts with 'b', but 'other', 'a', 'b' are to start together",
        (service("a", conflicts="b"), service("b")),
    ),
    one(
        "conflict with what it requires",
        ValueError,
        r"conflicts: 'bad' conflicts with 'good', but 'bad' starts both \(by requires or wants\)",
        requires="good",
        conflicts="good",
    ),
    Case(
        "conflict where all run together",
        ValueError,
        "conflicts: with 'one_for_all', all run together",
        (service("bad", conflicts="other"),),
        {"strategy": "one_for_all"},
    ),
    Case(
        "an order against that of one_for_all",
        ValueError,
        "after: .*is a cycle",
        (service("a", after="b"), service("b")),
        {"strategy": "one_for_all"},
    ),
    one(
        "significant for nothing",
        ValueError,
        "significant: 'bad' .*auto_shutdown is 'never'",
        significant=True,
        restart="transient",
    ),
    Case(
        "significant for ever",
        ValueError,
        "significant: 'bad' is permanent, so it never ends for good",
        (service("bad", significant=True, sockets=ListenSocket("127.0.0.1:0")),),
        ANY,
    ),
    one(
        "program", FileNotFoundError, "program not found .*'no-such-tool'", command=["no-such-tool"]
    ),
    one("cwd", FileNotFoundError, "cwd: .*'/nowhere'", cwd="/nowhere"),
    one("env", TypeError, "env must be a mapping", env=["A=1"]),
    one("limits", TypeError, "limits must be an agentsup.Limits", limits=5),
    one("user", ValueError, "user: there is no user 'no-such-user'", user="no-such-user"),
    one("user without root", PermissionError, "user: only root .*'root'", uid=12345, user="root"),
    one("umask", ValueError, "umask must be", umask=-1),
    one(
        "heartbeat",
        FileNotFoundError,
        "heartbeat.path: .*'/nowhere'",
        heartbeat=FileHeartbeat("/nowhere/beat", 5),
    ),
    one(
        "socket in no directory",
        FileNotFoundError,
        "sockets: No such file or directory: '/nowhere/socket'",
        sockets=ListenSocket("/nowhere/socket"),
    ),
    one(
        "twice the same socket",
        OSError,
        "sockets: Address already in use: '@agentsup-test'",
        sockets=[ListenSocket("@agentsup-test")] * 2,
    ),
]


@pytest.fixture
def runtime_files() -> Iterator[None]:
    """None that a service is to send its messages to is left."""
    yield
    assert not [name for name in os.listdir(own_directory()) if f"-{os.getpid()}-" in name]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_nothing_is_started(
    case: Case, tmp_path: Path, runtime_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything left of what had been made for another that came with it."""
    other = service("other", sockets=ListenSocket(str(tmp_path / "s")), fd_store=1)
    async with Supervisor(**case.supervisor) as sup:
        if "'good'" in case.says:
            await sup.start(service("good"))
        before, descriptors = sup.tree(), len(os.listdir("/proc/self/fd"))
        if case.uid is not None:
            monkeypatch.setattr(os, "geteuid", lambda: case.uid)
        for start in (sup.start_soon, sup.start):
            with pytest.raises(case.error, match=case.says):
                await start(other, *case.services)  # type: ignore[call-overload,misc]  # start_soon raises
        monkeypatch.undo()
        assert [node.pid for node in sup.tree()] == [node.pid for node in before]
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert not list(tmp_path.iterdir())
        if not before:
            assert lifeline._current is None, "not even the keeper is started"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_address_that_is_taken(tmp_path: Path, runtime_files: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with Supervisor() as sup:
            expected = f"sockets: Address already in use: '{address}'"
            with pytest.raises(SpawnError, match=expected) as caught:
                await sup.start(service("a"), service("web", sockets=ListenSocket(address)))
            assert caught.value.__notes__ == ["agentsup: service 'web'"]
            assert not sup.tree()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "options",
    [
        {"type": "forking"},
        {"ready": NewlineOn(3)},
        {"fd_store": 1},
        {"sockets": ListenSocket("127.0.0.1:0")},
    ],
    ids=lambda options: min(options),
)
async def test_what_takes_a_keeper(options: dict[str, Any], runtime_files: None) -> None:
    async with Supervisor(containment=Containment.PROCESS_GROUP) as sup:
        with pytest.raises(ValueError, match=r"^bad: .*take a keeper, .*PROCESS_GROUP"):
            sup.start_soon(service("bad", **options))
        assert not sup.tree()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"strategy": "one_for_some"}, ValueError, "strategy must be one of 'one_for_one', "),
        ({"auto_shutdown": True}, ValueError, "auto_shutdown must be one of 'never', "),
        ({"max_restarts": -1}, ValueError, "max_restarts must be at least 0"),
        ({"max_restarts": "3"}, TypeError, "max_restarts must be a whole number"),
        ({"within": 0}, ValueError, "within must be more than zero seconds"),
        ({"strategie": "one_for_all"}, TypeError, "unknown argument 'strategie'"),
        ({"strategy": "simple_one_for_one"}, ValueError, "template and .* need each other"),
        ({"template": service("t")}, ValueError, "template and .* need each other"),
        (
            {"strategy": "simple_one_for_one", "template": SLEEP},
            TypeError,
            "template must be an agentsup.Service",
        ),
        (
            {"strategy": "simple_one_for_one", "template": service("t", after="x")},
            ValueError,
            "template: its children can have neither sockets nor an order",
        ),
    ],
)
async def test_a_supervisor(options: dict[str, Any], error: Kind, says: str) -> None:
    with pytest.raises(error, match=says):
        Supervisor(**options)
    async with Supervisor() as sup:
        with pytest.raises(error, match=says):
            async with sup.child("below", **options):
                pass
        assert not sup.tree()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_template(runtime_files: None) -> None:
    template = service("worker", fd_store=1)
    async with (
        Supervisor() as sup,
        sup.child("a", strategy="simple_one_for_one", template=template) as below,
    ):
        with pytest.raises(
            ValueError, match=r"start_child\(\) takes strategy='simple_one_for_one'"
        ):
            await sup.start_child()
        with pytest.raises(ValueError, match=r"simple_one_for_one', start_child\(\) starts"):
            await below.start(service("other"))
        with pytest.raises(ValueError, match=r"command\[2\] holds a NUL byte"):
            await below.start_child("a\0b")
        with pytest.raises(ValueError, match=r"^Service\.name must be of printable"):
            await below.start_child(name="a/b")
        await below.start_child(name="one")
        with pytest.raises(ValueError, match=r"^Service\.name: there is a service 'one' already"):
            await below.start_child(name="one")
        assert [node.name for node in below.tree()] == ["one"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_before_and_after_its_block(runtime_files: None) -> None:
    sup = Supervisor()
    with pytest.raises(SupervisorClosed, match="use 'async with'"):
        sup.start_soon(service("s", fd_store=1))
    async with sup:
        pass
    with pytest.raises(SupervisorClosed, match="has been left"):
        await sup.start(service("s", fd_store=1))


# --- what shows only at its start -----------------------------------------------------------


async def test_a_directory_that_is_not_there(tmp_path: Path, runtime_files: None) -> None:
    """A pre-start hook could have made it. None of those that came with it stays."""
    path = tmp_path / "no" / "file"
    async with Supervisor() as sup:
        with pytest.raises(SpawnError, match=r"Service\.ready: its directory cannot be watched"):
            await sup.start(service("good"), service("bad", ready=FileExists(path)))
        daemon = ["sh", "-c", "sleep 99 & exit 0"]
        forking = service("bad", command=daemon, type="forking", pid_file=path)
        with pytest.raises(NotReady, match=r"Service\.pid_file: its directory cannot be watched"):
            await sup.start(service("good"), forking)
        assert not sup.tree()


async def test_a_patient_start_says_it_by_its_state(tmp_path: Path, runtime_files: None) -> None:
    async with Supervisor() as sup:
        ready = FileExists(tmp_path / "no" / "file")
        handle = sup.start_soon(service("bad", ready=ready, restart="temporary"))
        with anyio.fail_after(20):
            assert await handle.wait() is ServiceState.FAILED
        assert "its directory cannot be watched" in handle.status_text
