"""The demo's datasets in archives: a tree over them shows what the unpacked folders show."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from pathlib import Path

import pytest

from mumdata.datasets import load
from mumdata.demo import layouts
from mumdata.demo.archives import PACKING, pack
from mumdata.errors import MumError
from mumdata.images import looks_like_image
from mumdata.tree import Tree


@pytest.fixture(scope="session")
def packed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every dataset of the demo in archives, below one folder."""
    out = tmp_path_factory.mktemp("packed") / "world"
    for name in layouts.NAMES:
        pack(world / name, out / name, name)
    return out


def _digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _archives(world: Path, packed: Path, name: str) -> set[str]:
    return _digests(packed / name).keys() - _digests(world / name).keys()


def test_every_dataset_that_is_read_from_archives_is_packed() -> None:
    assert set(PACKING) == {name for name in layouts.NAMES if load(name).SPEC.archives}


@pytest.mark.parametrize("name", layouts.NAMES)
def test_a_tree_over_archives_shows_what_lies_in_them(world: Path, packed: Path, name: str) -> None:
    plain, tree = Tree(world / name), Tree(packed / name, load(name).SPEC.archives)
    archives = _archives(world, packed, name)
    seen = [
        (folder, folders, [file for file in files if f"{folder}/{file}".lstrip("/") not in archives])
        for folder, folders, files in tree.walk()
    ]
    assert seen == list(plain.walk())
    assert tree.refused == []
    num = 0
    for folder, _, files in seen:
        for file in files:
            path = f"{folder}/{file}".lstrip("/")
            source = tree.source(path)
            assert (source is None) == (packed / name / path).exists()
            if source is None:
                continue
            num += 1
            data = (world / name / path).read_bytes()
            assert tree.read_bytes(path) == data
            assert source.archive in archives
            with open(packed / name / source.archive, "rb") as archive:
                archive.seek(source.offset)
                stored = archive.read(source.bytes)
            assert (stored == data) == (source.codec == "stored")
    assert (num > 0) == bool(archives) == (name in PACKING)


@pytest.mark.parametrize("name", layouts.NAMES)
def test_a_dataset_reads_the_same_scenes_and_frames_from_archives(world: Path, packed: Path, name: str) -> None:
    module = load(name)
    plain, tree = Tree(world / name, module.SPEC.archives), Tree(packed / name, module.SPEC.archives)
    scenes = module.scenes(plain)
    assert module.scenes(tree) == scenes
    for scene in scenes:
        expected, found = module.read(plain, scene), module.read(tree, scene)
        assert [stream.paths for stream in found] == [stream.paths for stream in expected]
        assert [stream.depth_paths for stream in found] == [stream.depth_paths for stream in expected]
        assert [(stream.problem, stream.ignored) for stream in found] == [
            (stream.problem, stream.ignored) for stream in expected
        ]


@pytest.mark.parametrize("name", PACKING)
def test_pictures_are_packed_and_archives_are_whole(world: Path, packed: Path, name: str) -> None:
    loose = [path for path in _digests(packed / name) if looks_like_image(path)]
    assert not loose or name == "megadepth"  # D2-Net's copy is made by users
    for path in _archives(world, packed, name):
        if path.endswith(".zip"):
            with zipfile.ZipFile(packed / name / path) as archive:
                assert archive.testzip() is None
                assert archive.namelist() == sorted(archive.namelist())
        else:
            with tarfile.open(packed / name / path, "r:") as tar:
                assert {member.mtime for member in tar} == {0}


def test_imagenet_has_an_archive_a_class_in_its_archive(packed: Path) -> None:
    with tarfile.open(packed / "imagenet/ILSVRC2012_img_train.tar") as archive:
        assert len(archive.getnames()) == 4
        assert all(name.endswith(".tar") for name in archive.getnames())
    assert sorted(path.name for path in (packed / "imagenet").iterdir()) == [
        "ILSVRC2012_img_train.tar",
        "ILSVRC2012_img_val.tar",
    ]


def test_packing_again_gives_the_same_bytes_and_overwrites_nothing(world: Path, packed: Path, tmp_path: Path) -> None:
    for name in ("wildrgbd", "streetview", "imagenet"):
        pack(world / name, tmp_path / name, name)
        assert _digests(tmp_path / name) == _digests(packed / name)
        with pytest.raises(MumError, match="holds something"):
            pack(world / name, tmp_path / name, name)
