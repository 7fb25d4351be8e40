"""What a service is said to be: what it may be given as, and what is refused by which name."""

from __future__ import annotations

import math
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import tenacity
from attrs import evolve

import agentsup
from agentsup import (
    CallableProbe,
    Command,
    Escalation,
    FileExists,
    HealthCheck,
    Hook,
    HttpProbe,
    ListenSocket,
    NewlineOn,
    Notified,
    NotifyHeartbeat,
    OutputHeartbeat,
    OutputMatches,
    OutputPolicy,
    RunningFor,
    Service,
    TcpProbe,
)

TRUE = Command(("true",))
TCP = ListenSocket("127.0.0.1:0")
WEB = HttpProbe("http://127.0.0.1/")
LISTENING = {"sockets": TCP}


def service(**options: Any) -> Service:
    return Service(**{"name": "s", "command": TRUE, **options})


# --- what it may be given as ----------------------------------------------------------------


def do() -> None:
    pass


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("command", ["true"], TRUE),
        ("command", agentsup.shell("ls"), Command(("/bin/sh", "-c", "ls"))),
        ("ready", "notify", Notified()),
        ("ready", do, CallableProbe(do)),
        ("ready", TcpProbe(80), TcpProbe(80)),
        ("start_timeout", math.inf, None),
        ("after", "db", ("db",)),
        ("requires", ["db", "cache"], ("db", "cache")),
        ("wants", iter(["db"]), ("db",)),
        ("health", HealthCheck(do), (HealthCheck(do),)),
        ("health", [HealthCheck(do)], (HealthCheck(do),)),
        ("sockets", TCP, (TCP,)),
        ("sockets", [TCP, TCP], (TCP, TCP)),
        ("pre_start", [], ()),
        ("pre_start", ["true"], (Hook(TRUE),)),
        ("pre_start", TRUE, (Hook(TRUE),)),
        ("post_start", do, (Hook(do),)),
        ("post_start", [["true"], do, WEB], (Hook(TRUE), Hook(do), Hook(WEB))),
        ("pre_stop", WEB, (Hook(WEB),)),
        ("post_stop", Hook(do, timeout=1), (Hook(do, timeout=1),)),
        ("reload", "HUP", signal.SIGHUP),
        ("reload", ["true"], Hook(TRUE)),
        ("reload", Hook(do), Hook(do)),
    ],
)
def test_one_of_several_or_a_shorter_form(field: str, given: Any, kept: Any) -> None:
    made = service(**{field: given})
    assert getattr(made, field) == kept
    assert getattr(evolve(made, name="t"), field) == kept, "and it can be given again"


def test_readiness_is_a_value() -> None:
    assert FileExists(Path("/f")) == FileExists("/f")
    assert OutputMatches(re.compile("x")) == OutputMatches("x")
    assert NewlineOn() == NewlineOn(3)


@pytest.mark.parametrize(
    ("options", "restart"),
    [
        ({}, "permanent"),
        ({"restart": "transient"}, "transient"),
        ({"type": "oneshot"}, "temporary"),
        ({"type": "oneshot", "restart": "transient"}, "transient"),
        ({**LISTENING, "accept": True}, "temporary"),
        ({**LISTENING, "lazy": True}, "transient"),
        ({**LISTENING, "lazy": True, "restart": "permanent"}, "permanent"),
    ],
)
def test_when_it_is_restarted_by_default(options: dict[str, Any], restart: str) -> None:
    assert service(**options).policy.restart == restart


def test_its_policy_is_made_of_its_fields() -> None:
    backoff, give_up = tenacity.wait_fixed(1), tenacity.stop_after_attempt(2)
    policy = service(
        success_exit_status=[0, 3],
        clean_signals=["TERM"],
        prevent_restart_on=["KILL", 4],
        never_again={5},
        backoff=backoff,
        give_up=give_up,
        stable_after=None,
        jitter=0.5,
    ).policy
    assert policy == agentsup.RestartPolicy(
        success_exit_status=[0, 3],
        clean_signals=["TERM"],
        prevent_restart_on=["KILL", 4],
        never_again={5},
        backoff=backoff,
        give_up=give_up,
        stable_after=None,
        jitter=0.5,
    )
    assert service().policy == agentsup.RestartPolicy()


