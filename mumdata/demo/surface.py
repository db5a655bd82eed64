"""The surfaces of the demo world as triangles, for datasets that come with a mesh.

In: a place. Out: a mesh as a binary PLY file. Flat faces are exact; balls and columns are made of flat pieces whose
corners lie on them, half a hundredth of the radius below them at most.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from mumdata.demo.camera import Gauge, Vector, circle, cross, normalised
from mumdata.demo.render import Place
from mumdata.demo.solids import Convex, Cylinder, Ellipsoid, Plane, Solid

__all__ = ["mesh_ply"]

_AROUND = 32  # pieces round a ball or a column
_FAR = 1000.0  # metres: half of the square that a face is cut from

_Triangle = tuple[Vector, Vector, Vector]


def mesh_ply(place: Place, gauge: Gauge) -> bytes:
    """Return all surfaces of a place, moved by the gauge, as a PLY file of float vertices and triangles."""
    triangles = [triangle for solid in place.solids for triangle in _triangles(solid)]
    corners = gauge.points(np.array(triangles, np.float64).reshape(-1, 3))
    # each face: how many corners, one byte, and which, four bytes each
    faces = np.full((len(triangles), 13), 3, np.uint8)
    faces[:, 1:] = np.arange(len(corners)).astype("<i4").view(np.uint8).reshape(-1, 12)
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(corners)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(triangles)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    return header.encode() + corners.astype("<f4").tobytes() + faces.tobytes()


def _triangles(solid: Solid) -> list[_Triangle]:
    if isinstance(solid, Convex):
        return [triangle for number in range(len(solid.planes)) for triangle in _fan(_face(solid.planes, number))]
    if isinstance(solid, Cylinder):
        return _column(solid)
    return _ball(solid)


def _fan(corners: Sequence[Vector]) -> list[_Triangle]:
    return [(corners[0], corners[i], corners[i + 1]) for i in range(1, len(corners) - 1)]


def _face(planes: Sequence[Plane], number: int) -> list[Vector]:
    """Return the corners of a face of a convex body: a large square on its plane, cut by all other planes."""
    a, b, c, k = planes[number]
    u = normalised(cross((a, b, c), (0.0, 0.0, 1.0) if abs(c) < 0.9 else (1.0, 0.0, 0.0)))
    v = cross((a, b, c), u)
    corners: list[Vector] = []
    for s, t in ((-_FAR, -_FAR), (_FAR, -_FAR), (_FAR, _FAR), (-_FAR, _FAR)):
        corners.append((a * k + s * u[0] + t * v[0], b * k + s * u[1] + t * v[1], c * k + s * u[2] + t * v[2]))
    for other, plane in enumerate(planes):
        if other != number:
            corners = _cut(corners, plane)
    return corners


def _cut(corners: Sequence[Vector], plane: Plane) -> list[Vector]:
    """Return the part of a convex polygon that lies on the inner side of a plane (Sutherland and Hodgman 1974)."""
    a, b, c, k = plane
    heights = [a * x + b * y + c * z - k for x, y, z in corners]
    kept: list[Vector] = []
    for i, (corner, height) in enumerate(zip(corners, heights, strict=True)):
        before, its_height = corners[i - 1], heights[i - 1]
        if (height > 0.0) != (its_height > 0.0):
            share = its_height / (its_height - height)
            x, y, z = (p + share * (q - p) for p, q in zip(before, corner, strict=True))
            kept.append((x, y, z))
        if height <= 0.0:
            kept.append(corner)
    return kept


def _column(solid: Cylinder) -> list[_Triangle]:
    (x, y, low), r = solid.anchor, solid.thickness
    ring = [circle(i / _AROUND) for i in range(_AROUND)]
    bottom: list[Vector] = [(x + r * c, y + r * s, low) for c, s in ring]
    top: list[Vector] = [(x + r * c, y + r * s, low + solid.height) for c, s in ring]
    return [*_fan(bottom), *_fan(top), *_band(bottom, top)]


def _ball(solid: Ellipsoid) -> list[_Triangle]:
    (x, y, z), (rx, ry, rz) = solid.centre, solid.radii
    ring = [circle(i / _AROUND) for i in range(_AROUND)]
    rings: list[list[Vector]] = []
    for level in range(_AROUND // 2 + 1):
        # from the south pole to the north pole
        out, up = circle(0.75 + 0.5 * level / (_AROUND // 2))
        rings.append([(x + rx * out * c, y + ry * out * s, z + rz * up) for c, s in ring])
    return [triangle for low, high in itertools.pairwise(rings) for triangle in _band(low, high)]


def _band(low: Sequence[Vector], high: Sequence[Vector]) -> list[_Triangle]:
    """Return the triangles between two rings of as many corners."""
    found: list[_Triangle] = []
    for i in range(len(low)):
        found += [(low[i - 1], low[i], high[i]), (low[i - 1], high[i], high[i - 1])]
    return found
