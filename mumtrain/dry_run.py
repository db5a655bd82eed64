"""`mumtrain pretrain --dry-run`: what would go wrong, and what it would take, before a run.

In: a mix and a recipe. Out: a DryRun: images of every dataset, read and cropped as the run would; and, from some slots
that are trained on here, the hours, memory and decoding cores of the run. Nothing is written.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mumdata import rng
from mumdata.catalog import open_mix
from mumdata.errors import ConfigError, MumError
from mumtrain.checkpoint import made_by
from mumtrain.config import Config, apply
from mumtrain.first_look import check_files
from mumtrain.flops import slot_flops
from mumtrain.loader import open_frames
from mumtrain.plan import Plan, plan_run
from mumtrain.reading.frames import FrameTable
from mumtrain.reading.ring import ring_shape
from mumtrain.reading.worker import ViewReader
from mumtrain.reading.workers import num_workers
from mumtrain.recipes import recipe as recipe_of
from mumtrain.runtime import Runtime, select_runtime
from mumtrain.sampler import Sampler, open_sampler
from mumtrain.step_cost import StepCost, TimedSlot, activation_bytes, step_cost

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BadImage", "DatasetTry", "DryRun", "Feeding", "MemoryPart", "dry_run"]

# bad images that are named where there may be many
_NAMES = 3


@dataclass(frozen=True, kw_only=True)
class BadImage:
    """An image that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class DatasetTry:
    """Some images of a dataset, read and cropped."""

    dataset: str
    root: str
    places: tuple[str, ...]  # file, stored, deflate or parquet: what the images' bytes lie in
    tried: int
    bad: tuple[BadImage, ...]
    median_ms: float | None  # by the clock: reading, decoding and cropping
    core_ms: float | None  # processor time, mean
    frames: float  # share of the frames that the run draws


@dataclass(frozen=True, kw_only=True)
class MemoryPart:
    """Something that takes memory, and how that is known: counted, measured or estimated."""

    what: str
    bytes: int
    known: str


