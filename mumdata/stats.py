"""`mumdata stats`: questions about the catalogs, answered by DuckDB.

In: the catalogs folder, and a topic or a query. Out: a table. The views are frames, scenes, covisibility, sequences,
quarantine (all datasets together) and mix; `covisibility` has rotation_deg and axis_deg beside the cosines; `mined`
has one row a dataset, how its sequences were made; `exposure` one row a frame, how often training sees it. With the
folder of a run, visited_sequences and visited_frames say how often it has read each: see `mumdata.visits`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mumdata import catalog, visits
from mumdata.errors import CatalogError, ConfigError, unknown
from mumdata.index import known_names
from mumdata.schema import COVISIBILITY, EXPOSURE, FRAMES, MIX, SCHEMAS, SEQUENCES, Schema
from mumdata.subsets import VIEWS, subsets

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

__all__ = ["TOPICS", "connect", "legend", "sections", "stale", "stats", "topic_of"]

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

# One row a dataset; the measures by number of views are joined to it. Sequences are told apart by hashes of 64 bits:
# the lists themselves would not fit into memory, and among ten million two fall together once in 400,000 times.
_SEQUENCES = """
WITH s AS (
  SELECT dataset, any_value(rule) AS rule, count(*) AS sequences, count(DISTINCT hash(frames)) AS "distinct",
         min(num_frames) AS shortest, median(num_frames)::INT AS median, max(num_frames) AS longest,
         quantile_cont(mean_overlap, [0.25, 0.5, 0.75]) AS o, quantile_cont(density, [0.25, 0.5, 0.75]) AS d,
         quantile_disc(components, [0.25, 0.5, 0.75]) AS c
  FROM sequences GROUP BY ALL)
SELECT dataset, rule, preset, seed, options, pairs, sequences, "distinct", shortest, median, longest,
       o[1] AS mean_overlap_25, o[2] AS mean_overlap_50, o[3] AS mean_overlap_75,
       d[1] AS density_25, d[2] AS density_50, d[3] AS density_75,
       c[1] AS components_25, c[2] AS components_50, c[3] AS components_75
FROM s JOIN mined USING (dataset) ORDER BY dataset
"""

# How many frames have which number of visits is a short table: all the rest follows from it in one pass. How many
# could have been in a sequence and are in none is what mining counted: it alone knows of copies with other bytes.
_EXPOSURE = """
WITH v AS (SELECT dataset, visits, count(*) AS num FROM exposure WHERE visits > 0 GROUP BY ALL),
h AS (
  SELECT * FROM v UNION ALL
  SELECT dataset, 0, usable - covered
  FROM (SELECT dataset, sum(num_usable) AS usable FROM scenes GROUP BY ALL)
  JOIN (SELECT dataset, sum(num) AS covered FROM v GROUP BY ALL) USING (dataset) WHERE usable > covered),
r AS (
  SELECT *, sum(num) OVER (PARTITION BY dataset ORDER BY visits DESC) - num AS above, sum(num) OVER w AS total
  FROM h WINDOW w AS (PARTITION BY dataset)),
