"""Cards of runs: what they tell is counted again here from the files, the plain way."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog
from mumdata.errors import ConfigError, MumError
from mumdata.schema import EXPOSURE, FRAMES, MIX, SEQUENCES
from mumtrain.card import card, write_card
from mumtrain.card.datasets import licence_limits
from mumtrain.card.markdown import code_block, escape, table
from mumtrain.config import apply, to_dict
from mumtrain.recipes import recipe

NAMES = ("a|b", "photos_", "single")
LICENCES = {"a|b": "CC BY-NC 4.0", "photos_": "<b>mine</b>: no redistribution", "single": "CC BY-NC-SA 4.0"}


class World:
    """A mix of made-up catalogs in a folder, and all that stands in it."""

    def __init__(self, folder: Path, seed: int = 0, num: int = 40) -> None:
        rng = np.random.default_rng(seed)
        self.path = folder / "mix.parquet"
        self.eval_of: dict[str, list[str | None]] = {}
        self.scenes: dict[str, list[tuple[str | None, str]]] = {}
        self.sequences: dict[str, list[list[int]]] = {}
        rows: dict[str, list[Any]] = {column.name: [] for column in MIX.columns}
        for number, name in enumerate(NAMES):
            place = folder / f"catalog{number}"
            marks = [None, None, "two*views", "depth"] if number < 2 else [None]
            self.scenes[name] = sorted(
                ((["train", "val", None][rng.integers(3)], f"s{rng.integers(4)}") for _ in range(num)), key=str
            )
            self.eval_of[name] = [marks[rng.integers(len(marks))] for _ in range(num)]
            self.sequences[name] = [rng.permutation(num)[: rng.integers(2, 6)].tolist() for _ in range(4)]
            digests = self._write(place, name, num)
            row = [name, [3.0, 1.0, 0.0][number], number == 2, 2, 0.1 * number, 4, num]
            row += [f"catalog{number}/frames.parquet", digests[0], f"catalog{number}/sequences.parquet", digests[1]]
            for column, value in zip(rows, [*row, LICENCES[name], None, None], strict=True):
                rows[column].append(value)
        catalog.write(MIX, catalog.build(MIX, rows), self.path)
        self.digest = catalog.read_footer(MIX, self.path).content_digest

    def _write(self, place: Path, name: str, num: int) -> tuple[str, str]:
        splits, scenes = zip(*self.scenes[name], strict=True)
        frames = {
            "frame_id": np.arange(num, dtype=np.int32),
            "dataset": [name] * num,
            "split": list(splits),
            "scene": list(scenes),
            "frame": np.arange(num, dtype=np.int32),
            "path": [f"{n}.jpg" for n in range(num)],
            "eval_of": self.eval_of[name],
            "status": ["ok"] * num,
        }
        sequences = {
            "dataset": [name] * 4,
            "scene": ["s0"] * 4,
            "sequence": np.arange(4, dtype=np.int32),
            "rule": ["walk"] * 4,
            "frames": self.sequences[name],
            "num_frames": [len(frames) for frames in self.sequences[name]],
        }
        place.mkdir(parents=True, exist_ok=True)
        return (
            catalog.write(FRAMES, catalog.build(FRAMES, frames), place / "frames.parquet")[0],
            catalog.write(SEQUENCES, catalog.build(SEQUENCES, sequences), place / "sequences.parquet")[0],
        )

    def evaluated(self, name: str, shown: set[int] | None) -> list[dict[str, Any]]:
        """Frames of benchmarks in a dataset's sequences, counted one by one."""
        found = []
        used = {frame for frames in self.sequences[name] for frame in frames}
        for benchmark in ("depth", "two*views"):
            frames = {frame for frame in used if self.eval_of[name][frame] == benchmark}
            if frames:
                scenes = {self.scenes[name][frame] for frame in frames}
                known = None if shown is None else len(frames & shown)
                found.append({"benchmark": benchmark, "frames": len(frames), "scenes": len(scenes), "shown": known})
        return found


