"""What keeping services costs, beside other supervisors in one run.

    python benchmarks/services.py [--check] [--quick]

supervisord, circus and honcho come from PyPI, s6 from the system's packages; one that is not
installed is left out. ``--check`` exits with status 1 when a target is missed.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from measure import Report, parse_arguments

SERVICES = 200
IDLE_SECONDS = 10.0
BOUND = 120.0  # seconds for anything

# Says its name and number to a socket, then sleeps until it is killed.
ANNOUNCE_SOURCE = r"""
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    char text[256];
    strncpy(to.sun_path, argv[2], sizeof to.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int size = snprintf(text, sizeof text, "%s %d", argv[1], (int)getpid());
    sendto(fd, text, size, 0, (struct sockaddr *)&to, sizeof to);
    for (;;) pause();
}
"""

HOST_SOURCE = """
import signal, sys
import anyio
import agentsup

async def main(program, address, count, loop):
    async with agentsup.Supervisor(max_restarts=None) as sup:
        sup.start_soon(*[
            agentsup.Service(f"s{n}", [program, f"s{n}", address]) for n in range(count)
        ])
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                return

program, address, count, loop = sys.argv[1:]
backend = "trio" if loop == "trio" else "asyncio"
options = {"use_uvloop": True} if loop == "uvloop" else {}
anyio.run(main, program, address, int(count), loop, backend=backend, backend_options=options)
"""


@dataclass
class Contestant:
    """How to start one, from a folder of its own; it ends all at SIGTERM."""

    name: str
    command: Callable[[Path, str, str], list[str]]
    restarts: bool = True


@dataclass
class Figures:
    start: float
    restart: float | None
    wakeups: float  # a second
    cpu: float  # percent
    memory: float  # MiB
    stop: float


# --- the contestants --------------------------------------------------------------------------


def agentsup_on(loop: str) -> Contestant:
    def command(folder: Path, program: str, address: str) -> list[str]:
        (folder / "host.py").write_text(HOST_SOURCE)
        return [sys.executable, str(folder / "host.py"), program, address, str(SERVICES), loop]

    return Contestant(f"agentsup, {loop}", command)


def supervisord(folder: Path, program: str, address: str) -> list[str]:
    programs = "".join(
        f"[program:s{n}]\ncommand={program} s{n} {address}\nautorestart=true\nstartsecs=0\n"
        for n in range(SERVICES)
    )
    head = f"[supervisord]\nnodaemon=true\nlogfile={folder}/log\npidfile={folder}/pid\n"
    (folder / "supervisord.conf").write_text(f"{head}childlogdir={folder}\n{programs}")
    return ["supervisord", "-c", str(folder / "supervisord.conf")]


def circus(folder: Path, program: str, address: str) -> list[str]:
    head = f"[circus]\nendpoint=ipc://{folder}/a\npubsub_endpoint=ipc://{folder}/b\n"
    watchers = "".join(f"[watcher:s{n}]\ncmd={program} s{n} {address}\n" for n in range(SERVICES))
    (folder / "circus.ini").write_text(f"{head}check_delay=1\n{watchers}")
    return ["circusd", str(folder / "circus.ini")]


def honcho(folder: Path, program: str, address: str) -> list[str]:
    lines = [f"s{n}: exec {program} s{n} {address}\n" for n in range(SERVICES)]
    (folder / "Procfile").write_text("".join(lines))
    return ["honcho", "start", "-d", str(folder)]


def s6(folder: Path, program: str, address: str) -> list[str]:
    for n in range(SERVICES):
        service = folder / "scan" / f"s{n}"
        service.mkdir(parents=True)
        (service / "run").write_text(f"#!/bin/sh\nexec {program} s{n} {address}\n")
        (service / "run").chmod(0o755)
    return ["s6-svscan", "-c", str(2 * SERVICES), str(folder / "scan")]


def contestants() -> Iterator[Contestant]:
    for loop in ("asyncio", "uvloop", "trio"):
        yield agentsup_on(loop)
    for command, restarts in ((supervisord, True), (circus, True), (honcho, False), (s6, True)):
        program = {"circus": "circusd", "s6": "s6-svscan"}.get(command.__name__, command.__name__)
        if shutil.which(program):
            yield Contestant(command.__name__, command, restarts)
        else:
            print(f"  {command.__name__} is left out: there is no {program}")


# --- measuring one ----------------------------------------------------------------------------


class Announcements:
    """What the services say when they start."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "said")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(BOUND)
        self.pids: dict[str, int] = {}

    def next(self) -> str:
        name, pid = self._socket.recv(256).decode().split()
        self.pids[name] = int(pid)
        return name


def start_time(said: Announcements, begun: float) -> float:
    while len(said.pids) < SERVICES:
        said.next()
    return time.monotonic() - begun


