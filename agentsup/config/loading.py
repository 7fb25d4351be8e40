"""A file of services as a :class:`Config`, or all that is wrong with it."""

from __future__ import annotations

import difflib
import graphlib
import itertools
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, fields

from .._errors import ConfigError, ConfigErrors
from .._rules import ordering, strategy
from .._values.listen import ListenSocket
from .._values.result import Containment
from . import finding
from .locating import locate
from .making import Surroundings, about, make_service, read_variables
from .reading import parse, read
from .structuring import structure
from .tables import DaemonTable, FileTable, LogsTable, ServiceTable, SupervisorTable
from .values import Config, DaemonConfig, LogsConfig, ServiceConfig, SupervisorConfig, TcpConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .locating import KeyPath
    from .structuring import Finding


#: So many supervisors in each other, and Python's stack is still far from its end.
_DEEPEST = 32


def load(path: str | os.PathLike[str], env: Mapping[str, str] | None = None) -> Config:
    """What a file says.

    :param path: the file. Relative paths in it are relative to its directory.
    :param env: the environment that services inherit and variables are taken from, this process's
        by default.
    :raises ConfigErrors: with all that is wrong.
    """
    file = os.fspath(path)
    text = read(file)
    given = parse(file, text)
    loader = _Loader(file, os.environ if env is None else env)
    config = loader.load(given)
    if loader.findings or config is None:
        raise ConfigErrors(_errors(file, text, given, loader.findings))
    return config


def _errors(
    file: str, text: str, given: dict[str, Any], findings: Iterable[Finding]
) -> list[ConfigError]:
    lines = locate(text)
    found: list[ConfigError] = []
    for path, reason in findings:
        if path not in lines and path and path[-1] == 0:
            path = path[:-1]  # the only one, not in a list
        at = path
        while at and at not in lines:
            at = at[:-1]
        # A reason is a line.
        error = ConfigError(file, lines.get(at, 1), _dotted(path), " ".join(reason.split()))
        found.append(error)
    return sorted(found, key=lambda error: error.line or 0)


def _dotted(path: KeyPath) -> str:
    """As TOML would have it."""
    key = ""
    for part in path:
        if isinstance(part, int):
            key += f"[{part}]"
        else:
            bare = re.fullmatch("[A-Za-z0-9_-]+", part)
            key += f"{'.' if key else ''}{part if bare else repr(part)}"
    return key


