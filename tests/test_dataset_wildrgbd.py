"""WildRGB-D: cameras, depth and masks against what was rendered; lists, numbers and broken files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog, geometry
from mumdata.datasets import Stream
from mumdata.datasets.wildrgbd import read, scenes
from mumdata.demo import world as world_module
from mumdata.demo.layouts import load
from mumdata.errors import LayoutError
from mumdata.index import index
from mumdata.sequences import mine_sequences
from mumdata.tree import Tree

from .conftest import render, write_picture


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wildrgbd") / "world"
    render("wildrgbd", out)
    return out


@pytest.fixture(scope="module")
def catalogs(world: Path) -> Path:
    index("wildrgbd", root=world / "wildrgbd", catalogs=world / "catalogs", workers=1)
    return world / "catalogs"


@pytest.fixture(scope="module")
def frames(catalogs: Path) -> pd.DataFrame:
    return catalog.read_frames("wildrgbd", catalogs=catalogs)


@pytest.fixture(scope="module")
def scene_rows(catalogs: Path) -> pd.DataFrame:
    return catalog.read_scenes("wildrgbd", catalogs=catalogs).set_index("scene")


def truth_of(world: Path, scene: str) -> dict[str, np.ndarray]:
    with np.load(world / f"truth/wildrgbd/{scene}.npz") as file:
        return dict(file)


def matrix(row: pd.Series) -> np.ndarray:
    return np.asarray(row.cam_from_world, np.float64).reshape(3, 4)


def between_pixels(depth: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Depth at positions [n, 2] (x, y), whole numbers at the pixels' middles; NaN off the picture and at edges."""
    x, y = at.T
    inner = (x > 0) & (x < depth.shape[1] - 1) & (y > 0) & (y < depth.shape[0] - 1)
    i, j = np.where(inner, y, 0).astype(int), np.where(inner, x, 0).astype(int)
    u, v = x - j, y - i
    corners = np.stack([depth[i, j], depth[i, j + 1], depth[i + 1, j], depth[i + 1, j + 1]])
    found = (np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v]) * corners).sum(axis=0)
    flat = (corners.min(axis=0) > 0) & (np.ptp(corners, axis=0) < 0.05)
    return np.where(inner & flat, found, np.nan)


METADATA = {"w": 48, "h": 64, "fps": 60, "K": [50.0, 0.0, 0.0, 0.0, 51.0, 0.0, 22.0, 34.0, 1.0]}
STILL = "1 0 0 {x} 0 1 0 0 0 0 1 0 0 0 0 1"


def video(root: Path, num: int = 4, folder: str = "apple/scenes/scene_000") -> Path:
    """A hand-written video whose camera moves along x."""
    place = root / folder
    for number in range(num):
        write_picture(place / f"rgb/{number:05d}.png", 48, 64)
    (place / "metadata").write_text(json.dumps(METADATA))
    (place / "cam_poses.txt").write_text("".join(f"{i} {STILL.format(x=i)}\n" for i in range(num)))
    return place


def only(root: Path) -> Stream:
    tree = Tree(root)
    (scene,) = scenes(tree)
    (stream,) = read(tree, scene)
    return stream


# ------------------------------------------------------------------------------------------------------------ listing


def test_scenes_of_all_categories_are_told_apart(scene_rows: pd.DataFrame) -> None:
    """Naive: the folder's name as key, of which scene_000 is there twice."""
    assert scene_rows.num_frames.to_dict() == {
        "ball/scene_000": 26,
        "ball/scene_001": 10,
        "ball/scene_003": 0,
        "ball/scene_010": 8,
        "box/scene_002": 8,
        "bucket/scene_000": 10,
    }
    assert scene_rows.group.tolist() == scene_rows.index.tolist()
    assert scene_rows["stream"].isna().all()


def test_one_list_gives_the_split_and_the_other_what_is_evaluated_on(
    frames: pd.DataFrame, scene_rows: pd.DataFrame
) -> None:
    split = scene_rows.split.astype(object).where(scene_rows.split.notna(), None).to_dict()
    assert split == {
        "ball/scene_000": "train",
        "ball/scene_001": "val",  # by nvs_list.json; camera_eval_list.json trains on it
        "ball/scene_003": None,  # in camera_eval_list.json alone, and not on disk
        "ball/scene_010": "train",  # camera_eval_list.json validates on it
        "box/scene_002": None,  # a category without lists
        "bucket/scene_000": None,
    }
    eval_of = frames.groupby("scene", observed=True).eval_of.first()
    assert eval_of.dropna().to_dict() == {"ball/scene_001": "wildrgbd-nvs", "ball/scene_010": "wildrgbd-camera"}