@dataclass(frozen=True, kw_only=True)
class Feeding:
    """Whether the decoding processes of a rank keep up with it."""

    frames_needed_per_s: float
    frames_decoded_per_s: float
    workers: int
    cores: int  # of this machine
    wait: float  # share of the time that a rank waits for images


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What was found before a run."""

    mix: str
    recipe: str
    device: str
    steps: int
    slots: int
    ranks: int
    datasets: tuple[DatasetTry, ...]
    timed: tuple[TimedSlot, ...]
    scaled_by: float  # operations of a mean slot, over those of the largest that was run
    slot_s: float  # mean
    optimizer_s: float
    step_s: float  # with what the ranks wait for each other, without waiting for images
    lost: float  # share that they wait for each other
    hours: float  # with waiting for images
    feeding: Feeding
    largest: tuple[int, int]  # sequences and views of the slot that takes the most memory
    memory: tuple[MemoryPart, ...]
    device_bytes: int | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def to_frame(self) -> pd.DataFrame:
        """Return the rows of datasets, slots and memory as one, for spreadsheets."""
        import pandas as pd

        rows: list[dict[str, Any]] = [
            {"of": "dataset", **asdict(one), "places": " ".join(one.places), "bad": len(one.bad)}
            for one in self.datasets
        ]
        rows += [{"of": "slot", **asdict(one)} for one in self.timed]
        rows += [{"of": "memory", **asdict(one)} for one in self.memory]
        return pd.DataFrame(rows)

    def tables(self) -> Iterator[tuple[list[str], pd.DataFrame | None]]:
        """Yield the parts for reading: the lines of a heading, and a narrow table or none."""
        import pandas as pd

        images = [
            {
                "dataset": one.dataset,
                "read": one.tried - len(one.bad),
                "bad": len(one.bad),
                "ms": None if one.median_ms is None else Decimal(f"{one.median_ms:.1f}"),
                "bytes in": ", ".join(one.places),
                "under": one.root,
            }
            for one in self.datasets
        ]
        yield ["Images, read and cropped as the run would (ms: median, measured):"], pd.DataFrame(images)
        bad = [f"{one.dataset}: {image.path}: {image.reason}" for one in self.datasets for image in one.bad[:_NAMES]]
        if bad:
            yield ["Bad images (the run puts others in their place):", *bad], None
        slots = [
            {
                "slot": f"{one.sequences} x {one.views}",
                "": "whole" if one.is_whole else "a part",
                "seconds": Decimal(f"{one.seconds:.3f}"),
                "frames/s": Decimal(f"{one.sequences * one.views / one.seconds:.1f}"),
                "TFLOP/s": Decimal(f"{one.tflops_per_s:.3g}"),
            }
            for one in self.timed
        ]
        yield [f"Slots trained on (sequences x views), measured on {self.device}:"], pd.DataFrame(slots)
        yield _time_lines(self), None
        parts = [{"what": one.what, "GB": Decimal(f"{one.bytes / 1e9:.3f}"), "": one.known} for one in self.memory]
        sequences, views = self.largest
        yield [f"Memory of a rank at its largest slot, {sequences} x {views}:"], pd.DataFrame(parts)
        if self.warnings:
            yield ["Warnings:", *self.warnings], None


def _time_lines(found: DryRun) -> list[str]:
    feeding = found.feeding
    size = "" if found.scaled_by <= 1.05 else f", scaled up {found.scaled_by:.3g} times by operations"
    return [
        f"Estimated: {_hours(found.hours)} for {found.steps:,} steps on {_count(found.ranks, 'device')} like this one",
        f"{found.step_s:.3g} s a step: {_count(found.slots // found.ranks, 'slot')} of {found.slot_s:.3g} s (from "
        f"those measured{size}), {found.optimizer_s:.2g} s to move the weights (measured), and {found.lost:.0%} "
        "waiting for slower ranks (by expectation); sending gradients between ranks is not in it",
        f"images: a rank needs {feeding.frames_needed_per_s:.4g} frames/s; {_who(feeding)} decode "
        f"{feeding.frames_decoded_per_s:.4g} (one core measured, times their number): {feeding.wait:.0%} of the time "
        "waiting for images",
    ]


def _who(feeding: Feeding) -> str:
    if not feeding.workers:
        return "the training process itself would"
    return f"{_count(feeding.workers, 'process', 'es')} on {_count(feeding.cores, 'core')}"


def _count(number: int, of: str, several: str = "s") -> str:
    return f"{number} {of}{several if number != 1 else ''}"


def _hours(hours: float) -> str:
    return f"{hours:.3g} hours" if hours < 72 else f"{hours:,.0f} hours ({hours / 24:,.1f} days)"


def dry_run(
    mix: Path,
    *,
    recipe: str = "mum-vitl16",
    set: Sequence[str] = (),
    device: str | None = None,
    num: int = 8,
    ranks: int | None = None,
) -> DryRun:
    """Try what a run of a recipe on a mix would do first, on this device, and estimate the rest.

    `num` images of each dataset with a weight are read. `ranks` is how many devices share the slots (default: one for
    each slot). `set` holds `section.key=value` changes. Raises ConfigError for settings, CatalogError for the mix,
    LayoutError for a root that is not there, and MumError where none of a dataset's images can be read.
    """
    if num < 1:
        raise ConfigError(f"num is {num}; it must be at least 1")
    config = apply(recipe_of(recipe), set)
    runtime = select_runtime(device)
    opened = open_mix(Path(mix))
    sampler, frames = open_sampler(opened, config), open_frames(opened)
    plan = plan_run(sampler, opened, config, recipe=recipe, settings=tuple(set), ranks=ranks, num=0)
    check_files(sampler, frames)
    datasets = _datasets(sampler, frames, config, plan, num)
    cheapest, *kinds = _kinds(sampler, config, plan)
    return _estimated(config, runtime, plan, datasets, kinds, step_cost(config, runtime, cheapest, kinds))


# ---- images


def _datasets(
    sampler: Sampler, frames: Sequence[FrameTable], config: Config, plan: Plan, num: int
) -> tuple[DatasetTry, ...]:
    reader = ViewReader(frames, config)
    found = []
    for number, (table, planned) in enumerate(zip(frames, plan.datasets, strict=True)):
        if planned.weight > 0 and len(sampler.tables[number].lengths):
            found.append(_try(sampler, reader, number, table, planned.frames, num))
    unreadable = [one for one in found if len(one.bad) == one.tried]
    if unreadable:
        told = "; ".join(
            f"{one.dataset}, under {one.root}: {one.bad[0].path}: {one.bad[0].reason}" for one in unreadable
        )
        raise MumError(f"none of {num} images can be read of {told}; check with 'mumdata index NAME --verify decode'")
    return tuple(found)


def _try(sampler: Sampler, reader: ViewReader, number: int, table: FrameTable, share: float, num: int) -> DatasetTry:
    size = reader.config.data.size
    out = np.empty((size, size, 3), np.uint8)
    clock, core, bad, places = [], [], [], []
    for position, frame_id in enumerate(_frame_ids(sampler, number, num)):
        frame = table.frame(frame_id)
        places.append("file" if frame.archive is None else frame.codec or "stored")
        since = time.perf_counter(), time.process_time()
        problem = reader.read(number, frame_id, out, step=0, slot=0, position=position, views=1)
        if problem is None:
            clock.append(time.perf_counter() - since[0])
            core.append(time.process_time() - since[1])
        else:
            path = f"{frame.archive}: {frame.path}" if frame.archive else frame.path
            bad.append(BadImage(path=path, reason=problem.detail.removeprefix(f"{frame.path}: ")))
    return DatasetTry(
        dataset=table.name,
        root=str(table.root),
        places=tuple(dict.fromkeys(places)),
        tried=num,
        bad=tuple(bad),
        median_ms=1000 * statistics.median(clock) if clock else None,
        core_ms=1000 * statistics.fmean(core) if core else None,
        frames=share,
    )


def _frame_ids(sampler: Sampler, dataset: int, num: int) -> list[int]:
    # of sequences that may be drawn, if there are any, drawn by hash
    table = sampler.tables[dataset]
    rows = np.flatnonzero(table.drawable(None))
    rows = rows if len(rows) else np.arange(len(table.lengths))
    drawn = rng.words(rng.key("dry run", table.name), 2 * num)
    ids = []
    for row, place in zip(rows[rng.below(drawn[:num], len(rows))].tolist(), drawn[num:], strict=True):
        of_row = table.frames(row)
        ids.append(int(of_row[int(rng.below(np.array([place]), len(of_row))[0])]))
    return ids


# ---- time and memory


def _kinds(sampler: Sampler, config: Config, plan: Plan) -> list[tuple[int, int]]:
    # sequences and views of the slots with the fewest views, with the cost nearest to the mean, and with the most
    # frames, of several such the one with the most views
    most = config.data.frames_per_slot
    views = {kind[1] for stage in range(len(plan.stages)) for kind in sampler.law(stage).kinds}
    kinds = [(most // number, number) for number in sorted(views)]
    mean = _mean_flops(plan)
    nearest = min(kinds, key=lambda kind: abs(slot_flops(config, *kind) - mean))
    largest = max(kinds, key=lambda kind: (kind[0] * kind[1], kind[1]))
    return [kinds[0], nearest, largest]


def _mean_flops(plan: Plan) -> float:
    return plan.flops / plan.steps / plan.slots


def _estimated(
    config: Config,
    runtime: Runtime,
    plan: Plan,
    datasets: tuple[DatasetTry, ...],
    kinds: Sequence[tuple[int, int]],
    cost: StepCost,
) -> DryRun:
    each = plan.slots // plan.ranks
    lengths = [stage.last_step - stage.first_step + 1 for stage in plan.stages]
    slot_s = _mean_flops(plan) * cost.seconds_per_flop
    # in each stage the ranks wait for the one with the most work
    lost = [stage.lost_per_slot if plan.views_per == "slot" else stage.lost_per_step for stage in plan.stages]
    work_s = [stage.flops_per_step / plan.ranks * cost.seconds_per_flop for stage in plan.stages]
    whole_s = math.fsum(n * (work / (1 - share)) for n, work, share in zip(lengths, work_s, lost, strict=True))
    step_s = whole_s / plan.steps + cost.optimizer_s
    frames = math.fsum(n * stage.frames_per_slot for n, stage in zip(lengths, plan.stages, strict=True)) / plan.steps
    feeding = _feeding(config, datasets, each * frames / step_s)
    largest = kinds[-1]
    memory = _memory(config, runtime, cost, largest)
    total = torch.cuda.get_device_properties(runtime.device).total_memory if runtime.device.type == "cuda" else None
    most = max(slot_flops(config, one.sequences, one.views) for one in cost.slots)
    return DryRun(
        mix=plan.mix,
        recipe=plan.recipe,
        device=_device(runtime),
        steps=plan.steps,
        slots=plan.slots,
        ranks=plan.ranks,
        datasets=datasets,
        timed=cost.slots,
        scaled_by=_mean_flops(plan) / most,
        slot_s=slot_s,
        optimizer_s=cost.optimizer_s,
        step_s=step_s,
        lost=1 - math.fsum(n * work for n, work in zip(lengths, work_s, strict=True)) / whole_s,
        hours=plan.steps * step_s / (1 - feeding.wait) / 3600,
        feeding=feeding,
        largest=largest,
        memory=memory,
        device_bytes=total,
        warnings=tuple(_warnings(plan, datasets, cost, feeding)),
    )


def _device(runtime: Runtime) -> str:
    name = made_by(runtime.device)["device"]
    return name if runtime.device.type == "cuda" else f"the processor, {_count(torch.get_num_threads(), 'thread')}"


def _feeding(config: Config, datasets: Sequence[DatasetTry], needed: float) -> Feeding:
    known = [(one.frames, one.core_ms) for one in datasets if one.core_ms is not None and one.frames]
    core_s = math.fsum(share * ms for share, ms in known) / math.fsum(share for share, _ in known) / 1000
    workers, cores = num_workers(config), len(os.sched_getaffinity(0))
    able = max(1, min(workers, cores)) / core_s
    # decoding beside training takes the longer of both times, decoding in the training process both
    wait = max(0.0, 1 - able / needed) if workers else needed / (needed + able)
    return Feeding(frames_needed_per_s=needed, frames_decoded_per_s=able, workers=workers, cores=cores, wait=wait)


def _memory(config: Config, runtime: Runtime, cost: StepCost, largest: tuple[int, int]) -> tuple[MemoryPart, ...]:
    sequences, views = largest
    state, size = cost.state, config.data.size
    # the slot that is worked on and the one that is being copied
    slots = 2 * sequences * views * 3 * size * size
    parts = [
        MemoryPart(what="weights", bytes=state.weights, known="counted"),
        MemoryPart(what="gradients", bytes=state.gradients, known="counted"),
        MemoryPart(what="optimiser", bytes=state.optimizer, known="counted"),
    ]
    held = state.weights + state.gradients + state.optimizer
    if runtime.device.type == "cuda":
        if cost.peak_bytes is not None:
            peak = cost.peak_bytes + slots // 2
            parts.append(MemoryPart(what="all of it, at its peak", bytes=peak, known="measured"))
        total = torch.cuda.get_device_properties(runtime.device).total_memory
        parts.append(MemoryPart(what="this device has", bytes=total, known="measured"))
        parts.append(_ring(config))
        return tuple(parts)
    for bf16, where in ((False, "here, float32"), (True, "on a GPU, bfloat16")):
        kept = activation_bytes(config, sequences, views, bf16=bf16)
        whole = held + kept + (slots if bf16 else 0)
        parts.append(MemoryPart(what=f"activations, {where}", bytes=kept, known="estimated"))
        parts.append(MemoryPart(what=f"sum, {where}", bytes=whole, known="estimated"))
    parts.append(_ring(config))
    return tuple(parts)


def _ring(config: Config) -> MemoryPart:
    buffers = 2 + (config.data.prefetch if num_workers(config) else 0)
    return MemoryPart(what="ring of views, host memory", bytes=math.prod(ring_shape(config, buffers)), known="counted")


def _warnings(plan: Plan, datasets: Sequence[DatasetTry], cost: StepCost, feeding: Feeding) -> Iterator[str]:
    for one in datasets:
        if one.bad:
            yield f"{one.dataset}: {len(one.bad)} of {one.tried} images are bad; mumdata index --verify finds all"
    if cost.failure is not None:
        yield f"{cost.failure}; lower data.frames_per_slot, or set model.recompute=true"
    if feeding.wait > 0.02:
        yield (
            f"decoding is too slow for this device: {feeding.wait:.0%} of the time would be waited; see "
            "'mumtrain bench data'"
        )
    yield from plan.warnings
