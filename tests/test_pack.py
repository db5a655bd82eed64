"""Packed copies: the same images under the same frame_ids, in shards that any TAR reader reads."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog, roots
from mumdata.errors import CatalogError, ConfigError, DecodeError, LayoutError, MumError, TruncatedError
from mumdata.images import read_encoded, read_image
from mumdata.index import index
from mumdata.mix import mix
from mumdata.pack import Packed, pack, verify_packed
from mumdata.packed import catalogs as catalogs_module
from mumdata.packed import shard as shard_module
from mumdata.packed.plan import divide
from mumdata.packed.recode import Recoding, recode, target_size
from mumdata.schema import COVISIBILITY, FRAMES, MIX, QUARANTINE, SCENES, SCHEMAS, SEQUENCES
from mumdata.sequences import mine_sequences
from mumdata.shard_tar import TarWriter

from .conftest import write_picture
from .test_shards import write_shards


def photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A picture with structure at all scales and, as photos have, coarser colours, uint8 RGB [height, width, 3]."""
    random = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for cells in (3, 7, 20, 60, 150):
        coarse = random.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        if cells > 8:
            coarse = np.repeat(coarse[:, :, :1], 3, axis=2)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / cells**0.5
    low, high = image.min(), image.max()
    return np.round((image - low) / (high - low) * 255).astype(np.uint8)


def encoded(image: np.ndarray, suffix: str = ".jpg", *options: int) -> bytes:
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, data = cv2.imencode(suffix, pixels, options or ([cv2.IMWRITE_JPEG_QUALITY, 92] if suffix == ".jpg" else []))
    assert done
    return data.tobytes()


