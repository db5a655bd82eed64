"""The loader: bytes of frames, decoding processes, their ends, bad images, and the way to the device."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mumtrain.loader
import mumtrain.reading.decode
import mumtrain.reading.frames
import mumtrain.reading.worker
import mumtrain.reading.workers
from mumdata import rng
from mumdata.errors import CatalogError, ConfigError, DecodeError, LayoutError, MumError
from mumtrain.config import Config, apply
from mumtrain.loader import Loaded, Loader
from mumtrain.reading.frames import FrameTable
from mumtrain.reading.ring import memory_size
from mumtrain.reading.worker import BAD, BUG, DONE, MOST_JOB_FRAMES, Job, Result
from mumtrain.reading.workers import Workers, num_workers
from mumtrain.recipes import recipe
from mumtrain.sampler import Batch, Drawn
from tests.conftest import write_picture

KEYS = [(step, slot) for step in range(3) for slot in (0, 1)]


def small(*sets: str) -> Config:
    return apply(
        recipe("debug-cpu"),
        ["model.patch=16", "data.size=32", "data.frames_per_slot=8", "data.views_max=4", "data.workers=0", *sets],
    )


def table_of(names: Sequence[str], **columns: Sequence[Any]) -> pa.Table:
    """A frames' twin over files of their own, unless `columns` say otherwise."""
    none = [None] * len(names)
    types = {
        "path": pa.large_string(),
        "archive": pa.dictionary(pa.int32(), pa.string()),
        "codec": pa.dictionary(pa.int32(), pa.string()),
        "offset": pa.int64(),
        "bytes": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "upright_quarter_turns": pa.int8(),
    }
    return pa.table(
        {name: pa.array(names if name == "path" else columns.get(name, none), kind) for name, kind in types.items()}
    )


