"""What a service listens on, made before it starts and held while it restarts."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, TypeAlias, get_args

from attrs import field, frozen

from .number import is_whole

Kind: TypeAlias = Literal["stream", "datagram", "seqpacket", "fifo"]

_ADDRESSES = "'8080', '127.0.0.1:8080', '[::1]:8080', '/run/web.sock' or '@abstract'"
#: What struct sockaddr_un has room for, less its final NUL.
_LONGEST_UNIX = 107
_LONGEST_NAME = 255  # of a descriptor, sd_listen_fds(3)
_INT_MAX = 2**31 - 1


def _to_address(value: str | os.PathLike[str]) -> str:
    address: object = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(address, str):
        raise TypeError(f"ListenSocket.address must be a str such as {_ADDRESSES}, not {value!r}")
    try:
        encoded = os.fsencode(address)
    except UnicodeEncodeError as error:
        raise ValueError(f"ListenSocket.address cannot be encoded: {error}") from None
    if b"\0" in encoded:
        raise ValueError(f"ListenSocket.address holds a NUL byte: {address!r}")
    _split(address)  # for its errors
    return address


def _split(address: str) -> tuple[str, int] | None:
    """Host, empty for any, and port; or None for a path or an abstract name."""
    if address[:1] in ("/", "@") and len(address) > 1:
        return None
    host, colon, port = address.rpartition(":")
    try:
        if host[:1] + host[-1:] == "[]":
            host = host[1:-1]
            IPv6Address(host)
        elif colon:
            IPv4Address(host)
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"ListenSocket.address must be such as {_ADDRESSES} (a number as the host, no name), "
            f"not {address!r}"
        ) from None
    return host, int(port)


def _to_name(value: str | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
        raise TypeError(f"ListenSocket.name must be a str, not {value!r}")
    printable = value.isascii() and value.isprintable() and ":" not in value
    if not (printable and 0 < len(value) <= _LONGEST_NAME):
        raise ValueError(
            f"ListenSocket.name must be 1 to {_LONGEST_NAME} printable ASCII characters without a "
            f"colon, not {value!r}"
        )
    return value


@frozen
class ListenSocket:
    """A socket or FIFO that a service gets as an open descriptor, from 3 on (``LISTEN_FDS``).

    :param address: as in systemd.socket(5): a port, of every interface; ``"127.0.0.1:8080"`` or
        ``"[::1]:8080"``; an absolute path; or ``"@name"``, in the abstract namespace. Port 0 is
        one that is free.
    :param kind: ``"stream"``, ``"datagram"``, ``"seqpacket"`` (Unix sockets only) or ``"fifo"``
        (a path only).
    :param name: what the service knows it by (``LISTEN_FDNAMES``).
    :param backlog: connections that may wait to be accepted; the kernel has its own bound
        (``net.core.somaxconn``).
    :param mode: permissions of the file that a path makes.
    :param reuse_port: let others listen on the same port, and share what comes (``SO_REUSEPORT``).
    """

    address: str = field(converter=_to_address)
    kind: Kind = field(default="stream", kw_only=True)
    name: str | None = field(default=None, kw_only=True, converter=_to_name)
    backlog: int = field(
        default=4096, kw_only=True, validator=is_whole("connections", least=1, most=_INT_MAX)
    )
    mode: int = field(
        default=0o666, kw_only=True, validator=is_whole("permission bits", most=0o777)
    )
    reuse_port: bool = field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            known = ", ".join(map(repr, get_args(Kind)))
            raise ValueError(f"ListenSocket.kind must be one of {known}, not {self.kind!r}")
        if not isinstance(self.reuse_port, bool):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
            raise TypeError(f"ListenSocket.reuse_port must be a bool, not {self.reuse_port!r}")
        if self.inet and self.kind in ("seqpacket", "fifo"):
            raise ValueError(f"ListenSocket.kind: there is no {self.kind} at an IP address")
        if self.kind == "fifo" and not self.address.startswith("/"):
            raise ValueError(f"ListenSocket.address of a fifo must be a path, not {self.address!r}")
        if self.reuse_port and not self.inet:
            raise ValueError("ListenSocket.reuse_port is for IP addresses")
        if self.kind != "fifo" and not self.inet:
            length = len(os.fsencode(self.address))
            if length > _LONGEST_UNIX:
                raise ValueError(
                    f"ListenSocket.address must be of at most {_LONGEST_UNIX} bytes, as that of "
                    f"any Unix socket, not of {length}"
                )

    @property
    def inet(self) -> tuple[str, int] | None:
        """Host, empty for any, and port; None if it is no IP address."""
        return _split(self.address)

    @property
    def has_connections(self) -> bool:
        """Whether there is something to accept."""
        return self.kind in ("stream", "seqpacket")
