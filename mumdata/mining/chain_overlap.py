"""The rule `chain-overlap`: from a random anchor, always on to the frame that overlaps most (MuM, MegaDepth).

In: a stream with what its frames share. Out: `per_scene` chains of positions, or none where the stream yields none.
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

__all__ = ["CHAIN_OVERLAP", "chain_overlap", "power"]

_RULE = "chain-overlap"
_FRACTION_BITS = 20  # of the exponent 1 / temperature: rounding it so changes a weight by less than 1e-5 of it
_LARGEST = float(1 << 32)  # exponents beyond it leave nothing but the best


def chain_overlap(stream: Stream, options: Options) -> list[np.ndarray]:
    """Mine chains by overlap; exactly `per_scene` of them wherever at least one anchor yields a chain.

    From its anchor a chain goes on to the unused usable frame that has the highest overlap current->other among those
    that share at least max(1, min_shared) points with the current one (where points are counted) and whose overlap
    lies within min_overlap .. max_overlap; ties: the lower position. With a `temperature` the next frame is drawn
    among these instead, with weight overlap^(1 / temperature). Frames that overlap the anchor less than
    `anchor_overlap` are passed over. A chain ends at `max_frames` (default 256), where no such frame is left, or where
    the next would bring it below `min_mean_overlap` (see `Growth`); below `min_frames` (default 24) it is dropped. For
    anchors, `per_scene` and `cover` see `from_anchors`.

    Weights are relative to the best overlap of the current frame; 1 / temperature is taken to the nearest multiple of
    2^-20. Where the weights of all that is left are too small for float64, the best follows.
    """
    if stream.pairs is None or not stream.usable.any():
        return []
    _, grow = _grower(stream, options)
    return from_anchors(stream, options, _RULE, grow, redraws=options.temperature > 0)


def power(base: np.ndarray, exponent: float) -> np.ndarray:
    """Return base^exponent for base in 0 .. 1, exponent > 0, with the same bits on every machine.

    Only products and square roots, by the binary digits of the exponent: squares for the whole part, roots for the
    fraction, which is rounded to 20 digits (the least exponent is 2^-20).
    """
    digits = max(1, round(min(exponent, _LARGEST) * (1 << _FRACTION_BITS)))
    whole, fraction = divmod(digits, 1 << _FRACTION_BITS)
    result, square, root = np.ones_like(base), base, base
    while whole:
        if whole & 1:
            result = result * square
        square, whole = square * square, whole >> 1
    while fraction:
        root, fraction = np.sqrt(root), fraction << 1
        if fraction >> _FRACTION_BITS:
            result = result * root
            fraction -= 1 << _FRACTION_BITS
    return result


def _grower(stream: Stream, options: Options) -> tuple[Candidates, Callable[[int, int], np.ndarray]]:
    assert stream.pairs is not None
    graph = neighbours(stream.pairs)
    kept = linked(stream, graph, options)
    candidates = Candidates.of(graph, kept, graph.overlap[kept])
    growth = Growth(stream, graph, candidates, options)
    weight = _weights(candidates, options.temperature) if options.temperature > 0 else None

    def grow(anchor: int, round_: int) -> np.ndarray:
        if weight is None:
            chain = growth.chain(anchor)
        else:
            steps = draws(stream, options, _RULE, round_, anchor, growth.most - 1)
            chain = growth.chain(anchor, weight, steps)
        growth.release(chain)
        return chain

    return candidates, grow


def _weights(candidates: Candidates, temperature: float) -> np.ndarray:
    filled = np.flatnonzero(np.diff(candidates.indptr))
    if len(filled) == 0:
        return candidates.score
    best = np.zeros(len(candidates.indptr) - 1)
    best[filled] = np.maximum.reduceat(candidates.score, candidates.indptr[filled])
    return power(candidates.score / best[candidates.row], 1.0 / temperature)


def _explain(stream: Stream, options: Options) -> str:
    candidates, grow = _grower(stream, options)
    if len(candidates.other) == 0:
        return explain_links(stream, options)
    return explain_chains(stream, options, candidates, lambda anchor: grow(anchor, 0))


CHAIN_OVERLAP = Rule(
    chain_overlap,
    _explain,
    uses=(*CHAIN_OPTIONS, *ANCHOR_OPTIONS, "cover", "temperature"),
    needs="pairs",
    min_frames=24,
    max_frames=256,
)
