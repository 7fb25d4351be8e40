"""A record of a log: one JSON object on a line of its own, and where it is kept.

=============  ==================================================================================
key            what it is
=============  ==================================================================================
``ts``         when it was read, in seconds since the epoch
``service``    the path of the service, such as ``workers/a``; ``@daemon`` for the daemon itself
``pid``        of the main process
``stream``     ``stdout``, ``stderr``, or ``daemon`` for what the daemon says of the service
``priority``   0 … 7 as in syslog(3), from a prefix ``<N>``, which is cut off; 6 without one
``call_id``    which run it was
``message``    the line, without its end; bytes that are not UTF-8 are U+FFFD in it
``partial``    true: the line has not ended. Overwritten when it goes on, and among the last only
``continues``  true: a piece of a long line, which the next record of that stream goes on with
``dropped``    how many lines were not kept; the message says why
``raw``        the line in base64, where the message is not all of it
=============  ==================================================================================

The last four are there only where they say something.  A service has a directory, and in it
segments, numbered in the order of time; those that are not written any more may be compressed.
After the last record of the segment that is written there may be spaces, or a torn line.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
from json.encoder import encode_basestring
from typing import Any, cast

from attrs import frozen

#: The service that the daemon's own messages are kept under.
DAEMON = "@daemon"
#: informational, of a line that does not say anything else.
PRIORITY = 6
SEGMENT, COMPRESSED, UNFINISHED = ".jsonl", ".jsonl.gz", ".jsonl.gz.new"


@frozen
class Record:
    ts: float
    service: str
    pid: int
    stream: str
    priority: int
    call_id: str
    message: str
    partial: bool = False
    continues: bool = False
    dropped: int = 0
    raw: bytes | None = None

    @property
    def content(self) -> bytes:
        """What was printed, exactly."""
        return self.message.encode() if self.raw is None else self.raw


def prefix(ts: float, service: str, pid: int, stream: str, priority: int, call_id: str) -> bytes:
    """A record up to its message, which is escaped and followed by ``"}`` or :func:`suffix`."""
    return (
        f'{{"ts":{ts:.6f},"service":{encode_basestring(service)},"pid":{pid},'
        f'"stream":"{stream}","priority":{priority},"call_id":"{call_id}","message":"'
    ).encode()


def suffix(
    *, partial: bool = False, continues: bool = False, dropped: int = 0, raw: bytes | None = None
) -> bytes:
    """The end of a record, after its message."""
    found = b'"'
    if partial:
        found += b',"partial":true'
    if continues:
        found += b',"continues":true'
    if dropped:
        found += b',"dropped":%d' % dropped
    if raw is not None:
        found += b',"raw":"%b"' % base64.b64encode(raw)
    return found + b"}\n"


def escape(text: str) -> bytes:
    """A message, as it is between its quotes."""
    return encode_basestring(text)[1:-1].encode()


def dump(record: Record) -> bytes:
    """The line of a record, with its end."""
    begin = prefix(
        record.ts, record.service, record.pid, record.stream, record.priority, record.call_id
    )
    end = suffix(
        partial=record.partial, continues=record.continues, dropped=record.dropped, raw=record.raw
    )
    return begin + escape(record.message) + end


def parse(line: bytes) -> Record | None:
    """A line of a segment; None for what is torn, as a crash may leave it, and for spaces."""
    try:
        found = cast("dict[str, Any]", json.loads(line))
        if (raw := found.get("raw")) is not None:
            found["raw"] = base64.b64decode(raw, validate=True)
        return Record(**found)
    except (ValueError, TypeError, AttributeError):
        return None


def directory_of(service: str) -> str:
    """The name of its directory."""
    name = urllib.parse.quote(service, safe="")
    return f"%2E{name[1:]}" if name.startswith(".") else name  # ".." is not one


def service_of(directory: str) -> str:
    return urllib.parse.unquote(directory)


def segment_name(number: int) -> str:
    return f"{number:020}{SEGMENT}"


def segment_number(name: str) -> int | None:
    """Of a segment, compressed or not; None for any other file."""
    for kind in (SEGMENT, COMPRESSED):
        digits = name.removesuffix(kind)
        if digits != name and len(digits) == 20 and digits.isascii() and digits.isdigit():
            return int(digits)
    return None
