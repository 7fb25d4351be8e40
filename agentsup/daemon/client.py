"""A client of the control API, as ``agentsup ctl`` is one.

Over a Unix socket a request is one exchange of bytes, made by hand: to import httpx takes longer
than all the rest of ``agentsup ctl status``.  Streams, and what goes to a URL, are httpx's.
"""

from __future__ import annotations

import json
import math
import os
import select
import socket
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .._errors import AgentsupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import httpx

#: Seconds that the daemon has to answer what it need not wait for itself.
PATIENCE = 30.0

#: The longest pause, in seconds, after which it is tried once more what nothing has been told of.
_RETRIES = 1.0

_NOT_THERE = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)


class ControlError(AgentsupError):
    """The daemon could not be asked, or has refused; the message says what to do."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))


class NotRunning(ControlError):
    """Nobody listens there."""


class UnknownName(ControlError):
    """No service, group or supervisor is called that."""


class Client:
    """Of the daemon at a Unix socket, or at a URL, where it wants its token."""

    def __init__(self, place: str, token: str | None = None) -> None:
        self._place = place
        self._token = token

    @property
    def local(self) -> bool:
        """Whether it is at a Unix socket, so on this host."""
        return self._token is None

    def get(self, path: str, timeout: float | None = PATIENCE) -> dict[str, Any]:
        return self._ask("GET", path, None, timeout)

    def post(
        self, path: str, body: object = None, timeout: float | None = PATIENCE
    ) -> dict[str, Any]:
        """
        :param timeout: of the daemon's silence, in seconds; None is for what may take any time.
        """
        return self._ask("POST", path, body, timeout)

    def stream(self, path: str) -> Iterator[list[bytes]]:
        """The lines of an endless answer, as many at once as have come."""
        import httpx

        try:
            with self._http(None) as http, http.stream("GET", path) as answer:
                if answer.is_error:
                    self._checked(answer.status_code, answer.read())
                rest = b""
                for chunk in answer.iter_bytes():
                    *lines, rest = (rest + chunk).split(b"\n")
                    if lines:
                        yield lines
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        except httpx.HTTPError as error:
            raise ControlError("the connection has ended: agentsup up is gone") from error

    def wait_listening(self, timeout: float | None, absent: Callable[[], object]) -> float | None:
        """Wait until somebody listens at the socket; the seconds that are left.

        The kernel tells when something is made on the way there. What was just made may not listen
        yet, which nobody tells: so after that it is tried a few times more, for about a second.

        :param absent: is called once, before the first wait.
        :raises NotRunning: in that time, nobody has come.
        """
        from .._linux.file_watch import DirectoryWatch

        until = math.inf if timeout is None else time.monotonic() + timeout
        pause = _RETRIES
        watch = DirectoryWatch()
        try:
            poll = select.poll()
            poll.register(watch.fd, select.POLLIN)
            while True:
                path = os.fsencode(os.path.dirname(self._place))
                while not watch.add(path, writes=False):
                    path = os.path.dirname(path)
                left = until - time.monotonic()
                try:
                    self._connected(PATIENCE).close()
                except NotRunning:
                    if left <= 0:
                        raise
                else:
                    return None if timeout is None else max(0.0, left)
                absent()
                absent = int  # that was once
                wait = min(left, pause if pause < _RETRIES else math.inf)
                told = poll.poll(None if wait == math.inf else wait * 1000)
                watch.changes()
                pause = 0.001 if told else 2 * pause
        finally:
            watch.close()

    def open_daemon(self) -> int | None:
        """A pidfd of the process at the other end of the socket, if it is to be seen from here."""
        if not self.local:
            return None
        with self._connected(PATIENCE) as connection:
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid = int.from_bytes(peer[:4], sys.byteorder)
            return os.pidfd_open(pid) if pid else None

    def _ask(self, method: str, path: str, body: object, timeout: float | None) -> dict[str, Any]:
        content = b"" if body is None else json.dumps(body).encode()
        ask = self._ask_socket if self.local else self._ask_url
        return self._checked(*ask(method, path, content, timeout))

    def _ask_socket(
        self, method: str, path: str, content: bytes, timeout: float | None
    ) -> tuple[int, bytes]:
        request = (
            f"{method} {path} HTTP/1.1\r\nHost: agentsup\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        try:
            with self._connected(timeout) as connection:
                answer = _exchange(connection, request.encode() + content)
        except TimeoutError as error:
            raise self._silent() from error
        except OSError as error:
            raise self._broken() from error
        head, _, content = answer.partition(b"\r\n\r\n")
        status, *headers = head.lower().split(b"\r\n")
        if b"content-length: %d" % len(content) not in headers:
            raise self._broken()
        return int(status.split()[1]), content

    def _ask_url(
        self, method: str, path: str, content: bytes, timeout: float | None
    ) -> tuple[int, bytes]:
        import httpx

        try:
            with self._http(timeout) as http:
                headers = {"Content-Type": "application/json"}
                answer = http.request(method, path, content=content, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        except httpx.TimeoutException as error:
            raise self._silent() from error
        except httpx.HTTPError as error:
            raise self._broken() from error
        return answer.status_code, answer.content

    def _connected(self, timeout: float | None) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        try:
            connection.connect(self._place)
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError):
                raise self._unreachable(error) from error
            raise
        return connection

    def _http(self, timeout: float | None) -> httpx.Client:
        import httpx

        limits = httpx.Timeout(timeout, connect=PATIENCE)
        if self.local:
            transport = httpx.HTTPTransport(uds=self._place, verify=False)
            return httpx.Client(base_url="http://agentsup", transport=transport, timeout=limits)
        return httpx.Client(
            base_url=self._place,
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=limits,
            trust_env=False,  # no proxy is to see the token
        )

    # --- what there is to say of a failure -----------------------------------------------------

    def _checked(self, status: int, content: bytes) -> dict[str, Any]:
        """The answer, unless it says that there is none."""
        answer: dict[str, Any] | None
        try:
            answer = json.loads(content or b"{}")
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ControlError(f"what answers at {self._place} is not agentsup up")
        if status < 400:
            return answer
        if answer.get("errors"):  # of the file
            raise ControlError(*map(_located, answer["errors"]))
        text = answer.get("error") or f"agentsup up has answered with status {status}"
        raise UnknownName(text) if answer.get("unknown") else ControlError(text)

    def _unreachable(self, error: BaseException) -> ControlError:
        cause: BaseException | None = error
        while cause and not isinstance(cause, OSError):  # httpx wraps it, and httpcore before it
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, _NOT_THERE):
            return NotRunning(f"agentsup up is not running: nobody listens at {self._place}")
        if isinstance(cause, PermissionError):
            return ControlError(
                f"not allowed to use {self._place}: be the user who runs agentsup up, or root"
            )
        if isinstance(cause, TimeoutError | BlockingIOError):
            return self._silent()
        return ControlError(f"{self._place} cannot be reached: {cause or error}")

    def _silent(self) -> ControlError:
        return ControlError(f"agentsup up does not answer at {self._place}: it is stopped or stuck")

    def _broken(self) -> ControlError:
        return ControlError(
            f"{self._place} has closed the connection without an answer: "
            "agentsup up has just ended, or serves another user only"
        )


def _exchange(connection: socket.socket, request: bytes) -> bytes:
    """All that is answered, also by one who has not read the request and ends the connection."""
    try:
        connection.sendall(request)
    except BrokenPipeError:
        pass
    parts: list[bytes] = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def named(path: str, names: Iterable[str]) -> str:
    """``path`` with the names that it is asked about."""
    query = "&".join(f"name={quote(name, safe='')}" for name in names)
    return f"{path}?{query}" if query else path


def _located(error: dict[str, Any]) -> str:
    """As compilers say it: ``file:line: key: reason``."""
    where = ":".join(str(error[key]) for key in ("file", "line") if error.get(key))
    return ": ".join(filter(None, (where, error.get("key"), error.get("reason"))))
