"""agentsup.notify, as a service uses it, against the listening end."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import pytest

import agentsup
from agentsup import notify
from agentsup._linux.notify_socket import Datagram, NotifySocket
from agentsup._rules.notify import Message, parse

PATIENCE = 30.0  # seconds
BEAT = b"WATCHDOG=1"


@pytest.fixture(autouse=True)
def no_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """But that of the test, wherever the tests are run."""
    for name in list(os.environ):
        if name.startswith(("NOTIFY_", "WATCHDOG_", "LISTEN_")):
            monkeypatch.delenv(name)


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifySocket]:
    with contextlib.closing(NotifySocket()) as found:
        monkeypatch.setenv("NOTIFY_SOCKET", found.path)
        yield found


def receive_all(listening: NotifySocket) -> list[Datagram]:
    return list(iter(listening.receive, None))


def heard(listening: NotifySocket) -> list[bytes]:
    found = []
    for datagram in receive_all(listening):
        with datagram:
            found.append(datagram.data)
    return found


# --- telling ------------------------------------------------------------------------------------

SAYINGS = {
    "ready()": Message(ready=True),
    "ready('up ✓')": Message(ready=True, status="up ✓"),
    "status('a=b')": Message(status="a=b"),
    "status('\\udcff')": Message(status="?"),
    "stopping()": Message(stopping=True),
    "extend_timeout(1.5)": Message(extend_timeout_usec=1_500_000),
    "extend_timeout(1e-9)": Message(extend_timeout_usec=1),
    "main_pid(7)": Message(mainpid=7),
    "watchdog()": Message(watchdog="ping"),
    "fdstore([0])": Message(fdstore=True, fdname="stored"),
    "fdstore_remove('web')": Message(fdstoreremove=True, fdname="web"),
    "notify('STOPPING=1', 'EXTEND_TIMEOUT_USEC=3')": Message(stopping=True, extend_timeout_usec=3),
}


def say(call: str) -> object:
    return eval(f"notify.{call}")


@pytest.mark.parametrize(("call", "message"), SAYINGS.items(), ids=SAYINGS)
def test_what_is_said_is_heard(listening: NotifySocket, call: str, message: Message) -> None:
    assert say(call) is True
    (data,) = heard(listening)
    assert parse(data) == message


def test_a_reload_says_when_it_began(listening: NotifySocket) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert notify.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    (data,) = heard(listening)
    began = parse(data).monotonic_usec
    assert began is not None
    assert parse(data) == Message(reloading=True, monotonic_usec=began)
    assert before <= began <= after


@pytest.mark.parametrize("call", [*SAYINGS, "reloading()", "barrier()"])
def test_nobody_listens(call: str) -> None:
    assert say(call) is False


def test_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"agentsup-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert notify.ready()
        assert manager.recv(100) == b"READY=1"


def test_descriptors_are_copied(listening: NotifySocket, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    with paths[0].open("w") as first, paths[1].open("w") as second:
        assert notify.fdstore([first, second.fileno()], "files")
        os.fstat(first.fileno())
        (datagram,) = receive_all(listening)
        with datagram:
            assert parse(datagram.data) == Message(fdstore=True, fdname="files")
            assert [os.readlink(f"/proc/self/fd/{fd}") for fd in datagram.fds] == list(
                map(str, paths)
            )


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        ("notify()", ValueError, "lines"),
        ('notify(b"READY=1")', TypeError, "line"),
        ('notify("READY")', ValueError, "NAME=value"),
        ('status("x\\nREADY=1")', ValueError, "newline"),
        ('ready("x\\0")', ValueError, "NUL"),
        ("extend_timeout(0)", ValueError, "seconds"),
        ('extend_timeout(float("inf"))', ValueError, "seconds"),
        ('extend_timeout("1")', TypeError, "seconds"),
        ("main_pid(0)", ValueError, "pid"),
        ('main_pid("1")', TypeError, "pid"),
        ('fdstore([0], "a:b")', ValueError, "name"),
        ('fdstore([0], "ü")', ValueError, "name"),
        ("fdstore([0] * 254)", ValueError, "fds"),
        ('fdstore_remove("")', ValueError, "name"),
        ("fdstore_remove(None)", TypeError, "name"),
        ("barrier(-1)", ValueError, "timeout"),
        ("heartbeat(0)", ValueError, "interval"),
        ('heartbeat("1")', TypeError, "interval"),
    ],
)
def test_bad_arguments_are_refused_wherever_it_runs(
    call: str, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        say(call)


@pytest.mark.parametrize("address", ["relative", "vsock:2:1", "/nowhere/at/all", "/" + "x" * 200])
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with pytest.raises(OSError, match=r"NOTIFY_SOCKET|No such file|too long"):
        notify.ready()


def fill(path: str) -> None:
    """Send until the kernel takes no more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.sendto(b"X_FULL=1", path)


