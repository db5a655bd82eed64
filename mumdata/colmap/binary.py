"""COLMAP's binary files, record by record.

In: one file's bytes, mapped or in memory, and its path for messages. Out: its records as arrays; a ModelError where a
count or a length exceeds the file, before anything of that size is allocated. Little endian throughout.
"""

from __future__ import annotations

import mmap
import struct

import numpy as np

from mumdata.colmap.records import (
    REFERENCE_POSE,
    Camera,
    Data,
    Frames,
    Images,
    Rigs,
    Tracks,
    add_camera,
    add_rig,
)
from mumdata.errors import ModelError
from mumdata.geometry import CAMERA_MODEL_NAMES, NUM_PARAMS

__all__ = ["read_cameras", "read_frames", "read_images", "read_rigs", "read_tracks"]

_LONGEST_NAME = 4096  # Linux's limit for a path; a name without an end must not swallow the file
# points that the plain walk passes in the time that loading its compiled form takes, about 0.3 s
_WORTH_LOADING = 2_000_000
_SPARSE = 1 << 17  # bytes an image in images.bin from which reading ahead reads mostly what is skipped

_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")  # id, model, width, height
_IMAGE = struct.Struct("<I7dI")  # id, pose, camera id; then a name that ends in 0, and the number of keypoints
_RIG = struct.Struct("<II")  # id, number of sensors
_SENSOR = struct.Struct("<iI")  # type, id
_POSE = struct.Struct("<7d")

_walked = 0  # points that this process has passed by the plain walk


