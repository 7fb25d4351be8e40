"""What a failed test's report says of the services that it had."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

BODY = """
    import anyio, pytest
    import agentsup

    pytestmark = pytest.mark.{marker}

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    def say(text, then):
        return ["sh", "-c", f"echo {text}; {then}"]

    async def start(service_factory):
        ready = agentsup.OutputMatches("speaking")
        await service_factory("web", say("web speaking", "exec sleep {seconds}"), ready=ready)

    async def test_passes(service_factory):
        await start(service_factory)

    async def test_fails(service_factory, supervisor):
        await start(service_factory)
        once = await service_factory("once", say("once and no more", ""), restart="temporary")
        await once.wait()
        async with supervisor.child("workers") as workers:
            service = agentsup.Service(
                "deep", say("from the deep speaking", "exec sleep {seconds}"),
                ready=agentsup.OutputMatches("speaking"),
            )
            await workers.start(service)
        flood = "head -c 9000 /dev/zero | tr '\\\\0' x; echo the end; exec sleep {seconds}"
        await service_factory(
            "flood", ["sh", "-c", flood], ready=agentsup.OutputMatches("the end"),
            output=agentsup.OutputPolicy(head=65536, tail=65536),
        )
        await supervisor.run(["sh", "-c", "sleep {seconds} &"], leftovers="adopt")
        assert 0, "expected"

    async def test_fails_without_services(supervisor):
        assert 0, "expected"

    async def test_that_cannot_start_it(service_factory):
        await service_factory("web", say("no room", "exit 3"), ready="notify")
"""


@pytest.mark.parametrize("plugin", ["anyio", "trio"])
def test_a_failed_tests_services_are_shown(
    pytester: pytest.Pytester, marker: Any, plugin: str
) -> None:
    pytester.makepyfile(BODY.replace("{marker}", plugin).replace("{seconds}", marker))
    options = [f"-pno:{name}" for name in ("asyncio", "xdist", "xprocess")]
    if plugin == "anyio":
        options.append("-pno:trio")
    ended = pytester.runpytest_subprocess(
        *options, "--junitxml=junit.xml", "-o", "junit_logging=system-out", timeout=120
    )
    ended.assert_outcomes(passed=1, failed=3)
    ended.stdout.fnmatch_lines(
        [
            "*_ test_fails _*",
            "*- Captured stdout of the supervisor call -*",
            "service web: active (pid *, ready)",
            "service once: inactive (exited with status 0)",
            "service workers/deep: inactive (stopped)",
            "service flood: active (pid *, ready)",
            *(f"adopted sh (*sh -c 'sleep {marker} &')", f"  pid *: sleep {marker}"),
            "*- Captured stdout of service web call -*",
            "web speaking",
            "*- Captured stdout of service once call -*",
            "once and no more",
            "*- Captured stdout of service workers/deep call -*",
            "from the deep speaking",
            "*- Captured stdout of service flood call -*",
            "x*xthe end",
            *("*_ test_fails_without_services _*", "*_ test_that_cannot_start_it _*"),
            "*- Captured stdout of the supervisor call -*",
            "service web: failed (*exited with status 3*)",
            "*- Captured stdout of service web call -*",
            "no room",
        ]
    )
    text = ended.stdout.str()
    assert text.count("the supervisor call -") == text.count("service web call -") == 2
    assert 3000 < text.count("x" * 50) * 50 < 6000
    cases = ElementTree.parse(pytester.path / "junit.xml").iter("testcase")
    printed = {case.get("name"): case.findtext("system-out") or "" for case in cases}
    [failed] = [output for name, output in printed.items() if str(name).endswith("test_fails")]
    assert "web speaking" in failed
    assert "web speaking" not in "".join(set(printed.values()) - {failed})
