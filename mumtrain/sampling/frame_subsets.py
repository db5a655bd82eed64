"""Which V frames of a sequence of n are drawn.

In: a rule (`data.subset`), the keys of a batch's sequences and their rows. Out: frame ids, int32 [B, V].

* `uniform`: V different frames, in random order
* `window:K`: the same out of a window of max(K, V) consecutive places, which begins at a random place where it fits
* `window:2.5s`: the same out of the frames at most 1.25 s from a random frame of the sequence, so that none are more
  than 2.5 s apart; where these are fewer than V, the V frames nearest to it in time (of equal ones the earlier place
  first). A sequence with a frame without timestamp is drawn from as `uniform`
* `stride:K`: V frames K places apart, beginning at a random place where they fit; where none does, as many places apart
  as fit. In the sequence's order
* `covisible`: a random frame, then again and again a random one of the frames that form a pair of the band with any
  frame drawn before; where there is none, a random one of those not yet drawn. In the order drawn

A sequence of n < V frames (`data.short=repeat`) gives each frame floor(V / n) times, V mod n of them once more, in
random order, whatever the rule.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from mumdata.errors import ConfigError
from mumtrain.curriculum import Band, Subset
from mumtrain.sampling.sequence_table import SequenceTable

__all__ = ["COVISIBLE_BAND", "Draw", "check_subset", "frame_drawer"]

logger = logging.getLogger(__name__)

# pairs that `covisible` grows along where the settings name no band
COVISIBLE_BAND = Band(0.1, 1.0)

# (keys uint64 [B], dataset of each int32 [B], the dataset to draw for, rows int32 [B], out int32 [B, V])
Draw = Callable[[np.ndarray, np.ndarray, int, np.ndarray, np.ndarray], None]


def check_subset(subset: Subset, tables: Sequence[SequenceTable]) -> None:
    """Warn of the multi-view datasets that the rule cannot be followed in, as their frames are drawn uniformly.

    Raises ConfigError for a window in seconds where no dataset has timestamps.
    """
    if subset.kind == "covisible" and (names := [table.name for table in tables if table.neighbours is None]):
        _tell_uniform(names, "covisibility.parquet in the mix", "covisible", "; mumtrain plan tells what to do")
    if subset.in_seconds:
        without = [table.name for table in tables if table.timestamps is None]
        if tables and len(without) == len(tables):
            raise ConfigError(
                f"data.subset=window:{subset.size:g}s needs timestamps, and no frame of {', '.join(without)} has one; "
                "count places instead, e.g. data.subset=window:32"
            )
        if without:
            _tell_uniform(without, "timestamps", f"window:{subset.size:g}s")


def _tell_uniform(names: Sequence[str], what: str, rule: str, more: str = "") -> None:
    has, its = ("has", "its") if len(names) == 1 else ("have", "their")
    logger.warning(
        "%s %s no %s: data.subset=%s draws %s frames uniformly%s", ", ".join(names), has, what, rule, its, more
    )


def frame_drawer(table: SequenceTable, subset: Subset, band: Band | None) -> Draw:
    """Return the function that writes the frames of a dataset's sequences; `band` is that of pairs for `covisible`."""
    from mumtrain.sampling.kernels.frames import draw_frames, draw_timed

    offsets, values, times, pairs = table.offsets, table.values, table.timestamps, table.neighbours
    if subset.in_seconds and times is not None and not table.single_view:
        seconds, valid, shift, half = times.seconds, times.valid, times.shift, subset.size / 2

        def timed(keys: np.ndarray, datasets: np.ndarray, number: int, rows: np.ndarray, out: np.ndarray) -> None:
            draw_timed(keys, datasets, number, rows, offsets, values, seconds, valid, shift, half, out)

        return timed
    if subset.kind == "covisible" and pairs is not None and not table.single_view:
        from mumtrain.sampling.kernels.covisible import draw_covisible

        indptr, other, overlap = pairs.indptr, pairs.other, pairs.overlap
        # as float32, which catalogs hold: a limit of 0.7 takes in an overlap of 0.7
        limits = band or COVISIBLE_BAND
        low, high = float(np.float32(limits.low)), float(np.float32(limits.high))

        def grown(keys: np.ndarray, datasets: np.ndarray, number: int, rows: np.ndarray, out: np.ndarray) -> None:
            draw_covisible(keys, datasets, number, rows, offsets, values, indptr, other, overlap, low, high, out)

        return grown
    in_places = not subset.in_seconds and not table.single_view
    stride = int(subset.size) if subset.kind == "stride" and in_places else 0
    # a window wider than any sequence: out of all its frames
    window = int(subset.size) if subset.kind == "window" and in_places else np.iinfo(np.int64).max

    def placed(keys: np.ndarray, datasets: np.ndarray, number: int, rows: np.ndarray, out: np.ndarray) -> None:
        draw_frames(keys, datasets, number, rows, offsets, values, window, stride, out)

    return placed
