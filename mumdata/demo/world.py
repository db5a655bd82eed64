"""The demo world: small rendered datasets in the true layouts, with exactly known overlap.

In: a folder, a size, a seed. Out: OUT/<dataset>/ for each dataset, OUT/truth/<dataset>/<scene>/<k>.npz, and the marker
OUT/demo.json, written last. The same parameters give the same bytes, whatever the number of workers.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from mumdata.demo import layouts
from mumdata.demo.album import SIZES, Album, Layout, Picture, Sizes, build_place
from mumdata.demo.archives import pack
from mumdata.demo.encode import encode_depth, encode_mask, encode_picture
from mumdata.demo.points import sample_points, write_colmap, write_truth
from mumdata.demo.render import Place, depth_map, object_mask, picture
from mumdata.errors import MumError, unknown
from mumdata.files import write_text

__all__ = ["LAYOUTS", "demo"]

LAYOUTS: dict[str, Callable[[int, Sizes], Layout]] = {name: layouts.load(name) for name in layouts.NAMES}

_VERSION = 3  # of the files: raise it whenever they change
_BATCH = 8  # pictures of one task


@dataclass(frozen=True)
class _Task:
    """A share of the work: some pictures, or one model, of one album."""

    out: str
    dataset: str
    album: Album
    pictures: tuple[Picture, ...] = ()
    model: int | None = None
    num_points: int = 0

    @property
    def cost(self) -> float:
        """Rays, about: the largest tasks start first, so that no worker is left alone with one at the end."""
        if self.model is not None:
            return 3.0 * self.num_points * len(self.album.models[self.model].cameras)
        return 4.0 * sum(p.shot.camera.width * p.shot.camera.height for p in self.pictures)


def _write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_picture(root: Path, place: Place, entry: Picture) -> None:
    camera = entry.shot.camera
    data = encode_picture(entry.paths[0], picture(place, camera, entry.shot.light, entry.shot.gain))
    for path in entry.paths:
        _write_bytes(root / path, data)
    if entry.depth:
        _write_bytes(root / entry.depth, encode_depth(entry.depth_kind, depth_map(place, camera), entry, camera))
    if entry.mask:
        _write_bytes(root / entry.mask, encode_mask(object_mask(place, camera)))


def _work(task: _Task) -> None:
    """Do one task; a function of its argument alone, so that it may run in any process."""
    place = build_place(task.album.place, task.album.seed)
    root = Path(task.out, task.dataset)
    for entry in task.pictures:
        _write_picture(root, place, entry)
    if task.model is not None:
        model = task.album.models[task.model]
        cloud = sample_points(place, model.cameras, task.num_points, model.key)
        if model.folder:
            write_colmap(root, model, cloud)
        write_truth(Path(task.out, "truth", task.dataset, model.truth), model, cloud)


def _tasks(out: Path, dataset: str, layout: Layout, sizes: Sizes) -> list[_Task]:
    tasks = []
    for album in layout.albums:
        for first in range(0, len(album.pictures), _BATCH):
            tasks.append(_Task(str(out), dataset, album, pictures=album.pictures[first : first + _BATCH]))
        for model in range(len(album.models)):
            tasks.append(_Task(str(out), dataset, album, model=model, num_points=sizes.points))
    return tasks


def _is_complete(out: Path, parameters: dict[str, int | str]) -> bool:
    """Tell whether this very demo is there already; a MumError where the folder holds something else."""
    marker, started = out / "demo.json", out / "demo.unfinished.json"
    for file in (marker, started):
        if not file.exists():
            continue
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise MumError(f"{file} is not a demo's marker: {error}; delete {out} or choose another folder") from error
        if found != parameters:
            raise MumError(
                f"{out} holds another demo ({json.dumps(found)}, not {json.dumps(parameters)}); "
                "delete it or choose another folder"
            )
    if marker.exists():
        lost = [name for name in (*LAYOUTS, "truth") if not (out / name).is_dir()]
        if lost:
            raise MumError(f"{out}/{lost[0]} is gone though {marker} says complete; delete {marker} to render it again")
        return True
    if not started.exists():
        for name in (*LAYOUTS, "truth"):
            folder = out / name
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise MumError(f"{folder} exists and is no demo's; choose another folder, or move it away")
    return False


def _run(tasks: list[_Task], num_workers: int) -> None:
    """Do all tasks, in this process or in several."""
    if num_workers == 1:
        for task in tasks:
            _work(task)
        return
    # an executor rather than a pool: a worker that is killed becomes an error instead of an endless wait
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as executor:
        try:
            for done in as_completed([executor.submit(_work, task) for task in tasks]):
                done.result()
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def demo(
    out: Path, *, size: str = "default", seed: int = 0, archives: bool = False, workers: int | None = None
) -> None:
    """Render the demo world: twelve datasets, small, in their true layouts.

    `size` is "tiny" (64 to 80 px, for tests) or "default" (144 to 192 px). `workers` is the number of processes, by
    default one a core, at most eight. `archives` adds the datasets as people keep them packed, in OUT/archives. A demo
    that is complete is left alone; one that was interrupted is made anew. The ground truth beside the datasets is
    described at `mumdata.demo.points.write_truth`.

    Raises MumError where `out` holds other data under a dataset's name, or a demo with other parameters, and
    ConfigError for an unknown size.
    """
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    if workers is not None and workers < 1:
        raise MumError(f"workers is {workers}; give at least 1")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise MumError(f"{out} is not a folder; choose another one")
    parameters: dict[str, int | str] = {"seed": seed, "size": size, "version": _VERSION}
    if not _is_complete(out, parameters):
        _render(out, size, seed, workers, parameters)
    if archives:
        _pack(out)


def _render(out: Path, size: str, seed: int, workers: int | None, parameters: dict[str, int | str]) -> None:
    started = out / "demo.unfinished.json"
    write_text(started, json.dumps(parameters, sort_keys=True) + "\n")
    tasks: list[_Task] = []
    for dataset, plan in LAYOUTS.items():
        layout = plan(seed, SIZES[size])
        for folder in layout.folders:
            (out / dataset / folder).mkdir(parents=True, exist_ok=True)
        for path, content in layout.texts.items():
            _write_bytes(out / dataset / path, content if isinstance(content, bytes) else content.encode())
        tasks += _tasks(out, dataset, layout, SIZES[size])
    tasks.sort(key=lambda task: -task.cost)
    num_workers = workers or min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
    try:
        _run(tasks, num_workers)
    except BrokenProcessPool as error:
        raise MumError(
            f"a worker was killed while {out} was made, perhaps for want of memory; run again with --workers 1"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MumError(f"no space left for {out}; free 50 MB and run the command again") from error
    os.replace(started, out / "demo.json")


def _pack(out: Path) -> None:
    """Pack every dataset that is not packed yet; each appears whole or not at all."""
    for dataset in LAYOUTS:
        target = out / "archives" / dataset
        if target.exists():
            continue
        unfinished = target.with_name(f".{dataset}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        pack(out / dataset, unfinished, dataset)
        os.replace(unfinished, target)
