"""CO3D: cameras, order, splits and depth against what was rendered; annotations against plain JSON; broken files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog, geometry
from mumdata.datasets import Stream, annotations, co3d
from mumdata.errors import LayoutError
from mumdata.index import index
from mumdata.sequences import mine_sequences
from mumdata.tree import Tree

from .conftest import render, write_picture

LONG, DEV, TEST = "ball/110_13051_23361", "ball/189_20390_39011", "plant/374_42005_83877"
SHORT, BARE, ABSENT = "plant/247_26445_52700", "ball/422_59588_115920", "plant/461_65173_127609"
POSED = [LONG, DEV, TEST, SHORT]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("co3d") / "world"
    render("co3d", out)
    return out


@pytest.fixture(scope="module")
def root(world: Path) -> Path:
    return world / "co3d"


@pytest.fixture(scope="module")
def catalogs(world: Path, root: Path) -> Path:
    index("co3d", root=root, catalogs=world / "catalogs", workers=1)
    return world / "catalogs"


@pytest.fixture(scope="module")
def frames(catalogs: Path) -> pd.DataFrame:
    return catalog.read_frames("co3d", catalogs=catalogs)


@pytest.fixture(scope="module")
def scene_rows(catalogs: Path) -> pd.DataFrame:
    return catalog.read_scenes("co3d", catalogs=catalogs).set_index("scene")


def truth_of(world: Path, scene: str) -> dict[str, np.ndarray]:
    with np.load(world / f"truth/co3d/{scene}/0.npz") as file:
        return dict(file)


def annotation_of(root: Path, category: str) -> dict[str, dict[str, Any]]:
    """The official annotation read the plain way: image path -> record."""
    records = json.loads(gzip.decompress((root / category / "frame_annotations.jgz").read_bytes()))
    return {record["image"]["path"]: record for record in records}


def matrix(row: pd.Series) -> np.ndarray:
    return np.asarray(row.cam_from_world, np.float64).reshape(3, 4)


def depth_of(path: Path) -> np.ndarray:
    """A depth map decoded here once more: the bits of a 16-bit PNG are those of float16."""
    raw = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    assert raw.dtype == np.uint16
    return raw.view(np.float16).astype(np.float64)


def between_pixels(depth: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Depth at positions [n, 2] (x, y), whole numbers at the pixels' middles; NaN off the picture and at edges."""
    x, y = at.T
    inner = (x > 0) & (x < depth.shape[1] - 1) & (y > 0) & (y < depth.shape[0] - 1)
    i, j = np.where(inner, y, 0).astype(int), np.where(inner, x, 0).astype(int)
    u, v = x - j, y - i
    corners = np.stack([depth[i, j], depth[i, j + 1], depth[i + 1, j], depth[i + 1, j + 1]])
    found = (np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v]) * corners).sum(axis=0)
    flat = (corners.min(axis=0) > 0) & (np.ptp(corners, axis=0) < 0.1 * corners.max(axis=0))
    return np.where(inner & flat, found, np.nan)


def project(row: pd.Series, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    assert row.camera_model == "PINHOLE"
    assert list(row.distortion) == []
    return geometry.project(points, matrix(row), "PINHOLE", np.asarray(row.intrinsics_px, np.float64), ())


# ------------------------------------------------------------------------------------------- a hand-written sequence


VIEW = {"R": [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], "T": [0.0, 0.0, 5.0], "focal_length": [2.0, 2.0],
        "principal_point": [0.1, -0.2], "intrinsics_format": "ndc_isotropic"}  # fmt: skip


def record(number: int, sequence: str = "1_2_3", name: str = "", **more: Any) -> dict[str, Any]:
    path = f"cup/{sequence}/images/{name or f'frame{number:06d}.jpg'}"
    return {
        "sequence_name": sequence,
        "frame_number": number,
        "frame_timestamp": 0.5 * number,
        "image": {"path": path, "size": [30, 40]},
        "viewpoint": dict(VIEW),
        "meta": None,
    } | more


def write_jgz(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(value).encode()))


def sequence(root: Path, records: list[dict[str, Any]], files: list[str] | None = None) -> Path:
    """Write category `cup` with the images of its records, 40 x 30, or with `files` of sequence 1_2_3."""
    write_jgz(root / "cup/frame_annotations.jgz", records)
    names = [f"cup/1_2_3/images/{name}" for name in files or ()] or [each["image"]["path"] for each in records]
    for path in names:
        write_picture(root / path, 40, 30)
    return root


def only(root: Path, scene: str = "cup/1_2_3") -> Stream:
    tree = Tree(root)
    (found,) = (each for each in co3d.scenes(tree) if each.scene == scene)
    (stream,) = co3d.read(tree, found)
    return stream


def names(stream: Stream) -> list[str]:
    return [path.rpartition("/")[2] for path in stream.paths]


