"""The tables of a file as the values that the library has: a service that can be started."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal as signals
from typing import TYPE_CHECKING, Any

from attrs import asdict, evolve, frozen

from .._values.command import Command, shell
from .._values.escalation import CLOSE_STDIN, Escalation, Step
from .._values.health import HealthCheck
from .._values.heartbeat import FileHeartbeat, NotifyHeartbeat, OutputHeartbeat
from .._values.hook import Hook
from .._values.limits import Limits
from .._values.listen import ListenSocket
from .._values.output import OutputPolicy
from .._values.probe import CommandProbe, HttpProbe, TcpProbe, UnixProbe
from .._values.readiness import FileExists, NewlineOn, Notified, OutputMatches, RunningFor
from .._values.service import Service
from .finding import absolute
from .kinds import is_array, is_table
from .reading import read_bytes
from .structuring import is_words
from .substitution import conceal, expand, expand_words, is_name, parse_env_file

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from tenacity import RetryCallState

    from .._values.escalation import Action
    from .._values.probe import Probe
    from .._values.readiness import Ready
    from .locating import KeyPath
    from .structuring import Finding
    from .tables import (
        BackoffTable,
        HealthTable,
        HeartbeatTable,
        HookTable,
        LimitsTable,
        OutputTable,
        ProbeTable,
        ReadyTable,
        ServiceTable,
        SocketTable,
        StepTable,
    )


@frozen
class Backoff:
    """Ever longer times between restarts; of tenacity's kind, but equal to another such one."""

    initial: float
    factor: float
    max: float

    def __call__(self, state: RetryCallState) -> float:
        try:
            return min(self.max, self.initial * self.factor ** (state.attempt_number - 1))
        except OverflowError:
            return self.max


@frozen
class Attempts:
    """After so many failures in a row it is over."""

    number: int

    def __call__(self, state: RetryCallState) -> bool:
        return state.attempt_number >= self.number


@frozen
class BodyMatches:
    """The body of an answer holds the regular expression."""

    pattern: re.Pattern[str]

    def __call__(self, body: bytes) -> bool:
        return self.pattern.search(body.decode("utf-8", "replace")) is not None


@frozen
class Surroundings:
    """What a table is in: variables, the directory of the file, and who hears of errors."""

    directory: str
    variables: Mapping[str, str]
    #: Those of them that are not in the daemon's own environment.
    passed_on: Mapping[str, str]
    findings: list[Finding]

    @contextlib.contextmanager
    def at(self, path: KeyPath, given: Any) -> Generator[None]:
        """What is raised in the block is a finding about that key, or one in its table."""
        try:
            yield
        except (TypeError, ValueError) as error:
            key, reason = _said_of(str(error), given)
            reason = conceal(reason, _texts(given), self.variables)
            self.findings.append(((*path, key) if key else path, reason))

    def value(self, table: object, key: str) -> str:
        """What a table says there, with its variables expanded."""
        with about(key):
            return expand(getattr(table, key), self.variables)
        raise AssertionError

    def path(self, table: object, key: str) -> str:
        with about(key):
            return absolute(getattr(table, key), self.directory, self.variables)
        raise AssertionError

    def command(self, table: HookTable | ProbeTable | StepTable | ServiceTable) -> Command | None:
        """The command of a table that may have one."""
        if table.shell is not None:
            if table.command is not None:
                raise ValueError("shell: there is a command already; take one of them out")
            return shell(table.shell)  # which expands the same variables
        if table.command is None:
            return None
        with about("command"):
            words = expand_words(table.command, self.variables)
        if not words or not words[0]:
            raise ValueError("command: nothing is left of it once its variables are expanded")
        return Command(words)


@contextlib.contextmanager
def about(key: str, field: str = "") -> Generator[None]:
    """An error of the block is about that key of the table.

    :param field: what a class calls it: of its errors, only those about that.
    """
    try:
        yield
    except ValueError as error:
        text = str(error)
        if not text.startswith(field):
            raise
        raise ValueError(f"{key}: {text.removeprefix(field).lstrip(': ')}") from None


_CLASSES = (
    *("HealthCheck", "HttpProbe", "TcpProbe", "UnixProbe", "NotifyHeartbeat", "FileHeartbeat"),
    *("OutputHeartbeat", "Hook", "Draft", "Limits", "ListenSocket", "OutputPolicy", "Service"),
    *("Step", "RunningFor", "NewlineOn", "FileExists"),
)
_NAMED = re.compile(rf"\b(?:{'|'.join(_CLASSES)})\.(?=[a-z_]+\b)")
_SUBJECT = re.compile(r"([a-z_]+)(?:: | )")
#: Fields of Service by their names in a file.
_NAMES = {"attempts": "give_up", "env": "extend_env"}


