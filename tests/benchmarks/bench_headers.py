"""How many headers a second: `mumdata.images.read_header` beside Pillow, and beside opening and reading alone.

Run by hand: `python tests/benchmarks/bench_headers.py [--folder DIR] [--files N]`. Without a folder it writes small
JPEGs and PNGs of its own into a temporary one. All readers see the same files, warm, in one process, in turns; the best
of the turns counts. The last lines are `read_header` with its reads alone, without opening: microseconds a file.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import timeit
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mumdata.images import looks_like_image, read_header


def write_tree(folder: Path, num: int) -> None:
    """Write `num` pictures, every fifth a PNG, the others JPEGs of about 4 KB, a hundred to a folder."""
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(16)]
    data = {suffix: [cv2.imencode(suffix, picture)[1].tobytes() for picture in pictures] for suffix in (".jpg", ".png")}
    for index in range(num):
        suffix = ".png" if index % 5 == 4 else ".jpg"
        path = folder / f"{index // 100:05}" / f"{index:06}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[suffix][index % 16])


def images_in(folder: Path, most: int) -> list[str]:
    """Return the paths of up to `most` images below a folder."""
    found = []
    for here, folders, files in os.walk(folder):
        folders.sort()
        found += [os.path.join(here, name) for name in sorted(files) if looks_like_image(name)]
        if len(found) >= most:
            break
    return found[:most]


def plain(path: str) -> None:
    """Open, ask for the size, read the first 4 KB: what no reader can do without."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fstat(number)
        os.pread(number, 4096, 0)
    finally:
        os.close(number)


def ours(path: str) -> tuple[int, int]:
    number = os.open(path, os.O_RDONLY)
    try:
        header = read_header(lambda at, count: os.pread(number, count, at), os.fstat(number).st_size)
    finally:
        os.close(number)
    return header.width, header.height


def pillow(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


READERS: dict[str, Callable[[str], object]] = {"open, fstat, read 4096": plain, "read_header": ours, "Pillow": pillow}


def files_per_second(paths: list[str], turns: int = 5) -> dict[str, float]:
    """Return files a second for each reader, the best of `turns` turns."""
    best = dict.fromkeys(READERS, float("inf"))
    for _ in range(turns):
        for name, read in READERS.items():
            begin = time.perf_counter()
            for path in paths:
                read(path)
            best[name] = min(best[name], time.perf_counter() - begin)
    return {name: len(paths) / seconds for name, seconds in best.items()}


def microseconds(path: str) -> float:
    """Return what `read_header` takes for one open file, its reads included."""
    number = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(number).st_size
        timer = timeit.Timer(lambda: read_header(lambda at, count: os.pread(number, count, at), size))
        return min(timer.repeat(repeat=5, number=20_000)) / 20_000 * 1e6
    finally:
        os.close(number)


def one_of_each_kind(paths: Iterable[str]) -> dict[str, str]:
    """Return the first path for each file ending."""
    found: dict[str, str] = {}
    for path in paths:
        found.setdefault(Path(path).suffix.lower(), path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="measure on the images below this folder")
    parser.add_argument("--files", type=int, default=10_000, help="how many, at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.folder is None:
            write_tree(folder, options.files)
        paths = images_in(folder, options.files)
        if not paths:
            parser.error(f"no images below {folder}")
        rates = files_per_second(paths)
        print(f"{len(paths):,} files, mean {sum(map(os.path.getsize, paths)) / len(paths):,.0f} bytes")
        for name, rate in rates.items():
            print(f"{name:24}{rate:12,.0f} files/s {rate / rates['Pillow']:8.2f} x Pillow")
        for suffix, path in one_of_each_kind(paths).items():
            print(
                f"read_header of one {suffix}: {microseconds(path):.2f} microseconds, {os.path.getsize(path):,} bytes"
            )


if __name__ == "__main__":
    main()
