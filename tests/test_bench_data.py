"""The bench of the data path: every dataset and number of processes is really measured."""

from __future__ import annotations

import importlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mumdata.catalog import open_mix
from mumdata.errors import ConfigError
from mumtrain import cli
from mumtrain.bench_data import REACHED, DataBench, Rate, bench_data
from mumtrain.flops import slot_flops
from mumtrain.recipes import recipe

# the package's attribute of that name is the function
_MODULE = importlib.import_module("mumtrain.bench_data")


def test_each_dataset_size_and_number_of_processes_is_measured(mix_path: Path) -> None:
    found = bench_data(
        mix_path, recipe="debug-cpu", set=["data.views_max=2"], workers=[0, 1], sizes=[96, 48], seconds=0.05
    )
    names = [dataset.name for dataset in open_mix(mix_path).datasets]
    assert [(cost.dataset, cost.size) for cost in found.frames] == [(name, size) for name in names for size in (96, 48)]
    for cost in found.frames:
        assert cost.place == "file"
        assert 0 < cost.view_ms < 1000
        assert 0 <= cost.read_ms < 1000
        assert cost.core_ms > 0
        assert 16 <= cost.height <= cost.width <= 200
    # three datasets share the slots of two views, each as large as one of single images
    shares = {cost.dataset: cost.share for cost in found.frames}
    assert shares == pytest.approx(dict.fromkeys(names, 0.25))
    assert [rate.workers for rate in found.rates] == [0, 1]
    assert all(rate.frames_per_s > 1 and rate.first_batch_s > 0 for rate in found.rates)
    none, one = (rate.private_mb for rate in found.rates)
    assert none is None
    assert one is not None
    assert 1 < one < 500
    # a core of this machine, and the device's frames, both from their definitions
    config = recipe("debug-cpu")
    flops = 0.25 * slot_flops(config, 16, 1) + 0.75 * slot_flops(config, 8, 2)
    assert found.gpu_frames_per_s == pytest.approx(REACHED * 989e12 / (flops / 16))
    mean_ms = sum(cost.core_ms for cost in found.frames if cost.size == 96) / 4
    assert found.cores_needed == pytest.approx(found.gpu_frames_per_s * mean_ms / 1000)
    best = max(rate.frames_per_s for rate in found.rates)
    assert found.cores_by_rate == pytest.approx(found.gpu_frames_per_s / best)
    assert found.best_workers == 1


def told(by_time: float, by_rate: float) -> str:
    found = DataBench(
        mix="m",
        recipe="debug-cpu",
        size=96,
        frames=(),
        rates=(),
        gpu="H200",
        gpu_frames_per_s=1000,
        cores_needed=by_time,
        cores_by_rate=by_rate,
        best_workers=2,
    )
    return " ".join(line for lines, _ in found.tables() for line in lines)


def test_two_estimates_that_do_not_agree_are_told() -> None:
    for by_time, by_rate, warns in ((0.7, 1.5, True), (1.5, 0.7, True), (4.0, 4.9, False), (4.9, 4.0, False)):
        text = told(by_time, by_rate)
        assert f"take {by_time} cores like these by the processor time of a frame, {by_rate} by the frames" in text
        assert ("warning: the two differ" in text) == warns


@pytest.mark.parametrize(
    ("rates", "fed", "best"),
    [
        ([(0, 900), (1, 400), (2, 800), (4, 1500)], 700, 2),  # the fewest that suffice, in processes of their own
        ([(0, 900), (1, 400), (2, 800), (4, 700)], 5000, 2),  # else those that deliver most
        ([(0, 900)], 5000, 0),
    ],
)
def test_as_few_processes_as_feed_the_device_are_suggested(rates: list[tuple[int, int]], fed: int, best: int) -> None:
    made = [Rate(workers=num, frames_per_s=rate, first_batch_s=1, private_mb=None) for num, rate in rates]
    assert _MODULE._best(made, fed) == best


def test_private_memory_is_what_a_process_has_written_for_itself() -> None:
    code = (
        "import mmap, os, sys\n"
        "megabyte = b'x' * 1_000_000\n"
        "mine = bytearray(megabyte * int(sys.argv[1]))\n"
        "number, size = os.memfd_create('mumtrain-views'), 1_000_000 * int(sys.argv[2])\n"
        "os.ftruncate(number, size)\n"
        "ring = mmap.mmap(number, size)\n"
        "for _ in range(int(sys.argv[2])): ring.write(megabyte)\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    found = []
    for mine, ring in ((40, 1), (40, 60), (80, 1)):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(mine), str(ring)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            found.append(_MODULE._private_mb(process.pid))
            process.communicate()
    few, same, more = found
    # pages of the ring, though only this process has come across them, are not its own
    assert same == pytest.approx(few, abs=4)
    assert more - few == pytest.approx(40, abs=4)
    assert _MODULE._private_mb(2**22 + 1) is None


def test_as_json_and_as_a_table(
    mix_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for format in ("json", "table"):
        cli.bench_data(mix_path, recipe="debug-cpu", workers=[0], seconds=0.05, format=format)
    out = capsys.readouterr().out
    told, end = json.JSONDecoder().raw_decode(out)
    assert [row["dataset"] for row in told["frames"]] == [d.name for d in open_mix(mix_path).datasets]
    table = out[end:]
    assert all(len(line) <= 80 for line in table.splitlines() if str(mix_path) not in line)
    assert "H200: " in table
    assert "frames/s" in table
    words = shlex.split(table[table.index("next: ") :].removeprefix("next: ").replace("\\\n", " "))
    assert words[:5] == ["mumtrain", "pretrain", str(mix_path), "--recipe", "debug-cpu"]
    assert words[5:] == ["--set", "data.workers=0"]


def test_bad_options(mix_path: Path) -> None:
    with pytest.raises(ConfigError, match="H100"):
        bench_data(mix_path, recipe="debug-cpu", gpu="H10")
    with pytest.raises(ConfigError, match="seconds"):
        bench_data(mix_path, recipe="debug-cpu", seconds=0)
    with pytest.raises(ConfigError, match="workers"):
        bench_data(mix_path, recipe="debug-cpu", workers=[-2])
