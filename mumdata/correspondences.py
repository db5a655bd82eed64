"""`mumdata correspondences`: what the held-out frames of a mix show of each other.

In: a mix that holds sequences out, and the datasets' own files (depth maps, or models with tracks). Out: a file beside
the mix. Training measures with it whether a model uses its other views: masked patches whose content another view
shows, against those whose content no other view shows. What lies in the file is described at
`mumdata.schema.CORRESPONDENCES`, who reads it uses `mumdata.correspondences_file`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from mumdata import catalog
from mumdata.catalog import Mix
from mumdata.correspond.draw import Draw, Plan, SceneKey, plan
from mumdata.correspond.measure import PairPoints, measure
from mumdata.correspond.scenes import Streams
from mumdata.correspondences_file import correspondences_path
from mumdata.errors import CatalogError, ConfigError, MumError
from mumdata.files import check_apart
from mumdata.schema import CORRESPONDENCES
from mumdata.tables import render

__all__ = ["Corresponded", "OfDataset", "correspondences"]

# a dataset none of whose first scenes can be measured is given up
_MOST_FAILURES = 16

_LIMITS = {"num": (1, 4096), "views": (2, 64), "grid": (4, 256)}


@dataclass
class OfDataset:
    """What was found of one dataset. Points are counted once for each pair they are compared in."""

    dataset: str
    samples: int = 0
    pairs: int = 0
    seen: int = 0
    not_there: int = 0
    unknown: int = 0
    scenes: set[SceneKey] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)

    @property
    def points(self) -> int:
        """All points that were looked for."""
        return self.seen + self.not_there + self.unknown

    def add(self, draw: Draw, pairs: list[PairPoints]) -> None:
        """Count a sample."""
        self.samples += 1
        self.pairs += len(pairs)
        self.scenes.add(draw.key)
        self.sources.add(draw.source)
        for pair in pairs:
            self.seen += int(np.count_nonzero(pair.seen == 1))
            self.not_there += int(np.count_nonzero(pair.seen == 0))
            self.unknown += int(np.count_nonzero(pair.seen == -1))

    def row(self) -> dict[str, Any]:
        """Return it as a row of the summary."""
        shares = {"seen": self.seen, "absent": self.not_there, "unknown": self.unknown}
        return {
            "dataset": self.dataset,
            "from": ", ".join(sorted(self.sources)),
            "samples": self.samples,
            "scenes": len(self.scenes),
            "pairs": self.pairs,
            **{f"{name} %": round(100 * count / max(self.points, 1), 1) for name, count in shares.items()},
        }


@dataclass(frozen=True)
class Corresponded:
    """What was written, for the summary: a row a dataset with samples, and why others have none.

    `without` counts the scenes with held-out sequences whose geometry nothing tells, of each dataset that has some:
    name -> (scenes without, scenes).
    """

    mix: Path
    path: Path
    changed: bool
    num: int
    views: int
    datasets: tuple[OfDataset, ...]
    without: dict[str, tuple[int, int]]
    notes: tuple[str, ...]
    all: bool

    @property
    def scenes(self) -> str:
        """What the scenes are called that samples may come from."""
        return "scenes" if self.all else "held-out scenes"

    def lines(self) -> list[str]:
        """Return the summary."""
        import pandas as pd

        lines = render(pd.DataFrame([one.row() for one in self.datasets])).split("\n")
        found = sum(one.samples for one in self.datasets)
        if found < self.num:
            lines.append(f"  {found:,} of {self.num:,} samples: there are no more that differ")
        if self.without:
            lines.append("  neither depth nor tracks with cameras, and so no sample:")
            lines += [f"    {name}: {few:,} of {all_:,} {self.scenes}" for name, (few, all_) in self.without.items()]
        lines.append(f"  {self.path} {'written' if self.changed else 'unchanged'}")
        lines.append(f"next: mumtrain {f'gain RUN --mix {self.mix}' if self.all else f'pretrain {self.mix}'}")
        return lines


def correspondences(
    mix: Path,
    *,
    num: int = 64,
    views: int = 8,
    grid: int = 32,
    seed: int = 0,
    all: bool = False,
    out: Path | None = None,
) -> Corresponded:
    """Write what the held-out frames of a mix show of each other.

    `num` samples are spread as evenly as possible over the datasets, then over their scenes; each is `views` frames of
    one held-out sequence, fewer where no sequence of the dataset is longer. `grid` points along the longer side of
    each frame are looked for in the others. With `all`, sequences that are not held out serve as well: for a mix that
    no run trains on. The file is `out`, or `<mix>.correspondences.parquet` beside the mix.

    Raises ConfigError where an option makes no sense or the mix holds nothing out, LayoutError where a dataset's files
    are not known or gone, CatalogError where they are not those that were indexed, or where nothing held out has
    geometry.
    """
    for name, value in (("num", num), ("views", views), ("grid", grid)):
        low, high = _LIMITS[name]
        if not low <= value <= high:
            raise ConfigError(f"--{name} {value} is not in {low} .. {high}")
    opened = catalog.open_mix(Path(mix))
    path = Path(out) if out is not None else correspondences_path(opened.path)
    check_apart(path, _inputs(opened))
    plans = _plans(opened, views, all)
    collected = _Collected([one for one in plans if one.scenes])
    with tqdm(total=num, desc="correspondences", unit="sample", disable=None, leave=False, dynamic_ncols=True) as bar:
        collected.collect(num, grid, seed, bar)
    if not collected.samples:
        raise CatalogError(
            f"none of the {'' if all else 'held-out '}scenes of {mix} could be measured; the first: "
            f"{collected.notes[0]}"
        )
    samples = sorted(collected.samples, key=lambda one: (one.place, one.number))
    totals = {one.dataset.name: OfDataset(one.dataset.name) for one in plans}
    for sample in samples:
        totals[sample.draw.dataset].add(sample.draw, sample.pairs)
    _, changed = catalog.write(
        CORRESPONDENCES,
        _table(samples),
        path,
        inputs={"mix": opened.content_digest},
        seed=seed,
        parameters={"num": num, "views": views, "grid": grid, **({"all": True} if all else {})},
    )
    return Corresponded(
        mix=opened.path,
        path=path,
        changed=changed,
        num=num,
        views=views,
        datasets=tuple(one for one in totals.values() if one.samples),
        without={one.dataset.name: (one.num_without, one.num_scenes) for one in plans if one.num_without},
        notes=tuple(collected.notes),
        all=all,
    )


def _inputs(mix: Mix) -> list[Path]:
    files = [mix.path]
    for dataset in mix.datasets:
        files += [path for path in (dataset.frames, dataset.sequences, dataset.covisibility) if path is not None]
    return files


def _plans(mix: Mix, views: int, all: bool) -> list[Plan]:
    """Return what can be drawn of each multi-view dataset; a MumError where that is nothing at all."""
    if catalog.is_packed(mix.path):
        raise ConfigError(
            f"{mix.path} is of a packed copy, which holds pictures and neither depth maps nor models; give the mix "
            "that it was packed from, then run 'mumdata pack' once more: it brings the correspondences along"
        )
    several = [dataset for dataset in mix.datasets if not dataset.single_view]
    if not several:
        raise ConfigError(f"{mix.path} has single-view datasets alone, which have nothing to show of each other")
    if not all and not any(dataset.holdout > 0 for dataset in several):
        raise ConfigError(f"{mix.path} holds nothing out of training; make it again with 'mumdata mix --holdout 0.05'")
    plans = [plan(dataset, views, all=all) for dataset in several]
    if not any(one.num_scenes for one in plans):
        share = max(dataset.holdout for dataset in several)
        raise ConfigError(
            f"{mix.path} holds no sequence out, as a share of {share:g} of its few groups came to none; make it again "
            f"with a larger one, such as 'mumdata mix --holdout {min(0.5, max(0.05, 4 * share)):g}'"
        )
    if not any(one.scenes for one in plans):
        names = ", ".join(one.dataset.name for one in plans if one.num_scenes)
        raise CatalogError(
            f"nothing tells where the held-out frames of {mix.path} show the same ({names}): that takes depth maps, or "
            "a COLMAP model, and cameras; add such a dataset with 'mumdata mix --weight NAME=1', or hold out more"
        )
    return plans


@dataclass(frozen=True, eq=False)
class _Measured:
    """A sample: draw `number` of the plan at `place`."""

    place: int
    number: int
    draw: Draw
    pairs: list[PairPoints]


# place of a plan -> its draws that are still to come, each with its number
_Feeds = dict[int, Iterator[tuple[int, Draw]]]


class _Collected:
    """Samples, as they are measured, and notes on scenes that cannot be."""

    def __init__(self, plans: list[Plan]) -> None:
        self.samples: list[_Measured] = []
        self.notes: list[str] = []
        self._plans = plans
        self._counts = [0] * len(plans)

    def collect(self, num: int, grid: int, seed: int, bar: Any) -> None:
        """Measure `num` samples, or as many as there are; for those that fail others are drawn."""
        feeds: _Feeds = {place: enumerate(one.draws(seed)) for place, one in enumerate(self._plans)}
        streams = [Streams(one.dataset) for one in self._plans]
        while batch := self._wanted(feeds, num):
            # the samples of a scene together: it is read once
            for place, number, draw in sorted(batch, key=lambda one: (one[0], one[2].first)):
                self._measure(place, number, draw, streams[place], grid)
                bar.update(len(self.samples) - bar.n)
            for place in list(feeds):
                if not self._counts[place] and len(self._plans[place].failed) >= _MOST_FAILURES:
                    del feeds[place]

    def _wanted(self, feeds: _Feeds, num: int) -> list[tuple[int, int, Draw]]:
        """Return the next draws: always of the dataset that has fewest samples."""
        counts = {place: self._counts[place] for place in feeds}
        batch: list[tuple[int, int, Draw]] = []
        while sum(self._counts) + len(batch) < num and feeds:
            place = min(feeds, key=lambda one: (counts[one], one))
            drawn = next(feeds[place], None)
            if drawn is None:
                del feeds[place]
            else:
                counts[place] += 1
                batch.append((place, *drawn))
        return batch

    def _measure(self, place: int, number: int, draw: Draw, streams: Streams, grid: int) -> None:
        failed = self._plans[place].failed
        if draw.key in failed or (len(failed) >= _MOST_FAILURES and not self._counts[place]):
            return
        stream = streams.stream(draw)
        rows = [frame_id - draw.first for frame_id in draw.frame_ids]
        try:
            pairs = measure(streams.tree, stream, rows, draw.source, grid)
        except MumError as error:
            failed.add(draw.key)
            where = "/".join(part for part in (draw.dataset, draw.split, draw.scene, draw.stream) if part)
            self.notes.append(f"{where} is left out: {error}")
            return
        self._counts[place] += 1
        self.samples.append(_Measured(place, number, draw, pairs))


def _table(samples: list[_Measured]) -> pa.Table:
    """Return the rows of the file: the samples in their order, and of each all ordered pairs of views."""
    rows = [(number, sample.draw, pair) for number, sample in enumerate(samples) for pair in sample.pairs]
    pairs = [pair for _, _, pair in rows]
    columns: dict[str, Any] = {
        "dataset": [draw.dataset for _, draw, _ in rows],
        "split": [draw.split for _, draw, _ in rows],
        "scene": [draw.scene for _, draw, _ in rows],
        "stream": [draw.stream for _, draw, _ in rows],
        "sample": [number for number, _, _ in rows],
        "sequence": [draw.sequence for _, draw, _ in rows],
        "view_a": [pair.a for pair in pairs],
        "view_b": [pair.b for pair in pairs],
        "frame_a": [draw.frame_ids[pair.a] for _, draw, pair in rows],
        "frame_b": [draw.frame_ids[pair.b] for _, draw, pair in rows],
        "x_a": _lists([pair.place_a[:, 0] for pair in pairs]),
        "y_a": _lists([pair.place_a[:, 1] for pair in pairs]),
        "x_b": _lists([pair.place_b[:, 0] for pair in pairs]),
        "y_b": _lists([pair.place_b[:, 1] for pair in pairs]),
        "seen": _lists([pair.seen for pair in pairs]),
        "source": [draw.source for _, draw, _ in rows],
    }
    return catalog.build(CORRESPONDENCES, columns)


def _lists(values: list[np.ndarray]) -> pa.Array:
    ends = np.concatenate([[0], np.cumsum([len(one) for one in values])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.concatenate(values)))
