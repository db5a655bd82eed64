"""What an earlier run found out about files, so that it need not be found out again.

In: frames.parquet of an earlier run, and the parts that an interrupted run left. Out: for every (split, scene, stream)
the rows that it had, read when they are asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mumdata import catalog
from mumdata.errors import CatalogError
from mumdata.files import atomic_path
from mumdata.ranges import Range, read_range
from mumdata.schema import FRAMES, SCENES

__all__ = ["COLUMNS", "Key", "Rows", "of_catalog", "of_parts", "read_rows", "write_part"]

Key = tuple[str | None, str, str | None]  # split, scene, stream

COLUMNS = (
    "path",
    "archive",
    "offset",
    "bytes",
    "mtime_ns",
    "width",
    "height",
    "upright_quarter_turns",
    "traits",
    "content_hash",
    "status",
)

_KEY = b"streams"


@dataclass(frozen=True)
class Rows(Range):
    """Consecutive rows of a Parquet file with the columns of frames; `verify`: how closely they were looked at."""

    verify: str


def of_catalog(folder: Path, tool_version: str) -> tuple[dict[Key, Rows], dict[str, object]]:
    """Return the streams of a catalog and the parameters it was made with; none where it cannot be relied on."""
    frames, scenes = folder / FRAMES.file_name, folder / SCENES.file_name
    try:
        footer = catalog.read_footer(FRAMES, frames)
        if footer.tool_version != tool_version:  # an older version may have read files with other eyes
            return {}, {}
        if catalog.read_footer(SCENES, scenes).inputs.get("frames") != footer.content_digest:
            return {}, dict(footer.parameters)
        table = catalog.read(SCENES, scenes, ["split", "scene", "stream", "first_frame_id", "num_frames"])
    except CatalogError:
        return {}, {}
    stamp, verify = frames.stat().st_mtime_ns, str(footer.parameters.get("verify", "none"))
    columns = (table.column(name).to_pylist() for name in table.column_names)
    found = {
        (split, scene, stream): Rows(str(frames), stamp, first, num, verify)
        for split, scene, stream, first, num in zip(*columns, strict=True)
        if first is not None
    }
    return found, dict(footer.parameters)


def of_parts(folder: Path, made_by: str) -> dict[Key, Rows]:
    """Return the streams of the parts that an interrupted run with the same `made_by` left in a folder."""
    found: dict[Key, Rows] = {}
    for path in sorted(folder.glob("part-*.parquet")):
        try:
            metadata = pq.read_metadata(path).metadata or {}
            about = json.loads(metadata[_KEY])
        except (pa.ArrowException, OSError, KeyError, ValueError):
            continue  # not a whole part: its frames are looked at again
        if about["made_by"] != made_by:
            continue
        first, stamp = 0, path.stat().st_mtime_ns
        for split, scene, stream, num in about["streams"]:
            found[split, scene, stream] = Rows(str(path), stamp, first, num, about["verify"])
            first += num
    return found


def write_part(folder: Path, tables: list[tuple[Key, pa.Table]], made_by: str, verify: str) -> None:
    """Write streams' frames as the next part."""
    number = max((int(path.stem[5:]) for path in folder.glob("part-*.parquet")), default=-1) + 1
    about = {"made_by": made_by, "verify": verify, "streams": [[*key, table.num_rows] for key, table in tables]}
    table = pa.concat_tables([table for _, table in tables]).select(list(COLUMNS)).unify_dictionaries()
    with (
        atomic_path(folder / f"part-{number:06d}.parquet") as temporary,
        pq.ParquetWriter(temporary, table.schema, compression="zstd") as out,
    ):
        out.write_table(table, row_group_size=1 << 17)
        out.add_key_value_metadata({_KEY.decode(): json.dumps(about)})


def read_rows(rows: Rows) -> pa.Table | None:
    """Return the rows' COLUMNS; None where the file is gone or damaged."""
    if not rows.num:
        return None
    try:
        return read_range(rows, COLUMNS)
    except (pa.ArrowException, OSError):
        return None
