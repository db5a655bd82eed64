"""One shard written: what every worker of a packing run does.

In: which frames of a dataset, and where its files lie. Out: a TAR file with each image once, and its index. The bytes
depend on the frames' files and on how they are recoded alone. Images go from their files into the shard in one process.

A member is called `<dataset>_<frame_id>` and the ending of its kind, so that members are told apart over all datasets,
and no name found on a disk becomes one here. There is nothing else in a shard: frames.parquet, joined by frame_id,
tells more of an image than a file beside it would, and takes less room.
"""

from __future__ import annotations

import hashlib
import json
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import mumdata
from mumdata import catalog
from mumdata.errors import CatalogError, DecodeError, MumError, TruncatedError
from mumdata.files import atomic_path, inside
from mumdata.images import read_encoded
from mumdata.packed.index import COLUMNS, ShardFiles, read_index, read_made_by, remove_index, write_index
from mumdata.packed.recode import Recoded, Recoding, recode
from mumdata.shard_tar import TarWriter

__all__ = [
    "Origin",
    "ShardTask",
    "absent_sources",
    "is_finished",
    "made_by",
    "member_name",
    "recode_some",
    "write_shard",
]

# pauses before a file that could not be read for reasons other than its content is tried again
_RETRY_PAUSES_S = (0.05, 0.25, 1.0)

# goes up whenever the same files give other shards
_FORMAT = 2

# of a dataset's name in that of a member, and of the digest that stands for what is left out
_NAME_LENGTH, _DIGEST_LENGTH = 64, 8


@dataclass(frozen=True)
class Origin:
    """Where a dataset's images are read from: its name, its root, and the Arrow twin of its frames."""

    name: str
    root: Path
    twin: Path


@dataclass(frozen=True, eq=False)
class ShardTask:
    """A shard: where it is written, its frames (int32 [n]) in the order of its members, its bytes as estimated.

    `sources` is a digest of what the catalog knows of the files that it is made from.
    """

    origin: Origin
    files: ShardFiles
    frame_ids: np.ndarray
    sources: str
    num_bytes: float


def write_shard(how: Recoding, task: ShardTask) -> None:
    """Write a shard and its index.

    An image that is not there or is not whole is a row of the index with its status. Raises MumError where a file
    cannot be read for another reason, or the shard cannot be written.
    """
    remove_index(task.files)
    rows: dict[str, list[Any]] = {name: [] for name in COLUMNS.names}
    with _one_thread(), atomic_path(task.files.tar) as temporary, open(temporary, "wb", buffering=1 << 20) as file:
        shard = TarWriter(file)
        for frame_id, source in zip(task.frame_ids.tolist(), _sources(task.origin, task.frame_ids), strict=True):
            row = _packed(how, task.origin, frame_id, source, shard)
            for name, values in rows.items():
                values.append(row.get(name))
        num_bytes = shard.close()
    write_index(task.files, rows, made_by(how, task), num_bytes)


def is_finished(how: Recoding, task: ShardTask) -> bool:
    """Tell whether a shard is there that need not be written again: made from the same, by the same.

    Images that could not be packed are tried once more: files that were missing may have come. Other files are not
    looked at: that one has been edited is known when 'mumdata index' has seen it.
    """
    if read_made_by(task.files) != made_by(how, task):
        return False
    try:
        index = read_index(task.files)
    except CatalogError:
        return False
    broken = index.filter(pc.not_equal(index.column("status"), "ok")).column("frame_id").to_numpy()
    return not any(recode_some(how, task.origin, broken))


def made_by(how: Recoding, task: ShardTask) -> str:
    """Return a digest of all that decides a shard's content, so that a finished one is known again.

    Of the files it holds what the catalog knows, not their bytes.
    """
    about = [_FORMAT, mumdata.__version__, task.origin.name, task.sources, how.size, how.quality]
    digest = hashlib.sha256(json.dumps(about).encode())
    digest.update(task.frame_ids.astype("<i4").tobytes())
    return digest.hexdigest()


