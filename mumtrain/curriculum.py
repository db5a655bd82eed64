"""The small languages of the data settings: bands of overlap, rules for the frames of a sequence, and stages.

In: the texts of `data.overlap`, `data.subset` and `data.stages`. Out: checked values that the sampler works with.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from mumdata.errors import ConfigError, unknown

__all__ = ["MAX_STAGES", "SUBSETS", "Band", "Stage", "Subset", "read_band", "read_stages", "read_subset", "stage_at"]

Value = TypeVar("Value")

# each stage has an index of the sequences of its own
MAX_STAGES = 32

# rule -> whether it takes a number
SUBSETS = {"uniform": False, "window": True, "stride": True, "covisible": False}


@dataclass(frozen=True)
class Band:
    """Overlaps from `low` to `high`, both included."""

    low: float
    high: float


@dataclass(frozen=True)
class Subset:
    """A rule for which V frames of a sequence are drawn; `size` in places of the sequence, or in seconds."""

    kind: str
    size: float = 0.0
    in_seconds: bool = False


@dataclass(frozen=True)
class Stage:
    """What is drawn from step `start` (0-based) on; `weights` replace those of the mix for the datasets named."""

    start: int
    views_min: int
    views_max: int
    band: Band | None
    weights: tuple[tuple[str, float], ...] = ()


def read_band(text: str) -> Band | None:
    """Read LOW:HIGH, shares in 0 .. 1 of which one may be left out; nothing is no band. Raises ConfigError."""
    if not text.strip():
        return None
    low, colon, high = (part.strip() for part in text.partition(":"))
    try:
        band = Band(float(low or 0), float(high or 1))
    except ValueError:
        colon = ""
    if not colon or not 0 <= band.low <= band.high <= 1:
        raise ConfigError(f"overlap '{text}' is not LOW:HIGH with two shares in 0 .. 1, e.g. 0.2:0.6")
    return band


def read_subset(text: str) -> Subset:
    """Read `uniform`, `window:K`, `window:2.5s`, `stride:K` or `covisible`. Raises ConfigError."""
    kind, colon, size = (part.strip() for part in text.partition(":"))
    if kind not in SUBSETS:
        raise unknown("data.subset", kind, SUBSETS)
    if not SUBSETS[kind]:
        if colon:
            raise ConfigError(f"data.subset={kind} takes no number; write data.subset={kind}")
        return Subset(kind)
    if kind == "window" and re.fullmatch(r"\d+(\.\d*)?s", size) and float(size[:-1]) > 0:
        return Subset(kind, float(size[:-1]), in_seconds=True)
    if not re.fullmatch(r"0*[1-9]\d{0,8}", size):
        seconds = " or data.subset=window:2.5s" if kind == "window" else ""
        raise ConfigError(f"data.subset={text} needs a number of places from 1 up: data.subset={kind}:8{seconds}")
    return Subset(kind, float(int(size)))


def read_stages(text: str, views_min: int, views_max: int, overlap: str) -> tuple[Stage, ...]:
    """Read a curriculum: stages in the order of their first steps, the first one from step 0; one stage for no text.

    Example: `0 views=2:4 overlap=0.3:; 20000 views=2:24 weight.co3d=0`. The steps count from 0; `overlap=` is no band,
    where `data.overlap` names one. Names of datasets are checked by the sampler, which knows them. Raises ConfigError.
    """
    usual = Stage(0, views_min, views_max, read_band(overlap))
    stages: list[Stage] = []
    for part in filter(str.strip, text.split(";")):
        start, *settings = part.split()
        if not re.fullmatch(r"\d{1,15}", start):
            raise ConfigError(f"data.stages: a stage begins with its first step, not '{start}': 'STEP views=2:4'")
        stage = replace(usual, start=int(start))
        for setting in settings:
            stage = _set(stage, setting)
        if stages and stage.start <= stages[-1].start:
            raise ConfigError(f"data.stages: step {stage.start} does not come after step {stages[-1].start}")
        stages.append(stage)
    if stages and stages[0].start:
        stages.insert(0, usual)
    if len(stages) > MAX_STAGES:
        raise ConfigError(f"data.stages has {len(stages)} stages, more than {MAX_STAGES}")
    return tuple(stages) or (usual,)


def stage_at(stages: tuple[Stage, ...], step: int) -> int:
    """Return the number of the stage that a step (0-based) belongs to."""
    return bisect.bisect_right(stages, step, key=lambda stage: stage.start) - 1


def _set(stage: Stage, setting: str) -> Stage:
    key, equals, value = setting.partition("=")
    if not equals:
        raise ConfigError(f"data.stages: '{setting}' is not key=value")
    if key == "overlap":
        return replace(stage, band=read_band(value))
    if key == "views":
        low, colon, high = value.partition(":")
        least, most = _number(setting, int, low), _number(setting, int, high if colon else low)
        if not 1 <= least <= most:
            raise ConfigError(f"data.stages: '{setting}' is not views=MIN:MAX with 1 <= MIN <= MAX")
        return replace(stage, views_min=least, views_max=most)
    if key.startswith("weight.") and len(key) > len("weight."):
        weight = _number(setting, float, value)
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"data.stages: '{setting}': a weight is a number from 0 up")
        return replace(stage, weights=(*stage.weights, (key.removeprefix("weight."), weight)))
    raise unknown("key of data.stages", key, ("views", "overlap", "weight.NAME"))


def _number(setting: str, kind: Callable[[str], Value], text: str) -> Value:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"data.stages: '{setting}': '{text}' is not a number") from None
