"""Without an event loop."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

import agentsup
from agentsup import Outcome, OutputPolicy
from agentsup._linux import lifeline

#: Some of them take SIGALRM.
pytestmark = pytest.mark.agentsup_timeout(0)


def test_run_sync():
    result = agentsup.run_sync(["cat"], stdin=b"hello")
    assert (result.stdout.text, result.ok) == ("hello", True)
    assert agentsup.run_sync(["sleep", "99"], timeout=0.1).outcome is Outcome.TIMED_OUT
    with pytest.raises(agentsup.ToolFailed):
        agentsup.run_sync(["false"], check=True)
    with pytest.raises(FileNotFoundError):
        agentsup.run_sync(["/nonexistent"])


def test_leftovers(marker):
    script = f"(setsid env -i sleep {marker} &); sleep {marker} & exit 3"
    result = agentsup.run_sync(["sh", "-c", script])
    assert (result.exit_code, result.leftover_count) == (3, 2)
    assert not marker.pids()


def test_many_threads():
    results = []

    def work(number):
        for n in range(10):
            result = sup.run(["sh", "-c", f"echo {number}-{n}; exit {n}"])
            results.append((result.stdout.text, result.exit_code) == (f"{number}-{n}\n", n))

    with agentsup.SyncSupervisor() as sup:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert results == [True] * 160


def test_max_concurrency_is_first_come_first_served(until):
    order, results = [], []
    read_end, write_end = os.pipe()

    def work(number):
        script = "echo; read held" if number == 0 else "echo; sleep 0.02"
        on_line = OutputPolicy(on_line=lambda *_: order.append(number))
        results.append(sup.run(["sh", "-c", script], stdin=read_end, output=on_line))

    with agentsup.SyncSupervisor(max_concurrency=1) as sup:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for number, thread in enumerate(threads):
            thread.start()
            until(lambda: order if number == 0 else len(sup._turns._line) == number)  # noqa: B023
        os.write(write_end, b"\n")
        for thread in threads:
            thread.join(120)
    os.close(read_end)
    os.close(write_end)
    assert order == list(range(8))
    assert all(result.ok for result in results)
    assert results[-1].queued > 0.1


@pytest.fixture
def interrupted():
    """Run a function and interrupt it after so many seconds, at the earliest."""

    def interrupt(*_):
        raise KeyboardInterrupt

    def run(delay, function, *args, **options):
        with pytest.raises(KeyboardInterrupt) as caught:
            # Again after a minute, for Python ignores what a finalizer raises.
            signal.setitimer(signal.ITIMER_REAL, delay, 60)
            try:
                function(*args, **options)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        return caught.value

    old = signal.signal(signal.SIGALRM, interrupt)
    yield run
    signal.signal(signal.SIGALRM, old)


def descriptors():
    """Without that of the listing itself."""
    return {int(fd) for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")}


def stubborn(marker):
    return ["sh", "-c", f"trap '' TERM; echo on; sleep {marker} & sleep {marker}"]


@pytest.mark.parametrize("delay", [0.0005, 0.002, 0.05])
def test_keyboard_interrupt(delay, interrupted, marker, until):
    before = descriptors()
    assert agentsup.run_sync(["true"]).ok
    interrupted(delay, agentsup.run_sync, stubborn(marker), grace=0.1)
    assert agentsup.run_sync(["true"]).ok
    until(lambda: not marker.pids())
    lifeline.shut_down()
    # Struck between a system call and the next instruction, Python forgets what that has opened.
    lost = descriptors() - before
    assert len(lost) <= 2
    for fd in lost:
        os.close(fd)


def test_keyboard_interrupt_of_a_program_that_runs(interrupted, marker, patience):
    assert agentsup.run_sync(["true"]).ok
    for delay in patience:
        error = interrupted(delay, agentsup.run_sync, stubborn(marker), grace=0.1)
        partial = agentsup.last_partial(error)
        if partial and partial.stdout.text:
            break
    assert partial.stdout.text == "on\n"
    assert not marker.pids()


def test_keyboard_interrupt_in_the_line(interrupted, marker):
    read_end, write_end = os.pipe()
    begun = threading.Event()
    options = {"stdin": read_end, "output": OutputPolicy(on_line=lambda *_: begun.set())}
    with agentsup.SyncSupervisor(max_concurrency=1) as sup:
        first = ["sh", "-c", "echo; read held"]
        thread = threading.Thread(target=sup.run, args=(first,), kwargs=options)
        thread.start()
        assert begun.wait(60)
        interrupted(0.2, sup.run, ["sleep", marker])
        assert not marker.pids()
        os.write(write_end, b"\n")
        assert sup.run(["true"]).ok
        thread.join()
    os.close(read_end)
    os.close(write_end)


def test_leaving_the_block_stops_the_calls_of_other_threads(marker, until):
    results, errors = [], []

    def work():
        try:
            results.append(sup.run(["sh", "-c", f"sleep {marker} & sleep {marker}"]))
        except agentsup.SupervisorClosed as error:
            errors.append(error)

    with agentsup.SyncSupervisor(max_concurrency=3) as sup:
        threads = [threading.Thread(target=work) for _ in range(5)]
        for thread in threads:
            thread.start()
        until(lambda: len(marker.pids()) == 9)
        before = time.monotonic()
    assert time.monotonic() - before < 60
    assert not marker.pids()
    for thread in threads:
        thread.join(120)
    assert [result.outcome for result in results] == [Outcome.STOPPED] * 3
    assert len(errors) == 2
    with pytest.raises(agentsup.SupervisorClosed):
        sup.run(["true"])


def test_states():
    sup = agentsup.SyncSupervisor()
    with pytest.raises(agentsup.SupervisorClosed, match="not been entered"):
        sup.run(["true"])
    with sup:
        pass
    with pytest.raises(RuntimeError), sup:
        pass


def test_on_line_raises(marker):
    def refuse(stream, line):
        raise LookupError(line)

    with pytest.raises(LookupError, match="one") as caught:
        agentsup.run_sync(
            ["sh", "-c", f"echo one; echo two >&2; sleep {marker}"],
            output=OutputPolicy(on_line=refuse),
        )
    assert not marker.pids()
    assert agentsup.last_partial(caught.value).outcome is Outcome.STOPPED
