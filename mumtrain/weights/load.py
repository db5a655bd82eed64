"""Encoders and models from files, whoever wrote them.

In: a checkpoint, a run's folder, a file of `mumtrain export`, or a released MuM `.pth`, told apart by what they hold.
Out: an encoder or a whole model in evaluation mode. What does not fit is listed in one MumError.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from mumdata.errors import MumError
from mumtrain.checkpoint import Checkpoint, checkpoint_path, load_checkpoint, read_config
from mumtrain.config import Config, ModelConfig
from mumtrain.model.autoencoder import MaskedAutoencoder
from mumtrain.model.encoder import Encoder
from mumtrain.weights.files import check_fit, check_tensors, is_safetensors, read_safetensors, read_torch
from mumtrain.weights.layouts import own_shapes
from mumtrain.weights.released import Numerics, find_state, read_released

__all__ = ["METADATA", "LoadedModel", "Weights", "build_encoder", "load_encoder", "load_model", "read_weights"]

# the entry of a safetensors file's metadata that holds the config of the run, as JSON
METADATA = "mumtrain"

_M = TypeVar("_M", bound=nn.Module)


@dataclass(frozen=True)
class Weights:
    """What a file holds, under our names (`encoder.`, and for a whole model `decoder.`), before a model is made of it.

    `path` is the very file, where a run's folder was given; `name` is short, for tables and legends.
    """

    config: Config
    tensors: dict[str, torch.Tensor]
    path: Path
    name: str

    @property
    def has_decoder(self) -> bool:
        """Tell whether this is a whole model."""
        return any(name.startswith("decoder.") for name in self.tensors)


@dataclass(frozen=True)
class LoadedModel:
    """A whole model in evaluation mode; `size` is the side of the views that it was trained on, in pixels.

    No released file tells that side: it is taken for 14 patches, 224 pixels.
    """

    model: MaskedAutoencoder
    config: ModelConfig
    size: int
    name: str


def load_encoder(
    source: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    numerics: Numerics = "full",
) -> Encoder:
    """Return the encoder of a checkpoint, a run's folder, an exported file or a released MuM file, ready for features.

    Weights become float32 or, where given, `dtype`. `numerics` counts for a released encoder alone, without decoder:
    `full` computes as the released whole model does (LayerNorm's epsilon 1e-6, rotary tables in float32), `released` as
    that encoder's own code (1e-5, bfloat16). Raises MumError for what cannot be read or does not fit.
    """
    return build_encoder(read_weights(source, numerics=numerics), device=device, dtype=dtype)


def build_encoder(weights: Weights, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Encoder:
    """Return the encoder of weights that were read, in evaluation mode."""
    tensors = {n.removeprefix("encoder."): t for n, t in weights.tensors.items() if n.startswith("encoder.")}
    with torch.device("meta"):
        encoder = Encoder(_as_loaded(weights.config.model))
    return _filled(encoder, tensors, device, dtype)


def load_model(
    source: Path | str | Weights,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> LoadedModel:
    """Return the whole model of a checkpoint, a run's folder, an exported file, a released MuM file, or what was read.

    Weights become float32 or, where given, `dtype`. Raises MumError for what cannot be read or does not fit, and for a
    file that holds an encoder alone.
    """
    weights = source if isinstance(source, Weights) else read_weights(source)
    if not weights.has_decoder:
        raise MumError(f"{weights.path} holds an encoder alone; use load_encoder, or give a file of the whole model")
    with torch.device("meta"):
        model = MaskedAutoencoder(_as_loaded(weights.config.model))
    model = _filled(model, weights.tensors, device, dtype)
    return LoadedModel(model, weights.config.model, weights.config.data.size, weights.name)


def read_weights(source: Path | str, *, numerics: Numerics = "full") -> Weights:
    """Return what a source holds, checked: every tensor that its config asks for is there, and no other."""
    path = Path(source)
    if path.is_dir():
        return _of_checkpoint(load_checkpoint(path), path)
    if not path.exists():
        raise MumError(f"{path} does not exist; give a checkpoint, a run's folder, or a file of weights")
    if not path.is_file():
        raise MumError(f"{path} is no regular file; give a checkpoint, a run's folder, or a file of weights")
    if is_safetensors(path):
        tensors, metadata = read_safetensors(path)
        if METADATA in metadata:
            return _of_export(tensors, metadata[METADATA], path)
        content: object = tensors
    else:
        content = read_torch(path)
    if isinstance(content, dict) and {"format", "step", "model", "config"} <= content.keys():
        return _of_checkpoint(load_checkpoint(path), path)
    state = find_state(content)
    if state is None:
        raise MumError(_unknown(content, path))
    config, tensors = read_released(state, path, numerics)
    return Weights(config, tensors, path, path.stem)


def _of_checkpoint(checkpoint: Checkpoint, source: Path) -> Weights:
    if source.is_dir():
        path, name = checkpoint_path(source, checkpoint.step), source.resolve().name
    elif source.resolve().parent.name == "checkpoints":
        path, name = source, f"{source.resolve().parents[1].name}-{source.stem}"
    else:
        path, name = source, source.stem
    tensors = check_tensors(checkpoint.model, path)
    _check_ours(checkpoint.config, tensors, path, whole=True)
    return Weights(checkpoint.config, tensors, path, name)


def _of_export(tensors: dict[str, torch.Tensor], told: str, path: Path) -> Weights:
    try:
        values = json.loads(told)
    except (ValueError, RecursionError) as error:
        raise MumError(f"{path}: its metadata '{METADATA}' is no JSON; export the model again") from error
    config = read_config(values, path)
    whole = any(name.startswith("decoder.") for name in tensors)
    _check_ours(config, check_tensors(tensors, path), path, whole=whole)
    return Weights(config, tensors, path, path.stem)


def _check_ours(config: Config, tensors: Mapping[str, torch.Tensor], path: Path, *, whole: bool) -> None:
    # the config is read before the tensors are compared with it: no more blocks than there could be are built
    has_decoder = whole and config.model.decoder_attention != "none"
    depth = config.model.encoder.depth + (config.model.decoder.depth if has_decoder else 0)
    if depth > len(tensors):
        raise MumError(f"{path}: its config asks for more blocks than it has tensors; use another file")
    wanted = own_shapes(config.model, path, whole=whole)
    what = "the weights of its own config"
    check_fit({name: tensor.shape for name, tensor in tensors.items()}, wanted, path, what)


def _unknown(content: object, path: Path) -> str:
    if isinstance(content, Mapping):
        if any(str(name).startswith(("encoder.blocks.", "encoder.patch_embedding.")) for name in content):
            return f"{path} holds a model's tensors without its settings; give the checkpoint, or export it"
        names = ", ".join(map(str, list(content)[:4]))
        return (
            f"{path} is no checkpoint, no export and no released MuM file: it begins with {names or 'nothing'}; a "
            "released file has patch_embed.proj.weight, perhaps below 'model'"
        )
    return f"{path} holds a {type(content).__name__} where a dictionary of tensors is expected"


def _as_loaded(config: ModelConfig) -> ModelConfig:
    # what spares memory in training serves no features, and torch.export knows nothing of it
    return dataclasses.replace(config, recompute=False)


def _filled(
    model: _M, tensors: Mapping[str, torch.Tensor], device: torch.device | str, dtype: torch.dtype | None
) -> _M:
    # copies: the tensors may still lie in their file
    dtype = torch.float32 if dtype is None else dtype
    own = {name: tensor.to(device=device, dtype=dtype, copy=True) for name, tensor in tensors.items()}
    model.load_state_dict(own, assign=True)
    return model.eval()
