"""From an image file to the picture that a model gets, and where in the image that is.

In: encoded bytes, and a rule of sizes. Out: uint8 RGB in whole patches, upright, and the box of the upright image that
it shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mumdata.errors import ConfigError, DecodeError
from mumdata.headers import read_header
from mumtrain.features.source import Encoded
from mumtrain.reading.crops import Box, on_grid, resized, shrinkage, square_box, stored_box
from mumtrain.reading.decode import decode_box

__all__ = ["Framing", "View", "read_framing", "read_view", "upright_size"]


class View(NamedTuple):
    """A picture for the model, uint8 RGB [H, W, 3], and what part of the upright image it shows."""

    picture: np.ndarray
    box: Box


@dataclass(frozen=True)
class Framing:
    """Which part of an image is shown, at which size.

    `square`: the largest centred square, resized to side x side, as in training. `short`: the whole image, its short
    side resized to `side` and the long one along with it. `native`: not resized. In the last two, what is left over of
    a patch is cut off, half at each end.
    """

    kind: str
    side: int
    patch: int

    def place(self, width: int, height: int) -> tuple[Box, tuple[int, int]]:
        """Return the box of an upright image that is shown, and its width and height in the picture.

        Raises DecodeError where the image is smaller than a patch.
        """
        if self.kind == "square":
            return square_box(width, height), (self.side, self.side)
        if self.kind == "native":
            if min(width, height) < self.patch:
                raise DecodeError(f"{width} x {height} pixels are less than one patch of {self.patch}")
            wide, high = (side // self.patch * self.patch for side in (width, height))
            return ((width - wide) // 2, (height - high) // 2, wide, high), (wide, high)
        short, long = sorted((width, height))
        shown = long * self.side // short // self.patch * self.patch
        taken = min(long, max(1, round(shown * short / self.side)))
        before = (long - taken) // 2
        if width >= height:
            return (before, 0, taken, height), (shown, self.side)
        return (0, before, width, taken), (self.side, shown)

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Return the rows and columns of patches of an upright image of that size."""
        wide, high = self.place(width, height)[1]
        return high // self.patch, wide // self.patch

    def __str__(self) -> str:
        return {"square": f"{self.side}", "short": f"short:{self.side}", "native": "native"}[self.kind]


def read_framing(size: int | str | None, trained: int, patch: int) -> Framing:
    """Read a size: `S` (the model's own where None), `short:S` or `native`; ConfigError for anything else."""
    text = str(trained if size is None else size).strip()
    if text == "native":
        return Framing("native", 0, patch)
    kind, _, number = text.rpartition(":")
    if kind not in ("", "short") or not number.isdecimal():
        raise ConfigError(f"size '{size}' is neither a number of pixels, nor short:PIXELS, nor native")
    side = int(number)
    if side < patch or side % patch:
        near = max(1, round(side / patch)) * patch
        raise ConfigError(f"size {side} is no multiple of the model's patches of {patch} pixels; the nearest is {near}")
    return Framing(kind or "square", side, patch)


def upright_size(encoded: Encoded) -> tuple[int, int]:
    """Return width and height of an image when upright, by its header; DecodeError where it has none."""
    header = read_header(lambda at, num: encoded.data[at : at + num], len(encoded.data), check_end=False)
    turns = header.upright_quarter_turns if encoded.turns is None else encoded.turns
    return (header.width, header.height) if turns % 2 == 0 else (header.height, header.width)


def read_view(encoded: Encoded, framing: Framing) -> View:
    """Decode, cut, resize and turn one image, as training does; DecodeError where it is no whole image."""
    import cv2

    data = encoded.data
    header = read_header(lambda at, num: data[at : at + num], len(data))
    turns = (header.upright_quarter_turns if encoded.turns is None else encoded.turns) % 4
    upright = (header.width, header.height) if turns % 2 == 0 else (header.height, header.width)
    box, (width, height) = framing.place(*upright)
    step = shrinkage(box, min(width, height))
    stored = on_grid(stored_box(box, header.width, header.height, turns), header.width, header.height, step)
    part = decode_box(data, header, stored, step)
    wide, high = (width, height) if turns % 2 == 0 else (height, width)
    picture = part if part.shape[:2] == (high, wide) else resized(part, wide, high)
    turn = (None, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)[turns]
    if turn is not None:
        picture = cv2.rotate(picture, turn)
    # a picture that was neither resized nor turned may lie in memory that the next one overwrites
    return View(picture.copy(), stored_box(stored, *upright, 4 - turns))
