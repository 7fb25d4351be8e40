"""A bound on a test's time; after it, the processes that the test has started are killed.

pytest goes on: whoever waits for such a process sees it end.  The timer is the kernel's (SIGALRM,
setitimer(2)), for the test may be blocked in anything: a handler in the main thread runs there.
"""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from .processes import descendants, kill

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

    from .processes import ProcessInfo

_AGAIN = 1.0  # seconds; the test may go on, and start others
_ROUNDS = 100
_NAMED = 20


class TimeoutPlugin:
    """For the tests of a session that have a bound."""

    def __init__(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self._usual = _usual_seconds(config)
        self._bound: Bound | None = None
        for item in items:
            self._seconds(item)  # for its errors

    def _seconds(self, item: pytest.Item) -> float:
        marker = item.get_closest_marker("agentsup_timeout")
        if marker is None:
            return self._usual
        if len(marker.args) != 1 or marker.kwargs:
            raise pytest.UsageError(
                f"{item.nodeid}: mark.agentsup_timeout takes seconds, as in agentsup_timeout(5)"
            )
        return _to_seconds(f"{item.nodeid}: mark.agentsup_timeout", marker.args[0])

    @pytest.hookimpl(wrapper=True, trylast=True)  # inside of what other plugins time
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        seconds = self._seconds(item)
        if not seconds:
            return (yield)
        self._bound = Bound(seconds)
        self._bound.begin()
        try:
            return (yield)
        finally:
            self._bound.end()
            self._bound = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, Any, Any]:
        return (yield from self._phase())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        return (yield from self._phase())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, Any, Any]:
        return (yield from self._phase())

    def _phase(self) -> Generator[None, Any, Any]:
        """Fail it if the time was over in it, whatever else came of it."""
        if self._bound is None:
            return (yield)
        try:
            result = yield
        except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:
            if not (news := self._bound.news()):
                raise
            then = "".join(traceback.format_exception_only(error)).rstrip()
            failure = pytest.fail.Exception(f"{news}\nThen the test ended with {then}")
            raise failure.with_traceback(error.__traceback__) from None
        if news := self._bound.news():
            pytest.fail(news, pytrace=False)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        if self._bound is None or fixturedef.scope == "function":
            return (yield)
        before = _processes()
        try:
            return (yield)
        finally:
            self._bound.spared |= _processes() - before  # they are other tests', too

    def pytest_enter_pdb(self) -> None:
        if self._bound:
            self._bound.end()


class Bound:
    """Of one test, from its setup to its teardown."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        #: The processes that are not the test's; what is below them is not either.
        self.spared = _processes()
        self._over = False
        self._news = False
        self._killed: list[str] = []
        self._trouble = ""
        self._armed = False
        self._previous: Any = None

    def begin(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            self._trouble = "tests do not run in the main thread, which has to handle SIGALRM"
        elif any(signal.getitimer(signal.ITIMER_REAL)) or _handled():
            self._trouble = "something else uses SIGALRM; is it pytest-timeout?"
        else:
            self._armed = True
            self._previous = signal.signal(signal.SIGALRM, self._expire)
            signal.setitimer(signal.ITIMER_REAL, self.seconds, _AGAIN)

    def end(self) -> None:
        if self._armed and signal.getsignal(signal.SIGALRM) == self._expire:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._previous)
        self._armed = False

    def news(self) -> str:
        """What has happened since this was asked the last time, in words."""
        if self._armed and signal.getsignal(signal.SIGALRM) != self._expire:
            self._armed = False
            self._trouble = "something else has taken SIGALRM; is it pytest-timeout?"
        if self._trouble:
            trouble, self._trouble = self._trouble, ""
            return f"agentsup_timeout: {trouble}"
        if not self._news:
            return ""
        killed, self._killed, self._news = self._killed, [], False
        text = f"agentsup_timeout: {self.seconds:g} seconds were over"
        if not killed:
            return f"{text}, and there was no process of the test to be killed"
        more = [f"… {len(killed) - _NAMED} more"] if len(killed) > _NAMED else []
        return "\n  ".join([f"{text}, and these were killed:", *killed[:_NAMED], *more])

    def _expire(self, number: int, frame: FrameType | None) -> None:
        """Stop them first, until there are no new ones: none can get away from a dying parent."""
        stopped: dict[tuple[int, int], ProcessInfo] = {}
        for _ in range(_ROUNDS):
            new = [one for one in self._of_test() if one.identity not in stopped]
            if not new:
                break
            kill(new, signal.SIGSTOP)
            stopped.update({one.identity: one for one in new})
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        killed = [_line(one, now) for one in kill(stopped.values())]
        self._killed += killed
        self._news = self._news or bool(killed) or not self._over
        self._over = True

    def _of_test(self) -> list[ProcessInfo]:
        keepers = _keepers()
        found = descendants(
            os.getpid(), lambda one: one.pid in keepers or one.identity not in self.spared
        )
        return [
            one
            for one in found.values()
            if not one.zombie and one.pid not in keepers and one.identity not in self.spared
        ]


def _handled() -> bool:
    return callable(signal.getsignal(signal.SIGALRM))


def _line(process: ProcessInfo, now: float) -> str:
    return f"pid {process.pid}, {process.age(now):.1f} s old: {shlex.join(process.argv)}"


def _processes() -> set[tuple[int, int]]:
    return {process.identity for process in descendants(os.getpid()).values()}


def _keepers() -> set[int]:
    """What holds the processes of agentsup, and is not the test's own."""
    lifeline = sys.modules.get("agentsup._linux.lifeline")
    return lifeline.keepers() if lifeline else set()


def _usual_seconds(config: pytest.Config) -> float:
    option = config.getoption("agentsup_timeout")
    if option is not None:
        return _to_seconds("--agentsup-timeout", option)
    return _to_seconds("agentsup_timeout", config.getini("agentsup_timeout") or 0)


def _to_seconds(name: str, value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise pytest.UsageError(
            f"{name} must be a number of seconds, 0 for any time, not {value!r}"
        )
    return seconds
