"""Where what one frame shows lies in another, by depth maps or by tracks.

In: a stream, and the rows of a sample's frames in it. Out: for every ordered pair of them the places of points in both
frames, in 1/65535 of width and height, and whether the second frame shows them.

By depth: the points are what frame a shows in the middle of the cells of a regular grid, where its depth is known. By
tracks: the points of the model that a observes, where they project to, of each cell of the grid the one nearest to the
cell's middle. That another frame does not observe such a point says nothing, as long as the point lies in its picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mumdata.correspond.draw import DEPTH
from mumdata.datasets import Stream
from mumdata.errors import ModelError
from mumdata.sources.depth import TOLERANCES
from mumdata.sources.depth_files import DepthMap, read_depth
from mumdata.sources.views import View, along_axis, inverse_map, middles, reach, view_of
from mumdata.tree import Tree

__all__ = ["PairPoints", "measure"]

_WHOLE = 65535  # the width or height of a frame, in the unit of places


@dataclass(frozen=True, eq=False)
class PairPoints:
    """Points of view `a` of a sample, and what view `b` shows of them.

    `place_a`, `place_b` uint16 [points, 2], x and y; `seen` int8 [points].
    """

    a: int
    b: int
    place_a: np.ndarray
    place_b: np.ndarray
    seen: np.ndarray


@dataclass(frozen=True, eq=False)
class _Frame:
    """A frame of a sample: its camera, its points in the world float64 [n, 3], and where it shows them.

    `inverse` float32 [height * width] of the view's size is one over its depth; `ids` are the points' rows in the
    model, `observed` the rows of all that it observes.
    """

    view: View
    pose: np.ndarray
    camera: np.ndarray
    points: np.ndarray
    places: np.ndarray
    inverse: np.ndarray | None = None
    ids: np.ndarray | None = None
    observed: np.ndarray | None = None


def measure(tree: Tree, stream: Stream, rows: list[int], source: str, grid: int) -> list[PairPoints]:
    """Compare the frames `rows` of a stream with each other; all ordered pairs, sorted.

    Raises MumError where a depth map cannot be read, a camera is not known, or no frame has a point.
    """
    if source == DEPTH and stream.depth is not None:
        frames = [_by_depth(tree, stream, row, grid) for row in rows]
        tolerance = TOLERANCES[stream.depth.form]
    else:
        frames, tolerance = [_by_tracks(stream, row, grid) for row in rows], 0.0
    if not any(len(frame.points) for frame in frames):
        raise ModelError("no depth is known of its frames" if source == DEPTH else "no point projects into its frames")
    return [
        _pair(a, b, first, second, tolerance)
        for a, first in enumerate(frames)
        for b, second in enumerate(frames)
        if a != b
    ]


def _pair(a: int, b: int, first: _Frame, second: _Frame, tolerance: float) -> PairPoints:
    # numba takes a moment to load
    from mumdata.correspond import kernel

    places = _projected(first.points, second.view, second.pose, second.camera)
    seen = np.empty(len(places), np.int8)
    if second.inverse is not None:
        kernel.compare(places, second.inverse, *second.view.size, tolerance, seen)
    else:
        assert first.ids is not None
        assert second.observed is not None
        observed = np.isin(first.ids, second.observed)
        inside = places[:, 2] > 0.0
        # an observation that does not project into the picture is one of the model's errors
        seen[:] = np.where(observed & inside, kernel.SEEN, kernel.UNKNOWN)
        seen[~observed & ~inside] = kernel.OUTSIDE
    return PairPoints(a, b, _shares(first.places, first.view), _shares(places, second.view), seen)


def _projected(points: np.ndarray, view: View, pose: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Return x, y in pixels and the depth, float64 [n, 3]; zeros for what is not in the picture."""
    from mumdata.correspond import kernel

    places = np.empty((len(points), 3))
    kernel.project(points, pose, camera, places)
    return places


def _shares(places: np.ndarray, view: View) -> np.ndarray:
    return np.floor(places[:, :2] / np.array(view.size, np.float64) * _WHOLE + 0.5).astype(np.uint16)


def _view(stream: Stream, row: int) -> View:
    assert stream.cameras is not None
    view = view_of(stream.cameras, row)
    if view is None:
        raise ModelError(f"{stream.paths[row]}: its camera is not known")
    return view


