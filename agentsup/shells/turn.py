"""One command of a shell: what it has printed, and what its rule makes of that."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import anyio

from .._calls.capture import Capture, UntilItRaises
from .._values.output import Output
from .._values.result import Found, Leftover, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Protocol

    from .._linux.members import Member
    from .._rules.call import CallRule
    from .._values.output import OutputPolicy

    class Filter(Protocol):
        """Makes text of what goes to a terminal."""

        def feed(self, data: bytes) -> bytes: ...
        def rest(self) -> bytes:
            """What is to come if nothing else does."""
            ...

        def resize(self, columns: int, lines: int) -> None: ...


#: Of the processes that had to be killed.
_ENTRIES_MAX = 64


class Turn:
    """From the command's first byte of output to its status."""

    def __init__(
        self,
        number: int,
        rule: CallRule,
        output: OutputPolicy,
        before: Collection[Member],
        filter: Filter | None = None,
    ) -> None:
        #: Of the line that says its status.
        self.number = number
        self.rule = rule
        rule.spawned()
        rule.drained(rule.started_at)  # its output is read when its status is
        #: Who was there when it began, and is none of its business.
        self.before = before
        self.status: int | None = None
        #: The shell is not that of the last turn.
        self.new_shell = False
        #: The shell is gone.
        self.shell_ended = False
        self.killed: dict[Member, tuple[str, ...]] = {}
        #: Who belongs to another user.
        self.spared: set[Member] = set()
        #: What a line callback has raised, which ends it.
        self.failure: BaseException | None = None
        self._news = anyio.Event()
        self._more: anyio.Event | None = None  # where somebody waits for more output
        self._total = 0
        self._filter = filter
        streams = ("stdout",) if output.merge_stderr or filter else ("stdout", "stderr")
        on_line = UntilItRaises(output.on_line) if output.on_line else None
        self._captures = {name: Capture(name, output, on_line) for name in streams}
        for capture in self._captures.values():
            capture.open()

    def feed(self, stream: str, chunk: bytes | memoryview) -> None:
        """It has printed this."""
        self._total += len(chunk)
        text = self._filter.feed(bytes(chunk)) if self._filter else chunk
        capture = self._captures.get(stream, self._captures["stdout"])
        self._or_fail(lambda: capture.feed(memoryview(text)))
        self.rule.output(time.monotonic(), self._total)
        if self.rule.outcome is not None:
            self._news.set()
        self._tell_more()

    def ended(self, status: int) -> None:
        """The shell has said so."""
        self.status = status
        self._news.set()

    def lose_shell(self) -> None:
        self.shell_ended = True
        self._news.set()

    @property
    def over(self) -> bool:
        return self.shell_ended or self.status is not None

    def note_killed(self, member: Member, argv: tuple[str, ...]) -> None:
        self.killed.setdefault(member, argv)

    def leftovers(self) -> tuple[Leftover, ...]:
        return tuple(
            Leftover(member.pid, argv, Found.DESCENDANT, killed=member not in self.spared)
            for member, argv in itertools.islice(self.killed.items(), _ENTRIES_MAX)
        )

    def stop(self, outcome: Outcome) -> None:
        self.rule.stop(time.monotonic(), outcome)
        self._news.set()

    def _or_fail(self, work: Callable[[], None]) -> None:
        """A line callback may raise: to the caller, and not here, where all output is read."""
        try:
            work()
        except BaseException as error:
            self.failure = self.failure or error
            self.stop(Outcome.STOPPED)

    async def wait(self, until: float | None) -> None:
        """Until there is news, or that time."""
        with anyio.CancelScope() as scope:
            if until is not None:
                scope.deadline = anyio.current_time() + max(0.0, until - time.monotonic())
            await self._news.wait()
        self._news = anyio.Event()

    async def more(self) -> None:
        """Until it has printed more, or is closed."""
        self._more = self._more or anyio.Event()
        await self._more.wait()

    def _tell_more(self) -> None:
        if self._more:
            self._more.set()
            self._more = None

    def output(self, stream: str) -> Output:
        capture = self._captures.get(stream)
        return capture.output() if capture else Output()

    @property
    def text(self) -> str:
        """What it has printed so far, as its result would have it."""
        text = "".join(capture.output().text for capture in self._captures.values())
        return text + (self._filter.rest().decode("utf-8", "replace") if self._filter else "")

    def resize(self, columns: int, lines: int) -> None:
        if self._filter:
            self._filter.resize(columns, lines)

    def close(self) -> None:
        """Nothing more comes. May be repeated."""
        if self._filter:
            rest, self._filter = self._filter.rest(), None
            self._or_fail(lambda: self._captures["stdout"].feed(memoryview(rest)))
        for capture in self._captures.values():
            self._or_fail(capture.close)
        self._tell_more()
