"""What a program does that is none: the values that tests of agents write down."""

from __future__ import annotations

import math
import signal as signals
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, cast

from attrs import Attribute, field, frozen

from .._errors import AgentsupError
from .._levels.hold import text
from .._values.command import CommandLike, encode_argv
from .._values.escalation import SignalLike, to_signal
from .._values.number import seconds, whole
from .._values.result import Outcome
from .._values.several import to_tuple

Printed: TypeAlias = "str | bytes | Iterable[str | bytes | float]"
#: A line of its standard input, with its end → what it prints.
Answer: TypeAlias = "Callable[[bytes], str | bytes | None]"

_STOPPED_BY_RULE = (
    Outcome.TIMED_OUT,
    Outcome.IDLE,
    Outcome.HEARTBEAT_LOST,
    Outcome.OUTPUT_LIMIT,
)
#: What the kernel sends to a program that uses too much.
KILLED_WITH = {Outcome.MEMORY_LIMIT: signals.SIGKILL}
if hasattr(signals, "SIGXCPU"):  # not on Windows
    KILLED_WITH[Outcome.CPU_LIMIT] = signals.SIGXCPU


class NotScripted(AgentsupError):
    """A FakeSupervisor was asked for a command that it has no script for, or not that often."""


def to_printed(name: str, value: Printed) -> tuple[bytes | float, ...]:
    """Bytes, and seconds between them."""
    return tuple(_to_item(name, item) for item in to_tuple(value))


def _to_item(name: str, item: str | bytes | float) -> bytes | float:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, bytes):
        return item
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        raise TypeError(f"{name} must be str, bytes, or several with seconds between, not {item!r}")
    pause = seconds(name, item)
    if pause is None:
        raise ValueError(
            f"{name}: a pause must be finite; use Script.after for a program that stays"
        )
    return pause


def _to_stdout(value: Printed) -> tuple[bytes | float, ...]:
    return to_printed("Script.stdout", value)


def _to_stderr(value: Printed) -> tuple[bytes | float, ...]:
    return to_printed("Script.stderr", value)


def _to_notify(value: Printed) -> tuple[bytes | float, ...]:
    return to_printed("Script.notify", value)


def _to_writes(value: Mapping[int, Printed]) -> dict[int, tuple[bytes | float, ...]]:
    return {fd: to_printed(f"Script.writes[{fd!r}]", printed) for fd, printed in value.items()}


def _to_after(value: float) -> float:
    after = seconds("Script.after", value)
    return math.inf if after is None else after


def _to_signal(value: SignalLike | None) -> signals.Signals | None:
    return None if value is None else to_signal("Script.signal", value)


def _to_ignores(value: SignalLike | Iterable[SignalLike]) -> tuple[signals.Signals, ...]:
    return tuple(to_signal("Script.ignores", number) for number in to_tuple(value))


def _to_reactions(value: Mapping[SignalLike, Script]) -> dict[signals.Signals, Script]:
    for script in value.values():
        if not isinstance(script, Script):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
            raise TypeError(f"Script.on_signal maps signals to Scripts, not to {script!r}")
    return {to_signal("Script.on_signal", number): script for number, script in value.items()}


def _to_leftovers(value: Iterable[CommandLike]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(map(text, encode_argv(words))) for words in value)


def _check_exit_code(_: object, __: Attribute[Any], value: int) -> None:
    if whole("Script.exit_code", value, "(an exit status)", most=255) is None:
        raise TypeError("Script.exit_code must be a number from 0 to 255, not None")


def _check_raises(_: object, __: Attribute[Any], value: object) -> None:
    if value is None or isinstance(value, AgentsupError):
        return
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise TypeError(
            "Script.raises must be an errno, of a program that cannot be started, or an instance "
            f"of an agentsup error, not {value!r}"
        )


def _check_outcome(_: object, __: Attribute[Any], value: object) -> None:
    if value is not None and value not in (*_STOPPED_BY_RULE, *KILLED_WITH):
        names = ", ".join(outcome.name for outcome in (*_STOPPED_BY_RULE, *KILLED_WITH))
        raise ValueError(
            f"Script.outcome must be one of {names}, not {value!r}: EXITED comes of exit_code, "
            "SIGNALED of signal, and STOPPED of being stopped"
        )


