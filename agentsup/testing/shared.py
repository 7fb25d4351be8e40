"""Services that a test session shares, and with pytest-xdist all of its workers.

They run in a process of their own, the holder (``_holder.py``)::

    the first that asks            starts the holder, connects, and stays connected
    the others                     connect as well, and stay connected
    the last connection is closed  the holder stops the services, and ends

So it does not matter who started them, who is done first, or how anybody ends: the kernel closes
the connections of one that is killed.  The holder's socket is in a private directory named after
the test run.  Who connects for the first time has that directory's lock, and so has the holder
while it ends: nobody comes to one that is about to end, and a new one starts when the old one is
gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pickle
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import uuid
import weakref
from typing import TYPE_CHECKING, Any, NoReturn

from attrs import fields

from .._errors import AgentsupError, NotReady, SupervisorClosed
from .._values.service import Service
from ._holder import HEADER, LOCK, LOG, SOCKET, Status, clear

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import pytest

    from .._values.state import ServiceState

_PATIENCE = 120.0  # seconds for the holder's first word, on a machine with much else to do
_LONGEST_SOCKET_PATH = 103  # on macOS; on Linux it is a little more
_LOG_TAIL = 2000

#: Nobody listens there.
_NOBODY = FileNotFoundError, ConnectionRefusedError
#: Whoever was asked is gone.
_LOST = FileNotFoundError, ConnectionError, EOFError, pickle.UnpicklingError

# An orphan from the beginning: no child that somebody had to wait for.
_PROGRAM = """\
import os, sys
os.fork() and os._exit(0)
sys.path[:] = sys.argv[3:]
from agentsup.testing._holder import main
main(int(sys.argv[1]), sys.argv[2])
"""


@contextlib.contextmanager
def shared(request: pytest.FixtureRequest) -> Generator[SharedSupervisor]:
    """What the fixture ``session_supervisor`` is."""
    worker: dict[str, Any] = getattr(request.config, "workerinput", {})
    supervisor = SharedSupervisor(worker.get("testrunuid") or uuid.uuid4().hex)
    try:
        yield supervisor
    finally:
        supervisor.close()


def connected() -> list[SharedSupervisor]:
    """Those of this process that have a holder: none of that is a leak of the test that began it.

    The holder (:attr:`SharedSupervisor.holder`) and all below it, the connection and the directory.
    """
    return [supervisor for supervisor in _all if supervisor.connection is not None]


class SharedSupervisor:
    """Starts services that run until the last one that has asked for any is done.

    What it does takes no event loop; the loop of an async test waits meanwhile.

    :param run: the same for all that share the services.
    """

    def __init__(self, run: str) -> None:
        self.directory = _name_directory(run)
        #: Kept open for as long as the services are needed here.
        self.connection: socket.socket | None = None
        #: The process at its other end.
        self.holder: int | None = None
        self._names: dict[str, None] = {}  # of what was started here, in order
        self._joining = threading.Lock()
        self._closed = False
        _all.add(self)

    def start(self, service: Service) -> SharedService:
        """Have a service run, and wait until it is ready.

        If an equal one was started before, here or by another worker, it is that one; several who
        ask at the same time wait for one start. Unless the service has its own, it gets the
        environment and the working directory of the first. One that has failed or was stopped is
        started again, but for a oneshot that has succeeded.

        Equal in all workers is what none of them has chosen: not a port or a directory that was
        made by a worker. ``ListenSocket("127.0.0.1:0")`` and :attr:`SharedService.addresses`, or
        :meth:`port`, give all of them the same. A function that it holds is called where the
        services are held: it has to be one of a module, and what it changes is not seen here.

        :raises SpawnError: its program cannot be started.
        :raises NotReady: it has ended, or its ``start_timeout`` was over, before it was ready.
        :raises ValueError: there is another service of this name, or it holds what cannot go to
            another process, such as a lambda.
        :raises SupervisorClosed: the process that held the services was killed, and they are gone.
            That is said once: the next start begins anew.
        """
        if not isinstance(service, Service):
            raise TypeError(f"service must be an agentsup.Service, not {service!r}")
        self._ask("start", _pickle(service), os.getcwd(), dict(os.environb))
        self._names[service.name] = None
        return SharedService(service.name, self._ask)

    def port(self, name: str) -> int:
        """A TCP port of 127.0.0.1 that was free when it was first asked for, the same for all.

        For a program that takes the number of a port, and for the :class:`TcpProbe` of it.

        :param name: what the port is for.
        """
        port: int = self._ask("port", name)
        return port

    def sections(self) -> list[tuple[str, str]]:
        """What the services started here have printed, for the report of a test that has failed."""
        found = [(f"shared service {name!r}", self._output(name)) for name in list(self._names)]
        return [(title, text) for title, text in found if text]

    def _output(self, name: str) -> str:
        if name not in self._names:
            return ""  # it was lost with another one
        try:
            return SharedService(name, self._ask).output
        except AgentsupError as error:
            return str(error)

    def close(self) -> None:
        """They are not needed here any more; if this is the last one, wait until they have ended.

        May be repeated.
        """
        self._closed = True
        self._names.clear()
        connection = self._forget()
        if connection is not None:
            with connection, contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)  # the end, at once if there are others
        if os.path.exists(self.directory):  # a holder that was killed has left it
            with _locked(self.directory):
                try:
                    _connect(self.directory).close()
                except _NOBODY:
                    clear(self.directory)

    # --- the holder ---------------------------------------------------------------------------

    def _ask(self, what: str, *arguments: object) -> Any:
        """What the holder returns, or raises.

        Over a connection of its own: that can be done in any thread, and be interrupted anywhere.
        """
        if self._closed:
            raise SupervisorClosed("the session of this session_supervisor is over")
        with self._joining:
            if self.connection is None:
                self.connection, self.holder = _join(self.directory)
        try:
            if not _is_open(self.connection):
                raise EOFError
            with _connect(self.directory) as connection:
                value, error = _request(connection, what, *arguments)
        except _LOST:
            self._lose()
        if error is not None:
            raise error
        return value

    def _lose(self) -> NoReturn:
        lost = f"the holder of the shared services, process {self.holder}, has died, and they have"
        self._names.clear()
        if connection := self._forget():
            connection.close()
        raise SupervisorClosed(f"{lost}\n{_log(self.directory)}".rstrip()) from None

    def _forget(self) -> socket.socket | None:
        connection, self.connection, self.holder = self.connection, None, None
        return connection


class SharedService:
    """A service that others may be using as well. What there is to see is what it is just now."""

    def __init__(self, name: str, ask: Callable[..., Any]) -> None:
        self.name = name
        self._ask = ask

    def __repr__(self) -> str:
        return f"<SharedService {self.name!r}>"

    def _look(self) -> Status:
        status: Status = self._ask("look", self.name)
        return status

    @property
    def state(self) -> ServiceState:
        return self._look().state

    @property
    def pid(self) -> int | None:
        """Its main process, or None."""
        return self._look().pid

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of its sockets, with the ports that they have come to."""
        return self._look().addresses

    @property
    def output(self) -> str:
        """The last that it has printed, in this run or, if it does not run, in the last one."""
        return self._look().output

    @property
    def restarts(self) -> int:
        """How often it was started again after it had ended by itself."""
        return self._look().restarts

    def start(self) -> None:
        """Start it if it does not run, for all, and wait until it is ready."""
        self._ask("do", self.name, "start")

    def stop(self) -> None:
        """Stop it, for all, and wait until that is done. It keeps its sockets."""
        self._ask("do", self.name, "stop")

    def restart(self) -> None:
        """Stop it and start it again, for all, and wait until it is ready."""
        self._ask("do", self.name, "restart")


