"""How a secret looks: regular expressions, which are expensive to compile.

Each takes time in proportion to the text, whatever that is: what is repeated without bound either
has matched then, and is behind us, or ends where the next match could begin.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .redaction import REDACTED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# A name tells by a word in it, which ends where the next one begins: not TOKENIZERS, not secretary.
_END = r"(?! [a-z] | (?<=[A-Z])[A-Z] )"
# What such a name is about is public.
_PUBLIC = r"""(?! [_.-]?(?i: audience|authentication|budget|count|dir|endpoint|expir\w{0,10}|fd|file
    |helper|issuer|len|length|limit|manager|name|path|policy|size|stdin|store|ttl|type|uri|url|usage
    |version )(?![a-z]) )"""
# By first letter, which is what most places fail at, and fast.
_WORD = rf"""(?: (?: [tT](?i:oken) | [pP](?i:ass(?:word|wd|phrase|code)s?|rivate[_-]?keys?)
    | [cC](?i:redentials?) | [rR](?i:efresh[_-]?tokens) | [eE](?i:ncryption[_-]?keys?)
    | [aA](?i:(?:ccess|uth)[_-]?(?:keys?|tokens)|pi[_-]?(?:keys?|tokens)|(?:ccount|pp)[_-]?keys?)
    | [mM](?i:aster[_-]?keys?) | [sS](?i:ecrets?|(?:ervice|hared|igning|torage)[_-]?keys?)
    ) {_END} {_PUBLIC} )"""
# With "=" and as options, these do so too, if they are the end of the name.
_SHORT = r"""(?: (?<![A-Za-z])(?i:(?:ssh|db|user)?pass) | (?<=[A-Z0-9]_)KEY
    | (?<=_)(?i:pat|pwd) | (?<![A-Za-z_])(?i: pat(?==) | pwd(?==[^/~.]) ) )(?![\w-])"""

_BLANK = r"[ \t]{0,40}+"
_IS = rf"(?: = | [ \t]{_BLANK}=[ \t]{_BLANK} )"
_EQUALS = rf"(?: (?:{_WORD}[\w.-]{{0,40}}|{_SHORT}) {_IS} )"
_NAMED = rf"""(?: {_WORD} (?: [\w.-]{{0,40}}{_IS} | :(?=[^\s:]) | [\w-]{{0,40}}:[ \t]{_BLANK} )
    | {_SHORT}{_IS} | (?<![A-Za-z])(?i:pass):(?=[^\s:]) )"""
_ITEM = rf"""(?: {_WORD}[\w.-]{{0,40}} \\*["']{_BLANK}:{_BLANK}b?+ )"""  # of a mapping, as shown
_HEADER = rf"""(?: (?i:authorization|cookie) \\*["']?{_BLANK}[:=]{_BLANK} )"""
_OPTION = rf"(?: -{{1,2}}+(?!no-)[\w.-]{{0,40}}? (?:{_WORD}[\w.-]{{0,40}}|{_SHORT}) )"

# As a shell or Python takes it, which differ in what a backslash is; the bracket or comma behind a
# quoted word belongs to what is around it.
_QUOTED = (
    r"""(?: "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' | '[^']*' | \\"[^"\\]*\\" | \\'[^'\\]*\\' )"""
)
_VALUE = rf"""(?!\[redacted\])(?: {_QUOTED}(?: {_QUOTED} | [^\s\\,;)}}\]] )*
    | (?: {_QUOTED} | \\. | \S )+ )"""

_GAP = r"""(?: ["']?,?[ ]{1,8}+ )"""  # between two words
_NEAR = r"[^\n;|&]{0,400}?"

_KNOWN = r"""
    -----BEGIN[ ][A-Z0-9 ]{0,40}PRIVATE[ ]KEY.*?
      (?: -----END[ ][A-Z0-9 ]{0,40}KEY[^-]{0,9}----- | \Z )
    | (?: gh[oprsu]_ | github_pat_ | glpat- | xox[a-z]- | xapp- | hf_ | npm_ | pypi-AgE
        | [rs]k_(?:live|test)_ | AIza | ya29\. | dop_v1_ | SG\. | (?<=hooks\.slack\.com/services/) )
      [\w./-]{12,}
    | (?: (?<![A-Za-z0-9]) | (?<=\\[nrt]) ) sk-(?=[\w-]{0,60}[A-Z0-9])[\w-]{16,}
    | (?:AKIA|ASIA)[A-Z0-9]{16}
    | eyJ[\w+/=-]{17,}(?:\.[\w+/=-]*)*
"""


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.VERBOSE | re.DOTALL)


# What is to stay is in groups 1 and 2.
IN_TEXT = [
    (_compile(_KNOWN), REDACTED),
    # The userinfo of a URL, which the next URL ends; what looks like a port is one.
    (
        _compile(
            r"""(://[^\s/?#:@\["<>]*:)(?!\d{1,5}(?:[\s/?\#"',;)\]}>]|$))(?:(?!://)[^\s"<>])*(@)"""
        ),
        rf"\1{REDACTED}\2",
    ),
    (_compile(r"""((?i:https?)://)[^\s/?#:@"<>]{16,}(@)"""), rf"\1{REDACTED}\2"),
    (
        _compile(
            rf"""([?&](?: (?:[\w.-]{{0,40}}?(?i:signature|{_WORD}))[\w.-]{{0,40}}
            | (?i:auth|code|key|pwd|sig) )=)[^\s&\#"'<>]+"""
        ),
        rf"\1{REDACTED}",
    ),
    (_compile(rf"""({_HEADER})(?!\[redacted\])[^\s"'][^\r\n"']*"""), rf"\1{REDACTED}"),
    (_compile(rf"({_HEADER}){_VALUE}"), rf"\1{REDACTED}"),
    (_compile(r"(\b(?i:bearer)[ \t]{1,8})(?=\S{0,80}\d)[\w.~+/=-]{8,}"), rf"\1{REDACTED}"),
    # Name and secret, in quotes as a whole.
    (
        _compile(
            rf"""(?<!\\)(["'])([\w.,:=/@-]{{0,60}}?{_NAMED})(?!\1)
            (?:(?!\1)[^\\]|\\.)+ \1(?:{_QUOTED})*"""
        ),
        rf"\1\2{REDACTED}\1",
    ),
    (_compile(rf"({_NAMED}|{_ITEM}){_VALUE}"), rf"\1{REDACTED}"),
    (
        _compile(
            rf"""((?<![\w-]){_OPTION}(?![\w.=:-])(?: ["']?,?\s{{1,8}}+ | ["'], ))
            (?!["']?(?: -[a-zA-Z](?![^\s"',]) | --[a-z] )){_VALUE}"""
        ),
        rf"\1{REDACTED}",
    ),
    # What is an option of these programs, and something else to others.
    (
        _compile(
            rf"""(\bcurl{_GAP}(?:{_NEAR}{_GAP})?["']?
            (?: -[uU]{_GAP}? | --(?:proxy-)?user(?:=|{_GAP}) ) (["'])?[^\s:"']*:)
            (?(2)(?:(?!\2).)*\2|{_VALUE})"""
        ),
        rf"\1{REDACTED}\2",
    ),
    (
        _compile(
            rf"""(\b(?: (?:mysql|mariadb)[\w-]{{0,20}}{_GAP}(?:{_NEAR}{_GAP})?["']?
                -p(?=[^\s"'])(?!\d+:[\d:]+(?!\S))
            | sshpass{_GAP}(?:{_NEAR}{_GAP})?["']?-p{_GAP}?
            | redis-cli{_GAP}(?:{_NEAR}{_GAP})?["']?-a{_GAP} )){_VALUE}"""
        ),
        rf"\1{REDACTED}",
    ),
]

# By program: the word that has its secret, behind the one before it and a NUL.
_OF_PROGRAM = [
    (re.compile(program), _compile(rf"((?:\A|\0){option}).+\Z"))
    for program, option in [
        (r"curl", r"(?: -[uU]\0? | --(?:proxy-)?user[\0=] )[^:\0]*:"),
        (r"(?:mysql|mariadb)[\w-]*", r"(?<=\0)-p(?!\d+:[\d:]+\Z)"),
        (r"sshpass", r"-p\0?"),
        (r"redis-cli", r"-a\0"),
    ]
]
NAME = _compile(rf"(?: {_WORD}[\w.-]{{0,40}} | {_SHORT} | (?i:authorization|cookie) )\Z")
_ASSIGNMENT = _compile(rf"[^\s?&]{{0,200}}?(?: {_NAMED} | {_HEADER} )(?=.)")
_ASKS_FOR_NEXT = _compile(_OPTION)
_NO_VALUE = re.compile(r"-[a-zA-Z]\Z|--[a-z][a-z-]+(?:=|\Z)")
_SCRIPT_NEXT = re.compile(r"-[a-z]*c")


def redact_words(words: Sequence[str], redact: Callable[[str], str]) -> tuple[str, ...]:
    """A command: what a word is, its program and the word before it say."""
    redacted: list[str] = []
    of_program: list[re.Pattern[str]] = []
    before = ""
    for word in words:
        redacted.append(_redact_word(before, word, of_program, redact))
        name = word.rpartition("/")[2]
        of_program += [pattern for program, pattern in _OF_PROGRAM if program.fullmatch(name)]
        before = word
    return tuple(redacted)


def _redact_word(
    before: str, word: str, of_program: Sequence[re.Pattern[str]], redact: Callable[[str], str]
) -> str:
    if _ASKS_FOR_NEXT.fullmatch(before) and not _NO_VALUE.match(word):
        return REDACTED
    for pattern in of_program:
        word = pattern.sub(rf"\1{REDACTED}", f"{before}\0{word}").partition("\0")[2]
    found = _ASSIGNMENT.match(word)
    if found and not _SCRIPT_NEXT.fullmatch(before):
        return redact(found[0]) + REDACTED  # whatever it holds, up to the end
    return redact(word)
