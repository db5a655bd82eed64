"""What the datasets in Nerfstudio's format share: transforms.json, and pictures joined with a COLMAP model by name.

In: a transforms.json: camera-to-world matrices in OpenGL axes (x right, y up, z backward), in a world that Nerfstudio
turned, with intrinsics for all frames or for each. Out: by each picture's name without its ending, cam_from_world in
OpenCV axes and in the world of the COLMAP model that the file was made from. For that the file's `applied_transform`
and `applied_scale` are undone: then the poses fit the points of a model that lies beside the file, and they are the
same whether they are taken from the one or from the other. Intrinsics stay as written: Nerfstudio copies COLMAP's, so
that the centre of the top-left pixel is (0.5, 0.5) in both.

Not a dataset of its own: no name in `mumdata.datasets.NAMES` leads here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mumdata.colmap import Model, is_model, read_model
from mumdata.datasets import Cameras
from mumdata.errors import LayoutError, ModelError
from mumdata.images import looks_like_image
from mumdata.tree import Tree

__all__ = [
    "Ignored",
    "Lens",
    "OLD_WORLD",
    "Transforms",
    "View",
    "cameras_of",
    "inverted",
    "is_name",
    "matrix_of",
    "model_in",
    "number_of",
    "numbers_of",
    "pictures_in",
    "read_transforms",
    "rows_of",
    "stem_of",
    "views_of_model",
]

Ignored = tuple[str, str, str]  # path, reason, detail

# nerfstudio_from_colmap of Nerfstudio's first versions, which wrote no `applied_transform`: (x, y, z) -> (y, x, -z)
OLD_WORLD = np.array([[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]])

_OPENCV_FROM_OPENGL = np.array([1.0, -1.0, -1.0])
_LENS_KEYS = ("camera_model", "w", "h", "fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4", "p1", "p2")
_PINHOLE = ("PINHOLE", "SIMPLE_PINHOLE")
_PERSPECTIVE = (*_PINHOLE, "SIMPLE_RADIAL", "RADIAL", "OPENCV")
_LARGEST_SIDE = 1 << 31
_LARGEST_NUMBER = 1e30  # far beyond any length or focal length, and within the float32 of the catalogs
_LONGEST_NAME = 255  # bytes that a file's name may have


@dataclass(frozen=True)
class Lens:
    """Intrinsics: COLMAP's model name, the size (width, height) they are for, fx fy cx cy in its pixels, distortion."""

    model: str
    size: tuple[int, int]
    intrinsics: tuple[float, float, float, float]
    distortion: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class View:
    """What is known of one picture: cam_from_world float64 [3, 4] or None, and its lens or None."""

    cam_from_world: np.ndarray | None = None
    lens: Lens | None = None


@dataclass(frozen=True, eq=False)
class Transforms:
    """A transforms.json: views by stem in the file's order, and what the file says beside.

    `frames` and `test_frames` are the stems in those two lists, `bad` those that are marked `is_bad`; `lens` is the
    one of all frames, None where there is none or each has its own. `problems` names what could not be used.
    """

    views: Mapping[str, View]
    frames: tuple[str, ...]
    test_frames: tuple[str, ...]
    bad: frozenset[str]
    lens: Lens | None
    problems: tuple[str, ...]

    @property
    def summary(self) -> str | None:
        """The first problem and the number of others; None where there is none."""
        if not self.problems:
            return None
        others = len(self.problems) - 1
        return self.problems[0] + (f" (and {others} more)" if others else "")


def stem_of(name: str) -> str:
    """Return a path's last part without its ending: what a picture is called in every list and folder."""
    base = name.rpartition("/")[2]
    return base.rpartition(".")[0] or base


def is_name(stem: str) -> bool:
    """Tell whether a stem that was read from a list can be part of a file's name."""
    try:
        return 0 < len(os.fsencode(stem)) <= _LONGEST_NAME and "\0" not in stem
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can write it, no file is called so
        return False


