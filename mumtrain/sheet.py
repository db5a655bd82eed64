"""Contact sheets: many small pictures, in groups, with words.

In: groups of square uint8 pictures and what to write beside them. Out: a picture of at most 2,400 pixels across, in
which the pictures of a group stand side by side as long as they fit.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

__all__ = ["Tile", "Group", "Sheet", "Layout", "arrange", "shown_size", "shorten", "draw_sheet"]

_WIDTH, _LEAST_WIDTH = 2400, 860  # pixels, as is everything below
_MARGIN, _GAP, _TILE_GAP, _PADDING = 28, 14, 8, 12
_TITLE, _ABOUT, _LABEL = 22, 22, 22  # heights of lines of a group
_TITLE_SIZE, _ABOUT_SIZE, _LABEL_SIZE = 16, 13, 12
_HEAD_SIZE, _HEAD, _NOTE = 28, 40, 20

_PAGE, _CARD, _EDGE = (243, 244, 246), (255, 255, 255), (219, 222, 227)
_INK, _GREY, _RED = (24, 28, 35), (98, 106, 118), (200, 30, 40)
# one for each dataset, told apart also by those who do not tell red from green
_COLOURS = (
    *((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0)),
    *((117, 112, 179), (166, 118, 29), (102, 102, 102), (27, 120, 55), (158, 30, 99), (64, 64, 160)),
)


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture, uint8 [S, S, 3], and the line below it, behind a mark; `is_bad` draws them in red."""

    picture: np.ndarray
    label: str
    mark: str = ""
    is_bad: bool = False


@dataclass(frozen=True, eq=False)
class Group:
    """Pictures that belong together; groups of one `colour` (a number from 0) are of one kind."""

    title: str
    about: str
    colour: int
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, eq=False)
class Sheet:
    """A heading, groups of as many pictures each, and notes below them."""

    title: str
    about: Sequence[str]
    groups: Sequence[Group]
    notes: Sequence[str] = ()


class Layout(NamedTuple):
    """How groups are arranged: so many side by side, each of columns x rows pictures."""

    across: int
    columns: int
    rows: int


