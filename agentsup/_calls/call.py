"""A call in hand: its descriptors, in one epoll, and what its rule says is to be done.

Nothing here waits, but :meth:`Call.step` on request.  The drivers, ``on_loop.py`` and
``blocking.py``, wait for ``call.fileno()`` to become readable, then call ``step``, on asyncio, on
trio and without any event loop alike. Its deadline is one of the descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import resource
import select
import signal
import time
from typing import TYPE_CHECKING

from .._errors import AgentsupError, KeeperLost, SpawnError, os_error
from .._linux import keeper as wire
from .._linux import lifeline
from .._rules.call import CallRule, Do, RunCommand, SendSignal
from .._values.command import Command
from .._values.result import (
    Containment,
    Found,
    Leftover,
    Outcome,
    Result,
    TakenStep,
    Usage,
)
from .capture import Capture, UntilItRaises
from .lookup import explain
from .reader import Reader
from .spec import PIPE, pre_stop_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from .spec import Spec

_FOUND = {
    wire.DESCENDANT: Found.DESCENDANT,
    wire.ORPHAN: Found.ORPHAN,
    wire.UNATTRIBUTED: Found.UNATTRIBUTED,
}


class Call:
    """One call, from the request to the result.

    ``prepare`` and then ``send`` until it says True; then ``step`` until ``result_ready``; then
    ``close``, always. A call that is closed before its time is killed by the keeper.
    """

    def __init__(
        self, spec: Spec, *, eager: bool = False, outputs: tuple[int, int] | None = None
    ) -> None:
        self.spec = spec
        self._eager = eager  # the pid is wanted as soon as there is one
        self.rule = CallRule(spec.terms, time.monotonic())
        self.queued = 0.0
        self.pid: int | None = None
        self.error: AgentsupError | None = None
        self.readers: list[Reader] = []
        self.stdin_fd = -1  # the host's end of a stdin pipe
        self.on_change: Callable[[], None] = _nothing  # told when an event may concern somebody
        self._armed = -math.inf  # what the timer is set to
        self.before_stdin_closes: Callable[[], None] = _nothing
        self._outputs = outputs  # descriptors that take stdout and stderr, instead of pipes
        on_line = UntilItRaises(spec.output.on_line) if spec.output.on_line else None
        self._captures = {"stdout": Capture("stdout", spec.output, on_line)}
        if not spec.output.merge_stderr:
            self._captures["stderr"] = Capture("stderr", spec.output, on_line)
        self._keeper: lifeline.Keeper | None = None
        self._channel: lifeline.Channel | None = None
        self._index = 0  # the number of the spawn
        self._pidfd = -1
        self._request: bytes | None = None
        self._fds: list[int] = []  # descriptors that go to the keeper and are ours to close
        self._total = 0  # bytes of output
        self._status: int | None = None
        self._usage = Usage()
        self._leftovers: tuple[Leftover, ...] = ()
        self._leftover_count = 0
        self._pre_stop: Call | None = None
        self._extra_steps: list[TakenStep] = []
        self._handlers: dict[int, Callable[[], None]] = {}
        self._over = False  # the last message has come

    # --- starting -----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the descriptors and the request. Whatever fails, nothing has been started."""
        try:
            self._prepare()
        except OSError as error:
            self.close()
            if isinstance(error, AgentsupError):
                raise
            what = "the call could not be prepared"
            if error.filename == b".":
                what = "this process's current directory cannot be entered (give cwd=)"
            message = f"{what}: {os.strerror(error.errno or 0)}"
            raise SpawnError(error.errno or 0, message, error.filename) from None
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        spec = self.spec
        self._keeper = lifeline.acquire()
        self._fds.append(os.open(spec.cwd, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        targets = b"0,1,2" if self._make_stdin() else b"1,2"
        if self._outputs:
            self._fds += [os.dup(fd) for fd in self._outputs]
        else:
            self._make_outputs()
        options = b"targets=" + targets + (b"\0" + spec.options if spec.options else b"")
        argv = b"\0".join([spec.program, *spec.argv])
        # Without tags there would be only the pidfd to kill by if the keeper were lost; and a
        # pre-stop command is told the pid.
        commands = any(isinstance(step.action, Command) for step in spec.terms.escalation.steps)
        eager = self._eager or commands or not self._keeper.tags.stride
        self._request, body = lifeline.spawn_packet(argv, spec.env, options, eager=eager)
        if body >= 0:
            self._fds.append(body)

    def _make_stdin(self) -> bool:
        stdin = self.spec.stdin
        if stdin is None:
            return False  # /dev/null, as the keeper has it
        if isinstance(stdin, (bytes, bytearray)):
            # A file in memory: nothing to pump, and no wait for a tool that does not read it.
            self._fds.append(lifeline.memory_file("agentsup-stdin", stdin))
        elif stdin is PIPE:
            read_end, self.stdin_fd = os.pipe()
            self._fds.append(read_end)
            os.set_blocking(self.stdin_fd, False)
        else:
            self._fds.append(os.dup(stdin if isinstance(stdin, int) else stdin.fileno()))
        return True

    def _make_outputs(self) -> None:
        for capture in self._captures.values():
            read_end, write_end = os.pipe()
            self._fds.append(write_end)
            os.set_blocking(read_end, False)
            self.readers.append(Reader(read_end, capture))
            capture.open()
        if self.spec.output.merge_stderr:
            self._fds.append(os.dup(self._fds[-1]))

    def send(self) -> bool:
        """Hand the request to the keeper; False if it has no room for it just now."""
        assert self._request
        assert self._keeper
        try:
            channel = self._channel or self._connect(self._keeper)
            self.rule.began(time.monotonic())
            self._arm()
            lifeline.send(channel.socket, self._request, self._fds)
        except BlockingIOError:
            return False
        except OSError as error:
            if not self._keeper.lost and error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise os_error(error, "the keeper cannot be reached") from None
            # It died while it had nothing to do: start the next one.
            lifeline.lose(self._keeper)
            self._disconnect()
            self._keeper = lifeline.acquire()
            return self.send()
        self._request = None
        return True

    def _connect(self, kept: lifeline.Keeper) -> lifeline.Channel:
        channel = self._channel = lifeline.connect(kept)
        self._armed = -math.inf  # to something of the last call's
        for reader in self.readers:
            self.resume(reader)
        return channel

    def keeper_fd(self) -> int:
        """A descriptor that becomes writable when ``send`` is worth another try; close it."""
        assert self._keeper
        return os.dup(self._keeper.lifeline.fileno())

    # --- while it runs ------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable whenever :meth:`step` has something to do."""
        assert self._channel
        return self._channel.epoll.fileno()

    @property
    def result_ready(self) -> bool:
        return self.rule.result_ready

    @property
    def finished(self) -> bool:
        return self.rule.finished

    def step(self, wait: float | None = 0) -> None:
        """Do what is to be done now; first wait up to ``wait`` seconds for something to happen."""
        if self._channel is None:
            return
        events = self._channel.epoll.poll(wait)
        if self._fds and not self._request:
            # Put off until now: done right after the request, it would compete with its spawn.
            self._close_fds()
            events = self._channel.epoll.poll(0)
        for fd, _ in events:
            if fd == self._channel.fd:
                self._on_channel()
            elif handler := self._handlers.get(fd):
                handler()
            self._act()
        self.rule.tick(time.monotonic())
        self._act()
        self._arm()

    def _arm(self) -> None:
        """Set the timer, unless it will go off early enough; a deadline often moves away."""
        due = self.rule.deadline
        due = math.inf if due is None else due
        if self._channel and (due < self._armed or self._armed <= time.monotonic()):
            assert self._channel.timer
            self._channel.timer.set(due)
            self._armed = due

    def stop(self, outcome: Outcome) -> None:
        """Begin to end it. The driver carries it through."""
        self.rule.stop(time.monotonic(), outcome)
        self._act()
        self._arm()

    def stop_when_readable(self, fd: int) -> None:
        """Stop it when somebody else, in another thread, says so."""

        def stop() -> None:
            self._unwatch(fd)
            self.stop(Outcome.STOPPED)

        self._watch(fd, stop)

    def signal_main(self, number: int) -> None:
        """Signal the main process alone; ProcessLookupError if it has ended."""
        if self._pidfd < 0:
            raise ProcessLookupError(errno.ESRCH, "the process has ended")
        signal.pidfd_send_signal(self._pidfd, number)

    def signal_tree(self, number: int) -> None:
        """Signal every process of the tree."""
        self._tell(wire.SIGNAL + bytes([number]))

    def pause(self, reader: Reader) -> None:
        """Leave what comes in the pipe, so that the tool has to wait."""
        self._unwatch(reader.fd)

    def resume(self, reader: Reader) -> None:
        if reader in self.readers and reader.fd not in self._handlers:
            self._watch(reader.fd, lambda: self._on_output(reader))

    def drop(self, reader: Reader) -> None:
        """Read no more of it: the tool's next write fails, as to any pipe that nobody reads."""
        if reader in self.readers:
            self._end_reader(reader)

    def close_stdin(self) -> None:
        if self.stdin_fd >= 0:
            self.before_stdin_closes()
            os.close(self.stdin_fd)
            self.stdin_fd = -1

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        assert self._channel
        self._channel.epoll.register(fd, select.EPOLLIN)
        self._handlers[fd] = handler

    def _unwatch(self, fd: int) -> None:
        if self._channel and self._handlers.pop(fd, None):
            self._channel.epoll.unregister(fd)

    def _on_output(self, reader: Reader) -> None:
        size = reader.read()
        now = time.monotonic()
        if size:
            self._total += size
            self.rule.output(now, self._total)
        elif size == 0:
            self._end_reader(reader)
            if not self.readers:
                self.rule.drained(now)
        self.on_change()

    def _end_reader(self, reader: Reader) -> None:
        # Closed, it would leave the epoll by itself, unless a fork of this process has a copy.
        self._unwatch(reader.fd)
        self.readers.remove(reader)
        reader.close()

    def _on_channel(self) -> None:
        assert self._channel
        try:
            data, fds, _ = wire.receive(self._channel.socket, self._channel.buffer)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data, fds = b"", []
        if data:
            self._on_message(data, fds)
            if data[:1] == wire.STARTED:
                self._on_channel()  # a host that comes late finds the end behind it: no timeout
        elif not self._over and not self.finished:
            self._on_silence()

    def _on_message(self, data: bytes, fds: list[int]) -> None:
        now = time.monotonic()
        kind = data[:1]
        if kind == wire.STARTED:
            _, self.pid, self._index = wire.STARTED_BODY.unpack(data)
            self._pidfd = fds[0]
            self.rule.spawned()
        elif kind == wire.EXITED:
            _, self.pid, self._index, self._status, user, system, max_rss, live = (
                wire.EXITED_BODY.unpack(data)
            )
            self._usage = Usage(user, system, max_rss * 1024)
            self._close_pidfd()
            self._over = not live
            self.rule.exited(now, live)
        elif kind == wire.EMPTY:
            self._over = True
            self.rule.empty(now)
        elif kind == wire.KILLED:
            self._over = True
            self._leftover_count, self._leftovers = _leftovers(data)
            self.rule.killed(now)
        elif kind == wire.FAILED:
            _, number = wire.FAILED_BODY.unpack_from(data)
            step = data[wire.FAILED_BODY.size :].decode()
            self._over = True
            if number == errno.EMFILE and self._keeper:
                lifeline.shed(self._keeper)
            self._fail(now, explain(number, step, self.spec.program, self.spec.cwd))
        elif kind == wire.BROKEN:
            self._lose(f"the keeper has failed:\n{data[1:].decode('utf-8', 'replace')}")
        if self._over and not self.readers:
            self.rule.drained(now)  # there is nothing to wait for where no output is read
        self.on_change()

    def _on_silence(self) -> None:
        """The channel has ended before the last message."""
        assert self._keeper
        if self._keeper.dead:
            self._lose("the keeper has died; what it had started was killed")
        else:
            # The keeper's end of the channel did not arrive.
            lifeline.shed(self._keeper)
            message = "the keeper has no file descriptors left (see RLIMIT_NOFILE)"
            self._fail(time.monotonic(), SpawnError(errno.EMFILE, message))
        self.on_change()

    def _fail(self, now: float, error: AgentsupError) -> None:
        self.error = error
        self._end_outputs()
        self.rule.lost(now)

    def _lose(self, message: str) -> None:
        """End the call without the keeper."""
        assert self._keeper
        with contextlib.suppress(ProcessLookupError):
            self.signal_main(signal.SIGKILL)
        lifeline.lose(self._keeper)
        error = KeeperLost(message)
        self._fail(time.monotonic(), error)
        error.partial = self.result()

    def _act(self) -> None:
        for action in self.rule.take():
            if action is Do.ASK:
                self._tell(wire.ASK)
            elif action is Do.KILL:
                self._tell(wire.KILL)
            elif action is Do.CLOSE_STDIN:
                self.close_stdin()
            elif action is Do.LOSE:
                self._lose("the keeper does not answer; what it had started was killed")
            elif isinstance(action, SendSignal):
                self._tell(wire.SIGNAL + bytes([action.signal]))
            else:
                self._start_pre_stop(action)
        if self.rule.finished:
            self._end_pre_stop()
            self._end_outputs()
            self.on_change()

    def _tell(self, message: bytes) -> None:
        if self._channel and not self._over:
            with contextlib.suppress(OSError):  # it is gone: the end of file is on its way
                self._channel.socket.send(message)

    # --- the pre-stop command -----------------------------------------------------------------

    def _start_pre_stop(self, action: RunCommand) -> None:
        self._end_pre_stop()
        if self.pid is None:  # kill(1) takes 0 for its own process group
            return self._note(f"{action.command}: not run, for there was no pid to tell it yet")
        try:
            spec = pre_stop_spec(action.command, self.spec, self.pid, action.seconds)
            call = Call(spec)
            call.prepare()
            if not call.send():
                call.close()
                raise SpawnError(errno.EAGAIN, "the keeper is busy")
        except SpawnError as error:
            return self._note(f"{action.command}: {error}")
        self._pre_stop = call
        self._watch(call.fileno(), self._step_pre_stop)
        return None

    def _step_pre_stop(self) -> None:
        call = self._pre_stop
        assert call
        call.step()
        if call.finished:
            if call.error or not call.result().ok:
                self._note(f"{call.spec.name}: {call.error or call.result().reason}")
            self._end_pre_stop()

    def _end_pre_stop(self) -> None:
        call, self._pre_stop = self._pre_stop, None
        if call:
            self._unwatch(call.fileno())
            call.close()

    def _note(self, text: str) -> None:
        self._extra_steps.append(TakenStep(text, time.monotonic() - self.rule.started_at))

    # --- the end ------------------------------------------------------------------------------

    def result(self) -> Result:
        """What the call has come to, so far or for good."""
        status = self._status
        exit_code = number = None
        if status is not None and os.WIFEXITED(status):
            exit_code = os.WEXITSTATUS(status)
        elif status is not None:
            number = _signal(os.WTERMSIG(status))
        outcome = self.rule.outcome
        if outcome is None:
            outcome = Outcome.STOPPED
            if status is not None:
                outcome = self._own_outcome(number)
        out = self._captures["stdout"].output()
        err = self._captures["stderr"].output() if "stderr" in self._captures else type(out)()
        ended = self.rule.ended_at or time.monotonic()
        steps = sorted([*self.rule.taken, *self._extra_steps], key=lambda step: step.at)
        return Result(
            argv=tuple(_text(word) for word in self.spec.argv),
            name=self.spec.name,
            outcome=outcome,
            exit_code=exit_code,
            signal=number,
            stdout=out,
            stderr=err,
            duration=ended - self.rule.started_at,
            queued=self.queued,
            usage=self._usage,
            escalation=tuple(steps),
            leftovers=self._leftovers,
            leftover_count=self._leftover_count,
            containment=Containment.SUBREAPER,
            pid=self.pid,
            adopted=self.adopted(),
        )

    def adopted(self) -> tuple[Leftover, ...]:
        """What runs on of it now, if it left anything for adoption."""
        if not self.rule.adopting or not self._keeper:
            return ()
        return tuple(
            Leftover(pid, _words(wire.command_line(pid)), Found.ORPHAN, killed=False)
            for pid in self._keeper.orphans(self._index)
        )

    def _own_outcome(self, number: int | None) -> Outcome:
        """How a main process ended that nobody stopped."""
        if number is None:
            return Outcome.EXITED
        limit = re.search(rb"limit=%d:(\d+)" % resource.RLIMIT_CPU, self.spec.options)
        # SIGKILL is for one that ignored SIGXCPU. What the kernel holds against the limit was
        # sampled, and is not quite what was used.
        used = self._usage.user_cpu + self._usage.system_cpu
        if limit and (
            number == signal.SIGXCPU or (number == signal.SIGKILL and used > 0.9 * int(limit[1]))
        ):
            return Outcome.CPU_LIMIT
        return Outcome.SIGNALED

    def close(self) -> None:
        """Let go of everything; what still runs is killed by the keeper. May be repeated."""
        if not self._over:
            # Said, not only implied by the end of file: a fork of this process may hold a copy.
            self._tell(wire.KILL)
        try:
            self._end_pre_stop()
            self._end_outputs()
        finally:  # a line callback may raise
            self._close_fds()
            self._close_pidfd()
            self.close_stdin()
            self._disconnect()

    def _disconnect(self) -> None:
        """Give the channel back for another call if this one's last message has come."""
        for fd in list(self._handlers):
            self._unwatch(fd)
        channel, self._channel = self._channel, None
        if channel and not self._over:
            channel.close()
        kept, self._keeper = self._keeper, None
        if kept:
            lifeline.release(kept, channel if self._over else None)

    def _end_outputs(self) -> None:
        """Take what is left in the pipes, which is not much, and close them."""
        for reader in list(self.readers):
            if self._channel:
                reader.read_rest()
            self._end_reader(reader)

    def _close_fds(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def _close_pidfd(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _leftovers(data: bytes) -> tuple[int, tuple[Leftover, ...]]:
    _, count = wire.KILLED_BODY.unpack_from(data)
    offset = wire.KILLED_BODY.size
    found: list[Leftover] = []
    while offset < len(data):
        pid, how, gone, size = wire.ENTRY.unpack_from(data, offset)
        offset += wire.ENTRY.size
        argv = _words(data[offset : offset + size])
        offset += size
        found.append(Leftover(pid, argv, _FOUND[how], bool(gone)))
    return count, tuple(found)


def _text(word: bytes) -> str:
    return word.decode("utf-8", "backslashreplace")  # it can be printed and written as JSON


def _words(argv: bytes) -> tuple[str, ...]:
    return tuple(_text(word) for word in argv.split(b"\0"))


def _signal(number: int) -> signal.Signals | int:
    try:
        return signal.Signals(number)
    except ValueError:
        return number  # a realtime signal without a name


def _nothing() -> None:
    pass
