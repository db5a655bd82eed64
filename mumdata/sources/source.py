"""What a source of pairs is: a function, and the options that change its result.

In: a stream. Out: pairs, or None where the source knows nothing of the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mumdata.covisibility import Pairs
from mumdata.datasets import Stream
from mumdata.errors import ConfigError
from mumdata.tree import Tree

__all__ = ["Source", "SourceOptions"]


@dataclass(frozen=True)
class SourceOptions:
    """All options of all sources; those that a source reads stand in its `Source.uses`."""

    window: int = 100  # ordered streams: pairs of frames at most so far apart
    grid: int = 32  # depth samples along the longer side of a frame
    # share of a sample's depth by which the depth map that it falls on may differ; by how exact the depth is, if None
    tolerance: float | None = None
    files: Path | None = None  # folder of the matrices that others computed
    check_tracks: bool = False  # compare the two files of a model that tell the tracks, keypoint by keypoint

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("grid", 4)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.tolerance is not None and not 0.0 < self.tolerance < 1.0:
            raise ConfigError(f"tolerance is {self.tolerance}; it must lie between 0 and 1")


@dataclass(frozen=True)
class Source:
    """One source of pairs.

    `pairs(tree, key, stream, options)` returns them for the stream with the key (dataset, split, scene, stream); it
    raises MumError where the stream's files are broken, which leaves that stream without pairs and a reason. `uses`
    names the options that change the result, stored with the pairs.
    """

    pairs: Callable[[Tree, tuple[str | None, ...], Stream, SourceOptions], Pairs | None]
    uses: tuple[str, ...] = field(default=())
