"""Where each frame's bytes are, and reading them.

In: a dataset's root and the Arrow twin of its frames. Out: a `Frame` for a frame_id, in some microseconds and without a
Python object for any other; and the bytes of its image file. Nothing outside the root is opened.
"""

from __future__ import annotations

import bisect
import errno
import itertools
import mmap
import os
import stat
import struct
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa

from mumdata.errors import CatalogError, DecodeError, MumError
from mumdata.files import inside
from mumdata.images import read_encoded

__all__ = ["COLUMNS", "Frame", "FrameTable", "forget_archives"]

# columns of the twin, in the order of the fields of Frame
COLUMNS = ("path", "archive", "codec", "offset", "bytes", "width", "height", "upright_quarter_turns")

# pauses before an image that could not be read for reasons other than its content is tried again
RETRY_PAUSES_S = (0.05, 0.25, 1.0)

# archives that one process keeps open, and for how long it trusts that they have not been replaced
_MOST_ARCHIVES = 64
_TRUSTED_S = 1.0

# errors of a process, or a system, that has as many files open as it may
_TOO_MANY = (errno.EMFILE, errno.ENFILE)

# an image file of more bytes than this is refused before anything is allocated; `mumdata.images` unpacks no more either
_MOST_BYTES = 1 << 28


class Frame(NamedTuple):
    """One image of a dataset: where its bytes are, its stored size where known, and clockwise quarter turns."""

    path: str
    archive: str | None
    codec: str | None
    offset: int | None
    bytes: int | None
    width: int | None
    height: int | None
    turns: int


class FrameTable:
    """The frames of one dataset under their root; row number = frame_id."""

    def __init__(self, name: str, root: Path, table: pa.Table) -> None:
        self.name, self.root, self.table = name, Path(root), table
        self.twin: Path | None = None
        self._cells = [_chunked(table.column(name), _of_memory) for name in COLUMNS]

    @classmethod
    def open(cls, name: str, root: Path, twin: Path) -> FrameTable:
        """Open the twin of a dataset's frames; CatalogError where it is not a whole Arrow file.

        It stays open; MumError where the process may not open another.
        """
        try:
            with open(twin, "rb") as file:
                whole = pa.py_buffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
            table = pa.ipc.open_file(whole).read_all()
            opened = cls(name, root, table)
            read = _of_file(_OpenFile(str(twin)), whole)
        except (OSError, ValueError, DecodeError) as error:  # ValueError: of an empty file, and Arrow's own
            if isinstance(error, OSError) and error.errno in _TOO_MANY:
                raise MumError(f"cannot open {twin}: {error.strerror}; raise 'ulimit -n'") from error
            raise CatalogError(f"{twin} is not a whole Arrow file; delete it, it is built anew ({error})") from error
        opened.twin, opened._cells = Path(twin), [_chunked(table.column(name), read) for name in COLUMNS]
        return opened

    def __reduce__(self) -> tuple[Any, ...]:
        # another process opens the twin by itself; a table that has none travels as it is
        if self.twin is not None:
            return FrameTable.open, (self.name, self.root, self.twin)
        return FrameTable, (self.name, self.root, self.table)

    def frame(self, frame_id: int) -> Frame:
        """Return one frame; IndexError where there is none of that number."""
        if not 0 <= frame_id < self.table.num_rows:
            raise IndexError(f"{self.name} has {self.table.num_rows} frames, no frame {frame_id}")
        path, archive, codec, offset, count, width, height, turns = [cell(frame_id) for cell in self._cells]
        return Frame(path, archive, codec, offset, count, width, height, turns or 0)

    def row(self, frame_id: int) -> dict[str, Any]:
        """Return one frame's columns as Python values."""
        return dict(zip(COLUMNS, [cell(frame_id) for cell in self._cells], strict=True))

    def read(self, frame: Frame) -> bytes:
        """Return the bytes of a frame's image file.

        A file of its own is read whole, as it may have been replaced since it was indexed. A stored member of an
        archive is one positioned read; archives stay open, and one that was replaced is opened anew within a second.
        Where the process may not open another file, archives are closed for it. Raises DecodeError where the bytes are
        not there or cannot be unpacked, LayoutError where a path leaves the root, and lets OSError pass.
        """
        while True:
            try:
                return self._read(frame)
            except OSError as error:
                if error.errno not in _TOO_MANY or not _archives.shrink():
                    raise

    def _read(self, frame: Frame) -> bytes:
        path, archive, codec, offset, count = frame[:5]
        if archive is None:
            try:
                return _whole_file(str(inside(self.root, path)))
            except DecodeError as error:
                raise DecodeError(f"{path}: {error}") from error
        if codec not in (None, "stored") or offset is None or count is None:
            return read_encoded(self.root, path, archive=archive, codec=codec, offset=offset, num_bytes=count)
        try:
            opened = _archives.get(str(inside(self.root, archive)))
            return _exactly(opened.number, opened.size, offset, count)
        except DecodeError as error:
            raise DecodeError(f"{path} in {archive}: {error}") from error

    def read_patiently(self, frame: Frame) -> bytes:
        """Read a frame as `read` does; what fails for other reasons than its content is tried again after a pause.

        Lets DecodeError and FileNotFoundError pass; any other OSError that stays is a MumError naming file and root,
        as is a root that has gone: that is a disk that failed, not a bad image.
        """
        for pause in (*RETRY_PAUSES_S, None):
            try:
                return self.read(frame)
            except OSError as error:
                if frame.archive is not None:
                    _archives.drop(str(inside(self.root, frame.archive)))
                if isinstance(error, FileNotFoundError | NotADirectoryError) and self.root.is_dir():
                    raise FileNotFoundError(error.errno, "no such file", error.filename) from error
                if error.errno in _TOO_MANY and pause is None:
                    raise MumError(
                        f"cannot open {frame.archive or frame.path} of {self.name}: {error.strerror or error}; raise "
                        "'ulimit -n', then continue with --resume"
                    ) from error
                if pause is None:
                    raise MumError(
                        f"cannot read {frame.archive or frame.path} of {self.name} under {self.root}: "
                        f"{error.strerror or error}; check the disk or mount, then continue with --resume"
                    ) from error
                time.sleep(pause)
        raise AssertionError("unreachable")


