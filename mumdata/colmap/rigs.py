"""Rigs of a COLMAP model: cameras that move together, and the frames in which they took their images.

In: the records of the images, rigs and frames files. Out: the frame and the rig of each image; a ModelError where the
three files disagree, about who took what or about poses.
"""

from __future__ import annotations

import numpy as np

from mumdata.colmap.records import CAMERA_SENSOR, Camera, Frames, Images, Rigs, file_name
from mumdata.errors import ModelError
from mumdata.geometry import rotation_from_quaternion

__all__ = ["place_images"]

_TOLERANCE = 1e-6  # of a pose in images against sensor_from_rig * rig_from_world, relative
_UNKNOWN = (float("nan"),) * 7


def place_images(
    images: Images, cam_from_world: np.ndarray, cameras: dict[int, Camera], rigs: Rigs, frames: Frames
) -> tuple[np.ndarray, np.ndarray]:
    """Return the frame and the rig of each image by COLMAP's ids, int64 [n] each.

    `cam_from_world` is float64 [n, 3, 4]. ModelError where a rig names a camera or a frame names a rig or an image that
    is not there, where an image is in no frame or in two, where its camera is not in the frame's rig, and where its
    pose is not sensor_from_rig * rig_from_world. Poses of sensors that are not known are not compared; images of IMUs
    there are none.
    """
    for rig_id, sensors in rigs.cameras.items():
        for camera_id in sensors:
            if camera_id not in cameras:
                raise ModelError(
                    f"{rigs.path}: rig {rig_id} names camera {camera_id}, which is not among the {len(cameras)} "
                    "cameras; copy the files of one model together"
                )
    rotation = _frame_rotations(frames)
    element, frame = _elements_of_images(images, frames)
    sensor_from_rig = _sensor_poses(images, rigs, frames, element, frame)
    _compare_poses(images, cam_from_world, frames, frame, rotation[frame], sensor_from_rig)
    return frames.ids[frame], frames.rig_ids[frame]


def _frame_rotations(frames: Frames) -> np.ndarray:
    """Return the rotation of rig_from_world of each frame, float64 [f, 3, 3]."""
    with np.errstate(over="ignore"):
        rotation = rotation_from_quaternion(frames.poses[:, :4])
    broken = ~(np.isfinite(rotation).all(axis=(1, 2)) & np.isfinite(frames.poses).all(axis=1))
    if broken.any():
        raise ModelError(
            f"{frames.path}: frame {frames.ids[broken][0]} has a zero quaternion or a number that is not finite in its "
            f"pose ({np.count_nonzero(broken)} such frames); export the model again"
        )
    return rotation


def _elements_of_images(images: Images, frames: Frames) -> tuple[np.ndarray, np.ndarray]:
    """Return for each image the measurement that it is, and its frame's row, int64 [n] each."""
    ordered = np.sort(frames.ids)
    repeated = ordered[1:] == ordered[:-1]
    if repeated.any():
        raise ModelError(f"{frames.path}: frame id {ordered[1:][repeated][0]} occurs twice; export the model again")
    taken = np.flatnonzero(frames.sensor_types == CAMERA_SENSOR)
    named = frames.data_ids[taken]
    frame_rows = np.repeat(np.arange(len(frames.ids)), frames.lengths)
    order = np.argsort(named, kind="stable")
    place = np.searchsorted(named[order], images.ids)
    ends = np.searchsorted(named[order], images.ids, side="right")
    odd = np.flatnonzero(ends - place != 1)
    if len(odd):
        row = int(odd[0])
        raise ModelError(
            f"{frames.path}: image {images.ids[row]} is in {ends[row] - place[row]} frames, not in one "
            f"({len(odd)} such images); copy the files of one model together"
        )
    if len(named) > len(images.ids):
        stranger = named[~np.isin(named, images.ids)][0]
        raise ModelError(
            f"{frames.path}: a frame names image {stranger}, which is not in {file_name(images.path)}; copy the files "
            "of one model together"
        )
    element = taken[order[place]]
    return element, frame_rows[element]


def _sensor_poses(images: Images, rigs: Rigs, frames: Frames, element: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return sensor_from_rig of each image, float64 [n, 7]; NaN where it is not known."""
    unknown_rig = [rig_id for rig_id in frames.rig_ids.tolist() if rig_id not in rigs.cameras]
    if unknown_rig:
        raise ModelError(
            f"{frames.path}: a frame names rig {unknown_rig[0]}, which is not in {file_name(rigs.path)}; copy the "
            "files of one model together"
        )
    sensor_ids = frames.sensor_ids[element]
    foreign = np.flatnonzero(sensor_ids != images.camera_ids)
    if len(foreign):
        row = int(foreign[0])
        raise ModelError(
            f"{frames.path}: image {images.ids[row]} is said to be of camera {sensor_ids[row]}, in "
            f"{file_name(images.path)} of camera {images.camera_ids[row]}; copy the files of one model together"
        )
    poses = []
    rig_ids = frames.rig_ids[frame]
    for image_id, rig_id, camera_id in zip(images.ids.tolist(), rig_ids.tolist(), sensor_ids.tolist(), strict=True):
        sensors = rigs.cameras[rig_id]
        if camera_id not in sensors:
            raise ModelError(
                f"{frames.path}: image {image_id} is of camera {camera_id}, which rig {rig_id} does not have; copy the "
                "files of one model together"
            )
        poses.append(sensors[camera_id] or _UNKNOWN)
    return np.array(poses, dtype=np.float64).reshape(-1, 7)


def _compare_poses(
    images: Images,
    cam_from_world: np.ndarray,
    frames: Frames,
    frame: np.ndarray,
    of_rig: np.ndarray,
    sensor_from_rig: np.ndarray,
) -> None:
    """Raise ModelError where cam_from_world is not sensor_from_rig * rig_from_world, if both are known.

    `frame` int64 [n] is the row of each image's frame, `of_rig` float64 [n, 3, 3] the rotation of its rig_from_world.
    """
    known = np.flatnonzero(~np.isnan(sensor_from_rig[:, 0]))
    with np.errstate(over="ignore", invalid="ignore"):
        of_sensor = rotation_from_quaternion(sensor_from_rig[known, :4])
        sensor_t, rig_t = sensor_from_rig[known, 4:], frames.poses[frame[known], 4:]
        given_t = cam_from_world[known, :, 3]
        expected_t = (of_sensor @ rig_t[:, :, None])[:, :, 0] + sensor_t
        turned = np.abs(of_sensor @ of_rig[known] - cam_from_world[known, :, :3]).max(axis=(1, 2), initial=0.0)
        shifted = np.abs(expected_t - given_t).max(axis=1, initial=0.0)
        size = np.max([np.abs(each).max(axis=1, initial=0.0) for each in (given_t, sensor_t, rig_t)], axis=0)
        # so written, a number that overflowed is refused as well
        wrong = known[~((turned <= _TOLERANCE) & (shifted <= _TOLERANCE * size))]
    if len(wrong):
        row = int(wrong[0])
        raise ModelError(
            f"{images.path}: image {images.ids[row]} is not where frame {frames.ids[frame[row]]} of "
            f"{file_name(frames.path)} and its rig put it ({len(wrong)} such images); copy the files of "
            "one model together"
        )
