"""What the benches of training share: ways to take a step, and what the device reaches.

In: a Config and a Runtime. Out: ways of training that are measured side by side: `plain`, `eager` and `compiled`; the
rate of the device in products of large matrices. Shapes: B sequences, V views, S the side of a view.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from decimal import Decimal

import torch
from torch import nn

from mumdata.errors import MumError
from mumtrain.compiled import Compilations, compile_blocks
from mumtrain.config import Config
from mumtrain.masks.draw import draw_masks
from mumtrain.model.autoencoder import build_model
from mumtrain.optim import build_optimizer, grad_norm, set_lr, take_step
from mumtrain.plain import plain_model, plain_optimizer, why_not_plain
from mumtrain.runtime import Runtime

__all__ = ["NotCompiled", "Way", "Ways", "first_line", "product_rate", "quiet_compiler", "ratio", "rounded", "wait"]

# sides of the matrices whose product tells what a device reaches, the best counting
_SIDES = {"cuda": (4096, 8192), "cpu": (2048,)}

# products between two looks at the clock, and how often that is done, the best counting
_PRODUCTS = {"cuda": 20, "cpu": 1}
_REPEATS = 5

# weights shall not run away, whatever they are trained on: numbers that are none cost other time
_LR = 1e-6


class NotCompiled(MumError):
    """The blocks ran, but not compiled."""


class Way:
    """One way to train: a model and its optimiser, and how they take a step."""

    def __init__(self, name: str, model: nn.Module, optimizer: torch.optim.AdamW, ways: Ways) -> None:
        self.name, self.model, self.optimizer, self._ways = name, model, optimizer, ways
        self._is_good = torch.zeros((), device=ways.runtime.device)

    def step(self, views_BVCSS: torch.Tensor, step: int, slot: int = 0) -> None:
        """Draw masks, and run forward, backward and the optimiser; raises NotCompiled where that was asked for."""
        config, runtime, compilations = self._ways.config, self._ways.runtime, self._ways.compilations
        B, V, _, H, W = views_BVCSS.shape
        grid = (H // config.model.patch, W // config.model.patch)
        masks = draw_masks(config.mask, B, V, grid, seed=0, step=step, slot=slot, device=views_BVCSS.device)
        self.optimizer.zero_grad(set_to_none=True)
        as_is = compilations is not None and self.name != "compiled"
        with compilations.paused() if as_is and compilations is not None else nullcontext():
            with runtime.autocast():
                loss = self.model(views_BVCSS, masks)
            loss.backward()
        if self.name == "plain":
            self.optimizer.step()
            return
        # as the trainer does it
        grad_norm(self.model)
        take_step(self.optimizer, self._is_good)
        if self.name == "compiled" and compilations is not None and compilations.failures:
            raise NotCompiled(next(iter(compilations.failures.values())))

    def release(self) -> None:
        """Let go of the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def held_bytes(self) -> int:
        """Return the memory of weights and of what the optimiser keeps."""
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = [*self.model.parameters(), *(value for value in states if isinstance(value, torch.Tensor))]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Ways:
    """The ways to train a recipe on a device, each with the same weights at first."""

    def __init__(self, config: Config, runtime: Runtime, names: tuple[str, ...]) -> None:
        """`names`: plain, eager, compiled, or some of them; plain is left out where the recipe has no plain version."""
        self.config, self.runtime = config, runtime
        model = build_model(config, device=runtime.device)
        self.compilations: Compilations | None = compile_blocks(model) if "compiled" in names else None
        self.all: list[Way] = []
        ours = build_optimizer(model, config)
        for name in names:
            if name != "plain":
                self.all.append(Way(name, model, ours, self))  # of both, as only the blocks differ
            elif why_not_plain(config) is None:
                plain = plain_model(model, config)
                self.all.append(Way(name, plain, plain_optimizer(plain, config), self))
        for way in self.all:
            set_lr(way.optimizer, _LR)

    def others_bytes(self, way: Way) -> int:
        """Return the memory that the models and optimisers take that do not belong to a way."""
        others = {id(other.model): other for other in self.all if other.model is not way.model}
        return sum(other.held_bytes() for other in others.values())


def ratio(value: float | None, of: float | None) -> float | None:
    """Return value / of, None where one of them is unknown."""
    return None if value is None or not of else value / of


def product_rate(runtime: Runtime) -> float:
    """Return the operations a second in products of large square matrices, in the number format of training."""
    kind = runtime.device.type
    return max(_rate_of(side, _PRODUCTS[kind], runtime) for side in _SIDES[kind])


def _rate_of(side: int, num: int, runtime: Runtime) -> float:
    device, dtype = runtime.device, torch.bfloat16 if runtime.bf16 else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    one, other = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty_like(one)
    best = float("inf")
    for _ in range(1 + _REPEATS):
        wait(device)
        since = time.perf_counter()
        for _ in range(num):
            torch.mm(one, other, out=out)
        wait(device)
        best = min(best, (time.perf_counter() - since) / num)
    return 2 * side**3 / best


def wait(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Silence the compilers: failures are raised; what else they say is not for the reader of a table."""
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


def first_line(error: Exception, length: int = 200) -> str:
    """Return an error's type and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[0] if lines else "no message"
    return (told if isinstance(error, NotCompiled) else f"{type(error).__name__}: {told}")[:length]


def rounded(value: float | None, places: int, factor: float = 1.0) -> Decimal | None:
    """Return a figure times a factor as a table shows it."""
    return None if value is None else Decimal(f"{value * factor:.{places}f}")
