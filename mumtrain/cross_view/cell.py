"""The figures of one part of the patches.

In: rows of sums, by scene, sample and kind. Out: a Cell: G on both kinds of patches, their difference over all and
within samples, each with its interval, and F.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mumtrain.cross_view.interval import gain_interval
from mumtrain.cross_view.measure import KINDS, Row

__all__ = ["Cell", "cell_of", "scene_of"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The figures of one part of the patches; a figure is None where there is nothing to take it from.

    `g_a` and `g_b` are mean errors without the other views minus those with them, over patches whose content is visible
    in an unmasked patch of another view, and over patches whose content is in no other view. `gain` is g_a - g_b, `low`
    and `high` are the ends of its 95 % interval over scenes.

    Patches of kind a are mostly of views that overlap much, those of kind b of others. `within` compares those of the
    same sample: the mean over samples that have both of their own g_a - g_b, weighted by n_a n_b / (n_a + n_b), with
    an interval of its own; such samples and scenes are counted in `within_samples` and `within_scenes`.

    `f_a` and `f_b`, over the first view of each sample alone, are mean errors with views of another scene minus those
    with the own ones.
    """

    views: int
    dataset: str | None  # None: all
    band: str | None  # of the view's overlap with the others; None: all
    gain: float | None
    low: float | None
    high: float | None
    within: float | None
    within_low: float | None
    within_high: float | None
    g_a: float | None
    g_b: float | None
    f_a: float | None
    f_b: float | None
    patches_a: int
    patches_b: int
    scenes_a: int
    scenes_b: int
    scenes: int
    within_samples: int
    within_scenes: int
    foreign_patches_a: int
    foreign_patches_b: int
    foreign_scenes_a: int
    foreign_scenes_b: int


def scene_of(row: Row) -> tuple[str, str, str]:
    """Return the scene of a row, to be sorted by."""
    return row.dataset, row.split or "", row.scene


def cell_of(rows: Sequence[Row], views: int, dataset: str | None, band: str | None) -> Cell:
    """Sum up the rows of some patches; the other arguments name them."""
    scenes = {scene: number for number, scene in enumerate(dict.fromkeys(map(scene_of, rows)))}
    # [scenes, kinds]: sums of the gains and how many patches they are of, with single views and with foreign ones
    sums, counts, foreign_sums, foreign_counts = np.zeros((4, len(scenes), len(KINDS)))
    for row in rows:
        at = scenes[scene_of(row)], KINDS.index(row.kind)
        sums[at] += row.without - row.with_others
        counts[at] += row.num
        foreign_sums[at] += row.first_foreign - row.first_with
        foreign_counts[at] += row.first_num
    (g_a, g_b), (f_a, f_b) = _means(sums, counts), _means(foreign_sums, foreign_counts)
    low, high = gain_interval(sums, counts) or (None, None)
    inside = _within(rows, scenes)
    patches, num_scenes = counts.sum(0), (counts > 0).sum(0)
    foreign_patches, num_foreign = foreign_counts.sum(0), (foreign_counts > 0).sum(0)
    return Cell(
        views=views,
        dataset=dataset,
        band=band,
        gain=None if g_a is None or g_b is None else g_a - g_b,
        low=low,
        high=high,
        within=inside.mean,
        within_low=inside.low,
        within_high=inside.high,
        g_a=g_a,
        g_b=g_b,
        f_a=f_a,
        f_b=f_b,
        patches_a=int(patches[0]),
        patches_b=int(patches[1]),
        scenes_a=int(num_scenes[0]),
        scenes_b=int(num_scenes[1]),
        scenes=len(scenes),
        within_samples=inside.num_samples,
        within_scenes=inside.num_scenes,
        foreign_patches_a=int(foreign_patches[0]),
        foreign_patches_b=int(foreign_patches[1]),
        foreign_scenes_a=int(num_foreign[0]),
        foreign_scenes_b=int(num_foreign[1]),
    )


class _Within(NamedTuple):
    mean: float | None
    low: float | None
    high: float | None
    num_samples: int
    num_scenes: int


def _within(rows: Sequence[Row], scenes: dict[tuple[str, str, str], int]) -> _Within:
    """Compare the kinds in each sample; `scenes` numbers the rows' scenes. Weights are those of Mantel and Haenszel."""
    # sample -> its scene, and sums and numbers of both kinds
    samples: dict[int, tuple[int, np.ndarray]] = {}
    for row in rows:
        _, table = samples.setdefault(row.sample, (scenes[scene_of(row)], np.zeros((2, len(KINDS)))))
        table[:, KINDS.index(row.kind)] += row.without - row.with_others, row.num
    with_both = [(scene, table) for scene, table in samples.values() if (table[1] > 0).all()]
    sums, weights = np.zeros((2, len(scenes), 1))
    for scene, ((sum_a, sum_b), (num_a, num_b)) in with_both:
        weight = num_a * num_b / (num_a + num_b)
        weights[scene] += weight
        sums[scene] += weight * (sum_a / num_a - sum_b / num_b)
    low, high = gain_interval(sums, weights) or (None, None)
    return _Within(_means(sums, weights)[0], low, high, len(with_both), int((weights > 0).sum()))


def _means(sums_SK: np.ndarray, counts_SK: np.ndarray) -> list[float | None]:
    totals, counts = sums_SK.sum(0).tolist(), counts_SK.sum(0).tolist()
    return [
        total / count if count and math.isfinite(total) else None for total, count in zip(totals, counts, strict=True)
    ]
