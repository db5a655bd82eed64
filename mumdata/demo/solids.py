"""Solids of the demo world and exact ray casting.

In: convex bodies, ellipsoids, upright cylinders, and rays. Out: the nearest hit of each ray, or whether anything lies
in its way, with plain arithmetic only. `Convex` covers boxes, roofs, towers, spires and, seen from within, rooms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from mumdata.demo.camera import Vector, cross, normalised

__all__ = ["Convex", "Cylinder", "Ellipsoid", "Plane", "Solid", "Triple", "Vectors", "inside", "nearest", "occluded"]

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]
Vectors = Triple | Vector  # one vector for each ray, or one for all
Plane = tuple[float, float, float, float]  # a x + b y + c z <= d, (a, b, c) of length 1

NEAR = 1e-9  # a hit at the ray's own origin is no hit


@dataclass(frozen=True)
class Convex:
    """The intersection of half-spaces; `hollow` bodies are seen from within and stop no light."""

    planes: tuple[Plane, ...]
    materials: tuple[str, ...]  # one a plane
    anchor: Vector  # origin of the faces' texture coordinates
    axis: tuple[float, float]  # direction of u on level faces
    centre: Vector
    radius: float  # of a sphere around `centre` that holds the body; 0 where it is everywhere
    hollow: bool = False

    def hit(self, o: Vectors, d: Vectors) -> tuple[np.ndarray, np.ndarray]:
        """Return t (inf for a miss) and the plane's number, each [n]."""
        shape = np.broadcast_shapes(np.shape(o[0]), np.shape(d[0]))
        enter, leave = np.full(shape, -np.inf), np.full(shape, np.inf)
        face = np.zeros(shape, dtype=np.int8)
        with np.errstate(divide="ignore", invalid="ignore"):
            for number, (a, b, c, k) in enumerate(self.planes):
                slope = np.asarray(a * d[0] + b * d[1] + c * d[2])
                gap = np.asarray(k - (a * o[0] + b * o[1] + c * o[2]))
                # where all rays start on the same side, or run the same way, only one kind of crossing can count
                if self.hollow or (gap.ndim == 0 and gap >= 0.0) or (slope.ndim == 0 and slope > 0.0):
                    t = np.where(slope > 0.0, gap / slope, np.inf)
                    if self.hollow:
                        face[t < leave] = number
                    leave = np.minimum(leave, t)
                    continue
                t = gap / slope
                # a ray along the plane, or away from it, on its outer side never gets in
                t = np.where(slope < 0.0, t, np.where(gap < 0.0, np.inf, -np.inf))
                face[t > enter] = number
                enter = np.maximum(enter, t)
                if gap.ndim and slope.ndim:
                    leave = np.minimum(leave, np.where(slope > 0.0, gap / slope, np.inf))
        if self.hollow:
            return np.where(leave > NEAR, leave, np.inf), face
        return np.where((enter < leave) & (enter > NEAR), enter, np.inf), face

    def contains(self, p: Vector, margin: float) -> bool:
        """Tell whether a point lies in the body, or nearer to it than the margin."""
        return all(a * p[0] + b * p[1] + c * p[2] < k + margin for a, b, c, k in self.planes)


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with axes along x, y and z."""

    centre: Vector
    radii: Vector
    material: str

    @property
    def anchor(self) -> Vector:
        return self.centre

    @property
    def radius(self) -> float:
        return max(self.radii)

    def hit(self, o: Vectors, d: Vectors) -> tuple[np.ndarray, np.ndarray]:
        """Return t (inf for a miss) and zeros, each [n]."""
        (cx, cy, cz), (rx, ry, rz) = self.centre, self.radii
        x, y, z = (o[0] - cx) / rx, (o[1] - cy) / ry, (o[2] - cz) / rz
        u, v, w = d[0] / rx, d[1] / ry, d[2] / rz
        a = u * u + v * v + w * w
        b = u * x + v * y + w * z
        c = x * x + y * y + z * z - 1.0
        inner = b * b - a * c
        t = (-b - np.sqrt(np.maximum(inner, 0.0))) / a
        return np.where((inner > 0.0) & (t > NEAR), t, np.inf), np.zeros(t.shape, dtype=np.int8)

    def contains(self, p: Vector, margin: float) -> bool:
        """Tell whether a point lies in the body, or nearer to it than the margin (roughly)."""
        x, y, z = ((p[i] - self.centre[i]) / (self.radii[i] + margin) for i in range(3))
        return x * x + y * y + z * z < 1.0


@dataclass(frozen=True)
class Cylinder:
    """An upright cylinder with flat ends: face 0 is the mantle, 1 the top, 2 the bottom."""

    anchor: Vector  # middle of the bottom
    thickness: float  # radius of the mantle
    height: float
    material: str

    @property
    def centre(self) -> Vector:
        return self.anchor[0], self.anchor[1], self.anchor[2] + 0.5 * self.height

    @property
    def radius(self) -> float:
        return sqrt(self.thickness * self.thickness + 0.25 * self.height * self.height)

    def hit(self, o: Vectors, d: Vectors) -> tuple[np.ndarray, np.ndarray]:
        """Return t (inf for a miss) and the face, each [n]."""
        x, y, z = o[0] - self.anchor[0], o[1] - self.anchor[1], o[2] - self.anchor[2]
        a = d[0] * d[0] + d[1] * d[1]
        b = d[0] * x + d[1] * y
        c = x * x + y * y - self.thickness * self.thickness
        inner = b * b - a * c
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(np.maximum(inner, 0.0))
            mantle_in, mantle_out = (-b - root) / a, (-b + root) / a
            low, high = -z / d[2], (self.height - z) / d[2]
        cap_in, cap_out = np.minimum(low, high), np.maximum(low, high)
        enter = np.maximum(mantle_in, cap_in)
        hit = (inner > 0.0) & (enter < np.minimum(mantle_out, cap_out)) & (enter > NEAR)
        face = np.where(mantle_in >= cap_in, 0, np.where(np.asarray(d[2]) < 0.0, 1, 2)).astype(np.int8)
        return np.where(hit, enter, np.inf), face

    def contains(self, p: Vector, margin: float) -> bool:
        """Tell whether a point lies in the body, or nearer to it than the margin."""
        x, y, z = p[0] - self.anchor[0], p[1] - self.anchor[1], p[2] - self.anchor[2]
        reach = self.thickness + margin
        return x * x + y * y < reach * reach and -margin < z < self.height + margin


Solid = Convex | Ellipsoid | Cylinder


def _rows(solid: Solid, o: Vectors, d: Vectors, dd: np.ndarray | float) -> np.ndarray | None:
    """Return the rays that may meet the solid's bounding sphere, or None for all of them."""
    radius = solid.radius
    if radius == 0.0:
        return None
    c = solid.centre
    x, y, z = c[0] - o[0], c[1] - o[1], c[2] - o[2]
    along = np.asarray(d[0] * x + d[1] * y + d[2] * z)
    # a margin for rounding: the sphere only saves work and must never decide
    beyond = np.asarray(x * x + y * y + z * z - radius * radius * 1.0001)
    near = (along > 0.0) & (along * along >= dd * beyond)
    return np.flatnonzero(near if beyond.ndim == 0 and beyond > 0.0 else near | (beyond <= 0.0))


