"""`mumtrain batch`: what a slot of a run read at a step, as a contact sheet.

In: a mix, a recipe or a run's config.json, a step and a slot. Out: a PNG with every view as it is before patches of it
are hidden, and a BatchSheet that names each image, and what stands in the place of those that could not be read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mumdata.catalog import Mix, open_mix, read
from mumdata.errors import ConfigError
from mumdata.files import atomic_path
from mumdata.schema import SEQUENCES
from mumtrain.config import Config, apply, from_dict
from mumtrain.curriculum import read_subset
from mumtrain.loader import BadFrame, Loaded, Loader, open_frames
from mumtrain.reading.frames import FrameTable
from mumtrain.reading.view import Position, is_mirrored
from mumtrain.recipes import recipe as recipe_of
from mumtrain.sampler import Drawn, open_sampler
from mumtrain.sheet import Group, Sheet, Tile, draw_sheet

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BatchSheet", "Image", "ShownFrame", "ShownSequence", "batch", "sheet_of"]

_MIRRORED = "⇄"

# images named below a sheet
_MOST_NOTES = 20


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image of a catalog: its path, under the dataset's root or in an archive there."""

    dataset: str
    frame_id: int
    archive: str | None
    path: str


@dataclass(frozen=True, kw_only=True)
class ShownFrame:
    """A frame drawn; where `substitute` stands in its place, why, if it could not be read itself."""

    drawn: Image
    mirrored: bool
    substitute: Image | None
    reason: str | None  # None for one that went with the others of its sequence
    detail: str | None

    def told(self) -> str:
        """Return one line on what stands in its place."""
        image, other = self.drawn, self.substitute
        if other is None:
            return _named(image)
        why = f"{self.reason} ({self.detail})" if self.reason else "its sequence has no readable image left"
        where = f"{other.dataset}: " if other.dataset != image.dataset else ""
        return f"{_named(image)}: {why}; in its place {where}{_named(other)}"


@dataclass(frozen=True, kw_only=True)
class ShownSequence:
    """One sequence of a batch and the V frames drawn from it."""

    dataset: str
    sequence: int
    scene: str
    frames: tuple[ShownFrame, ...]


@dataclass(frozen=True, kw_only=True)
class BatchSheet:
    """What a slot reads at a step (from 1), and the picture of it."""

    path: str
    step: int
    slot: int
    views: int
    sequences: tuple[ShownSequence, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each frame."""
        import pandas as pd

        rows = []
        for number, one in enumerate(self.sequences):
            for view, frame in enumerate(one.frames):
                row = {"number": number, "view": view, "dataset": one.dataset, "sequence": one.sequence}
                row |= {"frame_id": frame.drawn.frame_id, "archive": frame.drawn.archive, "path": frame.drawn.path}
                other = frame.substitute
                row |= {"mirrored": frame.mirrored, "substitute": _named(other) if other else None}
                rows.append(row | {"reason": frame.reason, "detail": frame.detail})
        return pd.DataFrame(rows)

    def tables(self) -> Iterator[tuple[list[str], pd.DataFrame | None]]:
        """Yield the lines for reading."""
        num: dict[str, int] = {}
        for one in self.sequences:
            num[one.dataset] = num.get(one.dataset, 0) + 1
        sequences = ", ".join(f"{count} of {name}" for name, count in sorted(num.items()))
        yield [self.path, f"step {self.step:,}, slot {self.slot}: V = {self.views}; sequences: {sequences}"], None
        bad = [
            (one, view, frame) for one in self.sequences for view, frame in enumerate(one.frames, 1) if frame.substitute
        ]
        for one, view, frame in bad[:_MOST_NOTES]:
            yield [f"{one.dataset} sequence {one.sequence}, view {view}: {frame.told()}"], None
        if len(bad) > _MOST_NOTES:
            yield [f"and {len(bad) - _MOST_NOTES} more"], None


def batch(
    mix: Path,
    *,
    step: int,
    slot: int = 0,
    recipe: str = "mum-vitl16",
    set: Sequence[str] = (),
    config: Path | None = None,
    out: Path = Path("batch.png"),
) -> BatchSheet:
    """Draw what a slot reads at a step (from 1, as in metrics.jsonl) into a PNG, and tell what it holds.

    The views are shown whole, as they are before patches are hidden. `config` is a run's config.json and stands for the
    recipe; `set` holds `section.key=value` changes to either. Raises ConfigError for settings, and for a step or slot
    that the run does not have; CatalogError for the mix; MumError for images that cannot be read.
    """
    settings = apply(recipe_of(recipe) if config is None else read_config(Path(config)), set)
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise ConfigError(f"'{out}' does not end in .png; name the picture like batch.png")
    source = recipe if config is None else str(config)
    if not 1 <= step <= settings.steps:
        longer = f"; {source} has no more (a longer run: --set steps={step})" if step > 0 else "; the first one is 1"
        raise ConfigError(f"step {step} is not one of the run's steps, 1 to {settings.steps}{longer}")
    if not 0 <= slot < settings.data.slots:
        raise ConfigError(f"slot {slot} is not one of the run's slots, 0 to {settings.data.slots - 1}")
    opened = open_mix(Path(mix))
    sampler = open_sampler(opened, settings)
    frames = open_frames(opened)
    with Loader(sampler, frames, settings, workers=0) as loader:
        loaded = next(iter(loader.load([(step - 1, slot)])))
        sequences = _sequences(loaded, opened, settings, frames)
        image = draw_sheet(sheet_of(loaded, opened, settings, sequences, source))
    with atomic_path(out) as temporary:
        image.save(temporary, format="PNG")
    return BatchSheet(path=str(out), step=step, slot=slot, views=loaded.batch.views, sequences=sequences)


def _sequences(loaded: Loaded, mix: Mix, config: Config, frames: Sequence[FrameTable]) -> tuple[ShownSequence, ...]:
    got = dict(enumerate(map(tuple, loaded.frames.reshape(-1, 2).tolist())))
    V, drawn = loaded.batch.views, loaded.batch.sequences
    bad: dict[int, BadFrame] = {one.position: one for one in reversed(loaded.bad)}  # the one drawn, not what was tried
    firsts = {
        number * V + view: (one.dataset, int(f))
        for number, one in enumerate(drawn)
        for view, f in enumerate(one.frame_ids)
    }
    made = []
    for number, (one, scene) in enumerate(zip(drawn, _scenes(mix, drawn), strict=True)):
        shown = []
        for position in range(number * V, (number + 1) * V):
            wanted = firsts[position]
            reason = bad.get(position) if got[position] != wanted else None
            if reason is not None and reason.path != frames[wanted[0]].frame(wanted[1]).path:
                reason = None
            shown.append(
                ShownFrame(
                    drawn=_image(frames, *wanted),
                    mirrored=_is_mirrored(loaded, config, position),
                    substitute=None if got[position] == wanted else _image(frames, *got[position]),
                    reason=reason.reason if reason else None,
                    detail=reason.detail.removeprefix(f"{reason.path}: ") if reason else None,
                )
            )
        name = mix.datasets[one.dataset].name
        made.append(ShownSequence(dataset=name, sequence=one.sequence, scene=scene, frames=tuple(shown)))
    return tuple(made)


def _image(frames: Sequence[FrameTable], dataset: int, frame_id: int) -> Image:
    frame = frames[dataset].frame(frame_id)
    return Image(dataset=frames[dataset].name, frame_id=frame_id, archive=frame.archive, path=frame.path)


def _named(image: Image) -> str:
    return f"{image.archive}: {image.path}" if image.archive else image.path


def read_config(path: Path) -> Config:
    """Read a run's config.json; ConfigError where it is none."""
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}; name a run's config.json") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON; name a run's config.json") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no settings; name a run's config.json")
    return from_dict(values)


