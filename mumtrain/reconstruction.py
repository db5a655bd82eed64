"""What a model makes of views with most of their patches hidden, and the page that shows it.

In: a model and views; what it made of them. Out: predictions in their places; the items of a page with a column for
each view and these rows: the input, what the model sees of it, the prediction, and how far it trusts the prediction
where it says so.
Shapes: B sequences, V views, N patches of a view, H/W/S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from mumtrain.config import MaskConfig, ModelConfig
from mumtrain.drawing import Picture, Words, fitted, printable, shown_side, text_width, wrapped
from mumtrain.masks.draw import draw_masks
from mumtrain.model.autoencoder import MaskedAutoencoder
from mumtrain.model.pixels import denormalise, normalise, normalise_patches, patchify, unpatchify

__all__ = ["HIDDEN", "Reconstruction", "Strip", "page_of", "reconstruct_views", "told_hidden", "told_kinds"]

# hidden patches in the row of masked inputs, a light grey that is no image content
HIDDEN = 0.88

# pixels of the picture
_LEFT, _RIGHT, _TOP, _GAP, _HEADER, _BAND_GAP, _LINE, _HEADING = 190, 20, 92, 8, 30, 24, 24, 34
_LEAST_WIDTH = 1160

# pixels of a column that a name leaves free
_NAME_GAP = 12


class Reconstruction(NamedTuple):
    """What a model saw and what it made of it, float32 RGB in 0 .. 1, [B, V, 3, H, W] each.

    `whole` are the predictions with the patches that were not hidden pasted from the input; `confidence` [B, V, H, W]
    is the mean over the channels, meaningful at hidden patches alone; `is_hidden` is [B, V, N].
    """

    seen: torch.Tensor
    whole: torch.Tensor
    confidence: torch.Tensor | None
    is_hidden: torch.Tensor


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


def told_kinds(mask: MaskConfig) -> str:
    """Say of which kinds the masks are."""
    kinds = [kind.strip() for kind in mask.kind.split(",")]
    return kinds[0] if len(kinds) == 1 else f"one of {', '.join(kinds)}"


def told_hidden(is_hidden_BVN: torch.Tensor, model: ModelConfig) -> str:
    """Say how many views there are and what is hidden of them: counted, not taken from the settings."""
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


@dataclass(frozen=True, eq=False)
class Strip:
    """Views that are shown side by side, uint8 squares [B * V, S, S, 3] with a name each, and what became of them.

    `heading` stands above them, where it is not empty.
    """

    squares: np.ndarray
    found: Reconstruction
    names: Sequence[str]
    heading: str = ""


def page_of(
    strips: Sequence[Strip], model: ModelConfig, title: str, about: str, most_width: int
) -> tuple[list[Picture | Words], int, int]:
    """Return the items of a page that shows strips of views of one size, and its width and height in pixels.

    A strip that is wider than the page breaks into bands. Columns stand below each other on the whole page.
    """
    side = shown_side(strips[0].squares.shape[1])
    room = max(1, (most_width - _LEFT - _RIGHT) // (side + _GAP))
    columns = max(_in_bands(len(strip.names), room) for strip in strips)
    block = columns * (side + _GAP) - _GAP
    width = max(_LEFT + block + _RIGHT, _LEAST_WIDTH)
    left = _LEFT + (width - _LEFT - _RIGHT - block) // 2  # few views stand in the middle

    room = width - 2 * _RIGHT
    items: list[Picture | Words] = [
        Words(fitted(title, room, 10), width / 2, 30, 10),
        Words(fitted(about, room), width / 2, 60, colour="0.35"),
    ]
    bottom = _TOP
    for strip in strips:
        if strip.heading:
            # from the edge of the page: few views leave too little room above them
            items.append(Words(fitted(strip.heading, room, 9), _RIGHT, bottom + _HEADING / 2, 9, "left"))
            bottom += _HEADING
        of_strip, bottom = _placed(strip, model.patch, columns, left, bottom)
        items += of_strip
    bottom += 4
    if any(strip.found.confidence is not None for strip in strips):
        items += _legend(width / 2, bottom)
        bottom += _LINE + 8
    has_whole = any(any(_are_whole(strip.found)) for strip in strips)
    caption = wrapped(_caption(model, has_whole), room, 7)
    items += [Words(line, width / 2, bottom + row * _LINE, 7, colour="0.35") for row, line in enumerate(caption)]
    return items, width, bottom + len(caption) * _LINE


def _in_bands(num: int, room: int) -> int:
    # the columns of `num` views in as few bands as there is room for, about as many views in each
    num_bands = -(-num // min(num, room))
    return -(-num // num_bands)


def _placed(strip: Strip, patch: int, columns: int, left: int, top: int) -> tuple[list[Picture | Words], int]:
    # a strip's items from a height on, and the height that the next thing begins at
    found, side = strip.found, shown_side(strip.squares.shape[1])
    is_whole = _are_whole(found)
    rows: list[tuple[str, np.ndarray]] = [
        ("input", strip.squares),
        ("masked input", _pictures(found.seen)),
        ("reconstruction", _pictures(found.whole)),
    ]
    if found.confidence is not None:
        rows.append(("confidence", _coloured(found.confidence, found.is_hidden, patch)))
    height = _HEADER + len(rows) * (side + _GAP) - _GAP + _BAND_GAP
    items: list[Picture | Words] = []
    for column, name in enumerate(strip.names):
        band, place = divmod(column, columns)
        x, header = left + place * (side + _GAP), top + band * height
        items.append(Words(_header(name, is_whole[column], side), x + side / 2, header + _HEADER / 2, 7.5))
        for row, (label, pictures) in enumerate(rows):
            y = header + _HEADER + row * (side + _GAP)
            if place == 0:
                items.append(Words(label, left - 14, y + side / 2, 9, "right"))
            if row > 1 and is_whole[column]:
                items += _lines("whole view: nothing predicted", x, y, side)
            else:
                items.append(Picture(pictures[column], x, y, side, side))
    return items, top + -(-len(strip.names) // columns) * height


def _are_whole(found: Reconstruction) -> list[bool]:
    return [bool(is_whole) for is_whole in (~found.is_hidden.any(-1)).flatten().tolist()]


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
    # less than there is: names of two columns must not touch
    mark = " (whole)" if is_whole else ""
    return fitted(name, room - _NAME_GAP - text_width(mark, 7.5), 7.5) + mark


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
