"""Mining: rules that choose the frames of a stream which are meant to be seen together.

In: a `Stream` and `Options`. Out: a list of sequences, each an int32 array of positions in the stream.
A rule is one file that ends in a `Rule`, and one line in RULES.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mumdata.errors import ConfigError, unknown
from mumdata.mining.chain_overlap import CHAIN_OVERLAP
from mumdata.mining.chain_viewpoint import CHAIN_VIEWPOINT
from mumdata.mining.chunk import CHUNK
from mumdata.mining.options import Options
from mumdata.mining.pair import PAIR
from mumdata.mining.pose_rank import POSE_RANK
from mumdata.mining.rule import Rule
from mumdata.mining.stream import Stream
from mumdata.mining.topk import TOPK
from mumdata.mining.walk import WALK
from mumdata.mining.whole import SCENE, SINGLE

__all__ = ["Stream", "Options", "Rule", "RULES", "parameters", "mine", "explain_nothing"]

RULES: dict[str, Rule] = {
    "chain-overlap": CHAIN_OVERLAP,
    "chain-viewpoint": CHAIN_VIEWPOINT,
    "topk": TOPK,
    "walk": WALK,
    "chunk": CHUNK,
    "pair": PAIR,
    "pose-rank": POSE_RANK,
    "scene": SCENE,
    "single": SINGLE,
}


def parameters(rule: str, options: Options) -> dict[str, int | float | str | None]:
    """Return the options that `rule` reads, sorted by name, with its own defaults filled in."""
    found, filled = _filled(rule, options)
    return {name: getattr(filled, name) for name in sorted(found.uses)}


def mine(rule: str, stream: Stream, options: Options) -> list[np.ndarray]:
    """Run a rule by its name; ConfigError for a rule that does not exist or frames limits that contradict."""
    found, filled = _filled(rule, options)
    return found.mine(stream, filled)


def explain_nothing(stream: Stream, options: Options, rule: str) -> str:
    """Say in one phrase why a stream yields no sequence under a rule; meant for streams that yield none."""
    found, filled = _filled(rule, options)
    least = filled.min_frames or 1
    num, num_usable = len(stream.usable), int(np.count_nonzero(stream.usable))
    if num == 0:
        return "it has no frames"
    if num_usable == 0:
        return f"no frame is usable (of {num})"
    needs_pairs = found.needs == "pairs" and stream.listed is None
    if needs_pairs and stream.pairs is None:
        return "no model tells what its frames share"
    if num_usable < least:
        return f"{num_usable} usable frame{'' if num_usable == 1 else 's'}, at least {least} needed"
    pairs = stream.pairs if needs_pairs else None
    if pairs is not None and not (stream.usable[pairs.a] & stream.usable[pairs.b]).any():
        return "no two usable frames share anything"
    return found.explain(stream, filled)


def _filled(rule: str, options: Options) -> tuple[Rule, Options]:
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    found = RULES[rule]
    least = found.min_frames if options.min_frames is None else options.min_frames
    most = found.max_frames if options.max_frames is None else options.max_frames
    if "max_frames" not in found.uses:
        most = None
    elif most is not None and least > most:
        raise ConfigError(f"rule {rule}: min_frames {least} exceeds max_frames {most}; give both")
    return found, replace(options, min_frames=least, max_frames=most)
