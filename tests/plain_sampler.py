"""Batches as `Sampler` is documented to draw them, written plainly: lists, one decision after the other, no kernels."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import numpy as np

from mumdata import rng
from mumtrain.config import Config
from mumtrain.curriculum import Stage, Subset, read_stages, read_subset

# a step, a slot, views, and (dataset, sequence, frame ids) of each sequence
PlainBatch = tuple[int, list[tuple[int, int, list[int]]]]


@dataclass(eq=False)
class PlainDataset:
    name: str
    frames: list[list[int]]
    scenes: list[int]
    units: list[float]
    overlaps: list[float | None]
    weight: float = 1.0
    single_view: bool = False
    min_frames: int = 1
    holdout: float = 0.0
    times: list[float | None] = field(default_factory=list)  # of each frame id; empty: none has one
    pairs: list[list[tuple[int, float]]] = field(default_factory=list)  # (other, overlap) of each frame id


def word(key: int, number: int) -> int:
    return int(rng.words(key, 1, start=number)[0])


def below(key: int, number: int, bound: int) -> int:
    return word(key, number) * bound >> 64


def unit(key: int, number: int) -> float:
    return (word(key, number) >> 11) / 2**53


def pick(shares: list[float], share: float) -> int:
    """Return the place whose part of the running sum `share` of the whole falls into."""
    sums = np.cumsum(shares)
    return min(int(np.searchsorted(sums, share * sums[-1], side="right")), len(shares) - 1)


def choose(key: int, start: int, num: int, count: int) -> list[int]:
    """Shuffle 0 .. num-1 from the front on, as far as needed."""
    places = list(range(num))
    for i in range(count):
        j = i + below(key, start + i, num - i)
        places[i], places[j] = places[j], places[i]
    return places[:count]


def repeat(key: int, start: int, num: int, count: int) -> list[int]:
    rest = count % num
    places = choose(key, start, num, rest) + list(range(num)) * (count // num)
    for i in range(count - 1):
        j = i + below(key, start + rest + i, count - i)
        places[i], places[j] = places[j], places[i]
    return places


class PlainSampler:
    """`dataset_shares` gives the weights of datasets for a kind where they are not those of the mix (per_frame)."""

    def __init__(self, datasets: list[PlainDataset], config: Config) -> None:
        self.datasets, self.seed, self.data = datasets, config.seed, config.data
        self.subset = read_subset(config.data.subset)
        self.stages = read_stages(config.data.stages, config.data.views_min, config.data.views_max, config.data.overlap)
        self.solved: dict[tuple[bool, int], list[float]] | None = None
        self.solved_share: float | None = None
        self.drawable = functools.cache(self._drawable)
        self.in_order = functools.cache(self._in_order)
        self.eligible = functools.cache(self._eligible)
        self.by_scene = functools.cache(self._by_scene)

    def stage(self, step: int) -> Stage:
        return [stage for stage in self.stages if stage.start <= step][-1]

    def weights(self, stage: Stage) -> list[float]:
        return [dict(stage.weights).get(d.name, d.weight) for d in self.datasets]

    def _drawable(self, number: int, stage: Stage) -> np.ndarray:
        d = self.datasets[number]
        rows = []
        for row, frames in enumerate(d.frames):
            if d.units[row] < d.holdout or len(frames) < d.min_frames:
                continue
            overlap = d.overlaps[row]
            if stage.band and self.subset.kind != "covisible" and not d.single_view and overlap is not None:
                low, high = np.float32(stage.band.low), np.float32(stage.band.high)
                if not low <= np.float32(overlap) <= high:
                    continue
            rows.append(row)
        return np.array(rows, int)

    def length(self, number: int, row: int) -> int:
        return min(len(self.datasets[number].frames[row]), self.data.frames_per_slot)

    def _in_order(self, number: int, stage: Stage) -> np.ndarray:
        rows = self.drawable(number, stage)
        return np.array(sorted(rows, key=lambda row: (-self.length(number, row), row)), int)

    def least(self, views: int) -> int:
        return 1 if self.data.short == "repeat" else views

    def _eligible(self, number: int, stage: Stage, least: int) -> np.ndarray:
        rows = self.in_order(number, stage)
        return rows[: sum(self.length(number, row) >= least for row in rows)]

    def _by_scene(self, number: int, stage: Stage) -> dict[int, list[int]]:
        scenes: dict[int, list[int]] = {}
        for row in self.in_order(number, stage):
            scenes.setdefault(self.datasets[number].scenes[row], []).append(int(row))
        return scenes

    def sequence(self, key: int, number: int, stage: Stage, least: int) -> int:
        if self.data.balance == "sequence":
            rows = self.eligible(number, stage, least)
            return int(rows[below(key, 2, len(rows))])
        scenes = [s for s in self.by_scene(number, stage).values() if self.length(number, s[0]) >= least]
        if self.data.balance == "scene":
            scene = scenes[below(key, 1, len(scenes))]
        else:
            scene = scenes[pick([math.sqrt(len(s)) for s in scenes], unit(key, 1))]
        rows_of = [row for row in scene if self.length(number, row) >= least]
        return rows_of[below(key, 2, len(rows_of))]

    def dataset(self, key: int, number: int, stage: Stage, kind: tuple[bool, int], solved: bool = True) -> int:
        weights = self.weights(stage)
        if self.solved is not None and solved:
            weights = self.solved[kind]
        able = [
            n
            for n, d in enumerate(self.datasets)
            if weights[n] > 0 and d.single_view == kind[0] and len(self.eligible(n, stage, self.least(kind[1])))
        ]
        return able[pick([weights[n] for n in able], unit(key, number))]

    def kind(self, key: int, stage: Stage) -> tuple[bool, int]:
        weights = self.weights(stage)
        single = sum(w for w, d in zip(weights, self.datasets, strict=True) if d.single_view)
        multi = [n for n, d in enumerate(self.datasets) if weights[n] > 0 and not d.single_view]
        share = single / sum(weights) if multi else 1.0
        if self.solved_share is not None:
            share = self.solved_share
        if unit(key, 0) < share:
            return True, 1
        longest = max(self.length(n, rows[0]) for n in multi if len(rows := self.in_order(n, stage)))
        most = stage.views_max if self.data.short == "repeat" else min(stage.views_max, longest)
        views = stage.views_min + below(key, 1, most - stage.views_min + 1)
        if self.data.short == "cap":
            pilot = word(key, 3)
            pilot_key = word(pilot, 0)
            number = self.dataset(pilot_key, 0, stage, (False, stage.views_min), solved=False)
            row = self.sequence(pilot_key, number, stage, stage.views_min)
            views = min(views, self.length(number, row))
        return False, views

    def batch(self, step: int, slot: int) -> PlainBatch:
        stage = self.stage(step)
        key = rng.key(self.seed, step, slot, "batch")
        kind = self.kind(key if self.data.views_per == "slot" else rng.key(self.seed, step, "views"), stage)
        count = self.data.frames_per_slot // kind[1]
        return kind[1], [self.draw(key, number, stage, kind, 0) for number in range(count)]

    def draw(
        self, batch: int, number: int, stage: Stage, kind: tuple[bool, int], attempt: int
    ) -> tuple[int, int, list[int]]:
        key = word(word(batch, 8 + number), attempt)
        if self.data.weighting == "per_batch":
            dataset = self.dataset(batch, 2, stage, kind)
        else:
            dataset = self.dataset(key, 0, stage, kind)
        row = self.sequence(key, dataset, stage, self.least(kind[1]))
        d = self.datasets[dataset]
        frames = d.frames[row]
        subset = Subset("uniform") if d.single_view else self.subset
        places = plain_places(key, frames, kind[1], subset, stage, d.times, d.pairs)
        return dataset, row, [frames[place] for place in places]


def plain_places(
    key: int,
    frames: list[int],
    views: int,
    subset: Subset,
    stage: Stage,
    times: list[float | None],
    pairs: list[list[tuple[int, float]]],
) -> list[int]:
    """Return the places of the V frames in a sequence."""
    num = len(frames)
    if num < views:
        return repeat(key, 4, num, views)
    if subset.kind == "window" and not subset.in_seconds:
        width = min(num, max(views, int(subset.size)))
        first = below(key, 3, num - width + 1) if width < num else 0
        return [first + place for place in choose(key, 4, width, views)]
    if subset.kind == "window" and times:
        known = [times[frame] for frame in frames]
        if all(t is not None and math.isfinite(t) for t in known):
            anchor = known[below(key, 3, num)]
            distance = [abs(t - anchor) for t in known]  # type: ignore[operator]
            near = [place for place in range(num) if distance[place] <= subset.size / 2]
            if len(near) < views:
                near = sorted(range(num), key=lambda place: (distance[place], place))[:views]
            return [near[i] for i in choose(key, 4, len(near), views)]
    if subset.kind == "stride":
        step = min(int(subset.size), (num - 1) // (views - 1)) if views > 1 else 1
        first = below(key, 3, num - step * (views - 1))
        return [first + step * view for view in range(views)]
    if subset.kind == "covisible" and pairs:
        low, high = (stage.band.low, stage.band.high) if stage.band else (0.1, 1.0)
        return plain_covisible(key, frames, views, pairs, low, high)
    return choose(key, 4, num, views)


def plain_covisible(
    key: int, frames: list[int], views: int, pairs: list[list[tuple[int, float]]], low: float, high: float
) -> list[int]:
    place_of = {frame: place for place, frame in reversed(list(enumerate(frames)))}
    chosen: list[int] = []
    linked: list[int] = []  # in the order in which they were met; the last one takes the place of one that is drawn
    for view in range(views):
        if linked:
            at = below(key, 4 + view, len(linked))
            linked[at], linked[-1] = linked[-1], linked[at]
            chosen.append(linked.pop())
        else:
            unused = [place for place in range(len(frames)) if place not in chosen]
            chosen.append(unused[below(key, 4 + view, len(unused))])
        for other, overlap in pairs[frames[chosen[-1]]]:
            place = place_of.get(other)
            if not np.float32(low) <= np.float32(overlap) <= np.float32(high) or place is None:
                continue
            if place not in linked and place not in chosen:
                linked.append(place)
    return chosen