# ---- cells of Arrow columns

Buffer: TypeAlias = bytes | memoryview

# a row -> its value, None for null; and a place in a buffer and a number of bytes -> these bytes
Cell = Callable[[int], Any]
Read = Callable[[int, int], Buffer]


def _of_memory(buffer: pa.Buffer) -> Read:
    view = memoryview(buffer)
    return lambda at, count: view[at : at + count]


def _of_file(file: _OpenFile, mapped: pa.Buffer) -> Callable[[pa.Buffer], Read]:
    # Positioned reads, though the file is mapped: random rows would soon have every page of it counted as this
    # process's memory, up to megabytes a touch where the system caches in large pieces; and a disk that fails would end
    # the process instead of raising an error.
    def reader(buffer: pa.Buffer) -> Read:
        start = buffer.address - mapped.address
        if not 0 <= start < mapped.size:  # not of the file: nothing at all, or unpacked from it
            return _of_memory(buffer)

        def read(at: int, count: int) -> Buffer:
            data = os.pread(file.number, count, start + at)
            if len(data) != count:
                raise CatalogError(f"{file.path} has become shorter while it was read; run 'mumdata mix' again")
            return data

        return read

    return reader


def _chunked(column: pa.ChunkedArray, reader: Callable[[pa.Buffer], Read]) -> Cell:
    if column.num_chunks == 1:
        return _cells(column.chunk(0), reader)
    cells = [_cells(chunk, reader) for chunk in column.chunks]
    firsts = [0, *itertools.accumulate(map(len, column.chunks))]

    def cell(row: int) -> Any:
        number = bisect.bisect_right(firsts, row) - 1
        return cells[number](row - firsts[number])

    return cell


