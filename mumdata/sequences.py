"""`mumdata mine-sequences`: frames.parquet and tracks -> covisibility.parquet, sequences.parquet.

In: a dataset's frames, and its models where the rule is built on tracks. Out: every pair of frames with shared points,
the mined sequences with what they share, and in scenes.parquet how many each scene gave, or why none. The result is a
function of the frames, the tracks and the options alone.
"""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mumdata import catalog, engine, geometry, roots
from mumdata import covisibility as shared
from mumdata import datasets as known
from mumdata.errors import CatalogError, ConfigError, MumError, unknown
from mumdata.index import module_of
from mumdata.mining import RULES, USES, Options, Stream, explain_nothing, mine, parameters
from mumdata.schema import COVISIBILITY, FRAMES, SCENES, SEQUENCES

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
class _Group:
    # the rows of frames.parquet that form one (split, scene, stream)
    key: tuple[str | None, str, str | None]
    first: int
    paths: tuple[str, ...]
    status: tuple[str, ...]
    num_points: np.ndarray
    eval_of: str | None
    mined: bool
    skip_reason: str | None

    def usable(self, allow_missing: bool) -> np.ndarray:
        allowed = ("ok", "missing") if allow_missing else ("ok",)
        return np.array([status in allowed for status in self.status], bool)


@dataclass(frozen=True)
class _Pairs:
    # pairs of one stream by position, with the angles that the rules decide on
    pairs: shared.Pairs
    rotation_cos: np.ndarray
    axis_cos: np.ndarray


@dataclass(frozen=True)
class _Found:
    pairs: _Pairs | None
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
    groups, wanted_split = _groups(frames, split, allow_eval_scenes)
    if rule in _TRACK_RULES:
        pairs, pairs_digest = _covisibility(name, module, frames, groups, digest, folder, root, catalogs, workers)
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
    digest_out, changed = catalog.write(
        SEQUENCES,
        table,
        folder / SEQUENCES.file_name,
        inputs=inputs,
        seed=seed if "seed" in USES[rule] else None,
        parameters=made_by,
    )
    _update_scenes(folder, groups, found, {"frames": digest, "sequences": digest_out})
    reasons = Counter(result.reason for result in found if result.reason)
    if not table.num_rows:
        most = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        raise MumError(f"{name}: no scene yields a sequence ({most}); see 'mumdata stats scenes'")
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


def _groups(frames: pa.Table, split: str | None, allow_eval_scenes: bool) -> tuple[list[_Group], str | None]:
    names = ("split", "scene", "stream", "eval_of")
    columns = {key: frames.column(key).cast(pa.string()).to_pylist() for key in names}
    paths, status = frames.column("path").to_pylist(), frames.column("status").cast(pa.string()).to_pylist()
    num_points = frames.column("num_points").fill_null(0).to_numpy()
    splits = sorted({value for value in columns["split"] if value is not None})
    if split is None and "train" in splits:
        split = "train"
    if split is not None and split not in splits:
        have = f"it has {', '.join(splits)}" if splits else "it has no splits"
        raise ConfigError(f"split '{split}' is not in this dataset; {have}")
    keys = list(zip(columns["split"], columns["scene"], columns["stream"], strict=True))
    starts = [row for row in range(len(keys)) if row == 0 or keys[row] != keys[row - 1]]
    groups = []
    for start, end in zip(starts, [*starts[1:], len(keys)], strict=True):
        eval_of = next((value for value in columns["eval_of"][start:end] if value), None)
        reason = None
        if split is not None and keys[start][0] != split:
            reason = f"split {keys[start][0]} is not mined"
        elif eval_of and not allow_eval_scenes:
            reason = f"evaluation scene ({eval_of})"
        groups.append(
            _Group(
                keys[start],
                start,
                tuple(paths[start:end]),
                tuple(status[start:end]),
                num_points[start:end],
                eval_of,
                reason is None,
                reason,
            )
        )
    return groups, split


def _covisibility(
    name: str,
    module: known.Dataset,
    frames: pa.Table,
    groups: list[_Group],
    digest: str,
    folder: Path,
    root: Path | None,
    catalogs: Path,
    workers: int | None,
) -> tuple[list[_Pairs | None], str]:
    # pairs depend on the frames and tracks alone, so those of an earlier run are taken where the frames are the same
    path = folder / COVISIBILITY.file_name
    if path.exists() and catalog.read_footer(COVISIBILITY, path).inputs.get("frames") == digest:
        return _from_catalog(path, groups), catalog.read_footer(COVISIBILITY, path).content_digest
    root = roots.find_root(name, catalogs, root)
    by_scene: dict[tuple[str | None, str], list[int]] = {}
    for place, group in enumerate(groups):
        by_scene.setdefault(group.key[:2], []).append(place)
    scenes = {(scene.split, scene.scene): scene for scene in module.scenes(root)}
    tasks = []
    for key, places in by_scene.items():
        if key not in scenes:
            raise CatalogError(f"scene {key[1]} of {name} is gone from {root}; run 'mumdata index {name}' again")
        tasks.append((scenes[key], [groups[place] for place in places]))
    work = functools.partial(_read_pairs, name, module.SPEC.name, root)
    pairs: list[_Pairs | None] = [None] * len(groups)
    for places, result in zip(by_scene.values(), engine.each(work, tasks, workers, f"overlap of {name}"), strict=True):
        for place, found in zip(places, result, strict=True):
            pairs[place] = found
    table = _pair_table(name, groups, pairs)
    digest_out, _ = catalog.write(COVISIBILITY, table, path, inputs={"frames": digest})
    return pairs, digest_out


