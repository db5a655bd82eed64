"""Pictures during training: which views they show, what stands on them, and that drawing them changes nothing."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pyarrow as pa
import pytest
import torch

import mumtrain.pictures as pictures_module
from mumdata.catalog import Mix, MixDataset, open_mix
from mumtrain.config import Config, apply
from mumtrain.drawing import Words, enlarged, read_square, shown_side, text_width
from mumtrain.loader import open_frames
from mumtrain.masks.draw import draw_masks
from mumtrain.model.autoencoder import Prediction, build_model
from mumtrain.pictures import Pictures, Shown, open_pictures
from mumtrain.reading.frames import COLUMNS, FrameTable
from mumtrain.recipes import recipe
from mumtrain.runtime import select_runtime
from tests.conftest import write_picture
from tests.test_pictures import KINDS, PATCH, SIZE, THIN, assert_tidy

GREY = 224  # of hidden patches, as 8 bits
FACTOR = shown_side(SIZE) // SIZE
RUNTIME = select_runtime("cpu")


def config_of(kind: str = "mum", *sets: str) -> Config:
    return apply(recipe("debug-cpu"), [*THIN, "data.views_max=6", "steps=2000", *KINDS[kind], *sets])


# ---- mixes made by hand


@dataclass
class Toy:
    """A dataset of consecutive frames, each an image NAME/FRAME.png: lengths of its sequences, a hash of each."""

    weight: float
    lengths: Sequence[int]
    units: Sequence[float] = ()
    holdout: float = 0.0
    single: bool = False

    @property
    def frames(self) -> list[list[int]]:
        ends = np.cumsum([0, *self.lengths]).tolist()
        return [list(range(a, b)) for a, b in pairwise(ends)]

    def sequences(self) -> pa.Table:
        units = list(self.units) or [0.9] * len(self.lengths)
        return pa.table(
            {
                "num_frames": pa.array(list(self.lengths), pa.int32()),
                "frames": pa.array(self.frames, pa.large_list(pa.int32())),
                "holdout_unit": pa.array(units, pa.float64()),
            }
        )


Make = Callable[..., tuple[Mix, list[FrameTable]]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that makes a mix of `Toy`s, and its frames, under tmp_path."""

    def made(**toys: Toy) -> tuple[Mix, list[FrameTable]]:
        nowhere, datasets, frames = tmp_path / "nowhere", [], []
        for name, toy in toys.items():
            num, size = sum(toy.lengths), (40, 52)
            for number in range(num):
                write_picture(tmp_path / name / f"{number}.png", *size, seed=1000 * len(datasets) + number)
            rest = (num, num, toy.holdout, len(toy.lengths), num, nowhere, nowhere, "", nowhere, "", "", None, None)
            datasets.append(MixDataset(name, toy.weight, toy.single, 1 if toy.single else 2, *rest[2:]))
            columns = {column: [None] * num for column in COLUMNS} | {"path": [f"{n}.png" for n in range(num)]}
            frames.append(FrameTable(name, tmp_path / name, pa.table(columns)))
        monkeypatch.setattr(pictures_module, "map_sequences", lambda dataset: toys[dataset.name].sequences())
        return Mix(nowhere, "digest", tuple(datasets)), frames

    return made


def shown_of(made: tuple[Mix, list[FrameTable]], config: Config) -> tuple[Shown, ...]:
    pictures = open_pictures(*made, config)
    assert pictures is not None
    return pictures.shown


# ---- which views


def test_views_are_neighbours_of_the_datasets_of_greatest_weight(make: Make, tmp_path: Path) -> None:
    toys = {name: Toy(weight, [9, 12, 7]) for name, weight in (("a", 0.1), ("b", 0.3), ("c", 0.0), ("d", 0.2))}
    made = make(**toys, e=Toy(0.1, [5]), f=Toy(0.4, [1] * 5, single=True))
    seen = set()
    for seed in range(8):
        config = config_of("mum", f"seed={seed}")
        shown = shown_of(made, config)
        assert [one.told.partition(" · ")[0] for one in shown] == ["b", "d", "a"]
        for one in shown:
            name, _, told = one.told.partition(" · sequence ")
            ids = one.frame_ids.tolist()
            assert ids == list(range(ids[0], ids[0] + 4))
            assert set(ids) <= set(toys[name].frames[int(told)])
            assert made[0].datasets[one.dataset].name == name
            assert one.names == tuple(f"{number}.png" for number in ids)
            # as `mumtrain reconstruct` reads image files
            wanted = [read_square(tmp_path / name / file, SIZE) for file in one.names]
            assert np.array_equal(one.squares, wanted)
            assert one.together
        seen.add(tuple(one.frame_ids[0] for one in shown))
        again = shown_of(made, config)
        assert all(np.array_equal(a.squares, b.squares) and a.told == b.told for a, b in zip(shown, again, strict=True))
    assert len(seen) > 4


def test_held_out_sequences_come_first_and_one_dataset_gives_several(make: Make) -> None:
    made = make(a=Toy(1.0, [6, 6, 3, 1, 8, 6], [0.5, 0.1, 0.0, 0.0, 0.2, 0.04], holdout=0.2))
    for seed in range(6):
        told = [one.told for one in shown_of(made, config_of("mum", f"seed={seed}"))]
        # those of four frames or more first; 0.2 itself is not held out
        assert sorted(told[:2]) == ["a · held-out sequence 1", "a · held-out sequence 5"]
        assert told[2] == "a · held-out sequence 2"
    assert len(shown_of(made, config_of())[2].frame_ids) == 3
    made = make(a=Toy(0.4, [6, 6], [0.5, 0.1], holdout=0.2), b=Toy(0.6, [5]))
    told = [one.told for one in shown_of(made, config_of())]
    assert told == ["b · sequence 0", "a · held-out sequence 1", "a · sequence 0"]


def test_views_suit_the_model(make: Make) -> None:
    made = make(a=Toy(1.0, [9]), b=Toy(1.0, [1] * 9, [0.5] * 7 + [0.1] * 2, holdout=0.2, single=True))
    shapes = {"mum": (1, 4), "croco": (1, 2), "mae": (4, 1), "muskie": (1, 4)}
    for kind, shape in shapes.items():
        (one,) = shown_of(made, config_of(kind))
        assert tuple(one.batch().shape) == (*shape, 3, SIZE, SIZE)
        flat = one.batch().flatten(0, 1).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(flat, one.squares)
    assert len(shown_of(made, config_of("mum", "data.views_max=3"))[0].names) == 3
    # of a stage of the curriculum
    (one,) = shown_of(made, config_of("mum", "data.views_max=2", "data.stages=0 views=2:2; 50 views=2:4"))
    assert len(one.names) == 4


