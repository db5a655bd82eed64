"""MegaScenes: models under both names, photos under two categories, names of the web, against the rendering."""

from __future__ import annotations

import shutil
import unicodedata
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from mumdata import catalog
from mumdata.datasets import Scene, megascenes
from mumdata.geometry import project
from mumdata.index import index
from mumdata.schema import QUARANTINE
from mumdata.sequences import mine_sequences
from mumdata.tree import Tree

from .conftest import render, write_picture

CASTLE, PAGODA = "014142", "271828"
PLACE = "reconstruct/014/142"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered copy."""
    out = tmp_path_factory.mktemp("megascenes")
    render("megascenes", out)
    return out / "megascenes"


@pytest.fixture(scope="module")
def frames(demo: Path) -> pd.DataFrame:
    return indexed(demo, demo.parent / "catalogs")[0]


def indexed(root: Path, catalogs: Path, all_images: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    index("megascenes", root=root, catalogs=catalogs, workers=1, all_images=all_images)
    return catalog.read_frames("megascenes", catalogs=catalogs), catalog.read_scenes("megascenes", catalogs=catalogs)


def truth_of(demo: Path, scene: str, stream: str) -> dict[str, np.ndarray]:
    with np.load(demo.parent / "truth/megascenes" / scene / f"{stream}.npz") as file:
        return dict(file)


def of(frames: pd.DataFrame, scene: str, stream: str) -> pd.DataFrame:
    own = frames[(frames.scene == scene) & (frames["stream"] == stream)]
    return own.assign(name=own.path.str.split("/", n=3).str[3])


def copied(demo: Path, tmp_path: Path) -> Path:
    shutil.copytree(demo, tmp_path / "r")
    return tmp_path / "r"


def test_photos_of_a_stream_are_those_of_its_model(demo: Path, frames: pd.DataFrame) -> None:
    """Names hold spaces, commas, brackets, apostrophes and other scripts, bytes of UTF-8 in the model's file."""
    streams = [(CASTLE, "0"), (CASTLE, "1"), (PAGODA, "0")]
    assert set(zip(frames.scene, frames["stream"], strict=True)) == set(streams)
    for scene, stream in streams:
        own, truth = of(frames, scene, stream), truth_of(demo, scene, stream)
        assert sorted(own.name) == sorted(map(str, truth["names"]))
        assert set(own.status) == {"ok"}
        assert set(own.group) == {scene}
        assert own.split.isna().all()
        # a camera describes the stored pixels: no turning
        assert own.upright_quarter_turns.isna().all()
    assert frames.path.map(lambda path: not path.isascii()).any()
    assert frames.path.str.contains("'").any()
    assert frames.path.str.contains("(", regex=False).any()


