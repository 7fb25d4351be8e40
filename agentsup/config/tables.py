"""The tables of a file, as they are written there. What is not said is None.

The JSON Schema is made from these classes, its descriptions from what is said here of each field.
"""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen

from .kinds import (
    Account,
    Accounts,
    Address,
    Capabilities,
    Codes,
    Count,
    Cpus,
    Duration,
    Endings,
    Flag,
    Headers,
    Mode,
    Names,
    Number,
    Pattern,
    Rate,
    SignalName,
    Signals,
    Size,
    Tables,
    Text,
    Variables,
    Whole,
    Words,
)

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
AutoShutdown = Literal["never", "any_significant", "all_significant"]
Containment = Literal["auto", "process_group", "subreaper", "cgroup", "pid_namespace"]


@frozen(kw_only=True)
class HookTable:
    """A command or a request at a turn of a service's life.

    :param command: the words of a command, or a string that is split into them.
    :param shell: a command line for /bin/sh.
    :param http: a URL to request.
    :param method: the request's method, GET by default.
    :param headers: the request's headers.
    :param status: the HTTP statuses that are right, 200 to 399 by default.
    :param body: a regular expression that the answer's body has to hold.
    :param unix_socket: the Unix socket to connect to, instead of the URL's host.
    :param timeout: after which it has failed, 10 s by default.
    """

    command: Words | None = None
    shell: Text | None = None
    http: Text | None = None
    method: Text | None = None
    headers: Headers | None = None
    status: list[Whole] | None = None
    body: Pattern | None = None
    unix_socket: Text | None = None
    timeout: Duration | None = None


@frozen(kw_only=True)
class ProbeTable:
    """One way to ask a service whether it answers.

    :param tcp: a port, or a host and a port, to connect to.
    :param unix: the path of a Unix socket to connect to.
    :param http: a URL to request.
    :param method: the request's method, GET by default.
    :param headers: the request's headers.
    :param status: the HTTP statuses that pass, 200 to 399 by default.
    :param body: a regular expression that the answer's body has to hold.
    :param unix_socket: the Unix socket to connect to, instead of the URL's host.
    :param command: a command that exits with status 0.
    :param shell: a command line for /bin/sh that does.
    """

    tcp: Address | None = None
    unix: Text | None = None
    http: Text | None = None
    method: Text | None = None
    headers: Headers | None = None
    status: list[Whole] | None = None
    body: Pattern | None = None
    unix_socket: Text | None = None
    command: Words | None = None
    shell: Text | None = None


@frozen(kw_only=True)
class ReadyTable(ProbeTable):
    """How a service is known to be ready.

    :param notify: it says so, as in sd_notify(3).
    :param file: a file is there that was not before the start.
    :param output: a regular expression that a line of its output holds.
    :param running_for: it has not ended for so long.
    :param newline_on: the descriptor that it writes a newline to.
    """

    notify: Flag | None = None
    file: Text | None = None
    output: Pattern | None = None
    running_for: Duration | None = None
    newline_on: Whole | None = None


@frozen(kw_only=True)
class HealthTable(ProbeTable):
    """A check that is made while the service runs.

    :param interval: from the beginning of one probe to that of the next, 10 s by default.
    :param timeout: after which a probe has failed, 1 s by default.
    :param failures: how many in a row it takes to fail for good, 3 by default.
    :param successes: how many in a row it takes to be ready.
    :param start_period: in which failures do not count.
    :param start_interval: the interval in that period.
    :param role: liveness (the default): it is restarted; readiness: it is not ready; startup: it
        has to pass once before the others are made.
    :param name: what to call it in messages.
    """

    interval: Duration | None = None
    timeout: Duration | None = None
    failures: Whole | None = None
    successes: Whole | None = None
    start_period: Duration | None = None
    start_interval: Duration | None = None
    role: Literal["liveness", "readiness", "startup"] | None = None
    name: Text | None = None


