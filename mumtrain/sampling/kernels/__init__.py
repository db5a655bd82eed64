"""Inner loops of the sampler, compiled by numba when they are first called and kept on disk for later processes.

In: plain arrays. Out: plain arrays, or rows of arrays of the caller's. Importing this package imports numba, which
takes a moment: do it inside the functions that call it, and never in a process that decodes images. Decisions are made
with integers and with + - * / in float64 in a fixed order, without fast-math: they are the same on every machine.
Nothing is checked here, except that frame ids lie inside the arrays that they point into.

Words are those of `mumdata.rng.words`. Of a sequence's key, word 0 draws its dataset, 1 the scene, 2 the sequence, 3
the place in it of a window, a stride or an anchor, and 4, 5, ... its frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

__all__ = ["DATASET", "FRAMES", "PLACE", "SCENE", "SEQUENCE", "below", "jit", "place_in", "unit_of", "word_of"]

# words of a sequence's key
DATASET, SCENE, SEQUENCE, PLACE, FRAMES = range(5)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ONE, _30, _27, _31, _32, _11 = (np.uint64(n) for n in (1, 30, 27, 31, 32, 11))
_LOW = np.uint64(0xFFFFFFFF)


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel; keep the machine code in numba's cache where there is a folder that can be written to.

    The cache looks at the kernel's own file alone: who changes the functions below deletes the `__pycache__` here.
    """
    try:
        compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available": neither the package's folder nor the user's cache can be written
        compiled = numba.njit(nogil=True)(function)
    return compiled


@jit
def word_of(key: int, number: int) -> np.uint64:
    """Return word `number` of a key, uint64."""
    z = np.uint64(key) + (np.uint64(number) + _ONE) * _GOLDEN
    z = (z ^ (z >> _30)) * _FIRST
    z = (z ^ (z >> _27)) * _SECOND
    return z ^ (z >> _31)


@jit
def unit_of(word: np.uint64) -> float:
    """Map a word to float64 in [0, 1)."""
    return np.float64(word >> _11) * 2.0**-53


@jit
def below(word: np.uint64, bound: int) -> np.int64:
    """Map a word to 0 .. bound-1; bound up to 2^32."""
    n = np.uint64(bound)
    return np.int64(((word >> _32) * n + ((word & _LOW) * n >> _32)) >> _32)


@jit
def place_in(cumulative: np.ndarray, num: int, unit: float) -> int:
    """Return which of the first `num` shares, given as running sums, unit * their sum falls into.

    The last one takes what rounding leaves over.
    """
    target = unit * cumulative[num - 1]
    low, high = 0, num - 1
    while low < high:
        middle = (low + high) // 2
        if cumulative[middle] > target:
            high = middle
        else:
            low = middle + 1
    return low
