"""The exposure ledger: what was drawn and shown, counted once whatever happens, and joined with the catalogs."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import statistics
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog, cli, rng
from mumdata.catalog import Mix, MixDataset, open_mix, read_footer
from mumdata.errors import CatalogError
from mumdata.files import _HOST
from mumdata.schema import EXPOSURE, FRAMES, MIX
from mumdata.stats import stats
from mumdata.visits import _named_mix, doubts, exposure_files, exposure_path, missing_steps
from mumtrain.config import apply
from mumtrain.exposure import Ledger, Visits, compact_exposure, drop_exposure_after, write_exposure
from mumtrain.loader import Loaded, Loader, open_frames
from mumtrain.recipes import recipe
from mumtrain.sampler import Batch, Drawn, open_sampler, rank_slots

NAMES = ("zebra", "ähre", "Ant")  # the order of the mix is not that of the names

# (name, kind, number) -> visits
Counts = Counter[tuple[str, str, int]]


def mix_of(*names: str, digest: str = "d" * 64) -> Mix:
    nowhere = Path("nowhere")
    rest = (nowhere, nowhere, "", nowhere, "", "", None, None)
    return Mix(nowhere, digest, tuple(MixDataset(name, 1.0, False, 2, 0.0, 9, 9, *rest) for name in names))


def slot(words: Iterable[int], step: int = 0) -> Loaded:
    """A slot whose ids are few, so that they repeat; some frames shown are substitutes of another dataset."""
    numbers = list(words)
    views = 1 + numbers[0] % 4
    drawn, frames = [], []
    for word in numbers[1:]:
        shown = [(word + 7 * view) % 11 for view in range(views)]
        drawn.append(Drawn(word % 3, word // 3 % 5, np.array(shown, np.int32)))
        frames.append([((word + (word % 13 == 0)) % 3, frame) for frame in shown])
    batch = Batch(step, 0, views, tuple(drawn))
    return Loaded(batch, np.empty(0, np.uint8), np.array(frames, np.int32).reshape(len(drawn), views, 2))


def counted(loaded: Iterable[Loaded], names: tuple[str, ...] = NAMES) -> Counts:
    """Count one by one, from the definition."""
    found = Counts()
    for one in loaded:
        for drawn in one.batch.sequences:
            found[names[drawn.dataset], "sequence", drawn.sequence] += 1
        for dataset, frame_id in one.frames.reshape(-1, 2).tolist():
            found[names[dataset], "frame_id", frame_id] += 1
    return found


def told(visits: Visits) -> Counts:
    found = Counts()
    for kind, tally in (("sequence", visits.sequences), ("frame_id", visits.frames)):
        for dataset, number, times in zip(*(column.tolist() for column in tally), strict=True):
            assert (visits.names[dataset], kind, number) not in found
            found[visits.names[dataset], kind, number] = times
    return found


def rows(path: Path) -> list[tuple[str, int | None, int | None, int]]:
    return [tuple(row.values()) for row in catalog.read(EXPOSURE, path).to_pylist()]  # type: ignore[misc]


def recorded(run: Path) -> Counts:
    """What the files of a run add up to, read row by row."""
    found = Counts()
    for file in exposure_files(run):
        for dataset, sequence, frame_id, visits in rows(file.path):
            assert (sequence is None) != (frame_id is None)
            kind, number = ("frame_id", frame_id) if sequence is None else ("sequence", sequence)
            found[dataset, kind, number] += visits
    return found


def write_steps(run: Path, steps: Iterable[int], version: int = 0) -> Counts:
    """Write a file for steps, counted from 1; what a step holds is a function of its number and the version."""
    steps = list(steps)
    ledger = Ledger(NAMES)
    loaded = [slot((rng.words(rng.key(step, version), 4) % 1000).tolist(), step - 1) for step in steps]
    for one in loaded:
        ledger.add(one.batch.step, one)
    write_exposure(run, steps[0], steps[-1], [ledger.take()], mix_of(*NAMES))
    return counted(loaded)


words = st.lists(st.integers(0, 1000), min_size=2, max_size=6)


@given(st.lists(st.tuples(st.sampled_from(["add", "add", "add", "forget", "take"]), words, st.integers(0, 9))))
def test_a_ledger_counts_what_was_added_and_not_forgotten(history: list[tuple[str, list[int], int]]) -> None:
    ledger, kept, step = Ledger(NAMES), list[Loaded](), 0
    for verb, some, number in history:
        if verb == "add":
            kept.append(slot(some, step))
            ledger.add(step, kept[-1])
            step += number % 2  # several slots a step
        elif verb == "forget":
            step = max(0, step - number)
            ledger.forget_from(step)
            kept = [one for one in kept if one.batch.step < step]
        else:
            assert told(copy.deepcopy(ledger.take())) == counted(kept)
            kept = []
    assert told(ledger.take()) == counted(kept)
    assert told(ledger.take()) == Counts()


def test_a_ledger_keeps_nothing_of_the_loaders_memory() -> None:
    ledger, one = Ledger(NAMES), slot([1, 2, 3])
    truth = counted([one])
    ledger.add(0, one)
    one.frames[:] = 0
    visits = ledger.take()
    assert told(visits) == truth
    assert [column.dtype for column in visits.frames] == [np.int32, np.int32, np.int64]
    assert (np.diff(visits.frames.dataset * 100 + visits.frames.number) > 0).all()


@given(st.lists(words, min_size=1, max_size=8), st.integers(1, 4))
@settings(max_examples=15)
def test_a_file_is_the_same_for_any_number_of_ranks(
    tmp_path_factory: pytest.TempPathFactory, slots: list[list[int]], num_ranks: int
) -> None:
    run = tmp_path_factory.mktemp("run")
    loaded = [slot(some, step) for step, some in enumerate(slots)]
    ledgers = [Ledger(NAMES) for _ in range(num_ranks)]
    alone = Ledger(NAMES)
    for number, one in enumerate(loaded):
        ledgers[number % num_ranks].add(one.batch.step, one)
        alone.add(one.batch.step, one)
    path = write_exposure(run / "many", 1, len(slots), [ledger.take() for ledger in ledgers], mix_of(*NAMES))
    assert path.read_bytes() == write_exposure(run / "one", 1, len(slots), [alone.take()], mix_of(*NAMES)).read_bytes()
    assert recorded(run / "many") == counted(loaded)
    places = [(name.encode(), s is None, f if s is None else s) for name, s, f, _ in rows(path)]
    assert places == sorted(places)  # datasets by bytes, sequences first
    footer = read_footer(EXPOSURE, path)
    assert footer.inputs == {"mix": "d" * 64}
    assert footer.parameters == {"first_step": 1, "last_step": len(slots)}


def test_visits_of_another_mix_and_no_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not those of a mix"):
        write_exposure(tmp_path, 1, 2, [Ledger(("a", "b")).take()], mix_of("b", "a"))
    for first, last in ((0, 2), (3, 2)):
        with pytest.raises(ValueError, match="no steps"):
            write_exposure(tmp_path, first, last, [], mix_of("a"))
    assert not (tmp_path / "exposure").exists()


# ---- many files


def test_more_files_than_the_limit_become_one_and_the_newest(tmp_path: Path) -> None:
    truth = Counts()
    for step in range(1, 65):
        truth += write_steps(tmp_path, [step])
    assert compact_exposure(tmp_path) == []
    truth += write_steps(tmp_path, [65])
    assert compact_exposure(tmp_path) == [exposure_path(tmp_path, 1, 64)]
    assert [file.name for file in sorted((tmp_path / "exposure").iterdir())] == [
        "steps-00000001-00000064.parquet",
        "steps-00000065-00000065.parquet",
    ]
    assert recorded(tmp_path) == truth
    footer = read_footer(EXPOSURE, exposure_path(tmp_path, 1, 64))
    assert (footer.inputs, footer.parameters) == ({"mix": "d" * 64}, {"first_step": 1, "last_step": 64})
    # as if it had been written at once
    assert write_steps(tmp_path / "at once", range(1, 65))
    assert exposure_path(tmp_path / "at once", 1, 64).read_bytes() == exposure_path(tmp_path, 1, 64).read_bytes()


class Killed(BaseException):
    """The process ends here."""


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int, *, after: bool) -> Counter[str]:
    """Have the process end before, or just after, the `number`-th change of the folder; returns how many were made."""
    made = Counter[str]()
    real_replace, real_unlink = os.replace, Path.unlink

    def change(real: Any, *arguments: Any, **keywords: Any) -> None:
        made["changes"] += 1
        if made["changes"] == number and not after:
            raise Killed
        real(*arguments, **keywords)
        if made["changes"] == number:
            raise Killed

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith(".tmp"):  # no change of what is read
            real_unlink(path, missing_ok=missing_ok)
        else:
            change(real_unlink, path, missing_ok=missing_ok)

    monkeypatch.setattr(os, "replace", lambda *paths: change(real_replace, *paths))
    monkeypatch.setattr(Path, "unlink", unlink)
    return made


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("then", ["compact", "drop"])
def test_merging_may_end_anywhere(tmp_path: Path, then: str, after: bool) -> None:
    first, truth = tmp_path / "first", dict[int, Counts]()
    for step in range(1, 8):
        truth[step] = write_steps(first, [step])
    whole = sum(truth.values(), Counts())
    for number in range(1, 20):
        run = tmp_path / str(number)
        shutil.copytree(first, run)
        with pytest.MonkeyPatch.context() as patch:
            made = killed_at(patch, number, after=after)
            with suppress(Killed):
                compact_exposure(run, keep=[3], max_files=3)
        assert recorded(run) == whole, number
        if made["changes"] < number:
            assert [file[:2] for file in exposure_files(run)] == [(1, 3), (4, 6), (7, 7)]
            assert len(list((run / "exposure").iterdir())) == 3
            break
        assert made["changes"] == number
        if then == "compact":
            compact_exposure(run, keep=[3], max_files=2)
            assert [file[:2] for file in exposure_files(run)] == [(1, 3), (4, 6), (7, 7)]
            assert recorded(run) == whole
        else:
            assert drop_exposure_after(run, 3) == []
            assert recorded(run) == truth[1] + truth[2] + truth[3]
            assert all(file.last <= 3 for file in exposure_files(run))
    else:
        pytest.fail("merging never came to its end")
    assert number == 1 + 2 + 6  # two files written, six removed


def test_dropping_may_end_anywhere(tmp_path: Path) -> None:
    first = tmp_path / "first"
    truth = {step: write_steps(first, [step]) for step in range(1, 7)}
    for number in range(1, 9):
        run = tmp_path / str(number)
        shutil.copytree(first, run)
        with pytest.MonkeyPatch.context() as patch:
            made = killed_at(patch, number, after=False)
            with suppress(Killed):
                assert drop_exposure_after(run, 2) == []
        assert missing_steps(exposure_files(run)) == []
        last = exposure_files(run)[-1].last
        assert recorded(run) == sum((truth[step] for step in range(1, last + 1)), Counts())
        assert drop_exposure_after(run, 2) == []
        assert recorded(run) == truth[1] + truth[2]
        if made["changes"] < number:
            break
    assert number == 5


steps_of_a_run = st.lists(
    st.tuples(st.sampled_from(["write", "write", "write", "compact", "resume"]), st.integers(0, 5), st.integers(0, 12)),
    max_size=14,
)


@given(steps_of_a_run)
@settings(max_examples=15, deadline=None)
def test_a_run_that_stops_and_resumes_counts_each_step_once(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int, int]]
) -> None:
    run = tmp_path_factory.mktemp("run")
    truth: dict[int, Counts] = {}  # by the last step of what was written
    kept, step = [0], 0
    for version, (verb, number, at) in enumerate(history):
        if verb == "write":
            truth[step + 1 + number] = write_steps(run, range(step + 1, step + 2 + number), version)
            step += 1 + number
            if at % 3:  # else it ends before the checkpoint is there
                kept.append(step)
            kept = kept if at % 4 else kept[-2:]
        elif verb == "compact":
            with pytest.MonkeyPatch.context() as patch:
                killed_at(patch, at, after=bool(number % 2))
                with suppress(Killed):
                    compact_exposure(run, keep=kept, max_files=1 + number)
        else:
            step = kept[number % len(kept)]
            kept = [one for one in kept if one <= step]
            truth = {last: counts for last, counts in truth.items() if last <= step}
            assert drop_exposure_after(run, step) == []
        assert recorded(run) == sum(truth.values(), Counts())


def test_a_file_that_reaches_beyond_the_checkpoint_goes_and_its_steps_are_told(tmp_path: Path) -> None:
    (tmp_path / "exposure").mkdir()
    (tmp_path / "exposure" / "notes.txt").write_text("mine")
    truth = {step: write_steps(tmp_path, [step]) for step in range(1, 7)}
    assert compact_exposure(tmp_path, keep=[2], max_files=2) == [
        exposure_path(tmp_path, 1, 2),
        exposure_path(tmp_path, 3, 5),
    ]
    assert drop_exposure_after(tmp_path, 4) == [(3, 4)]
    assert recorded(tmp_path) == truth[1] + truth[2]
    truth[5] = write_steps(tmp_path, [5])
    # the gap is not merged away
    write_steps(tmp_path, [6])
    compact_exposure(tmp_path, max_files=1)
    assert missing_steps(exposure_files(tmp_path)) == [(3, 4)]
    assert any("steps 3 to 4 are not recorded" in line for line in doubts(tmp_path, tmp_path))
    assert (tmp_path / "exposure" / "notes.txt").exists()


def test_what_a_dead_process_left_half_written_is_not_read_and_goes(tmp_path: Path) -> None:
    truth = write_steps(tmp_path, [1])
    path = exposure_path(tmp_path, 2, 3)
    left = path.with_name(f".{path.name}.{_HOST}.{2**22 + 1}.tmp")  # no process has that number
    left.write_bytes(b"PAR1")
    assert recorded(tmp_path) == truth
    assert drop_exposure_after(tmp_path, 1) == []
    assert not left.exists()
    assert recorded(tmp_path) == truth


def test_a_fresh_run_has_nothing_to_drop(tmp_path: Path) -> None:
    assert drop_exposure_after(tmp_path / "run", 0) == []
    assert compact_exposure(tmp_path / "run") == []
    assert drop_exposure_after(tmp_path / "run", 3) == [(1, 3)]


def test_files_of_two_trainings_are_told_apart(tmp_path: Path) -> None:
    write_steps(tmp_path, [1, 2, 3])
    write_steps(tmp_path, [3, 4])
    with pytest.raises(CatalogError, match="both hold the visits of step 3"):
        exposure_files(tmp_path)


def test_files_of_another_mix_are_not_merged(tmp_path: Path) -> None:
    truth = write_steps(tmp_path, [1]) + write_steps(tmp_path, [2]) + write_steps(tmp_path, [5])
    ledger = Ledger(NAMES)
    for first in (3, 4):
        ledger.add(first - 1, slot([1, 2, 3]))
        truth += counted([slot([1, 2, 3])])
        write_exposure(tmp_path, first, first, [ledger.take()], mix_of(*NAMES, digest="e" * 64))
    compact_exposure(tmp_path, max_files=2)
    assert [file[:2] for file in exposure_files(tmp_path)] == [(1, 2), (3, 4), (5, 5)]
    assert recorded(tmp_path) == truth
    assert any("2 mixes" in line for line in doubts(tmp_path, tmp_path))


# ---- a real run


THIN = ["model.patch=16", "data.size=32", "data.frames_per_slot=8", "data.views_max=4", "data.workers=0"]
STEPS = 6


def train(mix: Mix, run: Path, num_ranks: int, *, every: int) -> Counts:
    """Read as training does, `every` steps a file; returns what the sampler's batches say."""
    config = apply(recipe("debug-cpu"), [*THIN, "data.slots=4"])
    sampler, frames = open_sampler(mix, config), open_frames(mix)
    names = tuple(dataset.name for dataset in mix.datasets)
    truth = Counts()
    with Loader(sampler, frames, config) as loader:
        for first in range(0, STEPS, every):
            visits = []
            for rank in range(num_ranks):
                ledger = Ledger(names)
                keys = [(step, n) for step in range(first, first + every) for n in rank_slots(rank, num_ranks, 4)]
                for (step, _), loaded in zip(keys, loader.load(keys), strict=True):
                    assert not loaded.bad
                    ledger.add(step, loaded)
                visits.append(ledger.take())
            write_exposure(run, first + 1, first + every, visits, mix)
    for step in range(STEPS):
        for number in range(4):
            for drawn in sampler.batch(step, number).sequences:
                truth[names[drawn.dataset], "sequence", drawn.sequence] += 1
                for frame_id in drawn.frame_ids.tolist():
                    truth[names[drawn.dataset], "frame_id", frame_id] += 1
    return truth


