"""What is known of a stream after mining, and how an interrupted or repeated run takes it up again.

In: results of streams, in order. Out: parts on disk while a run goes on, a record of the finished run beside its
catalogs, and for every stream what an earlier run with the same inputs and options found. Work is done again only where
a stream's frames, the source or the options have changed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mumdata import catalog
from mumdata.errors import CatalogError
from mumdata.files import atomic_path
from mumdata.ranges import Range
from mumdata.schema import COVISIBILITY, HISTOGRAM, SEQUENCES

__all__ = ["Key", "Kept", "Result", "Summary", "earlier", "read_record", "remember", "summary_of", "write_part"]

Key = tuple[str | None, str, str | None]  # split, scene, stream


@dataclass(frozen=True)
class Summary:
    """What mining found in a stream. `reason` says why there is no sequence."""

    num_pairs: int | None = None
    num_sequences: int = 0
    num_distinct: int = 0
    num_usable: int = 0  # frames that a sequence may hold
    num_covered: int = 0  # frames that a sequence does hold
    num_copies: int | None = None  # frames that show the same photo as another one
    overlap_histogram: list[int] | None = None  # 20 bins of 0.05, over directed pairs
    rotation_histogram: list[int] | None = None  # 20 bins of 9 degrees, over pairs
    axis_histogram: list[int] | None = None
    bytes_read: int = 0  # of the files that tell what frames share
    bytes_total: int = 0
    reason: str | None = None
    problem: str | None = None  # what went wrong in finding what the frames share


@dataclass(frozen=True)
class Result:
    """A stream's summary and rows. Tables are None where they are not to be written."""

    key: Key
    fingerprint: str  # of the stream's frames
    first: int  # frame_id of its first frame
    summary: Summary
    pairs: pa.Table | None
    sequences: pa.Table | None
    is_new: bool = True  # nothing of it was taken from an earlier run


@dataclass(frozen=True)
class Kept:
    """What an earlier run found of a stream; it holds as long as the fingerprint is the same."""

    fingerprint: str
    first: int
    summary: Summary
    pairs: Range | None
    sequences: Range | None


_RECORD = pa.schema(
    [
        ("split", pa.string()),
        ("scene", pa.string()),
        ("stream", pa.string()),
        ("fingerprint", pa.string()),
        ("first", pa.int32()),
        ("num_pairs", pa.int64()),
        *((name, pa.int64()) for name in ("num_sequences", "num_distinct", "num_usable", "num_covered", "num_copies")),
        *((name, HISTOGRAM) for name in ("overlap_histogram", "rotation_histogram", "axis_histogram")),
        ("bytes_read", pa.int64()),
        ("bytes_total", pa.int64()),
        ("reason", pa.string()),
        ("problem", pa.string()),
    ]
)
_KEY = b"made_by"
_SUMMARY = tuple(field.name for field in fields(Summary))


def write_part(folder: Path, results: list[Result], made_by: dict[str, str | None]) -> None:
    """Write results as the next part; `made_by` are texts that tell the inputs and options of "pairs", "sequences"."""
    number = max((int(path.name[5:11]) for path in folder.glob("part-??????.streams.parquet")), default=-1) + 1
    stem = folder / f"part-{number:06d}"
    for name, schema in (("pairs", COVISIBILITY), ("sequences", SEQUENCES)):
        tables = [table for result in results if (table := getattr(result, name)) is not None and table.num_rows]
        with (
            atomic_path(stem.with_name(f"{stem.name}.{name}.parquet")) as temporary,
            pq.ParquetWriter(temporary, schema.columns, compression="zstd") as out,
        ):
            if tables:
                out.write_table(pa.concat_tables(tables).unify_dictionaries(), row_group_size=1 << 17)
    # last: where this file is, the others are whole
    remember(stem.with_name(f"{stem.name}.streams.parquet"), results, made_by)


def remember(path: Path, results: list[Result], about: dict[str, str | None]) -> None:
    """Write the record of streams, with what made it."""
    rows = [
        dict(zip(("split", "scene", "stream"), result.key, strict=True))
        | {"fingerprint": result.fingerprint, "first": result.first}
        | asdict(result.summary)
        for result in results
    ]
    table = pa.Table.from_pylist(rows, schema=_RECORD)
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, _RECORD, compression="zstd") as out,
    ):
        out.write_table(table)
        out.add_key_value_metadata({_KEY.decode(): json.dumps(about)})


def read_record(path: Path) -> tuple[list[dict[str, Any]], dict[str, str | None]] | None:
    """Return a record's rows and what made it; None where there is none, or not a whole one."""
    try:
        file = pq.ParquetFile(path)
        about = json.loads((file.metadata.metadata or {})[_KEY])
        rows = file.read().to_pylist()
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
    if not isinstance(about, dict) or file.schema_arrow.remove_metadata() != _RECORD:
        return None
    return rows, about


def summary_of(row: dict[str, Any]) -> Summary:
    """Return the summary in a record's row."""
    return Summary(**{name: row[name] for name in _SUMMARY})


def earlier(folder: Path, work: Path, made_by: dict[str, str | None]) -> dict[Key, Kept]:
    """Return what earlier runs found, finished or interrupted, of pairs and sequences with the same `made_by`."""
    found: dict[Key, Kept] = {}
    finals = (folder / COVISIBILITY.file_name, folder / SEQUENCES.file_name)
    digests = tuple(_digest(schema, path) for schema, path in zip((COVISIBILITY, SEQUENCES), finals, strict=True))
    for path in (work / "streams.parquet", *sorted(work.glob("part-??????.streams.parquet"))):
        record = read_record(path)
        if record is None:
            continue
        rows, about = record
        if path.name == "streams.parquet":
            files = finals
            whole = (about.get("covisibility") == digests[0], about.get("digest") == digests[1])
        else:
            stem = path.name.removesuffix(".streams.parquet")
            files = (work / f"{stem}.pairs.parquet", work / f"{stem}.sequences.parquet")
            # a run that does not write pairs leaves a part without them
            wanted = (sum(row["num_pairs"] or 0 for row in rows), sum(row["num_sequences"] for row in rows))
            whole = (_num_rows(files[0]) == wanted[0], _num_rows(files[1]) == wanted[1])
        same_pairs = about.get("pairs") == made_by["pairs"]
        same_sequences = same_pairs and about.get("sequences") == made_by["sequences"] and whole[1]
        has_pairs = made_by["pairs"] is not None and same_pairs and whole[0]
        if has_pairs or (made_by["pairs"] is None and same_sequences):
            found |= _kept(rows, files[0] if has_pairs else None, files[1] if same_sequences else None)
    return found


def _num_rows(path: Path) -> int | None:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return None


def _digest(schema: Any, path: Path) -> str | None:
    try:
        return catalog.read_footer(schema, path).content_digest
    except CatalogError:
        return None


def _kept(rows: list[dict[str, Any]], pairs: Path | None, sequences: Path | None) -> dict[Key, Kept]:
    stamps = [path and path.stat().st_mtime_ns for path in (pairs, sequences)]
    at_pair = at_sequence = 0
    found = {}
    for row in rows:
        num_pairs, num_sequences = row["num_pairs"] or 0, row["num_sequences"]
        found[row["split"], row["scene"], row["stream"]] = Kept(
            row["fingerprint"],
            row["first"],
            summary_of(row),
            Range(str(pairs), stamps[0] or 0, at_pair, num_pairs) if pairs else None,
            Range(str(sequences), stamps[1] or 0, at_sequence, num_sequences) if sequences else None,
        )
        at_pair += num_pairs
        at_sequence += num_sequences
    return found