def _said_of(text: str, given: Any) -> tuple[str, str]:
    """The key that an error of a class is about, if the table has it, and the rest of it."""
    text = _NAMED.sub("", text)
    match = _SUBJECT.match(text)
    key = match[1] if match else ""
    if match and is_table(given) and key in given:
        return key, text[match.end() :]
    # A table can have a shorter spelling, in which its key does not stand.
    return "", text if is_table(given) else re.sub("^[a-z_]+: ", "", text)


def _texts(given: Any) -> Iterator[str]:
    """Every string in it."""
    if isinstance(given, str):
        yield given
    elif is_table(given) or is_array(given):
        for one in given.values() if is_table(given) else given:
            yield from _texts(one)


# --- variables ------------------------------------------------------------------------------------


def read_variables(
    env: Mapping[str, Any] | None,
    files: tuple[str, ...] | None,
    around: Surroundings,
    path: KeyPath,
) -> dict[str, str]:
    """Those of a table: what its files say holds, as in systemd.exec(5). A value can name those
    that come before it, those of the files, and those of the surroundings."""
    if not env and not files:
        return {}
    found: dict[str, str] = {}
    for index, name in enumerate(files or ()):
        with around.at((*path, "env_file", index), name):
            found.update(_read_env_file(name, around))
    from_files = frozenset(found)
    variables = {**around.variables, **found}
    inner = evolve(around, variables=variables)
    for name, text in (env or {}).items():
        value = ""  # for those that name one that is wrong
        with inner.at((*path, "env", name), text):
            value = _to_value(name, text, variables)
        if name not in from_files:
            variables[name] = found[name] = value
    return found


def _to_value(name: str, text: Any, variables: Mapping[str, str]) -> str:
    # It may be a secret, so no message has it.
    if not is_name(name):
        raise ValueError("that is no name of a variable: it takes letters, digits and _")
    if not isinstance(text, str):
        raise TypeError("must be a string: write it in quotes")
    if "\0" in text:
        raise ValueError("holds a NUL byte")
    return expand(text, variables)


def _read_env_file(name: str, around: Surroundings) -> dict[str, str]:
    file = absolute(name.removeprefix("-"), around.directory, around.variables)
    try:
        text = read_bytes(file).decode()
    except FileNotFoundError:
        if name.startswith("-"):
            return {}
        raise ValueError(f"{name!r}: there is no such file; '-{name}' may be missing") from None
    except UnicodeDecodeError:
        raise ValueError(f"{name!r} is not UTF-8") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"{name!r} cannot be read: {reason}") from None
    try:
        return parse_env_file(text)
    except ValueError as error:
        raise ValueError(f"{name}:{error}") from None


# --- a service ------------------------------------------------------------------------------------

#: The fields that are Service's own, as they are.
_AS_THEY_ARE = (
    *("type", "start_timeout", "restart", "success_exit_status", "clean_signals"),
    *("prevent_restart_on", "never_again", "stable_after", "jitter", "significant", "after"),
    *("requires", "wants", "part_of", "conflicts", "remain_after_exit", "notify_access"),
    *("fd_store", "lazy", "accept", "max_connections", "grace", "user", "group", "extra_groups"),
    *("umask", "no_new_privs", "capabilities"),
)


def make_service(
    name: str, table: ServiceTable, given: dict[str, Any], around: Surroundings, path: KeyPath
) -> Service | None:
    """The service of a table; what is wrong with it goes to the findings.

    :param around: with the variables that all services have.
    """
    before = len(around.findings)
    own = read_variables(table.env, table.env_file, around, path)
    inner = evolve(around, variables={**around.variables, **own}) if own else around
    options: dict[str, Any] = {
        key: value for key in _AS_THEY_ARE if (value := getattr(table, key)) is not None
    }
    with inner.at(path, given):
        if command := inner.command(table):
            options["command"] = command
        elif not {"command", "shell"} & given.keys():
            raise ValueError('has no command: write command = ["program", "argument"]')
    for key, make in _MADE.items():
        value = getattr(table, key)
        if is_array(value):
            several = _several(make, value, given[key], inner, (*path, key))
            options[key] = Escalation(*several) if key == "escalation" else several
        elif value is not None:
            with inner.at((*path, key), given[key]):
                options[_NAMES.get(key, key)] = make(value, inner)
    if table.clean_env:
        options["env"] = "minimal"
    options["extend_env"] = {**around.passed_on, **own}
    options.setdefault("cwd", around.directory)
    nothing_wrong = len(around.findings) == before
    if nothing_wrong:
        with contextlib.suppress(TypeError, ValueError):
            return Service(name, **options)
    nothing_left_out = all(getattr(table, key, None) is not None for key in given)
    all_is_there = nothing_wrong and nothing_left_out
    _say_what_is_wrong(name, options, given, inner, path, all_is_there=all_is_there)
    return None


