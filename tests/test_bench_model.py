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
from mumtrain import benching
from mumtrain.bench_model import ModelBench, bench_model
from mumtrain.compiled import compile_blocks
from mumtrain.config import Config, apply
from mumtrain.flops import slot_flops
from mumtrain.masks.draw import draw_masks
from mumtrain.model.autoencoder import MaskedAutoencoder, build_model
from mumtrain.plain import plain_model
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
    monkeypatch.setitem(benching._SIDES, "cpu", (128,))


def tiny(*sets: str, name: str = "debug-cpu", **options: Any) -> ModelBench:
    return bench_model(recipe=name, set=[*TINY, *sets], device="cpu", **{"seconds": 0.01, **options})


def config_of(*sets: str) -> Config:
    return apply(recipe("debug-cpu"), [*TINY, *sets])


def test_figures_follow_from_the_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of both ways are given durations, and turns are counted."""
    first = [9.0, 1.0, 1.0]
    took = {"plain": iter([*first, 0.5, 0.4, 0.6]), "eager": iter([*first, 0.1, 0.3, 0.2])}
    monkeypatch.setattr(bench._Bench, "_seconds", lambda self, way, pixels, steps: next(took[way.name]))
    found = tiny(views=[3], frames=8, compile=False)
    plain, rate = found.rates
    assert (plain.way, plain.over_plain) == ("plain", 1.0)
    assert (rate.size, rate.views, rate.sequences, rate.way, rate.runs) == (32, 3, 2, "eager", 3)
    assert rate.first_s == 9.0
    assert rate.frames_per_s == pytest.approx(6 / 0.2)
    assert rate.over_plain == pytest.approx(0.5 / 0.2)
    assert rate.spread == pytest.approx(0.2 / 0.2)
    assert rate.tflops_per_s == pytest.approx(slot_flops(config_of(), 2, 3) / 0.2 / 1e12)
    assert rate.share == pytest.approx(rate.tflops_per_s / found.product_tflops_per_s)
    assert rate.share_of_peak is None
    assert rate.failure is None


def test_steps_are_really_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights move with each step, and the clock sees what a step takes."""
    seen: list[torch.Tensor] = []
    forward = MaskedAutoencoder.forward

    def slow(self: Any, views: torch.Tensor, masks: Any) -> torch.Tensor:
        time.sleep(0.02)
        seen.append(self.decoder.head.weight.detach().clone())
        assert views.dtype == torch.uint8
        assert views.shape == (2, 2, 3, 32, 32)
        assert float(views.float().std()) > 50
        return forward(self, views, masks)

    monkeypatch.setattr(MaskedAutoencoder, "forward", slow)
    _, rate = tiny(views=[2], frames=5, compile=False, seconds=0.1).rates
    assert len(seen) == 3 + rate.runs
    assert all(not torch.equal(one, other) for one, other in pairwise(seen))
    assert rate.frames_per_s is not None
    assert 0 < rate.frames_per_s < 4 / 0.02


def test_the_baseline_has_the_same_loss_and_gradients() -> None:
    for sets in ((), ("model.positions=absolute",), ("model.target=raw", "model.decoder_attention=frame")):
        config = config_of(*sets)
        model = build_model(config)
        plain = plain_model(model, config)
        pixels = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        masks = draw_masks(config.mask, 2, 3, (4, 4), seed=0, step=0, slot=0)
        one, other = model(pixels, masks), plain(pixels, masks)
        assert other.item() == pytest.approx(one.item(), rel=1e-5)
        one.backward()
        other.backward()
        for ours, theirs in (
            (model.encoder.blocks[0].mlp.expand, plain.encoder[0].mlp[0]),
            (model.decoder.blocks[1].attention.qkv, plain.decoder[1].qkv),
            (model.decoder.head, plain.head),
        ):
            torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-6)
        assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in model.parameters())


