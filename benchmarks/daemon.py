"""What ``agentsup up`` and ``agentsup ctl`` cost, beside supervisord and circus in one run.

    python benchmarks/daemon.py [--check] [--quick]

supervisord and circus come from PyPI; one that is not installed is left out. What is logged goes to
files in $TMPDIR, and all of it is counted there. ``--check`` exits with status 1 when a target is
missed.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gzip
import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import services
from measure import Block, Report, medians, parse_arguments, timed
from services import Announcements, Contestant, compile_announcer, own_processes

BOUND = 120.0  # seconds for anything
AGENTSUP = [sys.executable, "-m", "agentsup"]
SEGMENT = 16 * 2**20  # bytes of a log file
HEAD = b"12:00:00 INFO "  # of every line
ENDING = b"that was all"
LISTENING = "supervisord, records by a listener"

# Says that it is there, waits for a word, and prints as fast as it can; blocks, not line by line.
PRINTER_SOURCE = f"""
import fcntl, os, signal, socket, sys
name, address, go, lines, length = sys.argv[1:]
lines, length = int(lines), int(length)
said = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
said.sendto(f"{{name}} {{os.getpid()}}".encode(), address)
def line(text):
    return ({HEAD!r} + text * length)[:length - 1] + b"\\n"
many = max(1, 65536 // length)
block = memoryview(line(b"a line as any other ") * many)
fcntl.flock(open(go), fcntl.LOCK_SH)
def write(data):
    while data:
        data = data[os.write(1, data):]
for _ in range((lines - 1) // many):
    write(block)
write(block[:(lines - 1) % many * length])
write(memoryview(line({ENDING!r} + b", ")))
signal.pause()
"""

# As the printer, so many MiB of lines that nobody can guess; leaves their SHA-256 in a file.
FLOOD_SOURCE = f"""
import fcntl, hashlib, os, random, signal, socket, sys
name, address, go, size, folder = sys.argv[1:]
said = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
said.sendto(f"{{name}} {{os.getpid()}}".encode(), address)
digits = random.Random(name).randbytes(2**19).hex().encode()
lines = b"\\n".join(digits[at:at + 99] for at in range(0, len(digits), 99)) + b"\\n"
digest = hashlib.sha256()
fcntl.flock(open(go), fcntl.LOCK_SH)
def write(data):
    digest.update(data)
    while data:
        data = data[os.write(1, data):]
for number in range(int(size)):
    write(memoryview(b"%d\\n%s" % (number, lines)))
digest.update({ENDING!r} + b"\\n")
with open(f"{{folder}}/{{name}}.sha256", "w") as file:
    file.write(digest.hexdigest())
write(memoryview({ENDING!r} + b"\\n"))
signal.pause()
"""

# supervisord's own way to more than bytes: it is told of what was read, and makes records of it.
LISTENER_SOURCE = """
import json, os, sys, time
folder, segment = sys.argv[1], int(sys.argv[2])
files, rests, numbers = {}, {}, {}
def write(name, records):
    file = files.get(name)
    if file is None or file.tell() > segment:
        path = f"{folder}/{name}.log"
        if file is not None:
            file.close()
            numbers[name] = number = numbers.get(name, 0) + 1
            os.rename(path, f"{path}.{number}")
        file = files[name] = open(path, "wb", 0)
    file.write(records)
while True:
    sys.stdout.write("READY\\n")
    sys.stdout.flush()
    head = dict(word.split(":") for word in sys.stdin.buffer.readline().decode().split())
    about, _, data = sys.stdin.buffer.read(int(head["len"])).partition(b"\\n")
    about = dict(word.split(":") for word in about.decode().split())
    name, now = about["processname"], time.time()
    *lines, rests[name] = (rests.get(name, b"") + data).split(b"\\n")
    write(name, "".join(
        json.dumps({
            "ts": now, "service": name, "pid": int(about["pid"]), "stream": "stdout",
            "message": line.decode(),
        }) + "\\n"
        for line in lines
    ).encode())
    sys.stdout.write("RESULT 2\\nOK")
    sys.stdout.flush()
"""


# --- the contestants --------------------------------------------------------------------------


@dataclass
class Daemon:
    """One that runs ``commands`` (by name) from a folder of its own, and what asks it."""

    name: str
    start: Callable[[Path, dict[str, list[str]]], list[str]]
    #: Asks for the state of all.
    status: Callable[[Path], list[str]]
    #: The files that have what a service has printed, the newest last.
    logs: Callable[[Path, str], list[Path]]


def agentsup_up(compress: bool, folder: Path, commands: dict[str, list[str]]) -> list[str]:
    size = f'segment_size = {SEGMENT}\nmax_size = "8G"\ntotal_size = "16G"'
    file = f"[logs]\n{size}\ncompress = {str(compress).lower()}\n"
    for name, command in commands.items():
        file += f"[service.{name}]\ncommand = {command!r}\n"
    (folder / "agentsup.toml").write_text(file)
    return [*AGENTSUP, "up", "-f", str(folder / "agentsup.toml")]


def agentsup_logs(folder: Path, name: str) -> list[Path]:
    return sorted((folder / ".agentsup" / "logs" / name).glob("*.jsonl*"))


def agentsup_daemon(name: str, *, compress: bool = False) -> Daemon:
    return Daemon(
        name,
        functools.partial(agentsup_up, compress),
        lambda folder: [*AGENTSUP, "ctl", "-f", str(folder / "agentsup.toml"), "status"],
        agentsup_logs,
    )


def supervisord(folder: Path, commands: dict[str, list[str]]) -> list[str]:
    file = f"""
[supervisord]
nodaemon=true
logfile={folder}/log
pidfile={folder}/pid
[unix_http_server]
file={folder}/control
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{folder}/control
"""
    for name, command in commands.items():
        file += f"""
[program:{name}]
command={" ".join(command)}
startsecs=0
stdout_logfile={folder}/{name}.log
stdout_logfile_maxbytes={SEGMENT}
stdout_logfile_backups=1000
stderr_logfile=NONE
"""
    (folder / "supervisord.conf").write_text(file)
    return ["supervisord", "-c", str(folder / "supervisord.conf")]


def supervisord_listening(folder: Path, commands: dict[str, list[str]]) -> list[str]:
    """As its manual has one do who wants more than bytes in a file: a record for each line."""
    started = supervisord(folder, commands)
    (folder / "listener.py").write_text(LISTENER_SOURCE)
    file = (folder / "supervisord.conf").read_text()
    file = re.sub("stdout_logfile=.*", "stdout_logfile=NONE\nstdout_events_enabled=true", file)
    command = f"{sys.executable} -I -S {folder}/listener.py {folder} {SEGMENT}"
    (folder / "supervisord.conf").write_text(f"""{file}
[eventlistener:records]
command={command}
events=PROCESS_LOG_STDOUT
buffer_size=1000000
""")
    return started


def circus(folder: Path, commands: dict[str, list[str]]) -> list[str]:
    file = f"""
[circus]
endpoint=ipc://{folder}/a
pubsub_endpoint=ipc://{folder}/b
check_delay=1
"""
    for name, command in commands.items():
        file += f"""
[watcher:{name}]
cmd={" ".join(command)}
stdout_stream.class=FileStream
stdout_stream.filename={folder}/{name}.log
stdout_stream.max_bytes={SEGMENT}
stdout_stream.backup_count=1000
"""
    (folder / "circus.ini").write_text(file)
    return ["circusd", str(folder / "circus.ini")]


def numbered_logs(folder: Path, name: str) -> list[Path]:
    """``NAME.log`` is the newest."""
    return sorted(folder.glob(f"{name}.log*"), reverse=True)


def supervisorctl(folder: Path) -> list[str]:
    return ["supervisorctl", "-c", str(folder / "supervisord.conf"), "status"]


def circusctl(folder: Path) -> list[str]:
    return ["circusctl", "--endpoint", f"ipc://{folder}/a", "status"]


def daemons() -> Iterator[Daemon]:
    yield agentsup_daemon("agentsup up")
    for name, start, status in (
        ("supervisord", supervisord, supervisorctl),
        ("circusd", circus, circusctl),
    ):
        if shutil.which(name):
            yield Daemon(name, start, status, numbered_logs)
        else:
            print(f"  {name} is left out: it is not installed")


@contextlib.contextmanager
def running(
    daemon: Daemon, folder: Path, commands: dict[str, list[str]]
) -> Iterator[subprocess.Popen[bytes]]:
    """It has been started. All of it has ended afterwards."""
    process = subprocess.Popen(
        daemon.start(folder, commands),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        others = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(BOUND)
        finally:
            for one in (process, *others):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


# --- what is logged ---------------------------------------------------------------------------


@dataclass
class Logged:
    rate: float  # lines a second
    cpu: float  # seconds of the daemon for a million lines
    memory: float  # MiB at its end


def has_ended(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        return ENDING in file.read()


def wait_for_the_end(
    logs: Callable[[str], list[Path]],
    names: Sequence[str],
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    deadline = time.monotonic() + BOUND
    for name in names:
        while True:
            with contextlib.suppress(FileNotFoundError):  # as it is rotated
                if any(has_ended(path) for path in logs(name)[-1:]):
                    break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} has not been logged to its end")
            meanwhile()
            time.sleep(0.005)


class Memory:
    """Of these processes, as time goes by (MiB)."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        self._processes = processes
        self._seen: list[float] = []

    def look(self) -> None:
        self._seen.append(sum(one.memory_info().rss for one in self._processes) / 2**20)

    @property
    def growth(self) -> float:
        """From a quarter of the time on, when all that is needed has been asked for once."""
        return round(max(self._seen) - self._seen[len(self._seen) // 4], 1)


def count_lines(path: Path) -> int:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).count(HEAD)


@contextlib.contextmanager
def printers(
    daemon: Daemon, folder: Path, source: str, names: Sequence[str], *words: object
) -> Iterator[tuple[list[psutil.Process], Callable[[], float]]]:
    """Yields the processes of the daemon, and what has all begin, at the time that it returns."""
    said = Announcements(folder)
    (folder / "printer.py").write_text(source)
    command = [sys.executable, "-I", "-S", str(folder / "printer.py")]
    rest = [said.path, str(folder / "go"), *map(str, words)]
    with (folder / "go").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def go() -> float:
            fcntl.flock(lock, fcntl.LOCK_UN)
            return time.monotonic()

        with running(daemon, folder, {name: [*command, name, *rest] for name in names}) as process:
            while len(said.pids) < len(names):
                said.next()
            yield own_processes(process, said), go


def cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def log(daemon: Daemon, count: int, lines: int, length: int) -> Logged:
    """``lines`` of ``length`` bytes, by ``count`` services at once."""
    names, each = [f"s{n}" for n in range(count)], lines // count
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with printers(daemon, folder, PRINTER_SOURCE, names, each, length) as (own, go):
            before = cpu_seconds(own)
            begun = go()
            wait_for_the_end(functools.partial(daemon.logs, folder), names)
            taken = time.monotonic() - begun
            cpu = cpu_seconds(own) - before
            memory = sum(one.memory_full_info().pss for one in own) / 2**20
        found = {name: sum(map(count_lines, daemon.logs(folder, name))) for name in names}
        if set(found.values()) != {each}:
            raise RuntimeError(f"{daemon.name} was to log {each} lines of each, it has {found}")
        return Logged(each * count / taken, cpu / (each * count / 1e6), memory)


def log_path(report: Report, contestants: list[Daemon], *, quick: bool) -> None:
    compressing = agentsup_daemon("agentsup up, compressing", compress=True)  # by another process
    others: list[Daemon] = []
    if any(one.name == "supervisord" for one in contestants):
        others.append(Daemon(LISTENING, supervisord_listening, supervisorctl, numbered_logs))
    for (length, lines), count in itertools.product(((80, 2_000_000), (1024, 200_000)), (1, 20)):
        lines = lines // 10 if quick else lines
        of = "1 service" if count == 1 else f"{count} services"
        report.title(f"Lines of {length} bytes by {of}, {lines:,} in all")
        taken: dict[str, list[Logged]] = {}
        for _ in range(1 if quick else 3):  # in turns
            for daemon in (*contestants, *others, compressing):
                taken.setdefault(daemon.name, []).append(log(daemon, count, lines, length))
        found = {
            name: sorted(rows, key=lambda row: row.rate)[len(rows) // 2]
            for name, rows in taken.items()
        }
        for name, row in found.items():
            rate = f"{row.rate / 1e3:,.0f} k/s"
            speed = row.rate * length / 2**20
            note = f"{speed:,.0f} MiB/s, {row.cpu:.2f} s of CPU for a million, {row.memory:.0f} MiB"
            report.row(name, rate, note)
        ours = found["agentsup up"]
        if other := found.get("supervisord"):
            ratio = f"{other.rate / ours.rate:.2f}x, {ours.cpu / other.cpu:.2f}x"
            report.row("time, CPU of a line / supervisord's", ratio, "which looks at no line")
        if other := found.get(LISTENING):
            report.ratio("time of a line / its listener's", other.rate, ours.rate, 1 / 3)
            report.ratio("CPU of a line / its listener's", ours.cpu, other.cpu, 1.0)


# --- nothing is lost --------------------------------------------------------------------------


def printed(segment: Path) -> bytes:
    """What is in it, of lines that need no escapes, without what the daemon says."""
    lines = re.findall(rb'"stream":"stdout".*?"message":"(.*?)"', segment.read_bytes())
    return b"".join(line + b"\n" for line in lines)


def flood(report: Report, *, quick: bool) -> None:
    """What services have printed is what is logged, by checksum."""
    names, each = [f"s{n}" for n in range(20)], 10 if quick else 100
    report.title(f"{len(names)} services, {each} MiB of each, by checksum")
    daemon = agentsup_daemon("agentsup up")
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        with printers(daemon, folder, FLOOD_SOURCE, names, each, folder) as (own, go):
            memory = Memory(own)
            begun = go()
            wait_for_the_end(functools.partial(daemon.logs, folder), names, memory.look)
            taken = time.monotonic() - begun
        for name in names:
            found = b"".join(map(printed, daemon.logs(folder, name)))
            if hashlib.sha256(found).hexdigest() != (folder / f"{name}.sha256").read_text():
                raise RuntimeError(f"{name} is not what it has printed: {len(found)} bytes")
        place = ["--file", str(folder / "agentsup.toml"), "-u", names[0], "-o", "json"]
        done = subprocess.run([*AGENTSUP, "logs", *place], stdout=subprocess.PIPE, check=True)
        segments = daemon.logs(folder, names[0])
        if done.stdout != b"".join(path.read_bytes() for path in segments):
            raise RuntimeError(f"'agentsup logs' does not show what is logged of {names[0]}")
    report.row("nothing lost", f"{len(names) * each / taken:.0f} MiB/s", "target >= 100")
    report.no_growth("memory, from a quarter on", memory.growth, 4.0, "MiB")


# --- what is asked ----------------------------------------------------------------------------


def ask(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def status(report: Report, contestants: list[Daemon], count: int, *, quick: bool) -> None:
    report.title(f"status of {count} services, as a program (ms)")
    commands = {f"s{n}": ["sleep", "1000000"] for n in range(count)}
    with contextlib.ExitStack() as stack:
        blocks: dict[str, Block] = {}
        for daemon in contestants:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.enter_context(running(daemon, folder, commands))
            command = daemon.status(folder)
            wait_for_answer(command, count)
            blocks[daemon.name] = lambda n, command=command: timed(lambda: ask(command), n)
        found = medians(blocks, 2 if quick else 10, 2 if quick else 5)
    for name, seconds in found.items():
        report.row(name, f"{seconds * 1e3:.1f} ms")
    if "supervisord" in found:
        ours, theirs = found["agentsup up"], found["supervisord"]
        report.ratio("ctl status / supervisorctl status", ours, theirs, 0.5)


def wait_for_answer(command: list[str], count: int) -> None:
    deadline = time.monotonic() + BOUND
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.count("\n") >= count:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{command}: {done.stdout}{done.stderr}")
        time.sleep(0.1)


# --- what they cost by being there ------------------------------------------------------------


def beside(report: Report, contestants: list[Daemon], *, quick: bool) -> None:
    report.title(f"{services.SERVICES} services")
    found = {}
    with tempfile.TemporaryDirectory() as name:
        program = compile_announcer(Path(name))
        for daemon in contestants:
            found[daemon.name] = row = services.measure(announcing(daemon), program, quick=quick)
            assert row.restart is not None
            report.row(
                daemon.name,
                f"{row.start * 1e3:.0f} ms",
                f"to start, {row.restart * 1e3:.1f} ms from kill -9 to running, "
                f"{row.stop * 1e3:.0f} ms to stop, "
                f"{row.wakeups:.1f} wakeups/s, {row.cpu:.2f} % CPU, {row.memory:.1f} MiB",
            )
    report.no_growth("agentsup up: wakeups", found["agentsup up"].wakeups, 0.0, "a second")


def announcing(daemon: Daemon) -> Contestant:
    def command(folder: Path, program: str, address: str) -> list[str]:
        names = [f"s{n}" for n in range(services.SERVICES)]
        return daemon.start(folder, {name: [program, name, address] for name in names})

    return Contestant(daemon.name, command)


def main() -> int:
    arguments = parse_arguments(__doc__)
    report = Report()
    contestants = list(daemons())
    log_path(report, contestants, quick=arguments.quick)
    flood(report, quick=arguments.quick)
    for count in (10, services.SERVICES):
        status(report, contestants, count, quick=arguments.quick)
    beside(report, contestants, quick=arguments.quick)
    return report.end(check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
