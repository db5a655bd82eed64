"""Catalog files: digests that see values only, footers, schema errors, whole files or none."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog, rng
from mumdata.digest import content_digest
from mumdata.errors import CatalogError, LayoutError, MumError
from mumdata.files import atomic_path, inside
from mumdata.schema import FRAMES, MIX, SCHEMAS, SEQUENCES


def frames_table(num: int = 3, **changes: Any) -> pa.Table:
    columns: dict[str, Any] = {
        "frame_id": list(range(num)),
        "dataset": ["x"] * num,
        "scene": [f"s{row // 2}" for row in range(num)],
        "frame": [row % 2 for row in range(num)],
        "path": [f"Cópia de {row}.png" for row in range(num)],
        "status": ["ok"] * num,
        "intrinsics_px": [[1.5, 2.0, 3.0, 4.0], None, [0.0, -0.0, 1e-3, 7.0]][:num],
        "distortion": [[0.1], None, []][:num],
    }
    return catalog.build(FRAMES, columns | changes)


def test_writing_and_reading_gives_the_same_values(tmp_path: Path) -> None:
    table = frames_table()
    digest, changed = catalog.write(FRAMES, table, tmp_path / "f.parquet", seed=3, parameters={"b": 1, "a": None})
    assert changed
    assert catalog.read(FRAMES, tmp_path / "f.parquet").to_pylist() == table.to_pylist()
    footer = catalog.read_footer(FRAMES, tmp_path / "f.parquet")
    assert (footer.content_digest, footer.seed, footer.parameters) == (digest, 3, {"a": None, "b": 1})


def test_nothing_changed_leaves_the_file_untouched(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    catalog.write(FRAMES, frames_table(), path)
    before = path.stat()
    assert catalog.write(FRAMES, frames_table(), path)[1] is False
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert catalog.write(FRAMES, frames_table(), path, parameters={"a": 2})[1] is True
    assert catalog.write(FRAMES, frames_table(mtime_ns=[1, 2, 3]), path, parameters={"a": 2})[1] is True


def test_digest_ignores_how_values_are_stored_and_mtime_and_nothing_else() -> None:
    table = frames_table()
    digest = content_digest(table)
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert content_digest(chunked) == digest
    place = table.schema.get_field_index("dataset")
    backwards = pa.DictionaryArray.from_arrays(pa.array([1, 1, 1], pa.int32()), pa.array(["unused", "x"]))
    assert content_digest(table.set_column(place, FRAMES.columns.field(place), backwards)) == digest
    assert content_digest(frames_table(mtime_ns=[4, 5, 6])) == digest
    assert content_digest(table.slice(0, 2)) != digest
    assert content_digest(frames_table(path=["a", "b", "c"])) != digest
    assert content_digest(frames_table(path=["", "ab", "c"])) != content_digest(frames_table(path=["a", "b", "c"]))
    assert content_digest(frames_table(distortion=[None, None, []])) != content_digest(
        frames_table(distortion=[[], None, []])
    )
    negative_zero = frames_table(intrinsics_px=[[1.5, 2.0, 3.0, 4.0], None, [-0.0, 0.0, 1e-3, 7.0]])
    assert content_digest(negative_zero) == digest


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(max_size=4)), min_size=1, max_size=12), st.integers(0, 12))
def test_digest_of_strings_is_the_same_for_every_slicing(values: list[str | None], cut: int) -> None:
    whole = pa.table({"a": pa.array(values, pa.string())})
    parts = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    large = pa.table({"a": pa.array(values, pa.large_string()).dictionary_encode()})
    assert content_digest(whole) == content_digest(parts) == content_digest(large)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema.name)
def test_empty_tables_of_every_schema_survive(tmp_path: Path, schema: Any) -> None:
    path = tmp_path / schema.file_name
    catalog.write(schema, schema.columns.empty_table(), path)
    assert catalog.read(schema, path).num_rows == 0


def test_a_missing_column_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    path = tmp_path / "megadepth" / "frames.parquet"
    catalog.write(FRAMES, frames_table(), path)
    table = pq.read_table(path)
    pq.write_table(table.drop(["width"]), path)
    with pytest.raises(CatalogError, match=r"column 'width' is missing; run 'mumdata index megadepth'"):
        catalog.read(FRAMES, path)
    place = table.schema.get_field_index("width")
    pq.write_table(table.set_column(place, "width", pa.array(["a", "b", "c"])), path)
    with pytest.raises(CatalogError, match="column 'width' is string, not int32"):
        catalog.read(FRAMES, path)


def test_files_that_are_no_catalog(tmp_path: Path) -> None:
    path = tmp_path / "x" / "sequences.parquet"
    with pytest.raises(CatalogError, match=r"does not exist; run 'mumdata mine-sequences x'"):
        catalog.read(SEQUENCES, path)
    path.parent.mkdir()
    for data in (b"", b"PAR1", os.urandom(300)):
        path.write_bytes(data)
        with pytest.raises(CatalogError, match="not a whole Parquet file"):
            catalog.read(SEQUENCES, path)
    catalog.write(FRAMES, frames_table(), path)
    with pytest.raises(CatalogError):
        catalog.read(SEQUENCES, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CatalogError):
        catalog.read_footer(FRAMES, path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = tmp_path / "f.parquet"
    catalog.write(FRAMES, frames_table(), path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MumError, match="cannot write"):
        catalog.write(FRAMES, frames_table(2, intrinsics_px=None, distortion=None), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.parquet"]


@pytest.mark.slow
def test_no_space_on_a_real_file_system(tmp_path: Path) -> None:
    """A file size limit stands in for a full disk: the writer gets a real error from the kernel."""
    code = (
        "import resource, signal, sys, pathlib; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200));"
        "from mumdata.files import write_text; write_text(pathlib.Path(sys.argv[1]), 'x' * 5000)"
    )
    target = tmp_path / "big.txt"
    result = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, check=False)
    assert result.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    code = (
        "import sys, time, pathlib\nfrom mumdata.files import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert target.read_text() == "old"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


@pytest.mark.parametrize("path", ["/a", "../a", "a/../../b", "a\0b", ".."])
def test_paths_outside_their_root_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(LayoutError):
        inside(tmp_path, path)
    assert inside(tmp_path, "a/..b/c.jpg") == tmp_path / "a/..b/c.jpg"


def test_random_words_are_splitmix64_and_do_not_depend_on_how_many_are_asked_for() -> None:
    # the first outputs of SplitMix64 with seed 1234567, from its reference description
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert rng.words(1234567, 5).tolist() == expected
    assert rng.words(1234567, 2, start=3).tolist() == expected[3:]
    assert rng.key("a", "bc") != rng.key("ab", "c")
    assert len({rng.key(1), rng.key("1"), rng.key(None), rng.key("")}) == 4


def test_random_numbers_are_uniform() -> None:
    word = rng.words(rng.key(0, "test"), 100_000)
    for bound in (2, 7, 1000):
        counts = np.bincount(rng.below(word, bound), minlength=bound)
        chi_square = ((counts - 100_000 / bound) ** 2 / (100_000 / bound)).sum()
        assert chi_square < bound + 5 * np.sqrt(2 * bound)
    assert [int(value) for value in rng.below(word[:50], 1000003)] == [int(w) * 1000003 >> 64 for w in word[:50]]
    assert 0 <= rng.unit(word).min() < rng.unit(word).max() < 1
    assert sorted(rng.permutation(5, 97).tolist()) == list(range(97))


def test_a_mix_notices_that_a_catalog_changed(mix_path: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "moved"
    shutil.copytree(mix_path.parent, folder)  # paths are relative: the whole folder moves as one
    mix = catalog.open_mix(folder / "mix.parquet")
    assert sum(dataset.weight for dataset in mix.datasets) == pytest.approx(1)
    for dataset in mix.datasets:
        assert dataset.frames.is_relative_to(folder)
        frames, sequences = catalog.map_frames(dataset), catalog.map_sequences(dataset)
        table = catalog.read(SEQUENCES, dataset.sequences)
        assert sequences.column("frames").to_pylist() == table.column("frames").to_pylist()
        assert frames.column("path").to_pylist() == catalog.read(FRAMES, dataset.frames).column("path").to_pylist()
    victim = mix.datasets[0]
    table = catalog.read(SEQUENCES, victim.sequences)
    catalog.write(SEQUENCES, table.slice(0, table.num_rows - 1), victim.sequences)
    with pytest.raises(CatalogError, match=r"has changed since .* run 'mumdata mix mum --catalogs .*moved' again"):
        catalog.open_mix(folder / "mix.parquet")
    pq.write_table(pq.read_table(folder / "mix.parquet").drop(["holdout"]), folder / "mix.parquet")
    with pytest.raises(CatalogError, match="column 'holdout' is missing; run 'mumdata mix'"):
        catalog.open_mix(folder / "mix.parquet")
    assert MIX.file_name == "mix.parquet"


def test_two_processes_that_build_a_twin_share_one(mix_path: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "moved"
    shutil.copytree(mix_path.parent, folder, ignore=shutil.ignore_patterns("*.arrow"))
    code = (
        "import sys, pathlib; from mumdata import catalog\n"
        "for dataset in catalog.open_mix(pathlib.Path(sys.argv[1])).datasets:\n"
        "    catalog.map_frames(dataset); catalog.map_sequences(dataset)\n"
    )
    started = time.monotonic()
    both = [subprocess.Popen([sys.executable, "-c", code, str(folder / "mix.parquet")]) for _ in range(2)]
    assert [process.wait(60 - (time.monotonic() - started)) for process in both] == [0, 0]
    datasets = catalog.open_mix(folder / "mix.parquet").datasets
    names = sorted(path.name.split(".")[0] for path in folder.glob("*/*.arrow"))
    assert names == sorted(["frames", "sequences"] * len(datasets))
    assert not list(folder.glob("*/.*.tmp"))
