"""Hypersim: frames, poses and lenses of a rendered world whose truth is known, and tables and files that are broken."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mumdata import catalog
from mumdata.datasets import Cameras, Scene, Stream, hypersim
from mumdata.errors import LayoutError
from mumdata.geometry import project
from mumdata.index import index
from mumdata.sequences import mine_sequences
from mumdata.tree import Tree

from .conftest import render, write_picture

SCENES = "evermotion_dataset/scenes"
PATHS = (("ai_001_001", "cam_00"), ("ai_001_001", "cam_01"), ("ai_002_004", "cam_00"))


@dataclass(frozen=True)
class Demo:
    root: Path
    catalogs: Path
    frames: pd.DataFrame
    scenes: pd.DataFrame

    def truth(self, scene: str, camera: str) -> dict[str, np.ndarray]:
        with np.load(self.root.parent / "truth" / "hypersim" / scene / f"{camera}.npz") as file:
            return dict(file)

    def posed(self, scene: str, camera: str) -> pd.DataFrame:
        rows = self.frames[(self.frames["scene"] == scene) & (self.frames["stream"] == camera)]
        return rows[rows["cam_from_world"].notna()]

    def stored(self, scene: str, camera: str, name: str) -> np.ndarray:
        with h5py.File(self.root / SCENES / scene / "_detail" / camera / f"camera_keyframe_{name}.hdf5") as file:
            return file["dataset"][()]

    def projection(self, scene: str) -> np.ndarray:
        table = self.root / "contrib/mikeroberts3000/metadata_camera_parameters.csv"
        row = next(row for row in csv.DictReader(table.read_text().splitlines()) if row["scene_name"] == scene)
        return np.array([[float(row[f"M_proj_{i}{j}"]) for j in range(4)] for i in range(4)])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    out = tmp_path_factory.mktemp("hypersim")
    render("hypersim", out)
    index("hypersim", root=out / "hypersim", catalogs=out / "catalogs", workers=1)
    frames = catalog.read_frames("hypersim", catalogs=out / "catalogs")
    scenes = catalog.read_scenes("hypersim", catalogs=out / "catalogs")
    return Demo(out / "hypersim", out / "catalogs", frames, scenes)


def _id(path: str) -> str:
    return path.rpartition("/")[2].split(".")[1]


def _camera(row: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    return np.array(row["cam_from_world"], np.float64).reshape(3, 4), np.array(row["intrinsics_px"], np.float64)


# ---------------------------------------------------------------------------------------------- frames of the demo


def test_camera_paths_are_streams_with_the_split_of_their_scene(demo: Demo) -> None:
    found = {(row.split, row.scene, row.stream): (row.status, row.num_frames) for row in demo.scenes.itertuples()}
    assert found == {
        ("train", "ai_001_001", "cam_00"): ("complete", 30),
        ("train", "ai_001_001", "cam_01"): ("partial_poses", 8),
        ("train", "ai_001_001", "cam_02"): ("empty", 0),  # released, not downloaded; cam_03 was never released
        ("val", "ai_002_004", "cam_00"): ("missing_images", 10),
        ("test", "ai_003_006", "cam_00"): ("no_preview", 0),
    }
    assert (demo.scenes["group"] == demo.scenes["scene"]).all()
    detail = {(row.scene, row.stream): row.detail for row in demo.scenes.itertuples()}
    assert detail["ai_001_001", "cam_02"] == "5 frames released, none on disk"
    assert detail["ai_003_006", "cam_00"].startswith("3 frames in scene_cam_00_final_hdf5 alone")
    assert "unpack scene_cam_00_final_preview" in detail["ai_003_006", "cam_00"]


def test_frames_are_ordered_by_id_and_withheld_ids_are_gaps(demo: Demo) -> None:
    rows = demo.frames[(demo.frames["scene"] == "ai_001_001") & (demo.frames["stream"] == "cam_00")]
    assert [_id(path) for path in rows["path"]] == [f"{i:04d}" for i in range(34) if i not in (3, 11, 12, 27)]
    assert rows["frame"].tolist() == list(range(30))
    assert set(rows["status"]) == {"ok"}
    assert set(rows["camera_model"]) == {"PINHOLE"}


def test_each_frame_is_there_once_though_it_has_pictures_of_several_kinds(demo: Demo) -> None:
    """The naive way, every JPEG of the folder, doubles the frames."""
    folder = demo.root / SCENES / "ai_001_001/images/scene_cam_00_final_preview"
    assert len(list(folder.glob("*.jpg"))) == 60
    rows = demo.frames[(demo.frames["scene"] == "ai_001_001") & (demo.frames["stream"] == "cam_00")]
    assert rows["path"].str.endswith(".tonemap.jpg").all()
    rows = demo.frames[demo.frames["scene"] == "ai_002_004"]
    assert rows["path"].str.endswith(".color.jpg").all()


def test_a_released_frame_that_is_not_on_the_disk_is_missing_at_its_path(demo: Demo) -> None:
    (row,) = demo.frames[demo.frames["status"] != "ok"].itertuples()
    assert row.status == "missing"
    assert row.path == f"{SCENES}/ai_002_004/images/scene_cam_00_final_preview/frame.0004.color.jpg"
    assert row.cam_from_world is not None


def test_distance_maps_are_found_where_they_are(demo: Demo) -> None:
    without = demo.frames[demo.frames["depth_path"].isna()]
    assert [_id(path) for path in without["path"]] == ["0004", "0005"]
    for path in demo.frames["depth_path"].dropna():
        assert (demo.root / path).is_file()
    first = demo.frames["depth_path"].iloc[0]
    assert first == f"{SCENES}/ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5"


def test_whole_camera_paths_are_sequences(demo: Demo) -> None:
    mined = mine_sequences("hypersim", catalogs=demo.catalogs, workers=1)
    assert mined.rule == "scene"
    sequences = catalog.read_sequences("hypersim", catalogs=demo.catalogs)
    assert [len(frames) for frames in sequences["frames"]] == [30, 8]  # of the training split


# --------------------------------------------------------------------------------------------- cameras of the demo


@pytest.mark.parametrize(("scene", "camera"), PATHS)
def test_known_points_land_where_the_renderer_puts_them(demo: Demo, scene: str, camera: str) -> None:
    truth, rows = demo.truth(scene, camera), demo.posed(scene, camera)
    names = truth["names"].tolist()
    assert len(rows) == len(names) - (camera == "cam_01")
    for _, row in rows.iterrows():
        i = names.index(_id(row["path"]))
        seen = truth["points"][truth["visible"][i]]
        assert len(seen) > 100
        pose, intrinsics = _camera(row)
        want, depth = project(seen, truth["cam_from_world"][i], "PINHOLE", truth["intrinsics"][i], ())
        found, _ = project(seen, pose, "PINHOLE", intrinsics, ())
        assert depth.min() > 0
        assert np.abs(found - want).max() < 0.01
    # the lens is off the middle, as in two thirds of the real scenes
    assert np.abs(truth["intrinsics"][0, 2:] - truth["sizes"][0] / 2).max() > 2


def _sampled(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # bilinear between the centres of pixels, which lie at (0.5, 0.5); and where the surface is smooth
    c, r = np.clip(x - 0.5, 0, values.shape[1] - 1.001), np.clip(y - 0.5, 0, values.shape[0] - 1.001)
    i, j = r.astype(int), c.astype(int)
    s, t = r - i, c - j
    corners = np.stack([values[i, j], values[i, j + 1], values[i + 1, j], values[i + 1, j + 1]])
    weights = np.stack([(1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t])
    return (corners * weights).sum(axis=0), np.ptp(corners, axis=0) < 0.03 * corners.mean(axis=0)


@pytest.mark.parametrize(("scene", "camera"), PATHS)
def test_distance_maps_hold_the_distance_of_the_points_that_fall_on_their_pixels(
    demo: Demo, scene: str, camera: str
) -> None:
    """Pixels, axes and metres at once: half a pixel off, or depth along the axis, is seen in the numbers."""
    truth, num = demo.truth(scene, camera), 0
    names = truth["names"].tolist()
    errors: dict[str, list[np.ndarray]] = {"right": [], "half a pixel off": [], "depth, not distance": []}
    for _, row in demo.posed(scene, camera).iterrows():
        if row["depth_path"] is None or pd.isna(row["depth_path"]):
            continue
        with h5py.File(demo.root / row["depth_path"]) as file:
            stored = file["dataset"][()].astype(np.float64)
        pose, intrinsics = _camera(row)
        points = truth["points"][truth["visible"][names.index(_id(row["path"]))]]
        pixels, depth = project(points, pose, "PINHOLE", intrinsics, ())
        distance = np.linalg.norm(points @ pose[:, :3].T + pose[:, 3], axis=1)
        for kind, shift, want in (
            ("right", 0.0, distance),
            ("half a pixel off", 0.5, distance),
            ("depth, not distance", 0.0, depth),
        ):
            value, smooth = _sampled(stored, pixels[:, 0] + shift, pixels[:, 1] + shift)
            errors[kind].append(np.abs(value - want)[smooth] / want[smooth])
            num += int(smooth.sum()) if kind == "right" else 0
    error = {kind: float(np.median(np.concatenate(values))) for kind, values in errors.items()}
    assert num > 1000
    assert error["right"] < 0.0006  # the maps are of half precision: 2^-11
    assert error["half a pixel off"] > 3 * error["right"]
    assert error["depth, not distance"] > 20 * error["right"]


def _naive_error(demo: Demo, scene: str, camera: str, pose: Callable[[int, int], np.ndarray], k: np.ndarray) -> float:
    """Median distance in pixels to the truth over the frames from the tenth on, with poses made from (place, id)."""
    truth = demo.truth(scene, camera)
    found = []
    for place, name in enumerate(truth["names"].tolist()):
        points = truth["points"][truth["visible"][place]]
        want, _ = project(points, truth["cam_from_world"][place], "PINHOLE", truth["intrinsics"][place], ())
        pixels, _ = project(points, pose(place, int(name)), "PINHOLE", k, ())
        found.append(np.linalg.norm(pixels - want, axis=1))
    return float(np.nanmedian(np.concatenate(found[10:] or found)))


def _stored_pose(demo: Demo, scene: str, camera: str, row: int, unit: float) -> np.ndarray:
    turn = np.diag([1.0, -1.0, -1.0]) @ demo.stored(scene, camera, "orientations")[row].T
    return np.concatenate([turn, -turn @ demo.stored(scene, camera, "positions")[row][:, None] * unit], axis=1)


def test_poses_belong_to_frame_ids_not_to_places_in_the_listing(demo: Demo) -> None:
    """The naive way, the n-th pose for the n-th file, drifts away behind each gap."""
    case = ("ai_001_001", "cam_00")
    k = demo.truth(*case)["intrinsics"][0]
    assert len(demo.stored(*case, "positions")) == 34
    assert _naive_error(demo, *case, lambda _, i: _stored_pose(demo, *case, i, 0.0254), k) < 0.01
    assert _naive_error(demo, *case, lambda place, _: _stored_pose(demo, *case, place, 0.0254), k) > 3


def test_positions_are_in_asset_units(demo: Demo) -> None:
    """The naive way takes them for metres."""
    (row,) = demo.posed("ai_001_001", "cam_00").iloc[[5]].iterrows()
    pose, _ = _camera(row[1])
    stored = demo.stored("ai_001_001", "cam_00", "positions")[int(_id(row[1]["path"]))]
    centre = -pose[:, :3].T @ pose[:, 3]
    np.testing.assert_allclose(centre, stored * 0.0254, rtol=1e-5)
    assert np.linalg.norm(stored - centre) > 30


def test_a_tilted_lens_turns_the_camera(demo: Demo) -> None:
    """The naive way reads fx, fy, cx, cy off the projection's first rows and keeps the stored orientation."""
    case = ("ai_002_004", "cam_00")
    m = demo.projection(case[0])
    assert abs(m[3, 1]) > 0.1
    width, height = demo.truth(*case)["sizes"][0]
    naive = np.array([m[0, 0] * width / 2, m[1, 1] * height / 2, (1 - m[0, 2]) * width / 2, (1 + m[1, 2]) * height / 2])
    assert _naive_error(demo, *case, lambda _, i: _stored_pose(demo, *case, i, 0.01), naive) > 0.5  # of 80 pixels
    # what the catalog has is exact, see the test of known points; the turn is the tilt of the lens
    row = demo.posed(*case).iloc[0]
    pose, _ = _camera(row)
    relative = pose[:, :3] @ _stored_pose(demo, *case, int(_id(row["path"])), 0.01)[:, :3].T
    assert np.degrees(Rotation.from_matrix(relative).magnitude()) == pytest.approx(9.148, abs=1e-3)


