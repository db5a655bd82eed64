"""`mumtrain features`: what a model makes of many images, stored.

In: a checkpoint, and images or the frames of a catalog. Out: an HDF5 file with the tokens of one layer, and, where
asked for, a picture of their principal components.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np

from mumdata.errors import ConfigError, DecodeError, MumError, unknown
from mumdata.files import check_apart, write_errors
from mumtrain.drawing import check_ending, check_number
from mumtrain.features.components import draw_components
from mumtrain.features.encode import Kind, load_extractor
from mumtrain.features.file import FORMAT, FeatureFile
from mumtrain.features.run import Plan, fill, plan
from mumtrain.features.source import open_images
from mumtrain.features.stored import (
    BROKEN,
    StoredTokens,
    check_same,
    read_about,
    read_broken,
    read_tokens,
    token_shapes,
)
from mumtrain.features.views import read_framing, read_view

__all__ = ["Features", "features"]

KINDS = ("patches", "class", "both")
DTYPES = ("float16", "float32")

# broken images that are named in the terminal; all are in the file
_MOST_NAMED = 10


@dataclass(frozen=True)
class Features:
    """What was stored of `num_images`, of which `num_done` were done in this run and the others before.

    `broken` are names and reasons, `stored` data sets and their shapes; `seconds` are those of this run's images.
    """

    out: Path | None
    pca: Path | None
    num_images: int
    num_done: int
    broken: tuple[tuple[str, str], ...]
    stored: dict[str, tuple[int, ...]]
    dtype: str
    num_bytes: int
    seconds: float
    device: str

    def lines(self) -> list[str]:
        """Return what to tell in a terminal."""
        told = [f"{self.num_images:,} image{'s' * (self.num_images != 1)}"]
        if self.num_done < self.num_images:
            told.append(f"{self.num_images - self.num_done:,} of them there already")
        if self.num_done:
            told.append(f"{self.num_done / max(self.seconds, 1e-9):,.1f} a second on {self.device}")
        if self.broken:
            told.append(f"{len(self.broken):,} broken")
        found = [", ".join(told)]
        if self.out is not None:
            sets = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in self.stored.items())
            found.append(f"{self.out}: {sets} {self.dtype}, {self.num_bytes / 1e6:,.1f} MB")
        if self.pca is not None:
            found.append(f"{self.pca}: principal components of the patch tokens")
        found += [f"broken: {name}: {reason}" for name, reason in self.broken[:_MOST_NAMED]]
        if len(self.broken) > _MOST_NAMED:
            found.append(f"... and {len(self.broken) - _MOST_NAMED:,} more: see status and problems in the file")
        return found


def features(
    checkpoint: Path,
    images: Path | Sequence[Path],
    *,
    out: Path | None = None,
    pca: Path | None = None,
    layer: int | None = None,
    norm: bool = True,
    size: int | str | None = None,
    kind: str = "patches",
    views: bool = False,
    where: str | None = None,
    batch: int = 32,
    workers: int | None = None,
    dtype: str = "float16",
    device: str | None = None,
) -> Features:
    """Store the tokens of images in an HDF5 file, and draw their principal components.

    `images` are image files, folders of images, or one dataset's catalog (catalogs/NAME or its frames.parquet), of
    which `where`, an SQL condition, may choose frames. They are turned upright and resized: `size` S takes the largest
    centred square (by default at the model's training size), `short:S` the whole image with a short side of S,
    `native` the image as it is; what is left over of a patch is cut off at both ends.

    `layer` counts from 0 (None: the last); `norm` applies the final norm. With `views` the images are views of one
    scene, and the tokens those of the decoder over all views. `batch` (images at the model's own size; of larger ones
    fewer go through it together) and `workers` (threads that decode) change nothing but speed and memory.

    The file: `patch_tokens` [num, N, D], patches row by row, or, where sizes differ (`short:S`, `native`), those of
    all images in a row, [all, D], image i from `offsets`[i] to `offsets`[i + 1]; `class_tokens` [num, D]; `paths`;
    `frame_ids` of a catalog; `grids` (rows and columns of patches); `boxes` (left, top, width, height of what the
    tokens show, in pixels of the upright image); `status` 1 where an image is done, 2 where it is broken, with the
    reason in `problems` and tokens that are not a number. Attributes name the model, its config and how it was asked.

    An interrupted run continues when it is started again, from OUT.part; a file that was begun with another model,
    other images or settings is refused. Raises MumError subclasses for all that a user may expect.
    """
    _check(out, pca, kind, dtype, batch, workers)
    paths = [images] if isinstance(images, str | Path) else images
    found = open_images([Path(path) for path in paths], where=where)
    if pca is not None:
        check_ending(Path(pca))
        check_number(len(found.names))
        if kind == "class":
            raise ConfigError("principal components are drawn of patch tokens; use --kind patches or both")
    if views and found.frame_ids is not None:
        raise ConfigError("--views takes image files as views of one scene, not a catalog; name the images")
    extractor = load_extractor(
        Path(checkpoint), device=device, layer=layer, norm=norm, kind=cast(Kind, kind), views=views, dtype=dtype
    )
    if out is not None:
        check_apart(Path(out), [extractor.path, *map(Path, paths)])
    if pca is not None:
        check_apart(Path(pca), [extractor.path, *found.files()])
    framing = read_framing(size, extractor.config.data.size, extractor.config.model.patch)
    what = plan(found, framing, extractor)
    with ExitStack() as stack:
        if out is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            target = Path(folder, "features.h5")
        else:
            target = Path(out)
        begin = time.perf_counter()
        num_done = _store(target, what, batch, workers)
        seconds = time.perf_counter() - begin
        if pca is not None:
            try:
                _draw(target, what, Path(pca))
            except MumError as error:
                if out is None:
                    raise
                raise type(error)(f"{error}; {out} is whole, only the picture is missing") from error
        return Features(
            out=None if out is None else target,
            pca=None if pca is None else Path(pca),
            num_images=len(found.names),
            num_done=num_done,
            broken=tuple(read_broken(target)),
            stored=token_shapes(target),
            dtype=dtype,
            num_bytes=target.stat().st_size,
            seconds=seconds,
            device=str(extractor.runtime.device),
        )


def _check(out: Path | None, pca: Path | None, kind: str, dtype: str, batch: int, workers: int | None) -> None:
    if out is None and pca is None:
        raise ConfigError("nothing to write; name a file of features (-o features.h5), a picture (--pca), or both")
    if out is not None and Path(out).suffix.lower() not in (".h5", ".hdf5"):
        raise ConfigError(f"'{out}' does not end like an HDF5 file; name it like features.h5")
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    for name, number in (("batch", batch), ("workers", workers)):
        if number is not None and number < 1:
            raise ConfigError(f"--{name} must be at least 1, not {number}")


def _store(target: Path, what: Plan, batch: int, workers: int | None) -> int:
    # how many images were done, the others were there already
    about = _about(what)
    with write_errors(target):
        is_there = target.exists()
    if is_there:
        check_same(target, read_about(target), about)
        return 0
    fixed: dict[str, Any] = {"paths": what.images.names}
    if what.images.frame_ids is not None:
        fixed["frame_ids"] = what.images.frame_ids
    with FeatureFile.open(target, what.layout, about, fixed=fixed, attributes=_attributes(what)) as file:
        num_done = fill(file, what, batch=batch, threads=workers)
        if (file.status() == BROKEN).all():
            name, reason = read_broken(file.part)[0]
            file.part.unlink()
            raise DecodeError(f"none of {len(what.images.names):,} images can be read; the first is {name}: {reason}")
        file.finish()
    return num_done


def _about(what: Plan) -> dict[str, Any]:
    # equal for equal features; the number format of the model's products changes them, too
    extractor = what.extractor
    return {
        "format": FORMAT,
        "weights": extractor.weights_digest(),
        "layer": extractor.layer,
        "norm": extractor.norm,
        "size": str(what.framing),
        "kind": extractor.kind,
        "views": extractor.views,
        "dtype": extractor.dtype,
        "precision": "bfloat16" if extractor.runtime.bf16 else "float32",
        "images": what.images.digest,
    }


def _attributes(what: Plan) -> dict[str, Any]:
    # for readers, so that nobody has to parse `about`
    extractor = what.extractor
    found: dict[str, Any] = {
        "model": extractor.name,
        "config": json.dumps(asdict(extractor.config.model), sort_keys=True),
        "layer": extractor.layer,
        "norm": extractor.norm,
        "size": str(what.framing),
        "patch": what.framing.patch,
        "views": extractor.views,
        "versions": json.dumps({name: version(name) for name in ("mumdata", "torch", "numpy", "h5py")}),
    }
    if what.layout.is_even:
        found["grid"] = what.layout.grids[0]
    return found


def _draw(target: Path, what: Plan, out: Path) -> None:
    pictures, tokens, grids, names = [], [], [], []
    for found in read_tokens(target):
        name = what.images.names[found.number]
        pictures.append(_picture(name, what, found))
        tokens.append(found.tokens)
        grids.append(found.grid)
        names.append(Path(name).name)
    extractor = what.extractor
    together = ", all views together" if extractor.views else ""
    title = f"{extractor.name}: layer {extractor.layer} of the {extractor.part}{together}"
    draw_components(pictures, tokens, grids, names, title=title, out=out)


def _picture(name: str, what: Plan, stored: StoredTokens) -> np.ndarray:
    # what the tokens are of; a catalog's images may have changed since they were stored
    try:
        picture, box = read_view(what.images.read(stored.number), what.framing)
    except DecodeError as error:
        raise DecodeError(f"{name}: {error}") from error
    rows, columns = (side // what.framing.patch for side in picture.shape[:2])
    if (rows, columns) != stored.grid or tuple(box) != stored.box:
        raise DecodeError(f"{name}: its size has changed since its features were stored")
    return picture
