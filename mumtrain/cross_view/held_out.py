"""The samples that the cross-view gain is measured on: a mix's file of correspondences.

In: a mix, and the file beside it that `mumdata correspondences` writes. Out: samples, each with its frames, and where
what one of them shows lies in the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mumdata.catalog import Mix, MixDataset, dataset_root, read, read_footer
from mumdata.correspondences_file import correspondences_path
from mumdata.errors import CatalogError
from mumdata.schema import CORRESPONDENCES
from mumtrain.reading.frames import FrameTable

__all__ = ["HeldOut", "Matches", "Sample", "Scene", "open_held_out"]

_PLACES = ("x_a", "y_a", "x_b", "y_b")
_LISTS = (*_PLACES, "seen")
# along a side, far more than is ever written
_MOST_POINTS = 4096


class Scene(NamedTuple):
    """The unit that the interval is taken over; streams of one scene are one scene."""

    dataset: str
    split: str | None
    scene: str


@dataclass(frozen=True, eq=False)
class Sample:
    """Some frames of one scene: `frame_ids` int32 [V] of dataset number `dataset` in the mix.

    `rows` are the rows of the file that belong to it. `grid` is how many points were looked for along the longer side
    of a frame, or None where points lie as they come: those of tracks do.
    """

    number: int
    scene: Scene
    dataset: int
    frame_ids: np.ndarray
    rows: np.ndarray
    grid: int | None = None


class Matches(NamedTuple):
    """All points of a sample's rows, one after another [M]: place x, y in `view_a`, and in `view_b` where `seen` is 1.

    Places are in 1/65535 of the stored frames' sides.
    """

    view_a: np.ndarray
    view_b: np.ndarray
    x_a: np.ndarray
    y_a: np.ndarray
    x_b: np.ndarray
    y_b: np.ndarray
    seen: np.ndarray


class HeldOut:
    """A checked file of correspondences in memory; `samples` are in the order of their numbers."""

    def __init__(self, table: pa.Table, samples: Sequence[Sample]) -> None:
        self.samples = tuple(samples)
        self._view_a, self._view_b = (_numbers(table, name) for name in ("view_a", "view_b"))
        self._starts, self._values = _lists(table)

    def matches(self, sample: Sample) -> Matches:
        """Return the points of a sample's rows."""
        starts = self._starts
        lengths = starts[sample.rows + 1] - starts[sample.rows]
        view_a, view_b = (np.repeat(views[sample.rows], lengths) for views in (self._view_a, self._view_b))
        first, last = int(sample.rows[0]), int(sample.rows[-1])
        if last - first + 1 == len(sample.rows):
            at: slice | np.ndarray = slice(int(starts[first]), int(starts[last + 1]))
        else:
            at = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in sample.rows])
        return Matches(view_a, view_b, *(values[at] for values in self._values))


def open_held_out(mix: Mix, frames: Sequence[FrameTable], *, trained_on: Mix | None = None) -> HeldOut | None:
    """Read and check the correspondences of a mix; None where there are none.

    `trained_on` is the mix that training reads, None where nobody knows which. Raises CatalogError where the file
    belongs to another mix, is damaged, contradicts itself or the frames, or has frames that training reads.
    """
    path, command = correspondences_path(mix.path), f"run 'mumdata correspondences {mix.path}' again"
    if not path.exists():
        return None
    footer = read_footer(CORRESPONDENCES, path)
    if footer.inputs.get("mix") != mix.content_digest:
        raise CatalogError(f"{path} was made for another mix than {mix.path}; {command}")
    table = read(CORRESPONDENCES, path)
    has_all = bool(footer.parameters.get("all"))
    if trained_on is not None and (names := _read_in_training(table, mix, trained_on, has_all)):
        is_same = trained_on.content_digest == mix.content_digest
        advice = f"{command}, without --all" if is_same else "give a mix of other frames, or that holds out no more"
        raise CatalogError(f"{path} has frames that training reads, of {', '.join(names)}; {advice}")
    try:
        return HeldOut(table, _samples(table, frames, _grid(footer.parameters.get("grid"))))
    except ValueError as error:
        raise CatalogError(f"{path}: {error}; {command}") from error


