"""The decoder: predicts the hidden patches of all views of a sequence together.

In: the encoder's tokens of the kept patches. Out: the pixel values of the hidden patches, patch-normalised.
Shapes: B batch, V views, N patches of a view, K kept and M hidden ones, E the encoder's width, D the decoder's,
P pixel values of a patch.
"""

from __future__ import annotations

import torch
from torch import nn

from mumtrain.config import ModelConfig
from mumtrain.layers import Block, Rope

__all__ = ["Decoder"]


class Decoder(nn.Module):
    """Blocks that attend in turn within each view (even ones) and across all views of a sequence (odd ones).

    Nothing tells the views apart: positions repeat from view to view, so that permuting the views permutes the result.
    With one view both kinds of block are the same, and this is the decoder of a masked autoencoder.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        tower = config.decoder
        self.embedding = nn.Linear(config.encoder.width, tower.width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, tower.width))
        self.rope = Rope(tower.width // tower.heads, config.rope_base)
        self.blocks = nn.ModuleList(Block(tower.width, tower.heads, config.norm_eps) for _ in range(tower.depth))
        self.norm = nn.LayerNorm(tower.width, eps=config.norm_eps)
        self.head = nn.Linear(tower.width, 3 * config.patch**2)

    def forward(
        self, tokens_BVKE: torch.Tensor, grid: tuple[int, int], kept_BVK: torch.Tensor, masked_BVM: torch.Tensor
    ) -> torch.Tensor:
        """Return the predictions [B, V, M, P] for the patches in `masked_BVM`; tokens come class token first."""
        B, V, K1, _ = tokens_BVKE.shape
        N = grid[0] * grid[1]
        embedded = self.embedding(tokens_BVKE).flatten(0, 1)  # [B * V, 1 + K, D]
        D = embedded.shape[2]
        hidden = self.mask_token.to(embedded.dtype).expand(B * V, N, D)
        patches = hidden.scatter(1, kept_BVK.reshape(B * V, K1 - 1, 1).expand(-1, -1, D), embedded[:, 1:])
        x = torch.cat([embedded[:, :1], patches], dim=1)  # [B * V, 1 + N, D]
        rope = self.rope(*grid, x.device)
        rope_of_all = rope.repeat(V)
        for number, block in enumerate(self.blocks):
            if number % 2 == 0:
                x = block(x, rope)
            else:
                x = block(x.view(B, V * (1 + N), D), rope_of_all).view(B * V, 1 + N, D)
        # the loss looks at hidden patches alone: the head is spared the others
        wanted = masked_BVM.reshape(B * V, -1, 1).expand(-1, -1, D) + 1
        return self.head(self.norm(x.gather(1, wanted))).unflatten(0, (B, V))
