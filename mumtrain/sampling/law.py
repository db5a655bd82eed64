"""The probabilities that batches are drawn by, exactly.

In: a stage's datasets with their weights, and how many sequences of each may be drawn for each number of views. Out:
how likely a slot is of single images or of V views each, and for each such kind how likely each dataset is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Law", "frame_weights", "single_share_of_frames"]

# rounds of scaling after which the weights stay as they are
_ROUNDS = 1000

# shares that move less than this have come as near as they get
_STILL = 1e-13

# a weight never vanishes: its dataset may be the only one with sequences long enough
_LEAST = 1e-300


@dataclass(frozen=True, eq=False)
class Law:
    """What one slot of a stage reads, by probability: K kinds of slot, D datasets.

    A kind is (is_single, V): single images, or V views of each sequence, of which there are floor(frames_per_slot / V).
    """

    kinds: tuple[tuple[bool, int], ...]
    probabilities: np.ndarray  # float64 [K], of a slot to be of that kind
    datasets: np.ndarray  # float64 [K, D], of a sequence of such a slot to come from dataset d
    eligible: np.ndarray  # int64 [K, D], sequences of it that may be drawn
    frames_per_slot: int


def single_share_of_frames(share: float, single: float, multi: float) -> float:
    """Return how likely a slot must be of single images for them to be a share of all frames.

    `single` and `multi` are the mean frames of a slot of single images and of one of several views.
    """
    return share * multi / (share * multi + (1 - share) * single)


def frame_weights(
    wanted: Sequence[float], able: Sequence[Sequence[bool]], frames: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Find weights by which D datasets get their wanted shares of the frames; return these weights and the shares got.

    For each of K numbers of views, `frames` (mean frames of a slot times the probability of that number) go to the
    datasets that are `able` to fill them, by weight. The weights are scaled by wanted / got again and again (iterative
    proportional scaling), in one order of plain additions, so that they are the same on every machine. Where no weights
    give the shares wanted, the scaling comes as near to them as it gets.
    """
    total = math.fsum(wanted)
    wanted = [share / total for share in wanted]
    weights, got = list(wanted), [0.0] * len(wanted)
    for _ in range(_ROUNDS):
        before, got = got, _shares(weights, able, frames)
        if min(_distance(got, wanted), _distance(got, before)) < _STILL:
            break
        weights = [w * share / g if g > 0 else w for w, share, g in zip(weights, wanted, got, strict=True)]
        most = max(weights)
        weights = [max(weight / most, _LEAST) for weight in weights]
    return weights, _shares(weights, able, frames)


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _shares(weights: Sequence[float], able: Sequence[Sequence[bool]], frames: Sequence[float]) -> list[float]:
    got = [0.0] * len(weights)
    for row, amount in zip(able, frames, strict=True):
        total = 0.0
        for weight, is_able in zip(weights, row, strict=True):
            if is_able:
                total += weight
        for dataset, is_able in enumerate(row):
            if is_able:
                got[dataset] += amount * weights[dataset] / total
    everything = math.fsum(frames)
    return [share / everything for share in got]
