"""The keeper's program, with trouble at one point of its work. Run in its place."""

import os as _os
import random as _random
import sys as _sys
import time as _time

_POINT, _DEED = _os.environ["FAULT_POINT"], _os.environ["FAULT_DEED"]
_KINDS = {
    b"O": "OPEN", b"S": "SPAWN", b"s": "SIGNAL", b"k": "KILL",
    b"1": "STARTED", b"2": "FAILED", b"3": "EXITED", b"4": "EMPTY", b"5": "KILLED",
}  # fmt: skip


def _first(point: str) -> bool:
    """Whether it is time for the trouble, which comes once."""
    if point != _POINT:
        return False
    try:
        _os.close(_open(_os.environ["FAULT_ONCE"], _os.O_CREAT | _os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _at(point: str) -> None:
    if _DEED not in ("killed", "stopped", "slow", "broken") or not _first(point):
        return
    if _DEED == "killed":
        _os.kill(_os.getpid(), 9)
    elif _DEED == "stopped":
        _os.kill(_os.getpid(), 19)
    elif _DEED == "slow":
        _time.sleep(0.3)
    else:
        raise RuntimeError("a bug")


def _make_faulty(name: str) -> None:
    make = getattr(_os, name)

    def call(*arguments, **options):
        if _DEED.startswith("errno") and _first(name):
            number = int(_DEED.split()[1])
            raise OSError(number, _os.strerror(number))
        made = make(*arguments, **options)
        if name == "posix_spawn":
            _at("after the spawn")
        return made

    setattr(_os, name, call)


_open = _os.open
for _name in ("posix_spawn", "fork", "pipe2", "fchdir"):
    _make_faulty(_name)

__file__ = _os.environ["FAULT_PROGRAM"]
__name__ = "keeper"  # not to be run yet
with open(__file__) as _source:
    exec(compile(_source.read(), __file__, "exec"), globals())
__name__ = "__main__"
_receive, _tell, _send_signal = receive, Keeper.tell, send_signal  # noqa: F821


def _garbled(message: bytes) -> bytes:
    """Something like ``message``, as the deed says."""
    choice = _random.Random(_DEED)
    if "bare" in _DEED:
        return message[:1]
    if "cut" in _DEED:
        return message[: choice.randrange(1, len(message))]
    if "long" in _DEED:
        return message + choice.randbytes(choice.randrange(1, 100))
    if "unknown" in _DEED:
        return b"\xff" + message
    if "random" in _DEED:
        return message[:1] + choice.randbytes(choice.randrange(200))
    return message


def _faulty_receive(sock, buffer):
    received = _receive(sock, buffer)
    _at(f"after {_KINDS.get(received[0][:1])}")
    return received


def _faulty_tell(self, call, message, fds=()):
    kind = _KINDS.get(message[:1])
    _at(f"before {kind}")
    if _DEED.startswith("garbage") and _first(f"instead of {kind}"):
        message = _garbled(message)
        if "without" in _DEED:
            fds = ()
        if "with more" in _DEED:
            fds = [*fds, 0, 1, 2]
    _tell(self, call, message, fds)
    _at(f"after {kind}")


def _faulty_signal(pid, number, *more):
    sent = _send_signal(pid, number, *more)
    if number == 9:
        _at("after a kill")
    return sent


receive, Keeper.tell, send_signal = _faulty_receive, _faulty_tell, _faulty_signal  # noqa: F821
_at("at its start")
_os._exit(main(_sys.argv[1:]))  # noqa: F821
