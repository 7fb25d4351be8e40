"""Errors: what `except` catches, what they say, and what of them survives a copy."""

from __future__ import annotations

import asyncio
import copy
import errno
import pickle
import signal
from collections.abc import Callable

import anyio
import pytest
from attrs import evolve

import agentsup
from agentsup import (
    AgentsupError,
    Containment,
    KeeperLost,
    Outcome,
    Output,
    Result,
    SpawnError,
    SupervisorClosed,
    ToolFailed,
    UnsupportedPlatform,
    Usage,
    last_partial,
)
from agentsup._errors import attach_partial, os_error

RESULT = Result(
    argv=("tool",),
    name="tool",
    outcome=Outcome.SIGNALED,
    exit_code=None,
    signal=signal.SIGSEGV,
    stdout=Output(b"half", b"", 4),
    stderr=Output(),
    duration=1.0,
    queued=0.0,
    usage=Usage(),
    escalation=(),
    leftovers=(),
    leftover_count=0,
    containment=Containment.SUBREAPER,
    pid=7,
)

Duplicate = Callable[[BaseException], BaseException]


def pickled(error: BaseException) -> BaseException:
    return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]


def pickled_as_of_old(error: BaseException) -> BaseException:
    return pickle.loads(pickle.dumps(error, protocol=0))  # type: ignore[no-any-return]


COPIES: list[Duplicate] = [pickled, pickled_as_of_old, copy.copy, copy.deepcopy]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, FileNotFoundError),
        (errno.EACCES, PermissionError),
        (errno.EPERM, PermissionError),
        (errno.ENOTDIR, NotADirectoryError),
        (errno.EISDIR, IsADirectoryError),
        (errno.EAGAIN, BlockingIOError),
        (errno.ENOEXEC, OSError),
        (errno.E2BIG, OSError),
        (errno.EMFILE, OSError),
    ],
)
class TestSpawnError:
    def test_it_is_what_the_standard_library_would_raise(
        self, number: int, kind: type[OSError]
    ) -> None:
        error = SpawnError(number, "command: no", "/x/tool")
        assert isinstance(error, kind)
        assert isinstance(error, SpawnError)
        assert isinstance(error, AgentsupError)
        assert type(OSError(number, "no")) is kind, "the table is as Python has it"
        assert (error.errno, error.strerror, error.filename) == (number, "command: no", "/x/tool")
        assert type(error).__name__ == "SpawnError"

    def test_it_names_the_file_and_the_argument(self, number: int, kind: type[OSError]) -> None:
        assert str(SpawnError(number, "command: no", "/x")) == f"[Errno {number}] command: no: '/x'"
        assert str(SpawnError(number, "command: no")) == f"[Errno {number}] command: no"

    @pytest.mark.parametrize("duplicate", COPIES)
    def test_copies_are_the_same(
        self,
        number: int,
        kind: type[OSError],
        duplicate: Duplicate,
    ) -> None:
        error = SpawnError(number, "command: no", "/x/tool")
        attach_partial(error, RESULT)
        other = duplicate(error)
        assert type(other) is type(error)
        assert isinstance(other, kind)
        assert str(other) == str(error)
        assert last_partial(other) == RESULT
        assert other.__notes__ == error.__notes__


def test_an_os_error_is_told_with_what_it_hindered() -> None:
    error = os_error(PermissionError(errno.EACCES, "x"), "the keeper could not be started")
    assert isinstance(error, PermissionError)
    assert "the keeper could not be started: Permission denied" in str(error)


@pytest.mark.parametrize(
    ("out", "err", "text"),
    [
        (b"", b"", "tool: killed by SIGSEGV"),
        (b"half\n", b"", "tool: killed by SIGSEGV\nhalf"),
        (b"half\n", b"bad\n", "tool: killed by SIGSEGV\nbad"),
        (b"half", b"x" * 3000 + b"END", "tool: killed by SIGSEGV\n" + "x" * 997 + "END"),
    ],
)
def test_a_failed_tool_says_what_it_said_last(out: bytes, err: bytes, text: str) -> None:
    result = evolve(RESULT, stdout=Output(out, b"", len(out)), stderr=Output(err, b"", len(err)))
    assert str(ToolFailed(result)) == text


