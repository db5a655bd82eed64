"""Before a run: missing roots and broken images are found, and what is counted is exact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mumdata.errors import ConfigError, LayoutError, MumError
from mumtrain.cli import _show
from mumtrain.config import apply
from mumtrain.dry_run import DryRun, dry_run
from mumtrain.masks.draw import draw_masks
from mumtrain.model.autoencoder import build_model
from mumtrain.plan import plan
from mumtrain.recipes import recipe
from mumtrain.step_cost import activation_bytes

THIN = [
    *("model.patch=16", "data.size=32", "data.frames_per_slot=8", "data.views_max=4", "data.workers=2"),
    *("model.encoder.width=32", "model.encoder.depth=1", "model.encoder.heads=2"),
    *("model.decoder.width=24", "model.decoder.depth=2", "model.decoder.heads=2"),
    *("mask.ratio=0.5", "steps=1000", "data.slots=4"),
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tried(mix: Path, *sets: str, **options: Any) -> DryRun:
    return dry_run(mix, recipe="debug-cpu", set=[*THIN, *sets], device="cpu", **{"num": 4, **options})


def known(found: DryRun, what: str) -> int:
    (number,) = (part.bytes for part in found.memory if part.what == what)
    return number


def test_a_run_is_tried(mix_path: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tried(mix_path, ranks=2)
    names = [one.dataset for one in found.datasets]
    assert sorted(names) == ["imagenet", "megadepth", "megascenes", "realestate10k"]
    for one in found.datasets:
        assert (one.tried, one.bad) == (4, ())
        assert one.root == str((world / one.dataset).resolve())
        assert one.median_ms is not None
        assert one.median_ms > 0
    assert sum(one.frames for one in found.datasets) == pytest.approx(1)

    # weights, their gradients, two moments each and a number of steps: a sum made by hand
    config = apply(recipe("debug-cpu"), THIN)
    parameters = list(build_model(config, device="meta").parameters())
    numbers = sum(p.numel() for p in parameters)
    assert known(found, "weights") == 4 * numbers
    assert known(found, "gradients") == 4 * numbers
    assert known(found, "optimiser") == 8 * numbers + 4 * len(parameters)
    assert known(found, "ring of views, host memory") == (2 + config.data.prefetch) * 8 * 32 * 32 * 3
    # eight frames fit into a slot as two of four views
    assert found.largest == (2, 4)
    kept = known(found, "activations, here, float32")
    assert known(found, "sum, here, float32") == 16 * numbers + 4 * len(parameters) + kept

    # the estimate is what was measured, times what the plan says
    planned = plan(mix_path, recipe="debug-cpu", set=THIN, ranks=2, num=0)
    (stage,) = planned.stages
    flops = sum(one.tflops_per_s * one.seconds for one in found.timed) * 1e12
    per_flop = sum(one.seconds for one in found.timed) / flops
    assert found.slot_s == pytest.approx(planned.flops / 1000 / 4 * per_flop)
    lost = stage.lost_per_slot if config.data.views_per == "slot" else 0.0
    assert found.lost == pytest.approx(lost)
    assert found.step_s == pytest.approx(2 * found.slot_s / (1 - lost) + found.optimizer_s)
    feeding = found.feeding
    assert found.hours == pytest.approx(1000 * found.step_s / (1 - feeding.wait) / 3600)
    assert feeding.frames_needed_per_s == pytest.approx(2 * stage.frames_per_slot / found.step_s)
    core_ms = sum(one.frames * one.core_ms for one in found.datasets if one.core_ms is not None)
    cores = min(2, feeding.cores)
    assert feeding.frames_decoded_per_s == pytest.approx(1000 * cores / core_ms)
    for one in found.timed:
        assert one.is_whole == (one.sequences == 8 // one.views)

    # nothing is written, and it can be read
    assert list(tmp_path.iterdir()) == []
    json.dumps(found.to_dict(), allow_nan=False)
    assert set(found.to_frame()["of"]) == {"dataset", "slot", "memory"}
    _show(found, "table")
    shown = capsys.readouterr().out
    assert "on 2 devices" in shown
    assert max(map(len, shown.splitlines())) <= max(80, 50 + len(str(world)))


def test_decoding_in_the_training_process_costs_its_time(mix_path: Path) -> None:
    whole_run = tried(mix_path, "data.workers=0", num=1)
    found = whole_run.feeding
    # each frame takes both times
    whole = 1 / found.frames_needed_per_s + 1 / found.frames_decoded_per_s
    assert found.wait == pytest.approx(1 / found.frames_decoded_per_s / whole)
    assert found.workers == 0
    assert whole_run.hours * 3600 == pytest.approx(1000 * whole_run.step_s / (1 - found.wait))


@pytest.mark.parametrize("sets", [(), ("model.hidden_tokens=replaced",), ("mask.references=1",)])
def test_activations_are_those_of_a_real_pass(sets: tuple[str, ...]) -> None:
    config = apply(recipe("debug-cpu"), [*THIN, *sets])
    model = build_model(config)
    own = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    views = torch.zeros(2, 3, 3, 32, 32, dtype=torch.uint8)
    masks = draw_masks(config.mask, 2, 3, (2, 2), seed=config.seed, step=0, slot=0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(views, masks)
    total = sum(kept.values())
    del loss
    assert activation_bytes(config, 2, 3, bf16=False) == total


def test_recomputing_keeps_less() -> None:
    config = apply(recipe("debug-cpu"), [*THIN, "model.decoder.depth=6"])
    again = apply(config, ["model.recompute=true"])
    whole, less = (activation_bytes(one, 4, 2, bf16=False) for one in (config, again))
    assert less < whole / 3
    # what goes into each block stays: of four sequences of two views, five tokens of 24 numbers
    deeper = activation_bytes(apply(again, ["model.decoder.depth=12"]), 4, 2, bf16=False)
    assert deeper - less >= 6 * 4 * (4 * 2 * 5 * 24)


def test_a_root_that_is_not_there(mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUM_ROOT_IMAGENET", str(tmp_path / "gone"))
    with pytest.raises(LayoutError, match=r"imagenet.*gone"):
        tried(mix_path)
    (tmp_path / "gone").mkdir()
    with pytest.raises(LayoutError, match=r"imagenet: none of \d+ images looked for"):
        tried(mix_path)


def test_broken_images_are_found(
    mix_path: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(world / "imagenet", root)
    monkeypatch.setenv("MUM_ROOT_IMAGENET", str(root))
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for path in files[::2]:
        path.write_bytes(path.read_bytes()[:200])
    found = tried(mix_path, num=12)
    of = {one.dataset: one for one in found.datasets}
    damaged = {str(path.relative_to(root)) for path in files[::2]}
    assert 0 < len(of["imagenet"].bad) < 12
    assert {image.path for image in of["imagenet"].bad} <= damaged
    assert not of["megadepth"].bad
    assert any("imagenet" in line and "of 12 images are bad" in line for line in found.warnings)
    _show(found, "table")
    assert of["imagenet"].bad[0].path[:30] in capsys.readouterr().out
    for path in files:
        path.write_bytes(b"no image")
    with pytest.raises(MumError, match=r"none of 3 images can be read of imagenet, under .*damaged"):
        tried(mix_path, num=3)


def test_settings_that_do_not_fit(mix_path: Path) -> None:
    with pytest.raises(ConfigError, match="num is 0"):
        tried(mix_path, num=0)
    with pytest.raises(ConfigError, match=r"3 ranks do not divide data\.slots=4"):
        tried(mix_path, ranks=3)
