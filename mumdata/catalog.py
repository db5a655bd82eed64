"""Catalogs: Parquet files with a schema, a footer that says what made them, and a digest of their content.

In: Arrow tables, or the path of a catalog. Out: files written whole or not at all, and tables that were checked
against their schema. `read_*` return pandas data frames; `open_mix` and `map_*` are what training reads.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

import mumdata.schema
from mumdata import roots, twin
from mumdata.digest import ContentDigest
from mumdata.errors import CatalogError
from mumdata.files import atomic_path
from mumdata.schema import COVISIBILITY, FRAMES, MIX, SCENES, SEQUENCES, Schema

if TYPE_CHECKING:
    import pandas as pd

    from mumdata.spool import Spool

__all__ = [
    "DEFAULT",
    "PACKED_RECORD",
    "Footer",
    "Mix",
    "MixDataset",
    "Writer",
    "build",
    "damaged_twins",
    "dataset_root",
    "frames_twin",
    "is_packed",
    "map_covisibility",
    "map_frames",
    "map_sequences",
    "map_twin",
    "open_mix",
    "read",
    "read_batches",
    "read_covisibility",
    "read_footer",
    "read_frames",
    "read_scenes",
    "read_sequences",
    "remove_outdated_twins",
    "write",
]

DEFAULT = Path("catalogs")

# beside the mix of a packed copy, from the beginning of packing on
PACKED_RECORD = "packed.json"

_KEY = b"mumdata"
_ROW_GROUP = 1 << 17
_BATCH = 1 << 15  # rows that are read at once


@dataclass(frozen=True)
class Footer:
    """What a catalog's footer holds: enough to know what the file is and to make it again."""

    schema: str
    schema_version: int
    tool_version: str
    content_digest: str
    inputs: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


def build(schema: Schema, columns: dict[str, Any]) -> pa.Table:
    """Make a table of the schema from columns (arrays or lists); columns that are not given become null."""
    num = len(next(iter(columns.values()))) if columns else 0
    arrays = []
    for column in schema.columns:
        values = columns.get(column.name)
        if values is None:
            arrays.append(pa.nulls(num, column.type))
        elif isinstance(values, (pa.Array, pa.ChunkedArray)):
            arrays.append(_cast(values, column.type))
        elif pa.types.is_dictionary(column.type):
            arrays.append(pa.array(values, pa.string()).dictionary_encode())
        else:
            arrays.append(pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=schema.columns)


def write(
    schema: Schema,
    table: pa.Table,
    path: Path,
    *,
    inputs: dict[str, str] | None = None,
    seed: int | None = None,
    parameters: dict[str, Any] | None = None,
) -> tuple[str, bool]:
    """Write a catalog; return its content digest and whether the file changed.

    Where the file at `path` already holds the same content, made by the same inputs and parameters, it is left
    untouched. `parameters` are exactly those that change the result; no paths, worker counts or times.
    """
    with Writer(schema, path) as writer:
        writer.add(table)
        return writer.finish(inputs=inputs, seed=seed, parameters=parameters)