class ToySampler:
    """Draws from sequences of consecutive frames, with what a loader uses of a Sampler; quick to start."""

    def __init__(self, lengths: Sequence[int], config: Config) -> None:
        ends = np.cumsum([0, *lengths]).tolist()
        self._rows = [np.arange(a, b, dtype=np.int32) for a, b in itertools.pairwise(ends)]
        self._views = range(min(config.data.views_min, max(lengths)), min(4, max(lengths)) + 1)
        self._frames = config.data.frames_per_slot
        self.tables = [SimpleNamespace(frames=self._rows.__getitem__, single_view=max(lengths) == 1)]

    def batch(self, step: int, slot: int) -> Batch:
        views = int(np.random.default_rng([step, slot]).choice(self._views))
        drawn = (self.draw(step, slot, number, views, views == 1) for number in range(self._frames // views))
        return Batch(step, slot, views, tuple(drawn))

    def draw(self, step: int, slot: int, number: int, views: int, is_single: bool, attempt: int = 0) -> Drawn:
        random = np.random.default_rng([step, slot, number, attempt])
        row = int(random.choice([row for row, frames in enumerate(self._rows) if len(frames) >= views]))
        return Drawn(0, row, random.permutation(self._rows[row])[:views])


def sampler_of(lengths: Sequence[int], config: Config) -> Any:
    return ToySampler(lengths, config)


def make_loader(root: Path, sequences: Sequence[Sequence[str]], *sets: str) -> Loader:
    """A loader over files that may not all be whole."""
    names = [name for names in sequences for name in names]
    config = small(*sets)
    return Loader(
        sampler_of([len(names) for names in sequences], config), [FrameTable("toy", root, table_of(names))], config
    )


def load(loader: Loader, keys: Sequence[tuple[int, int]] = KEYS) -> list[Loaded]:
    """All slots, their views copied out of the ring."""
    loaded = []
    with loader:
        for item in loader.load(keys):
            item.views = item.views.copy()
            loaded.append(item)
    return loaded


def photos(root: Path, num: int, sequence: str = "a") -> list[str]:
    names = [f"{sequence}/{i}.jpg" for i in range(num)]
    for i, name in enumerate(names):
        write_picture(root / name, 40 + i, 36, seed=i)
    return names


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def assert_equal(some: Sequence[Loaded], others: Sequence[Loaded]) -> None:
    for one, other in zip(some, others, strict=True):
        assert np.array_equal(one.views, other.views)
        assert (one.batch.step, one.batch.slot, one.bad) == (other.batch.step, other.batch.slot, other.bad)
        assert one.num_read == other.num_read


def all_gone(pids: Sequence[int], within_s: float = 10.0) -> bool:
    """Whether no process of these numbers runs any more; one that nobody has waited for yet is gone too."""

    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False

    until = time.monotonic() + within_s
    while any(map(runs, pids)):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


# ---- cells

KINDS: list[tuple[str, pa.DataType, st.SearchStrategy[Any]]] = [
    ("path", pa.large_string(), st.text(max_size=5)),
    ("archive", pa.dictionary(pa.int32(), pa.string()), st.sampled_from([None, "a.zip", "ü/b.tar"])),
    ("codec", pa.dictionary(pa.int8(), pa.large_string()), st.sampled_from([None, "stored", "deflate"])),
    ("offset", pa.int64(), st.none() | st.integers(-(2**63), 2**63 - 1)),
    ("bytes", pa.uint32(), st.none() | st.integers(0, 2**32 - 1)),
    ("width", pa.int32(), st.none() | st.integers(-(2**31), 2**31 - 1)),
    ("height", pa.int16(), st.none() | st.integers(-(2**15), 2**15 - 1)),
    ("upright_quarter_turns", pa.int8(), st.none() | st.integers(0, 3)),
]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_cells_are_what_arrow_says(tmp_path: Path, data: st.DataObject) -> None:
    """Nulls, dictionaries, several chunks, slices that begin in the middle of a byte of the validity bits."""
    num = data.draw(st.integers(1, 20))
    columns = {}
    for name, kind, values in KINDS:
        array = pa.array(data.draw(st.lists(values, min_size=num + 3, max_size=num + 3)), kind)
        cut = data.draw(st.integers(0, num))
        pieces = [array.slice(3, cut), array.slice(3 + cut)]
        columns[name] = pa.chunked_array([piece for piece in pieces if len(piece)], kind)
    table = pa.table(columns)
    truth = table.to_pylist()
    file = tmp_path / "twin.arrow"
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        # one dictionary for all, as a file needs
        writer.write_table(table.combine_chunks().unify_dictionaries())
    for frames in (FrameTable("toy", tmp_path, table), FrameTable.open("toy", tmp_path, file)):
        for number, row in enumerate(truth):
            assert frames.row(number) == row
            assert list(frames.frame(number))[:-1] == list(row.values())[:-1]
            assert frames.frame(number).turns == (row["upright_quarter_turns"] or 0)
        for number in (-1, num, num + 5):
            with pytest.raises(IndexError, match=f"no frame {number}"):
                frames.frame(number)


def twin_of(table: pa.Table, path: Path) -> Path:
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return path


def test_a_mapped_table_travels_as_its_path(tmp_path: Path) -> None:
    table = table_of([f"{i}.jpg" for i in range(5000)])
    mapped = FrameTable.open("toy", tmp_path, twin_of(table, tmp_path / "twin.arrow"))
    assert len(pickle.dumps(mapped)) < 500
    for frames in (mapped, FrameTable("toy", tmp_path, table)):
        again = pickle.loads(pickle.dumps(frames))  # noqa: S301
        assert (again.name, again.root) == ("toy", tmp_path)
        assert again.row(4999) == frames.row(4999)
    for content in (b"", b"no Arrow at all", (tmp_path / "twin.arrow").read_bytes()[:-40]):
        (tmp_path / "broken.arrow").write_bytes(content)
        with pytest.raises(CatalogError, match=r"broken\.arrow is not a whole Arrow file"):
            FrameTable.open("toy", tmp_path, tmp_path / "broken.arrow")


def test_memory_does_not_grow_over_a_large_twin(tmp_path: Path) -> None:
    names = [f"folder/of/some/length/{i:040d}.jpg" for i in range(200_000)]
    twin = twin_of(table_of(names, offset=range(len(names))), tmp_path / "twin.arrow")

    def resident() -> int:
        # kilobytes of the twin that this process has mapped
        total, inside = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0]:
                inside = line.endswith(str(twin))
            elif inside and line.startswith("Rss:"):
                total += int(line.split()[1])
        return total

    numbers = np.random.default_rng(0).permutation(len(names))[:3000].tolist()
    frames = FrameTable.open("toy", tmp_path, twin)
    assert [frames.frame(number).path for number in numbers] == [names[number] for number in numbers]
    assert [frames.frame(number).offset for number in numbers] == numbers
    assert resident() < 5000
    frames.table.column("path")[len(names) // 2].as_py()
    before = resident()
    frames.table.column("path").to_pylist()
    assert resident() > before + 10_000  # else this test shows nothing


# ---- bytes


def packed(root: Path) -> tuple[pa.Table, list[bytes]]:
    """Eight pictures: as files, in a tar, stored and deflated in a zip, and in a Parquet shard; and their bytes."""
    names = photos(root, 8)
    truth = [(root / name).read_bytes() for name in names]
    columns: dict[str, list[Any]] = {name: [None] * 8 for name in ("archive", "codec", "offset", "bytes")}

    def put(row: int, *values: Any) -> None:
        for name, value in zip(columns, values, strict=True):
            columns[name][row] = value

    with tarfile.open(root / "some.tar", "w") as tar:
        for row in (2, 3):
            tar.add(root / names[row], names[row])
    with tarfile.open(root / "some.tar") as tar:
        for row, member in zip((2, 3), tar, strict=True):
            put(row, "some.tar", "stored" if row == 2 else None, member.offset_data, member.size)
    with zipfile.ZipFile(root / "some.zip", "w") as pack:
        for row in (4, 5, 6):
            pack.write(root / names[row], names[row], zipfile.ZIP_STORED if row == 4 else zipfile.ZIP_DEFLATED)
        for row, info in zip((4, 5, 6), pack.infolist(), strict=True):
            begin = info.header_offset + 30 + len(info.filename)
            put(row, "some.zip", "stored" if row == 4 else "deflate", begin, info.compress_size)
    pq.write_table(pa.table({"image": [b"x", truth[7]]}), root / "shard.parquet")
    put(7, "shard.parquet", "parquet", 1, len(truth[7]))
    for name in names[2:]:
        (root / name).unlink()
    return table_of(names, **columns), truth


def test_all_kinds_of_frames_read_alike(tmp_path: Path) -> None:
    files, some = tmp_path / "files", tmp_path / "packed"
    table, truth = packed(some)
    frames = FrameTable("toy", some, table)
    assert [frames.read(frames.frame(number)) for number in range(8)] == truth
    names = photos(files, 8)
    whole = load(make_loader(files, [names]))
    assert all(item.views.std() > 10 for item in whole)
    for workers in (0, 2):
        config = small(f"data.workers={workers}")
        assert_equal(load(Loader(sampler_of([8], config), [frames], config)), whole)


def test_frames_that_are_not_there(tmp_path: Path) -> None:
    write_picture(tmp_path / "root" / "a.jpg")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "root" / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "root" / "pipe.jpg")
    with open(tmp_path / "root" / "huge.jpg", "wb") as file:
        file.truncate(1 << 40)  # a hole: no disk is used, and no memory may be
    size = (tmp_path / "root" / "a.jpg").stat().st_size
    frames = FrameTable("toy", tmp_path / "root", table_of(["x"]))

    def read(path: str, archive: str | None = None, codec: str | None = None, begin: int = 0, count: int = 1) -> bytes:
        return frames.read(frames.frame(0)._replace(path=path, archive=archive, codec=codec, offset=begin, bytes=count))

    for path in ("../secret.jpg", str(tmp_path / "secret.jpg"), "folder.jpg/../../secret.jpg", "a.jpg\0"):
        for arguments in ((path,), ("x", path), ("x", path, "deflate")):
            with pytest.raises(LayoutError, match="leaves its root"):
                read(*arguments)
    for path in ("folder.jpg", "pipe.jpg"):
        with pytest.raises(DecodeError, match="no file"):
            read(path)
        with pytest.raises(DecodeError, match="no file"):
            read("x", path)
    with pytest.raises(DecodeError, match=r"huge\.jpg: it has 1,099,511,627,776 bytes"):
        read("huge.jpg")
    with pytest.raises(DecodeError, match="beyond the limit"):
        read("x", "huge.jpg", "stored", 5, 1 << 39)
    assert read("x", "a.jpg", "stored", 0, size) == (tmp_path / "root" / "a.jpg").read_bytes()
    for begin, count in ((0, size + 1), (size, 1), (-1, 1), (3, -1)):
        with pytest.raises(DecodeError, match=r"x in a\.jpg: bytes .* exceed the file's"):
            read("x", "a.jpg", "stored", begin, count)
    with pytest.raises(DecodeError, match="codec 'rar'"):
        read("x", "a.jpg", "rar")
    for path in ("none.jpg", "a.jpg/none.jpg"):
        for archive in (None, path):
            with pytest.raises(FileNotFoundError):
                frames.read_patiently(frames.frame(0)._replace(path=path, archive=archive, offset=0, bytes=1))


def test_archives_stay_open_and_replaced_ones_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mumtrain.reading.frames, "_MOST_ARCHIVES", 3)
    monkeypatch.setattr(mumtrain.reading.frames, "_archives", mumtrain.reading.frames._Archives())
    frames = FrameTable("toy", tmp_path, table_of(["x"]))
    for number in range(8):
        (tmp_path / f"{number}.tar").write_bytes(b"%d" % number * 10)

    def read(number: int) -> bytes:
        return frames.read(frames.frame(0)._replace(archive=f"{number}.tar", codec="stored", offset=2, bytes=3))

    def opened() -> set[str]:
        links = (Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return {os.readlink(link) for link in links if link.is_symlink() and str(tmp_path) in os.readlink(link)}

    for number in (0, 1, 2, 3, 0, 4, 5, 0):
        assert read(number) == b"%d" % number * 3
    assert opened() == {str(tmp_path / f"{number}.tar") for number in (4, 5, 0)}
    (tmp_path / "new").write_bytes(b"new content")
    os.replace(tmp_path / "new", tmp_path / "0.tar")
    assert read(0) == b"000"  # within the second
    monkeypatch.setattr(mumtrain.reading.frames, "_TRUSTED_S", -1.0)
    assert read(0) == b"w c"
    assert read(5) == b"555"
    (tmp_path / "5.tar").unlink()
    with pytest.raises(FileNotFoundError):
        read(5)


@pytest.mark.slow
def test_a_disk_that_fails_is_an_error_and_no_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mumtrain.reading.frames, "RETRY_PAUSES_S", (0.0, 0.0))
    names = photos(tmp_path / "disk", 4)
    read, tries = mumtrain.reading.frames._whole_file, []

    def sometimes(path: str) -> bytes:
        tries.append(path)
        if tries.count(path) <= fails:
            raise OSError(5, "Input/output error")
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(mumtrain.reading.frames, "_whole_file", sometimes)
        fails = 2
        assert not any(item.bad for item in load(make_loader(tmp_path / "disk", [names]), KEYS[:1]))
        fails = 10**6
        with pytest.raises(MumError, match=r"a/\d.jpg of toy under .*disk: Input/output error"):
            load(make_loader(tmp_path / "disk", [names]))
    for workers in (0, 1):
        loader = make_loader(tmp_path / "disk", [names], f"data.workers={workers}")
        if workers == 0:
            shutil.rmtree(tmp_path / "disk")  # the whole mount is gone: not a thousand bad images
        begin = time.monotonic()
        with pytest.raises(MumError, match=r"cannot read a/\d.jpg of toy under .*disk: No such file"):
            load(loader)
        if workers:  # this one has its own pauses
            assert time.monotonic() - begin > 1
            assert all_gone(loader.pids)


