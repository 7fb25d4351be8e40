"""A file of services: what it comes to, and what is said of one that is wrong."""

from __future__ import annotations

import math
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import agentsup
from agentsup import ConfigError, ConfigErrors, Service
from agentsup.config import Config, LogsConfig, find_config, load, place

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str, name: str = "agentsup.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


@pytest.fixture
def service(write: Write) -> Callable[..., Service]:
    """The service of a table."""

    def load_service(text: str, **env: str) -> Service:
        given = "" if text.startswith(("command", "shell")) else 'command = "x"\n'
        return load(write(f"[service.web]\n{given}{text}"), env).services["web"].service

    return load_service


@pytest.fixture
def errors(write: Write) -> Callable[..., list[str]]:
    """What is said of a file, each without the name of the file."""

    def load_errors(text: str, **env: str) -> list[str]:
        path = write(text)
        with pytest.raises(ConfigErrors) as caught:
            load(path, env)
        lines = str(caught.value).splitlines()
        assert all(line.startswith(f"{path}:") for line in lines)
        return [line.removeprefix(f"{path}:") for line in lines]

    return load_errors


# --- what a file says -------------------------------------------------------------------------


def test_an_empty_file_is_the_defaults(write: Write, tmp_path: Path) -> None:
    config = load(write(""))
    assert config == Config(config.path, config.daemon)
    assert config.path == tmp_path / "agentsup.toml"
    assert config.daemon.state_dir == tmp_path / ".agentsup"
    assert config.daemon.socket == tmp_path / ".agentsup" / "control.sock"
    assert config.daemon.max_restarts is None
    assert config.logs == LogsConfig()


WHOLE = """
[daemon]
socket = "x.sock"
state_dir = "state"
stop_timeout = "1min 30s"
strategy = "one_for_one"
max_restarts = 7
within = "1min"
auto_shutdown = "any_significant"
containment = "subreaper"
env = {LEVEL = "debug"}

[daemon.tcp]
listen = "127.0.0.1:9009"
token_file = "token"

[logs]
segment_size = "1M"
max_age = "infinity"
rate_limit = "10000/30s"
outlets = ["stdout", "journald"]

[service.web]
command = ["serve", "--port", "80"]
groups = ["front", "all"]
after = ["db"]
logs = {max_size = "8M"}

[service.db]
command = "postgres -D 'my data'"
autostart = false
groups = "all"

[supervisor.workers]
strategy = "rest_for_one"
max_restarts = "infinity"
within = "infinity"
groups = ["all"]

[supervisor.workers.service.a]
shell = "echo a | cat"

[supervisor.tree.supervisor.deeper.service.leaf]
command = "sleep 9"
"""


def test_a_whole_file(write: Write, tmp_path: Path) -> None:
    config = load(write(WHOLE))
    daemon = config.daemon
    assert (daemon.socket, daemon.stop_timeout) == (tmp_path / "state" / "x.sock", 90.0)
    assert (daemon.max_restarts, daemon.within) == (7, 60.0)
    assert daemon.auto_shutdown == "any_significant"
    assert daemon.containment is agentsup.Containment.SUBREAPER
    assert daemon.tcp
    assert (daemon.tcp.listen, daemon.tcp.token_file) == ("127.0.0.1:9009", tmp_path / "token")
    assert config.logs.segment_size == 1024**2
    assert config.logs.max_age is None
    assert config.logs.rate_limit == (10_000, 30.0)
    assert config.logs.outlets == ("stdout", "journald")

    web, db = config.services["web"], config.services["db"]
    assert web.service.command.argv == ("serve", "--port", "80")
    assert web.service.after == ("db",)
    assert web.groups == ("front", "all")
    assert (web.logs.max_size, web.logs.rate_limit) == (8 * 1024**2, (10_000, 30.0))
    assert db.service.command.argv == ("postgres", "-D", "my data")
    assert (db.autostart, db.groups, db.logs) == (False, ("all",), config.logs)
    assert dict(db.service.extend_env or {}) == {"LEVEL": "debug"}

    workers = config.supervisors["workers"]
    assert (workers.strategy, workers.max_restarts, workers.within) == ("rest_for_one", None, None)
    assert workers.services["a"].service.command == agentsup.shell("echo a | cat")
    deeper = config.supervisors["tree"].supervisors["deeper"]
    assert (deeper.max_restarts, deeper.within) == (3, 5.0)
    assert deeper.services["leaf"].name == deeper.services["leaf"].service.name == "leaf"