def test_a_point_looks_the_same_where_two_photos_see_it(demo: Path, frames: pd.DataFrame) -> None:
    """So cameras and photos belong together; photos in the order of their names do not fit the model's cameras."""
    own, truth = of(frames, CASTLE, "0"), truth_of(demo, CASTLE, "0")
    place = {str(name): row for row, name in enumerate(truth["names"])}
    by_name = own.sort_values("name").path.tolist()
    differs = {}
    for kind, paths in (("of the model", own.path.tolist()), ("as named", by_name)):
        seen: list[list[np.ndarray]] = [[] for _ in truth["points"]]
        for row, path in zip(own.itertuples(), paths, strict=True):
            visible = np.flatnonzero(truth["visible"][place[row.name]])
            matrix = np.asarray(row.cam_from_world, np.float64).reshape(3, 4)
            points = truth["points"][visible]
            pixels, _ = project(points, matrix, row.camera_model, row.intrinsics_px, row.distortion)
            image = cv2.imdecode(np.fromfile(demo / path, np.uint8), cv2.IMREAD_COLOR).astype(np.float32)
            # colours as shares, since photos differ in exposure
            at = (pixels.astype(np.float32) - np.float32(0.5))[None]
            colour = cv2.remap(image, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
            share = colour / (colour.sum(axis=1, keepdims=True) + 1)
            for point, value in zip(visible, share, strict=True):
                seen[point].append(value)
        spreads = [np.std(values, axis=0).mean() for values in seen if len(values) >= 4]
        assert len(spreads) > 300
        differs[kind] = np.median(spreads)
    assert differs["of the model"] < 0.7 * differs["as named"]


@pytest.mark.parametrize("name", ["sparses", "both"])
def test_models_lie_where_the_readme_says_or_where_the_bucket_has_them(
    demo: Path, frames: pd.DataFrame, tmp_path: Path, name: str
) -> None:
    root = copied(demo, tmp_path)
    if name == "sparses":
        (root / PLACE / "colmap").rename(root / PLACE / "sparses")
    else:
        # one model under each name, and a broken copy that the bucket's name comes before
        (root / PLACE / "sparses").mkdir()
        (root / PLACE / "colmap/1").rename(root / PLACE / "sparses/1")
        shutil.copytree(root / PLACE / "colmap/0", root / PLACE / "sparses/0")
        (root / PLACE / "sparses/0/images.bin").write_bytes(b"\1")
    found, _ = indexed(root, tmp_path / "c")
    columns = [column for column in frames.columns if column != "mtime_ns"]
    pd.testing.assert_frame_equal(found[columns], frames[columns])


def test_a_repack_in_two_archives_gives_the_same(demo: Path, frames: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    for name in ("images", "reconstruct"):
        with zipfile.ZipFile(tmp_path / "r" / f"{name}.zip", "w") as archive:
            for path in sorted((demo / name).rglob("*")):
                archive.write(path, path.relative_to(demo))
    found, _ = indexed(tmp_path / "r", tmp_path / "c")
    for column in ("scene", "stream", "frame", "path", "width", "height", "camera_model", "num_points", "status"):
        assert found[column].tolist() == frames[column].tolist(), column
    assert np.array_equal(np.stack(found.cam_from_world), np.stack(frames.cam_from_world))


def test_models_are_in_order_of_their_numbers(demo: Path, tmp_path: Path) -> None:
    root = copied(demo, tmp_path)
    shutil.copytree(root / PLACE / "colmap/1", root / PLACE / "colmap/10")
    shutil.copytree(root / PLACE / "colmap/1", root / PLACE / "colmap/2")
    (root / PLACE / "colmap/log").mkdir()
    scene = next(scene for scene in megascenes.scenes(Tree(root)) if scene.scene == CASTLE)
    streams = megascenes.read(Tree(root), scene)
    assert [stream.stream for stream in streams] == ["0", "1", "2", "10", None]


def test_a_photo_of_two_categories_is_two_frames_of_one_photo(demo: Path, frames: pd.DataFrame) -> None:
    """Its copies have one camera; naively, a chain could step from a photo to itself."""
    own = of(frames, CASTLE, "0")
    twice = own[own.name.str.rpartition("/")[2].duplicated(keep=False)]
    assert len(twice) == 2
    assert np.allclose(twice.cam_from_world.iloc[0], twice.cam_from_world.iloc[1])
    assert megascenes.SPEC.copies_by_name
    mine_sequences("megascenes", catalogs=demo.parent / "catalogs", workers=1)
    sequences = catalog.read_sequences("megascenes", catalogs=demo.parent / "catalogs")
    assert len(sequences)
    assert not any(set(twice.frame_id) <= set(row) for row in sequences.frames.map(list))


def test_other_photos_and_files_come_with_all_images(demo: Path, tmp_path: Path) -> None:
    root = copied(demo, tmp_path)
    pictures = next(path for path in (root / "images/271/828/commons").rglob("pictures"))
    for name in ("film.webm", "._photo.jpg"):
        (pictures / name).write_bytes(b"x")
    write_picture(root / "images/000/001/commons/A/0/pictures/a.jpg")
    found, scenes = indexed(root, tmp_path / "c", all_images=True)
    loose = found[found["stream"].isna()]
    on_disk = {path.relative_to(root).as_posix() for path in root.glob("images/*/*/commons/*/0/pictures/*")}
    assert set(found.path) == on_disk - {
        str((pictures / name).relative_to(root)) for name in ("film.webm", "._photo.jpg")
    }
    assert set(loose.path).isdisjoint(found[found["stream"].notna()].path)
    assert "000001" in set(loose.scene)
    assert set(scenes[scenes["stream"].isna()].status) == {"no_model"}
    bad = catalog.read(QUARANTINE, tmp_path / "c/megascenes/quarantine.parquet").to_pandas()
    assert dict(zip(bad.path.str.rpartition("/")[2], bad.reason, strict=True)) == {
        "film.webm": "not_an_image",
        "._photo.jpg": "hidden",
    }
    _, plain = indexed(root, tmp_path / "d")
    row = plain[plain.scene == "000001"].iloc[0]
    assert (row.status, row.num_frames) == ("no_model", 0)
    assert "1 photos that no model registers" in row.detail


def test_names_in_another_unicode_form_are_found(demo: Path, frames: pd.DataFrame, tmp_path: Path) -> None:
    """Some file systems store letters and accents apart: compared byte by byte, those photos would be missing."""
    root = copied(demo, tmp_path)
    changed = 0
    for path in list(root.glob("images/*/*/commons/*/0/pictures/*")):
        name = unicodedata.normalize("NFD", path.name)
        changed += name != path.name
        path.rename(path.with_name(name))
    assert changed > 5
    found, _ = indexed(root, tmp_path / "c")
    assert set(found.status) == {"ok"}
    assert found.path.map(lambda path: unicodedata.normalize("NFC", path)).tolist() == frames.path.tolist()


def test_a_scene_without_its_photos_and_one_with_a_broken_model(demo: Path, tmp_path: Path) -> None:
    root = copied(demo, tmp_path)
    shutil.rmtree(root / "images/271")
    data = (root / PLACE / "colmap/0/points3D.bin").read_bytes()
    (root / PLACE / "colmap/0/points3D.bin").write_bytes(data[:-9])
    _, scenes = indexed(root, tmp_path / "c")
    status = {(row.scene, row.stream): row.status for row in scenes.itertuples()}
    assert status == {(CASTLE, "0"): "bad_model", (CASTLE, "1"): "complete", (PAGODA, "0"): "missing_images"}


def test_scene_ids_are_two_folders_of_three_digits(tmp_path: Path) -> None:
    for path in ("images/000/533/commons", "reconstruct/999/001/colmap/0", "images/12/345", "images/123/45a", "other"):
        (tmp_path / path).mkdir(parents=True)
    assert megascenes.scenes(Tree(tmp_path)) == [
        Scene(None, "000533", ("000/533",)),
        Scene(None, "999001", ("999/001",)),
    ]
