"""What a service can be waited for before it is ready."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentsup import (
    FileExists,
    HttpProbe,
    ListenSocket,
    NewlineOn,
    Notified,
    NotReady,
    OutputMatches,
    OutputPolicy,
    RunningFor,
    Service,
    ServiceHandle,
    ServiceState,
    Supervisor,
    TcpProbe,
    UnixProbe,
)

pytestmark = pytest.mark.anyio


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


class Gate:
    """Where programs wait (``read x < gate``), in their current directory, until it is opened."""

    def __init__(self, directory: Path) -> None:
        os.mkfifo(directory / "gate")
        self._fd = os.open(directory / "gate", os.O_RDWR)

    def open(self) -> None:
        os.write(self._fd, b"\n")

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.close()


async def wait_ready(handle: ServiceHandle) -> None:
    with anyio.fail_after(20):
        await handle.wait_ready()


# --- by itself ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "merge"), [(1, False), (2, False), (2, True)], ids=["stdout", "stderr", "merged"]
)
async def test_a_line_that_comes_in_two_pieces(
    tmp_path, gate: Gate, eventually, stream, merge
) -> None:
    script = (
        f"(printf 'so\\nlisten'; read x < gate; printf 'ing on 80\\n') >&{stream}; exec sleep 99"
    )
    lines: list[tuple[str, str]] = []
    service = Service(
        *("s", sh(script)),
        ready=OutputMatches(r"^listening on \d+$"),
        output=OutputPolicy(merge_stderr=merge, on_line=lambda *line: lines.append(line)),
        cwd=tmp_path,
    )
    async with Supervisor() as sup:
        handle = sup.start_soon(service)
        await eventually(lambda: handle.output == "so\nlisten")
        assert handle.state is ServiceState.ACTIVATING
        gate.open()
        await wait_ready(handle)
        name = "stdout" if stream == 1 or merge else "stderr"
        assert lines == [(name, "so"), (name, "listening on 80")]
        assert handle.output == "so\nlistening on 80\n"


@pytest.mark.parametrize("sockets", [0, 2])
async def test_a_newline_on_a_descriptor(tmp_path, gate: Gate, eventually, sockets: int) -> None:
    number = 3 + sockets
    script = f"printf x >&{number}; echo $LISTEN_FDS; read x < gate; echo >&{number}; exec sleep 99"
    listen = tuple(ListenSocket("127.0.0.1:0", name=f"s{n}") for n in range(sockets))
    env = {key: value for key, value in os.environ.items() if not key.startswith("LISTEN")}
    service = Service(
        "s", sh(script), ready=NewlineOn(number), sockets=listen, cwd=tmp_path, env=env
    )
    async with Supervisor() as sup:
        handle = sup.start_soon(service)
        await eventually(lambda: handle.output.strip() == (str(sockets) if sockets else ""))
        await eventually(lambda: handle.pid is not None)
        assert handle.state is ServiceState.ACTIVATING
        gate.open()
        await wait_ready(handle)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it takes its time
async def test_a_newline_on_a_descriptor_that_it_closes(tmp_path, gate: Gate, eventually) -> None:
    """That says nothing; it has to end, or to become ready in time."""
    service = Service(
        *("s", sh("exec 3>&-; echo closed; exec sleep 99")), ready=NewlineOn(3), start_timeout=0.3
    )
    async with Supervisor() as sup:
        with pytest.raises(NotReady, match="no newline to descriptor 3"):
            await sup.start(service)


async def test_a_new_file(tmp_path: Path, gate: Gate, eventually) -> None:
    """One that was there before is none, until it is written again. Nothing is watched later."""
    (tmp_path / "ready").write_text("of the last time")
    service = Service(
        *("s", sh("echo up; read x < gate; echo now > ready; exec sleep 99")),
        ready=FileExists("ready"),
        cwd=tmp_path,
    )
    async with Supervisor() as sup:
        handle = sup.start_soon(service)
        await eventually(lambda: handle.output == "up\n")
        (tmp_path / "another").touch()
        assert handle.state is ServiceState.ACTIVATING
        gate.open()
        await wait_ready(handle)
        open_on = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        assert not [target for target in open_on if target.endswith("inotify")]


async def test_it_has_run_for_a_while() -> None:
    async with Supervisor() as sup:
        handle = await sup.start(Service("s", sh("exec sleep 99"), ready=RunningFor(0.05)))
        assert handle.state is ServiceState.ACTIVE
        with pytest.raises(NotReady, match="before it was ready: exited with status 0"):
            await sup.start(Service("t", sh("exit 0"), ready=RunningFor(60)))


async def test_any_type_may_say_it() -> None:
    program = """
