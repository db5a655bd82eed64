"""`mumdata pack`: the images of a mix's sequences, once each and as small as training needs them, in a few large files.

In: a mix, and the files that its catalogs point to. Out: a folder with TAR shards and with catalogs that point into
them; training on its mix.parquet works as on the mix itself, on any machine that the folder is copied to.

    DIR/mix.parquet                              the same weights; written last, so that it names whole copies alone
    DIR/packed.json                              of which mix the copy is made, how, and how it is divided into shards
    DIR/<dataset>/{frames,sequences,scenes,covisibility,quarantine}.parquet, root.toml
    DIR/<dataset>/shards/<dataset>-000000.tar    images, about a gigabyte of them
    DIR/<dataset>/shards/<dataset>-000000.parquet    what is where in it, with checksums

The result is a function of the catalogs, the files and the options, for any number of workers. An interrupted run goes
on: shards that are whole, and were made from the same files as far as the catalog knows, stay. That a file was edited
is not noticed before `mumdata index` has seen it; then its shard alone is written anew. All shards are read back, and
the catalogs must still be those of the beginning, before mix.parquet is written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mumdata import catalog, engine, roots
from mumdata.catalog import Mix, MixDataset
from mumdata.correspondences_file import carry_correspondences
from mumdata.errors import CatalogError, ConfigError, MumError
from mumdata.files import remove_abandoned
from mumdata.index import check_name
from mumdata.packed.catalogs import Counts, write_catalogs, write_mix
from mumdata.packed.check import Verified, check_shards, total
from mumdata.packed.folder import Record, check_room, left_behind, owned, remove_others
from mumdata.packed.plan import Chosen, choose
from mumdata.packed.recode import Recoding
from mumdata.packed.sequences import check_scenes
from mumdata.packed.shard import Origin, ShardTask, absent_sources, is_finished, write_shard
from mumdata.packed.summary import Packed
from mumdata.packed.verify import verify_packed
from mumdata.schema import FRAMES, MIX

__all__ = ["Packed", "pack", "verify_packed"]

_LEAST_SIZE, _MOST_SIZE = 16, 16384

_TOLD = 5  # problems in a message


def pack(
    mix: Path,
    *,
    out: Path,
    size: int | str = 256,
    quality: int = 95,
    shard_gb: float = 1.0,
    workers: int | None = None,
) -> Packed:
    """Copy the images of a mix's sequences into shards under `out`, with catalogs and a mix that point into them.

    `size` is the pictures' short side in pixels, "full" copies files as they are; `mumdata.packed.recode` says how
    pictures are made smaller. `quality` is JPEG's, 1 to 100. `shard_gb` is how large a shard is, about, in gigabytes.
    Images that are not whole are left out and listed in quarantine.parquet, and their frames are taken out of the
    sequences. Depth maps and masks are not packed; correspondences of the mix, where there are any, come along. Shards
    that are damaged when they are read back are written once more.

    Raises ConfigError for options, and where `out` holds something else, a copy of another mix, or one made with other
    options; CatalogError where the mix or its catalogs do not belong together, or change meanwhile; LayoutError where a
    root is not known; MumError where the disk is too small or full, a file cannot be read, or what was written is not
    what is read back.
    """
    begun = time.monotonic()
    how = _recoding(size, quality)
    if not (math.isfinite(shard_gb) and shard_gb > 0):
        raise ConfigError(f"--shard-gb {shard_gb} is not a number above 0")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers} is not at least 1")
    mix, out = Path(mix), Path(out)
    source = catalog.open_mix(mix)
    origins = [_origin(dataset) for dataset in source.datasets]
    _check_apart(out, source, origins)
    for dataset in source.datasets:
        check_scenes(dataset)
    names = [dataset.name for dataset in source.datasets]
    with owned(out):
        with _unchanged(source):
            record = Record(out, how, shard_gb, mix, names)
            chosen = [choose(dataset) for dataset in source.datasets]
            plans = [record.tasks(*of) for of in zip(source.datasets, origins, chosen, strict=True)]
            shards = _shards(out, how, source, [task for tasks in plans for task in tasks], workers)
        with _unchanged(source):
            counts = [_catalogs(out, how, *of) for of in zip(source.datasets, chosen, plans, strict=True)]
        path = write_mix(source, out, counts)
        carry_correspondences(source, catalog.open_mix(path))
    left = tuple(left_behind(out, names))
    return Packed(path, how.size, how.quality, tuple(counts), *shards, left, time.monotonic() - begun)


def _recoding(size: int | str, quality: int) -> Recoding:
    if not 1 <= quality <= 100:
        raise ConfigError(f"--quality {quality} is not in 1 .. 100")
    if size == "full":
        return Recoding(None, None)
    try:
        pixels = int(size)
    except ValueError:
        pixels = 0
    if not _LEAST_SIZE <= pixels <= _MOST_SIZE:
        raise ConfigError(f"--size {size} is neither 'full' nor a number of pixels, {_LEAST_SIZE} to {_MOST_SIZE}")
    return Recoding(pixels, quality)


def _origin(dataset: MixDataset) -> Origin:
    check_name(dataset.name)  # it becomes a folder
    return Origin(dataset.name, catalog.dataset_root(dataset), catalog.frames_twin(dataset))


def _check_apart(out: Path, source: Mix, origins: list[Origin]) -> None:
    target = out.resolve()
    read = [source.path, *(dataset.frames for dataset in source.datasets), *(origin.root for origin in origins)]
    for path in read:
        if path.resolve().is_relative_to(target):
            raise ConfigError(f"{path}, which is to be packed, lies in {out} itself; choose another folder with -o")


@contextmanager
def _unchanged(source: Mix) -> Iterator[None]:
    """Read the catalogs of a mix; CatalogError where they are others afterwards, whatever else that has led to."""
    try:
        yield
    finally:
        try:
            now = catalog.open_mix(source.path).content_digest
        except CatalogError as error:
            raise CatalogError(f"{source.path} or its catalogs changed while it was packed: {error}") from error
        if now != source.content_digest:
            raise CatalogError(f"{source.path} changed while it was packed; run 'mumdata pack' again")


def _shards(
    out: Path, how: Recoding, source: Mix, tasks: list[ShardTask], workers: int | None
) -> tuple[Verified, int, int]:
    """Write the shards that are not there yet and read all of them back, those that are damaged being written again.

    Returns what was read, how many were there already and are whole, and how many were damaged.
    """
    for dataset in source.datasets:
        remove_abandoned(out / dataset.name)
        remove_abandoned(out / dataset.name / "shards")
    todo = [task for task in tasks if not is_finished(how, task)]
    check_room(out, sum(task.num_bytes for task in todo) + sum(map(_catalog_bytes, source.datasets)))
    _write(out, how, todo, workers)
    found = check_shards([task.files for task in tasks], how.size is None, workers)
    damaged = [number for number, one in enumerate(found) if one.problems]
    if damaged:
        _mend(out, how, [tasks[number] for number in damaged], workers)
        again = check_shards([tasks[number].files for number in damaged], how.size is None, workers)
        for number, one in zip(damaged, again, strict=True):
            found[number] = one
    verified = total(found)
    if verified.problems:
        raise MumError(f"{_some(verified.problems)}: written twice, and damaged; check the disk, or choose another")
    written = {id(task) for task in todo} | {id(tasks[number]) for number in damaged}
    return verified, len(tasks) - len(written), len(damaged)


def _write(out: Path, how: Recoding, tasks: list[ShardTask], workers: int | None) -> None:
    if tasks:
        # the catalogs of an earlier copy point into shards that are about to change
        (out / MIX.file_name).unlink(missing_ok=True)
        for _ in engine.each(partial(write_shard, how), tasks, workers, "packing", "shard"):
            pass


def _mend(out: Path, how: Recoding, tasks: list[ShardTask], workers: int | None) -> None:
    # a damaged shard may hold the last of files that are gone
    gone = [
        f"{task.files.tar} is damaged, and {len(absent):,} of its files are gone (the first: {absent[0]})"
        for task in tasks
        if (absent := absent_sources(task))
    ]
    if gone:
        raise MumError(f"{_some(gone)}; bring the files or whole shards back, or delete the shards, and run it again")
    _write(out, how, tasks, workers)


def _catalogs(out: Path, how: Recoding, dataset: MixDataset, chosen: Chosen, tasks: list[ShardTask]) -> Counts:
    shards, folder = [task.files for task in tasks], out / dataset.name
    remove_others(folder, shards)
    indexed_as = catalog.read_footer(FRAMES, dataset.frames).parameters.get("dataset", dataset.name)
    roots.remember_root(dataset.name, out, folder, str(indexed_as), relative=True)
    return write_catalogs(dataset, chosen, shards, folder, how)


def _catalog_bytes(dataset: MixDataset) -> int:
    files = [dataset.frames, dataset.sequences, *([dataset.covisibility] if dataset.covisibility else [])]
    return sum(path.stat().st_size for path in files)


def _some(problems: Sequence[str]) -> str:
    more = len(problems) - _TOLD
    return "; ".join([*problems[:_TOLD], *([f"and {more:,} more"] if more > 0 else [])])
