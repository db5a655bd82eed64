"""Read COLMAP's sparse models, binary or text: cameras, images, points and who observes them.

In: a folder with cameras, images and points3D (.bin or .txt; rigs, frames and project files beside them are ignored).
Out: one `Model` of arrays, checked throughout, or a ModelError that names the file and what is wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mumdata.colmap_records import (
    Camera,
    Images,
    Tracks,
    cameras_bin,
    cameras_txt,
    images_bin,
    images_txt,
    tracks_bin,
    tracks_txt,
)
from mumdata.errors import LayoutError, ModelError
from mumdata.geometry import intrinsics_from_params, rotation_from_quaternion
from mumdata.tree import Tree

__all__ = ["Model", "is_model", "read_model"]

_PARTS = ("cameras", "images", "points3D")
_NO_POINT = -1  # a keypoint that belongs to no 3D point: 2^64 - 1 in binary files


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


def _suffix(files: list[str]) -> str | None:
    for suffix in (".bin", ".txt"):
        if all(part + suffix in files for part in _PARTS):
            return suffix
    return None


def is_model(folder: Path | str, tree: Tree | None = None) -> bool:
    """Tell whether a folder holds a complete set of cameras, images and points3D, all .bin or all .txt."""
    tree, folder = (Tree(Path(folder)), "") if tree is None else (tree, str(folder))
    return _suffix(tree.files(folder)) is not None


def read_model(folder: Path | str, tree: Tree | None = None) -> Model:
    """Read the model in a folder, or in `folder` of a tree; the binary files where complete, else the text files.

    Observations come from the tracks in points3D; a keypoint in images may say that it belongs to the same point or to
    none, anything else is an error, as in COLMAP. A model without images or without points is legal. ModelError where
    a file is missing, cut short, too long, or where ids, counts, cameras or poses make no sense.
    """
    tree, folder = (Tree(Path(folder)), "") if tree is None else (tree, str(folder))
    files = tree.files(folder)
    suffix = _suffix(files)
    shown = tree.root / folder
    if suffix is None:
        present = [name for name in files if name.rpartition(".")[0] in _PARTS]
        missing = [part for part in _PARTS if f"{part}.bin" not in present]
        raise ModelError(
            f"{shown} holds no complete model: {', '.join(f'{part}.bin' for part in missing)} missing and no complete "
            f"set of .txt files (found: {', '.join(present) or 'none'}); copy or export the model again"
        )
    cameras, images, tracks = (shown / (part + suffix) for part in _PARTS)
    try:
        data = [tree.map(f"{folder}/{part}{suffix}" if folder else part + suffix) for part in _PARTS]
    except LayoutError as error:
        raise ModelError(f"cannot read the model in {shown}: {error}") from error
    if suffix == ".bin":
        return _model(cameras_bin(cameras, data[0]), images_bin(images, data[1]), tracks_bin(tracks, data[2]))
    return _model(cameras_txt(cameras, data[0]), images_txt(images, data[1]), tracks_txt(tracks, data[2]))


def _refuse_repeats(path: Path, ids: np.ndarray, what: str) -> None:
    ordered = np.sort(ids)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise ModelError(f"{path}: {what} id {repeated[0]} occurs twice; export the model again")


def _model(cameras: dict[int, Camera], images: Images, tracks: Tracks) -> Model:
    image_ids = np.array(images.ids, dtype=np.int64)
    _refuse_repeats(images.path, image_ids, "image")
    for image_id, camera_id in zip(images.ids, images.camera_ids, strict=True):
        if camera_id not in cameras:
            raise ModelError(
                f"{images.path}: image {image_id} names camera {camera_id}, which is not among the {len(cameras)} "
                "cameras; copy the files of one model together"
            )
    with np.errstate(over="ignore"):
        rotation = rotation_from_quaternion(images.poses[:, :4])
    cam_from_world = np.concatenate([rotation, images.poses[:, 4:, None]], axis=2)
    broken = np.flatnonzero(~np.isfinite(cam_from_world).all(axis=(1, 2)))
    if len(broken):
        raise ModelError(
            f"{images.path}: image {image_ids[broken[0]]} has a zero quaternion or a number that is not finite in its "
            f"pose ({len(broken)} such images); export the model again"
        )
    used = [cameras[camera_id] for camera_id in images.camera_ids]
    split = [intrinsics_from_params(camera.model, camera.params) for camera in used]
    image_of, point_of = _observations(images, tracks, image_ids)
    return Model(
        image_ids=image_ids,
        names=tuple(images.names),
        camera_model=tuple(camera.model for camera in used),
        camera_size=np.array([camera.size for camera in used], dtype=np.int64).reshape(-1, 2),
        intrinsics=np.array([intrinsics for intrinsics, _ in split], dtype=np.float64).reshape(-1, 4),
        distortion=tuple(distortion for _, distortion in split),
        cam_from_world=cam_from_world,
        point_ids=tracks.ids,
        points=tracks.points,
        image_of=image_of,
        point_of=point_of,
        num_points=np.bincount(image_of, minlength=len(image_ids)).astype(np.int32),
        num_repeated=len(tracks.image_ids) - len(image_of),
    )


def _observations(images: Images, tracks: Tracks, image_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Check every track element and return the distinct (image row, point row), int32 [m] each, sorted."""
    path, num = tracks.path, len(tracks.ids)
    _refuse_repeats(path, tracks.ids, "point")
    if num and int(tracks.ids.min()) < 0:
        raise ModelError(f"{path}: point id {int(tracks.ids.min()) % (1 << 64)} is none; export the model again")
    order = np.argsort(image_ids, kind="stable")
    place = np.searchsorted(image_ids[order], tracks.image_ids)
    place = np.minimum(place, max(len(order) - 1, 0))
    known = image_ids[order][place] == tracks.image_ids if len(order) else np.zeros(len(place), dtype=bool)
    if not known.all():
        stranger = tracks.image_ids[np.argmin(known)]
        raise ModelError(
            f"{path}: a track names image {stranger}, which is not in {images.path.name}; copy the files of one model "
            "together"
        )
    rows = order[place] if len(order) else place
    point_rows = np.repeat(np.arange(num, dtype=np.int64), tracks.lengths)
    outside = (tracks.keypoints < 0) | (tracks.keypoints >= images.num_keypoints[rows])
    if outside.any():
        at = int(np.argmax(outside))
        raise ModelError(
            f"{path}: point {tracks.ids[point_rows[at]]} names keypoint {tracks.keypoints[at]} of image "
            f"{tracks.image_ids[at]}, which has {images.num_keypoints[rows[at]]}; copy the files of one model together"
        )
    # A keypoint belongs to one point: the one it names in the images file, if it names any, and no second one.
    claimed = np.full(int(images.num_keypoints.sum()), _NO_POINT, dtype=np.int32)
    slots = (np.cumsum(images.num_keypoints) - images.num_keypoints)[rows] + tracks.keypoints
    claimed[slots] = point_rows
    said = images.point_id_at(rows, tracks.keypoints)
    wrong = (claimed[slots] != point_rows) | ((said != _NO_POINT) & (said != tracks.ids[point_rows]))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ModelError(
            f"{path}: keypoint {tracks.keypoints[at]} of image {tracks.image_ids[at]} does not belong to point "
            f"{tracks.ids[point_rows[at]]} alone; {images.path.name} and {path.name} are not of one model"
        )
    keys = np.sort(rows * max(num, 1) + point_rows)
    keys = keys[np.concatenate([np.ones(min(len(keys), 1), dtype=bool), keys[1:] != keys[:-1]])]
    return (keys // max(num, 1)).astype(np.int32), (keys % max(num, 1)).astype(np.int32)
