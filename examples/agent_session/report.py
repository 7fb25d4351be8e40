"""What came of a session, in numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from attrs import frozen
from processes import Process
from replay import Replayed
from rich.text import Text
from table import printable, shown, steps

import agentsup


@frozen
class Facts:
    """What the host has seen when its supervisor is left."""

    replayed: list[Replayed]
    skipped: int
    adopted: int
    #: Processes of the demo that are still there, its keeper apart.
    left: list[Process]
    seconds: float
    #: Bytes of memory, the most so far: before the first call, and after the last one.
    peak_before: int
    peak_after: int

    @property
    def results(self) -> list[agentsup.Result]:
        found = (replayed.result for replayed in self.replayed)
        return [result for result in found if isinstance(result, agentsup.Result)]

    @property
    def differing(self) -> list[Replayed]:
        return [replayed for replayed in self.replayed if replayed.differs]

    @property
    def good(self) -> bool:
        return not self.left and not self.differing


def peak_rss() -> int:
    """The most memory that this process has had, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def report(facts: Facts) -> list[Text]:
    """Lines, each with its title or indented below it."""
    rows = {
        "outcomes": _outcomes(facts),
        "as recorded": _as_recorded(facts),
        "escalations": _escalations(facts),
        "left over": _leftovers(facts),
        "zombies": _count([process for process in facts.left if process.zombie]),
        "processes left": _count(facts.left),
        "output": _output(facts),
        "host's memory": _memory(facts),
        "time": Text(f"{facts.seconds:.1f} s"),
    }
    return [
        Text.assemble((f"{'' if row else title:<16}", "bold"), line)
        for title, value in rows.items()
        for row, line in enumerate(value.split("\n", allow_blank=True))
    ]


def _outcomes(facts: Facts) -> Text:
    ok = sum(result.ok for result in facts.results)
    counts = Counter(replayed.outcome for replayed in facts.replayed)
    told = [f"{count} {name}" for name, count in counts.most_common()]
    total = f"{len(facts.replayed)} calls, {ok} of them ok, {facts.skipped} skipped"
    return Text("\n".join([total, ", ".join(told)] if told else [total]))


def _as_recorded(facts: Facts) -> Text:
    known = sum(replayed.call.ending is not None for replayed in facts.replayed)
    if not known:
        return Text("the transcript does not say how its calls ended", "dim")
    same = known - len(facts.differing)
    return Text(f"{same} of {known}", "green" if same == known else "bold red")


def _escalations(facts: Facts) -> Text:
    lines = [
        f"#{replayed.number} {steps(replayed.result)}: {shown(replayed.call, 60)}"
        for replayed in facts.replayed
        if isinstance(replayed.result, agentsup.Result) and replayed.result.escalation
    ]
    return Text("\n".join(lines) or "none")


def _leftovers(facts: Facts) -> Text:
    listed = [leftover for replayed in facts.replayed for leftover in replayed.killed[1]]
    spared = [leftover for leftover in listed if not leftover.killed]
    killed = sum(replayed.killed[0] for replayed in facts.replayed) - len(spared)
    found = Counter(leftover.found.name.lower() for leftover in listed)
    # A result lists its first 64 only.
    how = ", ".join(f"{count} {name}" for name, count in found.items())
    lines = [f"{killed} killed" + (f"; of the {len(listed)} listed: {how}" if listed else "")]
    if facts.adopted:
        lines.append(f"{facts.adopted} adopted, ended with the supervisor")
    lines += [f"not killed: {leftover.pid} {' '.join(leftover.argv)}" for leftover in spared]
    return Text("\n".join(lines))


def _count(processes: list[Process]) -> Text:
    if not processes:
        return Text("0", "green")
    lines = [str(len(processes)), *(printable(str(process)) for process in processes)]
    return Text("\n".join(lines), "bold red")


def _output(facts: Facts) -> Text:
    printed = sum(r.stdout.total_bytes + r.stderr.total_bytes for r in facts.results)
    kept = sum(len(o.head + o.tail) for r in facts.results for o in (r.stdout, r.stderr))
    return Text(f"{_size(printed)} printed, {_size(kept)} kept")


def _memory(facts: Facts) -> Text:
    return Text(f"{_size(facts.peak_after)} at most, {_size(facts.peak_before)} before the calls")


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
