"""3D Street View: pictures cut out of street panoramas, several of them around the same point of a facade.

In: `dataset_aligned/<NNNN>/` or `dataset_unaligned/<NNNN>/`, or both: flat folders of
`<dataset>_<patch>_<street view>_<target>.jpg`, each with a text file of the same name. Out: one scene a rectangle of
the map (`<NNNN>`). The aligned set, which MuM takes, is the stream without a name, the other the stream `unaligned`: a
rectangle that is in both sets shows the same streets twice, so that its streams have one group and never get apart. A
set's folder can be the root; then its stream has no name.

The order is that of the names, number by number. Patches are numbered target by target, as far as published names
tell, so that the two to seven views of a target follow one another, and neighbours in the order are near on the map.

The text's line `d` gives places and angles, of which the camera is made: see `_cam_from_world`. Its line `a` tells how
the aligned set was made; it is not needed, and has more numbers than are documented. To read the texts is one more
small file to open for each picture, and 30 microseconds of work. The field of view is not in the data: its authors give
89.75 degrees for all pictures, found by experiment, with the principal point in the middle (issue 3 of
amir32002/3D_Street_View). A text without its picture is a frame whose file is missing: published archives break off.
"""

from __future__ import annotations

import math
import re

import numpy as np

from mumdata.datasets import Cameras, KnownBad, Layout, Scene, Spec, Stream, natural_order
from mumdata.errors import LayoutError
from mumdata.geometry import cos_deg
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

_DAMAGED = "the published archive fails its checksum: it unpacks in part, and single files may be damaged"
_DAMAGED_ALIGNED = ("0012", "0020", "0032", "0072", "0074")
_DAMAGED_UNALIGNED = ("0004", "0030", "0069", "0070", "0072", "0075", "0080", "0081", "0084", "0097")

SPEC = Spec(
    name="streetview",
    title="3D Street View",
    rule="chunk",
    licence="free for non-commercial use with a reference; neither the data nor modified versions may be passed on",
    source="archives listed in links/ of amir32002/3D_Street_View; gzip-compressed though named .tar",
    layouts=(
        Layout(
            "both sets",
            "dataset_{aligned,unaligned}/<NNNN>/<dataset>_<patch>_<street view>_<target>.{jpg,txt}",
            (r"dataset_(aligned|unaligned)/\d{4}/\d+_\d+_\d+_\d+\.(jpg|txt)",),
            {
                r"dataset_(aligned|unaligned)/\d{4}/\d+_\d+_\d+_\d+\.jpg": "pictures",
                r"dataset_(aligned|unaligned)/\d{4}/\d+_\d+_\d+_\d+\.txt": "places and angles: cameras",
            },
        ),
        Layout(
            "one set",
            "<NNNN>/<dataset>_<patch>_<street view>_<target>.{jpg,txt}",
            (r"\d{4}/\d+_\d+_\d+_\d+\.(jpg|txt)",),
            {
                r"\d{4}/\d+_\d+_\d+_\d+\.jpg": "pictures",
                r"\d{4}/\d+_\d+_\d+_\d+\.txt": "places and angles: cameras",
            },
        ),
    ),
    archives=("dataset_aligned/*.tar", "dataset_unaligned/*.tar", "[0-9][0-9][0-9][0-9].tar"),
    num_scenes=59,
    num_frames=25_000_000,
    counts="39 aligned and 54 unaligned archives, 34 rectangles in both, by the project's lists; pictures of both sets "
    "by its README, of which the aligned set has about 6.28 million, as MuM counted",
    known_bad=(
        *(
            KnownBad(f"aligned set: {_DAMAGED}", "issue 5 of amir32002/3D_Street_View", scene, drop=False)
            for scene in _DAMAGED_ALIGNED
        ),
        *(
            KnownBad(_DAMAGED, "issues 5 and 15 of amir32002/3D_Street_View", scene, "unaligned", drop=False)
            for scene in _DAMAGED_UNALIGNED
        ),
    ),
    presets={
        "mumdata": {"chunk_size": 100},
        "mum-paper": {"chunk_size": 100},
        "mum-released": {"chunk_size": 24, "last_chunk": "released"},
    },
)

