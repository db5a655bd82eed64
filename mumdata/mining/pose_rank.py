"""The rule `pose-rank`: a frame and those taken from the nearest places in the nearest directions.

In: a stream whose frames have cameras; tracks are not needed. Out: sequences of positions, each an anchor and its
nearest neighbours.
"""

from __future__ import annotations

import numpy as np

from mumdata.geometry import acos_deg
from mumdata.mining.growth import ANCHOR_OPTIONS, from_anchors
from mumdata.mining.options import Options
from mumdata.mining.rule import Rule
from mumdata.mining.stream import Stream

__all__ = ["POSE_RANK", "pose_distances", "pose_rank"]

_RULE = "pose-rank"
_BLOCK = 1 << 13  # distances computed at once: the arrays at hand stay in a core's cache


def pose_rank(stream: Stream, options: Options) -> list[np.ndarray]:
    """Mine sequences of an anchor and the max_frames - 1 frames nearest to it (24 frames by default), nearest first.

    Distances are those of `pose_distances` (ties: the lower position), among the usable frames whose camera is known;
    others are in no sequence. Where the stream has fewer than `max_frames` such frames a sequence holds them all, where
    it has fewer than `min_frames` (default 2) there is none. A sequence is determined by its anchor and begins with
    it; for anchors, `per_scene`, `cover` and the random words (rule "pose-rank") see `from_anchors`.
    """
    frames = _posed(stream)
    if len(frames) == 0 or len(frames) < (options.min_frames or 1):
        return []
    assert stream.cam_from_world is not None
    cameras = _Cameras(stream.cam_from_world[frames])
    most = min(options.max_frames or len(frames), len(frames))
    place = {frame: at for at, frame in enumerate(frames.tolist())}
    step = max(1, _BLOCK // len(frames))
    ranked: dict[int, np.ndarray] = {}  # by number of the block: `step` anchors are ranked at once

    def grow(anchor: int, _: int) -> np.ndarray:
        if anchor not in place:
            return np.empty(0, dtype=np.int32)
        block, row = divmod(place[anchor], step)
        if block not in ranked:
            some = np.arange(block * step, min((block + 1) * step, len(frames)))
            ranked[block] = frames[_nearest(cameras, some, most)].astype(np.int32)
        return ranked[block][row]

    return from_anchors(stream, options, _RULE, grow, redraws=False)


def pose_distances(cam_from_world: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return how far the cameras `rows` are from every camera, float64 [rows, n]; cam_from_world is [n, 3, 4].

    Distance = rotation angle / 180 degrees + distance of the camera centres / the largest distance of two centres (of
    all n; 0 where the centres are one). So each term lies in 0 .. 1, and neither depends on the world's unit or origin.
    The sum of the two is what users of VGGT rank neighbours by; how they normalise the second differs.
    """
    return _Cameras(cam_from_world).distances(rows)


class _Cameras:
    """Cameras, made ready for many comparisons."""

    def __init__(self, cam_from_world: np.ndarray) -> None:
        matrix = np.asarray(cam_from_world, dtype=np.float64)
        # one contiguous row for each element, so that sums are added in one order, whatever the machine
        self.rotation = [np.ascontiguousarray(matrix[:, i, j]) for i in range(3) for j in range(3)]
        shift = [matrix[:, i, 3] for i in range(3)]
        self.centre = [
            -(self.rotation[j] * shift[0] + self.rotation[3 + j] * shift[1] + self.rotation[6 + j] * shift[2])
            for j in range(3)
        ]
        self.largest = _largest_distance(self.centre) or 1.0

    def distances(self, rows: np.ndarray) -> np.ndarray:
        """Return the distances of `rows` from every camera, float64 [rows, n]."""
        # the sum of the squared differences of the rotations' elements is 4 - 4 cos(angle). Unlike the cosine from the
        # trace it keeps small angles exact where the elements have been rounded to float32.
        angle = acos_deg(1.0 - _squared_distances(self.rotation, rows) * 0.25)
        return angle / 180.0 + np.sqrt(_squared_distances(self.centre, rows)) / self.largest


def _posed(stream: Stream) -> np.ndarray:
    """Return the positions of the usable frames whose camera is known, int64, rising."""
    frames = stream.positions
    if stream.cam_from_world is None:
        return frames[:0]
    return frames[np.isfinite(stream.cam_from_world[frames]).all(axis=(1, 2))]


def _nearest(cameras: _Cameras, anchors: np.ndarray, most: int) -> np.ndarray:
    """Return the `most` nearest cameras of each anchor, the anchor itself first, int64 [anchors, most]."""
    distance = cameras.distances(anchors)
    distance[np.arange(len(anchors)), anchors] = -1.0  # before others that stand on the same spot
    last = np.partition(distance, most - 1, axis=1)[:, most - 1]
    # `most` candidates for each anchor, or more where several are as far as the last: by anchor, then by position
    row, column = np.nonzero(distance <= last[:, None])
    best_first = np.lexsort((distance[row, column], row))
    start = np.searchsorted(row, np.arange(len(anchors)))
    return column[best_first[start[:, None] + np.arange(most)]]


def _squared_distances(columns: list[np.ndarray], rows: np.ndarray | slice) -> np.ndarray:
    """Add up the squared differences of `rows` from all, column by column, float64 [rows, n]."""
    total = np.zeros((len(columns[0][rows]), len(columns[0])))
    for column in columns:
        difference = column[rows, None] - column
        difference *= difference
        total += difference
    return total


def _largest_distance(centre: list[np.ndarray]) -> float:
    """Return the largest distance between two of the points whose coordinates are x, y, z, float64 [n] each."""
    x, y, z = (axis - 0.5 * (axis.min() + axis.max()) for axis in centre)
    reach = np.sqrt(x * x + y * y + z * z)
    outermost_first = np.argsort(-reach, kind="stable")
    reach = reach[outermost_first]
    axes = [axis[outermost_first] for axis in centre]
    largest, start = 0.0, 0
    # two points are at most as far apart as their reaches together; a little is added for the rounding of either
    while start < len(reach) and (reach[0] + reach[start]) * (1.0 + 1e-9) >= largest:
        stop = start + max(1, _BLOCK // max(start, 256))
        squared = _squared_distances([axis[:stop] for axis in axes], slice(start, stop))
        largest = max(largest, float(np.sqrt(squared.max())))
        start = stop
    return largest


def _explain(stream: Stream, options: Options) -> str:
    num, least = len(_posed(stream)), options.min_frames or 1
    if num == 0:
        return "no usable frame has a known camera"
    return f"{num} usable frame{'' if num == 1 else 's'} with a known camera, at least {least} needed"


POSE_RANK = Rule(
    pose_rank,
    _explain,
    uses=(*ANCHOR_OPTIONS, "cover", "max_frames", "min_frames"),
    needs="poses",
    links="anchor",
    min_frames=2,
    max_frames=24,
)
