"""`mumtrain bench model`: how fast a recipe's model trains on this device, and which share of the device it uses.

In: a recipe. Out: a ModelBench: for each size and number of views, the plain baseline, eager and compiled, frames and
operations per second, their share of what this device reaches in large matrix products and of what its maker states,
and memory. Views are random pixels; nothing is read.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from mumdata.errors import ConfigError
from mumtrain.benching import NotCompiled, Way, Ways, first_line, product_rate, quiet_compiler, ratio, rounded, wait
from mumtrain.config import Config, apply
from mumtrain.devices import device_name, memory_gb, peak_bf16_tflops, reset_memory
from mumtrain.flops import slot_flops
from mumtrain.mask_rules import read_kinds, read_references
from mumtrain.plain import why_not_plain
from mumtrain.recipes import recipe as recipe_of
from mumtrain.runtime import Runtime, select_runtime

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ModelBench", "StepRate", "bench_model"]

# numbers of views that are tried, as far as the recipe's range reaches
_VIEWS = (2, 12, 24)

# a row has at least so many runs, however long they take
_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class StepRate:
    """What training with one number of views costs: forward, backward and the optimiser's step, medians over runs."""

    size: int
    views: int
    sequences: int
    way: str  # plain, eager or compiled
    frames_per_s: float | None  # None, here and below, where `failure` says why
    tflops_per_s: float | None  # operations of forward and backward, as `mumtrain.flops` counts them
    share: float | None  # of the device's rate in large products
    share_of_peak: float | None  # of the rate that its maker states
    over_plain: float | None  # frames/s over those of the plain baseline
    spread: float | None  # (slowest run - quickest run) / median
    runs: int
    peak_gb: float | None  # of the device, this way alone; on the processor of the whole process, where it is told
    first_s: float | None  # the first step, with compiling
    failure: str | None


