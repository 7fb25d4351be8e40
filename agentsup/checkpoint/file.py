"""The state of an agent in files, saved again and again."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from .._errors import UnsupportedPlatform
from .._values.number import whole
from .._values.retention import Retention
from .codecs import JsonCodec

if sys.platform != "win32":  # there this can be imported, and Checkpoint() says the rest
    from .store import Store

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from .codecs import Codec
    from .store import Found

T = TypeVar("T")


class Checkpoint(Generic[T]):
    """A value that is there again after a crash: ``async with Checkpoint(path) as checkpoint:``.

    A save that has returned is on the disk, whatever happens next; one that was cancelled or killed
    is wholly there or not at all. At most one :class:`Checkpoint` on the machine has ``path`` at a
    time, from its first use, or the beginning of its block, to :meth:`close`.

    It works in ``with`` and ``async with``, or in neither, and from several tasks and threads at a
    time; the save that was called last is what counts.

    :param path: the files are beside it, and have its name with something behind.
    :param keep: how many generations there are, the newest included.
    :param codec: what turns values into bytes and back; by default :class:`JsonCodec`.
    :param retention: bounds for the size and the age of older generations.
    """

    @overload
    def __init__(
        self: Checkpoint[Any],
        path: str | os.PathLike[str],
        *,
        keep: int = 3,
        codec: None = None,
        retention: Retention | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keep: int = 3,
        codec: Codec[T],
        retention: Retention | None = None,
    ) -> None: ...
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keep: int = 3,
        codec: Codec[T] | None = None,
        retention: Retention | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise UnsupportedPlatform("a Checkpoint takes flock(2), which win32 does not have")
        if whole("keep", keep, "generations", least=1) is None:
            raise TypeError("keep must be a whole number of generations, not None")
        self._codec: Codec[T] = JsonCodec() if codec is None else codec
        if not (hasattr(self._codec, "encode") and hasattr(self._codec, "decode")):
            raise TypeError(f"codec must have encode() and decode(), which {codec!r} has not")
        retention = Retention() if retention is None else retention
        if not isinstance(retention, Retention):
            raise TypeError(f"retention must be a Retention, not {retention!r}")
        self._store = Store(_to_path(path), keep, retention)
        self._closed = False
        self._calls = itertools.count(1)
        self._saved = 0  # the latest call of save that has been written
        self._mutex = threading.Lock()
        _all.add(self)

    async def load(self, default: T) -> T:
        """The value of the newest generation that is good, or ``default`` if there is none at all.

        A damaged generation is passed over with a :exc:`RuntimeWarning` that names it and the one
        that is used instead.

        :raises CheckpointCorrupt: there are generations, and all are damaged.
        :raises CheckpointInUse: another process, or another Checkpoint of this one, has it.
        :raises FormatTooNew: a newer version of this package has written one.
        """
        from .off_loop import run

        return self._value(await run(self._read), default)

    async def save(self, value: T) -> None:
        """Write ``value`` as a new generation, in a worker thread.

        It is turned into bytes at once, so that it may be changed while this waits.

        :raises TypeError, ValueError: the codec cannot give ``value`` back; nothing was written.
        :raises DiskFull: there is no room, and no older generation to drop. The last is intact.
        :raises CheckpointInUse: as for :meth:`load`.
        :raises FormatTooNew: as for :meth:`load`.
        """
        from .off_loop import run

        call, payload = next(self._calls), self._codec.encode(value)
        await run(lambda: self._write(payload, call))

    def load_sync(self, default: T) -> T:
        """:meth:`load` without an event loop."""
        return self._value(self._read(), default)

    def save_sync(self, value: T) -> None:
        """:meth:`save` without an event loop."""
        call, payload = next(self._calls), self._codec.encode(value)
        self._write(payload, call)

    def close(self) -> None:
        """Let others have it. This waits for a write in a thread, and may be called again."""
        with self._mutex:
            self._closed = True
            self._store.close()

    def __enter__(self) -> Self:
        with self._mutex:
            self._open_store()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        from .off_loop import run

        try:
            return await run(self.__enter__)
        except BaseException:
            with self._mutex:
                self._store.close()  # it may have come as far as the claim
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- how ----------------------------------------------------------------------------------

    def _open_store(self) -> Store:
        if self._closed:
            raise ValueError("this Checkpoint is closed")
        self._store.open()
        return self._store

    def _read(self) -> Found | None:
        with self._mutex:
            return self._open_store().read()

    def _write(self, payload: bytes, call: int) -> None:
        with self._mutex:
            store = self._open_store()
            if call > self._saved:  # or else a later one has overtaken it
                store.write(payload)
                self._saved = call

    def _value(self, found: Found | None, default: T) -> T:
        if found is None:
            return default
        for damage in found.passed_over:
            text = f"agentsup: {damage}; {found.path} is used instead"
            warnings.warn(text, RuntimeWarning, stacklevel=3)
        try:
            return self._codec.decode(found.payload)
        except Exception as error:
            error.add_note(f"agentsup: {found.path} is undamaged, but its codec cannot decode it")
            raise


def _to_path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"path must be a str or a path object, not {path!r}")
    if not text or os.path.isdir(text):
        raise ValueError(f"path must name a file, which {text!r} does not")
    return os.path.abspath(text)


_all: weakref.WeakSet[Checkpoint[Any]] = weakref.WeakSet()


def _renew_after_fork() -> None:
    """A thread that the child does not have may be in the middle of a write."""
    for checkpoint in list(_all):
        checkpoint._mutex = threading.Lock()  # pyright: ignore[reportPrivateUsage] -- own class


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_renew_after_fork)
