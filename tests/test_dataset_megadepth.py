"""MegaDepth: depth and poses against the rendering; equal layouts must give equal catalogs; splits and doubts."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest

from mumdata import catalog
from mumdata.datasets import megadepth
from mumdata.errors import LayoutError
from mumdata.geometry import project
from mumdata.index import index
from mumdata.schema import QUARANTINE
from mumdata.sequences import mine_sequences
from mumdata.tree import Tree

from .conftest import render, write_picture

RAW, FLAT = "0070", "0148"  # the scenes of the rendered copy: original archives, undistorted for D2-Net
V1 = "phoenix/S6/zl548/MegaDepth_v1"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered copy."""
    out = tmp_path_factory.mktemp("megadepth")
    render("megadepth", out)
    return out / "megadepth"


@pytest.fixture(scope="module")
def frames(demo: Path) -> pd.DataFrame:
    return indexed(demo, demo.parent / "catalogs")[0]


def indexed(root: Path, catalogs: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    index("megadepth", root=root, catalogs=catalogs, workers=1)
    found = catalog.read_frames("megadepth", catalogs=catalogs)
    # a name for the absence of a stream makes the tables easy to ask
    for column in ("stream", "split"):
        found[column] = found[column].astype(object).where(found[column].notna(), "-")
    return found, catalog.read_scenes("megadepth", catalogs=catalogs)


def truth_of(demo: Path, scene: str, stream: str) -> dict[str, np.ndarray]:
    with np.load(demo.parent / "truth/megadepth" / scene / f"{stream}.npz") as file:
        return dict(file)


def of(frames: pd.DataFrame, scene: str, stream: str) -> pd.DataFrame:
    own = frames[(frames.scene == scene) & (frames["stream"] == stream)]
    return own.assign(name=own.path.str.rpartition("/")[2])


def depth_map(path: Path) -> np.ndarray:
    with h5py.File(io.BytesIO(path.read_bytes())) as file:
        return np.asarray(file["depth"])


def depth_errors(stored: np.ndarray, pixels: np.ndarray, depth: np.ndarray, centre: float = 0.5) -> np.ndarray:
    """Relative errors of stored depth at pixels; `centre` is where the top-left pixel has its centre.

    Between pixel centres the inverse of depth is interpolated, which is exact on planes.
    """
    inverse = np.divide(1, stored, out=np.zeros_like(stored), where=stored > 0)
    at = (pixels.astype(np.float32) - np.float32(centre))[None]
    return np.abs(cv2.remap(inverse, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0] * depth - 1)


def without(frames: pd.DataFrame) -> pd.DataFrame:
    """What two indexes of the same pictures at other places must agree on."""
    kept = frames.drop(columns=["frame_id", "path", "depth_path", "mtime_ns"]).astype(object)
    return kept.assign(name=frames.path.str.rpartition("/")[2]).reset_index(drop=True)


def link(target: Path, source: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def test_depth_fits_the_undistorted_pictures(demo: Path, frames: pd.DataFrame) -> None:
    """The depth under a projected point is the point's; naively, with pixel centres at whole numbers, it is not."""
    own, truth = of(frames, FLAT, "0"), truth_of(demo, FLAT, "0")
    errors: dict[float, list[np.ndarray]] = {0.5: [], 0.0: []}
    for place, name in enumerate(truth["names"]):
        row = own[own.name == str(name)].iloc[0]
        stored = depth_map(demo / row.depth_path)
        assert stored.shape == (row.height, row.width)
        points = truth["points"][truth["visible"][place]]
        matrix = np.asarray(row.cam_from_world, np.float64).reshape(3, 4)
        pixels, depth = project(points, matrix, row.camera_model, row.intrinsics_px, row.distortion)
        for centre, found in errors.items():
            found.append(depth_errors(stored, pixels, depth, centre))
    right, naive = (np.concatenate(errors[centre]) for centre in (0.5, 0.0))
    assert len(right) > 10_000
    assert np.median(right) < 0.002
    assert np.mean(right < 0.01) > 1.4 * np.mean(naive < 0.01)


def test_depth_of_the_originals_is_left_alone(demo: Path, frames: pd.DataFrame) -> None:
    """The depth maps of MegaDepth_v1 do not fit the photos that the models were made from (issue 71 of d2-net)."""
    for stream in "01":
        own = of(frames, RAW, stream)
        assert set(own.camera_model) == {"SIMPLE_RADIAL"}
        assert own.depth_path.isna().all()
        assert own.intrinsics_px.notna().all()
        assert (demo / V1 / RAW / f"dense{stream}/depths").is_dir()


def test_undistorted_photos_have_poses_and_depth_but_no_intrinsics(demo: Path, tmp_path: Path) -> None:
    """The cameras of the models are those of the distorted photos, which are not here."""
    link(tmp_path / "r/phoenix", demo / "phoenix")
    link(tmp_path / "r/MegaDepth_v1_SfM" / RAW / "sparse", demo / "MegaDepth_v1_SfM" / RAW / "sparse")
    found, scenes = indexed(tmp_path / "r", tmp_path / "c")
    errors = []
    for stream in "01":
        own, truth = of(found, RAW, stream), truth_of(demo, RAW, stream)
        assert set(own.status) == {"ok"}
        assert own.intrinsics_px.isna().all()
        for place, name in enumerate(truth["names"]):
            row = own[own.name == str(name)].iloc[0]
            assert np.allclose(row.cam_from_world, truth["cam_from_world"][place].reshape(-1), atol=1e-4)
            # the intrinsics that were never released show that depth and poses belong together
            points = truth["points"][truth["visible"][place]]
            matrix = np.asarray(row.cam_from_world, np.float64).reshape(3, 4)
            pixels, depth = project(points, matrix, "PINHOLE", truth["dense_intrinsics"][place], ())
            stored = depth_map(tmp_path / "r" / row.depth_path)
            inside = ((pixels >= 0) & (pixels < [row.width, row.height])).all(axis=1)
            errors.append(depth_errors(stored, pixels[inside], depth[inside]))
    assert sum(map(len, errors)) > 10_000
    assert np.median(np.concatenate(errors)) < 0.002
    # 0148 has images and depth, and no model here
    assert set(scenes[scenes.scene == FLAT].status) == {"no_model"}
    assert of(found, FLAT, "0").depth_path.notna().all()


@pytest.mark.parametrize("nest", ["train", "data/megadepth", "data/megadepth/train"])
def test_nested_layouts_give_the_same(demo: Path, frames: pd.DataFrame, tmp_path: Path, nest: str) -> None:
    for name in ("phoenix", "Undistorted_SfM"):
        link(tmp_path / "r" / nest / name, demo / name)
    found, _ = indexed(tmp_path / "r", tmp_path / "c")
    ours, theirs = of(found, FLAT, "0"), of(frames, FLAT, "0")
    pd.testing.assert_frame_equal(without(ours), without(theirs))
    assert ours.path.str.startswith(f"{nest}/Undistorted_SfM/").all()
    assert ours.depth_path.str.startswith(f"{nest}/phoenix/").all()


def test_train_and_test_of_loftr_are_no_split(demo: Path, tmp_path: Path) -> None:
    """Both folders link to the same photos: listed naively, every photo would be there twice."""
    for nest in ("train", "test"):
        for name in ("phoenix", "Undistorted_SfM"):
            link(tmp_path / "r" / nest / name, demo / name)
    found, scenes = indexed(tmp_path / "r", tmp_path / "c")
    assert scenes.scene.tolist().count(FLAT) == 1
    assert set(found.split) == {"-"}
    assert found.path.str.rpartition("/")[2].value_counts().groupby(level=0).sum()[of(found, FLAT, "0").name].max() == 1


def test_merged_by_scene_gives_the_same_as_the_archives(demo: Path, frames: pd.DataFrame, tmp_path: Path) -> None:
    sfm = demo / "MegaDepth_v1_SfM" / RAW
    link(tmp_path / "r" / RAW / "images", sfm / "images")
    link(tmp_path / "r" / RAW / "sparse", sfm / "sparse")
    for k in "01":
        link(tmp_path / "r" / RAW / f"dense{k}", demo / V1 / RAW / f"dense{k}")
    found, _ = indexed(tmp_path / "r", tmp_path / "c")
    own = frames[frames.scene == RAW]
    pd.testing.assert_frame_equal(without(found), without(own))


def test_photos_alone_are_listed_without_a_model(demo: Path, tmp_path: Path) -> None:
    link(tmp_path / "r" / RAW / "images", demo / "MegaDepth_v1_SfM" / RAW / "images")
    shutil.copytree(demo / "Undistorted_SfM" / FLAT / "images", tmp_path / "r/Undistorted_SfM" / FLAT / "images")
    (tmp_path / "r/Undistorted_SfM" / FLAT / "images/._1.jpg").write_bytes(bytes(10))
    found, scenes = indexed(tmp_path / "r", tmp_path / "c")
    assert set(scenes.status) == {"no_model"}
    for scene, stream, folder in ((RAW, "-", f"MegaDepth_v1_SfM/{RAW}"), (FLAT, "0", f"Undistorted_SfM/{FLAT}")):
        assert set(of(found, scene, stream).name) == {path.name for path in (demo / folder / "images").iterdir()}
    assert len(found) == len(of(found, RAW, "-")) + len(of(found, FLAT, "0"))
    bad = catalog.read(QUARANTINE, tmp_path / "c/megadepth/quarantine.parquet").to_pandas()
    assert bad.reason.tolist() == ["hidden"]


def test_an_incomplete_undistorted_model_is_named_and_its_photos_listed(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo / "Undistorted_SfM" / FLAT, tmp_path / "r/Undistorted_SfM" / FLAT)
    shutil.rmtree(tmp_path / "r/Undistorted_SfM" / FLAT / "sparse-txt")
    (tmp_path / "r/Undistorted_SfM" / FLAT / "sparse/points3D.bin").unlink()
    found, scenes = indexed(tmp_path / "r", tmp_path / "c")
    assert scenes.status.tolist() == ["bad_model"]
    assert f"Undistorted_SfM/{FLAT}/sparse holds no complete model" in scenes.detail[0]
    assert set(found.status) == {"ok"}
    assert len(found) == len(list((demo / "Undistorted_SfM" / FLAT / "images").iterdir()))


@pytest.mark.parametrize("folder", ["", "megadepth_utils"])
def test_splits_are_those_of_d2nets_lists(demo: Path, frames: pd.DataFrame, tmp_path: Path, folder: str) -> None:
    assert set(frames.split) == {"-"}  # no lists, no splits
    for name in ("phoenix", "Undistorted_SfM", "MegaDepth_v1_SfM"):
        link(tmp_path / "r" / name, demo / name)
    write_picture(tmp_path / "r/0999/images/1_aa_o.jpg")
    (tmp_path / "r" / folder).mkdir(exist_ok=True)
    (tmp_path / "r" / folder / "train_scenes.txt").write_text(f"{RAW}\n5017\nnonsense\n")
    (tmp_path / "r" / folder / "valid_scenes.txt").write_text(f"{FLAT}\r\n")
    found, _ = indexed(tmp_path / "r", tmp_path / "c")
    splits = dict(found[["scene", "split"]].drop_duplicates().itertuples(index=False))
    assert splits == {RAW: "train", FLAT: "val", "0999": "-"}
    mine_sequences("megadepth", catalogs=tmp_path / "c", per_scene=2, workers=1)
    assert set(catalog.read_sequences("megadepth", catalogs=tmp_path / "c").scene) == {RAW}


def test_a_scene_of_both_lists_is_not_trained_on(tmp_path: Path) -> None:
    write_picture(tmp_path / "0001/images/1_aa_o.jpg")
    (tmp_path / "train_scenes.txt").write_text("0001\n")
    (tmp_path / "valid_scenes.txt").write_text("0001\n")
    assert [scene.split for scene in megadepth.scenes(Tree(tmp_path))] == ["val"]


def test_what_is_said_to_be_wrong_is_kept_and_evaluation_scenes_are_not_mined() -> None:
    spec = megadepth.SPEC
    scenes = [entry.scene for entry in spec.known_bad if entry.scene]
    assert all(len(scene) == 4 and scene.isdecimal() for scene in scenes)
    assert len(scenes) == len(set(scenes)) == 3 + 13
    assert {"0092", "0132", "5017", "0430"} <= set(scenes)
    assert not any(entry.drop for entry in spec.known_bad)
    assert [entry for entry in spec.known_bad if entry.scene is None and "ordinal" in entry.reason]
    by_benchmark = pd.Series(spec.eval_scenes).groupby(spec.eval_scenes.get).groups
    assert {name: len(group) for name, group in by_benchmark.items()} == {
        "megadepth-1500": 2,
        "dkm-megadepth": 4,
        "imc-2021": 8,
    }
    assert spec.num_scenes == 117 + 77 + 2


def test_folders_of_years_are_no_scenes_without_images(tmp_path: Path) -> None:
    (tmp_path / "2019/holiday").mkdir(parents=True)
    (tmp_path / "12345/images").mkdir(parents=True)
    with pytest.raises(LayoutError, match="does not look like megadepth"):
        megadepth.scenes(Tree(tmp_path))
