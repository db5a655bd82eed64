"""One part of an encoded picture, decoded at a fraction of its size.

In: the bytes of an image file, what its header says, and a box. Out: the box's pixels, uint8 RGB; a DecodeError for
what is seen to be damaged or cut off. JPEG, the usual case, is decoded at the scale that is asked for, and not beyond
the box.

What is seen: all that OpenCV refuses, and of a JPEG whatever its decoder complains of on its way to the box and, where
it its pixels are zero bytes. JPEG has no checksum, and damage of some bytes may leave a valid file with
wrong pixels; damage beyond the box is not met. `mumdata index NAME --verify decode` reads whole files and sees more.
"""

from __future__ import annotations

import math
import re
import struct

import numpy as np

from mumdata import images
from mumdata.errors import DecodeError, TruncatedError
from mumdata.headers import Header
from mumdata.jpeg_scans import HOLE, check_scans
from mumtrain.reading.crops import Box
from mumtrain.reading.quiet import quiet
from mumtrain.reading.scratch import scratch

__all__ = ["decode_box"]

# Complaints of libjpeg on its way through the scans that are about how a file is written, not about its pixels: odd
# values, kinds that simplejpeg does not know. These files are left to OpenCV, which reads more kinds; as are those with
# complaints about what stands before the first scan.
_ODD = re.compile("SOS parameters|subsampling|color conversion|colorspace|precision", re.IGNORECASE)

# Complaints that mean lost pixels wherever they come.
_DAMAGE = re.compile("premature end|bad huffman|bad arithmetic|instead of RST", re.IGNORECASE)

# What libjpeg says where data are left over before a marker: it has lost its place, or was told to stop early. One or
# two bytes are usual with webcams and some editors, and some cameras fill up the end with zeros; as for
# `mumdata.verify_image`.
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_HARMLESS = 2

# fewer rows below a box than this are decoded with it: to leave them out costs a copy of the file
_FEW_ROWS = 16

# Where colours are halved or quartered in one direction only, libjpeg shrinks them in both: at 1/2 of the size and
# below, they are that much coarser than the picture. Such files are decoded larger and shrunk by averaging.
_COARSER = {"422": 2, "440": 2, "411": 4, "441": 4}

# the frame headers, up to the height, of the kinds of JPEG whose decoding may stop early
_FRAMES = (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2")


def decode_box(data: bytes, header: Header, box: Box, step: int) -> np.ndarray:
    """Decode a box of a picture at 1/`step` of its size, as stored: uint8 RGB [box height / step, box width / step, 3].

    The edges of `box`, in pixels of the whole picture, are multiples of `step`, which is 1, 2, 4 or a multiple of 8:
    see `crops.shrinkage` and `crops.on_grid`. `header` must be that of `data`, with its end checked. Raises DecodeError
    where the data is damaged, cut off, or of another size than the header says. The result may lie in memory that the
    thread's next call overwrites.
    """
    import cv2

    scale = math.gcd(step, 8) if header.kind == "JPEG" else 1
    decoded = None
    if header.kind == "JPEG" and "cmyk" not in header.traits:
        decoded = _jpeg(data, header, scale, box[1] + box[3])
    if decoded is None:
        with quiet():
            decoded = images.decode(data, header, scale), scale
        if decoded[0].shape != _shape(header.width, header.height, scale):
            told = f"{header.width} x {header.height}"
            raise DecodeError(f"the {header.kind} data has another size than its header, which says {told}")
    image, scale = decoded
    left, top, width, height = (side // scale for side in box)
    part = image[top : top + height, left : left + width]
    if step == scale:
        return part
    return cv2.resize(part, (box[2] // step, box[3] // step), interpolation=cv2.INTER_AREA)


def _shape(width: int, height: int, scale: int) -> tuple[int, int, int]:
    # of a picture at 1/scale of its size, as libjpeg rounds
    return -(-height // scale), -(-width // scale), 3


def _jpeg(data: bytes, header: Header, scale: int, num_rows: int) -> tuple[np.ndarray, int] | None:
    """Decode at least the first `num_rows` rows at 1/`scale` of the size or larger; return the picture and its scale.

    None where OpenCV has to be asked. Powers of two alone: their inverse transforms are vectorised, and even a picture
    of 3/8 takes longer than one of 4/8.
    """
    import simplejpeg

    height, shortened = header.height, None
    has_hole = HOLE in data
    if has_hole:
        check_scans(data)
    num_rows += 2 * scale  # colours are interpolated from the rows below as well
    if height - num_rows >= _FEW_ROWS and not has_hole:
        shortened = _shortened(data, header, num_rows)
    if shortened is not None:
        data, height = shortened, num_rows
    in_scans = False
    try:
        # complaints about what stands before the pixels are told here
        sampling = simplejpeg.decode_jpeg_header(data)[3]
        scale = max(1, scale // _COARSER.get(sampling, 1))
        image = scratch("decoded", _shape(header.width, height, scale))
        size = {"min_height": image.shape[0], "min_width": image.shape[1]}
        if simplejpeg.decode_jpeg_header(data, **size)[:2] != image.shape[:2]:
            return None
        in_scans = True
        simplejpeg.decode_jpeg(data, "RGB", buffer=image, **size)
    except ValueError as error:
        complaint = str(error)
        # only the first complaint is told, and the pixels are there: were some lost before, it would be another
        if in_scans and _is_harmless(complaint, data, shortened is not None):
            return image, scale
        if not _DAMAGE.search(complaint) and (not in_scans or _ODD.search(complaint)):
            return None
        is_cut = "premature end" in complaint.lower()
        raise (TruncatedError if is_cut else DecodeError)(f"the JPEG is damaged: {complaint}") from error
    return image, scale


def _is_harmless(complaint: str, data: bytes, is_shortened: bool) -> bool:
    found = _LEFT_OVER.search(complaint)
    if found is None:
        return False
    num, marker = int(found[1]), found[2]
    if is_shortened or (num <= _HARMLESS and "d0" <= marker <= "d9"):
        return True
    return marker == "d9" and num < len(HOLE) and bytes(num) + b"\xff\xd9" in data


def _shortened(data: bytes, header: Header, num_rows: int) -> bytes | None:
    # The same JPEG with `num_rows` in its header: the decoder stops there and skips what is left, the most of whose
    # cost is to unpack it. None where the header is not found at once.
    at = data.find(struct.pack(">BHH", 8, header.height, header.width), 6)
    if at < 0 or data[at - 4 : at - 2] not in _FRAMES:
        return None
    view = memoryview(data)
    return b"".join((view[: at + 1], num_rows.to_bytes(2, "big"), view[at + 3 :]))
