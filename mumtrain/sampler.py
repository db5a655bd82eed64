"""Which frames make up a batch: a pure function of (seed, step, slot).

In: a mix's sequences, sorted by length once. Out: the sequences and frames of any slot of any step, without state: a
run resumes with a step number, and any number of processes agree on who reads what.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mumdata import rng
from mumdata.catalog import Mix, MixDataset, map_covisibility, map_frames, map_sequences
from mumdata.errors import ConfigError, unknown
from mumtrain.config import Config
from mumtrain.curriculum import Band, Stage, read_stages, read_subset, stage_at
from mumtrain.sampling.frame_subsets import check_subset
from mumtrain.sampling.law import Law
from mumtrain.sampling.sequence_index import SequenceIndex, build_index
from mumtrain.sampling.sequence_table import SequenceTable
from mumtrain.sampling.stage_draw import StageDraw

__all__ = ["SequenceTable", "Drawn", "Batch", "Law", "Sampler", "open_sampler", "rank_slots"]

logger = logging.getLogger(__name__)

# stages whose sorted sequences are kept: prefetching goes to and fro between two
_KEPT_STAGES = 2


class Drawn(NamedTuple):
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

    V is uniform in views_min .. min(views_max, longest sequence), drawn for each slot or, with `views_per=step`, once
    for all slots of a step. Then come floor(frames_per_slot / V) sequences; for each of them first the dataset is
    drawn, by weight among those with a sequence that may be drawn, then the sequence, then V frames of it by
    `data.subset` (see `mumtrain.sampling.frame_subsets`).

    * `weighting`: a weight is a dataset's share of such draws; with `per_batch` the dataset is drawn once for the
      batch; with `per_frame` the weights are scaled until each is the dataset's share of all frames of the stage, as
      near as its number of long sequences allows. A stage's weights replace those of the mix.
    * `balance`: within a dataset each sequence alike; or a scene among those with a sequence that may be drawn, each
      alike or by the root of its number of sequences of any length, then one of its sequences that may be drawn, each
      alike.
    * `short`: sequences of at least max(V, min_frames) frames may be drawn; with `repeat` all of at least min_frames,
      for each V up to views_max; with `cap` a sequence of at least max(views_min, min_frames) frames is drawn first, by
      the weights as given, V is lowered to its length where that is less, and then the batch is drawn as ever.
    * a stage's band of overlap leaves out sequences by their mean overlap, except with `subset=covisible`.
    """

    def __init__(self, tables: Sequence[SequenceTable], config: Config) -> None:
        """Raises ConfigError where nothing can be drawn in a stage, saying which limit excludes it."""
        self.tables, self.seed, self._data = tuple(tables), config.seed, config.data
        self._subset = read_subset(config.data.subset)
        data = config.data
        self.stages = read_stages(data.stages, data.views_min, data.views_max, data.overlap)
        self._longest: dict[Band | None, list[int]] = {}
        self._views_max = [self._check(stage) for stage in self.stages]
        self._tell_mute()
        weighted = {n for stage in self.stages for n, weight in enumerate(self._weights(stage)) if weight > 0}
        check_subset(self._subset, [self.tables[n] for n in sorted(weighted) if not self.tables[n].single_view])
        self._drawn_last: dict[int, tuple[Band | None, tuple[SequenceIndex, ...], StageDraw]] = {}

    def batch(self, step: int, slot: int) -> Batch:
        """Return what a slot reads at a step (both from 0); any step costs the same."""
        stage = self._stage(step)
        key = rng.key(self.seed, step, slot, "batch")
        kind = stage.kind(key if self._data.views_per == "slot" else rng.key(self.seed, step, "views"))
        datasets, rows, frames = stage.draw(key, 0, self._data.frames_per_slot // kind[1], kind, 0)
        return Batch(step, slot, kind[1], tuple(map(Drawn, datasets, rows, frames)))

    def draw(self, step: int, slot: int, number: int, views: int, is_single: bool, attempt: int = 0) -> Drawn:
        """Draw sequence `number` of a batch alone; another `attempt` draws another one in its place."""
        key = rng.key(self.seed, step, slot, "batch")
        datasets, rows, frames = self._stage(step).draw(key, number, 1, (is_single, views), attempt)
        return Drawn(datasets[0], rows[0], frames[0])

    def law(self, stage: int = 0) -> Law:
        """Return the probabilities that the batches of a stage (a number of `stages`) are drawn by."""
        return self._opened(stage).law

    def _stage(self, step: int) -> StageDraw:
        return self._opened(stage_at(self.stages, step) if len(self.stages) > 1 else 0)

    def _opened(self, number: int) -> StageDraw:
        # sorted when first needed, and not kept for long: each stage may have an order of all sequences of its own
        if number in self._drawn_last:
            return self._drawn_last[number][2]
        stage = self.stages[number]
        band = self._filter(stage)
        kept = [indexes for of, indexes, _ in self._drawn_last.values() if of == band]
        while len(self._drawn_last) >= _KEPT_STAGES:
            del self._drawn_last[next(iter(self._drawn_last))]
        size, balance = self._data.frames_per_slot, self._data.balance
        indexes = kept[0] if kept else tuple(build_index(table, balance, band, size) for table in self.tables)
        weights = self._weights(stage)
        made = StageDraw(self.tables, indexes, weights, stage, self._views_max[number], self._data, self._subset)
        self._drawn_last[number] = (band, indexes, made)
        return made

    def _weights(self, stage: Stage) -> list[float]:
        named = dict(stage.weights)
        names = [table.name for table in self.tables]
        for name in named:
            if name not in names:
                raise unknown("dataset of data.stages", name, names)
        return [named.get(table.name, table.weight) for table in self.tables]

    def _filter(self, stage: Stage) -> Band | None:
        return None if self._subset.kind == "covisible" else stage.band

    def _longest_of(self, stage: Stage) -> list[int]:
        band = self._filter(stage)
        if band not in self._longest:
            self._longest[band] = [table.longest_in(band) for table in self.tables]
        return self._longest[band]

    def _check(self, stage: Stage) -> int:
        # the most views of a multi-view batch of the stage
        weights, longest = self._weights(stage), self._longest_of(stage)
        where = f"data.stages, from step {stage.start} on: " if len(self.stages) > 1 else ""
        weighted = [number for number, weight in enumerate(weights) if weight > 0]
        if not weighted:
            remedy = "write it again with mumdata mix" if not stage.weights else "give one of them a weight"
            raise ConfigError(f"{where}the mix has no dataset with a weight above 0; {remedy}")
        single = [number for number in weighted if self.tables[number].single_view]
        multi = [number for number in weighted if not self.tables[number].single_view]
        if single and not any(longest[number] for number in single):
            raise ConfigError(
                f"{where}no sequence may be drawn from {self._told(single, longest, 1, None)}; lower holdout or "
                "leave them out"
            )
        most = max((longest[number] for number in multi), default=0)
        least = 1 if self._data.short == "repeat" else stage.views_min
        if multi and most < least:
            band = self._filter(stage)
            within = f" and a mean overlap of {band.low:g} to {band.high:g}" if band else ""
            raise ConfigError(
                f"{where}no sequence has data.views_min={stage.views_min} frames{within} in "
                f"{self._told(multi, longest, least, band)}; mine longer sequences or lower min_frames, holdout or "
                f"data.views_min{', or widen the band' if band else ''}"
            )
        return stage.views_max if self._data.short == "repeat" else min(stage.views_max, most)

    def _told(self, numbers: Iterable[int], longest: Sequence[int], least: int, band: Band | None) -> str:
        told = []
        for n in numbers:
            table = self.tables[n]
            why, _ = table.why_none(least, band)
            told.append(f"{table.name} (longest {longest[n]}, min_frames {table.min_frames}): {why}")
        return "; ".join(told)

    def _tell_mute(self) -> None:
        # datasets that have a weight and yet no sequence that may be drawn, once for each dataset
        told: set[int] = set()
        for stage in self.stages:
            longest = self._longest_of(stage)
            for number, (table, weight) in enumerate(zip(self.tables, self._weights(stage), strict=True)):
                least = 1 if table.single_view or self._data.short == "repeat" else stage.views_min
                if weight <= 0 or longest[number] >= least or number in told:
                    continue
                told.add(number)
                why, remedy = table.why_none(least, self._filter(stage))
                logger.warning(
                    "dataset %s has weight %g but is never drawn%s: %s; %s",
                    *(table.name, weight, f" from step {stage.start} on" if len(self.stages) > 1 else "", why, remedy),
                )


def rank_slots(rank: int, num_ranks: int, num_slots: int) -> range:
    """Return the slots that a rank works on: as many for each rank, side by side.

    Raises ConfigError where the ranks do not divide the slots, or the rank is none of them.
    """
    if num_ranks < 1 or not 0 <= rank < num_ranks:
        raise ConfigError(f"rank {rank} is not one of {num_ranks} ranks, which are counted from 0")
    if num_slots % num_ranks:
        fitting = ", ".join(str(n) for n in range(1, num_slots + 1) if num_slots % n == 0)
        raise ConfigError(
            f"{num_ranks} ranks do not divide data.slots={num_slots}; start one of {fitting} ranks, or set data.slots "
            "(which changes the global batch)"
        )
    each = num_slots // num_ranks
    return range(rank * each, (rank + 1) * each)


def open_sampler(mix: Mix, config: Config) -> Sampler:
    """Map the sequences of a mix, and what the rule for frames needs, and return the sampler over them.

    Raises ConfigError where nothing can be drawn, and for single images in a run that needs two views, CatalogError
    where the catalogs do not fit the mix.
    """
    singles = [dataset.name for dataset in mix.datasets if dataset.single_view and dataset.weight > 0]
    if config.model.decoder_attention == "cross" and singles:
        without = " ".join(f"--weight {name}=0" for name in singles)
        raise ConfigError(
            f"{', '.join(singles)} has single images, and model.decoder_attention=cross looks from one view at "
            f"another; make a mix without them: 'mumdata mix' with {without}"
        )
    subset = read_subset(config.data.subset)

    def opened(dataset: MixDataset) -> SequenceTable:
        times = pairs = None
        if subset.in_seconds and not dataset.single_view:
            times = map_frames(dataset).column("timestamp_s")
        if subset.kind == "covisible" and not dataset.single_view:
            pairs = map_covisibility(dataset)
        return SequenceTable(
            map_sequences(dataset),
            name=dataset.name,
            weight=dataset.weight,
            single_view=dataset.single_view,
            min_frames=dataset.min_frames,
            holdout=dataset.holdout,
            timestamps=times,
            pairs=pairs,
        )

    return Sampler([opened(dataset) for dataset in mix.datasets], config)
