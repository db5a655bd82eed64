"""The rule `chain-overlap`: from a random anchor, always on to the frame that overlaps most (MuM, MegaDepth).

In: a stream with shared points. Out: `per_scene` chains of positions, or none where the stream yields none.
"""

from __future__ import annotations

import numpy as np

from mumdata import rng
from mumdata.covisibility import neighbours
from mumdata.mining.stream import Options, Stream

__all__ = ["chain_overlap", "overlap_candidates", "walk"]

_WINDOW = 16  # neighbours looked at in one go: mostly one of the best 16 is free
_BATCH_BYTES = 1 << 26  # memory for the marks of what each chain of a batch has used


def chain_overlap(stream: Stream, options: Options) -> list[np.ndarray]:
    """Mine chains by overlap; exactly `per_scene` of them wherever at least one anchor yields a chain.

    From its anchor a chain goes on to the unused usable frame that has the highest overlap current->other among those
    that share at least max(1, min_shared) points with the current one (ties: the lower position). It ends at
    `max_frames` (default 256) or where no such frame is left; below `min_frames` (default 24) it is dropped.

    Anchors are the usable frames in a random order, without replacement, so that no chain is emitted twice while
    another anchor with a valid chain is left. When all of them have been emitted and `per_scene` is not reached, they
    are emitted again, in a newly drawn order each time round: every scene that yields anything weighs the same.

    Random words: key (seed, *stream.key, "chain-overlap"); round r over m usable frames sorts words r*m .. (r+1)*m-1.
    Reads: seed, per_scene, min_shared, min_frames, max_frames.
    """
    frames = stream.positions
    if stream.pairs is None or len(frames) == 0 or options.per_scene == 0:
        return []
    most = options.max_frames or 256
    least = options.min_frames or 24
    indptr, other = overlap_candidates(stream, options)
    key = rng.key(options.seed, *stream.key, "chain-overlap")

    def order(round_: int) -> np.ndarray:
        return frames[np.argsort(rng.words(key, len(frames), start=round_ * len(frames)), kind="stable")]

    chain_of: dict[int, np.ndarray] = {}  # anchor -> its chain, in the order of the first round
    anchors = order(0)
    batch = max(1, min(1024, _BATCH_BYTES // len(stream.usable)))
    start = 0
    while start < len(anchors) and len(chain_of) < options.per_scene:
        some = anchors[start : start + min(batch, options.per_scene - len(chain_of))]
        for anchor, chain in zip(some.tolist(), walk(some, indptr, other, most), strict=True):
            if len(chain) >= least:
                chain_of[anchor] = chain
        start += len(some)
    result = list(chain_of.values())
    round_ = 1
    while chain_of and len(result) < options.per_scene:
        result += [chain_of[anchor] for anchor in order(round_).tolist() if anchor in chain_of]
        round_ += 1
    return result[: options.per_scene]


def overlap_candidates(stream: Stream, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames that may follow each frame, best first, as (indptr, other)."""
    assert stream.pairs is not None
    graph = neighbours(stream.pairs)
    row = graph.row
    keep = stream.usable[graph.other] & stream.usable[row] & (graph.shared >= max(1, options.min_shared))
    row, other, shared = row[keep], graph.other[keep], graph.shared[keep]
    # The overlaps of one frame have one denominator: they are ordered, and tied, as the counts are.
    best_first = np.lexsort((other, -shared.astype(np.int64), row))
    indptr = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.bincount(row, minlength=len(stream.usable)))])
    return indptr, other[best_first]


def walk(anchors: np.ndarray, indptr: np.ndarray, other: np.ndarray, most: int) -> list[np.ndarray]:
    """Grow the chains of several anchors in step: each goes on to the first candidate that it has not used.

    `other[indptr[i] : indptr[i + 1]]` are the candidates after frame i, best first. Returns int32 arrays of at most
    `most` positions, anchor first.
    """
    num = len(anchors)
    used = np.zeros((num, len(indptr) - 1), dtype=bool)
    used[np.arange(num), anchors] = True
    current = np.asarray(anchors, dtype=np.int64)
    steps = [current.astype(np.int32)]
    length = np.ones(num, dtype=np.int64)
    alive = np.arange(num)  # chains that still grow
    while len(alive) and len(steps) < most:
        following = _first_free(alive, current[alive], used, indptr, other)
        alive, following = alive[following >= 0], following[following >= 0]
        used[alive, following] = True
        current[alive] = following
        length[alive] += 1
        steps.append(current.astype(np.int32))
    chains = np.stack(steps, axis=1)
    return [chains[row, : length[row]] for row in range(num)]


def _first_free(
    chains: np.ndarray, current: np.ndarray, used: np.ndarray, indptr: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """Return for each chain the first candidate after its current frame that it has not used, or -1."""
    result = np.full(len(chains), -1, dtype=np.int64)
    pending = np.arange(len(chains))
    low, width = indptr[current], _WINDOW
    while len(pending):
        end = indptr[current[pending] + 1]
        window = low[pending, None] + np.arange(width)
        inside = window < end[:, None]
        candidate = other[np.where(inside, window, 0)] if len(other) else np.zeros(window.shape, dtype=np.int32)
        free = inside & ~used[chains[pending, None], candidate]
        first = np.argmax(free, axis=1)
        found = free[np.arange(len(pending)), first]
        result[pending[found]] = candidate[found, first[found]]
        low[pending] += width
        pending = pending[~found & (low[pending] < end)]
        width *= 2
    return result
