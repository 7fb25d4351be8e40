"""The test that leaks in docs/how-to/testing.md, and what the page says that it comes to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "how-to" / "testing.md").read_text()


def test_the_leak_is_reported_as_shown(pytester: pytest.Pytester) -> None:
    source, message, *_ = re.findall(r"^```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    pytester.makeini("[pytest]")
    pytester.makepyfile(test_build=source)
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    done.assert_outcomes(passed=1, errors=1)
    shown = done.stdout.str()
    lines = [line for line in message.splitlines() if line]
    found = re.search(r"^left behind: process \d+: sleep 1000\n(?:    .*\n)*", shown, re.MULTILINE)
    assert found
    assert re.sub(r"\d+:", "#:", found[0]).splitlines() == [
        re.sub(r"\d+:", "#:", line) for line in lines
    ]
