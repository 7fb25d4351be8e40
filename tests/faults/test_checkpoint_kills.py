"""Writers of a checkpoint that are killed at any instant, run into a full disk, or are two.

Of the random kills there are ``AGENTSUP_KILLS`` many, 25 by default; ``AGENTSUP_SEED`` is their
seed.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hosts import available, environment, run_host

from agentsup._errors import CheckpointInUse
from agentsup.checkpoint import Checkpoint

KILLS = int(os.environ.get("AGENTSUP_KILLS", "25"))
SEED = int(os.environ.get("AGENTSUP_SEED", "1"))

#: Says where it starts, then each number that is acknowledged. A warning is an error: however it
#: was killed, nothing damaged is left.
WRITER = """
import os, sys, warnings
warnings.simplefilter("error")
from agentsup.checkpoint import Checkpoint
def say(number):
    os.write(1, b"%d\\n" % number)
with Checkpoint(sys.argv[1], keep=2) as checkpoint:
    state = checkpoint.load_sync({"number": 0, "filler": ""})
    number = state["number"]
    assert state["filler"] == f"{number} " * (100 * number)
    say(number)
    for number in range(number + 1, number + 1 + int(sys.argv[2])):
        checkpoint.save_sync({"number": number, "filler": f"{number} " * (100 * number)})
        say(number)
"""


def files(path: Path) -> set[str]:
    return {re.sub(r"\d+", "N", name) for name in os.listdir(path.parent)}


def test_kills_at_random(tmp_path):
    """No acknowledged save is lost, and none is half there."""
    chance = random.Random(SEED)
    path = tmp_path / "state"
    acknowledged = 0
    for kill in range(KILLS):
        if kill % 50 == 0:  # before its files become large
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
            acknowledged = 0
        command = [sys.executable, "-c", WRITER, path, "1000000"]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as writer:
            started = int(writer.stdout.readline())
            assert started in (acknowledged, acknowledged + 1), f"kill {kill}, seed {SEED}"
            acknowledged = started
            for _ in range(chance.randrange(5)):
                acknowledged = int(writer.stdout.readline())
            time.sleep(chance.random() * 0.02)  # to somewhere in the middle of the next ones
            writer.kill()
            for line in writer.stdout:
                acknowledged = int(line)
        assert files(path) <= {"state.N", "state.tmp", "state.lock"}
        assert len(os.listdir(tmp_path)) <= 2 + 1 + len(("state.tmp", "state.lock"))
    done = run_host(WRITER, path, 1)
    assert int(done.stdout.split()[0]) in (acknowledged, acknowledged + 1)
    assert files(path) == {"state.N", "state.lock"}


TRACED = ("ftruncate", "pwrite64", "write", "fsync", "rename", "unlink")


@pytest.mark.skipif(not available("strace", "-o", "/dev/null"), reason="needs strace and ptrace")
@pytest.mark.parametrize("call", TRACED)
def test_a_kill_at_each_call_that_writes(call, tmp_path):
    path = tmp_path / "state"
    run_host(WRITER, path, 3)
    acknowledged, count = 3, 0
    while True:
        count += 1
        inject = f"inject={call}:signal=KILL:when={count}"
        strace = ("strace", "-f", "-o", os.devnull, "-e", f"trace={call}", "-e", inject)
        done = run_host(WRITER, path, 1, before=strace, status=None)
        started, *saved = map(int, done.stdout.split() or [acknowledged])
        assert started in (acknowledged, acknowledged + 1)
        acknowledged = (started, *saved)[-1]
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert count > 1, "it has killed"
    assert files(path) == {"state.N", "state.lock"}


# --- two at once ------------------------------------------------------------------------------


def test_the_second_is_refused_until_the_first_is_dead(tmp_path):
    path = tmp_path / "state"
    command = [sys.executable, "-c", WRITER, path, "1000000"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as writer:
        try:
            writer.stdout.readline()
            with (
                pytest.raises(CheckpointInUse, match=f"held by process {writer.pid}"),
                Checkpoint(path),
            ):
                raise AssertionError
        finally:
            writer.kill()
        writer.stdout.read()
    with Checkpoint(path) as checkpoint:
        checkpoint.save_sync(1)


COUNTER = """
import sys
from agentsup._errors import CheckpointInUse
from agentsup.checkpoint import Checkpoint
left = 20
while left:
    try:
        with Checkpoint(sys.argv[1]) as checkpoint:
            checkpoint.save_sync(checkpoint.load_sync(0) + 1)
            left -= 1
    except CheckpointInUse:
        pass
