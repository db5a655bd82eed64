"""Cameras of the demo world: where a pixel looks, where a point lands.

In: a position, a target, a roll and lens numbers. Out: rays, projections and transforms that are equal to the last bit
on every machine, since nothing but + - * / and square root is used, one element at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

__all__ = [
    "Camera",
    "Gauge",
    "Vector",
    "circle",
    "cross",
    "inverse_radial",
    "look_at",
    "matmul",
    "normalised",
    "project",
    "quaternion",
    "rays",
    "turn",
    "undistorted",
]

Vector = tuple[float, float, float]
Matrix = tuple[float, float, float, float, float, float, float, float, float]  # 3x3, row-major


@dataclass(frozen=True)
class Camera:
    """A camera in the world: OpenCV axes, pixels with the centre of the top-left one at (0.5, 0.5).

    `rotation` is that of cam_from_world, row-major; `centre` lies in world units; `radial` is the single coefficient
    of COLMAP's SIMPLE_RADIAL model, 0 for a pinhole.
    """

    width: int
    height: int
    focal: float
    cx: float
    cy: float
    rotation: Matrix
    centre: Vector
    radial: float = 0.0

    def cam_from_world(self) -> np.ndarray:
        """Return [R | -R centre], float64 [3, 4]."""
        r, (x, y, z) = self.rotation, self.centre
        rows = [[r[i], r[i + 1], r[i + 2], -(r[i] * x + r[i + 1] * y + r[i + 2] * z)] for i in (0, 3, 6)]
        return np.array(rows, dtype=np.float64)

    def intrinsics(self) -> tuple[float, float, float, float]:
        """Return fx, fy, cx, cy in pixels."""
        return self.focal, self.focal, self.cx, self.cy


@dataclass(frozen=True)
class Gauge:
    """The similarity model_from_world: a reconstruction knows neither scale, nor origin, nor which way is up."""

    scale: float
    rotation: Matrix
    shift: Vector

    def camera(self, camera: Camera) -> Camera:
        """Move a camera from the world into the model; what it sees of the moved points stays the same."""
        r = self.rotation
        transposed = (r[0], r[3], r[6], r[1], r[4], r[7], r[2], r[5], r[8])
        moved = self.points(np.array([camera.centre]))[0]
        centre = (float(moved[0]), float(moved[1]), float(moved[2]))
        return replace(camera, rotation=matmul(camera.rotation, transposed), centre=centre)

    def points(self, xyz: np.ndarray) -> np.ndarray:
        """Move points [P, 3] from the world into the model."""
        r, s = self.rotation, self.scale
        x, y, z = xyz[:, 0], xyz[:, 1], xyz[:, 2]
        rows = [s * (r[i] * x + r[i + 1] * y + r[i + 2] * z) + self.shift[i // 3] for i in (0, 3, 6)]
        return np.stack(rows, axis=1)


def normalised(a: Vector) -> Vector:
    """Return the vector scaled to length 1."""
    length = sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2])
    return a[0] / length, a[1] / length, a[2] / length


def cross(a: Vector, b: Vector) -> Vector:
    """Return the cross product."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def matmul(a: Matrix, b: Matrix) -> Matrix:
    """Multiply two 3x3 matrices with the sums in a fixed order."""
    rows = [a[i] * b[j] + a[i + 1] * b[j + 3] + a[i + 2] * b[j + 6] for i in (0, 3, 6) for j in (0, 1, 2)]
    return rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7], rows[8]


def turn(q: float) -> tuple[float, float]:
    """Return cosine and sine of the angle whose half has tangent q: the rational points of the circle."""
    return (1.0 - q * q) / (1.0 + q * q), 2.0 * q / (1.0 + q * q)


