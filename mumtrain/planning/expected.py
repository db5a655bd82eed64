"""What a stage of a run reads, by expectation: nothing here is sampled.

In: the sampler's Law, and the sequences of a dataset. Out: mean numbers of sequences and frames of a slot, by kind of
slot and by dataset; how many different frames may be drawn; the share of the ranks' time that goes into waiting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mumtrain.sampling.law import Law
from mumtrain.sampling.sequence_table import SequenceTable

__all__ = ["Expected", "expect", "sums", "num_different_frames", "share_repeated", "time_lost"]

# steps of the scale on which costs of several slots are added up
_LEVELS = 1 << 18


@dataclass(frozen=True, eq=False)
class Expected:
    """Means of one slot, float64: K kinds of slot (single images or V views), D datasets."""

    num_sequences: np.ndarray  # int64 [K], sequences that a slot of a kind holds
    sequences: np.ndarray  # [K, D]
    frames: np.ndarray  # [K, D]
    slots: np.ndarray  # [D], probability that a slot holds a sequence of a dataset
    got: np.ndarray  # [D], share of what the weights are shares of; adds up to 1


def expect(law: Law, weighting: Literal["per_sequence", "per_batch", "per_frame"]) -> Expected:
    """Return what a slot holds by expectation.

    With `per_sequence` a dataset's weight is its share of the sequences in slots of its kind, single images or several
    views, times the probability of that kind; with `per_batch` its share of the slots, with `per_frame` of the frames.
    """
    views = np.array([views for _, views in law.kinds], np.int64)
    is_single = np.array([is_single for is_single, _ in law.kinds], bool)
    num = law.frames_per_slot // views
    sequences = (law.probabilities * num)[:, None] * law.datasets
    frames = sequences * views[:, None]
    if weighting == "per_batch":  # all sequences of a slot are of one dataset
        holds = law.datasets
    else:
        holds = 1 - (1 - law.datasets) ** num[:, None]
    slots = sums(law.probabilities[:, None] * holds)
    if weighting == "per_batch":
        got = slots
    elif weighting == "per_frame":
        got = sums(frames) / math.fsum(frames.ravel())
    else:
        got = np.zeros(law.datasets.shape[1])
        for kind in (is_single, ~is_single):
            if total := math.fsum(sequences[kind].ravel()):
                got += math.fsum(law.probabilities[kind]) * (sums(sequences[kind]) / total)
    return Expected(num, sequences, frames, slots, got)


def sums(values: np.ndarray) -> np.ndarray:
    """Add up each column, correctly rounded."""
    return np.array([math.fsum(column) for column in values.T])


def num_different_frames(table: SequenceTable, rows: np.ndarray) -> int:
    """Return how many different frames some sequences have, which are chosen by `rows`, bool [n]."""
    frames = table.values[table.offsets[0] : table.offsets[-1]]
    if not rows.all():
        frames = frames[np.repeat(rows, table.lengths)]
    seen = np.zeros(1 + int(frames.max(initial=-1)), bool)
    seen[frames] = True
    return int(np.count_nonzero(seen))


def share_repeated(
    table: SequenceTable, rows: np.ndarray, balance: Literal["sequence", "scene", "sqrt"], views: int
) -> float:
    """Return the mean share of the V frames of a draw that repeat another one of it, where short sequences are drawn.

    `rows`, bool [n], are the sequences drawn from, balanced as `data.balance` says; a sequence of n < V frames gives
    n different ones.
    """
    if not rows.any():
        return 0.0
    chances = np.ones(np.count_nonzero(rows))
    if balance != "sequence":
        _, scene, num = np.unique(table.scenes[rows], return_inverse=True, return_counts=True)
        # a scene's chance, divided among its sequences
        chances = (1 / num if balance == "scene" else np.sqrt(num) / num)[scene]
    repeats = math.fsum((chances * np.maximum(views - table.lengths[rows], 0)).tolist())
    return repeats / (views * math.fsum(chances.tolist()))


def time_lost(costs: Sequence[float], probabilities: np.ndarray, *, ranks: int, slots_per_rank: int) -> float:
    """Return the share of all ranks' time that they wait for the slowest of them, at the end of each step.

    A rank works on its slots one after the other; each slot costs one of `costs` (any unit), independently, with these
    probabilities, float64 [K]. Exact for one slot a rank; the costs of several are added on a scale of 2^18 steps.
    """
    most = max(costs)
    if slots_per_rank == 1:
        values = np.array(costs, np.float64)
        places = np.argsort(values, kind="stable")
        values, shares = values[places], probabilities[places]
    else:
        levels = max(64, _LEVELS // slots_per_rank)
        values = np.arange(levels * slots_per_rank + 1, dtype=np.float64)
        one = np.bincount([round(cost / most * levels) for cost in costs], weights=probabilities, minlength=len(values))
        # the distribution of a sum of independent terms is a power in the frequency domain; padded: it must not wrap
        size = 1 << (len(values) - 1).bit_length()
        shares = np.fft.irfft(np.fft.rfft(one, size) ** slots_per_rank, size)[: len(values)].clip(0)
    below = np.minimum(np.cumsum(shares) / shares.sum(), 1.0)
    slowest = math.fsum((values * np.diff(below**ranks, prepend=0.0)).tolist())
    mean = math.fsum((values * np.diff(below, prepend=0.0)).tolist())
    return max(0.0, 1 - mean / slowest)
