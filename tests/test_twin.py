"""Arrow twins and mixes: the values of the catalogs and nothing else, whatever the pieces they are made of."""

from __future__ import annotations

import errno
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog, rng, twin
from mumdata.catalog import MixDataset
from mumdata.errors import CatalogError, ConfigError
from mumdata.mix import mix
from mumdata.schema import COVISIBILITY, FRAMES, MIX, SEQUENCES
from mumdata.spool import Codes, Lists, Numbers, Spool, Strings

# ---- a dataset made by hand

Row = dict[str, Any]


def write_dataset(
    folder: Path, frames: list[Row], sequences: list[Row], pairs: list[Row] | None = None, name: str = "imagenet"
) -> Path:
    """Write the catalogs of a dataset below a folder, with what is not told filled in."""

    def columns(rows: list[Row], **usual: Any) -> dict[str, list[Any]]:
        full = [{key: value(row) if callable(value) else value for key, value in usual.items()} | row for row in rows]
        return {key: [row.get(key) for row in full] for key in {key for row in full for key in row}}

    where = folder / name
    for at, row in enumerate(frames):
        row.setdefault("frame_id", at)
    table = catalog.build(FRAMES, columns(frames, dataset=name, scene="s", frame=0, status="ok"))
    digest, _ = catalog.write(FRAMES, table, where / "frames.parquet", parameters={"dataset": name})
    of = columns(sequences, dataset=name, scene="s", sequence=0, rule="walk", num_frames=lambda row: 0)
    of["num_frames"] = [len(ids) for ids in of["frames"]]
    catalog.write(SEQUENCES, catalog.build(SEQUENCES, of), where / "sequences.parquet", inputs={"frames": digest})
    if pairs is not None:
        table = catalog.build(COVISIBILITY, columns(pairs, dataset=name, scene="s", source="tracks"))
        catalog.write(COVISIBILITY, table, where / "covisibility.parquet", inputs={"frames": digest})
    return where


def of_mix(folder: Path, **options: Any) -> MixDataset:
    (dataset,) = catalog.open_mix(mix("only", weight=["imagenet=1"], catalogs=folder, **options).path).datasets
    return dataset


def plain_units(frames: list[Row], sequences: list[Row]) -> list[float]:
    """The hash by which a sequence is held out, a row at a time."""
    units = []
    for sequence in sequences:
        first = frames[sequence["frames"][0]]
        group = first.get("group")
        key = rng.key("holdout", "imagenet", group, first["path"] if group is None else None)
        units.append(float(rng.unit(rng.words(key, 1))[0]))
    return units


