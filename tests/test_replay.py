"""Running a step again: a step of a run equals the run's own numbers, and a bad one tells where it went wrong."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mumdata.catalog import open_mix
from mumdata.errors import CatalogError, ConfigError, MumError
from mumtrain.bad_steps import bad_step_folder, save_slot, save_state
from mumtrain.checkpoint import list_checkpoints, read_config
from mumtrain.cli import _show
from mumtrain.loader import Loader, open_frames
from mumtrain.replay import Replayed, replay
from mumtrain.sampler import open_sampler
from mumtrain.train import pretrain

THIN = [
    *("model.patch=16", "data.size=32", "data.frames_per_slot=8", "data.views_max=4", "data.workers=0"),
    *("model.encoder.width=32", "model.encoder.depth=1", "model.encoder.heads=2"),
    *("model.decoder.width=24", "model.decoder.depth=2", "model.decoder.heads=2"),
    *("mask.ratio=0.5", "optim.warmup_steps=2", "data.slots=2", "checkpoint.every=4"),
    *("steps=6", "log.every=1", "log.gain_every=0", "log.pictures_every=0", "optim.clip=0.05"),
]


def train(mix: Path, out: Path, *sets: str) -> Path:
    return pretrain(mix, recipe="debug-cpu", set=[*THIN, *sets], out=out, device="cpu")


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def run(mix_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with checkpoints of steps 4 and 6; its rate is high, so that steps differ in many digits."""
    return train(mix_path, tmp_path_factory.mktemp("run") / "run", "optim.lr=0.05")


