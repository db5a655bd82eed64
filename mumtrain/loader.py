"""From a sampler's batches to the views of each slot, decoded ahead of the training step.

In: a sampler, frames on disk, a Config. Out: slots in the order asked for, their uint8 views, and what was wrong with
which image; the same for any number of processes, since every view is a function of (seed, step, slot, position).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mumdata import rng
from mumdata.catalog import Mix, dataset_root, frames_twin
from mumdata.errors import MumError
from mumtrain.config import Config
from mumtrain.reading.frames import FrameTable
from mumtrain.reading.ring import check_ring, no_ring, ring_shape
from mumtrain.reading.worker import DONE, Job, Problem, ViewReader
from mumtrain.reading.workers import Workers, num_workers
from mumtrain.sampler import Batch, Sampler

__all__ = ["BadFrame", "Loaded", "Loader", "Slots", "open_frames"]

# other sequences that are tried in the place of one without a single readable image
MAX_ATTEMPTS = 8

# how long one look for results waits
_WAIT_S = 0.1

# after how long a wait it is told which images are not coming
_SLOW_S = 60.0

logger = logging.getLogger(__name__)


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
    """The views of a slot, uint8 [B, V, 3, S, S] with channels last in memory, and their batch.

    `views` are a part of the loader's ring: they are valid until the loader is asked for the slot after the next.
    `frames`, int32 [B, V, 2], says which image each view shows, as (dataset, frame_id): what the batch drew, or what
    took the place of an image that could not be read. That may be any frame of the same sequence, so it can lie outside
    of the window or beyond the overlap that the rules of `data` ask for; the same image again; or another sequence's.
    """

    batch: Batch
    views: np.ndarray
    frames: np.ndarray
    num_read: int = 0
    bad: list[BadFrame] = field(default_factory=list)


class Loader:
    """Loads slots with `data.workers` processes; `close` it, or use it in a `with`, to end them.

    `ring` is the memory of the views, uint8 [buffers, frames_per_slot, S, S, 3].
    """

    def __init__(
        self, sampler: Sampler, frames: Sequence[FrameTable], config: Config, *, workers: int | None = None
    ) -> None:
        """`workers` replaces `data.workers`: 0 decodes in this process when a slot is asked for, -1 is automatic.

        Raises ConfigError where there is not the memory for the ring.
        """
        if workers is not None:
            config = replace(config, data=replace(config.data, workers=workers))
        self.sampler, self.frames, self.config = sampler, tuple(frames), config
        num = num_workers(config)
        # slots queued ahead, the one that is given out, and the one before, which may still be on its way to the device
        self.ahead = config.data.prefetch if num else 0
        buffers = self.ahead + 2
        self._reader = ViewReader(frames, config)
        self._workers = Workers(frames, config, num=num, buffers=buffers) if num else None
        if self._workers is not None:
            self.ring = self._workers.ring
        else:
            check_ring(config, buffers)
            try:
                self.ring = np.empty(ring_shape(config, buffers), np.uint8)
            except MemoryError as error:
                raise no_ring(config, buffers, error) from error
        self._slots: Slots | None = None
        self._num_jobs = 0
        self._jobs: dict[int, _Queued] = {}

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The numbers of the decoding processes."""
        return self._workers.pids if self._workers is not None else []

    def close(self) -> None:
        """End the processes, wherever they are; may be called again. Views that were given out stay readable."""
        self._slots = None
        if self._workers is not None:
            self._workers.close()

    def load(self, keys: Iterable[tuple[int, int]]) -> Slots:
        """Return an iterator over the slots (step, slot) in order, which ends the one before."""
        self._jobs.clear()
        if self._workers is not None:
            self._workers.drain()
        self._slots = Slots(self, keys)
        return self._slots

    # ---- what Slots ask for

    def queue(self, batch: Batch, buffer: int) -> _Queued:
        """Have a batch decoded into a buffer of the ring."""
        queued = _Queued(batch, buffer)
        if self._workers is None:
            return queued
        frames = _frames_of(batch).reshape(-1, 2)
        for first in range(0, len(frames), self._workers.frames_per_job):
            self._num_jobs += 1
            some = frames[first : first + self._workers.frames_per_job]
            job = Job(self._num_jobs, batch.step, batch.slot, batch.views, buffer, first, some)
            queued.firsts[job.number] = first
            self._jobs[job.number] = queued
            self._workers.submit(job)
        return queued

    def listen(self, timeout_s: float) -> None:
        """Take the workers' results, waiting for some for at most a time."""
        if self._workers is None:
            return
        try:
            results = self._workers.results(timeout_s)
        except BaseException:
            self.close()
            raise
        for result in results:
            queued = self._jobs.get(result.job)
            if queued is None:
                continue
            if result.kind == DONE:
                del self._jobs[result.job]
                queued.num_done += 1
            else:
                reason, _, detail = result.text.partition("\n")
                queued.problems[queued.firsts[result.job] + result.place] = Problem(reason, detail)

    def collect(self, queued: _Queued) -> Loaded:
        """Wait for a batch, and put other images in the places of those that cannot be read."""
        batch = queued.batch
        B, V = len(batch.sequences), batch.views
        flat = self.ring[queued.buffer, : B * V]
        views = flat.reshape(B, V, *flat.shape[1:]).transpose(0, 1, 4, 2, 3)
        loaded = Loaded(batch, views, _frames_of(batch))
        if self._workers is None:
            for position in range(B * V):
                drawn = batch.sequences[position // V]
                frame_id = int(drawn.frame_ids[position % V])
                if problem := self._read(batch, position, drawn.dataset, frame_id, flat):
                    queued.problems[position] = problem
        since = time.monotonic()
        while not queued.is_done:
            self.listen(_WAIT_S)
            if time.monotonic() - since > _SLOW_S and self._workers is not None:
                since = time.monotonic()
                logger.warning(
                    "step %d: waiting for slot %d for %d seconds; a disk may hang; workers are at %s",
                    *(batch.step + 1, batch.slot, _SLOW_S, "; ".join(self._workers.images()) or "nothing"),
                )
        loaded.num_read = B * V
        for number in sorted({position // V for position in queued.problems}):
            self._repair(loaded, flat, number, queued.problems)
        return loaded

    def _repair(self, loaded: Loaded, flat: np.ndarray, number: int, problems: dict[int, Problem]) -> None:
        # first the sequence's other frames in a hashed order, each once; then its good ones again, each with a crop of
        # its own; a sequence without a single good frame gives way to another one
        batch, V = loaded.batch, loaded.batch.views
        drawn, first = batch.sequences[number], number * V
        is_bad = []
        for view, frame_id in enumerate(drawn.frame_ids.tolist()):
            problem = problems.get(first + view)
            is_bad.append(problem is not None)
            if problem is not None:
                loaded.bad.append(self._bad_frame(batch, first + view, drawn.dataset, frame_id, problem))
        for attempt in range(1, MAX_ATTEMPTS + 1):
            key = rng.key(self.config.seed, batch.step, batch.slot, number, "substitute", attempt)
            taken = set(drawn.frame_ids.tolist())
            all_frames = self.sampler.tables[drawn.dataset].frames(drawn.sequence)
            fresh = [int(f) for f in all_frames[rng.permutation(key, len(all_frames))] if int(f) not in taken]
            good = [f for f, bad in zip(drawn.frame_ids.tolist(), is_bad, strict=True) if not bad]
            for view in range(V):
                while is_bad[view] and fresh:
                    candidate = fresh.pop(0)
                    is_bad[view] = self._try(loaded, flat, first + view, drawn.dataset, candidate)
                    if not is_bad[view]:
                        good.append(candidate)
                if is_bad[view] and good:
                    is_bad[view] = self._try(loaded, flat, first + view, drawn.dataset, good[view % len(good)])
            if not any(is_bad):
                return
            is_single = self.sampler.tables[drawn.dataset].single_view
            drawn = self.sampler.draw(batch.step, batch.slot, number, V, is_single, attempt)
            is_bad = [
                self._try(loaded, flat, first + view, drawn.dataset, frame_id)
                for view, frame_id in enumerate(drawn.frame_ids.tolist())
            ]
            if not any(is_bad):
                return
        names = list(dict.fromkeys(f"{bad.dataset}: {bad.path}" for bad in loaded.bad))
        raise MumError(
            f"step {batch.step + 1}: {MAX_ATTEMPTS} sequences tried, no readable image in them; check the roots and "
            f"the files, e.g. with 'mumdata index NAME --verify decode': {'; '.join(names[:5])}"
        )

    def _try(self, loaded: Loaded, flat: np.ndarray, position: int, dataset: int, frame_id: int) -> bool:
        # read a substitute here; True where it is bad as well
        loaded.num_read += 1
        loaded.frames[position // loaded.batch.views, position % loaded.batch.views] = dataset, frame_id
        problem = self._read(loaded.batch, position, dataset, frame_id, flat)
        if problem is not None:
            loaded.bad.append(self._bad_frame(loaded.batch, position, dataset, frame_id, problem))
        return problem is not None

    def _read(self, batch: Batch, position: int, dataset: int, frame_id: int, flat: np.ndarray) -> Problem | None:
        return self._reader.read(
            dataset,
            frame_id,
            flat[position],
            step=batch.step,
            slot=batch.slot,
            position=position,
            views=batch.views,
        )

    def _bad_frame(self, batch: Batch, position: int, dataset: int, frame_id: int, problem: Problem) -> BadFrame:
        table = self.frames[dataset]
        frame = table.frame(frame_id)
        return BadFrame(
            table.name,
            frame.archive,
            frame.path,
            problem.reason,
            problem.detail,
            batch.step + 1,
            batch.slot,
            position,
        )


def open_frames(mix: Mix) -> list[FrameTable]:
    """Map the frames of a mix's datasets, in their order; LayoutError where a root is not known."""
    return [FrameTable.open(dataset.name, dataset_root(dataset), frames_twin(dataset)) for dataset in mix.datasets]


def _frames_of(batch: Batch) -> np.ndarray:
    # what a batch drew, int32 [B, V, 2]: dataset and frame_id
    frames = np.empty((len(batch.sequences), batch.views, 2), np.int32)
    for of_sequence, drawn in zip(frames, batch.sequences, strict=True):
        of_sequence[:, 0], of_sequence[:, 1] = drawn.dataset, drawn.frame_ids
    return frames


@dataclass
class _Queued:
    """A batch on its way: its jobs' first positions, how many are done, and the images that were bad."""

    batch: Batch
    buffer: int
    firsts: dict[int, int] = field(default_factory=dict)
    num_done: int = 0
    problems: dict[int, Problem] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        return self.num_done == len(self.firsts)


class Slots(Iterator[Loaded]):
    """The slots of some keys in their order, `data.prefetch` of them queued ahead of the one asked for."""

    def __init__(self, loader: Loader, keys: Iterable[tuple[int, int]]) -> None:
        self._loader, self._keys = loader, iter(keys)
        self._queue: deque[_Queued] = deque()
        self._num_queued = 0

    def __next__(self) -> Loaded:
        """Return the next slot.

        Raises MumError for an image that cannot be read although it is there, where all images that were tried in the
        place of a broken one are broken as well, and where a worker has died.
        """
        loader = self._loader
        if loader._slots is not self:
            raise RuntimeError("the loader was closed, or loads something else by now")
        while len(self._queue) <= loader.ahead and (key := next(self._keys, None)) is not None:
            buffer = self._num_queued % len(loader.ring)
            self._queue.append(loader.queue(loader.sampler.batch(*key), buffer))
            self._num_queued += 1
        if not self._queue:
            raise StopIteration
        return loader.collect(self._queue.popleft())

    def is_ready(self) -> bool:
        """Tell whether the next slot is decoded already, so that asking for it would not wait."""
        self._loader.listen(0.0)
        return bool(self._queue) and self._loader.ahead > 0 and self._queue[0].is_done
