"""Print who survives: ``python tests/escapes/table.py [PROGRAM …]``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from expected import EXPECTED, expectation
from stage import BASELINE, ENDS, LEVELS, PROGRAMS, USER, Cell, missing, perform_all, theatre

WIDTH = max(map(len, PROGRAMS)) + 1
Outcomes = dict[Cell, "list[str] | None"]


def play(stage: Path, level: str, programs: list[str]) -> Outcomes:
    return dict(perform_all(stage, [Cell(level, name, end) for name in programs for end in ENDS]))


def row(name: str, cells: list[str], last: str) -> str:
    return f"{name:{WIDTH}}" + "".join(f"{cell:>11}" for cell in cells) + f"{last:>11}"


def shown(cell: Cell, left: list[str] | None) -> str:
    if not left:
        return "n/a" if left is None else "0"
    entry = expectation(cell)
    return f"{len(left)} [{EXPECTED.index(entry) + 1}]" if entry else f"{len(left)} (!)"


def table(level: str, programs: list[str], outcomes: Outcomes, baseline: Outcomes) -> int:
    """Print the table of one level; return how many cells leak that may not."""
    print(row("survivors", list(ENDS), "(killpg)"))
    unexpected, leaks = 0, 0
    for name in programs:
        cells = [Cell(level, name, end) for end in ENDS]
        unexpected += sum(bool(outcomes[cell]) and not expectation(cell) for cell in cells)
        leaking = sum(bool(baseline[Cell(BASELINE, name, end)]) for end in ENDS)
        leaks += leaking
        print(row(name, [shown(cell, outcomes[cell]) for cell in cells], f"{leaking} of 6"))
    leaky = [cell for cell, left in outcomes.items() if left]
    counts = [str(sum(cell.end == end for cell in leaky)) for end in ENDS]
    print(row("cells that leak", counts, f"{leaks} of {len(outcomes)}"))
    for number, entry in enumerate(EXPECTED, 1):
        if any(expectation(cell) is entry for cell in leaky):
            print(f"[{number}] {entry.reason}")
    if unexpected:
        print("(!) This should not be.")
        for cell in leaky:
            if not expectation(cell):
                print(f"    {cell.program}, {cell.end}: {', '.join(outcomes[cell] or ())}")
    return unexpected


def main(names: list[str]) -> int:
    programs = names or list(PROGRAMS)
    unexpected = 0
    with theatre() as stage:
        baseline = play(stage, BASELINE, programs)
        for level in LEVELS:
            print(f"\n{level}, as {USER}", end="", flush=True)
            if why := missing(level):
                print(f": n/a\n{why}")
                continue
            began = time.monotonic()
            outcomes = play(stage, level, programs)
            print(f": {len(outcomes)} cells in {time.monotonic() - began:.0f} s")
            unexpected += table(level, programs, outcomes, baseline)
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
