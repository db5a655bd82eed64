"""A dataset's root as one tree of folders: the files on the disk, and the members of archives as if unpacked in place.

In: a root folder, and patterns of the archives that may lie in it. Out: listings, small files' bytes, and for every
path where its bytes lie. An archive counts as unpacked into the folder that it lies in; a file on the disk comes before
an archive's member of the same path. All paths are relative to the root, with forward slashes; "" is the root itself.
Bytes of names that are not UTF-8 are surrogate-escaped.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mumdata.errors import LayoutError
from mumdata.files import inside

__all__ = ["Source", "Tree"]

# names that are remembered; beyond that, folders are listed anew, so that memory does not grow with the dataset
_MOST_LISTED = 200_000
# metadata larger than this is refused before anything is allocated
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Source:
    """Where a member of an archive lies: `bytes` bytes at `offset` of the archive, `size` when unpacked."""

    archive: str
    path: str
    codec: str
    offset: int
    bytes: int
    size: int
    mtime_ns: int


class Tree:
    """A root folder and what its archives hold. Listings are remembered: a tree describes one moment."""

    def __init__(self, root: Path, archives: tuple[str, ...] = ()) -> None:
        self.root = Path(root)
        self._listed: dict[str, tuple[list[str], list[str]] | None] = {}
        self._num_listed = 0
        self._names: dict[str, dict[str, str]] = {}

    @property
    def refused(self) -> list[tuple[str, str, str, str]]:
        """Archives and members that are not read: (archive, member or "", reason, detail)."""
        return []

    def source(self, path: str) -> Source | None:
        """Return where an archive's member lies; None for what is on the disk or nowhere."""
        return None

    def listing(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the names of the sub-folders and of the files in a folder, each in text order; links are followed.

        Folders that start with a dot, and __MACOSX, are passed over; files are not. Raises LayoutError where there is
        no such folder or it cannot be read.
        """
        found = self._look(folder)
        if found is None:
            raise LayoutError(f"{self.root / folder} is not there")
        return found

    def folders(self, folder: str) -> list[str]:
        """Return the names of the sub-folders in text order; none where the folder does not exist."""
        found = self._look(folder)
        return [] if found is None else found[0]

    def files(self, folder: str) -> list[str]:
        """Return the names of the files in text order; none where the folder does not exist."""
        found = self._look(folder)
        return [] if found is None else found[1]

    def is_folder(self, path: str) -> bool:
        """Tell whether a folder is there."""
        return self.root.joinpath(path).is_dir()

    def is_file(self, path: str) -> bool:
        """Tell whether a file is there."""
        return self.root.joinpath(path).is_file()

    def first_folder(self, candidates: Iterable[str]) -> str | None:
        """Return the first candidate that is a folder, or None."""
        return next((path for path in candidates if self.is_folder(path)), None)

    def first_file(self, candidates: Iterable[str]) -> str | None:
        """Return the first candidate that is a file, or None."""
        return next((path for path in candidates if self.is_file(path)), None)

    def walk(self, folder: str = "") -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield (folder, names of sub-folders, names of files) for a folder and all below it, in text order.

        A link back up, or to a folder that was yielded already, is not followed. A caller may remove names from the
        list of sub-folders to pass over them.
        """
        pending, seen = [folder], set()
        while pending:
            here = pending.pop()
            identity = self._identity(here)
            if identity in seen:
                continue
            seen.add(identity)
            folders, files = self.listing(here)
            folders = list(folders)
            yield here, folders, files
            pending += [f"{here}/{name}" if here else name for name in reversed(folders)]

    def find(self, path: str) -> str | None:
        """Return the path under which a file is there: byte for byte, else by Unicode NFC; None where it is not."""
        folder, _, name = path.rpartition("/")
        names = self._names.get(folder)
        if names is None:
            files = self.files(folder)
            names = {unicodedata.normalize("NFC", file): file for file in reversed(files)}
            names.update((file, file) for file in files)
            self._names[folder] = names
        found = names.get(name) or names.get(unicodedata.normalize("NFC", name))
        if found is None:
            return None
        return f"{folder}/{found}" if folder else found

    def read_bytes(self, path: str, most: int = _MOST_BYTES) -> bytes:
        """Return a whole file, for metadata; LayoutError where it is absent, unreadable or larger than `most` bytes."""
        try:
            with open(inside(self.root, path), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > most:
                    raise LayoutError(f"{path} has {size:,} bytes, more than the {most:,} that it may have")
                return file.read(size)
        except OSError as error:
            raise LayoutError(f"{path} cannot be read: {error.strerror}") from error

    def map(self, path: str) -> mmap.mmap | bytes:
        """Return a whole file's bytes without copying them where the system can map them; errors as `read_bytes`."""
        try:
            with open(inside(self.root, path), "rb") as file:
                if os.fstat(file.fileno()).st_size:
                    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                return b""
        except OSError as error:
            raise LayoutError(f"{path} cannot be read: {error.strerror}") from error

    def read_text(self, path: str) -> str:
        """Return a whole file as text, decoded as UTF-8 with replacement; LayoutError as for `read_bytes`."""
        return self.read_bytes(path).decode("utf-8", "replace").removeprefix("\ufeff")

    def read_json(self, path: str) -> Any:
        """Return a JSON file's value; LayoutError where it is no JSON."""
        try:
            return json.loads(self.read_bytes(path))
        except (ValueError, RecursionError) as error:
            raise LayoutError(f"{path} is not JSON: {error}") from error

    def _identity(self, folder: str) -> tuple[int, int] | str:
        try:
            found = self.root.joinpath(folder).stat()
        except OSError:
            return folder
        return found.st_dev, found.st_ino

    def _look(self, folder: str) -> tuple[list[str], list[str]] | None:
        if folder in self._listed:
            return self._listed[folder]
        found = self._scan(folder)
        self._num_listed += sum(map(len, found)) if found else 1
        if self._num_listed > _MOST_LISTED:
            self._listed, self._names, self._num_listed = {}, {}, 0
        self._listed[folder] = found
        return found

    def _scan(self, folder: str) -> tuple[list[str], list[str]] | None:
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    if not _is_folder(entry):
                        files.append(entry.name)
                    elif not entry.name.startswith(".") and entry.name != "__MACOSX":
                        folders.append(entry.name)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise LayoutError(f"{self.root / folder} cannot be listed: {error.strerror}") from error
        return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, say: listed as a file, whose reading then says what is wrong
        return False