class Draft(Service):
    """A service that need not be free of contradictions."""

    def __attrs_post_init__(self) -> None:
        pass

    def contradictions(self) -> list[str]:
        return list(self._contradictions())


def _say_what_is_wrong(
    name: str,
    options: dict[str, Any],
    given: dict[str, Any],
    around: Surroundings,
    path: KeyPath,
    *,
    all_is_there: bool,
) -> None:
    """All of it. Where something is left out, what seems to contradict it says nothing."""
    options.setdefault("command", ["unknown"])
    while True:
        draft = None
        with around.at(path, given):
            draft = Draft(name, **options)
        if draft:
            break
        all_is_there = False
        (*_, last), _ = around.findings[-1]
        if options.pop(_NAMES.get(str(last), str(last)), None) is None:
            return
    if all_is_there:
        for text in draft.contradictions():
            with around.at(path, given):
                raise ValueError(text)


def _several(
    make: Callable[[Any, Surroundings], Any],
    tables: list[Any],
    given: Any,
    around: Surroundings,
    path: KeyPath,
) -> tuple[Any, ...]:
    one_by_itself = len(tables) == 1 and not (is_array(given) and not is_words(given))
    found: list[Any] = []
    for index, table in enumerate(tables):
        here = given if one_by_itself else given[index]
        with around.at(path if one_by_itself else (*path, index), here):
            found.append(make(table, around))
    return tuple(found)


# --- its parts ------------------------------------------------------------------------------------


def _one_of(table: Any, *keys: str) -> str:
    """Which of these the table has, of which it has to have one."""
    there = [key for key, value in _rest(table, *keys).items() if value is not False]
    if len(there) > 1:
        raise ValueError(f"{there[1]}: there is {there[0]} already; take one of them out")
    if not there:
        raise ValueError(f"takes one of {', '.join(keys)}")
    return there[0]


def _rest(table: Any, *keys: str) -> dict[str, Any]:
    """Those of these keys that it has."""
    return {key: value for key in keys if (value := getattr(table, key)) is not None}


_HTTP = ("method", "headers", "status", "body", "unix_socket")
_PROBES = ("tcp", "unix", "http", "command", "shell")


def _make_probe(table: ProbeTable, kind: str, around: Surroundings) -> Probe:
    if kind != "http":
        _refuse(table, _HTTP, "http")
    if kind == "tcp":
        return _make_tcp(around.value(table, "tcp"))
    if kind == "unix":
        with about("unix", "UnixProbe.path"):
            return UnixProbe(around.path(table, "unix"))
    if kind == "http":
        return _make_http(table, around)
    command = around.command(table)
    assert command
    return CommandProbe(command)


def _make_tcp(address: str) -> TcpProbe:
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise ValueError(f"tcp: must be a port, or such as '127.0.0.1:8080', not {address!r}")
    with about("tcp"):
        return TcpProbe(int(port), host.strip("[]") or "127.0.0.1")


def _make_http(table: ProbeTable | HookTable, around: Surroundings) -> HttpProbe:
    url = around.value(table, "http")
    if "@" in re.split("[/?#]", url.partition("//")[2])[0]:
        # Which a message should not have.
        raise ValueError("http: holds a user name: write headers = {Authorization = …}")
    options = _rest(table, "method", "status")
    if table.headers is not None:
        options["headers"] = _make_headers(table.headers, around)
    if table.body is not None:
        options["body"] = BodyMatches(re.compile(table.body))
    if table.unix_socket is not None:
        options["unix_socket"] = around.path(table, "unix_socket")
    with about("http", "HttpProbe.url"):
        return HttpProbe(url, **options)


def _make_headers(given: Mapping[str, str], around: Surroundings) -> dict[str, str]:
    headers: dict[str, str] = {}
    with about("headers"):
        for name, text in given.items():
            value = headers[name] = expand(text, around.variables)
            if not value.isascii() or not value.isprintable() or value != value.strip():
                # It may be a secret.
                raise ValueError(f"what {name} comes to is nothing that a header can hold")
    return headers


def _refuse(table: Any, keys: tuple[str, ...], needs: str) -> None:
    for key in _rest(table, *keys):
        raise ValueError(f"{key}: is for {needs}")


def _make_ready(table: ReadyTable, around: Surroundings) -> Ready:
    kind = _one_of(table, *_PROBES, "notify", "file", "output", "running_for", "newline_on")
    if kind in _PROBES:
        return _make_probe(table, kind, around)
    _refuse(table, _HTTP, "http")
    if table.file is not None:
        return FileExists(around.path(table, "file"))
    if table.output is not None:
        return OutputMatches(re.compile(table.output))
    if table.running_for is not None:
        with about("running_for", "RunningFor.seconds"):
            return RunningFor(table.running_for)
    if table.newline_on is not None:
        with about("newline_on", "NewlineOn.fd"):
            return NewlineOn(table.newline_on)
    return Notified()