def test_sizes_and_recipes_without_a_baseline() -> None:
    found = tiny(views=[2], sizes=[32, 48], compile=False)
    assert [(rate.size, rate.way) for rate in found.rates] == [(s, w) for s in (32, 48) for w in ("plain", "eager")]
    assert found.no_plain is None
    other = tiny("model.encoder.depth=2", name="muskie-vitb16", views=[2], compile=False)
    assert [rate.way for rate in other.rates] == ["eager"]
    assert other.no_plain == "model.encoder_attention"
    assert "no plain baseline for model.encoder_attention" in next(iter(other.tables()))[0][-1]


@pytest.mark.slow
def test_views_default_to_the_range_of_the_recipe() -> None:
    assert [rate.views for rate in tiny(compile=False).rates] == [2, 2, 6, 6]
    assert [rate.views for rate in tiny("data.views_max=30", "data.frames_per_slot=30", compile=False).rates] == [
        2,
        2,
        12,
        12,
        24,
        24,
    ]
    assert [(r.sequences, r.views) for r in tiny(name="mae-vitb16", compile=False).rates] == [(1, 1)] * 2
    assert [(r.sequences, r.views) for r in tiny(name="croco-v2-vitb16", compile=False, frames=4).rates] == [(2, 2)]


def test_masks_of_all_kinds_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    draw = benching.draw_masks

    def counting(*arguments: Any, **options: Any) -> Any:
        steps.append(options["step"])
        return draw(*arguments, **options)

    monkeypatch.setattr(benching, "draw_masks", counting)
    (rate,) = tiny("model.encoder.depth=2", name="muskie-vitb16", views=[4], compile=False).rates
    # three kinds, one or two whole views: twelve steps a run, all of them seen before the clock runs
    assert steps == [0, *list(range(12)) * (2 + rate.runs)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_blocks_have_rows_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # no code is generated, which takes a minute
    monkeypatch.setattr(benching, "compile_blocks", partial(compile_blocks, backend="eager"))
    level = logging.getLogger("torch._dynamo").level
    rates = tiny(views=[2]).rates
    assert [(rate.views, rate.way) for rate in rates] == [(2, "plain"), (2, "eager"), (2, "compiled")]
    assert all(rate.failure is None and rate.frames_per_s for rate in rates)
    assert logging.getLogger("torch._dynamo").level == level


@pytest.mark.slow
def test_failures_are_told_in_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: Any, **__: Any) -> Any:
        raise OSError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: no_compiler)
    found = tiny(views=[2])
    plain, eager, compiled = found.rates
    assert plain.frames_per_s
    assert eager.frames_per_s
    assert compiled.failure is not None
    assert compiled.failure.startswith("OSError: no C++ compiler")
    assert compiled.frames_per_s is compiled.share is compiled.peak_gb is None
    *_, (lines, nothing) = found.tables()
    assert lines == ["Not measured:", f"compiled, 2 views of 32 px: {compiled.failure}"]
    assert nothing is None

    def too_large(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr(MaskedAutoencoder, "forward", too_large)
    plain, rate = tiny(views=[2], compile=False).rates
    assert plain.failure is None
    assert rate.failure is not None
    assert "smaller number of frames" in rate.failure

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(MaskedAutoencoder, "forward", broken)
    with pytest.raises(ZeroDivisionError):  # a bug of ours is no failure to compile
        tiny(views=[2], compile=False)


def test_as_json_and_as_rows() -> None:
    found = tiny(views=[2], compile=False)
    told = json.loads(json.dumps(found.to_dict()))
    assert told["rates"][0]["frames_per_s"] == found.rates[0].frames_per_s
    assert told["number_format"] == "float32"
    assert found.product_tflops_per_s > 0
    assert list(found.to_frame()["way"]) == ["plain", "eager"]
    (heading, _), (lines, table) = found.tables()
    assert "debug-cpu" in heading[0]
    assert lines == ["32 px"]
    assert table is not None
    assert table["views"].tolist() == ["1 x 2", "1 x 2"]
    assert max(map(len, table.to_string(index=False).splitlines())) <= 80


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
