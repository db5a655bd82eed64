"""A dataset's root as one tree of folders: the files on the disk, and the members of archives as if unpacked in place.

In: a root folder, and patterns of the archives that may lie in it. Out: listings, small files' bytes, and for every
path where its bytes lie. An archive counts as unpacked into the folder that it lies in, or into the one that its
pattern names; a file on the disk comes before an archive's member of the same path, and before its folder. All paths
are relative to the root, with forward slashes; "" is the root itself. Bytes of names that are not UTF-8 are
surrogate-escaped.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from mumdata.archives import Member, Mounts, Refused, Source
from mumdata.errors import LayoutError
from mumdata.files import inside

__all__ = ["Refused", "Source", "Tree"]

# no file of a name that is too long can be on the disk
_ABSENT = (errno.ENOENT, errno.ENAMETOOLONG)

# names that are remembered; beyond that, folders are listed anew, so that memory does not grow with the dataset
_MOST_LISTED = 200_000
# metadata larger than this is refused before anything is allocated
_MOST_BYTES = 1 << 30


# what `map` reads of an archive's member at most: as large as members may be
_MOST_MAPPED = 1 << 32


@dataclass(frozen=True)
class _Folder:
    """A folder's names in text order; `members` are those of its files that an archive holds."""

    folders: list[str]
    files: list[str]
    members: Mapping[str, Member] = field(default_factory=dict)