# -------------------------------------------------------------------------------------------------- listing, splits


def test_sequences_their_sets_and_what_became_of_them(scene_rows: pd.DataFrame) -> None:
    split = scene_rows.split.astype(object).where(scene_rows.split.notna(), None)
    assert split.to_dict() == {
        LONG: "train", SHORT: "train", ABSENT: "train", DEV: "dev", TEST: "test", BARE: None,
    }  # fmt: skip
    assert scene_rows.status.to_dict() == {
        LONG: "missing_images", SHORT: "complete", ABSENT: "empty", DEV: "complete", TEST: "bad_images",
        BARE: "no_model",
    }  # fmt: skip
    assert scene_rows.num_frames.to_dict() == {LONG: 26, SHORT: 8, ABSENT: 0, DEV: 9, TEST: 8, BARE: 5}
    assert scene_rows.num_posed.to_dict() == {LONG: 26, SHORT: 8, ABSENT: 0, DEV: 9, TEST: 8, BARE: 0}
    assert scene_rows.group.tolist() == scene_rows.index.tolist()
    assert scene_rows["stream"].isna().all()
    assert "0.31" in scene_rows.detail[DEV]
    assert "score" not in (scene_rows.detail[LONG] or "")
    assert "6" in scene_rows.detail[ABSENT]


def test_evaluation_sequences_are_marked_by_the_list_that_holds_them_out(frames: pd.DataFrame) -> None:
    marks = frames.groupby("scene", observed=True).eval_of.agg(lambda column: set(column.dropna()))
    assert marks.to_dict() == {
        LONG: set(), SHORT: set(), BARE: set(), DEV: {"co3d-fewview-dev"}, TEST: {"co3d-manyview-test"},
    }  # fmt: skip
    assert frames[frames.scene == TEST].eval_of.notna().all()


def entry(name: str) -> list[Any]:
    return [name, 0, f"cup/{name}/images/frame000001.jpg"]


LISTS = {
    "fewview_train": {"train": [entry("1_1_1")], "val": [entry("1_1_1")], "test": [entry("1_1_1")]},
    "fewview_dev": {"train": [entry("1_1_1")], "val": [entry("2_2_2")], "test": [entry("2_2_2")]},
    "fewview_test": {"train": [entry("1_1_1")], "val": [], "test": [entry("3_3_3")]},
    "manyview_dev_0": {"train": [entry("4_4_4")], "val": [entry("4_4_4")], "test": [entry("4_4_4")]},
    "manyview_test_0": {"train": [entry("5_5_5")], "val": [], "test": [entry("5_5_5")]},
}


def test_the_part_of_a_list_is_not_the_set_of_the_sequence(tmp_path: Path) -> None:
    """Naive: the key under which a sequence is listed, by which 1_1_1 would be train, val and test at once."""
    for name, parts in LISTS.items():
        path = tmp_path / f"cup/set_lists/set_lists_{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(parts))
    found = {each.scene: each for each in co3d.scenes(Tree(tmp_path))}
    assert {name: each.split for name, each in found.items()} == {
        "cup/1_1_1": "train", "cup/2_2_2": "dev", "cup/3_3_3": "test", "cup/4_4_4": "dev", "cup/5_5_5": "test",
    }  # fmt: skip
    streams = {name: co3d.read(Tree(tmp_path), each)[0] for name, each in found.items()}
    assert {name: stream.eval_of for name, stream in streams.items()} == {
        "cup/1_1_1": None, "cup/2_2_2": "co3d-fewview-dev", "cup/3_3_3": "co3d-fewview-test",
        "cup/4_4_4": "co3d-manyview-dev", "cup/5_5_5": "co3d-manyview-test",
    }  # fmt: skip
    assert {stream.problem for stream in streams.values()} == {"empty"}


def test_a_sequence_that_any_list_holds_out_is_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "cup/set_lists"
    folder.mkdir(parents=True)
    both = {"train": [entry("1_1_1")], "val": [], "test": [entry("1_1_1")]}
    for name in ("fewview_train", "fewview_dev", "manyview_test_1"):
        (folder / f"set_lists_{name}.json").write_text(json.dumps(both))
    (scene,) = co3d.scenes(Tree(tmp_path))
    assert scene.split == "test"


def test_version_1_lists_and_its_default_format(tmp_path: Path) -> None:
    """Version 1 says nothing of the format, and hides nothing: test_unseen there are ordinary images."""
    view = {key: value for key, value in VIEW.items() if key != "intrinsics_format"}
    meta = {"frame_type": "test_unseen"}
    sequence(tmp_path, [record(1, viewpoint=view, meta=meta)])
    lists = {"train_known": [entry("7_7_7")], "train_unseen": [entry("7_7_7")], "test_unseen": [entry("1_2_3")]}
    (tmp_path / "cup/set_lists.json").write_text(json.dumps(lists))
    found = {each.scene: each.split for each in co3d.scenes(Tree(tmp_path))}
    assert found == {"cup/1_2_3": "test", "cup/7_7_7": "train"}
    stream = only(tmp_path)
    assert stream.eval_of == "co3d-v1"
    assert not stream.bad
    assert stream.cameras is not None
    # half of 40 and of 30 are the units of x and y
    np.testing.assert_allclose(stream.cameras.intrinsics, [[40.0, 30.0, 18.0, 18.0]])


