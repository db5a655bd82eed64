"""The sequences of a dataset in the order that they are drawn by.

In: a SequenceTable, a band of overlap, a rule that balances scenes. Out: rows sorted so that, for any number of frames
V, those with at least V are found by a look-up or a binary search; 4 bytes a sequence, and with scenes 4 or 12 more a
scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mumtrain.curriculum import Band
from mumtrain.sampling.sequence_table import SequenceTable

__all__ = ["SequenceIndex", "build_index"]


@dataclass(frozen=True, eq=False)
class SequenceIndex:
    """The sequences of one dataset that may be drawn; frames count up to `most`, the most views of a batch.

    `sequence`: rows in the order of length, longest first, equal ones as in the catalog: those with at least V frames
    are a prefix. `scene` and `sqrt`: scenes in the order of their longest sequence, in each of them the same order:
    scenes with such a sequence are a prefix, and the sequences within each of them.
    """

    rows: np.ndarray  # int32 [n]
    starts: np.ndarray  # int32 [scenes + 1], where each scene begins; empty for `sequence`
    cumulative: np.ndarray  # float64 [scenes], running sum of the scenes' weights; empty where all are alike
    at_least: np.ndarray  # int64 [most + 1], how many sequences have at least V frames
    scenes_at_least: np.ndarray  # int64 [most + 1], how many scenes have such a sequence; empty for `sequence`

    def num_sequences(self, views: int) -> int:
        """Return how many sequences have at least V frames."""
        return int(self.at_least[views])

    def num_scenes(self, views: int) -> int:
        """Return how many scenes have a sequence of at least V frames; 0 where scenes do not count."""
        return int(self.scenes_at_least[views]) if len(self.starts) else 0

    def shares_by_length(self, table: SequenceTable, least: int, most: int) -> np.ndarray:
        """Return how likely a sequence drawn of those with at least `least` frames has 0, 1, ... `most` of them.

        float64 [most + 1]; longer ones count as `most`; 1 <= least <= most.
        """
        from mumtrain.sampling.kernels import sequences as kernels

        if len(self.starts):
            return kernels.length_shares(
                *(self.rows, self.starts, self.cumulative, self.num_scenes(least), least, most, table.lengths)
            )
        counts = np.zeros(most + 1)
        counts[least:most] = self.at_least[least:most] - self.at_least[least + 1 : most + 1]
        counts[most] = self.at_least[most]
        return counts / self.at_least[least]


def build_index(
    table: SequenceTable, balance: Literal["sequence", "scene", "sqrt"], band: Band | None, most: int
) -> SequenceIndex:
    """Sort the sequences that may be drawn; O(n)."""
    from mumtrain.sampling.kernels import sequences as kernels

    rows, at_least = kernels.order_by_length(table.lengths, table.drawable(band), most)
    none = np.empty(0, np.int64)
    starts, cumulative, scenes_at_least = none.astype(np.int32), none.astype(np.float64), none
    if balance != "sequence":
        rows, starts = kernels.group_by_scene(rows, table.scenes)
        longest = np.minimum(table.lengths[rows[starts[:-1]]], most)
        scenes_at_least = np.cumsum(np.bincount(longest, minlength=most + 1)[::-1])[::-1].copy()
        if balance == "sqrt":
            # square roots and running sums are exactly rounded, one after the other
            cumulative = np.cumsum(np.sqrt(np.diff(starts).astype(np.float64)))
    return SequenceIndex(rows, starts, cumulative, at_least, scenes_at_least)
