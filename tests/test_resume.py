"""A host is killed, or left, and the next one has the same services, as they were."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import tenacity

from agentsup import (
    DiskFull,
    ListenSocket,
    NotReady,
    RestartLimitReached,
    RunningFor,
    Service,
    ServiceState,
    Supervisor,
    SupervisorClosed,
)
from agentsup.checkpoint import Checkpoint, Tree, resume
from agentsup.checkpoint import tree as tree_module

pytestmark = pytest.mark.anyio

one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])
Eventually = Callable[..., Awaitable[None]]
#: Seconds that no test lasts.
LONG = tenacity.wait_fixed(600.0)
INACTIVE, ACTIVE, FAILED = ServiceState.INACTIVE, ServiceState.ACTIVE, ServiceState.FAILED
BACKOFF = ServiceState.BACKOFF
WAITS = "waits for a connection"

SLEEP = ["sleep", "600"]
#: Says which connection it is, and that it is the one that was asked.
SERVER = """
import os, socket
sockets = [socket.socket(fileno=3 + n) for n in range(int(os.environ["LISTEN_FDS"]))]
import select
while True:
    for ready in select.select(sockets, [], [])[0]:
        with ready.accept()[0] as connection:
            connection.sendall(b"hello")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tree"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose name is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="s") as directory:
        yield Path(directory)


@contextlib.asynccontextmanager
async def a_host(path: Path, sockets: Any = (), **options: Any) -> AsyncIterator[Tree]:
    async with Supervisor(**options) as sup, resume(sup, path, sockets=sockets) as tree:
        yield tree


def sleeper(name: str, **options: Any) -> Service:
    return Service(name, SLEEP, **options)


def failing(name: str, **options: Any) -> Service:
    return Service(name, ["false"], ready=RunningFor(60.0), **{"backoff": LONG, **options})


# --- what is meant ------------------------------------------------------------------------------


async def test_what_ran_runs_again_and_what_was_stopped_does_not(path: Path) -> None:
    for _ in range(2):
        async with a_host(path) as tree:
            one, other = await tree.start(sleeper("one"), sleeper("other"))
            assert one.state is ACTIVE
            if other.state is ACTIVE:
                await other.stop()
    assert (one.state, other.state) == (INACTIVE, INACTIVE)  # as the supervisor is left
    async with a_host(path) as tree:
        one, other = await tree.start(sleeper("one"), sleeper("other"))
        assert (one.state, other.state) == (ACTIVE, INACTIVE)
        assert other.status_text == "not started"
        await other.start()
    async with a_host(path) as tree:
        assert (await tree.start(sleeper("other"))).state is ACTIVE


@one_loop
async def test_a_stop_at_the_last_moment_counts(path: Path) -> None:
    async with a_host(path) as tree:
        (await tree.start(sleeper("one"))).stop_soon()
    async with a_host(path) as tree:
        assert tree.start_soon(sleeper("one")).state is INACTIVE


@one_loop
async def test_one_that_waits_for_its_first_connection_is_stopped_as_well(path: Path) -> None:
    lazy = sleeper("lazy", sockets=ListenSocket("127.0.0.1:0"), lazy=True)
    for stop, expected in ((False, WAITS), (True, WAITS), (True, "not started")):
        async with a_host(path) as tree:
            handle = await tree.start(lazy)
            assert handle.status_text == expected
            if stop:
                await handle.stop()


@pytest.mark.parametrize("restart", ["transient", "temporary"])
@one_loop
async def test_what_has_ended_for_good_is_not_started(path: Path, restart: Any) -> None:
    done = Service("done", ["true"], restart=restart)
    failed = Service("failed", ["false"], restart=restart, give_up=tenacity.stop_after_attempt(1))
    never = Service("never", ["sh", "-c", "exit 125"])
    async with a_host(path) as tree:
        handles = tree.start_soon(done, failed, never)
        states = [await handle.wait() for handle in handles]
        assert states == [INACTIVE, FAILED, FAILED]
    async with a_host(path) as tree:
        handles = tree.start_soon(done, failed, never)
        assert [handle.status_text for handle in handles] == ["not started"] * 3
        assert handles[2].never