# ---- slots


@pytest.mark.parametrize(
    "sets",
    [
        ("workers=1", "start_method=spawn", "prefetch=1"),
        ("workers=4", "start_method=spawn", "prefetch=3"),
        ("workers=1", "start_method=fork", "prefetch=5"),
        ("workers=4", "start_method=fork", "prefetch=1"),
    ],
    ids=" ".join,
)
def test_slots_do_not_depend_on_processes_or_the_ring(tmp_path: Path, sets: tuple[str, ...]) -> None:
    """With broken images among them, random crops and several sequences."""
    one, other = photos(tmp_path, 7), photos(tmp_path, 5, "b")
    truncate(tmp_path / one[2])
    (tmp_path / other[1]).unlink()
    common = ("data.crop=random_resized", "data.frames_per_slot=21", "data.jitter=0.2")
    keys = [(step, slot) for step in range(5) for slot in (0, 1)] + [(3, 0), (0, 1)]
    plain = load(make_loader(tmp_path, [one, other], *common), keys)
    assert [(item.batch.step, item.batch.slot) for item in plain] == keys
    assert sum(len(item.bad) for item in plain) > 10
    assert np.array_equal(plain[-1].views, plain[1].views)
    assert len({item.views.tobytes() for item in plain[:10]}) == 10
    loader = make_loader(tmp_path, [one, other], *common, *(f"data.{value}" for value in sets))
    assert len(loader.pids) == int(sets[0][-1])
    assert_equal(load(loader, keys), plain)


