"""Heartbeats: what they take, and what they refuse before anything is started."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agentsup
from agentsup._calls.spec import make_spec, with_variables
from agentsup._values.heartbeat import (
    CallableHeartbeat,
    FileHeartbeat,
    Heartbeat,
    NotifyHeartbeat,
    OutputHeartbeat,
)

KINDS: dict[str, Callable[[Any], Heartbeat]] = {
    "NotifyHeartbeat.interval": NotifyHeartbeat,
    "FileHeartbeat.max_age": lambda bound: FileHeartbeat("beat", bound),
    "OutputHeartbeat.max_silence": OutputHeartbeat,
    "CallableHeartbeat.max_age": lambda bound: CallableHeartbeat(bool, bound),
}
each_kind = pytest.mark.parametrize("name", KINDS)


@each_kind
def test_its_bound_is_the_calls(name: str) -> None:
    heartbeat = KINDS[name](2)
    spec = make_spec(["true"], {"heartbeat": heartbeat})
    assert (spec.heartbeat, spec.terms.heartbeat) == (heartbeat, 2)


@each_kind
@pytest.mark.parametrize(
    ("bound", "error"),
    [
        *((bound, ValueError) for bound in (0, -1, math.nan, math.inf, None)),
        *((bound, TypeError) for bound in ("2", True, b"")),
    ],
)
def test_the_bound_is_a_finite_number_of_seconds(
    name: str, bound: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=rf"^{name} must be"):
        KINDS[name](bound)


@pytest.mark.parametrize(
    ("interval", "error", "says"),
    [
        (0, ValueError, "more than zero"),
        (math.inf, ValueError, "a finite"),
        (3.0, ValueError, "less than max_age, 3.0"),
        ("1", TypeError, "a number"),
    ],
)
def test_questions_come_more_often_than_answers_are_needed(
    interval: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=rf"^CallableHeartbeat.interval must be {says}"):
        CallableHeartbeat(bool, 3.0, interval=interval)


def test_a_function_is_callable_and_a_path_is_a_path() -> None:
    with pytest.raises(TypeError, match=r"^CallableHeartbeat.function must be callable, not 5"):
        CallableHeartbeat(5, 1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^FileHeartbeat.path must be a str, .* not int"):
        FileHeartbeat(5, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [5, "file", NotifyHeartbeat])
def test_what_is_no_heartbeat_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^heartbeat must be an agentsup\.NotifyHeartbeat, "):
        agentsup.run_sync(["true"], heartbeat=wrong)


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("", ValueError, "must name a file, not ''"),
        ("a/", ValueError, "must name a file, not 'a/'"),
        ("a\0b", ValueError, "holds a NUL byte"),
        ("missing/beat", FileNotFoundError, "No such file"),
        ("file/beat", NotADirectoryError, "not a directory|Not a directory"),
    ],
)
def test_the_file_is_in_a_directory_that_exists(
    tmp_path: Path, path: str, error: type[Exception], says: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(error, match=rf"heartbeat\.path:? {says}|heartbeat\.path: ({says})"):
        agentsup.run_sync(["true"], cwd=tmp_path, heartbeat=FileHeartbeat(path, 1.0))


def test_without_an_event_loop_no_function_can_be_asked() -> None:
    heartbeat = CallableHeartbeat(bool, 1.0)
    with pytest.raises(TypeError, match=r"^heartbeat: a CallableHeartbeat takes an event loop"):
        agentsup.run_sync(["true"], heartbeat=heartbeat)
    with (
        agentsup.SyncSupervisor() as supervisor,
        pytest.raises(TypeError, match=r"^heartbeat: a CallableHeartbeat"),
    ):
        supervisor.run(["true"], heartbeat=heartbeat)


def test_variables_take_the_place_of_others_or_take_them_away() -> None:
    block = b"A=1\0AB=2\0C=3"
    assert with_variables(block, {b"A": b"9", b"C": None, b"D": None}) == b"AB=2\0A=9"
