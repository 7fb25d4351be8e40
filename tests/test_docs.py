"""Every example in README.md and docs/ runs, and prints what the page says that it prints.

=========  ===================================================================================
block      what is done with it
=========  ===================================================================================
python     run as a program of its own, in an empty directory; with ``anyio.run`` in it, once on
           each event loop; with tests in it, by pytest
output     what the ``python`` block above it prints
console    its ``$`` lines are given to one shell, and have to print what stands below them
(others)   shown only; their names are in ``SHOWN``
=========  ===================================================================================

Numbers with a decimal point are times, and are not compared.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from attrs import fields, frozen
from sybil import Document
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

import agentsup
import agentsup.checkpoint
from agentsup._calls.spec import CallOptions

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts),
]
SHOWN = {"sh", "text", "toml", "{toctree}", "{eval-rst}", "{note}"}
LOOPS = {"asyncio": ("asyncio", {}), "trio": ("trio", {})}
SHELL_PATIENCE = 300.0  # seconds


@frozen
class Block:
    page: Path
    line: int  # of its first line of source
    language: str
    source: str
    #: What the block below it says, if that is one of ``output``.
    output: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def find_blocks(page: Path) -> list[Block]:
    document = Document(page.read_text(), str(page))
    lexer = FencedCodeBlockLexer(r".+", mapping={"language": "language", "source": "source"})
    regions = sorted(lexer(document), key=lambda region: region.start)
    found = []
    for region, below in itertools.zip_longest(regions, regions[1:]):
        source = region.lexemes["source"]
        line = document.text.count("\n", 0, region.start + source.offset) + 1
        is_output = below is not None and below.lexemes["language"] == "output"
        output = below.lexemes["source"] if is_output else None
        found.append(Block(page, line, region.lexemes["language"], source, output))
    return found


BLOCKS = [block for page in PAGES for block in find_blocks(page)]


def python_examples() -> Iterator[object]:
    for block in BLOCKS:
        if block.language == "python":
            names = LOOPS if "anyio.run(" in block.source else [None]
            for name in names:
                yield pytest.param(block, name, id=f"{block.place}-{name}" if name else block.place)


def console_examples() -> Iterator[object]:
    for block in BLOCKS:
        if block.language == "console":
            yield pytest.param(block, id=block.place)


def without_times(text: str) -> str:
    return re.sub(r"\d+\.\d+", "#.#", text).strip()


@pytest.fixture(autouse=True)
def no_handler_stays() -> Iterator[None]:
    """What an example does to the logging ends with it."""
    log = logging.getLogger("agentsup")
    handlers, level = list(log.handlers), log.level
    yield
    log.setLevel(level)
    for handler in set(log.handlers) - set(handlers):
        log.removeHandler(handler)
        handler.close()


@pytest.mark.parametrize(("block", "loop"), list(python_examples()))
def test_python(
    block: Block,
    loop: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if loop:
        run_with_anyio = anyio.run

        def run(main, *args, backend=None, backend_options=None):
            name, options = (backend, backend_options) if backend else LOOPS[loop]
            return run_with_anyio(main, *args, backend=name, backend_options=options)

        monkeypatch.setattr(anyio, "run", run)
    if "\ndef test_" in block.source or "import pytest" in block.source:
        return run_pytest(block.source, tmp_path)
    # As many lines down as on its page, for tracebacks.
    code = compile("\n" * (block.line - 1) + block.source, block.page, "exec", dont_inherit=True)
    exec(code, {"__name__": "__main__"})
    printed, complaints = capsys.readouterr()
    if block.output is not None:
        assert without_times(printed) == without_times(block.output)
    assert not complaints


def run_pytest(source: str, folder: Path) -> None:
    (folder / "test_example.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "test_example.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", list(console_examples()))
def test_console(block: Block, tmp_path: Path) -> None:
    commands, expected = split_console(block.source)
    programs = tmp_path / "bin"
    programs.mkdir()
    command = programs / "agentsup"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m agentsup "$@"\n')
    command.chmod(0o755)
    place = tmp_path / "place"
    place.mkdir()
    mark = "-- end of a command --"
    # The status goes on to the next command, which may ask for it.
    script = "".join(f"{line}\n_s=$?; echo '{mark}'; (exit $_s)\n" for line in commands)
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=place,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SHELL_PATIENCE,
    )
    printed = done.stdout.split(mark)
    assert len(printed) == len(commands) + 1, done.stdout
    for line, got, wanted in zip(commands, printed, expected, strict=False):
        assert (line, without_times(got)) == (line, without_times(wanted))


def split_console(source: str) -> tuple[list[str], list[str]]:
    """The commands of a block, and what is below each of them."""
    commands: list[str] = []
    outputs: list[str] = []
    for line in source.splitlines():
        if line.startswith("$ "):
            commands.append(line[2:])
            outputs.append("")
        elif line.startswith("> "):
            commands[-1] += f"\n{line[2:]}"
        else:
            outputs[-1] += f"{line}\n"
    return commands, outputs


def test_no_block_slips_by() -> None:
    languages = {block.language: block.place for block in BLOCKS}
    known = {"python", "console", "output", *SHOWN}
    assert not {language: place for language, place in languages.items() if language not in known}
    above = dict(zip(BLOCKS[1:], BLOCKS, strict=False))
    assert all(above[block].language == "python" for block in BLOCKS if block.language == "output")


def test_a_broken_example_fails(tmp_path: Path, monkeypatch, capsys) -> None:
    page = ROOT / "docs" / "broken.md"
    for source in ("raise SystemExit(1)\n", "1 / 0\n", "print('not that')\n"):
        block = Block(page, 1, "python", source, "this\n")
        with pytest.raises((SystemExit, ZeroDivisionError, AssertionError)):
            test_python(block, None, tmp_path, monkeypatch, capsys)
    block = Block(page, 1, "python", "import pytest\n\ndef test():\n    assert False\n", None)
    with pytest.raises(AssertionError):
        test_python(block, None, tmp_path, monkeypatch, capsys)
    with pytest.raises(AssertionError):
        test_console(Block(page, 1, "console", "$ echo this\nthat\n", None), tmp_path)


def test_internal_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_the_reference_has_every_option() -> None:
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text()
    described = set(re.findall(r"^\| `(--[a-z-]+)", page, re.MULTILINE))
    command = pytest.importorskip("agentsup.cli.run").command
    options = {name for param in command.params for name in param.opts if name.startswith("--")}
    assert described == options | {"--help"}


@pytest.mark.parametrize(
    "module", [agentsup, agentsup.checkpoint], ids=lambda module: module.__name__
)
def test_the_reference_has_every_name(module) -> None:
    described: set[str] = set()
    for path in (ROOT / "docs" / "reference").glob("*.md"):
        _, *parts = re.split(r"^\.\. (?:current)?module:: ", path.read_text(), flags=re.MULTILINE)
        for part in parts:
            if part.partition("\n")[0] == module.__name__:
                described.update(re.findall(r"^\.\. auto\w+:: (\w+)", part, re.MULTILINE))
    assert described == set(module.__all__)


def test_the_reference_has_every_argument() -> None:
    page = (ROOT / "docs" / "reference" / "calls.md").read_text()
    described = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert described == {"check", *CallOptions.__annotations__}


def test_the_reference_has_every_field_of_a_service() -> None:
    page = (ROOT / "docs" / "reference" / "services.md").read_text()
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", page, re.MULTILINE)
    described = {name for row in rows for name in re.findall(r"\w+", row)}
    assert described == {field.name for field in fields(agentsup.Service) if field.init}
