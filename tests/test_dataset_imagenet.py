"""ImageNet: classes and splits of its layouts against a rendered copy, Kaggle's table, odd and hidden files."""

from __future__ import annotations

import csv
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog
from mumdata.datasets import imagenet
from mumdata.errors import LayoutError
from mumdata.index import index
from mumdata.schema import QUARANTINE
from mumdata.sequences import mine_sequences
from mumdata.tree import Tree

from .conftest import render, write_picture

KAGGLE = "ILSVRC/Data/CLS-LOC"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered copy, in class folders."""
    out = tmp_path_factory.mktemp("imagenet")
    render("imagenet", out)
    return out / "imagenet"


def classes(root: Path, split: str) -> dict[str, set[str]]:
    """Class -> file names, as rendered."""
    return {folder.name: {path.name for path in folder.iterdir()} for folder in (root / split).iterdir()}


def kaggle(demo: Path, root: Path, extra: tuple[tuple[str, str], ...] = ()) -> dict[str, set[str]]:
    """Lay the rendered copy out as Kaggle does, val without folders; return class -> names of val."""
    shutil.copytree(demo / "train", root / KAGGLE / "train")
    (root / KAGGLE / "val").mkdir()
    truth = classes(demo, "val")
    for wnid, names in truth.items():
        for name in names:
            shutil.copy(demo / "val" / wnid / name, root / KAGGLE / "val" / name)
    write_picture(root / KAGGLE / "test/ILSVRC2012_test_00000001.JPEG")
    rows = [(Path(name).stem, wnid) for wnid, names in truth.items() for name in names]
    with open(root / "LOC_val_solution.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("ImageId", "PredictionString"))
        # two objects in a picture are of one class
        table.writerows((stem, f"{wnid} 85 1 499 272 {wnid} 3 4 5 6 ") for stem, wnid in (*rows, *extra))
    return truth


def indexed(root: Path, catalogs: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    index("imagenet", root=root, catalogs=catalogs, workers=1)
    return catalog.read_frames("imagenet", catalogs=catalogs), catalog.read_scenes("imagenet", catalogs=catalogs)


def names_of(frames: pd.DataFrame, split: str) -> dict[str, set[str]]:
    own = frames[frames.split == split]
    return {str(scene): set(paths.str.rpartition("/")[2]) for scene, paths in own.groupby("scene", observed=True).path}


def test_class_folders_with_their_order(demo: Path, tmp_path: Path) -> None:
    frames, scenes = indexed(demo, tmp_path)
    for split in ("train", "val"):
        assert names_of(frames, split) == classes(demo, split)
    assert len(frames) == sum(len(names) for split in ("train", "val") for names in classes(demo, split).values())
    assert set(scenes.status) == {"complete"}
    assert frames.cam_from_world.isna().all()
    text_order_is_wrong = 0
    for _, own in frames.groupby(["split", "scene"], observed=True):
        numbers = [int(path.rpartition("_")[2].partition(".")[0]) for path in own.sort_values("frame").path]
        assert numbers == sorted(numbers)
        text_order_is_wrong += own.path.tolist() != sorted(own.path)
    assert text_order_is_wrong


def test_kaggles_flat_val_has_its_classes_by_the_table(demo: Path, tmp_path: Path) -> None:
    truth = kaggle(demo, tmp_path / "k")
    frames, scenes = indexed(tmp_path / "k", tmp_path / "c")
    assert names_of(frames, "val") == truth
    assert names_of(frames, "train") == classes(demo, "train")
    assert names_of(frames, "test") == {"unlabelled": {"ILSVRC2012_test_00000001.JPEG"}}
    assert set(scenes.status) == {"complete"}
    found = mine_sequences("imagenet", catalogs=tmp_path / "c", workers=1)
    assert found.rule == "single"
    assert found.num_sequences == sum(map(len, classes(demo, "train").values()))


def test_what_the_table_lists_and_is_not_there_is_said(demo: Path, tmp_path: Path) -> None:
    truth = kaggle(demo, tmp_path / "k", (("ILSVRC2012_val_00049999", "n00000001"),))
    wnid, names = next((wnid, names) for wnid, names in truth.items() if len(names) > 1)
    gone = sorted(names)[0]
    (tmp_path / "k" / KAGGLE / "val" / gone).unlink()
    write_picture(tmp_path / "k" / KAGGLE / "val/stray.JPEG")
    frames, scenes = indexed(tmp_path / "k", tmp_path / "c")
    val = frames[frames.split == "val"].set_index("path")
    assert val[val.status == "missing"].index.tolist() == [f"{KAGGLE}/val/{gone}"]
    rows = scenes[scenes.split == "val"].set_index("scene")
    assert (rows.status[wnid], rows.status["n00000001"]) == ("missing_images", "empty")
    assert rows.num_frames["n00000001"] == 0
    assert val.scene[f"{KAGGLE}/val/stray.JPEG"] == "unlabelled"


def test_without_the_table_flat_images_are_unlabelled(demo: Path, tmp_path: Path) -> None:
    truth = kaggle(demo, tmp_path / "k")
    (tmp_path / "k/LOC_val_solution.csv").unlink()
    frames, _ = indexed(tmp_path / "k", tmp_path / "c")
    assert names_of(frames, "val") == {"unlabelled": set.union(*truth.values())}


def test_unpacked_original_tars(demo: Path, tmp_path: Path) -> None:
    """The val tar is flat, and the test tar of 2019 holds a folder `test`."""
    root = tmp_path / "o"
    truth = kaggle(demo, root)
    for split in ("train", "val"):
        (root / KAGGLE / split).rename(root / split)
    (root / "test").mkdir()
    (root / KAGGLE / "test").rename(root / "test/test")
    frames, _ = indexed(root, tmp_path / "c")
    assert names_of(frames, "val") == truth
    assert names_of(frames, "train") == classes(demo, "train")
    assert frames[frames.split == "test"].path.tolist() == ["test/test/ILSVRC2012_test_00000001.JPEG"]
    assert set(frames[frames.split == "test"].scene) == {"unlabelled"}


def test_original_tars_are_read_as_class_folders(demo: Path, tmp_path: Path) -> None:
    """The training tar holds a tar for each class."""

    def pack(target: Path, files: list[tuple[str, Path]]) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(target, "w") as archive:
            for name, path in files:
                archive.add(path, name)
        return target

    inner = []
    for folder in (demo / "train").iterdir():
        files = [(path.name, path) for path in folder.iterdir()]
        inner.append((f"{folder.name}.tar", pack(tmp_path / "inner" / f"{folder.name}.tar", files)))
    pack(tmp_path / "r/ILSVRC2012_img_train.tar", inner)
    val = [(path.name, path) for path in (demo / "val").glob("*/*")]
    pack(tmp_path / "r/ILSVRC2012_img_val.tar", val)
    frames, _ = indexed(tmp_path / "r", tmp_path / "c")
    assert names_of(frames, "train") == classes(demo, "train")
    assert names_of(frames, "val") == {"unlabelled": {name for name, _ in val}}
    assert set(frames.status) == {"ok"}
    first = frames[frames.split == "train"].iloc[0]
    assert (first.width, first.height) == cv2.imread(str(next(demo.rglob(Path(first.path).name)))).shape[1::-1]
    whole, _ = indexed(demo, tmp_path / "d")
    assert frames[frames.split == "train"].width.tolist() == whole[whole.split == "train"].width.tolist()


def test_odd_files_are_kept_and_hidden_ones_named(tmp_path: Path) -> None:
    """A PNG with four channels under a JPEG's name is usable; a macOS resource fork is no image."""
    folder = tmp_path / "r/train/n02105855"
    png = cv2.imencode(".png", np.full((20, 30, 4), 128, np.uint8))[1].tobytes()
    folder.mkdir(parents=True)
    (folder / "n02105855_2933.JPEG").write_bytes(png)
    (folder / "._n02105855_2933.JPEG").write_bytes(bytes(4096))
    (folder / "list.txt").write_text("x")
    write_picture(folder / "n02105855_1.JPEG")
    frames, scenes = indexed(tmp_path / "r", tmp_path / "c")
    assert frames.path.str.rpartition("_")[2].tolist() == ["1.JPEG", "2933.JPEG"]
    assert frames.status.tolist() == ["ok", "ok"]
    assert frames.width.tolist() == [32, 30]
    bad = catalog.read(QUARANTINE, tmp_path / "c/imagenet/quarantine.parquet").to_pandas()
    reasons = dict(zip(bad.path.str.rpartition("/")[2], bad.reason, strict=True))
    assert reasons == {"._n02105855_2933.JPEG": "hidden", "list.txt": "not_an_image"}
    assert "n02105855_2933.JPEG" in scenes.detail[0]


