"""The figures of a measurement of the cross-view gain.

In: the parts of all ranks. Out: a GainReport: G on both kinds of patches, their difference with its interval, and F, by
number of views, dataset and overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mumtrain.cross_view.interval import gain_interval
from mumtrain.cross_view.measure import KINDS, Part, Row
from mumtrain.cross_view.patches import BANDS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cell", "GainReport", "Headline", "summarise"]


class Headline(NamedTuple):
    """The gain over all samples at the most views, and its interval where there is one."""

    gain: float
    low: float | None
    high: float | None
    g_a: float
    g_b: float


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The figures of one part of the patches; a figure is None where there is nothing to take it from.

    `g_a` and `g_b` are mean errors without the other views minus those with them, over patches whose content is visible
    in an unmasked patch of another view, and over patches whose content is in no other view. `gain` is g_a - g_b, from
    `low` to `high` in 95 of 100 draws of the scenes. `f_a` and `f_b`, over the first view of each sample alone, are
    mean errors with views of another scene minus those with the own ones.
    """

    views: int
    dataset: str | None  # None: all
    band: str | None  # of the view's overlap with the others; None: all
    gain: float | None
    low: float | None
    high: float | None
    g_a: float | None
    g_b: float | None
    f_a: float | None
    f_b: float | None
    patches_a: int
    patches_b: int
    scenes_a: int
    scenes_b: int
    scenes: int
    foreign_patches_a: int
    foreign_patches_b: int
    foreign_scenes_a: int
    foreign_scenes_b: int


