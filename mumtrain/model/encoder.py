"""The encoder: a vision transformer over the patches of views.

In: normalised images, or patches and which of them are hidden. Out: tokens of every layer, under the names that users
of such encoders know. Shapes: B batch, V views, H/W pixels, N patches of a view, K kept patches, P pixel values of a
patch, S special tokens (class token first, then registers), T = S + K tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from mumdata.errors import MumError
from mumtrain.config import ModelConfig
from mumtrain.model.layers import entered
from mumtrain.model.pixels import STATISTICS, patchify
from mumtrain.model.positions import RopeTable
from mumtrain.model.tower import Tower

__all__ = ["Encoder"]


class Encoder(Tower):
    """ViT with special tokens and a final norm; hidden patches that are dropped cost nothing, not even embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.encoder, alternates=config.encoder_attention == "alternating")
        self.patch = self.patch_size = config.patch
        self.embed_dim = self.num_features = self.width
        self.num_heads, self.n_blocks = config.encoder.heads, config.encoder.depth
        # what is taken out of pixels in 0 .. 1 before they come here, for red, green and blue
        self.mean, self.std = STATISTICS[config.pixels]
        self.patch_embedding = nn.Linear(3 * config.patch**2, self.width)
        # three dimensions, so that they are decayed like weights and unlike biases
        self.class_token = nn.Parameter(torch.empty(1, 1, self.width)) if config.class_token else None
        self.register_token = nn.Parameter(torch.empty(1, config.registers, self.width)) if config.registers else None
        replaces = config.hidden_tokens == "replaced"
        self.mask_token = nn.Parameter(torch.empty(1, 1, self.width)) if replaces else None

    def encode(
        self,
        patches_BVKP: torch.Tensor,
        grid: tuple[int, int],
        *,
        kept_BVK: torch.Tensor | None = None,
        is_hidden_BVN: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the last layer's normalised tokens [B, V, T, D].

        `patches` are all of rows x columns, or those of `kept` alone; those of `is_hidden` become placeholders.
        """
        (x,) = self.run(*self.embed(patches_BVKP, grid, kept_BVK=kept_BVK, is_hidden_BVN=is_hidden_BVN))
        return self.norm(x)

    def embed(
        self,
        patches_BVKP: torch.Tensor,
        grid: tuple[int, int],
        *,
        kept_BVK: torch.Tensor | None = None,
        is_hidden_BVN: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, RopeTable | None]:
        """Return the tokens that enter the first block, [B, V, T, D], and their rotary table."""
        B, V = patches_BVKP.shape[:2]
        tokens = entered(self.patch_embedding, patches_BVKP)
        if is_hidden_BVN is not None:
            assert self.mask_token is not None
            tokens = torch.where(is_hidden_BVN[..., None], self.mask_token, tokens)
        special = [part for part in (self.class_token, self.register_token) if part is not None]
        if special:
            x = torch.cat([*(part.expand(B, V, -1, -1) for part in special), tokens], dim=2)
        else:
            x = tokens
        rope, added = self.table(grid, x.device), self.added(grid, x)
        if kept_BVK is not None:
            first = torch.arange(self.num_special, device=x.device).expand(B, V, -1)
            rows = torch.cat([first, kept_BVK + self.num_special], dim=2)
            rope = rope.take(rows.flatten(0, 1)) if rope is not None else None
            added = added[rows] if added is not None else None
        return (x if added is None else x + added), rope

    # ---- features, under the names that encoders of this kind share

    def forward(self, images: torch.Tensor, *, pad: bool = False) -> torch.Tensor:
        """Return one vector for each image: the class token [B, D], or the patch tokens' mean where there is none.

        Images as for `forward_features`.
        """
        found = self.forward_features(images, pad=pad)
        return found["x_norm_cls_token"] if self.class_token is not None else found["x_norm_patchtokens"].mean(-2)

    def forward_features(self, images: torch.Tensor, *, pad: bool = False) -> dict[str, torch.Tensor]:
        """Return the features of normalised images [B, 3, H, W], or of views [B, V, 3, H, W] of scenes.

        Keys: `x_norm_patchtokens` [B, N, D], patches row by row; `x_norm_cls_token` [B, D] where the model has a class
        token; `x_norm_regtokens` [B, R, D]; `x_prenorm` [B, T, D], all tokens before the norm. Views have a V behind
        the B. H and W must be multiples of the patch, or, with `pad`, are filled up with zeros to the right and below.
        Images may have another number format than the weights. Raises MumError for other sizes.
        """
        (prenorm,) = self._layers(images, [len(self.blocks) - 1], pad)
        normed = self.norm(prenorm)
        found = {"x_norm_patchtokens": normed[..., self.num_special :, :], "x_prenorm": prenorm}
        if self.class_token is not None:
            found["x_norm_cls_token"] = normed[..., 0, :]
        found["x_norm_regtokens"] = normed[..., int(self.class_token is not None) : self.num_special, :]
        return found

    def get_intermediate_layers(
        self,
        images: torch.Tensor,
        n: int | Sequence[int] = 1,
        *,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
        pad: bool = False,
    ) -> tuple[torch.Tensor, ...] | tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Return the patch tokens after the last `n` blocks, or after the blocks numbered `n` (0 is the first).

        Each is [B, N, D], with `reshape` [B, D, H / patch, W / patch]; with `return_class_token` a pair with the class
        token [B, D]. `norm` applies the final norm to each. Images as for `forward_features`. Raises MumError for a
        block that does not exist and for a class token of a model without one.
        """
        depth = len(self.blocks)
        wanted = list(range(depth - n, depth)) if isinstance(n, int) else list(n)
        if not wanted or min(wanted) < 0 or max(wanted) >= depth:
            raise MumError(f"layers {n} do not exist; the encoder has {depth} blocks, 0 to {depth - 1}")
        if return_class_token and self.class_token is None:
            raise MumError("this model has no class token")
        layers = self._layers(images, wanted, pad)
        if norm:
            layers = [self.norm(layer) for layer in layers]
        patches = [layer[..., self.num_special :, :] for layer in layers]
        if reshape:
            rows = -(-images.shape[-2] // self.patch)
            patches = [part.unflatten(-2, (rows, -1)).movedim(-1, -3).contiguous() for part in patches]
        if return_class_token:
            return tuple((part, layer[..., 0, :]) for part, layer in zip(patches, layers, strict=True))
        return tuple(patches)

    def _layers(self, images: torch.Tensor, wanted: list[int], pad: bool) -> list[torch.Tensor]:
        # all tokens after some blocks, in the order of `wanted`
        views = images[:, None] if images.ndim == 4 else images
        if views.ndim != 5 or views.shape[2] != 3:
            raise MumError(f"images must be [B, 3, H, W] or [B, V, 3, H, W], not {list(images.shape)}")
        if not views.is_floating_point():
            raise MumError(f"images must be normalised, and so of floating point, not {images.dtype}")
        height, width = views.shape[-2:]
        below, beside = -height % self.patch, -width % self.patch
        if below or beside:
            if not pad:
                raise MumError(
                    f"images of {width} x {height} pixels are no whole patches of {self.patch}; resize or crop them, "
                    "or set pad=True"
                )
            views = F.pad(views, (0, beside, 0, below))
        grid = (views.shape[-2] // self.patch, views.shape[-1] // self.patch)
        patches = patchify(views.to(self.patch_embedding.weight.dtype), self.patch)
        layers = self.run(*self.embed(patches, grid), wanted)
        return [layer[:, 0] for layer in layers] if images.ndim == 4 else layers
