"""From pictures to tokens.

In: uint8 pictures of one size. Out: patch tokens and class tokens of one layer, as numpy arrays. Shapes: B pictures,
V views, H/W pixels, N patches, D width.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from mumdata.errors import ConfigError, MumError
from mumdata.files import printable_name
from mumtrain.config import Config
from mumtrain.model.autoencoder import MaskedAutoencoder
from mumtrain.model.decoder import Decoder
from mumtrain.model.encoder import Encoder
from mumtrain.model.pixels import normalise
from mumtrain.runtime import Runtime, select_runtime
from mumtrain.weights.load import build_encoder, load_model, read_weights

__all__ = ["Kind", "Tokens", "Extractor", "load_extractor"]

Kind = Literal["patches", "class", "both"]


class Tokens(NamedTuple):
    """Patch tokens [B, N, D], row by row, and class tokens [B, D], each where wanted."""

    patches: np.ndarray | None
    classes: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Extractor:
    """The tokens of one layer of the encoder, or, where there is a `decoder_of`, of that model's decoder.

    `config`, `name` and `path`, its very file, are the model's, and `layer` counts from 0.
    """

    encoder: Encoder
    decoder_of: MaskedAutoencoder | None
    config: Config
    name: str
    path: Path
    runtime: Runtime
    layer: int
    norm: bool
    kind: Kind
    views: bool
    dtype: str

    @property
    def depth(self) -> int:
        """Number of layers of the part of the model whose tokens are taken."""
        return (self.config.model.decoder if self.decoder_of else self.config.model.encoder).depth

    @property
    def width(self) -> int:
        """Channels of a token."""
        return (self.config.model.decoder if self.decoder_of else self.config.model.encoder).width

    @property
    def part(self) -> str:
        """The part of the model whose tokens are taken: encoder or decoder."""
        return "decoder" if self.decoder_of else "encoder"

    def weights_digest(self) -> str:
        """Return the sha256 of the parameters that have a part in the tokens: names, shapes and values."""
        digest = hashlib.sha256()
        for name, tensor in sorted((self.decoder_of or self.encoder).state_dict().items()):
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {values.dtype} {list(values.shape)}\n".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @torch.inference_mode()
    def __call__(self, pictures_BHWC: np.ndarray) -> Tokens:
        """Return the tokens of uint8 RGB pictures, each by itself or, with `views`, all together.

        Raises MumError where a token is not finite, or is beyond the range of the number format.
        """
        pictures = torch.from_numpy(pictures_BHWC).to(self.runtime.device).movedim(-1, 1)
        images = normalise(pictures, self.config.model.pixels)
        try:
            with self.runtime.autocast():
                patches, classes = (self._together(images), None) if self.views else self._single(images)
        except torch.OutOfMemoryError as error:
            raise MumError("the device has too little memory for such a batch; lower --batch or --size") from error
        return Tokens(
            self._stored(patches) if self.kind != "class" else None,
            self._stored(classes) if classes is not None else None,
        )

    def _single(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.kind == "patches":
            return self._patches(images), None
        (both,) = self.encoder.get_intermediate_layers(images, [self.layer], norm=self.norm, return_class_token=True)
        assert isinstance(both, tuple)
        return both

    def _together(self, views: torch.Tensor) -> torch.Tensor:
        if self.decoder_of is None:
            return self._patches(views[None])[0]
        tokens = self.decoder_of.multi_view_layers(views[None])[self.layer]
        if self.norm:
            assert isinstance(self.decoder_of.decoder, Decoder)
            tokens = self.decoder_of.decoder.norm(tokens)
        return tokens[0]

    def _patches(self, images: torch.Tensor) -> torch.Tensor:
        (patches,) = self.encoder.get_intermediate_layers(images, [self.layer], norm=self.norm)
        assert isinstance(patches, torch.Tensor)
        return patches

    def _stored(self, tokens: torch.Tensor) -> np.ndarray:
        stored = tokens.to(torch.float16 if self.dtype == "float16" else torch.float32)
        if not stored.isfinite().all():
            if tokens.isfinite().all():
                raise MumError(f"layer {self.layer} has values beyond float16's 65,504; use --dtype float32")
            raise MumError(f"layer {self.layer} has values that are no numbers; the model's weights are broken")
        return stored.cpu().numpy()


def load_extractor(
    checkpoint: Path,
    *,
    device: str | None,
    layer: int | None,
    norm: bool,
    kind: Kind,
    views: bool,
    dtype: str,
) -> Extractor:
    """Read a model and check what is asked of it; ConfigError for what it does not have, MumError for a broken file.

    `layer` counts from 0, or with -1 from the last, which None stands for. With `views` the tokens are those of the
    decoder, where it sees all views, else of an encoder that does.
    """
    runtime = select_runtime(device)
    weights = read_weights(checkpoint)
    model = weights.config.model
    if kind != "patches" and views:
        raise ConfigError("of several views together there are patch tokens alone; use --kind patches")
    if kind != "patches" and not model.class_token:
        raise ConfigError(f"{weights.name} has no class token; take its patch tokens (--kind patches)")
    whole = views and model.decoder_attention == "alternating"
    if views and not whole and model.encoder_attention != "alternating":
        raise ConfigError(f"no part of {weights.name} sees several views at once; leave out --views")
    if whole:
        decoder_of = load_model(checkpoint, device=runtime.device).model
        encoder = decoder_of.encoder
    else:
        decoder_of, encoder = None, build_encoder(weights, device=runtime.device)
    name = printable_name(weights.name)
    found = Extractor(encoder, decoder_of, weights.config, name, weights.path, runtime, 0, norm, kind, views, dtype)
    number = found.depth - 1 if layer is None else layer + found.depth * (layer < 0)
    if not 0 <= number < found.depth:
        last = found.depth - 1
        raise ConfigError(f"layer {layer} does not exist; the {found.part} of {weights.name} has layers 0 to {last}")
    return replace(found, layer=number)
