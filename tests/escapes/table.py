"""Play the programs and print who survives: ``python tests/escapes/table.py [PROGRAM …]``.

With ``--save FILE`` the results go to a file too, and it is up to its reader to judge them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from cells import ENDS, LEVELS, PROGRAMS, Cell
from expected import EXPECTED, expectation
from results import Results, play

WIDTH = max(map(len, PROGRAMS)) + 1


def row(name: str, cells: list[str], last: str) -> str:
    return f"{name:{WIDTH}}" + "".join(f"{cell:>11}" for cell in cells) + f"{last:>11}"


def shown(results: Results, cell: Cell) -> str:
    left = results.survivors(cell)
    if not left:
        return "0"
    entry = expectation(cell, results.user)
    return f"{len(left)} [{EXPECTED.index(entry) + 1}]" if entry else f"{len(left)} (!)"


def print_level(results: Results, level: str) -> None:
    print(row("survivors", list(ENDS), "(killpg)"))
    cells = {name: [Cell(level, name, end) for end in ENDS] for name in results.programs}
    for name in results.programs:
        baseline = f"{results.baseline(name)} of {len(ENDS)}"
        print(row(name, [shown(results, cell) for cell in cells[name]], baseline))
    leaky = [cell for row in cells.values() for cell in row if results.survivors(cell)]
    counts = [str(sum(cell.end == end for cell in leaky)) for end in ENDS]
    baseline = sum(map(results.baseline, results.programs))
    print(row("cells that leak", counts, f"{baseline} of {len(cells) * len(ENDS)}"))
    for number, entry in enumerate(EXPECTED, 1):
        if any(expectation(cell, results.user) is entry for cell in leaky):
            print(f"[{number}] {entry.reason}")
    for cell in results.undeclared(level):
        print(f"(!) {cell.program}, {cell.end}: {', '.join(results.survivors(cell))}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("programs", metavar="PROGRAM", nargs="*", help="all by default")
    parser.add_argument("--save", metavar="FILE", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    results = play(options.programs or list(PROGRAMS))
    print(f"As {results.user}, in {time.monotonic() - began:.0f} s")
    for level in LEVELS:
        if level in results.missing:
            print(f"\n{level}: n/a\n{results.missing[level]}")
        else:
            print(f"\n{level}")
            print_level(results, level)
    if options.save:
        results.save(options.save)
        return 0
    return any(list(results.undeclared(level)) for level in results.held)


if __name__ == "__main__":
    sys.exit(main())
