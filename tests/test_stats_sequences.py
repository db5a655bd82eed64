"""What random subsets of sequences share, and how often frames are seen: against plain counting over every subset."""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
import textwrap
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog, rng
from mumdata.errors import CatalogError, ConfigError
from mumdata.schema import COVISIBILITY, FRAMES, SCENES, SEQUENCES
from mumdata.stats import connect, legend, sections, stats
from mumdata.subsets import subsets
from mumdata.tables import render

# frame_a, frame_b -> overlap a->b, overlap b->a, shared points
Links = dict[tuple[int, int], tuple[float, float, int | None]]


def write(
    catalogs: Path,
    sequences: list[list[int]],
    pairs: Links | None,
    *,
    name: str = "d",
    num: int | None = None,
    num_usable: int | None = None,
    frames: dict[str, Any] | None = None,
    scene: list[str] | None = None,
    known: list[bool] | None = None,
    pairs_of: str = "",
    order: list[int] | None = None,
    parameters: dict[str, Any] | None = None,
    pair_parameters: dict[str, Any] | None = None,
) -> Path:
    """Write a dataset by hand: its frames, its sequences, and what pairs of frames share."""
    num = num or max(max(one) for one in sequences) + 1
    columns: dict[str, Any] = {"dataset": [name] * num, "frame_id": range(num), "frame": range(num)}
    columns |= {"scene": ["s"] * num, "path": [f"{frame}.jpg" for frame in range(num)], "status": ["ok"] * num}
    columns |= frames or {}
    digest, _ = catalog.write(FRAMES, catalog.build(FRAMES, columns), catalogs / name / "frames.parquet")
    # two scenes, so that they have to be added up
    counted = {
        "dataset": [name] * 2,
        "scene": ["r", "s"],
        "status": ["complete"] * 2,
        "num_usable": [1, (num_usable or num) - 1],
    }
    counted |= {"num_frames": [0, num], "num_posed": [0, 0]}
    catalog.write(SCENES, catalog.build(SCENES, counted), catalogs / name / "scenes.parquet")
    inputs = {"frames": digest}
    if pairs is not None:
        at = sorted(pairs) if order is None else [sorted(pairs)[place] for place in order]
        rows = {"dataset": [name] * len(at), "scene": ["s"] * len(at), "source": ["tracks"] * len(at)}
        rows |= {"frame_a": [a for a, _ in at], "frame_b": [b for _, b in at]}
        for place, column in enumerate(("overlap_ab", "overlap_ba", "shared_points")):
            rows[column] = [pairs[pair][place] for pair in at]
        inputs["covisibility"], _ = catalog.write(
            COVISIBILITY,
            catalog.build(COVISIBILITY, rows),
            catalogs / name / "covisibility.parquet",
            inputs={"frames": pairs_of or digest},
            parameters=pair_parameters,
        )
    measured = known or [pairs is not None] * len(sequences)
    table = {
        "dataset": [name] * len(sequences),
        "scene": scene or ["s"] * len(sequences),
        "sequence": range(len(sequences)),
        "rule": ["chain-overlap"] * len(sequences),
        "frames": sequences,
        "num_frames": [len(one) for one in sequences],
        "mean_overlap": [0.25 + 0.001 * at if is_known else None for at, is_known in enumerate(measured)],
        "density": [0.5 if is_known else None for is_known in measured],
        "components": [at + 1 if is_known else None for at, is_known in enumerate(measured)],
    }
    catalog.write(
        SEQUENCES,
        catalog.build(SEQUENCES, table),
        catalogs / name / "sequences.parquet",
        inputs=inputs,
        seed=7,
        parameters=parameters or {"rule": "chain-overlap", "min_frames": 2},
    )
    return catalogs


def between(a: int, b: int, links: Links) -> tuple[float, float, int]:
    """Return overlap a->b, b->a as they are stored, and the shared points, of any two frames."""
    ab, ba, shared = links.get((min(a, b), max(a, b)), (0.0, 0.0, 0))
    ab, ba = float(np.float32(ab)), float(np.float32(ba))
    return (ab, ba, shared or 0) if a < b else (ba, ab, shared or 0)


