"""Rays of pixels: the camera models of COLMAP turned round.

In: a camera model's name and its distortion. Out: for pixels the directions they look into. The formulas are those of
`mumdata.geometry.project`; they are inverted with + - * / and square roots alone, so that the results are the same to
the last bit on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mumdata.errors import ModelError

__all__ = ["Lens", "lens_of"]

_ROUNDS = 30  # of Newton's method, which doubles the right digits in each
_CLOSE = 1e-10  # what may be left of the distance to the pixel, in focal lengths
_WIDEST = 1.55  # radians from the axis, 88.8 degrees: what looks farther to the side has no ray here

# where the distortion of each model goes among the eight coefficients
_PERSPECTIVE = {
    "SIMPLE_PINHOLE": (),
    "PINHOLE": (),
    "SIMPLE_RADIAL": (0,),
    "RADIAL": (0, 1),
    "OPENCV": (0, 1, 2, 3),
    "FULL_OPENCV": (0, 1, 2, 3, 4, 5, 6, 7),
}
_FISHEYE = {
    "SIMPLE_FISHEYE": (),
    "FISHEYE": (),
    "SIMPLE_RADIAL_FISHEYE": (0,),
    "RADIAL_FISHEYE": (0, 1),
    "OPENCV_FISHEYE": (0, 1, 2, 3),
}


@dataclass(frozen=True)
class Lens:
    """A lens in normalised coordinates: how u = x / z, v = y / z become the picture's, before focal lengths.

    `k` are eight coefficients. Perspective: k1, k2, p1, p2, k3, k4, k5, k6 of FULL_OPENCV, of which the simpler models
    are cases. Fisheye: k1 .. k4 of OPENCV_FISHEYE, and zeros.
    """

    is_fisheye: bool
    k: tuple[float, float, float, float, float, float, float, float]

    def rays(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return u and v, float64 arrays like x and y, of points of the picture; NaN where the lens shows nothing.

        x and y are pixels less the principal point, over the focal lengths.
        """
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if self.is_fisheye:
            return self._fisheye_rays(x, y)
        if not any(self.k):
            return x, y
        return self._perspective_rays(x, y)

    def _fisheye_rays(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # the radius in the picture is a polynomial of the angle to the axis; it must be rising up to there
        radius = np.sqrt(x * x + y * y)
        theta = radius
        k1, k2, k3, k4 = self.k[:4]
        with np.errstate(all="ignore"):
            for _ in range(_ROUNDS):
                t = theta * theta
                value = theta * (1.0 + t * (k1 + t * (k2 + t * (k3 + t * k4))))
                slope = 1.0 + t * (3.0 * k1 + t * (5.0 * k2 + t * (7.0 * k3 + t * 9.0 * k4)))
                theta = np.clip(theta - (value - radius) / slope, 0.0, _WIDEST)
            t = theta * theta
            off = theta * (1.0 + t * (k1 + t * (k2 + t * (k3 + t * k4)))) - radius
            shown = (np.abs(off) <= _CLOSE) & (theta < min(_WIDEST, self._last_rising()))
            factor = np.where(radius > 0.0, _tangent(theta) / np.where(radius > 0.0, radius, 1.0), 1.0)
        factor = np.where(shown, factor, np.nan)
        return x * factor, y * factor

    def _last_rising(self) -> float:
        """Return the angle at which the fisheye's polynomial stops rising, or beyond which nobody looks."""
        k1, k2, k3, k4 = self.k[:4]
        angle = np.arange(2048) * (_WIDEST / 2048.0)
        t = angle * angle
        falling = np.flatnonzero(1.0 + t * (3.0 * k1 + t * (5.0 * k2 + t * (7.0 * k3 + t * 9.0 * k4))) <= 0.0)
        return float(angle[falling[0]]) if len(falling) else _WIDEST

    def _perspective_rays(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Newton's method in two dimensions, from the picture's own point
        k1, k2, p1, p2, k3, k4, k5, k6 = self.k
        u, v = x, y
        with np.errstate(all="ignore"):
            for rest in range(_ROUNDS, -1, -1):
                s = u * u + v * v
                above, below = 1.0 + s * (k1 + s * (k2 + s * k3)), 1.0 + s * (k4 + s * (k5 + s * k6))
                factor = above / below
                # derivative of the factor by s
                d = ((k1 + s * (2.0 * k2 + s * 3.0 * k3)) - factor * (k4 + s * (2.0 * k5 + s * 3.0 * k6))) / below
                off_x = u * factor + 2.0 * p1 * u * v + p2 * (s + 2.0 * u * u) - x
                off_y = v * factor + 2.0 * p2 * u * v + p1 * (s + 2.0 * v * v) - y
                xu = factor + 2.0 * d * u * u + 2.0 * p1 * v + 6.0 * p2 * u
                xv = 2.0 * d * u * v + 2.0 * p1 * u + 2.0 * p2 * v
                yv = factor + 2.0 * d * v * v + 2.0 * p2 * u + 6.0 * p1 * v
                determinant = xu * yv - xv * xv
                if rest:
                    u, v = u - (yv * off_x - xv * off_y) / determinant, v - (xu * off_y - xv * off_x) / determinant
            # beyond the fold of a strong lens the same point of the picture has a second ray, mirrored
            shown = (np.abs(off_x) <= _CLOSE) & (np.abs(off_y) <= _CLOSE) & (determinant > 0.0) & (factor > 0.0)
        return np.where(shown, u, np.nan), np.where(shown, v, np.nan)


def _tangent(angle: np.ndarray) -> np.ndarray:
    """Return the tangent of angles 0 .. 1.55: the series of sine and cosine at an eighth, then doubled three times."""
    a = angle / 8.0
    square = a * a  # at most 0.038: eight terms are exact
    sine, cosine = np.ones_like(a), np.ones_like(a)
    for n in range(16, 0, -2):
        sine = 1.0 - square * sine / (n * (n + 1.0))
        cosine = 1.0 - square * cosine / (n * (n - 1.0))
    t: np.ndarray = a * sine / cosine
    for _ in range(3):
        t = 2.0 * t / (1.0 - t * t)
    return t


def lens_of(model: str | None, distortion: Sequence[float] | None) -> Lens:
    """Return the lens of a camera model; ModelError for the models without a formula here."""
    for is_fisheye, models in ((False, _PERSPECTIVE), (True, _FISHEYE)):
        if model in models:
            k = [0.0] * 8
            for place, value in zip(models[model], distortion or (), strict=True):
                k[place] = float(value)
            return Lens(is_fisheye, (k[0], k[1], k[2], k[3], k[4], k[5], k[6], k[7]))
    known = ", ".join((*_PERSPECTIVE, *_FISHEYE))
    raise ModelError(f"rays of camera model '{model}' are not known; known: {known}")
