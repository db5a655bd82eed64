"""The rule `chunk`: runs of consecutive frames, as even as can be.

In: a stream of ordered frames. Out: positions of the frames of each chunk.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from mumdata.mining.options import Options
from mumdata.mining.rule import Rule
from mumdata.mining.stream import Stream

__all__ = ["CHUNK", "chunk"]


def chunk(stream: Stream, options: Options) -> list[np.ndarray]:
    """Cut the usable frames into runs of about `chunk_size` frames (default 100).

    First every `chunk_stride`-th usable frame is taken, beginning with the first; unusable frames are passed over, and
    a run goes on behind them. How the n frames taken are cut, `last_chunk` says:

    even      ceil(n / chunk_size) runs whose lengths differ by at most one, the longer ones first: none is longer
              than chunk_size
    released  as MuM's scripts do: floor((n - 1) / chunk_size) runs of chunk_size frames, but the last takes all the
              rest, chunk_size + 1 to 2 chunk_size frames; up to chunk_size frames are one run

    Neighbouring runs have exactly `chunk_overlap` frames in common: with an overlap of o, the first n - o frames are
    cut for a size of chunk_size - o, and each run goes on for o frames more. So the runs still differ by at most one
    frame, start at even distances, and are no longer than chunk_size (`even`); the last of several is chunk_size + 1 to
    2 chunk_size - o frames long (`released`; MuM has no overlap). Without overlap and stride every usable frame is in
    exactly one run. Runs with fewer than `min_frames` frames (default 1) are dropped.

    Reads: chunk_overlap, chunk_size, chunk_stride, last_chunk, min_frames.
    """
    return [part for part in _parts(stream, options) if len(part) >= (options.min_frames or 1)]


def _parts(stream: Stream, options: Options) -> list[np.ndarray]:
    frames = stream.positions[:: options.chunk_stride].astype(np.int32)
    if not len(frames):
        return []
    overlap = options.chunk_overlap
    # as many frames as lie in no earlier run; a stream shorter than the overlap is one run
    fresh = max(len(frames) - overlap, 1)
    bounds = np.cumsum([0, *_CUTS[options.last_chunk](fresh, options.chunk_size - overlap)]).tolist()
    return [frames[start : end + overlap] for start, end in itertools.pairwise(bounds)]


def _even(num: int, size: int) -> list[int]:
    parts = -(-num // size)
    return [num // parts + (part < num % parts) for part in range(parts)]


def _released(num: int, size: int) -> list[int]:
    whole = max((num - 1) // size - 1, 0)
    return [size] * whole + [num - size * whole]


_CUTS: dict[str, Callable[[int, int], list[int]]] = {"even": _even, "released": _released}


def _explain(stream: Stream, options: Options) -> str:
    longest = max(len(part) for part in _parts(stream, options))
    return f"longest chunk has {longest} frame{'' if longest == 1 else 's'}, at least {options.min_frames or 1} needed"


CHUNK = Rule(chunk, _explain, uses=("chunk_overlap", "chunk_size", "chunk_stride", "last_chunk", "min_frames"))
