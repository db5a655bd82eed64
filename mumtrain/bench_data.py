"""`mumtrain bench data`: how fast frames are read and decoded on this machine, and what feeding a device takes.

In: a mix and a recipe. Out: a DataBench: what a frame costs by dataset, place of its bytes and size of the views; what
a number of decoding processes delivers; how many cores a device needs. Nothing is trained, and no model is built.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mumdata import rng
from mumdata.catalog import open_mix
from mumdata.errors import ConfigError, DecodeError, MumError, unknown
from mumdata.headers import Header, read_header
from mumtrain.config import Config, apply, validate
from mumtrain.flops import slot_flops
from mumtrain.loader import Loader, open_frames
from mumtrain.planning.expected import expect
from mumtrain.planning.text import Number
from mumtrain.reading.frames import Frame, FrameTable
from mumtrain.reading.view import Position, draw_view
from mumtrain.reading.workers import num_workers
from mumtrain.recipes import recipe as recipe_of
from mumtrain.sampler import Sampler, open_sampler

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PEAK_TFLOPS", "DataBench", "FrameCost", "Rate", "bench_data"]

# dense bf16 matrix products, as the makers state them
PEAK_TFLOPS = {"A100": 312, "H100": 989, "H200": 989, "B200": 2250, "L40S": 362, "RTX4090": 165}

# a well written step reaches about this share of it
REACHED = 0.5

# frames of a dataset that are looked at; and how often each is decoded, the quickest time counting
_NUM_FRAMES, _REPEATS = 48, 3

# estimates of the cores needed whose ratio is greater do not agree
_DISAGREE = 1.25

# slots that are delivered before the rate counts: the processes have started then, and filled the ring
_WARM_SLOTS = 2


@dataclass(frozen=True, kw_only=True)
class FrameCost:
    """What one frame of a dataset costs one core: medians over the frames looked at."""

    dataset: str
    place: str  # file, stored, deflate or parquet: where its bytes are
    size: int  # side of the views, in pixels
    num_frames: int
    width: int
    height: int
    kilobytes: float
    read_ms: float  # by the clock: waiting for the disk counts
    view_ms: float  # decoding, cropping and resizing
    core_ms: float  # processor time of both, mean
    share: float  # of the frames that a run draws


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What a number of decoding processes delivers; 0 is the training process itself."""

    workers: int
    frames_per_s: float
    first_batch_s: float
    private_mb: float | None  # what a process has written for itself alone, the most of them; not the ring of views


@dataclass(frozen=True, kw_only=True)
class DataBench:
    """What feeding a device takes here."""

    mix: str
    recipe: str
    size: int
    frames: tuple[FrameCost, ...]
    rates: tuple[Rate, ...]
    gpu: str
    gpu_frames_per_s: float
    cores_needed: float  # by the processor time that a frame takes
    cores_by_rate: float  # by the frames that a process delivered, the most of all numbers of them that were tried
    best_workers: int  # the fewest that feed the device, else those that delivered most

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def to_frame(self) -> pd.DataFrame:
        """Return the rows of both tables as one, for spreadsheets."""
        import pandas as pd

        rows = [{"of": "frames", **asdict(cost)} for cost in self.frames]
        return pd.DataFrame(rows + [{"of": "workers", **asdict(rate)} for rate in self.rates])

    def tables(self) -> Iterator[tuple[list[str], pd.DataFrame | None]]:
        """Yield the parts for reading: the lines of a heading, and a narrow table or none."""
        import pandas as pd

        costs = [
            {
                "dataset": cost.dataset,
                "bytes in": cost.place,
                "view": cost.size,
                "frame": f"{cost.width} x {cost.height}",
                "kB": Number(f"{cost.kilobytes:.0f}"),
                "read ms": Decimal(f"{cost.read_ms:.2f}"),
                "view ms": Decimal(f"{cost.view_ms:.2f}"),
                "frames/s/core": Number(f"{1000 / cost.core_ms:.0f}"),
            }
            for cost in self.frames
        ]
        yield ["One core, by dataset (medians; rates from means of processor time):"], pd.DataFrame(costs)
        rates = [
            {
                "workers": rate.workers,
                "frames/s": Number(f"{rate.frames_per_s:.0f}"),
                "first batch s": Decimal(f"{rate.first_batch_s:.2f}"),
                "private MB each": None if rate.private_mb is None else Decimal(f"{rate.private_mb:.0f}"),
            }
            for rate in self.rates
        ]
        heading = f"Slots of {self.recipe} at {self.size} px, by decoding processes (0: the training process itself):"
        yield [heading], pd.DataFrame(rates)
        told = (
            f"{self.gpu}: {self.gpu_frames_per_s:,.0f} frames/s of this model at {REACHED:.0%} of its peak of "
            f"{PEAK_TFLOPS[self.gpu]:,} TFLOP/s (bf16) take {self.cores_needed:.1f} cores like these by the processor "
            f"time of a frame, {self.cores_by_rate:.1f} by the frames delivered, with frames in the shares that a run "
            "draws them."
        )
        yield [told], None
        low, high = sorted((self.cores_needed, self.cores_by_rate))
        if high > _DISAGREE * low:
            yield (
                [
                    "warning: the two differ by more than a quarter: other programs keep this machine busy, or reading "
                    "waits for the disk; measure again, with greater --seconds, when it is idle"
                ],
                None,
            )


