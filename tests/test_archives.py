"""Archives as folders of a tree: zipfile and tarfile are the truth, and what they unpack is what the tree shows.

What a hostile or broken archive claims is written by hand here, byte by byte.
"""

from __future__ import annotations

import gc
import io
import multiprocessing
import os
import pickle
import random
import shutil
import struct
import tarfile
import tempfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mumdata import images
from mumdata.archives import members, mounts, zip_directory
from mumdata.errors import LayoutError
from mumdata.tree import Refused, Source, Tree

# ------------------------------------------------------------------------------------------------ looking at all of it


def _everything(tree: Tree) -> dict[str, object]:
    """Whatever a tree shows, by every method."""
    found: dict[str, object] = {}
    for folder, folders, files in tree.walk():
        found[folder] = (folders, files, tree.folders(folder), tree.files(folder), tree.is_folder(folder))
        assert tree.listing(folder) == (folders, files)
        assert not tree.is_file(folder)
        for name in files:
            path = f"{folder}/{name}" if folder else name
            found[path] = data = tree.read_bytes(path)
            assert bytes(tree.map(path)[:]) == data
            assert tree.read_text(path) == data.decode("utf-8", "replace").removeprefix("\ufeff")
            assert tree.is_file(path)
            assert not tree.is_folder(path)
            assert tree.find(path) == path
    return found


def _stored_at(root: Path, source: Source) -> bytes:
    """Unpack what a source says, with nothing but the archive's bytes."""
    with open(root / source.archive, "rb") as file:
        file.seek(source.offset)
        data = file.read(source.bytes)
    assert len(data) == source.bytes
    if source.codec == "deflate":
        data = zlib.decompress(data, -15)
    assert len(data) == source.size
    assert source.mtime_ns == (root / source.archive).stat().st_mtime_ns
    return data


def _reasons(tree: Tree) -> list[tuple[str, str]]:
    return [(row.member, row.reason) for row in tree.refused]


# ------------------------------------------------------------------------------------------------- random folder trees

_COMPONENT = st.one_of(
    st.sampled_from(["a", "b", "c.jpg", ".hidden", "__MACOSX", "._x.png", "-", "a b", "ä", "塔", "a..b", "...", "0"]),
    st.text(
        st.characters(codec="utf-8", exclude_characters="/\\\0\n", exclude_categories=("Cs",)), min_size=1, max_size=9
    ),
    st.text("xy", min_size=90, max_size=110),
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 250)


def _is_drive(path: str) -> bool:
    return len(path) > 1 and path[1] == ":" and path[0].isascii() and path[0].isalpha()


@st.composite
def folder_trees(draw: st.DrawFn) -> dict[str, bytes | None]:
    """Return path -> bytes, or None for a folder's own entry; no file lies below a file."""
    paths = draw(st.lists(st.lists(_COMPONENT, min_size=1, max_size=4).map("/".join), max_size=25, unique=True))
    found: dict[str, bytes | None] = {}
    for path in paths:
        above = {path[:at] for at in range(len(path)) if path[at] == "/"}
        if _is_drive(path) or above & {p for p, data in found.items() if data is not None}:
            continue
        if any(other.startswith(path + "/") for other in found) or draw(st.integers(0, 9)) == 0:
            found[path] = None
        else:
            found[path] = draw(
                st.one_of(st.binary(max_size=40), st.integers(0, 70_000).map(lambda n: b"0123456789" * n))
            )
    return found