def lone_and_connected(frames: tuple[int, ...], links: Links, least: float) -> tuple[Fraction, Fraction]:
    """Count the lone frames of one subset and its largest part, one frame after another."""
    linked = {frame: set[int]() for frame in frames}
    for a, b in itertools.combinations(frames, 2):
        most = max(links.get((min(a, b), max(a, b)), (0.0, 0.0, 0))[:2])
        if most > 0 and most >= least:
            linked[a].add(b)
            linked[b].add(a)
    largest = 0
    for start in frames:
        part, waiting = set[int](), [start]
        while waiting:
            frame = waiting.pop()
            if frame not in part:
                part.add(frame)
                waiting += linked[frame]
        largest = max(largest, len(part))
    num_lone = sum(not others for others in linked.values())
    return Fraction(num_lone, len(frames)), Fraction(largest, len(frames))


def measures(drawn: list[tuple[int, ...]], links: Links, least: float = 0.1) -> tuple[float, float, float, float]:
    """Return lone, connected, shared_points and overlap of subsets, from their definition."""
    each = [lone_and_connected(frames, links, least) for frames in drawn]
    lone = sum(lone for lone, _ in each) / len(drawn)
    connected = sum(connected for _, connected in each) / len(drawn)
    two = [pair for frames in drawn for pair in itertools.permutations(frames, 2)]
    overlap = sum(Fraction(between(a, b, links)[0]) for a, b in two) / len(two)
    return float(lone), float(connected), statistics.median(between(a, b, links)[2] for a, b in two), float(overlap)


def of_row(row: pd.Series) -> tuple[float, float, float, float]:
    return row["lone"], row["connected"], row["shared_points"], row["overlap"]


def ring(num: int, seed: int = 0, first: int = 0) -> Links:
    """Frames on a ring: near ones share much, others little or nothing, some in one direction only."""
    words = rng.unit(rng.words(rng.key(seed, "ring"), num * num * 2)).reshape(2, num, num)
    links: Links = {}
    for a, b in itertools.combinations(range(num), 2):
        apart = min(b - a, num - b + a)
        if apart <= 1 + num // 5:
            ab, ba = (float(words[side, a, b]) / apart**2 for side in (0, 1))
            links[first + a, first + b] = (ab, ba, 1 + int(300 * ab))
    return links


# ---- measures


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data(), num=st.integers(2, 9), least=st.sampled_from([0.0, 0.1, 0.3]))
def test_measures_equal_their_definition(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, num: int, least: float
) -> None:
    # a sequence of V frames has one subset, so what is drawn is known; bounds are met exactly, from both sides
    overlap = st.sampled_from([0.0, 0.01, 99 / 1000, 1 / 10, 101 / 1000, 299 / 1000, 3 / 10, 0.7, 1.0])
    all_pairs = list(itertools.combinations(range(num), 2))
    chosen = data.draw(st.sets(st.sampled_from(all_pairs), max_size=num))
    links: Links = {pair: (data.draw(overlap), data.draw(overlap), data.draw(st.integers(0, 9))) for pair in chosen}
    frames = data.draw(st.permutations(range(num)))
    folder = write(tmp_path_factory.mktemp("one"), [frames], links)
    row = subsets("d", catalogs=folder, views=(num,), num=2, min_overlap=least).iloc[0]
    assert of_row(row) == pytest.approx(measures([tuple(frames)], links, least), rel=1e-12, abs=0)
    assert (row["views"], row["eligible"], row["known"], row["subsets"]) == (num, 1, 1, 2)


def test_random_subsets_agree_with_all_subsets(tmp_path: Path) -> None:
    # sequences that differ much: one that is drawn too often, or by its length, shows
    sequences = [list(range(9)), [9, 10, 11, 12, 13, 14], [0, 9, 1, 10, 2, 11, 3, 12, 4, 13, 5, 14], [0, 1]]
    links = ring(9) | {pair: (0.9, 0.8, 50) for pair in itertools.combinations(range(9, 15), 2)}
    write(tmp_path, sequences, links)
    num = 4000
    found = subsets("d", catalogs=tmp_path, views=(2, 3, 5, 6), num=num, seed=3).set_index("views")
    for views, row in found.iterrows():
        expected = np.zeros(2)
        overlap, fitting = 0.0, [one for one in sequences if len(one) >= int(str(views))]
        for one in fitting:
            every = list(itertools.combinations(one, int(str(views))))
            lone, connected, _, mean = measures(every, links)
            expected += np.array([lone, connected]) / len(fitting)
            overlap += mean / len(fitting)
        # a mean of values in 0 .. 1 has a standard error of at most 0.5 / sqrt(num)
        assert np.abs(np.array([row["lone"], row["connected"]]) - expected).max() < 3 * 0.5 / math.sqrt(num)
        assert abs(row["overlap"] - overlap) < 3 * 0.5 / math.sqrt(num)
        assert row["eligible"] == row["known"] == len(fitting)