def test_a_supervisor_that_does_not_read(
    listening: NotifySocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(listening.path)
    monkeypatch.setattr(notify, "_PATIENCE", 0.01)
    with pytest.raises(TimeoutError):
        notify.ready()


# --- the barrier --------------------------------------------------------------------------------


def test_a_barrier_is_passed_when_all_is_read(
    listening: NotifySocket, python_file: Callable[[str], str]
) -> None:
    program = python_file(
        "from agentsup import notify\nassert notify.ready()\nassert notify.barrier(None)\n"
    )
    said: list[Message] = []
    with subprocess.Popen([sys.executable, program]) as process:
        while not (said and said[-1].barrier):
            assert select.select([listening.fd], [], [], PATIENCE)[0]
            for datagram in receive_all(listening):
                with datagram:
                    said.append(parse(datagram.data))
                    assert len(datagram.fds) == said[-1].barrier
                    assert process.poll() is None
    assert process.returncode == 0
    assert said == [Message(ready=True), Message(barrier=True)]


def test_a_barrier_is_not_passed_in_time(listening: NotifySocket) -> None:
    with pytest.raises(TimeoutError, match="within"):
        notify.barrier(0.01)


# --- being told ---------------------------------------------------------------------------------


def test_the_watchdog_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    assert notify.watchdog_interval() is None
    monkeypatch.setenv("WATCHDOG_USEC", "2500000")
    assert notify.watchdog_interval() == 2.5
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert notify.watchdog_interval() == 2.5
    monkeypatch.setenv("WATCHDOG_PID", str(os.getppid()))
    assert notify.watchdog_interval() is None
    monkeypatch.delenv("WATCHDOG_PID")
    for nonsense in ("0", "", "-1", "1s", "١"):
        monkeypatch.setenv("WATCHDOG_USEC", nonsense)
        with pytest.raises(ValueError, match="WATCHDOG_USEC"):
            notify.watchdog_interval()


LISTENER = """
import os, sys
from agentsup import notify
try:
    print(notify.listen_fds(unset_environment=True))
    print(any(map(os.get_inheritable, (3, 4))))
except (ValueError, OSError) as error:
    print(f"{type(error).__name__}: {error}")
print([name for name in os.environ if name.startswith("LISTEN_")])
"""


@pytest.mark.parametrize(
    ("environment", "printed"),
    [
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:", "[(3, 'web'), (4, '')]\nFalse"),
        ("LISTEN_PID=$$ LISTEN_FDS=2", "[(3, 'unknown'), (4, 'unknown')]\nFalse"),
        ("LISTEN_PID=1 LISTEN_FDS=2", "[]\nTrue"),
        ("LISTEN_FDS=2", "[]\nTrue"),
        ("LISTEN_PID=$$", "[]\nTrue"),
        ("LISTEN_PID=$$ LISTEN_FDS=0", "[]\nTrue"),
        ("LISTEN_PID=$$ LISTEN_FDS=two", "ValueError: LISTEN_FDS in the environment"),
        ("LISTEN_PID=x LISTEN_FDS=2", "ValueError: LISTEN_PID in the environment"),
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a", "ValueError: LISTEN_FDNAMES in"),
        ("LISTEN_PID=$$ LISTEN_FDS=999999999999", "OSError: [Errno 9] Bad file descriptor"),
    ],
)
def test_descriptors_passed_by_a_supervisor(
    python_file: Callable[[str], str], environment: str, printed: str
) -> None:
    command = f"exec 3</dev/null 4</dev/null; {environment} exec {sys.executable} -S"
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} {python_file(LISTENER)}"],
        env={**os.environ, "PYTHONPATH": str(Path(agentsup.__file__).parent.parent)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout.startswith(printed)
    assert done.stdout.endswith("\n[]\n")


def test_the_variables_stay_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "0")
    assert notify.listen_fds() == []
    assert os.environ["LISTEN_FDS"] == "0"


