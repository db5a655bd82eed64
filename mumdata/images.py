"""Image files: what the header says, whether the end is there, and the decoded pixels.

In: the bytes of an image file (JPEG, PNG, WebP, BMP, TIFF). Out: its stored size and orientation without decoding,
or its pixels as uint8 RGB. A file without its end is a DecodeError; damage in the middle of a JPEG that has one is not
noticed, since its decoder fills in.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mumdata.errors import DecodeError, TruncatedError
from mumdata.files import inside

if TYPE_CHECKING:
    import numpy as np

__all__ = ["EXTENSIONS", "Header", "read_header", "read_image", "looks_like_image"]

# compared in lower case; files with other endings are not looked at
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

# a claimed size beyond this is refused before anything is allocated: 16,384 x 16,384 pixels
MAX_PIXELS = 1 << 28

# how much of the end is searched for the end marker where the last bytes are not it (cameras append trailers)
_TAIL = 1 << 16

ReadAt = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Header:
    """What an image's header says: the stored size in pixels and the EXIF orientation (1 to 8, 1 where none)."""

    kind: str
    width: int
    height: int
    orientation: int = 1

    @property
    def upright_quarter_turns(self) -> int:
        """Clockwise quarter turns that make the stored picture upright; mirrored orientations count as unturned."""
        return {3: 2, 6: 1, 8: 3}.get(self.orientation, 0)