def _pickle(service: Service) -> bytes:
    try:
        return pickle.dumps(service)
    except Exception:
        for field in fields(Service):
            try:
                pickle.dumps(getattr(service, field.name))
            except Exception as error:
                raise ValueError(
                    f"Service.{field.name} of {service.name!r} cannot go to the process that holds "
                    f"shared services; a function has to be one of a module: {error}"
                ) from None
        raise


# --- joining ----------------------------------------------------------------------------------


def _name_directory(run: str) -> str:
    name = f"agentsup-tests-{os.geteuid()}-{hashlib.sha256(run.encode()).hexdigest()[:16]}"
    path = os.path.join(tempfile.gettempdir(), name)
    too_long = len(os.fsencode(os.path.join(path, SOCKET))) > _LONGEST_SOCKET_PATH
    return os.path.join("/tmp", name) if too_long else path


def _join(directory: str) -> tuple[socket.socket, int]:
    """A connection that is counted, to a holder that is there or that is started now; its pid."""
    with _locked(directory):
        try:
            connection = _connect(directory)
        except _NOBODY:
            connection = _start_holder(directory)
        try:
            connection.settimeout(_PATIENCE)
            pid: int = _request(connection, "join")[0]
            connection.settimeout(None)
        except (TimeoutError, *_LOST):
            connection.close()
            reason = "it has ended or does not answer"
            raise NotReady("the holder of shared services", reason, _log(directory)) from None
        except BaseException:
            connection.close()
            raise
    return connection, pid


def _start_holder(directory: str) -> socket.socket:
    """A connection to it, made before it runs: it ends if nobody is at the other end then."""
    path = os.path.join(directory, SOCKET)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with (
        socket.socket(socket.AF_UNIX) as listener,
        open(os.path.join(directory, LOG), "wb") as log,
    ):
        listener.bind(path)
        listener.listen()
        connection = _connect(directory)
        try:
            subprocess.run(
                [sys.executable, "-c", _PROGRAM, str(listener.fileno()), directory, *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,
                check=False,  # then it has ended, and its log says why
            )
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def _locked(directory: str) -> Generator[None]:
    """Have the lock of the directory, which is made if need be."""
    while True:
        _make_private(directory)
        try:
            file = open(os.path.join(directory, LOCK), "wb")  # noqa: SIM115 -- closed below
        except FileNotFoundError:
            continue  # a holder has just ended, and removed it
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                yield
                return


def _make_private(directory: str) -> None:
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        found = os.lstat(directory)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(f"{directory} is not a private directory of this user") from None


def _connect(directory: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(None)
        connection.connect(os.path.join(directory, SOCKET))
    except BaseException:
        connection.close()
        raise
    return connection


def _request(connection: socket.socket, what: str, *arguments: object) -> tuple[Any, Any]:
    """What came of it, and what was raised."""
    request = pickle.dumps((what, *arguments))
    connection.sendall(HEADER.pack(len(request)) + request)
    with connection.makefile("rb") as file:
        reply: tuple[Any, Any] = pickle.load(file)
    return reply


def _is_open(connection: socket.socket) -> bool:
    """Whether the other end is: it says nothing that was not asked."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _log(directory: str) -> str:
    """The last that a holder has to say of itself."""
    try:
        with open(os.path.join(directory, LOG), "rb") as file:
            return file.read()[-_LOG_TAIL:].decode(errors="replace")
    except FileNotFoundError:
        return ""


def _forget_after_fork() -> None:
    """The child of a fork connects anew: it must not keep its parent's connection open."""
    for supervisor in connected():
        if connection := supervisor.connection:
            supervisor.connection = supervisor.holder = None
            connection.close()


_all: weakref.WeakSet[SharedSupervisor] = weakref.WeakSet()
os.register_at_fork(after_in_child=_forget_after_fork)