@pytest.fixture(scope="module")
def run(mix_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counts]:
    """A run of two ranks, three files, in a folder whose name reads like a pattern and like a column."""
    folder = tmp_path_factory.mktemp("runs") / "dataset=[a]*'s"
    truth = train(open_mix(mix_path), folder, 2, every=2)
    (folder / "run.json").write_text(json.dumps({"mix": str(mix_path)}))
    other = folder.with_name("dataset=abs's")  # what the pattern would find as well
    for first in range(1, STEPS, 2):
        write_steps(other, [first, first + 1])
    return folder, truth


def test_a_ledger_equals_the_samplers_batches_for_any_number_of_ranks(
    run: tuple[Path, Counts], mix_path: Path, tmp_path: Path
) -> None:
    folder, truth = run
    assert recorded(folder) == truth
    assert train(open_mix(mix_path), tmp_path, 1, every=2) == truth
    for file in exposure_files(folder):
        assert file.path.read_bytes() == (tmp_path / "exposure" / file.path.name).read_bytes()


def test_substitutes_are_counted_as_what_they_show(mix_path: Path) -> None:
    mix = open_mix(mix_path)
    config = apply(recipe("debug-cpu"), [*THIN, "data.slots=4"])
    sampler, frames = open_sampler(mix, config), open_frames(mix)
    names = tuple(dataset.name for dataset in mix.datasets)
    key = next(key for key in ((step, n) for step in range(9) for n in range(4)) if sampler.batch(*key).views > 1)
    drawn = sampler.batch(*key).sequences[0]
    broken = (drawn.dataset, int(drawn.frame_ids[0]))
    ledger = Ledger(names)
    with Loader(sampler, frames, config) as loader:
        real = loader._read

        def read(batch: Any, position: int, dataset: int, frame_id: int, flat: Any) -> Any:
            from mumtrain.reading.worker import Problem

            found = real(batch, position, dataset, frame_id, flat)
            return Problem("unreadable", "made so") if (dataset, frame_id) == broken else found

        loader._read = read  # type: ignore[method-assign]
        (loaded,) = loader.load([key])
        ledger.add(key[0], loaded)
    found = told(ledger.take())
    assert loaded.bad
    assert (names[broken[0]], "frame_id", broken[1]) not in found
    assert found == counted([loaded], names)
    assert sum(times for (_, kind, _), times in found.items() if kind == "frame_id") == loaded.frames.size // 2


