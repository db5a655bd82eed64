"""A packed copy read back: is every image where the catalogs say, and what it was when it was written?

In: the folder of a packed copy. Out: what is wrong with it, in words, or nothing. Shards are read with Python's own TAR
reader, which knows nothing of how they were written, and checked against their indexes byte for byte; some images of
each are decoded the way that training does.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mumdata import catalog, engine
from mumdata.catalog import MixDataset
from mumdata.digest import ContentDigest
from mumdata.errors import CatalogError, DecodeError, MumError
from mumdata.images import read_image
from mumdata.packed.frames import rows_in_pieces
from mumdata.packed.index import COLUMNS, ShardFiles, read_index, read_num_bytes
from mumdata.schema import COVISIBILITY, FRAMES, MIX, SEQUENCES

__all__ = ["Verified", "check_shards", "total", "verify_packed"]

# images of a shard that are decoded: the first, the last, and some between
_DECODED = 16

_ARCHIVE = re.compile(r"shards/(.+)-(\d{6,})\.tar")


@dataclass(frozen=True)
class Verified:
    """What was read back, and what is wrong: a line for each shard or catalog that is not as it should be.

    Images are decoded on trial, `num_decoded` of them.
    """

    num_shards: int
    num_images: int
    num_bytes: int
    num_decoded: int
    problems: tuple[str, ...]
    num_undecodable: int = 0  # of files that were copied as they are: so they were before

    def lines(self) -> list[str]:
        """Return the summary."""
        shards = f"{self.num_shards:,} shard{'' if self.num_shards == 1 else 's'}"
        images = f"{self.num_images:,} images of {self.num_bytes:,} bytes in all"
        read = f"{shards} read back: {images} (the rest is TAR headers and padding)"
        lines = [read, *self.problems]
        if not self.problems:
            lines = [f"{read}; checksums agree, {self.num_decoded:,} images decoded"]
        if self.num_undecodable:
            lines.append(
                f"{self.num_undecodable:,} more were tried that cannot be decoded, and were like that before; "
                "'mumdata index NAME --verify decode' finds all such files"
            )
        return lines


def verify_packed(folder: Path, *, workers: int | None = None) -> Verified:
    """Check a packed copy: the catalogs against their digests, the frames against the shards, the shards byte by byte.

    Arrow twins that lie beside the catalogs are compared with these; temporary files take as much room as the largest
    of them. What is damaged is told in `Verified.problems`. Raises CatalogError where the folder, which may be named by
    its mix, holds no packed copy, or one whose catalogs do not belong together.
    """
    folder = Path(folder)
    mix = catalog.open_mix(folder if folder.name == MIX.file_name else folder / MIX.file_name)
    problems: list[str] = []
    shards: list[ShardFiles] = []
    is_full = False
    for dataset in mix.datasets:
        is_full |= _size(dataset) == "full"
        files = _shards_of(dataset)
        # what is to be compared with a damaged catalog says nothing
        found = [*_check_digests(dataset)] or [*_check_frames(dataset, files), *_check_twins(dataset)]
        problems += found
        shards += files
    read = total(check_shards(shards, is_full, workers))
    return replace(read, problems=(*problems, *read.problems))


def check_shards(shards: list[ShardFiles], is_full: bool, workers: int | None = None) -> list[Verified]:
    """Read shards back and compare them with their indexes: one result for each.

    `is_full` tells that they hold files as they are, of which not every one was decoded before it was packed.
    """
    return list(engine.each(partial(_check_shard, is_full), shards, workers, "reading back", "shard"))


def total(results: list[Verified]) -> Verified:
    """Return what some results are together."""
    return Verified(
        len(results),
        sum(result.num_images for result in results),
        sum(result.num_bytes for result in results),
        sum(result.num_decoded for result in results),
        tuple(problem for result in results for problem in result.problems),
        sum(result.num_undecodable for result in results),
    )


# ---- shards


def _check_shard(is_full: bool, files: ShardFiles) -> Verified:
    num_images = num_bytes = num_decoded = num_undecodable = 0
    problems: tuple[str, ...] = ()
    try:
        index = read_index(files)
        expected = index.filter(pc.equal(index.column("status"), "ok")).to_pylist()
        to_decode = set(np.linspace(0, max(0, len(expected) - 1), _DECODED).astype(np.int64).tolist())
        with tarfile.open(files.tar, "r:") as tar:
            for number, entry in enumerate(tar):
                if number >= len(expected):
                    raise MumError(f"it holds {entry.name}, which its index does not")
                wanted = expected[number]
                found = {"member": entry.name, "offset": entry.offset_data, "bytes": entry.size}
                if not entry.isreg() or any(found[name] != wanted[name] for name in found):
                    raise MumError(f"member {number} is not the one of its index ({entry.name}, {wanted['member']})")
                content = tar.extractfile(entry)
                assert content is not None
                if hashlib.sha256(content.read()).hexdigest() != wanted["sha256"]:
                    raise MumError(f"{entry.name} is damaged: its bytes are not those that were written")
                num_images, num_bytes = num_images + 1, num_bytes + entry.size
                if number in to_decode:
                    is_image = _can_be_decoded(files, wanted, is_full)
                    num_decoded, num_undecodable = num_decoded + is_image, num_undecodable + (not is_image)
        if num_images < len(expected):
            raise MumError(f"it ends after {num_images} of {len(expected)} images")
        _check_end(files, expected)
    except (MumError, OSError, tarfile.TarError) as error:
        problems = (f"{files.tar}: {error}",)
    return Verified(1, num_images, num_bytes, num_decoded, problems, num_undecodable)


def _check_end(files: ShardFiles, images: list[dict[str, Any]]) -> None:
    # zeros from the last image on, as many as were written
    last = images[-1]["offset"] + images[-1]["bytes"] if images else 0
    with files.tar.open("rb") as file:
        size, wanted = file.seek(0, os.SEEK_END), read_num_bytes(files)
        if size != wanted:
            raise MumError(f"it has {size:,} bytes, not the {wanted:,} that were written")
        file.seek(last)
        if any(file.read()):
            raise MumError("the end of the archive is damaged")


def _can_be_decoded(files: ShardFiles, row: dict[str, Any], is_full: bool) -> bool:
    # as training reads it; what was decoded when it was packed must be an image
    try:
        image = read_image(
            files.root,
            row["member"],
            archive=files.archive,
            codec="stored",
            offset=row["offset"],
            num_bytes=row["bytes"],
        )
    except DecodeError:
        if is_full:
            return False
        raise
    if image.shape[:2] != (row["height"], row["width"]):
        size = f"{image.shape[1]} x {image.shape[0]}"
        raise MumError(f"{row['member']} is {size}, its index says {row['width']} x {row['height']}")
    return True


# ---- catalogs


def _check_digests(dataset: MixDataset) -> Iterator[str]:
    for schema, path, digest in (
        (FRAMES, dataset.frames, dataset.frames_digest),
        (SEQUENCES, dataset.sequences, dataset.sequences_digest),
        (COVISIBILITY, dataset.covisibility, dataset.covisibility_digest),
    ):
        if path is None:
            continue
        found = ContentDigest(schema.columns)
        try:
            for _, table in rows_in_pieces(schema, path):
                found.update(table)
        except CatalogError as error:
            yield str(error)
        else:
            if found.hexdigest() != digest:
                yield f"{path} is damaged: its rows are not those that were written"


def _check_twins(dataset: MixDataset) -> Iterator[str]:
    try:
        with tempfile.TemporaryDirectory(prefix="mumdata-") as scratch:
            for path in catalog.damaged_twins(dataset, Path(scratch)):
                yield f"{path} is damaged; delete it, it is built anew when it is needed"
    except OSError as error:
        raise MumError(
            f"the twins of {dataset.name} cannot be compared: {error.strerror or error}; set TMPDIR to a folder with "
            "more room"
        ) from error


def _size(dataset: MixDataset) -> Any:
    parameters = catalog.read_footer(FRAMES, dataset.frames).parameters
    if "packed_size" not in parameters:
        raise CatalogError(f"{dataset.frames} is not of a packed copy; make one with 'mumdata pack'")
    return parameters["packed_size"]


def _shards_of(dataset: MixDataset) -> list[ShardFiles]:
    root = catalog.dataset_root(dataset)
    archives = catalog.read(FRAMES, dataset.frames, ["archive"]).column("archive").unique().drop_null().to_pylist()
    shards = []
    for archive in sorted(archives):
        match = _ARCHIVE.fullmatch(archive)
        if match is None or match[1] != dataset.name:
            raise CatalogError(f"{dataset.frames} is not of a packed copy ({archive}); make one with 'mumdata pack'")
        shards.append(ShardFiles(root, dataset.name, int(match[2])))
    return shards


def _check_frames(dataset: MixDataset, shards: list[ShardFiles]) -> Iterator[str]:
    # every frame of a sequence is packed, and every packed frame is an image of an index
    frames = catalog.read(FRAMES, dataset.frames, ["archive", "offset", "bytes", "content_hash", "status"])
    is_packed = np.asarray(pc.is_valid(frames.column("archive")), bool)
    is_ok = np.asarray(pc.equal(frames.column("status").cast(pa.string()), "ok"), bool)
    sequences = catalog.read(SEQUENCES, dataset.sequences, ["frames"])
    ids = sequences.column("frames").combine_chunks().flatten().to_numpy()
    if len(ids) and not (ids.max() < len(is_packed) and (is_packed & is_ok)[ids].all()):
        yield f"{dataset.sequences} names frames that are not packed"
    try:
        indexes = [read_index(files) for files in shards]
    except CatalogError:
        return  # which is said of the shard
    index = pa.concat_tables([COLUMNS.empty_table(), *indexes])
    if not is_packed.any() or not index.num_rows:
        return
    number_of = {files.archive: number for number, files in enumerate(shards)}
    of_index = _places(np.repeat(np.arange(len(indexes)), [table.num_rows for table in indexes]), index)
    rows = frames.filter(pa.array(is_packed))
    archives = rows.column("archive").combine_chunks()
    numbers = np.array([number_of[archive] for archive in archives.dictionary.to_pylist()], np.int64)
    of_frames = _places(numbers[archives.indices.to_numpy()], rows)
    order = np.argsort(of_index, kind="stable")
    found = order[np.minimum(np.searchsorted(of_index[order], of_frames), len(order) - 1)]
    agrees = of_index[found] == of_frames
    for name, there in (("bytes", "bytes"), ("content_hash", "sha256")):
        same = pc.equal(rows.column(name), index.column(there).take(pa.array(found)))
        agrees &= np.asarray(same.fill_null(False), bool)
    if not agrees.all():
        row = rows.slice(int(np.flatnonzero(~agrees)[0]), 1).to_pylist()[0]
        yield f"{dataset.frames}: {row['archive']} has no such image at byte {row['offset']}"


def _places(shard: np.ndarray, rows: pa.Table) -> np.ndarray:
    # one number for a shard and an offset in it, for shards below a terabyte
    offset: np.ndarray = rows.column("offset").fill_null(-1).to_numpy()
    return (shard.astype(np.int64) << 40) + offset
