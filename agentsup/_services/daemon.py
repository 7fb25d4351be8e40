"""Which process of a service is its main one, if it is not the one that was started.

A forking service's PID file says so, or the service itself (``MAINPID=``).  What either says is
true only of a process of the service's own tree, which the keeper knows.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from typing import TYPE_CHECKING

import anyio

from .._errors import os_error
from .._levels.hold import News
from .._values.restart import Ending
from .._values.result import Outcome
from .conditions import Condition
from .outcome import Failure

if sys.platform == "linux":
    from .._linux.file_watch import FileWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._calls.call import Call
    from .._values.service import Service
    from .flag import Flag


class MainProcess:
    """Of one call.

    :param on_end: told when one that took the place of the first has ended, and none its own.
    """

    def __init__(self, call: Call, on_end: Callable[[], None]) -> None:
        self._call = call
        self._on_end = on_end
        self._asked: deque[Callable[[bool], None]] = deque()  # who waits for an answer
        self._ended = False
        call.on_followed = self._on_followed

    @property
    def pid(self) -> int | None:
        return self._call.followed[0] or self._call.pid

    @property
    def speaker(self) -> int | None:
        """Whose messages are its own.

        Nobody's once the first one has ended, as its number may be another's; but what it has
        said before that may have to wait until a question is answered.
        """
        call = self._call
        known = call.followed[0] or call.rule.ended_at is None or self._asked
        return self.pid if known else None

    async def take(self, pid: int) -> bool:
        """Let this process be the main one, if it is of the tree."""
        answers: list[bool] = []
        answered = anyio.Event()

        def then(taken: bool) -> None:
            answers.append(taken)
            answered.set()

        self.ask(pid, then)
        await answered.wait()
        return answers[0]

    def ask(self, pid: int, then: Callable[[bool], None]) -> None:
        """As :meth:`take`; ``then`` is told whether it is. No end before that is that of all."""
        self._asked.append(then)
        self._call.rule.adopt = True  # it may outlive the one that was started
        self._call.follow(pid)

    def _on_followed(self, news: News) -> None:
        if news is News.ENDED:
            self._ended = True
        else:
            taken = news is News.FOLLOWED
            self._ended = self._ended and not taken
            self._asked[0](taken)
            self._call.before_end()  # what had to wait for the answer may name another one
            self._asked.popleft()
        if not self._asked:
            self._settle()

    def _settle(self) -> None:
        """None is going to take the place of the present one. Has that ended?"""
        call = self._call
        if self._ended:
            self._ended = False
            self._on_end()
        elif not call.followed[0]:
            call.rule.adopt = call.rule.terms.adopt
            if call.rule.ended_at is not None and not call.rule.adopt:
                call.stop(Outcome.STOPPED)


class OnDaemon(Condition):
    """The first process of a forking service has exited, and its daemon is known.

    :param adopted: set when it has, and has left something.
    """

    def __init__(self, service: Service, adopted: Flag) -> None:
        self.lacking = "its first process has not exited"
        self._service = service
        self._adopted = adopted
        self._pid_file: bytes | None = None

    def attach(self, call: Call, main: MainProcess) -> None:
        self._call, self._main = call, main
        if self._service.pid_file is not None:
            self._pid_file = os.path.join(call.spec.cwd, os.fsencode(self._service.pid_file))

    async def wait(self) -> Failure | None:
        await self._adopted.wait()
        first = self._call.result()
        if not self._service.policy.clean(Ending(first.exit_code, first.signal)):
            name = "exit-code" if first.signal is None else "signal"
            return Failure(f"its first process {first.reason}", name)
        if self._pid_file is not None:
            return await self._wait_for_file(self._pid_file)
        left = self._call.adopted()
        if len(left) == 1:
            await self._main.take(left[0].pid)
        return None

    async def _wait_for_file(self, path: bytes) -> Failure | None:
        """One that was there before names a process of the past: it is waited for its change."""
        try:
            watch = FileWatch(path)
        except OSError as error:
            text = os_error(error, "Service.pid_file: its directory cannot be watched").strerror
            return Failure(str(text), "resources")
        news = anyio.Event()

        def on_change() -> None:
            if watch.changed():
                news.set()

        self._call.watch(watch.fd, on_change)
        try:
            while (pid := _read(path)) is None or not await self._main.take(pid):
                named = "no process" if pid is None else f"process {pid}, which is not one of its"
                self.lacking = f"{os.fsdecode(path)} names {named}"
                await news.wait()
                news = anyio.Event()
        finally:
            self._call.unwatch(watch.fd)
            watch.close()
        return None

    async def find_next(self) -> bool:
        """The daemon has ended: whether the PID file names another one, which is now taken."""
        pid = None if self._pid_file is None else _read(self._pid_file)
        return pid is not None and pid != self._main.pid and await self._main.take(pid)


def _read(path: bytes) -> int | None:
    """The number in a PID file, if there is one."""
    try:
        with open(path, "rb") as file:
            text = file.read(64).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and len(text) < 10 else None