def decoded(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def table(schema: Any, folder: Path) -> pa.Table:
    return catalog.read(schema, folder / schema.file_name)


def frame_bytes(root: Path, row: dict[str, Any]) -> bytes:
    archived = row["archive"] is not None
    return read_encoded(
        root,
        row["path"],
        archive=row["archive"],
        codec=row["codec"],
        offset=row["offset"] if archived else None,
        num_bytes=row["bytes"] if archived else None,
    )


def in_sequences(folder: Path) -> set[int]:
    return set(table(SEQUENCES, folder).column("frames").combine_chunks().flatten().to_pylist())


def contents(out: Path) -> dict[str, bytes]:
    """All files of a packed copy but the Arrow twins, which are made from the catalogs, and locks."""
    paths = (path for path in out.rglob("*") if path.is_file() and path.suffix != ".arrow")
    return {str(path.relative_to(out)): path.read_bytes() for path in paths if not path.name.startswith(".")}


def album(
    tmp_path: Path, name: str = "trip", scenes: int = 3, frames: int = 6, size: tuple[int, int] = (96, 64)
) -> Path:
    """Folders of photos, indexed and mined as whole scenes; returns the folder of the catalogs."""
    for scene, frame in itertools.product(range(scenes), range(frames)):
        path = tmp_path / name / f"s{scene}" / f"f{frame}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(96, 64, seed=scene * 100 + frame)))
    return mined(tmp_path, name)


def mined(tmp_path: Path, *names: str, **options: Any) -> Path:
    for name in names:
        index("folder", root=tmp_path / name, name=name, catalogs=tmp_path / "c", workers=1)
        mine_sequences(name, catalogs=tmp_path / "c", rule="scene", workers=1, **options)
    mix("only", weight=[f"{name}=1" for name in names], catalogs=tmp_path / "c")
    return tmp_path / "c"


@pytest.fixture(scope="module")
def full(mix_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return pack(mix_path, out=tmp_path_factory.mktemp("packed") / "full", size="full", workers=1)


@pytest.fixture(scope="module")
def small(mix_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return pack(mix_path, out=tmp_path_factory.mktemp("packed") / "small", size=40, shard_gb=6e-5, workers=1)


def pairs_of(mix_path: Path, packed: Packed) -> Iterator[tuple[catalog.MixDataset, catalog.MixDataset]]:
    before, after = catalog.open_mix(mix_path).datasets, catalog.open_mix(packed.path).datasets
    assert [one.name for one in before] == [one.name for one in after]
    return zip(before, after, strict=True)


# ---- what the copy holds


def test_full_holds_the_files_bytes_and_each_file_once(mix_path: Path, full: Packed) -> None:
    shared = 0
    for (before, after), counts in zip(pairs_of(mix_path, full), full.datasets, strict=True):
        old, new = table(FRAMES, before.catalog).to_pylist(), table(FRAMES, after.catalog).to_pylist()
        used = in_sequences(before.catalog)
        places = set()
        for theirs, ours in zip(old, new, strict=True):
            if ours["frame_id"] in used:
                assert frame_bytes(catalog.dataset_root(after), ours) == frame_bytes(
                    catalog.dataset_root(before), theirs
                )
                assert (ours["status"], ours["codec"]) == ("ok", "stored")
                data = frame_bytes(catalog.dataset_root(after), ours)
                assert ours["content_hash"] == hashlib.sha256(data).hexdigest()
                places.add((ours["archive"], ours["offset"], ours["bytes"]))
            else:
                assert ours["status"] == ("not_packed" if theirs["status"] == "ok" else theirs["status"])
                assert ours["archive"] is ours["codec"] is ours["offset"] is ours["bytes"] is None
        assert len(places) == len({(row["archive"], row["path"]) for row in old if row["frame_id"] in used})
        assert (counts.num_frames, counts.num_images) == (len(used), len(places))
        shared += len(used) - len(places)
    assert shared > 0, "the demo world has photos that several sub-models register"
    assert full.num_frames == sum(one.num_frames for one in catalog.open_mix(mix_path).datasets)


@pytest.mark.parametrize("subset", ["uniform", "covisible"])
def test_training_from_full_shards_is_training_from_files(mix_path: Path, full: Packed, subset: str) -> None:
    from mumtrain.config import Config
    from mumtrain.loader import Loader, open_frames
    from mumtrain.sampler import open_sampler

    def batches(path: Path) -> Iterator[tuple[list[Any], np.ndarray]]:
        data = replace(Config().data, views_max=6, frames_per_slot=24, size=48, workers=0, subset=subset)
        config = replace(Config(), data=data)
        opened = catalog.open_mix(path)
        with Loader(open_sampler(opened, config), open_frames(opened), config) as loader:
            for loaded in loader.load([(step, slot) for step in range(5) for slot in range(2)]):
                drawn = [(one.dataset, one.sequence, one.frame_ids.tolist()) for one in loaded.batch.sequences]
                yield drawn, np.array(loaded.views)

    num = 0
    for (drawn, views), (same_drawn, same_views) in zip(batches(mix_path), batches(full.path), strict=True):
        assert drawn == same_drawn
        assert np.array_equal(views, same_views)
        num += 1
    assert num == 10


CHANGED = {"archive", "codec", "offset", "bytes", "mtime_ns", "content_hash", "depth_path", "mask_path", "status"}


@pytest.mark.parametrize("which", ["full", "small"])
def test_catalogs_say_the_same_of_the_same_frames(
    mix_path: Path, which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: Packed = request.getfixturevalue(which)
    of_size = {"width", "height", "traits", "intrinsics_px"} if which == "small" else set()
    for before, after in pairs_of(mix_path, packed):
        same = [name for name in FRAMES.columns.names if name not in CHANGED | of_size]
        assert table(FRAMES, before.catalog).select(same).equals(table(FRAMES, after.catalog).select(same))
        assert table(FRAMES, after.catalog).column("depth_path").null_count == len(table(FRAMES, after.catalog))
        assert table(SEQUENCES, before.catalog).equals(table(SEQUENCES, after.catalog))
        assert table(SCENES, before.catalog).equals(table(SCENES, after.catalog))
        assert (before.covisibility is None) == (after.covisibility is None)
        for schema in (SEQUENCES, SCENES, *([COVISIBILITY] if after.covisibility else [])):
            old, new = (catalog.read_footer(schema, one.catalog / schema.file_name) for one in (before, after))
            assert new.inputs == old.inputs | {"frames": after.frames_digest}
            assert (new.parameters, new.seed) == (old.parameters, old.seed)
        if before.covisibility is not None and after.covisibility is not None:
            assert table(COVISIBILITY, before.catalog).equals(table(COVISIBILITY, after.catalog))
            # the sampler's neighbours
            assert catalog.map_covisibility(before).equals(catalog.map_covisibility(after))
        assert catalog.map_sequences(before).equals(catalog.map_sequences(after))
        made = catalog.read_footer(FRAMES, after.frames)
        assert made.inputs == {"source_frames": before.frames_digest}
        assert made.parameters["packed_size"] == ("full" if which == "full" else 40)
        for name in ("weight", "single_view", "min_frames", "holdout", "num_sequences", "num_frames", "licence"):
            assert getattr(before, name) == getattr(after, name)
        assert after.catalog.parent == packed.path.parent


def test_small_pictures_are_the_large_ones_made_smaller(mix_path: Path, small: Packed) -> None:
    errors: list[float] = []
    num_posed = 0
    for before, after in pairs_of(mix_path, small):
        old, new = table(FRAMES, before.catalog).to_pylist(), table(FRAMES, after.catalog).to_pylist()
        for theirs, ours in zip(old, new, strict=True):
            if ours["archive"] is None:
                assert (ours["width"], ours["intrinsics_px"]) == (theirs["width"], theirs["intrinsics_px"])
                continue
            data = frame_bytes(catalog.dataset_root(after), ours)
            source = decoded(frame_bytes(catalog.dataset_root(before), theirs))
            image = decoded(data)
            assert image.shape[:2] == (ours["height"], ours["width"])
            assert min(image.shape[:2]) == min(40, *source.shape[:2])
            expected = cv2.resize(source, (ours["width"], ours["height"]), interpolation=cv2.INTER_AREA)
            errors.append(np.abs(image.astype(int) - expected).mean())
            assert errors[-1] < 3  # the renderings are noisy to the pixel
            if ours["intrinsics_px"] is not None:
                num_posed += 1
                wide, high = Fraction(ours["width"], theirs["width"]), Fraction(ours["height"], theirs["height"])
                pixels = [Fraction(value) for value in theirs["intrinsics_px"]]
                scaled = [float(value * by) for value, by in zip(pixels, [wide, high, wide, high], strict=True)]
                assert ours["intrinsics_px"] == pytest.approx(scaled, rel=1e-6)
    assert len(errors) == small.num_frames
    assert np.mean(errors) < 2
    assert num_posed > 100


def test_shards_are_plain_tars_that_group_as_samples(small: Packed) -> None:
    keys: set[str] = set()
    num_shards = 0
    for counts in small.datasets:
        shards = sorted((small.path.parent / counts.name / "shards").glob("*.tar"))
        assert [path.name for path in shards] == [f"{counts.name}-{n:06d}.tar" for n in range(counts.num_shards)]
        num_shards += len(shards)
        for path in shards:
            assert path.stat().st_size < 2.5 * 6e4
            with tarfile.open(path) as tar:
                names = tar.getnames()
                assert all(entry.isreg() and entry.mtime == 0 and not entry.pax_headers for entry in tar)
            # as WebDataset groups: the name up to its first dot is the sample's key, the rest says what it is
            samples = {key: list(group) for key, group in itertools.groupby(names, lambda name: name.split(".", 1)[0])}
            assert all(len(group) == 1 and group[0] == f"{key}.jpg" for key, group in samples.items())
            assert not keys & set(samples)
            keys |= set(samples)
    assert num_shards > 6
    assert len(keys) == sum(counts.num_images for counts in small.datasets)


def test_a_moved_copy_works_wherever_the_dataset_is_said_to_be(
    mix_path: Path, full: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "else where" / "copy"
    shutil.copytree(full.path.parent, moved)
    monkeypatch.setenv("MUM_ROOT_MEGADEPTH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for dataset in catalog.open_mix(moved / "mix.parquet").datasets:
        assert catalog.dataset_root(dataset).resolve() == moved / dataset.name
        row = next(row for row in table(FRAMES, dataset.catalog).to_pylist() if row["archive"])
        frame_bytes(catalog.dataset_root(dataset), row)
    assert not verify_packed(moved, workers=1).problems
    assert not verify_packed(Path("else where/copy"), workers=1).problems


def test_the_summary_says_what_it_saved(small: Packed) -> None:
    text = "\n".join(small.lines())
    shards = list(small.path.parent.rglob("shards/*.tar"))
    assert small.bytes_after == sum(path.stat().st_size for path in shards)
    assert f"{len(shards)} shards" in text
    num_images = sum(counts.num_images for counts in small.datasets)
    assert small.num_images == num_images < small.num_frames
    whole = f"{num_images:,} images ({small.num_frames:,} frames, some of the same file) short side 40, JPEG quality 95"
    assert whole in text
    assert f"{num_images:,} images of {small.verified.num_bytes:,} bytes in all" in text
    assert (
        f" of files -> {small.bytes_after / 1e6:.3g} MB of shards ({small.bytes_after / small.bytes_before:.0%})"
        in text
    )
    assert all(counts.name in text for counts in small.datasets)
    assert text.splitlines()[-1] == f"next: mumtrain pretrain {small.path}"
    assert "not be packed" not in text
    assert small.verified.num_images == sum(counts.num_images for counts in small.datasets)


# ---- one image


@pytest.mark.parametrize(("width", "height", "factor"), [(1024, 768, 8), (640, 480, 5), (768, 1024, 4), (300, 200, 1)])
def test_pictures_are_averaged_not_sampled(width: int, height: int, factor: int) -> None:
    # against the mean over blocks of pixels, of the whole picture as decoded by another library
    from PIL import Image

    data = encoded(photo(width, height), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95)
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.float64)
    blocks = whole.reshape(height // factor, factor, width // factor, factor, 3).mean(axis=(1, 3))
    made = recode(data, Recoding(min(width, height) // factor, 100))
    assert (made.width, made.height, made.suffix) == (width // factor, height // factor, ".jpg")
    error = np.abs(decoded(made.data) - blocks)
    assert error.mean() < 2
    if factor == 1:
        assert made.data == data


def test_a_fine_grating_becomes_grey_not_stripes() -> None:
    # stripes of one pixel: picking every fourth would give all black or all white
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    made = recode(encoded(stripes, ".png"), Recoding(128, 95))
    assert np.abs(decoded(made.data).astype(int) - 127.5).max() < 4


@given(st.integers(1, 20000), st.integers(1, 20000), st.integers(16, 2000))
def test_sizes(width: int, height: int, size: int) -> None:
    wide, high = target_size(width, height, size)
    short = min(width, height)
    if short <= size:
        assert (wide, high) == (width, height)
        return
    assert min(wide, high) == size
    for got, was in ((wide, width), (high, height)):
        assert abs(got - Fraction(was * size, short)) <= Fraction(1, 2)


def test_small_files_are_taken_as_they_are_where_they_are_jpeg() -> None:
    image = photo(90, 60)
    jpeg, png = encoded(image), encoded(image, ".png")
    assert recode(jpeg, Recoding(60, 50)).data == jpeg
    assert recode(jpeg, Recoding(59, 50)).data != jpeg
    made = recode(png, Recoding(100, 95))
    assert (made.suffix, made.width, made.height) == (".jpg", 90, 60)
    assert np.abs(decoded(made.data).astype(int) - image).mean() < 2
    for data, suffix in (
        (jpeg, ".jpg"),
        (png, ".png"),
        (encoded(image, ".webp"), ".webp"),
        (encoded(image, ".bmp"), ".bmp"),
    ):
        made = recode(data, Recoding(None, None))
        assert (made.data, made.suffix, made.width, made.height) == (data, suffix, 90, 60)


def test_kinds_of_pictures() -> None:
    from PIL import Image

    image = photo(200, 120)
    grey = recode(encoded(image[:, :, 1], ".png"), Recoding(60, 95))
    assert (grey.traits, Image.open(io.BytesIO(grey.data)).mode) == (("grey",), "L")
    expected = cv2.resize(image[:, :, 1], (100, 60), interpolation=cv2.INTER_AREA)
    assert np.abs(decoded(grey.data)[:, :, 0].astype(int) - expected).mean() < 2
    # EXIF orientation: pixels as stored, and nothing left that a viewer would turn by
    exif = Image.Exif()
    exif[0x112] = 6
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95, exif=exif)
    turned = recode(file.getvalue(), Recoding(60, 95))
    assert (turned.width, turned.height, turned.traits) == (100, 60, ())
    assert not Image.open(io.BytesIO(turned.data)).getexif()
    cmyk = io.BytesIO()
    Image.fromarray(image).convert("CMYK").save(cmyk, "JPEG", quality=95)
    for data in (file.getvalue(), cmyk.getvalue()):
        made = decoded(recode(data, Recoding(60, 95)).data)
        assert np.abs(made.astype(int) - cv2.resize(decoded(data), (100, 60), interpolation=cv2.INTER_AREA)).mean() < 2
    progressive = io.BytesIO()
    Image.fromarray(image).save(progressive, "JPEG", quality=95, progressive=True)
    assert recode(progressive.getvalue(), Recoding(60, 95)).width == 100
    layers = Image.open(io.BytesIO(turned.data)).layer  # type: ignore[attr-defined]
    assert [layer[1:3] for layer in layers] == [(1, 1), (1, 1), (1, 1)], "chroma is whole"


def test_damage_is_found_where_pixels_are_decoded() -> None:
    data = encoded(photo(400, 300))
    cut = data[: len(data) // 2]
    lost = data[: len(data) // 2] + b"\xff\xd9"
    hole = data[:2000] + bytes(len(data) // 2) + data[2000 + len(data) // 2 :]
    for how in (Recoding(None, None), Recoding(64, 95), Recoding(300, 95)):
        with pytest.raises(TruncatedError):
            recode(cut, how)
        with pytest.raises(DecodeError):
            recode(b"GIF89a" + bytes(100), how)
    for how in (Recoding(64, 95), Recoding(300, 95)):
        for broken in (lost, hole):
            with pytest.raises(DecodeError):
                recode(broken, how)
    # a part that was never written: the decoder takes some of these holes without a word
    small = encoded(photo(200, 150))
    for begin in range(small.rindex(b"\xff\xda") + 20, len(small) - 110, 61):
        with pytest.raises(DecodeError):
            recode(small[:begin] + bytes(100) + small[begin + 100 :], Recoding(64, 95))
    # a progressive file without its last scan, and closed
    whole = encoded(photo(200, 150), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    with pytest.raises(TruncatedError, match="scans are missing"):
        recode(whole[: whole.rindex(b"\xff\xda")] + b"\xff\xd9", Recoding(64, 95))
    png = encoded(photo(400, 300), ".png")
    flipped = png[:5000] + bytes([png[5000] ^ 1]) + png[5001:]
    with pytest.raises(DecodeError, match=r"checksum|damaged"):
        recode(flipped, Recoding(64, 95))


# ---- shards


@given(st.lists(st.tuples(st.text("abcXYZ019_-", min_size=1, max_size=90), st.binary(max_size=1500)), max_size=8))
@settings(max_examples=50)
def test_a_tar_holds_its_members_where_it_says(members: list[tuple[str, bytes]]) -> None:
    file = io.BytesIO()
    writer = TarWriter(file)
    offsets = [writer.add(name, data) for name, data in members]
    assert writer.close() == len(file.getvalue())
    assert len(file.getvalue()) % 10240 == 0
    with tarfile.open(fileobj=io.BytesIO(file.getvalue()), mode="r:") as tar:
        entries = tar.getmembers()
        assert [entry.name for entry in entries] == [name for name, _ in members]
        for entry, offset, (_, data) in zip(entries, offsets, members, strict=True):
            assert (entry.offset_data, entry.size) == (offset, len(data))
            content = tar.extractfile(entry)
            assert content is not None
            assert content.read() == data == file.getvalue()[offset : offset + len(data)]


def test_a_tar_refuses_names_that_need_more_than_one_header() -> None:
    for name in ("x" * 300, "é"):
        with pytest.raises(ValueError):  # noqa: PT011
            TarWriter(io.BytesIO()).add(name, b"")


@given(st.lists(st.floats(1, 1e6), max_size=300), st.floats(1e3, 1e8))
@settings(max_examples=40)
def test_shards_are_about_as_large_as_asked_for(sizes: list[float], shard_bytes: float) -> None:
    ends = divide(np.array(sizes), shard_bytes)
    begins = [0, *ends[:-1]]
    assert ends == sorted(set(ends))
    assert (ends[-1] if ends else 0) == len(sizes)
    for begin, end in zip(begins, ends, strict=bool(ends)):
        assert begin < end
        # an image belongs where its middle is, so half an image may stick out on either side
        wanted = max(shard_bytes, sum(sizes) / len(sizes))
        assert sum(sizes[begin:end]) <= wanted * (1 + 1e-9) + max(sizes[begin:end])


def test_shards_are_divided_by_bytes_not_by_number() -> None:
    sizes = np.array([1.0] * 900 + [100.0] * 100)
    ends = divide(sizes, 1000)
    assert len(ends) == 11
    assert all(850 < part.sum() < 1100 for part in np.split(sizes, ends[:-1]))


def test_many_workers_have_work_with_few_images() -> None:
    assert len(divide(np.full(127, 1e4), 1e9)) == 1
    assert len(divide(np.full(1280, 1e4), 1e9)) == 10
    assert len(divide(np.full(100_000, 1e4), 1e9)) == 32
    assert len(divide(np.full(100_000, 1e6), 1e9)) == 100


@pytest.mark.parametrize("shard_bytes", [5e-324 * 1e9, 1e-300, 1.0, float("inf")])
def test_shards_of_any_size_that_can_be_asked_for(shard_bytes: float) -> None:
    ends = divide(np.full(1000, 1e6), shard_bytes)
    assert ends == (list(range(1, 1001)) if shard_bytes <= 1 else list(divide(np.full(1000, 1e6), 1e12)))


def test_members_of_all_datasets_have_keys_of_their_own() -> None:
    names = ["a.b", "a_b", "a..b", "a._b", "x" * 64, "x" * 65, "x" * 66, "x" * 63 + ".", "x" * 63 + "_"]
    members = {shard_module.member_name(name, frame_id, ".jpg") for name in names for frame_id in (0, 7)}
    assert len({member.partition(".")[0] for member in members}) == 2 * len(names)
    assert all(member.endswith(".jpg") and member.count(".") == 1 and len(member) <= 100 for member in members)
    assert shard_module.member_name("megadepth", 7, ".png") == "megadepth_000000007.png"


def test_a_picture_longer_than_a_jpeg_can_be_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    catalogs = album(tmp_path, scenes=1)
    (tmp_path / "trip/s0/long.png").write_bytes(encoded(np.zeros((20, 66000, 3), np.uint8), ".png"))
    mined(tmp_path, "trip")
    capfd.readouterr()
    packed = pack(catalogs / "mix.parquet", out=tmp_path / "p", size=20, workers=1)
    assert "OpenCV" not in capfd.readouterr().err
    assert packed.datasets[0].broken == {"unreadable": 1}
    (row,) = table(QUARANTINE, tmp_path / "p/trip").to_pylist()
    assert row["detail"] == "as a JPEG it would be 66000 x 20 pixels, more than the 65,535 of a side"
    assert pack(catalogs / "mix.parquet", out=tmp_path / "f", size="full", workers=1).num_frames == 7


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(
    mix_path: Path, small: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = pack(mix_path, out=tmp_path / "two", size=40, shard_gb=6e-5, workers=2)
    assert contents(tmp_path / "two") == contents(small.path.parent)
    assert again.num_kept == 0


def test_images_in_archives(world: Path, tmp_path: Path) -> None:
    album(tmp_path, "plain", frames=4)
    (tmp_path / "zipped").mkdir()
    for number, method in enumerate((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(tmp_path / "zipped" / f"z{number}.zip", "w", method) as out:
            for path in sorted((tmp_path / "plain").rglob("*.jpg")):
                out.write(path, f"{method}/{path.relative_to(tmp_path / 'plain')}")
    images = write_shards(world / "imagenet", tmp_path / "hub")
    index("imagenet", root=tmp_path / "hub", catalogs=tmp_path / "c", workers=1)
    mine_sequences("imagenet", catalogs=tmp_path / "c", workers=1)
    mined(tmp_path, "zipped")
    found = mix("only", weight=["zipped=1", "imagenet=1"], catalogs=tmp_path / "c", out=tmp_path / "mix.parquet")
    packed = pack(found.path, out=tmp_path / "p", size="full", shard_gb=1e-5, workers=1)
    codecs = set()
    for before, after in pairs_of(found.path, packed):
        old, new = table(FRAMES, before.catalog).to_pylist(), table(FRAMES, after.catalog).to_pylist()
        used = in_sequences(before.catalog)
        for theirs, ours in zip(old, new, strict=True):
            if ours["frame_id"] not in used:
                continue
            codecs.add(theirs["codec"])
            data = frame_bytes(catalog.dataset_root(after), ours)
            assert data == frame_bytes(catalog.dataset_root(before), theirs)
            if after.name == "imagenet":
                assert data == images[ours["path"]]
    assert codecs == {"stored", "deflate", "parquet"}
    # rows of Parquet shards are read shard by shard: reading one of them means reading its neighbours
    hub = table(FRAMES, tmp_path / "c" / "imagenet").to_pylist()
    members = []
    for path in sorted((tmp_path / "p/imagenet/shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            members += [int(name.split("_")[-1].split(".")[0]) for name in tar.getnames()]
    by_shard = [list(group) for _, group in itertools.groupby(members, lambda frame_id: hub[frame_id]["archive"])]
    assert len(by_shard) == 3
    for group in by_shard:
        rows = [hub[frame_id]["offset"] for frame_id in group]
        assert rows == sorted(rows)


def test_rows_of_a_shard_may_have_one_name(world: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_shards(world / "imagenet", tmp_path / "hub", num=1)
    for path in (tmp_path / "hub/data").glob("*.parquet"):
        rows = pq.read_table(path)
        same = [{"bytes": image["bytes"], "path": "img_n00000001.JPEG"} for image in rows.column("image").to_pylist()]
        pq.write_table(rows.set_column(0, "image", pa.array(same, rows.schema.field("image").type)), path)
    index("imagenet", root=tmp_path / "hub", catalogs=tmp_path / "c", workers=1)
    mine_sequences("imagenet", catalogs=tmp_path / "c", workers=1)
    found = mix("only", weight=["imagenet=1"], catalogs=tmp_path / "c")
    packed = pack(found.path, out=tmp_path / "p", size="full", workers=1)
    for before, after in pairs_of(found.path, packed):
        old, new = table(FRAMES, before.catalog).to_pylist(), table(FRAMES, after.catalog).to_pylist()
        used = in_sequences(before.catalog)
        assert len({old[frame_id]["path"] for frame_id in used}) < len(used), "or this tests nothing"
        for frame_id in used:
            data = frame_bytes(catalog.dataset_root(after), new[frame_id])
            assert data == frame_bytes(catalog.dataset_root(before), old[frame_id])


def test_a_packed_copy_can_be_packed(small: Packed, tmp_path: Path) -> None:
    again = pack(small.path, out=tmp_path / "smaller", size=20, workers=1)
    assert again.num_frames == small.num_frames
    for dataset in catalog.open_mix(again.path).datasets:
        for row in table(FRAMES, dataset.catalog).to_pylist():
            assert row["archive"] is None or min(row["width"], row["height"]) == 20
    assert not verify_packed(tmp_path / "smaller", workers=1).problems


# ---- what is broken


def test_broken_images_leave_the_sequences_and_are_told(tmp_path: Path) -> None:
    catalogs = album(tmp_path, scenes=4, frames=5)
    mix("only", weight=["trip=1"], catalogs=catalogs, min_frames=3)
    root = tmp_path / "trip"
    data = (root / "s0/f1.jpg").read_bytes()
    (root / "s0/f1.jpg").write_bytes(data[:-500])  # cut
    (root / "s0/f2.jpg").unlink()
    (root / "s1/f0.jpg").write_bytes(b"")
    for frame in range(3):
        (root / f"s2/f{frame}.jpg").write_bytes(b"no image at all")
    packed = pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)
    (counts,) = packed.datasets
    assert counts.broken == {"empty": 1, "missing": 1, "truncated": 1, "unreadable": 3}
    assert (counts.num_frames, counts.num_sequences) == (14, 3)
    assert (counts.num_shortened, counts.num_lost) == (2, 1)
    folder = tmp_path / "p" / "trip"
    frames = {row["path"]: row for row in table(FRAMES, folder).to_pylist()}
    paths = list(frames)
    assert [frames[f"s{s}/f{f}.jpg"]["status"] for s, f in ((0, 0), (0, 1), (0, 2), (1, 0), (2, 2))] == [
        "ok",
        "truncated",
        "missing",
        "empty",
        "unreadable",
    ]
    # frames of a sequence that is gone are there nevertheless: other sequences might have named them
    assert frames["s2/f4.jpg"]["status"] == "ok"
    rows = table(SEQUENCES, folder).to_pylist()
    named = [[paths[frame_id] for frame_id in row["frames"]] for row in rows]
    assert named == [
        ["s0/f0.jpg", "s0/f3.jpg", "s0/f4.jpg"],
        [f"s1/f{f}.jpg" for f in range(1, 5)],
        [f"s3/f{f}.jpg" for f in range(5)],
    ]
    assert [row["num_frames"] for row in rows] == [3, 4, 5]
    assert [row["sequence"] for row in rows] == [0, 1, 2]
    quarantine = table(QUARANTINE, folder).to_pylist()
    assert {(row["path"], row["reason"]) for row in quarantine} == {
        ("s0/f1.jpg", "truncated"),
        ("s0/f2.jpg", "missing"),
        ("s1/f0.jpg", "empty"),
        *((f"s2/f{f}.jpg", "unreadable") for f in range(3)),
    }
    assert all(row["found_by"] == "pack" and row["detail"] and row["archive"] is None for row in quarantine)
    scenes = {row["scene"]: row for row in table(SCENES, folder).to_pylist()}
    assert [scenes[f"s{s}"]["num_sequences"] for s in range(4)] == [1, 1, 0, 1]
    assert [scenes[f"s{s}"]["num_usable"] for s in range(4)] == [3, 4, 2, 5]
    assert [scenes[f"s{s}"]["num_covered"] for s in range(4)] == [3, 4, 0, 5]
    assert scenes["s2"]["why_no_sequence"]
    assert scenes["s3"]["why_no_sequence"] is None
    (row,) = table(MIX, tmp_path / "p").to_pylist()
    assert (row["num_sequences"], row["num_frames"]) == (3, 14)
    text = "\n".join(packed.lines())
    assert "6 images could not be packed (1 empty, 1 missing, 1 truncated, 3 unreadable)" in text
    assert "2 sequences are shorter without them, 1 are gone" in text
    # once the file is there again, so it is in the copy, and only its shard is written anew
    (root / "s0/f1.jpg").write_bytes(data)
    again = pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)
    assert again.datasets[0].num_frames == 15
    assert table(FRAMES, folder).to_pylist()[paths.index("s0/f1.jpg")]["status"] == "ok"
    assert not verify_packed(tmp_path / "p", workers=1).problems


@pytest.mark.slow
def test_what_is_no_file_any_more_is_not_waited_for(tmp_path: Path) -> None:
    catalogs = album(tmp_path, scenes=1)
    for number, make in ((1, os.mkfifo), (2, os.mkdir)):
        (tmp_path / f"trip/s0/f{number}.jpg").unlink()
        make(tmp_path / f"trip/s0/f{number}.jpg")
    code = (
        "import sys\nfrom pathlib import Path\nfrom mumdata.pack import pack\n"
        "pack(Path(sys.argv[1]), out=Path(sys.argv[2]), size='full', workers=1)\n"
    )
    command = [sys.executable, "-c", code, catalogs / "mix.parquet", tmp_path / "p"]
    subprocess.run(command, check=True, timeout=120)
    rows = table(QUARANTINE, tmp_path / "p/trip").to_pylist()
    assert {(row["path"], row["reason"]) for row in rows} == {(f"s0/f{n}.jpg", "unreadable") for n in (1, 2)}
    assert all("a folder, a pipe or a device is in its place" in row["detail"] for row in rows)


def test_scenes_are_looked_at_before_anything_is_written(tmp_path: Path) -> None:
    catalogs = album(tmp_path, scenes=1)
    path = catalogs / "trip" / SCENES.file_name
    scenes = table(SCENES, path.parent)
    catalog.write(SCENES, scenes, path, inputs={"frames": "0" * 64})
    with pytest.raises(CatalogError, match=r"scenes\.parquet was made from other frames; run 'mumdata index trip'"):
        pack(catalogs / "mix.parquet", out=tmp_path / "p", workers=1)
    path.unlink()
    with pytest.raises(CatalogError, match=r"scenes\.parquet does not exist"):
        pack(catalogs / "mix.parquet", out=tmp_path / "p", workers=1)
    assert not (tmp_path / "p").exists()


# ---- catalogs that change meanwhile


def _mine_anew(tmp_path: Path) -> None:
    mine_sequences("trip", catalogs=tmp_path / "c", rule="chunk", chunk_size=3, last_chunk="even", workers=1)


def _mine_and_mix_anew(tmp_path: Path) -> None:
    _mine_anew(tmp_path)
    mix("only", weight=["trip=1"], catalogs=tmp_path / "c")


def _index_more(tmp_path: Path) -> None:
    for number in range(4):
        write_picture(tmp_path / f"trip/s9/f{number}.jpg", 90, 70, seed=number)
    mined(tmp_path, "trip")


def _mix_others(tmp_path: Path) -> None:
    mix("only", weight=["other=1"], catalogs=tmp_path / "c")


@pytest.mark.parametrize("change", [_mine_anew, _mine_and_mix_anew, _index_more, _mix_others])
@pytest.mark.parametrize("moment", ["images", "catalogs"])
def test_catalogs_that_change_while_they_are_packed_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], moment: str
) -> None:
    album(tmp_path, "other", scenes=1)
    catalogs = album(tmp_path, scenes=2, frames=6)
    module, name = (shard_module, "write_index") if moment == "images" else (catalogs_module, "keep_sequences")
    does = getattr(module, name)

    def changes(*arguments: Any) -> Any:
        monkeypatch.setattr(module, name, does)
        change(tmp_path)
        return does(*arguments)

    monkeypatch.setattr(module, name, changes)
    with pytest.raises(CatalogError, match="changed while it was packed"):
        pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)
    assert not (tmp_path / "p/mix.parquet").exists()
    if change is _mine_anew:
        mix("only", weight=["trip=1"], catalogs=catalogs)
    packed = pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)
    assert not verify_packed(tmp_path / "p", workers=1).problems
    fresh = pack(catalogs / "mix.parquet", out=tmp_path / "fresh", size=32, workers=1)
    assert packed.num_frames == fresh.num_frames
    if change is not _mix_others:  # which leaves the folder of the first
        assert contents(tmp_path / "p") == contents(tmp_path / "fresh")


def test_frames_that_are_known_to_be_broken_are_not_tried(tmp_path: Path) -> None:
    # sequences may name them: they were mined while the files were whole, or by other tools
    catalogs = album(tmp_path, scenes=2)
    folder = catalogs / "trip"
    rows = table(FRAMES, folder).to_pylist()
    rows[1]["status"] = "black"
    frames = catalog.build(FRAMES, {name: [row[name] for row in rows] for name in FRAMES.columns.names})
    made = catalog.read_footer(FRAMES, folder / FRAMES.file_name)
    digest, _ = catalog.write(FRAMES, frames, folder / FRAMES.file_name, parameters=made.parameters)
    for schema in (SEQUENCES, SCENES):
        catalog.write(schema, table(schema, folder), folder / schema.file_name, inputs={"frames": digest})
    found = mix("only", weight=["trip=1"], catalogs=catalogs)
    packed = pack(found.path, out=tmp_path / "p", size=32, workers=1)
    assert packed.datasets[0].broken == {"black": 1}
    assert table(SEQUENCES, tmp_path / "p/trip").to_pylist()[0]["frames"] == [0, 2, 3, 4, 5]
    after = table(FRAMES, tmp_path / "p/trip").to_pylist()[1]
    assert (after["status"], after["archive"], after["path"]) == ("black", None, "s0/f1.jpg")
    (quarantined,) = table(QUARANTINE, tmp_path / "p/trip").to_pylist()
    assert (quarantined["path"], quarantined["reason"]) == ("s0/f1.jpg", "black")
    assert not verify_packed(tmp_path / "p", workers=1).problems


def test_links_are_unknown_where_a_frame_is_gone(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "megadepth", tmp_path / "megadepth")
    index("megadepth", root=tmp_path / "megadepth", catalogs=tmp_path / "c", workers=1)
    mine_sequences("megadepth", catalogs=tmp_path / "c", workers=1, min_frames=4, max_frames=6, per_scene=20)
    mix("only", weight=["megadepth=1"], catalogs=tmp_path / "c")
    before = table(SEQUENCES, tmp_path / "c/megadepth").to_pylist()
    lost = before[0]["frames"][1]
    path = table(FRAMES, tmp_path / "c/megadepth").column("path")[lost].as_py()
    (tmp_path / "megadepth" / path).write_bytes(b"")
    pack(tmp_path / "c/mix.parquet", out=tmp_path / "p", size="full", workers=1)
    paths = table(FRAMES, tmp_path / "c/megadepth").column("path").to_pylist()
    gone = {frame_id for frame_id, other in enumerate(paths) if other == path}
    after = iter(table(SEQUENCES, tmp_path / "p/megadepth").to_pylist())
    num_same = 0
    for row in before:
        left = [frame_id for frame_id in row["frames"] if frame_id not in gone]
        if len(left) < 2:
            continue
        new = next(after)
        assert (new["frames"], new["num_frames"]) == (left, len(left))
        for name in ("links", "mean_overlap", "density", "components"):
            assert new[name] == (row[name] if len(left) == len(row["frames"]) else None)
        num_same += len(left) == len(row["frames"])
    assert next(after, None) is None
    assert 0 < num_same < len(before)
    assert not verify_packed(tmp_path / "p", workers=1).problems


def test_a_dataset_of_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    catalogs = album(tmp_path, scenes=1)
    shutil.rmtree(tmp_path / "trip")
    with pytest.raises(LayoutError, match="does not exist"):
        pack(catalogs / "mix.parquet", out=tmp_path / "p", workers=1)
    (tmp_path / "trip").mkdir()  # a mount point without its disk
    with pytest.raises(CatalogError, match="trip: no sequence has 2 frames"):
        pack(catalogs / "mix.parquet", out=tmp_path / "p", workers=1)
    assert not (tmp_path / "p/mix.parquet").exists()


def test_a_disk_that_fails_is_no_broken_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogs = album(tmp_path, scenes=1)
    monkeypatch.setattr(shard_module, "_RETRY_PAUSES_S", (0.0, 0.0))
    read, calls = shard_module.read_encoded, []

    def fails(root: Path, path: str, **where: Any) -> bytes:
        calls.append(path)
        if path == "s0/f3.jpg" and calls.count(path) < limit:
            raise OSError(errno.EIO, "Input/output error")
        return read(root, path, **where)

    monkeypatch.setattr(shard_module, "read_encoded", fails)
    limit = 100
    with pytest.raises(MumError, match=r"cannot read s0/f3\.jpg of trip .*Input/output error"):
        pack(catalogs / "mix.parquet", out=tmp_path / "p", workers=1)
    calls.clear()
    limit = 3  # the third try succeeds
    assert pack(catalogs / "mix.parquet", out=tmp_path / "p", workers=1).num_frames == 6

    def unmounts(root: Path, path: str, **where: Any) -> bytes:
        if path == "s0/f3.jpg" and root.exists():
            root.rename(tmp_path / "gone")
        return read(root, path, **where)

    monkeypatch.setattr(shard_module, "read_encoded", unmounts)
    with pytest.raises(MumError, match=r"cannot read s0/f3\.jpg of trip .*No such file"):
        pack(catalogs / "mix.parquet", out=tmp_path / "q", size="full", workers=1)


def test_frames_of_short_sequences_are_not_packed(tmp_path: Path) -> None:
    album(tmp_path, scenes=2, frames=5)
    shutil.rmtree(tmp_path / "trip/s2", ignore_errors=True)
    (tmp_path / "trip/s1/f3.jpg").unlink()
    (tmp_path / "trip/s1/f4.jpg").unlink()
    catalogs = mined(tmp_path, "trip")
    mix("only", weight=["trip=1"], catalogs=catalogs, min_frames=4)
    packed = pack(catalogs / "mix.parquet", out=tmp_path / "p", workers=1)
    assert packed.num_frames == 5
    assert table(FRAMES, tmp_path / "p/trip").column("status").to_pylist() == ["ok"] * 5 + ["not_packed"] * 3
    assert [row["num_frames"] for row in table(SEQUENCES, tmp_path / "p/trip").to_pylist()] == [5]
    assert [row["num_sequences"] for row in table(SCENES, tmp_path / "p/trip").to_pylist()] == [1, 0]
    assert packed.datasets[0].num_lost == 0
    assert table(QUARANTINE, tmp_path / "p/trip").num_rows == 0


# ---- going on


def killed_at(mix_path: Path, out: Path, number: int) -> None:
    """Pack in a process that is killed once `number` shards are whole, or (x.5) before an index is written."""
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom mumdata.packed import shard\n"
        "from mumdata.pack import pack\nwrite, left = shard.write_index, [float(sys.argv[3])]\n"
        "def stop(*what):\n"
        "    left[0] - 0.5 or os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(*what)\n    left[0] -= 1\n"
        "    left[0] or os.kill(os.getpid(), signal.SIGKILL)\n"
        "shard.write_index = stop\n"
        "pack(Path(sys.argv[1]), out=Path(sys.argv[2]), size=40, shard_gb=6e-5, workers=1)\n"
    )
    command = [sys.executable, "-c", code, mix_path, out, str(number)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3.5])
def test_a_killed_run_goes_on_where_it_was(mix_path: Path, small: Packed, tmp_path: Path, number: float) -> None:
    killed_at(mix_path, tmp_path / "p", number)
    assert not (tmp_path / "p/mix.parquet").exists()
    with pytest.raises(CatalogError, match=r"p is not packed to the end yet; run the 'mumdata pack' command"):
        verify_packed(tmp_path / "p")
    # and in the middle of a file
    folder = next((tmp_path / "p").glob("*/shards"))
    name = f".{folder.parent.name}-000004.tar.{_host()}.999999999.tmp"
    (folder / name).write_bytes(b"half")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "p").rglob("shards/*.parquet")}
    assert len(stamps) == int(number)
    again = pack(mix_path, out=tmp_path / "p", size=40, shard_gb=6e-5, workers=1)
    assert again.num_kept == int(number)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert contents(tmp_path / "p") == contents(small.path.parent)
    assert not list((tmp_path / "p").rglob("*.tmp"))


@pytest.mark.slow
def test_kills_at_any_time_leave_a_whole_copy_or_none(mix_path: Path, small: Packed, tmp_path: Path) -> None:
    draw, out = random.Random(0), tmp_path / "p"
    code = (
        "import sys\nfrom pathlib import Path\nfrom mumdata.pack import pack\n"
        "if __name__ == '__main__':\n"
        "    pack(Path(sys.argv[1]), out=Path(sys.argv[2]), size=40, shard_gb=6e-5, workers=2)\n"
    )
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", code, mix_path, out], stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.3, 4.0))
        process.kill()
        process.wait()
        if (out / "mix.parquet").exists():
            assert not verify_packed(out, workers=1).problems
            shutil.rmtree(out)
    pack(mix_path, out=out, size=40, shard_gb=6e-5, workers=1)
    assert contents(out) == contents(small.path.parent)


def _host() -> str:
    from mumdata import files

    return files._HOST


def test_nothing_changed_leaves_every_file_untouched(tmp_path: Path) -> None:
    catalogs = album(tmp_path)
    pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)
    before = {path: path.stat() for path in (tmp_path / "p").rglob("*") if path.is_file() and path.name != ".lock"}
    again = pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)
    assert again.num_kept == again.datasets[0].num_shards
    for path, status in before.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns), path


@pytest.mark.slow
def test_changed_frames_are_packed_anew_and_old_shards_go(tmp_path: Path) -> None:
    album(tmp_path, "here")
    catalogs = album(tmp_path, frames=9)
    mix("only", weight=["trip=1", "here=1"], catalogs=catalogs)
    how: dict[str, Any] = {"out": tmp_path / "p", "size": 32, "shard_gb": 1e-5, "workers": 1}
    first = pack(catalogs / "mix.parquet", **how)
    shutil.rmtree(tmp_path / "trip/s1")
    write_picture(tmp_path / "trip/s0/f0.jpg", 90, 70, seed=7)
    index("folder", root=tmp_path / "trip", name="trip", catalogs=catalogs, workers=1)
    mine_sequences("trip", catalogs=catalogs, rule="scene", workers=1)
    mix("only", weight=["trip=1", "here=3"], catalogs=catalogs)
    second = pack(catalogs / "mix.parquet", **how)
    here, trip = (next(one for one in second.datasets if one.name == name) for name in ("here", "trip"))
    assert second.num_kept == here.num_shards
    assert trip.num_shards < next(one for one in first.datasets if one.name == "trip").num_shards
    assert not verify_packed(tmp_path / "p", workers=1).problems
    pack(catalogs / "mix.parquet", **(how | {"out": tmp_path / "fresh"}))
    assert contents(tmp_path / "p") == contents(tmp_path / "fresh")


def edited_album(tmp_path: Path, **options: Any) -> Path:
    # files whose size does not tell what they show
    for scene, frame in itertools.product(range(4), range(6)):
        write_picture(tmp_path / f"trip/s{scene}/f{frame}.bmp", 40, 30, seed=scene * 10 + frame)
    index("folder", root=tmp_path / "trip", name="trip", catalogs=tmp_path / "c", workers=1, **options)
    return mined(tmp_path, "trip")


@pytest.mark.parametrize("size", [16, "full"])
def test_an_edited_picture_of_the_same_size_is_packed_anew(tmp_path: Path, size: int | str) -> None:
    catalogs = edited_album(tmp_path)
    how: dict[str, Any] = {"size": size, "shard_gb": 4e-6 if size == 16 else 3e-5, "workers": 1}
    first = pack(catalogs / "mix.parquet", out=tmp_path / "p", **how)
    num_shards = first.datasets[0].num_shards
    assert num_shards > 2
    digest = catalog.read_footer(FRAMES, catalogs / "trip/frames.parquet").content_digest
    edited = tmp_path / "trip/s2/f3.bmp"
    before = edited.stat()
    write_picture(edited, 40, 30, seed=99)
    os.utime(edited, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert edited.stat().st_size == before.st_size
    # nobody has looked yet
    assert pack(catalogs / "mix.parquet", out=tmp_path / "p", **how).num_kept == num_shards
    mined(tmp_path, "trip")
    assert catalog.read_footer(FRAMES, catalogs / "trip/frames.parquet").content_digest == digest
    again = pack(catalogs / "mix.parquet", out=tmp_path / "p", **how)
    assert again.num_kept == num_shards - 1
    pack(catalogs / "mix.parquet", out=tmp_path / "fresh", **how)
    found, expected = contents(tmp_path / "p"), contents(tmp_path / "fresh")
    # the frames are the same to the catalog, so that the first estimate of their bytes stays
    del found["packed.json"], expected["packed.json"]
    assert found == expected


def test_a_picture_of_another_size_changes_its_shard_alone(tmp_path: Path) -> None:
    catalogs = edited_album(tmp_path)
    how: dict[str, Any] = {"size": 16, "shard_gb": 4e-6, "workers": 1}
    num_shards = pack(catalogs / "mix.parquet", out=tmp_path / "p", **how).datasets[0].num_shards
    write_picture(tmp_path / "trip/s2/f3.bmp", 44, 33, seed=99)
    mined(tmp_path, "trip")
    assert pack(catalogs / "mix.parquet", out=tmp_path / "p", **how).num_kept == num_shards - 1
    pack(catalogs / "mix.parquet", out=tmp_path / "fresh", **how)
    assert contents(tmp_path / "p") == contents(tmp_path / "fresh")


def test_files_that_are_known_by_their_hash_may_be_touched(tmp_path: Path) -> None:
    catalogs = edited_album(tmp_path, content_hash=True)
    first = pack(catalogs / "mix.parquet", out=tmp_path / "p", size=16, workers=1)
    for path in (tmp_path / "trip").rglob("*.bmp"):
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
    index("folder", root=tmp_path / "trip", name="trip", catalogs=tmp_path / "c", workers=1, content_hash=True)
    again = pack(catalogs / "mix.parquet", out=tmp_path / "p", size=16, workers=1)
    assert again.num_kept == first.datasets[0].num_shards
    write_picture(tmp_path / "trip/s2/f3.bmp", 40, 30, seed=99)
    index("folder", root=tmp_path / "trip", name="trip", catalogs=tmp_path / "c", workers=1, content_hash=True)
    mined(tmp_path, "trip")
    last = pack(catalogs / "mix.parquet", out=tmp_path / "p", size=16, workers=1)
    assert last.num_kept == first.datasets[0].num_shards - 1


def test_twins_of_an_earlier_copy_go(tmp_path: Path) -> None:
    catalogs = album(tmp_path)
    pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)
    write_picture(tmp_path / "trip/s0/f9.jpg", 90, 70, seed=7)
    mined(tmp_path, "trip")
    pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)
    pack(catalogs / "mix.parquet", out=tmp_path / "fresh", size=32, workers=1)
    twins = [{path.name for path in (tmp_path / out).glob("*/*.arrow")} for out in ("p", "fresh")]
    assert twins[0] == twins[1]
    assert len(twins[0]) == 2
    assert len(list(catalogs.glob("*/*.arrow"))) == 4, "where trainings may be at work on other machines"


def test_other_sequences_of_the_same_frames_are_packed_anew(tmp_path: Path) -> None:
    album(tmp_path, scenes=3, frames=6)
    for frame in range(2, 6):
        (tmp_path / f"trip/s0/f{frame}.jpg").unlink()
    catalogs = mined(tmp_path, "trip")
    how: dict[str, Any] = {"size": 32, "shard_gb": 3e-6, "workers": 1}
    assert pack(catalogs / "mix.parquet", out=tmp_path / "p", **how).num_frames == 14
    mix("only", weight=["trip=1"], catalogs=catalogs, min_frames=4)
    assert pack(catalogs / "mix.parquet", out=tmp_path / "p", **how).num_frames == 12
    pack(catalogs / "mix.parquet", out=tmp_path / "fresh", **how)
    assert contents(tmp_path / "p") == contents(tmp_path / "fresh")


def test_an_earlier_copy_is_no_mix_while_its_shards_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogs = album(tmp_path)
    pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)
    (tmp_path / "trip/s0/f9.jpg").write_bytes(encoded(photo(96, 64, 77)))
    mined(tmp_path, "trip")

    def fails(*_: object) -> None:
        raise MumError("stop")

    monkeypatch.setattr(shard_module, "write_index", fails)
    with pytest.raises(MumError, match="stop"):
        pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)
    assert not (tmp_path / "p/mix.parquet").exists()
    assert not (tmp_path / "p/trip/shards/trip-000000.parquet").exists(), "it is the index of another shard"


# ---- what is refused


def test_folders_that_are_not_for_this(tmp_path: Path) -> None:
    catalogs = album(tmp_path)
    mix_path = catalogs / "mix.parquet"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"no packed copy, and not empty \(thesis\.tex\)"):
        pack(mix_path, out=tmp_path / "mine", workers=1)
    with pytest.raises(ConfigError, match="lies in"):
        pack(mix_path, out=catalogs, workers=1)
    with pytest.raises(ConfigError, match="lies in"):
        pack(mix_path, out=tmp_path, workers=1)
    with pytest.raises(MumError, match="cannot write"):
        pack(mix_path, out=tmp_path / "mine/thesis.tex", workers=1)
    pack(mix_path, out=tmp_path / "p", size=32, workers=1)
    before = contents(tmp_path / "p")
    with pytest.raises(ConfigError, match="lies in"):
        pack(tmp_path / "p/mix.parquet", out=tmp_path / "p", size=32, workers=1)
    for options, told in (
        ({"size": 48}, "size 32, not 48"),
        ({"size": 32, "quality": 80}, "quality 95, not 80"),
        ({"size": "full"}, "size 32, not full"),
        ({"size": 32, "shard_gb": 0.5}, "shard_gb 1.0, not 0.5"),
    ):
        with pytest.raises(ConfigError, match=told):
            pack(mix_path, out=tmp_path / "p", workers=1, **options)
    assert contents(tmp_path / "p") == before
    for text in ("{", "[]", "{}"):
        (tmp_path / "p/packed.json").write_text(text)
        with pytest.raises(ConfigError, match="choose another folder"):
            pack(mix_path, out=tmp_path / "p", size=32, workers=1)


@pytest.mark.parametrize(
    "change",
    [
        {"ends": [3, 2, 18]},
        {"ends": [9, 9, 18]},
        {"ends": [0, 18]},
        {"ends": [9, 17]},
        {"ends": [9, 19]},
        {"ends": []},
        {"ends": ["9", "18"]},
        {"ends": [9.0, 18]},
        {"ends": [True, 18]},
        {"ends": {"18": 1}},
        {"ends": None},
        {"bytes": "many"},
        {"bytes": -1},
        {"bytes": None},
    ],
)
def test_a_record_that_was_tampered_with_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    catalogs = album(tmp_path)
    pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)
    path = tmp_path / "p/packed.json"
    record = json.loads(path.read_text())
    record["shards"]["trip"] |= change
    path.write_text(json.dumps(record))
    before = contents(tmp_path / "p")
    with pytest.raises(ConfigError, match=r"packed\.json is damaged \(the shards of trip are not 18 images\)"):
        pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)
    assert contents(tmp_path / "p") == before
    path.write_text(json.dumps(record | {"shards": {"trip": []}}))
    with pytest.raises(ConfigError, match=r"packed\.json is damaged"):
        pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)


