"""From frames on disk to the views of a slot.

In: a batch of frame ids. Out: uint8 views [B, V, 3, S, S], masks, and what was wrong with which file.
Decoding runs in threads, some slots ahead; crops and mirrors are functions of (seed, step, slot, position).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mumdata import rng
from mumdata.errors import DecodeError, MumError
from mumdata.images import read_image
from mumtrain.config import Config
from mumtrain.crops import crop_box, cut, reduction
from mumtrain.masking import Masks, draw_masks
from mumtrain.sampler import Batch, Drawn, Sampler

__all__ = ["FrameTable", "BadFrame", "Loaded", "Loader"]

# pauses before an image that could not be read for reasons other than its content is tried again
RETRY_PAUSES_S = (0.05, 0.25, 1.0)

# other sequences that are tried in the place of one without a single readable image
MAX_ATTEMPTS = 8


@dataclass(frozen=True)
class FrameTable:
    """The frames of one dataset: where each one's bytes are, and its stored size where it is known."""

    name: str
    root: Path
    table: pa.Table

    def row(self, frame_id: int) -> dict[str, Any]:
        """Return one frame's columns as Python values."""
        return {name: self.table.column(name)[frame_id].as_py() for name in _COLUMNS}


_COLUMNS = ("path", "archive", "offset", "bytes", "codec", "width", "height", "upright_quarter_turns")


@dataclass(frozen=True)
class BadFrame:
    """An image that could not be used, in the words of the quarantine catalog, and where it was drawn."""

    dataset: str
    archive: str | None
    path: str
    reason: str
    detail: str
    step: int
    slot: int
    position: int


@dataclass
class Loaded:
    """The views of a slot, ready for the model: uint8 [B, V, 3, S, S], their masks, and the batch they come from."""

    batch: Batch
    views: np.ndarray
    masks: Masks
    num_read: int = 0
    bad: list[BadFrame] = field(default_factory=list)