@frozen(kw_only=True)
class Script:
    """What a program does. By default it prints nothing and exits with status 0, at once.

    :param stdout: what it prints: text, bytes, or several of these with pauses between them, which
        are numbers of seconds: ``["starting\\n", 0.5, "ready\\n"]``.
    :param stderr: what it prints there, meanwhile.
    :param exit_code: the status that it exits with.
    :param signal: what ends it instead.
    :param after: seconds between the last that it does and its end. With ``math.inf`` it runs
        until it is stopped, as a server does.
    :param ignores: signals that its tree ignores. It dies of any other, as a program does.
    :param on_signal: what it does from then on when it gets one of these signals, by another
        script: ``{"TERM": Script(stdout="bye\\n", exit_code=3)}``.
    :param answer: called with every line of its standard input, its end included; what it returns
        is printed. The program then ends when its input does.
    :param leftovers: the commands of other processes, which live until they are ended.
    :param outcome: how the call is to end, without anybody's waiting: ``Outcome.TIMED_OUT``,
        ``IDLE``, ``HEARTBEAT_LOST``, ``OUTPUT_LIMIT``, ``MEMORY_LIMIT`` or ``CPU_LIMIT``. The
        result is as though the time had passed.
    :param raises: an ``errno``: it cannot be started. An instance of an error, such as
        :exc:`KeeperLost`: that comes in the place of its end.
    :param notify: messages that it sends to its supervisor: ``["READY=1", 0.5, "STATUS=idle"]``.
    :param writes: what it writes to other descriptors: ``{3: "\\n"}``.
    """

    stdout: tuple[bytes | float, ...] = field(default=(), converter=_to_stdout)
    stderr: tuple[bytes | float, ...] = field(default=(), converter=_to_stderr)
    exit_code: int = field(default=0, validator=_check_exit_code)
    signal: signals.Signals | None = field(default=None, converter=_to_signal)
    after: float = field(default=0.0, converter=_to_after)
    ignores: tuple[signals.Signals, ...] = field(default=(), converter=_to_ignores)
    on_signal: Mapping[signals.Signals, Script] = field(default={}, converter=_to_reactions)
    answer: Answer | None = None
    leftovers: tuple[tuple[str, ...], ...] = field(default=(), converter=_to_leftovers)
    outcome: Outcome | None = field(default=None, validator=_check_outcome)
    raises: int | AgentsupError | None = field(default=None, validator=_check_raises)
    notify: tuple[bytes | float, ...] = field(default=(), converter=_to_notify)
    writes: Mapping[int, tuple[bytes | float, ...]] = field(default={}, converter=_to_writes)

    def __attrs_post_init__(self) -> None:
        endings = {
            "exit_code": self.exit_code != 0,
            "signal": self.signal is not None,
            "outcome": self.outcome is not None,
            "raises": self.raises is not None,
        }
        given = [name for name, is_given in endings.items() if is_given]
        if len(given) > 1:
            raise ValueError(f"Script: {' and '.join(given)} exclude each other: it ends only once")


class ScriptOptions(TypedDict, total=False):
    """The fields of a Script, as they are given."""

    stdout: Printed
    stderr: Printed
    exit_code: int
    signal: SignalLike | None
    after: float
    ignores: SignalLike | Sequence[SignalLike]
    on_signal: Mapping[SignalLike, Script]
    answer: Answer | None
    leftovers: Sequence[CommandLike]
    outcome: Outcome | None
    raises: int | AgentsupError | None
    notify: Printed
    writes: Mapping[int, Printed]


def make_script(options: ScriptOptions, script: Script | None = None) -> Script:
    if script is None:
        return Script(**cast("Any", options))
    if options:
        raise TypeError("a script is given either as a Script or by its fields, not by both")
    if not isinstance(script, Script):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
        raise TypeError(f"script must be a Script, not {script!r}")
    return script
