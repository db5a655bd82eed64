"""Archives below a root, each mounted into a folder as if unpacked there.

In: a root folder and glob patterns. Out: what the archives' members add to each folder, where a member's bytes lie, the
bytes themselves, and what is refused. Nothing is unpacked to the disk; a large table of folders is kept in a temporary
file, which worker processes map.
"""

from __future__ import annotations

import functools
import io
import mmap
import os
import secrets
import shlex
import stat
import struct
import tempfile
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mumdata.archives import tars, zip_directory, zips
from mumdata.archives.members import Passed, ReadAt, Refusal, Where, as_text, broken, exactly
from mumdata.archives.patterns import matches, mounted_into
from mumdata.archives.table import Builder, Runs, Table
from mumdata.errors import LayoutError

__all__ = ["Member", "Mounts", "Refused", "Source"]

# tables up to this size travel with every task; larger ones are mapped from a file
_MOST_INLINE = 1 << 20
_MOST_OPEN = 32  # archives


class Refused(NamedTuple):
    """An archive, or a member of one, that is not read: why, in one word and for people."""

    archive: str  # relative to the root
    member: str  # the name as in the archive; "" for the archive itself
    reason: str
    detail: str


@dataclass(frozen=True)
class Source:
    """Where a file's bytes lie in an archive."""

    archive: str  # relative to the root
    path: str  # the member's name exactly as in the archive
    codec: str  # "stored" or "deflate"; "parquet" for rows of shards, whose offset is the number of the row
    offset: int  # of the member's data
    bytes: int  # as stored
    size: int  # unpacked
    mtime_ns: int  # of the archive


# (number of the part, position of the member's header)
Member = tuple[int, int]


@dataclass(frozen=True)
class _Archive:
    """An archive file. `shift` and `limit` are those of `zips.Bounds`, None for TAR."""

    path: str
    size: int
    mtime_ns: int
    shift: int | None = None
    limit: int | None = None


class _Part(NamedTuple):
    """An archive, or an archive in it: what its members' names begin with."""

    archive: int
    inside: str


class Mounts:
    """The archives below a root. What they hold is read once, here; members are read when they are asked for."""

    def __init__(self, root: Path, patterns: tuple[str, ...]) -> None:
        found = _Mounting(Path(root))
        for path, folder in matches(Path(root), patterns):
            found.mount(path, folder)
        table, file = found.table()
        if file is not None:
            weakref.finalize(self, _remove, file, os.getpid())
        self._settle(Path(root), patterns, table, file)

    def _settle(self, root: Path, patterns: tuple[str, ...], table: Table, file: str | None) -> None:
        self._root, self._patterns, self._table, self._file = root, patterns, table, file
        self._archives = [_Archive(*row) for row in table.about["archives"]]
        self._parts = [_Part(*row) for row in table.about["parts"]]
        self.refused = [Refused(*row) for row in table.about["refused"]]
        self._open = _OpenFiles()

    def __reduce__(self) -> tuple[Any, ...]:
        data = None if self._file else bytes(self._table.data)
        return _restored, (self._root, self._patterns, self._table.token, self._file, data)

    def has_folder(self, folder: str) -> bool:
        """Tell whether an archive holds the folder, or something below it."""
        return self._table.find(_key(folder)) is not None

    def listing(self, folder: str) -> tuple[list[str], dict[str, Member]] | None:
        """Return the names of the sub-folders, and the files with the members that they are; None for no such folder.

        Of two archives that hold the same file the first counts, in text order of their paths; a name that is both a
        folder and a file is a folder. Folders that start with a dot, and __MACOSX, are passed over. LayoutError where
        an archive cannot be read any more.
        """
        key = _key(folder)
        row = self._table.find(key)
        if row is None:
            return None
        files: dict[str, Member] = {}
        for part, start, end in self._table.runs(row, key):
            for position, file in self._run(part, start, end):
                files.setdefault(as_text(file), (part, position))
        folders = [as_text(name) for name in self._table.subfolders(row, key)]
        for taken in ("", *folders):
            files.pop(taken, None)
        return [name for name in folders if not name.startswith(".") and name != "__MACOSX"], files

    def source(self, member: Member, path: str) -> Source:
        """Return where a member's bytes lie; LayoutError, which names it by its `path`, where they cannot be read."""
        archive = self._archives[self._parts[member[0]].archive]
        with _told(archive.path, path):
            where = self._locate(self._read_at(archive), member)
        return Source(archive.path, where.path, where.codec, where.offset, where.stored, where.size, archive.mtime_ns)

    def read(self, member: Member, path: str, most: int) -> bytes:
        """Return a member's unpacked bytes, checked against its CRC-32 where it has one.

        LayoutError as for `source`, and for members of more than `most` bytes.
        """
        archive = self._archives[self._parts[member[0]].archive]
        with _told(archive.path, path):
            read = self._read_at(archive)
            where = self._locate(read, member)
            if where.size > most:
                raise Refusal("too_large", f"it has {where.size:,} bytes, more than the {most:,} that it may have")
            if where.codec == "deflate":
                data = zips.inflate(read, where)
            else:
                data = exactly(read, where.offset, where.stored)
            if where.crc is not None and zlib.crc32(data) != where.crc:
                raise broken("its bytes are damaged: the checksum differs")
        return data

    def _read_at(self, archive: _Archive) -> ReadAt:
        return functools.partial(_pread, self._open.number(self._root, archive))

    def _run(self, part: int, start: int, end: int) -> list[tuple[int, bytes]]:
        """Return (position, name) of the members of a run that are not passed over."""
        number = self._parts[part].archive
        archive = self._archives[number]
        with _told(archive.path, ""):
            read = self._read_at(archive)
            members = zips.files(read, start, end) if archive.shift is not None else tars.files(read, start, end)
            passed = self._table.passed(number, start, end)
            return [member for member in members if member[0] not in passed]

    def _locate(self, read: ReadAt, member: Member) -> Where:
        part, position = member
        number, inside = self._parts[part]
        archive = self._archives[number]
        if archive.shift is not None and archive.limit is not None:
            return zips.locate(read, position, zips.Bounds(archive.shift, archive.limit))
        where = tars.locate(read, position)
        return where._replace(path=inside + where.path)