class Loader:
    """Decodes the batches of a sampler in threads; `close` it, or use it in a `with`, to end them."""

    def __init__(self, sampler: Sampler, frames: Sequence[FrameTable], config: Config, *, workers: int) -> None:
        self.sampler, self.frames, self.config = sampler, tuple(frames), config
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; what is still waiting to be decoded is dropped."""
        self._pool.shutdown(cancel_futures=True)

    def load(self, keys: Iterable[tuple[int, int]]) -> Iterator[Loaded]:
        """Yield the slots (step, slot) in order, decoding `data.prefetch` of them ahead.

        Raises MumError for an image that cannot be read although it is there, and where all images that were tried in
        the place of a broken one are broken as well.
        """
        waiting: deque[tuple[Batch, list[Future[np.ndarray | BadFrame]]]] = deque()
        for step, slot in keys:
            batch = self.sampler.batch(step, slot)
            waiting.append((batch, self._submit(batch)))
            if len(waiting) > self.config.data.prefetch:
                yield self._collect(*waiting.popleft())
        while waiting:
            yield self._collect(*waiting.popleft())

    def _submit(self, batch: Batch) -> list[Future[np.ndarray | BadFrame]]:
        return [
            self._pool.submit(self._view, batch, position, drawn.dataset, int(drawn.frame_ids[position % batch.views]))
            for position in range(len(batch.sequences) * batch.views)
            for drawn in (batch.sequences[position // batch.views],)
        ]

    def _collect(self, batch: Batch, futures: list[Future[np.ndarray | BadFrame]]) -> Loaded:
        data, V = self.config.data, batch.views
        views = np.empty((len(batch.sequences), V, 3, data.size, data.size), np.uint8)
        masks = draw_masks(
            self.config.mask,
            len(batch.sequences),
            V,
            (data.size // self.config.model.patch) ** 2,
            seed=self.config.seed,
            step=batch.step,
            slot=batch.slot,
        )
        loaded = Loaded(batch, views, masks, num_read=len(futures))
        for number, drawn in enumerate(batch.sequences):
            results = [future.result() for future in futures[number * V : (number + 1) * V]]
            loaded.bad += [result for result in results if isinstance(result, BadFrame)]
            whole = _whole(results) or self._repair(loaded, number, drawn, results)
            for view, image in enumerate(whole):
                views[number, view] = np.moveaxis(image, 2, 0)
        return loaded

    def _repair(
        self, loaded: Loaded, number: int, drawn: Drawn, results: list[np.ndarray | BadFrame]
    ) -> list[np.ndarray]:
        # first the sequence's other frames in a hashed order, each once; then its good ones again, each with a crop of
        # its own; a sequence without a single good frame gives way to another one
        batch = loaded.batch
        for attempt in range(1, MAX_ATTEMPTS + 1):
            key = rng.key(self.config.seed, batch.step, batch.slot, number, "substitute", attempt)
            taken = set(drawn.frame_ids.tolist())
            all_frames = self.sampler.tables[drawn.dataset].frames(drawn.sequence)
            fresh = [int(f) for f in all_frames[rng.permutation(key, len(all_frames))] if int(f) not in taken]
            pairs = zip(drawn.frame_ids.tolist(), results, strict=True)
            good = [frame_id for frame_id, result in pairs if not isinstance(result, BadFrame)]
            for view, result in enumerate(results):
                position = number * batch.views + view
                while isinstance(result, BadFrame) and fresh:
                    candidate = fresh.pop(0)
                    result = self._tried(loaded, position, drawn.dataset, candidate)
                    if not isinstance(result, BadFrame):
                        good.append(candidate)
                if isinstance(result, BadFrame) and good:
                    result = self._tried(loaded, position, drawn.dataset, good[view % len(good)])
                results[view] = result
            if whole := _whole(results):
                return whole
            is_single = self.sampler.tables[drawn.dataset].single_view
            drawn = self.sampler.draw(batch.step, batch.slot, number, batch.views, is_single, attempt)
            results = [
                self._tried(loaded, number * batch.views + view, drawn.dataset, int(frame_id))
                for view, frame_id in enumerate(drawn.frame_ids)
            ]
            if whole := _whole(results):
                return whole
        names = list(dict.fromkeys(f"{bad.dataset}: {bad.path}" for bad in loaded.bad))
        raise MumError(
            f"step {batch.step + 1}: {MAX_ATTEMPTS} sequences tried, no readable image in them; check the roots and "
            f"the files, e.g. with mumdata verify: {'; '.join(names[:5])}"
        )

    def _tried(self, loaded: Loaded, position: int, dataset: int, frame_id: int) -> np.ndarray | BadFrame:
        result = self._view(loaded.batch, position, dataset, frame_id)
        loaded.num_read += 1
        if isinstance(result, BadFrame):
            loaded.bad.append(result)
        return result

    def _view(self, batch: Batch, position: int, dataset: int, frame_id: int) -> np.ndarray | BadFrame:
        # decode, crop and mirror one frame: uint8 [S, S, 3]
        data, seed = self.config.data, self.config.seed
        frames = self.frames[dataset]
        row = frames.row(frame_id)
        turns = row["upright_quarter_turns"] or 0
        key = rng.key(seed, batch.step, batch.slot, position, "view")
        width, height = row["width"], row["height"]
        if turns % 2:
            width, height = height, width
        reduce = 1
        if width and height:
            reduce = reduction(crop_box(data.crop, width, height, key), data.size)
        try:
            image = _read_patiently(frames, row, turns, reduce)
        except (DecodeError, FileNotFoundError) as error:
            missing = isinstance(error, FileNotFoundError)
            return BadFrame(
                dataset=frames.name,
                archive=row["archive"],
                path=row["path"],
                reason="missing" if missing else "unreadable",
                detail="no such file" if missing else str(error),
                step=batch.step + 1,
                slot=batch.slot,
                position=position,
            )
        if not (width and height):
            height, width = image.shape[:2]
        view = cut(image, crop_box(data.crop, width, height, key), (width, height), data.size)
        return view[:, ::-1] if self._mirrored(batch, position) else view

    def _mirrored(self, batch: Batch, position: int) -> bool:
        if self.config.data.mirror == "none":
            return False
        if self.config.data.mirror == "per_sequence":
            position -= position % batch.views  # the sequence's first view draws for all
        word = rng.words(rng.key(self.config.seed, batch.step, batch.slot, position, "mirror"), 1)
        return bool(rng.below(word, 2)[0])


def _whole(results: list[np.ndarray | BadFrame]) -> list[np.ndarray] | None:
    # the images, where all of them are images
    images = [result for result in results if not isinstance(result, BadFrame)]
    return images if len(images) == len(results) else None


def _read_patiently(frames: FrameTable, row: dict[str, Any], turns: int, reduce: int) -> np.ndarray:
    """Read one frame; what fails for other reasons than its content is tried again after a pause.

    Lets DecodeError and FileNotFoundError pass; any other OSError that stays is a MumError naming file and root, as is
    a root that has gone: that is a disk that failed, not a bad image.
    """
    for pause in (*RETRY_PAUSES_S, None):
        try:
            return read_image(
                frames.root,
                row["path"],
                archive=row["archive"],
                codec=row["codec"],
                # a file of its own is read whole: it may have been replaced since it was indexed
                offset=row["offset"] if row["archive"] else None,
                num_bytes=row["bytes"] if row["archive"] else None,
                quarter_turns=turns,
                reduce=reduce,
            )
        except OSError as error:
            if isinstance(error, FileNotFoundError) and frames.root.is_dir():
                raise
            if pause is None:
                raise MumError(
                    f"cannot read {row['archive'] or row['path']} of {frames.name} under {frames.root}: "
                    f"{error.strerror or error}; check the disk or mount, then continue with --resume"
                ) from error
            time.sleep(pause)
    raise AssertionError("unreachable")
