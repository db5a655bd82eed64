"""`mumtrain reconstruct`: what a model makes of images with most of their patches hidden.

In: a checkpoint and images of one scene. Out: a picture with a column for each view and three rows: the input, what the
encoder sees of it, and the prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mumdata.errors import ConfigError, DecodeError, MumError
from mumdata.files import atomic_path
from mumdata.images import read_header, read_image
from mumtrain.checkpoint import load_checkpoint, restore_model
from mumtrain.config import Config
from mumtrain.masking import draw_masks
from mumtrain.objectives import (
    MEAN,
    STD,
    MultiViewMae,
    build_model,
    normalise,
    normalise_patches,
    patchify,
    unpatchify,
)
from mumtrain.reading.crops import cut, square_box
from mumtrain.runtime import select_runtime

__all__ = ["reconstruct", "reconstruct_views", "read_square"]

ROWS = ("input", "masked input", "reconstruction")
CAPTION = (
    "predicted patches de-normalised with the input's own patch mean and deviation; the others pasted from the input"
)
# hidden patches in the middle row, a light grey that is no image content
HIDDEN = 0.88


def reconstruct(
    checkpoint: Path,
    images: Sequence[Path],
    *,
    out: Path,
    seed: int = 0,
    views: bool = True,
    device: str | None = None,
) -> Path:
    """Draw input, masked input and reconstruction of images into one picture, and return its path.

    `views` takes the images as views of one scene; without it each is reconstructed by itself, as MAE would. The
    largest centred square of each image is used, upright. Raises MumError for a checkpoint that cannot be read,
    DecodeError for an image, ConfigError for an `out` that is no picture's name.
    """
    if not images:
        raise ConfigError("no images given; name one or more views of a scene")
    if Path(out).suffix.lower() not in (".png", ".jpg", ".jpeg", ".pdf", ".svg"):
        raise ConfigError(f"'{out}' does not end like a picture; use .png, .jpg, .pdf or .svg")
    runtime = select_runtime(device)
    loaded = load_checkpoint(checkpoint)
    config = loaded.config
    squares = np.stack([read_square(Path(image), config.data.size) for image in images])
    model = build_model(config, device=runtime.device)
    restore_model(model, loaded, Path(checkpoint))
    if not isinstance(model, MultiViewMae):
        raise ConfigError(f"a model of objective '{config.objective}' does not reconstruct pixels")
    model.eval()
    batch = torch.from_numpy(squares).permute(0, 3, 1, 2)
    batch = batch[None] if views else batch[:, None]
    with runtime.autocast():
        seen, predicted = reconstruct_views(model, batch.to(runtime.device), config, seed=seed)
    rows = [squares / 255.0, *(part.flatten(0, 1).permute(0, 2, 3, 1).cpu().numpy() for part in (seen, predicted))]
    _draw(rows, [image.name for image in map(Path, images)], config, loaded.step, views, Path(out))
    return Path(out)


def read_square(path: Path, size: int) -> np.ndarray:
    """Read the largest centred square of an image, upright, as uint8 RGB [size, size, 3].

    Raises DecodeError for what is no whole image, MumError for what cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        header = read_header(lambda at, count: data[at : at + count], len(data))
        image = read_image(path.parent, path.name, quarter_turns=header.upright_quarter_turns)
    except OSError as error:
        raise MumError(f"cannot read {path}: {error.strerror or error}") from error
    except DecodeError as error:
        raise DecodeError(f"{path}: {error}") from error
    height, width = image.shape[:2]
    return cut(image, square_box(width, height), (width, height), size)


@torch.inference_mode()
def reconstruct_views(
    model: MultiViewMae, views_BVCHW: torch.Tensor, config: Config, *, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the encoder sees and the reconstruction, both float32 RGB in 0 .. 1, [B, V, 3, H, W].

    The masks are those of a batch at step 0 and slot 0 of the seed. Predictions get the mean and deviation of the patch
    they stand for, which the model does not predict; kept patches are the input's.
    """
    B, V, _, H, W = views_BVCHW.shape
    grid = (H // model.patch, W // model.patch)
    masks = draw_masks(config.mask, B, V, grid[0] * grid[1], seed=seed, step=0, slot=0)
    kept = torch.from_numpy(masks.kept).to(views_BVCHW.device)
    masked = torch.from_numpy(masks.masked).to(views_BVCHW.device)
    patches = patchify(normalise(views_BVCHW), model.patch)
    where = masked[..., None].expand(-1, -1, -1, patches.shape[-1])
    true = normalise_patches(patches.gather(2, where))
    predicted = model.predict(patches, grid, kept, masked).float() * true.std + true.mean
    pixels = views_BVCHW.float() / 255
    hidden = torch.full_like(where, 0, dtype=torch.float32) + HIDDEN
    seen = unpatchify(patchify(pixels, model.patch).scatter(2, where, hidden), model.patch, grid)
    mean = torch.tensor(MEAN, device=pixels.device)[:, None, None]
    std = torch.tensor(STD, device=pixels.device)[:, None, None]
    whole = unpatchify(patches.scatter(2, where, predicted), model.patch, grid) * std + mean
    return seen, whole.clamp(0, 1)


def _draw(rows: list[np.ndarray], names: list[str], config: Config, step: int, together: bool, out: Path) -> None:
    # Figure and canvas are made directly: pyplot would keep global state and might look for a screen
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num, cell = len(names), 1.9  # inches
    left, right, top, bottom, gap = 1.15, 0.12, 0.52, 0.42, 0.05
    width = max(left + num * (cell + gap) + right, 7.2)
    height = top + 3 * (cell + gap) + bottom
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    # few views: the block of pictures stands in the middle of the caption's width
    start = left + (width - left - right - num * (cell + gap)) / 2
    for number, (label, pictures) in enumerate(zip(ROWS, rows, strict=True)):
        low = bottom + (2 - number) * (cell + gap)
        for column, (picture, name) in enumerate(zip(pictures, names, strict=True)):
            place = ((start + column * (cell + gap)) / width, low / height, cell / width, cell / height)
            axes = figure.add_axes(place)
            axes.imshow(picture, interpolation="nearest", vmin=0, vmax=1)
            axes.set_axis_off()
            if number == 0:
                axes.set_title(_printable(name, 24), fontsize=7.5, pad=3, parse_math=False)
        figure.text(
            (start - 0.12) / width,
            (low + cell / 2) / height,
            label,
            ha="right",
            va="center",
            fontsize=9,
        )
    views = "one view" if num == 1 else f"{num} views together" if together else f"{num} views, each by itself"
    title = f"{views}, {config.mask.ratio:.0%} of the patches hidden, after {step:,} steps"
    figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="center", fontsize=10)
    figure.text(0.5, 0.19 / height, CAPTION, ha="center", va="center", fontsize=7, color="0.3")
    # the name's ending would be lost in the temporary file's
    kind = out.suffix.lower().lstrip(".")
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=160, format=kind)


def _printable(name: str, limit: int) -> str:
    # what the font cannot draw becomes a question mark; a long name loses its middle
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    font = FT2Font(font_manager.findfont("DejaVu Sans"))
    safe = "".join(c if c.isprintable() and font.get_char_index(ord(c)) else "?" for c in name)
    if len(safe) > limit:
        safe = f"{safe[: limit // 2 - 1]}…{safe[-(limit // 2) :]}"
    return safe
