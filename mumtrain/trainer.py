"""The training loop of one process.

In: a mix, a config, a device, and the other ranks of the run. Out: the run's folder, as `mumtrain.train` describes it.

A step's slots are shared by the ranks, side by side. Each rank sums the gradients of its slots, then they are averaged
over the ranks: the mean over all slots, however many ranks there are. Nothing in a step waits for the device; what the
host must know of a step it learns when it logs.
"""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mumdata.catalog import Mix
from mumdata.errors import MumError
from mumtrain.bad_steps import bad_step_folder, save_slot, save_state
from mumtrain.checkpoint import Checkpoint, content_of, list_checkpoints, made_by, restore_model
from mumtrain.checkpoint_writer import CheckpointWriter
from mumtrain.compiled import Compilations, compile_blocks
from mumtrain.config import Config
from mumtrain.cross_view import open_probe, summarise
from mumtrain.exposure import Ledger, Visits, compact_exposure, drop_exposure_after, write_exposure
from mumtrain.feed import Feed, open_feed
from mumtrain.first_look import check_files
from mumtrain.flops import slot_flops
from mumtrain.loader import Loader, open_frames
from mumtrain.model.autoencoder import build_model
from mumtrain.optim import build_optimizer, lr_at, restore_optimizer
from mumtrain.pictures import open_pictures
from mumtrain.ranks import Place, Ranks
from mumtrain.runlog import RunLog
from mumtrain.runlog.steps import Done
from mumtrain.runtime import Runtime
from mumtrain.sampler import open_sampler, rank_slots
from mumtrain.signals import Stopped, StopRequest
from mumtrain.step import SlotLosses, add_gradient, begin_step, finish_step, slot_masks

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)


