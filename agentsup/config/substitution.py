"""Variables in a file: ``${NAME}`` as systemd.service(5) has it, and files of them.

==================  ================================================================
text                what becomes of it
==================  ================================================================
``${NAME}``         the value, within its word
``${NAME:-text}``   the value, or the text where it is not set or empty
``$NAME``           as a whole word of a command: the words of the value, none at all
                    for an empty one; anywhere else it is left as it is
``$$``              ``$``
==================  ================================================================

An unset variable is an error: systemd would take nothing in its place.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(rf"\$\$|\$\{{({_NAME})(?::-([^}}]*))?\}}|(\$\{{[^}}]*\}}?)")
_WORD = re.compile(rf"\$({_NAME})")
_ANY = re.compile(rf"\$\{{?({_NAME})")


def is_name(text: str) -> bool:
    """Whether a variable can be called that."""
    return re.fullmatch(_NAME, text) is not None


def expand(text: str, variables: Mapping[str, str]) -> str:
    """``text`` with the values of its variables.

    :raises ValueError: one of them is not set; the message has its name.
    """
    if "$" not in text:
        return text

    def value(match: re.Match[str]) -> str:
        name, default, other = match.groups()
        if other is not None:
            raise ValueError(f"{other!r} is no variable: write ${{NAME}}, or $$ for a dollar sign")
        if name is None:
            return "$"
        if default is not None:
            return variables.get(name) or default
        return _value(name, variables)

    return _REFERENCE.sub(value, text)


def expand_words(words: Iterable[str], variables: Mapping[str, str]) -> tuple[str, ...]:
    """The words of a command with the values of their variables."""
    return tuple(word for given in words for word in _expand_word(given, variables))


def _expand_word(word: str, variables: Mapping[str, str]) -> Iterable[str]:
    alone = _WORD.fullmatch(word)
    if not alone:
        return (expand(word, variables),)
    import shlex

    try:
        return shlex.split(_value(alone[1], variables))
    except ValueError as error:
        raise ValueError(f"the value of {word} cannot be split into words: {error}") from None


def _value(name: str, variables: Mapping[str, str]) -> str:
    try:
        return variables[name]
    except KeyError:
        raise ValueError(
            f"${{{name}}} is not set: set it in env or env_file, or write ${{{name}:-…}}"
        ) from None


def conceal(reason: str, texts: Iterable[str], variables: Mapping[str, str]) -> str:
    """``reason`` without the values of the variables in ``texts``, which may be secrets."""
    names = {name for text in texts for name in _ANY.findall(text) if name in variables}
    hidden = {part: name for name in names for part in _parts(variables[name])}
    for part in sorted(hidden, key=len, reverse=True):
        reason = reason.replace(part, f"${{{hidden[part]}}}")
    return reason


def _parts(value: str) -> Iterator[str]:
    """As a message could have it. What is shorter than that is no secret, and is found anywhere."""
    for part in (value, *value.split()):
        if len(part) >= 4:
            yield from (part, repr(part)[1:-1], ascii(part)[1:-1])


# --- files ------------------------------------------------------------------------------------

# One value is what comes up to the end of its line, in pieces: 'verbatim', "with some escapes",
# or bare. A backslash at the end of a line joins it to the next one.
_SKIPPED = re.compile(r"[ \t\r\n]*(?:[#;][^\n\r]*)?")
_ASSIGNED = re.compile(r"([^=\n\r]*)(=?)")
_GAP = re.compile(r"[ \t]*")
_QUOTED = re.compile(r"""'([^']*)'|"((?:\\.|[^"\\])*)\"""", re.DOTALL)
_BARE = re.compile(r"(?:\\.|[^\n\r\\])*\\?", re.DOTALL)


def parse_env_file(text: str) -> dict[str, str]:
    """The variables of a file, as ``EnvironmentFile=`` in systemd.exec(5) has them.

    :raises ValueError: a line cannot be meant; the message begins with its number.
    """
    found: dict[str, str] = {}
    at = 0
    while True:
        at = _end(_SKIPPED, text, at)
        if at == len(text):
            return found
        if text[at] in "\n\r":
            continue
        match = _ASSIGNED.match(text, at)
        assert match
        name, assigned = match[1].strip(), match[2]
        line = text.count("\n", 0, at) + 1
        at = match.end()
        if not assigned:
            continue  # as systemd does
        if not is_name(name):
            # It may be a piece of a secret, so it is not shown.
            hint = "leave out 'export'" if name.startswith("export ") else "write NAME=value"
            raise ValueError(f"{line}: what is before the '=' is no name of a variable; {hint}")
        value, at = _parse_value(text, at)
        if value is None or "\0" in value:
            what = "a quote is not closed" if value is None else "it holds a NUL byte"
            raise ValueError(f"{line}: {name}: {what}")
        found[name] = value


def _parse_value(text: str, at: int) -> tuple[str | None, int]:
    """The value that begins there, None if its quote is not closed, and where it ends."""
    pieces: list[str] = []
    while True:
        at = _end(_GAP, text, at)
        if match := _QUOTED.match(text, at):
            verbatim, escaped = match.groups()
            pieces.append(_unescape(escaped) if verbatim is None else verbatim)
            at = match.end()
            continue
        if text[at : at + 1] in ("'", '"'):
            return None, at
        match = _BARE.match(text, at)
        assert match
        pieces.append(_bare(match[0]))
        return "".join(pieces), match.end()


def _unescape(text: str) -> str:
    return re.sub(r'\\(["\\`$])|\\\n', lambda match: match[1] or "", text)


def _bare(text: str) -> str:
    """Escapes undone, and spaces at the end cut off, unless they are escaped."""
    pieces = re.findall(r"\\.?|[^\\]+", text, re.DOTALL)
    if pieces and not pieces[-1].startswith("\\"):
        pieces[-1] = pieces[-1].rstrip(" \t\r\n")
    return "".join(
        ("" if piece[1:] == "\n" else piece[1:]) if piece[0] == "\\" else piece for piece in pieces
    )


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    assert match
    return match.end()
