"""How long mining all of MegaScenes would take, from models of its true sizes.

Run by hand: `python tests/benchmarks/bench_megascenes.py FOLDER [--models 400] [--workers 2]`. FOLDER holds real
MegaScenes models (cameras.bin, images.bin, points3D.bin), anywhere below it. They are linked again and again into a
tree of MegaScenes' layout until there are as many as asked for; that tree is indexed and mined with the default preset,
in fresh processes, as a user would. The figure is extrapolated to the 100,000 models of the whole dataset by the number
of models; what starting a process and loading libraries costs is measured by a tree of each model once, and is not
multiplied. Files are in the page cache: what reading them from a cold disk costs is printed apart, as the bytes that
are really read at 200 MB/s.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mumdata import catalog

ALL_MODELS = 100_000
COLD_BYTES_PER_S = 200e6


def link_tree(models: list[Path], root: Path, num: int) -> None:
    """Make a tree of MegaScenes' layout with `num` models, one a scene."""
    for number in range(num):
        folder = root / "reconstruct" / f"{number // 1000:03d}" / f"{number % 1000:03d}" / "sparses" / "0"
        folder.mkdir(parents=True)
        for part in ("cameras.bin", "images.bin", "points3D.bin"):
            (folder / part).hardlink_to(models[number % len(models)] / part)


def copied(models: list[Path], folder: Path) -> list[Path]:
    """Copy the models once, so that they can be linked: hard links do not cross file systems."""
    copies = []
    for number, model in enumerate(models):
        (folder / str(number)).mkdir(parents=True)
        for part in ("cameras.bin", "images.bin", "points3D.bin"):
            (folder / str(number) / part).write_bytes((model / part).read_bytes())
        copies.append(folder / str(number))
    return copies


def timed(command: list[str]) -> tuple[float, str]:
    """Run a mumdata command; return its seconds and what it printed."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "mumdata", *command], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    models = sorted(path.parent for path in given.folder.rglob("points3D.bin") if (path.parent / "images.bin").exists())
    if not models:
        sys.exit(f"no model under {given.folder}")
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        kept = copied(models, here / "models")
        seconds: dict[int, dict[str, float]] = {}
        for num in (len(kept), given.models):
            root, catalogs = here / f"tree{num}", here / f"catalogs{num}"
            link_tree(kept, root, num)
            options = ["--catalogs", str(catalogs), "--workers", str(given.workers)]
            index_s, _ = timed(["index", "megascenes", "--root", str(root), *options])
            mine_s, text = timed(["mine-sequences", "megascenes", "--allow-missing", *options])
            again_s, _ = timed(["mine-sequences", "megascenes", "--allow-missing", "--min-frames", "5", *options])
            seconds[num] = {"index": index_s, "mine": mine_s, "other thresholds": again_s}
        scenes = catalog.read_scenes("megascenes", catalogs=catalogs)
        print(text)
        print(f"{len(models)} different models, {given.models} in all, {int(scenes.num_frames.sum()):,} images,")
        print(f"{int(scenes.num_pairs.sum()):,} pairs; {given.workers} workers\n")
        print(f"{'step':<18}{'start s':>9}{'s':>9}{'ms a model':>12}{'all, minutes':>14}")
        for step, whole in seconds[given.models].items():
            start = seconds[len(kept)][step]
            each = (whole - start) / (given.models - len(kept))
            print(f"{step:<18}{start:>9.2f}{whole:>9.2f}{each * 1e3:>12.2f}{each * ALL_MODELS / 60:>14.1f}")
        read = sum(path.stat().st_size for model in kept for path in model.glob("points3D.bin"))
        read_gb = read / len(kept) * ALL_MODELS / 1e9
        minutes = read_gb * 1e9 / COLD_BYTES_PER_S / 60
        print(f"\ncold, besides: points3D.bin alone {read_gb:.0f} GB, {minutes:.0f} minutes at", end=" ")
        print(f"{COLD_BYTES_PER_S / 1e6:.0f} MB/s")


if __name__ == "__main__":
    main()
