"""What one training run is made of, as frozen dataclasses.

In: a recipe's Config and `section.key=value` texts. Out: a checked Config, and its JSON form for checkpoints.
The comment above a field is its help.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mumdata.errors import ConfigError, unknown
from mumtrain.curriculum import read_stages, read_subset
from mumtrain.mask_rules import num_kept, read_kinds, read_references

__all__ = [
    "Config",
    "DataConfig",
    "TowerConfig",
    "ModelConfig",
    "MaskConfig",
    "OptimConfig",
    "CheckpointConfig",
    "LogConfig",
    "apply",
    "validate",
    "to_dict",
    "from_dict",
    "differing_keys",
]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    # side of the square views, in pixels; a multiple of model.patch
    size: int = 224
    # fewest views of a sequence in a multi-view batch
    views_min: int = 2
    # most views of a sequence in a multi-view batch
    views_max: int = 24
    # the number of views V is drawn for each slot, as in the paper, or once a step for all slots, so that devices with
    # fewer views do not wait for those with more
    views_per: Literal["slot", "step"] = "slot"
    # which V frames of a sequence: `uniform`; `window:K`, out of K neighbours in the sequence (`window:2.5s`: out of
    # that many seconds); `stride:K`, every K-th one; `covisible`, grown along pairs whose overlap is in data.overlap
    subset: str = "uniform"
    # LOW:HIGH, a band of overlap, or nothing: for `covisible` that of the pairs it grows along; for the other rules
    # that of the mean overlap of the sequences drawn from (those of unknown overlap stay)
    overlap: str = ""
    # what a dataset's weight is a share of: of the sequences drawn in slots of several views, as in the paper; of these
    # slots, each of which is then of one dataset; or of the frames drawn in the whole run. Single images get their
    # weight's share of all slots
    weighting: Literal["per_sequence", "per_batch", "per_frame"] = "per_sequence"
    # within a dataset: each sequence alike, each scene alike, or a scene by the root of its number of sequences
    balance: Literal["sequence", "scene", "sqrt"] = "sequence"
    # sequences of fewer than V frames: not drawn, drawn with frames repeated, or V lowered to their length
    short: Literal["drop", "repeat", "cap"] = "drop"
    # a curriculum: `STEP key=value ...; STEP ...`, each stage from a step on (counted from 0) with its own
    # views=MIN:MAX, overlap=LOW:HIGH and weight.NAME=NUMBER; what a stage does not say is as outside of it
    stages: str = ""
    # most frames in a slot: floor(frames_per_slot / V) sequences of V views
    frames_per_slot: int = 96
    # shares of a global batch; fixed by the recipe, however many devices work on them
    slots: int = 64
    # how a frame becomes a square: its short side resized and a square cut along its long side, or a random resized
    # crop that each view draws for itself
    crop: Literal["resize", "random_resized"] = "resize"
    # least and greatest share of the frame's area in a random resized crop
    crop_area: tuple[float, float] = (0.2, 1.0)
    # least and greatest width / height of a random resized crop, in the frame's pixels
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    # horizontal mirroring with probability 1/2: never, one draw for a whole sequence, or one for each view
    mirror: Literal["none", "per_sequence", "per_view"] = "per_view"
    # colour jitter of each view: brightness, contrast and saturation are multiplied by 1 - jitter to 1 + jitter
    jitter: float = 0.0
    # processes that decode images; 0 = decoded by the training process; -1 = one for each core it may use, at most 16
    workers: int = -1
    # how these processes are started
    start_method: Literal["spawn", "fork"] = "spawn"
    # slots that are decoded ahead of the one being trained on
    prefetch: int = 3
    # training stops above this share of broken or missing images
    bad_frame_rate: float = 0.01
    # images that must have been read before bad_frame_rate counts
    bad_frame_grace: int = 500


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    # channels of a token
    width: int
    # number of transformer blocks
    depth: int
    # attention heads; must divide the width, and width / heads must be a multiple of 4
    heads: int


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    # reads the views
    encoder: TowerConfig = TowerConfig(width=1024, depth=24, heads=16)
    # predicts the hidden patches; its numbers count for nothing where model.decoder_attention is `none`
    decoder: TowerConfig = TowerConfig(width=768, depth=12, heads=12)
    # side of a patch, in pixels
    patch: int = 16
    # what the encoder's blocks attend to: each view by itself, or in turn one view (even blocks) and all (odd ones)
    encoder_attention: Literal["frame", "alternating"] = "frame"
    # what the decoder's blocks attend to: in turn one view and all views, each view by itself, or the masked view of a
    # pair itself and then the whole one (`cross`, CroCo); `none`: the encoder's own tokens become the prediction
    decoder_attention: Literal["alternating", "frame", "cross", "none"] = "alternating"
    # what the encoder gets for hidden patches: nothing, their tokens are dropped; or a learned placeholder each
    hidden_tokens: Literal["dropped", "replaced"] = "dropped"
    # how tokens know their place: rotary by the share of the view's sides (MuM), rotary by whole patches (CroCo,
    # Muskie), or sines and cosines added at the input (MAE)
    positions: Literal["axial", "integer", "absolute"] = "axial"
    # base of the rotary position embedding's periods
    rope_base: float = 100.0
    # number format of the rotary tables; the released MuM encoder computes with bfloat16 ones
    rope_precision: Literal["float32", "bfloat16"] = "float32"
    # a class token in each view
    class_token: bool = True
    # what the class token does where blocks see all views: it stands at no position, as elsewhere; or, as the released
    # MuM decoder's, its queries and keys are zero
    global_class_token: Literal["unrotated", "blank"] = "unrotated"
    # further learned tokens in each view, of which nothing is asked
    registers: int = 0
    # what is predicted: each patch with its own mean and deviation taken out, or the pixels as they enter the encoder
    target: Literal["normalised", "raw"] = "normalised"
    # predict with each value how far it is to be trusted, and weigh its error by that (Muskie)
    confidence: bool = False
    # mean and deviation taken out of the pixels: those of ImageNet, or 0.5 and 0.5
    pixels: Literal["imagenet", "half"] = "imagenet"
    # first weights of linear layers: normal with deviation 0.02, truncated; or uniform by their widths (CroCo)
    initial: Literal["truncated", "xavier"] = "truncated"
    # epsilon of every LayerNorm
    norm_eps: float = 1e-6
    # keep no activations inside blocks for the backward pass, but compute them again: less memory, a third more time
    recompute: bool = False


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    # which patches are hidden, drawn independently in each view: `random`, a `rectangle`, an `ellipse`, a `blob` or the
    # trace of a random `walk`; of several, with commas between them, each slot draws one, and a colon gives one a ratio
    # of its own: random:0.9,rectangle,ellipse. Rectangles and ellipses need model.hidden_tokens=replaced; they are cut
    # to the grid and hide less than their ratio says (see mumtrain plan)
    kind: str = "random"
    # share of hidden patches; int(N * (1 - ratio)) of a view's N patches are kept
    ratio: float = 0.75
    # ratios of the first, second, ... view instead; the last one holds for all others; 0 keeps a view whole
    view_ratios: tuple[float, ...] = ()
    # views of a sequence that are kept whole and predicted nothing of, drawn at random: a number, or a range of which
    # each slot draws one number, as 1:3 or V/4:V/2 (shares of the number of views, rounded down)
    references: str = "0"


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    # base learning rate; the peak is lr * slots * frames_per_slot / 256
    lr: float = 1.5e-4
    # AdamW's decay rates of the running means of the gradient and of its square
    betas: tuple[float, float] = (0.9, 0.95)
    # AdamW's weight decay; biases and other one-dimensional parameters are never decayed
    weight_decay: float = 0.05
    # steps of linear warm-up, after which the rate follows a cosine to zero; a run of fewer steps never leaves it
    warmup_steps: int = 25_000
    # longest gradient, over all parameters: a longer one is shortened to this; 0 = as it is, as in the paper
    clip: float = 0.0
    # a step whose loss or gradient is no finite number never changes a weight; it ends the run, or is left out
    bad_step: Literal["stop", "skip"] = "stop"
    # steps that may be left out in a run
    bad_steps_max: int = 10


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    # steps between checkpoints; the last step always writes one
    every: int = 1000
    # how many of the newest checkpoints stay; 0 = all
    keep: int = 2
    # checkpoints of every so many steps stay for good; 0 = none
    keep_every: int = 0


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    # steps between lines of metrics.jsonl
    every: int = 20
    # steps between reconstruction pictures; 0 = none
    pictures_every: int = 5000
    # steps between measurements of the cross-view gain, where mumdata correspondences has been run on the mix; 0 = none
    gain_every: int = 5000
    # project on Weights & Biases that the metrics are sent to as well; none if empty
    wandb: str = ""


@dataclass(frozen=True, kw_only=True)
class Config:
    # number of optimiser steps
    steps: int = 500_000
    # seed of everything that is drawn: weights, batches, crops, masks
    seed: int = 0
    # compile the transformer's blocks: `auto` does on CUDA. Results differ by rounding
    compile: Literal["auto", "always", "never"] = "auto"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)


def apply(config: Config, settings: Iterable[str]) -> Config:
    """Return the config with `section.key=value` settings applied in order and checked.

    Values are read by the field's type. Raises ConfigError for a key that does not exist (naming the nearest one), a
    value of another type, or values that do not fit together.
    """
    keys = set()
    for setting in settings:
        key, equals, text = setting.partition("=")
        keys.add(key.strip())
        if not equals:
            raise ConfigError(f"setting '{setting}' has no '='; write it as section.key=value, e.g. optim.lr=1e-4")
        config = _replace(config, key.strip(), key.strip().split("."), text.strip())
    _refuse_idle_ratio(validate(config).mask, keys)
    return config


def _refuse_idle_ratio(mask: MaskConfig, keys: set[str]) -> None:
    # a ratio that is asked for and counts for nothing, as the recipe gives ratios of another kind
    if "mask.ratio" not in keys or keys & {"mask.kind", "mask.view_ratios"}:
        return
    if mask.view_ratios:
        told = ",".join(map(str, mask.view_ratios))
        raise ConfigError(
            f"mask.ratio counts for nothing beside mask.view_ratios={told}; set these, or mask.view_ratios="
        )
    if read_kinds(mask.kind, 0.5) == read_kinds(mask.kind, 0.6):
        raise ConfigError(
            f"mask.ratio counts for nothing, as each kind of mask.kind={mask.kind} has a ratio of its own; set "
            f"mask.kind={mask.kind.partition(':')[0]}:{mask.ratio}, for one"
        )


def _replace(node: Any, key: str, parts: list[str], text: str) -> Any:
    hints = typing.get_type_hints(type(node))
    name, rest = parts[0], parts[1:]
    if name not in hints:
        done = key.split(".")[: -len(parts)]
        raise unknown("setting", key, [k for k in _keys(type(node), done)] if done else _keys(Config, []))
    if dataclasses.is_dataclass(hints[name]):
        if not rest:
            fields = ", ".join(f"{key}.{f.name}" for f in dataclasses.fields(hints[name]))
            raise ConfigError(f"'{key}' is a section; set one of {fields}")
        return dataclasses.replace(node, **{name: _replace(getattr(node, name), key, rest, text)})
    if rest:
        raise unknown("setting", key, _keys(Config, []))
    return dataclasses.replace(node, **{name: _parse(key, hints[name], text)})


def _keys(kind: Any, prefix: list[str]) -> list[str]:
    # every full key below a section
    found = []
    for name, hint in typing.get_type_hints(kind).items():
        here = [*prefix, name]
        found += _keys(hint, here) if dataclasses.is_dataclass(hint) else [".".join(here)]
    return found


def _parse(key: str, hint: Any, text: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if text not in arguments:
            raise unknown(f"value for {key}:", text, arguments)
        return text
    if origin in (typing.Union, types.UnionType):
        if text.lower() == "none":
            return None
        return _parse(key, next(a for a in arguments if a is not type(None)), text)
    if origin is tuple:
        inside = text.strip("()[] ")
        pieces = inside.split(",") if inside else []
        kinds = [arguments[0]] * len(pieces) if arguments[-1] is Ellipsis else list(arguments)
        if len(pieces) != len(kinds):
            raise ConfigError(f"{key} takes {len(kinds)} values separated by commas, '{text}' has {len(pieces)}")
        return tuple(_parse(key, kind, piece.strip()) for kind, piece in zip(kinds, pieces, strict=True))
    if hint is str:
        return text
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{key} takes true or false, not '{text}'")
        return text.lower() == "true"
    try:
        value = hint(text)
    except ValueError:
        raise ConfigError(f"{key} takes {_TYPE_NAMES[hint]}, not '{text}'") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key} takes a finite number, not '{text}'")
    return value


_TYPE_NAMES = {int: "an integer", float: "a number"}


def validate(config: Config) -> Config:
    """Return the config unchanged, or raise ConfigError for the first value that is out of range or does not fit."""
    data, model, optim = config.data, config.model, config.optim

    def need(condition: bool, message: str) -> None:
        if not condition:
            raise ConfigError(message)

    at_least_one: dict[str, int] = {
        "steps": config.steps,
        "data.size": data.size,
        "data.views_min": data.views_min,
        "data.frames_per_slot": data.frames_per_slot,
        "data.slots": data.slots,
        "data.prefetch": data.prefetch,
        "model.patch": model.patch,
        "checkpoint.every": config.checkpoint.every,
        "log.every": config.log.every,
    }
    at_least_zero: dict[str, float] = {
        "data.bad_frame_grace": data.bad_frame_grace,
        "optim.weight_decay": optim.weight_decay,
        "optim.warmup_steps": optim.warmup_steps,
        "optim.clip": optim.clip,
        "optim.bad_steps_max": optim.bad_steps_max,
        "model.registers": model.registers,
        "checkpoint.keep": config.checkpoint.keep,
        "checkpoint.keep_every": config.checkpoint.keep_every,
        "log.pictures_every": config.log.pictures_every,
        "log.gain_every": config.log.gain_every,
    }
    towers = {"encoder": model.encoder} | ({"decoder": model.decoder} if model.decoder_attention != "none" else {})
    for name, tower in towers.items():
        at_least_one |= {f"model.{name}.{k}": v for k, v in dataclasses.asdict(tower).items()}
    for key, value in at_least_one.items():
        need(value >= 1, f"{key} must be at least 1, not {value}")
    for key, number in at_least_zero.items():
        need(number >= 0, f"{key} must not be negative, but is {number}")
    need(data.frames_per_slot <= 1 << 20, f"data.frames_per_slot must be at most 1048576, not {data.frames_per_slot}")
    for key, number in (
        ("optim.lr", optim.lr),
        ("model.norm_eps", model.norm_eps),
        ("model.rope_base", model.rope_base),
    ):
        need(number > 0, f"{key} must be above 0, not {number}")
    need(all(0 <= beta < 1 for beta in optim.betas), f"optim.betas must lie in [0, 1), not {optim.betas}")
    need(0 <= data.bad_frame_rate <= 1, f"data.bad_frame_rate must lie in 0 .. 1, not {data.bad_frame_rate}")
    need(data.workers >= -1, f"data.workers must be -1 or more, not {data.workers}")
    need(0 <= data.jitter < 1, f"data.jitter must lie in 0 .. 1, without 1, not {data.jitter}")
    need(
        0 < data.crop_area[0] <= data.crop_area[1] <= 1,
        f"data.crop_area must be two shares of the area, the lower one first, not {data.crop_area}",
    )
    need(
        0 < data.crop_aspect[0] <= data.crop_aspect[1],
        f"data.crop_aspect must be two ratios of width to height, the lower one first, not {data.crop_aspect}",
    )

    need(
        data.views_min <= data.views_max,
        f"data.views_min={data.views_min} exceeds data.views_max={data.views_max}; lower the first or raise the second",
    )
    read_subset(data.subset)
    for stage in read_stages(data.stages, data.views_min, data.views_max, data.overlap):
        need(
            stage.views_max <= data.frames_per_slot,
            f"data.views_max={stage.views_max} exceeds data.frames_per_slot={data.frames_per_slot}; a slot must hold "
            "at least one sequence",
        )
    need(
        data.size % model.patch == 0,
        f"data.size={data.size} is no multiple of model.patch={model.patch}; try "
        f"data.size={max(1, round(data.size / model.patch)) * model.patch}",
    )
    for name, tower in towers.items():
        need(
            tower.width % tower.heads == 0,
            f"model.{name}.heads={tower.heads} does not divide model.{name}.width={tower.width}",
        )
        need(
            model.positions == "absolute" or tower.width // tower.heads % 4 == 0,
            f"model.{name}: width / heads = {tower.width // tower.heads} must be a multiple of 4, as each head's "
            "channels are rotated in pairs for rows and columns",
        )
        need(
            model.positions != "absolute" or tower.width % 4 == 0,
            f"model.{name}.width={tower.width} must be a multiple of 4, for sines and cosines of rows and columns",
        )
    _validate_masks(config, need)
    return config


def _validate_masks(config: Config, need: Callable[[bool, str], None]) -> None:
    # what masks and model ask of each other
    data, model, mask = config.data, config.model, config.mask
    need(0 < mask.ratio < 1, f"mask.ratio must lie between 0 and 1, not {mask.ratio}")
    kinds, references = read_kinds(mask.kind, mask.ratio), read_references(mask.references)
    stages = read_stages(data.stages, data.views_min, data.views_max, data.overlap)
    most_views = max([data.views_max, *(stage.views_max for stage in stages)])
    has_references = references.bounds(most_views)[1] > 0
    need(
        most_views == 1 or references.least[0] < most_views,
        f"mask.references={mask.references} leaves none of {most_views} views masked; lower it, or set V/2 for half",
    )
    need(
        len(mask.view_ratios) <= most_views,
        f"mask.view_ratios has {len(mask.view_ratios)} ratios, but sequences have {most_views} views at most",
    )
    need(
        not (mask.view_ratios and ":" in mask.kind),
        f"mask.view_ratios and the ratios of mask.kind={mask.kind} both say how much is hidden; set one of them",
    )
    need(
        all(0 <= ratio < 1 for ratio in mask.view_ratios) and (not mask.view_ratios or mask.view_ratios[0] > 0),
        f"mask.view_ratios must lie in 0 .. 1, without 1, the first above 0, but are {mask.view_ratios}",
    )
    need(
        not (mask.view_ratios and has_references),
        "mask.view_ratios and mask.references both say which views are whole; set one of them",
    )
    need(
        model.hidden_tokens == "replaced" or all(kind.is_exact for kind in kinds),
        f"mask.kind={mask.kind} hides another number of patches in each view, so that their tokens cannot be dropped; "
        "set model.hidden_tokens=replaced, or use random, blob or walk",
    )
    patches = (data.size // model.patch) ** 2
    where = "mask.view_ratios" if mask.view_ratios else "mask.kind" if ":" in mask.kind else "mask.ratio"
    for ratio in sorted({*(mask.view_ratios or (kind.ratio for kind in kinds))} - {0.0}):
        kept = num_kept(patches, ratio)
        need(
            1 <= kept < patches,
            f"{where}: a ratio of {ratio} keeps {kept} of {patches} patches; at least one must be kept and one hidden",
        )
    is_uneven = has_references or len(set(mask.view_ratios)) > 1
    need(
        not (model.encoder_attention == "alternating" and model.hidden_tokens == "dropped" and is_uneven),
        "model.encoder_attention=alternating with views of different ratios needs model.hidden_tokens=replaced",
    )
    need(
        model.decoder_attention != "none" or model.hidden_tokens == "replaced",
        "model.decoder_attention=none predicts at the placeholders of hidden patches; set model.hidden_tokens=replaced",
    )
    if model.decoder_attention == "cross":
        need(
            data.views_min == data.views_max == 2 and all(stage.views_min == stage.views_max == 2 for stage in stages),
            "model.decoder_attention=cross takes pairs; set data.views_min=2 and data.views_max=2, in all stages",
        )
        need(
            references.bounds(2) == (1, 1) or mask.view_ratios[1:] == (0.0,),
            "model.decoder_attention=cross needs one whole view in each pair; set mask.references=1, or "
            "mask.view_ratios=R,0",
        )
        need(
            model.hidden_tokens == "dropped" and model.encoder_attention == "frame",
            "model.decoder_attention=cross goes with model.hidden_tokens=dropped and model.encoder_attention=frame",
        )
    need(not model.confidence or model.target == "raw", "model.confidence goes with model.target=raw")


def to_dict(config: Config) -> dict[str, Any]:
    """Return the config as nested dictionaries of JSON values (tuples become lists)."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    return typing.cast(dict[str, Any], plain(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any]) -> Config:
    """Build and check a Config from what `to_dict` wrote; a key or type that does not belong is a ConfigError."""
    return validate(_build(Config, values, ""))


