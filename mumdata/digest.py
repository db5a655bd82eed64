"""The content digest of a table: one sha256 that does not depend on how the values are stored.

In: an Arrow table. Out: a hex string that is equal for equal values, whatever the chunks, dictionaries, row groups or
string widths; `mtime_ns` is left out, since copying a dataset changes it and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["ContentDigest", "content_digest", "json_digest"]

_LEFT_OUT = frozenset({"mtime_ns"})


class ContentDigest:
    """The content digest of a table that comes in parts.

    For each column three streams are hashed: which values are null, the lengths of strings and lists, and the values
    themselves in little-endian order with every NaN and zero in one form. The result covers the columns' names and
    logical types in their order, the number of rows and the three hashes; `mtime_ns` is left out.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._fields = [field for field in schema if field.name not in _LEFT_OUT]
        self._streams = [tuple(hashlib.sha256() for _ in range(3)) for _ in self._fields]
        self._num_rows = 0

    def update(self, table: pa.Table) -> None:
        """Add rows of the schema."""
        self._num_rows += table.num_rows
        for field, (nulls, lengths, values) in zip(self._fields, self._streams, strict=True):
            for chunk in table.column(field.name).chunks:
                _feed(chunk, (nulls, lengths, values))

    def hexdigest(self) -> str:
        """Return the sha256 of what was added so far, as 64 hex digits."""
        whole = hashlib.sha256(f"rows {self._num_rows}\n".encode())
        for field, streams in zip(self._fields, self._streams, strict=True):
            hashes = " ".join(stream.hexdigest() for stream in streams)
            whole.update(f"{field.name} {_logical(field.type)} {hashes}\n".encode())
        return whole.hexdigest()


def content_digest(table: pa.Table) -> str:
    """Return the content digest of a whole table (see `ContentDigest`)."""
    digest = ContentDigest(table.schema)
    digest.update(table)
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    """Return the sha256 of a JSON-able value written with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _logical(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _logical(kind.value_type)
    if pa.types.is_large_string(kind):
        return "string"
    if pa.types.is_fixed_size_list(kind):
        return f"list<{_logical(kind.value_type)}>[{kind.list_size}]"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_logical(kind.value_type)}>"
    return str(kind)


def _feed(array: pa.Array, streams: tuple[Any, Any, Any]) -> None:
    nulls, lengths, values = streams
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    nulls.update(_bytes(pc.cast(array.is_valid(), pa.uint8())))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = pc.fill_null(array, "").cast(pa.large_string())
        lengths.update(_bytes(pc.binary_length(text)))
        _, offsets, data = text.buffers()
        ends = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
        if data is not None and len(text):
            values.update(memoryview(data)[int(ends[0]) : int(ends[-1])])
    elif pa.types.is_fixed_size_list(kind):
        values.update(_bytes(array.flatten()))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths.update(_bytes(pc.fill_null(pc.list_value_length(array), 0).cast(pa.int64())))
        values.update(_bytes(array.flatten()))
    elif pa.types.is_boolean(kind):
        values.update(_bytes(pc.fill_null(array, False).cast(pa.uint8())))
    else:
        values.update(_bytes(pc.fill_null(array, pa.scalar(0, kind))))


def _bytes(array: pa.Array) -> bytes:
    data = array.to_numpy(zero_copy_only=False)
    if data.dtype.kind == "f":
        data = np.where(np.isnan(data), np.array(np.nan, data.dtype), data + data.dtype.type(0))
    return np.ascontiguousarray(data).astype(data.dtype.newbyteorder("<"), copy=False).tobytes()