@pytest.mark.parametrize("workers", [0, 2])
def test_views_hold_until_the_slot_after_the_next(tmp_path: Path, workers: int) -> None:
    names = photos(tmp_path, 6)
    keys = [(step, 0) for step in range(12)]
    truth = load(make_loader(tmp_path, [names]), keys)
    with make_loader(tmp_path, [names], f"data.workers={workers}", "data.prefetch=1") as loader:
        before: Loaded | None = None
        for wanted, item in zip(truth, loader.load(keys), strict=True):
            time.sleep(0.005)  # in which the workers fill all that they may
            assert np.array_equal(item.views, wanted.views)
            if before is not None:
                assert np.array_equal(before.views, truth[before.batch.step].views)
            before = item
            assert np.shares_memory(item.views, loader.ring)
            assert item.views.strides[2] == 1  # channels last
    assert before is not None
    assert np.array_equal(before.views, truth[-1].views)  # readable after the end


def test_a_new_load_ends_the_one_before(tmp_path: Path) -> None:
    names = photos(tmp_path, 6)
    truth = load(make_loader(tmp_path, [names]))
    with make_loader(tmp_path, [names], "data.workers=2", "data.prefetch=4") as loader:
        first = loader.load(KEYS)
        next(first)
        for turn in range(3):
            again = loader.load(KEYS[turn:])
            for wanted in truth[turn : turn + 2]:
                assert np.array_equal(next(again).views, wanted.views)
        with pytest.raises(RuntimeError, match="loads something else"):
            next(first)
        assert list(loader.load([])) == []
        last = loader.load(KEYS)
        os.kill(loader.pids[0], signal.SIGSTOP)  # as if it hung
    loader.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(last)
    assert all_gone(loader.pids)


def test_what_an_older_load_left_under_way_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = mumtrain.reading.worker.draw_view

    def slow(data: bytes, turns: int, config: Any, where: Any, out: np.ndarray) -> None:
        if where.slot == 9:
            time.sleep(0.02)
        draw(data, turns, config, where, out)

    names = photos(tmp_path, 6)
    keys = [(1, 0), (1, 1)]
    truth = load(make_loader(tmp_path, [names]), keys)
    monkeypatch.setattr(mumtrain.reading.worker, "draw_view", slow)  # which forked processes inherit
    sets = ("data.workers=3", "data.prefetch=2", "data.start_method=fork")
    with make_loader(tmp_path, [names], *sets) as loader:
        next(loader.load([(0, 0), (0, 9), (2, 9), (3, 9)]))
        held = list(loader.load(keys))
        time.sleep(0.5)
        for item, wanted in zip(held, truth, strict=True):
            assert np.array_equal(item.views, wanted.views)


