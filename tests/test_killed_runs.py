"""Runs that are killed at any moment, also while a checkpoint is being written: they end as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mumdata import rng
from mumdata.catalog import open_mix
from mumtrain.checkpoint import list_checkpoints, load_checkpoint
from mumtrain.config import Config, apply
from mumtrain.recipes import recipe
from mumtrain.sampler import open_sampler
from tests.test_train import THIN, assert_same, metrics

# checkpoints take longer than steps, so that many kills fall into the writing of one
SETS = [*THIN, "steps=60", "checkpoint.every=2", "log.every=5", "model.encoder.width=192", "model.decoder.width=192"]
NUM_KILLS = 20


def config() -> Config:
    return apply(recipe("debug-cpu"), SETS)


def start(mix: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    sets = [word for one in SETS for word in ("--set", one)]
    words = ["pretrain", str(mix), "--recipe", "debug-cpu", *sets, "--out", str(out), "--device", "cpu", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(out.parent / f"{out.name}.log", "ab") as log:
        return subprocess.Popen([sys.executable, "-m", "mumtrain", *words], stdout=log, stderr=log, env=environment)


def visits(run: Path) -> list[tuple[str, int | None, int | None, int]]:
    import duckdb

    files = f"read_parquet('{run}/exposure/*.parquet')"
    rows = duckdb.sql(
        f"SELECT dataset::VARCHAR, sequence, frame_id, sum(visits)::BIGINT FROM {files} GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    return [(str(name), sequence, frame, int(num)) for name, sequence, frame, num in rows]


@pytest.mark.slow
def test_killed_twenty_times(mix_path: Path, tmp_path: Path) -> None:
    straight, torn = tmp_path / "straight", tmp_path / "torn"
    since = time.monotonic()
    assert start(mix_path, straight).wait(300) == 0
    whole_s = time.monotonic() - since
    halves = 0
    for kill in range(NUM_KILLS):
        process = start(mix_path, torn, "--resume")
        moment = (0.3 + rng.fraction(rng.key("kill", kill)) * 0.9) * whole_s / 2
        if kill % 3 == 0:  # as soon as a checkpoint is being written
            folder, until = torn / "checkpoints", time.monotonic() + moment + whole_s
            while not list(folder.glob(".step-*.tmp")) and process.poll() is None and time.monotonic() < until:
                time.sleep(0.0005)
        else:
            time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        halves += bool(list((torn / "checkpoints").glob(".step-*.tmp")))
        for path in list_checkpoints(torn):
            load_checkpoint(path)  # whatever has its name is whole
        if (torn / "checkpoints" / "step-00000060.pt").exists():
            # done early: what is left of the kills falls on the last third of it
            for path in list_checkpoints(torn):
                path.unlink()
            (torn / "checkpoints").rmdir()
    assert halves >= 3
    assert start(mix_path, torn, "--resume").wait(300) == 0
    one, other = load_checkpoint(straight), load_checkpoint(torn)
    assert one.step == other.step == 60
    assert_same(one.model, other.model)
    assert_same(one.optimizer, other.optimizer)
    assert_same(one.tally, other.tally)
    assert metrics(straight) == metrics(torn)
    assert visits(straight) == visits(torn)
    sampler, drawn = open_sampler(open_mix(mix_path), config()), 0
    for step in range(60):
        drawn += len(sampler.batch(step, 0).sequences)
    assert sum(num for _, sequence, _, num in visits(torn) if sequence is not None) == drawn
    starts = [json.loads(line) for line in (torn / "history.jsonl").read_text().splitlines()]
    assert len(starts) >= NUM_KILLS // 2
    assert any(start["step"] > 0 for start in starts)
    assert all(torch.isfinite(weights).all() for weights in other.model.values())


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop_at_any_moment(asked: signal.Signals, mix_path: Path, tmp_path: Path) -> None:
    """Status 75 each time, also where the program has only begun to load; then the same end as a run left alone."""
    straight, torn = tmp_path / "straight", tmp_path / "torn"
    assert start(mix_path, straight).wait(300) == 0
    statuses = []
    for number, moment in enumerate((1.0, 2.5, 4.0, 5.5)):
        process = start(mix_path, torn, "--resume")
        time.sleep(moment)
        process.send_signal(asked)
        statuses.append(process.wait(60))
        if statuses[-1] == 0:
            break
        assert statuses[-1] == 75, (number, (tmp_path / "torn.log").read_text())
    assert statuses.count(75) >= 1
    assert start(mix_path, torn, "--resume").wait(300) == 0
    assert_same(load_checkpoint(straight).model, load_checkpoint(torn).model)
    assert metrics(straight) == metrics(torn)


@pytest.mark.slow
def test_torchrun(mix_path: Path, tmp_path: Path) -> None:
    """As users start it; a rank that dies ends the whole within seconds."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    torchrun += ["--rdzv-endpoint=127.0.0.1:0", "-m", "mumtrain", "pretrain", str(mix_path), "--recipe", "debug-cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    sets = [word for one in [*SETS, "data.slots=2"] for word in ("--set", one)]
    done = subprocess.run(
        [*torchrun, *sets, "--out", str(tmp_path / "run")], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path / "run")]
    assert load_checkpoint(tmp_path / "run").made_by["ranks"] == "2"
    endless = [*sets, "--set", "steps=100000", "--out", str(tmp_path / "endless")]
    job = subprocess.Popen([*torchrun, *endless], env=environment, stderr=subprocess.PIPE, text=True)
    history = tmp_path / "endless" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not history.exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    since = time.monotonic()
    _, told = job.communicate(timeout=60)
    assert time.monotonic() - since < 40
    assert job.returncode != 0
    assert "another rank has ended" in told or "SIGKILL" in told or "-9" in told
