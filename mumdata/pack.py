"""`mumdata pack`: the images of a mix's sequences, once each and as small as training needs them, in a few large files.

In: a mix, and the files that its catalogs point to. Out: a folder with TAR shards and with catalogs that point into
them; training on its mix.parquet works as on the mix itself, on any machine that the folder is copied to.

    DIR/mix.parquet                              the same weights; written last, so that it names whole copies alone
    DIR/packed.json                              how the copy was made, and how images are divided into shards
    DIR/<dataset>/{frames,sequences,scenes,covisibility,quarantine}.parquet, root.toml
    DIR/<dataset>/shards/<dataset>-000000.tar    images, about a gigabyte of them
    DIR/<dataset>/shards/<dataset>-000000.parquet    what is where in it, with checksums

The result is a function of the catalogs, the files and the options, for any number of workers. An interrupted run goes
on: shards that are whole, and were made from the same frames, stay. Everything is read back before mix.parquet is
written.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mumdata import catalog, engine, roots
from mumdata.catalog import Mix, MixDataset
from mumdata.errors import ConfigError, MumError
from mumdata.files import remove_abandoned
from mumdata.index import check_name
from mumdata.packed.catalogs import Counts, write_catalogs, write_mix
from mumdata.packed.check import Verified, check_shards, verify_packed
from mumdata.packed.folder import Record, check_room, owned, remove_others
from mumdata.packed.plan import choose
from mumdata.packed.recode import Recoding
from mumdata.packed.shard import Origin, ShardTask, is_finished, write_shard
from mumdata.schema import FRAMES, MIX

__all__ = ["Packed", "pack", "verify_packed"]

_LEAST_SIZE, _MOST_SIZE = 16, 16384


@dataclass(frozen=True)
class Packed:
    """What a packing run made: the new mix, what each dataset holds, and how long it took.

    `size` is the short side in pixels, None for files as they are. `num_kept` shards were there already.
    """

    path: Path
    size: int | None
    quality: int | None
    datasets: tuple[Counts, ...]
    verified: Verified
    num_kept: int
    seconds: float

    @property
    def num_frames(self) -> int:
        """Frames that are packed, over all datasets."""
        return sum(counts.num_frames for counts in self.datasets)

    @property
    def bytes_before(self) -> int:
        """Bytes of the files that were packed."""
        return sum(counts.bytes_before for counts in self.datasets)

    @property
    def bytes_after(self) -> int:
        """Bytes of the shards."""
        return sum(counts.bytes_after for counts in self.datasets)

    def lines(self) -> list[str]:
        """Return the summary, a line for each dataset and then the whole."""
        how = "as they are" if self.size is None else f"short side {self.size}, JPEG quality {self.quality}"
        share = f" ({self.bytes_after / self.bytes_before:.0%})" if self.bytes_before else ""
        num_shards = sum(counts.num_shards for counts in self.datasets)
        kept = f" ({self.num_kept:,} were there already)" if self.num_kept else ""
        return [
            *(line for counts in self.datasets for line in _told(counts, self.path.parent)),
            f"{self.num_frames:,} frames {how}: {_in_units(self.bytes_before)} -> {_in_units(self.bytes_after)}{share}",
            f"{num_shards:,} shards{kept} in {_duration(self.seconds)}; depth maps and masks are not packed",
            *self.verified.lines(),
            f"train on {self.path}",
        ]


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
    sequences. Depth maps and masks are not packed.

    Raises ConfigError for options, and where `out` holds something else or a copy made with other ones; CatalogError
    where the mix or its catalogs do not belong together; LayoutError where a root is not known; MumError where the disk
    is too small or full, a file cannot be read, or what was written is not what is read back.
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
    with owned(out):
        record = Record(out, how, shard_gb)
        chosen = [choose(dataset) for dataset in source.datasets]
        plans = [record.tasks(*of) for of in zip(source.datasets, origins, chosen, strict=True)]
        num_kept = _write_shards(out, how, source, plans, workers)
        counts = []
        for dataset, one, tasks in zip(source.datasets, chosen, plans, strict=True):
            shards, folder = [task.files for task in tasks], out / dataset.name
            remove_others(folder, shards)
            indexed_as = catalog.read_footer(FRAMES, dataset.frames).parameters.get("dataset", dataset.name)
            roots.remember_root(dataset.name, out, folder, str(indexed_as), relative=True)
            counts.append(write_catalogs(dataset, one, shards, folder, how))
        verified = check_shards([task.files for tasks in plans for task in tasks], how.size is None, workers)
        if verified.problems:
            raise MumError(f"{verified.problems[0]}; delete it and run the command again (the disk may be failing)")
        path = write_mix(mix, out, counts)
    return Packed(path, how.size, how.quality, tuple(counts), verified, num_kept, time.monotonic() - begun)


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
    return Origin(dataset.name, catalog.dataset_root(dataset), dataset.frames_digest, catalog.frames_twin(dataset))


def _check_apart(out: Path, source: Mix, origins: list[Origin]) -> None:
    target = out.resolve()
    read = [source.path, *(dataset.frames for dataset in source.datasets), *(origin.root for origin in origins)]
    for path in read:
        if path.resolve().is_relative_to(target):
            raise ConfigError(f"{path}, which is to be packed, lies in {out} itself; choose another folder with -o")


def _write_shards(out: Path, how: Recoding, source: Mix, plans: list[list[ShardTask]], workers: int | None) -> int:
    """Write the shards that are not there yet, and return how many are."""
    for dataset in source.datasets:
        remove_abandoned(out / dataset.name)
        remove_abandoned(out / dataset.name / "shards")
    todo = [task for tasks in plans for task in tasks if not is_finished(how, task)]
    check_room(out, sum(task.num_bytes for task in todo) + sum(map(_catalog_bytes, source.datasets)))
    if todo:
        # the catalogs of an earlier copy point into shards that are about to change
        (out / MIX.file_name).unlink(missing_ok=True)
        for _ in engine.each(partial(write_shard, how), todo, workers, "packing", "shard"):
            pass
    return sum(map(len, plans)) - len(todo)


def _catalog_bytes(dataset: MixDataset) -> int:
    files = [dataset.frames, dataset.sequences, *([dataset.covisibility] if dataset.covisibility else [])]
    return sum(path.stat().st_size for path in files)


def _told(counts: Counts, folder: Path) -> list[str]:
    line = (
        f"{counts.name}: {counts.num_frames:,} frames of {counts.num_sequences:,} sequences, "
        f"{_in_units(counts.bytes_before)} -> {_in_units(counts.bytes_after)}"
    )
    if not counts.broken:
        return [line]
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in counts.broken.items())
    return [
        line,
        f"  {sum(counts.broken.values()):,} images could not be packed ({reasons}); they are listed in "
        f"{folder / counts.name / 'quarantine.parquet'}",
        f"  {counts.num_shortened:,} sequences are shorter without them, {counts.num_lost:,} are gone",
    ]


def _in_units(num_bytes: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
