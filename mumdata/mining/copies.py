"""Copies: frames of a stream that hold one and the same photo, uploaded, renamed, compressed or cropped again.

In: what the frames share, and where they were taken from. Out: for each frame the one that it is a copy of.
"""

from __future__ import annotations

import numpy as np

from mumdata.covisibility import Pairs, overlaps
from mumdata.geometry import cos_deg

__all__ = ["copies"]

_SAME_IOU = 0.9  # above it two frames show the same pixels: measured, different photos do not get there
_SAME_ROTATION_DEG = 0.1  # where detectors found other points in a copy: its rotation is the same but for noise
_SAME_TRIANGULATION_DEG = 0.3  # what the centre of a copy strays by, seen from the points
_GROUP_ROTATION_DEG = 1.0
_GROUP_TRIANGULATION_DEG = 1.0
_LEAST_OVERLAP = 0.5  # the larger of both: a crop shares most of its points
_CENTRE_SHARE = 0.01  # of the spread of the stream's centres, where no triangulation angle is known


def copies(pairs: Pairs, cam_from_world: np.ndarray | None, usable: np.ndarray | None = None) -> np.ndarray:
    """Return for each frame the position of the frame it is a copy of, or -1; int32 [n].

    Two frames are linked if
    - the greater of their two overlaps is at least 0.5,
    - their IoU is above 0.9 and the rotation between them at most 1 degree, or the rotation at most 0.1 degrees,
    - their centres are nearly equal: the median triangulation angle is at most 0.3 degrees or, where that is not known,
      the distance at most 1 % of the stream's spread (root mean square distance of the centres from their mean).
    Frames that hang together by such links are copies of one photo only if every two of them are alike: an overlap of
    at least 0.5, a rotation of at most 1 degree, triangulation at most 1 degree (or 3 % of the spread). In a slow
    video neighbours are as close as copies are, but the frames drift apart, so that it is left whole.

    Of each group the frame with the most points stays (ties: the lower position), and the others are copies of it.
    Pairs with unknown rotation, or with neither triangulation nor centres, are none. `cam_from_world` is
    float64 [n, 3, 4]; with `usable` (bool [n]) only usable frames are copies or have any.
    """
    result = np.full(len(pairs.num_points), -1, dtype=np.int32)
    if pairs.rotation_cos is None or len(pairs.a) == 0:
        return result
    ab, ba, iou = overlaps(pairs)
    alike = (np.maximum(ab, ba) >= _LEAST_OVERLAP) & (pairs.rotation_cos >= cos_deg(_GROUP_ROTATION_DEG))
    if usable is not None:
        alike &= usable[pairs.a] & usable[pairs.b]
    at = np.flatnonzero(alike)  # few
    close = _centres_within(pairs, cam_from_world, at, cos_deg(_GROUP_TRIANGULATION_DEG), 3.0 * _CENTRE_SHARE)
    at = at[close]
    linked = _centres_within(pairs, cam_from_world, at, cos_deg(_SAME_TRIANGULATION_DEG), _CENTRE_SHARE)
    linked &= (iou[at] > _SAME_IOU) | (pairs.rotation_cos[at] >= cos_deg(_SAME_ROTATION_DEG))
    if linked.any():
        _mark(result, pairs, at, at[linked])
    return result


def _centres_within(
    pairs: Pairs, cam_from_world: np.ndarray | None, at: np.ndarray, least_cos: float, share: float
) -> np.ndarray:
    """Tell which of the pairs `at` have nearly the same centre, by angle or else by distance, bool [len(at)]."""
    angle = np.full(len(at), np.nan) if pairs.triangulation_cos is None else pairs.triangulation_cos[at]
    near = np.zeros(len(at), dtype=bool)
    if cam_from_world is not None and np.isnan(angle).any():
        known = np.isfinite(cam_from_world).all(axis=(1, 2))
        centre = _centres(np.where(known[:, None, None], cam_from_world, np.nan))
        offset = centre[pairs.a[at]] - centre[pairs.b[at]]
        near = _squared(offset) <= share * share * _spread(centre[known])
    return np.where(np.isnan(angle), near, angle >= least_cos)


def _centres(cam_from_world: np.ndarray) -> np.ndarray:
    """Return the centres -R^T t, float64 [n, 3], added in a fixed order."""
    r, t = cam_from_world[:, :, :3], cam_from_world[:, :, 3]
    return -(r[:, 0] * t[:, 0, None] + r[:, 1] * t[:, 1, None] + r[:, 2] * t[:, 2, None])


def _spread(centre: np.ndarray) -> float:
    """Return the mean squared distance from the mean; sums run in order (cumsum), so every machine rounds alike."""
    if len(centre) == 0:
        return 0.0
    mean = np.cumsum(centre, axis=0)[-1] / len(centre)
    return float(np.cumsum(_squared(centre - mean))[-1]) / len(centre)


def _squared(offset: np.ndarray) -> np.ndarray:
    x, y, z = offset.T
    result: np.ndarray = x * x + y * y + z * z
    return result


def _mark(result: np.ndarray, pairs: Pairs, alike: np.ndarray, linked: np.ndarray) -> None:
    """Write the copies into `result`, given the rows of pairs that are alike and of those that are linked."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    num = len(result)
    ones = np.ones(len(linked), dtype=np.int8)
    graph = coo_array((ones, (pairs.a[linked], pairs.b[linked])), shape=(num, num))
    num_groups, group = connected_components(graph, directed=False)
    size = np.bincount(group, minlength=num_groups)
    within = alike[group[pairs.a[alike]] == group[pairs.b[alike]]]
    num_alike = np.bincount(group[pairs.a[within]], minlength=num_groups)
    whole = (size > 1) & (num_alike == size * (size - 1) // 2)
    member = np.flatnonzero(whole[group])
    best_first = member[np.lexsort((member, -pairs.num_points[member].astype(np.int64), group[member]))]
    first = np.concatenate([np.ones(1, dtype=bool), group[best_first][1:] != group[best_first][:-1]])[: len(best_first)]
    kept = best_first[first][np.cumsum(first) - 1]
    result[best_first[~first]] = kept[~first]
