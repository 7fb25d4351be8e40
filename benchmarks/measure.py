"""What the benchmarks share: blocks of timed calls that take turns, and a table with targets."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Block = Callable[[int], list[float]]


def timed(call: Callable[[], object], count: int) -> list[float]:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def medians(contestants: dict[str, Block], rounds: int, per_block: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, block in contestants.items():
            times[name] += block(per_block)
    return {name: statistics.median(values) for name, values in times.items()}


@dataclass
class Report:
    """Rows of the table, and the targets that were missed."""

    missed: list[str] = field(default_factory=list)

    def title(self, text: str) -> None:
        print(f"\n{text}\n{'-' * len(text)}", flush=True)

    def row(self, name: str, value: str, note: str = "") -> None:
        print(f"  {name:<34} {value:>12}   {note}", flush=True)

    def ratio(self, name: str, ours: float, theirs: float, target: float) -> None:
        ratio = ours / theirs
        met = ratio <= target
        self.row(name, f"{ratio:.2f}x", f"target <= {target:.2f}x  {'ok' if met else 'MISSED'}")
        if not met:
            self.missed.append(f"{name}: {ratio:.2f}x > {target:.2f}x")

    def no_growth(self, name: str, growth: float, allowed: float, unit: str) -> None:
        met = growth <= allowed
        note = f"allowed {allowed:g} {unit}  {'ok' if met else 'MISSED'}"
        self.row(name, f"{growth:+g} {unit}", note)
        if not met:
            self.missed.append(f"{name}: {growth:+g} {unit}")

    def end(self, *, check: bool) -> int:
        """Say what was missed; the exit status."""
        print()
        for line in self.missed:
            print(f"missed: {line}")
        return 1 if self.missed and check else 0


def parse_arguments(doc: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls")
    return parser.parse_args()