def _count(path: str, data: Data, least_bytes: int, what: str) -> int:
    """Read a file's leading count, refused where so many records do not fit into the file."""
    if len(data) < 8:
        raise ModelError(f"{path} has {len(data)} bytes, too few for its count of {what}; copy the file again")
    num: int = _COUNT.unpack_from(data)[0]
    _fits(path, num, (len(data) - 8) // least_bytes, what)
    return num


def _fits(path: str, num: int, most: int, what: str) -> None:
    if num > most:
        raise ModelError(f"{path} promises {num} {what}, the file holds at most {most}; copy the file again")


def _ends(path: str, position: int, size: int, what: str) -> None:
    if position < size:
        raise ModelError(
            f"{path} holds {size - position} bytes after the last of the {what} it promises; copy the file again"
        )


def _words(data: Data) -> np.ndarray:
    """View a file of at least 8 bytes as the 64-bit words that start at each of its bytes, uint64 [bytes - 7]."""
    return np.ndarray((len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))


def _element_offsets(starts: np.ndarray, lengths: np.ndarray, head_bytes: int, element_bytes: int) -> np.ndarray:
    """Return where the elements of records lie, int64 [elements]: after each record's head, one after another."""
    offsets = np.arange(0, element_bytes * int(lengths.sum()), element_bytes, dtype=np.int64)
    # what lies before a record's elements and is not an element itself
    before = starts + head_bytes - element_bytes * (np.cumsum(lengths) - lengths)
    offsets += np.repeat(before, lengths)
    return offsets


def read_cameras(path: str, data: Data) -> dict[int, Camera]:
    """Read cameras.bin: camera id -> camera."""
    num = _count(path, data, 40, "cameras")
    cameras: dict[int, Camera] = {}
    position = 8
    for _ in range(num):
        _fits(path, 24, len(data) - position, "bytes of a camera")
        camera_id, number, width, height = _CAMERA.unpack_from(data, position)
        if number not in CAMERA_MODEL_NAMES:
            raise ModelError(f"{path}: camera {camera_id} has the unknown model id {number}; copy the file again")
        model = CAMERA_MODEL_NAMES[number]
        _fits(path, 8 * NUM_PARAMS[model], len(data) - position - 24, "bytes of camera parameters")
        params = struct.unpack_from(f"<{NUM_PARAMS[model]}d", data, position + 24)
        add_camera(path, cameras, camera_id, model, (width, height), params)
        position += 24 + 8 * len(params)
    _ends(path, position, len(data), "cameras")
    return cameras


def read_images(path: str, data: Data, every_keypoint: bool) -> Images:
    """Read images.bin, passing over the keypoints; `every_keypoint` says that `point_ids` will be asked for them."""
    num, size = _count(path, data, 73, "images"), len(data)
    if not every_keypoint and size > num * _SPARSE and isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        data.madvise(mmap.MADV_RANDOM)
    heads, names, counts, starts = [], [], [], []
    position = 8
    for _ in range(num):
        _fits(path, 73, size - position, "bytes of an image")
        head = _IMAGE.unpack_from(data, position)
        end = data.find(b"\0", position + 64, position + 64 + _LONGEST_NAME + 1)
        if end < 0 or end + 9 > size:
            raise ModelError(f"{path}: the name of image {head[0]} does not end; copy the file again")
        (count,) = _COUNT.unpack_from(data, end + 1)
        _fits(path, count, (size - end - 9) // 24, f"keypoints in image {head[0]}")
        heads.append(head)
        names.append(data[position + 64 : end])
        counts.append(count)
        starts.append(end + 9)
        position = end + 9 + 24 * count  # a keypoint is x, y and the id of its point
    _ends(path, position, size, "images")

    def point_ids(row: int) -> np.ndarray:
        if counts[row] == 0:
            return np.empty(0, dtype=np.int64)
        return np.ndarray((counts[row],), dtype="<i8", buffer=data, offset=starts[row] + 16, strides=(24,)).copy()

    numbers = np.array(heads, dtype=np.float64).reshape(num, 9)  # ids of 32 bits are exact
    num_keypoints = np.array(counts, dtype=np.int64)
    return Images(
        path=path,
        ids=numbers[:, 0].astype(np.int64),
        names=names,
        camera_ids=numbers[:, 8].astype(np.int64),
        poses=numbers[:, 1:8],
        num_keypoints=num_keypoints,
        point_ids=point_ids,
        bytes_read=size - 24 * int(num_keypoints.sum()),
    )


def read_tracks(path: str, data: Data) -> Tracks:
    """Read points3D.bin."""
    num = _count(path, data, 51, "points")
    # a record is id (8 bytes), position (24), colour (3), error (8), track length (8), then 8 bytes an element
    starts = _walk_points(path, data, num)
    _ends(path, int(starts[-1]), len(data), "points")
    if num == 0:
        none = np.empty(0, dtype=np.int64)
        return Tracks(path, none, np.empty((0, 3)), none, none.astype(np.uint32), none.astype(np.uint32))
    words, records, lengths = _words(data), starts[:-1], (np.diff(starts) - 51) // 8
    heads = words[records[:, None] + np.arange(0, 32, 8)]
    elements = words[_element_offsets(records, lengths, 51, 8)].view("<u4").reshape(-1, 2)
    return Tracks(
        path=path,
        ids=heads[:, 0].astype(np.int64),
        points=np.ascontiguousarray(heads[:, 1:]).view("<f8"),
        lengths=lengths,
        image_ids=elements[:, 0],
        keypoints=elements[:, 1],
    )


def _walk_points(path: str, data: Data, num: int) -> np.ndarray:
    """Return where each record of points3D.bin starts and the last one ends, int64 [num + 1]."""
    global _walked
    if num + _walked < _WORTH_LOADING:
        _walked += num
        starts = _walk(data, num, 51, struct.Struct("<Q"), 8)
        whole = len(starts) - 1
    else:
        from mumdata.kernels.colmap import walk

        starts = np.empty(num + 1, dtype=np.int64)
        whole = walk(np.frombuffer(data, dtype=np.uint8), starts)
    if whole < num:
        if starts[whole] + 51 > len(data):
            _fits(path, num, whole, "points")
        raise ModelError(f"{path}: the track of point {whole} leaves the file; copy the file again")
    return starts


def _walk(data: Data, num: int, head_bytes: int, length: struct.Struct, element_bytes: int) -> np.ndarray:
    """Return where up to `num` records start, and after them where the last one that lies wholly in the file ends.

    A record's head ends in its number of elements. Where this one cannot keep up, `mumdata.kernels.colmap.walk` can.
    """
    length_at, at = length.unpack_from, head_bytes - length.size
    starts, position = [], 8
    try:
        for _ in range(num):
            starts.append(position)
            position += head_bytes + element_bytes * length_at(data, position + at)[0]
        starts.append(position)
    except (struct.error, OverflowError):  # the last record or its elements leave the file
        pass
    while starts[-1] > len(data):
        starts.pop()
    return np.array(starts, dtype=np.int64)


def read_rigs(path: str, data: Data) -> Rigs:
    """Read rigs.bin."""
    num = _count(path, data, 8, "rigs")
    rigs: dict[int, dict[int, tuple[float, ...] | None]] = {}
    position, size = 8, len(data)
    for _ in range(num):
        _fits(path, 8, size - position, "bytes of a rig")
        rig_id, num_sensors = _RIG.unpack_from(data, position)
        position += 8
        _fits(path, num_sensors, (size - position - 8) // 9 + 1, f"sensors in rig {rig_id}")
        sensors: list[tuple[int, int, tuple[float, ...] | None]] = []
        for number in range(num_sensors):
            # the reference sensor comes first and is 8 bytes; the others say whether a pose follows
            _fits(path, 8 if number == 0 else 9, size - position, "bytes of a sensor")
            kind, sensor_id = _SENSOR.unpack_from(data, position)
            position += 8
            pose: tuple[float, ...] | None = REFERENCE_POSE
            if number > 0:
                known = data[position]
                position += 1
                if known > 1:
                    raise ModelError(f"{path}: a sensor of rig {rig_id} is marked {known}, not 0 or 1; copy it again")
                pose = None
                if known:
                    _fits(path, 56, size - position, "bytes of a sensor's pose")
                    pose = _POSE.unpack_from(data, position)
                    position += 56
            sensors.append((kind, sensor_id, pose))
        add_rig(path, rigs, rig_id, sensors)
    _ends(path, position, size, "rigs")
    return Rigs(path, rigs)


def read_frames(path: str, data: Data) -> Frames:
    """Read frames.bin."""
    num = _count(path, data, 68, "frames")
    # a record is id and rig (4 bytes each), rig_from_world (56), number of measurements (4), then for each its sensor's
    # type and id (4 bytes each) and its own id (8)
    starts = _walk(data, num, 68, struct.Struct("<I"), 16)
    whole = len(starts) - 1
    if whole < num:
        if starts[whole] + 68 > len(data):
            _fits(path, num, whole, "frames")
        raise ModelError(f"{path}: frame number {whole} leaves the file; copy the file again")
    _ends(path, int(starts[-1]), len(data), "frames")
    if num == 0:
        none = np.empty(0, dtype=np.int64)
        return Frames(path, none, none, np.empty((0, 7)), none, none, none, none)
    words, records, lengths = _words(data), starts[:-1], (np.diff(starts) - 68) // 16
    heads = words[records[:, None] + np.arange(0, 64, 8)]
    ids = np.ascontiguousarray(heads[:, 0]).view("<u4").reshape(-1, 2).astype(np.int64)
    offsets = _element_offsets(records, lengths, 68, 16)
    sensors = words[offsets].view("<i4").reshape(-1, 2)
    return Frames(
        path=path,
        ids=ids[:, 0],
        rig_ids=ids[:, 1],
        poses=np.ascontiguousarray(heads[:, 1:]).view("<f8"),
        lengths=lengths,
        sensor_types=sensors[:, 0].astype(np.int64),
        sensor_ids=sensors[:, 1].view("<u4").astype(np.int64),
        data_ids=words[offsets + 8].astype(np.int64),
    )
