"""The views of held-out frames: plain, the same at every measurement.

In: frames of a mix. Out: their largest centred squares, upright, uint8, and where in the stored frames these are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mumdata.errors import DecodeError
from mumdata.headers import read_header
from mumtrain.cross_view.held_out import Sample
from mumtrain.cross_view.patches import Crop
from mumtrain.reading.crops import on_grid, resized, shrinkage, square_box, stored_box
from mumtrain.reading.decode import decode_box
from mumtrain.reading.frames import FrameTable

__all__ = ["SampleViews", "read_square_view"]

# views of samples beyond this many bytes are decoded each time that they are needed
_MOST_BYTES = 1 << 29


def read_square_view(data: bytes, turns: int, size: int) -> tuple[np.ndarray, Crop]:
    """Decode the largest centred square of an image, upright and resized: uint8 RGB [S, S, 3], and where it is.

    DecodeError where the data is no whole image.
    """
    header = read_header(lambda at, num: data[at : at + num], len(data))
    width, height = header.width, header.height
    upright = (width, height) if turns % 2 == 0 else (height, width)
    box = stored_box(square_box(*upright), width, height, turns)
    step = shrinkage(box, size)
    box = on_grid(box, width, height, step)
    view = np.rot90(resized(decode_box(data, header, box, step), size), -turns)
    left, top, box_width, box_height = box
    return view, Crop(left / width, top / height, box_width / width, box_height / height, turns % 4)


class SampleViews:
    """Reads the first views of samples, and keeps them as far as memory allows."""

    def __init__(
        self, frames: Sequence[FrameTable], size: int, num_views: int, *, most_bytes: int = _MOST_BYTES
    ) -> None:
        self._frames, self._size, self._num_views = frames, size, num_views
        self._room = most_bytes
        self._kept: dict[int, tuple[np.ndarray, list[Crop]]] = {}
        # what is wrong with the samples of which an image cannot be used, by their numbers
        self.problems: dict[int, str] = {}

    def read(self, sample: Sample) -> tuple[np.ndarray, list[Crop]] | None:
        """Return the views of a sample, uint8 [V, 3, S, S], and what they show; None where an image cannot be used.

        Raises MumError where the disk fails.
        """
        if sample.number in self.problems:
            return None
        if sample.number in self._kept:
            return self._kept[sample.number]
        table, views, crops = self._frames[sample.dataset], [], []
        for frame_id in sample.frame_ids[: self._num_views].tolist():
            frame = table.frame(frame_id)
            try:
                view, crop = read_square_view(table.read_patiently(frame), frame.turns, self._size)
            except (FileNotFoundError, DecodeError) as error:
                why = "no such file" if isinstance(error, FileNotFoundError) else str(error)
                self.problems[sample.number] = f"{sample.scene.dataset}: {frame.path}: {why}"
                return None
            views.append(view.transpose(2, 0, 1))
            crops.append(crop)
        found = np.stack(views), crops
        if found[0].nbytes <= self._room:
            self._room -= found[0].nbytes
            self._kept[sample.number] = found
        return found
