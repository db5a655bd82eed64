"""Overlap from depth maps and meshes: against what the renderer knows, and the definition written out plainly."""

from __future__ import annotations

import importlib
import io
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import datasets, geometry
from mumdata.covisibility import Pairs
from mumdata.datasets import Cameras, Depth, Stream
from mumdata.demo import layouts
from mumdata.demo.album import Album, Sizes, build_place
from mumdata.demo.camera import Camera, Gauge, look_at, rays
from mumdata.demo.encode import encode_depth
from mumdata.demo.points import sample_points, write_colmap
from mumdata.demo.render import Place, depth_map, sees
from mumdata.demo.solids import nearest
from mumdata.demo.surface import mesh_ply
from mumdata.errors import ConfigError, DecodeError, LayoutError, ModelError, MumError
from mumdata.sources import SOURCES, SourceOptions
from mumdata.sources import depth_files as files
from mumdata.sources.depth import depth_and_notes
from mumdata.sources.depth_files import DepthMap, read_depth
from mumdata.sources.lens import lens_of
from mumdata.sources.mesh import mesh_and_notes
from mumdata.sources.ply import parse_ply
from mumdata.sources.views import MAP_SIDE, compare
from mumdata.tree import Tree

# maps of about as many pixels as are compared of real ones; no picture is rendered
SIZES = Sizes(photo=256, video=(192, 108), object=192, points=120)
WORLD = Gauge(1.0, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0))

# COLMAP's models: parameters of lenses that distort as strongly as real ones, for focal lengths of 1
DISTORTION = {
    "SIMPLE_PINHOLE": (),
    "PINHOLE": (),
    "SIMPLE_RADIAL": (-0.11,),
    "RADIAL": (-0.15, 0.03),
    "OPENCV": (0.09, -0.04, 0.002, -0.001),
    "FULL_OPENCV": (0.1, 0.02, 0.001, -0.0005, 0.01, 0.05, 0.01, 0.002),
    "SIMPLE_FISHEYE": (),
    "FISHEYE": (),
    "SIMPLE_RADIAL_FISHEYE": (-0.02,),
    "RADIAL_FISHEYE": (-0.02, 0.005),
    "OPENCV_FISHEYE": (0.031, -0.012, 0.004, -0.0006),
}


# ------------------------------------------------------------------------------------------------ truth of the renderer


@dataclass(frozen=True, eq=False)
class Scene:
    """One stream of a rendered dataset, read as any other, and what overlap its frames have: truth float64 [n, n]."""

    tree: Tree
    stream: Stream
    truth: np.ndarray
    rows: list[int]  # the frames that the truth is of

    def errors(self, pairs: Pairs | None) -> np.ndarray:
        assert pairs is not None
        found = matrix(pairs)[np.ix_(self.rows, self.rows)]
        return found - self.truth


def matrix(pairs: Pairs) -> np.ndarray:
    """Overlap of each frame with each other, NaN with itself."""
    num = len(pairs.num_points)
    found = np.zeros((num, num))
    assert pairs.overlap_ab is not None
    assert pairs.overlap_ba is not None
    found[pairs.a, pairs.b], found[pairs.b, pairs.a] = pairs.overlap_ab, pairs.overlap_ba
    np.fill_diagonal(found, np.nan)
    return found