def test_an_orientation_that_is_no_rotation_gives_no_pose(demo: Demo) -> None:
    rows = demo.frames[(demo.frames["scene"] == "ai_001_001") & (demo.frames["stream"] == "cam_01")]
    assert rows["cam_from_world"].isna().tolist() == [True] + [False] * 7
    assert rows["intrinsics_px"].notna().all()
    (detail,) = demo.scenes[demo.scenes["status"] == "partial_poses"]["detail"]
    assert "no rotation in 1 of the orientations (frame 0;" in detail


# ------------------------------------------------------------------------------------------------ small hand-made trees

MATRIX = [f"M_proj_{i}{j}" for i in range(4) for j in range(4)]
PLAIN = np.array([[1.7, 0, 0, 0], [0, 2.3, 0, 0], [0, 0, -1, -2], [0, 0, -1.0, 0]])
SPLIT_HEADER = "scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name\n"


def _hdf5(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["dataset"] = values


def _small(root: Path, folder: str = "ai_009_001", ids: tuple[int, ...] = (0, 1, 2), kind: str = "tonemap") -> Path:
    """A scene with one camera path: frame i stands at (i, 0, 0) asset units and looks down the world's -z."""
    scene = root / folder
    for i in ids:
        write_picture(scene / f"images/scene_cam_00_final_preview/frame.{i:04d}.{kind}.jpg", 32, 24)
    detail = scene / "_detail"
    _hdf5(detail / "cam_00/camera_keyframe_positions.hdf5", np.arange(5)[:, None] * np.array([1.0, 0, 0]))
    _hdf5(detail / "cam_00/camera_keyframe_orientations.hdf5", np.tile(np.eye(3), (5, 1, 1)))
    (detail / "metadata_scene.csv").write_text("parameter_name,parameter_value\nmeters_per_asset_unit,0.5\n")
    return scene


def _cameras_table(root: Path, matrix: np.ndarray = PLAIN, scene: str = "ai_009_001") -> Path:
    path = root / "metadata_camera_parameters.csv"
    names = ["scene_name", "settings_output_img_height", "settings_output_img_width"]
    values = [scene, "24.0", "32.0", "0.25", *map(repr, matrix.reshape(-1).tolist())]
    path.write_text(",".join([*names, "settings_units_info_meters_scale", *MATRIX]) + "\n" + ",".join(values) + "\n")
    return path


def _read(root: Path, scene: str = "ai_009_001") -> list[Stream]:
    tree = Tree(root)
    (found,) = (each for each in hypersim.scenes(tree) if each.scene == scene)
    return hypersim.read(tree, found)


def _cameras(stream: Stream) -> Cameras:
    assert stream.cameras is not None
    return stream.cameras


@pytest.mark.parametrize(
    "base", ["", "evermotion_dataset/scenes/", "contrib/99991/downloads/", "scenes/", "downloads/"]
)
def test_scenes_are_found_where_people_keep_them(tmp_path: Path, base: str) -> None:
    _small(tmp_path, f"{base}ai_009_001")
    (tmp_path / base / "not_a_scene").mkdir()
    (stream,) = _read(tmp_path)
    assert stream.paths[0] == f"{base}ai_009_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg"


def test_a_folder_without_scenes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ai_1").mkdir()
    with pytest.raises(LayoutError, match="does not look like hypersim"):
        hypersim.scenes(Tree(tmp_path))


def test_axes_and_units_of_a_camera_that_can_be_checked_by_hand(tmp_path: Path) -> None:
    _small(tmp_path)
    _cameras_table(tmp_path)
    (stream,) = _read(tmp_path)
    cameras = _cameras(stream)
    # OpenGL's camera looks along -z with y up: OpenCV's z is the world's -z, its y the world's -y
    want = np.array([[1, 0, 0, -0.5], [0, -1, 0, 0], [0, 0, -1, 0]])
    np.testing.assert_allclose(cameras.cam_from_world[1], want, atol=1e-15)
    np.testing.assert_allclose(cameras.intrinsics, [[1.7 * 16, 2.3 * 12, 16, 12]] * 3)
    assert cameras.size.tolist() == [[32, 24]] * 3
    assert stream.problem is None
    assert stream.detail is None


def test_frame_ids_of_the_poses_may_be_listed(tmp_path: Path) -> None:
    scene = _small(tmp_path)
    _hdf5(scene / "_detail/cam_00/camera_keyframe_frame_indices.hdf5", np.array([4, 3, 2, 1, 7]))
    (stream,) = _read(tmp_path)
    centre = -_cameras(stream).cam_from_world[:, 0, 3]
    np.testing.assert_allclose(centre, [np.nan, 1.5, 1.0])  # ids 0, 1, 2 are in rows -, 3, 2


def test_without_the_tables_split_and_intrinsics_are_unknown(tmp_path: Path) -> None:
    _small(tmp_path)
    tree = Tree(tmp_path)
    (scene,) = hypersim.scenes(tree)
    assert scene.split is None
    (stream,) = hypersim.read(tree, scene)
    assert np.isnan(_cameras(stream).intrinsics).all()
    assert _cameras(stream).model == (None,) * 3
    assert (_cameras(stream).size == 0).all()
    assert np.isfinite(_cameras(stream).cam_from_world).all()
    assert "metadata_camera_parameters.csv" in str(stream.detail)
    index("hypersim", root=tmp_path, catalogs=tmp_path / "catalogs", workers=1)
    frames = catalog.read_frames("hypersim", catalogs=tmp_path / "catalogs")
    assert frames["intrinsics_px"].isna().all()
    assert frames["cam_from_world"].notna().all()
    _cameras_table(tmp_path, scene="ai_009_002")
    assert "no line for this scene" in str(_read(tmp_path)[0].detail)


def test_the_scale_comes_from_the_camera_table_where_the_scene_has_none(tmp_path: Path) -> None:
    scene = _small(tmp_path)
    (scene / "_detail/metadata_scene.csv").unlink()
    (stream,) = _read(tmp_path)
    assert stream.problem == "no_model"
    assert stream.cameras is None
    assert "metres per asset unit" in str(stream.detail)
    _cameras_table(tmp_path)
    (stream,) = _read(tmp_path)
    np.testing.assert_allclose(-_cameras(stream).cam_from_world[:, 0, 3], [0, 0.25, 0.5])
    assert stream.problem is None
    (scene / "_detail/metadata_scene.csv").write_text("meters_per_asset_unit,0\n")
    (stream,) = _read(tmp_path)
    assert stream.problem == "no_model"
    assert np.isnan(_cameras(stream).cam_from_world).all()


def test_the_kind_that_shows_most_frames_is_taken(tmp_path: Path) -> None:
    folder = _small(tmp_path, kind="color") / "images/scene_cam_00_final_preview"
    for kind in ("tonemap", "diffuse_reflectance", "gamma"):
        write_picture(folder / f"frame.0001.{kind}.jpg")
    (folder / "._frame.0001.color.jpg").write_bytes(b"\0" * 100)
    (folder / "frame.1.color.jpg").write_bytes(b"x")
    (stream,) = _read(tmp_path)
    assert [path.rpartition("/")[2] for path in stream.paths] == [f"frame.{i:04d}.color.jpg" for i in range(3)]
    assert sorted(path.rpartition("/")[2] for path, *_ in stream.ignored) == [
        "._frame.0001.color.jpg",
        "frame.1.color.jpg",
    ]
    for i in (0, 2):
        write_picture(folder / f"frame.{i:04d}.tonemap.jpg")
    assert all(path.endswith(".tonemap.jpg") for path in _read(tmp_path)[0].paths)


def test_previews_of_other_kinds_alone_are_no_pictures(tmp_path: Path) -> None:
    _small(tmp_path, kind="diff")
    (stream,) = _read(tmp_path)
    assert (stream.problem, stream.paths) == ("no_preview", ())
    assert "kinds diff alone" in str(stream.detail)


def test_withheld_frames_on_the_disk_are_known_bad(tmp_path: Path) -> None:
    _small(tmp_path)
    rows = [f"ai_009_001,cam_00,{i},{'False,PEOPLE,' if i == 1 else 'True,,test'}\n" for i in range(4)]
    (tmp_path / "metadata_images_split_scene_v1.csv").write_text(SPLIT_HEADER + "".join(rows))
    index("hypersim", root=tmp_path, catalogs=tmp_path / "catalogs", workers=1)
    frames = catalog.read_frames("hypersim", catalogs=tmp_path / "catalogs")
    assert frames["status"].tolist() == ["ok", "known_bad", "ok", "missing"]
    assert set(frames["split"]) == {"test"}


def test_opinions_on_scenes_are_told_but_drop_nothing(tmp_path: Path) -> None:
    _small(tmp_path, "ai_004_009")
    (tmp_path / "ai_004_009/images/scene_cam_00_final_preview").rename(
        tmp_path / "ai_004_009/images/scene_cam_01_final_preview"
    )
    _small(tmp_path, "ai_003_001")
    _small(tmp_path, "ai_004_009")
    index("hypersim", root=tmp_path, catalogs=tmp_path / "catalogs", workers=1)
    scenes = catalog.read_scenes("hypersim", catalogs=tmp_path / "catalogs").set_index(["scene", "stream"])
    assert "issue 22" in scenes.loc[("ai_004_009", "cam_01"), "detail"]
    assert "issue 22" in scenes.loc[("ai_003_001", "cam_00"), "detail"]
    assert "issue 22" not in scenes.loc[("ai_004_009", "cam_00"), "detail"]
    assert set(catalog.read_frames("hypersim", catalogs=tmp_path / "catalogs")["status"]) == {"ok"}


# ------------------------------------------------------------------------------------------------------------- lenses


def _lens(matrix: np.ndarray, width: float = 1024.0, height: float = 768.0) -> hypersim._Lens | None:
    return hypersim._lens(width, height, matrix.reshape(-1).tolist())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=7, max_size=7), st.sampled_from([1.0, 0.37, 250.0]))
