"""TIFF directories (TIFF 6.0), of TIFF files and of the EXIF blocks that other formats carry.

In: bytes, or a function that reads them at an offset. Out: the tags that say what a picture is like; a DecodeError for
TIFF of a kind that OpenCV does not decode to 8 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from mumdata.errors import DecodeError, TruncatedError

__all__ = ["ReadAt", "Tags", "check_kind", "exif_orientation", "read_tags", "unoriented"]

ReadAt = Callable[[int, int], bytes]
Tags = dict[int, tuple[int, ...]]

_ORIENTATION = 0x0112

# size, bits, compression, colours, orientation, channels, format; where strips and tiles are, and how long
_WANTED = frozenset((256, 257, 258, 259, 262, 273, _ORIENTATION, 277, 279, 324, 325, 338, 339))

# photometric interpretation (grey from white or black, RGB, palette, CMYK, YCbCr, Lab) -> bits a sample, and channels,
# that OpenCV decodes to 8 bits, as tried with files of every kind
_DEPTHS = {0: (1, 8, 16), 1: (1, 8, 16), 2: (8, 16), 3: (1, 4, 8), 5: (8,), 6: (8,), 8: (8, 16)}
_CHANNELS = {0: (1, 2, 3, 4), 1: (1, 2, 3, 4), 2: (3, 4), 3: (1,), 5: (4,), 6: (3,), 8: (3,)}
_COMPRESSIONS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946))


def exif_orientation(data: bytes) -> int | None:
    """Return the orientation (1 to 8) that an EXIF block gives; None where its directory lies beyond `data`.

    Anything odd in it means 1, "as stored", as viewers treat it.
    """
    if data[:4] not in (b"II*\0", b"MM\0*") or len(data) < 8:
        return 1
    order = _order(data)
    (at,) = struct.unpack_from(order + "I", data, 4)
    if at + 2 > len(data):
        return None
    (num,) = struct.unpack_from(order + "H", data, at)
    end = at + 2 + 12 * num
    for entry in range(at + 2, min(end, len(data) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag == _ORIENTATION and kind == 3:
            (value,) = struct.unpack_from(order + "H", data, entry + 8)
            return value if 1 <= value <= 8 else 1
    return None if end > len(data) else 1


def read_tags(read_at: ReadAt, size: int) -> tuple[Tags, bool]:
    """Return the first directory's tags that matter here, and whether a second directory follows.

    Raises TruncatedError where the directory lies beyond the end, DecodeError where a tag claims more values than the
    file has bytes, struct.error where an offset leads out of the file.
    """

    def get(at: int, num: int) -> bytes:
        return read_at(at, num) if at <= size else b""

    order = _order(get(0, 2))
    tags: Tags = {}
    end = 8
    for tag, kind, count, place in _entries(order, get):
        end = place + 4
        letter = {3: "H", 4: "I"}.get(kind)
        if tag not in _WANTED or tag in tags or letter is None:
            continue
        wide = struct.calcsize(order + letter) * count
        if wide > size:
            raise DecodeError(f"the TIFF is broken: tag {tag} claims {count} values")
        if wide > 4:
            (place,) = struct.unpack(order + "I", get(place, 4))
        tags[tag] = struct.unpack(f"{order}{count}{letter}", get(place, wide))
    return tags, any(get(end, 4))


def check_kind(tags: Tags) -> None:
    """Raise DecodeError where OpenCV would not decode a TIFF of these tags to 8 bits."""

    def first(tag: int, default: int) -> int:
        return (tags.get(tag) or (default,))[0]

    photometric, compression, channels = first(262, -1), first(259, 1), first(277, 1)
    depths, formats = set(tags.get(258) or (1,)), set(tags.get(339) or (1,))
    what = None
    if 3 in formats:
        what = "of floating-point samples"
    elif not formats <= {1, 2}:
        what = f"of sample format {max(formats)}"
    elif photometric not in _DEPTHS:
        what = f"of photometric interpretation {photometric}"
    elif len(depths) > 1 or not depths <= set(_DEPTHS[photometric]):
        what = f"of {max(depths)} bits a sample" + (" and a palette" if photometric == 3 else "")
    elif channels not in _CHANNELS[photometric] or (depths == {1} and channels > 1):
        what = f"of {channels} channels"
    elif compression not in _COMPRESSIONS:
        what = f"of compression {compression}"
    if what is not None:
        raise DecodeError(f"TIFF {what} is not supported; convert it to 8 or 16 bits in grey or RGB")


def unoriented(data: bytes) -> bytes:
    """Return a copy of a TIFF file's bytes whose orientation is 1, "as stored".

    OpenCV turns and mirrors TIFFs by that tag even where it is told to ignore orientation.
    """
    order = _order(data)
    changed = bytearray(data)
    for tag, kind, _, place in _entries(order, lambda at, num: data[at : at + num]):
        if tag == _ORIENTATION:
            struct.pack_into(order + ("I" if kind == 4 else "H"), changed, place, 1)
    return bytes(changed)


def _order(start: bytes) -> str:
    return "<" if start[:2] == b"II" else ">"


def _entries(order: str, read_at: ReadAt) -> Iterator[tuple[int, int, int, int]]:
    # (tag, type, number of values, where the values or their offset stand) of the first directory
    (at,) = struct.unpack(order + "I", read_at(4, 4))
    head = read_at(at, 2)
    num = struct.unpack(order + "H", head)[0] if len(head) == 2 else 0
    entries = read_at(at + 2, 12 * num)
    if not num or len(entries) < 12 * num:
        raise TruncatedError("the TIFF is cut off: its directory lies beyond its end")
    for begin in range(0, 12 * num, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", entries, begin)
        yield tag, kind, count, at + 2 + begin + 8
