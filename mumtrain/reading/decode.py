"""One part of an encoded picture, decoded at a fraction of its size.

In: the bytes of an image file, what its header says, and a box. Out: the box's pixels, uint8 RGB; a DecodeError for
what is damaged or cut off. JPEG, the usual case, is decoded at the scale that is asked for, and not beyond the box.
"""

from __future__ import annotations

import math
import re
import struct

import numpy as np

from mumdata import images
from mumdata.errors import DecodeError, TruncatedError
from mumdata.headers import Header
from mumtrain.reading.crops import Box
from mumtrain.reading.scratch import scratch

__all__ = ["decode_box"]

# Complaints of libjpeg that mean lost pixels, which it fills in. Others are of odd headers and of what it does not
# know; those files are left to OpenCV, which reads more kinds and does not complain.
_DAMAGE = re.compile("premature end|bad huffman|bad arithmetic|instead of RST", re.IGNORECASE)

# what libjpeg says at the end of a scan that it has not read to its end
_UNREAD = "extraneous bytes before marker"

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
    num_rows += 2 * scale  # colours are interpolated from the rows below as well
    if height - num_rows >= _FEW_ROWS:
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
        if _DAMAGE.search(complaint):
            is_cut = "premature end" in complaint.lower()
            raise (TruncatedError if is_cut else DecodeError)(f"the JPEG is damaged: {complaint}") from error
        # only the first complaint is told: were pixels lost before, it would be another
        if shortened is None or not in_scans or _UNREAD not in complaint:
            return None
    return image, scale


def _shortened(data: bytes, header: Header, num_rows: int) -> bytes | None:
    # The same JPEG with `num_rows` in its header: the decoder stops there and skips what is left, the most of whose
    # cost is to unpack it. None where the header is not found at once.
    at = data.find(struct.pack(">BHH", 8, header.height, header.width), 6)
    if at < 0 or data[at - 4 : at - 2] not in _FRAMES:
        return None
    view = memoryview(data)
    return b"".join((view[: at + 1], num_rows.to_bytes(2, "big"), view[at + 3 :]))
