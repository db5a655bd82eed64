"""Pairs from the overlaps that other tools computed: D2-Net's matrices and DKM's lists.

In: a stream, and the folder (or one file) with `<scene>.npz` or `<scene>.npy`. Out: pairs with the file's overlaps,
whose images are found among the frames by the ends of their paths.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mumdata import geometry
from mumdata.covisibility import Pairs
from mumdata.datasets import Stream
from mumdata.errors import ConfigError, MumError
from mumdata.plain_pickle import load
from mumdata.sources.source import Source, SourceOptions
from mumdata.tree import Tree

__all__ = ["D2NET", "DKM", "d2net", "dkm", "match_paths"]

# folders that people give: the one with the files, or the dataset's, in which the tools make theirs
_INNER = ("", "scene_info/", "prep_scene_info/")

_MOST_COMPONENTS = 16  # of a path, from its end, that are compared


def d2net(tree: Tree, key: tuple[str | None, ...], stream: Stream, options: SourceOptions) -> Pairs | None:
    """Return the pairs of D2-Net's `<scene>.npz`, or `<scene>.<stream>.npz`; None where there is no file.

    overlap_matrix[i, j] is the share of i's points that j sees, too; -1: not known. Where the file counts points as the
    stream's model does, and its overlaps are ratios of counts, the counts are recovered: all is then as from tracks.
    Raises MumError where the file is broken, or none of its images is a frame of the stream.
    """
    path = _file_of(options.files, key, (".npz", ".npy"))
    if path is None:
        return None
    values = _values(path, ("image_paths", "overlap_matrix"))
    images = _paths(values, path)
    overlap = _square(values, "overlap_matrix", len(images), path)
    first, second = np.nonzero(overlap > 0)
    listed = _Listed(first, second, overlap[first, second].astype(np.float64))
    del overlap
    return _pairs(listed, images, values, stream, path, key, "d2net")


def dkm(tree: Tree, key: tuple[str | None, ...], stream: Stream, options: SourceOptions) -> Pairs | None:
    """Return the pairs of DKM's `<scene>.npy`; None where there is no file.

    `pairs` [k, 2] are those entries of D2-Net's matrix that are above 0, and `overlaps` [k] their values. A pair that
    is listed one way round only counts for both ways. Raises MumError as `d2net` does.
    """
    path = _file_of(options.files, key, (".npy", ".npz"))
    if path is None:
        return None
    values = _values(path, ("image_paths", "pairs", "overlaps"))
    images = _paths(values, path)
    listed = _listed(values, len(images), path)
    return _pairs(listed, images, values, stream, path, key, "dkm")


D2NET = Source(d2net, ("files",))
DKM = Source(dkm, ("files",))


# ---- the files


def _file_of(files: Path | None, key: tuple[str | None, ...], suffixes: tuple[str, ...]) -> Path | None:
    """Find the file of a stream: of its own name first; one without the stream's is for the first sub-model alone."""
    if files is None:
        raise ConfigError("no folder of matrices is given; say which one with --from-dir")
    files = Path(files)
    if files.is_file():
        return files
    candidates = (files / f"{inner}{name}{suffix}" for name in _names(key) for inner in _INNER for suffix in suffixes)
    return next((path for path in candidates if path.is_file()), None)


def _names(key: tuple[str | None, ...]) -> list[str]:
    """Return the names that a stream's file may have, without ending; none that leaves the folder."""
    scene, stream = str(key[2]), key[3]
    names = [scene] if stream is None else [f"{scene}.{stream}"]
    if stream is None:
        names.append(f"{scene}.0")  # D2-Net named its files by the sub-model at first
    elif stream == "0":
        names.append(scene)
    leaves = (name.startswith("/") or ".." in name.split("/") or "\0" in name for name in names)
    return [] if any(leaves) else names


def _values(path: Path, needed: Sequence[str]) -> Mapping[str, Any]:
    found = load(path)
    if isinstance(found, np.ndarray) and found.shape == () and found.dtype.hasobject:
        found = found.item()
    if not isinstance(found, Mapping):
        raise MumError(f"{path}: holds no named arrays; give a file of D2-Net's or DKM's kind")
    missing = [name for name in needed if name not in found]
    if missing:
        hint = ""
        if "pair_infos" in found:
            hint = "; it is an index of LoFTR's, a sample of pairs that does not tell what other frames share"
        elif "overlap_matrix" in found:
            hint = "; it holds a matrix: read it with --from d2net"
        elif "overlaps" in found:
            hint = "; it holds a list of pairs: read it with --from dkm"
        raise MumError(f"{path}: has no '{missing[0]}'{hint}")
    return found


def _paths(values: Mapping[str, Any], path: Path) -> list[str | None]:
    """Return the images' paths; None for those that the tool could not use."""
    found: list[str | None] = []
    for one in _items(values["image_paths"], f"{path}: image_paths"):
        if isinstance(one, bytes):
            one = os.fsdecode(one)
        if one is not None and not isinstance(one, str):
            raise MumError(f"{path}: image_paths holds something that is no path")
        found.append(str(one) if one else None)
    return found


