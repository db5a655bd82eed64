"""What is to be written: pictures, depth maps, models and small files, as plain values.

In: shots and names. Out: albums that any process can work on a part of; nothing is rendered here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mumdata.demo import gardens, indoors, objects, outdoors
from mumdata.demo.camera import Camera, Gauge
from mumdata.demo.render import Place
from mumdata.demo.shots import Shot

__all__ = ["Album", "Layout", "Model", "Picture", "Sizes", "SIZES", "build_place"]


@dataclass(frozen=True)
class Sizes:
    """How large a demo is: pixels and points."""

    photo: int  # long side of photos
    video: tuple[int, int]
    object: int  # long side of single-object photos
    points: int  # points drawn for each model; the few that one image alone sees are dropped

    def photos(self) -> tuple[tuple[int, int], ...]:
        """Return the sizes of photos, lying and upright."""
        a, b, c = self.photo, self.photo * 3 // 4, self.photo * 7 // 10
        return (a, b), (b, a), (a, c), (a, b), (c, a)


SIZES = {"tiny": Sizes(80, (64, 36), 64, 2200), "default": Sizes(192, (160, 90), 144, 5000)}


@dataclass(frozen=True)
class Picture:
    """One rendered image and all the paths it is stored under.

    `depth` is the path of its depth map, in metres times `depth_scale` and stored as `depth_kind`, a name of
    `mumdata.demo.encode`; `mask` the path of the mask of the object at the origin.
    """

    paths: tuple[str, ...]
    shot: Shot
    depth: str = ""
    depth_scale: float = 1.0
    depth_kind: str = "megadepth"
    mask: str = ""


@dataclass(frozen=True)
class Model:
    """A reconstruction: named cameras in the world, and the gauge it is written in.

    `folder` receives binary COLMAP files, `text_folder` text; empty where the dataset has none. `truth` is the path of
    the ground truth. `dense` holds the pinhole cameras of undistorted copies, where there are any.
    """

    truth: str
    names: tuple[str, ...]
    cameras: tuple[Camera, ...]
    gauge: Gauge
    key: int
    folder: str = ""
    text_folder: str = ""
    camera_model: str = "PINHOLE"
    dense: tuple[Camera, ...] = ()


@dataclass(frozen=True)
class Album:
    """All pictures and models of one place."""

    place: str
    seed: int
    pictures: tuple[Picture, ...]
    models: tuple[Model, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One dataset: its albums, small files (path -> text or bytes) and folders that stay empty."""

    albums: tuple[Album, ...]
    texts: Mapping[str, str | bytes] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


_PLACES = {
    "castle": outdoors.castle,
    "cathedral": outdoors.cathedral,
    "temple": outdoors.temple,
    "pagoda": gardens.pagoda,
    "villa": gardens.villa,
    "attic": indoors.attic,
    "hall": indoors.hall,
    "kitchen": indoors.kitchen,
    "living_room": indoors.living_room,
}


def build_place(name: str, seed: int) -> Place:
    """Build a place by name: a monument, a room, or the wnid of an object."""
    return _PLACES[name](seed) if name in _PLACES else objects.object_place(name, seed)
