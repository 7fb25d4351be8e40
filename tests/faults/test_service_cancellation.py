"""Whatever is cancelled, and whenever: nothing is left of a tree of services."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import anyio
import pytest

import agentsup
from agentsup import Hook, ListenSocket, OutputMatches, Service, TcpProbe

pytestmark = pytest.mark.anyio

ROUNDS = int(os.environ.get("AGENTSUP_SERVICE_CANCELLATIONS", "12"))


def services(marker: str) -> list[Service]:
    """Each kind of wait that a start or a stop can be in."""
    sleeper = f"exec sleep {marker}"
    return [
        Service("plain", ["sleep", marker]),
        Service("said", agentsup.shell(f"echo up; {sleeper}"), ready=OutputMatches("up")),
        Service(
            "hooked",
            ["sleep", marker],
            after="said",
            requires="said",
            pre_start=["true"],
            post_start=Hook(anyio.lowlevel.checkpoint),
            pre_stop=["true"],
            post_stop=["true"],
        ),
        Service("stubborn", agentsup.shell(f"trap '' TERM; {sleeper}"), grace=0.05),
        Service("never", ["sleep", marker], ready=TcpProbe(1), start_timeout=30),
        Service("crashing", agentsup.shell("exit 3"), give_up=lambda state: True),
        Service("lazy", ["sleep", marker], sockets=ListenSocket("127.0.0.1:0"), lazy=True),
    ]


async def use(marker: str, random: random.Random) -> None:
    async with agentsup.Supervisor(strategy=random.choice(["one_for_one", "rest_for_one"])) as sup:
        chosen = random.sample(services(marker), 4)
        names = {service.name for service in chosen}
        if "hooked" in names and "said" not in names:
            chosen.append(services(marker)[1])
        chosen.sort(key=lambda service: service.name == "hooked")
        handles = sup.start_soon(*chosen)
        while True:
            handle = random.choice(handles)
            what = random.choice(["restart", "stop", "start", "kill", "wait"])
            try:
                if what == "kill" and handle.pid:
                    os.kill(handle.pid, signal.SIGKILL)
                elif what in ("restart", "stop", "start"):
                    await getattr(handle, what)()
            except (agentsup.AgentsupError, ProcessLookupError):
                pass
            await anyio.sleep(random.random() * 0.02)


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_nothing_is_left(seed, marker, eventually):
    chance = random.Random(seed)
    with anyio.move_on_after(chance.random() * 0.4):
        try:
            await use(marker, chance)
        except* agentsup.RestartLimitReached:
            pass
    await eventually(lambda: not marker.pids())


# anyio wraps what it starts: cancelled before its first step, the inside is never awaited.
@pytest.mark.filterwarnings("ignore:.*coroutine.*:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine.*was never awaited:RuntimeWarning")
@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
async def test_nothing_is_left_by_asyncios_own_cancel(seed, marker, eventually):
    """Which knows of no shields: of the host alone, or of every task that there is."""
    chance = random.Random(seed)
    before = asyncio.all_tasks()
    host = asyncio.ensure_future(use(marker, chance))
    await asyncio.sleep(chance.random() * 0.4)
    for _ in range(chance.randint(1, 3)):
        for task in [host] if seed % 2 else asyncio.all_tasks() - before:
            task.cancel()
        await asyncio.sleep(chance.random() * 0.01)
    await asyncio.wait([host])
    if not host.cancelled():
        host.exception()  # of a restart limit, perhaps
    await eventually(lambda: not marker.pids())
    await eventually(lambda: asyncio.all_tasks() <= before)
