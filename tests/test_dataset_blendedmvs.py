"""BlendedMVS: cameras, depth, copies and lists against what was rendered; camera files that are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog, geometry
from mumdata.datasets import Stream, blendedmvs
from mumdata.errors import LayoutError
from mumdata.index import index
from mumdata.sequences import mine_sequences
from mumdata.tree import Tree

from .conftest import render, write_picture

VILLA, CASTLE = "5a6b1c418d100c2f8fdc4411", "5b7a3890fc8fcf6781e2593a"
PAGODA, TEMPLE = "5bfe5ae0fe0ea555e6a969ca", "5c34529873a8df509ae57b58"
LARGE = "dataset_full_res_0-29"
MODELS = [(VILLA, "0"), (CASTLE, "0"), (PAGODA, "0"), (TEMPLE, "large")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("blendedmvs") / "world"
    render("blendedmvs", out)
    return out


@pytest.fixture(scope="module")
def root(world: Path) -> Path:
    return world / "blendedmvs"


@pytest.fixture(scope="module")
def catalogs(world: Path, root: Path) -> Path:
    index("blendedmvs", root=root, catalogs=world / "catalogs", workers=1)
    return world / "catalogs"


@pytest.fixture(scope="module")
def frames(catalogs: Path) -> pd.DataFrame:
    return catalog.read_frames("blendedmvs", catalogs=catalogs)


@pytest.fixture(scope="module")
def scene_rows(catalogs: Path) -> pd.DataFrame:
    return catalog.read_scenes("blendedmvs", catalogs=catalogs).set_index("scene")


def truth_of(world: Path, scene: str, model: str) -> dict[str, np.ndarray]:
    with np.load(world / f"truth/blendedmvs/{scene}/{model}.npz") as file:
        return dict(file)


def rows_of(frames: pd.DataFrame, scene: str) -> pd.DataFrame:
    return frames[frames.scene == scene].sort_values("frame")


def pfm(path: Path) -> np.ndarray:
    """A depth map decoded here once more: rows from the bottom up, little-endian where the third line is negative."""
    kind, size, scale, data = path.read_bytes().split(b"\n", 3)
    wide, high = map(int, size.split())
    assert (kind, float(scale) < 0) == (b"Pf", True)
    return np.frombuffer(data, "<f4").reshape(high, wide)[::-1].astype(np.float64)


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
    matrix = np.asarray(row.cam_from_world, np.float64).reshape(3, 4)
    return geometry.project(points, matrix, "PINHOLE", np.asarray(row.intrinsics_px, np.float64), ())


# -------------------------------------------------------------------------------------------- a hand-written project

PROJECT = "00000000000000000000000a"
CAMERA = """extrinsic
0.0 -1.0 0.0 1.5
1.0 0.0 0.0 2.5
0.0 0.0 1.0 3.5
0.0 0.0 0.0 1.0

intrinsic
50.0 0.0 20.25
0.0 51.0 15.75
0.0 0.0 1.0