class Tree:
    """A root folder and what its archives hold. Listings are remembered: a tree describes one moment.

    `archives` are glob patterns, relative to the root and without `**`, of the ZIP and TAR files that count as
    unpacked where they lie; "PATTERN => FOLDER" names another folder, relative to the root. They are read when
    something is first asked of the tree; pickled after that, it does not read them again.
    """

    def __init__(self, root: Path, archives: tuple[str, ...] = ()) -> None:
        self.root = Path(root)
        self._patterns = tuple(archives)
        self._mounts: Mounts | None = None
        self._forget()

    def __getstate__(self) -> tuple[Path, tuple[str, ...], Mounts | None]:
        return self.root, self._patterns, self._archives()

    def __setstate__(self, state: tuple[Path, tuple[str, ...], Mounts | None]) -> None:
        self.root, self._patterns, self._mounts = state
        self._forget()

    @property
    def refused(self) -> list[Refused]:
        """Archives and members that are not read: (archive, member or "", reason, detail)."""
        mounts = self._archives()
        return [] if mounts is None else mounts.refused

    def source(self, path: str) -> Source | None:
        """Return where an archive's member lies; None for what is on the disk or nowhere.

        LayoutError where the archive cannot be read, or its headers do not agree about the member.
        """
        mounts, member = self._archives(), self._member(path)
        return None if mounts is None or member is None else mounts.source(member, path)

    def listing(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the names of the sub-folders and of the files in a folder, each in text order; links are followed.

        Folders that start with a dot, and __MACOSX, are passed over; files are not. Raises LayoutError where there is
        no such folder or it cannot be read.
        """
        found = self._look(folder)
        if found is None:
            raise LayoutError(f"{self.root / folder} is not there")
        return found.folders, found.files

    def folders(self, folder: str) -> list[str]:
        """Return the names of the sub-folders in text order; none where the folder does not exist."""
        found = self._look(folder)
        return [] if found is None else found.folders

    def files(self, folder: str) -> list[str]:
        """Return the names of the files in text order; none where the folder does not exist."""
        found = self._look(folder)
        return [] if found is None else found.files

    def is_folder(self, path: str) -> bool:
        """Tell whether a folder is there."""
        if _is(Path.is_dir, self.root.joinpath(path)):
            return True
        mounts, plain = self._archives(), _plain(path)
        known = mounts is not None and plain is not None and mounts.has_folder(plain)
        return known and self._look(path) is not None

    def is_file(self, path: str) -> bool:
        """Tell whether a file is there."""
        return _is(Path.is_file, self.root.joinpath(path)) or self._member(path) is not None

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
        """Return a whole file, for metadata; LayoutError where it is absent, unreadable or larger than `most` bytes.

        A member of a ZIP archive is checked against its checksum.
        """
        try:
            with self._open(path) as file:
                size = os.fstat(file.fileno()).st_size
                if size > most:
                    raise LayoutError(f"{path} has {size:,} bytes, more than the {most:,} that it may have")
                return file.read(size)
        except OSError as error:
            return self._read_member(path, most, error)

    def map(self, path: str) -> mmap.mmap | bytes:
        """Return a whole file's bytes without copying them where the system can map them; errors as `read_bytes`."""
        try:
            with self._open(path) as file:
                if os.fstat(file.fileno()).st_size:
                    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                return b""
        except OSError as error:
            return self._read_member(path, _MOST_MAPPED, error)

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

    def _forget(self) -> None:
        self._listed: dict[str, _Folder | None] = {}
        self._num_listed = 0
        self._names: dict[str, dict[str, str]] = {}

    def _archives(self) -> Mounts | None:
        if self._mounts is None and self._patterns:
            self._mounts = Mounts(self.root, self._patterns)
        return self._mounts

    def _member(self, path: str) -> Member | None:
        """Return the archive's member that stands for the file; None where the disk has it, or nobody."""
        plain = _plain(path)
        if self._archives() is None or plain is None:
            return None
        folder, _, name = plain.rpartition("/")
        found = self._look(folder)
        return None if found is None else found.members.get(name)

    def _open(self, path: str) -> BinaryIO:
        try:
            return open(inside(self.root, path), "rb")
        except ValueError as error:
            raise OSError(errno.ENOENT, "no file can have that name") from error

    def _read_member(self, path: str, most: int, error: OSError) -> bytes:
        absent = error.errno in _ABSENT
        mounts, member = self._archives(), self._member(path) if absent else None
        if mounts is None or member is None:
            raise LayoutError(f"{path} cannot be read: {error.strerror}") from error
        return mounts.read(member, path, most)

    def _look(self, folder: str) -> _Folder | None:
        if folder in self._listed:
            return self._listed[folder]
        found = self._merge(folder)
        self._num_listed += len(found.folders) + len(found.files) if found else 1
        if self._num_listed > _MOST_LISTED:
            self._forget()
        self._listed[folder] = found
        return found

    def _merge(self, folder: str) -> _Folder | None:
        """List a folder on the disk and in the archives; None where neither has it."""
        mounts, plain = self._archives(), _plain(folder)
        on_disk = _Folder([], [])
        try:
            on_disk = self._scan(folder)
            there = True
        except OSError as error:
            if error.errno == errno.ENOTDIR:  # it is a file on the disk, or below one, and that comes first
                return None
            if error.errno not in _ABSENT:
                raise LayoutError(f"{self.root / folder} cannot be listed: {error.strerror}") from error
            there = False
        except ValueError:  # a name that no disk can have
            return None
        packed = mounts.listing(plain) if mounts is not None and plain is not None else None
        if packed is None:
            return on_disk if there else None
        files = set(on_disk.files)
        folders = {*on_disk.folders, *(name for name in packed[0] if name not in files)}
        members = {name: member for name, member in packed[1].items() if name not in files and name not in folders}
        return _Folder(sorted(folders), sorted([*files, *members]), members)

    def _scan(self, folder: str) -> _Folder:
        folders: list[str] = []
        files: list[str] = []
        with os.scandir(self.root / folder) as entries:
            for entry in entries:
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link to itself, say: listed as a file, whose reading then says what is wrong
                    is_folder = False
                if not is_folder:
                    files.append(entry.name)
                elif not entry.name.startswith(".") and entry.name != "__MACOSX":
                    folders.append(entry.name)
        return _Folder(sorted(folders), sorted(files))


def _plain(path: str) -> str | None:
    """Return a path without empty components and dots; None where it may leave the root."""
    parts = path.split("/")
    if path.startswith("/") or ".." in parts:
        return None
    return "/".join(part for part in parts if part not in ("", "."))


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    try:
        return kind(path)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise
