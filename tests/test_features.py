"""Features in files: what a plain loop gives, whatever the batches, the kills, and the place of the bytes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mumdata.errors import CatalogError, ConfigError, DecodeError, MumError
from mumdata.index import index
from mumdata.mix import mix
from mumdata.pack import pack
from mumdata.sequences import mine_sequences
from mumtrain.checkpoint import save_checkpoint
from mumtrain.config import Config, apply
from mumtrain.features import components as components_module
from mumtrain.features import features
from mumtrain.features import file as file_module
from mumtrain.features.components import draw_components, principal_components, to_colours
from mumtrain.features.encode import Extractor
from mumtrain.features.file import FeatureFile, Layout, Row
from mumtrain.features.source import Encoded, FileImages, open_images
from mumtrain.features.sparse import SparseFile
from mumtrain.features.views import Framing, read_framing, read_view
from mumtrain.model.autoencoder import MaskedAutoencoder, build_model
from mumtrain.recipes import recipe
from tests.conftest import picture, write_picture

THIN = [
    "model.patch=8",
    "data.size=32",
    "model.encoder.width=32",
    "model.encoder.depth=3",
    "model.encoder.heads=2",
    "model.decoder.width=24",
    "model.decoder.depth=2",
    "model.decoder.heads=2",
]
JOINT_ENCODER = [
    "model.encoder_attention=alternating",
    "model.decoder_attention=none",
    "model.hidden_tokens=replaced",
    "model.class_token=false",
    "model.pixels=half",
    "model.registers=2",
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def thin(*sets: str) -> Config:
    return apply(recipe("debug-cpu"), [*THIN, *sets])


def checkpoint(run: Path, config: Config) -> tuple[Path, MaskedAutoencoder]:
    model = build_model(config)
    optimizer = torch.optim.AdamW(model.parameters())
    return save_checkpoint(run, 1, model, optimizer, config, "0" * 64, {}), model.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MaskedAutoencoder]:
    return checkpoint(tmp_path_factory.mktemp("run"), thin())


def photos(folder: Path, num: int, side: int = 32) -> list[Path]:
    # square pictures of the model's own size: nothing is cut or resized
    return [write_picture(folder / f"{number}.png", side, side, seed=number) for number in range(num)]


def normalised(path: Path) -> torch.Tensor:
    """[1, 3, H, W] of a PNG by the formula."""
    rgb = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    values = (rgb / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return torch.tensor(values.transpose(2, 0, 1)[None], dtype=torch.float32)


@torch.inference_mode()
def plain(model: MaskedAutoencoder, path: Path, layer: int, norm: bool) -> tuple[np.ndarray, np.ndarray]:
    """Patch tokens [N, D] and class token [D] of one image."""
    ((patches, classes),) = model.encoder.get_intermediate_layers(
        normalised(path), [layer], norm=norm, return_class_token=True
    )
    return patches[0].numpy(), classes[0].numpy()


def stored(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][...] for name in file}


# ---- what is stored


@pytest.mark.parametrize(("layer", "norm"), [(None, True), (0, True), (1, False), (-1, False), (-2, True)])
def test_tokens_are_those_of_a_plain_loop(
    trained: tuple[Path, MaskedAutoencoder], layer: int | None, norm: bool, tmp_path: Path
) -> None:
    path, model = trained
    images = photos(tmp_path, 5)
    out = tmp_path / "f.h5"
    found = features(path, images, out=out, layer=layer, norm=norm, kind="both", dtype="float32", batch=2)
    held = stored(out)
    number = {None: 2, 0: 0, 1: 1, -1: 2, -2: 1}[layer]
    for at, image in enumerate(images):
        patches, classes = plain(model, image, number, norm)
        assert np.allclose(held["patch_tokens"][at], patches, rtol=0, atol=1e-5)
        assert np.allclose(held["class_tokens"][at], classes, rtol=0, atol=1e-5)
    assert held["patch_tokens"].shape == (5, 16, 32)
    assert held["status"].tolist() == [1] * 5
    assert [name.decode() for name in held["paths"]] == [str(image) for image in images]
    assert held["grids"].tolist() == [[4, 4]] * 5
    assert held["boxes"].tolist() == [[0, 0, 32, 32]] * 5
    assert (found.num_images, found.num_done, found.broken) == (5, 5, ())
    assert out.stat().st_size == found.num_bytes


def test_float16_is_the_rounded_float32(trained: tuple[Path, MaskedAutoencoder], tmp_path: Path) -> None:
    images = photos(tmp_path, 3)
    features(trained[0], images, out=tmp_path / "half.h5", kind="both")
    features(trained[0], images, out=tmp_path / "full.h5", kind="both", dtype="float32")
    half, full = stored(tmp_path / "half.h5"), stored(tmp_path / "full.h5")
    for name in ("patch_tokens", "class_tokens"):
        assert half[name].dtype == np.float16
        assert np.array_equal(half[name], full[name].astype(np.float16))


def test_batches_and_threads_change_nothing(trained: tuple[Path, MaskedAutoencoder], tmp_path: Path) -> None:
    images = photos(tmp_path, 7)
    wanted = None
    for batch, workers in ((1, 1), (3, 4), (7, 2), (32, None)):
        out = tmp_path / f"{batch}.h5"
        features(trained[0], images, out=out, kind="both", batch=batch, workers=workers, dtype="float32")
        held = stored(out)
        wanted = wanted or held
        assert held.keys() == wanted.keys()
        assert np.allclose(held["patch_tokens"], wanted["patch_tokens"], rtol=0, atol=1e-5)
        assert np.allclose(held["class_tokens"], wanted["class_tokens"], rtol=0, atol=1e-5)
        assert all(np.array_equal(held[name], wanted[name]) for name in held if not name.endswith("tokens"))


def test_decoding_runs_ahead_of_the_model_but_not_far(
    trained: tuple[Path, MaskedAutoencoder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    num_read, is_ahead, num_called = [0], threading.Event(), [0]
    read, call = FileImages.read, Extractor.__call__

    def counted(self: FileImages, number: int) -> Encoded:
        num_read[0] += 1
        if num_read[0] == 3:
            is_ahead.set()
        return read(self, number)

    def waits(self: Extractor, pictures: np.ndarray) -> Any:
        assert is_ahead.wait(30), "the second batch is not decoded while the model is at the first"
        num_called[0] += 1
        assert num_read[0] <= 2 * (num_called[0] + 3), "memory grows with the number of images"
        return call(self, pictures)

    monkeypatch.setattr(FileImages, "read", counted)
    monkeypatch.setattr(Extractor, "__call__", waits)
    assert features(trained[0], photos(tmp_path, 16), out=tmp_path / "f.h5", batch=2).num_done == 16
    assert num_called == [8]


def test_attributes_say_what_the_features_are(trained: tuple[Path, MaskedAutoencoder], tmp_path: Path) -> None:
    features(trained[0], photos(tmp_path, 1), out=tmp_path / "f.h5", layer=1, norm=False)
    with h5py.File(tmp_path / "f.h5") as file:
        told = dict(file.attrs)
    assert json.loads(told["config"])["encoder"] == {"width": 32, "depth": 3, "heads": 2}
    assert (told["layer"], bool(told["norm"]), told["size"], told["patch"]) == (1, False, "32", 8)
    assert told["grid"].tolist() == [4, 4]
    assert "torch" in json.loads(told["versions"])
    assert len(json.loads(told["about"])["weights"]) == 64


def test_images_of_several_shapes_follow_each_other(trained: tuple[Path, MaskedAutoencoder], tmp_path: Path) -> None:
    path, model = trained
    sizes = [(32, 24), (43, 61), (32, 24), (24, 40)]
    images = [write_picture(tmp_path / f"{n}.png", *size, seed=n) for n, size in enumerate(sizes)]
    features(path, images, out=tmp_path / "f.h5", size="native", dtype="float32", batch=3)
    held = stored(tmp_path / "f.h5")
    assert held["grids"].tolist() == [[3, 4], [7, 5], [3, 4], [5, 3]]
    assert held["offsets"].tolist() == [0, 12, 47, 59, 74]
    assert held["boxes"].tolist() == [[0, 0, 32, 24], [1, 2, 40, 56], [0, 0, 32, 24], [0, 0, 24, 40]]
    for at, image in enumerate(images):
        left, top, width, height = held["boxes"][at]
        with torch.inference_mode():
            cut = normalised(image)[:, :, top : top + height, left : left + width]
            (patches,) = model.encoder.get_intermediate_layers(cut, 1)
        begin, end = held["offsets"][at : at + 2]
        assert np.allclose(held["patch_tokens"][begin:end], patches[0], rtol=0, atol=1e-5)


def test_fewer_large_images_go_through_the_model_together(
    trained: tuple[Path, MaskedAutoencoder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images = [
        write_picture(tmp_path / f"{n}.png", side, side) for n, side in enumerate((16, 64, 32, 64, 64, 128, 128, 16))
    ]
    shapes: list[tuple[int, ...]] = []
    call = Extractor.__call__
    monkeypatch.setattr(Extractor, "__call__", lambda self, x: (shapes.append(x.shape[:2]), call(self, x))[1])
    features(trained[0], images, out=tmp_path / "f.h5", size="native", batch=8)
    assert sorted(shapes) == [(1, 32), (1, 64), (1, 128), (1, 128), (2, 16), (2, 64)]


def test_class_tokens_need_a_model_that_has_them(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path / "run", thin("model.class_token=false"))
    images = photos(tmp_path, 1)
    for kind in ("class", "both"):
        with pytest.raises(ConfigError, match="no class token; take its patch tokens"):
            features(path, images, out=tmp_path / "f.h5", kind=kind)
    features(path, images, out=tmp_path / "f.h5")
    assert "class_tokens" not in stored(tmp_path / "f.h5")


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    config = thin()
    model = build_model(config)
    with torch.no_grad():
        model.encoder.blocks[2].mlp.contract.bias[3] = 1e5
    path = save_checkpoint(tmp_path, 1, model, torch.optim.AdamW(model.parameters()), config, "0" * 64, {})
    images = photos(tmp_path / "images", 1)
    with pytest.raises(MumError, match="beyond float16"):
        features(path, images, out=tmp_path / "f.h5", norm=False)
    features(path, images, out=tmp_path / "g.h5", norm=False, dtype="float32")
    assert stored(tmp_path / "g.h5")["patch_tokens"][0, 0, 3] > 9e4


# ---- several views together


def test_views_get_the_tokens_of_the_decoder_over_all_views(
    trained: tuple[Path, MaskedAutoencoder], tmp_path: Path
) -> None:
    path, model = trained
    images = photos(tmp_path, 3)
    with torch.inference_mode():
        views = torch.cat([normalised(image) for image in images])[None]
        first, last = model.multi_view_layers(views)
        wanted = {0: first[0], None: model.decoder.norm(last)[0]}
    for layer, norm in ((0, False), (None, True)):
        out = tmp_path / f"{layer}.h5"
        features(path, images, out=out, layer=layer, norm=norm, views=True, dtype="float32", batch=2)
        assert np.allclose(stored(out)["patch_tokens"], wanted[layer], rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="layer 2 does not exist; the decoder"):
        features(path, images, out=tmp_path / "g.h5", layer=2, views=True)


def test_views_get_the_tokens_of_an_encoder_over_all_views(tmp_path: Path) -> None:
    path, model = checkpoint(tmp_path / "run", thin(*JOINT_ENCODER))
    images = photos(tmp_path, 2)
    pixels = [normalised(image) for image in images]
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    views = ((torch.cat(pixels) * std + mean) - 0.5) / 0.5
    with torch.inference_mode():
        (together,) = model.encoder.get_intermediate_layers(views[None], 1)
        (alone,) = model.encoder.get_intermediate_layers(views, 1)
    features(path, images, out=tmp_path / "together.h5", views=True, dtype="float32")
    features(path, images, out=tmp_path / "alone.h5", dtype="float32")
    assert np.allclose(stored(tmp_path / "together.h5")["patch_tokens"], together[0], rtol=0, atol=1e-5)
    assert np.allclose(stored(tmp_path / "alone.h5")["patch_tokens"], alone, rtol=0, atol=1e-5)
    assert not np.allclose(together[0], alone, atol=1e-4)


def test_views_are_refused_where_they_make_no_sense(
    trained: tuple[Path, MaskedAutoencoder], places: dict[str, Path], tmp_path: Path
) -> None:
    images = photos(tmp_path, 2)
    out = tmp_path / "f.h5"
    with pytest.raises(ConfigError, match="not a catalog"):
        features(trained[0], [places["files"]], out=out, views=True)
    single, _ = checkpoint(tmp_path / "single", thin("model.decoder_attention=frame"))
    with pytest.raises(ConfigError, match="sees several views at once"):
        features(single, images, out=out, views=True)
    with pytest.raises(ConfigError, match="patch tokens alone"):
        features(trained[0], images, out=out, views=True, kind="both")
    wide = write_picture(tmp_path / "wide.png", 48, 32)
    with pytest.raises(ConfigError, match="must have one size"):
        features(trained[0], [*images, wide], out=out, views=True, size="native")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DecodeError, match=r"bad\.png.*every view counts"):
        features(trained[0], [*images, tmp_path / "bad.png"], out=out, views=True)
    assert not out.exists()


# ---- which images


def test_a_folder_stands_for_its_images_in_natural_order(tmp_path: Path) -> None:
    for name in ("frame10.png", "frame9.PNG", "frame1.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "frame2.png").write_bytes(b"x")
    found = open_images([tmp_path, tmp_path / "frame10.png"])
    assert [Path(name).name for name in found.names] == ["frame1.jpg", "frame9.PNG", "frame10.png", "frame10.png"]


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for paths, told in (
        ([], "no images given"),
        ([tmp_path / "none.png"], "does not exist"),
        ([tmp_path / "empty"], "no images lie in"),
        ([tmp_path / "pipe.png"], "neither an image nor a folder"),
    ):
        with pytest.raises(ConfigError, match=told):
            open_images(paths)
    with pytest.raises(ConfigError, match="chooses frames of a catalog"):
        open_images([write_picture(tmp_path / "a.png")], where="frame = 1")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One dataset as files, in an archive, and packed: its catalog folders. One photo lies on its side."""
    folder = tmp_path_factory.mktemp("places")
    for scene, num in (("a", 4), ("b", 2)):
        for number in range(num):
            write_picture(folder / "files" / scene / f"{number}.png", 40 + 9 * number, 64, seed=number + 10 * num)
    side = Image.fromarray(picture(64, 48, seed=5))
    exif = side.getexif()
    exif[0x0112] = 6
    side.save(folder / "files" / "b" / "side.jpg", exif=exif, quality=95)
    (folder / "zips").mkdir()
    with zipfile.ZipFile(folder / "zips" / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "files").rglob("*.*")):
            archive.write(path, path.relative_to(folder / "files"))
    for name in ("files", "zips"):
        index("folder", root=folder / name, name="mine", catalogs=folder / f"of_{name}", workers=1)
        mine_sequences("mine", catalogs=folder / f"of_{name}", workers=1)
    mixed = mix("only", weight=["mine=1"], catalogs=folder / "of_files").path
    packed = pack(mixed, out=folder / "packed", size="full", workers=1).path
    (at,) = packed.parent.rglob("frames.parquet")
    return {"files": folder / "of_files" / "mine", "zips": folder / "of_zips" / "mine", "packed": at}