def surface(place: Place, camera: Camera) -> np.ndarray:
    """What a camera sees: the points that rays through its picture hit, every second pixel, float64 [n, 3]."""
    xs = np.tile(np.arange(0.5, camera.width, 2.0), camera.height // 2)
    ys = np.repeat(np.arange(0.5, camera.height - 1, 2.0), -(-camera.width // 2))
    directions = rays(camera, xs, ys)
    t, which, _ = nearest(place.solids, camera.centre, directions)
    parts = [c + t[which >= 0] * x[which >= 0] for c, x in zip(camera.centre, directions, strict=True)]
    return np.stack(parts, axis=1)


def true_overlap(place: Place, cameras: list[Camera]) -> np.ndarray:
    truth = np.full((len(cameras), len(cameras)), np.nan)
    for a, camera in enumerate(cameras):
        points = surface(place, camera)
        for b, other in enumerate(cameras):
            if a != b:
                truth[a, b] = sees(place, other, points).mean()
    return truth


def write_album(root: Path, album: Album, step: int) -> dict[str, Camera]:
    """Write an album without its pictures, whose files are empty, and every step-th of its depth maps."""
    place = build_place(album.place, album.seed)
    cameras = {}
    for number, picture in enumerate(album.pictures):
        for path in picture.paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
        camera = picture.shot.camera
        if number % step == 0:
            cameras[picture.paths[0]] = camera
            if picture.depth:
                (root / picture.depth).parent.mkdir(parents=True, exist_ok=True)
                encoded = encode_depth(picture.depth_kind, depth_map(place, camera), picture, camera)
                (root / picture.depth).write_bytes(encoded)
    for model in album.models:
        if model.folder:
            write_colmap(root, model, sample_points(place, model.cameras, SIZES.points, model.key))
    return cameras


def write_scene(root: Path, name: str, truth: str, step: int, with_depth: bool) -> Scene:
    """Write one album, the one whose truth has that name, and read its stream with the dataset's own reader."""
    layout = layouts.load(name)(0, SIZES)
    for path, content in layout.texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    album = next(album for album in layout.albums if album.models[0].truth.endswith(truth))
    cameras = write_album(root, album, step)
    tree, dataset = Tree(root), datasets.load(name)
    streams = [stream for scene in dataset.scenes(tree) for stream in dataset.read(tree, scene)]
    stream = next(stream for stream in streams if cameras.keys() & set(stream.paths))
    assert stream.cameras is not None
    posed = np.isfinite(stream.cameras.cam_from_world).all(axis=(1, 2)) & np.isfinite(stream.cameras.intrinsics[:, 0])
    rows = [row for row, path in enumerate(stream.paths) if path in cameras and posed[row]]
    if with_depth:
        assert stream.depth_paths is not None
        rows = [row for row in rows if stream.depth_paths[row]]
    place = build_place(album.place, album.seed)
    return Scene(tree, stream, true_overlap(place, [cameras[stream.paths[row]] for row in rows]), rows)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Scene]:
    known: dict[tuple[str, bool], Scene] = {}

    def get(name: str, truth: str, step: int, with_depth: bool = True) -> Scene:
        if (truth, with_depth) not in known:
            known[truth, with_depth] = write_scene(tmp_path_factory.mktemp(name), name, truth, step, with_depth)
        return known[truth, with_depth]

    return get


# Dataset, end of the name of a truth file, one frame of how many; tolerance, None for the default; the largest error
# and the root mean square. The demo's sensors have no noise, so that with a sensor's tolerance what lies closely behind
# something is counted; so it is, whatever the tolerance, where things are thin as seen from afar (the last four).
DEPTH_SCENES = [
    ("hypersim", "ai_001_001/cam_00.npz", 4, None, 0.02, 0.005),
    ("hypersim", "ai_002_004/cam_00.npz", 1, None, 0.02, 0.009),
    ("co3d", "110_13051_23361/0.npz", 3, None, 0.02, 0.005),
    ("co3d", "247_26445_52700/0.npz", 1, None, 0.02, 0.009),
    ("wildrgbd", "ball/scene_000.npz", 3, 0.02, 0.02, 0.005),
    ("wildrgbd", "ball/scene_000.npz", 3, None, 0.03, 0.017),
    ("scannetpp", "/iphone.npz", 1, 0.02, 0.02, 0.006),
    ("scannetpp", "/iphone.npz", 1, None, 0.02, 0.009),
    ("arkitscenes", "41000101/lowres_wide.npz", 4, 0.02, 0.02, 0.005),
    ("arkitscenes", "41000101/lowres_wide.npz", 4, None, 0.02, 0.008),
    ("blendedmvs", "5b7a3890fc8fcf6781e2593a/0.npz", 1, None, 0.03, 0.012),
    ("blendedmvs", "5c34529873a8df509ae57b58/large.npz", 1, None, 0.03, 0.012),
    ("megadepth", "0148/0.npz", 5, 0.01, 0.08, 0.013),
    ("megadepth", "0148/0.npz", 5, None, 0.18, 0.036),
]
MESH_SCENES = [
    ("scannetpp", "/dslr.npz", 4),
    ("scannetpp", "/iphone.npz", 1),
    ("arkitscenes", "41000101/lowres_wide.npz", 4),
    ("arkitscenes", "41000102/lowres_wide.npz", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "truth", "step", "tolerance", "worst", "rms"), DEPTH_SCENES)
def test_overlap_by_depth_is_that_of_the_rendered_surfaces(
    scene: Callable[..., Scene], name: str, truth: str, step: int, tolerance: float | None, worst: float, rms: float
) -> None:
    found = scene(name, truth, step)
    pairs = SOURCES["depth"].pairs(
        found.tree, (name, None, "", None), found.stream, SourceOptions(grid=64, tolerance=tolerance)
    )
    errors = found.errors(pairs)
    assert len(found.rows) >= 5
    assert np.nanmax(found.truth) > 0.5
    assert np.nanmax(np.abs(errors)) <= worst
    assert np.sqrt(np.nanmean(errors * errors)) <= rms


@pytest.mark.slow
@pytest.mark.parametrize(("name", "truth", "step"), MESH_SCENES)
def test_overlap_by_mesh_is_that_of_the_rendered_surfaces(
    scene: Callable[..., Scene], name: str, truth: str, step: int
) -> None:
    found = scene(name, truth, step, with_depth=False)
    assert found.stream.mesh_path is not None
    pairs = SOURCES["mesh"].pairs(found.tree, (name, None, "", None), found.stream, SourceOptions(grid=64))
    errors = found.errors(pairs)
    assert len(found.rows) >= 5
    assert np.nanmax(np.abs(errors)) <= 0.02
    assert np.sqrt(np.nanmean(errors * errors)) <= 0.006


def test_distance_taken_for_depth_would_be_noticed(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = scene("hypersim", "ai_001_001/cam_00.npz", 4)
    right = files.FORMS["distance"]
    monkeypatch.setitem(files.FORMS, "distance", lambda data: replace(right(data), is_distance=False))
    errors = found.errors(depth_and_notes(found.tree, found.stream, SourceOptions(grid=64))[0])
    assert np.nanmax(np.abs(errors)) > 0.2
    assert np.sqrt(np.nanmean(errors * errors)) > 0.03


@pytest.mark.parametrize("source", ["depth", "mesh"])
def test_what_stands_beside_the_overlaps(scene: Callable[..., Scene], source: str) -> None:
    found = scene("arkitscenes", "41000101/lowres_wide.npz", 4)
    pairs = SOURCES[source].pairs(found.tree, ("arkitscenes",), found.stream, SourceOptions())
    assert pairs is not None
    assert found.stream.cameras is not None
    assert pairs.source == source
    assert pairs.shared is None
    assert pairs.num_points.dtype == np.int32
    assert not pairs.num_points.any()
    assert len(pairs.num_points) == len(found.stream.paths)
    assert pairs.a.dtype == pairs.b.dtype == np.int32
    assert (pairs.a < pairs.b).all()
    assert np.lexsort((pairs.b, pairs.a)).tolist() == list(range(len(pairs.a)))
    assert pairs.overlap_ab is not None
    assert pairs.overlap_ba is not None
    assert pairs.overlap_ab.dtype == pairs.overlap_ba.dtype == np.float32
    assert (np.maximum(pairs.overlap_ab, pairs.overlap_ba) > 0).all()
    assert pairs.overlap_ab.max() <= 1
    for name in ("rotation_cos", "axis_cos"):
        expected = getattr(geometry, name)(found.stream.cameras.cam_from_world, pairs.a, pairs.b)
        assert getattr(pairs, name).tolist() == expected.tolist()


def test_streams_without_depth_or_mesh_or_cameras_are_not_known(scene: Callable[..., Scene]) -> None:
    found = scene("hypersim", "ai_001_001/cam_00.npz", 4)
    for stream in (
        replace(found.stream, depth=None),
        replace(found.stream, depth_paths=None),
        replace(found.stream, depth_paths=(None,) * len(found.stream.paths)),
        replace(found.stream, cameras=None),
    ):
        assert SOURCES["depth"].pairs(found.tree, ("x",), stream, SourceOptions()) is None
    assert SOURCES["mesh"].pairs(found.tree, ("x",), found.stream, SourceOptions()) is None


def test_videos_are_ordered_and_photo_sets_are_not(scene: Callable[..., Scene]) -> None:
    assert scene("hypersim", "ai_001_001/cam_00.npz", 4).stream.ordered
    assert scene("scannetpp", "/iphone.npz", 1).stream.ordered
    assert not scene("scannetpp", "/dslr.npz", 4, with_depth=False).stream.ordered
    assert not scene("blendedmvs", "5b7a3890fc8fcf6781e2593a/0.npz", 1).stream.ordered
    assert not scene("megadepth", "0148/0.npz", 5).stream.ordered


# ---------------------------------------------------------------------------------------- the definition, written out


def plain_overlap(cameras: Cameras, maps: list[np.ndarray], grid: int, tolerance: float, a: int, b: int) -> float:
    """Overlap a->b by the definition, sample by sample, for pinhole cameras and maps that need not be made coarser."""
    height, width = maps[a].shape
    num = min(grid, max(width, height))
    across, down = (max(1, int(num * length / max(width, height) + 0.5)) for length in (width, height))
    fx, fy, cx, cy = cameras.intrinsics[a]
    seen = total = 0
    for j in range(down):
        for i in range(across):
            column, row = middle(i, across, width), middle(j, down, height)
            z = float(maps[a][row, column])
            if not (np.isfinite(z) and z > 0):
                continue
            total += 1
            point = np.array([(column + 0.5 - cx) / fx * z, (row + 0.5 - cy) / fy * z, z])
            world = cameras.cam_from_world[a][:, :3].T @ (point - cameras.cam_from_world[a][:, 3])
            inside = cameras.cam_from_world[b][:, :3] @ world + cameras.cam_from_world[b][:, 3]
            seen += plain_sees(inside, cameras.intrinsics[b], maps[b], tolerance)
    return seen / total if total else 0.0


def middle(i: int, num: int, length: int) -> int:
    centre = (i + 0.5) * length / num
    # a centre on the border of two pixels goes to the one after it and the one before it by turns
    return int(centre) - (1 if centre == int(centre) and i % 2 else 0)


def plain_sees(point: np.ndarray, intrinsics: np.ndarray, depth: np.ndarray, tolerance: float) -> bool:
    x, y, z = point
    if z <= 0:
        return False
    fx, fy, cx, cy = intrinsics
    px, py = fx * x / z + cx, fy * y / z + cy
    height, width = depth.shape
    if not (0 <= px < width and 0 <= py < height):
        return False

    def inverse(column: int, row: int) -> float | None:
        if not (0 <= column < width and 0 <= row < height):
            return None
        value = float(depth[row, column])
        return float(np.float32(1 / value)) if np.isfinite(value) and value > 0 else None

    def change(here: float, before: float | None, after: float | None) -> float:
        steps = [after - here] if after is not None else []
        steps += [here - before] if before is not None else []
        if len(steps) == 2 and steps[0] * steps[1] <= 0:
            return 0.0
        return min(steps, key=abs) if steps else 0.0

    def shown(column: int, row: int) -> float:
        here = inverse(column, row)
        if here is None:
            return 0.0
        right = change(here, inverse(column - 1, row), inverse(column + 1, row))
        below = change(here, inverse(column, row - 1), inverse(column, row + 1))
        return here + (px - 0.5 - column) * right + (py - 0.5 - row) * below

    nearest_pixel = int(px), int(py)
    value = shown(*nearest_pixel)
    if value > 0 and abs(1 / value - z) <= tolerance * z:
        return True
    if value > 0 and 1 / value < z:
        return False
    left, top = int(np.floor(px - 0.5)), int(np.floor(py - 0.5))
    values = [shown(column, row) for row in (top, top + 1) for column in (left, left + 1)]
    return any(value > 0 and abs(1 / value - z) <= tolerance * z for value in values)


@st.composite
def scenes_of_planes(draw: st.DrawFn) -> tuple[Cameras, list[np.ndarray]]:
    """Cameras near one another before slanted walls, with holes and steps in their depth maps."""
    num = draw(st.integers(2, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.02, 0.3, 1.5]))
    poses, sizes, intrinsics, maps = [], [], [], []
    for _ in range(num):
        width, height = (int(length) for length in random.integers(3, 14, 2))
        q = np.array([1.0, *random.normal(0, spread, 3)])
        rotation = geometry.rotation_from_quaternion(q)[0]
        poses.append(np.column_stack([rotation, random.normal(0, spread, 3)]))
        sizes.append((width, height))
        focal = random.uniform(0.6, 1.5) * width
        intrinsics.append((focal, focal * 1.1, 0.45 * width, 0.55 * height))
        y, x = np.mgrid[:height, :width]
        depth = 1 / (0.3 + 0.01 * random.normal() * x + 0.01 * random.normal() * y)
        depth = np.where(x > random.integers(0, 2 * width), 0.7 * depth, depth)
        depth[random.random(depth.shape) < 0.1] = random.choice([0.0, np.nan, -1.0, np.inf])
        maps.append(depth)
    cameras = Cameras(("PINHOLE",) * num, np.array(sizes), np.array(intrinsics), ((),) * num, np.array(poses))
    return cameras, maps


@settings(max_examples=40, deadline=None)
@given(scenes_of_planes(), st.integers(4, 16), st.sampled_from([0.01, 0.05, 0.3]))
def test_overlap_is_what_the_definition_says(
    drawn: tuple[Cameras, list[np.ndarray]], grid: int, tolerance: float
) -> None:
    cameras, maps = drawn
    options = SourceOptions(grid=grid, tolerance=tolerance)
    found, notes = compare(cameras, lambda row, view: DepthMap(maps[row]), options, source="depth", tolerance=0.5)
    assert notes == ()
    overlap = matrix(found)
    num = len(maps)
    plain = np.full((num, num), np.nan)
    for a in range(num):
        for b in range(num):
            if a != b:
                plain[a, b] = plain_overlap(cameras, maps, grid, tolerance, a, b)
    np.testing.assert_array_equal(overlap, plain.astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(scenes_of_planes(), st.sampled_from(sorted(DISTORTION)))
def test_pairs_that_cannot_see_each_other_are_passed_over_without_loss(
    drawn: tuple[Cameras, list[np.ndarray]], model: str
) -> None:
    cameras, maps = drawn
    num = len(maps)
    cameras = replace(cameras, model=(model,) * num, distortion=(DISTORTION[model],) * num)
    found = [
        compare(
            cameras, lambda row, view: DepthMap(maps[row]), SourceOptions(), source="depth", tolerance=0.3, prune=prune
        )[0]
        for prune in (True, False)
    ]
    np.testing.assert_array_equal(matrix(found[0]), matrix(found[1]))


def test_pruning_loses_nothing_of_whole_scenes(scene: Callable[..., Scene]) -> None:
    for case in (("hypersim", "ai_001_001/cam_00.npz", 4), ("megadepth", "0148/0.npz", 5)):
        found = scene(*case)
        pruned, _ = depth_and_notes(found.tree, found.stream, SourceOptions())
        whole, _ = depth_and_notes(found.tree, found.stream, SourceOptions(), prune=False)
        assert pruned is not None
        assert whole is not None
        np.testing.assert_array_equal(matrix(pruned), matrix(whole))


# ------------------------------------------------------------------------------------------------- constructed scenes


def facing(positions: Sequence[tuple[float, ...]], size: tuple[int, int] = (64, 48), focal: float = 50.0) -> Cameras:
    """Cameras that look along z from given places."""
    num = len(positions)
    poses = np.array([np.column_stack([np.eye(3), -np.array(position)]) for position in positions])
    intrinsics = np.tile([focal, focal, size[0] / 2, size[1] / 2], (num, 1))
    return Cameras(("PINHOLE",) * num, np.tile(size, (num, 1)), intrinsics, ((),) * num, poses)


def wall(distance: float, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    return np.full(size[::-1], distance)


def overlap_of(
    cameras: Cameras, maps: Sequence[np.ndarray | None], prune: bool = True, **changes: object
) -> np.ndarray:
    options = SourceOptions(**{"grid": 64, **changes})  # type: ignore[arg-type]

    def depth_of(row: int, view: object) -> DepthMap | None:
        values = maps[row]
        return None if values is None else DepthMap(values)

    return matrix(compare(cameras, depth_of, options, source="depth", tolerance=0.01, prune=prune)[0])


def test_a_shift_along_a_wall() -> None:
    """A wall 2 m away, a step of 0.64 m to the right: a quarter of the picture, 16 of 64 columns, is left behind."""
    overlap = overlap_of(facing([(0, 0, 0), (0.64, 0, 0), (5.12, 0, 0)]), [wall(2.0)] * 3)
    assert overlap[0, 1] == overlap[1, 0] == 0.75
    assert overlap[0, 2] == overlap[2, 0] == 0.0


def test_the_same_view_twice_overlaps_fully() -> None:
    random = np.random.default_rng(0)
    depth = random.uniform(1, 9, (48, 64))
    assert overlap_of(facing([(0, 0, 0)] * 2), [depth, depth])[0, 1] == 1.0


def test_what_stands_between_hides() -> None:
    """A board at 1 m fills the left half of the second picture: it hides the wall there, and the first does not see it.

    The first camera stands beyond the board, where the wall alone is in view, at 1 m; the second at 2 m.
    """
    board = wall(3.0)
    board[:, :32] = 1.0
    cameras = facing([(0, 0, 2.0), (0, 0, 0)])
    overlap = overlap_of(cameras, [wall(1.0), board])
    # in the second picture the first's view of the wall takes the middle third; its left half is hidden
    assert overlap[0, 1] == pytest.approx(0.5, abs=0.02)
    # of the second's samples the wall's, half of all, are seen where the first looks: a sixth of 32 x 48, 11 x 16
    assert overlap[1, 0] == pytest.approx(0.5 * (1 / 3) * (1 / 3) * 1.0, abs=0.01)
    assert overlap_of(cameras, [wall(1.0), wall(3.0)])[0, 1] == 1.0


def test_a_back_turned_or_an_unknown_depth_sees_nothing() -> None:
    cameras = facing([(0, 0, 0)] * 4)
    cameras.cam_from_world[1, :, :3] = np.diag([-1.0, 1.0, -1.0])
    overlap = overlap_of(cameras, [wall(2.0), wall(2.0), wall(0.0), None])
    assert np.nansum(overlap) == 0.0
    hole = wall(2.0)
    hole[:, 32:] = 0.0
    overlap = overlap_of(facing([(0, 0, 0)] * 2), [wall(2.0), hole])
    # samples that fall on a hole are not seen, except along its edge, where the surface may go on
    assert overlap.tolist() == [[pytest.approx(np.nan, nan_ok=True), 0.5], [1.0, pytest.approx(np.nan, nan_ok=True)]]


def test_depth_maps_of_any_size_show_the_same_view() -> None:
    """A camera of 640 x 480 pixels with depth maps of 64 x 48 and 1280 x 960: intrinsics are scaled, maps thinned.

    A slanted wall of inverse depth 0.5 + 0.7 u: the same however coarse the map is.
    """
    cameras = facing([(0, 0, 0), (0, 0, 0)], (640, 480), 500.0)
    maps = []
    for width, height in ((64, 48), (1280, 960)):
        u = ((np.arange(width) + 0.5) / width - 0.5) * 1.28
        maps.append(np.tile(1 / (0.5 + 0.7 * u), (height, 1)))
    overlap = overlap_of(cameras, maps, tolerance=1e-5)
    assert overlap[0, 1] == overlap[1, 0] == 1.0
    assert MAP_SIDE < 1280


def test_tolerance_is_a_share_of_the_samples_depth() -> None:
    cameras = facing([(0, 0, 0), (0, 0, 0)])
    for factor, tolerance, seen in ((1.04, 0.05, True), (1.04, 0.03, False), (0.96, 0.05, True), (0.96, 0.03, False)):
        overlap = overlap_of(cameras, [wall(4.0), wall(4.0 * factor)], tolerance=tolerance)
        assert overlap[0, 1] == float(seen)
    with pytest.raises(ConfigError, match="tolerance is 1"):
        SourceOptions(tolerance=1.0)


def test_ordered_frames_are_compared_within_the_window() -> None:
    random = np.random.default_rng(1)
    num = 9
    cameras = facing([(0.1 * i, 0.02 * i, 0.0) for i in range(num)])
    maps: list[np.ndarray] = [random.uniform(1.9, 2.1, (48, 64)) for _ in range(num)]
    called = []

    def depth_of(row: int, view: object) -> DepthMap | None:
        called.append(row)
        return None if row == 3 else DepthMap(maps[row])

    def found(window: int, ordered: bool) -> np.ndarray:
        options = SourceOptions(window=window, tolerance=0.05)
        return matrix(compare(cameras, depth_of, options, source="depth", tolerance=0.05, ordered=ordered)[0])

    everything = found(2, False)
    assert (everything[np.isfinite(everything)] > 0).sum() == 8 * 7
    apart = np.abs(np.subtract.outer(np.arange(num), np.arange(num)))
    for window in (1, 2, 5, 8, 100):
        called.clear()
        np.testing.assert_array_equal(found(window, True), np.where(apart <= window, everything, 0.0))
        assert called == list(range(num))  # each is read once


@pytest.mark.parametrize("model", sorted(DISTORTION))
def test_rays_go_where_projection_comes_from(model: str) -> None:
    x, y = (each.ravel() for each in np.meshgrid(np.linspace(-0.9, 0.9, 31), np.linspace(-0.7, 0.7, 21)))
    u, v = lens_of(model, DISTORTION[model]).rays(x, y)
    points = np.stack([u, v, np.ones_like(u)], axis=1)
    pixels, _ = geometry.project(points, np.eye(3, 4), model, (1.0, 1.0, 0.0, 0.0), DISTORTION[model])
    np.testing.assert_allclose(pixels, np.stack([x, y], axis=1), rtol=0, atol=1e-9)


def test_beyond_the_fold_of_a_lens_there_are_no_rays() -> None:
    """1 - 0.2 r^2 rises up to r = 1.29, where the picture's radius is 0.86; what is farther out shows nothing."""
    u, _ = lens_of("SIMPLE_RADIAL", (-0.2,)).rays(np.array([0.85, 0.87, 3.0]), np.zeros(3))
    assert np.isfinite(u).tolist() == [True, False, False]
    u, _ = lens_of("FISHEYE", ()).rays(np.array([1.4, 1.6, 3.0]), np.zeros(3))
    assert np.isfinite(u).tolist() == [True, False, False]
    with pytest.raises(ModelError, match="'EUCM' are not known"):
        lens_of("EUCM", (0.5, 1.0))


@pytest.mark.parametrize("model", sorted(DISTORTION))
def test_a_lens_sees_of_a_wall_what_projection_puts_into_its_picture(model: str) -> None:
    cameras = facing([(0, 0, 0), (2.2, 0.3, 0), (-1.6, -1.7, 0)], focal=36.0)
    cameras = replace(cameras, model=("PINHOLE", model, model), distortion=((), DISTORTION[model], DISTORTION[model]))
    overlap = overlap_of(cameras, [wall(2.0)] * 3)
    x, y = np.meshgrid((np.arange(64) + 0.5 - 32) / 18, (np.arange(48) + 0.5 - 24) / 18)
    points = np.stack([x.ravel(), y.ravel(), np.full(x.size, 2.0)], axis=1)
    for b in (1, 2):
        pixels, _ = geometry.project(points, cameras.cam_from_world[b], model, cameras.intrinsics[b], DISTORTION[model])
        u, _ = lens_of(model, DISTORTION[model]).rays((pixels[:, 0] - 32) / 36, (pixels[:, 1] - 24) / 36)
        inside = ((pixels >= 0) & (pixels < (64, 48))).all(axis=1)
        inside &= np.abs(u - (points[:, 0] + cameras.cam_from_world[b, 0, 3]) / 2) < 1e-6
        assert 0.1 < inside.mean() < 0.97
        assert overlap[0, b] == np.float32(inside.mean())


def test_what_lies_beyond_the_fold_of_a_lens_is_not_seen() -> None:
    """The formula puts what is 2.2 to the side near the middle of the picture, where the wall is as far away."""
    cameras = facing([(0, 0, 0), (4.4, 0, 0), (0.2, 0, 0)], focal=60.0)
    cameras = replace(cameras, model=("SIMPLE_RADIAL",) * 3, distortion=((-0.2,),) * 3)
    for prune in (True, False):
        overlap = overlap_of(cameras, [wall(2.0)] * 3, prune)
        assert overlap[0, 1] == overlap[1, 0] == 0.0
        assert overlap[0, 2] > 0.8


def test_what_only_a_distorting_lens_brings_into_the_picture() -> None:
    """A barrel lens sees 1.25 to the side, where a pinhole camera of its focal length would end at 1.07."""
    cameras = facing([(0, 0, 0), (2.3, 0, 0)])
    cameras.intrinsics[:, :2] = [[30.0, 30.0], [900.0, 900.0]]
    cameras = replace(cameras, model=("SIMPLE_RADIAL", "PINHOLE"), distortion=((-0.11,), ()))
    for prune in (True, False):
        assert overlap_of(cameras, [wall(2.0)] * 2, prune)[1, 0] == 1.0


@pytest.mark.parametrize("model", ["OPENCV", "SIMPLE_RADIAL", "OPENCV_FISHEYE"])
def test_lenses_that_distort(tmp_path: Path, model: str) -> None:
    """By depth and by mesh, in a rendered room, through a lens that distorts; the truth projects by `geometry`."""
    place = build_place("attic", 0)
    focal, size, lens = 60.0 if "FISHEYE" in model else 88.0, (128, 96), lens_of(model, DISTORTION[model])
    poses = []
    for position, target in (((1.6, -1.3, 1.6), (-1.6, 1.2, 0.8)), ((0.4, -1.2, 1.5), (-0.8, 2.0, 1.0)),
                             ((-0.9, -0.9, 1.6), (2.3, 1.2, 1.0))):  # fmt: skip
        rotation = look_at(position, target)
        poses.append(Camera(1, 1, 1.0, 0.0, 0.0, rotation, position).cam_from_world())
    intrinsics = np.array([focal, focal, 65.0, 47.0])
    cameras = Cameras(
        (model,) * 3, np.tile(size, (3, 1)), np.tile(intrinsics, (3, 1)), (DISTORTION[model],) * 3, np.array(poses)
    )
    x, y = (each.ravel() for each in np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5))
    u, v = lens.rays((x - 65.0) / focal, (y - 47.0) / focal)
    assert np.isfinite(u).all()
    maps, points = [], []
    for pose in poses:
        centre = -pose[:, :3].T @ pose[:, 3]
        d = np.stack([u, v, np.ones_like(u)], axis=1) @ pose[:, :3]
        t, _, _ = nearest(place.solids, tuple(centre.tolist()), (d[:, 0], d[:, 1], d[:, 2]))
        maps.append(t.reshape(size[::-1]))
        points.append(centre + t[:, None] * d)
    truth, folded = np.full((3, 3), np.nan), 0
    for a in range(3):
        for b in range(3):
            if a != b:
                pixels, _ = geometry.project(points[a], poses[b], model, intrinsics, DISTORTION[model])
                # the formulas bring what lies far to the side of a strong lens back into its picture
                again, _ = lens.rays((pixels[:, 0] - 65.0) / focal, (pixels[:, 1] - 47.0) / focal)
                straight = points[a] @ poses[b][:, :3].T + poses[b][:, 3]
                with np.errstate(invalid="ignore"):
                    in_picture = ((pixels >= 0) & (pixels < size)).all(axis=1)
                    inside = in_picture & (np.abs(again - straight[:, 0] / straight[:, 2]) < 1e-6)
                folded += int((in_picture & ~inside).sum())
                centre = -poses[b][:, :3].T @ poses[b][:, 3]
                d = points[a] - centre
                t, _, _ = nearest(place.solids, tuple(centre.tolist()), (d[:, 0], d[:, 1], d[:, 2]))
                truth[a, b] = (inside & (np.abs(t - 1.0) < 1e-6)).mean()
    assert np.nanmin(truth) > 0.05
    assert (folded > 100) == (model != "OPENCV_FISHEYE")
    by_depth = overlap_of(cameras, maps, tolerance=0.02)
    assert np.nanmax(np.abs(by_depth - truth)) < 0.02
    (tmp_path / "m.ply").write_bytes(mesh_ply(place, WORLD))
    stream = Stream(None, ("a", "b", "c"), cameras=cameras, mesh_path="m.ply")
    by_mesh, _ = mesh_and_notes(Tree(tmp_path), stream, SourceOptions(grid=64))
    assert by_mesh is not None
    assert np.nanmax(np.abs(matrix(by_mesh) - truth)) < 0.02
    # as a pinhole camera it would be wrong
    wrong = replace(stream, cameras=replace(cameras, model=("PINHOLE",) * 3, distortion=((),) * 3))
    by_mesh, _ = mesh_and_notes(Tree(tmp_path), wrong, SourceOptions(grid=64))
    assert by_mesh is not None
    assert np.nanmax(np.abs(matrix(by_mesh) - truth)) > 0.02


# ------------------------------------------------------------------------------------------------------ depth in files


def png(values: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", values)
    assert done
    return data.tobytes()


def hdf5(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
    return buffer.getvalue()


def pfm(values: np.ndarray, kind: str = "<f4", scale: str = "-1.0") -> bytes:
    head = f"Pf\n{values.shape[1]} {values.shape[0]}\n{scale}\n".encode()
    return head + values[::-1].astype(kind).tobytes()


VALUES = np.arange(12, dtype=np.float32).reshape(3, 4) / 4


@pytest.mark.parametrize(
    ("form", "data", "expected"),
    [
        ("millimetres", png((VALUES * 1000).astype(np.uint16)), VALUES),
        ("float16-bits", png(VALUES.astype(np.float16).view(np.uint16)), VALUES),
        ("pfm", pfm(VALUES), VALUES),
        ("pfm", pfm(VALUES, ">f4", "1.0"), VALUES),
        ("megadepth", hdf5(depth=VALUES), VALUES),
        ("distance", hdf5(dataset=VALUES.astype(np.float16)), VALUES),
    ],
)
def test_each_form_is_read(tmp_path: Path, form: str, data: bytes, expected: np.ndarray) -> None:
    (tmp_path / "d").write_bytes(data)
    found = read_depth(Tree(tmp_path), form, "d", scale=2.0)
    np.testing.assert_allclose(found.values * found.scale, 2.0 * expected, rtol=1e-6)
    assert found.is_distance == (form == "distance")


@pytest.mark.parametrize(
    ("form", "data", "why"),
    [
        ("millimetres", b"", "d: "),
        ("millimetres", b"hello", "d: "),
        ("millimetres", png(np.zeros((3, 4), np.uint8)), "uint8 values"),
        ("millimetres", png(np.zeros((3, 4, 3), np.uint16)), "3 channels"),
        ("millimetres", png(np.zeros((30, 40), np.uint16))[:-20], "cut off"),
        ("pfm", b"Pf\n4 3\n", "does not begin"),
        ("pfm", b"PF\n4 3\n-1.0\n" + bytes(144), "colours"),
        ("pfm", b"Pf\n4 0\n-1.0\n", "cannot be"),
        ("pfm", b"Pf\n999999 999999\n-1.0\n" + bytes(48), "cannot be"),
        ("pfm", pfm(VALUES)[:-1], "cut off: 47 of 48"),
        ("distance", hdf5(other=VALUES), "no array called dataset"),
        ("distance", hdf5(dataset=VALUES[0]), "rows and columns"),
        ("distance", hdf5(dataset=VALUES)[:600], "damaged"),
        ("distance", hdf5(dataset=np.zeros((0, 4))), "shape"),
        ("megadepth", hdf5(depth=VALUES - 1), "which things are nearer"),
    ],
)
def test_files_that_are_something_else_are_told(tmp_path: Path, form: str, data: bytes, why: str) -> None:
    (tmp_path / "d").write_bytes(data)
    with pytest.raises(DecodeError, match=r"^d: ") as caught:
        read_depth(Tree(tmp_path), form, "d")
    assert why in str(caught.value)


def test_depth_in_other_files_is_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d", "w") as file:
        file["dataset"] = h5py.ExternalLink(str(tmp_path / "secret"), "dataset")
    with pytest.raises(DecodeError, match="no array called dataset"):
        read_depth(Tree(tmp_path), "distance", "d")
    with h5py.File(tmp_path / "e", "w") as file:
        file.create_dataset("dataset", (2, 2), "f4", external=[(str(tmp_path / "secret"), 0, 16)])
    with pytest.raises(DecodeError, match="other files"):
        read_depth(Tree(tmp_path), "distance", "e")
    with pytest.raises(LayoutError, match="nowhere"):
        read_depth(Tree(tmp_path), "distance", "nowhere")


def write_maps(root: Path, maps: list[bytes | None]) -> Stream:
    for row, data in enumerate(maps):
        if data is not None:
            (root / f"{row}.png").write_bytes(data)
    paths = tuple(f"{row}.png" for row in range(len(maps)))
    cameras = facing([(0, 0, 0)] * len(maps))
    return Stream(None, paths, cameras=cameras, depth_paths=paths, depth=Depth("millimetres"))


def test_frames_whose_depth_is_broken_are_left_out_and_told(tmp_path: Path) -> None:
    good = png(np.full((48, 64), 2000, np.uint16))
    stream = write_maps(tmp_path, [good, good[:-20], good, None])
    pairs, notes = depth_and_notes(Tree(tmp_path), stream, SourceOptions())
    assert pairs is not None
    assert list(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True)) == [(0, 2)]
    assert len(notes) == 1
    assert "frames without overlaps: 2" in notes[0]
    assert "1.png: the PNG is cut off" in notes[0]
    whole = replace(stream, depth_paths=("0.png", None, "2.png", None))
    assert depth_and_notes(Tree(tmp_path), whole, SourceOptions())[1] == ()
    broken = replace(stream, depth_paths=("1.png", "1.png", "3.png", None))
    with pytest.raises(DecodeError, match="cut off"):
        depth_and_notes(Tree(tmp_path), broken, SourceOptions())


def test_frames_without_pose_intrinsics_or_a_known_lens_are_left_out(tmp_path: Path) -> None:
    good = png(np.full((48, 64), 2000, np.uint16))
    stream = write_maps(tmp_path, [good] * 5)
    cameras = stream.cameras
    assert cameras is not None
    cameras.cam_from_world[0] = np.nan
    cameras.intrinsics[1] = np.nan
    models = ("PINHOLE", "PINHOLE", "EUCM", "PINHOLE", "PINHOLE")
    cameras = replace(cameras, model=models, distortion=((), (), (0.5, 1.0), (), ()))
    pairs, notes = depth_and_notes(Tree(tmp_path), replace(stream, cameras=cameras), SourceOptions())
    assert pairs is not None
    assert (pairs.a.tolist(), pairs.b.tolist()) == ([3], [4])
    assert "'EUCM'" in notes[0]


def test_masks_and_scales_of_depth(tmp_path: Path) -> None:
    """Samples outside the mask are none, and nothing is seen there; a scale of 2 makes two walls one."""
    full, half = (png(np.full((48, 64), value, np.uint16)) for value in (2000, 1000))
    stream = write_maps(tmp_path, [full, half])
    mask = np.zeros((48, 64), np.uint8)
    mask[:, :16] = 255
    (tmp_path / "mask.png").write_bytes(png(mask))
    scaled = replace(stream, depth=Depth("millimetres", ("mask.png", None), np.array([1.0, 2.0])))
    pairs, _ = depth_and_notes(Tree(tmp_path), scaled, SourceOptions(grid=64))
    assert pairs is not None
    assert matrix(pairs)[0, 1] == 1.0
    # one column beyond the mask may still be its edge
    assert matrix(pairs)[1, 0] == pytest.approx(0.25, abs=0.02)
    (tmp_path / "mask.png").write_bytes(png(mask[:-1]))
    _, notes = depth_and_notes(Tree(tmp_path), scaled, SourceOptions())
    assert "mask.png is not of the size of 0.png" in notes[0]
    nothing = replace(stream, depth=Depth("millimetres", None, np.array([np.nan, 0.0])))
    with pytest.raises(LayoutError, match="multiplied by nan"):
        depth_and_notes(Tree(tmp_path), nothing, SourceOptions())


# -------------------------------------------------------------------------------------------------------------- meshes

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)
SIDES = np.array([[0, 1, 3], [0, 3, 2], [4, 5, 7], [4, 7, 6], [0, 4, 5], [0, 5, 1], [2, 3, 7]])


def ply(form: str, vertices: np.ndarray = CUBE, triangles: np.ndarray = SIDES, wide: bool = False) -> bytes:
    """A mesh with colours, normals before and labels after, if wide; an element before and one after."""
    order = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}[form]
    lines = ["ply", f"format {form} 1.0", "comment by hand", f"element vertex {len(vertices)}"]
    lines += ["property double nx"] * wide + [f"property {'double' if wide else 'float'} {axis}" for axis in "xyz"]
    lines += [f"property uchar {name}" for name in ("red", "green")] * wide
    lines += [f"element face {len(triangles)}"] + ["property ushort label"] * wide
    lines += [f"property list {'int' if wide else 'uchar'} {'uint' if wide else 'int'} vertex_indices"]
    lines += ["element edge 1", "property list uchar int others", "end_header", ""]
    rows: list[list[tuple[str, int | float]]] = []
    for vertex in vertices:
        numbers: list[tuple[str, int | float]] = [("f8" if wide else "f4", float(value)) for value in vertex]
        rows.append([("f8", 0.5)] * wide + numbers + [("u1", 7), ("u1", 8)] * wide)
    for triangle in triangles:
        indices: list[tuple[str, int | float]] = [("u4" if wide else "i4", int(value)) for value in triangle]
        rows.append([("u2", 9)] * wide + [("i4" if wide else "u1", 3), *indices])
    rows.append([("u1", 1), ("i4", 5)])
    head = "\n".join(lines).encode()
    if not order:
        return head + "".join(" ".join(f"{value:g}" for _, value in row) + "\n" for row in rows).encode()
    return head + b"".join(np.array(value, f"{order}{kind}").tobytes() for row in rows for kind, value in row)


FORMATS = ["ascii", "binary_little_endian", "binary_big_endian"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("wide", [False, True])
def test_a_mesh_is_read_in_all_formats(form: str, wide: bool) -> None:
    mesh = parse_ply(ply(form, wide=wide))
    np.testing.assert_array_equal(mesh.vertices, CUBE)
    np.testing.assert_array_equal(mesh.triangles, SIDES)
    assert mesh.triangles.dtype == np.uint32


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "does not begin"),
        (b"ply\nformat ascii 1.0\n", "does not begin"),
        (ply("ascii").replace(b"ascii", b"utf8"), "not understood"),
        (ply("ascii").replace(b"element vertex 8", b"element vertex -8"), "not understood"),
        (ply("ascii").replace(b"property float x", b"property float w"), "has the properties"),
        (ply("ascii").replace(b"element vertex 8", b"element vertex 999999999999"), "more numbers than there are"),
        (ply("binary_big_endian").replace(b"element vertex 8", b"element vertex 999999999999"), "cut off"),
        (ply("binary_little_endian")[:200], "does not begin"),
        (ply("binary_little_endian")[:-30], "cut off"),
        (ply("binary_little_endian", triangles=SIDES + 1), "names a vertex outside 0 .. 7"),
        (ply("ascii", triangles=SIDES - 1), "names a vertex outside 0 .. 7"),
        (ply("binary_little_endian", vertices=CUBE * np.nan), "lies nowhere"),
        (ply("ascii").replace(b"\n3 0 1 3", b"\n4 0 1 3"), "triangles"),
        (ply("binary_little_endian", triangles=SIDES[:0]), "no triangles"),
        (ply("ascii").replace(b"\n3 0 1 3", b"\n3 0 one 3"), "something else than numbers"),
        (ply("ascii").replace(b"list uchar int vertex_indices", b"list uchar int texcoord"), "are not read"),
    ],
)
def test_a_mesh_that_cannot_be_read_is_told(data: bytes, why: str) -> None:
    with pytest.raises(LayoutError) as caught:
        parse_ply(data)
    assert why in str(caught.value)


