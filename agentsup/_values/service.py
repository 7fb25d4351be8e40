"""What is to be known of a service before it runs."""

from __future__ import annotations

import math
import os
import signal as signals
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from attrs import Factory, field, fields, frozen
from attrs.validators import optional

from .command import Command, to_command
from .escalation import Escalation
from .health import HealthCheck
from .heartbeat import Heartbeat, NotifyHeartbeat
from .hook import Hook, to_hooks, to_reload
from .listen import ListenSocket
from .number import is_seconds, is_whole
from .output import OutputPolicy
from .path import to_path
from .readiness import NewlineOn, Notified, RunningFor, to_ready
from .restart import CLEAN_SIGNALS, RestartPolicy, one_of
from .several import to_tuple

if TYPE_CHECKING:
    from attrs import Attribute

    from .escalation import SignalLike
    from .limits import Limits
    from .number import Validator
    from .readiness import Ready
    from .restart import Backoff, GiveUp, Restart

Type: TypeAlias = Literal["simple", "exec", "forking", "oneshot", "notify"]
NotifyAccess: TypeAlias = Literal["none", "main", "exec", "all"]

#: As many descriptors as one request to the keeper passes on, with room for what it needs itself.
DESCRIPTORS_MAX = 48


def _to_names(value: str | Iterable[str]) -> tuple[str, ...]:
    return to_tuple(value)


def _to_checks(value: HealthCheck | Iterable[HealthCheck]) -> tuple[HealthCheck, ...]:
    return to_tuple(value)


def _to_sockets(value: ListenSocket | Iterable[ListenSocket]) -> tuple[ListenSocket, ...]:
    return to_tuple(value)


def _to_name(value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"Service.name must be a str, not {value!r}")
    if not value or value != value.strip() or not value.isprintable() or "/" in value:
        raise ValueError(
            "Service.name must be of printable characters, without a slash or spaces around it, "
            f"not {value!r}"
        )
    return value


def _to_bound(value: float | None) -> float | None:
    return None if value == math.inf else value


def _usual_start_timeout(service: Service) -> float | None:
    return None if service.type == "oneshot" else 90.0


def _to_pid_file(value: str | os.PathLike[str] | None) -> str | None:
    return None if value is None else to_path("Service.pid_file", value)


def _make_policy(service: Service) -> RestartPolicy:
    chosen = {one.name: getattr(service, one.name) for one in fields(RestartPolicy)}
    if service.restart is None:
        once = service.type == "oneshot" or service.accept
        chosen["restart"] = "temporary" if once else "transient" if service.lazy else "permanent"
    return RestartPolicy(**chosen)


def _is(what: str, *kinds: type) -> Validator:
    def check(_: Service, attribute: Attribute[Any], value: object) -> None:
        if not isinstance(value, kinds):
            raise TypeError(f"Service.{attribute.name} must be {what}, not {value!r}")

    return check


def _are(what: str, kind: type) -> Validator:
    check_one = _is(what, kind)

    def check(of: Service, attribute: Attribute[Any], value: tuple[object, ...]) -> None:
        for one in value:
            check_one(of, attribute, one)

    return check


def _is_one_of(choices: Any) -> Validator:
    def check(_: Service, attribute: Attribute[Any], value: str) -> None:
        one_of(f"Service.{attribute.name}", value, choices)

    return check


_is_bool = _is("a bool", bool)
_are_names = _are("names of services, as in ['db']", str)

#: The fields that are options of ``run`` as well, and go there as they are, to be checked.
CALL_OPTIONS = (
    *("cwd", "env", "extend_env", "limits", "user", "group", "extra_groups", "umask"),
    *("no_new_privs", "capabilities", "grace", "escalation"),
)

#: The fields that say something of the one process that a service has otherwise.
_OF_MAIN_PROCESS = (
    *("ready", "heartbeat", "health", "pre_start", "post_start", "pre_stop", "post_stop"),
    *("reload", "notify_access", "fd_store", "lazy"),
)