@pytest.mark.parametrize(
    ("options", "timeout"),
    [
        ({}, 90.0),
        ({"type": "oneshot"}, None),
        ({"type": "oneshot", "start_timeout": 5}, 5),
        ({"start_timeout": None}, None),
    ],
)
def test_how_long_it_may_take_to_start(options: dict[str, Any], timeout: float | None) -> None:
    assert service(**options).start_timeout == timeout


@pytest.mark.parametrize(
    ("options", "access"),
    [
        ({}, "none"),
        ({"type": "notify"}, "main"),
        ({"ready": "notify"}, "main"),
        ({"heartbeat": NotifyHeartbeat(5)}, "main"),
        ({"heartbeat": OutputHeartbeat(5)}, "none"),
        ({"fd_store": 1}, "main"),
        ({"type": "notify", "notify_access": "all"}, "all"),
        ({"notify_access": "exec"}, "exec"),
    ],
)
def test_whose_messages_count(options: dict[str, Any], access: str) -> None:
    assert service(**options).access == access


# --- what is refused ------------------------------------------------------------------------

NAMES = "must be names of services, as in"
WRONG_FIELDS: list[tuple[str, Any, type[Exception], str]] = [
    ("name", "", ValueError, "must be of printable characters, .*not ''"),
    ("name", " a", ValueError, "without a slash or spaces around it"),
    ("name", "a/b", ValueError, "without a slash"),
    ("name", "a\nb", ValueError, "printable"),
    ("name", b"a", TypeError, "must be a str"),
    ("type", "daemon", ValueError, "must be one of 'simple', .*not 'daemon'"),
    ("ready", "yes", TypeError, "must be 'notify', a FileExists, .*not 'yes'"),
    ("ready", 8000, TypeError, r"TcpProbe\(8000\), .*not 8000"),
    ("ready", Notified, TypeError, "not <class"),
    ("start_timeout", 0, ValueError, "more than zero seconds"),
    ("start_timeout", "5", TypeError, "a number of seconds"),
    ("start_timeout", math.nan, ValueError, "more than zero"),
    ("significant", 1, TypeError, "must be a bool, not 1"),
    ("significant", (), TypeError, "must be a bool"),
    ("after", 5, TypeError, NAMES),
    ("requires", [5], TypeError, NAMES),
    ("wants", None, TypeError, NAMES),
    ("part_of", b"db", TypeError, NAMES),
    ("conflicts", [["db"]], TypeError, NAMES),
    ("heartbeat", 5, TypeError, r"must be such as NotifyHeartbeat\(5\), not 5"),
    ("health", do, TypeError, "must be agentsup.HealthCheck objects"),
    ("health", [TcpProbe(80)], TypeError, "must be agentsup.HealthCheck objects"),
    ("reload", "kill -HUP", ValueError, "unknown signal 'kill -HUP'"),
    ("reload", True, TypeError, "must be a signal"),
    ("pid_file", 5, TypeError, "must be a str or a path object"),
    ("pid_file", "", ValueError, "must be the path of a file"),
    ("remain_after_exit", "yes", TypeError, "must be a bool"),
    ("notify_access", "some", ValueError, "must be one of 'none', 'main', 'exec', 'all'"),
    ("fd_store", -1, ValueError, "at least 0 descriptors"),
    ("fd_store", 49, ValueError, "at most 48 descriptors"),
    ("fd_store", None, TypeError, "must be a whole number of descriptors"),
    ("sockets", "8080", TypeError, "must be agentsup.ListenSocket objects, not '8080'"),
    ("sockets", [8080], TypeError, "must be agentsup.ListenSocket objects, not 8080"),
    ("lazy", 0, TypeError, "must be a bool"),
    ("accept", None, TypeError, "must be a bool"),
    ("max_connections", 0, ValueError, "at least 1 connections"),
    ("max_connections", True, TypeError, "a whole number"),
    ("grace", -1, ValueError, "zero or more seconds"),
    ("grace", math.inf, ValueError, "must be a finite number of seconds"),
    ("escalation", "TERM", TypeError, "must be an agentsup.Escalation"),
    ("output", None, TypeError, "must be an agentsup.OutputPolicy"),
]


