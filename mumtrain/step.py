"""One step of optimisation, in its parts: what a training loop, a replay and a trial have in common.

In: slots on the device, a model and its optimiser. Out: the gradient of each slot, and moved weights. Nothing here
waits for the device.
"""

from __future__ import annotations

import torch
from torch import nn

from mumtrain.config import Config
from mumtrain.feed import Slot
from mumtrain.masks.draw import Masks, draw_masks
from mumtrain.model.autoencoder import Losses, MaskedAutoencoder
from mumtrain.optim import clip, grad_norm, lr_at, set_lr, take_step
from mumtrain.runtime import Runtime

__all__ = ["SlotLosses", "add_gradient", "begin_step", "finish_step", "slot_losses", "slot_masks"]


class SlotLosses(nn.Module):
    """A model as a step calls it: its losses are what is called, so that ranks average gradients behind them."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, views_BVCHW: torch.Tensor, masks: Masks) -> Losses:
        """Return the losses of uint8 views."""
        return self.model.losses(views_BVCHW, masks)


def slot_masks(views_BVCHW: torch.Tensor, config: Config, step: int, slot: int) -> Masks:
    """Return the masks of a slot of a step (counted from 0), on the device of its views."""
    B, V, _, H, W = views_BVCHW.shape
    grid = (H // config.model.patch, W // config.model.patch)
    device = views_BVCHW.device
    return draw_masks(config.mask, B, V, grid, seed=config.seed, step=step, slot=slot, device=device)


def slot_losses(model: nn.Module, slot: Slot, config: Config, runtime: Runtime) -> Losses:
    """Return the losses of a slot by a module that is called with views and masks."""
    batch = slot.loaded.batch
    masks = slot_masks(slot.views, config, batch.step, batch.slot)
    with runtime.autocast():
        losses: Losses = model(slot.views, masks)
    return losses


def begin_step(optimizer: torch.optim.Optimizer, config: Config, step: int) -> None:
    """Set the rate of a step (counted from 0), and begin with no gradient."""
    set_lr(optimizer, lr_at(config, step))
    optimizer.zero_grad(set_to_none=True)


def add_gradient(
    model: nn.Module, slot: Slot, num_slots: int, config: Config, runtime: Runtime
) -> tuple[torch.Tensor, Losses]:
    """Add a slot's share of the gradient; return its share of the step's loss, a scalar, and the losses behind it.

    The step's loss is the mean of the `num_slots` slots' means, however many frames each of them holds.
    """
    losses = slot_losses(model, slot, config, runtime)
    loss = losses.mean / num_slots
    loss.backward()
    return loss.detach(), losses


def finish_step(
    model: nn.Module, optimizer: torch.optim.AdamW, loss: torch.Tensor, is_bad: torch.Tensor, config: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move the weights, unless a step was bad; return the gradient's norm before clipping, and whether one was bad.

    `loss` is the step's, over all ranks; `is_bad`, a float32 scalar, is 1 where a step before was bad, and becomes 1
    where this one's loss or gradient is no finite number.
    """
    norm = grad_norm(model)
    if config.optim.clip:
        clip(model, norm, config.optim.clip)
    is_bad = torch.maximum(is_bad, 1 - (loss.isfinite() & norm.isfinite()).float())
    take_step(optimizer, is_bad)
    return norm, is_bad
