"""The sequences of a packed dataset, and its scenes.

In: a dataset's sequences and scenes, and which frames could be packed. Out: the mix's sequences without the others.

Sequences are those of at least the mix's `min_frames`, numbered anew from 0. A frame that could not be packed is left
out; of its sequence links and coherence are then not known any more (null), and with too few frames left it is gone.
Of scenes the counts of sequences, usable and covered frames change with them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mumdata import catalog
from mumdata.catalog import Footer, MixDataset
from mumdata.errors import CatalogError
from mumdata.schema import SCENES, SEQUENCES

__all__ = ["Kept", "check_scenes", "keep_sequences", "write_scenes", "write_sequences"]

_WHY_NONE = "too few frames of its sequences could be packed"

# columns that describe a sequence with all of its frames
_OF_ALL_FRAMES = ("links", "mean_overlap", "density", "components")

Key = tuple[str | None, str, str | None]


@dataclass(frozen=True, eq=False)
class Kept:
    """A dataset's sequences that are kept; how many have lost frames, and how many more have lost too many."""

    table: pa.Table
    is_all: bool  # the dataset's sequences as they are
    num_shortened: int
    num_lost: int


def keep_sequences(dataset: MixDataset, is_packed: np.ndarray) -> Kept:
    """Return a dataset's sequences over the frames that are packed, bool [n]; CatalogError where none is left."""
    table = catalog.read(SEQUENCES, dataset.sequences)
    before = table.column("num_frames").to_numpy()
    wanted = before >= dataset.min_frames
    table, before = table.filter(pa.array(wanted)), before[wanted]
    flat = table.column("frames").combine_chunks().flatten().to_numpy()
    stays = is_packed[flat]
    ends = np.cumsum(before, dtype=np.int64)
    num_left = np.concatenate([[0], np.cumsum(stays, dtype=np.int64)])
    after = (num_left[ends] - num_left[ends - before]).astype(np.int32)
    enough = after >= max(1, dataset.min_frames)
    if not enough.any():
        raise CatalogError(
            f"{dataset.name}: no sequence has {dataset.min_frames} frames that can be packed; check its root and "
            f"files, then run 'mumdata index {dataset.name}'"
        )
    if not stays.all():
        table = _with_frames(table, flat[stays], after, after != before)
    table = table.filter(pa.array(enough))
    table = _put(table, "sequence", pa.array(np.arange(table.num_rows), pa.int32()))
    is_all = bool(wanted.all() and stays.all())
    return Kept(table, is_all, int(np.count_nonzero((after != before) & enough)), int(np.count_nonzero(~enough)))


def write_sequences(dataset: MixDataset, kept: Kept, folder: Path, frames_digest: str) -> str:
    """Write the sequences and return their digest."""
    footer = catalog.read_footer(SEQUENCES, dataset.sequences)
    digest, _ = catalog.write(
        SEQUENCES,
        kept.table,
        folder / SEQUENCES.file_name,
        inputs=footer.inputs | {"frames": frames_digest},
        seed=footer.seed,
        parameters=footer.parameters,
    )
    return digest


def check_scenes(dataset: MixDataset) -> Footer:
    """Return the footer of a dataset's scenes; CatalogError where they are not there, or those of other frames."""
    path = dataset.catalog / SCENES.file_name
    footer = catalog.read_footer(SCENES, path)
    if footer.inputs.get("frames") != dataset.frames_digest:
        raise CatalogError(f"{path} was made from other frames; run 'mumdata index {dataset.name}' again")
    return footer


def write_scenes(
    dataset: MixDataset, kept: Kept, lost: np.ndarray, folder: Path, frames_digest: str, sequences_digest: str
) -> None:
    """Write the scenes; `lost` are the ids of the frames that could not be packed."""
    footer = check_scenes(dataset)
    table = catalog.read(SCENES, dataset.catalog / SCENES.file_name)
    if not kept.is_all:
        table = _recounted(table, kept.table, lost)
    inputs = footer.inputs | {"frames": frames_digest, "sequences": sequences_digest}
    catalog.write(SCENES, table, folder / SCENES.file_name, inputs=inputs, parameters=footer.parameters)


def _with_frames(table: pa.Table, flat: np.ndarray, num_frames: np.ndarray, changed: np.ndarray) -> pa.Table:
    offsets = pa.array(np.concatenate([[0], np.cumsum(num_frames)]), pa.int32())
    table = _put(table, "frames", pa.ListArray.from_arrays(offsets, pa.array(flat, pa.int32())))
    table = _put(table, "num_frames", pa.array(num_frames, pa.int32()))
    same = pa.array(np.arange(len(changed)), mask=changed)
    for name in _OF_ALL_FRAMES:
        table = _put(table, name, table.column(name).take(same))
    return table


def _put(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), SEQUENCES.columns.field(name), values)


def _recounted(scenes: pa.Table, sequences: pa.Table, lost: np.ndarray) -> pa.Table:
    keys = zip(*(sequences.column(name).to_pylist() for name in ("split", "scene", "stream")), strict=True)
    num_sequences: Counter[Key] = Counter(keys)
    covered = np.unique(sequences.column("frames").combine_chunks().flatten().to_numpy())
    rows: list[dict[str, Any]] = scenes.to_pylist()
    for row in rows:
        if row["num_sequences"] is None or row["first_frame_id"] is None:
            continue
        first, end = row["first_frame_id"], row["first_frame_id"] + row["num_frames"]
        left = num_sequences[row["split"], row["scene"], row["stream"]]
        if row["num_sequences"] and not left:
            row["why_no_sequence"] = _WHY_NONE
        row["num_sequences"] = left
        if row["num_usable"] is not None:
            row["num_usable"] -= _between(lost, first, end)
        if row["num_covered"] is not None:
            row["num_covered"] = _between(covered, first, end)
    return catalog.build(SCENES, {name: [row[name] for row in rows] for name in SCENES.columns.names})


def _between(ids: np.ndarray, first: int, end: int) -> int:
    # how many of the rising ids are in first .. end - 1
    begin, stop = np.searchsorted(ids, [first, end])
    return int(stop - begin)
