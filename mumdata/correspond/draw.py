"""Which held-out frames are looked at together.

In: a dataset of a mix, and a seed. Out: draws, one after another: a sequence's frames for one sample. A function of
(seed, dataset, split, scene, stream) and the catalogs alone; no file of the dataset itself is opened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mumdata import catalog, rng
from mumdata.catalog import MixDataset
from mumdata.schema import FRAMES, SEQUENCES

__all__ = ["DEPTH", "TRACKS", "Draw", "Plan", "plan"]

DEPTH, TRACKS = "depth", "tracks"
_BITS = {DEPTH: 1, TRACKS: 2}

# how many times in a row a scene may give a sample that it has given before; beyond that it has no more
_MOST_REPEATS = 16

SceneKey = tuple[str | None, str]


@dataclass(frozen=True)
class Draw:
    """One sample: frames of a sequence, which is row `sequence` of sequences.parquet.

    `frame_ids` int [views] in the order of the sequence; the stream's rows in frames.parquet are `first` ..
    `first` + `num` - 1. `source` is what the catalog says is known of these frames.
    """

    dataset: str
    split: str | None
    scene: str
    stream: str | None
    sequence: int
    frame_ids: tuple[int, ...]
    first: int
    num: int
    source: str

    @property
    def key(self) -> SceneKey:
        return self.split, self.scene


@dataclass(frozen=True)
class _Sequence:
    """A held-out sequence: its frames whose geometry is known by `source`, in their order."""

    row: int
    stream: str | None
    first: int
    num: int
    frame_ids: np.ndarray
    source: str


@dataclass
class Plan:
    """What can be drawn of a dataset.

    `num_views` is the number of frames of each sample. `num_scenes` and `num_without` count the scenes with held-out
    sequences, and those of them without geometry. Scenes in `failed` are not drawn from any more.
    """

    dataset: MixDataset
    num_views: int
    num_scenes: int
    num_without: int
    scenes: dict[SceneKey, list[_Sequence]]
    failed: set[SceneKey] = field(default_factory=set)

    def draws(self, seed: int) -> Iterator[Draw]:
        """Yield samples, all different: one of each scene in hashed order, then another of each, and so on."""
        name = self.dataset.name
        order = sorted(self.scenes, key=lambda key: (rng.key(seed, "correspondences: scene", name, *key), str(key)))
        of_scene = {key: self._of_scene(seed, key) for key in order}
        while of_scene:
            for key in list(of_scene):
                draw = None if key in self.failed else next(of_scene[key], None)
                if draw is None:
                    del of_scene[key]
                else:
                    yield draw

    def _of_scene(self, seed: int, key: SceneKey) -> Iterator[Draw]:
        sequences, name = self.scenes[key], self.dataset.name
        known: set[tuple[int, ...]] = set()
        number = repeats = 0
        while repeats < _MOST_REPEATS:
            own = rng.key(seed, "correspondences: sequence", name, *key, number)
            sequence = sequences[_below(own, 0, len(sequences))]
            own = rng.key(seed, "correspondences: frames", name, *key, sequence.stream, number)
            chosen = _positions(own, len(sequence.frame_ids), self.num_views)
            frame_ids = tuple(sequence.frame_ids[chosen].tolist())
            number += 1
            repeats += 1
            if frame_ids not in known:
                known.add(frame_ids)
                repeats = 0
                row, first, num = sequence.row, sequence.first, sequence.num
                split, scene = key
                yield Draw(name, split, scene, sequence.stream, row, frame_ids, first, num, sequence.source)


def _below(key: int, index: int, bound: int) -> int:
    return int(rng.below(rng.words(key, 1, index), bound)[0])


def _positions(key: int, length: int, views: int) -> np.ndarray:
    """Choose `views` of `length` neighbouring positions, ascending int64 [views], inside a window of random length.

    Short windows give frames that overlap much, long ones frames that overlap little.
    """
    span = min(length, (views, 2 * views, 4 * views, length)[_below(key, 0, 4)])
    start = _below(key, 1, length - span + 1)
    return start + np.sort(rng.choose(rng.key(key, "window"), span, views))


def plan(dataset: MixDataset, views: int, *, all: bool = False) -> Plan:
    """Find the held-out sequences, or all, of a dataset whose frames' geometry is known.

    Each sample has `views` frames; fewer where no sequence of the dataset has so many, and then as many as the longest
    has. Raises CatalogError where a catalog is damaged.
    """
    table = catalog.map_sequences(dataset)
    unit, lengths = (table.column(name).to_numpy() for name in ("holdout_unit", "num_frames"))
    is_free = np.ones(len(unit), bool) if all else unit < dataset.holdout
    held_out = np.flatnonzero(is_free & (lengths >= max(2, dataset.min_frames)))
    if not len(held_out):
        return Plan(dataset, 0, 0, 0, {})
    names = _names(dataset, held_out)
    known, scene_of = _known(dataset), catalog.map_frames(dataset).column("scene").to_numpy()
    found: dict[SceneKey, list[_Sequence]] = defaultdict(list)
    lists = table.column("frames")
    for row, (split, scene, stream) in zip(held_out.tolist(), names, strict=True):
        frame_ids = lists[row].values.to_numpy()
        source, frame_ids = _usable(frame_ids, known[frame_ids], views)
        if len(frame_ids) < 2:
            continue
        number = scene_of[frame_ids[0]]
        first, end = np.searchsorted(scene_of, [number, number + 1]).tolist()
        found[split, scene].append(_Sequence(row, stream, first, end - first, frame_ids, source))
    num_scenes = len({name[:2] for name in names})
    longest = max((len(one.frame_ids) for of_scene in found.values() for one in of_scene), default=0)
    num_views = min(views, longest)
    enough = {key: [one for one in of_scene if len(one.frame_ids) >= num_views] for key, of_scene in found.items()}
    scenes = {key: of_scene for key, of_scene in enough.items() if of_scene}
    return Plan(dataset, num_views, num_scenes, num_scenes - len(found), scenes)


def _usable(frame_ids: np.ndarray, known: np.ndarray, views: int) -> tuple[str, np.ndarray]:
    """Return the source that is preferred for a sequence, and the frames that it knows."""
    of_source = {source: frame_ids[known & bit > 0] for source, bit in _BITS.items()}
    depth, tracks = of_source[DEPTH], of_source[TRACKS]
    return (DEPTH, depth) if len(depth) >= min(views, len(tracks)) else (TRACKS, tracks)


def _names(dataset: MixDataset, rows: np.ndarray) -> list[tuple[str | None, str, str | None]]:
    table = catalog.read(SEQUENCES, dataset.sequences, ["split", "scene", "stream"]).take(pa.array(rows))
    columns = [column.cast(pa.string()).to_pylist() for column in table.columns]
    return list(zip(*columns, strict=True))


_COLUMNS = ("cam_from_world", "intrinsics_px", "depth_path", "num_points")


def _known(dataset: MixDataset) -> np.ndarray:
    """Return what the catalog knows of each frame, uint8 [frames]: the sum of its sources' bits."""
    parts = [np.empty(0, np.uint8)]
    for batch in catalog.read_batches(FRAMES, dataset.frames, _COLUMNS, dataset.frames_digest):
        posed = pc.and_(batch.column("cam_from_world").is_valid(), batch.column("intrinsics_px").is_valid())
        tracked = pc.greater(pc.fill_null(batch.column("num_points"), 0), 0)
        bits = np.zeros(batch.num_rows, np.uint8)
        for source, told in ((DEPTH, batch.column("depth_path").is_valid()), (TRACKS, tracked)):
            bits[pc.and_(posed, told).to_numpy(zero_copy_only=False)] |= _BITS[source]
        parts.append(bits)
    return np.concatenate(parts)