def test_the_copy_of_another_mix_is_left_alone(tmp_path: Path) -> None:
    album(tmp_path, "here", scenes=1)
    catalogs = album(tmp_path, scenes=1)
    both = mix("only", weight=["trip=1", "here=1"], catalogs=catalogs).path
    one = mix("only", weight=["here=1"], catalogs=catalogs, out=catalogs / "one.parquet").path
    how: dict[str, Any] = {"out": tmp_path / "p", "size": 32, "workers": 1}
    pack(both, **how)
    before = contents(tmp_path / "p")
    with pytest.raises(ConfigError) as caught:
        pack(one, **how)
    for told in (f"{both} (here, trip)", f"{one} (here)", "choose another folder with -o"):
        assert told in str(caught.value)
    assert contents(tmp_path / "p") == before
    # the same datasets, wherever the mix lies
    moved = mix("only", weight=["trip=1", "here=3"], catalogs=catalogs, out=tmp_path / "moved.parquet").path
    assert pack(moved, **how).num_kept == 2
    weights = {row["dataset"]: row["weight"] for row in table(MIX, tmp_path / "p").to_pylist()}
    assert weights == {"trip": 0.25, "here": 0.75}
    # the same mix, of other datasets by now
    mix("only", weight=["trip=1"], catalogs=catalogs, out=moved)
    again = pack(moved, **how)
    assert [one.name for one in catalog.open_mix(again.path).datasets] == ["trip"]
    assert again.left == (tmp_path / "p/here",)
    assert f"note: {tmp_path / 'p/here'} is of a dataset that the mix does not hold any more" in "\n".join(
        again.lines()
    )
    mix("only", weight=["trip=1", "here=3"], catalogs=catalogs, out=moved)
    last = pack(moved, **how)
    assert (last.num_kept, last.left) == (2, ())


