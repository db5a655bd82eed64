"""Which images of a dataset are packed, and into how many shards.

In: a dataset of a mix. Out: its sequences' frames, each file once, in the order in which they are read; and where one
shard ends and the next begins. The division depends on the catalogs, the files and the options alone, never on the
number of workers: shards are large, but a small dataset still has some for each of many workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mumdata import catalog
from mumdata.catalog import MixDataset
from mumdata.digest import content_digest
from mumdata.errors import CatalogError
from mumdata.packed.recode import Recoding
from mumdata.packed.shard import Origin, recode_some
from mumdata.schema import FRAMES, SEQUENCES
from mumdata.shard_tar import OVERHEAD

__all__ = ["Chosen", "choose", "divide", "estimate", "source_digests"]

# a dataset of images enough has at least this many shards, of at least so many images, however small they are: a
# shard is the work of one process
_SHARDS, _IMAGES = 32, 128

# images that are packed in memory, to know how large a packed one is
_SAMPLE = 32

# where none of them can be: bytes for each pixel
_BYTES_A_PIXEL = 0.5


@dataclass(frozen=True, eq=False)
class Chosen:
    """What is packed of a dataset.

    `used` bool [n] tells the frames of the mix's sequences; `first` int32 [n], for a used frame whose status is ok, the
    lowest used frame that is the same file, -1 for the others; `images` int32 [m], these lowest ones in the order in
    which they are packed.
    """

    used: np.ndarray
    first: np.ndarray
    images: np.ndarray


def choose(dataset: MixDataset) -> Chosen:
    """Find the frames of a dataset's sequences of at least the mix's `min_frames`.

    A photo that several sub-models register has a row in each; it is packed once. Images are packed in the order of
    the frames, so that the views of a sequence lie near each other; rows of Parquet shards, where a class lies
    scattered over all of them, are taken shard by shard, since reading one of them means reading its neighbours.
    """
    frames = catalog.read(FRAMES, dataset.frames, ["path", "archive", "codec", "offset", "status"])
    used = np.zeros(frames.num_rows, bool)
    used[_in_sequences(dataset, frames.num_rows)] = True
    ids = np.flatnonzero(used & _is(frames.column("status"), "ok"))
    rows = frames.take(pa.array(ids))
    archive = _codes(rows.column("archive"))
    file = _both(_both(archive, _codes(rows.column("path"))), _codes(rows.column("offset")))
    _, lowest, inverse = np.unique(file, return_index=True, return_inverse=True)
    first = np.full(frames.num_rows, -1, np.int32)
    first[ids] = ids[lowest][inverse]
    places = np.sort(lowest)
    in_parquet = _is(rows.column("codec"), "parquet")[places]
    row = rows.column("offset").fill_null(0).to_numpy()[places]
    order = np.lexsort((places, np.where(in_parquet, row, 0), np.where(in_parquet, archive[places], 0)))
    return Chosen(used, first, ids[places[order]].astype(np.int32))


def estimate(how: Recoding, origin: Origin, dataset: MixDataset, images: np.ndarray) -> np.ndarray:
    """Return how many bytes each image will take in a shard, about: float64 [m].

    Images that stay as they are have the size that the catalog gives. Of others, and where it gives none or that of
    packed bytes, some are packed to see.
    """
    if how.size is None:
        rows = catalog.read(FRAMES, dataset.frames, ["bytes", "codec"]).take(pa.array(images))
        if not rows.column("bytes").null_count and "deflate" not in rows.column("codec").unique().to_pylist():
            return rows.column("bytes").to_numpy().astype(np.float64) + OVERHEAD
    if not len(images):
        return np.empty(0)
    some = images[np.linspace(0, len(images) - 1, min(_SAMPLE, len(images))).round().astype(np.int64)]
    sizes = [len(image.data) for image in recode_some(how, origin, some) if image is not None]
    mean = math.fsum(sizes) / len(sizes) if sizes else _BYTES_A_PIXEL * (how.size or 1024) ** 2
    return np.full(len(images), mean + OVERHEAD)


def divide(sizes: np.ndarray, shard_bytes: float) -> list[int]:
    """Divide images with these sizes into shards of equal bytes, about: the end of each, none of them empty."""
    if not len(sizes):
        return []
    total = math.fsum(sizes.tolist())
    # no more than there are images, however small a shard is to be
    num = max(math.ceil(min(total / shard_bytes, len(sizes))), min(_SHARDS, len(sizes) // _IMAGES), 1)
    middles = np.cumsum(sizes) - sizes / 2
    shard = np.minimum((middles * (num / total)).astype(np.int64), num - 1)
    begins = np.flatnonzero(np.diff(shard, prepend=-1))
    return [*begins[1:].tolist(), len(sizes)]


def source_digests(dataset: MixDataset, images: np.ndarray, ends: list[int]) -> list[str]:
    """Return a digest for each shard, of images [begin, end), of what the catalog knows of its files.

    That is where their bytes lie and how many they are, and a hash of them or else when the file changed last: a file
    that was edited has another digest as soon as it was indexed again, also where its size is the same.
    """
    known = ["path", "archive", "codec", "offset", "bytes", "content_hash", "mtime_ns"]
    table = catalog.read(FRAMES, dataset.frames, known)
    has_hash = pc.is_valid(table.column("content_hash"))
    changed_ns = pc.if_else(has_hash, pa.scalar(None, pa.int64()), table.column("mtime_ns"))
    table = table.drop_columns("mtime_ns").append_column("changed_ns", changed_ns)  # digests leave out mtime_ns
    return [
        content_digest(table.take(pa.array(images[begin:end]))) for begin, end in zip([0, *ends], ends, strict=False)
    ]


def _in_sequences(dataset: MixDataset, num_frames: int) -> np.ndarray:
    table = catalog.read(SEQUENCES, dataset.sequences, ["frames", "num_frames"])
    enough = table.column("num_frames").to_numpy() >= dataset.min_frames
    ids = table.filter(pa.array(enough)).column("frames").combine_chunks().flatten().to_numpy()
    if len(ids) and not 0 <= ids.min() <= ids.max() < num_frames:
        raise CatalogError(f"{dataset.sequences} names frames that {dataset.frames} does not hold; run 'mumdata mix'")
    return np.unique(ids)


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    # int64: equal values have equal numbers, null is 0
    plain = column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
    encoded = plain.combine_chunks().dictionary_encode()
    indices = encoded.combine_chunks().indices if isinstance(encoded, pa.ChunkedArray) else encoded.indices
    numbers: np.ndarray = pc.add(indices, 1).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


def _both(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    # int64: equal pairs have equal numbers, fewer than there are rows
    numbers: np.ndarray = np.unique(one * (other.max(initial=0) + 1) + other, return_inverse=True)[1]
    return numbers


def _is(column: pa.ChunkedArray, value: str) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.equal(column.cast(pa.string()), value), False), bool)