@pytest.mark.parametrize("text", ["{", "[1]", '{"test": 3}', '{"test": [[]]}', '{"test": [["1_2_3"]]}', "[" * 100_000])
def test_a_set_list_that_cannot_be_read_is_told_for_the_sequences_of_its_category(tmp_path: Path, text: str) -> None:
    sequence(tmp_path, [record(1)])
    (tmp_path / "cup/set_lists").mkdir()
    (tmp_path / "cup/set_lists/set_lists_manyview_test_0.json").write_text(text)
    stream = only(tmp_path)
    assert stream.problem == "bad_lists"
    assert "set_lists_manyview_test_0.json" in (stream.detail or "")
    assert len(stream.paths) == 1


def test_a_folder_without_sequences_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday/images").mkdir(parents=True)
    with pytest.raises(LayoutError, match="does not look like co3d"):
        co3d.scenes(Tree(tmp_path))


# ------------------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("scene", POSED)
def test_frames_are_in_the_order_of_time(world: Path, frames: pd.DataFrame, scene: str) -> None:
    rows = frames[frames.scene == scene].sort_values("frame")
    assert [path.rpartition("/")[2] for path in rows.path] == truth_of(world, scene)["names"].tolist()
    np.testing.assert_allclose(rows.timestamp_s, 0.2 * np.arange(len(rows)), atol=1e-12)


def test_the_number_in_a_file_name_is_not_the_order(frames: pd.DataFrame) -> None:
    """Naive: order by file name, which here starts with the fifth frame."""
    paths = frames[frames.scene == DEV].sort_values("frame").path.tolist()
    assert [int(path[-10:-4]) for path in paths] == [6, 7, 8, 9, 1, 2, 3, 4, 5]


def test_times_come_before_frame_numbers(tmp_path: Path) -> None:
    records = [record(number, frame_timestamp=time) for number, time in ((1, 0.3), (2, 0.1), (3, 0.2))]
    stream = only(sequence(tmp_path, records))
    assert names(stream) == ["frame000002.jpg", "frame000003.jpg", "frame000001.jpg"]
    assert stream.timestamps_s is not None
    assert stream.timestamps_s.tolist() == [0.1, 0.2, 0.3]


def test_frame_numbers_decide_where_times_are_missing_or_equal(tmp_path: Path) -> None:
    records = [
        record(2, name="a.jpg", frame_timestamp=None),
        record(10, name="b.jpg", frame_timestamp=0.0),
        record(1, name="c.jpg", frame_timestamp=9.0),
    ]
    stream = only(sequence(tmp_path, records))
    assert names(stream) == ["c.jpg", "a.jpg", "b.jpg"]
    assert stream.timestamps_s is None
    for each in records:
        each["frame_timestamp"] = 3.0
    stream = only(sequence(tmp_path, records))
    assert names(stream) == ["c.jpg", "a.jpg", "b.jpg"]
    assert stream.timestamps_s is not None


def test_negative_times_mean_unknown(tmp_path: Path) -> None:
    records = [record(number, frame_timestamp=-1.0) for number in (3, 1, 2)]
    stream = only(sequence(tmp_path, records))
    assert names(stream) == ["frame000001.jpg", "frame000002.jpg", "frame000003.jpg"]
    assert stream.timestamps_s is None


def test_without_annotation_images_are_in_natural_order(tmp_path: Path, frames: pd.DataFrame) -> None:
    for number in (2, 10, 1):
        write_picture(tmp_path / f"cup/1_2_3/images/frame{number}.jpg", 40, 30)
    stream = only(tmp_path)
    assert names(stream) == ["frame1.jpg", "frame2.jpg", "frame10.jpg"]
    assert (stream.problem, stream.cameras) == ("no_model", None)
    rows = frames[frames.scene == BARE]
    assert rows.cam_from_world.isna().all()
    assert rows.camera_model.isna().all()


