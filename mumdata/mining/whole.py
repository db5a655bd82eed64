"""The rules `scene` and `single`: everything together, or every frame for itself.

In: a stream. Out: positions of the frames of each sequence.
"""

from __future__ import annotations

import numpy as np

from mumdata.mining.stream import Options, Stream

__all__ = ["scene", "single"]


def scene(stream: Stream, options: Options) -> list[np.ndarray]:
    """Take all usable frames, in order, as one sequence; none below `min_frames` (default 1). Reads: min_frames."""
    frames = stream.positions.astype(np.int32)
    return [frames] if len(frames) >= (options.min_frames or 1) else []


def single(stream: Stream, options: Options) -> list[np.ndarray]:
    """Take each usable frame as a sequence of its own. Reads no option."""
    return list(stream.positions.astype(np.int32)[:, None])