# ---- in SQL, beside the catalogs


def as_frame(counts: Counts, kind: str) -> pd.DataFrame:
    found = [(name, number, times) for (name, of, number), times in counts.items() if of == kind]
    return pd.DataFrame(found, columns=["dataset", kind, "visits"]).sort_values(["dataset", kind], ignore_index=True)


def test_views_equal_pandas_and_join_with_the_catalogs(run: tuple[Path, Counts], catalogs: Path) -> None:
    folder, truth = run
    for view, kind in (("visited_sequences", "sequence"), ("visited_frames", "frame_id")):
        found = stats(sql=f"SELECT * FROM {view} ORDER BY ALL", catalogs=catalogs, run=folder)
        assert found.columns.tolist() == ["dataset", kind, "visits"]
        pd.testing.assert_frame_equal(found, as_frame(truth, kind), check_dtype=False)
        one = stats(sql=f"SELECT DISTINCT dataset FROM {view}", catalogs=catalogs, run=folder, dataset="megadepth")
        assert one["dataset"].tolist() == ["megadepth"]
    query = """
    SELECT dataset, scene, sum(visits)::BIGINT AS visits FROM visited_frames JOIN frames USING (dataset, frame_id)
    GROUP BY ALL ORDER BY ALL
    """
    names = [path.parent.name for path in catalogs.glob("*/frames.parquet")]
    frames = pd.concat([catalog.read_frames(name, catalogs=catalogs) for name in names])
    frames = frames.reset_index(drop=True).astype({"dataset": str, "scene": str})
    joined = as_frame(truth, "frame_id").merge(frames, on=["dataset", "frame_id"])
    expected = joined.groupby(["dataset", "scene"], as_index=False)["visits"].sum()
    pd.testing.assert_frame_equal(stats(sql=query, catalogs=catalogs, run=folder), expected, check_dtype=False)


