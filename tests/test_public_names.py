"""The public names: one list, imported only when used, on any system."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentsup

SOURCE = Path(agentsup.__file__)


def imports_for_type_checkers() -> Iterator[tuple[str, str]]:
    (block,) = [
        node
        for node in ast.parse(SOURCE.read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname is None
            yield alias.name, str(node.module)


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_lists_of_names_agree() -> None:
    assert dict(imports_for_type_checkers()) == agentsup._HOMES
    assert sorted(agentsup._HOMES) == sorted(agentsup.__all__) == sorted(dir(agentsup))
    assert len(set(agentsup.__all__)) == len(agentsup.__all__)
    assert sum(map(len, agentsup._MODULES.values())) == len(agentsup._HOMES)


@pytest.mark.parametrize("name", agentsup.__all__)
def test_every_name_is_at_its_home(name: str) -> None:
    home = importlib.import_module(f"agentsup.{agentsup._HOMES[name]}")
    assert getattr(agentsup, name) is getattr(home, name)


def test_every_error_is_public() -> None:
    from agentsup import _errors

    errors = {
        name
        for name, value in vars(_errors).items()
        if isinstance(value, type) and issubclass(value, Exception) and not name.startswith("_")
    }
    assert errors <= set(agentsup.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'agentsup' has no attribute 'runn'"):
        agentsup.runn  # noqa: B018
    with pytest.raises(ImportError, match="runn"):
        exec("from agentsup import runn")


def test_importing_it_imports_nothing_else() -> None:
    code = """
import sys
before = set(sys.modules)
import agentsup
print(sorted(name for name in set(sys.modules) - before if name.partition(".")[0] != "__future__"))
"""
    loaded = set(ast.literal_eval(python(code)))
    heavy = {"anyio", "asyncio", "attr", "attrs", "httpx", "opentelemetry", "tenacity", "trio"}
    assert not {name for name in loaded if name.partition(".")[0] in heavy | {"socket", "ssl"}}
    assert {name for name in loaded if name.startswith("agentsup")} == {
        "agentsup",
        "agentsup._lazy",
    }


def test_a_call_without_an_event_loop_imports_none() -> None:
    code = """
import sys, agentsup
agentsup.run_sync(["true"]).check()
print([name for name in ("anyio", "asyncio", "httpx", "tenacity", "trio") if name in sys.modules])
"""
    assert ast.literal_eval(python(code)) == []


ELSEWHERE = """
import asyncio, os, sys, tempfile, threading  # Python itself asks for the platform, too
import anyio, attrs

for name in ("_posixsubprocess", "fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("O_PATH", "environb", "eventfd", "memfd_create", "pidfd_open", "posix_spawn",
             "register_at_fork", "setsid", "uname"):
    delattr(os, name)
sys.platform = "win32"

import agentsup

for name in agentsup.__all__:
    getattr(agentsup, name)

def refused(call):
    try:
        call()
    except agentsup.UnsupportedPlatform as error:
        assert "win32" in str(error), error
    else:
        raise AssertionError(call)

async def enter():
    async with agentsup.Supervisor():
        pass

def enter_sync():
    with agentsup.SyncSupervisor():
        pass

refused(lambda: agentsup.run_sync(["true"]))
refused(lambda: agentsup.run(["true"]).send(None))
refused(lambda: enter().send(None))
refused(enter_sync)
assert not any(name.startswith("agentsup._linux") for name in sys.modules)
print("ok")
"""


def test_elsewhere_every_name_can_be_imported_and_a_call_says_why_it_cannot_be() -> None:
    assert python(ELSEWHERE) == "ok\n"
