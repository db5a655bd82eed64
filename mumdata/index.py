"""`mumdata index`: files on disk -> frames.parquet, scenes.parquet, quarantine.parquet.

In: a dataset's root. Out: a row for every frame, with its size from the header alone and its camera scaled to the
stored size; a row for every scene; a row for every file that cannot be used, with the reason. The same tree gives the
same bytes for any number of workers and any listing order.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mumdata import catalog, engine, roots
from mumdata.datasets import NAMES, Cameras, Scene, Stream, load
from mumdata.errors import CatalogError, ConfigError, DecodeError, LayoutError, MumError, TruncatedError
from mumdata.files import inside
from mumdata.geometry import scale_intrinsics
from mumdata.images import Header, read_header
from mumdata.schema import FRAMES, QUARANTINE, SCENES
from mumdata.tree import Tree

__all__ = ["MINED_COLUMNS", "Indexed", "index", "known_names", "module_of"]

# the columns of scenes.parquet that mining fills
MINED_COLUMNS = (
    "num_pairs",
    "num_sequences",
    "overlap_histogram",
    "rotation_histogram",
    "axis_histogram",
    "why_no_sequence",
)

_OWN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Indexed:
    """What an index run found: counts for the summary, and whether the catalog changed."""

    name: str
    catalog: Path
    num_scenes: int
    num_frames: int
    frame_statuses: dict[str, int]
    scene_statuses: dict[str, int]
    changed: bool


@dataclass(frozen=True)
class _Part:
    # one (split, scene, stream): its frames' columns, its row in scenes, its rows in quarantine
    key: tuple[str | None, str, str | None]
    frames: pa.Table
    scene: dict[str, Any]
    quarantine: list[tuple[str, str, str]]


def index(
    dataset: str,
    *,
    root: Path | None = None,
    name: str | None = None,
    catalogs: Path = catalog.DEFAULT,
    all_images: bool = False,
    workers: int | None = None,
) -> Indexed:
    """List a dataset's images and write its catalog.

    `dataset` is a known name, `folder` or `colmap`; the catalog of the last two is called `name`. `all_images` adds
    the photos of megascenes that no model registers. Raises LayoutError where the root does not exist or nothing in
    it can be used, ConfigError for names that are not known.
    """
    if dataset not in NAMES and name is None and (own := roots.remembered_dataset(dataset, catalogs)):
        dataset, name = own, dataset  # `index holiday`: again what it was indexed as
    module = load(dataset)
    called = _called(dataset, name)
    root = roots.find_root(called, catalogs, root)
    scenes = module.scenes(Tree(root, module.SPEC.archives))
    parts: list[_Part] = []
    work = functools.partial(_index_scene, dataset, called, root, all_images)
    for found in engine.each(work, scenes, workers, f"indexing {called}"):
        parts += found
    parts.sort(key=lambda part: tuple((value is not None, os.fsencode(value or "")) for value in part.key))
    if not any(part.frames.num_rows for part in parts):
        problems = [part.scene["detail"] for part in parts if part.scene["detail"]]
        reason = f" ({problems[0]})" if problems else ""
        raise LayoutError(f"{root}: none of {len(parts)} scenes has a frame{reason}; check that the images are there")
    frames, scene_table = _assemble(called, parts)
    folder = Path(catalogs, called)
    parameters = {"dataset": dataset} | ({"all_images": all_images} if dataset == "megascenes" else {})
    digest, changed = catalog.write(FRAMES, frames, folder / FRAMES.file_name, parameters=parameters)
    scene_table, inputs = _with_mined(scene_table, folder / SCENES.file_name, digest)
    catalog.write(SCENES, scene_table, folder / SCENES.file_name, inputs=inputs)
    _write_quarantine(called, parts, folder, digest)
    roots.remember_root(called, catalogs, root, dataset)
    return Indexed(
        called,
        folder,
        len(parts),
        frames.num_rows,
        dict(Counter(frames.column("status").to_pylist())),
        dict(Counter(scene_table.column("status").to_pylist())),
        changed,
    )


def known_names(catalogs: Path) -> list[str]:
    """Return the datasets that have a frames catalog."""
    return sorted(path.parent.name for path in Path(catalogs).glob(f"*/{FRAMES.file_name}"))


def module_of(name: str, catalogs: Path) -> str:
    """Return the dataset module that a catalog was indexed with: for `my-trip`, say, `colmap`."""
    footer = catalog.read_footer(FRAMES, Path(catalogs, name, FRAMES.file_name))
    return str(footer.parameters["dataset"])


def _called(dataset: str, name: str | None) -> str:
    if dataset not in ("folder", "colmap"):
        if name not in (None, dataset):
            raise ConfigError(f"--name is for folder and colmap; the catalog of {dataset} is called {dataset}")
        return dataset
    if name is None:
        return dataset
    if not _OWN_NAME.fullmatch(name) or name == "mixes":
        raise ConfigError(f"--name '{name}' must be letters, digits, '.', '_' or '-', and not 'mixes'")
    if name in NAMES and name != dataset:
        raise ConfigError(f"--name {name} is the name of a dataset; choose another")
    return name


def _index_scene(dataset: str, called: str, root: Path, all_images: bool, scene: Scene) -> list[_Part]:
    module = load(dataset)
    try:
        streams = module.read(Tree(root, module.SPEC.archives), scene)
    except MumError as error:  # one scene that cannot be listed does not end the run: it is a row with a status
        streams = [Stream(None, (), problem="unreadable", detail=str(error).replace(f"{root}/", ""))]
    if dataset == "megascenes" and not all_images:
        named = [stream for stream in streams if stream.stream is not None]
        streams = named or [_without_frames(streams[0])]
    return [_index_stream(called, root, scene, stream) for stream in streams]


def _without_frames(stream: Stream) -> Stream:
    return Stream(stream.stream, (), stream.group, problem=stream.problem, detail=stream.detail)


def _index_stream(called: str, root: Path, scene: Scene, stream: Stream) -> _Part:
    num = len(stream.paths)
    paths, status, reasons = list(stream.paths), ["ok"] * num, [""] * num
    size, mtime = np.full(num, -1, np.int64), np.full(num, -1, np.int64)
    shape, turns = np.zeros((num, 2), np.int64), np.zeros(num, np.int8)
    for row, path in enumerate(stream.paths):
        status[row], reasons[row], size[row], mtime[row], header = _look(root, path)
        if header is not None:
            shape[row] = header.width, header.height
            turns[row] = header.upright_quarter_turns
        paths[row] = _printable(path)
    cameras = stream.cameras
    intrinsics, posed = _cameras(cameras, shape, status, reasons) if cameras else (None, np.zeros(num, bool))
    quarantine = [
        (path, why, reason) for path, why, reason in zip(paths, status, reasons, strict=True) if why != "ok"
    ] + [(_printable(path), why, reason) for path, why, reason in stream.ignored]
    num_points = stream.model.num_points[stream.rows] if stream.model is not None else None
    seen = shape[:, 0] > 0
    has_camera = cameras is not None
    columns: dict[str, Any] = {
        "frame_id": np.zeros(num, np.int32),
        "dataset": [called] * num,
        "split": [scene.split] * num,
        "scene": [_printable(scene.scene)] * num,
        "stream": [stream.stream] * num,
        "group": [stream.group and _printable(stream.group)] * num,
        "frame": np.arange(num, dtype=np.int32),
        "path": paths,
        "bytes": pa.array(size, pa.int64(), mask=size < 0),
        "mtime_ns": pa.array(mtime, pa.int64(), mask=mtime < 0),
        "width": pa.array(shape[:, 0], pa.int32(), mask=~seen),
        "height": pa.array(shape[:, 1], pa.int32(), mask=~seen),
        "timestamp_s": stream.timestamps_s,
        "camera_model": list(cameras.model) if cameras else None,
        "intrinsics_px": intrinsics,
        "distortion": _lists(cameras.distortion) if cameras else None,
        "cam_from_world": _fixed(cameras.cam_from_world.reshape(num, 12), posed) if cameras else None,
        "num_points": num_points,
        "depth_path": list(stream.depth_paths) if stream.depth_paths else None,
        "mask_path": list(stream.mask_paths) if stream.mask_paths else None,
        # an image with a camera is used as stored: its camera describes the stored pixels
        "upright_quarter_turns": pa.array(turns, pa.int8(), mask=~seen | has_camera),
        "eval_of": ([stream.eval_of] * num if isinstance(stream.eval_of, str | None) else list(stream.eval_of)),
        "status": status,
    }
    about: dict[str, Any] = {
        "dataset": called,
        "split": scene.split,
        "scene": _printable(scene.scene),
        "stream": stream.stream,
        "group": stream.group and _printable(stream.group),
        "num_frames": num,
        "num_posed": int(posed.sum()),
        "num_points": len(stream.model.point_ids) if stream.model is not None else None,
    }
    about["status"], about["detail"] = _scene_status(stream, status, posed)
    table = catalog.build(FRAMES, columns)
    return _Part((scene.split, scene.scene, stream.stream), table, about, quarantine)


def _look(root: Path, path: str) -> tuple[str, str, int, int, Header | None]:
    # (status, reason, bytes, mtime, header) of one file; no pixel is decoded
    try:
        full = inside(root, path)
        # without O_NONBLOCK, opening a pipe would wait for whoever writes into it
        with open(full, "rb", buffering=0, opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            number = file.fileno()
            if not stat.S_ISREG(found.st_mode):
                return "unreadable", "not a regular file", -1, -1, None
            if found.st_size == 0:
                return "empty", "0 bytes", 0, found.st_mtime_ns, None
            try:
                header = read_header(lambda at, num: os.pread(number, num, at), found.st_size)
            except DecodeError as error:
                status = "truncated" if isinstance(error, TruncatedError) else "unreadable"
                return status, str(error), found.st_size, found.st_mtime_ns, None
    except (FileNotFoundError, NotADirectoryError):
        return "missing", "named by a model, a list or a link, not on disk", -1, -1, None
    except (IsADirectoryError, LayoutError) as error:
        return "unreadable", "a folder" if isinstance(error, OSError) else "its path leaves the root", -1, -1, None
    except OSError as error:
        return "unreadable", error.strerror or "input/output error", -1, -1, None
    if _printable(path) != path:
        return "name_not_utf8", "the name's bytes are not UTF-8", found.st_size, found.st_mtime_ns, header
    return "ok", "", found.st_size, found.st_mtime_ns, header


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _printable(text: str) -> str:
    # bytes that are not UTF-8 are written as \xNN, so that every catalog stays valid text
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "backslashreplace")


def _cameras(cameras: Cameras, shape: np.ndarray, status: list[str], reasons: list[str]) -> tuple[pa.Array, np.ndarray]:
    # intrinsics in pixels of the stored file; a file of another shape than its camera's is not the camera's image
    posed = np.isfinite(cameras.cam_from_world).all(axis=(1, 2))
    known = np.isfinite(cameras.intrinsics).all(axis=1) & (cameras.size > 0).all(axis=1)
    present = shape[:, 0] > 0
    in_pixels = known & (cameras.size != 1).any(axis=1)
    # a scaled copy may be off by rounding alone: one side predicts the other within a pixel and a half
    wide, high = shape[:, 0].astype(np.float64), shape[:, 1].astype(np.float64)
    camera_wide, camera_high = cameras.size[:, 0].astype(np.float64), cameras.size[:, 1].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.maximum(wide / camera_wide, high / camera_high)
        off = np.maximum(np.abs(wide - camera_wide * scale), np.abs(high - camera_high * scale))
    for row in np.flatnonzero(in_pixels & present & ~(off <= 1.5)):
        if status[row] == "ok":
            status[row] = "size_mismatch"
            reasons[row] = f"{shape[row, 0]} x {shape[row, 1]}, camera {cameras.size[row, 0]} x {cameras.size[row, 1]}"
    fits = known & np.array([state != "size_mismatch" for state in status], bool)
    # where the file is absent the camera's own size is all that is known
    target = np.where(present[:, None], shape, cameras.size)
    fits &= present | in_pixels
    scaled = np.full((len(shape), 4), np.nan)
    if fits.any():
        scaled[fits] = scale_intrinsics(cameras.intrinsics[fits], cameras.size[fits], target[fits])
    return _fixed(scaled, fits), posed


def _fixed(values: np.ndarray, valid: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(np.where(valid[:, None], values, 0), np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=pa.array(~valid))


def _lists(values: tuple[tuple[float, ...] | None, ...]) -> pa.Array:
    return pa.array([None if value is None else list(value) for value in values], pa.list_(pa.float32()))


def _scene_status(stream: Stream, status: list[str], posed: np.ndarray) -> tuple[str, str | None]:
    counts = Counter(status)
    counts.update(reason for _, reason, _ in stream.ignored if reason in ("leaves_root", "named_twice"))
    bad = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if name != "ok")
    if stream.problem is not None:
        return stream.problem, "; ".join(filter(None, (stream.detail, bad))) or None
    if not status:
        return "empty", stream.detail or "no frames"
    if counts["missing"]:
        return "missing_images", f"{bad} of {len(status)}"
    if stream.model is None and stream.cameras is None:
        return ("complete" if not bad else "bad_images"), bad or None
    if not posed.all():
        return "partial_poses", f"{int(posed.sum())} of {len(status)} frames have a pose" + (f"; {bad}" if bad else "")
    return ("complete" if not bad else "bad_images"), bad or None


def _assemble(called: str, parts: list[_Part]) -> tuple[pa.Table, pa.Table]:
    firsts = np.concatenate([[0], np.cumsum([part.frames.num_rows for part in parts])])
    frames = pa.concat_tables([part.frames for part in parts]).unify_dictionaries()
    ids = pa.array(np.arange(frames.num_rows, dtype=np.int32))
    frames = frames.set_column(0, FRAMES.columns.field("frame_id"), ids)
    rows = [part.scene for part in parts]
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in rows[0]}
    columns["first_frame_id"] = [
        int(first) if part.frames.num_rows else None for first, part in zip(firsts[:-1], parts, strict=True)
    ]
    return frames, catalog.build(SCENES, columns)


def _with_mined(table: pa.Table, path: Path, frames_digest: str) -> tuple[pa.Table, dict[str, str]]:
    # mining adds its counts to this file; they stay true as long as the frames are the same
    fresh = {"frames": frames_digest}
    try:
        old, inputs = catalog.read(SCENES, path), catalog.read_footer(SCENES, path).inputs
    except CatalogError:
        return table, fresh
    if inputs.get("frames") != frames_digest or "sequences" not in inputs:
        return table, fresh
    mined = {(row["split"], row["scene"], row["stream"]): row for row in old.to_pylist()}
    rows = table.to_pylist()
    for row in rows:
        known = mined.get((row["split"], row["scene"], row["stream"]), {})
        row |= {column: known.get(column) for column in MINED_COLUMNS}
    return catalog.build(SCENES, {name: [row[name] for row in rows] for name in SCENES.columns.names}), inputs


def _write_quarantine(called: str, parts: list[_Part], folder: Path, digest: str) -> None:
    rows = [row for part in parts for row in part.quarantine]
    columns = {
        "dataset": [called] * len(rows),
        "path": [path for path, _, _ in rows],
        "reason": [reason for _, reason, _ in rows],
        "detail": [detail for _, _, detail in rows],
        "found_by": ["index"] * len(rows),
    }
    table = catalog.build(QUARANTINE, columns)
    catalog.write(QUARANTINE, table, folder / QUARANTINE.file_name, inputs={"frames": digest})
