"""Values as bytes and back. What would not come back equal is refused before it is written."""

from __future__ import annotations

import json
import reprlib
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cattrs import Converter

T = TypeVar("T")


class Codec(Protocol[T]):
    """Turns values into bytes and back; any object that has these two methods."""

    def encode(self, value: T, /) -> bytes:
        """The bytes for ``value``; ValueError or TypeError if they would not give it back."""
        ...

    def decode(self, data: bytes, /) -> T:
        """The value that :meth:`encode` was given."""
        ...


class BytesCodec:
    """Takes :class:`bytes`, as they are."""

    def encode(self, value: bytes, /) -> bytes:
        if not isinstance(value, bytes):
            raise TypeError(f"value must be bytes, not {type(value).__name__}")
        return value

    def decode(self, data: bytes, /) -> bytes:
        return data


class JsonCodec:
    """Takes None, bools, numbers and strings, and lists and dicts of them.

    What JSON has no word for, or turns into something else, is an error that says where it is: NaN,
    keys that are not strings, tuples, sets.
    """

    def encode(self, value: Any, /) -> bytes:
        try:
            data = _dump(value)
            if (back := _load(data)) != value:
                raise ValueError(_difference(value, back))
        except RecursionError:
            raise ValueError("value is nested too deeply for JSON") from None
        return data

    def decode(self, data: bytes, /) -> Any:
        return _load(data)


class AttrsCodec(Generic[T]):
    """Takes objects of one attrs class, through cattrs and JSON.

    :param cls: the class. Its fields need annotations that cattrs can structure.
    :param converter: one with hooks of yours, whose unstructured values are JSON's; by default
        ``cattrs.preconf.json.make_converter()``.
    """

    def __init__(self, cls: type[T], converter: Converter | None = None) -> None:
        if not isinstance(cls, type) or not attrs.has(cls):
            raise TypeError(f"cls must be an attrs class, not {cls!r}")
        self._class = cls
        self._converter = converter or _make_converter()

    def encode(self, value: T, /) -> bytes:
        if not isinstance(value, self._class):
            name = self._class.__name__
            raise TypeError(f"value must be an object of {name}, not {reprlib.repr(value)}")
        data = _dump(self._converter.unstructure(value, unstructure_as=self._class))
        try:
            back = self.decode(data)
        except Exception as error:
            raise ValueError(f"cattrs cannot structure {reprlib.repr(value)} again") from error
        if back != value:
            raise ValueError(f"cattrs would turn {reprlib.repr(value)} into {reprlib.repr(back)}")
        return data

    def decode(self, data: bytes, /) -> T:
        return cast("T", self._converter.structure(_load(data), self._class))


def _make_converter() -> Converter:
    try:
        from cattrs.preconf.json import make_converter
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cattrs":
            raise
        raise ModuleNotFoundError(
            "AttrsCodec needs cattrs: pip install 'agentsup[cattrs]'", name="cattrs"
        ) from None
    return make_converter()


def _dump(value: Any) -> bytes:
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def _load(data: bytes) -> Any:
    return json.loads(data.decode("utf-8", "surrogatepass"))


def _difference(old: Any, new: Any, place: str = "value") -> str:
    """Where ``old`` and ``new``, which are not equal, first differ, and how."""
    keys: Iterable[Any] = ()
    if new.__class__ is dict:
        keys = [key for key in new if key in old]
    elif new.__class__ is list:
        keys = range(len(new))
    for key in keys:
        if old[key] != new[key]:
            return _difference(old[key], new[key], f"{place}[{key!r}]")
    return f"{place}: JSON would turn {reprlib.repr(old)} into {reprlib.repr(new)}"
