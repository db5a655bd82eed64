"""The demo world: what it claims about overlap, poses and depth is checked against independent geometry."""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import os
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pycolmap
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mumdata.demo import world as world_module
from mumdata.demo.album import SIZES, Album, Layout, Sizes, build_place
from mumdata.demo.camera import Camera, circle, inverse_radial, look_at, normalised, project, quaternion, rays
from mumdata.demo.render import Place, depth_map, picture
from mumdata.demo.shots import gauge
from mumdata.demo.solids import Convex, Cylinder, nearest, occluded
from mumdata.demo.world import LAYOUTS, demo
from mumdata.errors import ConfigError, MumError

V1 = "megadepth/phoenix/S6/zl548/MegaDepth_v1"
SFM, FLAT = "megadepth/MegaDepth_v1_SfM/0070", "megadepth/Undistorted_SfM/0148"
CASTLE, PAGODA = "megascenes/reconstruct/014/142/colmap", "megascenes/reconstruct/271/828/colmap"

# truth file, model, folder of the images that the model's names stand for, place
MODELS = [
    ("megadepth/0070/0", f"{SFM}/sparse/manhattan/0", f"{SFM}/images", "cathedral"),
    ("megadepth/0070/1", f"{SFM}/sparse/manhattan/1", f"{SFM}/images", "cathedral"),
    ("megadepth/0148/0", f"{FLAT}/sparse", f"{FLAT}/images", "temple"),
    ("megascenes/014142/0", f"{CASTLE}/0", "megascenes/images/014/142", "castle"),
    ("megascenes/014142/1", f"{CASTLE}/1", "megascenes/images/014/142", "hall"),
    ("megascenes/271828/0", f"{PAGODA}/0", "megascenes/images/271/828", "pagoda"),
]
with_each_model = pytest.mark.parametrize(("truth", "model", "images", "place"), MODELS, ids=[m[0] for m in MODELS])


