"""Arrow twins: what training reads of a catalog, as a file that all processes map.

In: a catalog's rows, piece by piece, and the content digests of what they come from. Out: an uncompressed Arrow IPC
file named by these digests, beside the catalog or in $MUM_CACHE; no file is written over, so that a running job keeps
the one that it mapped. Every column is one chunk, however many rows there are: readers take plain arrays over the
mapped file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from mumdata import rng
from mumdata.digest import ContentDigest
from mumdata.errors import CatalogError
from mumdata.files import atomic_path
from mumdata.spool import Codes, Lists, Numbers, Spool, Strings

__all__ = [
    "FRAMES",
    "GROUPS",
    "PAIRS",
    "SEQUENCES",
    "Recipe",
    "ensure",
    "is_intact",
    "mapped",
    "of_covisibility",
    "of_frames",
    "of_sequences",
    "remove_outdated",
]

Rows = Iterable[pa.RecordBatch]

# the columns that twins are made from; those of frames that decide the number of the scene come first
_SCENE = ("split", "scene", "stream")
_NUMBERS = {
    "offset": pa.int64(),
    "bytes": pa.int64(),
    "width": pa.int32(),
    "height": pa.int32(),
    "upright_quarter_turns": pa.int8(),
    "timestamp_s": pa.float64(),
}
FRAMES = (*_SCENE, "frame_id", "path", "archive", "codec", *_NUMBERS)
GROUPS = ("dataset", "group")
SEQUENCES = ("frames", "num_frames", "mean_overlap")
PAIRS = ("frame_a", "frame_b", "overlap_ab", "overlap_ba")

# the columns of twins
_NAMES = pa.dictionary(pa.int32(), pa.string())
_SCHEMAS = {
    "frames": pa.schema(
        {"scene": pa.int32(), "path": pa.large_string(), "archive": _NAMES, "codec": _NAMES, **_NUMBERS}.items()
    ),
    "sequences": pa.schema(
        {
            "scene": pa.int32(),
            "num_frames": pa.int32(),
            "frames": pa.large_list(pa.int32()),
            "holdout_unit": pa.float64(),
            "mean_overlap": pa.float32(),
        }.items()
    ),
    "covisibility": pa.schema({"other": pa.large_list(pa.int32()), "overlap": pa.large_list(pa.float32())}.items()),
}

# goes up whenever a twin's columns change: a twin of another layout is left alone and a new one is made beside it
_LAYOUT = 2

_ROWS = 1 << 17  # rows that are compared at once
_GROUPS_AT_ONCE = 1 << 16  # groups whose names are Python objects at the same time


@dataclass(frozen=True)
class Recipe:
    """How a twin is made: its kind, the catalog that it stands beside, and what reads the rows.

    `digests` are those of the catalogs that it is made from, the one that it stands beside first.
    """

    kind: str
    catalog: Path
    digests: tuple[str, ...]
    make: Callable[[Spool], pa.RecordBatch]

    @property
    def file_name(self) -> str:
        """The twin's name, another one for each content and layout."""
        first, *others = self.digests
        return ".".join([self.kind, str(_LAYOUT), first, *(digest[:16] for digest in others), "arrow"])

    @property
    def beside(self) -> Path:
        """The twin's place beside its catalog."""
        return self.catalog.parent / self.file_name


def ensure(recipe: Recipe) -> Path:
    """Return the file of a catalog's twin, built under a lock where it is not there or damaged.

    While it is built, temporary files in its folder take as much space again. Raises CatalogError where no folder can
    be written, or where a folder has the twin's name.
    """
    places = [recipe.beside]
    if os.environ.get("MUM_CACHE"):
        places.append(Path(os.environ["MUM_CACHE"], recipe.file_name))
    for place in places:
        if _is_whole(recipe.kind, place):
            return place
    problems = []
    for place in places:
        try:
            lock = _lock(place.parent, recipe.kind)
        except OSError as error:
            problems.append(f"{place.parent} cannot be written ({error.strerror})")
            continue
        with lock:
            if not _is_whole(recipe.kind, place):
                _build(recipe, place)
        return place
    raise CatalogError(f"{', and '.join(problems)}; set MUM_CACHE to a folder that can be written")


