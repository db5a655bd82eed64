"""The options of all mining rules, checked.

In: values from a command line, a preset or a rule's defaults. Out: `Options`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mumdata.errors import ConfigError

__all__ = ["Options"]

_KNOWN = {
    "metric": ("iou", "overlap"),
    "angle": ("axis", "rotation", "triangulation"),
    "last_chunk": ("even", "released"),
}
_AT_LEAST = {
    "min_frames": 1,
    "max_frames": 1,
    "min_shared": 0,
    "chunk_size": 1,
    "chunk_stride": 1,
    "chunk_overlap": 0,
}
_MOST = 10**7
_SHARES = ("min_metric", "min_overlap", "max_overlap", "min_mean_overlap", "anchor_overlap")


@dataclass(frozen=True)
class Options:
    """All options of all rules; which ones a rule reads stands in its `Rule.uses`.

    `min_frames` and `max_frames` None mean the rule's own default. Overlaps are directed, current->next, in 0 .. 1.
    """

    seed: int = 0
    min_frames: int | None = None
    max_frames: int | None = None
    per_scene: int | str = 1000  # sequences of a stream, or "auto": as many as it takes to cover its usable frames
    cover: bool = False  # begin with frames that no sequence holds yet
    min_shared: int = 30  # fewest points that two linked frames share, where points are known
    min_overlap: float = 0.0  # band of each link
    max_overlap: float = 1.0
    temperature: float = 0.0  # 0: the best next frame; else one drawn with weight overlap^(1 / temperature)
    min_mean_overlap: float = 0.0  # a chain ends before its mean overlap (over ordered pairs) falls below this
    anchor_overlap: float = 0.0  # least overlap of the first frame with every other one
    metric: str = "iou"
    angle: str = "axis"
    min_metric: float = 0.1
    min_angle_deg: float = 10.0
    max_angle_deg: float = 90.0
    chunk_size: int = 100
    chunk_stride: int = 1  # every so many-th frame
    chunk_overlap: int = 0  # frames that neighbouring chunks have in common
    last_chunk: str = "even"

    def __post_init__(self) -> None:
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
        if self.per_scene != "auto" and not (isinstance(self.per_scene, int) and 1 <= self.per_scene <= _MOST):
            raise ConfigError(f"per_scene is {self.per_scene}; it must be 1 to {_MOST:,}, or 'auto'")
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise ConfigError(f"seed is {self.seed}; it must fit 64 bits")
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is '{getattr(self, name)}'; known: {', '.join(known)}")
        for name in _SHARES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie in 0 .. 1")
        if self.min_overlap > self.max_overlap:
            raise ConfigError(f"the overlap band {self.min_overlap}:{self.max_overlap} must rise")
        if not 0.0 <= self.temperature <= 100.0:
            raise ConfigError(f"temperature is {self.temperature}; it must lie in 0 .. 100")
        if not 0.0 <= self.min_angle_deg <= self.max_angle_deg <= 180.0:
            raise ConfigError(
                f"min_angle_deg {self.min_angle_deg} and max_angle_deg {self.max_angle_deg} must rise within 0 .. 180"
            )
        if self.min_frames is not None and self.max_frames is not None and self.min_frames > self.max_frames:
            raise ConfigError(f"min_frames {self.min_frames} exceeds max_frames {self.max_frames}")
        if self.chunk_overlap >= self.chunk_size:
            raise ConfigError(f"chunk_overlap {self.chunk_overlap} must be below chunk_size {self.chunk_size}")