def _take(a: Vectors, rows: np.ndarray) -> Vectors:
    x, y, z = a
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and isinstance(z, np.ndarray):
        return x[rows], y[rows], z[rows]
    return a


def _in_cone(solids: Sequence[Solid], o: Vector, d: Triple, dd: np.ndarray) -> list[int]:
    """Return the solids whose bounding spheres reach into the narrowest cone known to hold all rays from `o`."""
    if d[0].size == 0:
        return []
    length = np.sqrt(dd)
    units = [x / length for x in d]
    axis = normalised(tuple(float(u.min()) + float(u.max()) for u in units))  # type: ignore[arg-type]
    cos_cone = float((units[0] * axis[0] + units[1] * axis[1] + units[2] * axis[2]).min())
    sin_cone = sqrt(max(0.0, 1.0 - cos_cone * cos_cone))
    kept = []
    for number, solid in enumerate(solids):
        x, y, z = (solid.centre[i] - o[i] for i in range(3))
        far = sqrt(x * x + y * y + z * z)
        if solid.radius == 0.0 or far <= solid.radius * 1.001 or cos_cone <= 0.1:
            kept.append(number)
            continue
        sin_ball = solid.radius * 1.001 / far
        cos_ball = sqrt(1.0 - sin_ball * sin_ball)
        # the angle to the middle is larger than cone and ball together
        if (x * axis[0] + y * axis[1] + z * axis[2]) / far >= cos_cone * cos_ball - sin_cone * sin_ball - 1e-9:
            kept.append(number)
    return kept