def _build(kind: Any, values: Any, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{prefix.rstrip('.') or 'the config'} must be a section with keys, not {values!r}")
    hints = typing.get_type_hints(kind)
    built = {}
    for name, value in values.items():
        if name not in hints:
            raise unknown("setting", f"{prefix}{name}", [f"{prefix}{known}" for known in hints])
        hint, key = hints[name], f"{prefix}{name}"
        if dataclasses.is_dataclass(hint):
            built[name] = _build(hint, value, f"{key}.")
        else:
            built[name] = _parse(key, hint, ",".join(map(str, value)) if isinstance(value, list) else str(value))
    try:
        return kind(**built)
    except TypeError as error:
        raise ConfigError(f"{prefix.rstrip('.') or 'the config'} is incomplete: {error}") from None


def differing_keys(one: Config, other: Config) -> list[str]:
    """Return the full keys, in the order of the fields, at which two configs differ."""
    return _differing(to_dict(one), to_dict(other), "")


def _differing(one: dict[str, Any], other: dict[str, Any], prefix: str) -> list[str]:
    found = []
    for name, value in one.items():
        if isinstance(value, dict):
            found += _differing(value, other[name], f"{prefix}{name}.")
        elif value != other[name]:
            found.append(f"{prefix}{name}")
    return found
