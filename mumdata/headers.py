"""Image headers: what a few kilobytes say of an image file, and whether its end is there.

In: a function that reads bytes of an image file (JPEG, PNG, WebP, BMP, TIFF), and the file's size. Out: its format,
stored size, orientation and traits; a DecodeError for what is no image, is cut off, or is of a kind that
`mumdata.images.read_image` cannot decode. Nothing is decoded, and damage between header and end is not looked for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from mumdata import tiff
from mumdata.errors import DecodeError, TruncatedError
from mumdata.tiff import ReadAt

__all__ = ["EXTENSIONS", "MAX_PIXELS", "TRAITS", "Header", "ReadAt", "looks_like_image", "read_header"]

# compared in lower case; files with other endings are not looked at
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

# a claimed size beyond this is refused before anything is allocated: 16,384 x 16,384 pixels
MAX_PIXELS = 1 << 28

# what `Header.traits` may hold
TRAITS = (
    "16-bit",
    "alpha",
    "animated",
    "cmyk",
    "exif-mirrored",
    "exif-rotated",
    "grey",
    "multi-picture",
    "palette",
)

# the first read: a small file whole, its end included, and most headers
_FIRST = 1 << 13

# headers of more segments, chunks or bytes of padding than this are refused, so that none takes long
_MOST_STEPS = 1 << 13

# files are searched for their end marker in pieces of this size
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Header:
    """What an image's header says.

    `width` and `height` are in pixels as stored; `orientation` is EXIF's (1 to 8, 1 where none). `traits` are sorted:
    `grey` (one channel, and alpha perhaps), `palette`, `cmyk`, `16-bit`, `alpha`, `animated`, `multi-picture` (a file
    of several pictures, of which the first is read), `exif-rotated` (an orientation other than 1), and with it
    `exif-mirrored` where a mirror is part of it.
    """

    kind: str
    width: int
    height: int
    orientation: int = 1
    traits: tuple[str, ...] = ()

    @property
    def upright_quarter_turns(self) -> int:
        """Clockwise quarter turns that make the stored picture upright; mirrored orientations count as unturned."""
        return {3: 2, 6: 1, 8: 3}.get(self.orientation, 0)


_USUAL = frozenset((".jpg", ".png", ".JPG", ".PNG"))


def looks_like_image(name: str) -> bool:
    """Tell by its name whether a file is an image: a known ending, and not hidden."""
    # the usual endings first: a dataset has millions of names
    return (name[-4:] in _USUAL or name.lower().endswith(EXTENSIONS)) and name[0] != "."


def read_header(read_at: ReadAt, size: int, *, check_end: bool = True) -> Header:
    """Read the header of an image of `size` bytes and check that its end is present.

    `read_at(offset, count)` returns up to `count` bytes; it is not asked for what begins beyond `size`. Raises
    DecodeError saying what is wrong (TruncatedError where the file is cut off); nothing is decoded. Without
    `check_end`, the end of a JPEG or PNG is not read.
    """
    if size == 0:
        raise DecodeError("the file is empty")
    start = read_at(0, _FIRST)
    kind, magic, parse = _PARSERS.get(start[:2], _NO_PARSER)
    if not start.startswith(magic):
        raise DecodeError(_why_unknown(start))
    try:
        header = parse(start, read_at, size, check_end)
    except (struct.error, IndexError, ValueError) as error:
        raise DecodeError(f"the {kind} header is broken") from error
    if header.width <= 0 or header.height <= 0:
        raise DecodeError(f"the {kind} header gives a size of {header.width} x {header.height}")
    if header.width * header.height > MAX_PIXELS:
        raise DecodeError(f"the {kind} header claims {header.width} x {header.height} pixels, beyond the limit")
    return header


# --- what is told apart by its first bytes, and not read ---

_REFUSED = (
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
)
_BRANDS = dict.fromkeys((b"avif", b"avis"), "AVIF") | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
)


def _why_unknown(start: bytes) -> str:
    kind = next((name for magic, name in _REFUSED if start.startswith(magic)), None)
    if kind is None and start[4:8] == b"ftyp":
        kind = _BRANDS.get(start[8:12])
    if kind is not None:
        return f"{kind} is not supported; convert it to JPEG or PNG"
    shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in start[:12])
    return f"not a known image format (it starts with '{shown}')"


def _refuse(start: bytes, read_at: ReadAt, size: int, check_end: bool) -> Header:
    raise DecodeError(_why_unknown(start))


# --- what the formats share ---


def _traits(names: list[str], orientation: int) -> tuple[str, ...]:
    if orientation != 1:
        names.append("exif-rotated")
    if orientation in (2, 4, 5, 7):
        names.append("exif-mirrored")
    return tuple(sorted(names))


def _more(read_at: ReadAt, at: int, size: int) -> bytes:
    if at > size:
        raise ValueError("beyond the end")
    return read_at(at, _FIRST)


def _has_end(mark: bytes, data: bytes, base: int, begin: int, read_at: ReadAt, size: int) -> bool:
    # does the file close with `mark`, or hold it after `begin`? `data`, the bytes from `base` on, may reach the end
    num = len(mark)
    if (data[-num:] if base + len(data) == size else read_at(size - num, num)) == mark:
        return True
    # from the end backwards: cameras append trailers, from a few bytes to a whole video
    end = size
    while end > begin:
        at = max(begin, end - _PIECE)
        if mark in read_at(at, min(size, end + num - 1) - at):
            return True
        end = at
    return False


def _orientation_at(at: int, length: int, data: bytes, read_at: ReadAt) -> int:
    # of the EXIF block of `length` bytes at `at`; `data` is its beginning, which is nearly always enough
    found = tiff.exif_orientation(data)
    if found is None and len(data) < length:
        found = tiff.exif_orientation(read_at(at, min(length, _PIECE)))
    return found or 1


# --- JPEG (ITU-T T.81): marker segments up to the frame header, which holds the size ---

_FRAME = struct.Struct(">BHHB")
_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))  # baseline, extended, progressive; the same two arithmetic
_OTHER_FRAMES = frozenset((0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF))
_EOI = b"\xff\xd9"
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length
_COMPONENTS: dict[int, tuple[str, ...]] = {1: ("grey",), 3: (), 4: ("cmyk",)}


def _jpeg(start: bytes, read_at: ReadAt, size: int, check_end: bool) -> Header:
    data, base, at, orientation, names = _to_frame(start, read_at, size)
    precision, height, width, components = _FRAME.unpack_from(data, at + 4)
    if precision != 8:
        raise DecodeError(f"JPEG of {precision} bits a sample is not supported; convert it to 8 bits")
    if components not in _COMPONENTS:
        raise DecodeError(f"JPEG of {components} components is not supported; convert it to RGB")
    if check_end and not _has_end(_EOI, data, base, base + at, read_at, size):
        raise TruncatedError("the JPEG is cut off: it has no end marker")
    traits = _COMPONENTS[components]
    if names or orientation != 1:
        traits = _traits([*traits, *names], orientation)
    return Header("JPEG", width, height, orientation, traits)


def _to_frame(data: bytes, read_at: ReadAt, size: int) -> tuple[bytes, int, int, int, tuple[str, ...]]:
    # the bytes at hand, where in the file they begin, where in them the frame header is; orientation and traits
    base, at = 0, 2
    orientation, names = 0, tuple[str, ...]()
    for _ in range(_MOST_STEPS):
        if at + 10 > len(data):
            base += at
            data, at = _more(read_at, base, size), 0
        code = data[at + 1]
        if data[at] != 0xFF or code == 0xFF:  # junk, which decoders skip, or a fill byte
            at += 1
            continue
        if code in _FRAMES:
            return data, base, at, orientation or 1, names
        if code == 0 or code in _ALONE:
            at += 2
            continue
        if code in _OTHER_FRAMES:
            raise DecodeError("lossless and hierarchical JPEG are not supported; convert it to PNG")
        length = data[at + 2] << 8 | data[at + 3]
        if length < 2 or code == 0xD9 or code == 0xDA:  # the end, or pixels
            break
        if code == 0xE1 and not orientation and data[at + 4 : at + 10] == b"Exif\0\0":
            block = data[at + 10 : at + 2 + length]
            orientation = _orientation_at(base + at + 10, length - 8, block, read_at)
        elif code == 0xE2 and data[at + 4 : at + 8] == b"MPF\0":
            names = ("multi-picture",)
        at += 2 + length
    raise ValueError("no frame header")


# --- PNG: chunks up to the first of pixels ---

_IHDR = struct.Struct(">I4sIIBB")
_CHUNK = struct.Struct(">I4s")
_IEND = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PNG_TRAITS: dict[int, tuple[str, ...]] = {0: ("grey",), 2: (), 3: ("palette",), 4: ("alpha", "grey"), 6: ("alpha",)}


def _png(start: bytes, read_at: ReadAt, size: int, check_end: bool) -> Header:
    length, kind, width, height, depth, colour = _IHDR.unpack_from(start, 8)
    if kind != b"IHDR" or length != 13 or depth not in _PNG_DEPTHS.get(colour, ()):
        raise ValueError("no valid IHDR")
    traits, orientation = _PNG_TRAITS[colour], 1
    length, kind = _CHUNK.unpack_from(start, 33)
    if kind != b"IDAT" or depth == 16:
        orientation, more = _png_chunks(start, read_at, size)
        if depth == 16:
            more.add("16-bit")
        traits = _traits([*more.union(traits)], orientation)
    if check_end and not _has_end(_IEND, start, 0, 33, read_at, size):
        raise TruncatedError("the PNG is cut off: it has no end chunk")
    return Header("PNG", width, height, orientation, traits)


def _png_chunks(data: bytes, read_at: ReadAt, size: int) -> tuple[int, set[str]]:
    # orientation, and traits by the chunks between IHDR and IDAT
    base, at = 0, 33
    orientation, traits = 0, set[str]()
    for _ in range(_MOST_STEPS):
        if at + 8 > len(data):
            base += at
            data, at = _more(read_at, base, size), 0
        length, kind = _CHUNK.unpack_from(data, at)
        if kind == b"IDAT":
            return orientation or 1, traits
        if kind == b"tRNS":
            traits.add("alpha")
        elif kind == b"acTL":
            traits.add("animated")
        elif kind == b"eXIf" and not orientation:
            orientation = _orientation_at(base + at + 8, length, data[at + 8 : at + 8 + length], read_at)
        at += 12 + length
    raise ValueError("no IDAT")


# --- WebP: a RIFF file of chunks ---


def _webp(start: bytes, read_at: ReadAt, size: int, check_end: bool) -> Header:
    (length,) = struct.unpack_from("<I", start, 4)
    if start[8:12] != b"WEBP":
        raise DecodeError("a RIFF file, but not WebP")
    if length + 8 > size:
        raise TruncatedError(f"the WebP is cut off: {length + 8} bytes promised, {size} there")
    chunk = start[12:16]
    if chunk == b"VP8X":
        return _webp_extended(start, read_at, size)
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", start, 21)
        traits = ("alpha",) if bits >> 28 & 1 else ()
        return Header("WebP", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), traits=traits)
    if chunk != b"VP8 " or start[23:26] != b"\x9d\x01\x2a":
        raise ValueError("no picture")
    width, height = struct.unpack_from("<HH", start, 26)
    return Header("WebP", width & 0x3FFF, height & 0x3FFF)


def _webp_extended(start: bytes, read_at: ReadAt, size: int) -> Header:
    flags = start[20]
    width, height = 1 + int.from_bytes(start[24:27], "little"), 1 + int.from_bytes(start[27:30], "little")
    names = [name for bit, name in ((0x10, "alpha"), (0x02, "animated")) if flags & bit]
    # EXIF comes last; of an animation that would be a read for every picture
    orientation = _webp_orientation(read_at, size) if flags & 0x0A == 0x08 else 1
    return Header("WebP", width, height, orientation, _traits(names, orientation))


def _webp_orientation(read_at: ReadAt, size: int) -> int:
    at = 30
    for _ in range(16):
        head = read_at(at, 8) if at < size else b""
        if len(head) < 8:
            break
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            return tiff.exif_orientation(read_at(at + 8, min(length, _PIECE)).removeprefix(b"Exif\0\0")) or 1
        at += 8 + length + length % 2
    return 1


# --- BMP ---

# (bits a pixel, compression) that OpenCV decodes: none, run lengths of 8 and 4 bits, 32 bits by masks
_BMP_KINDS = frozenset(((1, 0), (4, 0), (8, 0), (16, 0), (24, 0), (32, 0), (8, 1), (4, 2), (32, 3)))


def _bmp(start: bytes, read_at: ReadAt, size: int, check_end: bool) -> Header:
    promised, _, pixels_at, header_size = struct.unpack_from("<IIII", start, 2)
    if header_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", start, 18)
        packed = 0
    else:
        width, height, _, bits, packed = struct.unpack_from("<iiHHI", start, 18)
    height = abs(height)
    # 16 bits by masks: OpenCV finds the masks only behind the oldest header
    if (bits, packed) not in _BMP_KINDS and (bits, packed, header_size) != (16, 3, 40):
        raise DecodeError(f"BMP of {bits} bits and compression {packed} is not supported; convert it to PNG")
    if packed in (0, 3) and pixels_at + (width * bits + 31) // 32 * 4 * height > size:
        raise TruncatedError(f"the BMP is cut off: its pixels end beyond its {size} bytes")
    if packed not in (0, 3) and promised > size:
        raise TruncatedError(f"the BMP is cut off: {promised} bytes promised, {size} there")
    names = ["palette"] if bits <= 8 else []
    if packed == 3 and bits == 32 and header_size >= 56 and start[66:70] != b"\0\0\0\0":
        names.append("alpha")
    return Header("BMP", width, height, traits=_traits(names, 1))


# --- TIFF ---

_TIFF_TRAITS = {0: ["grey"], 1: ["grey"], 3: ["palette"], 5: ["cmyk"]}


def _tiff(start: bytes, read_at: ReadAt, size: int, check_end: bool) -> Header:
    tags, several = tiff.read_tags(read_at, size)
    if not tags.get(256) or not tags.get(257) or not (tags.get(273) or tags.get(324)):
        raise ValueError("no size, or no pixels")
    tiff.check_kind(tags)
    for offsets, counts in ((273, 279), (324, 325)):
        pieces = zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)
        if any(offset + count > size for offset, count in pieces):
            raise TruncatedError("the TIFF is cut off: its pixels lie beyond its end")
    orientation = (tags.get(274) or (1,))[0]
    orientation = orientation if 1 <= orientation <= 8 else 1
    names = list(_TIFF_TRAITS.get(tags[262][0], ()))
    names += ["16-bit"] if 16 in tags.get(258, ()) else []
    names += ["alpha"] if {1, 2} & set(tags.get(338, ())) else []
    names += ["multi-picture"] if several else []
    return Header("TIFF", tags[256][0], tags[257][0], orientation, _traits(names, orientation))


# --- by the first two bytes: name, whole magic number, parser ---

_Parser = tuple[str, bytes, Callable[[bytes, ReadAt, int, bool], Header]]
_PARSERS: dict[bytes, _Parser] = {
    b"\xff\xd8": ("JPEG", b"\xff\xd8\xff", _jpeg),
    b"\x89P": ("PNG", b"\x89PNG\r\n\x1a\n", _png),
    b"RI": ("WebP", b"RIFF", _webp),
    b"BM": ("BMP", b"BM", _bmp),
    b"II": ("TIFF", b"II*\0", _tiff),
    b"MM": ("TIFF", b"MM\0*", _tiff),
}
_NO_PARSER: _Parser = ("", b"", _refuse)
