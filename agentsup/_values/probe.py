"""How to ask a service whether it answers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias, cast
from urllib.parse import urlsplit

from attrs import Attribute, field, frozen

from .command import Command, to_command
from .number import is_whole, whole

Path: TypeAlias = "str | os.PathLike[str]"
Headers: TypeAlias = "Mapping[str, str] | Iterable[tuple[str, str]]"

#: What struct sockaddr_un has room for, less its final NUL.
_LONGEST_SOCKET_PATH = 107
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110
_FIELD_VALUE = re.compile(r"([!-~]([\t -~]*[!-~])?)?")


def _is_host(_: TcpProbe, attribute: Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"TcpProbe.host must be a str, not {value!r}")
    if not value:
        raise ValueError("TcpProbe.host is empty: it must be a name or an address")


def _is_socket_path(probe: UnixProbe | HttpProbe, attribute: Attribute[Any], value: object) -> None:
    name = f"{type(probe).__name__}.{attribute.name}"
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a str or a path object, not {value!r}")
    length = len(os.fsencode(cast("Path", value)))
    if not 0 < length <= _LONGEST_SOCKET_PATH:
        raise ValueError(
            f"{name} must be a path of 1 to {_LONGEST_SOCKET_PATH} bytes, as that of any "
            f"Unix socket, not of {length}"
        )


def _is_socket_path_or_none(probe: HttpProbe, attribute: Attribute[Any], value: object) -> None:
    if value is not None:
        _is_socket_path(probe, attribute, value)


def _is_url(_: HttpProbe, attribute: Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"HttpProbe.url must be a str, not {value!r}")
    try:
        url = urlsplit(value)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
        usable = usable and value.isprintable()
    except ValueError as error:
        raise ValueError(f"HttpProbe.url: {error}: {value!r}") from None
    if not usable:
        raise ValueError(
            f"HttpProbe.url must be such as 'http://127.0.0.1:8000/health', not {value!r}"
        )
    if url.username is not None:
        raise ValueError("HttpProbe.url holds a user name: give headers={'Authorization': …}")


def _is_method(_: HttpProbe, attribute: Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"HttpProbe.method must be a str, not {value!r}")
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"HttpProbe.method must be such as 'GET', not {value!r}")


def _to_status(value: Collection[int]) -> Collection[int]:
    try:
        codes = value if isinstance(value, range) else frozenset(value)
    except TypeError:
        raise TypeError(
            f"HttpProbe.status must be a collection of numbers such as {{200}}, not {value!r}"
        ) from None
    if not codes:
        raise ValueError("HttpProbe.status is empty: the probe could never pass")
    for code in (codes[0], codes[-1]) if isinstance(codes, range) else codes:
        whole("HttpProbe.status", code, "(an HTTP status)", least=100, most=599)
    return codes


def _to_headers(value: Headers) -> tuple[tuple[str, str], ...]:
    items = cast("Mapping[str, str]", value).items() if isinstance(value, Mapping) else value
    try:
        headers = tuple((name, text) for name, text in items)
        valid = all(
            _TOKEN.fullmatch(name) and _FIELD_VALUE.fullmatch(text) for name, text in headers
        )
    except (TypeError, ValueError):
        raise TypeError(f"HttpProbe.headers must be pairs of str, not {value!r}") from None
    if not valid:
        raise ValueError(f"HttpProbe.headers hold what no HTTP header can: {value!r}")
    return headers


def _is_callable(probe: object, attribute: Attribute[Any], value: object) -> None:
    if not callable(value):
        name = f"{type(probe).__name__}.{attribute.name}"
        raise TypeError(f"{name} must be callable, not {value!r}")


def _is_callable_or_none(probe: object, attribute: Attribute[Any], value: object) -> None:
    if value is not None:
        _is_callable(probe, attribute, value)


@frozen
class TcpProbe:
    """Passes if a TCP connection can be made; it is closed at once.

    :param port: the port.
    :param host: an address. A name may be given as well; the event loop resolves it in a thread.
    """

    port: int = field(validator=is_whole("(a TCP port)", least=1, most=65_535))
    host: str = field(default="127.0.0.1", validator=_is_host)


@frozen
class HttpProbe:
    """Passes if an HTTP request is answered as it should be. No redirect is followed, and no proxy
    is used.

    :param url: an ``http://`` or ``https://`` URL.
    :param method: the request's method. Nothing is sent after the headers.
    :param status: the statuses that pass: 200 to 399, unless something else is said.
    :param body: told the body, at most its first MiB, and returns something true if that is as it
        should be. Called in the event loop: must not block.
    :param headers: to send, a mapping or pairs.
    :param unix_socket: the path of a Unix socket to connect to, instead of the URL's host.
    """

    url: str = field(validator=_is_url)
    method: str = field(default="GET", kw_only=True, validator=_is_method)
    status: Collection[int] = field(default=range(200, 400), kw_only=True, converter=_to_status)
    body: Callable[[bytes], object] | None = field(
        default=None, kw_only=True, validator=_is_callable_or_none
    )
    headers: tuple[tuple[str, str], ...] = field(default=(), kw_only=True, converter=_to_headers)
    unix_socket: Path | None = field(default=None, kw_only=True, validator=_is_socket_path_or_none)


@frozen
class UnixProbe:
    """Passes if a connection to a Unix stream socket can be made; it is closed at once.

    :param path: where the socket is.
    """

    path: Path = field(validator=_is_socket_path)


@frozen
class CommandProbe:
    """Passes if a command exits with status 0. It is run as tightly contained as the service.

    :param command: what to run.
    """

    command: Command = field(converter=to_command)


@frozen
class CallableProbe:
    """Passes if a function returns something true; what it raises is why it fails.

    :param function: called in the event loop, with no argument. What it returns is awaited if it
        can be; a function that is not async must not block.
    """

    function: Callable[[], object] = field(validator=_is_callable)


Probe: TypeAlias = "TcpProbe | HttpProbe | UnixProbe | CommandProbe | CallableProbe"
_PROBES = (TcpProbe, HttpProbe, UnixProbe, CommandProbe, CallableProbe)


def to_probe(name: str, value: Probe | Callable[[], object]) -> Probe:
    """A probe as it is; any other callable as a :class:`CallableProbe`."""
    if isinstance(value, _PROBES):
        return value
    if callable(value) and not isinstance(value, type):
        return CallableProbe(value)
    raise TypeError(
        f"{name} must be a TcpProbe, HttpProbe, UnixProbe, CommandProbe or CallableProbe, or a "
        f"function, not {value!r}"
    )
