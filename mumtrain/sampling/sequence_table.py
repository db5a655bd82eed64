"""The sequences of one dataset of a mix, as arrays over its mapped files.

In: the Arrow twins of a dataset (see `mumdata.catalog`). Out: which sequences may be drawn, the frames of each, when
frames were taken and what they share, all of it without a copy and without a Python object for a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mumdata.errors import CatalogError
from mumtrain.curriculum import Band

__all__ = ["SequenceTable", "Timestamps", "Neighbours"]


@dataclass(frozen=True, eq=False)
class Timestamps:
    """When each frame was taken: float64 [frames], and Arrow's bitmap of those known, from bit `shift` on."""

    seconds: np.ndarray
    valid: np.ndarray  # uint8; empty where all are known
    shift: int


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The frames that frame f shares something with, other[indptr[f] : indptr[f + 1]], and the overlap of each pair."""

    indptr: np.ndarray  # int64 [frames + 1]
    other: np.ndarray  # int32 [2 * pairs]
    overlap: np.ndarray  # float32 [2 * pairs]


class SequenceTable:
    """The sequences of one dataset: which may be drawn, and the frames of each, as views over the mapped file.

    Columns of the table: num_frames, frames (large_list<int32>), holdout_unit; scene is needed where sequences are
    balanced by scene, mean_overlap where a band of overlap is asked for. `timestamps` is the column timestamp_s of the
    frames, `pairs` what `mumdata.catalog.map_covisibility` returns; row = frame_id in both. A table of several chunks
    is copied into one.
    """

    def __init__(
        self,
        table: pa.Table,
        *,
        name: str,
        weight: float,
        single_view: bool,
        min_frames: int,
        holdout: float,
        timestamps: pa.ChunkedArray | None = None,
        pairs: pa.Table | None = None,
    ) -> None:
        """Raises CatalogError where the lists of frames do not fit their lengths."""
        self.name, self.weight, self.single_view = name, weight, single_view
        self.min_frames, self.holdout = max(1, min_frames), holdout
        self._table = table
        self.lengths = _values(_one_chunk(table.column("num_frames")))  # int32 [n]
        self.offsets, self.values = _lists(_one_chunk(table.column("frames")))  # int64 [n + 1], int32
        whole = len(self.offsets) == len(self.lengths) + 1 and self.offsets[-1] <= len(self.values)
        if not whole or (self.lengths < 0).any() or not np.array_equal(np.diff(self.offsets), self.lengths):
            raise CatalogError(
                f"{name}: num_frames does not fit the lists of frames; run 'mumdata mine-sequences {name}'"
            )
        self.timestamps = _timestamps(timestamps)
        self.neighbours = _neighbours(pairs)
        lengths = self.lengths[self.drawable(None)]
        self.longest = int(lengths.max(initial=0))
        self._at_least = np.cumsum(np.bincount(lengths, minlength=1)[::-1])[::-1]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def scenes(self) -> np.ndarray:
        """The number of each sequence's scene, int32 [n]; the scenes of a dataset are counted from 0."""
        return _values(_one_chunk(self._table.column("scene")))

    def drawable(self, band: Band | None) -> np.ndarray:
        """Tell which sequences may be drawn, bool [n]: not held out, long enough, their mean overlap in the band.

        Sequences of unknown overlap stay, as do those of a single-view dataset. Overlaps are compared as the float32
        that catalogs hold, so that a limit of 0.7 takes in an overlap of 0.7.
        """
        units = _values(_one_chunk(self._table.column("holdout_unit")))
        keep: np.ndarray = (units >= self.holdout) & (self.lengths >= self.min_frames)
        if band is not None and not self.single_view and "mean_overlap" in self._table.column_names:
            overlap = self._table.column("mean_overlap").to_numpy()  # NaN where unknown
            keep &= np.isnan(overlap) | ((overlap >= np.float32(band.low)) & (overlap <= np.float32(band.high)))
        return keep

    def longest_in(self, band: Band | None) -> int:
        """Return the frames of the longest sequence that may be drawn; 0 where there is none."""
        return self.longest if band is None else int(self.lengths[self.drawable(band)].max(initial=0))

    def why_none(self, least: int, band: Band | None) -> tuple[str, str]:
        """Say why no sequence of at least `least` frames may be drawn, and what would help; two empty texts if one may.

        The reason is what excludes the last of them: their length, being held out, or the band.
        """
        least = max(least, self.min_frames)
        is_long = self.lengths >= least
        if not is_long.any():
            longest = int(self.lengths.max(initial=0))
            told = f"its longest sequence has {longest} of the {least} frames needed" if longest else "it has none"
            return told, "mine longer sequences, or lower data.views_min or the mix's min_frames"
        units = _values(_one_chunk(self._table.column("holdout_unit")))
        is_free = is_long & (units >= self.holdout)
        if not is_free.any():
            told = f"all of its sequences of {least} frames or more ({np.count_nonzero(is_long):,}) are held out"
            return told, "lower the mix's holdout"
        if band is None or (is_free & self.drawable(band)).any():
            return "", ""
        overlap = self._table.column("mean_overlap").to_numpy()[is_free]  # all are known: others stay in any band
        low, high = float(overlap.min()), float(overlap.max())
        theirs = f"{low:.3g} to {high:.3g}" if high > low else f"{low:.3g}"
        remedy = "lower the band, use data.subset=covisible, or mine shorter chains"
        if low > np.float32(band.high):
            remedy = "raise the band, or use data.subset=covisible"
        return f"no sequence has a mean overlap in {band.low:g} to {band.high:g} (theirs: {theirs})", remedy

    def num_unknown(self, rows: np.ndarray) -> int:
        """Return of how many of the sequences chosen by `rows`, bool [n], the mean overlap is not known."""
        if "mean_overlap" not in self._table.column_names:
            return int(np.count_nonzero(rows))
        return int(np.count_nonzero(np.isnan(self._table.column("mean_overlap").to_numpy()[rows])))

    def num_eligible(self, views: int) -> int:
        """Return how many sequences may be drawn and have at least max(views, min_frames) frames, in any band."""
        return int(self._at_least[max(0, views)]) if views <= self.longest else 0

    def frames(self, row: int) -> np.ndarray:
        """Return the frame ids of a sequence, a read-only int32 view over the mapped file."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _values(array: pa.Array) -> np.ndarray:
    values: np.ndarray = array.to_numpy()  # without a copy, or not at all
    return _frozen(values)


def _frozen(values: np.ndarray) -> np.ndarray:
    # the kernels are compiled for arrays that cannot be written to, as those over mapped files are
    values.flags.writeable = False
    return values


def _lists(array: pa.LargeListArray) -> tuple[np.ndarray, np.ndarray]:
    return _values(array.offsets), _values(array.values)


def _timestamps(column: pa.ChunkedArray | None) -> Timestamps | None:
    if column is None or column.null_count == len(column):
        return None
    array = _one_chunk(column)
    bits, data = array.buffers()
    known = bits is None or not array.null_count
    valid = np.empty(0, np.uint8) if known else np.frombuffer(bits, np.uint8)
    seconds = np.frombuffer(data, np.float64, count=array.offset + len(array))[array.offset :]
    return Timestamps(_frozen(seconds), _frozen(valid), array.offset)


def _neighbours(pairs: pa.Table | None) -> Neighbours | None:
    if pairs is None or not len(pairs):
        return None
    indptr, other = _lists(_one_chunk(pairs.column("other")))
    same, overlap = _lists(_one_chunk(pairs.column("overlap")))
    if not len(other):
        return None
    if (len(indptr), indptr[0], indptr[-1]) != (len(same), same[0], same[-1]):
        raise CatalogError("covisibility: the lists of neighbours and of overlaps differ in length")
    return Neighbours(indptr, other, overlap)
