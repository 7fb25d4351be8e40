"""Whatever is in a file: a config, or errors of a line each; never anything else."""

from __future__ import annotations

import contextlib
import random
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import fields
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsup import ConfigError, ConfigErrors
from agentsup.config import load, place
from agentsup.config.tables import DaemonTable, FileTable, LogsTable, ServiceTable, SupervisorTable

VALID = """
[daemon]
socket = "x.sock"
stop_timeout = "1min 30s"
max_restarts = 7
env = {LEVEL = "debug", 'OTHER' = "${LEVEL}s"}
env_file = ["-none.env"]
[daemon.tcp]
listen = "127.0.0.1:9009"
token_file = "token"
[logs]
segment_size = "1M"
rate_limit = "10000/30s"
outlets = ["stdout", "journald"]
[service.web]
command = ["serve", "--port", "${PORT:-80}", "$LEVEL"]
groups = ["front"]
after = ["db"]
requires = ["db"]
backoff = {initial = "0.1s", max = "30s"}
attempts = 5
ready = {http = "http://127.0.0.1:80/", headers = {A = "b"}, status = [200, 204]}
health = [
  {tcp = 80, interval = "10s", failures = 3},  # two of them
  {command = ["true"], role = "readiness"},
]
sockets = [{tcp = "127.0.0.1:8080"}, {unix = "web.sock", mode = 0o600}]
limits = {memory = "512M", cpu_quota = "50%"}
escalation = [{signal = "INT", wait = 2}, {close_stdin = true}]
[service.web.logs]
max_size = "8M"
[service.db]
command = "postgres -D 'my data'"
pre_start = [{shell = '''
mkdir -p data
'''}, {command = "b", timeout = 3.5}]
reload = "HUP"
heartbeat = "30s"
clean_signals = ["TERM", 2]
[supervisor.workers]
strategy = "rest_for_one"
[supervisor.workers.service.a]
type = "oneshot"
restart = "transient"
shell = "true"
[supervisor.tree.supervisor.deeper.service.leaf]
command = "sleep 9"
"""
ODD = [
    *(b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\x7f", b"\n", b'"', b"'", b'"""'),
    *(b"[", b"]", b"{", b"}", b"[[", b"=", b".", b",", b"#", b"\\", b"\\u0000", b"${", b"$X", b"$"),
    *(b"9" * 30, b"9" * 5000, b"0x" + b"f" * 4000, b"-1", b"1e999", b"nan", b"inf", b"true"),
    *(b"1979-05-27", b"[" * 3000, b"{a=" * 3000, b"[daemon]\n", b"service.web.x = 1\n", b"\xf0"),
]
VALUES: list[Any] = [
    *("", "x", "\0", "${NONE}", "$NONE", "${", "infinity", "-1", "9" * 400, "a" * 200, "5s", "1M"),
    *(0, 1, -1, 2**63, 10**400, 0.0, -0.5, 1e300, float("nan"), float("inf"), True, False),
    *([], {}, [[]], [{}], ["x"], [0], [""], {"": ""}, {"x": "y"}, {"command": ["x"]}, {"tcp": 1}),
    *([["a"], ["b"]], {"shell": "x", "command": 1}, ["x", 1, {}], "simple", "web", "db", "a/b"),
]


def check(path: Path) -> None:
    """A config, or errors that are as they have to be."""
    lines = path.read_bytes().count(b"\n") + 1
    errors: tuple[ConfigError, ...] = ()
    try:
        load(path, {"PATH": "/bin"})
    except ConfigErrors as caught:
        errors = caught.errors
    for error in errors:
        assert error.line is not None
        assert 1 <= error.line <= lines
        assert error.reason.isprintable()
        assert "\n" not in str(error)
    with contextlib.suppress(ConfigErrors):
        place(path, {})


def written(value: Any) -> str:
    """As TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(one if one.isalnum() else f"\\u{ord(one):04x}" for one in value) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{written(key)} = {written(one)}' for key, one in value.items())}}}"
    return repr(value)


def mutants(count: int) -> Iterator[bytes]:
    """The valid file with some of its lines, words and strings replaced, and with odd bytes."""
    choose = random.Random(1)
    words, strings = set(re.findall(r"\w+", VALID)), set(re.findall(r'"[^"\n]*"', VALID))
    replaced = {r"\w+": sorted(words), r'"[^"\n]*"': [*sorted(strings), *map(written, VALUES)]}
    for _ in range(count):
        lines = VALID.splitlines(keepends=True)
        for _ in range(choose.randint(1, 3)):
            at = choose.randrange(len(lines))
            if choose.random() < 0.4:
                line = lines.pop(at)
                lines[at:at] = choose.choice(["", line * 2, choose.choice(lines)])
            else:
                pattern = choose.choice(list(replaced))
                by = choose.choice(replaced[pattern]).replace("\\", "\\\\")
                lines[at] = re.sub(pattern, by, lines[at], count=1)
        mutant = "".join(lines).encode()
        if choose.random() < 0.3:
            at = choose.randrange(len(mutant))
            mutant = mutant[:at] + choose.choice(ODD) + mutant[at + choose.randint(0, 3) :]
        yield mutant


def test_what_the_mutants_are_made_of_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "agentsup.toml"
    path.write_text(VALID)
    assert load(path, {}).services["web"].service.command.argv[2:] == ("80", "debug")


def test_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "agentsup.toml"
    for mutant in mutants(400):
        path.write_bytes(mutant)
        try:
            check(path)
        except BaseException:
            print(mutant)  # for whoever reads of it
            raise


KEYS = {cls: [one.name for one in fields(cls)] for cls in (FileTable, DaemonTable, LogsTable)}
KEYS |= {cls: [one.name for one in fields(cls)] for cls in (ServiceTable, SupervisorTable)}


@st.composite
def documents(draw: Any) -> dict[str, Any]:
    """Of the right keys, with any values."""

    def table(cls: Any) -> Any:
        keys = st.sampled_from(KEYS[cls])
        return draw(st.dictionaries(keys, st.sampled_from(VALUES), max_size=4))

    document = table(FileTable)
    document["daemon"] = table(DaemonTable)
    document["logs"] = table(LogsTable)
    document["service"] = {
        name: {"command": ["x"], **table(ServiceTable)}
        for name in draw(st.sets(st.sampled_from("abc")))
    }
    document["supervisor"] = {"s": table(SupervisorTable)}
    return document


@settings(max_examples=150)
@given(documents())
def test_any_values(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    text = "".join(f"{key} = {written(value)}\n" for key, value in document.items())
    assert tomllib.loads(text).keys() == document.keys()
    path.write_text(text)
    check(path)
