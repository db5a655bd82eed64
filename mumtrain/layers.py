"""The transformer parts that encoder and decoder share.

In: tokens and rotary tables. Out: tokens. Shapes: B batch (any leading views folded in), L tokens, D width, h heads,
d channels of a head (D / h), N patches of a view.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["RopeTable", "Rope", "rotate", "Attention", "Mlp", "Block"]


class RopeTable(NamedTuple):
    """Cosines and sines of the tokens' angles, float32 [L, d] or [B, L, d]."""

    cos: torch.Tensor
    sin: torch.Tensor

    def take(self, positions_BL: torch.Tensor) -> RopeTable:
        """Return the table of some of the tokens, another choice for each batch element: [B, L, d]."""
        return RopeTable(self.cos[positions_BL], self.sin[positions_BL])

    def repeat(self, times: int) -> RopeTable:
        """Return the table for `times` views laid one after the other; a view's number leaves no trace in it."""
        return RopeTable(self.cos.repeat(times, 1), self.sin.repeat(times, 1))


class Rope(nn.Module):
    """Axial rotary positions of a grid of patches with a class token in front; nothing in it is learned.

    Patch centres are scaled to [-1, 1] along each axis; with d channels a head, period k is base^(2k / (d/2)) for
    k = 0 .. d/4-1, the angles are 2 pi * coordinate / period, those of the row before those of the column, and the
    d/2 of them stand twice, as channel i turns with channel i + d/2. The class token's angle is zero.
    """

    def __init__(self, head_dim: int, base: float) -> None:
        super().__init__()
        if head_dim % 4:
            raise ValueError(f"head dimension {head_dim} is no multiple of 4")
        self.head_dim, self.base = head_dim, base
        self._tables: dict[tuple[int, int, torch.device], RopeTable] = {}

    def forward(self, rows: int, columns: int, device: torch.device) -> RopeTable:
        """Return the table of a class token and rows x columns patches, float32 [1 + N, d], cached per size."""
        found = self._tables.get((rows, columns, device))
        if found is None:
            # a table that is first asked for under inference_mode must still serve a backward pass later
            with torch.inference_mode(False), torch.no_grad():
                found = self._tables[rows, columns, device] = self._build(rows, columns, device)
        return found

    def _build(self, rows: int, columns: int, device: torch.device) -> RopeTable:
        # in float64 on the processor: the same numbers on every device
        quarter = self.head_dim // 4
        exponent = 2 * torch.arange(quarter, dtype=torch.float64) / (self.head_dim / 2)
        periods = self.base**exponent

        def centres(num: int) -> torch.Tensor:
            return 2 * (torch.arange(num, dtype=torch.float64) + 0.5) / num - 1

        grid_N2 = torch.cartesian_prod(centres(rows), centres(columns))
        angles = (2 * math.pi * grid_N2[:, :, None] / periods).flatten(1).repeat(1, 2)
        angles = torch.cat([torch.zeros(1, self.head_dim, dtype=torch.float64), angles])
        return RopeTable(angles.cos().float().to(device), angles.sin().float().to(device))


def rotate(x_BhLd: torch.Tensor, rope: RopeTable) -> torch.Tensor:
    """Turn each pair of channels (i, i + d/2) by its token's angle; the result has x's number format."""
    cos, sin = rope.cos, rope.sin
    if cos.ndim == 3:  # a table for each batch element: make room for the heads
        cos, sin = cos[:, None], sin[:, None]
    first, second = x_BhLd.chunk(2, dim=-1)
    return (x_BhLd * cos + torch.cat([-second, first], dim=-1) * sin).to(x_BhLd.dtype)


class Attention(nn.Module):
    """Self-attention over all tokens of a batch element, with rotary positions on queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, x_BLD: torch.Tensor, rope: RopeTable) -> torch.Tensor:
        B, L, D = x_BLD.shape
        q, k, v = self.qkv(x_BLD).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(rotate(q, rope), rotate(k, rope), v)
        return self.projection(mixed.transpose(1, 2).reshape(B, L, D))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return self.contract(F.gelu(self.expand(x_BLD)))


class Block(nn.Module):
    """Pre-norm transformer block: attention, then MLP, each added to its input."""

    def __init__(self, width: int, heads: int, norm_eps: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width)

    def forward(self, x_BLD: torch.Tensor, rope: RopeTable) -> torch.Tensor:
        x_BLD = x_BLD + self.attention(self.norm_attention(x_BLD), rope)
        return x_BLD + self.mlp(self.norm_mlp(x_BLD))
