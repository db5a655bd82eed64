"""The baseline that training is measured against: MuM and MAE as one writes them down first.

In: uint8 views and the masks of a slot. Out: the loss, the same as that of `mumtrain.model` for the same weights. All
patches are embedded by a convolution and the hidden ones taken away afterwards; placeholders are concatenated and
brought into order by an argsort; halves of channels are turned by a `cat`; the head predicts all patches, of which the
loss takes the hidden ones. Attention is torch's `scaled_dot_product_attention`; nothing is compiled.
Shapes: B sequences, V views, T tokens of a view, D width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from mumtrain.config import Config
from mumtrain.mask_rules import read_kinds, read_references
from mumtrain.masks.draw import Masks
from mumtrain.model.autoencoder import MaskedAutoencoder
from mumtrain.model.pixels import STATISTICS

__all__ = ["PlainModel", "plain_model", "plain_optimizer", "why_not_plain"]

# names of parameters: those of the model, and here
_RENAMED = (
    ("encoder.norm.", "encoder_norm."),
    ("decoder.norm.", "decoder_norm."),
    (".blocks.", "."),
    (".attention.", "."),
    (".mlp.expand.", ".mlp.0."),
    (".mlp.contract.", ".mlp.2."),
    ("encoder.patch_embedding", "patch_embedding"),
    ("encoder.class_token", "class_token"),
    ("decoder.embedding", "embedding"),
    ("decoder.mask_token", "mask_token"),
    ("decoder.head", "head"),
)


def why_not_plain(config: Config) -> str | None:
    """Return the setting that the baseline has not, None where it can stand beside the recipe's model."""
    model, mask = config.model, config.mask
    wanted = {
        "model.encoder_attention": (model.encoder_attention, ("frame",)),
        "model.decoder_attention": (model.decoder_attention, ("alternating", "frame")),
        "model.hidden_tokens": (model.hidden_tokens, ("dropped",)),
        "model.positions": (model.positions, ("axial", "absolute")),
        "model.rope_precision": (model.rope_precision, ("float32",)),
        "model.global_class_token": (model.global_class_token, ("unrotated",)),
        "model.class_token": (model.class_token, (True,)),
        "model.registers": (model.registers, (0,)),
        "model.confidence": (model.confidence, (False,)),
        "mask.view_ratios": (mask.view_ratios, ((),)),
        # one number of kept patches in all views of a slot
        "mask.references": (read_references(mask.references).bounds(config.data.views_max)[1], (0,)),
        "mask.kind": (all(kind.is_exact for kind in read_kinds(mask.kind, mask.ratio)), (True,)),
    }
    return next((name for name, (value, known) in wanted.items() if value not in known), None)


