"""The file of features: HDF5 whose structure is whole from its first moment on, and rows that are marked when done.

In: what features are of and how they are made, then rows of them in any order. Out: an HDF5 file under its name once
all rows are done; until then NAME.part, which the next run continues or refuses.

All data sets are contiguous and get their place in the file when it is made. From then on bytes are only ever written
into these places, never by the HDF5 library, so that a process may be killed at any moment: what was marked as done is
there, and what was not is done again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mumdata.errors import MumError
from mumdata.files import atomic_path, remove_abandoned, write_errors
from mumtrain.features.sparse import SparseFile
from mumtrain.features.stored import BROKEN, DONE, WAITING, check_same, open_stored, read_about

if TYPE_CHECKING:
    import h5py

__all__ = ["FORMAT", "FeatureFile", "Layout", "Row", "part_path"]

FORMAT = 1

# the longest reason that is kept why an image is broken, in bytes
_MOST_REASON = 120

# how long rows wait until they are put down on disk and marked
_FLUSH_S = 5.0


@dataclass(frozen=True, eq=False)
class Layout:
    """What data sets a file has.

    `grids` int32 [num, 2] are rows and columns of patches of each image. `is_even`: they are all alike, and patch
    tokens are [num, N, D]; else those of all images follow each other, [sum of N, D].
    """

    grids: np.ndarray
    is_even: bool
    width: int
    dtype: str
    has_patches: bool
    has_classes: bool

    @property
    def offsets(self) -> np.ndarray:
        """Where each image's patch tokens begin among those of all, int64 [num + 1]."""
        return np.concatenate([[0], np.cumsum(self.grids.astype(np.int64).prod(axis=1))])

    def shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Return shape and number format of each data set that is filled row by row."""
        num, bytes_of_dtype = len(self.grids), np.dtype(self.dtype).newbyteorder("<")
        found: dict[str, tuple[tuple[int, ...], Any]] = {}
        if self.has_patches:
            each = int(self.grids[0].prod()) if num else 0
            lead = (num, each) if self.is_even else (int(self.offsets[-1]),)
            found["patch_tokens"] = (*lead, self.width), bytes_of_dtype
        if self.has_classes:
            found["class_tokens"] = (num, self.width), bytes_of_dtype
        found["boxes"] = (num, 4), np.dtype("<i4")
        found["problems"] = (num,), np.dtype(f"S{_MOST_REASON}")
        found["status"] = (num,), np.dtype("u1")
        return found


class Row(NamedTuple):
    """One image's features: patch tokens [N, D] and class token [D] where wanted, and what box they are of."""

    patches: np.ndarray | None
    classes: np.ndarray | None
    box: tuple[int, int, int, int]


def part_path(path: Path) -> Path:
    """Return the name of a file of features that is not finished."""
    return path.with_name(f"{path.name}.part")


