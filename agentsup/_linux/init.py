"""PID 1 of a container: one child, the signals that are meant for it, and everybody's orphans.

Every signal is blocked, and taken by sigwaitinfo(2): none can interrupt anything, and none that
comes before the child is there is lost.  The child is our own and unreaped while it is signalled,
so its number cannot be another's.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING, NoReturn

from .._rules.init import Do, Send, State, To

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from .._rules.init import Action, InitRule

FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
_LONG = 1e6  # seconds; the kernel does not take any number
_LINE = 4000  # bytes; a pipe takes so much at once, or nothing


class Init:
    """Run one command, and return its exit status from :meth:`run`."""

    def __init__(
        self,
        words: tuple[str, ...],
        *,
        death_signal: int = 0,
        verbose: bool = False,
        warn: bool = False,
    ) -> None:
        self._words = words
        self._verbose = verbose
        self._warn = warn
        self._signals = signal.valid_signals()
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        # Where it is ignored, the kernel reaps, and keeps no status.
        self._child_handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._missed = death_signal and _die_with_parent(death_signal)
        self._terminal = Terminal()
        if os.getpid() != 1:
            self._adopt_orphans()

    @property
    def is_job(self) -> bool:
        """A shell waits for us, and goes on when we stop. Nothing stops PID 1."""
        return self._terminal.fd is not None and os.getpid() != 1

    def run(self, rule: InitRule) -> int:
        self._rule = rule
        self._child = self._start()
        os.chdir("/")  # never keep a file system busy
        self._note(f"started process {self._child}")
        if self._missed:
            self._act(rule.received(time.monotonic(), self._missed))
        while rule.state is not State.FINISHED:
            number = self._wait()
            now = time.monotonic()
            if number == signal.SIGCHLD:
                self._reap()
            elif number:
                self._note(f"received {_name(number)}")
                self._act(rule.received(now, number))
            self._act(rule.tick(now))
        self._terminal.take_back()
        return FAILED if rule.status is None else rule.status

    # --- the child ----------------------------------------------------------------------------

    def _start(self) -> int:
        self._terminal.lent = self._terminal.is_ours()
        pid = os.fork()
        if pid == 0:
            self._become_command()
        try:
            os.setpgid(pid, pid)  # both do it: whoever is first, the group is there for either
        except OSError:
            pass  # it has executed the command, or has ended
        return pid

    def _become_command(self) -> NoReturn:
        status = FAILED
        try:
            os.setpgid(0, 0)
            if self._terminal.lent:  # by itself: it may read from it at once
                self._terminal.lend(os.getpid())
            # What Python has changed would go on to the command; and while its own handler of
            # SIGINT is there, a signal that has come already would only be noted.
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, self._child_handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            os.execvp(self._words[0], self._words)
        except OSError as error:
            say(f"{self._words[0]}: {error.strerror}")
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            status = NOT_FOUND if missing else NOT_EXECUTABLE
        finally:
            os._exit(status)

    # --- the loop -----------------------------------------------------------------------------

    def _wait(self) -> int | None:
        deadline = self._rule.deadline
        if deadline is None:
            return signal.sigwaitinfo(self._signals).si_signo
        left = min(max(deadline - time.monotonic(), 0.0), _LONG)
        info = signal.sigtimedwait(self._signals, left)
        return info and info.si_signo

    def _reap(self) -> None:
        alone = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                alone = True
                break
            if pid == 0:
                break
            if os.WIFSTOPPED(status):
                if pid == self._child:
                    self._act(self._rule.stopped())
            elif pid == self._child:
                code = os.waitstatus_to_exitcode(status)
                self._note(f"process {pid} ended: {code}")
                self._rule.ended(code)
            elif self._warn or self._verbose:
                say(f"reaped process {pid}, which was left behind")
        self._act(self._rule.reaped(time.monotonic(), alone))

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if action is Do.LEND_TERMINAL:
                if self._terminal.is_ours():
                    self._terminal.lend(self._child)
            elif action is Do.SUSPEND:
                self._terminal.take_back()
                os.kill(os.getpid(), signal.SIGSTOP)
            elif isinstance(action, Send):
                self._send(action)

    def _send(self, action: Send) -> None:
        if action.to is To.LEFTOVERS:
            return self._send_to_leftovers(action.number)
        self._note(f"{_name(action.number)} to the {action.to.name.lower()} {self._child}")
        send: Callable[[int, int], None] = os.killpg if action.to is To.GROUP else os.kill
        try:
            send(self._child, action.number)
        except ProcessLookupError:
            pass  # nobody is left in its group
        except PermissionError as error:
            say(f"{_name(action.number)} to process {self._child}: {error.strerror}")
        return None

    def _send_to_leftovers(self, number: int) -> None:
        self._note(f"{_name(number)} to what is left")
        if os.getpid() == 1:
            try:
                return os.kill(-1, number)  # all but us, and as one: no fork gets away
            except OSError:
                return None  # there is none, or none that we may signal
        # One that is killed can fork no more, and who has been forked before is found here.
        signalled: set[int] = set()
        deadline = self._rule.deadline or 0.0
        while fresh := _signal_descendants(number, signalled):
            signalled |= fresh
            if number != signal.SIGKILL or time.monotonic() >= deadline:
                break
        return None

    def _adopt_orphans(self) -> None:
        from .keeper import prctl

        try:
            prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
        except OSError as error:
            say(f"neither PID 1 nor a subreaper ({error}): orphans will not be reaped")

    def _note(self, text: str) -> None:
        if self._verbose:
            say(text)


class Terminal:
    """The controlling terminal, if there is one, and which process group has it."""

    def __init__(self) -> None:
        self.lent = False
        self.fd: int | None = None
        try:
            self.fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        except OSError:
            pass

    def is_ours(self) -> bool:
        try:
            return self.fd is not None and os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:
            return False  # it has hung up

    def lend(self, group: int) -> None:
        self.lent = True
        self._set(group)

    def take_back(self) -> None:
        if self.lent:
            self._set(os.getpgrp())

    def _set(self, group: int) -> None:
        if self.fd is not None:
            try:
                os.tcsetpgrp(self.fd, group)  # allowed from the background: TTOU is blocked
            except OSError:
                pass  # it has hung up, or the group has ended


def say(text: str) -> None:
    """One line on stderr, unless nobody would take it: nothing may hang because of it."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    if poll.poll(0) == [(2, select.POLLOUT)]:
        try:
            os.write(2, f"agentsup init: {text}\n".encode(errors="surrogateescape")[-_LINE:])
        except OSError:
            pass


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _die_with_parent(number: int) -> int:
    """Whether it has ended already: then the signal, which nobody else will send."""
    from .keeper import prctl

    parent = os.getppid()
    prctl(1, number)  # PR_SET_PDEATHSIG
    return number if os.getppid() != parent else 0


def _signal_descendants(number: int, but: Container[int]) -> set[int]:
    """Signal each but those; who that was."""
    from .keeper import children_of, stat_fields

    tree = [os.getpid()]
    for pid in tree:
        tree += children_of(pid)
    family = {str(pid).encode() for pid in tree}
    fresh = {pid for pid in tree[1:] if pid not in but}
    for pid in fresh:
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            # Looked at again now that it is pinned: the number may have become another's.
            if family.intersection(stat_fields(pid)[1:2]):
                signal.pidfd_send_signal(fd, number)
        except OSError:
            pass  # it has ended, or is not ours to signal
        finally:
            os.close(fd)
    return fresh