# stream and folder; the root itself may be a set, of which nothing tells which one it is
_SETS: tuple[tuple[str | None, str], ...] = ((None, "dataset_aligned"), ("unaligned", "dataset_unaligned"))
_ONE_SET: tuple[tuple[str | None, str], ...] = ((None, ""),)

_SCENE = re.compile(r"\d{4}")
_STEM = re.compile(r"[0-9]+_[0-9]+_[0-9]+_[0-9]+")

# the sphere that the dataset's own distances and headings were computed on: they come out to six digits with it
_EARTH_RADIUS_M = 6_371_000.0
_METRES_PER_DEGREE = _EARTH_RADIUS_M * math.pi / 180.0

# tan(89.75 / 2 degrees) from cosines that are the same on every machine; in units of the picture's side
_FOCAL = 0.5 * cos_deg(89.75 / 2.0) / cos_deg(90.0 - 89.75 / 2.0)

# where line `d` has the numbers that are read: target and street view as latitude, longitude, height; three angles
_TARGET, _VIEW, _ANGLES = slice(5, 8), slice(11, 14), slice(15, 18)
_NUM_FIELDS = 18


def scenes(tree: Tree) -> list[Scene]:
    """List the rectangles of the map that are there, in either set."""
    places: dict[str, list[tuple[str | None, str]]] = {}
    for stream, base in _SETS if any(tree.is_folder(base) for _, base in _SETS) else _ONE_SET:
        for name in tree.folders(base):
            if _SCENE.fullmatch(name):
                folder = f"{base}/{name}".removeprefix("/")
                # archives unpacked each into a folder of its own: <NNNN>/<NNNN>
                inner = f"{folder}/{name}"
                places.setdefault(name, []).append((stream, inner if tree.is_folder(inner) else folder))
    if not places:
        raise LayoutError(f"{tree.root} does not look like streetview; expected {SPEC.layout}")
    return [Scene(None, name, tuple(places[name])) for name in sorted(places)]


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """Read one rectangle: a stream for each set that it is in."""
    return [_read_set(tree, scene.scene, stream, folder) for stream, folder in scene.places]


def _read_set(tree: Tree, scene: str, stream: str | None, folder: str) -> Stream:
    images: dict[str, str] = {}
    texts: set[str] = set()
    ignored = []
    for name in tree.files(folder):
        stem, _, ending = name.rpartition(".")
        if not _STEM.fullmatch(stem) or ending not in ("jpg", "txt"):
            hidden = name.startswith(".")
            why = "a hidden file" if hidden else "not <dataset>_<patch>_<street view>_<target>.jpg or .txt"
            ignored.append((f"{folder}/{name}", "hidden" if hidden else "unexpected_name", why))
        elif ending == "jpg":
            images[stem] = name
        else:
            texts.add(stem)
    stems = natural_order(images.keys() | texts)
    if not stems:
        return Stream(stream, (), scene, problem="empty", detail="neither pictures nor texts", ignored=tuple(ignored))
    numbers, broken = _read_texts(tree, folder, stems, texts)
    problem, detail = None, None
    if not texts:
        problem, detail = "no_model", "no text files beside the pictures"
    elif len(texts) < len(stems) or broken:
        detail = f"pictures without text: {len(stems) - len(texts)}; unusable texts: {len(broken)}"
        problem, detail = "partial_poses", f"{detail}, the first {broken[0]}" if broken else detail
    num = len(stems)
    cameras = Cameras(
        ("PINHOLE",) * num,
        np.ones((num, 2), np.int64),
        np.tile([_FOCAL, _FOCAL, 0.5, 0.5], (num, 1)),
        ((),) * num,
        _cam_from_world(numbers),
    )
    paths = tuple(f"{folder}/{stem}.jpg" for stem in stems)
    return Stream(stream, paths, scene, cameras=cameras, problem=problem, detail=detail, ignored=tuple(ignored))


