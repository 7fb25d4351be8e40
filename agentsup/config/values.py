"""What a file of services comes to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attrs import field, frozen

if TYPE_CHECKING:
    from .._rules.strategy import AutoShutdown, Strategy
    from .._values.result import Containment
    from .._values.service import Service


@frozen
class TcpConfig:
    """Where the control API is to be had over TCP, for those who know the token."""

    listen: str
    token_file: Path


@frozen
class DaemonConfig:
    """``[daemon]``: how ``agentsup up`` runs, and the supervisor at the root."""

    socket: Path
    state_dir: Path
    #: Seconds in which all of it has stopped.
    stop_timeout: float = 90.0
    tcp: TcpConfig | None = None
    strategy: Strategy = "one_for_one"
    #: None for any number of them.
    max_restarts: int | None = None
    #: None for ever.
    within: float | None = 5.0
    auto_shutdown: AutoShutdown = "never"
    containment: Containment | Literal["auto"] = "auto"


@frozen
class LogsConfig:
    """``[logs]``: what is kept of what a service prints. None is no bound."""

    segment_size: int = 16 * 1024**2
    segment_age: float | None = 86400.0
    max_size: int | None = 256 * 1024**2
    total_size: int | None = 2 * 1024**3
    max_age: float | None = 30 * 86400.0
    compress: bool = True
    line_max: int = 64 * 1024
    #: So many records in so many seconds.
    rate_limit: tuple[int, float] | None = None
    outlets: tuple[Literal["stdout", "syslog", "journald"], ...] = ()
    keep: bool = True


@frozen
class ServiceConfig:
    """A service, and what only matters where it is run from a file."""

    name: str
    service: Service
    autostart: bool = True
    groups: tuple[str, ...] = ()
    logs: LogsConfig = field(factory=LogsConfig)


@frozen
class SupervisorConfig:
    """A supervisor below the root, and what it has."""

    name: str
    strategy: Strategy = "one_for_one"
    max_restarts: int | None = 3
    within: float | None = 5.0
    auto_shutdown: AutoShutdown = "never"
    groups: tuple[str, ...] = ()
    services: dict[str, ServiceConfig] = field(factory=dict[str, ServiceConfig])
    supervisors: dict[str, SupervisorConfig] = field(factory=lambda: dict[str, SupervisorConfig]())


@frozen
class Config:
    """All of a file."""

    path: Path
    daemon: DaemonConfig
    logs: LogsConfig = field(factory=LogsConfig)
    services: dict[str, ServiceConfig] = field(factory=dict[str, ServiceConfig])
    supervisors: dict[str, SupervisorConfig] = field(factory=lambda: dict[str, SupervisorConfig]())
