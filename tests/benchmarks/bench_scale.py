"""A mix of the paper's size: twelve datasets, 19 million frames, 2 million sequences.

Run by hand: `python tests/benchmarks/bench_scale.py [--frames N] [--sequences N] [--pairs N] [--folder DIR]`. Writes
catalogs of made-up frames whose paths point at a few hundred JPEGs again and again, then measures, each in a process of
its own: writing the mix with its Arrow twins, opening it, reading rows of it, and the first batches of training. At
full size it takes some minutes and 7 GB below DIR (default: the folder for temporary files), which are removed at the
end. Beside it stands the plain way: a dict a frame and a list a sequence, at a smaller number, told per million frames.

Memory: `own` is anonymous memory, which no other process shares and the system cannot drop; `pages` are those of mapped
files that the process has touched, which it can. `private` is Private_Clean + Private_Dirty of smaps_rollup: it counts
pages of mapped files as well, as long as no second process has touched them. All is told above an empty process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from mumdata import catalog, rng
from mumdata.roots import remember_root
from mumdata.schema import COVISIBILITY, FRAMES, SEQUENCES, Schema

NUM_IMAGES = 300
ROWS = 1 << 17  # rows that are made at once
TOUCHED = 100_000
PLAIN_FRAMES = 200_000
SLOTS, BATCHES = 40, 2_000


@dataclass(frozen=True)
class Shape:
    """What a made-up dataset looks like: its frames, those of a scene on average, and how sequences are mined."""

    name: str
    frames: int
    scene: int
    rule: str  # chunk, scene, single or chain
    chains: int = 0  # in all, of 24 to 256 frames
    is_video: bool = False


# names, frames and rules of the paper's table; the number of chains makes two million sequences of them
SHAPES = (
    Shape("streetview", 6_282_000, 400, "chunk"),
    Shape("wildrgbd", 3_352_000, 150, "scene", is_video=True),
    Shape("dl3dv", 3_317_000, 330, "scene"),
    Shape("realestate10k", 1_332_000, 150, "chunk", is_video=True),
    Shape("imagenet", 1_281_000, 1, "single"),
    Shape("megascenes", 1_235_000, 300, "chain", 350_000),
    Shape("scannetpp", 1_045_000, 1_000, "chunk", is_video=True),
    Shape("co3d", 546_000, 100, "scene", is_video=True),
    Shape("megadepth", 205_000, 1_050, "chain", 196_000),
    Shape("blendedmvs", 115_000, 230, "chunk"),
    Shape("arkitscenes", 113_000, 300, "chunk", is_video=True),
    Shape("hypersim", 43_000, 100, "scene"),
)


# ---- the mix


def write_catalogs(folder: Path, num_frames: int, num_sequences: int, num_pairs: int) -> None:
    """Write images and the catalogs of all datasets below a folder; the numbers are for all datasets together."""
    images = folder / "root" / "a-folder-of-the-dataset" / "images-of-a-scene"
    images.mkdir(parents=True)
    for number in range(NUM_IMAGES):
        cv2.imwrite(str(images / f"{number:06}.jpg"), _picture(number))
    share = num_frames / sum(shape.frames for shape in SHAPES)
    free = [round(shape.frames * share) for shape in SHAPES]
    others = sum(_num_sequences(shape, num) for shape, num in zip(SHAPES, free, strict=True))
    chains = max(0, num_sequences - others) / sum(shape.chains for shape in SHAPES)
    paired = sum(num for shape, num in zip(SHAPES, free, strict=True) if shape.chains)
    for shape, num in zip(SHAPES, free, strict=True):
        remember_root(shape.name, folder, folder / "root", shape.name)
        firsts = scenes(shape, num)
        digest = _write_frames(shape, firsts, folder)
        if shape.chains and num_pairs:
            _write_pairs(shape, firsts, max(1, num_pairs // paired), folder, digest)
        _write_sequences(shape, firsts, round(shape.chains * chains), folder, digest)


def scenes(shape: Shape, num: int) -> np.ndarray:
    """Return the first frame of each scene and the end of the last one, int64 [scenes + 1]."""
    if shape.rule == "single":
        return np.append(np.arange(0, num, 1_300), num)  # a class
    mean = max(1, min(shape.scene, num))
    lengths = mean // 2 + rng.below(rng.words(rng.key(0, shape.name), 2 * num // mean + 2), mean + 1)
    ends = np.cumsum(np.maximum(lengths, 1))
    return np.append([0, *ends[ends < num]], num)


def _num_sequences(shape: Shape, num: int) -> int:
    if shape.rule == "chain":
        return 0
    return {"single": num, "scene": len(scenes(shape, num)) - 1, "chunk": num // 90}[shape.rule]


def _picture(seed: int, width: int = 320, height: int = 240) -> np.ndarray:
    words = rng.unit(rng.words(rng.key(seed, "picture"), 6 * 8 * 3)).reshape(6, 8, 3)
    return (cv2.resize(words, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255).astype(np.uint8)


def _write(schema: Schema, folder: Path, tables: Iterator[pa.Table], **footer: Any) -> str:
    with catalog.Writer(schema, folder / schema.file_name) as writer:
        for table in tables:
            writer.add(table)
        return writer.finish(**footer)[0]


def _write_frames(shape: Shape, firsts: np.ndarray, folder: Path) -> str:
    def tables() -> Iterator[pa.Table]:
        for begin in range(0, int(firsts[-1]), ROWS):
            ids = np.arange(begin, min(begin + ROWS, firsts[-1]))
            scene = np.searchsorted(firsts, ids, side="right") - 1
            frame = ids - firsts[scene]
            number = (ids * 7919) % NUM_IMAGES
            of = _encoded("scene-", scene)
            columns = {
                "frame_id": pa.array(ids, pa.int32()),
                "dataset": _constant(shape.name, len(ids)),
                "scene": of,
                "group": None if shape.rule == "single" else of,
                "frame": pa.array(frame, pa.int32()),
                "path": [f"a-folder-of-the-dataset/images-of-a-scene/{n:06}.jpg" for n in number.tolist()],
                "bytes": pa.array(np.full(len(ids), 12_345), pa.int64()),
                "width": pa.array(np.full(len(ids), 320), pa.int32()),
                "height": pa.array(np.full(len(ids), 240), pa.int32()),
                "upright_quarter_turns": pa.array(np.zeros(len(ids), np.int8)),
                "timestamp_s": pa.array(frame / 30) if shape.is_video else None,
                "status": _constant("ok", len(ids)),
            }
            yield catalog.build(FRAMES, columns)

    return _write(FRAMES, folder / shape.name, tables(), parameters={"dataset": shape.name})


def _write_sequences(shape: Shape, firsts: np.ndarray, num_chains: int, folder: Path, digest: str) -> None:
    scene, start, length = _spans(shape, firsts, num_chains)
    words = rng.unit(rng.words(rng.key(0, shape.name, "overlap"), len(scene)))

    def tables() -> Iterator[pa.Table]:
        for begin in range(0, len(scene), ROWS // 8):
            rows = slice(begin, begin + ROWS // 8)
            offsets = np.concatenate([[0], np.cumsum(length[rows])])
            within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], length[rows])
            size = np.repeat(np.diff(firsts)[scene[rows]], length[rows])
            flat = np.repeat(firsts[scene[rows]], length[rows]) + (np.repeat(start[rows], length[rows]) + within) % size
            num = len(offsets) - 1
            columns = {
                "dataset": _constant(shape.name, num),
                "scene": _encoded("scene-", scene[rows]),
                "sequence": pa.array(np.arange(begin, begin + num), pa.int32()),
                "rule": _constant("walk" if shape.rule == "chain" else shape.rule, num),
                "frames": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, pa.int32())),
                "num_frames": pa.array(length[rows], pa.int32()),
                "mean_overlap": pa.array(words[rows].astype(np.float32)) if shape.chains else None,
            }
            yield catalog.build(SEQUENCES, columns)

    _write(SEQUENCES, folder / shape.name, tables(), inputs={"frames": digest})


def _spans(shape: Shape, firsts: np.ndarray, num_chains: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sequences: of which scene, from which of its frames on, how many, going round; int64 [n] each."""
    lengths = np.diff(firsts)
    if shape.rule == "chain":
        per_scene = num_chains // len(lengths) + 1
        scene = np.repeat(np.arange(len(lengths)), per_scene)[:num_chains]
        words = rng.words(rng.key(0, shape.name, "chains"), 2 * len(scene)).reshape(2, -1)
        return scene, rng.below(words[0], 1 << 20), np.minimum(24 + rng.below(words[1], 233), lengths[scene])
    size = {"single": 1, "chunk": 100, "scene": int(lengths.max())}[shape.rule]
    counts = -(-lengths // size)
    scene = np.repeat(np.arange(len(lengths)), counts)
    start = (np.arange(len(scene)) - np.repeat(np.cumsum(counts) - counts, counts)) * size
    return scene, start, np.minimum(size, lengths[scene] - start)


def _write_pairs(shape: Shape, firsts: np.ndarray, per_frame: int, folder: Path, digest: str) -> None:
    def tables() -> Iterator[pa.Table]:
        step = max(1, ROWS // per_frame)
        for begin in range(0, int(firsts[-1]), step):
            ids = np.arange(begin, min(begin + step, firsts[-1]))
            end = firsts[np.searchsorted(firsts, ids, side="right")]
            a, b = np.repeat(ids, per_frame), (ids[:, None] + np.arange(1, per_frame + 1)).ravel()
            keep = b < np.repeat(end, per_frame)
            a, b = a[keep], b[keep]
            overlap = np.float32(1) / (1 + b - a).astype(np.float32)
            columns = {
                "dataset": _constant(shape.name, len(a)),
                "scene": _encoded("scene-", np.searchsorted(firsts, a, side="right") - 1),
                "frame_a": pa.array(a, pa.int32()),
                "frame_b": pa.array(b, pa.int32()),
                "overlap_ab": pa.array(overlap),
                "overlap_ba": pa.array(overlap * np.float32(0.9)),
                "source": _constant("tracks", len(a)),
            }
            yield catalog.build(COVISIBILITY, columns)

    _write(COVISIBILITY, folder / shape.name, tables(), inputs={"frames": digest}, parameters={"source": "tracks"})


def _constant(value: str, num: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(num, np.int32)), pa.array([value]))


def _encoded(prefix: str, numbers: np.ndarray) -> pa.DictionaryArray:
    known, codes = np.unique(numbers, return_inverse=True)
    names = pa.array([f"{prefix}{number:07}" for number in known.tolist()], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), names)


