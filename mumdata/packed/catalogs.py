"""The catalogs of a packed dataset: those of the dataset itself, with what packing has changed.

In: a dataset's catalogs, and the indexes of its shards. Out: frames, sequences, scenes, covisibility and quarantine in
the packed folder. `mumdata.packed.frames` and `mumdata.packed.sequences` say what differs; covisibility has the same
rows, also those of frames that are not packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mumdata import catalog
from mumdata.catalog import Mix, MixDataset
from mumdata.packed.frames import images_of, rows_in_pieces, write_frames, write_quarantine
from mumdata.packed.index import ShardFiles
from mumdata.packed.plan import Chosen
from mumdata.packed.recode import Recoding
from mumdata.packed.sequences import keep_sequences, write_scenes, write_sequences
from mumdata.schema import COVISIBILITY, FRAMES, MIX, SEQUENCES

__all__ = ["Counts", "write_catalogs", "write_mix"]


@dataclass(frozen=True)
class Counts:
    """What the catalogs of one packed dataset hold.

    `num_frames` counts the packed frames, `num_images` their files, of which there may be fewer; bytes are those of
    these files, and of the shards. `broken` counts the files that could not be packed by reason.
    """

    name: str
    frames_digest: str
    sequences_digest: str
    covisibility_digest: str | None
    num_shards: int
    num_frames: int
    num_images: int
    num_sequences: int
    num_shortened: int
    num_lost: int
    broken: dict[str, int]
    bytes_before: int
    bytes_after: int


def write_catalogs(
    dataset: MixDataset, chosen: Chosen, shards: list[ShardFiles], folder: Path, how: Recoding
) -> Counts:
    """Write the catalogs of a packed dataset into its folder.

    Raises CatalogError where a catalog of the dataset is damaged or not of its frames, or where no sequence is left.
    """
    images = images_of(shards, chosen)
    kept = keep_sequences(dataset, images.is_packed)
    frames = write_frames(dataset, chosen, images, folder, how)
    covisibility = _write_covisibility(dataset, folder, frames)
    sequences = write_sequences(dataset, kept, folder, frames)
    write_scenes(dataset, kept, np.flatnonzero(chosen.used & ~images.is_packed), folder, frames, sequences)
    broken = write_quarantine(dataset, chosen, images, folder, frames)
    return Counts(
        name=dataset.name,
        frames_digest=frames,
        sequences_digest=sequences,
        covisibility_digest=covisibility,
        num_shards=len(shards),
        num_frames=int(np.count_nonzero(images.is_packed)),
        num_images=images.table.num_rows - images.table.column("offset").null_count,
        num_sequences=kept.table.num_rows,
        num_shortened=kept.num_shortened,
        num_lost=kept.num_lost,
        broken=broken,
        bytes_before=pc.sum(images.table.column("source_bytes")).as_py() or 0,
        bytes_after=sum(files.tar.stat().st_size for files in shards),
    )


def write_mix(source: Mix, out: Path, counts: list[Counts]) -> Path:
    """Write the mix of a packed copy, with the weights of its source, and the twins that training maps.

    `counts` are those of the source's datasets, in their order. Twins of an earlier copy are removed: its shards are
    gone as well.
    """
    rows: list[dict[str, Any]] = []
    inputs = {}
    for dataset, found in zip(source.datasets, counts, strict=True):
        name = dataset.name
        row = {"dataset": name, **vars(dataset)}
        row |= {"num_sequences": found.num_sequences, "num_frames": found.num_frames}
        for schema, digest in (
            (FRAMES, found.frames_digest),
            (SEQUENCES, found.sequences_digest),
            (COVISIBILITY, found.covisibility_digest),
        ):
            path = None if digest is None else f"{name}/{schema.file_name}"
            row |= {f"{schema.name}_path": path, f"{schema.name}_digest": digest}
            if digest is not None:
                inputs[f"{name}/{schema.name}"] = digest
        rows.append(row)
    columns = {name: [row[name] for row in rows] for name in MIX.columns.names}
    target = out / MIX.file_name
    parameters = {"holdout": source.parameters.get("holdout")}
    catalog.write(MIX, catalog.build(MIX, columns), target, inputs=inputs, parameters=parameters)
    for dataset in catalog.open_mix(target).datasets:
        catalog.map_frames(dataset)
        catalog.map_sequences(dataset)
        catalog.map_covisibility(dataset)
        catalog.remove_outdated_twins(dataset)
    return target


def _write_covisibility(dataset: MixDataset, folder: Path, frames_digest: str) -> str | None:
    source, target = dataset.covisibility, folder / COVISIBILITY.file_name
    if source is None:
        target.unlink(missing_ok=True)  # of an earlier copy
        return None
    footer = catalog.read_footer(COVISIBILITY, source)
    with catalog.Writer(COVISIBILITY, target) as out:
        for _, table in rows_in_pieces(COVISIBILITY, source):
            out.add(catalog.build(COVISIBILITY, {name: table.column(name) for name in COVISIBILITY.columns.names}))
        digest, _ = out.finish(
            inputs=footer.inputs | {"frames": frames_digest}, seed=footer.seed, parameters=footer.parameters
        )
    return digest
