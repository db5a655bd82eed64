"""Looking at the files of a stream: are they there, whole, and how large are the pictures?

In: paths, a tree, and what an earlier run found out about files of the same size and time. Out: for every frame where
its bytes lie, its status with a reason, and what its header says; no pixel is decoded unless that is asked for.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mumdata.errors import DecodeError, LayoutError, TruncatedError
from mumdata.files import inside
from mumdata.images import Header, read_header
from mumdata.shards import survey
from mumdata.tree import Source, Tree
from mumdata.verify_image import verify

__all__ = ["VERIFY", "Looks", "look"]

VERIFY = ("none", "header", "decode")

# deflated members are inflated this far for their header; few headers are longer
_HEAD = 1 << 16
_PIECE = 1 << 14


@dataclass(eq=False)
class Looks:
    """What is known about the files of a stream's frames, in their order.

    `size`, `mtime`, `offset`, `width`, `height`, `turns` are int64 [n] with -1 for unknown; `path` is the catalog's:
    relative to the root, or the member's name in `archive`. `hash` is the sha256 of the file where that was asked for.
    `num_read` counts the files that were opened.
    """

    path: list[str]
    archive: list[str | None]
    codec: list[str | None]
    status: list[str]
    reason: list[str]
    traits: list[str | None]
    hash: list[str | None]
    size: np.ndarray
    mtime: np.ndarray
    offset: np.ndarray
    width: np.ndarray
    height: np.ndarray
    turns: np.ndarray
    num_read: int = 0

    @staticmethod
    def unknown(paths: tuple[str, ...]) -> Looks:
        """Return looks at nothing yet."""
        num = len(paths)
        size, mtime, offset, width, height, turns = (np.full(num, -1, np.int64) for _ in range(6))
        unknown: list[str | None] = [None] * num
        return Looks(
            list(paths),
            unknown,
            unknown.copy(),
            ["ok"] * num,
            [""] * num,
            unknown.copy(),
            unknown.copy(),
            size,
            mtime,
            offset,
            width,
            height,
            turns,
        )


def look(
    tree: Tree,
    paths: tuple[str, ...],
    level: str,
    hashes: bool,
    old: pa.Table | None,
    rows_of_shards: tuple[Source, ...] | None = None,
    work: Path | None = None,
) -> Looks:
    """Look at every file; those that `old` (columns of `mumdata.previous`) knows with size and time are not opened.

    `level` is one of VERIFY: `none` asks the file system alone, `header` reads each file's head and end, `decode`
    every pixel. Frames that cannot be used get a status other than `ok` and a reason. Where the frames are
    `rows_of_shards`, what is found out about whole shards is kept in the folder `work`.
    """
    found = Looks.unknown(paths)
    if rows_of_shards is not None:
        _look_at_shards(tree, rows_of_shards, found, level, hashes, old, work)
        return found
    if old is None and (level != "none" or hashes):
        # nothing to compare sizes and times with: each file is opened at once, which tells them, too
        sources = _visit(tree, paths, found, functools.partial(_read_one, found, level=level, hashes=hashes))
        todo = [row for row in sources if found.size[row] > 0]
        found.num_read = int((found.size > 0).sum())
    else:
        sources = _visit(tree, paths, found, None)
        reused = _reused(found, old, level, hashes) if old is not None else np.zeros(len(paths), bool)
        todo = np.flatnonzero((found.size > 0) & ~reused).tolist() if level != "none" or hashes else []
        found.num_read = len(todo)
    for row, read in _readers(tree, paths, todo, sources):
        if isinstance(read, OSError):
            found.status[row], found.reason[row] = "unreadable", read.strerror or "input/output error"
        else:
            _read_one(found, row, *read, level, hashes)
    for row in np.flatnonzero(found.size == 0).tolist():
        found.status[row], found.reason[row] = "empty", "0 bytes"
    return found


# ---- sizes and times

# row, file descriptor, size, and where in an archive
Read = Callable[[int, int, int, Source | None], None]

# without O_NONBLOCK, opening a pipe would wait for whoever writes into it
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def _visit(tree: Tree, paths: tuple[str, ...], found: Looks, read: Read | None) -> dict[int, Source]:
    """Find out size and time of every file, and where in an archive it is, which is returned by row.

    Files on the disk are handed to `read`, where one is given. Each folder is opened once, so that the system does not
    walk down to it for each file.
    """
    sources: dict[int, Source] = {}
    size, mtime = [-1] * len(paths), [-1] * len(paths)
    safe = not _may_leave(paths)
    for folder, rows in _by_folder(paths):
        directory = -1
        try:
            directory = os.open(tree.root / folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                for row in rows:
                    found.status[row], found.reason[row] = "unreadable", error.strerror or "input/output error"
                continue
        start = len(folder) + 1 if folder else 0
        try:
            for row in rows:
                path, number = paths[row], -1
                if not safe and not _stays(tree, path):
                    found.status[row], found.reason[row] = "unreadable", "its path leaves the root"
                    continue
                try:
                    if directory < 0:
                        raise FileNotFoundError
                    if read is None:
                        status = os.stat(path[start:], dir_fd=directory)
                    else:
                        number = os.open(path[start:], _OPEN, dir_fd=directory)
                        status = os.fstat(number)
                    if not stat.S_ISREG(status.st_mode):
                        what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
                        found.status[row], found.reason[row] = "unreadable", what
                        continue
                    size[row], mtime[row] = status.st_size, status.st_mtime_ns
                    if read is not None and status.st_size:
                        read(row, number, status.st_size, None)
                except (FileNotFoundError, NotADirectoryError):
                    source = _in_archive(tree, path, row, found)
                    if source is not None:
                        sources[row] = source
                        size[row], mtime[row] = source.bytes, source.mtime_ns
                except OSError as error:
                    found.status[row], found.reason[row] = "unreadable", error.strerror or "input/output error"
                finally:
                    if number >= 0:
                        os.close(number)
        finally:
            if directory >= 0:
                os.close(directory)
    found.size[:], found.mtime[:] = size, mtime
    return sources


def _in_archive(tree: Tree, path: str, row: int, found: Looks) -> Source | None:
    try:
        source = tree.source(path)
    except LayoutError as error:
        found.status[row], found.reason[row] = "unreadable", str(error)
        return None
    if source is None:
        found.status[row], found.reason[row] = "missing", "named by a model, a list or a link, not on disk"
        return None
    found.path[row], found.archive[row] = source.path, source.archive
    found.codec[row], found.offset[row] = source.codec, source.offset
    return source


def _by_folder(paths: tuple[str, ...]) -> Iterator[tuple[str, Sequence[int]]]:
    if not paths:
        return
    first = paths[0][: paths[0].rfind("/") + 1]
    # most streams lie in one folder, which is seen without looking at path after path
    together = "\n" + "\n".join(paths)
    in_first = together.count("\n" + first) == len(paths) == together.count("\n")
    if in_first and together.count("/") == first.count("/") * len(paths):
        yield first[:-1], range(len(paths))
        return
    rows: list[int] = []
    current = first
    for row, path in enumerate(paths):
        folder = path[: path.rfind("/") + 1]
        if folder != current:
            yield current[:-1], rows
            current, rows = folder, []
        rows.append(row)
    yield current[:-1], rows


def _may_leave(paths: tuple[str, ...]) -> bool:
    together = "\n".join(paths)
    return ".." in together or "\0" in together or together.startswith("/") or "\n/" in together


def _stays(tree: Tree, path: str) -> bool:
    try:
        inside(tree.root, path)
    except LayoutError:
        return False
    return True


# ---- what is known already


def _reused(found: Looks, old: pa.Table, level: str, hashes: bool) -> np.ndarray:
    # bool [n]: the file has the size and time it had, it was whole, and all that is asked for is known
    num = len(found.path)
    paths = _texts(found.path)
    archives = pa.array(found.archive, pa.string())
    old = old.combine_chunks()
    old_paths, old_archives = old.column("path").combine_chunks(), old.column("archive").combine_chunks()
    if paths.equals(_plain(old_paths)) and archives.equals(_plain(old_archives)):
        rows = np.arange(num)
    else:
        place = {key: row for row, key in enumerate(zip(old_archives.to_pylist(), old_paths.to_pylist(), strict=True))}
        keys = zip(found.archive, paths.to_pylist(), strict=True)
        rows = np.array([place.get(key, -1) for key in keys], np.int64)
    known = rows >= 0
    at = np.where(known, rows, 0)

    def column(name: str) -> np.ndarray:
        return _plain(old.column(name)).cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)[at]

    whole = pc.is_in(_plain(old.column("status")), pa.array(["ok", "size_mismatch"]))
    same = known & whole.to_numpy(zero_copy_only=False)[at]
    sizes = column("bytes")
    if "parquet" in found.codec:  # a row's length is known only when it is read; the shard's time tells
        found.size[same] = sizes[same]
    same &= (sizes == found.size) & (column("mtime_ns") == found.mtime) & (found.size >= 0)
    same &= column("offset") == found.offset
    if level != "none":
        same &= column("width") > 0
    digests = _plain(old.column("content_hash"))
    if hashes:
        same &= digests.is_valid().to_numpy(zero_copy_only=False)[at]
    for mine, name in ((found.width, "width"), (found.height, "height"), (found.turns, "upright_quarter_turns")):
        mine[same] = column(name)[same]
    traits = _plain(old.column("traits"))
    for values, theirs in ((found.traits, traits), (found.hash, digests)):
        if theirs.null_count < len(theirs) and (hashes or theirs is traits):
            texts = theirs.to_pylist()
            for row in np.flatnonzero(same):
                values[row] = texts[at[row]]
    return same


def _plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _texts(paths: list[str]) -> pa.Array:
    # as the catalog writes names whose bytes are not UTF-8
    try:
        return pa.array(paths, pa.string())
    except UnicodeEncodeError:
        texts = (os.fsencode(path).decode("utf-8", "backslashreplace") for path in paths)
        return pa.array(list(texts), pa.string())


# ---- rows of Parquet shards


def _look_at_shards(
    tree: Tree,
    rows: tuple[Source, ...],
    found: Looks,
    level: str,
    hashes: bool,
    old: pa.Table | None,
    work: Path | None,
) -> None:
    found.path[:] = [row.path for row in rows]
    found.archive[:] = [row.archive for row in rows]
    found.codec[:] = [row.codec for row in rows]
    found.offset[:] = [row.offset for row in rows]
    found.mtime[:] = [row.mtime_ns for row in rows]
    reused = _reused(found, old, level, hashes) if old is not None else np.zeros(len(rows), bool)
    todo = np.flatnonzero(~reused)
    if (level == "none" and not hashes) or work is None or not len(todo):
        return
    shards: dict[str, list[int]] = {}
    for row in todo.tolist():
        shards.setdefault(rows[row].archive, []).append(row)
    judge = functools.partial(_judge, level, hashes)
    tables = survey(work, tree.root, shards, f"{level} {hashes}", judge)
    found.num_read = len(todo)
    for archive, members in shards.items():
        table = tables[archive]
        if not isinstance(table, pa.Table):
            for row in members:
                found.status[row], found.reason[row] = "unreadable", f"its shard: {table}"
            continue
        at = np.array([rows[row].offset for row in members], np.int64)
        taken = table.take(pa.array(at))
        for name, values in (("status", found.status), ("reason", found.reason)):
            for row, value in zip(members, taken.column(name).to_pylist(), strict=True):
                values[row] = value
        for name, optional in (("traits", found.traits), ("hash", found.hash)):
            for row, value in zip(members, taken.column(name).to_pylist(), strict=True):
                optional[row] = value
        numbers = {"width": found.width, "height": found.height, "turns": found.turns, "bytes": found.size}
        for name, array in numbers.items():
            array[members] = taken.column(name).to_numpy()


def _judge(level: str, hashes: bool, data: bytes) -> tuple[str, str, int, int, int, str | None, str | None]:
    one = Looks.unknown(("",))
    one.size[0] = len(data)
    if data:
        _judge_bytes(one, 0, data, level, hashes)
    else:
        one.status[0], one.reason[0] = "empty", "0 bytes"
    return (
        one.status[0],
        one.reason[0],
        int(one.width[0]),
        int(one.height[0]),
        int(one.turns[0]),
        one.traits[0],
        one.hash[0],
    )


# ---- reading


def _readers(
    tree: Tree, paths: tuple[str, ...], rows: list[int], sources: dict[int, Source]
) -> Iterator[tuple[int, tuple[int, int, Source | None] | OSError]]:
    # (row, (file descriptor, size, source)); a folder or archive stays open for the files that follow
    current: tuple[bool, str] | None = None
    holder = -1
    try:
        for row in rows:
            source = sources.get(row)
            folder, _, name = paths[row].rpartition("/")
            wanted = (False, folder) if source is None else (True, source.archive)
            number = -1
            try:
                if wanted != current:
                    if holder >= 0:
                        os.close(holder)
                    current, holder = None, -1
                    holder = os.open(tree.root / wanted[1], os.O_RDONLY)
                    current = wanted
                if source is None:
                    number = os.open(name, _OPEN, dir_fd=holder)
                    size = os.fstat(number).st_size
            except OSError as error:
                yield row, error
                continue
            try:
                yield row, (number, size, None) if source is None else (holder, source.bytes, source)
            finally:
                if number >= 0:
                    os.close(number)
    finally:
        if holder >= 0:
            os.close(holder)


def _read_one(found: Looks, row: int, number: int, size: int, source: Source | None, level: str, hashes: bool) -> None:
    try:
        if level == "decode" or hashes:
            _judge_bytes(found, row, _whole(number, size, source), level, hashes)
        elif source is None:
            _note(found, row, read_header(lambda at, count: os.pread(number, count, at), size))
        elif source.codec == "stored":
            start = source.offset

            def read_at(at: int, count: int) -> bytes:
                return os.pread(number, min(count, size - at), start + at)

            _note(found, row, read_header(read_at, size))
        else:
            _note(found, row, _deflated_header(number, source))
    except DecodeError as error:
        found.status[row] = "truncated" if isinstance(error, TruncatedError) else "unreadable"
        found.reason[row] = str(error)
    except OSError as error:
        found.status[row], found.reason[row] = "unreadable", error.strerror or "input/output error"


def _judge_bytes(found: Looks, row: int, data: bytes, level: str, hashes: bool) -> None:
    if hashes:
        found.hash[row] = hashlib.sha256(data).hexdigest()
    if level == "none":
        return
    try:
        _note(found, row, read_header(lambda at, count: data[at : at + count], len(data)))
        if level == "decode":
            verdict = verify(data)
            found.status[row], found.reason[row] = verdict.status, verdict.detail
    except DecodeError as error:
        found.status[row] = "truncated" if isinstance(error, TruncatedError) else "unreadable"
        found.reason[row] = str(error)


def _note(found: Looks, row: int, header: Header) -> None:
    found.width[row], found.height[row] = header.width, header.height
    found.turns[row] = header.upright_quarter_turns if header.orientation != 1 else 0
    if header.traits:
        found.traits[row] = ",".join(header.traits)


def _deflated_header(number: int, source: Source) -> Header:
    # the member's own checksum covers its end; to look at that would mean reading the whole archive
    head = _inflated_head(number, source)
    try:
        return read_header(lambda at, count: head[at : at + count], source.size, check_end=False)
    except DecodeError:
        if len(head) >= source.size:
            raise
    # a long header, or one that stands at the end
    data = _whole(number, source.bytes, source)
    return read_header(lambda at, count: data[at : at + count], len(data))


def _whole(number: int, size: int, source: Source | None) -> bytes:
    start = source.offset if source else 0
    pieces, at = [], 0
    while at < size:
        piece = os.pread(number, min(size - at, 1 << 26), start + at)
        if not piece:
            raise TruncatedError(f"the file ended at byte {at} of {size} while it was read")
        pieces.append(piece)
        at += len(piece)
    data = b"".join(pieces)
    if source is None or source.codec == "stored":
        return data
    return _inflate(data, source.size)


def _inflate(data: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj(-15)
    try:
        out = inflater.decompress(data, size + 1)
    except zlib.error as error:
        raise DecodeError(f"its compressed bytes are damaged: {error}") from error
    if len(out) != size:
        raise DecodeError(f"its archive promises {size} bytes, it holds {'more' if len(out) > size else len(out)}")
    return out


def _inflated_head(number: int, source: Source) -> bytes:
    inflater, head, at = zlib.decompressobj(-15), b"", 0
    try:
        while len(head) < _HEAD and at < source.bytes and not inflater.eof:
            piece = os.pread(number, min(_PIECE, source.bytes - at), source.offset + at)
            if not piece:
                raise TruncatedError("the archive ends before the member does")
            at += len(piece)
            head += inflater.decompress(piece, _HEAD - len(head))
            if inflater.unconsumed_tail:
                break
    except zlib.error as error:
        raise DecodeError(f"its compressed bytes are damaged: {error}") from error
    return head
