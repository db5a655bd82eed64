"""COLMAP's files, record by record: cameras, images and points3D in binary or text.

In: one file's bytes, and its path for messages. Out: its records as arrays, with every count and size checked against
the file before it is believed. What the records of the three files say about each other is checked in
`mumdata.colmap`.
"""

from __future__ import annotations

import io
import mmap
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mumdata.errors import ModelError
from mumdata.geometry import CAMERA_MODEL_NAMES, NUM_PARAMS, intrinsics_from_params

__all__ = [
    "Camera",
    "Images",
    "Tracks",
    "cameras_bin",
    "cameras_txt",
    "images_bin",
    "images_txt",
    "tracks_bin",
    "tracks_txt",
]

Data = mmap.mmap | bytes

_LONGEST_NAME = 4096  # Linux's limit for a path; a name without an end must not swallow the file


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera, checked: a known model, a size of 1 .. 2^31 - 1, finite parameters in COLMAP's order."""

    model: str
    size: tuple[int, int]
    params: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Images:
    """The images file: one entry an image, in file order."""

    path: Path
    ids: list[int]
    names: list[bytes]
    camera_ids: list[int]
    poses: np.ndarray  # float64 [n, 7]: qw, qx, qy, qz, tx, ty, tz
    num_keypoints: np.ndarray  # int64 [n]
    # (row of image, keypoint), both int64 [m] -> id of the point the keypoint says it belongs to, int64 [m]
    point_id_at: Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Tracks:
    """The points3D file: points, and the elements of their tracks one after another."""

    path: Path
    ids: np.ndarray  # int64 [p]
    points: np.ndarray  # float64 [p, 3]
    lengths: np.ndarray  # int64 [p]
    image_ids: np.ndarray  # int64 [m]
    keypoints: np.ndarray  # int64 [m]


# --- binary -----------------------------------------------------------------------------------------------------------


def _count(path: Path, data: Data, least_bytes: int, what: str) -> int:
    """Read a file's leading count, refused where so many records do not fit into the file."""
    if len(data) < 8:
        raise ModelError(f"{path} has {len(data)} bytes, too few for its count of {what}; copy the file again")
    num: int = struct.unpack_from("<Q", data)[0]
    _fits(path, num, (len(data) - 8) // least_bytes, what)
    return num


def _fits(path: Path, num: int, most: int, what: str) -> None:
    if num > most:
        raise ModelError(f"{path} promises {num} {what}, the file holds at most {most}; copy the file again")


def _ends(path: Path, position: int, size: int, what: str) -> None:
    if position < size:
        raise ModelError(
            f"{path} holds {size - position} bytes after the last of the {what} it promises; copy the file again"
        )


def _gather(data: Data, offsets: np.ndarray, num_bytes: int) -> np.ndarray:
    """Copy `num_bytes` bytes from each offset, uint8 [n, num_bytes]; the offsets are known to fit."""
    if len(offsets) == 0:
        return np.empty((0, num_bytes), dtype=np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, dtype=np.uint8), num_bytes)
    return windows[offsets]


def cameras_bin(path: Path, data: Data) -> dict[int, Camera]:
    """Read cameras.bin: camera id -> camera."""
    num = _count(path, data, 40, "cameras")
    cameras: dict[int, Camera] = {}
    position = 8
    for _ in range(num):
        _fits(path, 24, len(data) - position, "bytes of a camera")
        camera_id, number, width, height = struct.unpack_from("<IiQQ", data, position)
        if number not in CAMERA_MODEL_NAMES:
            raise ModelError(f"{path}: camera {camera_id} has the unknown model id {number}; copy the file again")
        model = CAMERA_MODEL_NAMES[number]
        _fits(path, 8 * NUM_PARAMS[model], len(data) - position - 24, "bytes of camera parameters")
        params = struct.unpack_from(f"<{NUM_PARAMS[model]}d", data, position + 24)
        _add_camera(path, cameras, camera_id, Camera(model, (width, height), params))
        position += 24 + 8 * len(params)
    _ends(path, position, len(data), "cameras")
    return cameras


