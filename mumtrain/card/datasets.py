"""What a run has read: its mix with licences, frames that benchmarks evaluate on, and how often what was shown.

In: the mix and its catalogs, where they are what they were, and the run's exposure files. Out: JSON values, one
dictionary a dataset, with None for what is not known.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mumdata.catalog import map_sequences, open_mix, read, read_batches, read_footer
from mumdata.errors import MumError
from mumdata.schema import EXPOSURE, FRAMES, MIX, SEQUENCES, Schema
from mumdata.visits import exposure_files, missing_steps

__all__ = ["LIMITS", "Exposure", "licence_limits", "mix_facts", "read_exposure"]

# words of a licence that keep people from using what was trained on it as they please -> what the card calls them
LIMITS = {
    "non-commercial": ("non-commercial", "noncommercial", "-nc"),
    "no redistribution": ("no redistribution", "passed on"),
    "share alike": ("-sa",),
    "unclear terms": ("not stated", "not known", "no separate licence", "its own", "belong to"),
}


@dataclass(frozen=True)
class Exposure:
    """How often each sequence was drawn and each frame shown: int64 arrays by dataset, the place is the number."""

    sequences: dict[str, np.ndarray] = field(default_factory=dict)
    frames: dict[str, np.ndarray] = field(default_factory=dict)
    last_step: int = 0
    # ranges of steps, both ends included, whose visits are not recorded
    missing: tuple[tuple[int, int], ...] = ()

    def to_dict(self, dataset: str) -> dict[str, int]:
        """Return how much of a dataset was read."""
        nothing = np.zeros(0, np.int64)
        sequences, frames = self.sequences.get(dataset, nothing), self.frames.get(dataset, nothing)
        return {
            "sequences": int(sequences.sum()),
            "distinct_sequences": int(np.count_nonzero(sequences)),
            "frames": int(frames.sum()),
            "distinct_frames": int(np.count_nonzero(frames)),
        }


def read_exposure(run: Path) -> Exposure | None:
    """Add up a run's exposure files; None where there are none. Raises CatalogError for one that is damaged."""
    files = exposure_files(run)
    if not files:
        return None
    found = Exposure(last_step=files[-1].last, missing=tuple(missing_steps(files)))
    for file in files:
        for batch in read_batches(EXPOSURE, file.path, ["dataset", "sequence", "frame_id", "visits"]):
            names = batch.column("dataset").dictionary.to_pylist()
            codes, visits = batch.column("dataset").indices.to_numpy(), batch.column("visits").to_numpy()
            for sums, column in ((found.sequences, "sequence"), (found.frames, "frame_id")):
                is_there = batch.column(column).is_valid().to_numpy(zero_copy_only=False)
                numbers = batch.column(column).fill_null(0).to_numpy()
                for code in np.unique(codes[is_there]):
                    own = is_there & (codes == code)
                    sums[names[code]] = _added(sums.get(names[code]), numbers[own], visits[own])
    return found


def _added(sums: np.ndarray | None, numbers: np.ndarray, visits: np.ndarray) -> np.ndarray:
    sums = np.zeros(0, np.int64) if sums is None else sums
    num = int(numbers.max()) + 1
    if num > len(sums):
        sums = np.concatenate([sums, np.zeros(max(num, 2 * len(sums)) - len(sums), np.int64)])
    np.add.at(sums, numbers, visits)
    return sums


def mix_facts(path: Path, digest: str | None, exposure: Exposure | None) -> list[dict[str, Any]]:
    """Return what is known of each dataset of a mix.

    Raises CatalogError where the mix is gone; MumError where it is not the one of this digest. A dataset whose catalogs
    are gone or have changed is told of as far as the mix itself goes.
    """
    footer = read_footer(MIX, path)
    if digest is not None and footer.content_digest != digest:
        raise MumError(f"{path} was made anew since the run (digest {footer.content_digest[:12]}, not {digest[:12]})")
    rows = read(MIX, path).to_pylist()
    total = sum(row["weight"] for row in rows)
    held_out = _num_held_out(path)
    return [
        {
            "dataset": row["dataset"],
            "weight": row["weight"],
            "share": row["weight"] / total if total else 0.0,
            "licence": row["licence"],
            "licence_limits": licence_limits(row["licence"]),
            "single_view": row["single_view"],
            "sequences": row["num_sequences"],
            "frames": row["num_frames"],
            "min_frames": row["min_frames"],
            "held_out": row["holdout"],
            "sequences_held_out": held_out.get(row["dataset"]),
            "evaluation": _evaluation(path.parent, row, exposure),
            "read": None if exposure is None else exposure.to_dict(row["dataset"]),
        }
        for row in rows
    ]


