"""The rule `pair`: two views of the same from different sides (CroCo), or the pairs of a list.

In: a stream with shared points and angles, or with a list of pairs. Out: sequences of two positions.
"""

from __future__ import annotations

import numpy as np

from mumdata.covisibility import Pairs, overlaps
from mumdata.geometry import cos_deg
from mumdata.mining.options import Options
from mumdata.mining.rule import Rule
from mumdata.mining.stream import Stream

__all__ = ["PAIR", "pair"]

_BLOCK = 4096  # candidates looked at in one go


def pair(stream: Stream, options: Options) -> list[np.ndarray]:
    """Take the pairs of `stream.listed` where there is such a list, else choose the best ones, each at most once.

    A listed pair is taken, in the order of the list and with its own first frame, where both frames are usable. Where
    the stream's pairs are known it must moreover share at least `min_shared` points, if points are counted, and the
    overlap of its first frame with its second must lie in min_overlap .. max_overlap; a pair that nothing is known of
    shares nothing.

    Without a list, the candidates are the pairs of usable frames that share at least max(1, min_shared) points, whose
    angle (`angle`: between viewing axes, of the full rotation, or of the rays at the shared points) is known and lies
    in min_angle_deg .. max_angle_deg, decided on cosines, with a metric m of at least `min_metric` (`metric`: the IoU,
    or the overlap of the first frame with the second) and an overlap of the first with the second in min_overlap ..
    max_overlap. Their score is m * 4 * cos * (1 - cos), highest at 60 degrees (CroCo v2, Weinzaepfel et al. 2023). The
    first frame is the one with which a pair is a candidate and scores higher; ties: the lower position.

    Frames take turns: the next pair is the one whose less used frame is in the fewest pairs so far, then the one whose
    other frame is, then the one with the best score, then that of the lower positions. So no frame is used again as
    long as two unused ones are a candidate, and every frame of a candidate gets its turn. It ends with `per_scene`
    pairs, where no candidate is left, or, with "auto", when every frame of a candidate is in a pair.

    Nothing is random. Reads: per_scene, metric, angle, min_metric, min_angle_deg, max_angle_deg, min_shared,
    min_overlap, max_overlap; with a list the last three alone.
    """
    if stream.listed is not None:
        return list(_listed(stream, stream.listed, options))
    candidates = _candidates(stream, options)
    most = None if options.per_scene == "auto" else int(options.per_scene)
    return list(candidates[_in_turns(candidates, len(stream.usable), most)])


def _listed(stream: Stream, listed: np.ndarray, options: Options) -> np.ndarray:
    """Return the listed pairs that may be taken, int32 [m, 2]."""
    listed = np.asarray(listed, dtype=np.int32).reshape(-1, 2)
    listed = listed[stream.usable[listed].all(axis=1)]
    if stream.pairs is None:
        return listed
    row = _rows_of(stream.pairs, listed)
    known, turned = row >= 0, listed[:, 0] > listed[:, 1]
    ab, ba, _ = overlaps(stream.pairs)
    overlap = np.zeros(len(listed))
    overlap[known] = np.where(turned[known], ba[row[known]], ab[row[known]])
    keep = (overlap >= options.min_overlap) & (overlap <= options.max_overlap)
    if stream.pairs.shared is not None:
        shared = np.zeros(len(listed), dtype=np.int64)
        shared[known] = stream.pairs.shared[row[known]]
        keep &= shared >= options.min_shared
    return listed[keep]


def _rows_of(pairs: Pairs, wanted: np.ndarray) -> np.ndarray:
    """Return the row of each wanted pair, either way round, int64 [m]; -1 where it is none."""
    if not len(pairs.a):
        return np.full(len(wanted), -1, dtype=np.int64)
    num = len(pairs.num_points)
    key = pairs.a.astype(np.int64) * num + pairs.b  # rising, as pairs are sorted
    sought = wanted.min(axis=1).astype(np.int64) * num + wanted.max(axis=1)
    row = np.minimum(np.searchsorted(key, sought), len(key) - 1)
    return np.where(key[row] == sought, row, -1)


