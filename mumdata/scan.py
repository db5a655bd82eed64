"""One scene of a dataset turned into rows: what every worker of an index run does.

In: a scene as its dataset lists it, and what an earlier run knew. Out: for each stream its rows of frames, its row of
scenes, and the rows of quarantine for what cannot be used. A function of its arguments and the disk alone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mumdata import catalog, previous
from mumdata.datasets import Cameras, Dataset, KnownBad, Scene, Stream, load
from mumdata.errors import MumError
from mumdata.geometry import scale_intrinsics
from mumdata.look import VERIFY, Looks, look
from mumdata.previous import Key, Rows
from mumdata.schema import FRAMES, QUARANTINE
from mumdata.tree import Tree

__all__ = ["Context", "Part", "Task", "printable", "scan", "sort_key"]


@dataclass(frozen=True)
class Context:
    """What all scenes of a run share."""

    dataset: str
    called: str
    tree: Tree
    all_images: bool
    verify: str
    hashes: bool
    work: Path


@dataclass(frozen=True)
class Task:
    """A scene with the rows that its streams had: in the catalog, and in the parts of an interrupted run."""

    scene: Scene
    catalog: dict[Key, Rows]
    parts: dict[Key, Rows]


@dataclass(frozen=True)
class Part:
    """One (split, scene, stream). `duplicate_of` in `frames` counts from the part's first row."""

    key: Key
    frames: pa.Table
    quarantine: pa.Table
    group: str | None
    status: str
    detail: str | None
    num_posed: int
    num_points: int | None
    num_copies: int
    statuses: dict[str, int]
    codecs: frozenset[str]
    num_read: int
    num_added: int
    num_changed: int
    num_kept: int


def sort_key(key: Sequence[str | None]) -> tuple[tuple[bool, bytes], ...]:
    """Order of the catalogs: UTF-8 bytes, nulls first."""
    return tuple((value is not None, printable(value or "").encode()) for value in key)


