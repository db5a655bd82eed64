"""The ledger of a training run: how often it has drawn each sequence and shown each frame.

In: a run's folder; RUN/exposure/steps-00000001-00001000.parquet holds the visits of the steps in its name, counted from
1, both included. Out: the files that count, so that no step counts twice; DuckDB views over them, which join with those
of the catalogs; and what stands against joining them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mumdata import catalog
from mumdata.errors import CatalogError, ConfigError
from mumdata.schema import EXPOSURE, FRAMES, MIX, SEQUENCES

if TYPE_CHECKING:
    import duckdb

__all__ = [
    "LEGEND",
    "TOPIC",
    "ExposureFile",
    "all_exposure_files",
    "create_views",
    "doubts",
    "exposure_files",
    "exposure_path",
    "missing_steps",
    "open_exposure",
]

_NAME = re.compile(r"steps-(\d{8,})-(\d{8,})\.parquet")

# As for the topic `exposure`: how many have which number of visits is a short table, all the rest follows from it.
TOPIC = """
WITH v AS (
  SELECT dataset, 'seqs' AS "of", visits, count(*) AS num FROM visited_sequences GROUP BY ALL
  UNION ALL SELECT dataset, 'frames', visits, count(*) FROM visited_frames GROUP BY ALL),
r AS (
  SELECT *, sum(num) OVER (PARTITION BY dataset, "of" ORDER BY visits DESC) - num AS above,
         sum(num) OVER (PARTITION BY dataset, "of") AS total
  FROM v),
