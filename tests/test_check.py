"""`mumdata check` and `mumdata datasets`: every layout is itself and nothing else, and a look is bounded."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import itertools
import lzma
import os
import re
import shlex
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mumdata.bounded import ALL_ENTRIES, ALL_LOOKS, expand
from mumdata.check import Check, Found, check, render_check
from mumdata.datasets import NAMES, load
from mumdata.errors import ConfigError, LayoutError
from mumdata.index import index
from mumdata.overview import known_datasets, render_dataset
from mumdata.tree import Tree

from .conftest import write_picture
from .test_shards import write_shards

NAMED = [name for name in NAMES if name not in ("folder", "colmap")]
HASH, CLIP, PROJECT, HEX10, VIDEO = "0f" * 32, "0123456789abcdef", "5b7a3890fc8fcf6781e2593a", "0a1b2c3d4e", "41098034"
FLICKR = "1000557903_87fa96b8a4_o.jpg"

# (dataset, layout as its users know it) -> files, pictures among them by their ending
TREES: dict[tuple[str, str], tuple[str, ...]] = {
    ("streetview", "both"): tuple(
        f"dataset_aligned/0001/000000{n}_0000001_000000{n}_0000001.{end}" for n in (1, 2) for end in ("jpg", "txt")
    ),
    ("streetview", "one"): ("0006/0000001_0000001_0000001_0000001.jpg", "0006/0000001_0000001_0000001_0000001.txt"),
    ("wildrgbd", "categories"): tuple(
        f"TV/scenes/scene_001/{name}"
        for name in ("cam_poses.txt", "metadata", "rgb/00000.png", "depth/00000.png", "masks/00000.png")
    ),
    ("dl3dv", "batches"): (f"1K/{HASH}/images_8/frame_00001.png", f"1K/{HASH}/transforms.json"),
    ("dl3dv", "benchmark"): (
        f"{HASH}/nerfstudio/images_8/frame_00001.png",
        f"{HASH}/nerfstudio/transforms.json",
        f"{HASH}/colmap/images/frame_00001.png",
        f"{HASH}/colmap/colmap/sparse/0/images.bin",
    ),
    ("realestate10k", "downloader"): (f"RealEstate10K/train/{CLIP}.txt", f"dataset/train/{CLIP}/99966667.png"),
    ("realestate10k", "by split"): (f"test/{CLIP}.txt", f"test/{CLIP}/99966667.jpg"),
    ("realestate10k", "images"): (f"train/images/{CLIP}/99966667.jpg",),
    ("realestate10k", "by clip"): (f"{CLIP}.txt", f"{CLIP}/images/0000.png", f"{CLIP}/images/0001.png"),
    ("imagenet", "folders"): ("train/n01440764/n01440764_10026.JPEG", "val/n01440764/ILSVRC2012_val_00000293.JPEG"),
    ("imagenet", "kaggle"): (
        "ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG",
        "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000293.JPEG",
        "ILSVRC/ImageSets/CLS-LOC/train_cls.txt",
        "LOC_synset_mapping.txt",
    ),
    ("megascenes", "bucket"): (
        "reconstruct/000/533/colmap/0/images.bin",
        "reconstruct/000/533/colmap/0/cameras.bin",
        "reconstruct/000/533/colmap/0/points3D.bin",
        "images/000/533/commons/A_b/0/pictures/Ä b.jpg",
        "databases/main/000/533/database.db",
    ),
    ("megascenes", "readme"): ("reconstruct/000/533/sparses/0/images.bin", "images/000/533/commons/A/0/pictures/b.JPG"),
    ("scannetpp", "release"): (
        f"data/{HEX10}/dslr/train_test_lists.json",
        f"data/{HEX10}/dslr/resized_images/DSC00001.JPG",
        f"data/{HEX10}/dslr/colmap/images.txt",
        f"data/{HEX10}/dslr/colmap/cameras.txt",
        "splits/nvs_sem_train.txt",
    ),
    ("co3d", "version 2"): (
        "apple/frame_annotations.jgz",
        "apple/set_lists/set_lists_fewview_train.json",
        "apple/110_13051_23361/images/frame000001.jpg",
        "apple/110_13051_23361/masks/frame000001.png",
    ),
    ("co3d", "version 1"): (
        "car/frame_annotations.jgz",
        "car/set_lists.json",
        "car/336_34852_64130/images/frame000001.jpg",
    ),
    ("megadepth", "archives"): (
        f"phoenix/S6/zl548/MegaDepth_v1/0015/dense0/imgs/{FLICKR}",
        "phoenix/S6/zl548/MegaDepth_v1/0015/dense0/depths/1000557903_87fa96b8a4_o.h5",
        "MegaDepth_v1_SfM/0015/sparse/manhattan/0/images.bin",
    ),
    ("megadepth", "d2-net"): (f"Undistorted_SfM/0015/images/{FLICKR}", "Undistorted_SfM/0015/sparse-txt/images.txt"),
    ("megadepth", "loftr"): (f"train/Undistorted_SfM/0015/images/{FLICKR}", "index/scene_info_0.1_0.7/0015_0.npz"),
    ("megadepth", "roma"): (
        f"data/megadepth/Undistorted_SfM/0015/images/{FLICKR}",
        "data/megadepth/prep_scene_info/0015.npy",
    ),
    ("megadepth", "dust3r"): (
        f"0015/dense0/imgs/{FLICKR}",
        "0015/sparse/manhattan/0/images.txt",
        "megadepth_pairs.npz",
    ),
    ("megadepth", "croco"): (f"0015/images/{FLICKR}",),
    ("blendedmvs", "projects"): (
        f"{PROJECT}/cams/pair.txt",
        f"{PROJECT}/blended_images/00000000.jpg",
        f"{PROJECT}/rendered_depth_maps/00000000.pfm",
    ),
    ("arkitscenes", "3dod"): (
        "3dod/metadata.csv",
        f"3dod/Training/{VIDEO}/{VIDEO}_frames/lowres_wide/{VIDEO}_1.233.png",
        f"3dod/Training/{VIDEO}/{VIDEO}_frames/lowres_wide_intrinsics/{VIDEO}_1.233.pincam",
        f"3dod/Training/{VIDEO}/{VIDEO}_frames/lowres_wide.traj",
    ),
    ("arkitscenes", "raw"): (f"raw/Validation/{VIDEO}/lowres_wide/{VIDEO}_1.233.png", "raw/metadata.csv"),
    ("hypersim", "downloads"): ("ai_001_001/images/scene_cam_00_final_preview/frame.0000.color.jpg",),
}
TEXTS = {"metadata.csv": f"video_id,visit_id,fold\n{VIDEO},381879,Training\n"}

# folders that people have, and which look a little like a dataset
OTHERS: dict[str, tuple[str, ...]] = {
    "years": ("2019/images/holiday.jpg", "2020/IMG_0001.JPG"),
    "classes": ("train/cats/a.jpg", "val/dogs/b.jpg", "test/c.jpg"),
    "frames": ("video1/images/frame_00001.png", "video1/images/frame_00002.png"),
    "numbers": ("images/001/002/a.jpg", "0001/dense/a.jpg", "1234567890/a.png"),
    "rgb": ("apple/rgb/00000.png", "apple/depth/00000.png"),
    "flat": ("a.jpg", "b.png", "notes.txt"),
}


def grow(root: Path, paths: tuple[str, ...]) -> Path:
    """Write a tree; files that are no pictures are empty."""
    for path in paths:
        target = root / path
        if target.suffix.lower() in (".jpg", ".jpeg", ".png"):
            write_picture(target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(TEXTS.get(target.name, ""))
    return root


def only(result: Check) -> Found:
    """The one dataset that was found, rendered within eighty columns."""
    text = render_check(result, 80)
    assert [found.dataset for found in result.found] == [result.found[0].dataset], text
    found = result.found[0]
    # paths and commands are not broken
    assert all(len(line) <= 80 or "mumdata index" in line or " " not in line.strip() for line in text.splitlines()), (
        text
    )
    return found


# ---- every dataset is itself


@pytest.mark.parametrize(("name", "layout"), TREES, ids=[" ".join(key) for key in TREES])
def test_a_tree_of_every_layout_is_itself_and_nothing_else(tmp_path: Path, name: str, layout: str) -> None:
    found = only(check(grow(tmp_path / "my data", TREES[name, layout])))
    assert (found.dataset, found.place, found.root) == (name, "here", tmp_path / "my data")
    assert found.num_scenes == (2 if layout == "kaggle" else 1)  # a class, and the images without one
    assert found.problem is None
    assert found.layouts
    assert shlex.split(found.command) == ["mumdata", "index", name, "--root", str(tmp_path / "my data")]
    assert not found.others
    assert not set(found.present) & set(found.missing)


@pytest.mark.parametrize("name", NAMED)
def test_every_dataset_of_the_demo_is_itself_and_nothing_else(world: Path, name: str) -> None:
    found = only(check(world / name))
    assert (found.dataset, found.place, found.problem) == (name, "here", None)
    scenes = load(name).scenes(Tree(world / name, load(name).SPEC.archives))
    assert (found.num_scenes, found.all_counted) == (len({scene.scene for scene in scenes}), True)
    assert found.present


def test_a_folder_of_datasets_lists_them_all(world: Path) -> None:
    result = check(world)
    rendered = {path.name for path in world.iterdir() if path.is_dir()} - {"truth"}
    assert {found.dataset for found in result.found} == rendered
    assert all(found.root == world / found.dataset and found.place == "below" for found in result.found)
    text = render_check(result, 80)
    for found in result.found:
        assert f"next: mumdata index {found.dataset} --root {world / found.dataset}" in text
    above = check(world.parent)  # two levels above each of them
    assert {found.dataset for found in above.found} == rendered


@pytest.mark.parametrize("name", OTHERS)
def test_pictures_of_ones_own_are_no_dataset(tmp_path: Path, name: str) -> None:
    found = only(check(grow(tmp_path / "photos", OTHERS[name])))
    assert (found.dataset, found.place) == ("folder", "here")
    index("folder", **options(found), catalogs=tmp_path / "c", workers=1)


def options(found: Found) -> dict[str, Any]:
    words = shlex.split(found.command)[3:]
    return {
        key[2:]: Path(value) if key == "--root" else value for key, value in zip(words[::2], words[1::2], strict=True)
    }


# ---- around and below the root


@pytest.mark.parametrize(
    ("name", "layout", "below"),
    [
        ("arkitscenes", "3dod", "3dod/Training"),
        ("arkitscenes", "3dod", f"3dod/Training/{VIDEO}"),
        ("realestate10k", "downloader", "dataset/train"),
        ("realestate10k", "downloader", "RealEstate10K"),
        ("imagenet", "folders", "train"),
        ("imagenet", "kaggle", "ILSVRC/Data/CLS-LOC"),
        ("megadepth", "archives", "phoenix"),
        ("megadepth", "archives", "phoenix/S6/zl548/MegaDepth_v1/0015"),
        ("megascenes", "bucket", "reconstruct/000"),
        ("co3d", "version 2", "apple"),
        ("wildrgbd", "categories", "TV/scenes"),
        ("dl3dv", "batches", f"1K/{HASH}"),
        ("scannetpp", "release", f"data/{HEX10}/dslr"),
        ("blendedmvs", "projects", PROJECT),
    ],
)
def test_below_the_root_the_root_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, layout: str, below: str
) -> None:
    root = grow(tmp_path / "root", TREES[name, layout])
    # of two roots that show the same, the nearer one
    expected = root / "3dod" if layout == "3dod" else root
    for given in (root / below, Path(os.path.relpath(root / below, tmp_path))):
        monkeypatch.chdir(tmp_path)
        found = only(check(given))
        assert (found.dataset, found.place) == (name, "above")
        assert found.root.absolute() == expected
    monkeypatch.chdir(root / below)
    assert only(check(Path("."))).root == expected


def test_above_the_root_the_root_is_named_unless_it_is_three_levels_down(tmp_path: Path) -> None:
    grow(tmp_path / "a/b/root", TREES["imagenet", "folders"])
    for folder in (tmp_path / "a", tmp_path / "a/b"):
        found = only(check(folder))
        assert (found.dataset, found.place, found.root) == ("imagenet", "below", tmp_path / "a/b/root")
    assert only(check(tmp_path)).dataset == "folder"


def test_a_dataset_in_the_root_of_another_is_found(tmp_path: Path) -> None:
    grow(tmp_path / "data", TREES["imagenet", "folders"])
    grow(tmp_path / "data/mega", TREES["megadepth", "d2-net"])
    found = {found.dataset: found for found in check(tmp_path / "data").found}
    assert set(found) == {"imagenet", "megadepth"}
    assert found["imagenet"].others == ("mega/",)
    assert found["megadepth"].root == tmp_path / "data/mega"


# ---- what is there and what is not


def test_missing_parts_and_what_does_not_belong(tmp_path: Path) -> None:
    root = grow(tmp_path / "r", (*TREES["megadepth", "archives"], "notes.txt", "tmp/a.txt", ".hidden/x", ".DS_Store"))
    (root / "MegaDepth_v1.tar.gz").write_bytes(b"")
    (root / "part.z01").write_bytes(b"")
    found = only(check(root))
    assert "photos that the models were made from" in found.missing
    assert {"models: cameras, tracks", "undistorted photos", "depth of the undistorted photos"} == set(found.present)
    assert found.others == ("notes.txt", "tmp/")
    archives = dict(found.archives)
    assert "unpack it: tar xf MegaDepth_v1.tar.gz" in archives["MegaDepth_v1.tar.gz"]
    assert "merge the parts" in archives["part.z01"]
    text = render_check(check(root))
    assert "hidden" not in text.lower()
    assert "DS_Store" not in text
    assert "D2-Net's splits" not in text  # what is not needed is not missed
    assert "1 of 196 (0.5%)" in text


def test_trajectories_without_frames_cannot_be_indexed_yet(tmp_path: Path) -> None:
    root = grow(tmp_path / "r", (f"RealEstate10K/train/{CLIP}.txt", f"dataset/train/{CLIP}/"))
    (root / f"RealEstate10K/train/{CLIP}.txt").write_text("https://example.org\n")
    found = only(check(root))
    assert found.missing == ("frames",)
    assert found.problem
    assert found.problem.startswith("no image was seen")
    text = render_check(check(root))
    assert text.splitlines()[-1] == f"then: mumdata index realestate10k --root {root}"


def test_a_part_that_only_the_ninth_scene_has_is_present(tmp_path: Path) -> None:
    """Downloaders make a clip's folder before its frames: the first ones may be empty."""
    root = tmp_path / "r"
    for number in range(9):
        (root / f"dataset/train/{number:016x}").mkdir(parents=True)
    write_picture(root / f"dataset/train/{8:016x}/1000000.png")
    found = only(check(root))
    assert "frames" in found.present
    assert found.problem is None
    assert found.missing == ("trajectories: timestamps, cameras, videos",)