def test_a_projection_is_split_into_intrinsics_and_turn_exactly(draws: list[float], scale: float) -> None:
    """Rays of random pixels, by the projection's inverse, come back to their pixels."""
    fx, fy = 700.0 + 200 * draws[0], 700.0 + 200 * draws[1]
    cx, cy = 512 + 500 * draws[2], 384 + 500 * draws[3]
    turn = Rotation.from_rotvec(0.7 * np.array(draws[4:])).as_matrix()
    flip = np.diag([1.0, -1.0, -1.0])
    pixels = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]) @ turn @ flip * scale
    ndc = np.array([[2 / 1024, 0, -1], [0, -2 / 768, 1], [0, 0, 1]]) @ pixels
    matrix = np.zeros((4, 4))
    matrix[[0, 1, 3], :3] = ndc
    lens = _lens(matrix)
    assert lens is not None
    np.testing.assert_allclose(lens.intrinsics, (fx, fy, cx, cy), atol=1e-9)
    np.testing.assert_allclose(np.array(lens.turn).reshape(3, 3), turn, atol=1e-12)


def test_a_skewed_grid_has_poses_but_no_intrinsics(tmp_path: Path) -> None:
    skewed = PLAIN.copy()
    skewed[0, 1] = 0.2
    _small(tmp_path)
    _cameras_table(tmp_path, skewed)
    (stream,) = _read(tmp_path)
    assert np.isnan(_cameras(stream).intrinsics).all()
    assert np.isfinite(_cameras(stream).cam_from_world).all()
    assert "skewed by up to" in str(stream.detail)
    # the viewing axis of a skewed camera is known all the same
    np.testing.assert_allclose(_cameras(stream).cam_from_world[0, 2, :3], [0, 0, -1])
    barely = PLAIN.copy()
    barely[0, 1] = 1e-5
    lens = _lens(barely)
    assert lens is not None
    assert lens.intrinsics is not None


