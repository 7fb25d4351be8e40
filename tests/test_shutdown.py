"""A graceful end: real signals, to programs of their own and to this one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator

import anyio
import anyio.lowlevel
import psutil
import pytest
import uvloop

from agentsup import UnsupportedPlatform
from agentsup.shutdown import graceful

pytestmark = pytest.mark.anyio

FOREVER = 1000.0
BACKENDS = {
    "asyncio": "backend='asyncio'",
    "uvloop": "backend='asyncio', backend_options={'use_uvloop': True}",
    "trio": "backend='trio'",
}


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


# --- programs -----------------------------------------------------------------------------------

PROGRAM = """
import anyio, itertools, sys
from agentsup.shutdown import graceful

say = lambda *words: print(*words, flush=True)

async def tell(shutdown):
    await shutdown.wait_requested()
    say("requested")

async def main():
    async with graceful(grace={grace}) as shutdown:
        shutdown.on_exit(say, "saved")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell, shutdown)
            async for number in shutdown.units(itertools.count()):
                say("began", number)
                await anyio.wait_readable(sys.stdin)
                if not sys.stdin.readline():  # nobody has said that it ends
                    await anyio.sleep_forever()
                say("ended", number)

anyio.run(main, {backend})
say("after")
"""


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as program:
        try:
            yield program
        finally:
            program.kill()


def hear(program: subprocess.Popen[str], line: str) -> None:
    assert program.stdout
    heard = program.stdout.readline()
    assert heard == f"{line}\n", (heard, program.stderr and program.stderr.read())


def what_follows(program: subprocess.Popen[str]) -> tuple[int, str]:
    """How it ends, and what it says before that."""
    output, complaints = program.communicate(timeout=60)
    assert not complaints
    return program.returncode, output.replace("\n", " ").strip()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return BACKENDS[request.param]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_lets_the_unit_in_hand_end(
    backend: str, python_file: Callable[[str], str], number: signal.Signals
) -> None:
    path = python_file(PROGRAM.format(grace=FOREVER, backend=backend))
    with running(sys.executable, path) as program:
        hear(program, "began 0")
        program.send_signal(number)
        hear(program, "requested")
        program.stdin.write("\n")
        assert what_follows(program) == (0, "ended 0 saved after")


def test_a_second_signal_cancels_it(backend: str, python_file: Callable[[str], str]) -> None:
    path = python_file(PROGRAM.format(grace=FOREVER, backend=backend))
    with running(sys.executable, path) as program:
        hear(program, "began 0")
        program.send_signal(signal.SIGTERM)
        hear(program, "requested")
        program.send_signal(signal.SIGINT)
        assert what_follows(program) == (128 + signal.SIGTERM, "saved")


def test_the_end_of_the_grace_cancels_it(backend: str, python_file: Callable[[str], str]) -> None:
    path = python_file(PROGRAM.format(grace=0.05, backend=backend))
    with running(sys.executable, path) as program:
        hear(program, "began 0")
        program.send_signal(signal.SIGINT)
        hear(program, "requested")
        assert what_follows(program) == (128 + signal.SIGINT, "saved")


@pytest.mark.skipif(
    subprocess.run(["unshare", "-pf", "--mount-proc", "true"], capture_output=True).returncode != 0,
    reason="no PID namespace to be had",
)
def test_as_pid_1(python_file: Callable[[str], str], until: Callable[..., None]) -> None:
    source = "import os\nassert os.getpid() == 1" + PROGRAM
    path = python_file(source.format(grace=FOREVER, backend=BACKENDS["asyncio"]))
    with running("unshare", "-pf", "--mount-proc", sys.executable, path) as unshare:
        hear(unshare, "began 0")
        (program,) = psutil.Process(unshare.pid).children()
        program.terminate()
        hear(unshare, "requested")
        program.terminate()
        assert what_follows(unshare) == (128 + signal.SIGTERM, "saved")


INTERRUPTED = """
import anyio
from agentsup.shutdown import graceful

