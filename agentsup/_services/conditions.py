"""What a service can be waited for before it is ready, each by itself.

A condition may add to what is started (``prepare``), listens to the call (``attach``), is waited
for (``wait``), and lets go of what it holds (``close``): as soon as it is met, for a service runs
for long.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import anyio
from attrs import evolve

from .._calls.capture import Lines
from .._errors import os_error
from .._values.readiness import FileExists, NewlineOn, Notified, OutputMatches, RunningFor
from . import probing
from .flag import Flag

if sys.platform == "linux":
    from .._linux.file_watch import FileWatch

if TYPE_CHECKING:
    import re

    from .._calls.call import Call
    from .._calls.spec import Spec
    from .._values.probe import Probe
    from .._values.readiness import Ready
    from .daemon import MainProcess
    from .outcome import Failure
    from .probing import Run

_FIRST_PROBE_AFTER = 0.01  # seconds; nothing tells when somebody else begins to listen
_PROBE_AT_LEAST_EVERY = 0.25
_PROBE_TIMEOUT = 5.0


class Condition:
    #: Why it is not met yet, where that is known.
    lacking: str | None = None

    @property
    def met(self) -> bool:
        """It is, as far as is known without waiting."""
        return False

    def prepare(self, spec: Spec) -> Spec:
        return spec

    def attach(self, call: Call, main: MainProcess) -> None:
        pass

    async def wait(self) -> Failure | None:
        """Until it is met, or cannot be met any more."""
        raise NotImplementedError

    def close(self) -> None:
        """May be repeated."""


class AtItsEnd(Condition):
    """What a oneshot is there for is done when it has ended."""

    async def wait(self) -> Failure | None:
        await anyio.sleep_forever()
        return None


class AfterTime(Condition):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def wait(self) -> Failure | None:
        await anyio.sleep(self._seconds)
        return None


class OnProbe(Condition):
    """A probe that passes."""

    def __init__(self, probe: Probe, run: Run) -> None:
        self._probe = probe
        self._run = run

    async def wait(self) -> Failure | None:
        pause = _FIRST_PROBE_AFTER
        while reason := await probing.check(self._probe, _PROBE_TIMEOUT, self._run):
            self.lacking = reason
            await anyio.sleep(pause)
            pause = min(2 * pause, _PROBE_AT_LEAST_EVERY)
        return None


class _Heard(Condition):
    """Something that is heard of while the call is driven."""

    def __init__(self, lacking: str) -> None:
        self.lacking = lacking
        self._heard = Flag()

    def hear(self) -> None:
        self._heard.set()
        self.close()

    def look(self) -> None:
        """See what there is already: the call may end before it tells of it."""

    @property
    def met(self) -> bool:
        self.look()
        return self._heard.is_set()

    async def wait(self) -> Failure | None:
        await self._heard.wait()
        return None


class OnNotice(_Heard):
    """READY=1; ``hear`` is called by whoever reads it."""

    def __init__(self) -> None:
        super().__init__("it has not said READY=1")


class OnOutput(_Heard):
    """A line that matches."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        super().__init__(f"no line of its output matches {pattern.pattern!r}")
        self._pattern = pattern
        self._call: Call | None = None

    def attach(self, call: Call, main: MainProcess) -> None:
        self._call = call
        for reader in call.readers:
            lines = Lines("", self._on_line)
            reader.sink = lambda chunk, lines=lines: lines.feed(bytes(chunk))

    def _on_line(self, _: str, line: str) -> None:
        if self._pattern.search(line):
            self.hear()

    def close(self) -> None:
        for reader in self._call.readers if self._call else ():
            reader.sink = None


class OnNewline(_Heard):
    """A newline on a pipe of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(f"it has written no newline to descriptor {number}")
        self._number = number
        self._fds: list[int] = []
        self._call: Call | None = None

    def prepare(self, spec: Spec) -> Spec:
        self._fds += os.pipe()
        os.set_blocking(self._fds[0], False)
        return evolve(spec, passed=(*spec.passed, (self._fds[1], self._number)))

    def attach(self, call: Call, main: MainProcess) -> None:
        os.close(self._fds.pop())
        self._call = call
        call.watch(self._fds[0], self.look)

    def look(self) -> None:
        try:
            data = os.read(self._fds[0], 4096) if self._fds else b""
        except BlockingIOError:
            return
        if b"\n" in data:
            self.hear()
        elif not data:
            self.close()

    def close(self) -> None:
        if self._call and self._fds:
            self._call.unwatch(self._fds[0])
        while self._fds:
            os.close(self._fds.pop())


class OnFile(_Heard):
    """A file that is there, and is not the one that was there before."""

    def __init__(self, path: str) -> None:
        super().__init__(f"there is no new {path}")
        self._path = os.fsencode(path)
        self._before: tuple[int, ...] | None = None
        self._watch: FileWatch | None = None
        self._call: Call | None = None

    def prepare(self, spec: Spec) -> Spec:
        self._path = os.path.join(spec.cwd, self._path)
        self._before = _identity(self._path)
        try:
            self._watch = FileWatch(self._path)
        except OSError as error:
            raise os_error(error, "Service.ready: its directory cannot be watched") from None
        return spec

    def attach(self, call: Call, main: MainProcess) -> None:
        assert self._watch
        self._call = call
        call.watch(self._watch.fd, self._on_change)

    def _on_change(self) -> None:
        if self._watch and self._watch.changed():
            self.look()

    def look(self) -> None:
        if _identity(self._path) not in (None, self._before):
            self.hear()

    def close(self) -> None:
        watch, self._watch = self._watch, None
        if watch:
            if self._call:
                self._call.unwatch(watch.fd)
            watch.close()


def _identity(path: bytes) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def on_ready(ready: Ready, run: Run) -> Condition:
    """What carries ``ready`` out, a :class:`Notified` excepted."""
    assert not isinstance(ready, Notified)
    if isinstance(ready, RunningFor):
        return AfterTime(ready.seconds)
    if isinstance(ready, FileExists):
        return OnFile(ready.path)
    if isinstance(ready, OutputMatches):
        return OnOutput(ready.pattern)
    if isinstance(ready, NewlineOn):
        return OnNewline(ready.fd)
    return OnProbe(ready, run)