def check_topic(found: pd.DataFrame, truth: Counts, known: dict[tuple[str, str], int]) -> None:
    order = sorted(known, key=lambda key: (key[0], key[1] == "frames"))
    assert list(zip(found["dataset"], found["of"], strict=True)) == order
    for row in found.itertuples():
        column = "sequence" if row.of == "seqs" else "frame_id"
        most_first = sorted((n for (name, of, _), n in truth.items() if (name, of) == (row.dataset, column)))[::-1]
        assert (row.visits, row.distinct) == (sum(most_first), len(most_first))
        assert row.share == round(len(most_first) / known[row.dataset, row.of], 3)
        if not most_first:
            assert all(pd.isna(value) for value in (row.fewest, row.median, row.most, row.tenth))
            continue
        assert (row.fewest, row.most) == (most_first[-1], most_first[0])
        assert row.median == statistics.median_low(most_first)
        assert row.tenth == round(sum(most_first[: math.ceil(len(most_first) / 10)]) / sum(most_first), 3)


def test_the_topic_equals_counting(run: tuple[Path, Counts], catalogs: Path) -> None:
    folder, truth = run
    known = {}
    for path in catalogs.glob("*/frames.parquet"):
        known[path.parent.name, "frames"] = len(catalog.read_frames(path.parent.name, catalogs=catalogs))
        known[path.parent.name, "seqs"] = len(catalog.read_sequences(path.parent.name, catalogs=catalogs))
    found = stats("visits", catalogs=catalogs, run=folder)
    check_topic(found, truth, known)
    pd.testing.assert_frame_equal(stats("exposure", catalogs=catalogs, run=folder), found)
    pd.testing.assert_frame_equal(stats(catalogs=catalogs, run=folder), found)
    assert "covered" in stats("exposure", catalogs=catalogs)  # without a run, what mining made likely


