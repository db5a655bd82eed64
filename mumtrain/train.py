"""`mumtrain pretrain`: a mix and a recipe in, a run folder out.

In: mix.parquet and a recipe. Out: RUN/config.json, metrics.jsonl, tensorboard/, checkpoints/ and, where images are bad,
quarantine-0.jsonl; init.json tells the weights that it started from, if any. A run that was interrupted continues with
`resume`, bit for bit on the processor.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mumdata.catalog import Mix, open_mix
from mumdata.errors import MumError
from mumdata.files import write_text
from mumtrain.checkpoint import (
    Checkpoint,
    check_same_run,
    list_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
    restore_model,
    save_checkpoint,
)
from mumtrain.config import Config, apply, to_dict
from mumtrain.feed import Feed, Slot, open_feed
from mumtrain.loader import Loader, open_frames
from mumtrain.masks.draw import draw_masks
from mumtrain.model.autoencoder import build_model
from mumtrain.optim import build_optimizer, lr_at, set_lr
from mumtrain.recipes import recipe as recipe_of
from mumtrain.runlog import RunLog
from mumtrain.runtime import Runtime, select_runtime
from mumtrain.sampler import Drawn, open_sampler
from mumtrain.weights.init import initialise_from

__all__ = ["pretrain", "Trainer", "slot_loss", "grad_norm"]

logger = logging.getLogger(__name__)


def pretrain(
    mix: Path,
    *,
    recipe: str = "mum-vitl16",
    set: Sequence[str] = (),
    out: Path | None = None,
    resume: bool = False,
    init: Path | None = None,
    init_parts: str = "auto",
    device: str | None = None,
) -> Path:
    """Train a recipe on a mix and return the run's folder (default runs/<mix>-<recipe>).

    `set` holds `section.key=value` changes to the recipe. A folder that is not empty needs `resume`, which continues
    from the newest whole checkpoint; a folder without one starts from the beginning. `init` is a file whose weights the
    run starts from (see `mumtrain.weights`): the encoder, all, or all that fits, as `init_parts` says; where a run is
    continued it counts for nothing. `device` is cpu, cuda or cuda:N; by default CUDA where there is one. Raises
    ConfigError, CatalogError and LayoutError before anything is written, MumError where the loss is no longer a number
    or too many images are broken.
    """
    config = apply(recipe_of(recipe), set)
    runtime = select_runtime(device)
    opened = open_mix(Path(mix))
    run = Path("runs", f"{Path(mix).stem}-{recipe}") if out is None else Path(out)
    checkpoint = _claim(run, resume)
    if checkpoint is not None:
        check_same_run(checkpoint, config, opened.content_digest, run)
        if init is not None:
            logger.warning("%s continues from its step %d; --init counts for new runs alone", run, checkpoint.step)
    elif resume and init is None and (run / "init.json").exists():
        raise MumError(
            f"{run} began with the weights named in {run / 'init.json'} and has no checkpoint yet; give --init again"
        )
    trainer = Trainer(opened, config, runtime, run, checkpoint, init, init_parts)
    write_text(run / "config.json", json.dumps(to_dict(config), indent=2) + "\n")
    trainer.run_steps()
    return run


def _claim(run: Path, resume: bool) -> Checkpoint | None:
    # decide whether the folder may be written to, and where the run continues
    if run.exists() and not run.is_dir():
        raise MumError(f"{run} is a file; choose another folder with --out")
    if not run.exists() or not any(run.iterdir()):
        return None
    if not resume:
        raise MumError(f"{run} is not empty; continue that run with --resume, or choose another folder with --out")
    if not (run / "config.json").exists():
        raise MumError(f"{run} is not the folder of a run (no config.json); choose another folder with --out")
    for leftover in (run / "checkpoints").glob(".step-*.tmp"):
        leftover.unlink()  # half a checkpoint, from a run that was killed while writing it
    found = newest_checkpoint(run)
    if found is None and list_checkpoints(run):
        raise MumError(f"none of the checkpoints in {run / 'checkpoints'} can be read; delete the folder to start anew")
    return found


class Trainer:
    """One process's run: model, optimiser, loader and log, from a step to the last."""

    def __init__(
        self,
        mix: Mix,
        config: Config,
        runtime: Runtime,
        run: Path,
        checkpoint: Checkpoint | None = None,
        init: Path | None = None,
        init_parts: str = "auto",
    ) -> None:
        self.mix, self.config, self.runtime, self.run = mix, config, runtime, run
        self.sampler = open_sampler(mix, config)
        self.frames = open_frames(mix)
        self.model = build_model(config, device=runtime.device)
        if init is not None and checkpoint is None:
            begun = initialise_from(self.model, init, config=config.model, parts=init_parts)
            write_text(run / "init.json", json.dumps(begun.to_dict(), indent=2) + "\n")
        self.optimizer = build_optimizer(self.model, config)
        self.start = 0
        self._log_state: dict[str, Any] | None = None
        if checkpoint is not None:
            restore_model(self.model, checkpoint, run)
            self.optimizer.load_state_dict(checkpoint.optimizer)
            self.start, self._log_state = checkpoint.step, checkpoint.tally

    def run_steps(self) -> None:
        """Run the steps that are left, logging and saving on the way."""
        config, steps = self.config, range(self.start, self.config.steps)
        if not steps:
            return
        keys = ((step, slot) for step in steps for slot in range(config.data.slots))
        with (
            Loader(self.sampler, self.frames, config) as loader,
            open_feed(loader, loader.load(keys), self.runtime) as feed,
            RunLog(self.run, config, self.start, self._log_state) as log,
        ):
            for step in steps:
                self._step(step, feed, log)

    def _step(self, step: int, feed: Feed, log: RunLog) -> None:
        config, done = self.config, step + 1
        logs = done % config.log.every == 0 or done == config.steps
        saves = done % config.checkpoint.every == 0 or done == config.steps
        lr = lr_at(config, step)
        set_lr(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.runtime.device)
        for _ in range(config.data.slots):
            before = time.perf_counter()
            slot = next(feed)
            log.add_slot(slot.loaded, time.perf_counter() - before)
            # the step's loss is the mean of the slots' means, however many frames each of them holds
            loss = slot_loss(self.model, slot, config, self.runtime) / config.data.slots
            loss.backward()
            total += loss.detach()
        norm = grad_norm(self.model.parameters()) if logs else None
        self.optimizer.step()
        log.add_step(total)
        # the one place that waits for the device: on CUDA only now and then, on the processor it costs nothing
        if (logs or saves or self.runtime.device.type == "cpu") and (bad := log.first_bad_loss()):
            raise self._diverged(log, *bad)
        if norm is not None:
            log.write(done, self.optimizer.param_groups[0]["lr"], float(norm))
        if saves:
            state = log.state_dict()
            save_checkpoint(self.run, done, self.model, self.optimizer, config, self.mix.content_digest, state)
            prune_checkpoints(self.run, config.checkpoint.keep)

    def _diverged(self, log: RunLog, done: int, loss: float) -> MumError:
        # what the step drew can be told again, as it is a function of the step; what took the place of broken images
        # is known from when it was read
        slots = []
        for slot in range(self.config.data.slots):
            batch = self.sampler.batch(done - 1, slot)
            replaced = log.replaced(done - 1, slot)
            sequences = [
                {
                    "dataset": self.frames[drawn.dataset].name,
                    "sequence": drawn.sequence,
                    "frame_ids": drawn.frame_ids.tolist(),
                    "paths": [self.frames[drawn.dataset].row(int(f))["path"] for f in drawn.frame_ids],
                    "substitutes": [] if replaced is None else self._substitutes(drawn, replaced[number]),
                }
                for number, drawn in enumerate(batch.sequences)
            ]
            slots.append({"slot": slot, "views": batch.views, "sequences": sequences})
        told = {"step": done, "loss": str(loss), "lr": lr_at(self.config, done - 1), "slots": slots}
        path = self.run / f"diverged-step-{done:08d}.json"
        write_text(path, json.dumps(told, indent=2) + "\n")
        return MumError(
            f"step {done}: the loss is {loss}, no longer a number; what it read stands in {path}; lower optim.lr "
            f"(peak {self.config.optim.lr:g} x slots x frames / 256) or lengthen optim.warmup_steps"
        )

    def _substitutes(self, drawn: Drawn, shown: np.ndarray) -> list[dict[str, Any]]:
        # the images that views of a sequence show, int32 [V, 2], where they are others than those drawn
        return [
            {
                "view": view,
                "dataset": self.frames[dataset].name,
                "frame_id": frame_id,
                "path": self.frames[dataset].row(frame_id)["path"],
            }
            for view, (dataset, frame_id) in enumerate(shown.tolist())
            if (dataset, frame_id) != (drawn.dataset, int(drawn.frame_ids[view]))
        ]


def slot_loss(model: nn.Module, slot: Slot, config: Config, runtime: Runtime) -> torch.Tensor:
    """Return the loss of a slot, a float32 scalar on the device."""
    batch = slot.loaded.batch
    B, V, _, H, W = slot.views.shape
    masks = draw_masks(
        config.mask,
        B,
        V,
        (H // config.model.patch, W // config.model.patch),
        seed=config.seed,
        step=batch.step,
        slot=batch.slot,
        device=slot.views.device,
    )
    with runtime.autocast():
        loss: torch.Tensor = model(slot.views, masks)
    return loss


def grad_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """Return the length of the gradient over all parameters, a scalar on the device."""
    grads = [p.grad for p in parameters if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(grad) for grad in grads]))