def test_known_bad_names_files_and_drops_none() -> None:
    entries = imagenet.SPEC.known_bad
    assert len(entries) == 23
    assert not any(entry.drop for entry in entries)
    assert all(entry.path is not None and entry.path.startswith(f"/{entry.scene}_") for entry in entries)
    assert sum("CMYK" in entry.reason for entry in entries) == 22
    assert imagenet.SPEC.num_frames == 1_281_167 + 50_000 + 100_000


@settings(max_examples=60, deadline=None)
@given(data=st.one_of(st.binary(max_size=300), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
def test_a_broken_table_is_no_traceback(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp() / "broken"
    if not root.exists():
        write_picture(root / "val/ILSVRC2012_val_00000001.JPEG")
    for head in (b"", b"ImageId,PredictionString\n"):
        (root / "LOC_val_solution.csv").write_bytes(head + data)
        tree = Tree(root)
        try:
            scenes = imagenet.scenes(tree)
        except LayoutError:  # which names the file: see below
            continue
        assert len({(scene.split, scene.scene) for scene in scenes}) == len(scenes)
        paths = [path for scene in scenes for stream in imagenet.read(tree, scene) for path in stream.paths]
        assert paths.count("val/ILSVRC2012_val_00000001.JPEG") == 1


def test_a_table_line_as_of_another_program(tmp_path: Path) -> None:
    write_picture(tmp_path / "val/a.JPEG")
    table = "ImageId,PredictionString\n../x,n1 1 1 1 1\na\n,n2 1\n"
    (tmp_path / "LOC_val_solution.csv").write_text(table + "b" * 200_000)
    with pytest.raises(LayoutError, match=r"LOC_val_solution\.csv"):
        imagenet.scenes(Tree(tmp_path))
    (tmp_path / "LOC_val_solution.csv").write_text(table)
    assert [scene.scene for scene in imagenet.scenes(Tree(tmp_path))] == ["unlabelled"]
