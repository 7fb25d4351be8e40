"""Supervisors whose programs are scripts: for tests of agents, without a process.

Only what holds a tree is another one (``scripted.py``).  Calls and their results, time limits,
escalation, output, services and restarts are the real thing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Literal, TypeAlias

from .. import Supervisor, SyncSupervisor
from .._levels.hold import text
from .._values.command import Command, Word, encode_argv
from .._values.number import whole
from .script import NotScripted, make_script
from .scripted import ScriptedHold

if TYPE_CHECKING:
    from typing import Self, Unpack

    from .._calls.call import Call
    from .._errors import AgentsupError
    from .._services.family import FamilyOptions
    from .._values.result import Containment, Result
    from .script import Script, ScriptOptions

#: What :meth:`Fake.on` takes: see there.
Pattern: TypeAlias = (
    "str | Command | Sequence[Word | EllipsisType] | Callable[[tuple[str, ...]], bool]"
)


class FakeCall:
    """A command that was started, as far as anybody could tell."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __repr__(self) -> str:
        return f"<FakeCall {list(self.argv)}>"

    @property
    def argv(self) -> tuple[str, ...]:
        """Its words."""
        return tuple(map(text, self._call.spec.argv))

    @property
    def name(self) -> str:
        """As it was called; else that of the program."""
        return self._call.spec.name

    @property
    def cwd(self) -> str:
        """``"."`` where none was given."""
        return os.fsdecode(self._call.spec.cwd)

    @property
    def env(self) -> dict[str, str]:
        """All of it, the host's own included where it was not replaced."""
        pairs = os.fsdecode(self._call.spec.env).split("\0")
        return dict(pair.split("=", 1) for pair in pairs if pair)

    @property
    def stdin(self) -> bytes | None:
        """What it was given, where that was bytes."""
        given = self._call.spec.stdin
        return bytes(given) if isinstance(given, (bytes, bytearray)) else None

    @property
    def timeout(self) -> float | None:
        """Seconds, or None."""
        return self._call.spec.terms.timeout

    @property
    def idle_timeout(self) -> float | None:
        """Seconds, or None."""
        return self._call.spec.terms.idle_timeout

    @property
    def pid(self) -> int | None:
        """A number that no process has."""
        return self._call.pid

    @property
    def error(self) -> AgentsupError | None:
        """What it has ended with instead of a result."""
        return self._call.error

    @property
    def result(self) -> Result | None:
        """None while it runs."""
        over = self._call.result_ready and self._call.error is None
        return self._call.result() if over else None


class Answers:
    """What the commands of one pattern do, one after another."""

    def __init__(self, pattern: Pattern) -> None:
        self._matches, self._shown = _matcher(pattern)
        self._scripts: list[tuple[Script, int | None]] = []

    def __str__(self) -> str:
        return self._shown if self._scripts else f"{self._shown} (used up)"

    def then(
        self,
        script: Script | None = None,
        *,
        times: int | None = None,
        **fields: Unpack[ScriptOptions],
    ) -> Self:
        """What it does after that: a :class:`Script`, or its fields.

        :param times: how often: once by default if another one follows, else for ever.
        """
        whole("times", times, "calls", least=1)
        made = make_script(fields, script)
        if self._scripts and self._scripts[-1][1] is None:
            self._scripts[-1] = self._scripts[-1][0], 1
        self._scripts.append((made, times))
        return self

    def take(self, argv: tuple[str, ...]) -> Script | None:
        """The next one for this command, if there is one."""
        if not self._scripts or not self._matches(argv):
            return None
        script, times = self._scripts[0]
        if times == 1:
            self._scripts.pop(0)
        elif times is not None:
            self._scripts[0] = script, times - 1
        return script


