"""`mumtrain batch`: what a slot of a run read at a step, as a contact sheet.

In: a mix, a recipe or a run's config.json, a step and a slot. Out: a PNG with every view exactly as the model got it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mumdata.catalog import Mix, open_mix, read
from mumdata.errors import ConfigError
from mumdata.files import atomic_path
from mumdata.schema import SEQUENCES
from mumtrain.config import Config, apply, from_dict
from mumtrain.loader import BadFrame, Loaded, Loader, open_frames
from mumtrain.reading.view import Position, is_mirrored
from mumtrain.recipes import recipe as recipe_of
from mumtrain.sampler import Drawn, open_sampler
from mumtrain.sheet import Group, Sheet, Tile, draw_sheet

__all__ = ["batch", "sheet_of"]

_MIRRORED = "⇄"

# images named below a sheet
_MOST_NOTES = 20


def batch(
    mix: Path,
    *,
    step: int,
    slot: int = 0,
    recipe: str = "mum-vitl16",
    set: Sequence[str] = (),
    config: Path | None = None,
    out: Path = Path("batch.png"),
) -> Path:
    """Draw what a slot reads at a step (from 1, as in metrics.jsonl) into a PNG, and return its path.

    `config` is a run's config.json and stands for the recipe; `set` holds `section.key=value` changes to either. Raises
    ConfigError for settings, and for a step or slot that the run does not have; CatalogError for the mix; MumError for
    images that cannot be read.
    """
    settings = apply(recipe_of(recipe) if config is None else read_config(Path(config)), set)
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise ConfigError(f"'{out}' does not end in .png; name the picture like batch.png")
    if not 1 <= step <= settings.steps:
        raise ConfigError(f"step {step} is not one of the run's steps, 1 to {settings.steps}")
    if not 0 <= slot < settings.data.slots:
        raise ConfigError(f"slot {slot} is not one of the run's slots, 0 to {settings.data.slots - 1}")
    opened = open_mix(Path(mix))
    sampler = open_sampler(opened, settings)
    frames = open_frames(opened)
    with Loader(sampler, frames, settings, workers=0) as loader:
        loaded = next(iter(loader.load([(step - 1, slot)])))
        names = [
            [frames[drawn.dataset].row(frame_id)["path"] for frame_id in drawn.frame_ids.tolist()]
            for drawn in loaded.batch.sequences
        ]
        sheet = sheet_of(loaded, opened, settings, names, recipe if config is None else str(config))
        image = draw_sheet(sheet)
    with atomic_path(out) as temporary:
        image.save(temporary, format="PNG")
    return out


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


def sheet_of(loaded: Loaded, mix: Mix, config: Config, names: Sequence[Sequence[str]], source: str) -> Sheet:
    """Return the contact sheet of a slot; `names` are the paths of the frames drawn, sequence by sequence."""
    drawn, V = loaded.batch.sequences, loaded.batch.views
    bad = {one.position: one for one in reversed(loaded.bad)}  # the image drawn, not what was tried in its place
    scenes = _scenes(mix, drawn)
    groups = []
    for number, (one, scene) in enumerate(zip(drawn, scenes, strict=True)):
        tiles = [
            Tile(
                np.ascontiguousarray(loaded.views[number, view].transpose(1, 2, 0)),
                names[number][view],
                mark=_MIRRORED if _is_mirrored(loaded, config, number * V + view) else "",
                is_bad=number * V + view in bad,
            )
            for view in range(V)
        ]
        groups.append(
            Group(mix.datasets[one.dataset].name, f"{scene} · sequence {one.sequence}", one.dataset, tuple(tiles))
        )
    return Sheet(_title(loaded, config), _about(mix, config, source), groups, _notes(loaded, bad))


def _title(loaded: Loaded, config: Config) -> str:
    batch = loaded.batch
    num, V = len(batch.sequences), batch.views
    views = "1 view" if V == 1 else f"{V} views"
    return (
        f"step {batch.step + 1:,} · slot {batch.slot} of {config.data.slots} · V = {V}: {num} "
        f"{'sequence' if num == 1 else 'sequences'} of {views}"
    )


def _about(mix: Mix, config: Config, source: str) -> list[str]:
    data = config.data
    rules = [f"subset {data.subset}", f"crop {data.crop}", f"mirror {data.mirror}"]
    rules += [f"jitter {data.jitter:g}"] if data.jitter else []
    marks = f"   {_MIRRORED} mirrored" if data.mirror != "none" else ""
    return [f"{mix.path} · {source} · seed {config.seed} · views of {data.size} px · {', '.join(rules)}{marks}"]


def _is_mirrored(loaded: Loaded, config: Config, position: int) -> bool:
    batch = loaded.batch
    return is_mirrored(config.data.mirror, Position(config.seed, batch.step, batch.slot, position, batch.views))


def _notes(loaded: Loaded, drawn_bad: Mapping[int, BadFrame]) -> list[str]:
    V, notes = loaded.batch.views, []
    for position, bad in sorted(drawn_bad.items()):
        number, view = divmod(position, V)
        archive = f"{bad.archive}: " if bad.archive else ""
        notes.append(
            f"{bad.dataset} sequence {loaded.batch.sequences[number].sequence}, view {view + 1}: {archive}{bad.path}: "
            f"{bad.reason} ({bad.detail.removeprefix(f'{bad.path}: ')}); another image stands in its place"
        )
    more = len(notes) - _MOST_NOTES
    return notes if more <= 0 else [*notes[:_MOST_NOTES], f"and {more} more"]


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
