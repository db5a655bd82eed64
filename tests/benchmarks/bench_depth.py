"""How many pairs of depth maps a second: `mumdata.sources.views.compare` beside plain numpy, one pair at a time.

Run by hand: `python tests/benchmarks/bench_depth.py [--frames N] [--side PIXELS]`. Cameras stand in the middle of a
room and look around. The plain version is the definition written for whole arrays: the samples of one frame
projected into the other, and compared with its depth map. Both see the same frames, in one process, in turns; the best
of the turns counts. Depth maps lie in memory: decoding is not measured, except in the last line, which is Hypersim's
form and size.
"""

from __future__ import annotations

import argparse
import io
import timeit

import h5py
import numpy as np

from mumdata.datasets import Cameras
from mumdata.geometry import rotation_from_quaternion
from mumdata.sources import SourceOptions
from mumdata.sources.depth_files import FORMS, DepthMap
from mumdata.sources.views import compare

TOLERANCE = 0.02


def room(num: int, side: int) -> tuple[Cameras, list[np.ndarray]]:
    """Cameras that look in all directions in a room of 6 x 5 x 3 m, and their depth maps, [3/4 side, side]."""
    random = np.random.default_rng(0)
    width, height = side, side * 3 // 4
    focal, centres = 0.8 * side, random.uniform(-0.8, 0.8, (num, 3)) * (1.0, 1.0, 0.4)
    turn = random.uniform(0, np.pi, num)
    zero = np.zeros(num)
    rotations = rotation_from_quaternion(np.stack([np.cos(turn), zero, np.sin(turn), zero], axis=1))
    x, y = np.meshgrid((np.arange(width) + 0.5 - width / 2) / focal, (np.arange(height) + 0.5 - height / 2) / focal)
    maps = []
    for rotation, centre in zip(rotations, centres, strict=True):
        d = np.stack([x, y, np.ones_like(x)], axis=-1) @ rotation
        with np.errstate(divide="ignore"):
            maps.append(np.min((np.sign(d) * (3.0, 1.5, 2.5) - centre) / d, axis=-1).astype(np.float32))
    poses = np.concatenate([rotations, -(rotations @ centres[:, :, None])], axis=2)
    intrinsics = np.tile([focal, focal, width / 2, height / 2], (num, 1))
    return Cameras(("PINHOLE",) * num, np.tile([width, height], (num, 1)), intrinsics, ((),) * num, poses), maps


def ours(cameras: Cameras, maps: list[np.ndarray], prune: bool = True) -> np.ndarray:
    """Overlaps [n, n]."""
    options = SourceOptions()
    pairs, _ = compare(
        cameras, lambda row, view: DepthMap(maps[row]), options, source="depth", tolerance=TOLERANCE, prune=prune
    )
    found = np.zeros((len(maps), len(maps)))
    found[pairs.a, pairs.b], found[pairs.b, pairs.a] = pairs.overlap_ab, pairs.overlap_ba
    return found


def plain(cameras: Cameras, maps: list[np.ndarray]) -> np.ndarray:
    """The same with numpy, for maps of up to 256 pixels a side; the nearest pixel alone is looked at."""
    num, (height, width) = len(maps), maps[0].shape
    columns, rows = (((2 * np.arange(n) + 1) * length // (2 * n)) for n, length in ((32, width), (24, height)))
    column, row = (each.ravel() for each in np.meshgrid(columns, rows))
    found = np.zeros((num, num))
    for a in range(num):
        fx, fy, cx, cy = cameras.intrinsics[a]
        z = maps[a][row, column]
        points = np.stack([(column + 0.5 - cx) / fx * z, (row + 0.5 - cy) / fy * z, z], axis=1)
        world = (points - cameras.cam_from_world[a][:, 3]) @ cameras.cam_from_world[a][:, :3]
        for b in range(num):
            if a == b:
                continue
            fx, fy, cx, cy = cameras.intrinsics[b]
            point = world @ cameras.cam_from_world[b][:, :3].T + cameras.cam_from_world[b][:, 3]
            point = point[point[:, 2] > 0]
            px, py = fx * point[:, 0] / point[:, 2] + cx, fy * point[:, 1] / point[:, 2] + cy
            inside = (px >= 0) & (px < width) & (py >= 0) & (py < height)
            px, py, depth = px[inside].astype(int), py[inside].astype(int), point[inside, 2]
            found[a, b] = (np.abs(maps[b][py, px] - depth) <= TOLERANCE * depth).sum() / len(z)
    return found


def best(*functions: object, repeats: int = 5) -> list[float]:
    """Seconds of each function, the best of several turns."""
    times = [[timeit.timeit(function, number=1) for function in functions] for _ in range(repeats)]  # type: ignore[arg-type]
    return [min(column) for column in zip(*times, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--side", type=int, default=256)
    arguments = parser.parse_args()
    num = arguments.frames
    cameras, maps = room(num, arguments.side)
    first, second = ours(cameras, maps), plain(cameras, maps)  # compiles, too
    num_pairs = num * (num - 1) // 2
    print(f"{num} frames of {arguments.side} pixels, {num_pairs:,} pairs, {(first > 0).sum() // 2:,} of them overlap;")
    difference = np.abs(first - second)
    print(f"difference to the plain version: mean {difference.mean():.4f}, most {difference.max():.3f}")
    pruned, whole, numpy = best(
        lambda: ours(cameras, maps), lambda: ours(cameras, maps, prune=False), lambda: plain(cameras, maps)
    )
    print(f"{'':24}{'pairs/s':>12}{'ratio':>8}")
    for name, seconds in (("compare", pruned), ("compare without pruning", whole), ("plain numpy", numpy)):
        print(f"{name:24}{num_pairs / seconds:12,.0f}{numpy / seconds:8.1f}")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        values = np.random.default_rng(1).uniform(1, 5, (768, 1024)).astype(np.float16)
        file.create_dataset("dataset", data=values, compression="gzip")
    (decoding,) = best(lambda: FORMS["distance"](buffer.getvalue()))
    print(f"decoding one map of 1024 x 768, compressed float16: {1000 * decoding:.1f} ms")


if __name__ == "__main__":
    main()