def nearest(solids: Sequence[Solid], o: Vector, d: Triple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return t (inf where nothing is hit), the solid's number (-1) and its face, each [n].

    All rays start at `o`; t counts in lengths of `d`. Of two solids at the same t the first one wins.
    """
    t = np.full(d[0].shape, np.inf)
    which = np.full(d[0].shape, -1, dtype=np.int16)
    face = np.zeros(d[0].shape, dtype=np.int8)
    dd = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    for number in _in_cone(solids, o, d, dd):
        solid = solids[number]
        rows = _rows(solid, o, d, dd)
        if rows is None:
            rows = np.arange(d[0].size)
        if rows.size == 0:
            continue
        found, its_face = solid.hit(o, _take(d, rows))
        closer = found < t[rows]
        rows = rows[closer]
        t[rows], which[rows], face[rows] = found[closer], number, its_face[closer]
    return t, which, face


def _in_beam(solids: Sequence[Solid], o: Triple, d: Vector) -> list[Solid]:
    """Return the solids that may shade a point of `o` from the direction `d`: those in the beam towards it."""
    right = normalised(cross(d, (0.0, 0.0, 1.0) if abs(d[2]) < 0.9 else (1.0, 0.0, 0.0)))
    spans = []
    for a in (right, cross(right, d), d):
        along = a[0] * o[0] + a[1] * o[1] + a[2] * o[2]
        spans.append((a, float(along.min()), float(along.max())))
    kept = []
    for solid in solids:
        c, reach = solid.centre, solid.radius * 1.001
        at = [a[0] * c[0] + a[1] * c[1] + a[2] * c[2] for a, _, _ in spans]
        beside = any(x + reach < low or x - reach > high for x, (_, low, high) in zip(at[:2], spans[:2], strict=True))
        if not beside and at[2] + reach >= spans[2][1]:
            kept.append(solid)
    return kept


def occluded(solids: Sequence[Solid], o: Vectors, d: Vectors, limit: float) -> np.ndarray:
    """Return, for each ray, whether a solid lies between t = 0 and `limit`, bool [n]; hollow bodies do not count.

    Either `o` (a lamp) or `d` (the direction of the sun) is one vector for all rays.
    """
    (num,) = np.broadcast_shapes(np.shape(o[0]), np.shape(d[0]))
    dark = np.zeros(num, dtype=bool)
    if num == 0:
        return dark
    open_rows = np.arange(num)
    solids = [solid for solid in solids if not (isinstance(solid, Convex) and solid.hollow)]
    if isinstance(o[0], np.ndarray) and not isinstance(d[0], np.ndarray):
        solids = _in_beam(solids, o, d)
    for solid in solids:
        o_left, d_left = _take(o, open_rows), _take(d, open_rows)
        rows = _rows(solid, o_left, d_left, d_left[0] * d_left[0] + d_left[1] * d_left[1] + d_left[2] * d_left[2])
        if rows is None or rows.size == 0:
            continue
        t, _ = solid.hit(_take(o_left, rows), _take(d_left, rows))
        shaded = t < limit
        if shaded.any():
            dark[open_rows[rows[shaded]]] = True
            open_rows = np.flatnonzero(~dark)
    return dark


def inside(solids: Sequence[Solid], p: Vector, margin: float) -> bool:
    """Tell whether a camera at `p` would stand in a solid, too near to one, or outside the room it should be in."""
    for solid in solids:
        if isinstance(solid, Convex) and solid.hollow:
            if not solid.contains(p, -margin):
                return True
        elif solid.contains(p, margin):
            return True
    return False