def pictures_in(tree: Tree, folder: str) -> tuple[dict[str, str], tuple[Ignored, ...]]:
    """Return the images of a folder as stem -> file name, in text order, and the files that were passed over."""
    found: dict[str, str] = {}
    ignored = []
    for name in tree.files(folder):
        path, stem = f"{folder}/{name}", stem_of(name)
        if not looks_like_image(name):
            hidden = name.startswith(".")
            reason, detail = ("hidden", "a hidden file") if hidden else ("unexpected_name", "not an image's name")
            ignored.append((path, reason, detail))
        elif stem in found:
            ignored.append((path, "named_twice", f"the same frame as {found[stem]}"))
        else:
            found[stem] = name
    return found, tuple(ignored)


def read_transforms(tree: Tree, path: str, world: np.ndarray | None = None) -> Transforms:
    """Read a transforms.json; views are in OpenCV axes and COLMAP's world.

    `world` [3, 4] is nerfstudio_from_colmap where the file has no `applied_transform`; None leaves such a world as it
    is. A single frame that makes no sense is passed over and named in `problems`. LayoutError where the file is
    absent, no JSON, has no list of frames, or an `applied_transform` that is no rigid motion.
    """
    document = tree.read_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("frames"), list):
        raise LayoutError(f"{path} has no list 'frames'; download or export the file again")
    problems: list[str] = []
    turned, scale = _applied(document, path, world)
    lens = None
    if "fl_x" in document:
        try:
            lens = _lens(document)
        except ValueError as error:
            problems.append(f"{path}: {error}")
    views: dict[str, View] = {}
    bad = set()
    stems: dict[str, tuple[str, ...]] = {}
    for key in ("frames", "test_frames"):
        listed = document.get(key, [])
        if not isinstance(listed, list):
            problems.append(f"{path}: '{key}' is no list")
            listed = []
        names = []
        for place, frame in enumerate(listed):
            try:
                stem, view, is_bad = _frame(frame, document, lens, turned, scale)
            except ValueError as error:
                problems.append(f"{path}: {key}[{place}]: {error}")
                continue
            if stem in views:
                problems.append(f"{path}: {key}[{place}] names {stem} a second time")
                continue
            if view.cam_from_world is None:
                problems.append(f"{path}: {key}[{place}] ({stem}): transform_matrix is no rigid motion")
            views[stem] = view
            names.append(stem)
            if is_bad:
                bad.add(stem)
        stems[key] = tuple(names)
    return Transforms(views, stems["frames"], stems["test_frames"], frozenset(bad), lens, tuple(problems))


def _frame(
    frame: Any, document: Mapping[str, Any], shared: Lens | None, turned: np.ndarray, scale: float
) -> tuple[str, View, bool]:
    if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
        raise ValueError("no file_path")
    stem = stem_of(frame["file_path"].replace("\\", "/"))
    if not is_name(stem):
        raise ValueError(f"file_path {frame['file_path']!a} names no file")
    lens = shared
    if "fl_x" in frame:
        lens = _lens({key: frame.get(key, document.get(key)) for key in _LENS_KEYS})
    cam_from_world = _cam_from_world(matrix_of(frame.get("transform_matrix")), turned, scale)
    return stem, View(cam_from_world, lens), bool(frame.get("is_bad"))


def _applied(document: Mapping[str, Any], path: str, world: np.ndarray | None) -> tuple[np.ndarray, float]:
    # nerfstudio_from_colmap [3, 4], and the factor by which the positions were multiplied afterwards
    turned = np.eye(3, 4) if world is None else world
    if document.get("applied_transform") is not None:
        given = matrix_of(document["applied_transform"])
        if given is None or not _is_rotation(given[:, :3]):
            raise LayoutError(f"{path}: applied_transform is no rigid motion; download or export the file again")
        turned = given
    scale = 1.0
    if document.get("applied_scale") is not None:
        try:
            scale = number_of(document["applied_scale"], "applied_scale")
        except ValueError as error:
            raise LayoutError(f"{path}: {error}; download or export the file again") from None
        if scale <= 0:
            raise LayoutError(f"{path}: applied_scale is {scale}; download or export the file again")
    return turned, scale


