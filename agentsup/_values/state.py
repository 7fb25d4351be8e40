"""What there is to see of a service."""

from __future__ import annotations

import enum

from attrs import field, frozen


class ServiceState(enum.Enum):
    """The states of systemd, and one of our own."""

    INACTIVE = "inactive"
    ACTIVATING = "activating"
    ACTIVE = "active"
    RELOADING = "reloading"
    DEACTIVATING = "deactivating"
    FAILED = "failed"
    #: It waits for its next start.
    BACKOFF = "backoff"

    @property
    def settled(self) -> bool:
        """Whether nothing changes it but a request."""
        return self in (ServiceState.INACTIVE, ServiceState.FAILED)


@frozen
class ServiceEvent:
    """A service has changed its state."""

    #: The service, after the names of the supervisors that it is below: ``workers/one``.
    service: str
    state: ServiceState
    previous: ServiceState
    #: In a few words.
    reason: str
    #: Seconds since the epoch.
    time: float
    #: Seconds of the monotonic clock.
    monotonic: float = field(repr=False)
    #: The main process, or None.
    pid: int | None = None
