"""What a packing run tells in the end.

In: what was written and read back. Out: lines of text, and the next command.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from mumdata.packed.catalogs import Counts
from mumdata.packed.check import Verified
from mumdata.shard_tar import OVERHEAD

__all__ = ["Packed"]


@dataclass(frozen=True)
class Packed:
    """What a packing run made: the new mix, what each dataset holds, and how long it took.

    `size` is the short side in pixels, None for files as they are. `num_kept` shards were there already, `num_mended`
    were damaged when they were read back and are written anew. `left` are folders of datasets that the mix has not.
    """

    path: Path
    size: int | None
    quality: int | None
    datasets: tuple[Counts, ...]
    verified: Verified
    num_kept: int
    num_mended: int
    left: tuple[Path, ...]
    seconds: float

    @property
    def num_frames(self) -> int:
        """Frames that are packed, over all datasets."""
        return sum(counts.num_frames for counts in self.datasets)

    @property
    def num_images(self) -> int:
        """Images that are packed: frames that are the same file are packed once."""
        return sum(counts.num_images for counts in self.datasets)

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
        num_shards = sum(counts.num_shards for counts in self.datasets)
        kept = f" ({self.num_kept:,} of them there already)" if self.num_kept else ""
        lines = [line for counts in self.datasets for line in _told(counts, self.path.parent)]
        lines.append(
            f"{_images(self.num_images, self.num_frames)} {how}: {_bytes(self.bytes_before, self.bytes_after)}"
        )
        if self.bytes_after > self.bytes_before:
            lines.append(f"  the files are small already, and in a shard each takes some {OVERHEAD} bytes more")
        lines.append(
            f"{_count(num_shards, 'shard')}{kept} in {_duration(self.seconds)}; depth maps and masks are not packed"
        )
        if self.num_mended:
            lines.append(f"  damaged, and written anew: {_count(self.num_mended, 'shard')}")
        lines += [
            f"note: {path} is of a dataset that the mix does not hold any more; delete it, or leave it for a later mix"
            for path in self.left
        ]
        return [*lines, *self.verified.lines(), f"next: mumtrain pretrain {shlex.quote(str(self.path))}"]


def _told(counts: Counts, folder: Path) -> list[str]:
    line = (
        f"{counts.name}: {_images(counts.num_images, counts.num_frames)}, {_count(counts.num_sequences, 'sequence')}, "
        f"{_bytes(counts.bytes_before, counts.bytes_after)}"
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


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _images(num_images: int, num_frames: int) -> str:
    if num_images == num_frames:
        return _count(num_images, "image")
    return f"{_count(num_images, 'image')} ({num_frames:,} frames, some of the same file)"


def _bytes(before: int, after: int) -> str:
    share = f" ({after / before:.0%})" if before else ""
    return f"{_in_units(before)} of files -> {_in_units(after)} of shards{share}"


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
