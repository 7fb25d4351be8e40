"""What is done at the turns of a service's life."""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from attrs import field, frozen

from .command import Command, CommandLike, to_command
from .escalation import to_signal
from .number import is_seconds
from .probe import HttpProbe
from .several import to_tuple

if TYPE_CHECKING:
    from .command import Word
    from .escalation import SignalLike

HookAction: TypeAlias = "Command | HttpProbe | Callable[[], object]"
HookLike: TypeAlias = "Hook | HookAction | CommandLike"
#: One sequence for both, words and hooks: mypy knows then what a list is to be.
Hooks: TypeAlias = "Hook | HookAction | Sequence[Word | HookLike]"


def _to_action(value: HookAction | CommandLike) -> HookAction:
    if isinstance(value, HttpProbe) or (callable(value) and not isinstance(value, type)):
        return value
    if not isinstance(value, (Command, Sequence)):
        raise TypeError(
            "Hook.action must be a command (a list of words, or agentsup.shell(…)), an "
            f"agentsup.HttpProbe or a function, not {value!r}"
        )
    return to_command(value)


@frozen
class Hook:
    """Something that is done at a turn of a service's life.

    :param action: a command, run as the service is, with ``MAINPID`` in its environment while
        there is a main process; an :class:`HttpProbe`, for the request that it makes; or a
        function, async or not, that takes no argument. It fails by an exit status other than 0,
        by an answer that the probe does not pass, or by raising.
    :param timeout: seconds after which it has failed. A command then gets SIGTERM, and SIGKILL a
        second later.
    """

    action: HookAction = field(converter=_to_action)
    timeout: float = field(default=10.0, kw_only=True, validator=is_seconds())


def to_hooks(value: Hooks) -> tuple[Hook, ...]:
    hooks = to_tuple(value)
    if hooks and all(isinstance(word, (str, bytes, os.PathLike)) for word in hooks):
        hooks = cast("Any", (value,))  # the words of one command
    return tuple(hook if isinstance(hook, Hook) else Hook(hook) for hook in hooks)


def to_reload(value: HookLike | SignalLike | None) -> Hook | signals.Signals | None:
    if value is None or isinstance(value, Hook):
        return value
    if isinstance(value, (str, int)):
        return to_signal("Service.reload", value)
    return Hook(value)
