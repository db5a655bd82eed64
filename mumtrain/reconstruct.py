"""`mumtrain reconstruct`: what a model makes of images with most of their patches hidden.

In: a checkpoint and images of one scene. Out: a picture with a column for each view and these rows: the input, what the
model sees of it, the prediction, and how far it trusts the prediction where it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mumdata.errors import ConfigError
from mumdata.files import check_apart
from mumtrain.config import Config, ModelConfig, apply
from mumtrain.drawing import check_ending, check_number, draw_page, read_square, told_name
from mumtrain.mask_rules import read_references
from mumtrain.reconstruction import HIDDEN, Reconstruction, Strip, page_of, reconstruct_views, told_hidden, told_kinds
from mumtrain.runtime import select_runtime
from mumtrain.weights.load import load_model, read_weights

__all__ = ["HIDDEN", "Reconstruction", "reconstruct", "reconstruct_views"]

# pixels
_MOST_WIDTH = 3400


def reconstruct(
    checkpoint: Path,
    images: Sequence[Path],
    *,
    out: Path,
    seed: int = 0,
    views: bool = True,
    set: Sequence[str] = (),
    device: str | None = None,
) -> Path:
    """Draw input, masked input and reconstruction of images into one picture, and return its path.

    `views` takes the images as views of one scene; without it each is reconstructed by itself, as MAE would. Patches
    are hidden as in training, but for the changes in `set`, such as `mask.ratio=0.9`. The largest centred square of
    each image is used, upright. Raises MumError for a checkpoint that cannot be read, DecodeError for an image,
    ConfigError for settings or a number of images that do not suit the model, and for an `out` that is no picture's
    name or one of the inputs.
    """
    check_ending(out)
    check_number(len(images))
    runtime = select_runtime(device)
    weights = read_weights(checkpoint)
    check_apart(out, [weights.path, *images])
    _check_pair(weights.config.model, len(images), views)
    config = _with_masks(weights.config, set, len(images) if views else 1)
    squares = np.stack([read_square(Path(image), config.data.size) for image in images])
    model = load_model(weights, device=runtime.device).model
    batch = torch.from_numpy(squares).permute(0, 3, 1, 2)
    batch = batch[None] if views else batch[:, None]
    with runtime.autocast():
        found = reconstruct_views(model, batch.to(runtime.device), config.mask, seed=seed)
    strip = Strip(squares, found, [Path(image).name for image in images])
    about = f"{told_name(weights.name, weights.path)} · masks {told_kinds(config.mask)} · seed {seed}"
    title = told_hidden(found.is_hidden, config.model)
    draw_page(*page_of([strip], config.model, title, about, _MOST_WIDTH), Path(out))
    return Path(out)


def _with_masks(config: Config, settings: Sequence[str], num: int) -> Config:
    """Return the config with other masks of `num` views, which may be more than the model was trained on.

    Raises ConfigError for settings that are none of masks, or that do not fit.
    """
    most = {key: max(num, getattr(config.data, key)) for key in ("views_max", "frames_per_slot")}
    for setting in settings:
        key, _, text = (part.strip() for part in setting.partition("="))
        if key == "mask.references" and num > 1 and read_references(text).least[0] >= num:
            raise ConfigError(f"{key}={text} leaves none of {num} views masked; set {num - 1} or fewer")
    changed = apply(replace(config, data=replace(config.data, **most)), settings)
    for setting in settings:
        if not setting.strip().startswith("mask."):
            raise ConfigError(f"'{setting}' is no setting of the masks, and the model is as it is; set mask.ratio=0.9")
    return changed


def _check_pair(model: ModelConfig, num: int, together: bool) -> None:
    if model.decoder_attention != "cross":
        return
    if num != 2:
        raise ConfigError(f"this model predicts one view of a pair from the other; give 2 images, not {num}")
    if not together:
        raise ConfigError("this model predicts one view of a pair from the other, never an image by itself")
