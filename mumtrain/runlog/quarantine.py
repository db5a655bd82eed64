"""The images that a run could not use: RUN/quarantine-<rank>.jsonl.

In: what the loader met. Out: a line for each file, once, and an error where there are too many.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from mumdata.errors import MumError
from mumtrain.config import DataConfig
from mumtrain.loader import BadFrame
from mumtrain.runlog.lines import append_line, keep_lines

__all__ = ["Quarantine"]


class Quarantine:
    """Lists the broken images that one process met."""

    def __init__(self, run: Path, rank: int, start: int) -> None:
        """Lines of steps beyond `start` are dropped: they are written again."""
        self.path = run / f"quarantine-{rank}.jsonl"
        self._told = {(line["dataset"], line["archive"], line["path"]) for line in keep_lines(self.path, start)}

    def add(self, bad: Iterable[BadFrame]) -> None:
        """Write the images that are met for the first time."""
        for frame in bad:
            key = (frame.dataset, frame.archive, frame.path)
            if key not in self._told:
                self._told.add(key)
                append_line(self.path, {**dataclasses.asdict(frame), "found_by": "train"})

    def check(self, bad_frames: int, frames_read: int, data: DataConfig) -> None:
        """Raise MumError naming the files where the share of broken images exceeds `data.bad_frame_rate`."""
        if frames_read < data.bad_frame_grace or bad_frames <= data.bad_frame_rate * frames_read:
            return
        names = sorted(
            f"{dataset}: {path}" + (f" in {archive}" if archive else "") for dataset, archive, path in self._told
        )
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise MumError(
            f"{bad_frames} of {frames_read} images read are broken or missing, more than "
            f"data.bad_frame_rate={data.bad_frame_rate:g} allows: {'; '.join(names[:5])}{more}; all of them stand "
            f"in {self.path}"
        )
