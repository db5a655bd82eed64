"""The kinds of masks.

In: for each view three random words for a shape and one for each patch, and the grid. Out: for the exact kinds an order
in which patches get hidden, of which a view takes the first ones; for the others which patches are hidden. All of it
with integers, or with + - * / and square roots of float64 one after the other: the same on every device. Grids may have
up to 128 x 128 patches, until which no integer overflows.
Shapes: v views, rows x columns = N patches, r x c of them as a grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from mumtrain.masks.words import below, unit

__all__ = ["ORDERS", "SHAPES"]

# steps of a walk for each patch of the grid: of grids whose sides are alike it has visited three quarters by then, and
# nine tenths nearly always
_STEPS = 16

# times that the way to a patch may run in all four directions: more would change few of the hidden patches
_ROUNDS = 4

# above every cost of a way
_FAR = 1 << 60

# the width of a shape over its height is drawn log-uniformly between these
_ASPECT_LOW, _ASPECT_HIGH = 0.3, 3.0


def random_order(place_v3: torch.Tensor, patches_vN: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """All patches in a random order."""
    return patches_vN


def blob_order(place_v3: torch.Tensor, patches_vN: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Patches in the order in which a spill from a random one reaches them over rough ground: one ragged region.

    To enter a patch costs the fourth power of smooth noise: spread evenly over 0 .. 1023, summed over 3 x 3 patches,
    where those outside the grid are the border's own, over 8.
    """
    noise = ((patches_vN >> 54) & 1023).unflatten(-1, (rows, columns))
    height = _box_sum(noise) >> 3
    start = below(place_v3[:, 0], rows) * columns + below(place_v3[:, 1], columns)
    entered = torch.full_like(patches_vN, _FAR).scatter(1, start[:, None], 0).view_as(noise)
    return _without_ties(_spread(entered, height * height * height * height + 1, _ROUNDS).flatten(-2))