@pytest.mark.parametrize(
    "change",
    [
        {(0, 0): -1.7},  # mirrored
        {(0, 0): 0.0},
        {(1, 1): 0.0},
        {(3, 2): 0.0},
        {(0, 3): 0.1},
        {(2, 2): np.nan},
        {(0, 0): np.inf},
    ],
)
def test_what_is_no_camera_has_no_lens(tmp_path: Path, change: dict[tuple[int, int], float]) -> None:
    matrix = PLAIN.copy()
    for place, value in change.items():
        matrix[place] = value
    assert _lens(matrix) is None
    assert _lens(PLAIN, 0.0) is None
    _small(tmp_path)
    _cameras_table(tmp_path, matrix)
    (stream,) = _read(tmp_path)
    assert "not that of a camera" in str(stream.detail)
    assert np.isnan(_cameras(stream).intrinsics).all()


def test_rotations_that_are_slightly_off_are_set_right(tmp_path: Path) -> None:
    scene = _small(tmp_path)
    turn = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()
    noise = np.random.default_rng(0).uniform(-2e-4, 2e-4, (5, 3, 3))
    _hdf5(scene / "_detail/cam_00/camera_keyframe_orientations.hdf5", turn + noise)
    (stream,) = _read(tmp_path)
    rotation = _cameras(stream).cam_from_world[:, :, :3]
    np.testing.assert_allclose(rotation @ rotation.swapaxes(1, 2), np.tile(np.eye(3), (3, 1, 1)), atol=1e-12)
    left, _, right = np.linalg.svd(turn + noise[0])
    np.testing.assert_allclose(rotation[0], np.diag([1, -1, -1]) @ (left @ right).T, atol=1e-9)
    assert stream.detail is None or "rotation" not in stream.detail
    _hdf5(scene / "_detail/cam_00/camera_keyframe_orientations.hdf5", np.tile(np.diag([1.0, 1, -1]), (5, 1, 1)))
    assert "no rotation in 3 of the orientations" in str(_read(tmp_path)[0].detail)


