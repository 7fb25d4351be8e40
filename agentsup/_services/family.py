"""The services of one supervisor: who of them starts, stops and restarts, with whom, and when.

What is decided, ``_rules/strategy.py`` and ``_rules/ordering.py`` decide.  This carries it out.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypedDict

import anyio
from attrs import evolve

from .._errors import RestartLimitReached, SpawnError, SupervisorClosed
from .._rules import ordering
from .._rules.intensity import Intensity
from .._rules.strategy import Plan, SupervisorRule
from .._shielded import to_the_end
from .._values.command import Command
from .._values.heartbeat import NotifyHeartbeat
from .._values.readiness import NewlineOn
from .._values.result import Containment
from .._values.service import CALL_OPTIONS, Service
from .._values.state import ServiceState
from . import probing
from .events import Events
from .handle import ServiceHandle, make_child, make_unit
from .lacking import lacking_spec
from .sockets import open_sockets

if TYPE_CHECKING:
    from collections.abc import (
        Awaitable,
        Callable,
        Collection,
        Generator,
        Iterable,
        Mapping,
        Sequence,
    )

    from anyio.abc import TaskGroup

    from .._calls.spec import CallOptions, Spec
    from .._rules.ordering import Unit
    from .._rules.restart import Verdict
    from .._rules.strategy import AutoShutdown, Strategy
    from .._values.command import CommandLike, Word
    from .._values.listen import ListenSocket
    from .._values.restart import Ending
    from .._values.state import ServiceEvent
    from .flag import Flag
    from .sockets import OpenSockets

    Opener: TypeAlias = Callable[[Sequence[ListenSocket]], OpenSockets]


class FamilyOptions(TypedDict, total=False):
    """How a supervisor treats its services; :class:`Supervisor` describes them."""

    strategy: Strategy
    max_restarts: int | None
    within: float | None
    auto_shutdown: AutoShutdown
    template: Service | None


_OPTIONS = frozenset(FamilyOptions.__annotations__)


class Family:
    """Made by a supervisor, in whose task group its services live."""

    def __init__(
        self,
        make_spec: Callable[[CommandLike, CallOptions], Spec],
        options: FamilyOptions,
        *,
        fail: Callable[[RestartLimitReached], None],
        shut_down: Callable[[], None],
        pass_on: Callable[[ServiceEvent], None],
    ) -> None:
        if not options.keys() <= _OPTIONS:
            raise TypeError(f"unknown argument {min(options.keys() - _OPTIONS)!r}")
        self._spec_of = make_spec
        self.rule = SupervisorRule(
            options.get("strategy", "one_for_one"),
            Intensity(options.get("max_restarts", 3), options.get("within", 5.0)),
            options.get("auto_shutdown", "never"),
        )
        self._template = self._check_template(options.get("template"))
        self._in_line = self.rule.strategy in ("one_for_all", "rest_for_one")
        self._fail = fail
        self._shut_down = shut_down
        self._pass_on = pass_on
        self.members: dict[str, ServiceHandle] = {}  # in the order in which they were started
        self.events = Events()
        #: Told of a member when it may be meant to do something else from now on.
        self.watchers: list[Callable[[ServiceHandle], None]] = []
        #: What has ended for good stays, to be looked at and started again; and what cannot be
        #: started now is taken all the same, and fails when it starts.
        self.lasting = False
        self.open = True
        self.closed = False
        self._closing = anyio.Event()
        self._made = 0  # from the template
        self.tasks: TaskGroup

    def _check_template(self, template: Service | None) -> Service | None:
        simple = self.rule.strategy == "simple_one_for_one"
        if template is not None and not isinstance(template, Service):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
            raise TypeError(f"template must be an agentsup.Service, not {template!r}")
        if simple is not (template is not None):
            raise ValueError("template and strategy='simple_one_for_one' need each other")
        if template:
            self.rule.check(make_child(template))
            if template.sockets or make_unit(template).names:
                raise ValueError("template: its children can have neither sockets nor an order")
        return template

    # --- new ones -----------------------------------------------------------------------------

    def check(
        self,
        services: Sequence[Service],
        *,
        at_rest: Collection[str] = (),
        order: Sequence[str] = (),
    ) -> list[Spec]:
        """Raise what is wrong with new ones; what is to be run for each of them.

        Those ``at_rest`` are not to start with the others. They come last, but for an ``order``
        that names all there are then.
        """
        for service in services:
            if not isinstance(service, Service):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
                raise TypeError(f"a service must be an agentsup.Service, not {service!r}")
        names = [service.name for service in services]
        for name in names:
            if name in self.members or names.count(name) > 1:
                raise ValueError(f"Service.name: there is a service {name!r} already")
        specs: list[Spec] = []
        for service in services:
            with _about(service):
                specs.append(self.make_spec(service))
                probing.load([service.ready, *(check.probe for check in service.health)])
            self.rule.check(make_child(service))
        found = [member.unit for member in self.members.values()] + [*map(make_unit, services)]
        if order:
            places = {name: place for place, name in enumerate(order)}
            found.sort(key=lambda unit: places[unit.name])
        units = self._in_order(found)
        ordering.check(units)
        if self._in_line and any(unit.conflicts for unit in units.values()):
            raise ValueError(f"conflicts: with {self.rule.strategy!r}, all run together")
        ordering.check_together(units, [name for name in names if name not in at_rest])
        return specs

    def add(
        self,
        services: Sequence[Service],
        *,
        from_template: bool = False,
        opener: Opener = open_sockets,
        at_rest: Collection[str] = (),
        order: Sequence[str] = (),
    ) -> list[ServiceHandle]:
        """Check them all, and make what they need; nothing is started."""
        if not self.open:
            raise SupervisorClosed("this Supervisor is being left")
        if self._template and not from_template:
            raise ValueError("with strategy='simple_one_for_one', start_child() starts services")
        specs = self.check(services, at_rest=at_rest, order=order)
        made: list[ServiceHandle] = []
        try:
            for service, spec in zip(services, specs, strict=True):
                with _about(service):
                    made.append(self._make(service, spec, opener))
        except BaseException:
            for handle in made:
                handle.close()
            raise
        self.members.update({handle.name: handle for handle in made})
        return made

    def drop(self, names: Iterable[str]) -> None:
        """Forget these, which are down; others that name them are to get them back."""
        for name in names:
            if member := self.members.pop(name, None):
                if name in self.rule.children:
                    self.rule.remove(name)
                member.close()

    def arrange(self, order: Sequence[str]) -> None:
        """From now on they are in this order, as if they had been started in it."""
        self.members = {name: self.members[name] for name in order}
        self.rule.arrange(order)

    def _make(self, service: Service, spec: Spec, opener: Opener) -> ServiceHandle:
        sockets = opener(service.sockets)
        try:
            return ServiceHandle(service, spec, sockets, self)
        except BaseException:
            sockets.close()
            raise

    def make_spec(self, service: Service) -> Spec:
        try:
            return self._make_spec(service)
        except SpawnError as error:
            if not self.lasting:
                raise
            return lacking_spec(service, error)

    def _make_spec(self, service: Service) -> Spec:
        options: CallOptions = {name: getattr(service, name) for name in CALL_OPTIONS}  # type: ignore[assignment]  # each by its own name
        options["name"] = service.name
        options["output"] = service.output
        if not isinstance(service.heartbeat, NotifyHeartbeat):
            options["heartbeat"] = service.heartbeat
        if service.type == "forking":
            options["leftovers"] = "adopt"
        spec = self._spec_of(service.command, options)
        _check_level(service, spec.containment)
        return evolve(spec, terms=evolve(spec.terms, linger=0.0))

    def add_from_template(self, words: Sequence[Word], name: str | None) -> ServiceHandle:
        if self._template is None:
            raise ValueError("start_child() takes strategy='simple_one_for_one' and a template")
        self._made += 1
        template = self._template
        service = evolve(
            template,
            name=name or f"{template.name}-{self._made}",
            command=Command((*template.command.argv, *words)),
        )
        return self.add([service], from_template=True)[0]

    def _units(self) -> dict[str, Unit]:
        return self._in_order(member.unit for member in self.members.values())

    def _in_order(self, units: Iterable[Unit]) -> dict[str, Unit]:
        """With a strategy for several, each starts after those before it."""
        found: dict[str, Unit] = {}
        for unit in units:
            after = (*found, *unit.after) if self._in_line else unit.after
            found[unit.name] = evolve(unit, after=after)
        return found

    # --- starting -----------------------------------------------------------------------------

    def begin(
        self, names: Collection[str], *, patient: bool, at_rest: Collection[str] = ()
    ) -> None:
        """Have these run, and what they require and want, each as soon as its order allows.

        Those ``at_rest`` only get their places among the others.
        """
        units = self._units()
        for name in ordering.to_start(units, names):
            if name in at_rest:
                self._place(self.members[name])
            elif name not in self.rule.active:
                member = self.members[name]
                for other in ordering.conflicting(units, name):
                    self.stop(self.members[other])
                self.rule.start(member.child)
                member.expect_start(patient=patient)
                if member.idle.is_set():
                    member.begin()
                else:  # it is to be stopped
                    self._in_background(partial(self._begin_once_idle, member))

    def _place(self, member: ServiceHandle) -> None:
        if member.name not in self.rule.children:
            self.rule.start(member.child)
            self.rule.stopped(member.name)

    async def start(
        self, services: Sequence[ServiceHandle], *, at_rest: Collection[str] = ()
    ) -> None:
        """Start new ones and wait until they are ready; if one is not, none of them stays."""
        try:
            names = [service.name for service in services]
            self.begin(names, patient=False, at_rest=at_rest)
            await _all_started(services)
        except BaseException:
            await self._take_back(services)
            raise

    async def _take_back(self, services: Sequence[ServiceHandle]) -> None:
        for service in services:
            self.call_off(service)

        async def halt() -> None:
            await self._halt([one.name for one in services if self.members.get(one.name) is one])

        late = await to_the_end(halt, lambda: all(service.idle.is_set() for service in services))
        self._forget(services)
        if late is not None:
            raise late

    async def wait_for_others(self, member: ServiceHandle) -> str | None:
        """Until it may start; or the one whose failure does not let it."""
        units = self._units()
        unit = units[member.name]
        for name in ordering.conflicting(units, member.name):
            await self.members[name].idle.wait()
        before = ordering.waits_for(units, member.name, self.rule.active)
        for other in [self.members[name] for name in before]:
            # One that only comes after it does not wait until its restarts have come to something.
            patient = self._in_line or other.name in unit.requires
            await (other.settled if patient else other.tried).wait()
        needed = set(unit.requires).intersection(unit.after)
        return next((name for name in sorted(needed) if self._has_failed(name)), None)

    def _has_failed(self, name: str) -> bool:
        return name not in self.members or self.members[name].state is ServiceState.FAILED

    def intends(self, member: ServiceHandle) -> bool:
        """It runs, or is about to."""
        return self.members.get(member.name) is member and member.name in self.rule.active

    # --- by hand ------------------------------------------------------------------------------

    def stop(self, member: ServiceHandle) -> anyio.Event:
        """Begin to stop it, and what stops with it; the event tells when that is done."""
        done = anyio.Event()
        if self.members.get(member.name) is not member:
            done.set()
            return done
        return self.stop_together(self.stopping_with([member.name]))

    def stopping_with(self, names: Iterable[str]) -> frozenset[str]:
        """These, and what stops with them."""
        units = self._units()
        return frozenset(other for name in names for other in ordering.to_stop(units, name))

    def stop_together(self, names: Collection[str]) -> anyio.Event:
        """Begin to stop these and nothing else; the event tells when that is done."""
        for name in names:
            self.call_off(self.members[name])
        # One that ends by itself and is started again before this comes to it is left alone.
        lives = {name: self.members[name].idle for name in names}
        return self._in_background(partial(self._halt, names, lives))

    def call_off(self, member: ServiceHandle) -> None:
        """It is not to run any more."""
        if self.intends(member):
            self.rule.stopped(member.name)
            member.rule.reset()
            self._changed(member)

    async def restart(self, member: ServiceHandle) -> None:
        self._check_known(member)
        restarted = ordering.to_restart(self._units(), member.name)
        await self._restart(member, [name for name in restarted if name in self.rule.active])

    async def start_again(self, member: ServiceHandle) -> None:
        self._check_known(member)
        waits = self.intends(member) and member.state is ServiceState.BACKOFF
        await self._restart(member, [member.name] if waits else [])

    async def _restart(self, member: ServiceHandle, names: Sequence[str]) -> None:
        """Restart these, which run, and start it if it does not."""
        for name in names:
            self.members[name].expect_start(patient=True)
        self.begin([member.name], patient=True)
        if names:
            await self._in_background(partial(self._begin_again, names)).wait()
        await member.tried.wait()
        member.check_started()

    def remove(self, member: ServiceHandle) -> None:
        """Forget one that is down."""
        self._check_known(member)
        if self.intends(member) or not member.idle.is_set():
            raise ValueError(f"{member.name!r} runs; stop it first")
        self._forget([member])
        if member.name in self.members:
            raise ValueError(f"{member.name!r} is named by another service; remove that first")

    def _check_known(self, member: ServiceHandle) -> None:
        if not self.open:
            raise SupervisorClosed("this Supervisor is being left")
        if self.members.get(member.name) is not member:
            raise SupervisorClosed(f"{member.name!r} has ended and is forgotten")

    # --- what happens -------------------------------------------------------------------------

    def ended(self, member: ServiceHandle, verdict: Verdict, ending: Ending) -> Plan:
        """A service has ended by itself: what follows for all of them."""
        again = verdict.action == "restart" and self.open
        plan = self.rule.ended(member.name, time.monotonic(), again=again)
        if verdict.action != "restart":
            self._changed(member)
        if plan.then != "goes_on":
            self.open = False
            if plan.then == "fails":
                self._fail(self._limit_reached(member, ending))
            else:
                self._shut_down()
        if plan.start:
            plan = self._with_dependents(plan)
        for name in plan.start:
            self.members[name].expect()
        return plan

    def _limit_reached(self, member: ServiceHandle, ending: Ending) -> RestartLimitReached:
        return RestartLimitReached(member.name, str(ending), self._limit_text(), member.output)

    def _limit_text(self) -> str:
        limit = self.rule.intensity
        within = "" if limit.within is None else f" within {limit.within:g} s"
        return f"more than {limit.max_restarts} restarts{within}"

    def _with_dependents(self, plan: Plan) -> Plan:
        """What requires one that restarts, or is part of it, does so as well, if it runs."""
        units = self._units()
        dependents = {
            name
            for started in plan.start
            for name in ordering.to_restart(units, started)
            if self.members[name].runs and self.intends(self.members[name])
        }
        stop = ordering.stop_order(units, dependents.union(plan.stop))
        start = ordering.stop_order(units, dependents.union(self._startable(plan.start)))[::-1]
        return Plan(stop, start)

    def _startable(self, names: Iterable[str]) -> list[str]:
        """Without those that have said that it is of no use to start them again."""
        for name in names:
            if self.members[name].never:
                self.rule.stopped(name)
        return [name for name in names if not self.members[name].never]

    def start_together(self, plan: Plan, at: float) -> None:
        """Stop what the plan says, and start again what it says, not before ``at``."""
        self._in_background(partial(self._start_together, plan, at))

    async def _start_together(self, plan: Plan, at: float) -> None:
        await self._halt(plan.stop)
        for name in plan.start:
            member = self.members.get(name)
            if member and self.intends(member) and member.idle.is_set():  # or else it was begun
                member.wait_until(at)
        with anyio.move_on_after(max(0.0, at - time.monotonic())):
            await self._closing.wait()
        self._begin_all(plan.start)

    async def _begin_again(self, names: Sequence[str]) -> None:
        await self._halt(names)
        self._begin_all(names)

    async def _begin_once_idle(self, member: ServiceHandle) -> None:
        await member.idle.wait()
        self._begin_all([member.name])

    def _begin_all(self, names: Sequence[str]) -> None:
        """Start those of them that are still to run, and do not."""
        for name in names:
            member = self.members.get(name)
            if member and self.open and self.intends(member):
                self._begin(member)

    def _begin(self, member: ServiceHandle) -> None:
        if member.idle.is_set():
            member.begin()
        elif not member.wanted:  # it is being stopped
            self._in_background(partial(self._begin_once_idle, member))

    def emit(self, event: ServiceEvent) -> None:
        self.events.emit(event)
        self._pass_on(event)
        if member := self.members.get(event.service):
            self._changed(member)

    def _changed(self, member: ServiceHandle) -> None:
        if self.open:  # when all are stopped, none of them is meant to
            for watcher in self.watchers:
                watcher(member)

    def idled(self, member: ServiceHandle) -> None:
        """It has no task any more: is it to be kept?"""
        if not self.lasting and member.name not in self.rule.children:
            self._forget([member])

    def child_failed(self, name: str, error: RestartLimitReached) -> bool:
        """A supervisor below has failed, which counts as a restart; whether there may be one."""
        if self.open and self.rule.intensity.record(time.monotonic()):
            self.open = False
            text = self._limit_text()
            self._fail(
                RestartLimitReached(
                    f"{name}/{error.service}", f"{error.limit}; {error.reason}", text, error.output
                )
            )
        return self.open

    def _forget(self, gone: Collection[ServiceHandle]) -> None:
        """Let go of these, unless others name them."""
        gone = [member for member in gone if self.members.get(member.name) is member]
        others = [other for other in self.members.values() if other not in gone]
        if any(member.name in other.unit.names for member in gone for other in others):
            return
        for member in gone:
            if member.name in self.rule.children:
                self.rule.remove(member.name)
            del self.members[member.name]
            member.close()

    # --- stopping -----------------------------------------------------------------------------

    async def _halt(self, names: Collection[str], lives: Mapping[str, Flag] | None = None) -> None:
        """Stop these, in these of their lives: each when those that start after it have ended."""
        units = self._units()
        left = ordering.stop_order(units, names)
        before = {name: frozenset(units[name].after) for name in left}
        while left:
            wave = [name for name in left if not any(name in before[other] for other in left)]
            ended = [
                member.halt()
                for name in wave
                if (member := self.members.get(name))
                and (lives is None or member.idle is lives[name])
            ]
            for event in ended:
                await event.wait()
            left = tuple(name for name in left if name not in wave)

    async def close(self) -> None:
        """Stop all, and let go of everything. May be repeated."""
        self.open = False
        self._closing.set()
        for member in self.members.values():
            self.call_off(member)
        await self._halt(list(self.members))
        while self.members:
            self.members.popitem()[1].close()
        self.events.end()
        self.closed = True

    # --- how ----------------------------------------------------------------------------------

    def _in_background(self, work: Callable[[], Awaitable[None]]) -> anyio.Event:
        """Have it done to its end, whoever waits for it; the event tells when it is."""
        done = anyio.Event()

        async def work_once() -> None:
            await work()
            done.set()

        async def do() -> None:
            # If somebody cancels this very task, as only asyncio lets them, that is not passed on:
            # the task group would end with it.
            await to_the_end(work_once, done.is_set)

        self.tasks.start_soon(do)
        return done


@contextlib.contextmanager
def _about(service: Service) -> Generator[None]:
    """Have an error say which of several services it is about."""
    try:
        yield
    except Exception as error:
        error.add_note(f"agentsup: service {service.name!r}")
        raise


async def _all_started(services: Sequence[ServiceHandle]) -> None:
    """Until all are ready, or the first of them has failed: raise what that one did."""
    failed: list[ServiceHandle] = []

    async def wait(service: ServiceHandle) -> None:
        await service.tried.wait()
        if service.start_failed:
            failed.append(service)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for service in services:
            tasks.start_soon(wait, service)
    if failed:
        failed[0].check_started()


def _check_level(service: Service, level: Containment) -> None:
    """Raise ValueError for what cannot be done at this level of containment."""
    if level is Containment.PID_NAMESPACE and service.type == "forking":
        raise ValueError(
            f"{service.name}: type='forking' cannot be in a PID namespace, where its daemon "
            "has another number than here"
        )
    passes = service.sockets or service.fd_store or isinstance(service.ready, NewlineOn)
    if level is Containment.PROCESS_GROUP and (passes or service.type == "forking"):
        raise ValueError(
            f"{service.name}: type='forking', sockets, fd_store and NewlineOn take a keeper, and "
            f"there is none with containment={level.name}"
        )
