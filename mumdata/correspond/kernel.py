"""The loop over points: where a camera shows them, and whether something nearer hides them.

In: points in the world, a camera as `mumdata.kernels.depth` has it, and its inverse depth map in full. Out: places in
the picture, and what is known of each point. Imports numba.
"""

from __future__ import annotations

import math

import numpy as np

from mumdata.kernels import jit
from mumdata.kernels.depth import COEFFICIENTS, CX, CY, FISHEYE, FX, FY, HEIGHT, REACH, WIDTH, distort, inverse_at

__all__ = ["HIDDEN", "OUTSIDE", "SEEN", "UNKNOWN", "compare", "project"]

SEEN, HIDDEN, UNKNOWN = 1, 0, -1
OUTSIDE = HIDDEN  # behind the camera or beside its picture: as little to be seen as what something hides


@jit
def project(points: np.ndarray, pose: np.ndarray, camera: np.ndarray, places: np.ndarray) -> None:
    """Write where a camera shows points: `places` float64 [n, 3] receives x, y in pixels, and the depth.

    `points` float64 [n, 3] lie in the world, `pose` float64 [12] is cam_from_world, `camera` float64 [CAMERA_SIZE].
    What is behind the camera or outside of its picture has the depth 0 and no place.
    """
    distorts = camera[FISHEYE] != 0.0 or camera[COEFFICIENTS : COEFFICIENTS + 8].any()
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        depth = pose[8] * x + pose[9] * y + pose[10] * z + pose[11]
        places[i, 0], places[i, 1], places[i, 2] = 0.0, 0.0, 0.0
        if not depth > 0.0:
            continue
        u = (pose[0] * x + pose[1] * y + pose[2] * z + pose[3]) / depth
        v = (pose[4] * x + pose[5] * y + pose[6] * z + pose[7]) / depth
        if distorts:
            if not u * u + v * v <= camera[REACH]:
                continue
            u, v = distort(u, v, camera)
        px, py = camera[FX] * u + camera[CX], camera[FY] * v + camera[CY]
        if 0.0 <= px < camera[WIDTH] and 0.0 <= py < camera[HEIGHT]:
            places[i, 0], places[i, 1], places[i, 2] = px, py, depth


@jit
def _look(
    px: float, py: float, z: float, inverse: np.ndarray, columns: int, rows: int, column: int, row: int, limit: float
) -> int:
    """Tell what a pixel of a map shows where a point at depth z is: that point, something nearer, or neither.

    `limit` is the share of z beyond which depths differ. The same they are within half of that: a thing that is thin
    as seen from afar has a back, which is not to be taken for its front.
    """
    ratio = z * inverse_at(inverse, columns, rows, column, row, px, py)
    if not ratio > 0.0:
        return UNKNOWN
    if abs(ratio - 1.0) <= 0.5 * limit * ratio:
        return SEEN
    return HIDDEN if ratio - 1.0 > limit * ratio else UNKNOWN


@jit
def compare(
    places: np.ndarray, inverse: np.ndarray, columns: int, rows: int, tolerance: float, seen: np.ndarray
) -> None:
    """Write into `seen` int8 [n] whether a map shows points at these places: SEEN, HIDDEN or UNKNOWN.

    `places` are those of `project`, `inverse` float32 [rows * columns] is one over the depth, 0 where it is not known.
    Certain where it says something: a point is seen where the pixel that it falls on shows its depth and none of the
    four pixels round it anything nearer; it is hidden where all nine pixels round it show something nearer.
    """
    for i in range(len(places)):
        px, py, z = places[i, 0] - 0.5, places[i, 1] - 0.5, places[i, 2]
        if not z > 0.0:
            seen[i] = OUTSIDE
            continue
        column = min(max(math.floor(px + 0.5), 0), columns - 1)
        row = min(max(math.floor(py + 0.5), 0), rows - 1)
        here = _look(px, py, z, inverse, columns, rows, column, row, tolerance)
        left, top = math.floor(px), math.floor(py)
        for y in range(row - 1, row + 2):
            for x in range(column - 1, column + 2):
                if here == UNKNOWN or not (0 <= x < columns and 0 <= y < rows):
                    continue
                other = _look(px, py, z, inverse, columns, rows, x, y, tolerance)
                round_it = left <= x <= left + 1 and top <= y <= top + 1
                if (here == HIDDEN and other != HIDDEN) or (here == SEEN and other == HIDDEN and round_it):
                    here = UNKNOWN
        seen[i] = here
