"""Mining: rules that choose the frames of a stream which are meant to be seen together.

In: a `Stream` and `Options`. Out: a list of sequences, each an int32 array of positions in the stream.
A rule is one function with one line in RULES; it reads exactly the options that USES names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mumdata.errors import ConfigError, unknown
from mumdata.mining.chain_overlap import chain_overlap, overlap_candidates, walk
from mumdata.mining.chain_viewpoint import chain_viewpoint, viewpoint_candidates
from mumdata.mining.chunk import chunk
from mumdata.mining.stream import Options, Stream
from mumdata.mining.whole import scene, single

__all__ = ["Stream", "Options", "RULES", "USES", "MIN_FRAMES", "MAX_FRAMES", "parameters", "mine", "explain_nothing"]

Rule = Callable[[Stream, Options], list[np.ndarray]]

RULES: dict[str, Rule] = {
    "chain-overlap": chain_overlap,
    "chain-viewpoint": chain_viewpoint,
    "chunk": chunk,
    "scene": scene,
    "single": single,
}

# rule -> options that change its result: exactly these are stored with the sequences
USES: dict[str, tuple[str, ...]] = {
    "chain-overlap": ("max_frames", "min_frames", "min_shared", "per_scene", "seed"),
    "chain-viewpoint": (
        "angle",
        "max_angle_deg",
        "max_frames",
        "metric",
        "min_angle_deg",
        "min_frames",
        "min_metric",
    ),
    "chunk": ("chunk_size", "min_frames"),
    "scene": ("min_frames",),
    "single": (),
}

# rule -> what `min_frames` and `max_frames` are where they are not given
MIN_FRAMES: dict[str, int] = {"chain-overlap": 24, "chain-viewpoint": 8, "chunk": 1, "scene": 1, "single": 1}
MAX_FRAMES: dict[str, int | None] = {"chain-overlap": 256}

# rules that know nothing without shared points
_CHAINS = ("chain-overlap", "chain-viewpoint")


def parameters(rule: str, options: Options) -> dict[str, int | float | str | None]:
    """Return the options that `rule` reads, sorted by name, with its own defaults filled in."""
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    filled = _filled(rule, options)
    return {name: getattr(filled, name) for name in sorted(USES[rule])}


def mine(rule: str, stream: Stream, options: Options) -> list[np.ndarray]:
    """Run a rule by its name; ConfigError for a rule that does not exist or frames limits that contradict."""
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    return RULES[rule](stream, _filled(rule, options))


def _filled(rule: str, options: Options) -> Options:
    least = MIN_FRAMES[rule] if options.min_frames is None else options.min_frames
    most = MAX_FRAMES.get(rule) if options.max_frames is None else options.max_frames
    if "max_frames" in USES[rule] and most is not None and least > most:
        raise ConfigError(f"rule {rule}: min_frames {least} exceeds max_frames {most}; give both")
    return replace(options, min_frames=least, max_frames=most if "max_frames" in USES[rule] else None)


def explain_nothing(stream: Stream, options: Options, rule: str) -> str:
    """Say in one phrase why a stream yields no sequence under a rule; meant for streams that yield none."""
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    filled = _filled(rule, options)
    least = filled.min_frames or 1
    num, num_usable = len(stream.usable), int(np.count_nonzero(stream.usable))
    if num == 0:
        return "it has no frames"
    if num_usable == 0:
        return f"no frame is usable (of {num})"
    if num_usable < least:
        return f"{num_usable} usable {_plural(num_usable, 'frame')}, at least {least} needed"
    if rule not in _CHAINS:
        if rule == "chunk":
            longest = max(len(part) for part in chunk(stream, replace(filled, min_frames=1)))
            return f"longest chunk has {longest} {_plural(longest, 'frame')}, at least {least} needed"
        return f"nothing was asked for ({num_usable} usable frames)"
    if stream.pairs is None:
        return "nothing is known of what its frames share (no 3D points)"
    both = stream.usable[stream.pairs.a] & stream.usable[stream.pairs.b]
    if not both.any():
        return "no two usable frames share a 3D point"
    if rule == "chain-overlap":
        needed, best = max(1, filled.min_shared), int(stream.pairs.shared[both].max())
        if best < needed:
            return f"no two usable frames share {needed} points (most: {best})"
        indptr, other = overlap_candidates(stream, filled)
    else:
        if (stream.axis_cos if filled.angle == "axis" else stream.rotation_cos) is None:
            return f"no {filled.angle} angle between frames is known"
        indptr, other = viewpoint_candidates(stream, filled)
        if len(other) == 0:
            return (
                f"no two usable frames have {filled.metric} >= {filled.min_metric:g} and an {filled.angle} angle of "
                f"{filled.min_angle_deg:g} to {filled.max_angle_deg:g} degrees"
            )
    # as many steps as a chain needs are enough to see that none gets there; few at once, for the memory of `walk`
    frames = stream.positions
    parts = [frames[start : start + 256] for start in range(0, num_usable, 256)]
    longest = max(len(chain) for part in parts for chain in walk(part, indptr, other, least))
    return (
        f"longest chain has {longest} {_plural(longest, 'frame')}, at least {least} needed (largest group that can "
        f"follow each other: {_largest_group(num, np.repeat(np.arange(num), np.diff(indptr)), other)})"
    )


def _plural(num: int, word: str) -> str:
    return word if num == 1 else f"{word}s"


def _largest_group(num: int, a: np.ndarray, b: np.ndarray) -> int:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(num, num))
    _, part = connected_components(links, directed=False)
    return int(np.bincount(part).max())
