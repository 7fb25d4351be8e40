"""What a supervisor does, as a table, worked out from the documentation of Erlang/OTP.

The sources are the reference page of the module ``supervisor`` (its principles, flags, child
specifications, and ``start_child``, ``restart_child``, ``terminate_child``, ``delete_child``) and
the chapter "Supervisor Behaviour" of the design principles.  Where these leave something open
(what "within" includes, that a child which is down starts with its siblings), the table has what
OTP itself does.

How a driver reads a :class:`Scenario`:

1. Make a supervisor of the given ``strategy``, ``max_restarts``, ``within`` and ``auto_shutdown``,
   and start the ``children`` in order.  Under ``simple_one_for_one`` there is one child in the
   table, the template: it is only declared.  If ``ends`` is ``"refused"``, making the supervisor
   or declaring its children has to raise ValueError, before anything runs, and that was all.
2. Carry out the ``events`` one by one.  Wait after each until all that follows from it has
   happened.

   ==================  ==========================================================================
   ``Exit``            the child ends by itself, as its restart type has it: normally, or not
   ``Start``           somebody adds a child; under simple_one_for_one one of the template, of
                       which it then has the restart type
   ``Terminate``       somebody stops the child; its specification stays, if it is not temporary
   ``Restart``         somebody starts a child that is down
   ``Delete``          somebody takes away the specification of a child that is down
   ``Stop``            somebody stops the supervisor
   ==================  ==========================================================================

3. ``expected`` has one entry for each event: what the supervisor does then, in order. ``-a`` is a
   stop of ``a`` that has run till then (one that is down already is not stopped), ``+a`` a start.
   The starts and stops that the event itself asks for are among them; the end of a child by itself
   is not. ``"refused"`` is a ValueError, upon which nothing happens.
4. After the last event the supervisor goes on, has shut down (without an error), or has failed
   upward: ``ends``. If it does not go on, none of its children runs.

``at`` is in seconds on the supervisor's clock, and counts only where ``timed`` is set: in all other
scenarios everything lies within ``within``, however fast the driver is.  A driver that cannot set
the clock may scale ``at`` and ``within``, but not where ``exact`` is set: there, two restarts are
apart by ``within`` to the tick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Child:
    name: str
    restart: Literal["permanent", "transient", "temporary"] = "permanent"
    significant: bool = False


@dataclass(frozen=True)
class Exit:
    child: str
    normal: bool
    at: float = 0.0


@dataclass(frozen=True)
class Start:
    child: Child
    at: float = 0.0


@dataclass(frozen=True)
class Terminate:
    child: str
    at: float = 0.0


@dataclass(frozen=True)
class Restart:
    child: str
    at: float = 0.0


@dataclass(frozen=True)
class Delete:
    child: str
    at: float = 0.0


@dataclass(frozen=True)
class Stop:
    at: float = 0.0


Event: TypeAlias = Exit | Start | Terminate | Restart | Delete | Stop


@dataclass(frozen=True)
class Scenario:
    name: str
    strategy: Literal["one_for_one", "one_for_all", "rest_for_one", "simple_one_for_one"]
    children: tuple[Child, ...]
    events: tuple[Event, ...] = ()
    expected: tuple[str, ...] = ()
    ends: Literal["goes_on", "shuts_down", "fails", "refused"] = "goes_on"
    auto_shutdown: Literal["never", "any_significant", "all_significant"] = "never"
    max_restarts: int = 5
    within: float = 60.0
    timed: bool = False
    exact: bool = False


def permanent(name: str) -> Child:
    return Child(name)


def transient(name: str, *, significant: bool = False) -> Child:
    return Child(name, "transient", significant)


def temporary(name: str, *, significant: bool = False) -> Child:
    return Child(name, "temporary", significant)


def ends(child: str, at: float = 0.0) -> Exit:
    return Exit(child, normal=True, at=at)


def fails(child: str, at: float = 0.0) -> Exit:
    return Exit(child, normal=False, at=at)


A, B, C = permanent("a"), permanent("b"), permanent("c")
ABC = (A, B, C)

ONE_FOR_ONE = (
    Scenario("the first fails", "one_for_one", ABC, (fails("a"),), ("+a",)),
    Scenario("the middle one fails", "one_for_one", ABC, (fails("b"),), ("+b",)),
    Scenario("the last fails", "one_for_one", ABC, (fails("c"),), ("+c",)),
    Scenario(
        "one after the other fails",
        "one_for_one",
        ABC,
        (fails("b"), fails("c"), fails("b")),
        ("+b", "+c", "+b"),
    ),
    Scenario("a permanent one ends normally", "one_for_one", ABC, (ends("b"),), ("+b",)),
    Scenario(
        "a transient one ends normally", "one_for_one", (A, transient("b"), C), (ends("b"),), ("",)
    ),
    Scenario(
        "a transient one fails", "one_for_one", (A, transient("b"), C), (fails("b"),), ("+b",)
    ),
    Scenario(
        "a temporary one ends normally", "one_for_one", (A, temporary("b"), C), (ends("b"),), ("",)
    ),
    Scenario("a temporary one fails", "one_for_one", (A, temporary("b"), C), (fails("b"),), ("",)),
    Scenario(
        "all have ended, and the supervisor goes on",
        "one_for_one",
        (transient("a"), temporary("b")),
        (ends("a"), fails("b")),
        ("", ""),
    ),
    Scenario(
        "a supervisor without children goes on until it is stopped",
        "one_for_one",
        (),
        (Start(A), fails("a"), Stop()),
        ("+a", "+a", "-a"),
        "shuts_down",
    ),
)

ONE_FOR_ALL = (
    Scenario("the first fails", "one_for_all", ABC, (fails("a"),), ("-c -b +a +b +c",)),
    Scenario("the middle one fails", "one_for_all", ABC, (fails("b"),), ("-c -a +a +b +c",)),
    Scenario("the last fails", "one_for_all", ABC, (fails("c"),), ("-b -a +a +b +c",)),
    Scenario("the only one fails", "one_for_all", (A,), (fails("a"),), ("+a",)),
    Scenario(
        "a permanent one ends normally", "one_for_all", ABC, (ends("b"),), ("-c -a +a +b +c",)
    ),
    Scenario(
        "a transient one ends normally", "one_for_all", (A, transient("b"), C), (ends("b"),), ("",)
    ),
    Scenario(
        "a transient one fails",
        "one_for_all",
        (A, transient("b"), C),
        (fails("b"),),
        ("-c -a +a +b +c",),
    ),
    Scenario(
        "a temporary one ends normally", "one_for_all", (A, temporary("b"), C), (ends("b"),), ("",)
    ),
    Scenario("a temporary one fails", "one_for_all", (A, temporary("b"), C), (fails("b"),), ("",)),
    Scenario(
        "a temporary sibling is stopped, and deleted",
        "one_for_all",
        (A, temporary("t"), C),
        (fails("a"), Restart("t"), fails("c")),
        ("-c -t +a +c", "refused", "-a +a +c"),
    ),
    Scenario(
        "all siblings are temporary",
        "one_for_all",
        (temporary("s"), A, temporary("t")),
        (fails("a"), fails("a")),
        ("-t -s +a", "+a"),
    ),
    Scenario(
        "a transient one that had ended starts with the others",
        "one_for_all",
        (A, transient("t"), C),
        (ends("t"), fails("a"), fails("c")),
        ("", "-c +a +t +c", "-t -a +a +t +c"),
    ),
    Scenario(
        "one that was terminated starts with the others",
        "one_for_all",
        ABC,
        (Terminate("b"), fails("c")),
        ("-b", "-a +a +b +c"),
    ),
    Scenario(
        "one that was deleted does not start with the others",
        "one_for_all",
        ABC,
        (Terminate("b"), Delete("b"), fails("c")),
        ("-b", "", "-a +a +c"),
    ),
)

REST_FOR_ONE = (
    Scenario("the first fails", "rest_for_one", ABC, (fails("a"),), ("-c -b +a +b +c",)),
    Scenario("the middle one fails", "rest_for_one", ABC, (fails("b"),), ("-c +b +c",)),
    Scenario("the last fails", "rest_for_one", ABC, (fails("c"),), ("+c",)),
    Scenario("a permanent one ends normally", "rest_for_one", ABC, (ends("b"),), ("-c +b +c",)),
    Scenario(
        "a transient one ends normally", "rest_for_one", (transient("a"), B, C), (ends("a"),), ("",)
    ),
    Scenario(
        "a transient one fails",
        "rest_for_one",
        (A, transient("b"), C),
        (fails("b"),),
        ("-c +b +c",),
    ),
    Scenario("a temporary one fails", "rest_for_one", (temporary("a"), B, C), (fails("a"),), ("",)),
    Scenario(
        "a temporary one after it is stopped, and deleted",
        "rest_for_one",
        (A, temporary("t"), C),
        (fails("a"), Restart("t"), fails("a")),
        ("-c -t +a +c", "refused", "-c +a +c"),
    ),
    Scenario(
        "a temporary one before it stays",
        "rest_for_one",
        (temporary("t"), B, C),
        (fails("b"), Stop()),
        ("-c +b +c", "-c -b -t"),
        "shuts_down",
    ),
    Scenario(
        "one that is down starts with it if it comes after it",
        "rest_for_one",
        (A, B, transient("c"), permanent("d")),
        (ends("c"), fails("d"), fails("b")),
        ("", "+d", "-d +b +c +d"),
    ),
    Scenario(
        "one that is down stays down if it comes before it",
        "rest_for_one",
        (transient("a"), B, C),
        (ends("a"), fails("b")),
        ("", "-c +b +c"),
    ),
    Scenario(
        "one that was added is the last",
        "rest_for_one",
        (A, B),
        (Start(C), fails("b"), fails("c")),
        ("+c", "-c +b +c", "+c"),
    ),
    Scenario(
        "one that was terminated and restarted has kept its place",
        "rest_for_one",
        ABC,
        (Terminate("a"), Restart("a"), fails("a"), fails("c")),
        ("-a", "+a", "-c -b +a +b +c", "+c"),
    ),
)

STOP = (
    Scenario("in reverse", "one_for_one", ABC, (Stop(),), ("-c -b -a",), "shuts_down"),
    Scenario(
        "only those that run",
        "one_for_one",
        (A, transient("b"), temporary("c"), permanent("d")),
        (ends("b"), ends("c"), Stop()),
        ("", "", "-d -a"),
        "shuts_down",
    ),
    Scenario(
        "the one added last is stopped first",
        "one_for_all",
        (A, B),
        (Start(C), Stop()),
        ("+c", "-c -b -a"),
        "shuts_down",
    ),
    Scenario(
        "one that was restarted has kept its place",
        "one_for_one",
        ABC,
        (fails("a"), Terminate("b"), Restart("b"), Stop()),
        ("+a", "-b", "+b", "-c -b -a"),
        "shuts_down",
    ),
)

BY_HAND = (
    Scenario("terminating restarts nothing", "one_for_one", ABC, (Terminate("b"),), ("-b",)),
    Scenario(
        "terminating does not trigger the strategy", "one_for_all", ABC, (Terminate("b"),), ("-b",)
    ),
    Scenario(
        "terminating one that is down does nothing",
        "rest_for_one",
        ABC,
        (Terminate("b"), Terminate("b")),
        ("-b", ""),
    ),
    Scenario(
        "a restart by hand is not counted",
        "one_for_one",
        ABC,
        (Terminate("b"), Restart("b"), Terminate("b"), Restart("b")),
        ("-b", "+b", "-b", "+b"),
        max_restarts=0,
    ),
    Scenario(
        "a transient one that has ended can be restarted",
        "one_for_one",
        (A, transient("b")),
        (ends("b"), Restart("b"), fails("b")),
        ("", "+b", "+b"),
    ),
    Scenario(
        "one that runs cannot be restarted or deleted",
        "one_for_one",
        (A,),
        (Restart("a"), Delete("a")),
        ("refused", "refused"),
    ),
    Scenario(
        "a temporary one is deleted when it is terminated",
        "one_for_one",
        (A, temporary("t")),
        (Terminate("t"), Restart("t"), Delete("t")),
        ("-t", "refused", "refused"),
    ),
    Scenario(
        "a name is taken while its child runs and while it is down",
        "one_for_one",
        (A,),
        (Start(A), Terminate("a"), Start(A), Delete("a"), Start(A)),
        ("refused", "-a", "refused", "", "+a"),
    ),
    Scenario(
        "a temporary one leaves its name",
        "one_for_one",
        (A, temporary("t")),
        (fails("t"), Start(temporary("t"))),
        ("", "+t"),
    ),
)

INTENSITY = (
    Scenario(
        "exactly reached",
        "one_for_one",
        ABC,
        (fails("b"), fails("b")),
        ("+b", "+b"),
        max_restarts=2,
    ),
    Scenario(
        "exceeded",
        "one_for_one",
        ABC,
        (fails("b"), fails("b"), fails("b")),
        ("+b", "+b", "-c -a"),
        "fails",
        max_restarts=2,
    ),
    Scenario(
        "no restart is allowed",
        "one_for_one",
        ABC,
        (fails("c"),),
        ("-b -a",),
        "fails",
        max_restarts=0,
    ),
    Scenario(
        "no restart is allowed, and none is needed",
        "one_for_one",
        (A, transient("b"), temporary("c"), temporary("d")),
        (ends("b"), ends("c"), fails("d")),
        ("", "", ""),
        max_restarts=0,
    ),
    Scenario(
        "the restarts of all children are counted together",
        "one_for_one",
        ABC,
        (fails("a"), ends("b"), fails("c")),
        ("+a", "+b", "-b -a"),
        "fails",
        max_restarts=2,
    ),
    Scenario(
        "the restart of a whole group is counted once",
        "one_for_all",
        ABC,
        (fails("a"), fails("b")),
        ("-c -b +a +b +c", "-c -a +a +b +c"),
        max_restarts=2,
    ),
    Scenario(
        "exceeded under one_for_all: nothing starts",
        "one_for_all",
        ABC,
        (fails("a"), fails("b")),
        ("-c -b +a +b +c", "-c -a"),
        "fails",
        max_restarts=1,
    ),
    Scenario(
        "exceeded under rest_for_one: those before it stop, too",
        "rest_for_one",
        ABC,
        (fails("b"), fails("b")),
        ("-c +b +c", "-c -a"),
        "fails",
        max_restarts=1,
    ),
    Scenario(
        "a child that is down is not stopped",
        "one_for_one",
        (A, transient("b"), C),
        (ends("b"), fails("c")),
        ("", "-a"),
        "fails",
        max_restarts=0,
    ),
    Scenario(
        "the window slides: as many, but not within",
        "one_for_one",
        ABC,
        (fails("a", 0.0), fails("a", 3.0), fails("a", 6.0), fails("a", 9.0)),
        ("+a", "+a", "+a", "+a"),
        max_restarts=2,
        within=5.0,
        timed=True,
    ),
    Scenario(
        "the window slides: too many in the end",
        "one_for_one",
        ABC,
        (fails("a", 0.0), fails("a", 3.0), fails("a", 6.0), fails("a", 7.0)),
        ("+a", "+a", "+a", "-c -b"),
        "fails",
        max_restarts=2,
        within=5.0,
        timed=True,
    ),
    Scenario(
        "a restart exactly so long ago counts",
        "one_for_one",
        ABC,
        (fails("a", 1.0), fails("a", 6.0)),
        ("+a", "-c -b"),
        "fails",
        max_restarts=1,
        within=5.0,
        timed=True,
        exact=True,
    ),
    Scenario(
        "a restart longer ago does not count",
        "one_for_one",
        ABC,
        (fails("a", 1.0), fails("a", 6.5)),
        ("+a", "+a"),
        max_restarts=1,
        within=5.0,
        timed=True,
    ),
)

AUTO_SHUTDOWN = (
    Scenario(
        "any: a transient one ends normally",
        "one_for_one",
        (A, transient("b", significant=True), C),
        (ends("b"),),
        ("-c -a",),
        "shuts_down",
        "any_significant",
    ),
    Scenario(
        "any: a transient one fails, and is restarted",
        "one_for_one",
        (A, transient("b", significant=True), C),
        (fails("b"),),
        ("+b",),
        auto_shutdown="any_significant",
    ),
    Scenario(
        "any: a temporary one ends normally",
        "one_for_one",
        (A, temporary("b", significant=True), C),
        (ends("b"),),
        ("-c -a",),
        "shuts_down",
        "any_significant",
    ),
    Scenario(
        "any: a temporary one fails",
        "one_for_all",
        (A, temporary("b", significant=True), C),
        (fails("b"),),
        ("-c -a",),
        "shuts_down",
        "any_significant",
    ),
    Scenario(
        "any: others do not matter",
        "one_for_one",
        (A, transient("b"), temporary("c"), transient("d", significant=True)),
        (ends("a"), ends("b"), fails("c")),
        ("+a", "", ""),
        auto_shutdown="any_significant",
    ),
    Scenario(
        "any: the first of several",
        "rest_for_one",
        (transient("a", significant=True), temporary("b", significant=True), C),
        (ends("a"),),
        ("-c -b",),
        "shuts_down",
        "any_significant",
    ),
    Scenario(
        "any: terminated by hand",
        "one_for_one",
        (A, transient("b", significant=True)),
        (Terminate("b"),),
        ("-b",),
        auto_shutdown="any_significant",
    ),
    Scenario(
        "any: stopped for a sibling's sake",
        "one_for_all",
        (A, temporary("t", significant=True), transient("c", significant=True)),
        (fails("a"),),
        ("-c -t +a +c",),
        auto_shutdown="any_significant",
    ),
    Scenario(
        "any: one too many failures is a failure",
        "one_for_one",
        (A, transient("b", significant=True)),
        (fails("b"), fails("b")),
        ("+b", "-a"),
        "fails",
        "any_significant",
        max_restarts=1,
    ),
    Scenario(
        "all: the last one",
        "one_for_one",
        (
            A,
            transient("b", significant=True),
            temporary("c", significant=True),
            transient("d", significant=True),
        ),
        (ends("d"), fails("c"), ends("b")),
        ("", "", "-a"),
        "shuts_down",
        "all_significant",
    ),
    Scenario(
        "all: one that is restarted is active",
        "one_for_one",
        (A, transient("b", significant=True), transient("c", significant=True)),
        (fails("b"), ends("c"), fails("b"), ends("b")),
        ("+b", "", "+b", "-a"),
        "shuts_down",
        "all_significant",
    ),
    Scenario(
        "all: others do not matter",
        "one_for_one",
        (transient("a"), transient("b", significant=True), transient("c", significant=True)),
        (ends("b"), ends("a")),
        ("", ""),
        auto_shutdown="all_significant",
    ),
    Scenario(
        "all: there are none",
        "one_for_one",
        (transient("a"), B),
        (ends("a"),),
        ("",),
        auto_shutdown="all_significant",
    ),
    Scenario(
        "all: the last one is terminated by hand",
        "one_for_one",
        (A, transient("b", significant=True), transient("c", significant=True)),
        (ends("b"), Terminate("c")),
        ("", "-c"),
        auto_shutdown="all_significant",
    ),
    Scenario(
        "all: one that was terminated by hand is not active",
        "one_for_one",
        (A, transient("b", significant=True), transient("c", significant=True)),
        (Terminate("b"), ends("c")),
        ("-b", "-a"),
        "shuts_down",
        "all_significant",
    ),
    Scenario(
        "all: one that was restarted by hand is active again",
        "one_for_one",
        (A, transient("b", significant=True), transient("c", significant=True)),
        (ends("b"), Restart("b"), ends("c"), ends("b")),
        ("", "+b", "", "-a"),
        "shuts_down",
        "all_significant",
    ),
    Scenario(
        "all: one that started with its siblings is active again",
        "one_for_all",
        (A, transient("b", significant=True), transient("c", significant=True)),
        (ends("b"), fails("a"), ends("c"), ends("b")),
        ("", "-c +a +b +c", "", "-a"),
        "shuts_down",
        "all_significant",
    ),
    Scenario(
        "all: a temporary one stopped for a sibling's sake is no longer waited for",
        "one_for_all",
        (A, temporary("t", significant=True), transient("c", significant=True)),
        (fails("a"), ends("c")),
        ("-c -t +a +c", "-a"),
        "shuts_down",
        "all_significant",
    ),
    Scenario(
        "a significant one cannot be permanent",
        "one_for_one",
        (A, Child("b", "permanent", significant=True)),
        ends="refused",
        auto_shutdown="any_significant",
    ),
    Scenario(
        "there can be no significant one where nothing shuts down",
        "one_for_one",
        (A, transient("b", significant=True)),
        ends="refused",
    ),
    Scenario(
        "one that is added is held to the same",
        "one_for_one",
        (A,),
        (Start(transient("b", significant=True)), Start(transient("b"))),
        ("refused", "+b"),
    ),
)

SIMPLE_ONE_FOR_ONE = (
    Scenario(
        "only the one that fails is restarted",
        "simple_one_for_one",
        (permanent("template"),),
        (Start(A), Start(B), Start(C), fails("a"), ends("c")),
        ("+a", "+b", "+c", "+a", "+c"),
    ),
    Scenario(
        "none was ever started",
        "simple_one_for_one",
        (permanent("template"),),
        (Stop(),),
        ("",),
        "shuts_down",
    ),
    Scenario(
        "they stop in an order that OTP leaves open: in reverse",
        "simple_one_for_one",
        (permanent("template"),),
        (Start(A), Start(B), Start(C), fails("a"), Stop()),
        ("+a", "+b", "+c", "+a", "-c -b -a"),
        "shuts_down",
    ),
    Scenario(
        "the intensity is that of all together",
        "simple_one_for_one",
        (permanent("template"),),
        (Start(A), Start(B), Start(C), fails("a"), fails("b")),
        ("+a", "+b", "+c", "+a", "-c -a"),
        "fails",
        max_restarts=1,
    ),
    Scenario(
        "temporary ones are not restarted",
        "simple_one_for_one",
        (temporary("template"),),
        (Start(temporary("a")), Start(temporary("b")), fails("a"), Start(temporary("a")), Stop()),
        ("+a", "+b", "", "+a", "-a -b"),
        "shuts_down",
    ),
    Scenario(
        "a transient one that has ended is forgotten",
        "simple_one_for_one",
        (transient("template"),),
        (Start(transient("a")), Start(transient("b")), fails("a"), ends("a"), Restart("a")),
        ("+a", "+b", "+a", "", "refused"),
    ),
    Scenario(
        "one that was terminated is forgotten",
        "simple_one_for_one",
        (permanent("template"),),
        (Start(A), Start(B), Terminate("a"), Restart("a"), Delete("a"), fails("b")),
        ("+a", "+b", "-a", "refused", "refused", "+b"),
    ),
    Scenario(
        "all are significant, and the last one ends",
        "simple_one_for_one",
        (transient("template", significant=True),),
        (
            Start(transient("a", significant=True)),
            Start(transient("b", significant=True)),
            fails("a"),
            ends("b"),
            ends("a"),
        ),
        ("+a", "+b", "+a", "", ""),
        "shuts_down",
        "all_significant",
    ),
    Scenario(
        "a significant template cannot be permanent",
        "simple_one_for_one",
        (Child("template", "permanent", significant=True),),
        ends="refused",
        auto_shutdown="any_significant",
    ),
    Scenario(
        "there can be no significant template where nothing shuts down",
        "simple_one_for_one",
        (transient("template", significant=True),),
        ends="refused",
    ),
)

SCENARIOS = (
    ONE_FOR_ONE
    + ONE_FOR_ALL
    + REST_FOR_ONE
    + STOP
    + BY_HAND
    + INTENSITY
    + AUTO_SHUTDOWN
    + SIMPLE_ONE_FOR_ONE
)
