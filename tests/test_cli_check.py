"""``agentsup check`` and ``agentsup schema``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import agentsup.config
from agentsup.cli import main
from agentsup.config import schema


@pytest.fixture(autouse=True)
def in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.toml").write_text("[service.web]\ncommand = 'x'\n")
    (tmp_path / "bad.toml").write_text("[service.web]\ncomand = 'x'\ngrace = '5 x'\n")
    (tmp_path / "worse.toml").write_bytes(b"\xff")


def test_all_of_all_files_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "bad.toml", "good.toml", "worse.toml", "none.toml"]) == 1
    printed, complaints = capsys.readouterr()
    assert not printed
    assert complaints.splitlines() == [
        'bad.toml:1: service.web: has no command: write command = ["program", "argument"]',
        "bad.toml:2: service.web.comand: is unknown; did you mean command?",
        "bad.toml:3: service.web.grace: '5 x' is not a duration: write seconds, or 5s, 2min, "
        "100ms, '1h 30min', …",
        "worse.toml:1: is not UTF-8: byte 0xff",
        "none.toml: cannot be read: No such file or directory",
    ]


def test_of_what_is_right_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "good.toml", "good.toml"]) == 0
    assert capsys.readouterr() == ("", "")


def test_errors_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", "worse.toml", "none.toml"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "errors": [
            {"file": "worse.toml", "line": 1, "key": "", "reason": "is not UTF-8: byte 0xff"},
            {
                "file": "none.toml",
                "line": None,
                "key": "",
                "reason": "cannot be read: No such file or directory",
            },
        ]
    }
    assert main(["check", "--json", "good.toml"]) == 0
    assert json.loads(capsys.readouterr().out) == {"errors": []}


def test_a_name_that_cannot_be_printed() -> None:
    command = [sys.executable, "-m", "agentsup", "check", b"\xff.toml"]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 1
    assert done.stderr == b"\\udcff.toml: cannot be read: No such file or directory\n"


def test_without_cattrs_the_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cattrs", None)
    for module in ("structuring", "making", "loading"):
        monkeypatch.delitem(sys.modules, f"agentsup.config.{module}", raising=False)
    monkeypatch.delitem(vars(agentsup.config), "load", raising=False)
    assert main(["check", "good.toml"]) == 125
    assert capsys.readouterr().err == (
        "Error: cattrs is not installed: pip install 'agentsup[daemon]'\n"
    )


def test_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 125
    assert main(["check", "--nonsense", "good.toml"]) == 125
    assert "Traceback" not in capsys.readouterr().err


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()