def test_a_listed_scene_that_is_not_on_disk_is_a_row(scene_rows: pd.DataFrame) -> None:
    assert scene_rows.status["ball/scene_003"] == "empty"
    assert "no frame on disk" in scene_rows.detail["ball/scene_003"]


def test_frames_come_by_number_whatever_the_listing_order(
    world: Path, frames: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for scene, own in frames.groupby("scene", observed=True):
        names = [path.rpartition("/")[2] for path in own.path]
        assert names == [str(name) for name in truth_of(world, scene)["names"]]
    scanned = os.scandir

    class Backwards:
        """Naive: the order in which the file system lists."""

        def __init__(self, path: str) -> None:
            with scanned(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    tree = Tree(world / "wildrgbd")
    found = {scene.scene: read(tree, scene)[0].paths for scene in scenes(tree)}
    for scene, own in frames.groupby("scene", observed=True):
        assert list(found[scene]) == own.path.tolist()


def test_what_is_missing_is_said_scene_by_scene(frames: pd.DataFrame, scene_rows: pd.DataFrame) -> None:
    assert scene_rows.status.to_dict() == {
        "ball/scene_000": "complete",
        "ball/scene_001": "missing_images",
        "ball/scene_003": "empty",
        "ball/scene_010": "complete",
        "box/scene_002": "no_model",
        "bucket/scene_000": "complete",
    }
    assert "no cam_poses.txt" in scene_rows.detail["box/scene_002"]
    missing = frames[frames.status == "missing"]
    assert missing.path.tolist() == ["ball/scenes/scene_001/rgb/00004.png"]
    assert missing.cam_from_world.notna().all()
    box = frames[frames.scene == "box/scene_002"]
    assert box.cam_from_world.isna().all()
    assert (box.camera_model == "PINHOLE").all()
    assert box.intrinsics_px.notna().all()


def test_mined_sequences_are_whole_scenes_that_no_list_evaluates_on(catalogs: Path, frames: pd.DataFrame) -> None:
    mined = mine_sequences("wildrgbd", catalogs=catalogs, workers=1)
    assert mined.rule == "scene"
    found = catalog.read_sequences("wildrgbd", catalogs=catalogs)
    assert found.scene.tolist() == ["ball/scene_000"]
    assert list(found.frames[0]) == frames[frames.scene == "ball/scene_000"].frame_id.tolist()
    mine_sequences("wildrgbd", catalogs=catalogs, workers=1, allow_eval_scenes=True)
    assert catalog.read_sequences("wildrgbd", catalogs=catalogs).scene.tolist() == ["ball/scene_000", "ball/scene_010"]
    mine_sequences("wildrgbd", catalogs=catalogs, workers=1, allow_eval_scenes=True, preset="mum-paper")
    assert catalog.read_sequences("wildrgbd", catalogs=catalogs).scene.tolist() == ["ball/scene_000"]


# ------------------------------------------------------------------------------------------------------------ cameras


def test_known_points_land_where_the_renderer_puts_them_at_their_depth(world: Path, frames: pd.DataFrame) -> None:
    """Depth is z in millimetres. Naive: the distance to the camera; or pixels whose middles are whole numbers."""
    right, distance, shifted = [], [], []
    for scene, own in frames[frames.cam_from_world.notna()].groupby("scene", observed=True):
        truth = truth_of(world, scene)
        assert len(own) == len(truth["names"])
        for place, (_, row) in enumerate(own.iterrows()):
            points = truth["points"][truth["visible"][place]]
            pixels, z = geometry.project(points, matrix(row), row.camera_model, row.intrinsics_px, row.distortion)
            true, true_z = geometry.project(
                points, truth["cam_from_world"][place], "PINHOLE", truth["intrinsics"][place], ()
            )
            assert np.abs(pixels - true).max() < 0.01, row.path
            assert np.abs(z - true_z).max() < 1e-4
            if pd.isna(row.depth_path):
                continue
            depth = cv2.imread(str(world / "wildrgbd" / row.depth_path), cv2.IMREAD_UNCHANGED)
            assert depth.dtype == np.uint16
            assert depth.shape == (row.height, row.width)
            away = np.linalg.norm(points @ matrix(row)[:, :3].T + matrix(row)[:, 3], axis=1)
            stored = between_pixels(depth / 1000.0, pixels - 0.5)
            right.append(stored - z)
            distance.append(stored - away)
            shifted.append(between_pixels(depth / 1000.0, pixels) - z)
    off, off_distance, off_shifted = (
        np.abs(values[np.isfinite(values)]) for values in map(np.concatenate, (right, distance, shifted))
    )
    assert len(off) > 5000
    assert np.median(off) < 5e-4  # half a millimetre: the rounding
    assert np.quantile(off, 0.9) < 2e-3
    assert np.median(off_distance) > 0.02
    assert np.quantile(off_shifted, 0.9) > 0.01


def test_the_principal_point_is_not_the_middle(frames: pd.DataFrame) -> None:
    """K is stored column by column. Naive: row by row, whose principal point is 0, 0; or the middle, 24, 32."""
    known = frames[frames.intrinsics_px.notna() & (frames.status == "ok")]
    assert len(known) == 61
    for values in known.intrinsics_px:
        np.testing.assert_allclose(values, [50.4, 50.4, 22.75, 34.5], rtol=1e-6)


def test_poses_are_world_from_camera(world: Path, frames: pd.DataFrame) -> None:
    """Naive: the file's matrix as it is; it sends what is seen out of the picture."""
    row = frames[(frames.scene == "ball/scene_000") & (frames.frame == 6)].iloc[0]
    lines = (world / "wildrgbd/ball/scenes/scene_000/cam_poses.txt").read_text().splitlines()
    stored = np.array([float(value) for value in lines[6].split()[1:]]).reshape(4, 4)
    np.testing.assert_allclose(stored @ np.vstack([matrix(row), [0, 0, 0, 1]]), np.eye(4), atol=1e-6)
    truth = truth_of(world, "ball/scene_000")
    points = truth["points"][truth["visible"][6]]
    pixels, _ = geometry.project(points, stored[:3], "PINHOLE", row.intrinsics_px, ())
    true, _ = geometry.project(points, truth["cam_from_world"][6], "PINHOLE", truth["intrinsics"][6], ())
    off = np.linalg.norm(pixels - true, axis=1)
    assert np.isnan(off).any() or np.median(off) > 10


def test_masks_show_the_object(world: Path, frames: pd.DataFrame) -> None:
    """The ball is a sphere of 0.6 m around (0, 0, 0.6) of the place: rays that meet it are those of the mask."""
    gauge = load("wildrgbd")(0, world_module.SIZES["tiny"]).albums[0].models[0].gauge
    (middle,) = gauge.points(np.array([[0.0, 0.0, 0.6]]))
    y, x = np.mgrid[:64, :48] + 0.5
    exact = 0
    for _, row in frames[frames.scene == "ball/scene_000"].iterrows():
        assert row.mask_path == row.path.replace("/rgb/", "/masks/")
        mask = cv2.imread(str(world / "wildrgbd" / row.mask_path), cv2.IMREAD_UNCHANGED) == 255
        fx, fy, cx, cy = row.intrinsics_px
        rays = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)], axis=2)
        rays /= np.linalg.norm(rays, axis=2, keepdims=True)
        ball = matrix(row)[:, :3] @ middle + matrix(row)[:, 3]
        met = np.linalg.norm(np.cross(rays, ball), axis=2) < 0.6
        assert mask[met].all()
        exact += int((mask == met).all())
    assert exact > 10  # in the others a bench is in the mask as well


