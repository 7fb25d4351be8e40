"""How a service's health is watched, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from attrs import Attribute, field, frozen
from attrs.validators import optional

from .number import is_seconds, is_whole
from .probe import Probe, to_probe

Role: TypeAlias = Literal["liveness", "readiness", "startup"]
ROLES = ("liveness", "readiness", "startup")


def _to_probe(value: Probe | Callable[[], object]) -> Probe:
    return to_probe("HealthCheck.probe", value)


def _is_role(_: HealthCheck, attribute: Attribute[Role], value: object) -> None:
    if value not in ROLES:
        raise ValueError(f"HealthCheck.role must be one of {', '.join(ROLES)}, not {value!r}")


def _is_name(_: HealthCheck, attribute: Attribute[str | None], value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"HealthCheck.name must be a str, not {value!r}")


@frozen
class HealthCheck:
    """A probe of a running service, made again and again. Seconds are floats.

    The roles are those of Kubernetes' kubelet. A *startup* check has to pass once before any other
    check is made; a service whose startup or *liveness* check fails for good is restarted; a
    *readiness* check only says whether the service is ready.

    :param probe: the probe, or a function (:class:`CallableProbe`).
    :param interval: seconds from the beginning of one probe to that of the next.
    :param timeout: seconds after which a probe has failed, no more than ``interval``.
    :param failures: how many in a row it takes to fail for good, or to be no longer ready.
    :param successes: how many in a row it takes to be ready; 1 for the other roles.
    :param start_period: seconds from the first probe on in which failures do not count; it ends
        with the first success.
    :param start_interval: the ``interval`` in that period.
    :param role: ``"liveness"``, ``"readiness"`` or ``"startup"``.
    :param name: what to call it in messages.
    """

    probe: Probe = field(converter=_to_probe)
    interval: float = field(default=10.0, kw_only=True, validator=is_seconds())
    timeout: float = field(default=1.0, kw_only=True, validator=is_seconds())
    failures: int = field(default=3, kw_only=True, validator=is_whole("probes", least=1))
    successes: int = field(default=1, kw_only=True, validator=is_whole("probes", least=1))
    start_period: float = field(default=0.0, kw_only=True, validator=is_seconds(zero=True))
    start_interval: float | None = field(
        default=None, kw_only=True, validator=optional(is_seconds())
    )
    role: Role = field(default="liveness", kw_only=True, validator=_is_role)
    name: str | None = field(default=None, kw_only=True, validator=_is_name)

    def __attrs_post_init__(self) -> None:
        if self.timeout > self.interval:
            raise ValueError(
                f"HealthCheck.timeout ({self.timeout:g} s) must not be more than "
                f"HealthCheck.interval ({self.interval:g} s)"
            )
        if self.successes > 1 and self.role != "readiness":
            raise ValueError(f"HealthCheck.successes must be 1 for the role {self.role!r}")
        if self.start_interval is not None and not self.start_period:
            raise ValueError("HealthCheck.start_interval needs a start_period to be used in")

    def __str__(self) -> str:
        return self.name or f"{self.role} check"
