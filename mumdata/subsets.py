"""What the frames that training draws from a sequence share with each other.

In: a dataset's sequences.parquet and covisibility.parquet. Out: for each number of views V, measures over random
subsets of V frames, or over subsets that somebody else drew. Only the row groups that the drawn sequences and pairs lie
in are read, piece by piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mumdata import catalog, rng
from mumdata.errors import CatalogError, ConfigError
from mumdata.schema import COVISIBILITY, SEQUENCES, Schema

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["VIEWS", "Shared", "measure_subsets", "subsets"]

VIEWS = (2, 4, 8, 12, 16, 24)

_MEASURES = ("lone", "connected", "shared_points", "overlap")
_MOST_PAIRS = 1 << 23  # pairs looked up at once: a few hundred MB
_BATCH_ROWS = 4096  # sequences in memory at once
_BLOCK_CELLS = 1 << 22  # entries of the relations measured at once


@dataclass(frozen=True, eq=False)
class Shared:
    """What the frames of n subsets of V frames share; the P = V (V - 1) / 2 pairs in the order of numpy.triu_indices.

    A pair without a row in the catalog shares nothing. `shared_points` is None where the source does not count points.
    """

    num_lone: np.ndarray  # int64 [n], frames that are linked with no other frame of their subset
    num_connected: np.ndarray  # int64 [n], frames of the largest connected part
    overlap_ab: np.ndarray  # float32 [n, P]
    overlap_ba: np.ndarray  # float32 [n, P]
    shared_points: np.ndarray | None  # int32 [n, P]


@dataclass(frozen=True, eq=False)
class _Pairs:
    """What pairs of frames share; zeros where they have no row. `shared` is None where the source does not count."""

    overlap_ab: np.ndarray  # float32 [k]
    overlap_ba: np.ndarray  # float32 [k]
    shared: np.ndarray | None  # int32 [k]


def subsets(
    name: str,
    *,
    catalogs: Path = catalog.DEFAULT,
    views: Sequence[int] = VIEWS,
    num: int = 2000,
    seed: int = 0,
    min_overlap: float = 0.1,
) -> pd.DataFrame:
    """Measure random subsets of a dataset's sequences: one row for each number of views V.

    As in training, a sequence is drawn, all alike among those that have V distinct frames, and V of these frames are
    drawn from it without replacement; `num` times with replacement. Two frames are linked where an overlap, either way,
    is above 0 and at least `min_overlap`. Columns, beside dataset:

    * views: V; eligible: sequences with at least V frames; known: those of them for which it is known what their
      frames share (they have a mean_overlap), from which is drawn; subsets: how many subsets were measured
    * lone: share of the frames drawn that are linked with no other frame of their subset
    * connected: share of the frames drawn that belong to the largest connected part of their subset
    * shared_points: median over all pairs of frames of the subsets; missing where the source does not count points
    * overlap: mean over all ordered pairs of frames of the subsets

    `lone` and `connected` are means over subsets of values in 0 .. 1: their standard errors are at most
    0.5 / sqrt(subsets). The result depends on the catalogs and arguments alone. Raises CatalogError where there are no
    sequences, ConfigError for arguments.
    """
    import pandas as pd

    views = _checked(views, num, min_overlap)
    path = Path(catalogs, name, SEQUENCES.file_name)
    columns = catalog.read(SEQUENCES, path, ["num_frames", "mean_overlap"])
    num_frames, is_known = columns.column("num_frames").to_numpy(), columns.column("mean_overlap").is_valid().to_numpy()
    pairs_path = _pairs_of(path)
    if pairs_path is None:
        is_known = np.zeros_like(is_known)
    known = {v: np.flatnonzero((num_frames >= v) & is_known) for v in views}
    drawn = _draw(path, name, {v: rows for v, rows in known.items() if len(rows)}, num, seed)
    found = [] if pairs_path is None else measure_subsets(pairs_path, list(drawn.values()), min_overlap=min_overlap)
    measures = {v: _means(v, shared) for v, shared in zip(drawn, found, strict=True)}
    rows = []
    for v in views:
        row = {"dataset": name, "views": v, "eligible": int(np.count_nonzero(num_frames >= v)), "known": len(known[v])}
        rows.append(row | {"subsets": len(drawn.get(v, ()))} | measures.get(v, {}))
    counts = ["dataset", "views", "eligible", "known", "subsets"]
    return pd.DataFrame(rows, columns=counts + list(_MEASURES)).astype(dict.fromkeys(_MEASURES, float))


def measure_subsets(covisibility: Path, drawn: Sequence[np.ndarray], *, min_overlap: float = 0.1) -> list[Shared]:
    """Measure given subsets: for each array of frame_ids, int32 [n, V] with rows in rising order, what they share.

    All of them are looked up in one pass over covisibility.parquet. Frames are linked as `subsets` says. A frame that
    stands twice in a row shares nothing with itself. Raises CatalogError for a damaged file.
    """
    pairs = _look_up(Path(covisibility), [_pair_keys(frames) for frames in drawn])
    return [_measure(frames.shape[1], found, min_overlap) for frames, found in zip(drawn, pairs, strict=True)]


def _checked(views: Sequence[int], num: int, min_overlap: float) -> list[int]:
    if not views or min(views) < 2:
        raise ConfigError(f"views {list(views)}: give numbers of views, each at least 2")
    if num < 1:
        raise ConfigError(f"num is {num}; it must be at least 1")
    if not 0.0 <= min_overlap <= 1.0:
        raise ConfigError(f"min_overlap is {min_overlap}; it must lie in 0 .. 1")
    views = sorted(set(views))
    if (total := num * sum(v * (v - 1) // 2 for v in views)) > _MOST_PAIRS:
        raise ConfigError(f"{num:,} subsets of so many views have {total:,} pairs, at most {_MOST_PAIRS:,}; lower num")
    return views


def _pairs_of(sequences: Path) -> Path | None:
    """Return covisibility.parquet, or None where there is none, or none of the frames and pairs of the sequences."""
    path = sequences.with_name(COVISIBILITY.file_name)
    made_from = catalog.read_footer(SEQUENCES, sequences).inputs
    if not path.exists():
        return None
    footer = catalog.read_footer(COVISIBILITY, path)
    same_frames = footer.inputs.get("frames") == made_from.get("frames")
    return path if same_frames and made_from.get("covisibility") in (None, footer.content_digest) else None


# ---- drawing


def _draw(path: Path, name: str, rows_of: dict[int, np.ndarray], num: int, seed: int) -> dict[int, np.ndarray]:
    """Draw `num` subsets for each V from the sequences in rows_of[V]: V -> frame_ids, int32 [subsets, V], rising.

    Word i of (seed, "stats sequences", dataset, V) draws the sequence of subset i, the key with "frames" and i appended
    its frames. A draw that falls on a sequence with too few distinct frames is void.
    """
    keys = {v: (seed, "stats sequences", name, v) for v in rows_of}
    rows = {v: of[rng.below(rng.words(rng.key(*keys[v]), num), len(of))] for v, of in rows_of.items()}
    uses: dict[int, list[tuple[int, int]]] = {}
    for v, drawn in rows.items():
        for subset, row in enumerate(drawn.tolist()):
            uses.setdefault(row, []).append((v, subset))
    frames = {v: np.full((num, v), -1, np.int32) for v in rows_of}
    for row, sequence in _sequences(path, np.array(sorted(uses), np.int64)):
        distinct = np.unique(sequence)
        for v, subset in uses[row]:
            if len(distinct) >= v:
                chosen = rng.choose(rng.key(*keys[v], "frames", subset), len(distinct), v)
                frames[v][subset] = np.sort(distinct[chosen])
    return {v: found[found[:, 0] >= 0] for v, found in frames.items()}


def _sequences(path: Path, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Read the frames of the sequences in some rows (int64, rising): (row, int32 frame_ids)."""
    with _opened(SEQUENCES, path) as file:
        start = 0
        for group in range(file.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            if np.searchsorted(rows, start) < np.searchsorted(rows, start + num_rows):
                begin = start
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=["frames"]):
                    lists = batch.column(0)
                    offsets, values = lists.offsets.to_numpy(), lists.values.to_numpy()
                    low, high = np.searchsorted(rows, [begin, begin + len(lists)])
                    for row in rows[low:high].tolist():
                        yield row, values[offsets[row - begin] : offsets[row - begin + 1]]
                    begin += len(lists)
            start += num_rows


