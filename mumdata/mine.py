"""Mining of one scene: what a worker does.

In: a `Job`, the same for all scenes, and a `Task` that names the rows of one scene in frames.parquet. Out: for each
stream of the scene its pairs, its sequences, and a summary. Nothing here depends on other scenes, workers or order.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mumdata import catalog, covisibility, geometry
from mumdata import datasets as known
from mumdata.covisibility import Pairs
from mumdata.digest import ContentDigest
from mumdata.errors import CatalogError, MumError
from mumdata.mined import Kept, Key, Result, Summary
from mumdata.mining import RULES, Options, Stream, explain_nothing, mine
from mumdata.mining.copies import copies
from mumdata.pairs import PAIR_COLUMNS, pair_table, pairs_of_table
from mumdata.ranges import Range, read_range
from mumdata.schema import COVISIBILITY, SEQUENCES
from mumdata.sources import SOURCES, SourceOptions
from mumdata.tree import Tree

__all__ = ["Job", "StreamTask", "Task", "mine_scene", "same_paths"]

_FRAME_COLUMNS = ("path", "status", "num_points", "duplicate_of", "eval_of", "cam_from_world")
# what sources look at besides: where these change, what was found before does not hold any more
_SOURCE_COLUMNS = (
    "archive",
    "width",
    "height",
    "camera_model",
    "intrinsics_px",
    "distortion",
    "depth_path",
    "mask_path",
    "upright_quarter_turns",
)


@dataclass(frozen=True)
class Job:
    """What all scenes of a run have in common. `source` None: sequences without pairs."""

    name: str
    dataset: str
    frames: Range
    rule: str
    options: Options
    source: str | None
    source_options: SourceOptions
    tree: Tree | None
    write_pairs: bool
    keep_copies: bool = False
    allow_missing: bool = False
    allow_eval_scenes: bool = False


@dataclass(frozen=True)
class StreamTask:
    """The rows `first` .. `first` + `num` - 1 of frames.parquet, a (split, scene, stream).

    `pairs` are its rows in a covisibility.parquet of the same frames, `kept` what an earlier run found, `listed` pairs
    of positions from a list. `skip` says why the stream is not mined.
    """

    key: Key
    first: int
    num: int
    skip: str | None = None
    pairs: Range | None = None
    kept: Kept | None = None
    listed: np.ndarray | None = None


@dataclass(frozen=True)
class Task:
    """The streams of one scene; `scene` is None where nothing has to be read from the dataset itself."""

    scene: known.Scene | None
    streams: tuple[StreamTask, ...]


def mine_scene(job: Job, task: Task) -> list[Result]:
    """Mine the streams of a scene.

    Raises CatalogError where the scene's files are not those that were indexed.
    """
    read: dict[str | None, known.Stream] | None = None
    results = []
    for stream in task.streams:
        frames = read_range(
            replace(job.frames, first=stream.first, num=stream.num), (*_FRAME_COLUMNS, *_SOURCE_COLUMNS)
        )
        fingerprint = _fingerprint(frames, stream)
        kept = stream.kept if stream.kept is not None and stream.kept.fingerprint == fingerprint else None
        if kept is not None and (kept.sequences is not None or stream.skip is not None):
            with suppress(*_UNREADABLE):  # a damaged file of an earlier run: the work is done again
                results.append(_as_before(job, stream, kept, fingerprint))
                continue
        pairs, problem, num_bytes = None, None, (0, 0)
        found = _found_before(job, stream, kept, frames) if job.source is not None else None
        if found is not None:
            pairs = found.pairs
            if kept is not None:
                problem, num_bytes = kept.summary.problem, (kept.summary.bytes_read, kept.summary.bytes_total)
        elif job.source is not None:
            assert job.tree is not None
            assert task.scene is not None
            if read is None:
                read = {one.stream: one for one in known.load(job.dataset).read(job.tree, task.scene)}
            pairs, problem, num_bytes = _pairs(job, stream, frames, read.get(stream.key[2]))
        summary, sequences = _mine(job, stream, frames, pairs, problem)
        summary = replace(summary, bytes_read=num_bytes[0], bytes_total=num_bytes[1], problem=problem)
        table = None
        if job.write_pairs and pairs is not None:
            table = pair_table(job.name, stream.key[1], stream.key[2], stream.first, pairs)
        results.append(Result(stream.key, fingerprint, stream.first, summary, table, sequences))
    return results


# what reading a damaged Parquet file raises
_UNREADABLE = (OSError, pa.ArrowException)


@dataclass(frozen=True)
class _Before:
    pairs: Pairs | None


def _found_before(job: Job, stream: StreamTask, kept: Kept | None, frames: pa.Table) -> _Before | None:
    """Return the pairs that an earlier run found, which may be none; None where they have to be found now."""
    if kept is not None and kept.summary.num_pairs is None and (stream.pairs or kept.pairs) is not None:
        return _Before(None)
    points = _num_points(frames) if job.source == "tracks" else np.zeros(stream.num, np.int32)
    if stream.pairs is not None:
        try:
            table = read_range(stream.pairs, PAIR_COLUMNS)
        except _UNREADABLE as error:
            command = f"mumdata mine-sequences {job.name} --again"
            raise CatalogError(f"{stream.pairs.file} is damaged; run '{command}'") from error
        return _Before(pairs_of_table(table, stream.first, points))
    if kept is not None and kept.pairs is not None:
        with suppress(*_UNREADABLE):
            return _Before(pairs_of_table(read_range(kept.pairs, PAIR_COLUMNS), kept.first, points))
    return None


def _num_points(frames: pa.Table) -> np.ndarray:
    return frames.column("num_points").fill_null(0).to_numpy()


def _fingerprint(frames: pa.Table, stream: StreamTask) -> str:
    # copies by their place in the stream: the same stream may begin at another frame_id
    copy_of = pc.subtract(frames.column("duplicate_of"), pa.scalar(stream.first, pa.int32()))
    place = frames.schema.get_field_index("duplicate_of")
    frames = frames.set_column(place, "duplicate_of", copy_of)
    digest = ContentDigest(frames.schema)
    digest.update(frames)
    if stream.listed is None:
        return digest.hexdigest()
    # the names of a list are placed among those of all scenes
    return hashlib.sha256(digest.hexdigest().encode() + stream.listed.tobytes()).hexdigest()


def _as_before(job: Job, stream: StreamTask, kept: Kept, fingerprint: str) -> Result:
    shift = stream.first - kept.first
    pairs = sequences = None
    if job.write_pairs and kept.pairs is not None and kept.summary.num_pairs is not None:
        pairs = _shifted(read_range(kept.pairs, tuple(COVISIBILITY.columns.names)), ("frame_a", "frame_b"), shift)
        pairs = catalog.build(COVISIBILITY, {name: pairs.column(name) for name in pairs.column_names})
    if kept.sequences is not None and stream.skip is None:
        sequences = read_range(kept.sequences, tuple(SEQUENCES.columns.names))
        lists = sequences.column("frames").combine_chunks()
        if isinstance(lists, pa.ChunkedArray):
            lists = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.array([], lists.type)
        values = pc.add(lists.flatten(), pa.scalar(shift, pa.int32()))
        offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())]).astype(np.int32)
        columns = {name: sequences.column(name) for name in sequences.column_names}
        columns["frames"] = pa.ListArray.from_arrays(pa.array(offsets), values)
        sequences = catalog.build(SEQUENCES, columns)
    summary = kept.summary
    if stream.skip is not None:
        summary = replace(summary, num_sequences=0, num_distinct=0, num_usable=0, num_covered=0, num_copies=None)
        summary = replace(summary, reason=stream.skip)
    return Result(stream.key, fingerprint, stream.first, summary, pairs, sequences, is_new=False)


def _shifted(table: pa.Table, names: tuple[str, ...], shift: int) -> pa.Table:
    for name in names:
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pc.add(table.column(name), pa.scalar(shift, pa.int32())))
    return table


# ---- pairs


def _pairs(
    job: Job, task: StreamTask, frames: pa.Table, stream: known.Stream | None
) -> tuple[Pairs | None, str | None, tuple[int, int]]:
    """Return the pairs of a stream, what went wrong in finding them, and the bytes read and there."""
    if stream is None or not same_paths(stream.paths, frames.column("path").to_pylist()):
        what = "/".join(part for part in task.key if part)
        raise CatalogError(
            f"{what} of {job.name} has changed since it was indexed; run 'mumdata index {job.name}' again"
        )
    model = stream.model
    by_tracks = model is not None and job.source == "tracks"
    num_bytes = (model.bytes_read, model.bytes_total) if by_tracks and model is not None else (0, 0)
    assert job.source is not None
    try:
        pairs = SOURCES[job.source].pairs(job.tree, (job.name, *task.key), stream, job.source_options)  # type: ignore[arg-type]
    except MumError as error:
        return None, _without_places(job, str(error)), num_bytes
    if pairs is None or not pairs.notes:
        return _as_stored(pairs), None, num_bytes
    more = f"; and {len(pairs.notes) - 1} more" if len(pairs.notes) > 1 else ""
    return _as_stored(pairs), pairs.notes[0] + more, num_bytes


def _without_places(job: Job, message: str) -> str:
    # catalogs speak of paths relative to where the user said, so that the same data gives the same catalog anywhere
    for place in (job.tree.root if job.tree else None, job.source_options.files):
        if place is not None:
            message = message.replace(f"{place}/", "").replace(f"{place.absolute()}/", "")
    return message


def _as_stored(pairs: Pairs | None) -> Pairs | None:
    # what the file cannot tell apart is one thing from the start, so that mining again gives the same
    if pairs is None or (not len(pairs.a) and not pairs.num_points.any()):
        return None
    values: dict[str, Any] = {}
    for name in ("rotation_cos", "axis_cos", "triangulation_cos", "scale_ratio"):
        column = getattr(pairs, name)
        if column is not None and len(column) and np.isnan(column).all():
            values[name] = None
    return replace(pairs, **values)


def same_paths(paths: tuple[str, ...], indexed: list[str]) -> bool:
    # a member of an archive is indexed under its name there, which is the end of its path in the tree; an archive in an
    # archive stands for a folder
    if len(paths) != len(indexed):
        return False
    pairs = zip(map(_nfc, paths), map(_nfc, indexed), strict=True)
    return all(path == known or path.endswith("/" + known.replace(".tar/", "/")) for path, known in pairs)


def _nfc(path: str) -> str:
    return unicodedata.normalize("NFC", path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


# ---- sequences


def _mine(
    job: Job, task: StreamTask, frames: pa.Table, pairs: Pairs | None, problem: str | None
) -> tuple[Summary, pa.Table | None]:
    summary = _with_pairs(Summary(), pairs)
    reason = task.skip or _why_evaluated(job, frames)
    if reason is None and pairs is None and problem is not None and RULES[job.rule].needs == "pairs":
        reason = problem
    if reason is not None:
        return replace(summary, reason=reason), None
    stream, num_copies = _stream(job, task, frames, pairs)
    sequences = mine(job.rule, stream, job.options)
    summary = replace(summary, num_copies=num_copies, num_usable=int(np.count_nonzero(stream.usable)))
    if not sequences:
        return replace(summary, reason=_why_nothing(job, frames, stream)), None
    distinct = {sequence.tobytes() for sequence in sequences}
    covered = np.unique(np.concatenate(sequences))
    summary = replace(
        summary, num_sequences=len(sequences), num_distinct=len(distinct), num_covered=len(covered), reason=None
    )
    return summary, _sequence_table(job, task, sequences, pairs)


def _why_evaluated(job: Job, frames: pa.Table) -> str | None:
    # a benchmark may evaluate on a whole scene, or on some frames of it
    evaluated = frames.column("eval_of")
    if job.allow_eval_scenes or evaluated.null_count or not len(evaluated):
        return None
    return f"evaluation scene ({evaluated[0].as_py()})"


def _allowed(job: Job) -> tuple[str, ...]:
    return ("ok", "missing") if job.allow_missing else ("ok",)


def _stream(job: Job, task: StreamTask, frames: pa.Table, pairs: Pairs | None) -> tuple[Stream, int]:
    allowed = _allowed(job)
    usable = pc.is_in(frames.column("status"), pa.array(allowed)).to_numpy(zero_copy_only=False)
    if not job.allow_eval_scenes:
        usable = usable & frames.column("eval_of").is_null().to_numpy(zero_copy_only=False)
    poses = _poses(frames)
    copied = frames.column("duplicate_of").is_valid().to_numpy(zero_copy_only=False)
    if pairs is not None and not job.keep_copies:
        copied = copied | (copies(pairs, poses, usable & ~copied) >= 0)
    if not job.keep_copies:
        usable = usable & ~copied
    return Stream((job.name, *task.key), usable, pairs, poses, task.listed), int(np.count_nonzero(copied))


def _poses(frames: pa.Table) -> np.ndarray:
    column = frames.column("cam_from_world").combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    poses = np.full((len(column), 12), np.nan)
    known_rows = column.is_valid().to_numpy(zero_copy_only=False)
    poses[known_rows] = column.flatten().to_numpy().reshape(-1, 12)
    return poses.reshape(-1, 3, 4)


_NOTHING = {
    "depth": "no depth map",
    "mesh": "no mesh",
    "d2net": "no file of that name in --from-dir",
    "dkm": "no file of that name in --from-dir",
}


def _why_nothing(job: Job, frames: pa.Table, stream: Stream) -> str:
    status = frames.column("status").to_pylist()
    bad = Counter(one for one in status if one not in _allowed(job))
    states = ", ".join(f"{count} {one}" for one, count in sorted(bad.items()))
    why = explain_nothing(stream, job.options, job.rule)
    if stream.pairs is None and stream.listed is None and job.source in _NOTHING and RULES[job.rule].needs == "pairs":
        why = f"{_NOTHING[job.source]} tells what its frames share"
    return f"{why} ({states})" if states else why


def _sequence_table(job: Job, task: StreamTask, sequences: list[np.ndarray], pairs: Pairs | None) -> pa.Table:
    num = len(sequences)
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = np.concatenate(sequences).astype(np.int32) + np.int32(task.first)
    columns: dict[str, Any] = {
        "dataset": [job.name] * num,
        "split": [task.key[0]] * num,
        "scene": [task.key[1]] * num,
        "stream": [task.key[2]] * num,
        "sequence": np.arange(num, dtype=np.int32),
        "rule": [job.rule] * num,
        "frames": pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)),
        "num_frames": lengths,
    }
    if pairs is not None:
        graph = covisibility.neighbours(pairs)
        links = [_links(job.rule, sequence, graph).astype(np.float32) for sequence in sequences]
        link_offsets = np.concatenate([[0], np.cumsum(lengths - 1)]).astype(np.int32)
        columns["links"] = pa.ListArray.from_arrays(pa.array(link_offsets), pa.array(np.concatenate(links)))
        whole = covisibility.coherences(sequences, graph)
        columns["mean_overlap"] = [one.mean_overlap for one in whole]
        columns["density"] = [one.density for one in whole]
        columns["components"] = [one.components for one in whole]
    return catalog.build(SEQUENCES, columns)


def _links(rule: str, sequence: np.ndarray, graph: covisibility.Graph) -> np.ndarray:
    if RULES[rule].links == "anchor":
        return covisibility.overlap_between(np.repeat(sequence[:1], len(sequence) - 1), sequence[1:], graph)
    return covisibility.links(sequence, graph)


# ---- what scenes.parquet tells


def _with_pairs(summary: Summary, pairs: Pairs | None) -> Summary:
    if pairs is None:
        return summary
    ab, ba, _ = covisibility.overlaps(pairs)
    return replace(
        summary,
        num_pairs=len(ab),
        overlap_histogram=np.histogram(np.concatenate([ab, ba]), 20, (0, 1))[0].tolist(),
        rotation_histogram=_angle_histogram(pairs.rotation_cos),
        axis_histogram=_angle_histogram(pairs.axis_cos),
    )


# 20 bins of 9 degrees; the edges are cosines, so that no arccos decides
_EDGES = np.array([geometry.cos_deg(9.0 * step) for step in range(20, -1, -1)])


def _angle_histogram(cosines: np.ndarray | None) -> list[int] | None:
    if cosines is None:
        return None
    known_ones = cosines[~np.isnan(cosines)]
    return [int(count) for count in np.histogram(np.clip(known_ones, -1, 1), _EDGES)[0][::-1]]
