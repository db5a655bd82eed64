"""The rules `scene` and `single`: everything together, or every frame for itself.

In: a stream. Out: positions of the frames of each sequence.
"""

from __future__ import annotations

import numpy as np

from mumdata.mining.options import Options
from mumdata.mining.rule import Rule
from mumdata.mining.stream import Stream

__all__ = ["SCENE", "SINGLE", "scene", "single"]


def scene(stream: Stream, options: Options) -> list[np.ndarray]:
    """Take all usable frames, in order, as one sequence; none below `min_frames` (default 1)."""
    frames = stream.positions.astype(np.int32)
    return [frames] if len(frames) >= (options.min_frames or 1) else []


def single(stream: Stream, options: Options) -> list[np.ndarray]:
    """Take each usable frame as a sequence of its own."""
    return list(stream.positions.astype(np.int32)[:, None])


def _explain(stream: Stream, options: Options) -> str:
    return f"nothing was asked for ({len(stream.positions)} usable frames)"


SCENE = Rule(scene, _explain, uses=("min_frames",))
SINGLE = Rule(single, _explain)
