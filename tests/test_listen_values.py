"""What may be said of a socket to listen on, before there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsup._values.listen import ListenSocket


@pytest.mark.parametrize(
    ("address", "inet"),
    [
        ("8080", ("", 8080)),
        ("0", ("", 0)),
        ("65535", ("", 65535)),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:8080", ("::1", 8080)),
        ("[::]:0", ("::", 0)),
        ("[fe80::1%eth0]:8080", ("fe80::1%eth0", 8080)),
        ("/run/web.sock", None),
        ("/run/127.0.0.1:80", None),
        ("@web", None),
        ("/" + "x" * 106, None),
        ("@" + "x" * 106, None),
    ],
)
def test_addresses(address: str, inet: tuple[str, int] | None) -> None:
    socket = ListenSocket(address)
    assert (socket.address, socket.inet) == (address, inet)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_ip_address(host: Any, port: int) -> None:
    address = f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"
    assert ListenSocket(address).inet == (str(host), port)


_CHARACTERS = st.characters() | st.sampled_from("/@[]:0123456789.\0\ud800\udcff")


@given(st.text(_CHARACTERS))
def test_any_text_is_an_address_or_one_error(address: str) -> None:
    try:
        taken, says = ListenSocket(address).address, ""
    except ValueError as error:
        taken, says = address, str(error)
    assert taken == address
    assert not says or says.startswith("ListenSocket.address ")


def test_a_path_object() -> None:
    assert ListenSocket(Path("/run/web.sock")).address == "/run/web.sock"


@pytest.mark.parametrize(
    "address",
    [
        *("", ":", ":80", "-1", "65536", "8080 ", " 8080", "80a", "٨٠", "999999999999999999999"),
        *("localhost:80", "example.com:http", "*:80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:-1"),
        *("127.0.0.1:65536", "1.2.3:80", "::1:80", "[::1]", "[::1]:", "[]:80", "[127.0.0.1]:80"),
        *("[::1:80", "web.sock", "./web.sock", "/", "@", "vsock:2:80"),
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"^ListenSocket\.address must be such as '8080', '127"):
        ListenSocket(address)


@pytest.mark.parametrize("address", [8080, None, b"/run/web.sock", ("127.0.0.1", 80), True])
def test_an_address_is_text(address: Any) -> None:
    with pytest.raises(TypeError, match=r"^ListenSocket\.address must be a str such as '8080'"):
        ListenSocket(address)


@pytest.mark.parametrize(
    ("address", "options", "error", "says"),
    [
        ("/run/a\0b", {}, ValueError, "address holds a NUL byte"),
        ("/" + "x" * 107, {}, ValueError, "address must be of at most 107 bytes.*not of 108"),
        ("@" + "ü" * 54, {}, ValueError, "address must be of at most 107 bytes.*not of 109"),
        ("80", {"kind": "tcp"}, ValueError, "kind must be one of 'stream', 'datagram',"),
        ("80", {"kind": None}, ValueError, "kind must be one of"),
        ("80", {"kind": "seqpacket"}, ValueError, "kind: there is no seqpacket at an IP address"),
        ("80", {"kind": "fifo"}, ValueError, "kind: there is no fifo at an IP address"),
        ("@fifo", {"kind": "fifo"}, ValueError, "address of a fifo must be a path"),
        ("/run/a", {"reuse_port": True}, ValueError, "reuse_port is for IP addresses"),
        ("80", {"reuse_port": 1}, TypeError, "reuse_port must be a bool"),
        ("80", {"name": ""}, ValueError, "name must be 1 to 255 printable ASCII"),
        ("80", {"name": "a:b"}, ValueError, "name must be 1 to 255 printable ASCII"),
        ("80", {"name": "a\nb"}, ValueError, "name must be 1 to 255 printable ASCII"),
        ("80", {"name": "ü"}, ValueError, "name must be 1 to 255 printable ASCII"),
        ("80", {"name": "a" * 256}, ValueError, "name must be 1 to 255 printable ASCII"),
        ("80", {"name": b"web"}, TypeError, "name must be a str"),
        ("80", {"backlog": 0}, ValueError, "backlog must be at least 1 connections"),
        ("80", {"backlog": 2**31}, ValueError, "backlog must be at most"),
        ("80", {"backlog": None}, TypeError, "backlog must be a whole number of connections"),
        ("/run/a", {"mode": 0o1777}, ValueError, "mode must be at most 511 permission bits"),
        ("/run/a", {"mode": "0600"}, TypeError, "mode must be a whole number"),
    ],
)
def test_bad_options(address: str, options: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=rf"^ListenSocket\.{says}"):
        ListenSocket(address, **options)


def test_a_fifo_may_have_a_long_path() -> None:
    assert ListenSocket("/" + "x" * 200, kind="fifo").inet is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("stream", True), ("seqpacket", True), ("datagram", False), ("fifo", False)],
)
def test_what_has_connections(kind: Any, expected: bool) -> None:
    assert ListenSocket("/run/a", kind=kind).has_connections is expected
