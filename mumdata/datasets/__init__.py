"""Datasets: one file each, found by its name.

In: a root folder as a `Tree`. Out: its scenes, cheaply listed, and for each scene its streams: paths in order, cameras,
tracks. A dataset module offers `SPEC`, `scenes(tree) -> list[Scene]` and `read(tree, scene) -> list[Stream]`; nothing
else knows its layout. To add one: a file here with those three, and its name in `NAMES`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np

from mumdata.colmap import Model
from mumdata.errors import unknown
from mumdata.files import natural_key
from mumdata.tree import Source, Tree

__all__ = [
    "NAMES",
    "Cameras",
    "Dataset",
    "Depth",
    "KnownBad",
    "Layout",
    "Scene",
    "Spec",
    "Stream",
    "load",
    "natural_key",
    "natural_order",
]

_ORDER = (
    "streetview",
    "wildrgbd",
    "dl3dv",
    "realestate10k",
    "imagenet",
    "megascenes",
    "scannetpp",
    "co3d",
    "megadepth",
    "blendedmvs",
    "arkitscenes",
    "hypersim",
    "folder",
    "colmap",
)
NAMES = tuple(name for name in _ORDER if importlib.util.find_spec(f"mumdata.datasets.{name}"))


@dataclass(frozen=True)
class Layout:
    """One way in which a dataset lies on people's disks.

    `shape` says it in one line. A marker is a path of regular expressions, one a component, each matched in full: the
    layout is recognised where a path that fits any of the markers is there. `parts` maps such patterns to what their
    files are for; `mumdata check` reports which of them are present and which are missing. Components below a scene
    are looked at in a few scenes only, so a pattern should fit in every scene.
    """

    name: str
    shape: str
    markers: tuple[str, ...]
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownBad:
    """Something known to be wrong with a dataset: where, why, and who says so.

    `scene` is a name or a pattern (`chair/*`), `stream` is exact, `path` is the end of a frame's path; None fits
    everything. Frames that fit get the status `known_bad`, and a row in quarantine; with `drop` false they stay, and
    the scene's detail says why one may doubt them.
    """

    reason: str
    source: str
    scene: str | None = None
    stream: str | None = None
    path: str | None = None
    drop: bool = True


@dataclass(frozen=True)
class Spec:
    """What is known about a dataset without looking at a disk."""

    name: str
    title: str
    rule: str  # the mining rule that suits it
    licence: str
    source: str  # how to get it
    layouts: tuple[Layout, ...]
    single_view: bool = False
    # file patterns, relative to the root, of archives that are read as if unpacked where they lie
    archives: tuple[str, ...] = ()
    # files of other forms in which the dataset goes round and which are not read: pattern, as in `Layout`, -> what they
    # are and what to do
    refused: Mapping[str, str] = field(default_factory=dict)
    # what the whole dataset holds, as far as it is known, and a remark on where the figures come from
    num_scenes: int | None = None
    num_frames: int | None = None
    counts: str = ""
    known_bad: tuple[KnownBad, ...] = ()
    # one photo may be registered several times in a stream, under paths that end in the same name
    copies_by_name: bool = False
    # rule options by preset; "mumdata" is the default preset
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # scene -> the benchmark that evaluates on it
    eval_scenes: Mapping[str, str] = field(default_factory=dict)
    # what else is marked as evaluated, where files of the dataset tell which scenes or frames those are
    evaluation: str = ""

    @property
    def layout(self) -> str:
        """The layouts that are recognised, in one line."""
        return "; or ".join(layout.shape for layout in self.layouts)


@dataclass(frozen=True)
class Scene:
    """One scene as found by listing: enough for a worker to read it. `places` is the dataset's own business.

    (split, scene) is unique in a dataset.
    """

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


@dataclass(frozen=True, eq=False)
class Depth:
    """How the depth maps of a stream are stored.

    `form` is a name of `mumdata.sources.depth_files.FORMS`; `mask_paths` are images that are not black where the depth
    may be trusted, None where there is none for a frame; `scale` float64 [n] multiplies the stored values.
    """

    form: str
    mask_paths: tuple[str | None, ...] | None = None
    scale: np.ndarray | None = None


@dataclass(frozen=True)
class Stream:
    """The frames of one (split, scene, stream) in order, before anybody looked at the image files themselves.

    `paths` are relative to the root, as if archives were unpacked; bytes that are not UTF-8 are surrogate-escaped. So
    are `depth_paths` and `mask_paths`, None where there is no such file. `depth` says what the depth maps hold;
    `mesh_path` is a PLY file of the scene in the cameras' world; `ordered` streams follow a path, so that frames far
    apart in the list need not be compared. `model` with `rows` (the model's image row of each frame) gives the tracks.
    `upright_quarter_turns` int8 [n] are the clockwise turns that make each picture upright, where the cameras tell (-1:
    not known). `sources` says where the bytes lie, for rows of Parquet shards, which a tree does not show. `eval_of` is
    the benchmark that evaluates on the stream, or one entry a frame. `bad` maps rows to (status, reason) for frames
    that the dataset itself declares unusable. `problem` is a scene status that overrides the one found from the files;
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
    mask_paths: tuple[str | None, ...] | None = None
    depth: Depth | None = None
    mesh_path: str | None = None
    ordered: bool = False
    upright_quarter_turns: np.ndarray | None = None
    sources: tuple[Source, ...] | None = None
    eval_of: str | tuple[str | None, ...] | None = None
    bad: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    problem: str | None = None
    detail: str | None = None
    ignored: tuple[tuple[str, str, str], ...] = ()


class Dataset(Protocol):
    """What a dataset module offers."""

    SPEC: Spec
    scenes: Callable[[Tree], list[Scene]]
    read: Callable[[Tree, Scene], list[Stream]]


def load(name: str) -> Dataset:
    """Return the module of a dataset; ConfigError with the nearest name where there is none."""
    if name not in NAMES:
        raise unknown("dataset", name, NAMES)
    return cast(Dataset, importlib.import_module(f"mumdata.datasets.{name}"))


_DIGITS = str.maketrans("123456789", "000000000")


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names so that frame2 comes before frame10."""
    found = sorted(names)
    # where numbers have the same width in every name, text order is natural order
    if len(set("/".join(found).translate(_DIGITS).split("/"))) > 1:
        found.sort(key=natural_key)
    return found
