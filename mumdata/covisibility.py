"""Which frames see the same 3D points: counts of shared points, overlap, neighbours, coherence of sequences.

In: observations as (image, point) rows. Out: one row an unordered pair of images that share a point, and measures.
Everything is decided in float64 from integer counts, so that results do not depend on order, blocks or machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = [
    "Pairs",
    "Graph",
    "Coherence",
    "covisibility",
    "overlaps",
    "neighbours",
    "shared_points",
    "links",
    "coherence",
    "coherences",
]

LINKED = 0.1  # overlap from which two frames of a sequence count as linked
_BLOCK_ENTRIES = 1 << 22  # counts held at once while the product is formed: about 50 MB
_DENSE_FRAMES = 4096  # up to here the counts of a scene fit a square matrix (64 MB)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Unordered pairs of images that share at least one point: a < b, sorted by (a, b)."""

    a: np.ndarray  # int32 [k]
    b: np.ndarray  # int32 [k]
    shared: np.ndarray  # int32 [k], distinct points that both see
    num_points: np.ndarray  # int32 [n], distinct points of each image


@dataclass(frozen=True, eq=False)
class Graph:
    """The pairs from both sides: the neighbours of image i are other[indptr[i] : indptr[i + 1]], in rising order."""

    indptr: np.ndarray  # int64 [n + 1]
    other: np.ndarray  # int32 [2k]
    shared: np.ndarray  # int32 [2k]
    pair: np.ndarray  # int64 [2k], row of the pair
    num_points: np.ndarray  # int32 [n]

    @property
    def row(self) -> np.ndarray:
        """The image whose neighbour each entry is, int64 [2k]."""
        return np.repeat(np.arange(len(self.num_points), dtype=np.int64), np.diff(self.indptr))


@dataclass(frozen=True)
class Coherence:
    """How well the distinct frames of a sequence hang together; None for fewer than two of them."""

    mean_overlap: float | None  # mean of overlap a->b over ordered pairs
    density: float | None  # share of ordered pairs with an overlap of at least 0.1
    components: int  # connected parts where such pairs, either way round, are links


