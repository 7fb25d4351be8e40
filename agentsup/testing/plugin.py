"""The pytest plugin: options, markers and fixtures; what is behind them is imported when used."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeAlias

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator

    from .. import Supervisor, SyncSupervisor
    from .hosting import ServiceFactory
    from .misbehaving import Misbehaving
    from .shared import SharedSupervisor

    Section: TypeAlias = tuple[str, str]  # a title, and what is below it
    Source: TypeAlias = Callable[[], Iterable[Section]]

pytest.register_assert_rewrite(f"{__package__}.contract")

#: Of a test, or of the session: what has something to say when a test fails.
SOURCES: pytest.StashKey[tuple[Source, ...]] = pytest.StashKey()

MARKERS = (
    "agentsup_leaks(on=True): whether a test fails for the processes, threads, descriptors, "
    "sockets and temporary files that it leaves",
    "agentsup_timeout(seconds): how long a test may take until the processes that it has started "
    "are killed; 0 for any time",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("agentsup", "processes that tests start (agentsup)")
    group.addoption(
        "--agentsup-leaks",
        action="store_true",
        default=None,
        help="fail each test that leaves processes, threads, descriptors, sockets or temporary "
        "files behind",
    )
    group.addoption(
        "--agentsup-timeout",
        type=float,
        metavar="SECONDS",
        help="kill the processes of each test that takes longer; 0 for any time",
    )
    parser.addini("agentsup_leaks", "as --agentsup-leaks", type="bool", default=False)
    parser.addini(
        "agentsup_leaks_ignore",
        "patterns (of fnmatch) of what is no leak, one a line",
        type="linelist",
        default=[],
    )
    parser.addini("agentsup_timeout", "as --agentsup-timeout", default=None)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if _asyncio_scope(config):
        from . import asyncio_fixtures

        config.pluginmanager.register(asyncio_fixtures, "agentsup-asyncio")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (
        config.getoption("agentsup_leaks")
        or config.getini("agentsup_leaks")
        or any(item.get_closest_marker("agentsup_leaks") for item in items)
    ):
        from .leak_plugin import LeakPlugin

        config.pluginmanager.register(LeakPlugin(config), "agentsup-leaks")
    if (
        config.getoption("agentsup_timeout") is not None
        or config.getini("agentsup_timeout")
        or any(item.get_closest_marker("agentsup_timeout") for item in items)
    ):
        if sys.platform != "linux":
            raise pytest.UsageError("agentsup_timeout kills processes on Linux only")
        from .timeout import TimeoutPlugin

        config.pluginmanager.register(TimeoutPlugin(config, items), "agentsup-timeout")


def _active(config: pytest.Config, name: str) -> bool:
    """Whether this other plugin, which is then imported, takes part."""
    plugin = sys.modules.get(name)
    return plugin is not None and config.pluginmanager.is_registered(plugin)


def _asyncio_scope(config: pytest.Config) -> str | None:
    """Where pytest-asyncio's loops begin and end by default; None if it does not take part."""
    try:
        scope: str = config.getini("asyncio_default_test_loop_scope")
    except ValueError:
        return None  # or is older than 0.26
    return scope


@pytest.fixture
def supervisor(request: pytest.FixtureRequest) -> Supervisor:
    """A Supervisor for an async test, in its event loop. What it has ends with the test."""
    found: Supervisor = request.getfixturevalue(_flavour(request))
    return found


def _flavour(request: pytest.FixtureRequest) -> str:
    """The fixture of the plugin that runs this test."""
    test, config = request.node, request.config
    if _active(config, "pytest_trio.plugin") and test.get_closest_marker("trio"):
        return "_agentsup_supervisor"
    scope = _asyncio_scope(config)
    if scope and sys.modules["pytest_asyncio.plugin"].is_async_test(test):
        marker = test.get_closest_marker("asyncio")
        asked_for = marker.kwargs.get("loop_scope") if marker else None
        return f"_agentsup_supervisor_{asked_for or scope}"
    if _active(config, "anyio.pytest_plugin") and "anyio_backend" in request.fixturenames:
        return "_agentsup_supervisor"
    pytest.fail(
        "the fixture supervisor needs an async test that a plugin runs: mark it with "
        "@pytest.mark.anyio, asyncio (pytest-asyncio 0.26 or newer) or trio (pytest-trio); "
        "a test that is not async has the fixture sync_supervisor",
        pytrace=False,
    )


@pytest.fixture
async def _agentsup_supervisor(request: pytest.FixtureRequest) -> AsyncGenerator[Supervisor]:
    from .hosting import hosted

    async with hosted(request.node) as supervisor:
        yield supervisor


@pytest.fixture
def service_factory(supervisor: Supervisor) -> ServiceFactory:
    """Start a service in the test's supervisor: ``await service_factory("db", ["postgres"])``."""
    from .hosting import ServiceFactory

    return ServiceFactory(supervisor)


@pytest.fixture
def sync_supervisor() -> Iterator[SyncSupervisor]:
    """A SyncSupervisor for a test without an event loop. What it has ends with the test."""
    from .. import SyncSupervisor

    with SyncSupervisor() as supervisor:
        yield supervisor


@pytest.fixture(scope="session")
def session_supervisor(request: pytest.FixtureRequest) -> Iterator[SharedSupervisor]:
    """For servers that all tests of a session share, those of pytest-xdist's workers included."""
    from .shared import shared

    with shared(request) as supervisor:
        request.session.stash[SOURCES] = (supervisor.sections,)
        yield supervisor


@pytest.fixture
def misbehaving() -> Misbehaving:
    """Makes the command lines of programs that do not behave."""
    from .misbehaving import Misbehaving

    return Misbehaving()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Tell of a failed test's services, once: where junit's XML shows it, too."""
    error = call.excinfo.value if call.excinfo else None
    if error is not None and not isinstance(error, pytest.skip.Exception):
        for source in _sources(item):
            for title, text in source():
                item.add_report_section(call.when, f"stdout of {title}", text)
    if (error is not None or call.when == "teardown") and SOURCES in item.stash:
        del item.stash[SOURCES]  # an item lives as long as the session


def _sources(item: pytest.Item) -> tuple[Source, ...]:
    found = item.stash.get(SOURCES, ())
    if "session_supervisor" in getattr(item, "fixturenames", ()):
        found += item.session.stash.get(SOURCES, ())
    return found