@pytest.mark.parametrize("size", [None, "short:32"])
def test_features_are_equal_wherever_the_bytes_lie(
    trained: tuple[Path, MaskedAutoencoder], places: dict[str, Path], size: str | None, tmp_path: Path
) -> None:
    held = {}
    for name, path in places.items():
        features(trained[0], [path], out=tmp_path / f"{name}.h5", size=size, batch=4)
        held[name] = stored(tmp_path / f"{name}.h5")
    root = places["files"].parents[1] / "files"
    names = [name.decode() for name in held["files"]["paths"]]
    features(trained[0], [root / name for name in names], out=tmp_path / "plain.h5", size=size, batch=4)
    held["plain"] = stored(tmp_path / "plain.h5")  # upright by EXIF, not by the catalog
    for name, other in held.items():
        for key in ("patch_tokens", "boxes", "grids", "status"):
            assert np.array_equal(other[key], held["files"][key]), (name, key)
    assert held["files"]["frame_ids"].tolist() == list(range(7))
    assert "b/side.jpg" in names
    assert held["files"]["status"].tolist() == [1] * 7


def test_a_condition_chooses_frames(places: dict[str, Path]) -> None:
    catalog = places["files"]
    found = open_images([catalog / "frames.parquet"], where="scene = 'b' AND height = 64 -- of these")
    assert found.names == ["b/0.png", "b/1.png"]
    assert found.frame_ids is not None
    assert found.frame_ids.tolist() == [4, 5]
    assert found.upright_size(1) == (49, 64)
    side = open_images([catalog], where="path LIKE '%side%'")
    assert side.upright_size(0) == (48, 64)
    assert len({found.digest, side.digest, open_images([catalog]).digest}) == 3
    assert open_images([catalog], where="scene='b' and height=64").digest == found.digest


