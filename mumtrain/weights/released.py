"""Released MuM files: what their tensors say of the model.

In: the contents of a `.pth`, a plain dictionary of tensors. Out: our Config and the tensors under our names, or a
MumError that lists what does not fit. The files hold no settings: sizes follow from shapes, numbers of heads from the
lengths of the rotary periods, and what no tensor tells is as the released code has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from mumdata.errors import ConfigError, MumError, unknown
from mumtrain.config import Config, DataConfig, ModelConfig, TowerConfig, validate
from mumtrain.weights.files import check_fit, check_tensors
from mumtrain.weights.layouts import from_released, own_shapes, periods, released_names

__all__ = ["NUMERICS", "Numerics", "find_state", "read_released"]

Numerics = Literal["full", "released"]

# epsilon of LayerNorm and number format of the rotary tables: those of the whole model as released, and those of the
# encoder as released alone
NUMERICS: dict[bool, tuple[float, Literal["float32", "bfloat16"]]] = {
    True: (1e-6, "float32"),
    False: (1e-5, "bfloat16"),
}

# under which a training script may have put the state dict
_ENTRIES = ("model", "state_dict", "model_state_dict", "teacher")
_MARK = "patch_embed.proj.weight"


def find_state(content: Any) -> dict[Any, Any] | None:
    """Return the state dict of a released encoder or model in a file's contents, None where there is none.

    It may be an entry of a dictionary, and all its names may share a prefix (`module.`, `_orig_mod.`).
    """
    if not isinstance(content, Mapping):
        return None
    for candidate in (content, *(content[entry] for entry in _ENTRIES if entry in content)):
        if not isinstance(candidate, Mapping):
            continue
        state = {str(name): value for name, value in candidate.items()}
        while state and _MARK not in state:
            first = next(iter(state)).partition(".")[0] + "."
            if not all(name.startswith(first) for name in state):
                break
            state = {name.removeprefix(first): value for name, value in state.items()}
        if _MARK in state:
            return state
    return None


def read_released(
    state: Mapping[Any, Any], source: Path, numerics: Numerics = "full"
) -> tuple[Config, dict[str, torch.Tensor]]:
    """Return the config and the tensors, under our names, of a released encoder or model.

    `numerics` counts for an encoder alone: `full` computes as the whole model does (LayerNorm's epsilon 1e-6, rotary
    tables in float32), `released` as the encoder's own release (1e-5, bfloat16). Raises MumError where tensors are
    missing, unexpected or of another shape, and where the rotary periods are not those of the model.
    """
    if numerics not in ("full", "released"):
        raise unknown("numerics", numerics, ("full", "released"))
    tensors = check_tensors(state, source)
    whole = any(name.startswith("decoder_") for name in tensors)
    model = _model_config(tensors, source, whole, numerics)
    try:
        config = validate(Config(model=model, data=DataConfig(size=14 * model.patch)))
    except ConfigError as error:
        raise MumError(f"{source} is no released MuM file: {error}") from error
    ours = own_shapes(model, source, whole=whole)
    names = released_names(ours)
    _check(tensors, {theirs: ours[name] for name, theirs in names.items()}, model, source, whole)
    return config, from_released(tensors, names)


def _model_config(tensors: Mapping[str, torch.Tensor], source: Path, whole: bool, numerics: Numerics) -> ModelConfig:
    patch = _size(tensors, _MARK, 4, 2, source)
    eps, precision = NUMERICS[whole or numerics == "full"]
    encoder = TowerConfig(
        width=_size(tensors, "cls_token", 3, 2, source),
        depth=_depth(tensors, "blocks"),
        heads=_heads(tensors, "rope_embed.periods", _size(tensors, "cls_token", 3, 2, source), source),
    )
    decoder = ModelConfig().decoder
    if whole:
        width = _size(tensors, "mask_token", 3, 2, source)
        decoder = TowerConfig(
            width=width,
            depth=_depth(tensors, "decoder_frame_blocks") + _depth(tensors, "decoder_global_blocks"),
            heads=_heads(tensors, "rope_embed_decoder.periods", width, source),
        )
    return ModelConfig(
        encoder=encoder,
        decoder=decoder,
        patch=patch,
        global_class_token="blank",
        norm_eps=eps,
        rope_precision=precision,
    )


def _size(tensors: Mapping[str, torch.Tensor], name: str, ndim: int, axis: int, source: Path) -> int:
    if name not in tensors:
        raise MumError(f"{source} has the names of a released MuM file, but not '{name}'; fetch it again")
    if tensors[name].ndim != ndim or tensors[name].shape[axis] == 0:
        raise MumError(
            f"{source}: '{name}' has the shape {list(tensors[name].shape)}; a released file's has {ndim} axes"
        )
    return tensors[name].shape[axis]


def _depth(tensors: Mapping[str, torch.Tensor], blocks: str) -> int:
    # blocks that are there, whatever their numbers: one that is missing is told by its names
    return len({name.split(".")[1] for name in tensors if name.startswith(f"{blocks}.")})


def _heads(tensors: Mapping[str, torch.Tensor], name: str, width: int, source: Path) -> int:
    channels = 4 * _size(tensors, name, 1, 0, source)
    if width % channels:
        raise MumError(f"{source}: '{name}' is of heads of {channels} channels, which do not divide the width {width}")
    return width // channels


def _check(
    tensors: Mapping[str, torch.Tensor],
    wanted: dict[str, torch.Size],
    model: ModelConfig,
    source: Path,
    whole: bool,
) -> None:
    # the patch embedding is a convolution there
    wanted[_MARK] = torch.Size((model.encoder.width, 3, model.patch, model.patch))
    towers = {"rope_embed.periods": model.encoder} | ({"rope_embed_decoder.periods": model.decoder} if whole else {})
    wanted |= {name: tensors[name].shape for name in towers}
    what = "a released MuM " + ("model" if whole else "encoder")
    check_fit({name: tensor.shape for name, tensor in tensors.items()}, wanted, source, what)
    for name, tower in towers.items():
        ours, theirs = periods(tower, model.rope_base), tensors[name]
        # formed by a power and a quotient, each perhaps rounded to bfloat16, in whatever format they are stored since
        if not torch.allclose(theirs.double(), ours, rtol=4 * torch.finfo(torch.bfloat16).eps, atol=0):
            raise MumError(
                f"{source}: '{name}' holds other periods than this model's, {model.rope_base:g}^(2k / (d / 2)); the "
                "weights belong to other rotary positions and are not taken"
            )