@contextmanager
def _told(archive: str, path: str) -> Iterator[None]:
    """Turn what goes wrong with a member into a LayoutError that names it."""
    named = f"{archive}: member '{path}'" if path else archive
    try:
        yield
    except Refusal as why:
        raise LayoutError(f"{named}: {why.detail}") from None
    except OSError as error:
        raise LayoutError(f"{named}: cannot be read: {error.strerror}") from error


def _key(folder: str) -> bytes:
    try:
        return folder.encode("utf-8", "surrogateescape") + b"/" if folder else b""
    except UnicodeEncodeError:
        return b"/"  # no name on a disk or in an archive: nothing is called so


# --- reading ----------------------------------------------------------------------------------------------------------


def _pread(number: int, offset: int, count: int) -> bytes:
    """Read up to `count` bytes of an open file; fewer only at its end."""
    pieces = []
    while count > 0 and 0 <= offset < 1 << 62:
        pieces.append(os.pread(number, min(count, 1 << 30), offset))
        if not pieces[-1]:
            break
        offset, count = offset + len(pieces[-1]), count - len(pieces[-1])
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _open_archive(root: Path, path: str) -> int:
    # without O_NONBLOCK, opening a pipe would wait for whoever writes into it
    return os.open(root / path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


class _OpenFiles:
    """The archives read last, which stay open."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[str, int] = OrderedDict()
        weakref.finalize(self, _close, self._numbers)

    def number(self, root: Path, archive: _Archive) -> int:
        """Return the file descriptor; Refusal where the archive is not the one whose members were listed."""
        number = self._numbers.get(archive.path)
        if number is not None:
            self._numbers.move_to_end(archive.path)
            return number
        number = _open_archive(root, archive.path)
        found = os.fstat(number)
        if (found.st_size, found.st_mtime_ns) != (archive.size, archive.mtime_ns):
            os.close(number)
            raise Refusal("changed", "changed since its members were listed; run the command again")
        self._numbers[archive.path] = number
        while len(self._numbers) > _MOST_OPEN:
            os.close(self._numbers.popitem(last=False)[1])
        return number


def _close(numbers: OrderedDict[str, int]) -> None:
    while numbers:
        os.close(numbers.popitem()[1])


# --- mounting ---------------------------------------------------------------------------------------------------------


class _Mounting:
    """What was found in the archives so far."""

    def __init__(self, root: Path) -> None:
        self._root, self._runs = root, Builder()
        self._archives: list[_Archive] = []
        self._parts: list[_Part] = []
        self._refused: list[Refused] = []
        self._passed: list[np.ndarray] = []

    def mount(self, path: str, folder: str) -> None:
        """Read what an archive holds, to be seen below a folder; where that fails, say why."""
        num_runs, passed, number = len(self._runs), Passed(), None
        try:
            number = _open_archive(self._root, path)
            found = os.fstat(number)
            if not stat.S_ISREG(found.st_mode):
                return
            archive = _Archive(path, found.st_size, found.st_mtime_ns)
            bounds = self._scan(functools.partial(_pread, number), archive, folder, passed)
        except (Refusal, OSError) as why:
            self._runs.drop_after(num_runs)
            passed = Passed()
            if isinstance(why, Refusal):
                passed.tell("", why.reason, why.detail)
            else:
                passed.tell("", "broken_archive", f"cannot be read: {why.strerror}")
            archive, bounds = _Archive(path, 0, 0), None
        finally:
            if number is not None:
                os.close(number)
        self._archives.append(replace(archive, shift=bounds.shift, limit=bounds.limit) if bounds else archive)
        self._passed.append(np.sort(np.asarray(passed.positions)))
        self._refused += [Refused(path, *row) for row in passed.told()]

    def _scan(self, read: ReadAt, archive: _Archive, folder: str, passed: Passed) -> zips.Bounds | None:
        head = read(0, 512)
        if head.startswith(b"PK\3\4"):
            first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
            folder = mounted_into(folder, archive.path, as_text(first))
        below = _key(folder)

        def open_part(inside: str, inner: bytes) -> Runs:
            self._parts.append(_Part(len(self._archives), inside))
            return Runs(self._runs, len(self._parts) - 1, below + inner)

        packed = tars.compression(head)
        if head.startswith((b"PK\3\4", b"PK\5\6", b"PK\7\x08")) or (archive.path.endswith(".zip") and not packed):
            try:
                return zip_directory.scan(read, archive.size, open_part("", b""), passed)
            except zips.SplitArchive:
                whole = shlex.quote(archive.path.removesuffix(".zip") + ".joined.zip")
                command = f"`zip -s 0 {shlex.quote(archive.path)} --out {whole}`"
                detail = f"one part of an archive in several; join them by {command}, and take the parts away"
                raise Refusal("unsupported", detail) from None
        if packed is not None:
            method, command = packed
            target = f" -C {shlex.quote(folder)}" if folder and command.startswith("tar") else ""
            detail = f"compressed by {method}, so that no member can be read alone; unpack it by "
            raise Refusal("compressed_archive", f"{detail}`{command} {shlex.quote(archive.path)}{target}`")
        tars.scan(read, archive.size, open_part, passed)
        return None

    def table(self) -> tuple[Table, str | None]:
        """Return the table, and the temporary file that it is mapped from, if it is large."""
        arrays = self._runs.arrays() | {
            "passed": np.concatenate([np.zeros(0, np.int64), *self._passed]),
            "passed_ends": np.cumsum([0, *map(len, self._passed)]),
        }
        about = {
            "archives": [astuple(archive) for archive in self._archives],
            "parts": self._parts,
            "refused": self._refused,
        }
        token = secrets.token_bytes(16)
        if sum(column.nbytes for column in arrays.values()) > _MOST_INLINE and (file := _temporary()) is not None:
            path, number = file
            try:
                with open(number, "wb") as out:
                    Table.write(out, token, arrays, about)
                return _mapped(path), path
            except OSError:  # a full disk: then it stays in memory
                os.unlink(path)
        memory = io.BytesIO()
        Table.write(memory, token, arrays, about)
        return Table(memory.getvalue()), None


def _temporary() -> tuple[str, int] | None:
    try:
        number, path = tempfile.mkstemp(prefix="mumdata-", suffix=".folders")
    except OSError:
        return None
    return path, number


def _mapped(path: str) -> Table:
    with open(path, "rb") as file:
        return Table(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:  # not a fork of it
        with suppress(OSError):
            os.unlink(path)


def _restored(root: Path, patterns: tuple[str, ...], token: bytes, file: str | None, data: bytes | None) -> Mounts:
    """Rebuild what was pickled; where its file is not there, on another machine, the archives are read anew."""
    try:
        table = Table(data) if data is not None else _mapped(str(file))
    except (OSError, ValueError, struct.error):
        table = None
    if table is None or table.token != token:
        return _read_anew(root, patterns, token)
    mounts = Mounts.__new__(Mounts)
    mounts._settle(root, patterns, table, file)
    return mounts


@functools.lru_cache(maxsize=1)
def _read_anew(root: Path, patterns: tuple[str, ...], token: bytes) -> Mounts:
    # remembered by its token, since every task of a worker brings it again
    return Mounts(root, patterns)
