"""memfd_create(2) where there is none: a file that has no name any more."""

from __future__ import annotations

import os
import tempfile


def memory_file(name: str, content: bytes | bytearray) -> int:
    """A file that holds ``content``, at its beginning."""
    with tempfile.TemporaryFile(prefix=name) as file:
        file.write(content)
        file.seek(0)
        return os.dup(file.fileno())
