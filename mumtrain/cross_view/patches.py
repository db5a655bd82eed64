"""Which hidden patches show what another view shows, and which show what no other view does.

In: the points of a sample's frames, the part of each frame that its view shows, and which patches are hidden. Out: for
each view its patches of kind (a) and of kind (b), and the band of its overlap with the others.
Shapes: V views, N patches of a view, M points of a sample.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mumtrain.cross_view.held_out import Matches

__all__ = ["BANDS", "Crop", "Points", "Split", "find_points", "overlap_bands", "split_patches"]

# bands of overlap, by the mean over the other views of the share of a view's points that they show
BANDS = ("<0.1", "0.1-0.3", "0.3-0.5", ">=0.5")
_EDGES_PERCENT = (10, 30, 50)

_FULL = 65535


class Crop(NamedTuple):
    """What a view shows: a box in shares of the stored frame's sides, turned clockwise by quarters."""

    left: float
    top: float
    width: float
    height: float
    turns: int


class Points(NamedTuple):
    """The points that lie in the views of a sample: `view` and `patch` int64 [M] say where.

    `seen` int8 [M, V] tells of each view whether it shows the point: 1 yes, 0 surely not, -1 not known or the point's
    own view. `patch_in` int32 [M, V] is the patch that shows it, -1 where none does. `looked_for` int64 [V, N] is how
    many points were looked for in each patch, 0 where that is not known.
    """

    view: np.ndarray
    patch: np.ndarray
    seen: np.ndarray
    patch_in: np.ndarray
    looked_for: np.ndarray


class Split(NamedTuple):
    """Hidden patches by what is known of them, bool [V, N] each: (a) visible elsewhere, (b) nowhere else."""

    elsewhere: np.ndarray
    nowhere: np.ndarray


def find_points(matches: Matches, crops: list[Crop], side: int, grid: int | None = None) -> Points:
    """Find the points of a sample in its first V views, of `side` x `side` patches each; `crops` is of these.

    The points of a view are those of all its rows; points at the same place are one. Those outside of the part of
    their frame that the view shows are left out; one that lies in frame b but outside of what view b shows is not seen
    there. A pair of views without a row says nothing. `grid` points were looked for along the longer side of each
    frame, in the middle of cells that are about square; None where points lie as they come.
    """
    V = len(crops)
    matches = Matches(*(values[matches.view_a < V] for values in matches))
    patch = _patches(matches.view_a, matches.x_a, matches.y_a, crops, side)
    matches, patch = Matches(*(values[patch >= 0] for values in matches)), patch[patch >= 0]
    places = (matches.view_a.astype(np.int64) << 32) | (matches.x_a.astype(np.int64) << 16) | matches.y_a
    _, first, number = np.unique(places, return_index=True, return_inverse=True)
    view, patch = matches.view_a[first].astype(np.int64), patch[first]

    is_used = matches.view_b < V
    matches, number = Matches(*(values[is_used] for values in matches)), number[is_used]
    in_b = np.where(matches.seen == 1, _patches(matches.view_b, matches.x_b, matches.y_b, crops, side), -1)
    seen = np.full((len(first), V), -1, np.int8)
    patch_in = np.full((len(first), V), -1, np.int32)
    seen[number, matches.view_b] = np.where((matches.seen == 1) & (in_b < 0), 0, matches.seen)
    patch_in[number, matches.view_b] = in_b
    looked_for = np.zeros((V, side * side), np.int64) if grid is None else _looked_for(crops, side, grid)
    return Points(view, patch, seen, patch_in, looked_for)


def _looked_for(crops: list[Crop], side: int, grid: int) -> np.ndarray:
    # the number of cells of the frames' grids that have their middle in each patch, [V, N]
    found = np.zeros((len(crops), side * side), np.int64)
    for number, crop in enumerate(crops):
        # a view is square, so that its box tells the shape of the frame
        longer = max(crop.width, crop.height)
        columns, rows = (max(1, round(grid * of / longer)) for of in (crop.height, crop.width))
        x, y = (each.ravel() for each in np.meshgrid(_middles(columns), _middles(rows)))
        patch = _patches(np.full(len(x), number), x, y, crops, side)
        found[number] = np.bincount(patch[patch >= 0], minlength=side * side)
    return found


def _middles(num: int) -> np.ndarray:
    return (np.arange(num) + 0.5) / num * _FULL


def _patches(view: np.ndarray, x: np.ndarray, y: np.ndarray, crops: list[Crop], side: int) -> np.ndarray:
    # the patch of each place in its view, int64, or -1 where it lies outside
    of = np.array(crops, np.float64).reshape(-1, 5)[view]
    across, down = (x / _FULL - of[:, 0]) / of[:, 2], (y / _FULL - of[:, 1]) / of[:, 3]
    inside = (across >= 0) & (across < 1) & (down >= 0) & (down < 1)
    turns = of[:, 4].astype(np.int64) % 4
    # a clockwise quarter turn takes (x, y) to (1 - y, x)
    column = np.choose(turns, (across, 1 - down, 1 - across, down))
    row = np.choose(turns, (down, across, 1 - down, 1 - across))
    cells = [np.clip((share * side).astype(np.int64), 0, side - 1) for share in (row, column)]
    return np.where(inside, cells[0] * side + cells[1], -1)


def split_patches(points: Points, is_hidden_VN: np.ndarray) -> Split:
    """Split the hidden patches of the first V views, of which bool [V, N] says which are hidden.

    A point of a patch is known where at least one other view is known to show it or not to show it. A patch is of kind
    (a) where it has a known point and at least half of its known points are seen in a kept patch of another view, and
    of kind (b) where it has a point and all of its points are surely unseen in all other views, and these are at least
    half of the points that were looked for in it: of the rest it is not known what they show. Others are of neither.
    """
    V, N = is_hidden_VN.shape
    is_used = points.view < V
    view, patch = points.view[is_used], points.patch[is_used]
    seen, patch_in = points.seen[is_used, :V], points.patch_in[is_used, :V]
    is_other = view[:, None] != np.arange(V)
    is_kept = ~is_hidden_VN[np.arange(V), patch_in]
    known = ((seen >= 0) & is_other).any(1)
    visible = ((seen == 1) & is_kept & is_other).any(1)
    unseen = ((seen == 0) | ~is_other).all(1)

    def count(what: np.ndarray) -> np.ndarray:
        return np.bincount((view * N + patch)[what], minlength=V * N).reshape(V, N)

    num_known = count(known)
    elsewhere = (num_known > 0) & (2 * count(visible) >= num_known)
    num = count(np.ones_like(known))
    nowhere = (num > 0) & (count(unseen) == num) & (2 * num >= points.looked_for[:V]) & (V > 1)
    return Split(is_hidden_VN & elsewhere, is_hidden_VN & nowhere)


def overlap_bands(points: Points, num_views: int) -> np.ndarray:
    """Return the band of each of the first V views, int64 [V], as a number of `BANDS`.

    It is that of the mean over the other V - 1 views of the share of the view's points that are seen there; one of
    which nothing is known counts as not seen. A view without points is in the lowest band.
    """
    V = num_views
    is_used = points.view < V
    num = np.bincount(points.view[is_used], minlength=V)
    num_seen = np.bincount(points.view[is_used], (points.seen[is_used, :V] == 1).sum(1), minlength=V).astype(np.int64)
    # whole numbers: a share that is exactly an edge belongs above it
    of_all = np.maximum(num * (V - 1), 1)
    return np.array([(100 * num_seen >= edge * of_all) for edge in _EDGES_PERCENT]).sum(0)