def test_depth_and_masks_that_are_not_there_are_not_named(frames: pd.DataFrame) -> None:
    own = frames[frames.scene == "ball/scene_001"]
    assert own.frame[own.depth_path.isna()].tolist() == [4, 7]  # 4 has no picture either
    assert own.frame[own.mask_path.isna()].tolist() == [4]


# -------------------------------------------------------------------------------------------------- files, hand-written


def test_numbers_may_be_written_as_real_numbers(tmp_path: Path) -> None:
    """As numpy.savetxt writes them; with blank lines."""
    place = video(tmp_path)
    lines = (place / "cam_poses.txt").read_text().splitlines()
    floats = [" ".join(f"{float(value):.18e}" for value in line.split()) for line in lines]
    (place / "cam_poses.txt").write_text("\n\n".join(floats) + "\n\n")
    stream = only(tmp_path)
    assert stream.problem is None
    assert stream.cameras is not None
    np.testing.assert_array_equal(stream.cameras.cam_from_world[:, 0, 3], [0, -1, -2, -3])


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [1, 2, 3, 4], [0, 1, 1, 2], [3, 2, 1, 0]])
def test_no_camera_is_guessed_where_lines_and_numbers_disagree(tmp_path: Path, order: list[int]) -> None:
    """Naive: by the line, or by the number; either is wrong for somebody's file."""
    place = video(tmp_path)
    (place / "cam_poses.txt").write_text("".join(f"{i} {STILL.format(x=i)}\n" for i in order))
    stream = only(tmp_path)
    assert stream.problem == "bad_model"
    assert "lines and numbers disagree" in (stream.detail or "")
    assert len(stream.paths) == 4
    assert stream.cameras is not None
    assert np.isnan(stream.cameras.cam_from_world).all()
    assert np.isfinite(stream.cameras.intrinsics).all()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0 1 0 0\n", "line 1 has 4 columns"),
        (f"0 {STILL.format(x='far')}\n", "far"),
        (f"nan {STILL.format(x=0)}\n", "is of frame nan"),
        (f"0 {STILL.format(x=0)} 7\n", "line 1 has 18 columns"),
    ],
)
def test_broken_poses_are_told(tmp_path: Path, text: str, why: str) -> None:
    place = video(tmp_path)
    (place / "cam_poses.txt").write_text(text)
    stream = only(tmp_path)
    assert (stream.problem, len(stream.paths)) == ("bad_model", 4)
    assert why in (stream.detail or "")


