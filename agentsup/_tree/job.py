"""Commands in the background, whose output is read in pieces over any number of turns."""

from __future__ import annotations

import codecs
import errno
import functools
import time
from typing import TYPE_CHECKING

import anyio

from .._calls.spool import Spool
from .._errors import SpawnError
from .._rules.secrets import beginning_at_end, mask
from .._shielded import wait_through
from .._values.number import seconds, whole
from .._values.output import decode_after_cut
from .._values.result import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._calls.call import Call
    from .._values.result import Result

#: Bytes of output that can be asked for.
KEEP_LEAST = 64 * 1024
_BLOCK = 64 * 1024
#: How many that have ended are kept.
_ENDED_MOST = 64


class Job:
    """A command in the background, as :meth:`agentsup.Supervisor.background` returns it.

    Its standard output and error are one stream, in true order. The last of it is on disk.
    """

    def __init__(self, id: str, call: Call, keep: int) -> None:
        #: Names it among the jobs of its supervisor, also when it has ended.
        self.id = id
        self.call = call
        self.over = anyio.Event()
        self._started = anyio.Event()
        self._started_at = time.monotonic()
        self._last_output: float | None = None
        self._spool = Spool(keep)
        self._next = 0  # what has been read is before this place
        #: How far a secret reaches beyond any byte of it.
        self._reach = max(map(len, call.spec.secrets), default=1) - 1
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __repr__(self) -> str:
        return f"<Job {self.id}: {self.name}: {self.state}>"

    @property
    def name(self) -> str:
        return self.call.spec.name

    @property
    def running(self) -> bool:
        return not self.over.is_set()

    @property
    def pid(self) -> int | None:
        """Its main process; None once that has ended."""
        return self.call.pid if self.running else None

    @property
    def state(self) -> str:
        """``"running"``, or how it has ended, in a few words."""
        if self.running:
            return "running"
        return str(self.call.error) if self.call.error else self._result.reason

    @functools.cached_property
    def _result(self) -> Result:
        """When it is over."""
        return self.call.result()

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started_at

    @property
    def silence(self) -> float | None:
        """Seconds since it has printed anything; None if it never has."""
        return None if self._last_output is None else time.monotonic() - self._last_output

    async def begin(self, host: Callable[[Call, anyio.Event], Awaitable[object]]) -> None:
        """Have ``host`` carry it on, and wait until it runs; if it does not, nothing is left."""
        self.call.on_change = self._on_change
        await host(self.call, self.over)
        for reader in self.call.readers:
            reader.sink = self.take
        try:
            await self._started.wait()
            if self.call.error is not None:
                raise self.call.error
        except BaseException:
            self.call.stop(Outcome.STOPPED, within=0.0)
            await wait_through(self.over)
            raise

    def _on_change(self) -> None:
        if self.call.pid is not None or self.call.finished:
            self._started.set()

    # --- its output ---------------------------------------------------------------------------

    def take(self, chunk: memoryview) -> None:
        """It has printed this."""
        self._last_output = time.monotonic()
        self._spool.write(chunk)

    @property
    def unread(self) -> int:
        """Bytes that :meth:`read_new` has not come to."""
        return self._spool.end - self._next

    def read_new(self, max_bytes: int = _BLOCK) -> str:
        """What it has printed since the last time that this was asked, and nothing of before.

        UTF-8, with U+FFFD for what is not. What is not on disk any more is missing, and a line in
        its place says how much that is.

        :param max_bytes: the most to read of it; the rest is there the next time.
        """
        most = whole("max_bytes", max_bytes, "bytes", least=1) or _BLOCK
        text = ""
        if lost := max(self._spool.start - self._next, 0):
            text = self._decoder.decode(b"", final=True) + f"\n[… {lost} bytes lost …]\n"
            self._next += lost
        place = min(self._next + most, self._certain_end())
        data = self._read(self._next, place)
        self._next = place
        at_end = not self.running and not self.unread
        return text + self._decoder.decode(data, final=at_end)

    def _certain_end(self) -> int:
        """What may be the beginning of a secret waits for what comes after it."""
        end, secrets = self._spool.end, self.call.spec.secrets
        if secrets and self.running:
            end -= beginning_at_end(self._spool.read(end - self._reach, end), secrets)
        return end

    def _read(self, start: int, end: int) -> bytes:
        """Without the secrets in it. Those at its edges are known by what is around it."""
        first = max(start - self._reach, self._spool.start)
        data = self._spool.read(first, end + self._reach)
        if secrets := self.call.spec.secrets:
            at_end = not self.running and first + len(data) == self._spool.end
            data = mask(data, secrets, begins=first == 0, ends=at_end)
        return data[start - first : end - first]

    def tail(self, lines: int = 10, max_bytes: int = _BLOCK) -> str:
        """The last so many lines that it has printed, whether they were read or not.

        :param max_bytes: the most to read of it.
        """
        count = whole("lines", lines, "lines", least=1) or 1
        most = whole("max_bytes", max_bytes, "bytes", least=1) or _BLOCK
        end = self._spool.end
        data = self._read(max(end - most, self._spool.start), end)
        return decode_after_cut(b"".join(data.splitlines(keepends=True)[-count:]))

    # --- its end ------------------------------------------------------------------------------

    async def wait(self, timeout: float | None = None) -> Result | None:
        """Wait for its end; what came of it, or None if that was not within so many seconds.

        :raises KeeperLost: the keeper died; what it had started was killed.
        """
        with anyio.move_on_after(seconds("timeout", timeout)):
            await self.over.wait()
        if self.running:
            return None
        if self.call.error is not None:
            raise self.call.error
        return self._result

    def stop_soon(self) -> None:
        """Begin to end it by its escalation. One that has ended is left as it is."""
        if self.running:
            self.call.stop(Outcome.STOPPED)

    async def stop(self) -> Result:
        """End it by its escalation, and wait until nothing of it is left."""
        self.stop_soon()
        result = await self.wait()
        assert result
        return result

    def close(self) -> None:
        """Let go of its output."""
        self._spool.close()


class Jobs:
    """Those of one supervisor: so many that run, and the last ones that have ended."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made = 0
        self.by_id: dict[str, Job] = {}

    def check(self) -> None:
        """SpawnError if there is no room for one more."""
        if sum(job.running for job in self.by_id.values()) >= self._most:
            raise SpawnError(errno.EAGAIN, f"background: {self._most} jobs run (max_jobs)")

    def add(self, call: Call, keep: int) -> Job:
        self._made += 1
        job = Job(f"job-{self._made}", call, keep)
        self.by_id[job.id] = job
        ended = [job for job in self.by_id.values() if not job.running]
        for old in ended[: max(0, len(ended) - _ENDED_MOST)]:
            self.by_id.pop(old.id).close()
        return job

    def remove(self, job: Job) -> None:
        self.by_id.pop(job.id, None)
        job.close()

    def close(self) -> None:
        """Their output is gone with their supervisor."""
        for job in self.by_id.values():
            job.close()
