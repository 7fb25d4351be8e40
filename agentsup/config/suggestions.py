"""What was meant: names that are close, and those that systemd and supervisord have."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# By table. Names are compared without case, dashes and underscores.
_IN_SERVICE = """
    ExecStart: command
    ExecStartPre: pre_start
    ExecStartPost: post_start
    ExecStop: pre_stop
    ExecStopPost: post_stop
    ExecReload: reload
    Description: a comment, # …
    cmd: command
    args: command
    argv: command
    program: command
    RestartSec: backoff
    RestartSteps: backoff = {initial = …, max = …}
    RestartMaxDelaySec: backoff = {initial = …, max = …}
    TimeoutStartSec: start_timeout
    TimeoutStopSec: grace
    TimeoutSec: start_timeout and grace
    stop_timeout: grace
    KillSignal: escalation = [{signal = …, wait = …}]
    KillMode: nothing; all processes of a service are always stopped
    WatchdogSec: heartbeat
    watchdog: heartbeat
    WorkingDirectory: cwd
    directory: cwd
    chdir: cwd
    Environment: env
    extend_env: env
    EnvironmentFile: env_file
    SupplementaryGroups: extra_groups
    NoNewPrivileges: no_new_privs
    CapabilityBoundingSet: capabilities
    SuccessExitStatus: success_exit_status
    RestartPreventExitStatus: prevent_restart_on
    StartLimitBurst: attempts, or max_restarts of the supervisor
    StartLimitIntervalSec: stable_after, or within of the supervisor
    PIDFile: pid_file
    RemainAfterExit: remain_after_exit
    FileDescriptorStoreMax: fd_store
    BindsTo: requires
    Requisite: requires
    Upholds: wants
    Before: after, in the other service
    WantedBy: autostart
    ListenStream: sockets = [{tcp = …}]
    ListenDatagram: sockets = [{udp = …}]
    MaxConnections: max_connections
    MemoryMax: limits = {memory = …}
    MemoryLimit: limits = {memory = …}
    memory: limits = {memory = …}
    MemoryHigh: limits = {memory_high = …}
    CPUQuota: limits = {cpu_quota = …}
    TasksMax: limits = {processes = …}
    IOWeight: limits = {io_weight = …}
    LimitNOFILE: limits = {open_files = …}
    LimitNPROC: limits = {processes = …}
    LimitCPU: limits = {cpu_time = …}
    LimitFSIZE: limits = {file_size = …}
    LimitAS: limits = {memory = …}
    StandardOutput: logs
    StandardError: logs
    LogRateLimitBurst: logs = {rate_limit = …}
    autorestart: restart
    startsecs: ready = {running_for = …}
    startretries: attempts
    give_up: attempts
    retries: attempts
    stopsignal: escalation = [{signal = …, wait = …}]
    stopwaitsecs: grace
    stopasgroup: nothing; all processes of a service are always stopped
    killasgroup: nothing; all processes of a service are always stopped
    exitcodes: success_exit_status
    priority: after
    depends_on: requires and after
    numprocs: a service for each of them
    process_name: the name of the table
    name: the name of the table
    redirect_stderr: output = {merge_stderr = true}
    stdout_logfile: logs
    stderr_logfile: logs
    stdout_logfile_maxbytes: logs = {segment_size = …}
    stdout_logfile_backups: logs = {max_size = …}
    stdout_syslog: logs = {outlets = ['syslog']}
    healthcheck: health
    readiness: ready
    environment: env
    max_restarts: attempts, or max_restarts of the supervisor
    strategy: strategy of the supervisor
"""
_IN_FILE = """
    program: service
    Unit: service
    Service: service
    Socket: sockets of a service
    Timer: schedule
    group: groups of a service
    supervisord: daemon
    supervisorctl: nothing; 'agentsup ctl' finds the tree by the file
    unix_http_server: daemon, its socket
    inet_http_server: daemon.tcp
    include: nothing; one file has the whole tree
    eventlistener: nothing; 'agentsup ctl events -f' prints the events
"""
_IN_DAEMON = """
    listen: tcp = {listen = …, token_file = …}
    directory: state_dir
    logfile: nothing; it logs to its standard error
    pidfile: nothing; the socket is locked
    nodaemon: nothing; it stays in the foreground
    childlogdir: state_dir
    DefaultTimeoutStopSec: stop_timeout
    StartLimitBurst: max_restarts
    StartLimitIntervalSec: within
    environment: env
    EnvironmentFile: env_file
"""
_IN_LOGS = """
    maxbytes: segment_size
    backups: max_size
    SystemMaxUse: total_size
    SystemMaxFileSize: segment_size
    MaxRetentionSec: max_age
    MaxFileSec: segment_age
    LineMax: line_max
    RateLimitBurst: rate_limit
    RateLimitIntervalSec: rate_limit
"""
_VALUES = """
    always: permanent
    unless-stopped: permanent
    true: permanent
    on-failure: transient
    on-abnormal: transient
    on-abort: transient
    on-watchdog: transient
    unexpected: transient
    no: temporary
    never: temporary
    false: temporary
    notify-reload: notify
    fork: forking
    idle: simple
    tcp: stream
    udp: datagram
    dgram: datagram
    stderr: stdout
    journal: journald
    console: stdout
"""


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _table(text: str) -> dict[str, str]:
    pairs = (line.split(": ", 1) for line in text.strip().splitlines())
    return {_bare(name.strip()): ours for name, ours in pairs}


_FOREIGN = {
    "FileTable": _IN_FILE,
    "DaemonTable": _IN_DAEMON,
    "SupervisorTable": _IN_DAEMON,
    "LogsTable": _IN_LOGS,
    "ServiceTable": _IN_SERVICE,
    "LimitsTable": _IN_SERVICE,
}


def unknown(key: str, known: Iterable[str], table: str = "") -> str:
    """What is said of a key that there is not, in the table with the class of that name."""
    known = tuple(known)
    ours = {**_table(_FOREIGN.get(table, "")), **{_bare(name): name for name in known}}
    # "program:web" is how supervisord writes a table of a table.
    close = difflib.get_close_matches(_bare(key.partition(":")[0]), ours, 1, 0.7)
    if not close:
        known_here = f"; known here are {', '.join(known)}" if len(known) <= 12 else ""
        return f"is unknown{known_here}"
    said = ours[close[0]]
    if said.startswith("nothing; "):
        return f"is unknown: {said.removeprefix('nothing; ')}"
    if table == "LimitsTable":
        said = said.removeprefix("limits = {").removesuffix(" = …}")
    return f"is unknown; did you mean {said}?"


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is none of those known."""
    close = _close(name, known)
    return f"; did you mean {close}?" if close else ""


def choice(value: str, known: Iterable[str]) -> str:
    """The same of a value, in quotes."""
    known = tuple(known)
    ours = {bare: one for bare, one in _table(_VALUES).items() if one in known}
    ours.update((_bare(one), one) for one in known)
    close = ours.get(next(iter(difflib.get_close_matches(_bare(value), ours, 1)), ""))
    return f"; did you mean {close!r}?" if close else ""


def _close(name: str, known: Iterable[str]) -> str | None:
    bare = {_bare(one): one for one in known}
    close = difflib.get_close_matches(_bare(name), bare, 1)
    return bare[close[0]] if close else None