def _candidates(stream: Stream, options: Options) -> np.ndarray:
    """Return the pairs that may be chosen, best score first, int32 [k, 2], the first frame of each in front."""
    pairs = stream.pairs
    cos = None if pairs is None else getattr(pairs, f"{options.angle}_cos")
    if pairs is None or cos is None:
        return np.empty((0, 2), dtype=np.int32)
    able = stream.usable[pairs.a] & stream.usable[pairs.b]
    able &= (cos <= cos_deg(options.min_angle_deg)) & (cos >= cos_deg(options.max_angle_deg))
    if pairs.shared is not None:
        able &= pairs.shared >= max(1, options.min_shared)
    ab, ba, iou = overlaps(pairs)

    def scores(overlap: np.ndarray) -> np.ndarray:
        metric = iou if options.metric == "iou" else overlap
        kept = able & (metric >= options.min_metric)
        kept &= (overlap >= options.min_overlap) & (overlap <= options.max_overlap)
        return np.where(kept, metric * 4.0 * cos * (1.0 - cos), -np.inf)

    forward, backward = scores(ab), scores(ba)
    score = np.maximum(forward, backward)
    # pairs are sorted by position, and the order is stable
    rows = np.argsort(-score, kind="stable")[: np.count_nonzero(score > -np.inf)]
    turned = backward[rows] > forward[rows]
    a, b = pairs.a[rows], pairs.b[rows]
    return np.stack([np.where(turned, b, a), np.where(turned, a, b)], axis=1).astype(np.int32)


def _in_turns(candidates: np.ndarray, num: int, most: int | None) -> np.ndarray:
    """Return the candidates' rows in the order in which frames take turns; `most` None: until all have had one.

    How often the frames of a pair have been used only ever grows. So one pass over the candidates, best first, finds
    all pairs of one level (less used frame, other frame) in their order, and none of a lower level comes up again.
    """
    used = np.zeros(num, dtype=np.int64)
    left = np.arange(len(candidates))
    chosen: list[int] = []
    while len(left) and (most is None or len(chosen) < most):
        less, more = _level(used, candidates[left])
        lowest = less.min()
        if most is None and lowest > 0:
            break
        level = (lowest, more[less == lowest].min())
        taken = _pass(candidates, left, used, level, len(left) if most is None else most - len(chosen))
        chosen += taken
        left = left[~np.isin(left, taken)]
    return np.array(chosen, dtype=np.int64)


def _level(used: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = used[pairs[:, 0]], used[pairs[:, 1]]
    return np.minimum(first, second), np.maximum(first, second)


def _pass(candidates: np.ndarray, rows: np.ndarray, used: np.ndarray, level: tuple[int, int], most: int) -> list[int]:
    """Take up to `most` of the rows that are at a level when their turn comes; counts them in `used`."""
    taken: list[int] = []
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        less, more = _level(used, candidates[block])
        for row in block[(less == level[0]) & (more == level[1])].tolist():
            a, b = candidates[row].tolist()
            if (min(used[a], used[b]), max(used[a], used[b])) != level:
                continue
            if len(taken) == most:
                return taken
            used[a] += 1
            used[b] += 1
            taken.append(row)
    return taken


def _explain(stream: Stream, options: Options) -> str:
    if stream.listed is not None:
        num = int(np.count_nonzero(stream.usable[stream.listed].all(axis=1)))
        if len(stream.listed) == 0:
            return "the list names no pair of its frames"
        if num == 0:
            return f"no pair of usable frames is listed (of {len(stream.listed)})"
        return (
            f"no listed pair has an overlap of {options.min_overlap:g} to {options.max_overlap:g} and "
            f"{options.min_shared} shared points (of {num})"
        )
    if getattr(stream.pairs, f"{options.angle}_cos") is None:
        return f"no {options.angle} angle between frames is known"
    return (
        f"no two usable frames have {options.metric} >= {options.min_metric:g}, {options.min_shared} shared points, an "
        f"overlap of {options.min_overlap:g} to {options.max_overlap:g} and an {options.angle} angle of "
        f"{options.min_angle_deg:g} to {options.max_angle_deg:g} degrees"
    )


PAIR = Rule(
    pair,
    _explain,
    uses=(
        *("angle", "max_angle_deg", "max_overlap", "metric", "min_angle_deg", "min_metric", "min_overlap"),
        *("min_shared", "per_scene"),
    ),
    needs="pairs",
    min_frames=2,
)
