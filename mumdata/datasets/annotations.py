"""CO3D's annotations: hundreds of MB of JSON a category when inflated, of which one sequence is wanted at a time.

In: a gzip-compressed annotation, CO3D's or VGGT's. Out: the records of one sequence, after one search of the whole file
a process; nothing else is parsed, and little is kept in memory.
"""

from __future__ import annotations

import functools
import json
import mmap
import re
import zlib
from dataclasses import dataclass, field
from typing import Any

from mumdata.errors import LayoutError
from mumdata.tree import Tree

__all__ = ["OFFICIAL", "VGGT", "Annotation", "inflated", "opened"]

_MOST_INFLATED = 1 << 32
_BLOCK = 1 << 17
# the inflater's state (about 40 kB) is kept each so many bytes of text, to go on from there
_STRIDE = 1 << 22
# no start of a record is longer: that much is searched again where two blocks of text meet
_SEAM = 1 << 12

# where the record of a frame starts, and the sequence that it belongs to; CO3D writes that first
OFFICIAL = re.compile(rb'(?P<start>)\{\s*"sequence_name"\s*:\s*(?P<name>"[^"\\]*")')
# where the list of a sequence's frames starts in VGGT's annotation, which is an object of such lists
VGGT = re.compile(rb'(?P<name>"[^"\\]*")\s*:\s*(?P<start>\[)\s*[{\]]')

_DECODER = json.JSONDecoder()
_BETWEEN = " \t\r\n,}]"  # what may stand between two records, and after the last


class Annotation:
    """Where each sequence's records lie in an inflated annotation, and states of the inflater to go on from.

    The whole file is inflated and searched once, without parsing it. `records` then inflates and parses the share of
    one sequence, after at most _STRIDE bytes that are passed over. What is kept in memory is about a hundredth of the
    text, so that all categories fit, in whatever order their sequences are asked for.
    """

    def __init__(self, path: str, data: bytes | mmap.mmap, pattern: re.Pattern[bytes]) -> None:
        """Search the file; ValueError or zlib.error where it is damaged, too large, or something else."""
        self.path = path
        self.spans: dict[str, list[tuple[int, int]]] = {}
        self._states: list[tuple[int, int, Any]] = []  # bytes of text before it, bytes of the file, inflater
        inflater, at, end, seam = zlib.decompressobj(31), 0, 0, b""
        runs: list[tuple[int, int, bytes]] = []  # start of a run of one sequence's records, of the first of them, name
        while not inflater.eof:
            if not self._states or end >= self._states[-1][0] + _STRIDE:
                self._states.append((end, at, inflater.copy()))
            block = data[at : at + _BLOCK]
            if not block:
                raise ValueError("it is cut off")
            text = seam + inflater.decompress(block, _STRIDE)
            at += len(block) - len(inflater.unconsumed_tail)
            base = end - len(seam)
            end = base + len(text)
            if end > _MOST_INFLATED:
                raise ValueError(f"it has more than {_MOST_INFLATED:,} bytes when inflated")
            limit = len(text) if inflater.eof else max(0, len(text) - _SEAM)
            for match in pattern.finditer(text):
                if match.start() < limit and (not runs or runs[-1][2] != match["name"]):
                    runs.append((base + match.start(), base + match.start("start"), match["name"]))
            seam = text[limit:]
        if inflater.unused_data.strip(b"\0"):
            raise ValueError("something follows its end")
        if not runs and text.strip() not in (b"[]", b"{}"):
            raise ValueError("it names no sequence")
        for (_, start, name), stop in zip(runs, [*(run[0] for run in runs[1:]), end], strict=False):
            self.spans.setdefault(json.loads(name), []).append((start, stop))

    def records(self, tree: Tree, sequence: str) -> list[Any]:
        """Return the records of one sequence, none where it is not named; LayoutError where they are no JSON."""
        found = []
        try:
            for start, stop in self.spans.get(sequence, ()):
                text = self._text(tree.map(self.path), start, stop).decode("utf-8")
                at = 0
                while at < len(text):
                    value, at = _DECODER.raw_decode(text, at)
                    found += value if isinstance(value, list) else [value]
                    while at < len(text) and text[at] in _BETWEEN:
                        at += 1
        except (ValueError, RecursionError, zlib.error) as error:
            raise LayoutError(f"{self.path} is damaged at {sequence}: {error}") from error
        return found

    def _text(self, data: bytes | mmap.mmap, start: int, stop: int) -> bytes:
        first, at, state = next(entry for entry in reversed(self._states) if entry[0] <= start)
        inflater, text = state.copy(), bytearray()
        while len(text) < stop - first and not inflater.eof:
            block = data[at : at + _BLOCK]
            if not block:
                break
            text += inflater.decompress(block, _STRIDE)
            at += len(block) - len(inflater.unconsumed_tail)
        return bytes(text[start - first : stop - first])


@dataclass(frozen=True)
class _Version:
    # a file as it is now: gzip ends in the checksum and length of what is in it
    root: str
    path: str
    size: int
    end: bytes
    pattern: re.Pattern[bytes]
    tree: Tree = field(compare=False, repr=False)


def opened(tree: Tree, path: str, pattern: re.Pattern[bytes]) -> Annotation:
    """Return an annotation, searched once a process; LayoutError where it cannot be read."""
    data = tree.map(path)
    found = _searched(_Version(str(tree.root), path, len(data), bytes(data[-8:]), pattern, tree))
    if isinstance(found, str):
        raise LayoutError(f"{path} cannot be read: {found}")
    return found


@functools.lru_cache(maxsize=128)
def _searched(version: _Version) -> Annotation | str:
    # what is wrong is remembered too: a damaged file is not inflated again for each of its sequences
    try:
        return Annotation(version.path, version.tree.map(version.path), version.pattern)
    except (ValueError, zlib.error) as error:
        return str(error)


def inflated(data: bytes | mmap.mmap, most: int = 1 << 28) -> bytes:
    """Return the text of a small annotation; ValueError or zlib.error where it is damaged or inflates beyond `most`."""
    inflater = zlib.decompressobj(31)
    text = inflater.decompress(data, most)
    if not inflater.eof:
        raise ValueError("it is cut off, or too large")
    return text
