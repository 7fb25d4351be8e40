"""What is in a file of a checkpoint: one line of text, then what the codec made of the value.

::

    agentsup-checkpoint/1 42 10240 9f86d081…

These are the version of the format, the number of the generation, the bytes that follow the line,
and a SHA-256 of all the rest: of the line up to it, and of what follows the line.

In every version to come the line begins with the version and ends with that digest. So a file of a
newer version can be told from one in which the version's digit was damaged.
"""

from __future__ import annotations

import hashlib
import re

from .._errors import FormatTooNew

VERSION = 1
_LINE = re.compile(rb"(agentsup-checkpoint/([1-9][0-9]*) (.*) )([0-9a-f]{64})")
_FIELDS = re.compile(rb"([0-9]+) ([0-9]+)")
#: The most that a header line takes.
HEADER_MAX = 256


class Damaged(Exception):
    """It is not a whole file of a checkpoint; the message says why, to go behind its name."""


def encode(number: int, payload: bytes) -> bytes:
    """The header for ``payload``, with its newline."""
    start = b"agentsup-checkpoint/%d %d %d " % (VERSION, number, len(payload))
    return b"%s%s\n" % (start, _digest(start, payload))


def version_of(beginning: bytes) -> int:
    """The version that a file claims to be of, or 0. Only :func:`decode` knows whether it is."""
    match = _LINE.match(beginning)
    return int(match[2]) if match else 0


def decode(number: int, content: bytes) -> bytes:
    """The payload of generation ``number``.

    :raises Damaged: it is cut short, or something in it has changed, or it is another generation's.
    :raises FormatTooNew: it is undamaged, and of a newer version.
    """
    line, newline, payload = content.partition(b"\n")
    match = _LINE.fullmatch(line)
    if not match or not newline:
        raise Damaged("has no header" if content else "is empty")
    start, version, fields, digest = match.groups()
    if int(version) == VERSION and (found := _FIELDS.fullmatch(fields)):
        length = int(found[2])
        if len(payload) != length:
            raise Damaged(f"has {len(payload)} bytes after its header instead of {length}")
    if _digest(start, payload) != digest:
        raise Damaged("does not match its checksum")
    if int(version) > VERSION:
        raise FormatTooNew(
            f"has format {int(version)}, and this version of agentsup knows {VERSION}"
        )
    if not fields.startswith(b"%d " % number):
        raise Damaged(f"is another generation by its header: {fields.decode(errors='replace')}")
    return payload


def _digest(start: bytes, payload: bytes) -> bytes:
    digest = hashlib.sha256(start)
    digest.update(payload)
    return digest.hexdigest().encode()
