"""Runs: crops, bad images, checkpoints, and resuming bit for bit."""

from __future__ import annotations

import io
import json
import logging
import pickle
import re
import shutil
import socket
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import mumtrain.runlog.log
import mumtrain.step
import mumtrain.trainer
from mumdata.catalog import open_mix
from mumdata.errors import CatalogError, ConfigError, MumError
from mumtrain.bad_steps import read_slots
from mumtrain.checkpoint import list_checkpoints, load_checkpoint
from mumtrain.config import Config, apply
from mumtrain.feed import open_feed
from mumtrain.loader import Loader, open_frames
from mumtrain.model.pixels import normalise, normalise_patches, patchify
from mumtrain.optim import lr_at, set_lr
from mumtrain.reading.crops import crop_box, cut, square_box
from mumtrain.recipes import recipe
from mumtrain.run_lock import RunLock
from mumtrain.runlog.lines import append_line, keep_lines, read_lines
from mumtrain.runtime import select_runtime
from mumtrain.sampler import open_sampler
from mumtrain.signals import StopRequest
from mumtrain.step import slot_masks
from mumtrain.train import Trainer, pretrain, slot_losses

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
    "optim.warmup_steps=2",
    "steps=8",
    "log.every=2",
    "log.pictures_every=0",  # drawing one takes longer than the whole run
    "checkpoint.every=3",
]

CLOCK = ("frames_per_s", "data_wait", "tflops_per_s", "share_of_peak", "memory_gb", "gpu_hours")


def thin(*sets: str) -> Config:
    return apply(recipe("debug-cpu"), [*THIN, *sets])


def run(mix: Path, out: Path, *sets: str, resume: bool = False) -> Path:
    return pretrain(mix, recipe="debug-cpu", set=[*THIN, *sets], out=out, resume=resume, device="cpu")


def metrics(folder: Path) -> list[dict[str, Any]]:
    """A run's lines without the numbers that depend on the clock and the machine."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# ---- crops


def test_a_view_shows_its_box(tmp_path: Path) -> None:
    """A picture whose colours are its coordinates: each view's corner colours say where it was cut."""
    width, height = 200, 120
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    picture = np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8)
    for box in ((0, 0, 120, 120), (80, 0, 120, 120), (40, 20, 64, 96), (10, 10, 16, 12)):
        view = cut(picture, box, (width, height), 32).astype(float)
        # the centre of an output pixel lies at (i + 1/2) / 32 of the box
        wanted = box[0] + (np.arange(32) + 0.5) / 32 * box[2] - 0.5
        assert abs(view[16, 2:-2, 0] - wanted[2:-2]).max() < 1.1
        wanted = box[1] + (np.arange(32) + 0.5) / 32 * box[3] - 0.5
        assert abs(view[2:-2, 16, 1] - wanted[2:-2]).max() < 1.1
    # at half the size, the same box of the full picture shows the same
    half = cv2.resize(picture, (100, 60), interpolation=cv2.INTER_AREA)
    close = cut(half, (80, 0, 120, 120), (width, height), 32).astype(float)
    assert abs(close - cut(picture, (80, 0, 120, 120), (width, height), 32)).max() < 2


def test_boxes_of_the_crop_rules() -> None:
    boxes = np.array([crop_box("resize", 300, 200, key) for key in range(500)])
    assert (boxes[:, 2:] == 200).all()
    assert (boxes[:, 1] == 0).all()
    assert boxes[:, 0].min() < 5
    assert boxes[:, 0].max() > 95
    assert abs(boxes[:, 0].mean() - 50) < 5
    assert square_box(200, 300) == (0, 50, 200, 200)
    for width, height in ((300, 200), (400, 600)):
        drawn = np.array([crop_box("random_resized", width, height, key) for key in range(1000)])
        assert (drawn[:, :2] >= 0).all()
        assert (drawn[:, :2] + drawn[:, 2:] <= (width, height)).all()
        ratio = drawn[:, 2] / drawn[:, 3]
        assert 0.74 < ratio.min() < 0.8
        assert 1.25 < ratio.max() < 1.35
        area = drawn[:, 2] * drawn[:, 3] / (width * height)
        assert area.min() > 0.19
    assert crop_box("random_resized", 10, 1000, 0)[2:] == (10, 13)  # no draw fits: the largest centred box