@frozen
class Service:
    """A program that is to run for long, and what keeps it running. All but the first two
    parameters are keyword-only; times are seconds.

    :param name: what its siblings and messages call it.
    :param command: a sequence of words, or :func:`agentsup.shell`.
    :param type: when it has started, as systemd.service(5) has it: ``"simple"`` and ``"exec"`` when
        the program runs; ``"forking"`` when its main process has exited and left a daemon, named by
        ``pid_file``; ``"oneshot"`` when it has exited; ``"notify"`` when it says ``READY=1``.
    :param ready: what else it takes to be ready: ``"notify"``, a probe (:class:`TcpProbe`,
        :class:`HttpProbe`, :class:`UnixProbe`, :class:`CommandProbe` or a function),
        :class:`FileExists`, :class:`OutputMatches`, :class:`RunningFor` or :class:`NewlineOn`.
    :param start_timeout: seconds to become ready, after its ``pre_start``; ``EXTEND_TIMEOUT_USEC``
        prolongs it. None for any time, which a oneshot has by default.
    :param restart: ``"permanent"`` (the default), ``"transient"`` or ``"temporary"`` (the default
        of a oneshot, and with ``accept``; with ``lazy`` it is ``"transient"``); see
        :class:`RestartPolicy`, as for ``success_exit_status``, ``clean_signals``,
        ``prevent_restart_on``, ``never_again``, ``backoff``, ``give_up``, ``stable_after`` and
        ``jitter``.
    :param significant: whether its end counts for the supervisor's ``auto_shutdown``.
    :param after: names of siblings that have started, or failed to, before it starts, where both
        start; and that stop after it.
    :param requires: siblings that start with it, and with which it stops and restarts. With
        ``after`` as well, it does not start if they fail to.
    :param wants: siblings that start with it, whether they succeed or not.
    :param part_of: siblings with which it stops and restarts.
    :param conflicts: siblings that are stopped when it starts, and the other way round.
    :param heartbeat: by what its progress is known; without any in time, it is restarted.
    :param health: checks that are made while it runs.
    :param pre_start: what is done before it starts; if that fails, so has the start.
    :param post_start: what is done once it is ready; the same holds.
    :param pre_stop: what is done before it is asked to stop, in the time of ``grace`` or of the
        steps of ``escalation``; a quarter of that, at most 2 seconds, is kept for those.
    :param post_stop: what is done after it has ended, however it did.
    :param reload: how it reads its configuration again: a signal, or what a hook is.
    :param pid_file: of a forking service, where its daemon writes its number.
    :param remain_after_exit: a oneshot counts as active after its success.
    :param notify_access: whose messages count: the ``"main"`` process's, also those of hooks
        (``"exec"``), or of ``"all"`` its processes. ``"main"`` where messages are asked for.
    :param fd_store: how many descriptors it may leave with its supervisor (``FDSTORE=1``).
    :param sockets: to listen on before it starts, and while it restarts.
    :param lazy: start it at the first connection, and after a clean end at the next one.
    :param accept: start a process for each connection, which it gets as descriptor 3, named
        ``connection``. The service is active while it listens; its end ends these processes.
    :param max_connections: with ``accept``, how many at a time. More of them wait.
    :param grace: seconds from being asked to stop to SIGKILL, ``pre_stop`` included.
    :param escalation: other steps than SIGTERM and that.
    :param output: what is kept of what it prints; of each run the last 16 KiB by default.

    ``cwd``, ``env``, ``extend_env``, ``limits``, ``user``, ``group``, ``extra_groups``, ``umask``,
    ``no_new_privs`` and ``capabilities`` are those of :meth:`Supervisor.run`.
    """

    name: str = field(converter=_to_name)
    command: Command = field(converter=to_command)
    type: Type = field(default="simple", kw_only=True, validator=_is_one_of(Type))
    ready: Ready | None = field(default=None, kw_only=True, converter=to_ready)
    start_timeout: float | None = field(
        default=Factory(_usual_start_timeout, takes_self=True),
        kw_only=True,
        converter=_to_bound,
        validator=optional(is_seconds()),
    )
    restart: Restart | None = field(default=None, kw_only=True)
    success_exit_status: Collection[int] = field(default=frozenset({0}), kw_only=True)
    clean_signals: Collection[SignalLike] = field(default=CLEAN_SIGNALS, kw_only=True)
    prevent_restart_on: Collection[SignalLike] = field(default=(), kw_only=True)
    never_again: Collection[int] = field(default=frozenset({125}), kw_only=True)
    backoff: Backoff | None = field(default=None, kw_only=True)
    give_up: GiveUp | None = field(default=None, kw_only=True)
    stable_after: float | None = field(default=10.0, kw_only=True)
    jitter: float = field(default=0.0, kw_only=True)
    significant: bool = field(default=False, kw_only=True, validator=_is_bool)
    after: tuple[str, ...] = field(
        default=(), kw_only=True, converter=_to_names, validator=_are_names
    )
    requires: tuple[str, ...] = field(
        default=(), kw_only=True, converter=_to_names, validator=_are_names
    )
    wants: tuple[str, ...] = field(
        default=(), kw_only=True, converter=_to_names, validator=_are_names
    )
    part_of: tuple[str, ...] = field(
        default=(), kw_only=True, converter=_to_names, validator=_are_names
    )
    conflicts: tuple[str, ...] = field(
        default=(), kw_only=True, converter=_to_names, validator=_are_names
    )
    heartbeat: Heartbeat | None = field(
        default=None,
        kw_only=True,
        validator=_is("such as NotifyHeartbeat(5)", NoneType, *get_args(Heartbeat)),
    )
    health: tuple[HealthCheck, ...] = field(
        default=(),
        kw_only=True,
        converter=_to_checks,
        validator=_are("agentsup.HealthCheck objects", HealthCheck),
    )
    pre_start: tuple[Hook, ...] = field(default=(), kw_only=True, converter=to_hooks)
    post_start: tuple[Hook, ...] = field(default=(), kw_only=True, converter=to_hooks)
    pre_stop: tuple[Hook, ...] = field(default=(), kw_only=True, converter=to_hooks)
    post_stop: tuple[Hook, ...] = field(default=(), kw_only=True, converter=to_hooks)
    reload: Hook | signals.Signals | None = field(default=None, kw_only=True, converter=to_reload)
    pid_file: str | None = field(default=None, kw_only=True, converter=_to_pid_file)
    remain_after_exit: bool = field(default=False, kw_only=True, validator=_is_bool)
    notify_access: NotifyAccess | None = field(
        default=None, kw_only=True, validator=optional(_is_one_of(NotifyAccess))
    )
    fd_store: int = field(
        default=0, kw_only=True, validator=is_whole("descriptors", most=DESCRIPTORS_MAX)
    )
    sockets: tuple[ListenSocket, ...] = field(
        default=(),
        kw_only=True,
        converter=_to_sockets,
        validator=_are("agentsup.ListenSocket objects", ListenSocket),
    )
    lazy: bool = field(default=False, kw_only=True, validator=_is_bool)
    accept: bool = field(default=False, kw_only=True, validator=_is_bool)
    max_connections: int = field(
        default=64, kw_only=True, validator=is_whole("connections", least=1)
    )
    grace: float = field(default=5.0, kw_only=True, validator=is_seconds(zero=True))
    escalation: Escalation | None = field(
        default=None,
        kw_only=True,
        validator=_is("an agentsup.Escalation", NoneType, Escalation),
    )
    output: OutputPolicy = field(
        factory=lambda: OutputPolicy(head=0, tail=16384),
        kw_only=True,
        validator=_is("an agentsup.OutputPolicy", OutputPolicy),
    )
    cwd: str | bytes | os.PathLike[str] | None = field(default=None, kw_only=True)
    env: Mapping[str, str] | Mapping[bytes, bytes] | Literal["minimal"] | None = field(
        default=None, kw_only=True
    )
    extend_env: Mapping[str, str] | Mapping[bytes, bytes] | None = field(default=None, kw_only=True)
    limits: Limits | None = field(default=None, kw_only=True)
    user: str | int | None = field(default=None, kw_only=True)
    group: str | int | None = field(default=None, kw_only=True)
    extra_groups: Sequence[str | int] | None = field(default=None, kw_only=True)
    umask: int | None = field(default=None, kw_only=True)
    no_new_privs: bool = field(default=False, kw_only=True)
    capabilities: Sequence[str] | None = field(default=None, kw_only=True)
    #: Made of the fields that are its own.
    policy: RestartPolicy = field(
        init=False, repr=False, eq=False, default=Factory(_make_policy, takes_self=True)
    )

    def __attrs_post_init__(self) -> None:
        for text in self._contradictions():
            raise ValueError(f"Service.{text}")

    @property
    def access(self) -> NotifyAccess:
        """Whose messages count."""
        return self.notify_access or ("main" if self._waits_for_messages else "none")

    @property
    def _waits_for_messages(self) -> bool:
        return (
            self.type == "notify"
            or isinstance(self.ready, Notified)
            or isinstance(self.heartbeat, NotifyHeartbeat)
            or self.fd_store > 0
        )

    # --- what cannot be together --------------------------------------------------------------

    def _contradictions(self) -> Iterator[str]:
        oneshot = self.type == "oneshot"
        if oneshot and self.policy.restart == "permanent":
            yield "restart: a oneshot would run again for ever; use 'transient' or 'temporary'"
        if oneshot and (self.ready is not None or self.heartbeat or self.health):
            yield "type='oneshot' is done when it ends: it has no ready, heartbeat or health"
        if self.remain_after_exit and not oneshot:
            yield "remain_after_exit is for type='oneshot'"
        if self.pid_file is not None and self.type != "forking":
            yield "pid_file is for type='forking'"
        if self.access == "none" and self._waits_for_messages:
            yield "notify_access is 'none', so it can never say what it is waited for to say"
        bound = math.inf if self.start_timeout is None else self.start_timeout
        if isinstance(self.ready, RunningFor) and self.ready.seconds >= bound:
            yield f"ready: {self.ready.seconds:g} s are not over within start_timeout, {bound:g} s"
        names = [check.name for check in self.health if check.name is not None]
        if len(set(names)) < len(names):
            yield f"health: two checks have the same name: {', '.join(map(repr, names))}"
        yield from self._contradictions_of_descriptors()
        if self.accept:
            yield from self._contradictions_of_accept()

    def _contradictions_of_descriptors(self) -> Iterator[str]:
        if (self.lazy or self.accept) and not self.sockets:
            yield "lazy and accept need sockets to wait for connections on"
        count = len(self.sockets) + self.fd_store
        if count > DESCRIPTORS_MAX:
            yield (
                f"sockets and fd_store come to {count} descriptors, and a program is passed "
                f"{DESCRIPTORS_MAX} at most"
            )
        if isinstance(self.ready, NewlineOn) and self.ready.fd < 3 + count:
            yield (
                f"ready: descriptor {self.ready.fd} is one of those that sockets and fd_store "
                f"take; use {3 + count} or more"
            )

    def _contradictions_of_accept(self) -> Iterator[str]:
        """There is no main process: what is about one is not for it."""
        if self.type != "simple":
            yield "accept is for type='simple'"
        for listened in self.sockets:
            if not listened.has_connections:
                yield (
                    f"accept: there is nothing to accept at {listened.address!r}, which is a "
                    f"{listened.kind}"
                )
        for name in _OF_MAIN_PROCESS:
            if getattr(self, name) not in (None, (), 0, False):
                yield f"accept: each connection has a process of its own, so there is no {name}"
