"""The programs of ``misbehaving.py``, each a function: ``python -I -S programs.py NAME OPTIONS``.

They need the standard library only. One that stays in its bad state says so by a line ``ready``,
after lines such as ``pid 123`` for what a test has to know. SIGALRM ends every process of them
when its lifetime is over, whatever has become of those who should have ended it.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable

BLOCK = (b"x" * 79 + b"\n") * 512


def main(name: str, options: str) -> None:
    given = json.loads(options)
    arm = functools.partial(signal.setitimer, signal.ITIMER_REAL, given.pop("lifetime"))
    arm()
    os.register_at_fork(after_in_child=arm)  # a forked process has no timers
    globals()[name](**given)


def say(*lines: str, then: str = "") -> None:
    text = "".join(f"{line}\n" for line in lines) + then
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def hang() -> None:
    while True:
        signal.pause()


def fork(run: Callable[[], object]) -> int:
    """The pid of a child that does that, and nothing else."""
    pid = os.fork()
    if pid:
        return pid
    try:
        run()
    finally:
        os._exit(0)


def hangs() -> None:
    say("ready")
    hang()


def ignores_term() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("ready")
    hang()


def ignores_everything() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGALRM}:
        signal.signal(number, signal.SIG_IGN)
    say("ready")
    hang()


def stops_itself() -> None:
    # SIGALRM ends a stopped process only when it goes on, for which it needs somebody else.
    parent = os.getpid()
    reader, writer = os.pipe()

    def go_on(*_: object) -> None:
        os.kill(parent, signal.SIGCONT)

    def wake() -> None:
        signal.signal(signal.SIGALRM, go_on)
        os.close(writer)
        os.closerange(0, 3)
        os.read(reader, 1)  # until the parent has ended

    fork(wake)
    say("ready")
    os.kill(parent, signal.SIGSTOP)
    hang()


def floods(size: int | None, stream: str) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python alone ignores it
    say("ready")
    left = sys.maxsize if size is None else size
    while left:
        left -= os.write({"stdout": 1, "stderr": 2}[stream], BLOCK[:left])


def partial_line(text: str, exits: bool) -> None:
    say("ready", then=text)
    if not exits:
        hang()


def half_closed_pipe() -> None:
    say("ready")
    os.closerange(1, 3)
    hang()


def daemonizes(pid_file: str | None) -> None:
    reader, writer = os.pipe()

    def daemon() -> None:
        pid = str(os.getpid())
        if pid_file is not None:
            with open(pid_file, "w") as file:
                file.write(f"{pid}\n")
        os.chdir("/")
        os.closerange(0, 3)
        os.write(writer, pid.encode())
        os.close(reader)
        os.close(writer)
        hang()

    def session() -> None:
        os.setsid()
        fork(daemon)

    os.waitpid(fork(session), 0)
    say(f"pid {os.read(reader, 20).decode()}", "ready")


def forks_children(count: int) -> None:
    children = [fork(hang) for _ in range(count)]
    say(*(f"pid {pid}" for pid in children), "ready")
    hang()


def exits_while_child_holds_pipe() -> None:
    say(f"pid {fork(hang)}", "ready")


def leaks_memory(size: int) -> None:
    step = 1024 * 1024
    kept: list[bytes] = []
    for start in range(0, size, step):
        kept.append(b"x" * min(step, size - start))
    say("ready")
    hang()


def wrong_exit(status: int) -> None:
    sys.exit(status)


def dies_by(number: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def crashes_at_start(times: int, count_in: str) -> None:
    with open(count_in, "ab") as file:
        file.write(b".")
        run = file.tell()
    if run <= times:
        raise RuntimeError(f"crash {run} of {times}")
    say("ready")
    hang()


def crashes_after(seconds: float) -> None:
    say("ready")
    time.sleep(seconds)
    raise RuntimeError(f"crash after {seconds} s")


def slow_start(seconds: float, port: int | None, file: str | None, notify: bool) -> None:
    import socket

    time.sleep(seconds)
    listener = None
    if port is not None:
        listener = socket.create_server(("127.0.0.1", port))
        say(f"port {listener.getsockname()[1]}")
    if file is not None:
        open(file, "w").close()
    if notify:
        address = os.environ["NOTIFY_SOCKET"]
        if address.startswith("@"):
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.sendto(b"READY=1", address)
    say("ready")
    while listener:
        listener.accept()[0].close()
    hang()


def flaky_health(port: int, first: int, every: int | None) -> None:
    import http.server
    import socketserver

    numbers = itertools.count(1)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = next(numbers)
            fails = number <= first or (every is not None and number % every == 0)
            self.send_response(503 if fails else 200)
            self.end_headers()

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", port), Handler) as server:
        say(f"port {server.server_address[1]}", "ready")
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