def test_the_same_file_is_an_equal_config(write: Write) -> None:
    text = """
        [service.web]
        command = "x"
        backoff = {initial = 1, max = "1min"}
        attempts = 3
        ready = {output = "ready$"}
        health = {http = "http://127.0.0.1/", body = "ok"}
        heartbeat = {file = "beat", max_age = 3}
        escalation = {signal = "INT"}
    """
    assert load(write(text)) == load(write(text))
    assert load(write(text)) != load(write(text.replace("attempts = 3", "attempts = 4")))
    assert load(write(text)) != load(write(text.replace('"ok"', '"okay"')))
    assert load(write(text)) != load(write(text.replace('"1min"', '"2min"')))


def test_paths_are_relative_to_the_file(
    service: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    made = service(
        """
        type = "forking"
        pid_file = "run/x.pid"
        sockets = [{unix = "../web.sock"}, {unix = "@abstract"}, {fifo = "${HERE}/f"}]
        ready = {file = "ready"}
        heartbeat = {file = "/beat", max_age = 1}
        """,
        HERE="here",
    )
    assert made.cwd == str(tmp_path)
    assert made.pid_file == str(tmp_path / "run" / "x.pid")
    assert [socket.address for socket in made.sockets] == [
        str(tmp_path.parent / "web.sock"),
        "@abstract",
        str(tmp_path / "here" / "f"),
    ]
    assert made.ready == agentsup.FileExists(str(tmp_path / "ready"))
    assert made.heartbeat == agentsup.FileHeartbeat("/beat", 1)
    assert service('cwd = "sub/dir"').cwd == str(tmp_path / "sub" / "dir")


READY = {
    '"notify"': agentsup.Notified(),
    "{tcp = 8000}": agentsup.TcpProbe(8000),
    '{tcp = "[::1]:${PORT}"}': agentsup.TcpProbe(81, "::1"),
    '{unix = "/run/x"}': agentsup.UnixProbe("/run/x"),
    '{http = "http://[::1]:${PORT}/", status = 204}': agentsup.HttpProbe(
        "http://[::1]:81/", status={204}
    ),
    '{http = "http://a", headers = {X = "a${PORT}"}}': agentsup.HttpProbe(
        "http://a", headers={"X": "a81"}
    ),
    '{command = ["test", "-e", "$PORT"]}': agentsup.CommandProbe(
        agentsup.Command(["test", "-e", "81"])
    ),
    '{shell = "exit 0"}': agentsup.CommandProbe(agentsup.shell("exit 0")),
    '{output = "up$"}': agentsup.OutputMatches("up$"),
    '{running_for = "2s"}': agentsup.RunningFor(2),
    "{newline_on = 3}": agentsup.NewlineOn(3),
}


@pytest.mark.parametrize("text", READY)
def test_ready(service: Callable[..., Service], text: str) -> None:
    assert service(f"ready = {text}", PORT="81").ready == READY[text]


FIELDS: dict[str, dict[str, Any]] = {
    'type = "oneshot"\nremain_after_exit = true': {"type": "oneshot", "remain_after_exit": True},
    'start_timeout = "infinity"': {"start_timeout": None},
    'restart = "transient"\nclean_signals = ["USR1", 2]': {
        "restart": "transient",
        "clean_signals": {signal.SIGUSR1, signal.SIGINT},
    },
    "success_exit_status = [0, 3]\nnever_again = 9": {
        "success_exit_status": {0, 3},
        "never_again": {9},
    },
    'prevent_restart_on = [15, "TERM"]': {"prevent_restart_on": (15, signal.SIGTERM)},
    'stable_after = "infinity"\njitter = 0.5': {"stable_after": math.inf, "jitter": 0.5},
    'heartbeat = "30s"': {"heartbeat": agentsup.NotifyHeartbeat(30)},
    'heartbeat = {output = "1min"}': {"heartbeat": agentsup.OutputHeartbeat(60)},
    "health = [{tcp = 1, interval = 3}, {tcp = 2, role = 'readiness', successes = 2}]": {
        "health": [
            agentsup.HealthCheck(agentsup.TcpProbe(1), interval=3),
            agentsup.HealthCheck(agentsup.TcpProbe(2), role="readiness", successes=2),
        ]
    },
    'pre_start = ["mkdir", "x"]\npost_stop = "rm -r x"': {
        "pre_start": ["mkdir", "x"],
        "post_stop": ["rm", "-r", "x"],
    },
    'pre_start = [{command = "a", timeout = 3}, "b c", {http = "http://x/"}]': {
        "pre_start": [
            agentsup.Hook(["a"], timeout=3),
            agentsup.Hook(["b", "c"]),
            agentsup.Hook(agentsup.HttpProbe("http://x/")),
        ]
    },
    'reload = "HUP"': {"reload": signal.SIGHUP},
    'reload = {shell = "kill -HUP $MAINPID"}': {"reload": agentsup.shell("kill -HUP $MAINPID")},
    'sockets = {tcp = 8080, name = "http"}\nlazy = true': {
        "sockets": agentsup.ListenSocket("8080", name="http"),
        "lazy": True,
    },
    'sockets = [{udp = "127.0.0.1:5"}, {unix = "/s", kind = "seqpacket", mode = "0600"}]': {
        "sockets": [
            agentsup.ListenSocket("127.0.0.1:5", kind="datagram"),
            agentsup.ListenSocket("/s", kind="seqpacket", mode=0o600),
        ]
    },
    'grace = "2min"\numask = "027"': {"grace": 120, "umask": 0o027},
    'escalation = [{close_stdin = true, wait = 1}, {signal = "INT"}, {command = "bye"}]': {
        "escalation": agentsup.Escalation(
            agentsup.Step(agentsup.CLOSE_STDIN, 1), agentsup.Step("INT"), agentsup.Step(["bye"])
        )
    },
    'limits = {memory = "512M", cpu_quota = "50%", processes = 9, file_size = "infinity"}': {
        "limits": agentsup.Limits(memory=512 * 1024**2, cpu_quota=0.5, processes=9)
    },
    'output = {tail = "1K", merge_stderr = true}': {
        "output": agentsup.OutputPolicy(head=0, tail=1024, merge_stderr=True)
    },
    'user = "nobody"\nextra_groups = ["a", 3]\ncapabilities = []\nno_new_privs = true': {
        "user": "nobody",
        "extra_groups": ("a", 3),
        "capabilities": (),
        "no_new_privs": True,
    },
    "clean_env = true": {"env": "minimal"},
    "fd_store = 3\nnotify_access = 'all'": {"fd_store": 3, "notify_access": "all"},
}


@pytest.mark.parametrize("text", FIELDS)
def test_fields(service: Callable[..., Service], text: str) -> None:
    made = service(text)
    expected = Service("web", ["x"], cwd=made.cwd, extend_env={}, **FIELDS[text])
    assert made == expected


def test_backoff_and_attempts(service: Callable[..., Service]) -> None:
    def delays(text: str) -> list[float]:
        backoff: Any = service(text).backoff
        return [backoff(SimpleNamespace(attempt_number=number)) for number in (1, 2, 3, 9, 10**6)]

    assert delays('backoff = "5s"') == [5.0] * 5
    assert delays("backoff = {initial = 1}") == [1, 2, 4, 30, 30]
    assert delays("backoff = {initial = 1, factor = 3, max = 100}") == [1, 3, 9, 100, 100]
    give_up: Any = service("attempts = 3").give_up
    assert [give_up(SimpleNamespace(attempt_number=number)) for number in (1, 2, 3)] == [0, 0, 1]


# --- variables --------------------------------------------------------------------------------


def test_which_value_a_variable_has(write: Write) -> None:
    write("A=shared-file\nB=shared-file\n", "shared.env")
    write("A=own-file\n", "own.env")
    text = """
        [daemon]
        env = {A = "shared", C = "shared ${A}", D = "shared"}
        env_file = "shared.env"
        [service.web]
        command = ["x", "${A}", "${B}", "${C}", "${D}", "${E}", "${F}"]
        env = {A = "own", D = "own ${D}", F = "own ${A} ${D}"}
        env_file = ["own.env", "-missing.env"]
    """
    made = load(write(text), {"E": "inherited", "A": "inherited"}).services["web"].service
    expected = {
        "A": "own-file",
        "B": "shared-file",
        "C": "shared shared-file",
        "D": "own shared",
        "F": "own own-file own shared",
    }
    assert made.extend_env == expected
    assert made.command.argv[1:] == (*list(expected.values())[:4], "inherited", expected["F"])


def test_a_shell_gets_its_variables_by_itself(service: Callable[..., Service]) -> None:
    made = service('shell = "echo ${A} $B $$"\nenv = {A = "1"}')
    assert made.command == agentsup.shell("echo ${A} $B $$")


def test_values_of_variables_are_in_no_message(errors: Callable[..., list[str]]) -> None:
    found = errors(
        """
        [service.web]
        command = "x"
        env = {KEY = "s3cr3t-1", NUMBER = 12345678, "B-C" = "s3cr3t-2"}
        ready = {tcp = "${KEY}"}
        health = [{http = "ftp://${KEY}"}, {http = "http://me:s3cr3t-3@x/"}, {unix = "${LONG}"}]
        sockets = [{tcp = "${KEY}:80"}, {unix = "${LONG}"}]
        [service.db]
        command = "x"
        health = {http = "http://x", headers = {Authorization = "s3cr3t-4\\n"}}
        pre_start = {http = "http://x", headers = {Authorization = "${BAD}"}}
        """,
        LONG="s3cr3t-5" * 40,
        BAD="s3cr3t-6\n",
    )
    assert len(found) == 10
    assert not [line for line in found if "s3cr3t" in line or "12345678" in line]


# --- what is wrong ----------------------------------------------------------------------------


def test_all_that_is_wrong_is_said_at_once(errors: Callable[..., list[str]]) -> None:
    found = errors(
        """\
[daemon]
sockte = "x"
[service.web]
comand = "x"
restart = "allways"
start_timeout = "5x"
after = ["dbb", "workers", "web"]
health = [
  {tcp = 80},
  {tcp = true, interval = "x"},
]
[service.db]
command = "a ${NONE}"
grace = "infinity"
[service.once]
command = "x"
type = "oneshot"
pid_file = "x"
restart = "permanent"
[supervisor.workers]
[supervisor.db]
max_restarts = -1
[schedule.nightly]
"""
    )
    assert found == [
        "2: daemon.sockte: is unknown; did you mean socket?",
        '3: service.web: has no command: write command = ["program", "argument"]',
        "4: service.web.comand: is unknown; did you mean command?",
        "5: service.web.restart: must be one of 'permanent', 'transient', 'temporary', "
        "not 'allways'; did you mean 'permanent'?",
        "6: service.web.start_timeout: '5x' is not a duration: write seconds, or 5s, 2min, 100ms, "
        "'1h 30min', …",
        "7: service.web.after: there is no service 'dbb' beside it; did you mean 'db'?",
        "7: service.web.after: 'workers' is a supervisor, and only services can be named here",
        "7: service.web.after: 'web' names itself",
        "10: service.web.health[1].tcp: must be a port, or an address such as '127.0.0.1:8080', "
        "not true",
        "10: service.web.health[1].interval: 'x' is not a duration: write seconds, or 5s, 2min, "
        "100ms, '1h 30min', …",
        "13: service.db.command: ${NONE} is not set: set it in env or env_file, or write "
        "${NONE:-…}",
        "14: service.db.grace: must be a finite number of seconds, not inf",
        "18: service.once.pid_file: is for type='forking'",
        "19: service.once.restart: a oneshot would run again for ever; use 'transient' or "
        "'temporary'",
        "21: supervisor.db: there is a service 'db' already; call one of them otherwise",
        "22: supervisor.db.max_restarts: must be zero or more, not -1",
        "23: schedule: is not supported by this version",
    ]


WRONG_IN_SERVICE = {
    "command = 5": "command: must be a list of words",
    "command = ['a', 5]": "command: must be a list of strings; write '5' in quotes",
    "command = []": "command: is empty",
    'command = "\'a"': "command: cannot be split into words",
    'command = "$A"': "command: nothing is left of it",
    'command = "a\\u0000"': "command: holds a NUL byte",
    "command = 'x'\nshell = 'x'": "shell: there is a command already",
    "shell = 3": "shell: must be a string, not 3",
    "autostart = 'yes'": "autostart: must be true or false, not 'yes'; did you mean true?",
    "groups = ['@a']": "groups[0]: the name of a group does not begin with @",
    "cwd = 1979-05-27": "cwd: must be a string, not a date or a time",
    "cwd = '${NONE}'": "cwd: ${NONE} is not set",
    "env = 5": "env: must be a table of variables",
    "env = {A = '${B}'}": "env.A: ${B} is not set",
    "env_file = 'none.env'": "env_file: 'none.env': there is no such file; '-none.env' may be",
    "env_file = ['-none', 'none']": "env_file[1]: 'none': there is no such file",
    "env_file = '.'": "env_file: '.' cannot be read: Is a directory",
    "env_file = 'bad.env'": "env_file: bad.env:2: what is before the '=' is no name",
    "type = 'dbus'": "type: must be one of 'simple', 'exec',",
    "restart = 'always'": "did you mean 'permanent'?",
    "restart = 'on-failure'": "did you mean 'transient'?",
    "restart = false": "not false; did you mean 'temporary'?",
    "ready = 'nofity'": "ready: must be 'notify', or a table",
    "ready = {}": "ready: takes one of tcp, unix, http",
    "ready = {tcp = 1, file = 'x'}": "ready.file: there is tcp already",
    "ready = {tcp = 0}": "ready.tcp: port must be at least 1",
    "ready = {tcp = 65536}": "ready.tcp: must be a port",
    "ready = {tcp = 'x'}": "ready.tcp: must be a port, or such as",
    "ready = {tcp = 1, method = 'GET'}": "ready.method: is for http",
    "ready = {http = 'x'}": "ready.http: must be such as 'http://127.0.0.1:8000/health'",
    "ready = {output = '('}": "ready.output: is no regular expression",
    "ready = {running_for = '2h'}": "ready: 7200 s are not over within start_timeout",
    "ready = {newline_on = 2}": "ready.newline_on: must be at least 3",
    "start_timeout = -1": "start_timeout: must be zero or more seconds, not -1",
    "start_timeout = 0": "start_timeout: must be more than zero seconds",
    "start_timeout = nan": "start_timeout: must be zero or more seconds, not nan",
    f"start_timeout = {10**30}": "start_timeout: must be a duration such as",
    "success_exit_status = [256]": "success_exit_status: must be a list; one of them must be exit",
    "clean_signals = 'TREM'": "must be a signal such as 'TERM', not 'TREM'; did you mean TERM?",
    "backoff = -1": "backoff.initial: must be zero or more seconds",
    "backoff = {max = 0.05}": "backoff.max: must be at least initial, 0.1 s",
    "backoff = {factor = 0.5}": "backoff.factor: must be 1 or more",
    "backoff = 'infinity'": "backoff: must be finite",
    "attempts = 0": "attempts: must be at least 1",
    f"attempts = {2**63}": "attempts: must be a whole number, not a number beyond 64 bits",
    "attempts = '3'": "attempts: must be a whole number, not '3'",
    "after = [3]": "after: must be a list of names; one of them must be a string, not 3",
    "heartbeat = 0": "heartbeat: must be more than zero seconds",
    "heartbeat = {output = 'infinity'}": "heartbeat.output: must be a finite number of seconds",
    "ready = {unix = ''}": "ready.unix: must be the path of a file",
    "ready = {unix = '${X}'}": "ready.unix: ${X} is not set",
    "heartbeat = {file = 'x'}": "heartbeat.file: needs max_age",
    "health = 5": "health: must be a table, not 5",
    "health = {tcp = 1, interval = 1, timeout = 2}": "health.timeout: (2 s) must not be more than",
    "health = [{tcp = 1}, {}]": "health[1]: takes one of tcp, unix, http, command, shell",
    "pre_start = [{}]": "pre_start[0]: takes one of command, shell, http",
    "pre_start = ['']": "pre_start.command: is empty",
    "pre_start = {shell = 'x', timeout = 0}": "pre_start.timeout: must be more than zero seconds",
    "reload = 'kill -HUP'": "reload: must be a signal such as 'TERM', not 'kill -HUP'",
    "sockets = {tcp = 'localhost:80'}": "sockets.tcp: must be such as",
    "sockets = {tcp = '/run/x'}": "sockets.tcp: must be a port, or such as",
    "sockets = {tcp = 1, kind = 'stream'}": "sockets.kind: is for unix",
    "sockets = {unix = 'x', mode = '999'}": "sockets.mode: must be permission bits",
    f"sockets = {{unix = '{'x' * 120}'}}": "sockets.unix: must be of at most 107 bytes",
    "lazy = true": "lazy: and accept need sockets",
    "remain_after_exit = true": "remain_after_exit: is for type='oneshot'",
    "type = 'oneshot'\nready = 'notify'": ": type='oneshot' is done when it ends",
    "notify_access = 'none'\ntype = 'notify'": "notify_access: is 'none', so it can never say",
    "fd_store = 49": "fd_store: must be at most 48 descriptors",
    "max_connections = 0": "max_connections: must be at least 1 connections",
    "escalation = {}": "escalation: takes one of signal, command, shell, close_stdin",
    "escalation = {signal = 'TERM', wait = 'infinity'}": "escalation.wait: must be finite",
    "limits = {memory = '1GB'}": "limits.memory: '1GB' is not a size",
    "limits = {cpu_quota = '50'}": "limits.cpu_quota: must be a number of CPUs",
    "limits = {io_weight = 0}": "limits.io_weight: must be at least 1",
    "output = {tail = -1}": "output.tail: must be zero or more bytes",
    "output = {tail = 'infinity'}": "output.tail: must be a whole number of bytes",
    "umask = '0o1777'": "umask: must be permission bits",
    "capabilities = ['NET_BND_SERVICE']": "did you mean NET_BIND_SERVICE?",
    "user = ''": "user: must be a whole number, not ''",
    "logs = {segment_size = 1}": "logs.segment_size: must be at least 4096 bytes",
    "logs = {max_size = '1M'}": "logs.max_size: max_size, 1048576, must be at least segment_size",
    "logs = {total_size = '64M'}": "logs.total_size: is of all services",
    "logs = {rate_limit = 'many'}": "logs.rate_limit: must be so many lines in a time",
    "logs = {rate_limit = '0/s'}": "logs.rate_limit: must be more than none",
    "logs = {outlets = ['stderr']}": "logs.outlets[0]: must be one of 'stdout', 'syslog',",
    "significant = true": "significant: 'web' is permanent, so it never ends for good",
    "significant = true\nrestart = 'transient'": "significant: 'web' cannot shut down",
}


@pytest.mark.parametrize("text", WRONG_IN_SERVICE)
def test_what_is_wrong_in_a_service(
    errors: Callable[..., list[str]], write: Write, text: str
) -> None:
    write("A=1\nB C=2\n", "bad.env")
    given = "" if text.startswith(("command", "shell = 3")) else 'command = "x"\n'
    (found,) = errors(f"[service.web]\n{given}{text}\n", A="")
    assert found.startswith(("1: service.web:", "2: service.web", "3: service.web", "4: service"))
    assert WRONG_IN_SERVICE[text] in found


def test_what_follows_from_another_error_is_not_said(errors: Callable[..., list[str]]) -> None:
    (found,) = errors("[service.x]\ncommand = 'x'\nlazy = true\nsockets = {tcp = true}\n")
    assert found.startswith("4: service.x.sockets.tcp: ")
    (found,) = errors("[service.x]\ncommand = 'x'\nlazy = true\nsockets = {tcp = '${X}'}\n")
    assert found.startswith("4: service.x.sockets.tcp: ")
    (found,) = errors("[service.x]\ncommand = 'x'\nenv = {A = 1, B = '${A}'}\n")
    assert found.startswith("3: service.x.env.A: ")


NAMES_OF_OTHERS = {
    "ExecStart": "command",
    "ExecStartPre": "pre_start",
    "RestartSec": "backoff",
    "TimeoutStartSec": "start_timeout",
    "TimeoutStopSec": "grace",
    "WatchdogSec": "heartbeat",
    "WorkingDirectory": "cwd",
    "EnvironmentFile": "env_file",
    "MemoryMax": "limits = {memory = …}",
    "KillSignal": "escalation",
    "PIDFile": "pid_file",
    "autorestart": "restart",
    "startsecs": "ready = {running_for = …}",
    "stopwaitsecs": "grace",
    "startretries": "attempts",
    "stopsignal": "escalation",
    "exitcodes": "success_exit_status",
    "directory": "cwd",
    "environment": "env",
    "start-timeout": "start_timeout",
    "Requires": "requires",
    "autostrat": "autostart",
}


@pytest.mark.parametrize("name", NAMES_OF_OTHERS)
def test_names_of_others_are_known(errors: Callable[..., list[str]], name: str) -> None:
    (found,) = errors(f"[service.web]\ncommand = 'x'\n{name} = 1\n")
    assert found.startswith(f"3: service.web.{name}: is unknown; did you mean ")
    assert f"did you mean {NAMES_OF_OTHERS[name]}" in found


WRONG = {
    "[daemon]\nstop_timeout = 'x'": "2: daemon.stop_timeout: 'x' is not a duration",
    "[daemon]\nwithin = 0": "2: daemon.within: must be more than zero",
    "[daemon]\nmax_restarts = 'many'": "2: daemon.max_restarts: must be a whole number",
    "[daemon]\nstrategy = 'simple_one_for_one'": "2: daemon.strategy: must be one of",
    f"[daemon]\nsocket = '/{'x' * 107}'": "2: daemon.socket: the socket's path would have 108",
    f"[daemon]\nstate_dir = '/{'x' * 100}'": "2: daemon.state_dir: the socket's path would have",
    "[daemon]\nsocket = ''": "2: daemon.socket: must be the path of a file",
    "[daemon]\nstate_dir = ''": "2: daemon.state_dir: must be the path of a file",
    "[daemon]\nsocket = '${NONE}'": "2: daemon.socket: ${NONE} is not set",
    "[daemon]\ntcp = {listen = '127.0.0.1:1'}": "2: daemon.tcp: token_file is missing",
    "[daemon.tcp]\nlisten = 'all:1'\ntoken_file = 'x'": "2: daemon.tcp.listen: must be such as",
    "daemon = 5": "1: daemon: must be a table with",
    "service = 5": "1: service: must be a table with",
    "[service]\nweb = 5": "2: service.web: must be a table, not 5",
    "[[service]]\ncommand = 'x'": "1: service: must be a table with a table for each name, not an",
    "[program.web]\ncommand = 'x'": "1: program: is unknown; did you mean service?",
    "['program:web']\ncommand = 'x'": "1: 'program:web': is unknown; did you mean service?",
    "[services.web]": "1: services: is unknown; did you mean service?",
    "[Service]": "1: Service: is unknown; did you mean service?",
    "[nothing.like.it]": "1: nothing: is unknown; known here are daemon, logs,",
    "[schedule.x]\ny = 1": "1: schedule: is not supported by this version",
    "[service.'a/b']\ncommand = 'x'": "1: service.'a/b': a name is of printable characters",
    "[service.'*']\ncommand = 'x'": "1: service.'*': a name is of printable characters",
    "[supervisor.'@a']": "1: supervisor.'@a': a name does not begin with @",
    "[daemon]\nstrategy = 'one_for_all'\n[supervisor.a]": "2: daemon.strategy: not supported yet",
    "[supervisor.a]\nstrategy = 'rest_for_one'\n[supervisor.a.supervisor.b]": (
        "2: supervisor.a.strategy: not supported yet"
    ),
    "[supervisor.a.service.b]\ncommand = 'x'\nafter = ['c']": (
        "3: supervisor.a.service.b.after: there is no service 'c' beside it; add it"
    ),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_elsewhere(errors: Callable[..., list[str]], text: str) -> None:
    (found,) = errors(text)
    assert found.startswith(WRONG[text])


def siblings(**tables: str) -> str:
    return "".join(f"[service.{name}]\ncommand = 'x'\n{text}\n" for name, text in tables.items())


def test_every_cycle_is_found(errors: Callable[..., list[str]]) -> None:
    text = siblings(a="after = 'b'", b="after = 'a'", c="after = 'd'", d="after = ['e', 'c']", e="")
    first, second = errors(text)
    assert " is a cycle" in first
    assert {"a -> b -> a", "b -> a -> b"} & {first.partition("after: ")[2].split(" is ")[0]}
    assert {"c -> d -> c", "d -> c -> d"} & {second.partition("after: ")[2].split(" is ")[0]}


def test_with_a_strategy_in_line_what_is_above_comes_before(
    errors: Callable[..., list[str]], write: Write
) -> None:
    text = "[daemon]\nstrategy = 'rest_for_one'\n"
    load(write(text + siblings(a="", b="after = 'a'")))
    (found,) = errors(text + siblings(a="after = 'b'", b=""))
    assert found.startswith("5: service.a.after:")
    assert "each starts after those above it" in found


def test_conflicts(errors: Callable[..., list[str]], write: Write) -> None:
    load(write(siblings(a="conflicts = 'b'", b="autostart = false")))
    (found,) = errors(siblings(a="conflicts = 'b'", b=""))
    assert found.startswith("3: service.a.conflicts: 'a' and 'b' both start with the tree")
    (found,) = errors(siblings(a="conflicts = 'b'\nrequires = 'b'", b="autostart = false"))
    assert "'a' conflicts with 'b', but 'a' starts both" in found
    (found,) = errors("[daemon]\nstrategy = 'one_for_all'\n" + siblings(a="conflicts = 'b'", b=""))
    assert "with strategy 'one_for_all', all run together" in found


# --- what is no file of services --------------------------------------------------------------

NOT_TOML = {
    b"a = 1\nb = = 2\n": ":2: is not TOML: Invalid value",
    b"a = 1\n\n[x\n": ":3: is not TOML: ",
    b"a = 1\na = 2\n": ":2: is not TOML: Cannot overwrite a value",
    b'a = 1\nb = "x': ":2: is not TOML: Unterminated string",
    b"a = 1\n\xff = 2\n": ":2: is not UTF-8: byte 0xff",
    b"\xef\xbb\xbfa = 1": ":1: is not TOML: ",
    b"a = 1\n\0": ":2: is not TOML: ",
    b"a = 1\nb = " + b"9" * 5000: ":2: has a number that is too long",
    b"a = 1\nb = " + b"[" * 100_000: ":1: is nested too deeply",
    b"a = 1\nb = " + b"{a=" * 100_000: ":1: is nested too deeply",
    b"grace = 0x" + b"f" * 5000: ":1: grace: is unknown",
    b"[service.x]\ncommand='x'\ngrace = 0x" + b"f" * 5000: ":3: service.x.grace: must be a dur",
    b"[" + b".".join([b"supervisor.a"] * 5000) + b"]": ":1: supervisor.a.supervisor.a.",
    b"a." * 10_000 + b"a = 1": ":1: a: is unknown",
}


@pytest.mark.parametrize("data", NOT_TOML, ids=range(len(NOT_TOML)))
def test_what_is_no_toml(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigErrors) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}{NOT_TOML[data]}")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "x", "No such file")):
        for read in (load, place):
            with pytest.raises(ConfigErrors, match=f"{path}: cannot be read: {reason}"):
                read(path)
    for path in ("a\0b", "/dev/zero"):
        with pytest.raises(ConfigErrors, match="cannot be read: "):
            load(path)


def test_errors_are_values_too(write: Write) -> None:
    path = write("[daemon]\nx = 1\ny = 2\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    error = caught.value
    assert isinstance(error, ConfigErrors)
    assert [(one.file, one.line, one.key) for one in error.errors] == [
        (str(path), 2, "daemon.x"),
        (str(path), 3, "daemon.y"),
    ]
    assert (error.line, error.key) == (2, "daemon.x")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert isinstance(error, agentsup.AgentsupError)


# --- where it is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        WHOLE,
        "[daemon]\nstate_dir = '${HERE}/x'",
        "[daemon]\nsocket = '/run/${HERE}.sock'",
        '["\\u0064aemon"]\nstate_dir = "y"',
    ],
)
def test_a_place_is_what_the_config_says(write: Write, text: str) -> None:
    path = write(text)
    env = {"HERE": "here"}
    daemon = load(path, env).daemon
    assert place(path, env) == (str(daemon.socket), str(daemon.state_dir))


