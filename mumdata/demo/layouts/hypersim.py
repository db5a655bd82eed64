"""Hypersim in the demo: rendered rooms as the project's repository holds them, with its tables.

In: a seed and sizes. Out: a layout: two scenes with preview pictures and distance maps, one of them through a
tilt-shift lens, one scene without previews, and what the real data has: asset units, gaps in the frame ids, an
orientation that is no rotation, a picture and a distance map that are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mumdata import rng
from mumdata.demo.album import Album, Layout, Model, Picture, Sizes
from mumdata.demo.camera import Camera, Gauge, Matrix, Vector, matmul, turn
from mumdata.demo.encode import hdf5
from mumdata.demo.shots import Shot, video

__all__ = ["plan"]

_SCENES = "evermotion_dataset/scenes"
_OPENGL: Matrix = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0)  # OpenGL's camera axes, seen from OpenCV's
_FOCAL = 0.866  # of the width: 60 degrees
_UNIT = {"ai_001_001": 0.0254, "ai_002_004": 0.01, "ai_003_006": 0.01}  # metres


@dataclass(frozen=True)
class _Path:
    """One camera path: `num` frame ids, of which `withheld` are not in the release."""

    scene: str
    camera: str
    place: str
    split: str
    num: int
    positions: tuple[Vector, ...]
    targets: tuple[Vector, ...]
    withheld: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()  # released, but not on the disk
    without_depth: tuple[int, ...] = ()
    no_rotation: tuple[int, ...] = ()  # frames whose stored orientation has columns of the wrong length
    kinds: tuple[str, ...] = ("tonemap", "color")
    shift: tuple[float, float] = (0.0, 0.0)  # of the principal point, as a share of the picture
    tilt: float = 0.0  # tangent of half the angle between the picture plane's normal and the stored axis


_PATHS = (
    _Path(
        "ai_001_001", "cam_00", "living_room", "train", 34,
        ((-1.9, -1.4, 1.5), (-0.6, -1.5, 1.35), (1.2, -1.4, 1.5), (1.6, 0.9, 1.65), (0.2, 1.2, 1.5)),
        ((2.6, 1.0, 1.1), (2.8, 2.2, 1.2), (-1.0, 2.6, 1.3), (-3.0, 0.4, 1.2), (-1.2, -2.6, 0.9)),
        withheld=(3, 11, 12, 27), shift=(0.06, -0.05),
    ),
    _Path(
        "ai_001_001", "cam_01", "living_room", "train", 10,
        ((1.5, 1.6, 1.6), (0.3, 1.7, 1.6), (-0.4, 0.2, 1.5)), ((-2.0, -1.5, 0.9), (0.6, -1.8, 0.8), (2.6, -0.4, 0.7)),
        withheld=(1, 2), no_rotation=(0,), shift=(0.06, -0.05),
    ),
    _Path(
        "ai_002_004", "cam_00", "hall", "val", 12,
        ((-5.2, -1.6, 1.7), (-3.4, -1.9, 1.7), (-1.4, -1.6, 1.8)), ((1.0, 1.0, 1.7), (2.0, 0.4, 1.7), (5.0, 0.2, 1.8)),
        withheld=(0, 6), missing=(4,), without_depth=(5,), kinds=("color",), tilt=0.08,
    ),
)  # fmt: skip


def _camera(path: _Path, camera: Camera) -> Camera:
    """Move the principal point by the path's shift; a tilted picture plane is a camera that looks past the middle.

    With the plane tilted by a, the focal length becomes f cos a and the principal point moves by f sin a, so that what
    the stored axis points at stays in the middle of the picture.
    """
    c, s = turn(path.tilt)
    cx = camera.cx + path.shift[0] * camera.width
    cy = camera.cy + path.shift[1] * camera.height + camera.focal * s
    return replace(camera, focal=camera.focal * c, cx=cx, cy=cy)


def _true_from_stored(path: _Path) -> Matrix:
    """Return the turn from the axes of the stored orientation to those of the picture, OpenCV's."""
    c, s = turn(path.tilt)
    return (1.0, 0.0, 0.0, 0.0, c, -s, 0.0, s, c)


def _transposed(a: Matrix) -> Matrix:
    return a[0], a[3], a[6], a[1], a[4], a[7], a[2], a[5], a[8]


def _projection(camera: Camera, true_from_stored: Matrix) -> list[float]:
    """Return OpenGL's projection matrix [4 x 4, row-major] with the camera's turn, near plane 1 and far plane 1000."""
    t = matmul(_OPENGL, matmul(true_from_stored, _OPENGL))
    x = (2.0 * camera.focal / camera.width, 0.0, 1.0 - 2.0 * camera.cx / camera.width)
    y = (0.0, 2.0 * camera.focal / camera.height, 2.0 * camera.cy / camera.height - 1.0)
    z, w = (0.0, 0.0, -1001.0 / 999.0), (0.0, 0.0, -1.0)
    rows = [[row[0] * t[j] + row[1] * t[j + 3] + row[2] * t[j + 6] for j in range(3)] for row in (x, y, z, w)]
    ends = (0.0, 0.0, -2000.0 / 999.0, 0.0)
    return [value for row, end in zip(rows, ends, strict=True) for value in (*row, end)]


