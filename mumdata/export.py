"""`mumdata export`: catalogs -> files that other tools read.

In: frames.parquet and covisibility.parquet of a dataset. Out: for each scene and stream D2-Net's matrices as an `.npz`
that holds plain arrays and no pickles, or the list of its covisible pairs as text. Written row by row: memory does not
grow with the square of the frames.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mumdata import catalog
from mumdata.covisibility import Pairs, overlaps
from mumdata.errors import CatalogError, ConfigError, MumError, unknown
from mumdata.files import atomic_path, inside, write_text
from mumdata.pairs import PAIR_COLUMNS, bounds, pairs_of_table
from mumdata.ranges import Range, read_range, whole
from mumdata.schema import COVISIBILITY, FRAMES, SCENES

__all__ = ["FORMATS", "export"]

FORMATS = ("d2net", "pairs")

_FRAME_COLUMNS = ("path", "depth_path", "status", "num_points", "intrinsics_px", "cam_from_world")
_BLOCK_CELLS = 1 << 20  # values of a matrix in memory at once
_ENDINGS = {"d2net": ".npz", "pairs": ".txt"}

Key = tuple[str | None, str, str | None]


def export(
    name: str,
    *,
    format: str = "d2net",
    out: Path,
    catalogs: Path = catalog.DEFAULT,
    split: str | None = None,
    scene: str | None = None,
    min_overlap: float = 0.1,
    allow_missing: bool = False,
) -> list[Path]:
    """Write what a dataset's frames share, a file for each scene and stream, and return the files.

    They are `<scene>.npz` or `<scene>.<stream>.npz` in the folder `out`; scenes with slashes make folders. Streams of
    which nothing is known, or of which no file is whole, are left out; `allow_missing` counts absent files as whole.
    Formats:

    * `d2net`: D2-Net's matrices (Dusmanu et al. 2019) as `.npz`, over the frames in their order. image_paths and
      depth_paths (relative to the dataset's root; "" for none), intrinsics float64 [n, 3, 3] in pixels and poses
      float64 [n, 4, 4] world-to-camera (NaN: not known), n_points3D int64 [n]; overlap_matrix float64 [n, n] with
      the share of i's points that j sees, -1 on the diagonal and for frames whose file is not whole;
      scale_ratio_matrix float64 [n, n], -1 without common points or where it was not computed; angles float64 [n, n]
      in degrees between the viewing axes, NaN where a camera is not known. What needs the points themselves
      (points3D_id_to_2D) is not in catalogs, and not written.
    * `pairs`: text, a line `path_a path_b` for each pair of whole frames of which either overlap is above 0 and at
      least `min_overlap`, in order of frames; as lists of image pairs for matching are.

    Raises CatalogError where a catalog is missing or the two do not belong together, ConfigError for a format, split
    or scene that is not known, MumError where nothing is known, a path cannot be written in the format, or a matrix is
    larger than this machine's memory.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if not 0.0 <= min_overlap <= 1.0:
        raise ConfigError(f"min_overlap is {min_overlap}; it must lie in 0 .. 1")
    folder = Path(catalogs, name)
    frames, pairs = _opened(folder)
    streams = _streams(folder)
    # where rows end follows from where those of the next stream begin, whichever are asked for
    ends = bounds(folder / COVISIBILITY.file_name, np.array([stream.first for stream in streams], np.int64))
    chosen = _chosen(streams, split, scene)
    targets = _targets(Path(out), [streams[place].key for place in chosen], _ENDINGS[format])
    written = []
    for place, target in zip(chosen, targets, strict=True):
        stream = streams[place]
        begin, end = int(ends[place]), int(ends[place + 1])
        of_stream = _read(replace(frames, first=stream.first, num=stream.num), _FRAME_COLUMNS)
        table = _read(replace(pairs, first=begin, num=end - begin), PAIR_COLUMNS)
        shared = pairs_of_table(table, stream.first, of_stream.column("num_points").fill_null(0).to_numpy())
        if shared is None:
            continue
        usable = _usable(of_stream, allow_missing)
        if not usable.any():
            continue
        if format == "d2net":
            _write_matrices(target, of_stream, shared, usable)
        else:
            _write_pairs(target, of_stream, shared, usable, min_overlap)
        written.append(target)
    if not written:
        raise MumError(
            f"nothing is known of what the chosen frames of {name} share, or no file of theirs is there; mine it with "
            "--from first, or give --allow-missing"
        )
    return written


# ---- what is written


@dataclass(frozen=True)
class _Stream:
    key: Key
    first: int
    num: int


def _opened(folder: Path) -> tuple[Range, Range]:
    """Return the rows of frames.parquet and covisibility.parquet; CatalogError where they do not belong together."""
    frames, pairs = folder / FRAMES.file_name, folder / COVISIBILITY.file_name
    digest = catalog.read_footer(FRAMES, frames).content_digest
    if catalog.read_footer(COVISIBILITY, pairs).inputs.get("frames") != digest:
        command = COVISIBILITY.command.format(dataset=folder.name)
        raise CatalogError(f"{pairs} was made from other frames; run '{command}'")
    if catalog.read_footer(SCENES, folder / SCENES.file_name).inputs.get("frames") != digest:
        command = SCENES.command.format(dataset=folder.name)
        raise CatalogError(f"{folder / SCENES.file_name} was made from other frames; run '{command}'")
    return whole(frames), whole(pairs)


def _read(rows: Range, columns: tuple[str, ...]) -> pa.Table:
    try:
        return read_range(rows, columns)
    except (pa.ArrowException, OSError) as error:
        raise CatalogError(f"{rows.file} is damaged, or was written anew meanwhile; run the command again") from error


def _streams(folder: Path) -> list[_Stream]:
    """Return the (split, scene, stream)s with frames, in the order of their frames."""
    names = ["split", "scene", "stream", "first_frame_id", "num_frames"]
    rows = catalog.read(SCENES, folder / SCENES.file_name, names).to_pylist()
    found = [
        _Stream((row["split"], row["scene"], row["stream"]), row["first_frame_id"], row["num_frames"])
        for row in rows
        if row["first_frame_id"] is not None and row["num_frames"]
    ]
    return sorted(found, key=lambda stream: stream.first)


def _chosen(streams: list[_Stream], split: str | None, scene: str | None) -> list[int]:
    splits = {stream.key[0] for stream in streams} - {None}
    if split not in (None, "all") and split not in splits:
        raise unknown("split", str(split), ["all", *(str(one) for one in splits)])
    chosen = [place for place, stream in enumerate(streams) if split in (None, "all", stream.key[0])]
    if scene is None:
        return chosen
    found = [place for place in chosen if streams[place].key[1] == scene]
    if not found:
        raise unknown("scene", scene, {streams[place].key[1] for place in chosen})
    return found


def _targets(out: Path, keys: list[Key], ending: str) -> list[Path]:
    """Name the files; ConfigError where two streams would have one name, LayoutError where one would leave `out`."""
    names: dict[str, Key] = {}
    for key in keys:
        _, scene, stream = key
        name = f"{scene}{ending}" if stream is None else f"{scene}.{stream}{ending}"
        if name in names:
            raise ConfigError(f"{_told(names[name])} and {_told(key)} would both be {name}; choose one with --split")
        names[name] = key
    return [inside(out, name) for name in names]


def _told(key: Key) -> str:
    return "/".join(part for part in key if part is not None)


# ---- lists of pairs


def _write_pairs(target: Path, frames: pa.Table, pairs: Pairs, whole_frame: np.ndarray, min_overlap: float) -> None:
    ab, ba, _ = overlaps(pairs)
    either = np.maximum(ab, ba)
    kept = (either > 0) & (either >= min_overlap) & whole_frame[pairs.a] & whole_frame[pairs.b]
    paths = frames.column("path").to_pylist()
    used = np.union1d(pairs.a[kept], pairs.b[kept])
    for path in (paths[place] for place in used.tolist()):
        if len(path.split()) != 1 or path.strip() != path:
            raise MumError(f"path {path!r} holds a space, which a list of pairs cannot tell; export --format d2net")
    lines = (f"{paths[a]} {paths[b]}\n" for a, b in zip(pairs.a[kept].tolist(), pairs.b[kept].tolist(), strict=True))
    write_text(target, "".join(lines))


def _usable(frames: pa.Table, allow_missing: bool) -> np.ndarray:
    allowed = ("ok", "missing") if allow_missing else ("ok",)
    return np.array([status in allowed for status in frames.column("status").to_pylist()], bool)


# ---- D2-Net's matrices


def _write_matrices(target: Path, frames: pa.Table, pairs: Pairs, usable: np.ndarray) -> None:
    num = frames.num_rows
    memory = _physical_bytes()
    if 8 * num * num > memory:
        gb = 1e9
        raise MumError(
            f"{target} would hold matrices of {8 * num * num / gb:.0f} GB, more than the {memory / gb:.0f} GB of this "
            "machine's memory, and no tool could read it here; choose another --scene, or export --format pairs"
        )
    depth = [path or "" for path in frames.column("depth_path").to_pylist()]
    cam_from_world = _rows(frames, "cam_from_world", 12).reshape(num, 3, 4)
    ab, ba, _ = overlaps(pairs)
    cells = _Cells(pairs, num)
    ratio = np.full(len(pairs.a), -1.0) if pairs.scale_ratio is None else pairs.scale_ratio.astype(np.float64)
    ratio = np.where(np.isnan(ratio), -1.0, ratio)
    # members are dated 1980, so that the same content gives the same bytes; DEFLATE's fastest level makes zeros small
    deflated: dict[str, Any] = {"compression": zipfile.ZIP_DEFLATED, "compresslevel": 1}
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w", **deflated) as archive:
        _put(archive, "image_paths", np.array(frames.column("path").to_pylist(), dtype=np.str_))
        _put(archive, "depth_paths", np.array(depth, dtype=np.str_))
        _put(archive, "intrinsics", _intrinsics(_rows(frames, "intrinsics_px", 4)))
        _put(archive, "poses", _poses(cam_from_world))
        _put(archive, "n_points3D", frames.column("num_points").fill_null(0).to_numpy().astype(np.int64))
        _put_square(archive, "overlap_matrix.npy", num, _overlap_rows(cells, ab, ba, usable))
        _put_square(archive, "scale_ratio_matrix.npy", num, _ratio_rows(cells, ratio, usable))
        # angles are stored as they are: they become no smaller
        _put_square(archive, zipfile.ZipInfo("angles.npy"), num, _angle_rows(cam_from_world[:, 2, :3]))


def _physical_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _rows(frames: pa.Table, name: str, width: int) -> np.ndarray:
    """Return a column of lists as float64 [n, width], NaN for null."""
    column = frames.column(name)
    found = np.full((frames.num_rows, width), np.nan)
    known = column.is_valid().to_numpy()
    if known.any():
        found[known] = column.drop_null().combine_chunks().flatten().to_numpy().reshape(-1, width)
    return found


def _intrinsics(focal_and_centre: np.ndarray) -> np.ndarray:
    """Return K float64 [n, 3, 3] of fx, fy, cx, cy; all NaN where they are not known."""
    fx, fy, cx, cy = focal_and_centre.T
    matrix = np.zeros((len(focal_and_centre), 3, 3))
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 0, 2], matrix[:, 1, 2], matrix[:, 2, 2] = fx, fy, cx, cy, 1.0
    matrix[np.isnan(focal_and_centre).any(axis=1)] = np.nan
    return matrix


