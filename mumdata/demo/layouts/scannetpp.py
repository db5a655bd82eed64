"""ScanNet++ in the demo: three rooms, one for each kind of split, photographed and two of them filmed.

In: a seed and sizes. Out: a layout: undistorted DSLR pictures with the fisheye's COLMAP model as text, Nerfstudio's two
files, lists of training and test pictures, iPhone frames with depth, the scan's mesh, and what goes wrong: a picture
that left the lists, one that is marked bad, test pictures that are kept back, frames that the model does not register.

No fisheye picture is rendered, so the fisheye's parameters are made up, and the model's keypoints lie where the
undistorted pictures show their points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mumdata import rng
from mumdata.demo.album import Album, Layout, Model, Picture, Sizes, build_place
from mumdata.demo.camera import Camera, Gauge, Vector, project, quaternion, turn
from mumdata.demo.encode import encode_mask
from mumdata.demo.layouts.dl3dv import opengl_pose
from mumdata.demo.points import Cloud, sample_points
from mumdata.demo.shots import Shot, video
from mumdata.demo.surface import mesh_ply

__all__ = ["plan"]

_IPHONE_SIZE = (1920, 1440)  # of the video; the demo's frames are smaller
_FISHEYE = (0.36, 0.031, -0.012, 0.004, -0.0006)  # focal length as a share of the width, k1 .. k4


@dataclass(frozen=True)
class _Path:
    num_frames: int
    positions: tuple[Vector, ...]
    targets: tuple[Vector, ...]


@dataclass(frozen=True)
class _Room:
    place: str
    split: str
    train: _Path
    test: _Path
    first: int  # the camera's counter at the first picture
    kind: str = "resized_undistorted_images"
    masks: str = "resized_undistorted_masks"
    unlisted: int | None = None  # picture of the walk that left the lists
    bad: int | None = None  # picture of the walk that is marked is_bad
    hidden: bool = False  # the test pictures are kept back
    iphone: _Path | None = None
    registered: tuple[int, int] | None = None  # iPhone frames in its COLMAP model: first, one after the last


_ROOMS = (
    _Room(
        "living_room", "nvs_sem_train",
        _Path(
            27,
            ((-1.9, -1.4, 1.5), (-0.6, -1.5, 1.45), (1.2, -1.4, 1.5), (1.6, 0.9, 1.55), (0.2, 1.2, 1.5),
             (-1.6, 0.4, 1.4), (-1.2, -1.0, 1.5)),
            ((2.6, 1.0, 1.1), (2.8, 2.2, 1.2), (-1.0, 2.6, 1.3), (-3.0, 0.4, 1.2), (-1.2, -2.6, 0.9), (2.0, -2.5, 1.0),
             (3.1, 0.2, 1.1)),
        ),
        _Path(
            4, ((-0.4, -0.6, 1.9), (0.2, 0.4, 2.0), (-0.8, 0.6, 1.8)),
            ((-3.0, 0.5, 1.0), (3.0, 0.2, 0.8), (0.6, -2.6, 1.0)),
        ),
        first=9988, unlisted=20, bad=4,
        iphone=_Path(
            8, ((1.8, -1.6, 1.4), (0.4, -1.2, 1.5), (-1.5, -1.5, 1.5)),
            ((-1.0, 2.4, 1.1), (1.4, 2.4, 1.2), (2.8, 1.0, 0.9)),
        ),
        registered=(0, 6),
    ),
    _Room(
        "kitchen", "nvs_sem_val",
        _Path(
            8, ((1.9, -1.6, 1.5), (0.2, -1.35, 1.6), (-1.5, -0.4, 1.55)),
            ((-0.5, 1.6, 1.0), (-1.6, 1.4, 1.0), (2.4, 0.9, 1.3)),
        ),
        _Path(2, ((1.5, -1.1, 1.9), (-0.9, -1.3, 1.8)), ((-1.6, 1.4, 1.0), (2.0, 1.4, 1.0))),
        first=1201, kind="undistorted_images", masks="undistorted_anon_masks",
        iphone=_Path(4, ((1.6, -1.5, 1.5), (-1.4, -1.3, 1.5)), ((-1.2, 1.6, 1.0), (0.4, 1.8, 1.0))),
    ),
    _Room(
        "attic", "nvs_test",
        _Path(
            8, ((1.6, -1.3, 1.6), (0.4, -1.2, 1.55), (-0.9, -0.9, 1.6)),
            ((-1.6, 1.2, 0.8), (0.2, 2.2, 1.3), (2.3, 1.2, 1.0)),
        ),
        _Path(3, ((0.8, -0.9, 1.9), (-0.8, -1.2, 1.8)), ((0.2, 2.2, 1.3), (2.3, 1.2, 1.0))),
        first=310, hidden=True,
    ),
)  # fmt: skip


def _shots(path: _Path, size: tuple[int, int], focal: float) -> list[Shot]:
    return video(path.num_frames, size, focal * size[0], path.positions, path.targets)


def _json(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(repr(float(value)) for value in values)


def _colmap(model: Model, cloud: Cloud, prefix: str, lens: str) -> dict[str, str]:
    """Return the text files of a model with one camera, `lens`; its image names get a prefix, its ids have gaps."""
    ids = [7 + 3 * row for row in range(len(model.names))]
    images = [
        "# Image list with two lines of data per image:",
        "#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME",
    ]
    tracks: list[list[str]] = [[] for _ in cloud.xyz]
    for row, (name, placed) in enumerate(zip(model.names, model.cameras, strict=True)):
        camera = model.gauge.camera(placed)
        x, y, z, w = quaternion(camera.rotation)
        shift = [float(value) for value in camera.cam_from_world()[:, 3]]
        images.append(f"{ids[row]} {_numbers((w, x, y, z, *shift))} 1 {prefix}{name}")
        xs, ys, _ = project(placed, cloud.xyz)
        seen = [int(point) for point in np.flatnonzero(cloud.visible[row])]
        # one keypoint without a point, then the observations
        images.append(" ".join(["0.5 0.5 -1", *(f"{xs[point]:.3f} {ys[point]:.3f} {point + 1}" for point in seen)]))
        for place, point in enumerate(seen):
            tracks[point].append(f"{ids[row]} {place + 1}")
    points = ["# 3D point list with one line of data per point:", "#   POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[]"]
    for number, xyz in enumerate(model.gauge.points(cloud.xyz)):
        red, green, blue = (int(value) for value in cloud.rgb[number])
        points.append(f"{number + 1} {_numbers(xyz)} {red} {green} {blue} 0.5 {' '.join(tracks[number])}")
    cameras = [
        "# Camera list with one line of data per camera:",
        "#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]",
        f"1 {lens}",
    ]
    return {
        "cameras.txt": "\n".join(cameras) + "\n",
        "images.txt": "\n".join(images) + "\n",
        "points3D.txt": "\n".join(points) + "\n",
    }


def _nerfstudio(cameras: Mapping[str, Camera], test: Sequence[str], bad: str) -> dict[str, str]:
    """Return Nerfstudio's two files for cameras in the model's gauge: the fisheye's and the undistorted pictures'."""

    def frame(name: str) -> dict[str, object]:
        return {
            "file_path": name,
            "mask_path": name.replace(".JPG", ".png"),
            "transform_matrix": opengl_pose(cameras[name]),
            "is_bad": name == bad,
        }

    lists = {
        "frames": [frame(name) for name in cameras if name not in test],
        "test_frames": [frame(name) for name in test],
        "has_mask": True,
    }
    camera = next(iter(cameras.values()))
    share, k1, k2, k3, k4 = _FISHEYE
    size = {"w": camera.width, "h": camera.height, "cx": camera.cx, "cy": camera.cy}
    focal = share * camera.width
    fisheye = {"fl_x": focal, "fl_y": focal, **size, "k1": k1, "k2": k2, "k3": k3, "k4": k4}
    flat = {"fl_x": camera.focal, "fl_y": camera.focal, **size, "k1": 0.0, "k2": 0.0, "k3": 0.0, "k4": 0.0}
    return {
        "transforms.json": _json({**fisheye, "camera_model": "OPENCV_FISHEYE", **lists}),
        "transforms_undistorted.json": _json({**flat, "camera_model": "PINHOLE", **lists}),
    }


def _dslr(room: _Room, scene: str, key: int, seed: int, sizes: Sizes, place_gauge: Gauge) -> Layout:
    """Lay out a room's DSLR pictures: the walk and, elsewhere, the test pictures."""
    width = sizes.photo * 3 // 4
    size = width, width * 2 // 3
    walk, test = _shots(room.train, size, 0.55), _shots(room.test, size, 0.55)
    # the counter has four digits and goes on at 1: names are not in the order of the pictures
    names = [f"DSC{(room.first + i - 1) % 9999 + 1:05d}.JPG" for i in range(len(walk) + 9 + len(test))]
    train_names, test_names = names[: len(walk)], names[len(walk) + 9 :]
    shots = dict(zip((*train_names, *test_names), (*walk, *test), strict=True))
    left_out = train_names[room.unlisted] if room.unlisted is not None else ""
    listed = [name for name in train_names if name != left_out]
    registered = [*listed, *(() if room.hidden else test_names)]
    model = Model(
        truth=f"{scene}/dslr.npz",
        names=tuple(registered),
        cameras=tuple(shots[name].camera for name in registered),
        gauge=place_gauge,
        key=rng.key(key, "dslr"),
    )
    folder = f"data/{scene}/dslr"
    share, *distortion = _FISHEYE
    params = (share * width, share * width, size[0] / 2, size[1] / 2, *distortion)
    lens = f"OPENCV_FISHEYE {size[0]} {size[1]} {_numbers(params)}"
    cloud = sample_points(build_place(room.place, seed), model.cameras, sizes.points, model.key)
    placed = {name: place_gauge.camera(shots[name].camera) for name in (*listed, *test_names)}
    bad = train_names[room.bad] if room.bad is not None else ""
    shown = [name for name in shots if not (room.hidden and name in test_names)]
    mask = encode_mask(np.full((size[1], size[0]), True))
    texts: dict[str, str | bytes] = {
        f"{folder}/train_test_lists.json": _json({"train": listed, "test": test_names, "has_masks": True})
    }
    texts |= {f"{folder}/colmap/{name}": text for name, text in _colmap(model, cloud, "", lens).items()}
    texts |= {f"{folder}/nerfstudio/{name}": text for name, text in _nerfstudio(placed, test_names, bad).items()}
    texts |= {f"{folder}/{room.masks}/{name.replace('.JPG', '.png')}": mask for name in shown}
    pictures = tuple(Picture((f"{folder}/{room.kind}/{name}",), shots[name]) for name in shown)
    return Layout((Album(room.place, seed, pictures, (model,)),), texts)