# ------------------------------------------------------------------------------------------------- what may be broken


def _external(path: Path) -> None:
    _hdf5(path.parent / "other.hdf5", np.zeros((5, 3)))
    with h5py.File(path, "w") as file:
        file["dataset"] = h5py.ExternalLink(str(path.parent / "other.hdf5"), "/dataset")


def _linked(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["other"] = np.zeros((5, 3))
        file["dataset"] = h5py.SoftLink("/other")


def _stored_outside(path: Path) -> None:
    (path.parent / "raw.bin").write_bytes(bytes(120))
    with h5py.File(path, "w") as file:
        file.create_dataset("dataset", (5, 3), np.float64, external=[(str(path.parent / "raw.bin"), 0, 120)])


def _virtual(path: Path) -> None:
    _hdf5(path.parent / "other.hdf5", np.zeros((5, 3)))
    layout = h5py.VirtualLayout((5, 3), np.float64)
    layout[:] = h5py.VirtualSource(str(path.parent / "other.hdf5"), "dataset", (5, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("dataset", layout)


def _group(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("dataset")


BROKEN: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:900]),
    lambda path: _hdf5(path, np.zeros((4, 3))),
    lambda path: _hdf5(path, np.zeros((0, 3))),
    lambda path: _hdf5(path, np.zeros((5, 2))),
    lambda path: _hdf5(path, np.zeros(15)),
    lambda path: _hdf5(path, np.array([[b"a"] * 3] * 5)),
    _external,
    _linked,
    _stored_outside,
    _virtual,
    _group,
]


@pytest.mark.parametrize("change", range(len(BROKEN)))
def test_broken_poses_are_a_stated_problem(tmp_path: Path, change: int) -> None:
    path = _small(tmp_path) / "_detail/cam_00/camera_keyframe_positions.hdf5"
    BROKEN[change](path)
    (stream,) = _read(tmp_path)
    assert stream.problem == "bad_model"
    assert "_detail/cam_00" in str(stream.detail)
    assert str(tmp_path) not in str(stream.detail)
    assert len(stream.paths) == 3
    path.unlink()
    assert _read(tmp_path)[0].problem == "no_model"


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_are_none_give_no_pose(tmp_path: Path, value: float) -> None:
    scene = _small(tmp_path)
    turns = np.tile(np.eye(3), (5, 1, 1))
    turns[1, 0, 0] = value
    _hdf5(scene / "_detail/cam_00/camera_keyframe_orientations.hdf5", turns)
    places = np.zeros((5, 3))
    places[2, 1] = np.nan
    _hdf5(scene / "_detail/cam_00/camera_keyframe_positions.hdf5", places)
    (stream,) = _read(tmp_path)
    assert np.isfinite(_cameras(stream).cam_from_world).all(axis=(1, 2)).tolist() == [True, False, False]


def test_poses_whose_frame_ids_repeat_are_refused(tmp_path: Path) -> None:
    scene = _small(tmp_path)
    _hdf5(scene / "_detail/cam_00/camera_keyframe_frame_indices.hdf5", np.array([0, 1, 2, 2, 3]))
    assert _read(tmp_path)[0].problem == "bad_model"


def test_flipped_bytes_in_poses_never_end_in_a_traceback(tmp_path: Path) -> None:
    path = _small(tmp_path) / "_detail/cam_00/camera_keyframe_orientations.hdf5"
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    problems = set()
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(0, 256)
        path.write_bytes(bytes(data))
        (stream,) = _read(tmp_path)
        assert len(stream.paths) == 3
        problems.add(stream.problem)
    assert problems == {"no_intrinsics", "bad_model"}  # there is no camera table


GOOD_SPLIT = SPLIT_HEADER + "ai_009_001,cam_00,0,True,,train\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column scene_name"),
        ("<html>not found</html>\n", "no column scene_name"),
        (GOOD_SPLIT.replace("frame_id", "frame"), "no column frame_id"),
        (GOOD_SPLIT + "ai_009_001,cam_00,1,Tr", "line 3 has 4 of 6 values"),
        (GOOD_SPLIT + "ai_009_001,cam_00,1,yes,,train\n", "line 3 is not understood"),
        (GOOD_SPLIT + "ai_009_001,cam_00,../1,True,,train\n", "line 3 is not understood"),
        (GOOD_SPLIT + "ai_009_001,cam_00,1,True,,val\n", "in two splits, train and val"),
        (GOOD_SPLIT + 'ai_009_001,cam_00,1,True,"never closed,val\n', "not a table"),
    ],
)
def test_a_broken_split_table_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    """Frames of unknown split would be trained on: an unusable table ends the run, in one line."""
    _small(tmp_path)
    (tmp_path / "metadata_images_split_scene_v1.csv").write_text(text)
    with pytest.raises(LayoutError, match=message):
        hypersim.scenes(Tree(tmp_path))


