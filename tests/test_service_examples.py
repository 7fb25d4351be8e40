"""The examples of services, run as a user runs them, with a pipe for their output."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import agentsup

EXAMPLES = Path(__file__).parent.parent / "examples"
TIME = r"\d\d:\d\d:\d\d[.,]\d{3}"


class Example:
    """A running one. It ends by itself, if late, so that no line is waited for forever."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def wait_for(self, pattern: str) -> re.Match[str]:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no {pattern!r} in\n{''.join(self.lines)}")

    def wait_for_pid(self, pattern: str) -> int:
        return int(self.wait_for(pattern)[1])

    def end(self, number: signal.Signals | None) -> None:
        """By a signal, or by itself; all that it has started is then gone."""
        descendants = psutil.Process(self.process.pid).children(recursive=True)
        assert len(descendants) >= 2  # the keeper and a service
        if number is not None:
            self.process.send_signal(number)
        rest, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, rest
        assert "Traceback" not in rest
        assert not errors
        assert not psutil.wait_procs(descendants, timeout=10)[1]


@contextmanager
def example(name: str, *words: str) -> Iterator[Example]:
    own = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    environment = {**own, "PYTHONPATH": str(Path(agentsup.__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, EXAMPLES / name, "--for", "60", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if name == "two_services.py" else subprocess.STDOUT,
        encoding="utf-8",
        env=environment,
    ) as process:
        try:
            yield Example(process)
        finally:
            process.kill()


def test_of_two_services_one_is_killed() -> None:
    with example("two_services.py") as run:
        web = run.wait_for_pid(rf"{TIME}  web +active +pid (\d+) +running")
        ticker = run.wait_for_pid(rf"{TIME}  ticker +active +pid (\d+) +running")
        run.wait_for("web .* healthy")
        os.kill(ticker, signal.SIGKILL)
        run.wait_for("ticker .* killed by SIGKILL")
        next_ticker = run.wait_for_pid(r"ticker +active +pid (\d+) .* again, \d+\.\d ms later")
        assert next_ticker != ticker
        os.kill(web, signal.SIGKILL)
        run.wait_for("web .* killed by SIGKILL")
        next_web = run.wait_for_pid(r"web +active +pid (\d+) .* again, \d+\.\d ms later")
        run.wait_for(f"web +active +pid {next_web} +healthy")
        assert psutil.Process(next_ticker).is_running()
        of_the_other = [line for line in run.lines if " web " in line]
        assert sum("running" in line for line in of_the_other) == 2
        assert sum("killed" in line for line in of_the_other) == 1
        run.end(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, None])
def test_two_services_end(number: signal.Signals | None) -> None:
    with example("two_services.py", *(() if number else ("--for", "0.5"))) as run:
        run.wait_for("is served")
        run.end(number)


@pytest.mark.parametrize(
    ("how", "reason"), [((), "HTTP status 503"), (("--hang",), "no answer within 0.5 s")]
)
def test_a_flaky_server_is_restarted(how: tuple[str, ...], reason: str) -> None:
    with example("flaky_server.py", "--after", "0.3", *how) as run:
        run.wait_for(rf"{TIME} flaky: liveness check failed \(2 of 2\): {reason}")
        first = run.wait_for_pid(rf"flaky: deactivating, pid (\d+): unhealthy .*: {reason}")
        logged = "".join(run.lines)
        assert f"flaky: active, pid {first}: ready" in logged
        assert f"flaky: liveness check failed (1 of 2): {reason}" in logged
        assert run.wait_for_pid(rf"{TIME} flaky: active, pid (\d+): ready") != first
        assert not psutil.pid_exists(first)
        run.end(signal.SIGTERM)