def _cells(array: pa.Array, reader: Callable[[pa.Buffer], Read]) -> Cell:
    if array.null_count == len(array):
        return lambda row: None
    if pa.types.is_dictionary(array.type):
        place, value = _cells(array.indices, reader), _cells(array.dictionary, reader)
        return lambda row: None if (at := place(row)) is None else value(at)
    if pa.types.is_integer(array.type):
        plain = _numbers(array, reader)
    elif pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        plain = _texts(array, reader)
    else:
        return lambda row: array[row].as_py()
    if not array.null_count:
        return plain
    bits, first = reader(array.buffers()[0]), array.offset

    def cell(row: int) -> Any:
        at = first + row
        return plain(row) if bits(at >> 3, 1)[0] >> (at & 7) & 1 else None

    return cell


def _numbers(array: pa.Array, reader: Callable[[pa.Buffer], Read]) -> Cell:
    read, first, width = reader(array.buffers()[1]), array.offset, array.type.bit_width // 8
    signed = pa.types.is_signed_integer(array.type)
    return lambda row: int.from_bytes(read((first + row) * width, width), sys.byteorder, signed=signed)


def _texts(array: pa.Array, reader: Callable[[pa.Buffer], Read]) -> Cell:
    pair = struct.Struct("=ii" if pa.types.is_string(array.type) else "=qq")
    ends, first, width = reader(array.buffers()[1]), array.offset, pair.size // 2
    letters = reader(array.buffers()[2]) if array.buffers()[2] is not None else _of_memory(pa.py_buffer(b""))

    def cell(row: int) -> str:
        begin, end = pair.unpack(ends((first + row) * width, pair.size))
        return str(letters(begin, end - begin), "utf-8")

    return cell


# ---- bytes of files


class _OpenFile:
    """A file that is open as long as this object lives, so that no thread's file is closed while it reads."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self.number)
        self.identity, self.size = _identity(status), status.st_size
        self.checked_s = time.monotonic()
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError("it is no file")

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _Archives:
    """The archives that were read last, open."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        self._most = _MOST_ARCHIVES

    def get(self, path: str) -> _OpenFile:
        """Return the open archive; one that another file has taken the place of is opened anew."""
        with self._lock:
            known, now = self._open.get(path), time.monotonic()
            if known is not None and now - known.checked_s > _TRUSTED_S:
                if _identity(os.stat(path)) == known.identity:
                    known.checked_s = now
                else:
                    known = None
            if known is None:
                known = self._open[path] = _OpenFile(path)
            self._open.move_to_end(path)
            if len(self._open) > self._most:
                self._open.popitem(last=False)
            return known

    def shrink(self) -> bool:
        """Close the half of the archives that was read longest ago, and hold no more from now on.

        False where none was open. For a process that may open fewer files than this cache would hold.
        """
        with self._lock:
            had = len(self._open)
            self._most = max(1, had // 2)
            while len(self._open) > had // 2:
                self._open.popitem(last=False)
            return had > 0

    def drop(self, path: str) -> None:
        """Forget an archive that could not be read, so that the next try opens it anew."""
        with self._lock:
            self._open.pop(path, None)


_archives = _Archives()


def forget_archives() -> None:
    """Begin with no open archives: for a process that was forked, perhaps while another thread held the lock."""
    global _archives
    _archives = _Archives()


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _whole_file(path: str) -> bytes:
    # without O_NONBLOCK, opening a named pipe would wait for ever
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError("it is no file")
        return _exactly(number, status.st_size, 0, status.st_size)
    finally:
        os.close(number)


def _exactly(number: int, size: int, begin: int, count: int) -> bytes:
    if begin < 0 or count < 0 or begin + count > size:
        raise DecodeError(f"bytes {begin} to {begin + count} exceed the file's {size}; it has changed, index it again")
    if count > _MOST_BYTES:
        raise DecodeError(f"it has {count:,} bytes, beyond the limit")
    data = os.pread(number, count, begin)
    while len(data) < count:
        more = os.pread(number, count - len(data), begin + len(data))
        if not more:
            raise DecodeError(f"the file ends at byte {begin + len(data)} while it is read")
        data += more
    return data
