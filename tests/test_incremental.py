"""Indexing again: what is opened, what is reported, and that the bytes are those of a first run."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog, previous
from mumdata.catalog import Writer
from mumdata.digest import content_digest
from mumdata.errors import ConfigError, MumError
from mumdata.index import Indexed, index
from mumdata.schema import FRAMES, QUARANTINE, SCENES
from mumdata.sequences import mine_sequences

from .conftest import write_picture

FILES = ("frames.parquet", "scenes.parquet", "quarantine.parquet")


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def album(root: Path, scenes: int = 6, frames: int = 5) -> Path:
    """Folders of small pictures, one of them empty, one cut."""
    for scene in range(scenes):
        for frame in range(frames):
            write_picture(root / f"s{scene}" / f"f{frame}.png", 8 + scene, 8, seed=frame)
    (root / "s0" / "empty.jpg").write_bytes(b"")
    (root / "s1" / "cut.png").write_bytes((root / "s1" / "f0.png").read_bytes()[:-20])
    return root


def run(root: Path, catalogs: Path, **options: Any) -> Indexed:
    return index("folder", root=root, name="trip", catalogs=catalogs, **{"workers": 1, **options})


def counts(found: Indexed) -> tuple[int, int, int]:
    return found.num_added, found.num_changed, found.num_removed


def test_only_what_changed_is_opened_and_told(tmp_path: Path) -> None:
    root = album(tmp_path / "r")
    first = run(root, tmp_path / "c")
    assert counts(first) == (32, 0, 0)
    assert first.num_read == 31  # all but the empty one
    before = {name: (tmp_path / "c/trip" / name).stat() for name in FILES}
    again = run(root, tmp_path / "c")
    assert (again.changed, counts(again)) == (False, (0, 0, 0))
    assert again.num_read == 1  # the cut one is looked at again: its reason is not in frames
    for name, status in before.items():
        now = (tmp_path / "c/trip" / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    # one file is replaced, one is added in the middle, one is gone, a folder is gone, a folder is new
    write_picture(root / "s2/f1.png", 30, 20)
    write_picture(root / "s3/f2b.png", 31, 21)
    (root / "s3/f4.png").unlink()
    shutil.rmtree(root / "s5")
    write_picture(root / "s55/a.png", 9, 9)
    found = run(root, tmp_path / "c")
    assert (found.changed, counts(found), found.num_read) == (True, (2, 1, 6), 4)
    fresh = run(root, tmp_path / "fresh")
    assert fresh.num_frames == found.num_frames
    assert contents(tmp_path / "c/trip") == contents(tmp_path / "fresh/trip")
    assert not (tmp_path / "c/trip/.index").exists()


def test_a_new_time_alone_is_read_again_and_written(tmp_path: Path) -> None:
    root = album(tmp_path / "r", 2)
    run(root, tmp_path / "c")
    digest = catalog.read_footer(FRAMES, tmp_path / "c/trip/frames.parquet").content_digest
    os.utime(root / "s0/f0.png", ns=(1, 1))
    found = run(root, tmp_path / "c")
    assert (found.changed, counts(found), found.num_read) == (True, (0, 1, 0), 2)
    assert catalog.read_footer(FRAMES, tmp_path / "c/trip/frames.parquet").content_digest == digest


def test_how_closely_to_look_is_remembered(tmp_path: Path) -> None:
    root = tmp_path / "r"
    for number in range(3):
        write_picture(root / "s" / f"{number}.png", 40, 30, seed=number)
    import cv2

    cv2.imwrite(str(root / "s/black.png"), np.zeros((30, 40, 3), np.uint8))
    assert run(root, tmp_path / "c", verify="none").num_read == 0
    assert catalog.read_frames("trip", catalogs=tmp_path / "c").width.isna().all()
    assert run(root, tmp_path / "c", verify="header").frame_statuses == {"ok": 4}
    found = run(root, tmp_path / "c", verify="decode")
    assert found.frame_statuses == {"ok": 3, "black": 1}
    again = run(root, tmp_path / "c")
    assert (again.changed, again.frame_statuses) == (False, {"ok": 3, "black": 1})
    footer = catalog.read_footer(FRAMES, tmp_path / "c/trip/frames.parquet")
    assert footer.parameters == {"dataset": "folder", "verify": "decode"}
    with pytest.raises(ConfigError, match="header"):
        run(root, tmp_path / "c", verify="heade")


def test_copies_by_content(tmp_path: Path) -> None:
    root = album(tmp_path / "r", 2, 4)
    shutil.copy(root / "s0/f1.png", root / "s0/f3_again.png")
    shutil.copy(root / "s0/f1.png", root / "s1/f1_of_s0.png")  # another stream: not a copy inside it
    found = run(root, tmp_path / "c", content_hash=True)
    frames = catalog.read_frames("trip", catalogs=tmp_path / "c")
    copies = frames[frames.duplicate_of.notna()]
    assert list(copies.path) == ["s0/f3_again.png"]
    assert frames.path[int(copies.duplicate_of.iloc[0])] == "s0/f1.png"
    whole = frames[frames.status == "ok"]
    assert all(
        hashlib.sha256((root / row.path).read_bytes()).hexdigest() == row.content_hash for row in whole.itertuples()
    )
    scenes = catalog.read_scenes("trip", catalogs=tmp_path / "c").set_index("scene")
    assert scenes.num_copies.to_dict() == {"s0": 1, "s1": 0}
    assert run(root, tmp_path / "c").num_read == 1
    assert found.num_frames == len(frames)


def test_photos_registered_under_several_names_are_copies_and_not_mined_twice(world: Path, tmp_path: Path) -> None:
    index("megascenes", root=world / "megascenes", catalogs=tmp_path, workers=1)
    frames = catalog.read_frames("megascenes", catalogs=tmp_path)
    copies = frames[frames.duplicate_of.notna()]
    assert len(copies) == 2  # the demo files the first photo of each scene under a second category
    mine_sequences("megascenes", catalogs=tmp_path, workers=1, min_frames=3)
    used = {frame for row in catalog.read_sequences("megascenes", catalogs=tmp_path).frames for frame in row}
    for copy in copies.itertuples():
        first = frames.loc[int(copy.duplicate_of)]
        assert first.path != copy.path
        assert first["stream"] == copy.stream
        assert (world / "megascenes" / first.path).read_bytes() == (world / "megascenes" / copy.path).read_bytes()
        assert int(copy.frame_id) not in used
    assert used & {int(first) for first in copies.duplicate_of}


# ---- the same bytes, however it is run


def test_workers_engine_and_listing_order_do_not_change_a_byte(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = album(tmp_path / "r", 20, 3)
    run(root, tmp_path / "one")
    expected = contents(tmp_path / "one/trip")
    # engine.each starts processes for work of seconds only: here they are wanted at once
    monkeypatch.setattr("mumdata.engine._PROBE_S", -1.0)
    monkeypatch.setattr("mumdata.engine._WORTH_S", -1.0)
    run(root, tmp_path / "eight", workers=8)
    assert contents(tmp_path / "eight/trip") == expected
    real = os.scandir

    class Shuffled:
        def __init__(self, path: Any) -> None:
            with real(path) as entries:
                self.entries = list(entries)
            random.Random(4).shuffle(self.entries)

        def __enter__(self) -> Any:
            return iter(self.entries)

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    run(root, tmp_path / "shuffled")
    assert contents(tmp_path / "shuffled/trip") == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, while it starts and stops
def test_ray_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    root = world / "megascenes"
    index("megascenes", root=root, catalogs=tmp_path / "local", workers=1)
    found = index("megascenes", root=root, catalogs=tmp_path / "ray", engine="ray", workers=2)
    assert found.num_frames > 80
    assert contents(tmp_path / "ray/megascenes") == contents(tmp_path / "local/megascenes")
    with pytest.raises(ConfigError, match="address"):
        index("megascenes", root=root, catalogs=tmp_path / "x", address="ray://nowhere:1")
    with pytest.raises(ConfigError, match="engine"):
        index("megascenes", root=root, catalogs=tmp_path / "x", engine="rey")


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # parts hold a thousand scenes, so that file systems do not suffer; a hundred here, so that the test does not
    module = sys.modules[index.__module__]
    assert module._PART_SCENES >= 1000
    monkeypatch.setattr(module, "_PART_SCENES", 100)
    root = tmp_path / "r"
    picture = write_picture(tmp_path / "p.png", 8, 8).read_bytes()
    for scene in range(260):
        (root / f"{scene:04d}").mkdir(parents=True)
        (root / f"{scene:04d}" / "a.png").write_bytes(picture)
    # the run stops for good once its first part is written: as if it were killed then
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from mumdata import previous\nfrom mumdata.index import index\n"
        "sys.modules[index.__module__]._PART_SCENES = 100\n"
        "write = previous.write_part\n"
        "def stop(*what):\n    write(*what); os.kill(os.getpid(), signal.SIGKILL)\n"
        "previous.write_part = stop\n"
        "index('folder', root=Path(sys.argv[1]), name='trip', catalogs=Path(sys.argv[2]), workers=1)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, root, tmp_path / "c"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "c/trip/frames.parquet").exists()
    assert len(list((tmp_path / "c/trip/.index").iterdir())) == 1
    (tmp_path / "c/trip/.index/part-000007.parquet").write_bytes(b"PAR1 half a part")
    found = run(root, tmp_path / "c")
    assert found.num_read == 160
    assert found.num_added == 260
    run(root, tmp_path / "fresh")
    assert contents(tmp_path / "c/trip") == contents(tmp_path / "fresh/trip")
    assert not (tmp_path / "c/trip/.index").exists()
    # parts of a run with other parameters are not believed
    assert previous.of_parts(tmp_path / "c/trip/.index", "other") == {}


@pytest.mark.slow
def test_kills_at_any_time_leave_a_whole_catalog_or_none(tmp_path: Path) -> None:
    root = tmp_path / "r"
    picture = write_picture(tmp_path / "p.png", 8, 8).read_bytes()
    for scene in range(4000):
        (root / f"{scene:04d}").mkdir(parents=True)
        for frame in range(3):
            (root / f"{scene:04d}" / f"{frame}.png").write_bytes(picture)
    run(root, tmp_path / "fresh")
    expected = contents(tmp_path / "fresh/trip")
    target = tmp_path / "c/trip/frames.parquet"
    draw = random.Random(1)
    command = [sys.executable, "-m", "mumdata", "index", "folder", "--root", root, "--name", "trip"]
    for _ in range(20):
        process = subprocess.Popen(
            [*command, "--catalogs", tmp_path / "c"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(draw.uniform(0.2, 3.0))
        process.kill()
        process.wait()
        if target.exists():
            assert target.read_bytes() == expected["frames.parquet"]
            shutil.rmtree(tmp_path / "c")
    run(root, tmp_path / "c")
    assert contents(tmp_path / "c/trip") == expected
    left = [path.name for path in (tmp_path / "c/trip").iterdir()]
    assert set(left) >= set(FILES)
    assert not [name for name in left if name.endswith(".tmp")]


# ---- the writer


def rows(values: list[int]) -> pa.Table:
    return catalog.build(
        QUARANTINE,
        {
            "dataset": ["d"] * len(values),
            "path": [f"p{value}" for value in values],
            "reason": [f"r{value % 3}" for value in values],
            "detail": [""] * len(values),
            "found_by": ["index"] * len(values),
        },
    )


@settings(max_examples=40, deadline=None)
@given(
    old=st.lists(st.integers(0, 5), max_size=30),
    keep=st.integers(0, 30),
    new=st.lists(st.integers(0, 5), max_size=30),
    cuts=st.lists(st.integers(0, 40), max_size=5),
)
def test_a_catalog_written_in_pieces_equals_one_written_at_once(
    tmp_path_factory: pytest.TempPathFactory, old: list[int], keep: int, new: list[int], cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("w")
    values = old[:keep] + new
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "_ROW_GROUP", 7)
        catalog.write(QUARANTINE, rows(old), folder / "old.parquet")
        catalog.write(QUARANTINE, rows(values), folder / "new.parquet")
        with Writer(QUARANTINE, folder / "old.parquet") as writer:
            edges = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
            for start, end in itertools.pairwise(edges):
                writer.add(rows(values[start:end]))
            digest, changed = writer.finish()
    assert changed == (values != old)
    assert digest == content_digest(rows(values))
    assert (folder / "old.parquet").read_bytes() == (folder / "new.parquet").read_bytes()
    assert catalog.read(QUARANTINE, folder / "old.parquet").column("path").to_pylist() == [f"p{v}" for v in values]


def test_a_failed_run_leaves_the_old_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = album(tmp_path / "r", 3)
    run(root, tmp_path / "c")
    before = contents(tmp_path / "c/trip")
    write_picture(root / "s0/more.png")

    def fails(*_: Any) -> Any:
        raise MumError("the disk is on fire")

    monkeypatch.setattr("mumdata.scan.look", fails)
    with pytest.raises(MumError, match="on fire"):
        run(root, tmp_path / "c")
    assert contents(tmp_path / "c/trip") == before
    assert sorted(path.name for path in (tmp_path / "c/trip").iterdir()) == sorted([*FILES, "root.toml"])


def test_scenes_of_another_run_are_not_believed(tmp_path: Path) -> None:
    """A crash between the two files leaves scenes.parquet of other frames: all frames are looked at again."""
    root = album(tmp_path / "r", 2)
    run(root, tmp_path / "c")
    other = album(tmp_path / "other", 3)
    run(other, tmp_path / "d")
    shutil.copy(tmp_path / "d/trip/scenes.parquet", tmp_path / "c/trip/scenes.parquet")
    assert run(root, tmp_path / "c").num_read == 11
    assert catalog.read_footer(SCENES, tmp_path / "c/trip/scenes.parquet").inputs == {
        "frames": catalog.read_footer(FRAMES, tmp_path / "c/trip/frames.parquet").content_digest
    }


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    root, folder = album(tmp_path / "r", 2), tmp_path / "c/trip"
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom mumdata.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1]) / 'frames.parquet') as path:\n"
        "    path.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, folder], check=False).returncode == -signal.SIGKILL
    (left,) = folder.iterdir()
    # that of a process that lives, and that of another machine, are not ours to remove
    mine = left.with_name(left.name.replace(left.name.split(".")[-2], str(os.getppid())))
    other = folder / ".frames.parquet.elsewhere.1.tmp"
    for path in (mine, other):
        path.write_bytes(b"half")
    run(root, tmp_path / "c")
    assert not left.exists()
    assert mine.exists()
    assert other.exists()
