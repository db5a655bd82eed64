"""Images inside Parquet shards, as dataset hubs keep them: a column `image` of {bytes, path}, and a label.

In: a shard. Out: its rows' names and labels, cheaply; and what the headers of all its images say, in one pass. Rows of
one class lie scattered over all shards, so a shard is surveyed once, by the first worker that asks for any of its rows,
and the result is kept in a file for all others.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mumdata.errors import LayoutError
from mumdata.files import atomic_path

__all__ = ["Judge", "SURVEY", "rows_of", "survey"]

# what is said of one image: status, reason, width, height, quarter turns, traits, sha256; -1 and None for unknown
Verdict = tuple[str, str, int, int, int, str | None, str | None]
Judge = Callable[[bytes], Verdict]

SURVEY = pa.schema(
    [
        ("status", pa.string()),
        ("reason", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("turns", pa.int64()),
        ("traits", pa.string()),
        ("hash", pa.string()),
        ("bytes", pa.int64()),
    ]
)


def rows_of(path: Path) -> tuple[list[str | None], np.ndarray]:
    """Return the names (None where the shard gives none) and labels int64 (-1 for none) of a shard's rows.

    Raises LayoutError where it is not a Parquet file with a column `image` of {bytes, path}.
    """
    try:
        with pq.ParquetFile(path) as file:
            leaves = {file.schema.column(place).path for place in range(len(file.schema.names))}
            if "image.bytes" not in leaves:
                raise LayoutError(f"{path.name} has no column image.bytes; it is not a shard of images")
            wanted = [name for name in ("image.path", "label") if name in leaves]
            table = file.read(columns=wanted)
            num = file.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise LayoutError(f"{path.name} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    names: list[str | None] = [None] * num
    labels = np.full(num, -1, np.int64)
    if "image.path" in wanted:
        names = [image and image["path"] for image in table.column("image").to_pylist()]
    if "label" in wanted:
        labels = table.column("label").cast(pa.int64()).fill_null(-1).to_numpy()
    return names, labels


def survey(
    work: Path, root: Path, archives: Iterable[str], key: str, judge: Judge
) -> dict[str, pa.Table | OSError | LayoutError]:
    """Return what `judge` says of every image of the shards, tables of SURVEY by row; an error for an unreadable one.

    Results are kept in `work` under a name that holds the shard's size and time and `key` (what the judge depends on).
    Workers that want the same shards share the work: each surveys those that no other has begun.
    """
    found: dict[str, pa.Table | OSError | LayoutError] = {}
    pending = list(dict.fromkeys(archives))
    wait = False
    while pending:
        deferred: list[str] = []
        for archive in pending:
            try:
                result = _one(work, root, archive, key, judge, wait and not deferred)
            except (OSError, LayoutError) as error:
                result = error
            if result is None:
                deferred.append(archive)
            else:
                found[archive] = result
        # what is left is being surveyed by others: the next round waits for the first of it
        wait, pending = len(deferred) == len(pending), deferred
    return found


def _one(work: Path, root: Path, archive: str, key: str, judge: Judge, wait: bool) -> pa.Table | None:
    status = os.stat(root / archive)
    about = json.dumps([archive, status.st_size, status.st_mtime_ns, key])
    target = work / f"shard-{hashlib.sha256(about.encode()).hexdigest()[:32]}.arrow"
    if not target.exists():
        work.mkdir(parents=True, exist_ok=True)
        with open(target.with_suffix(".lock"), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                return None
            if not target.exists():
                table = _survey(root / archive, judge)
                with atomic_path(target) as temporary, pa.ipc.new_file(temporary, table.schema) as out:
                    out.write_table(table)
    with pa.memory_map(str(target)) as source:
        return pa.ipc.open_file(source).read_all()


def _survey(path: Path, judge: Judge) -> pa.Table:
    rows: list[tuple[str, str, int, int, int, str | None, str | None, int]] = []
    try:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                images = file.read_row_group(number, columns=["image.bytes"]).column("image")
                for chunk in images.chunks:
                    for value in chunk.field("bytes"):
                        if value.is_valid:
                            data = value.as_py()
                            rows.append((*judge(data), len(data)))
                        else:
                            rows.append(("empty", "no bytes", -1, -1, -1, None, None, 0))
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise LayoutError(f"{path.name} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(SURVEY)
    return pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip(columns, SURVEY, strict=True)], schema=SURVEY
    )
