"""DL3DV-10K: scenes, order and cameras of a rendered world whose truth is known, and trees in which something is wrong.

Nerfstudio's transforms.json, which ScanNet++ has as well, is tested here.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from mumdata import catalog
from mumdata.datasets import Scene, Stream, dl3dv, nerfstudio
from mumdata.demo import world as world_module
from mumdata.demo.album import SIZES, Model, build_place
from mumdata.demo.camera import Camera
from mumdata.demo.render import picture
from mumdata.errors import LayoutError
from mumdata.geometry import project
from mumdata.index import index
from mumdata.schema import QUARANTINE
from mumdata.sequences import mine_sequences
from mumdata.tree import Tree

from .conftest import render, write_picture

HASH = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4

# scene of the demo by the place it was filmed at
VILLA, TEMPLE, LIVING_ROOM, ATTIC = range(4)


@dataclass(frozen=True)
class Demo:
    root: Path
    catalogs: Path
    frames: pd.DataFrame
    scenes: pd.DataFrame
    hashes: tuple[str, ...]
    models: tuple[Model, ...]
    places: tuple[str, ...]

    def of(self, number: int) -> pd.DataFrame:
        return self.frames[self.frames["scene"] == self.hashes[number]]

    def scene(self, number: int) -> pd.Series:
        return self.scenes[self.scenes["scene"] == self.hashes[number]].iloc[0]

    def truth(self, number: int) -> dict[str, np.ndarray]:
        with np.load(self.root.parent / "truth/dl3dv" / self.hashes[number] / "0.npz") as file:
            return dict(file)

    def folder(self, number: int) -> Path:
        return next(self.root.glob(f"*/{self.hashes[number]}"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    out = tmp_path_factory.mktemp("dl3dv")
    layout = world_module.LAYOUTS["dl3dv"]
    render("dl3dv", out)
    index("dl3dv", root=out / "dl3dv", catalogs=out / "catalogs", workers=1)
    albums = layout(0, SIZES["tiny"]).albums
    return Demo(
        out / "dl3dv",
        out / "catalogs",
        catalog.read_frames("dl3dv", catalogs=out / "catalogs"),
        catalog.read_scenes("dl3dv", catalogs=out / "catalogs"),
        tuple(album.models[0].truth.split("/")[0] for album in albums),
        tuple(album.models[0] for album in albums),
        tuple(album.place for album in albums),
    )


def _pose(row: Any) -> np.ndarray:
    return np.array(row.cam_from_world, np.float64).reshape(3, 4)


# ------------------------------------------------------------------------------------------------ what the demo holds


def test_a_hash_is_a_scene_and_its_frames_are_all_images_by_number(demo: Demo) -> None:
    """Also those that transforms.json does not list, and the one that it lists and nobody has."""
    assert [len(demo.of(number)) for number in range(4)] == [30, 8, 10, 8]
    for number in range(4):
        rows = demo.of(number)
        assert [int(path[-9:-4]) for path in rows["path"]] == list(range(1, len(rows) + 1))
        assert rows["frame"].tolist() == list(range(len(rows)))
        assert set(rows["group"]) == {demo.hashes[number]}
        assert rows["split"].isna().all()
        assert rows["stream"].isna().all()
        assert rows["eval_of"].isna().all()
    assert demo.frames["status"].value_counts().to_dict() == {"ok": 55, "missing": 1}
    lost = demo.frames[demo.frames["status"] == "missing"].iloc[0]
    assert lost["path"] == f"11K/{demo.hashes[LIVING_ROOM]}/images_8/frame_00006.png"


def test_of_two_resolutions_the_smaller_is_taken(demo: Demo) -> None:
    assert {path.name for path in demo.folder(TEMPLE).iterdir()} == {"images_4", "images_8", "transforms.json"}
    rows = demo.of(TEMPLE)
    assert all("/images_8/" in path for path in rows["path"])
    assert set(zip(rows["width"], rows["height"], strict=True)) == {(64, 36)}


def test_scenes_say_what_is_wrong_with_them(demo: Demo) -> None:
    assert [demo.scene(number)["status"] for number in range(4)] == [
        "partial_poses",
        "complete",
        "doubtful",
        "no_model",
    ]
    assert [demo.scene(number)["num_posed"] for number in range(4)] == [28, 8, 5, 0]
    assert "28 of 30" in demo.scene(VILLA)["detail"]
    assert "'problem'" in demo.scene(LIVING_ROOM)["detail"]
    assert "1 missing" in demo.scene(LIVING_ROOM)["detail"]
    assert demo.scene(ATTIC)["detail"] == "no transforms.json"


def test_the_rule_takes_whole_scenes(demo: Demo) -> None:
    mine_sequences("dl3dv", catalogs=demo.catalogs, workers=1)
    sequences = catalog.read_sequences("dl3dv", catalogs=demo.catalogs)
    assert set(sequences["rule"]) == {"scene"}
    by_scene = {row.scene: list(row.frames) for row in sequences.itertuples()}
    assert set(by_scene) == set(demo.hashes)
    for number in range(4):
        rows = demo.of(number)
        assert by_scene[demo.hashes[number]] == rows.index[rows["status"] == "ok"].tolist()


# ------------------------------------------------------------------------------------------------------------ cameras


@pytest.mark.parametrize("number", [VILLA, TEMPLE, LIVING_ROOM])
def test_points_are_where_the_renderer_puts_them(demo: Demo, number: int) -> None:
    truth, rows = demo.truth(number), demo.of(number)
    posed = {VILLA: range(28), TEMPLE: range(8), LIVING_ROOM: range(3, 8)}[number]
    assert [row.frame for row in rows.itertuples() if row.cam_from_world is not None] == list(posed)
    for row in rows.itertuples():
        # transforms.json states the video's size, eight times that of images_8: naive intrinsics are eightfold
        if row.status == "missing":  # nothing but that size is known of it
            np.testing.assert_allclose(row.intrinsics_px, 8 * truth["intrinsics"][row.frame], rtol=1e-6)
            continue
        np.testing.assert_allclose(row.intrinsics_px, truth["intrinsics"][row.frame], rtol=1e-6)
        assert row.camera_model == "OPENCV"
        if row.cam_from_world is None:
            continue
        name = row.path.rpartition("/")[2]
        place = truth["names"].tolist().index(name)
        seen = np.flatnonzero(truth["visible"][place])
        assert len(seen) > 100
        points, lens = truth["points"][seen], truth["intrinsics"][place]
        found, depth = project(points, _pose(row), row.camera_model, row.intrinsics_px, row.distortion)
        wanted, true_depth = project(
            points, truth["cam_from_world"][place], "SIMPLE_RADIAL", lens, truth["distortion"][place]
        )
        assert np.abs(found - wanted).max() < 0.01
        np.testing.assert_allclose(depth, true_depth, rtol=1e-5)


def _in_place(model: Model, cam_from_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take a camera out of a model's gauge: rotation and centre in the place that was rendered."""
    gauge, turned = model.gauge, np.array(model.gauge.rotation).reshape(3, 3)
    centre = -cam_from_world[:, :3].T @ cam_from_world[:, 3]
    return cam_from_world[:, :3] @ turned, turned.T @ (centre - np.array(gauge.shift)) / gauge.scale


