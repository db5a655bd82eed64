"""Drawing the batches of one stage of a run.

In: the sequences of the mix's datasets, sorted, with the stage's weights. Out: the stage's Law, and what a batch's key
draws: its kind, and for its sequences datasets, rows and frames.

Words of a batch's key: 0 draws single images or several views, 1 the number of views V, 2 the dataset of the batch
(`weighting=per_batch`), 3 belongs to the sequence whose length lowers V (`short=cap`), and 8 + i to sequence i. Word a
of what belongs to a sequence is its key at attempt a, the first one being 0; see `mumtrain.sampling.kernels` for the
words of that. With `views_per=step` words 0, 1 and 3 are those of the step's key.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mumdata import rng
from mumtrain.config import DataConfig
from mumtrain.curriculum import Stage, Subset
from mumtrain.sampling.frame_subsets import frame_drawer
from mumtrain.sampling.law import Law, frame_weights, single_share_of_frames
from mumtrain.sampling.sequence_index import SequenceIndex
from mumtrain.sampling.sequence_table import SequenceTable

__all__ = ["StageDraw"]

logger = logging.getLogger(__name__)

_KIND, _VIEWS, _DATASET, _PILOT, _SEQUENCES = 0, 1, 2, 3, 8

# shares of the frames that differ by more than this from those asked for are told
_TOLD = 0.001


@dataclass(frozen=True, eq=False)
class _Choice:
    """Datasets to choose from for one kind of batch, and the running sum of their weights."""

    able: np.ndarray  # int32 [m]
    cumulative: np.ndarray  # float64 [m]
    least: int  # frames that a sequence must have


class StageDraw:
    """What is drawn in one stage. `views_max` is the most views that any of its sequences allows."""

    def __init__(
        self,
        tables: Sequence[SequenceTable],
        indexes: Sequence[SequenceIndex],
        weights: Sequence[float],
        stage: Stage,
        views_max: int,
        data: DataConfig,
        subset: Subset,
    ) -> None:
        self._tables, self._indexes, self._data = tables, indexes, data
        self._views_min, self._num_views = stage.views_min, views_max - stage.views_min + 1
        self._batch_word = _DATASET if data.weighting == "per_batch" else -1
        self._drawers = [frame_drawer(table, subset, stage.band) for table in tables]
        single = [n for n, table in enumerate(tables) if table.single_view and weights[n] > 0]
        multi = [n for n, table in enumerate(tables) if not table.single_view and weights[n] > 0]
        # the sequence that lowers V is drawn by the weights as they are given
        self._pilot = self._choice(multi, weights, self._views_min) if multi and data.short == "cap" else None
        views = range(self._views_min, views_max + 1) if multi else range(0)
        of_views = self._shares_of_views(views, weights) if multi else []
        share = (
            math.fsum(weights[n] for n in single) / math.fsum(weights[n] for n in (*single, *multi)) if multi else 1.0
        )
        if data.weighting == "per_frame" and multi:
            multi, weights, mean = self._weigh_frames(multi, weights, views, of_views, 1 - share)
            share = single_share_of_frames(share, data.frames_per_slot, mean)
        self._single_share = share
        self._choices = {(True, 1): self._choice(single, weights, 1)} if single else {}
        self._choices |= {(False, v): self._choice(multi, weights, self._least(v)) for v in views}
        shares = ([share] if single else []) + [(1 - share) * q for q in of_views]
        self.law = self._law(shares)

    def _least(self, views: int) -> int:
        return 1 if self._data.short == "repeat" else views

    def _choice(self, numbers: Sequence[int], weights: Sequence[float], least: int) -> _Choice:
        able = [number for number in numbers if self._indexes[number].num_sequences(least)]
        cumulative = np.cumsum(np.array([weights[number] for number in able], np.float64))
        return _Choice(np.array(able, np.int32), cumulative, least)

    def _shares_of_views(self, views: range, weights: Sequence[float]) -> list[float]:
        # how likely a batch of several views has each number of them
        uniform = [1 / len(views)] * len(views)
        if self._pilot is None:
            return uniform
        least, most = views[0], views[-1]
        of_pilot = np.zeros(most + 1)
        total = self._pilot.cumulative[-1]
        for number in self._pilot.able.tolist():
            shares = self._indexes[number].shares_by_length(self._tables[number], least, most)
            of_pilot += weights[number] / total * shares
        at_least = np.cumsum(of_pilot[::-1])[::-1]
        # V stays where the sequence is long enough; a greater V is lowered to the sequence's length
        return [float(at_least[v] + of_pilot[v] * (most - v)) / len(views) for v in views]

    def _weigh_frames(
        self, multi: list[int], weights: Sequence[float], views: range, of_views: list[float], share: float
    ) -> tuple[list[int], list[float], float]:
        # weights of the multi-view datasets for their shares of the frames, and a slot's mean number of frames
        multi = [number for number in multi if self._indexes[number].num_sequences(self._least(views[0]))]
        size = self._data.frames_per_slot
        frames = [q * (size // v * v) for v, q in zip(views, of_views, strict=True)]
        able = [[self._indexes[n].num_sequences(self._least(v)) > 0 for n in multi] for v in views]
        total = math.fsum(weights[n] for n in multi)
        wanted = [weights[n] / total for n in multi]
        scaled, got = frame_weights(wanted, able, frames)
        if any(abs(a - b) * share > _TOLD for a, b in zip(wanted, got, strict=True)):
            logger.warning(
                "data.weighting=per_frame: too few long sequences for the shares of frames asked for: %s",
                ", ".join(
                    f"{self._tables[n].name} {b * share:.1%} instead of {a * share:.1%}"
                    for n, a, b in zip(multi, wanted, got, strict=True)
                ),
            )
        result = list(weights)
        for number, weight in zip(multi, scaled, strict=True):
            result[number] = weight
        return multi, result, math.fsum(frames)

    def _law(self, shares: list[float]) -> Law:
        datasets = np.zeros((len(self._choices), len(self._tables)))
        eligible = np.zeros(datasets.shape, np.int64)
        for kind, choice in enumerate(self._choices.values()):
            datasets[kind, choice.able] = np.diff(choice.cumulative, prepend=0.0) / choice.cumulative[-1]
            for number in choice.able.tolist():
                eligible[kind, number] = self._indexes[number].num_sequences(choice.least)
        return Law(tuple(self._choices), np.array(shares), datasets, eligible, self._data.frames_per_slot)

    def kind(self, key: int) -> tuple[bool, int]:
        """Draw the kind of a batch: whether it is of single images, and its number of views."""
        if rng.fraction(key, _KIND) < self._single_share:
            return True, 1
        views = self._views_min + (rng.word(key, _VIEWS) * self._num_views >> 64)
        if self._pilot is None:
            return False, views
        numbers, rows, _, _ = self._draw_rows(key, _PILOT, 1, self._pilot, 0, batch_word=-1)
        return False, min(views, int(self._tables[numbers[0]].lengths[rows[0]]))

    def draw(
        self, key: int, first: int, count: int, kind: tuple[bool, int], attempt: int
    ) -> tuple[list[int], list[int], np.ndarray]:
        """Draw sequences first .. first+count-1 of a batch: datasets [count], rows [count], frame ids [count, V]."""
        start = _SEQUENCES + first
        numbers, rows, keys, datasets = self._draw_rows(
            key, start, count, self._choices[kind], attempt, batch_word=self._batch_word
        )
        frames = np.empty((count, kind[1]), np.int32)
        for number in set(numbers):
            self._drawers[number](keys, datasets, number, rows, frames)
        return numbers, rows.tolist(), frames

    def _draw_rows(
        self, key: int, start: int, count: int, choice: _Choice, attempt: int, *, batch_word: int
    ) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
        from mumtrain.sampling.kernels import sequences as kernels

        keys, datasets, rows = np.empty(count, np.uint64), np.empty(count, np.int32), np.empty(count, np.int32)
        kernels.choose_datasets(
            np.uint64(key), start, attempt, batch_word, choice.able, choice.cumulative, keys, datasets
        )
        numbers = datasets.tolist()
        least = choice.least
        for number in set(numbers):
            index = self._indexes[number]
            kernels.draw_rows(
                *(keys, datasets, number, index.rows, index.starts, index.cumulative),
                *(int(index.at_least[least]), index.num_scenes(least), least, self._tables[number].lengths, rows),
            )
        return numbers, rows, keys, datasets
