"""ScanNet++: lists, order and cameras of a rendered world whose truth is known, and trees where something is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from mumdata import catalog
from mumdata.datasets import Scene, Stream, scannetpp
from mumdata.demo import world as world_module
from mumdata.demo.album import SIZES, Album, build_place
from mumdata.demo.camera import Camera
from mumdata.demo.encode import encode_picture
from mumdata.demo.render import picture
from mumdata.errors import LayoutError
from mumdata.geometry import project
from mumdata.index import index
from mumdata.schema import QUARANTINE
from mumdata.sequences import mine_sequences
from mumdata.tree import Tree

from .conftest import render, write_picture

ID = "0a1b2c3d4e"


@dataclass(frozen=True)
class Demo:
    root: Path
    catalogs: Path
    frames: pd.DataFrame
    scenes: pd.DataFrame
    albums: dict[str, Album]  # by scene/stream

    @property
    def train(self) -> str:
        return self.scene_of("nvs_sem_train")

    def scene_of(self, split: str) -> str:
        return (self.root / f"splits/{split}.txt").read_text().strip()

    def of(self, scene: str, stream: str) -> pd.DataFrame:
        return self.frames[(self.frames["scene"] == scene) & (self.frames["stream"] == stream)]

    def state(self, scene: str, stream: str) -> tuple[str, str | None]:
        rows = self.scenes[(self.scenes["scene"] == scene) & (self.scenes["stream"] == stream)]
        assert len(rows) == 1
        detail = rows.iloc[0]["detail"]
        return rows.iloc[0]["status"], detail if isinstance(detail, str) else None

    def truth(self, scene: str, stream: str) -> dict[str, np.ndarray]:
        with np.load(self.root.parent / "truth/scannetpp" / scene / f"{stream}.npz") as file:
            return dict(file)

    def json(self, scene: str, path: str) -> Any:
        return json.loads((self.root / "data" / scene / path).read_text())


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    out = tmp_path_factory.mktemp("scannetpp")
    layout = world_module.LAYOUTS["scannetpp"]
    render("scannetpp", out)
    index("scannetpp", root=out / "scannetpp", catalogs=out / "catalogs", workers=1)
    return Demo(
        out / "scannetpp",
        out / "catalogs",
        catalog.read_frames("scannetpp", catalogs=out / "catalogs"),
        catalog.read_scenes("scannetpp", catalogs=out / "catalogs"),
        {album.models[0].truth.removesuffix(".npz"): album for album in layout(0, SIZES["tiny"]).albums},
    )


@pytest.fixture
def copied(demo: Demo, tmp_path: Path) -> Path:
    """A copy of the training room, as the only scene `ID` of a root of its own."""
    root = tmp_path / "root"
    shutil.copytree(demo.root / "data" / demo.train, root / "data" / ID)
    return root


def _read(root: Path, name: str = ID) -> dict[str | None, Stream]:
    tree = Tree(root, scannetpp.SPEC.archives)
    scene = next(scene for scene in scannetpp.scenes(tree) if scene.scene == name)
    return {stream.stream: stream for stream in scannetpp.read(tree, scene)}


def _names(paths: Any) -> list[str]:
    return [path.rpartition("/")[2] for path in paths]


def _pose(row: Any) -> np.ndarray:
    return np.array(row.cam_from_world, np.float64).reshape(3, 4)


# --------------------------------------------------------------------------------------- frames, order, lists, splits


def test_streams_splits_and_groups(demo: Demo) -> None:
    keys = {(row.split, row.scene, row.stream, row.num_frames) for row in demo.scenes.itertuples()}
    assert keys == {
        ("nvs_sem_train", demo.train, "dslr", 31),
        ("nvs_sem_train", demo.train, "iphone", 8),
        ("nvs_sem_val", demo.scene_of("nvs_sem_val"), "dslr", 10),
        ("nvs_sem_val", demo.scene_of("nvs_sem_val"), "iphone", 4),
        ("nvs_test", demo.scene_of("nvs_test"), "dslr", 8),
    }
    assert (demo.frames["group"].astype(str) == demo.frames["scene"].astype(str)).all()


def test_dslr_frames_are_the_lists_in_their_order_then_what_no_list_names(demo: Demo) -> None:
    """The camera's counter rolls over from 9999 to 1: the naive sort by name tears the walk apart."""
    lists = demo.json(demo.train, "dslr/train_test_lists.json")
    names = _names(demo.of(demo.train, "dslr")["path"])
    assert names == [*lists["train"], *lists["test"], "DSC00009.JPG"]
    assert (names[0], sorted(names)[0]) == ("DSC09988.JPG", "DSC00001.JPG")
    # neighbours in the list are neighbours in the room, the test pictures begin elsewhere
    poses = demo.truth(demo.train, "dslr")["cam_from_world"]
    axes = poses[:, 2, :3]
    turns = np.degrees(np.arccos(np.clip((axes[1:] * axes[:-1]).sum(axis=1), -1, 1)))
    assert turns[: len(lists["train"]) - 1].max() < 45 < turns[len(lists["train"]) - 1]