@frozen(kw_only=True)
class HeartbeatTable:
    """By what progress is known.

    :param notify: it sends WATCHDOG=1 (sd_notify(3)) at least so often.
    :param file: this file is modified.
    :param max_age: at least so often.
    :param output: it prints something at least so often.
    """

    notify: Duration | None = None
    file: Text | None = None
    max_age: Duration | None = None
    output: Duration | None = None


@frozen(kw_only=True)
class BackoffTable:
    """How long to wait before a restart.

    :param initial: before the first one, 0.1 s by default.
    :param factor: how many times as long before each further one, 2 by default.
    :param max: at most, 30 s by default.
    """

    initial: Duration | None = None
    factor: Number | None = None
    max: Duration | None = None


@frozen(kw_only=True)
class StepTable:
    """One attempt to make a service stop by itself.

    :param signal: a signal for all its processes.
    :param command: a command to run, with MAINPID in its environment.
    :param shell: a command line for /bin/sh.
    :param close_stdin: close its standard input.
    :param wait: for all of it to be gone before the next step, 5 s by default.
    """

    signal: SignalName | None = None
    command: Words | None = None
    shell: Text | None = None
    close_stdin: Flag | None = None
    wait: Duration | None = None


@frozen(kw_only=True)
class SocketTable:
    """A socket to listen on before the service starts, which it gets as descriptor 3 and on.

    :param tcp: a port, of every interface, or an address and a port.
    :param udp: the same, for datagrams.
    :param unix: the path of a Unix socket, or '@name' for an abstract one.
    :param fifo: the path of a FIFO.
    :param kind: of a Unix socket: stream (the default), datagram or seqpacket.
    :param name: what the service knows it by (LISTEN_FDNAMES).
    :param backlog: connections that may wait to be accepted.
    :param mode: permissions of the file that a path makes, as '0660'.
    :param reuse_port: let others listen on the same port.
    """

    tcp: Address | None = None
    udp: Address | None = None
    unix: Text | None = None
    fifo: Text | None = None
    kind: Literal["stream", "datagram", "seqpacket"] | None = None
    name: Text | None = None
    backlog: Whole | None = None
    mode: Mode | None = None
    reuse_port: Flag | None = None


@frozen(kw_only=True)
class LimitsTable:
    """What a service may use.

    :param memory: bytes of each process; of the whole tree in a control group.
    :param memory_high: bytes of the tree above which it is slowed down.
    :param cpu_time: CPU time of each process.
    :param processes: processes and threads of the user; of the tree in a control group.
    :param open_files: descriptors of each process.
    :param file_size: bytes that a file may grow to.
    :param cpu_quota: CPUs that the tree may use, as 0.5 or '50%'.
    :param io_weight: 1 to 10000, its share of a busy disk; others have 100.
    """

    memory: Size | None = None
    memory_high: Size | None = None
    cpu_time: Duration | None = None
    processes: Whole | None = None
    open_files: Whole | None = None
    file_size: Size | None = None
    cpu_quota: Cpus | None = None
    io_weight: Whole | None = None


@frozen(kw_only=True)
class OutputTable:
    """What is kept in memory of what a run prints, for messages about its end.

    :param head: bytes from the beginning of each stream, none by default.
    :param tail: bytes from its end, 16K by default.
    :param merge_stderr: send stderr into stdout, in true order.
    """

    head: Size | None = None
    tail: Size | None = None
    merge_stderr: Flag | None = None


@frozen(kw_only=True)
class LogsTable:
    """What is kept of what services print.

    :param segment_size: of a file, after which the next one begins; 16M by default.
    :param segment_age: the same, by its age; 1d by default.
    :param max_size: of all files of a service; 256M by default.
    :param total_size: of all files of all services; 2G by default. In [logs] only.
    :param max_age: of a record; 30d by default.
    :param compress: compress files that are not written any more; true by default.
    :param line_max: bytes of a line, of which longer ones are cut into pieces; 64K by default.
    :param rate_limit: so many lines in a time, as 10000/30s; the others are counted only.
    :param outlets: where else it goes: stdout, syslog, journald.
    :param keep: store it on disk; true by default.
    """

    segment_size: Size | None = None
    segment_age: Duration | None = None
    max_size: Size | None = None
    total_size: Size | None = None
    max_age: Duration | None = None
    compress: Flag | None = None
    line_max: Size | None = None
    rate_limit: Rate | None = None
    outlets: list[Literal["stdout", "syslog", "journald"]] | None = None
    keep: Flag | None = None


