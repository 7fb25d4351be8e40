"""A session of an agent whose tools misbehave, and what is left of it; beside the stock executors.

    python benchmarks/agent_session.py [--calls 500] [--quick] [--check]

``agent_host.py`` makes the calls, by every door at once: to its end, and once more until this kills
it with SIGKILL in the middle.  What is left is counted from here, in ``/proc``, without agentsup.
``--check`` exits with status 1 when anything of ours is left, or a call of ours has not returned.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent_host import DOORS, LATE, TIMEOUT, shares

HOST = Path(__file__).with_name("agent_host.py")
LOOPS = "asyncio", "trio"
#: Seconds for the keeper, or for whoever else, to clear up; for a host to end; for a silent call.
SETTLING, LEAVING, SILENCE = 10.0, 30.0, 30.0

_numbers = itertools.count()


def new_marker() -> str:
    """Seconds that nobody else sleeps for."""
    return f"9{os.getpid()}{next(_numbers):03}"


@dataclass
class Ended:
    """What came of a session."""

    #: How many calls each door was to make.
    planned: dict[str, int]
    lines: list[dict[str, object]] = field(default_factory=list)
    killed: bool = False
    #: The host has ended by itself.
    by_itself: bool = False
    #: How many processes are left, of each door; "?" is none of any one of them.
    left: collections.Counter[str] = field(default_factory=collections.Counter)
    errors: str = ""

    def late(self) -> collections.Counter[str]:
        """Calls of each door that have not come back in time, or never."""
        late = collections.Counter(self.planned)
        late.subtract(str(line["door"]) for line in self.lines if line["in_time"])
        return +late


# --- processes --------------------------------------------------------------------------------


def find(marker: str) -> dict[int, str]:
    """The door of each process that has the marker, in its arguments or environment."""
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        text = _read(pid, "cmdline") + _read(pid, "environ")
        if marker.encode() in text:
            place = re.search(marker.encode() + rb"(\d)", text)
            found[pid] = list(DOORS)[int(place[1])] if place else "?"
    return found


def _read(pid: int, name: str) -> bytes:
    """Nothing of a zombie; nor of one that has just ended, or is another user's."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def settle(marker: str) -> dict[int, str]:
    """What is left when there was time enough to go."""
    deadline = time.monotonic() + SETTLING
    while True:
        found = find(marker)
        time.sleep(0.05)
        found |= find(marker)  # in the middle of an exec a process has no arguments
        if not found or time.monotonic() > deadline:
            return found


def kill_all(marker: str) -> None:
    while found := find(marker):
        for pid in found:
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                continue
            try:
                if pid in find(marker):  # and not another one of that number
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            finally:
                os.close(pidfd)
        time.sleep(0.05)


# --- a session --------------------------------------------------------------------------------


def session(
    style: str, loop: str, doors: list[str], calls: int, *, seed: int = 1, kill: bool = False
) -> Ended:
    marker = new_marker()
    words = [sys.executable, str(HOST), style, loop, str(calls), str(seed), marker, *doors]
    ended = Ended(shares(calls, doors), killed=kill)
    environment = {**os.environ, "AGENT_SESSION": marker}
    with tempfile.TemporaryFile() as errors:
        host = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment
        )
        try:
            for line in _lines(host):
                ended.lines.append(line)
                if kill and len(ended.lines) * 2 >= calls:
                    break
            if not kill:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    ended.by_itself = host.wait(LEAVING) == 0
            host.kill()
            host.wait()
            ended.left.update(settle(marker).values())
        finally:
            host.kill()
            host.wait()
            assert host.stdout
            host.stdout.close()
            kill_all(marker)
        errors.seek(0)
        ended.errors = errors.read().decode("utf-8", "replace")
    return ended


def _lines(host: subprocess.Popen[bytes]) -> Iterator[dict[str, object]]:
    """What it says of its calls, until its last word or for too long nothing."""
    assert host.stdout
    fd, text = host.stdout.fileno(), b""
    while select.select([fd], [], [], SILENCE)[0] and (chunk := os.read(fd, 65536)):
        *lines, text = (text + chunk).split(b"\n")
        for line in map(json.loads, lines):
            if "end" in line:
                return
            yield line


# --- the table --------------------------------------------------------------------------------


def missing(door: str) -> str | None:
    """What is not installed of a door's packages."""
    for name in (name.partition(".")[0] for name in DOORS[door].packages):
        if importlib.util.find_spec(name) is None:
            return name
    return None


def doors_of(style: str, loop: str) -> list[str]:
    """Those that are there."""
    return [
        name
        for name, way in DOORS.items()
        if (loop != "trio" or way.trio) and (style == "ours" or way.stock) and not missing(name)
    ]


def show(style: str, loop: str, finished: Ended, killed: Ended) -> None:
    planned, late = finished.planned, finished.late()
    title = f"{style}, on {loop}: {sum(planned.values())} calls; and again, killed after half"
    print(f"\n{title}\n{'-' * len(title)}")
    print(f"  {'':<16} {'calls':>6} {'late':>6} {'left at the end':>17} {'left when killed':>17}")
    for door, calls in planned.items():
        left = finished.left[door], killed.left[door]
        print(f"  {door:<16} {calls:>6} {late[door]:>6} {left[0]:>17} {left[1]:>17}")
    calls, left = sum(planned.values()), (finished.left.total(), killed.left.total())
    print(f"  {'all':<16} {calls:>6} {late.total():>6} {left[0]:>17} {left[1]:>17}")
    if not finished.by_itself:
        print(f"  the host did not end by itself\n{finished.errors[-2000:]}")
    sys.stdout.flush()


def is_clean(ended: Ended) -> bool:
    """Nothing left; and every call back in time, if there was time for all."""
    return not ended.left and (ended.killed or (ended.by_itself and not ended.late()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="60 calls")
    parser.add_argument("--check", action="store_true", help="exit with 1 if anything is left")
    arguments = parser.parse_args()
    calls = 60 if arguments.quick else arguments.calls
    print(f"A tool may take {TIMEOUT} s; a call is late if it takes {LATE} s more.")
    for door in DOORS:
        if package := missing(door):
            print(f"{door} is left out: {package} is not installed")
    clean = True
    for style, loop in itertools.product(("ours", "stock"), LOOPS):
        doors = doors_of(style, loop)
        finished, killed = (
            session(style, loop, doors, calls, seed=arguments.seed, kill=kill)
            for kill in (False, True)
        )
        show(style, loop, finished, killed)
        clean &= style == "stock" or (is_clean(finished) and is_clean(killed))
    return 1 if arguments.check and not clean else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
