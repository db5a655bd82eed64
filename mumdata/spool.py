"""Arrow columns that grow on disk.

In: pieces of a column, one after another. Out: the whole column as one Arrow array over a mapped temporary file, so
that the memory it takes does not grow with its length. A Spool holds the files; arrays outlive it.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

__all__ = ["Codes", "Lists", "Numbers", "Spool", "Strings"]


class Spool:
    """Temporary files in a folder. They have no names: nothing is left of them, however the process ends.

    A full disk is an OSError where something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = ExitStack()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def file(self) -> IO[bytes]:
        """Return a new file that pieces are written to."""
        return self._open.enter_context(tempfile.TemporaryFile(dir=self._folder))

    def zeros(self, dtype: type, num: int) -> np.ndarray:
        """Return a writable array over a new mapped file."""
        size = num * np.dtype(dtype).itemsize
        if not size:
            return np.zeros(num, dtype)
        file = self.file()
        os.posix_fallocate(file.fileno(), 0, size)  # else a full disk would end the process where a page is touched
        return np.frombuffer(mmap.mmap(file.fileno(), size), dtype)


class Numbers:
    """A column of numbers, with nulls where there are some."""

    def __init__(self, spool: Spool, kind: pa.DataType) -> None:
        self._spool, self._kind = spool, kind
        self._values = spool.file()
        self._valid: IO[bytes] | None = None  # a byte a row, from the first null on
        self._num = self._num_null = 0

    def add(self, array: pa.Array) -> None:
        """Add rows of the column's type."""
        if array.null_count and self._valid is None:
            self._valid = self._spool.file()
            self._valid.write(np.ones(self._num, bool).data)
        if self._valid is not None:
            self._valid.write(np.ascontiguousarray(array.is_valid().to_numpy(zero_copy_only=False)).data)
        self._values.write(np.ascontiguousarray(array.fill_null(0).to_numpy(zero_copy_only=False)).data)
        self._num += len(array)
        self._num_null += array.null_count

    def array(self) -> pa.Array:
        """Return the whole column."""
        valid = None
        if self._valid is not None:
            flags = np.frombuffer(_mapped(self._valid), bool)
            valid = pa.py_buffer(np.packbits(flags, bitorder="little"))
        return pa.Array.from_buffers(self._kind, self._num, [valid, _mapped(self._values)], self._num_null)


class Strings:
    """A column of strings, as large_string."""

    def __init__(self, spool: Spool) -> None:
        self._offsets, self._data = _Offsets(spool), spool.file()

    def add(self, array: pa.Array) -> None:
        """Add strings, none of them null."""
        text = array.cast(pa.large_string())
        _, offsets, data = text.buffers()
        ends = np.frombuffer(offsets, np.int64, len(text) + 1, 8 * text.offset)
        if data is not None:
            self._data.write(memoryview(data)[int(ends[0]) : int(ends[-1])])
        self._offsets.add(ends)

    def array(self) -> pa.Array:
        """Return the whole column."""
        buffers = [None, self._offsets.buffer(), _mapped(self._data)]
        return pa.Array.from_buffers(pa.large_string(), self._offsets.num, buffers, 0)


class Lists:
    """A column of lists of numbers, as large_list."""

    def __init__(self, spool: Spool, kind: pa.DataType) -> None:
        self._offsets, self._values = _Offsets(spool), Numbers(spool, kind)

    def add(self, array: pa.Array) -> None:
        """Add lists, none of them null."""
        ends = array.offsets.to_numpy()
        self._values.add(array.values[int(ends[0]) : int(ends[-1])])
        self._offsets.add(ends)

    def array(self) -> pa.Array:
        """Return the whole column."""
        offsets = pa.Array.from_buffers(pa.int64(), self._offsets.num + 1, [None, self._offsets.buffer()], 0)
        return pa.LargeListArray.from_arrays(offsets, self._values.array())


class Codes:
    """A column of dictionary-encoded strings; the dictionary is held in memory."""

    def __init__(self, spool: Spool) -> None:
        self._codes = Numbers(spool, pa.int32())
        self._names: dict[str, int] = {}

    def add(self, array: pa.DictionaryArray) -> None:
        """Add rows, each piece with a dictionary of its own."""
        names = array.dictionary.to_pylist()
        known = pa.array([self._names.setdefault(name, len(self._names)) for name in names], pa.int32())
        self._codes.add(known.take(array.indices))

    def array(self) -> pa.DictionaryArray:
        """Return the whole column; its names are in the order in which they came."""
        return pa.DictionaryArray.from_arrays(self._codes.array(), pa.array(list(self._names), pa.string()))


class _Offsets:
    # where each string or list begins, and the last one ends, int64
    def __init__(self, spool: Spool) -> None:
        self._file = spool.file()
        self._file.write(bytes(8))
        self._end = self.num = 0

    def add(self, ends: np.ndarray) -> None:
        # `ends`: of n pieces, [n + 1], counted from anywhere
        offsets = self._end + ends.astype(np.int64) - int(ends[0])
        self._file.write(offsets[1:].data)
        self._end, self.num = int(offsets[-1]), self.num + len(ends) - 1

    def buffer(self) -> pa.Buffer:
        return _mapped(self._file)


def _mapped(file: IO[bytes]) -> pa.Buffer:
    file.flush()
    if not os.fstat(file.fileno()).st_size:  # which cannot be mapped
        return pa.py_buffer(b"")
    return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