@pytest.mark.parametrize(
    ("path", "said"), [("train/000000.torch", "chunks of pickled tensors"), (f"videos/{CLIP}.mp4", "ffmpeg")]
)
def test_forms_that_are_not_read_are_recognised(tmp_path: Path, path: str, said: str) -> None:
    found = only(check(grow(tmp_path / "r", (path,))))
    assert found.dataset == "realestate10k"
    assert said in (found.problem or "")
    assert found.num_scenes is None


def test_a_partial_download_says_how_much_is_there(tmp_path: Path) -> None:
    for number in range(3):
        write_picture(tmp_path / f"r/train/n0000000{number}/a.JPEG")
    text = render_check(check(tmp_path / "r"))
    assert "3 of 1,000 (0.3%)" in text


# ---- one's own COLMAP models and pictures


@pytest.mark.parametrize("model", ["sparse/0", "sparse", "dense/0/sparse", "colmap/sparse/1"])
@pytest.mark.parametrize("at", ["", "images", "model"])
def test_a_colmap_project_is_found_from_any_of_its_folders(tmp_path: Path, model: str, at: str) -> None:
    root = grow(
        tmp_path / "My walk", (*(f"{model}/{part}.bin" for part in ("cameras", "images", "points3D")), "images/a.jpg")
    )
    found = only(check(root / (model if at == "model" else at)))
    assert (found.dataset, found.root) == ("colmap", root)
    assert options(found) == {"root": root, "name": "My-walk"}


