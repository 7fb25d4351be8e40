"""A call in hand: its descriptors, in one epoll, and what its rule says is to be done.

What holds its tree, the keeper or a process group, is behind one interface (``_levels/hold.py``).

Nothing here waits, but :meth:`Call.step` on request.  The drivers, ``on_loop.py`` and
``blocking.py``, wait for ``call.fileno()`` to become readable, then call ``step``, on asyncio, on
trio and without any event loop alike. Its deadline is one of the descriptors.
"""

from __future__ import annotations

import errno
import math
import os
import re
import resource
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

from .._errors import AgentsupError, KeeperLost, SpawnError
from .._levels.hold import Epoll, Hold, News, Timer, text
from .._rules.call import CallRule, Do, RunCommand, SendSignal
from .._rules.secrets import mask_leftovers, mask_result
from .._values.command import Command
from .._values.result import Containment, Leftover, Outcome, Result, TakenStep
from .capture import Capture, UntilItRaises
from .lookup import explain
from .reader import Reader
from .spec import PIPE, side_spec

if sys.platform == "linux":
    from .._levels.kept import Kept
    from .._linux.lifeline import memory_file
else:
    from .._bsd.memory import memory_file

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from .._telemetry import Observer
    from .heartbeat import Beats
    from .spec import Spec

_ENDS = frozenset({News.EXITED, News.LEFT, News.EMPTY, News.KILLED, News.ENDED})


