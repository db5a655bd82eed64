"""Which part of a frame becomes a view, and cutting it out.

In: a frame's upright size and a key. Out: a box in its full-resolution pixels, and the square view of it.
"""

from __future__ import annotations

import math

import numpy as np

from mumdata import rng

__all__ = ["Box", "square_box", "crop_box", "reduction", "cut"]

# left, top, width, height in pixels of the upright frame at full resolution
Box = tuple[int, int, int, int]


def square_box(width: int, height: int, place: float = 0.5) -> Box:
    """Return the largest square, at a place along the long side from 0 (left or top) to 1 (right or bottom)."""
    side = min(width, height)
    return round(place * (width - side)), round(place * (height - side)), side, side


def crop_box(rule: str, width: int, height: int, key: int) -> Box:
    """Draw the box of a view by a rule of `data.crop`.

    `resize`: the largest square at a random place. `random_resized`: area 0.2 to 1 of the frame's, aspect ratio
    log-uniform in 3/4 to 4/3, random place; after ten draws that do not fit, the largest centred box with that range
    of ratios.
    """
    draws = rng.unit(rng.words(key, 40)).reshape(10, 4)
    if rule == "resize":
        return square_box(width, height, float(draws[0, 0]))
    for area, aspect, right, down in draws.tolist():
        pixels = (0.2 + 0.8 * area) * width * height
        ratio = math.exp((2 * aspect - 1) * math.log(4 / 3))
        box_width, box_height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            return round(right * (width - box_width)), round(down * (height - box_height)), box_width, box_height
    box_width, box_height = min(width, max(1, height * 4 // 3)), min(height, max(1, width * 4 // 3))
    return (width - box_width) // 2, (height - box_height) // 2, box_width, box_height


def reduction(box: Box, size: int) -> int:
    """Return the largest fraction 1/1, 1/2, 1/4 or 1/8 at which the box still has `size` pixels on each side."""
    return next((by for by in (8, 4, 2) if min(box[2], box[3]) >= by * size), 1)


def cut(image: np.ndarray, box: Box, full_size: tuple[int, int], size: int) -> np.ndarray:
    """Cut a box out of an image and resize it, uint8 [size, size, 3].

    The image may be decoded at a fraction of its `full_size` (width, height), which the box refers to. Shrinking
    averages areas, so that fine texture does not alias; enlarging is bicubic.
    """
    import cv2

    height, width = image.shape[:2]
    across, down = width / full_size[0], height / full_size[1]
    left, top = min(round(box[0] * across), width - 1), min(round(box[1] * down), height - 1)
    box_width = min(max(1, round(box[2] * across)), width - left)
    box_height = min(max(1, round(box[3] * down)), height - top)
    part = image[top : top + box_height, left : left + box_width]
    shrinks = box_width >= size and box_height >= size
    return cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