def test_test_pictures_and_scenes_of_the_benchmarks_are_marked(demo: Demo) -> None:
    rows = demo.of(demo.train, "dslr")
    assert [value if isinstance(value, str) else None for value in rows["eval_of"]] == [
        *[None] * 26, *["scannetpp-nvs"] * 4, None,
    ]  # fmt: skip
    assert demo.of(demo.train, "iphone")["eval_of"].isna().all()
    val, test = demo.scene_of("nvs_sem_val"), demo.scene_of("nvs_test")
    assert demo.of(val, "dslr")["eval_of"].tolist() == ["scannetpp-val"] * 8 + ["scannetpp-nvs"] * 2
    assert demo.of(val, "iphone")["eval_of"].tolist() == ["scannetpp-val"] * 4
    assert demo.of(test, "dslr")["eval_of"].tolist() == ["scannetpp-nvs"] * 8


def test_pictures_that_the_benchmark_keeps_back_are_no_missing_frames(demo: Demo) -> None:
    scene = demo.scene_of("nvs_test")
    lists = demo.json(scene, "dslr/train_test_lists.json")
    assert len(lists["test"]) == 3
    assert _names(demo.of(scene, "dslr")["path"]) == lists["train"]
    assert demo.state(scene, "dslr") == ("complete", None)
    table = catalog.read(QUARANTINE, demo.catalogs / "scannetpp/quarantine.parquet").to_pandas()
    hidden = table[table["reason"] == "hidden_test"]
    assert _names(hidden["path"]) == lists["test"]


def test_a_test_picture_that_is_lost_alone_is_missing(copied: Path) -> None:
    """Only where no test picture is there are they kept back: one that is lost is lost."""
    path = copied / f"data/{ID}/dslr/resized_undistorted_images/DSC00026.JPG"
    path.unlink()
    stream = _read(copied)["dslr"]
    assert path.relative_to(copied).as_posix() in stream.paths
    assert not stream.ignored
    for name in ("DSC00025", "DSC00027", "DSC00028"):
        path.with_name(f"{name}.JPG").unlink()
    stream = _read(copied)["dslr"]
    assert len(stream.paths) == 27
    assert [reason for _, reason, _ in stream.ignored] == ["hidden_test"] * 4


def test_pictures_marked_bad_are_not_used(demo: Demo) -> None:
    rows = demo.of(demo.train, "dslr")
    bad = rows[rows["status"] == "known_bad"]
    assert _names(bad["path"]) == ["DSC09992.JPG"]
    assert demo.frames["status"].value_counts().to_dict() == {"ok": 60, "known_bad": 1}


def test_chunks_are_mined_from_the_training_part(demo: Demo) -> None:
    mine_sequences("scannetpp", catalogs=demo.catalogs, workers=1, chunk_size=14)
    sequences = catalog.read_sequences("scannetpp", catalogs=demo.catalogs)
    assert set(sequences["rule"]) == {"chunk"}
    assert {(row.scene, row.stream) for row in sequences.itertuples()} == {
        (demo.train, "dslr"), (demo.train, "iphone"),
    }  # fmt: skip
    dslr = sequences[sequences["stream"] == "dslr"]
    assert dslr["num_frames"].tolist() == [13, 13]
    paths = [demo.frames.loc[frame, "path"] for row in dslr.itertuples() for frame in row.frames]
    lists = demo.json(demo.train, "dslr/train_test_lists.json")
    assert _names(paths) == [*(name for name in lists["train"] if name != "DSC09992.JPG"), "DSC00009.JPG"]
    mine_sequences("scannetpp", catalogs=demo.catalogs, workers=1, allow_eval_scenes=True)
    sequences = catalog.read_sequences("scannetpp", catalogs=demo.catalogs)
    assert sequences["num_frames"].sum() == 60
    assert len(sequences) == 5


# ------------------------------------------------------------------------------------------------------------ cameras


