"""What connects a heartbeat with its call: a sign of progress becomes a beat of the rule.

A call that has no heartbeat does not import this.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import sys
import time
from typing import TYPE_CHECKING

from .._errors import UnsupportedPlatform
from .._values.heartbeat import CallableHeartbeat, FileHeartbeat, NotifyHeartbeat
from .._values.result import Outcome
from .spec import with_variables

if TYPE_CHECKING:
    from .._linux.file_watch import FileWatch
    from .._linux.notify_socket import Datagram
    from .._rules.notify import Message
    from .._values.heartbeat import Heartbeat
    from .call import Call


class Beats:
    """What a call has of its heartbeat, from its preparation to its close."""

    def look(self, now: float) -> None:
        """See, before the rule hears of the time, what there is that nobody has told."""

    def close(self) -> None:
        pass


def connect(call: Call, heartbeat: Heartbeat) -> Beats:
    """Let ``call``, which is being prepared, have its heartbeat.

    OSError, UnsupportedPlatform: it cannot be had.
    """
    if isinstance(heartbeat, NotifyHeartbeat):
        return NotifyBeats(call, heartbeat.interval)
    if isinstance(heartbeat, FileHeartbeat):
        path = os.path.join(call.spec.cwd, os.fsencode(heartbeat.path))
        return FileBeats(call, os.path.abspath(path))
    if isinstance(heartbeat, CallableHeartbeat):
        return AskedBeats(call, heartbeat)
    call.output_beats = True
    return Beats()


def watchdog_variables(interval: float) -> dict[bytes, bytes | None]:
    """What tells a program how often to send WATCHDOG=1: sd_watchdog_enabled(3).

    WATCHDOG_PID, which the host may have of its own supervisor, would restrict it to one process.
    """
    microseconds = min(max(1, interval * 1e6), 2.0**62)
    return {b"WATCHDOG_USEC": b"%d" % int(microseconds), b"WATCHDOG_PID": None}


class NotifyBeats(Beats):
    """A socket of the call's own; only its own processes are listened to."""

    def __init__(self, call: Call, interval: float) -> None:
        if sys.platform != "linux":
            raise UnsupportedPlatform(f"heartbeat: NotifyHeartbeat takes Linux, not {sys.platform}")
        from .._linux.notify_socket import NotifySocket

        self._call = call
        self._socket = NotifySocket()
        variables = {b"NOTIFY_SOCKET": os.fsencode(self._socket.path)}
        call.spec.env = with_variables(call.spec.env, {**variables, **watchdog_variables(interval)})
        call.watch(self._socket.fd, self._on_readable)

    def _on_readable(self) -> None:
        from .._linux.notify_socket import AT_ONCE

        for _ in range(AT_ONCE):
            datagram = self._socket.receive()
            if datagram is None:
                break
            with datagram:
                self._on_datagram(datagram)

    def _on_datagram(self, datagram: Datagram) -> None:
        from .._rules.notify import parse

        call = self._call
        if datagram.pid == call.pid or call.owns(datagram.pid):
            self._heed(parse(datagram.data))

    def _heed(self, message: Message) -> None:
        if message.watchdog_usec is not None:
            self._call.expect_beats(message.watchdog_usec / 1e6 or None)  # 0: no more of them
        if message.watchdog == "ping":
            self._call.beat()
        elif message.watchdog == "trigger":
            self._call.stop(Outcome.HEARTBEAT_LOST)

    def close(self) -> None:
        self._call.unwatch(self._socket.fd)
        self._socket.close()


class FileBeats(Beats):
    """Changes of a file's time count, not the time alone: a clock may be wrong, or be set.

    inotify tells of them at once.  Of some it does not know (``_linux/file_watch.py``), and a user
    may have only so many watches.  So there is one look more when the time is up.
    """

    def __init__(self, call: Call, path: bytes) -> None:
        self._call = call
        self._path = path
        self._looked = time.monotonic()
        self._watch: FileWatch | None = None
        if sys.platform == "linux":
            from .._linux.file_watch import FileWatch

            with contextlib.suppress(OSError):
                self._watch = FileWatch(path)
                call.watch(self._watch.fd, self._on_change)
        self._seen = self._stamp()

    def _on_change(self) -> None:
        assert self._watch
        if self._watch.changed():
            self._compare()

    def look(self, now: float) -> None:
        due = self._call.rule.deadline
        if due is not None and now >= due:
            self._compare()

    def _compare(self) -> None:
        now, stamp = time.monotonic(), self._stamp()
        if stamp is not None and stamp != self._seen:
            age = time.time() - stamp[1] / 1e9
            # It has changed since the last look, whatever its time says.
            self._call.rule.beat(max(self._looked, min(now - age, now)))
        self._looked, self._seen = now, stamp

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def close(self) -> None:
        if self._watch:
            self._call.unwatch(self._watch.fd)
            self._watch.close()


class AskedBeats(Beats):
    """A function is asked from time to time whether there is progress."""

    def __init__(self, call: Call, heartbeat: CallableHeartbeat) -> None:
        self._call = call
        self._function = heartbeat.function
        self._max_age = heartbeat.max_age
        self._interval = heartbeat.interval or heartbeat.max_age / 3
        self._next = math.inf  # when it is to be asked, if it is not being asked
        self._failure: str | None = None
        call.ask = self.ask

    def look(self, now: float) -> None:
        if now >= self._next:  # this process was busy: it is asked before it is blamed
            self._call.rule.beat(now + self._interval - self._max_age)

    async def ask(self) -> None:
        """Until the call is stopped, or this is cancelled."""
        import anyio

        try:
            while self._call.rule.outcome is None:
                self._next = math.inf
                await self._ask_once()
                self._next = time.monotonic() + self._interval
                await anyio.sleep(self._interval)
        finally:
            if self._failure and self._call.rule.outcome is Outcome.HEARTBEAT_LOST:
                self._call.note(f"heartbeat: {self._failure}")

    async def _ask_once(self) -> None:
        try:
            answer = self._function()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                self._call.beat()
            self._failure = None
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"
