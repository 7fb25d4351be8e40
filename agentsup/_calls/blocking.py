"""Wait for calls on no event loop."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from .._errors import attach_partial
from .._values.result import Outcome, Result

if TYPE_CHECKING:
    from .call import Call


def run(call: Call, closing: int = -1) -> Result:
    """The whole of ``call``: nothing of it is left when this returns or raises.

    It is stopped when the descriptor ``closing`` becomes readable.
    """
    call.prepare()
    try:
        if call.ask is not None:
            raise TypeError("heartbeat: a CallableHeartbeat takes an event loop: use agentsup.run")
        send(call)
        if closing >= 0:
            call.stop_when_readable(closing)
        try:
            _drive(call)
        except BaseException as exc:
            call.stop(Outcome.STOPPED)
            _drive(call)
            attach_partial(exc, call.result())
            raise
        if call.error is not None:
            raise call.error
        return call.result()
    finally:
        call.close()


def _drive(call: Call) -> None:
    while not call.result_ready:
        call.step(None)


def send(call: Call) -> None:
    """Have it started, as soon as there is room for the request."""
    while not call.send():
        fd = call.keeper_fd()
        try:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        finally:
            os.close(fd)
