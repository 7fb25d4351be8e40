"""Compress what is not written any more: one segment at a time, in a process that yields to others.

A segment is there, the one or the other, however that ends: the compressed one gets its name when
it is complete, and then the other one goes.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from ..._errors import AgentsupError
from .record import COMPRESSED, SEGMENT, UNFINISHED

if TYPE_CHECKING:
    from ..._tree.supervisor import Supervisor

_PROGRAM = """
import os, sys
os.nice(19)
os.umask(0o077)
import gzip, shutil
with open(sys.argv[1], "rb") as source, gzip.open(sys.argv[2], "wb", 6) as target:
    shutil.copyfileobj(source, target, 1 << 20)
"""


async def compress(path: str, supervisor: Supervisor) -> str | None:
    """Do it; None, or why it has not been done."""
    base = path.removesuffix(SEGMENT)
    new = base + UNFINISHED
    try:
        before = os.stat(path)
        words = [sys.executable, "-I", "-S", "-c", _PROGRAM, path, new]
        result = await supervisor.run(words, name="compress", cwd="/")
        if not result.ok:
            os.stat(path)  # it may have been too old meanwhile
            return f"{path}: {result.stderr.text.strip()[-200:] or result.reason}"
        os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.stat(path)
        os.rename(new, base + COMPRESSED)
        os.unlink(path)
    except FileNotFoundError:
        pass
    except (AgentsupError, OSError) as error:
        return f"{path}: {error}"
    finally:
        with contextlib.suppress(OSError):
            os.unlink(new)
    return None