def _camera(view: View) -> np.ndarray:
    """Return the row of numbers that kernels take, for a map of as many pixels as the view."""
    return np.array([*view.intrinsics, *view.size, 0.5, 1.0, reach(view), float(view.lens.is_fisheye), *view.lens.k])


# ---- depth


def _by_depth(tree: Tree, stream: Stream, row: int, grid: int) -> _Frame:
    form, paths, cameras = stream.depth, stream.depth_paths, stream.cameras
    assert form is not None
    assert cameras is not None
    path = paths[row] if paths is not None else None
    if path is None:
        raise ModelError(f"{stream.paths[row]}: its depth map is gone")
    mask_path = form.mask_paths[row] if form.mask_paths is not None else None
    depth = read_depth(tree, form.form, path, mask_path, float(form.scale[row]) if form.scale is not None else 1.0)
    height, width = depth.values.shape
    view = _view(stream, row).resized((width, height))
    pose = cameras.cam_from_world[row]
    points, places = _grid_points(view, pose, depth, grid)
    inverse = inverse_map(view, depth, 1).ravel()
    return _Frame(view, pose.ravel(), _camera(view), points, places, inverse=inverse)


def _grid_points(view: View, cam_from_world: np.ndarray, depth: DepthMap, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what the pixels in the middle of the cells show, in the world, and their places, float64 [n, 3] each.

    Cells whose depth is not known are left out.
    """
    columns, rows = (middles(length, num) for length, num in zip(view.size, _cells(view.size, grid), strict=True))
    column, row = (each.ravel() for each in np.meshgrid(columns, rows))
    u, v = view.rays(column + 0.5, row + 0.5)
    z = along_axis(depth, (row, column), u, v)
    known = np.flatnonzero((z > 0) & np.isfinite(u) & np.isfinite(v))
    u, v, z = u[known], v[known], z[known]
    r, t = cam_from_world[:, :3], cam_from_world[:, 3]
    x, y, w = u * z - t[0], v * z - t[1], z - t[2]
    points = np.stack([r[0, i] * x + r[1, i] * y + r[2, i] * w for i in range(3)], axis=1)
    return points, np.stack([column[known] + 0.5, row[known] + 0.5, z], axis=1)


def _cells(size: tuple[int, int], grid: int) -> tuple[int, int]:
    """Return the number of cells along width and height: `grid` along the longer side, about square."""
    long = max(size)
    num = min(grid, long)
    width, height = (max(1, (2 * num * length + long) // (2 * long)) for length in size)
    return width, height


# ---- tracks


def _by_tracks(stream: Stream, row: int, grid: int) -> _Frame:
    model, rows, cameras = stream.model, stream.rows, stream.cameras
    if model is None or rows is None or cameras is None:
        raise ModelError(f"{stream.paths[row]}: neither its depth nor what it observes can be read")
    view = _view(stream, row)
    pose, camera = cameras.cam_from_world[row].ravel(), _camera(view)
    image = int(rows[row])
    end = int(np.cumsum(model.num_points, dtype=np.int64)[image])
    observed = model.point_of[end - int(model.num_points[image]) : end]
    places = _projected(model.points[observed], view, pose, camera)
    chosen = _thinned(places, view, grid)
    ids = observed[chosen]
    return _Frame(view, pose, camera, model.points[ids], places[chosen], ids=ids, observed=observed)


def _thinned(places: np.ndarray, view: View, grid: int) -> np.ndarray:
    """Return of the points in each cell of the grid the one nearest to its middle, in order of cells, int64 [n]."""
    inside = np.flatnonzero(places[:, 2] > 0.0)
    # places in units of cells
    cells = np.array(_cells(view.size, grid) if max(view.size) > 1 else (grid, grid))
    at = places[inside, :2] / np.array(view.size, np.float64) * cells
    cell = np.floor(at)
    off = at - cell - 0.5
    distance = off[:, 0] * off[:, 0] + off[:, 1] * off[:, 1]
    number = (cell[:, 1] * cells[0] + cell[:, 0]).astype(np.int64)
    order = np.lexsort((inside, distance, number))
    _, first = np.unique(number[order], return_index=True)
    chosen: np.ndarray = inside[order[first]]
    return chosen
