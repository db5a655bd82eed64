"""The rule `topk`: a random anchor and the frames that it overlaps most with (the script released with MuM).

In: a stream with what its frames share. Out: at most `per_scene` sequences of positions, the anchor first.
"""

from __future__ import annotations

import numpy as np

from mumdata import rng
from mumdata.covisibility import Graph, neighbours
from mumdata.mining.candidates import LINK_OPTIONS, Candidates, explain_links, linked
from mumdata.mining.growth import ANCHOR_OPTIONS, from_anchors
from mumdata.mining.options import Options
from mumdata.mining.rule import Rule
from mumdata.mining.stream import Stream

__all__ = ["TOPK", "topk"]

_RULE = "topk"


def topk(stream: Stream, options: Options) -> list[np.ndarray]:
    """Mine stars: an anchor, then its up to `max_frames` - 1 (default 255) best usable frames, best first.

    The others are ordered by the overlap anchor->other, ties by position. They share at least `min_shared` points with
    the anchor (where points are counted), and the overlap lies within min_overlap .. max_overlap. With min_shared 0,
    frames that share nothing with the anchor follow last, at overlap 0, as in the released script (where min_overlap
    lets them). Stars of fewer than `min_frames` (default 24) are dropped: min_shared 0 and min_frames = max_frames is
    what the released script does.

    Each of `per_scene` tries takes one of all frames of the stream as its anchor, evenly, with replacement: word t of
    the key (seed, *stream.key, "topk") is try t. A try is lost where its anchor is not usable or its star too short;
    equal anchors give equal sequences. With `per_scene` "auto" the anchors are the usable frames in random order, but
    for those that an earlier star holds (see `from_anchors`).
    """
    if stream.pairs is None or not stream.usable.any():
        return []
    stars = _Stars(stream, options)
    if options.per_scene == "auto":
        return from_anchors(stream, options, _RULE, lambda anchor, _: stars.star(anchor), redraws=False)
    words = rng.words(rng.key(options.seed, *stream.key, _RULE), int(options.per_scene))
    anchors = rng.below(words, len(stream.usable))
    found = {anchor: stars.star(anchor) for anchor in dict.fromkeys(anchors.tolist()) if stream.usable[anchor]}
    valid = {anchor: star for anchor, star in found.items() if len(star) >= (options.min_frames or 1)}
    return [valid[anchor] for anchor in anchors.tolist() if anchor in valid]


class _Stars:
    def __init__(self, stream: Stream, options: Options) -> None:
        assert stream.pairs is not None
        graph: Graph = neighbours(stream.pairs)
        kept = linked(stream, graph, options)
        self.candidates = Candidates.of(graph, kept, graph.overlap[kept])
        self._graph = graph
        self._frames = stream.positions.astype(np.int32)
        self._most = options.max_frames or len(self._frames)
        self._with_strangers = options.min_shared == 0 and options.min_overlap == 0.0

    def star(self, anchor: int) -> np.ndarray:
        entries = slice(self.candidates.indptr[anchor], self.candidates.indptr[anchor + 1])
        best_first = np.argsort(-self.candidates.score[entries], kind="stable")[: self._most - 1]
        parts = [np.array([anchor], dtype=np.int32), self.candidates.other[entries][best_first]]
        if self._with_strangers and len(best_first) < self._most - 1:
            parts.append(self._strangers(anchor))
        return np.concatenate(parts)[: self._most]

    def _strangers(self, anchor: int) -> np.ndarray:
        entries = slice(self._graph.indptr[anchor], self._graph.indptr[anchor + 1])
        overlapping = self._graph.other[entries][self._graph.overlap[entries] > 0]
        away = ~np.isin(self._frames, overlapping) & (self._frames != anchor)
        return self._frames[away]


def _explain(stream: Stream, options: Options) -> str:
    stars = _Stars(stream, options)
    least = options.min_frames or 1
    longest = max(len(stars.star(anchor)) for anchor in stream.positions.tolist())
    if longest >= least:
        return f"none of {options.per_scene} tries drew an anchor with {least - 1} others (there are some)"
    if len(stars.candidates.other) == 0 and longest == 1:
        return explain_links(stream, options)
    return f"no frame has more than {longest - 1} others, at least {least - 1} needed"


TOPK = Rule(
    topk,
    _explain,
    uses=(*LINK_OPTIONS, *ANCHOR_OPTIONS, "max_frames", "min_frames"),
    needs="pairs",
    links="anchor",
    min_frames=24,
    max_frames=256,
)
