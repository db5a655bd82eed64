"""From the bytes of a frame to one view of it.

In: an encoded image, its quarter turns, the settings of `data`, and the view's place in the run. Out: uint8 RGB
[S, S, 3]. What is drawn - box, mirror, colours - is a function of that place alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mumdata import rng
from mumdata.headers import read_header
from mumtrain.config import DataConfig
from mumtrain.reading.crops import Box, crop_box, on_grid, resized, shrinkage, stored_box
from mumtrain.reading.decode import decode_box

__all__ = ["Position", "draw_view", "view_box", "is_mirrored", "jitter_factors", "jittered"]

# shares of red, green and blue in the grey level of a colour (Rec. 601)
_GREY = (0.299, 0.587, 0.114)


class Position(NamedTuple):
    """Where in a run a view belongs: its slot, its number in it, and how many views each sequence there has."""

    seed: int
    step: int
    slot: int
    number: int
    views: int


def draw_view(data: bytes, turns: int, config: DataConfig, where: Position, out: np.ndarray) -> None:
    """Decode, crop, resize, turn, mirror and jitter one frame, and write it to `out`: uint8 RGB [S, S, 3].

    `turns` clockwise quarter turns make the stored picture upright; what EXIF says is passed over. Raises DecodeError
    where `data` is no whole image, and then leaves `out` as it is.
    """
    import cv2

    header = read_header(lambda at, num: data[at : at + num], len(data))
    box, step = view_box(config, header.width, header.height, turns, where)
    view = resized(decode_box(data, header, box, step), config.size)
    turn = (None, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)[turns % 4]
    if turn is not None:
        view = cv2.rotate(view, turn)
    if is_mirrored(config.mirror, where):
        view = cv2.flip(view, 1)
    if config.jitter:
        view = jittered(view, *jitter_factors(config.jitter, where))
    np.copyto(out, view)


def view_box(config: DataConfig, width: int, height: int, turns: int, where: Position) -> tuple[Box, int]:
    """Draw which box of a frame a view shows, and tell by what the frame may be shrunk before it is cut out.

    `width` and `height` are the stored frame's, and the box is in its pixels. It is drawn in the upright frame, which
    `turns` make of the stored one, and its edges are moved to multiples of what the frame may be shrunk by.
    """
    upright = (width, height) if turns % 2 == 0 else (height, width)
    key = rng.key(where.seed, where.step, where.slot, where.number, "view")
    box = stored_box(crop_box(config.crop, *upright, key, config.crop_area, config.crop_aspect), width, height, turns)
    step = shrinkage(box, config.size)
    return on_grid(box, width, height, step), step


def is_mirrored(rule: str, where: Position) -> bool:
    """Tell whether a view is mirrored, by a rule of `data.mirror`."""
    if rule == "none":
        return False
    number = where.number
    if rule == "per_sequence":
        number -= number % where.views  # the sequence's first view draws for all
    return rng.word(rng.key(where.seed, where.step, where.slot, number, "mirror")) >> 63 == 1


def jitter_factors(jitter: float, where: Position) -> tuple[float, float, float]:
    """Return a view's factors of brightness, contrast and saturation, each uniform in 1 - jitter to 1 + jitter."""
    key = rng.key(where.seed, where.step, where.slot, where.number, "jitter")
    brightness, contrast, saturation = (1 - jitter + 2 * jitter * rng.fraction(key, index) for index in range(3))
    return brightness, contrast, saturation


def jittered(view: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Change the colours of a view, uint8 RGB [S, S, 3], in this order, and clip them to 0 .. 255 at the end.

    Brightness multiplies all values. Contrast multiplies their distances from the picture's mean grey level, and
    saturation those from the grey level of their own pixel. Together that is one affine map of a pixel's colours.
    """
    import cv2

    mean_grey = sum(mean * share for mean, share in zip(cv2.mean(view), _GREY, strict=False))
    by_grey = (1 - saturation) * np.broadcast_to(_GREY, (3, 3)) + saturation * np.eye(3)
    offset = np.full((3, 1), (1 - contrast) * brightness * mean_grey)
    return cv2.transform(view, np.hstack([brightness * contrast * by_grey, offset]))
