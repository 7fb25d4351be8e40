"""All that ``run`` and ``open`` take, checked as a whole before anything is started."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict

from attrs import define

from .._errors import SpawnError
from .._levels import AUTO
from .._levels import level as level_of
from .._rules.call import Terms
from .._rules.secrets import SHORTEST, hidden_parts
from .._telemetry import refused
from .._values.command import Command, encode_argv
from .._values.escalation import Escalation, Step
from .._values.limits import Limits
from .._values.number import seconds
from .._values.output import OutputPolicy
from .._values.result import Containment
from .limits import level_for, limit_steps
from .lookup import check_directory, confine, find_program
from .privileges import privilege_steps

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Sequence

    from .._levels.hold import Hold
    from .._values.command import CommandLike
    from .._values.heartbeat import Heartbeat
    from .call import Call
    from .reader import Sink


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class _Pipe:
    def __repr__(self) -> str:
        return "agentsup.PIPE"


#: ``stdin=PIPE`` for ``open``: a pipe that the caller writes to.
PIPE = _Pipe()

Environment: TypeAlias = "Mapping[str, str] | Mapping[bytes, bytes]"
BaseEnvironment: TypeAlias = "Environment | Literal['minimal'] | None"
#: What ``env="minimal"`` leaves of this process's environment, and all locale categories.
MINIMAL = frozenset(
    {
        b"HOME",
        b"LANG",
        b"LANGUAGE",
        b"LOGNAME",
        b"PATH",
        b"SHELL",
        b"TERM",
        b"TMPDIR",
        b"TZ",
        b"USER",
    }
)
Stdin: TypeAlias = "bytes | bytearray | int | HasFileno | AsyncIterable[bytes] | _Pipe | None"
MakeHold: TypeAlias = "Callable[[Call], Hold]"
MakeLog: TypeAlias = "Callable[[Call], Callable[[str], Sink]]"


class CallOptions(TypedDict, total=False):
    """The keyword arguments of ``run`` and ``open``; :meth:`Supervisor.run` describes them."""

    timeout: float | None
    idle_timeout: float | None
    heartbeat: Heartbeat | None
    grace: float
    escalation: Escalation | None
    stdin: Stdin
    cwd: str | bytes | os.PathLike[str] | None
    env: BaseEnvironment
    extend_env: Environment | None
    secrets: Mapping[str, str] | None
    limits: Limits | None
    output: OutputPolicy | None
    user: str | int | None
    group: str | int | None
    extra_groups: Sequence[str | int] | None
    umask: int | None
    no_new_privs: bool
    capabilities: Sequence[str] | None
    leftovers: Literal["kill", "adopt"]
    name: str | None


@define
class Spec:
    """A call that can be started: encoded, looked up and free of contradictions."""

    argv: list[bytes]
    program: bytes
    cwd: bytes
    env: bytes
    options: bytes
    stdin: Any
    output: OutputPolicy
    terms: Terms
    name: str
    containment: Containment = AUTO
    #: What beats: its bound is in the terms.
    heartbeat: Heartbeat | None = None
    #: Descriptors, and the numbers that the new process has them as.
    passed: tuple[tuple[int, int], ...] = ()
    #: What holds its tree, in the place of what its level says; it need not be a real program then.
    make_hold: MakeHold | None = None
    #: What is told of all of its output, by the name of the stream.
    make_log: MakeLog | None = None
    #: Are masked in what it has printed.
    secrets: tuple[bytes, ...] = ()
    #: Its stderr is read: nothing of that is lost, and it waits instead.
    stderr_waits: bool = False


_OPTIONS = frozenset(CallOptions.__annotations__)
_DEFAULT_OUTPUT = OutputPolicy()
_DEFAULT_ESCALATION = Escalation(Step(signal.SIGTERM, 5.0))


def make_spec(
    command: CommandLike,
    options: CallOptions,
    level: Containment = AUTO,
    make_hold: MakeHold | None = None,
    workspace: bytes | None = None,
) -> Spec:
    """Check everything; raise TypeError, ValueError or SpawnError, naming the argument."""
    if not options.keys() <= _OPTIONS:
        raise TypeError(f"unknown argument {min(options.keys() - _OPTIONS)!r}")
    return _make_spec(command, level, make_hold, workspace, **options)


def call_spec(
    command: CommandLike,
    options: CallOptions,
    level: Containment = AUTO,
    make_hold: MakeHold | None = None,
    workspace: bytes | None = None,
) -> Spec:
    """The same, of a call: whoever observes calls is told of one that is refused."""
    try:
        return make_spec(command, options, level, make_hold, workspace)
    except SpawnError as error:
        argv = encode_argv(command)
        refused(argv, options.get("name") or _base_name(argv), error)
        raise


def _make_spec(
    command: CommandLike,
    level: Containment,
    make_hold: MakeHold | None,
    workspace: bytes | None,
    timeout: float | None = None,
    idle_timeout: float | None = None,
    heartbeat: Heartbeat | None = None,
    grace: float = 5.0,
    escalation: Escalation | None = None,
    stdin: Stdin = None,
    cwd: str | bytes | os.PathLike[str] | None = None,
    env: BaseEnvironment = None,
    extend_env: Environment | None = None,
    secrets: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    output: OutputPolicy | None = None,
    user: str | int | None = None,
    group: str | int | None = None,
    extra_groups: Sequence[str | int] | None = None,
    umask: int | None = None,
    no_new_privs: bool = False,
    capabilities: Sequence[str] | None = None,
    leftovers: Literal["kill", "adopt"] = "kill",
    name: str | None = None,
) -> Spec:
    argv = encode_argv(command)
    directory = workspace or b"."
    if cwd is not None:
        directory = _encode_path("cwd", cwd)
        if workspace is not None:
            directory = confine(directory, workspace)
        check_directory("cwd", directory)
    path, block = _environment(env, extend_env)
    hidden: tuple[bytes, ...] = ()
    if secrets is not None:
        variables = _encode_environment("secrets", secrets)
        block = with_variables(block, variables)
        hidden = _hidden(variables, argv)
    if leftovers not in ("kill", "adopt"):
        raise ValueError(f"leftovers must be 'kill' or 'adopt', not {leftovers!r}")
    policy = _instance("output", output, OutputPolicy) or _DEFAULT_OUTPUT
    if policy.spill_dir is not None:
        spill_dir = _encode_path("output.spill_dir", policy.spill_dir)
        check_directory("output.spill_dir", spill_dir, os.X_OK | os.W_OK)
    if name is not None and not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    _check_stdin(stdin)
    terms = Terms(
        escalation=to_escalation(escalation, grace, signal.SIGTERM),
        timeout=seconds("timeout", timeout, zero=False),
        idle_timeout=seconds("idle_timeout", idle_timeout, zero=False),
        heartbeat=None if heartbeat is None else _check_heartbeat(heartbeat, directory),
        output_limit=policy.limit,
        adopt=leftovers == "adopt",
    )
    allowed: Limits | None = _instance("limits", limits, Limits)
    if allowed:
        level = level_for(allowed, level)
    # In the order in which it can be done.
    preparations = [] if level is AUTO else [*level_of(level).options()]
    if allowed:
        preparations += limit_steps(allowed, user, level)
    preparations += privilege_steps(user, group, extra_groups, umask, no_new_privs, capabilities)
    program = argv[0] if make_hold else find_program(argv[0], path, directory)
    for step in terms.escalation.steps:
        if isinstance(step.action, Command) and not make_hold:
            find_program(encode_argv(step.action)[0], path, directory, "escalation")
    return Spec(
        argv=argv,
        program=program,
        cwd=directory,
        env=block,
        options="\0".join(preparations).encode(),
        stdin=stdin,
        output=policy,
        terms=terms,
        name=_base_name(argv) if name is None else name,
        containment=level,
        heartbeat=heartbeat,
        make_hold=make_hold,
        secrets=hidden,
    )


def find_workspace(path: str | bytes | os.PathLike[str] | None) -> bytes | None:
    """The directory itself, without links."""
    if path is None:
        return None
    found = os.path.realpath(_encode_path("workspace", path))
    check_directory("workspace", found)
    return found


def with_variables(block: bytes, variables: Mapping[bytes, bytes | None]) -> bytes:
    """An environment as :class:`Spec` has it, with these variables in the place of its own.

    None takes one away."""
    pairs = block.split(b"\0") if block else []
    kept = [pair for pair in pairs if pair.split(b"=", 1)[0] not in variables]
    if len(kept) == len(pairs) and not any(variables.values()):
        return block  # which several calls share
    given = [name + b"=" + value for name, value in variables.items() if value is not None]
    return b"\0".join(kept + given)


def side_spec(
    command: Command, of: Spec, bound: float | None, variables: Mapping[bytes, bytes | None]
) -> Spec:
    """A command that is run for the sake of another one, in its place, and told more."""
    argv = encode_argv(command)
    path = next((pair[5:] for pair in of.env.split(b"\0") if pair.startswith(b"PATH=")), None)
    return Spec(
        argv=argv,
        program=argv[0] if of.make_hold else find_program(argv[0], path, of.cwd),
        cwd=of.cwd,
        env=with_variables(of.env, variables),
        options=_without_level(of.options),
        stdin=None,
        output=OutputPolicy(head=0, tail=4096),
        terms=Terms(escalation=Escalation(), timeout=bound),
        name=_base_name(argv),
        containment=min(of.containment, Containment.SUBREAPER),
        make_hold=of.make_hold,
        secrets=of.secrets,
    )


def _without_level(options: bytes) -> bytes:
    """From within a namespace of its own, a command could not reach what it is to stop."""
    levels = b"namespace=", b"cgroup=", b"leaf=", b"own_pid="
    return b"\0".join([one for one in options.split(b"\0") if not one.startswith(levels)])


def _base_name(argv: list[bytes]) -> str:
    return os.path.basename(argv[0]).decode("utf-8", "backslashreplace")


def _encode_path(name: str, path: str | bytes | os.PathLike[str]) -> bytes:
    try:
        encoded = os.fsencode(path)
    except TypeError:
        raise TypeError(
            f"{name} must be a str, bytes or a path object, not {type(path).__name__}"
        ) from None
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} cannot be encoded: {error}") from None
    if b"\0" in encoded:
        raise ValueError(f"{name} holds a NUL byte: {path!r}")
    return encoded


def _instance(name: str, value: Any, kind: type[Any]) -> Any:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be an agentsup.{kind.__name__}, not {type(value).__name__}")
    return value


def to_escalation(
    escalation: Escalation | None, grace: float, *signals: signal.Signals
) -> Escalation:
    """The steps that were asked for, or else these signals, so many seconds apart."""
    wait = seconds("grace", grace)
    if wait is None:
        raise ValueError(f"grace must be finite: SIGKILL comes after it; not {grace!r}")
    if _instance("escalation", escalation, Escalation) is not None:
        return escalation  # type: ignore[return-value]  # just checked
    if wait == 5.0 and signals == (signal.SIGTERM,):
        return _DEFAULT_ESCALATION
    return Escalation(*[Step(number, wait) for number in signals])


def _environment(
    env: BaseEnvironment, extend_env: Environment | None
) -> tuple[bytes | None, bytes]:
    """The child's PATH, and all of its environment as the keeper takes it."""
    if env is None and extend_env is None:
        return _own_environment()
    if env is None:
        variables = dict(os.environb)
    elif env == "minimal":
        variables = {name: os.environb[name] for name in filter(_is_minimal, os.environb)}
    else:
        variables = _encode_environment("env", env)
    if extend_env is not None:
        variables.update(_encode_environment("extend_env", extend_env))
    return variables.get(b"PATH"), _block(variables)


