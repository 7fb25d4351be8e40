"""The keeper is killed, stopped, slow, broken or talks nonsense, at each step of its protocol."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from pathlib import Path

import anyio
import pytest

import agentsup
from agentsup import KeeperLost, Outcome
from agentsup._linux import keeper, lifeline
from agentsup._rules import call as call_rule

STUBBORN = "trap '' TERM; echo on; sleep {0} & (setsid sleep {0} &); sleep {0}; exit 0"
# Adopted, it ends by itself: some time after the keeper has taken note of the main process's end.
LEAVES = "(while kill -0 $$; do sleep 0.02; done; sleep 0.1) 2>/dev/null & echo on"

POINTS = [
    "at its start",
    "after OPEN",
    "after SPAWN",
    "after the spawn",
    "before STARTED",
    "after STARTED",
    "after SIGNAL",
    "after KILL",
    "after a kill",
    "before EXITED",
    "after EXITED",
    "before EMPTY",
    "after EMPTY",
    "before KILLED",
    "after KILLED",
]
OUTPUT_IS_READ = POINTS[6:]
DEEDS = ["killed", "stopped", "slow", "broken"]
BOUNDS = (0.5, 5.0, 50.0)  # seconds for an answer; the next if one without trouble was late
BACKENDS = itertools.cycle(["asyncio", "trio"])  # in turn, whichever it is


@pytest.fixture
def trouble(monkeypatch, tmp_path):
    """A stand-in for the keeper, which is in trouble once; says whether it was."""

    def make(point, deed):
        once = tmp_path / "once"
        program = str(Path(__file__).with_name("faulty_keeper.py"))
        monkeypatch.setattr(lifeline, "_program", lambda: program)
        monkeypatch.setenv("FAULT_PROGRAM", keeper.__file__)
        monkeypatch.setenv("FAULT_POINT", point)
        monkeypatch.setenv("FAULT_DEED", deed)
        monkeypatch.setenv("FAULT_ONCE", str(once))
        return once.exists

    return make


async def attempt(sup, command, leave, **options):
    """What comes of it: a result, or KeeperLost, and nothing else."""
    try:
        async with sup.open(command, **options) as process:
            if leave:
                async for _ in process.lines():
                    process.stop()
            return await process.wait()
    except KeeperLost as lost:
        return lost


async def two_calls(marker, point, struck):
    """One that gets to ``point``, and one beside it."""
    ends = {}

    async def beside(sup):
        command = agentsup.shell("sleep 0.2; echo on")
        ends["beside"] = await attempt(sup, command, leave=False, timeout=120, grace=0)

    async with agentsup.Supervisor() as sup, anyio.create_task_group() as tasks:
        if "EMPTY" in point:
            command = agentsup.shell(LEAVES)
            ends["first"] = await attempt(sup, command, False, leftovers="adopt", grace=0)
            while sup.tree() and not struck():
                await anyio.sleep(0.01)
        else:
            tasks.start_soon(beside, sup)
            command = agentsup.shell(STUBBORN.format(marker))
            ends["first"] = await attempt(sup, command, leave=True, grace=0.05)
            assert not marker.pids()
            if "KILLED" in point:
                tasks.cancel_scope.cancel()
    return ends


def check(ends, point, deed):
    first = ends["first"]
    if deed == "slow":
        assert isinstance(first, agentsup.Result)
    if isinstance(first, agentsup.Result):
        assert first.outcome is (Outcome.EXITED if "EMPTY" in point else Outcome.STOPPED)
        assert first.stdout.text == "on\n"
    elif point in OUTPUT_IS_READ:
        assert first.partial.stdout.text == "on\n"
    if isinstance(ends.get("beside"), agentsup.Result):
        assert ends["beside"].ok
        assert ends["beside"].stdout.text == "on\n"


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("point", POINTS)
def test_trouble(point, deed, trouble, marker, monkeypatch):
    struck = trouble(point, deed)
    for bound in BOUNDS:
        with monkeypatch.context() as impatient:
            if deed == "stopped":
                impatient.setattr(call_rule, "KILL_BOUND", bound)
                if point not in OUTPUT_IS_READ:
                    impatient.setattr(call_rule, "ASK_AFTER", bound)
                    impatient.setattr(call_rule, "START_BOUND", bound)
            ends = anyio.run(two_calls, marker, point, struck, backend=next(BACKENDS))
            if deed == "stopped":
                impatient.setattr(call_rule, "START_BOUND", bound)
            with contextlib.suppress(KeeperLost):  # by the one that is stopped now
                agentsup.run_sync(["true"])
        if struck():
            break
    assert struck()
    check(ends, point, deed)
    assert not marker.pids()
    assert agentsup.run_sync(["true"]).ok


def test_asked_although_it_was_about_to_say(trouble, marker, monkeypatch):
    monkeypatch.setattr(call_rule, "ASK_AFTER", 0.05)
    trouble("before STARTED", "slow")
    assert agentsup.run_sync(["true"]).ok
    before = len(os.listdir("/proc/self/fd"))
    eager = agentsup.Escalation(agentsup.Step(["true"], 0.1))
    assert agentsup.run_sync(["sleep", "0.5"], escalation=eager).ok
    assert len(os.listdir("/proc/self/fd")) == before  # with the one channel


ERRORS = [errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE]


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["posix_spawn", "fork", "pipe2", "fchdir"])
def test_a_system_call_of_the_keeper_fails(call, error, trouble):
    """The call that it was for fails alone: ENFILE is the whole machine's, so this is a seam."""
    struck = trouble(call, f"errno {error}")

    async def main():
        async with agentsup.Supervisor() as sup:
            limits = agentsup.Limits(open_files=50) if call in ("fork", "pipe2") else None
            with pytest.raises(agentsup.SpawnError) as caught:
                await sup.run(["true"], limits=limits)
            assert caught.value.errno == error
            assert os.strerror(error) in str(caught.value) or "processes" in str(caught.value)
            kept = lifeline._current
            for options in ({}, {"limits": limits}):
                assert (await sup.run(["true"], **options)).ok
            assert lifeline._current is kept

    anyio.run(main, backend=next(BACKENDS))
    assert struck()


