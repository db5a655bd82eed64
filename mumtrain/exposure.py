"""The exposure ledger: which sequences a run has drawn and which frames it has shown, how often.

In: what the loader gave out, step by step, on every rank. Out: RUN/exposure/steps-<first>-<last>.parquet, the visits of
these steps, which add up over the files; `mumdata.visits` reads them.

The trainer writes the visits of the steps since the last file before it writes the checkpoint of the last of them, and
on resuming drops those after the checkpoint: so at each checkpoint the files hold its steps, each once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mumdata import catalog
from mumdata.catalog import Mix
from mumdata.files import remove_abandoned
from mumdata.schema import EXPOSURE
from mumdata.visits import ExposureFile, all_exposure_files, exposure_files, exposure_path, missing_steps
from mumtrain.loader import Loaded

__all__ = ["Ledger", "Tally", "Visits", "compact_exposure", "drop_exposure_after", "write_exposure"]

# files of a run before they become one
MAX_FILES = 64

_ROWS = 1 << 17  # that are given to the writer at once


class Tally(NamedTuple):
    """How often each of some sequences or frames was visited: arrays of one length, sorted by dataset and number.

    `dataset` (int32) counts the mix's datasets; `number` (int32) is a sequence or a frame_id; `visits` is int64.
    """

    dataset: np.ndarray
    number: np.ndarray
    visits: np.ndarray


@dataclass(frozen=True)
class Visits:
    """What one process has read: the sequences it drew and the frames it showed; `names` are the mix's datasets."""

    names: tuple[str, ...]
    sequences: Tally
    frames: Tally


class Ledger:
    """Collects what one process reads until it is taken. Adding a slot copies its ids; counting is left to `take`."""

    def __init__(self, names: Sequence[str]) -> None:
        """`names` are the mix's datasets, in its order."""
        self.names = tuple(names)
        self._slots: list[tuple[int, np.ndarray, np.ndarray]] = []

    def add(self, step: int, loaded: Loaded) -> None:
        """Note a slot of a step, counted from 0: the sequences drawn, and the frames shown, substitutes among them."""
        drawn = [(one.dataset, one.sequence) for one in loaded.batch.sequences]
        sequences = np.array(drawn, np.int32).reshape(-1, 2)
        self._slots.append((step, sequences, np.array(loaded.frames, np.int32).reshape(-1, 2)))

    def forget_from(self, step: int) -> None:
        """Forget the steps from `step`, counted from 0, on; those that were taken before are not among them."""
        self._slots = [slot for slot in self._slots if slot[0] < step]

    def take(self) -> Visits:
        """Return the visits since the last time, and begin anew."""
        slots, self._slots = self._slots, []
        nothing = np.empty((0, 2), np.int32)
        sequences = np.concatenate([nothing, *(slot[1] for slot in slots)])
        frames = np.concatenate([nothing, *(slot[2] for slot in slots)])
        return Visits(self.names, _tally(sequences), _tally(frames))


def write_exposure(run: Path, first_step: int, last_step: int, visits: Iterable[Visits], mix: Mix) -> Path:
    """Write the visits of all ranks in the steps `first_step` to `last_step`, counted from 1; return the file.

    `last_step` is that of the checkpoint to be written next. The same visits give the same bytes, however they lie on
    ranks. Raises ValueError for no steps, and for visits of another mix.
    """
    names = tuple(dataset.name for dataset in mix.datasets)
    totals = _Totals()
    for of_rank in visits:
        if of_rank.names != names:
            raise ValueError(f"visits of {of_rank.names} are not those of a mix of {names}")
        for is_frame, tally in ((False, of_rank.sequences), (True, of_rank.frames)):
            for number, name in enumerate(names):
                own = tally.dataset == number
                totals.add(name, is_frame, tally.number[own], tally.visits[own])
    path = exposure_path(run, first_step, last_step)
    _write(totals, path, first_step, last_step, {"mix": mix.content_digest})
    return path


def drop_exposure_after(run: Path, step: int) -> list[tuple[int, int]]:
    """Remove the files with steps after `step` (that of the checkpoint that a run goes on from), and leave the others.

    Returns the ranges of the steps up to `step` that no file holds now: none, unless the run goes on from a checkpoint
    that `compact_exposure` was not told of, whose file is removed as well since its steps cannot be told apart.
    """
    folder = Path(run, "exposure")
    if folder.is_dir():
        remove_abandoned(folder)
    # the last first: an interruption leaves no gap
    for file in sorted(all_exposure_files(run), key=lambda file: (file.last, file.first), reverse=True):
        if file.last > step:
            file.path.unlink(missing_ok=True)
    _remove_merged(run)
    return missing_steps(exposure_files(run), step)


