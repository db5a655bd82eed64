"""The cross-view gain: which patches it splits, what it compares, and its figures."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from mumdata.catalog import Mix, MixDataset, build, open_mix, write
from mumdata.correspondences_file import correspondences_path
from mumdata.errors import CatalogError, ConfigError, MumError
from mumdata.roots import remember_root
from mumdata.schema import CORRESPONDENCES
from mumdata.tables import render
from mumtrain.checkpoint import save_checkpoint
from mumtrain.config import Config, apply
from mumtrain.cross_view.held_out import Matches, open_held_out
from mumtrain.cross_view.interval import gain_interval
from mumtrain.cross_view.measure import Part, Probe, Row, open_probe
from mumtrain.cross_view.patches import BANDS, Crop, find_points, overlap_bands, split_patches
from mumtrain.cross_view.report import summarise
from mumtrain.cross_view.views import SampleViews, read_square_view
from mumtrain.masks.draw import Masks, draw_masks, masks_of
from mumtrain.model.autoencoder import MaskedAutoencoder, Prediction, build_model
from mumtrain.model.pixels import normalise, patchify
from mumtrain.optim import build_optimizer
from mumtrain.reading.frames import FrameTable
from mumtrain.recipes import recipe
from mumtrain.runtime import Runtime

CPU = Runtime(torch.device("cpu"), bf16=False)
DIGEST = "d" * 64
SIZE, PATCH = 32, 4
SIDE = SIZE // PATCH

THIN = [
    f"model.patch={PATCH}",
    f"data.size={SIZE}",
    "data.frames_per_slot=16",
    "data.views_min=1",
    "data.views_max=4",
    "model.encoder.width=16",
    "model.encoder.depth=2",
    "model.encoder.heads=2",
    "model.decoder.width=16",
    "model.decoder.depth=2",
    "model.decoder.heads=2",
]


def thin(*sets: str, of: str = "debug-cpu") -> Config:
    return apply(recipe(of), [*THIN, *sets])


# ---- a world of known geometry: views are windows of one random texture, moved by whole patches


class World:
    """Scenes of windows of random textures; windows of scene s, view v begin at `corners[s][v]`, in patches."""

    def __init__(self, folder: Path, corners: Sequence[Sequence[tuple[int, int]]], datasets: Sequence[str]) -> None:
        self.folder, self.corners = folder, corners
        self.pictures: list[list[np.ndarray]] = []
        rows: list[dict[str, Any]] = []
        tables: dict[str, list[str]] = {name: [] for name in dict.fromkeys(datasets)}
        for scene, (of_scene, dataset) in enumerate(zip(corners, datasets, strict=True)):
            texture = np.random.default_rng(scene).integers(0, 256, (40 * PATCH, 40 * PATCH, 3), np.uint8)
            pictures, ids = [], []
            for view, (x, y) in enumerate(of_scene):
                window = texture[y * PATCH :, x * PATCH :][:SIZE, :SIZE]
                path = f"{scene}-{view}.png"
                ids.append(len(tables[dataset]))
                tables[dataset].append(path)
                assert cv2.imwrite(str(folder / path), window[..., ::-1])
                pictures.append(window)
            self.pictures.append(pictures)
            for a, b in itertools.permutations(range(len(of_scene)), 2):
                rows.append(self._row(scene, dataset, a, b, ids))
        self.frames = [frame_table(name, folder, paths) for name, paths in tables.items()]
        self.rows = rows
        self.mix = a_mix(folder, list(tables))

    def _row(self, scene: int, dataset: str, a: int, b: int, ids: list[int]) -> dict[str, Any]:
        (xa, ya), (xb, yb) = self.corners[scene][a], self.corners[scene][b]
        # the middle of each patch of a, in patches
        x, y = (values.ravel() + 0.5 for values in np.meshgrid(np.arange(SIDE), np.arange(SIDE)))
        x_b, y_b = x + xa - xb, y + ya - yb
        seen = (x_b > 0) & (x_b < SIDE) & (y_b > 0) & (y_b < SIDE)
        places = [np.round(np.clip(v / SIDE, 0, 1) * 65535).astype(np.uint16) for v in (x, y, x_b, y_b)]
        return {
            **{"dataset": dataset, "split": None, "scene": f"s{scene}", "sample": scene, "sequence": scene},
            **{"view_a": a, "view_b": b, "frame_a": ids[a], "frame_b": ids[b]},
            **dict(zip(("x_a", "y_a", "x_b", "y_b"), places, strict=True)),
            **{"seen": seen.astype(np.int8), "source": "depth"},
        }

    def write(self, rows: list[dict[str, Any]] | None = None, mix: str = DIGEST) -> None:
        write_rows(correspondences_path(self.mix.path), self.rows if rows is None else rows, mix)

    def probe(self, config: Config) -> Probe:
        probe = open_probe(self.mix, self.frames, config)
        assert probe is not None
        return probe


def write_rows(path: Path, rows: list[dict[str, Any]], mix: str) -> None:
    table = build(CORRESPONDENCES, {name: [row[name] for row in rows] for name in rows[0]})
    write(CORRESPONDENCES, table, path, inputs={"mix": mix})


def frame_table(name: str, root: Path, paths: Sequence[str], turns: int = 0) -> FrameTable:
    num = len(paths)
    none = [None] * num
    columns = {
        **{"path": pa.array(paths, pa.string()), "archive": pa.array(none, pa.string())},
        **{"codec": pa.array(none, pa.string()), "offset": pa.array(none, pa.int64())},
        **{"bytes": pa.array(none, pa.int64()), "width": pa.array(none, pa.int32())},
        **{"height": pa.array(none, pa.int32()), "upright_quarter_turns": pa.array([turns] * num, pa.int8())},
    }
    return FrameTable(name, root, pa.table(columns))


def a_mix(folder: Path, names: Sequence[str], single_view: bool = False) -> Mix:
    def dataset(name: str) -> MixDataset:
        some = {"weight": 1.0, "single_view": single_view, "min_frames": 2, "holdout": 0.1, "num_sequences": 1}
        files = {"catalog": folder, "frames": folder, "frames_digest": "", "sequences": folder, "sequences_digest": ""}
        return MixDataset(
            name=name, num_frames=1, licence="", covisibility=None, covisibility_digest=None, **some, **files
        )

    return Mix(folder / "mix.parquet", DIGEST, tuple(map(dataset, names)))


# two scenes whose views overlap by half and more, one whose views hardly do, one with nothing in common, one of two
CORNERS = [
    [(10, 10), (14, 10), (10, 13), (13, 13)],
    [(4, 4), (5, 5), (7, 3), (2, 4)],
    [(0, 0), (7, 7), (14, 0), (3, 4)],
    [(0, 0), (10, 10), (20, 0), (0, 20)],
    [(3, 3), (5, 3)],
]
DATASETS = ["one", "one", "two", "two", "one"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("scenes"), CORNERS, DATASETS)
    world.write()
    return world


class Fake(nn.Module):
    """What the measurement asks of a model; `guess` fills the hidden patches from what is given."""

    patch_errors = MaskedAutoencoder.patch_errors

    def __init__(self, drops: bool = True) -> None:
        super().__init__()
        self.patch, self.pixels, self.target, self.drops = PATCH, "half", "raw", drops
        self.calls: list[tuple[np.ndarray, np.ndarray]] = []

    def guess(self, patches: torch.Tensor, is_hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(patches)

    def predict(self, patches: torch.Tensor, grid: tuple[int, int], masks: Masks) -> Prediction:
        assert torch.is_inference_mode_enabled()
        assert not self.training
        assert grid == (SIDE, SIDE)
        assert (masks.groups is None) == (not self.drops)
        self.calls.append((patches.numpy().copy(), masks.is_hidden_BVN.numpy().copy()))
        values = self.guess(patches, masks.is_hidden_BVN)
        if masks.hidden_BH is None:
            return Prediction(values.flatten(1, 2), None)
        at = masks.hidden_BH[..., None].expand(-1, -1, values.shape[-1])
        return Prediction(values.flatten(1, 2).gather(1, at), None)


class Oracle(Fake):
    """Copies a hidden patch from another view that shows the very same in a kept patch; else it guesses grey."""

    def guess(self, patches: torch.Tensor, is_hidden: torch.Tensor) -> torch.Tensor:
        guessed = torch.zeros_like(patches)
        for b, v in itertools.product(*map(range, patches.shape[:2])):
            for u in range(patches.shape[1]):
                same = (patches[b, v][:, None] == patches[b, u][None]).all(-1) & ~is_hidden[b, u]
                if u != v:
                    guessed[b, v][same.any(1)] = patches[b, v][same.any(1)]
        return guessed


class Blind(Fake):
    """Guesses the mean of the same view's kept patches."""

    def guess(self, patches: torch.Tensor, is_hidden: torch.Tensor) -> torch.Tensor:
        kept = (~is_hidden)[..., None]
        return ((patches * kept).sum(2, keepdim=True) / kept.sum(2, keepdim=True)).expand_as(patches)