@pytest.mark.parametrize("split", ["nvs_sem_train", "nvs_sem_val", "nvs_test"])
@pytest.mark.parametrize("name", ["dslr", "iphone"])
def test_points_are_where_the_renderer_puts_them(demo: Demo, split: str, name: str) -> None:
    scene = demo.scene_of(split)
    rows = demo.of(scene, name)
    if not len(rows):
        assert (split, name) == ("nvs_test", "iphone")
        return
    truth = demo.truth(scene, name)
    places = {image: place for place, image in enumerate(truth["names"].tolist())}
    posed = [row for row in rows.itertuples() if row.cam_from_world is not None]
    unposed = _names(row.path for row in rows.itertuples() if row.cam_from_world is None)
    if split == "nvs_sem_train":
        assert unposed == (["DSC00009.JPG"] if name == "dslr" else ["frame_000060.jpg", "frame_000070.jpg"])
    else:
        assert unposed == []
    for row in posed:
        place = places[row.path.rpartition("/")[2]]
        seen = np.flatnonzero(truth["visible"][place])
        assert len(seen) > 100
        points, lens = truth["points"][seen], truth["intrinsics"][place]
        found, depth = project(points, _pose(row), row.camera_model, row.intrinsics_px, row.distortion)
        wanted, true_depth = project(points, truth["cam_from_world"][place], "PINHOLE", lens, ())
        assert np.abs(found - wanted).max() < 0.01
        np.testing.assert_allclose(depth, true_depth, rtol=1e-5)


def test_undistorted_pictures_have_no_fisheye_lens(demo: Demo) -> None:
    """The naive intrinsics are those of colmap/cameras.txt, which stand for the fisheye pictures."""
    for row in demo.of(demo.train, "dslr").itertuples():
        assert row.camera_model == "PINHOLE"
        np.testing.assert_allclose(row.intrinsics_px, [33.0, 33.0, 30.0, 20.0])
        assert len(row.distortion) == 0
    line = (demo.root / f"data/{demo.train}/dslr/colmap/cameras.txt").read_text().splitlines()[-1]
    assert line.startswith("1 OPENCV_FISHEYE 60 40 21.")


def test_tracks_are_those_of_the_model(demo: Demo) -> None:
    for split in ("nvs_sem_train", "nvs_sem_val", "nvs_test"):
        scene = demo.scene_of(split)
        truth = demo.truth(scene, "dslr")
        counts = dict(zip(truth["names"].tolist(), truth["visible"].sum(axis=1).tolist(), strict=True))
        rows = demo.of(scene, "dslr")
        assert rows["num_points"].tolist() == [counts.get(name, 0) for name in _names(rows["path"])]
    assert demo.of(demo.scene_of("nvs_sem_val"), "iphone")["num_points"].isna().all()


def _rendered(
    demo: Demo, scene: str, row: Any, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None
) -> float:
    """Render what the catalog's camera sees and return how far it is from the stored picture, mean of all pixels."""
    album = demo.albums[f"{scene}/{row.stream}"]
    pose, lens = _pose(row), np.array(row.intrinsics_px, np.float64)
    if change is not None:
        pose, lens = change(pose, lens)
    gauge = album.models[0].gauge
    turned = np.array(gauge.rotation).reshape(3, 3)
    centre = turned.T @ (-pose[:, :3].T @ pose[:, 3] - np.array(gauge.shift))
    rotation = pose[:, :3] @ turned
    focal, _, cx, cy = (float(value) for value in lens)
    camera = Camera(int(row.width), int(row.height), focal, cx, cy, tuple(rotation.reshape(-1)), tuple(centre))
    shown = encode_picture(row.path, picture(build_place(album.place, 0), camera))
    pictures = [cv2.imdecode(np.frombuffer(data, np.uint8), 1) for data in (shown, (demo.root / row.path).read_bytes())]
    return float(np.abs(pictures[0].astype(float) - pictures[1]).mean())


