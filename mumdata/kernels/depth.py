"""Which sampled points of one frame another frame sees: projection into it, and comparison with its depth map.

In: points, boxes, poses, cameras and inverse depth maps of frames, one slot a frame. Out: counts of seen points.
"""

from __future__ import annotations

import math

import numpy as np

from mumdata.kernels import jit

__all__ = ["CAMERA_SIZE", "arctan", "count_seen", "distort", "inverse_at"]

# What the row of a camera, float64 [CAMERA_SIZE], holds: fx, fy, cx, cy in pixels of the full depth map; its width and
# height; the centre of the first pixel kept of it (in both directions), and how many pixels lie from one to the next;
# the largest u * u + v * v that the lens shows; 1 for a fisheye lens, else 0; and eight coefficients of distortion, as
# `mumdata.sources.lens.Lens` has them.
FX, FY, CX, CY, WIDTH, HEIGHT, FIRST, STEP, REACH, FISHEYE, COEFFICIENTS = range(11)
CAMERA_SIZE = COEFFICIENTS + 8

# bounds of rounding errors, as a share of the numbers that were added
_SLACK = 1e-12


@jit
def arctan(x: float) -> float:
    """Return the arc tangent of x >= 0 within 1e-15: its angle is halved three times, then the series is summed.

    Plain arithmetic and square roots, so that the last bit is the same on every machine.
    """
    for _ in range(3):
        x = x / (1.0 + math.sqrt(1.0 + x * x))
    square = x * x  # at most 0.0097: ten terms are exact
    total = 0.0
    for n in range(19, 0, -2):
        total = 1.0 / n - square * total
    return 8.0 * x * total


@jit
def _may_see(box: np.ndarray, pose: np.ndarray, camera: np.ndarray) -> bool:
    """Tell whether any point of a box (lowest, then highest x, y, z) may lie in the camera's view.

    The box is compared with the planes that bound the view, each a x + b y + c z >= 0 in the camera's axes. Never false
    where a point of the box is seen: what rounding may lose is allowed for.
    """
    reach = math.sqrt(camera[REACH])
    left, right = max(-camera[CX] / camera[FX], -reach), min((camera[WIDTH] - camera[CX]) / camera[FX], reach)
    top, bottom = max(-camera[CY] / camera[FY], -reach), min((camera[HEIGHT] - camera[CY]) / camera[FY], reach)
    if camera[FISHEYE] != 0.0 or camera[COEFFICIENTS : COEFFICIENTS + 8].any():
        # a pixel's ray is not that of a pinhole camera: the reach alone bounds it
        left, right, top, bottom = -reach, reach, -reach, reach
    for plane in range(5):  # the last: in front
        a, b, c = 0.0, 0.0, 1.0
        if plane == 0:
            a, c = 1.0, -left
        elif plane == 1:
            a, c = -1.0, right
        elif plane == 2:
            b, c = 1.0, -top
        elif plane == 3:
            b, c = -1.0, bottom
        if not math.isfinite(c):
            continue
        highest = a * pose[3] + b * pose[7] + c * pose[11]
        scale = abs(a * pose[3]) + abs(b * pose[7]) + abs(c * pose[11])
        for axis in range(3):
            slope = a * pose[axis] + b * pose[4 + axis] + c * pose[8 + axis]
            highest += max(slope * box[axis], slope * box[3 + axis])
            size = abs(a * pose[axis]) + abs(b * pose[4 + axis]) + abs(c * pose[8 + axis])
            scale += size * max(abs(box[axis]), abs(box[3 + axis]))
        if highest < -_SLACK * scale:
            return False
    return True


@jit
def _slope(here: float, before: float, after: float) -> float:
    """Return how inverse depth changes from pixel to pixel on the surface that a pixel shows.

    Of the differences to the two neighbours the smaller counts, and none where they go opposite ways: beyond an edge
    the neighbour shows something else, and a thin thing has nothing of itself on either side. 0 stands for unknown.
    """
    if not before > 0.0:
        return after - here if after > 0.0 else 0.0
    down, up = here - before, after - here
    if not after > 0.0:
        return down
    if down * up <= 0.0:
        return 0.0
    return down if abs(down) < abs(up) else up


@jit
def inverse_at(inverse: np.ndarray, columns: int, rows: int, column: int, row: int, px: float, py: float) -> float:
    """Return the inverse depth at a place in the picture of the surface that a pixel shows; 0 where it is unknown.

    On a plane inverse depth is linear in the picture, so that slanted surfaces agree with themselves however coarse
    the map is.
    """
    at = row * columns + column
    here = np.float64(inverse[at])
    if not here > 0.0:
        return 0.0
    left = np.float64(inverse[at - 1]) if column > 0 else 0.0
    right = np.float64(inverse[at + 1]) if column < columns - 1 else 0.0
    above = np.float64(inverse[at - columns]) if row > 0 else 0.0
    below = np.float64(inverse[at + columns]) if row < rows - 1 else 0.0
    return here + (px - column) * _slope(here, left, right) + (py - row) * _slope(here, above, below)