def recode_some(how: Recoding, origin: Origin, frame_ids: np.ndarray) -> list[Recoded | None]:
    """Return what frames become, None for those that cannot be packed; errors as of `write_shard`."""
    found: list[Recoded | None] = []
    with _one_thread():
        for source in _sources(origin, frame_ids):
            try:
                found.append(recode(_read(origin, source), how))
            except (DecodeError, FileNotFoundError):
                found.append(None)
    return found


def absent_sources(task: ShardTask) -> list[str]:
    """Return the paths of images that a shard holds, as far as its index can be read, whose files are gone."""
    held = task.frame_ids
    with suppress(CatalogError):
        index = read_index(task.files)
        held = index.filter(pc.equal(index.column("status"), "ok")).column("frame_id").to_numpy()
    sources = _sources(task.origin, held)
    return [source["path"] for source in sources if not _file(task.origin, source).is_file()]


def member_name(dataset: str, frame_id: int, suffix: str) -> str:
    """Return a member's name: its part before the first dot, which WebDataset calls the key, is this frame's alone."""
    key = dataset
    if "." in dataset or len(dataset) > _NAME_LENGTH:
        digest = hashlib.sha256(dataset.encode()).hexdigest()[:_DIGEST_LENGTH]
        key = f"{dataset.replace('.', '_')[: _NAME_LENGTH - _DIGEST_LENGTH - 1]}-{digest}"
    return f"{key}_{frame_id:09d}{suffix}"


def _packed(how: Recoding, origin: Origin, frame_id: int, source: dict[str, Any], shard: TarWriter) -> dict[str, Any]:
    try:
        data = _read(origin, source)
        if not data:
            return {"frame_id": frame_id, "status": "empty", "detail": "0 bytes"}
        image = recode(data, how)
    except FileNotFoundError:
        return {"frame_id": frame_id, "status": "missing", "detail": "no such file"}
    except DecodeError as error:
        status = "truncated" if isinstance(error, TruncatedError) else "unreadable"
        return {"frame_id": frame_id, "status": status, "detail": str(error)}
    name = member_name(origin.name, frame_id, image.suffix)
    return {
        "frame_id": frame_id,
        "status": "ok",
        "member": name,
        "offset": shard.add(name, image.data),
        "bytes": len(image.data),
        "sha256": hashlib.sha256(image.data).hexdigest(),
        "width": image.width,
        "height": image.height,
        "traits": ",".join(image.traits) or None,
        "source_bytes": len(data),
    }


def _sources(origin: Origin, frame_ids: np.ndarray) -> list[dict[str, Any]]:
    columns = ["path", "archive", "codec", "offset", "bytes"]
    rows: list[dict[str, Any]] = catalog.map_twin(origin.twin).select(columns).take(pa.array(frame_ids)).to_pylist()
    return rows


def _file(origin: Origin, source: dict[str, Any]) -> Path:
    return inside(origin.root, source["archive"] or source["path"])


def _read(origin: Origin, source: dict[str, Any]) -> bytes:
    """Return a file's bytes; DecodeError and FileNotFoundError pass, any other OSError that stays is a MumError.

    A root that has gone is an error of that kind, too: a disk that failed, not a missing image.
    """
    in_archive, file = source["archive"] is not None, _file(origin, source)
    for pause in (*_RETRY_PAUSES_S, None):
        try:
            if not stat.S_ISREG(file.stat().st_mode):
                raise DecodeError("a folder, a pipe or a device is in its place")  # a pipe would be waited for
            return read_encoded(
                origin.root,
                source["path"],
                archive=source["archive"],
                codec=source["codec"],
                # a file of its own is read whole: it may have been replaced since it was indexed
                offset=source["offset"] if in_archive else None,
                num_bytes=source["bytes"] if in_archive else None,
            )
        except OSError as error:
            if isinstance(error, (FileNotFoundError, NotADirectoryError)) and origin.root.is_dir():
                raise FileNotFoundError(source["path"]) from error
            if pause is None:
                raise MumError(
                    f"cannot read {source['archive'] or source['path']} of {origin.name} under {origin.root}: "
                    f"{error.strerror or error}; check the disk or mount, then run the command again: it goes on"
                ) from error
            time.sleep(pause)
    raise AssertionError("unreachable")


@contextmanager
def _one_thread() -> Iterator[None]:
    # there is a process for each CPU
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
