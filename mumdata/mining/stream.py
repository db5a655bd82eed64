"""What a mining rule reads: one stream of frames with what they share, and the options.

In: counts of shared points and cosines between frames, given by position in the stream. Out: value objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mumdata.covisibility import Pairs
from mumdata.errors import ConfigError

__all__ = ["Stream", "Options"]


@dataclass(frozen=True, eq=False)
class Stream:
    """The frames of one (dataset, split, scene, stream), in the order of their column `frame`.

    Positions 0 .. n-1 count these frames; `pairs`, and the cosines beside its rows, speak of positions.
    """

    key: tuple[str | None, ...]  # what randomness is for: (dataset, split, scene, stream)
    usable: np.ndarray  # bool [n], frames that a sequence may hold
    pairs: Pairs | None = None  # None: nothing is known of what the frames share
    rotation_cos: np.ndarray | None = None  # float64 [k], cosine of the full relative rotation; NaN: not known
    axis_cos: np.ndarray | None = None  # float64 [k], cosine between the viewing axes; NaN: not known

    @property
    def positions(self) -> np.ndarray:
        """Positions of the usable frames, int64, rising."""
        return np.flatnonzero(self.usable)


@dataclass(frozen=True)
class Options:
    """All options of all rules; which ones a rule reads stands in `mumdata.mining.USES`.

    `min_frames` and `max_frames` None mean the rule's own default (`mumdata.mining.MIN_FRAMES`, `MAX_FRAMES`).
    """

    seed: int = 0
    min_frames: int | None = None
    max_frames: int | None = None
    per_scene: int = 1000
    min_shared: int = 30
    chunk_size: int = 100
    metric: str = "iou"
    angle: str = "axis"
    min_metric: float = 0.1
    min_angle_deg: float = 10.0
    max_angle_deg: float = 90.0

    def __post_init__(self) -> None:
        for name, least in (
            ("min_frames", 1),
            ("max_frames", 1),
            ("per_scene", 1),
            ("min_shared", 0),
            ("chunk_size", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
        for name, known in (("metric", ("iou", "overlap")), ("angle", ("axis", "rotation"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is '{getattr(self, name)}'; known: {', '.join(known)}")
        if not 0.0 <= self.min_metric <= 1.0:
            raise ConfigError(f"min_metric is {self.min_metric}; it must lie in 0 .. 1")
        if not 0.0 <= self.min_angle_deg <= self.max_angle_deg <= 180.0:
            raise ConfigError(
                f"min_angle_deg {self.min_angle_deg} and max_angle_deg {self.max_angle_deg} must rise within 0 .. 180"
            )
        if self.min_frames is not None and self.max_frames is not None and self.min_frames > self.max_frames:
            raise ConfigError(f"min_frames {self.min_frames} exceeds max_frames {self.max_frames}")
