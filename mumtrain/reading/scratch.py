"""Memory for pixels on their way, kept by each thread.

In: what it is for and a shape. Out: an array to be overwritten. Fresh memory is cleared by the kernel page by page,
which for a decoded picture can take as long as a quarter of the decoding.
"""

from __future__ import annotations

import math
import threading

import numpy as np

__all__ = ["scratch"]

# larger arrays are not kept, so that one huge picture does not stay in the memory of every process
_MOST_BYTES = 1 << 26

_kept = threading.local()


def scratch(purpose: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a contiguous uint8 array of any content, which the thread's next call with that purpose overwrites."""
    num_bytes = math.prod(shape)
    memory: np.ndarray | None = getattr(_kept, purpose, None)
    if memory is None or memory.size < num_bytes:
        memory = np.empty(num_bytes, np.uint8)
        if num_bytes <= _MOST_BYTES:
            setattr(_kept, purpose, memory)
    return memory[:num_bytes].reshape(shape)
