"""`mumtrain reconstruct`: what a model makes of images with most of their patches hidden.

In: a checkpoint and images of one scene. Out: a picture with a column for each view and these rows: the input, what the
model sees of it, the prediction, and how far it trusts the prediction where it says so.
Shapes: B sequences, V views, N patches of a view, H/W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mumdata.errors import ConfigError
from mumdata.files import check_apart
from mumtrain.config import Config, MaskConfig, ModelConfig, apply
from mumtrain.drawing import (
    Picture,
    Words,
    check_ending,
    check_number,
    draw_page,
    fitted,
    printable,
    read_square,
    shown_side,
    text_width,
    told_name,
    wrapped,
)
from mumtrain.mask_rules import read_references
from mumtrain.masks.draw import draw_masks
from mumtrain.model.autoencoder import MaskedAutoencoder
from mumtrain.model.pixels import denormalise, normalise, normalise_patches, patchify, unpatchify
from mumtrain.runtime import select_runtime
from mumtrain.weights.load import load_model, read_weights

__all__ = ["Reconstruction", "reconstruct", "reconstruct_views"]

# hidden patches in the row of masked inputs, a light grey that is no image content
HIDDEN = 0.88

# pixels of the picture
_LEFT, _RIGHT, _TOP, _GAP, _HEADER, _BAND_GAP, _LINE = 190, 20, 92, 8, 30, 24, 24
_LEAST_WIDTH, _MOST_WIDTH = 1160, 3400


class Reconstruction(NamedTuple):
    """What a model saw and what it made of it, float32 RGB in 0 .. 1, [B, V, 3, H, W] each.

    `whole` are the predictions with the patches that were not hidden pasted from the input; `confidence` [B, V, H, W]
    is the mean over the channels, meaningful at hidden patches alone; `is_hidden` is [B, V, N].
    """

    seen: torch.Tensor
    whole: torch.Tensor
    confidence: torch.Tensor | None
    is_hidden: torch.Tensor


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
    about = f"{told_name(weights.name, weights.path)} · masks {_kinds(config.mask)} · seed {seed}"
    page = _page(squares, found, [Path(image).name for image in images], config.model, about)
    draw_page(*page, Path(out))
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


@torch.inference_mode()
def reconstruct_views(
    model: MaskedAutoencoder, views_BVCHW: torch.Tensor, mask: MaskConfig, *, seed: int = 0
) -> Reconstruction:
    """Return what a model makes of uint8 views of which patches are hidden.

    The masks are those of a batch at step 0 and slot 0 of the seed. Where patches are predicted without their mean and
    deviation, they get those of the patch they stand for; raw predictions stay as they are, cut to 0 .. 1.
    """
    B, V, _, H, W = views_BVCHW.shape
    grid = (H // model.patch, W // model.patch)
    masks = draw_masks(mask, B, V, grid, seed=seed, step=0, slot=0, device=views_BVCHW.device)
    patches = patchify(normalise(views_BVCHW, model.pixels), model.patch)
    predicted = model.predict(patches, grid, masks)

    def in_place(values_BLP: torch.Tensor) -> torch.Tensor:
        # predictions of hidden patches, or of all, where they belong
        if masks.hidden_BH is None:
            return values_BLP.float().view_as(patches)
        where = masks.hidden_BH[..., None].expand(-1, -1, patches.shape[-1])
        return torch.zeros_like(patches).flatten(1, 2).scatter(1, where, values_BLP.float()).view_as(patches)

    whole = in_place(predicted.values)
    if model.target == "normalised":
        true = normalise_patches(patches)
        whole = whole * true.std + true.mean
    is_hidden = masks.is_hidden_BVN[..., None]
    pixels = patchify(views_BVCHW.float() / 255, model.patch)
    seen = unpatchify(torch.where(is_hidden, HIDDEN, pixels), model.patch, grid)
    guessed = patchify(denormalise(unpatchify(whole, model.patch, grid), model.pixels).clamp(0, 1), model.patch)
    confidence = None
    if predicted.confidence is not None:
        confidence = unpatchify(in_place(predicted.confidence), model.patch, grid).mean(2)
    shown = unpatchify(torch.where(is_hidden, guessed, pixels), model.patch, grid)
    return Reconstruction(seen, shown, confidence, masks.is_hidden_BVN)


# ---- words


def _kinds(mask: MaskConfig) -> str:
    kinds = [kind.strip() for kind in mask.kind.split(",")]
    return kinds[0] if len(kinds) == 1 else f"one of {', '.join(kinds)}"


def _title(is_hidden_BVN: torch.Tensor, model: ModelConfig) -> str:
    # what is said here is counted, not taken from the settings
    B, V, _ = is_hidden_BVN.shape
    sees_others = model.encoder_attention == "alternating" or model.decoder_attention in ("alternating", "cross")
    views = "one view" if B * V == 1 else f"{B * V} views together" if V > 1 and sees_others else f"{B * V} views"
    if B * V > 1 and not (V > 1 and sees_others):
        views += ", each by itself"
    is_whole = ~is_hidden_BVN.any(-1)
    share = f"{100 * float(is_hidden_BVN[~is_whole].float().mean()):.3g}%"
    num_whole = int(is_whole.sum())
    if not num_whole:
        return f"{views}, {share} of the patches hidden"
    rest = "the other's" if B * V - num_whole == 1 else "the others'"
    return f"{views}, {num_whole} of them whole, {share} of {rest} patches hidden"


def _caption(model: ModelConfig, has_whole: bool) -> str:
    if model.target == "normalised":
        hidden = "hidden patches are predicted up to mean and deviation, which are taken from the input's own patch"
    else:
        hidden = "hidden patches are predicted as they stand, with nothing taken from the input's"
    others = "; of a whole view nothing is predicted" if has_whole else ""
    return f"Reconstruction: {hidden}; the others are pasted from the input{others}."


_CONFIDENCE = "confidence, from 0 to 1: mean over the channels of each predicted pixel"


# ---- the page


def _page(
    squares: np.ndarray, found: Reconstruction, names: Sequence[str], model: ModelConfig, about: str
) -> tuple[list[Picture | Words], int, int]:
    """Return the items of the picture, and its width and height."""
    side, num = shown_side(squares.shape[1]), len(names)
    is_whole = (~found.is_hidden.any(-1)).flatten().tolist()
    rows: list[tuple[str, np.ndarray]] = [
        ("input", squares),
        ("masked input", _pictures(found.seen)),
        ("reconstruction", _pictures(found.whole)),
    ]
    if found.confidence is not None:
        rows.append(("confidence", _coloured(found.confidence, found.is_hidden, model.patch)))

    columns = max(1, min(num, (_MOST_WIDTH - _LEFT - _RIGHT) // (side + _GAP)))
    num_bands = -(-num // columns)
    columns = -(-num // num_bands)
    block = columns * (side + _GAP) - _GAP
    width = max(_LEFT + block + _RIGHT, _LEAST_WIDTH)
    left = _LEFT + (width - _LEFT - _RIGHT - block) // 2  # few views stand in the middle
    band = _HEADER + len(rows) * (side + _GAP) - _GAP

    room = width - 2 * _RIGHT
    items: list[Picture | Words] = [
        Words(fitted(_title(found.is_hidden, model), room, 10), width / 2, 30, 10),
        Words(fitted(about, room), width / 2, 60, colour="0.35"),
    ]
    for column, name in enumerate(names):
        number, place = divmod(column, columns)
        x, top = left + place * (side + _GAP), _TOP + number * (band + _BAND_GAP)
        items.append(Words(_header(name, is_whole[column], side), x + side / 2, top + _HEADER / 2, 7.5))
        for row, (label, pictures) in enumerate(rows):
            y = top + _HEADER + row * (side + _GAP)
            if place == 0:
                items.append(Words(label, left - 14, y + side / 2, 9, "right"))
            if row > 1 and is_whole[column]:
                items += _lines("whole view: nothing predicted", x, y, side)
            else:
                items.append(Picture(pictures[column], x, y, side, side))
    bottom = _TOP + num_bands * (band + _BAND_GAP) + 4
    if found.confidence is not None:
        items += _legend(width / 2, bottom)
        bottom += _LINE + 8
    caption = wrapped(_caption(model, any(is_whole)), room, 7)
    items += [Words(line, width / 2, bottom + row * _LINE, 7, colour="0.35") for row, line in enumerate(caption)]
    return items, width, round(bottom + len(caption) * _LINE)


def _pictures(views_BVCHW: torch.Tensor) -> np.ndarray:
    # float32 [B * V, H, W, 3]
    return views_BVCHW.flatten(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def _coloured(confidence_BVHW: torch.Tensor, is_hidden_BVN: torch.Tensor, patch: int) -> np.ndarray:
    # white where nothing was predicted
    from matplotlib import colormaps

    B, V, H, W = confidence_BVHW.shape
    is_hidden = is_hidden_BVN.view(B * V, H // patch, W // patch).cpu().numpy()
    is_hidden = is_hidden.repeat(patch, axis=1).repeat(patch, axis=2)
    coloured = colormaps["viridis"](confidence_BVHW.flatten(0, 1).cpu().numpy())[..., :3]
    return np.where(is_hidden[..., None], coloured, 1.0)


def _header(name: str, is_whole: bool, room: float) -> str:
    mark = " (whole)" if is_whole else ""
    return fitted(name, room - text_width(mark, 7.5), 7.5) + mark


def _lines(text: str, x: float, y: float, side: float) -> list[Picture | Words]:
    lines = wrapped(text, side - 20, 7.5)
    middle = y + side / 2 - (len(lines) - 1) * _LINE / 2
    return [Words(line, x + side / 2, middle + row * _LINE, 7.5, colour="0.45") for row, line in enumerate(lines)]


def _legend(middle: float, top: float) -> list[Picture | Words]:
    from matplotlib import colormaps

    text, width = printable(_CONFIDENCE), 160
    start = middle - (width + 10 + text_width(text, 7)) / 2
    bar = colormaps["viridis"](np.linspace(0, 1, width))[None, :, :3]
    return [
        Picture(bar, round(start), top - 9, width, 18),
        Words(text, round(start) + width + 10, top, 7, "left", "0.35"),
    ]