class Call:
    """One call, from the request to the result.

    ``prepare`` and then ``send`` until it says True; then ``step`` until ``result_ready``; then
    ``close``, always. A call that is closed before its time is killed.
    """

    def __init__(
        self, spec: Spec, *, eager: bool = False, outputs: tuple[int, int] | None = None
    ) -> None:
        self.spec = spec
        # The pid is wanted as soon as there is one.
        self._eager = eager or spec.make_log is not None
        self.rule = CallRule(spec.terms, time.monotonic())
        self.queued = 0.0
        self.observer: Observer | None = None
        self.error: AgentsupError | None = None
        self.readers: list[Reader] = []
        self.stdin_fd = -1  # the host's end of a stdin pipe
        self.on_change: Callable[[], None] = _nothing  # told when an event may concern somebody
        self._armed = -math.inf  # what the timer is set to
        self.before_stdin_closes: Callable[[], None] = _nothing
        self.before_end: Callable[[], None] = _nothing  # to hear the last words of a process
        self._outputs = outputs  # descriptors that take stdout and stderr, instead of pipes
        on_line = UntilItRaises(spec.output.on_line) if spec.output.on_line else None
        self._captures = {"stdout": Capture("stdout", spec.output, on_line)}
        if not spec.output.merge_stderr:
            self._captures["stderr"] = Capture("stderr", spec.output, on_line)
        self._hold: Hold
        if spec.make_hold is not None:
            self._hold = spec.make_hold(self)
        elif sys.platform == "linux" and spec.containment is not Containment.PROCESS_GROUP:
            self._hold = Kept(spec)
        else:
            from .._levels.process_group import ProcessGroup

            self._hold = ProcessGroup(spec)
        self._epoll: Epoll | None = None  # of the hold, as is the timer
        self._timer: Timer | None = None
        self._sent = False
        self._fds: list[int] = []  # descriptors that go to the new process and are ours to close
        self._total = 0  # bytes of output
        self._pre_stop: Call | None = None
        self._extra_steps: list[TakenStep] = []
        self._result: Result | None = None
        self._handlers: dict[int, Callable[[], None]] = {}
        self._watched: dict[int, Callable[[], None]] = {}  # what others watch with it
        self.on_followed: Callable[[News], None] = _nothing  # FOLLOWED, STRANGER, or ENDED
        self._beats: Beats | None = None  # of its heartbeat, if it has one
        self.output_beats = False
        #: To be run beside it, on an event loop.
        self.ask: Callable[[], Coroutine[Any, Any, None]] | None = None

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
        targets = b"0,1,2" if self._make_stdin() else b"1,2"
        if self._outputs:
            self._fds += [os.dup(fd) for fd in self._outputs]
        else:
            self._make_outputs()
        for fd, target in self.spec.passed:
            self._fds.append(os.dup(fd))
            targets += b",%d" % target
        eager = self._eager
        if self.spec.heartbeat is not None:
            from .heartbeat import connect

            self._beats = connect(self, self.spec.heartbeat)
            eager = True  # who is of its tree is to be known
        # A pre-stop command is told the pid.
        steps = self.spec.terms.escalation.steps
        commands = any(isinstance(step.action, Command) for step in steps)
        self._hold.prepare(self._fds, targets, eager=eager or commands)

    def _make_stdin(self) -> bool:
        stdin = self.spec.stdin
        if stdin is None:
            return False  # /dev/null
        if isinstance(stdin, (bytes, bytearray)):
            # A file in memory: nothing to pump, and no wait for a tool that does not read it.
            self._fds.append(memory_file("agentsup-stdin", stdin))
        elif stdin is PIPE:
            read_end, self.stdin_fd = os.pipe()
            self._fds.append(read_end)
            self._give(read_end)
            os.set_blocking(self.stdin_fd, False)
        else:
            self._fds.append(os.dup(stdin if isinstance(stdin, int) else stdin.fileno()))
        return True

    def _make_outputs(self) -> None:
        log = self.spec.make_log(self) if self.spec.make_log else None
        for stream, capture in self._captures.items():
            read_end, write_end = os.pipe()
            self._fds.append(write_end)
            self._give(write_end)
            os.set_blocking(read_end, False)
            self.readers.append(Reader(read_end, capture, log(stream) if log else None))
            capture.open()
        if self.spec.output.merge_stderr:
            self._fds.append(os.dup(self._fds[-1]))

    def _give(self, pipe: int) -> None:
        """Let another user open it again, as ``/dev/stdout``. Only who has it sees it there."""
        if b"uid=" in self.spec.options:
            os.fchmod(pipe, 0o666)

    def send(self) -> bool:
        """Have it started; False if there is no room for the request just now."""
        try:
            self._connect()
            while not self._hold.start(self._fds):
                self._handlers.clear()  # with the epoll, which is gone
                self._connect()
        except BlockingIOError:
            return False
        self._sent = True
        if self._hold.due <= 0.0:
            self._arm()
        return True

    def _connect(self) -> None:
        if self._hold.connect():
            self._epoll, self._timer = self._hold.epoll, self._hold.timer
            self._armed = -math.inf  # to something of the last call's
            if self.spec.make_log is None:  # a log is told the pid with it
                self._read()
        self.rule.began(time.monotonic())
        self._arm()

    def keeper_fd(self) -> int:
        """A descriptor that becomes writable when ``send`` is worth another try; close it."""
        return self._hold.room()

    # --- while it runs ------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable whenever :meth:`step` has something to do."""
        assert self._epoll
        return self._epoll.fileno()

    @property
    def pid(self) -> int | None:
        return self._hold.pid

    @property
    def result_ready(self) -> bool:
        return self.rule.result_ready

    @property
    def finished(self) -> bool:
        return self.rule.finished

    def step(self, wait: float | None = 0) -> None:
        """Do what is to be done now; first wait up to ``wait`` seconds for something to happen."""
        epoll, hold = self._epoll, self._hold
        if epoll is None:
            return
        events = epoll.poll(wait)
        if self._fds and self._sent:
            # Put off until now: done right after the request, it would compete with its spawn.
            self._close_fds()
            events = epoll.poll(0)
        for fd, _ in events:
            if fd == hold.fd:
                self._on_news()
            elif handler := self._handlers.get(fd):
                handler()
            self._act()
        now = time.monotonic()
        if now >= hold.due:
            self._on_news()
        self._catch_up()
        if self._beats is not None:
            self._beats.look(now)
        self.rule.tick(now)
        self._act()
        self._arm()

    def _arm(self) -> None:
        """Set the timer, unless it will go off early enough; a deadline often moves away."""
        due, rule_due = self._hold.due, self.rule.deadline
        if rule_due is not None and rule_due < due:
            due = rule_due
        if self._timer and (due < self._armed or self._armed <= time.monotonic()):
            self._timer.set(due)
            self._armed = due

    def stop(self, outcome: Outcome, *, within: float | None = None) -> None:
        """Begin to end it, with SIGKILL after so many seconds at the latest.

        The driver carries it through."""
        self._catch_up()
        self.rule.stop(time.monotonic(), outcome, within)
        self._act()
        self._arm()

    def extend(self, seconds: float) -> None:
        """While it is being stopped: the step has so much time, from now."""
        self.rule.extend(time.monotonic(), seconds)
        self._arm()

    def _catch_up(self) -> None:
        """KeyboardInterrupt may have come between the last news and the rule's hearing of it."""
        if self._hold.over:
            self.rule.empty(time.monotonic())  # which it may hear twice

    def beat(self) -> None:
        """It makes progress: see :meth:`expect_beats`."""
        self.rule.beat(time.monotonic())

    def expect_beats(self, seconds: float | None) -> None:
        """From now on, a beat at least every so many seconds, or HEARTBEAT_LOST; None: no bound."""
        self.rule.expect_beats(time.monotonic(), seconds)
        self._arm()

    def stop_when_readable(self, fd: int) -> None:
        """Stop it when somebody else, in another thread, says so."""

        def stop() -> None:
            self._unwatch(fd)
            self.stop(Outcome.STOPPED)

        self._watch(fd, stop)

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Have ``handler`` called by :meth:`step` when ``fd`` is readable, until it is closed.

        Not before it is known to have started: until then, nobody can say who is of its tree.
        """
        self._watched[fd] = handler
        if self._epoll and self.pid is not None:
            self._watch(fd, handler)

    def unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None):
            self._unwatch(fd)

    def follow(self, pid: int) -> None:
        """Look after one more process of the tree, as after the main one: ``on_followed``."""
        self._hold.follow(pid)
        self._arm()

    @property
    def followed(self) -> tuple[int, int | None]:
        """The process that is followed, 0 for none, and how it has ended, if that is known."""
        return self._hold.followed, self._hold.followed_status

    def owns(self, pid: int) -> bool:
        """Whether this process is of the tree."""
        return self._hold.owns(pid)

    @property
    def voice(self) -> int | None:
        """Another process that may speak for the main one."""
        return self._hold.voice

    def members(self) -> list[int]:
        """Who is of the tree now, the main process included; zombies may be among them."""
        return self._hold.members()

    def signal_main(self, number: int) -> None:
        """Signal the main process, or in its place the one that is followed.

        ProcessLookupError if it has ended."""
        self._hold.signal_main(number)

    def signal_tree(self, number: int) -> None:
        """Signal every process of the tree."""
        self._hold.signal_tree(number)

    def pause(self, reader: Reader) -> None:
        """Leave what comes in the pipe, so that the tool has to wait."""
        self._unwatch(reader.fd)

    def resume(self, reader: Reader) -> None:
        if reader in self.readers and reader.fd not in self._handlers:
            self._watch(reader.fd, lambda: self._on_output(reader))

    def _read(self) -> None:
        for reader in self.readers:
            self.resume(reader)

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
        assert self._epoll
        self._epoll.register(fd, select.POLLIN)  # which is EPOLLIN, where there is one
        self._handlers[fd] = handler

    def _unwatch(self, fd: int) -> None:
        if self._epoll and self._handlers.pop(fd, None):
            self._epoll.unregister(fd)

    def _on_output(self, reader: Reader) -> None:
        size = reader.read()
        now = time.monotonic()
        if size:
            self._total += size
            if self.output_beats:
                self.rule.beat(now)
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

    def _on_news(self) -> None:
        """Something has happened to the tree."""
        hold = self._hold
        news = hold.news()
        if news is None or self.finished:
            return
        if news in _ENDS:
            self.before_end()
        now = time.monotonic()
        if news is News.STARTED:
            self.rule.spawned()
            self._read()
            if self.observer and hold.pid is not None:
                trip = now - self.rule.started_at if self._eager else None
                self.observer.started(hold.pid, trip)
            for fd, handler in self._watched.items():
                if fd not in self._handlers:  # it was asked for twice
                    self._watch(fd, handler)
        elif news is News.EXITED or news is News.LEFT:
            self.rule.exited(now, live=news is News.LEFT)
        elif news is News.EMPTY:
            self.rule.empty(now)
        elif news is News.KILLED:
            self.rule.killed(now)
        elif news is News.FAILED:
            self._fail(explain(*hold.failure, self.spec.program, self.spec.cwd))
        elif news in (News.FOLLOWED, News.STRANGER, News.ENDED):
            self.on_followed(news)
        elif hold.error:
            self._fail(hold.error)
        if hold.over and not self.readers:
            self.rule.drained(now)  # there is nothing to wait for where no output is read
        self.on_change()
        if news is News.STARTED:
            self._on_news()  # a host that comes late finds the end behind it: no timeout

    def _fail(self, error: AgentsupError) -> None:
        """End the call without hearing any more of it."""
        self.error = error
        self._end_outputs()
        self.rule.lost(time.monotonic())
        if isinstance(error, KeeperLost):
            error.partial = self.result()

    def _act(self) -> None:
        for action in self.rule.take():
            if action is Do.ASK:
                self._hold.ask()
            elif action is Do.KILL:
                self._hold.kill()
            elif action is Do.CLOSE_STDIN:
                self.close_stdin()
            elif action is Do.LOSE:
                self._hold.give_up()
                self._fail(KeeperLost("the keeper does not answer; what it had started was killed"))
            elif isinstance(action, SendSignal):
                self._hold.signal_tree(action.signal)
            else:
                self._start_pre_stop(action)
        if self.rule.finished:
            self._end_pre_stop()
            self._end_outputs()
            self.on_change()

    # --- the pre-stop command -----------------------------------------------------------------

    def _start_pre_stop(self, action: RunCommand) -> None:
        self._end_pre_stop()
        pid = self.followed[0] or self.pid
        if pid is None:  # kill(1) takes 0 for its own process group
            return self.note(f"{action.command}: not run, for there was no pid to tell it yet")
        try:
            main = {b"MAINPID": b"%d" % pid}
            spec = side_spec(action.command, self.spec, action.seconds, main)
            call = Call(spec)
            call.prepare()
            if not call.send():
                call.close()
                raise SpawnError(errno.EAGAIN, "the keeper is busy")
        except SpawnError as error:
            return self.note(f"{action.command}: {error}")
        self._pre_stop = call
        self._watch(call.fileno(), self._step_pre_stop)
        return None

    def _step_pre_stop(self) -> None:
        call = self._pre_stop
        assert call
        call.step()
        if call.finished:
            if call.error or not call.result().ok:
                self.note(f"{call.spec.name}: {call.error or call.result().reason}")
            self._end_pre_stop()

    def _end_pre_stop(self) -> None:
        call, self._pre_stop = self._pre_stop, None
        if call:
            self._unwatch(call.fileno())
            call.close()

    def note(self, text: str) -> None:
        """Have it among the steps that were taken to end it."""
        self._extra_steps.append(TakenStep(text, time.monotonic() - self.rule.started_at))

    # --- the end ------------------------------------------------------------------------------

    def result(self) -> Result:
        """What the call has come to, so far or for good."""
        if self._result is not None:
            return self._result
        hold, status = self._hold, self._hold.status
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
        result = Result(
            argv=tuple(text(word) for word in self.spec.argv),
            name=self.spec.name,
            outcome=outcome,
            exit_code=exit_code,
            signal=number,
            stdout=out,
            stderr=err,
            duration=ended - self.rule.started_at,
            queued=self.queued,
            usage=hold.usage,
            escalation=tuple(steps),
            leftovers=hold.leftovers,
            leftover_count=hold.leftover_count,
            containment=self.spec.containment,
            pid=hold.pid,
            adopted=self.adopted(),
            limits_reached=hold.limits_reached,
        )
        if self.spec.secrets:
            result = mask_result(result, self.spec.secrets)
        if self.finished and not self.readers and self._pre_stop is None:
            self._result = result  # there is nothing more to come
        return result

    def adopted(self) -> tuple[Leftover, ...]:
        """What runs on of it now, if it left anything for adoption."""
        adopted = self._hold.adopted() if self.rule.adopting else ()
        return mask_leftovers(adopted, self.spec.secrets) if self.spec.secrets else adopted

    def _own_outcome(self, number: int | None) -> Outcome:
        """How a main process ended that nobody stopped."""
        if number is None:
            return Outcome.EXITED
        if number == signal.SIGKILL and "memory" in self._hold.limits_reached:
            return Outcome.MEMORY_LIMIT
        limit = re.search(rb"limit=%d:(\d+)" % resource.RLIMIT_CPU, self.spec.options)
        # SIGKILL is for one that ignored SIGXCPU. What the kernel holds against the limit was
        # sampled, and is not quite what was used.
        used = self._hold.usage.user_cpu + self._hold.usage.system_cpu
        if limit and (
            number == signal.SIGXCPU or (number == signal.SIGKILL and used > 0.9 * int(limit[1]))
        ):
            return Outcome.CPU_LIMIT
        return Outcome.SIGNALED

    def close(self) -> None:
        """Let go of everything; what still runs is killed. May be repeated."""
        if not self._hold.over:
            self._hold.kill()
        try:
            self._end_pre_stop()
            self._end_outputs()
        finally:  # a line callback may raise
            self._close_fds()
            self.close_stdin()
            if self._beats is not None:
                self._beats.close()
                self._beats = None
            for fd in list(self._handlers):
                self._unwatch(fd)
            self._epoll = self._timer = None
            self._hold.close()

    def _end_outputs(self) -> None:
        """Take what is left in the pipes, which is not much, and close them."""
        for reader in list(self.readers):
            if self._epoll:
                reader.read_rest()
            self._end_reader(reader)

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


def _signal(number: int) -> signal.Signals | int:
    try:
        return signal.Signals(number)
    except ValueError:
        return number  # a realtime signal without a name


def _nothing(*_: object) -> None:
    pass