def test_images_that_the_annotation_does_not_name_come_last_without_camera(tmp_path: Path) -> None:
    root = sequence(tmp_path, [record(2), record(1)])
    write_picture(root / "cup/1_2_3/images/extra10.jpg", 40, 30)
    write_picture(root / "cup/1_2_3/images/extra9.jpg", 40, 30)
    (root / "cup/1_2_3/images/._frame000001.jpg").write_bytes(b"x")
    (root / "cup/1_2_3/images/notes.txt").write_text("x")
    stream = only(root)
    assert names(stream) == ["frame000001.jpg", "frame000002.jpg", "extra9.jpg", "extra10.jpg"]
    assert stream.cameras is not None
    assert np.isfinite(stream.cameras.cam_from_world).all(axis=(1, 2)).tolist() == [True, True, False, False]
    assert "not annotated: 2" in (stream.detail or "")
    assert {(path.rpartition("/")[2], why) for path, why, _ in stream.ignored} == {
        ("._frame000001.jpg", "hidden"), ("notes.txt", "unexpected_name"),
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- cameras


@pytest.mark.parametrize("scene", POSED)
def test_points_project_where_they_were_rendered(world: Path, frames: pd.DataFrame, scene: str) -> None:
    known = truth_of(world, scene)
    rows = frames[frames.scene == scene].sort_values("frame")
    num = 0
    for number, (_, row) in enumerate(rows.iterrows()):
        points = known["points"][known["visible"][number]]
        pixels, depth = project(row, points)
        f, _, cx, cy = known["intrinsics"][number]
        inside = points @ known["cam_from_world"][number][:, :3].T + known["cam_from_world"][number][:, 3]
        np.testing.assert_allclose(pixels, inside[:, :2] / inside[:, 2:] * f + (cx, cy), atol=0.01)
        np.testing.assert_allclose(depth, inside[:, 2], rtol=1e-5)
        assert tuple(row[["width", "height"]]) == tuple(known["sizes"][number]) or row.status == "missing"
        num += len(points)
    assert num > 100 * len(rows)


@pytest.mark.parametrize("scene", POSED)
def test_depth_maps_agree_with_the_projected_points(world: Path, root: Path, frames: pd.DataFrame, scene: str) -> None:
    """The stored depth at a point's pixel is the point's depth; half a pixel beside it, it is not."""
    known = truth_of(world, scene)
    errors: dict[float, list[np.ndarray]] = {-0.5: [], 0.0: [], 0.5: []}
    rows = frames[frames.scene == scene].sort_values("frame")
    for number, (_, row) in enumerate(rows.iterrows()):
        if row.status == "missing":
            assert pd.isna(row.depth_path)
            continue
        assert row.depth_path == f"{row.path.replace('images', 'depths')}.geometric.png"
        stored = depth_of(root / row.depth_path)
        pixels, depth = project(row, known["points"][known["visible"][number]])
        for shift, found in errors.items():
            # the middle of the top-left pixel is (0.5, 0.5)
            found.append(np.abs(between_pixels(stored, pixels - 0.5 + shift) / depth - 1))
    median = {shift: float(np.nanmedian(np.concatenate(found))) for shift, found in errors.items()}
    assert np.isfinite(np.concatenate(errors[0.0])).sum() > 500
    assert median[0.0] < 0.001
    assert min(median[-0.5], median[0.5]) > 10 * median[0.0]


def test_the_two_formats_of_intrinsics_are_told_apart(root: Path, frames: pd.DataFrame) -> None:
    """Naive: one format for all. The other would be off by pixels in either category."""
    for category, half in (("ball", (20, 20)), ("plant", (32, 20))):
        records = annotation_of(root, category)
        rows = frames[frames.scene.str.startswith(category) & frames.camera_model.notna()]
        for _, row in rows.iterrows():
            view = records[row.path]["viewpoint"]
            fx, fy, cx, cy = row.intrinsics_px
            assert fx == pytest.approx(view["focal_length"][0] * half[0], rel=1e-6)
            assert fy == pytest.approx(fx, rel=1e-6)  # the renderer's pixels are square
            high, wide = records[row.path]["image"]["size"]
            assert (cx, cy) == pytest.approx((wide / 2 - 2.25, high / 2 + 1.5), abs=1e-4)
            other = {"ball": (20, 32), "plant": (20, 20)}[category]
            assert abs(view["focal_length"][0] * other[0] - view["focal_length"][1] * other[1]) > 5


def test_intrinsics_by_hand(tmp_path: Path) -> None:
    """40 x 30 pixels, size written as (30, 40): the unit of isotropic coordinates is 15 pixels, x points left."""
    stream = only(sequence(tmp_path, [record(1), record(2, viewpoint=VIEW | {"intrinsics_format": "NDC_isotropic"})]))
    assert stream.cameras is not None
    assert stream.cameras.size.tolist() == [[40, 30], [40, 30]]
    np.testing.assert_allclose(stream.cameras.intrinsics, [[30.0, 30.0, 20 - 1.5, 15 + 3.0]] * 2)


@pytest.mark.parametrize(
    ("rotation", "point", "side"),
    [
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], (1, 0, 0), "left"),  # x points left
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], (0, 1, 0), "up"),  # y points up
        # (1, 0, 0) times this matrix is its first row, y: up; the matrix times the column would be down
        ([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], (1, 0, 0), "up"),
        ([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], (0, 1, 0), "right"),
        # turned about y: (1, 0, 0) goes to z, in front of the middle
        ([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], (0, 0, 1), "right"),
    ],
)
def test_points_are_rows_and_the_axes_point_left_and_up(
    tmp_path: Path, rotation: list[list[int]], point: tuple[int, ...], side: str
) -> None:
    view = VIEW | {"R": rotation, "principal_point": [0.0, 0.0]}
    stream = only(sequence(tmp_path, [record(1, viewpoint=view)]))
    assert stream.cameras is not None
    matrix = stream.cameras.cam_from_world[0]
    pixels, depth = geometry.project(np.array([point], float), matrix, "PINHOLE", stream.cameras.intrinsics[0], ())
    assert depth[0] == 5
    expected = {"left": (14, 15), "right": (26, 15), "up": (20, 9), "down": (20, 21)}[side]
    np.testing.assert_allclose(pixels, [expected])


