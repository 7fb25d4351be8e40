"""What containment costs, and how fast it kills, beside its peers in one run.

    python benchmarks/containment.py [--check] [--quick]

``--check`` exits with status 1 when a target is missed.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from measure import Block, Report, medians, parse_arguments, timed

import agentsup
from agentsup import Containment, Escalation, SyncSupervisor, UnsupportedPlatform

TRUE = shutil.which("true") or "/bin/true"
LEVELS = (Containment.SUBREAPER, Containment.CGROUP, Containment.PID_NAMESPACE)
SLEEPERS = 200
CROWD = 2000

# argv[1] processes, each in a session of its own, that ignore SIGTERM; then "ready".
SLEEPERS_SOURCE = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    signal(SIGTERM, SIG_IGN);
    for (int i = atoi(argv[1]); i > 1; i--)
        if (fork() == 0) {
            setsid();
            for (;;) pause();
        }
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}
"""


def sleepers(folder: Path) -> str:
    (folder / "sleepers.c").write_text(SLEEPERS_SOURCE)
    program = str(folder / "sleepers")
    command = [shutil.which("cc") or "gcc", "-O2", "-o", program, str(folder / "sleepers.c")]
    subprocess.run(command, check=True)
    return program


def supervisors() -> Iterator[tuple[str, SyncSupervisor]]:
    for level in LEVELS:
        try:
            yield level.name, SyncSupervisor(containment=level)
        except UnsupportedPlatform as error:
            print(f"  {level.name} is left out: {error}")


# --- killing ----------------------------------------------------------------------------------


def kill_times(supervisor: SyncSupervisor, program: str, count: int) -> list[float]:
    """Seconds from the KILL to the result: by then the last one is gone and reaped."""
    times = []
    for _ in range(count):
        started = time.monotonic()
        result = supervisor.run(
            [program, str(SLEEPERS)], timeout=0.5, escalation=Escalation(), stdin=b""
        )
        ended = time.monotonic()
        assert result.leftover_count == SLEEPERS - 1, result.leftover_count
        times.append(ended - started - result.escalation[-1].at)
    return times


def kill_with_psutil(program: str, count: int) -> list[float]:
    """What one writes by hand. It finds children, not orphans; here there are none."""
    times = []
    for _ in range(count):
        with subprocess.Popen([program, str(SLEEPERS)], stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            start = time.monotonic()
            main = psutil.Process(process.pid)
            tree = [*main.children(recursive=True), main]
            for member in tree:
                member.kill()
            psutil.wait_procs(tree)
            times.append(time.monotonic() - start)
    return times


def killing(report: Report, program: str, count: int) -> None:
    report.title(f"{SLEEPERS} sleepers in sessions of their own: from KILL to the last reaped (ms)")
    by_hand = statistics.median(kill_with_psutil(program, count))
    for name, supervisor in supervisors():
        with supervisor:
            found = statistics.median(kill_times(supervisor, program, count))
        report.row(name, f"{found * 1e3:.1f}")
        report.ratio(f"{name} / 50 ms", found, 0.050, 1.0)
    report.row("psutil, by hand", f"{by_hand * 1e3:.1f}")


# --- one call ---------------------------------------------------------------------------------


def run_in(supervisor: SyncSupervisor) -> Block:
    return lambda count: timed(lambda: supervisor.run([TRUE], timeout=60), count)


def latency(report: Report, rounds: int) -> None:
    report.title(f"One captured {TRUE}, median of {rounds * 25} (ms)")
    with contextlib.ExitStack() as stack:
        contestants = {
            name: run_in(stack.enter_context(supervisor)) for name, supervisor in supervisors()
        }
        found = medians(contestants, rounds, 25)
    for name, seconds in found.items():
        report.row(name, f"{seconds * 1e3:.3f}")
    if "CGROUP" in found:
        report.ratio("CGROUP / SUBREAPER", found["CGROUP"], found["SUBREAPER"], 1.3)


def settle(main: psutil.Process) -> None:
    """Until all sleep: they have been started, but may still be on their way."""
    while any(child.status() != psutil.STATUS_SLEEPING for child in main.children()):
        time.sleep(0.1)


def crowded(report: Report, program: str, rounds: int) -> None:
    """A call that ends cleanly looks at its own processes, however many others there are."""
    report.title(f"The same with {CROWD} more processes on the machine (ms)")
    contestants: dict[str, Block] = {
        "agentsup.run_sync": lambda n: timed(lambda: agentsup.run_sync([TRUE], timeout=60), n),
        "subprocess.run": lambda n: timed(
            lambda: subprocess.run([TRUE], capture_output=True, check=False), n
        ),
    }
    alone = medians(contestants, rounds, 25)
    command = [program, str(CROWD)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as crowd:
        assert crowd.stdout
        crowd.stdout.readline()
        main = psutil.Process(crowd.pid)
        settle(main)
        among_many = medians(contestants, rounds, 25)
        for member in [*main.children(), main]:
            member.kill()
    for name in contestants:
        report.row(f"{name}, alone", f"{alone[name] * 1e3:.3f}")
        report.row(f"{name}, with the others", f"{among_many[name] * 1e3:.3f}")
    growth = {name: among_many[name] / alone[name] for name in contestants}
    ours, theirs = growth["agentsup.run_sync"], growth["subprocess.run"]
    report.ratio("growth / that of subprocess.run", ours, theirs, 1.1)


def main() -> int:
    arguments = parse_arguments(__doc__)
    rounds = 4 if arguments.quick else 40
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        program = sleepers(Path(name))
        killing(report, program, 5 if arguments.quick else 25)
        latency(report, rounds)
        crowded(report, program, rounds)
    return report.end(check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
