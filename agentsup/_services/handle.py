"""A service that a supervisor has: its runs one after another, and what there is to see and do."""

from __future__ import annotations

import contextlib
import errno
import math
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import anyio

from .._errors import NotReady, SpawnError
from .._rules.intensity import Intensity
from .._rules.ordering import Unit
from .._rules.restart import RestartRule
from .._rules.strategy import Child
from .._telemetry import observed_run, service_event
from .._values.state import ServiceEvent, ServiceState

if sys.platform != "win32":  # there this can be imported, and a Supervisor says the rest
    from .accepting import Accepting
    from .activation import wait_for_connection
    from .fd_store import FdStore
    from .flag import Flag
    from .lacking import what_it_lacks
    from .notices import Notices
    from .run import Run
    from .sockets import open_sockets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._calls.spec import Spec
    from .._rules.resume import SavedService
    from .._telemetry import RunObserver
    from .._values.restart import Ending
    from .._values.result import Result
    from .._values.service import Service
    from .family import Family
    from .sockets import OpenSockets

#: So many times within so many seconds, one that is lazy is started at once, as by systemd.
ACTIVATIONS = 20, 2.0


def make_unit(service: Service) -> Unit:
    """What its siblings' order has to know of it."""
    relations = service.after, service.requires, service.wants, service.part_of, service.conflicts
    return Unit(service.name, *relations)


def make_child(service: Service) -> Child:
    """What its supervisor's rule has to know of it."""
    return Child(service.name, service.policy.restart, service.significant)