def mapped(place: Path) -> pa.Table:
    """Map a twin; CatalogError where it is not whole.

    The ends of every column are compared with the size of its buffers: half a millisecond for 20 million frames. What
    lies between is not looked at, since that would read the file (of that many frames, 160 MB for the places of their
    paths alone, which takes 30 ms where the system holds them already): that is what `is_intact` is for.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(place))).read_all()
        table.validate()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CatalogError(f"{place} is not a whole Arrow file; run the command again, it is built anew") from error
    return table


def is_intact(recipe: Recipe, scratch: Path) -> bool:
    """Tell whether the twin beside its catalog is, to the last value, what its catalog gives; True where none is there.

    It is built once more, in a folder that temporary files may be written to; OSError where that one is full.
    """
    if not os.path.lexists(recipe.beside):
        return True
    try:
        found = mapped(recipe.beside)
        found.validate(full=True)
    except (CatalogError, pa.ArrowException, ValueError):  # ValueError: names that are no text
        return False
    with Spool(scratch) as spool:
        expected = pa.Table.from_batches([recipe.make(spool)])
        return found.schema.equals(expected.schema) and _digest(found) == _digest(expected)


def remove_outdated(recipe: Recipe) -> None:
    """Remove twins of the same kind beside a catalog that are of other contents or layouts.

    A process of this machine that has one mapped keeps it; one that maps it over a network loses it.
    """
    for path in recipe.catalog.parent.glob(f"{recipe.kind}.*.arrow"):
        if path.name != recipe.file_name:
            with suppress(OSError):
                path.unlink()


def of_frames(rows: Rows, spool: Spool) -> pa.RecordBatch:
    """Reduce frames, rows of the columns FRAMES, to what a reader needs; row number = frame_id."""
    scene = Numbers(spool, pa.int32())
    columns: dict[str, Strings | Codes | Numbers] = {
        "path": Strings(spool),
        "archive": Codes(spool),
        "codec": Codes(spool),
        **{name: Numbers(spool, kind) for name, kind in _NUMBERS.items()},
    }
    num = num_scenes = 0
    last: tuple[str | None, ...] = ()
    for batch in rows:
        ids = batch.column("frame_id").to_numpy()
        if not np.array_equal(ids, np.arange(num, num + len(ids))):
            raise CatalogError("frame_id is not 0, 1, 2, ... in file order; run 'mumdata index' again")
        # frames of one (split, scene, stream) are contiguous; scenes are numbered in file order
        is_first, last = _changes([batch.column(name) for name in _SCENE], last)
        scene.add(pa.array(num_scenes - 1 + np.cumsum(is_first), pa.int32()))
        for name, column in columns.items():
            column.add(batch.column(name))
        num, num_scenes = num + len(ids), num_scenes + int(np.count_nonzero(is_first))
    return pa.record_batch({"scene": scene.array(), **{name: column.array() for name, column in columns.items()}})


def of_sequences(rows: Rows, groups: Rows, frames: pa.Table, spool: Spool) -> pa.RecordBatch:
    """Reduce sequences, rows of the columns SEQUENCES, to what a sampler needs.

    With a uniform hash of each one's group for holding out: a sequence belongs to the group of its first frame; frames
    without a group stand for themselves. `groups` are rows of all frames with the columns GROUPS, `frames` their twin.
    """
    num_frames, of_sequence = Numbers(spool, pa.int32()), Lists(spool, pa.int32())
    mean_overlap = Numbers(spool, pa.float32())
    firsts = [np.empty(0, np.int32)]
    for batch in rows:
        lists, counts = batch.column("frames"), batch.column("num_frames").to_numpy()
        offsets = lists.offsets.to_numpy()
        ids = lists.values.to_numpy()[offsets[0] : offsets[-1]]
        if not np.array_equal(np.diff(offsets), counts) or counts.min() < 1:
            raise CatalogError("the number of frames of a sequence is not num_frames; run 'mumdata mine-sequences'")
        if not 0 <= ids.min() <= ids.max() < frames.num_rows:
            raise CatalogError(
                "sequences name frames that the frames catalog does not hold; run 'mumdata mine-sequences'"
            )
        firsts.append(ids[offsets[:-1] - offsets[0]])
        num_frames.add(batch.column("num_frames"))
        of_sequence.add(lists)
        mean_overlap.add(batch.column("mean_overlap"))
    first = np.concatenate(firsts)
    return pa.record_batch(
        {
            "scene": pa.array(_plain(frames, "scene").to_numpy()[first], pa.int32()),
            "num_frames": num_frames.array(),
            "frames": of_sequence.array(),
            "holdout_unit": pa.array(_holdout_units(first, groups, _plain(frames, "path"), spool), pa.float64()),
            "mean_overlap": mean_overlap.array(),
        }
    )


def of_covisibility(read: Callable[[], Rows], num_frames: int, spool: Spool) -> pa.RecordBatch:
    """Turn pairs, rows of the columns PAIRS that are read twice, into the neighbours of each frame.

    Takes some 50 bytes a frame of memory; the neighbours, 16 bytes a pair, are put down on disk.
    """
    num_lower, num_upper = np.zeros(num_frames, np.int64), np.zeros(num_frames, np.int64)
    last = -1
    for a, b, _ in _pairs(read()):
        keys = a << 32 | b
        if keys[0] <= last or (np.diff(keys) <= 0).any() or (a >= b).any() or b.max() >= num_frames:
            raise CatalogError(
                "pairs are not in order of frame_a and frame_b, or name frames that the frames catalog does not hold; "
                "run 'mumdata mine-sequences'"
            )
        last = int(keys[-1])
        _count(a, num_upper)
        _count(b, num_lower)
    offsets = np.zeros(num_frames + 1, np.int64)
    np.cumsum(num_lower + num_upper, out=offsets[1:])
    # Pairs come in order of (a, b), so those that a frame is the second of come before those that it is the first of,
    # and both in order of their other frame: each frame's neighbours are ascending as they are put down.
    lower, upper = offsets[:-1].copy(), offsets[:-1] + num_lower
    other, overlap = spool.zeros(np.int32, int(offsets[-1])), spool.zeros(np.float32, int(offsets[-1]))
    for a, b, most in _pairs(read()):
        place = _places(a, upper)
        other[place], overlap[place] = b, most
        order = np.argsort(b, kind="stable")
        place = _places(b[order], lower)
        other[place], overlap[place] = a[order], most[order]
    return pa.record_batch(
        {
            "other": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(other)),
            "overlap": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(overlap)),
        }
    )


def _pairs(rows: Rows) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    # (frame_a, frame_b, the greater overlap)
    for batch in rows:
        a, b = (batch.column(name).to_numpy().astype(np.int64) for name in PAIRS[:2])
        ab, ba = (batch.column(name).fill_null(0).to_numpy() for name in PAIRS[2:])
        yield a, b, np.maximum(ab, ba)


def _count(frames: np.ndarray, counts: np.ndarray) -> None:
    # without a pass over all frames for each few rows
    low = int(frames.min())
    found = np.bincount(frames - low)
    counts[low : low + len(found)] += found


def _places(frames: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Take a free place for each row of frames, int64 [n] not falling; `free` holds the next one of each frame."""
    begins = np.flatnonzero(np.diff(frames, prepend=-1))
    counts = np.diff(begins, append=len(frames))
    places = np.repeat(free[frames[begins]] - begins, counts) + np.arange(len(frames))
    free[frames[begins]] += counts
    return places


