"""The encoder: a vision transformer that sees the kept patches of one view at a time.

In: patches and which of them are kept. Out: a class token and the kept patches' tokens.
Shapes: B batch (views folded in), N patches of a view, K kept patches, P pixel values of a patch, D width.
"""

from __future__ import annotations

import torch
from torch import nn

from mumtrain.config import ModelConfig
from mumtrain.layers import Block, Rope

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """ViT with a class token, rotary positions and a final norm; hidden patches cost nothing, not even embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        tower = config.encoder
        self.patch_embedding = nn.Linear(3 * config.patch**2, tower.width)
        # three dimensions, so that it is decayed like a weight and unlike a bias
        self.class_token = nn.Parameter(torch.empty(1, 1, tower.width))
        self.rope = Rope(tower.width // tower.heads, config.rope_base)
        self.blocks = nn.ModuleList(Block(tower.width, tower.heads, config.norm_eps) for _ in range(tower.depth))
        self.norm = nn.LayerNorm(tower.width, eps=config.norm_eps)

    def forward(self, patches_BNP: torch.Tensor, grid: tuple[int, int], kept_BK: torch.Tensor | None) -> torch.Tensor:
        """Return the tokens [B, 1 + K, D], class token first, of the kept patches (None: all) of rows x columns."""
        rope = self.rope(*grid, patches_BNP.device)
        B = patches_BNP.shape[0]
        if kept_BK is not None:
            patches_BNP = patches_BNP.gather(1, kept_BK[:, :, None].expand(-1, -1, patches_BNP.shape[2]))
            # row 0 of the table is the class token's
            rope = rope.take(torch.cat([kept_BK.new_zeros(B, 1), kept_BK + 1], dim=1))
        tokens = self.patch_embedding(patches_BNP)
        x_BLD = torch.cat([self.class_token.to(tokens.dtype).expand(B, -1, -1), tokens], dim=1)
        for block in self.blocks:
            x_BLD = block(x_BLD, rope)
        return self.norm(x_BLD)
