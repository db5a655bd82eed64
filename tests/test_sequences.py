"""Mining, mixing and asking: against sets of points known from rendering, and re-mining from the catalog."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mumdata import catalog
from mumdata.errors import CatalogError, ConfigError, MumError
from mumdata.index import index
from mumdata.mix import mix, shipped
from mumdata.schema import COVISIBILITY, FRAMES, SCENES, SEQUENCES
from mumdata.sequences import mine_sequences
from mumdata.stats import TOPICS, stats

from .conftest import DEMO_DATASETS, write_picture
from .test_index import truth_files


def copied(catalogs: Path, tmp_path: Path, name: str) -> Path:
    shutil.copytree(catalogs / name, tmp_path / "c" / name)
    return tmp_path / "c"


def test_overlap_equals_the_overlap_known_from_rendering(world: Path, catalogs: Path) -> None:
    checked = 0
    for name, scene, stream, path in truth_files(world):
        if name == "realestate10k":
            continue
        truth = np.load(path)
        sees = {
            str(image): set(np.flatnonzero(seen)) for image, seen in zip(truth["names"], truth["visible"], strict=True)
        }
        frames = catalog.read_frames(name, catalogs=catalogs)
        own = frames[(frames.scene == scene) & (frames["stream"] == stream)]
        points = [next(sees[i] for i in sees if path.endswith("/" + i)) for path in own.path]
        pairs = catalog.read_covisibility(name, catalogs=catalogs)
        mine = pairs[(pairs.scene == scene) & (pairs["stream"] == stream)].set_index(["frame_a", "frame_b"])
        expected = 0
        for a, b in itertools.combinations(range(len(own)), 2):
            both = len(points[a] & points[b])
            expected += both > 0
            if not both:
                continue
            row = mine.loc[own.frame_id.iloc[a], own.frame_id.iloc[b]]
            assert row.shared_points == both
            assert row.overlap_ab == np.float32(both / len(points[a]))
            assert row.overlap_ba == np.float32(both / len(points[b]))
            assert row.iou == np.float32(both / len(points[a] | points[b]))
            rotations = truth["cam_from_world"][:, :, :3]
            place = [
                [str(i) for i in truth["names"]].index(next(i for i in sees if own.path.iloc[k].endswith("/" + i)))
                for k in (a, b)
            ]
            turn = rotations[place[1]] @ rotations[place[0]].T
            assert row.rotation_cos == pytest.approx((np.trace(turn) - 1) / 2, abs=1e-9)
            assert row.axis_cos == pytest.approx(rotations[place[0]][2] @ rotations[place[1]][2], abs=1e-9)
            assert row.axis_deg == pytest.approx(np.degrees(np.arccos(np.clip(row.axis_cos, -1, 1))))
        assert len(mine) == expected
        checked += expected
    assert checked > 1000


def test_chains_of_megadepth_follow_the_overlap(catalogs: Path) -> None:
    frames = catalog.read_frames("megadepth", catalogs=catalogs)
    pairs = catalog.read_covisibility("megadepth", catalogs=catalogs)
    overlap = {(row.frame_a, row.frame_b): (row.shared_points, row.overlap_ab) for row in pairs.itertuples()}
    overlap |= {(row.frame_b, row.frame_a): (row.shared_points, row.overlap_ba) for row in pairs.itertuples()}
    sequences = catalog.read_sequences("megadepth", catalogs=catalogs)
    counts = sequences.groupby(["scene", "stream"], observed=True).size()
    assert set(counts) == {1000}
    assert sequences.num_frames.between(24, 256).all()
    for row in sequences.drop_duplicates("sequence").iloc[::97].itertuples():
        chain = row.frames.tolist()
        assert len(set(chain)) == len(chain) == row.num_frames
        stream = frames[(frames.scene == row.scene) & (frames["stream"] == row.stream)].frame_id.tolist()
        assert set(chain) <= set(stream)
        for place, (here, after) in enumerate(itertools.pairwise(chain)):
            assert row.links[place] == overlap[here, after][1]
            others = [
                (overlap[here, o][1], -o)
                for o in stream
                if o not in chain[: place + 1] and overlap.get((here, o), (0,))[0] >= 30
            ]
            assert after == -max(others)[1]
        whole = [overlap.get(pair, (0, 0.0))[1] for pair in itertools.permutations(chain, 2)]
        assert row.mean_overlap == pytest.approx(np.mean(whole), rel=1e-5)
        assert row.density == pytest.approx(np.mean(np.array(whole) >= np.float32(0.1)), abs=0.01)
        assert row.components >= 1
    # every frame that starts a long enough chain starts one: duplicates only once those are used up
    for _, own in sequences.groupby(["scene", "stream"], observed=True):
        distinct = own.frames.map(tuple).nunique()
        assert own.frames.iloc[:distinct].map(tuple).nunique() == distinct


def test_chains_of_megascenes_turn_between_10_and_90_degrees(catalogs: Path) -> None:
    pairs = catalog.read_covisibility("megascenes", catalogs=catalogs).set_index(["frame_a", "frame_b"])
    sequences = catalog.read_sequences("megascenes", catalogs=catalogs)
    assert (sequences.num_frames >= 8).all()
    used = np.concatenate(sequences.frames.tolist())
    assert len(np.unique(used)) == len(used)
    for row in sequences.itertuples():
        for here, after in itertools.pairwise(row.frames):
            link = pairs.loc[min(here, after), max(here, after)]
            assert 10 - 1e-6 <= link.axis_deg <= 90 + 1e-6
            assert link.iou >= 0.1
    footer = catalog.read_footer(SEQUENCES, catalogs / "megascenes" / "sequences.parquet")
    assert footer.parameters["min_frames"] == 8
    assert set(footer.inputs) == {"frames", "covisibility"}


def test_chunks_of_realestate_cover_every_usable_frame_once(catalogs: Path) -> None:
    frames = catalog.read_frames("realestate10k", catalogs=catalogs)
    sequences = catalog.read_sequences("realestate10k", catalogs=catalogs)
    used = np.concatenate(sequences.frames.tolist())
    expected = frames[(frames.split == "train") & (frames.status == "ok")].frame_id
    assert sorted(used) == sorted(expected)
    assert set(sequences.split) == {"train"}
    for _, own in sequences.groupby("scene", observed=True):
        assert own.num_frames.max() - own.num_frames.min() <= 1
        assert own.num_frames.max() <= 100
    assert (sequences.groupby("scene", observed=True).size() > 1).any()


def test_single_images(catalogs: Path) -> None:
    sequences = catalog.read_sequences("imagenet", catalogs=catalogs)
    frames = catalog.read_frames("imagenet", catalogs=catalogs)
    assert [row[0] for row in sequences.frames] == frames[frames.split == "train"].frame_id.tolist()


@pytest.mark.parametrize("name", ["megadepth", "megascenes"])
def test_mining_again_from_the_pairs_equals_mining_from_the_models(
    world: Path, catalogs: Path, tmp_path: Path, name: str
) -> None:
    folder = copied(catalogs, tmp_path, name)
    (folder / name / "sequences.parquet").unlink()
    mine_sequences(name, catalogs=folder, root=tmp_path)  # no model is looked at: the root is empty
    for file in ("sequences.parquet", "covisibility.parquet", "scenes.parquet"):
        assert (folder / name / file).read_bytes() == (catalogs / name / file).read_bytes()
    (folder / name / "covisibility.parquet").unlink()
    mine_sequences(name, catalogs=folder, root=world / name, workers=2)
    for file in ("sequences.parquet", "covisibility.parquet", "scenes.parquet"):
        assert (folder / name / file).read_bytes() == (catalogs / name / file).read_bytes()


def test_options_presets_and_seeds(catalogs: Path, tmp_path: Path) -> None:
    folder = copied(catalogs, tmp_path, "megadepth")
    first = catalog.read_sequences("megadepth", catalogs=folder).frames.map(tuple).tolist()
    mine_sequences("megadepth", catalogs=folder, seed=1)
    second = catalog.read_sequences("megadepth", catalogs=folder).frames.map(tuple).tolist()
    assert first != second
    assert set(first) == set(second)
    mine_sequences("megadepth", catalogs=folder, max_frames=30, per_scene=7)
    table = catalog.read_sequences("megadepth", catalogs=folder)
    assert len(table) == 7 * 3
    assert table.num_frames.max() == 30
    mine_sequences("megadepth", catalogs=folder, rule="chunk", chunk_size=10)
    assert catalog.read_sequences("megadepth", catalogs=folder).num_frames.max() == 10
    for wrong, match in (
        ({"rule": "chian-overlap"}, "chain-overlap"),
        ({"preset": "mum"}, "preset"),
        ({"chunk_size": 3}, "no meaning"),
        ({"min_frames": 0}, "min_frames"),
        ({"min_frames": 9, "max_frames": 8}, "max_frames"),
        ({"split": "train"}, "no splits"),
    ):
        with pytest.raises(ConfigError, match=match):
            mine_sequences("megadepth", catalogs=folder, **wrong)
    folder = copied(catalogs, tmp_path / "2", "megascenes")
    with pytest.raises(MumError, match="no scene yields a sequence"):
        mine_sequences("megascenes", catalogs=folder, preset="mum-paper", min_metric=0.9)
    # what was mined before stays
    assert catalog.read(SEQUENCES, folder / "megascenes/sequences.parquet").num_rows > 0


def test_where_a_scene_yields_nothing_stats_says_why(catalogs: Path) -> None:
    table = stats("scenes", catalogs=catalogs)
    none = table[table.seqs == 0]
    assert len(none) > 0
    assert (none.notes.str.len() > 0).all()
    assert none.notes.str.contains("at least 8 needed|listed, none on disk|is not mined").all()


def test_evaluation_scenes_are_left_out_unless_allowed(world: Path, tmp_path: Path) -> None:
    source = sorted((world / "megadepth/MegaDepth_v1_SfM").iterdir())[0]
    for name in ("0022", "0100"):
        shutil.copytree(source, tmp_path / "m/MegaDepth_v1_SfM" / name)
    folder = tmp_path / "c"
    index("megadepth", root=tmp_path / "m", catalogs=folder)
    mine_sequences("megadepth", catalogs=folder, per_scene=3)
    assert set(catalog.read_sequences("megadepth", catalogs=folder).scene) == {"0100"}
    rows = catalog.read_scenes("megadepth", catalogs=folder)
    assert rows[rows.scene == "0022"].why_no_sequence.str.contains("megadepth-1500").all()
    mine_sequences("megadepth", catalogs=folder, per_scene=3, allow_eval_scenes=True)
    assert set(catalog.read_sequences("megadepth", catalogs=folder).scene) == {"0022", "0100"}


def test_frames_that_are_missing_are_not_mined_but_their_pairs_are_known(world: Path, tmp_path: Path) -> None:
    source = sorted((world / "megadepth/MegaDepth_v1_SfM").iterdir())[0]
    shutil.copytree(source, tmp_path / "m/MegaDepth_v1_SfM/0100")
    gone = sorted((tmp_path / "m/MegaDepth_v1_SfM/0100/images").iterdir())[:3]
    for path in gone:
        path.unlink()
    folder = tmp_path / "c"
    index("megadepth", root=tmp_path / "m", catalogs=folder)
    mine_sequences("megadepth", catalogs=folder)
    frames = catalog.read_frames("megadepth", catalogs=folder)
    lost = set(frames[frames.status == "missing"].frame_id)
    assert lost
    used = set(np.concatenate(catalog.read_sequences("megadepth", catalogs=folder).frames.tolist()))
    assert not used & lost
    assert lost & set(catalog.read_covisibility("megadepth", catalogs=folder).frame_a)
    mine_sequences("megadepth", catalogs=folder, allow_missing=True)
    used = set(np.concatenate(catalog.read_sequences("megadepth", catalogs=folder).frames.tolist()))
    assert used & lost
    with pytest.raises(CatalogError, match="not on disk"):
        mix("mum", catalogs=folder)


def test_a_tree_that_changed_since_indexing_is_noticed(world: Path, tmp_path: Path) -> None:
    source = sorted((world / "megadepth/MegaDepth_v1_SfM").iterdir())[0]
    shutil.copytree(source, tmp_path / "m/MegaDepth_v1_SfM/0100")
    folder = tmp_path / "c"
    index("megadepth", root=tmp_path / "m", catalogs=folder)
    shutil.rmtree(tmp_path / "m/MegaDepth_v1_SfM/0100/sparse/manhattan/0")
    with pytest.raises(CatalogError, match="run 'mumdata index megadepth' again"):
        mine_sequences("megadepth", catalogs=folder)
    shutil.rmtree(tmp_path / "m/MegaDepth_v1_SfM/0100")
    with pytest.raises(MumError):
        mine_sequences("megadepth", catalogs=folder)


def test_own_photos_take_any_two_frames_and_folders_whole_scenes(world: Path, tmp_path: Path) -> None:
    source = sorted((world / "megadepth/MegaDepth_v1_SfM").iterdir())[0]
    shutil.copytree(source / "images", tmp_path / "mine/images")
    shutil.copytree(source / "sparse/manhattan/0", tmp_path / "mine/sparse/0")
    index("colmap", root=tmp_path / "mine", name="mine", catalogs=tmp_path / "c")
    mine_sequences("mine", catalogs=tmp_path / "c", max_frames=2)
    assert set(catalog.read_sequences("mine", catalogs=tmp_path / "c").num_frames) == {2}
    index("folder", root=tmp_path / "mine/images", name="plain", catalogs=tmp_path / "c")
    found = mine_sequences("plain", catalogs=tmp_path / "c")
    assert (found.num_sequences, found.rule) == (1, "scene")


# ---- mix


def test_weights_are_renormalised_over_what_is_there(catalogs: Path, tmp_path: Path) -> None:
    found = mix("mum", catalogs=catalogs, out=tmp_path / "a.parquet")
    assert {row["dataset"]: row["weight"] for row in found.rows} == dict.fromkeys(DEMO_DATASETS, 0.25)
    assert set(found.left_out) == {
        "streetview",
        "wildrgbd",
        "dl3dv",
        "scannetpp",
        "co3d",
        "blendedmvs",
        "arkitscenes",
        "hypersim",
    }
    found = mix("mum", weight=["imagenet=0", "megadepth=0.3"], catalogs=catalogs, out=tmp_path / "b.parquet")
    weights = {row["dataset"]: row["weight"] for row in found.rows}
    assert weights == pytest.approx({"megadepth": 0.6, "megascenes": 0.2, "realestate10k": 0.2})
    found = mix("only", weight=["imagenet=3"], catalogs=catalogs, out=tmp_path / "c.parquet")
    assert [(row["dataset"], row["weight"], row["single_view"]) for row in found.rows] == [("imagenet", 1.0, True)]


def test_the_papers_weights() -> None:
    import tomllib

    table = tomllib.loads(shipped()["mum"].read_text())["dataset"]
    assert sum(entry["weight"] for entry in table) == pytest.approx(1)
    assert len(table) == 12
    assert {entry["name"] for entry in table if entry["weight"] == 0.05} == {
        "co3d",
        "blendedmvs",
        "arkitscenes",
        "hypersim",
    }


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[[dataset]]\nname = 'x'\nwieght = 1", "wieght"),
        ("[[dataset]]\nname = 'x'", "weight"),
        ("[[dataset]]\nname = 'x'\nweight = -1", "from 0 up"),
        ("[[dataset]]\nname = 'x'\nweight = 1\n[[dataset]]\nname = 'x'\nweight = 1", "name of its own"),
        ("dataset = ", "not valid TOML"),
    ],
)
def test_broken_definitions(catalogs: Path, tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ConfigError, match=match):
        mix(str(tmp_path / "x.toml"), catalogs=catalogs)


def test_wrong_weights_and_mixes(catalogs: Path, tmp_path: Path) -> None:
    for weight, match in (
        ("imagnet=1", "imagenet"),
        ("imagenet", "NAME=NUMBER"),
        ("imagenet=a", "not a number"),
        ("imagenet=nan", "from 0 up"),
    ):
        with pytest.raises(ConfigError, match=match):
            mix("mum", weight=[weight], catalogs=catalogs)
    with pytest.raises(ConfigError, match="did you mean 'mum'"):
        mix("mun", catalogs=catalogs)
    with pytest.raises(CatalogError, match="no frames catalog; run 'mumdata index hypersim'"):
        mix("mum", weight=["hypersim=1"], catalogs=catalogs)
    with pytest.raises(CatalogError, match="name your own"):
        mix("only", catalogs=catalogs)
    with pytest.raises(CatalogError, match="has 999 frames"):
        mix("only", weight=["megadepth=1"], catalogs=catalogs, min_frames=999)


def test_sequences_of_other_frames_are_refused(catalogs: Path, tmp_path: Path) -> None:
    folder = copied(catalogs, tmp_path, "imagenet")
    path = folder / "imagenet/frames.parquet"
    catalog.write(FRAMES, catalog.read(FRAMES, path).slice(0, 20), path, parameters={"dataset": "imagenet"})
    with pytest.raises(CatalogError, match="mined from other frames; run 'mumdata mine-sequences imagenet'"):
        mix("mum", catalogs=folder)


# ---- stats


def test_overview_counts_what_the_files_hold(catalogs: Path) -> None:
    table = stats(catalogs=catalogs).set_index("dataset")
    for name in DEMO_DATASETS:
        assert table.frames[name] == catalog.read(FRAMES, catalogs / name / "frames.parquet").num_rows
        scenes = catalog.read(SCENES, catalogs / name / "scenes.parquet").to_pandas()
        assert table.scenes[name] == len(scenes[["split", "scene"]].astype(str).drop_duplicates())
        assert table.seqs[name] == catalog.read(SEQUENCES, catalogs / name / "sequences.parquet").num_rows
    pairs = catalog.read(COVISIBILITY, catalogs / "megadepth/covisibility.parquet").to_pandas()
    quantiles = np.quantile(np.concatenate([pairs.overlap_ab, pairs.overlap_ba]), [0.25, 0.5, 0.75])
    assert table.overlap["megadepth"] == "/".join(f"{value:.2f}".lstrip("0") for value in quantiles)


def test_every_topic_and_any_query(catalogs: Path, mix_path: Path, tmp_path: Path) -> None:
    for topic in set(TOPICS) - {"visits"}:  # those of a run
        assert isinstance(stats(topic, catalogs=catalogs), pd.DataFrame)
    joined = stats(
        sql="SELECT count(*) AS n FROM (SELECT unnest(frames) AS frame_id, dataset FROM sequences) JOIN frames USING (frame_id, dataset)",  # noqa: E501
        catalogs=catalogs,
    )
    assert joined.n[0] == sum(
        catalog.read_sequences(name, catalogs=catalogs).num_frames.sum() for name in DEMO_DATASETS
    )
    with pytest.raises(ConfigError, match="the query failed"):
        stats(sql="SELECT nothing FROM nowhere", catalogs=catalogs)
    with pytest.raises(ConfigError, match="did you mean 'scenes'"):
        stats("scene", catalogs=catalogs)
    with pytest.raises(CatalogError, match="no catalog under"):
        stats(catalogs=tmp_path)


def test_tables_fit_eighty_columns_and_other_formats_hold_everything(tmp_path: Path) -> None:
    from mumdata.tables import render

    frame = pd.DataFrame(
        {"dataset": ["a" * 30, "b"], "n": [1, None], "notes": ["word " * 40, None], "list": [[1, 2.5], None]}
    )
    text = render(frame, "table", 80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("word") == 40
    assert json.loads(render(frame, "json"))[0] == {
        "dataset": "a" * 30,
        "n": 1,
        "notes": "word " * 40,
        "list": [1, 2.5],
    }
    assert render(frame, "csv").startswith("dataset,n,notes,list\n")
    assert "\x1b" not in render(pd.DataFrame({"path": ["evil\x1b[2J.jpg"]}))
    with pytest.raises(ConfigError):
        render(frame, "xml")


def test_a_catalog_with_a_missing_column_is_one_line(catalogs: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    folder = copied(catalogs, tmp_path, "imagenet")
    path = folder / "imagenet/frames.parquet"
    pq.write_table(pq.read_table(path).drop(["status"]), path)
    for call in (
        lambda: stats(catalogs=folder),
        lambda: mine_sequences("imagenet", catalogs=folder),
        lambda: mix("mum", catalogs=folder),
    ):
        with pytest.raises(CatalogError, match="column 'status' is missing; run 'mumdata index imagenet'"):
            call()


def test_a_picture_folder_without_a_usable_image(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r/a.jpg").write_bytes(b"")
    index("folder", root=tmp_path / "r", name="r", catalogs=tmp_path / "c")
    with pytest.raises(MumError, match=r"no frame is usable .*1 empty"):
        mine_sequences("r", catalogs=tmp_path / "c")
    write_picture(tmp_path / "r/a.jpg")
    assert index("folder", root=tmp_path / "r", name="r", catalogs=tmp_path / "c").changed
    assert mine_sequences("r", catalogs=tmp_path / "c").num_sequences == 1


def test_files_made_from_other_frames_are_not_counted(tmp_path: Path) -> None:
    from mumdata.stats import stale

    for number in range(2):
        write_picture(tmp_path / f"r/{number}.jpg", seed=number)
    index("folder", root=tmp_path / "r", name="r", catalogs=tmp_path / "c")
    mine_sequences("r", catalogs=tmp_path / "c")
    assert stale(tmp_path / "c") == []
    (tmp_path / "r/1.jpg").unlink()
    index("folder", root=tmp_path / "r", name="r", catalogs=tmp_path / "c")
    assert [path.name for path in stale(tmp_path / "c")] == ["sequences.parquet"]
    assert stats(catalogs=tmp_path / "c").seqs.tolist() == [0]


def test_a_broken_file_of_pairs_is_made_again(world: Path, catalogs: Path, tmp_path: Path) -> None:
    folder = copied(catalogs, tmp_path, "megadepth")
    path = folder / "megadepth/covisibility.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    mine_sequences("megadepth", catalogs=folder, root=world / "megadepth")
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "sql", ["COPY (SELECT 1) TO 'x.csv'", "SELECT 1; SELECT 2", "DROP VIEW frames", "ATTACH 'x.db'"]
)
def test_a_query_only_reads(catalogs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="one SELECT"):
        stats(sql=sql, catalogs=catalogs)
    assert list(tmp_path.iterdir()) == []
