"""Which frames see the same 3D points: counts of shared points, angles, overlap, neighbours, coherence of sequences.

In: observations as (image, point) rows, points and cameras. Out: one row an unordered pair of images that share a
point, and measures. Everything is decided in float64 from integer counts and plain arithmetic in a fixed order, so that
results do not depend on order, blocks or machine. The inner loops are in `mumdata.kernels.covisibility`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "Pairs",
    "Graph",
    "Coherence",
    "covisibility",
    "memory_needed",
    "overlaps",
    "neighbours",
    "overlap_between",
    "links",
    "coherence",
    "coherences",
]

LINKED = 0.1  # overlap from which two frames of a sequence count as linked
_BLOCK_ENTRIES = 1 << 18  # pairs of a block of rows before they are put together: 2 MB
_MOST_OBSERVATIONS = (1 << 31) - 2  # the kernels count them in int32


@dataclass(frozen=True, eq=False)
class Pairs:
    """Unordered pairs of images that have something in common: a < b, sorted by (a, b).

    Sources that count points give `shared`, and overlaps follow from the counts; other sources give the overlaps
    themselves. NaN among the angles and ratios: not known.
    """

    a: np.ndarray  # int32 [k]
    b: np.ndarray  # int32 [k]
    num_points: np.ndarray  # int32 [n], distinct points of each image; zeros where the source has no points
    shared: np.ndarray | None = None  # int32 [k], distinct points that both see
    overlap_ab: np.ndarray | None = None  # float32 [k], for sources without counts
    overlap_ba: np.ndarray | None = None  # float32 [k]
    rotation_cos: np.ndarray | None = None  # float64 [k], cosine of the full relative rotation
    axis_cos: np.ndarray | None = None  # float64 [k], cosine between the viewing axes
    triangulation_cos: np.ndarray | None = None  # float64 [k], cosine of the median angle at the shared points
    scale_ratio: np.ndarray | None = None  # float32 [k], D2-Net's
    source: str = "tracks"
    notes: tuple[str, ...] = ()  # on frames that the source could not use


@dataclass(frozen=True, eq=False)
class Graph:
    """The pairs from both sides: the neighbours of image i are other[indptr[i] : indptr[i + 1]], in rising order."""

    indptr: np.ndarray  # int64 [n + 1]
    other: np.ndarray  # int32 [2k]
    overlap: np.ndarray  # float64 [2k], overlap of image i with the neighbour (directed)
    shared: np.ndarray | None  # int32 [2k]
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


@dataclass(frozen=True, eq=False)
class _Tracks:
    """Observations by image, and by point: the track of p is track[span[p, 0] : span[p, 1]]."""

    indptr: np.ndarray  # int64 [n + 1], image i observes point[indptr[i] : indptr[i + 1]]
    point: np.ndarray  # int32 [m], numbered in the order in which they first occur
    span: np.ndarray  # int32 [p, 2]
    track: np.ndarray  # int32 [m]
    old: np.ndarray  # int32 [p], the number that each point came with


def covisibility(
    num_images: int,
    image_of: np.ndarray,
    point_of: np.ndarray,
    *,
    points: np.ndarray | None = None,
    cam_from_world: np.ndarray | None = None,
    intrinsics: np.ndarray | None = None,
    block_rows: int | None = None,
) -> Pairs:
    """Measure what each two images share, from observations (image, point), int [m] each.

    An observation that occurs twice counts once. Observations may come in any order, quickest sorted by image and then
    point, as `mumdata.colmap.Model` has them. Without `points`, points may have any numbers; else they are rows of it.

    * Always: the points that two images share; images that share none form no pair.
    * With `cam_from_world` float64 [n, 3, 4]: cosines of the full relative rotation and between the viewing axes.
    * And with `points` float64 [p, 3] in the world: `triangulation_cos`, the cosine of the median, over the shared
      points X, of the angle between the rays X - C_a and X - C_b from the camera centres; of an even number of angles,
      the mean of the middle two. A point in one of the centres has no ray and is left out.
    * And with `intrinsics` float64 [n, 4], fx, fy, cx, cy of the whole camera image: `scale_ratio`, the lowest
      max(d_a / d_b, d_b / d_a) over the shared points, d being the depth (z in the camera) over the mean focal length
      0.5 (fx + fy) (D2-Net, Dusmanu et al. 2019). Taken over the points in front of both cameras alone: D2-Net's
      formula would let one behind a camera win with a negative ratio, or one behind both count as if it were in front.

    NaN where there is no such point, or where a pose or focal length is not known. Pairs are counted in blocks of
    rows, of at most `block_rows` images where given, and angles are held for the pairs of one image at a time; see
    `memory_needed`. ValueError for shapes, images or points that do not fit together.
    """
    from mumdata.kernels import covisibility as kernels

    if block_rows is not None and block_rows < 1:
        raise ValueError(f"block_rows is {block_rows}; it must be at least 1")
    cam_from_world, intrinsics, points = _checked(num_images, cam_from_world, intrinsics, points)
    tracks = _tracks_of(num_images, image_of, point_of, None if points is None else len(points))
    a, b, shared, most_items = _count(tracks, block_rows)
    num_points = np.diff(tracks.indptr).astype(np.int32)
    if cam_from_world is None:
        return Pairs(a, b, num_points, shared)
    rotation, axis = np.empty(len(a)), np.empty(len(a))
    kernels.camera_cosines(cam_from_world, a, b, rotation, axis)
    triangulation = scale = None
    if points is not None:
        here = points[tracks.old]
        triangulation, scale = _measure_shared(tracks, a, b, shared, here, cam_from_world, intrinsics, most_items)
    return Pairs(
        a,
        b,
        num_points,
        shared,
        rotation_cos=rotation,
        axis_cos=axis,
        triangulation_cos=triangulation,
        scale_ratio=None if intrinsics is None else scale,
    )


def memory_needed(num_images: int, num_observations: int, num_pairs_at_most: int) -> int:
    """Estimate the bytes that `covisibility` allocates at its peak, results included, arguments not.

    With points, cameras and intrinsics, where two images or more see each point. An observation: 48 for sorting them
    where they are not, later its point and its place in a track (8) and its share of the points' own arrays (18); the
    room for angles of one image's pairs (8 each) is taken to be small. A pair: 60, 40 of them results. An image: 150.
    And a block of rows.
    """
    block = 8 * max(num_images, _BLOCK_ENTRIES)
    return 48 * num_observations + 60 * num_pairs_at_most + 150 * num_images + block


def _array(values: Any, kind: Any) -> np.ndarray:
    # kernels are compiled for one kind of array: a read-only one, as Arrow gives them, would be another
    return np.require(values, kind, ["C", "A", "W"])


def _checked(
    num_images: int, cam_from_world: np.ndarray | None, intrinsics: np.ndarray | None, points: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Return float64 arrays in C order; ValueError where their shapes do not fit."""
    found = []
    for name, values, shape in (
        ("cam_from_world", cam_from_world, (num_images, 3, 4)),
        ("intrinsics", intrinsics, (num_images, 4)),
        ("points", points, (-1 if points is None else len(points), 3)),
    ):
        if values is not None and np.shape(values) != shape:
            raise ValueError(f"{name} has the shape {np.shape(values)}, not {shape}")
        found.append(None if values is None else _array(values, np.float64))
    return found[0], found[1], found[2]