async def sleep():
    print("sleeps", flush=True)
    await anyio.sleep_forever()

async def use_it_twice():
    async with graceful():
        pass
    async with graceful():
        pass
    await sleep()

for main in (sleep, use_it_twice, sleep):
    try:
        anyio.run(main, {backend})
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_the_event_loop_has_its_own_way_with_sigint_before_and_after(
    backend: str, python_file: Callable[[str], str]
) -> None:
    path = python_file(INTERRUPTED.format(backend=backend))
    with running(sys.executable, path) as program:
        for _ in range(3):
            hear(program, "sleeps")
            program.send_signal(signal.SIGINT)
            hear(program, "interrupted")
        assert what_follows(program) == (0, "")


# --- being asked --------------------------------------------------------------------------------


def wakeup_fd() -> int:
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
    return fd


async def test_nothing_is_asked_by_itself(anyio_backend: object) -> None:
    before = handlers(), wakeup_fd()
    async with graceful() as shutdown:
        assert handlers() != before[0]
        await anyio.wait_all_tasks_blocked()
        assert (shutdown.requested, shutdown.forced, shutdown.signal) == (False, False, None)
    assert (handlers(), wakeup_fd()) == before


async def test_a_signal_is_known_at_once(anyio_backend: object) -> None:
    async with graceful() as shutdown:
        send(signal.SIGTERM)
        assert shutdown.requested
        await shutdown.wait_requested()
        assert (shutdown.requested, shutdown.forced) == (True, False)
        assert shutdown.signal is signal.SIGTERM


async def test_a_signal_that_the_loop_has_not_heard_of_yet_counts(anyio_backend: object) -> None:
    async with graceful() as shutdown:
        send(signal.SIGTERM)
    assert shutdown.signal is signal.SIGTERM
    with pytest.raises(SystemExit):
        async with graceful() as shutdown:
            send(signal.SIGTERM)
            send(signal.SIGTERM)


async def test_a_signal_that_comes_to_another_thread_wakes_the_loop(anyio_backend: object) -> None:
    def send_to_itself() -> None:
        time.sleep(0.05)  # so that the loop waits; with less of it, the test shows less
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    async with graceful() as shutdown:
        thread = threading.Thread(target=send_to_itself)
        thread.start()
        with anyio.fail_after(20):
            await shutdown.wait_requested()
    thread.join()


async def test_the_program_can_ask_itself(anyio_backend: object) -> None:
    async with graceful() as shutdown:
        for _ in range(3):
            shutdown.request()
        with anyio.fail_after(10):
            await shutdown.wait_requested()
        assert (shutdown.requested, shutdown.forced, shutdown.signal) == (True, False, None)


async def test_what_the_program_asked_for_ends_with_the_grace_too(anyio_backend: object) -> None:
    with pytest.raises(SystemExit) as info, anyio.fail_after(10):
        async with graceful(grace=0.01) as shutdown:
            await anyio.wait_all_tasks_blocked()
            shutdown.request()
            await anyio.sleep_forever()
    assert info.value.code == 1


async def test_a_request_that_comes_too_late_writes_nowhere(anyio_backend: object) -> None:
    async with graceful() as shutdown:
        pass
    shutdown.request()
    async with graceful() as shutdown:
        pass
    ends = os.pipe()  # with the numbers that have just become free
    try:
        shutdown.request()
        os.set_blocking(ends[0], False)
        with pytest.raises(BlockingIOError):
            os.read(ends[0], 1)
    finally:
        for end in ends:
            os.close(end)


async def test_other_signals(anyio_backend: object) -> None:
    before = handlers()
    async with graceful(signals=["USR1", "USR1", signal.SIGHUP]) as shutdown:
        assert handlers() == before
        send(signal.SIGHUP)
        await shutdown.wait_requested()
        assert shutdown.signal is signal.SIGHUP
    assert signal.getsignal(signal.SIGUSR1) is signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