def covisibility(
    num_images: int, image_of: np.ndarray, point_of: np.ndarray, *, block_rows: int | None = None
) -> Pairs:
    """Count the points that each two images share, from observations (image, point), int [m] each.

    An observation that occurs twice counts once; points may have any numbers. The counts are the product of the
    images x points matrix with its transpose, formed `block_rows` images at a time so that memory stays bounded.
    """
    from scipy.sparse import csr_array

    _, point = np.unique(np.asarray(point_of), return_inverse=True)
    image = np.asarray(image_of, dtype=np.int64)
    if len(image) and not 0 <= int(image.min()) <= int(image.max()) < num_images:
        raise ValueError(f"an observation names an image outside 0 .. {num_images - 1}")
    shape = (num_images, int(point.max()) + 1 if len(point) else 1)
    sees = csr_array((np.ones(len(image), dtype=np.int32), (image, point)), shape=shape)
    sees.sum_duplicates()
    sees.data[:] = 1
    num_points = np.diff(sees.indptr).astype(np.int32)
    step = block_rows or max(1, _BLOCK_ENTRIES // max(num_images, 1))
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in range(0, num_images, step):
        # pairs with a lower image were counted in an earlier block; only the block is transposed, not all the rest
        block = (sees[start:] @ sees[start : start + step].T).tocoo()
        a, b = block.col.astype(np.int32), block.row.astype(np.int32)
        upper = a < b
        a, b, shared = a[upper], b[upper], block.data[upper]
        order = np.lexsort((b, a))
        parts.append((a[order] + np.int32(start), b[order] + np.int32(start), shared[order]))
    none = np.empty(0, dtype=np.int32)
    columns = (np.concatenate([none, *column]).astype(np.int32) for column in zip(*parts, strict=True))
    a, b, shared = columns if parts else (none, none, none)
    return Pairs(a, b, shared, num_points)


def overlaps(pairs: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return overlap a->b, overlap b->a and IoU of each pair, float64 [k] each.

    Overlap a->b is shared / distinct points of a (D2-Net, Dusmanu et al. 2019); IoU is shared / union.
    """
    shared = pairs.shared.astype(np.float64)
    num_a, num_b = (pairs.num_points[side].astype(np.float64) for side in (pairs.a, pairs.b))
    return shared / num_a, shared / num_b, shared / (num_a + num_b - shared)


def neighbours(pairs: Pairs) -> Graph:
    """Return the pairs from both sides, by image and then by neighbour."""
    num, count = len(pairs.num_points), len(pairs.a)
    row = np.concatenate([pairs.a, pairs.b])
    other = np.concatenate([pairs.b, pairs.a]).astype(np.int32)
    order = np.lexsort((other, row))
    indptr = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.bincount(row, minlength=num))])
    pair = order % count if count else order
    return Graph(indptr, other[order], pairs.shared[pair].astype(np.int32), pair, pairs.num_points)


def shared_points(a: np.ndarray, b: np.ndarray, graph: Graph) -> np.ndarray:
    """Look up the shared points of any pairs of images, int64 [k]; an image shares all of its points with itself."""
    a, b = np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64)
    low, end = graph.indptr[a], graph.indptr[a + 1]
    high = end
    for _ in range(int(np.max(end - low, initial=0)).bit_length()):  # binary search, all pairs in step
        middle = (low + high) // 2
        open_ = low < high
        before = open_ & (graph.other[np.where(open_, middle, 0)] < b)
        low, high = np.where(before, middle + 1, low), np.where(open_ & ~before, middle, high)
    found = np.zeros(len(a), dtype=np.int64)
    inside = np.flatnonzero(low < end)
    hit = inside[graph.other[low[inside]] == b[inside]]
    found[hit] = graph.shared[low[hit]]
    return np.where(a == b, graph.num_points[a], found)


def links(frames: np.ndarray, graph: Graph) -> np.ndarray:
    """Return the overlap of each frame of a sequence with the next, float64 [len(frames) - 1].

    A frame that is followed by itself overlaps fully if it sees anything.
    """
    frames = np.asarray(frames, dtype=np.int64)
    count = np.maximum(graph.num_points[frames[:-1]].astype(np.float64), 1.0)
    return shared_points(frames[:-1], frames[1:], graph) / count


def coherence(frames: np.ndarray, graph: Graph) -> Coherence:
    """Return mean overlap, density and connected parts of one sequence; see `coherences` for many."""
    return coherences([frames], graph)[0]


def coherences(sequences: Iterable[np.ndarray], graph: Graph) -> list[Coherence]:
    """Return the coherence of each sequence, over the ordered pairs of its distinct frames.

    It depends on the set of frames alone, so equal sets are measured once. The mean is a correctly rounded sum of
    row sums: the same whichever way the counts were looked up.
    """
    distinct = [np.unique(np.asarray(frames, dtype=np.int64)) for frames in sequences]
    # One matrix for all pays from a handful of sequences on; its rows are then read once a sequence.
    num = len(graph.num_points)
    dense = None
    if num <= _DENSE_FRAMES and len(distinct) > 8:
        dense = np.zeros((num, num), dtype=np.int32)
        dense[graph.row, graph.other] = graph.shared
    known: dict[bytes, Coherence] = {}
    result = []
    for frames in distinct:
        name = frames.tobytes()
        if name not in known:
            shared = _counts(frames, graph) if dense is None else dense[frames[:, None], frames[None, :]]
            known[name] = _measure(shared, graph.num_points[frames])
        result.append(known[name])
    return result


def _counts(frames: np.ndarray, graph: Graph) -> np.ndarray:
    """Return the shared points between distinct frames, int32 [f, f], from the neighbour lists."""
    local = np.full(len(graph.num_points), -1, dtype=np.int64)
    local[frames] = np.arange(len(frames))
    shared = np.zeros((len(frames), len(frames)), dtype=np.int32)
    for at, frame in enumerate(frames.tolist()):
        entries = slice(graph.indptr[frame], graph.indptr[frame + 1])
        column = local[graph.other[entries]]
        shared[at, column[column >= 0]] = graph.shared[entries][column >= 0]
    return shared


def _measure(shared: np.ndarray, num_points: np.ndarray) -> Coherence:
    num = len(shared)
    if num < 2:
        return Coherence(None, None, num)
    count = np.maximum(num_points.astype(np.float64), 1.0)  # an image without points shares none: 0 / 1
    num_pairs = num * (num - 1)
    mean = math.fsum((shared.sum(axis=1, dtype=np.int64) / count).tolist()) / num_pairs
    linked = shared / count[:, None] >= LINKED
    return Coherence(mean, int(np.count_nonzero(linked)) / num_pairs, _components(linked | linked.T))


def _components(linked: np.ndarray) -> int:
    """Count the connected parts of a symmetric relation, bool [f, f], growing one part after another."""
    unseen = np.ones(len(linked), dtype=bool)
    parts = 0
    while unseen.any():
        parts += 1
        fringe = np.flatnonzero(unseen)[:1]
        while len(fringe):
            unseen[fringe] = False
            fringe = np.flatnonzero(linked[fringe].any(axis=0) & unseen)
    return parts