def test_masks_are_found_where_they_are(frames: pd.DataFrame, root: Path) -> None:
    ball = frames[(frames.scene == DEV)]
    assert ball.mask_path.tolist() == [path.replace("images", "masks")[:-4] + ".png" for path in ball.path]
    assert all((root / path).is_file() for path in ball.mask_path)
    assert frames[frames.scene == SHORT].mask_path.isna().all()


@pytest.mark.parametrize(
    "change",
    [
        {"R": [[1, 0, 0], [0, 1, 0], [0, 0, -1]]},  # a mirror
        {"R": [[2, 0, 0], [0, 2, 0], [0, 0, 2]]},
        {"R": [[float("nan")] * 3] * 3},
        {"R": [[0.0] * 3] * 3},
        {"R": [[1e200] * 3] * 3},
        {"T": [1e6, 0, 0]},
        {"T": [float("inf"), 0, 0]},
    ],
)
def test_a_camera_that_is_none_is_unknown(tmp_path: Path, change: dict[str, Any]) -> None:
    stream = only(sequence(tmp_path, [record(1), record(2, viewpoint=VIEW | change)]))
    assert stream.cameras is not None
    assert np.isfinite(stream.cameras.cam_from_world[0]).all()
    assert np.isnan(stream.cameras.cam_from_world[1]).all()
    assert "no rotation, or absurdly far away: 1" in (stream.detail or "")


@pytest.mark.parametrize(
    "change",
    [{"intrinsics_format": "pixels"}, {"focal_length": [-1.0, 1.0]}, {"focal_length": [float("nan"), 1.0]}],
)
def test_intrinsics_that_are_none_are_unknown_and_the_pose_stays(tmp_path: Path, change: dict[str, Any]) -> None:
    stream = only(sequence(tmp_path, [record(1), record(2, viewpoint=VIEW | change)]))
    assert stream.cameras is not None
    assert np.isfinite(stream.cameras.cam_from_world).all()
    assert np.isnan(stream.cameras.intrinsics[1]).all()
    assert stream.cameras.model == ("PINHOLE", None)
    assert "without intrinsics of a known format: 1" in (stream.detail or "")


# ------------------------------------------------------------------------------------------------ challenge, missing


def test_hidden_targets_are_black_and_not_used(root: Path, frames: pd.DataFrame) -> None:
    rows = frames[frames.scene == TEST].sort_values("frame")
    assert [row.frame for row in rows.itertuples() if row.status == "hidden_target"] == [2, 5, 6]
    for row in rows.itertuples():
        brightest = cv2.imdecode(np.fromfile(root / row.path, np.uint8), cv2.IMREAD_COLOR).max()
        assert (brightest < 8) == (row.status == "hidden_target")


def test_hidden_targets_are_known_from_the_list_or_from_the_annotation(tmp_path: Path) -> None:
    records = [record(1), record(2), record(3, meta={"frame_type": "test_unseen"}), record(4, meta={})]
    sequence(tmp_path, records)
    (tmp_path / "cup/set_lists").mkdir()
    lists = {"train": [["1_2_3", 1, records[0]["image"]["path"]]], "test": [["1_2_3", 2, records[1]["image"]["path"]]]}
    path = tmp_path / "cup/set_lists/set_lists_manyview_test_0.json"
    path.write_text(json.dumps(lists))
    assert sorted(only(tmp_path).bad) == [1, 2]
    path.unlink()
    assert sorted(only(tmp_path).bad) == [2]


def test_a_frame_that_is_annotated_and_absent_keeps_its_place(world: Path, frames: pd.DataFrame) -> None:
    rows = frames[frames.scene == LONG].sort_values("frame")
    (lost,) = rows[rows.status == "missing"].itertuples()
    assert lost.frame == 17
    assert lost.path == f"{LONG}/images/{truth_of(world, LONG)['names'][17]}"