def make_run(folder: Path, *sets: str) -> Path:
    """A run of which nothing but the settings is there."""
    folder.mkdir(parents=True, exist_ok=True)
    config = apply(recipe("debug-cpu"), sets)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    return folder


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_card(run: Path) -> dict[str, Any]:
    """What card.json holds; numbers that JSON does not have are an error."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    found: dict[str, Any] = json.loads((run / "card.json").read_text(), parse_constant=refuse)
    return found


def text_of(run: Path) -> str:
    """The Markdown with all white space as one blank."""
    return " ".join((run / "card.md").read_text().split())


def write_exposure(path: Path, visits: Counter[tuple[str, str, int]]) -> None:
    # some of the visits in a row of their own: rows of one frame add up
    rows = [(*key, part) for key, num in sorted(visits.items()) for part in (1, num - 1) if part]
    columns = {
        "dataset": [dataset for dataset, _, _, _ in rows],
        "sequence": [number if kind == "sequence" else None for _, kind, number, _ in rows],
        "frame_id": [number if kind == "frame" else None for _, kind, number, _ in rows],
        "visits": [part for _, _, _, part in rows],
    }
    path.parent.mkdir(exist_ok=True)
    catalog.write(EXPOSURE, catalog.build(EXPOSURE, columns), path)


def whole_run(tmp_path: Path, world: World) -> tuple[Path, Counter[tuple[str, str, int]]]:
    """A run with everything that a run writes, and its visits."""
    run = make_run(tmp_path / "run", "steps=40", "optim.lr=2e-4", "optim.warmup_steps=2")
    rng = np.random.default_rng(1)
    total: Counter[tuple[str, str, int]] = Counter()
    for first, last in ((1, 10), (11, 20), (31, 40)):
        visits: Counter[tuple[str, str, int]] = Counter()
        for _ in range(60):
            name = NAMES[rng.integers(2)]
            visits[name, "sequence", int(rng.integers(4))] += 1
            visits[name, "frame", int(rng.integers(40))] += int(rng.integers(1, 3))
        write_exposure(run / "exposure" / f"steps-{first:08d}-{last:08d}.parquet", visits)
        total += visits
    # a part of what a longer file holds does not count again
    write_exposure(run / "exposure" / "steps-00000001-00000005.parquet", Counter({("a|b", "frame", 0): 1000}))
    about = {
        "mix": str(world.path),
        "mix_digest": world.digest,
        "recipe": "debug-cpu",
        "settings": ["steps=40"],
        "command": "mumtrain pretrain 'a ``` b' --set steps=40",
    }
    (run / "run.json").write_text(json.dumps(about))
    write_lines(
        run / "metrics.jsonl",
        [
            {
                "step": step,
                "loss": 1 / step,
                "loss_by_dataset": {"a|b": 2 / step} | ({"photos_": 3.0} if step == 38 else {}),
                "lr": 1e-3,
                "gpu_hours": step / 10,
                "frames_read": 1000 * step,
                "bad_frames": 10,
                "bad_steps": 2,
            }
            for step in range(2, 41, 2)
        ],
    )
    start = {"started": "2026-11-21T10:00:00+00:00", "step": 0, "ranks": 4, "device": "NVIDIA H200", "host": "h"}
    write_lines(
        run / "history.jsonl",
        [start | {"versions": {"torch": "2.9", "numpy": "2"}}, start | {"step": 20, "versions": {"torch": "2.10"}}],
    )
    headline = {"gain": 0.0123, "low": 0.01, "high": 0.015, "g_a": 0.02, "g_b": 0.0077, "views": 6}
    headline |= {"scenes_a": 31, "scenes_b": 1, "within": 0.004, "within_low": -0.001, "within_high": 0.009}
    write_lines(
        run / "gain.jsonl",
        [
            {"step": 20, "headline": None, "num_samples": 3, "reason": "x"},
            {"step": 40, "headline": headline, "num_samples": 512, "reason": None, "cells": []},
        ],
    )
    (run / "init.json").write_text(json.dumps({"source": "w.pt", "sha256": "ab", "taken": ["a", "b"], "anew": []}))
    return run, total


def test_a_whole_card_tells_what_is_in_the_files(tmp_path: Path) -> None:
    world = World(tmp_path / "catalogs")
    run, visits = whole_run(tmp_path, world)
    assert card(run) == run / "card.md"
    found, text = read_card(run), text_of(run)
    assert found["recipe"] == "debug-cpu"
    assert {one["key"]: one["value"] for one in found["settings"]} == {
        "steps": 40,
        "optim.lr": 2e-4,
        "optim.warmup_steps": 2,
    }
    assert found["steps"] == {"done": 40, "planned": 40}
    for row, name in zip(found["mix"]["datasets"], NAMES, strict=True):
        sequences = {n: v for (dataset, kind, n), v in visits.items() if (dataset, kind) == (name, "sequence")}
        frames = {n: v for (dataset, kind, n), v in visits.items() if (dataset, kind) == (name, "frame")}
        assert row["dataset"] == name
        assert row["licence"] == LICENCES[name]
        assert row["read"] == {
            "sequences": sum(sequences.values()),
            "distinct_sequences": len(sequences),
            "frames": sum(frames.values()),
            "distinct_frames": len(frames),
        }
        assert row["evaluation"] == {"problem": None, "benchmarks": world.evaluated(name, {*frames})}
    assert [row["share"] for row in found["mix"]["datasets"]] == [0.75, 0.25, 0.0]
    assert found["exposure"] == {"last_step": 40, "missing_steps": [[21, 30]]}
    metrics = found["metrics"]
    assert metrics["loss"] == 1 / 40
    assert metrics["lines_last_tenth"] == 2
    assert metrics["loss_last_tenth"] == pytest.approx((1 / 38 + 1 / 40) / 2)
    assert metrics["loss_by_dataset"] == pytest.approx({"a|b": (2 / 38 + 2 / 40) / 2, "photos_": 3.0})
    assert (metrics["frames_read"], metrics["bad_frames"], metrics["bad_steps"]) == (40000, 10, 2)
    assert found["time"] == {"gpu_hours": 4.0, "hours": 1.0, "ranks": [4]}
    assert found["gain"] == {
        **{"step": 40, "gain": 0.0123, "low": 0.01, "high": 0.015, "g_a": 0.02, "g_b": 0.0077},
        **{"views": 6, "scenes_a": 31, "scenes_b": 1, "within": 0.004, "within_low": -0.001, "within_high": 0.009},
        **{"samples": 512, "reason": None},
    }
    assert found["versions"] == {"numpy": ["2"], "torch": ["2.9", "2.10"]}
    assert found["init"] == {"source": "w.pt", "sha256": "ab", "num_taken": 2, "num_anew": 0}
    assert found["notes"] == []
    for words in (
        "> - **non-commercial**: a\\|b > - **no redistribution**: photos\\_ - **a",
        "\\<b\\>mine\\</b\\>",
        "- single: none of the known ones",
        "of two\\*views** could be read",
        "**torch changed: 2.9 -> 2.10**",
        "Time: 1 h by the clock, 4 GPU-hours",
        "**0.0123** (95 % over scenes: 0.0100 to 0.0150) at step 40 with 6 views, on 512 samples: how much",
        "content they show (0.02, 31 scenes), beyond that of patches whose content they do not show (0.0077, 1 scene).",
        "The model uses its other views. Within samples alone: 0.0040 (95 % over scenes: -0.0010 to 0.0090).",
        "as the mean of lines in the last tenth of the run (2 lines of metrics)",
        "Steps: 40 of 40; finished",
        "those of steps 21 to 30 are not recorded",
        "broken or missing: 10 (0.025 %)",
        f"model = mumtrain.load_model({str(run)!r})",
    ):
        assert words in text, words
    assert "not recorded" not in text.replace("those of steps 21 to 30 are not recorded", "")
    # the fence is longer than the one in the command
    assert re.search(r"^(````+)sh\n.*\n\1$", (run / "card.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("seed", range(6))
def test_evaluation_frames_are_counted(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path / "catalogs", seed, num=8 + 5 * seed)
    run = make_run(tmp_path / "run")
    (run / "run.json").write_text(json.dumps({"mix": str(world.path), "mix_digest": world.digest}))
    write_card(run)
    for row in read_card(run)["mix"]["datasets"]:
        assert row["evaluation"]["benchmarks"] == world.evaluated(row["dataset"], None)
        assert row["read"] is None


@pytest.mark.parametrize(
    ("bounds", "told", "is_used"),
    [
        ({"low": 0.01, "high": 0.03}, "95 % over scenes: 0.0100 to 0.0300", True),
        ({"low": -0.01, "high": 0.03}, "95 % over scenes: -0.0100 to 0.0300", False),
        ({"low": 0.0, "high": 0.03}, "95 % over scenes: 0.0000 to 0.0300", False),
        ({"low": None, "high": None}, "too few scenes for an interval", False),
        ({"low": 0.01}, "too few scenes for an interval", False),
        ({"low": 0.01, "high": "0.03"}, "too few scenes for an interval", False),
        ({"low": [0.01], "high": 0.03}, "too few scenes for an interval", False),
        ({"low": 0.01, "high": float("nan")}, "too few scenes for an interval", False),
        ({"low": 0.01, "high": float("inf")}, "too few scenes for an interval", False),
        ({}, "too few scenes for an interval", False),
    ],
)
def test_a_gain_is_called_one_where_its_interval_says_so(
    tmp_path: Path, bounds: dict[str, Any], told: str, is_used: bool
) -> None:
    run = make_run(tmp_path / "run")
    write_lines(run / "gain.jsonl", [{"step": 4, "headline": {"gain": 0.02, **bounds}, "num_samples": 1}])
    write_card(run)
    text = text_of(run)
    assert f"**0.0200** ({told}) at step 4, on 1 sample: " in text
    assert ("The model uses its other views." in text) == is_used
    assert ("This does not show that it uses its other views." in text) != is_used
    for gain in ("0.02", None, [0.02], {}, float("nan")):
        write_lines(run / "gain.jsonl", [{"step": 4, "headline": {"gain": gain, "low": 0.01, "high": 0.03}}])
        write_card(run)
        assert "## Cross-view gain Not recorded." in text_of(run)


def test_sequences_that_are_held_out_are_counted(mix_path: Path, tmp_path: Path) -> None:
    mix = catalog.open_mix(mix_path)
    path = tmp_path / "catalogs" / mix_path.name
    shutil.copytree(mix_path.parent, path.parent)
    rows = catalog.read(MIX, path).to_pydict()
    rows["holdout"] = [0.4] * len(mix.datasets)
    catalog.write(MIX, catalog.build(MIX, rows), path)
    run = make_run(tmp_path / "run")
    (run / "run.json").write_text(json.dumps({"mix": str(path)}))
    write_card(run)
    wanted, text = {}, text_of(run)
    for dataset in mix.datasets:
        units = catalog.map_sequences(dataset).select(["num_frames", "holdout_unit"]).to_pylist()
        units = [one["holdout_unit"] for one in units if one["num_frames"] >= dataset.min_frames]
        wanted[dataset.name] = sum(unit < 0.4 for unit in units)
        assert len(units) == dataset.num_sequences
        left = len(units) - wanted[dataset.name]
        assert re.search(
            rf"\| {dataset.name}\S*[^|]*\|[^|]*\|[^|]*\| +{len(units):,} \| +{left:,} \| +{len(units) - left:,} \|",
            text,
        )
    assert {row["dataset"]: row["sequences_held_out"] for row in read_card(run)["mix"]["datasets"]} == wanted
    assert any(wanted.values())
    assert "nominal" not in text
    # without the catalogs nothing is counted
    (path.parent / mix.datasets[0].name / "sequences.parquet").unlink()
    write_card(run)
    assert {row["sequences_held_out"] for row in read_card(run)["mix"]["datasets"]} == {None}
    assert "| 40 % (nominal) |" in text_of(run)


def test_the_folder_is_named_so_that_any_other_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    write_card(Path("run"))
    assert f"mumtrain.load_encoder({str(tmp_path / 'run')!r})" in text_of(tmp_path / "run")


def test_what_is_missing_is_said_and_keys_stay(tmp_path: Path) -> None:
    world = World(tmp_path / "catalogs")
    whole, _ = whole_run(tmp_path, world)
    bare = make_run(tmp_path / "bare", "steps=40")
    write_card(whole)
    write_card(bare)
    there, found, text = read_card(whole), read_card(bare), text_of(bare)
    assert there.keys() == found.keys()
    assert there["mix"].keys() == found["mix"].keys()
    assert found["steps"] == {"done": None, "planned": 40}
    assert found["init"] is None
    assert found["time"] == {"gpu_hours": None, "hours": None, "ranks": []}
    for part in ("Steps: not recorded of 40.", "drawn at random", "run.json does not name the mix"):
        assert part in text
    for heading in ("Licences of the data", "How it went", "Cross-view gain", "Machines and versions"):
        assert re.search(rf"## {heading} Not recorded", text), heading
    assert "The command that trains it: not recorded" in text
    with pytest.raises(MumError, match="not the folder of a run"):
        write_card(tmp_path)
    (bare / "config.json").write_text('{"stepz": 3}')
    with pytest.raises(ConfigError, match=r"config\.json.*stepz"):
        write_card(bare)


def test_a_run_that_stopped_is_not_finished(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "steps=40")
    (run / "checkpoints").mkdir()
    for step in (9, 12):
        (run / "checkpoints" / f"step-{step:08d}.pt").touch()
    write_lines(run / "metrics.jsonl", [{"step": 10, "loss": float("nan"), "gpu_hours": 3.0}])
    history = [{"ranks": ranks, "device": "cpu", "step": 0} for ranks in (2, 4)]
    write_lines(run / "history.jsonl", history)
    write_card(run)
    found, text = read_card(run), text_of(run)
    assert found["steps"]["done"] == 12
    assert found["metrics"]["loss"] == "nan"
    assert found["metrics"]["loss_last_tenth"] is None
    # how long which number of ranks worked is not known
    assert found["time"] == {"gpu_hours": 3.0, "hours": None, "ranks": [2, 4]}
    assert "Steps: 12 of 40; not finished" in text
    assert "by the clock not recorded, 3 device-hours, up to step 10" in text


def test_a_mix_that_changed_is_not_told_of_as_if_it_had_not(tmp_path: Path) -> None:
    world = World(tmp_path / "catalogs")
    run = make_run(tmp_path / "run")
    about = {"mix": str(world.path), "mix_digest": world.digest}
    (run / "run.json").write_text(json.dumps(about))
    # one catalog was made anew: the mix itself still tells its licence
    World(tmp_path / "other", seed=9)
    (tmp_path / "other" / "catalog0" / "frames.parquet").rename(tmp_path / "catalogs" / "catalog0" / "frames.parquet")
    (tmp_path / "catalogs" / "catalog2" / "sequences.parquet").unlink()
    write_card(run)
    rows = read_card(run)["mix"]["datasets"]
    assert [row["evaluation"]["benchmarks"] is None for row in rows] == [True, False, True]
    assert "has changed" in rows[0]["evaluation"]["problem"]
    assert rows[0]["licence"] == "CC BY-NC 4.0"
    assert "**a\\|b**: not checked" in text_of(run)
    (run / "run.json").write_text(json.dumps(about | {"mix_digest": "0" * 64}))
    write_card(run)
    assert read_card(run)["mix"]["datasets"] is None
    assert "was made anew since the run" in text_of(run)
    world.path.unlink()
    (run / "run.json").write_text(json.dumps(about))
    write_card(run)
    assert "does not exist" in read_card(run)["mix"]["problem"]


def test_damaged_files_hide_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "run.json").write_text("[1]")
    (run / "init.json").write_bytes(b"\xff{")
    (run / "metrics.jsonl").write_text('{"step": 3, "loss": 0.5}\n{"step": 4, "lo')
    (run / "exposure").mkdir()
    (run / "exposure" / "steps-00000001-00000003.parquet").write_bytes(b"PAR1")
    write_card(run)
    found = read_card(run)
    assert found["metrics"]["step"] == 3
    assert found["exposure"] is None
    notes = "\n".join(found["notes"])
    for name in ("run.json", "init.json", "1 of 2 lines of metrics.jsonl", "steps-00000001-00000003.parquet"):
        assert name in notes
    assert "## Notes" in (run / "card.md").read_text()


@pytest.mark.parametrize("value", ["text", 3, [1], None, {"a": "x"}, {"a": {"b": 1}}])
def test_damaged_losses_are_not_recorded(tmp_path: Path, value: Any) -> None:
    run = make_run(tmp_path / "run")
    lines = [{"step": 99, "loss": 0.5, "loss_by_dataset": {"b": 1.5}}]
    write_lines(run / "metrics.jsonl", [*lines, {"step": 100, "loss": 0.25, "loss_by_dataset": value}])
    write_card(run)
    losses = read_card(run)["metrics"]["loss_by_dataset"]
    assert losses.pop("b") == 1.5
    assert losses in ({}, {"a": None})


@pytest.mark.parametrize("value", ["12", [1], {"x": 1}, True, float("inf"), 10**400])
def test_damaged_figures_are_not_recorded(tmp_path: Path, value: Any) -> None:
    run = make_run(tmp_path / "run")
    line = {"step": 4, "loss": value, "bad_frames": value, "frames_read": 100, "bad_steps": 3, "gpu_hours": value}
    write_lines(run / "metrics.jsonl", [line])
    write_card(run)
    found, text = read_card(run), text_of(run)
    assert (found["metrics"]["loss"], found["metrics"]["bad_frames"], found["time"]["gpu_hours"]) == (None,) * 3
    assert "Images read: 100; broken or missing: not recorded." in text
    assert "Loss: not recorded at step 4; not recorded as the mean" in text
    assert "Time: not recorded." in text


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(
        [10**400, -(10**400), 1e308, 5e-324, -1, 0, "nan", "\ud800", "\0", "| # `", "cpu", "debug-cpu", "."]
    )
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS: dict[str, dict[str, Any]] = {
    "run.json": dict.fromkeys(("mix", "mix_digest", "recipe", "settings", "command"), VALUES),
    "init.json": dict.fromkeys(("source", "sha256", "taken", "anew"), VALUES),
    "history.jsonl": dict.fromkeys(("started", "step", "ranks", "device", "host", "versions"), VALUES),
    "metrics.jsonl": {"step": VALUES | st.integers(1, 9)}
    | dict.fromkeys(
        ["loss", "loss_by_dataset", "lr", "gpu_hours", "frames_read", "bad_frames", "bad_steps", "frames_per_s"], VALUES
    ),
    "gain.jsonl": {
        "headline": VALUES
        | st.fixed_dictionaries(
            {"gain": st.floats()}, optional=dict.fromkeys(["low", "high", "g_a", "g_b", "views", "scenes_a"], VALUES)
        )
    }
    | dict.fromkeys(("step", "num_samples", "reason"), VALUES),
}


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_any_values_in_any_field_make_a_card(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    run = make_run(tmp_path_factory.getbasetemp() / "any-values")
    for name, fields in FIELDS.items():
        lines = data.draw(st.lists(st.fixed_dictionaries({}, optional=fields) | VALUES, min_size=1, max_size=3))
        (run / name).write_text("\n".join(map(json.dumps, lines if name.endswith("l") else lines[:1])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_card(run)
    assert read_card(run)["format"] == 1
    assert (run / "card.md").read_text().startswith("# any-values\n")


@pytest.mark.parametrize("text", ["[" * 300 + "]" * 300, "[" * 200_000, '{"a":' * 500 + "1" + "}" * 500, "1" * 5000])
def test_deep_values_are_damage(tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path / "run")
    (run / "run.json").write_text(f'{{"mix": {text}, "command": "x"}}')
    (run / "gain.jsonl").write_text(f'{{"step": 3, "reason": {text}}}\n{{"step": 1, "reason": "why"}}\n')
    write_card(run)
    assert read_card(run)["notes"][0] == "run.json cannot be read"
    assert "Not recorded: why" in text_of(run)


@pytest.mark.parametrize(
    ("licence", "limits"),
    [
        ("ImageNet terms of access: non-commercial research and education", ["non-commercial"]),
        ("CC BY-NC 4.0", ["non-commercial"]),
        ("CC BY-SA 3.0", ["share alike"]),
        ("CC BY 4.0", []),
        ("MIT by the repository; no separate licence for the data", ["unclear terms"]),
        ("ScanNet++ Terms of Use: non-commercial research, no redistribution", ["non-commercial", "no redistribution"]),
        (
            "free for Non-Commercial use; modified versions may not be passed on",
            ["non-commercial", "no redistribution"],
        ),
        ("your own; not known", ["unclear terms"]),
    ],
)
def test_limits_of_licences(licence: str, limits: list[str]) -> None:
    assert licence_limits(licence) == limits


# ---- Markdown


@given(st.text("ab_*`|[]<>#&;.1)\\ -+=~$\n\u2028", max_size=20))
def test_escaped_text_means_itself(text: str) -> None:
    found = escape(text)
    assert "\n" not in found
    shown, place = "", 0
    while place < len(found):
        if found[place] == "\\":
            assert not found[place + 1].isalnum()  # a backslash before such a character would be shown
            place += 1
        elif found.startswith("&amp;", place):
            shown, place = shown + "&", place + 5
            continue
        else:
            assert found[place] not in "\\`*[]<>|~$"
            is_inside = 0 < place < len(found) - 1 and (found[place - 1] + found[place + 1]).replace("_", "a").isalnum()
            assert found[place] != "_" or is_inside
        shown += found[place]
        place += 1
    assert shown == " ".join(text.split())


def test_tables_and_code_hold_any_text() -> None:
    lines = table(["a", "b"], [[escape("x|y\\"), "1"], ["long cell", "23,456"]])
    assert lines[:-1] == [
        "| a         |      b |",
        "| --------- | -----: |",
        "| x\\|y\\\\    |      1 |",
        "| long cell | 23,456 |",
    ]
    assert code_block(["a ``` b"], "sh") == ["````sh", "a ``` b", "````", ""]