def circle(turns: float) -> tuple[float, float]:
    """Return the point of the unit circle at about `turns` full turns: exact at quarters, near enough between."""
    quarter = int(turns * 4.0 // 1.0)
    part = turns * 4.0 - quarter
    # tan(angle / 2) over a quarter turn; this cubic keeps the spacing even to within half a degree
    x, y = turn(part * (0.785 + 0.215 * part * part))
    return ((x, y), (-y, x), (-x, -y), (y, -x))[quarter % 4]


def look_at(position: Vector, target: Vector, roll: float = 0.0) -> Matrix:
    """Return the rotation of cam_from_world for a camera that looks at `target` with z up in the world.

    `roll` is the tangent of half the angle by which the camera is turned about its own axis.
    """
    forward = normalised((target[0] - position[0], target[1] - position[1], target[2] - position[2]))
    right = normalised(cross(forward, (0.0, 0.0, 1.0)))
    down = cross(forward, right)
    c, s = turn(roll)
    x = (c * right[0] + s * down[0], c * right[1] + s * down[1], c * right[2] + s * down[2])
    y = (c * down[0] - s * right[0], c * down[1] - s * right[1], c * down[2] - s * right[2])
    return (*x, *y, *forward)


def quaternion(r: Matrix) -> tuple[float, float, float, float]:
    """Return the unit quaternion (x, y, z, w), w >= 0, of a rotation (Shepperd 1978: the largest term first)."""
    trace = r[0] + r[4] + r[8]
    if trace >= max(r[0], r[4], r[8]):
        q = [r[7] - r[5], r[2] - r[6], r[3] - r[1], 1.0 + trace]
    elif r[0] >= max(r[4], r[8]):
        q = [1.0 + r[0] - r[4] - r[8], r[1] + r[3], r[2] + r[6], r[7] - r[5]]
    elif r[4] >= r[8]:
        q = [r[1] + r[3], 1.0 + r[4] - r[0] - r[8], r[5] + r[7], r[2] - r[6]]
    else:
        q = [r[2] + r[6], r[5] + r[7], 1.0 + r[8] - r[0] - r[4], r[3] - r[1]]
    length = sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    scale = 1.0 / length if q[3] >= 0.0 else -1.0 / length
    return q[0] * scale, q[1] * scale, q[2] * scale, q[3] * scale


def inverse_radial(x: np.ndarray, y: np.ndarray, radial: float) -> tuple[np.ndarray, np.ndarray]:
    """Remove SIMPLE_RADIAL distortion from normalised coordinates by fixed-point iteration.

    The map contracts by about 2 |radial| r^2, below 0.2 for the lenses used here: 40 rounds reach rounding error.
    """
    if radial == 0.0:
        return x, y
    u, v = x, y
    for _ in range(40):
        scale = 1.0 + radial * (u * u + v * v)
        u, v = x / scale, y / scale
    return u, v


def rays(camera: Camera, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return world directions of pixel positions, each [n]; length 1 along the optical axis, so that t is depth."""
    u, v = inverse_radial((xs - camera.cx) / camera.focal, (ys - camera.cy) / camera.focal, camera.radial)
    r = camera.rotation
    return r[0] * u + r[3] * v + r[6], r[1] * u + r[4] * v + r[7], r[2] * u + r[5] * v + r[8]


def project(camera: Camera, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pixel x, pixel y and depth of points [P, 3], each [P]; x and y mean nothing where depth <= 0."""
    r, c = camera.rotation, camera.centre
    x, y, z = xyz[:, 0] - c[0], xyz[:, 1] - c[1], xyz[:, 2] - c[2]
    depth = r[6] * x + r[7] * y + r[8] * z
    safe = np.where(depth > 0.0, depth, 1.0)
    u = (r[0] * x + r[1] * y + r[2] * z) / safe
    v = (r[3] * x + r[4] * y + r[5] * z) / safe
    scale = 1.0 + camera.radial * (u * u + v * v)
    return camera.focal * (u * scale) + camera.cx, camera.focal * (v * scale) + camera.cy, depth


def undistorted(camera: Camera) -> Camera:
    """Return the pinhole camera of the undistorted photo: no empty border, centred, focal length kept by size.

    The size follows the lens: pixels are about as large as before, so that a barrel lens gives a larger picture and
    a pincushion lens a smaller one. The focal length is the smallest for which every pixel has content, found at nine
    points of each side, the rule of OpenCV's getOptimalNewCameraMatrix with alpha = 0 and a centred principal point.
    """
    at = np.arange(9) / 8.0
    xs = np.concatenate([at * camera.width, at * camera.width, np.zeros(9), np.full(9, float(camera.width))])
    ys = np.concatenate([np.zeros(9), np.full(9, float(camera.height)), at * camera.height, at * camera.height])
    u, v = inverse_radial((xs - camera.cx) / camera.focal, (ys - camera.cy) / camera.focal, camera.radial)
    half_u = min(-float(u[18:27].max()), float(u[27:].min()))
    half_v = min(-float(v[:9].max()), float(v[9:18].min()))
    width = int(2.0 * half_u * camera.focal + 0.5) // 2 * 2
    height = int(2.0 * half_v * camera.focal + 0.5) // 2 * 2
    focal = max(0.5 * width / half_u, 0.5 * height / half_v)
    return replace(camera, width=width, height=height, focal=focal, cx=0.5 * width, cy=0.5 * height, radial=0.0)
