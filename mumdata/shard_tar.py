"""TAR files of many small members: written in one go, the same bytes for the same members.

In: names and bytes, one after another. Out: a plain ustar archive that any `tar` and WebDataset read, and where in it
each member's bytes lie, so that one positioned read gets them. What `mumdata.archives` does with TAR files of others is
not needed for these.
"""

from __future__ import annotations

import tarfile
from typing import BinaryIO

__all__ = ["OVERHEAD", "TarWriter"]

_BLOCK = tarfile.BLOCKSIZE

# bytes that a member takes besides its own, in the mean: its header, and half a block of padding
OVERHEAD = _BLOCK + _BLOCK // 2


class TarWriter:
    """Writes members to an open binary file; `close` ends the archive, the file stays open.

    Owner, mode and time are the same for all members, so that the bytes depend on names and contents alone.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0

    def add(self, name: str, data: bytes) -> int:
        """Write a member and return the offset of its bytes; ValueError for a name that is no plain ustar name."""
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(data), 0o644
        header = entry.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
        if len(header) != _BLOCK:
            raise ValueError(f"{name!r} does not fit into one header")
        offset = self._at + _BLOCK
        self._write(header)
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return offset

    def close(self) -> int:
        """Write the end of the archive and return its size in bytes."""
        end = 2 * _BLOCK
        self._write(bytes(end + -(self._at + end) % tarfile.RECORDSIZE))
        return self._at

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._at += len(data)
