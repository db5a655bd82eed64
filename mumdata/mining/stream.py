"""What a mining rule reads: one stream of frames with what is known of them.

In: what frames share and where they were taken from, by position in the stream. Out: a value object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mumdata.covisibility import Pairs

__all__ = ["Stream"]


@dataclass(frozen=True, eq=False)
class Stream:
    """The frames of one (dataset, split, scene, stream), in the order of their column `frame`.

    Positions 0 .. n-1 count these frames; `pairs` speak of positions.
    """

    key: tuple[str | None, ...]  # what randomness is for: (dataset, split, scene, stream)
    usable: np.ndarray  # bool [n], frames that a sequence may hold
    pairs: Pairs | None = None  # None: nothing is known of what the frames share
    cam_from_world: np.ndarray | None = None  # float64 [n, 3, 4] as in frames.parquet; NaN: not known
    listed: np.ndarray | None = None  # int32 [m, 2], pairs of positions from a list of pairs, in its order

    @property
    def positions(self) -> np.ndarray:
        """Positions of the usable frames, int64, rising."""
        return np.flatnonzero(self.usable)
