"""One run of a service: from its pre-start hooks to its post-stop ones.

::

    pre_start → spawn → ready → post_start → active → pre_stop → escalation → post_stop
                  └──────────────── the call is driven ──────────────┘

While the call is driven, it is attended to, in a task of its own.  Whatever ends that, the call is
stopped.  A run decides nothing about the next one: it ends, and says how.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import anyio
from attrs import evolve

from .._calls import on_loop
from .._calls.call import Call
from .._calls.spec import with_variables
from .._errors import AgentsupError
from .._shielded import to_the_end
from .._values.heartbeat import NotifyHeartbeat
from .._values.result import Outcome
from .._values.state import ServiceState
from . import health, notices, outcome
from .activation import pass_sockets
from .complaints import Complaints
from .daemon import MainProcess
from .flag import Flag
from .hooks import Side
from .outcome import Failure
from .reloading import Reload
from .startup import Bound, Startup

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from anyio.abc import TaskGroup

    from .._calls.spec import Spec
    from .._rules.notify import Message
    from .._telemetry import RunObserver
    from .._values.health import HealthCheck
    from .._values.restart import Ending
    from .._values.result import Result
    from .._values.service import Service
    from .fd_store import FdStore
    from .notices import Notices

#: Of the time there is to stop, this is kept for the escalation, whatever pre-stop hooks take.
_KEPT_PART, _KEPT_MOST = 0.25, 2.0


class Run:
    """Made for one run, and thrown away after it."""

    def __init__(
        self,
        service: Service,
        spec: Spec,
        *,
        notices: Notices | None,
        listening: Sequence[tuple[str, int]],
        store: FdStore,
        tell: Callable[[ServiceState, str], None],
        on_health: Callable[[bool, str], None],
        on_status: Callable[[], None],
        observer: RunObserver | None = None,
    ) -> None:
        self.service = service
        self.call: Call | None = None
        self.result: Result | None = None
        #: What it says of itself.
        self.status = ""
        #: Why it could not be started.
        self.error: Exception | None = None
        #: It has been ready.
        self.up = False
        self.complain = Complaints(service.name)
        self._spec = spec
        self._notices = notices
        self._listening = listening
        self._store = store
        self._tell = tell
        self._on_health = on_health
        self._on_status = on_status
        self._observer = observer
        self._side = Side(spec, self._side_variables, self._listen_to)
        self._bound = Bound()
        self._startup = Startup(service, self._bound, self._side.run)
        self._main: MainProcess | None = None
        self._started = Flag()
        self._turn = anyio.CancelScope()  # what is done now, and ends when it is to stop
        self._tasks: TaskGroup | None = None  # in the attendance
        self._reload: Reload | None = None
        heartbeat = service.heartbeat
        self._beats_within = heartbeat.bound if heartbeat else None
        self._checks = anyio.CancelScope()  # of its health
        self._stopping = False
        self._stop_by = 0.0
        self._failure: Failure | None = None  # why we have ended it ourselves
        self._ending: Ending | None = None

    # --- its life -----------------------------------------------------------------------------

    async def live(self) -> Ending:
        """All of it. Nothing but :meth:`stop` ends it: to be called in a shield."""
        ending = await self._begin() or await self._go_on()
        if self.service.remain_after_exit and self.service.policy.clean(ending):
            await self._remain(str(ending))
        if self.service.post_stop:
            self._ending = ending
            self._tell(ServiceState.DEACTIVATING, str(ending))
            self._note(await self._side.do("post_stop", self.service.post_stop))
        return ending

    async def _begin(self) -> Ending | None:
        """Until the program is about to run; how it has ended if it does not come to that."""
        failure = Failure("stopped before it ran")
        with self._until_stopped():
            failed = await self._side.do("pre_start", self.service.pre_start)
            if failed is None:
                try:
                    await self._spawn()
                    return None
                except (AgentsupError, OSError) as error:
                    self.error = error
                    failure = Failure(str(error), "resources")
            else:
                failure = Failure(failed)
        self._startup.close()
        self._failure = self._failure or failure
        return failure.ending

    async def _spawn(self) -> None:
        spec = self._startup.prepare(self._complete())
        call = Call(spec, eager=True)
        call.observer = self._observer
        call.rule.expect_beats(0.0, None)  # not before it is ready
        call.on_change = self._on_change
        if self._notices:
            self._notices.attach(call, self)
        await on_loop.start(call)
        self.call, self._main = call, MainProcess(call, self._on_main_end)
        self._startup.attach(call, self._main)

    def _complete(self) -> Spec:
        """What is to be run, with all that this run adds."""
        heartbeat = self.service.heartbeat
        watchdog = heartbeat.interval if isinstance(heartbeat, NotifyHeartbeat) else None
        spec = pass_sockets(self._spec, self._listening, self._store.entries())
        variables = notices.variables(self._notices, watchdog)
        return evolve(spec, env=with_variables(spec.env, variables)) if variables else spec

    async def _go_on(self) -> Ending:
        """From the spawn to the end of its tree."""
        call = self.call
        assert call
        late: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._attend, call)
                late = await to_the_end(lambda: self._drive(call), lambda: call.finished)
                self._turn.cancel()
            if late is not None:
                raise late
            self.result = call.result()
            ending = self._how_it_ended(call)
        finally:
            call.close()
            self._startup.close()
        if self.service.type == "oneshot" and ending.failure is None and not self._stopping:
            with self._until_stopped():
                failed = await self._side.do("post_start", self.service.post_start)
                self._failure = None if failed is None else Failure(failed)
        return outcome.with_failure(ending, self._failure)

    async def _drive(self, call: Call) -> None:
        try:
            while not call.finished:
                await anyio.wait_readable(call.fileno())
                call.step()
                if call.rule.outcome is not None and not self._stopping:
                    self._note_limit(call)
                if call.rule.adopting and not self._startup.adopted.is_set():
                    self._startup.adopted.set()
                    self._expect_beats()  # of what goes on in place of the first
        except anyio.get_cancelled_exc_class():
            self.fail(Failure("its task was cancelled"))
            raise

    def _note_limit(self, call: Call) -> None:
        """It is being ended by its own rule: it makes no progress, or has printed too much."""
        if broken := outcome.broken_limit(call):
            self.fail(broken)

    def _how_it_ended(self, call: Call) -> Ending:
        """And why, which is ``_failure``."""
        if call.error is not None:
            self.error = call.error
            self._failure = Failure(str(call.error), "resources")
            return self._failure.ending
        ending = outcome.end_of_main(call)
        self._failure = self._failure or outcome.broken_limit(call)
        self._go_up_if_met()
        done = self.up or self._stopping or self.service.type == "oneshot" or self._startup.met
        if self._failure is None and not done:
            self._failure = outcome.ended_early(ending, self.service.policy)
        return ending

    async def _remain(self, reason: str) -> None:
        """A oneshot whose process has done its work is active until it is stopped."""
        if self._stopping:
            return
        with self._until_stopped():
            self.up = True
            self._tell(ServiceState.ACTIVE, reason)
            await anyio.sleep_forever()
        await self._do_pre_stop()

    # --- while it runs ------------------------------------------------------------------------

    async def _attend(self, call: Call) -> None:
        """Until it has ended, or has been prepared for being stopped."""
        try:
            with self._until_stopped() as turn:
                if call.finished:
                    turn.cancel()
                async with anyio.create_task_group() as self._tasks:
                    await self._become_active(call)
                    await anyio.sleep_forever()
            if self._stopping and self.up and call.rule.outcome is None:
                await self._do_pre_stop()  # it has not been asked to stop yet
        except anyio.get_cancelled_exc_class():
            self.fail(Failure("its task was cancelled"))
            raise
        finally:
            self._tasks = None
            within = max(0.0, self._stop_by - time.monotonic())
            call.stop(Outcome.STOPPED, within=within)

    async def _become_active(self, call: Call) -> None:
        await self._started.wait()
        failure = await self._startup.wait()
        if failure is None:
            failed = await self._side.do("post_start", self.service.post_start)
            failure = None if failed is None else Failure(failed)
        if failure is not None:
            return self.fail(failure)
        self._go_up()
        if call.ask:
            self._do_beside(call.ask)
        if self.service.health:
            self._do_beside(self._watch_health)
        return None

    def _go_up(self) -> None:
        if self.up or self._stopping:
            return
        self.up = True
        self._tell(ServiceState.ACTIVE, "ready" if self._startup.needed else "running")
        self._expect_beats()

    def _expect_beats(self) -> None:
        if self.call and self.up and not self._stopping:
            self.call.expect_beats(self._beats_within)

    @property
    def _attended(self) -> bool:
        """It runs, and is not to stop."""
        return self._tasks is not None and not self._turn.cancel_called

    def _do_beside(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._tasks and self._attended:
            self._tasks.start_soon(work)

    async def _watch_health(self) -> None:
        def unhealthy(check: HealthCheck, reason: str) -> None:
            self.fail(Failure(f"unhealthy ({check}): {reason}", "watchdog"))

        with self._checks:
            await health.watch(
                self.service.health,
                self._side.run,
                on_unhealthy=unhealthy,
                on_ready=self._on_health,
                log=self.complain,
                on_failed=self._on_check_failed,
            )

    def _on_check_failed(self, check: HealthCheck, reason: str, failures: int) -> None:
        if self._observer:
            self._observer.health_failed(check, reason, failures)

    # --- ending it ----------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin to end it: the pre-stop hooks, where it has been ready; then the escalation."""
        if self._stopping:
            return
        self._stopping = True
        self._stop_by = time.monotonic() + self._budget
        why = self._failure.reason if self._failure else "it is to stop"
        self._tell(ServiceState.DEACTIVATING, why)
        self._turn.cancel()
        if self.call:
            self.call.expect_beats(None)
            if not (self.up and self.service.pre_stop):
                self.call.stop(Outcome.STOPPED)

    def fail(self, failure: Failure) -> None:
        """End it because something is wrong with it."""
        if not self._stopping and self._failure is None:
            self._failure = failure
            self.stop()

    def _until_stopped(self) -> anyio.CancelScope:
        """What is done in it ends when the service is to stop."""
        self._turn = anyio.CancelScope()
        if self._stopping:
            self._turn.cancel()
        return self._turn

    @property
    def _budget(self) -> float:
        """Seconds to stop in, all in all."""
        return sum(step.wait for step in self._spec.terms.escalation.steps)

    async def _do_pre_stop(self) -> None:
        budget = self._budget - min(_KEPT_PART * self._budget, _KEPT_MOST)
        self._note(await self._side.do("pre_stop", self.service.pre_stop, budget))

    def _note(self, failed: str | None) -> None:
        if failed is not None:
            self.complain(failed)

    # --- what is heard ------------------------------------------------------------------------

    def _on_change(self) -> None:
        if self.call and self.call.pid is not None and not self._started.is_set():
            self._started.set()
            self._go_up_if_met()

    def _go_up_if_met(self) -> None:
        """In this moment, for it may end in the next."""
        if self._started.is_set() and self._startup.met and not self.service.post_start:
            self._go_up()

    def _on_main_end(self) -> None:
        """What is left of it ends with the one that had taken its place."""
        assert self.call
        if self._startup.daemon and self._attended:
            self._do_beside(self._look_for_next)
        else:
            self.call.stop(Outcome.STOPPED)

    async def _look_for_next(self) -> None:
        assert self.call
        assert self._startup.daemon
        if not await self._startup.daemon.find_next():
            self.call.stop(Outcome.STOPPED)

    @property
    def hook(self) -> Call | None:
        return self._side.hook

    @property
    def calls(self) -> list[Call]:
        """What runs of it now: its program, and a hook."""
        return [call for call in (self.call, self.hook) if call and not call.finished]

    @property
    def speaker(self) -> int | None:
        return self._main.speaker if self._main else None

    def _listen_to(self, hook: Call) -> None:
        if self._notices:
            self._notices.attach(hook, self)

    def on_message(self, message: Message) -> None:
        """It has said something of itself."""
        if message.status is not None:
            self.status = message.status
        if message.errno:
            self.status = self.status or os.strerror(message.errno)
        self._on_status()
        if self.call is None:
            return  # a pre-start hook can say no more
        if message.extend_timeout_usec is not None:
            self._extend(self.call, message.extend_timeout_usec / 1e6)
        if message.mainpid is not None:
            self._take_main(message.mainpid)
        if message.ready:
            self._startup.said_ready.hear()
            self._go_up_if_met()
            if self._reload:
                self._reload.on_ready()
        elif message.reloading:
            self._on_reloading(message.monotonic_usec)
        elif message.stopping:
            self._on_stopping()
        if message.watchdog == "trigger" and not self._stopping:
            self.call.stop(Outcome.HEARTBEAT_LOST)
            self.fail(Failure("it says that it makes no progress (WATCHDOG=trigger)", "watchdog"))
        elif self.service.heartbeat is None or isinstance(self.service.heartbeat, NotifyHeartbeat):
            self._on_watchdog(self.call, message)

    def _on_watchdog(self, call: Call, message: Message) -> None:
        if message.watchdog_usec is not None:
            self._beats_within = message.watchdog_usec / 1e6 or None
            self._expect_beats()
        if message.watchdog == "ping":
            call.beat()

    def _extend(self, call: Call, seconds: float) -> None:
        if self._stopping:
            self._stop_by = max(self._stop_by, time.monotonic() + seconds)
            call.extend(seconds)
        else:
            self._bound.extend(seconds)

    def _take_main(self, pid: int) -> None:
        main, notices = self._main, self._notices
        if main is None or notices is None or pid == main.pid:
            return

        def then(taken: bool) -> None:
            if not taken:
                self.complain(f"MAINPID={pid} is ignored: no living process of this service")
            notices.go_on(self)

        notices.hold(self)
        main.ask(pid, then)

    def _on_stopping(self) -> None:
        """It ends of its own accord, and has as much time for that as if it was asked to."""
        if self.up and self._attended:
            self._tell(ServiceState.DEACTIVATING, "it says that it stops")
            self._checks.cancel()
            self._do_beside(self._wait_for_its_end)

    async def _wait_for_its_end(self) -> None:
        assert self.call
        self.call.expect_beats(None)
        with self._bound.within(self._budget):
            await anyio.sleep_forever()
        self.fail(Failure("it has said that it stops, and has not done so", "timeout"))

    # --- reloading ----------------------------------------------------------------------------

    async def reload(self) -> str | None:
        """Have it reload; None once it has, else why not."""
        reload = Reload(self.service, self.service.reload)
        if not self._attended:
            return "it does not run"
        self._begin_reload(reload)
        await reload.over.wait()
        return reload.failure

    def _on_reloading(self, at: int | None) -> None:
        if self._reload is None and self.up and self._attended:
            self._begin_reload(Reload(self.service, None))
        if self._reload:
            self._reload.on_begun(at)

    def _begin_reload(self, reload: Reload) -> None:
        self._reload = reload
        self._tell(ServiceState.RELOADING, reload.reason)
        self._do_beside(lambda: self._carry_out(reload))

    async def _carry_out(self, reload: Reload) -> None:
        assert self.call
        try:
            await reload.carry_out(self.call, self._side, self._bound)
            if not self._stopping:
                self._tell(ServiceState.ACTIVE, reload.failure or "reloaded")
        finally:
            self._reload = None
            reload.over.set()

    # --- what it leaves with us ---------------------------------------------------------------

    def store(self, name: str, fds: list[int], *, poll: bool) -> None:
        if refused := self._store.add(name, fds, poll=poll):
            self.complain(f"FDSTORE=1: no room for {refused} of {len(fds)} descriptors")

    def unstore(self, name: str) -> None:
        self._store.remove(name)

    # --- what the hooks are told --------------------------------------------------------------

    def _side_variables(self) -> dict[bytes, bytes | None]:
        """As in systemd.exec(5)."""
        found = notices.variables(self._notices, None)
        if self._ending is not None:
            found |= outcome.variables(self._ending, self._failure, self.service.policy)
        elif self._main and self._main.pid:
            found[b"MAINPID"] = b"%d" % self._main.pid
        return found
