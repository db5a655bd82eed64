"""Which images features are taken of, and their bytes.

In: image files, folders, or a dataset's catalog with an SQL condition on its frames. Out: names in a fixed order, a
digest of what they stand for, and the bytes of each.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mumdata import catalog
from mumdata.digest import json_digest
from mumdata.errors import CatalogError, ConfigError, DecodeError, MumError
from mumdata.files import natural_key, printable_name
from mumdata.images import looks_like_image
from mumdata.roots import find_root
from mumdata.schema import FRAMES
from mumtrain.reading.frames import COLUMNS, FrameTable

__all__ = ["Encoded", "Images", "FileImages", "CatalogImages", "open_images"]


class Encoded(NamedTuple):
    """The bytes of an image file, and the clockwise quarter turns that make it upright; None: as EXIF says."""

    data: bytes
    turns: int | None


class Images(Protocol):
    """Images in an order. `frame_ids` are those of a catalog; equal digests mean equal images in the same order."""

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def frame_ids(self) -> np.ndarray | None: ...
    @property
    def digest(self) -> str: ...

    def files(self) -> Iterable[Path]:
        """Yield where the images lie; what lies within archives has paths that are not there."""
        ...

    def read(self, number: int) -> Encoded:
        """Return one image's bytes; DecodeError where they are not there, MumError where a disk fails."""
        ...

    def upright_size(self, number: int) -> tuple[int, int] | None:
        """Return width and height of the upright image where they are known without opening it."""
        ...


def open_images(paths: Sequence[Path], *, where: str | None = None) -> Images:
    """Return the images that paths stand for.

    A folder stands for the images that lie in it, in natural order; a folder that holds frames.parquet, or that file,
    for the usable frames of a dataset, or those that also fulfil `where`, an SQL condition on the columns of frames.
    Raises ConfigError for what is not there and for a wrong condition, CatalogError for a broken catalog, LayoutError
    where a dataset's root is not known.
    """
    if not paths:
        raise ConfigError("no images given; name image files, a folder of images, or a dataset's catalog")
    catalogs = [path for path in map(Path, paths) if path.suffix == ".parquet" or (path / FRAMES.file_name).is_file()]
    if not catalogs:
        if where is not None:
            raise ConfigError("a condition (--where) chooses frames of a catalog; name catalogs/NAME instead of images")
        return FileImages(tuple(_found(map(Path, paths))))
    if len(paths) > 1:
        raise ConfigError(f"{catalogs[0]} is a catalog and has to be named alone; use one file of features for each")
    path = catalogs[0]
    return _open_catalog(path if path.suffix == ".parquet" else path / FRAMES.file_name, where)


# ---- files


@dataclass(frozen=True)
class FileImages:
    """Image files by their paths."""

    paths: tuple[Path, ...]

    @property
    def frame_ids(self) -> None:
        """Files have none."""
        return None

    @functools.cached_property
    def names(self) -> list[str]:
        """The paths as given; bytes that are no UTF-8 become question marks."""
        return [printable_name(path) for path in self.paths]

    @functools.cached_property
    def digest(self) -> str:
        """A digest of names, sizes and times of change."""
        found = []
        for path in self.paths:
            status = path.stat()
            found.append([str(path), status.st_size, status.st_mtime_ns])
        return json_digest(found)

    def files(self) -> Iterable[Path]:
        """Yield the paths."""
        return self.paths

    def read(self, number: int) -> Encoded:
        """Return one image's bytes; DecodeError where it has gone, MumError where it cannot be read."""
        path = self.paths[number]
        try:
            return Encoded(path.read_bytes(), None)
        except FileNotFoundError as error:
            raise DecodeError("the file has gone") from error
        except OSError as error:
            raise MumError(f"cannot read {path}: {error.strerror or error}") from error

    def upright_size(self, number: int) -> None:
        """Not known without opening the file."""