def licence_limits(licence: str) -> list[str]:
    """Return what stands out of a licence's text: non-commercial, no redistribution, share alike, unclear terms."""
    text = licence.lower()
    return [name for name, words in LIMITS.items() if any(word in text for word in words)]


def _num_held_out(path: Path) -> dict[str, int]:
    # of each dataset's sequences that are long enough, those that training never draws; none where catalogs are gone,
    # which is told where frames that benchmarks evaluate on are
    found = {}
    with suppress(MumError, OSError):
        for dataset in open_mix(path).datasets:
            table = map_sequences(dataset)
            lengths, units = (table.column(name).to_numpy() for name in ("num_frames", "holdout_unit"))
            chosen = (lengths >= dataset.min_frames) & (units < dataset.holdout)
            found[dataset.name] = int(np.count_nonzero(chosen))
    return found


# ---- frames that benchmarks evaluate on


def _evaluation(folder: Path, row: dict[str, Any], exposure: Exposure | None) -> dict[str, Any]:
    # by benchmark: frames of the mix's sequences, their scenes, and the frames that the run has shown
    try:
        for schema in (FRAMES, SEQUENCES):
            _check_same(schema, folder / row[f"{schema.name}_path"], row[f"{schema.name}_digest"])
        marked = _Marked.of(folder / row["frames_path"])
        read_by_mix = _in_sequences(folder / row["sequences_path"], marked)
    except (MumError, OSError) as error:
        return {"problem": str(error), "benchmarks": None}
    shown = None if exposure is None else exposure.frames.get(row["dataset"], np.zeros(0, np.int64))
    found = []
    for benchmark in sorted({*marked.benchmarks}):
        own = marked.frame_ids[np.array([of == benchmark for of in marked.benchmarks]) & read_by_mix]
        if not len(own):
            continue
        scenes = {marked.scenes[place] for place in np.searchsorted(marked.frame_ids, own)}
        known = None if shown is None else int(np.count_nonzero(shown[own[own < len(shown)]]))
        found.append({"benchmark": benchmark, "frames": len(own), "scenes": len(scenes), "shown": known})
    return {"problem": None, "benchmarks": found}


@dataclass(frozen=True)
class _Marked:
    """The frames of a catalog that benchmarks evaluate on: ids in rising order, benchmark and scene of each."""

    frame_ids: np.ndarray
    benchmarks: list[str]
    scenes: list[tuple[str | None, str]]

    @staticmethod
    def of(path: Path) -> _Marked:
        ids: list[int] = []
        benchmarks: list[str] = []
        scenes: list[tuple[str | None, str]] = []
        columns = ["frame_id", "split", "scene", "eval_of"]
        for batch in read_batches(FRAMES, path, columns) if _has_marks(path) else ():
            chosen = batch.filter(batch.column("eval_of").is_valid())
            ids += chosen.column("frame_id").to_pylist()
            benchmarks += chosen.column("eval_of").to_pylist()
            scenes += zip(chosen.column("split").to_pylist(), chosen.column("scene").to_pylist(), strict=True)
        return _Marked(np.array(ids, np.int64), benchmarks, scenes)


def _check_same(schema: Schema, path: Path, digest: str) -> None:
    if read_footer(schema, path).content_digest != digest:
        raise MumError(f"{path} has changed since the mix was made")


def _has_marks(path: Path) -> bool:
    # by the statistics of the file: most catalogs mark no frame, and a run that is told to stop has little time
    found = pq.read_metadata(path)
    column = found.schema.names.index("eval_of")
    groups = [found.row_group(number) for number in range(found.num_row_groups)]
    return any(
        (about := group.column(column).statistics) is None or (about.null_count or 0) < group.num_rows
        for group in groups
    )


def _in_sequences(path: Path, marked: _Marked) -> np.ndarray:
    # bool, of each marked frame: whether a sequence holds it
    found = np.zeros(len(marked.frame_ids), bool)
    if not len(found):
        return found
    for batch in read_batches(SEQUENCES, path, ["frames"]):
        frames = batch.column("frames").flatten().to_numpy()
        places = np.searchsorted(marked.frame_ids, frames)
        places = places[(places < len(found)) & (marked.frame_ids[np.minimum(places, len(found) - 1)] == frames)]
        found[places] = True
    return found
