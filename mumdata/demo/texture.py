"""What surfaces look like: stone, brick, windows, tiles, grass, leaves, wood, cloth.

In: coordinates on a surface in metres and a material. Out: its colour, before light. Patterns have detail at several
scales, so that pictures of 64 pixels and of 192 both have something to match.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mumdata.demo.noise import cell, fade, fractal, value_noise

__all__ = ["Colour", "Material", "PATTERNS", "Surface", "colour_of", "hues"]

Colour = tuple[float, float, float]
Channels = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Surface:
    """Points of one material: u and v along the surface, p from the solid's anchor, in metres, float32 [n] each."""

    u: np.ndarray
    v: np.ndarray
    p: Channels
    footprint: np.ndarray  # width of a sample on the surface


@dataclass(frozen=True)
class Material:
    """A pattern and its colours; `period` is the size of its cells (u, v) in metres."""

    pattern: str
    colours: tuple[Colour, ...]
    period: tuple[float, float] = (1.0, 1.0)
    seed: int = 0
    rough: float = 0.3  # strength of the noise


def hues(text: str) -> tuple[Colour, ...]:
    """Read colours written as on the web: `hues("ff8000 203040")`."""
    return tuple((int(c[:2], 16) / 255.0, int(c[2:4], 16) / 255.0, int(c[4:], 16) / 255.0) for c in text.split())


def _between(a: float | np.ndarray, b: float | np.ndarray, share: np.ndarray) -> np.ndarray:
    return np.asarray(a + (b - a) * share, dtype=np.float32)


def _mix(a: Colour | Channels, b: Colour | Channels, share: np.ndarray) -> Channels:
    return _between(a[0], b[0], share), _between(a[1], b[1], share), _between(a[2], b[2], share)


def _scale(c: Colour | Channels, by: np.ndarray) -> Channels:
    r, g, b = (x * by for x in c)
    return r, g, b


def _wear(s: Surface, m: Material, period: float = 2.0, octaves: int = 5) -> np.ndarray:
    return 1.0 + np.float32(2.0 * m.rough) * fractal(s.u, s.v, m.seed, s.footprint, period, octaves)


