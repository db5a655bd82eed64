"""The rule `chain-viewpoint`: on to the frame that sees the same from another side (MuM on MegaScenes, after CroCo).

In: a stream with what its frames share and cosines. Out: chains of positions; every frame is in at most one of them.
"""

from __future__ import annotations

import numpy as np

from mumdata.covisibility import Graph, neighbours, overlaps
from mumdata.geometry import cos_deg
from mumdata.mining.candidates import Candidates, explain_links, linked
from mumdata.mining.growth import CHAIN_OPTIONS, Growth, explain_chains
from mumdata.mining.options import Options
from mumdata.mining.rule import Rule
from mumdata.mining.stream import Stream

__all__ = ["CHAIN_VIEWPOINT", "chain_viewpoint"]


def chain_viewpoint(stream: Stream, options: Options) -> list[np.ndarray]:
    """Mine chains whose every next frame has the best score against the current one, all from one pool of frames.

    Score = m * 4 * cos * (1 - cos), highest at 60 degrees (CroCo v2, Weinzaepfel et al. 2023); m is the IoU or the
    overlap current->other (`metric`), cos that of the angle of the full rotation, between viewing axes, or of the
    median triangulation (`angle`). A frame may follow if m >= min_metric, min_angle_deg <= angle <= max_angle_deg,
    decided on cosines, if the two share at least max(1, min_shared) points (where points are counted) and their
    overlap lies within min_overlap .. max_overlap; frames whose angle is not known never follow. These gates alone
    decide who may follow, the score only who is best: a score of 0 (exactly 90 degrees, or 0) is allowed, and so is a
    negative one where max_angle_deg is raised above 90.

    Seeds are tried in descending number of points, or in descending sum of their overlaps with others where points are
    not counted. A used frame is not used again in the stream; a chain shorter than `min_frames` (default 8) gives its
    frames back, and its seed is not tried again. `max_frames` (default: no limit), `anchor_overlap` and
    `min_mean_overlap` end a chain early (see `Growth`). All ties: the lower position. Nothing is random.

    With metric overlap, angle rotation, min_metric 0.1, min_angle_deg 10, max_angle_deg 180, min_frames 3 and
    min_shared 1 this is the chaining of the script released with MuM, frame for frame, given the same cosines. The
    script takes its own from matrix products, whose last bits depend on the machine: they decide there between frames
    with equal poses and equal points (copies), and between frames turned by just 180 degrees, as it does not clip at
    -1. It compares angles, not cosines, which differs only within 1e-13 degrees of the gate.
    """
    if stream.pairs is None or not stream.usable.any():
        return []
    graph = neighbours(stream.pairs)
    growth = Growth(stream, graph, _candidates(stream, graph, options), options)
    taken = np.zeros(len(stream.usable), dtype=bool)
    chains = []
    for seed in _seeds(stream, graph).tolist():
        if taken[seed]:
            continue
        chain = growth.chain(seed)
        if len(chain) >= (options.min_frames or 1):
            taken[chain] = True
            chains.append(chain)
        else:
            growth.release(chain)
    return chains


def _seeds(stream: Stream, graph: Graph) -> np.ndarray:
    """Return the usable frames, those that see most first."""
    assert stream.pairs is not None
    sees: np.ndarray = stream.pairs.num_points.astype(np.float64)
    if stream.pairs.shared is None:  # bincount adds in the order of its input: the same sum everywhere
        sees = np.bincount(graph.row, weights=graph.overlap, minlength=len(sees))
    frames = stream.positions
    return frames[np.argsort(-sees[frames], kind="stable")]


def _candidates(stream: Stream, graph: Graph, options: Options) -> Candidates:
    assert stream.pairs is not None
    cosines = getattr(stream.pairs, f"{options.angle}_cos")
    if cosines is None:
        return Candidates.of(graph, np.zeros(len(graph.other), dtype=bool), np.empty(0))
    metric = overlaps(stream.pairs)[2][graph.pair] if options.metric == "iou" else graph.overlap
    cos = cosines[graph.pair]
    kept = linked(stream, graph, options) & (metric >= options.min_metric)
    kept &= (cos <= cos_deg(options.min_angle_deg)) & (cos >= cos_deg(options.max_angle_deg))
    metric, cos = metric[kept], cos[kept]
    return Candidates.of(graph, kept, metric * 4.0 * cos * (1.0 - cos))


def _explain(stream: Stream, options: Options) -> str:
    assert stream.pairs is not None
    if getattr(stream.pairs, f"{options.angle}_cos") is None:
        return f"no {options.angle} angle between frames is known"
    graph = neighbours(stream.pairs)
    if not linked(stream, graph, options).any():
        return explain_links(stream, options)
    candidates = _candidates(stream, graph, options)
    if len(candidates.other) == 0:
        return (
            f"no two usable frames have {options.metric} >= {options.min_metric:g} and an {options.angle} angle of "
            f"{options.min_angle_deg:g} to {options.max_angle_deg:g} degrees"
        )
    growth = Growth(stream, graph, candidates, options)

    def grow(anchor: int) -> np.ndarray:
        chain = growth.chain(anchor)
        growth.release(chain)
        return chain

    return explain_chains(stream, options, candidates, grow)


CHAIN_VIEWPOINT = Rule(
    chain_viewpoint,
    _explain,
    uses=(*CHAIN_OPTIONS, "angle", "max_angle_deg", "metric", "min_angle_deg", "min_metric"),
    needs="pairs",
    min_frames=8,
)
