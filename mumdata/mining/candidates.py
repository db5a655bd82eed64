"""Which frames may follow each other in a chain, and how good each would be.

In: what the frames of a stream share, and options. Out: `Candidates`, rows of links between usable frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mumdata.covisibility import Graph
from mumdata.mining.options import Options
from mumdata.mining.stream import Stream

__all__ = ["LINK_OPTIONS", "Candidates", "explain_links", "linked"]

LINK_OPTIONS = ("max_overlap", "min_overlap", "min_shared")


@dataclass(frozen=True, eq=False)
class Candidates:
    """The frames that may follow frame i are other[indptr[i] : indptr[i + 1]], in rising order."""

    indptr: np.ndarray  # int64 [n + 1]
    other: np.ndarray  # int32 [c]
    score: np.ndarray  # float64 [c], the highest is the best

    @classmethod
    def of(cls, graph: Graph, kept: np.ndarray, score: np.ndarray) -> Candidates:
        """Take the entries of a graph that `kept` (bool [2k]) marks; `score` is that of those alone."""
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(kept, dtype=np.int64)])
        return cls(before[graph.indptr], graph.other[kept], np.ascontiguousarray(score, dtype=np.float64))

    @property
    def row(self) -> np.ndarray:
        """The frame that each entry follows, int64 [c]."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))


def linked(stream: Stream, graph: Graph, options: Options) -> np.ndarray:
    """Mark the entries of a graph that can be links of a chain, bool [2k].

    Both frames are usable, they share at least max(1, min_shared) points where points are counted, and the overlap
    current->next is positive and within min_overlap .. max_overlap.
    """
    kept = stream.usable[graph.row] & stream.usable[graph.other] & (graph.overlap > 0)
    kept &= (graph.overlap >= options.min_overlap) & (graph.overlap <= options.max_overlap)
    if graph.shared is not None:
        kept &= graph.shared >= options.min_shared
    return kept


def explain_links(stream: Stream, options: Options) -> str:
    """Say what it is that no two usable frames have, where there are pairs of usable frames and yet no links."""
    assert stream.pairs is not None
    both = stream.usable[stream.pairs.a] & stream.usable[stream.pairs.b]
    if stream.pairs.shared is not None:
        needed, best = max(1, options.min_shared), int(stream.pairs.shared[both].max(initial=0))
        if best < needed:
            return f"no two usable frames share {needed} points (most: {best})"
    if options.min_overlap == 0.0 and options.max_overlap == 1.0:
        return "no two usable frames overlap"
    return f"no two usable frames have an overlap of {options.min_overlap:g} to {options.max_overlap:g}"
