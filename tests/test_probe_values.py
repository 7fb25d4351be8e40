"""Probes and health checks as values: what they refuse, and how they say so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentsup._values.command import Command, shell
from agentsup._values.health import HealthCheck
from agentsup._values.probe import (
    CallableProbe,
    CommandProbe,
    HttpProbe,
    TcpProbe,
    UnixProbe,
    to_probe,
)

URL = "http://127.0.0.1:8000/health"
TCP = TcpProbe(1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TcpProbe(0), ValueError, "TcpProbe.port"),
        (lambda: TcpProbe(65_536), ValueError, "TcpProbe.port"),
        (lambda: TcpProbe(None), TypeError, "TcpProbe.port"),
        (lambda: TcpProbe("80"), TypeError, "TcpProbe.port"),
        (lambda: TcpProbe(80, ""), ValueError, "TcpProbe.host is empty"),
        (lambda: TcpProbe(80, None), TypeError, "TcpProbe.host"),
        (lambda: HttpProbe(80), TypeError, "HttpProbe.url"),
        (lambda: HttpProbe("127.0.0.1:80"), ValueError, "HttpProbe.url must be such as"),
        (lambda: HttpProbe("ftp://a/"), ValueError, "HttpProbe.url must be such as"),
        (lambda: HttpProbe("http:///health"), ValueError, "HttpProbe.url must be such as"),
        (lambda: HttpProbe("http://a:0/"), ValueError, "HttpProbe.url must be such as"),
        (lambda: HttpProbe("http://a/\x01"), ValueError, "HttpProbe.url must be such as"),
        (lambda: HttpProbe("http://a:99999/"), ValueError, "HttpProbe.url: Port out of range"),
        (lambda: HttpProbe("http://[::1/"), ValueError, "HttpProbe.url"),
        (lambda: HttpProbe("http://me:pw@a/"), ValueError, "holds a user name: give headers="),
        (lambda: HttpProbe(URL, method=b"GET"), TypeError, "HttpProbe.method"),
        (lambda: HttpProbe(URL, method="GET /"), ValueError, "HttpProbe.method"),
        (lambda: HttpProbe(URL, status=200), TypeError, "HttpProbe.status"),
        (lambda: HttpProbe(URL, status="200"), TypeError, "HttpProbe.status"),
        (lambda: HttpProbe(URL, status=()), ValueError, "HttpProbe.status is empty"),
        (lambda: HttpProbe(URL, status={20}), ValueError, "HttpProbe.status"),
        (lambda: HttpProbe(URL, status=range(200, 10**12)), ValueError, "HttpProbe.status"),
        (lambda: HttpProbe(URL, body="ok"), TypeError, "HttpProbe.body must be callable"),
        (lambda: HttpProbe(URL, headers=1), TypeError, "HttpProbe.headers must be pairs"),
        (lambda: HttpProbe(URL, headers=["abc"]), TypeError, "HttpProbe.headers must be pairs"),
        (lambda: HttpProbe(URL, headers={"A": 1}), TypeError, "HttpProbe.headers must be pairs"),
        (lambda: HttpProbe(URL, headers={"A B": "1"}), ValueError, "HttpProbe.headers hold"),
        (lambda: HttpProbe(URL, headers={"A": "1\r\nB: 2"}), ValueError, "HttpProbe.headers hold"),
        (lambda: HttpProbe(URL, headers={"A": "ü"}), ValueError, "HttpProbe.headers hold"),
        (lambda: HttpProbe(URL, unix_socket=1), TypeError, "HttpProbe.unix_socket"),
        (lambda: HttpProbe(URL, unix_socket=""), ValueError, "HttpProbe.unix_socket"),
        (lambda: UnixProbe(b"/run/a"), TypeError, "UnixProbe.path"),
        (lambda: UnixProbe("/" + "a" * 107), ValueError, "UnixProbe.path .* not of 108"),
        (lambda: CommandProbe("true"), TypeError, r"agentsup\.shell"),
        (lambda: CommandProbe([]), ValueError, "command is empty"),
        (lambda: CommandProbe(["a\0"]), ValueError, "NUL"),
        (lambda: CallableProbe(1), TypeError, "CallableProbe.function must be callable"),
        (lambda: to_probe("ready", 8000), TypeError, "^ready must be a TcpProbe"),
        (lambda: to_probe("ready", TcpProbe), TypeError, "^ready must be a TcpProbe"),
        (lambda: HealthCheck(8000), TypeError, "^HealthCheck.probe must be a TcpProbe"),
        (lambda: HealthCheck(TCP, interval=0), ValueError, "HealthCheck.interval"),
        (lambda: HealthCheck(TCP, interval=None), ValueError, "HealthCheck.interval"),
        (lambda: HealthCheck(TCP, interval=math.inf), ValueError, "HealthCheck.interval"),
        (lambda: HealthCheck(TCP, interval="1"), TypeError, "HealthCheck.interval"),
        (lambda: HealthCheck(TCP, timeout=0), ValueError, "HealthCheck.timeout"),
        (
            lambda: HealthCheck(TCP, interval=1, timeout=2),
            ValueError,
            r"timeout \(2 s\) must not be more than HealthCheck.interval \(1 s\)",
        ),
        (lambda: HealthCheck(TCP, failures=0), ValueError, "HealthCheck.failures"),
        (lambda: HealthCheck(TCP, failures=None), TypeError, "HealthCheck.failures"),
        (lambda: HealthCheck(TCP, successes=0), ValueError, "HealthCheck.successes"),
        (lambda: HealthCheck(TCP, successes=2), ValueError, "must be 1 for the role 'liveness'"),
        (lambda: HealthCheck(TCP, start_period=-1), ValueError, "HealthCheck.start_period"),
        (lambda: HealthCheck(TCP, start_period=None), ValueError, "HealthCheck.start_period"),
        (lambda: HealthCheck(TCP, start_interval=1), ValueError, "needs a start_period"),
        (
            lambda: HealthCheck(TCP, start_period=1, start_interval=0),
            ValueError,
            "HealthCheck.start_interval",
        ),
        (lambda: HealthCheck(TCP, role="alive"), ValueError, "one of liveness, readiness, startup"),
        (lambda: HealthCheck(TCP, name=1), TypeError, "HealthCheck.name"),
    ],
    ids=map(str, itertools.count()),
)
def test_bad_input_is_one_error_that_names_it(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as info:
        make()
    assert type(info.value) is error


def test_what_can_be_given_in_several_ways_is_kept_in_one() -> None:
    pairs: Any = [("A", "1"), ("B", "")]
    assert HttpProbe(URL, headers=dict(pairs)) == HttpProbe(URL, headers=pairs)
    assert HttpProbe(URL, status=[200, 204]) == HttpProbe(URL, status={204, 200})
    assert 399 in HttpProbe(URL).status
    assert 400 not in HttpProbe(URL).status
    assert CommandProbe(["a", "b"]).command == Command(("a", "b"))
    assert CommandProbe(shell("a")).command == shell("a")
    UnixProbe(Path("/run/a"))
    HttpProbe("https://[::1]/", unix_socket=Path("/run/a"))


def test_a_function_is_a_probe_and_a_probe_is_itself() -> None:
    def function() -> bool:
        return True

    assert to_probe("ready", function) == CallableProbe(function)
    assert to_probe("ready", TCP) is TCP
    assert HealthCheck(function).probe == CallableProbe(function)


def test_a_check_is_called_by_its_name_or_its_role() -> None:
    assert str(HealthCheck(TCP, role="readiness")) == "readiness check"
    assert str(HealthCheck(TCP, name="port")) == "port"
