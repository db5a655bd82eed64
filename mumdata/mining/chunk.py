"""The rule `chunk`: runs of consecutive frames, as even as can be.

In: a stream of ordered frames. Out: positions of the frames of each chunk.
"""

from __future__ import annotations

import numpy as np

from mumdata.mining.stream import Options, Stream

__all__ = ["chunk"]


def chunk(stream: Stream, options: Options) -> list[np.ndarray]:
    """Cut the usable frames into ceil(n / chunk_size) runs; every frame once, sizes differing by at most one.

    The longer chunks come first. Unusable frames are passed over, a run goes on behind them. Chunks with fewer than
    `min_frames` frames (default 1) are dropped. Reads: chunk_size, min_frames.
    """
    frames = stream.positions.astype(np.int32)
    if len(frames) == 0:
        return []
    parts = np.array_split(frames, -(-len(frames) // options.chunk_size))
    return [part for part in parts if len(part) >= (options.min_frames or 1)]