async def test_a_handler_that_somebody_has_put_there_meanwhile_stays(anyio_backend: object) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        async with graceful():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_one_in_the_other(anyio_backend: object) -> None:
    before = handlers(), wakeup_fd()
    async with graceful() as outer:
        async with graceful() as inner:
            send(signal.SIGTERM)
            await inner.wait_requested()
        assert not outer.requested
        send(signal.SIGTERM)
        await outer.wait_requested()
    assert (handlers(), wakeup_fd()) == before


async def test_in_a_signal_storm(anyio_backend: object) -> None:
    with pytest.raises(SystemExit) as info:
        async with graceful() as shutdown:
            for _ in range(70_000):  # more than a pipe holds
                shutdown._arrivals._note(signal.SIGTERM, None)
            await anyio.sleep_forever()
    assert info.value.code == 128 + signal.SIGTERM


# --- units --------------------------------------------------------------------------------------


async def each(items: Iterable[int]) -> AsyncGenerator[int]:
    for item in items:
        await anyio.lowlevel.checkpoint()
        yield item


@pytest.mark.parametrize("make", [iter, list, each])
async def test_all_units_when_nobody_asks(
    anyio_backend: object, make: Callable[[list[int]], list[int]]
) -> None:
    async with graceful() as shutdown:
        assert [unit async for unit in shutdown.units(make([1, 2, 3]))] == [1, 2, 3]
        assert [unit async for unit in shutdown.units(make([]))] == []


async def test_no_unit_is_begun_after_the_signal_and_none_is_lost(anyio_backend: object) -> None:
    source, done = iter(range(10)), []
    async with graceful() as shutdown:
        async for unit in shutdown.units(source):
            if unit == 2:
                send(signal.SIGTERM)  # and the loop is given no time to hear of it
            done.append(unit)
    assert done == [0, 1, 2]
    async with graceful() as shutdown, contextlib.aclosing(each(source)) as generator:
        async for unit in shutdown.units(generator):
            if unit == 5:
                send(signal.SIGTERM)
            done.append(unit)
    assert [*done, *source] == list(range(10))


async def test_a_unit_that_blocks_the_loop_does_not_keep_others_from_running(
    anyio_backend: object,
) -> None:
    async with graceful() as shutdown, anyio.create_task_group() as tasks:
        other = anyio.Event()
        tasks.start_soon(set_later, other)
        async for _ in shutdown.units(range(100)):
            pass
        assert other.is_set()


async def set_later(event: anyio.Event) -> None:
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
    event.set()


async def test_a_wait_for_the_next_unit_ends(anyio_backend: object) -> None:
    sender, receiver = anyio.create_memory_object_stream[int](1)
    done = []
    async with sender, receiver, graceful() as shutdown, anyio.create_task_group() as tasks:
        await sender.send(1)
        tasks.start_soon(signal_when_blocked)
        with anyio.fail_after(10):
            async for unit in shutdown.units(receiver):
                done.append(unit)
    assert done == [1]


async def signal_when_blocked() -> None:
    await anyio.wait_all_tasks_blocked()
    send(signal.SIGTERM)


async def test_a_break_warns_of_nothing(anyio_backend: object) -> None:
    async with graceful() as shutdown:
        async for _ in shutdown.units([1, 2]):
            break
    # a ResourceWarning would be an error


async def test_interruptible(anyio_backend: object) -> None:
    async with graceful() as shutdown, anyio.create_task_group() as tasks:
        with shutdown.interruptible() as scope:
            await anyio.lowlevel.checkpoint()
        assert not scope.cancel_called
        tasks.start_soon(signal_when_blocked)
        with anyio.fail_after(10), shutdown.interruptible() as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        with shutdown.interruptible() as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        await anyio.lowlevel.checkpoint()
        assert not shutdown.forced


# --- hooks --------------------------------------------------------------------------------------


