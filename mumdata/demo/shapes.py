"""Builders of the demo world's solids: boxes, rooms, saddle roofs, towers, columns.

In: positions and sizes in metres, names of materials. Out: solids.
"""

from __future__ import annotations

from math import sqrt

from mumdata.demo.camera import circle, turn
from mumdata.demo.solids import Convex, Cylinder, Plane

__all__ = ["box", "column", "frustum", "gable", "room"]


def _level(normal: tuple[float, float], at: tuple[float, float], reach: float) -> Plane:
    return normal[0], normal[1], 0.0, normal[0] * at[0] + normal[1] * at[1] + reach


def box(
    at: tuple[float, float],
    size: tuple[float, float],
    z: tuple[float, float],
    side: str,
    top: str = "",
    yaw: float = 0.0,
) -> Convex:
    """Build an upright box: middle, width and depth, lowest and highest z, materials, tangent of half its yaw."""
    c, s = turn(yaw)
    u, v = (c, s), (-s, c)
    planes = [_level(u, at, size[0] / 2), _level((-c, -s), at, size[0] / 2)]
    planes += [_level(v, at, size[1] / 2), _level((s, -c), at, size[1] / 2)]
    planes += [(0.0, 0.0, 1.0, z[1]), (0.0, 0.0, -1.0, -z[0])]
    height = z[1] - z[0]
    radius = 0.5 * sqrt(size[0] * size[0] + size[1] * size[1] + height * height)
    middle = (at[0], at[1], 0.5 * (z[0] + z[1]))
    return Convex(tuple(planes), (side,) * 4 + (top or side,) * 2, (at[0], at[1], z[0]), u, middle, radius)


def room(size: tuple[float, float, float], walls: tuple[str, str, str, str], floor: str, ceiling: str) -> Convex:
    """Build a room around the origin, floor at z = 0; walls in the order +x, -x, +y, -y."""
    hull = box((0.0, 0.0), (size[0], size[1]), (0.0, size[2]), walls[0])
    return Convex(hull.planes, (*walls, ceiling, floor), hull.anchor, hull.axis, hull.centre, 0.0, hollow=True)


def gable(
    at: tuple[float, float], size: tuple[float, float], z: tuple[float, float], roof: str, end: str, yaw: float = 0.0
) -> Convex:
    """Build a saddle roof whose ridge runs along the width: eaves at z[0], ridge at z[1]."""
    hull = box(at, size, z, end, roof, yaw)
    (ux, uy), rise, half = hull.axis, z[1] - z[0], 0.5 * size[1]
    length = sqrt(rise * rise + half * half)
    vx, vy, vz = -uy * rise / length, ux * rise / length, half / length
    slopes = []
    for sign in (1.0, -1.0):
        a, b = sign * vx, sign * vy
        slopes.append((a, b, vz, a * at[0] + b * at[1] + vz * z[1]))
    planes = (*slopes, hull.planes[0], hull.planes[1], hull.planes[5])
    return Convex(planes, (roof, roof, end, end, end), hull.anchor, hull.axis, hull.centre, hull.radius)


def frustum(
    at: tuple[float, float], radii: tuple[float, float], z: tuple[float, float], side: str, num_sides: int = 8,
    top: str = "", yaw: float = 0.0,
) -> Convex:  # fmt: skip
    """Build an upright truncated pyramid; radii are those of the circles inside its lowest and highest outline."""
    height, taper = z[1] - z[0], radii[0] - radii[1]
    length = sqrt(height * height + taper * taper)
    planes: list[Plane] = []
    for number in range(num_sides):
        x, y = circle(yaw + number / num_sides)
        a, b, c = x * height / length, y * height / length, taper / length
        planes.append((a, b, c, a * (at[0] + x * radii[0]) + b * (at[1] + y * radii[0]) + c * z[0]))
    planes += [(0.0, 0.0, 1.0, z[1]), (0.0, 0.0, -1.0, -z[0])]
    reach = max(radii) * (1.4143 if num_sides == 4 else 1.3 if num_sides >= 5 else 2.1)
    radius = sqrt(reach * reach + 0.25 * height * height)
    materials = (side,) * num_sides + (top or side,) * 2
    middle = (at[0], at[1], 0.5 * (z[0] + z[1]))
    return Convex(tuple(planes), materials, (at[0], at[1], z[0]), circle(yaw), middle, radius)


def column(at: tuple[float, float], thickness: float, z: tuple[float, float], material: str) -> Cylinder:
    """Build an upright cylinder between two heights."""
    return Cylinder((at[0], at[1], z[0]), thickness, z[1] - z[0], material)