@pytest.mark.parametrize(("rows_of_a_group", "rows_at_once"), [(1 << 17, 4096), (5, 4096), (7, 3), (1 << 17, 2)])
def test_draws_are_those_of_the_documented_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_of_a_group: int, rows_at_once: int
) -> None:
    # the same in plain steps, also where files have many row groups, read in many pieces, and the pairs any order
    monkeypatch.setattr(catalog, "_ROW_GROUP", rows_of_a_group)
    monkeypatch.setattr(sys.modules[subsets.__module__], "_BATCH_ROWS", rows_at_once)
    sequences = [list(range(start, start + 4 + start % 5)) for start in range(23)]
    links = ring(31)
    order = rng.permutation(1, len(links)).tolist()
    write(tmp_path, sequences, links, order=order)
    found = subsets("d", catalogs=tmp_path, views=(5, 2), num=150, seed=11).set_index("views")
    assert found.index.tolist() == [2, 5]
    for views in (2, 5):
        fitting = [one for one in sequences if len(one) >= views]
        words = rng.words(rng.key(11, "stats sequences", "d", views), 150)
        drawn = []
        for number in range(150):
            one = fitting[int(words[number]) * len(fitting) >> 64]
            key = rng.key(11, "stats sequences", "d", views, "frames", number)
            drawn.append(tuple(one[place] for place in rng.choose(key, len(one), views).tolist()))
        assert of_row(found.loc[views]) == pytest.approx(measures(drawn, links), rel=1e-13)


def test_results_depend_on_seed_and_dataset_but_not_on_the_other_views(tmp_path: Path) -> None:
    for name in ("d", "e"):
        write(tmp_path, [list(range(12))], ring(12), name=name)

    def lone(name: str = "d", **how: Any) -> dict[int, float]:
        found = subsets(name, catalogs=tmp_path, num=300, **how)
        return dict(zip(found["views"], found["lone"], strict=True))

    base = lone(views=(2, 4, 8))
    assert lone(views=(8, 4, 2, 2)) == base
    assert lone(views=(4,)) == {4: base[4]}
    assert lone(views=(2, 4, 8), seed=1) != base
    assert lone("e", views=(2, 4, 8)) != base


def test_a_frame_twice_in_a_sequence_is_one_frame(tmp_path: Path) -> None:
    # (0, 0) can be no subset: with it, pairs that do not exist would be looked up
    links: Links = {(0, 1): (0.5, 0.5, 9), (0, 2): (0.5, 0.5, 9), (1, 2): (0.5, 0.5, 9)}
    write(tmp_path, [[0, 1, 0, 2, 1, 0], [0, 0, 0, 1, 1]], links)
    found = subsets("d", catalogs=tmp_path, views=(2, 3), num=64).set_index("views")
    assert found["lone"].tolist() == [0.0, 0.0]
    assert found["overlap"].tolist() == [0.5, 0.5]
    assert found["eligible"].tolist() == [2, 2]
    # three distinct frames: only the first; draws of the other are void
    assert found.loc[2, "subsets"] == 64
    assert 0 < found.loc[3, "subsets"] < 64