def truth(world: World, probe: Probe, V: int) -> dict[tuple[int, str], float]:
    """By (sample, kind): number and mean square of the patches, from the corners alone."""
    found: dict[tuple[int, str], list[float]] = {}
    for sample in probe._held_out.samples:
        corners = world.corners[sample.number]
        if len(corners) < V:
            continue
        hidden = probe.hidden(sample, V)
        for v, n in itertools.product(range(V), range(SIDE * SIDE)):
            if not hidden[v, n]:
                continue
            x, y = n % SIDE + corners[v][0], n // SIDE + corners[v][1]
            inside = kept = False
            for u in range(V):
                column, row = x - corners[u][0], y - corners[u][1]
                if u != v and 0 <= column < SIDE and 0 <= row < SIDE:
                    inside = True
                    kept |= not hidden[u, row * SIDE + column]
            pixels = world.pictures[sample.number][v].astype(np.float64)
            part = pixels[n // SIDE * PATCH :, n % SIDE * PATCH :][:PATCH, :PATCH]
            square = float((((part / 255 - 0.5) / 0.5) ** 2).mean())
            if kept or not inside:
                found.setdefault((sample.number, "a" if kept else "b"), []).append(square)
    return found


# ---- the split


def reference_split(
    matches: Matches, crops: list[Crop], side: int, hidden: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """The definitions, point by point."""
    V, N = hidden.shape

    def patch(view: int, x: int, y: int) -> int | None:
        crop = crops[view]
        u, v = (x / 65535 - crop.left) / crop.width, (y / 65535 - crop.top) / crop.height
        if not (0 <= u < 1 and 0 <= v < 1):
            return None
        for _ in range(crop.turns):
            u, v = 1 - v, u
        return min(int(v * side), side - 1) * side + min(int(u * side), side - 1)

    points: dict[tuple[int, int, int], dict[int, tuple[int, int | None]]] = {}
    for a, b, x_a, y_a, x_b, y_b, seen in zip(*(values.tolist() for values in matches), strict=True):
        if a >= len(crops) or patch(a, x_a, y_a) is None:
            continue
        told = points.setdefault((a, x_a, y_a), {})
        if b < V:
            there = patch(b, x_b, y_b) if seen == 1 else None
            told[b] = (0 if seen == 1 and there is None else seen, there)
    is_a, is_b = np.zeros((V, N), bool), np.zeros((V, N), bool)
    bands = []
    for a in range(V):
        mine = {place: told for place, told in points.items() if place[0] == a}
        shares = [
            sum(told.get(b, (-1, None))[0] == 1 for told in mine.values()) / max(len(mine), 1)
            for b in range(V)
            if b != a
        ]
        share = sum(shares) / len(shares)
        bands.append(sum(share >= edge - 1e-12 for edge in (0.1, 0.3, 0.5)))
        for n in np.flatnonzero(hidden[a]):
            here = [told for place, told in mine.items() if patch(*place) == n]
            known = [told for told in here if any(seen != -1 for seen, _ in told.values())]
            shown = [t for t in known if any(s == 1 and not hidden[b, p] for b, (s, p) in t.items())]
            is_a[a, n] = bool(known) and len(shown) >= len(known) / 2
            is_b[a, n] = bool(here) and all(
                told.get(b, (-1, None))[0] == 0 for told in here for b in range(V) if b != a
            )
    return is_a, is_b, bands


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 4), st.integers(2, 5), st.integers(1, 3))
def test_the_split_is_that_of_its_definition(seed: int, num_views: int, side: int, coarse: int) -> None:
    generator = np.random.default_rng(seed)
    num = int(generator.integers(0, 60))
    total = num_views + int(generator.integers(0, 2))  # views that the file knows and the model does not see
    view_a = generator.integers(0, total, num)
    view_b = (view_a + generator.integers(1, total, num)) % total
    # coarse places, so that points of several rows are at the same place
    places = generator.integers(0, 4 * coarse + 1, (4, num)) * (65535 // (4 * coarse))
    seen = generator.choice([-1, 0, 1], num, p=[0.2, 0.4, 0.4])
    keys = list(zip(view_a, view_b, places[0], places[1], strict=True))
    once = np.array([keys.index(key) == at for at, key in enumerate(keys)], bool)
    matches = Matches(*(np.asarray(v)[once] for v in (view_a, view_b, *places.astype(np.uint16), seen)))
    crops = [
        Crop(*generator.uniform(0, 0.3, 2), *generator.uniform(0.4, 0.7, 2), int(generator.integers(0, 4)))
        for _ in range(total - int(generator.integers(0, total - num_views + 1)))
    ]
    hidden = generator.random((num_views, side * side)) < 0.6
    points = find_points(matches, crops, side)
    found = split_patches(points, hidden)
    is_a, is_b, bands = reference_split(matches, crops, side, hidden)
    np.testing.assert_array_equal(found.elsewhere, is_a)
    np.testing.assert_array_equal(found.nowhere, is_b)
    assert not (found.elsewhere & found.nowhere).any()
    assert overlap_bands(points, num_views).tolist() == bands


def test_half_of_the_known_points_and_surely_unseen() -> None:
    """One patch each, by hand: of its points some are seen in a kept patch (k), a hidden one (h), unseen (0) or
    unknown (-)."""
    crop = Crop(0, 0, 1, 1, 0)
    hidden = np.array([[True, True], [True, False]])  # two views of 1 x 2 patches would be enough; a grid is square
    hidden = np.array([[True] * 4, [True, False, True, True]])

    def kinds(points: str) -> str:
        x = {"k": 60000, "h": 100, "0": 0, "-": 0}
        num = len(points)
        there = np.array([x[p] for p in points], np.uint16)
        seen = np.array([{"k": 1, "h": 1, "0": 0, "-": -1}[p] for p in points], np.int8)
        here = np.arange(num, dtype=np.uint16)  # all in the first patch
        low = np.zeros(num, np.uint16)
        zeros = np.zeros(num, np.int16)
        found = split_patches(
            find_points(Matches(zeros, zeros + 1, here, low, there, low, seen), [crop] * 2, 2), hidden
        )
        assert not found.elsewhere[:, 1:].any()
        assert not found.nowhere[:, 1:].any()
        return ("a" if found.elsewhere[0, 0] else "") + ("b" if found.nowhere[0, 0] else "")

    wanted = {"k": "a", "h": "", "0": "b", "-": "", "": "", "kh": "a", "khh": "", "k0": "a", "k00": "", "k-": "a"}
    wanted |= {"k---": "a", "k0--": "a", "00": "b", "0-": "", "0h": "", "kkhh-": "a", "khh-": ""}
    assert {points: kinds(points) for points in wanted} == wanted


def test_bands_of_overlap_begin_at_their_lower_edge() -> None:
    """Ten points of view 0, of which some are seen in view 1 and some in view 2: the mean share over both."""
    num, crop = 10, Crop(0, 0, 1, 1, 0)
    x = np.arange(num, dtype=np.uint16) * 6000
    for seen, band in {(0, 0): 0, (1, 0): 0, (1, 1): 1, (2, 0): 1, (2, 3): 1, (3, 3): 2, (4, 5): 2, (5, 5): 3}.items():
        views = [np.repeat(np.array(v, np.int16), num) for v in ((0, 0), (1, 2))]
        told = np.concatenate([np.where(np.arange(num) < s, 1, np.arange(num) % 2 - 1) for s in seen])
        places = [np.tile(x, 2)] * 4
        points = find_points(Matches(*views, *places, told.astype(np.int8)), [crop] * 3, 4)
        assert overlap_bands(points, 3).tolist() == [band, 0, 0]


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (203, 131)])
def test_points_lie_where_the_view_shows_them(turns: int, width: int, height: int) -> None:
    """A picture with one bright block: its view is bright in the very patch that its middle is found in."""
    size, side = 64, 8
    for at in ((width // 2 - 9, height // 2 + 21), (width // 2 + 23, height // 2 - 14)):
        picture = np.zeros((height, width, 3), np.uint8)
        picture[at[1] - 2 : at[1] + 3, at[0] - 2 : at[0] + 3] = 255
        done, data = cv2.imencode(".png", picture)
        assert done
        view, crop = read_square_view(data.tobytes(), turns, size)
        assert view.shape == (size, size, 3)
        place = [
            np.array([round((v + 0.5) / of * 65535)], np.uint16) for v, of in zip(at, (width, height), strict=True)
        ]
        zero, one = np.zeros(1, np.int16), np.ones(1, np.int16)
        points = find_points(Matches(zero, one, *place, *place, one), [crop] * 2, side)
        # the bright pixels' middle
        y, x = (values.mean() for values in np.nonzero(view[..., 0] > 100))
        assert points.patch.tolist() == [int(y + 0.5) * side // size * side + int(x + 0.5) * side // size]
        assert points.patch_in[:, 1].tolist() == points.patch.tolist()
    outside = Matches(zero, one, *(np.array([v], np.uint16) for v in (5, 5, 5, 5)), one)
    assert len(find_points(outside, [crop] * 2, side).view) == 0
    # a point in the middle of a is seen in frame b, but not in what view b shows of it
    middle = Matches(zero, one, *(np.array([v], np.uint16) for v in (32768, 32768, 5, 5)), one)
    assert find_points(middle, [crop] * 2, side).seen.tolist() == [[-1, 0]]


def test_views_are_the_centred_squares_of_training(tmp_path: Path) -> None:
    """A plain view of a frame without turns, and the same turned upright."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    done, data = cv2.imencode(".png", picture[..., ::-1])
    assert done
    for turns in range(4):
        view, crop = read_square_view(data.tobytes(), turns, 40)
        np.testing.assert_array_equal(view, np.rot90(picture[:, 12:52], -turns))
        assert crop == Crop(12 / 64, 0, 40 / 64, 1, turns)


# ---- the figures, where they are known


def test_an_oracle_gains_all_and_only_where_others_see(scenes: World) -> None:
    config = thin()
    probe = scenes.probe(config)
    assert probe.views == (2, 4)
    part = probe.measure(Oracle(), CPU)
    report = summarise([part])
    for V in (2, 4):
        known = truth(scenes, probe, V)
        total = next(c for c in report.cells if c.views == V and c.dataset is None and c.band is None)
        of_a = [square for (_, kind), squares in known.items() if kind == "a" for square in squares]
        of_b = [square for (_, kind), squares in known.items() if kind == "b" for square in squares]
        assert (total.patches_a, total.patches_b) == (len(of_a), len(of_b))
        assert total.g_a == pytest.approx(np.mean(of_a), rel=1e-6)
        assert total.g_b == 0
        assert total.gain == pytest.approx(np.mean(of_a), rel=1e-6)
        assert total.f_a is not None
        assert total.f_a > 0.2
        assert total.f_b == 0
        assert total.low is not None
        assert 0.1 < total.low <= total.gain <= total.high
        assert total.scenes_a == len({sample for sample, kind in known if kind == "a"})
        assert total.scenes == len({sample for sample, _ in known}) == (5 if V == 2 else 4)
        # sums of datasets and of bands are those of the total
        for parts in ([c for c in report.cells if c.views == V and c.dataset], [c for c in report.cells if c.band]):
            mine = [c for c in parts if c.views == V]
            assert sum(c.patches_a for c in mine) == total.patches_a
            assert sum(c.patches_b for c in mine) == total.patches_b
    # samples without anything in common have their place in the lowest band alone
    assert {row.band for row in part.rows if row.sample == 3} == {0}
    headline = report.headline
    assert headline is not None
    assert report.numbers() == {
        f"gain/{key}": value for key, value in headline._asdict().items() if key not in ("views", "scenes")
    }
    assert headline.gain == next(c.gain for c in report.cells if c.views == 4 and c.dataset is c.band is None)


@pytest.mark.parametrize("drops", [True, False])
def test_a_blind_model_gains_nothing(scenes: World, drops: bool) -> None:
    report = summarise([scenes.probe(thin()).measure(Blind(drops), CPU)])
    for cell in report.cells:
        for figure in (cell.gain, cell.g_a, cell.g_b, cell.f_a, cell.f_b):
            assert figure is None or abs(figure) < 1e-6
    assert report.headline is not None


def test_a_frame_wise_model_gains_nothing_and_is_told_so(scenes: World) -> None:
    config = thin("model.decoder_attention=frame")
    model = build_model(config).train()
    report = summarise([scenes.probe(config).measure(model, CPU)])
    assert model.training
    assert report.headline is not None
    assert abs(report.headline.gain) < 1e-5
    assert any("each view by itself" in note for note in report.notes)


@pytest.mark.parametrize(("depth", "is_blind"), [(1, True), (2, False)])
def test_an_alternating_decoder_of_one_block_sees_no_other_views(scenes: World, depth: int, is_blind: bool) -> None:
    config = thin(f"model.decoder.depth={depth}", "model.decoder_attention=alternating")
    report = summarise([scenes.probe(config).measure(build_model(config), CPU)])
    assert report.headline is not None
    assert (abs(report.headline.gain) < 1e-5) == is_blind
    assert any("each view by itself" in note for note in report.notes) == is_blind


def test_the_three_ways_have_the_same_masks_and_foreign_views_are_of_another_scene(scenes: World) -> None:
    config = thin("mask.ratio=0.5")
    probe, model = scenes.probe(config), Fake()
    probe.measure(model, CPU)
    views = {}
    for scene, pictures in enumerate(scenes.pictures):
        for view, picture in enumerate(pictures):
            pixels = torch.from_numpy(picture.transpose(2, 0, 1).copy())[None, None]
            views[patchify(normalise(pixels, "half"), PATCH).numpy().tobytes()] = (scene, view)
    seen: dict[int, set[Any]] = {1: set()}
    for patches, hidden in model.calls:
        B, V = hidden.shape[:2]
        num_frames = B * V
        assert num_frames <= config.data.frames_per_slot
        for b in range(B):
            told = tuple((*views[patches[b, v].tobytes()], hidden[b, v].tobytes()) for v in range(V))
            seen.setdefault(V, set()).add(told)
    assert seen.keys() == {1, 2, 4}
    own: dict[int, list[Any]] = {}
    for V in (2, 4):
        own[V] = [told for told in seen[V] if len({scene for scene, _, _ in told}) == 1]
        foreign = [told for told in seen[V] if told not in own[V]]
        long = {scene for scene, pictures in enumerate(scenes.pictures) if len(pictures) >= V}
        assert {told[0][0] for told in own[V]} == {told[0][0] for told in foreign} == long
        assert len(foreign) == len(own[V]) == len(long)
        for told in [*own[V], *foreign]:
            assert [view for _, view, _ in told] == list(range(V))
        for told in foreign:
            target, others = told[0], told[1:]
            assert {scene for scene, _, _ in others} == {others[0][0]} != {target[0]}
            # another scene of the same dataset, as there is one; with its own masks
            assert DATASETS[others[0][0]] == DATASETS[target[0]]
            assert any(mine[0] == target for mine in own[V])
            assert any(mine[1:] == others for mine in own[V])
    # each view alone once, with the masks that it has among others; sets of views and masks are nested
    assert {told[0] for told in seen[1]} == {view for V in (2, 4) for told in own[V] for view in told}
    assert all(any(told[:2] == short for told in own[4]) for short in own[2] if short[0][0] != 4)


def test_foreign_views_are_of_the_next_other_scene_of_the_dataset_that_is_long_enough(tmp_path: Path) -> None:
    world = World(tmp_path, CORNERS, DATASETS)
    world.write([{**row, "scene": "s0" if row["sample"] == 1 else row["scene"]} for row in world.rows])
    probe = world.probe(thin())
    samples = probe._held_out.samples

    def others(V: int) -> list[int | None]:
        found = [probe.other_scene(sample, V) for sample in samples]
        return [None if one is None else one.number for one in found]

    # 0 and 1 are of one scene, 4 has two views, 2 and 3 are of another dataset
    assert others(2) == [4, 4, 3, 2, 0]
    assert others(4) == [2, 2, 3, 2, 0]
    (tmp_path / "0-1.png").unlink()
    probe = world.probe(thin())
    other = probe.other_scene(probe._held_out.samples[4], 2)
    assert other is not None
    assert other.number == 1


def test_one_scene_has_no_foreign_views_and_no_interval(tmp_path: Path) -> None:
    world = World(tmp_path, CORNERS[:1], ["one"])
    world.write()
    report = summarise([world.probe(thin()).measure(Oracle(), CPU)])
    total = report.cells[0]
    assert total.gain is not None
    assert (total.low, total.high, total.f_a, total.f_b) == (None,) * 4
    assert (total.scenes, total.foreign_patches_a, total.foreign_scenes_a) == (1, 0, 0)
    json.dumps(report.to_dict(), allow_nan=False)


# ---- the interval


def plain_interval(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The definition, scene by scene, for any number of kinds up to two."""

    def estimate(scenes: list[int]) -> float:
        kinds = [sum(sums[s, k] for s in scenes) / sum(counts[s, k] for s in scenes) for k in range(sums.shape[1])]
        return kinds[0] - sum(kinds[1:])

    scenes = [s for s in range(len(sums)) if counts[s].any()]
    without = [estimate([s for s in scenes if s != one]) for one in scenes]
    mean = sum(without) / len(without)
    error = ((len(scenes) - 1) / len(scenes) * sum((one - mean) ** 2 for one in without)) ** 0.5
    quantile = stats.t.ppf(0.975, min(np.count_nonzero(counts[:, k]) for k in range(sums.shape[1])) - 1)
    return estimate(scenes) - quantile * error, estimate(scenes) + quantile * error


@pytest.mark.parametrize("kinds", [1, 2])
def test_the_interval_is_a_jackknife_over_scenes(kinds: int) -> None:
    generator = np.random.default_rng(1)
    for num in (2, 3, 9):
        counts = generator.integers(1, 30, (num, kinds)).astype(float)
        if num == 9:
            counts[2, 0], counts[3, -1], counts[4] = 0, 0, 0
        sums = generator.normal(0.1, 0.05, counts.shape) * counts
        found = gain_interval(sums, counts)
        assert found == pytest.approx(plain_interval(sums, counts), rel=1e-9)
        order = generator.permutation(num)
        assert gain_interval(sums[order], counts[order]) == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("num", [3, 6, 13])
def test_the_interval_covers_what_it_should(num: int) -> None:
    """Of many worlds of few scenes, the interval holds the true difference in about 95 of 100."""
    generator, inside, worlds = np.random.default_rng(3), 0, 2000
    for _ in range(worlds):
        counts = generator.integers(20, 60, (num, 2)).astype(float)
        means = generator.normal((0.3, 0.1), 0.1, (num, 2))
        low, high = gain_interval(means * counts, counts) or (0, 0)
        inside += low <= 0.2 <= high
    assert 0.92 < inside / worlds < 0.98


def test_too_few_scenes_have_no_interval() -> None:
    assert gain_interval(np.ones((1, 2)), np.ones((1, 2))) is None
    assert gain_interval(np.ones((3, 2)), np.array([[1, 1], [1, 0], [1, 0]], float)) is None
    assert gain_interval(np.zeros((0, 2)), np.zeros((0, 2))) is None
    assert gain_interval(np.full((3, 2), np.nan), np.ones((3, 2))) is None
    assert gain_interval(np.ones((2, 2)), np.ones((2, 2))) == (0, 0)


# ---- ranks, batches, models

MODELS = {
    "mum": thin(),
    "mae": thin("model.decoder_attention=frame", "model.positions=absolute", "data.views_max=1"),
    "references": thin("mask.references=1:2"),
    "ratios": thin("mask.view_ratios=0.9,0.5"),
    "kinds": thin("mask.kind=random:0.6,blob:0.8"),
    "muskie": thin(
        *("model.decoder_attention=none", "model.encoder_attention=alternating", "model.hidden_tokens=replaced"),
        *("mask.kind=random:0.9,rectangle,ellipse", "mask.references=V/4:V/2", "model.positions=integer"),
        *("model.confidence=true", "model.target=raw", "model.registers=4", "model.class_token=false"),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_neither_ranks_nor_batches_change_the_figures(scenes: World, name: str) -> None:
    config = MODELS[name]
    model = build_model(config)
    if config.model.confidence:  # at first it would be 1/2 everywhere
        nn.init.normal_(model.decoder.head.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    probe = scenes.probe(config)
    whole = summarise([probe.measure(model, CPU)])
    assert probe.views == ((2,) if name == "mae" else (2, 4))
    assert whole.headline is not None
    figures = whole.to_frame()
    for ranks in (2, 7):
        parts = [scenes.probe(config).measure(model, CPU, rank, ranks) for rank in range(ranks)]
        parts = pickle.loads(pickle.dumps(parts))  # noqa: S301
        other = summarise(parts[::-1]).to_frame()
        np.testing.assert_allclose(numbers(other), numbers(figures), atol=2e-6)
    small = apply(config, ["data.frames_per_slot=4"])
    other = summarise([scenes.probe(small).measure(model, CPU)]).to_frame()
    np.testing.assert_allclose(numbers(other), numbers(figures), atol=2e-6)


def numbers(frame: Any) -> np.ndarray:
    return frame.drop(columns=["dataset", "band"]).astype(float).to_numpy()


@pytest.mark.parametrize("name", MODELS)
def test_errors_are_those_of_each_sequence_by_itself(scenes: World, name: str) -> None:
    """Sums of a sample, from the model's own forward pass over its views, patch by patch."""
    config = MODELS[name]
    model = build_model(config).eval()
    probe = scenes.probe(config)
    sample, V = probe._held_out.samples[1], 2
    hidden = probe.hidden(sample, V)
    pixels = torch.from_numpy(np.stack(scenes.pictures[1][:V]).transpose(0, 3, 1, 2).copy())
    split = split_patches(probe.points(sample), hidden)
    rows = [row for row in probe.measure(model, CPU).rows if row.sample == 1 and row.views == V]
    patches = patchify(normalise(pixels[None], model.pixels), PATCH)

    def error(which: slice) -> np.ndarray:
        is_hidden = torch.from_numpy(hidden)[None, which]
        masks = masks_of(is_hidden) if model.drops else Masks(is_hidden, None, None)
        values = model.predict(patches[:, which], (SIDE, SIDE), masks).values.detach()
        full = torch.zeros_like(patches[:, which]).flatten(1, 2)
        full = values if masks.hidden_BH is None else full.index_put((torch.tensor(0), masks.hidden_BH[0]), values[0])
        true = patches[:, which].flatten(1, 2)
        if model.target == "normalised":
            true = (true - true.mean(-1, keepdim=True)) / (true.var(-1, keepdim=True) + 1e-6).sqrt()
        return ((full - true) ** 2).mean(-1).numpy().reshape(-1, SIDE * SIDE)

    together = error(slice(0, V))
    apart = np.concatenate([error(slice(v, v + 1)) if hidden[v].any() else np.zeros((1, SIDE**2)) for v in range(V)])
    for kind, chosen in zip("ab", split, strict=True):
        mine = [row for row in rows if row.kind == kind]
        assert sum(row.num for row in mine) == chosen.sum()
        assert sum(row.with_others for row in mine) == pytest.approx(together[chosen].sum(), abs=1e-4)
        assert sum(row.without for row in mine) == pytest.approx(apart[chosen].sum(), abs=1e-4)
    assert any(row.num for row in rows)


@pytest.mark.parametrize("mask", ["random", "blob"])
@pytest.mark.parametrize("sets", [[], ["mask.references=2"], ["mask.view_ratios=0.9,0.5,0.5,0.75"]])
def test_masks_of_given_patches_are_those_drawn(mask: str, sets: list[str]) -> None:
    config = thin(*sets) if sets else thin(f"mask.kind={mask}")
    drawn = draw_masks(config.mask, 3, 4, (SIDE, SIDE), seed=1, step=2, slot=3)
    made = masks_of(drawn.is_hidden_BVN)
    assert drawn.hidden_BH is not None
    assert drawn.groups is not None
    assert made.hidden_BH is not None
    assert made.groups is not None
    torch.testing.assert_close(made.hidden_BH, drawn.hidden_BH)
    for one, other in zip(made.groups, drawn.groups, strict=True):
        torch.testing.assert_close(one.views_BG, other.views_BG)
        torch.testing.assert_close(one.kept_BGK, other.kept_BGK)
    uneven = drawn.is_hidden_BVN.clone()
    uneven[0, 0, 0] ^= True
    with pytest.raises(ValueError, match="different numbers"):
        masks_of(uneven)


def test_pairs_are_told_to_be_unsuitable(scenes: World) -> None:
    config = thin(
        *("model.decoder_attention=cross", "data.views_min=2", "data.views_max=2", "mask.view_ratios=0.9,0"),
        "model.class_token=false",
    )
    report = summarise([scenes.probe(config).measure(build_model(config), CPU)])
    assert report.headline is None
    assert report.reason is not None
    assert "pair" in report.reason
    assert "pair" in next(iter(report.tables()))[0][0]
    assert report.to_dict()["headline"] is None
    assert len(report.to_frame()) == 0


def test_a_run_without_single_views_is_told(scenes: World) -> None:
    config = thin("data.views_min=2")
    told = "trains on no single views"
    assert any(told in note for note in scenes.probe(config).measure(Fake(), CPU).notes)
    assert not any(told in note for note in scenes.probe(thin()).measure(Fake(), CPU).notes)
    singles = a_mix(scenes.folder, ["one", "two"], single_view=True)
    probe = open_probe(singles, scenes.frames, config)
    assert probe is not None
    assert not any(told in note for note in probe.measure(Fake(), CPU).notes)


def test_errors_that_are_no_numbers_are_said(scenes: World) -> None:
    class Lost(Fake):
        def guess(self, patches: torch.Tensor, is_hidden: torch.Tensor) -> torch.Tensor:
            return torch.full_like(patches, float("nan"))

    report = summarise([scenes.probe(thin()).measure(Lost(), CPU)])
    assert report.headline is None
    assert any("no finite" in note for note in report.notes)
    json.dumps(report.to_dict(), allow_nan=False)


# ---- files


def test_broken_images_leave_their_sample_out_and_are_told(tmp_path: Path) -> None:
    world = World(tmp_path, CORNERS, DATASETS)
    world.write()
    (tmp_path / "1-2.png").write_bytes(b"no image")
    (tmp_path / "3-3.png").unlink()
    config = thin()
    model = Oracle()
    whole = summarise([world.probe(config).measure(model, CPU)])
    assert whole.num_samples == 3
    assert len(whole.unreadable) == 2
    assert "1-2.png" in whole.unreadable[0]
    assert "no such file" in whole.unreadable[1]
    assert any("2 samples" in line for heading, _ in whole.tables() for line in heading)
    parts = [world.probe(config).measure(model, CPU, rank, 2) for rank in range(2)]
    np.testing.assert_allclose(numbers(summarise(parts).to_frame()), numbers(whole.to_frame()), atol=2e-6)


def test_views_beyond_memory_are_decoded_again(scenes: World) -> None:
    sample = open_held_out(scenes.mix, scenes.frames).samples[0]  # type: ignore[union-attr]
    kept, again = (SampleViews(scenes.frames, SIZE, 4, most_bytes=most) for most in (1 << 20, 100))
    one, other = kept.read(sample), again.read(sample)
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one[0], other[0])
    assert kept.read(sample) is one
    assert again.read(sample) is not other


def changed(rows: list[dict[str, Any]], at: int, **values: Any) -> list[dict[str, Any]]:
    return [{**row, **values} if number == at else row for number, row in enumerate(rows)]


def test_files_that_contradict_themselves_are_refused(scenes: World, tmp_path: Path) -> None:
    world = World(tmp_path, CORNERS, DATASETS)
    assert open_probe(world.mix, world.frames, thin()) is None
    world.write(mix="e" * 64)
    with pytest.raises(CatalogError, match=r"another mix.*run 'mumdata correspondences .*mix.parquet' again"):
        world.probe(thin())
    rows = world.rows
    seen = rows[0]["seen"]
    wrong = {
        "other lengths": changed(rows, 0, seen=seen[1:]),
        "values other than": changed(rows, 0, seen=np.full_like(seen, 2)),
        "several scenes": changed(rows, 0, scene="other"),
        "does not have": changed(rows, 0, dataset="other", sample=99),
        "lacks some": changed(rows, 0, view_a=9),
        "two frames": changed(rows, 0, frame_a=1, frame_b=0),
        "with itself": changed(rows, 0, view_b=0, frame_b=0),
        "twice": [*rows, rows[0]],
        "a frame that": [{**row, "frame_a": row["frame_a"] + 100, "frame_b": row["frame_b"] + 100} for row in rows],
    }
    for message, bad in wrong.items():
        world.write(bad)
        with pytest.raises(CatalogError, match=f"correspondences.parquet.*{message}"):
            world.probe(thin())


def test_rows_in_any_order_are_the_same_file(scenes: World, tmp_path: Path) -> None:
    world = World(tmp_path, CORNERS, DATASETS)
    order = np.random.default_rng(0).permutation(len(world.rows))
    world.write([world.rows[n] for n in order])
    model = Oracle()
    one, other = (summarise([w.probe(thin()).measure(model, CPU)]) for w in (scenes, world))
    assert one == other


# ---- the report


def row(**values: Any) -> Row:
    plain = {"views": 2, "dataset": "d", "split": None, "scene": "s", "sample": 0, "band": 0, "kind": "a", "num": 2}
    sums = {"without": 2.0, "with_others": 1.0, "first_num": 1, "first_with": 0.5, "first_foreign": 1.5}
    return Row(**{**plain, **sums, **values})


def test_figures_are_ratios_of_sums_and_scenes_are_counted_once() -> None:
    rows = (
        row(),
        row(scene="t", sample=1, num=6, without=3.0, with_others=2.0),
        row(scene="t", sample=2, kind="b", num=4, without=5.0, with_others=4.0, first_num=0),
        row(scene="s", split="test", sample=3, kind="b", num=1, without=0.5, with_others=0.0, band=3),
    )
    report = summarise([Part(rows[2:], ("n",), (), 2), Part(rows[:2], ("n",), ("x",), 2)])
    total = report.cells[0]
    assert (total.patches_a, total.patches_b, total.scenes, total.scenes_a, total.scenes_b) == (8, 5, 3, 2, 2)
    assert total.g_a == 2 / 8
    assert total.g_b == 1.5 / 5
    assert total.gain == 2 / 8 - 1.5 / 5
    assert total.f_a == 1
    assert (total.foreign_patches_a, total.foreign_patches_b) == (2, 1)
    assert [cell.band for cell in report.cells[1:5]] == list(BANDS)
    assert report.cells[3].gain is None
    assert report.cells[4].g_b == 0.5
    assert (report.notes, report.num_samples, report.unreadable) == (("n",), 4, ("x",))
    assert report.numbers() == {"gain/gain": total.gain, "gain/g_a": 0.25, "gain/g_b": 0.3} | (
        {} if total.low is None else {"gain/low": total.low, "gain/high": total.high}
    )  # no sample has both kinds
    assert report.headline is not None
    assert (report.headline.views, report.headline.scenes, report.headline.within) == (2, (2, 2), None)
    nothing = summarise([])
    assert (nothing.headline, nothing.numbers()) == (None, {})
    assert "no hidden patch" in next(iter(nothing.tables()))[0][0]
    assert json.loads(json.dumps(report.to_dict()))["headline"]["gain"] == total.gain
    assert list(report.to_frame()["views"]) == [2] * 6
    headings = [heading[0] for heading, _ in report.tables()]
    assert [heading.split(",")[0] for heading in headings] == [
        *(
            "Cross-view gain on 4 held-out samples",
            "Within samples: a minus b of the same sample",
            "F: error with views of another scene",
        ),
        *("At 2 views", "At 2 views", "Notes"),
    ]


def test_within_samples_what_differs_between_them_does_not_count() -> None:
    """Samples with much overlap are easy, others hard; each has a gain of its own, by hand."""
    rows = []
    # gains of a patch of kind a and b, numbers of these
    known = [(5.0, 4.9, 90, 10), (1.0, 0.7, 10, 30), (3.0, 2.8, 4, 4), (7.0, 0.0, 5, 0)]
    scenes = ["s", "t", "t", "u"]
    for sample, ((g_a, g_b, a, b), scene) in enumerate(zip(known, scenes, strict=True)):
        for kind, gain, num in (("a", g_a, a), ("b", g_b, b)):
            for band, some in enumerate((num // 2, num - num // 2)):
                if some:
                    values = {"without": gain * some + 1, "with_others": 1.0, "num": some, "band": band}
                    rows.append(row(sample=sample, scene=scene, kind=kind, **values))
    report = summarise([Part(tuple(rows), (), (), 4)])
    total = report.cells[0]
    weights = np.array([90 * 10 / 100, 10 * 30 / 40, 4 * 4 / 8])
    inside = np.array([0.1, 0.3, 0.2])
    assert total.within == pytest.approx((weights * inside).sum() / weights.sum())
    of_scenes = np.array([[weights[0]], [weights[1] + weights[2]]])
    sums = np.array([[0.1 * weights[0]], [0.3 * weights[1] + 0.2 * weights[2]]])
    assert (total.within_low, total.within_high) == pytest.approx(plain_interval(sums, of_scenes))
    assert (total.within_samples, total.within_scenes) == (3, 2)
    assert total.gain is not None
    assert total.gain > 2
    assert report.numbers()["gain/within"] == total.within
    told = list(report.tables())[1]
    assert told[0][0].startswith("Within samples")
    assert told[1] is not None
    assert float(told[1]["within"][0]) == pytest.approx(total.within, abs=1e-4)
    for heading, table in report.tables():
        lines = [*heading, *(render(table, width=80).split("\n") if table is not None else [])]
        assert max(map(len, lines)) <= 80


def test_samples_are_held_out_only_where_that_is_known() -> None:
    heading = next(iter(summarise([Part((row(),), (), (), 1)]).tables()))[0][0]
    assert heading.endswith("on 1 held-out sample")
    report = summarise([Part((row(),), (), (), 1), Part((), (), (), 1, is_held_out=False)])
    assert next(iter(report.tables()))[0][0].endswith("on 2 samples (the training mix is not known)")
    assert report.to_dict()["is_held_out"] is False


@pytest.mark.parametrize(
    ("holdout", "all_", "root", "digest", "is_refused"),
    [
        *((0.1, False, "one", "x", False), (0.2, False, "one", "x", True), (0.05, True, "one", "x", True)),
        *((0.2, True, "two", "x", False), (0.2, True, "one", "y", False)),
    ],
)
def test_frames_that_the_run_was_trained_on_are_refused(
    tmp_path: Path, holdout: float, all_: bool, root: str, digest: str, is_refused: bool
) -> None:
    """A run with a holdout of 0.1 of folder one, measured on another mix of the same or of another dataset."""
    world = World(tmp_path, CORNERS, DATASETS)

    def mix(folder: str, of: str, **values: Any) -> Mix:
        found = []
        for dataset in world.mix.datasets:
            catalog = tmp_path / "catalogs" / folder / dataset.name
            remember_root(dataset.name, catalog.parent, tmp_path / of, dataset.name)
            found.append(replace(dataset, catalog=catalog, **values))
        return replace(world.mix, datasets=tuple(found), content_digest=folder)

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    trained = mix("a", "one", frames_digest="x")
    other = mix("b", root, frames_digest=digest, holdout=holdout)
    table = build(CORRESPONDENCES, {name: [row[name] for row in world.rows] for name in world.rows[0]})
    path = correspondences_path(other.path)
    write(CORRESPONDENCES, table, path, inputs={"mix": "b"}, parameters={"all": True} if all_ else {})
    if is_refused:
        with pytest.raises(CatalogError, match="training reads, of one, two; give a mix"):
            open_probe(other, world.frames, thin(), trained_on=trained)
    else:
        assert open_probe(other, world.frames, thin(), trained_on=trained) is not None
    assert open_probe(other, world.frames, thin(), is_known=False) is not None
    if all_:
        with pytest.raises(CatalogError, match="again, without --all"):
            open_probe(other, world.frames, thin())


def test_unseen_needs_points_on_half_of_the_cells() -> None:
    """A frame of 3 x 2, its square in the middle of 2 x 2 patches; a grid of 12 x 8 puts 16 cells into each patch."""
    crop = Crop(1 / 6, 0, 2 / 3, 1, 0)
    cells = [((i + 0.5) / 12, (j + 0.5) / 8) for j in range(4) for i in range(2, 6)]
    hidden = np.ones((2, 4), bool)
    for num in range(1, 17):
        x, y = (np.round(np.array(of) * 65535).astype(np.uint16) for of in zip(*cells[:num], strict=True))
        zeros = np.zeros(num, np.int16)
        matches = Matches(zeros, zeros + 1, x, y, x, y, zeros.astype(np.int8))
        points = find_points(matches, [crop] * 2, 2, 12)
        np.testing.assert_array_equal(points.looked_for, 16)
        np.testing.assert_array_equal(np.flatnonzero(split_patches(points, hidden).nowhere), [0] if num >= 8 else [])
        tracks = find_points(matches, [crop] * 2, 2)
        assert split_patches(tracks, hidden).nowhere.sum() == 1


def test_the_grid_is_that_of_the_file_and_of_depth_alone(tmp_path: Path) -> None:
    world = World(tmp_path, CORNERS, DATASETS)
    rows = [{**row, "source": "tracks" if row["sample"] == 1 else "depth"} for row in world.rows]
    table = build(CORRESPONDENCES, {name: [row[name] for row in rows] for name in rows[0]})
    path = correspondences_path(world.mix.path)
    write(CORRESPONDENCES, table, path, inputs={"mix": DIGEST}, parameters={"grid": SIDE})
    probe = world.probe(thin())
    samples = probe._held_out.samples
    assert [sample.grid for sample in samples] == [SIDE, None, SIDE, SIDE, SIDE]
    assert (probe.points(samples[0]).looked_for == 1).all()
    assert (probe.points(samples[1]).looked_for == 0).all()
    write(CORRESPONDENCES, table, path, inputs={"mix": DIGEST}, parameters={"grid": "8"})
    with pytest.raises(CatalogError, match="its grid is '8'"):
        world.probe(thin())


# ---- the command


@pytest.fixture
def with_correspondences(mix_path: Path) -> Iterator[Path]:
    """The demo world's mix with correspondences of two scenes, made up."""
    from mumtrain.loader import open_frames

    mix = open_mix(mix_path)
    names = [table.name for table in open_frames(mix)]
    rows = []
    for sample, frame in enumerate((0, 9)):
        for a, b in ((0, 1), (1, 0)):
            x = np.linspace(1, 65534, 40).astype(np.uint16)
            rows.append(
                {
                    **{"dataset": names[0], "scene": f"s{sample}", "sample": sample, "sequence": sample},
                    **{"view_a": a, "view_b": b, "frame_a": frame + a, "frame_b": frame + b},
                    **{"x_a": x, "y_a": x[::-1], "x_b": x, "y_b": x, "seen": np.arange(40) % 3 - 1, "source": "depth"},
                }
            )
    path = correspondences_path(mix_path)
    write_rows(path, rows, mix.content_digest)
    yield mix_path
    path.unlink()


def test_the_gain_of_a_finished_run(with_correspondences: Path, tmp_path: Path) -> None:
    from mumtrain.gain import gain

    config = thin()
    model = build_model(config)
    save_checkpoint(tmp_path, 3, model, build_optimizer(model, config), config, "x", {})
    checkpoint = next((tmp_path / "checkpoints").iterdir())
    with pytest.raises(MumError, match="--mix"):
        gain(tmp_path, device="cpu")
    told = gain(tmp_path, mix=with_correspondences, device="cpu")
    assert told.num_samples == 2
    (tmp_path / "run.json").write_text(json.dumps({"mix": str(with_correspondences)}), encoding="utf-8")
    # not known to be the mix that was trained on, as its content is not told
    assert gain(tmp_path, device="cpu") == gain(checkpoint, device="cpu") == told
    assert not told.is_held_out
    about = {"mix": str(with_correspondences), "mix_digest": open_mix(with_correspondences).content_digest}
    (tmp_path / "run.json").write_text(json.dumps(about), encoding="utf-8")
    known = gain(tmp_path, device="cpu")
    assert known.is_held_out
    assert known.cells == told.cells
    (tmp_path / "run.json").write_text("[]", encoding="utf-8")
    with pytest.raises(MumError, match="does not name the mix"):
        gain(tmp_path, device="cpu")


def test_a_mix_without_correspondences_is_told(mix_path: Path, tmp_path: Path) -> None:
    from mumtrain.gain import gain

    config = thin()
    model = build_model(config)
    save_checkpoint(tmp_path, 3, model, build_optimizer(model, config), config, "x", {})
    with pytest.raises(CatalogError, match="run 'mumdata correspondences"):
        gain(tmp_path, mix=mix_path, device="cpu")


def test_a_rank_must_be_one_of_the_ranks(scenes: World) -> None:
    with pytest.raises(ConfigError, match="rank 2"):
        scenes.probe(thin()).measure(Fake(), CPU, 2, 2)
