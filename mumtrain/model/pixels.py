"""Pixels and patches.

In: uint8 views. Out: normalised patches, and back. Shapes: B batch, V views, H/W pixels, N patches of a view, P pixel
values of a patch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = [
    "STATISTICS",
    "Normalised",
    "normalise",
    "denormalise",
    "patchify",
    "unpatchify",
    "normalise_patches",
]

# mean and deviation of pixels in 0 .. 1, for red, green and blue
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


class Normalised(NamedTuple):
    """Patches with mean 0 and deviation 1 each, and the mean and deviation that were taken out, [..., 1]."""

    patches: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor


def _statistics(of: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in STATISTICS[of])
    return mean, std


def normalise(views_BVCHW: torch.Tensor, of: str = "imagenet") -> torch.Tensor:
    """Turn uint8 RGB into float32 with a mean and a deviation taken out (`STATISTICS`)."""
    mean, std = _statistics(of, views_BVCHW.device)
    return (views_BVCHW.float() / 255 - mean) / std


def denormalise(pixels_BVCHW: torch.Tensor, of: str = "imagenet") -> torch.Tensor:
    """Put mean and deviation back: RGB in 0 .. 1, where the pixels were such."""
    mean, std = _statistics(of, pixels_BVCHW.device)
    return pixels_BVCHW * std + mean


def patchify(views_BVCHW: torch.Tensor, patch: int) -> torch.Tensor:
    """Cut views into patches, [B, V, N, P]: patches row by row, values in the order row, column, channel."""
    B, V, C, H, W = views_BVCHW.shape
    cut = views_BVCHW.reshape(B, V, C, H // patch, patch, W // patch, patch)
    return cut.permute(0, 1, 3, 5, 4, 6, 2).reshape(B, V, (H // patch) * (W // patch), patch * patch * C)


def unpatchify(patches_BVNP: torch.Tensor, patch: int, grid: tuple[int, int]) -> torch.Tensor:
    """Put patches back together, the inverse of `patchify`: [B, V, C, H, W]."""
    B, V = patches_BVNP.shape[:2]
    cut = patches_BVNP.reshape(B, V, *grid, patch, patch, -1)
    return cut.permute(0, 1, 6, 2, 4, 3, 5).reshape(B, V, -1, grid[0] * patch, grid[1] * patch)


def normalise_patches(patches_LP: torch.Tensor) -> Normalised:
    """Take each patch's own mean out and divide by sqrt(unbiased variance + 1e-6), over all its P values."""
    mean = patches_LP.mean(dim=-1, keepdim=True)
    std = (patches_LP.var(dim=-1, keepdim=True, unbiased=True) + 1e-6).sqrt()
    return Normalised((patches_LP - mean) / std, mean, std)
