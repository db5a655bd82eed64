"""What reading ZIP and TAR archives shares: names that stay inside, refusals by name, members named twice.

In: members' names as bytes, and reasons why some cannot be used. Out: names split into folder and file, positions of
members that are passed over, and rows that say why.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

__all__ = [
    "IMAGE_ENDINGS",
    "MOST_IMAGE_BYTES",
    "Passed",
    "ReadAt",
    "Refusal",
    "Where",
    "as_text",
    "broken",
    "exactly",
    "first_of_each",
    "names_image",
    "place",
    "printable",
]

# read(offset, count) -> up to count bytes of the archive
ReadAt = Callable[[int, int], bytes]

# the endings of `mumdata.images`, which is a layer above
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

# an image that claims more than this is refused: 16,384 x 16,384 pixels as a JPEG of a byte a pixel
MOST_IMAGE_BYTES = 1 << 28

_MOST_ROWS = 1000  # refusals of one archive that are told by name; the rest is counted
_LONGEST_PART, _LONGEST_NAME = 255, 4096  # what file systems hold, in bytes
_DRIVE = re.compile(rb"[A-Za-z]:")


class Refusal(Exception):
    """Why a member, or a whole archive, is not read: a reason in one word, and a detail for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def broken(what: str) -> Refusal:
    """Return the refusal of an archive, or of a member, whose bytes are not those that were packed."""
    return Refusal("broken_archive", f"{what}; copy the archive again")


class Where(NamedTuple):
    """Where a member's bytes lie in its archive: `stored` bytes from `offset`, which unpack to `size`."""

    path: str  # the name exactly as in the archive
    codec: str  # "stored" or "deflate"
    offset: int
    stored: int
    size: int
    crc: int | None  # CRC-32 of the unpacked bytes, where the format has one


@dataclass
class Passed:
    """Members of one archive that are not shown: their positions, and rows (member, reason, detail) for the refused."""

    positions: array[int] = field(default_factory=lambda: array("q"))
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    num_untold: int = 0

    def hide(self, position: int) -> None:
        """Pass over a member without a word."""
        self.positions.append(position)

    def skip(self, position: int, member: str, what: str) -> None:
        """Pass over a member that is no file; one that is named like an image is told."""
        self.hide(position)
        if names_image(member):
            self.tell(member, "unsupported", what)

    def refuse(self, position: int, member: str, reason: str, detail: str) -> None:
        """Pass over a member and say why."""
        self.hide(position)
        self.tell(member, reason, detail)

    def refuse_all(self, positions: Iterable[int], reason: str, detail: str, name_at: Callable[[int], str]) -> None:
        """Pass over members and say why; `name_at` gives a member's name, and is not asked for those only counted."""
        for position in positions:
            self.hide(position)
            self.tell(name_at(position) if len(self.rows) < _MOST_ROWS else "", reason, detail)

    def tell(self, member: str, reason: str, detail: str) -> None:
        """Add a row, or count it where there are too many already."""
        if len(self.rows) < _MOST_ROWS:
            self.rows.append((member, reason, printable(detail)))
        else:
            self.num_untold += 1

    def told(self) -> list[tuple[str, str, str]]:
        """Return the rows, closed by one that counts those left out."""
        if not self.num_untold:
            return self.rows
        return [*self.rows, ("", "more", f"{self.num_untold:,} more of its members are refused")]


def as_text(name: bytes) -> str:
    """Decode as UTF-8; other bytes are surrogate-escaped."""
    return name.decode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    """Return the text with bytes that are not UTF-8 as \\xNN."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def names_image(name: str) -> bool:
    """Tell by its ending whether a member is an image."""
    return name.lower().endswith(IMAGE_ENDINGS)


def exactly(read: ReadAt, offset: int, count: int) -> bytes:
    """Return `count` bytes; Refusal where the archive ends before."""
    data = read(offset, count)
    if len(data) != count:
        raise broken(f"ends at byte {offset + len(data):,}, where {count:,} bytes were to follow")
    return data


def place(name: bytes) -> tuple[bytes, bytes]:
    """Split a member's name into its folder, "" or ending in "/", and its file, "" for a folder's own entry.

    Components "" and "." drop out, as when unpacked. Refusal for names that leave the folder that they are unpacked
    into, here or on another system, and for names that no disk holds.
    """
    if not name:
        raise Refusal("bad_name", "it has no name")
    if b"\0" in name or b"\n" in name:
        raise Refusal("bad_name", "a NUL or a line feed in its name")
    if name[:1] in (b"/", b"\\") or _DRIVE.match(name):
        raise Refusal("leaves_root", "its name is an absolute path")
    parts = name.split(b"/")
    if b".." in parts or (b"\\" in name and b".." in name.replace(b"\\", b"/").split(b"/")):
        raise Refusal("leaves_root", "'..' in its name")
    if len(name) > _LONGEST_NAME or (len(name) > _LONGEST_PART and max(map(len, parts)) > _LONGEST_PART):
        raise Refusal("bad_name", "its name is longer than a file system holds")
    file = parts.pop()
    folder = b"".join(part + b"/" for part in parts if part not in (b"", b"."))
    return folder, b"" if file == b"." else file


def first_of_each(keys: np.ndarray, name_of: Callable[[int], bytes]) -> np.ndarray:
    """Tell which members are the first of their name, bool [n].

    `keys` [n] are hashes of the names: equal for equal names. Where two are equal, the names themselves decide.
    """
    stay = np.ones(len(keys), bool)
    ordered = np.sort(keys)
    shared = ordered[1:][ordered[1:] == ordered[:-1]]
    seen: set[bytes] = set()
    for row in np.flatnonzero(np.isin(keys, shared)).tolist() if len(shared) else ():
        name = name_of(row)
        stay[row] = name not in seen
        seen.add(name)
    return stay
