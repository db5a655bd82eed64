"""What pictures of a model's work are made of: squares cut from images, words that fit, and the page they stand on.

In: image files; pictures, words, frames and their places in pixels from the top left. Out: uint8 squares; a PNG, JPEG,
PDF or SVG in which each pixel of a picture is a whole number of pixels wide, wherever its size allows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mumdata.errors import ConfigError, DecodeError, MumError
from mumdata.files import atomic_path
from mumdata.images import read_header, read_image
from mumtrain.reading.crops import cut, square_box

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ft2font import FT2Font

__all__ = [
    "MOST_IMAGES",
    "Picture",
    "Words",
    "Frame",
    "check_ending",
    "check_number",
    "read_square",
    "shown_side",
    "enlarged",
    "printable",
    "text_width",
    "fitted",
    "wrapped",
    "told_name",
    "draw_page",
]

# more squares than that are no picture to look at
MOST_IMAGES = 100

_ENDINGS = (".png", ".jpg", ".jpeg", ".pdf", ".svg")
_DPI = 160
_FONT = "DejaVu Sans"  # comes with matplotlib, so that every machine draws the same
# squares are enlarged to about this side, and shrunk to it where they are more than half as large again
_SIDE = 300
# matplotlib draws no more than 2^16 pixels across
_LARGEST = 60_000


@dataclass(frozen=True, eq=False)
class Picture:
    """An RGB picture, uint8 or floats in 0 .. 1, stretched to width x height."""

    pixels: np.ndarray
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Words:
    """One line of text, its middle at the height `y`; `align` says which of its ends `x` is."""

    text: str
    x: float
    y: float
    size: float = 8.0  # points
    align: Literal["left", "center", "right"] = "center"
    colour: str = "black"


@dataclass(frozen=True)
class Frame:
    """The outline of a box, drawn over the pictures; dark on both sides of its colour, so that it shows on any."""

    left: float
    top: float
    width: float
    height: float
    colour: str = "white"


# ---- images


def check_ending(out: Path) -> None:
    """Raise ConfigError for a name that does not end like a picture."""
    if Path(out).suffix.lower() not in _ENDINGS:
        raise ConfigError(f"'{out}' does not end like a picture; use .png, .jpg, .pdf or .svg")


def check_number(num: int) -> None:
    """Raise ConfigError for no images, or for more than a picture holds."""
    if not num:
        raise ConfigError("no images given; name one or more views of a scene")
    if num > MOST_IMAGES:
        raise ConfigError(f"{num} images are more than one picture holds; give at most {MOST_IMAGES}")


def read_square(path: Path, size: int) -> np.ndarray:
    """Read the largest centred square of an image, upright, as uint8 RGB [size, size, 3].

    Raises DecodeError for what is no whole image, MumError for what cannot be opened or is no file, such as a pipe.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise MumError(f"cannot read {path}: it is no regular file; name an image file")
        with open(path, "rb") as file:
            data = file.read()
        header = read_header(lambda at, count: data[at : at + count], len(data))
        image = read_image(path.parent, path.name, quarter_turns=header.upright_quarter_turns)
    except OSError as error:
        raise MumError(f"cannot read {path}: {error.strerror or error}") from error
    except DecodeError as error:
        raise DecodeError(f"{path}: {error}") from error
    height, width = image.shape[:2]
    return cut(image, square_box(width, height), (width, height), size)


def shown_side(size: int) -> int:
    """Return the side, in pixels, that a square of `size` is shown with: a multiple of it, but for large ones."""
    return _SIDE if size > 1.5 * _SIDE else size * max(1, _SIDE // size)


def enlarged(grid: np.ndarray, factor: int) -> np.ndarray:
    """Return a picture or map with each of its values repeated `factor` times in both directions."""
    return grid.repeat(factor, axis=0).repeat(factor, axis=1)


# ---- words


@cache
def _font() -> FT2Font:
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    return FT2Font(font_manager.findfont(_FONT))


def printable(text: str) -> str:
    """Return a text with question marks in the places of what the font cannot draw."""
    return "".join(c if c.isprintable() and _font().get_char_index(ord(c)) else "?" for c in text)


def text_width(text: str, size: float) -> float:
    """Return how wide a printable text of `size` points becomes, in pixels."""
    return sum(_advance(char, size) for char in text)


@cache
def _advance(char: str, size: float) -> float:
    # pixels from a character to the next
    font = _font()
    font.set_size(size, _DPI)
    return float(font.load_char(ord(char)).linearHoriAdvance) / 65536


def fitted(text: str, room: float, size: float = Words.size) -> str:
    """Return a printable text at most `room` pixels wide: one that is too long loses its middle."""
    safe = printable(text)
    if text_width(safe, size) <= room:
        return safe
    for stay in range(len(safe) - 1, 0, -1):
        shorter = f"{safe[: (stay + 1) // 2]}…{safe[len(safe) - stay // 2 :]}"
        if text_width(shorter, size) <= room:
            return shorter
    return "…"


def wrapped(text: str, room: float, size: float = Words.size) -> list[str]:
    """Break a text at its spaces into printable lines of at most `room` pixels; a longer word loses its middle."""
    lines: list[str] = []
    for word in printable(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(fitted(word, room, size))
    return lines


def told_name(name: str, path: Path) -> str:
    """Return which weights a picture was drawn with: their name, and their file where the name does not say it."""
    return name if path.stem in name else f"{name}, {path.stem}"


# ---- the page


def draw_page(items: Sequence[Picture | Words | Frame], width: int, height: int, out: Path) -> None:
    """Draw a white page of width x height pixels into a file whose ending says of which kind.

    Raises ConfigError for a page that is too large to be drawn.
    """
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if max(width, height) > _LARGEST:
        raise ConfigError(f"the picture would have {width} x {height} pixels; ask for fewer things at once")
    # nothing of the user's own settings; figure and canvas are made directly: pyplot would keep global state
    with matplotlib.style.context("default"):
        # the sides are rounded down to whole pixels
        figure = Figure(figsize=((width + 0.01) / _DPI, (height + 0.01) / _DPI), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, width / (width + 0.01), height / (height + 0.01)))
        axes.set_axis_off()
        for item in items:
            _put(axes, item)
        axes.set(xlim=(0, width), ylim=(height, 0))
        # the name's ending would be lost in the temporary file's
        kind = Path(out).suffix.lower().lstrip(".")
        with atomic_path(out) as temporary:
            figure.savefig(temporary, dpi=_DPI, format=kind)


def _put(axes: Axes, item: Picture | Words | Frame) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    if isinstance(item, Words):
        axes.text(
            item.x,
            item.y,
            item.text,
            ha=item.align,
            va="center",
            fontsize=item.size,
            color=item.colour,
            fontfamily=_FONT,
            parse_math=False,
        )
    elif isinstance(item, Frame):
        outline = Rectangle((item.left, item.top), item.width, item.height, fill=False, ec=item.colour, lw=1.2)
        outline.set(zorder=3, path_effects=[withStroke(linewidth=2.4, foreground="black")])
        axes.add_artist(outline)
    else:
        extent = (item.left, item.left + item.width, item.top + item.height, item.top)
        axes.imshow(item.pixels, extent=extent, aspect="auto", interpolation=_interpolation(item), vmin=0, vmax=1)


def _interpolation(item: Picture) -> str:
    # pixels stay pixels, but a picture that is shown smaller is averaged
    rows, columns = item.pixels.shape[:2]
    return "none" if item.width >= columns and item.height >= rows else "antialiased"
