"""What is learned: views in, loss out.

In: uint8 views and masks. Out: predictions and the mean squared error over the hidden patches.
Shapes: B batch, V views, H/W pixels, N patches of a view, K kept and M hidden ones, P pixel values of a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from mumdata import rng
from mumdata.errors import unknown
from mumtrain.config import Config, ModelConfig
from mumtrain.decoder import Decoder
from mumtrain.encoder import Encoder

__all__ = [
    "MEAN",
    "STD",
    "Normalised",
    "normalise",
    "patchify",
    "unpatchify",
    "normalise_patches",
    "masked_loss",
    "MultiViewMae",
    "OBJECTIVES",
    "initialise",
    "build_model",
]

# ImageNet's mean and deviation, for pixels in 0 .. 1
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Normalised(NamedTuple):
    """Patches with mean 0 and deviation 1 each, and the mean and deviation that were taken out, [..., 1]."""

    patches: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor


def normalise(views_BVCHW: torch.Tensor) -> torch.Tensor:
    """Turn uint8 RGB into float32 with ImageNet's mean and deviation taken out."""
    mean = torch.tensor(MEAN, device=views_BVCHW.device)[:, None, None]
    std = torch.tensor(STD, device=views_BVCHW.device)[:, None, None]
    return (views_BVCHW.float() / 255 - mean) / std


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


def normalise_patches(patches_BVNP: torch.Tensor) -> Normalised:
    """Take each patch's own mean out and divide by sqrt(unbiased variance + 1e-6), over all its P values."""
    mean = patches_BVNP.mean(dim=-1, keepdim=True)
    std = (patches_BVNP.var(dim=-1, keepdim=True, unbiased=True) + 1e-6).sqrt()
    return Normalised((patches_BVNP - mean) / std, mean, std)


def masked_loss(predictions_BVMP: torch.Tensor, patches_BVNP: torch.Tensor, masked_BVM: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error between predictions and the normalised hidden patches, a float32 scalar."""
    P = patches_BVNP.shape[-1]
    hidden = patches_BVNP.gather(2, masked_BVM[..., None].expand(-1, -1, -1, P))
    return (predictions_BVMP.float() - normalise_patches(hidden).patches).square().mean()


class MultiViewMae(nn.Module):
    """Masked autoencoding of several views of a scene together (MuM); with one view it is MAE."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def predict(
        self, patches_BVNP: torch.Tensor, grid: tuple[int, int], kept_BVK: torch.Tensor, masked_BVM: torch.Tensor
    ) -> torch.Tensor:
        """Return the predictions [B, V, M, P] for the hidden patches, from the kept ones."""
        B, V = patches_BVNP.shape[:2]
        tokens = self.encoder(patches_BVNP.flatten(0, 1), grid, kept_BVK.flatten(0, 1))
        return self.decoder(tokens.unflatten(0, (B, V)), grid, kept_BVK, masked_BVM)

    def forward(self, views_BVCHW: torch.Tensor, kept_BVK: torch.Tensor, masked_BVM: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch of uint8 views, a float32 scalar."""
        H, W = views_BVCHW.shape[-2:]
        patches = patchify(normalise(views_BVCHW), self.patch)
        predictions = self.predict(patches, (H // self.patch, W // self.patch), kept_BVK, masked_BVM)
        return masked_loss(predictions, patches, masked_BVM)


# an objective is one module: built from a ModelConfig, called with (views, kept, masked), returns its loss
OBJECTIVES: dict[str, Callable[[ModelConfig], nn.Module]] = {"mum": MultiViewMae}


def initialise(model: nn.Module, seed: int) -> None:
    """Fill all parameters: each from a generator of its own, so that no parameter's values depend on the others.

    Weights of linear layers and tokens: normal with deviation 0.02 (the weights truncated at +-2); biases 0; norms 1
    and 0; the patch embedding uniform within 1 / sqrt(values of a patch).
    """
    for name, parameter in model.named_parameters():
        generator = torch.Generator(device=parameter.device).manual_seed(rng.key(seed, "init", name))
        if ".patch_embedding." in f".{name}":
            layer = model.get_submodule(name.rpartition(".")[0])
            assert isinstance(layer, nn.Linear)
            bound = layer.in_features**-0.5
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        elif parameter.ndim == 1:
            norm = "norm" in name.split(".")[-2] and name.endswith("weight")
            nn.init.constant_(parameter, 1.0 if norm else 0.0)
        elif name.endswith("token"):
            nn.init.normal_(parameter, std=0.02, generator=generator)
        else:
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)


def build_model(config: Config, *, device: torch.device | str = "cpu") -> nn.Module:
    """Build the model of a config with weights drawn from its seed; on device "meta" it has shapes but no weights.

    Weights are drawn on the processor, so that they are the same on every device. Raises ConfigError for an unknown
    objective.
    """
    if config.objective not in OBJECTIVES:
        raise unknown("objective", config.objective, OBJECTIVES)
    # built without memory first: torch's own initialisation would be thrown away, and would advance its generator
    with torch.device("meta"):
        model = OBJECTIVES[config.objective](config.model)
    if torch.device(device).type == "meta":
        return model
    model.to_empty(device="cpu")
    initialise(model, config.seed)
    return model.to(device)
