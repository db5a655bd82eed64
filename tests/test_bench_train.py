"""The bench of whole training steps: figures from their definitions, and the run's own slots."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from mumdata.catalog import open_mix
from mumdata.errors import ConfigError
from mumtrain import benching
from mumtrain.bench_train import TrainBench, bench_train
from mumtrain.config import apply
from mumtrain.flops import slot_flops
from mumtrain.recipes import recipe
from mumtrain.sampler import open_sampler

bench = importlib.import_module("mumtrain.bench_train")

THIN = [
    "model.patch=16",
    "data.size=32",
    "data.frames_per_slot=8",
    "data.views_max=4",
    "data.workers=0",
    "model.encoder.width=32",
    "model.encoder.depth=1",
    "model.encoder.heads=2",
    "model.decoder.width=24",
    "model.decoder.depth=2",
    "model.decoder.heads=2",
    "mask.ratio=0.5",
]


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(benching._SIDES, "cpu", (128,))


def thin(mix: Path, **options: Any) -> TrainBench:
    return bench_train(mix, recipe="debug-cpu", set=THIN, device="cpu", **{"steps": 3, "seconds": 0.01, **options})


def test_the_slots_are_those_of_the_run_for_both_ways(mix_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[tuple[int, tuple[int, ...]]]] = {"plain": [], "eager": []}
    step_of = benching.Way.step

    def noted(self: benching.Way, views: Any, step: int, slot: int = 0) -> None:
        seen[self.name].append((step, tuple(views.shape[:2])))
        step_of(self, views, step, slot)

    monkeypatch.setattr(benching.Way, "step", noted)
    found = thin(mix_path)
    # one step to begin with; two turns of three slots, each after one that is not timed
    assert [step for step, _ in seen["plain"]] == [0, 0, 1, 2, 3, 3, 4, 5, 6]
    assert seen["plain"] == seen["eager"]
    sampler = open_sampler(open_mix(mix_path), apply(recipe("debug-cpu"), THIN))
    for step, shape in seen["plain"]:
        batch = sampler.batch(step, 0)
        assert shape == (len(batch.sequences), batch.views)
    timed = [shape for _, shape in (*seen["plain"][2:5], *seen["plain"][6:])]
    for rate in found.rates:
        assert (rate.slots, rate.frames) == (6, sum(B * V for B, V in timed))
    for way in ("plain", "eager"):
        of_way = {rate.views: rate.slots for rate in found.by_views if rate.way == way}
        assert of_way == {V: sum(other == V for _, other in timed) for V in {V for _, V in timed}}


def test_figures_follow_from_the_clock(mix_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slot is waited for one second and worked on three."""
    now = iter(range(10_000))

    class Clock(bench._Clock):  # type: ignore[misc, name-defined]
        def start(self) -> None:
            self._at = next(now) * 1000.0
            self._marks = [self._at]

        def begin(self) -> None:
            self._at += 1
            self._marks.append(self._at)

        def end(self) -> None:
            self._at += 3
            self._marks.append(self._at)

    monkeypatch.setattr(bench, "_Clock", Clock)
    found = thin(mix_path)
    config = apply(recipe("debug-cpu"), THIN)
    for rate in found.rates:
        assert rate.seconds == pytest.approx(6 * 4)
        assert rate.data_wait == pytest.approx(1 / 4)
        assert rate.frames_per_s == pytest.approx(rate.frames / 24)
        assert rate.over_plain == pytest.approx(1.0)
        assert rate.share == pytest.approx(rate.tflops_per_s / found.product_tflops_per_s)
        assert rate.device_hours == pytest.approx(config.steps * config.data.slots * 4 / 3600)
    for of_views in found.by_views:
        B = 8 // of_views.views
        assert of_views.frames_per_s == pytest.approx(B * of_views.views / 3)
        assert of_views.tflops_per_s == pytest.approx(slot_flops(config, B, of_views.views) / 3 / 1e12)


def test_as_json_and_for_reading(mix_path: Path) -> None:
    found = thin(mix_path, devices=4)
    told = json.loads(json.dumps(found.to_dict()))
    assert told["rates"][0]["way"] == "plain"
    assert told["devices"] == 4
    assert len(found.to_frame()) == len(found.rates) + len(found.by_views)
    (heading, table), (_, by_views), (hours, nothing) = found.tables()
    assert nothing is None
    assert table is not None
    assert by_views is not None
    text = [*heading, *hours, *table.to_string(index=False).splitlines(), *by_views.to_string(index=False).splitlines()]
    assert max(map(len, text)) <= 80
    assert "h on 4 devices" in hours[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 0}, "steps is 0"), ({"seconds": 0}, "seconds is 0"), ({"devices": 0}, "devices is 0")],
)
def test_bad_options(mix_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        thin(mix_path, **options)
