"""Datasets: one file each, found by its name.

In: a root folder. Out: its scenes, cheaply listed, and for each scene its streams: paths in order, cameras, tracks.
A dataset module offers `SPEC`, `scenes(root) -> list[Scene]` and `read(root, scene) -> list[Stream]`; nothing else
knows its layout. To add one: a file here with those three, and its name in `NAMES`.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from mumdata.colmap import Model
from mumdata.errors import LayoutError, unknown

__all__ = ["NAMES", "Cameras", "Dataset", "Scene", "Spec", "Stream", "list_folder", "load", "natural_key"]

NAMES = ("realestate10k", "imagenet", "megascenes", "megadepth", "folder", "colmap")


@dataclass(frozen=True)
class Spec:
    """What is known about a dataset without looking at a disk."""

    name: str
    title: str
    rule: str  # the mining rule that suits it
    licence: str
    source: str  # how to get it
    layout: str  # the layouts that are recognised, in one line
    single_view: bool = False
    # rule options by preset; "mumdata" is the default preset
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # scene -> the benchmark that evaluates on it
    eval_scenes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """One scene as found by listing: enough for a worker to read it. `places` is the dataset's own business."""

    split: str | None
    scene: str
    places: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Cameras:
    """Cameras of a stream's frames: pixels of images of size `size`; NaN poses and sizes of 0 mean "unknown".

    model [n] (COLMAP's names), size int64 [n, 2] (width, height; (1, 1) for intrinsics in units of the image's size),
    intrinsics float64 [n, 4] (fx, fy, cx, cy), distortion [n] tuples, cam_from_world float64 [n, 3, 4].
    """

    model: tuple[str | None, ...]
    size: np.ndarray
    intrinsics: np.ndarray
    distortion: tuple[tuple[float, ...] | None, ...]
    cam_from_world: np.ndarray

    @staticmethod
    def of_model(model: Model, rows: np.ndarray, known_intrinsics: bool = True) -> Cameras:
        """Take the cameras of a COLMAP model's images `rows`, in that order."""
        num = len(rows)
        if not known_intrinsics:
            # the files are not the images that the model was made from: only their poses carry over
            names: tuple[str | None, ...] = (None,) * num
            zero = np.zeros((num, 2), np.int64)
            return Cameras(names, zero, np.full((num, 4), np.nan), (None,) * num, model.cam_from_world[rows])
        return Cameras(
            tuple(model.camera_model[row] for row in rows),
            model.camera_size[rows],
            model.intrinsics[rows],
            tuple(model.distortion[row] for row in rows),
            model.cam_from_world[rows],
        )


@dataclass(frozen=True)
class Stream:
    """The frames of one (split, scene, stream) in order, before anybody looked at the image files themselves.

    `paths` are relative to the root; bytes that are not UTF-8 are surrogate-escaped. `model` with `rows` (the model's
    image row of each frame) gives the tracks. `problem` is a scene status that overrides the one found from the files;
    `ignored` lists files that were left out: (path, reason, detail).
    """

    stream: str | None
    paths: tuple[str, ...]
    group: str | None = None
    model: Model | None = None
    rows: np.ndarray | None = None
    cameras: Cameras | None = None
    timestamps_s: np.ndarray | None = None
    depth_paths: tuple[str | None, ...] | None = None
    eval_of: str | None = None
    problem: str | None = None
    detail: str | None = None
    ignored: tuple[tuple[str, str, str], ...] = ()


class Dataset(Protocol):
    """What a dataset module offers."""

    SPEC: Spec
    scenes: Callable[[Path], list[Scene]]
    read: Callable[[Path, Scene], list[Stream]]


def load(name: str) -> Dataset:
    """Return the module of a dataset; ConfigError with the nearest name where there is none."""
    if name not in NAMES:
        raise unknown("dataset", name, NAMES)
    return cast(Dataset, importlib.import_module(f"mumdata.datasets.{name}"))


def natural_key(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """Sort key under which frame2 comes before frame10; names that differ in zeros alone fall back to text."""
    pieces = re.split(r"(\d+)", name)
    return [(0, int(piece)) if piece.isdecimal() else (1, piece) for piece in pieces if piece], name


def list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the sub-folders and of the files in a folder, each in text order; links are followed.

    Names that start with a dot and __MACOSX are passed over as folders, not as files. Raises LayoutError where the
    folder cannot be read.
    """
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_folder(entry):
                    if not entry.name.startswith(".") and entry.name != "__MACOSX":
                        folders.append(entry.name)
                else:
                    files.append(entry.name)
    except OSError as error:
        raise LayoutError(f"{folder} cannot be listed: {error.strerror}") from error
    return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, say: listed as a file, whose reading then says what is wrong
        return False


def first_folder(root: Path, candidates: Iterable[str]) -> str | None:
    """Return the first candidate that is a folder under the root, or None."""
    return next((path for path in candidates if Path(root, path).is_dir()), None)