def _truth(world: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(world / "truth" / f"{name}.npz") as file:
        return dict(file)


def _clips(world: Path) -> dict[str, tuple[str, np.ndarray, str]]:
    """Return clip -> (URL, numbers [n, 19], split), read from the text files alone."""
    clips = {}
    for path in sorted((world / "realestate10k/RealEstate10K").glob("*/*.txt")):
        url, *lines = path.read_text().splitlines()
        clips[path.stem] = (url, np.array([[float(x) for x in line.split()] for line in lines]), path.parent.name)
    return clips


def _decode(path: Path) -> np.ndarray:
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None, path
    return image


def _files(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _project(cam_from_world: np.ndarray, intrinsics: np.ndarray, k: float, xyz: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return pixels [P, 2] and depth [P] of SIMPLE_RADIAL, written out once more."""
    cam = xyz @ cam_from_world[:, :3].T + cam_from_world[:, 3]
    uv = cam[:, :2] / cam[:, 2:]
    uv = uv * (1.0 + k * (uv**2).sum(axis=1, keepdims=True))
    return uv * intrinsics[:2] + intrinsics[2:], cam[:, 2]


# ---------------------------------------------------------------------------------------------------- bytes, markers


def _trimmed(seed: int, sizes: Sizes) -> Layout:
    """A few pictures of every album and one model of megadepth: enough to meet every writer."""
    layout = LAYOUTS["megadepth"](seed, sizes)
    albums = [
        Album(album.place, album.seed, (album.pictures[1], album.pictures[-1]), album.models[-1:])
        for album in layout.albums
    ]
    return Layout(tuple(albums), layout.texts)


def _trimmed_videos(seed: int, sizes: Sizes) -> Layout:
    layout = LAYOUTS["realestate10k"](seed, sizes)
    return Layout(tuple(replace(album, pictures=album.pictures[::20], models=()) for album in layout.albums))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_bytes_do_not_depend_on_the_number_of_workers(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(world_module, "LAYOUTS", {"megadepth": _trimmed, "realestate10k": _trimmed_videos})
    demo(tmp_path / "again", size="tiny", seed=0, workers=workers)
    again, first = _files(tmp_path / "again"), _files(world)
    assert {Path(path).suffix for path in again} >= {".jpg", ".png", ".h5", ".bin", ".txt", ".npz", ".json"}
    assert again.items() <= first.items()


def test_a_finished_demo_is_left_alone(world: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    demo(world, size="tiny", seed=0)
    assert before == {path: path.stat().st_mtime_ns for path in world.rglob("*")}


def test_another_demo_or_other_data_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(MumError, match="another demo"):
        demo(world, size="tiny", seed=1)
    (tmp_path / "megadepth").mkdir()
    (tmp_path / "megadepth" / "mine.txt").write_text("mine")
    with pytest.raises(MumError, match="megadepth exists"):
        demo(tmp_path, size="tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["megadepth"]
    with pytest.raises(ConfigError, match="tiny"):
        demo(tmp_path / "new", size="tny")
    with pytest.raises(MumError, match="workers"):
        demo(tmp_path / "new", workers=0)
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "LAYOUTS", {"realestate10k": _trimmed_videos})

    def full(task: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(world_module, "_work", full)
    with pytest.raises(MumError, match="no space left"):
        demo(tmp_path / "full", size="tiny", workers=1)


def test_an_interrupted_demo_is_noticed_and_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "LAYOUTS", {"realestate10k": _trimmed_videos})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    demo(whole, size="tiny", workers=1)
    real, calls = world_module._work, []

    def stop(task: object) -> None:
        calls.append(task)
        if len(calls) > 1:
            raise KeyboardInterrupt
        real(task)  # type: ignore[arg-type]

    monkeypatch.setattr(world_module, "_work", stop)
    with pytest.raises(KeyboardInterrupt):
        demo(broken, size="tiny", workers=1)
    assert not (broken / "demo.json").exists()
    half = len(_files(broken))
    with pytest.raises(MumError, match="another demo"):
        demo(broken, size="tiny", seed=5)
    monkeypatch.setattr(world_module, "_work", real)
    demo(broken, size="tiny", workers=1)
    assert _files(broken) == _files(whole)
    assert half < len(_files(whole)) + 1
    assert json.loads((broken / "demo.json").read_text())["seed"] == 0
    (broken / "realestate10k").rename(tmp_path / "moved")
    with pytest.raises(MumError, match="is gone"):
        demo(broken, size="tiny", workers=1)


def test_pictures_are_the_same_numbers_on_every_machine() -> None:
    """Recorded from raw pixels, before any codec: only + - * / and square root lie behind them."""
    digest = hashlib.sha256()
    for name in ("castle", "living_room", "n02795169"):
        position = (3.0, -30.0, 2.0) if name == "castle" else (1.4, -1.7, 1.5)
        camera = Camera(32, 24, 30.0, 16.0, 12.0, look_at(position, (0.1, 0.2, 1.0), 0.1), position, -0.05)
        digest.update(picture(build_place(name, 0), camera).tobytes())
        digest.update(depth_map(build_place(name, 0), camera).tobytes())
    assert digest.hexdigest() == "e7e69deb712781b479f33502ba8549ce1f9420d330ca02fafeebe90cd9e86f41"


def test_no_module_uses_functions_whose_last_bit_depends_on_the_machine() -> None:
    plain = {
        "abs", "all", "any", "arange", "argmax", "array", "asarray", "ascontiguousarray", "broadcast_shapes", "clip",
        "concatenate", "cumsum", "errstate", "flatnonzero", "float32", "float64", "floor", "full", "inf", "int8",
        "float16", "int16", "int32", "int64", "isfinite", "max", "nan", "maximum", "min", "minimum", "ndarray", "ndim",
        "repeat", "savez", "shape", "sqrt", "stack", "tile", "uint8", "uint16", "unique", "where", "zeros",
    }  # fmt: skip
    files = sorted(Path(world_module.__file__).parent.rglob("*.py"))
    assert len(files) > 10
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
                assert node.attr in plain, f"{where}: np.{node.attr}"
            if isinstance(node, ast.BinOp | ast.AugAssign):
                assert not isinstance(node.op, ast.MatMult | ast.Pow), where
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("dot", "mean", "std", "prod"), where
            if isinstance(node, ast.ImportFrom) and node.module == "math":
                assert {alias.name for alias in node.names} == {"sqrt"}, where
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"math", "random", "scipy"}, where


# ------------------------------------------------------------------------------------------------------------ models


@with_each_model
def test_models_hold_what_the_renderer_knows(world: Path, truth: str, model: str, images: str, place: str) -> None:
    known = _truth(world, truth)
    reconstruction = pycolmap.Reconstruction(world / model)
    assert reconstruction.is_valid()
    assert sorted(path.name for path in (world / model).iterdir()) == ["cameras.bin", "images.bin", "points3D.bin"]
    by_name = {image.name: image for image in reconstruction.images.values()}
    assert set(by_name) == set(known["names"].tolist())
    num = len(by_name)
    assert num >= (12 if truth.endswith("014142/1") else 30)
    xyz_rows = {tuple(xyz): row for row, xyz in enumerate(known["points"].tolist())}
    num_unmatched = num_twice = 0
    row_of = {point_id: xyz_rows[tuple(point.xyz.tolist())] for point_id, point in reconstruction.points3D.items()}
    for row, name in enumerate(known["names"].tolist()):
        image = by_name[name]
        assert image.has_pose
        matrix = image.cam_from_world().matrix()
        # written as a quaternion: one rounding of each of its numbers
        np.testing.assert_allclose(matrix, known["cam_from_world"][row], rtol=0, atol=1e-14)
        camera = image.camera
        height, width = _decode(world / images / name).shape[:2]
        assert (camera.width, camera.height) == (width, height) == tuple(known["sizes"][row])
        assert camera.focal_length_x == known["intrinsics"][row, 0]
        points2d = [(p.xy, p.point3D_id) for p in image.points2D]
        matched = [(xy, row_of[i]) for xy, i in points2d if i in row_of]
        num_unmatched += len(points2d) - len(matched)
        seen = [i for _, i in matched]
        assert set(seen) == set(np.flatnonzero(known["visible"][row]).tolist())
        num_twice += len(seen) - len(set(seen))
        pixels, depth = _project(
            matrix, np.array([camera.focal_length_x, camera.focal_length_y, camera.principal_point_x,
                              camera.principal_point_y]), known["distortion"][row, 0], known["points"][seen],
        )  # fmt: skip
        assert depth.min() > 0
        off = np.linalg.norm(np.array([xy for xy, _ in matched]) - pixels, axis=1)
        # keypoints are exact projections: what is left is rounding. A second keypoint of the same point lies beside
        # the first by (0.25, 0.15), which is 0.292 px.
        assert np.all((off < 1e-9) | (np.abs(off - 0.29155) < 1e-4)), off.max()
        assert (off > 0.1).sum() == len(seen) - len(set(seen))
    assert num_unmatched > 5 * num
    assert num_twice > 5
    assert known["visible"].sum(axis=0).min() >= 2
    ids = sorted(reconstruction.images)
    assert max(np.diff(ids)) > 1
    assert [reconstruction.images[i].name for i in ids] != sorted(by_name)


@with_each_model
def test_overlap_runs_from_none_to_nearly_all(world: Path, truth: str, model: str, images: str, place: str) -> None:
    known = _truth(world, truth)
    seen = known["visible"].astype(np.int64)
    shared = seen @ seen.T
    overlap = shared / shared.diagonal()[:, None]
    upper = np.triu_indices(len(seen), 1)
    both = np.minimum(overlap, overlap.T)[upper]
    assert both.max() > 0.8
    axes = known["cam_from_world"][:, 2, :3]
    angle = np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1)))[upper]
    covisible = np.maximum(overlap, overlap.T)[upper] > 0.1
    assert angle[covisible].min() < 8
    assert angle[covisible].max() > 60
    assert covisible.mean() > 0.2
    if not truth.endswith("014142/1"):
        assert shared[upper].min() == 0
        assert len(known["points"]) >= 1200
        sizes = {tuple(size) for size in known["sizes"]}
        assert any(w > h for w, h in sizes)
        assert any(h > w for w, h in sizes)
        assert len(np.unique(known["intrinsics"][:, 0])) > 10
        # portraits of lying cameras: rolls about the axis of a few degrees, and of a quarter turn
        relative = known["cam_from_world"][:, None, :, :3] @ known["cam_from_world"][None, :, :, :3].swapaxes(-1, -2)
        full = np.degrees(Rotation.from_matrix(relative.reshape(-1, 3, 3)).magnitude()).reshape(len(seen), -1)[upper]
        assert full[angle < 10].max() > 70


def _blocked(place: Place, start: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Tell for each segment from `start` whether it passes through matter: by looking at many points of it.

    No ray casting: a point is in a body or not. The last 0.1 % of each segment is left out, the surface itself.
    """
    share = np.linspace(0.0, 0.999, 3000)
    inside = np.zeros(len(ends), dtype=bool)
    for row, end in enumerate(ends):
        p = start + share[:, None] * (end - start)
        for solid in place.solids:
            if isinstance(solid, Convex):
                planes = np.array(solid.planes)
                within = np.all(p @ planes[:, :3].T < planes[:, 3] - 1e-9, axis=1)
                within = ~within if solid.hollow else within
            elif isinstance(solid, Cylinder):
                q = p - np.array(solid.anchor)
                within = (np.hypot(q[:, 0], q[:, 1]) < solid.thickness) & (q[:, 2] > 0) & (q[:, 2] < solid.height)
            else:
                within = (((p - np.array(solid.centre)) / np.array(solid.radii)) ** 2).sum(axis=1) < 1.0 - 1e-9
            if within.any():
                inside[row] = True
                break
    return inside


@pytest.mark.parametrize("case", [MODELS[0], MODELS[2], MODELS[4], MODELS[5]], ids=lambda case: case[0])
def test_visibility_agrees_with_points_of_the_line_of_sight(world: Path, case: tuple[str, str, str, str]) -> None:
    known, place = _truth(world, case[0]), build_place(case[3], 0)
    # back from the model's gauge to metres, from what the truth itself holds
    album = next(
        a for n in ("megadepth", "megascenes") for a in LAYOUTS[n](0, SIZES["tiny"]).albums if a.place == case[3]
    )
    g = album.models[0].gauge
    turn = np.array(g.rotation).reshape(3, 3)
    to_metres = lambda xyz: (xyz - np.array(g.shift)) @ turn / g.scale  # noqa: E731
    rng = np.random.default_rng(0)
    wrong = num_hidden = 0
    for image in rng.choice(len(known["names"]), 3, replace=False):
        matrix = known["cam_from_world"][image]
        centre = to_metres(-matrix[:, :3].T @ matrix[:, 3])
        pixels, depth = _project(matrix, known["intrinsics"][image], known["distortion"][image, 0], known["points"])
        framed = (depth > 0) & np.all((pixels >= 0) & (pixels < known["sizes"][image]), axis=1)
        assert not known["visible"][image][~framed & (depth < 0)].any()
        for visible in (True, False):
            rows = np.flatnonzero(framed & (known["visible"][image] == visible))
            rows = rng.choice(rows, min(12, len(rows)), replace=False)
            found = _blocked(place, centre, to_metres(known["points"][rows]))
            if visible:
                assert not found.any()
            else:
                num_hidden += len(rows)
                wrong += int((~found).sum())  # a corner cut by less than a step of the line is missed
    assert num_hidden >= 10
    assert wrong <= 0.1 * num_hidden


def test_sub_models_share_photos_and_differ_in_gauge(world: Path) -> None:
    a, b = _truth(world, "megadepth/0070/0"), _truth(world, "megadepth/0070/1")
    common = sorted(set(a["names"].tolist()) & set(b["names"].tolist()))
    assert 2 <= len(common) < 15
    on_disk = {path.name for path in (world / SFM / "images").iterdir()}
    assert on_disk > set(a["names"].tolist()) | set(b["names"].tolist())
    centres = []
    for known in (a, b):
        rows = [known["names"].tolist().index(name) for name in common]
        m = known["cam_from_world"][rows]
        centres.append(-np.einsum("nji,nj->ni", m[:, :, :3], m[:, :, 3]))
    # one similarity maps the camera centres of one model onto those of the other
    (p, q) = (c - c.mean(axis=0) for c in centres)
    scale = np.linalg.norm(q) / np.linalg.norm(p)
    assert abs(scale - 1) > 0.01
    rotation, residual = Rotation.align_vectors(q, p * scale)
    assert residual < 1e-9
    assert rotation.magnitude() > 0.05


# ------------------------------------------------------------------------------------------------- depth, distortion


def _dense(world: Path) -> list[tuple[Path, Path, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Return image, depth file, cam_from_world, intrinsics, visible and points of every image with depth."""
    out = []
    for truth, folder in (("0070/0", "0070/dense0"), ("0070/1", "0070/dense1"), ("0148/0", "0148/dense0")):
        known = _truth(world, f"megadepth/{truth}")
        intrinsics = known.get("dense_intrinsics", known["intrinsics"])
        for row, name in enumerate(known["names"].tolist()):
            image = world / V1 / folder / "imgs" / name
            depth = world / V1 / folder / "depths" / f"{Path(name).stem}.h5"
            out.append(
                (image, depth, known["cam_from_world"][row], intrinsics[row], known["visible"][row], known["points"])
            )
    return out


def test_depth_maps_agree_with_points_and_hide_what_is_hidden(world: Path) -> None:
    near = far = hidden_right = num_hidden = 0
    for image, file, matrix, intrinsics, visible, points in _dense(world):
        with h5py.File(file) as data:
            assert list(data) == ["depth"]
            depth = data["depth"][()]
        assert depth.dtype == np.float32
        assert depth.shape == _decode(image).shape[:2]
        assert depth.min() >= 0
        pixels, z = _project(matrix, intrinsics, 0.0, points)
        height, width = depth.shape
        framed = (z > 0) & np.all((pixels >= 1) & (pixels < (width - 1, height - 1)), axis=1)
        x, y = np.floor(pixels[framed]).astype(int).T
        around = np.stack([depth[y + j, x + i] for j in (-1, 0, 1) for i in (-1, 0, 1)])
        around = np.where(around == 0, np.inf, around)
        seen = visible[framed]
        # between the nearest and the farthest of the nine pixels around; a slanted face may exceed them a bit
        low, high = around.min(axis=0) * 0.97, around.max(axis=0) * 1.03
        fits = (z[framed] >= low) & (z[framed] <= high)
        near += int(fits[seen].sum())
        far += int((~fits[seen]).sum())
        hidden_right += int((around.min(axis=0)[~seen] < z[framed][~seen] * 1.001).sum())
        num_hidden += int((~seen).sum())
    assert far < 0.002 * near
    assert num_hidden > 1000
    assert hidden_right > 0.97 * num_hidden


def test_undistorted_photos_show_what_the_distorted_ones_do(world: Path) -> None:
    known = _truth(world, "megadepth/0070/0")
    strongest = np.argsort(-np.abs(known["distortion"][:, 0]))[:6]
    assert np.abs(known["distortion"][strongest]).min() > 0.05
    for row in strongest:
        name, k = known["names"][row], known["distortion"][row, 0]
        raw = _decode(world / SFM / "images" / name).astype(np.float32)
        flat = _decode(world / V1 / "0070/dense0/imgs" / name).astype(np.float32)
        f, _, cx, cy = known["dense_intrinsics"][row]
        height, width = flat.shape[:2]
        assert (width, height) == tuple(known["dense_sizes"][row])
        v, u = np.mgrid[:height, :width] + 0.5
        u, v = (u - cx) / f, (v - cy) / f
        f, _, cx, cy = known["intrinsics"][row]
        off = []
        for radial in (k, 0.0):
            bend = 1.0 + radial * (u * u + v * v)
            x, y = (u * bend * f + cx - 0.5).astype(np.float32), (v * bend * f + cy - 0.5).astype(np.float32)
            # every pixel of the flat photo has content in the raw one, to within half a pixel
            if radial:
                assert min(x.min(), y.min()) > -1.0
                assert x.max() < raw.shape[1]
                assert y.max() < raw.shape[0]
            warped = cv2.remap(raw, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            # blurred, since two samplings of one edge differ
            difference = cv2.GaussianBlur(warped, (0, 0), 1.0) - cv2.GaussianBlur(flat, (0, 0), 1.0)
            border = np.hypot(u, v) > 0.6 * np.hypot(u, v).max()
            off.append(float(np.abs(difference)[border].mean()))
        assert off[0] < 5.0, name
        assert off[0] < 0.75 * off[1], name
        # the rule by which consumers recover the missing intrinsics of these photos
        raw_k = np.array([[f, 0, cx], [0, f, cy], [0, 0, 1.0]])
        size = (int(known["sizes"][row, 0]), int(known["sizes"][row, 1]))
        new, _ = cv2.getOptimalNewCameraMatrix(raw_k, np.array([k, 0, 0, 0]), size, 0, (width, height), True)
        assert abs(new[0, 0] / known["dense_intrinsics"][row, 0] - 1) < 0.03


def test_undistorted_layout_has_its_copies(world: Path) -> None:
    names = _truth(world, "megadepth/0148/0")["names"].tolist()
    for name in names:
        assert (world / FLAT / "images" / name).read_bytes() == (world / V1 / "0148/dense0/imgs" / name).read_bytes()
        assert re.fullmatch(r"\d{9,10}_[0-9a-f]{10}_o\.jpg", name)
    text, binary = (
        pycolmap.Reconstruction(world / FLAT / "sparse-txt"),
        pycolmap.Reconstruction(world / FLAT / "sparse"),
    )
    assert text.num_points3D() == binary.num_points3D()
    assert {i.name for i in text.images.values()} == {i.name for i in binary.images.values()}
    assert {camera.model.name for camera in binary.cameras.values()} == {"PINHOLE"}
    assert (world / FLAT / "stereo").is_dir()


def test_scenes_are_in_no_evaluation_list(world: Path) -> None:
    evaluated = {
        "0015", "0022", "0004", "0013", "0017", "0048", "0008", "0019", "0021", "0024", "0025", "0032", "0063", "1589",
    }  # fmt: skip
    assert not {path.name for path in (world / "truth/megadepth").iterdir()} & evaluated


# -------------------------------------------------------------------------------------------------- images and poses


def _same_points_same_colours(images: list[np.ndarray], pixels: list[np.ndarray]) -> float:
    """Return the correlation of the two images' brightness at corresponding pixels."""
    values = []
    for image, xy in zip(images, pixels, strict=True):
        grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (0, 0), 0.7)
        x, y = (xy.T - 0.5).astype(np.float32)
        values.append(cv2.remap(grey, x[None], y[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0])
    return float(np.corrcoef(values)[0, 1])


@with_each_model
def test_poses_explain_the_photos(world: Path, truth: str, model: str, images: str, place: str) -> None:
    """The same point has about the same brightness in both photos of a pair; wrong poses would not give that."""
    known = _truth(world, truth)
    seen = known["visible"].astype(np.int64)
    shared = np.triu(seen @ seen.T, 1)
    pairs = np.argwhere((shared > 40) & (shared < 0.97 * shared.max()))
    scores, mixed_up = [], []
    for a, b in pairs[:: max(1, len(pairs) // 25)]:
        rows = np.flatnonzero(known["visible"][a] & known["visible"][b])
        pixels = [
            _project(
                known["cam_from_world"][i], known["intrinsics"][i], known["distortion"][i, 0], known["points"][rows]
            )[0]
            for i in (a, b)
        ]
        photos = [_decode(world / images / known["names"][i]) for i in (a, b)]
        scores.append(_same_points_same_colours(photos, pixels))
        mixed_up.append(_same_points_same_colours(photos, [pixels[0], pixels[1][::-1]]))
    # the photos are taken under different suns: shadows and bright sides change places in more than half of the pairs
    assert np.quantile(scores, 0.75) > 0.55
    assert np.quantile(mixed_up, 0.75) < 0.25


# ------------------------------------------------------------------------------------------------- the other layouts


def test_clips_are_listed_as_in_realestate10k(world: Path) -> None:
    clips, root = _clips(world), world / "realestate10k/dataset"
    assert all(re.fullmatch(r"[0-9a-f]{16}", name) for name in clips)
    with_frames = {name for name in clips if any((root / clips[name][2] / name).glob("*.png"))}
    assert sorted(clips[name][2] for name in with_frames) == ["test", "train", "train", "train"]
    urls = [clips[name][0] for name in with_frames]
    assert len(set(urls)) == len(urls) - 1
    absent = [name for name in clips if not (root / clips[name][2] / name).exists()]
    empty = [name for name in set(clips) - with_frames if name not in absent]
    assert len(absent) == len(empty) == 1
    traps, missing, lengths = 0, 0, []
    for name in with_frames:
        _, numbers, split = clips[name]
        assert numbers.shape[1] == 19
        times = [int(x) for x in numbers[:, 0]]
        assert times == sorted(set(times))
        traps += sorted(map(str, times)) != [str(x) for x in times]
        assert 99966667 not in times or 100000000 in times
        on_disk = {int(path.stem) for path in (root / split / name).iterdir()}
        assert on_disk <= set(times)
        missing += len(times) - len(on_disk)
        lengths.append(len(times))
        known = _truth(world, f"realestate10k/{name}/0")
        assert known["names"].tolist() == [f"{time}.png" for time in times]
        # nine decimals in the text file
        np.testing.assert_allclose(numbers[:, 7:].reshape(-1, 3, 4), known["cam_from_world"], atol=6e-10, rtol=0)
        np.testing.assert_allclose(numbers[0, 7:].reshape(3, 4), np.eye(3, 4), atol=1e-9)
        size = known["sizes"][:, [0, 1, 0, 1]]
        np.testing.assert_allclose(numbers[:, 1:5] * size, known["intrinsics"], atol=1e-6)
        assert not numbers[:, 5:7].any()
    assert any(99966667 in clips[name][1][:, 0] for name in with_frames)
    assert traps >= 1
    assert missing == 1
    assert max(lengths) > 100
    assert min(lengths) >= 30


def test_trajectories_explain_the_videos(world: Path) -> None:
    for name, (_, numbers, split) in _clips(world).items():
        folder = world / "realestate10k/dataset" / split / name
        if not folder.exists() or not any(folder.iterdir()):
            continue
        known = _truth(world, f"realestate10k/{name}/0")
        seen = known["visible"].astype(np.int64)
        shared = seen @ seen.T
        assert np.diagonal(shared, 1).min() > 0.6 * shared.diagonal().min()
        if len(seen) > 100:
            assert shared.min() == 0
        for a, b in ((0, 5), (3, 12), (20, 24)):
            rows = np.flatnonzero(known["visible"][a] & known["visible"][b])
            frames = [_decode(folder / f"{int(numbers[i, 0])}.png") for i in (a, b)]
            height, width = frames[0].shape[:2]
            assert (width, height) == tuple(known["sizes"][a])
            scale = np.array([width, height, width, height])
            pixels = [
                _project(numbers[i, 7:].reshape(3, 4), numbers[i, 1:5] * scale, 0.0, known["points"][rows])[0]
                for i in (a, b)
            ]
            # nothing but the camera moves, and the lamp stays lit: what differs is the sampling of texture
            assert _same_points_same_colours(frames, pixels) > 0.85, (name, a, b)
            assert _same_points_same_colours(frames, [pixels[0], pixels[1][::-1]]) < 0.5


def test_one_photo_is_filed_under_two_categories(world: Path) -> None:
    root = world / "megascenes/images"
    for scene, k in (("014142", 0), ("271828", 0)):
        known = _truth(world, f"megascenes/{scene}/{k}")
        folder = root / scene[:3] / scene[3:]
        by_bytes: dict[bytes, list[str]] = {}
        for name in known["names"].tolist():
            by_bytes.setdefault((folder / name).read_bytes(), []).append(name)
        (twins,) = [names for names in by_bytes.values() if len(names) > 1]
        rows = [known["names"].tolist().index(name) for name in twins]
        assert Path(twins[0]).name == Path(twins[1]).name
        assert twins[0].split("/")[1] != twins[1].split("/")[1]
        assert np.array_equal(*known["cam_from_world"][rows])
        assert np.array_equal(*known["visible"][rows])


def test_wiki_photos_have_awkward_names_and_some_are_in_no_model(world: Path) -> None:
    root = world / "megascenes/images"
    photos = {path.relative_to(root).as_posix() for path in root.glob("*/*/commons/*/0/pictures/*")}
    registered = set()
    for scene, k in (("014142", 0), ("014142", 1), ("271828", 0)):
        for name in _truth(world, f"megascenes/{scene}/{k}")["names"].tolist():
            assert re.fullmatch(r"commons/[^/]+/0/pictures/[^/]+", name)
            registered.add(f"{scene[:3]}/{scene[3:]}/{name}")
    assert registered < photos
    assert len(photos - registered) >= 3
    for character in (" ", "(", "'", "ü", "塔"):
        assert any(character in path for path in registered), character
    assert all(unicodedata.normalize("NFC", path) == path for path in photos)
    for path in root.rglob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))
    assert set(json.loads((world / "megascenes/metadata/categories.json").read_text()).values()) == {14142, 271828}


def test_imagenet_has_four_classes(world: Path) -> None:
    root = world / "imagenet"
    wnids = sorted(path.name for path in (root / "train").iterdir())
    assert len(wnids) == 4
    assert wnids == sorted(path.name for path in (root / "val").iterdir())
    for wnid in wnids:
        train, val = list((root / "train" / wnid).iterdir()), list((root / "val" / wnid).iterdir())
        assert len(train) == 12
        assert len(val) in (2, 3)
        assert all(re.fullmatch(rf"{wnid}_\d+\.JPEG", path.name) for path in train)
        assert all(re.fullmatch(r"ILSVRC2012_val_\d{8}\.JPEG", path.name) for path in val)
        for path in train + val:
            assert 40 <= min(_decode(path).shape[:2]) <= 64


def test_every_picture_is_rich(world: Path) -> None:
    """No flat, black or burnt-out pictures, but those that the datasets themselves have: targets of a challenge."""
    num, black = 0, []
    for path in sorted(world.rglob("*")):
        beside = re.search(r"depth|mask|confidence", path.relative_to(world).as_posix())
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png") or path.name.startswith("._") or beside:
            continue
        image = _decode(path).astype(np.float64)
        num += 1
        if image.max() == 0:
            black.append(path.relative_to(world).parts[0])
            continue
        assert image.std() > 9, path
        assert 25 < image.mean() < 235, path
    assert num > 800
    assert black == ["co3d"] * 3


# -------------------------------------------------------------------------------------------------- cameras and rays


@given(st.floats(-0.12, 0.06), st.floats(-0.75, 0.75), st.floats(-0.6, 0.6))
def test_inverse_distortion_inverts(radial: float, u: float, v: float) -> None:
    bend = 1.0 + radial * (u * u + v * v)
    x, y = inverse_radial(np.array([u * bend]), np.array([v * bend]), radial)
    assert abs(x[0] - u) < 1e-12
    assert abs(y[0] - v) < 1e-12


@given(
    st.tuples(*[st.floats(-30, 30)] * 3), st.tuples(*[st.floats(-5, 5)] * 2), st.floats(-1.2, 1.2), st.integers(0, 99)
)
def test_cameras_look_where_they_are_told(
    position: tuple[float, float, float], target: tuple[float, float], roll: float, number: int
) -> None:
    goal = (target[0] + 40.0, target[1], position[2] + 3.0)
    rotation = look_at(position, goal, roll)
    matrix = np.array(rotation).reshape(3, 3)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) > 0
    np.testing.assert_allclose(Rotation.from_quat(quaternion(rotation)).as_matrix(), matrix, atol=1e-12)
    camera = Camera(80, 60, 70.0, 40.0, 30.0, rotation, position, -0.05)
    x, y, depth = project(camera, np.array([goal]))
    np.testing.assert_allclose([x[0], y[0]], [40.0, 30.0], atol=1e-9)
    assert depth[0] > 0
    if roll == 0.0:
        assert matrix[1, 2] < 0  # down in the picture is down in the world
    # a model's gauge moves camera and points together
    moved = gauge(number)
    aside = np.array(goal)[None] + np.array([1.0, -2.0, 0.5])
    a = project(camera, aside)
    b = project(moved.camera(camera), moved.points(aside))
    np.testing.assert_allclose(a[:2], b[:2], atol=1e-7)
    np.testing.assert_allclose(a[2] * moved.scale, b[2], rtol=1e-9)


@given(st.floats(0.0, 80.0), st.floats(0.0, 60.0), st.floats(0.5, 40.0))
def test_rays_and_projection_are_inverse(x: float, y: float, depth: float) -> None:
    position = (1.0, 2.0, 3.0)
    camera = Camera(80, 60, 70.0, 41.0, 29.0, look_at(position, (9.0, -4.0, 2.0), 0.2), position, 0.06)
    d = rays(camera, np.array([x]), np.array([y]))
    point = np.array([[position[i] + depth * d[i][0] for i in range(3)]])
    np.testing.assert_allclose([float(a[0]) for a in project(camera, point)], [x, y, depth], rtol=1e-9, atol=1e-9)


def test_circle_is_round_and_even() -> None:
    turns = np.linspace(0.0, 1.0, 400, endpoint=False)
    points = np.array([circle(float(t)) for t in turns])
    np.testing.assert_allclose(np.hypot(*points.T), 1.0, atol=1e-15)
    ideal = np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], axis=1)
    assert np.abs(points - ideal).max() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", ["castle", "attic", "n03028079"])
def test_shadows_fall_where_the_light_is_blocked(name: str) -> None:
    place = build_place(name, 0)
    position = {"attic": (1.5, -1.4, 1.5), "castle": (-14.0, -26.0, 2.0), "n03028079": (2.0, -3.0, 1.0)}[name]
    light = (2.2, -0.3, 0.3) if name == "attic" else (-30.0, 8.0, 25.0)
    camera = Camera(16, 12, 13.0, 8.0, 6.0, look_at(position, (0.0, 0.0, 1.0)), position)
    y, x = (a.reshape(-1) + 0.5 for a in np.mgrid[:12, :16])
    d = rays(camera, x, y)
    t, _, _ = nearest(place.solids, position, d)
    rows = np.flatnonzero(np.isfinite(t))
    # a hair before the surface, on the camera's side of it
    xyz = np.stack([position[i] + 0.9999 * t[rows] * d[i][rows] for i in range(3)], axis=1)
    from_light = occluded(place.solids, light, tuple(xyz[:, i] - light[i] for i in range(3)), 1.0)  # type: ignore[arg-type]
    blocked = _blocked(place, np.array(light), xyz)
    assert (from_light != blocked).mean() < 0.04
    assert 0.05 < blocked.mean() < 0.95
    # a sun: all rays run the same way, which takes other branches than rays from one point
    sun = normalised(light)
    start = (xyz[:, 0].copy(), xyz[:, 1].copy(), xyz[:, 2].copy())
    along = occluded(place.solids, start, sun, np.inf)
    same = occluded(place.solids, start, tuple(np.full(len(xyz), c) for c in sun), np.inf)  # type: ignore[arg-type]
    assert np.array_equal(along, same)
    reach = xyz + 90.0 * np.array(sun)
    if name != "attic":
        by_points = np.array([_blocked(place, e, p[None])[0] for e, p in zip(reach, xyz, strict=True)])
        assert (along != by_points).mean() < 0.04


@pytest.mark.parametrize("name", ["pagoda", "kitchen"])
def test_culling_changes_no_hit(name: str) -> None:
    """The nearest hit of all bodies, each asked alone without bounds, is what `nearest` returns."""
    place = build_place(name, 0)
    position = (0.4, -1.2, 1.5) if name == "kitchen" else (9.0, -18.0, 2.0)
    camera = Camera(24, 18, 14.0, 12.0, 9.0, look_at(position, (0.0, 1.0, 1.2), 0.2), position)
    y, x = (a.reshape(-1) + 0.5 for a in np.mgrid[:18, :24])
    d = rays(camera, x, y)
    t, which, face = nearest(place.solids, position, d)
    alone = [solid.hit(position, d) for solid in place.solids]
    all_t = np.stack([hit[0] for hit in alone])
    assert np.array_equal(t, all_t.min(axis=0))
    hit = np.flatnonzero(which >= 0)
    assert np.array_equal(which[hit], all_t.argmin(axis=0)[hit])
    assert np.array_equal(face[hit], np.stack([h[1] for h in alone])[which[hit], hit])
    assert len(set(which.tolist())) > 8


def test_files_are_few_and_small(world: Path) -> None:
    sizes = [path.stat().st_size for path in world.rglob("*") if path.is_file()]
    assert 1500 < len(sizes) < 2500
    assert sum(sizes) < 30_000_000
    assert not [name for name in os.listdir(world) if "unfinished" in name]
