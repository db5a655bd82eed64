"""The rule `walk`: random walks over frames that overlap enough, going back where they get stuck.

In: a stream with what its frames share. Out: `per_scene` walks of positions, or none where the stream yields none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mumdata.covisibility import neighbours
from mumdata.mining.candidates import Candidates, explain_links, linked
from mumdata.mining.growth import ANCHOR_OPTIONS, CHAIN_OPTIONS, Growth, draws, explain_chains, from_anchors
from mumdata.mining.options import Options
from mumdata.mining.rule import Rule
from mumdata.mining.stream import Stream

__all__ = ["WALK", "walk"]

_RULE = "walk"


def walk(stream: Stream, options: Options) -> list[np.ndarray]:
    """Mine random walks; exactly `per_scene` of them wherever at least one anchor yields one.

    From its anchor a walk goes on to an unused usable frame, drawn evenly among those that share at least
    max(1, min_shared) points with the current one (where points are counted) and whose overlap current->other lies
    within min_overlap .. max_overlap. Where there is none it goes back along itself to the last frame that has one, so
    that a frame's overlap with the next in the list may be anything, 0 too, after a way back. It ends at `max_frames`
    (default 256), back at its anchor with nothing left, or where `anchor_overlap` and `min_mean_overlap` end it (see
    `Growth`); below `min_frames` (default 24) it is dropped. The threshold is min_overlap as it is given: at its
    default of 0, min_shared alone decides. For anchors, `per_scene` and `cover` see `from_anchors`.
    """
    if stream.pairs is None or not stream.usable.any():
        return []
    _, grow = _grower(stream, options)
    return from_anchors(stream, options, _RULE, grow, redraws=True)


def _grower(stream: Stream, options: Options) -> tuple[Candidates, Callable[[int, int], np.ndarray]]:
    assert stream.pairs is not None
    graph = neighbours(stream.pairs)
    kept = linked(stream, graph, options)
    candidates = Candidates.of(graph, kept, np.ones(int(np.count_nonzero(kept))))  # none is better than another
    growth = Growth(stream, graph, candidates, options)

    def grow(anchor: int, round_: int) -> np.ndarray:
        steps = draws(stream, options, _RULE, round_, anchor, growth.most - 1)
        chain = growth.chain(anchor, draws=steps, back=True)
        growth.release(chain)
        return chain

    return candidates, grow


def _explain(stream: Stream, options: Options) -> str:
    candidates, grow = _grower(stream, options)
    if len(candidates.other) == 0:
        return explain_links(stream, options)
    return explain_chains(stream, options, candidates, lambda anchor: grow(anchor, 0))


WALK = Rule(
    walk,
    _explain,
    uses=(*CHAIN_OPTIONS, *ANCHOR_OPTIONS, "cover"),
    needs="pairs",
    min_frames=24,
    max_frames=256,
)