class Writer:
    """Writes a catalog from tables that come one after another, in memory that does not grow with their number.

    The rows are compared with the file that is there already; writing begins where they first differ, and a file that
    is the same to the end is left untouched. Used as a context: leaving it without `finish` leaves the old file.
    """

    def __init__(self, schema: Schema, path: Path) -> None:
        self._schema, self._path = schema, Path(path)
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0
        self._num_same = 0  # row groups that equal the old file's
        self._old: pq.ParquetFile | None = None
        self._old_footer: Footer | None = None
        self._out: pq.ParquetWriter | None = None
        self._digest = ContentDigest(schema.columns)
        self._open = ExitStack()
        if self._path.exists():
            with suppress(CatalogError):  # another version, or broken: written anew
                self._old, self._old_footer = _open(schema, self._path)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)
        if self._old is not None:
            self._old.close()

    def add(self, table: pa.Table) -> None:
        """Add rows of the schema."""
        self._waiting.append(table)
        self._num_waiting += table.num_rows
        if self._num_waiting >= _ROW_GROUP:
            whole = pa.concat_tables(self._waiting)
            full = self._num_waiting // _ROW_GROUP * _ROW_GROUP
            for start in range(0, full, _ROW_GROUP):
                self._put(whole.slice(start, _ROW_GROUP))
            self._waiting, self._num_waiting = [whole.slice(full)], whole.num_rows - full

    def finish(
        self,
        *,
        inputs: dict[str, str] | None = None,
        seed: int | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> tuple[str, bool]:
        """Write the rest and the footer; return the content digest and whether the file changed."""
        if self._num_waiting:
            self._put(pa.concat_tables(self._waiting))
        self._waiting = []

        def footer(digest: str) -> Footer:
            return Footer(
                self._schema.name,
                self._schema.version,
                mumdata.__version__,
                digest,
                dict(sorted((inputs or {}).items())),
                seed,
                dict(sorted((parameters or {}).items())),
            )

        if self._out is None and self._old is not None and self._old.num_row_groups == self._num_same:
            known = self._old_footer
            if known is not None and known == footer(known.content_digest):
                return known.content_digest, False
        self._start()
        assert self._out is not None
        made = footer(self._digest.hexdigest())
        self._out.add_key_value_metadata({_KEY.decode(): json.dumps(asdict(made), sort_keys=True)})
        self._open.close()  # closes the file, then renames it
        return made.content_digest, True

    def _put(self, table: pa.Table) -> None:
        table = _canonical(self._schema, table)
        if self._out is None:
            if self._is_next_of_old(table):
                self._num_same += 1
                return
            self._start()
        assert self._out is not None
        self._digest.update(table)
        self._out.write_table(table, row_group_size=_ROW_GROUP)

    def _is_next_of_old(self, table: pa.Table) -> bool:
        if self._old is None or self._num_same >= self._old.num_row_groups:
            return False
        if self._old.metadata.row_group(self._num_same).num_rows != table.num_rows:
            return False
        try:
            old = self._old.read_row_group(self._num_same)
        except (pa.ArrowException, OSError):  # a damaged file is written anew
            return False
        return bool(old.replace_schema_metadata(None).equals(table))

    def _start(self) -> None:
        if self._out is not None:
            return
        temporary = self._open.enter_context(atomic_path(self._path))
        columns = self._schema.columns
        self._out = self._open.enter_context(pq.ParquetWriter(temporary, columns, compression="zstd", version="2.6"))
        for number in range(self._num_same):
            assert self._old is not None
            table = self._old.read_row_group(number).replace_schema_metadata(None)
            self._digest.update(table)
            self._out.write_table(table, row_group_size=_ROW_GROUP)


def read_footer(schema: Schema, path: Path) -> Footer:
    """Read a catalog's footer alone; CatalogError where the file is absent, foreign, or of another version."""
    _, footer = _open(schema, path)
    return footer


def read(schema: Schema, path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a catalog, checked against its schema.

    Raises CatalogError that says which column is wrong and which command writes the file anew.
    """
    file, _ = _open(schema, path)
    try:
        table: pa.Table = file.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(schema, path) from error
    return table.replace_schema_metadata(None)


def read_batches(
    schema: Schema, path: Path, columns: Sequence[str], digest: str | None = None
) -> Iterator[pa.RecordBatch]:
    """Read columns of a catalog piece by piece, in the order of its rows; no piece is empty.

    Raises as `read` does, and CatalogError where the file's content digest is not `digest`, if that is given.
    """
    file, footer = _open(schema, path)
    if digest not in (None, footer.content_digest):
        raise CatalogError(f"{path} has changed while it was used; run the command again")
    try:
        with file:
            for batch in file.iter_batches(_BATCH, columns=list(columns)):
                if batch.num_rows:
                    yield batch
    except (pa.ArrowException, OSError) as error:
        raise _damaged(schema, path) from error


def read_frames(name: str, *, catalogs: Path = DEFAULT) -> pd.DataFrame:
    """Return a dataset's frames, one row a frame; the index is frame_id."""
    return read(FRAMES, Path(catalogs, name, FRAMES.file_name)).to_pandas().set_index("frame_id", drop=False)


def read_scenes(name: str, *, catalogs: Path = DEFAULT) -> pd.DataFrame:
    """Return a dataset's scenes, one row a scene and stream."""
    return read(SCENES, Path(catalogs, name, SCENES.file_name)).to_pandas()


def read_sequences(name: str, *, catalogs: Path = DEFAULT) -> pd.DataFrame:
    """Return a dataset's sequences, one row a sequence."""
    return read(SEQUENCES, Path(catalogs, name, SEQUENCES.file_name)).to_pandas()


def read_covisibility(name: str, *, catalogs: Path = DEFAULT) -> pd.DataFrame:
    """Return a dataset's pairs with shared points, with `rotation_deg` and `axis_deg` added to the cosines."""
    import numpy as np

    table = read(COVISIBILITY, Path(catalogs, name, COVISIBILITY.file_name)).to_pandas()
    for angle in ("rotation", "axis"):
        table[f"{angle}_deg"] = np.degrees(np.arccos(table[f"{angle}_cos"]))
    return table


# ---- a mix, as training sees it


@dataclass(frozen=True)
class MixDataset:
    """One dataset of a mix: its weight and where its catalogs are. `catalog` is their folder."""

    name: str
    weight: float
    single_view: bool
    min_frames: int
    holdout: float
    num_sequences: int
    num_frames: int
    catalog: Path
    frames: Path
    frames_digest: str
    sequences: Path
    sequences_digest: str
    licence: str
    covisibility: Path | None
    covisibility_digest: str | None


@dataclass(frozen=True)
class Mix:
    """A weighted set of datasets' sequences that one training run reads; `parameters` are those of its footer."""

    path: Path
    content_digest: str
    datasets: tuple[MixDataset, ...]
    parameters: dict[str, Any] = field(default_factory=dict)


def open_mix(path: Path) -> Mix:
    """Open a mix and compare the footers of its catalogs with the digests it was made from.

    Raises CatalogError naming the command to run where a catalog is missing or has changed since.
    """
    path = Path(path)
    if not path.exists() and is_packed(path):
        raise CatalogError(f"{path.parent} is not packed to the end yet; {_made_again(path, None, [])}: it goes on")
    footer = read_footer(MIX, path)
    rows = read(MIX, path).to_pylist()
    datasets = []
    for row in rows:
        files: dict[str, Path | None] = {}
        for schema in (FRAMES, SEQUENCES, COVISIBILITY):
            digest, place = row[f"{schema.name}_digest"], row[f"{schema.name}_path"]
            file = None if digest is None else path.parent / place
            if file is not None and read_footer(schema, file).content_digest != digest:
                raise CatalogError(f"{file} has changed since {path} was made; {_made_again(path, footer, rows)}")
            files[schema.name] = file
        frames, sequences, covisibility = files.values()
        assert frames is not None
        assert sequences is not None
        datasets.append(
            MixDataset(
                name=row["dataset"],
                weight=row["weight"],
                single_view=row["single_view"],
                min_frames=row["min_frames"],
                holdout=row["holdout"],
                num_sequences=row["num_sequences"],
                num_frames=row["num_frames"],
                catalog=frames.parent,
                frames=frames,
                frames_digest=row["frames_digest"],
                sequences=sequences,
                sequences_digest=row["sequences_digest"],
                licence=row["licence"],
                covisibility=covisibility,
                covisibility_digest=row["covisibility_digest"],
            )
        )
    return Mix(path, footer.content_digest, tuple(datasets), footer.parameters)


def is_packed(path: Path) -> bool:
    """Tell whether a path is that of the mix of a packed copy, which may not be finished."""
    return path.name == MIX.file_name and path.with_name(PACKED_RECORD).is_file()


def map_frames(dataset: MixDataset) -> pa.Table:
    """Map the frames' Arrow twin: row = frame_id.

    Columns: scene (int32, counted in file order), path, archive, codec, offset, bytes, width, height,
    upright_quarter_turns, timestamp_s. As of every twin each column is one chunk, a view over the mapped file; the twin
    is built first where it does not exist yet; processes that map it share its pages.
    """
    return map_twin(frames_twin(dataset))


def map_sequences(dataset: MixDataset) -> pa.Table:
    """Map the sequences' Arrow twin: scene, num_frames, frames (large_list of frame_ids), holdout_unit, mean_overlap.

    `holdout_unit` is a uniform hash in [0, 1) of the sequence's group; it is held out when holdout_unit < holdout.
    `mean_overlap` is null where it is not known.
    """
    return map_twin(twin.ensure(_sequences_recipe(dataset)))


def map_covisibility(dataset: MixDataset) -> pa.Table | None:
    """Map the Arrow twin of the frames' pairs, row = frame_id; None where the mix names no covisibility.

    Columns: other (large_list of frame_ids, ascending), overlap (large_list of float32): the greater of the two
    overlaps of that pair, one that is not known counting as 0. Each pair stands in the rows of both its frames.
    """
    recipe = _covisibility_recipe(dataset)
    return None if recipe is None else map_twin(twin.ensure(recipe))


def frames_twin(dataset: MixDataset) -> Path:
    """Return the file of the frames' Arrow twin, built where it is not there: what a process of its own maps."""
    return twin.ensure(_frames_recipe(dataset))


def damaged_twins(dataset: MixDataset, scratch: Path) -> Iterator[Path]:
    """Yield the twins beside a dataset's catalogs that are not what these give, each built once more in `scratch`."""
    for recipe in _recipes(dataset):
        if not twin.is_intact(recipe, scratch):
            yield recipe.beside
            if recipe.kind == "frames":  # the others are made with its help
                return


def remove_outdated_twins(dataset: MixDataset) -> None:
    """Remove the twins beside a dataset's catalogs that are of earlier ones; see `mumdata.twin.remove_outdated`."""
    for recipe in _recipes(dataset):
        twin.remove_outdated(recipe)


def map_twin(path: Path) -> pa.Table:
    """Map the file of a twin; CatalogError where it is damaged."""
    return twin.mapped(path)


def dataset_root(dataset: MixDataset) -> Path:
    """Return the folder that a dataset's paths are relative to; LayoutError naming how to set it."""
    return roots.find_root(dataset.name, dataset.catalog.parent)


def _made_again(path: Path, footer: Footer | None, rows: list[dict[str, Any]]) -> str:
    # what to do to make a mix again: the command, as far as its footer knows
    if footer is None or is_packed(path):
        return f"run the 'mumdata pack' command that made {path.parent} again"
    options = footer.parameters
    if not {"definition", "definition_file"} & set(options):
        return "run 'mumdata mix' again, with the names, --weight, --min-frames and --holdout that it was made with"
    definition = options.get("definition") or os.path.normpath(path.parent / options["definition_file"])
    weights = options.get("weight") or []
    words = ["mumdata", "mix", definition, *(word for weight in weights for word in ("--weight", weight))]
    for option in ("min_frames", "holdout"):
        if options.get(option):
            words += [f"--{option.replace('_', '-')}", str(options[option])]
    catalogs = Path(os.path.normpath(path.parent / rows[0]["frames_path"])).parents[1]
    words += ["--catalogs", str(catalogs)] if catalogs != DEFAULT else []
    words += ["-o", str(path)] if Path(os.path.normpath(path)) != catalogs / MIX.file_name else []
    return f"run '{shlex.join(words)}' again"


def _frames_recipe(dataset: MixDataset) -> twin.Recipe:
    path, digest = dataset.frames, dataset.frames_digest

    def make(spool: Spool) -> pa.RecordBatch:
        return twin.of_frames(read_batches(FRAMES, path, twin.FRAMES, digest), spool)

    return twin.Recipe("frames", path, (digest,), make)


def _sequences_recipe(dataset: MixDataset) -> twin.Recipe:
    path, digest = dataset.sequences, dataset.sequences_digest

    def make(spool: Spool) -> pa.RecordBatch:
        rows = read_batches(SEQUENCES, path, twin.SEQUENCES, digest)
        groups = read_batches(FRAMES, dataset.frames, twin.GROUPS, dataset.frames_digest)
        return twin.of_sequences(rows, groups, map_frames(dataset), spool)

    return twin.Recipe("sequences", path, (digest, dataset.frames_digest), make)


def _covisibility_recipe(dataset: MixDataset) -> twin.Recipe | None:
    path, digest = dataset.covisibility, dataset.covisibility_digest
    if path is None or digest is None:
        return None

    def make(spool: Spool) -> pa.RecordBatch:
        num_frames = map_frames(dataset).num_rows
        return twin.of_covisibility(lambda: read_batches(COVISIBILITY, path, twin.PAIRS, digest), num_frames, spool)

    return twin.Recipe("covisibility", path, (digest, dataset.frames_digest), make)


def _recipes(dataset: MixDataset) -> list[twin.Recipe]:
    found = (_frames_recipe(dataset), _sequences_recipe(dataset), _covisibility_recipe(dataset))
    return [recipe for recipe in found if recipe is not None]


def _open(schema: Schema, path: Path) -> tuple[pq.ParquetFile, Footer]:
    path = Path(path)
    command = schema.command.format(dataset=path.parent.name)
    if not path.exists():
        raise CatalogError(f"{path} does not exist; run '{command}'")
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise CatalogError(f"{path} is not a whole Parquet file; run '{command}'") from error
    found = file.schema_arrow
    for column in schema.columns:
        place = found.get_field_index(column.name)
        if place < 0:
            raise CatalogError(f"{path}: column '{column.name}' is missing; run '{command}'")
        if found.field(place).type != column.type:
            kind = found.field(place).type
            raise CatalogError(f"{path}: column '{column.name}' is {kind}, not {column.type}; run '{command}'")
    data = (file.metadata.metadata or {}).get(_KEY)
    if data is None:
        raise CatalogError(f"{path}: no mumdata footer; run '{command}'")
    try:
        footer = Footer(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise CatalogError(f"{path}: its footer cannot be read; run '{command}'") from error
    if (footer.schema, footer.schema_version) != (schema.name, schema.version):
        raise CatalogError(
            f"{path}: holds {footer.schema} version {footer.schema_version}, not {schema.name} version "
            f"{schema.version}; run '{command}'"
        )
    return file, footer


def _damaged(schema: Schema, path: Path) -> CatalogError:
    return CatalogError(f"{path} is damaged; run '{schema.command.format(dataset=Path(path).parent.name)}'")


def _canonical(schema: Schema, table: pa.Table) -> pa.Table:
    # one chunk a column and dictionaries in order of first use, so that equal tables are equal bytes
    arrays = []
    for column in schema.columns:
        values = table.column(column.name)
        if pa.types.is_dictionary(column.type):
            values = values.cast(pa.string()).combine_chunks().dictionary_encode()
        else:
            values = values.combine_chunks()
        if isinstance(values, pa.ChunkedArray):
            values = pa.concat_arrays(values.chunks)
        if not column.nullable and values.null_count:
            raise ValueError(f"{schema.name}.{column.name} holds {values.null_count} nulls")
        arrays.append(values)
    return pa.Table.from_arrays(arrays, schema=schema.columns)


def _cast(values: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if values.type == kind:
        return values
    if pa.types.is_dictionary(kind):
        return values.cast(pa.string()).dictionary_encode()
    return values.cast(kind)