@pytest.mark.parametrize(("field", "value", "error", "says"), WRONG_FIELDS)
def test_a_field(field: str, value: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=rf"^Service\.{field}(?: must be|:).*") as caught:
        service(**{field: value})
    assert re.search(says, str(caught.value))


@pytest.mark.parametrize(
    ("field", "value", "error", "says"),
    [
        ("command", "sleep 5", TypeError, r"command must be .*use agentsup\.shell"),
        ("command", [], ValueError, "command is empty"),
        ("pre_start", "sleep 5", TypeError, r"command must be .*use agentsup\.shell"),
        ("pre_start", None, TypeError, "Hook.action must be a command .* or a function, not None"),
        ("post_start", TcpProbe(80), TypeError, "Hook.action must be a command"),
        ("pre_stop", [["true"], 5], TypeError, "Hook.action must be a command .*not 5"),
        ("post_stop", Hook, TypeError, "Hook.action must be a command .*not <class"),
        ("reload", [], ValueError, "command is empty"),
        ("restart", "always", ValueError, "restart must be one of 'permanent', .*not 'always'"),
        ("success_exit_status", 0, TypeError, "success_exit_status must be a collection"),
        ("success_exit_status", [256], ValueError, "success_exit_status takes exit statuses"),
        ("clean_signals", None, TypeError, "clean_signals must be a collection"),
        ("clean_signals", ["TREM"], ValueError, "clean_signals: unknown signal 'TREM'"),
        ("prevent_restart_on", [-1], ValueError, "prevent_restart_on takes exit statuses"),
        ("never_again", "125", TypeError, "never_again must be a collection"),
        ("backoff", 5, TypeError, r"backoff must be like tenacity\.wait_fixed\(1\), not 5"),
        (
            "backoff",
            tenacity.wait_fixed,
            TypeError,
            r"backoff must be like tenacity\.wait_fixed\(1\), not <class",
        ),
        (
            "backoff",
            tenacity.stop_after_attempt(3),
            TypeError,
            r"backoff must be like tenacity\.wait_fixed",
        ),
        ("backoff", tenacity.Retrying(), TypeError, r"backoff must be like tenacity\.wait_fixed"),
        (
            "give_up",
            tenacity.wait_fixed(3),
            TypeError,
            r"give_up must be like tenacity\.stop_after",
        ),
        ("give_up", 5, TypeError, r"give_up must be like tenacity\.stop_after_attempt\(5\), not 5"),
        ("stable_after", -1, ValueError, "stable_after must be zero or more"),
        ("jitter", None, ValueError, "jitter must be a finite number"),
    ],
)
def test_a_part(field: str, value: Any, error: type[Exception], says: str) -> None:
    """Named as where it is described: as a command, a hook, or a restart policy."""
    with pytest.raises(error, match=f"^{says}"):
        service(**{field: value})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"type": "oneshot", "restart": "permanent"}, "restart: a oneshot would run again"),
        ({"type": "oneshot", "ready": do}, "type='oneshot' .* has no ready"),
        ({"type": "oneshot", "heartbeat": OutputHeartbeat(5)}, "no ready, heartbeat"),
        ({"type": "oneshot", "health": HealthCheck(do)}, "heartbeat or health"),
        ({"remain_after_exit": True}, "remain_after_exit is for type='oneshot'"),
        ({"pid_file": "/run/x.pid"}, "pid_file is for type='forking'"),
        ({"type": "notify", "notify_access": "none"}, "notify_access is 'none'"),
        ({"ready": "notify", "notify_access": "none"}, "notify_access is 'none'"),
        ({"heartbeat": NotifyHeartbeat(5), "notify_access": "none"}, "notify_access is 'none'"),
        ({"fd_store": 1, "notify_access": "none"}, "notify_access is 'none'"),
        ({"ready": RunningFor(90)}, "ready: 90 s are not over within start_timeout, 90 s"),
        ({"health": [HealthCheck(do, name="x")] * 2}, "health: two checks have the same name: 'x'"),
        ({"lazy": True}, "lazy and accept need sockets"),
        ({"accept": True}, "lazy and accept need sockets"),
        ({"sockets": [TCP] * 40, "fd_store": 9}, "sockets and fd_store come to 49 descriptors"),
        ({**LISTENING, "ready": NewlineOn(3)}, "ready: descriptor 3 is one of .*use 4 or more"),
        ({"fd_store": 2, "ready": NewlineOn(4)}, "ready: descriptor 4 is one of .*use 5 or more"),
    ],
)
def test_what_cannot_be_together(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"^Service.*{says}"):
        service(**options)