def _make_check(table: HealthTable, around: Surroundings) -> HealthCheck:
    probe = _make_probe(table, _one_of(table, *_PROBES), around)
    options = _rest(table, "interval", "timeout", "failures", "successes")
    options |= _rest(table, "start_period", "start_interval", "role", "name")
    return HealthCheck(probe, **options)


def _make_heartbeat(
    table: HeartbeatTable, around: Surroundings
) -> NotifyHeartbeat | FileHeartbeat | OutputHeartbeat:
    kind = _one_of(table, "notify", "file", "output")
    if kind != "file":
        _refuse(table, ("max_age",), "file")
    if table.notify is not None:
        with about("notify", "NotifyHeartbeat.interval"):
            return NotifyHeartbeat(table.notify)
    if table.output is not None:
        with about("output", "OutputHeartbeat.max_silence"):
            return OutputHeartbeat(table.output)
    if table.max_age is None:
        raise ValueError("file: needs max_age, the longest time between two changes")
    return FileHeartbeat(around.path(table, "file"), table.max_age)


def _make_hook(table: HookTable, around: Surroundings) -> Hook:
    kind = _one_of(table, "command", "shell", "http")
    if kind != "http":
        _refuse(table, _HTTP, "http")
    action = _make_http(table, around) if kind == "http" else around.command(table)
    assert action
    return Hook(action, **_rest(table, "timeout"))


def _make_reload(value: HookTable | signals.Signals, around: Surroundings) -> object:
    return value if isinstance(value, signals.Signals) else _make_hook(value, around)


def _make_backoff(table: BackoffTable, _: Surroundings) -> Backoff:
    initial = 0.1 if table.initial is None else table.initial
    factor = 2.0 if table.factor is None else table.factor
    most = max(initial, 30.0) if table.max is None else table.max
    if not math.isfinite(initial) or not math.isfinite(most):
        raise ValueError("must be finite")
    if not 1 <= factor < math.inf:
        raise ValueError(f"factor: must be 1 or more, not {factor:g}")
    if most < initial:
        raise ValueError(f"max: must be at least initial, {initial:g} s, not {most:g} s")
    return Backoff(initial, factor, most)


def _make_attempts(number: int, _: Surroundings) -> Attempts:
    if number < 1:
        raise ValueError(f"must be at least 1, not {number}")
    return Attempts(number)


def _make_step(table: StepTable, around: Surroundings) -> Step:
    kind = _one_of(table, "signal", "command", "shell", "close_stdin")
    action: Action | None = CLOSE_STDIN if kind == "close_stdin" else table.signal
    action = action or around.command(table)
    assert action
    return Step(action, **_rest(table, "wait"))


def _make_socket(table: SocketTable, around: Surroundings) -> ListenSocket:
    key = _one_of(table, "tcp", "udp", "unix", "fifo")
    options = _rest(table, "name", "backlog", "mode", "reuse_port")
    address = around.value(table, key)
    if key in ("unix", "fifo") and not address.startswith("@"):
        address = os.path.normpath(os.path.join(around.directory, address))
    kinds: dict[str, Any] = {"tcp": "stream", "udp": "datagram", "fifo": "fifo"}
    options["kind"] = kinds.get(key, table.kind or "stream")
    if key != "unix":
        _refuse(table, ("kind",), "unix")
    with about(key, "ListenSocket.address"):
        socket = ListenSocket(address, **options)
    if key in ("tcp", "udp") and not socket.inet:
        raise ValueError(f"{key}: must be a port, or such as '127.0.0.1:8080', not {address!r}")
    return socket


def _make_limits(table: LimitsTable, _: Surroundings) -> Limits:
    # An infinite size is no limit.
    return Limits(**{key: value for key, value in asdict(table).items() if value != math.inf})


def _make_output(table: OutputTable, _: Surroundings) -> OutputPolicy:
    options: dict[str, Any] = {
        "head": 0,
        "tail": 16384,
        **_rest(table, "head", "tail", "merge_stderr"),
    }
    return OutputPolicy(**options)


def _make_path(text: str, around: Surroundings) -> str:
    return absolute(text, around.directory, around.variables)


_MADE: dict[str, Callable[[Any, Surroundings], Any]] = {
    "attempts": _make_attempts,
    "backoff": _make_backoff,
    "cwd": _make_path,
    "escalation": _make_step,
    "health": _make_check,
    "heartbeat": _make_heartbeat,
    "limits": _make_limits,
    "output": _make_output,
    "pid_file": _make_path,
    "post_start": _make_hook,
    "post_stop": _make_hook,
    "pre_start": _make_hook,
    "pre_stop": _make_hook,
    "ready": _make_ready,
    "reload": _make_reload,
    "sockets": _make_socket,
}
