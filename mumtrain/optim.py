"""How weights move: the optimiser and its learning rate.

In: a model and a config. Out: AdamW over two groups of parameters, and the rate of any step.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mumdata.errors import MumError
from mumtrain.config import Config

__all__ = ["build_optimizer", "clip", "grad_norm", "lr_at", "peak_lr", "restore_optimizer", "set_lr", "take_step"]


def build_optimizer(model: nn.Module, config: Config) -> torch.optim.AdamW:
    """Return AdamW; biases and other one-dimensional parameters are not decayed, class and mask tokens are."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.optim.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=peak_lr(config), betas=config.optim.betas, fused=True)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], source: Path) -> None:
    """Put a stored state into an optimiser, which keeps its own settings; MumError where it does not fit."""
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise MumError(f"the optimiser's state of {source} does not fit its weights; use another checkpoint") from error
    # load_state_dict takes the stored decay and betas, which --accept-changes may have changed
    for group, values in zip(optimizer.param_groups, own, strict=True):
        group.update(values)


def grad_norm(model: nn.Module) -> torch.Tensor:
    """Return the length of the gradient over all parameters, a scalar on the device."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))


def clip(model: nn.Module, norm: torch.Tensor, longest: float) -> None:
    """Shorten the gradient to a length where it exceeds that; waits for nothing."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    torch._foreach_mul_(grads, (longest / norm).clamp(max=1.0))


def take_step(optimizer: torch.optim.AdamW, is_bad: torch.Tensor) -> None:
    """Move the weights, unless `is_bad`, a float32 scalar on the device, is 1: then nothing changes.

    Fused AdamW looks at that by itself, as it does for torch's own gradient scaler, so that nobody waits for the
    device.
    """
    optimizer.found_inf = is_bad  # type: ignore[attr-defined]
    optimizer.step()


def peak_lr(config: Config) -> float:
    """Return the highest rate: linear in the nominal number of frames of a global step, over 256."""
    return config.optim.lr * config.data.slots * config.data.frames_per_slot / 256


def lr_at(config: Config, step: int) -> float:
    """Return the rate of a step (0-based): a straight line up to the peak, then a cosine to 0.

    The line reaches the peak at step warmup_steps - 1, so that the first step already moves; the rate would be 0 at
    step `steps`, which is not run.
    """
    peak, warmup = peak_lr(config), config.optim.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, config.steps - warmup))
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr
