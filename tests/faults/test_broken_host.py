"""A host that talks nonsense: its keeper neither ends, nor hangs, nor keeps what came with it."""

from __future__ import annotations

import array
import contextlib
import os
import random
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_random_cancellation import open_files

import agentsup
from agentsup import OutputPolicy
from agentsup._linux import keeper, lifeline


def garbage(choice):
    """One packet, and how many descriptors go with it."""
    argv, options = b"/bin/true\0true", b"targets=1,2"
    header = keeper.SPAWN_HEADER.pack(keeper.SPAWN, 0, 0o22, len(argv), 0, len(options))
    request = bytearray(header + argv + options)
    kind = choice.randrange(7)
    if kind == 0:
        return choice.randbytes(choice.randrange(1, 300)), choice.randrange(4)
    if kind == 1:
        return bytes(request[: choice.randrange(1, len(request))]), choice.randrange(4)
    if kind == 2:
        for _ in range(choice.randrange(1, 5)):
            request[choice.randrange(1, len(request))] = choice.randrange(256)
        return bytes(request), choice.randrange(5)
    if kind == 3:
        return choice.choice([b"O", b"S", b"a", b"s", b"k", b"s\x00", b"s\xff", b"R"]), 0
    if kind == 4:
        return bytes(request), choice.choice([0, 1, 2, 4, 60])
    if kind == 5:  # the body is said to be elsewhere
        request[1] |= keeper.LARGE
        return bytes(request), choice.randrange(5)
    return choice.randbytes(keeper.PACKET_MAX), 1


def send(through, packet, fds):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    through.sendmsg([packet], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


@contextlib.contextmanager
def in_flight():
    """A call that its keeper has in hand meanwhile; and that keeper."""
    read_end, write_end = os.pipe()
    started = threading.Event()
    policy = OutputPolicy(on_line=lambda *_: started.set())
    command = agentsup.shell("echo on; cat")
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(agentsup.run_sync, command, stdin=read_end, output=policy)
        try:
            assert started.wait(60)
            kept = lifeline._current
            yield kept
            os.write(write_end, b"undisturbed")
        finally:
            os.close(write_end)
            os.close(read_end)
        assert call.result().stdout.text == "on\nundisturbed"
    assert lifeline._current is kept


def settled(kept):
    """It has read all that was sent before, and answers others."""
    with contextlib.suppress(BlockingIOError):  # not left for a call to take for its own
        while kept.lifeline.recv(1, socket.MSG_DONTWAIT):
            pass
    return agentsup.run_sync(["true"]).ok


@pytest.mark.parametrize("where", ["a channel", "the lifeline"])
def test_garbage(where, until):
    for seed in range(40):
        try:
            talk_nonsense(random.Random(seed), where, until)
        except BaseException as exc:
            exc.add_note(f"with seed {seed}")
            raise


def talk_nonsense(choice, where, until):
    with (
        in_flight() as kept,
        contextlib.closing(lifeline.Channel(kept)) as channel,
        open("/dev/null", "r+b") as null,
    ):
        assert settled(kept)
        files = open_files(kept.pid)
        through = channel.socket if where == "a channel" else kept.lifeline
        for _ in range(10):
            packet, number = garbage(choice)
            if where == "the lifeline" and choice.random() < 0.3:
                packet, number = keeper.OPEN, choice.choice([1, 2, 3])  # what is no socket, too
            with contextlib.suppress(BrokenPipeError, BlockingIOError):
                send(through, packet, [null.fileno()] * number)
        until(lambda: settled(kept) and open_files(kept.pid) == files)