@pytest.mark.parametrize("text", ["daemon = 5", "[daemon]\nsocket = 5", "[daemon]\nsocket='${X}'"])
def test_a_place_that_cannot_be_known(write: Write, text: str) -> None:
    with pytest.raises(ConfigErrors, match=r"toml: daemon: "):
        place(write(text), {})


def test_a_file_is_found_in_its_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"agentsup\.toml: there is no such file"):
        find_config(tmp_path)
    path = write("")
    assert find_config(tmp_path) == str(path)
    monkeypatch.chdir(tmp_path)
    assert os.path.samefile(find_config(), path)


def test_a_place_is_found_without_much_ado(write: Write) -> None:
    code = (
        "import sys; from agentsup.config import find_config, place; "
        f"place({str(write('[daemon]'))!r}); "
        "print({'cattrs', 'attrs', 'attr', 'pathlib', 'anyio'} & set(sys.modules))"
    )
    command = [sys.executable, "-S", "-c", code]
    path = {"PYTHONPATH": str(Path(agentsup.__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **path})
    assert done.stdout == "set()\n", done.stderr


def test_without_cattrs_the_extra_is_named(write: Write) -> None:
    code = (
        "import sys; sys.modules['cattrs'] = None; from agentsup.config import load; "
        f"load({str(write(''))!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "cattrs is not installed: pip install 'agentsup[daemon]'" in done.stderr