def sheet_of(loaded: Loaded, mix: Mix, config: Config, sequences: Sequence[ShownSequence], source: str) -> Sheet:
    """Return the contact sheet of a slot whose sequences are known."""
    groups, notes = [], []
    for number, (of, one) in enumerate(zip(loaded.batch.sequences, sequences, strict=True)):
        tiles = []
        for view, frame in enumerate(one.frames):
            label = frame.drawn.path
            if frame.substitute is not None:
                label = f"{Path(label).name} → {Path(frame.substitute.path).name}"
                notes.append(f"{one.dataset} sequence {one.sequence}, view {view + 1}: {frame.told()}")
            tiles.append(
                Tile(
                    np.ascontiguousarray(loaded.views[number, view].transpose(1, 2, 0)),
                    label,
                    mark=_MIRRORED if frame.mirrored else "",
                    is_bad=frame.substitute is not None,
                )
            )
        groups.append(Group(one.dataset, f"{one.scene} · sequence {one.sequence}", of.dataset, tuple(tiles)))
    if (more := len(notes) - _MOST_NOTES) > 0:
        notes = [*notes[:_MOST_NOTES], f"and {more} more"]
    return Sheet(_title(loaded, config), _about(mix, config, source, loaded.batch.views), groups, notes)


def _title(loaded: Loaded, config: Config) -> str:
    batch = loaded.batch
    num, V = len(batch.sequences), batch.views
    views = "1 view" if V == 1 else f"{V} views"
    return (
        f"step {batch.step + 1:,} · slot {batch.slot} of {config.data.slots} · V = {V}: {num} "
        f"{'sequence' if num == 1 else 'sequences'} of {views}"
    )


def _about(mix: Mix, config: Config, source: str, views: int) -> list[str]:
    data, subset = config.data, read_subset(config.data.subset)
    widened = subset.kind == "window" and not subset.in_seconds and views > subset.size
    rules = [f"subset {data.subset}{f' widened to {views}' if widened else ''}", f"crop {data.crop}"]
    rules += [f"mirror {data.mirror}"] + ([f"jitter {data.jitter:g}"] if data.jitter else [])
    marks = f"   {_MIRRORED} mirrored" if data.mirror != "none" else ""
    return [f"{mix.path} · {source} · seed {config.seed} · views of {data.size} px · {', '.join(rules)}{marks}"]


def _is_mirrored(loaded: Loaded, config: Config, position: int) -> bool:
    batch = loaded.batch
    return is_mirrored(config.data.mirror, Position(config.seed, batch.step, batch.slot, position, batch.views))


def _scenes(mix: Mix, drawn: Sequence[Drawn]) -> list[str]:
    # names as `mumdata stats scenes` prints them
    names = [""] * len(drawn)
    for number in {one.dataset for one in drawn}:
        table = read(SEQUENCES, mix.datasets[number].sequences, ["split", "scene", "stream"])
        for place, one in enumerate(drawn):
            if one.dataset == number:
                row = table.slice(one.sequence, 1).to_pylist()[0]
                names[place] = "/".join(part for part in (row["split"], row["scene"], row["stream"]) if part)
    return names
