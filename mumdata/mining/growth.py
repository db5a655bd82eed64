"""Chains over candidates: growing one under the bounds, and growing them from random anchors.

In: candidates, the overlaps of a stream, options. Out: chains, int32 arrays of positions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np

from mumdata import rng
from mumdata.covisibility import Graph, Pairs, overlaps
from mumdata.mining.candidates import LINK_OPTIONS, Candidates
from mumdata.mining.options import Options
from mumdata.mining.stream import Stream

__all__ = ["ANCHOR_OPTIONS", "CHAIN_OPTIONS", "Growth", "draws", "explain_chains", "from_anchors"]

CHAIN_OPTIONS = (*LINK_OPTIONS, "anchor_overlap", "max_frames", "min_frames", "min_mean_overlap")
ANCHOR_OPTIONS = ("per_scene", "seed")

_GREEDY = np.empty(0, dtype=np.float64)  # no draws


class Growth:
    """Grows chains of usable frames of one stream, one after the other.

    Each chain keeps to `max_frames`, to `anchor_overlap` (least overlap of its first frame with every other one) and to
    `min_mean_overlap` (it ends before the frame that would bring the mean overlap over its ordered pairs below that).
    """

    def __init__(self, stream: Stream, graph: Graph, candidates: Candidates, options: Options) -> None:
        assert stream.pairs is not None
        self._graph = graph
        self._candidates = candidates
        self._options = options
        self._free = stream.usable.copy()
        num, num_usable = len(stream.usable), len(stream.positions)
        self._chain = np.empty(min(options.max_frames or num_usable, num_usable), dtype=np.int32)
        self._near = np.zeros(num if options.anchor_overlap > 0 else 0, dtype=bool)
        self._member = np.zeros(num if options.min_mean_overlap > 0 else 0, dtype=bool)
        self._reverse = _reversed(graph, stream.pairs) if options.min_mean_overlap > 0 else _GREEDY

    @property
    def most(self) -> int:
        """The most frames that a chain can have."""
        return len(self._chain)

    def chain(
        self, anchor: int, weight: np.ndarray | None = None, draws: np.ndarray = _GREEDY, *, back: bool = False
    ) -> np.ndarray:
        """Grow a chain from a free frame; see `mumdata.kernels.chains.grow`. Its frames are free no more."""
        from mumdata.kernels import chains

        links, bounded = self._candidates, self._options.anchor_overlap > 0
        free = self._near if bounded else self._free
        if bounded:
            entries = slice(self._graph.indptr[anchor], self._graph.indptr[anchor + 1])
            near = self._graph.other[entries][self._graph.overlap[entries] >= self._options.anchor_overlap]
            free[near] = self._free[near]
        weight = links.score if weight is None else weight
        num = chains.grow(anchor, links.indptr, links.other, links.score, weight, draws, back, free, self._chain)
        if bounded:
            free[near] = False
        if self._options.min_mean_overlap > 0:
            num = self._lasting(num, restore=not bounded)
        chain = self._chain[:num].copy()
        self._free[chain] = False
        return chain

    def release(self, chain: np.ndarray) -> None:
        """Make the frames of a chain free again."""
        self._free[chain] = True

    def _lasting(self, num: int, *, restore: bool) -> int:
        from mumdata.kernels import chains

        graph, least = self._graph, self._options.min_mean_overlap
        kept = chains.lasting(
            self._chain[:num], graph.indptr, graph.other, graph.overlap, self._reverse, least, self._member
        )
        if restore:
            self._free[self._chain[kept:num]] = True
        return int(kept)


def _reversed(graph: Graph, pairs: Pairs) -> np.ndarray:
    ab, ba, _ = overlaps(pairs)
    return np.where(graph.row < graph.other, ba[graph.pair], ab[graph.pair])


def draws(stream: Stream, options: Options, rule: str, round_: int, anchor: int, num: int) -> np.ndarray:
    """Return the numbers in [0, 1) that the steps of one chain are drawn with, float64 [num]."""
    key = rng.key(options.seed, *stream.key, rule, "next", round_, anchor)
    return rng.unit(rng.words(key, num))


def from_anchors(
    stream: Stream, options: Options, rule: str, grow: Callable[[int, int], np.ndarray], *, redraws: bool
) -> list[np.ndarray]:
    """Collect `per_scene` chains, `grow(anchor, round)` each, from the usable frames in random order.

    No anchor comes twice in a round, nor does a chain come twice while another one is found: rounds go on until one
    brings nothing new (the first, where `redraws` says that later ones would grow the same). If that is not enough,
    all chains are emitted again in the random orders of further rounds, so that every stream that yields anything
    weighs the same. With `cover`, anchors that no emitted chain holds yet come first in their round; with `per_scene`
    "auto" they alone are taken, in one round: every usable frame with a valid chain is then covered. Chains shorter
    than `min_frames` do not count.

    Random words: key (seed, *stream.key, rule); round r over m usable frames sorts words r*m .. (r+1)*m-1.
    """
    frames, least = stream.positions, options.min_frames or 1
    auto = options.per_scene == "auto"
    num = sys.maxsize if auto else int(options.per_scene)
    key = rng.key(options.seed, *stream.key, rule)

    def order(round_: int) -> list[int]:
        words = rng.words(key, len(frames), start=round_ * len(frames))
        found: list[int] = frames[np.argsort(words, kind="stable")].tolist()
        return found

    result: list[np.ndarray] = []
    chains_of: dict[int, list[np.ndarray]] = {}
    known: set[bytes] = set()
    covered = np.zeros(len(stream.usable), dtype=bool)
    round_, fresh = 0, True
    while fresh and len(result) < num and (round_ == 0 or (redraws and not auto)):
        fresh = False
        for anchor in _turns(order(round_), covered, options.cover or auto, auto):
            chain = grow(anchor, round_)
            name = chain.tobytes()
            if len(chain) < least or name in known:
                continue
            fresh = True
            known.add(name)
            chains_of.setdefault(anchor, []).append(chain)
            covered[chain] = True
            result.append(chain)
            if len(result) == num:
                break
        round_ += 1
    while result and len(result) < num and not auto:
        result += [chain for anchor in order(round_) for chain in chains_of.get(anchor, ())]
        round_ += 1
    return result if auto else result[:num]


def _turns(order: list[int], covered: np.ndarray, cover: bool, auto: bool) -> Iterator[int]:
    """Yield the anchors of a round; `covered` grows meanwhile, so it is looked at when each one's turn comes."""
    late = []
    for anchor in order:
        if cover and covered[anchor]:
            late.append(anchor)
        else:
            yield anchor
    if not auto:
        yield from late


def explain_chains(stream: Stream, options: Options, candidates: Candidates, grow: Callable[[int], np.ndarray]) -> str:
    """Say how long the longest chain is that `grow(anchor)` finds; for streams that yield none."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    least, num = options.min_frames or 1, len(stream.usable)
    longest = max(len(grow(anchor)) for anchor in stream.positions.tolist())
    ones = np.ones(len(candidates.other), dtype=np.int8)
    links = coo_array((ones, (candidates.row, candidates.other)), shape=(num, num))
    _, part_of = connected_components(links, directed=False)
    return (
        f"longest chain has {longest} frame{'' if longest == 1 else 's'}, at least {least} needed (largest group that "
        f"can follow each other: {int(np.bincount(part_of).max())})"
    )
