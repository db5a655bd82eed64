"""A file in memory, of which only what was written takes space.

In: what a writer of files does, at any place. Out: the pieces that were written, for a file on disk.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

__all__ = ["SparseFile"]

# bytes of memory that are taken at once
_PAGE = 1 << 16


class SparseFile(io.RawIOBase):
    """Bytes at places that may lie terabytes apart; between them are zeros."""

    def __init__(self) -> None:
        self.size = 0
        self._at = 0
        self._pages: dict[int, bytearray] = {}

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield where pieces begin, and their bytes, in the order of the file; what no piece covers is zero."""
        for number in sorted(self._pages):
            begin = number * _PAGE
            yield begin, bytes(self._pages[number][: max(0, self.size - begin)])

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def truncate(self, size: int | None = None) -> int:
        self.size = self._at if size is None else size
        for number in [number for number in self._pages if number * _PAGE >= self.size]:
            del self._pages[number]
        if self.size // _PAGE in self._pages:  # what grows again begins as zeros
            self._pages[self.size // _PAGE][self.size % _PAGE :] = bytes(_PAGE - self.size % _PAGE)
        return self.size

    def readinto(self, buffer: Any) -> int:
        into = memoryview(buffer).cast("B")[: max(0, self.size - self._at)]
        for number, here, there in self._spans(len(into)):
            page = self._pages.get(number)
            into[there] = bytes(here.stop - here.start) if page is None else page[here]
        self._at += len(into)
        return len(into)

    def write(self, data: Any) -> int:
        given = memoryview(data).cast("B")
        for number, here, there in self._spans(len(given)):
            self._pages.setdefault(number, bytearray(_PAGE))[here] = given[there]
        self._at += len(given)
        self.size = max(self.size, self._at if given else 0)
        return len(given)

    def _spans(self, num: int) -> Iterator[tuple[int, slice, slice]]:
        # the next `num` bytes: page by page its number, which part of it, and which part of the bytes these are
        begin, end = self._at, self._at + num
        cuts = [begin, *range((begin // _PAGE + 1) * _PAGE, end, _PAGE), end]
        for first, last in itertools.pairwise(cuts):
            page = first // _PAGE
            if first < last:
                yield page, slice(first - page * _PAGE, last - page * _PAGE), slice(first - begin, last - begin)
