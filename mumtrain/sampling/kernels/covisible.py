"""Drawing frames of sequences along the pairs that share something; see `mumtrain.sampling.frame_subsets`."""

from __future__ import annotations

import numpy as np

from mumtrain.sampling.kernels import FRAMES, below, jit, word_of
from mumtrain.sampling.kernels.frames import longest_of, repeat

__all__ = ["draw_covisible"]

_HASH = np.uint32(0x9E3779B1)


@jit
def _table_size(num: int) -> int:
    size = 4
    while size < 2 * num:
        size *= 2
    return size


@jit
def _slot_of(frame: int, frames: np.ndarray, table: np.ndarray) -> np.uint32:
    # where a frame stands in a hash table of places (its length a power of two), or would stand
    mask = np.uint32(len(table) - 1)
    at = np.uint32(np.uint32(frame) * _HASH >> np.uint32(7)) & mask
    while table[at] >= 0 and frames[table[at]] != frame:
        at = (at + np.uint32(1)) & mask
    return at


@jit
def _nth_unused(state: np.ndarray, number: int) -> int:
    for place in range(len(state)):
        if state[place] == 0:
            if number == 0:
                return place
            number -= 1
    return -1


@jit
def _grow(
    key: int,
    frames: np.ndarray,
    indptr: np.ndarray,
    other: np.ndarray,
    overlap: np.ndarray,
    low: float,
    high: float,
    places: np.ndarray,
    scratch: np.ndarray,
    state: np.ndarray,
    linked: np.ndarray,
) -> None:
    num, num_linked = len(frames), 0
    table = scratch[: _table_size(num)]
    table[:] = -1
    for place in range(num):
        at = _slot_of(frames[place], frames, table)
        if table[at] < 0:
            table[at] = place
    state[:] = 0  # 1: linked with a chosen one, 2: chosen
    for view in range(len(places)):
        word = word_of(key, FRAMES + view)
        if num_linked:
            at = below(word, num_linked)
            chosen = linked[at]
            num_linked -= 1
            linked[at] = linked[num_linked]
        else:
            chosen = _nth_unused(state, below(word, num - view))
        places[view], state[chosen] = chosen, 2
        frame = frames[chosen]
        if view + 1 == len(places) or not 0 <= frame < len(indptr) - 1:
            continue
        for entry in range(indptr[frame], indptr[frame + 1]):
            if low <= overlap[entry] <= high:
                place = table[_slot_of(other[entry], frames, table)]
                if place >= 0 and state[place] == 0:
                    state[place] = 1
                    linked[num_linked] = place
                    num_linked += 1


@jit
def draw_covisible(
    keys: np.ndarray,
    datasets: np.ndarray,
    dataset: int,
    rows: np.ndarray,
    offsets: np.ndarray,
    values: np.ndarray,
    indptr: np.ndarray,
    other: np.ndarray,
    overlap: np.ndarray,
    low: float,
    high: float,
    out: np.ndarray,
) -> None:
    """Write the V frames of each sequence of one dataset, grown from a random one along pairs of overlap low .. high.

    Each next frame is a random one of those linked with any chosen one or, where there is none, of the unused ones. The
    neighbours of frame f are other[indptr[f] : indptr[f + 1]]; int64 indptr, int32 other, float32 overlap.
    """
    V = out.shape[1]
    places, moved = np.empty(V, np.int64), np.empty((2, V), np.int64)
    longest = longest_of(datasets, dataset, rows, offsets)
    table, state = np.empty(_table_size(longest), np.int32), np.empty(longest, np.uint8)
    linked = np.empty(longest, np.int32)
    for i in range(len(keys)):
        if datasets[i] != dataset:
            continue
        frames = values[offsets[rows[i]] : offsets[rows[i] + 1]]
        num = len(frames)
        if num < V:
            repeat(keys[i], FRAMES, num, places, moved)
        else:
            _grow(keys[i], frames, indptr, other, overlap, low, high, places, table, state[:num], linked)
        for view in range(V):
            out[i, view] = frames[places[view]]
