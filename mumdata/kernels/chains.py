"""Growing one chain of frames over the links between them, and measuring how far it hangs together.

In: links in compressed rows (of frame i: entries indptr[i] .. indptr[i + 1] - 1, the frames there in rising order) and
marks of the frames that are free. Out: the chain, written into an array of the caller's. Nothing is checked here.
"""

from __future__ import annotations

import numpy as np

from mumdata.kernels import jit

__all__ = ["grow", "lasting"]


@jit
def _best(at: int, indptr: np.ndarray, other: np.ndarray, score: np.ndarray, free: np.ndarray) -> int:
    best, found = -np.inf, -1
    for entry in range(indptr[at], indptr[at + 1]):
        if score[entry] > best and free[other[entry]]:  # strictly: of equal scores the lower frame, which comes first
            best, found = score[entry], other[entry]
    return found


@jit
def _drawn(at: int, indptr: np.ndarray, other: np.ndarray, weight: np.ndarray, free: np.ndarray, draw: float) -> int:
    total = 0.0
    for entry in range(indptr[at], indptr[at + 1]):
        if free[other[entry]]:
            total += weight[entry]
    target, total, found = draw * total, 0.0, -1
    for entry in range(indptr[at], indptr[at + 1]):
        if free[other[entry]] and weight[entry] > 0.0:
            total += weight[entry]
            found = other[entry]  # the last one stays where rounding lifts the target to the whole
            if total > target:
                break
    return found


@jit
def grow(
    anchor: int,
    indptr: np.ndarray,
    other: np.ndarray,
    score: np.ndarray,
    weight: np.ndarray,
    draws: np.ndarray,
    back: bool,
    free: np.ndarray,
    chain: np.ndarray,
) -> int:
    """Grow a chain from `anchor`: write its frames into `chain`, mark them in `free`, return how many there are.

    The next frame is the free one of the highest score among those linked to the current frame or, where there are
    `draws` (float64 in [0, 1), one a step), one drawn by weight; where all weights are 0, the highest score again. A
    chain ends when `chain` is full or nothing can follow; with `back` it goes back along itself instead, to the last
    frame that something can follow. int64 indptr, int32 other and chain, float64 score and weight, bool free.
    """
    parent = np.empty(len(chain) if back else 1, np.int32)
    chain[0] = anchor
    free[anchor] = False
    length, at = 1, 0
    while length < len(chain):
        following = -1
        if len(draws):
            following = _drawn(chain[at], indptr, other, weight, free, draws[length - 1])
        if following < 0:
            following = _best(chain[at], indptr, other, score, free)
        if following < 0:
            if not back or at == 0:
                break
            at = parent[at]  # what was passed on the way back has nothing left: it need not be looked at again
            continue
        if back:
            parent[length] = at
        chain[length] = following
        free[following] = False
        at = length
        length += 1
    return length


@jit
def lasting(
    chain: np.ndarray,
    indptr: np.ndarray,
    other: np.ndarray,
    overlap: np.ndarray,
    reverse: np.ndarray,
    least: float,
    member: np.ndarray,
) -> int:
    """Return how many frames of a chain come before the first that brings the mean overlap below `least`.

    The mean is over the ordered pairs of frames; `overlap` is row->other and `reverse` other->row. The sum is kept in
    two floats whose rounding errors are carried along (Moeller, Knuth): as good as exact, whatever the order. `member`
    (bool, one a frame) comes and goes all False.
    """
    high, low = 0.0, 0.0
    length = len(chain)
    for place in range(len(chain)):
        frame = chain[place]
        for entry in range(indptr[frame], indptr[frame + 1]):
            if member[other[entry]]:
                for value in (overlap[entry], reverse[entry]):
                    total = high + value
                    part = total - high
                    low += (high - (total - part)) + (value - part)
                    high = total
        if place > 0 and (high + low) / (float(place + 1) * float(place)) < least:
            length = place
            break
        member[frame] = True
    for frame in chain:
        member[frame] = False
    return length