@pytest.mark.parametrize("duplicate", COPIES)
def test_the_result_goes_along(duplicate: Duplicate) -> None:
    error = ToolFailed(RESULT)
    other = duplicate(error)
    assert isinstance(other, ToolFailed)
    assert other.result == RESULT
    assert str(other) == str(error)
    lost = KeeperLost("gone")
    lost.partial = RESULT
    other = duplicate(lost)
    assert isinstance(other, KeeperLost)
    assert other.partial == RESULT
    assert KeeperLost("gone").partial is None


@pytest.mark.parametrize(
    "kind", [SpawnError, ToolFailed, KeeperLost, SupervisorClosed, UnsupportedPlatform]
)
def test_all_are_below_one(kind: type[Exception]) -> None:
    assert issubclass(kind, AgentsupError)


def raised(error: BaseException, *, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def with_partial(error: BaseException, result: Result = RESULT) -> BaseException:
    attach_partial(error, result)
    return error


class TestLastPartial:
    def test_there_may_be_none(self) -> None:
        assert last_partial(ValueError()) is None
        assert last_partial(ExceptionGroup("all", [ValueError()])) is None
        assert last_partial(KeeperLost("gone")) is None

    def test_it_is_on_the_exception_with_a_note(self) -> None:
        error = with_partial(ValueError("x"))
        assert last_partial(error) is RESULT
        assert error.__notes__ == ["agentsup: tool: killed by SIGSEGV"]

    def test_a_lost_keeper_has_its_own(self) -> None:
        error = KeeperLost("gone")
        error.partial = RESULT
        assert last_partial(error) is RESULT

    def test_it_is_found_through_what_was_being_handled(self) -> None:
        error = ValueError()
        error.__context__ = KeyError()
        error.__context__.__context__ = with_partial(OSError())
        assert last_partial(error) is RESULT

    def test_it_is_found_through_what_was_given_as_the_cause(self) -> None:
        assert last_partial(raised(ValueError(), cause=with_partial(OSError()))) is RESULT

    def test_it_is_found_behind_an_error_that_hides_its_context(self) -> None:
        error = ValueError()
        error.__context__ = with_partial(OSError())
        assert last_partial(raised(error)) is RESULT
        error.__suppress_context__ = True
        assert last_partial(error) is RESULT

    def test_it_is_found_in_a_group(self) -> None:
        inner = BaseExceptionGroup("inner", [ValueError(), with_partial(asyncio.CancelledError())])
        assert last_partial(BaseExceptionGroup("outer", [KeyError(), inner])) is RESULT

    def test_the_nearest_one_counts(self) -> None:
        nearer = evolve(RESULT, name="nearer")
        error = with_partial(ValueError(), nearer)
        error.__context__ = with_partial(OSError())
        assert last_partial(error) is nearer

    def test_a_circle_ends(self) -> None:
        one, other = ValueError(), KeyError()
        one.__context__, other.__context__ = other, one
        assert last_partial(one) is None

    @pytest.mark.anyio
    async def test_it_is_found_behind_a_timeout_of_the_event_loop(
        self, patience: tuple[float, ...]
    ) -> None:
        for timeout in patience:
            with pytest.raises(TimeoutError) as caught, anyio.fail_after(timeout):
                await agentsup.run(agentsup.shell("echo half; exec sleep 60"))
            partial = last_partial(caught.value)
            if partial and partial.stdout.text:
                break
        assert partial is not None
        assert (partial.outcome, partial.stdout.text) == (Outcome.STOPPED, "half\n")
