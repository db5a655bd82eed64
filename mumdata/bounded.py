"""A bounded look at a folder: of every folder some entries, of archives the first members, of patterns a few places.

In: a root folder and patterns of layouts. Out: names and paths that are there, for no more than a stated number of
entries and of folders; a name that was not seen may be there all the same.
"""

from __future__ import annotations

import bz2
import errno
import fnmatch
import functools
import io
import lzma
import os
import re
import shlex
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from mumdata.archives.patterns import mounted_into
from mumdata.errors import LayoutError
from mumdata.images import looks_like_image
from mumdata.tree import Tree

__all__ = [
    "ALL_ENTRIES",
    "ALL_LOOKS",
    "BoundedTree",
    "Budget",
    "COMPRESSED",
    "Disk",
    "Listing",
    "Look",
    "MOST_ARCHIVES",
    "MOST_MATCHES",
    "NotReadError",
    "compressed_names",
    "expand",
    "inner_folders",
    "is_hidden",
    "is_wild",
    "quoted",
]

# what a look may cost: directory entries of one folder and of all together, folders opened or names tried in all
_MOST_ENTRIES, ALL_ENTRIES, ALL_LOOKS = 1_000, 60_000, 4_000
# of the names that fit a pattern's component, so many are looked into; so many places are looked at for one pattern
MOST_MATCHES, _MOST_PLACES = 25, 120
MOST_ARCHIVES, _MOST_MEMBERS, _MOST_BYTES = 6, 200, 1 << 20

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_SHARD = ".parquet"


# ---- a disk


@dataclass
class Budget:
    entries: int = ALL_ENTRIES
    looks: int = ALL_LOOKS


class NotReadError(Exception):
    """Why an archive is not read."""


@dataclass(frozen=True)
class Listing:
    # name -> is it a folder; `whole` where no entry was left unread
    names: Mapping[str, bool]
    whole: bool


_NOTHING = Listing({}, False)


class Disk:
    """A root folder of which a bounded part is read."""

    def __init__(self, root: Path, budget: Budget) -> None:
        self.root, self.budget = root, budget
        self._listed: dict[str, Listing] = {}
        self._members: dict[str, list[str] | NotReadError] = {}

    def entries(self, folder: str) -> Listing:
        """Return the first entries of a folder, in the order of the disk."""
        if folder not in self._listed:
            if self.budget.looks <= 0 or self.budget.entries <= 0:
                return _NOTHING
            self._listed[folder] = self._scan(folder)
        return self._listed[folder]

    def kind(self, folder: str, name: str) -> str | None:
        """Tell whether a name is a "folder", a "file" or not there, without listing what is not listed yet."""
        known = self._listed.get(folder)
        if known is not None and (known.whole or name in known.names):
            return None if name not in known.names else "folder" if known.names[name] else "file"
        if self.budget.looks <= 0:
            return None
        self.budget.looks -= 1
        path = self.root / folder / name
        return "folder" if os.path.isdir(path) else "file" if os.path.lexists(path) else None

    def members(self, path: str) -> list[str]:
        """Return the names of an archive's first members; NotReadError where it is not read."""
        if path not in self._members:
            try:
                self._members[path] = _members(self.root / path)
            except NotReadError as error:
                self._members[path] = error
        found = self._members[path]
        if isinstance(found, NotReadError):
            raise found
        return found

    def _scan(self, folder: str) -> Listing:
        self.budget.looks -= 1
        most = min(_MOST_ENTRIES, self.budget.entries)
        try:
            with os.scandir(self.root / folder) as entries:
                names = {entry.name: _is_folder(entry) for entry in islice(entries, most)}
        except OSError as error:
            return Listing({}, error.errno in (errno.ENOENT, errno.ENOTDIR))
        self.budget.entries -= len(names)
        return Listing(names, len(names) < most)


