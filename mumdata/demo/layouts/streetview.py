"""3D Street View in the demo: facades around three squares, each point seen from two to seven places in the street.

In: a seed and sizes. Out: a layout: square pictures with a point of a facade in their middle, a text file with places
and angles for each, one rectangle of the map in both sets, and what an archive that breaks off leaves behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mumdata import rng
from mumdata.demo.album import Album, Layout, Model, Picture, Sizes, build_place
from mumdata.demo.camera import Camera, Gauge, Vector, look_at
from mumdata.demo.render import Place
from mumdata.demo.shots import Shot
from mumdata.demo.solids import inside, nearest
from mumdata.geometry import cos_deg

__all__ = ["plan"]

# the place's origin on the map: latitude and longitude in degrees, height in metres
_LATITUDE, _LONGITUDE, _HEIGHT = 48.8530, 2.3499, 35.0
_METRES_PER_DEGREE = 6_371_000.0 * 3.141592653589793 / 180.0

_EYE = 2.5  # metres above the street, where the panoramas are taken
_FIELD_OF_VIEW = 89.75  # degrees
_FOCAL = 0.5 * cos_deg(_FIELD_OF_VIEW / 2.0) / cos_deg(90.0 - _FIELD_OF_VIEW / 2.0)  # of the picture's side
_ATTEMPTS, _BESIDE = 200, 25


@dataclass(frozen=True)
class _Facade:
    """A point of a facade: what somebody at (x, y) has before the eyes under this heading and pitch, in degrees."""

    x: float
    y: float
    heading: float
    pitch: float
    num_views: int


@dataclass(frozen=True)
class _View:
    """One picture: its target's number, its own number, and the angles under which it was cut."""

    target: int
    number: int
    heading: float
    pitch: float
    at: Vector
    camera: Camera


_CATHEDRAL = (
    _Facade(0, -38, 2, 18, 7), _Facade(-24, -30, 42, 20, 5), _Facade(26, -30, -44, 16, 4), _Facade(-26, 8, 91, 14, 4),
    _Facade(30, -36, 138, 11, 2), _Facade(26, 12, -84, 13, 5),
)  # fmt: skip
_CASTLE = (_Facade(0, -36, 5, 11, 4), _Facade(-30, -12, 66, 12, 4))
_TEMPLE = (_Facade(0, -34, -4, 14, 5), _Facade(28, -8, -78, 13, 4))


def _axis(heading: float, pitch: float) -> Vector:
    """Return the direction east, north and up of a heading (clockwise from north) and a pitch (up), in degrees."""
    level = cos_deg(pitch)
    return cos_deg(heading - 90.0) * level, cos_deg(heading) * level, cos_deg(pitch - 90.0)


def _ahead(place: Place, position: Vector, axis: Vector) -> float:
    """Return the distance to what lies ahead, inf for the sky."""
    x, y, z = (np.array([value]) for value in axis)
    return float(nearest(place.solids, position, (x, y, z))[0][0])


def _draws(key: int) -> Iterator[float]:
    start = 0
    while True:
        yield from (float(x) for x in rng.unit(rng.words(key, 64, start)))
        start += 64