def _read_in_training(table: pa.Table, mix: Mix, trained_on: Mix, has_all: bool) -> list[str]:
    # datasets with samples of whose frames training reads some: a mix holds out what lies below its share, so that
    # a smaller share of the same dataset is part of a larger one
    sampled = set(table.column("dataset").to_pylist())
    return [
        one.name
        for one in mix.datasets
        if one.name in sampled
        and any((has_all or one.holdout > other.holdout) and _is_same(one, other) for other in trained_on.datasets)
    ]


def _is_same(one: MixDataset, other: MixDataset) -> bool:
    # two folders may have catalogs of the same content: where their files are tells them apart
    if one == other:
        return True
    if one.frames_digest != other.frames_digest:
        return False
    return dataset_root(one).resolve() == dataset_root(other).resolve()


def _grid(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or not 1 <= value <= _MOST_POINTS:
        raise ValueError(f"its grid is {value!r}")
    return value


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    column = table.column(name)
    if column.null_count:
        raise ValueError(f"column '{name}' has nulls")
    return column.to_numpy()


def _lists(table: pa.Table) -> tuple[np.ndarray, list[np.ndarray]]:
    # where each row's points begin, [rows + 1], and the values of each list column, [points]
    starts, found = None, []
    for name in _LISTS:
        column = table.column(name).combine_chunks()
        whole = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
        offsets = whole.offsets.to_numpy()
        if whole.null_count or whole.values.null_count:
            raise ValueError(f"column '{name}' has nulls")
        values = whole.values.to_numpy()[offsets[0] :]
        offsets = offsets.astype(np.int64) - offsets[0]
        if starts is not None and not np.array_equal(starts, offsets):
            raise ValueError(f"lists of '{name}' have other lengths than those of '{_LISTS[0]}'")
        starts = offsets
        found.append(values[: offsets[-1]])
    assert starts is not None
    return starts, found


def _samples(table: pa.Table, frames: Sequence[FrameTable], grid: int | None) -> list[Sample]:
    sample, view_a, view_b, frame_a, frame_b = (
        _numbers(table, name) for name in ("sample", "view_a", "view_b", "frame_a", "frame_b")
    )
    seen = _lists(table)[1][_LISTS.index("seen")]
    if len(seen) and not (seen.min() >= -1 and seen.max() <= 1):
        raise ValueError("'seen' holds values other than -1, 0 and 1")
    sources = table.column("source").to_pylist()
    named = {name: table.column(name).to_pylist() for name in ("dataset", "split", "scene")}
    order = np.argsort(sample, kind="stable")
    begins = np.flatnonzero(np.diff(sample[order], prepend=sample[order[:1]] - 1))
    found = []
    for rows in np.split(order, begins[1:]) if len(order) else []:
        number = int(sample[rows[0]])
        scenes = {Scene(*(named[name][row] for name in named)) for row in rows}
        if len(scenes) > 1:
            raise ValueError(f"sample {number} is of several scenes")
        (scene,) = scenes
        dataset = next((n for n, of in enumerate(frames) if of.name == scene.dataset), None)
        if dataset is None:
            raise ValueError(f"sample {number} is of dataset '{scene.dataset}', which the mix does not have")
        ends = (view_a[rows], view_b[rows]), (frame_a[rows], frame_b[rows])
        frame_ids = _frame_ids(number, *(np.concatenate(pair) for pair in ends))
        if (view_a[rows] == view_b[rows]).any():
            raise ValueError(f"sample {number} pairs a view with itself")
        if len(set(zip(*(view.tolist() for view in ends[0]), strict=True))) < len(rows):
            raise ValueError(f"sample {number} has a pair of views twice")
        if frame_ids.min() < 0 or frame_ids.max() >= frames[dataset].table.num_rows:
            raise ValueError(f"sample {number} has a frame that dataset '{scene.dataset}' does not have")
        is_regular = all(sources[row] == "depth" for row in rows)
        found.append(Sample(number, scene, dataset, frame_ids, rows, grid if is_regular else None))
    return found


def _frame_ids(number: int, views: np.ndarray, ids: np.ndarray) -> np.ndarray:
    # the frame of each view, from all rows' ends
    known = dict(zip(views.tolist(), ids.tolist(), strict=True))
    if sorted(known) != list(range(len(known))):
        raise ValueError(f"sample {number} lacks some of its views")
    frame_ids = np.array([known[view] for view in range(len(known))], np.int32)
    if (frame_ids[views] != ids).any():
        raise ValueError(f"sample {number} has two frames for one view")
    return frame_ids
