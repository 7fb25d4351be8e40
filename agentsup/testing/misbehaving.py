"""Programs that do what tools should not, for tests of whatever has to cope with them.

==============================  ===================================================================
method                          what comes of it
==============================  ===================================================================
hangs                           never ends by itself
ignores_term                    SIGTERM does not end it
ignores_everything              no signal does, but SIGKILL
stops_itself                    is stopped as by Ctrl-Z, and cannot act on signals
floods                          prints more than anybody can keep
partial_line                    its last line has no end
half_closed_pipe                closes its output, and lives on
daemonizes                      exits, and leaves a daemon that has got away from it
forks_children                  ending it alone leaves its children
exits_while_child_holds_pipe    exits, and its output does not end
leaks_memory                    uses more and more memory
wrong_exit, dies_by             fails, by a status or by a signal
crashes_at_start                fails the first times that it is run
crashes_after                   works for a while, then fails
slow_start                      takes long until it is ready
flaky_health                    its health checks fail now and then
==============================  ===================================================================
"""

from __future__ import annotations

import json
import os
import signal as signals
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attrs import field, frozen

from .._values.command import Command
from .._values.escalation import to_signal
from .._values.number import is_seconds, seconds, whole
from .._values.path import to_path

if TYPE_CHECKING:
    from .._values.escalation import SignalLike

_PROGRAMS = str(Path(__file__).with_name("programs.py"))
_STREAMS = ("stdout", "stderr")
#: A process lives through these, or is only stopped by them.
_NOT_DEADLY = {
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGWINCH",
}


def _finite(name: str, value: float) -> float:
    checked = seconds(name, value)
    if checked is None:
        raise ValueError(f"{name} must be a finite number of seconds, not {value!r}")
    return checked


def _count(name: str, value: int, unit: str, *, least: int = 0, most: int | None = None) -> int:
    checked = whole(name, value, unit, least=least, most=most)
    if checked is None:
        raise TypeError(f"{name} must be a whole number of {unit}, not None")
    return checked


def _port(value: int) -> int:
    return _count("port", value, "the range of ports", most=65535)


def _absolute(name: str, value: str | os.PathLike[str]) -> str:
    return os.path.abspath(to_path(name, value))