import os, socket, time
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(99)
"""
    async with Supervisor() as sup:
        service = Service("s", [sys.executable, "-IS", "-c", program], ready="notify")
        handle = await sup.start(service)
        assert handle.state is ServiceState.ACTIVE


# --- by a probe ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_socket_that_somebody_listens_on(tmp_path: Path, eventually, kind) -> None:
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    path = os.path.relpath(tmp_path / "s")
    with socket.socket(family) as sock:
        sock.bind(("127.0.0.1", 0) if kind == "tcp" else path)
        probe = TcpProbe(sock.getsockname()[1]) if kind == "tcp" else UnixProbe(path)
        async with Supervisor() as sup:
            handle = sup.start_soon(Service("s", ["sleep", "99"], ready=probe))
            await eventually(lambda: handle.pid is not None)
            assert handle.state is ServiceState.ACTIVATING
            sock.listen()
            await wait_ready(handle)


async def test_http(eventually) -> None:
    answers = [b"503 Not yet", b"200 OK"]

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            await stream.send(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % answer)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with Supervisor() as sup:
            service = Service(
                "s", ["sleep", "99"], ready=HttpProbe(f"http://127.0.0.1:{port}/ready")
            )
            handle = await sup.start(service)
            assert handle.state is ServiceState.ACTIVE
            assert answers == [b"200 OK"]
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_function(asynchronous) -> None:
    answers: list[object] = [ValueError("too early"), False, True]

    def answer() -> bool:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return bool(found)

    async def answer_later() -> bool:
        await anyio.sleep(0)
        return answer()

    async with Supervisor() as sup:
        ready = answer_later if asynchronous else answer
        handle = await sup.start(Service("s", ["sleep", "99"], ready=ready))
        assert handle.state is ServiceState.ACTIVE
        assert not answers


# --- not ready ----------------------------------------------------------------------------------


async def test_not_in_time(tmp_path: Path, marker) -> None:
    """Each says what was lacking, and what the service had printed; nothing is left of it."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        cases: dict[str, tuple[Any, str]] = {
            "notify": (Notified(), "it has not said READY=1"),
            "tcp": (TcpProbe(unheard.getsockname()[1]), "Connection refused"),
            "unix": (UnixProbe(tmp_path / "no"), "No such file or directory"),
            "file": (FileExists(tmp_path / "no"), f"there is no new {tmp_path / 'no'}"),
            "output": (OutputMatches("x+"), "no line of its output matches 'x+'"),
            "newline": (NewlineOn(3), "it has written no newline to descriptor 3"),
            "function": (lambda: 0, "returned 0"),
        }
        found: dict[str, NotReady] = {}

        async def start(sup: Supervisor, name: str) -> None:
            service = Service(
                *(name, sh(f"echo I am {name}; exec sleep {marker}")),
                ready=cases[name][0],
                start_timeout=0.5,
            )
            with pytest.raises(NotReady) as caught:
                await sup.start(service)
            found[name] = caught.value

        async with Supervisor() as sup, anyio.create_task_group() as tasks:
            for name in cases:
                tasks.start_soon(start, sup, name)
        for name, (_, lacking) in cases.items():
            assert found[name].reason == f"not ready within 0.5 s: {lacking}"
            assert found[name].output in ("", f"I am {name}\n")
        assert sup.tree() == ()
        assert not marker.pids()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it takes its time
async def test_not_in_time_with_its_last_output() -> None:
    async with Supervisor() as sup:
        service = Service(
            *("s", sh("echo first; echo last >&2; exec sleep 99")),
            ready=OutputMatches("never"),
            start_timeout=2,
            output=OutputPolicy(merge_stderr=True),
        )
        with pytest.raises(NotReady) as caught:
            await sup.start(service)
        assert caught.value.output == "first\nlast\n"
        assert str(caught.value).startswith("s: not ready within 2 s: no line of its output")
        assert str(caught.value).endswith("\nfirst\nlast")


async def test_it_ends_before(tmp_path: Path) -> None:
    conditions = Notified(), OutputMatches("ready"), NewlineOn(3), FileExists("ready"), TcpProbe(1)
    async with Supervisor() as sup:
        for ready in conditions:
            service = Service("s", sh("echo sorry; exit 9"), ready=ready, cwd=tmp_path)
            with pytest.raises(NotReady) as caught:
                await sup.start(service)
            assert caught.value.reason == "it ended before it was ready: exited with status 9"
            assert caught.value.output == "sorry\n"


@pytest.mark.parametrize(
    ("ready", "say"),
    [
        (OutputMatches("ready"), "echo ready"),
        (NewlineOn(3), "echo >&3"),
        (FileExists("ready"), "echo > ready"),
    ],
)
async def test_ready_in_its_last_moment(tmp_path: Path, ready, say) -> None:
    """What comes before the end is heard before the end: it was no failure."""
    async with Supervisor() as sup:
        service = Service("s", sh(say), ready=ready, restart="transient", cwd=tmp_path)
        handle = await sup.start(service)
        with anyio.fail_after(20):
            assert await handle.wait() is ServiceState.INACTIVE
        assert handle.restarts == 0


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    async with Supervisor() as sup:
        service = Service("s", ["sleep", "99"], ready=FileExists(tmp_path / "no" / "file"))
        with pytest.raises(FileNotFoundError, match=r"Service\.ready: its directory cannot be"):
            await sup.start(service)