def _matcher(pattern: Pattern) -> tuple[Callable[[tuple[str, ...]], bool], str]:
    """A predicate, and what it looks like in a message."""
    if isinstance(pattern, str):
        if not pattern:
            raise ValueError("command: '' is no program's name")
        return lambda argv: pattern in (argv[0], os.path.basename(argv[0])), f"{pattern} …"
    if callable(pattern):
        return pattern, getattr(pattern, "__name__", repr(pattern))
    words = list(pattern.argv if isinstance(pattern, Command) else pattern)
    if words[-1:] != [...]:
        exact = _argv(words)
        return lambda argv: argv == exact, repr(list(exact))
    start = _argv(words[:-1])
    return lambda argv: argv[: len(start)] == start, f"{[*start]} …"


def _argv(words: Sequence[Word | EllipsisType]) -> tuple[str, ...]:
    plain = [word for word in words if not isinstance(word, EllipsisType)]
    if len(plain) < len(words):
        raise ValueError("command: ... stands for all that follows, and so can only be the last")
    return tuple(map(text, encode_argv(plain)))


class Fake:
    """What is scripted, and what was asked for."""

    def __init__(self) -> None:
        #: What was started, in this order; hooks and probes that are commands, too.
        self.calls: list[FakeCall] = []
        self._answers: list[Answers] = []
        self._missed: list[NotScripted] = []
        self._lock = threading.Lock()

    def on(
        self,
        command: Pattern,
        script: Script | None = None,
        *,
        times: int | None = None,
        **fields: Unpack[ScriptOptions],
    ) -> Answers:
        """Have ``command`` do what a :class:`Script` says, which is given whole or by its fields.

        Of several that match, the last one that was added counts.

        :param command: all words of it, ``["git", "status"]``, or the first of them,
            ``["git", ...]``; a program whatever its arguments, ``"git"``; or a function that is
            given the words and says whether it is meant.
        :param times: how often; then those that were added before count again. For ever by default,
            or once if :meth:`~Answers.then` says what follows.
        """
        answers = Answers(command).then(script, times=times, **fields)
        self._answers.append(answers)
        return answers

    def _make_scripted(self, call: Call) -> ScriptedHold:
        return ScriptedHold(call, self._choose)

    def _choose(self, call: Call) -> Script:
        asked = FakeCall(call)
        with self._lock:
            for answers in reversed(self._answers):
                script = answers.take(asked.argv)
                if script is not None:
                    self.calls.append(asked)
                    return script
        known = ", ".join(map(str, self._answers)) or "nothing"
        error = NotScripted(f"{list(asked.argv)} is not scripted; what is: {known}")
        self._missed.append(error)
        raise error

    def _check_missed(self) -> None:
        """It is a mistake of the test, whatever the code under test has made of it."""
        if self._missed:
            raise self._missed[0]


class FakeSupervisor(Fake, Supervisor):
    """A :class:`Supervisor` that starts no process: ``async with FakeSupervisor() as sup:``.

    A command that is not scripted is an error, :exc:`NotScripted`, where it is run, and once more
    at the end of the block.
    """

    def __init__(
        self,
        *,
        max_concurrency: int | None = None,
        containment: Containment | Literal["auto"] = "auto",
        max_jobs: int | None = 64,
        workspace: str | os.PathLike[str] | None = None,
        **options: Unpack[FamilyOptions],
    ) -> None:
        Fake.__init__(self)
        Supervisor.__init__(
            self,
            max_concurrency=max_concurrency,
            containment=containment,
            max_jobs=max_jobs,
            workspace=workspace,
            **options,
        )
        self._make_hold = self._make_scripted

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        swallowed = await super().__aexit__(exc_type, exc, traceback)
        if exc is None:
            self._check_missed()
        return swallowed


class FakeSyncSupervisor(Fake, SyncSupervisor):
    """A :class:`SyncSupervisor` that starts no process, scripted as a :class:`FakeSupervisor`."""

    def __init__(
        self,
        *,
        max_concurrency: int | None = None,
        containment: Containment | Literal["auto"] = "auto",
        workspace: str | bytes | os.PathLike[str] | None = None,
    ) -> None:
        Fake.__init__(self)
        SyncSupervisor.__init__(
            self, max_concurrency=max_concurrency, containment=containment, workspace=workspace
        )
        self._make_hold = self._make_scripted

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(exc_type, exc, traceback)
        if exc is None:
            self._check_missed()
