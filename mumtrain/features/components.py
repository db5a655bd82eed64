"""Principal components of patch tokens as colours.

In: the patch tokens of several images, and the images. Out: a picture of each image above its first three components
in red, green and blue, computed over all images together, so that one colour means the same in each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mumtrain.drawing import Picture, Words, draw_page, fitted, text_width

__all__ = ["draw_components", "principal_components", "to_colours"]

# shares of the tokens, in percent, that are darkest and brightest in a colour
_PERCENTILES = (2.0, 98.0)

# all in pixels of the page; pictures have about the area of a square of _SIDE
_SIDE, _GAP, _MARGIN, _LABEL, _TITLE, _NAME, _BETWEEN = 260, 8, 24, 96, 64, 26, 18
_MOST_WIDTH = 2000


def principal_components(tokens: Sequence[np.ndarray], num: int = 3) -> tuple[list[np.ndarray], np.ndarray]:
    """Project tokens [N, D] of each image onto their first `num` principal components, over all images together.

    Returns the projections, float64 [N, num] of each image, and the share of the variance that each component has.
    A component's sign is such that the entry of its axis with the greatest absolute value is positive: it depends
    neither on the order of the images nor on the solver.
    """
    values = [np.asarray(part, np.float64) for part in tokens]
    mean = sum(part.sum(axis=0) for part in values) / sum(map(len, values))
    centred = [part - mean for part in values]
    scatter = sum(part.T @ part for part in centred)
    strengths, axes = np.linalg.eigh(scatter)  # ascending
    axes = axes[:, ::-1][:, :num]
    strongest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    axes = axes * np.where(strongest < 0, -1.0, 1.0)
    total = max(float(np.trace(scatter)), np.finfo(np.float64).tiny)
    return [part @ axes for part in centred], strengths[::-1][:num].clip(0) / total


def to_colours(projected: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Stretch each component to 0 .. 1, by the same two percentiles over all images; what lies beyond is clipped."""
    low, high = np.percentile(np.concatenate(projected), _PERCENTILES, axis=0)
    span = high - low
    flat = span <= 0
    return [np.where(flat, 0.5, (part - low) / np.where(flat, 1.0, span)).clip(0, 1) for part in projected]


def draw_components(
    pictures: Sequence[np.ndarray],
    tokens: Sequence[np.ndarray],
    grids: Sequence[tuple[int, int]],
    names: Sequence[str],
    *,
    title: str,
    out: Path,
) -> None:
    """Draw pictures (uint8 RGB [H, W, 3]) above the components of their tokens [rows * columns, D].

    As many stand side by side as fit; then a new pair of rows begins.
    """
    projected, shares = principal_components(tokens)
    colours = [
        part.reshape(*grid, 3).astype(np.float32) for part, grid in zip(to_colours(projected), grids, strict=True)
    ]
    sizes = [_shown(*picture.shape[:2]) for picture in pictures]
    lines = _lines([width for width, _ in sizes])
    of = f"of all {len(pictures)} images together" if len(pictures) > 1 else "of this image"
    told = (
        f"red, green, blue: the first three principal components of the patch tokens {of} "
        f"({', '.join(f'{share:.0%}' for share in shares)} of their variance)"
    )
    widest = max(sum(sizes[at][0] for at in line) + _GAP * (len(line) - 1) for line in lines)
    room = max(min(text_width(title, 10), _MOST_WIDTH), text_width(told, 7.5), _LABEL + widest)
    page_width, y = math.ceil(room) + 2 * _MARGIN, _MARGIN + _TITLE
    items: list[Picture | Words] = [
        Words(fitted(title, page_width - 2 * _MARGIN, 10), page_width / 2, _MARGIN + 10, 10),
        Words(fitted(told, page_width - 2 * _MARGIN, 7.5), page_width / 2, _MARGIN + 38, 7.5, colour="0.3"),
    ]
    left = _LABEL + (page_width - _LABEL - widest) // 2
    for line in lines:
        tallest, x = max(sizes[at][1] for at in line), left
        y += _NAME
        below = y + tallest + _GAP
        items.append(Words("input", left - 12, y + tallest / 2, 9, align="right"))
        items.append(Words("features", left - 12, below + tallest / 2, 9, align="right"))
        for at in line:
            width, height = sizes[at]
            items.append(Words(fitted(names[at], width), x + width / 2, y - _NAME / 2))
            items.append(Picture(pictures[at], x, y, width, height))
            items.append(Picture(colours[at], x, below, width, height))
            x += width + _GAP
        y = below + tallest + _BETWEEN
    draw_page(items, page_width, y - _BETWEEN + _MARGIN, out)


def _shown(height: int, width: int) -> tuple[int, int]:
    # width and height on the page: the picture's own shape, at the area of a square of _SIDE
    scale = _SIDE / (width * height) ** 0.5
    return max(1, round(width * scale)), max(1, round(height * scale))


def _lines(widths: Sequence[int]) -> list[list[int]]:
    # numbers of the pictures of each line, filled from the left and about equally long
    total = sum(widths) + _GAP * len(widths)
    target = total / -(-total // _MOST_WIDTH)
    lines: list[list[int]] = []
    used = 0.0
    for number, width in enumerate(widths):
        if not lines or used + width / 2 > target * len(lines):
            lines.append([])
        lines[-1].append(number)
        used += width + _GAP
    return lines