@pytest.mark.parametrize("num", [1, 9, 10, 11, 200])
def test_the_topic_of_skewed_visits(tmp_path: Path, num: int) -> None:
    times = (rng.unit(rng.words(rng.key(num), num)) ** -1.5).astype(np.int64)
    truth, ids = Counts(), np.arange(num, dtype=np.int32)
    for first in (1, 2):
        for number in range(num):
            truth["d", "frame_id", number] += int(times[number])
        columns = {"dataset": ["d"] * num, "frame_id": ids, "visits": times}
        catalog.write(EXPOSURE, catalog.build(EXPOSURE, columns), exposure_path(tmp_path / "run", first, first))
    constant = {"dataset": "d", "scene": "s", "frame": 0, "path": "p", "status": "ok"}
    frames = {"frame_id": range(2 * num), **{name: [value] * 2 * num for name, value in constant.items()}}
    catalog.write(FRAMES, catalog.build(FRAMES, frames), tmp_path / "catalogs/d/frames.parquet")
    found = stats("visits", catalogs=tmp_path / "catalogs", run=tmp_path / "run")
    check_topic(found, truth, {("d", "frames"): 2 * num})


def test_a_dataset_without_a_catalog_is_shown_without_a_share(
    tmp_path: Path, run: tuple[Path, Counts], catalogs: Path
) -> None:
    shutil.copytree(catalogs / "megadepth", tmp_path / "megadepth")
    found = stats("visits", catalogs=tmp_path, run=run[0]).set_index(["dataset", "of"])
    assert found.loc[("megadepth", "frames"), "share"] > 0
    assert pd.isna(found.loc[("imagenet", "frames"), "share"])
    assert found.loc[("imagenet", "frames"), "visits"] > 0


