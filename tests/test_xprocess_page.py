"""The two fixtures of docs/how-to/testing-beside-xprocess.md, and what the page says of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

HOW_TO = Path(__file__).parent.parent / "docs" / "how-to"
PAGE = (HOW_TO / "testing-beside-xprocess.md").read_text()
XPROCESS, AGENTSUP = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
FIXTURES = {"xprocess": XPROCESS, "agentsup": AGENTSUP}

FAILING = """

def test_failing(url):
    try:
        urllib.request.urlopen(url + "nowhere")
    except OSError as error:
        error.close()
    assert not url
"""
WAITING = """

def test_waiting(url):
    import pathlib, time

    pathlib.Path("url").write_text(url)
    pathlib.Path("ready").touch()
    time.sleep(600)
"""


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=60):
            return True
    except OSError:
        return False


@pytest.fixture
def session(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini("[pytest]")
    return pytester


@pytest.mark.parametrize("name", FIXTURES)
def test_both_serve_and_keep_the_output(session: pytest.Pytester, name: str) -> None:
    session.makepyfile(FIXTURES[name] + FAILING)
    done = session.runpytest_subprocess("-v")
    done.assert_outcomes(passed=1, failed=1)
    if name == "agentsup":
        output = done.stdout.str()
    else:
        [log] = Path(".pytest_cache").rglob("xprocess.log")
        output = log.read_text()
    assert '"GET /nowhere HTTP/1.1" 404' in output
    [url] = set(re.findall(r"assert not '(.+)'", done.stdout.str()))
    assert not is_up(url)


@pytest.mark.parametrize("name", FIXTURES)
def test_pytest_is_killed(session: pytest.Pytester, until: Callable[..., None], name: str) -> None:
    session.makepyfile(FIXTURES[name] + WAITING)
    with subprocess.Popen([sys.executable, "-m", "pytest", "-q"], stdout=subprocess.DEVNULL) as run:
        until(lambda: os.path.exists("ready"))
        run.kill()
    assert run.returncode == -signal.SIGKILL
    url = Path("url").read_text()
    if name == "xprocess":
        try:
            assert is_up(url)
        finally:
            [pid_file] = Path(".pytest_cache").rglob("xprocess.PID")
            os.kill(int(pid_file.read_text()), signal.SIGKILL)  # as for --xkill, which waits for it
    until(lambda: not is_up(url))


def test_the_workers_of_xdist_share_one(session: pytest.Pytester) -> None:
    urls = "\n".join(f"def test_{n}(url):\n    open('urls', 'a').write(url)" for n in range(6))
    session.makepyfile(f"{AGENTSUP}\n\n{urls}")
    session.runpytest_subprocess("-n2", "-p", "no:cacheprovider").assert_outcomes(passed=7)
    [url] = set(re.findall("http://127.0.0.1:[0-9]+/", Path("urls").read_text()))
    assert not is_up(url)
