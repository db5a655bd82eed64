"""The walk over points3D.bin, whose next record is found only through the last one's length.

In: the file's bytes. Out: where each record starts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mumdata.kernels import jit

__all__ = ["walk"]


@jit
def walk(data: np.ndarray, starts: np.ndarray) -> int:
    """Fill in where records start, and after them where the last one ends; return how many lie wholly in the file.

    `data` uint8 [bytes], read only; `starts` int64 [records + 1], of which the result plus 1 are filled. A record is 51
    bytes, of which the last 8 are the number of elements, and 8 bytes an element; the first begins at byte 8.
    """
    position = 8
    for row in range(len(starts) - 1):
        starts[row] = position
        room = len(data) - position - 51
        if room < 0:
            return row
        length: Any = np.int64(0)
        for byte in range(8):
            length |= np.int64(data[position + 43 + byte]) << (8 * byte)
        if length < 0 or length > room // 8:  # as a signed number, a length beyond 2^63 is negative
            return row
        position += 51 + 8 * length
    starts[len(starts) - 1] = position
    return len(starts) - 1