def _changes(columns: list[pa.Array], last: tuple[str | None, ...]) -> tuple[np.ndarray, tuple[str | None, ...]]:
    """Tell which rows differ from the one before, bool [n]; `last` is the row before the first, then the last one."""
    change = np.zeros(len(columns[0]), bool)
    change[0] = last != tuple(column[0].as_py() for column in columns)
    for column in columns:
        codes = column.cast(pa.string()).dictionary_encode().indices.fill_null(-1).to_numpy()
        change[1:] |= codes[1:] != codes[:-1]
    return change, tuple(column[-1].as_py() for column in columns)


def _holdout_units(first: np.ndarray, groups: Rows, paths: pa.Array, spool: Spool) -> np.ndarray:
    """Return the hash of the group of each of some frames, float64 in [0, 1)."""
    dataset, group = Codes(spool), Codes(spool)
    for batch in groups:
        dataset.add(batch.column("dataset"))
        group.add(batch.column("group"))
    datasets, names = (codes.array().dictionary.to_pylist() for codes in (dataset, group))
    of_dataset, of_group = (codes.array().indices.fill_null(-1).to_numpy()[first] for codes in (dataset, group))
    # what stands for itself is numbered by its first frame, above all groups
    num_named = len(datasets) * len(names)
    own = np.where(of_group < 0, num_named + first.astype(np.int64), of_dataset * np.int64(len(names)) + of_group)
    distinct, examples, which = np.unique(own, return_index=True, return_inverse=True)
    units = np.empty(len(distinct))
    for start in range(0, len(distinct), _GROUPS_AT_ONCE):
        rows = examples[start : start + _GROUPS_AT_ONCE]
        of_rows = zip(
            of_dataset[rows].tolist(), of_group[rows].tolist(), paths.take(first[rows]).to_pylist(), strict=True
        )
        units[start : start + len(rows)] = [
            rng.fraction(rng.key("holdout", datasets[d], None if g < 0 else names[g], path if g < 0 else None))
            for d, g, path in of_rows
        ]
    return units[which]


def _plain(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _is_whole(kind: str, place: Path) -> bool:
    # as far as `mapped` looks; a damaged one is as good as none
    if os.path.isdir(place):
        raise CatalogError(f"{place} is a folder, where a file is to be written; move or remove it")
    if not os.path.exists(place):
        return False
    try:
        return bool(mapped(place).schema.equals(_SCHEMAS[kind]))
    except CatalogError:
        return False


def _lock(folder: Path, kind: str) -> IO[str]:
    # an open file, locked until it is closed; OSError where the folder can be neither made nor written
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / f".{kind}.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        file.close()
        raise
    return file


def _build(recipe: Recipe, place: Path) -> None:
    with atomic_path(place) as temporary, Spool(place.parent) as spool:
        batch = recipe.make(spool)
        with pa.ipc.new_file(temporary, batch.schema) as out:
            out.write_batch(batch)


def _digest(table: pa.Table) -> str:
    digest = ContentDigest(table.schema)
    for first in range(0, table.num_rows, _ROWS):
        digest.update(table.slice(first, _ROWS))
    return digest.hexdigest()
