"""ZIP archives: where the directory is, and single members.

In: an archive's bytes. Out: the bounds of its directory, the names of a run of records, and for one member where its
bytes lie. Methods 0 (stored) and 8 (deflated), ZIP64, comments, and bytes before the archive (self-extracting programs)
are read; archives in several parts are refused. The facts are those of the ZIP file format specification (APPNOTE.TXT).

Names: UTF-8 where the member says so (bit 11) or its bytes are valid UTF-8, else code page 437; the Unicode Path extra
field is not looked at. Backslashes separate folders where the archive was made on DOS or Windows and the name has no
forward slash, as for Info-ZIP's unzip.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from mumdata.archives.members import ReadAt, Refusal, Where, as_text, broken, exactly, place

__all__ = [
    "ENCRYPTED",
    "LOCAL",
    "RECORD",
    "U16",
    "U32",
    "Bounds",
    "Directory",
    "SplitArchive",
    "canonical",
    "decoded",
    "files",
    "find_directory",
    "inflate",
    "locate",
    "name_at",
    "place_at",
]

RECORD = struct.Struct("<4s2B5H3L5H2L")  # of the directory, one a member
LOCAL = struct.Struct("<4s5H3L2H")  # before a member's data
U16, U32 = 0xFFFF, 0xFFFFFFFF  # "look into the ZIP64 field"
ENCRYPTED = 1 << 0 | 1 << 13  # flags: the data are, or the local headers

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_MOST_COMMENT = 0xFFFF
_UTF8, _DESCRIPTOR = 1 << 11, 1 << 3
_DOS = (0, 10, 14)  # hosts whose paths have backslashes


class SplitArchive(Refusal):
    """Only a part of the archive is in the file."""


class Bounds(NamedTuple):
    """What a member's offset needs: bytes before the archive, and where the members' data end."""

    shift: int
    limit: int


class Directory(NamedTuple):
    """Where the directory lies in the file, and how many records it is said to hold: modulo 65,536 if not `exact`."""

    first: int
    end: int
    num_records: int
    exact: bool
    shift: int  # bytes before the archive


# --- the end of the file, which says where the directory is -----------------------------------------------------------


def _find_end(read: ReadAt, size: int) -> tuple[int, tuple[int, ...]]:
    # the last end record whose comment fills the file, else the last whose comment fits into it
    first = max(0, size - _END.size - _MOST_COMMENT)
    tail = exactly(read, first, size - first)
    at, fits = len(tail), None
    while (at := tail.rfind(b"PK\5\6", 0, at)) >= 0:
        if at + _END.size > len(tail):
            continue
        fields = _END.unpack_from(tail, at)[1:]
        end = at + _END.size + fields[-1]
        if end == len(tail):
            return first + at, fields
        if end < len(tail) and fits is None:
            fits = first + at, fields
    if fits is None:
        raise broken("no end record: it is cut off, or no ZIP archive")
    return fits


def find_directory(read: ReadAt, size: int) -> Directory:
    """Find the directory of an archive of `size` bytes; Refusal where there is none that fits the file."""
    end, (disk, directory_disk, here, count, num_bytes, offset, _) = _find_end(read, size)
    exact = False
    locator = read(end - _LOCATOR.size, _LOCATOR.size) if end >= _LOCATOR.size else b""
    if locator[:4] == b"PK\6\7":
        _, disk, offset64, num_disks = _LOCATOR.unpack(locator)
        for at in (offset64, end - _LOCATOR.size - _END64.size):
            fields64 = read(at, _END64.size) if 0 <= at < size else b""
            if fields64[:4] == b"PK\6\6" and len(fields64) == _END64.size:
                break
        else:
            raise broken("its ZIP64 end record is not where it should be")
        _, _, _, _, own_disk, directory_disk, here, count, num_bytes, offset = _END64.unpack(fields64)
        disk, end, exact = max(disk, own_disk, num_disks - 1), at, True
    if disk or directory_disk or here != count:
        raise SplitArchive("unsupported", "one part of an archive in several")
    first = end - num_bytes
    if count and (first < 0 or read(first, 4) != b"PK\1\2") and 0 <= offset <= first and read(offset, 4) == b"PK\1\2":
        first, end = offset, offset + num_bytes  # something stands between the directory and its end record
    if first < 0 or first < offset or count * RECORD.size > num_bytes:
        raise broken("its end record does not fit the file: its beginning is missing")
    return Directory(first, end, count, exact, first - offset)


# --- names ------------------------------------------------------------------------------------------------------------


def canonical(name: bytes, flags: int, host: int) -> bytes:
    """Return a member's name as UTF-8 with forward slashes."""
    text = decoded(name, flags)
    if host in _DOS and "/" not in text:
        text = text.replace("\\", "/")
    return text.encode("utf-8", "surrogateescape")


def decoded(name: bytes, flags: int) -> str:
    """Return a member's name as it stands in the archive."""
    if not flags & _UTF8:
        try:
            return name.decode("utf-8")
        except UnicodeDecodeError:
            return name.decode("cp437")
    return as_text(name)


# --- single members ---------------------------------------------------------------------------------------------------


