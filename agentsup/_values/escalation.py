"""How a tree is asked to stop before it is killed."""

from __future__ import annotations

import enum
import signal as signals
from collections.abc import Sequence
from typing import Final, TypeAlias, cast

from attrs import field, frozen

from .command import Command, CommandLike, encode_argv
from .number import seconds


class _CloseStdin(enum.Enum):
    CLOSE_STDIN = "close stdin"


#: The step that closes the pipe to the tool's standard input, where there is one.
CLOSE_STDIN: Final = _CloseStdin.CLOSE_STDIN

Action: TypeAlias = "_CloseStdin | signals.Signals | Command"
SignalLike: TypeAlias = "signals.Signals | int | str"


def to_signal(name: str, value: SignalLike) -> signals.Signals:
    """A signal from its number or its name, with or without ``SIG``."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a signal, not {value!r}")
    try:
        if isinstance(value, str):
            upper = value.upper()
            return signals.Signals[upper if upper.startswith("SIG") else f"SIG{upper}"]
        return signals.Signals(value)
    except (KeyError, ValueError):
        raise ValueError(
            f"{name}: unknown signal {value!r}; use a signal.Signals, its number or a name "
            "such as 'TERM'"
        ) from None


def _to_action(value: Action | SignalLike | CommandLike) -> Action:
    if isinstance(value, (_CloseStdin, Command)):
        return value
    if isinstance(value, (str, int)):
        return to_signal("Step.action", value)
    command = Command(cast("Sequence[bytes]", value))
    encode_argv(command)  # for its errors
    return command


def _to_wait(value: float) -> float:
    wait = seconds("Step.wait", value)
    if wait is None:
        raise ValueError("Step.wait must be finite: SIGKILL comes after the last step")
    return wait


@frozen
class Step:
    """One attempt to make a tree stop by itself.

    :param action: :data:`CLOSE_STDIN`; a signal for every process of the tree (followed by
        SIGCONT, so that a stopped one can act on it); or a command to run, with ``MAINPID`` in its
        environment, which is itself killed at the end of ``wait``.
    :param wait: seconds for the whole tree to be gone before the next step is taken.
    """

    action: Action = field(converter=_to_action)
    wait: float = field(default=5.0, converter=_to_wait)


class Escalation:
    """Steps taken one after another until the tree is gone; SIGKILL to all of it is always last.

    ``Escalation(Step("INT", 2), Step("TERM", 5))``
    """

    __slots__ = ("steps",)

    def __init__(self, *steps: Step) -> None:
        for step in steps:
            if not isinstance(step, Step):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
                raise TypeError(f"Escalation takes Step objects, not {step!r}")
        self.steps: Final = steps

    def __repr__(self) -> str:
        return f"Escalation({', '.join(map(repr, self.steps))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Escalation) and other.steps == self.steps

    def __hash__(self) -> int:
        return hash(self.steps)