# --- the heartbeat ------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_it_beats_in_the_block_only(
    listening: NotifySocket, eventually: Callable[..., Awaitable[None]], anyio_backend: object
) -> None:
    beats: list[bytes] = []

    def another_three() -> bool:
        beats.extend(heard(listening))
        return len(beats) >= 3

    with anyio.fail_after(2 * PATIENCE):
        async with notify.heartbeat(0.001):
            await eventually(another_three, PATIENCE)
    while came := heard(listening):
        beats += came
    assert set(beats) == {BEAT}
    for _ in range(20):
        await anyio.sleep(0.001)
    assert heard(listening) == []


@pytest.mark.anyio
async def test_a_blocked_loop_falls_silent(
    listening: NotifySocket, eventually: Callable[..., Awaitable[None]], anyio_backend: object
) -> None:
    async with notify.heartbeat(0.001):
        await eventually(lambda: heard(listening), PATIENCE)
        while heard(listening):
            pass
        time.sleep(0.1)  # a hundred beats, if they came from elsewhere
        assert heard(listening) == []
        await eventually(lambda: heard(listening), PATIENCE)


@pytest.mark.anyio
async def test_the_interval_is_half_of_what_is_asked_for(
    listening: NotifySocket,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[..., Awaitable[None]],
    anyio_backend: object,
) -> None:
    slept: list[float] = []
    sleep = anyio.sleep

    async def record(seconds: float) -> None:
        slept.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(anyio, "sleep", record)
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    async with notify.heartbeat():
        with anyio.fail_after(PATIENCE):
            while not slept:
                await sleep(0.001)
    assert slept == [1.5]
    assert heard(listening) == [BEAT]


@pytest.mark.anyio
@pytest.mark.parametrize(("supervised", "interval"), [(True, None), (False, 0.001)])
async def test_it_is_silent_where_nobody_asks(
    listening: NotifySocket,
    monkeypatch: pytest.MonkeyPatch,
    supervised: bool,
    interval: float | None,
    anyio_backend: object,
) -> None:
    if not supervised:
        monkeypatch.delenv("NOTIFY_SOCKET")
    async with notify.heartbeat(interval):
        for _ in range(20):
            await anyio.sleep(0.001)
    assert heard(listening) == []


@pytest.mark.anyio
@pytest.mark.parametrize("trouble", ["full", "gone"])
async def test_the_loop_goes_on_whatever_becomes_of_the_supervisor(
    listening: NotifySocket, trouble: str, anyio_backend: object
) -> None:
    if trouble == "full":
        fill(listening.path)
    else:
        listening.close()
    with anyio.fail_after(PATIENCE):  # a send that waits would take 5 s each
        async with notify.heartbeat(0.001):
            for _ in range(50):
                await anyio.sleep(0.001)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "error", [KeyError("x"), SystemExit(3), ExceptionGroup("two", [OSError()])]
)
async def test_an_exception_passes_as_it_is(
    listening: NotifySocket, error: BaseException, anyio_backend: object
) -> None:
    with pytest.raises(type(error)) as caught:
        async with notify.heartbeat(0.001):
            await anyio.sleep(0.001)
            raise error
    assert caught.value is error


@pytest.mark.anyio
async def test_a_cancellation_passes(listening: NotifySocket, anyio_backend: object) -> None:
    with anyio.fail_after(PATIENCE):
        with anyio.CancelScope() as scope:
            async with notify.heartbeat(0.001):
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        await anyio.sleep(0.001)


def test_asyncios_own_cancellations_pass(listening: NotifySocket) -> None:
    async def beat_for_ever() -> None:
        async with notify.heartbeat(0.001):
            await asyncio.sleep(3600)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await beat_for_ever()
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0
        task = asyncio.create_task(beat_for_ever())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())


# --- the module ---------------------------------------------------------------------------------


def test_it_needs_the_standard_library_only() -> None:
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(agentsup.__file__).parent.parent)!r})\n"
        "from agentsup import notify\n"
        "assert notify.ready() is False\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("agentsup")} == {
        "agentsup",
        "agentsup._lazy",
        "agentsup.notify",
    }
    assert not loaded & {"anyio", "asyncio", "attr", "socket"}


def test_the_reference_has_every_name() -> None:
    page = Path(__file__).parent.parent / "docs" / "reference" / "notify.md"
    described = set(re.findall(r"autofunction:: (\w+)", page.read_text()))
    public = {
        name
        for name, value in vars(notify).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    assert described == set(notify.__all__) == public
