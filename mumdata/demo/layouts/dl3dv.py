"""DL3DV-10K in the demo: four videos, as the official script unpacks them.

In: a seed and sizes. Out: a layout: frames in folders of one resolution or two, cameras in Nerfstudio's transforms.json
at the video's full size, one model of the ColmapCache, and what goes wrong: frames without a pose, a pose without a
frame, a scene without transforms.json, a scene on the list of problems.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mumdata import rng
from mumdata.demo.album import Album, Layout, Model, Picture, Sizes
from mumdata.demo.camera import Camera, Vector
from mumdata.demo.shots import Shot, gauge, video

__all__ = ["opengl_pose", "plan"]

_LEVEL = 8  # images_8 are an eighth of the video


@dataclass(frozen=True)
class _Video:
    place: str
    batch: str
    num_frames: int
    positions: tuple[Vector, ...]
    targets: tuple[Vector, ...]
    focal: float = 0.7  # as a share of the longer side
    radial: float = -0.06
    posed: tuple[int, int] | None = None  # first frame with a pose and the one after the last; None: no transforms.json
    levels: tuple[int, ...] = (_LEVEL,)
    upright: bool = False
    missing: tuple[int, ...] = ()  # frames with a pose that are not on disk
    colmap: bool = False
    label: str = ""  # of DL3DV-valid.csv, where that is not the batch


_VIDEOS = (
    _Video(
        "villa", "1K", 30,
        ((-13.0, -9.0, 1.8), (-8.0, -12.0, 2.2), (-1.0, -14.0, 2.8), (6.0, -12.5, 2.4), (12.0, -7.5, 1.8)),
        ((0.0, 4.0, 2.6), (-1.0, 4.0, 2.6), (1.0, 4.0, 2.4), (0.0, 3.0, 2.2), (-3.0, 1.0, 2.0)),
        posed=(0, 28), colmap=True,
    ),
    _Video(
        "temple", "2K", 8, ((-20.0, -24.0, 2.5), (-4.0, -30.0, 5.0), (12.0, -27.0, 3.0)),
        ((0.0, 0.0, 6.0), (0.0, -6.0, 6.0), (2.0, 0.0, 5.0)), posed=(0, 8), levels=(8, 4),
    ),
    _Video(
        "living_room", "11K", 10, ((-1.9, -1.4, 1.5), (-0.4, -1.6, 1.45), (1.4, -1.3, 1.5)),
        ((2.6, 1.0, 1.1), (2.0, 2.4, 1.2), (-1.0, 2.6, 1.3)), posed=(3, 8), upright=True, missing=(5,), label="problem",
    ),
    _Video(
        "attic", "11K", 8, ((1.6, -1.3, 1.6), (0.4, -1.2, 1.55), (-0.9, -0.9, 1.6)),
        ((-1.6, 1.2, 0.8), (0.2, 2.2, 1.3), (2.3, 1.2, 1.0)),
    ),
)  # fmt: skip


def opengl_pose(camera: Camera) -> list[list[float]]:
    """Return Nerfstudio's transform_matrix [4, 4] of a camera in COLMAP's world.

    Camera-to-world in OpenGL axes (y up, z backward), then the world turned by (x, y, z) -> (y, x, -z).
    """
    r, (x, y, z) = camera.rotation, camera.centre
    rows = [[r[i], -r[i + 3], -r[i + 6], centre] for i, centre in enumerate((x, y, z))]
    return [rows[1], rows[0], [-value for value in rows[2]], [0.0, 0.0, 0.0, 1.0]]


def _enlarged(camera: Camera, factor: int) -> Camera:
    return replace(
        camera,
        width=camera.width * factor,
        height=camera.height * factor,
        focal=camera.focal * factor,
        cx=camera.cx * factor,
        cy=camera.cy * factor,
    )


def _transforms(names: Sequence[str], cameras: Sequence[Camera], posed: range) -> str:
    full = _enlarged(cameras[0], _LEVEL)
    document = {
        "w": full.width,
        "h": full.height,
        "fl_x": full.focal,
        "fl_y": full.focal,
        "cx": full.cx,
        "cy": full.cy,
        "k1": full.radial,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "camera_model": "OPENCV",
        "frames": [
            {
                "file_path": f"images/{names[number]}",
                "transform_matrix": opengl_pose(cameras[number]),
                "colmap_im_id": place + 1,
            }
            for place, number in enumerate(posed)
        ],
        "applied_transform": [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [-0.0, -0.0, -1.0, -0.0]],
    }
    return json.dumps(document, indent=1) + "\n"


def _shots(clip: _Video, sizes: Sizes) -> list[Shot]:
    width, height = sizes.video[::-1] if clip.upright else sizes.video
    shots = video(clip.num_frames, (width, height), clip.focal * max(width, height), clip.positions, clip.targets)
    return [replace(shot, camera=replace(shot.camera, radial=clip.radial)) for shot in shots]


def plan(seed: int, sizes: Sizes) -> Layout:
    """Lay out four scenes in three batches: 30, 8, 10 and 8 frames, the third one filmed upright."""
    albums, texts, lines = [], {}, ["hash,sensibility label,batch,duration"]
    for number, clip in enumerate(_VIDEOS):
        key = rng.key(seed, "demo", "dl3dv", number)
        scene = "".join(f"{int(word):016x}" for word in rng.words(key, 4))
        folder = f"{clip.batch}/{scene}"
        shots = _shots(clip, sizes)
        names = tuple(f"frame_{i + 1:05d}.png" for i in range(len(shots)))
        model = Model(
            truth=f"{scene}/0.npz",
            names=names,
            cameras=tuple(shot.camera for shot in shots),
            gauge=gauge(key),
            key=key,
            folder=f"{folder}/colmap/sparse/0" if clip.colmap else "",
            camera_model="SIMPLE_RADIAL",
        )
        pictures = [
            Picture((f"{folder}/images_{level}/{name}",), replace(shot, camera=_enlarged(shot.camera, _LEVEL // level)))
            for level in clip.levels
            for i, (name, shot) in enumerate(zip(names, shots, strict=True))
            if i not in clip.missing
        ]
        albums.append(Album(clip.place, seed, tuple(pictures), (model,)))
        if clip.posed is not None:
            cameras = [model.gauge.camera(camera) for camera in model.cameras]
            texts[f"{folder}/transforms.json"] = _transforms(names, cameras, range(*clip.posed))
        lines.append(f"{scene},Without any sensitivity information,{clip.label or clip.batch},{60 + number}.5")
    return Layout(tuple(albums), {**texts, ".cache/DL3DV-valid.csv": "\n".join(lines) + "\n"})