def mutants(data: bytes, random: np.random.Generator, num: int) -> Iterator[bytes]:
    for number in range(num):
        broken = bytearray(data)
        if number % 3 == 0:
            for at in random.integers(len(broken), size=2):
                broken[at] = random.integers(256)
        elif number % 3 == 1:
            del broken[random.integers(len(broken)) :]
        else:
            at = int(random.integers(len(broken) - 8))
            broken[at : at + 8] = random.choice([b"\xff" * 8, b"99999999", b"\0\0\0\x10\0\0\0\0"])
        yield bytes(broken)


def test_damaged_meshes_give_a_mesh_or_an_error_and_take_no_memory() -> None:
    random = np.random.default_rng(4)
    results = {"read": 0, "refused": 0}
    tracemalloc.start()
    try:
        for form in FORMATS:
            for broken in mutants(ply(form), random, 200):
                try:
                    mesh = parse_ply(broken)
                    assert mesh.triangles.max() < len(mesh.vertices)
                    results["read"] += 1
                except LayoutError:
                    results["refused"] += 1
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert min(results.values()) > 10


def test_a_mesh_that_is_broken_or_gone_names_its_path(tmp_path: Path) -> None:
    (tmp_path / "m.ply").write_bytes(b"ply\n")
    for path, why in (("m.ply", "does not begin"), ("n.ply", "cannot be read"), ("../m.ply", "leaves its root")):
        stream = Stream(None, ("a",), cameras=facing([(0, 0, 0)]), mesh_path=path)
        with pytest.raises(LayoutError, match=f"{path}.*{why}"):
            mesh_and_notes(Tree(tmp_path), stream, SourceOptions())


