"""Shards read back: is every image where its index says, and what it was when it was written?

In: shards and their indexes. Out: what is wrong with them, in words, or nothing. Shards are read with Python's own TAR
reader, which knows nothing of how they were written, and checked against their indexes byte for byte; some images of
each are decoded the way that training does.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mumdata import engine
from mumdata.errors import DecodeError, MumError
from mumdata.images import read_image
from mumdata.packed.index import ShardFiles, read_index, read_num_bytes

__all__ = ["Verified", "check_shards", "total"]

# images of a shard that are decoded: the first, the last, and some between
_DECODED = 16


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
    except FileNotFoundError:
        problems = (f"{files.tar} does not exist",)
    except OSError as error:
        problems = (f"{files.tar} cannot be read: {error.strerror or error}",)
    except (MumError, tarfile.TarError) as error:
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
