"""pytest's side of the leak detector: when to look, and whose what is."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from .leaks import IGNORED, KINDS, Detector

if TYPE_CHECKING:
    from collections.abc import Generator

    from .leaks import Leak

_ELSEWHERE = (
    f"agentsup: on {sys.platform} tests were not searched for processes that they leave, "
    "as that takes Linux's /proc"
)


class LeakPlugin:
    """Looks before the setup of a test and after its teardown, outside of all other hooks.

    Fixtures of a wider scope have what they make to themselves for as long as they are there.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._ignored = (*IGNORED, *map(_check_pattern, config.getini("agentsup_leaks_ignore")))
        self._detector: Detector | None = None
        #: What fixtures of a wider scope have started.
        self._started: defaultdict[Any, set[tuple[int, int]]] = defaultdict(set)

    def _is_wanted(self, item: pytest.Item) -> bool:
        if marker := item.get_closest_marker("agentsup_leaks"):
            return bool(marker.args[0] if marker.args else marker.kwargs.get("on", True))
        config = self._config
        return bool(config.getoption("agentsup_leaks") or config.getini("agentsup_leaks"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        if self._is_wanted(item):
            self._detector = Detector(self._ignored)
            self._detector.begin()
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, Any, Any]:
        try:
            result = yield
        except BaseException as error:
            if message := self._end():
                error.add_note(message)
            raise
        if message := self._end():
            pytest.fail(message, pytrace=False)
        return result

    def _end(self) -> str:
        detector, self._detector = self._detector, None
        left = detector.end() if detector else []
        return _message(left) if left else ""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        if self._detector is None or fixturedef.scope == "function":
            return (yield)
        with self._detector.elsewhere() as made:
            result = yield
        self._started[fixturedef] |= made.processes
        return result

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        started = self._started.pop(fixturedef, set[tuple[int, int]]())
        if self._detector is not None:
            self._detector.before.processes.difference_update(started)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if sys.platform != "linux":
            terminalreporter.write_line(_ELSEWHERE)


def _check_pattern(pattern: str) -> str:
    if pattern.partition(":")[0] not in (*KINDS, "*"):
        raise pytest.UsageError(
            f"agentsup_leaks_ignore: {pattern!r} is not KIND:PATTERN, as fd:/dev/random is; "
            f"KIND is one of {', '.join(KINDS)}"
        )
    return pattern


def _message(left: list[Leak]) -> str:
    found: list[str] = []
    for leak in left:
        first, *rest = leak.lines()
        found += [f"left behind: {first}", *(f"    {line}" for line in rest)]
    return "\n".join(found)