def _poses(path: _Path, cameras: Sequence[Camera]) -> dict[str, bytes]:
    """Return the files of a camera path's poses: one for every frame id, in asset units and OpenGL's axes."""
    unit = _UNIT[path.scene]
    stored_from_true = _transposed(_true_from_stored(path))
    orientations = []
    for number, camera in enumerate(cameras):
        cam_from_world = matmul(_OPENGL, matmul(stored_from_true, camera.rotation))
        world_from_cam = _transposed(cam_from_world)
        longer = 1.3 if number in path.no_rotation else 1.0
        orientations.append([longer * value for value in world_from_cam])
    folder = f"{_SCENES}/{path.scene}/_detail/{path.camera}"
    positions = [[value / unit for value in camera.centre] for camera in cameras]
    return {
        f"{folder}/camera_keyframe_orientations.hdf5": hdf5(
            dataset=np.array(orientations, np.float64).reshape(len(cameras), 3, 3)
        ),
        f"{folder}/camera_keyframe_positions.hdf5": hdf5(dataset=np.array(positions, np.float64)),
        f"{folder}/camera_keyframe_frame_indices.hdf5": hdf5(dataset=np.arange(len(cameras))),
    }


def _split_table() -> str:
    lines = ["scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name"]
    for path in _PATHS:
        for number in range(path.num):
            if number in path.withheld:
                lines.append(f"{path.scene},{path.camera},{number},False,CONTENT FLAGGED FOR REMOVAL,")
            else:
                lines.append(f"{path.scene},{path.camera},{number},True,,{path.split}")
    # a camera path that nobody downloaded, one that is not in the release, and the scene without previews
    lines += [f"ai_001_001,cam_02,{number},True,,train" for number in range(5)]
    lines += [f"ai_001_001,cam_03,{number},False,OUTSIDE VIEWING AREA (BAD TRAJECTORY)," for number in range(5)]
    lines += [f"ai_003_006,cam_00,{number},True,,test" for number in range(3)]
    return "".join(f"{line}\n" for line in lines)


def _camera_table(lenses: dict[str, tuple[Camera, Matrix]]) -> str:
    names = ["scene_name", "settings_output_img_height", "settings_output_img_width"]
    names += ["settings_units_info_meters_scale", "use_camera_physical"]
    lines = [",".join([*names, *(f"M_proj_{i}{j}" for i in range(4) for j in range(4))])]
    for scene, (camera, tilt) in lenses.items():
        values = [f"{camera.height}.0", f"{camera.width}.0", repr(_UNIT[scene]), "True"]
        lines.append(",".join([scene, *values, *(repr(value) for value in _projection(camera, tilt))]))
    return "".join(f"{line}\n" for line in lines)


def plan(seed: int, sizes: Sizes) -> Layout:
    """Lay out a living room with two camera paths, a hall through a tilt-shift lens, and a scene without pictures.

    World coordinates are those of the place, turned about the vertical and moved; the truth is in metres.
    """
    c, s = turn(0.3)
    world = Gauge(1.0, (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0), (3.0, -2.0, 0.5))
    width, height = sizes.photo, sizes.photo * 3 // 4
    albums: list[Album] = []
    texts: dict[str, str | bytes] = {}
    lenses: dict[str, tuple[Camera, Matrix]] = {}
    for path in _PATHS:
        shots = video(path.num, (width, height), _FOCAL * width, path.positions, path.targets)
        shots = [replace(shot, camera=_camera(path, shot.camera)) for shot in shots]
        lenses[path.scene] = (shots[0].camera, _true_from_stored(path))
        texts |= _poses(path, [world.camera(shot.camera) for shot in shots])
        released = [number for number in range(path.num) if number not in path.withheld]
        albums.append(_album(path, seed, shots, released, world))
    for scene, unit in _UNIT.items():
        texts[f"{_SCENES}/{scene}/_detail/metadata_scene.csv"] = (
            f"parameter_name,parameter_value\nmeters_per_asset_unit,{unit!r}\n"
        )
    for number in range(3):
        path_hdf5 = f"{_SCENES}/ai_003_006/images/scene_cam_00_final_hdf5/frame.{number:04d}.color.hdf5"
        texts[path_hdf5] = hdf5(dataset=np.zeros((2, 2, 3), np.float16))
    texts["evermotion_dataset/analysis/metadata_images_split_scene_v1.csv"] = _split_table()
    texts["contrib/mikeroberts3000/metadata_camera_parameters.csv"] = _camera_table(lenses)
    return Layout(tuple(albums), texts)


def _album(path: _Path, seed: int, shots: Sequence[Shot], released: Sequence[int], world: Gauge) -> Album:
    images = f"{_SCENES}/{path.scene}/images/scene_{path.camera}"
    pictures = []
    for number in released:
        if number in path.missing:
            continue
        depth = f"{images}_geometry_hdf5/frame.{number:04d}.depth_meters.hdf5"
        pictures.append(
            Picture(
                tuple(f"{images}_final_preview/frame.{number:04d}.{kind}.jpg" for kind in path.kinds),
                shots[number],
                "" if number in path.without_depth else depth,
                depth_kind="distance",
            )
        )
    model = Model(
        truth=f"{path.scene}/{path.camera}.npz",
        names=tuple(f"{number:04d}" for number in released),
        cameras=tuple(shots[number].camera for number in released),
        gauge=world,
        key=rng.key(seed, "demo", "hypersim", path.scene, path.camera),
    )
    return Album(path.place, seed, tuple(pictures), (model,))