def _items(value: Any, where: str) -> list[Any]:
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return [value[place] for place in range(len(value))] if value.dtype.hasobject else value.tolist()
    if isinstance(value, (list, tuple)):
        return list(value)
    raise MumError(f"{where} is no list")


def _square(values: Mapping[str, Any], name: str, num: int, path: Path) -> np.ndarray:
    """Return a matrix of numbers [num, num] whose values above 0 are shares, for an overlap, or anything finite."""
    matrix = values[name]
    if not isinstance(matrix, np.ndarray) or matrix.dtype.kind not in "fiu" or matrix.shape != (num, num):
        shape = matrix.shape if isinstance(matrix, np.ndarray) else type(matrix).__name__
        raise MumError(f"{path}: {name} is {shape}, not numbers of {num} x {num} images")
    if name == "overlap_matrix":
        _check_overlaps(matrix, path)
    return matrix


def _check_overlaps(overlap: np.ndarray, path: Path) -> None:
    if len(overlap) and not (np.min(overlap) >= -1 and np.max(overlap) <= 1):  # false of NaN, too
        raise MumError(f"{path}: holds overlaps that do not lie in 0 .. 1; make it again")


@dataclass(frozen=True, eq=False)
class _Listed:
    """Overlaps above 0 of ordered pairs of a file's images."""

    first: np.ndarray  # int64 [k]
    second: np.ndarray  # int64 [k]
    overlap: np.ndarray  # float64 [k]


def _listed(values: Mapping[str, Any], num: int, path: Path) -> _Listed:
    pairs, overlap = values["pairs"], values["overlaps"]
    if isinstance(pairs, list) and not pairs:
        pairs, overlap = np.zeros((0, 2), np.int64), np.zeros(0)
    whole = isinstance(pairs, np.ndarray) and pairs.dtype.kind in "iu" and pairs.ndim == 2 and pairs.shape[1] == 2
    known = isinstance(overlap, np.ndarray) and overlap.dtype.kind in "fiu" and overlap.ndim == 1
    if not whole or not known or len(pairs) != len(overlap):
        raise MumError(f"{path}: 'pairs' and 'overlaps' are not k pairs of images and k numbers")
    if len(pairs) and not 0 <= int(pairs.min()) <= int(pairs.max()) < num:
        raise MumError(f"{path}: 'pairs' names images that are not among the {num} of the file")
    _check_overlaps(overlap, path)
    first, second = (pairs[:, side].astype(np.int64) for side in (0, 1))
    kept = (overlap > 0) & (first != second)
    listed = _Listed(first[kept], second[kept], overlap[kept].astype(np.float64))
    ordered = listed.first * num + listed.second
    if len(np.unique(ordered)) != len(ordered):
        raise MumError(f"{path}: 'pairs' names a pair twice; make it again")
    return listed


# ---- the images among the frames


def match_paths(paths: Sequence[str | None], frames: Sequence[str]) -> np.ndarray:
    """Return the position among the frames of each path, int64, or -1.

    Two paths belong together when more of their last components are equal than with any other path of either side;
    where several do as well, none does. Names are compared in Unicode NFC.
    """
    ends = [_components(path) if path is not None else () for path in paths]
    frame_ends = [_components(frame) for frame in frames]
    counts = Counter(tail for one in ends for tail in _tails(one))
    frame_counts: Counter[tuple[str, ...]] = Counter()
    frame_of: dict[tuple[str, ...], int] = {}
    for place, one in enumerate(frame_ends):
        for tail in _tails(one):
            frame_counts[tail] += 1
            frame_of[tail] = place
    found = np.full(len(ends), -1, np.int64)
    for place, one in enumerate(ends):
        longest = next((tail for tail in _tails(one) if tail in frame_of), None)
        # the longest common tail: unique on both sides, or ambiguous
        if longest is not None and counts[longest] == 1 and frame_counts[longest] == 1:
            found[place] = frame_of[longest]
    return found


def _components(path: str) -> tuple[str, ...]:
    parts = unicodedata.normalize("NFC", path).replace("\\", "/").split("/")
    return tuple(part for part in parts if part not in ("", "."))[-_MOST_COMPONENTS:]