@contextmanager
def _opened(schema: Schema, path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise CatalogError(f"{path} is damaged; run '{schema.command.format(dataset=path.parent.name)}'") from error


# ---- pairs


def _pair_keys(frames: np.ndarray) -> np.ndarray:
    """Return frame_a * 2^32 + frame_b of the pairs of frames of each subset, int64 [subsets * V (V - 1) / 2]."""
    first, second = np.triu_indices(frames.shape[1], 1)
    return ((frames[:, first].astype(np.int64) << 32) | frames[:, second]).ravel()


def _look_up(path: Path, keys: list[np.ndarray]) -> list[_Pairs]:
    """Look up what pairs share, for several arrays of keys in one pass over the file, in any order of its rows."""
    if not keys:
        return []
    wanted, place = np.unique(np.concatenate([np.empty(0, np.int64), *keys]), return_inverse=True)
    frames = np.unique(wanted >> 32)
    ab, ba = np.zeros(len(wanted), np.float32), np.zeros(len(wanted), np.float32)
    shared = np.zeros(len(wanted), np.int32)
    columns = ["frame_a", "frame_b", "overlap_ab", "overlap_ba", "shared_points"]
    with _opened(COVISIBILITY, path) as file:
        # pages cannot be skipped, row groups can: the file is sorted by frame_a
        spans = [_span(file.metadata.row_group(group)) for group in range(file.num_row_groups)]
        groups = [at for at, (low, high) in enumerate(spans) if _any_within(frames, low, high)]
        counts = True
        for group in groups:
            table = file.read_row_group(group, columns=columns)
            key = table.column("frame_a").to_numpy().astype(np.int64) << 32 | table.column("frame_b").to_numpy()
            at = np.searchsorted(wanted, key)
            hit = np.flatnonzero(wanted[np.minimum(at, len(wanted) - 1)] == key)
            at = at[hit]
            for column, out in (("overlap_ab", ab), ("overlap_ba", ba), ("shared_points", shared)):
                values = table.column(column)
                counts &= column != "shared_points" or not values.null_count
                out[at] = values.fill_null(0).to_numpy()[hit]
    ends = np.cumsum([len(part) for part in keys])[:-1]
    places = np.split(place, ends)
    return [_Pairs(ab[at], ba[at], shared[at] if counts else None) for at in places]


def _span(group: pq.RowGroupMetaData) -> tuple[int, int]:
    """Return the lowest and highest frame_a of a row group, as its statistics tell."""
    for at in range(group.num_columns):
        column = group.column(at)
        if column.path_in_schema == "frame_a":
            found = column.statistics
            if found is not None and found.has_min_max:
                return int(found.min), int(found.max)
    info = np.iinfo(np.int32)
    return info.min, info.max


def _any_within(values: np.ndarray, low: int, high: int) -> bool:
    return bool(np.searchsorted(values, low) < np.searchsorted(values, high, side="right"))


# ---- measures


def _measure(views: int, pairs: _Pairs, min_overlap: float) -> Shared:
    """Measure subsets, whose pairs follow each other in the order of `_pair_keys`."""
    num_pairs = views * (views - 1) // 2
    num = len(pairs.overlap_ab) // num_pairs
    ab, ba = pairs.overlap_ab.reshape(num, num_pairs), pairs.overlap_ba.reshape(num, num_pairs)
    most = np.maximum(ab, ba)
    # Rounding to float32 keeps the order, so comparing rounded numbers decides as the exact ratio does, unless ratio
    # and bound round to one number: for bounds of few digits this takes millions of points in a frame.
    linked = (most > 0) & (most >= np.float32(min_overlap))
    num_lone, num_connected = np.zeros(num, np.int64), np.zeros(num, np.int64)
    step = max(1, _BLOCK_CELLS // (views * views))
    for start in range(0, num, step):
        reach = _reach(views, linked[start : start + step])
        size = np.count_nonzero(reach, axis=2)  # frames of the part that each frame belongs to
        num_lone[start : start + step] = np.count_nonzero(size == 1, axis=1)
        num_connected[start : start + step] = size.max(axis=1)
    return Shared(
        num_lone, num_connected, ab, ba, None if pairs.shared is None else pairs.shared.reshape(num, num_pairs)
    )


def _means(views: int, shared: Shared) -> dict[str, float | None]:
    num = len(shared.num_lone)
    if not num:
        return {}
    points = None if shared.shared_points is None else float(np.median(shared.shared_points))
    # correctly rounded, so that the sum does not depend on the machine
    both = np.concatenate([shared.overlap_ab.ravel(), shared.overlap_ba.ravel()])
    overlap = math.fsum(both.tolist()) / len(both)
    frames = num * views
    lone, connected = int(shared.num_lone.sum()) / frames, int(shared.num_connected.sum()) / frames
    return dict(zip(_MEASURES, (lone, connected, points, overlap), strict=True))


def _reach(views: int, linked: np.ndarray) -> np.ndarray:
    """Tell which frames are connected, directly or not, bool [n, V, V], by links bool [n, V (V - 1) / 2]."""
    first, second = np.triu_indices(views, 1)
    reach = np.zeros((len(linked), views, views), bool)
    reach[:, first, second] = reach[:, second, first] = linked
    reach[:, np.arange(views), np.arange(views)] = True
    for _ in range((views - 1).bit_length()):  # each product doubles the length of the paths
        paths = reach.astype(np.float32)
        reach = paths @ paths > 0
    return reach
