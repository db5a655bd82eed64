"""Which frames make up a batch: a pure function of (seed, step, slot).

In: a mix's sequences, sorted by length once. Out: the sequences and frames of any slot of any step, without state: a
run resumes with a step number, and any number of processes agree on who reads what.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mumdata import rng
from mumdata.catalog import Mix, map_sequences
from mumdata.errors import ConfigError
from mumtrain.config import Config

__all__ = ["SequenceTable", "Drawn", "Batch", "Sampler", "open_sampler"]

logger = logging.getLogger(__name__)


class SequenceTable:
    """The sequences of one dataset: which may be drawn, and the frames of each, as views over the mapped file."""

    def __init__(
        self, table: pa.Table, *, name: str, weight: float, single_view: bool, min_frames: int, holdout: float
    ) -> None:
        self.name, self.weight, self.single_view, self.min_frames = name, weight, single_view, max(1, min_frames)
        # offsets and values are views over the Arrow buffers: no copy, no Python object for a sequence
        chunks = table.column("frames").chunks
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self._values = [chunk.values.to_numpy(zero_copy_only=True) for chunk in chunks]
        self._first_row = np.cumsum([0, *(len(chunk) for chunk in chunks)])
        lengths = table.column("num_frames").to_numpy()
        drawable = np.flatnonzero(
            (table.column("holdout_unit").to_numpy() >= holdout) & (lengths >= self.min_frames)
        ).astype(np.int32)
        # longest first, equal lengths in file order: the sequences with at least V frames are a prefix
        self._rows = drawable[np.argsort(-lengths[drawable], kind="stable")]
        self._negative_lengths = -lengths[self._rows].astype(np.int32)

    @property
    def longest(self) -> int:
        """Frames of the longest sequence that may be drawn; 0 where there is none."""
        return -int(self._negative_lengths[0]) if len(self._rows) else 0

    def num_eligible(self, views: int) -> int:
        """Return how many sequences may be drawn and have at least max(views, min_frames) frames; O(log n)."""
        return int(np.searchsorted(self._negative_lengths, -views, side="right"))

    def row(self, rank: int) -> int:
        """Return the row, in the catalog's order, of the sequence at a place of the order by length."""
        return int(self._rows[rank])

    def frames(self, row: int) -> np.ndarray:
        """Return the frame ids of a sequence, a read-only int32 view over the mapped file."""
        chunk = int(np.searchsorted(self._first_row, row, side="right")) - 1
        place = row - self._first_row[chunk]
        begin, end = self._offsets[chunk][place : place + 2]
        return self._values[chunk][begin:end]


@dataclass(frozen=True)
class Drawn:
    """One sequence of a batch: its dataset's number in the mix, its row there, and the V frame ids drawn from it."""

    dataset: int
    sequence: int
    frame_ids: np.ndarray


@dataclass(frozen=True)
class Batch:
    """What one slot reads at one step: some sequences with `views` frames each."""

    step: int
    slot: int
    views: int
    sequences: tuple[Drawn, ...]