@pytest.mark.parametrize(
    "rows",
    [
        "2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1",  # scaled
        "1 0 0 0 0 1 0 0 0 0 -1 0 0 0 0 1",  # mirrored
        "1 0 0 0 0 1 0 0 0 0 1 0 5 0 0 1",  # a matrix written column by column
        "1 0 0 nan 0 1 0 0 0 0 1 0 0 0 0 1",
        "1 0 0 1e999 0 1 0 0 0 0 1 0 0 0 0 1",
        "1e200 0 0 0 0 1e200 0 0 0 0 1 0 0 0 0 1",
        "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
    ],
)
def test_a_matrix_that_is_no_motion_costs_its_own_frame_alone(tmp_path: Path, rows: str) -> None:
    place = video(tmp_path)
    lines = (place / "cam_poses.txt").read_text().splitlines()
    lines[2] = f"2 {rows}"
    (place / "cam_poses.txt").write_text("\n".join(lines))
    stream = only(tmp_path)
    assert stream.problem is None
    assert "1 matrices" in (stream.detail or "")
    assert stream.cameras is not None
    assert np.isfinite(stream.cameras.cam_from_world).all(axis=(1, 2)).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"K": [50.0, 0.0, 22.0, 0.0, 51.0, 34.0, 0.0, 0.0, 1.0]}, "column by column"),  # row by row
        ({"K": [50.0] * 8}, "9 numbers"),
        ({"K": None}, "9 numbers"),
        ({"K": ["50.0"] * 9}, "9 numbers"),
        ({"K": [float("nan"), 0, 0, 0, 51, 0, 22, 34, 1]}, "9 numbers"),
        ({"K": [10**400, 0, 0, 0, 51, 0, 22, 34, 1]}, "9 numbers"),
        ({"K": [-50, 0, 0, 0, 51, 0, 22, 34, 1]}, "column by column"),
        ({"w": 0}, "size in pixels"),
        ({"h": "64"}, "size in pixels"),
        ({"h": 1 << 40}, "size in pixels"),
    ],
)
def test_broken_metadata_are_told_and_leave_the_poses(tmp_path: Path, change: dict[str, object], why: str) -> None:
    (video(tmp_path) / "metadata").write_text(json.dumps(METADATA | change))
    stream = only(tmp_path)
    assert stream.problem == "bad_model"
    assert why in (stream.detail or "")
    assert stream.cameras is not None
    assert np.isnan(stream.cameras.intrinsics).all()
    assert np.isfinite(stream.cameras.cam_from_world).all()