@pytest.fixture(params=[1, 2, 3, 1 << 15])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many rows of a catalog are read at once."""
    monkeypatch.setattr(catalog, "_BATCH", request.param)
    monkeypatch.setattr(twin, "_GROUPS_AT_ONCE", min(request.param, 3))
    return int(request.param)


def test_twins_hold_the_values_of_the_catalogs(tmp_path: Path, piece: int) -> None:
    frames: list[Row] = [
        {"scene": "a", "stream": "x", "path": "a/Cópia.jpg", "group": "g", "timestamp_s": 0.25, "width": 7},
        {"scene": "a", "stream": "x", "path": "a/1.jpg", "group": "h", "timestamp_s": -1e9, "bytes": 1 << 40},
        {"scene": "a", "stream": "y", "path": "", "archive": "z.zip", "codec": "stored", "offset": 5},
        {"scene": "b", "stream": None, "path": "b/日本.png", "group": "g", "upright_quarter_turns": 3},
        {"scene": "b", "split": "train", "path": "c", "archive": "y.zip", "codec": "deflate", "height": 1},
        {"scene": "b", "split": "train", "path": "d", "archive": "z.zip", "codec": "stored", "offset": 0},
    ]
    sequences: list[Row] = [
        {"frames": [3, 0], "mean_overlap": 0.5},
        {"frames": [5]},
        {"frames": [2, 3, 4, 5], "mean_overlap": 0.0},
        {"frames": [5, 1]},
        {"frames": [1, 5], "mean_overlap": 1.0},
        {"frames": [0]},
    ]
    write_dataset(tmp_path, frames, sequences)
    dataset = of_mix(tmp_path, min_frames=1)
    found = catalog.map_frames(dataset)
    assert found.column("scene").to_pylist() == [0, 0, 1, 2, 3, 3]
    names = ["path", "archive", "codec", "offset", "bytes", "width", "height", "upright_quarter_turns", "timestamp_s"]
    assert found.column_names == ["scene", *names]
    for name in names:
        assert found.column(name).to_pylist() == [frame.get(name) for frame in frames], name
    assert found.schema.field("path").type == pa.large_string()
    table = catalog.map_sequences(dataset)
    assert table.column("frames").to_pylist() == [row["frames"] for row in sequences]
    assert table.column("num_frames").to_pylist() == [2, 1, 4, 2, 2, 1]
    assert table.column("mean_overlap").to_pylist() == [row.get("mean_overlap") for row in sequences]
    assert table.column("scene").to_pylist() == [2, 3, 1, 3, 0, 0]
    assert table.column("holdout_unit").to_pylist() == plain_units(frames, sequences)
    for whole in (found, table):
        assert {column.num_chunks for column in whole.columns} == {1}


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_datasets(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    num = data.draw(st.integers(1, 12))
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3)
    frames: list[Row] = [
        {
            "scene": data.draw(st.sampled_from("aab")),
            "stream": data.draw(st.none() | st.just("x")),
            "path": data.draw(text),
            "group": data.draw(st.none() | st.sampled_from(["", "g", "h"])),
            "timestamp_s": data.draw(st.none() | st.floats(-10, 10)),
            "offset": data.draw(st.none() | st.integers(0, 1 << 50)),
        }
        for _ in range(num)
    ]
    some = st.lists(st.integers(0, num - 1), min_size=1, max_size=5)
    sequences: list[Row] = [{"frames": data.draw(some)} for _ in range(data.draw(st.integers(1, 6)))]
    all_pairs = [(a, b) for a in range(num) for b in range(a + 1, num)]
    chosen = data.draw(st.lists(st.sampled_from(all_pairs), unique=True)) if all_pairs else []
    overlap = st.none() | st.floats(0, 1, width=32)
    pairs: list[Row] = [
        {"frame_a": a, "frame_b": b, "overlap_ab": data.draw(overlap), "overlap_ba": data.draw(overlap)}
        for a, b in sorted(chosen)
    ]
    folder = tmp_path_factory.mktemp("random")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "_BATCH", data.draw(st.integers(1, 7)))
        write_dataset(folder, frames, sequences, pairs)
        dataset = of_mix(folder, min_frames=1)
    keys = [(frame["scene"], frame["stream"]) for frame in frames]
    scene = [0]
    for before, key in pairwise(keys):
        scene.append(scene[-1] + (before != key))
    table = catalog.map_frames(dataset)
    assert table.column("scene").to_pylist() == scene
    for name in ("path", "timestamp_s", "offset"):
        assert table.column(name).to_pylist() == [frame[name] for frame in frames]
    table = catalog.map_sequences(dataset)
    assert table.column("holdout_unit").to_pylist() == plain_units(frames, sequences)
    assert table.column("scene").to_pylist() == [scene[row["frames"][0]] for row in sequences]
    assert dataset.num_frames == len({frame for row in sequences for frame in row["frames"]})
    assert neighbours(dataset) == plain_neighbours(pairs, num)


# ---- pairs


def neighbours(dataset: MixDataset) -> list[dict[int, float]]:
    table = catalog.map_covisibility(dataset)
    assert table is not None
    assert [table.schema.field(name).type for name in ("other", "overlap")] == [
        pa.large_list(pa.int32()),
        pa.large_list(pa.float32()),
    ]
    rows = list(zip(table.column("other").to_pylist(), table.column("overlap").to_pylist(), strict=True))
    assert all(other == sorted(set(other)) for other, _ in rows)
    assert {column.num_chunks for column in table.columns} <= {1}
    return [dict(zip(other, overlap, strict=True)) for other, overlap in rows]


def plain_neighbours(pairs: list[Row], num_frames: int) -> list[dict[int, float]]:
    found: list[dict[int, float]] = [{} for _ in range(num_frames)]
    for row in pairs:
        most = max(row.get("overlap_ab") or 0.0, row.get("overlap_ba") or 0.0)
        found[row["frame_a"]][row["frame_b"]] = found[row["frame_b"]][row["frame_a"]] = most
    return found


def pair(a: int, b: int, ab: float | None = None, ba: float | None = None) -> Row:
    return {"frame_a": a, "frame_b": b, "overlap_ab": ab, "overlap_ba": ba}


def simple(folder: Path, pairs: list[Row] | None, num: int = 6, groups: str | None = None) -> Path:
    frames: list[Row] = [{"path": f"{at}.jpg", "group": groups and groups[at]} for at in range(num)]
    return write_dataset(folder, frames, [{"frames": list(range(at, num))} for at in range(num - 1)], pairs)


def test_a_pair_stands_in_the_rows_of_both_frames_with_its_greater_overlap(tmp_path: Path, piece: int) -> None:
    pairs = [pair(0, 2, 0.5, 0.25), pair(0, 5, None, 0.75), pair(2, 3), pair(2, 5, 0.125, None), pair(3, 5, 0.0, 1.0)]
    simple(tmp_path, pairs)
    assert neighbours(of_mix(tmp_path)) == [
        {2: 0.5, 5: 0.75},
        {},
        {0: 0.5, 3: 0.0, 5: 0.125},
        {2: 0.0, 5: 1.0},
        {},
        {0: 0.75, 2: 0.125, 3: 1.0},
    ]


@pytest.mark.parametrize(
    "pairs",
    [
        [pair(1, 2), pair(0, 1)],
        [pair(0, 2), pair(0, 1)],
        [pair(0, 1), pair(0, 1)],
        [pair(1, 0)],
        [pair(1, 1)],
        [pair(0, 6)],
        [pair(-1, 2)],
    ],
)
def test_pairs_that_are_no_list_of_pairs_are_refused(tmp_path: Path, pairs: list[Row], piece: int) -> None:
    simple(tmp_path, pairs)
    with pytest.raises(CatalogError, match="run 'mumdata mine-sequences'"):
        of_mix(tmp_path)
    assert not list(tmp_path.glob("*/*.arrow.*"))
    assert not (tmp_path / "mix.parquet").exists()


def test_a_mix_names_the_pairs_of_its_frames_alone(tmp_path: Path) -> None:
    where = simple(tmp_path, None)
    dataset = of_mix(tmp_path)
    assert (dataset.covisibility, dataset.covisibility_digest) == (None, None)
    assert catalog.map_covisibility(dataset) is None
    simple(tmp_path, [pair(0, 1, 0.5)])
    dataset = of_mix(tmp_path)
    path = where / "covisibility.parquet"
    assert dataset.covisibility == path
    assert dataset.covisibility_digest == catalog.read_footer(COVISIBILITY, path).content_digest
    footer = catalog.read_footer(MIX, tmp_path / "mix.parquet")
    assert footer.inputs["imagenet/covisibility"] == dataset.covisibility_digest
    # found in another way since: the mix is of the old ones
    table = catalog.read(COVISIBILITY, path)
    changed = catalog.build(COVISIBILITY, {name: table.column(name) for name in table.column_names if name != "iou"})
    changed = changed.set_column(8, COVISIBILITY.columns.field("iou"), pa.array([0.25], pa.float32()))
    catalog.write(COVISIBILITY, changed, path, inputs={"frames": dataset.frames_digest})
    with pytest.raises(CatalogError, match=r"covisibility.parquet has changed since .* run 'mumdata mix only --weight"):
        catalog.open_mix(tmp_path / "mix.parquet")
    path.unlink()
    with pytest.raises(CatalogError, match=r"covisibility\.parquet does not exist"):
        catalog.open_mix(tmp_path / "mix.parquet")
    # left behind by other frames: not these frames' pairs
    catalog.write(COVISIBILITY, table, path, inputs={"frames": "0" * 64})
    assert of_mix(tmp_path).covisibility is None


# ---- files


def test_twins_of_an_older_layout_are_left_alone(tmp_path: Path) -> None:
    where = simple(tmp_path, [pair(0, 1)])
    digests = {
        kind: catalog.read_footer(schema, where / f"{kind}.parquet").content_digest
        for kind, schema in (("frames", FRAMES), ("sequences", SEQUENCES), ("covisibility", COVISIBILITY))
    }
    for kind, digest in digests.items():
        (where / f"{kind}.{digest}.arrow").write_bytes(b"of an older layout")
    dataset = of_mix(tmp_path)
    assert catalog.map_frames(dataset).column("path").to_pylist() == [f"{at}.jpg" for at in range(6)]
    assert len(list(where.glob("*.arrow"))) == 6
    path = catalog.frames_twin(dataset)
    assert path.parent == where
    assert catalog.map_twin(path).equals(catalog.map_frames(dataset))
    assert [entry.name for entry in where.iterdir() if ".tmp" in entry.name] == []


def test_the_same_sequences_of_other_frames_have_a_twin_of_their_own(tmp_path: Path) -> None:
    simple(tmp_path, [pair(0, 1)], groups="aabbcc")
    before = of_mix(tmp_path)
    frames, sequences = ([{"path": f"{at}.jpg", "group": "abcdefg"[at]} for at in range(7)] for _ in range(2))
    write_dataset(tmp_path, frames, [{"frames": list(range(at, 6))} for at in range(5)], [pair(0, 1)])
    after = of_mix(tmp_path)
    assert after.sequences_digest == before.sequences_digest
    assert after.covisibility_digest == before.covisibility_digest
    rows = [{"frames": [at]} for at in range(5)]
    assert catalog.map_sequences(after).column("holdout_unit").to_pylist() == plain_units(sequences, rows)
    assert len(neighbours(after)) == 7


def unwritable(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Let files in folders with that in their path not be opened for writing (permissions do not bind root)."""

    opens = Path.open

    def refuses(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if "w" in mode and part in str(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opens(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", refuses)


def test_a_twin_is_built_where_its_catalog_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simple(tmp_path / "c", None)
    dataset = of_mix(tmp_path / "c")
    twin_path = catalog.frames_twin(dataset)
    twin_path.unlink()
    unwritable(monkeypatch, "imagenet")
    with pytest.raises(CatalogError, match=r"imagenet cannot be written \(Permission denied\); set MUM_CACHE"):
        catalog.frames_twin(dataset)
    monkeypatch.setenv("MUM_CACHE", str(tmp_path / "new" / "cache"))
    assert catalog.frames_twin(dataset) == tmp_path / "new" / "cache" / twin_path.name
    assert catalog.map_frames(dataset).num_rows == 6


@pytest.mark.parametrize("cache", ["file", "file/below", "/proc/nope", "/dev/null/x", "x" * 300])
def test_a_cache_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    simple(tmp_path / "c", None)
    dataset = of_mix(tmp_path / "c")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MUM_CACHE", str(tmp_path / cache))
    assert catalog.map_frames(dataset).num_rows == 6  # it is not needed
    catalog.frames_twin(dataset).unlink()
    unwritable(monkeypatch, "imagenet")
    with pytest.raises(CatalogError, match=r"^[^\n]*imagenet cannot be written .*, and .* set MUM_CACHE to a folder"):
        catalog.frames_twin(dataset)


def test_a_twin_that_another_process_has_built_meanwhile_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simple(tmp_path, None)
    dataset = of_mix(tmp_path)
    path = catalog.frames_twin(dataset)
    data = path.read_bytes()
    path.unlink()
    # the lock is had when the other process has let it go
    monkeypatch.setattr(twin.fcntl, "flock", lambda file, how: path.write_bytes(data))
    monkeypatch.setattr(twin, "of_frames", lambda rows, spool: pytest.fail("built twice"))
    assert catalog.frames_twin(dataset) == path


def with_last_offset(whole: bytes, last: int) -> bytes:
    """The frames' twin of `simple`, whose paths take 5 bytes each, with another end of its last path."""
    offsets = np.arange(0, 35, 5).astype("<i8").tobytes()
    assert whole.count(offsets) == 1
    return whole.replace(offsets, offsets[:-8] + np.int64(last).tobytes())


def other_columns(path: Path) -> bytes:
    with pa.ipc.new_file(path, pa.schema({"scene": pa.int32()}.items())) as out:
        out.write_table(pa.table({"scene": pa.array([0] * 6, pa.int32())}))
    return path.read_bytes()


def test_a_damaged_twin_is_built_anew(tmp_path: Path) -> None:
    simple(tmp_path, None)
    dataset = of_mix(tmp_path)
    path = catalog.frames_twin(dataset)
    before, whole = catalog.map_frames(dataset).to_pydict(), path.read_bytes()
    for data in (
        b"",
        b"ARROW1",
        whole[: len(whole) // 2],
        whole[:-1],
        whole[:8] + bytes(len(whole) - 18) + whole[-10:],
        with_last_offset(whole, 1 << 40),
        with_last_offset(whole, -1),
        other_columns(tmp_path / "other.arrow"),
    ):
        path.write_bytes(data)
        assert catalog.map_frames(dataset).to_pydict() == before
        assert path.read_bytes() == whole
    assert path.read_bytes() == whole


def test_a_damaged_twin_where_nothing_can_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simple(tmp_path, None)
    dataset = of_mix(tmp_path)
    path = catalog.frames_twin(dataset)
    path.write_bytes(b"ARROW1")
    unwritable(monkeypatch, "imagenet")
    with pytest.raises(CatalogError, match="set MUM_CACHE"):
        catalog.map_frames(dataset)
    monkeypatch.setenv("MUM_CACHE", str(tmp_path / "cache"))
    assert catalog.map_frames(dataset).num_rows == 6
    with pytest.raises(CatalogError, match="is not a whole Arrow file"):
        catalog.map_twin(path)


def test_a_folder_in_a_twins_place_is_told(tmp_path: Path) -> None:
    simple(tmp_path, None)
    dataset = of_mix(tmp_path)
    path = catalog.frames_twin(dataset)
    path.unlink()
    path.mkdir()
    with pytest.raises(CatalogError, match="is a folder, where a file is to be written; move or remove it"):
        catalog.map_frames(dataset)


@pytest.mark.slow
def test_any_damage_of_a_twin_is_found_and_none_ends_the_process(tmp_path: Path) -> None:
    # in a process of its own, which a wild pointer would end
    simple(tmp_path, [pair(0, 1, 0.5), pair(1, 4, 0.25)])
    of_mix(tmp_path)
    code = (
        "import pathlib, random, sys\nfrom mumdata import catalog, twin\n"
        "(dataset,) = catalog.open_mix(pathlib.Path(sys.argv[1], 'mix.parquet')).datasets\n"
        "draw = random.Random(0)\n"
        "for recipe in catalog._recipes(dataset):\n"
        "    whole = recipe.beside.read_bytes()\n"
        "    assert twin.is_intact(recipe, pathlib.Path(sys.argv[1]))\n"
        "    found = twin.mapped(recipe.beside).to_pydict()\n"
        "    for _ in range(150):\n"
        "        at = draw.randrange(len(whole))\n"
        "        data = bytearray(whole)\n"
        "        data[at : at + 8] = draw.randbytes(len(data[at : at + 8]))\n"
        "        recipe.beside.write_bytes(data)\n"
        "        if twin.is_intact(recipe, pathlib.Path(sys.argv[1])):\n"
        "            assert twin.mapped(recipe.beside).to_pydict() == found, at\n"
        "    recipe.beside.write_bytes(whole)\n"
        "print('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def test_twins_are_compared_with_their_catalogs_to_the_last_value(tmp_path: Path) -> None:
    where = simple(tmp_path, [pair(0, 1, 0.5)])
    dataset = of_mix(tmp_path)
    assert list(catalog.damaged_twins(dataset, tmp_path)) == []
    for kind in ("frames", "sequences", "covisibility"):
        (path,) = where.glob(f"{kind}.*.arrow")
        whole = path.read_bytes()
        value = {"frames": b"3.jpg", "sequences": np.int32([2, 3, 4, 5]).tobytes(), "covisibility": b"\0\0\0\x3f"}[kind]
        path.write_bytes(whole.replace(value, value[::-1], 1))
        assert path.read_bytes() != whole
        assert list(catalog.damaged_twins(dataset, tmp_path)) == [path]
        path.write_bytes(whole)
    for path in where.glob("*.arrow"):
        path.unlink()
    assert list(catalog.damaged_twins(dataset, tmp_path)) == []
    assert not list(where.glob("*.arrow"))


def test_outdated_twins_are_removed_only_when_asked_for(tmp_path: Path) -> None:
    where = simple(tmp_path, [pair(0, 1)])
    mapped = catalog.map_frames(of_mix(tmp_path))
    before = set(where.glob("*.arrow"))
    simple(tmp_path, [pair(0, 1)], num=7)
    dataset = of_mix(tmp_path)
    after = set(where.glob("*.arrow"))
    assert len(after) == 6
    (where / "mine.arrow").write_text("")
    catalog.remove_outdated_twins(dataset)
    assert set(where.glob("*.arrow")) == (after - before - set(where.glob("x"))) | {where / "mine.arrow"}
    assert mapped.column("path").to_pylist() == [f"{at}.jpg" for at in range(6)]
    assert catalog.map_frames(dataset).num_rows == 7


def test_a_twin_is_never_of_other_rows_than_its_name_says(tmp_path: Path) -> None:
    simple(tmp_path, [pair(0, 1)])
    dataset = of_mix(tmp_path)
    before = {path.name for path in tmp_path.glob("*/*.arrow")}
    for path in tmp_path.glob("*/*.arrow"):
        path.unlink()
    simple(tmp_path, [pair(0, 2)], num=7)  # while a run has the mix open
    for function in (catalog.map_frames, catalog.map_sequences, catalog.map_covisibility):
        with pytest.raises(CatalogError, match="has changed while it was used"):
            function(dataset)
    assert not before & {path.name for path in tmp_path.glob("*/*.arrow")}


def test_frame_ids_that_are_no_row_numbers_and_frames_that_are_not_there(tmp_path: Path) -> None:
    frames: list[Row] = [{"path": "a"}, {"path": "b"}]
    write_dataset(tmp_path, [frames[0] | {"frame_id": 1}, frames[1] | {"frame_id": 0}], [{"frames": [0, 1]}])
    with pytest.raises(CatalogError, match="frame_id is not 0, 1, 2"):
        of_mix(tmp_path)
    for ids in ([0, 2], [-1, 0]):
        write_dataset(tmp_path, [dict(frame) for frame in frames], [{"frames": [0, 1]}, {"frames": ids}])
        with pytest.raises(CatalogError, match="frames catalog does not hold"):
            of_mix(tmp_path)
    where = write_dataset(tmp_path, [dict(frame) for frame in frames], [{"frames": [0, 1]}])
    table = catalog.read(SEQUENCES, where / "sequences.parquet")
    at = table.column_names.index("num_frames")
    wrong = table.set_column(at, SEQUENCES.columns.field(at), pa.array([3], pa.int32()))
    inputs = catalog.read_footer(SEQUENCES, where / "sequences.parquet").inputs
    catalog.write(SEQUENCES, wrong, where / "sequences.parquet", inputs=inputs)
    with pytest.raises(CatalogError, match="num_frames"):
        of_mix(tmp_path)


def test_rows_that_are_damaged_are_a_catalog_error(tmp_path: Path) -> None:
    where = simple(tmp_path, None, num=200)
    path = where / "frames.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    with pytest.raises(CatalogError, match="is damaged; run 'mumdata index imagenet'"):
        list(catalog.read_batches(FRAMES, path, ["frame_id", "path"]))


def test_a_killed_build_leaves_nothing_but_its_temporary_file(tmp_path: Path) -> None:
    where = simple(tmp_path, None)
    of_mix(tmp_path)
    for path in where.glob("*.arrow"):
        path.unlink()
    before = {entry.name for entry in where.iterdir()}
    code = (
        "import os, signal, sys, pathlib\nfrom mumdata import catalog, twin\n"
        "def of_frames(rows, spool):\n"
        "    spool.file().write(b'x' * 100_000); spool.zeros(int, 1000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "twin.of_frames = of_frames\n"
        "catalog.frames_twin(catalog.open_mix(pathlib.Path(sys.argv[1])).datasets[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "mix.parquet")], check=False)
    assert done.returncode == -9
    assert {entry.name for entry in where.iterdir()} == before
    assert catalog.map_frames(catalog.open_mix(tmp_path / "mix.parquet").datasets[0]).num_rows == 6


# ---- columns on disk


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.none() | st.integers(-(1 << 31), (1 << 31) - 1), max_size=9), max_size=5))
def test_a_spooled_column_is_its_pieces(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[list[int | None]]
) -> None:
    flat = [value for piece in pieces for value in piece]
    words = [[str(value) * 2 for value in piece] for piece in pieces]
    lists = [[[value or 0] * (index % 3) for index, value in enumerate(piece)] for piece in pieces]
    with Spool(tmp_path_factory.getbasetemp()) as spool:
        numbers, strings, codes, nested = (
            Numbers(spool, pa.int32()),
            Strings(spool),
            Codes(spool),
            Lists(spool, pa.int32()),
        )
        for index, (piece, texts, inner) in enumerate(zip(pieces, words, lists, strict=True)):
            names = [None if value is None else str(value) for value in piece]
            numbers.add(pa.array(piece, pa.int32()))
            strings.add(pa.array(["cut off", *texts], pa.large_string() if index % 2 else pa.string())[1:])
            codes.add(pa.array(names, pa.string()).dictionary_encode())
            nested.add(pa.array([[7, 8], *inner, [9]], pa.list_(pa.int32()))[1:-1])
        found = [column.array() for column in (numbers, strings, codes, nested)]
    for array in found:
        array.validate(full=True)
    assert found[0].to_pylist() == flat
    assert found[0].null_count == flat.count(None)
    assert found[1].to_pylist() == [text for texts in words for text in texts]
    assert found[2].to_pylist() == [None if value is None else str(value) for value in flat]
    assert found[3].to_pylist() == [one for inner in lists for one in inner]


def test_spooled_arrays_are_on_disk_and_writable(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        array = spool.zeros(np.float32, 5)
        array[2] = 1
        assert len(spool.zeros(np.int32, 0)) == 0
        assert list(tmp_path.iterdir()) == []
    assert array.tolist() == [0, 0, 1, 0, 0]


# ---- mixes


def test_holding_out_is_counted_and_leaves_something(tmp_path: Path) -> None:
    frames: list[Row] = [{"path": f"{at}.jpg", "group": None if at % 3 else f"g{at // 6}"} for at in range(40)]
    sequences: list[Row] = [{"frames": [at, at + 1][: 1 + at % 2]} for at in range(39)]
    write_dataset(tmp_path, frames, sequences)
    units = plain_units(frames, sequences)
    for holdout in (0.0, 0.3, 0.6):
        found = mix("only", weight=["imagenet=1"], catalogs=tmp_path, holdout=holdout, min_frames=1)
        (row,) = found.rows
        assert (row["num_sequences"], row["num_frames"], row["holdout"]) == (39, 39, holdout)
        assert found.held_out == {"imagenet": sum(unit < holdout for unit in units)}
    (tmp_path / "d.toml").write_text("[[dataset]]\nname = 'imagenet'\nweight = 1\nsingle_view = false\nmin_frames = 2")
    found = mix(str(tmp_path / "d.toml"), catalogs=tmp_path, holdout=0.5)
    pairs = [at for at in range(39) if at % 2]
    assert found.held_out == {"imagenet": sum(units[at] < 0.5 for at in pairs)}
    assert [(row["num_sequences"], row["num_frames"]) for row in found.rows] == [(19, 38)]
    assert not found.rows[0]["single_view"]
    before = found.path.read_bytes()
    with pytest.raises(ConfigError, match=r"imagenet: all of its sequences \(39\) are held out; lower --holdout"):
        mix("only", weight=["imagenet=1"], catalogs=tmp_path, holdout=np.nextafter(max(units), 1), min_frames=1)
    assert found.path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("single_view = 'no'", "single_view is 'no', neither true nor false"),
        ("min_frames = true", "min_frames is True"),
        ("min_frames = 0", "from 1 up"),
    ],
)
def test_values_of_a_definition_have_their_type(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "d.toml").write_text(f"[[dataset]]\nname = 'imagenet'\nweight = 1\n{text}")
    with pytest.raises(ConfigError, match=match):
        mix(str(tmp_path / "d.toml"), catalogs=tmp_path)


def test_weights_are_numbers_and_names_are_names(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text("[[dataset]]\nname = 'imagenet'\nweight = true")
    with pytest.raises(ConfigError, match="weight of imagenet is True"):
        mix(str(tmp_path / "d.toml"), catalogs=tmp_path)
    (tmp_path / "d.toml").write_text("[[dataset]]\nname = '../imagenet'\nweight = 1")
    with pytest.raises(ConfigError, match="must be letters"):
        mix(str(tmp_path / "d.toml"), catalogs=tmp_path)


def test_an_unchanged_mix_is_left_and_a_moved_one_is_whole(tmp_path: Path) -> None:
    simple(tmp_path / "a", [pair(0, 1, 0.5)])
    first = mix("only", weight=["imagenet=1"], catalogs=tmp_path / "a")
    stamp = first.path.stat().st_mtime_ns
    again = mix("only", weight=["imagenet=1"], catalogs=tmp_path / "a")
    assert (first.changed, again.changed, again.path.stat().st_mtime_ns) == (True, False, stamp)
    assert first.rows == again.rows
    shutil.move(tmp_path / "a", tmp_path / "b")
    (dataset,) = catalog.open_mix(tmp_path / "b" / "mix.parquet").datasets
    assert dataset.covisibility == tmp_path / "b" / "imagenet" / "covisibility.parquet"
    assert neighbours(dataset)[1] == {0: 0.5}
    gone = replace(dataset, covisibility=None, covisibility_digest=None)
    assert catalog.map_covisibility(gone) is None


@pytest.mark.parametrize("shipped", [True, False])
def test_a_changed_catalog_names_the_command_that_made_the_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped: bool
) -> None:
    from typer.testing import CliRunner

    from mumdata.cli import app

    monkeypatch.chdir(tmp_path)
    here = Path("my catalogs")
    simple(here, [pair(0, 1, 0.5)])
    Path("d.toml").write_text("[[dataset]]\nname = 'imagenet'\nweight = 2\n")
    definition = "only" if shipped else "d.toml"
    made = mix(definition, weight=["imagenet=0.5"], catalogs=here, min_frames=3, holdout=0.25, out=Path("m.parquet"))
    before = catalog.open_mix(made.path).datasets
    simple(here, [pair(0, 2, 0.5)])
    with pytest.raises(CatalogError, match="has changed since") as caught:
        catalog.open_mix(made.path)
    command = str(caught.value).partition("run '")[2].removesuffix("' again")
    assert command == (
        f"mumdata mix {definition} --weight imagenet=0.5 --min-frames 3 --holdout 0.25 --catalogs 'my catalogs' "
        "-o m.parquet"
    )
    assert CliRunner().invoke(app, shlex.split(command)[1:]).exit_code == 0
    (after,) = catalog.open_mix(made.path).datasets
    assert (after.weight, after.min_frames, after.holdout) == (1, before[0].min_frames, 0.25)
    # the usual places are not said
    simple(Path("catalogs"), None)
    mix("only", weight=["imagenet=1"])
    simple(Path("catalogs"), [pair(0, 1)], num=5)
    with pytest.raises(CatalogError, match="run 'mumdata mix only --weight imagenet=1' again"):
        catalog.open_mix(Path("catalogs/mix.parquet"))
    # a mix that does not say how it was made
    table = catalog.read(MIX, Path("catalogs/mix.parquet"))
    catalog.write(MIX, table, Path("catalogs/mix.parquet"), parameters={"holdout": 0.0})
    with pytest.raises(
        CatalogError, match=r"run 'mumdata mix' again, with the names, --weight, --min-frames and --hol"
    ):
        catalog.open_mix(Path("catalogs/mix.parquet"))
