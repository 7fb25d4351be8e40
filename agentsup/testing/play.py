"""Do what a :class:`Script` says, as a program of its own: ``python play.py PACKED``.

It prints its standard output first, then the rest.  What it imports is what starts fast.
"""

from __future__ import annotations

import marshal
import os
import signal
import sys
import time
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LONG = 1e6  # seconds; time.sleep takes no infinity


def play(script: dict[str, Any]) -> None:
    for number in script["ignores"]:
        signal.signal(number, signal.SIG_IGN)
    for number, other in script["on_signal"]:
        _play_at(number, other)
    for words in script["leftovers"]:
        _leave(words)
    for fd, parts in script["printed"]:
        for part in parts:
            _write(fd, part)
    for message in script["notify"]:
        _say(message)
    if script["answer"]:
        answer = getattr(bytes, script["answer"])
        for line in sys.stdin.buffer:
            _write(1, answer(line))
    time.sleep(min(script["after"], LONG))
    if script["signal"]:
        signal.signal(script["signal"], signal.SIG_DFL)
        os.kill(os.getpid(), script["signal"])
    os._exit(script["exit_code"])


def _play_at(number: int, script: dict[str, Any]) -> None:
    def play_it(*_: object) -> None:
        play(script)

    signal.signal(number, play_it)


def _leave(words: list[str]) -> None:
    nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    os.posix_spawnp(words[0], words, os.environ, file_actions=nothing)


def _write(fd: int, part: bytes | float) -> None:
    if not isinstance(part, bytes):
        return time.sleep(part)
    while part:
        part = part[os.write(fd, part) :]
    return None


def _say(message: bytes | float) -> None:
    if not isinstance(message, bytes):
        time.sleep(message)
    elif path := os.environ.get("NOTIFY_SOCKET"):
        import socket

        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connected:
            connected.sendto(message, path)


if __name__ == "__main__":
    play(marshal.loads(zlib.decompress(bytes.fromhex(sys.argv[1]))))