class Sampler:
    """Draws batches: with the single-view datasets' share of the weight a batch of single images, else V views each.

    V is uniform in views_min .. min(views_max, longest sequence); then come floor(frames_per_slot / V) sequences, for
    each of which first the dataset is drawn, by weight among those with a sequence of at least max(V, min_frames)
    frames, then one of these sequences uniformly, then V different frames of it uniformly.
    """

    def __init__(self, tables: Sequence[SequenceTable], config: Config) -> None:
        """Raises ConfigError where nothing can be drawn, saying which limit excludes it."""
        data = config.data
        self.tables = tuple(tables)
        self.seed, self.frames_per_slot, self.views_min = config.seed, data.frames_per_slot, data.views_min
        weighted = [number for number, table in enumerate(self.tables) if table.weight > 0]
        if not weighted:
            raise ConfigError("the mix has no dataset with a weight above 0; write it again with mumdata mix")
        single = [number for number in weighted if self.tables[number].single_view]
        multi = [number for number in weighted if not self.tables[number].single_view]
        longest = max((self.tables[number].longest for number in multi), default=0)
        self.views_max = min(data.views_max, longest)
        if single and not any(self.tables[number].longest for number in single):
            raise ConfigError(f"no sequence may be drawn from {self._told(single)}; lower holdout or leave them out")
        if multi and longest < self.views_min:
            raise ConfigError(
                f"no sequence has data.views_min={self.views_min} frames in {self._told(multi)}; mine longer sequences "
                "or lower min_frames, holdout or data.views_min"
            )
        for number in weighted:
            table = self.tables[number]
            if table.longest < (1 if table.single_view else self.views_min):
                logger.warning(
                    "dataset %s has weight %g but is never drawn: its longest sequence with at least %d frames that is "
                    "not held out has %d",
                    *(table.name, table.weight, table.min_frames, table.longest),
                )
        total = sum(self.tables[number].weight for number in weighted)
        self.single_share = sum(self.tables[number].weight for number in single) / total if multi else 1.0
        # for each V, the datasets that have sequences long enough, their number of them, and the running sum of weights
        self._choices = {(True, 1): self._choice(single, 1)} if single else {}
        for views in range(self.views_min, self.views_max + 1) if multi else ():
            self._choices[False, views] = self._choice(multi, views)

    def _told(self, numbers: list[int]) -> str:
        return ", ".join(
            f"{self.tables[n].name} (longest {self.tables[n].longest}, min_frames {self.tables[n].min_frames})"
            for n in numbers
        )

    def _choice(self, numbers: list[int], views: int) -> tuple[list[int], list[int], np.ndarray]:
        able = [number for number in numbers if self.tables[number].num_eligible(views)]
        counts = [self.tables[number].num_eligible(views) for number in able]
        return able, counts, np.cumsum([self.tables[number].weight for number in able])

    def batch(self, step: int, slot: int) -> Batch:
        """Return what a slot reads at a step; any step costs the same."""
        kind, spread = rng.words(rng.key(self.seed, step, slot, "batch"), 2)
        is_single = bool(rng.unit(kind) < self.single_share)
        views = 1 if is_single else self.views_min + int(rng.below(spread, self.views_max - self.views_min + 1))
        drawn = tuple(
            self.draw(step, slot, number, views, is_single) for number in range(self.frames_per_slot // views)
        )
        return Batch(step, slot, views, drawn)

    def draw(self, step: int, slot: int, number: int, views: int, is_single: bool, attempt: int = 0) -> Drawn:
        """Draw one sequence of a batch and its frames; another `attempt` draws another one in its place."""
        key = rng.key(self.seed, step, slot, number, "sequence", attempt)
        which, rank = rng.words(key, 2)
        able, counts, cumulative = self._choices[is_single, views]
        # the last dataset also takes what rounding leaves beyond the sum
        place = min(int(np.searchsorted(cumulative, rng.unit(which) * cumulative[-1], side="right")), len(able) - 1)
        table = self.tables[able[place]]
        row = table.row(int(rng.below(rank, counts[place])))
        frames = table.frames(row)
        chosen = rng.choose(rng.key(key, "frames"), len(frames), views)
        return Drawn(able[place], row, frames[chosen])


def open_sampler(mix: Mix, config: Config) -> Sampler:
    """Map the sequences of a mix and return the sampler over them.

    Raises ConfigError where nothing can be drawn, CatalogError where the catalogs do not fit the mix.
    """
    tables = [
        SequenceTable(
            map_sequences(dataset),
            name=dataset.name,
            weight=dataset.weight,
            single_view=dataset.single_view,
            min_frames=dataset.min_frames,
            holdout=dataset.holdout,
        )
        for dataset in mix.datasets
    ]
    return Sampler(tables, config)
