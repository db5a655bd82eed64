"""ARKitScenes in the demo: rooms filmed with a tablet that is held in each of the four ways.

In: a seed and sizes. Out: a layout of the downloads `3dod`, `raw` and `upsampling`: pictures named by time, intrinsics
a millisecond off, trajectories at 10 Hz for pictures at 10 and 60 Hz, meshes of 3dod, a room in both folds, a video
without poses, and files that are missing or no pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import sqrt

from mumdata import rng
from mumdata.demo.album import Album, Layout, Model, Picture, Sizes, build_place
from mumdata.demo.camera import Camera, Gauge, Matrix, Vector, look_at, matmul, quaternion, turn
from mumdata.demo.shots import Shot, video
from mumdata.demo.surface import mesh_ply

__all__ = ["plan"]

# how the tablet is held: axes of its camera, seen from an upright one; clockwise quarter turns set the picture upright
_HELD: tuple[Matrix, ...] = (
    (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
)
_FOCAL = 0.83  # of the width
_CENTRE = (0.51, 0.485)  # principal point, of the size

_Time = int  # milliseconds


@dataclass(frozen=True)
class _Film:
    """The frames of one stream of a video: when they were taken, and by which cameras."""

    video: str
    times: tuple[_Time, ...]
    cameras: tuple[Camera, ...]

    def name(self, row: int, ending: str = "png", off: _Time = 0) -> str:
        """Return the file name of a frame; `off` milliseconds are added to its stamp."""
        return f"{self.video}_{_seconds(self.times[row] + off)}.{ending}"


def _seconds(time: _Time) -> str:
    return f"{time // 1000}.{time % 1000:03d}"


def _held(camera: Camera, way: int) -> Camera:
    """Turn a camera about its axis by quarters, and move its principal point off the middle."""
    cx, cy = _CENTRE[0] * camera.width, _CENTRE[1] * camera.height
    return replace(camera, rotation=matmul(_HELD[way], camera.rotation), cx=cx, cy=cy)


def _filmed(
    video_id: str,
    start: _Time,
    num: int,
    size: tuple[int, int],
    way: int,
    positions: Sequence[Vector],
    targets: Sequence[Vector],
) -> _Film:
    """Film along a path at 10 Hz."""
    shots = video(num, size, _FOCAL * size[0], positions, targets)
    times = tuple(start + 100 * number for number in range(num))
    return _Film(video_id, times, tuple(_held(shot.camera, way) for shot in shots))


def _swept(size: tuple[int, int], way: int, focal: float) -> Callable[[_Time], Camera]:
    """Return the camera at any millisecond of an even motion: what lies between two poses is exactly known.

    It moves at 0.6 m/s and turns about the vertical at 0.8 radians a second.
    """
    first = look_at((-1.3, -1.2, 1.6), (2.0, 1.0, 1.0))
    c, s = turn(0.0004)
    sweep: Matrix = (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0)

    def at(time: _Time) -> Camera:
        rotation = first
        for _ in range(time):
            rotation = matmul(rotation, sweep)
        centre = (-1.3 + 0.0006 * time, -1.2, 1.6 - 0.0001 * time)
        return _held(Camera(size[0], size[1], focal * size[0], size[0] / 2, size[1] / 2, rotation, centre), way)

    return at


def _axis_angle(rotation: Matrix) -> Vector:
    """Return the axis times the angle in radians of a rotation.

    The half angle is halved six times more by square roots; the arc sine's series then needs few terms.
    """
    x, y, z, w = quaternion(rotation)
    scale = 2.0
    for _ in range(6):
        w = sqrt((1.0 + w) / 2.0)
        x, y, z = x / (2.0 * w), y / (2.0 * w), z / (2.0 * w)
        scale = 2.0 * scale
    s = x * x + y * y + z * z
    scale = scale * (1.0 + s * (1.0 / 6.0 + s * (3.0 / 40.0 + s * (15.0 / 336.0 + s * 105.0 / 3456.0))))
    return scale * x, scale * y, scale * z


def _trajectory(times: Sequence[str], cameras: Sequence[Camera]) -> str:
    """Return lines of time, axis times angle, and translation of cam_from_world."""
    lines = []
    for time, camera in zip(times, cameras, strict=True):
        numbers = [*_axis_angle(camera.rotation), *(float(x) for x in camera.cam_from_world()[:, 3])]
        lines.append(" ".join([time, *(f"{x:.9f}" for x in numbers)]))
    return "".join(f"{line}\n" for line in lines)


def _pincams(film: _Film, folder: str, without: tuple[int, ...] = ()) -> dict[str, str | bytes]:
    """Return the intrinsics of each frame; some stamps are a millisecond off."""
    texts: dict[str, str | bytes] = {}
    for row, camera in enumerate(film.cameras):
        if row not in without:
            off = {2: -1, 3: 1}.get(row % 5, 0)
            numbers = " ".join(f"{value:.6f}" for value in camera.intrinsics())
            texts[f"{folder}/{film.name(row, 'pincam', off)}"] = f"{camera.width} {camera.height} {numbers}"
    return texts


def _album(
    place: str,
    seed: int,
    film: _Film,
    folders: Sequence[str],
    world: Gauge,
    depth_folder: str = "",
    without_depth: tuple[int, ...] = (),
) -> Album:
    """Put the pictures of a film into folders; the truth is called after the last part of the first one."""
    stream = folders[0].rpartition("/")[2]
    pictures = []
    for row, camera in enumerate(film.cameras):
        depth = f"{depth_folder}/{film.name(row)}" if depth_folder and row not in without_depth else ""
        paths = tuple(f"{folder}/{film.name(row)}" for folder in folders)
        pictures.append(Picture(paths, Shot(camera), depth, depth_kind="millimetres"))
    model = Model(
        truth=f"{film.video}/{stream}.npz",
        names=tuple(film.name(row) for row in range(len(film.times))),
        cameras=film.cameras,
        gauge=world,
        key=rng.key(seed, "demo", "arkitscenes", film.video, stream),
    )
    return Album(place, seed, tuple(pictures), (model,))


def plan(seed: int, sizes: Sizes) -> Layout:
    """Lay out six videos: three of 3dod, one of them in raw too, and of raw and upsampling alone.

    World coordinates are metres with z up, those of the place turned about the vertical and moved.
    """
    c, s = turn(-0.2)
    world = Gauge(1.0, (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0), (-1.0, 2.0, 0.3))
    low, middle = (sizes.video[0], sizes.video[0] * 3 // 4), (sizes.photo, sizes.photo * 3 // 4)
    parts = [_long(seed, low, world), _both(seed, low, middle, world), _upside_down(seed, low, world)]
    parts += [_sixty(seed, low, middle, world), _high(seed, middle, world), _without_poses(seed, low, world)]
    texts: dict[str, str | bytes] = {
        "3dod/metadata.csv": "video_id,visit_id,fold,sky_direction\n41000101,420001,Training,Left\n"
        "41000102,420002,Training,Up\n41000103,420001,Validation,Up\n",
        "raw/metadata.csv": "video_id,visit_id,fold,sky_direction\n41000102,420002.0,Training,Up\n"
        "41000201,NA,Training,Up\n47334522,420009.0,Training,Up\n",
    }
    for video_id, fold, place in (
        ("41000101", "Training", "living_room"),
        ("41000102", "Training", "kitchen"),
        ("41000103", "Validation", "living_room"),
    ):
        texts[f"3dod/{fold}/{video_id}/{video_id}_3dod_mesh.ply"] = mesh_ply(build_place(place, seed), world)
    for _, more in parts:
        texts |= more
    return Layout(tuple(album for albums, _ in parts for album in albums), texts)


_Part = tuple[list[Album], dict[str, str | bytes]]


def _rough(film: _Film) -> list[str]:
    """Return times of poses as the trajectories write them: finer than the names, which are cut to milliseconds."""
    return [f"{_seconds(time)}317" for time in film.times]


def _long(seed: int, size: tuple[int, int], world: Gauge) -> _Part:
    """3dod: a walk through the living room, held upright; time grows to four digits before the point."""
    film = _filmed(
        "41000101", 998_383, 30, size, 1,
        ((-1.9, -1.4, 1.5), (-0.6, -1.5, 1.45), (1.2, -1.4, 1.5), (1.6, 0.9, 1.55), (0.2, 1.2, 1.5)),
        ((2.6, 1.0, 1.1), (2.8, 2.2, 1.2), (-1.0, 2.6, 1.3), (-3.0, 0.4, 1.2), (-1.2, -2.6, 0.9)),
    )  # fmt: skip
    folder = "3dod/Training/41000101/41000101_frames"
    texts = _pincams(film, f"{folder}/lowres_wide_intrinsics", without=(9,))
    texts[f"{folder}/lowres_wide.traj"] = _trajectory(_rough(film), [world.camera(camera) for camera in film.cameras])
    texts["3dod/Training/41000101/41000101_3dod_annotation.json"] = '{"data": [], "skipped": true}\n'
    texts[f"{folder}/lowres_wide/._{film.name(0)}"] = b"\x00\x05\x16\x07" + bytes(60)  # what macOS leaves behind
    album = _album("living_room", seed, film, [f"{folder}/lowres_wide"], world, f"{folder}/lowres_depth", (4,))
    return [album], texts


def _both(seed: int, low: tuple[int, int], middle: tuple[int, int], world: Gauge) -> _Part:
    """3dod and raw: the kitchen, held level, at the end almost straight down; raw has larger pictures too."""
    film = _filmed(
        "41000102", 51_002, 8, low, 0,
        ((1.9, -1.6, 1.5), (1.5, -1.1, 1.55), (0.6, -1.35, 1.6)),
        ((-0.5, 1.6, 1.0), (-1.6, 1.4, 1.0), (-2.2, 0.4, 1.1)),
    )  # fmt: skip
    cameras = list(film.cameras)
    for row in (6, 7):
        x, y, z = cameras[row].centre
        cameras[row] = replace(cameras[row], rotation=look_at((x, y, z), (x - 0.1, y + 0.1 * (row - 6), 0.0)))
    film = replace(film, cameras=tuple(cameras))
    folder, raw = "3dod/Training/41000102/41000102_frames", "raw/Training/41000102"
    larger = [replace(camera, width=middle[0], height=middle[1], focal=_FOCAL * middle[0]) for camera in cameras[:3]]
    large = _Film(film.video, film.times[:3], tuple(_held(camera, 0) for camera in larger))
    texts = _pincams(film, f"{folder}/lowres_wide_intrinsics") | _pincams(large, f"{raw}/vga_wide_intrinsics")
    poses = _trajectory(_rough(film), [world.camera(camera) for camera in film.cameras])
    texts |= {f"{folder}/lowres_wide.traj": poses, f"{raw}/lowres_wide.traj": poses}
    folders = [f"{folder}/lowres_wide", f"{raw}/lowres_wide"]
    albums = [_album("kitchen", seed, film, folders, world, f"{folder}/lowres_depth")]
    return [*albums, _album("kitchen", seed, large, [f"{raw}/vga_wide"], world)], texts


def _upside_down(seed: int, size: tuple[int, int], world: Gauge) -> _Part:
    """3dod, in the other fold: the living room once more, held upside down."""
    film = _filmed(
        "41000103", 7_250, 6, size, 2, ((1.6, 1.2, 1.6), (0.9, 1.5, 1.5)), ((-2.0, -1.5, 1.0), (-1.4, -2.0, 1.0))
    )
    folder = "3dod/Validation/41000103/41000103_frames"
    texts = _pincams(film, f"{folder}/lowres_wide_intrinsics")
    texts[f"{folder}/lowres_wide.traj"] = _trajectory(_rough(film), [world.camera(camera) for camera in film.cameras])
    return [_album("living_room", seed, film, [f"{folder}/lowres_wide"], world, f"{folder}/lowres_depth")], texts


def _sixty(seed: int, low: tuple[int, int], middle: tuple[int, int], world: Gauge) -> _Part:
    """raw: the attic at 60 Hz, held upright the other way round; the trajectory is at 10 Hz, and ends early."""
    start, folder = 305_244, "raw/Training/41000201"
    at, wide = _swept(low, 3, _FOCAL), _swept(middle, 3, 0.45)
    frames = [(1000 * number + 30) // 60 for number in range(14)]
    film = _Film("41000201", tuple(start + time for time in frames), tuple(map(at, frames)))
    others = (41, 141)
    ultra = _Film("41000201", tuple(start + time for time in others), tuple(map(wide, others)))
    texts = _pincams(film, f"{folder}/lowres_wide_intrinsics") | _pincams(ultra, f"{folder}/ultrawide_intrinsics")
    poses = [_seconds(start + time) for time in (0, 100, 200)]
    texts[f"{folder}/lowres_wide.traj"] = _trajectory(poses, [world.camera(at(time)) for time in (0, 100, 200)])
    albums = [_album("attic", seed, film, [f"{folder}/lowres_wide"], world, f"{folder}/lowres_depth", (3, 5))]
    return [*albums, _album("attic", seed, ultra, [f"{folder}/ultrawide"], world)], texts


def _high(seed: int, size: tuple[int, int], world: Gauge) -> _Part:
    """upsampling: large pictures of the kitchen without intrinsics; raw was asked for the trajectory alone."""
    film = _filmed(
        "41000202", 12_000, 3, size, 0, ((-1.4, -1.4, 1.5), (-1.0, -1.4, 1.5)), ((0.6, 2.0, 1.0), (1.2, 1.6, 1.0))
    )
    folder = "upsampling/Validation/41000202"
    texts: dict[str, str | bytes] = {
        "raw/Validation/41000202/lowres_wide.traj": _trajectory(_rough(film), [world.camera(c) for c in film.cameras])
    }
    return [_album("kitchen", seed, film, [f"{folder}/wide"], world, f"{folder}/highres_depth")], texts


def _without_poses(seed: int, size: tuple[int, int], world: Gauge) -> _Part:
    """raw: one of the videos that were published without trajectory."""
    film = _filmed(
        "47334522", 88_100, 3, size, 0, ((1.6, -1.3, 1.6), (1.2, -1.2, 1.55)), ((-1.6, 1.2, 0.8), (0.2, 2.2, 1.3))
    )
    folder = "raw/Training/47334522"
    texts = _pincams(film, f"{folder}/lowres_wide_intrinsics")
    return [_album("attic", seed, film, [f"{folder}/lowres_wide"], world)], texts
