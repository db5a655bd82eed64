"""TAR archives: headers read one after another, and those of archives in the archive.

In: an archive's bytes. Out: runs of its members, the members that are refused, and for one member where its bytes lie.
The formats of old Unix, POSIX (ustar, pax) and GNU are read; compressed archives are refused. An uncompressed `.tar` in
a `.tar` counts as a folder named by its stem. The facts are those of POSIX.1-2017 (pax) and of the GNU tar manual.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mumdata.archives.members import (
    MOST_IMAGE_BYTES,
    Passed,
    ReadAt,
    Refusal,
    Where,
    as_text,
    broken,
    exactly,
    first_of_each,
    names_image,
    place,
)
from mumdata.archives.table import Runs

__all__ = ["compression", "files", "locate", "scan"]

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_MOST_HEADER = 1 << 20  # bytes of a long name or a pax header
_DEEPEST = 4  # archives in archives

_FILE, _FOLDER, _LONG_NAME, _LONG_LINK, _PAX, _GLOBAL, _SPARSE = b"0", b"5", b"L", b"K", b"x", b"g", b"S"
_KINDS = {b"\0": _FILE, b"7": _FILE, b"X": _PAX}  # old Unix; contiguous; Solaris
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", _FOLDER, b"6")  # links, devices, pipes
_RECORD = re.compile(rb"([0-9]{1,7}) ([^=]+)=")  # of a pax header

_NO_TAR = "no TAR archive, or its beginning is damaged"

_MAGIC = {
    b"\x1f\x8b": ("gzip", "tar xzf"),
    b"BZh": ("bzip2", "tar xjf"),
    b"\xfd7zXZ\0": ("xz", "tar xJf"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "tar --zstd -xf"),
    b"\x04\x22\x4d\x18": ("LZ4", "tar -I lz4 -xf"),
    b"\x1f\x9d": ("compress", "tar xZf"),
}
_OTHER = {b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x"), b"Rar!\x1a\x07": ("RAR", "unrar x")}


def compression(head: bytes) -> tuple[str, str] | None:
    """Tell by the first bytes how an archive is compressed: (method, the command that unpacks it), or None."""
    return next((found for magic, found in (_MAGIC | _OTHER).items() if head.startswith(magic)), None)


# --- headers ----------------------------------------------------------------------------------------------------------


@dataclass
class _Member:
    """One member: where its first header stands, its bytes, and where the next member begins."""

    position: int
    name: bytes
    kind: bytes
    offset: int
    size: int
    end: int
    is_sparse: bool


def _number(text: bytes) -> int:
    """Read an octal number, or one to the base of 256; ValueError where it is neither, or negative."""
    if text[0] == 0x80:
        return int.from_bytes(text[1:], "big")
    digits = text.partition(b"\0")[0].strip()
    if not re.fullmatch(rb"[0-7]*", digits):
        raise ValueError("damaged")
    return int(digits or b"0", 8)


def _is_header(block: bytes) -> bool:
    """Tell whether a block's checksum is that of its bytes, added up as unsigned or, by old programs, as signed."""
    if len(block) != _BLOCK:
        return False
    try:
        expected = _number(block[148:156])
    except ValueError:
        return False
    counted = block[:148] + 8 * b" " + block[156:]
    total = sum(counted)
    return expected == total or expected == total - 256 * sum(byte >= 128 for byte in counted)


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Read a pax header: records "length key=value", each closed by a line feed."""
    found, at = {}, 0
    while at < len(data) and data[at]:
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else -1
        if match is None or not match.end() < end <= len(data) or data[end - 1] != 0x0A:
            raise ValueError("damaged pax header")
        found[match[2]] = data[match.end() : end - 1]
        at = end
    return found


def _extended(kind: bytes, data: bytes) -> dict[bytes, bytes]:
    """Return what an extended header says of the member after it."""
    if kind == _LONG_NAME:
        return {b"path": data.partition(b"\0")[0]}
    if kind == _LONG_LINK:
        return {}
    records = _pax_records(data)
    told = {key: value for key, value in records.items() if key in (b"path", b"size") or key.startswith(b"GNU.sparse.")}
    if kind == _GLOBAL and told:
        raise ValueError("unusable global header")
    return told


def _read_member(read: ReadAt, start: int, end: int, trusted: bool) -> _Member | None:
    """Read the member that begins at `start`, with its extended headers; None at the end mark.

    `end` is where the archive ends. ValueError says what is wrong. The headers of a `trusted` member were checked
    before.
    """
    at = start
    more: dict[bytes, bytes] = {}  # what extended headers say of the member
    while True:
        block = read(at, _BLOCK) if at + _BLOCK <= end else b""
        if len(block) < _BLOCK:
            raise ValueError("cut off" if at < end else "cut off, or without its end mark,")
        if block == _ZEROS and at == start:
            return None
        if not trusted and not _is_header(block):
            raise ValueError("damaged")
        at += _BLOCK
        kind, size = _KINDS.get(block[156:157], block[156:157]), _number(block[124:136])
        if kind not in (_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL):
            break
        if size > min(_MOST_HEADER, end - at):
            raise ValueError("cut off, or with a damaged header,")
        more |= _extended(kind, exactly(read, at, size))
        at += _padded(size)
    name = more.get(b"GNU.sparse.name") or more.get(b"path", _name(block))
    if b"size" in more:
        if not re.fullmatch(rb"[0-9]{1,19}", more[b"size"]):
            raise ValueError("damaged pax header")
        size = int(more[b"size"])
    is_sparse = kind == _SPARSE or len(more.keys() - {b"path", b"size"}) > 0
    longer = kind == _SPARSE and block[482]
    while longer:  # an old GNU header goes on
        longer = exactly(read, at, _BLOCK)[504]
        at += _BLOCK
    if kind in _WITHOUT_DATA:
        size = 0
    if size > end - at:
        raise ValueError(f"cut off within '{as_text(name)}'")
    return _Member(start, name, kind, at, size, at + _padded(size), is_sparse)


def _name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _padded(size: int) -> int:
    return -size % _BLOCK + size


def _members(read: ReadAt, start: int, end: int) -> Iterator[_Member]:
    """Yield the members of an archive between two offsets; Refusal where they break off."""
    at = start
    while True:
        try:
            member = _read_member(read, at, end, trusted=False)
        except ValueError as error:
            if at == start and not _is_header(read(at, _BLOCK)):
                raise broken(_NO_TAR) from None
            detail = f"{error} at byte {at:,}: members up to there are read"
            raise broken(detail) from None
        if member is None:
            return
        yield member
        at = member.end


# --- scanning ---------------------------------------------------------------------------------------------------------


def scan(read: ReadAt, size: int, open_part: Callable[[str, bytes], Runs], passed: Passed) -> None:
    """Read the headers of an archive of `size` bytes: its runs, and what of it is passed over.

    `open_part(inside, below)` returns where the runs of the archive itself (inside ""), or of an archive in it, go:
    `inside` is what its members' names begin with, `below` the folder that they lie in. Members up to a damage are
    kept.
    """
    whole = _Scan(read, open_part, passed)
    try:
        whole.read_archive(0, size, "", b"", 0)
    except Refusal as why:
        passed.tell("", why.reason, why.detail)
    whole.refuse_repeats()


class _Scan:
    """An archive, and those in it, while they are scanned."""

    def __init__(self, read: ReadAt, open_part: Callable[[str, bytes], Runs], passed: Passed) -> None:
        self._read, self._open_part, self._passed = read, open_part, passed
        self._places: list[tuple[str, bytes]] = []  # (inside, below) of each archive
        # of each file: a hash of its place, its position, and the archive that it is in
        self._keys, self._positions, self._owners = array("q"), array("q"), array("i")

    def read_archive(self, start: int, end: int, inside: str, below: bytes, depth: int) -> None:
        """Read an archive between two offsets; Refusal where it breaks off."""
        runs = self._open_part(inside, below)
        owner = len(self._places)
        self._places.append((inside, below))
        if depth:
            runs.add(b"", start, start)  # a folder, even if it is empty
        try:
            for member in _members(self._read, start, end):
                shown = inside + as_text(member.name)
                try:
                    self._add(member, shown, owner, runs, depth)
                except Refusal as why:
                    self._passed.refuse(member.position, shown, why.reason, why.detail)
        finally:
            runs.close()

    def _add(self, member: _Member, shown: str, owner: int, runs: Runs, depth: int) -> None:
        folder, file = place(member.name)
        if member.kind == _FOLDER or not file:
            runs.add(folder + file + b"/" if file else folder, member.position, member.end)
            return
        if member.is_sparse:
            raise Refusal("unsupported", "a sparse member; unpack it where it lies")
        if member.kind != _FILE:
            self._passed.skip(member.position, shown, "a link or a device, not a file")
            return
        if member.size > MOST_IMAGE_BYTES and names_image(shown):
            raise Refusal("claimed_size", f"an image that claims more than {MOST_IMAGE_BYTES:,} bytes")
        _, below = self._places[owner]
        stem = file[: -len(b".tar")]
        is_named_so = file.lower().endswith(b".tar") and stem not in (b"", b".", b"..")
        if is_named_so and self._is_archive(member, shown, depth):
            self._passed.hide(member.position)
            try:
                inner = below + folder + stem + b"/"
                self.read_archive(member.offset, member.offset + member.size, f"{shown}/", inner, depth + 1)
            except Refusal as why:
                self._passed.tell(shown, why.reason, why.detail)
            return
        runs.add(folder, member.position, member.end)
        self._keys.append(hash(below + folder + file))
        self._positions.append(member.position)
        self._owners.append(owner)

    def _is_archive(self, member: _Member, shown: str, depth: int) -> bool:
        """Tell whether a member named `.tar` can be descended into; say so where it cannot."""
        head = self._read(member.offset, min(_BLOCK, member.size))
        if (packed := compression(head)) is not None:
            detail = f"compressed by {packed[0]}, so that no member can be read alone; unpack the archive that it is in"
            self._passed.tell(shown, "compressed_archive", detail)
        elif not _is_header(head) and head != _ZEROS:
            self._passed.tell(shown, "broken_archive", _NO_TAR)
        elif depth + 1 >= _DEEPEST:
            self._passed.tell(shown, "unsupported", f"archives in archives are read to a depth of {_DEEPEST}")
        else:
            return True
        return False

    def refuse_repeats(self) -> None:
        """Refuse files that lie where an earlier one lies already."""

        def place_of(row: int) -> bytes:
            _, below = self._places[self._owners[row]]
            return below + b"".join(place(_again(self._read, self._positions[row], sys.maxsize).name))

        stay = first_of_each(np.asarray(self._keys), place_of)
        for row in np.flatnonzero(~stay).tolist():
            position, (inside, _) = self._positions[row], self._places[self._owners[row]]
            shown = inside + as_text(_again(self._read, position, sys.maxsize).name)
            self._passed.refuse(position, shown, "named_twice", "an earlier member has the same name and is kept")


# --- single members ---------------------------------------------------------------------------------------------------


def _again(read: ReadAt, position: int, end: int) -> _Member:
    """Read a member that `scan` saw; Refusal where it is there no more."""
    try:
        member = _read_member(read, position, end, trusted=True)
    except ValueError:
        member = None
    if member is None:
        raise Refusal("changed", "changed while it was read; run the command again")
    return member


def files(read: ReadAt, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (position, name of the file) for the members of a run; the name is "" for what is no file.

    The members are those that `scan` saw; Refusal where they are there no more.
    """
    while start < end:
        member = _again(read, start, end)
        name = b"" if member.kind == _FOLDER else member.name.rpartition(b"/")[2]
        yield start, b"" if name == b"." else name
        start = member.end


def locate(read: ReadAt, position: int) -> Where:
    """Find the bytes of the member whose headers begin at `position`; Refusal where they are there no more."""
    member = _again(read, position, sys.maxsize)
    return Where(as_text(member.name), "stored", member.offset, member.size, member.size, None)
