"""Keep secrets out of what a tool has printed, without changing its length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeVar

    from .._values.output import Output
    from .._values.result import Leftover, Result

    AnyResult = TypeVar("AnyResult", bound=Result)

#: Bytes. Anything shorter is in half of all output by chance.
SHORTEST = 6
#: A piece of a secret at a cut is masked from so many bytes on.
_PIECE = 4


def hidden_parts(secret: bytes) -> list[bytes]:
    """What is to be masked of a secret: its lines, for programs print and indent them one by one.

    Nothing, if it has none that is long enough.
    """
    return [line for line in map(bytes.strip, secret.splitlines()) if len(line) >= SHORTEST]


def mask(data: bytes, secrets: Iterable[bytes], *, begins: bool = True, ends: bool = True) -> bytes:
    """``data`` with an asterisk for each byte of a secret.

    :param begins: it is the beginning of a stream; else something before it was left out, and it
        may begin in the middle of a secret.
    :param ends: the same of its end.
    """
    masked = bytearray(data)
    for secret in secrets:
        for start in _places(data, secret, begins=begins, ends=ends):
            first, last = max(start, 0), min(start + len(secret), len(data))
            masked[first:last] = b"*" * (last - first)
    return bytes(masked)


def _places(data: bytes, secret: bytes, *, begins: bool, ends: bool) -> Iterator[int]:
    """Where it begins, below zero if that was left out. It may overlap with itself."""
    place = data.find(secret)
    while place >= 0:
        yield place
        place = data.find(secret, place + 1)
    if not begins:
        for size in range(_PIECE, len(secret)):
            end = secret[-size:]
            if data.startswith(end) or (not ends and end.startswith(data) and len(data) >= _PIECE):
                yield size - len(secret)
    if not ends:
        for size in range(_PIECE, len(secret)):
            if data.endswith(secret[:size]):
                yield len(data) - size


def beginning_at_end(data: bytes, secrets: Iterable[bytes]) -> int:
    """How many bytes at its end may be the beginning of a secret, whose end is still to come."""
    found = 0
    for secret in secrets:
        sizes = range(min(len(secret) - 1, len(data)), found, -1)
        found = next((size for size in sizes if data.endswith(secret[:size])), found)
    return found


# --- in values --------------------------------------------------------------------------------


def mask_result(result: AnyResult, secrets: tuple[bytes, ...]) -> AnyResult:
    """The same with asterisks for secrets."""
    return evolve(
        result,
        argv=_words(result.argv, secrets),
        stdout=mask_output(result.stdout, secrets),
        stderr=mask_output(result.stderr, secrets),
        leftovers=mask_leftovers(result.leftovers, secrets),
        adopted=mask_leftovers(result.adopted, secrets),
    )


def mask_leftovers(
    leftovers: Iterable[Leftover], secrets: tuple[bytes, ...]
) -> tuple[Leftover, ...]:
    """A shell puts what is in a variable into the arguments of what it starts."""
    return tuple(evolve(left, argv=_words(left.argv, secrets)) for left in leftovers)


def _words(argv: tuple[str, ...], secrets: tuple[bytes, ...]) -> tuple[str, ...]:
    shown = [secret.decode("utf-8", "backslashreplace").encode() for secret in secrets]
    encoded = [word.encode(errors="surrogateescape") for word in argv]
    # Long arguments are cut.
    return tuple(mask(word, shown, ends=False).decode("utf-8", "replace") for word in encoded)


def mask_output(output: Output, secrets: tuple[bytes, ...]) -> Output:
    if output.truncated:
        head = mask(output.head, secrets, ends=False)
        tail = mask(output.tail, secrets, begins=False)
    else:
        whole = mask(output.head + output.tail, secrets)
        head, tail = whole[: len(output.head)], whole[len(output.head) :]
    return evolve(output, head=head, tail=tail)