@one_loop
async def test_the_end_of_the_supervisor_is_nobodys_end_but_the_significant_ones(
    path: Path,
) -> None:
    options = {"restart": "transient", "significant": True}
    job, other = Service("job", ["true"], **options), sleeper("other")
    async with a_host(path, auto_shutdown="any_significant") as tree:
        await tree.start(other)
        tree.start_soon(job)
        await anyio.sleep_forever()
    async with a_host(path, auto_shutdown="any_significant") as tree:
        assert (await tree.start(other)).state is ACTIVE
        assert tree.start_soon(job).state is INACTIVE


@one_loop
async def test_a_supervisor_that_has_failed_starts_them_all_again(path: Path) -> None:
    with pytest.RaisesGroup(RestartLimitReached):
        async with a_host(path, max_restarts=0) as tree:
            await tree.start(sleeper("other"))
            tree.start_soon(Service("bad", ["false"]))
            await anyio.sleep_forever()
    async with a_host(path) as tree:
        bad, other = tree.start_soon(failing("bad"), sleeper("other"))
        assert bad.state is ServiceState.ACTIVATING
        await other.wait_ready()


async def test_a_start_that_fails_is_tried_by_the_next_host(path: Path) -> None:
    for _ in range(2):
        async with a_host(path) as tree:
            with pytest.raises(NotReady, match="it ended before it was ready: exited with"):
                await tree.start(failing("bad"), sleeper("other"))
            assert tree.start_soon(sleeper("other")).name == "other"  # none of them had stayed
    with anyio.move_on_after(0) as scope:
        async with a_host(path) as tree:
            scope.cancel()
            await tree.start(sleeper("third"))
    async with a_host(path) as tree:
        assert (await tree.start(sleeper("third"))).state is ACTIVE


@one_loop
async def test_one_that_is_wanted_does_not_start_although_it_was_stopped(path: Path) -> None:
    wanted, wanting = sleeper("wanted"), sleeper("wanting", wants="wanted", after="wanted")
    async with a_host(path) as tree:
        handle, _ = await tree.start(wanted, wanting)
        await handle.stop()
    async with a_host(path) as tree:
        wanted_handle, wanting_handle = await tree.start(wanted, wanting)
        assert (wanted_handle.state, wanting_handle.state) == (INACTIVE, ACTIVE)


@one_loop
async def test_one_at_rest_keeps_its_place(path: Path, eventually: Eventually) -> None:
    """With rest_for_one, what is before the one that fails is left alone."""
    services = [sleeper(name) for name in ("first", "second", "third")]
    async with a_host(path, strategy="rest_for_one") as tree:
        first, _, third = await tree.start(*services)
        await first.stop()
        await third.stop()
    async with a_host(path, strategy="rest_for_one") as tree:
        first, second, third = await tree.start(*services)
        assert (first.state, second.state, third.state) == (INACTIVE, ACTIVE, INACTIVE)
        os.kill(second.pid, signal.SIGKILL)
        await eventually(lambda: third.state is ACTIVE)
        assert (first.state, second.restarts) == (INACTIVE, 1)


# --- restarts -----------------------------------------------------------------------------------


async def test_a_rest_goes_on(path: Path, eventually: Eventually) -> None:
    async with a_host(path) as tree:
        handle = tree.start_soon(failing("bad"))
        await eventually(lambda: handle.state is BACKOFF)
        due = handle.next_start
    async with a_host(path) as tree:
        handle = tree.start_soon(failing("bad"))
        assert (handle.state, handle.next_start, handle.restarts) == (BACKOFF, due, 1)
        assert handle.status_text.startswith("rests on, as in the host before; restarted once; ")
        with pytest.raises(NotReady, match="exited with status 1"):
            await handle.start()  # somebody does not wait
        assert (handle.state, handle.restarts) == (BACKOFF, 2)
        await handle.stop()
    async with a_host(path) as tree:
        handle = tree.start_soon(failing("bad"))
        assert (handle.state, handle.restarts) == (INACTIVE, 2)


