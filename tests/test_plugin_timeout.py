"""--agentsup-timeout: what a test has started is killed, and pytest goes on."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from agentsup.testing.processes import descendants, kill, look_at

OPTIONS = ("-p", "no:asyncio", "-p", "no:trio", "-p", "no:xdist", "-p", "no:xprocess")

#: Most of these have their time end when they are where they are to be, however long that takes.
BLOCKED = """
    import os, signal, subprocess, anyio, pytest
    from agentsup import OutputPolicy
    from agentsup._linux import lifeline

    LOOPS = ("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True}), "trio"
    COMMAND = ["sleep", "SECONDS"]
    PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    earlier = subprocess.Popen(["sh", "-c", "read go; sleep SECONDS9 & echo $!; wait"], **PIPES)
    keepers = set()
    bounded = pytest.mark.agentsup_timeout(1000)
    unbounded = pytest.mark.agentsup_timeout(0)

    def time_is_over(*_):
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)

    @pytest.fixture(params=LOOPS)
    def anyio_backend(request):
        return request.param

    @pytest.fixture(scope="session")
    def server():
        with subprocess.Popen(COMMAND) as server:
            yield server
            server.kill()

    @pytest.fixture
    def hanging_setup():
        time_is_over()
        subprocess.run(COMMAND)

    @pytest.fixture
    def hanging_teardown():
        yield
        time_is_over()
        subprocess.run(COMMAND)

    @unbounded
    def test_without_a_bound(sync_supervisor):
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        sync_supervisor.run(["true"])
        keepers.update(lifeline.keepers())

    @bounded
    def test_in_time():
        left, again = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < left < 1000
        assert again == 1

    def test_with_the_bound_of_the_option():
        subprocess.run(COMMAND)

    def test_that_has_nothing():
        signal.sigtimedwait([signal.SIGUSR1], 1.2)

    @bounded
    def test_blocked_in_subprocess_run(server):
        print("go", file=earlier.stdin)
        child = int(earlier.stdout.readline())
        time_is_over()
        assert subprocess.run(COMMAND).returncode == -signal.SIGKILL
        os.kill(child, signal.SIGTERM)  # it is there
        assert earlier.wait() == 0

    @unbounded
    def test_others_are_spared(server):
        assert server.poll() is None

    @bounded
    def test_blocked_in_sync(sync_supervisor):
        words = ["sh", "-c", "(setsid sleep SECONDS1 &); echo; sleep SECONDS2; sleep SECONDS3"]
        result = sync_supervisor.run(words, output=OutputPolicy(on_line=time_is_over))
        assert result.signal is signal.SIGKILL

    @bounded
    @pytest.mark.anyio
    async def test_blocked_in_loop(supervisor):
        time_is_over()
        await supervisor.run(COMMAND, check=True)

    @bounded
    @pytest.mark.anyio
    @pytest.mark.parametrize("anyio_backend", ["trio"])
    async def test_restarted(service_factory):
        service = await service_factory("stubborn", COMMAND)
        time_is_over()
        while service.restarts < 2:
            await anyio.sleep(0.02)

    @unbounded
    def test_the_keeper_is_spared(sync_supervisor):
        assert len(keepers) == 1
        assert lifeline.keepers() == keepers

    @bounded
    def test_with_hanging_setup(hanging_setup):
        pass

    @bounded
    def test_with_hanging_teardown(hanging_teardown):
        pass

    @unbounded
    def test_that_takes_the_signal():
        signal.signal(signal.SIGALRM, lambda *_: None)

    @bounded
    def test_that_cannot_have_it():
        pass

    @unbounded
    def test_that_can_still_use_it():
        assert signal.signal(signal.SIGALRM, signal.SIG_DFL)
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)

    @bounded
    def test_that_takes_it_meanwhile():
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
"""


def test_what_a_test_has_started_is_killed(
    pytester: pytest.Pytester, marker: Any, until: Any
) -> None:
    pytester.makepyfile(BLOCKED.replace("SECONDS", marker))
    ended = pytester.runpytest_subprocess(
        *OPTIONS, "--agentsup-timeout=1", "-o", "agentsup_timeout=1000", timeout=150
    )
    ended.assert_outcomes(passed=7, failed=9, errors=3)
    killed = "*agentsup_timeout: 1000 seconds were over, and these were killed:"
    other = "agentsup_timeout: something else {} SIGALRM; is it pytest-timeout[?]"
    ended.stdout.fnmatch_lines(
        [
            "*_ ERROR at setup of test_with_hanging_setup _*",
            *(killed, f"  pid *, * s old: sleep {marker}"),
            "*_ ERROR at teardown of test_with_hanging_teardown _*",
            *(killed, f"  pid *, * s old: sleep {marker}"),
            "*_ ERROR at setup of test_that_cannot_have_it _*",
            other.format("uses"),
            "*= FAILURES =*",
            "*_ test_with_the_bound_of_the_option _*",
            *("agentsup_timeout: 1 seconds were over, and these *", f"*: sleep {marker}"),
            "*_ test_that_has_nothing _*",
            "agentsup_timeout: 1 seconds were over, and there was no process of the test *",
            *("*_ test_blocked_in_subprocess_run _*", killed, f"*: sleep {marker}"),
            *("*_ test_blocked_in_sync _*", killed, f"*: *sleep {marker}1*"),
            *("*_ test_blocked_in_loop*", killed, "*Then the test ended with *ToolFailed: *"),
            *("*_ test_blocked_in_loop*", killed, "*Then the test ended with *ToolFailed: *"),
            *("*_ test_blocked_in_loop*", killed, "*Then the test ended with *ToolFailed: *"),
            *("*_ test_restarted*", killed, f"*: sleep {marker}", f"*: sleep {marker}"),
            *("*_ test_that_takes_it_meanwhile _*", other.format("has taken")),
        ]
    )
    ended.stdout.no_fnmatch_line(f"*: sleep {marker}9*")
    until(lambda: not marker.pids())


@pytest.mark.parametrize(
    ("options", "mark", "message"),
    [
        (["--agentsup-timeout=-1"], "0", "--agentsup-timeout must be a number of seconds"),
        (["-o", "agentsup_timeout=soon"], "0", "agentsup_timeout must be a number of seconds"),
        ([], "'soon'", "test_it: mark.agentsup_timeout must be a number of seconds"),
        ([], "1, 2", "test_it: mark.agentsup_timeout takes seconds, as in agentsup_timeout(5)"),
    ],
)
def test_a_bad_bound_is_an_error(
    pytester: pytest.Pytester, options: list[str], mark: str, message: str
) -> None:
    pytester.makepyfile(f"""
        import pytest

        @pytest.mark.agentsup_timeout({mark})
        def test_it():
            pass
    """)
    ended = pytester.runpytest_inprocess(*OPTIONS, *options)
    assert ended.ret == pytest.ExitCode.USAGE_ERROR
    ended.stderr.fnmatch_lines([f"ERROR: *{message}*"])


def test_descendants_are_found_and_killed(marker: Any, until: Any) -> None:
    script = f"sleep {marker} & (exit 3) & exec sleep {marker}"
    with subprocess.Popen(["sh", "-c", script]) as child:

        def names_and_parents() -> list[object]:
            return sorted((one.argv, one.ppid) for one in descendants(child.pid).values())

        # Each of them is a shell at first.
        until(lambda: (one := look_at(child.pid)) and one.argv == ("sleep", marker))
        ended = [(("[sh]",), child.pid), (("sleep", marker), child.pid)]
        until(lambda: names_and_parents() == ended)
        found, itself = descendants(child.pid), look_at(child.pid)
        assert itself
        assert [one.argv for one in kill([*found.values(), itself])] == [
            ("sleep", marker),
            ("sleep", marker),
        ]
        assert child.wait() == -9
    assert not kill([itself])
    assert look_at(child.pid) is None


def test_what_is_another_under_the_same_number_is_left_alone(until: Any) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = look_at(child.pid)
        assert process
        import attrs

        assert not kill([attrs.evolve(process, start_time=process.start_time - 1)])
        assert child.stdin
        child.stdin.write(b"\n")
    assert child.returncode == 0