@pytest.fixture(scope="module")
def bad(mix_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a step that a rate without bounds has made bad."""
    out = tmp_path_factory.mktemp("bad") / "run"
    with pytest.raises(MumError, match="mumtrain replay"):
        train(mix_path, out, "optim.lr=1e30")
    (folder,) = out.glob("bad-step-*")
    return folder


# ---- steps of a run


@pytest.mark.parametrize(("step", "begun"), [(1, "beginning"), (3, "beginning"), (5, "step 4"), (6, "step 4")])
def test_a_step_has_the_bits_of_the_run(run: Path, step: int, begun: str) -> None:
    before, line = content(run), metrics(run)[step - 1]
    found = replay(run, step=step, device="cpu")
    (one,) = found.attempts
    assert (one.loss, one.grad_norm) == (line["loss"], line["grad_norm"])
    assert (found.recorded_loss, found.recorded_grad_norm) == (line["loss"], line["grad_norm"])
    assert found.lr == line["lr"]
    assert begun in found.begun_with
    assert "the same bits" in found.verdict
    # the mean over sequences, as the run has it
    assert sum(slot.views for slot in one.slots) / 2 == line["views"]
    assert sum(slot.loss for slot in one.slots) / 2 == pytest.approx(line["loss"], rel=1e-6)
    assert {name for slot in one.slots for name in slot.datasets} == set(line["loss_by_dataset"])
    assert not one.is_bad
    assert (one.first_module, one.bad_sequence, one.bad_gradients) == (None, None, 0)
    assert content(run) == before


def test_steps_differ(run: Path) -> None:
    assert len({line["loss"] for line in metrics(run)}) == 6


def test_a_line_over_several_steps_tells_of_the_gradient_alone(mix_path: Path, run: Path, tmp_path: Path) -> None:
    other = train(mix_path, tmp_path / "run", "optim.lr=0.05", "log.every=2", "steps=6")
    found = replay(other, step=6, device="cpu")
    assert found.recorded_loss is None
    assert found.recorded_grad_norm == found.attempts[0].grad_norm == metrics(run)[5]["grad_norm"]
    assert "the same bits" in found.verdict
    assert replay(other, step=5, device="cpu").recorded_grad_norm is None


def test_a_step_behind_one_that_was_left_out(mix_path: Path, tmp_path: Path) -> None:
    """What is left out in the run is left out on the way, too."""
    folder = train(mix_path, tmp_path / "run", "optim.lr=0.05", "checkpoint.every=2")
    path = list_checkpoints(folder)[0]
    assert path.name == "step-00000004.pt"
    # a weight of the state before step 5 that no forward pass survives
    state = torch.load(path, weights_only=True)
    state["model"]["decoder.norm.weight"][0] = 1e30
    torch.save(state, path)
    found = replay(folder, step=6, device="cpu")
    assert found.attempts[0].is_bad
    assert found.notes == ("step 5 was bad and left out on the way",)
    assert found.verdict.startswith("bad here")
    after = {name: value for name, value in torch.load(path, weights_only=True)["model"].items()}
    assert found.largest_weight == max(float(value.abs().max()) for value in after.values())


def test_a_broken_checkpoint_is_passed_over(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    first = list_checkpoints(folder)[0]
    first.write_bytes(first.read_bytes()[:1000])
    found = replay(folder, step=5, device="cpu")
    assert "step-00000004.pt is broken" in caplog.text
    assert found.steps_before == 4
    assert found.attempts[0].loss == metrics(run)[4]["loss"]
    # and beyond what lies between two checkpoints nothing is run
    with pytest.raises(MumError, match=r"step 6 lies 5 steps behind the beginning.*checkpoint\.every=4.*keep_every"):
        replay(folder, step=6, device="cpu")


def test_runs_that_cannot_be_replayed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="say which step"):
        replay(run, device="cpu")
    for step in (0, -1, 7):
        with pytest.raises(ConfigError, match=f"steps 1 to 6, no step {step}"):
            replay(run, step=step, device="cpu")
    with pytest.raises(MumError, match="neither the folder of a run"):
        replay(tmp_path, step=1, device="cpu")
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(about | {"mix_digest": "0" * 64}))
    with pytest.raises(CatalogError, match=r"not what .* was trained on"):
        replay(folder, step=2, device="cpu")
    (folder / "run.json").write_text(json.dumps(about | {"mix": "/nowhere/mix.parquet"}))
    with pytest.raises(CatalogError, match="nowhere"):
        replay(folder, step=2, device="cpu")
    (folder / "run.json").write_text("[]")
    with pytest.raises(MumError, match=r"run\.json holds no JSON object"):
        replay(folder, step=2, device="cpu")
    (folder / "run.json").unlink()
    with pytest.raises(MumError, match=r"cannot read .*run\.json"):
        replay(folder, step=2, device="cpu")
    shutil.copy(run / "run.json", folder)
    (folder / "init.json").write_text("{}")
    with pytest.raises(MumError, match="began with the weights"):
        replay(folder, step=2, device="cpu")
    assert replay(folder, step=5, device="cpu").steps_before == 0  # its checkpoint has them in it


# ---- bad steps


def test_a_bad_step_is_bad_again(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(bad)
    found = replay(bad, device="cpu")
    assert content(bad) == before
    (one,) = found.attempts
    assert one.is_bad
    assert found.verdict.startswith("reproduced")
    assert found.step == int(bad.name[-8:])
    # the weights are finite, and absurd
    assert found.bad_weights == 0
    assert found.largest_weight > 1e20
    assert one.first_module is not None
    assert one.first_module.slot == 0
    assert not one.first_module.bad_weights
    assert one.first_module.largest_input is not None
    assert one.first_module.largest_input > 1e20
    assert one.bad_sequence is not None
    told = json.loads((bad / "slot-0000.json").read_text())["sequences"][one.bad_sequence.number]
    assert one.bad_sequence.paths == tuple(told["paths"])
    assert (one.bad_sequence.dataset, one.bad_sequence.sequence) == (told["dataset"], told["sequence"])
    assert one.bad_gradients > 0
    assert one.first_bad_gradient == 0
    # numbers that JSON does not know are words
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["attempts"][0]["loss"] in ("nan", "inf")
    assert len(found.to_frame()) == 2
    for format in ("table", "csv"):
        _show(found, format)
    shown = capsys.readouterr().out
    assert "Reproduced" in shown
    assert one.first_module.module in shown


def poisoned(bad: Path, folder: Path, name: str, value: float, base: Path) -> Path:
    """A copy of a bad step's folder with the weights of another run's step 4, one of which is poisoned."""
    shutil.copytree(bad, folder)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state["model"] = torch.load(list_checkpoints(base)[0], weights_only=True)["model"]
    state["model"][name].view(-1)[1] = value
    torch.save(state, folder / "checkpoint.pt")
    return folder


def test_a_poisoned_weight_is_found(bad: Path, run: Path, tmp_path: Path) -> None:
    name = "decoder.blocks.1.norm_mlp.weight"
    found = replay(poisoned(bad, tmp_path / "nan", name, float("nan"), run), device="cpu")
    assert (found.bad_weights, found.bad_weight_names) == (1, (name,))
    first = found.attempts[0].first_module
    assert first is not None
    assert (first.module, first.kind, first.came_in, first.bad_weights) == (
        "decoder.blocks.1.norm_mlp",
        "LayerNorm",
        False,
        True,
    )
    assert first.largest_input is not None
    assert 0 < first.largest_input < 1e3
    assert [slot.bad_sequences for slot in found.attempts[0].slots] == [
        slot.sequences for slot in found.attempts[0].slots
    ]


def test_what_arises_between_modules_comes_in(bad: Path, run: Path, tmp_path: Path) -> None:
    """A class token is no module's own: the first block gets it."""
    found = replay(poisoned(bad, tmp_path / "token", "encoder.class_token", float("inf"), run), device="cpu")
    first = found.attempts[0].first_module
    assert first is not None
    assert first.module.startswith("encoder.blocks.0")
    assert first.came_in
    assert not first.bad_weights


def test_a_kept_step_has_the_bits_of_the_run(run: Path, mix_path: Path, tmp_path: Path) -> None:
    """Step 5, kept as if it were bad: its views come from the folder."""
    config = read_config(json.loads((run / "config.json").read_text()), run)
    mix = open_mix(mix_path)
    frames = open_frames(mix)
    with Loader(open_sampler(mix, config), frames, config) as loader:
        for loaded in loader.load([(4, 0), (4, 1)]):
            save_slot(tmp_path, loaded, frames)
    line = metrics(run)[4]
    told = {"step": 5, "loss": str(line["loss"]), "grad_norm": str(line["grad_norm"])}
    save_state(tmp_path, torch.load(list_checkpoints(run)[0], weights_only=True), told)
    found = replay(tmp_path, device="cpu")
    assert (found.attempts[0].loss, found.attempts[0].grad_norm) == (line["loss"], line["grad_norm"])
    assert found.attempts[0].slots == replay(run, step=5, device="cpu").attempts[0].slots


def test_a_bad_step_that_is_fine_here(bad: Path, run: Path, tmp_path: Path) -> None:
    """With other weights the same views give numbers: those of a plain forward pass."""
    folder = poisoned(bad, tmp_path / "fine", "decoder.blocks.1.norm_mlp.weight", 1.0, run)
    found = replay(folder, device="cpu")
    assert found.verdict.startswith("not reproduced")
    assert found.attempts[0].first_module is None
    losses = [slot.loss for slot in found.attempts[0].slots]
    assert all(0.5 < loss < 5 for loss in losses)
    assert found.attempts[0].loss == pytest.approx(sum(losses) / 2)
    assert math.isfinite(found.attempts[0].grad_norm)


def test_one_sequence_of_broken_numbers(run: Path, mix_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last sequence of slot 1 has a loss that is no number."""
    from mumtrain.model.autoencoder import MaskedAutoencoder

    costs = MaskedAutoencoder.costs
    calls: list[int] = []

    def spoiled(self: Any, *arguments: Any) -> torch.Tensor:
        values = costs(self, *arguments)
        calls.append(len(values))
        if len(calls) == 2:
            values = values + torch.zeros_like(values).index_fill_(0, torch.tensor([len(values) - 1]), float("inf"))
        return values

    monkeypatch.setattr(MaskedAutoencoder, "costs", spoiled)
    (one,) = replay(run, step=5, device="cpu").attempts
    assert one.bad_sequence is not None
    assert (one.bad_sequence.slot, one.bad_sequence.number) == (1, calls[1] - 1)
    config = read_config(json.loads((run / "config.json").read_text()), run)
    drawn = open_sampler(open_mix(mix_path), config).batch(4, 1).sequences[-1]
    assert one.bad_sequence.sequence == drawn.sequence
    assert len(one.bad_sequence.paths) == len(drawn.frame_ids)
    assert [slot.bad_sequences for slot in one.slots] == [0, 1]
    assert [math.isfinite(slot.loss) for slot in one.slots] == [True, False]
    assert one.first_module is not None
    assert (one.first_module.slot, one.first_module.module) == (1, "the loss")


def test_folders_that_are_not_whole(bad: Path, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(bad, folder)
        return folder

    with pytest.raises(ConfigError, match="leave out --step"):
        replay(bad, step=2, device="cpu")
    folder = broken("no checkpoint")
    (folder / "checkpoint.pt").unlink()
    with pytest.raises(MumError, match=r"checkpoint\.pt does not exist"):
        replay(folder, device="cpu")
    folder = broken("half a checkpoint")
    (folder / "checkpoint.pt").write_bytes((bad / "checkpoint.pt").read_bytes()[:2000])
    with pytest.raises(MumError, match="broken"):
        replay(folder, device="cpu")
    folder = broken("no slot")
    (folder / "slot-0001.safetensors").unlink()
    with pytest.raises(MumError, match=r"cannot read .*slot-0001\.safetensors"):
        replay(folder, device="cpu")
    for text, match in (("{", "cannot read"), ("{}", "does not tell of"), ('{"sequences": [{}]}', "does not tell of")):
        folder = broken(f"slot {len(text)}")
        (folder / "slot-0000.json").write_text(text)
        with pytest.raises(MumError, match=f"{match}|slot-0000"):
            replay(folder, device="cpu")
    for text, match in (("3", "no JSON object"), ("{}", "lacks its 'step'"), ('{"step": 99}', "of step 99")):
        folder = broken(f"step {len(text)}")
        (folder / "step.json").write_text(text)
        with pytest.raises(MumError, match=match):
            replay(folder, device="cpu")


def test_views_of_another_size(bad: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "bad"
    shutil.copytree(bad, folder)
    save_file({"views": torch.zeros(2, 2, 3, 48, 48, dtype=torch.uint8)}, folder / "slot-0000.safetensors")
    with pytest.raises(MumError, match="48 x 48 pixels"):
        replay(folder, device="cpu")


def test_the_run_s_bad_step_is_the_record(mix_path: Path, bad: Path) -> None:
    """The same step by way of the run: the images are read again."""
    by_run: Replayed = replay(bad.parent, step=int(bad.name[-8:]), device="cpu")
    by_folder = replay(bad, device="cpu")
    assert by_run.verdict.startswith("reproduced")
    assert by_run.recorded_in == f"{bad_step_folder(bad.parent, by_run.step).name}/step.json"
    np.testing.assert_array_equal(
        [slot.loss for slot in by_run.attempts[0].slots], [slot.loss for slot in by_folder.attempts[0].slots]
    )
    assert by_run.attempts[0].bad_sequence is not None
    assert by_folder.attempts[0].bad_sequence is not None
    assert by_run.attempts[0].bad_sequence.paths == by_folder.attempts[0].bad_sequence.paths
    assert by_run.largest_weight == by_folder.largest_weight