def test_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in (0, 1, 40):
        assert num_workers(small(f"data.workers={asked}")) == asked
    for cores, wanted in ((1, 1), (3, 3), (200, 16)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        assert num_workers(small("data.workers=-1")) == wanted
    monkeypatch.delattr(os, "memfd_create")
    assert num_workers(small("data.workers=-1")) == 0
    with pytest.raises(ConfigError, match=r"data\.workers=0"):
        Workers([], small(), num=1, buffers=3)


def test_the_training_process_never_waits_for_a_full_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mumtrain.reading.workers, "JOB_FRAMES", 1)
    names = photos(tmp_path, 1)
    workers = Workers([FrameTable("toy", tmp_path, table_of(names))], small(), num=1, buffers=3)
    try:
        os.kill(workers.pids[0], signal.SIGSTOP)
        frame = np.zeros((1, 2), np.int32)
        for number in range(1, 2001):
            workers.submit(Job(number, 0, 0, 1, 0, 0, frame))
        assert workers.results(0) == []
        os.kill(workers.pids[0], signal.SIGCONT)
        done = set()
        while len(done) < 2000:
            done |= {result.job for result in workers.results(0.1) if result.kind == DONE}
        assert done == set(range(1, 2001))
        assert workers.ring[0, 0].std() > 10
        for number in range(3000, 4000):
            workers.submit(Job(number, 0, 0, 1, 0, 0, frame))
        workers.drain()
        time.sleep(0.05)
        assert workers.results(0) == []
    finally:
        workers.close()


def test_messages() -> None:
    job = Job(2**63, -1, 2**40, 24, 4, 88, np.array([[0, 5], [11, 2**31 - 1]], np.int32))
    again = Job.unpacked(job.packed())
    assert again[:6] == job[:6]
    assert np.array_equal(again.frames, job.frames)
    for text in ("", "unreadable\na/ü\udc80.jpg: broken"):
        assert Result.unpacked(Result(BAD, 7, 3, text).packed()) == Result(BAD, 7, 3, text)
    long = Result.unpacked(Result(BUG, 7, 3, "begin" + "x" * 10**6 + "end").packed()).text
    assert len(long) < 10_000
    for cut in (job.packed()[:-8], job.packed()[:-3], job.packed()[:9], b""):
        with pytest.raises(ValueError, match="message"):
            Job.unpacked(cut)
    with pytest.raises(ValueError, match="message"):
        Result.unpacked(b"123")
    with pytest.raises(ValueError, match="message"):
        Job(1, 0, 0, 1, 0, 0, np.zeros((MOST_JOB_FRAMES + 1, 2), np.int32)).packed()
    assert (long[:5], long[-3:]) == ("begin", "end")


