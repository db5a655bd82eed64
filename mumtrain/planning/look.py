"""What the frames share that a run draws together, looked up for some of its batches.

In: a sampler, a mix with covisibility, and spans of steps. Out: lone frames and shared points by span, dataset and
number of views.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mumdata import rng
from mumdata.catalog import Mix, MixDataset, map_sequences
from mumdata.subsets import measure_subsets
from mumtrain.config import Config
from mumtrain.sampler import Sampler

__all__ = ["Found", "Looked", "look"]

# pairs of frames looked up at once: some hundred MB
_MOST_PAIRS = 1 << 22


@dataclass(frozen=True)
class Found:
    """What some sequences drawn share: lone frames as a share of theirs, and the median of two frames' shared points.

    None where nothing was looked up, or the source does not count points.
    """

    num_sequences: int = 0
    lone: float | None = None
    shared_points: float | None = None


@dataclass(frozen=True, eq=False)
class _Part:
    span: int
    dataset: int
    views: int
    num_lone: np.ndarray  # int64 [sequences]
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
        return Found(
            sum(len(part.num_lone) for part in parts),
            sum(int(part.num_lone.sum()) for part in parts) / num_frames,
            float(np.median(np.concatenate(counted))) if counted else None,
        )


def look(sampler: Sampler, mix: Mix, config: Config, spans: Sequence[range], num: int) -> Looked:
    """Draw batches at `num` random steps and slots of each span (fewer where views are very many), and look them up.

    Words 2i and 2i + 1 of (seed, "plan", first step of the span) draw the step and slot of batch i. Single images share
    nothing, and of sequences without a mean_overlap nothing is known: both are passed over.
    """
    known = [
        map_sequences(dataset).column("mean_overlap").is_valid().to_numpy() if dataset.covisibility else None
        for dataset in mix.datasets
    ]
    if all(is_known is None for is_known in known):
        return Looked()
    pairs_per_batch = config.data.frames_per_slot * max(1, max(stage.views_max for stage in sampler.stages) - 1) // 2
    num = min(num, max(1, _MOST_PAIRS // max(1, pairs_per_batch * len(spans))))
    drawn: dict[int, dict[tuple[int, int], list[np.ndarray]]] = {}
    for number, span in enumerate(spans):
        for step, slot in _places(config, span, num):
            batch = sampler.batch(step, slot)
            for one in batch.sequences:
                is_known = known[one.dataset]
                if batch.views > 1 and is_known is not None and is_known[one.sequence]:
                    drawn.setdefault(one.dataset, {}).setdefault((number, batch.views), []).append(one.frame_ids)
    parts = [part for dataset in sorted(drawn) for part in _measured(mix.datasets[dataset], dataset, drawn[dataset])]
    return Looked(num * len(spans), tuple(parts))


def _places(config: Config, span: range, num: int) -> Iterator[tuple[int, int]]:
    words = rng.words(rng.key(config.seed, "plan", span.start), 2 * num).reshape(num, 2)
    steps = span.start + rng.below(words[:, 0], min(len(span), 1 << 32))
    yield from zip(steps.tolist(), rng.below(words[:, 1], config.data.slots).tolist(), strict=True)


def _measured(
    dataset: MixDataset, number: int, drawn: Mapping[tuple[int, int], Sequence[np.ndarray]]
) -> Iterator[_Part]:
    assert dataset.covisibility is not None
    frames = [np.sort(np.stack(rows), axis=1) for rows in drawn.values()]
    for (span, views), rows, shared in zip(drawn, frames, measure_subsets(dataset.covisibility, frames), strict=True):
        points = shared.shared_points
        if points is not None:
            # a frame that a short sequence repeats is no second one
            first, second = np.triu_indices(views, 1)
            points = points[rows[:, first] != rows[:, second]]
        yield _Part(span, number, views, shared.num_lone, points)
