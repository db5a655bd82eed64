"""`mumdata mix`: sequences of several datasets -> mix.parquet, what one training run reads.

In: a mix definition (TOML: names and weights) and the datasets' catalogs. Out: one row a dataset, with weights that
sum to one and the digests of the catalogs; and the Arrow twins that training maps.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mumdata import catalog
from mumdata.catalog import MixDataset
from mumdata.datasets import NAMES, load
from mumdata.errors import CatalogError, ConfigError, unknown
from mumdata.files import relative_to_folder
from mumdata.index import check_name, known_names, module_of
from mumdata.roots import read_toml
from mumdata.schema import COVISIBILITY, FRAMES, MIX, SEQUENCES

__all__ = ["Mixed", "definition_path", "mix", "shipped"]

_ROWS = 1 << 14  # sequences whose frames are looked at at once

_KEYS = {"name", "weight", "single_view", "min_frames"}


@dataclass(frozen=True)
class Mixed:
    """What a mix holds, for the summary: rows in the file's order, and the names that were left out with the reason.

    num_sequences and num_frames of the rows are counted before holding out; `held_out` counts the sequences of each
    dataset that are set aside.
    """

    path: Path
    rows: tuple[dict[str, Any], ...]
    left_out: dict[str, str]
    changed: bool
    held_out: dict[str, int]


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
    share of the groups aside from training, by hash. Raises ConfigError for the definition and where all of a dataset
    is held out, CatalogError where a dataset's sequences do not belong to its frames or where nothing is left.
    """
    if not 0 <= holdout < 1:
        raise ConfigError(f"--holdout {holdout} is not in [0, 1)")
    if min_frames is not None and min_frames < 1:
        raise ConfigError(f"--min-frames {min_frames} is not at least 1")
    entries = _definition(definition)
    explicit = _apply_weights(entries, weight or [], catalogs)
    target = Path(out) if out is not None else Path(catalogs, MIX.file_name)
    datasets, left_out, held_out = [], {}, {}
    for name, entry in entries.items():
        if entry["weight"] == 0:
            continue
        missing = _missing(name, catalogs)
        if missing:
            if name in explicit:
                raise CatalogError(f"{name}: {missing}")
            left_out[name] = missing
            continue
        dataset, held_out[name] = _counted(_dataset(name, entry, catalogs, holdout), entry, min_frames)
        datasets.append(dataset)
    if not datasets:
        raise CatalogError(
            f"no dataset of the mix '{definition}' has sequences under {catalogs}; run 'mumdata index NAME' and "
            "'mumdata mine-sequences NAME', or name your own with --weight NAME=1"
        )
    total = math.fsum(dataset.weight for dataset in datasets)
    rows = tuple(_row(replace(dataset, weight=dataset.weight / total), target.parent) for dataset in datasets)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    kinds = (FRAMES.name, SEQUENCES.name, COVISIBILITY.name)
    digests = {f"{row['dataset']}/{kind}": row[f"{kind}_digest"] for row in rows for kind in kinds}
    inputs = {name: digest for name, digest in digests.items() if digest is not None}
    # what open_mix tells to run again when a catalog has changed
    parameters = _named(definition, target.parent) | {
        "weight": list(weight or []),
        "min_frames": min_frames,
        "holdout": holdout,
    }
    _, changed = catalog.write(MIX, catalog.build(MIX, columns), target, inputs=inputs, parameters=parameters)
    return Mixed(target, rows, left_out, changed, held_out)


def shipped() -> dict[str, Path]:
    """Return the mix definitions that come with the package: name -> file."""
    installed = Path(__file__).with_name("mixes")
    folder = installed if installed.is_dir() else Path(__file__).parents[1] / "catalogs" / "mixes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def definition_path(definition: str) -> Path:
    """Return the file of a mix definition, a shipped name or a path; ConfigError where there is none."""
    path = Path(definition)
    if _is_file(definition):
        if not path.is_file():
            raise ConfigError(f"mix definition {definition} does not exist")
        return path
    names = shipped()
    if definition not in names:
        raise unknown("mix", definition, names)
    return names[definition]


def _is_file(definition: str) -> bool:
    return Path(definition).suffix == ".toml" or os.sep in definition


def _named(definition: str, base: Path) -> dict[str, str]:
    if not _is_file(definition):
        return {"definition": definition}
    return {"definition_file": relative_to_folder(Path(definition), base)}


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
        fewest, single = entry.get("min_frames", 2), entry.get("single_view", False)
        if not isinstance(fewest, int) or isinstance(fewest, bool) or fewest < 1:
            raise ConfigError(f"{path}: min_frames is {fewest!r}, not a number from 1 up")
        if not isinstance(single, bool):
            raise ConfigError(f"{path}: single_view is {single!r}, neither true nor false")
        for key in entry:
            if key not in _KEYS:
                raise ConfigError(f"{path}: {unknown('key', key, _KEYS)}")
        name, value = entry.get("name"), entry.get("weight")
        if not isinstance(name, str) or name in entries:
            raise ConfigError(f"{path}: each [[dataset]] needs a name of its own, not {name!r}")
        check_name(name)
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
        number = math.nan if isinstance(value, bool) else float(value)
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


