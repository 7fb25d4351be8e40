"""Thousands of random programs, cancelled at random scheduling points: nothing is left of any."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import sys
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from random_programs import Steps, cancelled_at_random

import agentsup
from agentsup._linux import lifeline
from agentsup._linux.keeper import children_of

pytestmark = pytest.mark.anyio

BATCH = 200
AT_A_TIME = 40
#: All three loops together: what the project is measured by as root, a fifth of it elsewhere.
RUNS = int(os.environ.get("AGENTSUP_CANCELLATIONS", "10200" if os.geteuid() == 0 else "2400"))
SEED = os.environ.get("AGENTSUP_SEED")


def open_files(pid: int | str) -> list[str]:
    found = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(entry.path).split(":")[0])
        except OSError:
            pass  # the one of the listing itself
    return sorted(found)


def holdings() -> dict[str, object]:
    """What host and keeper have in hand, without the connections that carry no call."""
    kept = lifeline._current
    assert kept
    lifeline.shed(kept)
    return {
        "keeper": kept.pid,
        "host's files": open_files("self"),
        "tools": children_of(kept.pid),
        "calls": kept.calls_in_flight,
    }


async def test_nothing_is_left(marker, eventually):
    """Repeat one run with AGENTSUP_SEED=<the seed of the failure> and AGENTSUP_CANCELLATIONS=3."""
    await agentsup.run(["true"])
    before = holdings()
    # The keeper learns a moment later that a channel was closed; then the lifeline is all it has.
    await eventually(lambda: open_files(lifeline._current.pid).count("socket") == 1)
    keepers_files = open_files(lifeline._current.pid)
    for _ in range(-(-RUNS // (3 * BATCH))):
        seed = int(SEED) if SEED else random.SystemRandom().getrandbits(32)
        try:
            with anyio.fail_after(600):
                await batch(random.Random(seed), min(RUNS // 3, BATCH), marker)
            assert holdings() == before
            assert not marker.pids()
            with contextlib.suppress(TimeoutError):
                await eventually(lambda: open_files(lifeline._current.pid) == keepers_files)
            assert open_files(lifeline._current.pid) == keepers_files
        except BaseException as exc:
            exc.add_note(f"the batch of AGENTSUP_SEED={seed}")
            raise


async def batch(choice: random.Random, runs: int, marker: str) -> None:
    steps = Steps()
    turns = choice.choice([None, None, AT_A_TIME // 3])
    seeds = [choice.random() for _ in range(runs)]
    numbers = itertools.count(1000)

    async def work(sup: agentsup.Supervisor) -> None:
        while seeds:
            await cancelled_at_random(sup, steps, seeds.pop(), f"{marker}{next(numbers)}")

    with steps.counting():
        async with agentsup.Supervisor(max_concurrency=turns) as sup:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(steps.tick)
                async with anyio.create_task_group() as workers:
                    for _ in range(AT_A_TIME):
                        workers.start_soon(work, sup)
                tasks.cancel_scope.cancel()
            assert sup.tree() == ()
            async with anyio.create_task_group() as tasks:  # no turn was lost either
                for _ in range(turns or 1):
                    tasks.start_soon(sup.run, ["true"])
