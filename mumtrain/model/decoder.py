"""The decoders: from the encoder's tokens to predictions of the hidden patches.

In: the encoder's tokens, in the groups of the masks where hidden ones were dropped. Out: predictions of the hidden
patches, or of all patches where the number of hidden ones varies. Shapes: B sequences, V views, N patches of a view,
S special tokens, K kept patches of a view of a group of G views, E the encoder's width, D the decoder's, Q predicted
values of a patch, L predicted patches of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from mumtrain.config import ModelConfig, TowerConfig
from mumtrain.masks.draw import Masks
from mumtrain.model.layers import CrossBlock, entered
from mumtrain.model.positions import RopeTable
from mumtrain.model.tower import Tower

__all__ = ["Decoder", "CrossDecoder", "LinearHead", "num_predicted"]


def num_predicted(config: ModelConfig) -> int:
    """Return how many values are predicted for a patch: its pixels, and a confidence for each where asked for."""
    return 3 * config.patch**2 * (2 if config.confidence else 1)


def wanted_patches(patches_BXD: torch.Tensor, masks: Masks) -> torch.Tensor:
    """Return the tokens [B, L, D] that are predicted from: the loss looks at hidden patches alone."""
    if masks.hidden_BH is None:
        return patches_BXD
    return patches_BXD.gather(1, masks.hidden_BH[..., None].expand(-1, -1, patches_BXD.shape[2]))


class Decoder(Tower):
    """Sees all patches of all views, learned placeholders in the places of the hidden ones.

    Its blocks attend in turn within each view and across all views of a sequence, or within each view alone. With one
    view both are the same, and this is the decoder of a masked autoencoder.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.decoder, alternates=config.decoder_attention == "alternating")
        self.embedding = nn.Linear(config.encoder.width, self.width)
        drops = config.hidden_tokens == "dropped"
        self.mask_token = nn.Parameter(torch.empty(1, 1, self.width)) if drops else None
        self.head = nn.Linear(self.width, num_predicted(config))

    def forward(self, encoded: Sequence[torch.Tensor], grid: tuple[int, int], masks: Masks) -> torch.Tensor:
        """Return the predictions [B, L, Q] from the tokens [B, G, S + K, E] of each group."""
        (x,) = self.run(*self.enter(encoded, grid, masks))
        return self.head(self.norm(wanted_patches(x[:, :, self.num_special :].flatten(1, 2), masks)))

    def enter(
        self, encoded: Sequence[torch.Tensor], grid: tuple[int, int], masks: Masks | None
    ) -> tuple[torch.Tensor, RopeTable | None]:
        """Return the tokens [B, V, S + N, D] that enter the first block, and their rotary table.

        Without masks no patch is hidden.
        """
        tokens = [entered(self.embedding, tokens) for tokens in encoded]
        if masks is None or masks.groups is None or self.mask_token is None:
            (x,) = tokens
        else:
            x = self._laid_out(tokens, masks)
        added = self.added(grid, x)
        return (x if added is None else x + added), self.table(grid, x.device)

    def _laid_out(self, tokens: list[torch.Tensor], masks: Masks) -> torch.Tensor:
        # every token in its view's place, and placeholders in the others
        assert masks.groups is not None
        assert self.mask_token is not None
        (B, V, N), S, D = masks.is_hidden_BVN.shape, self.num_special, self.width
        blank = self.mask_token.expand(B, V * N, D)
        places = torch.cat([group.places(N) for group in masks.groups], dim=1)
        kept = torch.cat([part[:, :, S:].flatten(1, 2) for part in tokens], dim=1)
        patches = blank.scatter(1, places[..., None].expand(-1, -1, D), kept).view(B, V, N, D)
        special = torch.cat([part[:, :, :S] for part in tokens], dim=1)
        if len(tokens) > 1:
            views = torch.cat([group.views_BG for group in masks.groups], dim=1)
            special = special.gather(1, views.argsort(1)[..., None, None].expand(-1, -1, S, D))
        return torch.cat([special, patches], dim=2)


class CrossDecoder(Tower):
    """CroCo's: the tokens of a pair's masked view look at themselves and at those of its whole view, block by block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.decoder, alternates=False)
        self.embedding = nn.Linear(config.encoder.width, self.width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, self.width))
        self.head = nn.Linear(self.width, num_predicted(config))

    def make_block(self, tower: TowerConfig, norm_eps: float) -> nn.Module:
        """Return a block with cross-attention."""
        return CrossBlock(tower.width, tower.heads, norm_eps)

    def forward(self, encoded: Sequence[torch.Tensor], grid: tuple[int, int], masks: Masks) -> torch.Tensor:
        """Return the predictions [B, L, Q] for the masked view of each pair, whose group comes first."""
        assert masks.groups is not None
        assert masks.hidden_BH is not None
        seen, memory = (entered(self.embedding, tokens)[:, 0] for tokens in encoded)
        N, S, D = masks.is_hidden_BVN.shape[2], self.num_special, self.width
        blank = self.mask_token.expand(len(seen), N, D)
        kept = masks.groups[0].kept_BGK[:, 0]
        patches = blank.scatter(1, kept[..., None].expand(-1, -1, D), seen[:, S:])
        x = torch.cat([seen[:, :S], patches], dim=1)
        rope, added = self.table(grid, x.device), self.added(grid, x)
        if added is not None:
            x, memory = x + added, memory + added
        for block in self.blocks:
            x = self.call(block, x, rope, memory, rope)
        # only one view has hidden patches
        wanted = x[:, S:].gather(1, (masks.hidden_BH % N)[..., None].expand(-1, -1, D))
        return self.head(self.norm(wanted))


class LinearHead(nn.Module):
    """No decoder: the encoder's tokens at the placeholders become the prediction."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_special = int(config.class_token) + config.registers
        self.head = nn.Linear(config.encoder.width, num_predicted(config))

    def forward(self, encoded: Sequence[torch.Tensor], grid: tuple[int, int], masks: Masks) -> torch.Tensor:
        """Return the predictions [B, L, Q]."""
        (tokens,) = encoded
        return self.head(wanted_patches(tokens[:, :, self.num_special :].flatten(1, 2), masks))