def _in_two_roots(archive: str, data: bytes, unpack: Callable[[Path, Path], None]) -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        packed, unpacked = Path(folder, "packed"), Path(folder, "unpacked")
        for root in (packed, unpacked):
            root.mkdir()
            (root / archive).write_bytes(data)
        unpack(unpacked / archive, unpacked)
        yield packed, unpacked


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(folder_trees(), st.data())
def test_a_zip_shows_what_zipfile_unpacks(tree: dict[str, bytes | None], data: st.DataObject) -> None:
    out = io.BytesIO(data.draw(st.sampled_from([b"", b"MZ a program that unpacks itself\n" * 9, b"PK\1\2PK\5\6"])))
    start = out.seek(0, os.SEEK_END)
    with zipfile.ZipFile(out, "a" if start else "w") as archive:
        archive.comment = data.draw(st.sampled_from([b"", b"a comment", b"PK\6\7", b"c" * 0xFFFF]))
        for path, content in tree.items():
            info = zipfile.ZipInfo(path + "/" * (content is None))
            info.compress_type = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
            info.comment = data.draw(st.sampled_from([b"", b"PK\1\2" * 20]))
            info.extra = data.draw(st.sampled_from([b"", struct.pack("<2H4s", 0x7875, 4, b"PK\1\2")]))
            if content is None:
                archive.writestr(info, b"")
            else:
                with archive.open(info, "w", force_zip64=data.draw(st.booleans())) as file:
                    file.write(content)
    archive_name = "x.zip" if "x.zip" not in tree else "y.zip"

    def unpack(path: Path, root: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(root)

    for packed, unpacked in _in_two_roots(archive_name, out.getvalue(), unpack):
        seen = Tree(packed, (archive_name,))
        assert _everything(seen) == _everything(Tree(unpacked))
        assert seen.refused == []
        with zipfile.ZipFile(packed / archive_name) as archive:
            for info in archive.infolist():
                source = seen.source(info.filename)
                assert (source is None) == info.is_dir()
                if source is not None:
                    assert (source.path, source.bytes, source.size) == (
                        info.filename,
                        info.compress_size,
                        info.file_size,
                    )
                    assert _stored_at(packed, source) == archive.read(info)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(folder_trees(), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_a_tar_shows_what_tarfile_unpacks(tree: dict[str, bytes | None], kind: int) -> None:
    tree = {path: content for path, content in tree.items() if not path.lower().endswith(".tar")}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for path, content in tree.items():
            info = tarfile.TarInfo(path)
            info.type, info.size = (tarfile.DIRTYPE, 0) if content is None else (tarfile.REGTYPE, len(content))
            info.mtime = 1.5
            archive.addfile(info, io.BytesIO(content or b""))

    def unpack(path: Path, root: Path) -> None:
        with tarfile.open(path) as archive:
            archive.extractall(root, filter="data")

    for packed, unpacked in _in_two_roots("x.tar", out.getvalue(), unpack):
        seen = Tree(packed, ("*.tar",))
        assert _everything(seen) == _everything(Tree(unpacked))
        assert seen.refused == []
        for path, content in tree.items():
            source = seen.source(path)
            assert (source is None) == (content is None)
            if source is not None:
                assert (source.path, source.codec) == (path, "stored")
                assert _stored_at(packed, source) == content


# ----------------------------------------------------------------------------------------------------- zips, by the way


def _zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_offsets_beyond_four_gibibytes_are_read_from_zip64_fields(tmp_path: Path) -> None:
    with open(tmp_path / "far.zip", "wb") as file:
        file.seek(5 << 30)  # a hole: no disk is used
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/1.jpg", b"one")
            archive.writestr("a/2.jpg", b"two" * 100, zipfile.ZIP_DEFLATED)
    tree = Tree(tmp_path, ("*.zip",))
    assert tree.refused == []
    assert tree.read_bytes("a/1.jpg") == b"one"
    source = tree.source("a/2.jpg")
    assert source is not None
    assert source.offset > 5 << 30
    assert _stored_at(tmp_path, source) == b"two" * 100


@pytest.mark.slow
def test_more_members_than_two_bytes_count(tmp_path: Path) -> None:
    names = [f"{number // 100:03d}/{'x' * (number % 30)}{number}.jpg" for number in range(70_000)]
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"")
    tree = Tree(tmp_path, ("*.zip",))
    found = [f"{folder}/{file}" for folder, _, files in tree.walk() if folder for file in files]
    assert sorted(found) == sorted(names)
    assert tree.refused == []


@pytest.mark.parametrize("block", [300, 1000, 4096])
def test_the_directory_is_read_in_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    false = "PK\1\2"  # what a record of the directory begins with
    files = {f"f{number % 7 // 3}/{false * (number % 3)}é{number}": bytes([number]) for number in range(150)}
    _zip(tmp_path / "x.zip", files)
    whole = _everything(Tree(tmp_path, ("*.zip",)))
    monkeypatch.setattr(zip_directory, "_BLOCK", block)
    assert _everything(Tree(tmp_path, ("*.zip",))) == whole
    assert {path for path, data in whole.items() if isinstance(data, bytes)} == {*files, "x.zip"}


def test_members_of_one_folder_may_be_scattered(tmp_path: Path) -> None:
    files = {f"{'rgb' if number % 2 else 'depth'}/{number:03d}.png": bytes([number]) for number in range(100)}
    _zip(tmp_path / "x.zip", files)
    tree = Tree(tmp_path, ("*.zip",))
    assert tree.files("rgb") == [f"{number:03d}.png" for number in range(1, 100, 2)]
    assert all(tree.read_bytes(path) == data for path, data in files.items())


def test_names_without_the_utf8_bit(tmp_path: Path) -> None:
    path = _zip(tmp_path / "x.zip", {"caf_.txt": b"1", "town__.txt": b"2", "plain.txt": b"3"}, zipfile.ZIP_STORED)
    data = path.read_bytes().replace(b"caf_", b"caf\x82").replace(b"town__", "town\u00e9".encode())
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()[0] == "caf\u00e9.txt"  # code page 437, as zipfile has it
    tree = Tree(tmp_path, ("*.zip",))
    # bytes that are UTF-8 are UTF-8: that is what programs on Linux write without saying so
    assert tree.files("") == ["caf\u00e9.txt", "plain.txt", "town\u00e9.txt", "x.zip"]
    assert tree.read_bytes("caf\u00e9.txt") == b"1"
    source = tree.source("caf\u00e9.txt")
    assert source is not None
    assert source.path == "caf\u00e9.txt"


def test_bytes_that_are_not_utf8_in_spite_of_the_bit_are_escaped(tmp_path: Path) -> None:
    path = _zip(tmp_path / "x.zip", {"a/\u00e9.txt": b"1"}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xff\xfe"))
    tree = Tree(tmp_path, ("*.zip",))
    assert tree.files("a") == ["\udcff\udcfe.txt"]
    assert tree.read_bytes("a/\udcff\udcfe.txt") == b"1"


def test_backslashes_separate_folders_in_archives_made_on_windows_only(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for system, name in ((0, "win\\a\\1.jpg"), (0, "win\\a\\2.jpg"), (3, "unix\\1.jpg"), (0, "mixed/b\\1.jpg")):
            info = zipfile.ZipInfo(name)
            info.create_system = system
            archive.writestr(info, name)
    tree = Tree(tmp_path, ("*.zip",))
    assert tree.folders("") == ["mixed", "win"]
    assert tree.files("win/a") == ["1.jpg", "2.jpg"]
    assert tree.files("") == ["unix\\1.jpg", "x.zip"]
    assert tree.files("mixed") == ["b\\1.jpg"]
    assert tree.read_bytes("win/a/2.jpg") == b"win\\a\\2.jpg"
    source = tree.source("win/a/2.jpg")
    assert source is not None
    assert source.path == "win\\a\\2.jpg"


def test_dots_and_double_slashes_drop_out_as_when_unpacked(tmp_path: Path) -> None:
    names = ["./a/1.jpg", "a//2.jpg", "a/./3.jpg", "a/.4.jpg", "a/...", "a/b/."]
    _zip(tmp_path / "x.zip", {name: name.encode() for name in names})
    with tarfile.open(tmp_path / "y.tar", "w") as archive:
        for name in ("./", "./t/", "./t/1.jpg"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(info)
    tree = Tree(tmp_path, ("*.zip", "*.tar"))
    assert tree.files("a") == ["...", ".4.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert tree.folders("a") == ["b"]
    assert tree.read_bytes("a/2.jpg") == b"a//2.jpg"
    assert tree.files("t") == ["1.jpg"]
    assert tree.read_bytes("./a//1.jpg") == b"./a/1.jpg"  # as a disk would have it
    assert tree.is_folder("a/./b/")
    assert tree.listing("./a/") == tree.listing("a")


def test_a_zip_written_to_a_pipe_has_its_sizes_after_the_data(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.txt", b"one" * 50)
        archive.writestr("a/2.txt", b"two")
    (tmp_path / "x.zip").write_bytes(pipe.data)
    assert struct.unpack_from("<H", pipe.data, 6)[0] & 8
    tree = Tree(tmp_path, ("*.zip",))
    assert tree.read_bytes("a/1.txt") == b"one" * 50
    assert tree.read_bytes("a/2.txt") == b"two"


def test_a_comment_may_hold_what_looks_like_an_end(tmp_path: Path) -> None:
    for comment in (b"PK\5\6", b"PK\5\6 not the end" * 3, _zip_end(0, 0, 0) + b"x", _zip_end(9, 9, 9, b"xyz")[:-1]):
        (tmp_path / "x.zip").write_bytes(_by_hand(*_GOOD, comment=comment))
        _assert_only(Tree(tmp_path, ("*.zip",)), [])


def test_an_empty_archive_is_an_empty_folder(tmp_path: Path) -> None:
    _zip(tmp_path / "x.zip", {})
    with tarfile.open(tmp_path / "y.tar", "w"):
        pass
    tree = Tree(tmp_path, ("*.zip", "*.tar"))
    assert list(tree.walk()) == [("", [], ["x.zip", "y.tar"])]
    assert tree.refused == []


# ----------------------------------------------------------------------------------- the disk first, archives together


def test_the_disk_comes_before_archives_and_listings_merge(tmp_path: Path) -> None:
    _zip(tmp_path / "d/x.zip", {"s/1.jpg": b"zip", "s/2.jpg": b"zip", "t/1.jpg": b"zip", "u": b"zip", "v/w/1": b"zip"})
    for path in ("d/s/1.jpg", "d/s/3.jpg", "d/t", "d/u/1.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("disk")
    tree = Tree(tmp_path, ("*/*.zip",))
    assert tree.listing("d") == (["s", "u", "v"], ["t", "x.zip"])
    assert tree.files("d/s") == ["1.jpg", "2.jpg", "3.jpg"]
    assert [tree.read_bytes(f"d/s/{number}.jpg") for number in (1, 2, 3)] == [b"disk", b"zip", b"disk"]
    assert tree.source("d/s/1.jpg") is None
    assert tree.source("d/s/2.jpg") is not None
    # a file on the disk hides the folder of an archive, and what is in it
    assert tree.read_bytes("d/t") == b"disk"
    assert not tree.is_folder("d/t")
    assert not tree.is_file("d/t/1.jpg")
    assert tree.source("d/t/1.jpg") is None
    with pytest.raises(LayoutError):
        tree.read_bytes("d/t/1.jpg")
    with pytest.raises(LayoutError, match="not there"):
        tree.listing("d/t")
    # and a folder on the disk hides the file of an archive
    assert not tree.is_file("d/u")
    assert tree.source("d/u") is None
    assert tree.files("d/u") == ["1.jpg"]
    assert tree.first_folder(("d/w", "d/v/w")) == "d/v/w"
    assert tree.first_file(("d/v", "d/v/w/1")) == "d/v/w/1"
    assert tree.find("d/s/4.jpg") is None


def test_several_archives_make_one_tree_and_the_first_counts(tmp_path: Path) -> None:
    _zip(tmp_path / "apple_001.zip", {"apple/s2/1.jpg": b"second", "apple/s1/9.jpg": b"second"})
    _zip(tmp_path / "apple_000.zip", {"apple/s1/1.jpg": b"first", "apple/s1/9.jpg": b"first"})
    _zip(tmp_path / "bench.zip", {"bench": b"a file", "apple/s1": b"a file where another archive has a folder"})
    tree = Tree(tmp_path, ("*_[0-9][0-9][0-9].zip", "bench.zip", "*.zip"))
    assert tree.folders("apple") == ["s1", "s2"]
    assert tree.files("apple") == []
    assert tree.read_bytes("apple/s1/9.jpg") == b"first"
    assert tree.read_bytes("bench") == b"a file"
    assert [source.archive for source in map(tree.source, ("apple/s1/1.jpg", "apple/s2/1.jpg")) if source] == [
        "apple_000.zip",
        "apple_001.zip",
    ]


def test_an_archive_may_be_mounted_elsewhere(tmp_path: Path) -> None:
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "other.tar"):
        with tarfile.open(tmp_path / name, "w") as archive:
            archive.addfile(tarfile.TarInfo(f"{name[:-4]}.JPEG"))
    tree = Tree(tmp_path, ("*.tar", "ILSVRC2012_img_train.tar => train", "ILSVRC2012_img_val.tar => a/val"))
    assert tree.files("train") == ["ILSVRC2012_img_train.JPEG"]
    assert tree.files("a/val") == ["ILSVRC2012_img_val.JPEG"]
    assert tree.files("") == ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "other.JPEG", "other.tar"]


def test_patterns_are_bounded_and_pass_over_what_is_no_archive(tmp_path: Path) -> None:
    _zip(tmp_path / "a/b/x.zip", {"1": b"1"})
    _zip(tmp_path / "a/._x.zip", {"hidden": b"1"})
    _zip(tmp_path / ".cache/x.zip", {"hidden": b"1"})
    (tmp_path / "a/folder.zip").mkdir()
    os.mkfifo(tmp_path / "a/pipe.zip")
    (tmp_path / "a/dangling.zip").symlink_to("nowhere")
    tree = Tree(tmp_path, ("*.zip", "*/*.zip", "no/such/*.zip"))
    assert tree.folders("a") == ["b", "folder.zip"]
    assert tree.files("a/b") == ["x.zip"]
    assert _reasons(tree) == [("", "broken_archive")]  # the dangling link
    assert Tree(tmp_path, ("*/*/*.zip",)).files("a/b") == ["1", "x.zip"]
    for pattern in ("**/*.zip", "../*.zip", "/tmp/*.zip", "a//*.zip", ""):
        with pytest.raises(ValueError, match="bounded"):
            Tree(tmp_path, (pattern,)).folders("")
    assert Tree(tmp_path / "absent", ("*.zip",)).folders("") == []


def test_links_to_folders_with_archives_are_walked_once(tmp_path: Path) -> None:
    _zip(tmp_path / "real/x.zip", {"s/1.jpg": b"1"})
    (tmp_path / "link").symlink_to("real")
    tree = Tree(tmp_path, ("*/*.zip",))
    assert [folder for folder, _, _ in tree.walk()] == ["", "link", "link/s"]
    assert tree.read_bytes("link/s/1.jpg") == tree.read_bytes("real/s/1.jpg") == b"1"


# ------------------------------------------------------------------------------------------------------------ tarballs


def _tar(files: dict[str, bytes], **options: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _header(name: bytes, size: bytes | int = 0, kind: bytes = b"0", magic: bytes = b"ustar\x0000") -> bytes:
    """A header written by hand, with a right checksum."""
    length = size if isinstance(size, bytes) else b"%011o\0" % size
    block = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + length + b"00000000000\0" + b" " * 8 + kind
    block += bytes(100) + magic + bytes(512 - 257 - len(magic))
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


_END = bytes(1024)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def test_tars_in_a_tar_are_folders(tmp_path: Path) -> None:
    classes = {
        wnid: {f"{wnid}_{number}.JPEG": os.urandom(400 * number) for number in range(4)}
        for wnid in ("n01440764", "n01443537")
    }
    outer = {f"{wnid}.tar": _tar(files) for wnid, files in classes.items()}
    outer["readme.txt"] = b"read me"
    outer["deep/er.TAR"] = _tar({"in.tar": _tar({"1.jpg": b"1"}), "n/2.jpg": b"2"})
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(_tar(outer))
    tree = Tree(tmp_path, ("ILSVRC2012_img_train.tar => train",))
    assert tree.refused == []
    assert tree.listing("train") == (["deep", "n01440764", "n01443537"], ["readme.txt"])
    for wnid, files in classes.items():
        assert tree.files(f"train/{wnid}") == sorted(files)
        for name, data in files.items():
            source = tree.source(f"train/{wnid}/{name}")
            assert source is not None
            assert source.path == f"{wnid}.tar/{name}"
            assert _stored_at(tmp_path, source) == data == tree.read_bytes(f"train/{wnid}/{name}")
    assert tree.read_bytes("train/deep/er/in/1.jpg") == b"1"
    assert tree.read_bytes("train/deep/er/n/2.jpg") == b"2"
    assert tree.folders("train/deep/er") == ["in", "n"]


def test_stems_that_are_no_names_are_not_descended_into(tmp_path: Path) -> None:
    inner = _tar({"1.jpg": b"1"})
    (tmp_path / "x.tar").write_bytes(_tar({"a/.tar": inner, "a/..tar": inner, "a/...tar": inner, "a/b..tar": inner}))
    tree = Tree(tmp_path, ("x.tar",))
    assert tree.listing("a") == (["b."], ["...tar", "..tar", ".tar"])
    assert [folder for folder, _, _ in tree.walk()] == ["", "a", "a/b."]


def test_what_lies_in_a_tar_in_a_tar_is_refused_by_its_whole_name(tmp_path: Path) -> None:
    inner = _tar({"1.jpg": b"1", "../2.jpg": b"2", "1.jpg ": b"3"}) + b""
    cut = _tar({"1.jpg": b"1", "2.jpg": b"2" * 2000})[:2500]
    outer = {"a.tar": inner, "b.tar": cut, "c.tar": zlib.compress(b"x"), "d.tar": b"\x1f\x8b rest", "e.tar": _END}
    for _ in range(5):
        inner = _tar({"f.tar": inner})
    (tmp_path / "x.tar").write_bytes(_tar(outer | {"f.tar": inner, "z.jpg": b"z"}))
    tree = Tree(tmp_path, ("x.tar",))
    assert tree.listing("") == (["a", "b", "e", "f"], ["c.tar", "d.tar", "x.tar", "z.jpg"])
    assert tree.files("a") == ["1.jpg", "1.jpg "]
    assert tree.files("b") == ["1.jpg"]
    assert _reasons(tree) == [
        ("a.tar/../2.jpg", "leaves_root"),
        ("b.tar", "broken_archive"),
        ("c.tar", "broken_archive"),
        ("d.tar", "compressed_archive"),
        ("f.tar/f.tar/f.tar/f.tar", "unsupported"),
    ]


@pytest.mark.parametrize("magic", [b"ustar\x0000", b"ustar  \0", bytes(8)], ids=["posix", "gnu", "unix"])
def test_headers_of_all_ages(tmp_path: Path, magic: bytes) -> None:
    blocks = [
        _header(b"old/", kind=b"\0", magic=magic),
        _header(b"old/1.jpg", 3, b"\0", magic) + _padded(b"one"),
        _header(b"old/2.jpg", b"\x80" + (3).to_bytes(11, "big"), b"7", magic) + _padded(b"two"),
        _header(b"old/3.jpg", b"          3 ", magic=magic) + _padded(b"333"),
        _header(b"old/4.jpg", b"3" + b"\0" * 11, magic=magic) + _padded(b"444"),
    ]
    signed = bytearray(_header(b"old/\xff\xfe.jpg", 3, magic=magic))
    total = sum(byte - 256 * (byte > 127) for byte in signed[:148] + signed[156:]) + 256
    signed[148:156] = b"%06o\0 " % total
    (tmp_path / "x.tar").write_bytes(b"".join(blocks) + bytes(signed) + _padded(b"555") + _END)
    tree = Tree(tmp_path, ("*.tar",))
    assert tree.refused == []
    assert tree.files("old") == ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "\udcff\udcfe.jpg"]
    assert [tree.read_bytes(f"old/{name}") for name in tree.files("old")] == [b"one", b"two", b"333", b"444", b"555"]
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert [member.name for member in archive] == ["old", *(f"old/{name}" for name in tree.files("old"))]


def test_prefixes_belong_to_posix_headers_only(tmp_path: Path) -> None:
    def with_prefix(magic: bytes) -> bytes:
        block = bytearray(_header(b"1.jpg", magic=magic))
        block[345:348] = b"a/b"
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block)

    (tmp_path / "x.tar").write_bytes(with_prefix(b"ustar\x0000") + with_prefix(b"ustar  \0") + _END)
    tree = Tree(tmp_path, ("*.tar",))
    assert tree.files("a/b") == ["1.jpg"]
    assert tree.files("") == ["1.jpg", "x.tar"]


def _pax(**records: str) -> bytes:
    text = b""
    for key, value in records.items():
        line = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(line) + 1
        while len(str(length)) + len(line) != length:
            length += 1
        text += str(length).encode() + line
    return text


def test_pax_headers_give_names_and_sizes(tmp_path: Path) -> None:
    name = "ä" * 120 + ".jpg"
    told = _pax(path=f"a/{name}", size="5", mtime="1.5", comment="path=not this\nnor that")
    blocks = [
        _header(b"pax_global", len(_pax(comment="made by git")), b"g") + _padded(_pax(comment="made by git")),
        _header(b"PaxHeaders/1", len(told), b"x") + _padded(told) + _header(b"short", 0) + _padded(b"12345"),
        _header(b"a/2.jpg", 1) + _padded(b"2"),
    ]
    (tmp_path / "x.tar").write_bytes(b"".join(blocks) + _END)
    tree = Tree(tmp_path, ("*.tar",))
    assert tree.refused == []
    assert tree.files("a") == ["2.jpg", name]
    assert tree.read_bytes(f"a/{name}") == b"12345"


def test_links_devices_and_sparse_members_are_passed_over(tmp_path: Path) -> None:
    told = _pax(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__name="a/sparse2.jpg")
    sparse = bytearray(_header(b"a/sparse.jpg", 512, b"S", b"ustar  \0"))
    sparse[482] = 1
    sparse[148:156] = b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse)
    more = bytearray(512)
    more[504] = 1
    blocks = [
        _header(b"a/1.jpg", 1) + _padded(b"1"),
        _header(b"a/symbolic.jpg", 0, b"2"),
        _header(b"a/hard.png", 99, b"1"),  # a link has no data, whatever its size says
        _header(b"a/readme", 0, b"2"),
        _header(b"a/device", 0, b"3"),
        _header(b"a/pipe.jpg", 0, b"6"),
        bytes(sparse) + bytes(more) + bytes(512) + bytes(512),
        _header(b"PaxHeaders", len(told), b"x") + _padded(told) + _header(b"GNUSparse/2.jpg", 512) + bytes(512),
        _header(b"a/odd.jpg", 512, b"A") + bytes(512),
        _header(b"a/2.jpg", 1) + _padded(b"2"),
    ]
    (tmp_path / "x.tar").write_bytes(b"".join(blocks) + _END)
    tree = Tree(tmp_path, ("*.tar",))
    assert tree.files("a") == ["1.jpg", "2.jpg"]
    assert tree.read_bytes("a/2.jpg") == b"2"
    assert _reasons(tree) == [
        ("a/symbolic.jpg", "unsupported"),
        ("a/hard.png", "unsupported"),
        ("a/pipe.jpg", "unsupported"),
        ("a/sparse.jpg", "unsupported"),
        ("a/sparse2.jpg", "unsupported"),
        ("a/odd.jpg", "unsupported"),
    ]


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_that_is_cut_off_shows_what_is_before_the_cut(tmp_path: Path, kind: int) -> None:
    files = {f"a/{'long' * 40}{number}.jpg": bytes([number]) * 700 for number in range(4)} | {"b/5.jpg": b"5" * 600}
    data = _tar(files, format=kind)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        ends = [info.offset_data + info.size for info in archive]
    end = ends[-1] + -ends[-1] % 512
    for cut in [*range(1, end + 1, 256), *ends, *(whole - 1 for whole in ends)]:
        (tmp_path / "x.tar").write_bytes(data[:cut])
        tree = Tree(tmp_path, ("x.tar",))
        whole = [(name, content) for (name, content), last in zip(files.items(), ends, strict=True) if last <= cut]
        found = [(path, tree.read_bytes(path)) for path in files if tree.is_file(path)]
        assert found == whole, cut
        (refused,) = tree.refused
        assert (refused.archive, refused.member, refused.reason) == ("x.tar", "", "broken_archive")
        assert "cut off" in refused.detail or cut < 512
    (tmp_path / "x.tar").write_bytes(data[: end + 512])
    assert Tree(tmp_path, ("x.tar",)).refused == []


def test_damage_in_a_tar_ends_it(tmp_path: Path) -> None:
    a, b, c = (_header(b"%c.jpg" % name, 3) + _padded(b"abc") for name in b"abc")
    far = _pax(size="99999999999999999999")
    renamed = _pax(path="all.jpg")
    for damaged in (
        b"x" + b[1:],
        _header(b"b.jpg", b"not a number"),
        _header(b"b.jpg", 1 << 30),
        _header(b"b.jpg", b"\xff" * 12),
        _header(b"b.jpg", b"\x80" + b"\xff" * 11),
        _header(b"L", 1 << 22, b"L"),
        _header(b"x", 20, b"x") + _padded(b"99 path=a.jpg\n"),
        _header(b"x", 20, b"x") + _padded(b"no length at all   "),
        _header(b"x", len(far), b"x") + _padded(far) + b,
        _header(b"g", len(renamed), b"g") + _padded(renamed) + b,
        _header(b"x", len(_pax(path="b.jpg")), b"x") + _padded(_pax(path="b.jpg")) + _END,
    ):
        (tmp_path / "x.tar").write_bytes(a + damaged + c + _END)
        tree = Tree(tmp_path, ("x.tar",))
        assert tree.files("") == ["a.jpg", "x.tar"]
        assert _reasons(tree) == [("", "broken_archive")]
        assert "byte 1,024" in tree.refused[0].detail


# ----------------------------------------------------------------------------------------- what is refused: members


@dataclass
class _Entry:
    """A member as its two headers describe it; `local` are the fields that its local header has instead."""

    name: bytes
    data: bytes = b"data"
    method: int = 0
    flags: int = 0
    host: int = 3
    mode: int = 0o100644
    crc: int | None = None
    stored: int | None = None
    size: int | None = None
    offset: int | None = None
    extra: bytes = b""
    disk: int = 0
    local: dict[str, object] | None = None


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _parts(*entries: _Entry) -> tuple[bytes, list[bytes]]:
    """Write members field by field: their bytes, and their records in the directory.

    A member whose offset is given has no bytes of its own.
    """
    body, records = b"", []
    for entry in entries:
        packed = _deflated(entry.data) if entry.method == 8 else entry.data
        given = replace(
            entry,
            crc=zlib.crc32(entry.data) if entry.crc is None else entry.crc,
            stored=len(packed) if entry.stored is None else entry.stored,
            size=len(entry.data) if entry.size is None else entry.size,
        )
        at = len(body) if entry.offset is None else entry.offset
        numbers = (given.crc, given.stored, given.size, len(entry.name), len(entry.extra))
        fixed = struct.pack("<4s2B5H", b"PK\1\2", 20, entry.host, 20, entry.flags, entry.method, 0, 33)
        more = struct.pack("<3L5H2L", *numbers, 0, entry.disk, 0, entry.mode << 16, at)
        records.append(fixed + more + entry.name + entry.extra)
        if entry.offset is None:
            there = replace(given, **({"extra": b""} | (entry.local or {})))  # type: ignore[arg-type]
            numbers = (there.crc, there.stored, there.size, len(there.name), len(there.extra))
            fixed = struct.pack("<4s5H3L2H", b"PK\3\4", 20, there.flags, there.method, 0, 33, *numbers)
            body += fixed + there.name + there.extra + packed
    return body, records


def _zip_end(count: int, length: int, offset: int, comment: bytes = b"", disk: int = 0) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\5\6", disk, disk, count, count, length, offset, len(comment)) + comment


def _zip64_end(count: int, length: int, offset: int, disks: int = 1) -> bytes:
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, offset + length, disks)
    return end + locator + _zip_end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


def _by_hand(*entries: _Entry, order: list[int] | None = None, comment: bytes = b"") -> bytes:
    """A ZIP archive written by hand; the directory lists the members in `order`."""
    body, records = _parts(*entries)
    directory = b"".join(records if order is None else [records[place] for place in order])
    return body + directory + _zip_end(len(entries), len(directory), len(body), comment)


_GOOD = (_Entry(b"good/1.jpg", b"one"), _Entry(b"good/2.jpg", b"two" * 99, 8))


def _assert_only(tree: Tree, expected: list[tuple[str, str]]) -> None:
    """The good members are there whole, the others are refused, and nothing else is seen."""
    assert _reasons(tree) == expected
    found = [f"{folder}/{name}".lstrip("/") for folder, _, files in tree.walk() for name in files]
    assert [path for path in found if not path.endswith(".zip")] == ["good/1.jpg", "good/2.jpg"]
    assert tree.read_bytes("good/1.jpg") == b"one"
    assert tree.read_bytes("good/2.jpg") == b"two" * 99


_HOSTILE = {
    "absolute": (_Entry(b"/etc/passwd"), "leaves_root"),
    "above": (_Entry(b"../1.jpg"), "leaves_root"),
    "above, inside": (_Entry(b"good/../../1.jpg"), "leaves_root"),
    "above, at the end": (_Entry(b"good/.."), "leaves_root"),
    "above, on Windows": (_Entry(b"good\\..\\..\\1.jpg", host=0), "leaves_root"),
    "above, with backslashes": (_Entry(b"a/good\\..\\1.jpg"), "leaves_root"),
    "drive": (_Entry(b"C:/1.jpg"), "leaves_root"),
    "drive without a slash": (_Entry(b"c:1.jpg"), "leaves_root"),
    "share": (_Entry(b"\\\\server\\1.jpg"), "leaves_root"),
    "NUL": (_Entry(b"good/1.jpg\0.txt"), "bad_name"),
    "line feed": (_Entry(b"good/1\n.jpg"), "bad_name"),
    "no name": (_Entry(b""), "bad_name"),
    "long component": (_Entry(b"x" * 256), "bad_name"),
    "long name": (_Entry(b"x/" * 2100 + b"1.jpg"), "bad_name"),
    "encrypted": (_Entry(b"good/3.jpg", flags=1), "encrypted"),
    "strongly encrypted": (_Entry(b"good/3.jpg", flags=0x41), "encrypted"),
    "masked": (_Entry(b"good/3.jpg", flags=1 << 13), "encrypted"),
    "bzip2": (_Entry(b"good/3.jpg", method=12), "unsupported"),
    "AES": (_Entry(b"good/3.jpg", method=99), "unsupported"),
    "symbolic link": (_Entry(b"good/3.jpg", b"../../etc", mode=0o120777), "unsupported"),
    "beyond the end": (_Entry(b"good/3.jpg", offset=1 << 31), "broken_archive"),
    "longer than the file": (_Entry(b"good/3.jpg", stored=1 << 20, size=1 << 20), "broken_archive"),
    "into the directory": (_Entry(b"good/3.jpg", stored=5, size=5), "broken_archive"),
    "no zip64 field": (_Entry(b"good/3.jpg", offset=0xFFFFFFFF), "broken_archive"),
    "short zip64 field": (_Entry(b"good/3.jpg", offset=0xFFFFFFFF, extra=b"\1\0\4\0abcd"), "broken_archive"),
    "negative zip64 offset": (
        _Entry(b"good/3.jpg", offset=0xFFFFFFFF, extra=b"\1\0\x08\0" + b"\xff" * 8), "broken_archive"
    ),
    "huge zip64 numbers": (
        _Entry(b"good/3.jpg", stored=0xFFFFFFFF, size=0xFFFFFFFF, offset=0xFFFFFFFF,
               extra=b"\1\0\x18\0" + b"\xfe" + b"\xff" * 6 + b"\x7f" + b"\xff" * 15 + b"\x3f"), "broken_archive"
    ),
    "on another disk": (_Entry(b"good/3.jpg", disk=3), "broken_archive"),
    "other size when stored": (_Entry(b"good/3.jpg", size=5), "claimed_size"),
    "more than deflate can hold": (_Entry(b"good/3.txt", b"x", 8, size=5000), "claimed_size"),
    "an image of 300 MB": (_Entry(b"good/3.JPG", os.urandom(300_000), 8, size=300_000_000), "claimed_size"),
}  # fmt: skip


@pytest.mark.parametrize(("entry", "reason"), _HOSTILE.values(), ids=_HOSTILE)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_hostile_member_is_refused_and_the_others_are_read(
    tmp_path: Path, entry: _Entry, reason: str, place: int
) -> None:
    entries = [*_GOOD[:place], entry, *_GOOD[place:]]
    if reason == "broken_archive" and entry.stored is not None and place < 2:
        entries = [*_GOOD, entry]  # where another member follows it would overlap
    (tmp_path / "x.zip").write_bytes(_by_hand(*entries))
    _assert_only(Tree(tmp_path, ("*.zip",)), [(entry.name.decode(), reason)])


def test_links_that_name_no_image_are_passed_over_silently(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(_by_hand(*_GOOD, _Entry(b"good/link", b"1.jpg", mode=0o120777)))
    _assert_only(Tree(tmp_path, ("*.zip",)), [])


def test_a_member_of_more_than_four_gibibytes_is_refused(tmp_path: Path) -> None:
    beyond, size = 0xFFFFFFFF, 5 << 30
    huge = _Entry(b"good/3.bin", b"", extra=struct.pack("<2H2Q", 1, 16, size, size), stored=beyond, size=beyond)
    body, records = _parts(*_GOOD, huge)
    with open(tmp_path / "x.zip", "wb") as file:
        file.write(body)
        start = file.seek(6 << 30)  # a hole where its data would be
        file.write(b"".join(records) + _zip64_end(3, len(b"".join(records)), start))
    _assert_only(Tree(tmp_path, ("*.zip",)), [("good/3.bin", "claimed_size")])


def test_names_are_taken_once(tmp_path: Path) -> None:
    entries = [
        _Entry(b"good/1.jpg", b"late"),
        _Entry(b"./good//1.jpg", b"late"),
        _Entry(b"good/", b""),
        _Entry(b"good/", b""),
    ]
    entries.append(_Entry(b"good\\2.jpg", b"late", host=0))
    (tmp_path / "x.zip").write_bytes(_by_hand(*_GOOD, *entries))
    expected = [("good/1.jpg", "named_twice"), ("./good//1.jpg", "named_twice"), ("good\\2.jpg", "named_twice")]
    _assert_only(Tree(tmp_path, ("*.zip",)), expected)
    (tmp_path / "x.zip").unlink()
    (tmp_path / "x.tar").write_bytes(
        b"".join(_header(name, 1) + _padded(data) for name, data in ((b"a", b"1"), (b"b", b"2"), (b"./a", b"3"))) + _END
    )
    tree = Tree(tmp_path, ("*.tar",))
    assert _reasons(tree) == [("./a", "named_twice")]
    assert tree.read_bytes("a") == b"1"


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [3, 4, 2, 1, 0]])
def test_members_that_share_bytes_are_refused_together(tmp_path: Path, order: list[int]) -> None:
    """As in a bomb whose members all unpack one kernel; both that begins first and that begins within are refused."""
    whole = _Entry(b"whole.bin", bytes(5000))
    body, _ = _parts(*_GOOD, whole)
    at = len(body) - 5000
    quoted = _Entry(b"quoted.bin", offset=at, stored=10, size=10)
    inner = _Entry(b"inner.bin", offset=at + 4000, stored=100, size=100)
    (tmp_path / "x.zip").write_bytes(_by_hand(*_GOOD, whole, quoted, inner, order=order))
    names = {2: "whole.bin", 3: "quoted.bin", 4: "inner.bin"}
    _assert_only(Tree(tmp_path, ("*.zip",)), [(names[place], "overlap") for place in order if place in names])


def test_two_names_of_the_same_bytes_are_refused(tmp_path: Path) -> None:
    body, _ = _parts(*_GOOD)
    same = _Entry(b"same.jpg", b"data" * 9)
    again = _Entry(b"more.jpg", b"data" * 9, offset=len(body))
    (tmp_path / "x.zip").write_bytes(_by_hand(*_GOOD, same, again))
    _assert_only(Tree(tmp_path, ("*.zip",)), [("same.jpg", "overlap"), ("more.jpg", "overlap")])


def test_many_refusals_are_counted(tmp_path: Path) -> None:
    entries = [_Entry(b"../%d" % number) for number in range(members._MOST_ROWS + 500)]
    (tmp_path / "x.zip").write_bytes(_by_hand(*_GOOD, *entries))
    tree = Tree(tmp_path, ("*.zip",))
    assert len(tree.refused) == members._MOST_ROWS + 1
    assert tree.refused[-1] == Refused("x.zip", "", "more", "500 more of its members are refused")
    assert tree.files("good") == ["1.jpg", "2.jpg"]


# ----------------------------------------------------------------------------------- what is refused: whole archives


def _only_reason(tmp_path: Path, data: bytes, name: str = "x.zip") -> Refused:
    (tmp_path / name).write_bytes(data)
    tree = Tree(tmp_path, ("*.zip", "*.tar"))
    assert list(tree.walk()) == [("", [], [name])]
    (refused,) = tree.refused
    assert (refused.archive, refused.member) == (name, "")
    (tmp_path / name).unlink()
    return refused


def test_broken_zips_are_refused_whole(tmp_path: Path) -> None:
    whole = _by_hand(*_GOOD)
    body, records = _parts(*_GOOD)
    directory = b"".join(records)
    length = len(directory)
    for data in (
        b"",
        b"no archive at all",
        whole[:-1],
        whole[: len(whole) // 2],
        whole[40:],  # its beginning is missing
        body + directory + _zip_end(3, length, len(body)),
        body + directory + _zip_end(1, length, len(body)),
        body + directory + _zip_end(2, length - 1, len(body)),
        body + directory + _zip_end(2, length + 1, len(body)),
        body + directory + _zip_end(2, length, len(body) + 1),
        body + directory + _zip_end(0xFFFF, 0xFFFFFFFF, len(body)),
        body + directory.replace(b"PK\1\2", b"PK\1\3") + _zip_end(2, length, len(body)),
        body + directory[:-5] + b"12345" * 9 + _zip_end(2, length + 40, len(body)),
        body + directory + _zip64_end(3, length, len(body)),
        body + directory + _zip64_end(1 << 40, length, len(body)),
        body + directory + _zip64_end(2, 1 << 63, len(body)),
        body + directory + _zip64_end(2, length, len(body)).replace(b"PK\6\6", b"PK\6\0"),
    ):
        assert _only_reason(tmp_path, data).reason == "broken_archive"
    for end in (_zip_end(2, length, len(body)) + b"trailing bytes", _zip64_end(2, length, len(body))):
        (tmp_path / "x.zip").write_bytes(b"prefix" + body + directory + end)
        _assert_only(Tree(tmp_path, ("*.zip",)), [])


def test_archives_in_several_parts_are_refused_with_the_command_that_joins_them(tmp_path: Path) -> None:
    body, records = _parts(*_GOOD)
    directory = b"".join(records)
    for end in (
        _zip_end(2, len(directory), len(body), disk=4),
        _zip64_end(2, len(directory), len(body), disks=5),
        struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 2, len(directory), len(body), 0),
    ):
        refused = _only_reason(tmp_path, body + directory + end, "Blended MVS1.zip")
        assert refused.reason == "unsupported"
        assert "`zip -s 0 'Blended MVS1.zip' --out 'Blended MVS1.joined.zip'`" in refused.detail


@pytest.mark.parametrize(
    ("mode", "name", "command"),
    [
        ("w:gz", "0012.tar", "tar xzf sets/0012.tar -C sets"),
        ("w:gz", "0012.tar.gz", "tar xzf sets/0012.tar.gz -C sets"),
        ("w:gz", "0012.tgz", "tar xzf sets/0012.tgz -C sets"),
        ("w:bz2", "0012.tar", "tar xjf sets/0012.tar -C sets"),
        ("w:xz", "00 12.tar.xz", "tar xJf 'sets/00 12.tar.xz' -C sets"),
    ],
)
def test_compressed_tars_are_refused_with_the_command_that_unpacks_them(
    tmp_path: Path, mode: str, name: str, command: str
) -> None:
    (tmp_path / "sets").mkdir()
    with tarfile.open(tmp_path / "sets" / name, mode) as archive:  # type: ignore[call-overload]
        archive.addfile(tarfile.TarInfo("1.jpg"))
    tree = Tree(tmp_path, ("*/*.tar",))
    assert tree.files("sets") == [name]
    (refused,) = tree.refused
    assert refused[:3] == (f"sets/{name}", "", "compressed_archive")
    assert f"`{command}`" in refused.detail


def test_zstandard_and_others_are_told_by_their_first_bytes(tmp_path: Path) -> None:
    for magic, word in (
        (b"\x28\xb5\x2f\xfd", "tar --zstd -xf"),
        (b"7z\xbc\xaf\x27\x1c", "7z x"),
        (b"Rar!\x1a\x07", "unrar"),
    ):
        refused = _only_reason(tmp_path, magic + bytes(2000), "x.tar")
        assert refused.reason == "compressed_archive"
        assert word in refused.detail


def test_an_archive_that_cannot_be_opened_is_refused_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.zip", "b.zip"):
        (tmp_path / name).write_bytes(_by_hand(_Entry(f"{name[0]}/1.jpg".encode())))
    real = os.pread

    def fails(number: int, count: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{number}").endswith("a.zip") and offset:
            raise OSError(5, "Input/output error")
        return real(number, count, offset)

    monkeypatch.setattr(os, "pread", fails)
    tree = Tree(tmp_path, ("*.zip",))
    assert tree.folders("") == ["b"]
    assert tree.refused == [Refused("a.zip", "", "broken_archive", "cannot be read: Input/output error")]


def test_a_zip_under_a_tars_name_is_a_zip(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(_by_hand(*_GOOD))
    assert Tree(tmp_path, ("*.tar",)).files("good") == ["1.jpg", "2.jpg"]


# ------------------------------------------------------------------------------------------------- reading of members

_DISAGREEING: dict[str, dict[str, object]] = {
    "name": {"name": b"good/4.jpg"},
    "longer name": {"name": b"good/3.jpg.exe"},
    "method": {"method": 8},
    "stored size": {"stored": 3},
    "unpacked size": {"size": 3},
    "checksum": {"crc": 1},
    "encryption": {"flags": 1},
    "data moved behind the directory": {"extra": b"x" * 6000},
}


@pytest.mark.parametrize("local", _DISAGREEING.values(), ids=_DISAGREEING)
def test_headers_that_disagree_are_an_error_that_names_the_member(tmp_path: Path, local: dict[str, object]) -> None:
    (tmp_path / "x.zip").write_bytes(_by_hand(*_GOOD, _Entry(b"good/3.jpg", b"three", local=local)))
    if "extra" in local:  # written in full, it would push the directory as well
        data = (tmp_path / "x.zip").read_bytes()
        (tmp_path / "x.zip").write_bytes(_by_hand(*_GOOD, _Entry(b"good/3.jpg", b"three")))
        assert len(data) > 6000
        whole = bytearray((tmp_path / "x.zip").read_bytes())
        struct.pack_into("<H", whole, whole.index(b"PK\3\4", len(_parts(*_GOOD)[0])) + 28, 6000)
        (tmp_path / "x.zip").write_bytes(whole)
    tree = Tree(tmp_path, ("*.zip",))
    for read in (tree.source, tree.read_bytes, tree.map):
        with pytest.raises(LayoutError, match=r"x\.zip: member 'good/3\.jpg': "):
            read("good/3.jpg")  # type: ignore[operator]
    assert tree.read_bytes("good/2.jpg") == b"two" * 99


def test_headers_may_leave_numbers_to_a_descriptor_or_a_zip64_field(tmp_path: Path) -> None:
    late = _Entry(b"late", b"later", flags=8, local={"crc": 0, "stored": 0, "size": 0})
    field = {"extra": struct.pack("<2H2Q", 1, 16, 5, 5), "stored": 0xFFFFFFFF, "size": 0xFFFFFFFF}
    far = _Entry(b"far", b"wider", local=field)
    (tmp_path / "x.zip").write_bytes(_by_hand(late, far))
    tree = Tree(tmp_path, ("*.zip",))
    assert tree.read_bytes("late") == b"later"
    assert tree.read_bytes("far") == b"wider"
    field["extra"] = struct.pack("<2H2Q", 1, 16, 5, 6)
    (tmp_path / "x.zip").write_bytes(_by_hand(replace(far, local=field)))
    with pytest.raises(LayoutError, match="member 'far'"):
        Tree(tmp_path, ("*.zip",)).source("far")


def test_bytes_are_checked_against_their_checksum(tmp_path: Path) -> None:
    data = bytearray(_by_hand(*_GOOD, _Entry(b"a.json", b'{"a": 1}')))
    data[data.index(b'{"a"') + 2] ^= 1
    (tmp_path / "x.zip").write_bytes(data)
    tree = Tree(tmp_path, ("*.zip",))
    with pytest.raises(LayoutError, match=r"x\.zip: member 'a\.json': its bytes are damaged"):
        tree.read_json("a.json")
    assert tree.source("a.json") is not None  # frames are looked at by other means


@pytest.mark.parametrize("claimed", [10, 1000, 30_000])
def test_no_more_is_inflated_than_a_member_claims(tmp_path: Path, claimed: int) -> None:
    bomb = _Entry(b"bomb.txt", bytes(100_000_000), 8, size=claimed, local={"size": claimed})
    (tmp_path / "x.zip").write_bytes(_by_hand(bomb))
    tree = Tree(tmp_path, ("*.zip",))
    tree.files("")
    tracemalloc.start()
    with pytest.raises(LayoutError, match=r"x\.zip: member 'bomb\.txt': it unpacks to more"):
        tree.read_bytes("bomb.txt")
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_members_that_unpack_to_less_or_are_cut_are_damaged(tmp_path: Path) -> None:
    less = _Entry(b"less.txt", b"x" * 100, 8, size=101, local={"size": 101})
    cut = _Entry(b"cut.txt", b"", offset=0, stored=20, size=200, method=8)
    (tmp_path / "x.zip").write_bytes(_by_hand(less))
    with pytest.raises(LayoutError, match="unpacks to 100 bytes, not 101"):
        Tree(tmp_path, ("*.zip",)).read_bytes("less.txt")
    packed = _deflated(os.urandom(200))
    body = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 33, 0, 20, 200, 7, 0) + b"cut.txt" + packed[:20]
    _, records = _parts(replace(cut, crc=0))
    (tmp_path / "x.zip").write_bytes(body + records[0] + _zip_end(1, len(records[0]), len(body)))
    with pytest.raises(LayoutError, match="unpacks to"):
        Tree(tmp_path, ("*.zip",)).read_bytes("cut.txt")


def test_large_members_are_refused_before_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(_by_hand(_Entry(b"a.txt", b"a" * 1000, 8)))
    (tmp_path / "y.tar").write_bytes(_tar({"b.txt": b"b" * 1000}))
    tree = Tree(tmp_path, ("*.zip", "*.tar"))
    for path in ("a.txt", "b.txt"):
        assert len(tree.read_bytes(path, 1000)) == 1000
        with pytest.raises(LayoutError, match=f"member '{path}': it has 1,000 bytes, more than the 999"):
            tree.read_bytes(path, 999)


def test_an_archive_that_changes_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(_by_hand(*_GOOD))
    tree = Tree(tmp_path, ("*.zip",))
    assert tree.folders("") == ["good"]
    (tmp_path / "x.zip").write_bytes(_by_hand(_Entry(b"other")))
    with pytest.raises(LayoutError, match=r"x\.zip: changed since"):
        tree.files("good")
    tree = Tree(tmp_path, ("*.zip",))
    assert tree.refused == []
    (tmp_path / "x.zip").unlink()
    with pytest.raises(LayoutError, match=r"x\.zip: cannot be read: No such file"):
        tree.read_bytes("other")


def test_paths_that_no_archive_can_have_are_absent(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(_by_hand(*_GOOD))
    tree = Tree(tmp_path, ("*.zip",))
    for path in ("good/../good/3.jpg", "\ud800/1.jpg", "good/1.jpg/2.jpg", "x" * 5000, "x" * 300, "good/", ""):
        assert not tree.is_file(path)
        assert tree.source(path) is None
        with pytest.raises(LayoutError):
            tree.read_bytes(path)
    assert tree.files("x" * 300) == []
    assert not tree.is_folder("x" * 300)


def test_image_endings_are_those_of_images() -> None:
    assert images.EXTENSIONS == members.IMAGE_ENDINGS


# ----------------------------------------------------------------------------------------------------------- mutations


def _read_all(tree: Tree) -> None:
    """Ask everything of a tree; errors that users are to expect pass."""
    for folder, _, files in tree.walk():
        for name in files:
            path = f"{folder}/{name}" if folder else name
            for ask in (tree.source, tree.read_bytes):
                with suppress(LayoutError):
                    ask(path)
    for row in tree.refused:
        assert row.reason
        assert row.detail
        row.detail.encode()


def _mutated(data: bytes, seed: int) -> bytes:
    draw = random.Random(seed)
    mutant = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8])):
        kind = draw.randrange(6)
        at = draw.randrange(len(mutant))
        if kind < 2:
            mutant[at] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
        elif kind == 2:
            del mutant[at:]
        elif kind == 3:
            del mutant[at : at + draw.randrange(1, 60)]
        elif kind == 4:
            mutant[at:at] = mutant[at : at + draw.randrange(600)]
        else:
            mutant[at : at + 4] = struct.pack("<L", draw.choice([0, 0xFFFFFFFF, 0xFFFF, 0x7FFFFFFF, 0x02014B50]))
        mutant = mutant or bytearray(b"x")
    return bytes(mutant)


