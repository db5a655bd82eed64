"""Decode a whole image and tell whether it is one: not cut, not damaged, not black, not of one colour.

In: the bytes of an image file. Out: a verdict with a reason. Training decodes with OpenCV, which fills in what is
missing in a JPEG without a word; here the decoders that tell are asked.

What is found. JPEG: every complaint of libjpeg that means lost data (`_HARMLESS` and `_plain` say which do not), scans
that never came, and holes of zero bytes. PNG: checksums, and the length of the pixel data. WebP, TIFF and BMP: only
what makes OpenCV fail, for it decodes damaged TIFF strips and lossy WebP to something.

What cannot be found. JPEG has no checksum, and its code finds back into step: a damage of a few bytes that leaves as
many blocks as there were gives a valid file with some wrong blocks. So does, rarely, a larger one. Arithmetic-coded
JPEG and lossy WebP decode any bytes without complaint.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mumdata.errors import DecodeError, TruncatedError
from mumdata.headers import Header, read_header
from mumdata.images import decode
from mumdata.jpeg_scans import FRAMES, HOLE, NEEDED, SEQUENTIAL, check_scans, scans_of, segments_of

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BLACK_LEVEL", "FLAT_RANGE", "OUTLIERS", "Verdict", "verify"]

# of a channel's pixels, the brightest and the darkest thousandth do not count: hot pixels, a date stamp, a status light
OUTLIERS = 1000

# at most this in every channel is black: the black level of video, and half a percent of full light in sRGB
BLACK_LEVEL = 16

# levels between darkest and brightest, at most, of a picture of one colour
FLAT_RANGE = 4


@dataclass(frozen=True)
class Verdict:
    """What came of decoding an image: `status` is ok, truncated, unreadable, black or flat; `detail` says why."""

    status: str
    detail: str = ""


def verify(data: bytes) -> Verdict:
    """Decode the whole image in `data` and judge it.

    `truncated`: part of it is missing. `unreadable`: no image, one of a kind that is not supported, or damaged.
    `black`: in no channel does more than a thousandth of the pixels exceed 16 of 255. `flat`: in every channel all but
    a thousandth at either end lie within 4 levels. Both are meant for frames without content, such as failed renderings
    and hidden test images. Photos keep far from them: of 1,200 real ones, some taken at night and some in infrared, the
    darkest had a thousandth of its pixels above 155, and the flattest spanned 92 levels; a plain wall differs by more
    than 4 levels through shading or, without it, through sensor noise of a standard deviation of 1.
    """
    try:
        header = read_header(lambda at, num: data[at : at + num], len(data))
        image = {"JPEG": _jpeg, "PNG": _png}.get(header.kind, decode)(data, header)
    except TruncatedError as error:
        return Verdict("truncated", str(error))
    except DecodeError as error:
        return Verdict("unreadable", str(error))
    height, width = image.shape[:2]
    if (width, height) != (header.width, header.height):
        told = f"{header.width} x {header.height}"
        return Verdict("unreadable", f"the {header.kind} header says {told}, its pixels are {width} x {height}")
    return _content(image)


# --- black and flat ---


def _content(image: np.ndarray) -> Verdict:
    allowed = image.shape[0] * image.shape[1] // OUTLIERS
    # leaving out as many pixels of a part as may be left out of the whole gives limits that the whole exceeds too;
    # so a part is enough to see that nearly every picture is neither black nor flat
    for step in (8, 1):
        low, high = _limits(image[::step, ::step], allowed)
        levels = max(last - first for first, last in zip(low, high, strict=True))
        if max(high) > BLACK_LEVEL and levels > FLAT_RANGE:
            return Verdict("ok")
    if max(high) <= BLACK_LEVEL:
        return Verdict("black", f"all but a thousandth of its pixels are at most {max(high)} of 255 in every channel")
    return Verdict("flat", f"but for a thousandth at either end its pixels differ by {levels} levels of 255 at most")


def _limits(image: np.ndarray, allowed: int) -> tuple[list[int], list[int]]:
    # per channel the lowest and highest value without the `allowed` outermost pixels at either end
    import numpy as np

    low, high = [], []
    for channel in range(image.shape[2]):
        counts = np.bincount(image[:, :, channel].ravel(), minlength=256)
        from_below, from_above = np.cumsum(counts), np.cumsum(counts[::-1])
        low.append(int(np.argmax(from_below > allowed)))
        high.append(255 - int(np.argmax(from_above > allowed)))
    return low, high


# --- JPEG ---

# complaints of simplejpeg about kinds of files that it does not know, not about damage; OpenCV is asked then
_UNKNOWN_KIND = re.compile("subsampling|color conversion|colorspace|precision", re.IGNORECASE)

# complaints whose cause does not touch the pixels, and can be removed: junk between the segments of the header, and odd
# values in segments that decoders do without
_REMOVABLE = re.compile("before marker 0x(?!d[0-9])|SOS parameters|JFIF revision|Adobe|ICC")

# Bytes that belong to nothing stand before a marker. One or two are usual with webcams and some editors (two photos of
# ImageNet have one); more are what is left over when damage made the decoder lose its place.
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x(d\d)")
_HARMLESS = 2


def _jpeg(data: bytes, header: Header) -> np.ndarray:
    check_scans(data)
    image, complaint = _strictly(data, header)
    if complaint is not None and _REMOVABLE.search(complaint):
        # only the first complaint is told; with its cause removed, one of damage comes first
        image, complaint = _strictly(_plain(data), header)
    if complaint is not None and (image is None or not _is_harmless(complaint, data)):
        if not _UNKNOWN_KIND.search(complaint):
            is_cut = "premature end" in complaint.lower()
            raise (TruncatedError if is_cut else DecodeError)(f"the JPEG is damaged: {complaint}")
        image = None
    return decode(data, header) if image is None or "cmyk" in header.traits else image


def _strictly(data: bytes, header: Header) -> tuple[np.ndarray | None, str | None]:
    # RGB pixels (of CMYK: of no use), and what libjpeg complains of first; no pixels where there was more than bytes
    # that belong to nothing
    import simplejpeg

    colours = "CMYK" if "cmyk" in header.traits else "RGB"
    try:
        return simplejpeg.decode_jpeg(data, colours, strict=True), None
    except ValueError as error:
        complaint = str(error)
    if _EXTRANEOUS.search(complaint):
        with suppress(ValueError):
            return simplejpeg.decode_jpeg(data, colours, strict=False), complaint
    return None, complaint


def _is_harmless(complaint: str, data: bytes) -> bool:
    found = _EXTRANEOUS.search(complaint)
    if found is None:
        return False
    num, marker = int(found[1]), found[2]
    if num <= _HARMLESS:
        return True
    # some cameras fill up the last block with zeros before the end marker
    end = max((scan.end for scan in scans_of(data)[1]), default=0)
    return marker == "d9" and num < len(HOLE) and data[end - num : end] == bytes(num)


def _plain(data: bytes) -> bytes:
    # A JPEG of what its pixels need and nothing else. Gone are junk between segments, comments, and what APPn segments
    # say (a wrong version of JFIF, a broken colour profile); a sequential scan gets the parameters that it must have
    # (Samsung's phones write zeros).
    pieces, frame = [b"\xff\xd8"], 0
    for segment in segments_of(data):
        body = data[segment.begin : segment.body_end]
        if segment.code in FRAMES:
            frame = segment.code
        is_adobe = segment.code == 0xEE and body[4:9] == b"Adobe" and body[15:16] in (b"\0", b"\1", b"\2")
        if segment.code not in NEEDED and not is_adobe:
            continue
        if segment.code == 0xDA and frame in SEQUENTIAL:
            body = body[:-3] + b"\0\x3f\0"
        pieces += [body, data[segment.body_end : segment.end]]
    return b"".join([*pieces, b"\xff\xd9"])


# --- PNG ---

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}

# Adam7: first column and row of each pass, and the steps
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def _png(data: bytes, header: Header) -> np.ndarray:
    engine, found, promised = zlib.decompressobj(), 0, _png_length(data)
    for packed in _pixel_chunks(data):
        try:
            while packed and found < promised:
                found += len(engine.decompress(packed, 1 << 20))
                packed = engine.unconsumed_tail
        except zlib.error as error:
            raise DecodeError(f"the PNG is damaged: {error}") from error
    if found < promised:
        raise TruncatedError(f"the PNG is cut off: {found} of {promised} bytes of pixels are there")
    return decode(data, header)


def _pixel_chunks(data: bytes) -> Iterator[bytes]:
    # the bodies of the chunks of pixels; all that pixels need is checked on the way
    view, at, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        begin, end = at + 8, at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            raise TruncatedError("the PNG is cut off: a chunk lies beyond its end")
        kind = data[at + 4 : at + 8]
        # a small first letter marks what pixels do not need: dates, texts, colour profiles
        if kind[:1].isupper() and zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise DecodeError(f"the PNG is damaged: the checksum of its chunk at byte {at} is wrong")
        if kind == b"IDAT":
            yield data[begin : end - 4]
        at = end


def _png_length(data: bytes) -> int:
    # bytes of the unpacked pixels: a filter byte a row, and rows of whole bytes, pass by pass
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits = data[24] * _CHANNELS[data[25]]
    total = 0
    for left, top, step_x, step_y in _PASSES if data[28] else ((0, 0, 1, 1),):
        columns, rows = (width - left + step_x - 1) // step_x, (height - top + step_y - 1) // step_y
        total += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    return total