0.5 0.01 128.0 2.0
"""


def project_at(
    folder: Path, numbers: tuple[str, ...] = ("00000000", "00000001"), size: tuple[int, int] = (40, 30)
) -> Path:
    for number in numbers:
        write_picture(folder / f"blended_images/{number}.jpg", *size)
        (folder / "cams").mkdir(exist_ok=True)
        (folder / f"cams/{number}_cam.txt").write_text(CAMERA)
    (folder / "cams/pair.txt").write_text("0\n")
    return folder


def write_pfm(path: Path, wide: int, high: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"Pf\n%d %d\n-1.0\n" % (wide, high) + bytes(4 * wide * high))


def streams_of(root: Path) -> dict[str, Stream]:
    tree = Tree(root)
    return {scene.scene: stream for scene in blendedmvs.scenes(tree) for stream in blendedmvs.read(tree, scene)}


def only(root: Path) -> Stream:
    (stream,) = streams_of(root).values()
    return stream


def splits_of(root: Path) -> dict[str, str | None]:
    return {scene.scene: scene.split for scene in blendedmvs.scenes(Tree(root))}


def write_lists(folder: Path, **lists: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines))


# -------------------------------------------------------------------------------------------------- listing, splits


def test_projects_their_splits_and_what_became_of_them(frames: pd.DataFrame, scene_rows: pd.DataFrame) -> None:
    assert scene_rows.split.to_dict() == {VILLA: "train", CASTLE: "val", PAGODA: "train", TEMPLE: "train"}
    assert scene_rows.num_frames.to_dict() == {VILLA: 27, CASTLE: 9, PAGODA: 6, TEMPLE: 6}
    assert scene_rows.num_posed.to_dict() == {VILLA: 26, CASTLE: 9, PAGODA: 6, TEMPLE: 6}
    assert scene_rows.status.to_dict() == {
        VILLA: "missing_images", CASTLE: "complete", PAGODA: "complete", TEMPLE: "complete",
    }  # fmt: skip
    assert scene_rows.group.tolist() == scene_rows.index.tolist()
    marks = frames.groupby("scene", observed=True).eval_of.agg(lambda column: set(column.dropna()))
    assert marks.to_dict() == {VILLA: set(), CASTLE: {"blendedmvs-validation"}, PAGODA: set(), TEMPLE: set()}


def test_the_lists_that_name_a_project_are_told(scene_rows: pd.DataFrame) -> None:
    assert "listed in BlendedMVS+, BlendedMVG;" in scene_rows.detail[VILLA]
    assert scene_rows.detail[CASTLE] == "listed in BlendedMVS, BlendedMVG"


def test_the_validation_list_ends_its_lines_as_windows_does(root: Path) -> None:
    """Naive: lines split at newlines alone, which would hold a project id with a carriage return."""
    text = (root / "project_lists/validation_list.txt").read_bytes()
    assert text == CASTLE.encode() + b"\r\n"


@pytest.mark.parametrize("folder", ["", "project_lists", "dataset_low_res"])
def test_splits_from_lists_wherever_they_lie(tmp_path: Path, folder: str) -> None:
    other, unlisted = PROJECT[:-1] + "b", PROJECT[:-1] + "c"
    for name in (PROJECT, other, unlisted):
        project_at(tmp_path / name)
    lists = tmp_path / folder
    assert splits_of(tmp_path) == {PROJECT: None, other: None, unlisted: None}
    write_lists(lists, BlendedMVS_training=(PROJECT,))
    assert splits_of(tmp_path) == {PROJECT: "train", other: None, unlisted: None}
    write_lists(lists, validation_list=(other, ""))
    # validation and training are the whole dataset
    assert splits_of(tmp_path) == {PROJECT: "train", other: "val", unlisted: "train"}


def test_lists_as_the_authors_draw_them(tmp_path: Path) -> None:
    project_at(tmp_path / PROJECT)
    write_lists(tmp_path, **{"BlendedMVS++_list": (PROJECT,), "BlendedMVG_list": (PROJECT,), "BlendedMVS_list": ()})
    assert only(tmp_path).detail == "listed in BlendedMVS++, BlendedMVG"
    assert splits_of(tmp_path) == {PROJECT: None}


def test_validation_projects_are_marked_without_any_list(tmp_path: Path) -> None:
    for name in (PROJECT, CASTLE):
        project_at(tmp_path / name)
    assert {name: stream.eval_of for name, stream in streams_of(tmp_path).items()} == {
        PROJECT: None, CASTLE: "blendedmvs-validation",
    }  # fmt: skip


def test_seven_projects_are_held_out_of_502() -> None:
    assert len(blendedmvs.SPEC.eval_scenes) == 7
    assert blendedmvs.SPEC.num_scenes == 113 + 194 + 195


@pytest.mark.parametrize("folder", ["", "BlendedMVS", "BlendedMVS+"])
def test_projects_in_a_folder_of_the_root(tmp_path: Path, folder: str) -> None:
    project_at(tmp_path / folder / PROJECT)
    assert [path.removeprefix(f"{folder}/") for path in only(tmp_path).paths] == [
        f"{PROJECT}/blended_images/00000000.jpg", f"{PROJECT}/blended_images/00000001.jpg",
    ]  # fmt: skip


def test_a_folder_without_projects_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday/blended_images").mkdir(parents=True)
    with pytest.raises(LayoutError, match="does not look like blendedmvs"):
        blendedmvs.scenes(Tree(tmp_path))


# ------------------------------------------------------------------------------------------------------------ copies


def test_the_small_copy_is_taken_and_the_large_one_where_there_is_no_other(
    frames: pd.DataFrame, scene_rows: pd.DataFrame
) -> None:
    small, large = rows_of(frames, PAGODA), rows_of(frames, TEMPLE)
    assert small.path.tolist() == [f"{PAGODA}/blended_images/{i:08d}.jpg" for i in range(6)]
    assert large.path.tolist() == [f"{LARGE}/{TEMPLE}/{TEMPLE}/{TEMPLE}/blended_images/{i:08d}.jpg" for i in range(6)]
    assert set(zip(small.width, small.height, strict=True)) == {(64, 48)}
    assert set(zip(large.width, large.height, strict=True)) == {(80, 60)}
    assert f"another copy in {LARGE}/{PAGODA}/{PAGODA}/{PAGODA} is not used" in scene_rows.detail[PAGODA]
    assert "copy" not in scene_rows.detail[TEMPLE]


def test_the_large_copy_comes_last_also_where_its_folder_comes_first(tmp_path: Path) -> None:
    """Naive: the first copy in text order, by which dataset_full_res comes before dataset_low_res."""
    project_at(tmp_path / LARGE / PROJECT / PROJECT / PROJECT)
    project_at(tmp_path / "dataset_low_res" / PROJECT)
    assert {path.partition("/")[0] for path in only(tmp_path).paths} == {"dataset_low_res"}


def test_the_large_copies_alone_are_indexed_from_their_folder(root: Path) -> None:
    found = streams_of(root / LARGE)
    assert set(found) == {PAGODA, TEMPLE}
    assert all(len(stream.paths) == 6 for stream in found.values())
    assert found[PAGODA].cameras is not None
    assert found[PAGODA].cameras.size.tolist() == [[80, 60]] * 6


def test_an_empty_project_is_a_row_and_never_hides_a_copy(tmp_path: Path) -> None:
    (tmp_path / PROJECT).mkdir()
    stream = only(tmp_path)
    assert (stream.problem, stream.paths) == ("empty", ())
    project_at(tmp_path / LARGE / PROJECT / PROJECT / PROJECT)
    assert len(only(tmp_path).paths) == 2


# ---------------------------------------------------------------------------------------------------- frames, order


def test_masked_copies_are_not_counted(root: Path, frames: pd.DataFrame) -> None:
    """Naive: all JPEG files, twice as many."""
    files = list((root / CASTLE / "blended_images").glob("*.jpg"))
    assert len(files) == 18
    assert rows_of(frames, CASTLE).path.tolist() == [f"{CASTLE}/blended_images/{i:08d}.jpg" for i in range(9)]
    assert not frames.path.str.contains("_masked").any()


def test_what_is_missing_keeps_its_place(frames: pd.DataFrame, scene_rows: pd.DataFrame) -> None:
    rows = rows_of(frames, VILLA)
    assert rows.path.tolist() == [f"{VILLA}/blended_images/{i:08d}.jpg" for i in range(27)]
    assert rows.frame[rows.status == "missing"].tolist() == [11]
    assert rows.frame[rows.cam_from_world.isna()].tolist() == [4]
    assert rows.frame[rows.camera_model.isna()].tolist() == [4]
    detail = scene_rows.detail[VILLA]
    assert "without a camera file: 1" in detail
    assert "depth range is not positive: 1" in detail


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Naive: text order, by which 10 comes before 2."""
    stream = only(project_at(tmp_path / PROJECT, ("2", "10", "1")).parent)
    assert [path.rpartition("/")[2] for path in stream.paths] == ["1.jpg", "2.jpg", "10.jpg"]