def test_the_stored_pictures_are_what_the_cameras_see(demo: Demo) -> None:
    """A renderer that is given the catalog's camera makes the stored picture; with each naive camera it does not."""

    def half_a_pixel(pose: np.ndarray, lens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return pose, lens + np.array([0, 0, 0.5, 0.5])

    def fisheye_focal_length(pose: np.ndarray, lens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return pose, lens * [0.36 / 0.55, 0.36 / 0.55, 1, 1]

    def opengl_axes(pose: np.ndarray, lens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.diag([1.0, -1.0, -1.0]) @ pose, lens

    def nerfstudio_world(pose: np.ndarray, lens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turn = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
        return np.concatenate([pose[:, :3] @ turn.T, pose[:, 3:]], axis=1), lens

    def camera_to_world(pose: np.ndarray, lens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.linalg.inv(np.vstack([pose, [0, 0, 0, 1]]))[:3], lens

    every = (half_a_pixel, opengl_axes, nerfstudio_world, camera_to_world)
    for scene, stream, frame, naive in (
        (demo.train, "dslr", 3, (*every, fisheye_focal_length)),
        (demo.train, "dslr", 27, (*every, fisheye_focal_length)),
        (demo.train, "iphone", 2, every),
        (demo.scene_of("nvs_sem_val"), "iphone", 1, every),
    ):
        row = next(row for row in demo.of(scene, stream).itertuples() if row.frame == frame)
        assert _rendered(demo, scene, row, None) < 0.1
        for change in naive:
            assert _rendered(demo, scene, row, change) > 2.0, (stream, frame, change.__name__)


@pytest.mark.parametrize("split", ["nvs_sem_train", "nvs_sem_val"])
def test_depth_lies_at_the_pixels_that_the_cameras_name(demo: Demo, split: str) -> None:
    """Millimetres along the optical axis; with the naive intrinsics, unscaled from 1920 x 1440, nothing would fit."""
    scene = demo.scene_of(split)
    truth, checked = demo.truth(scene, "iphone"), 0
    for place, row in enumerate(demo.of(scene, "iphone").itertuples()):
        assert row.depth_path == row.path.replace("/rgb/", "/depth/").replace(".jpg", ".png")
        depth = cv2.imread(str(demo.root / row.depth_path), cv2.IMREAD_UNCHANGED)
        assert depth.dtype == np.uint16
        if row.cam_from_world is None:
            continue
        points = truth["points"][truth["visible"][place]]
        pixels, z = project(points, _pose(row), row.camera_model, row.intrinsics_px, row.distortion)
        x, y = np.floor(pixels).astype(int).T
        near = np.abs(pixels - np.floor(pixels) - 0.5).max(axis=1) < 0.15
        off = np.abs(depth[y, x] / 1000 - z)[near]
        checked += len(off)
        assert np.median(off) < 0.01
        assert (off < 0.1).mean() > 0.9
    assert checked > 300


def test_masks_times_and_depth_stand_beside_the_frames(demo: Demo) -> None:
    rows = demo.of(demo.train, "iphone")
    arkit = demo.json(demo.train, "iphone/pose_intrinsic_imu.json")
    assert rows["timestamp_s"].tolist() == [record["timestamp"] for record in arkit.values()]
    assert _names(rows["path"]) == [f"{stem}.jpg" for stem in arkit]
    assert all(path.endswith(f"/rgb_masks/{stem}.png") for path, stem in zip(rows["mask_path"], arkit, strict=True))
    masks = {"nvs_sem_train": "resized_undistorted_masks", "nvs_sem_val": "undistorted_anon_masks"}
    for split, folder in masks.items():
        for row in demo.of(demo.scene_of(split), "dslr").itertuples():
            stem = row.path.rpartition("/")[2].removesuffix(".JPG")
            assert row.mask_path == f"data/{row.scene}/dslr/{folder}/{stem}.png"
            assert (cv2.imread(str(demo.root / row.mask_path), cv2.IMREAD_UNCHANGED) == 255).all()
            assert pd.isna(row.depth_path)
            assert pd.isna(row.timestamp_s)


# -------------------------------------------------------------------------------------------- without some of the files


def test_nerfstudios_poses_are_colmaps(demo: Demo, copied: Path) -> None:
    """Without colmap/, the poses of nerfstudio/*.json serve; that their world is a turned one, no file says."""
    with_model = _read(copied)["dslr"]
    shutil.rmtree(copied / f"data/{ID}/dslr/colmap")
    without = _read(copied)["dslr"]
    assert without.model is None
    assert with_model.paths == without.paths
    assert with_model.cameras is not None
    assert without.cameras is not None
    np.testing.assert_allclose(with_model.cameras.cam_from_world, without.cameras.cam_from_world, atol=1e-12)
    assert with_model.cameras.intrinsics.tolist() == without.cameras.intrinsics.tolist()
    assert without.problem is None
    stored = demo.json(demo.train, "dslr/nerfstudio/transforms.json")["frames"][0]["transform_matrix"]
    naive = np.linalg.inv(np.array(stored))[:3]
    assert np.abs(naive - without.cameras.cam_from_world[0]).max() > 0.5


def test_a_broken_model_is_told_and_nerfstudios_poses_serve(copied: Path) -> None:
    (copied / f"data/{ID}/dslr/colmap/images.txt").write_text("1 2 3\n")
    stream = _read(copied)["dslr"]
    assert stream.problem == "bad_model"
    assert str(stream.detail).startswith(f"data/{ID}/dslr/colmap/images.txt, line 1")
    assert stream.cameras is not None
    assert np.isfinite(stream.cameras.cam_from_world[:30]).all()


def test_nothing_at_all_about_cameras(copied: Path) -> None:
    for part in ("colmap", "nerfstudio"):
        shutil.rmtree(copied / f"data/{ID}/dslr/{part}")
    stream = _read(copied)["dslr"]
    assert (stream.problem, stream.cameras, len(stream.paths)) == ("no_model", None, 31)


@pytest.mark.parametrize("change", ["gone", "no lens", "another world"])
def test_without_transforms_undistorted_no_intrinsics_are_known(copied: Path, change: str) -> None:
    """Rather none than the fisheye's."""
    path = copied / f"data/{ID}/dslr/nerfstudio/transforms_undistorted.json"
    document = json.loads(path.read_text())
    if change == "gone":
        path.unlink()
    else:
        document |= {"w": 0} if change == "no lens" else {"applied_transform": [[0] * 4] * 3}
        path.write_text(json.dumps(document))
    stream = _read(copied)["dslr"]
    assert stream.problem == ("bad_model" if change == "another world" else "no_intrinsics")
    assert "transforms_undistorted.json" in str(stream.detail)
    assert stream.cameras is not None
    assert np.isfinite(stream.cameras.cam_from_world[:30]).all()
    assert np.isnan(stream.cameras.intrinsics).all()
    assert not stream.cameras.size.any()
    assert set(stream.cameras.model) == {None}
    index("scannetpp", root=copied, catalogs=copied / "catalogs", workers=1)
    frames = catalog.read_frames("scannetpp", catalogs=copied / "catalogs")
    assert frames[frames["stream"] == "dslr"]["intrinsics_px"].isna().all()


def test_fisheye_pictures_have_the_models_lens_at_any_size(copied: Path) -> None:
    dslr = copied / f"data/{ID}/dslr"
    (dslr / "resized_undistorted_images").rename(dslr / "resized_images")
    (dslr / "resized_undistorted_masks").rename(dslr / "resized_anon_masks")
    frames = _catalog(copied)
    assert set(frames["camera_model"].dropna()) == {"OPENCV_FISHEYE"}
    first = frames.iloc[0]
    np.testing.assert_allclose(first["intrinsics_px"], [21.6, 21.6, 30, 20], rtol=1e-6)
    np.testing.assert_allclose(first["distortion"], [0.031, -0.012, 0.004, -0.0006], rtol=1e-6)
    assert "/resized_images/" in first["path"]
    assert "/resized_anon_masks/" in first["mask_path"]
    large = dslr / "original_images"
    for path in (dslr / "resized_images").iterdir():
        write_picture(large / path.name, 240, 160)
    shutil.rmtree(dslr / "resized_images")
    np.testing.assert_allclose(_catalog(copied).iloc[0]["intrinsics_px"], [86.4, 86.4, 120, 80], rtol=1e-6)
    # without the model, transforms.json has the same lens
    shutil.rmtree(dslr / "colmap")
    frames = _catalog(copied)
    assert set(frames["camera_model"]) == {"OPENCV_FISHEYE"}
    np.testing.assert_allclose(frames.iloc[30]["intrinsics_px"], [86.4, 86.4, 120, 80], rtol=1e-6)


def _catalog(root: Path) -> pd.DataFrame:
    index("scannetpp", root=root, catalogs=root / "catalogs", workers=1)
    frames = catalog.read_frames("scannetpp", catalogs=root / "catalogs")
    return frames[frames["stream"] == "dslr"]


def test_kinds_of_pictures_rank(copied: Path) -> None:
    """Those that MuM was trained on first; one kind is taken, not all of them."""
    dslr = copied / f"data/{ID}/dslr"
    best = dslr / "resized_undistorted_images"
    for kind in ("original_images", "resized_images", "undistorted_images"):
        shutil.copytree(best, dslr / kind)
        hidden = best.rename(dslr / "put_away")
        assert {path.split("/")[3] for path in _read(copied)["dslr"].paths} == {kind}
        hidden.rename(best)
        assert {path.split("/")[3] for path in _read(copied)["dslr"].paths} == {best.name}
    assert len(_read(copied)["dslr"].paths) == 31
    for path in best.iterdir():
        path.unlink()
    assert {path.split("/")[3] for path in _read(copied)["dslr"].paths} == {"undistorted_images"}


def test_renamed_endings_keep_their_frames(copied: Path) -> None:
    """The lists say .JPG; a copy with .jpg is the same picture, not one that is missing beside one in no list."""
    folder = copied / f"data/{ID}/dslr/resized_undistorted_images"
    before = _read(copied)["dslr"].paths
    for path in list(folder.iterdir()):
        path.rename(path.with_suffix(".jpg"))
    assert _read(copied)["dslr"].paths == tuple(path.replace(".JPG", ".jpg") for path in before)


def test_without_lists_nerfstudio_tells_the_test_pictures(copied: Path) -> None:
    dslr = copied / f"data/{ID}/dslr"
    before = _read(copied)["dslr"]
    (dslr / "train_test_lists.json").unlink()
    stream = _read(copied)["dslr"]
    assert (stream.paths, stream.eval_of) == (before.paths, before.eval_of)
    assert (before.problem, stream.problem) == (None, "no_lists")
    shutil.rmtree(dslr / "nerfstudio")
    (dslr / "resized_undistorted_images/DSC00002.JPG").unlink()
    stream = _read(copied)["dslr"]
    # images on disk and those of the model, by number
    assert _names(stream.paths) == sorted(_names(before.paths))
    assert stream.eval_of == (None,) * 31
    assert "nothing tells the test pictures" in str(stream.detail)


BAD_LISTS = [
    [], 3, {}, {"train": []}, {"train": {}}, {"train": "DSC00001.JPG"}, {"train": [1]}, {"train": [None]},
    {"train": [""]}, {"train": ["../DSC00001.JPG"]}, {"train": ["a\0.JPG"]}, {"train": ["\udc00\ud800.JPG"]},
    {"train": ["9" * 5000 + ".JPG"]}, {"train": ["DSC09988.JPG"], "test": 3}, {"train": ["x.JPG"], "test": [[]]},
]  # fmt: skip


@pytest.mark.parametrize("lists", BAD_LISTS)
def test_lists_that_make_no_sense_are_told(copied: Path, lists: Any) -> None:
    (copied / f"data/{ID}/dslr/train_test_lists.json").write_text(json.dumps(lists))
    stream = _read(copied)["dslr"]
    assert stream.problem == "bad_lists"
    assert f"data/{ID}/dslr/train_test_lists.json" in str(stream.detail)
    assert len(stream.paths) == 31
    str(stream.detail).encode()


def test_a_name_that_is_listed_twice_is_one_frame(copied: Path) -> None:
    path = copied / f"data/{ID}/dslr/train_test_lists.json"
    lists = {"train": ["DSC09990.JPG", "DSC09989.JPG", "DSC09990.JPG"], "test": ["DSC09989.JPG", "DSC00025.JPG"]}
    path.write_text(json.dumps(lists))
    stream = _read(copied)["dslr"]
    assert _names(stream.paths)[:3] == ["DSC09990.JPG", "DSC09989.JPG", "DSC00025.JPG"]
    assert isinstance(stream.eval_of, tuple)
    assert stream.eval_of[:4] == (None, "scannetpp-nvs", "scannetpp-nvs", None)
    assert len(set(stream.paths)) == len(stream.paths) == 31


# ------------------------------------------------------------------------------------------------------------- iPhone


@pytest.mark.parametrize("prefix", ["", "iphone/", "video/"])
def test_prefixes_of_the_models_names_do_not_count(copied: Path, prefix: str) -> None:
    path = copied / f"data/{ID}/iphone/colmap/images.txt"
    before = _read(copied)["iphone"]
    assert " video/frame_000000.jpg" in path.read_text()
    path.write_text(path.read_text().replace(" video/", f" {prefix}"))
    stream = _read(copied)["iphone"]
    assert stream.paths == before.paths
    assert stream.cameras is not None
    assert before.cameras is not None
    np.testing.assert_array_equal(stream.cameras.cam_from_world, before.cameras.cam_from_world)
    assert np.isfinite(stream.cameras.cam_from_world).all(axis=(1, 2)).tolist() == [True] * 6 + [False] * 2


def test_without_the_model_arkits_aligned_pose_serves(demo: Demo, copied: Path) -> None:
    """`pose` is in ARKit's own world: the naive choice is another place."""
    shutil.rmtree(copied / f"data/{ID}/iphone/colmap")
    truth, stream = demo.truth(demo.train, "iphone"), _read(copied)["iphone"]
    assert stream.cameras is not None
    np.testing.assert_allclose(stream.cameras.cam_from_world, truth["cam_from_world"], atol=1e-12)
    assert stream.cameras.size.tolist() == [[1920, 1440]] * 8
    assert stream.problem is None
    record = demo.json(demo.train, "iphone/pose_intrinsic_imu.json")["frame_000000"]
    naive = np.linalg.inv(np.array(record["pose"]))[:3]
    assert np.abs(naive - truth["cam_from_world"][0]).max() > 0.5


def test_flat_matrices_are_read_as_well(copied: Path) -> None:
    shutil.rmtree(copied / f"data/{ID}/iphone/colmap")
    before = _read(copied)["iphone"].cameras
    path = copied / f"data/{ID}/iphone/pose_intrinsic_imu.json"
    document = json.loads(path.read_text())
    for record in document.values():
        for key in ("aligned_pose", "intrinsic"):
            record[key] = [value for row in record[key] for value in row]
    path.write_text(json.dumps(document))
    after = _read(copied)["iphone"].cameras
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(before.cam_from_world, after.cam_from_world)
    np.testing.assert_array_equal(before.intrinsics, after.intrinsics)


def test_frames_of_the_video_that_nobody_unpacked_are_not_missing(copied: Path) -> None:
    """pose_intrinsic_imu.json knows all 60 a second; the model's are those that should be there."""
    iphone = copied / f"data/{ID}/iphone"
    document = json.loads((iphone / "pose_intrinsic_imu.json").read_text())
    document["frame_000001"] = document["frame_000000"]
    (iphone / "pose_intrinsic_imu.json").write_text(json.dumps(document))
    (iphone / "rgb/frame_000020.jpg").unlink()
    stems = [f"frame_{number:06d}.jpg" for number in (0, 10, 20, 30, 40, 50, 60, 70)]
    assert _names(_read(copied)["iphone"].paths) == stems
    shutil.rmtree(iphone / "colmap")
    assert _names(_read(copied)["iphone"].paths) == [*stems[:2], *stems[3:]]


def test_a_video_that_is_not_unpacked_says_so(copied: Path) -> None:
    iphone = copied / f"data/{ID}/iphone"
    shutil.rmtree(iphone / "rgb")
    stream = _read(copied)["iphone"]
    assert (stream.problem, stream.paths, stream.detail) == ("empty", (), "no rgb/ and no video")
    (iphone / "rgb.mkv").write_bytes(b"x")
    assert "rgb.mkv is not unpacked" in str(_read(copied)["iphone"].detail)
    index("scannetpp", root=copied, catalogs=copied / "catalogs", workers=1)
    scenes = catalog.read_scenes("scannetpp", catalogs=copied / "catalogs")
    assert scenes.set_index("stream")["status"].to_dict() == {"dslr": "partial_poses", "iphone": "empty"}


def test_broken_records_cost_their_own_frame(copied: Path) -> None:
    iphone = copied / f"data/{ID}/iphone"
    shutil.rmtree(iphone / "colmap")
    document = json.loads((iphone / "pose_intrinsic_imu.json").read_text())
    document["frame_000010"]["aligned_pose"][0] = [0, 0, 0, 0]
    document["frame_000020"]["intrinsic"] = [[-1, 0, 0]] * 3
    document["frame_000030"] = None
    document["frame_000040"]["timestamp"] = "late"
    del document["frame_000050"]
    (iphone / "pose_intrinsic_imu.json").write_text(json.dumps(document))
    stream = _read(copied)["iphone"]
    assert (stream.problem, len(stream.paths)) == ("partial_poses", 8)
    assert "3 frames without a usable camera" in str(stream.detail)
    assert stream.cameras is not None
    known = np.isfinite(stream.cameras.cam_from_world).all(axis=(1, 2))
    assert known.tolist() == [True, False, True, False, True, False, True, True]
    assert np.isnan(stream.cameras.intrinsics[2]).all()
    assert stream.timestamps_s is not None
    assert np.isnan(stream.timestamps_s).tolist() == [False, False, False, True, True, True, False, False]
    (iphone / "pose_intrinsic_imu.json").write_text("[]")
    stream = _read(copied)["iphone"]
    assert (stream.problem, stream.cameras, stream.timestamps_s) == ("bad_model", None, None)


# ------------------------------------------------------------------------------------------------------------- scenes


def test_the_data_folder_as_root_is_refused_where_lists_lie_beside_it(demo: Demo, tmp_path: Path) -> None:
    """Naive: no lists are found, and every evaluation scene is mined."""
    with pytest.raises(LayoutError, match=r"give .*/scannetpp as the root"):
        scannetpp.scenes(Tree(demo.root / "data"))
    shutil.copytree(demo.root / "data", tmp_path / "data")
    tree = Tree(tmp_path / "data")
    found = scannetpp.scenes(tree)
    assert [scene.split for scene in found] == [None] * 3
    (scene,) = (scene for scene in found if scene.scene == demo.train)
    streams = {stream.stream: stream for stream in scannetpp.read(tree, scene)}
    assert streams["dslr"].paths[0] == f"{demo.train}/dslr/resized_undistorted_images/DSC09988.JPG"


def test_a_scene_of_several_lists_belongs_to_the_strictest(tmp_path: Path) -> None:
    (tmp_path / "data" / ID).mkdir(parents=True)
    (tmp_path / "data" / "notascene").mkdir()
    (tmp_path / "splits").mkdir()
    assert scannetpp.scenes(Tree(tmp_path)) == [Scene(None, ID, (f"data/{ID}",))]
    for split in ("nvs_sem_train", "nvs_sem_val", "sem_test", "nvs_test_iphone", "nvs_test"):
        (tmp_path / f"splits/{split}.txt").write_text(f"ffffffffff\r\n{ID}\n\n")
        assert scannetpp.scenes(Tree(tmp_path)) == [Scene(split, ID, (f"data/{ID}",))]
    (stream,) = _read(tmp_path).values()
    assert (stream.stream, stream.problem, stream.detail) == (None, "empty", "neither dslr nor iphone")
    assert stream.eval_of == "scannetpp-nvs"


def test_a_dslr_without_pictures_is_empty(copied: Path) -> None:
    shutil.rmtree(copied / f"data/{ID}/dslr/resized_undistorted_images")
    stream = _read(copied)["dslr"]
    assert (stream.problem, stream.paths) == ("empty", ())
    assert "30 listed" in str(stream.detail)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data" / "scene").mkdir(parents=True)
    with pytest.raises(LayoutError, match="does not look like scannetpp"):
        scannetpp.scenes(Tree(tmp_path))


def test_listing_looks_into_no_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        (tmp_path / "data" / f"{number:010x}" / "dslr").mkdir(parents=True)
    looked: list[str] = []
    scan = Tree._scan

    def counted(self: Tree, folder: str) -> Any:
        looked.append(folder)
        return scan(self, folder)

    monkeypatch.setattr(Tree, "_scan", counted)
    assert len(scannetpp.scenes(Tree(tmp_path))) == 50
    assert looked == ["data"]


def _mutants(whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    rng = np.random.default_rng(seed)
    for number in range(count):
        data = bytearray(whole)
        if number % 3 == 0:
            yield bytes(data[: rng.integers(len(data))])
            continue
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            data[place] = rng.choice(list(b'0123456789-.eE"[]{},:NaInfty\\\xff\n '))
        yield bytes(data)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("dslr/colmap/cameras.txt", 10),
        ("dslr/colmap/images.txt", 10),
        ("dslr/train_test_lists.json", 60),
        ("dslr/nerfstudio/transforms_undistorted.json", 60),
        ("iphone/pose_intrinsic_imu.json", 60),
    ],
)
def test_mutilated_files_never_end_in_a_traceback(copied: Path, name: str, count: int) -> None:
    base = copied / f"data/{ID}"
    if "colmap" not in name:  # so that the other files are what counts
        for stream in ("dslr", "iphone"):
            shutil.rmtree(base / stream / "colmap")
    path = base / name
    for data in _mutants(path.read_bytes(), count, len(name)):
        path.write_bytes(data)
        streams = _read(copied)
        assert len(streams["dslr"].paths) >= 31
        assert len(streams["iphone"].paths) == 8
        for stream in streams.values():
            if stream.cameras is not None:
                poses = stream.cameras.cam_from_world
                assert (np.isfinite(poses).all(axis=(1, 2)) | np.isnan(poses).all(axis=(1, 2))).all()
