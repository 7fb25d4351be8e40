"""What the caller has to say: to a step that was found interrupted, and to one that fails."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from .._rules.ledger import ANSWERS, Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import tenacity

    from .history import LedgerStep

Policy: TypeAlias = "Answer | Callable[[LedgerStep], Answer | Awaitable[Answer]]"


def check_policy(policy: Policy) -> None:
    if not callable(policy):
        _check_answer("policy", policy, " or a callable that returns one of these")


async def ask(policy: Policy, step: LedgerStep) -> Answer:
    """What ``policy`` has to say to an interrupted ``step``."""
    if not callable(policy):
        return policy
    answer: Answer = await _call(policy, [step])
    _check_answer("what the policy returns", answer)
    return answer


def check_retry(retry: tenacity.AsyncRetrying | None) -> None:
    if retry is None:
        return
    import tenacity

    if not isinstance(retry, tenacity.AsyncRetrying):
        raise TypeError(f"retry must be a tenacity.AsyncRetrying, not {type(retry).__name__}")


async def attempt(
    fn: Callable[..., Any],
    args: Sequence[Any],
    retry: tenacity.AsyncRetrying | None,
    begin_again: Callable[[Exception], Awaitable[None]],
) -> Any:
    """What ``fn(*args)`` returns, after as many attempts as ``retry`` gives it.

    Before each but the first, ``begin_again`` is told why. What that raises ends it, and so does a
    cancellation, whatever ``retry`` would say.
    """
    if retry is None:
        return await _call(fn, args)
    import tenacity

    retry = retry.copy(sleep=anyio.sleep)
    retry.begin()
    state = tenacity.RetryCallState(retry, fn=None, args=(), kwargs={})
    error: Exception | None = None
    while True:
        do = await retry.iter(state)
        if isinstance(do, tenacity.DoSleep):
            state.prepare_for_next_attempt()
            await anyio.sleep(do)
        elif not isinstance(do, tenacity.DoAttempt):
            return do
        else:
            if state.attempt_number > 1:
                await begin_again(error or ValueError("retried for its result"))
            try:
                state.set_result(await _call(fn, args))
            except Exception as exc:
                error = exc
                state.set_exception((type(exc), exc, exc.__traceback__))


async def _call(fn: Callable[..., Any], args: Sequence[Any]) -> Any:
    result = fn(*args)
    return await result if inspect.isawaitable(result) else result


def _check_answer(name: str, answer: object, more: str = "") -> None:
    if answer not in ANSWERS:
        raise ValueError(f"{name} must be 'retry', 'skip' or 'fail'{more}, not {answer!r}")
