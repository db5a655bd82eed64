"""The figures of a measurement of the cross-view gain.

In: the parts of all ranks. Out: a GainReport: G on both kinds of patches, their difference over all and within samples,
each with its interval, and F, by number of views, dataset and overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from mumtrain.cross_view.cell import Cell, cell_of, scene_of
from mumtrain.cross_view.measure import Part, Row
from mumtrain.cross_view.patches import BANDS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cell", "GainReport", "Headline", "summarise"]

# figures of the headline for charts
_CHARTED = ("gain", "low", "high", "g_a", "g_b", "within", "within_low", "within_high")


class Headline(NamedTuple):
    """The gain over all samples at the most views, and its interval where there is one.

    `within` is the gain within samples, see `Cell`; `scenes` says how many scenes have patches of kind a, and of kind
    b.
    """

    gain: float
    low: float | None
    high: float | None
    g_a: float
    g_b: float
    within: float | None
    within_low: float | None
    within_high: float | None
    views: int
    scenes: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class GainReport:
    """Whether a model uses its other views; `reason` says why that cannot be told of it."""

    cells: tuple[Cell, ...]
    notes: tuple[str, ...]
    reason: str | None
    num_samples: int
    unreadable: tuple[str, ...]
    is_held_out: bool = True  # training is known not to read the samples

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
        return Headline(
            gain=best.gain,
            low=best.low,
            high=best.high,
            g_a=best.g_a,
            g_b=best.g_b,
            within=best.within,
            within_low=best.within_low,
            within_high=best.within_high,
            views=best.views,
            scenes=(best.scenes_a, best.scenes_b),
        )

    def numbers(self) -> dict[str, float]:
        """Return the headline's figures by name, as far as they are known, for charts of a run."""
        headline = self.headline
        figures = {} if headline is None else headline._asdict()
        return {f"gain/{key}": figures[key] for key in _CHARTED if figures.get(key) is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        headline = self.headline
        return {"headline": None if headline is None else _plain(headline._asdict())} | _plain(asdict(self))

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
            why = "no hidden patch of the samples is of either kind"
            yield [f"No cross-view gain: {why}", *self._remarks()], None
            return
        yield (
            [
                f"Cross-view gain on {self._told_samples()}",
                "gain: G_a - G_b, in units of the loss; low, high: its 95 % interval over scenes",
                "G: error of hidden patches without the other views, minus that with them",
                "a: patches whose content is visible in another view; b: in no other view",
            ],
            _table("views", [(str(cell.views), cell) for cell in totals]),
        )
        yield (
            [
                "Within samples: a minus b of the same sample, averaged over samples with both,",
                "as otherwise a is mostly of views that overlap much, and b of views that do not",
            ],
            _within_table(totals),
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

    def _told_samples(self) -> str:
        noun = "sample" if self.num_samples == 1 else "samples"
        if self.is_held_out:
            return f"{self.num_samples} held-out {noun}"
        return f"{self.num_samples} {noun} (the training mix is not known)"

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
        cells.append(cell_of(at, views, None, None))
        cells += [cell_of([r for r in at if r.band == n], views, None, name) for n, name in enumerate(BANDS)]
        names = sorted({row.dataset for row in rows})
        cells += [cell_of([r for r in at if r.dataset == name], views, name, None) for name in names]
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    if not all(math.isfinite(value) for row in rows for value in (row.without, row.with_others, row.first_foreign)):
        notes.append("some of the model's errors are no finite numbers; figures that hold them are left out")
    return GainReport(
        cells=tuple(cells),
        notes=tuple(notes),
        reason=next((part.reason for part in parts if part.reason is not None), None),
        num_samples=sum(part.num_samples for part in parts),
        unreadable=tuple(sorted(problem for part in parts for problem in part.unreadable)),
        is_held_out=all(part.is_held_out for part in parts),
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _place(row: Row) -> tuple[Any, ...]:
    return row.views, scene_of(row), row.sample, row.band, row.kind


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


def _within_table(cells: Sequence[Cell]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "views": str(cell.views),
                "within": _rounded(cell.within),
                "low": _rounded(cell.within_low),
                "high": _rounded(cell.within_high),
                "samples": cell.within_samples,
                "scenes": cell.within_scenes,
            }
            for cell in cells
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