@dataclass(frozen=True, kw_only=True)
class ModelBench:
    """How fast a recipe's model trains here."""

    recipe: str
    device: str
    number_format: str
    product_tflops_per_s: float
    peak_tflops_per_s: float | None  # as the maker states it; None where unknown, and on the processor
    no_plain: str | None  # the setting that the plain baseline has not
    rates: tuple[StepRate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def to_frame(self) -> pd.DataFrame:
        """Return the rows, for spreadsheets."""
        import pandas as pd

        return pd.DataFrame([asdict(rate) for rate in self.rates])

    def tables(self) -> Iterator[tuple[list[str], pd.DataFrame | None]]:
        """Yield the parts for reading: the lines of a heading, and a narrow table or none, for each size."""
        import pandas as pd

        heading = [
            f"Training steps of {self.recipe}; {self.device}",
            "views: sequences x views of each; plain: the baseline, as one writes it first",
            f"share: of {self.product_tflops_per_s:.3g} TFLOP/s, which products of large matrices reach here in "
            f"{self.number_format}",
        ]
        if self.peak_tflops_per_s is not None:
            heading.append(f"peak: share of the {self.peak_tflops_per_s:,.0f} TFLOP/s of the maker's data sheet")
        if self.no_plain is not None:
            heading.append(f"There is no plain baseline for {self.no_plain} of this recipe.")
        yield heading, None
        for size in dict.fromkeys(rate.size for rate in self.rates):
            rows = [self._row(rate) for rate in self.rates if rate.size == size]
            yield [f"{size} px"], pd.DataFrame(rows)
        failures = [
            f"{rate.way}, {rate.views} views of {rate.size} px: {rate.failure}" for rate in self.rates if rate.failure
        ]
        if failures:
            yield ["Not measured:", *failures], None

    def _row(self, rate: StepRate) -> dict[str, Any]:
        row = {
            "views": f"{rate.sequences} x {rate.views}",
            "way": rate.way,
            "frames/s": rounded(rate.frames_per_s, 1),
            "+- %": rounded(rate.spread, 1, 50),
            "x plain": rounded(rate.over_plain, 2),
            "TFLOP/s": rounded(rate.tflops_per_s, 1 if (rate.tflops_per_s or 0) >= 10 else 3),
            "share %": rounded(rate.share, 0, 100),
            "peak %": rounded(rate.share_of_peak, 0, 100),
            "GB": rounded(rate.peak_gb, 1),
            "first s": rounded(rate.first_s, 1),
        }
        if self.no_plain is not None:
            del row["x plain"]
        if self.peak_tflops_per_s is None:
            del row["peak %"]
        return row


def bench_model(
    *,
    recipe: str = "mum-vitl16",
    set: Sequence[str] = (),
    views: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
    frames: int | None = None,
    compile: bool = True,
    seconds: float = 5.0,
    device: str | None = None,
) -> ModelBench:
    """Measure training steps of a recipe's model on random views, each way for some `seconds`, turn by turn.

    `views` defaults to 2, 12 and 24 as far as the recipe's range of views reaches, `sizes` (sides of the views, in
    pixels) to the recipe's, `frames` (in a batch, at most) to its frames_per_slot on CUDA and to one sequence on the
    processor. `compile` measures the compiled blocks, too; a failure to compile, or too little memory, stands in the
    row. `device` is cpu, cuda or cuda:N. Raises ConfigError for settings, and for numbers of views or frames and sizes
    that do not fit them.
    """
    config = apply(recipe_of(recipe), set)
    runtime = select_runtime(device)
    data = config.data
    tried = views if views is not None else sorted({min(max(v, data.views_min), data.views_max) for v in _VIEWS})
    if frames is None and runtime.device.type == "cuda":
        frames = data.frames_per_slot
    _check(config, tried, frames, seconds)
    configs = [apply(config, [f"data.size={size}"]) for size in (sizes if sizes is not None else [data.size])]
    bench = _Bench(configs[0], runtime, seconds, ("plain", "eager", "compiled") if compile else ("plain", "eager"))
    rates = []
    for of_size in configs:
        for number in tried:
            rates += bench.rates(of_size, max(1, (frames or number) // number), number)
    return ModelBench(
        recipe=recipe,
        device=device_name(runtime.device),
        number_format="bfloat16" if runtime.bf16 else "float32",
        product_tflops_per_s=bench.reached / 1e12,
        peak_tflops_per_s=bench.peak_tflops,
        no_plain=why_not_plain(config),
        rates=tuple(rates),
    )


def _check(config: Config, views: Sequence[int], frames: int | None, seconds: float) -> None:
    if not seconds > 0:
        raise ConfigError(f"seconds is {seconds}; it must be above 0")
    if not views or min(views) < 1:
        raise ConfigError("views must hold numbers of at least 1")
    if config.model.decoder_attention == "cross" and any(number != 2 for number in views):
        raise ConfigError("this recipe takes pairs; give views=2 alone")
    if frames is not None and frames < max(views):
        raise ConfigError(f"frames is {frames}; a batch must hold at least one sequence of {max(views)} views")


class _Turns:
    # what was measured of one way

    def __init__(self, way: Way) -> None:
        self.way = way
        self.times: list[float] = []
        self.first_s: float | None = None
        self.peak_gb: float | None = None
        self.failure: str | None = None


class _Bench:
    # one model and one optimiser, and those of the baseline, serve all rows

    def __init__(self, config: Config, runtime: Runtime, seconds: float, names: tuple[str, ...]) -> None:
        self.runtime, self.seconds = runtime, seconds
        self.reached = product_rate(runtime)
        self.peak_tflops = peak_bf16_tflops(device_name(runtime.device)) if runtime.bf16 else None
        self.ways = Ways(config, runtime, names)

    def rates(self, config: Config, sequences: int, views: int) -> list[StepRate]:
        """Measure the ways turn by turn."""
        size = config.data.size
        generator = torch.Generator(self.runtime.device).manual_seed(0)
        shape = (sequences, views, 3, size, size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.runtime.device, generator=generator)
        # where masks of several kinds are drawn, a run goes through some of them
        steps = range(_num_draws(config, views))
        all_turns = [_Turns(way) for way in self.ways.all]
        with quiet_compiler():
            for turns in all_turns:
                self._guarded(turns, self._warm, pixels, steps)
            while running := [turns for turns in all_turns if turns.failure is None and self._goes_on(turns, steps)]:
                for turns in running:
                    self._guarded(turns, self._turn, pixels, steps)
        plain = next((turns for turns in all_turns if turns.way.name == "plain" and not turns.failure), None)
        plain_s = None if plain is None else statistics.median(plain.times)
        return [self._row(config, sequences, views, turns, plain_s) for turns in all_turns]

    def _goes_on(self, turns: _Turns, steps: range) -> bool:
        return len(turns.times) < _RUNS or sum(turns.times) * len(steps) < self.seconds

    def _guarded(self, turns: _Turns, measure: Any, pixels: torch.Tensor, steps: range) -> None:
        # run one turn; what may fail and is no bug of ours is told in the row
        try:
            measure(turns, pixels, steps)
        except torch.OutOfMemoryError:
            turns.failure = "too little memory; give a smaller number of frames"
        except (NotCompiled, RuntimeError) as error:
            # what can go wrong in a compiler has no common type; the model itself has run by now
            if turns.way.name != "compiled":
                raise
            turns.failure = first_line(error)
        finally:
            turns.way.release()
            if turns.failure and self.runtime.device.type == "cuda":
                torch.cuda.empty_cache()

    def _warm(self, turns: _Turns, pixels: torch.Tensor, steps: range) -> None:
        turns.first_s = self._seconds(turns.way, pixels, range(1))
        self._seconds(turns.way, pixels, steps)
        turns.way.release()
        reset_memory(self.runtime.device)
        self._seconds(turns.way, pixels, steps)
        peak_gb = memory_gb(self.runtime.device)
        if peak_gb is not None:
            turns.peak_gb = peak_gb - self.ways.others_bytes(turns.way) / 1e9

    def _turn(self, turns: _Turns, pixels: torch.Tensor, steps: range) -> None:
        turns.times.append(self._seconds(turns.way, pixels, steps) / len(steps))

    def _seconds(self, way: Way, pixels: torch.Tensor, steps: range) -> float:
        wait(self.runtime.device)
        since = time.perf_counter()
        for step in steps:
            way.step(pixels, step)
        wait(self.runtime.device)
        return time.perf_counter() - since

    def _row(self, config: Config, sequences: int, views: int, turns: _Turns, plain_s: float | None) -> StepRate:
        step_s = statistics.median(turns.times) if turns.failure is None else None
        flops_per_s = None if step_s is None else slot_flops(config, sequences, views) / step_s
        return StepRate(
            size=config.data.size,
            views=views,
            sequences=sequences,
            way=turns.way.name,
            frames_per_s=None if step_s is None else sequences * views / step_s,
            tflops_per_s=ratio(flops_per_s, 1e12),
            share=ratio(flops_per_s, self.reached),
            share_of_peak=ratio(flops_per_s, None if self.peak_tflops is None else self.peak_tflops * 1e12),
            over_plain=ratio(plain_s, step_s),
            spread=None if step_s is None else (max(turns.times) - min(turns.times)) / step_s,
            runs=len(turns.times) if turns.failure is None else 0,
            peak_gb=turns.peak_gb if turns.failure is None else None,
            first_s=turns.first_s if turns.failure is None else None,
            failure=turns.failure,
        )


def _num_draws(config: Config, views: int) -> int:
    # steps after which most of what a slot may draw has come
    least, most = read_references(config.mask.references).bounds(views)
    draws = len(read_kinds(config.mask.kind, config.mask.ratio)) * (most - least + 1)
    return 1 if draws == 1 else 2 * draws