def images_bin(path: Path, data: Data) -> Images:
    """Read images.bin; keypoints are skipped, their point ids looked up on demand."""
    num = _count(path, data, 73, "images")
    ids, camera_ids, names = [], [], []
    poses, num_keypoints, starts = np.empty((num, 7)), np.empty(num, dtype=np.int64), np.empty(num, dtype=np.int64)
    position = 8
    for row in range(num):
        _fits(path, 73, len(data) - position, "bytes of an image")
        image_id, *pose, camera_id = struct.unpack_from("<I7dI", data, position)
        end = data.find(b"\0", position + 64, position + 64 + _LONGEST_NAME + 1)
        if end < 0 or end + 9 > len(data):
            raise ModelError(f"{path}: the name of image {image_id} does not end; copy the file again")
        (count,) = struct.unpack_from("<Q", data, end + 1)
        _fits(path, count, (len(data) - end - 9) // 24, f"keypoints in image {image_id}")
        ids.append(image_id)
        camera_ids.append(camera_id)
        names.append(data[position + 64 : end])
        poses[row], num_keypoints[row], starts[row] = pose, count, end + 9
        position = end + 9 + 24 * count  # x, y, point id of each keypoint are not looked at here
    _ends(path, position, len(data), "images")

    def point_id_at(rows: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
        return _gather(data, starts[rows] + 24 * keypoints + 16, 8).view("<i8")[:, 0]

    return Images(path, ids, names, camera_ids, poses, num_keypoints, point_id_at)


def tracks_bin(path: Path, data: Data) -> Tracks:
    """Read points3D.bin."""
    num = _count(path, data, 51, "points")
    # A record is id (8 bytes), position (24), colour (3), error (8), track length (8), then 8 bytes an element: where
    # the next one starts is known only after this one's length, so that much is a loop, and the rest is not.
    starts = array("q", [8])
    position, size, length_at = 8, len(data), struct.Struct("<Q").unpack_from
    for row in range(num):
        if position + 51 > size:
            _fits(path, num, row, "points")
        position += 51 + 8 * length_at(data, position + 43)[0]
        if position > size:
            raise ModelError(f"{path}: the track of point {row} leaves the file; copy the file again")
        starts.append(position)
    _ends(path, position, size, "points")
    bounds = np.frombuffer(starts, dtype=np.int64)
    records, lengths = bounds[:-1], (np.diff(bounds) - 51) // 8
    heads = _gather(data, records, 32)
    # first element of each track in bytes, less the elements before it, plus all elements in order
    first = records + 51 - 8 * (np.cumsum(lengths) - lengths)
    offsets = np.repeat(first, lengths) + 8 * np.arange(int(lengths.sum()), dtype=np.int64)
    elements = _gather(data, offsets, 8).view("<u4").astype(np.int64)
    ids = np.ascontiguousarray(heads[:, :8]).view("<i8")[:, 0]
    points = np.ascontiguousarray(heads[:, 8:]).view("<f8")
    return Tracks(path, ids, points, lengths, elements[:, 0], elements[:, 1])


# --- text -------------------------------------------------------------------------------------------------------------


def _lines(data: Data) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, line without its end) of a text file."""
    for number, line in enumerate(io.BytesIO(data[:]), 1):
        yield number, line.rstrip(b"\r\n")


def _records(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Skip blank lines and comments."""
    return ((number, line) for number, line in lines if line.strip() and not line.lstrip().startswith(b"#"))


def _bad_line(path: Path, number: int, what: str) -> ModelError:
    return ModelError(f"{path}, line {number}: {what}; export the model again")


def _id(text: bytes) -> int:
    value = int(text)
    if not 0 <= value < 1 << 32:
        raise ValueError(f"{value} is no id")
    return value


def cameras_txt(path: Path, data: Data) -> dict[int, Camera]:
    """Read cameras.txt: camera id -> camera."""
    cameras: dict[int, Camera] = {}
    for number, line in _records(_lines(data)):
        fields = line.split()
        try:
            camera_id, size = _id(fields[0]), (int(fields[2]), int(fields[3]))
            model, params = fields[1].decode("ascii"), tuple(float(field) for field in fields[4:])
        except (ValueError, IndexError):
            raise _bad_line(path, number, "expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]") from None
        _add_camera(path, cameras, camera_id, Camera(model, size, params))
    return cameras


def images_txt(path: Path, data: Data) -> Images:
    """Read images.txt: two lines an image, the second blank where it has no keypoints."""
    ids, camera_ids, names, poses = [], [], [], []
    keypoint_ids: list[np.ndarray] = []
    lines = _lines(data)
    for number, line in _records(lines):
        fields = line.strip().split(None, 9)  # the name is the rest of the line: it may hold spaces
        try:
            ids.append(_id(fields[0]))
            poses.append([float(field) for field in fields[1:8]])
            camera_ids.append(_id(fields[8]))
            names.append(fields[9])
        except (ValueError, IndexError):
            what = "expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
            raise _bad_line(path, number, what) from None
        keypoints = next(lines, (number + 1, b""))[1].split()  # blank, or missing at the end, where there are none
        try:
            if len(keypoints) % 3:
                raise ValueError(f"{len(keypoints)} numbers")
            keypoint_ids.append(np.fromiter(map(int, keypoints[2::3]), dtype=np.int64, count=len(keypoints) // 3))
        except (ValueError, OverflowError):
            raise _bad_line(path, number + 1, "expected keypoints as X Y POINT3D_ID") from None
    num_keypoints = np.array([len(some) for some in keypoint_ids], dtype=np.int64)
    starts = np.cumsum(num_keypoints) - num_keypoints
    every = np.concatenate([*keypoint_ids, np.empty(0, dtype=np.int64)])
    pose_array = np.array(poses, dtype=np.float64).reshape(-1, 7)
    return Images(path, ids, names, camera_ids, pose_array, num_keypoints, lambda rows, kp: every[starts[rows] + kp])


def tracks_txt(path: Path, data: Data) -> Tracks:
    """Read points3D.txt."""
    ids, lengths, elements, points = array("q"), array("q"), array("q"), array("d")
    for number, line in _records(_lines(data)):
        fields = line.split()
        if len(fields) < 8 or len(fields) % 2:
            raise _bad_line(path, number, "expected POINT3D_ID X Y Z R G B ERROR and pairs of IMAGE_ID POINT2D_IDX")
        try:
            ids.append(int(fields[0]))
            points.extend(map(float, fields[1:4]))
            elements.extend(map(int, fields[8:]))
        except (ValueError, OverflowError):
            raise _bad_line(path, number, "a field is not a number") from None
        lengths.append(len(fields) // 2 - 4)
    pairs = np.frombuffer(elements, dtype=np.int64).reshape(-1, 2)
    return Tracks(
        path,
        np.frombuffer(ids, dtype=np.int64),
        np.frombuffer(points, dtype=np.float64).reshape(-1, 3),
        np.frombuffer(lengths, dtype=np.int64),
        pairs[:, 0],
        pairs[:, 1],
    )


def _add_camera(path: Path, cameras: dict[int, Camera], camera_id: int, camera: Camera) -> None:
    if camera_id in cameras:
        raise ModelError(f"{path}: camera id {camera_id} occurs twice; export the model again")
    if not all(0 < length < 1 << 31 for length in camera.size):
        raise ModelError(f"{path}: camera {camera_id} has the size {camera.size}; export the model again")
    try:
        intrinsics_from_params(camera.model, camera.params)
    except ModelError as error:
        raise ModelError(f"{path}: camera {camera_id}: {error}") from None
    if not np.isfinite(camera.params).all():
        raise ModelError(f"{path}: camera {camera_id} has a parameter that is not finite; export the model again")
    cameras[camera_id] = camera
