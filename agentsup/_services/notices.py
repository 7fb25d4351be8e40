"""What a service says of itself, and who of it may: the server's side of sd_notify(3).

Messages are heard in the order in which they were sent.  So one that names a new main process
holds up those after it until it is known whether that is one (:meth:`Notices.hold`); and what a
process has said before it ended is heard before its end.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Protocol

from .._calls.heartbeat import watchdog_variables
from .._errors import UnsupportedPlatform
from .._rules.notify import parse

if sys.platform == "linux":
    from .._linux.notify_socket import AT_ONCE, NotifySocket

if TYPE_CHECKING:
    from .._calls.call import Call
    from .._linux.notify_socket import Datagram
    from .._rules.notify import Message
    from .._values.service import NotifyAccess

_LAST = 1024  # of a process that has ended: more than the kernel holds back (net.unix)


class Listener(Protocol):
    """The run that the messages are about."""

    @property
    def call(self) -> Call | None:
        """Of its main process."""

    @property
    def hook(self) -> Call | None:
        """Of the hook that runs just now."""

    @property
    def speaker(self) -> int | None:
        """The main process, as long as it may have said something."""

    def complain(self, text: str) -> None: ...
    def on_message(self, message: Message) -> None: ...
    def store(self, name: str, fds: list[int], *, poll: bool) -> None: ...
    def unstore(self, name: str) -> None: ...


class Notices:
    """The socket of one service, which stays over its restarts."""

    def __init__(self, access: NotifyAccess) -> None:
        if sys.platform != "linux":
            raise UnsupportedPlatform(f"a service's messages take Linux, not {sys.platform}")
        self._access = access
        self._socket = NotifySocket()
        self.path = self._socket.path
        self._held: Listener | None = None

    def attach(self, call: Call, listener: Listener) -> None:
        """Have ``listener`` told of what comes while ``call`` is driven."""
        call.before_end = lambda: self._read(listener, _LAST)
        if self._held is not listener:
            call.watch(self._socket.fd, lambda: self._read(listener, AT_ONCE))

    def hold(self, listener: Listener) -> None:
        """Read no further until :meth:`go_on`."""
        self._held = listener
        for call in _calls(listener):
            call.unwatch(self._socket.fd)

    def go_on(self, listener: Listener) -> None:
        self._held = None
        for call in _calls(listener):
            self.attach(call, listener)

    def _read(self, listener: Listener, at_most: int) -> None:
        for _ in range(at_most):
            if self._held is listener or (datagram := self._socket.receive()) is None:
                break
            with datagram:
                self._on_datagram(datagram, listener)

    def _on_datagram(self, datagram: Datagram, listener: Listener) -> None:
        message = parse(datagram.data)
        if self._may_speak(datagram.pid, listener):
            return self._on_message(message, datagram, listener)
        if not message.barrier:  # which may come from another process than what it stands behind
            who = f"process {datagram.pid} of user {datagram.uid}"
            listener.complain(f"a message from {who} is ignored: notify_access is {self._access!r}")
        return None

    def _on_message(self, message: Message, datagram: Datagram, listener: Listener) -> None:
        lost = (f"lost {datagram.lost}",) if datagram.lost else ()
        for complaint in (*lost, *message.complaints):
            listener.complain(f"a message from process {datagram.pid}: {complaint}")
        if message.barrier:
            return  # its descriptor is closed with the datagram, and all before it has been heard
        if message.fdstore and message.fdname is not None:
            listener.store(message.fdname, datagram.take(), poll=message.fdpoll)
        elif message.fdstoreremove and message.fdname is not None:
            listener.unstore(message.fdname)
        listener.on_message(message)

    def _may_speak(self, pid: int, listener: Listener) -> bool:
        if pid <= 0:
            return False
        call, hook = listener.call, listener.hook
        if call and pid in (listener.speaker, call.voice):
            return True
        if self._access == "main":
            return False
        if hook and pid == hook.pid:
            return True
        return self._access == "all" and any(one.owns(pid) for one in _calls(listener))

    def close(self) -> None:
        self._socket.close()


def _calls(listener: Listener) -> list[Call]:
    return [call for call in (listener.call, listener.hook) if call and not call.finished]


def variables(notices: Notices | None, watchdog: float | None) -> dict[bytes, bytes | None]:
    """What the service is told of it; not what the host is told by its own manager."""
    path = None if notices is None else os.fsencode(notices.path)
    interval = {b"WATCHDOG_USEC": None} if watchdog is None else watchdog_variables(watchdog)
    return {b"NOTIFY_SOCKET": path, b"WATCHDOG_PID": None, **interval}