class FeatureFile:
    """A file of features that is being written; used as a context, which closes it.

    `about` is what makes features equal (model, images, settings) as JSON values; a file that was begun with another
    one is not continued.
    """

    def __init__(self, path: Path, layout: Layout, about: Mapping[str, Any]) -> None:
        self.path, self.layout = path, layout
        self.part = part_path(path)
        self._number = -1
        self._about = dict(about)
        self._shapes = layout.shapes()
        self._offsets = layout.offsets
        self._waiting: list[tuple[int, int]] = []
        self._flushed_s = time.monotonic()

    @classmethod
    def open(
        cls,
        path: Path,
        layout: Layout,
        about: Mapping[str, Any],
        *,
        fixed: Mapping[str, Any],
        attributes: Mapping[str, Any],
    ) -> FeatureFile:
        """Continue the file that is there, or begin one; `fixed` are further data sets, which are known beforehand.

        Raises MumError where a file is there that was begun otherwise, is damaged, or is being written by another
        process, and where it cannot be written.
        """
        file = cls(Path(path), layout, about)
        with write_errors(file.path):
            file._begin(fixed, attributes)
        file._lock()
        try:
            check_same(file.part, read_about(file.part), file._about)
            file._find_places()
        except BaseException:
            file.close()
            raise
        return file

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # after a failure, what can be kept is kept, and the failure is what is told
            with suppress(MumError) if error is not None else nullcontext():
                self.flush()
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; rows that were not flushed are done again by the next run."""
        if self._number >= 0:
            os.close(self._number)
            self._number = -1

    # ---- rows

    def status(self) -> np.ndarray:
        """Return the state of each row, uint8 [num]."""
        data = os.pread(self._number, len(self.layout.grids), self._places["status"])
        return np.frombuffer(data, np.uint8).copy()

    def put(self, row: int, features: Row) -> None:
        """Write one image's features; MumError where there is no space left."""
        if self.layout.has_patches:
            assert features.patches is not None
            first = int(self._offsets[row])
            self._write("patch_tokens", first * self.layout.width, features.patches)
        if self.layout.has_classes:
            assert features.classes is not None
            self._write("class_tokens", row * self.layout.width, features.classes)
        self._write("boxes", row * 4, np.array(features.box))
        self._mark(row, DONE)

    def put_broken(self, row: int, reason: str) -> None:
        """Mark one image as broken: its features are not a number."""
        num, width = int(self._offsets[row + 1] - self._offsets[row]), self.layout.width
        if self.layout.has_patches:
            self._write("patch_tokens", int(self._offsets[row]) * width, np.full((num, width), np.nan))
        if self.layout.has_classes:
            self._write("class_tokens", row * width, np.full(width, np.nan))
        # cut between letters
        text = reason.encode("utf-8", "replace")[:_MOST_REASON].decode("utf-8", "ignore")
        self._write("problems", row, np.array(text.encode(), f"S{_MOST_REASON}"))
        self._mark(row, BROKEN)

    def flush(self) -> None:
        """Put rows down on disk, and only then mark them."""
        if not self._waiting:
            return
        try:
            os.fdatasync(self._number)
        except OSError as error:
            raise self._failed(error) from error
        for row, status in self._waiting:
            self._write("status", row, np.array(status))
        self._waiting.clear()
        self._flushed_s = time.monotonic()

    def finish(self) -> None:
        """Give the file its name; all rows must be done."""
        self.flush()
        assert (self.status() != WAITING).all()
        try:
            os.fsync(self._number)
            if not os.path.samestat(os.fstat(self._number), os.stat(self.part)):
                raise MumError(f"{self.part} was replaced while it was written; run the command again")
            os.replace(self.part, self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._failed(error) from error

    def _mark(self, row: int, status: int) -> None:
        self._waiting.append((row, status))
        if time.monotonic() - self._flushed_s > _FLUSH_S:
            self.flush()

    def _write(self, name: str, first: int, values: np.ndarray) -> None:
        kind = self._shapes[name][1]
        data = memoryview(np.ascontiguousarray(values, kind).tobytes())
        at = self._places[name] + first * kind.itemsize
        try:
            while data:
                done = os.pwrite(self._number, data, at)
                data, at = data[done:], at + done
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> MumError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "no space is left" if full else error.strerror or str(error)
        return MumError(f"cannot write {self.part}: {why}; run the same command again, it continues where this ended")

    # ---- the file itself

    def _begin(self, fixed: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        # what is not written yet takes no space yet
        if self.part.exists():
            found = self.part.stat()
            self._check_space(found.st_size - 512 * found.st_blocks)
            return
        made = self._make(fixed, attributes)
        self.part.parent.mkdir(parents=True, exist_ok=True)
        self._check_space(made.size)
        remove_abandoned(self.part.parent)
        with atomic_path(self.part) as temporary, open(temporary, "wb") as file:
            file.truncate(made.size)
            for at, data in made.pieces():
                file.seek(at)
                file.write(data)

    def _make(self, fixed: Mapping[str, Any], attributes: Mapping[str, Any]) -> SparseFile:
        # in memory: the HDF5 library takes the process down with it where it cannot close a file on a full disk
        import h5py

        made = SparseFile()
        with h5py.File(made, "w") as file:
            file.attrs["about"] = json.dumps(self._about, sort_keys=True)
            for name, value in attributes.items():
                file.attrs[name] = value
            for name, values in fixed.items():
                if isinstance(values, np.ndarray):
                    file[name] = values
                else:
                    file.create_dataset(name, data=np.array(values, object), dtype=h5py.string_dtype())
            file["grids"] = self.layout.grids.astype("<i4")
            if not self.layout.is_even:
                file["offsets"] = self._offsets.astype("<i8")
            for name, (shape, kind) in self._shapes.items():
                _contiguous(file, name, shape, kind)
            file["status"][...] = WAITING
        return made

    def _lock(self) -> None:
        try:
            self._number = os.open(self.part, os.O_RDWR | os.O_CLOEXEC)
            fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            does = "reading" if self._is_read() else "writing"
            self.close()
            raise MumError(f"another process is {does} {self.part}; wait for it, or name another file (-o)") from error
        except OSError as error:
            # some file systems have no locks; then nothing keeps two processes apart
            if self._number < 0:
                raise self._failed(error) from error

    def _is_read(self) -> bool:
        # readers, such as the HDF5 library's own, share their lock
        with suppress(OSError):
            fcntl.flock(self._number, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        return False

    def _check_space(self, wanted: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if wanted > free:
            raise MumError(
                f"{self.path} needs {_amount(wanted)}, of which {_amount(free)} are free there; "
                "free some, or store less (--dtype float16, --kind class, a smaller --size)"
            )

    def _find_places(self) -> None:
        self._places: dict[str, int] = {}
        size = os.fstat(self._number).st_size
        with open_stored(self.part) as file:
            for name, (shape, kind) in self._shapes.items():
                found = file.get(name)
                place = None if found is None or found.shape != shape or found.dtype != kind else found.id.get_offset()
                num_bytes = int(np.prod(shape)) * kind.itemsize
                if num_bytes and (place is None or place + num_bytes > size):
                    raise MumError(f"{self.part} is damaged; remove it and run the command again")
                self._places[name] = place or 0


def _amount(num_bytes: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes} bytes"


def _contiguous(file: h5py.File, name: str, shape: Sequence[int], kind: Any) -> None:
    # with its place in the file from the beginning, and nothing written there
    import h5py

    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_layout(h5py.h5d.CONTIGUOUS)
    made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kinds = h5py.h5t.py_create(kind, logical=True)
    h5py.h5d.create(file.id, name.encode(), kinds, h5py.h5s.create_simple(tuple(shape)), made)