def test_paths_that_leave_the_root_or_repeat_are_left_out(tmp_path: Path) -> None:
    records = [record(1), record(1), record(2)]
    outside = {"path": "../../secret.jpg", "size": [30, 40]}
    records += [record(3, image=outside), record(4, image=outside | {"path": "/etc/secret.jpg"})]
    for each in ("1_2_3", "../4", "a/b", "..", ""):
        records.append(record(9, sequence=each))
    write_jgz(tmp_path / "cup/frame_annotations.jgz", records)
    write_jgz(tmp_path / "cup/sequence_annotations.jgz", [{"sequence_name": each["sequence_name"]} for each in records])
    for number in (1, 2):
        write_picture(tmp_path / f"cup/1_2_3/images/frame{number:06d}.jpg", 40, 30)
    assert [each.scene for each in co3d.scenes(Tree(tmp_path))] == ["cup/1_2_3"]
    stream = only(tmp_path)
    assert names(stream) == ["frame000001.jpg", "frame000002.jpg", "frame000009.jpg"]
    assert sorted(why for _, why, _ in stream.ignored) == ["leaves_root", "leaves_root", "named_twice"]


@pytest.mark.parametrize("name", ["\ud800.jpg", "a\0b.jpg", "x" * 300 + ".jpg"])
def test_names_that_no_file_can_have_do_not_end_the_run(tmp_path: Path, name: str) -> None:
    records = [record(1), record(2, name=name), record(1, sequence=name)]
    write_jgz(tmp_path / "root/cup/frame_annotations.jgz", records)
    write_jgz(tmp_path / "root/cup/sequence_annotations.jgz", [{"sequence_name": name}])
    write_picture(tmp_path / "root/cup/1_2_3/images/frame000001.jpg", 40, 30)
    index("co3d", root=tmp_path / "root", catalogs=tmp_path, workers=1)
    found = catalog.read_frames("co3d", catalogs=tmp_path)
    assert found[found.status == "ok"].path.tolist() == ["cup/1_2_3/images/frame000001.jpg"]
    assert set(found.scene) == {"cup/1_2_3"}


# ------------------------------------------------------------------------------------------------- VGGT's annotation


def vggt_record(path: str, pose: np.ndarray, intrinsics: np.ndarray) -> dict[str, Any]:
    f, _, cx, cy = intrinsics
    return {"filepath": path, "extri": pose.tolist(), "intri": [[f, 0, cx], [0, f, cy], [0, 0, 1]]}


@pytest.mark.parametrize("folder", ["", "co3d_anno/cleaned/"])
def test_vggts_annotation_gives_the_same_cameras(
    world: Path, root: Path, frames: pd.DataFrame, tmp_path: Path, folder: str
) -> None:
    """Without the official files; the order is by name, 2 before 10, since nothing says what came first."""
    known = truth_of(world, SHORT)
    numbers = [2, 10, 1, 3, 4, 5, 6, 7]  # of the files, for the frames in turn
    records = [
        vggt_record(f"{SHORT}/images/frame{number}.jpg", known["cam_from_world"][i], known["intrinsics"][i])
        for i, number in enumerate(numbers)
    ]
    (tmp_path / SHORT / "images").mkdir(parents=True)
    for name, number in zip(known["names"], numbers, strict=True):
        data = (root / SHORT / "images" / name).read_bytes()
        (tmp_path / SHORT / f"images/frame{number}.jpg").write_bytes(data)
    write_jgz(tmp_path / f"{folder}plant_train.jgz", {"8_8_8": [], SHORT.partition("/")[2]: records})
    write_jgz(tmp_path / f"{folder}plant_test.jgz", {"9_9_9": [vggt_record("plant/9_9_9/images/a.jpg", *([known[
        "cam_from_world"][0], known["intrinsics"][0]]))]})  # fmt: skip
    found = {each.scene: each.split for each in co3d.scenes(Tree(tmp_path))}
    assert found == {SHORT: "train", "plant/8_8_8": "train", "plant/9_9_9": "dev"}
    stream = only(tmp_path, SHORT)
    assert names(stream) == [f"frame{number}.jpg" for number in sorted(numbers)]
    assert stream.problem is None
    official = frames[frames.scene == SHORT].sort_values("frame")
    assert stream.cameras is not None
    for row, number in enumerate(sorted(numbers)):
        same = official.iloc[numbers.index(number)]
        np.testing.assert_allclose(stream.cameras.cam_from_world[row], matrix(same), atol=1e-6)
        np.testing.assert_allclose(stream.cameras.intrinsics[row], same.intrinsics_px, atol=1e-5)
        assert stream.cameras.size[row].tolist() == [64, 40]


def test_an_annotation_without_sequences_is_no_trouble(tmp_path: Path) -> None:
    write_picture(tmp_path / "cup/1_2_3/images/a.jpg", 40, 30)
    write_jgz(tmp_path / "cup_train.jgz", {})
    write_jgz(tmp_path / "cup/frame_annotations.jgz", [])
    stream = only(tmp_path)
    assert stream.problem == "no_model"
    assert "does not name it" in (stream.detail or "")


