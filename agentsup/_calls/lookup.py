"""Find the program that a command names, before anything is started."""

from __future__ import annotations

import errno
import os
import stat

from .._errors import SpawnError, spawn_text

DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"


def find_program(
    program: bytes, path: bytes | None, cwd: bytes, argument: str = "command"
) -> bytes:
    """The file to execute, or a SpawnError that says where it was looked for.

    As execvp(3): a name with a slash is taken as it is, relative to ``cwd``, and any other is
    looked up in ``path``.
    """
    name = os.fsdecode(program)
    if b"/" in program:
        _check_executable(os.path.join(cwd, program), name, argument)
        return program
    searched = DEFAULT_PATH if path is None else path
    forbidden = None
    for directory in searched.split(b":"):
        candidate = os.path.join(cwd, directory, program)
        if os.access(candidate, os.X_OK):
            if not os.path.isdir(candidate):
                return os.path.join(directory, program)  # it is started from within cwd
        elif forbidden is None and os.path.isfile(candidate):
            forbidden = os.fsdecode(candidate)
    if forbidden is not None:
        raise SpawnError(errno.EACCES, f"{argument}: the file is not executable", forbidden)
    where = "in the default PATH" if path is None else "in PATH"
    raise SpawnError(
        errno.ENOENT, f"{argument}: program not found {where}={os.fsdecode(searched)}", name
    )


def _check_executable(path: bytes, name: str, argument: str) -> None:
    if os.access(path, os.X_OK):
        if os.path.isdir(path):
            raise SpawnError(errno.EISDIR, f"{argument}: this is a directory, not a program", name)
        return
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise SpawnError(
            error.errno or errno.ENOENT, f"{argument}: {os.strerror(error.errno or 0)}", name
        ) from None
    if not stat.S_ISREG(mode):
        raise SpawnError(errno.EACCES, f"{argument}: this is not a regular file", name)
    raise SpawnError(errno.EACCES, f"{argument}: the file is not executable (chmod +x?)", name)


def check_directory(name: str, path: bytes, mode: int = os.X_OK) -> None:
    """A SpawnError that names the argument unless ``path`` is a directory one can enter."""
    shown = os.fsdecode(path)
    try:
        found = os.stat(path)
    except OSError as error:
        raise SpawnError(
            error.errno or errno.ENOENT, f"{name}: {os.strerror(error.errno or 0)}", shown
        ) from None
    if not stat.S_ISDIR(found.st_mode):
        raise SpawnError(errno.ENOTDIR, f"{name}: not a directory", shown)
    if mode & os.W_OK and os.statvfs(path).f_flag & os.ST_RDONLY:
        raise SpawnError(errno.EROFS, f"{name}: {os.strerror(errno.EROFS)}", shown)
    if not os.access(path, mode):
        use = "write to" if mode & os.W_OK else "enter"
        raise SpawnError(errno.EACCES, f"{name}: no permission to {use} the directory", shown)


def confine(cwd: bytes, workspace: bytes) -> bytes:
    """``cwd``, from within the workspace, without links; ValueError if it is outside of it."""
    found = os.path.realpath(os.path.join(workspace, cwd))
    if os.path.commonpath([found, workspace]) != workspace:
        shown = os.fsdecode(found), os.fsdecode(workspace)
        raise ValueError("cwd: {} is outside of the workspace, {}".format(*shown))
    return found


def explain(error: int, step: str, program: bytes, cwd: bytes) -> SpawnError:
    """The keeper's report of a failed start, in words."""
    name = os.fsdecode(program)
    text = spawn_text(error) if step in ("exec", "fork") else os.strerror(error)
    if step == "exec":
        if error == errno.ENOENT and os.path.exists(os.path.join(cwd, program)):
            text = "the interpreter in its first line, or its loader, does not exist"
        elif error == errno.ENOEXEC:
            text = "not a program: it has no '#!' line and is no binary of this machine"
        return SpawnError(error, f"command: {text}", name)
    hint = {
        (errno.EPERM, "uid"): " (changing users takes root)",
        (errno.EPERM, "gid"): " (changing groups takes root)",
        (errno.EPERM, "groups"): " (changing groups takes root)",
        (errno.EINVAL, "limit"): " (beyond what this process may have?)",
    }.get((error, step), "")
    argument = {"limit": "limits", "uid": "user", "gid": "group", "groups": "group"}.get(step, step)
    return SpawnError(error, f"{argument}: {text}{hint}", name)
