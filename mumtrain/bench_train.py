"""`mumtrain bench train`: how fast a recipe trains on a mix here, with everything that a step takes.

In: a mix and a recipe. Out: a TrainBench: frames and operations per second of the recipe's model and of the plain
baseline, by number of views too, the share of time that was spent waiting for data, memory, and the hours that the run
would take. Both train on the same batches, those that the run would draw, read by the same kind of loader, turn by
turn. Nothing is written.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mumdata.catalog import Mix, open_mix
from mumdata.errors import ConfigError
from mumtrain.benching import Way, Ways, product_rate, quiet_compiler, ratio, rounded, wait
from mumtrain.config import Config, apply
from mumtrain.devices import device_name, memory_gb, peak_bf16_tflops, reset_memory
from mumtrain.feed import open_feed
from mumtrain.flops import slot_flops
from mumtrain.loader import Loader, open_frames
from mumtrain.plain import why_not_plain
from mumtrain.planning.text import Number
from mumtrain.recipes import recipe as recipe_of
from mumtrain.runtime import Runtime, select_runtime
from mumtrain.sampler import open_sampler

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TrainBench", "TrainRate", "ViewRate", "bench_train"]

# turns of each way, at least
_TURNS = 2


@dataclass(frozen=True, kw_only=True)
class TrainRate:
    """What one way of training reaches, with all that a step takes; sums over all turns."""

    way: str  # plain, eager or compiled
    slots: int  # that were timed
    frames: int
    seconds: float
    frames_per_s: float
    tflops_per_s: float  # operations of forward and backward, as `mumtrain.flops` counts them
    share: float  # of the device's rate in large products
    share_of_peak: float | None  # of the rate that its maker states
    over_plain: float | None  # frames/s over those of the plain baseline
    data_wait: float  # share of the time in which the device had no slot to work on
    spread: float  # (slowest turn - quickest turn) / mean, of their frames/s
    peak_gb: float | None  # of the device, this way alone; on the processor of the whole process, where it is told
    first_s: float  # the first step, with compiling
    device_hours: float  # that all steps of the recipe would take


@dataclass(frozen=True, kw_only=True)
class ViewRate:
    """What one way reaches in slots of one number of views: medians, without the time between slots."""

    way: str
    views: int
    slots: int
    frames_per_s: float
    tflops_per_s: float


@dataclass(frozen=True, kw_only=True)
class TrainBench:
    """How fast a recipe trains on a mix here."""

    recipe: str
    mix: str
    device: str
    devices: int
    workers: int
    steps: int  # of the recipe
    slots: int  # of a step
    number_format: str
    product_tflops_per_s: float
    peak_tflops_per_s: float | None  # as the maker states it; None where unknown, and on the processor
    no_plain: str | None  # the setting that the plain baseline has not
    failure: str | None  # why nothing was compiled, where that was asked for
    rates: tuple[TrainRate, ...]
    by_views: tuple[ViewRate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def to_frame(self) -> pd.DataFrame:
        """Return the rows of all ways and of each number of views, for spreadsheets; views is empty for all of them."""
        import pandas as pd

        rows = [asdict(rate) for rate in self.rates] + [asdict(rate) for rate in self.by_views]
        return pd.DataFrame(rows)

    def tables(self) -> Iterator[tuple[list[str], pd.DataFrame | None]]:
        """Yield the parts for reading: the lines of a heading, and a narrow table or none."""
        import pandas as pd

        heading = [
            f"Training {self.recipe} on {self.mix}; {self.device}",
            "Slots as the run draws them, read, copied, masked, forward, backward, optimiser;",
            "each way takes its turns on the same slots, read anew by "
            f"{_counted(self.workers, 'decoding process', 'es')}.",
            f"share: of {self.product_tflops_per_s:.3g} TFLOP/s, which products of large matrices reach here in "
            f"{self.number_format}",
        ]
        if self.peak_tflops_per_s is not None:
            heading.append(f"peak: share of the {self.peak_tflops_per_s:,.0f} TFLOP/s of the maker's data sheet")
        if self.no_plain is not None:
            heading.append(f"There is no plain baseline for {self.no_plain} of this recipe.")
        if self.failure is not None:
            heading.append(f"Not compiled: {self.failure}")
        yield heading, pd.DataFrame([self._row(rate) for rate in self.rates])
        yield ["By number of views, without the time between slots: frames/s"], self._views_table()
        yield [*self._hours()], None

    def _row(self, rate: TrainRate) -> dict[str, Any]:
        row = {
            "way": rate.way,
            "frames/s": rounded(rate.frames_per_s, 1),
            "+- %": rounded(rate.spread, 1, 50),
            "x plain": rounded(rate.over_plain, 2),
            "TFLOP/s": rounded(rate.tflops_per_s, 1 if rate.tflops_per_s >= 10 else 3),
            "share %": rounded(rate.share, 0, 100),
            "peak %": rounded(rate.share_of_peak, 0, 100),
            "data wait %": rounded(rate.data_wait, 0, 100),
            "GB": rounded(rate.peak_gb, 1),
            "first s": rounded(rate.first_s, 1),
        }
        if self.no_plain is not None:
            del row["x plain"]
        if self.peak_tflops_per_s is None:
            del row["peak %"]
        return row

    def _views_table(self) -> pd.DataFrame:
        import pandas as pd

        of: dict[int, dict[str, ViewRate]] = defaultdict(dict)
        for rate in self.by_views:
            of[rate.views][rate.way] = rate
        rows = []
        for views, by_way in sorted(of.items()):
            row: dict[str, Any] = {"views": views, "slots": max(rate.slots for rate in by_way.values())}
            row |= {rate.way: rounded(by_way[rate.way].frames_per_s, 1) for rate in self.rates if rate.way in by_way}
            *others, last = by_way.values()
            if "plain" in by_way and others:
                row["x plain"] = rounded(last.frames_per_s / by_way["plain"].frames_per_s, 2)
            row["TFLOP/s"] = rounded(last.tflops_per_s, 1 if last.tflops_per_s >= 10 else 3)
            rows.append(row)
        return pd.DataFrame(rows)

    def _hours(self) -> Iterator[str]:
        yield f"{self.steps:,} steps of {_counted(self.slots, 'slot')}, with the optimiser's step after each slot:"
        for rate in self.rates:
            on_all = f", {Number(f'{rate.device_hours / self.devices:.1f}')} h on {self.devices} devices"
            yield f"  {rate.way}: {Number(f'{rate.device_hours:.1f}')} device-hours{on_all if self.devices > 1 else ''}"
        if self.devices > 1:
            yield "  (what the devices tell each other takes more)"


def _counted(number: int, what: str, plural: str = "s") -> str:
    return f"{number:,} {what}{'' if number == 1 else plural}"


def bench_train(
    mix: Path,
    *,
    recipe: str = "mum-vitl16",
    set: Sequence[str] = (),
    steps: int = 20,
    seconds: float = 60.0,
    devices: int | None = None,
    device: str | None = None,
) -> TrainBench:
    """Measure whole training steps of one device, each with one slot of the recipe.

    The recipe's model, compiled as `compile` says, and the plain baseline take turns of `steps` timed steps, at least
    two each and until `seconds` have been timed of each; both go through the same slots of the run. Before each turn
    come some steps that are not timed, until no slot is left that was decoded meanwhile. `devices`, by default those
    of this machine, is for the hours of the whole run. Raises ConfigError, CatalogError and LayoutError as training
    does, and MumError where too many images cannot be read.
    """
    config = apply(recipe_of(recipe), set)
    runtime = select_runtime(device)
    if steps < 1:
        raise ConfigError(f"steps is {steps}; it must be at least 1")
    if not seconds > 0:
        raise ConfigError(f"seconds is {seconds}; it must be above 0")
    on_cuda = runtime.device.type == "cuda"
    devices = devices if devices is not None else torch.cuda.device_count() if on_cuda else 1
    if devices < 1:
        raise ConfigError(f"devices is {devices}; it must be at least 1")
    compiles = config.compile == "always" or (config.compile == "auto" and on_cuda)
    bench = _Bench(open_mix(Path(mix)), config, runtime, "compiled" if compiles else "eager")
    tallies = bench.run(steps, seconds)
    plain_rate = next((tally.frames_per_s for tally in tallies if tally.way.name == "plain"), None)
    compilations = bench.ways.compilations
    return TrainBench(
        recipe=recipe,
        mix=Path(mix).name,
        device=device_name(runtime.device),
        devices=devices,
        workers=bench.workers,
        steps=config.steps,
        slots=config.data.slots,
        number_format="bfloat16" if runtime.bf16 else "float32",
        product_tflops_per_s=bench.reached / 1e12,
        peak_tflops_per_s=bench.peak_tflops,
        no_plain=why_not_plain(config),
        failure=None if compilations is None else compilations.report(),
        rates=tuple(bench.rate(tally, plain_rate) for tally in tallies),
        by_views=tuple(rate for tally in tallies for rate in bench.view_rates(tally)),
    )


@dataclass
class _Tally:
    """What was timed of one way."""

    way: Way
    first_s: float = 0.0
    peak_gb: float | None = None
    seconds: list[float] = field(default_factory=list)  # of each turn
    frames: list[int] = field(default_factory=list)  # of each turn
    waited_s: float = 0.0
    flops: int = 0
    # of each slot: number of views, of sequences, seconds without those between slots
    slots: list[tuple[int, int, float]] = field(default_factory=list)

    @property
    def frames_per_s(self) -> float:
        """Frames over seconds of all turns."""
        return sum(self.frames) / sum(self.seconds)


class _Bench:
    # the ways, and the data that they train on

    def __init__(self, mix: Mix, config: Config, runtime: Runtime, name: str) -> None:
        self.config, self.runtime = config, runtime
        self.sampler, self.frames = open_sampler(mix, config), open_frames(mix)
        self.reached = product_rate(runtime)
        self.peak_tflops = peak_bf16_tflops(device_name(runtime.device)) if runtime.bf16 else None
        self.ways = Ways(config, runtime, ("plain", name))
        self.workers = 0

    def run(self, num: int, seconds: float) -> list[_Tally]:
        """Take turns of `num` timed steps."""
        tallies = [_Tally(way) for way in self.ways.all]
        with Loader(self.sampler, self.frames, self.config) as loader, quiet_compiler():
            self.workers = len(loader.pids)
            for tally in tallies:
                self._warm(tally, loader)
            turn = 0
            while turn < _TURNS or min(sum(tally.seconds) for tally in tallies) < seconds:
                # who begins alternates: what changes slowly in the machine meets both
                for tally in tallies[:: 1 if turn % 2 else -1]:
                    self._turn(tally, loader, turn * num, num)
                turn += 1
        return tallies

    def _warm(self, tally: _Tally, loader: Loader) -> None:
        # the first step, before anything is timed: what is compiled, and what libraries try out
        since = time.perf_counter()
        with open_feed(loader, loader.load([(0, 0)]), self.runtime) as feed:
            tally.way.step(next(feed).views, 0)
            wait(self.runtime.device)
        tally.first_s = time.perf_counter() - since
        if self.runtime.device.type == "cuda":
            self._meet_shapes(tally.way)
        tally.way.release()

    def _meet_shapes(self, way: Way) -> None:
        # what a long run pays once for each number of views is not part of what a step costs
        data = self.config.data
        for views in (1, *range(data.views_min, data.views_max + 1)):
            if views == 1 and self.config.model.decoder_attention == "cross":
                continue
            shape = (data.frames_per_slot // views, views, 3, data.size, data.size)
            way.step(torch.zeros(shape, dtype=torch.uint8, device=self.runtime.device), 0)

    def _turn(self, tally: _Tally, loader: Loader, first: int, num: int) -> None:
        # slots that were decoded before the turn began are no measure of the loader: as many are gone through first
        lead = loader.ahead + 1
        keys = ((step, 0) for step in range(first, first + lead + num))
        clock = _Clock(self.runtime.device)
        reset_memory(self.runtime.device)
        with open_feed(loader, loader.load(keys), self.runtime) as feed:
            for step in range(first, first + lead):
                tally.way.step(next(feed).views, step)
            clock.start()
            for step in range(first + lead, first + lead + num):
                slot = next(feed)
                clock.begin()
                tally.way.step(slot.views, step)
                clock.end()
                B, V = slot.views.shape[:2]
                tally.slots.append((V, B, 0.0))
            total, waited, of_slots = clock.read()
        tally.way.release()
        timed = [(V, B, seconds) for (V, B, _), seconds in zip(tally.slots[-num:], of_slots, strict=True)]
        tally.slots[-num:] = timed
        tally.seconds.append(total)
        tally.waited_s += waited
        tally.frames.append(sum(V * B for V, B, _ in timed))
        tally.flops += sum(slot_flops(self.config, B, V) for V, B, _ in timed)
        peak_gb = memory_gb(self.runtime.device)
        if peak_gb is not None:
            tally.peak_gb = max(tally.peak_gb or 0.0, peak_gb - self.ways.others_bytes(tally.way) / 1e9)

    def rate(self, tally: _Tally, plain: float | None) -> TrainRate:
        """Return what a way reached; `plain` are the baseline's frames/s."""
        seconds, frames, num = sum(tally.seconds), sum(tally.frames), len(tally.slots)
        rates = [of_turn / took for of_turn, took in zip(tally.frames, tally.seconds, strict=True)]
        return TrainRate(
            way=tally.way.name,
            slots=num,
            frames=frames,
            seconds=seconds,
            frames_per_s=tally.frames_per_s,
            tflops_per_s=tally.flops / seconds / 1e12,
            share=tally.flops / seconds / self.reached,
            share_of_peak=ratio(tally.flops / seconds / 1e12, self.peak_tflops),
            over_plain=ratio(tally.frames_per_s, plain),
            data_wait=tally.waited_s / seconds,
            spread=(max(rates) - min(rates)) / tally.frames_per_s,
            peak_gb=tally.peak_gb,
            first_s=tally.first_s,
            device_hours=self.config.steps * self.config.data.slots * seconds / num / 3600,
        )

    def view_rates(self, tally: _Tally) -> list[ViewRate]:
        """Return what a way reached with each number of views that came."""
        rates = []
        for views in sorted({V for V, _, _ in tally.slots}):
            of_views = [(B, seconds) for V, B, seconds in tally.slots if views == V]
            per_sequence_s = statistics.median(seconds / B for B, seconds in of_views)
            rates.append(
                ViewRate(
                    way=tally.way.name,
                    views=views,
                    slots=len(of_views),
                    frames_per_s=views / per_sequence_s,
                    tflops_per_s=slot_flops(self.config, 1, views) / per_sequence_s / 1e12,
                )
            )
        return rates


class _Clock:
    """When slots begin and end; on CUDA the device notes it by itself, so that nobody waits for it in between."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[Any] = []

    def start(self) -> None:
        """Begin a turn."""
        wait(self._device)
        self._marks = [self._now()]

    def begin(self) -> None:
        """A slot is there."""
        self._marks.append(self._now())

    def end(self) -> None:
        """It has been worked on."""
        self._marks.append(self._now())

    def read(self) -> tuple[float, float, list[float]]:
        """Return the seconds of the turn, those in which there was no slot, and those of each slot."""
        wait(self._device)
        spans = [self._between(*pair) for pair in zip(self._marks, self._marks[1:], strict=False)]
        return self._between(self._marks[0], self._marks[-1]), sum(spans[::2]), spans[1::2]

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _between(self, one: Any, other: Any) -> float:
        return float(one.elapsed_time(other)) / 1e3 if self._device.type == "cuda" else float(other - one)
