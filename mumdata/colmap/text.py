"""COLMAP's text files, record by record.

In: one file's bytes, mapped or in memory, and its path for messages. Out: its records as arrays; a ModelError names the
line that makes no sense. Numbers are separated by any white space, lines end in LF or CRLF, comments start with #.
"""

from __future__ import annotations

import io
import mmap
from array import array
from collections.abc import Iterator

import numpy as np

from mumdata.colmap.records import (
    CAMERA_SENSOR,
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

__all__ = ["read_cameras", "read_frames", "read_images", "read_rigs", "read_tracks"]

_MOST_ID = (1 << 32) - 1
_LIMITS = np.iinfo(np.int64)


def _lines(data: Data) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, line) of a text file."""
    if isinstance(data, mmap.mmap):
        data.seek(0)
        return enumerate(iter(data.readline, b""), 1)
    return enumerate(io.BytesIO(data), 1)


def _records(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Skip blank lines and comments; what is left has no white space at its ends."""
    for number, line in lines:
        stripped = line.strip()
        if stripped and not stripped.startswith(b"#"):
            yield number, stripped


def _bad_line(path: str, number: int, what: str) -> ModelError:
    return ModelError(f"{path}, line {number}: {what}; export the model again")


def _id(text: bytes) -> int:
    value = int(text)
    if not 0 <= value <= _MOST_ID:
        raise ValueError(f"{value} is no id")
    return value


def _integers(text: bytes, num: int) -> np.ndarray | None:
    """Read `num` integers separated by spaces, int64 [num]; None where they are others, or do not fit."""
    if num == 0:
        return np.empty(0, dtype=np.int64)
    try:
        values = np.fromstring(text, dtype=np.int64, sep=" ")
    except (ValueError, DeprecationWarning):  # NumPy before 2.3 warns of what it cannot read, and stops there
        return None
    if len(values) != num:
        return None
    if values.min() == _LIMITS.min or values.max() == _LIMITS.max:  # what a number that does not fit becomes
        try:
            return np.array([int(field) for field in text.split()], dtype=np.int64)
        except (ValueError, OverflowError):  # ValueError: of more than 4300 digits
            return None
    return values


def read_cameras(path: str, data: Data) -> dict[int, Camera]:
    """Read cameras.txt: camera id -> camera."""
    cameras: dict[int, Camera] = {}
    for number, line in _records(_lines(data)):
        fields = line.split()
        try:
            camera_id, size = _id(fields[0]), (int(fields[2]), int(fields[3]))
            model, params = fields[1].decode("ascii"), tuple(map(float, fields[4:]))
        except (ValueError, IndexError):
            raise _bad_line(path, number, "expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]") from None
        add_camera(path, cameras, camera_id, model, size, params)
    return cameras


