"""What is wrong with a service's own doing goes to the log, and no flood of it."""

from __future__ import annotations

import logging

from .._rules.redaction import redact

log = logging.getLogger("agentsup.services")

_AT_MOST = 10


class Complaints:
    """Of one run: the first ones are logged, the others counted."""

    def __init__(self, service: str) -> None:
        self._service = service
        self.count = 0

    def __call__(self, text: str) -> None:
        self.count += 1
        if self.count <= _AT_MOST:
            more = "; no more of these are logged for this run" if self.count == _AT_MOST else ""
            extra = {"service": self._service, "complaint": self.count}
            log.warning("%s: %s%s", self._service, redact(text), more, extra=extra)
