"""Write the page of results: ``python tests/escapes/page.py PAGE RESULTS …``.

RESULTS are files of ``table.py --save``. It fails if anything has survived that may not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from cells import ENDS, HERE, LEVELS, PROGRAMS, Cell, description
from expected import EXPECTED, expectation
from results import Results

INTRODUCTION = (HERE / "introduction.md").read_text()


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    heads = list(heads)
    for row in (heads, ["---"] * len(heads), *rows):
        yield f"| {' | '.join(row)} |\n"
    yield "\n"


def level_section(level: str, runs: list[Results]) -> Iterator[str]:
    yield f"## {level}\n\n"
    for results in runs:
        yield f"### {level} as {results.user}\n\n"
        if level in results.missing:
            yield f"n/a where this was run: {results.missing[level]}\n\n"
        else:
            yield from table(["survivors", *ENDS, "killpg"], rows(level, results))
            yield from notes(level, results)


def rows(level: str, results: Results) -> Iterator[list[str]]:
    for name in results.programs:
        cells = [shown(results, Cell(level, name, end)) for end in ENDS]
        yield [f"`{name}`", *cells, f"{results.baseline(name)} of {len(ENDS)}"]


def shown(results: Results, cell: Cell) -> str:
    count = len(results.survivors(cell))
    entry = expectation(cell, results.user)
    number = f"**{count}**" if count else "0"
    if entry:
        return f"{number} ({EXPECTED.index(entry) + 1})"
    return f"{number} (!)" if count else number


def notes(level: str, results: Results) -> Iterator[str]:
    for number, entry in enumerate(EXPECTED, 1):
        if level in entry.levels and results.user in entry.users:
            yield f"({number}) `{entry.program}`: {entry.reason}\n\n"
    if any(results.undeclared(level)):
        yield "(!) This must not be.\n\n"


def page(runs: list[Results]) -> str:
    programs = ([f"`{name}`", description(name)] for name in PROGRAMS)
    parts = [INTRODUCTION, "\n", *table(["program", "what it does"], programs)]
    for level in LEVELS:
        parts += level_section(level, runs)
    return "".join(parts).rstrip("\n") + "\n"


def main(to: Path, *files: Path) -> int:
    runs = [Results.load(file) for file in files]
    to.write_text(page(runs))
    undeclared = [
        (results.user, cell)
        for results in runs
        for level in results.held
        for cell in results.undeclared(level)
    ]
    for user, cell in undeclared:
        print(f"as {user}: {cell.level} does not hold {cell.program} at the end {cell.end}")
    return 1 if undeclared else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
