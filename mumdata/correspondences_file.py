"""The file of correspondences beside a mix: where it is, and its content for whoever trains.

In: a mix. Out: the samples of its held-out frames, with where what one frame shows lies in the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mumdata.catalog import Mix, read, read_footer, write
from mumdata.errors import CatalogError
from mumdata.schema import CORRESPONDENCES

__all__ = ["Pair", "Sample", "carry_correspondences", "correspondences_path", "read_correspondences"]

_WHOLE = np.float32(65535)  # the width or height of a frame in the file's unit


@dataclass(frozen=True, eq=False)
class Pair:
    """Where the points of the sample's view `a` lie in its view `b`.

    Places are float32 [points] in shares of the stored frame's width and height, from its top left corner. `seen` int8
    [points]: 1 where b shows the point, at (x_b, y_b); 0 where it surely does not; -1 where that is not known. Places
    in b mean something where `seen` is 1 alone.
    """

    a: int
    b: int
    x_a: np.ndarray
    y_a: np.ndarray
    x_b: np.ndarray
    y_b: np.ndarray
    seen: np.ndarray


@dataclass(frozen=True, eq=False)
class Sample:
    """Held-out frames of one sequence, int32 [views] frame_ids, and all ordered pairs of them.

    `sequence` is the number in sequences.parquet; `source` says what tells the places: depth or tracks.
    """

    dataset: str
    split: str | None
    scene: str
    stream: str | None
    sequence: int
    frame_ids: np.ndarray
    pairs: tuple[Pair, ...]
    source: str


def correspondences_path(mix_path: Path) -> Path:
    """Return where the correspondences of a mix are, unless another file is named: `mix.correspondences.parquet`."""
    mix_path = Path(mix_path)
    return mix_path.with_name(f"{mix_path.stem}.{CORRESPONDENCES.name}.parquet")


def read_correspondences(mix: Mix, path: Path | None = None) -> list[Sample]:
    """Read the samples of a mix, from the file beside it unless another is named.

    Raises CatalogError where the file is absent, damaged, or was made for another mix.
    """
    path = correspondences_path(mix.path) if path is None else Path(path)
    command = f"run 'mumdata correspondences {mix.path}'"
    if not path.exists():
        raise CatalogError(f"{path} does not exist; {command}")
    if read_footer(CORRESPONDENCES, path).inputs.get("mix") != mix.content_digest:
        raise CatalogError(f"{path} was made for another mix than {mix.path}; {command} again")
    table = read(CORRESPONDENCES, path)
    rows = _rows({name: table.column(name) for name in table.column_names}, table.num_rows)
    return [_sample(list(group)) for _, group in groupby(rows, key=lambda row: row["sample"])]


def carry_correspondences(source: Mix, copy: Mix) -> Path | None:
    """Write the correspondences of a mix for a copy of it with the same frame_ids; None where there are none.

    Places are shares of a frame's sides, so they hold whatever the size of its copy. A file of another mix is left.
    """
    path = correspondences_path(source.path)
    if not path.exists():
        return None
    footer = read_footer(CORRESPONDENCES, path)
    if footer.inputs.get("mix") != source.content_digest:
        return None
    target = correspondences_path(copy.path)
    inputs = footer.inputs | {"mix": copy.content_digest}
    write(
        CORRESPONDENCES,
        read(CORRESPONDENCES, path),
        target,
        inputs=inputs,
        seed=footer.seed,
        parameters=footer.parameters,
    )
    return target


_LISTS = ("x_a", "y_a", "x_b", "y_b", "seen")


def _rows(columns: dict[str, Any], num: int) -> Iterator[dict[str, Any]]:
    plain = {name: column.to_pylist() for name, column in columns.items() if name not in _LISTS}
    for row in range(num):
        lists = {name: columns[name][row].values.to_numpy() for name in _LISTS}
        yield {name: values[row] for name, values in plain.items()} | lists


def _sample(rows: list[dict[str, Any]]) -> Sample:
    first = rows[0]
    frame_of = {row["view_a"]: row["frame_a"] for row in rows}
    return Sample(
        dataset=first["dataset"],
        split=first["split"],
        scene=first["scene"],
        stream=first["stream"],
        sequence=first["sequence"],
        frame_ids=np.array([frame_of[view] for view in range(len(frame_of))], np.int32),
        pairs=tuple(_pair(row) for row in rows),
        source=first["source"],
    )


def _pair(row: dict[str, Any]) -> Pair:
    x_a, y_a, x_b, y_b = (row[name].astype(np.float32) / _WHOLE for name in _LISTS[:4])
    return Pair(row["view_a"], row["view_b"], x_a, y_a, x_b, y_b, row["seen"])
