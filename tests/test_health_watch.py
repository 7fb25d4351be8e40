"""Watching a service: every check at its time, and what is said of it to whom."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import agentsup
from agentsup._services.health import watch
from agentsup._values.command import Command
from agentsup._values.health import HealthCheck
from agentsup._values.probe import CommandProbe

pytestmark = pytest.mark.anyio

Eventually = Callable[..., Awaitable[None]]


class Service:
    """Answers as it is told to, and counts how often it is asked."""

    def __init__(self, healthy: bool = True) -> None:
        self.healthy = healthy
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.healthy


class Heard:
    """What a watch has said."""

    def __init__(self) -> None:
        self.unhealthy: list[tuple[str, str]] = []
        self.ready: list[tuple[bool, str]] = []
        self.log: list[str] = []

    @asynccontextmanager
    async def watching(self, *checks: HealthCheck) -> AsyncGenerator[None, None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, checks)
            yield
            tasks.cancel_scope.cancel()

    async def _watch(self, checks: tuple[HealthCheck, ...]) -> None:
        async def run(command: Command, timeout: float | None) -> agentsup.Result:
            return await agentsup.run(command, timeout=timeout)

        await watch(
            checks,
            run,
            on_unhealthy=lambda check, reason: self.unhealthy.append((str(check), reason)),
            on_ready=lambda ready, reason: self.ready.append((ready, reason)),
            log=self.log.append,
        )
        raise AssertionError("it ended by itself")


def often(probe: Any, **options: Any) -> HealthCheck:
    return HealthCheck(probe, **{"interval": 0.01, "timeout": 0.01, **options})


def slow(probe: Any, **options: Any) -> HealthCheck:
    """It comes only once in a test."""
    return HealthCheck(probe, interval=3600.0, timeout=60.0, **options)


async def test_liveness_that_fails_for_good_is_said_once(eventually: Eventually) -> None:
    service, other, heard = Service(), Service(), Heard()
    async with heard.watching(often(service, failures=2, name="web"), often(other)):
        await eventually(lambda: service.asked >= 3)
        assert (heard.unhealthy, heard.log) == ([], [])
        service.healthy = False
        await eventually(lambda: heard.unhealthy)
        asked, of_the_other = service.asked, other.asked
        await eventually(lambda: other.asked > of_the_other + 3)  # and the others go on
        assert service.asked == asked
    assert heard.unhealthy == [("web", "returned False")]
    assert heard.log == [
        "web failed (1 of 2): returned False",
        "web failed (2 of 2): returned False",
    ]
    assert heard.ready == []  # as it was to begin with


async def test_one_failure_is_logged_and_so_is_the_recovery(eventually: Eventually) -> None:
    service, heard = Service(healthy=False), Heard()
    async with heard.watching(often(service, failures=1000)):
        await eventually(lambda: heard.log)
        service.healthy = True
        await eventually(lambda: "passed" in heard.log[-1])
        asked = service.asked
        await eventually(lambda: service.asked > asked + 2)
    assert heard.log[0] == "liveness check failed (1 of 1000): returned False"
    assert heard.log.index("liveness check passed") == len(heard.log) - 1
    assert heard.unhealthy == []


async def test_readiness_comes_and_goes(eventually: Eventually) -> None:
    service, heard = Service(healthy=False), Heard()
    async with heard.watching(often(service, role="readiness", failures=2)):
        await eventually(lambda: service.asked >= 5)
        assert heard.ready == []
        assert len(heard.log) == 2  # what is known is not said again
        service.healthy = True
        await eventually(lambda: len(heard.ready) == 1)
        service.healthy = False
        await eventually(lambda: len(heard.ready) == 2)
        service.healthy = True
        await eventually(lambda: len(heard.ready) == 3)
    failed = "readiness check failed (2 of 2): returned False"
    passed = "readiness check passed"
    assert heard.ready == [(True, passed), (False, failed), (True, passed)]
    assert heard.unhealthy == []


async def test_a_service_is_ready_when_all_its_checks_say_so(eventually: Eventually) -> None:
    first, second, heard = Service(), Service(healthy=False), Heard()
    checks = often(first, role="readiness"), often(second, role="readiness", name="second")
    async with heard.watching(*checks):
        await eventually(lambda: first.asked >= 3 and second.asked >= 3)
        assert heard.ready == []
        second.healthy = True
        await eventually(lambda: heard.ready)
    assert heard.ready == [(True, "second passed")]


async def test_others_wait_for_the_startup_checks(eventually: Eventually) -> None:
    startup, liveness, readiness, heard = Service(healthy=False), Service(), Service(), Heard()
    checks = (
        slow(liveness),
        often(readiness, role="readiness"),
        often(startup, role="startup", failures=1_000_000),
        often(Service(), role="startup"),
    )
    async with heard.watching(*checks):
        await eventually(lambda: startup.asked >= 3)
        assert (liveness.asked, readiness.asked, heard.ready) == (0, 0, [])
        startup.healthy = True
        await eventually(lambda: heard.ready and liveness.asked)
        asked, of_readiness = startup.asked, readiness.asked
        await eventually(lambda: readiness.asked > of_readiness + 3)
        assert startup.asked == asked
    assert heard.ready == [(True, "readiness check passed")]


async def test_startup_that_fails_for_good(eventually: Eventually) -> None:
    liveness, heard = Service(), Heard()
    async with heard.watching(
        often(Service(healthy=False), role="startup", failures=1), often(liveness)
    ):
        await eventually(lambda: heard.unhealthy)
        await anyio.wait_all_tasks_blocked()
    assert heard.unhealthy == [("startup check", "returned False")]
    assert liveness.asked == 0


async def test_a_start_period_has_an_interval_of_its_own(eventually: Eventually) -> None:
    service, heard = Service(healthy=False), Heard()
    check = slow(service, start_period=3600.0, start_interval=0.01, failures=1)
    async with heard.watching(check):
        await eventually(lambda: service.asked >= 3)
        service.healthy = True
        asked = service.asked
        await eventually(lambda: service.asked > asked)
    assert heard.unhealthy == []
    assert heard.log == []  # what does not count is no news


async def test_a_probe_that_hangs_holds_up_no_other(eventually: Eventually) -> None:
    service, heard = Service(), Heard()
    async with heard.watching(slow(anyio.sleep_forever), often(service)):
        await eventually(lambda: service.asked >= 3)
    assert heard.log == []


async def test_a_probe_that_hangs_has_failed_after_its_timeout(eventually: Eventually) -> None:
    heard = Heard()
    async with heard.watching(often(anyio.sleep_forever, failures=2)):
        await eventually(lambda: heard.unhealthy)
    assert heard.unhealthy == [("liveness check", "no answer within 0.01 s")]


async def test_cancelled_it_leaves_no_command_behind(eventually: Eventually, marker: Any) -> None:
    heard = Heard()
    async with heard.watching(slow(CommandProbe(["sleep", marker]))):
        await eventually(marker.pids)
    assert not marker.pids()


async def test_nothing_to_watch_is_watched_until_cancelled() -> None:
    heard = Heard()
    async with heard.watching():
        await anyio.wait_all_tasks_blocked()
    assert (heard.ready, heard.log) == ([], [])
