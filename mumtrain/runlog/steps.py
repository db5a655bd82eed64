"""What is known of the steps since the last line of metrics: of one process, and of all together.

In: slots as they were trained on, with their losses still on the device. Out: plain numbers for each step, which add up
to the same sums whether or not the run was interrupted in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from mumtrain.loader import Loaded

__all__ = ["Done", "SlotDone", "StepDone", "combined", "means", "summed"]


@dataclass
class Done:
    """The plain numbers of one step (counted from 1): sums over its slots, by rank or of all of them.

    `by_dataset` and `by_views` hold [sum of losses, number of sequences] of a dataset's name or of a number of views.
    """

    step: int
    loss: float
    norm: float
    views: list[int] = field(default_factory=list)
    frames: int = 0
    frames_read: int = 0
    bad_frames: int = 0
    flops: int = 0
    by_dataset: dict[str, list[float]] = field(default_factory=dict)
    by_views: dict[str, list[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@dataclass
class SlotDone:
    """One slot of a step: what was read, and the losses of its sequences, [B], on the device."""

    loaded: Loaded
    losses: torch.Tensor
    flops: int


@dataclass
class StepDone:
    """One step of this process (counted from 1), with its loss and gradient's norm on the device, over all ranks."""

    step: int
    loss: torch.Tensor
    norm: torch.Tensor
    slots: list[SlotDone]


def combined(steps: Sequence[StepDone], names: Sequence[str]) -> list[Done]:
    """Return the plain numbers of a process's steps; waits for the device once.

    `names` are those of the mix's datasets.
    """
    if not steps:
        return []
    tensors = [step.loss.reshape(1) for step in steps] + [step.norm.reshape(1) for step in steps]
    tensors += [slot.losses for step in steps for slot in step.slots]
    device = tensors[0].device
    values = torch.cat([tensor.detach().to(device, torch.float32) for tensor in tensors]).tolist()
    num, at = len(steps), 2 * len(steps)
    found = []
    for number, step in enumerate(steps):
        done = Done(step.step, values[number], values[num + number])
        for slot in step.slots:
            batch = slot.loaded.batch
            of_slot = values[at : at + len(batch.sequences)]
            at += len(batch.sequences)
            done.views.append(batch.views)
            done.frames += len(batch.sequences) * batch.views
            done.frames_read += slot.loaded.num_read
            done.bad_frames += len(slot.loaded.bad)
            done.flops += slot.flops
            for drawn, loss in zip(batch.sequences, of_slot, strict=True):
                _add(done.by_dataset, names[drawn.dataset], loss, 1)
            _add(done.by_views, str(batch.views), math.fsum(of_slot), len(of_slot))
        found.append(done)
    return found


def summed(of_ranks: Sequence[Sequence[Done]]) -> list[Done]:
    """Return the steps of all ranks together."""
    found = []
    for same in zip(*of_ranks, strict=True):
        whole = Done(same[0].step, same[0].loss, same[0].norm)
        for one in same:
            whole.views += one.views
            whole.frames += one.frames
            whole.frames_read += one.frames_read
            whole.bad_frames += one.bad_frames
            whole.flops += one.flops
            for mine, theirs in ((whole.by_dataset, one.by_dataset), (whole.by_views, one.by_views)):
                for key, (total, count) in theirs.items():
                    _add(mine, key, total, count)
        found.append(whole)
    return found


def means(tables: Iterable[dict[str, list[float]]]) -> dict[str, float]:
    """Return the mean losses by key over some steps."""
    sums: dict[str, list[list[float]]] = {}
    for table in tables:
        for key, pair in table.items():
            sums.setdefault(key, []).append(pair)
    return {key: math.fsum(s for s, _ in pairs) / math.fsum(n for _, n in pairs) for key, pairs in sums.items()}


def _add(table: dict[str, list[float]], key: str, total: float, count: float) -> None:
    entry = table.setdefault(key, [0.0, 0])
    entry[0] += total
    entry[1] += count