class ServiceHandle:
    """A service under a supervisor, as :meth:`Supervisor.start` returns it."""

    def __init__(self, service: Service, spec: Spec, sockets: OpenSockets, family: Family) -> None:
        self.service = service
        self.spec = spec
        self.sockets = sockets
        self.unit = make_unit(service)
        self.child = make_child(service)
        self.rule = RestartRule(service.policy)
        #: What it does now, it is to go on with.
        self.wanted = False
        #: It has said that it is of no use to start it again.
        self.never = False
        self._family = family
        self._store = FdStore(service.fd_store)
        self._notices = None if service.access == "none" else Notices(service.access)
        self._state = ServiceState.INACTIVE
        self._reason = "not started"
        self._run: Run | Accepting | None = None
        self._observer: RunObserver | None = None  # of this run, or of the last one
        self._pause: anyio.CancelScope | None = None  # what it waits in, while it does not run
        self._active_since: float | None = None
        self._next_start = math.inf
        self._last: Result | None = None
        self._changed = Flag()
        self._healthy = True
        self._activations = Intensity(*ACTIVATIONS)
        #: Set while it has no task.
        self.idle = Flag(is_set=True)
        self._waiting = False  # for the first step of its task
        #: Set while it is ready, or will not be unless somebody asks for it.
        self.settled = Flag(is_set=True)
        #: Set once the first attempt of a start has come to something.
        self.tried = Flag(is_set=True)
        self._patient = True  # a failing first attempt is followed by others
        self._first_failure: Exception | None = None

    def __repr__(self) -> str:
        return f"<ServiceHandle {self.name!r}: {self._state.value}>"

    # --- what there is to see -----------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def state(self) -> ServiceState:
        return self._state

    @property
    def pid(self) -> int | None:
        """Its main process, or None."""
        call = self._run.call if self._run else None
        if call is None or call.finished:
            return None
        return call.followed[0] or call.pid

    @property
    def runs(self) -> bool:
        """It is in one of its runs, and not between them, nor waits for others to start."""
        return self._run is not None

    @property
    def next_start(self) -> float | None:
        """When it starts again, by the monotonic clock, or None if it does not rest."""
        return self._next_start if self._state is ServiceState.BACKOFF else None

    @property
    def restarts(self) -> int:
        """How often it was started again after it had ended by itself."""
        return self.rule.restarts

    @property
    def uptime(self) -> float | None:
        """Seconds since it became active, or None if it is not."""
        return None if self._active_since is None else time.monotonic() - self._active_since

    @property
    def ready(self) -> bool:
        """It is active, and its readiness checks pass."""
        return self._state in (ServiceState.ACTIVE, ServiceState.RELOADING) and self._healthy

    @property
    def status_text(self) -> str:
        """What it says of itself (``STATUS=``), else why it is in this state; and its restarts."""
        said = self._run.status if self._run else ""
        notes = [said or self._reason, self._restarts_in_a_row()]
        if self._state is ServiceState.BACKOFF:
            left = max(0.0, self._next_start - time.monotonic())
            notes.append(f"next start in {left:.1f} s")
        return "; ".join(filter(None, notes))

    def _restarts_in_a_row(self) -> str:
        count, stable_after = self.rule.attempt, self.service.stable_after
        if not count or (stable_after is not None and (self.uptime or 0.0) >= stable_after):
            return ""
        again = "restarted once" if count == 1 else f"restarted {count} times in a row"
        return f"crash loop: {again}" if count > 2 else again

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of its sockets, with the ports that they have come to."""
        return self.sockets.addresses

    @property
    def result(self) -> Result | None:
        """What came of its last run that has ended; of its last connection, with ``accept``."""
        return (self._run and self._run.result) or self._last

    @property
    def output(self) -> str:
        """The last that it has printed, in this run or, if it does not run, in the last one."""
        call = self._run.call if self._run else None
        result = self.result if call is None else call.result()
        if result is None:
            return ""
        return "\n".join(part.text for part in (result.stdout, result.stderr) if part.total_bytes)

    # --- what there is to do ------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop it, and what requires it or is part of it, and wait until that is done.

        Its restarts are called off. Cancelled, this does not wait any longer. One that does not
        run is left as it is.
        """
        await self._family.stop(self).wait()

    def stop_soon(self) -> None:
        """As :meth:`stop`, without waiting."""
        self._family.stop(self)

    async def restart(self) -> None:
        """Stop it and start it again, with what goes with it, and wait until it is ready.

        :raises NotReady: the first attempt has failed; others follow by its rule.
        :raises SpawnError: the same, as its program cannot be started.
        :raises SupervisorClosed: its supervisor has been left, or has forgotten it, as it does
            with what is temporary or from a template and has ended.
        """
        await self._family.restart(self)

    async def start(self) -> None:
        """Start it if it does not run, with what it requires and wants, and wait until it is ready.

        One that waits for its restart does not wait any longer. Raises what :meth:`restart` does.
        """
        await self._family.start_again(self)

    def remove(self) -> None:
        """Have its supervisor forget it: its name can be used again, and its sockets are closed.

        :raises ValueError: it runs, or another service names it.
        :raises SupervisorClosed: as :meth:`restart`.
        """
        self._family.remove(self)

    async def reload(self) -> None:
        """Have it read its configuration again, and wait until it says that it has, if it does.

        :raises ValueError: it has no way to.
        :raises NotReady: it does not run, or its reload has failed.
        """
        if self.service.reload is None:
            raise ValueError(f"{self.name}: Service.reload says no way to do that")
        if not isinstance(self._run, Run) or self._state is not ServiceState.ACTIVE:
            raise NotReady(self.name, f"it cannot reload while it is {self._state.value}")
        failed = await self._run.reload()
        if failed is not None:
            raise NotReady(self.name, failed, self.output)

    def send_signal(self, number: int) -> None:
        """Send it to the main process; ProcessLookupError if there is none."""
        call = self._run.call if self._run else None
        if call is None or call.finished or call.pid is None:
            raise ProcessLookupError(errno.ESRCH, "it does not run")
        call.signal_main(number)

    async def wait_ready(self) -> None:
        """Wait until it is active and healthy.

        :raises NotReady: it has failed, or was stopped.
        """
        while not self.ready:
            if self._over:
                raise NotReady(self.name, self._reason, self.output)
            await self._changed.wait()

    async def wait(self) -> ServiceState:
        """Wait until it does not run any more and is not to be started again; its state then."""
        while not self._over:
            await self._changed.wait()
        return self._state

    @property
    def _over(self) -> bool:
        return self.idle.is_set() and not self._family.intends(self)

    # --- for its family -----------------------------------------------------------------------

    def expect(self) -> None:
        """It is to start, now or later."""
        if self.settled.is_set():
            self.settled = Flag()

    def expect_start(self, *, patient: bool) -> None:
        """The same, because somebody has asked for it."""
        self.expect()
        self.rule.reset()
        self.never, self._patient = False, patient
        self._expect_attempt()

    def _expect_attempt(self) -> None:
        self._first_failure = None
        if self.tried.is_set():
            self.tried = Flag()

    def begin(self) -> None:
        """Have it run from now on; its task is the family's."""
        self.wanted = self._waiting = True
        self.idle = Flag()
        self._expect_attempt()
        self.enter(ServiceState.ACTIVATING, "started")
        self._family.tasks.start_soon(self._live)

    def resume(self, saved: SavedService) -> None:
        """Go on where it was in an earlier host. Its task has not taken its first step."""
        self.rule.restore(saved.series)
        self.never = saved.never
        if saved.runs and saved.next_start is not None:
            self._next_start = saved.next_start
            self.enter(ServiceState.BACKOFF, "rests on, as in the host before")

    def wait_until(self, at: float) -> None:
        """It starts then, with its siblings."""
        self._next_start = at
        self.enter(ServiceState.BACKOFF, "restarts with its siblings")

    def halt(self) -> Flag:
        """Begin to end it; the event tells when that is done."""
        self.wanted = False
        if self._pause:
            self._pause.cancel()
        if self._run:
            self._run.stop()
        elif self._waiting or (self.idle.is_set() and not self.settled.is_set()):
            self.enter(ServiceState.INACTIVE, "stopped")
            self._end()
        return self.idle

    def kill(self) -> None:
        """Begin to end it without asking it first."""
        self.halt()
        for call in self._run.calls if self._run else ():
            with contextlib.suppress(OSError):
                call.signal_tree(signal.SIGKILL)

    @property
    def start_failed(self) -> bool:
        return self._first_failure is not None

    def check_started(self) -> None:
        """Raise what the first attempt has failed with."""
        if self._first_failure is not None:
            raise self._first_failure

    def close(self) -> None:
        """Let go of what it holds between its runs."""
        self.sockets.close()
        self._store.close()
        if self._notices:
            self._notices.close()

    def enter(self, state: ServiceState, reason: str) -> None:
        previous, self._state, self._reason = self._state, state, reason
        now = time.monotonic()
        if state not in (ServiceState.ACTIVE, ServiceState.RELOADING):
            self._active_since = None
        elif self._active_since is None:
            self._active_since = now
            # Startup and readiness checks have to pass first.
            self._healthy = all(check.role == "liveness" for check in self.service.health)
        if state is ServiceState.ACTIVE:
            self._settle(None)
        self.notify()
        if state is not previous:
            self._emit(previous)

    def _emit(self, previous: ServiceState) -> None:
        times = time.time(), time.monotonic()
        event = ServiceEvent(self.name, self._state, previous, self._reason, *times, self.pid)
        service_event(event)
        if self._observer:
            self._observer.event(event)
        self._family.emit(event)

    def notify(self) -> None:
        """Something has changed."""
        changed, self._changed = self._changed, Flag()
        changed.set()

    def on_health(self, healthy: bool, reason: str) -> None:
        """Its readiness checks pass, or do no longer."""
        self._healthy = healthy
        self._reason = "healthy" if healthy else f"not healthy: {reason}"
        self.notify()
        self._emit(self._state)

    # --- its task -----------------------------------------------------------------------------

    async def _live(self) -> None:
        """From a start to the end: runs, with pauses between them."""
        if not self._waiting:
            return  # it was stopped before this task's first step
        self._waiting = False
        with anyio.CancelScope(shield=True):
            try:
                if await self._may_start() and self._has_sockets():
                    while await self._live_once():
                        pass
            except anyio.get_cancelled_exc_class():
                # Somebody has cancelled this very task, as only asyncio lets them. That is not
                # passed on: the task group would end with it.
                self._family.call_off(self)
                self.enter(ServiceState.INACTIVE, "its task was cancelled")
            finally:
                self._end()

    def _end(self) -> None:
        """It has no task any more."""
        self._run, self._waiting = None, False
        if self._observer:
            self._observer.close()
        self.idle.set()
        if not self._family.intends(self):
            failure = (
                None if self.tried.is_set() else NotReady(self.name, self._reason, self.output)
            )
            self._settle(failure)
        self.notify()
        self._family.idled(self)

    def _settle(self, failure: Exception | None) -> None:
        """It is ready, or there is a ``failure`` and it is not to be expected any more."""
        self._patient = True
        self.settled.set()
        if not self.tried.is_set():
            self._first_failure = failure
            self.tried.set()

    async def _may_start(self) -> bool:
        """Wait for those that it starts after."""
        lacking: str | None = None

        async def wait() -> None:
            nonlocal lacking
            if self.next_start is not None:
                await anyio.sleep(max(0.0, self.next_start - time.monotonic()))
            lacking = await self._family.wait_for_others(self)

        if not await self._pause_for(wait):
            return False
        return lacking is None or self._fail(f"dependency failed: {lacking}")

    def _has_sockets(self) -> bool:
        """They are opened now if they could not be when it was made."""
        if self.service.sockets and not self.sockets.fds:
            try:
                self.sockets = open_sockets(self.service.sockets)
            except SpawnError as error:
                return self._fail(str(error), error)
        return True

    async def _live_once(self) -> bool:
        """One run; whether there is to be another one."""
        if what_it_lacks(self.spec):
            self.spec = self._family.make_spec(self.service)
        if self.service.accept and (lacking := what_it_lacks(self.spec)):
            return self._fail(str(lacking), lacking)
        if self.service.lazy and not await self._wait_for_connection():
            return False
        self._run = self._make_run()
        self.rule.started(time.monotonic())
        self.enter(ServiceState.ACTIVATING, "starting")
        ending = await self._run.live()
        self._last = self._run.result or self._last
        run, self._run = self._run, None
        if self._observer:
            clean = not self.wanted or self.service.policy.clean(ending)
            self._observer.ended(run, ending, clean=clean)
        if self.wanted:
            return await self._go_on_after(ending, run)
        steps = run.result.escalation if run.result else ()
        killed = any(step.action == "SIGKILL" for step in steps)
        return self._be_stopped("stopped by SIGKILL" if killed else "stopped")

    def _make_run(self) -> Run | Accepting:
        observer = self._observer = observed_run(self.service, self.spec, self._observer)
        spec = observer.spec if observer else self.spec
        if self.service.accept:
            return Accepting(self.service, spec, self.sockets, self.enter)
        return Run(
            self.service,
            spec,
            notices=self._notices,
            listening=list(zip(self.sockets.names, self.sockets.fds, strict=True)),
            store=self._store,
            tell=self.enter,
            on_health=self.on_health,
            on_status=self.notify,
            observer=observer,
        )

    async def _wait_for_connection(self) -> bool:
        self.enter(ServiceState.INACTIVE, "waits for a connection")
        self._settle(None)
        return await self._pause_for(self._until_connection)

    async def _until_connection(self) -> None:
        await wait_for_connection(self.sockets)
        # One that ends without having taken anything would be started again and again.
        if self._activations.record(time.monotonic()):
            pause = ACTIVATIONS[1]
            self.enter(ServiceState.INACTIVE, f"started too often: waits {pause:g} s")
            await anyio.sleep(pause)

    async def _go_on_after(self, ending: Ending, run: Run | Accepting) -> bool:
        """It has ended by itself; whether this task is to start it again."""
        if self.service.type == "oneshot" and self.service.policy.clean(ending):
            self._settle(None)
        if not self.tried.is_set():
            failure = run.error or NotReady(self.name, str(ending), self.output)
            if not self._patient:
                return self._fail(str(ending), failure)
            self._first_failure = failure
            self.tried.set()
        verdict = self.rule.ended(time.monotonic(), ending)
        if self.service.lazy and verdict.action == "rest":
            return True  # until the next connection
        self.never = verdict.action == "never"
        plan = self._family.ended(self, verdict, ending)
        if self.name not in plan.start:
            self.enter(
                ServiceState.INACTIVE if verdict.clean else ServiceState.FAILED, verdict.reason
            )
            return False
        self._next_start = time.monotonic() + verdict.delay
        self.enter(ServiceState.BACKOFF, verdict.reason)
        if plan.stop or plan.start != (self.name,):
            self._family.start_together(plan, self._next_start)
            return False
        return verdict.delay == 0 or await self._pause_for(partial(anyio.sleep, verdict.delay))

    async def _pause_for(self, wait: Callable[[], Awaitable[object]]) -> bool:
        """Wait, unless or until it is to stop; whether it is not."""
        with anyio.CancelScope() as self._pause:
            if self.wanted:
                await wait()
        self._pause = None
        return self.wanted or self._be_stopped()

    def _be_stopped(self, reason: str = "stopped") -> bool:
        self.enter(ServiceState.INACTIVE, reason)
        return False

    def _fail(self, reason: str, failure: Exception | None = None) -> bool:
        """A start has failed, and is not tried again."""
        self._family.call_off(self)
        self.enter(ServiceState.FAILED, reason)
        self._settle(failure or NotReady(self.name, reason))
        return False
