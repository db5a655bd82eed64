"""`mumtrain export`: a model's weights for others to load.

In: whatever `load_encoder` reads. Out: one file: safetensors with the run's settings, the released MuM layout, a state
dict for timm or for DINOv3's code, or an ONNX graph. A layout that would compute something else with these weights is
refused, naming the setting; where others' code would merely round in other ways, the note says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mumdata.errors import ConfigError, unknown
from mumtrain.config import ModelConfig, to_dict
from mumtrain.model.pixels import STATISTICS
from mumtrain.model.positions import sincos_table
from mumtrain.weights.files import write_safetensors, write_torch
from mumtrain.weights.layouts import to_dinov3, to_released, to_timm
from mumtrain.weights.load import METADATA, Weights, build_encoder, read_weights
from mumtrain.weights.released import NUMERICS, Numerics

__all__ = ["FORMATS", "Exported", "export"]

_STATE_DICT = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Exported:
    """The file that was written, and one line on how to use it."""

    path: Path
    note: str


def export(
    source: Path | str,
    *,
    out: Path,
    format: str = "safetensors",
    whole: bool = False,
    size: int | None = None,
    numerics: Numerics = "full",
) -> Exported:
    """Write a model's encoder, or with `whole` all of the model, as a file of a format.

    `safetensors`: our own names, the run's settings as JSON in the metadata; load_encoder and load_model read it back
    bit for bit. `released`: the layout of the released MuM files. `dinov3`: a state dict of DINOv3's
    `DinoVisionTransformer` without layer scales and masked key biases. `timm`: with rotary positions by the share of
    the view's sides (`axial`) a state dict of timm's `Eva` with `attn_type="rope"` and `rope_type="dinov3"`, with
    absolute positions one of its `VisionTransformer`, whose positions are those of one size; no class of timm computes
    the other encoders. `onnx`: a graph from normalised images [batch, 3, size, size] to `patch_tokens` and, where there
    is one, `class_token`.

    The ending of `out` says how a state dict is written: .pth as by torch.save, or .safetensors. `size` is the side of
    the images in pixels, by default that of the training views. Raises ConfigError for a format, an ending or a model
    that does not go with it, MumError for what cannot be read or written.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    out, (write, endings) = Path(out), FORMATS[format]
    if out.suffix not in endings:
        raise ConfigError(f"'{out}' does not end like a file of format {format}; use {' or '.join(endings)}")
    if whole and format not in ("safetensors", "released"):
        raise ConfigError(f"format {format} holds an encoder; export the whole model as safetensors or released")
    weights = read_weights(source, numerics=numerics)
    if whole and not weights.has_decoder:
        raise ConfigError(f"{source} holds an encoder alone; export it without --whole")
    if not whole:
        weights = Weights(weights.config, _encoder_alone(weights.tensors), weights.path, weights.name)
    side = weights.config.data.size if size is None else size
    patch = weights.config.model.patch
    if side < 1 or side % patch:
        raise ConfigError(f"size {side} is no multiple of the patch of {patch} pixels")
    return Exported(out, write(weights, out, side))


