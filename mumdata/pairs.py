"""Pairs of frames as rows of covisibility.parquet, and back.

In: the pairs of a stream by position, or rows of the file. Out: a table, or pairs: a round trip loses no bit of what
rules decide on.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mumdata import catalog
from mumdata.covisibility import Pairs, overlaps
from mumdata.errors import CatalogError
from mumdata.schema import COVISIBILITY

__all__ = ["PAIR_COLUMNS", "bounds", "pair_table", "pairs_of_table"]

_ANGLES = ("rotation_cos", "axis_cos", "triangulation_cos", "scale_ratio")
PAIR_COLUMNS = ("frame_a", "frame_b", "shared_points", "overlap_ab", "overlap_ba", *_ANGLES, "source")


def pair_table(name: str, scene: str, stream: str | None, first: int, pairs: Pairs) -> pa.Table:
    """Make the rows of a stream whose first frame has the frame_id `first`."""
    num = len(pairs.a)
    ab, ba, iou = overlaps(pairs)
    cosine = pairs.triangulation_cos
    degrees = None if cosine is None else np.degrees(np.arccos(cosine)).astype(np.float32)
    columns: dict[str, Any] = {
        "dataset": _constant(name, num),
        "scene": _constant(scene, num),
        "stream": None if stream is None else _constant(stream, num),
        "frame_a": pairs.a.astype(np.int32) + np.int32(first),
        "frame_b": pairs.b.astype(np.int32) + np.int32(first),
        "shared_points": None if pairs.shared is None else pairs.shared.astype(np.int32),
        "overlap_ab": ab.astype(np.float32),
        "overlap_ba": ba.astype(np.float32),
        "iou": iou.astype(np.float32),
        "triangulation_deg": _nullable(degrees),
        "source": _constant(pairs.source, num),
    }
    for angle in _ANGLES:
        columns[angle] = _nullable(getattr(pairs, angle))
    return catalog.build(COVISIBILITY, columns)


def pairs_of_table(table: pa.Table, first: int, num_points: np.ndarray) -> Pairs | None:
    """Return the pairs in a stream's rows; None where nothing is known: no rows, and no frame that sees a point."""
    if not table.num_rows and not num_points.any():
        return None
    a, b = (table.column(side).to_numpy() - np.int32(first) for side in ("frame_a", "frame_b"))
    shared = table.column("shared_points")
    counted = shared.null_count == 0
    values = {
        "a": a.astype(np.int32),
        "b": b.astype(np.int32),
        "num_points": num_points.astype(np.int32) if counted else np.zeros(len(num_points), np.int32),
        "shared": shared.to_numpy().astype(np.int32) if counted else None,
        "overlap_ab": None if counted else table.column("overlap_ab").to_numpy(),
        "overlap_ba": None if counted else table.column("overlap_ba").to_numpy(),
    }
    for angle in _ANGLES:
        column = table.column(angle)
        kind = np.float32 if angle == "scale_ratio" else np.float64
        whole = column.null_count == len(column)
        values[angle] = None if whole and len(column) else column.to_numpy(zero_copy_only=False).astype(kind)
    source = table.column("source")[0].as_py() if table.num_rows else "tracks"
    return Pairs(**{field.name: values[field.name] for field in fields(Pairs) if field.name in values}, source=source)


def bounds(path: Path, firsts: np.ndarray) -> np.ndarray:
    """Return where the rows of each stream begin, and where the last ends, int64 [len(firsts) + 1].

    `firsts` are the rising first frame_ids of streams; rows are sorted by frame_a.
    """
    begins = np.zeros(len(firsts) + 1, np.int64)
    at = 0
    try:
        file = pq.ParquetFile(path)
        columns = [file.read_row_group(number, columns=["frame_a"]).column(0) for number in range(file.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        command = f"mumdata mine-sequences {path.parent.name} --again"
        raise CatalogError(f"{path} is damaged; run '{command}'") from error
    begins[-1] = file.metadata.num_rows
    for column in columns:
        frame_a = column.to_numpy()
        # every stream that begins behind the row group's last pair begins at least at its end
        begins[:-1] += np.searchsorted(frame_a, firsts, side="left")
        at += len(frame_a)
    assert at == begins[-1]
    return begins


def _constant(value: str, num: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(num, np.int32)), pa.array([value], pa.string()))


def _nullable(values: np.ndarray | None) -> pa.Array | None:
    # what is not known is null in the file: NaN would sort and average like a number
    return None if values is None else pa.array(values, from_pandas=True)