def printable(text: str) -> str:
    """Return the text with bytes that are not UTF-8 as \\xNN, so that every catalog stays valid text."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "backslashreplace")


def scan(context: Context, task: Task) -> list[Part]:
    """Read one scene and look at its files; its streams come sorted. What cannot be read is a row with a status."""
    module, scene = load(context.dataset), task.scene
    try:
        streams = module.read(context.tree, scene)
    except MumError as error:  # one scene that cannot be listed does not end the run
        detail = str(error).replace(f"{context.tree.root}/", "")
        streams = [Stream(None, (), problem="unreadable", detail=detail)]
    if context.dataset == "megascenes" and not context.all_images:
        named = [stream for stream in streams if stream.stream is not None]
        streams = named or [_without_frames(streams[0])]
    parts = [_part(context, task, module, stream) for stream in streams]
    return sorted(parts, key=lambda part: sort_key(part.key))


def _without_frames(stream: Stream) -> Stream:
    return Stream(stream.stream, (), stream.group, problem=stream.problem, detail=stream.detail)


def _part(context: Context, task: Task, module: Dataset, stream: Stream) -> Part:
    scene, num = task.scene, len(stream.paths)
    key = (scene.split, printable(scene.scene), stream.stream)
    in_catalog = task.catalog.get(key)
    earlier = task.parts.get(key) or in_catalog
    known = previous.read_rows(earlier) if earlier else None
    before = known if in_catalog is earlier else (previous.read_rows(in_catalog) if in_catalog else None)
    if earlier and VERIFY.index(earlier.verify) < VERIFY.index(context.verify):
        known = None  # looked at less closely than is asked for now
    looks = look(context.tree, stream.paths, context.verify, context.hashes, known, stream.sources, context.work)
    _mark_names(looks)
    doubts = _mark_known_bad(looks, module.SPEC.known_bad, scene, stream)
    for row, (status, reason) in stream.bad.items():
        if looks.status[row] == "ok":
            looks.status[row], looks.reason[row] = status, reason
    cameras = stream.cameras
    posed = np.zeros(num, bool)
    intrinsics = None
    if cameras is not None:
        posed = np.isfinite(cameras.cam_from_world).all(axis=(1, 2))
        intrinsics = _intrinsics(cameras, looks)
    copies = _copies(looks, cameras, module.SPEC.copies_by_name, context.hashes)
    statuses = Counter(looks.status)
    status, detail = _scene_status(stream, statuses, posed)
    columns = _columns(context, scene, stream, looks, intrinsics, posed, copies)
    num_added, num_changed, num_kept = _differences(looks, before)
    return Part(
        key,
        catalog.build(FRAMES, columns),
        _quarantine(context.called, looks, stream),
        stream.group and printable(stream.group),
        status,
        "; ".join(filter(None, (detail, *doubts))) or None,
        int(posed.sum()),
        len(stream.model.point_ids) if stream.model is not None else None,
        0 if copies is None else int((copies >= 0).sum()),
        dict(statuses),
        frozenset(filter(None, looks.codec)),
        looks.num_read,
        num_added,
        num_changed,
        num_kept,
    )


# ---- statuses


def _mark_names(looks: Looks) -> None:
    try:
        "".join(looks.path).encode("utf-8")
    except UnicodeEncodeError:
        for row, path in enumerate(looks.path):
            looks.path[row] = printable(path)
            if looks.path[row] != path and looks.status[row] == "ok":
                looks.status[row], looks.reason[row] = "name_not_utf8", "the name's bytes are not UTF-8"


def _mark_known_bad(looks: Looks, entries: tuple[KnownBad, ...], scene: Scene, stream: Stream) -> list[str]:
    # what is dropped gets its status; the rest is told in the scene's detail
    doubts = []
    for entry in entries:
        if entry.stream not in (None, stream.stream) or not fnmatchcase(scene.scene, entry.scene or "*"):
            continue
        text = f"{entry.reason} ({entry.source})"
        if entry.path is None:
            rows: Sequence[int] = range(len(stream.paths))
        else:
            rows = [row for row, path in enumerate(stream.paths) if path.endswith(entry.path)]
            if not rows:
                continue
        if not entry.drop and entry.scene is None and entry.stream is None and entry.path is None:
            continue  # of the whole dataset: `mumdata datasets NAME` says it once, not every scene
        if not entry.drop:
            doubts.append(f"doubted: {text}" if entry.path is None else f"{entry.path} doubted: {text}")
            continue
        for row in rows:
            if looks.status[row] == "ok":
                looks.status[row], looks.reason[row] = "known_bad", text
        if entry.path is None:
            doubts.append(f"known bad: {text}")
    return doubts


def _scene_status(stream: Stream, counts: Counter[str], posed: np.ndarray) -> tuple[str, str | None]:
    counts = counts.copy()
    num = counts.total()
    counts.update(reason for _, reason, _ in stream.ignored if reason in ("leaves_root", "named_twice"))
    bad = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if name != "ok")
    if stream.problem is not None:
        return stream.problem, "; ".join(filter(None, (stream.detail, bad))) or None
    detail = "; ".join(filter(None, (stream.detail, bad))) or None
    if not num:
        return "empty", stream.detail or "no frames"
    if counts["missing"]:
        return "missing_images", "; ".join(filter(None, (stream.detail, f"{bad} of {num}")))
    if stream.model is None and stream.cameras is None:
        return ("complete" if not bad else "bad_images"), detail
    if not posed.all():
        poses = f"{int(posed.sum())} of {num} frames have a pose"
        return "partial_poses", "; ".join(filter(None, (stream.detail, poses, bad)))
    return ("complete" if not bad else "bad_images"), detail


def _differences(looks: Looks, before: pa.Table | None) -> tuple[int, int, int]:
    # frames that are new, whose file changed, that were there already (changed or not), against the catalog's rows
    num = len(looks.path)
    if before is None:
        return num, 0, 0
    sizes = before.column("bytes").fill_null(-1).to_numpy()
    times = before.column("mtime_ns").fill_null(-1).to_numpy()
    if before.column("path").combine_chunks().equals(pa.array(looks.path, pa.string())):
        changed = (sizes != looks.size) | (times != looks.mtime)
        return 0, int(changed.sum()), num
    place = {path: row for row, path in enumerate(before.column("path").to_pylist())}
    rows = np.array([place.get(path, -1) for path in looks.path], np.int64)
    there = rows >= 0
    at = rows[there]
    changed = (sizes[at] != looks.size[there]) | (times[at] != looks.mtime[there])
    return int((~there).sum()), int(changed.sum()), int(there.sum())


# ---- copies


def _copies(looks: Looks, cameras: Cameras | None, by_name: bool, by_hash: bool) -> np.ndarray | None:
    # int64 [n]: the first frame that shows the same photo, -1 for first ones. By name means base name, size in pixels
    # and bytes: photos that are not on disk are told apart by the size of their camera.
    if not by_name and not by_hash:
        return None
    first: dict[tuple[Any, ...], int] = {}
    found = np.full(len(looks.path), -1, np.int64)
    for row, path in enumerate(looks.path):
        key: tuple[Any, ...]
        if by_hash and looks.hash[row] is not None:
            key = (looks.hash[row],)
        elif by_name:
            wide, high = int(looks.width[row]), int(looks.height[row])
            if wide < 0 and cameras is not None:
                wide, high = (int(length) for length in cameras.size[row])
            key = (path.rpartition("/")[2], wide, high, int(looks.size[row]))
        else:
            continue
        if (earlier := first.setdefault(key, row)) != row:
            found[row] = earlier
    return found


# ---- rows


def _columns(
    context: Context,
    scene: Scene,
    stream: Stream,
    looks: Looks,
    intrinsics: pa.Array | None,
    posed: np.ndarray,
    copies: np.ndarray | None,
) -> dict[str, Any]:
    num, cameras, model = len(stream.paths), stream.cameras, stream.model
    turns = looks.turns
    if stream.upright_quarter_turns is not None:
        turns = stream.upright_quarter_turns.astype(np.int64)
    elif cameras is not None:
        # an image with a camera is used as stored: its camera describes the stored pixels
        turns = np.full(num, -1, np.int64)
    in_archive = any(looks.archive)
    return {
        "frame_id": np.zeros(num, np.int32),
        "dataset": _constant(context.called, num),
        "split": _constant(scene.split, num),
        "scene": _constant(printable(scene.scene), num),
        "stream": _constant(stream.stream, num),
        "group": _constant(stream.group and printable(stream.group), num),
        "frame": np.arange(num, dtype=np.int32),
        "path": looks.path,
        "archive": looks.archive if in_archive else None,
        "codec": looks.codec if in_archive else None,
        "offset": _known(looks.offset, pa.int64()) if in_archive else None,
        "bytes": _known(looks.size, pa.int64()),
        "mtime_ns": _known(looks.mtime, pa.int64()),
        "width": _known(looks.width, pa.int32()),
        "height": _known(looks.height, pa.int32()),
        "timestamp_s": _seconds(stream.timestamps_s),
        "camera_model": list(cameras.model) if cameras else None,
        "intrinsics_px": intrinsics,
        "distortion": _lists(cameras.distortion) if cameras else None,
        "cam_from_world": _fixed(cameras.cam_from_world.reshape(num, 12), posed) if cameras else None,
        "num_points": model.num_points[stream.rows] if model is not None else None,
        "depth_path": _printables(stream.depth_paths),
        "mask_path": _printables(stream.mask_paths),
        "content_hash": looks.hash if context.hashes else None,
        "duplicate_of": _known(copies, pa.int32()) if copies is not None else None,
        "upright_quarter_turns": _known(turns, pa.int8()),
        "eval_of": (
            _constant(stream.eval_of, num)
            if stream.eval_of is None or isinstance(stream.eval_of, str)
            else list(stream.eval_of)
        ),
        "status": looks.status,
        "traits": looks.traits if any(looks.traits) else None,
    }


def _quarantine(called: str, looks: Looks, stream: Stream) -> pa.Table:
    rows = [
        (looks.archive[row], looks.path[row], status, looks.reason[row])
        for row, status in enumerate(looks.status)
        if status != "ok"
    ]
    rows += [(None, printable(path), why, reason) for path, why, reason in stream.ignored]
    columns = {
        "dataset": _constant(called, len(rows)),
        "archive": [archive for archive, _, _, _ in rows],
        "path": [path for _, path, _, _ in rows],
        "reason": [reason for _, _, reason, _ in rows],
        "detail": [detail for _, _, _, detail in rows],
        "found_by": _constant("index", len(rows)),
    }
    return catalog.build(QUARANTINE, columns)


def _intrinsics(cameras: Cameras, looks: Looks) -> pa.Array:
    # in pixels of the stored file; a file of another shape than its camera's is not the camera's image
    known = np.isfinite(cameras.intrinsics).all(axis=1) & (cameras.size > 0).all(axis=1)
    shape = np.stack([looks.width, looks.height], axis=1)
    present = looks.width > 0
    in_pixels = known & (cameras.size != 1).any(axis=1)
    # a scaled copy may be off by rounding alone: one side predicts the other within a pixel and a half
    wide, high = shape[:, 0].astype(np.float64), shape[:, 1].astype(np.float64)
    camera_wide, camera_high = cameras.size[:, 0].astype(np.float64), cameras.size[:, 1].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.maximum(wide / camera_wide, high / camera_high)
        off = np.maximum(np.abs(wide - camera_wide * scale), np.abs(high - camera_high * scale))
    for row in np.flatnonzero(in_pixels & present & ~(off <= 1.5)):
        if looks.status[row] == "ok":
            looks.status[row] = "size_mismatch"
            camera = f"camera {cameras.size[row, 0]} x {cameras.size[row, 1]}"
            looks.reason[row] = f"{shape[row, 0]} x {shape[row, 1]}, {camera}"
    fits = known & np.array([state != "size_mismatch" for state in looks.status], bool)
    # where the file is absent the camera's own size is all that is known
    target = np.where(present[:, None], shape, cameras.size)
    fits &= present | in_pixels
    scaled = np.full((len(shape), 4), np.nan)
    if fits.any():
        scaled[fits] = scale_intrinsics(cameras.intrinsics[fits], cameras.size[fits], target[fits])
    return _fixed(scaled, fits)


def _constant(value: str | None, num: int) -> pa.Array | None:
    if value is None:
        return None
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(num, np.int32)), pa.array([value], pa.string()))


def _known(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.int64(), mask=values < 0).cast(kind)


def _seconds(values: np.ndarray | None) -> pa.Array | None:
    return None if values is None else pa.array(values, pa.float64(), mask=np.isnan(values))


def _fixed(values: np.ndarray, valid: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(np.where(valid[:, None], values, 0), np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=pa.array(~valid))


def _lists(values: tuple[tuple[float, ...] | None, ...]) -> pa.Array:
    return pa.array([None if value is None else list(value) for value in values], pa.list_(pa.float32()))


def _printables(paths: tuple[str | None, ...] | None) -> list[str | None] | None:
    return None if paths is None else [path and printable(path) for path in paths]