def test_a_model_without_pictures_and_one_in_a_folder_of_a_number(tmp_path: Path) -> None:
    files = tuple(f"{part}.txt" for part in ("cameras", "images", "points3D"))
    found = only(check(grow(tmp_path / "2019", files)))
    assert (found.dataset, found.root) == ("colmap", tmp_path / "2019")
    assert "no image" in (found.problem or "")


def test_nothing_to_index(tmp_path: Path) -> None:
    root = grow(tmp_path / "r", ("a/film.mp4", "b.txt", "c.txt"))
    result = check(root)
    assert result.found == ()
    text = render_check(result)
    assert "2 .txt, 1 .mp4" in " ".join(text.split())
    assert "extract the frames" in " ".join(text.split())
    assert text.splitlines()[-1].endswith("mumdata datasets")
    (tmp_path / "empty").mkdir()
    assert "no files" in render_check(check(tmp_path / "empty"))


def test_no_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.zip").touch()
    for path, said in ((tmp_path / "nowhere", "does not exist"), (tmp_path / "a.zip", "not a folder")):
        with pytest.raises(LayoutError, match=said):
            check(path)


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tmp_path / "r/open", TREES["imagenet", "folders"])
    (tmp_path / "r/closed").mkdir()
    real = os.scandir

    def refuses(path: Any) -> Any:
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuses)
    assert only(check(tmp_path / "r")).root == tmp_path / "r/open"
    with pytest.raises(LayoutError, match="closed cannot be listed: Permission denied; ask its owner"):
        check(tmp_path / "r/closed")