def _tracks_of(num_images: int, image_of: np.ndarray, point_of: np.ndarray, num_points: int | None) -> _Tracks:
    """Check the observations and number their points; the tracks themselves are filled while pairs are counted."""
    from mumdata.kernels import covisibility as kernels

    image, point, num = _observations(num_images, np.asarray(image_of), np.asarray(point_of), num_points)
    if not kernels.is_sorted(image, point):
        keys = np.sort(image.astype(np.int64) * num + point)
        keys = keys[np.concatenate([np.ones(1, bool), keys[1:] != keys[:-1]])]
        image, point = (part.astype(np.int32) for part in np.divmod(keys, num))
    indptr = np.searchsorted(image, np.arange(num_images + 1, dtype=np.int32)).astype(np.int64)
    most = min(num, len(point))
    numbered, track = np.empty((2, len(point)), np.int32)
    old, span = np.empty(most, np.int32), np.empty((most, 2), np.int32)
    used = kernels.number_points(point, np.full(num, -1, np.int32), numbered, old, span)
    return _Tracks(indptr, numbered, span[:used], track, old[:used])


def _observations(
    num_images: int, image: np.ndarray, point: np.ndarray, num_points: int | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return images and points as int32 and a number above all points; ValueError for what is out of range."""
    if image.shape != point.shape or image.ndim != 1 or len(image) > _MOST_OBSERVATIONS:
        raise ValueError(
            f"observations must be two lists of one length, not of the shapes {image.shape}, {point.shape}"
        )
    if len(image) == 0:
        return np.empty(0, np.int32), np.empty(0, np.int32), 0
    if not 0 <= int(image.min()) <= int(image.max()) < num_images:
        raise ValueError(f"an observation names an image outside 0 .. {num_images - 1}")
    low, high = int(point.min()), int(point.max())
    if num_points is not None and not 0 <= low <= high < num_points:
        raise ValueError(f"an observation names a point outside 0 .. {num_points - 1}")
    if num_points is None and not 0 <= low <= high < 4 * len(point):  # a table by number would be larger than need be
        _, point = np.unique(point, return_inverse=True)
        high = int(point.max())
    return _array(image, np.int32), _array(point, np.int32), high + 1


def _count(tracks: _Tracks, block_rows: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Fill the tracks and count shared points, from the last block of rows to the first.

    Returns a, b, shared, int32 [k], and the sum of the counts of the row where it is largest.
    """
    from mumdata.kernels import covisibility as kernels

    num = len(tracks.indptr) - 1
    counter = np.zeros(num, np.int32)
    num_pairs, num_items = np.zeros((2, num), np.int64)
    size = max(num, min(_BLOCK_ENTRIES, num * (num - 1) // 2))
    b_block, shared_block = np.empty((2, size), np.int32)
    b_parts: list[np.ndarray] = []
    shared_parts: list[np.ndarray] = []
    row = num
    while row > 0:
        stop = 0 if block_rows is None else max(0, row - block_rows)
        row, free = kernels.count_shared(
            tracks.indptr,
            tracks.point,
            tracks.span,
            tracks.track,
            counter,
            row,
            stop,
            b_block,
            shared_block,
            num_pairs,
            num_items,
        )
        b_parts.append(b_block[free:].copy())
        shared_parts.append(shared_block[free:].copy())
    b, shared = _joined(b_parts), _joined(shared_parts)
    a = np.repeat(np.arange(num, dtype=np.int32), num_pairs)
    return a, b, shared, int(num_items.max(initial=0))


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Put blocks together, the last one first, and let go of them."""
    joined = np.concatenate([*parts[::-1], np.empty(0, np.int32)])
    parts.clear()
    return joined


def _measure_shared(
    tracks: _Tracks,
    a: np.ndarray,
    b: np.ndarray,
    shared: np.ndarray,
    points: np.ndarray,
    cam_from_world: np.ndarray,
    intrinsics: np.ndarray | None,
    most_items: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return triangulation_cos float64 [k] and scale_ratio float32 [k]; `points` [p, 3] are those of the tracks."""
    from mumdata.kernels import covisibility as kernels

    num = len(tracks.indptr) - 1
    triangulation, scale = np.empty(len(a)), np.empty(len(a), np.float32)
    half, spare = np.empty(most_items), np.empty(int(shared.max(initial=0)) + 32)
    kernels.measure_shared(
        tracks.indptr,
        tracks.point,
        tracks.span,
        tracks.track,
        points,
        _cameras(cam_from_world, intrinsics),
        np.searchsorted(a, np.arange(num + 1, dtype=np.int32)).astype(np.int64),
        b,
        shared,
        np.empty(num, np.int64),
        np.empty(num),
        half,
        half.view(np.int64),
        spare,
        spare.view(np.int64),
        triangulation,
        scale,
    )
    return triangulation, scale


def _cameras(cam_from_world: np.ndarray, intrinsics: np.ndarray | None) -> np.ndarray:
    """Return camera centres, third rows of cam_from_world, and mean focal lengths, float64 [n, 8].

    The additions are in a fixed order: no BLAS. NaN where there is no focal length.
    """
    rotation, translation = cam_from_world[:, :, :3], cam_from_world[:, :, 3]
    cameras = np.full((len(cam_from_world), 8), np.nan)
    cameras[:, 3:7] = cam_from_world[:, 2]
    with np.errstate(over="ignore", invalid="ignore"):  # absurd numbers give infinities, which the kernels leave out
        for axis in range(3):
            column = rotation[:, :, axis] * translation
            cameras[:, axis] = 0.0 - (column[:, 0] + column[:, 1] + column[:, 2])
        if intrinsics is not None:
            focal = 0.5 * (intrinsics[:, 0] + intrinsics[:, 1])
            cameras[:, 7] = np.where((focal > 0.0) & (focal < np.inf), focal, np.nan)
    return cameras


def overlaps(pairs: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return overlap a->b, overlap b->a and IoU of each pair, float64 [k] each.

    Overlap a->b is shared / distinct points of a (D2-Net, Dusmanu et al. 2019); IoU is shared / union. Where the source
    gives overlaps and no counts, the IoU is 1 / (1 / ab + 1 / ba - 1), which is the same of the same shared content.
    """
    if pairs.shared is not None:
        shared = pairs.shared.astype(np.float64)
        num_a, num_b = (pairs.num_points[side].astype(np.float64) for side in (pairs.a, pairs.b))
        return shared / num_a, shared / num_b, shared / (num_a + num_b - shared)
    assert pairs.overlap_ab is not None
    assert pairs.overlap_ba is not None
    ab, ba = pairs.overlap_ab.astype(np.float64), pairs.overlap_ba.astype(np.float64)
    both = (ab > 0) & (ba > 0)
    safe_ab, safe_ba = np.where(both, ab, 1.0), np.where(both, ba, 1.0)
    return ab, ba, np.where(both, 1.0 / (1.0 / safe_ab + 1.0 / safe_ba - 1.0), 0.0)


def neighbours(pairs: Pairs) -> Graph:
    """Return the pairs from both sides, by image and then by neighbour.

    ValueError where they are not sorted, hold a pair twice, or name images that are not there.
    """
    from mumdata.kernels import covisibility as kernels

    num, count = len(pairs.num_points), len(pairs.a)
    a, b = _array(pairs.a, np.int32), _array(pairs.b, np.int32)
    if count and not (int(a.min()) >= 0 and int(b.max()) < num):
        raise ValueError(f"a pair names an image outside 0 .. {num - 1}")
    ab, ba, _ = overlaps(pairs)
    indptr = np.zeros(num + 1, np.int64)
    other, overlap, pair = np.empty(2 * count, np.int32), np.empty(2 * count), np.empty(2 * count, np.int64)
    if not kernels.two_sides(a, b, ab, ba, indptr, np.empty(num, np.int64), other, overlap, pair):
        raise ValueError("pairs must have a < b and be sorted by (a, b), each once")
    shared = None if pairs.shared is None else pairs.shared[pair].astype(np.int32, copy=False)
    return Graph(indptr, other, overlap, shared, pair, _array(pairs.num_points, np.int32))


def overlap_between(a: np.ndarray, b: np.ndarray, graph: Graph) -> np.ndarray:
    """Look up the overlap a->b of any pairs of images, float64 [k]; what sees anything overlaps itself fully.

    IndexError for images that are not there.
    """
    from mumdata.kernels import covisibility as kernels

    a, b = _array(a, np.int64), _array(b, np.int64)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} images cannot be paired with {len(b)}")
    _refuse_strangers(a, graph)
    _refuse_strangers(b, graph)
    found = np.empty(len(a))
    kernels.look_up(a, b, graph.indptr, graph.other, graph.overlap, graph.num_points, found)
    return found


def _refuse_strangers(images: np.ndarray, graph: Graph) -> None:
    if len(images) and not 0 <= int(images.min()) <= int(images.max()) < len(graph.num_points):
        raise IndexError(f"an image is named outside 0 .. {len(graph.num_points) - 1}")


def links(frames: np.ndarray, graph: Graph) -> np.ndarray:
    """Return the overlap of each frame of a sequence with the next, float64 [len(frames) - 1]."""
    frames = np.asarray(frames, dtype=np.int64)
    return overlap_between(frames[:-1], frames[1:], graph)


def coherence(frames: np.ndarray, graph: Graph) -> Coherence:
    """Return mean overlap, density and connected parts of one sequence; see `coherences` for many."""
    return coherences([frames], graph)[0]


def coherences(sequences: Iterable[np.ndarray], graph: Graph) -> list[Coherence]:
    """Return the coherence of each sequence, over the ordered pairs of its distinct frames.

    It depends on the set of frames alone, so equal sets are measured once. IndexError for frames that are not there.
    """
    sets: dict[bytes, int] = {}  # a set of frames -> its place among the different ones
    different: list[np.ndarray] = []
    place = []
    for frames in sequences:
        distinct = np.unique(np.asarray(frames, np.int64))
        name = distinct.tobytes()
        if name not in sets:
            sets[name] = len(different)
            different.append(distinct)
        place.append(sets[name])
    measured = _measure(different, graph)
    return [measured[at] for at in place]


def _measure(sets: list[np.ndarray], graph: Graph) -> list[Coherence]:
    """Return the coherence of each set of frames, int64 [f], rising."""
    from mumdata.kernels import covisibility as kernels

    frames = np.concatenate([np.empty(0, np.int64), *sets])
    _refuse_strangers(frames, graph)
    num, num_sets = len(graph.num_points), len(sets)
    sizes = np.fromiter(map(len, sets), np.int64, num_sets)
    total, num_linked, num_parts = np.zeros(num_sets), np.zeros(num_sets, np.int64), sizes.copy()
    kernels.measure_sequences(
        graph.indptr,
        graph.other,
        graph.overlap,
        np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
        frames.astype(np.int32),
        LINKED,
        np.zeros(num),
        np.full(num, -1, np.int64),
        *np.empty((3, len(frames)), np.int64),
        total,
        num_linked,
        num_parts,
    )
    result = []
    for size, overlap, linked, parts in zip(
        sizes.tolist(), total.tolist(), num_linked.tolist(), num_parts.tolist(), strict=True
    ):
        num_pairs = size * (size - 1)
        mean, density = (overlap / num_pairs, linked / num_pairs) if size > 1 else (None, None)
        result.append(Coherence(mean, density, parts))
    return result