def _found(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            inside = sorted(
                (one for one in path.iterdir() if looks_like_image(one.name) and one.is_file()),
                key=lambda path: natural_key(path.name),
            )
            if not inside:
                raise ConfigError(f"no images lie in {path} itself; name the folder that holds them, or a catalog")
            yield from inside
        elif path.is_file():
            yield path
        elif path.exists():
            raise ConfigError(f"{path} is neither an image nor a folder")
        else:
            raise ConfigError(f"{path} does not exist; name image files, a folder of images, or a dataset's catalog")


# ---- catalogs


@dataclass(frozen=True, eq=False)
class CatalogImages:
    """Frames of a catalog: rows of `table` in the order of `frame_ids`."""

    table: FrameTable
    frame_ids: np.ndarray
    digest: str

    @functools.cached_property
    def names(self) -> list[str]:
        """The frames' paths under the dataset's root."""
        return [str(self.table.frame(row).path) for row in range(len(self.frame_ids))]

    def files(self) -> Iterable[Path]:
        """Yield the frames' paths; of those within archives, which are not there."""
        return (self.table.root / name for name in self.names)

    def read(self, number: int) -> Encoded:
        """Return one frame's bytes; DecodeError where they are not there, MumError where a disk fails."""
        frame = self.table.frame(number)
        try:
            return Encoded(self.table.read_patiently(frame), frame.turns)
        except FileNotFoundError as error:
            raise DecodeError("the file has gone") from error

    def upright_size(self, number: int) -> tuple[int, int] | None:
        """Return width and height of the upright frame, None where the catalog does not tell."""
        frame = self.table.frame(number)
        if frame.width is None or frame.height is None:
            return None
        return (frame.width, frame.height) if frame.turns % 2 == 0 else (frame.height, frame.width)


def _open_catalog(path: Path, where: str | None) -> CatalogImages:
    path = path.absolute()
    if path.name != FRAMES.file_name:
        raise ConfigError(f"features are taken of the images of {FRAMES.file_name}, not of {path.name}; name that file")
    name = path.parent.name
    footer = catalog.read_footer(FRAMES, path)
    table = catalog.read(FRAMES, path, ["frame_id", "status", *COLUMNS])
    rows = np.flatnonzero(pc.equal(table.column("status").cast(pa.string()), "ok").to_numpy())
    if where is not None:
        usable, chosen = table.column("frame_id").to_numpy()[rows], _chosen(path, where)
        # brackets may close what the condition stands in, and lead anywhere
        if (np.diff(chosen) <= 0).any() or not np.isin(chosen, usable).all():
            raise _not_one(where)
        rows = rows[np.searchsorted(usable, chosen)]
    if not len(rows):
        told = "has no usable frame" if where is None else f"has no usable frame where {where}"
        raise CatalogError(f"{path} {told}; see 'mumdata stats'")
    frame_ids = table.column("frame_id").to_numpy()[rows].astype(np.int64)
    root = find_root(name, path.parent.parent)
    # hashing the numbers, of which there may be millions, as bytes; the catalog's digest stands for all they refer to
    digest = json_digest([footer.content_digest, frame_ids.astype("<i8").tobytes().hex()])
    return CatalogImages(FrameTable(name, root, table.select(COLUMNS).take(pa.array(rows))), frame_ids, digest)


def _chosen(path: Path, where: str) -> np.ndarray:
    # the ascending frame_ids of usable frames that fulfil a condition, where it is one
    import duckdb

    if not where.strip():
        raise ConfigError("the condition (--where) is empty; write it as after WHERE, e.g. scene = '0015'")
    # the line break ends a comment; the inner query keeps the status out of reach of the condition's brackets
    query = f"SELECT frame_id FROM (SELECT * FROM frames WHERE status = 'ok') WHERE (\n{where}\n) ORDER BY frame_id"
    source = str(path).replace("'", "''")
    try:
        with duckdb.connect() as connection:
            connection.execute(f"CREATE VIEW frames AS SELECT * FROM read_parquet('{source}')")
            if [one.type for one in connection.extract_statements(query)] != [duckdb.StatementType.SELECT]:
                raise _not_one(where)
            found: np.ndarray = connection.sql(query).fetchnumpy()["frame_id"]
    except duckdb.Error as error:
        raise ConfigError(f"the condition '{where}' failed: {str(error).strip().splitlines()[0]}") from error
    if found.dtype.kind not in "iu" or np.ma.is_masked(found):
        raise _not_one(where)
    return np.asarray(found, np.int64)


def _not_one(where: str) -> ConfigError:
    return ConfigError(f"'{where}' is not one condition; write it as after WHERE, e.g. scene = '0015'")
