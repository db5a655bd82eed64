"""A run's metrics: RUN/metrics.jsonl, TensorBoard and the progress bar.

In: the steps of this process, their losses left on the device until they are needed. Out: a line every `log.every`
steps over all ranks, written by the first of them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mumdata.errors import MumError
from mumtrain.config import Config
from mumtrain.devices import device_name, memory_gb, peak_bf16_tflops
from mumtrain.loader import Loaded
from mumtrain.ranks import Ranks
from mumtrain.runlog.bar import open_bar
from mumtrain.runlog.lines import append_line, keep_lines, read_lines
from mumtrain.runlog.quarantine import Quarantine
from mumtrain.runlog.sinks import Sink, open_sinks
from mumtrain.runlog.steps import Done, SlotDone, StepDone, combined, means, summed

__all__ = ["RunLog"]

logger = logging.getLogger(__name__)


class RunLog:
    """Collects the steps since the last line and writes the next; use it in a `with`, so that files are closed."""

    def __init__(
        self,
        run: Path,
        config: Config,
        names: list[str],
        device: torch.device,
        ranks: Ranks,
        start: int,
        state: Mapping[str, Any] | None,
    ) -> None:
        """`state` is what `state_dict` returned at step `start`, None for a new run; lines beyond it are dropped.

        `names` are those of the mix's datasets.
        """
        state = state or {}
        self.run, self.config = run, config
        self.frames_read: int = state.get("frames_read", 0)
        self.bad_frames: int = state.get("bad_frames", 0)
        self.bad_steps: list[int] = list(state.get("bad_steps", []))
        self._names, self._device, self._ranks = names, device, ranks
        # steps since the last line: as plain numbers of all ranks, and as they were left by this process
        self._unwritten: list[tuple[str, dict[str, Any]]] = []
        self._known = [Done(**values) for values in state.get("known", [])]
        self._fresh: list[StepDone] = []
        self._slots: list[SlotDone] = []
        self._own_read = self._own_bad = 0
        self._wait_s = 0.0
        self._metrics_path = run / "metrics.jsonl"
        self._gpu_hours = ranks.from_first(self._hours_before())
        if ranks.is_first:
            self._drop_later_lines(start)
        ranks.wait()
        self._quarantine = Quarantine(run, ranks.rank, start)
        self._sinks: list[Sink] = open_sinks(run, config, start) if ranks.is_first else []
        self._bar = open_bar(config.steps, start, is_shown=ranks.is_first)
        # since the last line, or since this process began
        self._since = time.perf_counter()
        self._aside_s = 0.0
        self._frames = self._flops = 0

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        for sink in self._sinks:
            sink.close()

    def _drop_later_lines(self, start: int) -> None:
        for path in (self._metrics_path, self.run / "gain.jsonl", *sorted(self.run.glob("quarantine-*.jsonl"))):
            keep_lines(path, start)

    def _hours_before(self) -> float:
        # those of steps that are done again as well: they were spent
        lines = read_lines(self._metrics_path) if self._ranks.is_first else []
        hours = [line.get("gpu_hours") for line in lines]
        return max((float(one) for one in hours if isinstance(one, int | float) and math.isfinite(one)), default=0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return the running numbers as plain values; all ranks call it at the same step."""
        self._settle()
        return {
            "frames_read": self.frames_read,
            "bad_frames": self.bad_frames,
            "bad_steps": list(self.bad_steps),
            "known": [done.to_dict() for done in self._known],
        }

    @property
    def has_steps(self) -> bool:
        """Whether there are steps since the last line; the same on all ranks."""
        return bool(self._known or self._fresh)

    def add_slot(self, loaded: Loaded, losses: torch.Tensor, flops: int, wait_s: float) -> None:
        """Count a slot: its frames, its broken images, the losses of its sequences, and how long it was waited for.

        Raises MumError naming the files where the share of broken images exceeds `data.bad_frame_rate`.
        """
        self._slots.append(SlotDone(loaded, losses, flops))
        self._wait_s += wait_s
        self._own_read += loaded.num_read
        self._own_bad += len(loaded.bad)
        if loaded.bad:
            self._quarantine.add(loaded.bad)
        read, bad = self.frames_read + self._own_read, self.bad_frames + self._own_bad
        self._quarantine.check(bad, read, self.config.data)

    def add_step(self, step: int, loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Take a step (counted from 1): scalars that may still be on their way on the device, over all ranks."""
        self._fresh.append(StepDone(step, loss, norm, self._slots))
        self._slots = []
        self._bar.update()

    def first_bad_step(self) -> Done | None:
        """Return the first step since the last look whose loss or gradient is no finite number; waits for the device.

        All ranks find the same one.
        """
        if not self._fresh:
            return None
        losses = torch.stack([torch.stack([step.loss.float(), step.norm.float()]) for step in self._fresh]).tolist()
        for step, (loss, norm) in zip(self._fresh, losses, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                return Done(step.step, loss, norm)
        return None

    def forget_from(self, step: int) -> None:
        """Forget the steps from `step` (counted from 1) on, and that they were read; none of them is settled yet."""
        for gone in [one for one in self._fresh if one.step >= step]:
            self._own_read -= sum(slot.loaded.num_read for slot in gone.slots)
            self._own_bad -= sum(len(slot.loaded.bad) for slot in gone.slots)
            self._bar.update(-1)
        self._fresh = [one for one in self._fresh if one.step < step]
        self._slots = []

    def _settle(self) -> None:
        # what this process left becomes plain numbers of all ranks
        mine = combined(self._fresh, self._names)
        whole = summed(self._ranks.gather(mine))
        self.frames_read += sum(done.frames_read for done in whole)
        self.bad_frames += sum(done.bad_frames for done in whole)
        self._frames += sum(done.frames for done in whole)
        self._flops += sum(done.flops for done in whole)
        self._own_read = self._own_bad = 0
        self._known += whole
        self._fresh = []

    def write(self, step: int, lr: float) -> dict[str, Any]:
        """Write the line of `step` (counted from 1) and return it: means over the steps since the last line."""
        self._settle()
        passed = time.perf_counter() - self._since
        elapsed = max(passed - self._aside_s, 1e-9)
        self._gpu_hours += passed * self._ranks.size / 3600
        steps = self._known
        views = [v for done in steps for v in done.views]
        waits = self._ranks.gather(self._wait_s)
        tflops = self._flops / elapsed / self._ranks.size / 1e12
        peak = peak_bf16_tflops(device_name(self._device)) if self._device.type == "cuda" else None
        line: dict[str, Any] = {
            "step": step,
            "loss": math.fsum(done.loss for done in steps) / len(steps),
            "loss_by_dataset": dict(sorted(means(done.by_dataset for done in steps).items())),
            "loss_by_views": dict(sorted(means(done.by_views for done in steps).items(), key=lambda of: int(of[0]))),
            "lr": lr,
            "grad_norm": steps[-1].norm,
            "views": sum(views) / len(views),
            "frames_per_s": self._frames / elapsed,
            "data_wait": sum(waits) / len(waits) / elapsed,
            "tflops_per_s": tflops,
            "share_of_peak": tflops / peak if peak else None,
            "memory_gb": max(
                (gb for gb in self._ranks.gather(memory_gb(self._device)) if gb is not None), default=None
            ),
            "gpu_hours": self._gpu_hours,
            "frames_read": self.frames_read,
            "bad_frames": self.bad_frames,
            "bad_steps": len(self.bad_steps),
        }
        if self._ranks.is_first:
            self.append("metrics.jsonl", line)
            self.numbers(step, line)
        self._bar.set_postfix(loss=f"{line['loss']:.4f}", lr=f"{lr:.2e}", refresh=False)
        self._known, self._wait_s, self._aside_s, self._frames, self._flops = [], 0.0, 0.0, 0, 0
        self._since += passed
        return line

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Append a line to a file of the run; what a full disk does not take is tried again with the next line."""
        self._unwritten.append((name, dict(line)))
        try:
            while self._unwritten:
                append_line(self.run / self._unwritten[0][0], self._unwritten[0][1])
                self._unwritten.pop(0)
        except MumError as error:
            logger.warning("%s; training goes on, %d lines wait to be written", error, len(self._unwritten))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave what is done in the `with` out of the rates: it is not training."""
        since = time.perf_counter()
        try:
            yield
        finally:
            self._aside_s += time.perf_counter() - since

    def numbers(self, step: int, values: Mapping[str, Any]) -> None:
        """Send numbers, also those in nested dictionaries, to all that listen; None is left out."""
        flat = _flat(values)
        for sink in self._sinks:
            sink.numbers(step, flat)

    def picture(self, step: int, name: str, pixels_HWC: np.ndarray) -> None:
        """Send a picture, uint8 RGB, to all that listen."""
        for sink in self._sinks:
            sink.picture(step, name, pixels_HWC)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}/")
        elif value is not None and name != "step":
            found[f"{prefix}{name}"] = value
    return found