def _samples() -> dict[str, bytes]:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(6):
            method = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            with archive.open(zipfile.ZipInfo(f"f{number // 3}/é{number}.jpg"), "w", force_zip64=number > 3) as file:
                file.write(b"abc" * number)
            archive.writestr(f"g/{number}.txt", b"text" * number, method)
    inner = _tar({"1.jpg": b"1" * 100, "x" * 150: b"2"}, format=tarfile.GNU_FORMAT)
    return {
        "x.zip": out.getvalue(),
        "y.zip": _parts(*_GOOD)[0]
        + b"".join(_parts(*_GOOD)[1])
        + _zip64_end(2, len(b"".join(_parts(*_GOOD)[1])), len(_parts(*_GOOD)[0])),
        "x.tar": _tar({"n1.tar": inner, "a/" + "y" * 150: b"3"}, format=tarfile.PAX_FORMAT),
        "y.tar": _tar({"a" * 120 + "/1.jpg": b"4" * 600}, format=tarfile.GNU_FORMAT),
    }


@pytest.mark.parametrize("name", ["x.zip", "y.zip", "x.tar", "y.tar"])
def test_mutated_archives_give_a_result_or_a_refusal(tmp_path: Path, name: str) -> None:
    data = _samples()[name]
    tracemalloc.start()
    differs = 0
    for seed in range(150):
        (tmp_path / name).write_bytes(_mutated(data, seed))
        tree = Tree(tmp_path, ("*.zip", "*.tar"))
        _read_all(tree)
        differs += bool(tree.refused)
    assert differs > 20
    assert tracemalloc.get_traced_memory()[1] < 60_000_000
    tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.zip", "y.zip", "x.tar", "y.tar"])
