"""When a service is restarted, and how a run of it can end."""

from __future__ import annotations

import signal as signals
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from attrs import Converter, field, frozen

from .escalation import to_signal
from .number import seconds
from .result import signal_name

if TYPE_CHECKING:
    from attrs import Attribute
    from tenacity import RetryCallState

    from .escalation import SignalLike

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]
Backoff: TypeAlias = "Callable[[RetryCallState], float]"
GiveUp: TypeAlias = "Callable[[RetryCallState], bool]"

# By name, for not every platform has them all.
_CLEAN = ("SIGHUP", "SIGINT", "SIGTERM", "SIGPIPE")
CLEAN_SIGNALS = frozenset(number for number in signals.Signals if number.name in _CLEAN)


def one_of(name: str, value: str, choices: Any) -> None:
    """Raise ValueError unless ``value`` is one of a Literal's."""
    if value not in get_args(choices):
        known = ", ".join(map(repr, get_args(choices)))
        raise ValueError(f"{name} must be one of {known}, not {value!r}")


def wanted(restart: Restart, clean: bool) -> bool:
    """Whether a child that ended by itself is to be restarted."""
    return restart == "permanent" or (restart == "transient" and not clean)


@frozen
class Ending:
    """How a run ended. A ``failure``, in a few words, is never clean, whatever the status."""

    exit_code: int | None = None
    signal: signals.Signals | int | None = None
    failure: str | None = None

    def __str__(self) -> str:
        if self.failure is not None:
            return self.failure
        if self.signal is not None:
            return f"killed by {signal_name(self.signal)}"
        return f"exited with status {self.exit_code}"


def _members(name: str, value: Collection[Any]) -> Collection[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Collection):
        raise TypeError(f"{name} must be a collection, as in {{1, 2}}, not {value!r}")
    return value


def _code(name: str, value: int) -> int:
    if isinstance(value, (bool, signals.Signals)) or value not in range(256):
        raise ValueError(f"{name} takes exit statuses, which are 0 to 255, not {value!r}")
    return value


def _to_codes(value: Collection[int], attribute: Attribute[Any]) -> frozenset[int]:
    name = attribute.name
    return frozenset(_code(name, code) for code in _members(name, value))


def _codes(default: int) -> frozenset[int]:
    return field(default=frozenset({default}), converter=Converter(_to_codes, takes_field=True))


def _to_clean_signals(value: Collection[SignalLike]) -> frozenset[signals.Signals]:
    name = "clean_signals"
    return frozenset(to_signal(name, number) for number in _members(name, value))


def _to_prevent_restart_on(value: Collection[SignalLike]) -> tuple[int, ...]:
    # Not a set: SIGTERM equals 15.
    name = "prevent_restart_on"
    return tuple(
        to_signal(name, one) if isinstance(one, (str, signals.Signals)) else _code(name, one)
        for one in _members(name, value)
    )


#: The module of what each field takes, and an example of it.
_TENACITY = {
    "backoff": ("tenacity.wait", "wait_fixed(1)"),
    "give_up": ("tenacity.stop", "stop_after_attempt(5)"),
}


def _callable(_: RestartPolicy, attribute: Attribute[Any], value: Any) -> None:
    kind, like = _TENACITY[attribute.name]
    others = {base.__module__ for base in type(value).__mro__} - {kind}
    mistaken = any(module.partition(".")[0] == "tenacity" for module in others)
    if value is not None and (not callable(value) or isinstance(value, type) or mistaken):
        raise TypeError(f"{attribute.name} must be like tenacity.{like}, not {value!r}")


def _to_stable_after(value: float | None) -> float | None:
    return seconds("stable_after", value)


def _to_jitter(value: float) -> float:
    jitter = seconds("jitter", value)
    if jitter is None:
        raise ValueError(f"jitter must be a finite number of seconds, not {value!r}")
    return jitter


@frozen(kw_only=True)
class RestartPolicy:
    """When a service is restarted.

    :param restart: ``"permanent"``: always; ``"transient"``: if its end was not clean;
        ``"temporary"``: never.
    :param success_exit_status: the exit statuses that are clean.
    :param clean_signals: the signals that are a clean end, as systemd has them.
    :param prevent_restart_on: exit statuses (numbers) and signals (``signal.Signals`` or names)
        after which there is no restart, clean or not.
    :param never_again: exit statuses by which the service itself says that it is of no use to try
        again, not even when its siblings are restarted. One that is clean says no such thing.
    :param backoff: one of tenacity's ``wait_*``: seconds from the end to the restart; None for 0.
    :param give_up: one of tenacity's ``stop_*``: when to restart no more; None for never.
    :param stable_after: a run of so many seconds was a good one: ``backoff`` and ``give_up`` begin
        anew. None for never.
    :param jitter: up to so many seconds, at random, are added to each delay.
    """

    restart: Restart = "permanent"
    success_exit_status: frozenset[int] = _codes(0)
    clean_signals: frozenset[signals.Signals] = field(
        default=CLEAN_SIGNALS, converter=_to_clean_signals
    )
    prevent_restart_on: tuple[int, ...] = field(default=(), converter=_to_prevent_restart_on)
    never_again: frozenset[int] = _codes(125)
    backoff: Backoff | None = field(default=None, validator=_callable)
    give_up: GiveUp | None = field(default=None, validator=_callable)
    stable_after: float | None = field(default=10.0, converter=_to_stable_after)
    jitter: float = field(default=0.0, converter=_to_jitter)

    def __attrs_post_init__(self) -> None:
        one_of("restart", self.restart, Restart)

    def clean(self, ending: Ending) -> bool:
        """Whether a run ended as one may."""
        if ending.failure is not None:
            return False
        if ending.signal is not None:
            return ending.signal in self.clean_signals
        return ending.exit_code in self.success_exit_status

    def prevents(self, ending: Ending) -> bool:
        """Whether there is no restart after this, whatever else is said."""
        signalled = ending.signal is not None
        status = ending.signal if signalled else ending.exit_code
        return any(
            status == other and isinstance(other, signals.Signals) is signalled
            for other in self.prevent_restart_on
        )