# ---- measuring


@dataclass
class Memory:
    """Megabytes of a process."""

    own: float
    pages: float
    private: float

    def above(self, other: Memory) -> Memory:
        return Memory(self.own - other.own, self.pages - other.pages, self.private - other.private)


def memory() -> Memory:
    """Return this process's memory."""
    own, pages = (_kilobytes("/proc/self/status", key) / 1024 for key in ("RssAnon", "RssFile"))
    return Memory(own, pages, _private("/proc/self/smaps_rollup"))


def _private(path: str) -> float:
    return sum(_kilobytes(path, f"Private_{kind}") for kind in ("Clean", "Dirty")) / 1024


def _kilobytes(path: str, key: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise KeyError(key)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def with_peak(function: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Return the seconds that a call takes and the most anonymous memory during it, in MB above what was there."""
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, _kilobytes("/proc/self/status", "RssAnon") / 1024)

    before = memory().own
    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    try:
        function(*arguments)
    finally:
        seconds = time.perf_counter() - begin
        done.set()
        watcher.join()
    return seconds, max(peak - before, 0)


def time_mix(folder: Path) -> dict[str, tuple[float, float]]:
    """Write the mix with its twins, write it again, and build the twins alone: (seconds, peak MB) of each."""
    from mumdata.mix import mix

    timings = {what: with_peak(lambda: mix("mum", catalogs=folder)) for what in ("mumdata mix", "mumdata mix, again")}
    for path in folder.glob("*/*.arrow"):
        path.unlink()
    datasets = catalog.open_mix(folder / "mix.parquet").datasets
    for kind, build in BUILDERS.items():
        timings[f"  twins of {kind}"] = with_peak(lambda build=build: [build(dataset) for dataset in datasets])
    return timings


BUILDERS = {
    "frames": catalog.map_frames,
    "sequences": catalog.map_sequences,
    "covisibility": catalog.map_covisibility,
}


def time_opening(folder: Path) -> tuple[float, float, Memory]:
    """Return the seconds that opening the mix and mapping all twins take, the best of five, and the memory taken."""
    before = memory()
    opening, mapping = [], []
    for _ in range(5):
        begin = time.perf_counter()
        mix = catalog.open_mix(folder / "mix.parquet")
        opening.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        tables = [build(dataset) for dataset in mix.datasets for build in BUILDERS.values()]
        mapping.append(time.perf_counter() - begin)
    assert tables
    return min(opening), min(mapping), memory().above(before)


def touch(folder: Path, seed: int, barrier: Any = None) -> tuple[float, Memory]:
    """Map all frames and read all columns of random ones: microseconds a frame, and the memory taken."""
    before = memory()
    mix = catalog.open_mix(folder / "mix.parquet")
    tables = [catalog.map_frames(dataset) for dataset in mix.datasets]
    plain = [[column.chunk(0) for column in table.columns] for table in tables]
    of = rng.below(rng.words(rng.key(seed, "dataset"), TOUCHED), len(tables)).tolist()
    words = rng.words(rng.key(seed, "frame"), TOUCHED)
    begin = time.perf_counter()
    for dataset, word in zip(of, words.tolist(), strict=True):
        row = word * tables[dataset].num_rows >> 64
        for column in plain[dataset]:
            column[row].as_py()
    seconds = time.perf_counter() - begin
    if barrier is not None:
        barrier.wait()  # both have touched theirs
    taken = memory().above(before)
    if barrier is not None:
        barrier.wait()  # neither has ended before the other has looked
    return seconds / TOUCHED * 1e6, taken


def _touch_beside(folder: Path, seed: int, barrier: Any, results: Any) -> None:
    results.put(touch(folder, seed, barrier))


def touch_beside_another(folder: Path) -> tuple[float, Memory]:
    """Do as `touch`, while a second process holds random rows of its own; the greater private memory of the two."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    both = [context.Process(target=_touch_beside, args=(folder, seed, barrier, results)) for seed in (1, 2)]
    for process in both:
        process.start()
    found: list[tuple[float, Memory]] = [results.get() for _ in both]
    for process in both:
        process.join()
    return max(found, key=lambda one: one[1].private)


@dataclass
class Training:
    """Seconds from opening the mix to the first batch and the first loaded slot, and what comes after."""

    batch_s: float
    slot_s: float
    batch_us: float  # a later batch, on average
    own: float  # MB of this process, of which the sampler is the greater part
    private: float  # MB, the most of any decoding process


def train(folder: Path) -> Training:
    """Draw and load as training does, with the paper's recipe and two processes."""
    from mumtrain.loader import Loader, open_frames
    from mumtrain.recipes import recipe
    from mumtrain.sampler import open_sampler

    config, before, begin = recipe("mum-vitl16"), memory().own, time.perf_counter()
    mix = catalog.open_mix(folder / "mix.parquet")
    sampler = open_sampler(mix, config)
    sampler.batch(0, 0)
    batch_s, own = time.perf_counter() - begin, memory().own - before
    with Loader(sampler, open_frames(mix), config, workers=2) as loader:
        for number, _ in enumerate(loader.load((step, 0) for step in range(SLOTS))):
            if not number:
                slot_s = time.perf_counter() - begin
        private = max(_private(f"/proc/{pid}/smaps_rollup") for pid in loader.pids)
    rounds = []
    for turn in range(5):  # of steps of their own; the first ones also bring in the sequences' pages
        begin = time.perf_counter()
        for step in range(BATCHES):
            sampler.batch(step, 1 + turn)
        rounds.append(time.perf_counter() - begin)
    return Training(batch_s, slot_s, min(rounds) / BATCHES * 1e6, own, private)


def hold_plainly(folder: Path) -> tuple[int, float, float]:
    """Hold frames as dicts and sequences as lists: how many frames, and seconds and MB per million of them."""
    import pyarrow.parquet as pq

    path = folder / "wildrgbd" / SEQUENCES.file_name
    keys = ["path", "scene", "width", "height"]
    before, begin = memory().own, time.perf_counter()
    frames: list[dict[str, Any]] = []
    for batch in pq.ParquetFile(path.with_name(FRAMES.file_name)).iter_batches(1 << 12, columns=keys):
        if len(frames) < PLAIN_FRAMES:
            frames += batch.to_pylist()
    sequences: list[list[int]] = []
    for batch in pq.ParquetFile(path).iter_batches(1 << 10, columns=["frames"]):
        sequences += [ids for ids in batch.column(0).to_pylist() if ids[-1] < len(frames)]
    seconds = time.perf_counter() - begin
    pa.default_memory_pool().release_unused()
    millions = len(frames) / 1e6
    assert sequences
    return len(frames), seconds / millions, (memory().own - before) / millions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=sum(shape.frames for shape in SHAPES))
    parser.add_argument("--sequences", type=int, default=2_000_000)
    parser.add_argument("--pairs", type=int, default=20_000_000, help="rows of covisibility.parquet, about")
    parser.add_argument("--folder", type=Path, help="where to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        begin = time.perf_counter()
        apart(write_catalogs, folder, options.frames, options.sequences, options.pairs)
        print(f"catalogs written in {time.perf_counter() - begin:.0f} s", flush=True)
        report(folder)
        report_training(folder, Path(temporary) / "small")


def report(folder: Path) -> None:
    """Measure and print."""
    timings = apart(time_mix, folder)
    datasets = catalog.open_mix(folder / "mix.parquet").datasets
    frames, sequences = (sum(getattr(d, f"num_{what}") for d in datasets) for what in ("frames", "sequences"))
    size = {kind: sum(path.stat().st_size for path in folder.glob(f"*/{kind}.*.arrow")) / 1e6 for kind in BUILDERS}
    print(f"{len(datasets)} datasets, {frames:,} frames, {sequences:,} sequences")
    print("twins: " + ", ".join(f"{kind} {megabytes:,.0f} MB" for kind, megabytes in size.items()))
    print(f"\n{'':36}{'s':>9}{'own MB':>9}")
    for what, (seconds, peak) in timings.items():
        print(f"{what:36}{seconds:9.1f}{peak:9.0f}")
    print(f"\n{'':36}{'':>9}{'own MB':>9}{'pages':>9}{'private':>9}")
    opening, mapping, taken = apart(time_opening, folder)
    print(_row(f"open {opening * 1e3:.0f} ms, map {mapping * 1e3:.0f} ms", "", taken))
    for what, function, arguments in (
        (f"{TOUCHED:,} random frames", touch, (folder, 0)),
        ("  while another process does, too", touch_beside_another, (folder,)),
    ):
        microseconds, taken = apart(function, *arguments) if function is touch else function(*arguments)
        print(_row(what, f"{microseconds:.1f} us", taken))
    num, seconds, megabytes = apart(hold_plainly, folder)
    ours = taken.own / (frames / 1e6)
    print(f"\nheld plainly ({num:,} frames): {megabytes:.0f} MB and {seconds:.1f} s per million frames")
    print(f"  {frames / 1e9 * megabytes:.1f} GB for all; mapped: {ours:.2f} MB per million, 1 / {megabytes / ours:.0f}")


def report_training(folder: Path, small: Path) -> None:
    """Measure and print how training begins, beside that of a mix of a thousandth of the frames."""
    from mumdata.mix import mix

    apart(write_catalogs, small, 20_000, 2_000, 0)
    mix("mum", catalogs=small)
    apart(train, small)  # compiles what is not yet compiled, and warms the system's cache
    print(f"\n{'training':36}{'batch s':>9}{'slot s':>9}{'batch us':>9}{'own MB':>9}{'worker MB':>10}")
    found = {"  this mix": apart(train, folder), "  a small one": apart(train, small)}
    for what, one in found.items():
        print(f"{what:36}{one.batch_s:9.2f}{one.slot_s:9.2f}{one.batch_us:9.0f}{one.own:9.0f}{one.private:10.1f}")


def _row(what: str, time_taken: str, taken: Memory) -> str:
    return f"{what:36}{time_taken:>9}{taken.own:9.1f}{taken.pages:9.1f}{taken.private:9.1f}"


if __name__ == "__main__":
    main()