def _poses(cam_from_world: np.ndarray) -> np.ndarray:
    """Return float64 [n, 4, 4] of [n, 3, 4]; all NaN where they are not known."""
    matrix = np.zeros((len(cam_from_world), 4, 4))
    matrix[:, :3] = cam_from_world
    matrix[:, 3, 3] = 1.0
    matrix[np.isnan(cam_from_world).any(axis=(1, 2))] = np.nan
    return matrix


class _Cells:
    """Where pairs lie in a square matrix: the entries of each row, from both sides of the pairs."""

    def __init__(self, pairs: Pairs, num: int) -> None:
        self.num = num
        row = np.concatenate([pairs.a, pairs.b]).astype(np.int64)
        self.order = np.argsort(row, kind="stable")
        self.row = row[self.order]
        self.column = np.concatenate([pairs.b, pairs.a])[self.order]

    def blocks(self, values: np.ndarray, empty: float) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, float64 [rows, n]) with `values` (of pairs a -> b, then b -> a), `empty` elsewhere."""
        values = values[self.order]
        step = max(1, _BLOCK_CELLS // max(self.num, 1))
        for first in range(0, self.num, step):
            block = np.full((min(step, self.num - first), self.num), empty)
            low, high = np.searchsorted(self.row, [first, first + len(block)])
            block[self.row[low:high] - first, self.column[low:high]] = values[low:high]
            yield first, block


def _overlap_rows(cells: _Cells, ab: np.ndarray, ba: np.ndarray, usable: np.ndarray) -> Iterator[np.ndarray]:
    for first, block in cells.blocks(np.concatenate([ab, ba]), 0.0):
        block[np.arange(len(block)), first + np.arange(len(block))] = -1.0
        yield _without(block, first, usable)


def _ratio_rows(cells: _Cells, ratio: np.ndarray, usable: np.ndarray) -> Iterator[np.ndarray]:
    for first, block in cells.blocks(np.concatenate([ratio, ratio]), -1.0):
        yield _without(block, first, usable)


def _without(block: np.ndarray, first: int, usable: np.ndarray) -> np.ndarray:
    block[~usable[first : first + len(block)]] = -1.0
    block[:, ~usable] = -1.0
    return block


def _angle_rows(axis: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the angles in degrees between each axis [n, 3] and all, float64 [1, n].

    By the tangent, sine over cosine: exact near 0 and 180 degrees, where the cosine hardly changes.
    """
    x, y, z = np.ascontiguousarray(axis.T)
    for a, b, c in axis.tolist():
        u, v, w = b * z - c * y, c * x - a * z, a * y - b * x  # cross product
        yield np.degrees(np.arctan2(np.sqrt(u * u + v * v + w * w), a * x + b * y + c * z))[np.newaxis]


# ---- .npz


def _put(archive: zipfile.ZipFile, name: str, values: np.ndarray) -> None:
    with archive.open(f"{name}.npy", "w") as member:
        np.lib.format.write_array(member, values, version=(1, 0), allow_pickle=False)


def _put_square(archive: zipfile.ZipFile, member: str | zipfile.ZipInfo, num: int, rows: Iterable[np.ndarray]) -> None:
    """Write a float64 matrix [num, num] from blocks of its rows."""
    start = io.BytesIO()
    np.lib.format.write_array_header_1_0(start, {"descr": "<f8", "fortran_order": False, "shape": (num, num)})
    with archive.open(member, "w", force_zip64=True) as file:
        file.write(start.getvalue())
        for block in rows:
            file.write(np.ascontiguousarray(block, dtype="<f8").tobytes())
