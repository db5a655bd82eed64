"""Which part of a frame becomes a view, and its way to a square of a given size.

In: a frame's size and a key. Out: a box of its pixels, what it may be shrunk by beforehand, and the square view of it.
Boxes are drawn in the pixels of the upright frame and then found in the stored one.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from mumdata import rng
from mumtrain.reading.scratch import scratch

__all__ = [
    "Box",
    "square_box",
    "crop_box",
    "stored_box",
    "shrinkage",
    "on_grid",
    "resized",
    "cut",
]

# left, top, width, height in pixels
Box = tuple[int, int, int, int]

# draws of a random resized crop before the largest centred box is taken
_ATTEMPTS = 10


def square_box(width: int, height: int, place: float = 0.5) -> Box:
    """Return the largest square, at a place along the long side from 0 (left or top) to 1 (right or bottom)."""
    side = min(width, height)
    return round(place * (width - side)), round(place * (height - side)), side, side


def crop_box(
    rule: str,
    width: int,
    height: int,
    key: int,
    area: tuple[float, float] = (0.2, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Draw the box of a view by a rule of `data.crop`.

    `resize`: the largest square at a random place. `random_resized`: a share of the frame's area, uniform in `area`,
    and a ratio of width to height, log-uniform in `aspect`, at a random place; after ten draws that do not fit, the
    largest centred box with that range of ratios.
    """
    if rule == "resize":
        return square_box(width, height, rng.fraction(key))
    for first in range(0, 4 * _ATTEMPTS, 4):
        pixels = (area[0] + (area[1] - area[0]) * rng.fraction(key, first)) * width * height
        ratio = _log_uniform(*aspect, rng.fraction(key, first + 1))
        box_width, box_height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = round(rng.fraction(key, first + 2) * (width - box_width))
            top = round(rng.fraction(key, first + 3) * (height - box_height))
            return left, top, box_width, box_height
    box_width, box_height = min(width, max(1, int(height * aspect[1]))), min(height, max(1, int(width / aspect[0])))
    return (width - box_width) // 2, (height - box_height) // 2, box_width, box_height


def _log_uniform(low: float, high: float, fraction: float) -> float:
    # low * (high / low) ** fraction to 24 binary digits, by square roots: exact alike on every machine, unlike exp
    value = low
    for root in _roots(high / low):
        fraction *= 2
        if fraction >= 1:
            fraction -= 1
            value *= root
    return value


@functools.lru_cache(maxsize=16)
def _roots(base: float) -> tuple[float, ...]:
    # base to the power of 1/2, 1/4, 1/8, ...
    roots = []
    for _ in range(24):
        base = math.sqrt(base)
        roots.append(base)
    return tuple(roots)


def stored_box(box: Box, width: int, height: int, turns: int) -> Box:
    """Return where a box of the upright frame lies in the stored one, of `width` x `height`, which `turns` clockwise
    quarter turns make upright."""
    left, top, box_width, box_height = box
    match turns % 4:
        case 0:
            return box
        case 1:
            return top, height - left - box_width, box_height, box_width
        case 2:
            return width - left - box_width, height - top - box_height, box_width, box_height
        case _:
            return width - top - box_height, left, box_height, box_width


def shrinkage(box: Box, size: int) -> int:
    """Return by what a frame may be shrunk before a view of `size` pixels is made of its box: 1, 2, 4 or a multiple of
    8, the largest at which the box keeps at least `size` pixels on each side."""
    by = min(box[2], box[3]) // size
    return by // 8 * 8 if by >= 8 else 4 if by >= 4 else 2 if by >= 2 else 1


def on_grid(box: Box, width: int, height: int, step: int) -> Box:
    """Return the box nearest to a box, in a frame of `width` x `height`, whose edges are multiples of `step` pixels.

    Its size is rounded down, its place to the nearest, and it stays within the frame. In the frame shrunk by `step` it
    is a box of whole pixels, so it shows the same whether it is cut out before or after; a view made after `shrinkage`
    is moved by less than a pixel of its own.
    """
    left, top, box_width, box_height = (side // step for side in (box[0] + step // 2, box[1] + step // 2, *box[2:]))
    left, top = min(left, width // step - box_width), min(top, height // step - box_height)
    return left * step, top * step, box_width * step, box_height * step


def resized(part: np.ndarray, wide: int, high: int | None = None) -> np.ndarray:
    """Resize a picture, antialiased in both directions: uint8 [h, w, 3] to [high, wide, 3], or to a square.

    What does not shrink is enlarged by bicubic interpolation. What shrinks is interpolated to twice the wanted size,
    which skips none of its pixels up to a factor of 2 and few up to 3, and halved by averaging: nearer to bicubic
    filters with antialiasing than area averaging is, in a third of the time.
    """
    import cv2

    high = wide if high is None else high
    height, width = part.shape[:2]
    if width <= wide and height <= high:
        return cv2.resize(part, (wide, high), interpolation=cv2.INTER_CUBIC)
    if width > 3 * wide or height > 3 * high:
        within = min(width, 2 * wide), min(height, 2 * high)
        part = cv2.resize(part, within, interpolation=cv2.INTER_AREA)
    double = scratch("double", (2 * high, 2 * wide, 3))
    cv2.resize(part, (2 * wide, 2 * high), dst=double, interpolation=cv2.INTER_CUBIC)
    return cv2.resize(double, (wide, high), interpolation=cv2.INTER_AREA)


def cut(image: np.ndarray, box: Box, full_size: tuple[int, int], size: int) -> np.ndarray:
    """Cut a box out of an image and resize it, uint8 [size, size, 3].

    The image may be decoded at a fraction of its `full_size` (width, height), which the box refers to.
    """
    height, width = image.shape[:2]
    across, down = width / full_size[0], height / full_size[1]
    left, top = min(round(box[0] * across), width - 1), min(round(box[1] * down), height - 1)
    box_width = min(max(1, round(box[2] * across)), width - left)
    box_height = min(max(1, round(box[3] * down)), height - top)
    return resized(image[top : top + box_height, left : left + box_width], size)