def compact_exposure(run: Path, keep: Collection[int] = (), *, max_files: int = MAX_FILES) -> list[Path]:
    """Add up a run's files, all but the newest, into one where there are more than `max_files`; return the new ones.

    `keep` are the steps of the checkpoints that the run may go on from: a new file ends there, and the next begins.
    A new file is written whole before those that it replaces are removed, and readers leave out files whose steps a
    longer one holds: at every moment each visit counts once.
    """
    files = exposure_files(run)
    if len(files) <= max_files:
        return []
    groups = _mergeable(files[:-1], keep)
    # what merging cannot spare does not count: else many kept checkpoints would have the last group merged each time
    if len(files) - len(groups) < max_files:
        return []
    written = [_merge(run, group) for group in groups if len(group) > 1]
    _remove_merged(run)
    return written


class _Totals:
    """Sums of visits, an array of int64 for each dataset's sequences and frames: 160 MB for twenty million."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, bool], np.ndarray] = {}

    def add(self, name: str, is_frame: bool, numbers: np.ndarray, visits: np.ndarray) -> None:
        if not len(numbers):
            return
        known = self._of.get((name, is_frame), np.zeros(0, np.int64))
        num = int(numbers.max()) + 1
        if num > len(known):
            known = np.concatenate([known, np.zeros(max(num, 2 * len(known)) - len(known), np.int64)])
            self._of[name, is_frame] = known
        np.add.at(known, numbers, visits)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows: datasets by the bytes of their names, in each its sequences, then its frames."""
        for name, is_frame in sorted(self._of, key=lambda key: (key[0].encode(), key[1])):
            totals = self._of[name, is_frame]
            found = np.flatnonzero(totals)
            for start in range(0, len(found), _ROWS):
                numbers = found[start : start + _ROWS].astype(np.int32)
                names = pa.DictionaryArray.from_arrays(np.zeros(len(numbers), np.int32), [name])
                kind = "frame_id" if is_frame else "sequence"
                yield catalog.build(EXPOSURE, {"dataset": names, kind: numbers, "visits": totals[numbers]})


def _merge(run: Path, group: Sequence[ExposureFile]) -> Path:
    totals, first, last = _Totals(), group[0].first, group[-1].last
    for file in group:
        _add_file(totals, file.path)
    path = exposure_path(run, first, last)
    _write(totals, path, first, last, catalog.read_footer(EXPOSURE, group[0].path).inputs)
    return path


def _remove_merged(run: Path) -> None:
    counting = set(exposure_files(run))
    for file in all_exposure_files(run):
        if file not in counting:
            file.path.unlink(missing_ok=True)


def _write(totals: _Totals, path: Path, first: int, last: int, inputs: dict[str, str]) -> None:
    with catalog.Writer(EXPOSURE, path) as writer:
        for table in totals.tables():
            writer.add(table)
        writer.finish(inputs=inputs, parameters={"first_step": first, "last_step": last})


def _add_file(totals: _Totals, path: Path) -> None:
    for batch in catalog.read_batches(EXPOSURE, path, EXPOSURE.columns.names):
        codes = batch.column("dataset").indices.to_numpy()
        names = batch.column("dataset").dictionary.to_pylist()
        visits = batch.column("visits").to_numpy()
        for column in ("sequence", "frame_id"):
            numbers = batch.column(column)
            there = numbers.is_valid().to_numpy(zero_copy_only=False)
            filled = numbers.fill_null(0).to_numpy()
            for code in np.unique(codes):
                own = there & (codes == code)
                totals.add(names[code], column == "frame_id", filled[own], visits[own])


def _mergeable(files: Sequence[ExposureFile], keep: Collection[int]) -> list[list[ExposureFile]]:
    """Cut files, sorted by steps, where a checkpoint is kept, where steps are missing, and where the mix changes."""
    groups: list[list[ExposureFile]] = []
    before: tuple[int, dict[str, str]] | None = None
    for file in files:
        inputs = catalog.read_footer(EXPOSURE, file.path).inputs
        if before is None or before[0] in keep or before != (file.first - 1, inputs):
            groups.append([])
        groups[-1].append(file)
        before = file.last, inputs
    return groups


def _tally(pairs: np.ndarray) -> Tally:
    # both are below 2^31: one key of 64 bits
    keys, visits = np.unique(pairs[:, 0].astype(np.int64) << 32 | pairs[:, 1], return_counts=True)
    return Tally((keys >> 32).astype(np.int32), keys.astype(np.int32), visits.astype(np.int64))
