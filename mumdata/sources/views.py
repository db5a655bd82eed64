"""Overlap of frames whose depth is known: samples of one are looked for in the other.

In: cameras, and a function that gives the depth map of a frame. Out: pairs with overlaps, and notes on frames that
could not be used.

The definition. A frame's picture is divided into cells, `grid` along its longer side; at the pixel in the middle of a
cell, where the depth is known, lies a sample: a point in the world. Another frame sees a sample that lies in front of
it, inside its picture, and at a depth from which its own depth map differs by at most `tolerance` of that depth.
Overlap a->b is the share of a's samples that b sees. What something nearer hides does not count, nor does what falls
where b knows no depth. Two frames are a pair where either sees a sample of the other.

What `tolerance` is right depends on the depth. Too large a one counts what lies closely behind something as seen, such
as the other side of a wall; too small a one loses what differs by noise. On rendered scenes with exact depth 1 % keeps
overlaps within about 0.03 of the truth, while 5 % exceeds it by up to 0.04 indoors, and by 0.1 and more in photos from
afar. With noise of 1 % a pixel, 5 % costs nothing, and 1 % a third of all overlap.

Depth maps are compared at a coarser resolution, every n-th pixel, so that at most 256 are left of the longer side:
about 200 KB a frame. Each map is decoded once. Of an ordered stream those of the last `window` frames are held, else
all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mumdata import geometry
from mumdata.covisibility import Pairs
from mumdata.datasets import Cameras
from mumdata.errors import MumError
from mumdata.sources.depth_files import DepthMap
from mumdata.sources.lens import Lens, lens_of
from mumdata.sources.source import SourceOptions

__all__ = ["MAP_SIDE", "View", "compare", "map_rays", "view_of", "along_axis", "inverse_map", "middles", "reach"]

MAP_SIDE = 256  # pixels along the longer side of the maps that are compared, at most


@dataclass(frozen=True)
class View:
    """A frame's camera: the size (width, height) of a picture, fx, fy, cx, cy in its pixels, and the lens."""

    size: tuple[int, int]
    intrinsics: tuple[float, float, float, float]
    lens: Lens

    def resized(self, size: tuple[int, int]) -> View:
        """Return the same view in a picture of another size."""
        fx, fy, cx, cy = geometry.scale_intrinsics(np.array(self.intrinsics), self.size, size).tolist()
        return View(size, (fx, fy, cx, cy), self.lens)

    def rays(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return u = x / z and v = y / z, shaped like x and y, of what pixels look at; NaN as in `Lens.rays`."""
        fx, fy, cx, cy = self.intrinsics
        return self.lens.rays((x - cx) / fx, (y - cy) / fy)


def view_of(cameras: Cameras, row: int) -> View | None:
    """Return the view of a frame; None where its pose, size or intrinsics are not known. ModelError as `lens_of`."""
    width, height = (int(length) for length in cameras.size[row])
    fx, fy, cx, cy = (float(value) for value in cameras.intrinsics[row])
    numbers = (fx, fy, cx, cy, *cameras.cam_from_world[row].ravel().tolist())
    if min(width, height) < 1 or not np.isfinite(numbers).all() or min(fx, fy) <= 0:
        return None
    return View((width, height), (fx, fy, cx, cy), lens_of(cameras.model[row], cameras.distortion[row]))


def compare(
    cameras: Cameras,
    depth_of: Callable[[int, View], DepthMap | None],
    options: SourceOptions,
    *,
    source: str,
    tolerance: float,
    ordered: bool = False,
    prune: bool = True,
) -> tuple[Pairs, tuple[str, ...]]:
    """Return the pairs of frames that see each other's samples, and why frames were left out.

    `depth_of` gives the depth map of a frame, or None where it has none; a MumError of it leaves that frame without
    pairs and is noted, and is raised where it is all that was found. `tolerance` is used where the options have none.
    `ordered` frames are compared `options.window` apart at most. Without `prune` all samples are projected, also those
    that cannot fall into the other view; the result is the same.
    """
    # numba takes a moment to load
    from mumdata.kernels.depth import count_seen

    if options.tolerance is not None:
        tolerance = options.tolerance
    num = len(cameras.cam_from_world)
    span = min(options.window, max(num - 1, 1)) if ordered else max(num - 1, 1)
    slots = _Slots(span + 1, options.grid)
    held = np.full(span + 1, -1, np.int64)  # the frame in each slot
    num_samples = np.zeros(num, np.int64)
    found: list[np.ndarray] = []
    errors: list[MumError] = []
    for frame in range(num):
        slot = frame % (span + 1)
        held[slot] = -1
        try:
            view = view_of(cameras, frame)
            depth = depth_of(frame, view) if view is not None else None
        except MumError as error:
            errors.append(error)
            continue
        if view is None or depth is None:
            continue
        num_samples[frame] = slots.put(slot, view, cameras.cam_from_world[frame], depth)
        if not num_samples[frame]:
            continue
        others = np.flatnonzero(held >= 0)
        held[slot] = frame
        seen = np.zeros((len(others), 2), np.int64)
        count_seen(slot, others, *slots.arrays, tolerance, prune, seen)
        rows = np.flatnonzero(seen.any(axis=1))
        found.append(np.column_stack([held[others[rows]], np.full(len(rows), frame), seen[rows]]))
    if errors and not num_samples.any():
        raise errors[0]
    pairs = _pairs(found, num_samples, cameras.cam_from_world, source)
    notes = (f"frames without overlaps: {len(errors)}, the first of them since {errors[0]}",) if errors else ()
    return pairs, notes


def _pairs(found: list[np.ndarray], num_samples: np.ndarray, cam_from_world: np.ndarray, source: str) -> Pairs:
    # rows of (a, b, samples of a that b sees, samples of b that a sees)
    table = np.concatenate([np.zeros((0, 4), np.int64), *found])
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    a, b = table[:, 0].astype(np.int32), table[:, 1].astype(np.int32)
    return Pairs(
        a,
        b,
        np.zeros(len(num_samples), np.int32),
        overlap_ab=(table[:, 2] / num_samples[a]).astype(np.float32),
        overlap_ba=(table[:, 3] / num_samples[b]).astype(np.float32),
        rotation_cos=geometry.rotation_cos(cam_from_world, a, b),
        axis_cos=geometry.axis_cos(cam_from_world, a, b),
        source=source,
    )


class _Slots:
    """What is held of frames, a slot for each: the arrays that `mumdata.kernels.depth.count_seen` takes.

    Memory that was never written to is not taken from the system.
    """

    def __init__(self, num: int, grid: int) -> None:
        from mumdata.kernels.depth import CAMERA_SIZE

        self._grid = grid
        self._points = np.zeros((num, grid * grid, 3))
        self._num_points = np.zeros(num, np.int64)
        self._boxes = np.zeros((num, 6))
        self._poses = np.zeros((num, 12))
        self._cameras = np.zeros((num, CAMERA_SIZE))
        self._maps = np.zeros((num, MAP_SIDE * MAP_SIDE), np.float32)
        self._sizes = np.zeros((num, 2), np.int64)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return (
            *(self._points, self._num_points, self._boxes, self._poses, self._cameras),
            *(self._maps, self._sizes),
        )

    def put(self, slot: int, view: View, cam_from_world: np.ndarray, depth: DepthMap) -> int:
        """Put a frame into a slot; return the number of its samples."""
        height, width = depth.values.shape
        view = view.resized((width, height))
        points = _world_points(view, cam_from_world, depth, self._grid)
        num = len(points)
        self._num_points[slot] = num
        if not num:
            return 0
        self._points[slot, :num] = points
        self._boxes[slot] = np.concatenate([points.min(axis=0), points.max(axis=0)])
        self._poses[slot] = cam_from_world.ravel()
        step = -(-max(width, height) // MAP_SIDE)
        inverse = inverse_map(view, depth, step)
        self._maps[slot, : inverse.size] = inverse.ravel()
        self._sizes[slot] = inverse.shape[::-1]
        lens = view.lens
        self._cameras[slot] = (
            *(*view.intrinsics, width, height, step // 2 + 0.5, step, reach(view)),
            *(float(lens.is_fisheye), *lens.k),
        )
        return num


def _world_points(view: View, cam_from_world: np.ndarray, depth: DepthMap, grid: int) -> np.ndarray:
    """Return the samples of a frame whose depth is known, float64 [n, 3]."""
    width, height = view.size
    long = max(width, height)
    num = min(grid, long)
    columns, rows = (middles(length, max(1, (2 * num * length + long) // (2 * long))) for length in (width, height))
    column, row = (each.ravel() for each in np.meshgrid(columns, rows))
    u, v = view.rays(column + 0.5, row + 0.5)
    z = along_axis(depth, (row, column), u, v)
    known = np.flatnonzero((z > 0) & np.isfinite(u) & np.isfinite(v))
    z = z[known]
    r, t = cam_from_world[:, :3], cam_from_world[:, 3]
    x, y, z = u[known] * z - t[0], v[known] * z - t[1], z - t[2]
    return np.stack([r[0, i] * x + r[1, i] * y + r[2, i] * z for i in range(3)], axis=1)


def middles(length: int, num: int) -> np.ndarray:
    """Return the pixels in the middle of `num` cells, int64 [num]; of two as near, one or the other by turns."""
    k = np.arange(num)
    twice = (2 * k + 1) * length
    return twice // (2 * num) - ((twice % (2 * num) == 0) & (k % 2 == 1))


def along_axis(depth: DepthMap, at: Any, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the depth along the axis at some pixels, float64, 0 where it is not known.

    `at` indexes the map's rows and columns; u, v are the rays of these pixels, looked at where the map has distances.
    """
    z = depth.values[at].astype(np.float64) * depth.scale
    if depth.is_distance:
        z = z / np.sqrt(1.0 + u * u + v * v)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(z) & (z > 0)
    if depth.mask is not None:
        known &= depth.mask[at]
    return np.where(known, z, 0.0)


def inverse_map(view: View, depth: DepthMap, step: int) -> np.ndarray:
    """Return one over the depth at every `step`-th pixel, from the middle of the first cell; float32, 0 for unknown."""
    every = slice(step // 2, None, step)
    u, v = map_rays(view, step) if depth.is_distance else (np.zeros(0), np.zeros(0))
    z = along_axis(depth, (every, every), u, v)
    return np.divide(1.0, z, out=np.zeros_like(z), where=z > 0).astype(np.float32)


@functools.lru_cache(maxsize=2)
def map_rays(view: View, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rays of every `step`-th pixel, float64 [rows, columns] each; frames of one camera share them."""
    width, height = view.size
    x, y = np.meshgrid(np.arange(step // 2, width, step) + 0.5, np.arange(step // 2, height, step) + 0.5)
    return view.rays(x, y)


@functools.lru_cache(maxsize=64)
def reach(view: View) -> float:
    """Return the largest u * u + v * v that the picture shows.

    What lies beyond may still be mapped into the picture by the formulas of a lens, which hold up to there alone. Zero
    where the lens shows nothing.
    """
    if not view.lens.is_fisheye and not any(view.lens.k):
        return np.inf
    width, height = view.size
    at = np.arange(65) / 64.0
    x, y = (each.ravel() for each in np.meshgrid(at * width, at * height))
    u, v = view.rays(x, y)
    return float(np.nanmax(np.nan_to_num(u * u + v * v), initial=0.0)) * (1.0 + 1e-9)