def test_only_usable_frames_are_chosen(tmp_path: Path) -> None:
    for number in range(3):
        write_picture(tmp_path / "root" / "a" / f"{number}.png", seed=number)
    (tmp_path / "root" / "a" / "1.png").write_bytes(b"")
    index("folder", root=tmp_path / "root", name="mine", catalogs=tmp_path, workers=1)
    assert open_images([tmp_path / "mine"]).names == ["a/0.png", "a/2.png"]
    assert open_images([tmp_path / "mine"], where="true) OR (true").names == ["a/0.png", "a/2.png"]
    ends = [f"SELECT {value} WHERE (true" for value in ("1", "999999", "'abc'", "-5", "NULL", "0.5", "0")]
    for end in [*ends, "SELECT frame_id FROM frames WHERE (true"]:
        for begin in ("true", "false"):
            if (begin, end) != ("false", ends[-1]):  # one usable frame, as a condition might choose
                with pytest.raises(ConfigError) as caught:
                    open_images([tmp_path / "mine"], where=f"{begin}) UNION ALL {end}")
                assert "\n" not in str(caught.value)


def test_wrong_conditions_are_told_in_a_line(places: dict[str, Path]) -> None:
    for where, told in (
        ("scenes = 'a'", "failed: Binder Error"),
        ("scene = ", "failed: Parser Error"),
        ("true); SELECT (1", "not one condition"),
        ("true) UNION ALL SELECT 999999 WHERE (true", "not one condition"),
        (" ", r"\(--where\) is empty"),
    ):
        with pytest.raises(ConfigError, match=told) as caught:
            open_images([places["files"]], where=where)
        assert "\n" not in str(caught.value)
    with pytest.raises(CatalogError, match="no usable frame where"):
        open_images([places["files"]], where="scene = 'z'")
    with pytest.raises(ConfigError, match="named alone"):
        open_images([places["files"], places["files"]])
    with pytest.raises(ConfigError, match=r"not of sequences\.parquet"):
        open_images([places["files"] / "sequences.parquet"])


