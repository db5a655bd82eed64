"""`mumtrain pretrain --init FILE`: a new run that starts from weights that are there.

In: a model with weights drawn anew, its settings, and a file. Out: the model with the encoder's weights of the file
and, where it has a decoder that fits, the decoder's; and a record of what was taken. Settings that would make the same
weights compute something else are errors that name them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mumdata.errors import ConfigError, unknown
from mumtrain.config import ModelConfig
from mumtrain.weights.files import file_digest
from mumtrain.weights.load import Weights, read_weights
from mumtrain.weights.released import NUMERICS

__all__ = ["Initialised", "initialise_from"]

logger = logging.getLogger(__name__)

# settings by which the same weights compute something else; of those in _BY_KIND a decoder that differs is another one,
# which starts anew
_ENCODER = (
    "patch",
    "pixels",
    "encoder.width",
    "encoder.depth",
    "encoder.heads",
    "encoder_attention",
    "class_token",
    "registers",
    "positions",
    "rope_base",
    "rope_precision",
    "norm_eps",
)
_BY_KIND = ("decoder_attention", "decoder.width", "decoder.depth", "hidden_tokens", "confidence")
_DECODER = ("decoder.heads", "global_class_token")
# settings that go with others, of masks and views above all: changing one alone need not be possible
_KINDS = {"encoder_attention", "decoder_attention", "hidden_tokens"}


@dataclass(frozen=True)
class Initialised:
    """Where a model's first weights come from: the file, its SHA-256, the names taken and those that start anew.

    `width` and `depth` are the encoder's, which of a released file are known by its tensors alone.
    """

    source: str
    sha256: str
    taken: tuple[str, ...]
    anew: tuple[str, ...]
    width: int
    depth: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def __str__(self) -> str:
        parts = {part: sum(name.startswith(f"{part}.") for name in self.taken) for part in ("encoder", "decoder")}
        sizes = {"encoder": f"ViT {self.width} wide, {self.depth} deep, ", "decoder": ""}
        told = " and ".join(f"{part} ({sizes[part]}{number} tensors)" for part, number in parts.items() if number)
        return f"{told} from {self.source}; starting anew: {_grouped(self.anew) or 'nothing'}"


def initialise_from(model: nn.Module, source: Path | str, *, config: ModelConfig, parts: str = "auto") -> Initialised:
    """Put a file's weights into a model of this config, and return what was taken.

    The source is whatever `load_encoder` reads; its optimiser is not taken. `parts`: the `encoder` alone, `all` of the
    model, or `auto`, the decoder too where the file has one of the same kind and size. Raises ConfigError naming every
    setting by which these weights would compute something else, MumError for a file that cannot be read.
    """
    if parts not in ("auto", "encoder", "all"):
        raise unknown("parts", parts, ("auto", "encoder", "all"))
    # the released encoder alone may be computed in either way: in that of this model, then
    as_released = (config.norm_eps, config.rope_precision) == NUMERICS[False]
    weights = read_weights(source, numerics="released" if as_released else "full")
    theirs = weights.config.model
    of_encoder = _differing(config, theirs, _ENCODER)
    if config.encoder_attention == "alternating":
        of_encoder |= _differing(config, theirs, ["global_class_token"])
    takes_decoder = _takes_decoder(weights, config, parts)
    of_decoder = _differing(config, theirs, [*_BY_KIND, *_DECODER]) if takes_decoder else {}
    if of_encoder or of_decoder:
        told = _told(config, of_encoder | of_decoder)
        if of_decoder and not of_encoder:
            told += ", or take the encoder alone with --init-parts encoder"
        raise ConfigError(f"the weights of {weights.path} are those of another model{told}")
    ours = model.state_dict()
    wanted = ("encoder.", "decoder.") if takes_decoder else ("encoder.",)
    taken = [name for name in weights.tensors if name in ours and name.startswith(wanted)]
    with torch.no_grad():
        for name in taken:
            ours[name].copy_(weights.tensors[name])
    anew = tuple(name for name in ours if name not in taken)
    found = Initialised(
        str(weights.path), file_digest([weights.path]), tuple(taken), anew, config.encoder.width, config.encoder.depth
    )
    # that something is not taken should not go unseen
    logger.log(logging.WARNING if anew else logging.INFO, "%s", found)
    return found


def _told(config: ModelConfig, differing: dict[str, Any]) -> str:
    if _KINDS.isdisjoint(differing):
        return "; start this run with " + " ".join(f"--set model.{key}={value}" for key, value in differing.items())
    told = [f"model.{key}={value} (this run: {_shown(_value(config, key))})" for key, value in differing.items()]
    return ", one with " + ", ".join(told) + "; give weights of this run's kind"


def _takes_decoder(weights: Weights, config: ModelConfig, parts: str) -> bool:
    if parts == "encoder":
        return False
    if parts == "all":
        if not weights.has_decoder:
            raise ConfigError(
                f"{weights.path} holds an encoder alone; take it with --init-parts encoder, or a file of a whole model"
            )
        return True
    return weights.has_decoder and not _differing(config, weights.config.model, _BY_KIND)


def _differing(ours: ModelConfig, theirs: ModelConfig, keys: Sequence[str]) -> dict[str, Any]:
    # the settings in which two models differ, with the other's value
    differing = [key for key in keys if _counts(ours, key) and _value(ours, key) != _value(theirs, key)]
    return {key: _shown(_value(theirs, key)) for key in differing}


def _shown(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _counts(config: ModelConfig, key: str) -> bool:
    # whether a model's results depend on a setting at all
    if key in ("rope_base", "rope_precision"):
        return config.positions != "absolute"
    if key == "global_class_token":
        return config.class_token and "alternating" in (config.encoder_attention, config.decoder_attention)
    return not key.startswith("decoder.") or config.decoder_attention != "none"


def _value(config: ModelConfig, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _grouped(names: Sequence[str]) -> str:
    # a decoder is told as one, single tensors by their names
    whole = [name for name in names if name.startswith("decoder.")]
    if len(whole) > 4:
        names = ["the decoder", *(name for name in names if name not in whole)]
    return ", ".join(names)