class PlainModel(nn.Module):
    """The baseline's model, for settings that `why_not_plain` has nothing against."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        model = config.model
        e, d = model.encoder, model.decoder
        self.config = model
        self.patch_embedding = nn.Conv2d(3, e.width, model.patch, stride=model.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, e.width))
        self.encoder = nn.ModuleList(_Block(e.width, e.heads, model.norm_eps) for _ in range(e.depth))
        self.encoder_norm = nn.LayerNorm(e.width, eps=model.norm_eps)
        self.embedding = nn.Linear(e.width, d.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, d.width))
        self.decoder = nn.ModuleList(_Block(d.width, d.heads, model.norm_eps) for _ in range(d.depth))
        self.decoder_norm = nn.LayerNorm(d.width, eps=model.norm_eps)
        self.head = nn.Linear(d.width, 3 * model.patch**2)
        mean, std = (torch.tensor(values, device="cpu").view(1, 3, 1, 1) for values in STATISTICS[model.pixels])
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self._tables: dict[tuple[str, int, int, torch.device], torch.Tensor] = {}

    def forward(self, views: torch.Tensor, masks: Masks) -> torch.Tensor:
        """Return the loss of uint8 views [B, V, 3, S, S], a float32 scalar."""
        assert masks.groups is not None
        B, V = views.shape[:2]
        images = (views.flatten(0, 1).float() / 255 - self.mean) / self.std
        side, num_kept = images.shape[-1] // self.config.patch, masks.groups[0].kept_BGK.shape[-1]
        hidden = masks.is_hidden_BVN.flatten(0, 1).float()
        order = hidden.argsort(dim=1, stable=True)
        restore, kept = order.argsort(dim=1), order[:, :num_kept]

        x = self.patch_embedding(images).flatten(2).transpose(1, 2)
        x = self.with_positions(x, side)
        x = x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([self.class_token.expand(B * V, -1, -1), x], dim=1)
        rows = torch.cat([torch.zeros_like(kept[:, :1]), kept + 1], dim=1)
        turns = self.turns(self.config.encoder.width // self.config.encoder.heads, side)
        of_kept = None if turns is None else turns[:, rows][:, :, None]
        for block in self.encoder:
            x = block(x, of_kept)
        x = self.embedding(self.encoder_norm(x))

        placeholders = self.mask_token.to(x.dtype).repeat(B * V, restore.shape[1] + 1 - x.shape[1], 1)
        patches = torch.cat([x[:, 1:], placeholders], dim=1)
        patches = patches.gather(1, restore[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :1], self.with_positions(patches, side)], dim=1)
        T, D = x.shape[1:]
        turns = self.turns(self.config.decoder.width // self.config.decoder.heads, side)
        of_all = None if turns is None else turns.repeat(1, V, 1)
        for number, block in enumerate(self.decoder):
            if self.config.decoder_attention == "alternating" and number % 2 == 1:
                x = block(x.reshape(B, V * T, D), of_all)
            else:
                x = block(x.reshape(B * V, T, D), turns)
        predicted = self.head(self.decoder_norm(x.reshape(B * V, T, D)))[:, 1:]
        return self.loss(predicted, images, hidden)

    def loss(self, predicted: torch.Tensor, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error over hidden patches."""
        patch = self.config.patch
        side = images.shape[-1] // patch
        cut = images.reshape(-1, 3, side, patch, side, patch)
        target = cut.permute(0, 2, 4, 3, 5, 1).reshape(-1, side * side, 3 * patch * patch)
        if self.config.target == "normalised":
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        error = ((predicted - target) ** 2).mean(-1)
        return (error * hidden).sum() / hidden.sum()

    def turns(self, head_dim: int, side: int) -> torch.Tensor | None:
        """Return cosines and sines of the tokens' angles, [2, T, d], kept for the next time."""
        if self.config.positions == "absolute":
            return None
        device = self.mask_token.device
        key = ("turns", head_dim, side, device)
        if key not in self._tables:
            centres = 2 * (torch.arange(side, dtype=torch.float64) + 0.5) / side - 1
            period = self.config.rope_base ** (4 * torch.arange(head_dim // 4, dtype=torch.float64) / head_dim)
            of_rows, of_columns = torch.meshgrid(centres, centres, indexing="ij")
            angles = torch.cat([2 * math.pi * of.reshape(-1, 1) / period for of in (of_rows, of_columns)], dim=1)
            angles = torch.cat([torch.zeros(1, head_dim // 2, dtype=torch.float64), angles]).repeat(1, 2)
            self._tables[key] = torch.stack([angles.cos(), angles.sin()]).float().to(device)
        return self._tables[key]

    def with_positions(self, tokens: torch.Tensor, side: int) -> torch.Tensor:
        """Add sines and cosines to the tokens of all patches, where the recipe asks for that."""
        if self.config.positions != "absolute":
            return tokens
        width = tokens.shape[-1]
        key = ("added", width, side, tokens.device)
        if key not in self._tables:
            frequency = 10000.0 ** (-4 * torch.arange(width // 4, dtype=torch.float64) / width)
            numbers = torch.arange(side, dtype=torch.float64)
            of_rows, of_columns = torch.meshgrid(numbers, numbers, indexing="ij")
            angles = [of.reshape(-1, 1) * frequency for of in (of_columns, of_rows)]
            parts = [part for angle in angles for part in (angle.sin(), angle.cos())]
            self._tables[key] = torch.cat(parts, dim=1).float().to(tokens.device)
        return tokens + self._tables[key]


class _Block(nn.Module):
    """A transformer block with rotary positions, if any."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor, turns: torch.Tensor | None) -> torch.Tensor:
        B, L, D = x.shape
        qkv = self.qkv(self.norm_attention(x)).reshape(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if turns is not None:
            cos, sin = turns
            q = q * cos + _rotate_half(q) * sin
            k = k * cos + _rotate_half(k) * sin
        x = x + self.projection(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, L, D))
        return x + self.mlp(self.norm_mlp(x))


def _rotate_half(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def plain_model(model: MaskedAutoencoder, config: Config) -> PlainModel:
    """Return the baseline with the weights of a model, on its device."""
    patch, renamed = config.model.patch, {}
    for name, value in model.state_dict().items():
        for old, new in _RENAMED:
            name = name.replace(old, new)
        if name == "patch_embedding.weight":
            value = value.view(-1, patch, patch, 3).permute(0, 3, 1, 2)
        renamed[name] = value.clone()
    with torch.device("meta"):  # torch's own first weights would be thrown away
        plain = PlainModel(config)
    plain.load_state_dict(renamed, assign=True)
    return plain.to(next(model.parameters()).device)


def plain_optimizer(model: PlainModel, config: Config) -> torch.optim.AdamW:
    """Return AdamW as torch has it by default, over the same two groups of parameters."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.optim.lr, betas=config.optim.betas)