def test_a_missing_system_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.ply").write_bytes(ply("ascii"))

    def fail(name: str) -> None:
        raise OSError("libGL.so.1: cannot open shared object file")

    stream = Stream(None, ("a",), cameras=facing([(0, 0, 0)]), mesh_path="m.ply")
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(MumError, match="apt-get install libgl1"):
        mesh_and_notes(Tree(tmp_path), stream, SourceOptions())


def test_meshes_far_from_the_origin_are_cast_as_exactly(tmp_path: Path) -> None:
    """A wall 2 m away, 4,000 km from the origin of the world: in float32 it would be a quarter of a metre off."""
    far = np.array([4e6, -4e6, 0.0])
    corners = np.array([[-9, -9, 2], [9, -9, 2], [9, 9, 2], [-9, 9, 2]]) + far
    (tmp_path / "m.ply").write_bytes(ply("binary_little_endian", corners, np.array([[0, 1, 2], [0, 2, 3]]), wide=True))
    cameras = facing([tuple(far + shift) for shift in ((0, 0, 0), (0.64, 0, 0))])
    stream = Stream(None, ("a", "b"), cameras=cameras, mesh_path="m.ply")
    pairs, _ = mesh_and_notes(Tree(tmp_path), stream, SourceOptions(grid=64, tolerance=1e-4))
    assert pairs is not None
    assert matrix(pairs)[0, 1] == matrix(pairs)[1, 0] == 0.75