def _iphone(room: _Room, path: _Path, scene: str, key: int, seed: int, sizes: Sizes, place_gauge: Gauge) -> Layout:
    """Lay out a room's iPhone frames: every tenth of a video at 60 frames a second."""
    width = sizes.photo // 16 * 12
    shots = _shots(path, (width, width * 3 // 4), 0.8)
    stems = [f"frame_{10 * i:06d}" for i in range(len(shots))]
    model = Model(
        truth=f"{scene}/iphone.npz",
        names=tuple(f"{stem}.jpg" for stem in stems),
        cameras=tuple(shot.camera for shot in shots),
        gauge=place_gauge,
        key=rng.key(key, "iphone"),
    )
    folder, factor = f"data/{scene}/iphone", _IPHONE_SIZE[0] / width
    fx, fy, cx, cy = (value * factor for value in shots[0].camera.intrinsics())
    arkit = {}
    for i, (stem, shot) in enumerate(zip(stems, shots, strict=True)):
        own, aligned = shot.camera, place_gauge.camera(shot.camera)
        arkit[stem] = {
            "timestamp": 81234.5 + 10 * i / 64,
            "pose": _world_from_cam(own),  # in ARKit's own world
            "intrinsic": [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]],
            "aligned_pose": _world_from_cam(aligned),
        }
    texts: dict[str, str | bytes] = {f"{folder}/pose_intrinsic_imu.json": _json(arkit)}
    if room.registered is not None:
        rows = slice(*room.registered)
        part = replace(model, names=model.names[rows], cameras=model.cameras[rows])
        cloud = sample_points(build_place(room.place, seed), part.cameras, sizes.points, part.key)
        lens = f"OPENCV {_IPHONE_SIZE[0]} {_IPHONE_SIZE[1]} {_numbers((fx, fy, cx, cy, 0.0, 0.0, 0.0, 0.0))}"
        texts |= {f"{folder}/colmap/{name}": text for name, text in _colmap(part, cloud, "video/", lens).items()}
    mask = encode_mask(np.full((width * 3 // 4, width), True))
    texts |= {f"{folder}/rgb_masks/{stem}.png": mask for stem in stems}
    pictures = tuple(
        Picture((f"{folder}/rgb/{stem}.jpg",), shot, f"{folder}/depth/{stem}.png", depth_kind="millimetres")
        for stem, shot in zip(stems, shots, strict=True)
    )
    return Layout((Album(room.place, seed, pictures, (model,)),), texts)


def _world_from_cam(camera: Camera) -> list[list[float]]:
    r, (x, y, z) = camera.rotation, camera.centre
    return [[r[0], r[3], r[6], x], [r[1], r[4], r[7], y], [r[2], r[5], r[8], z], [0.0, 0.0, 0.0, 1.0]]


def plan(seed: int, sizes: Sizes) -> Layout:
    """Lay out three rooms: 27, 8 and 8 DSLR pictures and 4, 2 and 3 for tests, of which the last 3 are kept back.

    The first two rooms have 8 and 4 iPhone frames; COLMAP registers six of the eight. The points of the models are
    found here, since the models are text.
    """
    albums: list[Album] = []
    texts: dict[str, str | bytes] = {"splits/sem_test.txt": ""}
    for number, room in enumerate(_ROOMS):
        key = rng.key(seed, "demo", "scannetpp", number)
        scene = f"{int(rng.words(key, 1)[0]):016x}"[:10]
        c, s = turn(0.2 + 0.1 * number)
        place_gauge = Gauge(1.0, (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0), (4.0 + number, 3.5, 0.1))
        parts = [_dslr(room, scene, key, seed, sizes, place_gauge)]
        if room.iphone is not None:
            parts.append(_iphone(room, room.iphone, scene, key, seed, sizes, place_gauge))
        for part in parts:
            albums += part.albums
            texts |= part.texts
        texts[f"splits/{room.split}.txt"] = f"{scene}\n"
        if not room.hidden:  # nvs_test was published without scans
            texts[f"data/{scene}/scans/mesh_aligned_0.05.ply"] = mesh_ply(build_place(room.place, seed), place_gauge)
    return Layout(tuple(albums), texts)