def test_who_interrupts_is_told_that_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from mumdata.cli import app

    catalogs = album(tmp_path)

    def interrupts(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shard_module, "write_index", interrupts)
        command = ["pack", str(catalogs / "mix.parquet"), "-o", str(tmp_path / "p"), "--size", "32", "--workers", "1"]
        result = CliRunner().invoke(app, command)
    assert result.exit_code == 130
    assert "interrupted: the same command goes on where it was" in result.output
    with pytest.raises(CatalogError, match=r"p is not packed to the end yet; run the 'mumdata pack' command .*goes on"):
        catalog.open_mix(tmp_path / "p/mix.parquet")
    pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)
    mine_sequences("trip", catalogs=tmp_path / "p", rule="chunk", chunk_size=3, workers=1)
    with pytest.raises(CatalogError, match=r"has changed since .*; run the 'mumdata pack' command that made"):
        catalog.open_mix(tmp_path / "p/mix.parquet")


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"size": 15},
        {"size": "small"},
        {"size": "1e3"},
        {"size": -256},
        {"quality": 0},
        {"quality": 101},
        {"shard_gb": 0.0},
        {"shard_gb": float("nan")},
        {"shard_gb": float("inf")},
        {"workers": 0},
    ],
)
def test_options_that_mean_nothing(mix_path: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(options)).replace('_', '-')}"):
        pack(mix_path, out=tmp_path / "p", **options)
    assert not (tmp_path / "p").exists()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    catalogs = album(tmp_path, scenes=1)
    (tmp_path / "p").mkdir()
    with (tmp_path / "p/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(MumError, match="another run"):
            pack(catalogs / "mix.parquet", out=tmp_path / "p", workers=1)
    pack(catalogs / "mix.parquet", out=tmp_path / "p", workers=1)


def test_names_of_any_bytes_and_the_same_names_in_two_datasets(tmp_path: Path) -> None:
    names = [
        "a b.jpg",
        "ü — 写真.jpg",
        "x\ny.jpg",
        "..two.dots.jpg",
        "-rf.jpg",
        "q'\"$(id).jpg",
        os.fsdecode(b"bad\xff.jpg"),
    ]
    for number, dataset in enumerate(("my.trip", "my.trips")):
        for place, name in enumerate(names):
            path = tmp_path / dataset / "scene.one" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(photo(80, 50, seed=10 * number + place)))
    catalogs = mined(tmp_path, "my.trip", "my.trips")
    packed = pack(catalogs / "mix.parquet", out=tmp_path / "p", size="full", workers=1)
    seen = set()
    for before, after in pairs_of(catalogs / "mix.parquet", packed):
        rows = [row for row in table(FRAMES, after.catalog).to_pylist() if row["archive"]]
        assert len(rows) >= 5
        for row in rows:
            data = frame_bytes(catalog.dataset_root(after), row)
            assert data == (catalog.dataset_root(before) / row["path"]).read_bytes()
            seen.add(data)
    assert len(seen) == packed.num_frames
    for path in (tmp_path / "p").rglob("*.tar"):
        with tarfile.open(path) as tar:
            assert all(name.count(".") == 1 and name.isascii() and "/" not in name for name in tar.getnames())


