"""Damaged COLMAP models: whatever the damage, a `Model` or a `ModelError`, soon, and in little memory.

The mutants are read in a process of its own under a limit of memory, so that a crash is seen: run as a script, this
file reads mutants of the model in a folder and prints what became of them.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from mumdata.colmap import Model, read_model
from mumdata.colmap import binary as colmap_binary
from mumdata.colmap import model as colmap
from mumdata.errors import ModelError

PARTS = ("cameras", "images", "points3D", "rigs", "frames")
MEMORY = 512 << 20  # bytes beyond what the process has when it starts to read mutants
MOST_MEMORY = 32  # bytes of memory a byte of the files
NUMBERS = [  # what a count, an id or a coordinate may turn into, 8 bytes
    np.array([value], dtype=dtype).tobytes()
    for dtype, values in (
        ("<u8", (0, 1, 2, 2**16, 2**31, 2**32, 2**60, 2**61, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 51)),
        ("<f8", (np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324, -1.0)),
    )
    for value in values
]
WORDS = [
    *b"nan inf -inf 1e999 -1e999 1e308 -1 0 -0 1 2 3 1.5 1e5 0x10 1_0 +7 ++7 - . , # x CAMERA IMU \x00 \xff".split(
        b" "
    ),
    *b"65536 2147483648 4294967295 4294967296 9223372036854775807 -9223372036854775808 9223372036854775808".split(b" "),
    *(b"18446744073709551615", b"9" * 40, b"9" * 5000, b"1 " * 3000, b"1 2", b"", b" ", b"\n", b"\n\n", b"\r\n"),
]


def mutate(data: bytes, kind: str, random: np.random.Generator) -> bytes:
    """Damage a file once or a few times."""
    broken = bytearray(data)
    for _ in range(int(random.choice([1, 1, 1, 2, 3]))):
        at = int(random.integers(len(broken) + 1))
        match int(random.integers(7)):
            case 0:
                for place in random.integers(len(broken), size=int(random.integers(1, 4))) if broken else []:
                    broken[place] ^= 1 << int(random.integers(8))
            case 1:
                del broken[at:]
            case 2:
                broken[at:at] = random.bytes(int(random.integers(1, 20)))
            case 3:
                del broken[at : at + int(random.integers(1, 80))]
            case 4:
                broken[at:at] = broken[at : at + int(random.integers(1, 200))]
            case _ if kind == "txt":
                tokens = list(re.finditer(rb"\S+", broken))
                if tokens:
                    start, end = tokens[int(random.integers(len(tokens)))].span()
                    broken[start:end] = WORDS[int(random.integers(len(WORDS)))]
            case _:
                value = NUMBERS[int(random.integers(len(NUMBERS)))]
                # heads of records are where counts and lengths are
                at = at if random.integers(2) else int(random.integers(min(120, len(broken) + 1)))
                width = int(random.choice([4, 8]))
                broken[at : at + width] = value[:width]
    return bytes(broken)


def outcome(folder: Path, **options: bool) -> Model | str:
    """Read a model: the model, or its ModelError's message."""
    try:
        return read_model(folder, **options)
    except ModelError as error:
        return str(error)


def measured(folder: Path) -> tuple[Model | str, float, int]:
    """Read a model: the outcome, seconds, and the most bytes of memory that were in use for it."""
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        return outcome(folder), time.perf_counter() - begin, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def compiled(folder: Path) -> Model | str:
    """Read a model by the compiled walk, and with its images mapped."""
    before = colmap_binary._walked, dict(colmap._MOST_COPIED)
    colmap_binary._walked = colmap_binary._WORTH_LOADING
    colmap._MOST_COPIED["images"] = 0
    try:
        return outcome(folder)
    finally:
        colmap_binary._walked = before[0]
        colmap._MOST_COPIED.update(before[1])


