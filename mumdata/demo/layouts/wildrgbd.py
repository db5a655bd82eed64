"""WildRGB-D in the demo: a phone is carried around a ball, a barrel and an arch.

In: a seed and sizes. Out: a layout: upright pictures with depth in millimetres and masks, the recording app's metadata
with its matrix column by column, world-from-camera matrices, and two lists that divide the scenes in two ways.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from mumdata import rng
from mumdata.demo.album import Album, Layout, Model, Picture, Sizes
from mumdata.demo.camera import Vector, circle
from mumdata.demo.shots import Shot, same_view_gauge, video

__all__ = ["plan"]


@dataclass(frozen=True)
class _Video:
    """One video: part of a circle around the object, in turns from `start` on."""

    category: str
    scene: str
    place: str
    num_frames: int
    start: float
    turns: float
    far: float
    height: float
    missing: tuple[int, ...] = ()  # frames with a pose, but not on disk
    without_depth: tuple[int, ...] = ()
    poses: bool = True


_VIDEOS = (
    _Video("ball", "scene_000", "n02802426", 26, 0.55, 0.95, 2.3, 1.1),
    _Video("ball", "scene_001", "n02802426", 10, 0.1, -0.6, 2.7, 1.5, missing=(4,), without_depth=(7,)),
    _Video("ball", "scene_010", "n02802426", 8, 0.8, 0.5, 2.0, 0.8),
    _Video("bucket", "scene_000", "n02795169", 10, 0.6, 0.7, 2.9, 1.6),
    _Video("box", "scene_002", "n04486054", 8, 0.65, 0.4, 3.6, 1.4, poses=False),
)

# the two lists know nothing of each other; the second names a scene that is not on disk
_LISTS = {
    "ball/nvs_list.json": {"train": ["scenes/scene_000", "scenes/scene_010"], "val": ["scenes/scene_001"]},
    "ball/camera_eval_list.json": {
        "train": ["scenes/scene_000", "scenes/scene_001", "scenes/scene_003"],
        "val": ["scenes/scene_010"],
    },
}


def _shots(clip: _Video, sizes: Sizes) -> list[Shot]:
    """Film the object upright from a circle; the principal point is off the middle, as in real phones."""
    width, height = sizes.object * 3 // 4, sizes.object
    positions, targets = [], []
    for knot in range(9):
        x, y = circle((clip.start + clip.turns * knot / 8 + 1.0) % 1.0)
        wave = 0.15 if knot % 2 else -0.15
        position: Vector = (clip.far * x, clip.far * y, clip.height + wave)
        positions.append(position)
        targets.append((0.1 * y, -0.1 * x, 0.65 + 0.4 * wave))
    shots = video(clip.num_frames, (width, height), 1.05 * width, positions, targets)
    return [Shot(replace(shot.camera, cx=0.5 * width - 1.25, cy=0.5 * height + 2.5)) for shot in shots]


def _metadata(shot: Shot) -> str:
    """Return the recording app's JSON: K column by column, width, height, frames a second."""
    fx, fy, cx, cy = shot.camera.intrinsics()
    k = [fx, 0.0, 0.0, 0.0, fy, 0.0, cx, cy, 1.0]
    return json.dumps({"w": shot.camera.width, "h": shot.camera.height, "fps": 60, "K": k}) + "\n"


def _poses(shots: list[Shot], model: Model) -> str:
    """Return a line a frame: its number, then world-from-camera, row by row."""
    lines = []
    for number, shot in enumerate(shots):
        camera = model.gauge.camera(shot.camera)
        r, (x, y, z) = camera.rotation, camera.centre
        matrix = (r[0], r[3], r[6], x, r[1], r[4], r[7], y, r[2], r[5], r[8], z, 0.0, 0.0, 0.0, 1.0)
        lines.append(" ".join([str(number), *(f"{value:.9f}" for value in matrix)]))
    return "\n".join(lines) + "\n"


def plan(seed: int, sizes: Sizes) -> Layout:
    """Lay out five videos in three categories, of which only the first has lists.

    One frame has a pose but no file, one no depth map; the last video has no poses. The downloader lies in the root.
    """
    albums, texts = [], {path: json.dumps(lists) + "\n" for path, lists in _LISTS.items()}
    for number, clip in enumerate(_VIDEOS):
        folder = f"{clip.category}/scenes/{clip.scene}"
        shots = _shots(clip, sizes)
        pictures = tuple(
            Picture(
                (f"{folder}/rgb/{i:05d}.png",),
                shot,
                depth="" if i in clip.without_depth else f"{folder}/depth/{i:05d}.png",
                depth_kind="millimetres",
                mask=f"{folder}/masks/{i:05d}.png",
            )
            for i, shot in enumerate(shots)
            if i not in clip.missing
        )
        model = Model(
            truth=f"{clip.category}/{clip.scene}.npz",
            names=tuple(f"{i:05d}.png" for i in range(len(shots))),
            cameras=tuple(shot.camera for shot in shots),
            gauge=same_view_gauge(shots[0].camera, 1.0),
            key=rng.key(seed, "demo", "wildrgbd", clip.category, clip.scene),
        )
        texts[f"{folder}/metadata"] = _metadata(shots[0])
        if clip.poses:
            texts[f"{folder}/cam_poses.txt"] = _poses(shots, model)
        albums.append(Album(clip.place, seed + number, pictures, (model,)))
    texts["download.py"] = "# what was downloaded with\n"
    return Layout(tuple(albums), texts)