async def append_later(where: list[str], what: str) -> None:
    await anyio.lowlevel.checkpoint()
    where.append(what)


async def test_hooks_are_called_in_reverse_order(anyio_backend: object) -> None:
    called: list[str] = []
    async with graceful() as shutdown:
        shutdown.on_exit(called.append, "first")
        shutdown.on_exit(append_later, called, "second")
        shutdown.on_exit(lambda: shutdown.on_exit(called.append, "of a hook"))
        assert not called
    assert called == ["of a hook", "second", "first"]


async def test_hooks_have_time_when_the_work_was_cancelled(anyio_backend: object) -> None:
    called: list[str] = []
    with pytest.raises(SystemExit):
        async with graceful(grace=0) as shutdown:
            shutdown.on_exit(append_later, called, "saved")
            send(signal.SIGTERM)
            await anyio.sleep_forever()
    assert called == ["saved"]


async def test_hooks_run_in_a_shield(anyio_backend: object) -> None:
    called: list[str] = []
    with anyio.CancelScope() as scope:
        async with graceful() as shutdown:
            shutdown.on_exit(append_later, called, "saved")
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert called == ["saved"]


@pytest.mark.parametrize("asked", [False, True])
async def test_a_hook_that_hangs(anyio_backend: object, asked: bool) -> None:
    called: list[str] = []
    with pytest.raises(TimeoutError, match=r"on_exit: .*sleep_forever"):
        async with graceful(grace=0.01, cleanup=0.01) as shutdown:
            shutdown.on_exit(called.append, "saved")
            shutdown.on_exit(anyio.sleep_forever)
            if asked:
                shutdown.request()
    assert called == ["saved"]


async def test_more_signals_end_a_hook(anyio_backend: object) -> None:
    async def hook() -> None:
        send(signal.SIGTERM)
        await shutdown.wait_requested()
        assert not shutdown.forced
        send(signal.SIGTERM)
        send(signal.SIGINT)
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError, match="sleep_forever"), anyio.fail_after(10):
        async with graceful(grace=FOREVER, cleanup=FOREVER) as shutdown:
            shutdown.on_exit(anyio.sleep_forever)  # has no time left
            shutdown.on_exit(hook)
    assert shutdown.forced


async def test_what_is_done_in_time_is_well_done(anyio_backend: object) -> None:
    """A second signal that comes when the work has ended is no failure."""

    async def hook() -> None:
        send(signal.SIGTERM)
        await shutdown.wait_requested()
        send(signal.SIGTERM)
        await anyio.wait_all_tasks_blocked()

    async with graceful(grace=FOREVER, cleanup=FOREVER) as shutdown:
        shutdown.on_exit(hook)
    assert shutdown.forced


async def test_hooks_that_raise(anyio_backend: object) -> None:
    called: list[str] = []

    def fail(error: Exception) -> None:
        raise error

    first, second, body = KeyError("first"), ValueError("second"), OSError("body")
    with pytest.raises(KeyError) as info:
        async with graceful() as shutdown:
            shutdown.on_exit(called.append, "saved")
            shutdown.on_exit(fail, first)
            shutdown.on_exit(fail, second)
            raise body
    assert info.value is first
    assert first.__context__ is second
    assert second.__context__ is body
    assert called == ["saved"]


# --- what else happens to the block -------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit(3)])
async def test_an_exception_of_the_block_is_not_wrapped(
    anyio_backend: object, error: BaseException
) -> None:
    before = handlers()
    with pytest.raises(type(error)) as info:
        async with graceful():
            raise error
    assert info.value is error
    assert handlers() == before


async def test_an_error_goes_before_the_exit_status(anyio_backend: object) -> None:
    with pytest.raises(ValueError, match="while it is cancelled"):
        async with graceful(grace=0) as shutdown:
            shutdown.request()
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("while it is cancelled")


