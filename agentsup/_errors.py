"""Everything that agentsup raises by itself."""

from __future__ import annotations

import errno as errnos
import os
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from ._values.result import Result
    from .checkpoint.history import LedgerStep


class AgentsupError(Exception):
    """Base of all errors of this package."""


class SpawnError(AgentsupError, OSError):
    """A program could not be started.

    It is also the matching subclass of :exc:`OSError`, so ``except FileNotFoundError`` works.
    """

    def __new__(cls, *args: object) -> Self:
        kind = _SPAWN_ERRORS.get(args[0], cls) if args else cls
        return super().__new__(cast("type[Self]", kind), *args)

    def __reduce__(self) -> tuple[object, ...]:
        return SpawnError, (self.errno, self.strerror, self.filename), self.__dict__


class _NotFound(SpawnError, FileNotFoundError):
    __doc__ = SpawnError.__doc__


class _Forbidden(SpawnError, PermissionError):
    __doc__ = SpawnError.__doc__


class _NotADirectory(SpawnError, NotADirectoryError):
    __doc__ = SpawnError.__doc__


class _IsADirectory(SpawnError, IsADirectoryError):
    __doc__ = SpawnError.__doc__


class _Blocking(SpawnError, BlockingIOError):
    __doc__ = SpawnError.__doc__


_SPAWN_ERRORS: dict[object, type[SpawnError]] = {
    errnos.ENOENT: _NotFound,
    errnos.EACCES: _Forbidden,
    errnos.EPERM: _Forbidden,
    errnos.ENOTDIR: _NotADirectory,
    errnos.EISDIR: _IsADirectory,
    errnos.EAGAIN: _Blocking,
}
_KINDS: list[type[SpawnError]] = [SpawnError, *_SPAWN_ERRORS.values()]
for _kind in _KINDS:
    _kind.__name__ = _kind.__qualname__ = "SpawnError"


class ToolFailed(AgentsupError):
    """A tool did not exit with status 0. :attr:`result` says what happened."""

    def __init__(self, result: Result) -> None:
        super().__init__(result)
        self.result = result

    def __str__(self) -> str:
        text = f"{self.result.name}: {self.result.reason}"
        return _with_output(text, self.result.stderr.text or self.result.stdout.text)


class KeeperLost(AgentsupError):
    """The keeper died during the call. What it had started was killed.

    :attr:`partial` is what the call had come to, or None.
    """

    partial: Result | None = None


class NotReady(AgentsupError):
    """A service has not become ready. :attr:`output` is the last that it had printed."""

    def __init__(self, service: str, reason: str, output: str = "") -> None:
        super().__init__(service, reason, output)
        self.service = service
        self.reason = reason
        self.output = output

    def __str__(self) -> str:
        return _with_output(f"{self.service}: {self.reason}", self.output)


class RestartLimitReached(AgentsupError):
    """A service has failed more often than its supervisor allows, which has stopped them all.

    :attr:`service` is its name, :attr:`reason` how it ended the last time, and :attr:`output` the
    last that it had printed.
    """

    def __init__(self, service: str, reason: str, limit: str, output: str = "") -> None:
        super().__init__(service, reason, limit, output)
        self.service = service
        self.reason = reason
        self.limit = limit
        self.output = output

    def __str__(self) -> str:
        return _with_output(f"{self.service}: {self.limit}; {self.reason}", self.output)


class SupervisorClosed(AgentsupError):
    """The supervisor is closed or closing, or was never entered, and starts nothing."""


class UnsupportedPlatform(AgentsupError):
    """This system lacks something that is needed; the message says what."""


def _with_output(text: str, output: str) -> str:
    last = output.strip()
    return f"{text}\n{last[-1000:]}" if last else text


def last_partial(exception: BaseException) -> Result | None:
    """What a call had come to when ``exception`` (a cancellation, an error) ended it, or None.

    Looked for in the exception itself, in what it was raised from or while handling, and in the
    members of an exception group, nearest first.
    """
    line: list[BaseException | None] = [exception]
    seen: set[int] = set()
    for found in line:  # which grows
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        partial: Result | None = getattr(found, "_agentsup_partial", None)
        if partial is None and isinstance(found, KeeperLost):
            partial = found.partial
        if partial is not None:
            return partial
        line += [found.__cause__, found.__context__]
        if isinstance(found, BaseExceptionGroup):
            line += cast("BaseExceptionGroup[BaseException]", found).exceptions
    return None


def attach_partial(exception: BaseException, partial: Result) -> None:
    """Leave ``partial`` for :func:`last_partial`, and a note for whoever reads the traceback."""
    exception._agentsup_partial = partial  # type: ignore[attr-defined]  # any exception has a dict
    exception.add_note(f"agentsup: {partial.name}: {partial.reason}")


def os_error(error: OSError, message: str) -> SpawnError:
    """``error`` as a SpawnError."""
    return SpawnError(error.errno or 0, f"{message}: {spawn_text(error.errno or 0)}")


def spawn_text(number: int) -> str:
    """Why no process could be started: fork(2) says less of EAGAIN than it knows."""
    if number == errnos.EAGAIN:
        return "no more processes (see RLIMIT_NPROC, pids.max)"
    return os.strerror(number)


class CheckpointCorrupt(AgentsupError):
    """No generation of a checkpoint can be used; the message says of each why. None is removed."""


class CheckpointInUse(AgentsupError):
    """Somebody else has the checkpoint open for writing."""


class FormatTooNew(AgentsupError):
    """A file was written by a newer version of this package. It is left as it is."""


class DiskFull(AgentsupError, OSError):
    """There is no room left, and nothing more that could be dropped. What was saved is intact."""


class LedgerCorrupt(AgentsupError):
    """The file of a ledger is damaged; the message names it. It is left as it is."""


class StepInterrupted(AgentsupError):
    """A step was interrupted before, and its policy is not to go on. :attr:`step` says when."""

    def __init__(self, step: LedgerStep) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return (
            f"step {self.step.name!r} (number {self.step.id}) was interrupted in attempt "
            f"{self.step.attempts}; 'agentsup ledger retry FILE {self.step.id}' lets it run again"
        )


class StepLost(AgentsupError):
    """Another agent has taken the step over, for this one's lease had run out."""


class ConfigError(AgentsupError):
    """Something is wrong in a file of services: :attr:`reason`, of :attr:`key`, in :attr:`line`.

    :attr:`line` is None, and :attr:`key` empty, where it is the :attr:`file` as a whole.
    """

    def __init__(self, file: str, line: int | None, key: str, reason: str) -> None:
        super().__init__(file, line, key, reason)
        self.file = file
        self.line = line
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.reason}" if self.key else f"{place}: {self.reason}"


class ConfigErrors(ConfigError):
    """All that is wrong in a file of services: :attr:`errors`, each in a line of the message.

    The other attributes are those of the first.
    """

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        first = errors[0]
        super().__init__(first.file, first.line, first.key, first.reason)
        self.args = (tuple(errors),)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))