def test_ten_thousand_mutants(tmp_path: Path, name: str) -> None:
    data = _samples()[name]
    for seed in range(2_500):
        (tmp_path / name).write_bytes(_mutated(data, 1_000 + seed))
        _read_all(Tree(tmp_path, ("*.zip", "*.tar")))


# ----------------------------------------------------------------------------------- pickling, and what is left behind


def _unpickled(data: bytes) -> Tree:
    tree = pickle.loads(data)  # noqa: S301 - from this very test
    assert isinstance(tree, Tree)
    return tree


def _seen_elsewhere(tree: Tree) -> tuple[list[tuple[str, list[str], list[str]]], bytes, list[Refused]]:
    return list(tree.walk()), tree.read_bytes("good/2.jpg"), tree.refused


@pytest.mark.parametrize("most", [0, 1 << 20], ids=["mapped", "inline"])
def test_a_tree_travels_to_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(mounts, "_MOST_INLINE", most)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = tmp_path / "root"
    root.mkdir()
    (root / "x.zip").write_bytes(_by_hand(*_GOOD, _Entry(b"../up")))
    (root / "y.tar").write_bytes(_tar({"n.tar": _tar({"1.jpg": b"1"})}))
    tree = Tree(root, ("*.zip", "*.tar"))
    expected = _seen_elsewhere(tree)
    assert len(list(tmp_path.glob("mumdata-*.folders"))) == (most == 0)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_seen_elsewhere, (tree,)) == expected
    data = pickle.dumps(tree)
    assert _seen_elsewhere(_unpickled(pickle.dumps(_unpickled(data)))) == expected
    del tree
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert sorted(os.listdir(root)) == ["x.zip", "y.tar"]
    # as on another machine: the file is not there
    assert _seen_elsewhere(_unpickled(data)) == expected


