"""`mumdata mine-sequences`: frames.parquet and tracks -> covisibility.parquet, sequences.parquet.

In: a dataset's frames, and its models where the rule is built on tracks. Out: every pair of frames with shared points,
the mined sequences with what they share, and in scenes.parquet how many each scene gave, or why none. The result is a
function of the frames, the tracks and the options alone.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mumdata import catalog, engine, geometry
from mumdata import covisibility as shared
from mumdata import datasets as known
from mumdata.errors import CatalogError, ConfigError, MumError, nearest, unknown
from mumdata.index import known_names, module_of
from mumdata.mining import RULES, USES, Options, Stream, explain_nothing, mine, parameters
from mumdata.pairs import Group, StreamPairs, covisible_pairs, groups_of
from mumdata.schema import FRAMES, SCENES, SEQUENCES

__all__ = ["PRESETS", "Mined", "mine_sequences"]

PRESETS = ("mumdata", "mum-paper")

# rules that are built on what frames share
_TRACK_RULES = ("chain-overlap", "chain-viewpoint")


@dataclass(frozen=True)
class Mined:
    """What a mining run found: counts for the summary."""

    name: str
    catalog: Path
    rule: str
    options: dict[str, Any]
    num_pairs: int | None
    num_sequences: int
    num_distinct: int
    num_scenes: int
    num_scenes_without: int
    reasons: dict[str, int]
    changed: bool


@dataclass(frozen=True)
class _Found:
    pairs: StreamPairs | None
    sequences: list[np.ndarray]
    links: list[np.ndarray | None]
    coherence: list[tuple[float | None, float | None, int | None]]
    reason: str | None


def mine_sequences(
    name: str,
    *,
    root: Path | None = None,
    catalogs: Path = catalog.DEFAULT,
    rule: str | None = None,
    preset: str = "mumdata",
    split: str | None = None,
    allow_eval_scenes: bool = False,
    allow_missing: bool = False,
    seed: int = 0,
    min_frames: int | None = None,
    max_frames: int | None = None,
    per_scene: int | None = None,
    min_shared: int | None = None,
    chunk_size: int | None = None,
    metric: str | None = None,
    angle: str | None = None,
    min_metric: float | None = None,
    min_angle_deg: float | None = None,
    max_angle_deg: float | None = None,
    workers: int | None = None,
) -> Mined:
    """Mine a dataset's sequences by its own rule, or by `rule`.

    `split` defaults to `train` where the dataset has splits. Evaluation scenes are left out unless
    `allow_eval_scenes`; frames whose files are missing unless `allow_missing` (to choose what to download). Options
    that are None take the preset's value, else the rule's. Raises CatalogError where the frames are missing or do not
    fit the disk any more, ConfigError for options, MumError where no scene yields a sequence.
    """
    folder = Path(catalogs, name)
    if not folder.is_dir() and (near := nearest(name, known_names(catalogs))):
        raise CatalogError(f"there is no catalog '{name}' under {catalogs}; did you mean '{near}'?")
    frames_path = folder / FRAMES.file_name
    frames = catalog.read(FRAMES, frames_path)
    digest = catalog.read_footer(FRAMES, frames_path).content_digest
    module = known.load(module_of(name, catalogs))
    rule = rule or module.SPEC.rule
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    given = {
        "min_frames": min_frames,
        "max_frames": max_frames,
        "per_scene": per_scene,
        "min_shared": min_shared,
        "chunk_size": chunk_size,
        "metric": metric,
        "angle": angle,
        "min_metric": min_metric,
        "min_angle_deg": min_angle_deg,
        "max_angle_deg": max_angle_deg,
    }
    options = _options(module.SPEC, rule, preset, seed, given)
    groups, wanted_split = groups_of(frames, split, allow_eval_scenes)
    if rule in _TRACK_RULES:
        pairs, pairs_digest = covisible_pairs(name, module, groups, digest, folder, root, catalogs, workers)
    else:
        pairs, pairs_digest = [None] * len(groups), None
    work = functools.partial(_mine, name, rule, options, allow_missing)
    found = list(engine.each(work, list(zip(groups, pairs, strict=True)), workers, f"mining {name}"))
    made_by: dict[str, Any] = {key: value for key, value in parameters(rule, options).items() if key != "seed"}
    made_by |= {"rule": rule, "split": wanted_split}
    if allow_missing:
        made_by["allow_missing"] = True
    if allow_eval_scenes:
        made_by["allow_eval_scenes"] = True
    inputs = {"frames": digest} | ({"covisibility": pairs_digest} if pairs_digest else {})
    table = _sequence_table(name, rule, groups, found)
    reasons = Counter(result.reason for result in found if result.reason)
    if not table.num_rows:
        # what an earlier run mined from these frames stays; without one, scenes.parquet tells why there is nothing
        if not _mined_before(folder, digest):
            _update_scenes(folder, groups, found, {"frames": digest})
        most = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3)) or "no stream has frames"
        raise MumError(f"{name}: no scene yields a sequence ({most}); see 'mumdata stats scenes'")
    digest_out, changed = catalog.write(
        SEQUENCES,
        table,
        folder / SEQUENCES.file_name,
        inputs=inputs,
        seed=seed if "seed" in USES[rule] else None,
        parameters=made_by,
    )
    _update_scenes(folder, groups, found, {"frames": digest, "sequences": digest_out})
    distinct = sum(len({sequence.tobytes() for sequence in result.sequences}) for result in found)
    return Mined(
        name,
        folder,
        rule,
        made_by,
        sum(len(pair.pairs.a) for pair in pairs if pair is not None) if rule in _TRACK_RULES else None,
        table.num_rows,
        distinct,
        len(groups),
        sum(not result.sequences for result in found),
        dict(reasons.most_common()),
        changed,
    )


def _options(spec: known.Spec, rule: str, preset: str, seed: int, given: dict[str, Any]) -> Options:
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    values = {key: value for key, value in given.items() if value is not None}
    for key in values:
        if key not in USES[rule]:
            flag = "--" + key.replace("_", "-")
            raise ConfigError(f"{flag} has no meaning for the rule {rule}; it takes {', '.join(USES[rule]) or 'none'}")
    if rule == spec.rule:
        values = {**spec.presets.get(preset, {}), **values}
    return Options(seed=seed, **values)


def _mined_before(folder: Path, frames_digest: str) -> bool:
    try:
        return catalog.read_footer(SEQUENCES, folder / SEQUENCES.file_name).inputs.get("frames") == frames_digest
    except CatalogError:
        return False


def _mine(
    name: str, rule: str, options: Options, allow_missing: bool, task: tuple[Group, StreamPairs | None]
) -> _Found:
    group, pairs = task
    if not group.mined:
        return _Found(pairs, [], [], [], group.skip_reason)
    stream = Stream(
        key=(name, *group.key),
        usable=group.usable(allow_missing),
        pairs=pairs.pairs if pairs else None,
        rotation_cos=pairs.rotation_cos if pairs else None,
        axis_cos=pairs.axis_cos if pairs else None,
    )
    if rule in _TRACK_RULES and pairs is None:
        return _Found(None, [], [], [], "no model, so nothing is known of what its frames share")
    sequences = mine(rule, stream, options)
    if not sequences:
        bad = Counter(status for status, use in zip(group.status, stream.usable, strict=True) if not use)
        states = ", ".join(f"{count} {status}" for status, count in sorted(bad.items()))
        why = explain_nothing(stream, options, rule)
        return _Found(pairs, [], [], [], f"{why} ({states})" if states else why)
    if pairs is None:
        return _Found(None, sequences, [None] * len(sequences), [(None, None, None)] * len(sequences), None)
    graph = shared.neighbours(pairs.pairs)
    distinct = {sequence.tobytes(): sequence for sequence in sequences}
    links = {key: shared.links(sequence, graph) for key, sequence in distinct.items()}
    whole = shared.coherences(sequences, graph)
    coherence: list[tuple[float | None, float | None, int | None]] = [
        (each.mean_overlap, each.density, each.components) for each in whole
    ]
    return _Found(pairs, sequences, [links[sequence.tobytes()] for sequence in sequences], coherence, None)


def _sequence_table(name: str, rule: str, groups: list[Group], found: list[_Found]) -> pa.Table:
    columns: dict[str, list[Any]] = {column.name: [] for column in SEQUENCES.columns}
    for group, result in zip(groups, found, strict=True):
        for sequence, links, whole in zip(result.sequences, result.links, result.coherence, strict=True):
            columns["split"].append(group.key[0])
            columns["scene"].append(group.key[1])
            columns["stream"].append(group.key[2])
            columns["frames"].append((sequence + np.int32(group.first)).astype(np.int32))
            columns["num_frames"].append(len(sequence))
            columns["links"].append(None if links is None else links.astype(np.float32))
            for key, value in zip(("mean_overlap", "density", "components"), whole, strict=True):
                columns[key].append(value)
    num = len(columns["frames"])
    columns |= {"dataset": [name] * num, "sequence": list(range(num)), "rule": [rule] * num}
    return catalog.build(SEQUENCES, columns)


def _update_scenes(folder: Path, groups: list[Group], found: list[_Found], inputs: dict[str, str]) -> None:
    path = folder / SCENES.file_name
    rows = catalog.read(SCENES, path).to_pylist()
    by_key = {group.key: (group, result) for group, result in zip(groups, found, strict=True)}
    for row in rows:
        group, result = by_key.get((row["split"], row["scene"], row["stream"]), (None, None))
        if group is None or result is None:
            row |= {"num_sequences": 0, "why_no_sequence": None if row["detail"] else "no frames"}
            continue
        row |= {"num_sequences": len(result.sequences), "why_no_sequence": result.reason}
        if result.pairs is not None:
            ab, ba, _ = shared.overlaps(result.pairs.pairs)
            row |= {
                "num_pairs": len(ab),
                "overlap_histogram": np.histogram(np.concatenate([ab, ba]), 20, (0, 1))[0].tolist(),
                "rotation_histogram": _angle_histogram(result.pairs.rotation_cos),
                "axis_histogram": _angle_histogram(result.pairs.axis_cos),
            }
    columns = {name: [row[name] for row in rows] for name in SCENES.columns.names}
    catalog.write(SCENES, catalog.build(SCENES, columns), path, inputs=inputs)


def _angle_histogram(cosines: np.ndarray) -> list[int]:
    # 20 bins of 9 degrees; the edges are cosines, so that no arccos decides
    edges = np.array([geometry.cos_deg(9.0 * step) for step in range(20, -1, -1)])
    counts = np.histogram(np.clip(cosines, -1, 1), edges)[0]
    return [int(count) for count in counts[::-1]]
