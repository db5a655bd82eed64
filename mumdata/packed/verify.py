"""A packed copy checked: is all of it there, and what it was when it was written?

In: the folder of a packed copy. Out: what is wrong with it, in words, or nothing: the record of packing, the catalogs
against their digests, the frames against the shards, twins, and the shards as `mumdata.packed.check` reads them back.
What is wrong names the file; packing again, or a new copy, mends any of it, so a dataset's own commands are not named.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mumdata import catalog
from mumdata.catalog import PACKED_RECORD, MixDataset
from mumdata.digest import ContentDigest
from mumdata.errors import CatalogError, ConfigError, MumError
from mumdata.packed.check import Verified, check_shards, total
from mumdata.packed.folder import read_whole_record
from mumdata.packed.frames import rows_in_pieces
from mumdata.packed.index import COLUMNS, ShardFiles, read_index
from mumdata.schema import COVISIBILITY, FRAMES, MIX, QUARANTINE, SCENES, SEQUENCES, Schema

__all__ = ["verify_packed"]

_ARCHIVE = re.compile(r"shards/(.+)-(\d{6,})\.tar")


def verify_packed(folder: Path, *, workers: int | None = None) -> Verified:
    """Check a packed copy: the record of packing, catalogs against their digests, frames against shards, all bytes.

    Arrow twins that lie beside the catalogs are compared with these; temporary files take as much room as the largest
    of them. What is damaged or gone is told in `Verified.problems`. Raises CatalogError where the folder, which may be
    named by its mix, holds no packed copy, or one that is not packed to the end.
    """
    folder = Path(folder)
    path = folder if folder.name == MIX.file_name else folder / MIX.file_name
    problems = [*_check_catalog(MIX, path)]
    datasets = _datasets(path, problems)
    sizes = {size for dataset in datasets for size in _size(dataset)}
    record, damage = _record(path.with_name(PACKED_RECORD), sizes)
    problems += damage
    shards: list[ShardFiles] = []
    for dataset in datasets:
        found, files = _check_dataset(dataset, record)
        problems += found
        shards += files
    # where nothing tells the size any more, images may be as they were before
    read = total(check_shards(shards, "full" in sizes or not sizes, workers))
    return replace(read, problems=(*problems, *read.problems))


def _datasets(path: Path, problems: list[str]) -> list[MixDataset]:
    # none where the mix has a problem; CatalogError where there is no copy
    begun = catalog.is_packed(path)
    if begun and not path.exists():
        raise CatalogError(
            f"{path.parent} is not packed to the end yet; run the 'mumdata pack' command that made it again: it goes on"
        )
    if problems and not begun:
        raise CatalogError(f"{path.parent} holds no packed copy ({problems[0]}); make one with 'mumdata pack'")
    datasets = [] if problems else [_dataset(path, row) for row in catalog.read(MIX, path).to_pylist()]
    if not begun and not any(_size(dataset) for dataset in datasets):
        raise CatalogError(f"{path} is not of a packed copy; make one with 'mumdata pack'")
    return datasets


def _dataset(path: Path, row: dict[str, Any]) -> MixDataset:
    # as `catalog.open_mix` gives it, whose first problem would hide the others
    names = {field.name for field in fields(MixDataset)}
    values = {name: value for name, value in row.items() if name in names}
    for schema in (FRAMES, SEQUENCES, COVISIBILITY):
        place = row[f"{schema.name}_path"]
        values[schema.name] = None if place is None else path.parent / place
    return MixDataset(name=row["dataset"], catalog=values["frames"].parent, **values)


def _size(dataset: MixDataset) -> list[Any]:
    # what the frames say of it: nothing where they are damaged, or not packed
    try:
        parameters = catalog.read_footer(FRAMES, dataset.frames).parameters
    except CatalogError:
        return []
    return [parameters["packed_size"]] if "packed_size" in parameters else []


def _record(path: Path, sizes: set[Any]) -> tuple[dict[str, Any], list[str]]:
    # what the record says of each dataset's shards, and what is wrong with it
    try:
        record = read_whole_record(path)
    except ConfigError as error:
        return {}, [str(error)]
    if any(size != record["size"] for size in sizes):
        return {}, [f"{path} is damaged: the frames are not of the size {record['size']}"]
    return record["shards"], []


def _check_dataset(dataset: MixDataset, record: dict[str, Any]) -> tuple[list[str], list[ShardFiles]]:
    # what is wrong but in the shards, and the shards
    problems = [*_check_root(dataset), *_check_catalogs(dataset)]
    root = dataset.catalog if problems else catalog.dataset_root(dataset)
    ends = record[dataset.name]["ends"] if dataset.name in record else None
    numbers = set(range(len(ends or [])))
    if problems:  # what is to be compared with a damaged catalog says nothing
        return problems, [ShardFiles(root, dataset.name, number) for number in sorted(numbers)]
    archives = catalog.read(FRAMES, dataset.frames, ["archive"]).column("archive").unique().drop_null().to_pylist()
    for archive in archives:
        match = _ARCHIVE.fullmatch(archive)
        if match is None or match[1] != dataset.name:
            return [f"{dataset.frames} is not of a packed copy ({archive})"], []
        numbers.add(int(match[2]))
    shards = [ShardFiles(root, dataset.name, number) for number in sorted(numbers)]
    problems += [*_check_division(dataset, shards, ends), *_check_frames(dataset, shards), *_check_twins(dataset)]
    return problems, shards


def _check_root(dataset: MixDataset) -> Iterator[str]:
    path = dataset.catalog / "root.toml"
    if not path.exists():
        yield f"{path} does not exist"
        return
    try:
        catalog.dataset_root(dataset)
    except MumError:
        yield f"{path} is damaged: it does not say where the shards are"


def _check_catalogs(dataset: MixDataset) -> Iterator[str]:
    yield from _check_catalog(FRAMES, dataset.frames, dataset.frames_digest)
    yield from _check_catalog(SEQUENCES, dataset.sequences, dataset.sequences_digest)
    if dataset.covisibility is not None:
        yield from _check_catalog(COVISIBILITY, dataset.covisibility, dataset.covisibility_digest)
    yield from _check_catalog(SCENES, dataset.catalog / SCENES.file_name)
    quarantine = dataset.catalog / QUARANTINE.file_name
    if quarantine.exists():  # which only people read
        yield from _check_catalog(QUARANTINE, quarantine)


def _check_catalog(schema: Schema, path: Path, digest: str | None = None) -> Iterator[str]:
    # every row of it, against its own digest and the one that the mix knows
    found = ContentDigest(schema.columns)
    try:
        written = catalog.read_footer(schema, path).content_digest
        for _, table in rows_in_pieces(schema, path):
            found.update(table)
    except CatalogError as error:
        # the command that is named makes the catalog of the dataset itself
        yield str(error).removesuffix(f"; run '{schema.command.format(dataset=path.parent.name)}'")
    else:
        if {found.hexdigest(), written} != {digest or written}:
            yield f"{path} is damaged: its rows are not those that were written"


def _check_division(dataset: MixDataset, shards: list[ShardFiles], ends: list[int] | None) -> Iterator[str]:
    # are the shards those of the record? A dataset that it does not hold is divided once more
    if ends is None:
        return
    sizes = dict(enumerate(np.diff(ends, prepend=0).tolist()))
    for files in shards:
        with suppress(CatalogError):  # which is said of the shard
            if read_index(files).num_rows != sizes.get(files.number):
                path = dataset.catalog.parent / PACKED_RECORD
                yield f"{path} is damaged: {files.archive} of {dataset.name} holds other images than it says"
                return


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