@frozen(kw_only=True)
class TcpTable:
    """The control API over TCP as well, for those who know the token.

    :param listen: an address and a port.
    :param token_file: the file that has the token.
    """

    listen: Address
    token_file: Text


@frozen(kw_only=True)
class DaemonTable:
    """How ``agentsup up`` runs, and the supervisor at the root.

    :param socket: of the control API; taken from state_dir, and control.sock there by default.
    :param state_dir: the directory of the socket and the logs; .agentsup by default.
    :param stop_timeout: in which everything has stopped, 90 s by default.
    :param tcp: the control API over TCP.
    :param strategy: which services restart with one that does.
    :param max_restarts: of all services, within that time; any number by default.
    :param within: the time for max_restarts, 5 s by default.
    :param auto_shutdown: end when significant services have.
    :param containment: the level that processes are held with.
    :param env: variables for all services.
    :param env_file: files of variables for all services; those with a '-' before may be missing.
    """

    socket: Text | None = None
    state_dir: Text | None = None
    stop_timeout: Duration | None = None
    tcp: TcpTable | None = None
    strategy: Strategy | None = None
    max_restarts: Count | None = None
    within: Duration | None = None
    auto_shutdown: AutoShutdown | None = None
    containment: Containment | None = None
    env: Variables | None = None
    env_file: Names | None = None