def _views(place: Place, key: int, target: int, facade: _Facade, side: int) -> list[_View]:
    """Find places in the street from where the facade's point is free to see, in the middle of the picture.

    Where something stands before that point, as trees do in some worlds, a point beside it is taken.
    """
    for beside in range(_BESIDE):
        turned = replace(facade, heading=facade.heading + (3.0 if beside % 2 else -3.0) * ((beside + 1) // 2))
        views = _views_of(place, key, target, turned, side)
        if views:
            return views
    raise RuntimeError(f"target {target} of key {key} cannot be seen from the street")


def _views_of(place: Place, key: int, target: int, facade: _Facade, side: int) -> list[_View]:
    """Find the facade's views of one point, none where there are fewer than wanted."""
    position, axis = (facade.x, facade.y, _EYE), _axis(facade.heading, facade.pitch)
    far = _ahead(place, position, axis)
    if far > 1e6:  # the sky
        return []
    x, y, z = (position[i] + far * axis[i] for i in range(3))
    draw = _draws(key)
    views: list[_View] = []
    for _ in range(_ATTEMPTS):
        heading = int(1000.0 * (facade.heading + 100.0 * (next(draw) - 0.5))) / 1000.0
        pitch = int(1000.0 * (facade.pitch * (0.6 + 1.2 * next(draw)))) / 1000.0
        axis = _axis(heading, pitch)
        far = (z - _EYE) / axis[2]
        position = (x - far * axis[0], y - far * axis[1], z - far * axis[2])
        free = abs(_ahead(place, position, axis) - far) < 1e-6 * far and not inside(place.solids, position, 1.2)
        if free and 9.0 < far < 45.0:
            camera = Camera(side, side, _FOCAL * side, side / 2, side / 2, look_at(position, (x, y, z)), position)
            views.append(_View(target, len(views) + 1, heading, pitch, (x, y, z), camera))
            if len(views) == facade.num_views:
                return views
    return []


def _on_map(point: Vector) -> Vector:
    """Return latitude, longitude and height of a point of the place: x is east, y north."""
    east_degree = _METRES_PER_DEGREE * cos_deg(_LATITUDE)
    return _LATITUDE + point[1] / _METRES_PER_DEGREE, _LONGITUDE + point[0] / east_degree, _HEIGHT + point[2]


def _line_d(dataset: int, patch: int, view: _View) -> str:
    """Return line `d`: ids, target, surface normal, street view, distance over ground, heading, pitch, roll."""
    axis = _axis(view.heading, 0.0)
    over_ground = (view.at[2] - _EYE) / cos_deg(view.pitch - 90.0) * cos_deg(view.pitch)
    normal = (-axis[0], -axis[1], 0.0)
    numbers = (*_on_map(view.at), *normal, *_on_map(view.camera.centre), over_ground, view.heading, view.pitch, 0.0)
    return " ".join(["d", f"{dataset} {view.target} {patch} {view.number}", *(f"{x:.15e}" for x in numbers)])


def _line_a(side: int) -> str:
    """Return line `a` of an aligned picture: the target's place in it, and more numbers than are documented."""
    numbers = [0.5 * side, 0.5 * side, *(float(i) for i in range(42))]
    return " ".join(["a", *(f"{x:.15e}" for x in numbers)])


def _rectangle(
    name: str, place_name: str, facades: tuple[_Facade, ...], sets: tuple[str, ...], seed: int, side: int
) -> tuple[Album, dict[str, str], list[str]]:
    """Lay out a rectangle of the map: its album, its text files, and the names of its pictures without ending."""
    key, place = rng.key(seed, "demo", "streetview", name), build_place(place_name, seed)
    views = [
        view
        for target, facade in enumerate(facades, start=1)
        for view in _views(place, rng.key(key, target), 10 * target, facade, side)
    ]
    dataset = int(name)
    patches = range(997, 997 + len(views))  # counted target by target
    stems = [
        f"{dataset:07d}_{patch:07d}_{view.number:07d}_{view.target:07d}"
        for patch, view in zip(patches, views, strict=True)
    ]
    pictures, texts = [], {}
    for stem, patch, view in zip(stems, patches, views, strict=True):
        pictures.append(Picture(tuple(f"dataset_{which}/{name}/{stem}.jpg" for which in sets), Shot(view.camera)))
        for which in sets:
            lines = [_line_d(dataset, patch, view)] + ([_line_a(side)] if which == "aligned" else [])
            texts[f"dataset_{which}/{name}/{stem}.txt"] = "\n".join(lines) + "\n"
    x, y, z = views[0].at
    model = Model(
        truth=f"{name}/0.npz",
        names=tuple(f"{stem}.jpg" for stem in stems),
        cameras=tuple(view.camera for view in views),
        gauge=Gauge(1.0, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), (-x, -y, -z)),
        key=key,
    )
    return Album(place_name, seed, tuple(pictures), (model,)), texts, stems


def plan(seed: int, sizes: Sizes) -> Layout:
    """Lay out three rectangles: one in the aligned set, one in both, one in the unaligned set.

    Of the first, one picture is missing, one has no text, one an empty text, one a text that is cut off.
    """
    side = sizes.object
    first, texts, stems = _rectangle("0002", "cathedral", _CATHEDRAL, ("aligned",), seed, side)
    both, more, _ = _rectangle("0009", "castle", _CASTLE, ("aligned", "unaligned"), seed, side)
    last, others, _ = _rectangle("0058", "temple", _TEMPLE, ("unaligned",), seed, side)
    missing = f"dataset_aligned/0002/{stems[5]}.jpg"
    first = Album(first.place, seed, tuple(p for p in first.pictures if missing not in p.paths), first.models)
    del texts[f"dataset_aligned/0002/{stems[9]}.txt"]
    texts[f"dataset_aligned/0002/{stems[14]}.txt"] = ""
    cut = f"dataset_aligned/0002/{stems[20]}.txt"
    texts[cut] = texts[cut][:150]
    odd = {f"dataset_aligned/0002/._{stems[0]}.jpg": "Mac OS X", "dataset_aligned/Readme.txt": "3D Street View\n"}
    return Layout((first, both, last), {**texts, **more, **others, **odd})
