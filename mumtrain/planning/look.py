"""What the frames share that a run draws together, and where its rule for frames fails, in some of its batches.

In: a sampler, a mix, and spans of steps. Out: lone frames, shared points, and how often `data.subset` cannot be
followed, by span, dataset and number of views.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mumdata import rng
from mumdata.catalog import Mix, MixDataset, map_sequences
from mumdata.subsets import measure_subsets
from mumtrain.config import Config
from mumtrain.curriculum import Band, Subset, read_subset
from mumtrain.sampler import Drawn, Sampler
from mumtrain.sampling.frame_subsets import COVISIBLE_BAND
from mumtrain.sampling.sequence_table import Neighbours, SequenceTable, Timestamps

__all__ = ["Found", "Looked", "look"]

# pairs of frames looked up at once: some hundred MB
_MOST_PAIRS = 1 << 22


@dataclass(frozen=True)
class Found:
    """What some sequences drawn share: lone frames as a share of theirs, and the median of two frames' shared points.

    None where nothing was looked up, or the source does not count points. `unfollowed` is the share of all sequences
    drawn, those of which nothing is known included, in which `data.subset` could not be followed: see `look`.
    """

    num_drawn: int = 0
    num_sequences: int = 0  # those of them that something is known of
    lone: float | None = None
    shared_points: float | None = None
    unfollowed: float | None = None


@dataclass(frozen=True, eq=False)
class _Part:
    span: int
    dataset: int
    views: int
    num_drawn: int
    unfollowed: float | None  # of as many sequences
    num_lone: np.ndarray  # int64 [sequences that something is known of]
    points: np.ndarray | None  # int32 [pairs of different frames]


@dataclass(frozen=True, eq=False)
class Looked:
    """What was found, and in how many batches it was looked for."""

    num_batches: int = 0
    parts: tuple[_Part, ...] = ()

    def found(self, *, span: int | None = None, dataset: int | None = None, views: int | None = None) -> Found:
        """Return what was found in a span of steps, a dataset, or with a number of views; None stands for all."""
        wanted = (span, dataset, views)
        parts = [
            part
            for part in self.parts
            if all(w in (None, is_) for w, is_ in zip(wanted, (part.span, part.dataset, part.views), strict=True))
        ]
        if not parts:
            return Found()
        num_frames = sum(len(part.num_lone) * part.views for part in parts)
        counted = [part.points for part in parts if part.points is not None and len(part.points)]
        # of datasets that the rule could be followed in at all
        ruled = [(part.unfollowed, part.num_drawn) for part in parts if part.unfollowed is not None]
        return Found(
            sum(part.num_drawn for part in parts),
            sum(len(part.num_lone) for part in parts),
            sum(int(part.num_lone.sum()) for part in parts) / num_frames if num_frames else None,
            float(np.median(np.concatenate(counted))) if counted else None,
            sum(share for share, _ in ruled) / sum(num for _, num in ruled) if ruled else None,
        )


def look(sampler: Sampler, mix: Mix, config: Config, spans: Sequence[range], num: int) -> Looked:
    """Draw batches at `num` random steps and slots of each span (fewer where views are very many), and look them up.

    Words 2i and 2i + 1 of (seed, "plan", first step of the span) draw the step and slot of batch i. Single images share
    nothing, and of sequences without a mean_overlap nothing is known. `data.subset` cannot be followed where
    `covisible` draws a frame that forms no pair of the band with any frame before it, or where a window of seconds
    holds fewer than V frames, or a time is missing.
    """
    subset, tables = read_subset(config.data.subset), sampler.tables
    known = [
        map_sequences(dataset).column("mean_overlap").is_valid().to_numpy() if dataset.covisibility else None
        for dataset in mix.datasets
    ]
    if num == 0 or not (any(of is not None for of in known) or any(_is_ruled(table, subset) for table in tables)):
        return Looked()
    pairs_per_batch = config.data.frames_per_slot * max(1, max(stage.views_max for stage in sampler.stages) - 1) // 2
    num = min(num, max(1, _MOST_PAIRS // max(1, pairs_per_batch * len(spans))))
    drawn: dict[int, dict[tuple[int, int], list[Drawn]]] = {}
    for number, span in enumerate(spans):
        for step, slot in _places(config, span, num):
            batch = sampler.batch(step, slot)
            for one in batch.sequences:
                if batch.views > 1:
                    drawn.setdefault(one.dataset, {}).setdefault((number, batch.views), []).append(one)
    bands = [stage.band for stage in sampler.stages]
    parts = []
    for number in sorted(drawn):
        groups = list(drawn[number].values())
        shared = _shared(mix.datasets[number], known[number], groups)
        for (of_span, views), group, (num_lone, points) in zip(drawn[number], groups, shared, strict=True):
            unfollowed = _unfollowed(tables[number], subset, bands[of_span], group)
            parts.append(_Part(of_span, number, views, len(group), unfollowed, num_lone, points))
    return Looked(num * len(spans), tuple(parts))


def _places(config: Config, span: range, num: int) -> Iterator[tuple[int, int]]:
    words = rng.words(rng.key(config.seed, "plan", span.start), 2 * num).reshape(num, 2)
    steps = span.start + rng.below(words[:, 0], min(len(span), 1 << 32))
    yield from zip(steps.tolist(), rng.below(words[:, 1], config.data.slots).tolist(), strict=True)


def _shared(
    dataset: MixDataset, is_known: np.ndarray | None, groups: Sequence[Sequence[Drawn]]
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    # of each group, of sequences with as many views each: lone frames int64 [n] of those known, and shared points
    found: list[tuple[np.ndarray, np.ndarray | None]] = [(np.empty(0, np.int64), None) for _ in groups]
    if is_known is None or dataset.covisibility is None:
        return found
    rows = [[one.frame_ids for one in group if is_known[one.sequence]] for group in groups]
    places = [place for place, of in enumerate(rows) if of]
    frames = [np.sort(np.stack(rows[place]), axis=1) for place in places]
    for place, of, shared in zip(places, frames, measure_subsets(dataset.covisibility, frames), strict=True):
        points = shared.shared_points
        if points is not None:
            # a frame that a short sequence repeats is no second one
            first, second = np.triu_indices(of.shape[1], 1)
            points = points[of[:, first] != of[:, second]]
        found[place] = shared.num_lone, points
    return found


def _is_ruled(table: SequenceTable, subset: Subset) -> bool:
    # whether it takes a look at the frames to tell where the rule fails
    if table.single_view:
        return False
    return (subset.kind == "covisible" and table.neighbours is not None) or (
        subset.in_seconds and table.timestamps is not None
    )


def _unfollowed(table: SequenceTable, subset: Subset, band: Band | None, group: Sequence[Drawn]) -> float | None:
    # in how many sequences of as many views the rule was not followed, by expectation; those that are too short and
    # whose frames are repeated are not counted
    if not _is_ruled(table, subset):
        return None
    views = len(group[0].frame_ids)
    whole = [one for one in group if table.lengths[one.sequence] >= views]
    if not whole:
        return 0.0
    if table.timestamps is not None and subset.in_seconds:
        times = table.timestamps
        return sum(_share_widened(times, table.frames(one.sequence), subset.size / 2, views) for one in whole)
    assert table.neighbours is not None
    frames = np.stack([one.frame_ids for one in whole])
    first, second = np.triu_indices(views, 1)
    joined = _are_joined(table.neighbours, band or COVISIBLE_BAND, frames[:, second], frames[:, first])
    follows = np.stack([joined[:, second == view].any(axis=1) for view in range(1, views)], axis=1)
    return float(np.count_nonzero(~follows.all(axis=1)))


def _share_widened(times: Timestamps, frames: np.ndarray, half: float, views: int) -> float:
    # the share of a sequence's frames around which fewer than V lie within `half` seconds
    if len(times.valid):
        bits = frames + times.shift
        if not ((times.valid[bits >> 3] >> (bits & 7)) & 1).all():
            return 1.0
    seconds = np.sort(times.seconds[frames])
    if not np.isfinite(seconds).all():
        return 1.0
    num = np.searchsorted(seconds, seconds + half, "right") - np.searchsorted(seconds, seconds - half, "left")
    return float(np.mean(num < views))


def _are_joined(pairs: Neighbours, band: Band, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # whether frames a and b, of any one shape, form a pair of the band: a binary search in the row of each a at once
    low, end = pairs.indptr[a], pairs.indptr[a + 1]
    high, last = end, len(pairs.other) - 1
    while (is_open := low < high).any():
        middle = (low + high) // 2
        is_below = pairs.other[np.minimum(middle, last)] < b
        low, high = np.where(is_open & is_below, middle + 1, low), np.where(is_open & ~is_below, middle, high)
    at = np.minimum(low, last)
    overlap = pairs.overlap[at]
    is_inside = (overlap >= np.float32(band.low)) & (overlap <= np.float32(band.high))
    joined: np.ndarray = (low < end) & (pairs.other[at] == b) & is_inside
    return joined