@jit
def distort(u: float, v: float, camera: np.ndarray) -> tuple[float, float]:
    """Return where the lens puts a direction u = x / z, v = y / z, before focal lengths."""
    square = u * u + v * v
    k1, k2, k3, k4 = camera[COEFFICIENTS], camera[COEFFICIENTS + 1], camera[COEFFICIENTS + 2], camera[COEFFICIENTS + 3]
    if camera[FISHEYE] != 0.0:
        radius = math.sqrt(square)
        if radius > 0.0:
            theta = arctan(radius)
            t = theta * theta
            factor = theta / radius * (1.0 + t * (k1 + t * (k2 + t * (k3 + t * k4))))
            u, v = u * factor, v * factor
        return u, v
    # in COLMAP's order k3 and k4 are p1 and p2 here, then come k3 .. k6
    above = 1.0 + square * (k1 + square * (k2 + square * camera[COEFFICIENTS + 4]))
    below = camera[COEFFICIENTS + 5] + square * (camera[COEFFICIENTS + 6] + square * camera[COEFFICIENTS + 7])
    factor = above / (1.0 + square * below)
    du = 2.0 * k3 * u * v + k4 * (square + 2.0 * u * u)
    dv = 2.0 * k4 * u * v + k3 * (square + 2.0 * v * v)
    return u * factor + du, v * factor + dv


@jit
def _shows(px: float, py: float, z: float, inverse: np.ndarray, columns: int, rows: int, tolerance: float) -> bool:
    """Tell whether a map shows, at a place counted in its pixels from the middle of the first, something at depth z.

    What the nearest pixel shows decides. Where that is farther away than the point, or unknown, nothing hides the
    point: it may lie on the edge of something that only another of the four pixels round it shows.
    """
    column = min(max(math.floor(px + 0.5), 0), columns - 1)
    row = min(max(math.floor(py + 0.5), 0), rows - 1)
    ratio = z * inverse_at(inverse, columns, rows, column, row, px, py)
    if ratio > 1.0:
        return ratio - 1.0 <= tolerance * ratio
    if 1.0 - ratio <= tolerance * ratio:
        return True
    left, top = math.floor(px), math.floor(py)
    for y in range(top, top + 2):
        for x in range(left, left + 2):
            if (x != column or y != row) and 0 <= x < columns and 0 <= y < rows:
                ratio = z * inverse_at(inverse, columns, rows, x, y, px, py)
                if abs(1.0 - ratio) <= tolerance * ratio:
                    return True
    return False


@jit
def _count(
    points: np.ndarray,
    num: int,
    pose: np.ndarray,
    camera: np.ndarray,
    inverse: np.ndarray,
    columns: int,
    rows: int,
    tolerance: float,
) -> int:
    """Count the points that a camera sees: in front of it, inside its picture, and where its map says."""
    fx, fy, cx, cy, width, height = camera[FX], camera[FY], camera[CX], camera[CY], camera[WIDTH], camera[HEIGHT]
    first, step, reach = camera[FIRST], camera[STEP], camera[REACH]
    distorts = camera[FISHEYE] != 0.0 or camera[COEFFICIENTS : COEFFICIENTS + 8].any()
    r00, r01, r02, tx = pose[0], pose[1], pose[2], pose[3]
    r10, r11, r12, ty = pose[4], pose[5], pose[6], pose[7]
    r20, r21, r22, tz = pose[8], pose[9], pose[10], pose[11]
    seen = 0
    for i in range(num):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        depth = r20 * x + r21 * y + r22 * z + tz
        if not depth > 0.0:
            continue
        u = (r00 * x + r01 * y + r02 * z + tx) / depth
        v = (r10 * x + r11 * y + r12 * z + ty) / depth
        if distorts:
            if not u * u + v * v <= reach:
                continue
            u, v = distort(u, v, camera)
        px, py = fx * u + cx, fy * v + cy
        if 0.0 <= px < width and 0.0 <= py < height:
            seen += _shows((px - first) / step, (py - first) / step, depth, inverse, columns, rows, tolerance)
    return seen


@jit
def count_seen(
    frame: int,
    others: np.ndarray,
    points: np.ndarray,
    num_points: np.ndarray,
    boxes: np.ndarray,
    poses: np.ndarray,
    cameras: np.ndarray,
    maps: np.ndarray,
    sizes: np.ndarray,
    tolerance: float,
    prune: bool,
    seen: np.ndarray,
) -> None:
    """Write how many points of each other frame this one sees, and how many of its points each other sees.

    All arrays have one row a slot: `points` float64 [s, p, 3] in the world, of which the first `num_points` int64 [s]
    count, in `boxes` float64 [s, 6]; `poses` float64 [s, 12], cam_from_world; `cameras` float64 [s, CAMERA_SIZE];
    `maps` float32 [s, pixels], inverse depth row by row, 0 where there is none; `sizes` int64 [s, 2], their columns and
    rows. `frame` is a slot, `others` int64 [k] are slots. `seen` int64 [k, 2] receives the counts. Without `prune`,
    every point is tested; the result is the same.
    """
    for i in range(len(others)):
        for side in range(2):
            a, b = (others[i], frame) if side == 0 else (frame, others[i])
            if prune and not _may_see(boxes[a], poses[b], cameras[b]):
                seen[i, side] = 0
            else:
                seen[i, side] = _count(
                    points[a], num_points[a], poses[b], cameras[b], maps[b], sizes[b, 0], sizes[b, 1], tolerance
                )
