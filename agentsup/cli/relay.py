"""Pass through: a tool's output goes on to ours, and our signals go on to its tree.

There is no event loop here.  One poll(2) waits for the call, for signals and for room in the
outputs, so no reader that stalls can keep a deadline from being met.
"""

from __future__ import annotations

import math
import os
import select
import signal
import stat
import time
from typing import TYPE_CHECKING

from attrs import evolve

from .._values.escalation import Escalation, Step
from .._values.result import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from .._calls.call import Call
    from .._calls.reader import Reader

HELD_MAX = 256 * 1024  # bytes of each stream held for a slow reader, until the tool has to wait
PATIENCE = 1.0  # seconds that the rest of an output may find no reader once the time is up
TWICE = 2.0  # seconds within which a second ^C means: end it

_PIPE_BUF = select.PIPE_BUF  # what a pipe that polls as writable takes without a wait

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_CAUGHT = (
    *_ENDING,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGTSTP,
    signal.SIGCONT,
)


class Outlet:
    """Where one output stream goes on to. A write here never waits for a reader."""

    def __init__(self, fd: int, reader: Reader, admit: Callable[[int], int]) -> None:
        self.reader = reader
        self._admit = admit  # how many of so many more bytes may pass
        self.held = bytearray()
        self.error: OSError | None = None
        self.fd, self._polled = _without_waiting(fd)
        reader.sink = self._take

    def _take(self, chunk: memoryview) -> None:
        if self.error is None:
            self.held += chunk[: self._admit(len(chunk))]
            self.flush()

    @property
    def full(self) -> bool:
        return len(self.held) >= HELD_MAX

    def flush(self) -> None:
        """Write what finds room now."""
        try:
            while self.held:
                if not self._polled:
                    written = os.write(self.fd, self.held)
                elif is_writable(self.fd):
                    written = os.write(self.fd, self.held[:_PIPE_BUF])
                else:
                    return
                del self.held[:written]
        except BlockingIOError:
            pass
        except OSError as error:
            self.error = error
            self.held.clear()


def _without_waiting(fd: int) -> tuple[int, bool]:
    """A descriptor to write to instead of ``fd``, and whether to poll it before every write.

    ``fd`` is shared with others, who rely on its flags: O_NONBLOCK must not be set on it.  But a
    pipe or a terminal can be opened once more.  Files have no readers to wait for.
    """
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    mode = os.fstat(fd).st_mode
    try:
        if stat.S_ISFIFO(mode):
            return os.open(f"/proc/self/fd/{fd}", flags), False
        if os.isatty(fd):
            return os.open(os.ttyname(fd), flags), False
    except OSError:
        return fd, True  # another user's
    return fd, stat.S_ISSOCK(mode)


def is_writable(fd: int, seconds: float = 0) -> bool:
    """Whether a short write to ``fd`` will not wait."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


class Signals:
    """The signals that this process gets, as something to poll."""

    def __init__(self) -> None:
        self.fd, write_end = os.pipe()
        for fd in (self.fd, write_end):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        # One that is ignored, as SIGHUP under nohup(1), stays so.
        self._caught = [n for n in _CAUGHT if signal.getsignal(n) is not signal.SIG_IGN]
        for number in self._caught:
            signal.signal(number, _wake)

    def take(self) -> bytes:
        """The numbers of those that came."""
        try:
            return os.read(self.fd, 4096)
        except BlockingIOError:
            return b""

    def let_go(self) -> None:
        """From now on they do to this process what they do to any."""
        for number in self._caught:
            signal.signal(number, signal.SIG_DFL)


def _wake(number: int, frame: FrameType | None) -> None:
    """Without a handler no byte would come."""


class Relay:
    """One call between its caller and this process's own descriptors and signals."""

    def __init__(self, call: Call, grace: float) -> None:
        self._call = call
        self._grace = grace
        self._room = call.spec.terms.output_limit
        self._outlets = [
            Outlet(fd, reader, self._admit)
            for fd, reader in zip((1, 2), call.readers, strict=False)
        ]
        self._signals = Signals()
        self._interrupted = -math.inf

    def carry(self) -> None:
        """Go on until the call is over."""
        call = self._call
        while not call.result_ready:
            self._wait([call.fileno(), self._signals.fd])
            for number in self._signals.take():
                self._on_signal(number)
            for outlet in self._outlets:
                self._let_flow(outlet)
            call.step()
        self._signals.let_go()

    def _admit(self, size: int) -> int:
        """Past its limit the tool may print on for the time of its grace, to nobody."""
        if self._room is not None:
            size = min(size, self._room)
            self._room -= size
        return size

    def _let_flow(self, outlet: Outlet) -> None:
        outlet.flush()
        if outlet.error:
            # The tool finds out as it would have on our own stdout: by SIGPIPE or EPIPE.
            self._call.drop(outlet.reader)
        elif outlet.full:
            self._call.pause(outlet.reader)
            self._not_idle()  # it is our reader that is
        else:
            self._call.resume(outlet.reader)

    def deliver(self, until: float) -> int:
        """Write what is still held; return how many bytes found no reader in time."""
        until = max(until, time.monotonic() + PATIENCE)
        while held := self._held():
            self._wait([], until)
            for outlet in self._outlets:
                outlet.flush()
            if self._held() < held:
                until = max(until, time.monotonic() + PATIENCE)
            elif time.monotonic() >= until:
                break
        return held

    def _held(self) -> int:
        return sum(len(outlet.held) for outlet in self._outlets)

    def errors(self) -> list[OSError]:
        """Why output could not be written, other than that the reader has gone."""
        errors = [outlet.error for outlet in self._outlets if outlet.error]
        return [error for error in errors if not isinstance(error, BrokenPipeError)]

    def _wait(self, readable: list[int], until: float = math.inf) -> None:
        poll = select.poll()
        for fd in readable:
            poll.register(fd, select.POLLIN)
        for outlet in self._outlets:
            if outlet.held:
                poll.register(outlet.fd, select.POLLOUT)
        if math.isinf(until):
            poll.poll()
        else:
            poll.poll(max(0, math.ceil((until - time.monotonic()) * 1000)))

    # --- signals ------------------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        now = time.monotonic()
        if number == signal.SIGTSTP:
            self._suspend()
        elif number in _ENDING:
            self._end(signal.Signals(number))
        elif number == signal.SIGINT and now - self._interrupted < TWICE:
            self._end(signal.SIGTERM)
        else:
            self._call.signal_tree(number)
        if number == signal.SIGINT:
            self._interrupted = now

    def _end(self, first: signal.Signals) -> None:
        """Stop the call by an escalation that begins with ``first``."""
        rule = self._call.rule
        rule.terms = evolve(rule.terms, escalation=Escalation(Step(first, self._grace)))
        self._call.stop(Outcome.STOPPED)

    def _suspend(self) -> None:
        """Stop the tree and then this process, as ^Z does, until somebody continues it.

        SIGSTOP to the tree: it has a session of its own, where SIGTSTP would stop nothing.  To
        ourselves SIGTSTP: where nobody could ever continue us, the kernel will not stop us.
        """
        self._call.signal_tree(signal.SIGSTOP)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, _wake)
        self._call.signal_tree(signal.SIGCONT)
        self._not_idle()

    def _not_idle(self) -> None:
        """It cannot print just now, so it is not its fault."""
        self._call.rule.output(time.monotonic(), 0)
