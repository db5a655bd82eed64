"""`mumdata mine-sequences`: frames.parquet and tracks -> covisibility.parquet, sequences.parquet.

In: a dataset's frames, and what tells which of them see the same. Out: every pair of frames that share something, the
mined sequences with what they share, and in scenes.parquet how many each scene gave, or why none. The result is a
function of the frames, the source and the options alone. Scenes go through one by one, so that memory is bounded by the
largest of them; an interrupted run goes on where it was, and scenes that have not changed are not done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import mumdata
from mumdata import catalog, mined, roots
from mumdata import datasets as known
from mumdata import engine as engines
from mumdata.covisibility import memory_needed
from mumdata.errors import CatalogError, ConfigError, MumError, nearest, unknown
from mumdata.files import remove_abandoned
from mumdata.index import check_name, known_names, module_of
from mumdata.mine import Job, StreamTask, Task, mine_scene
from mumdata.mined import Kept, Key, Result
from mumdata.mining import RULES, Options, parameters
from mumdata.pair_lists import ListedPairs, listed_pairs
from mumdata.pairs import bounds
from mumdata.ranges import Range, whole
from mumdata.scan import printable
from mumdata.schema import COVISIBILITY, FRAMES, SCENES, SEQUENCES
from mumdata.sources import SOURCES, SourceOptions
from mumdata.tree import Tree

__all__ = ["PRESETS", "Mined", "mine_sequences"]

PRESETS = ("mumdata", "mum-paper", "mum-released")

# an interrupted run goes on from parts: not a file a scene, which network file systems would suffer from
_PART_SCENES = 1000
_PART_ROWS = 1 << 22


@dataclass(frozen=True)
class Mined:
    """What a mining run found: counts for the summary. Streams are (split, scene, stream)."""

    name: str
    catalog: Path
    rule: str
    options: dict[str, Any]  # what the footer holds
    source: str | None
    source_options: dict[str, Any]
    num_pairs: int | None
    num_sequences: int
    num_distinct: int
    num_scenes: int
    num_scenes_without: int
    reasons: dict[str, int]
    changed: bool
    num_usable: int = 0
    num_covered: int = 0
    num_copies: int = 0
    num_kept: int = 0  # streams that were taken from an earlier run as they were
    bytes_read: int = 0
    bytes_total: int = 0
    problems: dict[str, str] = field(default_factory=dict)  # stream -> what went wrong in finding what its frames share
    notes: tuple[str, ...] = ()


def mine_sequences(
    name: str,
    *,
    root: Path | None = None,
    catalogs: Path = catalog.DEFAULT,
    rule: str | None = None,
    preset: str = "mumdata",
    source: str | None = None,
    from_dir: Path | None = None,
    window: int | None = None,
    grid: int | None = None,
    tolerance: float | None = None,
    check_tracks: bool = False,
    again: bool = False,
    pairs: Path | None = None,
    split: str | None = None,
    allow_eval_scenes: bool = False,
    allow_missing: bool = False,
    keep_copies: bool | None = None,
    seed: int = 0,
    min_frames: int | None = None,
    max_frames: int | None = None,
    per_scene: int | str | None = None,
    cover: bool | None = None,
    min_shared: int | None = None,
    overlap: tuple[float, float] | None = None,
    temperature: float | None = None,
    min_mean_overlap: float | None = None,
    anchor_overlap: float | None = None,
    metric: str | None = None,
    angle: str | None = None,
    min_metric: float | None = None,
    min_angle_deg: float | None = None,
    max_angle_deg: float | None = None,
    chunk_size: int | None = None,
    chunk_stride: int | None = None,
    chunk_overlap: int | None = None,
    last_chunk: str | None = None,
    memory_gb: float | None = None,
    workers: int | None = None,
    engine: str = "local",
    address: str | None = None,
) -> Mined:
    """Mine a dataset's sequences by its own rule, or by `rule`.

    `source` says what tells which frames see the same: `tracks` (of COLMAP models), `depth`, `mesh`, or matrices of
    other tools in `from_dir`: `d2net`, `dkm`. It defaults to what covisibility.parquet was made from, else to tracks
    where the rule needs pairs; rules that need none (chunks, whole scenes) compute them only where `source` is given,
    and their sequences then carry overlaps, too. A covisibility.parquet of the same frames is taken as it is, without
    touching models, unless `again`. `window`, `grid` and `tolerance` are for depth and mesh, `check_tracks` compares
    the files of a model keypoint by keypoint, `pairs` is a list of pairs for the rule `pair`.

    `split` defaults to `train` where the dataset has splits. Evaluation scenes are left out unless
    `allow_eval_scenes`; frames whose files are missing unless `allow_missing` (to choose what to download); copies of
    a photo unless `keep_copies`. `overlap` is a band that every link must lie in. Options that are None take the
    preset's value, else the rule's. `memory_gb` bounds what the workers use together (default: half of the machine's
    memory). `engine` "ray" runs the scenes on the Ray cluster at `address`, whose nodes must see the dataset and the
    catalogs under the same paths.

    Raises CatalogError where the frames are missing or do not fit the disk any more, ConfigError for options, MumError
    where no scene yields a sequence.
    """
    check_name(name)
    folder = Path(catalogs, name)
    if not folder.is_dir() and (near := nearest(name, known_names(catalogs))):
        raise CatalogError(f"there is no catalog '{name}' under {catalogs}; did you mean '{near}'?")
    frames_path = folder / FRAMES.file_name
    digest = catalog.read_footer(FRAMES, frames_path).content_digest
    module = known.load(module_of(name, catalogs))
    given: dict[str, Any] = {
        "min_frames": min_frames,
        "max_frames": max_frames,
        "per_scene": per_scene,
        "cover": cover,
        "min_shared": min_shared,
        "min_overlap": overlap[0] if overlap else None,
        "max_overlap": overlap[1] if overlap else None,
        "temperature": temperature,
        "min_mean_overlap": min_mean_overlap,
        "anchor_overlap": anchor_overlap,
        "metric": metric,
        "angle": angle,
        "min_metric": min_metric,
        "min_angle_deg": min_angle_deg,
        "max_angle_deg": max_angle_deg,
        "chunk_size": chunk_size,
        "chunk_stride": chunk_stride,
        "chunk_overlap": chunk_overlap,
        "last_chunk": last_chunk,
    }
    rule, options, from_preset = _options(module.SPEC, rule, preset, seed, given)
    if memory_gb is not None and not memory_gb > 0:
        raise ConfigError(f"memory_gb is {memory_gb}; it must be positive")
    if keep_copies is None:
        keep_copies = bool(from_preset.get("keep_copies", False))
    streams = _Streams(folder, digest, split, allow_eval_scenes)
    origin = _origin(name, folder, digest, rule, source, from_dir, window, grid, tolerance, check_tracks, again, pairs)
    listed = listed_pairs(pairs, *streams.paths(frames_path)) if pairs is not None else None
    notes: list[str] = []
    made_by: dict[str, Any] = {key: value for key, value in parameters(rule, options).items() if key != "seed"}
    made_by |= {"rule": rule, "split": streams.split, "preset": preset if from_preset is not _NO_PRESET else None}
    for key, value in (
        ("allow_missing", allow_missing),
        ("allow_eval_scenes", allow_eval_scenes),
        ("keep_copies", keep_copies),
    ):
        if value:
            made_by[key] = True
    if listed is not None:
        # a list is taken as it is; only what frames share, where it is known, can speak against a pair
        decides = _LIST_OPTIONS if origin.source is not None else ()
        if origin.source is None and any(given[key] is not None for key in _LIST_OPTIONS):
            raise ConfigError("with --pairs, --overlap and --min-shared need --from: what do the frames share?")
        made_by = {key: value for key, value in made_by.items() if key not in RULES[rule].uses or key in decides}
        made_by["pairs"] = listed.digest
    if preset != PRESETS[0] and from_preset is _NO_PRESET:
        notes.append(f"the preset {preset} is for another rule than {rule}, and is not used")
    run = _Run(
        name=name,
        folder=folder,
        digest=digest,
        made_by=made_by,
        seed=seed if "seed" in RULES[rule].uses else None,
        streams=streams,
        origin=origin,
    )
    run.notes += notes
    if not again and (before := run.unchanged()) is not None:
        return before
    root = roots.find_root(name, catalogs, root) if origin.reads else None
    job = Job(
        name=name,
        dataset=module.SPEC.name,
        frames=whole(frames_path),
        rule=rule,
        options=options,
        source=origin.source,
        source_options=origin.options,
        tree=Tree(root, module.SPEC.archives) if root is not None else None,
        write_pairs=origin.reads,
        keep_copies=keep_copies,
        allow_missing=allow_missing,
        allow_eval_scenes=allow_eval_scenes,
    )
    remove_abandoned(folder)
    remove_abandoned(run.work)
    tasks = _tasks(job, module, run, None if listed is None else listed.of_group, again or check_tracks)
    if listed is not None:
        run.notes += _about_list(listed)
    budget = (memory_gb if memory_gb is not None else _physical_gb() / 2) * 1e9
    costs = None
    if origin.source is not None:
        of_stream = streams.costs(frames_path)
        costs = [max(of_stream[stream.key] for stream in task.streams) for task in tasks]
    if costs is not None and max(costs, default=0) > budget:
        run.notes.append(
            f"the largest scene needs about {max(costs) / 1e9:.3g} GB, more than the {budget / 1e9:.3g} GB allowed: "
            "it is done alone"
        )
    results = engines.each(
        mine_scene,
        tasks,
        workers,
        f"mining {name}",
        shared=job,
        brief=True,
        engine=engine,
        address=address,
        costs=costs,
        budget=budget,
    )
    return run.collect(results)


def _about_list(listed: ListedPairs) -> list[str]:
    examples = f" ({', '.join(listed.examples)})" if listed.examples else ""
    counts = {
        f"name images that are not in the catalog{examples}": listed.num_unmatched,
        "are of different scenes or streams": listed.num_crossing,
        "name an image twice": listed.num_twins,
    }
    return [f"of {listed.num_listed:,} listed pairs {num:,} {what}" for what, num in counts.items() if num]


def _physical_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


# ---- options


_NO_PRESET: dict[str, Any] = {}
_LIST_OPTIONS = ("min_shared", "min_overlap", "max_overlap")
_FLAGS = {"min_overlap": "overlap", "max_overlap": "overlap"}


def _options(
    spec: known.Spec, rule: str | None, preset: str, seed: int, given: dict[str, Any]
) -> tuple[str, Options, dict[str, Any]]:
    """Return the rule, its options, and what the preset says of it: presets are for the rule that they name."""
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    chosen = dict(spec.presets.get(preset, {}))
    own = str(chosen.pop("rule", spec.rule))
    rule = rule or own
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    values = {key: value for key, value in given.items() if value is not None}
    uses = RULES[rule].uses
    for key in values:
        if key not in uses:
            takes = ", ".join(sorted({_FLAGS.get(use, use) for use in uses})).replace("_", "-") or "none"
            flag = _FLAGS.get(key, key).replace("_", "-")
            raise ConfigError(f"--{flag} has no meaning for the rule {rule}; it takes {takes}")
    if rule != own:
        chosen = _NO_PRESET
    merged = {key: value for key, value in chosen.items() if key != "keep_copies"} | values
    return rule, Options(seed=seed, **merged), chosen


# ---- where pairs come from


@dataclass(frozen=True)
class _Origin:
    # `reads` the dataset's files; else `file` is a covisibility.parquet of the same frames, or there are no pairs
    source: str | None
    options: SourceOptions
    reads: bool
    file: Path | None
    digest: str | None  # of `file`
    has_pairs: bool = False  # there is a covisibility.parquet of the same frames, whatever its source

    @property
    def parameters(self) -> dict[str, Any]:
        if self.source is None:
            return {}
        used = {key: getattr(self.options, key) for key in SOURCES[self.source].uses}
        return {"source": self.source, **{key: value for key, value in used.items() if key != "files"}}


def _origin(
    name: str,
    folder: Path,
    digest: str,
    rule: str,
    source: str | None,
    from_dir: Path | None,
    window: int | None,
    grid: int | None,
    tolerance: float | None,
    check_tracks: bool,
    again: bool,
    pairs: Path | None,
) -> _Origin:
    if source is not None and source not in SOURCES:
        raise unknown("--from", source, SOURCES)
    if pairs is not None and rule != "pair":
        raise ConfigError("--pairs is a list for --rule pair")
    if pairs is not None and not Path(pairs).is_file():
        raise ConfigError(f"there is no file {pairs}")
    path = folder / COVISIBILITY.file_name
    try:
        footer = catalog.read_footer(COVISIBILITY, path)
        before = dict(footer.parameters)  # how pairs were found last time, of these frames or of others
        there = before if footer.inputs.get("frames") == digest else None
    except CatalogError:
        footer, before, there = None, {}, None  # none yet, or a broken one: it is made anew
    if source is None and check_tracks:
        source = "tracks"
    if source is None and RULES[rule].needs == "pairs" and pairs is None:
        source = str(before.get("source", "tracks"))
    if source is None:
        for flag, value in (
            ("--window", window),
            ("--grid", grid),
            ("--tolerance", tolerance),
            ("--from-dir", from_dir),
            ("--check-tracks", check_tracks),
        ):
            if value:
                raise ConfigError(f"{flag} needs --from")
        return _Origin(None, SourceOptions(), False, None, None)
    uses = SOURCES[source].uses
    for flag, key, value in (
        ("--window", "window", window),
        ("--grid", "grid", grid),
        ("--tolerance", "tolerance", tolerance),
        ("--from-dir", "files", from_dir),
    ):
        if value is not None and key not in uses:
            raise ConfigError(f"{flag} has no meaning for --from {source}")
    if check_tracks and source != "tracks":
        raise ConfigError(f"--check-tracks has no meaning for --from {source}")
    values = {
        "window": window,
        "grid": grid,
        "tolerance": tolerance,
        "files": from_dir,
        "check_tracks": check_tracks or None,
    }
    wanted: dict[str, Any] = {key: value for key, value in values.items() if value is not None}
    if before.get("source") == source:
        wanted = {key: value for key, value in before.items() if key in uses} | wanted
    options = SourceOptions(**wanted)
    asked = _Origin(source, options, True, None, None, there is not None)
    if (
        there is not None
        and footer is not None
        and not again
        and not check_tracks
        and from_dir is None
        and asked.parameters == there
    ):
        return _Origin(source, options, False, path, footer.content_digest, True)
    if "files" in uses and options.files is None:
        raise ConfigError(f"--from {source} needs --from-dir, the folder of the matrices")
    if options.files is not None and not Path(options.files).exists():
        raise ConfigError(f"there is no folder {options.files}")
    return asked


# ---- the streams of a dataset


class _Streams:
    # the (split, scene, stream)s of a catalog in the order of their frames, and which of them are mined

    def __init__(self, folder: Path, digest: str, split: str | None, allow_eval_scenes: bool) -> None:
        path = folder / SCENES.file_name
        if catalog.read_footer(SCENES, path).inputs.get("frames") != digest:
            raise CatalogError(f"{path} was made from other frames; run 'mumdata index {folder.name}' again")
        names = ["split", "scene", "stream", "first_frame_id", "num_frames"]
        table = catalog.read(SCENES, path, names)
        columns = [table.column(one).cast(pa.string()).to_pylist() for one in names[:3]]
        first = table.column("first_frame_id").fill_null(-1).to_numpy()
        num = table.column("num_frames").to_numpy()
        order = np.argsort(first, kind="stable")
        order = order[(first[order] >= 0) & (num[order] > 0)]
        keys = list(zip(*columns, strict=True))
        self.keys: list[Key] = [keys[row] for row in order.tolist()]
        self.first, self.num = first[order].astype(np.int64), num[order].astype(np.int64)
        self.split = self._chosen(split)

    def _chosen(self, split: str | None) -> str | None:
        splits = sorted({key[0] for key in self.keys if key[0] is not None})
        if split is None and "train" in splits:
            return "train"
        if split is not None and split not in (*splits, "all"):
            have = f"it has {', '.join(splits)}" if splits else "it has no splits"
            raise ConfigError(f"split '{split}' is not in this dataset; {have}")
        return split

    def skip(self, key: Key) -> str | None:
        if self.split in (None, "all", key[0]):
            return None
        return f"split {key[0]} is not mined" if key[0] else "it has no split; see --split all"

    def paths(self, frames: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Return the paths of all frames, the stream of each, and where streams begin."""
        paths = catalog.read(FRAMES, frames, ["path"]).column(0).to_pylist()
        return paths, np.repeat(np.arange(len(self.num)), self.num), self.first

    def costs(self, frames: Path) -> dict[Key, int]:
        """Estimate the bytes that finding the pairs of each stream takes."""
        points = catalog.read(FRAMES, frames, ["num_points"]).column(0).fill_null(0).to_numpy()
        before = np.concatenate([[0], np.cumsum(points, dtype=np.int64)])
        observations = before[self.first + self.num] - before[self.first]
        return {
            key: memory_needed(num, seen, num * (num - 1) // 2)
            for key, num, seen in zip(self.keys, self.num.tolist(), observations.tolist(), strict=True)
        }


def _tasks(job: Job, module: known.Dataset, run: _Run, listed: dict[int, np.ndarray] | None, again: bool) -> list[Task]:
    streams, origin = run.streams, run.origin
    kept: dict[Key, Kept] = {} if again else mined.earlier(run.folder, run.work, run.made_by_texts)
    pairs: dict[int, Range] = {}
    if origin.file is not None:
        begins = bounds(origin.file, streams.first).tolist()
        stamp = origin.file.stat().st_mtime_ns
        pairs = {
            place: Range(str(origin.file), stamp, begins[place], begins[place + 1] - begins[place])
            for place in range(len(streams.keys))
        }
    scenes: dict[tuple[str | None, str], known.Scene] = {}
    if job.tree is not None:
        scenes = {(one.split, printable(one.scene)): one for one in module.scenes(job.tree)}
    tasks: list[Task] = []
    waiting: list[StreamTask] = []
    for place, key in enumerate(streams.keys):
        if waiting and waiting[-1].key[:2] != key[:2]:
            tasks.append(_task(job, scenes, waiting))
            waiting = []
        waiting.append(
            StreamTask(
                key,
                int(streams.first[place]),
                int(streams.num[place]),
                streams.skip(key),
                pairs.get(place),
                kept.get(key),
                None if listed is None else listed.get(place, np.empty((0, 2), np.int32)),
            )
        )
    return [*tasks, _task(job, scenes, waiting)] if waiting else tasks


def _task(job: Job, scenes: dict[tuple[str | None, str], known.Scene], streams: list[StreamTask]) -> Task:
    key = streams[0].key[:2]
    if job.tree is None:
        return Task(None, tuple(streams))
    if key not in scenes:
        root = job.tree.root
        raise CatalogError(f"scene {key[1]} of {job.name} is gone from {root}; run 'mumdata index {job.name}' again")
    return Task(scenes[key], tuple(streams))


# ---- a run


class _Run:
    # takes the results of streams in their order: rows go to disk, a few values a stream stay

    def __init__(
        self,
        *,
        name: str,
        folder: Path,
        digest: str,
        made_by: dict[str, Any],
        seed: int | None,
        streams: _Streams,
        origin: _Origin,
    ) -> None:
        self.name, self.folder, self.digest, self.made_by, self.seed = name, folder, digest, made_by, seed
        self.streams, self.origin = streams, origin
        self.work = folder / ".mine"
        self.notes: list[str] = []

    @property
    def made_by_texts(self) -> dict[str, str | None]:
        """What earlier results must have been made by to be taken again."""
        pairs = None
        if self.origin.source is not None:
            files = _stamps(self.origin.options.files) if self.origin.options.files else None
            pairs = json.dumps([mumdata.__version__, self.origin.parameters, files], sort_keys=True)
        sequences = json.dumps([mumdata.__version__, self.seed, self.made_by], sort_keys=True)
        return {"pairs": pairs, "sequences": sequences}

    def unchanged(self) -> Mined | None:
        """Return what the catalogs hold where nothing that they depend on has changed since they were made."""
        if self.origin.reads:
            return None
        try:
            footer = catalog.read_footer(SEQUENCES, self.folder / SEQUENCES.file_name)
            scenes = catalog.read_footer(SCENES, self.folder / SCENES.file_name)
        except CatalogError:
            return None
        record = mined.read_record(self.work / "streams.parquet")
        if (
            record is None
            or (footer.inputs, footer.seed, footer.parameters)
            != (self._inputs(self.origin.digest), self.seed, self.made_by)
            or footer.tool_version != mumdata.__version__
            or scenes.inputs.get("sequences") != footer.content_digest
            or record[1].get("digest") != footer.content_digest
            or catalog.read(SCENES, self.folder / SCENES.file_name, ["num_sequences"]).column(0).null_count
        ):
            return None
        results = [
            Result((row["split"], row["scene"], row["stream"]), "", 0, mined.summary_of(row), None, None, False)
            for row in record[0]
        ]
        return self._summary(results, changed=False)

    def collect(self, found: Any) -> Mined:
        """Write the catalogs from results that come one after another."""
        results: list[Result] = []
        unsaved: list[Result] = []
        num_rows = num_sequences = num_pairs = 0
        texts = self.made_by_texts
        pairs = catalog.Writer(COVISIBILITY, self.folder / COVISIBILITY.file_name)
        sequences = catalog.Writer(SEQUENCES, self.folder / SEQUENCES.file_name)
        with pairs, sequences:
            for some in found:
                for result in some:
                    if result.pairs is not None and result.pairs.num_rows:
                        pairs.add(result.pairs)
                        num_pairs += result.pairs.num_rows
                    if result.sequences is not None and result.sequences.num_rows:
                        sequences.add(_numbered(result.sequences, num_sequences))
                        num_sequences += result.sequences.num_rows
                    results.append(replace(result, pairs=None, sequences=None))
                    if result.is_new:
                        unsaved.append(result)
                        num_rows += sum(
                            table.num_rows for table in (result.pairs, result.sequences) if table is not None
                        )
                if len(unsaved) >= _PART_SCENES or num_rows >= _PART_ROWS:
                    mined.write_part(self.work, unsaved, texts)
                    unsaved, num_rows = [], 0
            pairs_digest = self.origin.digest
            if not num_sequences and (not num_pairs or self.origin.has_pairs):
                self._fail(results)  # and leave what is there as it is
            if self.origin.reads:
                pairs_digest, _ = pairs.finish(inputs={"frames": self.digest}, parameters=self.origin.parameters)
            if not num_sequences:
                self._fail(results)
            digest, changed = sequences.finish(
                inputs=self._inputs(pairs_digest), seed=self.seed, parameters=self.made_by
            )
        self._update_scenes(results, {"frames": self.digest, "sequences": digest})
        mined.remember(
            self.work / "streams.parquet", results, {**texts, "covisibility": pairs_digest, "digest": digest}
        )
        for path in self.work.glob("part-*"):
            path.unlink(missing_ok=True)  # another run may have been quicker
        return self._summary(results, changed)

    def _inputs(self, pairs_digest: str | None) -> dict[str, str]:
        return {"frames": self.digest} | ({"covisibility": pairs_digest} if pairs_digest else {})

    def _fail(self, results: list[Result]) -> None:
        # what an earlier run mined from these frames stays; without one, scenes.parquet tells why there is nothing
        try:
            before = catalog.read_footer(SEQUENCES, self.folder / SEQUENCES.file_name).inputs.get("frames")
        except CatalogError:
            before = None
        if before != self.digest:
            self._update_scenes(results, {"frames": self.digest})
        shutil.rmtree(self.work, ignore_errors=True)
        reasons = Counter(result.summary.reason for result in results if result.summary.reason)
        most = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3)) or "no stream has frames"
        problems = [result.summary.problem for result in results if result.summary.problem]
        more = f"; {problems[0]}" if problems and problems[0] not in most else ""
        if "missing" in most and not self.made_by.get("allow_missing"):
            more += "; --allow-missing mines frames whose files are not there, too"
        hint = "what was mined before stays" if before == self.digest else "see 'mumdata stats scenes'"
        raise MumError(f"{self.name}: no scene yields a sequence ({most}{more}); {hint}")

    def _update_scenes(self, results: list[Result], inputs: dict[str, str]) -> None:
        path = self.folder / SCENES.file_name
        rows = catalog.read(SCENES, path).to_pylist()
        by_key = {result.key: result.summary for result in results}
        for row in rows:
            found = by_key.get((row["split"], row["scene"], row["stream"]))
            if found is None:
                row |= {"num_sequences": 0, "why_no_sequence": None if row["detail"] else "no frames"}
                continue
            row |= {
                "num_sequences": found.num_sequences,
                "why_no_sequence": found.reason,
                "num_usable": found.num_usable,
                "num_covered": found.num_covered,
            }
            if found.num_copies is not None:
                row |= {"num_copies": found.num_copies}
            if self.origin.source is not None:
                row |= {
                    "num_pairs": found.num_pairs,
                    "overlap_histogram": found.overlap_histogram,
                    "rotation_histogram": found.rotation_histogram,
                    "axis_histogram": found.axis_histogram,
                }
        columns = {name: [row[name] for row in rows] for name in SCENES.columns.names}
        catalog.write(SCENES, catalog.build(SCENES, columns), path, inputs=inputs)

    def _summary(self, results: list[Result], changed: bool) -> Mined:
        all_found = [result.summary for result in results]
        num_pairs = [found.num_pairs for found in all_found if found.num_pairs is not None]
        if self.origin.source is not None and not sum(num_pairs):
            self.notes.append(f"--from {self.origin.source} finds nothing that frames share: no such files are there")
        reasons = Counter(found.reason for found in all_found if found.reason)
        return Mined(
            name=self.name,
            catalog=self.folder,
            rule=self.made_by["rule"],
            options=self.made_by,
            source=self.origin.source,
            source_options={key: value for key, value in self.origin.parameters.items() if key != "source"},
            num_pairs=sum(num_pairs) if self.origin.source is not None else None,
            num_sequences=sum(found.num_sequences for found in all_found),
            num_distinct=sum(found.num_distinct for found in all_found),
            num_scenes=len(results),
            num_scenes_without=sum(not found.num_sequences for found in all_found),
            reasons=dict(reasons.most_common()),
            changed=changed,
            num_usable=sum(found.num_usable for found in all_found),
            num_covered=sum(found.num_covered for found in all_found),
            num_copies=sum(found.num_copies or 0 for found in all_found),
            num_kept=sum(not result.is_new for result in results),
            bytes_read=sum(result.summary.bytes_read for result in results if result.is_new),
            bytes_total=sum(result.summary.bytes_total for result in results if result.is_new),
            problems={
                "/".join(part for part in result.key if part): result.summary.problem
                for result in results
                if result.summary.problem
            },
            notes=tuple(self.notes),
        )


def _stamps(folder: Path) -> str:
    """Return a text that tells the files of a folder, or one file, by their names, sizes and times."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
    about = [[path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _numbered(table: pa.Table, first: int) -> pa.Table:
    numbers = pa.array(np.arange(first, first + table.num_rows, dtype=np.int32))
    place = table.schema.get_field_index("sequence")
    return table.set_column(place, SEQUENCES.columns.field("sequence"), numbers)
