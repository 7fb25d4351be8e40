"""Watching a running service: its health checks, all at the same time, each when it is due."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .._rules.health import HealthRule
from . import probing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._values.health import HealthCheck
    from .probing import Run


async def watch(
    checks: Iterable[HealthCheck],
    run: Run,
    *,
    on_unhealthy: Callable[[HealthCheck, str], None],
    on_ready: Callable[[bool, str], None],
    log: Callable[[str], object],
    on_failed: Callable[[HealthCheck, str, int], object] | None = None,
) -> None:
    """Make the checks of one process until cancelled.

    :param run: runs the commands of probes.
    :param on_unhealthy: told of a startup or liveness check that has failed for good, and why. It
        is made no more: the next process gets a watch of its own.
    :param on_ready: told whenever the service has become ready, or no longer is, and why. To begin
        with, one without startup and readiness checks is ready, and any other is not.
    :param log: told of each failure that counts, up to the one that is for good, and of the first
        probe that passes after them.
    :param on_failed: told of every failure that counts, why, and how many there are in a row.
    """
    rules = [HealthRule(check) for check in checks]
    ready = all(rule.ready for rule in rules)
    started = anyio.Event()

    def tell(rule: HealthRule, news: str) -> None:
        nonlocal ready
        if all(rule.started for rule in rules):
            started.set()
        was_ready, ready = ready, all(rule.ready for rule in rules)
        if ready is not was_ready:
            on_ready(ready, news)
        if rule.unhealthy:
            on_unhealthy(rule.check, rule.last_reason or "")

    async def follow(rule: HealthRule) -> None:
        check = rule.check
        if rule.started:  # by its role: the startup checks come first
            await started.wait()
        rule.began(time.monotonic())
        while rule.due is not None:
            await anyio.sleep(max(0.0, rule.due - time.monotonic()))
            reason = await probing.check(check.probe, check.timeout, run)
            await anyio.lowlevel.checkpoint_if_cancelled()  # what comes too late does not count
            failed_before = rule.failures
            if reason is None:
                rule.passed(time.monotonic())
                news = f"{check} passed"
            else:
                rule.failed(time.monotonic(), reason)
                news = f"{check} failed ({rule.failures} of {check.failures}): {reason}"
            if on_failed and reason is not None and rule.failures:
                on_failed(check, reason, rule.failures)
            if failed_before != rule.failures <= check.failures:
                log(news)
            tell(rule, news)

    if all(rule.started for rule in rules):
        started.set()
    async with anyio.create_task_group() as tasks:
        for rule in rules:
            tasks.start_soon(follow, rule)
        await anyio.sleep_forever()