def _rendered(
    demo: Demo, number: int, row: Any, change: Callable[[dict[str, Any]], None] = lambda values: None
) -> float:
    """Render what the catalog's camera sees and return how far it is from the stored picture, mean of all pixels."""
    values = {
        "cam_from_world": _pose(row),
        "lens": np.array(row.intrinsics_px, np.float64),
        "radial": float(row.distortion[0]),
    }
    change(values)
    rotation, centre = _in_place(demo.models[number], values["cam_from_world"])
    focal, _, cx, cy = (float(value) for value in values["lens"])
    camera = Camera(
        int(row.width), int(row.height), focal, cx, cy, tuple(rotation.reshape(-1)), tuple(centre), values["radial"]
    )
    shown = picture(build_place(demo.places[number], 0), camera)
    stored = cv2.imread(str(demo.root / row.path))[:, :, ::-1]
    return float(np.abs(shown.astype(float) - stored).mean())


def test_the_stored_pictures_are_what_the_cameras_see(demo: Demo) -> None:
    """A renderer that is given the catalog's camera makes the stored picture; with each naive camera it does not."""

    def half_a_pixel(values: dict[str, Any]) -> None:
        values["lens"][2:] += 0.5

    def without_distortion(values: dict[str, Any]) -> None:
        values["radial"] = 0.0

    def opengl_axes(values: dict[str, Any]) -> None:
        values["cam_from_world"] = np.diag([1.0, -1.0, -1.0]) @ values["cam_from_world"]

    def turned_world(values: dict[str, Any]) -> None:
        # the pose as it stands in the file, in Nerfstudio's world
        turn = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
        pose = values["cam_from_world"]
        values["cam_from_world"] = np.concatenate([pose[:, :3] @ turn.T, pose[:, 3:]], axis=1)

    for number, frame in ((VILLA, 4), (VILLA, 20), (LIVING_ROOM, 4)):
        row = next(row for row in demo.of(number).itertuples() if row.frame == frame)
        right = _rendered(demo, number, row)
        assert right < 0.05
        for naive in (half_a_pixel, without_distortion, opengl_axes, turned_world):
            assert _rendered(demo, number, row, naive) > 2.0, naive.__name__


