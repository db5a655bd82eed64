"""What is known of a shard's images: the file beside each shard.

In: the rows that writing a shard gave. Out: `<dataset>-000000.parquet` beside `<dataset>-000000.tar`, one row for each
image that was to be packed, in the shard's order: the member's name, where its bytes lie, their SHA-256, the picture's
size, how large the file was before; and for an image that could not be packed, why. The footer says what the shard was
made from.

The index is written when its shard is whole. An interrupted run knows by it which shards are done, the catalogs are put
together from the indexes without reading an image, and a shard that was copied elsewhere can be checked by its own.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mumdata.errors import CatalogError
from mumdata.files import atomic_path

__all__ = ["COLUMNS", "ShardFiles", "read_index", "read_made_by", "read_num_bytes", "remove_index", "write_index"]

COLUMNS = pa.schema(
    [
        pa.field("frame_id", pa.int32(), nullable=False),  # of several frames that are one file, the lowest
        pa.field("status", pa.string(), nullable=False),  # ok, else why there is no member
        pa.field("detail", pa.string()),
        pa.field("member", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("traits", pa.string()),
        pa.field("source_bytes", pa.int64()),
    ]
)

_KEY = b"mumdata"


@dataclass(frozen=True)
class ShardFiles:
    """The names of one shard: `archive` relative to the root, the files as paths."""

    root: Path
    name: str
    number: int

    @property
    def archive(self) -> str:
        """The catalog's word for the shard."""
        return f"shards/{self.name}-{self.number:06d}.tar"

    @property
    def tar(self) -> Path:
        """The shard."""
        return self.root / self.archive

    @property
    def index(self) -> Path:
        """The file beside it."""
        return self.tar.with_suffix(".parquet")


def write_index(files: ShardFiles, rows: dict[str, list[Any]], made_by: str, num_bytes: int) -> None:
    """Write the index of a shard of `num_bytes` bytes; `made_by` is a digest of all that decides its content."""
    table = pa.Table.from_arrays([pa.array(rows[field.name], field.type) for field in COLUMNS], schema=COLUMNS)
    about = json.dumps({"bytes": num_bytes, "made_by": made_by}, sort_keys=True)
    with (
        atomic_path(files.index) as temporary,
        pq.ParquetWriter(temporary, COLUMNS, compression="zstd", version="2.6") as out,
    ):
        out.write_table(table)
        out.add_key_value_metadata({_KEY.decode(): about})


def remove_index(files: ShardFiles) -> None:
    """Remove an index, since its shard is about to be another one."""
    files.index.unlink(missing_ok=True)


def read_made_by(files: ShardFiles) -> str | None:
    """Return what a whole shard was made by; None where it is not there, or not as its index says."""
    with suppress(CatalogError, OSError):
        num_bytes, made_by = _about(files)
        if files.tar.stat().st_size == num_bytes:
            return made_by
    return None


def read_num_bytes(files: ShardFiles) -> int:
    """Return how many bytes a shard has by its index; CatalogError where that does not say."""
    return _about(files)[0]


def read_index(files: ShardFiles) -> pa.Table:
    """Return the rows of a shard's index; CatalogError where it is not there, damaged, or something else."""
    try:
        with pq.ParquetFile(files.index) as file:
            table = file.read().replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        raise CatalogError(f"{files.index} cannot be read; run the 'mumdata pack' command again") from error
    if not table.schema.equals(COLUMNS):
        raise CatalogError(f"{files.index} is not the index of a shard; run the 'mumdata pack' command again")
    return table.combine_chunks()


def _about(files: ShardFiles) -> tuple[int, str]:
    # the shard's bytes, and what it was made by
    try:
        about = json.loads((pq.read_metadata(files.index).metadata or {})[_KEY])
        return int(about["bytes"]), str(about["made_by"])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise CatalogError(f"{files.index} cannot be read; run the 'mumdata pack' command again") from error