GARBAGE = ["bare", "cut", "cut more", "long", "unknown", "random", "without", "with more"]
KINDS = ["STARTED", "EXITED", "KILLED", "FAILED"]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("kind", KINDS)
def test_garbage(kind, garbage, trouble, marker, monkeypatch, tmp_path):
    """A message of the keeper's that is none: the call is lost, or is none the worse for it."""
    struck = trouble(f"instead of {kind}", f"garbage, {garbage}")
    script = tmp_path / "script"
    interpreter = "/nonexistent" if kind == "FAILED" else "/bin/sh"
    script.write_text(
        f"#!{interpreter}\n{STUBBORN.format(marker) if kind == 'KILLED' else 'exit 3'}"
    )
    script.chmod(0o755)
    steps = [agentsup.Step("TERM", 0.05)]
    if kind == "STARTED":
        steps.append(agentsup.Step(["true"], 0.05))  # it is told the pid
    options = {"escalation": agentsup.Escalation(*steps)}
    before = set(os.listdir("/proc/self/fd"))
    try:
        for bound in BOUNDS:
            with monkeypatch.context() as impatient:
                for name in ("ASK_AFTER", "START_BOUND", "KILL_BOUND"):
                    impatient.setattr(call_rule, name, bound)
                try:
                    end = agentsup.run_sync([str(script)], timeout=bound, **options)
                except (KeeperLost, agentsup.SpawnError) as error:
                    end = error
            if struck():
                break
    finally:
        lifeline.shut_down()
        left = [int(fd) for fd in set(os.listdir("/proc/self/fd")) - before]
        left = [fd for fd in left if os.path.exists(f"/proc/self/fd/{fd}")]
        for fd in left:
            os.close(fd)
    assert struck()
    assert not left
    assert not marker.pids()
    if isinstance(end, agentsup.Result):
        assert kind != "FAILED"
        assert end.exit_code == 3 or end.outcome is Outcome.TIMED_OUT
    assert isinstance(end, (agentsup.Result, KeeperLost)) or kind == "FAILED"
    assert agentsup.run_sync(["true"]).ok
