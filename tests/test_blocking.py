"""Without an event loop."""

from __future__ import annotations

import signal
import threading
import time

import pytest

import agentsup
from agentsup import Outcome, OutputPolicy


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
            thread.join(60)
    assert results == [True] * 160


def test_max_concurrency_is_first_come_first_served(until):
    order, results = [], []

    def work(number):
        script = "echo; sleep 0.5" if number == 0 else "echo; sleep 0.02"
        on_line = OutputPolicy(on_line=lambda *_: order.append(number))
        results.append(sup.run(["sh", "-c", script], output=on_line))

    with agentsup.SyncSupervisor(max_concurrency=1) as sup:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for number, thread in enumerate(threads):
            thread.start()
            until(lambda: order if number == 0 else len(sup._turns._line) == number)  # noqa: B023
        for thread in threads:
            thread.join(30)
    assert order == list(range(8))
    assert all(result.ok for result in results)
    assert results[-1].queued > 0.1


def alarm(delay):
    def interrupt(*_):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, delay)
    return old


@pytest.mark.parametrize("delay", [0.0005, 0.002, 0.05, 0.2])
def test_keyboard_interrupt(delay, marker):
    script = f"trap '' TERM; echo on; sleep {marker} & sleep {marker}"
    assert agentsup.run_sync(["true"]).ok
    old = alarm(delay)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            agentsup.run_sync(["sh", "-c", script], grace=0.1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    if delay >= 0.2:
        assert agentsup.last_partial(caught.value).stdout.text == "on\n"
        assert not marker.pids()


def test_keyboard_interrupt_in_the_line(marker):
    with agentsup.SyncSupervisor(max_concurrency=1) as sup:
        thread = threading.Thread(target=sup.run, args=(["sleep", "0.6"],))
        thread.start()
        old = alarm(0.2)
        try:
            with pytest.raises(KeyboardInterrupt):
                sup.run(["sleep", marker])
                sup.run(["sleep", marker])
        finally:
            signal.signal(signal.SIGALRM, old)
        assert not marker.pids()
        assert sup.run(["true"]).ok
        thread.join()


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
    assert time.monotonic() - before < 10
    assert not marker.pids()
    for thread in threads:
        thread.join(10)
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
