"""A service whose program, directory or user is not there now: it fails when it starts.

Each of its starts looks again.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from attrs import frozen

from .._calls.spec import Spec, to_escalation
from .._rules.call import Terms
from .._values.command import encode_argv

if TYPE_CHECKING:
    from .._calls.call import Call
    from .._errors import SpawnError
    from .._levels.hold import Hold
    from .._values.service import Service


@frozen
class Lacking:
    """In the place of what would hold its process."""

    error: SpawnError

    def __call__(self, call: Call) -> Hold:
        raise self.error


def lacking_spec(service: Service, error: SpawnError) -> Spec:
    """What there is to be known of it nevertheless."""
    argv = encode_argv(service.command)
    escalation = to_escalation(service.escalation, service.grace, signal.SIGTERM)
    return Spec(
        argv=argv,
        program=argv[0],
        cwd=b".",
        env=b"",
        options=b"",
        stdin=None,
        output=service.output,
        terms=Terms(escalation=escalation),
        name=service.name,
        make_hold=Lacking(error),
    )


def what_it_lacks(spec: Spec) -> SpawnError | None:
    """Why it cannot be started."""
    return spec.make_hold.error if isinstance(spec.make_hold, Lacking) else None