def inverted(world_from_cam: np.ndarray | None) -> np.ndarray | None:
    """Return cam_from_world [3, 4] of a camera-to-world matrix [3, 4]; None where that is no motion of a camera.

    A scale that is the same along the camera's three axes moves no pixel and is divided out; shear, mirror images and
    zeros are refused.
    """
    if world_from_cam is None:
        return None
    axes = world_from_cam[:, :3]
    squared = float((axes * axes).sum()) / 3.0
    if not squared > 1.0 / _LARGEST_NUMBER:
        return None
    axes = axes / math.sqrt(squared)
    if not _is_rotation(axes):
        return None
    inverse = np.concatenate([axes.T, -_times(axes.T, world_from_cam[:, 3:])], axis=1)
    return inverse if (np.abs(inverse) < _LARGEST_NUMBER).all() else None


def _cam_from_world(world_from_cam: np.ndarray | None, turned: np.ndarray, scale: float) -> np.ndarray | None:
    # OpenGL camera-to-world in Nerfstudio's world -> OpenCV world-to-camera in COLMAP's
    inverse = inverted(world_from_cam)
    if inverse is None:
        return None
    inverse = _OPENCV_FROM_OPENGL[:, None] * inverse
    rotation = inverse[:, :3]
    moved = np.concatenate(
        [_times(rotation, turned[:, :3]), _times(rotation, turned[:, 3:]) + inverse[:, 3:] / scale], axis=1
    )
    return moved if (np.abs(moved) < _LARGEST_NUMBER).all() else None


def _times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # written out: no BLAS, whose order of additions is its own
    product: np.ndarray = a[:, 0:1] * b[0:1] + a[:, 1:2] * b[1:2] + a[:, 2:3] * b[2:3]
    return product


def matrix_of(value: Any) -> np.ndarray | None:
    """Return the upper three rows of a 3x4 or 4x4 matrix in JSON, as rows or flat; None where it is nothing such."""
    numbers = numbers_of(value, 16)
    if numbers is None:
        numbers = numbers_of(value, 12)
    return None if numbers is None else numbers[:12].reshape(3, 4)


def numbers_of(value: Any, count: int) -> np.ndarray | None:
    """Return a JSON list of `count` finite numbers, or of rows of them, as float64 [count]; None for anything else."""
    if not isinstance(value, list):
        return None
    try:
        numbers = np.array(value, dtype=np.float64).reshape(-1)
    except (ValueError, TypeError, OverflowError):
        return None
    return numbers if len(numbers) == count and (np.abs(numbers) < _LARGEST_NUMBER).all() else None


def _is_rotation(matrix: np.ndarray) -> bool:
    # rounded files are off by 1e-5 at most; a scale or a mirror image is not let through
    off = np.abs(_times(matrix, matrix.T) - np.eye(3)).max()
    x, y, z = matrix
    right_handed = float((np.cross(x, y) * z).sum()) > 0
    return bool(off < 1e-3) and right_handed


