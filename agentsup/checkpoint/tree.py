"""A host that was killed starts again with the services that it had, as they were."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import UserDict
from typing import TYPE_CHECKING, Any, overload

import anyio

from .._rules.resume import SavedService, SavedTree, carry_over, from_json, to_json, to_stamp
from .._services.handover import Handover
from .._shielded import to_the_end
from .._tree.supervisor import Supervisor
from .file import Checkpoint

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from .._services.family import Family
    from .._services.handle import ServiceHandle
    from .._values.service import Service

_log = logging.getLogger("agentsup.checkpoint")


@contextlib.asynccontextmanager
async def resume(
    supervisor: Supervisor,
    path: str | os.PathLike[str],
    *,
    sockets: Iterable[tuple[int, str]] = (),
    keep: int = 3,
) -> AsyncGenerator[Tree]:
    """Start services as an earlier host has left them: ``async with resume(sup, path) as tree:``.

    What each service is meant to do is saved whenever it changes, in a :class:`Checkpoint` at
    ``path``, and for the last time when the block is left; this comes inside the supervisor's.

    :param sockets: descriptors to listen on, as :func:`agentsup.notify.listen_fds` returns them. A
        :class:`ListenSocket` of the same address and kind takes one over, instead of opening its
        own; with port 0, one of the same name. Those that nobody takes stay the caller's.
    :param keep: how many generations of the checkpoint there are.
    :raises CheckpointInUse: another host has it.
    :raises CheckpointCorrupt: as for :meth:`Checkpoint.load`.
    :raises ValueError: what is at ``path`` is another program's checkpoint.
    """
    if not isinstance(supervisor, Supervisor):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
        raise TypeError(f"supervisor must be an agentsup.Supervisor, not {supervisor!r}")
    family = supervisor._services(new=True)  # pyright: ignore[reportPrivateUsage] -- our own
    with Handover(sockets) as handover:
        async with Checkpoint(path, keep=keep) as checkpoint:
            tree = Tree(family, checkpoint, await _load(checkpoint, path), handover)
            try:
                yield tree
            finally:
                await tree._close()  # pyright: ignore[reportPrivateUsage] -- own class


async def _load(checkpoint: Checkpoint[Any], path: str | os.PathLike[str]) -> SavedTree:
    saved = await checkpoint.load(None)
    try:
        return SavedTree() if saved is None else from_json(saved)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} does not hold a tree of services: {error}") from None


class Tree:
    """What :func:`resume` keeps of a supervisor's services."""

    def __init__(
        self, family: Family, checkpoint: Checkpoint[Any], saved: SavedTree, handover: Handover
    ) -> None:
        #: When something was done last, or is to be done next, by name: numbers that are saved.
        self.stamps: UserDict[str, float] = Stamps(saved.stamps, self._changed)
        self._family = family
        self._checkpoint = checkpoint
        self._boot = _boot()
        self._services = carry_over(saved, self._boot, time.monotonic())
        self._handover = handover
        self._names: set[str] = set()  # of those that were started here
        self._one_at_a_time = anyio.Lock()
        self._changes = self._saved = 0  # the second: as many of them as are on the disk
        self._saving = self._over = False
        family.watchers.append(self._note)

    @overload
    async def start(self, service: Service, /) -> ServiceHandle: ...
    @overload
    async def start(
        self, service: Service, another: Service, /, *more: Service
    ) -> tuple[ServiceHandle, ...]: ...

    async def start(self, *services: Service) -> ServiceHandle | tuple[ServiceHandle, ...]:
        """As :meth:`Supervisor.start`, but each goes on where it was in the host before.

        What somebody had stopped, and what had ended or failed for good, is there and is not
        started: ``await handle.start()`` does that. What was in its rest before a restart, rests
        on. If a start fails, nothing that was saved of these services changes.
        """
        handles = self._family.add(services, opener=self._handover.open)
        before = {handle.name: self._services.get(handle.name) for handle in handles}
        try:
            self._begin(handles, patient=False)
            await self._family.start(handles, at_rest=self._at_rest())
        except BaseException:
            self._restore(before)
            raise
        return handles[0] if len(handles) == 1 else tuple(handles)

    @overload
    def start_soon(self, service: Service, /) -> ServiceHandle: ...
    @overload
    def start_soon(
        self, service: Service, another: Service, /, *more: Service
    ) -> tuple[ServiceHandle, ...]: ...

    def start_soon(self, *services: Service) -> ServiceHandle | tuple[ServiceHandle, ...]:
        """As :meth:`start`, but without waiting: a start that fails is tried again by its rule."""
        handles = self._family.add(services, opener=self._handover.open)
        self._begin(handles, patient=True)
        return handles[0] if len(handles) == 1 else tuple(handles)

    async def saved(self) -> None:
        """Wait until all that has changed is on the disk.

        :raises DiskFull: as for :meth:`Checkpoint.save`. In the background, where it is only
            logged, the next change tries again.
        """
        while self._saved < self._changes and not self._over:
            async with self._one_at_a_time:
                await self._save()

    # --- how ----------------------------------------------------------------------------------

    def _at_rest(self) -> set[str]:
        return {name for name, saved in self._services.items() if not saved.runs}

    def _begin(self, handles: Sequence[ServiceHandle], *, patient: bool) -> None:
        before = {handle: self._services.get(handle.name) for handle in handles}
        self._names.update(handle.name for handle in handles)
        names = [handle.name for handle in handles]
        self._family.begin(names, patient=patient, at_rest=self._at_rest())
        for handle, saved in before.items():
            if saved is not None:
                handle.resume(saved)
                self._note(handle)

    def _note(self, handle: ServiceHandle) -> None:
        """Something has become of it."""
        if handle.name in self._names:
            self._services[handle.name] = SavedService(
                self._family.intends(handle), handle.never, handle.rule.state(), handle.next_start
            )
            self._changed()

    def _restore(self, before: dict[str, SavedService | None]) -> None:
        """None of these has been started, and nobody has stopped them."""
        self._names.difference_update(before)
        for name, saved in before.items():
            self._services.pop(name, None)
            if saved is not None:
                self._services[name] = saved
        self._changed()

    def _changed(self) -> None:
        self._changes += 1
        if not self._saving and not self._over:
            self._saving = True
            self._family.tasks.start_soon(self._save_in_background)

    async def _save_in_background(self) -> None:
        try:
            await self.saved()
        except OSError as error:
            extra = {"error": str(error), "errno": error.errno}
            _log.warning("the tree of services is not saved: %s", error, extra=extra)
        finally:
            self._saving = False

    async def _save(self) -> None:
        changes = self._changes
        if self._saved < changes and not self._over:  # or else somebody has just done it
            tree = SavedTree(self._services, dict(self.stamps), self._boot, time.monotonic())
            await self._checkpoint.save(to_json(tree))
            self._saved = changes

    async def _save_last(self) -> None:
        async with self._one_at_a_time:
            try:
                await self._save()
            except OSError:
                self._over = True
                raise
            self._over = True

    async def _close(self) -> None:
        self._family.watchers.remove(self._note)
        late = await to_the_end(self._save_last, lambda: self._over)
        if late is not None:
            raise late


class Stamps(UserDict[str, float]):
    """Tells of its changes."""

    def __init__(self, saved: dict[str, float], changed: Callable[[], None]) -> None:
        self._changed: Callable[[], None] = lambda: None
        super().__init__(saved)
        self._changed = changed

    def __setitem__(self, name: str, stamp: float) -> None:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- input
            raise TypeError(f"the name of a stamp must be a str, not {name!r}")
        super().__setitem__(name, to_stamp(f"stamps[{name!r}]", stamp))
        self._changed()

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self._changed()


def _boot() -> str:
    """Which boot of the system this is; empty where nothing tells."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return ""
