"""Restarts under socket activation while clients connect as fast as they can: is anybody refused?

    python benchmarks/activation.py [--check] [--quick]

The server is killed with SIGKILL and restarted by its supervisor in turns, again and again.  What a
server had accepted when it was ended, its clients have lost: those are counted as cut off.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import time
from collections import Counter

import anyio
import anyio.to_thread
from measure import Report, parse_arguments

from agentsup import ListenSocket, Service, ServiceHandle, ServiceState, Supervisor

CONNECTIONS = 10_000
CLIENTS = 4
AT_ONCE = 25  # connections of a client until it says how they went
SERVER = """
import socket
listener = socket.socket(fileno=3)
while True:
    with listener.accept()[0] as connection:
        connection.sendall(b"hello")
"""


def connect(address: tuple[str, int]) -> str:
    try:
        with socket.create_connection(address, timeout=60) as client:
            return "served" if client.recv(5, socket.MSG_WAITALL) == b"hello" else "cut off"
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:
        return "cut off"
    except TimeoutError:
        return "left waiting"


def connect_often(address: tuple[str, int]) -> Counter[str]:
    return Counter(connect(address) for _ in range(AT_ONCE))


async def hammer(address: tuple[str, int], connections: int, seen: Counter[str]) -> None:
    while seen.total() < connections:
        seen.update(await anyio.to_thread.run_sync(connect_often, address))


async def hammer_and_end(
    server: ServiceHandle, address: tuple[str, int], connections: int, seen: Counter[str]
) -> None:
    """The same, and end the server after each turn."""
    for number in itertools.count():
        await hammer(address, min(connections, seen.total() + 1), seen)
        if seen.total() >= connections:
            return
        if number % 2:
            await server.restart()
        elif server.pid:
            os.kill(server.pid, signal.SIGKILL)


async def measure(connections: int) -> tuple[Counter[str], int]:
    """What became of them, and how many servers there were."""
    seen: Counter[str] = Counter()
    listening = ListenSocket("127.0.0.1:0")
    service = Service("server", [sys.executable, "-ISc", SERVER], sockets=(listening,))
    async with Supervisor(max_restarts=connections) as supervisor:
        events = supervisor.events(connections)
        server = await supervisor.start(service)
        host, _, port = server.addresses[0].rpartition(":")
        address = host, int(port)
        async with anyio.create_task_group() as clients:
            clients.start_soon(hammer_and_end, server, address, connections, seen)
            for _ in range(CLIENTS - 1):
                clients.start_soon(hammer, address, connections, seen)
    return seen, len([event async for event in events if event.state is ServiceState.ACTIVE])


def report_activation(report: Report, *, quick: bool = False) -> None:
    report.title("Socket activation: clients while their server is killed and restarted")
    start = time.monotonic()
    seen, servers = anyio.run(measure, CONNECTIONS // (10 if quick else 1))
    total = sum(seen.values())
    report.row("connections", f"{total}", f"in {time.monotonic() - start:.1f} s")
    report.row("servers", f"{servers}", "one after another")
    for fate in ("served", "cut off", "left waiting"):
        report.row(fate, f"{seen[fate]}")
    report.no_growth("refused", seen["refused"], 0, f"of {total}")


def main() -> int:
    arguments = parse_arguments(__doc__)
    report = Report()
    report_activation(report, quick=arguments.quick)
    return report.end(check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