def test_poses_are_joined_by_name_and_not_by_position(demo: Demo) -> None:
    """Five of ten frames are listed: the naive join of the list with the sorted files starts with the wrong frame."""
    rows, truth = demo.of(LIVING_ROOM), demo.truth(LIVING_ROOM)
    poses = rows["cam_from_world"].tolist()
    assert [pose is None for pose in poses] == [frame not in range(3, 8) for frame in range(10)]
    first = np.array(poses[3], np.float64).reshape(3, 4)
    np.testing.assert_allclose(first, truth["cam_from_world"][3], atol=1e-5)
    assert np.abs(first - truth["cam_from_world"][0]).max() > 0.1


def test_an_upright_video_keeps_its_sides(demo: Demo) -> None:
    rows = demo.of(LIVING_ROOM)
    shown = rows[rows["status"] == "ok"]
    assert set(zip(shown["width"], shown["height"], strict=True)) == {(36, 64)}
    assert tuple(shown.iloc[0]["intrinsics_px"][2:]) == (18.0, 32.0)


def test_tracks_come_from_the_model_beside(demo: Demo) -> None:
    truth, rows = demo.truth(VILLA), demo.of(VILLA)
    assert rows["num_points"].tolist() == truth["visible"].sum(axis=1).tolist()
    # transforms.json and the model are in one world: their poses agree
    stream = _read(demo.root, demo.hashes[VILLA])
    assert stream.model is not None
    assert stream.cameras is not None
    posed = slice(0, 28)
    np.testing.assert_allclose(
        stream.model.cam_from_world[stream.rows][posed], stream.cameras.cam_from_world[posed], atol=1e-12
    )


def test_a_frame_that_the_model_does_not_know_shares_nothing(demo: Demo, tmp_path: Path) -> None:
    """Its row in the model is not that of another frame: the naive -1 is the last one's."""
    root = tmp_path / "root"
    target = root / "1K" / demo.hashes[VILLA]
    shutil.copytree(demo.folder(VILLA), target)
    shutil.copy(target / "images_8/frame_00011.png", target / "images_8/frame_00005b.png")
    index("dl3dv", root=root, catalogs=tmp_path / "catalogs", workers=1)
    frames = catalog.read_frames("dl3dv", catalogs=tmp_path / "catalogs")
    names = [path.rpartition("/")[2] for path in frames["path"]]
    assert names[3:7] == ["frame_00004.png", "frame_00005.png", "frame_00005b.png", "frame_00006.png"]
    visible = demo.truth(VILLA)["visible"].astype(np.int64)
    assert frames["num_points"].tolist() == np.insert(visible.sum(axis=1), 5, 0).tolist()
    mine_sequences("dl3dv", rule="chain-overlap", catalogs=tmp_path / "catalogs", workers=1, per_scene=2)
    pairs = catalog.read_covisibility("dl3dv", catalogs=tmp_path / "catalogs")
    assert 5 not in {*pairs["frame_a"], *pairs["frame_b"]}
    known = np.insert(np.arange(30), 5, -1)
    shared = visible @ visible.T
    for pair in pairs.itertuples():
        assert pair.shared_points == shared[known[pair.frame_a], known[pair.frame_b]]


# ------------------------------------------------------------------------------------------- transforms.json by itself

NEWER_WORLD = [[1.0, 0.0, 0.0, 0.3], [0.0, 0.0, 1.0, -0.2], [0.0, -1.0, 0.0, 0.1]]