# ---- runs


def test_a_run_leaves_its_folder(mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = pretrain(mix_path, recipe="debug-cpu", set=[*THIN, "log.pictures_every=5"], device="cpu")
    assert folder == Path("runs/mix-debug-cpu")
    assert [path.name for path in sorted((folder / "pictures").iterdir())] == ["step-00000005.png", "step-00000008.png"]
    assert "# " in (folder / "card.md").read_text()
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    for line in lines:
        assert line["lr"] == pytest.approx(lr_at(thin(), line["step"] - 1))
        assert 0.5 < line["loss"] < 2
        assert line["grad_norm"] > 0
        assert line["bad_frames"] == 0
        assert 1 <= line["views"] <= 4
    sampler = Trainer(open_mix(mix_path), thin(), select_runtime("cpu"), folder).sampler
    frames = sum(batch.views * len(batch.sequences) for batch in (sampler.batch(step, 0) for step in range(8)))
    assert lines[-1]["frames_read"] == frames
    assert [path.name for path in list_checkpoints(folder)] == ["step-00000006.pt", "step-00000008.pt"]  # two are kept
    assert json.loads((folder / "config.json").read_text())["steps"] == 8
    assert list((folder / "tensorboard").iterdir())
    with pytest.raises(MumError, match="--resume"):
        pretrain(mix_path, recipe="debug-cpu", set=THIN, device="cpu")


def test_a_resumed_run_equals_an_uninterrupted_one(
    mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Bit for bit: weights, optimiser and metrics, through an interruption, half a file and a broken checkpoint."""
    straight = run(mix_path, tmp_path / "straight")
    schedule = mumtrain.step.lr_at

    def interrupted(config: Config, step: int) -> float:
        if step == 7:
            raise KeyboardInterrupt
        return schedule(config, step)

    torn = tmp_path / "torn"
    with monkeypatch.context() as patch:
        patch.setattr(mumtrain.step, "lr_at", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(mix_path, torn)
    newest = list_checkpoints(torn)[-1]
    assert newest.name == "step-00000006.pt"
    truncate(newest)
    (newest.parent / ".step-00000007.pt.12.tmp").write_bytes(b"half")
    with open(torn / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')
    with caplog.at_level(logging.WARNING):
        run(mix_path, torn, "data.workers=1", "data.prefetch=1", resume=True)
    assert "step-00000006.pt is broken" in caplog.text
    assert not list(newest.parent.glob(".*"))
    assert metrics(torn) == metrics(straight)
    one, other = load_checkpoint(straight), load_checkpoint(torn)
    assert one.step == other.step == 8
    assert_same(one.model, other.model)
    assert_same(one.optimizer, other.optimizer)
    assert_same(one.tally, other.tally)
    # a finished run has nothing left to do
    before = metrics(torn)
    run(mix_path, torn, resume=True)
    assert metrics(torn) == before


def test_resuming_refuses_another_run(mix_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = run(mix_path, tmp_path / "run", "steps=3")
    with pytest.raises(
        ConfigError, match=r"optim\.lr \(was 0\.016, now 0\.1\), model\.decoder\.depth|model\.decoder\.depth"
    ):
        run(mix_path, folder, "steps=3", "optim.lr=0.1", "model.decoder.depth=3", resume=True)
    content = torch.load(list_checkpoints(folder)[0], weights_only=True)
    torch.save({**content, "mix_digest": "f" * 64}, list_checkpoints(folder)[0])
    with pytest.raises(CatalogError, match="ffffffffffff"):
        run(mix_path, folder, "steps=3", resume=True)
    torch.save(content, list_checkpoints(folder)[0])
    run(mix_path, folder, "steps=5", "log.every=1", resume=True)
    assert "steps changes from 3 to 5" in caplog.text
    assert load_checkpoint(folder).step == 5
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(MumError, match="not the folder of a run"):
        run(mix_path, tmp_path / "other", resume=True)


def test_the_step_s_loss_is_the_mean_of_the_slots(mix_path: Path, tmp_path: Path) -> None:
    sets = ["data.slots=3", "steps=1", "log.every=1"]
    folder = run(mix_path, tmp_path / "run", *sets)
    config = thin(*sets)
    trainer = Trainer(open_mix(mix_path), config, select_runtime("cpu"), tmp_path)
    with Loader(trainer.sampler, trainer.frames, config, workers=1) as loader:
        feed = open_feed(loader, loader.load((0, slot) for slot in range(3)), trainer.runtime)
        shapes, losses = set(), []
        for slot in feed:
            shapes.add(slot.views.shape[:2])
            losses.append(slot_losses(trainer.model.losses, slot, config, trainer.runtime).mean)
    assert len(shapes) > 1  # slots of different numbers of frames weigh the same
    mean = torch.stack(losses).mean()
    assert metrics(folder)[0]["loss"] == pytest.approx(float(mean.detach()), rel=1e-6)
    mean.backward()
    norm = torch.stack([p.grad.square().sum() for p in trainer.model.parameters() if p.grad is not None]).sum().sqrt()
    assert metrics(folder)[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_training_stops_where_too_many_images_are_bad(
    world: Path, mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(world / "realestate10k", root)
    files = sorted(path for path in root.rglob("*") if path.suffix in (".jpg", ".png"))
    for path in files[::4]:
        truncate(path)
    monkeypatch.setenv("MUM_ROOT_REALESTATE10K", str(root))
    # tolerated, counted and written once a file
    folder = run(mix_path, tmp_path / "lenient", "data.bad_frame_rate=0.9", "steps=20", "data.bad_frame_grace=1")
    lines = [json.loads(line) for line in (folder / "quarantine-0.jsonl").read_text().splitlines()]
    assert lines
    assert {root / line["path"] for line in lines} <= set(files[::4])
    assert len({line["path"] for line in lines}) == len(lines) <= metrics(folder)[-1]["bad_frames"]
    assert {(line["dataset"], line["reason"], line["found_by"]) for line in lines} == {
        ("realestate10k", "unreadable", "train")
    }
    with pytest.raises(MumError, match=r"images read are broken or missing.*bad_frame_rate=0\.01.*realestate10k: "):
        run(mix_path, tmp_path / "strict", "steps=200", "data.bad_frame_grace=50")


class Closed(io.StringIO):
    """A terminal whose reader has gone after some text."""

    def write(self, text: str) -> int:
        if self.tell() > 5:
            raise BrokenPipeError
        return super().write(text)

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Closed, None, io.StringIO])
def test_a_run_does_not_need_standard_error(
    mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: Callable[[], Any] | None
) -> None:
    shown: Any = stream() if stream else None
    if stream is io.StringIO:
        shown.close()
    monkeypatch.setattr(sys, "stderr", shown)
    folder = run(mix_path, tmp_path / "run")
    assert metrics(folder)[-1]["step"] == 8
    assert list_checkpoints(folder)


def test_a_loss_that_is_no_number_stops_the_run(mix_path: Path, tmp_path: Path) -> None:
    with pytest.raises(MumError, match=r"step \d: the (loss|gradient) is (nan|inf).*mumtrain replay") as error:
        run(mix_path, tmp_path / "run", "optim.lr=1e30", "log.every=8")
    (folder,) = (tmp_path / "run").glob("bad-step-*")
    assert str(folder) in str(error.value)
    step = int(folder.name.removeprefix("bad-step-"))
    before = load_checkpoint(folder / "checkpoint.pt")
    assert before.step == step - 1
    assert all(torch.isfinite(v).all() for v in before.model.values())
    told = json.loads((folder / "slot-0000.json").read_text())
    assert told["sequences"][0]["paths"]
    (views,) = read_slots(folder, 1)
    config = thin("optim.lr=1e30")
    with Loader(open_sampler(open_mix(mix_path), config), open_frames(open_mix(mix_path)), config) as loader:
        assert torch.equal(views, torch.from_numpy(next(loader.load([(step - 1, 0)])).views))


BAD = 4  # counted from 0


def spoil(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Let the loss of some steps, counted from 0, be no number."""
    usual = slot_losses

    def spoiled(model: Any, slot: Any, *rest: Any) -> Any:
        losses = usual(model, slot, *rest)
        return losses._replace(mean=losses.mean * float("nan")) if slot.loaded.batch.step in steps else losses

    monkeypatch.setattr(mumtrain.step, "slot_losses", spoiled)


@pytest.mark.parametrize("checks_each_step", [True, False])
def test_a_bad_step_is_left_out_as_if_it_had_never_been(
    checks_each_step: bool, mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the host gets to know of it some steps later, as with a GPU."""
    sets = ["optim.bad_step=skip", "log.every=4", "checkpoint.every=8"]
    with monkeypatch.context() as patch:  # the same, with only the weights' move of that step left out
        usual, count = mumtrain.step.take_step, iter(range(100))
        patch.setattr(mumtrain.step, "take_step", lambda *of: None if next(count) == BAD else usual(*of))
        wanted = load_checkpoint(run(mix_path, tmp_path / "wanted", *sets))
    with monkeypatch.context() as patch:
        spoil(patch, BAD)
        trainer = Trainer(open_mix(mix_path), thin(*sets), select_runtime("cpu"), tmp_path / "run")
        trainer.checks_each_step = checks_each_step
        trainer.run_steps(StopRequest())
    found = load_checkpoint(tmp_path / "run")
    assert_same(found.model, wanted.model)
    assert_same(found.optimizer, wanted.optimizer)
    assert found.tally["bad_steps"] == [BAD + 1]
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [4, 8]
    assert lines[-1]["bad_steps"] == 1
    assert lines[-1]["frames_read"] < metrics(tmp_path / "wanted")[-1]["frames_read"]
    assert load_checkpoint(tmp_path / "run" / f"bad-step-{BAD + 1:08d}" / "checkpoint.pt").step == BAD


@pytest.mark.parametrize("checks_each_step", [True, False])
def test_what_is_due_after_a_bad_step_is_done_all_the_same(
    checks_each_step: bool, mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the last step, and where a checkpoint falls on it."""
    spoil(monkeypatch, 2, 7)
    sets = ["optim.bad_step=skip", "log.every=1", "checkpoint.keep=0"]
    trainer = Trainer(open_mix(mix_path), thin(*sets), select_runtime("cpu"), tmp_path / "run")
    trainer.checks_each_step = checks_each_step
    trainer.run_steps(StopRequest())
    assert [load_checkpoint(path).step for path in list_checkpoints(tmp_path / "run")] == [3, 6, 8]
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 4, 5, 6, 7]
    assert load_checkpoint(tmp_path / "run").tally["bad_steps"] == [3, 8]
    files = sorted(path.name for path in (tmp_path / "run" / "exposure").iterdir())
    assert files == [f"steps-{first:08d}-{last:08d}.parquet" for first, last in ((1, 3), (4, 6), (7, 8))]


def test_too_many_bad_steps_end_the_run(
    mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(monkeypatch, 1, 2, 5)
    with pytest.raises(MumError, match=r"step 6: .*bad_steps_max=2"):
        run(mix_path, tmp_path / "run", "optim.bad_step=skip", "optim.bad_steps_max=2")
    assert caplog.text.count("is left out") == 2


def test_a_gradient_is_shortened_only_where_it_is_asked_for(mix_path: Path, tmp_path: Path) -> None:
    """With plain SGD's view of it: AdamW's first running mean after one step is 0.1 times the gradient."""

    def length(*sets: str) -> float:
        found = load_checkpoint(run(mix_path, tmp_path / "-".join(["run", *sets]), "steps=1", *sets))
        means = [state["exp_avg"] for state in found.optimizer["state"].values()]
        return float(torch.stack([mean.square().sum() for mean in means]).sum().sqrt()) / (1 - 0.9)

    whole = length()
    assert whole == pytest.approx(metrics(tmp_path / "run")[-1]["grad_norm"], rel=1e-3)
    assert length("optim.clip=0.01") == pytest.approx(0.01, rel=1e-3)
    assert length(f"optim.clip={2 * whole}") == pytest.approx(whole, rel=1e-6)


def test_a_full_disk_keeps_the_old_checkpoint_and_goes_on(
    mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = torch.save

    def full(content: Any, file: Any) -> None:
        if content["step"] == 6:
            file.write(b"some of it")
            raise RuntimeError("[enforce fail at inline_container.cc:882] . PytorchStreamWriter failed writing file")
        usual(content, file)

    monkeypatch.setattr(torch, "save", full)
    folder = run(mix_path, tmp_path / "run", "steps=9", "checkpoint.keep=1")
    assert "training goes on, the checkpoint before stays" in caplog.text
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000009.pt"]
    assert metrics(folder)[-1]["step"] == 9
    with pytest.raises(MumError, match="was not written"):  # the last one is what the run was for
        run(mix_path, tmp_path / "short", "steps=6")
    assert [path.name for path in list_checkpoints(tmp_path / "short")] == ["step-00000003.pt"]


def test_lines_wait_for_a_full_disk(
    mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of metrics are all there in the end; a ledger that cannot be written costs its checkpoint."""
    straight = run(mix_path, tmp_path / "straight", "log.every=1")
    usual, ledger = mumtrain.runlog.log.append_line, mumtrain.trainer.write_exposure

    def exposure(run: Path, first: int, last: int, *rest: Any) -> Path:
        if last == 3:
            raise MumError("cannot write exposure: no space left on the device")
        return ledger(run, first, last, *rest)

    monkeypatch.setattr(mumtrain.trainer, "write_exposure", exposure)
    tries = iter([False, True])

    def later(path: Path, values: Any) -> None:
        if values["step"] == 3 and not next(tries, True):
            raise MumError(f"cannot write {path}: no space left on the device")
        usual(path, values)

    monkeypatch.setattr(mumtrain.runlog.log, "append_line", later)
    full = run(mix_path, tmp_path / "full", "log.every=1", "checkpoint.keep=0")
    assert metrics(full) == metrics(straight)
    assert caplog.text.count("training goes on") == 2
    assert [load_checkpoint(path).step for path in list_checkpoints(full)] == [6, 8]
    assert sorted(path.name for path in (full / "exposure").iterdir())[0] == "steps-00000001-00000006.parquet"


def test_half_a_line_costs_no_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lines.jsonl"
    append_line(path, {"step": 1})
    with open(path, "a") as file:
        file.write('{"step": 2, "lo')
    append_line(path, {"step": 2, "name": "\udc80"})
    assert read_lines(path) == [{"step": 1}, {"step": 2, "name": "\udc80"}]
    assert keep_lines(path, 1) == [{"step": 1}]
    assert path.read_text() == '{"step": 1}\n'


def test_what_a_user_may_not_mean_is_told(
    mix_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(mix_path, tmp_path / "run", "steps=1", resume=True)
    assert f"{tmp_path / 'run'} holds no checkpoint to resume from" in caplog.text
    assert "on a processor" not in caplog.text
    monkeypatch.setattr(mumtrain.trainer.Trainer, "run_steps", lambda *_: None)
    pretrain(mix_path, recipe="mum-vits16", set=["data.size=32", "data.slots=1000"], out=tmp_path / "b", device="cpu")
    assert "many minutes on a processor" in caplog.text


def test_a_run_has_one_process(mix_path: Path, tmp_path: Path) -> None:
    folder = run(mix_path, tmp_path / "run", "steps=3")
    with RunLock(folder) as lock:
        lock.take()
        with pytest.raises(MumError, match="being trained by another process"):
            run(mix_path, folder, "steps=4", resume=True)
    run(mix_path, folder, "steps=4", resume=True)


def test_a_run_that_had_not_begun_is_no_hindrance(mix_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / f".config.json.{re.sub('[^A-Za-z0-9-]', '-', socket.gethostname())[:64]}.999999999.tmp").write_text("{")
    run(mix_path, folder, "steps=1")
    assert load_checkpoint(folder).step == 1


def test_broken_checkpoints_do_not_count_among_those_kept(mix_path: Path, tmp_path: Path) -> None:
    folder = run(mix_path, tmp_path / "run", "steps=6", "checkpoint.keep=0")
    truncate(list_checkpoints(folder)[-1])
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, 4)
        with pytest.raises(MumError):
            run(mix_path, folder, "steps=6", "checkpoint.every=1", "checkpoint.keep=1", resume=True)
    assert load_checkpoint(folder).step == 4
    assert (folder / "checkpoints" / "step-00000006.pt.broken").exists()


def test_a_flipped_bit_is_found(mix_path: Path, tmp_path: Path) -> None:
    folder = run(mix_path, tmp_path / "run", "steps=3")
    (path,) = list_checkpoints(folder)
    data = bytearray(path.read_bytes())
    middle = data.index(load_checkpoint(path).model["decoder.head.weight"].numpy().tobytes()[:64])
    data[middle + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(MumError, match="is broken"):
        load_checkpoint(path)


def test_a_card_that_cannot_be_written_changes_nothing(
    mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: Path) -> None:
        raise MumError(f"cannot write {folder}/card.md")

    monkeypatch.setattr(mumtrain.train, "write_card", refuse)
    assert load_checkpoint(run(mix_path, tmp_path / "run", "steps=3")).step == 3
    assert "mumtrain card" in caplog.text


def test_checkpoints_of_every_so_many_steps_stay(mix_path: Path, tmp_path: Path) -> None:
    folder = run(mix_path, tmp_path / "run", "checkpoint.every=1", "checkpoint.keep=1", "checkpoint.keep_every=3")
    assert [path.name for path in list_checkpoints(folder)] == [f"step-0000000{step}.pt" for step in (3, 6, 8)]


def test_changes_may_be_accepted_and_are_told(
    mix_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(mix_path, tmp_path / "run", "steps=3")
    options: dict[str, Any] = {"recipe": "debug-cpu", "out": folder, "resume": True, "device": "cpu"}
    changed = [*THIN, "steps=4", "optim.lr=0.02", "optim.weight_decay=0.25", "optim.betas=0.5,0.75"]
    with pytest.raises(ConfigError, match=r"optim\.lr \(was 0.008, now 0.02\), .*--accept-changes"):
        pretrain(mix_path, set=changed, **options)
    assert not [record for record in caplog.records if "from step 3" in record.message]
    pretrain(mix_path, set=changed, accept_changes=True, **options)
    assert load_checkpoint(folder).step == 4
    assert load_checkpoint(folder).config.optim.lr == 0.02
    groups = load_checkpoint(folder).optimizer["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.25, 0.0]
    assert {tuple(group["betas"]) for group in groups} == {(0.5, 0.75)}
    starts = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert starts[0]["notes"] == []
    assert "now 0.25); from step 3 on it is another run" in "".join(starts[1]["notes"])
    # another library
    caplog.clear()
    newest = list_checkpoints(folder)[-1]
    content = torch.load(newest, weights_only=True)
    torch.save({**content, "made_by": {**content["made_by"], "torch": "1.0", "threads": "77"}}, newest)
    pretrain(mix_path, set=[*changed, "steps=5"], **options)
    assert f"torch 1.0 -> {torch.__version__}" in caplog.text
    assert "threads 77 -> " in caplog.text
    assert "may differ by rounding" in caplog.text


def test_losses_are_told_by_dataset_and_by_views(mix_path: Path, tmp_path: Path) -> None:
    """Against the same steps run by hand, sequence by sequence."""
    sets = ["data.slots=2", "steps=3", "log.every=3"]
    line = metrics(run(mix_path, tmp_path / "run", *sets))[-1]
    config = thin(*sets)
    trainer = Trainer(open_mix(mix_path), config, select_runtime("cpu"), tmp_path)
    by_dataset: dict[str, list[float]] = {}
    by_views: dict[str, list[float]] = {}
    with Loader(trainer.sampler, trainer.frames, config) as loader:
        for step in range(3):
            set_lr(trainer.optimizer, lr_at(config, step))
            trainer.optimizer.zero_grad()
            for slot in open_feed(loader, loader.load((step, slot) for slot in range(2)), trainer.runtime):
                batch, masks = slot.loaded.batch, slot_masks(slot.views, config, step, slot.loaded.batch.slot)
                mean = trainer.model(slot.views, masks)
                (mean / 2).backward()
                patches = patchify(normalise(slot.views, "imagenet"), 16)
                predicted = trainer.model.predict(patches, (2, 2), masks).values
                truth = normalise_patches(patches.flatten(1, 2)).patches
                for number, drawn in enumerate(batch.sequences):
                    error = (predicted[number] - truth[number][masks.hidden_BH[number]]).square()
                    by_dataset.setdefault(trainer.frames[drawn.dataset].name, []).append(float(error.mean().detach()))
                    by_views.setdefault(str(batch.views), []).append(float(error.mean().detach()))
            trainer.optimizer.step()
    for key, found in (("loss_by_dataset", by_dataset), ("loss_by_views", by_views)):
        assert line[key] == pytest.approx({name: float(np.mean(losses)) for name, losses in found.items()}, rel=1e-5)
    assert len(by_dataset) > 1
    assert len(by_views) > 1


@pytest.mark.slow
def test_the_loss_falls(mix_path: Path, tmp_path: Path) -> None:
    folder = run(mix_path, tmp_path / "run", "steps=160", "log.every=10", "optim.warmup_steps=5", "optim.lr=0.1")
    losses = [line["loss"] for line in metrics(folder)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.015


def test_single_images_are_nothing_for_pairs(mix_path: Path, tmp_path: Path) -> None:
    pairs = ["data.views_max=2", "mask.references=1", "model.decoder_attention=cross"]
    with pytest.raises(ConfigError, match=r"imagenet has single images.*--weight imagenet=0"):
        run(mix_path, tmp_path / "run", *pairs)
    assert not (tmp_path / "run").exists()


def test_metrics_go_where_they_are_asked_for(mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard always, Weights & Biases by a stand-in for its package."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MumError, match=r"pip install 'mumdata\[wandb\]'"):
        run(mix_path, tmp_path / "none", "log.wandb=mine")
    told: list[tuple[str, Any]] = []

    class Curve:
        def log(self, values: dict[str, float], step: int) -> None:
            told.append(("log", (step, values)))

        def finish(self) -> None:
            told.append(("finish", None))

    package = types.SimpleNamespace(init=lambda **options: told.append(("init", options)) or Curve())
    monkeypatch.setitem(sys.modules, "wandb", package)
    folder = run(mix_path, tmp_path / "run", "log.wandb=mine")
    assert told[0][1]["project"] == "mine"
    assert told[0][1]["id"] == "run"
    assert told[-1][0] == "finish"
    lines = metrics(folder)
    for (_, (step, values)), line in zip(told[1:-1], lines, strict=True):
        assert step == line["step"]
        assert values["loss"] == line["loss"]
        assert values["loss_by_views/1"] == line["loss_by_views"]["1"] if "1" in line["loss_by_views"] else True
        assert None not in values.values()
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    for name in ("loss", "lr", "grad_norm", "frames_per_s", "data_wait", "tflops_per_s", "memory_gb", "gpu_hours"):
        assert [event.step for event in board.Scalars(name)] == [2, 4, 6, 8], name
    assert board.Scalars("loss")[-1].value == pytest.approx(lines[-1]["loss"], rel=1e-6)


# ---- checkpoints


class Payload:
    """What an attacker's checkpoint holds: opening it would run code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_checkpoint_that_asks_to_run_code_is_refused(tmp_path: Path) -> None:
    path, mark = tmp_path / "step-00000001.pt", tmp_path / "ran"
    torch.save({"format": 1, "model": Payload(mark)}, path)
    with pytest.raises(MumError, match="not opened"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(MumError, match=str(path)):
        load_checkpoint(path)
    assert not mark.exists()


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(MumError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(MumError, match="no checkpoint in"):
        load_checkpoint(tmp_path)
    for content in (b"", b"hello", b"PK\x03\x04" + bytes(100)):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(MumError, match=r"x\.pt"):
            load_checkpoint(tmp_path / "x.pt")
    torch.save({"state": torch.zeros(3)}, tmp_path / "x.pt")
    with pytest.raises(MumError, match="no mumtrain checkpoint"):
        load_checkpoint(tmp_path / "x.pt")


# ---- starting from other weights


@pytest.fixture(scope="module")
def trained(mix_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(mix_path, tmp_path_factory.mktemp("trained") / "run", "steps=3")


def test_a_run_starts_from_another_s_weights(trained: Path, mix_path: Path, tmp_path: Path) -> None:
    def first_weights(folder: Path, **options: Any) -> dict[str, torch.Tensor]:
        # with a rate of next to nothing the first checkpoint holds what the run began with
        sets = [*THIN, "steps=1", "optim.lr=1e-30", "optim.weight_decay=0", "seed=5"]
        pretrain(mix_path, recipe="debug-cpu", set=sets, out=folder, device="cpu", **options)
        return load_checkpoint(folder).model

    theirs, anew = load_checkpoint(trained).model, first_weights(tmp_path / "anew")
    begun = first_weights(tmp_path / "begun", init=trained)
    assert all(torch.equal(begun[name], theirs[name]) for name in theirs)
    assert not torch.equal(begun["encoder.patch_embedding.weight"], anew["encoder.patch_embedding.weight"])
    told = json.loads((tmp_path / "begun" / "init.json").read_text())
    assert told["anew"] == []
    assert len(told["sha256"]) == 64


def test_init_counts_for_new_runs_alone(
    trained: Path, mix_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def begin(folder: Path, *sets: str, resume: bool = False) -> None:
        options: dict[str, Any] = {"out": folder, "init": trained, "resume": resume, "device": "cpu"}
        pretrain(mix_path, recipe="debug-cpu", set=[*THIN, *sets], **options)

    with pytest.raises(ConfigError, match=r"model\.encoder\.depth=1"):
        begin(tmp_path / "other", "model.encoder.depth=2")
    folder = tmp_path / "run"
    begin(folder, "steps=1")
    begin(folder, "steps=2", resume=True)
    assert "--init counts for new runs alone" in caplog.text
    for path in list_checkpoints(folder):
        path.unlink()
    with pytest.raises(MumError, match="give --init again"):
        run(mix_path, folder, "steps=2", resume=True)