def test_the_official_annotation_comes_first(tmp_path: Path) -> None:
    sequence(tmp_path, [record(1)])
    pose = np.hstack([np.eye(3), [[7.0], [7.0], [7.0]]])
    other = vggt_record("cup/1_2_3/images/frame000001.jpg", pose, np.array([9.0, 9, 9, 9]))
    write_jgz(tmp_path / "cup_train.jgz", {"1_2_3": [other]})
    stream = only(tmp_path)
    assert stream.cameras is not None
    assert stream.cameras.cam_from_world[0, :, 3].tolist() == [0, 0, 5]
    (tmp_path / "cup/frame_annotations.jgz").write_bytes(b"broken")
    stream = only(tmp_path)
    assert stream.cameras is not None
    assert stream.cameras.cam_from_world[0, :, 3].tolist() == [7, 7, 7]
    assert "cup/frame_annotations.jgz" in (stream.detail or "")


@pytest.mark.parametrize("change", [{"extri": None}, {"extri": [[1, 0], [0, 1]]}, {"intri": [[1]]}, {"filepath": 3}])
def test_a_broken_record_of_vggt_is_counted(tmp_path: Path, change: dict[str, Any]) -> None:
    good = vggt_record("cup/1_2_3/images/a.jpg", np.eye(4)[:3], np.array([30.0, 30, 20, 15]))
    write_jgz(tmp_path / "cup_train.jgz", {"1_2_3": [good, good | change]})
    write_picture(tmp_path / "cup/1_2_3/images/a.jpg", 40, 30)
    stream = only(tmp_path)
    assert (stream.problem, len(stream.paths)) == ("partial_poses", 1)
    assert "1 of 2" in (stream.detail or "")
    write_jgz(tmp_path / "cup_train.jgz", {"1_2_3": [good | change]})
    stream = only(tmp_path)
    assert (stream.problem, len(stream.paths), stream.cameras) == ("bad_model", 1, None)


# ------------------------------------------------------------------------------------------- large, damaged, changed


def scattered(num_frames: int, order: list[str]) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    return [
        record(number, sequence=each, noise=draw.random(5).tolist(), text='a } ] , { "sequence_name" b')
        for number in range(num_frames)
        for each in order
    ]


@pytest.mark.parametrize(("block", "stride", "seam"), [(1, 64, 90), (37, 1000, 90), (1 << 17, 1 << 22, 1 << 12)])
def test_one_sequence_of_many_is_read_as_plain_json_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, stride: int, seam: int
) -> None:
    """Sequences whose records lie scattered over blocks and states of the inflater, against the whole file parsed."""
    for name, value in (("_BLOCK", block), ("_STRIDE", stride), ("_SEAM", seam)):
        monkeypatch.setattr(annotations, name, value)
    annotations._searched.cache_clear()
    records = scattered(9, ["1_1_1", "22_22_22", "1_1_1", "3_3_3", "3_3_3"])
    write_jgz(tmp_path / "cup/frame_annotations.jgz", records)
    tree = Tree(tmp_path)
    annotation = annotations.opened(tree, "cup/frame_annotations.jgz", annotations.OFFICIAL)
    for each in ("1_1_1", "22_22_22", "3_3_3", "4_4_4"):
        assert annotation.records(tree, each) == [one for one in records if one["sequence_name"] == each]
    lists = {each: [one for one in records if one["sequence_name"] == each] for each in ("3_3_3", "1_1_1", "5_5_5")}
    write_jgz(tmp_path / "cup_train.jgz", lists)
    annotation = annotations.opened(tree, "cup_train.jgz", annotations.VGGT)
    assert list(annotation.spans) == ["3_3_3", "1_1_1", "5_5_5"]
    for each, expected in lists.items():
        assert annotation.records(tree, each) == expected
    annotations._searched.cache_clear()


def test_an_annotation_is_searched_once_for_all_its_sequences(tmp_path: Path) -> None:
    """Naive: the category's annotation is parsed again for each of its sequences."""
    order = [f"{number}_0_0" for number in range(40)]
    write_jgz(tmp_path / "cup/frame_annotations.jgz", scattered(3, order))
    write_jgz(tmp_path / "cup/sequence_annotations.jgz", [{"sequence_name": each} for each in order])
    annotations._searched.cache_clear()
    for each in co3d.scenes(Tree(tmp_path)):
        (stream,) = co3d.read(Tree(tmp_path), each)
        assert "annotated: 3" in (stream.detail or "")
    assert annotations._searched.cache_info().misses == 1


