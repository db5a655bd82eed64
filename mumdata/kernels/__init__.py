"""Inner loops, compiled by numba when they are first called, and kept on disk for later processes.

In: plain arrays. Out: plain arrays. The modules of this package import numba, which takes a moment: import them inside
the functions that call them. Kernels use + - * / and square roots in float64 without fast-math, so that their results
are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

__all__ = ["jit"]


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel; keep the machine code in numba's cache where there is a folder that can be written to."""
    try:
        compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available": neither the package's folder nor the user's cache can be written
        compiled = numba.njit(nogil=True)(function)
    return compiled