_seen: tuple[dict[bytes, bytes], bytes | None, bytes] = ({}, None, b"")


def _own_environment() -> tuple[bytes | None, bytes]:
    """This process's own, encoded again only after it has changed."""
    global _seen
    # The mapping below os.environb: its own items() encodes and checks each name again.
    own: Mapping[bytes, bytes] = getattr(os.environb, "_data", os.environb)
    variables, path, block = _seen
    if own != variables:
        variables = dict(own)
        variables.pop(b"", None)  # execve(2) takes it, posix_spawn(3) by way of Python does not
        path, block = variables.get(b"PATH"), _block(variables)
        _seen = variables, path, block
    return path, block


def _is_minimal(name: bytes) -> bool:
    return name in MINIMAL or name.startswith(b"LC_")


def _block(variables: Mapping[bytes, bytes]) -> bytes:
    return b"\0".join([name + b"=" + value for name, value in variables.items()])


def _encode_environment(name: str, env: Environment) -> dict[bytes, bytes]:
    if not isinstance(env, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
        hint = " or 'minimal'" if name == "env" else ""
        raise TypeError(f"{name} must be a mapping{hint}, not {type(env).__name__}")
    encoded: dict[bytes, bytes] = {}
    for key, value in env.items():
        try:
            pair = os.fsencode(key), os.fsencode(value)
        except TypeError:
            raise TypeError(f"{name}[{key!r}] must be a str, not {value!r}") from None
        except UnicodeEncodeError as error:
            raise ValueError(f"{name}[{key!r}] cannot be encoded: {error}") from None
        if not pair[0] or b"=" in pair[0]:
            raise ValueError(f"{name}: {key!r} cannot be the name of a variable")
        if b"\0" in pair[0] + pair[1]:
            raise ValueError(f"{name}[{key!r}] holds a NUL byte")
        encoded[pair[0]] = pair[1]
    return encoded


def _hidden(secrets: Mapping[bytes, bytes], argv: list[bytes]) -> tuple[bytes, ...]:
    """What of them is to be masked."""
    hidden: list[bytes] = []
    for name, value in secrets.items():
        shown = os.fsdecode(name)
        parts = hidden_parts(value)
        if not parts:
            raise ValueError(f"secrets[{shown!r}] is shorter than {SHORTEST} bytes: no secret")
        for index, word in enumerate(argv):
            if any(part in word for part in parts):
                raise ValueError(
                    f"command[{index}] holds the secret {shown!r}, for everybody on this machine "
                    "to see: have the program take it from that variable"
                )
        hidden += parts
    return tuple(hidden)


def _check_heartbeat(heartbeat: Heartbeat, cwd: bytes) -> float:
    """Its bound."""
    from .._values.heartbeat import FileHeartbeat, Heartbeat

    if not isinstance(heartbeat, Heartbeat):
        kinds = "NotifyHeartbeat, FileHeartbeat, OutputHeartbeat or CallableHeartbeat"
        raise TypeError(f"heartbeat must be an agentsup.{kinds}, not {type(heartbeat).__name__}")
    if isinstance(heartbeat, FileHeartbeat):
        path = _encode_path("heartbeat.path", heartbeat.path)
        if not os.path.basename(path):
            raise ValueError(f"heartbeat.path must name a file, not {heartbeat.path!r}")
        check_directory("heartbeat.path", os.path.dirname(os.path.join(cwd, path)))
    return heartbeat.bound


def _check_stdin(stdin: Stdin) -> None:
    if stdin is None or isinstance(stdin, (bytes, bytearray, _Pipe)) or hasattr(stdin, "__aiter__"):
        return
    if isinstance(stdin, (str, bool)):
        hint = ": encode it" if isinstance(stdin, str) else ""
        raise TypeError(f"stdin must be bytes, not {type(stdin).__name__}{hint}")
    try:
        candidate: Any = stdin
        os.fstat(candidate if isinstance(candidate, int) else candidate.fileno())
    except (AttributeError, TypeError, io.UnsupportedOperation):
        raise TypeError(
            "stdin must be bytes, an open file, a descriptor, an async iterable of bytes, "
            f"agentsup.PIPE (for open) or None, not {type(stdin).__name__}"
        ) from None
    except (OSError, ValueError, OverflowError) as error:
        raise ValueError(f"stdin is not an open file: {error}") from None