class Look:
    """A disk and the first members of archives in it, as if unpacked where they lie."""

    def __init__(self, disk: Disk, archives: Iterable[str] = ()) -> None:
        self.disk = disk
        self.archives: dict[str, str | None] = {}  # path -> why it cannot be read
        self._packed: dict[str, dict[str, bool]] = {}
        for pattern in archives:
            self._open(pattern)

    def entries(self, folder: str) -> Listing:
        """Return the first entries of a folder."""
        packed = self._packed.get(folder)
        listing = self.disk.entries(folder)
        return listing if packed is None else Listing({**packed, **listing.names}, False)

    def kind(self, folder: str, name: str) -> str | None:
        """Tell whether a name is a "folder", a "file" or not there."""
        packed = self._packed.get(folder, {})
        found = self.disk.kind(folder, name)
        return found or (None if name not in packed else "folder" if packed[name] else "file")

    def paths(self, components: tuple[str, ...], folder: str = "") -> Iterator[str]:
        """Yield paths below `folder` that fit the components, from a bounded number of places."""
        yield from self._paths(components, folder, [_MOST_PLACES])

    def first(self, pattern: str) -> str | None:
        """Return a path that fits a pattern of a layout, or None."""
        return next((path for components in expand(pattern) for path in self.paths(components)), None)

    def has_image(self, path: str, depth: int = 2) -> bool:
        """Tell whether a path is an image, a shard of images, or a folder with an image in it at a small depth."""
        names = self.entries(path).names
        if not names:
            return looks_like_image(path.rpartition("/")[2]) or path.endswith(_SHARD)
        if any(looks_like_image(name) and not is_folder for name, is_folder in names.items()):
            return True
        inner = sorted(name for name, is_folder in names.items() if is_folder)[:4] if depth else ()
        return any(self.has_image(f"{path}/{name}" if path else name, depth - 1) for name in inner)

    def pack(self, folder: str, members: Iterable[str]) -> None:
        """Show members of an archive below a folder."""
        for member in members:
            parts = [part for part in (*folder.split("/"), *member.split("/")) if part not in ("", ".")]
            if ".." in parts:
                continue
            for place, name in enumerate(parts):
                inner = place + 1 < len(parts) or member.endswith("/")
                here = self._packed.setdefault("/".join(parts[:place]), {})
                here[name] = inner or here.get(name, False)

    def _paths(self, components: tuple[str, ...], folder: str, places: list[int]) -> Iterator[str]:
        component, rest = components[0], components[1:]
        for name in self._fitting(component, folder, places):
            path = f"{folder}/{name}" if folder else name
            if not rest:
                yield path
            elif places[0] > 0:
                yield from self._paths(rest, path, places)

    def _fitting(self, component: str, folder: str, places: list[int]) -> list[str]:
        places[0] -= 1
        literal = _literal(component)
        if literal is not None:
            return [literal] if self.kind(folder, literal) else []
        fits = re.compile(component).fullmatch
        return sorted(name for name in self.entries(folder).names if fits(name))[:MOST_MATCHES]

    def _open(self, pattern: str) -> None:
        files, _, target = pattern.partition(" => ")
        components = tuple(_of_glob(part) for part in files.split("/"))
        for path in islice(self.paths(components), MOST_ARCHIVES):
            folder, _, name = path.rpartition("/")
            if path in self.archives or self.disk.kind(folder, name) != "file":
                continue
            try:
                members = list(self.disk.members(path))
                into = target.replace("*", path.rpartition(".")[0]) or folder
                self.pack(mounted_into(into, path, members[0] if members else ""), members)
                self.archives[path] = None
            except NotReadError as reason:
                self.archives[path] = str(reason)