def test_only_row_groups_that_are_needed_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_ROW_GROUP", 10)
    links = {(a, b): (0.5, 0.5, 9) for a, b in itertools.combinations(range(60), 2)}
    write(tmp_path, [[50, 51], *([[frame] for frame in range(50)])], links)
    read: list[tuple[str, int]] = []
    for method in ("read_row_group", "iter_batches"):
        real = getattr(pq.ParquetFile, method)

        def noting(self: Any, *given: Any, real: Any = real, method: str = method, **named: Any) -> Any:
            read.append((method, given[0] if method == "read_row_group" else named["row_groups"]))
            return real(self, *given, **named)

        monkeypatch.setattr(pq.ParquetFile, method, noting)
    assert subsets("d", catalogs=tmp_path, views=(2,), num=5).loc[0, "lone"] == 0
    begin = sum(a < 50 for a, _ in links)
    within = range(begin // 10, (begin + 8) // 10 + 1)
    assert [groups for method, groups in read if method == "iter_batches"] == [[0]]
    assert [group for method, group in read if method == "read_row_group"] == list(within)


# ---- what is not known


def test_without_pairs_of_the_same_frames_nothing_is_known(tmp_path: Path) -> None:
    links: Links = {(0, 1): (0.5, 0.5, 9)}
    write(tmp_path / "none", [[0, 1, 2]], None)
    write(tmp_path / "other", [[0, 1, 2]], links, pairs_of="other frames")
    write(tmp_path / "newer", [[0, 1, 2]], links)
    own = catalog.read_footer(COVISIBILITY, tmp_path / "newer/d/covisibility.parquet")
    pairs = catalog.read(COVISIBILITY, tmp_path / "newer/d/covisibility.parquet")
    path = tmp_path / "newer/d/covisibility.parquet"
    catalog.write(COVISIBILITY, pairs.slice(0, 0), path, inputs=own.inputs)
    for folder in ("none", "other", "newer"):
        found = subsets("d", catalogs=tmp_path / folder, views=(2, 4), num=9)
        assert found["eligible"].tolist() == [1, 0]
        assert found["known"].tolist() == found["subsets"].tolist() == [0, 0]
        assert found[["lone", "connected", "shared_points", "overlap"]].isna().all(axis=None)
        assert not stats("sequences", catalogs=tmp_path / folder)["lone"].notna().any()


def test_sequences_of_which_nothing_is_known_are_not_drawn(tmp_path: Path) -> None:
    write(tmp_path, [[0, 1], [2, 3], [4, 5]], {(0, 1): (0.5, 0.5, 9)}, known=[True, False, False])
    row = subsets("d", catalogs=tmp_path, views=(2,), num=50).iloc[0]
    assert (row["eligible"], row["known"], row["subsets"]) == (3, 1, 50)
    assert of_row(row) == (0.0, 1.0, 9.0, 0.5)


def test_known_to_share_nothing_is_not_unknown(tmp_path: Path) -> None:
    write(tmp_path, [[0, 1, 2]], {})
    assert of_row(subsets("d", catalogs=tmp_path, views=(3,), num=5).iloc[0]) == (1.0, 1 / 3, 0.0, 0.0)


def test_sources_that_do_not_count_points_have_no_shared_points(tmp_path: Path) -> None:
    write(tmp_path, [[0, 1, 2]], {(0, 1): (0.5, 0.25, None), (0, 2): (0.05, 0.0, None)})
    row = subsets("d", catalogs=tmp_path, views=(3,), num=5).iloc[0]
    assert row["lone"], row["connected"] == (1 / 3, 2 / 3)
    assert row["overlap"] == pytest.approx((0.5 + 0.25 + 0.05) / 6)
    assert np.isnan(row["shared_points"])


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"views": ()}, "views"),
        ({"views": (2, 1)}, "at least 2"),
        ({"num": 0}, "num is 0"),
        ({"min_overlap": 1.5}, "min_overlap is 1.5"),
        ({"min_overlap": math.nan}, "min_overlap"),
        ({"num": 10**9}, "lower num"),
    ],
)
def test_wrong_arguments_are_config_errors(tmp_path: Path, how: dict[str, Any], match: str) -> None:
    write(tmp_path, [[0, 1]], {})
    with pytest.raises(ConfigError, match=match) as caught:
        subsets("d", catalogs=tmp_path, **how)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["sequences", "covisibility"])
def test_damaged_catalogs_name_the_command(tmp_path: Path, name: str) -> None:
    write(tmp_path, [list(range(40))], ring(40))
    path = tmp_path / f"d/{name}.parquet"
    data = bytearray(path.read_bytes())
    end = len(data) - int.from_bytes(data[-8:-4], "little") - 8  # where the data ends and the footer begins
    data[4:end] = b"\xff" * (end - 4)
    path.write_bytes(bytes(data))
    with pytest.raises(CatalogError, match=r"is damaged; run 'mumdata mine-sequences d'"):
        subsets("d", catalogs=tmp_path, num=5)
    with pytest.raises(CatalogError, match="does not exist; run 'mumdata mine-sequences e'"):
        subsets("e", catalogs=tmp_path)