def restart_time(said: Announcements, count: int) -> float:
    times = []
    for name in list(said.pids)[:count]:
        begun = time.monotonic()
        os.kill(said.pids[name], signal.SIGKILL)
        while said.next() != name:
            pass
        times.append(time.monotonic() - begun)
        time.sleep(0.02)  # no crash loop for who counts them
    return statistics.median(times)


def stop_time(said: Announcements, process: subprocess.Popen[bytes]) -> float:
    """Until none of the services is left."""
    poll = select.poll()
    fds = [os.pidfd_open(pid) for pid in said.pids.values()]
    for fd in fds:
        poll.register(fd, select.POLLIN)
    begun = time.monotonic()
    process.terminate()
    left = set(fds)
    while left and time.monotonic() < begun + BOUND:
        for fd, _ in poll.poll(1000):
            poll.unregister(fd)
            left.discard(fd)
    taken = time.monotonic() - begun
    for fd in fds:
        os.close(fd)
    process.wait(BOUND)
    return taken


def own_processes(process: subprocess.Popen[bytes], said: Announcements) -> list[psutil.Process]:
    """The supervisor's own: all that is not a service, nor started by a service's shell."""
    main = psutil.Process(process.pid)
    services = set(said.pids.values())
    return [one for one in (main, *main.children(recursive=True)) if one.pid not in services]


def idle(own: list[psutil.Process], seconds: float) -> tuple[float, float]:
    """Wakeups a second, and percent of one processor."""

    def read() -> tuple[int, float]:
        switches = cpu = 0.0
        for one in own:
            switches += one.num_ctx_switches().voluntary
            times = one.cpu_times()
            cpu += times.user + times.system
        return int(switches), cpu

    switches, cpu = read()
    time.sleep(seconds)
    later_switches, later_cpu = read()
    return (later_switches - switches) / seconds, 100 * (later_cpu - cpu) / seconds


def measure(contestant: Contestant, program: str, *, quick: bool) -> Figures:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        said = Announcements(folder)
        command = contestant.command(folder, program, said.path)
        begun = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            start = start_time(said, begun)
            restart = restart_time(said, 10 if quick else 50) if contestant.restarts else None
            time.sleep(2.0)  # whatever has been put off
            own = own_processes(process, said)
            wakeups, cpu = idle(own, 2.0 if quick else IDLE_SECONDS)
            memory = sum(one.memory_full_info().pss for one in own) / 2**20
            stop = stop_time(said, process)
        finally:
            for pid in (*said.pids.values(), process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        return Figures(start, restart, wakeups, cpu, memory, stop)


def compile_announcer(folder: Path) -> str:
    (folder / "announce.c").write_text(ANNOUNCE_SOURCE)
    program = str(folder / "announce")
    command = [shutil.which("cc") or "gcc", "-O2", "-o", program, str(folder / "announce.c")]
    subprocess.run(command, check=True)
    return program


def main() -> int:
    arguments = parse_arguments(__doc__)
    report = Report()
    report.title(f"{SERVICES} services")
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as name:
        program = compile_announcer(Path(name))
        for contestant in contestants():
            found = figures[contestant.name] = measure(contestant, program, quick=arguments.quick)
            restart = "-" if found.restart is None else f"{found.restart * 1e3:.1f} ms"
            report.row(
                contestant.name,
                f"{found.start * 1e3:.0f} ms",
                f"to start, {restart} from kill -9 to running, {found.stop * 1e3:.0f} ms to stop, "
                f"{found.wakeups:.1f} wakeups/s, {found.cpu:.2f} % CPU, {found.memory:.1f} MiB",
            )
    report.title("Against the targets, and the best of the others")
    for loop in ("asyncio", "uvloop", "trio"):
        compare(report, loop, figures)
    return report.end(check=arguments.check)


def compare(report: Report, loop: str, figures: dict[str, Figures]) -> None:
    ours = figures[f"agentsup, {loop}"]
    assert ours.restart is not None
    for name, found, target in (
        ("start / 600 ms", ours.start, 0.6),
        ("kill -9 to running / 10 ms", ours.restart, 0.01),
        ("stop / 150 ms", ours.stop, 0.15),
        ("memory / 30 MiB", ours.memory, 30.0),
        ("CPU / 0.1 %", ours.cpu, 0.1),
    ):
        report.ratio(f"{loop}: {name}", found, target, 1.0)
    report.no_growth(f"{loop}: wakeups", ours.wakeups, 0.0, "a second")
    others = [found for name, found in figures.items() if not name.startswith("agentsup")]
    restarts = [found.restart for found in others if found.restart is not None]
    if restarts:
        report.ratio(f"{loop}: restart / best", ours.restart, min(restarts), 1.0)
        report.ratio(f"{loop}: start / best", ours.start, min(o.start for o in others), 1.0)
        report.ratio(f"{loop}: stop / best", ours.stop, min(o.stop for o in others), 1.0)


if __name__ == "__main__":
    sys.exit(main())