# ---- which part of an image


def encoded(image: np.ndarray, turns: int | None = 0, kind: str = ".png") -> Encoded:
    done, data = cv2.imencode(kind, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    return Encoded(data.tobytes(), turns)


FRAMINGS = [Framing("square", 32, 8), Framing("short", 32, 8), Framing("native", 0, 8)]


@settings(max_examples=100, deadline=None)
@given(
    width=st.integers(8, 255),
    height=st.integers(8, 255),
    turns=st.integers(0, 3),
    framing=st.sampled_from(FRAMINGS),
)
def test_every_pixel_shows_what_its_box_says(width: int, height: int, turns: int, framing: Framing) -> None:
    # red counts columns and green rows of the upright image, so that each pixel tells where it comes from
    slope = 255 // max(width, height)
    upright = np.zeros((height, width, 3), np.uint8)
    upright[..., 0], upright[..., 1] = slope * np.arange(width)[None], slope * np.arange(height)[:, None]
    view = read_view(encoded(np.ascontiguousarray(np.rot90(upright, turns)), turns), framing)
    high, wide = view.picture.shape[:2]
    left, top, box_width, box_height = view.box
    assert (high // 8, wide // 8) == framing.grid(width, height)
    assert high % 8 == wide % 8 == 0
    assert 0 <= left <= left + box_width <= width
    assert 0 <= top <= top + box_height <= height
    room = (left - (width - box_width - left), top - (height - box_height - top))
    assert max(map(abs, room)) <= 2 * max(box_width / wide, box_height / high) + 2  # in the middle
    if framing.kind == "native":
        assert np.array_equal(view.picture, upright[top : top + high, left : left + wide])
        assert width - wide < 8
        assert height - high < 8
    across, down = box_width / wide, box_height / high
    # neither direction is stretched more than rounding to whole pixels does
    assert abs(across / down - 1) < 2.5 / min(box_width, box_height) + 2.5 / max(wide, high)
    for axis, (begin, scale, num) in enumerate(((left, across, wide), (top, down, high))):
        wanted = begin + (np.arange(num) + 0.5) * scale - 0.5
        edge = max(2.0, scale)
        inner = (wanted > begin + edge) & (wanted < begin + scale * num - 1 - edge)
        got = view.picture[..., axis].astype(float)
        got = (got[high // 2] if axis == 0 else got[:, wide // 2]) / slope
        # the colours are rounded up to three times on their way, and bicubic interpolation bends ramps a little
        assert np.abs(got - wanted)[inner].max(initial=0) <= 1.5 / slope + 0.02 * scale + 0.04


def test_large_images_are_shown_as_small_ones(tmp_path: Path) -> None:
    # a JPEG that is decoded at an eighth, against the same one decoded whole and averaged
    ramp = np.zeros((1100, 1500, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, 1500)[None]
    ramp[..., 1] = np.linspace(0, 255, 1100)[:, None]
    for framing in FRAMINGS[:2]:
        view = read_view(encoded(ramp, 0, ".jpg"), framing)
        left, top, width, height = view.box
        whole = cv2.resize(
            ramp[top : top + height, left : left + width], view.picture.shape[1::-1], interpolation=cv2.INTER_AREA
        )
        assert np.abs(view.picture.astype(int) - whole)[..., :2].max() <= 6


def test_a_view_stays_as_it_is_while_others_are_read() -> None:
    for framing in FRAMINGS:
        first = read_view(encoded(picture(64, 64, seed=1), 0, ".jpg"), framing).picture
        before = first.copy()
        read_view(encoded(picture(64, 64, seed=2), 0, ".jpg"), framing)
        assert np.array_equal(first, before)


def test_exif_turns_an_image_unless_the_catalog_does(tmp_path: Path) -> None:
    image = Image.fromarray(picture(48, 32))
    exif = image.getexif()
    exif[0x0112] = 6
    data = BytesIO()
    image.save(data, "JPEG", exif=exif)
    by_exif, by_catalog, as_stored = (read_view(Encoded(data.getvalue(), t), FRAMINGS[2]) for t in (None, 1, 0))
    assert by_exif.picture.shape == (48, 32, 3)
    assert np.array_equal(by_exif.picture, by_catalog.picture)
    assert np.array_equal(by_exif.picture, np.rot90(as_stored.picture, -1))


def test_sizes_are_read() -> None:
    assert read_framing(None, 224, 16) == read_framing(224, 96, 16) == read_framing("224", 96, 16)
    assert read_framing("short:512", 224, 16) == Framing("short", 512, 16)
    assert read_framing("native", 224, 14).kind == "native"
    with pytest.raises(ConfigError, match="no multiple of the model's patches of 16 pixels; the nearest is 512"):
        read_framing(518, 224, 16)
    for size in ("big", "long:3", "-16", "short:"):
        with pytest.raises(ConfigError, match="neither a number of pixels"):
            read_framing(size, 224, 16)
    with pytest.raises(DecodeError, match="less than one patch"):
        Framing("native", 0, 16).place(300, 12)


# ---- broken images


@pytest.mark.parametrize("size", [None, "native"])
def test_broken_images_are_marked_and_not_fatal(
    trained: tuple[Path, MaskedAutoencoder], size: str | None, tmp_path: Path
) -> None:
    images = photos(tmp_path, 3)
    text, cut = tmp_path / "text.jpg", tmp_path / "cut.jpg"
    text.write_text("this is no image, but it is called one")
    done, data = cv2.imencode(".jpg", picture(32, 32))
    assert done
    cut.write_bytes(data.tobytes()[:-200])
    out = tmp_path / "f.h5"
    found = features(trained[0], [images[0], text, images[1], cut, images[2]], out=out, kind="both", size=size, batch=2)
    held = stored(out)
    assert held["status"].tolist() == [1, 2, 1, 2, 1]
    assert [Path(name).name for name, _ in found.broken] == ["text.jpg", "cut.jpg"]
    assert held["problems"][1].decode()[:12] in found.broken[0][1]
    assert held["problems"][0] == b""
    assert np.isnan(held["class_tokens"][[1, 3]]).all()
    assert np.isfinite(held["class_tokens"][[0, 2, 4]]).all()
    assert found.lines()[0].endswith("2 broken")
    assert any("text.jpg" in line for line in found.lines())
    features(trained[0], images, out=tmp_path / "good.h5", size=size, batch=3)
    good = stored(tmp_path / "good.h5")["patch_tokens"]
    tokens = held["patch_tokens"]
    if size is None:
        assert np.isnan(tokens[[1, 3]]).all()
        tokens = tokens[[0, 2, 4]]
    else:  # of a file that is cut off, the header still tells the number of patches
        tokens = tokens[np.isfinite(tokens).all(axis=1)]
    assert np.allclose(tokens.astype(float), good.astype(float), atol=2e-3)


@pytest.mark.parametrize("size", [None, "native"])
def test_if_all_images_are_broken_nothing_is_left(
    trained: tuple[Path, MaskedAutoencoder], size: str | None, tmp_path: Path
) -> None:
    bad = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in bad:
        path.write_bytes(b"nothing")
    with pytest.raises(DecodeError, match=r"none of 2 images can be read; the first is .*a\.png: "):
        features(trained[0], bad, out=tmp_path / "f.h5", size=size)
    assert sorted(tmp_path.iterdir()) == bad


# ---- one file, one run


def test_a_finished_file_is_not_made_again(
    trained: tuple[Path, MaskedAutoencoder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images, out = photos(tmp_path, 3), tmp_path / "f.h5"
    features(trained[0], images, out=out)
    before = out.read_bytes()
    monkeypatch.setattr(Extractor, "__call__", lambda *_: pytest.fail("the model was run again"))
    found = features(trained[0], images, out=out, batch=1)
    assert (found.num_images, found.num_done) == (3, 0)
    assert "3 of them there already" in found.lines()[0]
    assert out.read_bytes() == before


class _Stop(BaseException):
    pass


def _begin(path: Path, images: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until one image is done."""
    call, left = Extractor.__call__, iter(range(1))

    def limited(self: Extractor, pictures: np.ndarray) -> Any:
        if next(left, None) is None:
            raise _Stop
        return call(self, pictures)

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "__call__", limited)
        with pytest.raises(_Stop):
            features(path, images, out=out, batch=1)


OTHER: dict[str, dict[str, Any]] = {
    "layer": {"layer": 0},
    "norm": {"norm": False},
    "size": {"size": 40},
    "kind": {"kind": "both"},
    "dtype": {"dtype": "float32"},
    "views": {"views": True},
}


@pytest.mark.parametrize("finished", [True, False])
def test_other_features_are_refused(
    trained: tuple[Path, MaskedAutoencoder], finished: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images, out = photos(tmp_path / "images", 3), tmp_path / "f.h5"
    if finished:
        features(trained[0], images, out=out)
    else:
        _begin(trained[0], images, out, monkeypatch)
    (held,) = tmp_path.glob("f.h5*")
    before = held.read_bytes()
    for key, how in OTHER.items():
        with pytest.raises(MumError, match=rf"holds other features: .*\b{key} \(there") as caught:
            features(trained[0], images, out=out, **how)
        assert "\n" not in str(caught.value)
    other, _ = checkpoint(tmp_path / "other", thin("seed=1"))
    with pytest.raises(MumError, match=r"holds other features: weights \("):
        features(other, images, out=out)
    with pytest.raises(MumError, match=r"holds other features: images \("):
        features(trained[0], images[::-1], out=out)
    os.utime(images[1], (1, 1))  # as a photo that was edited
    with pytest.raises(MumError, match=r"holds other features: images \("):
        features(trained[0], images, out=out)
    assert held.read_bytes() == before


def test_what_is_no_file_of_features_is_never_overwritten(
    trained: tuple[Path, MaskedAutoencoder], tmp_path: Path
) -> None:
    images = photos(tmp_path, 1)
    for name in ("f.h5", "g.h5.part"):
        (tmp_path / name).write_text("my diary")
        with pytest.raises(MumError, match="no whole HDF5 file"):
            features(trained[0], images, out=tmp_path / name.removesuffix(".part"))
        assert (tmp_path / name).read_text() == "my diary"
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["x"] = [1, 2]
    with pytest.raises(MumError, match="no file of features"):
        features(trained[0], images, out=tmp_path / "h.h5")


def test_two_processes_do_not_write_one_file(
    trained: tuple[Path, MaskedAutoencoder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images, out = photos(tmp_path, 2), tmp_path / "f.h5"
    _begin(trained[0], images, out, monkeypatch)
    with open(tmp_path / "f.h5.part", "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(MumError, match="another process is writing"):
            features(trained[0], images, out=out)
    assert features(trained[0], images, out=out).num_done == 1


def test_a_reader_is_not_taken_for_a_writer(
    trained: tuple[Path, MaskedAutoencoder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images, out = photos(tmp_path, 2), tmp_path / "f.h5"
    _begin(trained[0], images, out, monkeypatch)
    with h5py.File(tmp_path / "f.h5.part"), pytest.raises(MumError, match="another process is reading"):
        features(trained[0], images, out=out)


def test_an_input_is_never_replaced(trained: tuple[Path, MaskedAutoencoder], tmp_path: Path) -> None:
    images = photos(tmp_path / "images", 2)
    weights = tmp_path / "weights.png"
    weights.hardlink_to(trained[0])
    odd = images[0].rename(tmp_path / "images" / "odd.h5")
    before = [path.read_bytes() for path in (odd, images[1], weights)]
    for how in ({"out": odd}, {"pca": images[1]}, {"pca": weights}, {"out": tmp_path / "f.h5", "pca": images[1]}):
        with pytest.raises(ConfigError, match="is an input; name another output"):
            features(weights, [odd, images[1]], **how)
    assert [path.read_bytes() for path in (odd, images[1], weights)] == before
    assert not (tmp_path / "f.h5").exists()


def test_an_image_of_a_catalog_is_never_replaced(
    trained: tuple[Path, MaskedAutoencoder], places: dict[str, Path], tmp_path: Path
) -> None:
    root = places["files"].parents[1] / "files"
    with pytest.raises(ConfigError, match=r"3\.png, which is an input"):
        features(trained[0], [places["files"]], pca=root / "a" / "3.png")


def test_names_that_no_file_can_have_are_told(trained: tuple[Path, MaskedAutoencoder], tmp_path: Path) -> None:
    images = photos(tmp_path, 1)
    os.mkfifo(tmp_path / "pipe.h5")
    for name, told in (
        ("0.png/f.h5", "a file stands where its folder should be"),
        (f"{'a' * 247}.h5", "name is too long"),
        (f"{'a' * 300}.h5", "name is too long"),
        ("/proc/none/f.h5", "cannot be made"),
        ("pipe.h5", "is no file"),
    ):
        with pytest.raises(MumError, match=told) as caught:
            features(trained[0], images, out=tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_model_may_have_any_name(trained: tuple[Path, MaskedAutoencoder], tmp_path: Path) -> None:
    run = tmp_path / os.fsdecode(b"run\xff")
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / trained[0].name).hardlink_to(trained[0])
    features(run, photos(tmp_path / "images", 1), out=tmp_path / "f.h5", pca=tmp_path / "a.png")
    with h5py.File(tmp_path / "f.h5") as file:
        assert "\ufffd" in file.attrs["model"]


def test_a_picture_is_not_drawn_of_other_images(trained: tuple[Path, MaskedAutoencoder], tmp_path: Path) -> None:
    images = [write_picture(tmp_path / "root" / "a" / f"{n}.png", 48, 32, seed=n) for n in range(2)]
    index("folder", root=tmp_path / "root", name="mine", catalogs=tmp_path, workers=1)
    out, pca = tmp_path / "f.h5", tmp_path / "a.png"
    for size in (None, "native"):
        write_picture(images[1], 48, 32, seed=1)
        out.unlink(missing_ok=True)
        features(trained[0], [tmp_path / "mine"], out=out, size=size)
        write_picture(images[1], 32, 64)
        with pytest.raises(DecodeError, match=r"a/1\.png: its size has changed since .*f\.h5 is whole"):
            features(trained[0], [tmp_path / "mine"], out=out, pca=pca, size=size)
    images[1].unlink()
    with pytest.raises(DecodeError, match=r"a/1\.png: the file has gone; .*f\.h5 is whole, only the picture"):
        features(trained[0], [tmp_path / "mine"], out=out, pca=pca, size="native")
    assert not pca.exists()


def test_wrong_arguments_are_told(trained: tuple[Path, MaskedAutoencoder], tmp_path: Path) -> None:
    images, out = photos(tmp_path, 1), tmp_path / "f.h5"
    cases: list[tuple[str, dict[str, Any]]] = [
        ("nothing to write", {}),
        ("does not end like an HDF5 file", {"out": tmp_path / "f.npz"}),
        ("did you mean 'patches'", {"out": out, "kind": "patch"}),
        ("did you mean 'float16'", {"out": out, "dtype": "float61"}),
        ("--batch must be at least 1", {"out": out, "batch": 0}),
        ("--workers must be at least 1", {"out": out, "workers": 0}),
        ("layer 3 does not exist; the encoder", {"out": out, "layer": 3}),
        ("layer -4 does not exist", {"out": out, "layer": -4}),
        ("does not end like a picture", {"pca": tmp_path / "a.h5"}),
        ("of patch tokens", {"pca": tmp_path / "a.png", "kind": "class"}),
    ]
    for told, how in cases:
        with pytest.raises(ConfigError, match=told):
            features(trained[0], images, **how)
    with pytest.raises(MumError, match="free there"):
        FeatureFile.open(out, _layout(1 << 40), {}, fixed={}, attributes={})


def test_space_is_asked_for_all_that_is_stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = file_module.shutil.disk_usage(tmp_path)
    paths = [f"{'x' * 1000}{n}" for n in range(4)]
    for free, told in ((5000, "5.0 kB are free"), (999, "999 bytes are free"), (0, "0 bytes are free")):
        monkeypatch.setattr(file_module.shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        with pytest.raises(MumError, match=rf"needs \d+\.\d kB, of which {told}"):
            FeatureFile.open(tmp_path / "f.h5", _layout(4), {}, fixed={"paths": paths}, attributes={})
    assert not list(tmp_path.iterdir())


_LIMITED = """
import resource, sys
import numpy as np
from pathlib import Path
from mumdata.errors import MumError
from mumtrain.features.file import FeatureFile, Layout
layout = Layout(np.full((4, 2), 20, np.int32), True, 16, "float32", True, False)
for limit in (0, 3000, 50_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        FeatureFile.open(Path(sys.argv[1]), layout, {}, fixed={"paths": ["x"] * 4}, attributes={}).close()
    except MumError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_file_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _LIMITED, str(tmp_path / "f.h5")]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (child.returncode, child.stderr) == (0, "")
    told = child.stdout.splitlines()
    assert len(told) == 3
    assert all("cannot write" in line and "ulimit -f" in line for line in told)
    assert not list(tmp_path.iterdir())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["write", "read", "cut"]), st.integers(0, 300_000), st.integers(0, 200_000)),
        max_size=12,
    )
)
def test_a_file_in_memory_is_as_any_other(calls: list[tuple[str, int, int]]) -> None:
    sparse, other = SparseFile(), BytesIO()
    for number, (what, at, num) in enumerate(calls, 1):
        for file in (sparse, other):
            file.seek(at)
        if what == "cut":
            sparse.truncate()
            other.write(b"")
            data = other.getvalue()[:at].ljust(at, b"\0")
            other = BytesIO(data)
        elif what == "write":
            assert sparse.write(bytes([number]) * num) == other.write(bytes([number]) * num)
        else:
            assert sparse.read(num) == other.read(num)
    made = bytearray(sparse.size)
    for at, data in sparse.pieces():
        made[at : at + len(data)] = data
    assert made == other.getvalue()


def test_a_file_in_memory_takes_what_is_written() -> None:
    sparse = SparseFile()
    sparse.seek(1 << 50)
    sparse.write(b"end")
    assert sparse.size == (1 << 50) + 3
    assert sum(len(data) for _, data in sparse.pieces()) < 1 << 20


# ---- killed


def _layout(num: int, *, is_even: bool = True) -> Layout:
    if num > 1000:  # one image of very many patches
        return Layout(np.array([[1 << 20, num >> 20]], np.int32), True, 4, "float32", True, False)
    grids = np.full((num, 2), 2, np.int32) if is_even else np.array([[1 + n, 2] for n in range(num)], np.int32)
    return Layout(grids, is_even, 4, "float32", True, True)


def _fill(path: Path, layout: Layout) -> None:
    """What a run does, with numbers in the place of features; the third image is broken."""
    with FeatureFile.open(path, layout, {"a": 1}, fixed={"paths": ["x"] * len(layout.grids)}, attributes={}) as file:
        for row in np.flatnonzero(file.status() == 0).tolist():
            if row == 2:
                file.put_broken(row, "it is broken")
                continue
            patches = np.full((int(layout.grids[row].prod()), 4), row + 1.0)
            file.put(row, Row(patches, np.full(4, -row - 1.0), (row, 0, 1, 1)))
            if row % 2:
                file.flush()
        file.finish()


@pytest.mark.parametrize("is_even", [True, False])
def test_a_file_survives_the_end_of_its_process_at_every_write(
    is_even: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layout = _layout(4, is_even=is_even)
    _fill(tmp_path / "whole.h5", layout)
    wanted = stored(tmp_path / "whole.h5")
    assert wanted["patch_tokens"].reshape(-1)[0] == 1
    monkeypatch.setattr(os, "fsync", lambda number: None)  # the disk's own end is not what is tried here
    pwrite = os.pwrite
    ended = unfinished = 0
    for last in range(1000):
        calls = iter(range(last))

        def alive(calls: Iterator[int] = calls) -> None:
            if next(calls, None) is None:
                raise _Stop  # and so does every later call: nothing more is written

        def write(number: int, data: Any, at: int, alive: Callable[[], None] = alive) -> int:
            alive()
            half = memoryview(data)[: max(1, len(data) // 2)]  # the system may write less than it is given
            return pwrite(number, half, at)

        def synced(number: int, alive: Callable[[], None] = alive) -> None:
            alive()

        path = tmp_path / f"{last}.h5"
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", write)
            patch.setattr(os, "fdatasync", synced)
            try:
                _fill(path, layout)
                ended += 1
            except _Stop:
                unfinished += 1
        if not path.exists():
            held = stored(tmp_path / f"{last}.h5.part")
            for row in np.flatnonzero(held["status"] == 1):  # what is marked is there
                assert (held["class_tokens"][row] == -row - 1.0).all()
            _fill(path, layout)
        found = stored(path)
        assert found.keys() == wanted.keys()
        assert all(np.array_equal(found[name], wanted[name], equal_nan=name.endswith("tokens")) for name in wanted)
        if ended:
            break
    assert unfinished > 20
    assert not list(tmp_path.glob("*.part"))


def test_rows_are_marked_only_after_they_are_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    order: list[str] = []
    layout = _layout(4)
    write, sync = FeatureFile._write, os.fdatasync
    monkeypatch.setattr(FeatureFile, "_write", lambda self, name, *rest: (order.append(name), write(self, name, *rest)))
    monkeypatch.setattr(os, "fdatasync", lambda number: (order.append("sync"), sync(number)))
    _fill(tmp_path / "f.h5", layout)
    written = False
    for what in order:
        assert not (what == "status" and written)
        written = what != "sync" and (written or what != "status")
    assert order.count("status") == 4


def test_a_full_disk_is_told_and_continued(
    trained: tuple[Path, MaskedAutoencoder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images, out = photos(tmp_path, 4), tmp_path / "f.h5"
    pwrite, left = os.pwrite, iter(range(7))

    def full(number: int, data: Any, at: int) -> int:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(number, data, at)

    monkeypatch.setattr(file_module, "_FLUSH_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(MumError, match="no space is left; run the same command again"):
            features(trained[0], images, out=out, batch=1)
    found = features(trained[0], images, out=out, batch=1)
    assert 1 <= found.num_done < 4
    features(trained[0], images, out=tmp_path / "g.h5", batch=1)
    assert np.array_equal(stored(out)["patch_tokens"], stored(tmp_path / "g.h5")["patch_tokens"])


_SLOW_RUN = """
import sys, time
import torch
from mumtrain.features import features, file
from mumtrain.features.encode import Extractor
torch.set_num_threads(1)
file._FLUSH_S = 0.0
call = Extractor.__call__
def slowly(self, pictures):
    time.sleep(0.05)
    return call(self, pictures)
Extractor.__call__ = slowly
features(sys.argv[1], sys.argv[3:], out=sys.argv[2], kind="both", batch=1)
"""


@pytest.mark.slow
def test_a_killed_run_continues(trained: tuple[Path, MaskedAutoencoder], tmp_path: Path) -> None:
    path, images, out = trained[0], photos(tmp_path, 40), tmp_path / "f.h5"
    part = tmp_path / "f.h5.part"
    command = [sys.executable, "-c", _SLOW_RUN, str(path), str(out), *map(str, images)]
    child = subprocess.Popen(command)
    until = time.monotonic() + 60
    done = 0
    while done < 3:
        assert child.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
        if part.exists():
            with h5py.File(part, locking=False) as file:
                done = int(np.count_nonzero(file["status"][...]))
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not out.exists()
    found = features(path, images, out=out, kind="both", batch=1)
    assert 0 < found.num_done <= 37
    assert found.num_images == 40
    features(path, images, out=tmp_path / "whole.h5", kind="both", batch=1)
    continued, whole = stored(out), stored(tmp_path / "whole.h5")
    assert continued.keys() == whole.keys()
    assert all(np.array_equal(continued[name], whole[name]) for name in whole)
    assert not part.exists()


# ---- principal components


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(num, 6)) * [9, 5, 3, 1, 0.5, 0.1] @ rng.normal(size=(6, 6)) for num in (20, 35, 7)]
    found, shares = principal_components(tokens)
    everything = np.concatenate(tokens)
    _, strengths, axes = np.linalg.svd(everything - everything.mean(axis=0))
    wanted = (everything - everything.mean(axis=0)) @ axes[:3].T
    for component in range(3):
        got = np.concatenate(found)[:, component]
        sign = np.sign(axes[component][np.abs(axes[component]).argmax()])
        assert np.allclose(got, sign * wanted[:, component], atol=1e-9)
    assert np.allclose(shares, strengths[:3] ** 2 / (strengths**2).sum())
    backwards, _ = principal_components(tokens[::-1])
    for got, same in zip(backwards[::-1], found, strict=True):
        assert np.allclose(got, same, atol=1e-9)


def test_colours_are_stretched_alike_over_all_images() -> None:
    dark, bright = np.linspace(0, 1, 300).reshape(100, 3), np.linspace(1, 2, 300).reshape(100, 3)
    first, second = to_colours([dark, bright])
    assert first.max() < 0.55
    assert second.min() > 0.45
    both = np.concatenate([first, second])
    assert both.min() == 0
    assert both.max() == 1
    assert 0 < np.mean(both == 0) < 0.05
    assert 0 < np.mean(both == 1) < 0.05
    assert np.array_equal(to_colours([np.ones((4, 3))])[0], np.full((4, 3), 0.5))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int, int]]:
    pages: list[tuple[Any, int, int]] = []
    monkeypatch.setattr(components_module, "draw_page", lambda items, w, h, out: pages.append((items, w, h)))
    return pages


def test_pictures_keep_their_shape_above_their_components(drawn: list[tuple[Any, int, int]]) -> None:
    rng = np.random.default_rng(0)
    grids = [(4, 4), (3, 8), (8, 3)] * 5
    pictures = [np.zeros((8 * rows, 8 * columns, 3), np.uint8) for rows, columns in grids]
    tokens = [rng.normal(size=(rows * columns, 5)) for rows, columns in grids]
    draw_components(pictures, tokens, grids, [f"{n}.jpg" for n in range(15)], title="t", out=Path("a.png"))
    ((items, width, height),) = drawn
    shown = [item for item in items if isinstance(item, components_module.Picture)]
    assert len(shown) == 30
    for number, (image, colours) in enumerate(zip(shown[::2], shown[1::2], strict=True)):
        rows, columns = grids[number]
        assert image.pixels is pictures[number]
        assert colours.pixels.shape == (rows, columns, 3)
        assert (image.left, image.width, image.height) == (colours.left, colours.width, colours.height)
        assert colours.top >= image.top + image.height
        assert image.width / image.height == pytest.approx(columns / rows, rel=0.01)
        for part in (image, colours):
            assert 0 <= part.left < part.left + part.width <= width
            assert 0 <= part.top < part.top + part.height <= height
    boxes = [(p.left, p.top, p.left + p.width, p.top + p.height) for p in shown]
    for at, a in enumerate(boxes):
        for b in boxes[:at]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
    names = [item.text for item in items if isinstance(item, components_module.Words)]
    assert [name for name in names if name.endswith(".jpg")] == [f"{n}.jpg" for n in range(15)]


def test_components_are_drawn_with_and_without_a_file(
    trained: tuple[Path, MaskedAutoencoder], drawn: list[tuple[Any, int, int]], tmp_path: Path
) -> None:
    path, model = trained
    images = photos(tmp_path, 3)
    (tmp_path / "bad.png").write_bytes(b"bad")
    images.insert(1, tmp_path / "bad.png")
    alone = features(path, images, pca=tmp_path / "a.png", dtype="float32")
    stored_too = features(path, images, out=tmp_path / "f.h5", pca=tmp_path / "b.png", dtype="float32")
    assert (alone.out, stored_too.out) == (None, tmp_path / "f.h5")
    assert not any("f.h5" in line for line in alone.lines())
    tokens = [plain(model, image, 2, True)[0] for at, image in enumerate(images) if at != 1]
    colours = [part.reshape(4, 4, 3) for part in to_colours(principal_components(tokens)[0])]
    for items, _, _ in drawn:
        shown = [item.pixels for item in items if isinstance(item, components_module.Picture)]
        assert len(shown) == 6
        assert np.array_equal(shown[2], picture(32, 32, seed=1)[..., ::-1])
        for got, wanted in zip(shown[1::2], colours, strict=True):
            assert np.allclose(got, wanted, atol=1e-3)
    assert len(drawn) == 2


def test_a_picture_is_written(trained: tuple[Path, MaskedAutoencoder], tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    found = features(trained[0], photos(tmp_path, 2), pca=out)
    assert found.pca == out
    assert found.lines()[-1].startswith(str(out))
    with Image.open(out) as image:
        assert image.size[0] > 500
        assert len(image.getcolors(1 << 24) or ()) > 50


def test_lines_name_few_broken_images() -> None:
    from mumtrain.features import Features

    broken = tuple((f"{n}.jpg", "cut off") for n in range(14))
    found = Features(
        Path("f.h5"), None, 1200, 200, broken, {"patch_tokens": (1200, 196, 8)}, "float16", 10**7, 4, "cpu"
    )
    lines = found.lines()
    assert lines[0] == "1,200 images, 1,000 of them there already, 50.0 a second on cpu, 14 broken"
    assert lines[1] == "f.h5: patch_tokens 1200 x 196 x 8 float16, 10.0 MB"
    assert lines[-1] == "... and 4 more: see status and problems in the file"
    assert len(lines) == 13
    assert replace(found, num_done=0, broken=()).lines()[0] == "1,200 images, 1,200 of them there already"
