"""What training steps cost on this device: seconds and memory.

In: a config, and the kinds of slot that a run draws. Out: seconds of slots that were really run, with views made up;
the bytes of what a step keeps, those of activations counted in a step of the same shapes that computes nothing.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mumtrain.compiled import compile_blocks
from mumtrain.config import Config
from mumtrain.feed import Slot
from mumtrain.flops import slot_flops
from mumtrain.loader import Loaded
from mumtrain.model.autoencoder import MaskedAutoencoder, build_model
from mumtrain.optim import build_optimizer
from mumtrain.runtime import Runtime
from mumtrain.sampler import Batch
from mumtrain.step import SlotLosses, add_gradient, begin_step, finish_step, slot_masks

__all__ = ["StateBytes", "StepCost", "TimedSlot", "activation_bytes", "state_bytes", "step_cost"]

# how often a slot is run, the first time not counting
_RUNS = 3

# on the processor: how long a kind of slot may take, in all its runs
_SECONDS = 7.0


@dataclass(frozen=True, kw_only=True)
class TimedSlot:
    """A slot that was run forward and backward: median of some runs."""

    sequences: int
    views: int
    is_whole: bool  # as large as the run's, or only as many of its sequences as there was time for
    seconds: float
    tflops_per_s: float


@dataclass(frozen=True, kw_only=True)
class StateBytes:
    """What a step holds whatever it reads."""

    weights: int
    gradients: int
    optimizer: int


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What was measured."""

    slots: tuple[TimedSlot, ...]
    seconds_per_flop: float
    optimizer_s: float  # what comes once a step: the gradient's norm, and moving the weights
    state: StateBytes
    peak_bytes: int | None  # CUDA: the most that was allocated in the costliest slot, without the views of the next one
    failure: str | None  # why that slot could not be run


def step_cost(
    config: Config, runtime: Runtime, cheapest: tuple[int, int], kinds: Sequence[tuple[int, int]]
) -> StepCost:
    """Run some slots of `kinds`, (sequences, views), the largest last, and move the weights after each run.

    On CUDA they are run whole, compiled where the run would be. On the processor each has some seconds: after a
    sequence of the `cheapest` kind, by which the others are judged, those that would take longer are run with fewer
    sequences, or not at all; where none can be run, more of the cheapest kind.
    """
    trial = _Trial(config, runtime)
    is_cuda = runtime.device.type == "cuda"
    small = None if is_cuda else trial.timed(1, cheapest[1], is_whole=cheapest[0] == 1)
    timed: list[TimedSlot] = []
    failure, peak = None, None
    for sequences, views in dict.fromkeys(kinds):
        fitting = sequences if small is None else trial.fitting(sequences, views, (timed or [small])[-1])
        if fitting == 0:
            continue
        try:
            if is_cuda:
                torch.cuda.reset_peak_memory_stats(runtime.device)
            timed.append(trial.timed(fitting, views, is_whole=fitting == sequences))
            peak = torch.cuda.max_memory_allocated(runtime.device) if is_cuda else None
        except torch.OutOfMemoryError:
            failure, peak = f"{sequences} sequences of {views} views do not fit into this device's memory", None
            trial.forget()
    if small is not None and not timed and (fitting := trial.fitting(*cheapest, small)) > 1:
        timed.append(trial.timed(fitting, cheapest[1], is_whole=fitting == cheapest[0]))
    if not timed:
        timed.append(small or trial.timed(1, cheapest[1], is_whole=cheapest[0] == 1))
    flops = math.fsum(slot_flops(config, one.sequences, one.views) for one in timed)
    return StepCost(
        slots=tuple(timed),
        seconds_per_flop=math.fsum(one.seconds for one in timed) / flops,
        optimizer_s=statistics.median(trial.optimizer_s),
        state=state_bytes(trial.model, trial.optimizer),
        peak_bytes=peak,
        failure=failure,
    )


class _Trial:
    """A model and its optimiser, for slots of views made up."""

    def __init__(self, config: Config, runtime: Runtime) -> None:
        self.config, self.runtime = config, runtime
        self.model = build_model(config, device=runtime.device)
        if config.compile == "always" or (config.compile == "auto" and runtime.device.type == "cuda"):
            compile_blocks(self.model)
        self.optimizer = build_optimizer(self.model, config)
        self.losses = SlotLosses(self.model)
        self.optimizer_s: list[float] = []

    def fitting(self, sequences: int, views: int, judge: TimedSlot) -> int:
        """Return how many sequences there is time for, 0 to all of them, by a slot that was timed."""
        per_flop = judge.seconds / slot_flops(self.config, judge.sequences, judge.views)
        return min(sequences, int(_SECONDS / (_RUNS * per_flop * slot_flops(self.config, 1, views))))

    def timed(self, sequences: int, views: int, *, is_whole: bool) -> TimedSlot:
        """Run slots of a kind."""
        spent = [self._run(sequences, views, step) for step in range(_RUNS)]
        seconds = statistics.median(spent[1:])
        flops = slot_flops(self.config, sequences, views)
        return TimedSlot(
            sequences=sequences,
            views=views,
            is_whole=is_whole,
            seconds=seconds,
            tflops_per_s=flops / seconds / 1e12,
        )

    def forget(self) -> None:
        """Let go of what a slot that did not fit has left."""
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()

    def _run(self, sequences: int, views: int, step: int) -> float:
        # seconds of forward and backward
        slot = _made_up(self.config, self.runtime, sequences, views, step)
        begin_step(self.optimizer, self.config, step)
        self._wait()
        since = time.perf_counter()
        loss, _ = add_gradient(self.losses, slot, 1, self.config, self.runtime)
        self._wait()
        between = time.perf_counter()
        finish_step(self.model, self.optimizer, loss, torch.zeros_like(loss), self.config)
        self._wait()
        self.optimizer_s.append(time.perf_counter() - between)
        return between - since

    def _wait(self) -> None:
        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize(self.runtime.device)


def _made_up(config: Config, runtime: Runtime, sequences: int, views: int, step: int) -> Slot:
    generator = torch.Generator(runtime.device).manual_seed(step)
    shape = (sequences, views, 3, config.data.size, config.data.size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=runtime.device, generator=generator)
    nothing = np.empty((0, views, 3, config.data.size, config.data.size), np.uint8)
    return Slot(Loaded(Batch(step, 0, views, ()), nothing, np.empty((0, views, 2), np.int32)), pixels)


# ---- memory


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> StateBytes:
    """Return the bytes of weights, of their gradients, and of what the optimiser keeps after a step."""
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    return StateBytes(
        weights=sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()]),
        gradients=sum(p.nbytes for p in model.parameters() if p.requires_grad),
        optimizer=sum(tensor.nbytes for tensor in kept),
    )


def activation_bytes(config: Config, sequences: int, views: int, *, bf16: bool) -> int:
    """Return the bytes that a forward pass keeps for the backward pass beside the weights, however large it is.

    They are counted in a pass over tensors that have shapes and no memory. Kernels of CUDA may keep a little more or
    less than those of the processor whose bookkeeping is counted, and compiled ones less.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    size = config.data.size
    formats: AbstractContextManager[Any] = torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext()
    with FakeTensorMode():
        model = MaskedAutoencoder(config.model)
        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        pixels = torch.zeros(sequences, views, 3, size, size, dtype=torch.uint8)
        masks = slot_masks(pixels, config, 0, 0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), formats:
            losses = SlotLosses(model)(pixels, masks)
        total = sum(storage.nbytes() for storage in kept.values())
        del losses
    return total
