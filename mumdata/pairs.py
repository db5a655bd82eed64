"""What the frames of a dataset share, stream by stream, as mining needs it.

In: frames.parquet, and the COLMAP models or an earlier covisibility.parquet. Out: the pairs of each stream with their
angles, and covisibility.parquet: it depends on the frames and tracks alone, never on the options of a rule.
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mumdata import catalog, engine, geometry, roots
from mumdata import covisibility as shared
from mumdata import datasets as known
from mumdata.errors import CatalogError, ConfigError
from mumdata.schema import COVISIBILITY
from mumdata.tree import Tree

__all__ = ["Group", "StreamPairs", "covisible_pairs", "groups_of"]


@dataclass(frozen=True)
class Group:
    """The rows of frames.parquet that form one (split, scene, stream), and whether they are to be mined."""

    key: tuple[str | None, str, str | None]
    first: int
    paths: tuple[str, ...]
    status: tuple[str, ...]
    num_points: np.ndarray
    left_out: np.ndarray  # bool [n]: copies of earlier frames, and frames that a benchmark evaluates on
    mined: bool
    skip_reason: str | None

    def usable(self, allow_missing: bool) -> np.ndarray:
        """Tell which frames a sequence may hold, bool [n]: those whose file is whole, or also those that are absent."""
        allowed = ("ok", "missing") if allow_missing else ("ok",)
        return np.array([status in allowed for status in self.status], bool) & ~self.left_out


@dataclass(frozen=True)
class StreamPairs:
    """The pairs of one stream by position, with the cosines that the rules decide on."""

    pairs: shared.Pairs
    rotation_cos: np.ndarray
    axis_cos: np.ndarray


def groups_of(frames: pa.Table, split: str | None, allow_eval_scenes: bool) -> tuple[list[Group], str | None]:
    """Group the frames by (split, scene, stream), in file order; return them and the split that is mined.

    `split` None means `train` where there is one, `all` every split and scenes without one. Raises ConfigError for a
    split that the dataset does not have.
    """
    names = ("split", "scene", "stream", "eval_of")
    columns = {key: frames.column(key).cast(pa.string()).to_pylist() for key in names}
    paths, status = frames.column("path").to_pylist(), frames.column("status").cast(pa.string()).to_pylist()
    num_points = frames.column("num_points").fill_null(0).to_numpy()
    copies = frames.column("duplicate_of").is_valid().to_numpy()
    evaluated = frames.column("eval_of").is_valid().to_numpy()
    splits = sorted({value for value in columns["split"] if value is not None})
    if split is None and "train" in splits:
        split = "train"
    if split is not None and split not in (*splits, "all"):
        have = f"it has {', '.join(splits)}" if splits else "it has no splits"
        raise ConfigError(f"split '{split}' is not in this dataset; {have}")
    keys = list(zip(columns["split"], columns["scene"], columns["stream"], strict=True))
    starts = [row for row in range(len(keys)) if row == 0 or keys[row] != keys[row - 1]]
    groups = []
    for start, end in zip(starts, [*starts[1:], len(keys)], strict=True):
        # a benchmark may evaluate on a whole scene, or on some frames of it
        eval_of = columns["eval_of"][start] if evaluated[start:end].all() else None
        left_out = copies[start:end] | (evaluated[start:end] & (not allow_eval_scenes))
        reason = None
        if split not in (None, "all", keys[start][0]):
            reason = f"split {keys[start][0]} is not mined" if keys[start][0] else "it has no split; see --split all"
        elif eval_of and not allow_eval_scenes:
            reason = f"evaluation scene ({eval_of})"
        groups.append(
            Group(
                keys[start],
                start,
                tuple(paths[start:end]),
                tuple(status[start:end]),
                num_points[start:end],
                left_out,
                reason is None,
                reason,
            )
        )
    return groups, split


def covisible_pairs(
    name: str,
    module: known.Dataset,
    groups: list[Group],
    digest: str,
    folder: Path,
    root: Path | None,
    catalogs: Path,
    workers: int | None,
) -> tuple[list[StreamPairs | None], str]:
    """Return the pairs of each group (None where nothing is known of them) and the digest of covisibility.parquet.

    An earlier file made of the same frames is taken as it is; else the models are read and the file is written.
    Raises CatalogError where the files on disk are not those that were indexed.
    """
    # pairs depend on the frames and tracks alone, so those of an earlier run are taken where the frames are the same
    path = folder / COVISIBILITY.file_name
    try:
        footer = catalog.read_footer(COVISIBILITY, path)
        if footer.inputs.get("frames") == digest:
            return _from_catalog(path, groups), footer.content_digest
    except CatalogError:
        pass  # none yet, or a broken one: the models tell
    root = roots.find_root(name, catalogs, root)
    by_scene: dict[tuple[str | None, str], list[int]] = {}
    for place, group in enumerate(groups):
        by_scene.setdefault(group.key[:2], []).append(place)
    tree = Tree(root, module.SPEC.archives)
    scenes = {(scene.split, scene.scene): scene for scene in module.scenes(tree)}
    tasks = []
    for key, places in by_scene.items():
        if key not in scenes:
            raise CatalogError(f"scene {key[1]} of {name} is gone from {root}; run 'mumdata index {name}' again")
        tasks.append((scenes[key], [groups[place] for place in places]))
    work = functools.partial(_read_pairs, name, module.SPEC.name)
    pairs: list[StreamPairs | None] = [None] * len(groups)
    found_pairs = engine.each(work, tasks, workers, f"overlap of {name}", shared=tree)
    for places, result in zip(by_scene.values(), found_pairs, strict=True):
        for place, found in zip(places, result, strict=True):
            pairs[place] = found
    table = _pair_table(name, groups, pairs)
    digest_out, _ = catalog.write(COVISIBILITY, table, path, inputs={"frames": digest})
    return pairs, digest_out


def _read_pairs(name: str, dataset: str, tree: Tree, task: tuple[known.Scene, list[Group]]) -> list[StreamPairs | None]:
    scene, groups = task
    streams = {stream.stream: stream for stream in known.load(dataset).read(tree, scene)}
    return [_pairs_of(name, group, streams.get(group.key[2])) for group in groups]


def _pairs_of(name: str, group: Group, stream: known.Stream | None) -> StreamPairs | None:
    if stream is None or not _same_paths(stream.paths, group.paths):
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
    return StreamPairs(
        pairs,
        geometry.rotation_cos(poses, pairs.a, pairs.b),
        geometry.axis_cos(poses, pairs.a, pairs.b),
    )


def _same_paths(paths: tuple[str, ...], indexed: tuple[str, ...]) -> bool:
    # a member of an archive is indexed under its name there, which is the end of its path in the tree; an archive in an
    # archive stands for a folder
    if len(paths) != len(indexed):
        return False
    pairs = zip(map(_nfc, paths), map(_nfc, indexed), strict=True)
    return all(path == known or path.endswith("/" + known.replace(".tar/", "/")) for path, known in pairs)


def _nfc(path: str) -> str:
    return unicodedata.normalize("NFC", path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def _from_catalog(path: Path, groups: list[Group]) -> list[StreamPairs | None]:
    table = catalog.read(COVISIBILITY, path)
    columns = ("frame_a", "frame_b", "shared_points", "rotation_cos", "axis_cos")
    a, b, points, rotation, axis = (table.column(column).to_numpy() for column in columns)
    ends = np.searchsorted(a, [group.first for group in groups] + [np.iinfo(np.int32).max])
    found: list[StreamPairs | None] = []
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
        found.append(StreamPairs(pairs, rotation[rows], axis[rows]))
    return found


def _pair_table(name: str, groups: list[Group], pairs: list[StreamPairs | None]) -> pa.Table:
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
