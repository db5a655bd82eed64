"""How long pairs take: `mumdata.covisibility` beside Python sets and beside a bare sparse product.

Run by hand: `python tests/benchmarks/bench_covisibility.py [--turns N] [--small]`. Scenes are generated: cameras on a
ring that look inwards, points seen by cameras near to each other, tracks of very different lengths. The plain version
is the double loop over images that intersects Python sets of points, counts alone; on large scenes a sample of its rows
is run and the rest extrapolated. The bare product is `S @ S.T` of scipy's images x points matrix (csr, int32), without
building it. All run in one process, in turns; the best of the turns counts. Peak memory is that of another process,
which loads the scene from files and measures all there is.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from mumdata.covisibility import Pairs, coherences, covisibility, links, memory_needed, neighbours, overlaps

_PARTS = ("image_of", "point_of", "points", "cam_from_world", "intrinsics")


@dataclass(frozen=True, eq=False)
class World:
    """The arguments of `covisibility`; observations are sorted and distinct."""

    image_of: np.ndarray
    point_of: np.ndarray
    points: np.ndarray
    cam_from_world: np.ndarray
    intrinsics: np.ndarray

    @property
    def num_images(self) -> int:
        return len(self.cam_from_world)

    def counts(self) -> Pairs:
        return covisibility(self.num_images, self.image_of, self.point_of)

    def with_cameras(self) -> Pairs:
        """Measure counts, overlaps, IoU, rotation and axis angles."""
        pairs = covisibility(self.num_images, self.image_of, self.point_of, cam_from_world=self.cam_from_world)
        overlaps(pairs)
        return pairs

    def everything(self) -> Pairs:
        pairs = covisibility(
            self.num_images,
            self.image_of,
            self.point_of,
            points=self.points,
            cam_from_world=self.cam_from_world,
            intrinsics=self.intrinsics,
        )
        overlaps(pairs)
        return pairs

    def matrix(self) -> csr_array:
        shape = (self.num_images, len(self.points))
        return csr_array((np.ones(len(self.image_of), np.int32), (self.image_of, self.point_of)), shape=shape)


def make_world(num_images: int, num_observations: int, seed: int = 0) -> World:
    """Generate a scene with about so many observations."""
    random = np.random.default_rng(seed)
    length = np.minimum(2 + random.geometric(1 / 6.0, num_observations // 5), max(2, num_images // 4))
    length = length[: max(1, int(np.searchsorted(np.cumsum(length), num_observations)))]
    num_points = len(length)
    point = np.repeat(np.arange(num_points), length)
    seen_from = random.integers(0, num_images, num_points)[point]
    spread = (random.standard_normal(len(point)) * max(1.0, num_images / 20)).astype(np.int64)
    keys = np.unique((seen_from + spread) % num_images * num_points + point)
    around = np.arange(num_images) * (2 * np.pi / num_images)
    # cameras at (cos, 0, sin) * radius that look at the origin
    axis = np.stack([-np.cos(around), np.zeros(num_images), -np.sin(around)], axis=1)
    down = np.tile([0.0, 1.0, 0.0], (num_images, 1))
    rotation = np.stack([np.cross(down, axis), down, axis], axis=1)
    centre = -axis * (8 + np.sin(5 * around))[:, None]
    translation = -np.einsum("nij,nj->ni", rotation, centre)
    focal = random.uniform(500, 2000, num_images)
    return World(
        (keys // num_points).astype(np.int32),
        (keys % num_points).astype(np.int32),
        random.normal(0, 1, (num_points, 3)),
        np.concatenate([rotation, translation[:, :, None]], axis=2),
        np.stack([focal, focal, focal / 2, focal / 2], axis=1),
    )


def sets_seconds(world: World, rows: int) -> tuple[float, int]:
    """Return the seconds of the double loop over sets, and the number of rows that were run for it."""
    bounds = np.searchsorted(world.image_of, np.arange(world.num_images + 1))
    seen = [set(world.point_of[a:b].tolist()) for a, b in itertools.pairwise(bounds)]
    some = np.unique(np.linspace(0, world.num_images - 1, min(rows, world.num_images)).astype(int)).tolist()
    found, compared = [], 0
    begin = time.perf_counter()
    for a in some:
        for b in range(a + 1, len(seen)):
            shared = len(seen[a] & seen[b])
            if shared:
                found.append((a, b, shared))
        compared += len(seen) - 1 - a
    seconds = time.perf_counter() - begin
    return seconds * (len(seen) * (len(seen) - 1) // 2) / max(compared, 1), len(some)


def best_of(work: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Return the least seconds of each, all in turns."""
    best = dict.fromkeys(work, float("inf"))
    for turn in range(turns + 1):
        for name, run in work.items():
            begin = time.perf_counter()
            run()
            if turn:  # the first one compiles
                best[name] = min(best[name], time.perf_counter() - begin)
    return best


