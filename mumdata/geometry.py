"""Cameras and angles, in OpenCV axes: x right, y down, z forward; `cam_from_world` maps world points into them.

In: quaternions, COLMAP camera parameters, cam_from_world matrices. Out: rotations, intrinsics, pixels, cosines.
Cosines that decide something use plain + - x / and square root in a fixed order: the same bits on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from mumdata.errors import ModelError

__all__ = [
    "CAMERA_MODELS",
    "CAMERA_MODEL_NAMES",
    "NUM_PARAMS",
    "rotation_from_quaternion",
    "intrinsics_from_params",
    "scale_intrinsics",
    "project",
    "cos_deg",
    "acos_deg",
    "rotation_cos",
    "axis_cos",
]

# COLMAP's camera models: name -> (id in binary files, number of focal lengths, number of distortion parameters).
# The parameters always come as focal lengths, cx, cy, distortion; EQUIRECTANGULAR alone has (w, h) instead.
CAMERA_MODELS: dict[str, tuple[int, int, int]] = {
    "SIMPLE_PINHOLE": (0, 1, 0),
    "PINHOLE": (1, 2, 0),
    "SIMPLE_RADIAL": (2, 1, 1),
    "RADIAL": (3, 1, 2),
    "OPENCV": (4, 2, 4),
    "OPENCV_FISHEYE": (5, 2, 4),
    "FULL_OPENCV": (6, 2, 8),
    "FOV": (7, 2, 1),
    "SIMPLE_RADIAL_FISHEYE": (8, 1, 1),
    "RADIAL_FISHEYE": (9, 1, 2),
    "THIN_PRISM_FISHEYE": (10, 2, 8),
    "RAD_TAN_THIN_PRISM_FISHEYE": (11, 2, 12),
    "SIMPLE_DIVISION": (12, 1, 1),
    "DIVISION": (13, 2, 1),
    "SIMPLE_FISHEYE": (14, 1, 0),
    "FISHEYE": (15, 2, 0),
    "EUCM": (16, 2, 2),
    "EQUIRECTANGULAR": (17, 0, 0),
}
CAMERA_MODEL_NAMES: dict[int, str] = {number: name for name, (number, _, _) in CAMERA_MODELS.items()}
NUM_PARAMS: dict[str, int] = {name: num_focal + 2 + num for name, (_, num_focal, num) in CAMERA_MODELS.items()}


def rotation_from_quaternion(wxyz: np.ndarray) -> np.ndarray:
    """Return rotation matrices float64 [n, 3, 3] of quaternions [n, 4] in the order w, x, y, z.

    Quaternions are normalised first, after division by their largest component so that no square overflows. One
    that is zero or not finite gives a matrix of NaN; whoever reads files has to look for it.
    """
    q = np.asarray(wxyz, dtype=np.float64).reshape(-1, 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = q / np.max(np.abs(q), axis=1, keepdims=True, initial=0.0)
        w, x, y, z = q[:, 0], q[:, 1], q[:, 2], q[:, 3]
        norm = np.sqrt(w * w + x * x + y * y + z * z)
        w, x, y, z = w / norm, x / norm, y / norm, z / norm
    rotation = np.empty((len(q), 3, 3))
    rotation[:, 0, 0] = 1.0 - 2.0 * (y * y + z * z)
    rotation[:, 0, 1] = 2.0 * (x * y - w * z)
    rotation[:, 0, 2] = 2.0 * (x * z + w * y)
    rotation[:, 1, 0] = 2.0 * (x * y + w * z)
    rotation[:, 1, 1] = 1.0 - 2.0 * (x * x + z * z)
    rotation[:, 1, 2] = 2.0 * (y * z - w * x)
    rotation[:, 2, 0] = 2.0 * (x * z - w * y)
    rotation[:, 2, 1] = 2.0 * (y * z + w * x)
    rotation[:, 2, 2] = 1.0 - 2.0 * (x * x + y * y)
    return rotation


def intrinsics_from_params(
    model_name: str, params: Sequence[float]
) -> tuple[tuple[float, float, float, float], tuple[float, ...]]:
    """Split COLMAP's parameters into (fx, fy, cx, cy) in pixels and the distortion that follows the principal point.

    EQUIRECTANGULAR has the image's size for parameters; its focal length is given as pixels per radian at the centre.
    ModelError for an unknown model or a wrong number of parameters.
    """
    if model_name not in CAMERA_MODELS:
        raise ModelError(f"unknown camera model '{model_name}'; known: {', '.join(CAMERA_MODELS)}")
    if len(params) != NUM_PARAMS[model_name]:
        raise ModelError(f"camera model {model_name} has {NUM_PARAMS[model_name]} parameters, not {len(params)}")
    values = tuple(float(value) for value in params)
    num_focal = CAMERA_MODELS[model_name][1]
    if num_focal == 0:
        width, height = values
        return (width / (2.0 * math.pi), height / math.pi, width / 2.0, height / 2.0), ()
    fx, fy = values[0], values[num_focal - 1]
    cx, cy = values[num_focal : num_focal + 2]
    return (fx, fy, cx, cy), values[num_focal + 2 :]


def scale_intrinsics(
    intrinsics_px: np.ndarray, from_size: Sequence[int] | np.ndarray, to_size: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Return intrinsics float64 [..., 4] for images resized from one (width, height) to another.

    The centre of the top-left pixel is (0.5, 0.5), so that resizing is plain scaling of all four. Distortion acts
    on normalised coordinates and stays. Sizes broadcast; ValueError where a size to scale from is not positive.
    """
    old, new = np.asarray(from_size, dtype=np.float64), np.asarray(to_size, dtype=np.float64)
    if np.any(old <= 0):
        raise ValueError(f"cannot scale intrinsics from the size {from_size}")
    scale = new / old
    return np.asarray(intrinsics_px, dtype=np.float64) * np.concatenate([scale, scale], axis=-1)