def bench_data(
    mix: Path,
    *,
    recipe: str = "mum-vitl16",
    set: Sequence[str] = (),
    workers: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
    seconds: float = 5.0,
    gpu: str = "H200",
) -> DataBench:
    """Measure reading and decoding for a recipe on a mix; each number of `workers` is tried for some `seconds`.

    `workers` defaults to 0, 1, 2, 4, ... up to one for each core; `sizes` (sides of the views, in pixels) to the
    recipe's, which is also the one that slots are read at. Raises ConfigError for settings, CatalogError and
    LayoutError for the mix.
    """
    config = apply(recipe_of(recipe), set)
    if gpu not in PEAK_TFLOPS:
        raise unknown("gpu", gpu, PEAK_TFLOPS)
    if not seconds > 0:
        raise ConfigError(f"seconds is {seconds}; it must be above 0")
    if any(number < 0 for number in workers or ()):
        raise ConfigError(f"workers is {min(workers or ())}; it must not be negative")
    resized = [_with(config, size=size) for size in sizes or (config.data.size,)]
    opened = open_mix(Path(mix))
    sampler, tables = open_sampler(opened, config), open_frames(opened)
    shares = _shares(sampler, config)
    costs = [
        cost
        for number, table in enumerate(tables)
        if shares[number] > 0
        for cost in _costs(sampler, table, number, resized, float(shares[number]))
    ]
    most = num_workers(_with(config, workers=-1))
    tried = (
        workers if workers is not None else [0, *(2**power for power in range(most.bit_length()) if 2**power <= most)]
    )
    rates = [_rate(sampler, tables, _with(config, workers=number), seconds) for number in tried]
    at = [cost for cost in costs if cost.size == resized[0].data.size]
    core_s = sum(cost.share * cost.core_ms for cost in at) / sum(cost.share for cost in at) / 1000
    fed = REACHED * PEAK_TFLOPS[gpu] * 1e12 / _flops_per_frame(sampler, config)
    return DataBench(
        mix=str(mix),
        recipe=recipe,
        size=config.data.size,
        frames=tuple(costs),
        rates=tuple(rates),
        gpu=gpu,
        gpu_frames_per_s=fed,
        cores_needed=fed * core_s,
        cores_by_rate=fed / max(rate.frames_per_s / max(1, rate.workers) for rate in rates),
        best_workers=_best(rates, fed),
    )


def _best(rates: Sequence[Rate], fed: float) -> int:
    # the training process, when it decodes by itself, leaves the device idle meanwhile
    several = [rate for rate in rates if rate.workers] or list(rates)
    able = [rate.workers for rate in several if rate.frames_per_s >= fed]
    return min(able) if able else max(several, key=lambda rate: rate.frames_per_s).workers


def _with(config: Config, **data: Any) -> Config:
    return validate(replace(config, data=replace(config.data, **data)))


def _shares(sampler: Sampler, config: Config) -> np.ndarray:
    # of the frames drawn in the first stage, by dataset
    frames = expect(sampler.law(0), config.data.weighting).frames.sum(axis=0)
    return frames / frames.sum()


def _flops_per_frame(sampler: Sampler, config: Config) -> float:
    law = sampler.law(0)
    flops = num = 0.0
    for (_, views), probability in zip(law.kinds, law.probabilities.tolist(), strict=True):
        sequences = law.frames_per_slot // views
        flops += probability * slot_flops(config, sequences, views)
        num += probability * sequences * views
    return flops / num


