"""Frames a second of the loader, by processes and beside threads, and how soon the first batch is there.

Run by hand: `python tests/benchmarks/bench_loader.py [--photos DIR] [--turns N] [--seconds S]`. Frames are JPEGs of 640
px as files, and of 256 px (short side) packed in a tar; made from the photos of a folder, or textured ones of its own.
All ways of decoding read the same frames warm, in one process, in turns; the best of the turns counts. The last column
is the rate over that of the plain version: decoding in the training process.
"""

from __future__ import annotations

import argparse
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from mumtrain.config import Config, apply
from mumtrain.loader import Loader
from mumtrain.reading.frames import FrameTable
from mumtrain.reading.worker import ViewReader
from mumtrain.recipes import recipe
from mumtrain.sampler import Sampler, SequenceTable


def textured(num: int) -> Iterator[np.ndarray]:
    """Pictures of 640 x 480 with structure of all sizes, which cost a decoder about what photos do."""
    random = np.random.default_rng(0)
    for _ in range(num):
        layers = [
            cv2.resize(random.normal(0, 26, (480 // by, 640 // by, 3)), (640, 480), interpolation=cv2.INTER_CUBIC)
            for by in (2, 4, 8, 16, 32, 80)
        ]
        yield np.clip(128 + sum(layers), 0, 255).astype(np.uint8)


def photos(folder: Path, num: int) -> Iterator[np.ndarray]:
    """The first pictures below a folder, their long side 640 px."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for path in found[:: max(1, len(found) // num)][:num]:
        picture = cv2.imread(str(path))
        if picture is not None:
            scale = 640 / max(picture.shape[:2])
            yield cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def write_frames(folder: Path, pictures: Iterator[np.ndarray]) -> dict[str, FrameTable]:
    """Write the pictures as files and packed; return both tables."""
    names, places = [], []
    with tarfile.open(folder / "packed.tar", "w") as tar:
        for number, picture in enumerate(pictures):
            names.append(f"{number:05}.jpg")
            cv2.imwrite(str(folder / names[-1]), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
            scale = 256 / min(picture.shape[:2])
            reduced = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(folder / "small.jpg"), reduced, [cv2.IMWRITE_JPEG_QUALITY, 95])
            tar.add(folder / "small.jpg", names[-1])
    with tarfile.open(folder / "packed.tar") as tar:
        places = [(member.offset_data, member.size) for member in tar]
    return {
        "640 px, files": FrameTable("files", folder, frames_table(names)),
        "256 px, packed": FrameTable("packed", folder, frames_table(names, "packed.tar", places)),
    }


def frames_table(names: list[str], archive: str | None = None, places: list[tuple[int, int]] | None = None) -> pa.Table:
    none = [None] * len(names)
    return pa.table(
        {
            "path": pa.array(names, pa.large_string()),
            "archive": pa.array([archive] * len(names), pa.dictionary(pa.int32(), pa.string())),
            "codec": pa.array(["stored" if archive else None] * len(names), pa.dictionary(pa.int32(), pa.string())),
            "offset": pa.array([place[0] for place in places] if places else none, pa.int64()),
            "bytes": pa.array([place[1] for place in places] if places else none, pa.int64()),
            "width": pa.array(none, pa.int32()),
            "height": pa.array(none, pa.int32()),
            "upright_quarter_turns": pa.array(none, pa.int8()),
        }
    )


def sampler_over(num_frames: int, config: Config) -> Sampler:
    """A sampler over one sequence of all frames."""
    table = pa.table(
        {
            "scene": pa.array([0], pa.int32()),
            "num_frames": pa.array([num_frames], pa.int32()),
            "frames": pa.array([list(range(num_frames))], pa.large_list(pa.int32())),
            "holdout_unit": pa.array([0.5]),
        }
    )
    return Sampler([SequenceTable(table, name="x", weight=1, single_view=False, min_frames=1, holdout=0)], config)


KEYS = [(step, 0) for step in range(100_000)]


def cpu_s(pids: list[int]) -> float:
    """Seconds of processor time that this process and some others have taken."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def rate(slots: Iterator[int], seconds: float, pids: list[int]) -> tuple[float, float]:
    """Frames a second, and milliseconds of processor time a frame, after the slots that were decoded ahead."""
    for _ in range(6):
        next(slots)
    begin, cpu, num = time.perf_counter(), cpu_s(pids), 0
    while (now := time.perf_counter()) < begin + seconds:
        num += next(slots)
    return num / (now - begin), 1000 * (cpu_s(pids) - cpu) / num


def with_processes(
    sampler: Sampler, frames: FrameTable, config: Config, num: int, method: str, seconds: float
) -> tuple[float, float]:
    config = apply(config, [f"data.start_method={method}"])
    with Loader(sampler, [frames], config, workers=num) as loader:
        return rate((len(item.batch.sequences) * item.batch.views for item in loader.load(KEYS)), seconds, loader.pids)


def with_threads(sampler: Sampler, frames: FrameTable, config: Config, num: int, seconds: float) -> tuple[float, float]:
    """The same work by threads of this process, a few slots ahead; they share one interpreter lock."""
    reader = ViewReader([frames], config)
    S, ahead = config.data.size, config.data.prefetch + 1
    ring = np.empty((ahead + 1, config.data.frames_per_slot, S, S, 3), np.uint8)

    def slots() -> Iterator[int]:
        waiting = []
        for step, slot in KEYS:
            batch = sampler.batch(step, slot)
            todo = enumerate(int(frame_id) for drawn in batch.sequences for frame_id in drawn.frame_ids)
            futures = [
                pool.submit(
                    *(reader.read, 0, frame_id, ring[step % len(ring), position]),
                    **{"step": step, "slot": slot, "position": position, "views": batch.views},
                )
                for position, frame_id in todo
            ]
            waiting.append((batch, futures))
            if len(waiting) > ahead - 1:
                batch, futures = waiting.pop(0)
                for future in futures:
                    assert future.result() is None
                yield len(futures)

    with ThreadPoolExecutor(num) as pool:
        found = rate(slots(), seconds, [])
        pool.shutdown(cancel_futures=True)
    return found


def first_batch(sampler: Sampler, frames: FrameTable, config: Config, num: int, method: str) -> float:
    """Seconds from nothing to the first slot."""
    begin = time.perf_counter()
    with Loader(sampler, [frames], apply(config, [f"data.start_method={method}"]), workers=num) as loader:
        next(loader.load(KEYS))
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of pictures to take instead of textures")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    config = apply(recipe("mum-vitl16"), ["data.crop=random_resized"])
    print(f"{len(os.sched_getaffinity(0))} cores, slots of {config.data.frames_per_slot} frames, {config.data.size} px")
    with tempfile.TemporaryDirectory() as name:
        pictures = photos(options.photos, 200) if options.photos else textured(200)
        for kind, frames in write_frames(Path(name), pictures).items():
            sampler = sampler_over(frames.table.num_rows, config)
            sampler.batch(0, 0)  # compiles
            by_processes = partial(with_processes, sampler, frames, config)
            ways: dict[str, Callable[[float], tuple[float, float]]] = {
                "in the training process": partial(by_processes, 0, "spawn"),
                "1 process": partial(by_processes, 1, "spawn"),
                "2 processes": partial(by_processes, 2, "spawn"),
                "2 processes, fork": partial(by_processes, 2, "fork"),
                "1 thread": partial(with_threads, sampler, frames, config, 1),
                "2 threads": partial(with_threads, sampler, frames, config, 2),
            }
            found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
            for _ in range(options.turns):
                for way, measure in ways.items():
                    found[way].append(measure(options.seconds))
            print(f"\n{kind}, best of {options.turns}: frames/s, over the first; CPU ms a frame")
            plain = max(found["in the training process"])[0]
            for way, turns in found.items():
                best, least = max(turns)[0], min(turn[1] for turn in turns)
                print(f"  {way:<26} {best:8.0f} {best / plain:6.2f} {least:8.2f}")
            pairs = [two[0] / one[0] for one, two in zip(found["1 process"], found["2 processes"], strict=True)]
            print(f"  2 processes over 1, turn by turn: {', '.join(f'{pair:.2f}' for pair in pairs)}")
            for method in ("spawn", "fork"):
                soonest = min(first_batch(sampler, frames, config, 2, method) for _ in range(options.turns))
                print(f"  first batch of 2 processes, {method}: {soonest:.2f} s")


if __name__ == "__main__":
    main()