class BoundedTree(Tree):
    """A tree for a dataset's own listing of its scenes, which reads no more than a look does."""

    def __init__(self, look: Look) -> None:
        super().__init__(look.disk.root)
        self._bounded = look
        self.cut = False

    def listing(self, folder: str) -> tuple[list[str], list[str]]:
        found = self._bounded.entries(folder)
        self.cut |= not found.whole
        files = sorted(name for name, is_folder in found.names.items() if not is_folder)
        shards = [name for name in files if name.endswith(_SHARD)]
        if len(shards) > MOST_ARCHIVES:
            # their rows are read to list scenes, and a few shards hold most classes
            self.cut, kept = True, set(shards[:MOST_ARCHIVES])
            files = [name for name in files if not name.endswith(_SHARD) or name in kept]
        return inner_folders(found), files

    def folders(self, folder: str) -> list[str]:
        return self.listing(folder)[0] if self.is_folder(folder) else []

    def files(self, folder: str) -> list[str]:
        return self.listing(folder)[1] if self.is_folder(folder) else []

    def is_folder(self, path: str) -> bool:
        return not path or self._kind(path) == "folder"

    def is_file(self, path: str) -> bool:
        return self._kind(path) == "file"

    def read_bytes(self, path: str, most: int = _MOST_BYTES) -> bytes:
        try:
            return super().read_bytes(path, min(most, 16 * _MOST_BYTES))
        except LayoutError:
            self.cut = True
            raise

    def _kind(self, path: str) -> str | None:
        folder, _, name = path.rpartition("/")
        self.cut |= self._bounded.disk.budget.looks <= 0
        return self._bounded.kind(folder, name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def inner_folders(listing: Listing) -> list[str]:
    return sorted(name for name, is_folder in listing.names.items() if is_folder and not is_hidden(name))


def quoted(path: Path | str) -> str:
    """Quote a path for a shell, also where its name holds control characters or bytes that are not UTF-8."""
    data = os.fsencode(f"./{path}" if str(path).startswith("-") else path)
    try:
        if (text := data.decode()).isprintable():
            return shlex.quote(text)
    except UnicodeDecodeError:
        pass
    shown = "".join(chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in data)
    return f"$'{shown}'"


# ---- patterns


@functools.cache
def expand(pattern: str) -> tuple[tuple[str, ...], ...]:
    """Turn a layout's pattern into paths of components, each a regular expression for one name.

    A group may span several components, as in `(a/)?b` or `(a/b|c)/d`; ValueError where such a group is repeated.
    """
    marks = _structure(pattern)
    choices = _split(pattern, [at for at, char, depth in marks if char == "|" and depth == 0])
    if len(choices) > 1:
        return tuple(path for choice in choices for path in expand(choice))
    for at, char, depth in marks:
        if char != "(":
            continue
        end = next(place for place, other, deep in marks if other == ")" and deep == depth and place > at)
        if not any(other == "/" and at < place < end for place, other, _ in marks):
            continue
        before, inner, after = pattern[:at], pattern[at + 1 : end].removeprefix("?:"), pattern[end + 1 :]
        if after[:1] in ("*", "+", "{"):
            raise ValueError(f"'{pattern}' repeats a group that spans several components")
        choices = _split(inner, [place for place, other, deep in _structure(inner) if other == "|" and deep == 0])
        if after.startswith("?"):
            choices, after = [*choices, ""], after[1:]
        return tuple(path for choice in choices for path in expand(before + choice + after))
    parts = _split(pattern, [at for at, char, _ in marks if char == "/"])
    return (tuple(part for part in parts if part),)


def _structure(pattern: str) -> list[tuple[int, str, int]]:
    # (position, character, depth) of parentheses, bars and slashes, but for those that are escaped or in a class
    found, depth, at = [], 0, 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            at += 1
        elif char == "[":
            at = pattern.index("]", at + (3 if pattern[at + 1 : at + 2] == "^" else 2))
        elif char in "()|/":
            depth -= char == ")"
            found.append((at, char, depth))
            depth += char == "("
        at += 1
    return found


def _split(text: str, places: list[int]) -> list[str]:
    starts = [0, *(place + 1 for place in places)]
    return [text[start:end] for start, end in zip(starts, [*places, len(text)], strict=True)]


def _literal(component: str) -> str | None:
    # the one name that a component fits, or None where it is a true pattern
    plain = re.fullmatch(r"(?:[^\\.\[\](){}*+?|^$]|\\[^A-Za-z0-9])+", component)
    return re.sub(r"\\(.)", r"\1", component) if plain else None


def _of_glob(part: str) -> str:
    return fnmatch.translate(part) if any(char in part for char in "*?[") else re.escape(part)


def is_wild(component: str) -> bool:
    # fits about any name, so that the name alone says nothing
    return all(re.fullmatch(component, name) for name in ("zzz", "qqqqq"))


# ---- archives


def _members(path: Path) -> list[str]:
    """Return the names of an archive's first members; NotReadError where it is compressed, split or broken."""
    if not path.is_file():
        raise NotReadError("not a regular file")  # opening a pipe would wait for whoever writes into it
    try:
        with open(path, "rb") as file:
            start = file.read(6)
            if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
                named = "" if path.name.lower().endswith(COMPRESSED) else "though its name does not say so, "
                raise NotReadError(f"compressed, {named}not read; unpack it: tar xf {quoted(path.name)}")
            file.seek(0)
            # the last part of a split ZIP, which holds the directory, starts in the middle of a member
            is_zip = start.startswith(b"PK") or path.name.lower().endswith(".zip")
            return _zip_names(file) if is_zip else _tar_names(_Careful(file))
    except (OSError, ValueError, OverflowError, struct.error, tarfile.TarError) as error:
        raise NotReadError(f"cannot be read: {error}") from error


def _zip_names(file: BinaryIO) -> list[str]:
    # the central directory from its start, as far as a mebibyte goes
    names: list[str] = []
    size = file.seek(0, os.SEEK_END)
    tail_start = max(0, size - (1 << 16) - 22)
    file.seek(tail_start)
    tail = file.read(_MOST_BYTES)
    end = tail.rfind(b"PK\5\6")
    if end < 0:
        raise ValueError("it has no end; download it again")
    if struct.unpack_from("<H", tail, end + 4)[0] not in (0, 0xFFFF):
        raise ValueError("it is the last part of a split ZIP; merge the parts with zip -F")
    (offset,) = struct.unpack_from("<L", tail, end + 16)
    locator = tail.rfind(b"PK\6\7", 0, end)
    if offset == 0xFFFFFFFF and locator >= 0:
        file.seek(struct.unpack_from("<Q", tail, locator + 8)[0])
        (offset,) = struct.unpack_from("<Q", file.read(56), 48)
    file.seek(offset)
    data, at = file.read(_MOST_BYTES), 0
    while len(names) < _MOST_MEMBERS and data[at : at + 4] == b"PK\1\2" and at + 46 <= len(data):
        name, extra, comment = struct.unpack_from("<HHH", data, at + 28)
        names.append(data[at + 46 : at + 46 + name].decode("utf-8", "surrogateescape"))
        at += 46 + name + extra + comment
    return names


class _Careful(io.RawIOBase):
    """A file of which no read takes more than a mebibyte: a header that claims more is a lie."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_BYTES:
            raise ValueError("a header claims an impossible size")
        return bytes(self._file.read(size))

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())


def _tar_names(file: Any, inner: bool = True) -> list[str]:
    # archives inside count as folders of their members
    names: list[str] = []
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while len(names) < _MOST_MEMBERS and (member := archive.next()) is not None:
            names.append(f"{member.name}/" if member.isdir() else member.name)
            if inner and member.isfile() and member.name.endswith(".tar"):
                stem, part = member.name.removesuffix(".tar"), archive.extractfile(member)
                names[-1] = f"{stem}/"
                if len(names) < MOST_ARCHIVES:
                    names += [f"{stem}/{name}" for name in _tar_names(_Careful(part), inner=False)[:MOST_ARCHIVES]]
    return names


def compressed_names(path: Path) -> list[str]:
    # the first members of a compressed tar, from its first bytes; none where they do not say
    if not path.is_file():
        return []
    try:
        with open(path, "rb") as file:
            start = file.read(_MOST_BYTES)
        if start.startswith(b"\x1f\x8b"):
            data = zlib.decompressobj(wbits=31).decompress(start, 4 * _MOST_BYTES)
        elif start.startswith(b"BZh"):
            data = bz2.BZ2Decompressor().decompress(start, 4 * _MOST_BYTES)
        elif start.startswith(b"\xfd7zXZ"):
            data = lzma.LZMADecompressor().decompress(start, 4 * _MOST_BYTES)
        else:
            return []
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError):
        return []
    names: list[str] = []
    try:
        with tarfile.open(fileobj=_Careful(io.BytesIO(data)), mode="r:") as archive:
            while len(names) < _MOST_MEMBERS and (member := archive.next()) is not None:
                names.append(f"{member.name}/" if member.isdir() else member.name)
    except (OSError, ValueError, OverflowError, tarfile.TarError):
        pass  # the data was cut
    return names
