"""The bench of the data path: every dataset and number of processes is really measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mumdata.catalog import open_mix
from mumdata.errors import ConfigError
from mumtrain import cli
from mumtrain.bench_data import REACHED, bench_data
from mumtrain.flops import slot_flops
from mumtrain.recipes import recipe


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
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "H200: " in table
    assert "frames/s" in table


def test_bad_options(mix_path: Path) -> None:
    with pytest.raises(ConfigError, match="H100"):
        bench_data(mix_path, recipe="debug-cpu", gpu="H10")
    with pytest.raises(ConfigError, match="seconds"):
        bench_data(mix_path, recipe="debug-cpu", seconds=0)
    with pytest.raises(ConfigError, match="workers"):
        bench_data(mix_path, recipe="debug-cpu", workers=[-2])
