"""The bench of training steps: figures from their definitions, and failures that are told."""

from __future__ import annotations

import importlib
import json
import logging
import time
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch

from mumdata.errors import ConfigError
from mumtrain.bench_model import ModelBench, bench_model
from mumtrain.config import Config, apply
from mumtrain.flops import slot_flops
from mumtrain.recipes import recipe

# `mumtrain.bench_model` alone is the function, once it has been asked for
bench = importlib.import_module("mumtrain.bench_model")

TINY = [
    "data.size=32",
    "model.patch=8",
    "model.encoder.width=32",
    "model.encoder.depth=1",
    "model.encoder.heads=2",
    "model.decoder.width=32",
    "model.decoder.depth=2",
    "model.decoder.heads=2",
]


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench._SIDE, "cpu", 128)


def tiny(*sets: str, name: str = "debug-cpu", **options: Any) -> ModelBench:
    return bench_model(recipe=name, set=[*TINY, *sets], device="cpu", **{"seconds": 0.01, **options})


def config_of(*sets: str) -> Config:
    return apply(recipe("debug-cpu"), [*TINY, *sets])


def test_figures_follow_from_the_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is given a duration of its own, and runs are counted."""
    took = iter([9.0, 9.0, *[0.1, 0.3, 0.2]] * 2)
    monkeypatch.setattr(bench._Bench, "_seconds", lambda self, model, pixels, steps: next(took))
    found = tiny(views=[3], frames=8, compile=False)
    (rate,) = found.rates
    assert (rate.views, rate.sequences, rate.way, rate.runs) == (3, 2, "eager", 3)
    assert rate.first_s == 9.0
    assert rate.frames_per_s == pytest.approx(6 / 0.2)
    assert rate.spread == pytest.approx(0.2 / 0.2)
    assert rate.tflops_per_s == pytest.approx(slot_flops(config_of(), 2, 3) / 0.2 / 1e12)
    assert rate.share == pytest.approx(rate.tflops_per_s / found.product_tflops_per_s)
    assert rate.failure is None


def test_steps_are_really_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights move with each step, and the clock sees what a step takes."""
    seen: list[torch.Tensor] = []
    forward = bench.MaskedAutoencoder.forward

    def slow(self: Any, views: torch.Tensor, masks: Any) -> torch.Tensor:
        time.sleep(0.02)
        seen.append(self.decoder.head.weight.detach().clone())
        assert views.dtype == torch.uint8
        assert views.shape == (2, 2, 3, 32, 32)
        assert float(views.float().std()) > 50
        return forward(self, views, masks)

    monkeypatch.setattr(bench.MaskedAutoencoder, "forward", slow)
    (rate,) = tiny(views=[2], frames=5, compile=False, seconds=0.1).rates
    assert len(seen) == 2 + rate.runs
    assert all(not torch.equal(one, other) for one, other in pairwise(seen))
    assert rate.frames_per_s is not None
    assert 0 < rate.frames_per_s < 4 / 0.02
    assert rate.peak_gb is None or 0.01 < rate.peak_gb < 100


def test_views_default_to_the_range_of_the_recipe() -> None:
    assert [rate.views for rate in tiny(compile=False).rates] == [2, 6]
    assert [rate.views for rate in tiny("data.views_max=30", "data.frames_per_slot=30", compile=False).rates] == [
        2,
        12,
        24,
    ]
    assert [(r.sequences, r.views) for r in tiny(name="mae-vitb16", compile=False).rates] == [(1, 1)]
    assert [(r.sequences, r.views) for r in tiny(name="croco-v2-vitb16", compile=False, frames=4).rates] == [(2, 2)]


def test_masks_of_all_kinds_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    draw = bench.draw_masks

    def counting(*arguments: Any, **options: Any) -> Any:
        steps.append(options["step"])
        return draw(*arguments, **options)

    monkeypatch.setattr(bench, "draw_masks", counting)
    (rate,) = tiny("model.encoder.depth=2", name="muskie-vitb16", views=[4], compile=False).rates
    # three kinds, one or two whole views: twelve steps a run, all of them seen before the clock runs
    assert steps == [0, *list(range(12)) * (1 + rate.runs)]


@pytest.mark.slow
def test_the_compiled_model_has_rows_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # no code is generated, which takes a minute; that the whole model is one graph is checked
    monkeypatch.setattr(bench.torch, "compile", partial(torch.compile, backend="eager"))
    level = logging.getLogger("torch._dynamo").level
    rates = tiny(views=[1, 2]).rates
    assert [(rate.views, rate.way) for rate in rates] == [
        (1, "eager"),
        (1, "compiled"),
        (2, "eager"),
        (2, "compiled"),
    ]
    assert all(rate.failure is None and rate.frames_per_s for rate in rates)
    assert logging.getLogger("torch._dynamo").level == level


def test_failures_are_told_in_their_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def no_compiler(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(bench.torch, "compile", no_compiler)
    found = tiny(views=[2])
    eager, compiled = found.rates
    assert eager.frames_per_s
    assert compiled.failure == "RuntimeError: no C++ compiler"
    assert compiled.frames_per_s is compiled.share is compiled.peak_gb is None
    (_, table), (lines, nothing) = found.tables()
    assert table is not None
    assert len(table) == 2
    assert lines == ["Not measured:", "compiled, 2 views: RuntimeError: no C++ compiler"]
    assert nothing is None

    def too_large(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr(bench.MaskedAutoencoder, "forward", too_large)
    (rate,) = tiny(views=[2], compile=False).rates
    assert rate.failure is not None
    assert "smaller number of frames" in rate.failure

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.MaskedAutoencoder, "forward", broken)
    with pytest.raises(ZeroDivisionError):  # a bug of ours is no failure to compile
        tiny(views=[2], compile=False)


def test_as_json_and_as_rows() -> None:
    found = tiny(views=[2], compile=False)
    told = json.loads(json.dumps(found.to_dict()))
    assert told["rates"][0]["frames_per_s"] == found.rates[0].frames_per_s
    assert told["number_format"] == "float32"
    assert found.product_tflops_per_s > 0
    assert list(found.to_frame()["way"]) == ["eager"]
    ((heading, table),) = found.tables()
    assert "debug-cpu at 32 px" in heading[0]
    assert table is not None
    assert table["views"].tolist() == ["1 x 2"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("debug-cpu", {"seconds": 0}, "seconds is 0"),
        ("debug-cpu", {"views": [0]}, "at least 1"),
        ("debug-cpu", {"views": []}, "at least 1"),
        ("debug-cpu", {"views": [2, 6], "frames": 5}, "one sequence of 6 views"),
        ("croco-v2-vitb16", {"views": [3]}, "pairs"),
        ("debug-gpu", {}, "debug-cpu"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(name=name, **options)