e AS (
  SELECT dataset, sum(num)::BIGINT AS usable, coalesce(sum(num) FILTER (visits > 0), 0)::BIGINT AS covered,
         min(visits) AS fewest, max(visits) FILTER (above + num > total // 2) AS "median", max(visits) AS most,
         sum(visits * greatest(0, least(num, ceil(total / 10) - above))) / nullif(sum(visits * num), 0) AS tenth
  FROM r GROUP BY ALL),
s AS (
  SELECT dataset, max(num) / sum(num) AS largest
  FROM (SELECT dataset, split, scene, count(*) AS num FROM sequences GROUP BY ALL) GROUP BY ALL)
SELECT dataset, usable, covered, round(covered / usable, 3) AS share, fewest, "median", most, round(tenth, 3) AS tenth,
       round(largest, 3) AS scene
FROM (SELECT DISTINCT dataset FROM frames) LEFT JOIN e USING (dataset) LEFT JOIN s USING (dataset) ORDER BY dataset
"""

TOPICS = {
    "overview": _OVERVIEW,
    "scenes": _SCENES,
    "statuses": _STATUSES,
    "sequences": _SEQUENCES,
    "exposure": _EXPOSURE,
    "visits": visits.TOPIC,
    "quarantine": _QUARANTINE,
    "mix": _MIX,
}

# Frames that mining may use: those of the split that was mined whose files are whole, or absent where that was allowed,
# and that no benchmark evaluates on. A copy is left out unless a sequence holds it: its photo is there under another
# id. (Copies with other bytes, which mining tells by what they share, are still rows, without visits.) No rule puts a
# frame into a sequence twice, so its places in sequences are the sequences that hold it; `share` is the part of all
# views that training is expected to draw from it. Its parts are summed as decimals: exact in any order.
_EXPOSURE_VIEW = """
CREATE VIEW exposure AS
WITH held AS (
  SELECT dataset, frame_id, count(*) AS visits, sum(part) AS part
  FROM (SELECT dataset, (1 / len(frames))::DECIMAL(38, 18) AS part, unnest(frames) AS frame_id FROM sequences)
  GROUP BY ALL),
number AS (SELECT dataset, count(*) AS num FROM sequences GROUP BY ALL)
SELECT f.dataset, f.frame_id, f.split, f.scene, f.stream, coalesce(visits, 0) AS visits,
       coalesce(part::DOUBLE / number.num, 0) AS share
FROM frames AS f JOIN mined AS m USING (dataset) JOIN number USING (dataset) LEFT JOIN held USING (dataset, frame_id)
WHERE visits > 0 OR (
  (status = 'ok' OR (m.allow_missing AND status = 'missing')) AND (duplicate_of IS NULL OR m.keep_copies)
  AND (eval_of IS NULL OR m.allow_eval_scenes)
  AND (m.split IS NULL OR m.split = 'all' OR m.split = f.split))
"""

_LEGENDS = {
    "sequences": (
        "Each line: {num:,} draws (seed {seed}) of so many views of one sequence, as training draws them. eligible: "
        "sequences that have so many frames; known: those of them whose overlaps are known, which are drawn from. "
        "lone: share of the views that overlap less than {least:g}, both ways, with each other view of their draw; "
        "connected: share of the views in the largest part that overlaps of at least {least:g} hold together; "
        "shared_points: median of two views; overlap: mean of two views."
    ),
    "exposure": (
        "covered: usable frames that a sequence holds; fewest, median, most: sequences that hold a frame; tenth: share "
        "of all these visits that falls on the most visited tenth of the frames (even: 0.1); scene: share of the "
        "sequences that the scene with most of them has."
    ),
    "visits": visits.LEGEND,
}

_MINED = """
CREATE TABLE mined (
  dataset VARCHAR, preset VARCHAR, seed BIGINT, split VARCHAR, allow_missing BOOLEAN, allow_eval_scenes BOOLEAN,
  keep_copies BOOLEAN, options VARCHAR, pairs VARCHAR)
"""


def topic_of(topic: str | None, run: Path | None) -> str:
    """Return the topic that is meant: with a run `visits`, where none or `exposure` is named, else `overview`."""
    if run is not None:
        return "visits" if topic in (None, "exposure") else topic
    return topic or "overview"


def stats(
    topic: str | None = None,
    *,
    sql: str | None = None,
    catalogs: Path = catalog.DEFAULT,
    dataset: str | None = None,
    run: Path | None = None,
    views: Sequence[int] = VIEWS,
    num: int = 2000,
    seed: int = 0,
    min_overlap: float = 0.1,
) -> pd.DataFrame:
    """Answer a topic or a query over the catalogs; the result is a data frame.

    `sql` is any DuckDB query over the views; `dataset` restricts the views to one dataset. `run` is the folder of a
    training run, for its visits; see `topic_of`, and `mumdata.visits.doubts` for what to tell beside them. `views`,
    `num`, `seed` and `min_overlap` are for the topic `sequences`: see `mumdata.subsets.subsets`. Raises ConfigError for
    an unknown topic and for arguments, CatalogError where there is no catalog or the query fails.
    """
    import duckdb

    topic = topic_of(topic, run)
    if sql is None and topic not in TOPICS:
        raise unknown("topic", topic, TOPICS)
    if sql is None and topic == "visits" and run is None:
        raise ConfigError("visits are those of a training run; name its folder with --run")
    if dataset is not None and (names := known_names(catalogs)) and dataset not in names:
        raise unknown("dataset", dataset, names)
    with connect(catalogs, dataset, run) as connection:
        try:
            if sql is not None:
                kinds = [statement.type for statement in connection.extract_statements(sql)]
                if kinds not in ([duckdb.StatementType.SELECT], [duckdb.StatementType.EXPLAIN]):
                    raise ConfigError("--sql takes one SELECT statement; catalogs are changed by their commands alone")
            found = connection.sql(sql if sql is not None else TOPICS[topic]).df()
        except duckdb.Error as error:
            if sql is None:
                raise CatalogError(f"a catalog under {catalogs} is damaged; run the command that writes it") from error
            first = str(error).strip().splitlines()[0]
            raise ConfigError(f"the query failed: {first}") from error
        except AttributeError:  # a statement without a result
            raise ConfigError("the query returned no table; write a SELECT") from None
    if sql is None and topic == "sequences":
        return _by_views(found, Path(catalogs), views=views, num=num, seed=seed, min_overlap=min_overlap)
    return found


def _by_views(found: pd.DataFrame, catalogs: Path, *, views: Sequence[int], **how: Any) -> pd.DataFrame:
    """Join what subsets share to the rows of the datasets, one row for each number of views that sequences allow."""
    import pandas as pd

    parts = []
    for name, longest in zip(found["dataset"], found["longest"], strict=True):
        fitting = [v for v in views if v <= longest] or [min(views, default=0)]
        parts.append(subsets(name, catalogs=catalogs, views=fitting, **how))
    measures = pd.concat(parts) if parts else pd.DataFrame(columns=["dataset"])
    return found.merge(measures, on="dataset", how="left")


def sections(found: pd.DataFrame) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """Cut the rows of the topic `sequences` by dataset, for reading: the lines of a heading, and a narrow table."""
    import pandas as pd

    for name, rows in found.groupby("dataset", sort=False):
        about: dict[str, Any] = {str(key): None if pd.isna(value) else value for key, value in rows.iloc[0].items()}
        preset = f", preset {about['preset']}" if about["preset"] else ""
        seed = "" if about["seed"] is None else f", seed {int(about['seed'])}"
        lines = [f"{name}: {about['rule']}{preset}{seed}"]
        lines += [f"{key}: {about[key]}" for key in ("options", "pairs") if about[key]]
        lines.append(
            f"{about['sequences']:,} sequences ({about['distinct']:,} distinct) of {about['shortest']}/"
            f"{about['median']}/{about['longest']} frames (fewest/median/most)"
        )
        lines.append(_quartiles(about))
        shown = rows[["views", "eligible", "known", "lone", "connected", "shared_points", "overlap"]].copy()
        for share in ("lone", "connected", "overlap"):
            values = [None if pd.isna(value) else Decimal(f"{value:.3f}") for value in rows[share]]
            shown[share] = pd.Series(values, index=rows.index, dtype=object)
        yield lines, shown


def _quartiles(about: Mapping[str, Any]) -> str:
    if about["mean_overlap_50"] is None:
        return "nothing is known of what the frames of a sequence share"
    forms = {"mean_overlap": "{:.2f}", "density": "{:.2f}", "components": "{:,.0f}"}
    words = []
    for key, form in forms.items():
        numbers = [form.format(about[f"{key}_{part}"]) for part in (25, 50, 75)]
        words.append(f"{key.replace('_', ' ')} {'/'.join(numbers).replace('0.', '.')}")
    return f"quartiles: {', '.join(words)}"


def legend(topic: str, *, num: int = 2000, seed: int = 0, min_overlap: float = 0.1) -> str | None:
    """Say what the columns of a topic mean, where their names do not tell; the numbers are those given to `stats`."""
    words = _LEGENDS.get(topic)
    return None if words is None else words.format(num=num, seed=seed, least=min_overlap)


def connect(
    catalogs: Path = catalog.DEFAULT, dataset: str | None = None, run: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB with a view for each kind of catalog; every file is checked against its schema.

    With the folder of a training run there are those of `mumdata.visits.create_views`, too.
    """
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
    connection.execute(_MINED)
    for path in _files(catalogs, SEQUENCES, dataset):
        if path not in outdated:
            connection.execute(f"INSERT INTO mined VALUES ({', '.join('?' * 9)})", _made_by(path))
    connection.execute(_EXPOSURE_VIEW)
    if run is not None:
        files = visits.open_exposure(run)
        for file in files:
            catalog.read_footer(EXPOSURE, file.path)
        visits.create_views(connection, _source([file.path for file in files]), dataset)
    if not any_found:
        connection.close()
        where = f"{catalogs}/{dataset}" if dataset else f"{catalogs}"
        raise CatalogError(f"no catalog under {where}; run 'mumdata index NAME --root DIR'")
    return connection


def _made_by(path: Path) -> list[Any]:
    """Return a dataset's row of `mined` from the footers of its sequences and of the pairs that they were made from."""
    footer = catalog.read_footer(SEQUENCES, path)
    options = dict(footer.parameters)
    preset, _ = options.pop("preset", None), options.pop("rule", None)
    pairs = path.with_name(COVISIBILITY.file_name)
    digest = footer.inputs.get("covisibility")
    has_pairs = digest is not None and pairs.exists()
    source = catalog.read_footer(COVISIBILITY, pairs) if has_pairs else None
    return [
        path.parent.name,
        preset,
        footer.seed,
        options.get("split"),
        bool(options.get("allow_missing")),
        bool(options.get("allow_eval_scenes")),
        bool(options.get("keep_copies")),
        _in_words(options),
        _in_words(source.parameters) if source is not None and source.content_digest == digest else "",
    ]


def _in_words(options: dict[str, Any]) -> str:
    """Spell options as the command line does: `min-frames 24, allow-missing`."""
    words = []
    for name, value in sorted(options.items()):
        if value is None or value is False:
            continue
        flag = name.replace("_", "-")
        number = f"{value:g}" if isinstance(value, float) else str(value)
        words.append(flag if value is True else f"{flag} {number}")
    return ", ".join(words)


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
    # a name is a name: DuckDB would read patterns in it, and columns in that of a folder such as `seed=1`
    names = [re.sub(r"[*?\[]", r"[\g<0>]", str(path)).replace("'", "''") for path in paths]
    listed = ", ".join(f"'{name}'" for name in names)
    return f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"


def _empty(name: str, connection: duckdb.DuckDBPyConnection) -> str:
    table = SCHEMAS[name].columns.empty_table()
    connection.register(f"{name}_empty", table)
    return f'"{name}_empty"'