def _read_pairs(name: str, dataset: str, root: Path, task: tuple[known.Scene, list[_Group]]) -> list[_Pairs | None]:
    scene, groups = task
    streams = {stream.stream: stream for stream in known.load(dataset).read(root, scene)}
    return [_pairs_of(name, group, streams.get(group.key[2])) for group in groups]


def _pairs_of(name: str, group: _Group, stream: known.Stream | None) -> _Pairs | None:
    if stream is None or tuple(map(_nfc, stream.paths)) != tuple(map(_nfc, group.paths)):
        what = "/".join(part for part in group.key if part)
        raise CatalogError(f"{what} of {name} has changed since it was indexed; run 'mumdata index {name}' again")
    model, rows = stream.model, stream.rows
    if model is None or rows is None:
        return None
    position = np.full(len(model.image_ids), -1, np.int32)
    position[rows] = np.arange(len(rows), dtype=np.int32)
    image = position[model.image_of]
    kept = image >= 0
    pairs = shared.covisibility(len(rows), image[kept], model.point_of[kept])
    poses = model.cam_from_world[rows]
    return _Pairs(
        pairs,
        geometry.rotation_cos(poses, pairs.a, pairs.b),
        geometry.axis_cos(poses, pairs.a, pairs.b),
    )


def _nfc(path: str) -> str:
    return unicodedata.normalize("NFC", path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def _from_catalog(path: Path, groups: list[_Group]) -> list[_Pairs | None]:
    table = catalog.read(COVISIBILITY, path)
    columns = ("frame_a", "frame_b", "shared_points", "rotation_cos", "axis_cos")
    a, b, points, rotation, axis = (table.column(column).to_numpy() for column in columns)
    ends = np.searchsorted(a, [group.first for group in groups] + [np.iinfo(np.int32).max])
    found: list[_Pairs | None] = []
    for group, start, end in zip(groups, ends[:-1], ends[1:], strict=True):
        if start == end and not group.num_points.any():
            found.append(None)
            continue
        rows = slice(start, end)
        pairs = shared.Pairs(
            (a[rows] - group.first).astype(np.int32),
            (b[rows] - group.first).astype(np.int32),
            points[rows].astype(np.int32),
            group.num_points.astype(np.int32),
        )
        found.append(_Pairs(pairs, rotation[rows], axis[rows]))
    return found


def _mine(name: str, rule: str, options: Options, allow_missing: bool, task: tuple[_Group, _Pairs | None]) -> _Found:
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


def _pair_table(name: str, groups: list[_Group], pairs: list[_Pairs | None]) -> pa.Table:
    used = [(group, found) for group, found in zip(groups, pairs, strict=True) if found is not None]

    def joined(pieces: list[np.ndarray], kind: Any) -> np.ndarray:
        return np.concatenate([*pieces, np.zeros(0, kind)]).astype(kind, copy=False)

    counts = [len(found.pairs.a) for _, found in used]
    scores = [shared.overlaps(found.pairs) for _, found in used]

    def labels(values: list[str | None]) -> pa.Array:
        codes = np.repeat(np.arange(len(values), dtype=np.int32), counts)
        return pa.array(values, pa.string()).take(pa.array(codes))

    total = sum(counts)
    columns = {
        "dataset": pa.DictionaryArray.from_arrays(pa.array(np.zeros(total, np.int32)), pa.array([name])),
        "scene": labels([group.key[1] for group, _ in used]),
        "stream": labels([group.key[2] for group, _ in used]),
        "frame_a": joined([found.pairs.a + group.first for group, found in used], np.int32),
        "frame_b": joined([found.pairs.b + group.first for group, found in used], np.int32),
        "shared_points": joined([found.pairs.shared for _, found in used], np.int32),
        "overlap_ab": joined([ab for ab, _, _ in scores], np.float32),
        "overlap_ba": joined([ba for _, ba, _ in scores], np.float32),
        "iou": joined([iou for _, _, iou in scores], np.float32),
        "rotation_cos": joined([found.rotation_cos for _, found in used], np.float64),
        "axis_cos": joined([found.axis_cos for _, found in used], np.float64),
        "source": pa.DictionaryArray.from_arrays(pa.array(np.zeros(total, np.int32)), pa.array(["tracks"])),
    }
    return catalog.build(COVISIBILITY, columns)


def _sequence_table(name: str, rule: str, groups: list[_Group], found: list[_Found]) -> pa.Table:
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


def _update_scenes(folder: Path, groups: list[_Group], found: list[_Found], inputs: dict[str, str]) -> None:
    path = folder / SCENES.file_name
    rows = catalog.read(SCENES, path).to_pylist()
    by_key = {group.key: (group, result) for group, result in zip(groups, found, strict=True)}
    for row in rows:
        group, result = by_key.get((row["split"], row["scene"], row["stream"]), (None, None))
        if group is None or result is None:
            row |= {"num_sequences": 0, "why_no_sequence": "no frames"}
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
