"""CO3D in the demo: videos round a ball and round a potted plant, annotated as version 2 is.

In: a seed and sizes. Out: a layout: two categories, one for each way of writing intrinsics, with set lists, masks and
depth maps; and what is met in the real data: file names that do not follow time, a missing image, black images of the
challenge, a sequence without annotation, one that was not downloaded.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mumdata import rng
from mumdata.demo.album import Album, Layout, Model, Picture, Sizes
from mumdata.demo.camera import Camera, Vector, circle
from mumdata.demo.shots import Shot, gauge, video

__all__ = ["plan"]


@dataclass(frozen=True)
class _Sequence:
    category: str
    name: str
    place: str
    sequence_set: str  # the set lists that name it: train, dev, test; "" for none
    num_frames: int
    centre: Vector  # of the object
    reach: float  # distance of the camera from it, on the ground
    height: float  # of the camera
    turns: tuple[float, float]
    upright: bool = True
    score: float = 1.2
    shift: int = 0  # file number of frame i is (i + shift) modulo the number of frames, plus one
    missing: tuple[int, ...] = ()  # annotated, not on disk
    hidden: tuple[int, ...] = ()  # targets of the challenge: black
    is_annotated: bool = True
    is_on_disk: bool = True


_BALL, _TABLE = (0.0, 0.0, 0.6), (0.85, 0.15, 0.75)
_SEQUENCES = (
    _Sequence("ball", "110_13051_23361", "n02802426", "train", 26, _BALL, 2.7, 1.5, (0.45, 0.95), missing=(17,)),
    _Sequence("ball", "189_20390_39011", "n02802426", "dev", 9, _BALL, 3.0, 1.1, (0.6, 0.85), score=0.31, shift=5),
    _Sequence("ball", "422_59588_115920", "n02802426", "", 5, _BALL, 2.6, 1.8, (0.5, 0.6), is_annotated=False),
    _Sequence("plant", "247_26445_52700", "living_room", "train", 8, _TABLE, 1.3, 1.35, (0.1, 0.6), upright=False),
    _Sequence(
        "plant", "374_42005_83877", "living_room", "test", 8, _TABLE, 1.2, 1.5, (0.35, 0.85), upright=False,
        hidden=(2, 5, 6),
    ),
    _Sequence("plant", "461_65173_127609", "living_room", "train", 6, _TABLE, 1.3, 1.4, (0.0, 0.3), is_on_disk=False),
)  # fmt: skip

# the two ways of writing intrinsics, each in one category
_FORMATS = {"ball": "ndc_isotropic", "plant": "ndc_norm_image_bounds"}
_SECONDS = 0.2  # between frames


def _film(sequence: _Sequence, sizes: Sizes) -> list[Shot]:
    """Walk round the object; the images are cropped from larger ones, so that the principal point is off the middle."""
    short, long = sizes.object * 5 // 8 // 2 * 2, sizes.object
    size = (short, long) if sequence.upright else (long, short)
    positions, targets = [], []
    x, y, z = sequence.centre
    for knot in range(5):
        a, b = sequence.turns
        dx, dy = circle(a + (b - a) * 0.25 * knot)
        lift = 0.12 * (1.0 if knot % 2 else -1.0)
        positions.append((x + dx * sequence.reach, y + dy * sequence.reach, sequence.height + lift))
        targets.append((x + 0.05 * dy, y - 0.05 * dx, z + 0.3 * lift))
    shots = video(sequence.num_frames, size, 1.05 * long, positions, targets)
    return [
        replace(
            shot,
            camera=replace(shot.camera, cx=shot.camera.cx - 2.25, cy=shot.camera.cy + 1.5),
            gain=(0.0, 0.0, 0.0) if i in sequence.hidden else shot.gain,
        )
        for i, shot in enumerate(shots)
    ]


def _viewpoint(camera: Camera, kind: str) -> dict[str, Any]:
    """Return a camera as PyTorch3D has it: rows times R plus T, x left and y up, intrinsics in units of half the image.

    `ndc_isotropic` means half the shorter side for both axes, `ndc_norm_image_bounds` half of each side.
    """
    r, t = camera.rotation, [float(row[3]) for row in camera.cam_from_world()]
    half_x, half_y = 0.5 * camera.width, 0.5 * camera.height
    scale_x, scale_y = (min(half_x, half_y),) * 2 if kind == "ndc_isotropic" else (half_x, half_y)
    return {
        "R": [[-r[i], -r[i + 3], r[i + 6]] for i in range(3)],
        "T": [-t[0], -t[1], t[2]],
        "focal_length": [camera.focal / scale_x, camera.focal / scale_y],
        "principal_point": [(half_x - camera.cx) / scale_x, (half_y - camera.cy) / scale_y],
        "intrinsics_format": kind,
    }


def _file_name(sequence: _Sequence, frame: int) -> str:
    return f"frame{(frame + sequence.shift) % sequence.num_frames + 1:06d}.jpg"


def _records(sequence: _Sequence, shots: Sequence[Shot], model: Model) -> list[dict[str, Any]]:
    folder = f"{sequence.category}/{sequence.name}"
    records = []
    for i, shot in enumerate(shots):
        name = _file_name(sequence, i)
        stem = name.removesuffix(".jpg")
        camera = model.gauge.camera(shot.camera)
        records.append(
            {
                "sequence_name": sequence.name,
                "frame_number": i,
                "frame_timestamp": _SECONDS * i,
                "image": {"path": f"{folder}/images/{name}", "size": [camera.height, camera.width]},
                "depth": {
                    "path": f"{folder}/depths/{name}.geometric.png",
                    "scale_adjustment": 1.0,
                    "mask_path": f"{folder}/depth_masks/{stem}.png",
                },
                "mask": {"path": f"{folder}/masks/{stem}.png", "mass": 0.0},
                "viewpoint": _viewpoint(camera, _FORMATS[sequence.category]),
                "meta": {"frame_type": f"{sequence.sequence_set}_{'unseen' if i in sequence.hidden else 'known'}"},
            }
        )
    # the order of the file is not that of time
    return records[1::2] + records[::2]


def _set_lists(category: str) -> dict[str, str]:
    """Return the set lists of a category: path -> JSON. The few-view list for training names all frames twice."""
    entries: dict[str, list[list[Any]]] = {"train": [], "dev": [], "test": [], "known": [], "hidden": []}
    for sequence in _SEQUENCES:
        if sequence.category != category or not sequence.sequence_set:
            continue
        for i in range(sequence.num_frames):
            path = f"{category}/{sequence.name}/images/{_file_name(sequence, i)}"
            entries[sequence.sequence_set].append([sequence.name, i, path])
            if sequence.sequence_set == "test":
                entries["hidden" if i in sequence.hidden else "known"].append([sequence.name, i, path])
    train, dev = entries["train"], entries["dev"]
    lists: dict[str, dict[str, list[list[Any]]]] = {"fewview_train": {"train": train, "val": train, "test": train}}
    if dev:
        lists["fewview_dev"] = {"train": train, "val": dev, "test": dev}
    if entries["hidden"]:
        hidden = entries["hidden"]
        lists["manyview_test_0"] = {"train": entries["known"], "val": hidden, "test": hidden}
    return {f"{category}/set_lists/set_lists_{name}.json": json.dumps(parts) for name, parts in lists.items()}


def _jgz(value: Any) -> bytes:
    return gzip.compress(json.dumps(value).encode(), mtime=0)


def plan(seed: int, sizes: Sizes) -> Layout:
    """Lay out six sequences of two categories: five with images, four with images and annotations."""
    albums: list[Album] = []
    texts: dict[str, str | bytes] = {}
    frames: dict[str, list[dict[str, Any]]] = {category: [] for category in _FORMATS}
    known: dict[str, list[dict[str, Any]]] = {category: [] for category in _FORMATS}
    for sequence in _SEQUENCES:
        key = rng.key(seed, "demo", "co3d", sequence.name)
        folder, shots = f"{sequence.category}/{sequence.name}", _film(sequence, sizes)
        names = tuple(_file_name(sequence, i) for i in range(sequence.num_frames))
        model = Model(f"{folder}/0.npz", names, tuple(shot.camera for shot in shots), gauge(key), key)
        if sequence.is_annotated:
            frames[sequence.category] += _records(sequence, shots, model)
            known[sequence.category].append(
                {
                    "sequence_name": sequence.name,
                    "category": sequence.category,
                    "video": None,
                    "point_cloud": None,
                    "viewpoint_quality_score": sequence.score,
                }
            )
        if not sequence.is_on_disk:
            continue
        pictures = tuple(
            Picture(
                (f"{folder}/images/{name}",),
                shot,
                f"{folder}/depths/{name}.geometric.png",
                model.gauge.scale,
                "half-bits",
                f"{folder}/masks/{name.removesuffix('.jpg')}.png" if sequence.category == "ball" else "",
            )
            for i, (name, shot) in enumerate(zip(names, shots, strict=True))
            if i not in sequence.missing
        )
        albums.append(Album(sequence.place, seed, pictures, (model,)))
    for category in _FORMATS:
        texts[f"{category}/frame_annotations.jgz"] = _jgz(frames[category])
        texts[f"{category}/sequence_annotations.jgz"] = _jgz(known[category])
        texts |= _set_lists(category)
    return Layout(tuple(albums), texts)