def looks_like_image(name: str) -> bool:
    """Tell by its name whether a file is an image: a known ending, and not hidden."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def read_header(read_at: ReadAt, size: int) -> Header:
    """Read the header of an image of `size` bytes and check that its end is present.

    `read_at(offset, count)` returns up to `count` bytes. Raises DecodeError saying what is wrong; nothing is decoded.
    """
    if size == 0:
        raise DecodeError("the file is empty")
    start = read_at(0, 4096)
    for kind, magic, parse in _PARSERS:
        if start.startswith(magic):
            try:
                header = parse(start, read_at, size)
            except (struct.error, IndexError, ValueError) as error:
                raise DecodeError(f"the {kind} header is broken") from error
            if header.width <= 0 or header.height <= 0:
                raise DecodeError(f"the {kind} header gives a size of {header.width} x {header.height}")
            if header.width * header.height > MAX_PIXELS:
                raise DecodeError(f"the {kind} header claims {header.width} x {header.height} pixels, beyond the limit")
            return header
    shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in start[:12])
    raise DecodeError(f"not a known image format (it starts with '{shown}')")


def read_image(
    root: Path,
    path: str,
    *,
    archive: str | None = None,
    codec: str | None = None,
    offset: int | None = None,
    num_bytes: int | None = None,
    quarter_turns: int = 0,
    reduce: int = 1,
) -> np.ndarray:
    """Read and decode one frame: uint8 RGB [H, W, 3], as stored (EXIF orientation is not applied).

    `quarter_turns` turns the picture clockwise afterwards. `reduce` (1, 2, 4, 8) decodes at that fraction of the size,
    cheaply for JPEG. With `archive`, the image is `num_bytes` bytes at `offset` of that file. Raises DecodeError where
    the bytes are no whole image, LayoutError where a path leaves the root, and lets OSError pass.
    """
    import cv2
    import numpy as np

    if codec not in (None, "stored"):
        raise DecodeError(f"{path}: codec '{codec}' cannot be read")
    with open(inside(root, archive or path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        begin = offset or 0
        count = size - begin if num_bytes is None else num_bytes
        if begin < 0 or count < 0 or begin + count > size:
            raise DecodeError(f"{archive or path}: bytes {begin} to {begin + count} exceed the file's {size}")
        data = os.pread(file.fileno(), count, begin)
        while len(data) < count:
            more = os.pread(file.fileno(), count - len(data), begin + len(data))
            if not more:
                raise DecodeError(f"{archive or path}: ends at byte {begin + len(data)} while being read")
            data += more
    try:
        header = read_header(lambda at, num: data[at : at + num], len(data))
    except DecodeError as error:
        raise type(error)(f"{path}: {error}") from None
    flags = cv2.IMREAD_IGNORE_ORIENTATION
    if reduce == 1:
        flags |= cv2.IMREAD_COLOR
    else:
        flags |= {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}[reduce]
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DecodeError(f"{path}: the {header.kind} decoder refuses it ({error.err})") from error
    if image is None:
        raise DecodeError(f"{path}: the {header.kind} data cannot be decoded")
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    turn = (None, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)[quarter_turns % 4]
    return image if turn is None else cv2.rotate(image, turn)


def _jpeg(start: bytes, read_at: ReadAt, size: int) -> Header:
    # walk the marker segments up to the frame header, which holds the size
    orientation, at, junk = 1, 2, 0
    window, base = start, 0

    def get(offset: int, count: int) -> bytes:
        nonlocal window, base
        if offset - base + count > len(window):
            window, base = read_at(offset, max(count, 4096)), offset
        piece = window[offset - base : offset - base + count]
        if len(piece) < count:
            raise ValueError("end of file")
        return piece

    while True:
        mark, code = get(at, 2)
        if mark != 0xFF:  # decoders skip junk between segments, so a little is allowed here
            junk += 1
            if junk > 256:
                raise ValueError("no marker")
            at += 1
            continue
        if code == 0xFF:  # a fill byte
            at += 1
            continue
        at += 2
        if code == 0x01 or 0xD0 <= code <= 0xD8:
            continue
        if code in (0xD9, 0xDA):
            raise ValueError("no frame header")
        (length,) = struct.unpack(">H", get(at, 2))
        if length < 2:
            raise ValueError("bad segment")
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", get(at + 3, 4))
            break
        if code == 0xE1 and length >= 16 and get(at + 2, 6) == b"Exif\0\0":
            orientation = _exif_orientation(get(at + 8, min(length - 8, 4096)))
        at += length
    if read_at(size - 2, 2) != b"\xff\xd9":
        tail = read_at(max(at, size - _TAIL), _TAIL)
        if b"\xff\xd9" not in tail:
            raise TruncatedError("the JPEG is cut off: it has no end marker")
    return Header("JPEG", width, height, orientation)


def _exif_orientation(data: bytes) -> int:
    # the TIFF structure inside EXIF; anything odd in it means "no orientation", as viewers treat it
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return 1
    (at,) = struct.unpack_from(order + "I", data, 4)
    if at + 2 > len(data):
        return 1
    (num,) = struct.unpack_from(order + "H", data, at)
    for entry in range(at + 2, min(at + 2 + 12 * num, len(data) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag == 0x0112 and kind == 3:
            (value,) = struct.unpack_from(order + "H", data, entry + 8)
            return value if 1 <= value <= 8 else 1
    return 1


def _png(start: bytes, read_at: ReadAt, size: int) -> Header:
    length, kind, width, height = struct.unpack_from(">I4sII", start, 8)
    if kind != b"IHDR" or length != 13:
        raise ValueError("no IHDR")
    end = b"\0\0\0\0IEND\xaeB`\x82"
    if read_at(max(33, size - 12), 12) != end and end not in read_at(max(33, size - _TAIL), _TAIL):
        raise TruncatedError("the PNG is cut off: it has no end chunk")
    return Header("PNG", width, height)


def _webp(start: bytes, read_at: ReadAt, size: int) -> Header:
    (length,) = struct.unpack_from("<I", start, 4)
    if start[8:12] != b"WEBP":
        raise DecodeError("a RIFF file, but not WebP")
    if length + 8 > size:
        raise TruncatedError(f"the WebP is cut off: {length + 8} bytes promised, {size} there")
    chunk = start[12:16]
    if chunk == b"VP8X":
        width = 1 + int.from_bytes(start[24:27], "little")
        height = 1 + int.from_bytes(start[27:30], "little")
    elif chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", start, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif chunk == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", start, 26))
    else:
        raise ValueError("unknown chunk")
    return Header("WebP", width, height)


def _bmp(start: bytes, read_at: ReadAt, size: int) -> Header:
    promised, _, pixels_at, header_size = struct.unpack_from("<IIII", start, 2)
    if header_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", start, 18)
        packed = 0
    else:
        width, height, _, bits, packed = struct.unpack_from("<iiHHI", start, 18)
    height = abs(height)
    if packed == 0 and pixels_at + (width * bits + 31) // 32 * 4 * height > size:
        raise TruncatedError(f"the BMP is cut off: its pixels end beyond its {size} bytes")
    if packed and promised > size:
        raise TruncatedError(f"the BMP is cut off: {promised} bytes promised, {size} there")
    return Header("BMP", width, height)


def _tiff(start: bytes, read_at: ReadAt, size: int) -> Header:
    order = "<" if start[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", start, 4)
    head = read_at(at, 2)
    (num,) = struct.unpack(order + "H", head)
    entries = read_at(at + 2, 12 * num)
    if len(entries) < 12 * num:
        raise TruncatedError("the TIFF is cut off: its directory lies beyond its end")
    tags: dict[int, tuple[int, ...]] = {}
    for start_of in range(0, 12 * num, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", entries, start_of)
        letter = {3: "H", 4: "I"}.get(kind)
        if tag not in (256, 257, 273, 274, 279, 324, 325) or letter is None or count == 0:
            continue
        if count > size // struct.calcsize(letter):
            raise DecodeError(f"the TIFF is broken: tag {tag} claims {count} values")
        wide = struct.calcsize(order + letter) * count
        place = start_of + 8
        data = entries[place : place + 4]
        if wide > 4:
            data = read_at(struct.unpack_from(order + "I", entries, place)[0], wide)
        tags[tag] = struct.unpack_from(f"{order}{count}{letter}", data)
    if 256 not in tags or 257 not in tags:
        raise ValueError("no size")
    for offsets, counts in ((273, 279), (324, 325)):
        pieces = zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)
        if any(offset + count > size for offset, count in pieces):
            raise TruncatedError("the TIFF is cut off: its pixels lie beyond its end")
    orientation = tags.get(274, (1,))[0]
    return Header("TIFF", tags[256][0], tags[257][0], orientation if 1 <= orientation <= 8 else 1)


_PARSERS: tuple[tuple[str, bytes | tuple[bytes, ...], Callable[[bytes, ReadAt, int], Header]], ...] = (
    ("JPEG", b"\xff\xd8", _jpeg),
    ("PNG", b"\x89PNG\r\n\x1a\n", _png),
    ("WebP", b"RIFF", _webp),
    ("BMP", b"BM", _bmp),
    ("TIFF", (b"II*\0", b"MM\0*"), _tiff),
)