@frozen
class Misbehaving:
    """Makes commands of programs that misbehave: ``sup.run(misbehaving.ignores_term())``.

    Whatever runs programs can be tested with them: ``subprocess.Popen(misbehaving.hangs().argv)``.
    A program that stays prints a line ``ready`` as soon as it is in its bad state: wait for that.
    Lines before it say what a test may have to know, such as ``pid 123``.

    :param lifetime: seconds after which each process of a program is ended by a SIGALRM of its
        own, so that nothing stays for ever where nobody ends it.
    """

    lifetime: float = field(default=600.0, kw_only=True, validator=is_seconds())

    def _command(self, program: str, **options: object) -> Command:
        given = json.dumps({"lifetime": self.lifetime, **options})
        return Command((sys.executable, "-I", "-S", _PROGRAMS, program, given))

    # --- it does not end ----------------------------------------------------------------------

    def hangs(self) -> Command:
        """Never ends by itself; SIGTERM ends it."""
        return self._command("hangs")

    def ignores_term(self) -> Command:
        """SIGTERM does not end it."""
        return self._command("ignores_term")

    def ignores_everything(self) -> Command:
        """Ignores every signal that can be ignored, except the SIGALRM of its lifetime."""
        return self._command("ignores_everything")

    def stops_itself(self) -> Command:
        """Stops as by Ctrl-Z: SIGTERM ends it only when somebody has sent it SIGCONT.

        A second process is there to do that at the end of its lifetime.
        """
        return self._command("stops_itself")

    # --- its output ---------------------------------------------------------------------------

    def floods(
        self, size: int | None = None, *, stream: Literal["stdout", "stderr"] = "stdout"
    ) -> Command:
        """Prints lines as fast as it can, after ``ready`` on stdout.

        :param size: bytes, after which it exits with status 0; endless by default.
        """
        if stream not in _STREAMS:
            raise ValueError(f"stream must be one of {', '.join(_STREAMS)}, not {stream!r}")
        return self._command("floods", size=whole("size", size, "bytes"), stream=stream)

    def partial_line(self, text: str = "no end of line", *, exits: bool = False) -> Command:
        """Prints ``text`` without a newline, and hangs.

        :param exits: exit with status 0 instead.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, not {text!r}")
        if "\n" in text:
            raise ValueError(f"text holds a newline, which a partial line cannot: {text!r}")
        if not isinstance(exits, bool):
            raise TypeError(f"exits must be a bool, not {exits!r}")
        return self._command("partial_line", text=text, exits=exits)

    def half_closed_pipe(self) -> Command:
        """Closes its stdout and stderr, and lives on; it never reads its stdin."""
        return self._command("half_closed_pipe")

    # --- its children -------------------------------------------------------------------------

    def daemonizes(self, *, pid_file: str | os.PathLike[str] | None = None) -> Command:
        """Leaves a daemon and exits with status 0, as soon as that has closed what it inherited.

        The daemon has a session of its own and no parent. A line ``pid 123`` says which it is.

        :param pid_file: where it writes that, too.
        """
        path = None if pid_file is None else _absolute("pid_file", pid_file)
        return self._command("daemonizes", pid_file=path)

    def forks_children(self, count: int = 3) -> Command:
        """Hangs, and so do its children. Lines ``pid 123`` say which those are."""
        return self._command("forks_children", count=_count("count", count, "children", least=1))

    def exits_while_child_holds_pipe(self) -> Command:
        """Exits with status 0, while a child of it (``pid 123``) has stdout and stderr open."""
        return self._command("exits_while_child_holds_pipe")

    # --- what it uses -------------------------------------------------------------------------

    def leaks_memory(self, size: int = 256 * 1024**2) -> Command:
        """Allocates ``size`` bytes and writes to them, 1 MiB at a time, and keeps them.

        ``ready`` comes when it has them all.
        """
        return self._command("leaks_memory", size=_count("size", size, "bytes"))

    # --- it fails -----------------------------------------------------------------------------

    def wrong_exit(self, status: int = 1) -> Command:
        """Exits with ``status`` at once."""
        return self._command(
            "wrong_exit", status=_count("status", status, "an exit status", most=255)
        )

    def dies_by(self, signal: SignalLike = signals.SIGSEGV) -> Command:
        """Is killed by ``signal`` at once, without leaving a core file."""
        number = to_signal("signal", signal)
        if number.name in _NOT_DEADLY:
            raise ValueError(f"signal: no process dies by {number.name}; use 'SEGV', for instance")
        return self._command("dies_by", number=number)

    def crashes_at_start(self, *, times: int, count_in: str | os.PathLike[str]) -> Command:
        """Exits with status 1 and a traceback in its first ``times`` runs; later ones are ready,
        and stay.

        :param count_in: a file in which the runs are counted, a byte each.
        """
        return self._command(
            "crashes_at_start",
            times=_count("times", times, "runs", least=1),
            count_in=_absolute("count_in", count_in),
        )

    def crashes_after(self, seconds: float) -> Command:
        """Is ready at once, and exits with status 1 and a traceback ``seconds`` later."""
        return self._command("crashes_after", seconds=_finite("seconds", seconds))

    # --- a service's --------------------------------------------------------------------------

    def slow_start(
        self,
        seconds: float,
        *,
        port: int | None = None,
        file: str | os.PathLike[str] | None = None,
        notify: bool = False,
    ) -> Command:
        """Is ready only after ``seconds``: prints ``ready``, and does before that what is chosen.

        :param port: listen there, on 127.0.0.1; 0 is any free one, told by a line ``port 8000``.
        :param file: make this file.
        :param notify: send ``READY=1`` to ``NOTIFY_SOCKET``.
        """
        if not isinstance(notify, bool):
            raise TypeError(f"notify must be a bool, not {notify!r}")
        return self._command(
            "slow_start",
            seconds=_finite("seconds", seconds),
            port=None if port is None else _port(port),
            file=None if file is None else _absolute("file", file),
            notify=notify,
        )

    def flaky_health(self, *, port: int = 0, first: int = 0, every: int | None = None) -> Command:
        """A web server whose answers have status 200, and some of them 503.

        :param port: where it listens, on 127.0.0.1; 0 is any free one, told by ``port 8000``.
        :param first: how many of the first answers are 503.
        :param every: 2 makes every second one 503.
        """
        return self._command(
            "flaky_health",
            port=_port(port),
            first=_count("first", first, "answers"),
            every=whole("every", every, "answers", least=1),
        )