"""


def test_two_that_take_turns_lose_nothing(tmp_path):
    command = [sys.executable, "-c", COUNTER, tmp_path / "state"]
    both = [subprocess.Popen(command, env=environment()) for _ in range(2)]
    try:
        assert [counter.wait(60) for counter in both] == [0, 0]
    finally:
        for counter in both:
            counter.kill()
            counter.wait()
    with Checkpoint(tmp_path / "state") as checkpoint:
        assert checkpoint.load_sync(0) == 40


# --- a full disk ------------------------------------------------------------------------------

UNSHARE = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-Urm")


@pytest.mark.skipif(not available(*UNSHARE), reason="needs a mount namespace of its own")
def test_a_full_disk(tmp_path):
    """Older generations make room, then it is said; the last one stays, and saving goes on."""
    source = """
import os, sys
from pathlib import Path
from agentsup._errors import DiskFull
from agentsup.checkpoint import BytesCodec, Checkpoint
folder = Path(sys.argv[1])
def saved():
    return sorted(path.stat().st_size // 1000 for path in folder.glob("state.0*"))
with Checkpoint(folder / "state", codec=BytesCodec()) as checkpoint:
    for size in (11, 12, 13):
        checkpoint.save_sync(bytes(size * 1000))
    assert saved() == [11, 12, 13], saved()
    checkpoint.save_sync(bytes(31000))  # beside three others it has no room
    assert saved() == [12, 13, 31], saved()
    for _ in range(2):
        try:
            checkpoint.save_sync(bytes(40000))
        except DiskFull as error:
            print(error)
    assert saved() == [31], saved()
    assert checkpoint.load_sync(b"") == bytes(31000)
    assert {path.name for path in folder.iterdir()} == {"state.000000000004", "state.lock"}
    checkpoint.save_sync(bytes(20000))
    assert saved() == [20, 31], saved()
(folder / "filler").write_bytes(bytes(65536 - 20480 - 32768 - 4096))
with Checkpoint(folder / "state", codec=BytesCodec()) as checkpoint:
    checkpoint.save_sync(bytes(14000))
    assert saved() == [14, 20], saved()
"""
    mount = 'mount -t tmpfs -o size=64k none "$1" && shift && exec "$@"'
    before = (*UNSHARE, "sh", "-c", mount, "sh", str(tmp_path))
    lines = run_host(source, tmp_path, before=before).stdout.splitlines()
    assert len(lines) == 2
    assert all(
        "No space left on device" in line and "no older generation" in line for line in lines
    )


def test_a_limit_for_the_size_of_files(tmp_path):
    source = f"""
import os, resource, sys
from agentsup.checkpoint import BytesCodec, Checkpoint
with Checkpoint(sys.argv[1], codec=BytesCodec()) as checkpoint:
    checkpoint.save_sync(b"small")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    try:
        checkpoint.save_sync(bytes(20_000))
    except OSError as error:
        assert error.errno == {errno.EFBIG}, error
        print("refused")
    assert checkpoint.load_sync(b"") == b"small"
    checkpoint.save_sync(b"small again")
"""
    assert run_host(source, tmp_path / "state").stdout == "refused\n"
    assert files(tmp_path / "state") == {"state.N", "state.lock"}
