r"""What in a text is a secret?

=============================================  ===================================================
a secret stands                                as in
=============================================  ===================================================
behind a telling name                          ``API_KEY=…``, ``--token …``, ``"password": "…"``
in a header                                    ``Authorization: Bearer …``, ``Cookie: …``
before the host of a URL                       ``postgres://bob:…@db``, ``https://…@host``
in the query of a URL                          ``?sig=…``, ``&access_token=…``
behind an option that some programs have       ``curl -u bob:…``, ``mysql -p…``, ``sshpass -p …``
anywhere, in the form of well-known issuers    ``ghp_…``, ``sk-…``, ``AKIA…``, ``eyJ…``, PEM
=============================================  ===================================================

``[redacted]`` stands in its place.  In doubt something is one: a log that lacks a harmless word is
better than one that has a password.  A random word with nothing around it that tells is not found.

Re-reading a text is cheap where nothing hints at a secret: the forms are not even imported then.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

REDACTED: Final = "[redacted]"

#: Every form has one of these in it, in whatever case.
_HINTS: Final = (
    *("token", "secret", "pass", "credential", "key", "auth", "cookie", "bearer", "pwd"),
    *("pat=", "_pat", "@", "sig=", "signature", "code=", "curl", "mysql", "mariadb", "redis-cli"),
    *("gho_", "ghp_", "ghr_", "ghs_", "ghu_", "github_pat_", "glpat-", "xox", "xapp-", "hf_"),
    *("npm_", "pypi-age", "sk_", "rk_", "aiza", "ya29.", "dop_v1_", "sg.", "slack.com/services/"),
    *("sk-", "akia", "asia", "eyj"),
)

_also: list[re.Pattern[str]] = []


def redact_also(pattern: str | re.Pattern[str]) -> None:
    """Take whatever matches ``pattern`` for a secret too, everywhere in this process.

    :param pattern: a regular expression, for :func:`re.sub`. All that it matches is replaced.
    """
    try:
        compiled = re.compile(pattern)
        empty = compiled.search("") is not None
    except re.error as error:
        raise ValueError(f"pattern is not a regular expression: {error}: {pattern!r}") from None
    except TypeError:
        raise TypeError(f"pattern must be a str or a compiled one, not {pattern!r}") from None
    if empty:
        raise ValueError(f"pattern matches the empty text, so every text: {pattern!r}")
    if compiled not in _also:
        _also.append(compiled)


def is_secret(name: str) -> bool:
    """Whether what is called so is secret: a variable, an option, a key of a mapping."""
    if not _hints(name):
        return False
    from .secret_forms import NAME

    return NAME.search(name) is not None


def redact(text: str) -> str:
    """The text without its secrets."""
    for pattern in _also:
        text = pattern.sub(REDACTED, text)
    if _hints(text):
        from .secret_forms import IN_TEXT

        for pattern, kept in IN_TEXT:
            text = pattern.sub(kept, text)
    return text


def redact_argv(argv: Sequence[str]) -> tuple[str, ...]:
    """The words of a command without its secrets; there are as many of them."""
    words = tuple(map(redact, argv)) if _also else tuple(argv)
    if not _hints("\0".join(words)):
        return words
    from .secret_forms import redact_words

    return redact_words(words, redact)


def _hints(text: str) -> bool:
    lower = text.lower()
    return any(hint in lower for hint in _HINTS)
