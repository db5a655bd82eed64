"""How fast COLMAP models are read: `mumdata.colmap.read_model` beside pycolmap, on models written here or given.

Run by hand: `python tests/benchmarks/bench_colmap.py [--large] [--turns N] [FOLDER ...]`. Models of a few sizes are
written into a temporary folder; --large adds one of 600 images and 288 MB, most of whose keypoints are unmatched.
FOLDERs are searched for models, which are read as well. All readers read the same files, warm, in one process, in
turns; the best turn counts. Columns: milliseconds of the plain walk, of the compiled one and with `check_tracks`; of
`pycolmap.Reconstruction` alone; of that and a walk over its images' points2D for (image, point) pairs; how many times
the plain walk (2,000,000 points and more: the compiled one) is faster than those two; MB looked at of MB there.
"""

from __future__ import annotations

import argparse
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycolmap

from mumdata.colmap import binary as colmap_binary
from mumdata.colmap import is_model, read_model
from mumdata.errors import ModelError


def write_model(
    folder: Path, num_images: int, num_keypoints: int, num_points: int, track_length: int, seed: int = 0
) -> Path:
    """Write a binary model: a camera an image, tracks of one length over random images near one another."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    with open(folder / "cameras.bin", "wb") as file:
        file.write(struct.pack("<Q", num_images))
        for row in range(num_images):
            file.write(struct.pack("<IiQQ4d", row + 1, 2, 1800, 1200, 1500.0, 900.0, 600.0, 0.01))
    first = random.integers(num_images, size=(num_points, 1))
    near = min(num_images - 1, 40)
    steps = np.argsort(random.random((num_points, near), dtype=np.float32), axis=1)[:, : track_length - 1]
    images = np.concatenate([first, (first + 1 + steps) % num_images], axis=1)  # distinct in each track
    order = np.argsort(images.ravel(), kind="stable")
    counts = np.bincount(images.ravel(), minlength=num_images)
    if counts.max() > num_keypoints:
        raise ValueError(f"an image sees {counts.max()} points at {num_keypoints} keypoints")
    keypoints = np.empty(images.size, dtype=np.int64)
    ends = np.cumsum(counts)
    keypoint = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])
    with open(folder / "images.bin", "wb") as file:
        file.write(struct.pack("<Q", num_images))
        for row, (count, end) in enumerate(zip(counts, ends, strict=True)):
            mine = order[end - count : end]
            places = random.permutation(num_keypoints)[:count]
            keypoints[mine] = places
            block = np.empty(num_keypoints, dtype=keypoint)
            block["x"], block["y"] = random.random((2, num_keypoints)) * 1000.0
            block["point"] = -1
            block["point"][places] = mine // track_length + 1
            name = f"commons/Some category ({row % 7})/0/pictures/picture {row:06}.jpg".encode()
            file.write(struct.pack("<I7dI", row + 1, 1.0, 0.1, 0.2, 0.3, row, 0.0, 1.0, row + 1) + name + b"\0")
            file.write(struct.pack("<Q", num_keypoints) + block.tobytes())
    head = [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("length", "<u8")]
    points = np.zeros(num_points, dtype=np.dtype([*head, ("track", "<u4", (track_length, 2))]))
    points["id"], points["length"] = np.arange(num_points) + 1, track_length
    points["xyz"] = random.random((num_points, 3))
    points["track"][:, :, 0], points["track"][:, :, 1] = images + 1, keypoints.reshape(images.shape)
    (folder / "points3D.bin").write_bytes(struct.pack("<Q", num_points) + points.tobytes())
    return folder


def plain(folder: Path) -> None:
    colmap_binary._walked = 0
    read_model(folder)


def compiled(folder: Path) -> None:
    colmap_binary._walked = colmap_binary._WORTH_LOADING
    read_model(folder)


def checked(folder: Path) -> None:
    colmap_binary._walked = 0
    read_model(folder, check_tracks=True)


def pycolmap_alone(folder: Path) -> None:
    pycolmap.Reconstruction(str(folder))


def pycolmap_walked(folder: Path) -> None:
    for image_id, image in pycolmap.Reconstruction(str(folder)).images.items():
        {(image_id, keypoint.point3D_id) for keypoint in image.points2D if keypoint.has_point3D()}


READERS: tuple[Callable[[Path], None], ...] = (plain, compiled, checked, pycolmap_alone, pycolmap_walked)


def seconds(folder: Path, turns: int, least: float = 0.3) -> list[float]:
    """Return the best of at least `turns` turns of each reader, and of as many as fit into `least` seconds."""
    best = [float("inf")] * len(READERS)
    begin, turn = time.perf_counter(), 0
    while turn < turns or time.perf_counter() - begin < least:
        for place, read in enumerate(READERS):
            start = time.perf_counter()
            read(folder)
            best[place] = min(best[place], time.perf_counter() - start)
        turn += 1
    return best


def report(name: str, folder: Path, turns: int) -> None:
    try:
        model = read_model(folder, check_tracks=True)
        pycolmap_alone(folder)
    except (ModelError, ValueError, RuntimeError, IndexError) as error:
        print(f"{name:<34} not compared: {str(error).splitlines()[0][:120]}")
        return
    model = read_model(folder)
    best = seconds(folder, turns)
    mine = best[0] if len(model.points) < colmap_binary._WORTH_LOADING else best[1]
    print(
        f"{name:<34} {len(model.names):>6} {len(model.points):>8} {len(model.image_of):>9}"
        + "".join(f"{1e3 * each:>10.2f}" for each in best)
        + f"{best[3] / mine:>8.1f}x{best[4] / mine:>8.1f}x"
        + f"{model.bytes_read / 1e6:>9.2f} of {model.bytes_total / 1e6:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    pycolmap.logging.minloglevel = 3
    print(
        f"{'model':<34} {'images':>6} {'points':>8} {'distinct':>9}{'plain':>10}{'compiled':>10}{'checked':>10}"
        f"{'pycolmap':>10}{'and walk':>10}{'ratio':>9}{'ratio':>9}   MB"
    )
    with tempfile.TemporaryDirectory() as temporary:
        sizes = {
            "16 images, 500 points": (16, 3000, 500, 4),
            "16 images, 5000 points": (16, 10000, 5000, 6),
            "16 images, tracks of 12": (16, 10000, 5000, 12),
            "128 images, 30000 points": (128, 8000, 30000, 6),
        }
        for name, size in sizes.items():
            report(name, write_model(Path(temporary, name), *size), arguments.turns)
        if arguments.large:
            report("600 images, 288 MB", write_model(Path(temporary, "large"), 600, 20000, 100_000, 6), 2)
    for top in arguments.folders:
        found = {path.parent for pattern in ("cameras.bin", "cameras.txt") for path in top.rglob(pattern)}
        for folder in sorted(folder for folder in found if is_model(folder)):
            report(folder.relative_to(top).as_posix()[-34:], folder, arguments.turns)


if __name__ == "__main__":
    main()