def shown_size(size: int) -> int:
    """Return the side that pictures are shown with: their own or a multiple of it; of large ones, 224 pixels."""
    if size > 256:
        return 224
    return size * max(1, 224 // size)


def arrange(num_groups: int, num_tiles: int, side: int) -> Layout:
    """Choose a low sheet for groups of `num_tiles` pictures of `side` pixels, with groups in few rows."""
    best, least = Layout(1, 1, num_tiles), float("inf")
    for rows in range(1, num_tiles + 1):
        columns = -(-num_tiles // rows)
        width = _card_width(columns, side)
        across = min((_WIDTH - 2 * _MARGIN + _GAP) // (width + _GAP), num_groups)
        if across < 1:
            continue
        down = -(-num_groups // across)
        # a group of several rows is harder to read
        cost = down * (_card_height(rows, side) + _GAP) * (1 + 0.15 * (rows - 1))
        if cost < least:
            best, least = Layout(-(-num_groups // down), columns, rows), cost
    return best


def _card_width(columns: int, side: int) -> int:
    return columns * (side + _TILE_GAP) - _TILE_GAP + 2 * _PADDING


def _card_height(rows: int, side: int) -> int:
    return 2 * _PADDING + _TITLE + _ABOUT + rows * (side + _LABEL)


def draw_sheet(sheet: Sheet) -> Image:
    """Draw a sheet, RGB."""
    from PIL import Image, ImageDraw

    side = shown_size(sheet.groups[0].tiles[0].picture.shape[0])
    layout = arrange(len(sheet.groups), len(sheet.groups[0].tiles), side)
    across, down = _card_width(layout.columns, side), _card_height(layout.rows, side)
    num_down = -(-len(sheet.groups) // layout.across)
    width = max(_LEAST_WIDTH, 2 * _MARGIN + layout.across * (across + _GAP) - _GAP)
    # about as many letters as fit between the margins
    notes = [line for note in sheet.notes for line in textwrap.wrap(note, (width - 2 * _MARGIN) // 8)]
    top = _MARGIN + _HEAD + len(sheet.about) * _NOTE + _GAP
    height = top + num_down * (down + _GAP) - _GAP + _MARGIN + (len(notes) * _NOTE + _GAP if notes else 0)
    image = Image.new("RGB", (width, height), _PAGE)
    draw = ImageDraw.Draw(image)
    room = width - 2 * _MARGIN
    _write(draw, (_MARGIN, _MARGIN), sheet.title, _font(_HEAD_SIZE, bold=True), room, _INK)
    for number, line in enumerate(sheet.about):
        _write(draw, (_MARGIN, _MARGIN + _HEAD + number * _NOTE), line, _font(_ABOUT_SIZE), room, _GREY)
    for number, group in enumerate(sheet.groups):
        row, column = divmod(number, layout.across)
        place = (_MARGIN + column * (across + _GAP), top + row * (down + _GAP))
        _draw_group(image, draw, group, place, layout, side)
    below = top + num_down * (down + _GAP)
    for number, line in enumerate(notes):
        _write(draw, (_MARGIN, below + number * _NOTE), line, _font(_ABOUT_SIZE), room, _RED)
    return image


def _draw_group(image: Image, draw: ImageDraw, group: Group, place: tuple[int, int], layout: Layout, side: int) -> None:
    from PIL import Image

    left, top = place
    width = _card_width(layout.columns, side)
    right, bottom = left + width - 1, top + _card_height(layout.rows, side) - 1
    draw.rectangle((left, top, right, bottom), fill=_CARD, outline=_EDGE)
    draw.rectangle((left, top, right, top + 3), fill=_COLOURS[group.colour % len(_COLOURS)])
    left, top, room = left + _PADDING, top + _PADDING, width - 2 * _PADDING
    _write(draw, (left, top), group.title, _font(_TITLE_SIZE, bold=True), room, _INK)
    _write(draw, (left, top + _TITLE), group.about, _font(_ABOUT_SIZE), room, _GREY)
    for number, tile in enumerate(group.tiles):
        row, column = divmod(number, layout.columns)
        x = left + column * (side + _TILE_GAP)
        y = top + _TITLE + _ABOUT + row * (side + _LABEL)
        if tile.is_bad:
            draw.rectangle((x - 3, y - 3, x + side + 2, y + side + 2), fill=_RED)
        image.paste(Image.fromarray(_resized(tile.picture, side)), (x, y))
        font, colour = _font(_LABEL_SIZE), _RED if tile.is_bad else _GREY
        mark = f"{tile.mark} " if tile.mark else ""
        draw.text((x, y + side + 3), mark, font=font, fill=colour)
        behind = round(font.getlength(mark))
        _write(draw, (x + behind, y + side + 3), tile.label, font, side - behind, colour)


def _resized(picture: np.ndarray, side: int) -> np.ndarray:
    size = picture.shape[0]
    if size > side:
        import cv2

        return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA))
    # each pixel stays what it is
    return np.ascontiguousarray(picture.repeat(side // size, axis=0).repeat(side // size, axis=1))


def _write(
    draw: ImageDraw, place: tuple[int, int], text: str, font: FreeTypeFont, room: int, colour: tuple[int, int, int]
) -> None:
    draw.text(place, shorten(text, font, room), font=font, fill=colour)


def shorten(text: str, font: FreeTypeFont, room: int) -> str:
    """Return a text that is at most `room` pixels wide: a long path loses its first folders, other texts their middle.

    What the font cannot draw becomes a question mark.
    """
    known = _known_characters()
    safe = "".join(char if char.isprintable() and ord(char) in known else "?" for char in text)
    if font.getlength(safe) <= room:
        return safe
    for at in (at for at, char in enumerate(safe) if char == "/"):
        if font.getlength(tail := f"…{safe[at:]}") <= room:
            return tail
    least, most = 0, len(safe)  # letters that stay
    while least < most:
        stay = (least + most + 1) // 2
        least, most = (stay, most) if font.getlength(_cut(safe, stay)) <= room else (least, stay - 1)
    return _cut(safe, least)


def _cut(text: str, stay: int) -> str:
    first = stay // 3
    return f"{text[:first]}…{text[len(text) - (stay - first) :]}"


def _font_file(bold: bool) -> Path:
    import matplotlib

    # matplotlib brings it along; it knows Latin, Greek, Cyrillic and more
    return Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVuSans{'-Bold' if bold else ''}.ttf")


@cache
def _font(size: int, bold: bool = False) -> FreeTypeFont:
    from PIL import ImageFont

    # laid out by Pillow itself: other engines are there on some machines only
    return ImageFont.truetype(str(_font_file(bold)), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def _known_characters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    fonts = (FT2Font(str(_font_file(bold))).get_charmap() for bold in (False, True))
    return frozenset.intersection(*map(frozenset, fonts))