def _camera(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(random_state=seed).as_matrix()
    return np.concatenate([rotation, rng.normal(size=(3, 1))], axis=1)


def _exported(cam_from_world: np.ndarray, applied: Any = None, scale: float = 1.0) -> list[list[float]]:
    """Do what Nerfstudio does with COLMAP's pose: invert, turn the camera's axes, then the world, then scale."""
    world_from_cam = np.linalg.inv(np.vstack([cam_from_world, [0, 0, 0, 1]]))
    world_from_cam[:3, 1:3] *= -1
    if applied is not None:
        world_from_cam = np.vstack([applied, [0, 0, 0, 1]]) @ world_from_cam
    world_from_cam[:3, 3] *= scale
    return world_from_cam.tolist()


def _document(num: int = 3, applied: Any = None, scale: float = 1.0, **more: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "w": 320, "h": 240, "fl_x": 300.0, "fl_y": 310.0, "cx": 161.0, "cy": 118.0,
        "k1": 0.1, "k2": -0.02, "p1": 0.003, "p2": -0.004, "camera_model": "OPENCV",
        "frames": [
            {"file_path": f"images/frame_{i + 1:05d}.png", "transform_matrix": _exported(_camera(i), applied, scale)}
            for i in range(num)
        ],
    }  # fmt: skip
    if applied is not None:
        document["applied_transform"] = applied
    if scale != 1.0:
        document["applied_scale"] = scale
    return {**document, **more}


def _written(root: Path, document: Any) -> Tree:
    root.mkdir(parents=True, exist_ok=True)
    (root / "transforms.json").write_text(json.dumps(document))
    return Tree(root)


@pytest.mark.parametrize(
    ("applied", "scale"),
    [(None, 1.0), (NEWER_WORLD, 1.0), (NEWER_WORLD, 0.37), (nerfstudio.OLD_WORLD.tolist(), 1.0)],
)
def test_nerfstudios_world_is_undone(tmp_path: Path, applied: Any, scale: float) -> None:
    """By the inverse of `applied_transform`: that the older one is its own inverse hides the naive use of itself."""
    found = nerfstudio.read_transforms(_written(tmp_path, _document(5, applied, scale)), "transforms.json")
    assert found.frames == tuple(f"frame_{i + 1:05d}" for i in range(5))
    for i, stem in enumerate(found.frames):
        np.testing.assert_allclose(found.views[stem].cam_from_world, _camera(i), atol=1e-12)
    if applied is NEWER_WORLD:
        naive = _exported(_camera(0), np.array(NEWER_WORLD))
        assert np.abs(np.array(naive)[:3, 3] - np.linalg.inv(np.vstack([_camera(0), [0, 0, 0, 1]]))[:3, 3]).max() > 0.1


def test_a_world_that_the_file_does_not_name_is_given(tmp_path: Path) -> None:
    document = _document(2, nerfstudio.OLD_WORLD.tolist())
    del document["applied_transform"]
    tree = _written(tmp_path, document)
    found = nerfstudio.read_transforms(tree, "transforms.json", nerfstudio.OLD_WORLD)
    np.testing.assert_allclose(found.views["frame_00002"].cam_from_world, _camera(1), atol=1e-12)
    left = nerfstudio.read_transforms(tree, "transforms.json")
    assert np.abs(left.views["frame_00002"].cam_from_world - _camera(1)).max() > 0.1


@pytest.mark.parametrize(
    ("more", "model", "distortion"),
    [
        ({}, "OPENCV", (0.1, -0.02, 0.003, -0.004)),
        ({"camera_model": None}, "OPENCV", (0.1, -0.02, 0.003, -0.004)),
        ({"camera_model": "PINHOLE"}, "OPENCV", (0.1, -0.02, 0.003, -0.004)),
        ({"camera_model": "PINHOLE", "k1": 0, "k2": 0, "p1": 0, "p2": 0.0}, "PINHOLE", ()),
        ({"camera_model": "OPENCV_FISHEYE", "k3": 0.5, "k4": 0.25}, "OPENCV_FISHEYE", (0.1, -0.02, 0.5, 0.25)),
    ],
)
def test_lenses_have_colmaps_names(tmp_path: Path, more: Any, model: str, distortion: Any) -> None:
    found = nerfstudio.read_transforms(_written(tmp_path, _document(**more)), "transforms.json")
    lens = nerfstudio.Lens(model, (320, 240), (300.0, 310.0, 161.0, 118.0), distortion)
    assert found.lens == lens
    assert {view.lens for view in found.views.values()} == {lens}


def test_frames_may_have_lenses_of_their_own(tmp_path: Path) -> None:
    document = _document()
    document["frames"][1] |= {"fl_x": 150.0, "fl_y": 155.0, "w": 160, "h": 120, "cx": 80, "cy": 60}
    del document["fl_x"]
    found = nerfstudio.read_transforms(_written(tmp_path, document), "transforms.json")
    assert found.lens is None
    assert found.views["frame_00001"].lens is None
    lens = found.views["frame_00002"].lens
    assert lens == nerfstudio.Lens("OPENCV", (160, 120), (150.0, 155.0, 80.0, 60.0), (0.1, -0.02, 0.003, -0.004))


@pytest.mark.parametrize(
    "more",
    [
        {"fl_x": 0}, {"fl_y": -3.0}, {"fl_x": "wide"}, {"fl_x": float("nan")}, {"fl_x": 10**400}, {"fl_x": True},
        {"w": 0}, {"w": 320.5}, {"h": None}, {"h": 1 << 40}, {"cx": None}, {"cy": 1e300}, {"k1": [1]},
        {"camera_model": "SPHERE"}, {"camera_model": ["OPENCV"]}, {"k3": 0.1},
    ],
)  # fmt: skip
def test_a_lens_that_makes_no_sense_is_no_lens(tmp_path: Path, more: Any) -> None:
    found = nerfstudio.read_transforms(_written(tmp_path, _document(**more)), "transforms.json")
    assert found.lens is None
    assert len(found.problems) == 1
    assert all(view.lens is None and view.cam_from_world is not None for view in found.views.values())


BAD_MATRICES = [
    None, "none", 7, [], [[1.0]], [[1, 0, 0, 0]] * 5, [[0] * 4] * 4, [[float("nan")] * 4] * 4, [[1e300] * 4] * 4,
    [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]],  # a mirror image
    [[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],  # sheared
    [[1, 0, 0, {}], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], [[1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
]  # fmt: skip


@pytest.mark.parametrize("matrix", BAD_MATRICES)
def test_one_frame_that_makes_no_sense_is_told_and_costs_no_other(tmp_path: Path, matrix: Any) -> None:
    document = _document()
    document["frames"][1]["transform_matrix"] = matrix
    document["frames"] += [None, {}, {"file_path": 3}, {"file_path": "images/"}, {"file_path": "\ud800.png"}]
    document["frames"] += [{"file_path": "a\0b.png"}, {"file_path": "9" * 5000}, dict(document["frames"][0])]
    found = nerfstudio.read_transforms(_written(tmp_path, document), "transforms.json")
    assert found.frames == ("frame_00001", "frame_00002", "frame_00003")
    assert [found.views[stem].cam_from_world is None for stem in found.frames] == [False, True, False]
    assert len(found.problems) == 9
    assert found.summary is not None
    assert found.summary.endswith("(and 8 more)")
    assert "frames[1]" in found.summary


@pytest.mark.parametrize(
    "document",
    [
        [], 3, {}, {"frames": {}}, {"frames": None}, _document(applied_transform=[[1, 0], [0, 1]]),
        _document(applied_transform=[[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]), _document(applied_scale=0),
        _document(applied_scale="1"),
    ],
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_refused_by_name(tmp_path: Path, document: Any) -> None:
    with pytest.raises(LayoutError, match=r"transforms\.json"):
        nerfstudio.read_transforms(_written(tmp_path, document), "transforms.json")


# --------------------------------------------------------------------------------------------- trees written by hand


def _scene(root: Path, folder: str, num: int = 3, size: tuple[int, int] = (40, 30), suffix: str = "png") -> Path:
    for number in range(1, num + 1):
        write_picture(root / folder / f"frame_{number:05d}.{suffix}", *size, seed=number)
    return root / folder


def _read(root: Path, name: str = HASH) -> Stream:
    tree = Tree(root, dl3dv.SPEC.archives)
    scene = next(scene for scene in dl3dv.scenes(tree) if scene.scene == name)
    (stream,) = dl3dv.read(tree, scene)
    return stream


def _names(stream: Stream) -> list[str]:
    return [path.rpartition("/")[2] for path in stream.paths]


@pytest.mark.parametrize("inner", ["", f"/{HASH}", "/nerfstudio", f"/{HASH}/nerfstudio"])
@pytest.mark.parametrize("top", ["", "3K/"])
def test_every_known_place_of_a_scene_is_read(tmp_path: Path, top: str, inner: str) -> None:
    folder = f"{top}{HASH}{inner}"
    _scene(tmp_path, f"{folder}/images_4")
    _written(tmp_path / folder, _document())
    stream = _read(tmp_path)
    assert stream.paths[0] == f"{folder}/images_4/frame_00001.png"
    assert stream.problem is None
    assert stream.cameras is not None
    np.testing.assert_allclose(stream.cameras.cam_from_world[2], _camera(2), atol=1e-12)
    assert stream.cameras.size.tolist() == [[320, 240]] * 3


@pytest.mark.parametrize("level", ["images_8", "images_4", "images_2", "images"])
def test_every_resolution_is_read_with_intrinsics_of_its_size(tmp_path: Path, level: str) -> None:
    """2K videos have levels of half the size: what counts is the size in transforms.json, not the folder's name."""
    _scene(tmp_path, f"1K/{HASH}/{level}", size=(80, 60))
    _written(tmp_path / "1K" / HASH, _document())
    index("dl3dv", root=tmp_path, catalogs=tmp_path / "catalogs", workers=1)
    frames = catalog.read_frames("dl3dv", catalogs=tmp_path / "catalogs")
    np.testing.assert_allclose(frames.iloc[1]["intrinsics_px"], [75.0, 77.5, 40.25, 29.5])
    np.testing.assert_allclose(frames.iloc[1]["distortion"], [0.1, -0.02, 0.003, -0.004], rtol=1e-6)


def test_levels_rank_from_small_to_large(tmp_path: Path) -> None:
    for level, wanted in (("images", "images"), ("images_2", "images_2"), ("images_4", "images_4"), ("images_8",) * 2):
        _scene(tmp_path, f"1K/{HASH}/{level}", 1)
        assert _read(tmp_path).paths == (f"1K/{HASH}/{wanted}/frame_00001.png",)
    for path in (tmp_path / "1K" / HASH / "images_8").iterdir():
        path.unlink()
    assert _read(tmp_path).paths == (f"1K/{HASH}/images_4/frame_00001.png",)


def test_frames_go_by_number_and_not_by_text(tmp_path: Path) -> None:
    for number in (9, 10, 99999, 100000):
        write_picture(tmp_path / "1K" / HASH / "images_8" / f"frame_{number}.png")
    names = _names(_read(tmp_path))
    assert names == ["frame_9.png", "frame_10.png", "frame_99999.png", "frame_100000.png"]
    assert names != sorted(names)


def test_files_that_are_no_frames_are_named(tmp_path: Path) -> None:
    folder = _scene(tmp_path, f"1K/{HASH}/images_8")
    for name in ("._frame_00001.png", "notes.txt"):
        (folder / name).write_bytes(b"x")
    write_picture(folder / "frame_00002.jpg")
    stream = _read(tmp_path)
    assert _names(stream) == ["frame_00001.png", "frame_00002.jpg", "frame_00003.png"]
    reasons = {path.rpartition("/")[2]: reason for path, reason, _ in stream.ignored}
    assert reasons == {"._frame_00001.png": "hidden", "notes.txt": "unexpected_name", "frame_00002.png": "named_twice"}


def test_pictures_stored_in_another_format_keep_their_poses(tmp_path: Path) -> None:
    _scene(tmp_path, f"1K/{HASH}/images_8", 2, suffix="jpg")
    _written(tmp_path / "1K" / HASH, _document(3))
    stream = _read(tmp_path)
    assert _names(stream) == ["frame_00001.jpg", "frame_00002.jpg", "frame_00003.jpg"]
    assert stream.cameras is not None
    assert np.isfinite(stream.cameras.cam_from_world).all()


def test_a_list_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    _scene(tmp_path, f"1K/{HASH}/images_8", 1)
    document = _document(4)
    for frame, path in zip(document["frames"], ("../../../x.png", "/etc/passwd", "..", "a\\..\\b.png"), strict=True):
        frame["file_path"] = path
    _written(tmp_path / "1K" / HASH, document)
    stream = _read(tmp_path)
    assert len(stream.paths) == 5
    for path in stream.paths:
        folder, _, name = path.rpartition("/")
        assert folder == f"1K/{HASH}/images_8"
        assert name not in ("", ".", "..")
    index("dl3dv", root=tmp_path, catalogs=tmp_path / "catalogs", workers=1)
    statuses = catalog.read_frames("dl3dv", catalogs=tmp_path / "catalogs")["status"].value_counts().to_dict()
    assert statuses == {"ok": 1, "missing": 4}


def test_without_transforms_the_model_gives_the_poses(demo: Demo, tmp_path: Path) -> None:
    target = tmp_path / "1K" / HASH
    shutil.copytree(demo.folder(VILLA), target)
    (target / "transforms.json").unlink()
    truth, stream = demo.truth(VILLA), _read(tmp_path)
    assert stream.problem is None
    assert stream.cameras is not None
    np.testing.assert_allclose(stream.cameras.cam_from_world, truth["cam_from_world"], atol=1e-12)
    np.testing.assert_allclose(stream.cameras.intrinsics, truth["intrinsics"])
    (target / "images_8/frame_00007.png").unlink()
    assert _read(tmp_path).paths == stream.paths
    (target / "colmap/sparse/0/images.bin").write_bytes(b"cut")
    stream = _read(tmp_path)
    assert stream.problem == "bad_model"
    assert stream.detail is not None
    assert stream.detail.startswith(f"1K/{HASH}/colmap/sparse/0/images.bin")
    assert len(stream.paths) == 29
    assert stream.cameras is None


def test_the_samples_model_is_found(demo: Demo, tmp_path: Path) -> None:
    target = tmp_path / HASH
    shutil.copytree(demo.folder(VILLA), target / "nerfstudio", ignore=shutil.ignore_patterns("colmap"))
    shutil.copytree(demo.folder(VILLA) / "colmap", target / "colmap/colmap")
    stream = _read(tmp_path)
    assert stream.paths[0] == f"{HASH}/nerfstudio/images_8/frame_00001.png"
    assert stream.model is not None
    assert stream.problem is None


def test_a_broken_transforms_costs_the_poses_and_not_the_images(tmp_path: Path) -> None:
    _scene(tmp_path, f"1K/{HASH}/images_8")
    _written(tmp_path / "1K" / HASH, {"frames": 1})
    stream = _read(tmp_path)
    assert (stream.problem, len(stream.paths), stream.cameras) == ("bad_model", 3, None)
    assert f"1K/{HASH}/transforms.json" in str(stream.detail)


def test_a_scene_without_images_is_empty_and_says_how_many_are_listed(tmp_path: Path) -> None:
    _written(tmp_path / "1K" / HASH, _document(3))
    stream = _read(tmp_path)
    assert (stream.problem, stream.paths) == ("empty", ())
    assert "3 listed" in str(stream.detail)


def test_labels_and_the_benchmarks_list_are_read(tmp_path: Path) -> None:
    for name in (HASH, OTHER):
        _scene(tmp_path, f"1K/{name}/images_8", 1)
    (tmp_path / ".cache").mkdir()
    lines = ["hash,sensibility label,batch,duration", f"{HASH},no problem at all,1K,3", f"{OTHER},x,problem,3", "cut"]
    (tmp_path / ".cache/DL3DV-valid.csv").write_text("\n".join(lines))
    (tmp_path / "benchmark-meta.csv").write_text(f"index,hash,kind\n0,{HASH},indoor\n")
    first, second = _read(tmp_path, HASH), _read(tmp_path, OTHER)
    assert (first.problem, first.eval_of) == ("no_model", "dl3dv-benchmark")
    assert (second.problem, second.eval_of) == ("no_model", None)
    assert "'problem'" in str(second.detail)
    assert "'problem'" not in str(first.detail)
    _written(tmp_path / "1K" / OTHER, _document(1))
    assert _read(tmp_path, OTHER).problem == "doubtful"


def test_a_hash_in_two_places_is_one_scene(tmp_path: Path) -> None:
    """The ColmapCache may lie in a batch of its own; (split, scene) must stay unique."""
    _scene(tmp_path, f"10K/{HASH}/images_8", 1)
    (tmp_path / "2K" / HASH / "colmap").mkdir(parents=True)
    (tmp_path / "2K" / "not-a-hash").mkdir()
    (tmp_path / "2K" / "images_4").mkdir()  # what an archive without a top folder leaves behind
    tree = Tree(tmp_path)
    assert dl3dv.scenes(tree) == [Scene(None, HASH, ((f"2K/{HASH}", f"10K/{HASH}"), False, False))]
    assert _read(tmp_path).paths == (f"10K/{HASH}/images_8/frame_00001.png",)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1K" / "scene").mkdir(parents=True)
    with pytest.raises(LayoutError, match="does not look like dl3dv"):
        dl3dv.scenes(Tree(tmp_path))


def test_listing_looks_into_no_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        (tmp_path / "1K" / f"{number:064x}" / "images_8").mkdir(parents=True)
    looked: list[str] = []
    scan = Tree._scan

    def counted(self: Tree, folder: str) -> Any:
        looked.append(folder)
        return scan(self, folder)

    monkeypatch.setattr(Tree, "_scan", counted)
    assert len(dl3dv.scenes(Tree(tmp_path))) == 50
    assert sorted(looked) == ["", "1K"]


def test_what_is_known_to_be_bad_has_whole_hashes_and_sources() -> None:
    assert len(dl3dv.SPEC.known_bad) == 16
    for entry in dl3dv.SPEC.known_bad:
        assert entry.scene is not None
        assert dl3dv._HASH.fullmatch(entry.scene)
        assert entry.source.startswith("issue ")
        assert not entry.drop


def test_mutilated_files_never_end_in_a_traceback(tmp_path: Path) -> None:
    _scene(tmp_path, f"1K/{HASH}/images_8")
    path = tmp_path / "1K" / HASH / "transforms.json"
    _written(path.parent, _document(3, NEWER_WORLD, 0.5))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    problems = set()
    for number in range(300):
        data = bytearray(whole)
        if number % 3 == 0:
            data = data[: rng.integers(len(data))]
        else:
            for place in rng.integers(len(data), size=rng.integers(1, 4)):
                data[place] = rng.choice(list(b'0123456789-.eE"[]{},:NaInfty\\\xff '))
        path.write_bytes(data)
        stream = _read(tmp_path)
        problems.add(stream.problem)
        assert set(_names(stream)) >= {f"frame_{i:05d}.png" for i in (1, 2, 3)}
        if stream.cameras is not None:
            poses = stream.cameras.cam_from_world
            assert (np.isfinite(poses).all(axis=(1, 2)) | np.isnan(poses).all(axis=(1, 2))).all()
    assert problems == {None, "bad_model", "partial_poses"}


def test_quarantine_names_the_frame_that_is_not_there(demo: Demo) -> None:
    table = catalog.read(QUARANTINE, demo.catalogs / "dl3dv/quarantine.parquet")
    assert table.column("reason").to_pylist() == ["missing"]


def test_zips_with_and_without_a_folder_of_their_own_are_scenes(demo: Demo, tmp_path: Path) -> None:
    """Naive: archives without a top folder all unpack into one `images_8`, and are no scene."""
    folders = sorted(path for path in demo.root.glob("*K/*") if path.is_dir())[:3]
    for number, folder in enumerate(folders):
        target = tmp_path / folder.parent.name / f"{folder.name}.zip"
        target.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(target, "w") as archive:
            for path in sorted(folder.rglob("*")):
                inner = path.relative_to(folder).as_posix()
                archive.write(path, inner if number else f"{folder.name}/{inner}")
    tree = Tree(tmp_path, dl3dv.SPEC.archives)
    assert [scene.scene for scene in dl3dv.scenes(tree)] == sorted(folder.name for folder in folders)
    plain = Tree(demo.root, dl3dv.SPEC.archives)
    expected = {scene.scene: dl3dv.read(plain, scene)[0].paths for scene in dl3dv.scenes(plain)}
    for scene in dl3dv.scenes(tree):
        paths = dl3dv.read(tree, scene)[0].paths
        assert paths == expected[scene.scene]
        assert all(tree.is_file(path) for path in paths[:1])