def read_images(path: str, data: Data, every_keypoint: bool) -> Images:
    """Read images.txt: two lines an image, the second blank where it has no keypoints.

    Text has to be gone through to find its lines, whether `every_keypoint` is asked for or not.
    """
    ids, camera_ids, names, poses = [], [], [], []
    point_ids: list[np.ndarray] = []
    lines = _lines(data)
    for number, line in _records(lines):
        fields = line.split(None, 9)  # the name is the rest of the line: it may hold spaces
        try:
            ids.append(_id(fields[0]))
            poses.append([float(field) for field in fields[1:8]])
            camera_ids.append(_id(fields[8]))
            names.append(fields[9])
        except (ValueError, IndexError):
            what = "expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
            raise _bad_line(path, number, what) from None
        keypoints = next(lines, (number + 1, b""))[1].split()  # blank, or missing at the end, where there are none
        named = None
        if len(keypoints) % 3 == 0:
            named = _integers(b" ".join(keypoints[2::3]), len(keypoints) // 3)
        if named is None:
            raise _bad_line(path, number + 1, "expected keypoints as X Y POINT3D_ID")
        point_ids.append(named)
    return Images(
        path=path,
        ids=np.array(ids, dtype=np.int64),
        names=names,
        camera_ids=np.array(camera_ids, dtype=np.int64),
        poses=np.array(poses, dtype=np.float64).reshape(-1, 7),
        num_keypoints=np.array([len(some) for some in point_ids], dtype=np.int64),
        point_ids=point_ids.__getitem__,
        bytes_read=len(data),
    )


def read_tracks(path: str, data: Data) -> Tracks:
    """Read points3D.txt."""
    ids, points, lengths, numbers = array("q"), array("d"), array("q"), array("q")
    elements: list[bytes] = []
    for number, line in _records(_lines(data)):
        fields = line.split()
        if len(fields) < 8 or len(fields) % 2:
            raise _bad_line(path, number, "expected POINT3D_ID X Y Z R G B ERROR and pairs of IMAGE_ID POINT2D_IDX")
        try:
            ids.append(int(fields[0]))
            points.extend(map(float, fields[1:4]))
        except (ValueError, OverflowError):
            raise _bad_line(path, number, "a field is not a number") from None
        elements.append(b" ".join(fields[8:]))
        lengths.append(len(fields) // 2 - 4)
        numbers.append(number)
    num = np.frombuffer(lengths, dtype=np.int64)
    pairs = _integers(b" ".join(elements), 2 * int(num.sum()))
    if pairs is None or (len(pairs) and (pairs.min() < 0 or pairs.max() > _MOST_ID)):
        raise _bad_element(path, numbers, elements)
    columns = np.ascontiguousarray(pairs.reshape(-1, 2).T, dtype=np.uint32)
    return Tracks(
        path=path,
        ids=np.frombuffer(ids, dtype=np.int64),
        points=np.frombuffer(points, dtype=np.float64).reshape(-1, 3),
        lengths=num,
        image_ids=columns[0],
        keypoints=columns[1],
    )


def _bad_element(path: str, numbers: array[int], elements: list[bytes]) -> ModelError:
    """Say which is the first track with an element that is not an image's id and a keypoint's index."""
    for number, text in zip(numbers, elements, strict=True):
        for place, field in enumerate(text.split()):
            try:
                _id(field)
            except ValueError:
                what = "keypoint" if place % 2 else "image"
                return _bad_line(path, number, f"the track names {what} {field[:40].decode('ascii', 'replace')}")
    return ModelError(f"{path}: a track holds a number that cannot be read; export the model again")


def _pose(fields: list[bytes]) -> tuple[float, ...]:
    if len(fields) != 7:
        raise ValueError(f"a pose has 7 numbers, not {len(fields)}")
    return tuple(map(float, fields))


def _sensor_type(name: bytes) -> int:
    return CAMERA_SENSOR if name == b"CAMERA" else -1


def read_rigs(path: str, data: Data) -> Rigs:
    """Read rigs.txt."""
    rigs: dict[int, dict[int, tuple[float, ...] | None]] = {}
    for number, line in _records(_lines(data)):
        fields = line.split()
        try:
            rig_id, num_sensors = _id(fields[0]), _id(fields[1])
            sensors = _sensors(fields[2:])
            if len(sensors) != num_sensors:
                raise ValueError(f"{len(sensors)} sensors")
        except (ValueError, IndexError):
            what = "expected RIG_ID NUM_SENSORS REF_SENSOR_TYPE REF_SENSOR_ID and SENSOR_TYPE SENSOR_ID HAS_POSE [POSE]"
            raise _bad_line(path, number, what) from None
        add_rig(path, rigs, rig_id, sensors)
    return Rigs(path, rigs)


def _sensors(fields: list[bytes]) -> list[tuple[int, int, tuple[float, ...] | None]]:
    """Read a rig's sensors as (type, id, sensor_from_rig), the reference sensor first."""
    sensors: list[tuple[int, int, tuple[float, ...] | None]] = []
    position = 0
    while position < len(fields):
        kind, sensor_id = _sensor_type(fields[position]), _id(fields[position + 1])
        pose: tuple[float, ...] | None = REFERENCE_POSE
        position += 2
        if sensors:
            pose = None
            known = fields[position]
            position += 1
            if known == b"1":
                pose = _pose(fields[position : position + 7])
                position += 7
            elif known != b"0":
                raise ValueError(f"{known!r} is neither 0 nor 1")
        sensors.append((kind, sensor_id, pose))
    return sensors


def read_frames(path: str, data: Data) -> Frames:
    """Read frames.txt."""
    ids, rig_ids, lengths, poses = [], [], [], []
    measured: list[tuple[int, int, int]] = []
    for number, line in _records(_lines(data)):
        fields = line.split()
        try:
            ids.append(_id(fields[0]))
            rig_ids.append(_id(fields[1]))
            poses.append(_pose(fields[2:9]))
            lengths.append(_id(fields[9]))
            if len(fields) != 10 + 3 * lengths[-1]:
                raise ValueError(f"{len(fields)} fields")
            for kind, sensor_id, data_id in zip(fields[10::3], fields[11::3], fields[12::3], strict=True):
                # what other sensors measure has numbers of its own
                place = _id(data_id) if kind == b"CAMERA" else -1
                measured.append((_sensor_type(kind), _id(sensor_id), place))
        except (ValueError, IndexError):
            what = "expected FRAME_ID RIG_ID RIG_FROM_WORLD[7] NUM_DATA_IDS and SENSOR_TYPE SENSOR_ID DATA_ID of each"
            raise _bad_line(path, number, what) from None
    data_ids = np.array(measured, dtype=np.int64).reshape(-1, 3)
    return Frames(
        path=path,
        ids=np.array(ids, dtype=np.int64),
        rig_ids=np.array(rig_ids, dtype=np.int64),
        poses=np.array(poses, dtype=np.float64).reshape(-1, 7),
        lengths=np.array(lengths, dtype=np.int64),
        sensor_types=data_ids[:, 0],
        sensor_ids=data_ids[:, 1],
        data_ids=data_ids[:, 2],
    )