def _dataset(name: str, entry: dict[str, Any], catalogs: Path, holdout: float) -> MixDataset:
    """Return a dataset whose catalogs fit each other, with nothing counted yet."""
    frames, sequences = (Path(catalogs, name, schema.file_name) for schema in (FRAMES, SEQUENCES))
    footer = catalog.read_footer(SEQUENCES, sequences)
    frames_digest = catalog.read_footer(FRAMES, frames).content_digest
    if footer.inputs.get("frames") != frames_digest:
        raise CatalogError(f"{sequences} was mined from other frames; run 'mumdata mine-sequences {name}' again")
    if footer.parameters.get("allow_missing"):
        raise CatalogError(
            f"{sequences} names frames that are not on disk; run 'mumdata mine-sequences {name}' once they are"
        )
    spec = load(module_of(name, catalogs)).SPEC
    covisibility, covisibility_digest = _pairs(frames.with_name(COVISIBILITY.file_name), frames_digest)
    return MixDataset(
        name=name,
        weight=entry["weight"],
        single_view=entry.get("single_view", spec.single_view),
        min_frames=1,
        holdout=holdout,
        num_sequences=0,
        num_frames=0,
        catalog=frames.parent,
        frames=frames,
        frames_digest=frames_digest,
        sequences=sequences,
        sequences_digest=footer.content_digest,
        licence=spec.licence,
        covisibility=covisibility,
        covisibility_digest=covisibility_digest,
    )


def _counted(dataset: MixDataset, entry: dict[str, Any], min_frames: int | None) -> tuple[MixDataset, int]:
    """Count what may be drawn from a dataset before holding out, and the sequences that are held out.

    The twins are built here, so that training finds them.
    """
    num_frames = catalog.map_frames(dataset).num_rows
    catalog.map_covisibility(dataset)
    table = catalog.map_sequences(dataset)
    lengths, unit = (table.column(name).to_numpy() for name in ("num_frames", "holdout_unit"))
    single = dataset.single_view or ("single_view" not in entry and len(lengths) > 0 and bool(lengths.max() == 1))
    fewest = 1 if single else int(min_frames or entry.get("min_frames", 2))
    eligible = lengths >= fewest
    num, num_held_out = int(eligible.sum()), int((eligible & (unit < dataset.holdout)).sum())
    if not num:
        raise CatalogError(
            f"{dataset.name}: none of {len(lengths)} sequences has {fewest} frames; mine longer ones or lower "
            "--min-frames"
        )
    if num_held_out == num:
        raise ConfigError(
            f"{dataset.name}: all of its sequences ({num:,}) are held out; lower --holdout or leave it out with "
            f"--weight {dataset.name}=0"
        )
    counted = replace(
        dataset,
        single_view=single,
        min_frames=fewest,
        num_sequences=num,
        num_frames=_num_distinct(table.column("frames"), eligible, num_frames),
    )
    return counted, num_held_out


def _num_distinct(lists: pa.ChunkedArray, chosen: np.ndarray, num_frames: int) -> int:
    """Count the frames, out of so many, that are in some of the chosen sequences."""
    is_in = np.zeros(num_frames, bool)
    for start in range(0, len(chosen), _ROWS):
        rows = lists.slice(start, _ROWS).filter(pa.array(chosen[start : start + _ROWS]))
        for chunk in rows.chunks:
            is_in[chunk.flatten().to_numpy()] = True
    return int(np.count_nonzero(is_in))


def _row(dataset: MixDataset, base: Path) -> dict[str, Any]:
    paths = {
        f"{schema.name}_path": None if path is None else relative_to_folder(path, base)
        for schema, path in (
            (FRAMES, dataset.frames),
            (SEQUENCES, dataset.sequences),
            (COVISIBILITY, dataset.covisibility),
        )
    }
    values = {"dataset": dataset.name, **vars(dataset), **paths}
    return {name: values[name] for name in MIX.columns.names}


def _pairs(path: Path, frames_digest: str) -> tuple[Path, str] | tuple[None, None]:
    """Return a covisibility catalog and its digest; None where there is none or it is one of other frames."""
    if not path.exists():
        return None, None
    footer = catalog.read_footer(COVISIBILITY, path)
    return (path, footer.content_digest) if footer.inputs.get("frames") == frames_digest else (None, None)
