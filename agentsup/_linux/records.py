"""Who holds which tags: one file a keeper in the user's runtime directory.

The keeper holds the file's flock(2) for as long as it lives and deletes it when it ends in order.
A file whose lock is free therefore names a keeper that died by violence; if its host died at the
same stroke, nobody has killed what they left.  So every start of a keeper begins by sweeping that:
crash-only, start is recovery.
"""

from __future__ import annotations

import fcntl
import os
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from .._rules.tags import TagRange
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


def _directory() -> Path:
    path = runtime_directory()
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(f"{path} is not a private directory of this user") from None
    return path


def create(tags: TagRange) -> tuple[int, str]:
    """A locked record for a new keeper: its descriptor, for the keeper to inherit, and its path.

    Without a place for it, the path is empty and a warning says what that means.
    """
    try:
        directory = _directory()
        name = f"{os.getpid()}-{tags.first:x}"
        temporary, path = directory / f".{name}", directory / name
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Locked before it can be found, so that nobody takes it for a dead keeper's.
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.write(fd, f"{tags.first} {tags.stride} {tags.capacity}\n".encode())
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
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), ""
    return fd, str(path)


def sweep_dead() -> None:
    """Kill what keepers that died by violence have left."""
    for path, tags in _dead():
        if sweep(tags):
            path.unlink(missing_ok=True)


def _dead() -> Iterator[tuple[Path, TagRange]]:
    try:
        paths = [path for path in _directory().iterdir() if not path.name.startswith(".")]
    except OSError:
        return  # create() is about to say so
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # it has just ended in order
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            first, stride, capacity = os.read(fd, 100).split()
            yield path, TagRange(int(first), int(stride), int(capacity))
        except BlockingIOError:
            pass  # alive
        except ValueError:
            path.unlink(missing_ok=True)  # cut short by a full disk or a power cut
        finally:
            os.close(fd)
