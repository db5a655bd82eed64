"""The frames of a packed dataset, and what could not be packed.

In: a dataset's frames, and the indexes of its shards. Out: the same frames under the same frame_ids, so that pairs and
sequences hold.

* A packed frame points into its shard; `content_hash` is the packed file's. With a size, its width, height, traits and
  intrinsics are those of the packed picture (the latter null where the dataset's catalog does not know the size that
  they belong to).
* A frame that no sequence of the mix uses has the status `not_packed`; one that could not be packed says why in its
  status, and in quarantine with the archive and path that it has in the dataset. Both keep what describes the picture,
  and point nowhere.
* Depth maps and masks are not packed: no frame names any. `mtime_ns` is null.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mumdata import catalog
from mumdata.catalog import MixDataset
from mumdata.errors import CatalogError
from mumdata.geometry import scale_intrinsics
from mumdata.packed.index import COLUMNS, ShardFiles, read_index
from mumdata.packed.plan import Chosen
from mumdata.packed.recode import Recoding
from mumdata.ranges import read_range, whole
from mumdata.schema import FRAMES, QUARANTINE, Schema

__all__ = ["NOT_PACKED", "Images", "images_of", "rows_in_pieces", "write_frames", "write_quarantine"]

NOT_PACKED = "not_packed"

# rows that are in memory at a time
_ROWS = 1 << 17


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a dataset's shards, and where each frame is among them.

    `table` holds the rows of all indexes and the column `archive`; `row` int64 [num_frames] is the row of each frame,
    -1 where none of them is its; `is_packed` bool [num_frames] tells those with a member.
    """

    table: pa.Table
    row: np.ndarray
    is_packed: np.ndarray


def images_of(shards: list[ShardFiles], chosen: Chosen) -> Images:
    """Read the indexes of a dataset's shards; CatalogError where one is not whole."""
    tables = [
        table.append_column("archive", pa.array([files.archive] * table.num_rows, pa.string()))
        for files in shards
        for table in (read_index(files),)
    ]
    empty = COLUMNS.append(pa.field("archive", pa.string())).empty_table()
    table = pa.concat_tables([empty, *tables]).combine_chunks()
    row_of = np.full(len(chosen.first), -1, np.int64)
    row_of[table.column("frame_id").to_numpy()] = np.arange(table.num_rows)
    row = np.where(chosen.first >= 0, row_of[chosen.first], -1)
    is_ok = np.append(np.asarray(pc.equal(table.column("status"), "ok"), bool), False)  # of row -1
    return Images(table, row, is_ok[row])


def write_frames(dataset: MixDataset, chosen: Chosen, images: Images, folder: Path, how: Recoding) -> str:
    """Write the frames and return their digest."""
    footer = catalog.read_footer(FRAMES, dataset.frames)
    size = {"packed_size": "full"} if how.size is None else {"packed_size": how.size, "packed_quality": how.quality}
    with catalog.Writer(FRAMES, folder / FRAMES.file_name) as out:
        for first, table in rows_in_pieces(FRAMES, dataset.frames):
            rows = slice(first, first + table.num_rows)
            part = Images(images.table, images.row[rows], images.is_packed[rows])
            out.add(catalog.build(FRAMES, _columns(table, chosen.used[rows], part, how)))
        digest, _ = out.finish(inputs={"source_frames": dataset.frames_digest}, parameters=footer.parameters | size)
    return digest


def write_quarantine(
    dataset: MixDataset, chosen: Chosen, images: Images, folder: Path, frames_digest: str
) -> dict[str, int]:
    """Write what could not be packed, a row for each file; return how many files there are for each reason."""
    broken = images.table.filter(pc.not_equal(images.table.column("status"), "ok"))
    ids = [broken.column("frame_id").to_numpy()]
    reasons = broken.column("status").to_pylist()
    details = broken.column("detail").to_pylist()
    known = np.flatnonzero(chosen.used & (chosen.first < 0))  # not even tried
    source = catalog.read(FRAMES, dataset.frames, ["archive", "path", "status"])
    reasons += source.column("status").take(pa.array(known)).to_pylist()
    details += ["so says the catalog that was packed"] * len(known)
    order = np.argsort(np.concatenate([*ids, known]), kind="stable")
    rows = source.take(pa.array(np.concatenate([*ids, known])[order]))
    columns = {
        "dataset": [dataset.name] * len(order),
        "archive": rows.column("archive"),
        "path": rows.column("path"),
        "reason": [reasons[place] for place in order],
        "detail": [details[place] for place in order],
        "found_by": ["pack"] * len(order),
    }
    target = folder / QUARANTINE.file_name
    catalog.write(QUARANTINE, catalog.build(QUARANTINE, columns), target, inputs={"frames": frames_digest})
    return dict(sorted(Counter(reasons).items()))


def rows_in_pieces(schema: Schema, path: Path) -> Iterator[tuple[int, pa.Table]]:
    """Yield (number of the first row, rows) of a catalog from top to bottom; CatalogError where it is damaged."""
    try:
        rows = whole(path)
        for first in range(0, rows.num, _ROWS):
            piece = replace(rows, first=first, num=min(_ROWS, rows.num - first))
            yield first, read_range(piece, tuple(schema.columns.names))
    except (pa.ArrowException, OSError) as error:
        command = schema.command.format(dataset=path.parent.name)
        raise CatalogError(f"{path} is damaged; run '{command}'") from error


def _columns(
    table: pa.Table, used: np.ndarray, images: Images, how: Recoding
) -> dict[str, pa.Array | pa.ChunkedArray | None]:
    # a part of the frames, and the images of that part
    columns = {name: table.column(name) for name in FRAMES.columns.names}
    found = images.table.take(pa.array(images.row, mask=images.row < 0))
    is_packed, was_tried = pa.array(images.is_packed), pa.array(images.row >= 0)
    idle = pa.array(~used & np.asarray(pc.equal(table.column("status"), "ok"), bool))
    status = pc.if_else(was_tried, found.column("status"), table.column("status"))
    columns["status"] = pc.if_else(idle, NOT_PACKED, status)
    columns["archive"] = pc.if_else(is_packed, found.column("archive"), None)
    columns["codec"] = pc.if_else(is_packed, "stored", None)
    for name, there in (("offset", "offset"), ("bytes", "bytes"), ("content_hash", "sha256")):
        columns[name] = found.column(there)
    for name in ("mtime_ns", "depth_path", "mask_path"):
        columns[name] = None
    if how.size is not None:
        for name in ("width", "height", "traits"):
            columns[name] = pc.if_else(is_packed, found.column(name), table.column(name))
        columns["intrinsics_px"] = _scaled(table, columns["width"], columns["height"], images.is_packed)
    return columns


def _scaled(
    table: pa.Table, width: pa.ChunkedArray, height: pa.ChunkedArray, is_packed: np.ndarray
) -> pa.FixedSizeListArray:
    intrinsics = table.column("intrinsics_px").combine_chunks()
    known = np.asarray(pc.is_valid(intrinsics), bool)
    values = np.full((len(intrinsics), 4), np.nan)
    values[known] = intrinsics.drop_null().flatten().to_numpy().reshape(-1, 4)
    old, new = (
        np.stack([column.fill_null(0).to_numpy() for column in pair], axis=1)
        for pair in ((table.column("width"), table.column("height")), (width, height))
    )
    known &= ~is_packed | (old > 0).all(axis=1)
    todo = known & is_packed
    values[todo] = scale_intrinsics(values[todo], old[todo], new[todo])
    flat = pa.array(values.astype(np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, 4, mask=pa.array(~known))