# ---- the command


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str, int]:
    """Run `mumdata stats`; returns what it printed and its exit status."""
    monkeypatch.setattr(sys, "argv", ["mumdata", "stats", *words])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out = capsys.readouterr()
    return out.out, out.err, int(ended.value.code or 0)


def test_the_command(
    run: tuple[Path, Counts], catalogs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, truth = run
    out, err, _ = command(monkeypatch, capsys, "exposure", "--run", str(folder), "--catalogs", str(catalogs))
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80
    assert "most visited" in out.replace("\n", " ")
    query = "SELECT sum(visits)::BIGINT AS n FROM visited_frames"
    out, _, _ = command(
        *(monkeypatch, capsys, "--run", str(folder), "--catalogs", str(catalogs), "--sql", query, "--format", "csv")
    )
    assert out.split() == ["n", str(sum(n for (_, kind, _), n in truth.items() if kind == "frame_id"))]


def test_what_is_missing_is_said(
    tmp_path: Path, catalogs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--catalogs", str(catalogs)]
    _, err, status = command(monkeypatch, capsys, "visits", *where)
    assert (status, "--run" in err) == (1, True)
    _, err, status = command(monkeypatch, capsys, "visits", "--run", str(tmp_path / "nothing"), *where)
    assert (status, "is no folder" in err) == (1, True)
    _, err, status = command(monkeypatch, capsys, "visits", "--run", str(tmp_path), *where)
    assert (status, "holds no visits; 'mumtrain pretrain'" in err) == (1, True)
    exposure_path(tmp_path, 1, 2).parent.mkdir()
    exposure_path(tmp_path, 1, 2).write_bytes(b"PAR1 and no more")
    _, err, status = command(monkeypatch, capsys, "visits", "--run", str(tmp_path), *where)
    assert (status, "is not a whole Parquet file" in err) == (1, True)


def test_catalogs_that_are_not_the_runs_are_told(run: tuple[Path, Counts], catalogs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    assert doubts(folder, catalogs) == []
    (folder / "run.json").unlink()
    assert doubts(folder, catalogs) == []  # the mix beside the catalogs is the run's
    other = tmp_path / "catalogs"
    shutil.copytree(catalogs, other)
    (other / "mix.parquet").unlink()
    for text in (None, "no json", "[]", '{"mix": 3}', '{"mix": "gone.parquet"}', json.dumps({"mix": "x" * 5000})):
        if text is not None:
            (folder / "run.json").write_text(text)
        (line,) = doubts(folder, other)
        assert "whether frame_ids mean the frames of these catalogs is not known" in line
    (folder / "run.json").write_text(json.dumps({"mix": str(catalogs / "mix.parquet")}))
    assert doubts(folder, other) == []
    # one frame less in one, and one that is gone
    table = catalog.read(FRAMES, other / "megadepth/frames.parquet")
    catalog.write(FRAMES, table.slice(0, table.num_rows - 1), other / "megadepth/frames.parquet")
    shutil.rmtree(other / "imagenet")
    (line,) = doubts(folder, other)
    assert "(imagenet: not there, megadepth: frames)" in line
    assert "\n" not in line
    assert doubts(folder, other, "realestate10k") == []
    # a mix that was made anew in its place is not the run's
    table = catalog.read(MIX, catalogs / "mix.parquet")
    catalog.write(MIX, table.slice(0, 1), other / "mix.parquet")
    (folder / "run.json").write_text(json.dumps({"mix": str(other / "mix.parquet")}))
    (line,) = doubts(folder, other)
    assert "is not known" in line


def test_visits_are_of_one_row_a_frame_in_a_large_file(tmp_path: Path) -> None:
    """Several row groups, and ids with gaps."""
    num = 150_000
    ids = (np.arange(num, dtype=np.int64) * 3).astype(np.int32)
    ledger = Ledger(("a", "b"))
    frames = np.stack([np.arange(num) % 2, ids], axis=1).astype(np.int32).reshape(1, num, 2)
    batch = Batch(0, 0, num, (Drawn(1, 2**21, ids),))
    ledger.add(0, Loaded(batch, np.empty(0, np.uint8), frames))
    visits = ledger.take()
    for step in range(1, 4):
        write_exposure(tmp_path, step, step, [visits, visits], mix_of("a", "b"))
    compact_exposure(tmp_path, max_files=2)
    (merged, _) = exposure_files(tmp_path)
    found = catalog.read(EXPOSURE, merged.path).to_pandas()
    assert pq.ParquetFile(merged.path).num_row_groups > 1
    assert found["visits"].eq(4).all()
    assert found["sequence"].dropna().tolist() == [2**21]
    for name, first in (("a", 0), ("b", 1)):
        own = found[(found["dataset"] == name) & found["frame_id"].notna()]
        assert np.array_equal(own["frame_id"].to_numpy(), ids[first::2])


def test_a_deep_run_json_names_no_mix(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[" * 200_000)
    assert _named_mix(tmp_path) is None
