"""What a tool prints: kept within bounds, in order, on every outcome."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

import agentsup
from agentsup import Outcome, OutputPolicy

pytestmark = pytest.mark.anyio


def python(source, *args):
    return [sys.executable, "-I", "-S", "-c", source, *args]


async def test_head_and_tail():
    result = await agentsup.run(["seq", "100000"], output=OutputPolicy(head=10, tail=12))
    out = result.stdout
    assert (out.head, out.tail) == (b"1\n2\n3\n4\n5\n", b"99999\n100000\n"[-12:])
    assert out.total_bytes == sum(len(f"{n}\n") for n in range(1, 100001))
    assert out.truncated
    assert out.omitted_bytes == out.total_bytes - 22


async def test_undecodable():
    data = b"\xff\xfe ok \xe2\x82"
    result = await agentsup.run(["cat"], stdin=data)
    assert result.stdout.head == data
    assert result.stdout.text == "\ufffd\ufffd ok \ufffd"


async def test_spill_files_are_complete(tmp_path):
    source = (
        "import os\nfor n in range(300): os.write(1 + n % 2, bytes([n % 256]) * (n * 37 % 9000))\n"
    )
    result = await agentsup.run(
        python(source), output=OutputPolicy(spill_dir=tmp_path, head=5, tail=5)
    )
    for stream, first in ((result.stdout, 0), (result.stderr, 1)):
        expected = b"".join(bytes([n % 256]) * (n * 37 % 9000) for n in range(first, 300, 2))
        assert Path(stream.spill_path).read_bytes() == expected
        assert stream.total_bytes == len(expected)
        assert stream.spill_error is None


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("needs a small file system of its own")
    yield place
    subprocess.run(["umount", place], check=True)


async def test_spill_to_a_full_disk(small_disk):
    result = await agentsup.run(["seq", "100000"], output=OutputPolicy(spill_dir=small_disk))
    assert result.ok
    assert result.stdout.total_bytes == 588895
    assert "No space" in result.stdout.spill_error
    assert Path(result.stdout.spill_path).stat().st_size <= 64 * 1024


async def test_spill_directory_that_is_gone(tmp_path):
    with pytest.raises(FileNotFoundError, match="spill_dir"):
        await agentsup.run(["true"], output=OutputPolicy(spill_dir=tmp_path / "gone"))


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_limit(stream):
    script = "yes" if stream == "stdout" else "yes >&2"
    result = await agentsup.run(agentsup.shell(script), output=OutputPolicy(limit=100_000))
    assert result.outcome is Outcome.OUTPUT_LIMIT
    assert 100_000 < getattr(result, stream).total_bytes < 500_000_000
    script = "head -c 100000 /dev/zero"
    assert (await agentsup.run(agentsup.shell(script), output=OutputPolicy(limit=100_000))).ok


async def test_on_line():
    lines = []
    script = r"printf 'a\r\nb\n\n'; printf 'x\nunfinished' >&2; head -c 70000 /dev/zero"
    await agentsup.run(
        agentsup.shell(script), output=OutputPolicy(on_line=lambda *line: lines.append(line))
    )
    out = [line for stream, line in lines if stream == "stdout"]
    assert out[:3] == ["a", "b", ""]
    assert "".join(out[3:]) == "\0" * 70000
    assert max(map(len, out)) <= 65536
    assert [line for stream, line in lines if stream == "stderr"] == ["x", "unfinished"]


@pytest.mark.parametrize("opened", [False, True])
async def test_on_line_raises_again_and_again(opened, marker):
    """The first error comes out as it is; the tree is ended in full."""

    def refuse(stream, line):
        calls.append(line)
        raise LookupError(line)

    calls = []
    script = (
        f"trap 'echo two >&2; printf three >&2; exit' TERM; sleep {marker} & sleep 0.1; echo one; "
        "while :; do sleep 0.05; done"
    )
    policy = OutputPolicy(on_line=refuse)
    with pytest.raises(LookupError, match="one") as caught:
        if opened:
            async with (
                agentsup.Supervisor() as sup,
                sup.open(["sh", "-c", script], output=policy, grace=60),
            ):
                await anyio.sleep_forever()
        else:
            await agentsup.run(["sh", "-c", script], output=policy, grace=60)
    assert calls == ["one"]
    assert not marker.pids()
    assert agentsup.last_partial(caught.value).stderr.text.endswith("two\nthree")


async def test_merge_stderr_in_true_order():
    source = "import os\nfor n in range(2000): os.write(1 + n % 2, b'%d\\n' % n)"
    result = await agentsup.run(python(source), output=OutputPolicy(merge_stderr=True))
    assert result.stdout.text.split() == [str(n) for n in range(2000)]
    assert result.stderr == agentsup.Output()


PRINT = "echo out; echo err >&2; "


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("exit 3", []),
        ("kill -9 $$", []),
        ("sleep 99", ["timeout"]),
        ("sleep 99", ["idle_timeout"]),
        ("trap '' TERM; sleep 99", ["timeout", "grace"]),
        ("sleep 99 & exit 0", []),
    ],
)
async def test_output_is_kept_on_every_outcome(script, options, patience):
    for seconds in patience:
        limits = dict.fromkeys(options, seconds)
        result = await agentsup.run(agentsup.shell(PRINT + script), **limits)
        if result.stderr.text:
            break
    assert (result.stdout.text, result.stderr.text) == ("out\n", "err\n")


async def test_last_words(patience):
    """What is printed when asked to stop is part of the output, all of it."""
    script = "trap 'seq 20000; exit' TERM; echo on; while :; do sleep 0.02; done"
    policy = OutputPolicy(head=10**6)
    for timeout in patience:
        result = await agentsup.run(
            agentsup.shell(script), timeout=timeout, grace=60, output=policy
        )
        if result.stdout.text:
            break
    assert result.stdout.text.split() == ["on", *map(str, range(1, 20001))]


async def test_flood():
    """200 MiB through, and the host's memory does not grow with it."""

    def peak():
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1])
        return 0

    flood = "head -c 100M /dev/zero & head -c 100M /dev/zero >&2; wait"
    await agentsup.run(agentsup.shell("head -c 1M /dev/zero"))
    before = peak()
    result = await agentsup.run(agentsup.shell(flood))
    assert result.stdout.total_bytes + result.stderr.total_bytes == 200 << 20
    after = max(peak(), 0)
    assert after - before < 20_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0


async def test_closed_outputs():
    result = await agentsup.run(agentsup.shell("exec >&- 2>&-; sleep 0.05; exit 4"))
    assert result.exit_code == 4
    assert result.stdout.total_bytes == 0


async def test_thief_of_its_own_output():
    """A tool that reads from its own output pipe harms itself alone."""
    source = (
        "import os, threading, time\n"
        "fd = os.open('/proc/self/fd/1', os.O_RDONLY)\n"
        "def steal():\n"
        "    while True: os.read(fd, 9)\n"
        "threading.Thread(target=steal, daemon=True).start()\n"
        "for _ in range(200): os.write(1, b'x'); time.sleep(0.0005)\n"
        "time.sleep(99)"
    )
    result = await agentsup.run(python(source), timeout=0.5, grace=0)
    assert result.outcome is Outcome.TIMED_OUT
    assert result.duration < 60
