"""`mumtrain bench model`: how fast a recipe's model trains on this device, and which share of the device it uses.

In: a recipe. Out: a ModelBench: for each number of views, eager and compiled, frames and operations per second, their
share of what this device reaches in large matrix products, and memory. Views are random pixels; nothing is read.
"""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mumdata.errors import ConfigError
from mumtrain.config import Config, apply
from mumtrain.flops import slot_flops
from mumtrain.mask_rules import read_kinds, read_references
from mumtrain.masks.draw import draw_masks
from mumtrain.model.autoencoder import MaskedAutoencoder, build_model
from mumtrain.optim import build_optimizer
from mumtrain.recipes import recipe as recipe_of
from mumtrain.runtime import Runtime, select_runtime

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ModelBench", "StepRate", "bench_model"]

# numbers of views that are tried, as far as the recipe's range reaches
_VIEWS = (2, 12, 24)

# side of the matrices whose product tells what a device reaches, and how often it is taken, the best counting
_SIDE = {"cuda": 8192, "cpu": 2048}
_PRODUCTS = 10

# a row has at least so many runs, however long they take
_RUNS = 3

_FAILURE_LENGTH = 200


@dataclass(frozen=True, kw_only=True)
class StepRate:
    """What training with one number of views costs: forward, backward and the optimiser's step, medians over runs."""

    views: int
    sequences: int
    way: str  # eager or compiled
    frames_per_s: float | None  # None, here and below, where `failure` says why
    tflops_per_s: float | None  # operations of forward and backward, as `mumtrain.flops` counts them
    share: float | None  # of the device's rate in large products
    spread: float | None  # (slowest run - quickest run) / median
    runs: int
    peak_gb: float | None  # of the device; on the processor of the whole process, where the system tells
    first_s: float | None  # the first step, with compiling
    failure: str | None


