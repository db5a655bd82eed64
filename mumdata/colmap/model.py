"""Read COLMAP's sparse models, binary or text: cameras, images, points and who observes them.

In: a folder with cameras, images and points3D (.bin or .txt), and with rigs and frames from COLMAP 3.12 on. Out: one
`Model` of arrays, checked throughout, or a ModelError that names the file and what is wrong with it.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mumdata.colmap import binary as binary_form
from mumdata.colmap import text as text_form
from mumdata.colmap.records import Camera, Data, Images
from mumdata.colmap.rigs import place_images
from mumdata.colmap.tracks import compare_keypoints, distinct_observations, place_elements, refuse_repeats
from mumdata.errors import LayoutError, ModelError
from mumdata.geometry import rotation_from_quaternion
from mumdata.tree import Tree

__all__ = ["Model", "is_model", "read_model"]

_PARTS = ("cameras", "images", "points3D")
_RIG_PARTS = ("rigs", "frames")
# Files up to so many bytes are read, larger ones mapped: for a small file a copy costs less than its page faults. Of
# images only some pages are wanted, of the others all.
_MOST_COPIED = {"images": 1 << 20}
_MOST_COPIED_WHOLE = 1 << 24


@dataclass(frozen=True, eq=False)
class Model:
    """A sparse model; images in the order of the images file, points in that of the points3D file.

    Observations are the distinct (image, point) pairs, sorted by image, then point: a point that one image sees twice
    counts once. Images and points are given by their row, not by COLMAP's id.
    """

    image_ids: np.ndarray  # int64 [n], COLMAP's ids
    names: tuple[bytes, ...]  # as in the file: not always UTF-8
    camera_model: tuple[str, ...]  # of each image
    camera_size: np.ndarray  # int64 [n, 2], width and height in pixels
    intrinsics: np.ndarray  # float64 [n, 4], fx, fy, cx, cy in pixels of the camera's size
    distortion: tuple[tuple[float, ...], ...]  # COLMAP's parameters after the principal point
    cam_from_world: np.ndarray  # float64 [n, 3, 4]
    point_ids: np.ndarray  # int64 [p]
    points: np.ndarray  # float64 [p, 3], in the world
    image_of: np.ndarray  # int32 [m], row of the observing image
    point_of: np.ndarray  # int32 [m], row of the observed point
    num_points: np.ndarray  # int32 [n], distinct points of each image
    num_repeated: int  # observations left out because their image sees the point already
    # COLMAP's ids of each image's frame (a rig's instant) and rig, int64 [n]; None where the model has no such files
    frame_of: np.ndarray | None = None
    rig_of: np.ndarray | None = None
    bytes_read: int = 0  # of the files, those that were read or looked at; see `_load`
    bytes_total: int = 0
    folder: str = ""  # where it lies in the tree it was read from


def _suffix(files: list[str]) -> str | None:
    for suffix in (".bin", ".txt"):
        if all(part + suffix in files for part in _PARTS):
            return suffix
    return None


def is_model(folder: Path | str, tree: Tree | None = None) -> bool:
    """Tell whether a folder holds a complete set of cameras, images and points3D, all .bin or all .txt."""
    tree, folder = (Tree(Path(folder)), "") if tree is None else (tree, str(folder))
    return _suffix(tree.files(folder)) is not None


def read_model(folder: Path | str, tree: Tree | None = None, check_tracks: bool = False) -> Model:
    """Read the model in a folder, or in `folder` of a tree; the binary files where complete, else the text files.

    Observations come from the tracks in points3D; of the images, names, cameras, poses and the number of keypoints are
    read. With `check_tracks` every keypoint is read and has to name the point whose track holds it, or none where none
    does. A model without images or without points is legal. ModelError where a file is missing, cut short, too long,
    or where ids, counts, cameras, poses, rigs or frames make no sense.
    """
    tree, folder = (Tree(Path(folder)), "") if tree is None else (tree, str(folder))
    files = tree.files(folder)
    suffix = _suffix(files)
    shown = os.path.join(tree.root, folder) if folder else str(tree.root)
    if suffix is None:
        raise _incomplete(shown, files)
    parts: tuple[str, ...] = _PARTS
    rig_parts = [part for part in _RIG_PARTS if part + suffix in files]
    if len(rig_parts) == 1:
        (absent,) = set(_RIG_PARTS) - set(rig_parts)
        raise ModelError(f"{shown} holds {rig_parts[0]}{suffix} and no {absent}{suffix}; copy or export it as well")
    if rig_parts:
        parts += _RIG_PARTS
    try:
        data = [_load(tree, f"{folder}/{part}{suffix}" if folder else part + suffix, part) for part in parts]
    except LayoutError as error:
        raise ModelError(f"cannot read the model in {shown}: {error}") from error
    return _model(folder, [f"{shown}/{part}{suffix}" for part in parts], data, suffix == ".bin", check_tracks)


def _load(tree: Tree, path: str, part: str) -> Data:
    try:
        return tree.read_bytes(path, _MOST_COPIED.get(part, _MOST_COPIED_WHOLE))
    except LayoutError:  # larger, or something is wrong that mapping will tell
        return tree.map(path)


def _incomplete(shown: str, files: list[str]) -> ModelError:
    present = [name for name in files if name.rpartition(".")[0] in _PARTS]
    missing = [part for part in _PARTS if f"{part}.bin" not in present]
    return ModelError(
        f"{shown} holds no complete model: {', '.join(f'{part}.bin' for part in missing)} missing and no complete "
        f"set of .txt files (found: {', '.join(present) or 'none'}); copy or export the model again"
    )


def _model(folder: str, paths: list[str], data: list[Data], binary: bool, check_tracks: bool) -> Model:
    """Read the files in the order of _PARTS and _RIG_PARTS, and put together what they say."""
    form = binary_form if binary else text_form
    cameras = form.read_cameras(paths[0], data[0])
    images = form.read_images(paths[1], data[1], check_tracks)
    refuse_repeats(images.path, images.ids, "image")
    used = _cameras_of(images, cameras)
    cam_from_world = _poses(images)
    tracks = form.read_tracks(paths[2], data[2])
    elements = place_elements(images, tracks)
    image_of, point_of = distinct_observations(elements)
    frame_of = rig_of = None
    if len(paths) > len(_PARTS):
        rigs, frames = form.read_rigs(paths[3], data[3]), form.read_frames(paths[4], data[4])
        frame_of, rig_of = place_images(images, cam_from_world, cameras, rigs, frames)
    if check_tracks:
        compare_keypoints(images, tracks, elements)
    bytes_total = sum(map(len, data))
    # a file that is in memory was read: nothing of it was passed over
    passed_over = len(data[1]) - images.bytes_read if isinstance(data[1], mmap.mmap) and not check_tracks else 0
    return Model(
        image_ids=images.ids,
        names=tuple(images.names),
        camera_model=tuple([camera.model for camera in used]),
        camera_size=np.array([camera.size for camera in used], dtype=np.int64).reshape(-1, 2),
        intrinsics=np.array([camera.intrinsics for camera in used], dtype=np.float64).reshape(-1, 4),
        distortion=tuple([camera.distortion for camera in used]),
        cam_from_world=cam_from_world,
        point_ids=tracks.ids,
        points=tracks.points,
        image_of=image_of,
        point_of=point_of,
        num_points=np.bincount(image_of, minlength=len(images.ids)).astype(np.int32),
        num_repeated=len(tracks.image_ids) - len(image_of),
        frame_of=frame_of,
        rig_of=rig_of,
        bytes_read=bytes_total - passed_over,
        bytes_total=bytes_total,
        folder=folder,
    )


def _cameras_of(images: Images, cameras: dict[int, Camera]) -> list[Camera]:
    used = []
    for row, camera_id in enumerate(images.camera_ids.tolist()):
        if camera_id not in cameras:
            raise ModelError(
                f"{images.path}: image {images.ids[row]} names camera {camera_id}, which is not among the "
                f"{len(cameras)} cameras; copy the files of one model together"
            )
        used.append(cameras[camera_id])
    return used


def _poses(images: Images) -> np.ndarray:
    """Return cam_from_world of each image, float64 [n, 3, 4]."""
    cam_from_world = np.empty((len(images.ids), 3, 4))
    with np.errstate(over="ignore"):
        cam_from_world[:, :, :3] = rotation_from_quaternion(images.poses[:, :4])
    cam_from_world[:, :, 3] = images.poses[:, 4:]
    if not np.isfinite(cam_from_world).all():
        broken = np.flatnonzero(~np.isfinite(cam_from_world).all(axis=(1, 2)))
        raise ModelError(
            f"{images.path}: image {images.ids[broken[0]]} has a zero quaternion or a number that is not finite in its "
            f"pose ({len(broken)} such images); export the model again"
        )
    return cam_from_world
