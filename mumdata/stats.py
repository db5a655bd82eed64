"""`mumdata stats`: questions about the catalogs, answered by DuckDB.

In: the catalogs folder, and a topic or a query. Out: a table. The views are frames, scenes, covisibility, sequences,
quarantine (all datasets together) and mix; `covisibility` has rotation_deg and axis_deg beside the cosines.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mumdata import catalog
from mumdata.errors import CatalogError, ConfigError, unknown
from mumdata.index import known_names
from mumdata.schema import COVISIBILITY, FRAMES, MIX, SCHEMAS, SEQUENCES, Schema

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

__all__ = ["TOPICS", "connect", "stale", "stats"]

_OVERVIEW = """
WITH f AS (SELECT dataset, count(*) AS frames, count(*) FILTER (status <> 'ok') AS bad FROM frames GROUP BY ALL),
e AS (SELECT dataset, count(DISTINCT (split, scene)) AS scenes FROM scenes GROUP BY ALL),
s AS (
  SELECT dataset, count(*) AS sequences, count(DISTINCT frames) AS distinct_sequences,
         min(num_frames) AS shortest, median(num_frames)::INT AS median, max(num_frames) AS longest
  FROM sequences GROUP BY ALL),
c AS (
  SELECT dataset, quantile_cont(o, [0.25, 0.5, 0.75]) AS q
  FROM (SELECT dataset, unnest([overlap_ab, overlap_ba]) AS o FROM covisibility) GROUP BY ALL)
SELECT f.dataset, scenes, frames, bad,
       coalesce(sequences, 0) AS seqs, coalesce(distinct_sequences, 0) AS "distinct",
       CASE WHEN sequences > 0 THEN printf('%d/%d/%d', shortest, median, longest) END AS "frames/seq",
       CASE WHEN q IS NOT NULL THEN replace(printf('%.2f/%.2f/%.2f', q[1], q[2], q[3]), '0.', '.') END AS "overlap"
FROM f LEFT JOIN e USING (dataset) LEFT JOIN s USING (dataset) LEFT JOIN c USING (dataset) ORDER BY ALL
"""

_SCENES = """
SELECT dataset, concat_ws('/', split, scene, stream) AS scene, status, num_frames AS frames, num_posed AS posed,
       num_copies AS copies, num_pairs AS pairs, num_sequences AS seqs,
       nullif(concat_ws('; ', detail, why_no_sequence), '') AS notes
FROM scenes ORDER BY dataset, split NULLS FIRST, scenes.scene, stream NULLS FIRST
"""

_STATUSES = """
SELECT dataset, 'scene' AS kind, status::VARCHAR AS status, count(*) AS count FROM scenes GROUP BY ALL
UNION ALL SELECT dataset, 'frame', status::VARCHAR, count(*) FROM frames GROUP BY ALL
ORDER BY dataset, kind DESC, count DESC, status
"""

_QUARANTINE = """
SELECT dataset, concat_ws(': ', archive, path) AS path, reason, detail, found_by FROM quarantine ORDER BY ALL
"""

_MIX = """
SELECT dataset, round(weight, 4) AS weight, single_view, min_frames, holdout, num_sequences, num_frames, licence
FROM mix ORDER BY weight DESC, dataset
"""

TOPICS = {
    "overview": _OVERVIEW,
    "scenes": _SCENES,
    "statuses": _STATUSES,
    "quarantine": _QUARANTINE,
    "mix": _MIX,
}


def stats(
    topic: str = "overview", *, sql: str | None = None, catalogs: Path = catalog.DEFAULT, dataset: str | None = None
) -> pd.DataFrame:
    """Answer a topic or a query over the catalogs; the result is a data frame.

    `sql` is any DuckDB query over the views; `dataset` restricts the views to one dataset. Raises ConfigError for
    an unknown topic, CatalogError where there is no catalog or the query fails.
    """
    import duckdb

    if sql is None and topic not in TOPICS:
        raise unknown("topic", topic, TOPICS)
    if dataset is not None and (names := known_names(catalogs)) and dataset not in names:
        raise unknown("dataset", dataset, names)
    with connect(catalogs, dataset) as connection:
        try:
            if sql is not None:
                kinds = [statement.type for statement in connection.extract_statements(sql)]
                if kinds not in ([duckdb.StatementType.SELECT], [duckdb.StatementType.EXPLAIN]):
                    raise ConfigError("--sql takes one SELECT statement; catalogs are changed by their commands alone")
            return connection.sql(sql if sql is not None else TOPICS[topic]).df()
        except duckdb.Error as error:
            if sql is None:
                raise CatalogError(f"a catalog under {catalogs} is damaged; run the command that writes it") from error
            first = str(error).strip().splitlines()[0]
            raise ConfigError(f"the query failed: {first}") from error
        except AttributeError:  # a statement without a result
            raise ConfigError("the query returned no table; write a SELECT") from None


def connect(catalogs: Path = catalog.DEFAULT, dataset: str | None = None) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB with a view for each kind of catalog; every file is checked against its schema."""
    import duckdb

    catalogs = Path(catalogs)
    connection = duckdb.connect()
    any_found = False
    outdated = stale(catalogs, dataset)
    for schema in SCHEMAS.values():
        if schema is MIX:
            paths = [catalogs / MIX.file_name] if (catalogs / MIX.file_name).exists() else []
        else:
            paths = _files(catalogs, schema, dataset)
        for path in paths:
            catalog.read_footer(schema, path)
        paths = [path for path in paths if path not in outdated]
        any_found |= bool(paths)
        source = _source(paths) if paths else _empty(schema.name, connection)
        if schema is MIX and dataset is not None:
            own = dataset.replace("'", "''")
            source = f"(SELECT * FROM {source} WHERE dataset::VARCHAR = '{own}')"
        extra = ""
        if schema.name == "covisibility":
            extra = ", degrees(acos(rotation_cos)) AS rotation_deg, degrees(acos(axis_cos)) AS axis_deg"
        connection.execute(f'CREATE VIEW "{schema.name}" AS SELECT *{extra} FROM {source}')
    if not any_found:
        connection.close()
        where = f"{catalogs}/{dataset}" if dataset else f"{catalogs}"
        raise CatalogError(f"no catalog under {where}; run 'mumdata index NAME --root DIR'")
    return connection


def stale(catalogs: Path = catalog.DEFAULT, dataset: str | None = None) -> list[Path]:
    """Return the files that were made from frames other than those now indexed; the views leave them out."""
    found = []
    for schema in (COVISIBILITY, SEQUENCES):
        for path in _files(Path(catalogs), schema, dataset):
            frames = path.with_name(FRAMES.file_name)
            made_from = catalog.read_footer(schema, path).inputs.get("frames")
            if not frames.exists() or catalog.read_footer(FRAMES, frames).content_digest != made_from:
                found.append(path)
    return found


def _files(catalogs: Path, schema: Schema, dataset: str | None) -> list[Path]:
    return [path for path in sorted(catalogs.glob(f"*/{schema.file_name}")) if dataset in (None, path.parent.name)]


def _source(paths: list[Path]) -> str:
    listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{listed}], union_by_name = true)"


def _empty(name: str, connection: duckdb.DuckDBPyConnection) -> str:
    table = SCHEMAS[name].columns.empty_table()
    connection.register(f"{name}_empty", table)
    return f'"{name}_empty"'
