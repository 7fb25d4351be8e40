"""The strategies as OTP has them: every scenario of the table, with processes that are killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentsup import (
    RestartLimitReached,
    Service,
    ServiceEvent,
    ServiceHandle,
    ServiceState,
    Supervisor,
    SupervisorClosed,
)

sys.path.insert(0, str(Path(__file__).parent))

import itertools

import otp_scenarios as otp
from otp_scenarios import SCENARIOS, Scenario

pytestmark = pytest.mark.anyio

SCALE = 0.1  # of the seconds in the table
#: Those in which a slow machine could not be told from a wrong rule.
NEEDS_A_CLOCK = {"a restart exactly so long ago counts", "the window slides: too many in the end"}

TOKENS = {ServiceState.DEACTIVATING: "-", ServiceState.ACTIVE: "+"}
QUIET = (ServiceState.ACTIVE, ServiceState.INACTIVE, ServiceState.FAILED)


def service(child: otp.Child) -> Service:
    return Service(
        child.name, ["sleep", "1000"], restart=child.restart, significant=child.significant
    )


class Driver:
    """Carries out one scenario."""

    sup: Supervisor

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.simple = scenario.strategy == "simple_one_for_one"
        self.handles: dict[str, ServiceHandle] = {}
        self.refused: set[int] = set()
        # Before the first one of the scenario's, after each of them, and at the end.
        self.events: list[list[ServiceEvent]] = [[] for _ in range(len(scenario.events) + 2)]
        self.index = 0
        self.ends = "shuts_down"

    async def drive(self) -> None:
        try:
            async with self.make_supervisor() as self.sup:
                self.stream = self.sup.events()
                await self.live()
        except* RestartLimitReached:
            self.ends = "fails"
        self.events[self.index] += [event async for event in self.stream]

    def make_supervisor(self) -> Supervisor:
        options: dict[str, Any] = {
            "strategy": self.scenario.strategy,
            "max_restarts": self.scenario.max_restarts,
            "within": self.scenario.within * (SCALE if self.scenario.timed else 1.0),
            "auto_shutdown": self.scenario.auto_shutdown,
        }
        if self.simple:
            options["template"] = service(self.scenario.children[0])
        return Supervisor(**options)

    async def live(self) -> None:
        last = 0.0
        if not self.simple:
            for child in self.scenario.children:
                self.handles[child.name] = await self.sup.start(service(child))
        for event in self.scenario.events:
            await self.read()
            self.index += 1
            if isinstance(event, otp.Stop):
                return
            if self.scenario.timed:
                await anyio.sleep((event.at - last) * SCALE)  # or longer: that changes nothing
                last = event.at
            if not await self.carry_out(event):
                self.refused.add(self.index)
        await self.read()
        self.ends = "goes_on"
        self.index += 1

    async def read(self) -> None:
        """Until nothing happens any more. If the supervisor ends, so does this."""
        while not all(node.state in QUIET for node in self.sup.tree()):
            await self.read_one()
        await anyio.lowlevel.checkpoint()
        while self.stream._queue:
            await self.read_one()

    async def read_one(self) -> ServiceEvent:
        event = await anext(self.stream)
        self.events[self.index].append(event)
        return event

    async def carry_out(self, event: otp.Event) -> bool:
        """False if it was refused."""
        try:
            match event:
                case otp.Exit(name, normal):
                    await self.end(self.handles[name], normal)
                case otp.Start(child):
                    self.handles[child.name] = await self.start(child)
                case otp.Terminate(name):
                    await self.handles[name].stop()
                case otp.Restart(name):
                    # Where OTP refuses because it runs, we do nothing.
                    pid = self.handles[name].pid
                    await self.handles[name].start()
                    return self.handles[name].pid != pid
                case otp.Delete(name):
                    self.handles[name].remove()
                case _:
                    raise AssertionError(event)
        except (ValueError, SupervisorClosed):
            return False
        return True

    async def start(self, child: otp.Child) -> ServiceHandle:
        if self.simple:
            return await self.sup.start_child(name=child.name)
        return await self.sup.start(service(child))

    async def end(self, handle: ServiceHandle, normal: bool) -> None:
        pid = handle.pid
        assert pid
        os.kill(pid, signal.SIGTERM if normal else signal.SIGKILL)
        while (await self.read_one()).service != handle.name:
            pass

    # --- what came of it ------------------------------------------------------------------

    def seen(self) -> tuple[str, ...]:
        """As the table has it."""
        seen = []
        for index in range(1, len(self.scenario.events) + 1):
            events = self.events[index]
            tokens = [TOKENS[e.state] + e.service for e in events if e.state in TOKENS]
            seen.append("refused" if index in self.refused else " ".join(tokens))
        return tuple(seen)

    def complaints(self) -> list[str]:
        name = f"{self.scenario.strategy}: {self.scenario.name}"
        found = []
        if (self.seen(), self.ends) != (self.scenario.expected, self.scenario.ends):
            expected = self.scenario.expected, self.scenario.ends
            found.append(f"{name}: {self.seen()}, {self.ends}, not {expected}")
        if self.scenario.strategy in ("one_for_all", "rest_for_one"):
            found += [f"{name}: {one} and {two}" for one, two in self.overlaps()]
        if running := [one for one in self.handles.values() if one.pid is not None]:
            found.append(f"{name}: {running} run after the end")
        return found

    def overlaps(self) -> list[tuple[ServiceEvent, ServiceEvent]]:
        """Whatever happened between the beginning of a stop and its end."""
        line = [event for events in self.events for event in events]
        return [
            (one, two)
            for one, two in itertools.pairwise(line)
            if one.state is ServiceState.DEACTIVATING and one.service != two.service
        ]


async def test_what_otp_does() -> None:
    complaints: list[str] = []
    at_once = anyio.Semaphore(12)

    async def drive(scenario: Scenario) -> None:
        async with at_once:
            driver = Driver(scenario)
            with anyio.move_on_after(60) as scope:
                await driver.drive()
            complaints.extend(driver.complaints())
            if scope.cancelled_caught:
                complaints.append(f"{scenario.strategy}: {scenario.name}: not over in 60 s")

    async with anyio.create_task_group() as tasks:
        for scenario in SCENARIOS:
            if scenario.ends != "refused" and scenario.name not in NEEDS_A_CLOCK:
                tasks.start_soon(drive, scenario)
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "scenario", [pytest.param(one, id=one.name) for one in SCENARIOS if one.ends == "refused"]
)
async def test_what_otp_refuses(scenario: Scenario) -> None:
    driver = Driver(scenario)
    with pytest.raises(ValueError, match=r"^significant: '.*' "):
        await driver.drive()
    assert all(event.service != "b" for events in driver.events for event in events)