class Trainer:
    """A run in this process: model, optimiser, loader and log, from a step to the last."""

    def __init__(self, mix: Mix, config: Config, runtime: Runtime, run: Path, ranks: Ranks | None = None) -> None:
        """Build what is trained. Raises ConfigError and LayoutError for what would stop the first step."""
        self.mix, self.config, self.runtime, self.run = mix, config, runtime, run
        self.ranks = ranks if ranks is not None else Ranks(Place(), runtime.device)
        self.slots = rank_slots(self.ranks.rank, self.ranks.size, config.data.slots)
        self.sampler = open_sampler(mix, config)
        self.frames = open_frames(mix)
        check_files(self.sampler, self.frames)
        self.model = build_model(config, device=runtime.device)
        self.optimizer = build_optimizer(self.model, config)
        self.start = 0
        self._log_state: dict[str, Any] | None = None
        self._made_by = made_by(runtime.device, self.ranks.size)
        self._flops: dict[tuple[int, int], int] = {}
        # becomes 1 at a bad step, on the device: no weight changes any more until the host has seen to it
        self._halted = torch.zeros((), device=runtime.device)
        self._compilations: Compilations | None = None
        self._told_of_compiling: str | None = None
        # looking at a loss waits for the device: on the processor that costs nothing
        self.checks_each_step = runtime.device.type == "cpu"

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint."""
        restore_model(self.model, checkpoint, self.run)
        restore_optimizer(self.optimizer, checkpoint.optimizer, self.run)
        self.start, self._log_state = checkpoint.step, checkpoint.tally

    def run_steps(self, request: StopRequest) -> None:
        """Run the steps that are left, logging and saving on the way.

        Raises Stopped where the run was asked to stop, when all that it needs to continue has been written; MumError
        for a bad step, too many broken images, or a rank that was lost.
        """
        config, step = self.config, self.start
        if step >= config.steps:
            return
        names = [dataset.name for dataset in self.mix.datasets]
        if self.ranks.is_first:
            for first, last in drop_exposure_after(self.run, self.start):
                logger.warning("what steps %d to %d of %s read is no longer in its exposure/", first, last, self.run)
        self._losses = self._prepared()
        # the first rank keeps what could not be written
        self._ledger, self._ledger_from, self._visits = Ledger(names), self.start, list[Visits]()
        self._probe = open_probe(self.mix, self.frames, config) if config.log.gain_every else None
        draws = config.log.pictures_every and self.ranks.is_first
        self._pictures = open_pictures(self.mix, self.frames, config) if draws else None
        self._writer = CheckpointWriter(self.run, config.checkpoint.keep, config.checkpoint.keep_every)
        with ExitStack() as open_:
            loader = open_.enter_context(Loader(self.sampler, self.frames, config))
            log = open_.enter_context(
                RunLog(self.run, config, names, self.runtime.device, self.ranks, self.start, self._log_state)
            )
            open_.callback(self._writer.wait)
            while step < config.steps:
                step = self._run_from(step, loader, log, request)
            if not self._writer.wait():
                raise MumError(
                    f"the last checkpoint of {self.run} was not written; see above, and continue with --resume"
                )

    def _prepared(self) -> nn.Module:
        # the model as the loop calls it
        if self.config.compile == "always" or (self.config.compile == "auto" and self.runtime.device.type == "cuda"):
            self._compilations = compile_blocks(self.model)
        losses = SlotLosses(self.model)
        if self.ranks.size == 1:
            return losses
        on_cuda = self.runtime.device.type == "cuda"
        wrapped = DistributedDataParallel(
            losses,
            device_ids=[self.runtime.device] if on_cuda else None,
            gradient_as_bucket_view=True,
        )
        self._settle_buckets(wrapped)
        return wrapped

    def _settle_buckets(self, wrapped: nn.Module) -> None:
        # after the first backward pass the gradients' buckets are laid out anew, which changes the order of sums: it is
        # done with here, so that a resumed run sums as an uninterrupted one
        S, device = self.config.data.size, self.runtime.device
        views = torch.zeros(1, self.config.data.views_min, 3, S, S, dtype=torch.uint8, device=device)
        masks = slot_masks(views, self.config, 0, 0)
        for _ in range(2):
            with self.ranks.lost_ranks():
                with self.runtime.autocast():
                    loss = wrapped(views, masks).mean
                loss.backward()
        self.optimizer.zero_grad(set_to_none=True)

    # ---- steps

    def _run_from(self, first: int, loader: Loader, log: RunLog, request: StopRequest) -> int:
        # run until the end, or until a bad step is left out; return the step to go on with
        config = self.config
        keys = ((step, slot) for step in range(first, config.steps) for slot in self.slots)
        with open_feed(loader, loader.load(keys), self.runtime) as feed:
            for step in range(first, config.steps):
                self._step(step, feed, log)
                done = step + 1
                stops = self.ranks.agree(bool(request)) and done < config.steps
                if self._must_look(done, stops) and (bad := log.first_bad_step()) is not None:
                    break
                self._between(log, done, stops)
                if stops:
                    self._stop(done, request)
            else:
                return config.steps
        self._leave_out(bad, loader, log)
        self._between(log, bad.step)  # what is due after it is due all the same
        return bad.step

    def _step(self, step: int, feed: Feed, log: RunLog) -> None:
        config, num = self.config, len(self.slots)
        begin_step(self.optimizer, config, step)
        total = torch.zeros((), device=self.runtime.device)
        for number in range(num):
            before = time.perf_counter()
            slot = next(feed)
            waited = time.perf_counter() - before
            with self._unshared(number < num - 1), self.ranks.lost_ranks():
                loss, losses = add_gradient(self._losses, slot, num, config, self.runtime)
            total += loss
            B, V = slot.views.shape[:2]
            log.add_slot(slot.loaded, losses.of_sequences, self._flops_of(B, V), waited)
            self._ledger.add(step, slot.loaded)
        total = self.ranks.mean(total)
        norm, self._halted = finish_step(self.model, self.optimizer, total, self._halted, config)
        log.add_step(step + 1, total, norm)

    def _unshared(self, is_unshared: bool) -> AbstractContextManager[Any]:
        # gradients are averaged over the ranks once a step, with those of the last slot
        if is_unshared and isinstance(self._losses, DistributedDataParallel):
            return self._losses.no_sync()
        return nullcontext()

    def _flops_of(self, num_sequences: int, num_views: int) -> int:
        key = (num_sequences, num_views)
        if key not in self._flops:
            self._flops[key] = slot_flops(self.config, num_sequences, num_views)
        return self._flops[key]

    # ---- between steps

    def _is_due(self, every: int, done: int) -> bool:
        return bool(every) and (done % every == 0 or done == self.config.steps)

    def _must_look(self, done: int, stops: bool) -> bool:
        # whether the host must know of the steps so far
        config = self.config
        periods = (config.log.every, config.checkpoint.every, config.log.gain_every, config.log.pictures_every)
        return stops or self.checks_each_step or any(self._is_due(every, done) for every in periods)

    def _between(self, log: RunLog, done: int, stops: bool = False) -> None:
        config = self.config
        if self._is_due(config.log.every, done) and log.has_steps:
            self._log(log, done)
        with log.aside():
            self._look(log, done)
        if stops or self._is_due(config.checkpoint.every, done):
            self._save(log, done)

    def _log(self, log: RunLog, done: int) -> None:
        log.write(done, lr_at(self.config, done - 1))
        told = self._compilations.report() if self._compilations is not None else None
        if told and told != self._told_of_compiling:
            logger.warning("%s", told)
        self._told_of_compiling = told

    def _look(self, log: RunLog, done: int) -> None:
        # pictures, and whether the model uses its other views
        if self._pictures is not None and self._is_due(self.config.log.pictures_every, done):
            path, pixels = self._pictures.draw(self.model, self.runtime, self.run, done)
            logger.debug("drew %s", path)
            log.picture(done, "reconstruction", pixels)
        if self._probe is not None and self._is_due(self.config.log.gain_every, done):
            parts = self.ranks.gather(self._probe.measure(self.model, self.runtime, self.ranks.rank, self.ranks.size))
            if self.ranks.is_first:
                report = summarise(parts)
                log.append("gain.jsonl", {"step": done, **report.to_dict()})
                log.numbers(done, report.numbers())

    def _save(self, log: RunLog, done: int) -> None:
        # the ledger first: where the checkpoint is, the visits up to it are known
        self._visits += self.ranks.gather(self._ledger.take())
        tally = log.state_dict()
        if not self.ranks.is_first:
            self._visits = []
            return
        try:
            if done > self._ledger_from:
                write_exposure(self.run, self._ledger_from + 1, done, self._visits, self.mix)
                self._ledger_from, self._visits = done, []
                compact_exposure(self.run, self._kept_steps(done))
        except MumError as error:
            # a checkpoint without its ledger would count its steps no more
            self._writer.refuse(error)
            return
        self._writer.save(done, self._content(done, tally))

    def _kept_steps(self, done: int) -> set[int]:
        # steps that a run may continue from: their visits must not become one with later ones
        return {done, *(int(path.stem.removeprefix("step-")) for path in list_checkpoints(self.run))}

    def _content(self, step: int, tally: dict[str, Any]) -> dict[str, Any]:
        return content_of(step, self.model, self.optimizer, self.config, self.mix.content_digest, tally, self._made_by)

    def _stop(self, done: int, request: StopRequest) -> None:
        saved = self.ranks.from_first(self._writer.wait())
        if not saved:
            raise MumError(f"asked to stop after step {done}, but its checkpoint was not written; see above")
        raise Stopped(done, request.why or "another rank")

    # ---- bad steps

    def _leave_out(self, bad: Done, loader: Loader, log: RunLog) -> None:
        # the model is as it was before the bad step: write it with what the step read, then go on without it, or end
        log.forget_from(bad.step)
        self._ledger.forget_from(bad.step - 1)
        self._halted.zero_()
        self.optimizer.zero_grad(set_to_none=True)
        folder, tally = bad_step_folder(self.run, bad.step), log.state_dict()
        optim = self.config.optim
        log.bad_steps.append(bad.step)
        with log.aside():
            for loaded in loader.load((bad.step - 1, slot) for slot in self.slots):
                save_slot(folder, loaded, self.frames)
            if self.ranks.is_first:
                self._writer.wait()
                told = {"step": bad.step, "loss": str(bad.loss), "grad_norm": str(bad.norm)}
                told |= {"lr": str(lr_at(self.config, bad.step - 1)), "slots": str(self.config.data.slots)}
                save_state(folder, self._content(bad.step - 1, tally), told)
            self.ranks.wait()
        what = "loss" if not np.isfinite(bad.loss) else "gradient"
        value = bad.loss if what == "loss" else bad.norm
        words = f"step {bad.step}: the {what} is {value}, no longer a number; state and batch are in {folder}"
        if optim.bad_step == "stop":
            raise MumError(
                f"{words}; look with 'mumtrain replay {folder}', then --resume with --set optim.bad_step=skip, which "
                f"leaves such steps out, or with --accept-changes and a lower optim.lr (now {optim.lr:g})"
            )
        if len(log.bad_steps) > optim.bad_steps_max:
            raise MumError(f"{words}; these are more such steps than optim.bad_steps_max={optim.bad_steps_max} allows")
        if self.ranks.is_first:
            logger.warning("%s; the step is left out", words)
