"""The process that holds the services of ``session_supervisor``; :mod:`.shared` starts it.

It serves one request a connection.  Those that have asked to join count: when the last of them is
closed, and it has its directory's lock, which says that nobody is just joining, it ends.  The last
one is closed by that at this end, so its client can wait for it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pickle
import socket
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from attrs import evolve, fields, frozen

from .._errors import NotReady, SupervisorClosed
from .._tree.supervisor import Supervisor
from .._values.service import Service

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from .._services.handle import ServiceHandle
    from .._values.state import ServiceState

#: The files of its directory.
SOCKET, LOCK, LOG = "socket", "lock", "log"
#: Before each request: the length of its pickle.
HEADER = struct.Struct("=Q")

_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_PAUSE = 0.05  # flock(2) cannot be waited for in an event loop


@frozen
class Status:
    """What there is to see of a service."""

    state: ServiceState
    pid: int | None
    addresses: tuple[str, ...]
    output: str
    restarts: int


def main(listener: int, directory: str) -> None:
    os.set_inheritable(listener, False)
    with socket.socket(fileno=listener) as accepting:
        holder = Holder(directory)
        asyncio.run(holder.hold(accepting))
        os._exit(0)  # which closes the last connections


def clear(directory: str) -> None:
    """Remove what is there for a holder. Takes the lock."""
    for name in (SOCKET, LOG, LOCK):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
    with suppress(OSError):  # the next one has begun already
        os.rmdir(directory)


class Held:
    """A service, as it was asked for, under a supervisor of its own: no other's restarts count."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._handle: ServiceHandle | None = None
        self._failure: Exception | None = None
        self._tried = asyncio.Event()

    async def hold(self, service: Service) -> None:
        """Its life, to the end of this process; ``service`` says all that there is to say."""
        try:
            async with Supervisor() as supervisor:
                self._handle = await supervisor.start(service)
                self._tried.set()
                await asyncio.Event().wait()
        except ExceptionGroup as group:  # of a supervisor that has failed
            self._failure = group.exceptions[0]
        except Exception as error:
            self._failure = error
        finally:
            self._tried.set()

    @property
    def over(self) -> bool:
        """It cannot be started again."""
        temporary = self.service.policy.restart == "temporary" and self.service.type != "oneshot"
        ended = self._handle is not None and self._handle.idle.is_set()
        return self._failure is not None or (temporary and ended)

    @property
    def handle(self) -> ServiceHandle:
        """Raises what it has failed with."""
        if self._failure is not None:
            raise self._failure
        if self._handle is None:
            raise NotReady(self.service.name, "it is being started")
        return self._handle

    async def ready(self) -> None:
        """Until it is, started again if it does not run. A oneshot runs once."""
        await self._tried.wait()
        handle = self.handle
        if self.service.type != "oneshot":
            await handle.start()
            await handle.settled.wait()
            if handle.idle.is_set():
                raise NotReady(handle.name, handle.status_text, handle.output)


class Holder:
    """All services, and who is connected. What is asked for is the name of a method."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._held: dict[str, Held] = {}
        self._holding: list[asyncio.Task[None]] = []
        self._ports: dict[str, int] = {}
        self._joined: set[StreamWriter] = set()
        self._left: list[StreamWriter] = []  # closed when others are there, or with us
        self._unused = asyncio.Event()

    async def hold(self, accepting: socket.socket) -> None:
        """Until nobody is connected any more, and all services have ended."""
        # Closed with this process: whoever waits for it then starts a new one.
        self._lock = os.open(os.path.join(self._directory, LOCK), os.O_WRONLY)
        await asyncio.start_unix_server(self._serve, sock=accepting)
        async with asyncio.TaskGroup() as self._tasks:
            await self._until_unused()
            for task in self._holding:
                task.cancel()
        if sys.platform == "linux":
            from .._linux import lifeline

            lifeline.shut_down()
        clear(self._directory)

    # --- requests -----------------------------------------------------------------------------

    async def join(self) -> int:
        return os.getpid()

    async def start(self, pickled: bytes, cwd: str, env: dict[bytes, bytes]) -> None:
        service = _load(pickled)
        held = self._held.get(service.name)
        if held is None or held.over:
            placed = evolve(
                service, cwd=service.cwd or cwd, env=env if service.env is None else service.env
            )
            held = self._held[service.name] = Held(service)
            self._holding.append(self._tasks.create_task(held.hold(placed)))
        elif names := ", ".join(_differing(held.service, service)):
            raise ValueError(
                f"there is a shared service {service.name!r} already, with another {names}"
            )
        await held.ready()

    async def do(self, name: str, what: str) -> None:
        """``start``, ``stop`` or ``restart`` it."""
        await getattr(self._find(name).handle, what)()

    async def look(self, name: str) -> Status:
        handle = self._find(name).handle
        return Status(handle.state, handle.pid, handle.addresses, handle.output, handle.restarts)

    async def port(self, name: str) -> int:
        if name not in self._ports:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self._ports[name] = free.getsockname()[1]
        return self._ports[name]

    def _find(self, name: str) -> Held:
        if name not in self._held:
            raise SupervisorClosed(f"there is no shared service {name!r} (any more): start it")
        return self._held[name]

    # --- connections --------------------------------------------------------------------------

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            if _is_ours(writer):
                (size,) = HEADER.unpack(await reader.readexactly(HEADER.size))
                request = pickle.loads(await reader.readexactly(size))
                if request == ("join",):
                    self._joined.add(writer)
                writer.write(await self._answer(*request))
                await reader.read()  # until it is closed
        except (OSError, EOFError):
            pass  # it is gone
        finally:
            self._joined.discard(writer)
            self._left.append(writer)
            self._let_go()

    async def _answer(self, what: str, *arguments: object) -> bytes:
        """A pickle of what came of it, and of what was raised."""
        try:
            return pickle.dumps((await getattr(self, what)(*arguments), None))
        except Exception as error:
            return pickle.dumps((None, error))

    def _let_go(self) -> None:
        """Close those that are closed at the other end; the last ones only at the end."""
        if not self._joined:
            self._unused.set()
            return
        while self._left:
            self._left.pop().close()

    async def _until_unused(self) -> None:
        """And it has the lock then."""
        while True:
            await self._unused.wait()
            if self._joined:
                self._let_go()
                self._unused.clear()
                continue
            try:
                return fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # somebody is about to join
                await asyncio.sleep(_PAUSE)


def _is_ours(writer: StreamWriter) -> bool:
    """Whether it is this user. Elsewhere than on Linux, its directory has to keep others out."""
    if sys.platform != "linux":
        return True
    connection: socket.socket = writer.get_extra_info("socket")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return bool(user == os.geteuid())


def _load(pickled: bytes) -> Service:
    try:
        service: Service = pickle.loads(pickled)
    except Exception as error:
        raise ValueError(
            "a shared service holds what cannot be imported in another process; move it into a "
            f"module of its own: {error}"
        ) from None
    return service


def _differing(one: Service, other: Service) -> list[str]:
    """The fields. Some values, such as tenacity's, have no ``==``."""
    pairs = {
        field.name: (getattr(one, field.name), getattr(other, field.name))
        for field in fields(Service)
        if field.eq
    }
    return [
        name
        for name, (mine, theirs) in pairs.items()
        if mine != theirs and pickle.dumps(mine) != pickle.dumps(theirs)
    ]