e AS (
  SELECT dataset, "of", sum(visits * num)::BIGINT AS times, sum(num)::BIGINT AS shown, min(visits) AS fewest,
         max(visits) FILTER (above + num > total // 2) AS "median", max(visits) AS most,
         sum(visits * greatest(0, least(num, ceil(total / 10) - above))) / sum(visits * num) AS tenth
  FROM r GROUP BY ALL),
c AS (
  SELECT dataset, 'seqs' AS "of", count(*) AS known FROM sequences GROUP BY ALL
  UNION ALL SELECT dataset, 'frames', count(*) FROM frames GROUP BY ALL)
SELECT dataset, "of", coalesce(times, 0) AS visits, coalesce(shown, 0) AS "distinct",
       round(coalesce(shown, 0) / known, 3) AS share, fewest, "median", most, round(tenth, 3) AS tenth
FROM c FULL JOIN e USING (dataset, "of") ORDER BY dataset, "of" DESC
"""

LEGEND = (
    "visits: how often the run drew a sequence (seqs) or showed a frame (frames); distinct: how many different ones; "
    "share: of all in the catalog; fewest, median, most: visits of one among these; tenth: share of the visits that "
    "falls on the most visited tenth of them (even: 0.1)."
)

_VIEW = """
CREATE VIEW "{name}" AS
SELECT dataset, {column}, sum(visits)::BIGINT AS visits FROM {source} WHERE {column} IS NOT NULL {own} GROUP BY ALL
"""


class ExposureFile(NamedTuple):
    """A file of visits and the steps it holds, counted from 1, both included."""

    first: int
    last: int
    path: Path


def exposure_path(run: Path, first: int, last: int) -> Path:
    """Return where a run keeps the visits of the steps `first` to `last`, counted from 1."""
    if not 1 <= first <= last:
        raise ValueError(f"no steps: {first} to {last}")
    return Path(run, "exposure", f"steps-{first:08d}-{last:08d}.parquet")


def open_exposure(run: Path) -> list[ExposureFile]:
    """Return a run's `exposure_files`; ConfigError where `run` is no folder, CatalogError where there are none."""
    if not Path(run).is_dir():
        raise ConfigError(f"{run} is no folder; give the folder of a training run")
    files = exposure_files(run)
    if not files:
        raise CatalogError(
            f"{Path(run, 'exposure')} holds no visits; 'mumtrain pretrain' writes them with each checkpoint: wait for "
            "the first, or give the folder of another run"
        )
    return files


def all_exposure_files(run: Path) -> list[ExposureFile]:
    """List the files of visits in a run's folder by their steps, those whose steps stand in a longer one as well."""
    found = _listed(run)
    # many files become one while a run goes on, and a listing is no snapshot: one that stays the same is
    while (again := _listed(run)) != found:
        found = again
    return found


def exposure_files(run: Path) -> list[ExposureFile]:
    """List the files of visits that count, by their steps: of files that hold the same steps the longest.

    Merging writes the longer file before it removes the others, so that these may be there still. Raises CatalogError
    for files that share only some of their steps.
    """
    counting: list[ExposureFile] = []
    for file in all_exposure_files(run):
        before = counting[-1] if counting else None
        if before is None or file.first > before.last:
            counting.append(file)
        elif file.last > before.last:
            raise CatalogError(
                f"{file.path} and {before.path.name} both hold the visits of step {file.first}; two trainings wrote "
                "into one folder: remove one of the files"
            )
    return counting


def missing_steps(files: Iterable[ExposureFile], last: int | None = None) -> list[tuple[int, int]]:
    """Return the ranges of steps, both ends included, that no file of `exposure_files` holds.

    They are those before a file, and up to `last` where that is given.
    """
    gaps, following = [], 1
    for file in files:
        if file.first > following:
            gaps.append((following, file.first - 1))
        following = file.last + 1
    if last is not None and last >= following:
        gaps.append((following, last))
    return gaps


def create_views(connection: duckdb.DuckDBPyConnection, source: str, dataset: str | None = None) -> None:
    """Create `visited_sequences` and `visited_frames`, the sums over a run's files, of one dataset or of all.

    `source` is what SQL reads the rows of all files from.
    """
    own = "" if dataset is None else "AND dataset = '" + dataset.replace("'", "''") + "'"
    for name, column in (("visited_sequences", "sequence"), ("visited_frames", "frame_id")):
        connection.execute(_VIEW.format(name=name, column=column, source=source, own=own))


def doubts(run: Path, catalogs: Path = catalog.DEFAULT, dataset: str | None = None) -> list[str]:
    """Say, one line each, what stands against reading a run's visits beside catalogs.

    That are steps that no file holds, and frames or sequences in the catalogs that are not those of the run's mix.
    Raises as `open_exposure` does, and CatalogError where a catalog is damaged.
    """
    run, catalogs, files = Path(run), Path(catalogs), open_exposure(run)
    told = []
    if gaps := missing_steps(files):
        shown = ", ".join(f"{first:,} to {last:,}" for first, last in gaps[:5])
        told.append(f"the visits of steps {shown}{', ...' if len(gaps) > 5 else ''} are not recorded in {run}")
    digests = {catalog.read_footer(EXPOSURE, file.path).inputs.get("mix") for file in files}
    if len(digests) > 1:
        told.append(f"{run} read {len(digests)} mixes one after another; their frame_ids may mean different frames")
        return told
    inputs = _inputs_of_mix(run, catalogs, digests.pop())
    if inputs is None:
        told.append(
            f"the mix that {run} read is neither where its run.json says nor in {catalogs}, so whether frame_ids mean "
            "the frames of these catalogs is not known"
        )
    elif changed := _changed(inputs, catalogs, dataset):
        told.append(
            f"{catalogs} holds other catalogs than {run} read ({', '.join(changed)}), so frame_ids and sequences may "
            "mean others; name those of its mix with --catalogs"
        )
    return told


def _listed(run: Path) -> list[ExposureFile]:
    folder, found = Path(run, "exposure"), []
    for path in folder.iterdir() if folder.is_dir() else ():
        if name := _NAME.fullmatch(path.name):
            found.append(ExposureFile(int(name[1]), int(name[2]), path))
    return sorted(found, key=lambda file: (file.first, -file.last))


def _inputs_of_mix(run: Path, catalogs: Path, digest: str | None) -> dict[str, str] | None:
    """Return the digests that the mix of a digest was made from; None where that mix is not to be found."""
    for path in (_named_mix(run), catalogs / MIX.file_name):
        # one that is gone, or was made anew since, is not the run's
        with suppress(CatalogError, OSError):
            if path is not None and path.is_file():
                footer = catalog.read_footer(MIX, path)
                if footer.content_digest == digest:
                    return footer.inputs
    return None


def _named_mix(run: Path) -> Path | None:
    try:
        about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    named = about.get("mix") if isinstance(about, dict) else None
    return Path(named) if isinstance(named, str) else None


def _changed(inputs: dict[str, str], catalogs: Path, dataset: str | None) -> list[str]:
    """Say which datasets of a mix have other frames or sequences in a folder of catalogs, or none."""
    here = {path.parent.name: path.parent for path in catalogs.glob(f"*/{FRAMES.file_name}")}
    changed = []
    for name in sorted({key.rpartition("/")[0] for key in inputs}):
        if dataset not in (None, name):
            continue
        if name not in here:
            changed.append(f"{name}: not there")
            continue
        kinds = []
        for schema in (FRAMES, SEQUENCES):
            path, digest = here[name] / schema.file_name, inputs.get(f"{name}/{schema.name}")
            if not path.exists() or catalog.read_footer(schema, path).content_digest != digest:
                kinds.append(schema.name)
        if kinds:
            changed.append(f"{name}: {' and '.join(kinds)}")
    return changed