def test_other_files_are_left_out_with_a_reason(tmp_path: Path) -> None:
    folder = project_at(tmp_path / PROJECT) / "blended_images"
    for name in ("00000000_masked.jpg", "00000000.png", "._00000000.jpg", "readme.txt", "cover.jpg"):
        (folder / name).write_bytes((folder / "00000000.jpg").read_bytes())
    stream = only(tmp_path)
    assert len(stream.paths) == 2
    assert {(path.rpartition("/")[2], why) for path, why, _ in stream.ignored} == {
        ("00000000.png", "named_twice"), ("._00000000.jpg", "hidden"), ("readme.txt", "unexpected_name"),
        ("cover.jpg", "unexpected_name"),
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- cameras


@pytest.mark.parametrize(("scene", "model"), MODELS)
def test_points_project_where_they_were_rendered(world: Path, frames: pd.DataFrame, scene: str, model: str) -> None:
    known, num = truth_of(world, scene, model), 0
    for number, (_, row) in enumerate(rows_of(frames, scene).iterrows()):
        if row.cam_from_world is None:
            continue
        assert known["names"][number] == row.path.rpartition("/")[2]
        points = known["points"][known["visible"][number]]
        pixels, depth = project(row, points)
        f, _, cx, cy = known["intrinsics"][number]
        inside = points @ known["cam_from_world"][number][:, :3].T + known["cam_from_world"][number][:, 3]
        np.testing.assert_allclose(pixels, inside[:, :2] / inside[:, 2:] * f + (cx, cy), atol=0.01)
        np.testing.assert_allclose(depth, inside[:, 2], rtol=1e-5)
        num += len(points)
    assert num > 1000


@pytest.mark.parametrize(("scene", "model"), MODELS)
def test_depth_maps_agree_with_the_projected_points(
    world: Path, root: Path, frames: pd.DataFrame, scene: str, model: str
) -> None:
    """The stored depth at a point's pixel is the point's depth; naive: rows from the top down, or half a pixel off."""
    known = truth_of(world, scene, model)
    errors: dict[str, list[np.ndarray]] = {"right": [], "half a pixel": [], "upside down": []}
    for number, (_, row) in enumerate(rows_of(frames, scene).iterrows()):
        if row.cam_from_world is None or row.status != "ok":
            continue
        assert row.depth_path == row.path.replace("blended_images", "rendered_depth_maps").replace(".jpg", ".pfm")
        stored = pfm(root / row.depth_path)
        assert stored.shape == (row.height, row.width)
        pixels, depth = project(row, known["points"][known["visible"][number]])
        errors["right"].append(np.abs(between_pixels(stored, pixels - 0.5) / depth - 1))
        errors["half a pixel"].append(np.abs(between_pixels(stored, pixels) / depth - 1))
        errors["upside down"].append(np.abs(between_pixels(stored[::-1], pixels - 0.5) / depth - 1))
    median = {kind: float(np.nanmedian(np.concatenate(found))) for kind, found in errors.items()}
    assert np.isfinite(np.concatenate(errors["right"])).sum() > 500
    assert median["right"] < 0.001
    assert min(median["half a pixel"], median["upside down"]) > 5 * median["right"]


def test_a_camera_by_hand(tmp_path: Path) -> None:
    """World to camera as written; the principal point as written, the origin being the image's corner."""
    project_at(tmp_path / PROJECT)
    cameras = only(tmp_path).cameras
    assert cameras is not None
    assert cameras.cam_from_world[0].tolist() == [[0, -1, 0, 1.5], [1, 0, 0, 2.5], [0, 0, 1, 3.5]]
    assert cameras.intrinsics[0].tolist() == [50.0, 51.0, 20.25, 15.75]
    assert cameras.size[0].tolist() == [40, 30]


def test_images_that_were_scaled_get_scaled_cameras(tmp_path: Path) -> None:
    """The depth maps have the size that the cameras speak of. Naive: the cameras as written, for any image."""
    folder = project_at(tmp_path / "root" / PROJECT, size=(40, 30))
    for number in range(2):
        write_pfm(folder / f"rendered_depth_maps/{number:08d}.pfm", 80, 60)
    index("blendedmvs", root=tmp_path / "root", catalogs=tmp_path / "catalogs", workers=1)
    found = catalog.read_frames("blendedmvs", catalogs=tmp_path / "catalogs")
    assert found.status.tolist() == ["ok", "ok"]
    np.testing.assert_allclose(found.intrinsics_px[0], [25.0, 25.5, 10.125, 7.875])
    (folder / "rendered_depth_maps/00000000.pfm").write_bytes(b"no depth map")
    assert only(tmp_path / "root").cameras.size[0].tolist() == [80, 60]  # type: ignore[union-attr]


BROKEN = {
    "": "not 'extrinsic'",
    "extrinsic\n1 0 0": "not 'extrinsic'",
    CAMERA[:110]: "not 'extrinsic'",
    CAMERA.replace("intrinsic", "intrinsics"): "not 'extrinsic'",
    CAMERA.replace("1.5", "one"): "could not convert",
    CAMERA.replace("1.5", "nan"): "not finite",
    CAMERA.replace("50.0", "inf"): "not finite",
    CAMERA.replace("-1.0", "1.0"): "no rigid motion",  # a mirror
    CAMERA.replace("-1.0", "-2.0"): "no rigid motion",
    CAMERA.replace("-1.0", "1e300"): "no rigid motion",
    CAMERA.replace("0.0 0.0 0.0 1.0", "0.0 0.0 0.5 1.0"): "no rigid motion",
    CAMERA.replace("50.0 0.0", "50.0 3.0"): "skew",
    CAMERA.replace("50.0", "-50.0"): "skew",
}


@pytest.mark.parametrize(("text", "why"), BROKEN.items(), ids=range(len(BROKEN)))
def test_a_camera_file_that_is_none_is_told(tmp_path: Path, text: str, why: str) -> None:
    folder = project_at(tmp_path / PROJECT)
    (folder / "cams/00000001_cam.txt").write_text(text)
    stream = only(tmp_path)
    assert stream.cameras is not None
    assert np.isfinite(stream.cameras.cam_from_world).all(axis=(1, 2)).tolist() == [True, False]
    assert stream.cameras.model == ("PINHOLE", None)
    assert "cannot be read: 1, the first being 00000001_cam.txt" in (stream.detail or "")
    assert why in (stream.detail or "")
    (folder / "cams/00000000_cam.txt").write_text(text)
    stream = only(tmp_path)
    assert (stream.problem, stream.cameras, len(stream.paths)) == ("bad_model", None, 2)


def test_projects_without_cameras_or_without_images(tmp_path: Path) -> None:
    folder = project_at(tmp_path / PROJECT)
    shutil.rmtree(folder / "cams")
    stream = only(tmp_path)
    assert (stream.problem, stream.cameras, len(stream.paths)) == ("no_model", None, 2)
    project_at(tmp_path / PROJECT)
    shutil.rmtree(folder / "blended_images")
    stream = only(tmp_path)
    assert (stream.problem, stream.paths) == ("empty", ())
    assert "camera files: 2" in (stream.detail or "")


@pytest.mark.parametrize(
    ("line", "is_told"),
    [("0.5 0.01 128.0 2.0", False), ("0.5 0.01", False), ("", False), ("0.5 0.01 128.0 0.0", True), ("-1 0.01", True),
     ("nan 1", True)],
)  # fmt: skip
def test_a_depth_range_that_is_not_positive_leaves_the_camera(tmp_path: Path, line: str, is_told: bool) -> None:
    folder = project_at(tmp_path / PROJECT)
    (folder / "cams/00000001_cam.txt").write_text(CAMERA.replace("0.5 0.01 128.0 2.0", line))
    stream = only(tmp_path)
    assert stream.cameras is not None
    assert np.isfinite(stream.cameras.cam_from_world).all()
    assert ("not positive: 1" in (stream.detail or "")) == is_told


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_text_gives_a_stream(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    fields = CAMERA.split(" ")
    for _ in range(data.draw(st.integers(1, 3))):
        word = st.sampled_from(["nan", "-inf", "1e999", "x", "", "1", "extrinsic", "\0", "٣", "-0.0"])
        fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(word)
    folder = project_at(tmp_path_factory.mktemp("fuzz") / PROJECT)
    text = " ".join(fields)
    (folder / "cams/00000001_cam.txt").write_text(text[: data.draw(st.integers(0, len(text)))])
    write_pfm(folder / "rendered_depth_maps/00000000.pfm", data.draw(st.integers(0, 50)), 30)
    stream = only(folder.parent)
    assert len(stream.paths) == 2
    assert stream.cameras is not None
    assert np.isfinite(stream.cameras.cam_from_world[0]).all()
    pose, lens = stream.cameras.cam_from_world[1], stream.cameras.intrinsics[1]
    assert np.isfinite(pose).all() == np.isfinite(lens).all() == (stream.cameras.model[1] is not None)


# ------------------------------------------------------------------------------------------------------------ mining


def test_runs_of_the_training_projects_are_sequences(catalogs: Path, frames: pd.DataFrame) -> None:
    mine_sequences("blendedmvs", catalogs=catalogs, workers=1)
    found = catalog.read_sequences("blendedmvs", catalogs=catalogs).set_index("scene")
    assert set(found.index) == {VILLA, PAGODA, TEMPLE}
    rows = rows_of(frames, VILLA)
    assert found.frames[VILLA].tolist() == rows.frame_id[rows.status == "ok"].tolist()
    assert found.num_frames[VILLA] == 26


def test_pictures_fit_their_cameras(world: Path, root: Path, frames: pd.DataFrame) -> None:
    """The same points look the same in two frames: colours at their pixels agree, and do not a few pixels beside."""
    known = truth_of(world, CASTLE, "0")
    rows = [row for _, row in rows_of(frames, CASTLE).iterrows()]
    images = [cv2.imread(str(root / row.path)).astype(np.float64) for row in rows]
    beside: dict[int, list[float]] = {0: [], 4: []}
    for a in range(len(rows) - 1):
        seen = known["visible"][a] & known["visible"][a + 1]
        for shift, found in beside.items():
            colours = []
            for number, by in ((a, 0), (a + 1, shift)):
                pixels = project(rows[number], known["points"][seen])[0] - 0.5 + by
                grid = pixels.astype(np.float32)
                colours.append(cv2.remap(images[number], grid[:, :1], grid[:, 1:], cv2.INTER_LINEAR)[:, 0])
            found.append(float(np.abs(colours[0] - colours[1]).mean()))
    assert np.mean(beside[0]) < 0.5 * np.mean(beside[4])
