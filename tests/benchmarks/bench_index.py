"""How fast a tree is indexed, first and again, beside a plain walk over the same tree.

Run by hand: python tests/benchmarks/bench_index.py [--frames N] [--per-scene N] [--workers N] [--links]. It writes a
tree of small JPEGs into a temporary folder (with --links, names of one file: for millions), indexes it in fresh
processes with a warm cache, and prints frames/s, their ratio to the plain version of the same run, and peak memory.
What a process needs to load its libraries is measured on a tree of one file and printed beside.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_INDEX = """
import json, resource, sys, time
from pathlib import Path
from mumdata.index import index
if __name__ == "__main__":
    begun = time.perf_counter()
    index("folder", root=Path(sys.argv[4]), name="one", catalogs=Path(sys.argv[2]), workers=1)
    start = time.perf_counter() - begun
    begun = time.perf_counter()
    found = index("folder", root=Path(sys.argv[1]), name="bench", catalogs=Path(sys.argv[2]), workers=int(sys.argv[3]))
    spent = time.perf_counter() - begun
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"s": spent, "start": start, "mb": peaks, "read": found.num_read, "changed": found.changed}))
"""


def make_tree(root: Path, num_frames: int, per_scene: int, links: bool) -> None:
    """Write folders of JPEGs of about 4 KB: files of their own, or names of one file."""
    import cv2
    import numpy as np

    draw = np.random.default_rng(0)
    datas = [cv2.imencode(".jpg", draw.integers(0, 255, (48, 64, 3), np.uint8))[1].tobytes() for _ in range(16)]
    for number in range(num_frames):
        scene, frame = divmod(number, per_scene)
        path = root / f"scene_{scene:05d}" / f"frame_{frame:06d}.jpg"
        if frame == 0:
            path.parent.mkdir(parents=True)
        if links and frame % 1000:
            os.link(path.with_name(f"frame_{frame - frame % 1000:06d}.jpg"), path)
        else:
            path.write_bytes(datas[number % 16])


def plain_walk(root: Path) -> float:
    """Time a scandir and stat of every file, seconds."""
    begun = time.perf_counter()
    for folder in os.scandir(root):
        with os.scandir(folder) as entries:
            for entry in entries:
                entry.stat()
    return time.perf_counter() - begun


def plain_headers(root: Path) -> float:
    """Time opening every file with Pillow for its size, seconds; of the first 20,000 files, scaled."""
    from PIL import Image

    paths = [path for folder in sorted(root.iterdir()) for path in sorted(folder.iterdir())]
    begun = time.perf_counter()
    for path in paths[:20_000]:
        with Image.open(path) as image:
            assert image.size
    return (time.perf_counter() - begun) * len(paths) / len(paths[:20_000])


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--per-scene", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--links", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to write; default: the temporary folder")
    options = parser.parse_args()
    num = options.frames
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder, "tree")
        make_tree(root, num, options.per_scene, options.links)
        make_tree(Path(folder, "one"), 1, 1, False)
        headers = plain_headers(root)  # warms the cache, too
        walk = min(plain_walk(root) for _ in range(2))
        print(f"{num:,} files in scenes of {options.per_scene:,}; {options.workers} workers")
        print(f"plain scandir + stat, one process: {num / walk:12,.0f} frames/s")
        print(f"plain Pillow headers, one process: {num / headers:12,.0f} frames/s")
        for what, plain in (("first", headers), ("again", walk), ("again", walk)):
            command = [sys.executable, "-c", _INDEX, root, Path(folder, "c"), str(options.workers), Path(folder, "one")]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(
                f"index {what}: {num / found['s']:12,.0f} frames/s = {plain / found['s']:.2f} x plain; "
                f"{found['read']:,} files read, peak {found['mb'][0]:.0f} MB, workers {found['mb'][1]:.0f} MB; "
                f"loading libraries {found['start']:.2f} s"
            )


if __name__ == "__main__":
    main()