def _in(x: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    return ((x > low) & (x < high)).astype(np.float32)


def plain(s: Surface, m: Material) -> Channels:
    """One colour with stains; a second colour shows through where there is one."""
    wear = _wear(s, m)
    if len(m.colours) == 1:
        return _scale(m.colours[0], wear)
    share = np.clip(0.5 + 2.2 * fractal(s.v, s.u, m.seed + 9, s.footprint, m.period[0], 5), 0.0, 1.0)
    return _scale(_mix(m.colours[0], m.colours[1], share), wear)


def bricks(s: Surface, m: Material) -> Channels:
    """Courses of blocks, each with its own shade, and mortar between: colours are block, other block, mortar."""
    pu, pv = m.period
    row = np.floor(s.v / pv)
    x = s.u / pu + 0.5 * (row - 2.0 * np.floor(row / 2.0))
    column = np.floor(x)
    block = _mix(m.colours[0], m.colours[1], cell(column, row, m.seed))
    joint = 0.06 * min(pu, pv)
    near_u, near_v = (x - column) * pu, s.v - row * pv
    inner = ((near_u > joint) & (near_v > joint)).astype(np.float32)
    seen = fade(pv, s.footprint)
    return _scale(_mix(block, m.colours[2], (1.0 - inner) * seen), _wear(s, m))


def windows(s: Surface, m: Material) -> Channels:
    """A wall with a window in each cell: colours are wall, other wall, frame, glass."""
    pu, pv = m.period
    x, y = s.u / pu + 0.5, s.v / pv
    i, j = np.floor(x), np.floor(y)
    a, b = (x - i - 0.5) * pu, (y - j - 0.5) * pv
    wall = bricks(s, Material("bricks", (m.colours[0], m.colours[1], m.colours[1]), (0.62, 0.28), m.seed, m.rough))
    half_u, half_v = 0.24 * pu, 0.29 * pv
    across, up = np.abs(a), np.abs(b)
    frame = ((across < half_u + 0.16) & (up < half_v + 0.2)).astype(np.float32)
    glass = ((across < half_u) & (up < half_v)).astype(np.float32)
    bars = glass * ((across < 0.05) | (np.abs(b - 0.35 * half_v) < 0.05)).astype(np.float32) * fade(0.2, s.footprint)
    lit = cell(i, j, m.seed + 3)
    sheen = 0.55 + 0.5 * lit + 0.55 * (b / pv) + 0.25 * (a / pu) * (lit - 0.5)
    out = _mix(wall, m.colours[2], frame)
    out = _mix(out, _scale(m.colours[3], sheen), glass)
    return _mix(out, m.colours[2], bars)


def tiles(s: Surface, m: Material) -> Channels:
    """Roof tiles: rows that overlap, each tile rounded and of its own shade: two colours."""
    pu, pv = m.period
    row = np.floor(s.v / pv)
    x = s.u / pu + 0.5 * (row - 2.0 * np.floor(row / 2.0))
    column = np.floor(x)
    a, b = x - column - 0.5, s.v / pv - row
    seen = fade(pv, s.footprint)
    round_edge = 1.0 - seen * (0.75 * a * a + 0.38 * (1.0 - b) * (1.0 - b))
    tile = _mix(m.colours[0], m.colours[1], cell(column, row, m.seed))
    return _scale(tile, round_edge * _wear(s, m, 3.0))


def paving(s: Surface, m: Material) -> Channels:
    """Slabs in two colours, in the order of a chessboard, with dark joints."""
    pu, pv = m.period
    i, j = np.floor(s.u / pu), np.floor(s.v / pv)
    a, b = s.u / pu - i, s.v / pv - j
    odd = (i + j) - 2.0 * np.floor((i + j) / 2.0)
    seen = fade(pu, s.footprint)
    share = 0.5 + (odd - 0.5) * seen + 0.5 * seen * (cell(i, j, m.seed) - 0.5)
    joint = 1.0 - 0.35 * seen * (1.0 - _in(a, 0.04, 0.96) * _in(b, 0.04, 0.96))
    return _scale(_mix(m.colours[0], m.colours[1], share), joint * _wear(s, m, 3.0))


def grass(s: Surface, m: Material) -> Channels:
    """Meadow: two greens in patches, blades as fine noise, a few flowers where there is a third colour."""
    patch = np.clip(0.5 + 1.6 * fractal(s.u, s.v, m.seed + 5, s.footprint, 6.0, 4), 0.0, 1.0)
    blades = 1.0 + 1.3 * m.rough * fractal(s.u * 2.5, s.v, m.seed, s.footprint, 0.6, 4)
    out = _scale(_mix(m.colours[0], m.colours[1], patch), blades)
    if len(m.colours) > 2:
        i, j = np.floor(s.u / 0.35), np.floor(s.v / 0.35)
        flower = (cell(i, j, m.seed + 11) > 0.93).astype(np.float32) * patch * fade(0.35, s.footprint)
        out = _mix(out, m.colours[2], flower)
    return out


def leaves(s: Surface, m: Material) -> Channels:
    """Foliage: clumps in light and shade, gaps, single leaves; solid noise from three planes, so without seams."""
    k = 1.0 / m.period[0]
    x, y, z = (c * np.float32(k) for c in s.p)
    thin = s.footprint * k
    clump = fractal(x + 0.3 * z, y - 0.3 * z, m.seed, thin, 0.5, 2) + fractal(
        z - 0.2 * y, x + y, m.seed + 3, thin, 0.5, 2
    )
    leaf = fractal(x + 0.5 * z, y + 0.4 * z, m.seed + 7, thin, 0.13, 2)
    leaf = leaf + fractal(z - 0.3 * x, x - y, m.seed + 11, thin, 0.11, 2)
    share = np.clip(0.5 + 0.8 * clump + 0.9 * leaf, 0.0, 1.0)
    gap = np.clip(0.95 + 0.9 * clump + 1.2 * leaf, 0.5, 1.15)
    return _scale(_mix(m.colours[0], m.colours[1], share), gap)


def planks(s: Surface, m: Material) -> Channels:
    """Boards along u, each of its own shade, with grain and gaps."""
    pu, pv = m.period
    row = np.floor(s.v / pv)
    column = np.floor(s.u / pu + cell(row, row * 0.0, m.seed + 2) * 7.0)
    board = cell(column, row, m.seed)
    grain = fractal(s.u * 0.18 + board * 40.0, s.v * 3.0, m.seed + 4, s.footprint, 0.5, 4)
    b = s.v / pv - row
    gap = 1.0 - 0.45 * fade(pv, s.footprint) * (1.0 - _in(b, 0.05, 0.95))
    share = np.clip(board * 0.8 + 0.9 * grain + 0.1, 0.0, 1.0)
    return _scale(_mix(m.colours[0], m.colours[1], share), gap * (1.0 + m.rough * grain))


def stripes(s: Surface, m: Material) -> Channels:
    """Cloth, awnings or fluted stone: bands across u in the order of the colours, smooth where `period[1]` is 0."""
    pu = m.period[0]
    x = s.u / pu
    seen = fade(pu, s.footprint)
    if m.period[1] == 0.0:
        a = np.abs(x - np.floor(x) - 0.5) * 2.0
        share = (1.0 - seen) * 0.4 + seen * a * a
    else:
        i = np.floor(x)
        share = 0.5 + seen * (np.float32(1.0) * (i - 2.0 * np.floor(i / 2.0)) - 0.5)
    return _scale(_mix(m.colours[0], m.colours[1], share), _wear(s, m, 1.0))


def shelf(s: Surface, m: Material) -> Channels:
    """A bookcase: boards, and between them books of different widths, heights and colours: wood, gap, then spines."""
    pu, pv = m.period
    row = np.floor(s.v / pv)
    y = s.v / pv - row
    x = s.u / pu + 0.55 * value_noise(s.u / (2.3 * pu), row * 1.7, m.seed)
    i = np.floor(x)
    pick = cell(i, row, m.seed + 1)
    height = 0.62 + 0.3 * cell(i, row, m.seed + 2)
    num = len(m.colours) - 2
    out = _mix(m.colours[2], m.colours[2], pick)
    for number in range(1, num):
        out = _mix(out, m.colours[2 + number], (pick * num >= number).astype(np.float32))
    band = 1.0 - 0.4 * _in(y, 0.42 + 0.2 * pick, 0.5 + 0.2 * pick) - 0.35 * _in(x - i, 0.0, 0.12)
    out = _scale(out, 1.0 + (band - 1.0) * fade(pu, s.footprint))
    out = _mix(out, m.colours[1], (y > height).astype(np.float32))
    return _mix(out, m.colours[0], (y < 0.09).astype(np.float32))


def poster(s: Surface, m: Material) -> Channels:
    """A painting: patches of all its colours, large and small, with discs and brush strokes."""
    pu, pv = m.period
    out = _mix(m.colours[0], m.colours[0], s.u)
    for layer, size in enumerate((1.0, 0.45, 0.2)):
        x, y = s.u / (pu * size) + 0.31 * layer, s.v / (pv * size) + 0.17 * layer
        i, j = np.floor(x), np.floor(y)
        pick = cell(i, j, m.seed + 4 * layer)
        a, b = x - i - 0.5, y - j - 0.5
        disc = (a * a + b * b < 0.03 + 0.2 * pick) if layer % 2 else (np.abs(a) + np.abs(b) < 0.95)
        shown = disc & (cell(i, j, m.seed + 1 + 4 * layer) < 0.75 - 0.2 * layer)
        for number, colour in enumerate(m.colours[1:]):
            these = shown & (np.floor(pick * (len(m.colours) - 1)) == number)
            out = _mix(out, colour, these.astype(np.float32) * fade(pu * size, s.footprint))
    return _scale(out, _wear(s, m, 0.4))


def carpet(s: Surface, m: Material) -> Channels:
    """A rug: border bands, diamonds within, pile: ground, figure, border."""
    pu, pv = m.period
    x, y = s.u / pu, s.v / pv
    a, b = np.abs(x - np.floor(x) - 0.5), np.abs(y - np.floor(y) - 0.5)
    ring = (a + b) * 4.0
    step = np.floor(ring) - 2.0 * np.floor(ring / 2.0)
    seen = fade(pu * 0.25, s.footprint)
    out = _mix(m.colours[0], m.colours[1], 0.5 + seen * (step - 0.5))
    i, j = np.floor(x * 4.0), np.floor(y * 4.0)
    out = _mix(out, m.colours[2], seen * (cell(i, j, m.seed) > 0.7).astype(np.float32) * _in(ring, 1.0, 2.0))
    return _scale(out, _wear(s, m, 0.5))


def view(s: Surface, m: Material) -> Channels:
    """A window seen from within: sky, hills and trees behind a cross of frame: frame, sky, far, near."""
    pu, pv = m.period
    ridge = 0.42 + 0.5 * (value_noise(s.u / 0.9, s.u * 0.0, m.seed) - 0.5)
    trees = 0.22 + 0.5 * (value_noise(s.u / 0.23, s.u * 0.0, m.seed + 1) - 0.5)
    y = s.v / pv
    cloud = np.clip(3.0 * fractal(s.u, s.v * 2.0, m.seed + 2, s.footprint, 0.8, 4), 0.0, 1.0)
    out = _mix(m.colours[1], (1.0, 1.0, 1.0), cloud)
    out = _mix(out, m.colours[2], (y < ridge).astype(np.float32))
    out = _mix(out, m.colours[3], (y < trees).astype(np.float32))
    x = s.u / pu
    a, b = np.abs(x - np.floor(x) - 0.5), np.abs(y - 0.5)
    frame = ((a > 0.44) | (a < 0.03) | (b > 0.45)).astype(np.float32)
    return _scale(_mix(out, m.colours[0], frame), 1.0 + m.rough * (cloud - 0.5))


def ball(s: Surface, m: Material) -> Channels:
    """A basketball of radius `period[0]`: pebbled skin and dark seams: skin, seam."""
    x, y, z = (c / np.float32(m.period[0]) for c in s.p)
    curve = 0.45 + 0.35 * x * x
    seam = (np.abs(z) < 0.035) | (np.abs(y) < 0.035) | (np.abs(np.abs(y) - curve) < 0.04)
    pebbles = 1.0 + m.rough * fractal(s.u, s.v, m.seed, s.footprint, 0.12, 3)
    return _mix(_scale(m.colours[0], pebbles), m.colours[1], seam.astype(np.float32))


PATTERNS: dict[str, Callable[[Surface, Material], Channels]] = {
    function.__name__: function
    for function in (
        plain, bricks, windows, tiles, paving, grass, leaves, planks, stripes, shelf, poster, carpet, view, ball,
    )
}  # fmt: skip


def colour_of(surface: Surface, material: Material) -> Channels:
    """Return red, green and blue in about 0 .. 1, float32 [n] each."""
    return PATTERNS[material.pattern](surface, material)