def peak(world: World) -> tuple[int, int]:
    """Return the peak memory in bytes of a process that measures the scene, before and after it does."""
    with tempfile.TemporaryDirectory() as folder:
        for part in _PARTS:
            np.save(Path(folder) / part, getattr(world, part))
        command = [sys.executable, __file__, "--peak-of", folder]
        before, after = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(before), int(after)


def measure_peak(folder: Path) -> None:
    world = World(*(np.load(folder / f"{part}.npy") for part in _PARTS))
    make_world(20, 900).everything()  # numba and the kernels are loaded
    before = high_water()
    world.everything()
    print(before, high_water())


def high_water() -> int:
    """Return the most memory in bytes that this process has held; Linux alone.

    `resource.getrusage` would not do: what it tells of a new process starts with what its parent holds.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def report(num_images: int, num_observations: int, turns: int, rows: int) -> None:
    world = make_world(num_images, num_observations)
    matrix = world.matrix()
    pairs = world.everything()
    items = int(pairs.shared.sum(dtype=np.int64)) if pairs.shared is not None else 0
    print(
        f"\n{world.num_images:,} images, {len(world.image_of):,} observations of {len(world.points):,} points, "
        f"{len(pairs.a):,} pairs that share {items:,}"
    )
    plain, rows = sets_seconds(world, rows)
    shuffled = np.random.default_rng(0).permutation(len(world.image_of))
    other = World(world.image_of[shuffled], world.point_of[shuffled], *(getattr(world, p) for p in _PARTS[2:]))
    work: dict[str, Callable[[], object]] = {
        "sparse product S @ S.T": lambda: matrix @ matrix.T,
        "counts": world.counts,
        "(a) and overlaps, rotation, axis": world.with_cameras,
        "(b) and triangulation, scale": world.everything,
        "(b), observations in any order": other.everything,
    }
    best = best_of(work, turns)
    product = best["sparse product S @ S.T"]
    how = "all rows" if rows == world.num_images else f"from {rows} rows"
    print(f"{'':36}{'seconds':>10}{'x product':>12}{'sets / it':>12}")
    print(f"{f'double loop over sets ({how})':36}{plain:10.3f}{plain / product:12.2f}{1:12.0f}")
    for name, seconds in best.items():
        print(f"{name:36}{seconds:10.4f}{seconds / product:12.2f}{plain / seconds:12.0f}")
    before, after = peak(world)
    estimate = memory_needed(world.num_images, len(world.image_of), len(pairs.a))
    print(
        f"peak of a process of its own: {after / 1e6:.0f} MB, {before / 1e6:.0f} MB of it before (Python, numba, the "
        f"arguments); memory_needed: {estimate / 1e6:.0f} MB"
    )


def report_graph(world: World, turns: int) -> None:
    pairs = world.everything()
    graph = neighbours(pairs)
    random = np.random.default_rng(0)
    sequences = [random.permutation(world.num_images)[:256] for _ in range(1000)]
    best = best_of(
        {
            "neighbours": lambda: neighbours(pairs),
            "coherences of 1,000 sequences of 256": lambda: coherences(sequences, graph),
            "links of 1,000 sequences of 256": lambda: [links(frames, graph) for frames in sequences],
        },
        turns,
    )
    print(f"\ngraph of {world.num_images:,} images, {len(pairs.a):,} pairs")
    for name, seconds in best.items():
        print(f"{name:40}{seconds:10.4f} s")


def report_small(turns: int) -> None:
    world = make_world(20, 6000)
    matrix = world.matrix()

    def each(run: Callable[[], object]) -> Callable[[], object]:
        return lambda: [run() for _ in range(200)]

    pairs = world.everything()
    best = best_of(
        {
            "sparse product S @ S.T": each(lambda: matrix @ matrix.T),
            "counts": each(world.counts),
            "(a)": each(world.with_cameras),
            "(b)": each(world.everything),
            "neighbours": each(lambda: neighbours(pairs)),
        },
        turns,
    )
    print(f"\none model of 20 images, {len(world.image_of):,} observations, {len(pairs.a)} pairs, once all is loaded")
    for name, seconds in best.items():
        print(f"{name:40}{seconds / 200 * 1e6:10.0f} microseconds")
    empty = World(*(getattr(world, part)[:0] for part in _PARTS[:2]), *(getattr(world, part) for part in _PARTS[2:]))
    seconds = best_of({"": each(empty.everything)}, turns)[""]
    print(f"{'(b) without any observation':40}{seconds / 200 * 1e6:10.0f} microseconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="leave out the scene of 2,000 images")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of is not None:
        measure_peak(options.peak_of)
        return
    report(500, 750_000, options.turns, 500)
    if not options.small:
        report(2_000, 4_700_000, options.turns, 20)
    report_graph(make_world(500, 750_000) if options.small else make_world(2_000, 4_700_000), options.turns)
    report_small(options.turns)


if __name__ == "__main__":
    main()