class _Record(NamedTuple):
    """A member as the directory describes it."""

    raw: bytes
    host: int
    flags: int
    method: int
    crc: int
    stored: int
    size: int
    offset: int


def _read_record(read: ReadAt, position: int) -> _Record:
    head = exactly(read, position, RECORD.size)
    signature, _, host, _, flags, method, _, _, crc, stored, size, name, extra, *_, offset = RECORD.unpack(head)
    if signature != b"PK\1\2":
        raise _gone()
    rest = exactly(read, position + RECORD.size, name + extra)
    size, stored, offset = _with_zip64(rest[name:], size, stored, offset)
    return _Record(rest[:name], host, flags, method, crc, stored, size, offset)


def _gone() -> Refusal:
    return Refusal("changed", "changed while it was read; run the command again")


def _with_zip64(extra: bytes, *values: int) -> tuple[int, ...]:
    """Return the values; those that are 0xFFFFFFFF stand in the ZIP64 field, in this order."""
    at = 0
    while U32 in values and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if kind == 1:
            num = min(length, len(extra) - at) // 8
            numbers = iter(struct.unpack_from(f"<{num}Q", extra, at))
            return tuple(next(numbers, value) if value == U32 else value for value in values)
        at += length
    return values


def name_at(read: ReadAt, position: int) -> str:
    """Return the name of the member whose record is at `position`, as it stands there."""
    record = _read_record(read, position)
    return decoded(record.raw, record.flags)


def place_at(read: ReadAt, position: int) -> bytes:
    """Return the path at which the member whose record is at `position` lies when unpacked."""
    record = _read_record(read, position)
    return b"".join(place(canonical(record.raw, record.flags, record.host)))


def files(read: ReadAt, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (position, name of the file) for the records of a run; the name is "" for a folder's own entry.

    The records are those that `scan` saw; Refusal where they are there no more.
    """
    data, at = exactly(read, start, end - start), 0
    while at < len(data):
        if data[at : at + 4] != b"PK\1\2" or len(data) - at < RECORD.size:
            raise _gone()
        host, flags = data[at + 5], data[at + 8] | data[at + 9] << 8
        name, extra, comment = struct.unpack_from("<3H", data, at + 28)
        raw = data[at + RECORD.size : at + RECORD.size + name]
        if raw.isascii() and b"\\" not in raw:
            file = raw[raw.rfind(b"/") + 1 :]
            yield start + at, b"" if file == b"." else file
        else:
            yield start + at, _file(canonical(raw, flags, host))
        at += RECORD.size + name + extra + comment


def _file(name: bytes) -> bytes:
    try:
        return place(name)[1]
    except Refusal:  # passed over by its position
        return b""


def locate(read: ReadAt, position: int, bounds: Bounds) -> Where:
    """Find the bytes of the member whose record is at `position`, from its local header.

    Refusal where the two headers say different things.
    """
    record = _read_record(read, position)
    start = record.offset + bounds.shift
    head = exactly(read, start, LOCAL.size + len(record.raw))
    signature, _, flags, method, _, _, crc, stored, size, name_length, extra_length = LOCAL.unpack_from(head)
    if signature != b"PK\3\4":
        raise broken("its header is not where the directory says")
    if head[LOCAL.size :] != record.raw or name_length != len(record.raw):
        raise broken("its header has another name than the directory")
    if flags & ENCRYPTED or method != record.method:
        raise broken("its header says that it is packed otherwise than the directory does")
    offset = start + len(head) + extra_length
    if U32 in (stored, size):
        extra = exactly(read, start + len(head), extra_length)
        size, stored = _with_zip64(extra, size, stored)
    # a member written to a pipe has its numbers after its data, and often zeros here
    late = bool(flags & _DESCRIPTOR)
    for here, there in ((crc, record.crc), (stored, record.stored), (size, record.size)):
        if here != there and not (late and here in (0, U32)):
            raise broken("its header has other sizes or another checksum than the directory")
    if offset + record.stored > bounds.limit:
        raise broken("its bytes lie outside the archive's data")
    codec = "deflate" if record.method == 8 else "stored"
    return Where(decoded(record.raw, record.flags), codec, offset, record.stored, record.size, record.crc)


def inflate(read: ReadAt, where: Where) -> bytes:
    """Unpack a deflated member; never more than the size that it claims. Refusal where it unpacks to another size."""
    decoder, pieces, left = zlib.decompressobj(-zlib.MAX_WBITS), [], where.size
    at, end = where.offset, where.offset + where.stored
    while at < end and not decoder.eof:
        packed = exactly(read, at, min(1 << 20, end - at))
        at += len(packed)
        while packed and not decoder.eof:
            try:
                pieces.append(decoder.decompress(packed, left + 1))
            except zlib.error as error:
                raise broken(f"its bytes are damaged: {error}") from None
            left -= len(pieces[-1])
            if left < 0:
                raise Refusal("claimed_size", f"it unpacks to more than the {where.size:,} bytes that it claims")
            packed = decoder.unconsumed_tail
    if left or not decoder.eof:
        raise Refusal("claimed_size", f"it unpacks to {where.size - left:,} bytes, not {where.size:,}")
    return b"".join(pieces)
