"""Assertions about results, and what they say where they fail."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from attrs import evolve

import agentsup
from agentsup import (
    Containment,
    Found,
    Leftover,
    Outcome,
    Output,
    OutputPolicy,
    Result,
    TakenStep,
    Usage,
)
from agentsup.testing import assertions
from agentsup.testing.assertions import (
    assert_exited,
    assert_nothing_left,
    assert_signaled,
    assert_stopped,
)

TIMED_OUT = Result(
    argv=("/opt/tool", "--name", "a b"),
    name="tool",
    outcome=Outcome.TIMED_OUT,
    exit_code=3,
    signal=None,
    stdout=Output(b"out\n", b"", 4),
    stderr=Output(b"err\n", b"", 4),
    duration=1.234,
    queued=1.5,
    usage=Usage(),
    escalation=(TakenStep("SIGTERM", 1.0), TakenStep("SIGKILL", 1.2)),
    leftovers=(Leftover(4321, ("sleep", "10 00"), Found.ORPHAN),),
    leftover_count=1,
    containment=Containment.SUBREAPER,
    pid=4320,
    limits_reached=("memory",),
)


def run(script: str, **options: Any) -> Result:
    return agentsup.run_sync(agentsup.shell(script), **options)


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    return {
        "timed out, then exited": TIMED_OUT,
        "exited": run("exit 3"),
        "signaled": run("kill -USR1 $$"),
        "timed out": run("sleep 1000", timeout=0.05),
        "limit": run("yes", output=OutputPolicy(limit=1000)),
        "left": run("sleep 1000 & exit 3"),
    }


@pytest.mark.parametrize(
    ("name", "check", "arguments"),
    [
        ("exited", assert_exited, [3]),
        ("left", assert_exited, [3]),
        ("signaled", assert_signaled, []),
        ("signaled", assert_signaled, ["USR1"]),
        ("signaled", assert_signaled, [signal.SIGUSR1]),
        ("timed out", assert_stopped, []),
        ("timed out", assert_stopped, [Outcome.TIMED_OUT]),
        ("timed out, then exited", assert_stopped, [Outcome.TIMED_OUT]),
        ("limit", assert_stopped, [Outcome.OUTPUT_LIMIT]),
        ("exited", assert_nothing_left, []),
    ],
)
def test_what_holds_returns_the_result(results, name, check, arguments) -> None:
    assert check(results[name], *arguments) is results[name]


@pytest.mark.parametrize(
    ("name", "check", "arguments", "message"),
    [
        (
            "exited",
            assert_exited,
            [],
            "sh: exited with status 3; expected it to exit by itself with status 0",
        ),
        (
            "signaled",
            assert_exited,
            [],
            "killed by SIGUSR1; expected it to exit by itself with status 0",
        ),
        (
            "timed out, then exited",
            assert_exited,
            [3],
            r"tool: timed out after 1\.0 s, then exited with status 3; expected it to exit",
        ),
        ("exited", assert_signaled, [], "3; expected it to be killed by a signal"),
        (
            "timed out",
            assert_signaled,
            [],
            "SIGTERM; expected it to be killed by a signal, not by its s",
        ),
        ("signaled", assert_signaled, ["TERM"], "SIGUSR1; expected it to be killed by SIGTERM"),
        ("exited", assert_stopped, [], "3; expected it to be stopped by its supervisor"),
        ("signaled", assert_stopped, [], "USR1; expected it to be stopped by its supervisor"),
        (
            "timed out",
            assert_stopped,
            [Outcome.IDLE],
            r"sh: timed out after .* expected it to be stopped \(idle\) by its supervisor",
        ),
        ("left", assert_nothing_left, [], "3; expected it to leave no process behind"),
    ],
)
def test_what_does_not_hold(results, name, check, arguments, message) -> None:
    with pytest.raises(AssertionError, match=message):
        check(results[name], *arguments)


def test_the_message_has_all_that_the_result_tells() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_exited(TIMED_OUT, 3)
    assert (
        str(caught.value)
        == """\
tool: timed out after 1.0 s, then exited with status 3; expected it to exit by itself with status 3
command: /opt/tool --name 'a b'
duration: 1.23 s, after 1.50 s in line
escalation: SIGTERM at 1.00 s, SIGKILL at 1.20 s
limits reached: memory
left behind: 1, and 0 adopted
  4321 sleep '10 00' (orphan)
output:
out
[stderr]
err
[timed out after 1.0 s, then exited with status 3; one other process of it had to be killed]"""
    )


def test_the_message_is_bounded() -> None:
    result = run("seq 100000; seq 100000 >&2; exit 1")
    left = tuple(Leftover(pid, ("x" * 100_000,), Found.ORPHAN) for pid in range(64))
    result = evolve(result, argv=("y" * 100_000,), leftovers=left, leftover_count=64)
    with pytest.raises(AssertionError) as caught:
        assert_exited(result)
    text = str(caught.value)
    assert len(text) < 13_000
    for part in ("output:\n1\n2\n", "\n99999\n100000\n[stderr]\n1\n2\n", "\n99999\n100000\n["):
        assert part in text


@pytest.mark.parametrize(
    ("check", "arguments", "error", "message"),
    [
        (assert_exited, [None], TypeError, "result must be an agentsup.Result, not None"),
        (assert_stopped, [3], TypeError, "result must be an agentsup.Result, not 3"),
        (assert_signaled, [TIMED_OUT, "NO"], ValueError, "unknown signal 'NO'"),
        (assert_stopped, [TIMED_OUT, Outcome.EXITED], ValueError, "use assert_exited or assert_si"),
    ],
)
def test_bad_input(check, arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        check(*arguments)


def test_the_traceback_ends_in_the_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import agentsup
        from agentsup.testing import assert_exited

        def test():
            assert_exited(agentsup.run_sync(["false"]))
        """
    )
    printed = pytester.runpytest_subprocess("-p", "no:cacheprovider").stdout
    printed.fnmatch_lines(["E*AssertionError: false: exited with status 1; expected *"])
    printed.no_fnmatch_line(f"*{assertions._must.__name__}*")