@pytest.mark.parametrize("name", ["with space", "it's", "-dash", "tab\there", "esc\x1b[2J", "caf\udce9", "日本"])
def test_the_command_is_quoted_for_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    root = grow(tmp_path / name, TREES["imagenet", "folders"])
    monkeypatch.chdir(tmp_path)
    for given in (root, Path(name)):
        result = check(given)
        text = render_check(result)
        text.encode("utf-8")
        assert "\x1b" not in text
        assert "\t" not in text
        command = only(result).command.replace("mumdata index imagenet --root", "printf '%s\\0'")
        said = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
        assert Path(os.fsdecode(said.removesuffix(b"\0"))).absolute() == root


# ---- archives


def zipped(path: Path, names: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 50)


def tarred(names: tuple[str, ...], contents: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            data = (contents or {}).get(name, b"x" * 50)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def test_a_repack_of_megascenes_is_read_as_it_is(tmp_path: Path) -> None:
    files = TREES["megascenes", "bucket"]
    zipped(tmp_path / "v/images.zip", tuple(path for path in files if path.startswith("images/")))
    zipped(tmp_path / "v/reconstruct.zip", tuple(path for path in files if path.startswith("reconstruct/")))
    found = only(check(tmp_path / "v"))
    assert (found.dataset, found.place, found.problem) == ("megascenes", "here", None)
    assert dict(found.archives) == dict.fromkeys(("images.zip", "reconstruct.zip"), "read as if unpacked where it lies")
    assert set(found.present) == {"models: cameras, tracks", "photos"}
    assert not found.others


def test_imagenets_tars_of_tars(tmp_path: Path) -> None:
    classes = ("n01440764.tar", "n01443537.tar")
    inner = {name: tarred((f"{name[:9]}_1.JPEG", f"{name[:9]}_2.JPEG")) for name in classes}
    (tmp_path / "r").mkdir()
    (tmp_path / "r/ILSVRC2012_img_train.tar").write_bytes(tarred(classes, inner))
    (tmp_path / "r/ILSVRC2012_img_val.tar").write_bytes(tarred(("ILSVRC2012_val_00000001.JPEG",)))
    found = only(check(tmp_path / "r"))
    assert (found.dataset, found.problem) == ("imagenet", None)
    assert found.num_scenes == 3  # two classes, and what has none
    assert not found.all_counted
    assert {"images for training", "images for validation"} <= set(found.present)


def test_shards_are_counted_from_a_few_of_them(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mumdata.datasets import imagenet_shards

    write_shards(world / "imagenet", tmp_path / "r", num=9)
    read: list[str] = []
    real = imagenet_shards.rows_of
    monkeypatch.setattr(imagenet_shards, "rows_of", lambda path: (read.append(path.name), real(path))[1])
    found = only(check(tmp_path / "r"))
    assert (found.dataset, found.problem) == ("imagenet", None)
    assert found.num_scenes == len(list((world / "imagenet/train").iterdir()))
    assert not found.all_counted
    assert len(read) == 6


@pytest.mark.parametrize("wrap", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_archive_says_what_it_is_and_that_it_must_be_unpacked(
    tmp_path: Path, wrap: Callable[[bytes], bytes]
) -> None:
    """The archives of 3D Street View are compressed though their names do not say so."""
    names = tuple(f"0001/000000{n}_0000001_000000{n}_0000001.jpg" for n in range(1, 9))
    (tmp_path / "r").mkdir()
    (tmp_path / "r/0001.tar").write_bytes(wrap(tarred(names)))
    found = only(check(tmp_path / "r"))
    assert (found.dataset, found.place) == ("streetview", "packed")
    assert "0001.tar" in (found.problem or "")
    assert "unpack" in (found.problem or "")


def test_an_archive_of_another_name_is_recognised_by_what_it_holds(tmp_path: Path) -> None:
    zipped(tmp_path / "r/backup.zip", TREES["imagenet", "folders"])
    found = only(check(tmp_path / "r"))
    assert (found.dataset, found.place) == ("imagenet", "packed")


@pytest.mark.parametrize(
    "data", [b"", b"PK\5\6" + bytes(18), b"PK\3\4" + bytes(60), b"\x1f\x8b\x08" + bytes(40), bytes(2000)]
)
def test_broken_archives_are_no_traceback(tmp_path: Path, data: bytes) -> None:
    grow(tmp_path / "r", TREES["imagenet", "folders"])
    for name in (
        "images.zip",
        "0001.tar",
        "ILSVRC2012_img_train.tar",
        "x.tar.gz",
        "imagenet-object-localization-challenge.zip",
    ):
        (tmp_path / "r" / name).write_bytes(data)
    os.mkfifo(tmp_path / "r/ILSVRC2012_img_val.tar")
    found = only(check(tmp_path / "r"))
    assert found.dataset == "imagenet"
    assert dict(found.archives)["ILSVRC2012_img_val.tar"] == "not a regular file"
    assert {name for name, _ in found.archives} >= {"ILSVRC2012_img_train.tar", "x.tar.gz"}
    assert not found.others


def test_a_header_that_claims_an_impossible_size_is_not_believed(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("pax")
    entry.type, entry.size = tarfile.XHDTYPE, 1 << 40
    (tmp_path / "r").mkdir()
    (tmp_path / "r/ILSVRC2012_img_train.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(5000))
    found = only(check(tmp_path / "r"))
    assert "cannot be read" in dict(found.archives)["ILSVRC2012_img_train.tar"]


# ---- the look is bounded


class Counted:
    """os.scandir that counts what is read of it."""

    def __init__(self) -> None:
        self.real, self.entries, self.folders, self.most = os.scandir, 0, 0, 0

    def __call__(self, path: Any) -> Any:
        self.folders += 1
        counted, here = self, 0

        class Entries:
            def __init__(self) -> None:
                self.real = counted.real(path)

            def __enter__(self) -> Iterator[os.DirEntry[str]]:
                return iter(self)

            def __exit__(self, *_: object) -> None:
                self.close()

            def close(self) -> None:
                self.real.close()

            def __iter__(self) -> Iterator[os.DirEntry[str]]:
                nonlocal here
                for entry in self.real:
                    here += 1
                    counted.entries += 1
                    counted.most = max(counted.most, here)
                    yield entry

        return Entries()


def test_wide_folders_are_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "r"
    for folder in ("RealEstate10K/train", "dataset/train"):
        (root / folder).mkdir(parents=True)
    for number in range(2500):
        (root / f"RealEstate10K/train/{number:016x}.txt").touch()
        (root / f"dataset/train/{number:016x}").mkdir()
    for number in (3, 2222):
        write_picture(root / f"dataset/train/{number:016x}/1000000.png")
    counted = Counted()
    monkeypatch.setattr(os, "scandir", counted)
    found = only(check(root))
    assert found.dataset == "realestate10k"
    assert counted.most <= 1000
    assert counted.entries < 10_000
    assert counted.folders < 500
    assert not found.all_counted
    assert found.num_scenes is not None
    assert 1000 <= found.num_scenes < 2500
    assert f"at least {found.num_scenes:,} of 73,319" in render_check(check(root))


@pytest.mark.parametrize("kind", ["folders", "files", "hashes"])
def test_endless_trees_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Folders without end in folders without end, whose names fit several datasets."""
    counts = {"entries": 0, "folders": 0}

    class Entry:
        def __init__(self, name: str) -> None:
            self.name = name

        def is_dir(self) -> bool:
            return kind != "files"

    def endless() -> Iterator[Entry]:
        counts["folders"] += 1
        for number in itertools.count():
            counts["entries"] += 1
            # one entry more than is taken may be asked for, to see whether there is one
            assert counts["entries"] <= ALL_ENTRIES + ALL_LOOKS, "the look does not end"
            yield Entry({"folders": f"{number:04d}", "files": f"{number:016x}.txt", "hashes": f"{number:064x}"}[kind])

    class Opened(contextlib.closing[Iterator[Entry]]):
        def close(self) -> None:
            pass

    monkeypatch.setattr(os, "scandir", lambda path: Opened(endless()))
    render_check(check(tmp_path))
    assert counts["entries"] > 0
    assert counts["folders"] <= ALL_LOOKS


# ---- patterns


def test_patterns_are_taken_apart() -> None:
    assert expand(r"a/[^/]+/b\.(txt|bin)") == (("a", "[^/]+", r"b\.(txt|bin)"),)
    assert expand("(a/)?b") == (("a", "b"), ("b",))
    assert expand("((x/)?(a|b)/)?c") == (("x", "(a|b)", "c"), ("(a|b)", "c"), ("c",))
    assert expand("(a/b|c)/d") == (("a", "b", "d"), ("c", "d"))
    assert expand("c(/d)?/e") == (("c", "d", "e"), ("c", "e"))
    assert expand(r"[]/]x\(/y") == ((r"[]/]x\(", "y"),)
    with pytest.raises(ValueError, match="repeats"):
        expand("(a/)*b")


@pytest.mark.parametrize("name", NAMES)
def test_every_pattern_of_a_dataset_can_be_looked_for(name: str) -> None:
    spec = load(name).SPEC
    for layout in spec.layouts:
        assert layout.name
        assert layout.shape
        for pattern in (*layout.markers, *layout.parts):
            for components in expand(pattern):
                assert components
                for component in components:
                    re.compile(component)


# ---- mumdata datasets


def test_the_table_of_datasets() -> None:
    table = known_datasets()
    assert table.columns.tolist() == ["name", "title", "rule", "scenes", "frames", "licence"]
    assert table.name.tolist() == list(NAMES)
    assert known_datasets("megadepth").to_dict("records")[0]["scenes"] == 196
    assert table.licence.str.len().min() > 0
    with pytest.raises(ConfigError, match="did you mean 'megadepth'"):
        known_datasets("megadept")
    with pytest.raises(ConfigError, match="did you mean 'imagenet'"):
        render_dataset("imagnet")


@pytest.mark.parametrize("name", NAMES)
def test_everything_about_one_dataset_fits_the_terminal(name: str) -> None:
    text = render_dataset(name, 80)
    assert max(map(len, text.splitlines())) <= 80
    joined = " ".join(text.split())
    spec = load(name).SPEC
    assert spec.licence in joined
    assert spec.title in joined
    for layout in spec.layouts:
        assert layout.name in joined
    for benchmark in set(spec.eval_scenes.values()):
        assert benchmark in joined
    for entry in spec.known_bad:
        assert entry.source in joined
    assert f"mumdata index {name} --root DIR" in joined
