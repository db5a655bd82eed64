"""Which archives hold which folder: a table small enough for millions of members.

In: runs of consecutive members of one folder, as archives are scanned. Out: a table sorted by folder that is searched
in place. It holds no names of files: a run's members are read again from the archive when its folder is listed.

Folders are bytes that end in "/"; the root is "". Sorted as bytes, a folder stands before all that lies below it.
"""

from __future__ import annotations

import json
import mmap
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

__all__ = ["Builder", "Runs", "Table"]

_MAGIC = b"mumtree1"
_HEAD = struct.Struct("<8s16sQ")  # magic, token, length of the JSON text that follows
_ALIGNED = 64
# the codes of numpy and of memoryview for uint8, int32 and int64
_CODES: dict[str, Any] = {
    "names": "B",  # the folders, one after another
    "name_ends": "q",  # [folders + 1]
    "first_runs": "q",  # [folders + 1]
    "parts": "i",  # [runs]
    "starts": "q",  # [runs]
    "ends": "q",  # [runs]
    "passed": "q",  # positions of members that are passed over, in order for each archive
    "passed_ends": "q",  # [archives + 1]
}


class Builder:
    """Collects the runs of all archives."""

    def __init__(self) -> None:
        self._ids: dict[bytes, int] = {}
        self._folders, self._parts = array("I"), array("i")
        self._starts, self._ends = array("q"), array("q")

    def add(self, folder: bytes, part: int, start: int, end: int) -> None:
        """Add a run: members of part `part` whose headers begin at `start` and end before `end`."""
        self._folders.append(self._ids.setdefault(folder, len(self._ids)))
        self._parts.append(part)
        self._starts.append(start)
        self._ends.append(end)

    def __len__(self) -> int:
        return len(self._parts)

    def drop_after(self, num: int) -> None:
        """Forget all runs but the first `num`."""
        for column in (self._folders, self._parts, self._starts, self._ends):
            del column[num:]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the folders' and runs' arrays; runs of a folder keep the order in which they were added."""
        used, folders = np.unique(np.asarray(self._folders), return_inverse=True)
        known = list(self._ids)
        names = [known[number] for number in used.tolist()]
        by_name = sorted(range(len(names)), key=names.__getitem__)
        rank = np.empty(len(names), np.int64)
        rank[by_name] = np.arange(len(names))
        order = np.argsort(rank[folders], kind="stable")
        counts = np.bincount(rank[folders], minlength=len(names))
        lengths = np.fromiter((len(names[number]) for number in by_name), np.int64, len(names))
        return {
            "names": np.frombuffer(b"".join(names[number] for number in by_name), np.uint8),
            "name_ends": np.concatenate([[0], np.cumsum(lengths)]),
            "first_runs": np.concatenate([[0], np.cumsum(counts)]),
            "parts": np.asarray(self._parts)[order],
            "starts": np.asarray(self._starts)[order],
            "ends": np.asarray(self._ends)[order],
        }


class Runs:
    """Turns the members of one part, in their order, into runs of a builder, below a folder."""

    def __init__(self, builder: Builder, part: int, below: bytes) -> None:
        self._builder, self._part, self._below = builder, part, below
        self._folder: bytes | None = None
        self._start = self._end = 0

    def add(self, folder: bytes, start: int, end: int) -> None:
        """Add a member, or several of one folder; the members since the last run may have been passed over."""
        if folder == self._folder:
            self._end = end
            return
        self.close()
        self._folder, self._start, self._end = folder, start, end

    def close(self) -> None:
        """Hand over the last run."""
        if self._folder is not None:
            self._builder.add(self._below + self._folder, self._part, self._start, self._end)
        self._folder = None


class Table:
    """The folders and their runs, in one piece of memory or a mapped file; `about` is a JSON value kept with them."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        magic, self.token, length = _HEAD.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError("not a table")
        about = json.loads(bytes(data[_HEAD.size : _HEAD.size + length]))
        at = _aligned(_HEAD.size + length)
        view = memoryview(data)
        columns: dict[str, Any] = {}
        for name, count in about["counts"].items():
            end = at + count * np.dtype(_CODES[name]).itemsize
            columns[name] = view[at:end].cast(_CODES[name])
            if len(columns[name]) != count:
                raise ValueError("cut off")
            at = _aligned(end)
        self.data = data
        self.about: Any = about["about"]
        self._names, self._name_ends, self._first_runs = (
            columns[name] for name in ("names", "name_ends", "first_runs")
        )
        self._runs = columns["parts"], columns["starts"], columns["ends"]
        self._passed, self._passed_ends = columns["passed"], columns["passed_ends"]

    @staticmethod
    def write(file: BinaryIO, token: bytes, arrays: dict[str, np.ndarray], about: Any) -> None:
        """Write what `Table` reads."""
        columns = {name: np.ascontiguousarray(arrays[name], code) for name, code in _CODES.items()}
        text = json.dumps({"about": about, "counts": {name: len(column) for name, column in columns.items()}}).encode()
        num = file.write(_HEAD.pack(_MAGIC, token, len(text)) + text)
        for column in columns.values():
            num += file.write(bytes(_aligned(num) - num) + column.tobytes())

    def __len__(self) -> int:
        return len(self._name_ends) - 1

    def __getitem__(self, row: int) -> bytes:
        return bytes(self._names[self._name_ends[row] : self._name_ends[row + 1]])

    def find(self, folder: bytes) -> int | None:
        """Return the first row of the folder and what lies below it; None where it is not there."""
        row = bisect_left(self, folder)
        return row if row < len(self) and self[row].startswith(folder) else None

    def runs(self, row: int, folder: bytes) -> Iterator[tuple[int, int, int]]:
        """Yield (part, start, end) of the runs of the folder that was found at `row`."""
        if self[row] == folder:
            for run in range(self._first_runs[row], self._first_runs[row + 1]):
                yield self._runs[0][run], self._runs[1][run], self._runs[2][run]

    def subfolders(self, row: int, folder: bytes) -> Iterator[bytes]:
        """Yield the names of the sub-folders of the folder that was found at `row`, in the order of their bytes."""
        num = len(self)
        while row < num and (name := self[row]).startswith(folder):
            row += 1
            if name == folder:
                continue
            end = name.index(b"/", len(folder)) + 1
            yield name[len(folder) : end - 1]
            if row < num and self[row].startswith(name[:end]):
                row = bisect_left(self, name[: end - 1] + b"0", row)  # "0" comes right after "/"

    def passed(self, archive: int, start: int, end: int) -> set[int]:
        """Return the positions of an archive, from `start` and before `end`, that are passed over."""
        first, last = self._passed_ends[archive], self._passed_ends[archive + 1]
        first = bisect_left(self._passed, start, first, last)
        return set(self._passed[first : bisect_left(self._passed, end, first, last)])


def _aligned(num: int) -> int:
    return -num % _ALIGNED + num
