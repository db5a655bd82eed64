"""The rule `chain-viewpoint`: on to the frame that sees the same from another side (MuM on MegaScenes, after CroCo).

In: a stream with shared points and cosines. Out: chains of positions; every frame is in at most one of them.
"""

from __future__ import annotations

import numpy as np

from mumdata.covisibility import neighbours, overlaps
from mumdata.geometry import cos_deg
from mumdata.mining.stream import Options, Stream

__all__ = ["chain_viewpoint", "viewpoint_candidates"]


def chain_viewpoint(stream: Stream, options: Options) -> list[np.ndarray]:
    """Mine chains whose every next frame has the best score against the current one, all from one pool of frames.

    Score = m * 4 * cos * (1 - cos), highest at 60 degrees (CroCo v2, Weinzaepfel et al. 2023); m is the IoU or the
    overlap current->other (`metric`), cos that of the angle between viewing axes or of the full rotation (`angle`). A
    frame may follow if m >= min_metric and min_angle_deg <= angle <= max_angle_deg, decided on cosines; frames whose
    angle is not known never follow. These gates alone decide who may follow, the score only who is best: a score of 0
    (exactly 90 degrees, or 0) is allowed, and so is a negative one where max_angle_deg is raised above 90.

    Seeds are tried in descending number of points. A used frame is not used again in the stream; a chain shorter than
    `min_frames` (default 8) gives its frames back, and its seed is not tried again. `max_frames` (default: no limit)
    ends a chain early. All ties: the lower position. Reads: min_frames, max_frames, metric, angle, min_metric,
    min_angle_deg, max_angle_deg. Nothing is random.
    """
    if stream.pairs is None or not stream.usable.any():
        return []
    least = options.min_frames or 8
    most = options.max_frames or len(stream.usable)
    indptr, other = viewpoint_candidates(stream, options)
    bounds = indptr.tolist()
    free = stream.usable.copy()
    frames = stream.positions
    seeds = frames[np.argsort(-stream.pairs.num_points[frames].astype(np.int64), kind="stable")]
    chains = []
    for seed in seeds.tolist():
        if not free[seed]:
            continue
        chain = [seed]
        free[seed] = False
        while len(chain) < most:
            following = other[bounds[chain[-1]] : bounds[chain[-1] + 1]]
            unused = free[following]
            first = int(unused.argmax()) if len(unused) else 0
            if len(unused) == 0 or not unused[first]:
                break
            chain.append(int(following[first]))
            free[chain[-1]] = False
        if len(chain) >= least:
            chains.append(np.array(chain, dtype=np.int32))
        else:
            free[chain] = True
    return chains


def viewpoint_candidates(stream: Stream, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames that may follow each frame, best score first, as (indptr, other)."""
    cosines = stream.axis_cos if options.angle == "axis" else stream.rotation_cos
    if stream.pairs is None or cosines is None:
        return np.zeros(len(stream.usable) + 1, dtype=np.int64), np.empty(0, dtype=np.int32)
    overlap_ab, overlap_ba, iou = overlaps(stream.pairs)
    graph = neighbours(stream.pairs)
    row, cos = graph.row, cosines[graph.pair]
    if options.metric == "iou":
        metric = iou[graph.pair]
    else:
        metric = np.where(row < graph.other, overlap_ab[graph.pair], overlap_ba[graph.pair])
    keep = stream.usable[row] & stream.usable[graph.other] & (metric >= options.min_metric)
    keep &= (cos <= cos_deg(options.min_angle_deg)) & (cos >= cos_deg(options.max_angle_deg))
    row, other, metric, cos = row[keep], graph.other[keep], metric[keep], cos[keep]
    score = metric * 4.0 * cos * (1.0 - cos)
    best_first = np.lexsort((other, -score, row))
    indptr = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.bincount(row, minlength=len(stream.usable)))])
    return indptr, other[best_first]