def test_a_mix_of_single_images_shows_these(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    made = make(b=Toy(1.0, [1] * 9, [0.5] * 7 + [0.1] * 2, holdout=0.2, single=True))
    shown = shown_of(made, config_of("mae"))
    assert [one.told for one in shown] == ["b · held-out images", "b · images", "b · images"]
    assert sorted(shown[0].frame_ids) == [7, 8]
    assert sorted(np.concatenate([one.frame_ids for one in shown])) == list(range(9))
    assert {one.batch().shape[1] for one in shown} == {1}
    assert {one.batch().shape[1] for one in shown_of(made, config_of("mum"))} == {1}
    assert open_pictures(*made, config_of("croco")) is None
    assert "no pictures of reconstructions will be drawn: no sequence is long enough" in caplog.text


def test_other_images_stand_for_broken_ones(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = make(a=Toy(0.6, [6, 6, 6]), b=Toy(0.4, [7]))
    (whole,) = [one for one in shown_of(made, config_of()) if one.told.startswith("b")]
    first, second, third, fourth = whole.frame_ids.tolist()
    (tmp_path / "b" / f"{second}.png").write_bytes(b"no image")
    (tmp_path / "b" / f"{third}.png").unlink()
    for number in (*range(6), *range(7, 12)):  # nothing of one sequence, one frame of another
        (tmp_path / "a" / f"{number}.png").unlink()
    assert not caplog.records
    shown = shown_of(made, config_of())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "images cannot be read, others are shown instead: " in record.message
    after = [number for number in range(fourth, 7)][:3]
    before = [number for number in range(first - 1, -1, -1)][: 3 - len(after)]
    assert shown[1].frame_ids.tolist() == sorted([first, *after, *before])
    assert [one.told for one in shown] == ["a · sequence 2", "b · sequence 0"]
    for file in [*(tmp_path / "a").iterdir(), *(tmp_path / "b").iterdir()]:
        file.write_bytes(b"no image")
    caplog.clear()
    assert open_pictures(*made, config_of()) is None
    (record,) = caplog.records
    assert "no pictures of reconstructions will be drawn: 25 images tried, none readable: a: " in record.message


# ---- what stands on a picture


@pytest.mark.parametrize(
    "kind", ["mum", "croco", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("mae", "muskie"))]
)
def test_a_picture_is_true(kind: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(kind)
    made = make(a=Toy(0.6, [9]), b=Toy(0.4, [7], [0.1], holdout=0.2))
    pictures = open_pictures(*made, config)
    assert pictures is not None
    model = build_model(config)
    pages: list[Any] = []
    real = pictures_module.page_of
    monkeypatch.setattr(pictures_module, "page_of", lambda *args: pages.append(real(*args)) or pages[-1])
    path, pixels = pictures.draw(model, RUNTIME, tmp_path / "run", 1000)
    assert path == tmp_path / "run/pictures/step-00001000.png"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
    assert np.array_equal(pixels, cv2.imread(str(path))[..., ::-1])
    items, width, height = pages[0]
    assert pixels.shape[:2] == (height, width)
    assert width <= 1450
    assert_tidy(items, width, height)

    words = [item.text for item in items if isinstance(item, Words)]
    assert words[0] == "step 1,000 of 2,000 · run"
    assert "loss" not in " ".join(words)
    for told in ("a · sequence 0 · ", "b · held-out sequence 0 · "):
        assert sum(word.startswith(told) and "patches hidden" in word for word in words) == 1
    assert words.count("input") == words.count("reconstruction") == 2
    assert words.count("confidence") == (2 if kind == "muskie" else 0)
    assert all(words.count(name) + words.count(f"{name} (whole)") >= 1 for one in pictures.shown for name in one.names)

    # each input is there, enlarged; below it what the model sees: grey squares or the same pixels; then a prediction
    side = SIZE * FACTOR
    for one in pictures.shown:
        grid, share = SIZE // PATCH, []
        for square in one.squares:
            large = enlarged(square, FACTOR)
            ((y, x),) = found_at(pixels, large)
            seen, made_of = (pixels[y + k * (side + 8) :, x:][:side, :side] for k in (1, 2))
            is_whole = np.array_equal(seen, large)
            is_hidden = np.zeros((grid, grid), bool)
            for row, column in np.ndindex(grid, grid):
                part = tuple(slice(n * PATCH * FACTOR, (n + 1) * PATCH * FACTOR) for n in (row, column))
                is_hidden[row, column] = (seen[part] == GREY).all()
                if not is_hidden[row, column]:
                    assert np.array_equal(seen[part], large[part])
                # what is visible is pasted, what is hidden is the model's own
                if not is_whole:
                    assert np.array_equal(made_of[part], large[part]) != is_hidden[row, column]
            share.append(is_hidden.mean())
        if kind in ("mum", "mae"):
            assert share == [0.75] * 4
        elif kind == "croco":
            assert sorted(share) == [0, 15 / 16]
        else:
            assert min(share) == 0 < max(share)


def test_long_names_keep_apart(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("croco")
    pictures = open_pictures(*make(a=Toy(1.0, [9])), config)
    assert pictures is not None
    names = tuple(f"{letter * 60}.jpg" for letter in "il")
    pictures = Pictures([dataclasses.replace(one, names=names) for one in pictures.shown], config)
    pages: list[Any] = []
    real = pictures_module.page_of
    monkeypatch.setattr(pictures_module, "page_of", lambda *args: pages.append(real(*args)) or pages[-1])
    pictures.draw(build_model(config), RUNTIME, tmp_path / "run", 1)
    items, width, height = pages[0]
    assert_tidy(items, width, height)
    first, second = (item for item in items if isinstance(item, Words) and "…" in item.text)
    ends = first.x + text_width(first.text, first.size) / 2, second.x - text_width(second.text, second.size) / 2
    # pixels: more than the gap of the columns alone
    assert ends[1] - ends[0] >= 18
    assert sum(item.text.endswith(" (whole)") for item in (first, second)) == 1


def found_at(pixels: np.ndarray, part: np.ndarray) -> list[tuple[int, int]]:
    """Rows and columns at which a picture holds a part, which begins with a pixel that is no white."""
    height, width = part.shape[:2]
    rows, columns = np.nonzero((pixels[: 1 - height, : 1 - width] == part[0, 0]).all(-1))
    at = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(y, x) for y, x in at if np.array_equal(pixels[y : y + height, x : x + width], part)][:1]


@pytest.mark.slow
def test_the_same_views_and_masks_at_every_step(make: Make, tmp_path: Path) -> None:
    config = config_of()
    made = make(a=Toy(1.0, [9, 9]))
    pictures = [open_pictures(*made, config) for _ in range(2)]
    assert isinstance(pictures[0], Pictures)
    assert isinstance(pictures[1], Pictures)
    model = build_model(config).train()
    drawn = [pictures[k].draw(model, RUNTIME, tmp_path / str(k) / "run", 7)[1] for k in range(2)]
    assert np.array_equal(*drawn)
    files = [(tmp_path / str(k) / "run/pictures/step-00000007.png").read_bytes() for k in range(2)]
    assert files[0] == files[1]
    _, later = pictures[0].draw(model, RUNTIME, tmp_path / "run", 8)
    differs = np.nonzero((later != drawn[0]).any(-1).any(-1))[0]
    assert len(differs) > 0
    assert differs.max() < 50  # nothing but the heading
    # another model: other predictions, the same inputs and masks
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    _, other = pictures[0].draw(model, RUNTIME, tmp_path / "other/run", 7)
    assert other.shape == drawn[0].shape
    side = SIZE * FACTOR
    ((y, _),) = found_at(other, enlarged(pictures[0].shown[0].squares[0], FACTOR))
    same = slice(y, y + 2 * (side + 8))
    assert np.array_equal(other[same], drawn[0][same])
    assert not np.array_equal(other, drawn[0])
    # two sequences have masks of their own
    below = found_at(other, enlarged(pictures[0].shown[1].squares[0], FACTOR))[0][0]
    grey = [(other[top + side + 8 :][:side] == GREY).all(-1) for top in (y, below)]
    assert not np.array_equal(*grey)


@pytest.mark.parametrize("is_training", [True, False])
def test_drawing_changes_nothing_else(is_training: bool, make: Make, tmp_path: Path) -> None:
    config = config_of()
    pictures = open_pictures(*make(a=Toy(1.0, [9])), config)
    assert pictures is not None
    views = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 2, 3, SIZE, SIZE), np.uint8))
    masks = draw_masks(config.mask, 1, 2, (SIZE // PATCH, SIZE // PATCH), seed=0, step=0, slot=0)
    modes = []

    def gradients(draws: bool) -> list[torch.Tensor]:
        model = build_model(config).train(is_training)
        if draws:
            real = model.predict

            def spied(*args: Any) -> Prediction:
                modes.append((model.training, torch.is_inference_mode_enabled()))
                return real(*args)

            model.predict = spied  # type: ignore[method-assign]
            pictures.draw(model, RUNTIME, tmp_path / "run", 1)
            model.predict = real  # type: ignore[method-assign]
            assert all(module.training == is_training for module in model.modules())
        model(views, masks).backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    random, settings = torch.get_rng_state(), dict(matplotlib.rcParams)
    plain, after = gradients(False), gradients(True)
    assert modes
    assert all(mode == (False, True) for mode in modes)
    assert plain
    assert all(torch.equal(a, b) for a, b in zip(plain, after, strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert dict(matplotlib.rcParams) == settings


def test_a_model_that_fails_is_left_in_its_mode(make: Make, tmp_path: Path) -> None:
    config = config_of()
    pictures = open_pictures(*make(a=Toy(1.0, [9])), config)
    assert pictures is not None
    model = build_model(config_of("mum", "data.size=40", "model.patch=20")).train()
    with pytest.raises((RuntimeError, ValueError)):
        pictures.draw(model, RUNTIME, tmp_path / "run", 1)
    assert model.training
    assert not (tmp_path / "run").exists()


def test_a_mix_of_catalogs_can_be_shown(mix_path: Path, tmp_path: Path) -> None:
    mix, config = open_mix(mix_path), config_of()
    pictures = open_pictures(mix, open_frames(mix), config)
    assert pictures is not None
    names = [one.told.partition(" · ")[0] for one in pictures.shown]
    assert sorted(names) == ["megadepth", "megascenes", "realestate10k"]
    assert {one.squares.shape for one in pictures.shown} == {(4, SIZE, SIZE, 3)}
    _, pixels = pictures.draw(build_model(config), RUNTIME, tmp_path / "run", 1)
    assert pixels.std() > 20