def walk_order(place_v3: torch.Tensor, patches_vN: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Patches in the order in which a random walk first visits them; borders throw it back.

    Patches that it does not come to in 16 N steps follow by their distance from the others, so that the first ones of
    the order are always connected. A walk in the plane, folded like paper along the borders, is one that is thrown
    back: no step waits for another.
    """
    num = _STEPS * rows * columns
    # the upper half of a word holds steps of two bits: along the rows or the columns, to the one side or the other
    halves = (patches_vN >> 32).int()
    shifts = torch.arange(0, 2 * _STEPS, 2, dtype=torch.int32, device=halves.device)
    drawn = ((halves[..., None] >> shifts) & 3).flatten(-2)
    sign, is_down = 1 - 2 * (drawn & 1), drawn >> 1
    row = _walked(below(place_v3[:, :1], rows), sign * is_down, rows)
    column = _walked(below(place_v3[:, 1:2], columns), sign * (1 - is_down), columns)
    visited = (row * columns + column).long()
    steps = torch.arange(num, device=visited.device).expand_as(visited)
    first = torch.full_like(patches_vN, _FAR).scatter_reduce(1, visited, steps, "amin").unflatten(-1, (rows, columns))
    return _without_ties(_spread(first, torch.full_like(first, num), 1).flatten(-2))


def _walked(start: torch.Tensor, steps: torch.Tensor, size: int) -> torch.Tensor:
    # 0 1 2 3 | 3 2 1 0 | 0 1 2 3: a border is left one step after it was reached
    place = (start.int() + steps.cumsum(-1, dtype=torch.int32)) % (2 * size)
    return torch.minimum(place, 2 * size - 1 - place)


def _spread(entered_vrc: torch.Tensor, cost_vrc: torch.Tensor, rounds: int) -> torch.Tensor:
    """Return the least cost of each patch: its own of `entered`, or another's and that of a way to it from there.

    A way pays the cost of each patch that it enters; in each round it may go right, left, down and up, in this order
    and as far as it likes. Where it may end it might have ended before: with costs above 0 the patches below any limit
    are connected to patches that ways start from.
    """
    for _ in range(rounds):
        for dim in (-1, -2):
            # of the costs summed up along a row, a way within it pays the difference of both ends
            after = cost_vrc.cumsum(dim)
            before = after - cost_vrc
            entered_vrc = after + (entered_vrc - after).cummin(dim).values
            entered_vrc = (entered_vrc + before).flip(dim).cummin(dim).values.flip(dim) - before
    return entered_vrc


def _box_sum(values: torch.Tensor) -> torch.Tensor:
    # sums over 3 x 3 neighbours; what lies outside counts as the border's own
    for dim in (-2, -1):
        size = values.shape[dim]
        at = torch.arange(size, device=values.device)
        before, after = (at - 1).clamp(min=0), (at + 1).clamp(max=size - 1)
        values = values + values.index_select(dim, before) + values.index_select(dim, after)
    return values


def _without_ties(score: torch.Tensor) -> torch.Tensor:
    # of patches with equal scores the first one comes first
    N = score.shape[-1]
    return score * N + torch.arange(N, device=score.device)


def rectangle(place_v3: torch.Tensor, rows: int, columns: int, ratio_v: torch.Tensor) -> torch.Tensor:
    """A rectangle of `ratio` of the area, its width over its height 0.3 to 3, cut to the grid and put anywhere.

    Sides are rounded to whole patches, at least one. One that would fill the grid leaves a row, or a column where this
    is shorter.
    """
    width, height = _sides(place_v3[:, 0], ratio_v * (rows * columns))
    tall = (height + 0.5).floor().long().clamp(1, rows)
    wide = (width + 0.5).floor().long().clamp(1, columns)
    is_full = (tall == rows) & (wide == columns)
    if columns > rows:
        wide = wide - is_full.long()
    elif rows > 1:
        tall = tall - is_full.long()
    top, left = below(place_v3[:, 1], rows - tall + 1), below(place_v3[:, 2], columns - wide + 1)
    down, across = _grid(rows, columns, place_v3.device)
    top, left, tall, wide = (part[:, None, None] for part in (top, left, tall, wide))
    inside = (down >= top) & (down < top + tall) & (across >= left) & (across < left + wide)
    return inside.flatten(-2)


def ellipse(place_v3: torch.Tensor, rows: int, columns: int, ratio_v: torch.Tensor) -> torch.Tensor:
    """An ellipse of `ratio` of the area, cut to the grid likewise; a patch belongs to it with its centre.

    One that holds no centre hides the patch that its own lies in; of one that would hold all, on the smallest of grids,
    the last patch is left.
    """
    N = rows * columns
    width, height = _sides(place_v3[:, 0], ratio_v * (N * 4 / math.pi))
    height, width = height.clamp(1, rows), width.clamp(1, columns)
    # centres from which the ellipse just lies inside
    centre_row = height / 2 + unit(place_v3[:, 1]) * (rows - height)
    centre_column = width / 2 + unit(place_v3[:, 2]) * (columns - width)
    down, across = (part.double() + 0.5 for part in _grid(rows, columns, place_v3.device))
    off_row = (down - centre_row[:, None, None]) * 2 / height[:, None, None]
    off_column = (across - centre_column[:, None, None]) * 2 / width[:, None, None]
    inside = (off_row * off_row + off_column * off_column <= 1).flatten(-2)
    of_centre = [part.floor().long() for part in (centre_row, centre_column)]
    nearest = of_centre[0].clamp(max=rows - 1) * columns + of_centre[1].clamp(max=columns - 1)
    patches = torch.arange(N, device=inside.device)
    inside = inside | (~inside.any(-1, keepdim=True) & (patches == nearest[:, None]))
    if N == 1:
        return inside
    return inside & ~(inside.all(-1, keepdim=True) & (patches == N - 1))


def _sides(word: torch.Tensor, area: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    # width and height of that area; width / height = low * (high / low)^u, its logarithm uniform. The power is a
    # product of square roots of square roots, one for each bit of u, as exponentials differ between devices
    aspect = torch.full(word.shape, _ASPECT_LOW, dtype=torch.float64, device=word.device)
    root = _ASPECT_HIGH / _ASPECT_LOW
    for bit in range(16):
        root = math.sqrt(root)
        aspect = torch.where((word >> (63 - bit)) & 1 == 1, aspect * root, aspect)
    return (area * aspect).sqrt(), (area / aspect).sqrt()


def _grid(rows: int, columns: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(rows, device=device)[:, None], torch.arange(columns, device=device)[None, :]


# exact kinds: (place, patches, rows, columns) -> int64 [v, N], the numbers of a view all different; patches with the
# lowest ones get hidden first
ORDERS: dict[str, Callable[[torch.Tensor, torch.Tensor, int, int], torch.Tensor]] = {
    "random": random_order,
    "blob": blob_order,
    "walk": walk_order,
}

# the others: (place, rows, columns, ratio of each view) -> bool [v, N]; of two patches or more at least one is hidden
# and one is not
SHAPES: dict[str, Callable[[torch.Tensor, int, int, torch.Tensor], torch.Tensor]] = {
    "rectangle": rectangle,
    "ellipse": ellipse,
}
