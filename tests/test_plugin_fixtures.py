"""The plugin's fixtures, in sessions of their own, under each plugin that runs async tests."""

from __future__ import annotations

from typing import Any

import pytest


def only(plugin: str, *options: str) -> tuple[str, ...]:
    """Options for a session in which none takes part but this one."""
    others = [other for other in ("anyio", "asyncio", "trio", "xdist") if other != plugin]
    return (*(word for other in others for word in ("-p", f"no:{other}")), *options)


def ini(setting: str) -> tuple[str, str]:
    return "-o", setting


NO_WARNING = ini("asyncio_default_fixture_loop_scope=function")
#: Options, and for each file: a marker, how a fixture is made, and in how many loops its tests run.
SESSIONS = {
    "anyio-auto": (only("anyio", *ini("anyio_mode=auto")), [("[]", "pytest.fixture", 3)]),
    "asyncio-auto": (
        only("asyncio", *ini("asyncio_mode=auto"), *NO_WARNING),
        [("[]", "pytest.fixture", 1)],
    ),
    "asyncio-module": (
        only("asyncio", *ini("asyncio_default_test_loop_scope=module"), *NO_WARNING),
        [("pytest.mark.asyncio", "pytest_asyncio.fixture(loop_scope='module')", 1)],
    ),
    "trio-mode": (only("trio", *ini("trio_mode=true")), [("[]", "pytest.fixture", 1)]),
    "all": (
        ("-n", "2", "--dist", "loadfile", *NO_WARNING),
        [
            ("pytest.mark.anyio", "pytest.fixture", 3),
            ("pytest.mark.asyncio", "pytest_asyncio.fixture", 1),
            ("pytest.mark.trio", "pytest.fixture", 1),
        ],
    ),
}

CONFTEST = """
    import pytest

    LOOPS = ("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True}), "trio"

    @pytest.fixture(params=LOOPS)
    def anyio_backend(request):
        return request.param
"""

#: A test that fails comes before one that looks at what it has left.
BODY = """
    import os, pathlib, sys, anyio, pytest
    import agentsup
    {imports}

    pytestmark = {marker}

    @{fixture}
    async def server(service_factory):
        handle = await service_factory("server", ["sleep", "{seconds}"])
        yield handle
        assert handle.pid

    async def test_a_supervisor(supervisor):
        assert isinstance(supervisor, agentsup.Supervisor)
        assert (await supervisor.run(["echo", "hello"])).stdout.text == "hello\\n"

    async def test_a_service_by_its_parameters(service_factory, supervisor):
        command = ["sh", "-c", "echo at last; exec sleep {seconds}"]
        handle = await service_factory("web", command, ready=agentsup.OutputMatches("last"))
        assert supervisor.service("web") is handle
        assert handle.state is agentsup.ServiceState.ACTIVE

    async def test_a_service_as_such(service_factory):
        service = agentsup.Service("web", ["sleep", "{seconds}"])
        assert (await service_factory(service)).service is service
        with pytest.raises(TypeError, match="not both"):
            await service_factory(service, grace=1)

    class TestClass:
        async def test_in_a_class(self, server, supervisor):
            assert server.pid == supervisor.tree()[0].pid

    async def test_that_is_cancelled_inside(supervisor, server):
        with anyio.move_on_after(0.01):
            await supervisor.run(["sleep", "{seconds}"])
        assert server.pid
        assert (await supervisor.run(["true"])).ok

    async def test_that_fails(supervisor, server):
        assert 0, "expected"

    async def test_that_is_failed_by_its_supervisor(service_factory):
        handle = await service_factory("crashing", ["true"], jitter=0, backoff=None)
        await handle.wait()

    async def test_after_that(supervisor):
        assert (await supervisor.run(["true"])).ok

    async def test_that_nothing_is_left():
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                command = pathlib.Path("/proc", name, "cmdline").read_bytes()
            except OSError:
                continue
            assert b"{seconds}" not in command
"""


def fill_in(text: str, **values: str) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


@pytest.mark.parametrize("session", SESSIONS)
def test_under_each_plugin(pytester: pytest.Pytester, marker: str, session: str) -> None:
    options, files = SESSIONS[session]
    pytester.makeconftest(CONFTEST)
    passed = failed = errors = 0
    for number, (mark, fixture, times) in enumerate(files):
        of_trio = "trio" in mark or "trio" in session
        imports = "import pytest_asyncio" if "asyncio" in fixture else ""
        text = fill_in(
            BODY, imports=imports, marker=mark, fixture=fixture, seconds=f"{marker}{number}"
        )
        pytester.makepyfile(**{f"test_{number}": text})
        # In pytest-trio a fixture is a part of the test.
        passed += (7 if of_trio else 8) * times
        failed += (2 if of_trio else 1) * times
        errors += (0 if of_trio else 1) * times
    ended = pytester.runpytest_subprocess("-p", "no:xprocess", *options, "-W", "error", timeout=120)
    ended.assert_outcomes(passed=passed, failed=failed, errors=errors)
    ended.stdout.fnmatch_lines(["*RestartLimitReached*"])


INTERRUPTED = """
    import signal, pytest

    pytestmark = [pytest.mark.{marks}]

    async def test_interrupted(service_factory, supervisor):
        await service_factory("web", ["sleep", "{seconds}"])
        signal.raise_signal(signal.SIGINT)
        await supervisor.run(["sleep", "{seconds}"])
"""


@pytest.mark.parametrize(
    ("plugin", "marks"),
    [
        ("anyio", "anyio, pytest.mark.parametrize('anyio_backend', ['trio'])"),
        ("asyncio", "asyncio"),
    ],
    ids=["anyio-trio", "asyncio"],
)
def test_an_interrupt_leaves_nothing(
    pytester: pytest.Pytester, marker: Any, until: Any, plugin: str, marks: str
) -> None:
    pytester.makepyfile(fill_in(INTERRUPTED, marks=marks, seconds=marker))
    ended = pytester.runpytest_subprocess(*only(plugin), timeout=120)
    assert ended.ret == pytest.ExitCode.INTERRUPTED
    until(lambda: not marker.pids())


WITHOUT_PLUGIN = """
    import agentsup

    async def test_async(supervisor):
        pass

    def test_not_async(service_factory):
        pass

    def test_sync(sync_supervisor):
        assert isinstance(sync_supervisor, agentsup.SyncSupervisor)
        assert sync_supervisor.run(["echo", "hello"]).stdout.text.strip() == "hello"
"""


def test_without_any_plugin_for_async_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(WITHOUT_PLUGIN)
    ended = pytester.runpytest_subprocess(*only(""), timeout=120)
    ended.assert_outcomes(passed=1, errors=2)
    ended.stdout.fnmatch_lines(
        [
            "*mark it with @pytest.mark.anyio, asyncio (pytest-asyncio * or trio (pytest-trio)*",
            "*mark it with @pytest.mark.anyio, *has the fixture sync_supervisor*",
        ]
    )


def test_nothing_is_imported_until_a_fixture_is_used(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever others are installed, and import what they like.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile("""
        import sys

        def test_nothing():
            ours = {name for name in sys.modules if name.partition(".")[0] == "agentsup"}
            assert ours == {
                *("agentsup", "agentsup._lazy"),
                *("agentsup.testing", "agentsup.testing.plugin"),
            }
            assert not {"anyio", "trio", "attrs", "httpx", "asyncio"} & set(sys.modules)
    """)
    ended = pytester.runpytest_subprocess("-p", "agentsup.testing.plugin", timeout=120)
    ended.assert_outcomes(passed=1)
