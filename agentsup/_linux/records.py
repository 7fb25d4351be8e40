"""What each keeper has in hand: one file a keeper in the user's runtime directory.

::

    FIRST STRIDE CAPACITY        its tags
    PID START NAMESPACE          its host
    PATH                         its control group, if it has one, written by the keeper itself

The keeper holds the file's flock(2) for as long as it lives and deletes it when it ends in order.
A file whose lock is free therefore names a keeper that died by violence; if its host died at the
same stroke, nobody has killed what they left.  So every start of a keeper begins by sweeping that:
crash-only, start is recovery.  A keeper whose host is dead and that still holds its lock is about
to do that by itself, unless somebody has stopped it; it is swept as well.
"""

from __future__ import annotations

import fcntl
import os
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from .._rules.tags import TagRange
from .cgroup import destroy
from .sweep import sweep

if TYPE_CHECKING:
    from collections.abc import Iterator


def runtime_directory() -> Path:
    """The same for every process of the user, whatever its environment says."""
    uid = os.geteuid()
    if uid == 0:
        return Path("/run/agentsup")
    home = Path(f"/run/user/{uid}")
    return home / "agentsup" if os.access(home, os.W_OK) else Path(f"/tmp/agentsup-{uid}")


def own_directory() -> Path:
    path = runtime_directory()
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(f"{path} is not a private directory of this user") from None
    return path


def pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def start_time_of(pid: int) -> int:
    """OSError where it cannot be told: another number would be that of a host that is dead."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()[19])


@frozen
class Record:
    """A record as it was read."""

    tags: TagRange
    host: int
    host_start: int
    namespace: int
    groups: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Record:
        """ValueError if it was cut short, by a full disk or a power cut."""
        tags, host, *groups = text.splitlines()
        first, stride, capacity = map(int, tags.split())
        pid, start, namespace = map(int, host.split())
        return cls(TagRange(first, stride, capacity), pid, start, namespace, tuple(groups))

    @property
    def host_is_dead(self) -> bool:
        """False as well for a host in another PID namespace, where its number means another, and
        where nobody can tell: without descriptors, say."""
        try:
            if self.namespace != pid_namespace():
                return False
            return start_time_of(self.host) != self.host_start
        except (FileNotFoundError, ProcessLookupError):
            return True
        except OSError:
            return False

    def clear(self) -> bool:
        """Kill all that the keeper has left; whether nothing is."""
        gone = [destroy(group) for group in self.groups]
        return sweep(self.tags) and all(gone)


def create(tags: TagRange) -> tuple[int, str]:
    """A locked record for a new keeper: its descriptor, for the keeper to inherit, and its path.

    Without a place for it, the path is empty and a warning says what that means.
    """
    try:
        directory = own_directory()
        pid = os.getpid()
        name = f"{pid}-{tags.first:x}"
        temporary, path = directory / f".{name}", directory / name
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Locked before it can be found, so that nobody takes it for a dead keeper's.
            fcntl.flock(fd, fcntl.LOCK_EX)
            host = f"{pid} {start_time_of(pid)} {pid_namespace()}"
            os.write(fd, f"{tags.first} {tags.stride} {tags.capacity}\n{host}\n".encode())
            temporary.rename(path)
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        warnings.warn(
            f"agentsup keeps no record of its keeper ({error}): if this process and the keeper "
            "are killed at one stroke, the next start will not find what they left",
            RuntimeWarning,
            stacklevel=2,
        )
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), ""
    return fd, str(path)


def clear(path: str, tags: TagRange) -> None:
    """Kill what this process's own keeper has left when it died, and remove its record."""
    try:
        gone = Record.parse(Path(path).read_text()).clear() if path else sweep(tags)
    except (OSError, ValueError):
        gone = sweep(tags)
    if path and gone:
        Path(path).unlink(missing_ok=True)


def sweep_dead() -> None:
    """Kill what keepers that died by violence have left."""
    for path, record in _dead():
        if record.clear():
            path.unlink(missing_ok=True)


def _dead() -> Iterator[tuple[Path, Record]]:
    try:
        paths = [path for path in own_directory().iterdir() if not path.name.startswith(".")]
    except OSError:
        return  # create() is about to say so
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # it has just ended in order
        try:
            record = Record.parse(os.read(fd, 1 << 16).decode())
            if record.host_is_dead or _is_free(fd):
                yield path, record
        except ValueError:
            if _is_free(fd):
                path.unlink(missing_ok=True)
        finally:
            os.close(fd)


def _is_free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
