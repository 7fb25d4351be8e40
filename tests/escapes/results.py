"""Who has survived, of one user's run; as a file, for the page has two users' runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cells import BASELINE, ENDS, LEVELS, USER, Cell
from expected import expectation
from stage import missing, playing, theatre


@dataclass
class Results:
    """What one run has come to."""

    programs: list[str]
    user: str = USER
    #: Levels that are not to be had, and why.
    missing: dict[str, str] = field(default_factory=dict)
    #: By level, program and end.
    left: dict[str, dict[str, dict[str, list[str]]]] = field(default_factory=dict)

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, file: Path) -> Results:
        return cls(**json.loads(file.read_text()))

    @property
    def held(self) -> list[str]:
        """The levels that there are results of."""
        return [level for level in LEVELS if level in self.left]

    def survivors(self, cell: Cell) -> list[str]:
        return self.left[cell.level][cell.program][cell.end]

    def declared(self, cell: Cell) -> bool:
        return expectation(cell, self.user) is not None

    def undeclared(self, level: str) -> Iterator[Cell]:
        for name in self.programs:
            for end in ENDS:
                cell = Cell(level, name, end)
                if self.survivors(cell) and not self.declared(cell):
                    yield cell

    def baseline(self, program: str) -> int:
        """How many of its cells leak if nothing but killpg(3) is there to hold it."""
        return sum(bool(left) for left in self.left[BASELINE][program].values())


def play(programs: list[str]) -> Results:
    results = Results(programs)
    for level in LEVELS:
        if why := missing(level):
            results.missing[level] = why
    levels = [level for level in (BASELINE, *LEVELS) if level not in results.missing]
    cells = [Cell(level, name, end) for level in levels for name in programs for end in ENDS]
    with theatre() as stage, playing(stage, cells) as played:
        for number, cell in enumerate(cells, 1):
            ends = results.left.setdefault(cell.level, {}).setdefault(cell.program, {})
            try:
                ends[cell.end] = played[cell].result()
            except RuntimeError as error:
                ends[cell.end] = [str(error)]
            if sys.stderr.isatty():
                print(f"\r{number} of {len(cells)}", end="\r", file=sys.stderr, flush=True)
    return results
