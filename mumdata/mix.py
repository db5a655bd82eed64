"""`mumdata mix`: sequences of several datasets -> mix.parquet, what one training run reads.

In: a mix definition (TOML: names and weights) and the datasets' catalogs. Out: one row a dataset, with weights that
sum to one and the digests of the catalogs; and the Arrow twins that training maps.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mumdata import catalog
from mumdata.datasets import NAMES, load
from mumdata.errors import CatalogError, ConfigError, unknown
from mumdata.files import relative_to_folder
from mumdata.index import known_names, module_of
from mumdata.roots import read_toml
from mumdata.schema import FRAMES, MIX, SEQUENCES

__all__ = ["Mixed", "definition_path", "mix", "shipped"]

_KEYS = {"name", "weight", "single_view", "min_frames"}


@dataclass(frozen=True)
class Mixed:
    """What a mix holds, for the summary: rows in the file's order, and the names that were left out with the reason."""

    path: Path
    rows: tuple[dict[str, Any], ...]
    left_out: dict[str, str]
    changed: bool


def mix(
    definition: str = "mum",
    *,
    weight: list[str] | None = None,
    catalogs: Path = catalog.DEFAULT,
    out: Path | None = None,
    min_frames: int | None = None,
    holdout: float = 0.0,
) -> Mixed:
    """Write a mix of the datasets that have sequences, with weights renormalised to one.

    `definition` is a shipped name (`mum`, `only`) or a TOML file. `weight` entries `name=0.5` add or change a dataset;
    a weight of 0 removes it. `min_frames` is the fewest frames of a multi-view sequence (2). `holdout` sets that
    share of the groups aside from training, by hash. Raises ConfigError for the definition, CatalogError where a
    dataset's sequences do not belong to its frames or where nothing is left.
    """
    if not 0 <= holdout < 1:
        raise ConfigError(f"--holdout {holdout} is not in [0, 1)")
    if min_frames is not None and min_frames < 1:
        raise ConfigError(f"--min-frames {min_frames} is not at least 1")
    entries = _definition(definition)
    explicit = _apply_weights(entries, weight or [], catalogs)
    target = Path(out) if out is not None else Path(catalogs, MIX.file_name)
    rows, left_out = [], {}
    for name, entry in entries.items():
        if entry["weight"] == 0:
            continue
        missing = _missing(name, catalogs)
        if missing:
            if name in explicit:
                raise CatalogError(f"{name}: {missing}")
            left_out[name] = missing
            continue
        rows.append(_row(name, entry, catalogs, target.parent, min_frames, holdout))
    if not rows:
        raise CatalogError(
            f"no dataset of the mix '{definition}' has sequences under {catalogs}; run 'mumdata index NAME' and "
            "'mumdata mine-sequences NAME', or name your own with --weight NAME=1"
        )
    total = math.fsum(row["weight"] for row in rows)
    for row in rows:
        row["weight"] /= total
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    inputs = {f"{row['dataset']}/{kind}": row[f"{kind}_digest"] for row in rows for kind in ("frames", "sequences")}
    _, changed = catalog.write(MIX, catalog.build(MIX, columns), target, inputs=inputs, parameters={"holdout": holdout})
    for dataset in catalog.open_mix(target).datasets:  # the twins are made here, so that training finds them
        catalog.map_frames(dataset)
        catalog.map_sequences(dataset)
    return Mixed(target, tuple(rows), left_out, changed)


def shipped() -> dict[str, Path]:
    """Return the mix definitions that come with the package: name -> file."""
    installed = Path(__file__).with_name("mixes")
    folder = installed if installed.is_dir() else Path(__file__).parents[1] / "catalogs" / "mixes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def definition_path(definition: str) -> Path:
    """Return the file of a mix definition, a shipped name or a path; ConfigError where there is none."""
    path = Path(definition)
    if path.suffix == ".toml" or os.sep in definition:
        if not path.is_file():
            raise ConfigError(f"mix definition {definition} does not exist")
        return path
    names = shipped()
    if definition not in names:
        raise unknown("mix", definition, names)
    return names[definition]