# ---- the topic


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A dataset of chains with a preset, one without pairs, one of single images."""
    sequences = [list(range(12)), list(range(12)), list(range(2, 12)), list(range(3))]
    options = {"preset": "mumdata", "rule": "chain-overlap", "min_frames": 2, "max_frames": None, "split": "train"}
    options |= {"max_angle_deg": 90.0, "allow_missing": True, "cover": False, "long_name_of_an_option": "x" * 40}
    write(tmp_path, sequences, ring(12), name="chains", parameters=options, pair_parameters={"source": "depth"})
    write(tmp_path, [[0, 1, 2], [3, 4]], None, name="chunks", parameters={"rule": "chunk"})
    write(tmp_path, [[0], [1]], None, name="singles", parameters={"rule": "single"})
    return tmp_path


def test_the_topic_joins_datasets_and_subsets(three: Path) -> None:
    found = stats("sequences", catalogs=three, num=100, seed=5, min_overlap=0.2)
    assert [(row.dataset, row.views) for row in found.itertuples()] == [
        *(("chains", views) for views in (2, 4, 8, 12)),
        ("chunks", 2),
        ("singles", 2),
    ]
    alone = subsets("chains", catalogs=three, num=100, seed=5, min_overlap=0.2, views=(2, 4, 8, 12))
    own = found[found["dataset"] == "chains"]
    pd.testing.assert_frame_equal(own[alone.columns].reset_index(drop=True), alone)
    first = found.iloc[0]
    assert (first["rule"], first["preset"], first["seed"]) == ("chain-overlap", "mumdata", 7)
    assert first["options"] == (
        f"allow-missing, long-name-of-an-option {'x' * 40}, max-angle-deg 90, min-frames 2, split train"
    )
    assert first["pairs"] == "source depth"
    assert [first[key] for key in ("sequences", "distinct", "shortest", "median", "longest")] == [4, 3, 3, 11, 12]
    for key, values in (("mean_overlap", [0.25, 0.251, 0.252, 0.253]), ("density", [0.5] * 4)):
        wanted = np.quantile(values, [0.25, 0.5, 0.75])
        assert [first[f"{key}_{part}"] for part in (25, 50, 75)] == pytest.approx(wanted, rel=1e-6)
    assert [first[f"components_{part}"] for part in (25, 50, 75)] == [1, 2, 3]
    assert stats("sequences", catalogs=three, dataset="chunks", num=5)["dataset"].tolist() == ["chunks"]
    assert len(json.loads(render(found, "json"))) == len(render(found, "csv").splitlines()) - 1 == len(found)


def test_the_topic_is_readable_at_80_columns(three: Path) -> None:
    lines = []
    for heading, table in sections(stats("sequences", catalogs=three, num=100)):
        lines += heading + render(table, width=78).splitlines()
        assert max(len(line) for line in render(table, width=78).splitlines()) <= 78
    text = "\n".join(lines)
    assert lines[0] == "chains: chain-overlap, preset mumdata, seed 7"
    assert "options: allow-missing" in text
    assert "pairs: source depth" in text
    assert "4 sequences (3 distinct) of 3/11/12 frames (fewest/median/most)" in text
    assert "quartiles: mean overlap .25/.25/.25, density .50/.50/.50, components 1/2/3" in text
    assert text.count("nothing is known of what the frames of a sequence share") == 2
    assert "    2         2      0  -     -          -              -" in text
    # digits stand below each other, at the right of their column
    rows = [line for line in lines if line.strip().startswith(("2  ", "8  "))]
    assert rows[0].index(".") == rows[1].index(".")
    assert len(rows[0]) == len(rows[1]) == len(next(line for line in lines if line.endswith("overlap")))
    words = legend("sequences", num=100, min_overlap=0.2)
    assert words is not None
    assert "100 draws" in words
    assert "less than 0.2" in words
    assert textwrap.fill(words, 80)
    assert legend("overview") is None


def test_the_topic_without_any_sequences_is_empty(tmp_path: Path) -> None:
    write(tmp_path, [[0, 1]], None)
    (tmp_path / "d/sequences.parquet").unlink()
    assert stats("sequences", catalogs=tmp_path).empty
    assert list(sections(stats("sequences", catalogs=tmp_path))) == []
    exposure = stats("exposure", catalogs=tmp_path)
    assert exposure["dataset"].tolist() == ["d"]
    assert exposure.drop(columns="dataset").isna().all(axis=None)


# ---- exposure


def seen(sequences: list[list[int]]) -> tuple[Counter[int], dict[int, Fraction]]:
    """Count the sequences that hold each frame, and the part of all views that each frame is expected to be."""
    visits, share = Counter[int](), dict[int, Fraction]()
    for one in sequences:
        for frame in one:
            visits[frame] += 1
            share[frame] = share.get(frame, Fraction(0)) + Fraction(1, len(one) * len(sequences))
    return visits, share


@pytest.mark.parametrize("seed", range(6))
def test_exposure_equals_counting(tmp_path: Path, seed: int) -> None:
    truth: dict[str, list[list[int]]] = {}
    scenes: dict[str, list[str]] = {}
    for name in ("d", "e"):
        words = rng.words(rng.key(seed, name), 4000)
        lengths = 1 + rng.below(words[:60], 12)
        # squares: low frames are in more sequences
        frames = (rng.unit(words[60:]) ** 2 * 70).astype(int).reshape(-1, 20)
        truth[name] = [list(dict.fromkeys(row.tolist()))[:length] for row, length in zip(frames, lengths, strict=False)]
        truth[name].append([70 + seed])  # the last frame, so that their number is known
        scenes[name] = [f"s{word % 3}" for word in words[: len(truth[name])].tolist()]
        # seven frames are copies, and mining said so
        write(tmp_path, truth[name], None, name=name, scene=scenes[name], num=78 + seed, num_usable=71 + seed)
    with connect(tmp_path) as connection:
        view = connection.sql("SELECT * FROM exposure ORDER BY dataset, frame_id").df()
    topic = stats("exposure", catalogs=tmp_path).set_index("dataset")
    for name, sequences in truth.items():
        visits, share = seen(sequences)
        num = 78 + seed
        own = view[view["dataset"] == name]
        assert own["frame_id"].tolist() == list(range(num))
        assert own["visits"].tolist() == [visits[frame] for frame in range(num)]
        assert own["share"].tolist() == pytest.approx([float(share.get(frame, 0)) for frame in range(num)], rel=1e-12)
        assert own["share"].sum() == pytest.approx(1)
        num = 71 + seed
        most_first = sorted((visits[frame] for frame in range(num)), reverse=True)
        row = topic.loc[name]
        assert (row["usable"], row["covered"]) == (num, len(visits))
        assert row["share"] == round(len(visits) / num, 3)
        assert (row["fewest"], row["most"]) == (most_first[-1], most_first[0])
        assert row["median"] == statistics.median_low(most_first)
        assert row["tenth"] == round(sum(most_first[: math.ceil(num / 10)]) / sum(most_first), 3)
        assert row["scene"] == round(max(Counter(scenes[name]).values()) / len(sequences), 3)


def test_exposure_is_of_frames_that_mining_may_use(tmp_path: Path) -> None:
    columns = {
        "split": ["train"] * 7 + ["val"],
        "status": ["ok", "ok", "missing", "unreadable", "ok", "ok", "ok", "ok"],
        "duplicate_of": [None, None, None, None, 0, 1, None, None],
        "eval_of": [None] * 6 + ["b", None],
    }

    def ids(**parameters: Any) -> list[int]:
        # 5 is a copy that a sequence holds, 4 one that none holds
        folder = tmp_path / "-".join(map(str, parameters.values()))
        write(folder, [[0, 5, 1]], None, num=8, frames=columns, parameters={"rule": "chunk", **parameters})
        with connect(folder) as connection:
            return [row[0] for row in connection.sql("SELECT frame_id FROM exposure ORDER BY ALL").fetchall()]

    assert ids(split="train") == [0, 1, 5]
    assert ids(split="train", allow_missing=True) == [0, 1, 2, 5]
    assert ids(split="train", allow_eval_scenes=True, allow_missing=False) == [0, 1, 5, 6]
    assert ids(split="train", allow_missing=False, keep_copies=True) == [0, 1, 4, 5]
    assert ids(split="all") == ids(split=None) == [0, 1, 5, 7]
