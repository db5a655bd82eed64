"""What encoder and decoders have in common: positions, blocks one above the other, and a final norm.

In: tokens of views. Out: tokens. Shapes: B sequences, V views, T tokens of a view (special ones first), D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mumtrain.config import ModelConfig, TowerConfig
from mumtrain.model.layers import Block
from mumtrain.model.positions import Rope, RopeTable, sincos_table

__all__ = ["Tower"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Tower(nn.Module):
    """Blocks that see each view by itself or, where `alternates`, in turn one view (even ones) and all (odd ones).

    Nothing tells the views apart: positions repeat from view to view, so that permuting the views permutes the result.
    """

    def __init__(self, config: ModelConfig, tower: TowerConfig, *, alternates: bool) -> None:
        super().__init__()
        self.width, self.alternates, self.recompute = tower.width, alternates, config.recompute
        self.num_special = int(config.class_token) + config.registers
        self.num_blank = int(config.class_token and config.global_class_token == "blank")
        self.rope = None
        if config.positions != "absolute":
            dtype = _DTYPES[config.rope_precision]
            head_dim = tower.width // tower.heads
            self.rope = Rope(config.positions, head_dim, config.rope_base, self.num_special, dtype)
        self.blocks = nn.ModuleList(self.make_block(tower, config.norm_eps) for _ in range(tower.depth))
        self.norm = nn.LayerNorm(tower.width, eps=config.norm_eps)

    def make_block(self, tower: TowerConfig, norm_eps: float) -> nn.Module:
        """Return one block of this tower."""
        return Block(tower.width, tower.heads, norm_eps)

    def table(self, grid: tuple[int, int], device: torch.device) -> RopeTable | None:
        """Return the rotary table of a view's tokens, None where positions are added instead."""
        return self.rope(*grid, device) if self.rope is not None else None

    def added(self, grid: tuple[int, int], tokens: torch.Tensor) -> torch.Tensor | None:
        """Return what is added to a view's tokens, [T, D], None where positions are rotary."""
        if self.rope is not None:
            return None
        return sincos_table(*grid, self.width, self.num_special, tokens.device, tokens.dtype)

    def run(self, x_BVTD: torch.Tensor, rope: RopeTable | None, wanted: Sequence[int] = (-1,)) -> list[torch.Tensor]:
        """Return the tokens [B, V, T, D] after the blocks that are wanted, of which the last is -1; no more are run.

        `rope` is one table for all views, or one for each of the B * V views.
        """
        B, V, T, D = x_BVTD.shape
        depth = len(self.blocks)
        numbers = [number % depth for number in wanted]
        rope_of_all = None
        if self.alternates and rope is not None:
            rope_of_all = rope.of_all_views(V, num_blank=self.num_blank)
        found: dict[int, torch.Tensor] = {}
        x = x_BVTD
        for number, block in enumerate(self.blocks):
            if self.alternates and number % 2:
                x = self.call(block, x.reshape(B, V * T, D), rope_of_all)
            else:
                x = self.call(block, x.reshape(B * V, T, D), rope)
            x = x.view(B, V, T, D)
            if number in numbers:
                found[number] = x
                if number == max(numbers):
                    break
        return [found[number] for number in numbers]

    def call(self, block: nn.Module, *arguments: Any) -> torch.Tensor:
        """Call a block; with `recompute`, its activations are computed again for the backward pass."""
        if self.recompute and torch.is_grad_enabled():
            tokens: torch.Tensor = checkpoint(block, *arguments, use_reentrant=False)
        else:
            tokens = block(*arguments)
        return tokens