def _definition(definition: str) -> dict[str, dict[str, Any]]:
    path = definition_path(definition)
    table = read_toml(path)
    entries: dict[str, dict[str, Any]] = {}
    for key in table:
        if key not in ("title", "dataset"):
            raise ConfigError(f"{path}: {unknown('key', key, ('title', 'dataset'))}")
    listed = table.get("dataset", [])
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise ConfigError(f"{path}: datasets are written as [[dataset]] tables")
    for entry in listed:
        fewest = entry.get("min_frames", 2)
        if not isinstance(fewest, int) or fewest < 1:
            raise ConfigError(f"{path}: min_frames is {fewest!r}, not a number from 1 up")
        for key in entry:
            if key not in _KEYS:
                raise ConfigError(f"{path}: {unknown('key', key, _KEYS)}")
        name, value = entry.get("name"), entry.get("weight")
        if not isinstance(name, str) or name in entries:
            raise ConfigError(f"{path}: each [[dataset]] needs a name of its own, not {name!r}")
        entries[name] = entry | {"weight": _weight(f"{path}: weight of {name}", value)}
    return entries


def _apply_weights(entries: dict[str, dict[str, Any]], weights: list[str], catalogs: Path) -> set[str]:
    named = set()
    for text in weights:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--weight '{text}' is not NAME=NUMBER")
        if name not in entries and not Path(catalogs, name, FRAMES.file_name).exists():
            raise unknown("dataset", name, {*known_names(catalogs), *entries, *NAMES})
        entries.setdefault(name, {"name": name})["weight"] = _weight(f"--weight {name}", value)
        named.add(name)
    return named


def _weight(what: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{what} is {value!r}, not a number") from None
    if not (math.isfinite(number) and number >= 0):
        raise ConfigError(f"{what} is {value}, not a number from 0 up")
    return number


def _missing(name: str, catalogs: Path) -> str | None:
    for schema in (FRAMES, SEQUENCES):
        if not Path(catalogs, name, schema.file_name).exists():
            return f"no {schema.name} catalog; run '{schema.command.format(dataset=name)}'"
    return None


def _row(
    name: str, entry: dict[str, Any], catalogs: Path, base: Path, min_frames: int | None, holdout: float
) -> dict[str, Any]:
    frames, sequences = (Path(catalogs, name, schema.file_name) for schema in (FRAMES, SEQUENCES))
    footer = catalog.read_footer(SEQUENCES, sequences)
    frames_digest = catalog.read_footer(FRAMES, frames).content_digest
    if footer.inputs.get("frames") != frames_digest:
        raise CatalogError(f"{sequences} was mined from other frames; run 'mumdata mine-sequences {name}' again")
    if footer.parameters.get("allow_missing"):
        raise CatalogError(
            f"{sequences} names frames that are not on disk; run 'mumdata mine-sequences {name}' once they are"
        )
    table = catalog.read(SEQUENCES, sequences, ["frames", "num_frames"])
    counts = table.column("num_frames").to_numpy()
    spec = load(module_of(name, catalogs)).SPEC
    single = bool(entry.get("single_view", spec.single_view or (len(counts) > 0 and counts.max() == 1)))
    fewest = 1 if single else int(min_frames or entry.get("min_frames", 2))
    eligible = counts >= fewest
    if not eligible.any():
        raise CatalogError(
            f"{name}: none of {len(counts)} sequences has {fewest} frames; mine longer ones or lower --min-frames"
        )
    flat = table.column("frames").filter(pa.array(eligible)).combine_chunks().flatten().to_numpy()
    return {
        "dataset": name,
        "weight": entry["weight"],
        "single_view": single,
        "min_frames": fewest,
        "holdout": holdout,
        "num_sequences": int(eligible.sum()),
        "num_frames": len(np.unique(flat)),
        "frames_path": relative_to_folder(frames, base),
        "frames_digest": frames_digest,
        "sequences_path": relative_to_folder(sequences, base),
        "sequences_digest": footer.content_digest,
        "licence": spec.licence,
    }
