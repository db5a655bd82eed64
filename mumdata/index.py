"""`mumdata index`: files on disk -> frames.parquet, scenes.parquet, quarantine.parquet.

In: a dataset's root, and the catalog of an earlier run. Out: a row for every frame, with its size from the header alone
and its camera scaled to the stored size; a row for every scene; a row for every file that cannot be used, with the
reason. The same tree gives the same bytes for any number of workers, any engine and any listing order. Files whose size
and time are those of the earlier run are not opened again. Memory is bounded by the largest scene.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import mumdata
from mumdata import catalog, engine, previous, roots
from mumdata.datasets import NAMES, Dataset, Scene, load
from mumdata.errors import CatalogError, ConfigError, LayoutError, unknown
from mumdata.files import remove_abandoned
from mumdata.look import VERIFY
from mumdata.previous import Key
from mumdata.scan import Context, Part, Task, printable, scan, sort_key
from mumdata.schema import FRAMES, QUARANTINE, SCENES
from mumdata.tree import Tree

__all__ = ["MINED_COLUMNS", "Indexed", "check_name", "index", "known_names", "module_of"]

# the columns of scenes.parquet that mining fills
MINED_COLUMNS = (
    "num_pairs",
    "num_sequences",
    "num_copies",
    "num_usable",
    "num_covered",
    "overlap_histogram",
    "rotation_histogram",
    "axis_histogram",
    "why_no_sequence",
)

_OWN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

# an interrupted run goes on from parts: not a file a scene, which network file systems would suffer from
_PART_SCENES = 1000
_PART_FRAMES = 1 << 18


@dataclass(frozen=True)
class Indexed:
    """What an index run found: counts for the summary, and whether the catalog changed.

    Added, changed and removed count frames against the earlier catalog; `num_read` the files that were opened.
    `refused` lists archives, or members of them, that cannot be read: (archive, member, reason, detail).
    """

    name: str
    catalog: Path
    num_scenes: int
    num_frames: int
    frame_statuses: dict[str, int]
    scene_statuses: dict[str, int]
    changed: bool
    num_added: int = 0
    num_changed: int = 0
    num_removed: int = 0
    num_read: int = 0
    refused: list[tuple[str, str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def index(
    dataset: str,
    *,
    root: Path | None = None,
    name: str | None = None,
    catalogs: Path = catalog.DEFAULT,
    all_images: bool = False,
    verify: str | None = None,
    content_hash: bool | None = None,
    workers: int | None = None,
    engine: str = "local",
    address: str | None = None,
) -> Indexed:
    """List a dataset's images and write its catalog.

    `dataset` is a known name, `folder` or `colmap`; the catalog of the last two is called `name`. `all_images` adds
    the photos of megascenes that no model registers. `verify` says how closely files are looked at: `none` (that they
    are there), `header` (size and end) or `decode` (every pixel); `content_hash` adds the sha256 of each file, and
    finds copies by it. Both default to what the catalog was made with, else to `header` and no hashes. `engine` "ray"
    runs the scenes on the Ray cluster at `address`, or on one started here. Raises LayoutError where the root does not
    exist or nothing in it can be used, ConfigError for names that are not known.
    """
    if dataset not in NAMES and name is None and (own := roots.remembered_dataset(dataset, catalogs)):
        dataset, name = own, dataset  # `index holiday`: again what it was indexed as
    if verify is not None and verify not in VERIFY:
        raise unknown("--verify", verify, VERIFY)
    module = load(dataset)
    called = _called(dataset, name)
    given, root = root is not None, roots.find_root(called, catalogs, root)
    folder = Path(catalogs, called)
    work = folder / ".index"
    remove_abandoned(folder)
    remove_abandoned(work)
    in_catalog, parameters = previous.of_catalog(folder, mumdata.__version__)
    verify = verify or str(parameters.get("verify", "header"))
    content_hash = bool(parameters.get("content_hash", False)) if content_hash is None else content_hash
    parameters = _parameters(dataset, all_images, verify, content_hash)
    made_by = json.dumps([mumdata.__version__, str(root.absolute()), parameters], sort_keys=True)
    in_parts = previous.of_parts(work, made_by)
    tree = Tree(root, module.SPEC.archives)
    scenes = _scenes(module, tree)
    tasks = _tasks(scenes, in_catalog, in_parts)
    context = Context(dataset, called, tree, all_images, verify, content_hash, work)
    found = _Collected(called, folder, work, made_by, verify)
    with found.frames, found.quarantine:
        for parts in _each(scan, tasks, workers, called, context, engine, address):
            for part in parts:
                found.add(part)
        found.refuse(tree)
        if not found.num_frames:
            reason = f" ({found.first_detail})" if found.first_detail else ""
            raise LayoutError(
                f"{root}: none of {len(tasks)} scenes has a frame{reason}; check that the images are there"
            )
        digest, changed = found.frames.finish(parameters=parameters)
        scene_table, inputs = _with_mined(found.scenes(), folder / SCENES.file_name, digest)
        catalog.write(SCENES, scene_table, folder / SCENES.file_name, inputs=inputs)
        found.quarantine.finish(inputs={"frames": digest})
    shutil.rmtree(work, ignore_errors=True)
    if given or not roots.remembered_dataset(called, catalogs):  # what the environment says is for this time
        roots.remember_root(called, catalogs, root, dataset)
    kept = found.counts["kept"]
    return Indexed(
        called,
        folder,
        len(found.rows["scene"]),
        found.num_frames,
        dict(found.statuses),
        dict(Counter(found.rows["status"])),
        changed,
        found.counts["added"],
        found.counts["changed"],
        sum(rows.num for rows in in_catalog.values()) - kept,
        found.counts["read"],
        list(tree.refused),
        _notes(found.codecs),
    )


def _notes(codecs: set[str]) -> list[str]:
    slow = {"parquet": "rows of Parquet shards", "deflate": "compressed members of archives"}
    return [
        f"these images are {what}: reading one of them costs more than reading a file; unpack them, or pack them as "
        "plain files, before a long training"
        for codec, what in slow.items()
        if codec in codecs
    ]


def known_names(catalogs: Path) -> list[str]:
    """Return the datasets that have a frames catalog."""
    return sorted(path.parent.name for path in Path(catalogs).glob(f"*/{FRAMES.file_name}"))


def module_of(name: str, catalogs: Path) -> str:
    """Return the dataset module that a catalog was indexed with: for `my-trip`, say, `colmap`."""
    footer = catalog.read_footer(FRAMES, Path(catalogs, name, FRAMES.file_name))
    return str(footer.parameters["dataset"])


def check_name(name: str) -> None:
    """Raise ConfigError for a name that no catalog can have."""
    if not _OWN_NAME.fullmatch(name) or name == "mixes":
        raise ConfigError(f"the name '{name}' must be letters, digits, '.', '_' or '-', and not 'mixes'")


def _called(dataset: str, name: str | None) -> str:
    if dataset not in ("folder", "colmap"):
        if name not in (None, dataset):
            raise ConfigError(f"--name is for folder and colmap; the catalog of {dataset} is called {dataset}")
        return dataset
    if name is None:
        return dataset
    check_name(name)
    if name in NAMES and name != dataset:
        raise ConfigError(f"--name {name} is the name of a dataset; choose another")
    return name


def _parameters(dataset: str, all_images: bool, verify: str, content_hash: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"dataset": dataset, "verify": verify}
    if dataset == "megascenes":
        found["all_images"] = all_images
    if content_hash:
        found["content_hash"] = True
    return found


def _scenes(module: Dataset, tree: Tree) -> list[Scene]:
    try:
        scenes = module.scenes(tree)
    except LayoutError as error:
        refused = [f"{archive}: {detail}" for archive, member, _, detail in tree.refused if not member]
        if not refused:
            raise LayoutError(f"{error}; 'mumdata check {shlex.quote(str(tree.root))}' tells what it is") from error
        more = f" (and {len(refused) - 1} more archives)" if len(refused) > 1 else ""
        raise LayoutError(f"{error}; {refused[0]}{more}") from error
    return sorted(scenes, key=lambda scene: sort_key((scene.split, scene.scene)))


def _tasks(scenes: list[Scene], in_catalog: dict[Key, Any], in_parts: dict[Key, Any]) -> list[Task]:
    def by_scene(rows: dict[Key, Any]) -> dict[tuple[str | None, str], dict[Key, Any]]:
        found: dict[tuple[str | None, str], dict[Key, Any]] = {}
        for key, value in rows.items():
            found.setdefault(key[:2], {})[key] = value
        return found

    catalogued, unfinished = by_scene(in_catalog), by_scene(in_parts)
    keys = [(scene.split, printable(scene.scene)) for scene in scenes]
    assert len(set(keys)) == len(keys), "a dataset's scenes are unique"
    return [
        Task(scene, catalogued.get(key, {}), unfinished.get(key, {})) for scene, key in zip(scenes, keys, strict=True)
    ]


def _each(
    function: Any, tasks: list[Task], workers: int | None, called: str, context: Context, kind: str, address: str | None
) -> Any:
    return engine.each(
        function, tasks, workers, f"indexing {called}", shared=context, brief=True, engine=kind, address=address
    )


class _Collected:
    # the parts of a run in their order: frames and quarantine go to disk, a few values a stream stay

    def __init__(self, called: str, folder: Path, work: Path, made_by: str, verify: str) -> None:
        self.called, self.work, self.made_by, self.verify = called, work, made_by, verify
        self.frames = catalog.Writer(FRAMES, folder / FRAMES.file_name)
        self.quarantine = catalog.Writer(QUARANTINE, folder / QUARANTINE.file_name)
        self.rows: dict[str, list[Any]] = {name: [] for name in _SCENE_COLUMNS}
        self.num_frames = 0
        self.statuses: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.codecs: set[str] = set()
        self.first_detail: str | None = None
        self._unsaved: list[tuple[Key, pa.Table]] = []
        self._num_unsaved = 0

    def add(self, part: Part) -> None:
        num = part.frames.num_rows
        if num:
            self.frames.add(_numbered(part.frames, self.num_frames, part.num_copies))
        if part.quarantine.num_rows:
            self.quarantine.add(part.quarantine)
        split, scene, stream = part.key
        values = {
            "split": split,
            "scene": scene,
            "stream": stream,
            "group": part.group,
            "status": part.status,
            "first_frame_id": self.num_frames if num else None,
            "num_frames": num,
            "num_posed": part.num_posed,
            "num_points": part.num_points,
            "num_copies": part.num_copies,
            "detail": part.detail,
        }
        for name, value in values.items():
            self.rows[name].append(value)
        self.first_detail = self.first_detail or part.detail
        self.num_frames += num
        self.codecs |= part.codecs
        self.statuses.update(part.statuses)
        self.counts.update(added=part.num_added, changed=part.num_changed, kept=part.num_kept, read=part.num_read)
        if part.num_read:
            self._unsaved.append((part.key, part.frames))
            self._num_unsaved += num
            if len(self._unsaved) >= _PART_SCENES or self._num_unsaved >= _PART_FRAMES:
                previous.write_part(self.work, self._unsaved, self.made_by, self.verify)
                self._unsaved, self._num_unsaved = [], 0

    def refuse(self, tree: Tree) -> None:
        rows = list(tree.refused)
        if rows:
            columns = {
                "dataset": [self.called] * len(rows),
                "archive": [printable(archive) if member else None for archive, member, _, _ in rows],
                "path": [printable(member or archive) for archive, member, _, _ in rows],
                "reason": [reason for _, _, reason, _ in rows],
                "detail": [detail for _, _, _, detail in rows],
                "found_by": ["index"] * len(rows),
            }
            self.quarantine.add(catalog.build(QUARANTINE, columns))

    def scenes(self) -> pa.Table:
        return catalog.build(SCENES, {"dataset": [self.called] * len(self.rows["scene"]), **self.rows})


_SCENE_COLUMNS = (
    "split",
    "scene",
    "stream",
    "group",
    "status",
    "first_frame_id",
    "num_frames",
    "num_posed",
    "num_points",
    "num_copies",
    "detail",
)


def _numbered(frames: pa.Table, first: int, num_copies: int) -> pa.Table:
    # frame_id counts over the whole file; duplicate_of came relative to its part
    ids = pa.array(np.arange(first, first + frames.num_rows, dtype=np.int32))
    frames = frames.set_column(0, FRAMES.columns.field("frame_id"), ids)
    if num_copies:
        place = FRAMES.columns.get_field_index("duplicate_of")
        column = frames.column(place)
        moved = pc.add(column, pa.scalar(first, pa.int32()))
        frames = frames.set_column(place, FRAMES.columns.field(place), moved)
    return frames


def _with_mined(table: pa.Table, path: Path, frames_digest: str) -> tuple[pa.Table, dict[str, str]]:
    # mining adds its counts to this file; they stay true as long as the frames are the same
    fresh = {"frames": frames_digest}
    try:
        old, inputs = catalog.read(SCENES, path), catalog.read_footer(SCENES, path).inputs
    except CatalogError:
        return table, fresh
    if inputs.get("frames") != frames_digest or "sequences" not in inputs:
        return table, fresh
    mined = {(row["split"], row["scene"], row["stream"]): row for row in old.to_pylist()}
    rows = table.to_pylist()
    for row in rows:
        known = mined.get((row["split"], row["scene"], row["stream"]), {})
        row |= {column: known[column] for column in MINED_COLUMNS if column in known}
    return catalog.build(SCENES, {name: [row[name] for row in rows] for name in SCENES.columns.names}), inputs
