"""The transformer parts that encoder and decoders share.

In: tokens and rotary tables. Out: tokens. Shapes: B batch (any leading views folded in), L tokens, M tokens of a
memory, D width, h heads, d channels of a head (D / h).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mumtrain.model.positions import RopeTable, rotate, split_rotated

__all__ = ["entered", "Attention", "CrossAttention", "Mlp", "Block", "CrossBlock"]


def entered(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Return what a layer makes of tokens that then enter the first block, in the number format of its weights.

    Autocast rounds the products to bfloat16. Blocks add theirs to these tokens; the sums shall not be rounded.
    """
    return layer(x).to(layer.weight.dtype)


class Attention(nn.Module):
    """Self-attention over all tokens of a batch element, with rotary positions on queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def queries_keys_values(
        self, x_BLD: torch.Tensor, rope: RopeTable | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values as they are compared, [B, h, L, d] each."""
        B, L, D = x_BLD.shape
        return split_rotated(self.qkv(x_BLD).view(B, L, 3, self.heads, D // self.heads), rope)

    def forward(self, x_BLD: torch.Tensor, rope: RopeTable | None) -> torch.Tensor:
        mixed = F.scaled_dot_product_attention(*self.queries_keys_values(x_BLD, rope))
        return self.projection(mixed.transpose(1, 2).reshape(x_BLD.shape))


class CrossAttention(nn.Module):
    """Attention of tokens to a memory, with rotary positions on the queries and on the memory's keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.projection = nn.Linear(width, width)

    def forward(
        self,
        x_BLD: torch.Tensor,
        rope: RopeTable | None,
        memory_BMD: torch.Tensor,
        rope_of_memory: RopeTable | None,
    ) -> torch.Tensor:
        q = self.query(x_BLD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k = self.key(memory_BMD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        v = self.value(memory_BMD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(rotate(q, rope), rotate(k, rope_of_memory), v)
        return self.projection(mixed.transpose(1, 2).reshape(x_BLD.shape))


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

    def forward(self, x_BLD: torch.Tensor, rope: RopeTable | None) -> torch.Tensor:
        x_BLD = x_BLD + self.attention(self.norm_attention(x_BLD), rope)
        return x_BLD + self.mlp(self.norm_mlp(x_BLD))


class CrossBlock(nn.Module):
    """Self-attention, attention to a memory that has a norm here and is never changed, and MLP."""

    def __init__(self, width: int, heads: int, norm_eps: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width, heads)
        self.norm_cross = nn.LayerNorm(width, eps=norm_eps)
        self.norm_memory = nn.LayerNorm(width, eps=norm_eps)
        self.cross_attention = CrossAttention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width)

    def forward(
        self,
        x_BLD: torch.Tensor,
        rope: RopeTable | None,
        memory_BMD: torch.Tensor,
        rope_of_memory: RopeTable | None,
    ) -> torch.Tensor:
        x_BLD = x_BLD + self.attention(self.norm_attention(x_BLD), rope)
        memory = self.norm_memory(memory_BMD)
        x_BLD = x_BLD + self.cross_attention(self.norm_cross(x_BLD), rope, memory, rope_of_memory)
        return x_BLD + self.mlp(self.norm_mlp(x_BLD))