def test_a_broken_camera_table_is_refused_with_its_line(tmp_path: Path) -> None:
    _small(tmp_path)
    path = _cameras_table(tmp_path)
    whole = path.read_text()
    path.write_text(whole.replace("1.7", "one"))
    with pytest.raises(LayoutError, match="line 2: could not convert"):
        hypersim.scenes(Tree(tmp_path))
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(LayoutError, match=r"metadata_camera_parameters\.csv"):
        hypersim.scenes(Tree(tmp_path))
    path.write_text(whole.replace("M_proj_13", "M"))
    with pytest.raises(LayoutError, match="no column M_proj_13"):
        hypersim.scenes(Tree(tmp_path))


def test_the_split_table_is_read_once_for_all_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading 83,000 lines again for each of 457 scenes is the naive way."""
    for number in range(1, 6):
        _small(tmp_path, f"ai_009_{number:03d}")
    text = "".join(f"ai_009_{number:03d},cam_00,0,True,,val\n" for number in range(1, 9))
    (tmp_path / "metadata_images_split_scene_v1.csv").write_text(SPLIT_HEADER + text)
    reads: list[str] = []
    real = Tree.read_bytes

    def counted(self: Tree, path: str, *rest: int) -> bytes:
        reads.append(path)
        return real(self, path, *rest)

    monkeypatch.setattr(Tree, "read_bytes", counted)
    tree = Tree(tmp_path)
    scenes: list[Scene] = hypersim.scenes(tree)
    assert [scene.split for scene in scenes] == ["val"] * 5
    for scene in scenes:
        hypersim.read(tree, scene)
    assert reads.count("metadata_images_split_scene_v1.csv") == 1


def test_a_scene_folder_without_cameras_is_empty(tmp_path: Path) -> None:
    (tmp_path / "ai_009_001/_detail").mkdir(parents=True)
    (stream,) = _read(tmp_path)
    assert (stream.stream, stream.problem, stream.group) == (None, "empty", "ai_009_001")


def test_expected_counts_add_up() -> None:
    numbers = [int(word.replace(",", "")) for word in hypersim.SPEC.counts.replace(";", "").split() if "," in word[:-1]]
    assert sum(numbers[:3]) == hypersim.SPEC.num_frames
    assert all(not entry.drop and entry.source for entry in hypersim.SPEC.known_bad)