@dataclass(frozen=True, kw_only=True)
class ModelBench:
    """How fast a recipe's model trains here."""

    recipe: str
    size: int
    device: str
    number_format: str
    product_tflops_per_s: float
    rates: tuple[StepRate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def to_frame(self) -> pd.DataFrame:
        """Return the rows, for spreadsheets."""
        import pandas as pd

        return pd.DataFrame([asdict(rate) for rate in self.rates])

    def tables(self) -> Iterator[tuple[list[str], pd.DataFrame | None]]:
        """Yield the parts for reading: the lines of a heading, and a narrow table or none."""
        import pandas as pd

        def rounded(value: float | None, places: int, factor: float = 1.0) -> Decimal | None:
            return None if value is None else Decimal(f"{value * factor:.{places}f}")

        rows = [
            {
                "views": f"{rate.sequences} x {rate.views}",
                "way": rate.way,
                "frames/s": rounded(rate.frames_per_s, 1),
                "+- %": rounded(rate.spread, 1, 50),
                "TFLOP/s": rounded(rate.tflops_per_s, 1 if (rate.tflops_per_s or 0) >= 10 else 3),
                "share %": rounded(rate.share, 0, 100),
                "peak GB": rounded(rate.peak_gb, 1),
                "first s": rounded(rate.first_s, 1),
            }
            for rate in self.rates
        ]
        heading = [
            f"Training steps of {self.recipe} at {self.size} px; {self.device}",
            "views: sequences x views of each",
            f"share: of {self.product_tflops_per_s:.3g} TFLOP/s, which products of large matrices reach here in "
            f"{self.number_format}",
        ]
        yield heading, pd.DataFrame(rows)
        failures = [f"{rate.way}, {rate.views} views: {rate.failure}" for rate in self.rates if rate.failure]
        if failures:
            yield ["Not measured:", *failures], None


def bench_model(
    *,
    recipe: str = "mum-vitl16",
    set: Sequence[str] = (),
    views: Sequence[int] | None = None,
    frames: int | None = None,
    compile: bool = True,
    seconds: float = 5.0,
    device: str | None = None,
) -> ModelBench:
    """Measure training steps of a recipe's model on random views, each row for some `seconds`.

    `views` defaults to 2, 12 and 24 as far as the recipe's range of views reaches, `frames` (in a batch, at most) to
    the recipe's frames_per_slot on CUDA and to one sequence on the processor. `compile` measures the compiled model,
    too; a failure to compile, or too little memory, stands in the row. `device` is cpu, cuda or cuda:N. Raises
    ConfigError for settings, and for numbers of views or frames that do not fit them.
    """
    config = apply(recipe_of(recipe), set)
    runtime = select_runtime(device)
    data = config.data
    tried = views if views is not None else sorted({min(max(v, data.views_min), data.views_max) for v in _VIEWS})
    if frames is None and runtime.device.type == "cuda":
        frames = data.frames_per_slot
    _check(config, tried, frames, seconds)
    reached = _product_rate(runtime)
    bench = _Bench(config, runtime, seconds)
    rates = []
    for number in tried:
        sequences = max(1, (frames or number) // number)
        for way in ("eager", "compiled") if compile else ("eager",):
            rates.append(bench.rate(sequences, number, way, reached))
    return ModelBench(
        recipe=recipe,
        size=data.size,
        device=_device_name(runtime.device),
        number_format="bfloat16" if runtime.bf16 else "float32",
        product_tflops_per_s=reached / 1e12,
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


class _Bench:
    # one model and one optimiser serve all rows

    def __init__(self, config: Config, runtime: Runtime, seconds: float) -> None:
        self.config, self.runtime, self.seconds = config, runtime, seconds
        self.model = build_model(config, device=runtime.device)
        self.optimizer = build_optimizer(self.model, config)

    def rate(self, sequences: int, views: int, way: str, reached: float) -> StepRate:
        def row(**found: Any) -> StepRate:
            names = ("frames_per_s", "tflops_per_s", "share", "spread", "peak_gb", "first_s", "failure")
            values: dict[str, Any] = {**dict.fromkeys(names), "runs": 0, **found}
            return StepRate(views=views, sequences=sequences, way=way, **values)

        try:
            times, first_s, peak_gb = self._timed(sequences, views, compiled=way == "compiled")
        except torch.OutOfMemoryError:
            return row(failure="too little memory; give a smaller number of frames")
        except Exception as error:
            # what can go wrong in a compiler has no common type; the model itself has run by now
            if way == "eager":
                raise
            return row(failure=_first_line(error))
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            if self.runtime.device.type == "cuda":
                torch.cuda.empty_cache()
        step_s = statistics.median(times)
        flops_per_s = slot_flops(self.config, sequences, views) / step_s
        return row(
            frames_per_s=sequences * views / step_s,
            tflops_per_s=flops_per_s / 1e12,
            share=flops_per_s / reached,
            spread=(max(times) - min(times)) / step_s,
            runs=len(times),
            peak_gb=peak_gb,
            first_s=first_s,
        )

    def _timed(self, sequences: int, views: int, *, compiled: bool) -> tuple[list[float], float, float | None]:
        # seconds of a step in each run, those of the very first step, and the memory
        device, size = self.runtime.device, self.config.data.size
        generator = torch.Generator(device).manual_seed(0)
        shape = (sequences, views, 3, size, size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=generator)
        # where masks of several kinds are drawn, a run goes through some of them
        steps = range(_num_draws(self.config, views))
        with _quiet_compiler():
            model = _compiled(self.model) if compiled else self.model
            first_s = self._seconds(model, pixels, range(1))
            self._seconds(model, pixels, steps)
            _reset_peak(device)
            times: list[float] = []
            while len(times) < _RUNS or sum(times) * len(steps) < self.seconds:
                times.append(self._seconds(model, pixels, steps) / len(steps))
        return times, first_s, _peak_gb(device)

    def _step(self, model: Callable[..., torch.Tensor], pixels: torch.Tensor, step: int) -> None:
        B, V = pixels.shape[:2]
        grid = (self.config.data.size // self.config.model.patch,) * 2
        masks = draw_masks(self.config.mask, B, V, grid, seed=0, step=step, slot=0, device=pixels.device)
        self.optimizer.zero_grad(set_to_none=True)
        with self.runtime.autocast():
            loss = model(pixels, masks)
        loss.backward()
        self.optimizer.step()

    def _seconds(self, model: Callable[..., torch.Tensor], pixels: torch.Tensor, steps: range) -> float:
        _wait(self.runtime.device)
        since = time.perf_counter()
        for step in steps:
            self._step(model, pixels, step)
        _wait(self.runtime.device)
        return time.perf_counter() - since


def _num_draws(config: Config, views: int) -> int:
    # steps after which most of what a slot may draw has come
    least, most = read_references(config.mask.references).bounds(views)
    draws = len(read_kinds(config.mask.kind, config.mask.ratio)) * (most - least + 1)
    return 1 if draws == 1 else 2 * draws


def _compiled(model: MaskedAutoencoder) -> Callable[..., torch.Tensor]:
    # each number of views is compiled by itself: shapes that vary would cost speed
    torch._dynamo.reset()
    compiled: Callable[..., torch.Tensor] = torch.compile(model, fullgraph=True, dynamic=False)
    return compiled


@contextmanager
def _quiet_compiler() -> Iterator[None]:
    # failures are raised; what else compilers have to say is not for the reader of a table
    loggers = [logging.getLogger(name) for name in ("torch._dynamo", "torch._inductor")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:_FAILURE_LENGTH]


# ---- the device


def _product_rate(runtime: Runtime) -> float:
    # operations a second in products of large matrices, in the number format of training
    device, side = runtime.device, _SIDE[runtime.device.type]
    dtype = torch.bfloat16 if runtime.bf16 else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    one, other = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty_like(one)
    best = float("inf")
    for _ in range(1 + _PRODUCTS):
        _wait(device)
        since = time.perf_counter()
        torch.mm(one, other, out=out)
        _wait(device)
        best = min(best, time.perf_counter() - since)
    return 2 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # where it cannot be reset, the peak is that of the whole process so far
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_gb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM")), None)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"processor, {threads} thread{'s' if threads > 1 else ''}"