async def test_a_cancellation_from_outside_goes_on(anyio_backend: object) -> None:
    before = handlers()
    with anyio.CancelScope() as scope:
        async with graceful():
            scope.cancel()
            await anyio.sleep_forever()
        pytest.fail("the cancellation is gone")
    assert scope.cancelled_caught
    assert handlers() == before


@pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_a_cancellation_of_asyncio_s_own(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    called: list[str] = []

    async def work(begun: asyncio.Event, in_hook: asyncio.Event) -> None:
        async def hook() -> None:
            in_hook.set()
            await asyncio.sleep(FOREVER)

        async with graceful() as shutdown:
            shutdown.on_exit(called.append, "saved")
            shutdown.on_exit(hook)
            begun.set()
            await asyncio.sleep(FOREVER)

    async def main() -> None:
        before = handlers()
        begun, in_hook = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(work(begun, in_hook))
        await begun.wait()
        task.cancel()
        await in_hook.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert called == ["saved"]
        assert handlers() == before
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), graceful():
                await asyncio.sleep(FOREVER)
        assert asyncio.current_task().cancelling() == 0

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


# --- the manager --------------------------------------------------------------------------------


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mailbox:
        mailbox.bind("")  # the kernel finds an abstract name
        mailbox.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + mailbox.getsockname()[1:].decode())
        yield mailbox


async def test_the_manager_is_told(anyio_backend: object, manager: socket.socket) -> None:
    async with graceful(grace=40, cleanup=20) as shutdown:
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(BlockingIOError):
            manager.recv(4096)
        send(signal.SIGTERM)
        await shutdown.wait_requested()
        message = manager.recv(4096).decode()
    with pytest.raises(BlockingIOError):
        manager.recv(4096)
    stopping, extend = message.split("\n")
    assert stopping == "STOPPING=1"
    (microseconds,) = re.fullmatch(r"EXTEND_TIMEOUT_USEC=(\d+)", extend).groups()
    assert 60e6 < int(microseconds) < 70e6


@pytest.mark.parametrize("address", ["/nowhere/at/all", "neither"])
async def test_a_manager_that_is_gone(
    anyio_backend: object, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    async with graceful() as shutdown:
        send(signal.SIGTERM)
        await shutdown.wait_requested()


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"grace": -1}, "ValueError: grace must be zero or more seconds, not -1"),
        ({"grace": None}, "ValueError: grace must be finite, not None"),
        ({"cleanup": float("inf")}, "ValueError: cleanup must be finite, not inf"),
        ({"cleanup": "5"}, "TypeError: cleanup must be a number of seconds, not str"),
        ({"signals": ["TREM"]}, "ValueError: signals: unknown signal 'TREM'"),
        ({"signals": "TERM"}, "TypeError: signals must be several, such as ['TERM'], not 'TERM'"),
        ({"signals": ["TERM", 9]}, "ValueError: signals: SIGKILL can be neither caught nor"),
    ],
)
def test_bad_input(arguments: dict[str, object], error: str) -> None:
    before = handlers()

    async def main() -> None:
        async with graceful(**arguments):
            pytest.fail("it was entered")

    with pytest.raises((TypeError, ValueError)) as info:
        anyio.run(main)
    assert f"{info.type.__name__}: {info.value}".startswith(error)
    assert handlers() == before


async def test_bad_input_in_the_block(anyio_backend: object) -> None:
    async with graceful() as shutdown:
        with pytest.raises(TypeError, match="source must be iterable, with for or async for"):
            shutdown.units(5)
        with pytest.raises(TypeError, match="function must be callable, not 'save'"):
            shutdown.on_exit("save")


def test_only_in_the_main_thread() -> None:
    async def main() -> None:
        async with graceful():
            pytest.fail("it was entered")

    async def outside() -> None:
        with pytest.raises(RuntimeError, match="signals come to the main thread"):
            await anyio.to_thread.run_sync(anyio.run, main)

    anyio.run(outside)


def test_not_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UnsupportedPlatform, match="win32"):
        graceful().__aenter__().send(None)