def _encoder_alone(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.")}


def _write(out: Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    if out.suffix == ".safetensors":
        write_safetensors(out, state, metadata)
    else:
        write_torch(out, state)


def _refuse(format: str, config: ModelConfig, needed: Mapping[str, Any], *, whole: bool = False) -> None:
    # tell every setting that the format has no place for, and the formats that do
    wrong = [f"model.{key}={getattr(config, key)}" for key, value in needed.items() if getattr(config, key) != value]
    if wrong:
        has_graph = not whole and (config.rope_precision == "float32" or config.positions == "absolute")
        others = "safetensors or onnx" if has_graph else "safetensors"
        raise ConfigError(f"format {format} cannot say {', '.join(wrong)}; export the model as {others}")


# ---- the formats


def _safetensors(weights: Weights, out: Path, size: int) -> str:
    _write(out, weights.tensors, {METADATA: json.dumps(to_dict(weights.config), sort_keys=True)})
    loader = "load_model" if weights.has_decoder else "load_encoder"
    return f"read it with mumtrain.weights.{loader}; the settings are in its metadata, entry '{METADATA}'"


def _released(weights: Weights, out: Path, size: int) -> str:
    config, whole = weights.config.model, weights.has_decoder
    needed = {
        "encoder_attention": "frame",
        "hidden_tokens": "dropped",
        "positions": "axial",
        "rope_base": 100.0,
        "class_token": True,
        "registers": 0,
        "pixels": "imagenet",
    }
    if whole:
        needed |= {
            "decoder_attention": "alternating",
            "global_class_token": "blank",
            "confidence": False,
            "target": "normalised",
        }
    numerics = (config.norm_eps, config.rope_precision)
    if numerics not in ([NUMERICS[True]] if whole else NUMERICS.values()):
        needed |= dict(zip(("norm_eps", "rope_precision"), NUMERICS[True], strict=True))
    _refuse("released", config, needed, whole=whole)
    _write(out, to_released(weights.tensors, config), {})
    note = "its numbers of heads follow from the periods; normalise images by ImageNet's mean and deviation"
    if not whole and numerics != NUMERICS[False]:
        (eps, precision), (their_eps, their_precision) = numerics, NUMERICS[False]
        note += (
            f"; the released encoder's own code computes with LayerNorm's epsilon {their_eps:g} and {their_precision} "
            f"tables, this model with {eps:g} and {precision}: features differ a little"
        )
    return note


def _dinov3(weights: Weights, out: Path, size: int) -> str:
    config = weights.config.model
    _refuse("dinov3", config, {"encoder_attention": "frame", "positions": "axial", "class_token": True})
    norms = {1e-6: "layernorm", 1e-5: "layernormbf16"}
    if config.norm_eps not in norms:
        raise ConfigError(f"format dinov3 has no LayerNorm with model.norm_eps={config.norm_eps:g}, only 1e-6 and 1e-5")
    arguments = {
        "patch_size": config.patch,
        "embed_dim": config.encoder.width,
        "depth": config.encoder.depth,
        "num_heads": config.encoder.heads,
        "ffn_ratio": 4,
        "n_storage_tokens": config.registers,
        "norm_layer": norms[config.norm_eps],
        "pos_embed_rope_base": config.rope_base,
        "pos_embed_rope_dtype": "bf16" if config.rope_precision == "bfloat16" else "fp32",
    }
    _write(out, to_dinov3(weights.tensors, config), _arguments("dinov3", arguments))
    return f"for DinoVisionTransformer({_called(arguments)}); {_pixels(config)}"


def _timm(weights: Weights, out: Path, size: int) -> str:
    config = weights.config.model
    _refuse("timm", config, {"encoder_attention": "frame"})
    arguments: dict[str, Any] = {
        "img_size": size,
        "patch_size": config.patch,
        "embed_dim": config.encoder.width,
        "depth": config.encoder.depth,
        "num_heads": config.encoder.heads,
        "class_token": config.class_token,
        "global_pool": "token" if config.class_token else "avg",
        "num_classes": 0,
    }
    added = None
    if config.positions == "absolute":
        name, grid = "vision_transformer.VisionTransformer", (size // config.patch, size // config.patch)
        num_special = int(config.class_token) + config.registers
        added = sincos_table(*grid, config.encoder.width, num_special, torch.device("cpu"), torch.float32)
        arguments |= {"reg_tokens": config.registers, "fc_norm": False}
    else:
        _refuse("timm", config, {"positions": "axial", "rope_precision": "float32"})
        name = "eva.Eva"
        arguments |= {
            "num_reg_tokens": config.registers,
            "attn_type": "rope",
            "use_abs_pos_emb": False,
            "use_rot_pos_emb": True,
            "rope_type": "dinov3",
            "rope_temperature": config.rope_base,
            "rope_rotate_half": True,
            "use_fc_norm": False,
        }
    _write(out, to_timm(weights.tensors, config, added), _arguments("timm", arguments))
    norm = f"norm_layer=partial(torch.nn.LayerNorm, eps={config.norm_eps:g})"
    return f"for timm.models.{name}({_called(arguments)}, {norm}); {_pixels(config)}"


def _onnx(weights: Weights, out: Path, size: int) -> str:
    from mumtrain.weights.onnx import write_onnx

    encoder = build_encoder(weights)
    checked = write_onnx(encoder, out, size)
    return f"images [batch, 3, {size}, {size}], normalised; {_pixels(weights.config.model)}; {checked}"


def _arguments(of: str, arguments: Mapping[str, Any]) -> dict[str, str]:
    return {of: json.dumps(arguments, sort_keys=True)}


def _called(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())


def _pixels(config: ModelConfig) -> str:
    mean, deviation = STATISTICS[config.pixels]
    return f"pixels in 0 .. 1 less {mean}, over {deviation}"


# name of a format: what writes it and returns how to use it, and the endings of its files
FORMATS: dict[str, tuple[Callable[[Weights, Path, int], str], tuple[str, ...]]] = {
    "safetensors": (_safetensors, (".safetensors",)),
    "released": (_released, _STATE_DICT),
    "timm": (_timm, _STATE_DICT),
    "dinov3": (_dinov3, _STATE_DICT),
    "onnx": (_onnx, (".onnx",)),
}
