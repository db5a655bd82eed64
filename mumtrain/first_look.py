"""A look at the images of a mix before the first step: a root that is not there is found now, not in an hour.

In: a sampler and the frames of its datasets. Out: nothing, or an error that names the root.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mumdata import rng
from mumdata.errors import LayoutError
from mumdata.files import inside
from mumtrain.reading.frames import FrameTable
from mumtrain.sampler import Sampler

__all__ = ["check_files"]

# images of each dataset that are looked for; some may be missing, all of them are not
_NUM = 16


def check_files(sampler: Sampler, frames: Sequence[FrameTable]) -> None:
    """Raise LayoutError for a dataset of which none of some images is where its root says."""
    for number, table in enumerate(frames):
        if sampler.tables[number].weight <= 0:
            continue
        if not table.root.is_dir():
            raise LayoutError(
                f"{table.name}: its root {table.root} is not there; mount it, or set MUM_ROOT_{table.name.upper()} to "
                "where it is now"
            )
        places = list(_places(sampler, number, table))
        if not any(inside(table.root, place).exists() for place in places):
            raise LayoutError(
                f"{table.name}: none of {len(places)} images looked for is under its root {table.root} (the first: "
                f"{places[0]}); mount it, or set MUM_ROOT_{table.name.upper()} to where they are now"
            )


def _places(sampler: Sampler, number: int, table: FrameTable) -> Iterator[str]:
    # frames of some sequences, drawn by hash; archives where the frames lie in such
    sequences = sampler.tables[number]
    drawn = rng.words(rng.key("first look", table.name), 2 * _NUM)
    for row, place in zip(rng.below(drawn[:_NUM], len(sequences.lengths)), drawn[_NUM:], strict=True):
        ids = sequences.frames(int(row))
        frame = table.frame(int(ids[int(rng.below(np.array([place]), len(ids))[0])]))
        yield frame.archive or frame.path