def _tails(components: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the last components of a path, from all of them to the name alone."""
    for start in range(len(components)):
        yield components[start:]


# ---- pairs


def _pairs(
    listed: _Listed,
    images: list[str | None],
    values: Mapping[str, Any],
    stream: Stream,
    path: Path,
    key: tuple[str | None, ...],
    source: str,
) -> Pairs | None:
    position = match_paths(images, stream.paths)
    if not (position >= 0).any():
        named = [image for image in images if image is not None]
        # a single file was given for all streams, and is of another one
        if not stream.paths or not named or path.stem not in [name.rpartition("/")[2] for name in _names(key)]:
            return None
        raise MumError(f"{path}: none of its {len(named)} images is a frame of this stream, as {named[0][-80:]!r}")
    num = len(stream.paths)
    row = np.full(num, -1, np.int64)
    row[position[position >= 0]] = np.flatnonzero(position >= 0)
    a, b, ab, ba = _both_ways(position[listed.first], position[listed.second], listed.overlap, num)
    num_points, shared = _counts(values, row, a, b, ab, ba, stream)
    poses = _poses(values, row, stream)
    return Pairs(
        a.astype(np.int32),
        b.astype(np.int32),
        num_points,
        shared,
        None if shared is not None else ab.astype(np.float32),
        None if shared is not None else ba.astype(np.float32),
        rotation_cos=None if poses is None else geometry.rotation_cos(poses, a, b),
        axis_cos=None if poses is None else geometry.axis_cos(poses, a, b),
        scale_ratio=_scale_ratio(values, row[a], row[b], len(images), path),
        source=source,
        notes=_notes(images, position, num, path),
    )


def _notes(images: list[str | None], position: np.ndarray, num_frames: int, path: Path) -> tuple[str, ...]:
    # the file's name alone: a catalog tells no folder of one machine
    num_images, num_found = sum(image is not None for image in images), int(np.count_nonzero(position >= 0))
    if num_images == num_found == num_frames:
        return ()
    strange, without = num_images - num_found, num_frames - num_found
    return (f"{path.name}: {strange} of its {num_images} images are no frames here; {without} frames are not in it",)


def _both_ways(
    first: np.ndarray, second: np.ndarray, overlap: np.ndarray, num: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Turn ordered pairs of positions (-1: not a frame) into unordered ones: a, b, overlap a->b and b->a.

    An overlap that is known one way round only counts for both: what is shared is shared.
    """
    kept = (first >= 0) & (second >= 0) & (first != second)
    first, second, overlap = first[kept], second[kept], overlap[kept]
    ordered = np.minimum(first, second) * num + np.maximum(first, second)
    name, pair = np.unique(ordered, return_inverse=True)
    forward = first < second
    ab, ba = np.zeros(len(name)), np.zeros(len(name))
    ab[pair[forward]] = overlap[forward]
    ba[pair[~forward]] = overlap[~forward]
    return name // max(num, 1), name % max(num, 1), np.where(ab > 0, ab, ba), np.where(ba > 0, ba, ab)


def _counts(
    values: Mapping[str, Any],
    row: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    ab: np.ndarray,
    ba: np.ndarray,
    stream: Stream,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the points of each frame and those that pairs share, or zeros and None where these do not follow.

    frames.parquet tells the points of the stream's model, so that the counts must be those of the same model; and every
    overlap must be the very ratio of two counts.
    """
    none = np.zeros(len(row), np.int32), None
    if stream.model is None or stream.rows is None or "n_points3D" not in values:
        return none
    counted = values["n_points3D"]
    num_points = stream.model.num_points[stream.rows].astype(np.int32)
    whole = isinstance(counted, np.ndarray) and counted.dtype.kind in "iu" and counted.ndim == 1
    if not whole or len(counted) <= int(row.max(initial=-1)):
        return none
    paired = np.union1d(a, b)
    if not np.array_equal(counted[row[paired]], num_points[paired]) or not (num_points[paired] > 0).all():
        return none
    num_a, num_b = num_points[a].astype(np.float64), num_points[b].astype(np.float64)
    shared = np.rint(ab * num_a)
    if not (np.array_equal(shared / num_a, ab) and np.array_equal(shared / num_b, ba)):
        return none
    return num_points, shared.astype(np.int32)


def _poses(values: Mapping[str, Any], row: np.ndarray, stream: Stream) -> np.ndarray | None:
    """Return cam_from_world float64 [n, 3, 4] of the frames as the stream knows it, else as the file does."""
    if stream.cameras is not None and np.isfinite(stream.cameras.cam_from_world).any():
        return stream.cameras.cam_from_world
    if stream.model is not None and stream.rows is not None:
        return stream.model.cam_from_world[stream.rows]
    given = values.get("poses")
    if not isinstance(given, np.ndarray) or given.ndim == 0 or len(given) <= int(row.max(initial=-1)):
        return None
    poses = np.full((len(row), 3, 4), np.nan)
    for position, place in enumerate(row.tolist()):
        pose = given[place] if place >= 0 else None
        if isinstance(pose, np.ndarray) and pose.dtype.kind == "f" and pose.size == 16:  # at first they were flat
            poses[position] = pose.reshape(4, 4)[:3]
    return poses if np.isfinite(poses).any() else None


def _scale_ratio(values: Mapping[str, Any], i: np.ndarray, j: np.ndarray, num: int, path: Path) -> np.ndarray | None:
    """Return D2-Net's ratio, float32, NaN where it is not known; at first it was another one the other way round."""
    if "scale_ratio_matrix" not in values:
        return None
    matrix = _square(values, "scale_ratio_matrix", num, path)
    ratio = np.maximum(matrix[i, j], matrix[j, i]).astype(np.float64)
    return np.where((ratio > 0) & np.isfinite(ratio), ratio, np.nan).astype(np.float32)
