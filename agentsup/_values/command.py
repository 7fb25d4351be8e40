"""What is to be run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

from attrs import field, frozen

Word: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"


def _words(command: Sequence[Word]) -> tuple[Word, ...]:
    if isinstance(command, (str, bytes)):
        raise TypeError(
            f"command must be a sequence of words, not {type(command).__name__}; "
            "for a shell command line use agentsup.shell(…)"
        )
    try:
        return tuple(command)
    except TypeError:
        raise TypeError(f"command must be a sequence of words, not {command!r}") from None


@frozen
class Command:
    """An argument vector, made by :func:`shell` or from any sequence of words.

    :param argv: the program and its arguments. The program is looked up in the PATH of the
        child's environment unless it holds a slash.
    """

    argv: tuple[Word, ...] = field(converter=_words)

    def __str__(self) -> str:
        import shlex

        return shlex.join(map(os.fsdecode, self.argv))


CommandLike: TypeAlias = "Command | Sequence[Word]"


def shell(script: str, *, executable: str = "/bin/sh") -> Command:
    """A command that has a shell interpret ``script``, as in ``sh -c``.

    :param script: shell code. Never build it from untrusted words without :func:`shlex.quote`.
    :param executable: the shell.
    """
    if not isinstance(script, str):
        raise TypeError(f"script must be a str, not {type(script).__name__}")
    return Command((executable, "-c", script))


def encode_argv(command: CommandLike) -> list[bytes]:
    """The words as bytes, or one error that names the argument."""
    words = command.argv if isinstance(command, Command) else _words(command)
    try:
        argv = [word if type(word) is bytes else os.fsencode(word) for word in words]
    except TypeError:
        raise TypeError(
            f"command must be a sequence of str, bytes or path objects, not {command!r}"
        ) from None
    except UnicodeEncodeError as error:
        raise ValueError(f"command cannot be encoded: {error}") from None
    if not argv:
        raise ValueError("command is empty: it needs at least the program to run")
    if not argv[0]:
        raise ValueError("command[0] is empty: it must name the program to run")
    for index, word in enumerate(argv):
        if b"\0" in word:
            raise ValueError(f"command[{index}] holds a NUL byte, which no argument can: {word!r}")
    return argv


def to_command(value: CommandLike) -> Command:
    """``value`` as a command that can be encoded."""
    command = value if isinstance(value, Command) else Command(value)
    encode_argv(command)  # for its errors
    return command