def _radial(u: np.ndarray, v: np.ndarray, k: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    r2 = u * u + v * v
    factor, power = np.ones_like(r2), r2
    for coefficient in k:
        factor = factor + coefficient * power
        power = power * r2
    return u * factor, v * factor


def _opencv(u: np.ndarray, v: np.ndarray, k: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    k1, k2, p1, p2 = k[:4]
    k3, k4, k5, k6 = k[4:] if len(k) == 8 else (0.0, 0.0, 0.0, 0.0)
    r2 = u * u + v * v
    r4, r6 = r2 * r2, r2 * r2 * r2
    factor = (1.0 + k1 * r2 + k2 * r4 + k3 * r6) / (1.0 + k4 * r2 + k5 * r4 + k6 * r6)
    return (
        u * factor + 2.0 * p1 * u * v + p2 * (r2 + 2.0 * u * u),
        v * factor + 2.0 * p2 * u * v + p1 * (r2 + 2.0 * v * v),
    )


def _fisheye(u: np.ndarray, v: np.ndarray, k: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    r = np.sqrt(u * u + v * v)
    theta = np.arctan(r)
    scale = np.divide(theta, r, out=np.ones_like(r), where=r > 0)
    u, v = u * scale, v * scale
    return _radial(u, v, k)


_DISTORT: dict[str, Callable[[np.ndarray, np.ndarray, Sequence[float]], tuple[np.ndarray, np.ndarray]]] = {
    "SIMPLE_PINHOLE": _radial,
    "PINHOLE": _radial,
    "SIMPLE_RADIAL": _radial,
    "RADIAL": _radial,
    "OPENCV": _opencv,
    "FULL_OPENCV": _opencv,
    "SIMPLE_FISHEYE": _fisheye,
    "FISHEYE": _fisheye,
    "SIMPLE_RADIAL_FISHEYE": _fisheye,
    "RADIAL_FISHEYE": _fisheye,
    "OPENCV_FISHEYE": _fisheye,
}


def project(
    points: np.ndarray,
    cam_from_world: np.ndarray,
    model: str,
    intrinsics: Sequence[float] | np.ndarray,
    distortion: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Project world points float64 [n, 3]: pixels float64 [n, 2] and depth (z in the camera) float64 [n].

    `cam_from_world` is [3, 4]; formulas are those of COLMAP's camera models. Pixels of points that do not lie in
    front of the camera are NaN. Fisheye models use arctan, so this is for display, not for decisions. ModelError
    for the models without a formula here.
    """
    if model not in _DISTORT:
        raise ModelError(f"points cannot be projected with camera model '{model}'; known: {', '.join(_DISTORT)}")
    world, matrix = np.asarray(points, dtype=np.float64), np.asarray(cam_from_world, dtype=np.float64)
    x, y, depth = (
        matrix[i, 0] * world[:, 0] + matrix[i, 1] * world[:, 1] + matrix[i, 2] * world[:, 2] + matrix[i, 3]
        for i in range(3)
    )
    z = np.where(depth > 0, depth, np.nan)
    u, v = _DISTORT[model](x / z, y / z, distortion)
    fx, fy, cx, cy = (float(value) for value in intrinsics)
    return np.stack([fx * u + cx, fy * v + cy], axis=1), depth


def _taylor(x: float, first: int) -> float:
    """Sum x^n / n! with alternating signs over n = first, first + 2, ...: cosine for 0, sine for 1; |x| <= pi / 4."""
    terms = [x if first else 1.0]
    for n in range(first + 2, first + 22, 2):
        terms.append(-terms[-1] * x * x / (n * (n - 1)))
    total = 0.0
    for term in reversed(terms):  # smallest first: the rounding errors of the small terms stay small
        total += term
    return total


def cos_deg(deg: float) -> float:
    """Return the cosine of an angle in degrees, within 1e-15, with the same bits on every machine.

    The mathematics library of a machine may round its cosine its own way; a gate must not depend on that, so the
    Taylor series is summed in float64. Exact at multiples of 60 and 90 degrees.
    """
    if not math.isfinite(deg):
        raise ValueError(f"{deg} is not an angle")
    deg = math.fmod(abs(deg), 360.0)
    if deg > 180.0:
        deg = 360.0 - deg
    if deg > 90.0:
        return 0.0 - cos_deg(180.0 - deg)
    if deg in (0.0, 60.0, 90.0):
        return {0.0: 1.0, 60.0: 0.5, 90.0: 0.0}[deg]
    radians = math.pi / 180.0
    return _taylor(deg * radians, 0) if deg <= 45.0 else _taylor((90.0 - deg) * radians, 1)


def _asin_coefficients(num: int) -> tuple[float, ...]:
    # of asin x = x * (c0 + c1 x^2 + c2 x^4 + ...): (2k)! / (4^k k!^2 (2k + 1)), each rounded once from whole numbers
    return tuple(math.comb(2 * k, k) / (4**k * (2 * k + 1)) for k in range(num))


_ASIN = _asin_coefficients(13)  # the next term is below 1e-17 of the sum where |x| <= sin 15 degrees


def acos_deg(cos: np.ndarray) -> np.ndarray:
    """Return the angles in degrees that have these cosines, float64, with the same bits on every machine.

    Within 1e-12 degrees; values beyond -1 and 1 count as those, NaN stays NaN. The half-angle formula
    sin(angle / 2) = sqrt((1 - cos) / 2), taken twice, brings every angle down to at most 15 degrees, where the series
    of the arc sine is short; angles beyond 90 degrees are 180 degrees less that of the negative cosine, and so are
    exact where they have to be: at 0, 90 and 180 degrees.
    """
    cos = np.clip(np.asarray(cos, dtype=np.float64), -1.0, 1.0)
    size = np.abs(cos)
    steep = size > 0.5
    # the angle to the nearest of 0, 90 and 180 degrees is `times` twice the arc sine of x; x <= sin 15 degrees
    sine = np.where(steep, np.sqrt((1.0 - size) * 0.5), size)
    x = sine / np.sqrt(2.0 + 2.0 * np.sqrt(1.0 - sine * sine))
    square = x * x
    total = np.full_like(x, _ASIN[-1])
    for coefficient in _ASIN[-2::-1]:
        total *= square
        total += coefficient
    twice = total * x * (360.0 / math.pi)
    angle = np.where(steep, 2.0 * twice, 90.0 - twice)
    return np.where(cos < 0.0, 180.0 - angle, angle)


def rotation_cos(cam_from_world: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of the angle of the full relative rotation of pairs (a, b), float64 [k].

    (trace(R_b R_a^T) - 1) / 2, clipped to [-1, 1]; `cam_from_world` is [n, 3, 4] or [n, 3, 3]. The trace is the sum
    of the nine products of equal elements, added row by row: no BLAS, whose order of additions is its own.
    """
    trace = np.zeros(len(a))
    for i in range(3):
        for j in range(3):
            element = np.ascontiguousarray(cam_from_world[:, i, j], dtype=np.float64)
            trace = trace + element[b] * element[a]
    return np.clip((trace - 1.0) / 2.0, -1.0, 1.0)


def axis_cos(cam_from_world: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of the angle between the viewing axes of pairs (a, b), float64 [k]; blind to roll.

    The viewing axis in the world is the third row of the rotation; the product is clipped to [-1, 1].
    """
    product = np.zeros(len(a))
    for j in range(3):
        element = np.ascontiguousarray(cam_from_world[:, 2, j], dtype=np.float64)
        product = product + element[a] * element[b]
    return np.clip(product, -1.0, 1.0)