def same(one: Model | str, other: Model | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one is other or one == other
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(Model)]
    return all(
        np.array_equal(a, b, equal_nan=True) for a, b in pairs if isinstance(a, np.ndarray) and a.dtype != object
    )


def examine(model: Model) -> None:
    """What holds for every model, whatever it was read from."""
    num, points = len(model.names), len(model.point_ids)
    assert np.isfinite(model.cam_from_world).all()
    assert np.isfinite(model.intrinsics).all()
    assert len(set(model.image_ids.tolist())) == num
    assert len(set(model.point_ids.tolist())) == points == len(model.points)
    keys = model.image_of.astype(np.int64) * max(points, 1) + model.point_of
    assert (np.diff(keys) > 0).all()
    assert model.num_points.tolist() == np.bincount(model.image_of, minlength=num).tolist()
    if len(keys):
        assert 0 <= model.image_of.min() <= model.image_of.max() < num
        assert 0 <= model.point_of.min() <= model.point_of.max() < points
    for ids in (model.frame_of, model.rig_of):
        assert ids is None or len(ids) == num


def read_mutants(folder: Path, kind: str, num: int, seed: int) -> dict[str, float]:
    """Read mutants of every file of a model; return how many became what, and the worst time and memory."""
    random = np.random.default_rng(seed)
    assert isinstance(outcome(folder, check_tracks=True), Model)
    assert isinstance(compiled(folder), Model)  # compiled now: later on there is less memory
    used = int(re.findall(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    counts: Counter[str] = Counter()
    slowest = largest = 0.0
    whole = {part: (folder / f"{part}.{kind}").read_bytes() for part in PARTS}
    size = sum(map(len, whole.values()))
    for number in range(num):
        part = PARTS[number % len(PARTS)]
        path = folder / f"{part}.{kind}"
        broken = mutate(whole[part], kind, random)
        path.write_bytes(broken)
        found, seconds, memory = measured(folder)
        if memory > MOST_MEMORY * (size + len(broken)):
            found, seconds, memory = measured(folder)  # Python's own tables grow now and then, but not twice in a row
        slowest = max(slowest, seconds)
        largest = max(largest, memory / (size + len(broken)))
        checked = outcome(folder, check_tracks=True)
        if isinstance(found, str):
            assert "\n" not in found
            assert checked == found, "checking the tracks as well finds the same"
        else:
            examine(found)
            assert isinstance(checked, str) or same(found, checked)
        assert kind == "txt" or same(compiled(folder), found), "both walks find the same"
        counts[f"{part} {'refused' if isinstance(found, str) else 'read'}"] += 1
        counts["refused where tracks are checked"] += isinstance(checked, str) and not isinstance(found, str)
        path.write_bytes(whole[part])
    return {**counts, "slowest": slowest, "largest": largest}


def run(tmp_path: Path, kind: str, num: int, seed: int) -> None:
    import pycolmap

    pycolmap.set_random_seed(5)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 2, 2, 3
    options.num_points3D, options.track_length = 40, 4
    options.num_points2D_without_point3D = 3
    scene = pycolmap.synthesize_dataset(options)
    (scene.write_binary if kind == "bin" else scene.write_text)(str(tmp_path))
    command = [sys.executable, __file__, str(tmp_path), kind, str(num), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + num / 5, check=False)
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-3000:]}"
    results = json.loads(done.stdout)
    assert results["slowest"] < 2.0
    assert results["largest"] < MOST_MEMORY
    for part in PARTS:  # the mutants reach both ends
        assert results[f"{part} read"] > num / 400, results
        assert results[f"{part} refused"] > num / 400, results
    assert sum(results.get(f"{part} {what}", 0) for part in PARTS for what in ("read", "refused")) == num


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_mutants_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    run(tmp_path, kind, 200, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_many_mutants_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    run(tmp_path, kind, 5000, 2)


if __name__ == "__main__":
    print(json.dumps(read_mutants(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
