"""BlendedMVS in the demo: aerial photo sets in MVSNet's format, small copies and large ones.

In: a seed and sizes. Out: a layout: four projects with cameras, depth maps, lists of pairs and project lists, and what
is met in the real data: a missing image, a missing camera, a depth range below zero, the same project in two sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mumdata import rng
from mumdata.demo.album import Album, Layout, Model, Picture, Sizes
from mumdata.demo.camera import Camera, Vector, circle
from mumdata.demo.shots import Shot, gauge, video

__all__ = ["plan"]


@dataclass(frozen=True)
class _Project:
    name: str
    place: str
    subset: str
    num_frames: int
    turns: tuple[float, float]  # of the flight round the place
    reach: tuple[float, float]
    height: tuple[float, float]
    target: Vector
    copies: tuple[bool, ...] = (False,)  # whether large, for each copy
    is_held_out: bool = False
    missing: tuple[int, ...] = ()  # images that are not there
    without_camera: tuple[int, ...] = ()
    without_range: tuple[int, ...] = ()  # their camera files give a depth range below zero


_PROJECTS = (
    _Project(
        "5a6b1c418d100c2f8fdc4411", "villa", "BlendedMVS+", 27, (0.5, 1.1), (25.0, 23.0), (9.0, 13.0), (0, 2, 2.0),
        missing=(11,), without_camera=(4,), without_range=(20,),
    ),
    _Project(
        "5b7a3890fc8fcf6781e2593a", "castle", "BlendedMVS", 9, (0.62, 0.9), (62.0, 48.0), (16.0, 24.0), (0, 0, 8),
        is_held_out=True,
    ),
    _Project(
        "5bfe5ae0fe0ea555e6a969ca", "pagoda", "BlendedMVS", 6, (0.55, 0.8), (38.0, 34.0), (8.0, 12.0), (0, 0, 8),
        copies=(False, True),
    ),
    _Project(
        "5c34529873a8df509ae57b58", "temple", "BlendedMVS", 6, (0.68, 0.92), (46.0, 40.0), (14.0, 18.0), (0, 0, 4),
        copies=(True,),
    ),
)  # fmt: skip


def _fly(project: _Project, size: tuple[int, int]) -> list[Shot]:
    """Fly in an arc round the place, looking down at it; lenses are centred about, as those of aerial photos are."""
    positions, targets = [], []
    for knot in range(5):
        share = 0.25 * knot
        a, b = project.turns
        x, y = circle(a + (b - a) * share)
        far = project.reach[0] + (project.reach[1] - project.reach[0]) * share
        level = project.height[0] + (project.height[1] - project.height[0]) * share
        positions.append((x * far, y * far, level))
        tx, ty, tz = project.target
        targets.append((tx - 1.5 * y * (share - 0.5), ty + 1.5 * x * (share - 0.5), tz))
    shots = video(project.num_frames, size, 0.9 * size[0], positions, targets)
    off = 0.01 * size[0]
    return [replace(s, camera=replace(s.camera, cx=s.camera.cx + off, cy=s.camera.cy - 0.5 * off)) for s in shots]


def _camera_file(camera: Camera, depth_range: tuple[float, float]) -> str:
    """Return a camera file: cam_from_world and intrinsics, then depth_min, depth_interval, 128, depth_max."""
    near, far = depth_range
    rows = [" ".join(f"{float(x):.12g}" for x in row) for row in camera.cam_from_world()]
    k = ((camera.focal, 0.0, camera.cx), (0.0, camera.focal, camera.cy), (0.0, 0.0, 1.0))
    lines = ["extrinsic", *rows, "0.0 0.0 0.0 1.0", "", "intrinsic"]
    lines += [" ".join(f"{x:.12g}" for x in row) for row in k]
    return "\n".join([*lines, "", f"{near:.6g} {(far - near) / 127.0:.6g} 128.0 {far:.6g}"]) + "\n"


def _pairs(num: int) -> str:
    """Return pair.txt: the number of images, and for each the ten nearest in number with a score."""
    lines = [str(num)]
    for i in range(num):
        others = sorted((j for j in range(num) if j != i), key=lambda j: (abs(j - i), j))[:10]
        scores = " ".join(f"{j} {100.0 / abs(j - i):.3f}" for j in others)
        lines += [str(i), f"{len(others)} {scores}"]
    return "\n".join(lines) + "\n"


def _files(project: _Project, folder: str, cameras: Sequence[Camera], scale: float) -> dict[str, str]:
    reach = scale * project.reach[0]
    texts = {f"{folder}/cams/pair.txt": _pairs(len(cameras))}
    for i, camera in enumerate(cameras):
        if i not in project.without_camera:
            depth_range = (-0.1, 0.0) if i in project.without_range else (0.3 * reach, 2.0 * reach)
            texts[f"{folder}/cams/{i:08d}_cam.txt"] = _camera_file(camera, depth_range)
    return texts


def _lists() -> dict[str, str]:
    """Return the project lists; the official validation list ends its lines as Windows does."""
    names = {"BlendedMVG": sorted(project.name for project in _PROJECTS)}
    for subset in ("BlendedMVS", "BlendedMVS+"):
        names[subset] = [project.name for project in _PROJECTS if project.subset == subset]
    held_out = [project.name for project in _PROJECTS if project.is_held_out]
    names["BlendedMVG_training"] = [name for name in names["BlendedMVG"] if name not in held_out]
    texts = {f"project_lists/{name}.txt": "".join(f"{line}\n" for line in lines) for name, lines in names.items()}
    texts["project_lists/validation_list.txt"] = "".join(f"{line}\r\n" for line in held_out)
    return texts


def plan(seed: int, sizes: Sizes) -> Layout:
    """Lay out four projects: two in the small size, one in both sizes, one in the large size alone."""
    albums: list[Album] = []
    texts: dict[str, str | bytes] = dict(_lists())
    for project in _PROJECTS:
        key = rng.key(seed, "demo", "blendedmvs", project.name)
        for is_large in project.copies:
            wide = sizes.photo if is_large else sizes.photo * 4 // 5
            shots = _fly(project, (wide, wide * 3 // 4))
            model = Model(
                truth=f"{project.name}/{'large' if is_large else '0'}.npz",
                names=tuple(f"{i:08d}.jpg" for i in range(project.num_frames)),
                cameras=tuple(shot.camera for shot in shots),
                gauge=gauge(key),
                key=key,
            )
            folder = project.name
            if is_large:
                folder = f"dataset_full_res_0-29/{project.name}/{project.name}/{project.name}"
            cameras = [model.gauge.camera(shot.camera) for shot in shots]
            texts |= _files(project, folder, cameras, model.gauge.scale)
            pictures = tuple(
                Picture(
                    # the masked copies have a black background; here they are copies
                    tuple(f"{folder}/blended_images/{i:08d}{end}.jpg" for end in ("", "_masked")),
                    shot,
                    f"{folder}/rendered_depth_maps/{i:08d}.pfm",
                    model.gauge.scale,
                    "pfm",
                )
                for i, shot in enumerate(shots)
                if i not in project.missing
            )
            albums.append(Album(project.place, seed, pictures, (model,)))
    return Layout(tuple(albums), texts)
