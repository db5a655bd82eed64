"""What is trained: views and masks in, loss out.

In: uint8 views and the masks of a slot. Out: predictions of hidden patches and their loss. MuM, MAE, CroCo v2, Muskie
and what lies between them are settings of this one model (see `mumtrain.recipes`).
Shapes: B sequences, V views, H/W pixels, N patches of a view, P pixel values of a patch, L predicted patches of a
sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from mumdata import rng
from mumdata.errors import MumError
from mumtrain.config import Config, ModelConfig
from mumtrain.masks.draw import Masks
from mumtrain.model.decoder import CrossDecoder, Decoder, LinearHead
from mumtrain.model.encoder import Encoder
from mumtrain.model.pixels import normalise, normalise_patches, patchify

__all__ = ["Losses", "MaskedAutoencoder", "Prediction", "build_model", "initialise"]


class Prediction(NamedTuple):
    """Predicted values [B, L, P] of the hidden patches, or of all patches where `masks.hidden_BH` is None.

    `confidence` is how far each value is to be trusted, in 0 .. 1, where the model says so.
    """

    values: torch.Tensor
    confidence: torch.Tensor | None


class Losses(NamedTuple):
    """The loss of a slot, a float32 scalar, and what it is for each sequence by itself, [B], without gradients."""

    mean: torch.Tensor
    of_sequences: torch.Tensor


class MaskedAutoencoder(nn.Module):
    """Masked autoencoding of the views of a scene."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch, self.target, self.pixels = config.patch, config.target, config.pixels
        self.has_confidence = config.confidence
        self.drops = config.hidden_tokens == "dropped"
        self.encoder = Encoder(config)
        self.decoder: nn.Module
        if config.decoder_attention == "none":
            self.decoder = LinearHead(config)
        else:
            self.decoder = (CrossDecoder if config.decoder_attention == "cross" else Decoder)(config)

    def forward(self, views_BVCHW: torch.Tensor, masks: Masks) -> torch.Tensor:
        """Return the loss of uint8 views, a float32 scalar."""
        return self.losses(views_BVCHW, masks).mean

    def losses(self, views_BVCHW: torch.Tensor, masks: Masks) -> Losses:
        """Return the loss of uint8 views, for the slot and for each of its sequences."""
        H, W = views_BVCHW.shape[-2:]
        patches = patchify(normalise(views_BVCHW, self.pixels), self.patch)
        costs = self.costs(self.predict(patches, (H // self.patch, W // self.patch), masks), patches, masks)
        return Losses(_mean_over_hidden(costs, masks), _means_of_sequences(costs.detach(), masks))

    def predict(self, patches_BVNP: torch.Tensor, grid: tuple[int, int], masks: Masks) -> Prediction:
        """Return the predictions from the patches that are not hidden."""
        values = self.decoder(self.encode(patches_BVNP, grid, masks), grid, masks)
        if not self.has_confidence:
            return Prediction(values, None)
        values, logits = values.unflatten(-1, (2, -1)).unbind(-2)
        return Prediction(values, logits.float().sigmoid())

    def encode(self, patches_BVNP: torch.Tensor, grid: tuple[int, int], masks: Masks) -> list[torch.Tensor]:
        """Return the encoder's tokens: [B, V, S + N, E], or [B, G, S + K, E] of each group where hidden ones drop."""
        if not self.drops:
            return [self.encoder.encode(patches_BVNP, grid, is_hidden_BVN=masks.is_hidden_BVN)]
        assert masks.groups is not None
        N, P = patches_BVNP.shape[2:]
        flat, encoded = patches_BVNP.flatten(1, 2), []
        for group in masks.groups:
            seen = flat.gather(1, group.places(N)[..., None].expand(-1, -1, P))
            seen = seen.unflatten(1, (group.views_BG.shape[1], -1))
            encoded.append(self.encoder.encode(seen, grid, kept_BVK=group.kept_BGK))
        return encoded

    def loss(self, predicted: Prediction, patches_BVNP: torch.Tensor, masks: Masks) -> torch.Tensor:
        """Return the mean of the costs over hidden patches, a float32 scalar."""
        return _mean_over_hidden(self.costs(predicted, patches_BVNP, masks), masks)

    def costs(self, predicted: Prediction, patches_BVNP: torch.Tensor, masks: Masks) -> torch.Tensor:
        """Return what each predicted patch adds to the loss, float32 [B, L]: its mean squared error.

        With confidences c it is the mean of (c + 0.1) * squared error, plus 0.1 times the mean of -log(c + 1e-6) times
        the share of patches that are hidden: summed over hidden patches and divided by all of them (Muskie).
        """
        truth = patches_BVNP.flatten(1, 2)
        if masks.hidden_BH is not None:
            truth = truth.gather(1, masks.hidden_BH[..., None].expand(-1, -1, truth.shape[2]))
        if self.target == "normalised":
            truth = normalise_patches(truth).patches
        error = (predicted.values.float() - truth).square()
        if predicted.confidence is None:
            return error.mean(-1)
        doubt = -(predicted.confidence + 1e-6).log().mean(-1)
        share = masks.is_hidden_BVN.float().mean()
        return ((predicted.confidence + 0.1) * error).mean(-1) + 0.1 * share * doubt

    def patch_errors(self, predicted: Prediction, patches_BVNP: torch.Tensor, masks: Masks) -> torch.Tensor:
        """Return the mean squared error of each hidden patch, float32 [B, V, N], and 0 for the others.

        It is of the values that the loss is about, but no confidence weighs it.
        """
        truth = patches_BVNP
        if self.target == "normalised":
            truth = normalise_patches(truth).patches
        values = predicted.values.float()
        if masks.hidden_BH is None:
            error = (values.view_as(truth) - truth).square().mean(-1)
            return torch.where(masks.is_hidden_BVN, error, 0)
        wanted = truth.flatten(1, 2).gather(1, masks.hidden_BH[..., None].expand(-1, -1, truth.shape[3]))
        error = (values - wanted).square().mean(-1)
        return torch.zeros_like(truth[..., 0]).flatten(1).scatter(1, masks.hidden_BH, error).view(truth.shape[:3])

    def multi_view_layers(self, views_BVCHW: torch.Tensor) -> list[torch.Tensor]:
        """Return the decoder's patch tokens [B, V, N, D] after each block, nothing hidden, for normalised views.

        Each view's tokens know of the others'. Raises MumError for a model whose decoder does not see all views.
        """
        if not isinstance(self.decoder, Decoder):
            raise MumError("this model has no decoder over all views")
        grid = (views_BVCHW.shape[-2] // self.patch, views_BVCHW.shape[-1] // self.patch)
        encoded = [self.encoder.encode(patchify(views_BVCHW, self.patch), grid)]
        x, rope = self.decoder.enter(encoded, grid, None)
        layers = self.decoder.run(x, rope, range(len(self.decoder.blocks)))
        return [tokens[:, :, self.decoder.num_special :] for tokens in layers]


def _mean_over_hidden(values_BL: torch.Tensor, masks: Masks) -> torch.Tensor:
    if masks.hidden_BH is not None:
        return values_BL.mean()
    is_hidden = masks.is_hidden_BVN.flatten(1)
    return torch.where(is_hidden, values_BL, 0).sum() / is_hidden.sum()


def _means_of_sequences(values_BL: torch.Tensor, masks: Masks) -> torch.Tensor:
    if masks.hidden_BH is not None:
        return values_BL.mean(1)
    is_hidden = masks.is_hidden_BVN.flatten(1)
    return torch.where(is_hidden, values_BL, 0).sum(1) / is_hidden.sum(1)


def initialise(model: nn.Module, seed: int, kind: str = "truncated") -> None:
    """Fill all parameters: each from a generator of its own, so that no parameter's values depend on the others.

    `truncated`: weights of linear layers normal with deviation 0.02, truncated at +-2; the patch embedding uniform
    within 1 / sqrt(values of a patch). `xavier`: all of them uniform within sqrt(6 / (inputs + outputs)). Learned
    tokens normal with deviation 0.02; biases 0; norms 1 and 0.
    """
    for name, parameter in model.named_parameters():
        generator = torch.Generator(device=parameter.device).manual_seed(rng.key(seed, "init", name))
        if ".patch_embedding." in f".{name}" and kind == "truncated":
            layer = model.get_submodule(name.rpartition(".")[0])
            assert isinstance(layer, nn.Linear)
            bound = layer.in_features**-0.5
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        elif parameter.ndim == 1:
            norm = "norm" in name.split(".")[-2] and name.endswith("weight")
            nn.init.constant_(parameter, 1.0 if norm else 0.0)
        elif name.endswith("token"):
            nn.init.normal_(parameter, std=0.02, generator=generator)
        elif kind == "xavier":
            nn.init.xavier_uniform_(parameter, generator=generator)
        else:
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)


def build_model(config: Config, *, device: torch.device | str = "cpu") -> MaskedAutoencoder:
    """Build the model of a config with weights drawn from its seed; on device "meta" it has shapes but no weights.

    Weights are drawn on the processor, so that they are the same on every device.
    """
    # built without memory first: torch's own initialisation would be thrown away, and would advance its generator
    with torch.device("meta"):
        model = MaskedAutoencoder(config.model)
    if torch.device(device).type == "meta":
        return model
    model.to_empty(device="cpu")
    initialise(model, config.seed, config.model.initial)
    return model.to(device)
