"""Where the file is, and where the tree that runs from it keeps what it has.

``agentsup ctl`` asks for nothing else, and often: so this imports as little as it can.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "agentsup.toml"
STATE_DIR = ".agentsup"
SOCKET = "control.sock"
#: What struct sockaddr_un has room for, less its final NUL.
LONGEST_SOCKET = 107


def find_config(start: str | os.PathLike[str] | None = None) -> str:
    """The path of the ``agentsup.toml`` in a directory, the current one by default.

    :raises ConfigError: there is none.
    """
    file = os.path.join(os.path.abspath(os.fspath(start or ".")), NAME)
    if not os.path.isfile(file):
        from .reading import fail

        fail(file, None, "there is no such file: name another one by --file")
    return file


def place(path: str | os.PathLike[str], env: Mapping[str, str] | None = None) -> tuple[str, str]:
    """The paths of the control socket and of the directory for state that a file means.

    :param env: what ``${NAME}`` is taken from, this process's environment by default.
    :raises ConfigErrors: the file cannot be read, or its ``[daemon]`` does not say.
    """
    from .reading import fail, parse, read

    file = os.fspath(path)
    text = read(file)
    # Most files leave it at the defaults; to parse all of such a file takes milliseconds.
    given = parse(file, text) if "daemon" in text or "\\" in text else {}
    try:
        directory = os.path.dirname(os.path.abspath(file))
        return _paths(given.get("daemon", {}), directory, os.environ if env is None else env)
    except (TypeError, ValueError) as error:
        fail(file, None, str(error), "daemon")


def _paths(said: Any, directory: str, env: Mapping[str, str]) -> tuple[str, str]:
    if not isinstance(said, dict):
        raise TypeError("must be a table")
    table = cast("dict[str, Any]", said)
    state_dir = absolute(table.get("state_dir", STATE_DIR), directory, env, "state_dir")
    return absolute(table.get("socket", SOCKET), state_dir, env, "socket"), state_dir


def absolute(path: Any, directory: str, env: Mapping[str, str], key: str = "") -> str:
    """A path of the file, its variables expanded, taken from that directory."""
    if isinstance(path, str) and "$" in path:
        from .substitution import expand

        path = expand(path, env)
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(f"{key} must be the path of a file".lstrip())
    return os.path.normpath(os.path.join(directory, path))