@pytest.mark.parametrize("ending", ["over", "stopped"])
@one_loop
async def test_a_rest_ends(path: Path, eventually: Eventually, ending: str) -> None:
    flaky = Service(
        "flaky",
        ["sh", "-c", "mkdir first || exec sleep 600; exit 1"],
        cwd=path.parent,
        backoff=lambda _: 0.5 if ending == "over" else 600.0,
    )
    async with a_host(path) as tree:
        handle = tree.start_soon(flaky)
        await eventually(lambda: handle.state is BACKOFF)
        due = handle.next_start
        assert due
    async with a_host(path) as tree:
        if ending == "over":
            handle = await tree.start(flaky)
            assert handle.state is ACTIVE
            assert time.monotonic() >= due
        else:
            handle = tree.start_soon(flaky)
            await anyio.sleep(0)
            await handle.stop()
            assert handle.state is INACTIVE
            await handle.start()
            assert handle.state is ACTIVE


@one_loop
async def test_the_series_of_the_backoff_goes_on(
    path: Path, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another boot, nobody rests, and the numbers stay."""
    asked: list[int] = []

    def backoff(state: tenacity.RetryCallState) -> float:
        asked.append(state.attempt_number)
        return 600.0

    for expected in ([1], [1, 2], [1, 2, 3]):
        monkeypatch.setattr(tree_module, "_boot", lambda: str(len(asked)))
        async with a_host(path) as tree:
            handle = tree.start_soon(failing("bad", backoff=backoff))
            await eventually(lambda: asked == expected)  # noqa: B023 -- it is waited for here
            await eventually(lambda: handle.state is BACKOFF)  # noqa: B023
            assert handle.restarts == len(expected)


@one_loop
async def test_a_host_that_has_not_come_to_it_loses_nothing(
    path: Path, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, bad = sleeper("slow", ready=RunningFor(60.0)), failing("bad", after="slow")
    async with a_host(path) as tree:
        handle = tree.start_soon(failing("bad"))
        await eventually(lambda: handle.state is BACKOFF)
    monkeypatch.setattr(tree_module, "_boot", lambda: "another")
    for _ in range(2):
        async with a_host(path) as tree:
            _, handle = tree.start_soon(slow, bad)  # it waits for the slow one
            assert (handle.state, handle.restarts) == (ServiceState.ACTIVATING, 1)


# --- what is on the disk ------------------------------------------------------------------------


async def test_stamps(path: Path) -> None:
    async with a_host(path) as tree:
        assert tree.stamps == {}
        tree.stamps["nightly"] = 5
        tree.stamps["weekly"] = 6.5
        await tree.saved()
        with pytest.raises(TypeError, match=r"stamps\['nightly'\] must be a number, not 'now'"):
            tree.stamps["nightly"] = "now"  # type: ignore[assignment]
        with pytest.raises(ValueError, match="must be a finite number, not nan"):
            tree.stamps["nightly"] = float("nan")
        with pytest.raises(TypeError, match="the name of a stamp must be a str, not 7"):
            tree.stamps[7] = 1.0  # type: ignore[index]
        del tree.stamps["weekly"]
    async with a_host(path) as tree:
        assert tree.stamps == {"nightly": 5.0}
        tree.stamps.clear()
    tree.stamps["late"] = 1.0  # nobody saves it any more
    async with a_host(path) as tree:
        assert tree.stamps == {}


@one_loop
async def test_changes_are_saved_one_at_a_time_and_the_latest_always(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving, saves = 0, 0
    save = Checkpoint.save

    async def watched(self: Any, value: Any) -> None:
        nonlocal saving, saves
        saving += 1
        saves += 1
        assert saving == 1
        await save(self, value)
        saving -= 1

    monkeypatch.setattr(Checkpoint, "save", watched)
    async with a_host(path) as tree:
        for number in range(1000):
            tree.stamps["number"] = number
            if number % 100 == 0:
                await anyio.sleep(0)
        await tree.saved()
        before = saves
        await tree.saved()
        assert before == saves < 15
        tree.stamps["number"] = 1000
    async with a_host(path) as tree:
        assert tree.stamps["number"] == 1000


@one_loop
async def test_a_save_that_fails_is_made_up_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save, full = Checkpoint.save, True

    async def on_full_disk(self: Any, value: Any) -> None:
        if full:
            raise DiskFull(28, "no room")
        await save(self, value)

    monkeypatch.setattr(Checkpoint, "save", on_full_disk)
    async with a_host(path) as tree:
        assert (await tree.start(sleeper("one"))).state is ACTIVE
        assert "the tree of services is not saved: " in caplog.text
        with pytest.raises(DiskFull):
            await tree.saved()
        full = False
        tree.stamps["one"] = 1.0
        await tree.saved()
        full = True
        tree.stamps["two"] = 2.0
        with contextlib.suppress(DiskFull):
            await tree.saved()
        full = False
    async with a_host(path) as tree:
        assert tree.stamps == {"one": 1.0, "two": 2.0}
    full = True
    with pytest.raises(DiskFull):
        async with a_host(path) as tree:
            tree.stamps["three"] = 3.0


async def test_errors(path: Path) -> None:
    with Checkpoint(path) as other:
        other.save_sync({"done": []})
    async with Supervisor() as sup:
        with pytest.raises(ValueError, match=r"tree does not hold a tree of services: it\['format"):
            async with resume(sup, path):
                pass
        for sockets, kind, text in (
            ([3], TypeError, "sockets must be pairs as notify.listen_fds"),
            ([("web", 3)], TypeError, "sockets must be pairs as notify.listen_fds"),
            ([(10**6, "web")], ValueError, "sockets: descriptor 1000000 is not open"),
        ):
            with pytest.raises(kind, match=text):
                async with resume(sup, path, sockets=sockets):  # type: ignore[arg-type]
                    pass
    with pytest.raises(TypeError, match=r"supervisor must be an agentsup\.Supervisor, not 'tree'"):
        async with resume("tree", path):  # type: ignore[arg-type]
            pass
    with pytest.raises(SupervisorClosed):
        async with resume(sup, path):
            pass


# --- sockets ------------------------------------------------------------------------------------


def given(kind: int, address: Any) -> socket.socket:
    made = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX, kind)
    made.bind(address)
    if kind != socket.SOCK_DGRAM:
        made.listen()
    return made


def ask(address: str) -> bytes:
    """What the server says; raises what connect does."""
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET if host else socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect((host, int(port)) if host else address)
        with contextlib.suppress(ConnectionError):  # who had accepted it was killed
            return client.recv(100)
        return b""


@one_loop
async def test_a_socket_that_is_there_is_taken_over(path: Path, place: Path) -> None:
    file, fifo = str(place / "sock"), str(place / "fifo")
    os.mkfifo(fifo)
    handed = [
        (given(socket.SOCK_STREAM, ("127.0.0.1", 0)).detach(), "web"),
        (given(socket.SOCK_STREAM, file).detach(), "unknown"),
        (given(socket.SOCK_DGRAM, ("127.0.0.1", 0)).detach(), "log"),
        (os.open(fifo, os.O_RDWR), "unknown"),
        (given(socket.SOCK_STREAM, ("127.0.0.1", 0)).detach(), "nobody's"),
        (os.open(os.devnull, os.O_RDONLY), "web"),
    ]
    fds = [fd for fd, _ in handed]
    with socket.socket(fileno=os.dup(fds[0])) as web, socket.socket(fileno=os.dup(fds[2])) as log:
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in (web, log)]
    wanted = [
        ListenSocket("127.0.0.1:0", name="web"),
        ListenSocket(file),
        ListenSocket(addresses[1], kind="datagram"),
        ListenSocket(fifo, kind="fifo"),
        ListenSocket("127.0.0.1:0"),  # without a name
    ]
    deaf = socket.socket()
    deaf.bind(("127.0.0.1", 0))
    async with a_host(path, [(deaf.fileno(), "web"), *handed]) as tree:
        handle = await tree.start(sleeper("web", sockets=wanted))
        assert handle.sockets.fds[:4] == tuple(fds[:4])
        assert handle.sockets.fds[4] not in fds
        assert handle.addresses[:4] == (addresses[0], file, addresses[1], fifo)
        await handle.stop()
        handle.remove()
        # They are there for the next service as well, but for one at a time.
        handle = await tree.start(sleeper("next", sockets=wanted[:2]))
        assert handle.sockets.fds == tuple(fds[:2])
        with pytest.raises(OSError, match="somebody listens there"):
            tree.start_soon(sleeper("third", sockets=ListenSocket(file)))
    assert os.path.exists(file)  # others may have it
    assert os.path.exists(fifo)
    for fd in fds[:4]:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    for fd in (deaf.detach(), *fds[4:]):
        os.close(fd)


@pytest.mark.parametrize(
    "wanted",
    [
        ListenSocket("127.0.0.1:0", name="web", kind="datagram"),
        ListenSocket("127.0.0.2:0", name="web"),
        ListenSocket("127.0.0.1:0", name="other"),
        ListenSocket(f"@agentsup-{os.getpid()}", name="web"),
    ],
    ids=["kind", "host", "name", "family"],
)
@one_loop
async def test_another_socket_is_not(path: Path, wanted: ListenSocket) -> None:
    with given(socket.SOCK_STREAM, ("127.0.0.1", 0)) as made:
        handed = [(made.fileno(), "web")]
        async with a_host(path, handed) as tree:
            handle = tree.start_soon(sleeper("web", sockets=wanted))
            assert handle.sockets.fds[0] != made.fileno()
        os.fstat(made.fileno())  # it is open


@one_loop
async def test_a_socket_whose_file_has_gone_is_made_anew(path: Path, place: Path) -> None:
    file = str(place / "sock")
    with given(socket.SOCK_STREAM, file) as made:
        os.unlink(file)
        async with a_host(path, [(made.fileno(), "web")]) as tree:
            await tree.start(
                Service(
                    "web", [sys.executable, "-ISc", SERVER], sockets=ListenSocket(file, name="web")
                )
            )
            assert await anyio.to_thread.run_sync(ask, file) == b"hello"
        assert not os.path.exists(file)


@one_loop
async def test_a_manager_is_given_what_the_host_makes(
    path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(place / "sock")
    own = sleeper("own", sockets=ListenSocket(file, name="own"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(place / "notify"))
        async with a_host(path) as tree:
            handle = await tree.start(own)
            message, (kept,), _, _ = socket.recv_fds(manager, 100, 1)
            assert message == b"FDSTORE=1\nFDNAME=own"
            await handle.stop()
            handle.remove()
            await tree.start(own)  # although the manager listens there
    assert os.path.exists(file)
    monkeypatch.setenv("NOTIFY_SOCKET", str(place / "nobody"))
    async with a_host(path, [(kept, "own")]) as tree:
        other = await tree.start(
            sleeper("other", sockets=ListenSocket(f"@{file}")),  # which nobody is given
            own,
        )
        assert other[1].sockets.fds == (kept,)


# --- a real host, killed ------------------------------------------------------------------------

HOST = """
import sys, time, anyio, agentsup
from agentsup import ListenSocket, Service, notify
from agentsup.checkpoint import resume

path, program, file = sys.argv[1:4]

async def main():
    async with (
        agentsup.Supervisor(max_restarts=1000) as sup,
        resume(sup, path, sockets=notify.listen_fds(unset_environment=True)) as tree,
    ):
        sockets = [ListenSocket("127.0.0.1:0", name="web"), ListenSocket(file, name="own")]
        server = [sys.executable, "-ISc", program]
        tree.start_soon(Service("bad", ["false"], backoff=lambda state: 0.0, grace=0.0))
        tree.start_soon(Service("stopped", ["sleep", "600"])).stop_soon()
        await tree.start(Service("web", server, sockets=sockets, grace=0.0))
        tree.stamps["hosts"] = tree.stamps.get("hosts", 0) + 1
        await tree.saved()
        notify.ready()
        await anyio.sleep_forever()

anyio.run(main, backend=sys.argv[4])
"""


async def test_no_connection_is_refused_while_hosts_are_killed(
    path: Path, place: Path, anyio_backend_name: str, eventually: Eventually
) -> None:
    file = str(place / "own")
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    answers: Counter[str] = Counter()
    errors: list[tuple[int, str, OSError]] = []
    over = anyio.Event()

    async def hammer(address: str) -> None:
        while not over.is_set():
            try:
                answers[address] += await anyio.to_thread.run_sync(ask, address) == b"hello"
            except OSError as error:
                errors.append((seed, address, error))
            await anyio.sleep(0.001)

    host = Service(
        "host",
        [sys.executable, "-c", HOST, path, SERVER, file, anyio_backend_name],
        type="notify",
        sockets=ListenSocket("127.0.0.1:0", name="web"),
        fd_store=8,
        grace=0.0,
    )
    async with Supervisor(max_restarts=1000) as outer, anyio.create_task_group() as tasks:
        handle = await outer.start(host)
        addresses = [*handle.addresses, file]
        for address in addresses:
            tasks.start_soon(hammer, address)
        for kill in range(1, 7):
            if kill % 2:  # else at any moment of its start
                await handle.wait_ready()
                counts = answers.copy()
                await eventually(lambda: all(answers[one] > counts[one] + 2 for one in addresses))  # noqa: B023
            await anyio.sleep(chance.random() * 0.3)
            await eventually(lambda: handle.pid)
            os.kill(handle.pid, signal.SIGKILL)
            await eventually(lambda: handle.restarts == kill)  # noqa: B023
        await handle.wait_ready()
        counts = answers.copy()
        await eventually(lambda: all(answers[one] > counts[one] + 2 for one in addresses))
        over.set()  # while there is still somebody who answers
    assert not errors
    with Checkpoint(path) as checkpoint:
        saved = checkpoint.load_sync(None)
    assert saved["stamps"]["hosts"] >= 4
    assert saved["services"]["web"]["runs"] is True
    assert saved["services"]["stopped"]["runs"] is False
    assert saved["services"]["bad"]["series"]["restarts"] > 0


PLAIN = """
import sys, anyio, agentsup
from agentsup.checkpoint import resume
async def main():
    async with agentsup.Supervisor(max_restarts=10**6) as sup, resume(sup, sys.argv[1]) as tree:
        handle = tree.start_soon(agentsup.Service("bad", ["false"], backoff=lambda _: 0.0))
        assert handle.restarts >= int(sys.argv[2]), (handle.restarts, sys.argv[2])
        while True:
            before = handle.restarts
            await tree.saved()
            print(before, flush=True)
            await anyio.sleep(0.001)
anyio.run(main)
"""


@one_loop
async def test_nothing_that_was_saved_is_lost(path: Path) -> None:
    """A bare program, killed in the middle of its saves."""
    chance, last = random.Random(7), 0
    for _ in range(6):
        command = [sys.executable, "-c", PLAIN, path, str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
            assert host.stdout
            line = host.stdout.readline()
            for _ in range(chance.randrange(25)):
                line = host.stdout.readline()
            while int(line) <= last:  # something is new
                line = host.stdout.readline()
            host.kill()
            lines = [line, *host.stdout.readlines()]
        last = max(int(line) for line in lines if line.endswith("\n"))
    assert last > 0