def number_of(value: Any, name: str) -> float:
    """Return a JSON number as a float; ValueError, with its name, where it is none or is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) < _LARGEST_NUMBER:
        raise ValueError(f"{name} is {number}")
    return number


def _lens(values: Mapping[str, Any]) -> Lens:
    """Read intrinsics; ValueError where a number is missing or makes no sense, or the model has no name in COLMAP."""

    def number(key: str, default: float | None = None) -> float:
        value = values.get(key)
        return default if value is None and default is not None else number_of(value, key)

    width, height = number("w"), number("h")
    if not all(0 < side < _LARGEST_SIDE and side == int(side) for side in (width, height)):
        raise ValueError(f"w and h are {width} and {height}")
    fx = number("fl_x")
    intrinsics = (fx, number("fl_y", fx), number("cx"), number("cy"))
    if min(intrinsics[:2]) <= 0:
        raise ValueError("a focal length is not positive")
    k1, k2, k3, k4, p1, p2 = (number(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    kind = values.get("camera_model") or "OPENCV"
    size = int(width), int(height)
    if kind == "OPENCV_FISHEYE":
        return Lens("OPENCV_FISHEYE", size, intrinsics, (k1, k2, k3, k4))
    if kind not in _PERSPECTIVE:
        raise ValueError(f"camera_model '{kind}' is not known")
    if k3 or k4:
        # Nerfstudio's polynomial has k3 r^6 + k4 r^8, COLMAP's models do not
        raise ValueError(f"camera_model '{kind}' with k3 or k4 has no name in COLMAP")
    if kind in _PINHOLE and not (k1 or k2 or p1 or p2):
        return Lens("PINHOLE", size, intrinsics, ())
    return Lens("OPENCV", size, intrinsics, (k1, k2, p1, p2))


def model_in(tree: Tree, folders: Iterable[str]) -> tuple[Model | None, str | None]:
    """Read the COLMAP model in the first of the folders that holds one.

    Returns the model and None, None and what is wrong with it, or None and None where there is no model.
    """
    for folder in folders:
        if is_model(folder, tree):
            try:
                return read_model(folder, tree), None
            except ModelError as error:
                # catalogs speak of paths relative to the root, so that the same data gives the same catalog anywhere
                text = str(error)
                for root in (tree.root, tree.root.absolute()):
                    text = text.replace(f"{root}/", "")
                return None, text
    return None, None


def views_of_model(model: Model) -> dict[str, View]:
    """Return the views of a COLMAP model by stem, in its order; folders in its image names do not count."""
    views: dict[str, View] = {}
    for row, name in enumerate(model.names):
        stem = stem_of(os.fsdecode(name))
        if is_name(stem) and stem not in views:
            wide, high = (int(side) for side in model.camera_size[row])
            fx, fy, cx, cy = (float(value) for value in model.intrinsics[row])
            lens = Lens(model.camera_model[row], (wide, high), (fx, fy, cx, cy), model.distortion[row])
            views[stem] = View(model.cam_from_world[row], lens)
    return views


def rows_of(model: Model, stems: Sequence[str]) -> tuple[Model, np.ndarray]:
    """Return the model and the row of each stem in it, int64 [n]; frames that it does not know are added.

    A stream with tracks needs a row for every frame. What the model does not register becomes an image that sees
    nothing and has no pose; its id, which COLMAP never gave, is negative.
    """
    known: dict[str, int] = {}
    for row, name in enumerate(model.names):
        known.setdefault(stem_of(os.fsdecode(name)), row)
    strangers = [stem for stem in stems if stem not in known]
    known |= {stem: len(model.names) + place for place, stem in enumerate(strangers)}
    rows = np.array([known[stem] for stem in stems], np.int64)
    num = len(strangers)
    if not num:
        return model, rows
    padded = replace(
        model,
        image_ids=np.concatenate([model.image_ids, -1 - np.arange(num, dtype=np.int64)]),
        names=(*model.names, *(os.fsencode(stem) for stem in strangers)),
        camera_model=(*model.camera_model, *["PINHOLE"] * num),
        camera_size=np.concatenate([model.camera_size, np.zeros((num, 2), np.int64)]),
        intrinsics=np.concatenate([model.intrinsics, np.full((num, 4), np.nan)]),
        distortion=(*model.distortion, *[()] * num),
        cam_from_world=np.concatenate([model.cam_from_world, np.full((num, 3, 4), np.nan)]),
        num_points=np.concatenate([model.num_points, np.zeros(num, np.int32)]),
        frame_of=None if model.frame_of is None else np.concatenate([model.frame_of, np.full(num, -1)]),
        rig_of=None if model.rig_of is None else np.concatenate([model.rig_of, np.full(num, -1)]),
    )
    return padded, rows


def cameras_of(views: Sequence[View]) -> Cameras:
    """Put views together as the cameras of a stream; what is not known of one stays open."""
    num = len(views)
    size, intrinsics = np.zeros((num, 2), np.int64), np.full((num, 4), np.nan)
    cam_from_world = np.full((num, 3, 4), np.nan)
    for row, view in enumerate(views):
        if view.lens is not None:
            size[row], intrinsics[row] = view.lens.size, view.lens.intrinsics
        if view.cam_from_world is not None:
            cam_from_world[row] = view.cam_from_world
    lenses = [view.lens for view in views]
    return Cameras(
        tuple(lens.model if lens else None for lens in lenses),
        size,
        intrinsics,
        tuple(lens.distortion if lens else None for lens in lenses),
        cam_from_world,
    )