@dataclass(frozen=True, kw_only=True)
class GainReport:
    """Whether a model uses its other views; `reason` says why that cannot be told of it."""

    cells: tuple[Cell, ...]
    notes: tuple[str, ...]
    reason: str | None
    num_samples: int
    unreadable: tuple[str, ...]

    @property
    def headline(self) -> Headline | None:
        """Return the gain in total at the most views that it is known for, or None."""
        known = [cell for cell in self.cells if cell.dataset is None and cell.band is None and cell.gain is not None]
        if not known:
            return None
        best = max(known, key=lambda cell: cell.views)
        assert best.gain is not None
        assert best.g_a is not None
        assert best.g_b is not None
        return Headline(best.gain, best.low, best.high, best.g_a, best.g_b)

    def numbers(self) -> dict[str, float]:
        """Return the headline's figures by name, as far as they are known, for charts of a run."""
        headline = self.headline
        figures = {} if headline is None else headline._asdict()
        return {f"gain/{key}": value for key, value in figures.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        headline = self.headline
        return {"headline": None if headline is None else headline._asdict()} | {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    def to_frame(self) -> pd.DataFrame:
        """Return the cells, for spreadsheets."""
        import pandas as pd

        return pd.DataFrame([asdict(cell) for cell in self.cells], columns=list(Cell.__dataclass_fields__))

    def tables(self) -> Iterator[tuple[list[str], pd.DataFrame | None]]:
        """Yield the parts for reading: the lines of a heading, and a narrow table or none."""
        if self.reason is not None:
            yield [f"No cross-view gain: {self.reason}"], None
            return
        totals = [cell for cell in self.cells if cell.dataset is None and cell.band is None]
        if not totals:
            why = "no hidden patch of the held-out samples is of either kind"
            yield [f"No cross-view gain: {why}", *self._remarks()], None
            return
        yield (
            [
                f"Cross-view gain on {self.num_samples} held-out samples",
                "gain: G_a - G_b, in units of the loss; low, high: its 95 % interval over scenes",
                "G: error of hidden patches without the other views, minus that with them",
                "a: patches whose content is visible in another view; b: in no other view",
            ],
            _table("views", [(str(cell.views), cell) for cell in totals]),
        )
        told = "F: error with views of another scene, minus that with the own ones; first views"
        yield [told], _foreign_table(totals)
        most = max(cell.views for cell in totals)
        bands = [(cell.band, cell) for cell in self.cells if cell.views == most and cell.band is not None]
        yield [f"At {most} views, by the overlap of a view with the others"], _table("overlap", bands)
        named = [(cell.dataset, cell) for cell in self.cells if cell.views == most and cell.dataset is not None]
        yield [f"At {most} views, by dataset"], _table("dataset", named)
        if remarks := self._remarks():
            yield ["Notes", *remarks], None

    def _remarks(self) -> list[str]:
        num = len(self.unreadable)
        if not num:
            return list(self.notes)
        told = "1 sample has an image" if num == 1 else f"{num} samples have images"
        return [*self.notes, f"{told} that cannot be used: {self.unreadable[0]}"]


def summarise(parts: Sequence[Part]) -> GainReport:
    """Put the parts of all ranks together; the same for any number of ranks, up to the rounding of the model."""
    # in one order, whoever measured them: sums do not depend on it then
    rows = sorted((row for part in parts for row in part.rows), key=_place)
    cells = []
    for views in sorted({row.views for row in rows}):
        at = [row for row in rows if row.views == views]
        cells.append(_cell(at, views, None, None))
        cells += [_cell([r for r in at if r.band == n], views, None, name) for n, name in enumerate(BANDS)]
        names = sorted({row.dataset for row in rows})
        cells += [_cell([r for r in at if r.dataset == name], views, name, None) for name in names]
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    if not all(math.isfinite(value) for row in rows for value in (row.without, row.with_others, row.first_foreign)):
        notes.append("some of the model's errors are no finite numbers; figures that hold them are left out")
    return GainReport(
        cells=tuple(cells),
        notes=tuple(notes),
        reason=next((part.reason for part in parts if part.reason is not None), None),
        num_samples=sum(part.num_samples for part in parts),
        unreadable=tuple(sorted(problem for part in parts for problem in part.unreadable)),
    )


def _place(row: Row) -> tuple[Any, ...]:
    return row.views, _scene(row), row.sample, row.band, row.kind


def _scene(row: Row) -> tuple[str, str, str]:
    return row.dataset, row.split or "", row.scene


def _cell(rows: Sequence[Row], views: int, dataset: str | None, band: str | None) -> Cell:
    scenes = {scene: number for number, scene in enumerate(dict.fromkeys(map(_scene, rows)))}
    # [scenes, kinds]: sums of the gains and how many patches they are of, with single views and with foreign ones
    sums, counts, foreign_sums, foreign_counts = np.zeros((4, len(scenes), len(KINDS)))
    for row in rows:
        at = scenes[_scene(row)], KINDS.index(row.kind)
        sums[at] += row.without - row.with_others
        counts[at] += row.num
        foreign_sums[at] += row.first_foreign - row.first_with
        foreign_counts[at] += row.first_num
    (g_a, g_b), (f_a, f_b) = _means(sums, counts), _means(foreign_sums, foreign_counts)
    interval = gain_interval(sums, counts)
    patches, num_scenes = counts.sum(0), (counts > 0).sum(0)
    foreign_patches, num_foreign = foreign_counts.sum(0), (foreign_counts > 0).sum(0)
    return Cell(
        views=views,
        dataset=dataset,
        band=band,
        gain=None if g_a is None or g_b is None else g_a - g_b,
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        g_a=g_a,
        g_b=g_b,
        f_a=f_a,
        f_b=f_b,
        patches_a=int(patches[0]),
        patches_b=int(patches[1]),
        scenes_a=int(num_scenes[0]),
        scenes_b=int(num_scenes[1]),
        scenes=len(scenes),
        foreign_patches_a=int(foreign_patches[0]),
        foreign_patches_b=int(foreign_patches[1]),
        foreign_scenes_a=int(num_foreign[0]),
        foreign_scenes_b=int(num_foreign[1]),
    )


def _means(sums_SK: np.ndarray, counts_SK: np.ndarray) -> list[float | None]:
    totals, counts = sums_SK.sum(0).tolist(), counts_SK.sum(0).tolist()
    return [
        total / count if count and math.isfinite(total) else None for total, count in zip(totals, counts, strict=True)
    ]


def _rounded(value: float | None) -> Decimal | None:
    return None if value is None else Decimal(f"{value:.4f}")


def _table(first: str, cells: Sequence[tuple[str | None, Cell]]) -> pd.DataFrame:
    import pandas as pd

    figures = {"gain": "gain", "low": "low", "high": "high", "G_a": "g_a", "G_b": "g_b"}
    numbers = {"a": "patches_a", "b": "patches_b", "scenes": "scenes"}
    return pd.DataFrame(
        [
            {first: name}
            | {told: _rounded(getattr(cell, key)) for told, key in figures.items()}
            | {told: getattr(cell, key) for told, key in numbers.items()}
            for name, cell in cells
        ]
    )


def _foreign_table(cells: Sequence[Cell]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "views": str(cell.views),
                "F_a": _rounded(cell.f_a),
                "F_b": _rounded(cell.f_b),
                "a": cell.foreign_patches_a,
                "b": cell.foreign_patches_b,
                "scenes a": cell.foreign_scenes_a,
                "scenes b": cell.foreign_scenes_b,
            }
            for cell in cells
        ]
    )
