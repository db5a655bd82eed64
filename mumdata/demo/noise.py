"""Noise that is the same on every machine: integer hashes, smoothed by polynomials.

In: surface coordinates and the footprint of a pixel there. Out: values in [0, 1) or around 0, float32, in which
detail finer than the pixel has faded away instead of flickering.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mumdata import rng

__all__ = ["cell", "fade", "fractal", "value_noise"]

_PERIOD = 256  # lattice points before the noise repeats


@lru_cache(maxsize=64)
def _lattice(seed: int) -> np.ndarray:
    words = rng.words(rng.key(seed, "demo", "lattice"), _PERIOD * _PERIOD)
    return rng.unit(words).astype(np.float32)


def _wrap(i: np.ndarray) -> np.ndarray:
    return i.astype(np.int32) & (_PERIOD - 1)


def cell(i: np.ndarray, j: np.ndarray, seed: int) -> np.ndarray:
    """Return one random number in [0, 1) for each pair of whole numbers, float32."""
    return _lattice(seed)[(_wrap(j) << 8) | _wrap(i)]


def fade(period: float, footprint: np.ndarray) -> np.ndarray:
    """Return how much of a pattern is left, in [0, 1]: all where a period spans four pixels, nothing below one."""
    return np.clip((period / footprint - np.float32(1.0)) / np.float32(3.0), np.float32(0.0), np.float32(1.0))


def value_noise(u: np.ndarray, v: np.ndarray, seed: int) -> np.ndarray:
    """Return smooth noise in [0, 1) with lattice points one unit apart, float32."""
    i, j = np.floor(u), np.floor(v)
    a, b = u - i, v - j
    a = a * a * (np.float32(3.0) - np.float32(2.0) * a)
    b = b * b * (np.float32(3.0) - np.float32(2.0) * b)
    table = _lattice(seed)
    left, low = _wrap(i), _wrap(j) << 8
    right, high = (left + 1) & (_PERIOD - 1), (low + _PERIOD) & (_PERIOD * _PERIOD - 1)
    p, q, r, s = table[low | left], table[low | right], table[high | left], table[high | right]
    bottom = p + (q - p) * a
    top = r + (s - r) * a
    return bottom + (top - bottom) * b


def fractal(
    u: np.ndarray, v: np.ndarray, seed: int, footprint: np.ndarray, period: float = 2.0, octaves: int = 4
) -> np.ndarray:
    """Return noise of several octaves around 0, about -0.5 .. 0.5, the coarsest with lattice spacing `period`."""
    total: np.ndarray = np.zeros(u.shape, dtype=np.float32)
    amplitude = 0.5
    for octave in range(octaves):
        weight = fade(period, footprint)
        if not weight.any():
            break
        layer = value_noise(u / np.float32(period), v / np.float32(period), seed + octave) - np.float32(0.5)
        total = total + layer * (np.float32(amplitude) * weight)
        amplitude *= 0.62
        period *= 0.47
    return total * np.float32(1.4)
