"""A process that makes no progress is ended, though it lives; one that makes some is not."""

from __future__ import annotations

import contextlib
import math
import os
import select
import shutil
import socket
import subprocess
import sys
import time

import anyio
import pytest
from anyio.lowlevel import checkpoint

import agentsup
from agentsup import PIPE, Containment, Outcome, OutputPolicy
from agentsup._calls.call import Call
from agentsup._calls.spec import make_spec
from agentsup._levels import missing
from agentsup._values.heartbeat import (
    CallableHeartbeat,
    FileHeartbeat,
    NotifyHeartbeat,
    OutputHeartbeat,
)

pytestmark = pytest.mark.anyio

#: For what does not depend on which it is.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])

LONG = 600.0  # seconds, which no test lasts

# Does what it is told, line by line, and says when that is done.
OBEDIENT = """
import os, socket, subprocess, sys, time
def notify(text, *fds):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.connect(os.environ["NOTIFY_SOCKET"])
        socket.send_fds(s, [text.encode()], fds)
for line in sys.stdin:
    exec(line)
    print("done", file=sys.stderr, flush=True)
"""


def python(source):
    return [sys.executable, "-I", "-S", "-c", source]


def steps(result):
    return [step.action for step in result.escalation]


@contextlib.asynccontextmanager
async def obedient(heartbeat, containment="auto", **options):
    """A process, and a function that has it do something and says that it has."""
    async with (
        agentsup.Supervisor(containment=containment) as supervisor,
        supervisor.open(python(OBEDIENT), stdin=PIPE, heartbeat=heartbeat, **options) as process,
    ):

        async def do(line):
            await process.stdin.send(line.encode() + b"\n")
            assert await process.stderr.receive() == b"done\n"

        await do("pass")  # it runs
        yield process, do


def beat_due(process):
    return process._call.rule.deadline


@pytest.fixture
def beats(eventually):
    """That the process has been given more time, and that it was told in no other way."""

    async def wait(process, before):
        await eventually(lambda: beat_due(process) > before)
        assert process._call.rule.outcome is None

    return wait


# --- without progress -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["notify", "file", "output", "function"])
async def test_a_process_that_makes_no_progress_is_ended(kind, tmp_path, marker):
    (tmp_path / "beat").touch()
    heartbeat = {
        "notify": NotifyHeartbeat(0.2),
        "file": FileHeartbeat(tmp_path / "beat", 0.2),
        "output": OutputHeartbeat(0.2),
        "function": CallableHeartbeat(lambda: False, 0.2),
    }[kind]
    result = await agentsup.run(["sleep", marker], heartbeat=heartbeat)
    assert (result.outcome, steps(result)) == (Outcome.HEARTBEAT_LOST, ["SIGTERM"])
    assert result.escalation[0].at >= 0.2
    assert marker.pids() == []


