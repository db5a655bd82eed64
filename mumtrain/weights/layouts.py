"""How other projects name and lay out the tensors of an encoder or a model.

In: names and tensors of ours. Out: the same under the names of the released MuM files, of DINOv3 or of timm, and back.
Facts that all of them share: `blocks.I` with `norm1`, `attn.qkv`, `attn.proj`, `norm2`, `mlp.fc1`, `mlp.fc2`; the patch
embedding is a convolution [D, 3, p, p], ours a linear layer over a patch's values in the order row, column, channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from mumdata.errors import MumError
from mumtrain.config import ModelConfig, TowerConfig
from mumtrain.model.autoencoder import MaskedAutoencoder
from mumtrain.model.encoder import Encoder

__all__ = [
    "from_released",
    "head_dim",
    "own_shapes",
    "periods",
    "released_names",
    "to_dinov3",
    "to_released",
    "to_timm",
]

_IN_BLOCK = {
    "norm_attention": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.projection": "attn.proj",
    "norm_mlp": "norm2",
    "mlp.expand": "mlp.fc1",
    "mlp.contract": "mlp.fc2",
}
_RELEASED = {
    "encoder.class_token": "cls_token",
    "encoder.patch_embedding": "patch_embed.proj",
    "encoder.norm": "norm",
    "decoder.embedding": "decoder_embed",
    "decoder.mask_token": "mask_token",
    "decoder.norm": "decoder_norm",
    "decoder.head": "decoder_pred",
}
_PATCH_WEIGHT = "encoder.patch_embedding.weight"


def own_shapes(config: ModelConfig, source: Path, *, whole: bool) -> dict[str, torch.Size]:
    """Return the shapes of a model's tensors under our names, or of its encoder's alone; `source` told the config.

    Raises MumError for sizes that no tensor can have.
    """
    try:
        with torch.device("meta"):
            model = MaskedAutoencoder(config) if whole else nn.ModuleDict({"encoder": Encoder(config)})
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise MumError(f"{source}: no model has the sizes of its config; use another file") from error
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def head_dim(tower: TowerConfig) -> int:
    """Return the channels of an attention head."""
    return tower.width // tower.heads


def periods(tower: TowerConfig, base: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return the rotary periods of a tower's heads, [d / 4]: base^(2k / (d / 2)), each operation in `dtype`."""
    d = head_dim(tower)
    found: torch.Tensor = base ** (2 * torch.arange(d // 4, dtype=dtype) / (d // 2))
    return found


# ---- released MuM files


def released_names(names: Iterable[str]) -> dict[str, str]:
    """Return the released name of each of our names, of an encoder's (`encoder.`) or of a whole model's."""
    return {name: _released_name(name) for name in names}


def _released_name(name: str) -> str:
    part, _, inner = name.partition(".")
    if inner.startswith("blocks."):
        _, number, rest = inner.split(".", 2)
        layer, dot, kind = rest.rpartition(".")
        blocks, index = "blocks", int(number)
        if part == "decoder":
            # each kind is counted by itself; they alternate, the frame-wise ones first
            blocks, index = ("decoder_frame_blocks", "decoder_global_blocks")[index % 2], index // 2
        return f"{blocks}.{index}.{_IN_BLOCK[layer]}{dot}{kind}"
    if name in _RELEASED:
        return _RELEASED[name]
    layer, dot, kind = name.rpartition(".")
    return f"{_RELEASED[layer]}{dot}{kind}"


def to_released(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """Return an encoder's or a whole model's tensors as a released MuM state dict, periods included.

    An encoder alone has them in bfloat16, a whole model in float32, as the released files.
    """
    renamed = released_names(tensors)
    state = {
        renamed[name]: _conv(tensor, config) if name == _PATCH_WEIGHT else tensor for name, tensor in tensors.items()
    }
    whole = any(name.startswith("decoder.") for name in tensors)
    dtype = torch.float32 if whole else torch.bfloat16
    state["rope_embed.periods"] = periods(config.encoder, config.rope_base, dtype)
    if whole:
        state["rope_embed_decoder.periods"] = periods(config.decoder, config.rope_base, dtype)
    return state


def from_released(state: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Return a released state dict's tensors under our names, of which `names` gives the released ones."""
    return {
        ours: state[theirs].permute(0, 2, 3, 1).flatten(1) if ours == _PATCH_WEIGHT else state[theirs]
        for ours, theirs in names.items()
    }


def _conv(weight_DP: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    # [D, p * p * 3] by row, column, channel to [D, 3, p, p]
    return weight_DP.unflatten(1, (config.patch, config.patch, 3)).permute(0, 3, 1, 2).contiguous()


# ---- DINOv3 and timm, encoders alone


def to_dinov3(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """Return an encoder's tensors as a state dict of DINOv3's vision transformer.

    It is the released layout with registers as `storage_tokens` and a placeholder `mask_token` [1, D], zeros where the
    model has none; there are no layer scales and no masks of key biases.
    """
    state = {}
    for name, tensor in tensors.items():
        if name == "encoder.register_token":
            state["storage_tokens"] = tensor
        elif name == "encoder.mask_token":
            state["mask_token"] = tensor[0]
        else:
            state[_released_name(name)] = _conv(tensor, config) if name == _PATCH_WEIGHT else tensor
    state.setdefault("mask_token", torch.zeros_like(state["cls_token"][0]))
    dtype = torch.bfloat16 if config.rope_precision == "bfloat16" else torch.float32
    state["rope_embed.periods"] = periods(config.encoder, config.rope_base, dtype)
    return state


def to_timm(
    tensors: Mapping[str, torch.Tensor], config: ModelConfig, added_TD: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Return an encoder's tensors as a state dict of timm's `VisionTransformer` or `Eva`.

    `added` [T, D] is what absolute positions add to the tokens of one image size, None where positions are rotary. The
    placeholder of hidden patches has no place there and is left out.
    """
    state = {}
    for name, tensor in tensors.items():
        if name == "encoder.register_token":
            state["reg_token"] = tensor
        elif name != "encoder.mask_token":
            state[_released_name(name)] = _conv(tensor, config) if name == _PATCH_WEIGHT else tensor
    if added_TD is not None:
        state["pos_embed"] = added_TD[None]
    return state
