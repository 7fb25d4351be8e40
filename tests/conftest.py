"""Both backends for every async test, and nothing left behind by any test."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import hypothesis
import psutil
import pytest
import uvloop

from agentsup._linux import lifeline

pytest_plugins = ["pytester"]

# libuv opens one pipe with the first loop of a process and keeps it.
uvloop.new_event_loop().close()

# On a busy machine an example may take any time. CI tries the same ones each time: what chance
# finds, it finds for those who work on it.
hypothesis.settings.register_profile(
    "patient",
    deadline=None,
    derandomize="AGENTSUP_TEST_SAME_EXAMPLES" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")

# A shell without job control starts background jobs with these ignored, and so would we our hosts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


LOOPS = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
# uvloop is asyncio's other half: one of CI's two runs has the one, the other the other.
CHOSEN = os.environ.get("AGENTSUP_TEST_LOOPS", "asyncio,trio").split(",")


@pytest.fixture(params=[pytest.param(LOOPS[name], id=name) for name in CHOSEN])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def wait_until(condition: Callable[[], object], timeout: float = 60.0) -> None:
    """Wait for something that the kernel or another process does."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {condition}"
        time.sleep(0.005)


@pytest.fixture
def until() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    """As ``until``, while the event loop goes on."""

    async def wait(condition: Callable[[], object], timeout: float = 60.0) -> None:
        with anyio.fail_after(timeout):
            while not condition():
                await anyio.sleep(0.005)

    return wait


@pytest.fixture
def patience() -> tuple[float, ...]:
    """Seconds for a program that is to get somewhere first; the next where those were too few."""
    return (0.3, 3.0, 30.0)


_numbers = itertools.count()


class Marker(str):
    """A number of seconds that nobody else sleeps for: ``sleep {marker}`` can be found again."""

    def pids(self) -> list[int]:
        """Every process on the machine that has it in its arguments; zombies have none."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if self.encode() in file.read():
                        found.append(int(name))
            except OSError:
                pass  # it has just ended
        return found


@pytest.fixture
def marker() -> Marker:
    return Marker(f"9{os.getpid()}{next(_numbers):04}")


def living_descendants() -> list[psutil.Process]:
    """Orphans come to this process, as to init, while leaks are looked for; zombies do no harm."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """No test has the keeper of another, and all that ends by itself has the time for it.

    After that, the plugin's leak detector looks (``agentsup_leaks``).
    """
    lifeline.shut_down()
    yield
    lifeline.shut_down()
    try:
        wait_until(lambda: not living_descendants(), 30.0)
    except AssertionError:
        pass  # the detector names them


@pytest.fixture
def python_file(tmp_path: Path) -> Callable[[str], str]:
    """Write a Python program and return its path."""

    def write(source: str) -> str:
        path = tmp_path / f"program{len(list(tmp_path.iterdir()))}.py"
        path.write_text(source)
        return str(path)

    return write
