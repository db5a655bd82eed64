"""The masks of a slot in plain Python, one view and one patch at a time, from their definitions.

In: the mask settings and a slot's numbers. Out: for each sequence and view a list of bools, row by row, True where the
patch is hidden.
"""

from __future__ import annotations

import math

from mumdata import rng
from mumtrain.config import MaskConfig

EXACT = ("random", "blob", "walk")

FAR = 1 << 60


def signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def below(word: int, bound: int) -> int:
    return (word >> 32) * bound >> 32


def unit(word: int) -> float:
    return (word >> 11) * 2.0**-53


def plain_masks(
    config: MaskConfig, num_sequences: int, num_views: int, grid: tuple[int, int], *, seed: int, step: int, slot: int
) -> list[list[list[bool]]]:
    """Return which patches of each view of each sequence are hidden."""
    rows, columns = grid
    N = rows * columns
    pieces = [piece.split(":") for piece in config.kind.split(",")]
    which = rng.word(rng.key(seed, step, slot, "mask kind")) * len(pieces) >> 64
    name, ratio = pieces[which][0], float(pieces[which][1]) if len(pieces[which]) > 1 else config.ratio
    least, most = bounds(config.references, num_views)
    key = rng.key(seed, step, slot, "references")
    num_whole = least + (rng.word(key) * (most - least + 1) >> 64)
    key_of_masks = rng.key(seed, step, slot, "mask")
    drawn = []
    for b in range(num_sequences):
        of_views = [signed(rng.word(key, 1 + b * num_views + v)) for v in range(num_views)]
        whole = set(sorted(range(num_views), key=of_views.__getitem__)[:num_whole])
        sequence = []
        for v in range(num_views):
            of_view = config.view_ratios[min(v, len(config.view_ratios) - 1)] if config.view_ratios else ratio
            words = rng.words(key_of_masks, 3 + N, start=(b * num_views + v) * (3 + N)).tolist()
            if v in whole or of_view == 0:
                sequence.append([False] * N)
            elif name in EXACT:
                order = ORDER[name](words[:3], words[3:], rows, columns)
                hidden = {*order[: N - int(N * (1 - of_view))]}
                sequence.append([n in hidden for n in range(N)])
            else:
                sequence.append(SHAPE[name](words, rows, columns, of_view))
        drawn.append(sequence)
    return drawn


def bounds(text: str, num_views: int) -> tuple[int, int]:
    """Return the least and greatest number of whole views."""
    ends = [num_views // int(end[2:]) if end.startswith("V/") else int(end) for end in text.split(":")]
    least, most = (min(end, num_views - 1) for end in (ends[0], ends[-1]))
    return least, max(least, most)


def random_order(place: list[int], words: list[int], rows: int, columns: int) -> list[int]:
    """Return the patches by their words, read as signed numbers."""
    return sorted(range(rows * columns), key=lambda n: signed(words[n]))


def blob_order(place: list[int], words: list[int], rows: int, columns: int) -> list[int]:
    """Return the patches by the least cost of a way to them from a random one."""

    def cost(row: int, column: int) -> int:
        total = 0
        for i in (row - 1, row, row + 1):
            for j in (column - 1, column, column + 1):
                total += words[min(max(i, 0), rows - 1) * columns + min(max(j, 0), columns - 1)] >> 54
        return (total // 8) ** 4 + 1

    costs = {(i, j): cost(i, j) for i in range(rows) for j in range(columns)}
    found = dict.fromkeys(costs, FAR)
    found[below(place[0], rows), below(place[1], columns)] = 0
    for _ in range(4):
        for down, across in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            for i in range(rows)[:: down or 1]:
                for j in range(columns)[:: across or 1]:
                    if (i - down, j - across) in costs:
                        found[i, j] = min(found[i, j], found[i - down, j - across] + costs[i, j])
    return sorted(range(rows * columns), key=lambda n: found[divmod(n, columns)])


def walk_order(place: list[int], words: list[int], rows: int, columns: int) -> list[int]:
    """Return the patches by the step in which a walk first visits them, then by their distance from its trace."""
    N = rows * columns
    row, column = below(place[0], rows), below(place[1], columns)
    first: dict[int, int] = {}
    for step in range(16 * N):
        code = (words[step // 16] >> 32 + 2 * (step % 16)) & 3
        row, column = row + (0, 0, 1, -1)[code], column + (1, -1, 0, 0)[code]
        first.setdefault(thrown_back(row, rows) * columns + thrown_back(column, columns), step)

    def when(n: int) -> int:
        if n in first:
            return first[n]
        i, j = divmod(n, columns)
        return min(first[m] + 16 * N * (abs(i - m // columns) + abs(j - m % columns)) for m in first)

    return sorted(range(N), key=when)


def thrown_back(place: int, size: int) -> int:
    """Mirror a place at the outer edges of the grid until it lies inside."""
    while not 0 <= place < size:
        place = -1 - place if place < 0 else 2 * size - 1 - place
    return place


def sides(word: int, area: float) -> tuple[float, float]:
    """Return the width and height of an area whose aspect is 0.3 times 10 to the power of the word's upper 16 bits."""
    aspect, root = 0.3, 3.0 / 0.3
    for bit in f"{word >> 48:016b}":
        root = math.sqrt(root)
        aspect = aspect * root if bit == "1" else aspect
    return math.sqrt(area * aspect), math.sqrt(area / aspect)


def rectangle(words: list[int], rows: int, columns: int, ratio: float) -> list[bool]:
    """Return the patches of a rectangle."""
    width, height = sides(words[0], ratio * (rows * columns))
    wide, tall = (min(max(math.floor(side + 0.5), 1), most) for side, most in ((width, columns), (height, rows)))
    if rows * columns > 1 and (tall, wide) == (rows, columns):
        tall, wide = (tall, wide - 1) if columns > rows else (tall - 1, wide)
    top, left = below(words[1], rows - tall + 1), below(words[2], columns - wide + 1)
    return [top <= i < top + tall and left <= j < left + wide for i in range(rows) for j in range(columns)]


def ellipse(words: list[int], rows: int, columns: int, ratio: float) -> list[bool]:
    """Return the patches whose centres lie in an ellipse."""
    width, height = sides(words[0], ratio * (rows * columns * 4 / math.pi))
    width, height = min(max(width, 1.0), float(columns)), min(max(height, 1.0), float(rows))
    y, x = height / 2 + unit(words[1]) * (rows - height), width / 2 + unit(words[2]) * (columns - width)
    hidden = []
    for i in range(rows):
        for j in range(columns):
            off_row, off_column = (i + 0.5 - y) * 2 / height, (j + 0.5 - x) * 2 / width
            hidden.append(off_row * off_row + off_column * off_column <= 1)
    if not any(hidden):
        hidden[min(int(y), rows - 1) * columns + min(int(x), columns - 1)] = True
    if all(hidden) and len(hidden) > 1:
        hidden[-1] = False
    return hidden


ORDER = {"random": random_order, "blob": blob_order, "walk": walk_order}
SHAPE = {"rectangle": rectangle, "ellipse": ellipse}