@pytest.mark.slow
def test_slots_of_very_many_frames(tmp_path: Path) -> None:
    names = photos(tmp_path, 1)
    config = small("data.size=16", "model.patch=8", "data.frames_per_slot=40000", "data.prefetch=30", "data.workers=1")
    workers = Workers([FrameTable("toy", tmp_path, table_of(names))], config, num=1, buffers=32)
    try:
        num = workers.frames_per_job
        assert 1000 < num <= MOST_JOB_FRAMES
        workers.submit(Job(1, 0, 0, 1, 31, 0, np.zeros((num, 2), np.int32)))
        found: list[Result] = []
        while not found:
            found = workers.results(0.1)
        assert found == [Result(DONE, 1)]
        assert all(workers.ring[31, place].std() > 10 for place in (0, num // 2, num - 1))
    finally:
        workers.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_ring_beyond_the_machine_is_refused_first(tmp_path: Path, workers: int) -> None:
    names = photos(tmp_path, 2)
    with pytest.raises(
        ConfigError, match=r"would take [\d,.]+ GiB .*data\.frames_per_slot=1000000.* more than the [\d.]+ GiB"
    ) as told:
        make_loader(tmp_path, [names], "data.frames_per_slot=1000000", "data.size=960", f"data.workers={workers}")
    assert ("data.prefetch" in str(told.value)) == (workers == 1)


def test_the_memory_that_a_process_may_use() -> None:
    size = memory_size()
    assert size is not None
    assert 1 << 26 < size <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_ring_that_cannot_be_allocated(tmp_path: Path) -> None:
    photos(tmp_path, 2)
    text = f"""
import resource, sys
sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
from pathlib import Path
from tests.test_loader import make_loader
from mumdata.errors import ConfigError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    make_loader(Path({str(tmp_path)!r}), [["a/0.jpg", "a/1.jpg"]], "data.workers=1")
except ConfigError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert told.stderr == ""
    for word in ("data.prefetch", "data.frames_per_slot", "data.size", "ulimit -f", "data.workers=0", "MiB"):
        assert word in told.stdout


@pytest.mark.slow
def test_more_archives_than_files_that_may_be_open(tmp_path: Path) -> None:
    names = [f"{number}.tar" for number in range(50)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes([number] * 9))
    (tmp_path / "own.jpg").write_bytes(b"own file")
    text = f"""
import resource, sys
sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
from pathlib import Path
from tests.test_loader import table_of
from mumdata.errors import MumError
from mumtrain.reading import frames
names = {names!r}
columns = dict(archive=names, codec=["stored"] * 50, offset=[0] * 50, bytes=[9] * 50)
table = frames.FrameTable("toy", Path({str(tmp_path)!r}), table_of([f"{{n}}/a.jpg" for n in names], **columns))
alone = frames.FrameTable("toy", Path({str(tmp_path)!r}), table_of(["own.jpg"]))
resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
for _ in range(2):
    for number in range(50):
        assert table.read_patiently(table.frame(number)) == bytes([number] * 9)
        assert alone.read_patiently(alone.frame(0)) == b"own file"
assert len(frames._archives._open) > 4
held = []
try:
    while True:
        held.append(open("/dev/null"))
except OSError:
    pass
assert alone.read_patiently(alone.frame(0)) == b"own file"  # archives gave way
frames.forget_archives()
try:
    while True:
        held.append(open("/dev/null"))
except OSError:
    pass
frames.RETRY_PAUSES_S = ()
try:
    alone.read_patiently(alone.frame(0))
except MumError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert told.stderr == ""
    assert "own.jpg of toy: Too many open files; raise 'ulimit -n'" in told.stdout


# ---- bad images


@pytest.mark.parametrize("mirror", ["none", "per_sequence", "per_view"])
def test_mirroring(tmp_path: Path, mirror: str) -> None:
    """A picture dark on the left and bright on the right tells how often each view of a sequence is mirrored."""
    ramp = np.broadcast_to(np.linspace(0, 255, 48).astype(np.uint8)[None, :, None], (40, 48, 3))
    names = [f"{i}.png" for i in range(4)]
    for name in names:
        cv2.imwrite(str(tmp_path / name), ramp)
    loader = make_loader(tmp_path, [names], f"data.mirror={mirror}", "data.views_min=4")
    loaded = load(loader, [(step, slot) for step in range(60) for slot in (0, 1)])
    mirrored = np.concatenate(
        [item.views[..., :4].mean((2, 3, 4)) > item.views[..., -4:].mean((2, 3, 4)) for item in loaded]
    )
    assert mirrored.shape == (240, 4)
    if mirror == "none":
        assert not mirrored.any()
        return
    assert 0.4 < mirrored.mean() < 0.6
    whole_sequences = (mirrored == mirrored[:, :1]).all(1).mean()
    assert whole_sequences == 1 if mirror == "per_sequence" else whole_sequences < 0.3


def test_a_truncated_image_is_replaced_by_another_of_its_sequence(tmp_path: Path) -> None:
    one, other = photos(tmp_path, 6), photos(tmp_path, 6, "b")
    keys = [(step, slot) for step in range(8) for slot in (0, 1)]
    whole = load(make_loader(tmp_path, [one, other]), keys)
    truncate(tmp_path / one[2])
    (tmp_path / one[4]).unlink()
    broken = load(make_loader(tmp_path, [one, other]), keys)
    num_bad = 0
    for before, after in zip(whole, broken, strict=True):
        num_bad += len(after.bad)
        assert after.num_read == len(after.batch.sequences) * after.batch.views + len(after.bad)
        for number, drawn in enumerate(before.batch.sequences):
            for view, frame_id in enumerate(drawn.frame_ids):
                position = number * before.batch.views + view
                of_this = [bad for bad in after.bad if bad.position == position]
                # only the views of the two files change, and the view is an image all the same
                assert bool(of_this) == (frame_id in (2, 4))
                assert np.array_equal(before.views[number, view], after.views[number, view]) == (not of_this)
                assert after.views[number, view].std() > 10
    assert num_bad > 10
    reasons = {(bad.path, bad.reason) for item in broken for bad in item.bad}
    assert reasons == {("a/2.jpg", "unreadable"), ("a/4.jpg", "missing")}


def test_which_images_substitute(tmp_path: Path) -> None:
    """Grey pictures tell which frame a view shows: first those unused in a hashed order, then the good ones again."""
    names = [f"{i}.png" for i in range(7)]
    for i, name in enumerate(names):
        cv2.imwrite(str(tmp_path / name), np.full((40, 40, 3), 30 * i + 10, np.uint8))
    bad = {1, 2, 3, 6}
    for number in bad:
        truncate(tmp_path / names[number])
    loaded = load(make_loader(tmp_path, [names], "data.views_min=4"), [(step, 0) for step in range(20)])
    repeats = 0
    for item in loaded:
        for number, drawn in enumerate(item.batch.sequences):
            key = rng.key(0, item.batch.step, 0, number, "substitute", 1)
            unused = [frame for frame in rng.permutation(key, 7).tolist() if frame not in drawn.frame_ids]
            good = [frame for frame in drawn.frame_ids.tolist() if frame not in bad]
            wanted = []
            for view, frame in enumerate(drawn.frame_ids.tolist()):
                while frame in bad and unused:
                    frame = unused.pop(0)
                    if frame not in bad:
                        good.append(frame)
                if frame in bad:
                    frame = good[view % len(good)]
                    repeats += frame != good[0]
                wanted.append(frame)
            shown = (item.views[number].mean((1, 2, 3)) - 10) / 30
            assert shown.tolist() == wanted
            assert item.frames[number].tolist() == [[0, frame] for frame in wanted]
    assert repeats > 5


def test_a_sequence_without_a_good_image_gives_way_to_another(tmp_path: Path) -> None:
    single = photos(tmp_path, 5)
    truncate(tmp_path / single[1])
    loaded = load(
        make_loader(tmp_path, [[name] for name in single]), [(step, slot) for step in range(6) for slot in (0, 1)]
    )
    assert sum(len(item.bad) for item in loaded) > 5
    assert all((item.views.std((2, 3, 4)) > 10).all() for item in loaded)
    for name in single:
        (tmp_path / name).write_bytes(b"")
    for workers in (0, 1):
        with pytest.raises(MumError, match=r"no readable image.*toy: a/\d.jpg"):
            load(make_loader(tmp_path, [[name] for name in single], f"data.workers={workers}"))


# ---- the ends of processes


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies(tmp_path: Path, method: str, number: signal.Signals, capfd: Any) -> None:
    names = photos(tmp_path, 6)
    loader = make_loader(tmp_path, [names], "data.workers=3", f"data.start_method={method}")
    slots = loader.load((step, 0) for step in range(10**9))
    for _ in range(3):
        next(slots)
    os.kill(loader.pids[1], number)
    begin = time.monotonic()
    with pytest.raises(
        MumError, match=rf"decoding worker 1 \(process {loader.pids[1]}\) was .* by {number.name}"
    ) as told:
        for _ in slots:
            pass
    assert time.monotonic() - begin < 10
    assert "data.workers" in str(told.value)
    assert ("memory runs out" in str(told.value)) == (number == signal.SIGKILL)
    assert all_gone(loader.pids)
    with pytest.raises(RuntimeError):
        next(slots)
    loader.close()


def test_a_worker_that_crashes_tells_its_image(tmp_path: Path, capfd: Any) -> None:
    """A pipe in the place of the table's root makes no crash, but a stopped worker is surely at its image."""
    names = photos(tmp_path, 1)
    frames = FrameTable("toy", tmp_path, table_of(names, archive=["some.tar"], codec=["stored"], offset=[0], bytes=[9]))
    workers = Workers([frames], small(), num=1, buffers=3)
    workers.submit(Job(5, 0, 0, 1, 0, 0, np.zeros((1, 2), np.int32)))
    os.kill(workers.pids[0], signal.SIGSTOP)
    workers._notes[0] = 5, 0
    os.kill(workers.pids[0], signal.SIGBUS)
    os.kill(workers.pids[0], signal.SIGCONT)
    with pytest.raises(MumError, match=r"ended by SIGBUS at toy: a/0\.jpg in some\.tar; check that file"):
        deque(iter(lambda: workers.results(0.1), None), maxlen=0)


@pytest.mark.slow
def test_a_crash_of_a_muted_decoder_is_heard(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 40, 36)
    text = f"""
import os, signal, sys
sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
from pathlib import Path
import mumtrain.reading.decode
from mumdata.errors import MumError
from tests.test_loader import load, make_loader

mumtrain.reading.decode.images.decode = lambda *_: os.kill(os.getpid(), signal.SIGSEGV)
loader = make_loader(
    Path({str(tmp_path)!r}), [["a.png"]], "data.workers=1", "data.start_method=fork", "data.views_min=1"
)
try:
    load(loader)
except MumError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert "SIGSEGV at toy: a.png" in told.stdout
    assert "Segmentation fault" in told.stderr


def test_an_image_that_does_not_come_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a mount that hangs: training waits, and says for what."""
    monkeypatch.setattr(mumtrain.loader, "_SLOW_S", 0.2)
    names = photos(tmp_path, 6)
    with make_loader(tmp_path, [names], "data.workers=1", "data.prefetch=1") as loader:
        slots = loader.load((step, 0) for step in range(100))
        next(slots)
        os.kill(loader.pids[0], signal.SIGSTOP)

        def later() -> None:
            while not caplog.records:
                time.sleep(0.01)
            os.kill(loader.pids[0], signal.SIGCONT)

        thread = threading.Thread(target=later, daemon=True)
        thread.start()
        deque(slots, maxlen=0)
        thread.join()
    assert "a disk may hang; workers are at" in caplog.text


def test_a_bug_in_a_worker_keeps_its_traceback(tmp_path: Path) -> None:
    names = photos(tmp_path, 2)
    for method in ("spawn", "fork"):
        config = small("data.workers=2", f"data.start_method={method}")
        loader = Loader(sampler_of([6], config), [FrameTable("toy", tmp_path, table_of(names))], config)
        with pytest.raises(RuntimeError, match=r"(?s)decoding worker failed.*Traceback.*IndexError: toy has 2 frames"):
            load(loader)
        assert all_gone(loader.pids)


def test_a_worker_that_cannot_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = photos(tmp_path, 2)
    twin = twin_of(table_of(names), tmp_path / "twin.arrow")
    frames = FrameTable.open("toy", tmp_path, twin)
    twin.unlink()
    loader = Loader(sampler_of([2], small()), [frames], small("data.workers=1"))
    with pytest.raises(CatalogError, match=r"twin\.arrow"):
        load(loader)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(MumError, match="cannot start 2 decoding processes"):
        make_loader(tmp_path, [names], "data.workers=2")


@pytest.mark.slow
def test_an_object_that_is_forgotten_ends_its_processes(tmp_path: Path) -> None:
    names = photos(tmp_path, 2)
    loader = make_loader(tmp_path, [names], "data.workers=2")
    next(loader.load(KEYS))
    pids = loader.pids
    views = loader.ring[0]
    del loader
    gc.collect()
    assert all_gone(pids)
    assert views.shape == (8, 32, 32, 3)
    assert views[0].std() > 10  # the memory lives as long as someone looks at it


# what a user may have: no guard of the main module, torch and pandas imported at its top, a process of its own
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run in the background, which ignores it
sys.path[:0] = {path!r}
if {heavy}:
    import pandas, numba
from tests.test_loader import make_loader
if "torch" in sys.modules:
    sys.exit("torch was loaded")
root = Path({root!r})
loader = make_loader(root, [sorted(str(p.relative_to(root)) for p in root.rglob("*.jpg"))], "data.workers=2", {sets!r})
slots = loader.load((step, 0) for step in range(10**9))
for _ in range(3):
    next(slots)
bystander = os.fork() if {bystander} else 0
if {bystander} and not bystander:
    time.sleep(60)
    os._exit(0)
try:
    print(os.getpid(), bystander, *loader.pids, flush=True)
    {then}
except KeyboardInterrupt:
    loader.close()
    sys.exit(3)
"""


def script(
    root: Path, method: str, then: str, *, heavy: bool = False, bystander: bool = False
) -> subprocess.Popen[str]:
    text = SCRIPT.format(
        path=[str(Path(__file__).parents[1])],
        root=str(root),
        sets=f"data.start_method={method}",
        then=then,
        heavy=heavy,
        bystander=bystander,
    )
    (root / "script.py").write_text(text)
    return subprocess.Popen(
        [sys.executable, str(root / "script.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def run_script(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], list[int]]]]:
    """Start the script over a few photos; give its process and the numbers of itself, a bystander, and the workers."""
    photos(tmp_path, 6)
    started = []

    def run(method: str, then: str, **options: bool) -> tuple[subprocess.Popen[str], list[int]]:
        process = script(tmp_path, method, then, **options)
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        return process, [int(word) for word in line.split()]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", pytest.param("fork", marks=pytest.mark.slow)])
def test_workers_follow_a_killed_trainer(run_script: Callable[..., Any], method: str) -> None:
    """Even where a process that the trainer forked still holds the other end of their sockets."""
    process, (_, bystander, *pids) = run_script(method, "for _ in slots: pass", heavy=method == "spawn", bystander=True)
    try:
        for pid in pids:
            until = time.monotonic() + 20  # one may still be starting, while the other has done all
            while "memfd:mumtrain-views" not in (maps := Path(f"/proc/{pid}/maps").read_text()):
                assert time.monotonic() < until
                time.sleep(0.01)
            assert "/dev/shm" not in maps
            if method == "spawn":
                assert "multiarray" in maps  # numpy; so that libraries would be seen
                assert not any(name in maps for name in ("libtorch", "llvmlite", "/pandas/"))
        process.kill()
        assert all_gone(pids)
    finally:
        os.kill(bystander, signal.SIGKILL)
    process.wait()
    assert process.stderr.read() == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "method"), [(signal.SIGINT, "spawn"), (signal.SIGINT, "fork"), (signal.SIGTERM, "spawn")]
)
def test_signals_to_all_processes_are_quiet(
    run_script: Callable[..., Any], method: str, number: signal.Signals
) -> None:
    process, (group, _, *pids) = run_script(method, "for _ in slots: pass")
    os.killpg(group, number)
    assert process.wait(20) == (3 if number == signal.SIGINT else -number)
    assert all_gone(pids)
    assert process.stderr.read() == ""


@pytest.mark.slow
def test_an_interrupt_while_workers_start_is_quiet(tmp_path: Path) -> None:
    photos(tmp_path, 6)
    text = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
from pathlib import Path
from tests.test_loader import make_loader
try:
    loader = make_loader(Path({str(tmp_path)!r}), [["a/0.jpg", "a/1.jpg"]], "data.workers=4")
    os.killpg(0, signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    next(loader.load([(0, 0)]))  # the workers did not take it for theirs
    print(*loader.pids, flush=True)
    sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, start_new_session=True)
    assert (done.returncode, done.stderr) == (3, "")
    assert all_gone([int(pid) for pid in done.stdout.split()])


@pytest.mark.slow
def test_leaving_without_closing(run_script: Callable[..., Any]) -> None:
    process, (_, _, *pids) = run_script("spawn", "next(slots)")
    assert process.wait(20) == 0
    assert all_gone(pids)
    assert process.stderr.read() == ""
