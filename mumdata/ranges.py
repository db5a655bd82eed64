"""Rows of a Parquet file by their position, for readers that go through it from top to bottom.

In: a file and a range of rows. Out: a table of these rows. The row groups at hand are kept, so that neighbouring ranges
cost one read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["Range", "read_range", "whole"]


@dataclass(frozen=True)
class Range:
    """Consecutive rows of a file; `stamp` (mtime_ns) tells the file from a later one of the same name."""

    file: str
    stamp: int
    first: int
    num: int


def whole(path: Path) -> Range:
    """Return the range of all rows of a file."""
    return Range(str(path), path.stat().st_mtime_ns, 0, pq.read_metadata(path).num_rows)


def read_range(rows: Range, columns: tuple[str, ...]) -> pa.Table:
    """Return the rows' columns, dictionaries as plain strings; OSError where the file has fewer rows.

    Raises OSError or pyarrow's errors where the file is gone or damaged.
    """
    pieces = list(_pieces(rows, columns))
    table = pa.concat_tables(pieces) if pieces else _empty(rows, columns)
    if table.num_rows != rows.num:
        raise OSError(f"{rows.file} has {table.num_rows} of the rows {rows.first} .. {rows.first + rows.num - 1}")
    return table.combine_chunks()


def _pieces(rows: Range, columns: tuple[str, ...]) -> Iterator[pa.Table]:
    end, at = rows.first + rows.num, 0
    for number, num in enumerate(_sizes(rows.file, rows.stamp)):
        if at >= end:
            return
        if at + num > rows.first:
            first = max(rows.first - at, 0)
            yield _group(rows.file, rows.stamp, number, columns).slice(first, min(end - at, num) - first)
        at += num


def _empty(rows: Range, columns: tuple[str, ...]) -> pa.Table:
    schema = _file(rows.file, rows.stamp).schema_arrow
    return _plain(pa.schema([schema.field(name) for name in columns]).empty_table())


@functools.lru_cache(maxsize=4)
def _file(path: str, stamp: int) -> pq.ParquetFile:
    return pq.ParquetFile(path)


@functools.lru_cache(maxsize=4)
def _sizes(path: str, stamp: int) -> tuple[int, ...]:
    metadata = _file(path, stamp).metadata
    return tuple(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))


# ranges come in the order of the file, so that the row groups at hand are those that the next range needs
@functools.lru_cache(maxsize=4)
def _group(path: str, stamp: int, number: int, columns: tuple[str, ...]) -> pa.Table:
    return _plain(_file(path, stamp).read_row_group(number, columns=list(columns)))


def _plain(table: pa.Table) -> pa.Table:
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.string()))
    return table.combine_chunks()