# ---- room


def test_a_small_disk_is_told_before_anything_is_written(
    mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(MumError, match=r"needs about 0\.00\d+ GB more .* 0\.0001 GB are free"):
        pack(mix_path, out=tmp_path / "p", size="full", workers=1)
    assert not list((tmp_path / "p").rglob("*.tar"))


def test_a_full_disk_is_one_line_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogs = album(tmp_path)
    write = TarWriter._write

    def full(self: TarWriter, data: bytes) -> None:
        if self._at > 10_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(TarWriter, "_write", full)
        with pytest.raises(MumError, match=r"cannot write .*trip-000000\.tar: no space left"):
            pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1)
    assert not [path for path in (tmp_path / "p").rglob("shards/*") if path.is_file()]
    assert pack(catalogs / "mix.parquet", out=tmp_path / "p", size=32, workers=1).num_frames == 18


# ---- reading back


def damaged(packed: Packed, tmp_path: Path) -> Path:
    out = tmp_path / "copy"
    shutil.copytree(packed.path.parent, out)
    return out


@pytest.mark.slow
def test_every_damage_of_a_shard_is_seen(small: Packed, tmp_path: Path) -> None:
    out = damaged(small, tmp_path)
    found = verify_packed(out, workers=1)
    assert found.problems == ()
    assert (found.num_images, found.num_shards) == (small.verified.num_images, small.verified.num_shards)
    assert found.num_decoded >= found.num_shards
    shard = out / "megadepth/shards/megadepth-000000.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as tar:
        entries = tar.getmembers()
    last, middle = entries[-1], entries[len(entries) // 2]

    renamed = io.BytesIO()
    writer = TarWriter(renamed)
    for number, entry in enumerate(entries):
        data = whole[entry.offset_data : entry.offset_data + entry.size]
        writer.add(f"other_{number}.jpg" if number == 1 else entry.name, data)
    writer.close()

    def with_byte(at: int) -> bytes:
        return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]

    for data in (
        with_byte(middle.offset_data + middle.size // 2),  # of an image
        with_byte(last.offset_data + last.size - 3),
        with_byte(middle.offset),  # of a name
        with_byte(middle.offset + 130),  # of a size
        whole[: last.offset],  # a member is gone
        whole[: middle.offset_data + 5],
        whole[: last.offset] + whole[entries[0].offset : entries[1].offset] + whole[last.offset :],  # one too many
        whole[:-1024],  # of the end, which says that nothing is missing
        whole[:-1],
        whole + bytes(512),
        with_byte(len(whole) - 1),
        with_byte(last.offset_data + last.size),
        renamed.getvalue(),
        b"",
    ):
        shard.write_bytes(data)
        (problem,) = verify_packed(out, workers=1).problems
        assert problem.startswith(f"{shard}: ")
    shard.unlink()
    assert len(verify_packed(out, workers=1).problems) == 1
    shard.write_bytes(whole)
    assert not verify_packed(out, workers=1).problems


def test_images_that_are_none_are_seen(tmp_path: Path) -> None:
    # header and end are those of a JPEG: that is as far as files are looked at which are copied as they are
    catalogs = album(tmp_path, scenes=1)
    data = (tmp_path / "trip/s0/f0.jpg").read_bytes()
    hollow = data[: data.rindex(b"\xff\xda")] + b"\xff\xd9"
    (tmp_path / "trip/s0/f0.jpg").write_bytes(hollow)
    index("folder", root=tmp_path / "trip", name="trip", catalogs=catalogs, workers=1)
    mined(tmp_path, "trip")
    full = pack(catalogs / "mix.parquet", out=tmp_path / "full", size="full", workers=1)
    assert (full.num_frames, full.verified.num_decoded, full.verified.num_undecodable) == (6, 5, 1)
    assert "1 more were tried that cannot be decoded" in "\n".join(full.lines())
    assert verify_packed(tmp_path / "full", workers=1) == full.verified
    small = pack(catalogs / "mix.parquet", out=tmp_path / "small", size=32, workers=1)
    assert (small.num_frames, small.verified.num_undecodable) == (5, 0)
    # the same in a copy whose pictures were decoded: whoever wrote this, it was not the packer
    for file in ("trip/shards/trip-000000.tar", "trip/shards/trip-000000.parquet"):
        shutil.copyfile(tmp_path / "full" / file, tmp_path / "small" / file)
    assert any("trip-000000.tar: " in problem for problem in verify_packed(tmp_path / "small", workers=1).problems)


@pytest.mark.slow
def test_catalogs_that_do_not_fit_the_shards_are_seen(small: Packed, tmp_path: Path) -> None:
    out = damaged(small, tmp_path)
    folder = out / "megadepth"
    for column, change in (
        ("offset", lambda row: row["offset"] + 512),
        ("bytes", lambda row: row["bytes"] - 1),
        ("content_hash", lambda row: "0" * 64),
        ("archive", lambda row: None),
    ):
        for path in folder.glob("*.parquet"):
            shutil.copyfile(small.path.parent / "megadepth" / path.name, path)
        shutil.copyfile(small.path, out / "mix.parquet")
        rows = table(FRAMES, folder).to_pylist()
        frame_id = max(in_sequences(folder))
        rows[frame_id][column] = change(rows[frame_id])
        _rewrite(out, "megadepth", {name: [row[name] for row in rows] for name in FRAMES.columns.names})
        assert len(verify_packed(out, workers=1).problems) == 1, column
    # an index that says otherwise
    other = folder / "shards" / "megadepth-000001.parquet"
    for path in folder.glob("*.parquet"):
        shutil.copyfile(small.path.parent / "megadepth" / path.name, path)
    shutil.copyfile(small.path, out / "mix.parquet")
    shutil.copyfile(folder / "shards" / "megadepth-000000.parquet", other)
    assert any("megadepth-000001.tar" in problem for problem in verify_packed(out, workers=1).problems)
    other.write_bytes(b"PAR1")
    assert any("cannot be read" in problem for problem in verify_packed(out, workers=1).problems)


def _rewrite(out: Path, name: str, columns: dict[str, list[Any]]) -> None:
    # frames with other content, and the mix that goes with them
    path = out / name / FRAMES.file_name
    parameters = catalog.read_footer(FRAMES, path).parameters
    digest, _ = catalog.write(FRAMES, catalog.build(FRAMES, columns), path, parameters=parameters)
    rows = table(MIX, out).to_pylist()
    for row in rows:
        if row["dataset"] == name:
            row["frames_digest"] = digest
    catalog.write(MIX, catalog.build(MIX, {key: [row[key] for row in rows] for key in rows[0]}), out / MIX.file_name)


def test_a_catalog_that_has_changed_on_the_disk_is_seen(small: Packed, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    out = damaged(small, tmp_path)
    path = out / "megadepth" / SEQUENCES.file_name
    footer = (pq.read_metadata(path).metadata or {})[b"mumdata"]
    rows = table(SEQUENCES, path.parent)
    with pq.ParquetWriter(path, SEQUENCES.columns) as writer:  # other rows under the old footer
        writer.write_table(rows.slice(0, rows.num_rows - 1))
        writer.add_key_value_metadata({"mumdata": footer.decode()})
    (problem,) = verify_packed(out, workers=1).problems
    assert problem.startswith(f"{path} is damaged")


def test_twins_in_the_folder_are_looked_at(small: Packed, tmp_path: Path) -> None:
    out = damaged(small, tmp_path)
    (path,) = (out / "megadepth").glob("frames.*.arrow")
    whole = path.read_bytes()
    name = table(FRAMES, out / "megadepth").column("path")[3].as_py().encode()
    for data in (whole.replace(name, name[::-1], 1), whole[:-100], b""):
        path.write_bytes(data)
        (problem,) = verify_packed(out, workers=1).problems
        assert problem == f"{path} is damaged; delete it, it is built anew when it is needed"
    for path in out.glob("*/*.arrow"):
        path.unlink()
    assert not verify_packed(out / "mix.parquet", workers=1).problems
    assert not list(out.glob("*/*.arrow"))


def test_damaged_shards_are_written_anew(small: Packed, mix_path: Path, tmp_path: Path) -> None:
    out = damaged(small, tmp_path)
    folder = out / "megadepth/shards"
    flipped, cut, foreign, rows = (folder / f"megadepth-00000{number}" for number in range(4))
    data = bytearray(flipped.with_suffix(".tar").read_bytes())
    data[1000] ^= 1
    flipped.with_suffix(".tar").write_bytes(data)
    cut.with_suffix(".parquet").write_bytes(cut.with_suffix(".parquet").read_bytes()[:-100])
    shutil.copyfile(flipped.with_suffix(".parquet"), foreign.with_suffix(".parquet"))
    data = bytearray(rows.with_suffix(".parquet").read_bytes())
    data[4:60] = bytes(56)  # the footer is whole
    rows.with_suffix(".parquet").write_bytes(data)
    packed = pack(mix_path, out=out, size=40, shard_gb=6e-5, workers=1)
    num_shards = sum(counts.num_shards for counts in small.datasets)
    # those whose index does not fit are not taken for finished, the other is found when it is read back
    assert (packed.num_kept, packed.num_mended) == (num_shards - 4, 1)
    assert "damaged, and written anew: 1 shard\n" in "\n".join(packed.lines())
    assert contents(out) == contents(small.path.parent)


def test_damaged_shards_whose_files_are_gone_are_kept_and_all_told(tmp_path: Path) -> None:
    catalogs = album(tmp_path, scenes=4)
    how: dict[str, Any] = {"out": tmp_path / "p", "size": "full", "shard_gb": 1e-5, "workers": 1}
    num_shards = pack(catalogs / "mix.parquet", **how).datasets[0].num_shards
    assert num_shards > 6
    paths = sorted((tmp_path / "p/trip/shards").glob("*.tar"))
    for path in paths:
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.write_bytes(data)
    (tmp_path / "trip").rename(tmp_path / "gone")
    (tmp_path / "trip").mkdir()
    before = {path: path.read_bytes() for path in paths}
    with pytest.raises(MumError, match=r"and \d+ of its files are gone \(the first: s0/f0.jpg\)") as caught:
        pack(catalogs / "mix.parquet", **how)
    assert all(str(path) in str(caught.value) for path in paths[:5])
    assert f"and {num_shards - 5} more" in str(caught.value)
    assert {path: path.read_bytes() for path in paths} == before
    (tmp_path / "trip").rmdir()
    (tmp_path / "gone").rename(tmp_path / "trip")
    assert pack(catalogs / "mix.parquet", **how).num_mended == num_shards


@pytest.mark.parametrize("content", [None, b"", bytes(range(256)), b"{}", b"[]"])
def test_a_record_that_packing_refuses_is_seen(
    small: Packed, mix_path: Path, tmp_path: Path, content: bytes | None
) -> None:
    out = damaged(small, tmp_path)
    record = out / "packed.json"
    if content is None:
        record.unlink()
    else:
        record.write_bytes(content)
    (problem,) = verify_packed(out, workers=1).problems
    assert problem.startswith(f"{record} is damaged (")
    with pytest.raises(ConfigError):
        pack(mix_path, out=out, size=40, shard_gb=6e-5, workers=1)


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.pop("quality"),
        lambda about: about.update(size=48),
        lambda about: about.update(size=[40]),
        lambda about: about["shards"]["megadepth"].update(ends=[]),
        lambda about: about["shards"]["megadepth"]["ends"].reverse(),
        lambda about: about["shards"]["megadepth"]["ends"].append(about["shards"]["megadepth"]["ends"].pop() + 1),
        lambda about: about["shards"]["megadepth"]["ends"].pop(),
        lambda about: about["shards"]["megadepth"].update(bytes=None),
    ],
)
def test_a_record_that_does_not_fit_the_copy_is_seen(
    small: Packed, mix_path: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    out = damaged(small, tmp_path)
    record = out / "packed.json"
    about = json.loads(record.read_text())
    change(about)
    record.write_text(json.dumps(about))
    assert any(problem.startswith(f"{record} is damaged") for problem in verify_packed(out, workers=1).problems)
    with pytest.raises(ConfigError):
        pack(mix_path, out=out, size=40, shard_gb=6e-5, workers=1)


FILES = [*(f"{schema.name}.parquet" for schema in (FRAMES, SEQUENCES, SCENES, COVISIBILITY)), "root.toml"]


@pytest.mark.slow
def test_all_files_that_are_gone_are_told_and_packed_again(small: Packed, mix_path: Path, tmp_path: Path) -> None:
    out = damaged(small, tmp_path)
    tar = out / "megadepth/shards/megadepth-000001.tar"
    gone = [*(out / "megadepth" / name for name in FILES), tar]
    for path in gone:
        path.unlink()
    # each once, and nothing of commands that would make another catalog than the copy's
    assert sorted(verify_packed(out, workers=1).problems) == sorted(f"{path} does not exist" for path in gone)
    shutil.rmtree(out / "megadepth")
    problems = verify_packed(out, workers=1).problems
    assert {f"{out / 'megadepth' / name} does not exist" for name in FILES} <= set(problems)
    assert not any(told in problem for problem in problems for told in ("index ", "mine", "mumdata mix", "Errno"))
    pack(mix_path, out=out, size=40, shard_gb=6e-5, workers=1)
    assert contents(out) == contents(small.path.parent)
    assert not verify_packed(out, workers=1).problems


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mix.parquet", *(f"megadepth/{name}" for name in (*FILES, "quarantine.parquet"))])
@pytest.mark.parametrize("length", [0, 20])
def test_files_that_are_cut_are_told_and_packed_again(
    small: Packed, mix_path: Path, tmp_path: Path, name: str, length: int
) -> None:
    out = damaged(small, tmp_path)
    path = out / name
    path.write_bytes(path.read_bytes()[:length])
    if name.endswith("root.toml") and length:
        path.write_text('root = "/nowhere"\n')
    (problem,) = verify_packed(out, workers=1).problems
    assert problem.startswith(f"{path} is ")
    assert "run '" not in problem
    pack(mix_path, out=out, size=40, shard_gb=6e-5, workers=1)
    assert contents(out) == contents(small.path.parent)


def test_rows_of_scenes_are_read(small: Packed, tmp_path: Path) -> None:
    out = damaged(small, tmp_path)
    path = out / "megadepth" / SCENES.file_name
    data = bytearray(path.read_bytes())
    data[4:60] = bytes(56)  # the footer is whole
    path.write_bytes(data)
    (problem,) = verify_packed(out, workers=1).problems
    assert problem.startswith(f"{path} is damaged")


@pytest.mark.slow
def test_the_command_reads_a_copy_back(small: Packed, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from mumdata.cli import app

    out = damaged(small, tmp_path)
    result = CliRunner().invoke(app, ["verify", str(out), "--workers", "1"])
    assert (result.exit_code, result.output) == (0, "\n".join(small.verified.lines()) + "\n")
    shard = out / "megadepth/shards/megadepth-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    command = [sys.executable, "-m", "mumdata", "verify", out, "--workers", "1"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    assert found.returncode == 1
    assert f"{shard}: it has " in found.stdout
    assert found.stderr.startswith(f"error: {out} is damaged (1 problem, above)")


def test_what_is_no_packed_copy_is_refused(mix_path: Path, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="does not exist"):
        verify_packed(tmp_path)
    with pytest.raises(CatalogError, match="not of a packed copy"):
        verify_packed(mix_path.parent)


def test_a_run_that_reads_back_something_else_ends_without_a_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogs = album(tmp_path)
    write = TarWriter._write

    def flips(self: TarWriter, data: bytes) -> None:
        write(self, data[:-1] + bytes([data[-1] ^ 1]) if len(data) > 1000 and self._at > 20_000 else data)

    with monkeypatch.context() as patch:
        patch.setattr(TarWriter, "_write", flips)
        with pytest.raises(MumError, match=r"trip-000000\.tar: .* is damaged.*written twice"):
            pack(catalogs / "mix.parquet", out=tmp_path / "p", size="full", workers=1)
    assert not (tmp_path / "p/mix.parquet").exists()
    packed = pack(catalogs / "mix.parquet", out=tmp_path / "p", size="full", workers=1)
    assert (packed.num_kept, packed.num_mended) == (0, 1)
    assert not verify_packed(tmp_path / "p", workers=1).problems


# ---- roots


def test_a_relative_root_counts_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, catalogs = tmp_path / "a/files", tmp_path / "a/c"
    files.mkdir(parents=True)
    roots.remember_root("trip", catalogs, files, "folder", relative=True)
    assert roots.find_root("trip", catalogs).resolve() == files
    assert roots.remembered_dataset("trip", catalogs) == "folder"
    monkeypatch.setenv("MUM_ROOT_TRIP", str(tmp_path))
    assert roots.find_root("trip", catalogs).resolve() == files
    (tmp_path / "a").rename(tmp_path / "b")
    assert roots.find_root("trip", tmp_path / "b/c").resolve() == tmp_path / "b/files"
    assert roots.find_root("trip", tmp_path / "b/c", tmp_path) == tmp_path
    (tmp_path / "b/c/roots.toml").write_text(f"trip = {json.dumps(str(tmp_path / 'b'))}\n")
    assert roots.find_root("trip", tmp_path / "b/c") == tmp_path / "b"
    (tmp_path / "b/c/roots.toml").unlink()
    (tmp_path / "b/files").rmdir()
    with pytest.raises(LayoutError, match=r"root\.toml.*does not exist"):
        roots.find_root("trip", tmp_path / "b/c")


def test_a_root_by_environment_still_comes_before_an_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    roots.remember_root("trip", tmp_path, tmp_path / "old", "folder")
    assert roots.find_root("trip", tmp_path) == tmp_path / "old"
    monkeypatch.setenv("MUM_ROOT_TRIP", str(tmp_path / "new"))
    assert roots.find_root("trip", tmp_path) == tmp_path / "new"


def test_a_packed_copy_is_a_set_of_catalogs(small: Packed, tmp_path: Path) -> None:
    # other commands read it as any other: SQL over all of it, and mixing anew
    from mumdata.stats import stats

    out = damaged(small, tmp_path)
    found = stats(sql="SELECT count(*) AS n FROM frames WHERE archive IS NOT NULL", catalogs=out)
    assert int(found["n"][0]) == small.num_frames
    other = mix("only", weight=["megadepth=1"], catalogs=out, out=tmp_path / "other.parquet")
    assert other.rows[0]["num_frames"] == next(c.num_frames for c in small.datasets if c.name == "megadepth")
    assert {schema.name for schema in SCHEMAS.values()} >= {"frames"}
    image = read_image(
        out / "megadepth",
        "x",
        **{
            "archive": "shards/megadepth-000000.tar",
            "codec": "stored",
            "offset": 512,
            "num_bytes": int(table(FRAMES, out / "megadepth").column("bytes")[0].as_py()),
        },
    )
    assert min(image.shape[:2]) == 40
