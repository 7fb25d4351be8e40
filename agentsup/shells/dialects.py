"""What is said to a shell, and what it says back.

The shell is an interactive one, without an echo: an interrupt ends the command and not the shell,
an error in an expansion as well.  It has two descriptors besides its input, which no command
inherits: ``command``, a file with the text of a command, and ``status``, a pipe.  Its own output,
prompts for one, goes nowhere; a command's goes to ``out`` and ``err``, or to a terminal as ``out``.

A turn is two lines of its input.  The first one reads a command and runs it; the second one, which
an interrupt of the first leaves alone, says its status.  Whatever a command prints, it cannot
print there.  Each such line has a number, higher than the last one's, and so a line that the shell
has lost can be said again.
"""

from __future__ import annotations

from attrs import frozen


@frozen
class Dialect:
    """How one kind of shell is spoken to."""

    arguments: tuple[str, ...]
    #: The numbers that the shell has its descriptors as.
    command: int
    status: int
    out: int
    err: int
    #: Before the first turn.
    settings: str
    #: Reads the command into a variable.
    read: str
    #: What comes after the command.
    end: bytes
    #: Does what it says even where the user has a function of that name.
    own: str
    #: bash sets the modes of its terminal after a command that a signal has ended, and complains if
    #: it has none. It is started with one as this number, which is none of its commands'.
    terminal: int | None = None

    def opening(self, terminal: str | None) -> str:
        """The settings.

        :param terminal: what its commands have. The first that a shell opens becomes its own.
        """
        err = 2 if self.terminal is None else _ERR_MEANWHILE
        streams = f"{self.out}>&1 {self.err}>&{err}"
        if terminal:
            streams = f"{self.out}<>{terminal} {self.err}>&{self.out}"
        close = "" if self.terminal is None else f" {err}>&-"
        return f"exec {streams}{close} >/dev/null 2>&1; {self.settings}\n"

    def turn(self, last_status: int, *, merge_stderr: bool, terminal: bool) -> str:
        """The line that runs the command."""
        err = self.out if merge_stderr else self.err
        stdin = f"<&{self.out}" if terminal else "</dev/null"
        closed = " ".join(f"{fd}>&-" for fd in (self.command, self.status, self.out, self.err))
        recall = _RECALL.format(last_status) if last_status else ":"
        read = self.read.format(fd=self.command)
        streams = f"{stdin} >&{self.out} 2>&{err} {closed}"
        return f'{read}; {recall}; {self.own} eval "$__agentsup" {streams}\n'

    def say(self, number: int, mark: str | None) -> str:
        """The line that says the status of the last command.

        :param mark: a format for printf(1), to say on the terminal that all before it is out.
        """
        line = f'{self.own} printf "%s %s\\n" "$?" {number} >&{self.status}'
        if mark:
            line += f'; {self.own} printf "{mark}" >&{self.out}'
        return line + "\n"


_ERR_MEANWHILE = 9
#: Starts the shell that its arguments say, with a terminal for its errors.
WITH_TERMINAL = f'exec "$@" {_ERR_MEANWHILE}>&2 2>&{{0}} {{0}}>&-'
#: Makes ``$?`` what it was, but with ``set -e``, which would take it for a failure.
_RECALL = "case $- in (*e*) ;; (*) __agentsup_last {} ;; esac"
_LAST = '__agentsup_last() { return "$1"; }'

#: It takes the numbers below 64 for its own pipes, from 63 down.
BASH = Dialect(
    arguments=("--norc", "--noprofile", "--noediting", "-i"),
    command=64,
    status=65,
    out=66,
    err=67,
    settings=f"unset HISTFILE; set +H +m +o history; history -c; PS1= PS2=; {_LAST}",
    read="IFS= \\builtin read -r -d '' -u {fd} __agentsup",
    end=b"\0",
    own="\\builtin",
    terminal=8,
)

#: What POSIX has. Its shells take descriptors of one digit only.
POSIX = Dialect(
    arguments=("-i",),
    command=6,
    status=7,
    out=8,
    err=9,
    settings=f"set +m; PS1= PS2= __agentsup_end='\n'; {_LAST}",
    read=(
        "__agentsup=; while IFS= \\command read -r __agentsup_line; do "
        '__agentsup="$__agentsup$__agentsup_line$__agentsup_end"; done <&{fd}'
    ),
    end=b"\n",
    own="\\command",
)