@one_loop
async def test_one_that_does_not_heed_is_killed():
    async with obedient(NotifyHeartbeat(LONG), grace=0.1) as (process, do):
        await do("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
        await process.stdin.send(b"notify('WATCHDOG_USEC=100000'); time.sleep(99)\n")
        result = await process.wait()
    assert (result.outcome, steps(result)) == (Outcome.HEARTBEAT_LOST, ["SIGTERM", "SIGKILL"])
    assert "heartbeat lost after" in result.reason


@pytest.mark.parametrize("kind", ["notify", "file"])
def test_beats_in_time_keep_it_alive_beyond_the_bound(kind, tmp_path):
    """Without an event loop, too."""
    beat = {"notify": "notify('WATCHDOG=1')", "file": "open('beat', 'a').write('x')"}[kind]
    heartbeat = {"notify": NotifyHeartbeat(1.5), "file": FileHeartbeat("beat", 1.5)}[kind]
    source = OBEDIENT.partition("for line")[0] + (
        f"end = time.monotonic() + 2\nwhile time.monotonic() < end: {beat}; time.sleep(.02)\n"
    )
    assert agentsup.run_sync(python(source), heartbeat=heartbeat, cwd=tmp_path).check().ok


async def test_a_call_can_be_made_to_have_beats(beats):
    """As services do: from when they are ready, say."""
    async with obedient(None) as (process, _):
        call = process._call
        assert call.rule.deadline is None
        call.expect_beats(LONG)
        due = beat_due(process)
        call.beat()
        await beats(process, due)
        call.expect_beats(0.1)
        assert call._armed <= beat_due(process), "nothing else has to happen for it to be noticed"
        assert (await process.wait()).outcome is Outcome.HEARTBEAT_LOST


# --- output -----------------------------------------------------------------------------------


@one_loop
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_what_is_printed_is_progress(stream, beats):
    async with obedient(OutputHeartbeat(LONG)) as (process, _):
        due = beat_due(process)
        await process.stdin.send(f"print('x', file=sys.{stream}, flush=True)\n".encode())
        await beats(process, due)


# --- a file -----------------------------------------------------------------------------------


@one_loop
@pytest.mark.parametrize(
    "change",
    [
        pytest.param("open('beat', 'w').write('x')", id="made"),
        pytest.param("open('old', 'a').write('x'); os.rename('old', 'beat')", id="replaced"),
        pytest.param("open('beat', 'w'); os.utime('beat', (0, time.time() + 1e6))", id="future"),
    ],
)
async def test_a_change_of_the_file_is_progress(change, beats, tmp_path):
    """Its path is taken from the directory of the process."""
    async with obedient(FileHeartbeat("beat", LONG), cwd=tmp_path) as (process, do):
        for _ in range(2):
            due = beat_due(process)
            await do(f"time.sleep(.02); {change}")  # past the tick of the clock of files
            await beats(process, due)


@one_loop
async def test_a_time_in_the_future_is_no_eternal_life(tmp_path):
    (tmp_path / "beat").touch()
    os.utime(tmp_path / "beat", (0, time.time() + 1e6))
    heartbeat = FileHeartbeat(b"beat", 0.3)
    result = await agentsup.run(["sleep", "99"], cwd=tmp_path, heartbeat=heartbeat)
    assert result.outcome is Outcome.HEARTBEAT_LOST


@one_loop
async def test_what_leaves_the_time_as_it_is_is_no_progress(tmp_path, eventually, beats):
    (tmp_path / "beat").touch()
    async with obedient(FileHeartbeat("beat", LONG), cwd=tmp_path) as (process, do):
        due, watch = beat_due(process), process._call._beats
        looked = watch._looked
        await do("os.chmod('beat', 0o600)")
        await eventually(lambda: watch._looked > looked)  # it was told of that
        assert beat_due(process) == due
        await do("os.utime('beat')")
        await beats(process, due)


@one_loop
async def test_a_change_that_nobody_is_told_of_is_seen_when_the_time_is_up(tmp_path):
    """The watched directory is there no more, another has its name."""
    (tmp_path / "a").mkdir()
    heartbeat = FileHeartbeat(tmp_path / "a" / "beat", LONG)
    async with obedient(heartbeat, cwd=tmp_path) as (process, do):
        due, watch = beat_due(process), process._call._beats
        await do("os.rename('a', 'b'); os.mkdir('a'); open('a/beat', 'w')")
        watch.look(due - 1.0)
        assert beat_due(process) == due
        watch.look(due)
        assert beat_due(process) > due


@one_loop
async def test_a_change_that_is_seen_late_counts_from_when_it_was(tmp_path):
    (tmp_path / "beat").touch()
    async with obedient(FileHeartbeat("beat", LONG), cwd=tmp_path) as (process, _):
        beats = process._call._beats
        for looked, age, counts in ((300.0, 100.0, 100.0), (50.0, 200.0, 50.0), (50.0, -9.0, 0.0)):
            process._call.expect_beats(1.0)
            process._call.rule._beats_within = LONG
            now = time.monotonic()
            beats._looked = now - looked
            os.utime(tmp_path / "beat", (0, time.time() - age))
            beats.look(math.inf)
            assert now - counts <= beat_due(process) - LONG + 0.1
            assert beat_due(process) - LONG <= time.monotonic() - counts + 0.1


@one_loop
async def test_a_user_without_a_watch_left_has_the_look_at_the_end(tmp_path, monkeypatch):
    from agentsup._linux import file_watch

    def no_more(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(file_watch.FileWatch, "__init__", no_more)
    async with obedient(FileHeartbeat("beat", LONG), cwd=tmp_path) as (process, do):
        due = beat_due(process)
        await do("open('beat', 'w')")
        process._call._beats.look(due)
        assert beat_due(process) > due


# --- notify -----------------------------------------------------------------------------------

LEVELS = [
    pytest.param(
        containment,
        marks=pytest.mark.skipif(missing(containment) is not None, reason="not to be had"),
        id=containment.name,
    )
    for containment in Containment
]


@one_loop
@pytest.mark.parametrize("containment", LEVELS)
async def test_the_process_itself_says_that_it_makes_progress(containment, beats):
    async with obedient(NotifyHeartbeat(LONG), containment) as (process, do):
        due = beat_due(process)
        await do("notify('WATCHDOG=1')")
        await beats(process, due)


@one_loop
@pytest.mark.parametrize("containment", LEVELS[1:])
async def test_any_process_of_the_tree_can_say_so(containment, beats):
    child = "os.fork() or (notify('WATCHDOG=1'), time.sleep(99))"
    async with obedient(NotifyHeartbeat(LONG), containment) as (process, _):
        due = beat_due(process)
        await process.stdin.send(child.encode() + b"\n")
        await beats(process, due)


@one_loop
@pytest.mark.skipif(not shutil.which("systemd-notify"), reason="there is no systemd-notify")
async def test_systemds_own_client_is_understood():
    script = agentsup.shell("systemd-notify WATCHDOG=trigger; sleep 99")
    result = await agentsup.run(script, heartbeat=NotifyHeartbeat(LONG))
    assert result.outcome is Outcome.HEARTBEAT_LOST


@one_loop
async def test_others_are_not_listened_to(beats):
    async with obedient(NotifyHeartbeat(LONG)) as (process, do):
        due = beat_due(process)
        path = process._call._beats._socket.path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"WATCHDOG=trigger", path)
        await do("notify('WATCHDOG=1')")  # behind that
        await beats(process, due)
    assert not os.path.exists(path)


@one_loop
async def test_one_that_knows_of_its_trouble_is_ended_at_once():
    async with obedient(NotifyHeartbeat(LONG)) as (process, _):
        await process.stdin.send(b"notify('WATCHDOG=trigger')\n")
        result = await process.wait()
    assert (result.outcome, steps(result)) == (Outcome.HEARTBEAT_LOST, ["SIGTERM"])


@one_loop
async def test_it_can_change_its_bound(eventually):
    async with obedient(NotifyHeartbeat(LONG)) as (process, do):
        await do("notify('WATCHDOG_USEC=0')")
        await eventually(lambda: beat_due(process) is None)
        await do("notify('WATCHDOG_USEC=100000')")
        assert (await process.wait()).outcome is Outcome.HEARTBEAT_LOST


@one_loop
async def test_it_is_told_where_and_how_often(monkeypatch):
    """And not what this process itself was told by its own supervisor."""
    monkeypatch.setenv("WATCHDOG_PID", "1")
    monkeypatch.setenv("WATCHDOG_USEC", "7")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    result = await agentsup.run(["env"], heartbeat=NotifyHeartbeat(2.5))
    variables = dict(line.split("=", 1) for line in result.stdout.text.splitlines())
    assert variables["WATCHDOG_USEC"] == "2500000"
    assert variables["NOTIFY_SOCKET"].startswith("/")
    assert variables["NOTIFY_SOCKET"] != "/nowhere"
    assert "WATCHDOG_PID" not in variables


@one_loop
async def test_a_barrier_is_let_go():
    barrier = (
        "r, w = os.pipe(); notify('WATCHDOG=1'); notify('BARRIER=1', w); os.close(w); os.read(r, 1)"
    )
    async with obedient(NotifyHeartbeat(LONG)) as (_, do):
        await do(barrier)


def test_what_is_said_before_the_start_is_known_is_heard_after_it():
    agentsup.run_sync(["true"])  # the keeper's first call has the number that is presumed
    source = OBEDIENT.partition("for line")[0] + "notify('WATCHDOG=trigger'); time.sleep(99)"
    call = Call(make_spec(python(source), {"heartbeat": NotifyHeartbeat(LONG)}))
    call.prepare()
    try:
        assert call.send()
        assert select.select([call._beats._socket.fd], [], [], 60.0)[0]
        assert call.pid is None
        while not call.result_ready:
            call.step(None)
        assert call.result().outcome is Outcome.HEARTBEAT_LOST
    finally:
        call.close()


# --- a function -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_function_that_is_true_keeps_it_alive(kind, beats):
    asked = []

    def plain():
        asked.append(True)
        return True

    async def waits():
        await checkpoint()
        return plain()

    heartbeat = CallableHeartbeat({"plain": plain, "async": waits}[kind], LONG, interval=0.01)
    async with obedient(heartbeat) as (process, _):
        for _ in range(3):
            await beats(process, beat_due(process))
    count = len(asked)
    assert count > 2
    for _ in range(10):
        await checkpoint()
    assert len(asked) == count, "nobody asks about what is over"


async def test_the_end_of_the_process_does_not_wait_for_the_next_question():
    heartbeat = CallableHeartbeat(lambda: True, LONG)
    with anyio.fail_after(LONG / 6):
        assert (await agentsup.run(["true"], heartbeat=heartbeat)).ok


async def test_a_function_is_asked_before_it_is_blamed_for_a_busy_host(eventually):
    asked = []
    heartbeat = CallableHeartbeat(lambda: asked.append(True) or True, 0.2)
    async with obedient(heartbeat) as (process, do):
        for _ in range(2):
            time.sleep(0.4)  # it is busy
            count = len(asked)
            await eventually(lambda count=count: len(asked) > count)
        await do("pass")
        assert process._call.rule.outcome is None


async def test_a_function_that_raises_or_hangs_is_no_progress():
    def raises():
        raise OSError("no answer")

    for function, said in ((raises, ["heartbeat: OSError: no answer"]), (anyio.sleep_forever, [])):
        heartbeat = CallableHeartbeat(function, 0.2, interval=0.01)
        result = await agentsup.run(["sleep", "99"], heartbeat=heartbeat)
        assert result.outcome is Outcome.HEARTBEAT_LOST
        assert steps(result) == ["SIGTERM", *said]


@one_loop
async def test_nobody_asks_about_what_is_being_stopped():
    def raises_then():
        if process._call.rule.outcome:
            raise AssertionError

    heartbeat = CallableHeartbeat(raises_then, LONG, interval=0.01)
    async with obedient(heartbeat, grace=0.3) as (process, do):
        await do("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
        process._call.expect_beats(0.1)
        assert steps(await process.wait()) == ["SIGTERM", "SIGKILL"]


async def test_errors_and_cancellations_come_out_as_they_are(marker):
    heartbeat = CallableHeartbeat(lambda: True, LONG, interval=0.01)

    def on_line(*_):
        raise LookupError("of a line")

    with pytest.raises(LookupError, match="of a line"):
        await agentsup.run(
            agentsup.shell(f"echo; sleep {marker}"),
            heartbeat=heartbeat,
            output=OutputPolicy(on_line=on_line),
        )
    with anyio.move_on_after(0.3) as scope:
        await agentsup.run(["sleep", marker], heartbeat=heartbeat)
    assert scope.cancelled_caught
    assert marker.pids() == []


# --- without any ------------------------------------------------------------------------------


def test_a_call_without_a_heartbeat_imports_nothing_of_it():
    source = (
        "import sys, agentsup\n"
        "agentsup.run_sync(['true'])\n"
        "print([name for name in sys.modules if 'heartbeat' in name or 'file_watch' in name])"
    )
    found = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    assert found.stdout == b"[]\n"