# ---- one frame


def _costs(
    sampler: Sampler, table: FrameTable, dataset: int, configs: Sequence[Config], share: float
) -> Iterator[FrameCost]:
    # the frames of one dataset are mostly of one kind: a file each, or members of archives
    kinds: dict[str, list[tuple[Frame, bytes, float, float]]] = {}
    for frame_id in _frame_ids(sampler, dataset):
        frame = table.frame(frame_id)
        clock, core = time.perf_counter(), time.process_time()
        try:
            data = table.read_patiently(frame)
        except (DecodeError, FileNotFoundError):
            continue  # bad frames are the training's affair
        spent = time.perf_counter() - clock, time.process_time() - core
        place = "file" if frame.archive is None else frame.codec or "stored"
        kinds.setdefault(place, []).append((frame, data, *spent))
    for place, found in kinds.items():
        for config in configs:
            yield from _decoded(table, place, found, config, share * len(found) / sum(map(len, kinds.values())))


def _frame_ids(sampler: Sampler, dataset: int) -> list[int]:
    table, key = sampler.tables[dataset], rng.key("bench data", dataset)
    rows = np.flatnonzero(table.drawable(None))
    ids = []
    for number, row in enumerate(rows[rng.below(rng.words(key, _NUM_FRAMES), len(rows))].tolist()):
        frames = table.frames(row)
        ids.append(int(frames[int(rng.below(rng.words(key, 1, _NUM_FRAMES + number), len(frames))[0])]))
    return ids


def _decoded(
    table: FrameTable, place: str, found: list[tuple[Frame, bytes, float, float]], config: Config, share: float
) -> Iterator[FrameCost]:
    size = config.data.size
    out = np.empty((size, size, 3), np.uint8)
    rows = []
    for number, (frame, data, read_s, read_core_s) in enumerate(found):
        try:
            header = _header(data)
            spent = []
            for _ in range(_REPEATS):
                core = time.process_time()
                draw_view(data, frame.turns, config.data, Position(config.seed, 0, 0, number, 1), out)
                spent.append(time.process_time() - core)
        except DecodeError:
            continue
        rows.append((header.width, header.height, len(data), read_s, min(spent), read_core_s + min(spent)))
    if not rows:
        return
    widths, heights, num_bytes, reads_s, views_s, cores_s = zip(*rows, strict=True)
    yield FrameCost(
        dataset=table.name,
        place=place,
        size=size,
        num_frames=len(rows),
        width=int(statistics.median(widths)),
        height=int(statistics.median(heights)),
        kilobytes=statistics.median(num_bytes) / 1000,
        read_ms=1000 * statistics.median(reads_s),
        view_ms=1000 * statistics.median(views_s),
        core_ms=1000 * statistics.fmean(cores_s),
        share=share,
    )


def _header(data: bytes) -> Header:
    return read_header(lambda at, num: data[at : at + num], len(data))


# ---- slots


def _rate(sampler: Sampler, tables: Sequence[FrameTable], config: Config, seconds: float) -> Rate:
    keys = ((step, slot) for step in itertools.count() for slot in range(config.data.slots))
    num, begin = 0, time.perf_counter()
    with Loader(sampler, tables, config) as loader:
        for number, loaded in enumerate(loader.load(keys)):
            now = time.perf_counter()
            if number == 0:
                first_s = now - begin
            if number < _WARM_SLOTS:
                since = now
                continue
            num += loaded.views.shape[0] * loaded.views.shape[1]
            if now - since >= seconds:
                break
        private = [_private_mb(pid) for pid in loader.pids]
    if not num:
        raise MumError("no slot was read; give --seconds a greater number")
    return Rate(
        workers=config.data.workers,
        frames_per_s=num / (now - since),
        first_batch_s=first_s,
        private_mb=max((mb for mb in private if mb is not None), default=None),
    )


def _private_mb(pid: int) -> float | None:
    # pages that the process has written and nobody else maps. Not the ring of views: a page of it counts as private
    # for as long as only one process has come across it; nor pages of files, which can always be dropped
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    kilobytes, is_ring = 0, False
    for line in lines:
        first, *rest = line.split(None, 5)
        if not first.endswith(":"):
            is_ring = bool(rest) and rest[-1].startswith("/memfd:")
        elif first == "Private_Dirty:" and not is_ring:
            kilobytes += int(rest[0])
    return kilobytes * 1024 / 1e6 if lines else None
