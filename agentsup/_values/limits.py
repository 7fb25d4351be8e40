"""What a tool may use."""

from __future__ import annotations

import math

from attrs import Attribute, field, frozen

from .number import seconds, whole

_MOST = 2**63 - 2  # of setrlimit(2) as Python has it; one more has to be left for the hard limit


def _whole(unit: str, least: int = 1, most: int = _MOST) -> int | None:
    def check(_: Limits, attribute: Attribute[int | None], value: int | None) -> None:
        whole(f"Limits.{attribute.name}", value, unit, least=least, most=most)

    return field(default=None, kw_only=True, validator=check)


def _positive(unit: str) -> float | None:
    def check(_: Limits, attribute: Attribute[float | None], value: float | None) -> None:
        name = f"Limits.{attribute.name}"
        if (seconds(name, value, zero=False, unit=unit) or 0.0) > _MOST:
            raise ValueError(f"{name} is too large: {value!r} {unit}")

    return field(default=None, kw_only=True, converter=_finite, validator=check)


def _finite(value: float | None) -> float | None:
    return None if value == math.inf else value


@frozen
class Limits:
    """What a call may use, kept by the kernel.

    Below the level CGROUP these are bounds for each process (setrlimit(2)). In a control group,
    ``memory`` and ``processes`` are bounds for the whole tree, where its controllers are there.

    :param memory: bytes of address space (``RLIMIT_AS``) for each process; an allocation beyond
        it fails. In a control group: bytes of memory of the tree (``memory.max``); beyond it the
        whole tree is killed (``Outcome.MEMORY_LIMIT``).
    :param memory_high: bytes of memory of the tree above which it is slowed down and its memory
        reclaimed (``memory.high``). Needs a control group.
    :param cpu_time: seconds of CPU time (``RLIMIT_CPU``, whole seconds, rounded up) for each
        process; SIGXCPU, and one second later SIGKILL, end one that uses more
        (``Outcome.CPU_LIMIT``).
    :param processes: processes and threads of the *user* (``RLIMIT_NPROC``). The kernel exempts
        root, so as root it needs ``user=``. In a control group: those of the tree (``pids.max``),
        also as root.
    :param open_files: descriptors for each process (``RLIMIT_NOFILE``).
    :param file_size: bytes (``RLIMIT_FSIZE``) that a file may grow to; SIGXFSZ beyond it.
    :param cpu_quota: CPUs that the tree may use, as 0.5 or 2 (``cpu.max``). Needs a control group.
    :param io_weight: 1 to 10000, its share of a busy disk (``io.weight``; 100 is everybody's).
        Needs a control group.

    A call with a limit that needs a control group gets one also where a weaker level was chosen,
    or ``UnsupportedPlatform`` says what is missing.
    """

    memory: int | None = _whole("bytes")
    memory_high: int | None = _whole("bytes")
    cpu_time: float | None = _positive("seconds")
    processes: int | None = _whole("processes")
    open_files: int | None = _whole("files", least=3)
    file_size: int | None = _whole("bytes", least=0)
    cpu_quota: float | None = _positive("CPUs")
    io_weight: int | None = _whole("shares", most=10_000)
