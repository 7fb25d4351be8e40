"""What is done at the turns of a service's life, one hook after another."""

from __future__ import annotations

import functools
import inspect
import math
from typing import TYPE_CHECKING

import anyio
from attrs import evolve

from .._calls import on_loop
from .._calls.call import Call
from .._calls.spec import side_spec
from .._values.command import Command
from .._values.escalation import Escalation, Step
from .._values.probe import CallableProbe, CommandProbe, HttpProbe
from . import probing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .._calls.spec import Spec
    from .._values.hook import Hook, HookAction
    from .._values.probe import Probe
    from .._values.result import Result

_KILL_AFTER = 1.0  # seconds from SIGTERM to SIGKILL, for a command that takes too long


class Side:
    """Runs commands beside a service: as it is run itself, but each in a call of its own."""

    def __init__(
        self,
        spec: Spec,
        variables: Callable[[], Mapping[bytes, bytes | None]],
        on_hook: Callable[[Call], None],
    ) -> None:
        self._spec = spec
        self._variables = variables
        self._on_hook = on_hook
        #: The one that runs just now, if it is a hook's.
        self.hook: Call | None = None

    async def run(self, command: Command, timeout: float | None) -> Result:
        """For probes."""
        return await on_loop.run(Call(side_spec(command, self._spec, timeout, self._variables())))

    async def _run_hook(self, kill_after: float, command: Command, timeout: float | None) -> Result:
        spec = side_spec(command, self._spec, timeout, self._variables())
        escalation = Escalation(Step("TERM", kill_after))
        terms = evolve(spec.terms, escalation=escalation)
        spec = evolve(spec, terms=terms, make_log=self._spec.make_log)
        self.hook = Call(spec, eager=True)
        try:
            self._on_hook(self.hook)
            return await on_loop.run(self.hook)
        finally:
            self.hook = None

    async def do(self, name: str, hooks: Sequence[Hook], budget: float = math.inf) -> str | None:
        """Do them in order, up to the first that fails; None, or which one that is and why.

        :param budget: seconds for all of them, until nothing of them is left.
        """
        until = anyio.current_time() + budget
        for hook in hooks:
            left = max(0.002, until - anyio.current_time())
            kill_after = min(_KILL_AFTER, left / 4)
            timeout = min(hook.timeout, left - kill_after)
            run = functools.partial(self._run_hook, kill_after)
            reason = await probing.check(_probe(hook.action), timeout, run)
            if reason is not None:
                return f"{name} ({_name(hook.action)}): {reason}"
        return None


def _probe(action: HookAction) -> Probe:
    if isinstance(action, Command):
        return CommandProbe(action)
    if isinstance(action, HttpProbe):
        return action

    async def call() -> bool:
        result = action()
        if inspect.isawaitable(result):
            await result
        return True  # it did not raise

    return CallableProbe(call)


def _name(action: HookAction) -> str:
    if isinstance(action, HttpProbe):
        return f"{action.method} {action.url}"
    return str(action) if isinstance(action, Command) else getattr(action, "__name__", repr(action))