@settings(deadline=None)
@given(st.sampled_from(["metadata", "cam_poses.txt"]), st.binary(max_size=60), st.integers(0, 200), st.booleans())
def test_no_file_is_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, name: str, junk: bytes, at: int, rest: bool
) -> None:
    root = tmp_path_factory.getbasetemp() / "fuzz-wildrgbd"
    place = root / "apple/scenes/scene_000"
    if not place.exists():
        video(root)
    whole = (place / name).read_bytes()
    try:
        (place / name).write_bytes(whole[:at] + junk + (whole[at:] if rest else b""))
        stream = only(root)
    finally:
        (place / name).write_bytes(whole)
    assert len(stream.paths) >= 4
    assert stream.problem in (None, "bad_model")
    assert stream.cameras is not None
    assert (np.isfinite(stream.cameras.intrinsics).all() and name == "cam_poses.txt") or name == "metadata"


def test_pictures_beyond_the_poses_and_odd_files(tmp_path: Path) -> None:
    place = video(tmp_path)
    write_picture(place / "rgb/00006.png", 48, 64)
    for name in ("._00000.png", "cover.png", "00001.jpg", "notes.txt"):
        write_picture(place / "rgb" / name) if not name.endswith(".txt") else (place / "rgb" / name).write_text("x")
    (tmp_path / "apple.z01").write_bytes(b"part of an archive")
    (tmp_path / "download.py").write_text("")
    (tmp_path / "notes").mkdir()
    (tmp_path / "apple/scenes/old").mkdir()
    stream = only(tmp_path)
    names = [path.rpartition("/")[2] for path in stream.paths]
    assert names == ["00000.png", "00001.jpg", "00002.png", "00003.png", "00006.png"]  # of two, the first by name
    assert stream.cameras is not None
    assert np.isfinite(stream.cameras.cam_from_world).all(axis=(1, 2)).tolist() == [True] * 4 + [False]
    assert sorted(why for _, why, _ in stream.ignored) == [
        "hidden",
        "named_twice",
        "unexpected_name",
        "unexpected_name",
    ]


def test_without_metadata_and_poses_there_are_pictures(tmp_path: Path) -> None:
    place = video(tmp_path)
    (place / "metadata").unlink()
    (place / "cam_poses.txt").unlink()
    stream = only(tmp_path)
    assert (stream.problem, len(stream.paths)) == ("no_model", 4)
    assert stream.detail == "no metadata; no cam_poses.txt"
    assert stream.depth_paths == (None,) * 4
    shutil.rmtree(place / "rgb")
    assert only(tmp_path).problem == "empty"


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"train": []}', '{"train": 1, "val": []}', '{"train": ["scenes/../../etc"], "val": []}',
     '{"train": [7], "val": []}'],
)  # fmt: skip
def test_a_broken_list_is_told_by_its_categorys_scenes(tmp_path: Path, text: str) -> None:
    """Naive: one file that is cut off ends the run."""
    video(tmp_path / "r")
    (tmp_path / "r/apple/nvs_list.json").write_text(text)
    index("wildrgbd", root=tmp_path / "r", catalogs=tmp_path / "c", workers=1)
    scenes = catalog.read_scenes("wildrgbd", catalogs=tmp_path / "c")
    assert set(scenes.status) == {"bad_lists"}
    assert scenes.detail.str.contains("apple/nvs_list.json", regex=False).all()
    assert scenes.split.isna().all()


def test_a_scene_in_both_parts_of_a_list_is_for_validation(tmp_path: Path) -> None:
    video(tmp_path)
    both = {"train": ["scenes/scene_000"], "val": ["scenes/scene_000"]}
    (tmp_path / "apple/nvs_list.json").write_text(json.dumps(both))
    (scene,) = scenes(Tree(tmp_path))
    assert scene.split == "val"


def test_the_scene_that_loaders_leave_out_is_known_bad(tmp_path: Path) -> None:
    for folder in ("box/scenes/scene_257", "book/scenes/scene_257"):
        video(tmp_path / "r", 2, folder)
    index("wildrgbd", root=tmp_path / "r", catalogs=tmp_path / "c", workers=1)
    frames = catalog.read_frames("wildrgbd", catalogs=tmp_path / "c")
    assert frames.groupby("scene", observed=True).status.first().to_dict() == {
        "book/scene_257": "ok",
        "box/scene_257": "known_bad",
    }


def test_a_folder_of_something_else_is_one_line(tmp_path: Path) -> None:
    write_picture(tmp_path / "apple/rgb/00000.png")
    with pytest.raises(LayoutError, match="does not look like wildrgbd"):
        scenes(Tree(tmp_path))
