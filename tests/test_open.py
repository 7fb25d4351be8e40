"""A program to talk to."""

from __future__ import annotations

import math
import signal
import sys

import anyio
import psutil
import pytest

import agentsup
from agentsup import CLOSE_STDIN, PIPE, Escalation, Outcome, OutputPolicy, Step

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sup():
    async with agentsup.Supervisor() as supervisor:
        yield supervisor


async def receive_exactly(stream, size):
    data = b""
    while len(data) < size:
        data += await stream.receive(size - len(data))
    return data


async def test_interactive_shell(sup):
    async with sup.open(["sh"], stdin=PIPE) as process:
        for n in range(3):
            await process.stdin.send(b"echo $((%d * 2))\n" % n)
            assert await process.stdout.receive() == b"%d\n" % (n * 2)
        await process.stdin.send(b"exit 7\n")
        result = await process.wait()
        assert (await process.wait()).exit_code == result.exit_code == 7
    assert result.stdout.text == "0\n2\n4\n"


async def test_lines(sup):
    async with sup.open(["printf", "a\\r\\nb\\xff\\n\\nend"]) as process:
        assert [line async for line in process.lines()] == ["a", "b\ufffd", "", "end"]
        with pytest.raises(anyio.EndOfStream):
            await process.stdout.receive()


async def test_receive_in_pieces(sup):
    async with sup.open(["printf", "abcdef"]) as process:
        assert await receive_exactly(process.stdout, 4) == b"abcd"
        assert await receive_exactly(process.stdout, 2) == b"ef"


async def test_backpressure(sup, tmp_path, eventually):
    """The tool waits while nobody reads, and nothing is lost afterwards."""
    size = 3_000_000
    counter = tmp_path / "count"
    source = (
        "import os, sys\n"
        "for n in range(300):\n"
        "    os.write(1, b'%04d' % n * 2500)\n"
        "    open(sys.argv[1], 'w').write(str(n))\n"
    )
    async with sup.open([sys.executable, "-c", source, counter]) as process:
        seen = []

        def stuck():
            asleep = psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING
            seen.append(counter.exists() and asleep and counter.read_text())
            return seen[-1] and seen[-30:] == seen[-1:] * 30

        await eventually(stuck)
        assert 30 <= int(seen[-1]) < 150
        data = b"".join([chunk async for chunk in process.stdout])
        assert (await process.wait()).stdout.total_bytes == size
    assert data == b"".join(b"%04d" % n * 2500 for n in range(300))


async def test_end_of_a_program_whose_output_waits(sup):
    """It has ended with its pipe full; that is still to be read."""
    async with sup.open(["head", "-c", "300000", "/dev/zero"]) as process:
        await process.wait()
        assert sum([len(chunk) async for chunk in process.stdout]) == 300_000


async def test_stderr_never_waits(sup):
    async with sup.open(["sh", "-c", "yes 2>&1 | head -c 3000000 >&2; printf end >&2"]) as process:
        result = await process.wait()
        assert result.stderr.total_bytes == 3_000_003
        data = b"".join([chunk async for chunk in process.stderr])
        assert data.endswith(b"end")
        assert len(data) <= 256 * 1024


async def test_merged_stderr(sup):
    options = {"output": OutputPolicy(merge_stderr=True)}
    async with sup.open(["sh", "-c", "echo a; echo b >&2"], **options) as process:
        assert process.stderr is None
        assert [line async for line in process.lines()] == ["a", "b"]


async def test_send_to_a_dead_process(sup):
    async with sup.open(["true"], stdin=PIPE) as process:
        await process.wait()
        with pytest.raises(anyio.BrokenResourceError):
            await process.stdin.send(b"x" * 1_000_000)
        with pytest.raises(ProcessLookupError):
            process.send_signal("INT")
        await process.stdin.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await process.stdin.send(b"x")


async def test_send_while_the_escalation_closes_the_pipe(sup):
    """Whoever waits in send() is told."""
    escalation = Escalation(Step(CLOSE_STDIN, 0.2))
    with anyio.fail_after(60):
        async with sup.open(
            ["sleep", "99"], stdin=PIPE, timeout=0.2, escalation=escalation
        ) as process:
            with pytest.raises((anyio.ClosedResourceError, anyio.BrokenResourceError)):
                await process.stdin.send(b"x" * 1_000_000)


async def test_aclose_wakes_the_sender(sup):
    async with (
        sup.open(["sleep", "99"], stdin=PIPE, grace=0) as process,
        anyio.create_task_group() as tasks,
    ):

        async def send():
            with pytest.raises(anyio.ClosedResourceError):
                await process.stdin.send(b"x" * 1_000_000)

        tasks.start_soon(send)
        await anyio.wait_all_tasks_blocked()
        await process.stdin.aclose()


async def test_stdout_aclose(sup):
    async with sup.open(["yes"], timeout=60) as process:
        await process.stdout.receive()
        await process.stdout.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await process.stdout.receive()
        process.stop()
        await process.wait()


async def test_send_signal(sup):
    async with sup.open(["sh", "-c", "trap 'exit 9' USR1; echo; while :; do sleep .02; done"]) as p:
        await p.stdout.receive()
        p.send_signal(signal.SIGUSR1)
        assert (await p.wait()).exit_code == 9


async def test_leaving_the_block_stops_the_tree(sup, marker, eventually):
    script = f"sleep {marker} & (setsid sleep {marker} &); sleep {marker}"
    async with sup.open(["sh", "-c", script]) as process:
        await eventually(lambda: len(marker.pids()) == 4)
    assert not marker.pids()
    result = await process.wait()
    assert result.outcome is Outcome.STOPPED


async def test_exception_comes_out_unwrapped(sup, marker):
    with pytest.raises(LookupError, match="mine"):
        async with sup.open(["sleep", marker]):
            raise LookupError("mine")
    assert not marker.pids()


async def test_cancelled_inside(sup, marker):
    with anyio.move_on_after(0.1) as scope:
        async with sup.open(["sleep", marker]) as process:
            await process.wait()
    assert scope.cancelled_caught
    assert not marker.pids()


async def test_timeout_while_the_block_does_something_else(sup, marker, eventually, patience):
    for timeout in patience:
        async with sup.open(["sh", "-c", f"echo a; sleep {marker}"], timeout=timeout) as process:
            await eventually(lambda: not marker.pids())
            result = await process.wait()
        if result.stdout.text:
            break
    assert result.outcome is Outcome.TIMED_OUT
    assert result.stdout.text == "a\n"


async def test_cannot_start(sup):
    entered = False
    for options in ({}, {"cwd": "/nonexistent"}):
        with pytest.raises(agentsup.SpawnError):
            async with sup.open(["/etc/passwd"], **options):
                entered = True
    assert not entered


async def test_fails_at_exec(sup, tmp_path):
    path = tmp_path / "tool"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    with pytest.raises(FileNotFoundError, match="interpreter"):
        async with sup.open([path]):
            raise AssertionError("entered")


async def test_infinite_timeout(sup):
    async with sup.open(["true"], timeout=math.inf) as process:
        assert (await process.wait()).ok
