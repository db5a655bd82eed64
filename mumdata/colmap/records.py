"""What COLMAP's files hold, whether binary or text: cameras, images, tracks, rigs and frames.

In: nothing but numbers and names. Out: the records that `mumdata.colmap.binary` and `mumdata.colmap.text` fill in and
`mumdata.colmap` puts together. Each speaks of one file, every number in it checked against that file; what the files
say about each other is not checked yet.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mumdata.errors import ModelError
from mumdata.geometry import intrinsics_from_params

__all__ = [
    "CAMERA_SENSOR",
    "NO_POINT",
    "REFERENCE_POSE",
    "Camera",
    "Data",
    "Frames",
    "Images",
    "Rigs",
    "Tracks",
    "add_camera",
    "add_rig",
    "file_name",
]

Data = mmap.mmap | bytes

NO_POINT = -1  # a keypoint that belongs to no 3D point: 2^64 - 1 in binary files
CAMERA_SENSOR = 0  # COLMAP's number for the kind of sensor that takes images
REFERENCE_POSE = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)  # a rig's reference sensor is where the rig is


class Camera(NamedTuple):
    """One camera, checked: a known model, a size of 1 .. 2^31 - 1, finite parameters."""

    model: str
    size: tuple[int, int]  # width, height
    intrinsics: tuple[float, float, float, float]  # fx, fy, cx, cy in pixels
    distortion: tuple[float, ...]  # COLMAP's parameters after the principal point


@dataclass(frozen=True, eq=False)
class Images:
    """The images file: one entry an image, in file order."""

    path: str
    ids: np.ndarray  # int64 [n]
    names: list[bytes]
    camera_ids: np.ndarray  # int64 [n]
    poses: np.ndarray  # float64 [n, 7]: qw, qx, qy, qz, tx, ty, tz
    num_keypoints: np.ndarray  # int64 [n]
    # row of an image -> id of the point that each of its keypoints names, int64 [keypoints]; NO_POINT where none
    point_ids: Callable[[int], np.ndarray]
    bytes_read: int  # of the file, without what `point_ids` reads later


@dataclass(frozen=True, eq=False)
class Tracks:
    """The points3D file: points, and the elements of their tracks one after another."""

    path: str
    ids: np.ndarray  # int64 [p]
    points: np.ndarray  # float64 [p, 3]
    lengths: np.ndarray  # int64 [p]
    image_ids: np.ndarray  # uint32 [m]
    keypoints: np.ndarray  # uint32 [m]


@dataclass(frozen=True, eq=False)
class Rigs:
    """The rigs file: rig id -> camera id -> sensor_from_rig as qw .. tz, or None where it is not known.

    Sensors that are not cameras are left out.
    """

    path: str
    cameras: dict[int, dict[int, tuple[float, ...] | None]]


@dataclass(frozen=True, eq=False)
class Frames:
    """The frames file: one entry a frame, in file order, and what its sensors measured one after another."""

    path: str
    ids: np.ndarray  # int64 [f]
    rig_ids: np.ndarray  # int64 [f]
    poses: np.ndarray  # float64 [f, 7]: rig_from_world as qw, qx, qy, qz, tx, ty, tz
    lengths: np.ndarray  # int64 [f]
    sensor_types: np.ndarray  # int64 [d]
    sensor_ids: np.ndarray  # int64 [d]
    data_ids: np.ndarray  # int64 [d], of a camera: an image's id


def file_name(path: str) -> str:
    """Return the last part of a path."""
    return path.rpartition("/")[2]


def add_camera(
    path: str, cameras: dict[int, Camera], camera_id: int, model: str, size: tuple[int, int], params: tuple[float, ...]
) -> None:
    """Check a camera and add it; ModelError where it makes no sense or its id is taken."""
    if camera_id in cameras:
        raise ModelError(f"{path}: camera id {camera_id} occurs twice; export the model again")
    if not (0 < size[0] < 1 << 31 and 0 < size[1] < 1 << 31):
        raise ModelError(f"{path}: camera {camera_id} has the size {size}; export the model again")
    try:
        intrinsics, distortion = intrinsics_from_params(model, params)
    except ModelError as error:
        raise ModelError(f"{path}: camera {camera_id}: {error}") from None
    if not all(map(math.isfinite, params)):
        raise ModelError(f"{path}: camera {camera_id} has a parameter that is not finite; export the model again")
    cameras[camera_id] = Camera(model, size, intrinsics, distortion)


def add_rig(
    path: str,
    rigs: dict[int, dict[int, tuple[float, ...] | None]],
    rig_id: int,
    sensors: list[tuple[int, int, tuple[float, ...] | None]],
) -> None:
    """Add a rig given as (sensor type, sensor id, sensor_from_rig).

    ModelError where an id occurs twice, or a known pose is no pose.
    """
    if rig_id in rigs:
        raise ModelError(f"{path}: rig id {rig_id} occurs twice; export the model again")
    if len({sensor[:2] for sensor in sensors}) < len(sensors):
        raise ModelError(f"{path}: rig {rig_id} lists a sensor twice; export the model again")
    for _, number, pose in sensors:
        if pose is not None and not (all(map(math.isfinite, pose)) and any(pose[:4])):
            raise ModelError(
                f"{path}: sensor {number} of rig {rig_id} has a zero quaternion or a number that is not finite in its "
                "pose; export the model again"
            )
    rigs[rig_id] = {number: pose for kind, number, pose in sensors if kind == CAMERA_SENSOR}