def _read_texts(tree: Tree, folder: str, stems: list[str], texts: set[str]) -> tuple[np.ndarray, list[str]]:
    # float64 [n, 9], NaN where unknown: target, street view, angles; and what is wrong with the texts that are no use
    numbers = np.full((len(stems), 9), np.nan)
    broken = []
    for row, stem in enumerate(stems):
        if stem in texts:
            try:
                numbers[row] = _parse(tree.read_bytes(f"{folder}/{stem}.txt", most=1 << 16))
            except (ValueError, LayoutError) as error:
                broken.append(f"{stem}.txt: {error}")
    return numbers, broken


def _parse(data: bytes) -> list[float]:
    line = next((line for line in data.splitlines() if line.startswith(b"d ")), None)
    if line is None:
        raise ValueError("no line that starts with d")
    fields = line.split(None, _NUM_FIELDS)
    if len(fields) < _NUM_FIELDS:
        raise ValueError(f"line d has {len(fields)} fields, at least {_NUM_FIELDS} needed")
    values = [float(field) for field in (*fields[_TARGET], *fields[_VIEW], *fields[_ANGLES])]
    if not all(map(math.isfinite, values)):
        raise ValueError("a number is not finite")
    if max(map(abs, (*values[0:2], *values[3:5], *values[6:8]))) > 360.0:
        raise ValueError("an angle is beyond 360 degrees")
    if values[8] != 0.0:
        raise ValueError(f"the roll is {values[8]:g}; it is documented to be 0, and its sense is not")
    return values


def _cam_from_world(numbers: np.ndarray) -> np.ndarray:
    """Return cam_from_world float64 [n, 3, 4] in metres east, north and up of the first known target; NaN if unknown.

    `numbers` [n, 9] as of `_read_texts`. Positions are latitude and longitude times the metres of a degree, those of
    longitude shortened by the cosine of the origin's latitude: within 5 km of the origin, and up to 55 degrees of
    latitude, that is off by less than 0.15 per cent and 0.1 degrees. The camera looks along the heading, clockwise
    from north, and the pitch, up from the horizon, with its x axis level: the axis (sin h cos p, cos h cos p, sin p)
    in east, north and up, right of it (cos h, -sin h, 0), and down their cross product (sin h sin p, cos h sin p,
    -cos p).
    """
    matrices = np.full((len(numbers), 3, 4), np.nan)
    known = np.flatnonzero(np.isfinite(numbers).all(axis=1))
    if len(known) == 0:
        return matrices
    latitude, longitude, height = numbers[known[0], 0:3]
    east = (numbers[known, 4] - longitude) * (_METRES_PER_DEGREE * cos_deg(float(latitude)))
    north = (numbers[known, 3] - latitude) * _METRES_PER_DEGREE
    up = numbers[known, 5] - height
    cos_h, sin_h = _cos_sin(numbers[known, 6])
    cos_p, sin_p = _cos_sin(numbers[known, 7])
    level = np.zeros(len(known))
    rows = ((cos_h, -sin_h, level), (sin_h * sin_p, cos_h * sin_p, -cos_p), (sin_h * cos_p, cos_h * cos_p, sin_p))
    for i, (x, y, z) in enumerate(rows):
        shift = -(x * east + y * north + z * up)
        for j, values in enumerate((x, y, z, shift)):
            matrices[known, i, j] = values
    return matrices


def _cos_sin(degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # one by one: NumPy's own may differ in the last bit from machine to machine, and catalogs may not
    values = degrees.tolist()
    return np.array([cos_deg(value) for value in values]), np.array([cos_deg(value - 90.0) for value in values])