@frozen(kw_only=True)
class ServiceTable:
    """A program that is to run for long.

    :param command: its words, or a string that is split into them.
    :param shell: a command line for /bin/sh, instead.
    :param autostart: start it with the tree; true by default.
    :param groups: names by which several are meant at once, as @name.
    :param logs: what is kept of its output, where that differs from [logs].
    :param env: variables of its environment.
    :param env_file: files of variables; those with a '-' before may be missing.
    :param clean_env: of the daemon's environment, pass on PATH, HOME and the like only.
    :param cwd: the directory to run it in, that of the file by default.
    :param type: when it has started, as in systemd.service(5).
    :param ready: what else it takes to be ready: 'notify', or a table.
    :param start_timeout: to become ready in; 90 s by default, any time for a oneshot.
    :param restart: always (permanent), if its end was not clean (transient), or never (temporary).
    :param success_exit_status: the exit statuses that are clean, 0 by default.
    :param clean_signals: the signals that are a clean end.
    :param prevent_restart_on: exit statuses and signals after which there is no restart.
    :param never_again: exit statuses that say that no restart is of any use, 125 by default.
    :param backoff: the time before a restart, or a table.
    :param attempts: how many failures in a row end it for good; without, there is no end.
    :param stable_after: a run of this time was a good one, 10 s by default.
    :param jitter: up to so much is added to each backoff, at random.
    :param significant: its end counts for auto_shutdown.
    :param after: siblings that have started before it does.
    :param requires: siblings that start with it, and with which it stops and restarts.
    :param wants: siblings that start with it.
    :param part_of: siblings with which it stops and restarts.
    :param conflicts: siblings that do not run together with it.
    :param heartbeat: by what its progress is known: the time between two messages, or a table.
    :param health: checks that are made while it runs.
    :param pre_start: what is done before it starts.
    :param post_start: what is done once it is ready.
    :param pre_stop: what is done before it is asked to stop.
    :param post_stop: what is done after it has ended.
    :param reload: how it reads its configuration again: a signal, or what a hook is.
    :param pid_file: of a forking service, where its daemon writes its number.
    :param remain_after_exit: a oneshot counts as active after its success.
    :param notify_access: whose messages count.
    :param fd_store: how many descriptors it may leave with its supervisor.
    :param sockets: to listen on before it starts, and while it restarts.
    :param lazy: start it at the first connection.
    :param accept: start a process for each connection.
    :param max_connections: with accept, how many at a time; 64 by default.
    :param grace: from being asked to stop to SIGKILL, 5 s by default.
    :param escalation: other steps than SIGTERM and that.
    :param output: what is kept in memory for messages about its end.
    :param limits: what it may use.
    :param user: the name or number of the user to run it as; takes root.
    :param group: another group than the user's own.
    :param extra_groups: other supplementary groups than the user's own.
    :param umask: permissions that its files are not to have, as '022'.
    :param no_new_privs: let no setuid program in it take effect.
    :param capabilities: the names of all that it may ever have (capabilities(7)).
    """

    command: Words | None = None
    shell: Text | None = None
    autostart: Flag | None = None
    groups: Names | None = None
    logs: LogsTable | None = None
    env: Variables | None = None
    env_file: Names | None = None
    clean_env: Flag | None = None
    cwd: Text | None = None
    type: Literal["simple", "exec", "forking", "oneshot", "notify"] | None = None
    ready: ReadyTable | None = None
    start_timeout: Duration | None = None
    restart: Literal["permanent", "transient", "temporary"] | None = None
    success_exit_status: Codes | None = None
    clean_signals: Signals | None = None
    prevent_restart_on: Endings | None = None
    never_again: Codes | None = None
    backoff: BackoffTable | None = None
    attempts: Whole | None = None
    stable_after: Duration | None = None
    jitter: Duration | None = None
    significant: Flag | None = None
    after: Names | None = None
    requires: Names | None = None
    wants: Names | None = None
    part_of: Names | None = None
    conflicts: Names | None = None
    heartbeat: HeartbeatTable | None = None
    health: list[HealthTable] | None = None
    pre_start: list[HookTable] | None = None
    post_start: list[HookTable] | None = None
    pre_stop: list[HookTable] | None = None
    post_stop: list[HookTable] | None = None
    reload: HookTable | SignalName | None = None
    pid_file: Text | None = None
    remain_after_exit: Flag | None = None
    notify_access: Literal["none", "main", "exec", "all"] | None = None
    fd_store: Whole | None = None
    sockets: list[SocketTable] | None = None
    lazy: Flag | None = None
    accept: Flag | None = None
    max_connections: Whole | None = None
    grace: Duration | None = None
    escalation: list[StepTable] | None = None
    output: OutputTable | None = None
    limits: LimitsTable | None = None
    user: Account | None = None
    group: Account | None = None
    extra_groups: Accounts | None = None
    umask: Mode | None = None
    no_new_privs: Flag | None = None
    capabilities: Capabilities | None = None


@frozen(kw_only=True)
class SupervisorTable:
    """A supervisor below another one.

    :param strategy: which of its services restart with one that does.
    :param max_restarts: of all its services, within that time; 3 by default.
    :param within: the time for max_restarts, 5 s by default.
    :param auto_shutdown: stop all when significant services have ended.
    :param groups: names by which all below it are meant, as @name.
    :param service: its services, by name.
    :param supervisor: supervisors below it, by name.
    """

    strategy: Strategy | None = None
    max_restarts: Count | None = None
    within: Duration | None = None
    auto_shutdown: AutoShutdown | None = None
    groups: Names | None = None
    service: Tables | None = field(default=None, metadata={"of": ServiceTable})
    supervisor: Tables | None = field(default=None, metadata={"of": "SupervisorTable"})


@frozen(kw_only=True)
class FileTable:
    """The whole file.

    :param daemon: how ``agentsup up`` runs, and the supervisor at the root.
    :param logs: what is kept of what services print.
    :param service: the services at the root, by name.
    :param supervisor: supervisors below the root, by name.
    :param schedule: reserved.
    """

    daemon: Tables | None = field(default=None, metadata={"is": DaemonTable})
    logs: Tables | None = field(default=None, metadata={"is": LogsTable})
    service: Tables | None = field(default=None, metadata={"of": ServiceTable})
    supervisor: Tables | None = field(default=None, metadata={"of": SupervisorTable})
    schedule: Tables | None = None