def test_an_annotation_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    assert len(only(sequence(tmp_path, [record(1)])).paths) == 1
    stream = only(sequence(tmp_path, [record(1, "0_0_0"), record(2), record(1, viewpoint=VIEW | {"T": [0, 0, 6]})]))
    assert names(stream) == ["frame000001.jpg", "frame000002.jpg"]
    assert stream.cameras is not None
    assert stream.cameras.cam_from_world[:, 2, 3].tolist() == [6, 5]


def test_a_record_of_another_sequence_is_never_taken(tmp_path: Path) -> None:
    """Records are found by their first key; one that was written otherwise lies in the share of the one before."""
    odd = dict(sorted(record(2, "4_5_6").items()))
    assert next(iter(odd)) != "sequence_name"
    sequence(tmp_path, [record(1), odd, record(3)])
    stream = only(tmp_path)
    assert names(stream) == ["frame000001.jpg", "frame000003.jpg"]
    assert stream.problem == "partial_poses"
    assert "cannot be read: 1 of 3" in (stream.detail or "")


def test_too_much_text_is_refused_before_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sequence(tmp_path, [record(1)])
    bomb = gzip.compress(b"[" + b" " * 60_000_000 + b"]")
    assert len(bomb) < 100_000
    (root / "cup/sequence_annotations.jgz").write_bytes(bomb)
    (root / "cup/frame_annotations.jgz").write_bytes(bomb)
    monkeypatch.setattr(annotations, "_MOST_INFLATED", 50_000_000)
    stream = only(root)
    assert stream.problem == "bad_model"
    assert "more than 50,000,000 bytes" in (stream.detail or "")
    assert names(stream) == ["frame000001.jpg"]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: b"", "cut off"),
        (lambda data: data[:-9], "cut off"),
        (lambda data: b"\x1f\x8b" + data[2:40], "cut off"),
        (lambda data: b"no gzip at all", "header"),
        (lambda data: data[:-8] + bytes(8), "check"),
        (lambda data: data + b"more", "follows its end"),
        (lambda data: gzip.compress(b'{"a": []}'), "names no sequence"),
        (lambda data: gzip.compress(gzip.decompress(data)[:-300]), "damaged at"),
        (lambda data: gzip.compress(gzip.decompress(data).replace(b"viewpoint", b"\xff")), "damaged at"),
    ],
)
def test_a_damaged_annotation_is_told_and_the_images_stay(tmp_path: Path, damage: Any, why: str) -> None:
    root = sequence(tmp_path, [record(1), record(2)])
    path = root / "cup/frame_annotations.jgz"
    path.write_bytes(damage(path.read_bytes()))
    stream = only(root)
    assert stream.problem == "bad_model"
    assert why in (stream.detail or "")
    assert "cup/frame_annotations.jgz" in (stream.detail or "")
    assert len(stream.paths) == 2
    assert stream.cameras is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)
KEYS = [
    ("frame_number",), ("frame_timestamp",), ("image",), ("image", "path"), ("image", "size"), ("viewpoint",),
    ("viewpoint", "R"), ("viewpoint", "T"), ("viewpoint", "focal_length"), ("viewpoint", "principal_point"),
    ("viewpoint", "intrinsics_format"), ("meta",),
]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(key=st.sampled_from(KEYS), value=json_values)
def test_any_value_anywhere_gives_a_stream(tmp_path_factory: pytest.TempPathFactory, key: Any, value: Any) -> None:
    broken = record(2)
    inner = broken
    for part in key[:-1]:
        inner[part] = dict(inner[part])
        inner = inner[part]
    inner[key[-1]] = value
    root = tmp_path_factory.mktemp("fuzz")
    sequence(root, [record(1), broken], files=["frame000001.jpg", "frame000002.jpg"])
    stream = only(root)
    assert {"frame000001.jpg", "frame000002.jpg"} <= set(names(stream))
    assert stream.cameras is not None
    assert np.isfinite(stream.cameras.cam_from_world[names(stream).index("frame000001.jpg")]).all()
    poses = stream.cameras.cam_from_world
    assert (np.isfinite(poses).all(axis=(1, 2)) | np.isnan(poses).all(axis=(1, 2))).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_to_the_bytes_gives_a_stream(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = sequence(tmp_path_factory.mktemp("fuzz"), [record(number) for number in range(4)])
    path = root / "cup/frame_annotations.jgz"
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    stream = only(root)
    assert len(stream.paths) >= 4
    assert stream.problem in (None, "bad_model", "no_model", "partial_poses")


# ------------------------------------------------------------------------------------------------------------ mining


def test_the_whole_scene_is_a_sequence(catalogs: Path, frames: pd.DataFrame) -> None:
    mine_sequences("co3d", catalogs=catalogs, workers=1)
    found = catalog.read_sequences("co3d", catalogs=catalogs)
    assert found.scene.tolist() == [LONG]
    usable = frames[(frames.scene == LONG) & (frames.status == "ok")].sort_values("frame").frame_id.tolist()
    assert found.frames[0].tolist() == usable
    assert len(usable) == 25