def test_a_file_that_only_looks_like_the_table_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "_MOST_INLINE", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.zip").write_bytes(_by_hand(*_GOOD, _Entry(name.encode() + b"/1.jpg")))
    trees = {name: Tree(tmp_path / name, ("*.zip",)) for name in ("a", "b")}
    data = {name: pickle.dumps(tree) for name, tree in trees.items()}
    of_a, of_b = (trees[name]._archives()._file for name in ("a", "b"))  # type: ignore[union-attr]
    assert of_a is not None
    assert of_b is not None
    for content in (Path(of_b).read_bytes(), b"mumtree1", b"", Path(of_a).read_bytes()[:-64]):
        os.unlink(of_a)
        Path(of_a).write_bytes(content)
        again = _unpickled(data["a"])
        assert again.folders("") == ["a", "good"]
        assert again.read_bytes("good/1.jpg") == b"one"


def test_where_no_temporary_file_can_be_written_the_table_travels_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "_MOST_INLINE", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    (tmp_path / "x.zip").write_bytes(_by_hand(*_GOOD))
    tree = Tree(tmp_path, ("*.zip",))
    _assert_only(tree, [])
    shutil.copy(tmp_path / "x.zip", tmp_path / "y.zip")
    assert _unpickled(pickle.dumps(tree)).folders("") == ["good"]


def test_few_archives_stay_open(tmp_path: Path) -> None:
    for number in range(mounts._MOST_OPEN + 20):
        (tmp_path / f"{number:03d}.zip").write_bytes(_by_hand(_Entry(b"%03d/1.jpg" % number, b"%d" % number)))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    tree = Tree(tmp_path, ("*.zip",))
    for _ in range(2):
        for number in range(mounts._MOST_OPEN + 20):
            assert tree.read_bytes(f"{number:03d}/1.jpg") == b"%d" % number
    assert len(os.listdir("/proc/self/fd")) == before + mounts._MOST_OPEN
    del tree
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_listings_are_forgotten_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mumdata.tree._MOST_LISTED", 3)
    files = {f"{folder}/{number}.jpg": bytes([number]) for folder in "abc" for number in range(3)}
    _zip(tmp_path / "x.zip", files)
    tree = Tree(tmp_path, ("*.zip",))
    for _ in range(2):
        assert all(tree.read_bytes(path) == data and tree.find(path) == path for path, data in files.items())
        assert tree._num_listed <= 4
