"""Arrow twins: what training reads of a catalog, as a file that all processes map.

In: a catalog's table and its content digest. Out: an uncompressed Arrow IPC file named by that digest, beside the
catalog or in $MUM_CACHE; never overwritten, so a running job keeps the one that it mapped.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from mumdata import rng
from mumdata.errors import CatalogError
from mumdata.files import atomic_path

__all__ = ["mapped", "of_frames", "of_sequences"]


def mapped(kind: str, catalog: Path, digest: str, make: Callable[[], pa.Table]) -> pa.Table:
    """Return the twin of a catalog as a memory-mapped table, built by `make` under a lock where it is not there."""
    name = f"{kind}.{digest}.arrow"
    places = [catalog.parent / name]
    if os.environ.get("MUM_CACHE"):
        places.append(Path(os.environ["MUM_CACHE"], name))
    for place in places:
        if place.exists():
            return _map(place)
    writable = [place for place in places if os.access(_existing(place.parent), os.W_OK)]
    if not writable:
        raise CatalogError(f"{catalog.parent} cannot be written; set MUM_CACHE to a folder that can")
    place = writable[0]
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.parent / f".{kind}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            table = make().combine_chunks().unify_dictionaries()
            with atomic_path(place) as temporary, pa.ipc.new_file(temporary, table.schema) as out:
                out.write_table(table)
    return _map(place)


def of_frames(frames: pa.Table) -> pa.Table:
    """Reduce frames to what a reader needs; row number = frame_id."""
    ids = frames.column("frame_id").to_numpy()
    if not np.array_equal(ids, np.arange(len(ids))):
        raise CatalogError("frame_id is not 0, 1, 2, ... in file order; run 'mumdata index' again")
    large = pa.large_string()
    return pa.table(
        {
            "scene": pa.array(_scene_numbers(frames), pa.int32()),
            "path": frames.column("path").cast(large),
            "archive": frames.column("archive"),
            "codec": frames.column("codec"),
            "offset": frames.column("offset"),
            "bytes": frames.column("bytes"),
            "width": frames.column("width"),
            "height": frames.column("height"),
            "upright_quarter_turns": frames.column("upright_quarter_turns"),
        }
    )


def of_sequences(sequences: pa.Table, frames: pa.Table) -> pa.Table:
    """Reduce sequences to what a sampler needs, with a uniform hash of each one's group for holding out.

    A sequence belongs to the group of its first frame; frames without a group stand for themselves.
    """
    lists = sequences.column("frames").combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks)
    flat = lists.flatten().to_numpy()
    num_frames = sequences.column("num_frames").to_numpy()
    offsets = np.concatenate([[0], np.cumsum(num_frames, dtype=np.int64)])
    if len(flat) != offsets[-1] or (len(flat) and not 0 <= flat.min() <= flat.max() < frames.num_rows):
        raise CatalogError("sequences name frames that the frames catalog does not hold; run 'mumdata mine-sequences'")
    firsts = flat[offsets[:-1]]
    scene = _scene_numbers(frames)
    dataset = frames.column("dataset").cast(pa.string())
    picked = pa.table(
        {
            "dataset": dataset.take(pa.array(firsts)),
            "group": frames.column("group").cast(pa.string()).take(pa.array(firsts)),
            "path": frames.column("path").take(pa.array(firsts)),
        }
    ).to_pylist()
    units = np.empty(len(firsts))
    known: dict[tuple[str, str | None, str | None], float] = {}
    for row, of in enumerate(picked):
        what = (of["dataset"], of["group"], of["path"] if of["group"] is None else None)
        if what not in known:
            known[what] = float(rng.unit(rng.words(rng.key("holdout", *what), 1))[0])
        units[row] = known[what]
    return pa.table(
        {
            "scene": pa.array(scene[firsts], pa.int32()),
            "num_frames": pa.array(num_frames, pa.int32()),
            "frames": pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(flat, pa.int32())),
            "holdout_unit": pa.array(units, pa.float64()),
        }
    )


def _scene_numbers(frames: pa.Table) -> np.ndarray:
    # frames of one (split, scene, stream) are contiguous; scenes are numbered in file order
    change = np.zeros(frames.num_rows, bool)
    for name in ("split", "scene", "stream"):
        codes = frames.column(name).cast(pa.string()).combine_chunks().dictionary_encode()
        codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
        values = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        change[1:] |= values[1:] != values[:-1]
    return np.cumsum(change).astype(np.int32)


def _map(place: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.memory_map(str(place))).read_all()
    except pa.ArrowInvalid as error:
        raise CatalogError(f"{place} is not a whole Arrow file; delete it, it is built anew") from error


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