class _Loader:
    def __init__(self, file: str, env: Mapping[str, str]) -> None:
        self.findings: list[Finding] = []
        self._file = os.path.abspath(file)
        directory = os.path.dirname(self._file)
        self._around = Surroundings(directory, env, {}, self.findings)
        self._env = env

    def load(self, given: dict[str, Any]) -> Config | None:
        table = structure(given, FileTable, (), self.findings) or FileTable()
        if table.schedule is not None:
            self._find(("schedule",), "is not supported by this version")
        said: dict[str, Any] = table.daemon or {}
        daemon = structure(said, DaemonTable, ("daemon",), self.findings) or DaemonTable()
        shared = read_variables(daemon.env, daemon.env_file, self._around, ("daemon",))
        self._around = evolve(self._around, variables={**self._env, **shared}, passed_on=shared)
        kept = structure(table.logs or {}, LogsTable, ("logs",), self.findings)
        logs = self._logs(LogsConfig(), kept, ("logs",))
        services, supervisors = self._children(table, logs, (), daemon)
        made = self._daemon(daemon, said)
        if made is None:
            return None
        return Config(Path(self._file), made, logs, services, supervisors)

    def _find(self, path: KeyPath, reason: str) -> None:
        self.findings.append((path, reason))

    # --- [daemon] ---------------------------------------------------------------------------------

    def _daemon(self, table: DaemonTable, given: Any) -> DaemonConfig | None:
        before = len(self.findings)
        directory, env = self._around.directory, self._env
        around = evolve(self._around, variables=env)  # ctl has no other
        socket = state_dir = ""
        with around.at(("daemon",), given), about("state_dir"):
            said = finding.STATE_DIR if table.state_dir is None else table.state_dir
            state_dir = finding.absolute(said, directory, env)
        with (
            around.at(("daemon",), given),
            about("state_dir" if table.socket is None else "socket"),
        ):
            said = finding.SOCKET if table.socket is None else table.socket
            socket = finding.absolute(said, state_dir, env)
            length = len(os.fsencode(socket))
            if length > finding.LONGEST_SOCKET:
                raise ValueError(
                    f"the socket's path would have {length} bytes, and that of a Unix "
                    f'socket may have {finding.LONGEST_SOCKET}; set socket = "/run/…"'
                )
        self._check_rules(table, ("daemon",))
        tcp = self._tcp(table, given, around)
        if len(self.findings) > before:
            return None
        options = _options(table, "stop_timeout", "strategy", "auto_shutdown")
        options |= _bounds(table)
        if table.containment not in (None, "auto"):
            options["containment"] = Containment[table.containment.upper()]
        return DaemonConfig(Path(socket), Path(state_dir), tcp=tcp, **options)

    def _tcp(self, table: DaemonTable, given: Any, around: Surroundings) -> TcpConfig | None:
        if table.tcp is None:
            return None
        with around.at(("daemon", "tcp"), given["tcp"]):
            listen = around.value(table.tcp, "listen")
            if not _is_inet(listen):
                raise ValueError(f"listen: must be such as '127.0.0.1:9009', not {listen!r}")
            return TcpConfig(listen, Path(around.path(table.tcp, "token_file")))
        return None

    # --- services and supervisors -----------------------------------------------------------------

    def _children(
        self,
        table: FileTable | SupervisorTable,
        logs: LogsConfig,
        path: KeyPath,
        rules: DaemonTable | SupervisorTable,
    ) -> tuple[dict[str, ServiceConfig], dict[str, SupervisorConfig]]:
        below: dict[str, Any] = table.service or {}
        supervised: dict[str, Any] = table.supervisor or {}
        services: dict[str, ServiceConfig] = {}
        units: dict[str, ServiceTable] = {}
        for name, inner in below.items():
            at = (*path, "service", name)
            usable = self._check_name(name, at)
            made = structure(inner, ServiceTable, at, self.findings)
            if made is not None:
                units[name] = made
                config = self._service(name if usable else "service", made, inner, logs, at)
                if config:
                    services[name] = config
        supervisors: dict[str, SupervisorConfig] = {}
        for name, inner in supervised.items():
            at = (*path, "supervisor", name)
            self._check_name(name, at)
            if name in below:
                self._find(at, f"there is a service {name!r} already; call one of them otherwise")
            supervisor = self._supervisor(name, inner, logs, at)
            if supervisor:
                supervisors[name] = supervisor
        if supervised and rules.strategy not in (None, "one_for_one"):
            at = (*path, "strategy") if path else ("daemon", "strategy")
            self._find(
                at,
                f"not supported yet: {rules.strategy!r} with supervisors below; use 'one_for_one'",
            )
        self._check_order(units, table, rules, path)
        self._check_significance(services, rules, path)
        return services, supervisors

    def _supervisor(
        self, name: str, given: Any, logs: LogsConfig, path: KeyPath
    ) -> SupervisorConfig | None:
        if len(path) > 2 * _DEEPEST:
            self._find(path, f"is nested too deeply: {_DEEPEST} supervisors can be in each other")
            return None
        table = structure(given, SupervisorTable, path, self.findings)
        if table is None:
            return None
        self._check_rules(table, path)
        self._check_groups(table, path)
        services, supervisors = self._children(table, logs, path, table)
        options = _options(table, "strategy", "auto_shutdown", "groups") | _bounds(table)
        return SupervisorConfig(name, services=services, supervisors=supervisors, **options)

    def _service(
        self, name: str, table: ServiceTable, given: dict[str, Any], logs: LogsConfig, path: KeyPath
    ) -> ServiceConfig | None:
        own = self._logs(logs, table.logs, (*path, "logs"))
        if table.logs and table.logs.total_size is not None:
            self._find((*path, "logs", "total_size"), "is of all services: it goes to [logs]")
        self._check_groups(table, path)
        before = len(self.findings)
        service = make_service(name, table, given, self._around, path)
        if service is None or len(self.findings) > before:
            return None
        options = _options(table, "autostart", "groups")
        return ServiceConfig(name, service, logs=own, **options)

    # --- checks -----------------------------------------------------------------------------------

    def _check_name(self, name: str, path: KeyPath, what: str = "a name") -> bool:
        """The control API and the command line have to be able to name it."""
        if not name or name != name.strip() or not name.isprintable() or set(name) & set("/*?[]"):
            self._find(path, f"{what} is of printable characters, without any of / * ? [ ]")
            return False
        if name[0] in "@-" or name in (".", ".."):
            self._find(path, f"{what} does not begin with @ or -, and is not . or ..")
            return False
        return True

    def _check_groups(self, table: ServiceTable | SupervisorTable, path: KeyPath) -> None:
        for index, group in enumerate(table.groups or ()):
            self._check_name(group, (*path, "groups", index), "the name of a group")

    def _check_rules(self, table: DaemonTable | SupervisorTable, path: KeyPath) -> None:
        if table.within is not None and not table.within:
            self._find((*path, "within"), "must be more than zero seconds")

    def _logs(self, logs: LogsConfig, table: LogsTable | None, path: KeyPath) -> LogsConfig:
        """What the table says, and for the rest what holds otherwise."""
        if table is None:
            return logs
        said = _options(table, *(one.name for one in fields(LogsTable)))
        for key, least in (("segment_size", 4096), ("line_max", 256)):
            if not least <= said.get(key, least) < math.inf:
                self._find((*path, key), f"must be at least {least} bytes, and finite")
                del said[key]
        for key in ("segment_age", "max_age"):
            if said.get(key) == 0:
                self._find((*path, key), "must be more than zero")
        merged = evolve(
            logs, **{key: _bounded(value) for key, value in said.items() if key != "outlets"}
        )
        if "outlets" in said:
            merged = evolve(merged, outlets=tuple(said["outlets"]))
        if merged.max_size is not None and merged.max_size < merged.segment_size:
            key = "max_size" if "max_size" in said else "segment_size"
            self._find(
                (*path, key),
                f"max_size, {merged.max_size}, must be at least segment_size, "
                f"{merged.segment_size}",
            )
        return merged

    def _check_order(
        self,
        units: dict[str, ServiceTable],
        table: FileTable | SupervisorTable,
        rules: DaemonTable | SupervisorTable,
        path: KeyPath,
    ) -> None:
        known: dict[str, Any] = table.service or {}
        in_line = rules.strategy in ("one_for_all", "rest_for_one")
        found: dict[str, ordering.Unit] = {}
        for name, unit in units.items():
            related: dict[str, tuple[str, ...]] = {}
            for relation in ("after", "requires", "wants", "part_of", "conflicts"):
                at = (*path, "service", name, relation)
                others = getattr(unit, relation) or ()
                for other in others:
                    if reason := _unrelated(name, other, known, table.supervisor or {}):
                        self._find(at, reason)
                related[relation] = tuple(other for other in others if other in units)
            if in_line and unit.conflicts:
                at = (*path, "service", name, "conflicts")
                self._find(at, f"with strategy {rules.strategy!r}, all run together")
            found[name] = ordering.Unit(name, **related)
        self._check_cycles(found, path, in_line=in_line)
        together = [name for name in found if units[name].autostart is not False]
        if not in_line and any(unit.conflicts for unit in found.values()):
            self._check_conflicts(found, together, path)

    def _check_cycles(
        self, units: dict[str, ordering.Unit], path: KeyPath, *, in_line: bool
    ) -> None:
        graph: dict[str, set[str]] = {}
        for name, unit in units.items():
            before = set(graph) if in_line else set[str]()
            graph[name] = {*before, *unit.after} - {name}
        while True:
            try:
                graphlib.TopologicalSorter(graph).prepare()
                return
            except graphlib.CycleError as error:
                cycle = error.args[1][::-1]
            # One of its steps is written in the file; the others may follow from the strategy.
            name, other = next(
                (one, next_)
                for one, next_ in itertools.pairwise(cycle)
                if next_ in units[one].after
            )
            why = ", for with this strategy each starts after those above it" if in_line else ""
            self._find(
                (*path, "service", name, "after"),
                f"{' -> '.join(cycle)} is a cycle, in which each waits for the next{why}; "
                "take one of them out",
            )
            graph[name].discard(other)

    def _check_conflicts(
        self, units: dict[str, ordering.Unit], together: list[str], path: KeyPath
    ) -> None:
        for names in ([name] for name in units):
            try:
                ordering.check_together(units, names)
            except ValueError as error:
                self._find((*path, "service", names[0]), str(error))
                return
        for name in together:
            for other in units[name].conflicts:
                if other in together and other != name:
                    self._find(
                        (*path, "service", name, "conflicts"),
                        f"{name!r} and {other!r} both start with the tree; "
                        "write autostart = false in one of them",
                    )

    def _check_significance(
        self,
        services: dict[str, ServiceConfig],
        rules: DaemonTable | SupervisorTable,
        path: KeyPath,
    ) -> None:
        rule = strategy.SupervisorRule(auto_shutdown=rules.auto_shutdown or "never")
        for name, config in services.items():
            service = config.service
            if service.significant:
                try:
                    rule.check(strategy.Child(name, service.policy.restart, significant=True))
                except ValueError as error:
                    reason = str(error).removeprefix("significant: ")
                    self._find((*path, "service", name, "significant"), reason)


def _is_inet(address: str) -> bool:
    try:
        return ListenSocket(address).inet is not None
    except ValueError:
        return False


def _unrelated(
    name: str, other: str, services: Mapping[str, Any], supervisors: Mapping[str, Any]
) -> str | None:
    """Why a service cannot be related to that one, if it cannot."""
    if other == name:
        return f"{other!r} names itself"
    if other in services:
        return None
    if other in supervisors:
        return f"{other!r} is a supervisor, and only services can be named here"
    close = difflib.get_close_matches(other, services, 1)
    hint = f"did you mean {close[0]!r}?" if close else "add it, or take it out here"
    return f"there is no service {other!r} beside it; {hint}"


def _options(table: Any, *keys: str) -> dict[str, Any]:
    return {key: value for key in keys if (value := getattr(table, key)) is not None}


def _bounds(table: DaemonTable | SupervisorTable) -> dict[str, Any]:
    options = _options(table, "max_restarts", "within")
    return {key: _bounded(value) for key, value in options.items()}


def _bounded(value: Any) -> Any:
    """None where there is no bound."""
    return None if value == math.inf else value