def test_what_can() -> None:
    service(ready=NewlineOn(4), **LISTENING)
    service(ready=RunningFor(90), start_timeout=None)
    service(health=[HealthCheck(do), HealthCheck(do, name="x")])
    service(type="forking", pid_file="x.pid")


@pytest.mark.parametrize(
    "options",
    [
        {"type": "exec"},
        {"ready": do},
        {"health": HealthCheck(do)},
        {"heartbeat": OutputHeartbeat(5)},
        *({hook: do} for hook in ("pre_start", "post_start", "pre_stop", "post_stop", "reload")),
        {"notify_access": "all"},
        {"fd_store": 1},
        {"lazy": True},
        {"sockets": [TCP, ListenSocket("0", kind="datagram")]},
    ],
)
def test_with_a_process_for_each_connection(options: dict[str, Any]) -> None:
    """There is no main process that these could be about."""
    with pytest.raises(ValueError, match=r"^Service\.accept"):
        service(**{**LISTENING, "accept": True, **options})


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: RunningFor(0), ValueError, "RunningFor.seconds must be more than zero"),
        (lambda: RunningFor(math.inf), ValueError, "RunningFor.seconds must be a finite"),
        (lambda: FileExists(""), ValueError, "FileExists.path must be the path of a file"),
        (lambda: FileExists("a\0b"), ValueError, "FileExists.path must be the path of .*x00b'"),
        (lambda: FileExists("\ud800"), ValueError, "FileExists.path cannot be encoded"),
        (lambda: FileExists(b"/f"), TypeError, "FileExists.path must be a str or a path"),
        (lambda: OutputMatches("("), ValueError, r"OutputMatches.pattern '\(': missing \)"),
        (lambda: OutputMatches(b"x"), TypeError, "OutputMatches.pattern must be a regular"),
        (
            lambda: OutputMatches(re.compile(b"x")),
            TypeError,
            "OutputMatches.pattern must be .*re.compile",
        ),
        (lambda: NewlineOn(2), ValueError, "NewlineOn.fd must be at least 3"),
        (lambda: NewlineOn(None), TypeError, "NewlineOn.fd must be a whole number"),
        (lambda: Hook(do, timeout=0), ValueError, "Hook.timeout must be more than zero"),
        (lambda: Hook(do, timeout=None), ValueError, "Hook.timeout must be a finite"),
        (lambda: Hook(()), ValueError, "command is empty"),
        (
            lambda: HealthCheck(do, interval=1, timeout=2),
            ValueError,
            r"HealthCheck.timeout \(2 s\) must not be more than HealthCheck.interval \(1 s\)",
        ),
    ],
)
def test_values_of_its_fields(make: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=f"^{says}"):
        make()


def test_it_is_frozen_and_shows_what_it_was_given() -> None:
    made = service(escalation=Escalation(), output=OutputPolicy(tail=1))
    with pytest.raises(AttributeError):
        made.name = "t"
    assert repr(made).startswith("Service(name='s', command=Command(argv=('true',)), ")
    assert "policy" not in repr(made)
