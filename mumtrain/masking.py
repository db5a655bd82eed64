"""Which patches of a view are hidden.

In: a key of (seed, step, slot, position) and the number of patches. Out: the kept and the hidden patches, sorted int64.
Drawn from integer words on the loader's side: the same masks on every machine and device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mumdata import rng
from mumdata.errors import unknown
from mumtrain.config import MaskConfig, num_kept

__all__ = ["Masks", "MASKS", "random_patches", "draw_masks"]


@dataclass(frozen=True)
class Masks:
    """The patches of B x V views that are kept and hidden: sorted int64 [B, V, K] and [B, V, N - K]."""

    kept: np.ndarray
    masked: np.ndarray


def random_patches(key: int, num_patches: int, ratio: float) -> np.ndarray:
    """Return the kept patches of a view, int64 [K]: the first K of a random order of all of them."""
    return rng.choose(key, num_patches, num_kept(num_patches, ratio))


# a mask is one function (key, number of patches, ratio) -> kept patches, of the same number for every key
MASKS: dict[str, Callable[[int, int, float], np.ndarray]] = {"random": random_patches}


def draw_masks(
    config: MaskConfig, num_sequences: int, num_views: int, num_patches: int, *, seed: int, step: int, slot: int
) -> Masks:
    """Draw the masks of a slot; view v of sequence b stands at position b * V + v, and each position draws its own.

    Raises ConfigError for an unknown kind of mask.
    """
    if config.kind not in MASKS:
        raise unknown("mask.kind", config.kind, MASKS)
    draw = MASKS[config.kind]
    kept = num_kept(num_patches, config.ratio)
    hidden = np.ones((num_sequences * num_views, num_patches), bool)
    for position, row in enumerate(hidden):
        row[draw(rng.key(seed, step, slot, position, "mask"), num_patches, config.ratio)] = False
    shape = (num_sequences, num_views, -1)
    # every row has the same number of each, so the column numbers of the set cells form a rectangle, already sorted
    return Masks(
        kept=np.nonzero(~hidden)[1].astype(np.int64).reshape(*shape[:2], kept),
        masked=np.nonzero(hidden)[1].astype(np.int64).reshape(*shape[:2], num_patches - kept),
    )
